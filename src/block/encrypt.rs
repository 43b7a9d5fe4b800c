//! Blocks that nobody can read who has not the key: a layer over any store but one that needs real multihashes.
//!
//! Stands below [`Compress`](super::Compress) and above what spreads blocks over nodes. Neither keys, bytes nor exact
//! lengths reach the store below. All is deterministic, so that a block put twice is one block there: its name is its
//! key under AES-SIV, which can be turned back, so that [`keys`](BlockStore::keys) works; its bytes are AES-256-GCM
//! under keys of its own, with a nonce that is a keyed hash of them. So a nonce meets other bytes under one key only
//! where that hash collides, whatever the layers above come to do. Spec: spec/layers.md #encrypt.

mod keys;
mod stored;
#[cfg(test)]
mod tests;

use std::{fmt, iter, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use self::{
    keys::{Keys, NAME_TAG_LEN},
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
    newest: Keys,
    /// From newer to older.
    older: Vec<Keys>,
    bad: Bad,
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
        Self { inner, newest: Keys::new(key), older: Vec::new(), bad: Bad::default() }
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
        self.older.push(Keys::new(key));
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

    /// From newer to older.
    fn all_keys(&self) -> impl DoubleEndedIterator<Item = &Keys> + Send {
        iter::once(&self.newest).chain(&self.older)
    }

    /// The names that a block of this key may have below, from newer to older, none for a key that is too long.
    fn names<'a>(&'a self, key: &'a BlockKey) -> impl DoubleEndedIterator<Item = (&'a Keys, BlockKey)> + Send {
        self.all_keys().filter_map(move |keys| Some((keys, keys.name_of(key)?)))
    }

    /// Refuses a block that these keys did not encrypt.
    fn check_key_id(&self, keys: &Keys, header: &Header) -> Result<()> {
        if header.key_id == *keys.id() {
            return Ok(());
        }
        if self.all_keys().any(|keys| header.key_id == *keys.id()) {
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
                return self.bad.note(&name, self.open_front(keys, key, &name, &start)).map(Some);
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
        if let Some(key) = self.all_keys().find_map(|keys| keys.key_of(name)) {
            return Ok(Some(key));
        }
        let header = match self.inner.get_range(name, 0..FRONT_END).await {
            Ok(Some(start)) => Header::decode(&start),
            Ok(None) => return Ok(None),
            Err(error) => Err(error),
        };
        match header {
            Ok(header) if self.all_keys().all(|keys| header.key_id != *keys.id()) => Err(bad_key()),
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

fn bad_key() -> Error {
    Error::new(ErrorKind::BadKey, "encrypt.get").because("the block was put under another root key")
}

#[async_trait]
impl BlockStore for Encrypt {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        for (keys, name) in self.names(key) {
            if let Some(stored) = self.inner.get(&name).await? {
                return self.bad.note(&name, self.open(keys, key, &name, stored)).map(Some);
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
        let name = self.newest.name_of(key).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "encrypt.put").because("a key is at most 239 bytes here")
        })?;
        let stored = stored::seal(self.newest.id(), &self.newest.of_block(key), &name, &block);
        drop(block);
        self.bad.put(&*self.inner, &name, stored).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        // The name that is read first goes last: until then nothing has changed for who reads.
        for (_, name) in self.names(key).rev() {
            self.inner.delete(&name).await?;
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
        let keys = stream::try_unfold(self.inner.keys(), move |mut names| async move {
            while let Some(name) = names.try_next().await? {
                if let Some(key) = self.key_of(&name).await? {
                    return Ok(Some((key, names)));
                }
            }
            Ok(None)
        });
        keys.boxed()
    }
}
