//! A directory as a node: there when its disk is, lost while it is not, and back by itself.
//!
//! While it is lost its calls fail at once. The probe that a layer above sends meanwhile (`PROBE_KEY`) has it looked for;
//! when its mark is there its blocks are opened anew, however long that takes, and it is a node as before. No disk is
//! waited for that hangs: see `calls`. Spec: spec/zstor.md #nodes.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    BlockKey, BlockStore, Env, Error, ErrorKind, Result,
    block::{PROBE_KEY, Segments, SegmentsStats},
    log::LogPos,
    media::{Media, MemMedia, OverlayMedia},
};
use muxfs_local::FileMedia;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc::UnboundedSender},
    time::timeout,
};

use crate::{
    calls::{CALL_TIME_MAX, Calls},
    files::{Files, Watch, lost},
    key::failed,
    mark::{Found, Mark, StoreId, identity},
    node::{Look, NodeStore, SegmentsOptionsOf},
    space::{DiskRoom, Room, asked_elsewhere},
    store::Access,
};

/// The file by which a directory is known to be a node.
const MARK: &str = "muxfs-node";
/// So much is asked of a disk at a time; so many threads are lost to one that hangs.
const CALL_COUNT_MAX: usize = 16;
/// A closing takes no longer for one node.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(30);
/// So many keys are listed at a time.
const LISTED_COUNT: usize = 4096;
/// So many blocks are put or deleted between two flushes; one is made where there would be more.
const UNFLUSHED_COUNT_MAX: usize = 1 << 16;

/// Opens the files below a directory; makes it where it is missing.
pub(crate) type OpenMedia = Arc<dyn Fn(&Path) -> Result<Arc<dyn Media>> + Send + Sync>;

/// How nodes are opened.
#[derive(Clone)]
pub(crate) struct How {
    pub(crate) store: StoreId,
    pub(crate) access: Access,
    pub(crate) segments: SegmentsOptionsOf,
    pub(crate) open_media: OpenMedia,
    pub(crate) env: Env,
    /// Told the names of nodes that are opened.
    pub(crate) opened: UnboundedSender<String>,
}

impl fmt::Debug for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("How").field("access", &self.access).finish_non_exhaustive()
    }
}

pub(crate) fn open_files() -> OpenMedia {
    Arc::new(|dir| Ok(Arc::new(FileMedia::open(dir)?)))
}

/// A node that is a directory.
pub(crate) struct Dir {
    me: Weak<Self>,
    name: String,
    path: PathBuf,
    described: String,
    is_made: bool,
    how: How,
    /// For what is asked of the directory itself, one thing at a time.
    looks: Arc<Calls>,
    /// Whoever holds it opens it.
    opening: Arc<AsyncMutex<()>>,
    state: Mutex<State>,
    /// The blocks that were put or deleted since the last flush: what has to be there when the node is back, and what not.
    unflushed: Mutex<Unflushed>,
    room: Arc<Room>,
    is_closed: AtomicBool,
}

enum State {
    Open(Arc<Open>),
    Lost(String),
}

#[derive(Default)]
struct Unflushed {
    /// The number of the latest change.
    latest: u64,
    /// The latest change of each block, with its number.
    changes: HashMap<BlockKey, (u64, Change)>,
    /// Blocks whose change was lost with the directory, as far as was looked, and is to be made again.
    undone: HashSet<BlockKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Put,
    Deleted,
}

impl Unflushed {
    fn note(&mut self, key: &BlockKey, change: Change) {
        self.latest += 1;
        self.changes.insert(key.clone(), (self.latest, change));
        self.undone.remove(key);
    }
}

/// What is open of a node.
struct Open {
    segments: Arc<Segments>,
    files: [Arc<Files>; 2],
    calls: Arc<Calls>,
    flushes: Arc<Calls>,
    watch: Arc<Watch>,
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dir({})", self.path.display())
    }
}

impl Dir {
    pub(crate) fn new(name: &str, path: &Path, is_made: bool, how: How) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            name: name.into(),
            path: path.into(),
            described: path.display().to_string(),
            is_made,
            how,
            looks: Calls::new(1),
            opening: Arc::default(),
            state: Mutex::new(State::Lost("it was not looked for yet".into())),
            unflushed: Mutex::default(),
            room: Room::of(path),
            is_closed: AtomicBool::new(false),
        })
    }

    fn mark(&self) -> PathBuf {
        self.path.join(MARK)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unflushed(&self) -> MutexGuard<'_, Unflushed> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is open, if nothing is known to be wrong with it.
    ///
    /// # Errors
    /// `Unavailable` with the reason.
    fn open_now(&self) -> Result<Arc<Open>> {
        let open = match &*self.state() {
            State::Open(open) => Arc::clone(open),
            State::Lost(why) => return Err(lost(why)),
        };
        match open.watch.gone() {
            None => open.calls.check().map(|()| open),
            Some(why) => {
                let error = lost(why);
                self.lose(why);
                Err(error)
            }
        }
    }

    /// The same, for a call that reads; the mark is looked at now and then.
    async fn open_for_call(&self) -> Result<Arc<Open>> {
        let open = self.open_now()?;
        if let Err(gone) = open.watch.look_if_due().await {
            drop(self.open_now());
            return Err(gone);
        }
        Ok(open)
    }

    async fn open_alone(self: Arc<Self>, calls: Arc<Calls>, _turn: OwnedMutexGuard<()>) -> Result<()> {
        match self.opened(calls).await {
            Ok(open) => {
                self.recall(&open).await;
                *self.state() = State::Open(Arc::new(open));
                self.room.ask();
                // Nobody may listen any more.
                self.how.opened.send(self.name.clone()).ok();
                Ok(())
            }
            Err(error) => {
                self.lose(&format!("{error:#}"));
                Err(error)
            }
        }
    }

    async fn opened(&self, calls: Arc<Calls>) -> Result<Open> {
        let (path, mark, how) = (self.path.clone(), self.mark(), self.how.clone());
        let prepare = move || {
            let identity = identity(&mark).map_err(|error| failed("zstor.open_node", &mark, error))?;
            let files = |part| -> Result<Arc<dyn Media>> {
                let part = path.join(part);
                // Who looks makes nothing.
                if how.access == Access::Look && !part.exists() {
                    return Ok(Arc::new(MemMedia::default()));
                }
                (how.open_media)(&part)
            };
            let mut options = (how.segments)(&path);
            options.is_full = options.is_full.map(asked_elsewhere);
            Ok::<_, Error>((identity, [files("blocks")?, files("index")?], options))
        };
        let (identity, [blocks, index], options) = calls.run(CALL_TIME_MAX, prepare).await??;
        let watch = Watch::new(self.mark(), identity, Arc::clone(&self.looks));
        let open = async |media| Ok::<_, Error>(Arc::new(Files::open(media, calls.clone(), watch.clone()).await?));
        let files = [open(blocks).await?, open(index).await?];
        let [blocks, index] = files.each_ref().map(|files| -> Arc<dyn Media> {
            match self.how.access {
                Access::Write => files.clone(),
                Access::Look => Arc::new(OverlayMedia::new(files.clone())),
            }
        });
        let segments = Arc::new(Segments::open(blocks, index, options, &self.how.env).await?);
        watch.look().await?;
        Ok(Open { segments, files, calls, flushes: Calls::new(CALL_COUNT_MAX), watch })
    }

    /// Looks which of the changes are there that were made before the node was lost and not flushed. What was deleted is
    /// deleted again, before anybody is told of it: nobody else knows that it came back.
    async fn recall(&self, open: &Open) {
        let changes: Vec<_> =
            self.unflushed().changes.iter().map(|(key, (_, change))| (key.clone(), *change)).collect();
        for (key, change) in changes {
            let is_made = match (open.segments.has(&key).await, change) {
                (Ok(is_there), Change::Put) => is_there,
                (Ok(false), Change::Deleted) => true,
                (Ok(true), Change::Deleted) => open.segments.delete(&key).await.is_ok(),
                (Err(_), _) => false,
            };
            if !is_made {
                self.unflushed().undone.insert(key);
            }
        }
    }

    /// Notes a change that was made in what was open.
    ///
    /// # Errors
    /// `Unavailable` where that was lost meanwhile: nobody looked for the change when the node came back.
    fn note(&self, open: &Open, key: &BlockKey, change: Change) -> Result<()> {
        self.unflushed().note(key, change);
        open.watch.gone().map_or(Ok(()), |why| Err(lost(why)))
    }

    /// Makes room to note one more change.
    async fn flush_if_many(&self) -> Result<()> {
        if self.unflushed().changes.len() >= UNFLUSHED_COUNT_MAX { self.flush().await } else { Ok(()) }
    }

    /// Answers a probe: looks for the node where it is lost, and waits for what hangs.
    async fn probe(&self) -> Result<()> {
        if let Ok(open) = self.open_even_if_it_hangs() {
            // A disk that was exchanged need not answer any more.
            if let Err(error) = open.watch.look().await {
                // Loses what is gone.
                drop(self.open_now());
                return Err(error);
            }
            open.calls.ended().await;
            open.flushes.ended().await;
            return self.open_now().map(drop);
        }
        // Lets go of what is gone.
        drop(self.open_now());
        if self.is_closed.load(Ordering::Relaxed) {
            return self.open_now().map(drop);
        }
        self.come_back().await
    }

    /// The same, for a call that changes something: what is put into a directory that is gone counts as put until the next
    /// flush, which then fails, and by then it may be too late to put it elsewhere.
    async fn open_to_change(&self) -> Result<Arc<Open>> {
        let open = self.open_now()?;
        if let Err(gone) = open.watch.look().await {
            drop(self.open_now());
            return Err(gone);
        }
        Ok(open)
    }

    /// An error of the disk may be but that its directory is gone: then the node is lost.
    async fn unless_gone<T>(&self, open: &Open, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && matches!(error.kind(), ErrorKind::Io | ErrorKind::NotFound)
            && let Err(gone) = open.watch.look().await
        {
            drop(self.open_now());
            return Err(gone);
        }
        result
    }

    fn open_even_if_it_hangs(&self) -> Result<Arc<Open>> {
        match &*self.state() {
            State::Open(open) if open.watch.gone().is_none() => Ok(Arc::clone(open)),
            State::Open(open) => Err(lost(open.watch.gone().unwrap_or_default())),
            State::Lost(why) => Err(lost(why)),
        }
    }
}

#[async_trait]
impl NodeStore for Dir {
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> &str {
        &self.described
    }

    async fn look(&self) -> (Look, Option<(u64, u64)>) {
        let (path, mark, expected) = (self.path.clone(), self.mark(), Mark::new(self.how.store, &self.name));
        let look = move || {
            let look = Mark::find(&mark)
                .map_or_else(|error| Look::Lost(error.to_string()), |found| Look::of(found, &expected));
            (look, identity(&path).ok().map(|place| (place.dev, place.ino)))
        };
        match timeout(CALL_TIME_MAX, self.looks.run(CALL_TIME_MAX, look)).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => (Look::Lost(format!("{error:#}")), None),
            Err(_elapsed) => (Look::Lost("its disk does not answer".into()), None),
        }
    }

    fn refusal(&self, look: &Look) -> Option<String> {
        let dir = self.path.display();
        look.refusal(self.how.access, || format!(
            "there is no file {dir}/muxfs-node: mount the disk of this node; or, to begin it anew and empty: mkdir -p {dir} && touch {dir}/muxfs-node"
        ))
    }

    /// Takes the directory for the store, making it where that is asked for.
    ///
    /// # Errors
    /// `NotFound` if it is not there and not to be made; `Exists` if it is a node already; `Unavailable`, and the disk's.
    async fn take(&self) -> Result<()> {
        const OP: &str = "zstor.take_node";
        let (path, mark_file, is_made) = (self.path.clone(), self.mark(), self.is_made);
        let (mark, open_media) = (Mark::new(self.how.store, &self.name), self.how.open_media.clone());
        let take = move || {
            if is_made {
                // Opened as a media it is made durably.
                drop(open_media(&path.join("blocks"))?);
            } else if !path.is_dir() {
                let why = "the directory of this node is not there: make it, or mount its disk";
                return Err(Error::new(ErrorKind::NotFound, OP).at(path.display()).because(why));
            }
            // Two nodes may have come to one directory by other names of it.
            match Mark::find(&mark_file).map_err(|error| failed(OP, &path, error))? {
                Found::Nothing | Found::Empty => mark.write(&mark_file).map_err(|error| failed(OP, &path, error)),
                Found::Mark(found) if found == mark => Ok(()),
                Found::Mark(_) | Found::Other(_) => {
                    let why = "another node has this directory: each has one of its own";
                    Err(Error::new(ErrorKind::Exists, OP).at(path.display()).because(why))
                }
            }
        };
        match timeout(CALL_TIME_MAX, self.looks.run(CALL_TIME_MAX, take)).await {
            Ok(taken) => taken?,
            Err(_elapsed) => Err(lost("its disk does not answer")),
        }
    }

    /// Opens what it keeps, unless that is being done; a disk that hangs meanwhile is not waited for, and the node is there
    /// when it has answered.
    ///
    /// # Errors
    /// Why it is lost.
    async fn open(&self) -> Result<()> {
        let (Some(me), Ok(turn)) = (self.me.upgrade(), Arc::clone(&self.opening).try_lock_owned()) else {
            return Err(lost("it is being opened"));
        };
        let calls = Calls::new(CALL_COUNT_MAX);
        let opening = tokio::spawn(me.open_alone(Arc::clone(&calls), turn));
        tokio::select! {
            opened = opening => opened.map_err(|stopped| Error::new(ErrorKind::Unavailable, "zstor.open_node").because(stopped))?,
            error = calls.hung() => {
                self.lose(&format!("{error:#}"));
                Err(error)
            }
        }
    }

    /// What is open is never used again: its files are closed when the last call of it has ended.
    fn lose(&self, why: &str) {
        let was_open = {
            let mut state = self.state();
            if let State::Open(open) = &*state {
                open.watch.give_up(why.to_owned());
            }
            std::mem::replace(&mut *state, State::Lost(why.to_owned()))
        };
        if let State::Open(_) = was_open {
            tracing::error!(node = self.name, dir = %self.path.display(), "a node is lost until its directory is back: {why}");
        }
    }

    /// Why nothing is read or written there.
    fn lost(&self) -> Option<String> {
        let error = self.open_now().err()?;
        Some(std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
    }

    /// Whether it is there and never kept a block.
    fn is_empty(&self) -> bool {
        self.segments().is_some_and(|segments| segments.stats() == SegmentsStats::default())
    }

    /// What it takes, in bytes; 0 while it is lost.
    async fn len(&self) -> Result<u64> {
        let Ok(open) = self.open_now() else { return Ok(0) };
        let [blocks, index] = &open.files;
        Ok(blocks.len().await? + index.len().await?)
    }

    fn ask_room(self: Arc<Self>) {
        self.room.ask();
    }

    fn room(&self, deadline: Instant) -> Option<DiskRoom> {
        self.room.answer(deadline)
    }

    /// Its blocks, while they are open.
    fn segments(&self) -> Option<Arc<Segments>> {
        self.open_now().ok().map(|open| Arc::clone(&open.segments))
    }

    /// Makes what was put durable and writes the index down; nothing can be put afterwards. Where the node is lost there is
    /// nothing to do, and it does not come back.
    ///
    /// # Errors
    /// Those of the disk; `Unavailable` where it takes too long.
    async fn close(&self) -> Result<()> {
        self.is_closed.store(true, Ordering::Relaxed);
        let Ok(open) = self.open_now() else { return Ok(()) };
        let closed = tokio::select! {
            closed = timeout(CLOSE_TIME_MAX, open.segments.close()) => {
                closed.unwrap_or_else(|_elapsed| Err(lost("it takes too long to close")))
            }
            error = open.calls.hung() => Err(error),
        };
        closed.map_err(|error| error.at(self.path.display()))
    }
}

#[async_trait]
impl BlockStore for Dir {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let open = self.open_for_call().await?;
        self.unless_gone(&open, open.segments.get(key).await).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        let open = self.open_for_call().await?;
        self.unless_gone(&open, open.segments.get_range(key, range).await).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        let open = self.open_to_change().await?;
        self.flush_if_many().await?;
        self.unless_gone(&open, open.segments.put(key, block).await).await?;
        self.note(&open, key, Change::Put)
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let open = self.open_to_change().await?;
        self.flush_if_many().await?;
        self.unless_gone(&open, open.segments.delete(key).await).await?;
        self.note(&open, key, Change::Deleted)
    }
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        if key.as_bytes() == PROBE_KEY {
            self.probe().await?;
            return Ok(false);
        }
        self.open_for_call().await?.segments.has(key).await
    }
    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.open_for_call().await?.segments.block_len(key).await
    }
    async fn flush(&self) -> Result<()> {
        let open = self.open_now()?;
        let before = self.unflushed().latest;
        let segments = Arc::clone(&open.segments);
        let flushed = open.flushes.follow(CALL_TIME_MAX, async move { segments.flush().await }).await;
        if let Err(error) = self.unless_gone(&open, flushed).await {
            if error.kind() != ErrorKind::Io {
                return Err(error);
            }
            // Its log takes nothing more until it is opened again.
            let why = format!("{error:#}");
            self.lose(&why);
            return Err(lost(&why));
        }
        // What was synced into a directory that went meanwhile is not kept.
        if let Err(error) = open.watch.look().await {
            drop(self.open_now());
            return Err(error);
        }
        let mut unflushed = self.unflushed();
        unflushed.changes.retain(|_, (number, _)| *number > before);
        if unflushed.undone.is_empty() {
            return Ok(());
        }
        let why = format!(
            "it was lost when changes were not durable, and is to be told again of so many blocks: {}",
            unflushed.undone.len()
        );
        Err(Error::new(ErrorKind::Io, "zstor.flush_node").because(why))
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        match self.open_now() {
            Ok(open) => Listing { open, from: None, keys: VecDeque::new(), is_last: false }.into_stream(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
}

/// The keys of what is open, so many at a time: a listing that takes long holds up no compaction.
struct Listing {
    open: Arc<Open>,
    /// The place of the last key that was listed.
    from: Option<LogPos>,
    keys: VecDeque<BlockKey>,
    is_last: bool,
}

impl Listing {
    fn into_stream(self) -> BoxStream<'static, Result<BlockKey>> {
        stream::try_unfold(self, |mut listing| async move {
            loop {
                // A node that is lost does not answer, be it from memory.
                if let Some(why) = listing.open.watch.gone() {
                    return Err(lost(why));
                }
                if let Some(key) = listing.keys.pop_front() {
                    return Ok(Some((key, listing)));
                }
                if listing.is_last {
                    return Ok(None);
                }
                listing.more().await?;
            }
        })
        .boxed()
    }

    async fn more(&mut self) -> Result<()> {
        let from = self.from;
        // The place itself comes again.
        let found: Vec<_> = self.open.segments.keys_from(from).take(LISTED_COUNT).try_collect().await?;
        self.is_last = found.len() < LISTED_COUNT;
        self.from = found.last().map(|(pos, _)| *pos).or(from);
        self.keys.extend(found.into_iter().filter(|(pos, _)| Some(*pos) != from).map(|(_, key)| key));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, sync::atomic::AtomicUsize};

    use futures_util::future::join_all;
    use muxfs::{
        block::SegmentsOptions,
        media::{Segment, SegmentId},
    };
    use tempfile::TempDir;
    use tokio::{
        sync::{
            mpsc::{UnboundedReceiver, unbounded_channel},
            watch,
        },
        time::Instant,
    };

    use super::*;

    /// A disk in memory whose calls hang while it is told so, and end when it is told that.
    #[derive(Debug)]
    struct Disk {
        parts: Mutex<BTreeMap<PathBuf, Arc<MemMedia>>>,
        hangs: watch::Sender<bool>,
        begun: AtomicUsize,
        opened: AtomicUsize,
    }

    #[derive(Debug)]
    struct Part {
        inner: Arc<MemMedia>,
        disk: Arc<Disk>,
    }

    impl Part {
        async fn enter(&self) {
            self.disk.begun.fetch_add(1, Ordering::Relaxed);
            self.disk.hangs.subscribe().wait_for(|hangs| !hangs).await.expect("the disk is there");
        }
    }

    #[async_trait]
    impl Media for Part {
        async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
            self.enter().await;
            self.inner.append(segment, bytes).await
        }
        async fn sync(&self, segment: SegmentId) -> Result<()> {
            self.enter().await;
            self.inner.sync(segment).await
        }
        async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
            self.enter().await;
            self.inner.read_at(segment, offset, len).await
        }
        async fn segments(&self) -> Result<Vec<Segment>> {
            self.inner.segments().await
        }
        async fn remove(&self, segment: SegmentId) -> Result<()> {
            self.enter().await;
            self.inner.remove(segment).await
        }
    }

    struct World {
        place: TempDir,
        disk: Arc<Disk>,
        dir: Arc<Dir>,
        opened: UnboundedReceiver<String>,
    }

    impl World {
        async fn new() -> Self {
            let place = tempfile::tempdir().expect("a directory");
            let (hangs, begun, opened) = (watch::Sender::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
            let disk = Arc::new(Disk { parts: Mutex::default(), hangs, begun, opened });
            let of_disk = disk.clone();
            let open_media = move |path: &Path| -> Result<Arc<dyn Media>> {
                of_disk.opened.fetch_add(1, Ordering::Relaxed);
                let inner = of_disk.parts.lock().expect("a lock").entry(path.to_owned()).or_default().clone();
                Ok(Arc::new(Part { inner, disk: of_disk.clone() }))
            };
            let (sender, opened) = unbounded_channel();
            let how = How {
                store: StoreId([1; 16]),
                access: Access::Write,
                segments: Arc::new(|_| SegmentsOptions::default()),
                open_media: Arc::new(open_media),
                env: muxfs::testing::env(),
                opened: sender,
            };
            let dir = Dir::new("a", &place.path().join("node"), false, how);
            let world = Self { place, disk, dir, opened };
            world.make();
            world.dir.take().await.expect("taken");
            world
        }

        async fn with_blocks() -> Self {
            let world = Self::new().await;
            world.dir.open().await.expect("opened");
            for n in 0..40 {
                world.dir.put(&key(n), vec![n; 100].into()).await.expect("put");
            }
            world.dir.flush().await.expect("flushed");
            world
        }

        fn node(&self) -> PathBuf {
            self.place.path().join("node")
        }

        fn make(&self) {
            fs::create_dir(self.node()).expect("made");
        }

        fn hang(&self, hangs: bool) {
            self.disk.hangs.send_replace(hangs);
        }

        fn begun(&self) -> usize {
            self.disk.begun.load(Ordering::Relaxed)
        }

        async fn probe(&self) -> Result<bool> {
            self.dir.has(&BlockKey::new(PROBE_KEY).expect("a key")).await
        }
    }

    fn key(n: u8) -> BlockKey {
        BlockKey::new(&[n; 34]).expect("a key")
    }

    fn kind<T: fmt::Debug>(result: Result<T>) -> ErrorKind {
        result.expect_err("refused").kind()
    }

    /// A probe was answered from memory, so that a node whose disk hung was taken to be there, again and again, and lost a
    /// thread each time.
    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_asked_no_more_until_it_has_answered() {
        let world = World::with_blocks().await;
        world.hang(true);
        let before = world.begun();
        let gets = (0..40).map(async |n| timeout(CALL_TIME_MAX, world.dir.get(&key(n))).await.is_err());
        assert!(join_all(gets).await.into_iter().all(|hung| hung));
        let begun = world.begun();
        assert!(begun - before <= CALL_COUNT_MAX, "{} calls", begun - before);
        let now = Instant::now();
        for n in 0..40 {
            assert_eq!(kind(world.dir.get(&key(n)).await), ErrorKind::Unavailable);
            assert_eq!(kind(world.dir.has(&key(n)).await), ErrorKind::Unavailable);
            assert_eq!(kind(world.dir.put(&key(n), Bytes::new()).await), ErrorKind::Unavailable);
            assert_eq!(kind(world.dir.flush().await), ErrorKind::Unavailable);
        }
        assert_eq!((now.elapsed(), world.begun()), (Duration::ZERO, begun));
        assert!(world.dir.lost().is_some_and(|why| why.contains("does not answer")), "{:?}", world.dir.lost());
        timeout(CALL_TIME_MAX * 9, world.probe()).await.expect_err("it waits for what hangs");
        world.dir.close().await.expect("what hangs is not waited for");
        world.hang(false);
        world.probe().await.expect("it is back");
        assert_eq!(world.dir.get(&key(3)).await.expect("read"), Some(vec![3; 100].into()));
    }

    /// Each flush waited for the time limit, as long as one hung.
    #[tokio::test(start_paused = true)]
    async fn a_flush_that_hangs_is_waited_for_once() {
        let world = World::with_blocks().await;
        world.dir.put(&key(50), "block".into()).await.expect("put");
        world.hang(true);
        timeout(CALL_TIME_MAX, world.dir.flush()).await.expect_err("it hangs");
        let now = Instant::now();
        for _ in 0..10 {
            assert_eq!(kind(world.dir.flush().await), ErrorKind::Unavailable);
        }
        assert_eq!(now.elapsed(), Duration::ZERO);
        timeout(CALL_TIME_MAX, world.probe()).await.expect_err("it waits for what hangs");
        world.hang(false);
        world.probe().await.expect("it is back");
        world.dir.flush().await.expect("flushed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_opening_hangs_is_there_when_it_ends() {
        let mut world = World::with_blocks().await;
        world.dir.lose("as if it had gone");
        assert_eq!(world.opened.recv().await.as_deref(), Some("a"));
        world.hang(true);
        let now = Instant::now();
        assert_eq!(kind(world.dir.open().await), ErrorKind::Unavailable);
        assert_eq!(now.elapsed(), CALL_TIME_MAX);
        let opened = world.disk.opened.load(Ordering::Relaxed);
        for _ in 0..5 {
            assert_eq!(kind(world.probe().await), ErrorKind::Unavailable);
            assert_eq!(kind(world.dir.get(&key(1)).await), ErrorKind::Unavailable);
        }
        assert_eq!(world.disk.opened.load(Ordering::Relaxed), opened, "never twice at a time");
        world.hang(false);
        assert_eq!(world.opened.recv().await.as_deref(), Some("a"));
        assert_eq!(world.dir.get(&key(3)).await.expect("read"), Some(vec![3; 100].into()));
    }

    /// A disk that hangs for ever, and another that was mounted in its place.
    #[tokio::test(start_paused = true)]
    async fn another_disk_does_not_wait_for_the_one_that_hangs() {
        let world = World::with_blocks().await;
        world.hang(true);
        timeout(CALL_TIME_MAX, world.dir.get(&key(1))).await.expect_err("it hangs");
        fs::rename(world.node(), world.place.path().join("old")).expect("moved");
        world.make();
        fs::write(world.node().join(MARK), "").expect("marked");
        world.disk.parts.lock().expect("a lock").clear();
        assert_eq!(kind(world.probe().await), ErrorKind::Unavailable);
        world.probe().await.expect("it is taken");
        assert_eq!(world.dir.get(&key(1)).await.expect("read"), None);
    }

    /// What was put and not flushed went with the directory: a flush afterwards said that it was durable.
    #[tokio::test(start_paused = true)]
    async fn a_flush_answers_for_what_was_put_before_the_node_went() {
        let world = World::with_blocks().await;
        world.dir.put(&key(50), "block".into()).await.expect("put");
        world.dir.put(&key(51), "block".into()).await.expect("put");
        let old = world.place.path().join("old");
        fs::rename(world.node(), &old).expect("moved");
        assert_eq!(kind(world.dir.flush().await), ErrorKind::Unavailable);
        assert_eq!(kind(world.probe().await), ErrorKind::Unavailable);
        world.make();
        fs::write(world.node().join(MARK), "").expect("marked");
        world.disk.parts.lock().expect("a lock").clear();
        assert!(!world.probe().await.expect("it is taken"));
        assert_eq!(kind(world.dir.flush().await), ErrorKind::Io);
        world.dir.put(&key(50), "block".into()).await.expect("put");
        assert_eq!(kind(world.dir.flush().await), ErrorKind::Io);
        world.dir.delete(&key(51)).await.expect("deleted");
        world.dir.flush().await.expect("nothing is missing any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_came_back_as_another_stays_lost_with_the_reason() {
        let world = World::with_blocks().await;
        let mark = world.node().join(MARK);
        let text = fs::read_to_string(&mark).expect("read");
        for (other, told) in [
            (text.replace("name a", "name b"), "the node \"b\""),
            (text.replace("store 01", "store 02"), "another store"),
            ("rubbish".to_owned(), "damaged"),
        ] {
            // As a file of its own, which a mark is that came with another directory.
            fs::remove_file(&mark).expect("removed");
            fs::write(&mark, other).expect("written");
            for _ in 0..2 {
                assert_eq!(kind(world.probe().await), ErrorKind::Unavailable);
            }
            assert!(world.dir.lost().is_some_and(|why| why.contains(told)), "{:?}", world.dir.lost());
            assert_eq!(kind(world.dir.get(&key(1)).await), ErrorKind::Unavailable);
        }
        fs::write(&mark, text).expect("written");
        world.probe().await.expect("it is back");
        assert_eq!(world.dir.get(&key(3)).await.expect("read"), Some(vec![3; 100].into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_is_whole_however_long_it_is() {
        let world = World::new().await;
        world.dir.open().await.expect("opened");
        let count = u32::try_from(2 * LISTED_COUNT + 1).expect("small");
        for n in 0..count {
            world.dir.put(&BlockKey::new(&n.to_be_bytes()).expect("a key"), Bytes::new()).await.expect("put");
        }
        world.dir.flush().await.expect("flushed");
        let listed: Vec<_> = world.dir.keys().try_collect().await.expect("listed");
        let distinct: HashSet<_> = listed.iter().collect();
        assert_eq!((listed.len(), distinct.len()), (count as usize, count as usize));
    }

    /// What a listing had in memory was an answer of a node that was lost, which was then not looked for again.
    #[tokio::test(start_paused = true)]
    async fn a_listing_ends_when_its_node_is_lost() {
        let world = World::with_blocks().await;
        let mut keys = world.dir.keys();
        keys.next().await.expect("an item").expect("a key");
        world.dir.lose("as if it had gone");
        assert_eq!(kind(keys.next().await.expect("an item")), ErrorKind::Unavailable);
        assert!(keys.next().await.is_none());
    }
}
