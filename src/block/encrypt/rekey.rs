//! Other root keys for blocks that are there, while they are read, put and deleted.
//!
//! A block is put under the newest key before it is removed under an older one, so it always has a name that a reader asks
//! for. Which blocks to move, how fast, and when what was put is durable is the caller's to say. Spec: spec/layers.md
//! #other-keys.

use std::{
    mem,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use futures_util::{
    StreamExt as _, TryStreamExt as _, future,
    stream::{self, BoxStream},
};

use super::{Current, Encrypt, KeyId, Keys, Ring, stored};
use crate::{BlockKey, Result, SecretKey};

impl Encrypt {
    /// What tells blocks of this root key from those of others, and nothing of the key.
    pub fn key_id(key: SecretKey) -> [u8; 16] {
        *Keys::new(key).id()
    }

    /// Passes over what was put under a root key that was replaced and is known no more, by its [id](Self::key_id): nothing
    /// is under it that is not under another.
    #[must_use]
    pub fn with_retired_key(mut self, id: [u8; 16]) -> Self {
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut current.ring).retired.push(id);
        self
    }

    /// Puts under `newest` from now on, and knows `older` besides, from newer to older. The keys of before that are in neither
    /// are retired.
    ///
    /// What is put and deleted from now on is so with these keys; it waits for what had begun before, and nobody waits for
    /// that besides.
    ///
    /// Those who call it at once come one after the other, and so do those who move blocks. A dropped call has brought the
    /// keys or not, and has not waited.
    pub async fn set_keys(&self, newest: SecretKey, older: impl IntoIterator<Item = SecretKey> + Send) {
        let mut ring = Ring::new(newest);
        ring.older = older.into_iter().map(|key| Keys::new(key).into()).collect();
        let _turn = self.rekeying.lock().await;
        let before = {
            let mut now = self.current.write().unwrap_or_else(PoisonError::into_inner);
            ring.retired.clone_from(&now.ring.retired);
            let gone: Vec<KeyId> = now.ring.all().map(|keys| *keys.id()).filter(|id| !ring.knows(id)).collect();
            ring.retired.extend(gone);
            mem::replace(&mut *now, Current::new(ring))
        };
        before.changes.close();
        before.changes.wait().await;
    }

    /// The names below of blocks that are under older keys; one that comes or goes meanwhile may be among them or not.
    ///
    /// # Errors
    /// An `Err` item ends the stream, which is incomplete then.
    pub fn older_names(&self) -> BoxStream<'_, Result<BlockKey>> {
        let ring = self.ring();
        if ring.older.is_empty() {
            return stream::empty().boxed();
        }
        let is_older = move |name: &BlockKey| future::ready(ring.older.iter().any(|keys| keys.key_of(name).is_some()));
        self.inner.keys().try_filter(is_older).boxed()
    }

    /// Puts the block that the store below has under this name, which is of an older key, under the newest as well; how long
    /// it is. `None` for another name, and where it is gone. Durable after a flush. Repeatable.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use futures_util::TryStreamExt;
    /// use muxfs::{BlockKey, BlockStore, SecretKey, block::{Encrypt, Mem}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (inner, old, new) = (Arc::new(Mem::default()), SecretKey::new([1; 32]), SecretKey::new([2; 32]));
    /// let store = Encrypt::new(inner.clone(), old.clone());
    /// store.put(&BlockKey::new(b"k")?, "block".into()).await?;
    /// store.set_keys(new.clone(), [old]).await;
    /// for name in store.older_names().try_collect::<Vec<_>>().await? {
    ///     store.put_under_newest(&name).await?;
    ///     store.flush().await?;
    ///     assert!(store.remove_older(&name).await?);
    /// }
    /// assert_eq!(Encrypt::new(inner, new).get(&BlockKey::new(b"k")?).await?, Some("block".into()));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of reading and putting the block, which stays as it is.
    pub async fn put_under_newest(&self, name: &BlockKey) -> Result<Option<usize>> {
        let _turn = self.rekeying.lock().await;
        let ring = self.ring();
        let Some((keys, key)) = older_key(&ring, name) else { return Ok(None) };
        // Else it could be deleted after it was read, and be put all the same.
        let _alone = self.moving.write().await;
        let Some(stored) = self.inner.get(name).await? else { return Ok(None) };
        let block = self.bad.note(name, self.open(keys, &key, name, stored))?;
        // As long as the older one, so it fits.
        let Some(newest) = ring.newest.name_of(&key) else { return Ok(None) };
        let stored = stored::seal(ring.newest.id(), &ring.newest.of_block(&key), &newest, &block);
        self.bad.put(&*self.inner, &newest, stored).await?;
        Ok(Some(block.len()))
    }

    /// The name under the newest key of the block that has this one under an older key; `None` for another name.
    pub fn newest_name(&self, name: &BlockKey) -> Option<BlockKey> {
        let ring = self.ring();
        let (_, key) = older_key(&ring, name)?;
        ring.newest.name_of(&key)
    }

    /// Removes what the store below has under this name, which is of an older key, if there is a block under the newest, or if
    /// what is left there gives no block; whether nothing is left there. For who knows that the newest is durable.
    ///
    /// # Errors
    /// Those of the store below.
    pub async fn remove_older(&self, name: &BlockKey) -> Result<bool> {
        let _turn = self.rekeying.lock().await;
        let ring = self.ring();
        let Some((_, key)) = older_key(&ring, name) else { return Ok(true) };
        let _alone = self.moving.write().await;
        let Some(newest) = ring.newest.name_of(&key) else { return Ok(false) };
        if !self.inner.has(&newest).await? {
            // Deleted meanwhile, or never put: what is there would outlive its key.
            if self.inner.has(name).await? {
                return Ok(false);
            }
            self.inner.delete(name).await?;
            return Ok(true);
        }
        // Before: a listing that has begun may miss it from here on.
        self.removed_count.fetch_add(1, Ordering::AcqRel);
        self.inner.delete(name).await?;
        Ok(true)
    }
}

/// Which older key a name is of, and the key of its block.
fn older_key<'a>(ring: &'a Ring, name: &BlockKey) -> Option<(&'a Keys, BlockKey)> {
    ring.older.iter().find_map(|keys| Some((&**keys, keys.key_of(name)?)))
}
