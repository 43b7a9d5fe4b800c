//! The store: what it is asked is ordered of the thread that writes, or read beside it.

use std::{
    collections::HashSet,
    fmt, fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering,
        mpsc::{self, Sender},
    },
    thread,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    BlockKey, BlockStore, Error, ErrorKind, Name, Result,
    block::{BLOCK_LEN_MAX, IsFull},
    heads::{HEAD_LEN_MAX, Heads, Swap, Version},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    batch::{Order, Write, Written},
    failed::corrupt,
    file::{Mode, beside, one_path, open_reader, open_writer},
    lock::Lock,
    readers::Readers,
    rows,
    writer::{Ask, Progress, Writer},
};

/// What waits to be written takes no more memory, in KiB: who wants to put more waits.
const ROOM_KIB: u32 = 32 << 10;
/// So many keys are listed at a time.
const KEY_COUNT: usize = 1024;
/// So many keys are remembered under which something bad was found: of more, each is found again when it is read again.
const BAD_COUNT_MAX: usize = 1 << 16;

/// How a store is opened.
#[derive(Clone, Default)]
pub struct SqliteOptions {
    /// Whether it is only read: beside a process that writes, and where nothing can be written. The file has to be there.
    pub read_only: bool,
    /// The file grows no longer, in bytes: a put past that is `NoSpace`. The log beside it is not counted, 64 MiB as a rule.
    pub len_max: Option<u64>,
    /// Tells whether the disk is to take no more blocks: asked on each `put`, which is `NoSpace` then. While 128 MiB are free
    /// there is room for what is in the log to go into the file, and for the log of deletions; a disk that is full to the
    /// last byte takes no deletion either.
    pub is_full: Option<IsFull>,
}

impl fmt::Debug for SqliteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read_only, len_max, .. } = self;
        f.debug_struct("SqliteOptions").field("read_only", read_only).field("len_max", len_max).finish_non_exhaustive()
    }
}

/// What a store holds, in bytes but for the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SqliteUsage {
    /// Blocks.
    pub block_count: u64,
    /// What is in them.
    pub block_len: u64,
    /// The file when the log is in it, free pages included.
    pub file_len: u64,
    /// What is free in it.
    pub free_len: u64,
    /// The log beside it.
    pub log_len: u64,
}

/// What a store did since it was opened, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SqliteStats {
    /// Transactions that changed something.
    pub transaction_count: u64,
    /// Those of them that were synced.
    pub sync_count: u64,
    /// Blocks that came or went, and heads that were swapped.
    pub change_count: u64,
    /// Blocks there are; 0 where it is only read.
    pub block_count: u64,
    /// The bytes in them.
    pub block_len: u64,
}

/// A [`BlockStore`], and [`Heads`], in one SQLite file.
///
/// Cheap to clone; all clones are one. When the last is dropped its thread ends by itself; [`close`](Self::close) waits for
/// that and puts all into the one file.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// Absent where it is only read.
    asks: Option<Sender<Ask>>,
    readers: Readers,
    progress: Arc<Progress>,
    room: Arc<Semaphore>,
    is_full: Option<IsFull>,
    /// Keys under which something bad was found: a put replaces it.
    bad: Mutex<HashSet<BlockKey>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteStore({})", self.inner.path.display())
    }
}

impl SqliteStore {
    /// Opens the store in the file at `path`, and makes it where it is absent or empty, unless it is only read.
    ///
    /// ```
    /// use muxfs::{BlockKey, BlockStore};
    /// use muxfs_sqlite::{SqliteOptions, SqliteStore};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("blocks.sqlite");
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let store = SqliteStore::open(&path, SqliteOptions::default()).await?;
    /// let key = BlockKey::new(b"key")?;
    /// store.put(&key, "block".into()).await?;
    /// store.flush().await?;
    /// assert_eq!(store.get(&key).await?, Some("block".into()));
    /// store.close().await?;
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Unavailable` where another process writes there, saying which; `InvalidArgument` where it is the database of another
    /// program; `Unsupported` where a newer version made it; `Corrupt`; `NotFound` where its directory is absent; `Denied`,
    /// `ReadOnly`, `NoSpace`, `Io`.
    pub async fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(&path, &options)).await;
        opened.map_err(|error| Error::new(ErrorKind::Internal, "sqlite.open").because(error))?
    }

    fn open_blocking(path: &Path, options: &SqliteOptions) -> Result<Self> {
        let path = one_path(path)?;
        let progress = Arc::new(Progress::default());
        let (asks, mode) = if options.read_only {
            (None, open_reader(&path)?.1)
        } else {
            let lock = Lock::take(&path)?;
            let connection = open_writer(&path, options.len_max)?;
            let held = rows::usage(&connection)?;
            progress.block_count.store(i64::try_from(held.block_count).unwrap_or(i64::MAX), Ordering::Relaxed);
            progress.block_len.store(i64::try_from(held.block_len).unwrap_or(i64::MAX), Ordering::Relaxed);
            let (asks, asked) = mpsc::channel();
            // What the one before committed may not be synced.
            let writer = Writer {
                connection,
                path: path.clone(),
                progress: progress.clone(),
                is_dirty: true,
                vacuum: None,
                _lock: lock,
            };
            let spawned = thread::Builder::new().name("muxfs-sqlite".into()).spawn(move || writer.run(&asked));
            // It ends when nobody can ask it any more.
            drop(spawned.map_err(|error| Error::new(ErrorKind::Unavailable, "sqlite.open").because(error))?);
            (Some(asks), Mode::Read)
        };
        let readers = Readers::new(path.clone(), mode);
        let room = Arc::new(Semaphore::new(ROOM_KIB as usize));
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                asks,
                readers,
                progress,
                room,
                is_full: options.is_full.clone(),
                bad: Mutex::default(),
            }),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What it holds.
    ///
    /// # Errors
    /// `Corrupt`, `Unavailable`, `Io`.
    pub async fn usage(&self) -> Result<SqliteUsage> {
        let path = self.inner.path.clone();
        let read = move |connection: &mut rusqlite::Connection| {
            let log_len = fs::metadata(beside(&path, "-wal")).map_or(0, |log| log.len());
            Ok(SqliteUsage { log_len, ..rows::usage(connection)? })
        };
        self.inner.readers.read(read).await
    }

    /// What it did, and what it holds, without asking the file.
    pub fn stats(&self) -> SqliteStats {
        let progress = &self.inner.progress;
        SqliteStats {
            transaction_count: progress.transaction_count.load(Ordering::Relaxed),
            sync_count: progress.sync_count.load(Ordering::Relaxed),
            change_count: progress.change_count.load(Ordering::Relaxed),
            block_count: progress.block_count.load(Ordering::Relaxed).max(0).unsigned_abs(),
            block_len: progress.block_len.load(Ordering::Relaxed).max(0).unsigned_abs(),
        }
    }

    /// Gives all that is free in the file back to the disk. What is put meanwhile waits for a step of it at most. Where more
    /// than an eighth of the file is free, half of that is given back without being asked for.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSpace`, `Unavailable`, `Io`.
    pub async fn compact(&self) -> Result<()> {
        self.inner.ask("sqlite.compact", Ask::Compact).await?
    }

    /// Makes all that was put durable, puts it into the one file, closes that and gives its lock back. Repeatable; nothing
    /// can be read or put any more.
    ///
    /// # Errors
    /// As `flush`; also then it is closed.
    pub async fn close(&self) -> Result<()> {
        self.inner.readers.close().await;
        match self.inner.ask("sqlite.close", Ask::Stop).await {
            Ok(stopped) => stopped,
            // It is closed, or was only read.
            Err(_) => Ok(()),
        }
    }
}

impl Inner {
    fn bad(&self) -> MutexGuard<'_, HashSet<BlockKey>> {
        // A set is whole whatever panics around it.
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_good(&self, key: &BlockKey) -> Result<()> {
        if self.bad().contains(key) { Err(corrupt("sqlite.has", "it was read and is bad")) } else { Ok(()) }
    }

    /// Asks the thread that writes.
    async fn ask<T>(&self, op: &'static str, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T> {
        let Some(asks) = &self.asks else {
            let why = "it was opened to be read alone";
            return Err(Error::new(ErrorKind::ReadOnly, op).at(self.path.display()).because(why));
        };
        let (reply, replied) = oneshot::channel();
        let closed = || Error::new(ErrorKind::Unavailable, op).at(self.path.display()).because("the store is closed");
        asks.send(ask(reply)).map_err(|_gone| closed())?;
        replied.await.map_err(|_gone| closed())
    }

    async fn write(&self, op: &'static str, write: Write, room: Option<OwnedSemaphorePermit>) -> Result<Written> {
        self.ask(op, |reply| Ask::Write(Order { write, reply, _room: room })).await?
    }

    /// Waits until there is memory for so many bytes.
    async fn room(&self, len: usize) -> Result<Option<OwnedSemaphorePermit>> {
        let kib = u32::try_from(len / 1024 + 1).unwrap_or(u32::MAX).min(ROOM_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await;
        room.map(Some).map_err(|closed| Error::new(ErrorKind::Internal, "sqlite.put").because(closed))
    }
}

#[async_trait]
impl BlockStore for SqliteStore {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let wanted = key.clone();
        let read = self.inner.readers.read(move |connection| rows::block(connection, &wanted)).await;
        if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt) {
            let mut bad = self.inner.bad();
            if bad.len() < BAD_COUNT_MAX {
                bad.insert(key.clone());
            }
        }
        read
    }

    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.inner.check_good(key)?;
        let key = key.clone();
        self.inner.readers.read(move |connection| rows::part(connection, &key, range)).await
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        const OP: &str = "sqlite.put";
        if block.len() > BLOCK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, OP));
        }
        if self.inner.is_full.as_ref().is_some_and(|is_full| is_full()) {
            let why = "what is left of the disk is for what is deleted";
            return Err(Error::new(ErrorKind::NoSpace, OP).at(self.inner.path.display()).because(why));
        }
        let room = self.inner.room(block.len()).await?;
        let replaces = self.inner.bad().contains(key);
        self.inner.write(OP, Write::Put { key: key.clone(), block, replaces }, room).await?;
        if replaces {
            self.inner.bad().remove(key);
        }
        Ok(())
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let room = self.inner.room(0).await?;
        self.inner.write("sqlite.delete", Write::Delete { key: key.clone() }, room).await?;
        self.inner.bad().remove(key);
        Ok(())
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.inner.check_good(key)?;
        let key = key.clone();
        let has = move |connection: &mut rusqlite::Connection| rows::has(connection, &key);
        self.inner.readers.read(has).await
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.inner.check_good(key)?;
        let key = key.clone();
        self.inner.readers.read(move |connection| rows::len(connection, &key)).await
    }

    async fn flush(&self) -> Result<()> {
        if self.inner.asks.is_none() {
            return Ok(());
        }
        self.inner.write("sqlite.flush", Write::Flush, None).await.map(drop)
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        // Each page is a reading of its own: one that lasted would keep the log from beginning anew.
        stream::try_unfold(None, move |last: Option<BlockKey>| async move {
            let after = last.clone();
            let page =
                move |connection: &mut rusqlite::Connection| rows::keys_after(connection, after.as_ref(), KEY_COUNT);
            let keys = self.inner.readers.read(page).await?;
            Ok::<_, Error>(keys.last().cloned().map(|last| (stream::iter(keys.into_iter().map(Ok)), Some(last))))
        })
        .try_flatten()
        .boxed()
    }
}

#[async_trait]
impl Heads for SqliteStore {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        // What a swap wrote that could not be synced may be there, and be gone later.
        self.inner.progress.check()?;
        let name = name.clone();
        let found = self.inner.readers.read(move |connection| rows::head(connection, &name)).await?;
        self.inner.progress.check()?;
        Ok(found.map(|(head, number)| (head, rows::version(number))))
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        const OP: &str = "heads.swap";
        if head.len() > HEAD_LEN_MAX {
            let why = format!("a head has at most {HEAD_LEN_MAX} bytes");
            return Err(Error::new(ErrorKind::TooLarge, OP).because(why));
        }
        let room = self.inner.room(head.len()).await?;
        let write = Write::Swap { name: name.clone(), expected: expected.cloned(), head };
        match self.inner.write(OP, write, room).await? {
            Written::Swapped(swap) => Ok(swap),
            Written::Done => Err(Error::new(ErrorKind::Internal, OP).because("a swap was taken for something else")),
        }
    }
}
