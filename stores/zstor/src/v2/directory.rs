//! The four namespaces that have the metadata, in user mode: of each value each has a part, and any two give it back.
//!
//! A part is the number of the part (a byte), a shard of the encrypted value, and the shard's checksum. It says itself
//! which part it is, since zstor v2 puts it on another of the four when it replaces one. A write that failed may leave
//! parts of two values: any pair is tried that is there, and only what its tag calls whole is believed.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use muxfs::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::{
    backend::{Backend, Mode},
    checksum::{CHECKSUM_LEN, Checksum},
    config::{Config, META_COUNT, MetaKey},
    key::{DataKey, NONCE_LEN},
    shards::Code,
};

/// So many parts give a value back.
const DATA_COUNT: usize = 2;

/// The four namespaces.
#[derive(Debug)]
pub(super) struct Directory {
    backends: Vec<Arc<Backend>>,
    /// What values are encrypted with, and what else they may have been.
    keys: [DataKey; 2],
}

/// A part of a value that is what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    index: usize,
    shard: Bytes,
}

impl Part {
    fn parse(value: &Bytes) -> Option<Self> {
        let end = value.len().checked_sub(CHECKSUM_LEN).filter(|end| *end > 1)?;
        let (index, shard) = (usize::from(*value.first()?), value.slice(1..end));
        let is_whole = index < META_COUNT && Checksum::of(&shard).0[..] == value[end..];
        is_whole.then_some(Self { index, shard })
    }
}

fn code() -> Result<Code> {
    Code::new(DATA_COUNT, META_COUNT - DATA_COUNT)
}

/// The parts of a value, one for each namespace.
pub(super) fn cut(value: &[u8], key: &DataKey, nonce: [u8; NONCE_LEN]) -> Result<Vec<Vec<u8>>> {
    let mut sealed = [&[0; NONCE_LEN][..], value].concat();
    key.seal(nonce, &mut sealed);
    let part = |(index, shard): (u8, Bytes)| [&[index][..], &shard, &Checksum::of(&shard).0].concat();
    Ok((0..).zip(code()?.split(sealed)?).map(part).collect())
}

/// Puts a value together from two of its parts.
///
/// # Errors
/// `BadKey` where no key opens it.
fn join(parts: &[Part], keys: &[DataKey]) -> Result<Zeroizing<Vec<u8>>> {
    let pairs = (0..parts.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
    for (first, second) in pairs {
        let (first, second) = (&parts[first], &parts[second]);
        if first.index == second.index {
            continue;
        }
        let mut shards = vec![None; META_COUNT];
        for part in [first, second] {
            shards[part.index] = Some(part.shard.to_vec());
        }
        // Of two values that were written one after the other.
        let Ok(sealed) = code()?.join(shards) else { continue };
        for key in keys {
            let mut opened = Zeroizing::new(sealed.clone());
            if let Some(range) = key.open(&mut opened) {
                opened.truncate(range.end);
                opened.drain(..range.start);
                return Ok(opened);
            }
        }
    }
    let why = "its metadata is not encrypted with a key of this configuration: is [encryption] key the one that it was stored with?";
    Err(Error::new(ErrorKind::BadKey, "zstor.v2.metadata").because(why))
}

/// Puts a value together from what two of the namespaces have.
#[cfg(test)]
pub(super) fn open(values: &[Bytes], keys: &[DataKey]) -> Result<Zeroizing<Vec<u8>>> {
    let parts: Vec<Part> = values.iter().filter_map(Part::parse).collect();
    join(&parts, keys)
}

impl Directory {
    pub(super) fn new(config: &Config) -> Self {
        let backends = config.metas.iter().map(|info| Arc::new(Backend::new(info.clone(), Mode::User))).collect();
        Self { backends, keys: [config.key.clone(), config.meta_key.clone()] }
    }

    /// The value under a key; `None` where there is none.
    ///
    /// # Errors
    /// `Unavailable`, or the kind of whatever keeps all from being asked that cannot be, where too few of the four can be
    /// to know; `Corrupt` where too few parts are left; `BadKey`.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let ask = |backend: Arc<Backend>| async move { backend.get(key.as_bytes()).await };
        let mut asked: FuturesUnordered<_> = self.backends.iter().cloned().map(ask).collect();
        let (mut parts, mut absent_count, mut damaged_count) = (Vec::new(), 0, 0);
        let (mut unasked, mut refused) = (Vec::new(), None);
        while let Some(replied) = asked.next().await {
            match replied {
                Ok(Some(value)) if !value.is_empty() => match Part::parse(&value) {
                    Some(part) => parts.push(part),
                    None => damaged_count += 1,
                },
                Ok(_) => absent_count += 1,
                Err(error) => unasked.push(error),
            }
            if parts.len() >= DATA_COUNT {
                match join(&parts, &self.keys) {
                    Ok(value) => return Ok(Some(value)),
                    Err(error) => refused = Some(error),
                }
            }
            // Whoever is left has one part at most: nobody could read it.
            if absent_count > META_COUNT - DATA_COUNT {
                return Ok(None);
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        if parts.len() + unasked.len() >= DATA_COUNT {
            return Err(too_few(&unasked));
        }
        if parts.is_empty() && damaged_count == 0 {
            return Ok(None);
        }
        let why = format!(
            "of the four parts of its metadata {} are whole, {damaged_count} damaged and {absent_count} missing, and it takes two",
            parts.len()
        );
        Err(Error::new(ErrorKind::Corrupt, "zstor.v2.metadata").because(why))
    }

    /// Refuses unless all four can be asked, which a write takes.
    pub(super) async fn check_all(&self) -> Result<()> {
        let asked = join_all(self.backends.iter().map(|backend| backend.info())).await;
        let failed: Vec<Error> = asked.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { Err(not_all(&failed)) }
    }

    /// Puts a value under a key, on all four. Where that fails and there was none, what was put is removed again; where there
    /// was one, some of the four may have parts of each until it is put again.
    pub(super) async fn write(&self, key: &str, value: &[u8], nonce: [u8; NONCE_LEN], is_new: bool) -> Result<()> {
        let [data_key, _] = &self.keys;
        let parts = cut(value, data_key, nonce)?;
        let put = self.backends.iter().zip(&parts).map(|(backend, part)| backend.set(key.as_bytes(), part));
        let failed: Vec<Error> = join_all(put).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            return Ok(());
        }
        if is_new {
            // As far as that can be done: it is told that it failed, either way.
            join_all(self.backends.iter().map(|backend| backend.delete(key.as_bytes()))).await;
        }
        Err(not_all(&failed))
    }

    /// The keys of all metadata that any of the four tells of, and why the others do not.
    ///
    /// # Errors
    /// Where fewer than two can be asked: nothing that they have could be read.
    pub(super) async fn keys(&self, config: &Config) -> Result<(BTreeSet<MetaKey>, Vec<Error>)> {
        let list = |backend: Arc<Backend>| async move {
            let mut keys = BTreeSet::new();
            backend.keys(|key| keys.extend(config.parse_key(key))).await.map(|()| keys)
        };
        let (mut keys, mut failed) = (BTreeSet::new(), Vec::new());
        for listed in join_all(self.backends.iter().cloned().map(list)).await {
            match listed {
                Ok(mut listed) => keys.append(&mut listed),
                Err(error) => failed.push(error),
            }
        }
        if failed.len() > META_COUNT - DATA_COUNT { Err(too_few(&failed)) } else { Ok((keys, failed)) }
    }
}

/// Why some of the four were not asked, by their kind where that is one.
fn told(failed: &[Error], what: &str) -> Error {
    let kind = failed.first().map_or(ErrorKind::Unavailable, Error::kind);
    let kind = if failed.iter().all(|error| error.kind() == kind) { kind } else { ErrorKind::Unavailable };
    let each: Vec<String> = failed.iter().map(|error| format!("{error:#}")).collect();
    Error::new(kind, "zstor.v2.metadata").because(format!("{what}: {}", each.join("; ")))
}

fn too_few(failed: &[Error]) -> Error {
    told(failed, "it takes two of the four metadata backends, [[meta.config.backends]], and these cannot be asked")
}

fn not_all(failed: &[Error]) -> Error {
    told(failed, "zstor v2 writes metadata to all four of its metadata backends, and these cannot be written")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> [DataKey; 2] {
        [DataKey::new([1; 32]), DataKey::new([2; 32])]
    }

    fn parts(value: &[u8], nonce: u8) -> Vec<Part> {
        let cut = cut(value, &keys()[1], [nonce; NONCE_LEN]).expect("cut");
        cut.into_iter().map(|part| Part::parse(&part.into()).expect("whole")).collect()
    }

    #[test]
    fn any_two_parts_give_the_value_and_either_key_opens_it() {
        let all = parts(b"value", 1);
        for first in 0..4 {
            for second in 0..4 {
                let two = [all[first].clone(), all[second].clone()];
                let joined = join(&two, &keys());
                match joined {
                    Ok(value) => assert!(first != second && *value == b"value"),
                    Err(error) => assert!(first == second && error.kind() == ErrorKind::BadKey),
                }
            }
        }
        assert_eq!(join(&all, &[DataKey::new([3; 32])]).expect_err("another key").kind(), ErrorKind::BadKey);
    }

    /// A write that failed half way left two parts of each value: one of the two is read, and never a mixture.
    #[test]
    fn parts_of_two_values_are_not_mixed() {
        let (old, new) = (parts(b"the old value", 1), parts(b"the new value", 2));
        let mixed = [new[0].clone(), old[2].clone(), new[1].clone(), old[3].clone()];
        assert_eq!(*join(&mixed, &keys()).expect("one of them"), b"the new value");
        join(&mixed[..2], &keys()).expect_err("one part of each");
    }

    proptest! {
        #[test]
        fn what_is_no_part_is_refused(
            value in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            bit in 0..8u32,
            noise in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let part = cut(&value, &keys()[0], [0; NONCE_LEN]).expect("cut").swap_remove(1);
            let mut flipped = part.clone();
            let at = at.index(part.len());
            flipped[at] ^= 1 << bit;
            // The number of the part has no checksum: with another it opens with none.
            if let Some(flipped) = Part::parse(&flipped.into()) {
                prop_assert_eq!(at, 0);
                let other = cut(&value, &keys()[0], [0; NONCE_LEN]).expect("cut").swap_remove(2);
                let both = [flipped, Part::parse(&other.into()).expect("whole")];
                prop_assert!(join(&both, &keys()).is_err());
            }
            prop_assert_eq!(Part::parse(&noise.into()), None);
        }
    }
}
