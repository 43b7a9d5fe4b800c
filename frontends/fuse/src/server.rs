//! A mount: the session with the kernel, what all requests share, and the end of it.

use std::{
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fuser::{Config, Session, SessionACL};
use muxfs::{
    Error, ErrorKind, FileKind, Result,
    vfs::{
        Attr, Vfs, ext,
        narrow::{read_only_view, subtree},
        watch::{Change, Changes, Watch},
    },
};
use rustix::io::Errno;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    attach::attach,
    kernel::{Kernel, READ_AHEAD_LEN},
    nodes::{Nodes, Trust},
    notify,
    options::Options,
    passthrough::Passthrough,
    place,
};

/// The bytes of requests and replies in flight: bounds what a mount takes in memory while its stores are slow.
pub const IN_FLIGHT_LEN_MAX: usize = 64 << 20;

/// In flight is counted in units of so many bytes, and each request takes one more.
const UNIT_LEN: u32 = 4096;
#[expect(clippy::cast_possible_truncation, reason = "64 MiB are few units")]
const UNIT_COUNT: u32 = (IN_FLIGHT_LEN_MAX / UNIT_LEN as usize) as u32;

/// The most event loops: one copies what is written and starts a task, which is quick.
const LOOP_COUNT_MAX: usize = 4;

/// How a store that is out of reach is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The low bits of an fsid that say `.history`: the lists of its commits change by themselves. Spec: spec/vfs.md #fsid
const HISTORY_FSID: u64 = 1;
const LEAF_FSID_MASK: u64 = 0xff;

/// What the requests of one mount share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) changes: Changes,
    pub(crate) passthrough: Passthrough,
    pub(crate) options: Options,
    pub(crate) runtime: Handle,
    /// What the kernel is to be told besides what others change.
    pub(crate) own: mpsc::UnboundedSender<Change>,
    /// Nothing is answered any more.
    pub(crate) abandoned: CancellationToken,
    /// When something was asked last.
    asked: Arc<Asked>,
    room: Arc<Semaphore>,
}

/// When the kernel asked something last.
#[derive(Debug)]
struct Asked {
    begun: Instant,
    /// In milliseconds from there.
    after: AtomicU64,
}

impl Asked {
    fn now() -> Self {
        Self { begun: Instant::now(), after: AtomicU64::new(0) }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Shared {
    /// Notes that something is asked now.
    pub(crate) fn is_asked(&self) {
        self.asked.after.store(self.asked.elapsed_ms(), Ordering::Relaxed);
    }

    /// Room for a request of `len` bytes; waits until there is.
    pub(crate) fn room(&self, len: u32) -> Option<OwnedSemaphorePermit> {
        let units = (1 + len.div_ceil(UNIT_LEN)).min(UNIT_COUNT);
        let room = self.room.clone();
        match room.clone().try_acquire_many_owned(units) {
            Ok(permit) => Some(permit),
            // Nobody closes it.
            Err(_) => self.runtime.block_on(room.acquire_many_owned(units)).ok(),
        }
    }

    /// Asks the file system, again and again while a store is out of reach, but not for ever.
    pub(crate) async fn ask<T, F: Future<Output = Result<T>>>(&self, mut call: impl FnMut() -> F) -> Result<T> {
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            match call().await {
                Err(error)
                    if error.kind() == ErrorKind::Unavailable && begun.elapsed() < self.options.unavailable_after =>
                {
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                answer => return answer,
            }
        }
    }

    /// What the kernel may believe of a node.
    pub(crate) fn trust_of(&self, attr: &Attr) -> Trust {
        trust_of(attr, &self.options)
    }
}

fn trust_of(attr: &Attr, options: &Options) -> Trust {
    if options.outside.contains(&attr.fsid) {
        return Trust::Outside;
    }
    match attr.fsid.0 & LEAF_FSID_MASK == HISTORY_FSID {
        // What has a CID there is committed, and what is committed is not changed there.
        true if attr.cid.is_some() => Trust::Frozen,
        true => Trust::Unwatched,
        false => Trust::Watched,
    }
}

/// A mounted file system. When it is dropped it is taken out of its place; calls under way end by themselves.
#[derive(Debug)]
pub struct Mounted {
    dir: PathBuf,
    passes_through: bool,
    /// The session is over: what is at `dir` now is another's.
    left: CancellationToken,
    abandoned: CancellationToken,
    asked: Arc<Asked>,
    ended: watch::Receiver<Option<Arc<Result<()>>>>,
}

/// Mounts a part of what `watch` stands before at `dir`, which must be a directory. Ready when it returns.
///
/// A mount that a crashed process left there is replaced. Must be called within a tokio runtime of several threads,
/// which serves the requests and must outlive the mount; no thread of it may use the mounted directory by calls that
/// block.
///
/// ```no_run
/// # async fn example() -> muxfs::Result<()> {
/// use muxfs::{testing, testing::model::ModelFs, vfs::watch::Watch};
/// use muxfs_fuse::{Options, mount};
///
/// let watch = Watch::new(ModelFs::new(testing::env()));
/// let mounted = mount(&watch, "/mnt/x", Options::default()).await?;
/// // std::fs works below /mnt/x, in this process and in others.
/// mounted.unmount().await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// `NotFound`, `NotDir` for `dir`, or for what is to be mounted; `Exists` where a MuxFS is mounted already; `Unsupported`
/// where the system has no FUSE, `Denied` where the user may not; each says what to do.
pub async fn mount(watch: &Watch, dir: impl AsRef<Path>, mut options: Options) -> Result<Mounted> {
    let dir = dir.as_ref().to_owned();
    let nodes = Arc::new(Nodes::new());
    let known = nodes.clone();
    let (view, changes) = watch.caching_view(Box::new(move |ino| known.knows(ino)));
    let (top, attr) = ext::walk(&view, view.root(), &options.below).await?;
    if attr.kind != FileKind::Dir {
        return Err(Error::new(ErrorKind::NotDir, "fuse.mount").because("only a directory can be mounted"));
    }
    if !options.below.is_empty() {
        // A part of one file system shows no other, and goes by word alone where that one does.
        options.outside.retain(|fsid| fsid.0 & !LEAF_FSID_MASK == attr.fsid.0 & !LEAF_FSID_MASK);
    }
    nodes.set_root(attr.ino, trust_of(&attr, &options));
    let mut vfs = if options.below.is_empty() { view } else { subtree(view, top) };
    if options.read_only {
        vfs = read_only_view(vfs);
    }

    let (own, own_invalid) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(UNIT_COUNT as usize));
    let runtime = Handle::current();
    let passthrough = Passthrough::new();
    let (abandoned, asked) = (CancellationToken::new(), Arc::new(Asked::now()));
    let shared = Arc::new(Shared {
        vfs,
        nodes,
        changes,
        passthrough,
        options,
        runtime: runtime.clone(),
        own,
        abandoned: abandoned.clone(),
        asked: asked.clone(),
        room,
    });
    let kernel = Kernel::new(shared.clone());
    let session = runtime.spawn_blocking(move || {
        let dir = place::prepare(&dir)?;
        let device = attach(&dir, &shared.options).map_err(|error| place::refused(&dir, error))?;
        let told_by = device.try_clone().map_err(bug)?;
        let acl = if shared.options.allow_other { SessionACL::All } else { SessionACL::Owner };
        let session = Session::from_fd(kernel, device, acl, config()).map_err(|error| {
            place::clear(&dir);
            place::refused(&dir, error)
        })?;
        place::read_ahead(&dir, READ_AHEAD_LEN);
        Ok::<_, Error>((session, told_by, dir, shared))
    });
    let (session, device, dir, shared) = session.await.map_err(bug)??;

    let passes_through = shared.passthrough.is_on();
    let (stop, left) = (CancellationToken::new(), CancellationToken::new());
    let (ended, receiver) = watch::channel(None);
    let (over, session_over) = tokio::sync::oneshot::channel();
    let telling = notify::start(shared.clone(), session.notifier(), device, own_invalid, stop.clone())?;
    let leaving = left.clone();
    let run = move || {
        let served = session.run().or_else(|error| match Errno::from_io_error(&error) {
            // What a loop is told that was taking a request while the file system went.
            Some(Errno::CONNABORTED) => Ok(()),
            _ => Err(error),
        });
        leaving.cancel();
        // Nobody waits for it once the runtime is gone.
        over.send(served).ok();
    };
    thread::Builder::new().name("fuse".into()).spawn(run).map_err(bug)?;
    let at = dir.clone();
    tokio::spawn(async move {
        let served = session_over.await.unwrap_or_else(|_| Err(io::Error::other("a panic ended it")));
        let all = shared.room.acquire_many(UNIT_COUNT).await;
        let synced = shared.vfs.sync(shared.vfs.root()).await;
        for (ino, count) in shared.nodes.drain() {
            shared.vfs.release(ino, count);
        }
        stop.cancel();
        telling.await;
        drop(all);
        // And with it the lease of what is mounted.
        drop(shared);
        tokio::task::spawn_blocking(move || place::clear(&at)).await.ok();
        let served = served.map_err(|error| Error::new(ErrorKind::Io, "fuse.session").because(error));
        ended.send_replace(Some(Arc::new(served.and(synced))));
    });
    Ok(Mounted { dir, passes_through, left, abandoned, asked, ended: receiver })
}

fn bug(error: impl Into<muxfs::BoxError>) -> Error {
    Error::new(ErrorKind::Internal, "fuse.mount").because(error)
}

fn config() -> Config {
    let mut config = Config::default();
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    config.n_threads = Some(cores.clamp(2, LOOP_COUNT_MAX));
    config.clone_fd = place::can_open_device();
    config
}

impl Mounted {
    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the kernel reads and writes host files by itself.
    pub fn passes_through(&self) -> bool {
        self.passes_through
    }

    /// How long nothing has been asked of it. What the kernel answers by itself, from what it was told before, is not counted.
    pub fn idle(&self) -> Duration {
        let after = self.asked.after.load(Ordering::Relaxed);
        Duration::from_millis(self.asked.elapsed_ms().saturating_sub(after))
    }

    /// Waits until it is unmounted, by whomever, and everything that was written is durable.
    ///
    /// # Errors
    /// `Io` where the session with the kernel failed; those of [`Vfs::sync`].
    pub async fn wait(&self) -> Result<()> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => match ended.as_deref() {
                None | Some(Ok(())) => Ok(()),
                Some(Err(error)) => {
                    Err(Error::new(error.kind(), "fuse.session").at(self.dir.display()).because(format!("{error:#}")))
                }
            },
            Err(_) => Err(bug("the runtime ended before the mount")),
        }
    }

    /// Unmounts, and waits until everything that was written is durable.
    ///
    /// # Errors
    /// `Unavailable` while programs use it, and it stays mounted; those of [`Mounted::wait`].
    pub async fn unmount(&self) -> Result<()> {
        self.take_out(false).await?;
        self.wait().await
    }

    /// Takes it out of its place at once, whoever uses it; those may go on until they close what they have open.
    ///
    /// # Errors
    /// `Denied`, `Io`.
    pub async fn detach(&self) -> Result<()> {
        self.take_out(true).await
    }

    /// Answers whoever still uses it with EIO from now on: for a process that is about to end, and with it what would
    /// answer.
    pub fn abandon(&self) {
        self.abandoned.cancel();
    }

    async fn take_out(&self, lazy: bool) -> Result<()> {
        if self.left.is_cancelled() {
            return Ok(());
        }
        let dir = self.dir.clone();
        let taken = tokio::task::spawn_blocking(move || place::unmount(&dir, lazy)).await.map_err(bug)?;
        match taken {
            // Somebody else was first.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => Ok(()),
            taken => taken,
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.left.is_cancelled() {
            return;
        }
        if let Err(error) = place::unmount(&self.dir, true) {
            tracing::debug!("{error:#}");
        }
    }
}
