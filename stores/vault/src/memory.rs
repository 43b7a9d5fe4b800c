//! What this machine remembers of a vault, so that an older state is not taken for the current one.
//!
//! A head of its own, in a place that whoever keeps the vault cannot write to: 16 bytes that say which vault, 16 that say which
//! master key, its epoch, and the BLAKE3 of its head. Spec: spec/vault.md #epochs.

use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Name, Result,
    heads::{Heads, Swap},
};

use crate::{
    head::GONE,
    keys::{KEYS_ID_LEN, Keys},
    superblock::Superblock,
    wire::Reader,
};

const LEN: usize = 16 + KEYS_ID_LEN + 8 + 32;

/// A head that was read, or is to be remembered.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) superblock: &'a Superblock,
    pub(crate) head: &'a [u8],
    pub(crate) keys: &'a Keys,
}

fn encode(Seen { superblock, head, keys }: Seen<'_>) -> Bytes {
    let hash = blake3::hash(head);
    [&superblock.id[..], &keys.id(), &superblock.epoch.to_le_bytes(), hash.as_bytes()].concat().into()
}

/// Holds a head against what is remembered; whoever remembers nothing believes it.
///
/// # Errors
/// `Corrupt` where a newer one was seen, or another one of the same epoch, or one of another vault, or under a newer master key.
pub(crate) async fn check(memory: &dyn Heads, name: &Name, seen: Seen<'_>) -> Result<()> {
    let Some((known, _)) = memory.load(name).await? else { return Ok(()) };
    let (epoch, is) = (epoch_of(&known, seen)?, seen.superblock.epoch);
    if epoch > is {
        let why = format!("the vault is of epoch {is}, and epoch {epoch} was seen here: it was rolled back");
        return refuse(why);
    }
    Ok(())
}

fn refuse<T>(why: String) -> Result<T> {
    Err(Error::new(ErrorKind::Corrupt, "vault.open").because(why))
}

/// The epoch that is remembered, of the same vault.
fn epoch_of(known: &[u8], seen: Seen<'_>) -> Result<u64> {
    let Seen { superblock, keys, .. } = seen;
    if *known == GONE[..] {
        return refuse("the vault of that name was destroyed, and is there again: somebody put it back".into());
    }
    if known.len() != LEN {
        return refuse("what is remembered of the vault is damaged".into());
    }
    let mut reader = Reader(known);
    let (id, keys_id, epoch) = (reader.array::<16>()?, reader.array()?, u64::from_le_bytes(reader.array()?));
    if id != superblock.id {
        return refuse("another vault is in the place of the one that is remembered here".into());
    }
    if keys_id != keys.id() && !superblock.past.contains(&keys_id) {
        return refuse("the vault is under another key than was seen here, which does not come after that one".into());
    }
    if epoch == superblock.epoch && known != encode(seen) {
        return refuse(format!(
            "the vault is another one of epoch {epoch} than was seen here: somebody went on from an older one"
        ));
    }
    Ok(epoch)
}

/// Remembers a head; where a newer one of the same vault is known by now, that stays.
///
/// # Errors
/// `Corrupt` where another vault is remembered, or another head of the same epoch.
pub(crate) async fn remember(memory: &dyn Heads, name: &Name, seen: Seen<'_>) -> Result<()> {
    for _ in 0..10 {
        let known = memory.load(name).await?;
        if let Some((known, _)) = known.as_ref().filter(|(known, _)| *known != GONE[..])
            && epoch_of(known, seen)? >= seen.superblock.epoch
        {
            return Ok(());
        }
        let expected = known.as_ref().map(|(_, version)| version);
        match memory.swap(name, expected, encode(seen)).await? {
            Swap::Done(_) => return Ok(()),
            Swap::Lost => {}
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "vault.flush").because("others remember something at the same time"))
}

/// Whether another vault may be made in the place.
pub(crate) async fn is_free(memory: &dyn Heads, name: &Name) -> Result<bool> {
    Ok(memory.load(name).await?.is_none_or(|(known, _)| known == GONE[..]))
}

/// Remembers that the vault is destroyed, if one was remembered: until another one is made there.
///
/// # Errors
/// `Unavailable` where others remember something at the same time; what the place says.
pub(crate) async fn forget(memory: &dyn Heads, name: &Name) -> Result<()> {
    for _ in 0..10 {
        let Some((known, version)) = memory.load(name).await? else { return Ok(()) };
        if known == GONE[..] {
            return Ok(());
        }
        match memory.swap(name, Some(&version), Bytes::from_static(GONE)).await? {
            Swap::Done(_) => return Ok(()),
            Swap::Lost => {}
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "vault.destroy").because("others remember something at the same time"))
}
