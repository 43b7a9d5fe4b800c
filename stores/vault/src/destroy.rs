//! Destroying a vault: everything it made in a store goes, which may have other things in it.
//!
//! First the head says that the vault is being destroyed, so that nobody opens the half of one; then the packs are deleted; and last
//! the head keeps nothing but that there is no vault any more. Whatever stops it, it is called again and goes on. Spec: spec/vault.md
//! #destroying.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use muxfs::{
    BlockKey, Error, ErrorKind, Result,
    heads::{Swap, Version},
};

use crate::{
    flush::Current,
    head::{GONE, Standing, standing, unlock},
    keys::{PACK_NAME_LEN, PackName},
    memory,
    open::AHEAD_COUNT,
    pack::{PACK_LEN_MAX, PACK_LEN_MIN},
    password::Password,
    state::State,
    vault::{Inner, Vault, VaultPlace, blocking},
};

const OP: &str = "vault.destroy";

/// What was destroyed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// Objects that were deleted.
    pub packs: u64,
    /// Objects of the store below that may have been packs of the vault, and were left, since nobody can tell without the password.
    pub left: u64,
}

/// What becomes of objects that nobody can tell from those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They stay. Without the head nobody can read them.
    Leave,
    /// All objects go that have the name and the length of a pack: for a store in which nobody else keeps such, no other vault either.
    Delete,
}

impl Vault {
    /// Destroys a vault: deletes its packs, and what is left of its past, and makes its head say that there is none. What is not
    /// of the vault stays. Durable when it returns; after an error, or a crash, it is no vault any more that could be opened, and the same
    /// call goes on. What was destroyed is destroyed again without an error. Whoever has it open is `Denied` from then on, and is
    /// better closed before: what such a one puts meanwhile may stay.
    ///
    /// Copies of its head that are kept elsewhere still open with their passwords; without its packs there is nothing behind them.
    ///
    /// # Errors
    /// `NotFound` where there is no vault; `BadKey` where the password is wrong, or the head was changed; `Unavailable` where another
    /// wrote the vault meanwhile; what the stores below say.
    pub async fn destroy(place: VaultPlace, password: &Password) -> Result<Destroyed> {
        let (bytes, mut version) = load_head(&place).await?;
        let sealed = match standing(&bytes) {
            Standing::Gone => {
                forget(&place).await?;
                return Ok(Destroyed::default());
            }
            Standing::Going(sealed) => bytes.slice_ref(sealed),
            Standing::Vault | Standing::Other => bytes.clone(),
        };
        let (tried, password) = (sealed.clone(), password.clone());
        let (slot, keys, superblock) = blocking(move || unlock(&tried, &password)).await??;
        if sealed.len() == bytes.len() {
            version = mark(&place, &version, [GONE, &sealed[..]].concat().into()).await?;
        }
        let state = State::of(&superblock);
        let current = Current::new(slot, superblock, Arc::new(keys));
        let inner = Self::assemble(place, current, state, Some(version.clone()));
        let packs = inner.delete_own().await?;
        mark(&inner.place, &version, Bytes::from_static(GONE)).await?;
        forget(&inner.place).await?;
        Ok(Destroyed { packs, left: 0 })
    }

    /// Destroys a vault of which nobody knows the password: its master key goes with its head. Nobody can tell its packs from
    /// those of others, so `unknown` says what becomes of objects that may be some. Otherwise as [`destroy`](Self::destroy).
    ///
    /// # Errors
    /// `NotFound` where there is no vault, or something else in its place; `Unavailable` where another wrote the vault meanwhile; what the
    /// stores below say.
    pub async fn destroy_unopened(place: VaultPlace, unknown: Unknown) -> Result<Destroyed> {
        let (bytes, mut version) = load_head(&place).await?;
        match standing(&bytes) {
            Standing::Other => {
                return Err(
                    Error::new(ErrorKind::NotFound, OP).because("there is something else than a vault in that place")
                );
            }
            Standing::Gone | Standing::Going(_) => {}
            // Not at once gone: who is stopped and finds the password can still have all packs deleted.
            Standing::Vault => version = mark(&place, &version, [GONE, &bytes[..]].concat().into()).await?,
        }
        let mut destroyed = Destroyed::default();
        let names = {
            let keys = place.blocks.keys().try_filter(|key| std::future::ready(key.as_bytes().len() == PACK_NAME_LEN));
            keys.try_collect::<Vec<BlockKey>>().await?
        };
        let len = |key: BlockKey| {
            let blocks = &place.blocks;
            async move { Ok::<_, Error>((blocks.block_len(&key).await?, key)) }.boxed()
        };
        let mut lens = stream::iter(names).map(len).buffer_unordered(AHEAD_COUNT).boxed();
        let mut packs = Vec::new();
        while let Some(asked) = lens.next().await {
            let (len, key) = asked?;
            let is_pack_len =
                |len: &u64| len.is_power_of_two() && (u64::from(PACK_LEN_MIN)..=u64::from(PACK_LEN_MAX)).contains(len);
            if len.as_ref().is_some_and(is_pack_len) {
                packs.push(key);
            }
        }
        drop(lens);
        if unknown == Unknown::Delete {
            destroyed.packs = delete(&place, packs).await?;
        } else {
            destroyed.left = packs.len() as u64;
        }
        if standing(&bytes) != Standing::Gone {
            mark(&place, &version, Bytes::from_static(GONE)).await?;
        }
        forget(&place).await?;
        Ok(destroyed)
    }
}

async fn load_head(place: &VaultPlace) -> Result<(Bytes, Version)> {
    let loaded = place.heads.load(&place.name).await?;
    loaded.ok_or_else(|| Error::new(ErrorKind::NotFound, OP).because("there is no vault in that place"))
}

/// Has the head say something; its version then.
async fn mark(place: &VaultPlace, version: &Version, says: Bytes) -> Result<Version> {
    if let Swap::Done(version) = place.heads.swap(&place.name, Some(version), says.clone()).await? {
        return Ok(version);
    }
    match place.heads.load(&place.name).await? {
        // An attempt of the place itself may have been told twice.
        Some((bytes, version)) if bytes == says => Ok(version),
        _ => Err(Error::new(ErrorKind::Unavailable, OP)
            .because("another program wrote the vault meanwhile: close it there, and try again")),
    }
}

async fn forget(place: &VaultPlace) -> Result<()> {
    match &place.memory {
        Some(memory) => memory::forget(&**memory, &place.name).await,
        None => Ok(()),
    }
}

/// Deletes objects, durably; how many those were.
async fn delete(place: &VaultPlace, keys: Vec<BlockKey>) -> Result<u64> {
    let delete = |key: BlockKey| {
        let blocks = &place.blocks;
        async move {
            let is_there = blocks.has(&key).await?;
            if is_there {
                blocks.delete(&key).await?;
            }
            Ok::<_, Error>(is_there)
        }
        .boxed()
    };
    let mut deleted = stream::iter(keys).map(delete).buffer_unordered(AHEAD_COUNT).boxed();
    let mut count = 0;
    while let Some(was_there) = deleted.next().await {
        count += u64::from(was_there?);
    }
    drop(deleted);
    place.blocks.flush().await?;
    Ok(count)
}

impl Inner {
    /// Deletes every object of this vault: what the head and the index name, and what says of itself that it is one.
    async fn delete_own(self: &Arc<Self>) -> Result<u64> {
        let (superblock, index_keys) = {
            let head = self.head.lock().await;
            (head.current.superblock.clone(), head.current.index_keys())
        };
        let mut index: BTreeSet<PackName> = superblock.runs.iter().copied().collect();
        let mut packs: BTreeSet<PackName> = superblock.packs.values().chain(&superblock.covers).copied().collect();
        for last in &superblock.runs {
            match self.load_run(&index_keys, last, superblock.through).await {
                Ok((objects, entries)) => {
                    index.extend(objects);
                    packs.extend(entries.into_iter().map(|entry| entry.name));
                }
                // Packs that are whole say so themselves.
                Err(error) if error.kind() == ErrorKind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        let known = packs.union(&index).copied().collect();
        packs.extend(self.strangers(&known).await?.into_keys());
        let mut count = 0;
        // The index last: whoever goes on learns from it of packs that are damaged.
        for names in [packs, index] {
            count += delete(&self.place, names.iter().map(Self::pack_key).collect()).await?;
        }
        Ok(count)
    }
}
