//! Blocks on a local disk: a log of blocks and an index of it, both over [`Media`].
//!
//! A `put` appends one record, checksummed, never to be written again: the speed of the disk, one sync for all who
//! wait for `flush`, and recovery that needs to look at the end of the log only. The index says where the block of a
//! key is; it lives in sorted runs on disk, two bytes of memory for a block, because one file per block or a table of
//! all keys in memory end at some millions of blocks. The log is the truth: an index that is missing or damaged is
//! built again from it. Every block that is read is checked against its record's checksum and key.
//!
//! The room of deleted blocks comes back by itself: `compact` copies what is live and drops the rest. Spec: spec/segments.md.

mod compact;
mod entry;
mod index;
mod lookup;
mod manifest;
mod record;
mod run;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use tokio::sync::{Mutex as AsyncMutex, RwLock};
use tokio_util::task::TaskTracker;

pub use self::compact::CompactReport;
use self::{
    entry::{Entry, fingerprint},
    index::{Builder, Found, Memory, Places},
    lookup::{Candidates, KeyScan},
    manifest::Counts,
    record::Change,
    run::Run,
};
use super::{BLOCK_LEN_MAX, BlockKey, BlockStore};
use crate::{
    Env, Error, ErrorKind, Result,
    log::{FRAME_HEADER_LEN, Log, LogOptions, LogPos, RECORD_BODY_LEN_MAX, Record, Replay, detached},
    media::{Media, SegmentId},
};

/// The kind of log that blocks are in.
const KIND: &str = "blocks";
/// Where errors about the index arise; those that are `Corrupt` are mended by building it again.
const INDEX_OP: &str = "segments.index";
/// So many keys can be put or deleted at the same time; two of one key go one after the other.
const STRIPE_COUNT: usize = 64;
/// So many records are remembered to be bad: of a disk with more, each is found again when it is read again.
const ROTTEN_COUNT_MAX: usize = 1 << 16;
const _: () = assert!(BLOCK_LEN_MAX <= RECORD_BODY_LEN_MAX);

/// How far the building of an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildIndex {
    /// How many records were seen.
    pub record_count: u64,
    /// How much of the log was gone through, in bytes.
    pub done_len: u64,
    /// How long the log is, in bytes.
    pub log_len: u64,
}

/// Who is told how far the building of an index is.
pub type OnBuildIndex = Arc<dyn Fn(BuildIndex) + Send + Sync>;

/// Tells whether a disk has no room for new blocks.
pub type IsFull = Arc<dyn Fn() -> bool + Send + Sync>;

/// How a [`Segments`] cuts its files and how much it holds in memory.
#[derive(Clone)]
pub struct SegmentsOptions {
    /// A segment of blocks is closed before it would grow longer, in bytes.
    pub segment_len_max: u32,
    /// So many of the newest records are held in memory, about 50 bytes for each, before they become a run of the
    /// index; twice as many while that is under way. 0 is taken as 1.
    pub memory_count_max: usize,
    /// The index is written down when the log has grown by this, in bytes: what an opening after a crash has to go
    /// through.
    pub checkpoint_len: u64,
    /// Deleted blocks keep their room until they take this much together, in bytes, and the share below.
    pub compact_len_min: u64,
    /// Deleted blocks keep their room until they are this share of the log, in percent. Less room costs more copying: at
    /// 25 a byte that comes back costs up to three that are copied. 100 and more: only `compact` gives room back.
    pub compact_percent_min: u8,
    /// Is told how far the building of the index is, when it is missing or damaged and the log is long.
    pub on_build_index: Option<OnBuildIndex>,
    /// Tells that what is free on the disk is to be left for deletions and compaction, which take a little before they
    /// give more: new blocks are then refused. Asked with every new block. `None` fills the disk.
    pub is_full: Option<IsFull>,
}

impl Default for SegmentsOptions {
    /// Segments of 256 MiB, 131072 records in memory, an index no older than 1 GiB of log; compacted when 64 MiB and a
    /// quarter of the log are dead.
    fn default() -> Self {
        Self {
            segment_len_max: 256 << 20,
            memory_count_max: 1 << 17,
            checkpoint_len: 1 << 30,
            compact_len_min: 64 << 20,
            compact_percent_min: 25,
            on_build_index: None,
            is_full: None,
        }
    }
}

impl fmt::Debug for SegmentsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentsOptions")
            .field("segment_len_max", &self.segment_len_max)
            .field("memory_count_max", &self.memory_count_max)
            .field("checkpoint_len", &self.checkpoint_len)
            .field("compact_len_min", &self.compact_len_min)
            .field("compact_percent_min", &self.compact_percent_min)
            .finish_non_exhaustive()
    }
}

/// What a [`Segments`] holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentsStats {
    /// How many blocks there are.
    pub block_count: u64,
    /// What they take on the media, in bytes, keys and headers included.
    pub live_len: u64,
    /// What deleted blocks still take, in bytes.
    pub dead_len: u64,
}

/// A [`BlockStore`] on a local disk: append-only segments and an index that does not live in memory whole.
///
/// A `put` or `delete` is visible when it returns and durable after `flush`; after a crash everything that was
/// flushed is there, and of the rest the first part in the order of the calls. A block that a `get` found to be bad is
/// `Corrupt` until it is put again or deleted. One store at a time over its media: the
/// caller sees to it.
pub struct Segments {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    places: Places,
    options: SegmentsOptions,
    state: Mutex<State>,
    stripes: Vec<AsyncMutex<()>>,
    /// Whoever holds it writes files of the index.
    upkeep: AsyncMutex<()>,
    /// Held for reading by every call, for writing while the index is built anew.
    gate: RwLock<()>,
    /// Whoever holds it compacts.
    compacting: AsyncMutex<()>,
    /// A compaction that goes on when the store is closed ends with the block that it is at.
    closing: AtomicBool,
    /// Held for reading by every listing of the keys, for writing while segments are dropped.
    listings: Arc<RwLock<()>>,
    /// What goes on in the background.
    tasks: TaskTracker,
}

struct State {
    /// The entries that are in no run.
    memory: Memory,
    /// Entries on their way into a run.
    frozen: Option<Arc<Frozen>>,
    /// The oldest first.
    runs: Arc<Vec<Arc<Run>>>,
    /// Runs that were merged, which someone may still read.
    outdated: Vec<Arc<Run>>,
    counts: Counts,
    /// How much the log grew since the index was written down.
    grown_len: u64,
    /// The records whose block was found to be bad: a `put` does not take them for the block.
    rotten: BTreeSet<LogPos>,
    /// Whether an upkeep is on its way.
    upkeep: bool,
    /// Whether a compaction is on its way that nobody asked for.
    compacting: bool,
    /// How much was deleted since it was asked whether one is worth it, in bytes.
    died_len: u64,
    /// How often the index was built anew.
    generation: u64,
    next_index_id: SegmentId,
}

struct Frozen {
    memory: Memory,
    counts: Counts,
    /// Behind the last record that is in `memory` or in a run.
    covered: LogPos,
}

/// What the index knows of a key.
enum Place {
    Absent,
    At {
        entry: Entry,
        /// The length of the block.
        block_len: u32,
    },
    /// There is a record with the key's fingerprint, and it cannot be read; or one of the key, known to be bad.
    Damaged(Entry),
}

impl Segments {
    /// Opens the store whose blocks are in `data` and whose index is in `index`; two empty media are an empty store.
    ///
    /// Takes the time to read what is held of the index, and what was put after it was last written down. Where the
    /// index is missing or damaged it is built from the log, which takes the time to read the head of every record.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, block::{Segments, SegmentsOptions}, media::MemMedia};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (data, index, env) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()), muxfs::testing::env());
    /// let store = Segments::open(data.clone(), index.clone(), SegmentsOptions::default(), &env).await?;
    /// let key = BlockKey::new(b"k")?;
    /// store.put(&key, "block".into()).await?;
    /// store.flush().await?;
    /// drop(store);
    ///
    /// let store = Segments::open(data, index, SegmentsOptions::default(), &env).await?;
    /// assert_eq!(store.get(&key).await?, Some("block".into()));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Unsupported` for a newer format; `InvalidArgument` if `data` holds something else; and the media's.
    pub async fn open(
        data: Arc<dyn Media>,
        index: Arc<dyn Media>,
        options: SegmentsOptions,
        env: &Env,
    ) -> Result<Self> {
        // Room for none would have a put wait for ever for a run to be written.
        let options = SegmentsOptions { memory_count_max: options.memory_count_max.max(1), ..options };
        let log_options = LogOptions { segment_len_max: options.segment_len_max, ..LogOptions::new(KIND, env) };
        let salt = Log::find_salt(&data, &log_options).await?;
        let mut places = Places { data, index, salt };
        let found = places.find_index().await?;
        let next_id = places.next_index_id().await?;
        let mut builder = Inner::builder(&places, &options, next_id);
        let opened = match found {
            Found::Nothing => Inner::replay(&places, &log_options, None, &mut builder).await.map(Some),
            Found::Missing => {
                tracing::debug!("the blocks have no index yet: it is built from the log");
                Ok(None)
            }
            Found::Useless(why) => Err(Error::new(ErrorKind::Corrupt, INDEX_OP).because(why)),
            Found::Good(manifest, runs) => {
                builder.runs = runs;
                builder.counts = manifest.counts;
                Inner::replay(&places, &log_options, Some(manifest.covered), &mut builder).await.map(Some)
            }
        };
        let opened = match opened {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(%error, cause = format!("{error:#}"), "the index of the blocks is built from the log");
                None
            }
            opened => opened?,
        };
        let built = opened.is_none();
        let log = if let Some(log) = opened {
            log
        } else {
            builder = Inner::builder(&places, &options, builder.next_id);
            builder.report_to(options.on_build_index.clone()).await?;
            let log = Inner::replay(&places, &log_options, None, &mut builder).await?;
            builder.tell(log.end());
            log
        };
        // An index may be older than the beginning of the log.
        builder.counts.usage.retain(|segment, _| *segment >= log.first());
        let state = State {
            memory: builder.memory,
            frozen: None,
            runs: Arc::new(builder.runs),
            outdated: Vec::new(),
            counts: builder.counts,
            // What had to be replayed is in no index yet.
            grown_len: builder.frames_len,
            rotten: BTreeSet::new(),
            upkeep: false,
            compacting: false,
            died_len: 0,
            generation: 0,
            next_index_id: builder.next_id,
        };
        places.salt = Some(log.salt());
        let inner = Arc::new(Inner {
            log,
            places,
            options,
            state: Mutex::new(state),
            stripes: (0..STRIPE_COUNT).map(|_| AsyncMutex::new(())).collect(),
            upkeep: AsyncMutex::new(()),
            gate: RwLock::new(()),
            compacting: AsyncMutex::new(()),
            closing: AtomicBool::new(false),
            listings: Arc::default(),
            tasks: TaskTracker::new(),
        });
        if built {
            inner.write_index(true).await?;
        }
        Ok(Self { inner })
    }

    /// Makes all that was put durable and writes the index down, so that the next opening has nothing to replay.
    ///
    /// For a clean shutdown; without it nothing that was flushed is lost.
    ///
    /// # Errors
    /// As `flush`.
    pub async fn checkpoint(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let work = async move { inner.checkpoint().await };
        detached("segments.checkpoint", self.inner.tasks.track_future(work)).await
    }

    /// Does as `checkpoint`, ends the log and waits for what goes on in the background: when it returns the media are used
    /// no more by this store, and another may be opened over them.
    ///
    /// For a clean shutdown; without it nothing that was flushed is lost. Repeatable. Reads go on; puts and deletes are
    /// `Unavailable` from here on.
    ///
    /// # Errors
    /// As `flush`; also then nothing goes on in the background.
    pub async fn close(&self) -> Result<()> {
        self.inner.closing.store(true, Ordering::Relaxed);
        let written = self.checkpoint().await;
        let ended = self.inner.log.close().await;
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        written.and(ended)
    }

    /// Every key, as [`BlockStore::keys`], with the place of its block, ascending; from `from` on, or all.
    ///
    /// For who goes through all blocks and wants to go on where it stopped: a place that was given once is a good `from` at any
    /// later time, also after a restart. What was before it then and is still there is not given again; blocks that came or
    /// were moved since are behind it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use futures_util::TryStreamExt;
    /// # use muxfs::{BlockKey, BlockStore, block::{Segments, SegmentsOptions}, media::MemMedia};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let (data, index, env) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()), muxfs::testing::env());
    /// let store = Segments::open(data, index, SegmentsOptions::default(), &env).await?;
    /// for key in [b"a", b"b", b"c"] {
    ///     store.put(&BlockKey::new(key)?, "block".into()).await?;
    /// }
    /// let all: Vec<_> = store.keys_from(None).try_collect().await?;
    /// let rest: Vec<_> = store.keys_from(Some(all[1].0)).try_collect().await?;
    /// assert_eq!(rest, all[1..]);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Its items': the listing ends with the first, and is incomplete.
    pub fn keys_from(&self, from: Option<LogPos>) -> BoxStream<'_, Result<(LogPos, BlockKey)>> {
        stream::once(KeyScan::new(&self.inner, from))
            .map_ok(|scan| {
                stream::try_unfold(scan, |mut scan| async move { Ok(scan.next().await?.map(|key| (key, scan))) })
            })
            .try_flatten()
            .boxed()
    }

    /// What the store holds.
    pub fn stats(&self) -> SegmentsStats {
        let state = self.inner.lock();
        SegmentsStats {
            block_count: state.counts.block_count,
            live_len: state.counts.usage.values().map(|usage| usage.live).sum(),
            dead_len: state.counts.usage.values().map(|usage| usage.dead).sum(),
        }
    }
}

impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segments").field("log", &self.inner.log).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[async_trait]
impl BlockStore for Segments {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let generation = self.inner.generation();
        match self.inner.get(key).await {
            Err(error) if index_is_damaged(&error) => {
                self.inner.rebuild(generation, error).await?;
                self.inner.get(key).await
            }
            result => result,
        }
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if block.len() > BLOCK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "segments.put"));
        }
        let generation = self.inner.generation();
        match self.inner.put(key, block.clone()).await {
            Err(error) if index_is_damaged(&error) => {
                self.inner.rebuild(generation, error).await?;
                self.inner.put(key, block).await
            }
            result => result,
        }
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let generation = self.inner.generation();
        match self.inner.delete(key).await {
            Err(error) if index_is_damaged(&error) => {
                self.inner.rebuild(generation, error).await?;
                self.inner.delete(key).await
            }
            result => result,
        }
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        let generation = self.inner.generation();
        match self.inner.has(key).await {
            Err(error) if index_is_damaged(&error) => {
                self.inner.rebuild(generation, error).await?;
                self.inner.has(key).await
            }
            result => result,
        }
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        let generation = self.inner.generation();
        match self.inner.block_len(key).await {
            Err(error) if index_is_damaged(&error) => {
                self.inner.rebuild(generation, error).await?;
                self.inner.block_len(key).await
            }
            result => result,
        }
    }

    async fn flush(&self) -> Result<()> {
        self.inner.log.sync().await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.keys_from(None).map_ok(|(_, key)| key).boxed()
    }
}

impl Inner {
    fn builder(places: &Places, options: &SegmentsOptions, next_id: SegmentId) -> Builder {
        Builder {
            places: places.clone(),
            memory: Memory::default(),
            memory_count_max: options.memory_count_max,
            counts: Counts::default(),
            runs: Vec::new(),
            next_id,
            progress: None,
            record_count: 0,
            frames_len: 0,
        }
    }

    async fn replay(places: &Places, options: &LogOptions, from: Option<LogPos>, builder: &mut Builder) -> Result<Log> {
        let replay = Replay { from, lenient: true, salt: places.salt };
        Log::open_with(Arc::clone(&places.data), options.clone(), replay, builder).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // State changes in single steps that cannot panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generation(&self) -> u64 {
        self.lock().generation
    }

    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let _open = self.gate.read().await;
        let mut candidates = Candidates::new(self, key);
        while let Some(entry) = candidates.next().await? {
            let mut is_bad = false;
            let mut is_key = |head: &[u8]| {
                let change = Change::decode(head);
                is_bad = matches!(change, Some(Change::Lose { .. }));
                change.is_some_and(|change| change.key() == key)
            };
            let found = if entry.deleted {
                let head = self.log.read_head(entry.pos).await;
                head.map(|head| is_key(&head).then_some(None))
            } else {
                self.log.read_frame(entry.pos, entry.len, is_key).await.map(|block| block.map(Some))
            };
            match found {
                Ok(Some(_)) if is_bad => return Err(damaged(entry)),
                Ok(Some(block)) => return Ok(block),
                Ok(None) => {}
                // What counts of its segment was moved while this was looked up.
                Err(_) if self.is_dropped(entry) => candidates = Candidates::new(self, key),
                Err(error) => {
                    if is_lost(&error) && !entry.deleted {
                        self.remember_rotten(entry.pos);
                    }
                    return Err(lost(error, entry));
                }
            }
        }
        Ok(None)
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        let _open = self.gate.read().await;
        match self.find(key).await? {
            Place::Absent => Ok(None),
            Place::At { block_len, .. } => Ok(Some(block_len.into())),
            Place::Damaged(entry) => Err(damaged(entry)),
        }
    }

    fn is_dropped(&self, entry: Entry) -> bool {
        entry.pos.segment < self.log.first()
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        let _open = self.gate.read().await;
        match self.find(key).await? {
            Place::Absent => Ok(false),
            Place::At { .. } => Ok(true),
            Place::Damaged(entry) => Err(damaged(entry)),
        }
    }

    async fn put(self: &Arc<Self>, key: &BlockKey, block: Bytes) -> Result<()> {
        let _open = self.gate.read().await;
        let _turn = self.stripe(key).lock().await;
        let replaced = match self.find(key).await? {
            Place::At { .. } => return Ok(()),
            Place::Damaged(entry) if !entry.deleted => Some((entry.pos, entry.len)),
            Place::Damaged(_) | Place::Absent => None,
        };
        if self.options.is_full.as_ref().is_some_and(|is_full| is_full()) {
            let why = "what is left of the disk is kept for removing: remove something, and collect garbage";
            return Err(Error::new(ErrorKind::NoSpace, "segments.put").because(why));
        }
        if let Some(removed) = replaced {
            self.append(Change::Delete { key: key.clone(), removed: Some(removed) }, Bytes::new()).await?;
        }
        self.append(Change::Put { key: key.clone() }, block).await
    }

    async fn delete(self: &Arc<Self>, key: &BlockKey) -> Result<()> {
        let _open = self.gate.read().await;
        let _turn = self.stripe(key).lock().await;
        let removed = match self.find(key).await? {
            Place::Absent => return Ok(()),
            Place::At { entry, .. } | Place::Damaged(entry) => (!entry.deleted).then_some((entry.pos, entry.len)),
        };
        self.append(Change::Delete { key: key.clone(), removed }, Bytes::new()).await
    }

    /// Appends a record and makes it visible, both in one step.
    async fn append(self: &Arc<Self>, change: Change, body: Bytes) -> Result<()> {
        let prepared = Log::prepare(Record { head: change.encode(), body })?;
        while self.lock().memory.len() >= 2 * self.options.memory_count_max {
            let inner = Arc::clone(self);
            let work = async move { inner.checkpoint().await };
            detached("segments.put", self.tasks.track_future(work)).await?;
        }
        self.log.ready().await?;
        let mut state = self.lock();
        if self.log.end().segment.0 >= u64::from(u32::MAX) {
            return Err(Error::new(ErrorKind::NoSpace, "segments.put").because("all numbers of segments are used up"));
        }
        let placed = self.log.push(prepared)?;
        let State { memory, counts, .. } = &mut *state;
        memory.apply(counts, &change, (placed.pos, placed.len), placed.crc);
        if let Change::Delete { removed: Some((removed, len)), .. } = &change {
            state.rotten.remove(removed);
            state.died_len += u64::from(*len);
            if state.died_len >= self.options.compact_len_min / 4 {
                self.compact_if_worth_it(&mut state);
            }
        }
        state.grown_len += u64::from(placed.len);
        let due = state.memory.len() >= self.options.memory_count_max || state.grown_len >= self.options.checkpoint_len;
        if due && !state.upkeep {
            state.upkeep = true;
            let inner = Arc::clone(self);
            drop(self.tasks.spawn(async move {
                if let Err(error) = inner.checkpoint().await {
                    // Nothing is lost: the entries stay in memory and the next upkeep tries again.
                    tracing::warn!(%error, cause = format!("{error:#}"), "the index could not be written down");
                }
                inner.lock().upkeep = false;
            }));
        }
        Ok(())
    }

    fn remember_rotten(&self, pos: LogPos) {
        let mut state = self.lock();
        if state.rotten.len() < ROTTEN_COUNT_MAX {
            state.rotten.insert(pos);
        }
    }

    fn stripe(&self, key: &BlockKey) -> &AsyncMutex<()> {
        let index = fingerprint(key) % STRIPE_COUNT as u64;
        &self.stripes[usize::try_from(index).unwrap_or(0)]
    }

    /// Looks a key up; the block itself is not read.
    async fn find(&self, key: &BlockKey) -> Result<Place> {
        let mut candidates = Candidates::new(self, key);
        while let Some(entry) = candidates.next().await? {
            match self.log.read_head(entry.pos).await {
                Err(_) if self.is_dropped(entry) => candidates = Candidates::new(self, key),
                Err(error) if is_lost(&error) => return Ok(Place::Damaged(entry)),
                Err(error) => return Err(error),
                Ok(head) => match Change::decode(&head) {
                    Some(change) if change.key() != key => {}
                    Some(_) if entry.deleted => return Ok(Place::Absent),
                    Some(_) if self.lock().rotten.contains(&entry.pos) => return Ok(Place::Damaged(entry)),
                    None | Some(Change::Lose { .. }) => return Ok(Place::Damaged(entry)),
                    Some(_) => {
                        let front_len = u32::try_from(FRAME_HEADER_LEN + head.len()).unwrap_or(u32::MAX);
                        let block_len = entry.len.saturating_sub(front_len);
                        return Ok(Place::At { entry, block_len });
                    }
                },
            }
        }
        Ok(Place::Absent)
    }
}

fn index_is_damaged(error: &Error) -> bool {
    error.op() == INDEX_OP && matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound)
}

fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound)
}

/// A record that the index knows and that is not there is damage, not absence.
fn lost(error: Error, entry: Entry) -> Error {
    if is_lost(&error) { damaged(entry).because(error) } else { error }
}

fn damaged(entry: Entry) -> Error {
    Error::new(ErrorKind::Corrupt, "segments.get").at(entry.pos)
}
