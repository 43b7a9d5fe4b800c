//! Who has the journal and the pins that belong to a vault: said by a head in it, so that no other data directory goes on from
//! an older state, or collects what is pinned elsewhere.

use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Name, Result,
    heads::{Heads, Swap, Version},
};
use serde::{Deserialize, Serialize};

const OP: &str = "vault.claim";
const NAME: &[u8] = b"writer";
/// All heads of a vault have some KiB together: so much of the place is told, in characters.
const PLACE_LEN_MAX: usize = 200;

/// Who has a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// Ascends whenever another data directory takes it.
    pub(crate) generation: u64,
    /// Which data directory.
    writer: String,
    /// Where that is, for people.
    place: String,
    /// Whether nothing is there any more that is not in the vault.
    is_given_back: bool,
    /// Whether it was taken from one that did not give it back: what that one had pinned nobody knows.
    #[serde(default)]
    pub(crate) is_taken_over: bool,
}

/// What a data directory can have, and has when it takes it.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) claim: Claim,
    /// Whether it has it already: what is there counts.
    pub(crate) is_held: bool,
    known: Option<Version>,
}

impl Offer {
    /// Says that this data directory has the vault from now on.
    ///
    /// # Errors
    /// `Unavailable` where another was faster; those of the heads.
    pub(crate) async fn take(self, heads: &dyn Heads) -> Result<Claim> {
        if !self.is_held {
            let swapped = heads.swap(&Name::new(NAME)?, self.known.as_ref(), self.claim.encode()?).await?;
            if !matches!(swapped, Swap::Done(_)) {
                let why = "another took this vault at the same moment: try again";
                return Err(Error::new(ErrorKind::Unavailable, OP).because(why));
            }
        }
        Ok(self.claim)
    }
}

impl Claim {
    /// Who has a vault, or had it last.
    ///
    /// # Errors
    /// Those of the heads; `Corrupt`.
    pub(crate) async fn load(heads: &dyn Heads) -> Result<Option<Self>> {
        let found = heads.load(&Name::new(NAME)?).await?;
        found.map(|(bytes, _)| Self::decode(&bytes)).transpose()
    }

    /// Whether something is in a data directory alone.
    pub(crate) fn is_held(&self) -> bool {
        !self.is_given_back
    }

    /// Whether it is that of a data directory.
    pub(crate) fn is_of(&self, writer: &str) -> bool {
        self.writer == writer
    }

    /// Where the data directory is, for people.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Finds out what the data directory `writer`, at `place`, can have; nothing is written.
    ///
    /// # Errors
    /// `Denied` where another has the vault, but with `takes_over`.
    pub(crate) async fn offered(heads: &dyn Heads, writer: &str, place: &str, takes_over: bool) -> Result<Offer> {
        let (known, version) = match heads.load(&Name::new(NAME)?).await? {
            Some((bytes, version)) => (Some(Self::decode(&bytes)?), Some(version)),
            None => (None, None),
        };
        let (generation, is_taken_over) = match known {
            Some(known) if known.is_of(writer) && known.is_held() => {
                return Ok(Offer { claim: known, is_held: true, known: version });
            }
            Some(known) if known.is_of(writer) => (known.generation, false),
            Some(known) if known.is_given_back || takes_over => (known.generation + 1, known.is_held()),
            Some(known) => {
                let why = format!(
                    "{} has the journal and the pins of this vault: open it with that one. Where that is lost, make an empty file \
                     take-over in the directory mounts/PREFIX of this one: what was not committed there is given up then",
                    known.place
                );
                return Err(Error::new(ErrorKind::Denied, OP).because(why));
            }
            None => (1, false),
        };
        let claim = Self {
            generation,
            writer: writer.into(),
            place: place.chars().take(PLACE_LEN_MAX).collect(),
            is_given_back: false,
            is_taken_over,
        };
        Ok(Offer { claim, is_held: false, known: version })
    }

    /// Says that others may have the vault: nothing is in this data directory alone.
    ///
    /// # Errors
    /// Those of the heads.
    pub(crate) async fn give_back(&self, heads: &dyn Heads) -> Result<()> {
        let name = Name::new(NAME)?;
        match heads.load(&name).await? {
            Some((bytes, version)) if Self::decode(&bytes)? == *self => {
                let given_back = Self { is_given_back: true, ..self.clone() };
                // Whoever was faster has it.
                heads.swap(&name, Some(&version), given_back.encode()?).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn encode(&self) -> Result<Bytes> {
        let text = serde_json::to_vec(self).map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?;
        Ok(text.into())
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| Error::new(ErrorKind::Corrupt, OP).because(error))
    }
}

#[cfg(test)]
mod tests {
    use muxfs::heads::MemHeads;

    use super::*;

    #[tokio::test]
    async fn one_has_it_until_it_is_given_back_or_taken_over() {
        let heads = MemHeads::default();
        let take =
            async |writer, takes_over| Claim::offered(&heads, writer, "here", takes_over).await?.take(&heads).await;
        assert_eq!(Claim::load(&heads).await.expect("loaded"), None);
        let slower = Claim::offered(&heads, "two", "here", false).await.expect("nobody has it");
        let first = take("one", false).await.expect("nobody has it");
        assert!(first.is_held() && first.is_of("one") && first.place() == "here");
        assert_eq!(slower.take(&heads).await.expect_err("one was faster").kind(), ErrorKind::Unavailable);
        assert_eq!(Claim::load(&heads).await.expect("loaded").as_ref(), Some(&first));
        assert_eq!(take("one", false).await.expect("the same"), first);
        assert_eq!(take("two", false).await.expect_err("one has it").kind(), ErrorKind::Denied);
        first.give_back(&heads).await.expect("given back");
        assert_eq!(take("one", false).await.expect("again").generation, 1, "its journal is the newest");
        first.give_back(&heads).await.expect("given back");
        let second = take("two", false).await.expect("given back");
        assert_eq!(second.generation, 2, "the journal of another is none of this one's");
        assert!(!second.is_taken_over, "nothing was pinned there");
        assert_eq!(take("one", false).await.expect_err("two has it").kind(), ErrorKind::Denied);
        let third = take("one", true).await.expect("taken over");
        assert_eq!((third.generation, third.is_taken_over), (3, true));
        assert!(take("one", false).await.expect("the same").is_taken_over, "it may have stopped before it knew");
        second.give_back(&heads).await.expect("nothing to give back");
        assert_eq!(take("two", false).await.expect_err("one has it").kind(), ErrorKind::Denied);
    }
}
