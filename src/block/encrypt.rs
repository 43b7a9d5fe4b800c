//! Blocks that nobody can read who has not the key: a layer over any store but one that needs real multihashes.
//!
//! Stands below [`Compress`](super::Compress) and above what spreads blocks over nodes. Neither keys, bytes nor exact
//! lengths reach the store below. All is deterministic, so that a block put twice is one block there: its name is its
//! key under AES-SIV, which can be turned back, so that [`keys`](BlockStore::keys) works; its bytes are AES-256-GCM
//! under keys of its own, with a nonce that is a keyed hash of them. So a nonce meets other bytes under one key only
//! where that hash collides, whatever the layers above come to do. Spec: spec/layers.md #encrypt.
//!
//! Keys can be replaced while blocks are read and put ([`rekey`]).

mod keys;
mod rekey;
mod stored;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::{Mutex as AsyncMutex, RwLock as AsyncRwLock};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use self::{
    keys::{KeyId, Keys, NAME_TAG_LEN, Ring},
    stored::{FIRST_LEN, FRONT_END, Front, Header},
};
use super::{BLOCK_KEY_LEN_MAX, BlockKey, BlockStore, bad::Bad};
use crate::{Error, ErrorKind, Result, SecretKey};

/// A [`BlockStore`] over another that encrypts what it is given: keys, bytes and lengths.
///
/// Beyond the laws of `BlockStore`: any change to what the store below has of a block is `Corrupt`; a block of a key that
/// this store was not given is `BadKey`, one of a newer version `Unsupported`. What it gives is what was put under that
/// key, though perhaps at another time: a store below that keeps an older one and gives it back is not found out.
///
/// A block under another root key has another name below, so that it is absent here: see [`Encrypt::check_key`].
///
/// `block_len`, and the first 32 bytes of a block, are told without reading the rest of it.
pub struct Encrypt {
    inner: Arc<dyn BlockStore>,
    current: RwLock<Current>,
    /// Whoever moves a block to another key has it, and whoever brings other keys.
    rekeying: AsyncMutex<()>,
    /// Whoever deletes shares it, so that no block comes back that is just put under another key.
    moving: AsyncRwLock<()>,
    /// How many names were removed for newer ones.
    removed_count: AtomicU64,
    bad: Bad,
}

/// The keys of now, and who puts and deletes with them.
struct Current {
    ring: Arc<Ring>,
    changes: TaskTracker,
}

impl Current {
    fn new(ring: Ring) -> Self {
        Self { ring: ring.into(), changes: TaskTracker::new() }
    }
}

impl fmt::Debug for Encrypt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypt").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Encrypt {
    /// The longest block, in bytes: with its size class, header and tags it is what any store takes.
    pub const BLOCK_LEN_MAX: usize = (63 << 17) + FIRST_LEN;
    /// The longest key, in bytes: its name below is 16 bytes longer. A `put` past it is `InvalidArgument`.
    pub const KEY_LEN_MAX: usize = BLOCK_KEY_LEN_MAX - NAME_TAG_LEN;

    /// Encrypts under `key`, the root key, what goes into `inner`.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, SecretKey, block::{Encrypt, Mem}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let inner = Arc::new(Mem::default());
    /// let store = Encrypt::new(inner.clone(), SecretKey::new([7; 32]));
    /// let key = BlockKey::new(b"k")?;
    /// store.put(&key, "block".into()).await?;
    /// assert_eq!(store.get(&key).await?, Some("block".into()));
    /// assert_eq!(inner.get(&key).await?, None, "it has another name there");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(inner: Arc<dyn BlockStore>, key: SecretKey) -> Self {
        let current = RwLock::new(Current::new(Ring::new(key)));
        let (rekeying, moving, removed_count) = (AsyncMutex::default(), AsyncRwLock::default(), AtomicU64::new(0));
        Self { inner, current, rekeying, moving, removed_count, bad: Bad::default() }
    }

    /// Reads, lists and deletes besides what was put under `key`, an older root key than those given so far.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, SecretKey, block::{Encrypt, Mem}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let inner = Arc::new(Mem::default());
    /// let (old, new) = (SecretKey::new([1; 32]), SecretKey::new([2; 32]));
    /// let key = BlockKey::new(b"k")?;
    /// Encrypt::new(inner.clone(), old.clone()).put(&key, "block".into()).await?;
    ///
    /// let store = Encrypt::new(inner, new).with_older_key(old);
    /// assert_eq!(store.get(&key).await?, Some("block".into()));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn with_older_key(mut self, key: SecretKey) -> Self {
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut current.ring).older.push(Keys::new(key).into());
        self
    }

    /// Tells by the first block there is whether it was put under one of the keys; an empty store suits any.
    ///
    /// For who opens a store: with a wrong key all its blocks would merely be absent.
    ///
    /// # Errors
    /// `BadKey`; `Unsupported` if a newer version put it; what the store below says.
    pub async fn check_key(&self) -> Result<()> {
        self.keys().try_next().await.map(drop)
    }

    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).ring)
    }

    /// The keys to put and delete with, and what has whoever brings other keys wait for it.
    fn ring_to_change(&self) -> (Arc<Ring>, TaskTrackerToken) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (current.ring.clone(), current.changes.token())
    }

    fn listing(&self, before: Option<Arc<Ring>>) -> Listing<'_> {
        let removed_count = self.removed_count.load(Ordering::Acquire);
        Listing { of: self, ring: self.ring(), names: self.inner.keys(), before, removed_count }
    }

    /// The names that a block of this key may have below, in the order in which to ask for them, none for a key that is too
    /// long.
    fn names<'a>(&'a self, key: &'a BlockKey) -> Names<'a> {
        Names { of: self, key, ring: self.ring(), asked: 0 }
    }

    /// Refuses a block that these keys did not encrypt.
    fn check_key_id(&self, keys: &Keys, header: &Header) -> Result<()> {
        if header.key_id == *keys.id() {
            return Ok(());
        }
        if self.ring().knows(&header.key_id) {
            return Err(Error::new(ErrorKind::Corrupt, "encrypt.get").because("another block is in its place"));
        }
        Err(bad_key())
    }

    fn open(&self, keys: &Keys, key: &BlockKey, name: &BlockKey, stored: Bytes) -> Result<Bytes> {
        let header = Header::decode(&stored)?;
        self.check_key_id(keys, &header)?;
        stored::open(&header, &keys.of_block(key), name, stored)
    }

    fn open_front(&self, keys: &Keys, key: &BlockKey, name: &BlockKey, start: &[u8]) -> Result<Front> {
        let header = Header::decode(start)?;
        self.check_key_id(keys, &header)?;
        stored::open_front(&header, &keys.of_block(key), name, start)
    }

    /// The length of a block and its first bytes.
    async fn front(&self, key: &BlockKey) -> Result<Option<Front>> {
        for (keys, name) in self.names(key) {
            if let Some(start) = self.inner.get_range(&name, 0..FRONT_END).await? {
                return self.bad.note(&name, self.open_front(&keys, key, &name, &start)).map(Some);
            }
        }
        Ok(None)
    }

    /// Returns the key of a block that the store below names so; `None` for what has no key here.
    ///
    /// For who finds out something of a block there, and is to say which it is.
    ///
    /// # Errors
    /// `BadKey` if it was put under a key that this store was not given; `Unsupported` if a newer version put it; what the
    /// store below says.
    pub async fn key_of(&self, name: &BlockKey) -> Result<Option<BlockKey>> {
        let ring = self.ring();
        if let Some(key) = ring.all().find_map(|keys| keys.key_of(name)) {
            return Ok(Some(key));
        }
        let header = match self.inner.get_range(name, 0..FRONT_END).await {
            Ok(Some(start)) => Header::decode(&start),
            Ok(None) => return Ok(None),
            Err(error) => Err(error),
        };
        match header {
            Ok(header) if !ring.knows(&header.key_id) => Err(bad_key()),
            // Of a node that was away for long: everything was put under another key since.
            Ok(header) if ring.retired.contains(&header.key_id) => Ok(None),
            Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
            _ => {
                // Its key is lost, so that it is absent to all who could ask; it must not hide all others.
                tracing::warn!(
                    "the store below has something of a name that is no encrypted block's: it is passed over"
                );
                Ok(None)
            }
        }
    }
}

/// The names of a block, one after the other.
///
/// Only newer names are given to what has older ones, so whoever found it under none of them asks for the newest again: it
/// may have come there between. And where there are other keys by then, for all of those.
struct Names<'a> {
    of: &'a Encrypt,
    key: &'a BlockKey,
    ring: Arc<Ring>,
    asked: usize,
}

impl Iterator for Names<'_> {
    type Item = (Arc<Keys>, BlockKey);

    fn next(&mut self) -> Option<Self::Item> {
        let older_count = self.ring.older.len();
        if self.asked > older_count + usize::from(older_count > 0) {
            let now = self.of.ring();
            if Arc::ptr_eq(&now, &self.ring) {
                return None;
            }
            (self.ring, self.asked) = (now, 0);
        }
        let keys = self.ring.all().nth(self.asked).unwrap_or(&self.ring.newest).clone();
        self.asked += 1;
        let name = keys.name_of(self.key)?;
        Some((keys, name))
    }
}

fn bad_key() -> Error {
    Error::new(ErrorKind::BadKey, "encrypt.get").because("the block was put under another root key")
}

#[async_trait]
impl BlockStore for Encrypt {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        for (keys, name) in self.names(key) {
            if let Some(opened) = self.inner.get_opened(&name, &|stored| self.open(&keys, key, &name, stored)).await? {
                return self.bad.note(&name, opened).map(Some);
            }
        }
        Ok(None)
    }

    /// What it gives is verified. Within the first 32 bytes the rest of the block is not read; beyond, all of it is.
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        let block = if range.end <= FIRST_LEN {
            self.front(key).await?.map(|front| Bytes::copy_from_slice(front.first()))
        } else {
            self.get(key).await?
        };
        Ok(block.map(|block| {
            let end = range.end.min(block.len());
            block.slice(range.start.min(end)..end)
        }))
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if block.len() > Self::BLOCK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "encrypt.put"));
        }
        let (ring, _token) = self.ring_to_change();
        let keys = &ring.newest;
        let name = keys.name_of(key).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "encrypt.put").because("a key is at most 239 bytes here")
        })?;
        let stored = stored::seal(keys.id(), &keys.of_block(key), &name, &block);
        drop(block);
        self.bad.put(&*self.inner, &name, stored).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let (ring, _token) = self.ring_to_change();
        let _shared = self.moving.read().await;
        // The name that is read first goes last: until then nothing has changed for who reads.
        for keys in ring.all().rev() {
            if let Some(name) = keys.name_of(key) {
                self.inner.delete(&name).await?;
            }
        }
        Ok(())
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        for (_, name) in self.names(key) {
            if self.inner.has(&name).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        Ok(self.front(key).await?.map(|front| front.block_len() as u64))
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let keys = stream::try_unfold(self.listing(None), move |mut listing| async move {
            loop {
                while let Some(name) = listing.names.try_next().await? {
                    if let Some(key) = self.key_of(&name).await? {
                        return Ok(Some((key, listing)));
                    }
                }
                if listing.is_whole() {
                    return Ok(None);
                }
                listing = self.listing(Some(listing.ring));
            }
        });
        keys.boxed()
    }
}

/// A walk over all names below.
struct Listing<'a> {
    of: &'a Encrypt,
    names: BoxStream<'a, Result<BlockKey>>,
    /// What was true when it began: the keys, those of the walk before it, and how many names had been removed for newer ones.
    ring: Arc<Ring>,
    before: Option<Arc<Ring>>,
    removed_count: u64,
}

impl Listing<'_> {
    /// Whether it, and the one before it, miss nothing: a block that was moved meanwhile may have been listed under neither
    /// name. It is moved once under the same keys, so the next walk has it.
    fn is_whole(&self) -> bool {
        let now = self.of.ring();
        self.of.removed_count.load(Ordering::Acquire) == self.removed_count
            || self.before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &now))
    }
}
