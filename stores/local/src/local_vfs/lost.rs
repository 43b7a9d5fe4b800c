//! Lost writes: what did not reach the disk, and nobody has been told yet.
//!
//! The host tells a failed write-back to the descriptors that are open, at their next sync. One that is closed by
//! the sweep takes its failure along, and the sync that comes later opens the file again and succeeds. So what was written
//! is synced before such a descriptor is closed, and a failure is kept here for the next sync of that file, or of
//! everything.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How many files are kept apart; beyond that every sync fails until everything is synced.
const LOST_COUNT_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Lost(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The host's numbers. One that is used again blames another file once: better than to blame none.
    numbers: HashSet<u64>,
    /// There were more.
    is_full: bool,
}

impl Lost {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that bytes of a file were lost.
    pub(super) fn note(&self, number: u64) {
        let mut state = self.state();
        if state.numbers.len() < LOST_COUNT_MAX {
            state.numbers.insert(number);
        } else {
            state.is_full = true;
        }
    }

    /// Whether bytes of this file were lost; tells it once.
    pub(super) fn take(&self, number: u64) -> bool {
        let mut state = self.state();
        state.numbers.remove(&number) || state.is_full
    }

    /// Whether any were lost; tells it once.
    pub(super) fn take_all(&self) -> bool {
        let State { numbers, is_full } = std::mem::take(&mut *self.state());
        !numbers.is_empty() || is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_and_too_many_are_told_to_all() {
        let lost = Lost::default();
        lost.note(7);
        assert_eq!((lost.take(8), lost.take(7), lost.take(7)), (false, true, false));
        (0..=LOST_COUNT_MAX as u64).for_each(|number| lost.note(number));
        assert_eq!((lost.take(u64::MAX), lost.take(u64::MAX)), (true, true), "which they were is not known");
        assert_eq!((lost.take_all(), lost.take_all(), lost.take(u64::MAX)), (true, false, false));
    }
}
