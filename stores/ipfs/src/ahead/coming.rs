//! A CAR that comes: who waits for what of it, and when it is let go.

use std::{
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
    came::Came,
    files::{File, Place},
    reading,
};
use crate::{cars::Of, health::Source};

/// So much of what came waits to be asked for, in bytes: about what a reader has asked for ahead.
pub(super) const WINDOW_LEN: usize = 8 << 20;
/// A part so far behind what came last is waited for, in bytes of the file; one further on is asked for by itself.
const REACH_LEN: u64 = 16 << 20;
/// How long what came, and what comes, is kept where nobody asks for anything of it,
const IDLE_MAX: Duration = Duration::from_secs(10);
/// and how long at least, while others want its place.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// So many blocks come of a path, at most: each is looked for in those before it.
const PASSED_COUNT_MAX: usize = 256;

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
    /// When it was begun.
    pub(super) begun: Instant,
    /// Something came, or nothing will any more.
    moved: Notify,
    /// There is room, or somebody waits for what has not come.
    room: Notify,
    /// Nothing will come any more.
    over: Notify,
}

impl State {
    fn new(came: Came) -> Arc<Self> {
        let (moved, room, over) = Default::default();
        Arc::new(Self { came: Mutex::new(came), begun: Instant::now(), moved, room, over })
    }

    fn came(&self) -> MutexGuard<'_, Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes that are to be asked for: from here on they do not change.
    pub(super) fn ask(&self) -> Range<u64> {
        let mut came = self.came();
        came.is_asked = true;
        came.from..came.rest.end
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
                if came.is_over && came.is_empty() {
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

    /// Whether anything is there.
    pub(super) fn is_empty(&self) -> bool {
        self.came().is_empty()
    }

    /// Lets go what came.
    pub(super) fn clear(&self) {
        self.came().clear();
    }

    /// Notes where the first part begins that comes.
    pub(super) fn begin(&self, first: u64) {
        self.came().rest.start = first;
    }

    /// Keeps a block that came, when there is room for it; what comes next of a file begins at `next`.
    pub(super) async fn keep(&self, block: Checked, next: u64) {
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut came = self.came();
                let len_max = WINDOW_LEN.saturating_sub(block.block().len());
                // Whoever waits has taken what is there: the rest was asked for by itself, or is not wanted.
                if came.waiting_count > 0 {
                    came.let_go(len_max);
                }
                if came.len() <= len_max || came.is_empty() {
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
        if came.has(block.key()) {
            return refuse(ErrorKind::Corrupt, "a block that came before: no path leads through one twice");
        }
        if came.count() >= PASSED_COUNT_MAX || came.len() + block.block().len() > WINDOW_LEN {
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
    /// Asks for bytes of a file, of which a part is missing.
    pub(super) fn of_file(place: &Place, range: Range<u64>, source: Arc<Source>) -> Arc<Self> {
        let file = place.file.clone();
        let root = place.is_root().then(|| BlockKey::from(&file.cid));
        // The part that is missing may begin before the bytes that are read of it.
        let first = if place.is_root() { range.start } else { place.range.start };
        let state = State::new(Came::new(first..range.end, range.start, root));
        let read = reading::file(file.clone(), source.clone(), state.clone());
        Arc::new(Self { file: Some(file), source, state, _task: AbortOnDropHandle::new(tokio::spawn(read)) })
    }

    /// Asks for what a path leads through.
    pub(super) fn of_path(root: Cid, parts: Vec<Name>, source: Arc<Source>) -> Arc<Self> {
        let state = State::new(Came::new(0..0, 0, Some(BlockKey::from(&root))));
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
        came.is_over && came.is_empty()
    }

    /// Whether nothing more comes of it.
    pub(super) fn is_over(&self) -> bool {
        self.state.is_over()
    }

    /// Whether nobody waits for anything of it, nor did lately.
    pub(super) fn is_idle(&self) -> bool {
        let came = self.state.came();
        came.waiting_count == 0 && came.used.elapsed() >= IDLE_MIN
    }

    /// Whether the bytes of a file come from some offset on.
    pub(super) fn brings(&self, file: &Arc<File>, offset: u64) -> bool {
        let came = self.state.came();
        let is_of_file = self.file.as_ref().is_some_and(|of| Arc::ptr_eq(of, file));
        is_of_file && !came.is_over && came.rest.contains(&offset) && came.from <= offset
    }

    /// Whether a block is there, or comes soon. Before the CAR is asked for, it is made to begin where this one is.
    pub(super) fn join(&self, key: &BlockKey, place: Option<&Place>) -> bool {
        let mut came = self.state.came();
        if came.has(key) || came.is_over {
            return came.has(key);
        }
        match (&self.file, place) {
            (Some(_), _) if came.root.as_ref() == Some(key) => true,
            // That of a root was for who came first.
            (Some(file), Some(place)) if Arc::ptr_eq(file, &place.file) && !place.is_root() => {
                let at = place.range.start;
                if !came.is_asked && at < came.rest.start && came.rest.start - at <= WINDOW_LEN as u64 {
                    (came.rest.start, came.from) = (at, came.from.min(place.begins()));
                }
                let reach = came.rest.start.max(came.from).saturating_add(REACH_LEN);
                came.rest.contains(&at) && place.range.end > came.from && at < reach
            }
            (None, _) => came.leads_to(key),
            _ => false,
        }
    }

    /// The block, once it is there; `None` where it does not come. `at` is where it lies in the file, if it is a part of one.
    pub(crate) async fn wait(&self, key: &BlockKey, at: Option<u64>) -> Option<Checked> {
        let is_of_file = self.file.is_some();
        loop {
            let mut moved = pin!(self.state.moved.notified());
            moved.as_mut().enable();
            let _waiting = {
                let mut came = self.state.came();
                came.used = Instant::now();
                if let Some(block) = came.take(key, is_of_file) {
                    self.state.room.notify_waiters();
                    return Some(block);
                }
                let is_past = match at {
                    Some(at) => at < came.rest.start,
                    // It was given to another.
                    None => is_of_file && came.root.as_ref() != Some(key),
                };
                if came.is_over || is_past {
                    return None;
                }
                Waiting::new(&self.state, &mut came)
            };
            moved.await;
        }
    }

    /// Notes that others gave first what was awaited of it since then.
    pub(crate) fn outrun(&self, waits_since: Instant) {
        self.source.health().outrun(waits_since.elapsed());
        let is_enough = self.state.came().outrun(waits_since);
        if is_enough {
            self.end_failed();
        } else if self.file.is_none() {
            // No path has so many blocks that it would be outrun again.
            self.failed();
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
            self.failed();
        }
    }

    /// Also before anything came: a gateway that lets them hang holds everybody up.
    fn failed(&self) {
        if let Some(gateway) = &self.source.gateway {
            let of = if self.file.is_some() { Of::File } else { Of::Path };
            gateway.cars().failed(of, self.state.begun);
        }
    }
}

#[cfg(test)]
mod tests;
