//! What this machine remembers of a vault, so that an older state is not taken for the current one.
//!
//! A head of its own, in a place that whoever keeps the vault cannot write to: 16 bytes that say which vault, its epoch, and
//! the BLAKE3 of its head. Spec: spec/vault.md #epochs.

use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Name, Result,
    heads::{Heads, Swap},
};

use crate::{head::GONE, superblock::Superblock, wire::Reader};

const LEN: usize = 16 + 8 + 32;

fn encode(superblock: &Superblock, head: &[u8]) -> Bytes {
    let hash = blake3::hash(head);
    [&superblock.id[..], &superblock.epoch.to_le_bytes(), hash.as_bytes()].concat().into()
}

/// Holds a head against what is remembered; whoever remembers nothing believes it.
///
/// # Errors
/// `Corrupt` where a newer one was seen, or another one of the same epoch, or one of another vault.
pub(crate) async fn check(memory: &dyn Heads, name: &Name, superblock: &Superblock, head: &[u8]) -> Result<()> {
    let Some((known, _)) = memory.load(name).await? else { return Ok(()) };
    let epoch = epoch_of(&known, superblock, head)?;
    if epoch > superblock.epoch {
        let why =
            format!("the vault is of epoch {}, and epoch {epoch} was seen here: it was rolled back", superblock.epoch);
        return refuse(why);
    }
    Ok(())
}

fn refuse<T>(why: String) -> Result<T> {
    Err(Error::new(ErrorKind::Corrupt, "vault.open").because(why))
}

/// The epoch that is remembered, of the same vault.
fn epoch_of(known: &[u8], superblock: &Superblock, head: &[u8]) -> Result<u64> {
    if *known == GONE[..] {
        return refuse("the vault of that name was destroyed, and is there again: somebody put it back".into());
    }
    if known.len() != LEN {
        return refuse("what is remembered of the vault is damaged".into());
    }
    let mut reader = Reader(known);
    let (id, epoch) = (reader.array::<16>()?, u64::from_le_bytes(reader.array()?));
    if id != superblock.id {
        return refuse("another vault is in the place of the one that is remembered here".into());
    }
    if epoch == superblock.epoch && known != encode(superblock, head) {
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
pub(crate) async fn remember(memory: &dyn Heads, name: &Name, superblock: &Superblock, head: &[u8]) -> Result<()> {
    for _ in 0..10 {
        let known = memory.load(name).await?;
        if let Some((known, _)) = known.as_ref().filter(|(known, _)| *known != GONE[..])
            && epoch_of(known, superblock, head)? >= superblock.epoch
        {
            return Ok(());
        }
        let expected = known.as_ref().map(|(_, version)| version);
        match memory.swap(name, expected, encode(superblock, head)).await? {
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
