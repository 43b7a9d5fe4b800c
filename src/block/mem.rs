//! Blocks in memory: the reference that every other store is measured by, and `/mem`.
//!
//! An ordered map under a lock and a limit, nothing else, so that what the laws say can be seen in the code.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::BoxStream};

use super::{BLOCK_LEN_MAX, BlockKey, BlockStore};
use crate::{Error, ErrorKind, Result, media::MemLimit};

/// What a block costs besides its bytes and its key's: map entry and allocations, so that very many tiny blocks do not
/// slip under the limit.
const ENTRY_LEN: usize = 128;

/// How many keys a listing takes while it holds the lock.
const KEYS_BATCH_COUNT: usize = 1024;

/// How much a [`Mem`] may hold.
#[derive(Debug, Clone)]
pub struct MemOptions {
    /// In bytes of memory: blocks, keys and about 128 bytes for each. A `put` past it is `NoSpace`.
    pub len_max: usize,
}

impl Default for MemOptions {
    /// 1 GiB: this crate cannot ask the host how much memory there is; whoever can should.
    fn default() -> Self {
        Self { len_max: 1 << 30 }
    }
}

/// A [`BlockStore`] in memory; gone when dropped.
pub struct Mem {
    limit: Arc<MemLimit>,
    blocks: Mutex<BTreeMap<BlockKey, Bytes>>,
}

impl Default for Mem {
    fn default() -> Self {
        Self::new(MemOptions::default())
    }
}

impl Mem {
    /// Makes an empty store.
    ///
    /// ```
    /// use muxfs::{BlockKey, BlockStore, block::{Mem, MemOptions}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let mem = Mem::new(MemOptions { len_max: 1 << 20 });
    /// let key = BlockKey::new(b"k")?;
    /// mem.put(&key, "block".into()).await?;
    /// assert_eq!(mem.get(&key).await?, Some("block".into()));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(MemOptions { len_max }: MemOptions) -> Self {
        Self { limit: Arc::new(MemLimit::new(len_max)), blocks: Mutex::default() }
    }

    /// Its limit, for what else is to count: a journal in the same memory.
    pub fn limit(&self) -> Arc<MemLimit> {
        Arc::clone(&self.limit)
    }

    /// How many bytes of memory it takes, as [`MemOptions::len_max`] counts them; with what else shares its limit.
    pub fn used_len(&self) -> usize {
        self.limit.used_len()
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BlockKey, Bytes>> {
        // Map and length change together without a panic in between.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys_after(&self, last: Option<&BlockKey>) -> Vec<BlockKey> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.lock().range((from, Bound::Unbounded)).take(KEYS_BATCH_COUNT).map(|(key, _)| key.clone()).collect()
    }
}

impl fmt::Debug for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, len_max) = (self.limit.used_len(), self.limit.len_max());
        write!(f, "Mem({} blocks, {used} of {len_max} bytes)", self.lock().len())
    }
}

#[async_trait]
impl BlockStore for Mem {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        Ok(self.lock().get(key).cloned())
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if block.len() > BLOCK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "mem.put"));
        }
        if self.lock().contains_key(key) {
            return Ok(());
        }
        let block = own(block);
        let mut blocks = self.lock();
        if blocks.contains_key(key) {
            return Ok(());
        }
        self.limit.take(entry_len(key, &block), "mem.put")?;
        blocks.insert(key.clone(), block);
        Ok(())
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        if let Some(block) = self.lock().remove(key) {
            self.limit.give(entry_len(key, &block));
        }
        Ok(())
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        Ok(self.lock().contains_key(key))
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        Ok(self.lock().get(key).map(|block| block.len() as u64))
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        stream::unfold(None, move |last| async move {
            let batch = self.keys_after(last.as_ref());
            let last = batch.last()?.clone();
            Some((stream::iter(batch.into_iter().map(Ok)), Some(last)))
        })
        .flatten()
        .boxed()
    }
}

fn entry_len(key: &BlockKey, block: &Bytes) -> usize {
    ENTRY_LEN + key.as_bytes().len() + block.len()
}

/// The block in memory of its own: a slice would keep alive whatever larger buffer it was cut from.
fn own(block: Bytes) -> Bytes {
    match block.try_into_mut() {
        Ok(unshared) if unshared.capacity() <= unshared.len().saturating_mul(2) => unshared.freeze(),
        Ok(unshared) => Bytes::copy_from_slice(&unshared),
        Err(shared) => Bytes::copy_from_slice(&shared),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> BlockKey {
        BlockKey::new(&n.to_be_bytes()).expect("four bytes are a key")
    }

    #[tokio::test]
    async fn past_the_limit_is_no_space_and_a_delete_makes_room() {
        let mem = Mem::new(MemOptions { len_max: 3 * (ENTRY_LEN + 4 + 100) });
        for n in 0..3 {
            mem.put(&key(n), vec![0; 100].into()).await.expect("three fit");
        }
        let error = mem.put(&key(3), vec![0; 100].into()).await.expect_err("a fourth does not");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        mem.put(&key(2), vec![0; 100].into()).await.expect("one that is there costs nothing");
        mem.delete(&key(0)).await.expect("delete");
        mem.put(&key(3), vec![0; 100].into()).await.expect("now there is room");
        assert_eq!(mem.used_len(), 3 * (ENTRY_LEN + 4 + 100));
    }

    #[tokio::test]
    async fn a_small_slice_does_not_keep_a_large_buffer() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let mem = Mem::default();
        mem.put(&key(0), buffer.slice(10..20)).await.expect("put");
        assert!(buffer.is_unique(), "the store holds the slice's buffer");
    }

    #[tokio::test]
    async fn keys_go_on_past_one_batch() {
        let mem = Mem::default();
        let count = u32::try_from(KEYS_BATCH_COUNT).expect("small") * 2 + 7;
        for n in 0..count {
            mem.put(&key(n), Bytes::new()).await.expect("put");
        }
        assert_eq!(mem.keys().count().await, count as usize);
    }
}
