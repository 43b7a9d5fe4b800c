//! What fits into a store: the room of its nodes, less what shards take more than blocks.
//!
//! Disks are asked on threads of their own, since one may hang, and those count that answer within a moment.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use muxfs::{Error, ErrorKind, Result, block::IsFull, vfs::FsStat};
use tokio::runtime::Handle;

/// An answer counts so long.
const AGE_MAX: Duration = Duration::from_millis(50);
/// Disks have so long to answer, all together.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(100);

/// What a node tells of its disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskRoom {
    /// Nodes of one disk share it.
    pub(crate) disk: u64,
    pub(crate) total: u64,
    pub(crate) free: u64,
}

/// Who asks the disk of a node.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
    state: Mutex<Asked>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    /// The last answer, and when it came.
    answer: Option<(Option<DiskRoom>, Instant)>,
    /// Whether one is waited for: there is one thread for each disk at most.
    is_asking: bool,
}

impl Asked {
    fn is_fresh(&self) -> bool {
        self.answer.is_some_and(|(_, at)| at.elapsed() < AGE_MAX)
    }
}

impl Room {
    pub(crate) fn of(dir: &Path) -> Arc<Self> {
        Arc::new(Self { dir: dir.to_owned(), state: Mutex::default(), answered: Condvar::new() })
    }

    /// Asks, unless it was asked a moment ago or has not answered yet.
    pub(crate) fn ask(self: &Arc<Self>) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.is_asking || state.is_fresh() {
                return;
            }
            state.is_asking = true;
        }
        let me = Arc::clone(self);
        let ask = move || {
            let answer = me.look();
            let mut state = me.state.lock().unwrap_or_else(PoisonError::into_inner);
            *state = Asked { answer: Some((answer, Instant::now())), is_asking: false };
            me.answered.notify_all();
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(ask)),
            Err(_none) => drop(std::thread::Builder::new().name("df".into()).spawn(ask)),
        }
    }

    fn look(&self) -> Option<DiskRoom> {
        let (metadata, stat) = (fs::metadata(&self.dir).ok()?, rustix::fs::statvfs(&self.dir).ok()?);
        let len = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Some(DiskRoom { disk: metadata.dev(), total: len(stat.f_blocks), free: len(stat.f_bavail) })
    }

    /// What it answered when it was asked last, if that comes before `deadline`.
    pub(crate) fn answer(&self, deadline: Instant) -> Option<DiskRoom> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.answered.wait_timeout_while(state, left, |state| state.is_asking);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_asking { None } else { state.answer.and_then(|(answer, _)| answer) }
    }
}

/// Whether a disk is full, as it was found a moment ago: whoever asks does not wait for it, but for the first time.
pub(crate) fn asked_elsewhere(is_full: IsFull) -> IsFull {
    struct Last {
        is_full: AtomicBool,
        at: Mutex<Instant>,
        is_asking: AtomicBool,
    }
    let last =
        Arc::new(Last { is_full: is_full().into(), at: Mutex::new(Instant::now()), is_asking: AtomicBool::new(false) });
    Arc::new(move || {
        let is_due = last.at.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= AGE_MAX;
        if is_due
            && let Ok(runtime) = Handle::try_current()
            && !last.is_asking.swap(true, Ordering::AcqRel)
        {
            let (is_full, last) = (is_full.clone(), last.clone());
            drop(runtime.spawn_blocking(move || {
                last.is_full.store(is_full(), Ordering::Release);
                *last.at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                last.is_asking.store(false, Ordering::Release);
            }));
        }
        last.is_full.load(Ordering::Acquire)
    })
}

/// Blocks of how many bytes fit: told by those that answer before the deadline that they are given.
///
/// # Errors
/// `Unavailable` if none does.
pub(crate) fn space(rooms: impl Fn(Instant) -> Vec<DiskRoom>, (data_count, parity_count): (u8, u8)) -> Result<FsStat> {
    let rooms = rooms(Instant::now() + ANSWER_TIME_MAX);
    let mut disks: BTreeMap<u64, (DiskRoom, u64)> = BTreeMap::new();
    for answer in rooms {
        disks.entry(answer.disk).or_insert((answer, 0)).1 += 1;
    }
    if disks.is_empty() {
        return Err(Error::new(ErrorKind::Unavailable, "zstor.space").because("no node is there to tell its space"));
    }
    let shards = u64::from(data_count) + u64::from(parity_count);
    // Every node gets the same share of all shards: the smallest is full first.
    let of_all = |of_disk: fn(&DiskRoom) -> u64| {
        let nodes: u64 = disks.values().map(|(_, nodes)| nodes).sum();
        let of_node = disks.values().map(|(disk, nodes)| of_disk(disk) / nodes).min().unwrap_or_default();
        let bytes = u128::from(of_node) * u128::from(nodes) * u128::from(data_count) / u128::from(shards);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    Ok(FsStat {
        bytes_total: of_all(|disk| disk.total),
        bytes_free: of_all(|disk| disk.free),
        inodes_total: 0,
        inodes_free: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(dirs: &[PathBuf]) -> Result<FsStat> {
        let rooms: Vec<_> = dirs.iter().map(|dir| Room::of(dir)).collect();
        of(&rooms.iter().collect::<Vec<_>>(), (4, 2))
    }

    fn of(rooms: &[&Arc<Room>], counts: (u8, u8)) -> Result<FsStat> {
        let answers = |deadline| {
            for room in rooms {
                room.ask();
            }
            rooms.iter().filter_map(|room| room.answer(deadline)).collect()
        };
        space(answers, counts)
    }

    #[test]
    fn nodes_of_one_disk_share_it_and_parity_takes_its_part() {
        let dir = tempfile::tempdir().expect("a directory");
        let stat = rustix::fs::statvfs(dir.path()).expect("told");
        let disk = u128::from(stat.f_blocks) * u128::from(stat.f_frsize);
        let dirs = vec![dir.path().to_owned(); 6];
        let total = u128::from(told(&dirs).expect("told").bytes_total);
        assert!((total * 6).abs_diff(disk * 4) < 100, "{total} of {disk}");
        let gone = [&dirs[..4], &vec![dir.path().join("gone"); 2]].concat();
        assert!(u128::from(told(&gone).expect("told").bytes_total).abs_diff(total) < 100);
        assert_eq!(told(&gone[4..]).expect_err("none").kind(), ErrorKind::Unavailable);
    }

    /// A disk that hangs made all who asked how much is free wait for ever.
    #[test]
    fn a_disk_that_does_not_answer_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let (here, hangs) = (Room::of(dir.path()), Room::of(dir.path()));
        // As one whose thread does not come back.
        hangs.state.lock().expect("a lock").is_asking = true;
        for _ in 0..3 {
            let both = of(&[&here, &hangs], (1, 0)).expect("one answers");
            let one = of(&[&here], (1, 0)).expect("it answers");
            assert_eq!(both.bytes_total, one.bytes_total);
        }
        assert_eq!(of(&[&hangs], (1, 0)).expect_err("none answers").kind(), ErrorKind::Unavailable);
    }

    /// The thread that asks is not the one that polls.
    #[tokio::test]
    async fn whether_a_disk_is_full_is_asked_elsewhere() {
        let full = Arc::new(AtomicBool::new(false));
        let polls = std::thread::current().id();
        let asked = full.clone();
        let begun = Arc::new(AtomicBool::new(false));
        let is_begun = begun.clone();
        let is_full = asked_elsewhere(Arc::new(move || {
            assert!(!is_begun.load(Ordering::Relaxed) || std::thread::current().id() != polls);
            asked.load(Ordering::Relaxed)
        }));
        begun.store(true, Ordering::Relaxed);
        assert!(!is_full());
        full.store(true, Ordering::Relaxed);
        while !is_full() {
            tokio::task::yield_now().await;
        }
    }
}
