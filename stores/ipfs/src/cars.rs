//! Whether a gateway is asked for CARs: one that gives none, breaks them off, or lets them hang is asked for blocks alone for
//! a while.
//!
//! Beside the [`Gateway`](crate::Gateway), for all that asks it for CARs. CARs of files, of paths and of all that is below a CID are told
//! apart, since there are gateways that give one kind alone; what is but so now, as a gateway that cannot be reached, keeps nobody for long.
//! Spec: spec/sources.md #read-ahead.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muxfs::Error;
use tokio::time::Instant;

/// A gateway that gives no CARs is asked for blocks alone for so long.
const NO_CARS: Duration = Duration::from_mins(5);
/// So many of a kind that failed one after the other are the last for as long. After that one that fails is enough, until
/// one comes to its end.
const FAILURE_COUNT_MAX: u32 = 3;
/// A gateway that fails now is asked for none for so long.
const REST: Duration = Duration::from_secs(5);

/// What a CAR is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// What is read of a file.
    File,
    /// What a path leads through.
    Path,
    /// All that is below a CID.
    Tree,
}

/// Why a gateway gives no CAR.
#[derive(Debug)]
pub(crate) enum NoCar {
    /// It has not got it, does not find it in time, or may not give it: that says nothing of others.
    Here(Error),
    /// It gives no such CARs.
    Never(Error),
    /// It wants to be left in peace until then.
    Later(Error, Instant),
    /// It cannot be reached, or fails.
    Down(Error),
}

impl NoCar {
    pub(crate) fn error(&self) -> &Error {
        let (Self::Here(error) | Self::Never(error) | Self::Later(error, _) | Self::Down(error)) = self;
        error
    }

    pub(crate) fn into_error(self) -> Error {
        let (Self::Here(error) | Self::Never(error) | Self::Later(error, _) | Self::Down(error)) = self;
        error
    }
}

/// Whether a gateway gives CARs.
#[derive(Debug, Default)]
pub(crate) struct Cars(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Until when it is asked for none at all.
    none_until: Option<Instant>,
    files: Row,
    paths: Row,
    trees: Row,
}

/// Those of a kind that failed one after the other.
#[derive(Debug, Default)]
struct Row {
    count: u32,
    failed: Option<Instant>,
    none_until: Option<Instant>,
}

impl Row {
    fn fail(&mut self, asked: Instant, now: Instant) {
        // What was under way together fails together: that is one failure.
        if self.failed.is_some_and(|failed| asked < failed) {
            return;
        }
        (self.failed, self.count) = (Some(now), self.count + 1);
        if self.count >= FAILURE_COUNT_MAX {
            (self.count, self.none_until) = (FAILURE_COUNT_MAX - 1, Some(now + NO_CARS));
        }
    }
}

impl Known {
    fn row(&mut self, of: Of) -> &mut Row {
        match of {
            Of::File => &mut self.files,
            Of::Path => &mut self.paths,
            Of::Tree => &mut self.trees,
        }
    }

    fn rest(&mut self, until: Instant) {
        self.none_until = self.none_until.max(Some(until));
    }
}

impl Cars {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is asked for one now.
    pub(crate) fn are_given(&self, of: Of) -> bool {
        let (now, mut known) = (Instant::now(), self.known());
        let is_over = |until: Option<Instant>| until.is_none_or(|until| until <= now);
        is_over(known.none_until) && is_over(known.row(of).none_until)
    }

    /// One came to its end.
    pub(crate) fn worked(&self, of: Of) {
        self.known().row(of).count = 0;
    }

    /// One that was asked for then broke off, hung, or came so slowly that others were faster.
    pub(crate) fn failed(&self, of: Of, asked: Instant) {
        self.known().row(of).fail(asked, Instant::now());
    }

    /// It gives none.
    pub(crate) fn leave(&self) {
        self.known().rest(Instant::now() + NO_CARS);
    }

    /// It did not give the one that was asked for then. `is_sure` says whether what was asked for is there for sure: else a
    /// refusal may speak of that alone.
    pub(crate) fn refused(&self, of: Of, why: &NoCar, asked: Instant, is_sure: bool) {
        let now = Instant::now();
        let mut known = self.known();
        match (why, of) {
            (NoCar::Later(_, until), _) => known.rest(*until),
            (NoCar::Down(_), _) => known.rest(now + REST),
            (NoCar::Here(_), Of::File | Of::Tree) => {}
            (NoCar::Never(_), Of::Tree) => known.trees.none_until = Some(now + NO_CARS),
            (NoCar::Never(_), Of::File) if is_sure => known.rest(now + NO_CARS),
            // That this is not there may be true; that nothing ever is, is not.
            (NoCar::Never(_) | NoCar::Here(_), _) => known.row(of).fail(asked, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use muxfs::ErrorKind;
    use tokio::time::advance;

    use super::*;

    fn error() -> Error {
        Error::new(ErrorKind::Unavailable, "a test")
    }

    /// Three in a row, and after the pause one, until one works; those that were under way together are one. What fails of
    /// one kind says nothing of the other.
    #[tokio::test(start_paused = true)]
    async fn who_fails_again_and_again_is_left_in_peace() {
        let cars = Cars::default();
        let fail = async |millis: u64| {
            let asked = Instant::now();
            advance(Duration::from_millis(millis)).await;
            cars.failed(Of::Path, asked);
            cars.failed(Of::Path, asked);
        };
        for _ in 0..FAILURE_COUNT_MAX {
            assert!(cars.are_given(Of::Path));
            fail(10).await;
        }
        assert!(!cars.are_given(Of::Path) && cars.are_given(Of::File));
        advance(NO_CARS).await;
        assert!(cars.are_given(Of::Path));
        fail(10).await;
        assert!(!cars.are_given(Of::Path), "it is as it was");
        advance(NO_CARS).await;
        cars.worked(Of::Path);
        fail(10).await;
        assert!(cars.are_given(Of::Path), "it worked in between");
    }

    /// A gateway that is busy or gone is asked again soon; one that gives no such thing is not, nor is one that never has any.
    #[tokio::test(start_paused = true)]
    async fn a_refusal_lasts_as_long_as_it_is_likely_to() {
        let after = async |of: Of, why: &NoCar, is_sure: bool| {
            let cars = Cars::default();
            cars.refused(of, why, Instant::now(), is_sure);
            let begun = Instant::now();
            while !cars.are_given(of) {
                advance(Duration::from_secs(1)).await;
            }
            begun.elapsed()
        };
        let until = Instant::now() + Duration::from_secs(70);
        for of in [Of::File, Of::Path] {
            assert_eq!(after(of, &NoCar::Down(error()), true).await, REST);
            assert_eq!(after(of, &NoCar::Here(error()), true).await, Duration::ZERO);
            assert_eq!(after(of, &NoCar::Never(error()), false).await, Duration::ZERO);
        }
        assert_eq!(after(Of::File, &NoCar::Never(error()), true).await, NO_CARS);
        let begun = Instant::now();
        assert_eq!(after(Of::File, &NoCar::Later(error(), until), true).await, until - begun);
        let cars = Cars::default();
        for _ in 0..FAILURE_COUNT_MAX {
            cars.refused(Of::Path, &NoCar::Here(error()), Instant::now(), true);
            advance(Duration::from_millis(1)).await;
        }
        assert!(!cars.are_given(Of::Path), "that nothing ever is there is not true");
    }
}
