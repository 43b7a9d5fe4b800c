//! What is known of a source: how fast it was, whether it fails, and whether it lied.
//!
//! Sits between [`Sources`](crate::Sources), which asks in the order that this gives, and all that learns from answers: single
//! blocks and CARs alike. Spec: spec/sources.md #order.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muxfs::{BlockStore, ErrorKind, Result};
use tokio::time::Instant;

use crate::{Undecided, gateway::Gateway};

/// A source that failed so often, one time after the other, is left out for a while,
const FAILURE_COUNT_MAX: u32 = 3;
/// which is this long at first, doubles with each failure more, and ends here.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_mins(1);
/// A source that gave other bytes than those it was asked for is asked after all others for so long.
const DISTRUST: Duration = Duration::from_mins(10);
/// How much of what was known of the speed of a source the next answer leaves: so many parts of one more.
const MEMORY_PARTS: u32 = 3;
/// A source that was not asked for so long is taken for twice as fast as it was, so that each has its turn again.
const FORGIVEN_AFTER: Duration = Duration::from_mins(1);
/// A source, and what is known of it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) store: Arc<dyn BlockStore>,
    /// The same, where it gives CARs.
    pub(crate) gateway: Option<Arc<Gateway>>,
    health: Mutex<Health>,
}

/// What is known of a source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// How long an answer took lately; `None` before the first.
    pub(crate) latency: Option<Duration>,
    asked: Option<Instant>,
    /// How often it failed since it last answered.
    failure_count: u32,
    failed: Option<Instant>,
    /// It is not asked before.
    rests_until: Option<Instant>,
    distrusted_until: Option<Instant>,
}

impl Source {
    pub(crate) fn new(store: Arc<dyn BlockStore>, gateway: Option<Arc<Gateway>>) -> Self {
        Self { store, gateway, health: Mutex::default() }
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    /// What a look at it is ordered by: those that lied last, then the slow.
    pub(crate) fn rank(&self, now: Instant) -> (bool, Duration) {
        let lied = self.distrusted_until.is_some_and(|until| now < until);
        (lied, self.latency_now(now).unwrap_or(Duration::ZERO))
    }

    /// How long an answer is likely to take; it is more likely to be another the longer nobody asked.
    fn latency_now(&self, now: Instant) -> Option<Duration> {
        let idle = self.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        self.latency.map(|latency| latency.div_f64(1.0 + idle.as_secs_f64() / FORGIVEN_AFTER.as_secs_f64()))
    }

    pub(crate) fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Whether it rested and has not answered since.
    pub(crate) fn is_doubted(&self) -> bool {
        self.rests_until.is_some()
    }

    /// Notes that it is asked, unless it rests. One that rested for long enough is tried by one, while others still leave it
    /// out.
    pub(crate) fn ask(&mut self, now: Instant) -> bool {
        if self.rests(now) {
            return false;
        }
        self.rests_until = self.rests_until.map(|_| now + self.rest());
        (self.latency, self.asked) = (self.latency_now(now), Some(now));
        true
    }

    fn rest(&self) -> Duration {
        let doubled = self.failure_count.saturating_sub(FAILURE_COUNT_MAX).min(16);
        (REST_MIN * 2u32.pow(doubled)).min(REST_MAX)
    }

    fn learn(&mut self, took: Duration) {
        let before = self.latency.unwrap_or(took);
        self.latency = Some((before * MEMORY_PARTS + took) / (MEMORY_PARTS + 1));
    }

    pub(crate) fn answered(&mut self, took: Duration) {
        self.learn(took);
        (self.failure_count, self.failed, self.rests_until) = (0, None, None);
    }

    /// Was let go while it was asked, or gave up: it takes this long at least.
    pub(crate) fn outrun(&mut self, took: Duration) {
        if self.latency.is_none_or(|latency| latency < took) {
            self.learn(took);
        }
    }

    /// Gave other bytes than those it was asked for.
    pub(crate) fn lied(&mut self, now: Instant) {
        self.distrusted_until = Some(now + DISTRUST);
    }

    pub(crate) fn failed(&mut self, asked: Instant, now: Instant) {
        // All that were under way together fail together: that is one failure.
        if self.failed.is_some_and(|failed| asked < failed) {
            return;
        }
        self.failure_count = self.failure_count.saturating_add(1);
        self.failed = Some(now);
        if self.failure_count >= FAILURE_COUNT_MAX {
            self.rests_until = Some(now + self.rest());
        }
    }
}

/// A source that is being asked. To drop it before it has answered notes how long it was waited for.
pub(crate) struct Asking<'a> {
    source: &'a Source,
    since: Instant,
    is_open: bool,
}

impl<'a> Asking<'a> {
    pub(crate) fn new(source: &'a Source, since: Instant) -> Self {
        Self { source, since, is_open: true }
    }

    pub(crate) fn close<T>(mut self, answer: &Result<Option<T>>) {
        self.is_open = false;
        let now = Instant::now();
        let mut health = self.source.health();
        match answer {
            Ok(_) => health.answered(now - self.since),
            Err(error) if error.kind() == ErrorKind::Corrupt => health.lied(now),
            // That nobody finds this block says nothing of the next one.
            Err(error) if Undecided::is_cause_of(error) => health.outrun(now - self.since),
            Err(_) => health.failed(self.since, now),
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.source.health().outrun(self.since.elapsed());
        }
    }
}
