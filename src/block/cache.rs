//! Blocks that were read are kept near: a layer over a store that is far away or slow.
//!
//! Stands below [`Encrypt`](super::Encrypt), so that what is kept is ciphertext. What is near is never more than a
//! copy: it is lost without loss, and what it cannot give, or gives damaged, is read from the store again. So nothing
//! waits for it to be durable, but for deletions: what comes back after a crash must not be what was deleted before.
//! Spec: spec/layers.md
//! #cache.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use lru::LruCache;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{BlockKey, BlockStore, Expected, Given, Subtree};
use crate::{Cid, Result};

/// A [`BlockStore`] over another that keeps the blocks that were read last in a third, up to so many bytes.
///
/// `has` and `keys` are the store's own. A block that is kept is read though the store does not answer, and though
/// another deleted it there. What fails in the third store is no error of a read; a put or a deletion is refused as
/// long as what is kept cannot be let go. In memory are the keys of what is kept.
pub struct Cache {
    inner: Arc<dyn BlockStore>,
    near: Arc<dyn BlockStore>,
    len_max: u64,
    kept: Mutex<Kept>,
    turns: Turns,
    /// Something was let go since the last flush.
    is_shrunk: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What a [`Cache`] did since it was opened, and what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStats {
    /// Blocks that were read near.
    pub hits: u64,
    /// Blocks that were asked for far away, be they there or not.
    pub misses: u64,
    /// Bytes of the blocks that are kept.
    pub len: u64,
}

/// The lengths of the blocks that are kept, or are about to be, in bytes; the one used last is the last to go.
#[derive(Debug)]
struct Kept {
    lens: LruCache<BlockKey, u64>,
    len: u64,
}

impl Kept {
    fn insert(&mut self, key: BlockKey, len: u64) {
        self.len += len;
        self.len -= self.lens.put(key, len).unwrap_or(0);
    }

    fn remove(&mut self, key: &BlockKey) -> bool {
        let len = self.lens.pop(key);
        self.len -= len.unwrap_or(0);
        len.is_some()
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Cache");
        debug.field("inner", &self.inner).field("near", &self.near).field("len_max", &self.len_max);
        debug.finish_non_exhaustive()
    }
}

impl Cache {
    /// Keeps blocks of `inner` in `near`, at most `len_max` bytes of them. `near` belongs to it alone; what is there
    /// from an earlier time is kept, as far as there is room.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, block::{Cache, Mem}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (far, near) = (Arc::new(Mem::default()), Arc::new(Mem::default()));
    /// let store = Cache::open(far, near.clone(), 1 << 20).await?;
    /// let key = BlockKey::new(b"k")?;
    /// store.put(&key, "far away".into()).await?;
    /// assert_eq!(store.get(&key).await?, Some("far away".into()));
    /// assert!(near.has(&key).await?);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of [`keys`](BlockStore::keys) and [`block_len`](BlockStore::block_len) of `near`.
    pub async fn open(inner: Arc<dyn BlockStore>, near: Arc<dyn BlockStore>, len_max: u64) -> Result<Self> {
        let mut kept = Kept { lens: LruCache::unbounded(), len: 0 };
        let mut keys = near.keys();
        while let Some(key) = keys.next().await.transpose()? {
            if let Some(len) = near.block_len(&key).await? {
                kept.insert(key, len);
            }
        }
        drop(keys);
        let cache = Self {
            inner,
            near,
            len_max,
            kept: Mutex::new(kept),
            turns: Turns::default(),
            is_shrunk: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        };
        cache.make_room().await;
        Ok(cache)
    }

    /// What it did, and has.
    pub fn stats(&self) -> CacheStats {
        let (hits, misses) = (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed));
        CacheStats { hits, misses, len: self.kept().len }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Lengths are changed in one step.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block, if it is near and good. Whoever has the turn also forgets what is not.
    async fn near(&self, key: &BlockKey, turn: Option<&Turn>) -> Option<Bytes> {
        // Whether it is looked at, too: it was used.
        self.kept().lens.get(key)?;
        let got = self.near.get(key).await;
        if !matches!(got, Ok(Some(_)))
            && turn.is_some()
            && let Err(error) = self.let_go(key).await
        {
            tracing::debug!(%error, "a damaged block stays in a cache");
        }
        let block = got.ok().flatten()?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(block)
    }

    /// Keeps a block that was read.
    async fn keep(&self, key: &BlockKey, block: &Bytes, _turn: &Turn) {
        let len = block.len() as u64;
        if len > self.len_max {
            return;
        }
        // Counted before it is there: what is dropped in between is counted and not there, and found out when it is
        // read.
        self.kept().insert(key.clone(), len);
        self.make_room().await;
        if let Err(error) = self.near.put(key, block.clone()).await {
            tracing::debug!(%error, "a block was not kept in a cache");
            self.kept().remove(key);
        }
    }

    /// Lets blocks go, those first that were used longest ago, until there are no more bytes than there may be.
    async fn make_room(&self) {
        // One that somebody is at, or that does not go, is passed over.
        let mut left = self.kept().lens.len();
        while left > 0 {
            left -= 1;
            let oldest = {
                let kept = self.kept();
                if kept.len <= self.len_max {
                    return;
                }
                kept.lens.peek_lru().map(|(key, _)| key.clone())
            };
            let Some(key) = oldest else { return };
            let is_gone = match self.turns.try_take(&key) {
                Some(_turn) => self.let_go(&key).await.is_ok(),
                None => false,
            };
            if !is_gone {
                self.kept().lens.promote(&key);
            }
        }
    }

    /// Removes what is kept of a block; whoever calls it has the turn.
    async fn let_go(&self, key: &BlockKey) -> Result<()> {
        if self.kept().lens.contains(key) {
            let deleted = self.near.delete(key).await;
            // Not before: a flush meanwhile would answer for what was not done yet.
            self.is_shrunk.store(true, Ordering::Release);
            deleted?;
            self.kept().remove(key);
        }
        Ok(())
    }
}

#[async_trait]
impl BlockStore for Cache {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        Ok(self.get_checked(key).await?.map(|given| given.bytes().clone()))
    }

    /// Checked where it comes from a store that checks: what is near is as good as a disk.
    async fn get_checked(&self, key: &BlockKey) -> Result<Option<Given>> {
        if let Some(block) = self.near(key, None).await {
            return Ok(Some(Given::Bytes(block)));
        }
        let turn = self.turns.take(key).await;
        // Another may have read it meanwhile.
        if let Some(block) = self.near(key, Some(&turn)).await {
            return Ok(Some(Given::Bytes(block)));
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let given = self.inner.get_checked(key).await?;
        if let Some(given) = &given {
            self.keep(key, given.bytes(), &turn).await;
        }
        Ok(given)
    }

    /// What is not near is read from the store below, that part alone, and not kept.
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        if self.kept().lens.get(key).is_some()
            && let Ok(Some(part)) = self.near.get_range(key, range.clone()).await
        {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(part));
        }
        self.inner.get_range(key, range).await
    }

    /// What the store below makes of a block that it has is its own affair, so nothing is kept of what is put.
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        let _turn = self.turns.take(key).await;
        self.let_go(key).await?;
        self.inner.put(key, block).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let _turn = self.turns.take(key).await;
        self.let_go(key).await?;
        self.inner.delete(key).await
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.inner.has(key).await
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        let known = self.kept().lens.peek(key).copied();
        match known {
            Some(len) => Ok(Some(len)),
            None => self.inner.block_len(key).await,
        }
    }

    fn expect(&self, expected: &Expected<'_>) {
        self.inner.expect(expected);
    }

    /// That of the store below, of which nothing is kept: who takes all of it has a place for it. Of what is near, or begins
    /// there, each block is asked for by itself.
    fn subtree<'a>(&'a self, root: &Cid) -> Option<Subtree<'a>> {
        let is_near = self.kept().lens.contains(&BlockKey::from(root));
        if is_near { None } else { self.inner.subtree(root) }
    }

    async fn flush(&self) -> Result<()> {
        if self.is_shrunk.swap(false, Ordering::AcqRel)
            && let Err(error) = self.near.flush().await
        {
            self.is_shrunk.store(true, Ordering::Release);
            return Err(error);
        }
        self.inner.flush().await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// One at a time for each key.
#[derive(Debug, Default)]
struct Turns(Mutex<HashMap<BlockKey, Weak<AsyncMutex<()>>>>);

type Turn = OwnedMutexGuard<()>;

impl Turns {
    fn of(&self, key: &BlockKey) -> Arc<AsyncMutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        // Those that nobody waits for any more go when there is no room for another.
        if turns.len() == turns.capacity() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        turns.insert(key.clone(), Arc::downgrade(&turn));
        turn
    }

    async fn take(&self, key: &BlockKey) -> Turn {
        self.of(key).lock_owned().await
    }

    fn try_take(&self, key: &BlockKey) -> Option<Turn> {
        self.of(key).try_lock_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;
    use crate::{
        ErrorKind,
        block::{Mem, Segments, SegmentsOptions},
        block_store_laws,
        media::MemMedia,
        testing::{
            block_store::Subject,
            fault::{BlockCall, Dice, Fault, Faulty},
        },
    };

    async fn over_mem(len_max: u64) -> Cache {
        Cache::open(Arc::new(Mem::default()), Arc::new(Mem::default()), len_max).await.expect("open")
    }

    /// A new cache with each opening of the store below, as after a crash, and one that stays.
    async fn over_segments(is_lost: bool) -> Subject {
        let disk = || Arc::new(MemMedia::default());
        let (far, near) = ((disk(), disk()), Arc::new(Mem::default()));
        Subject::reopening(move || {
            let ((data, index), near) = (far.clone(), if is_lost { Arc::default() } else { near.clone() });
            Box::pin(async move {
                // The one before may still be writing in the background, and a media has one owner.
                while Arc::strong_count(&data) > 2 || Arc::strong_count(&index) > 2 {
                    tokio::task::yield_now().await;
                }
                let options = SegmentsOptions::default();
                let far = Segments::open(data, index, options, &crate::testing::env()).await.expect("open");
                Arc::new(Cache::open(Arc::new(far), near, 10_000).await.expect("open")) as Arc<dyn BlockStore>
            })
        })
        .await
    }

    block_store_laws!(with_room, async { over_mem(1 << 40).await });
    block_store_laws!(with_little_room, async { over_mem(100_000).await });
    block_store_laws!(without_room, async { over_mem(0).await });
    block_store_laws!(kept_over_a_restart, over_segments(false));
    block_store_laws!(lost_with_a_restart, over_segments(true));

    fn key(n: u64) -> BlockKey {
        BlockKey::new(format!("key {n}").as_bytes()).expect("a key")
    }

    fn block(n: u64) -> Bytes {
        Dice::new(n).bytes(1000).into()
    }

    /// A cache over stores that fail as they are told, the far one with ten blocks of 1,000 bytes.
    async fn cache(len_max: u64) -> (Cache, Arc<Faulty<Mem>>, Arc<Faulty<Mem>>) {
        let stores = [(); 2].map(|()| Arc::new(Faulty::new(Mem::default())));
        let [far, near] = stores;
        for n in 0..10 {
            far.put(&key(n), block(n)).await.expect("put");
        }
        (Cache::open(far.clone(), near.clone(), len_max).await.expect("open"), far, near)
    }

    async fn near_keys(near: &Faulty<Mem>) -> usize {
        near.inner().keys().count().await
    }

    #[tokio::test]
    async fn what_was_read_is_read_near_also_when_the_store_is_gone() {
        let (cache, far, _) = cache(1 << 20).await;
        assert_eq!(cache.get(&key(1)).await.expect("get"), Some(block(1)));
        far.set_offline(true);
        assert_eq!(cache.get(&key(1)).await.expect("get"), Some(block(1)));
        assert_eq!(cache.get_range(&key(1), 10..20).await.expect("get"), Some(block(1).slice(10..20)));
        assert_eq!(cache.block_len(&key(1)).await.expect("length"), Some(1000));
        assert_eq!(cache.get(&key(2)).await.expect_err("far away").kind(), ErrorKind::Unavailable);
        assert_eq!(cache.stats(), CacheStats { hits: 2, misses: 2, len: 1000 });
    }

    /// The one that was used longest ago goes; what is there when it is opened counts too.
    #[tokio::test]
    async fn no_more_is_kept_than_there_is_room_for() {
        let (cache, far, near) = cache(3500).await;
        for n in [0, 1, 2, 0, 3] {
            cache.get(&key(n)).await.expect("get");
            assert!(cache.stats().len <= 3500);
        }
        for (n, is_kept) in [(0, true), (1, false), (2, true), (3, true)] {
            assert_eq!(near.inner().has(&key(n)).await.expect("has"), is_kept, "{n}");
        }
        drop(cache);
        let smaller = Cache::open(far, near.clone(), 1500).await.expect("open");
        assert_eq!((smaller.stats().len, near_keys(&near).await), (1000, 1));
        assert_eq!(smaller.get(&key(7)).await.expect("get"), Some(block(7)));
        assert_eq!((smaller.stats().len, near_keys(&near).await), (1000, 1));
    }

    /// A copy that is lost, rotten or out of reach is no loss, and is replaced.
    #[tokio::test]
    async fn what_is_wrong_near_is_read_far() {
        for fault in [Fault::Fail(ErrorKind::Corrupt), Fault::Fail(ErrorKind::Io), Fault::Lose] {
            let (cache, far, near) = cache(1 << 20).await;
            cache.get(&key(1)).await.expect("get");
            near.fault_all(fault);
            assert_eq!(cache.get(&key(1)).await.expect("get"), Some(block(1)));
            assert_eq!(cache.get_range(&key(1), 0..3).await.expect("get"), Some(block(1).slice(0..3)));
            near.heal();
            far.set_offline(true);
            assert_eq!(cache.get(&key(1)).await.expect("get"), Some(block(1)), "it was kept again");
            assert_eq!((cache.stats().len, near_keys(&near).await), (1000, 1));
        }
        let (cache, _, near) = cache(1 << 20).await;
        near.fail_next(BlockCall::Put, ErrorKind::NoSpace);
        assert_eq!(cache.get(&key(1)).await.expect("get"), Some(block(1)));
        assert_eq!(cache.stats().len, 0, "it had no room");
    }

    /// What comes back is what was deleted, so that is not said to be done before it is.
    #[tokio::test]
    async fn a_deletion_waits_for_the_copy() {
        let (cache, far, near) = cache(1 << 20).await;
        cache.get(&key(1)).await.expect("get");
        near.fail_next(BlockCall::Delete, ErrorKind::Io);
        assert_eq!(cache.delete(&key(1)).await.expect_err("the copy is there").kind(), ErrorKind::Io);
        assert!(far.inner().has(&key(1)).await.expect("has"));
        cache.delete(&key(1)).await.expect("delete");
        assert_eq!(cache.get(&key(1)).await.expect("get"), None);
        near.fail_next(BlockCall::Flush, ErrorKind::Io);
        cache.flush().await.expect_err("the copy may come back");
        cache.flush().await.expect("flush");
        assert_eq!(near.calls(BlockCall::Flush), 2);
        cache.flush().await.expect("flush");
        assert_eq!(near.calls(BlockCall::Flush), 2, "nothing more was let go");
    }

    /// A reader that was under way put back what was deleted meanwhile.
    #[tokio::test]
    async fn a_read_that_is_under_way_brings_nothing_back() {
        let (cache, far, _) = cache(1 << 20).await;
        far.fault_all(Fault::Delay);
        let key = key(1);
        let mut read = pin!(cache.get(&key));
        assert!(poll!(&mut read).is_pending());
        let mut deleted = pin!(cache.delete(&key));
        assert!(poll!(&mut deleted).is_pending(), "it waits for its turn");
        far.release(1);
        assert_eq!(read.await.expect("get"), Some(block(1)));
        deleted.await.expect("delete");
        far.heal();
        assert_eq!(cache.get(&key).await.expect("get"), None);
    }

    /// A hundred readers of one block fetch it once.
    #[tokio::test]
    async fn readers_of_one_block_wait_for_one_fetch() {
        let (cache, far, _) = cache(1 << 20).await;
        let before = far.calls(BlockCall::Read);
        let reads = (0..100).map(|_| async { cache.get(&key(1)).await.expect("get") });
        for got in futures_util::future::join_all(reads).await {
            assert_eq!(got, Some(block(1)));
        }
        assert_eq!(far.calls(BlockCall::Read) - before, 1);
        assert!(cache.turns.0.lock().expect("nobody panicked").len() < 10);
    }
}
