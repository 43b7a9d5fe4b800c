//! Cuts files into chunks and stores them: read by one, hashed, sealed and stored by several.
//!
//! ```text
//!   bytes in order ----> some chunks together, that wait ----> workers: hash, known? seal, ask, send
//!                                                                 '----> the chunks of each content
//! ```
//!
//! What waits and what is being worked on is all that is in memory of the files. A chunk that was met before is not even sealed:
//! its bytes have the hash of others. Spec: spec/flist.md #making.

use std::{
    collections::{HashMap, hash_map::Entry},
    io::Read,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    stores::Stores,
    tar::Unpacking,
    tree::{ContentId, Tree},
};
use crate::{
    chunk::{Chunk, Key},
    flist::Format,
};

/// How long chunks are that are made, in bytes.
pub(super) const CHUNK_LEN_MADE: usize = 512 << 10;
/// So many chunks are under way to stores that answer over a network.
const REMOTE_COUNT: usize = 8;
/// So many chunks go to a worker together: they are hashed side by side, which takes a third of what one after the other does.
const TOGETHER_COUNT: usize = 4;
/// What is remembered of a chunk takes about so many bytes.
const CHUNK_WEIGHT: usize = 160;
const OP: &str = "flist.fill";

/// What was done so far, for who shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of files that were read.
    pub bytes: AtomicU64,
    /// Nodes that were met.
    pub nodes: AtomicU64,
    /// What was gone, or something else, when it was to be read: each is told by a warning.
    pub skipped: AtomicU64,
    /// Files that were changed while they were read, told so too: what was read of them is in the flist.
    pub changed: AtomicU64,
}

impl Progress {
    pub(super) fn skip(&self, path: &Path) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(path = %path.display(), "left out: it vanished, or became something else, while it was read");
    }

    pub(super) fn change(&self, path: &Path) {
        self.changed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(path = %path.display(), "it was changed while it was read");
    }
}

/// A chunk to be made: whose it is, which one, and its bytes.
#[derive(Debug)]
struct Job {
    content: ContentId,
    index: usize,
    plain: Bytes,
}

/// Some of them, and who takes them.
type Sending = (mpsc::Sender<Vec<Job>>, Vec<Job>);

#[derive(Debug, Default)]
struct Done {
    /// The chunks of contents, in any order.
    made: Vec<(ContentId, usize, Chunk)>,
    /// By the hash of its bytes; `None` while somebody makes it.
    known: HashMap<Key, Option<Chunk>>,
    failed: Option<Error>,
    chunks_stored: u64,
    bytes_stored: u64,
}

#[derive(Debug)]
struct Shared {
    format: Format,
    stores: Arc<Stores>,
    runtime: Handle,
    done: Mutex<Done>,
}

/// What became of the chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Filled {
    /// Different ones.
    pub(super) chunks: u64,
    /// Those that a store had not, and their bytes as they are stored.
    pub(super) chunks_stored: u64,
    pub(super) bytes_stored: u64,
}

/// Fills a tree.
#[derive(Debug)]
pub(crate) struct Filler {
    pub(crate) tree: Tree,
    pub(crate) progress: Arc<Progress>,
    pub(super) unpacking: Unpacking,
    /// Those that wait for others to go with them.
    gathered: Vec<Job>,
    jobs: Option<mpsc::Sender<Vec<Job>>>,
    workers: Vec<thread::JoinHandle<()>>,
    shared: Arc<Shared>,
    /// How many syncs of the stores had failed when it began.
    failure_count: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunks of some bytes, each stored by whoever met it first.
    fn make(&self, jobs: &[Job]) -> Result<Vec<Chunk>> {
        let keys = Key::of(self.format, jobs.iter().map(|job| &job.plain[..]));
        let mut made: Vec<Option<Chunk>> = Vec::with_capacity(jobs.len());
        // Which are sealed, and whether they are sent, too.
        let mut sealed = Vec::new();
        {
            let mut done = self.lock();
            for (at, key) in keys.iter().enumerate() {
                let (known, is_first) = match done.known.entry(*key) {
                    Entry::Occupied(known) => (*known.get(), false),
                    Entry::Vacant(unknown) => (*unknown.insert(None), true),
                };
                made.push(known);
                if known.is_none() {
                    sealed.push((at, is_first));
                }
            }
        }
        let plain: Vec<_> =
            sealed.iter().filter_map(|(at, _)| Some((*keys.get(*at)?, &jobs.get(*at)?.plain[..]))).collect();
        let chunks = Chunk::seal(self.format, &plain)?;
        for (((at, is_first), (key, _)), (chunk, stored)) in sealed.into_iter().zip(plain).zip(chunks) {
            if is_first {
                let is_new = self.runtime.block_on(self.stores.put(&chunk, &stored))?;
                let mut done = self.lock();
                done.known.insert(key, Some(chunk));
                if is_new {
                    done.chunks_stored += 1;
                    done.bytes_stored += stored.len() as u64;
                }
            }
            if let Some(place) = made.get_mut(at) {
                *place = Some(chunk);
            }
        }
        Ok(made.into_iter().flatten().collect())
    }

    fn work(&self, waiting: &Mutex<mpsc::Receiver<Vec<Job>>>) {
        loop {
            let jobs = waiting.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(jobs) = jobs else { return };
            match self.make(&jobs) {
                Ok(chunks) => {
                    let made = jobs.iter().zip(chunks).map(|(job, chunk)| (job.content, job.index, chunk));
                    self.lock().made.extend(made);
                }
                Err(error) => {
                    self.lock().failed.get_or_insert(error);
                    return;
                }
            }
        }
    }
}

impl Filler {
    /// Fills `tree` with files whose chunks go to `stores`.
    ///
    /// # Errors
    /// `InvalidArgument` where some chunks have no store.
    pub(super) fn new(
        tree: Tree,
        format: Format,
        stores: Arc<Stores>,
        (progress, unpacking): (Arc<Progress>, Unpacking),
    ) -> Result<Self> {
        stores.check()?;
        let failure_count = stores.failure_count();
        let cores = thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let count = if stores.is_remote() { cores.max(REMOTE_COUNT) } else { cores };
        // As many wait as are worked on.
        let (jobs, waiting) = mpsc::channel(count);
        let waiting = Arc::new(Mutex::new(waiting));
        let shared = Arc::new(Shared { format, stores, runtime: Handle::current(), done: Mutex::default() });
        let worker = |_| {
            let (shared, waiting) = (shared.clone(), waiting.clone());
            thread::spawn(move || shared.work(&waiting))
        };
        let workers = (0..count).map(worker).collect();
        Ok(Self { tree, progress, unpacking, gathered: Vec::new(), jobs: Some(jobs), workers, shared, failure_count })
    }

    /// Sees to it that nothing that is stored is in what is read.
    ///
    /// # Errors
    /// Those of [`Stores::check_not_in`].
    pub(super) fn check_stores_are_not_in(&self, source: &Path) -> Result<()> {
        self.shared.stores.check_not_in(source)
    }

    /// Why no more is taken.
    fn stopped(&self) -> Error {
        let failed = self.shared.lock().failed.take();
        failed.unwrap_or_else(|| Error::new(ErrorKind::Internal, OP).because("no worker is left"))
    }

    /// Takes a chunk; what is to be sent now, and where to.
    fn gather(&mut self, content: ContentId, index: usize, plain: Bytes) -> Result<Option<Sending>> {
        if self.shared.lock().failed.is_some() {
            return Err(self.stopped());
        }
        self.tree.take(CHUNK_WEIGHT)?;
        self.progress.bytes.fetch_add(plain.len() as u64, Ordering::Relaxed);
        self.gathered.push(Job { content, index, plain });
        if self.gathered.len() < TOGETHER_COUNT { Ok(None) } else { self.sending().map(Some) }
    }

    /// All that was gathered.
    fn sending(&mut self) -> Result<Sending> {
        let to = self.jobs.clone().ok_or_else(|| Error::new(ErrorKind::Internal, OP))?;
        Ok((to, std::mem::take(&mut self.gathered)))
    }

    /// The chunk `index` of a content, all [`CHUNK_LEN_MADE`] bytes of it but of the last. It waits where too many wait already, and
    /// is called where that is allowed.
    ///
    /// # Errors
    /// What a chunk before it failed with.
    pub(crate) fn push(&mut self, content: ContentId, index: usize, plain: Bytes) -> Result<()> {
        let Some((to, jobs)) = self.gather(content, index, plain)? else { return Ok(()) };
        to.blocking_send(jobs).map_err(|_| self.stopped())
    }

    /// The same, for who must not wait otherwise.
    ///
    /// # Errors
    /// Those of [`Filler::push`].
    pub(crate) async fn push_async(&mut self, content: ContentId, index: usize, plain: Bytes) -> Result<()> {
        let Some((to, jobs)) = self.gather(content, index, plain)? else { return Ok(()) };
        to.send(jobs).await.map_err(|_| self.stopped())
    }

    /// A content of all that a reader gives, perhaps so many bytes, and its length in bytes.
    ///
    /// # Errors
    /// Those of reading, as `failed` has them; those of [`Filler::push`].
    pub(crate) fn read(
        &mut self,
        mut bytes: impl Read,
        len_hint: u64,
        failed: impl Fn(std::io::Error) -> Error,
    ) -> Result<(ContentId, u64)> {
        let content = self.tree.new_content(CHUNK_LEN_MADE);
        let (mut len, mut index) = (0, 0);
        let len_hint = usize::try_from(len_hint).unwrap_or(usize::MAX);
        loop {
            let mut piece = Vec::with_capacity(len_hint.min(CHUNK_LEN_MADE));
            let read = (&mut bytes).take(CHUNK_LEN_MADE as u64).read_to_end(&mut piece).map_err(&failed)?;
            if read > 0 {
                len += read as u64;
                self.push(content, index, piece.into())?;
                index += 1;
            }
            if read < CHUNK_LEN_MADE {
                return Ok((content, len));
            }
        }
    }

    /// The tree, when all its chunks are stored, durably.
    ///
    /// # Errors
    /// What a chunk failed with.
    pub(crate) async fn finish(mut self) -> Result<(Tree, Filled)> {
        let (to, jobs) = self.sending()?;
        if !jobs.is_empty() {
            to.send(jobs).await.map_err(|_| self.stopped())?;
        }
        drop(to);
        self.jobs = None;
        let workers = std::mem::take(&mut self.workers);
        let joined =
            tokio::task::spawn_blocking(move || workers.into_iter().try_for_each(thread::JoinHandle::join)).await;
        if !matches!(joined, Ok(Ok(()))) {
            return Err(Error::new(ErrorKind::Internal, OP).because("a worker failed"));
        }
        let (mut made, filled) = {
            let mut done = self.shared.lock();
            if let Some(failed) = done.failed.take() {
                return Err(failed);
            }
            let Done { chunks_stored, bytes_stored, .. } = *done;
            let filled = Filled { chunks: done.known.len() as u64, chunks_stored, bytes_stored };
            (std::mem::take(&mut done.made), filled)
        };
        made.sort_unstable_by_key(|(content, index, _)| (content.0, *index));
        for (content, _, chunk) in made {
            if let Some(content) = self.tree.contents.get_mut(content.0) {
                content.chunks.push(chunk);
            }
        }
        self.shared.stores.flush(self.failure_count).await?;
        Ok((self.tree, filled))
    }
}
