//! Blocks, and heads, in packs in a bucket.
//!
//! The store is a log: packs numbered without gaps, each put only where nothing has its number. That alone makes order and
//! fences: whoever takes over puts the next number, and the writer before finds it taken before it can tell anybody that
//! something is durable. Spec: spec/s3-store.md.

use std::{
    fmt,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{BlockKey, BlockStore, Error, ErrorKind, Result, block::BLOCK_LEN_MAX};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::{
    ahead::Ahead,
    bucket::{Bucket, S3Stats},
    fence::Fence,
    kept::Kept,
    log::Log,
};

/// What an opening does with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Access {
    /// Writes, alone: whoever wrote before has ended, or was this one.
    Write,
    /// The same, though another has not said that it ended: somebody knows that it has.
    TakeOver,
    /// Reads, and follows what another writes.
    Follow,
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// What it does.
    pub access: S3Access,
    /// Who it is when it writes: the same after a restart, and no other's, be it a copy of this machine.
    pub writer: String,
    /// What others are told of it: the name of the machine.
    pub host: String,
    /// A pack is full when it has so many bytes; at most 32 MiB.
    pub pack_len: usize,
    /// A directory of this machine that keeps the indexes of packs, so that an opening reads few of them from the bucket; it
    /// may be lost. `None` keeps none.
    pub kept: Option<PathBuf>,
    /// Whether small packs are put together by themselves.
    pub compacts: bool,
}

/// The length of a full pack if nothing else is said, in bytes.
pub const PACK_LEN: usize = 8 << 20;
/// No pack is longer than that and a block, in bytes.
const PACK_LEN_MAX: usize = 32 << 20;

impl S3Options {
    /// To write, as `writer`, with packs of 8 MiB.
    pub fn new(writer: impl Into<String>) -> Self {
        Self {
            access: S3Access::Write,
            writer: writer.into(),
            host: "this machine".into(),
            pack_len: PACK_LEN,
            kept: None,
            compacts: true,
        }
    }
}

/// A [`BlockStore`], and [`Heads`](muxfs::heads::Heads), in a bucket of S3.
///
/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct S3Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) options: S3Options,
    pub(crate) kept: Option<Kept>,
    since: u64,
    id: String,
    log: Mutex<Log>,
    ahead: Mutex<Ahead>,
    /// Goes up whenever a pack was put, or was not.
    pub(crate) changed: watch::Sender<u64>,
    /// The fence, if it is held.
    pub(crate) fence: AsyncMutex<Option<(Fence, Option<String>)>>,
    /// Who swaps a head.
    pub(crate) swapping: Arc<AsyncMutex<()>>,
    /// Who looks for what is new.
    pub(crate) refreshing: AsyncMutex<()>,
    pub(crate) compacting: AsyncMutex<()>,
    /// Who reads a long index.
    pub(crate) long: AsyncMutex<()>,
    /// Whether packs are put together now, or will be.
    pub(crate) upkeep: AtomicBool,
    pub(crate) tasks: TaskTracker,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Store({}, {:?})", self.inner.bucket.place(), self.inner.options.access)
    }
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct S3Usage {
    /// Blocks.
    pub block_count: usize,
    /// Packs, each an object.
    pub pack_count: usize,
    /// The bytes of all blocks in them, and those of blocks that were deleted.
    pub live_len: u64,
    /// See `live_len`.
    pub dead_len: u64,
}

impl S3Store {
    pub(crate) fn over(
        bucket: Arc<Bucket>,
        options: S3Options,
        kept: Option<Kept>,
        (id, since): (String, u64),
    ) -> Self {
        let pack_len = options.pack_len.clamp(1, PACK_LEN_MAX);
        let inner = Inner {
            bucket,
            options: S3Options { pack_len, ..options },
            kept,
            since,
            id,
            log: Mutex::default(),
            ahead: Mutex::default(),
            changed: watch::Sender::default(),
            fence: AsyncMutex::default(),
            swapping: Arc::default(),
            refreshing: AsyncMutex::default(),
            compacting: AsyncMutex::default(),
            long: AsyncMutex::default(),
            upkeep: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What it holds.
    pub fn usage(&self) -> S3Usage {
        let log = self.inner.log();
        let mut all = S3Usage { block_count: log.block_count(), ..S3Usage::default() };
        for (_, usage) in log.index.packs() {
            all.pack_count += 1;
            all.live_len += usage.live_len;
            all.dead_len += usage.len.saturating_sub(usage.live_len);
        }
        all
    }

    /// What it asked of the bucket since it was opened.
    pub fn stats(&self) -> S3Stats {
        self.inner.bucket.stats()
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        self.inner.bucket.place()
    }

    /// Tells stores apart: 32 hexadecimal digits, drawn when it was made.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The first of the epochs that were all of this writer; 1 if nobody else ever wrote there. What a machine has of an earlier one, as a
    /// journal, belongs to a state that went on without it.
    pub fn since(&self) -> u64 {
        self.inner.since
    }

    /// Waits until another machine has taken the writing over, and tells why nothing is written from here any more (`Denied`). Looks
    /// for that every `look_every`, also while nothing is written; for ever where it only follows.
    pub async fn passed_over(&self, look_every: Duration) -> Error {
        let inner = &self.inner;
        let mut changed = inner.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(why) = &inner.log().fenced {
                return inner.fenced(why);
            }
            if timeout(look_every, changed.changed()).await.is_err()
                && let Err(error) = inner.look_at_fence().await
            {
                tracing::debug!(place = self.place(), "who writes there cannot be seen now: {error:#}");
            }
        }
    }

    /// Who opened the store in a bucket last to write: as [`S3Options::writer`] was; `None` where there is none.
    ///
    /// # Errors
    /// Those of the bucket; `Corrupt`.
    pub async fn last_writer(bucket: &Bucket) -> Result<Option<String>> {
        Ok(Fence::load(bucket).await?.map(|(fence, _)| fence.writer))
    }

    /// Makes all that was put durable, says that this writer has ended, so that another may begin, and waits for what goes on in
    /// the background. Repeatable; nothing can be put any more.
    ///
    /// # Errors
    /// As `flush`; also then nothing goes on.
    pub async fn close(&self) -> Result<()> {
        let flushed = self.flush().await;
        // Whatever is sealed from here on would be put though others were told that they may begin.
        let was_open = !std::mem::replace(&mut self.inner.log().closed, true);
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        if self.inner.is_follower() || !was_open || flushed.is_err() {
            return flushed;
        }
        self.inner.advance_fence(true).await
    }
}

impl Inner {
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        // It changes in single steps that do not panic half way.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ahead(&self) -> MutexGuard<'_, Ahead> {
        // As the log.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_follower(&self) -> bool {
        self.options.access == S3Access::Follow
    }

    pub(crate) fn nonce(&self) -> [u8; 16] {
        let mut nonce = [0; 16];
        (self.bucket.env().fill)(&mut nonce);
        nonce
    }

    pub(crate) fn fenced(&self, why: &str) -> Error {
        self.bucket.error(ErrorKind::Denied, "s3.write", "").because(why)
    }

    /// Whether something can be written here at all.
    pub(crate) fn check_writer(&self) -> Result<()> {
        if self.is_follower() {
            let why = "this machine only follows what another writes there";
            return Err(self.bucket.error(ErrorKind::ReadOnly, "s3.write", "").because(why));
        }
        self.check_open(&self.log())
    }

    /// Whether something can be sealed, as long as the lock is held.
    pub(crate) fn check_open(&self, log: &Log) -> Result<()> {
        if let Some(why) = &log.fenced {
            return Err(self.fenced(why));
        }
        if log.closed {
            return Err(self.bucket.error(ErrorKind::Unavailable, "s3.write", "").because("the store is closed"));
        }
        Ok(())
    }
}

#[async_trait]
impl BlockStore for S3Store {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.read(key, None).await
    }

    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.inner.read(key, Some(range)).await
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if block.len() > BLOCK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "s3.put"));
        }
        self.inner.room().await?;
        {
            let mut log = self.inner.log();
            if log.has_good(key) {
                return Ok(());
            }
            self.inner.check_open(&log)?;
            log.put(key, block);
        }
        self.inner.seal_if_full()
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.room().await?;
        {
            let mut log = self.inner.log();
            self.inner.check_open(&log)?;
            log.delete(key);
        }
        self.inner.seal_if_full()
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.inner.check_good(key)?;
        Ok(self.inner.log().len_of(key).is_some())
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.inner.check_good(key)?;
        Ok(self.inner.log().len_of(key))
    }

    async fn flush(&self) -> Result<()> {
        if self.inner.is_follower() {
            return Ok(());
        }
        self.inner.keep_up().await;
        let last = self.inner.seal()?;
        self.inner.sent(last).await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        stream::once(async { stream::iter(self.inner.log().keys().into_iter().map(Ok)) }).flatten().boxed()
    }
}
