//! Blocks in and out of a [`Dag`]: verified once, as they enter memory, and kept for a while.
//!
//! Sits between everything in this module and the [`BlockStore`](crate::BlockStore). A store may lose, rot or lie;
//! above this file nothing has to ask. Verified blocks are kept by multihash in shards, each under a lock of its own and
//! held for the time of a look-up only. Callers that want one block at the same time share one reading of it: eight NFS
//! reads of one chunk would else load and hash that chunk eight times. Spec: spec/linked-data.md #verification.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use lru::LruCache;
use tokio::sync::OnceCell;

use super::{DAG_BLOCK_LEN_MAX, Dag};
use crate::{BlockKey, Cid, Codec, Error, ErrorKind, Result};

/// How many locks to spread the blocks over.
const SHARD_COUNT_MAX: usize = 16;
/// A shard must have room for a few blocks of the longest kind, or the large ones would push each other out.
const SHARD_LEN_MIN: usize = 2 * DAG_BLOCK_LEN_MAX;
/// So many blocks are remembered to be bad: of a store with more, each is found again when it is read again.
const BAD_COUNT_MAX: usize = 1 << 16;
/// A CID of version 1, and of plain bytes.
const CID_VERSION: u8 = 1;
const RAW_CODE: u8 = 0x55;
/// What a kept block takes in memory beside its bytes: key, list and table.
const ENTRY_LEN: usize = 256;

impl Dag {
    /// The block of a CID, verified. The digest of an identity CID is its block: no store is asked for it.
    ///
    /// Callers at the same time share one reading; what was verified before is not hashed again while it is kept
    /// ([`DagOptions::verified_len_max`](super::DagOptions::verified_len_max)).
    ///
    /// # Errors
    /// `NotFound` if it is absent; `Corrupt` if the store gave other bytes; `TooLarge` past [`DAG_BLOCK_LEN_MAX`];
    /// `Unavailable`.
    pub async fn get_block(&self, cid: &Cid) -> Result<Bytes> {
        if let Some(content) = cid.identity() {
            return Ok(Bytes::copy_from_slice(content));
        }
        let key = BlockKey::from(cid);
        if let Some(block) = self.kept_elsewhere(&key) {
            return Ok(block);
        }
        let held = self.verified.get_or_read(&key, || self.read_block(cid, &key)).await;
        self.or_elsewhere(cid, &key, true, held).await.map_err(|error| error.at(cid))
    }

    /// The block as the store has it now, verified; not one that was kept.
    ///
    /// # Errors
    /// As [`Dag::get_block`].
    pub(crate) async fn read_afresh(&self, cid: &Cid) -> Result<Bytes> {
        match cid.identity() {
            Some(content) => Ok(Bytes::copy_from_slice(content)),
            None => self.read_block(cid, &BlockKey::from(cid)).await.map_err(|error| error.at(cid)),
        }
    }

    /// The block, verified, for one who will not ask again: it is not kept because of this.
    pub(super) async fn get_block_once(&self, cid: &Cid) -> Result<Bytes> {
        let key = BlockKey::from(cid);
        if let Some(block) = self.verified.get(&key).or_else(|| self.kept_elsewhere(&key)) {
            return Ok(block);
        }
        let held = self.read_afresh(cid).await;
        self.or_elsewhere(cid, &key, false, held).await
    }

    async fn read_block(&self, cid: &Cid, key: &BlockKey) -> Result<Bytes> {
        let read = self.read_unmarked(cid, key).await;
        if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt) {
            self.verified.mark_bad(key);
        }
        read
    }

    async fn read_unmarked(&self, cid: &Cid, key: &BlockKey) -> Result<Bytes> {
        let block = self.blocks.get(key).await?;
        let block = block.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "dag.get_block").because("the store does not hold this block")
        })?;
        self.check(cid, &block).await?;
        Ok(block)
    }

    /// Refuses a block that is not the one of a CID.
    pub(super) async fn check(&self, cid: &Cid, block: &Bytes) -> Result<()> {
        check_len(block, "dag.get_block")?;
        self.hashing.verify(cid, block).await
    }

    /// How long the block of a CID is, in bytes, as its store says; `None` if it is absent.
    pub(crate) async fn block_len(&self, cid: &Cid) -> Result<Option<u64>> {
        match cid.identity() {
            Some(content) => Ok(Some(content.len() as u64)),
            None => self.blocks.block_len(&BlockKey::from(cid)).await,
        }
    }

    /// Whether the store has the block of a CID; what it has is not looked at.
    pub(crate) async fn has_block(&self, cid: &Cid) -> Result<bool> {
        Ok(cid.identity().is_some() || self.blocks.has(&BlockKey::from(cid)).await?)
    }

    /// Whether the store has the block of a CID, and if it does, has it count as put just now: so that a session keeps it as
    /// it keeps what is put. What it has is not looked at; what it was found to hold other bytes for counts as absent.
    pub(super) async fn keep_block(&self, cid: &Cid) -> Result<bool> {
        if cid.identity().is_some() {
            return Ok(true);
        }
        let key = BlockKey::from(cid);
        let putting = self.epochs.putting(&key).await;
        if self.verified.is_bad(&key) || !self.blocks.has(&key).await? {
            return Ok(false);
        }
        putting.stamp(&key);
        Ok(true)
    }

    /// Every key of the store below, as [`BlockStore::keys`](crate::BlockStore::keys).
    pub fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.blocks.keys()
    }

    /// Reads the block of a key from the store, whatever is kept in memory, and hashes it; how long it is, in bytes.
    ///
    /// For who checks all that a store holds: no CID is known, and so not what the block is, but that its bytes are those of
    /// the key. `None` where it is not there.
    ///
    /// # Errors
    /// `Corrupt` where the bytes are others, where the store found them to be bad, and for a key that no block of a DAG
    /// has; `Unsupported` for a hash that is not known. The path is the block's CID as plain bytes.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{BlockKey, Codec, block::Mem, dag::{Dag, DagOptions}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    /// let cid = dag.put_block(Codec::DagCbor, b"\xf6"[..].into()).await?;
    /// assert_eq!(dag.check_block(&BlockKey::from(&cid)).await?, Some(1));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub async fn check_block(&self, key: &BlockKey) -> Result<Option<u64>> {
        let plain = [&[CID_VERSION, RAW_CODE][..], key.as_bytes()].concat();
        let cid = Cid::from_bytes(&plain).map_err(|error| {
            let path = key.as_bytes().escape_ascii().to_string();
            Error::new(ErrorKind::Corrupt, "dag.check_block").at(path).because(error)
        })?;
        match self.read_afresh(&cid).await {
            Ok(block) => Ok(Some(block.len() as u64)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // Named by the CID, wherever in the store it lies.
            Err(error) => Err(Error::new(error.kind(), "dag.check_block").at(cid).because(error)),
        }
    }

    /// Puts a block, by sha2-256, and gives its CID: of the version the parameters say for dag-pb, 1 for all else.
    ///
    /// Idempotent. Visible when it returns, durable after [`Dag::flush`].
    ///
    /// # Errors
    /// `TooLarge` past [`DAG_BLOCK_LEN_MAX`]; `NoSpace`, `ReadOnly`, `Unavailable`.
    pub async fn put_block(&self, codec: Codec, block: Bytes) -> Result<Cid> {
        check_len(&block, "dag.put_block")?;
        let cid = self.params().cid_of_digest(codec, self.hashing.sha256(&block).await);
        self.put_hashed(&cid, block).await?;
        Ok(cid)
    }

    /// Puts a block whose CID the caller has computed from these very bytes: it is not hashed again.
    pub(crate) async fn put_hashed(&self, cid: &Cid, block: Bytes) -> Result<()> {
        debug_assert!(cid.verify(&block).is_ok(), "the caller hashed other bytes");
        check_len(&block, "dag.put_block")?;
        if cid.identity().is_some() {
            return Ok(());
        }
        let key = BlockKey::from(cid);
        let putting = self.epochs.putting(&key).await;
        if self.verified.is_bad(&key) {
            self.replace(&key, block).await?;
        } else {
            self.blocks.put(&key, block).await?;
        }
        putting.stamp(&key);
        Ok(())
    }

    /// Puts a block in the place of other bytes that the store gave for it: a store keeps what it has, so those are deleted
    /// first. Left half way the key stays marked, and the next put does it.
    async fn replace(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        let _turn = self.verified.replacing.lock().await;
        // Another may have done so by now: a good block is deleted by nobody.
        let found = self.blocks.get(key).await;
        if self.verified.is_bad(key) && !matches!(found, Ok(Some(found)) if found == block) {
            self.blocks.delete(key).await?;
        }
        self.blocks.put(key, block).await?;
        self.verified.unmark_bad(key);
        Ok(())
    }
}

pub(super) fn check_len(block: &[u8], op: &'static str) -> Result<()> {
    if block.len() > DAG_BLOCK_LEN_MAX {
        return Err(Error::new(ErrorKind::TooLarge, op).because("a block has at most 2 MiB"));
    }
    Ok(())
}

/// The verified blocks that are kept, and those that are being read.
pub(super) struct Verified {
    shards: Box<[Mutex<Shard>]>,
    shard_len_max: usize,
    /// The keys that the store gave other bytes for.
    bad: Mutex<HashSet<BlockKey>>,
    /// Whoever holds it replaces bad bytes.
    replacing: tokio::sync::Mutex<()>,
}

struct Shard {
    kept: LruCache<BlockKey, Bytes>,
    kept_len: usize,
    readings: HashMap<BlockKey, Arc<OnceCell<Outcome>>>,
}

/// What came of a reading.
type Outcome = Result<Bytes, Arc<Error>>;

impl Verified {
    /// Keeps blocks of at most `len_max` bytes together, what is spent on keeping them included.
    pub(super) fn new(len_max: usize) -> Self {
        let count = (len_max / SHARD_LEN_MIN).clamp(1, SHARD_COUNT_MAX);
        let shard = || Shard { kept: LruCache::unbounded(), kept_len: 0, readings: HashMap::new() };
        Self {
            shards: (0..count).map(|_| Mutex::new(shard())).collect(),
            shard_len_max: len_max / count,
            bad: Mutex::default(),
            replacing: tokio::sync::Mutex::default(),
        }
    }

    fn bad(&self) -> MutexGuard<'_, HashSet<BlockKey>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark_bad(&self, key: &BlockKey) {
        let mut bad = self.bad();
        if bad.len() < BAD_COUNT_MAX {
            bad.insert(key.clone());
        }
    }

    fn is_bad(&self, key: &BlockKey) -> bool {
        self.bad().contains(key)
    }

    fn unmark_bad(&self, key: &BlockKey) {
        self.bad().remove(key);
    }

    /// A lock is held for a few steps that do not panic; were one to, the shard would still be whole.
    fn shard(&self, key: &BlockKey) -> MutexGuard<'_, Shard> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % self.shards.len() as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &BlockKey) -> Option<Bytes> {
        self.shard(key).kept.get(key).cloned()
    }

    /// The block that is kept, or else what `read` gives, which is kept then. Callers at the same time share one reading; what
    /// failed is tried again by the next in line, so an absence or an outage is nobody's answer but his who saw it.
    pub(super) async fn get_or_read<F>(&self, key: &BlockKey, read: impl FnOnce() -> F) -> Result<Bytes>
    where
        F: Future<Output = Result<Bytes>>,
    {
        if let Some(block) = self.get(key) {
            return Ok(block);
        }
        let reading = self.reading(key);
        let outcome = reading.cell.get_or_try_init(|| async { self.read_kept(key, read).await.map(Ok) });
        outcome.await?.clone().map_err(|error| Error::new(error.kind(), "dag.get_block").because(error))
    }

    /// The same where reading may take long: a failure is the answer of all who waited for it, and is tried again for who
    /// comes afterwards. Else each of them would wait for those before him, and then as long himself.
    pub(super) async fn get_or_fetch<F>(&self, key: &BlockKey, fetch: impl FnOnce() -> F) -> Outcome
    where
        F: Future<Output = Result<Bytes>>,
    {
        if let Some(block) = self.get(key) {
            return Ok(block);
        }
        let reading = self.reading(key);
        let outcome = reading.cell.get_or_init(|| async {
            let outcome = self.read_kept(key, fetch).await.map_err(Arc::new);
            if outcome.is_err() {
                reading.end();
            }
            outcome
        });
        outcome.await.clone()
    }

    async fn read_kept<F>(&self, key: &BlockKey, read: impl FnOnce() -> F) -> Result<Bytes>
    where
        F: Future<Output = Result<Bytes>>,
    {
        // A reading that ended between the look and the wait has left its block.
        if let Some(block) = self.get(key) {
            return Ok(block);
        }
        let block = read().await?;
        self.keep(key.clone(), block.clone());
        Ok(block)
    }

    fn keep(&self, key: BlockKey, block: Bytes) {
        let cost = block.len() + ENTRY_LEN;
        if cost > self.shard_len_max {
            return;
        }
        let mut shard = self.shard(&key);
        if let Some(before) = shard.kept.put(key, block) {
            shard.kept_len -= before.len() + ENTRY_LEN;
        }
        shard.kept_len += cost;
        while shard.kept_len > self.shard_len_max {
            let Some((_, oldest)) = shard.kept.pop_lru() else { break };
            shard.kept_len -= oldest.len() + ENTRY_LEN;
        }
    }

    /// Lets a block go that the store has no more.
    pub(super) fn forget(&self, key: &BlockKey) {
        let mut shard = self.shard(key);
        if let Some(block) = shard.kept.pop(key) {
            shard.kept_len -= block.len() + ENTRY_LEN;
        }
    }

    /// Joins the reading of a block that is under way, or begins one.
    fn reading(&self, key: &BlockKey) -> Reading<'_> {
        let cell = Arc::clone(self.shard(key).readings.entry(key.clone()).or_default());
        Reading { verified: self, key: key.clone(), cell }
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified({} shards of {} bytes)", self.shards.len(), self.shard_len_max)
    }
}

/// One caller's part in a reading; the last to leave, also by being cancelled, ends it.
struct Reading<'a> {
    verified: &'a Verified,
    key: BlockKey,
    cell: Arc<OnceCell<Outcome>>,
}

impl Reading<'_> {
    /// Has nobody join it any more.
    fn end(&self) {
        let mut shard = self.verified.shard(&self.key);
        if shard.readings.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            shard.readings.remove(&self.key);
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // Cells are cloned and let go under the lock of the table only: so the last to leave finds the table's alone.
        let mut shard = self.verified.shard(&self.key);
        drop(mem::take(&mut self.cell));
        if shard.readings.get(&self.key).is_some_and(|cell| Arc::strong_count(cell) == 1) {
            shard.readings.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures_util::{future::join_all, stream::BoxStream};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::cid_of;
    use crate::{
        BlockStore,
        block::Mem,
        dag::{DagOptions, Profile},
    };

    /// A store that counts its gets and can be told to lie, to be out of order and to wait.
    #[derive(Debug)]
    struct Watched {
        inner: Mem,
        gets: AtomicUsize,
        deletes: AtomicUsize,
        gate: Semaphore,
        lie: Mutex<Option<Bytes>>,
        outages: AtomicUsize,
    }

    #[async_trait]
    impl BlockStore for Watched {
        async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
            self.gets.fetch_add(1, Ordering::SeqCst);
            drop(self.gate.acquire().await.expect("open"));
            if self.outages.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err(Error::new(ErrorKind::Unavailable, "test.get"));
            }
            let lie = self.lie.lock().expect("whole").clone();
            if lie.is_some() { Ok(lie) } else { self.inner.get(key).await }
        }
        async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
            self.inner.put(key, block).await
        }
        async fn delete(&self, key: &BlockKey) -> Result<()> {
            self.deletes.fetch_add(1, Ordering::SeqCst);
            self.inner.delete(key).await
        }
        fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
            self.inner.keys()
        }
    }

    fn watched(options: DagOptions) -> (Arc<Watched>, Dag) {
        let store = Arc::new(Watched {
            inner: Mem::default(),
            gets: AtomicUsize::new(0),
            deletes: AtomicUsize::new(0),
            gate: Semaphore::new(1000),
            lie: Mutex::new(None),
            outages: AtomicUsize::new(0),
        });
        (Arc::clone(&store), Dag::new(store, options))
    }

    /// Bad bytes stayed for ever: a store keeps what it has, so putting the block again changed nothing.
    #[tokio::test]
    async fn a_block_that_was_found_corrupt_is_replaced_by_putting_it_again() {
        let (store, dag) = watched(DagOptions { verified_len_max: 0, ..DagOptions::default() });
        let cid = cid_of(Codec::Raw, &block(9, 1));
        store.put(&BlockKey::from(&cid), block(9, 2)).await.expect("other bytes under its key");
        dag.put_block(Codec::Raw, block(9, 1)).await.expect("it is there, says the store");
        for _ in 0..2 {
            assert_eq!(dag.get_block(&cid).await.expect_err("other bytes").kind(), ErrorKind::Corrupt);
        }
        dag.put_block(Codec::Raw, block(9, 1)).await.expect("put");
        assert_eq!(dag.get_block(&cid).await.expect("replaced"), block(9, 1));

        // A lie on the way is no reason to delete what is good.
        *store.lie.lock().expect("whole") = Some(block(9, 3));
        assert_eq!(dag.get_block(&cid).await.expect_err("a lie").kind(), ErrorKind::Corrupt);
        *store.lie.lock().expect("whole") = None;
        let deletes = store.deletes.load(Ordering::SeqCst);
        dag.put_block(Codec::Raw, block(9, 1)).await.expect("put");
        assert_eq!(store.deletes.load(Ordering::SeqCst), deletes);
        assert_eq!(dag.get_block(&cid).await.expect("good"), block(9, 1));
    }

    fn block(len: usize, fill: u8) -> Bytes {
        vec![fill; len].into()
    }

    #[tokio::test]
    async fn a_block_is_read_and_hashed_once() {
        let (store, dag) = watched(DagOptions::default());
        for len in [0, 1, 1 << 18, DAG_BLOCK_LEN_MAX] {
            let cid = dag.put_block(Codec::Raw, block(len, 7)).await.expect("put");
            assert_eq!(dag.put_block(Codec::Raw, block(len, 7)).await.expect("again"), cid);
            store.gets.store(0, Ordering::SeqCst);
            for _ in 0..3 {
                assert_eq!(dag.get_block(&cid).await.expect("kept"), block(len, 7));
            }
            assert_eq!(store.gets.load(Ordering::SeqCst), 1, "{len}");
        }
    }

    /// The same bytes under another codec or version are the same block.
    #[tokio::test]
    async fn blocks_are_kept_by_multihash() {
        let (store, dag) = watched(DagOptions::default());
        let pb = dag.put_block(Codec::DagPb, Bytes::new()).await.expect("put");
        dag.get_block(&pb).await.expect("kept");
        let digest = pb.digest().try_into().expect("32 bytes");
        for cid in [Cid::v0_sha256(digest), Cid::v1_sha256(Codec::Raw, digest)] {
            assert_eq!(dag.get_block(&cid).await.expect("the same block"), Bytes::new());
        }
        assert_eq!(store.gets.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn wrong_bytes_are_never_given() {
        let (store, dag) = watched(DagOptions::default());
        let cid = dag.put_block(Codec::Raw, block(1 << 20, 1)).await.expect("put");
        for lie in [Bytes::new(), block(1 << 20, 2), block((1 << 20) - 1, 1)] {
            *store.lie.lock().expect("whole") = Some(lie);
            assert_eq!(dag.get_block(&cid).await.expect_err("a lie").kind(), ErrorKind::Corrupt);
        }
        *store.lie.lock().expect("whole") = Some(block(DAG_BLOCK_LEN_MAX + 1, 1));
        assert_eq!(dag.get_block(&cid).await.expect_err("too long").kind(), ErrorKind::TooLarge);
        *store.lie.lock().expect("whole") = None;
        dag.get_block(&cid).await.expect("the truth");
        *store.lie.lock().expect("whole") = Some(Bytes::new());
        dag.get_block(&cid).await.expect("kept since then");
    }

    #[tokio::test]
    async fn an_identity_cid_asks_no_store() {
        let (store, dag) = watched(DagOptions::default());
        let cid: Cid = "bafkqabiaaebagba".parse().expect("a CID");
        assert_eq!(dag.get_block(&cid).await.expect("itself"), &b"\x00\x01\x02\x03\x04"[..]);
        dag.put_hashed(&cid, Bytes::from_static(b"\x00\x01\x02\x03\x04")).await.expect("nothing to do");
        assert_eq!((store.gets.load(Ordering::SeqCst), store.inner.block_count()), (0, 0));
    }

    #[tokio::test]
    async fn too_long_and_absent_blocks() {
        let (_, dag) = watched(DagOptions::default());
        let error = dag.put_block(Codec::Raw, block(DAG_BLOCK_LEN_MAX + 1, 0)).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let cid = cid_of(Codec::Raw, b"absent");
        let error = dag.get_block(&cid).await.expect_err("absent");
        assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(cid.to_string().as_str())));
        dag.put_block(Codec::Raw, Bytes::from_static(b"absent")).await.expect("put");
        dag.get_block(&cid).await.expect("an absence is not kept");
    }

    #[tokio::test]
    async fn the_version_follows_the_parameters() {
        let params = Profile::UnixfsV0_2015.params();
        let (_, dag) = watched(DagOptions { params, ..DagOptions::default() });
        for (codec, version) in [(Codec::DagPb, 0), (Codec::Raw, 1), (Codec::DagCbor, 1), (Codec::DagJson, 1)] {
            let cid = dag.put_block(codec, Bytes::from_static(b"\x0a\x00")).await.expect("put");
            assert_eq!((cid.version(), cid.codec()), (version, Some(codec)));
            dag.get_block(&cid).await.expect("by either");
        }
    }

    #[tokio::test]
    async fn callers_at_the_same_time_share_one_reading() {
        let (store, dag) = watched(DagOptions { verified_len_max: 0, ..DagOptions::default() });
        let cid = dag.put_block(Codec::Raw, block(1000, 9)).await.expect("put");
        let closed = store.gate.acquire_many(1000).await.expect("open");
        let readers: Vec<_> = (0..20)
            .map(|_| {
                tokio::spawn({
                    let dag = dag.clone();
                    async move { dag.get_block(&cid).await }
                })
            })
            .collect();
        let cell = loop {
            // All twenty hold the cell, and the table does.
            let cell = dag.verified.shard(&BlockKey::from(&cid)).readings.values().next().cloned();
            if let Some(cell) = cell
                && Arc::strong_count(&cell) == 22
            {
                break cell;
            }
            tokio::task::yield_now().await;
        };
        drop((closed, cell));
        for reader in join_all(readers).await {
            assert_eq!(reader.expect("no panic").expect("read"), block(1000, 9));
        }
        assert_eq!(store.gets.load(Ordering::SeqCst), 1);
        assert!(dag.verified.shard(&BlockKey::from(&cid)).readings.is_empty(), "nothing is left behind");
    }

    /// A reader that fails or goes away leaves the reading to those who wait.
    #[tokio::test]
    async fn a_reading_survives_its_reader() {
        let (store, dag) = watched(DagOptions::default());
        let cid = dag.put_block(Codec::Raw, block(1000, 9)).await.expect("put");
        store.outages.store(1, Ordering::SeqCst);
        let both = join_all([dag.get_block(&cid), dag.get_block(&cid)]).await;
        let kinds: Vec<_> = both.iter().map(|result| result.as_ref().err().map(Error::kind)).collect();
        assert_eq!(kinds, [Some(ErrorKind::Unavailable), None]);

        let cid = dag.put_block(Codec::Raw, block(1000, 8)).await.expect("put");
        let closed = store.gate.acquire_many(1000).await.expect("open");
        let first = tokio::spawn({
            let dag = dag.clone();
            async move { dag.get_block(&cid).await }
        });
        while dag.verified.shard(&BlockKey::from(&cid)).readings.is_empty() {
            tokio::task::yield_now().await;
        }
        first.abort();
        first.await.expect_err("cancelled");
        drop(closed);
        assert_eq!(dag.get_block(&cid).await.expect("read by another"), block(1000, 8));
    }

    /// Eight readers of a block that nobody finds in time wait once, not eight times.
    #[tokio::test]
    async fn who_waits_for_what_is_far_away_shares_its_failure() {
        let (far, _) = watched(DagOptions::default());
        let near = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let dag = near.with_elsewhere(far.clone());
        let cid = cid_of(Codec::Raw, &block(1000, 9));
        let key = BlockKey::from(&cid);
        far.put(&key, block(1000, 9)).await.expect("put");
        far.outages.store(1, Ordering::SeqCst);
        let closed = far.gate.acquire_many(1000).await.expect("open");
        let readers: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn({
                    let dag = dag.clone();
                    async move { dag.get_block(&cid).await }
                })
            })
            .collect();
        let verified = &dag.elsewhere.as_ref().expect("a place").verified;
        while verified.shard(&key).readings.get(&key).is_none_or(|cell| Arc::strong_count(cell) < 9) {
            tokio::task::yield_now().await;
        }
        drop(closed);
        for reader in join_all(readers).await {
            let error = reader.expect("no panic").expect_err("an outage");
            assert_eq!((error.kind(), error.path()), (ErrorKind::Unavailable, Some(cid.to_string().as_str())));
        }
        assert_eq!(far.gets.load(Ordering::SeqCst), 1);
        assert!(verified.shard(&key).readings.is_empty(), "nothing is left behind");
        assert_eq!(dag.get_block(&cid).await.expect("it is back"), block(1000, 9));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        for len_max in [0, 1000, SHARD_LEN_MIN, 64 << 20] {
            let verified = Verified::new(len_max);
            for number in 0..3000_u32 {
                let key = BlockKey::new(&number.to_be_bytes()).expect("a key");
                verified.keep(key.clone(), block(number as usize * 20, 0));
                verified.keep(key, block(number as usize * 20, 0));
            }
            let mut kept_len = 0;
            for shard in &verified.shards {
                let shard = shard.lock().expect("whole");
                let len: usize = shard.kept.iter().map(|(_, block)| block.len() + ENTRY_LEN).sum();
                assert_eq!(len, shard.kept_len);
                kept_len += len;
            }
            assert!(kept_len <= len_max, "{kept_len} of {len_max}");
            assert!(len_max < SHARD_LEN_MIN || kept_len > len_max / 2, "{kept_len} of {len_max}");
        }
    }

    #[test]
    fn what_is_used_stays() {
        let verified = Verified::new(3 * (ENTRY_LEN + 10));
        let key = |byte| BlockKey::new(&[byte]).expect("a key");
        for byte in 0..10 {
            verified.keep(key(byte), block(10, byte));
            assert_eq!(verified.get(&key(0)), Some(block(10, 0)));
        }
        assert_eq!((verified.get(&key(5)), verified.get(&key(9))), (None, Some(block(10, 9))));
    }

    /// The futures can go from thread to thread, as servers want.
    #[test]
    fn futures_are_send() {
        fn is_send<T: Send>(_: &T) {}
        let (_, dag) = watched(DagOptions::default());
        let cid = cid_of(Codec::Raw, b"");
        is_send(&dag.get_block(&cid));
        is_send(&dag.put_block(Codec::Raw, Bytes::new()));
    }
}
