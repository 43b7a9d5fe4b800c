//! A CAR that comes: what is there of it, who waits, and when it is let go.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    ops::Range,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muxfs::{BlockKey, Cid, Error, ErrorKind, Name, Result, block::Checked};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    files::{File, Place},
    reading,
};
use crate::health::Source;

/// So much of what came waits to be asked for, in bytes: about what a reader has asked for ahead.
pub(super) const WINDOW_LEN: usize = 8 << 20;
/// A part so far behind what came last is waited for, in bytes of the file; one further on is asked for by itself.
const REACH_LEN: u64 = 16 << 20;
/// How long what came, and what comes, is kept where nobody asks for anything of it.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// So many blocks come of a path, at most: each is looked for in those before it.
const PASSED_COUNT_MAX: usize = 256;
/// A CAR that others were so often faster than is given up.
const OUTRUN_COUNT_MAX: u32 = 3;

/// A CAR that comes. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Coming {
    /// The file of which it is; `None` where it is of a path.
    file: Option<Arc<File>>,
    source: Arc<Source>,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
pub(super) struct State {
    came: Mutex<Came>,
    /// Something came, or nothing will any more.
    moved: Notify,
    /// There is room, or somebody waits for what has not come.
    room: Notify,
    /// Nothing will come any more.
    over: Notify,
}

#[derive(Debug)]
struct Came {
    blocks: HashMap<BlockKey, Checked>,
    order: VecDeque<BlockKey>,
    len: usize,
    /// The block that is asked for first: that where a path begins, or the root of a file, if that is awaited.
    root: Option<BlockKey>,
    /// Of a file: the bytes that are asked for, of which those before the beginning came, or will not.
    rest: Range<u64>,
    /// Whether it was asked for, and whether any of it came.
    is_asked: bool,
    has_begun: bool,
    waiting_count: usize,
    outrun_count: u32,
    /// When somebody last asked for something of it, and when something last came.
    used: Instant,
    progressed: Instant,
    is_over: bool,
}

impl State {
    fn new(rest: Range<u64>, root: Option<BlockKey>) -> Arc<Self> {
        let now = Instant::now();
        let came = Came {
            blocks: HashMap::new(),
            order: VecDeque::new(),
            len: 0,
            root,
            rest,
            is_asked: false,
            has_begun: false,
            waiting_count: 0,
            outrun_count: 0,
            used: now,
            progressed: now,
            is_over: false,
        };
        Arc::new(Self { came: Mutex::new(came), moved: Notify::new(), room: Notify::new(), over: Notify::new() })
    }

    fn came(&self) -> MutexGuard<'_, Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be asked for: from here on it does not change.
    pub(super) fn ask(&self) -> Range<u64> {
        let mut came = self.came();
        came.is_asked = true;
        came.rest.clone()
    }

    /// Whether it had ended before.
    pub(super) fn end(&self) -> bool {
        let was_over = mem::replace(&mut self.came().is_over, true);
        self.moved.notify_waiters();
        self.over.notify_waiters();
        was_over
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.came().is_over
    }

    /// Until it is over, or nobody has asked for anything of it for a while.
    pub(super) async fn left(&self) {
        let mut over = pin!(self.over.notified());
        over.as_mut().enable();
        if self.is_over() {
            return;
        }
        tokio::select! {
            () = over => {}
            () = self.idle() => {}
        }
    }

    /// Until nobody has asked for anything of it for a while, or nothing is left to ask for.
    pub(super) async fn idle(&self) {
        loop {
            let until = {
                let came = self.came();
                if came.is_over && came.blocks.is_empty() {
                    return;
                }
                if came.waiting_count > 0 { Instant::now() + IDLE_MAX } else { came.used + IDLE_MAX }
            };
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Whether it is the block that is asked for first.
    pub(super) fn awaits(&self, key: &BlockKey) -> bool {
        self.came().root.as_ref() == Some(key)
    }

    /// Lets go what came.
    pub(super) fn clear(&self) {
        let mut came = self.came();
        (came.blocks, came.order, came.len) = (HashMap::new(), VecDeque::new(), 0);
    }

    /// Notes where the first part begins that comes.
    pub(super) fn begin(&self, first: u64) {
        let mut came = self.came();
        came.rest.start = first;
        came.has_begun = true;
    }

    /// Keeps a block that came, when there is room for it; what comes next of a file begins at `next`.
    pub(super) async fn keep(&self, block: Checked, next: u64) {
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut came = self.came();
                let len = block.block().len();
                // Whoever waits has taken what is there: the rest was asked for by itself, or is not wanted.
                while came.waiting_count > 0 && came.len + len > WINDOW_LEN {
                    let Some(oldest) = came.order.pop_front() else { break };
                    came.len -= came.blocks.remove(&oldest).map_or(0, |block| block.block().len());
                }
                if came.len + len <= WINDOW_LEN || came.order.is_empty() {
                    came.keep(block, next);
                    break;
                }
            }
            room.await;
        }
        self.moved.notify_waiters();
    }

    /// Keeps a block of a path that came.
    ///
    /// # Errors
    /// `TooLarge` where they are more than paths are; `Corrupt` for one that nothing leads to.
    pub(super) fn keep_passed(&self, block: Checked) -> Result<()> {
        let mut came = self.came();
        let refuse = |kind, why: &'static str| Err(Error::new(kind, "ahead.path").because(why));
        if came.blocks.contains_key(block.key()) {
            return refuse(ErrorKind::Corrupt, "a block that came before: no path leads through one twice");
        }
        if came.blocks.len() >= PASSED_COUNT_MAX || came.len + block.block().len() > WINDOW_LEN {
            return refuse(ErrorKind::TooLarge, "more blocks than a path leads through");
        }
        if !came.leads_to(block.key()) {
            return refuse(ErrorKind::Corrupt, "a block that nothing on the path leads to");
        }
        came.keep(block, 0);
        drop(came);
        self.moved.notify_waiters();
        Ok(())
    }
}

impl Came {
    fn keep(&mut self, block: Checked, next: u64) {
        let key = block.key().clone();
        self.has_begun = true;
        self.len += block.block().len();
        self.rest.start = self.rest.start.max(next);
        self.progressed = Instant::now();
        match self.blocks.insert(key.clone(), block) {
            Some(before) => self.len -= before.block().len(),
            None => self.order.push_back(key),
        }
    }

    /// Whether a block is where the path begins, or one that came holds its key: in dag-pb and dag-cbor a link does.
    fn leads_to(&self, key: &BlockKey) -> bool {
        let holds = |block: &Checked| block.block().windows(key.as_bytes().len()).any(|part| part == key.as_bytes());
        self.root.as_ref() == Some(key) || self.blocks.values().any(holds)
    }
}

/// Somebody who waits for what has not come.
struct Waiting<'a>(&'a State);

impl<'a> Waiting<'a> {
    fn new(state: &'a State, came: &mut Came) -> Self {
        came.waiting_count += 1;
        state.room.notify_waiters();
        Self(state)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut came = self.0.came();
        came.waiting_count -= 1;
        came.used = Instant::now();
    }
}

impl Coming {
    /// Asks for bytes of a file.
    pub(super) fn of_file(place: &Place, range: Range<u64>, source: Arc<Source>) -> Arc<Self> {
        let file = place.file.clone();
        let state = State::new(range, place.is_root().then(|| BlockKey::from(&file.cid)));
        let read = reading::file(file.clone(), source.clone(), state.clone());
        Arc::new(Self { file: Some(file), source, state, _task: AbortOnDropHandle::new(tokio::spawn(read)) })
    }

    /// Asks for what a path leads through.
    pub(super) fn of_path(root: Cid, parts: Vec<Name>, source: Arc<Source>) -> Arc<Self> {
        let state = State::new(0..0, Some(BlockKey::from(&root)));
        let read = reading::path(root, parts, source.clone(), state.clone());
        Arc::new(Self { file: None, source, state, _task: AbortOnDropHandle::new(tokio::spawn(read)) })
    }

    /// Who sends it.
    pub(crate) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// When something last came of it.
    pub(crate) fn progressed(&self) -> Instant {
        self.state.came().progressed
    }

    pub(super) fn is_done(&self) -> bool {
        let came = self.state.came();
        came.is_over && came.blocks.is_empty()
    }

    /// Whether a block is there, or comes soon. Before the CAR is asked for, it is made to begin where this one is.
    pub(super) fn join(&self, key: &BlockKey, place: Option<&Place>) -> bool {
        let mut came = self.state.came();
        if came.blocks.contains_key(key) || came.is_over {
            return came.blocks.contains_key(key);
        }
        match (&self.file, place) {
            (Some(_), _) if came.root.as_ref() == Some(key) => true,
            (Some(file), Some(place)) if Arc::ptr_eq(file, &place.file) => {
                let at = place.range.start;
                if !came.is_asked && at < came.rest.start && came.rest.start - at <= WINDOW_LEN as u64 {
                    came.rest.start = at;
                }
                came.rest.contains(&at) && at - came.rest.start < REACH_LEN
            }
            (None, _) => came.leads_to(key),
            _ => false,
        }
    }

    /// The block, once it is there; `None` where it does not come. `at` is where it lies in the file, if it is a part of one.
    pub(crate) async fn wait(&self, key: &BlockKey, at: Option<u64>) -> Option<Checked> {
        loop {
            let mut moved = pin!(self.state.moved.notified());
            moved.as_mut().enable();
            let _waiting = {
                let mut came = self.state.came();
                came.used = Instant::now();
                if let Some(block) = came.take(key, self.file.is_some()) {
                    self.state.room.notify_waiters();
                    return Some(block);
                }
                if came.is_over || at.is_some_and(|at| at < came.rest.start) {
                    return None;
                }
                Waiting::new(&self.state, &mut came)
            };
            moved.await;
        }
    }

    /// Notes that others gave first what was awaited of it.
    pub(crate) fn outrun(&self, waited: Duration) {
        self.source.health().outrun(waited);
        let count = {
            let mut came = self.state.came();
            came.outrun_count += 1;
            came.outrun_count
        };
        if count >= OUTRUN_COUNT_MAX {
            self.end_failed();
        }
    }

    /// Waits no longer for anything of it: it stands still, or comes so slowly that this file is read without.
    pub(crate) fn give_up(&self, waited: Duration, is_slow: bool) {
        self.source.health().outrun(waited);
        if let Some(file) = self.file.as_ref().filter(|_| is_slow) {
            file.leave_cars();
        }
        self.end_failed();
    }

    fn end_failed(&self) {
        if !self.state.end() {
            if let Some(file) = &self.file {
                file.failed();
            }
            // That it does not find this one in time says nothing of the next.
            if let Some(gateway) = &self.source.gateway
                && self.state.came().has_begun
            {
                gateway.car_failed();
            }
        }
    }
}

impl Came {
    /// Takes a block out; of a path it stays, since others may walk there too.
    fn take(&mut self, key: &BlockKey, is_once: bool) -> Option<Checked> {
        if !is_once {
            return self.blocks.get(key).cloned();
        }
        let block = self.blocks.remove(key)?;
        self.root.take_if(|root| root == key);
        self.len -= block.block().len();
        self.order.retain(|kept| kept != key);
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::poll;
    use muxfs::{
        Codec,
        block::{Checks, Mem},
        cid_of,
    };

    use super::*;

    const LEAF_LEN: usize = 1 << 20;

    async fn block(n: usize) -> Checked {
        let block = Bytes::from([&n.to_le_bytes()[..], &vec![0; LEAF_LEN - 8]].concat());
        Checks::new().check(&cid_of(Codec::Raw, &block), block).await.expect("its own")
    }

    async fn coming(count: usize) -> (Coming, Vec<Checked>) {
        let blocks = futures_util::future::join_all((0..count).map(block)).await;
        let file = Arc::new(File::new(cid_of(Codec::DagPb, b"")));
        let source = Arc::new(Source::new(Arc::new(Mem::default()), None));
        let state = State::new(0..(count * LEAF_LEN) as u64, None);
        (Coming { file: Some(file), source, state, _task: AbortOnDropHandle::new(tokio::spawn(async {})) }, blocks)
    }

    fn at(n: usize) -> u64 {
        (n * LEAF_LEN) as u64
    }

    /// No more than a window waits for a reader; one that waits for what is behind it lets what it did not want go.
    #[tokio::test(start_paused = true)]
    async fn so_much_is_kept_of_what_nobody_asked_for_yet() {
        let (coming, blocks) = coming(20).await;
        let fits = WINDOW_LEN / LEAF_LEN;
        let keep = |n: usize| coming.state.keep(blocks[n].clone(), at(n + 1));
        let wait = |n: usize| coming.wait(blocks[n].key(), Some(at(n)));
        for n in 0..fits {
            keep(n).await;
        }
        let mut next = Box::pin(keep(fits));
        assert!(poll!(&mut next).is_pending(), "the window is full");
        assert!(wait(0).await.expect("it came") == blocks[0]);
        next.await;
        // The reader jumped to what comes next.
        let mut waiting = Box::pin(wait(fits + 1));
        assert!(poll!(&mut waiting).is_pending());
        keep(fits + 1).await;
        assert!(waiting.await.expect("it came") == blocks[fits + 1]);
        assert!(coming.state.came().len <= WINDOW_LEN);
        assert!(wait(1).await.is_none(), "it was let go, and is asked for by itself");
        assert!(wait(0).await.is_none(), "it was given");
    }

    /// What a path leads through comes once, each block led to by one before, and no more of it than paths have.
    #[tokio::test]
    async fn no_path_is_longer_than_paths_are() {
        let checked = async |block: Vec<u8>| {
            let block = Bytes::from(block);
            Checks::new().check(&cid_of(Codec::DagCbor, &block), block).await.expect("its own")
        };
        // From the last to the first: each holds the key of the next.
        let mut blocks = vec![checked(b"end".to_vec()).await];
        for _ in 0..PASSED_COUNT_MAX {
            let key = blocks.last().expect("one").key().as_bytes().to_vec();
            blocks.push(checked(key).await);
        }
        blocks.reverse();
        let state = State::new(0..0, Some(blocks[0].key().clone()));
        let refused = |block: &Checked| state.keep_passed(block.clone()).expect_err("refused").kind();
        assert_eq!(refused(&blocks[1]), ErrorKind::Corrupt, "nothing led to it yet");
        for block in &blocks[..PASSED_COUNT_MAX] {
            state.keep_passed(block.clone()).expect("it is led to");
            assert_eq!(refused(block), ErrorKind::Corrupt, "it came");
        }
        assert_eq!(refused(&blocks[PASSED_COUNT_MAX]), ErrorKind::TooLarge);
    }

    /// Also where it came to its end, and also while something that is nobody's comes.
    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_goes() {
        let (coming, blocks) = coming(4).await;
        coming.state.keep(blocks[0].clone(), at(1)).await;
        let begun = Instant::now();
        coming.state.left().await;
        assert_eq!(begun.elapsed(), IDLE_MAX);
        coming.state.end();
        assert!(!coming.is_done(), "what is there may be asked for");
        coming.state.idle().await;
        coming.state.clear();
        assert!(coming.is_done());
    }

    /// While somebody waits it is not left, and who waits is told when it is over.
    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_of_the_end() {
        let (coming, blocks) = coming(4).await;
        let mut waiting = Box::pin(coming.wait(blocks[3].key(), Some(at(3))));
        assert!(poll!(&mut waiting).is_pending());
        let mut left = Box::pin(coming.state.left());
        assert!(poll!(&mut left).is_pending());
        tokio::time::advance(10 * IDLE_MAX).await;
        assert!(poll!(&mut left).is_pending());
        coming.give_up(Duration::from_secs(2), false);
        assert!(waiting.await.is_none());
        left.await;
        assert!(coming.wait(blocks[2].key(), Some(at(2))).await.is_none(), "the next one does not wait at all");
    }
}
