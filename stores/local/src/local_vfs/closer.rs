//! The closer: lets go of removed files where nobody waits for it.
//!
//! The last descriptor of a file without a name takes the file with it: the host frees its blocks, and where it tells
//! the disk of each (ext4 mounted with `discard`, without a journal) that takes milliseconds even of a small file, and
//! seconds of a large one. Who removed the name need not wait for that, and a task of Tokio must not. So such
//! descriptors are queued here and closed on blocking threads, several at a time, for they wait for the disk. There is
//! no thread while there is nothing to close. When the queue is full, or there is no runtime, they are closed at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::nodes::{Anchor, Closing};

/// How many files may wait to be closed: half a second of a quick client's removals.
const QUEUED_COUNT_MAX: usize = 2048;
/// How many threads close at a time: they wait for the disk, which takes that many orders at once.
const WORKER_COUNT_MAX: usize = 16;
/// One more thread begins for each so many that wait: a quick host is served by one.
const QUEUED_PER_WORKER: usize = 8;

/// What is to be closed, and who does it.
#[derive(Debug)]
pub(super) struct Closer(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    count_max: usize,
    state: Mutex<State>,
    /// Told when one more is closed.
    closed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Anchor>>,
    /// Those begun and those that the runtime will begin.
    worker_count: usize,
    /// How many are being closed right now.
    closing_count: usize,
}

/// Closes until nothing waits, then ends. It does so when dropped, so that a runtime which shuts down before it began
/// leaves nothing open.
struct Worker(Arc<Queue>);

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        while let Some(anchor) = state.waiting.pop_front() {
            state.closing_count += 1;
            drop(state);
            drop(anchor);
            state = self.0.lock();
            state.closing_count -= 1;
            self.0.closed.notify_all();
        }
        // Under the same lock that found nothing: who queues from now on sees that a worker is missing.
        state.worker_count -= 1;
    }
}

impl Closer {
    /// A closer for one that may have `anchor_count_max` anchors; what it may keep waiting is to come out of those.
    pub(super) fn new(anchor_count_max: usize) -> Self {
        let count_max = (anchor_count_max / 4).min(QUEUED_COUNT_MAX);
        Self(Arc::new(Queue { count_max, state: Mutex::default(), closed: Condvar::new() }))
    }

    /// How many may wait.
    pub(super) fn count_max(&self) -> usize {
        self.0.count_max
    }

    /// Closes these soon, on another thread; at once where too many wait already.
    pub(super) fn close(&self, mut closing: Closing) {
        // What was held and what was cached are mostly one.
        closing.dedup_by(|one, other| Arc::ptr_eq(one, other));
        if closing.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return drop(closing) };
        let (at_once, begins) = {
            let mut state = self.0.lock();
            let room = self.0.count_max.saturating_sub(state.waiting.len());
            let at_once = closing.split_off(room.min(closing.len()));
            state.waiting.extend(closing);
            let wanted = state.waiting.len().div_ceil(QUEUED_PER_WORKER).min(WORKER_COUNT_MAX);
            let begins = state.worker_count < wanted;
            state.worker_count += usize::from(begins);
            (at_once, begins)
        };
        if begins {
            let worker = Worker(self.0.clone());
            let _ends_by_itself = runtime.spawn_blocking(move || drop(worker));
        }
        drop(at_once);
    }

    /// Closes one that waits, for the descriptor is wanted.
    pub(super) fn close_one(&self) {
        let next = self.0.lock().waiting.pop_front();
        drop(next);
    }

    /// Closes all that wait, for the room they take is wanted; says whether there were any.
    pub(super) fn close_all(&self) -> bool {
        let mut state = self.0.lock();
        let waiting = std::mem::take(&mut state.waiting);
        let any = !waiting.is_empty() || state.closing_count > 0;
        drop(state);
        drop(waiting);
        let mut state = self.0.lock();
        // Only for what is in the hands of a thread that runs: one still to begin may be waiting for ours.
        while state.closing_count > 0 {
            state = self.0.closed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::MetadataExt,
        path::{Path, PathBuf},
        sync::mpsc,
    };

    use muxfs::{
        ErrorKind, Name,
        vfs::{Handle, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs},
    };

    use super::{
        super::{LocalOptions, LocalVfs},
        Arc, Closer,
    };

    /// How many descriptors of this process lead to files below `path` whose names went.
    fn removed_and_open(path: &Path) -> usize {
        let links = std::fs::read_dir("/proc/self/fd").expect("/proc").flatten();
        let targets = links.filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.display().to_string()));
        targets.filter(|to| to.starts_with(&path.display().to_string()) && to.ends_with(" (deleted)")).count()
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    struct World {
        dir: tempfile::TempDir,
        vfs: Arc<LocalVfs>,
        /// Lets the one blocking thread of the runtime go on.
        resume: mpsc::Sender<()>,
    }

    impl World {
        /// Within a runtime whose only blocking thread is busy until it is resumed.
        fn new(open_file_count_max: u64) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let root = dir.path().join("root");
            std::fs::create_dir(&root).expect("the root");
            let options = LocalOptions { open_file_count_max: Some(open_file_count_max), ..LocalOptions::default() };
            let vfs = LocalVfs::open(&root, &dir.path().join("handles"), options).expect("it opens");
            let (resume, wait) = mpsc::channel();
            let _ends_when_resumed = tokio::task::spawn_blocking(move || wait.recv());
            Self { dir, vfs, resume }
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("root")
        }

        /// A file with bytes on it, leased by nobody.
        async fn file(&self, text: &str) -> Handle {
            let made = self.vfs.create(self.vfs.root(), &name(text), NewNode::File, SetAttr::default()).await;
            let ino = made.expect("made").node.ino;
            self.vfs.write(ino, 0, vec![1; 64 * 1024].into(), false).await.expect("a write");
            let handle = self.vfs.handle(ino).expect("a handle");
            self.vfs.release(ino, 1);
            assert!(std::fs::metadata(self.root().join(text)).expect("there").blocks() > 0, "it takes room");
            handle
        }

        async fn remove(&self, text: &str) {
            let name = name(text);
            let place = Place { dir: self.vfs.root(), name: &name, expect: None };
            self.vfs.remove(place, RemoveKind::NonDir).await.expect("removed");
        }

        async fn closed(&self) {
            while removed_and_open(&self.root()) > 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn run(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.max_blocking_threads(1).enable_all().build().expect("a runtime").block_on(test);
    }

    #[test]
    fn who_removes_or_replaces_a_file_does_not_wait_until_the_host_has_freed_it() {
        run(async {
            let world = World::new(64);
            let handles = [world.file("a").await, world.file("b").await];
            world.file("c").await;
            world.remove("a").await;
            let (from, to) = (name("c"), name("b"));
            let at = |name| Place { dir: world.vfs.root(), name, expect: None };
            world.vfs.rename(at(&from), at(&to), RenameMode::Replace).await.expect("replaced");
            assert_eq!(removed_and_open(&world.root()), 2, "both calls ended, and nothing was closed yet");
            world.resume.send(()).expect("it waits");
            for handle in &handles {
                assert_eq!(world.vfs.resolve(handle).await.expect_err("gone").kind(), ErrorKind::Stale);
            }
            world.closed().await;
        });
    }

    #[test]
    fn no_more_wait_than_the_limit_on_descriptors_allows() {
        run(async {
            let world = World::new(64);
            let count_max = world.vfs.local.closer.count_max();
            assert!((1..32).contains(&count_max));
            for index in 0..3 * count_max {
                world.file(&format!("f{index}")).await;
                world.remove(&format!("f{index}")).await;
            }
            assert_eq!(removed_and_open(&world.root()), count_max, "those too many were closed at once");
            world.resume.send(()).expect("it waits");
            world.closed().await;
        });
    }

    #[test]
    fn what_waits_is_closed_when_its_room_is_wanted() {
        run(async {
            let world = World::new(64);
            for text in ["a", "b", "c"] {
                world.file(text).await;
                world.remove(text).await;
            }
            let closer = &world.vfs.local.closer;
            closer.close_one();
            assert_eq!(removed_and_open(&world.root()), 2);
            assert!(closer.close_all(), "though no thread ever began");
            assert_eq!(removed_and_open(&world.root()), 0);
            assert!(!closer.close_all(), "nothing was left");
            world.resume.send(()).expect("it waits");
        });
    }

    #[test]
    fn a_runtime_that_ends_leaves_nothing_open() {
        let mut kept = None;
        run(async {
            let world = World::new(64);
            world.file("a").await;
            world.remove("a").await;
            assert_eq!(removed_and_open(&world.root()), 1);
            world.resume.send(()).expect("it waits");
            kept = Some(world);
        });
        let world = kept.expect("kept");
        assert_eq!(removed_and_open(&world.root()), 0);
    }

    #[test]
    fn few_descriptors_mean_that_nothing_waits() {
        assert_eq!(Closer::new(3).count_max(), 0);
        assert_eq!(Closer::new(usize::MAX).count_max(), super::QUEUED_COUNT_MAX);
    }
}
