//! How long a call has been told to try again.
//!
//! `Unavailable` is JUKEBOX: the client waits and repeats the call, and its user waits with it. That must end: when the
//! same call (procedure and arguments) has met it for `unavailable_after`, it fails with IO. Success of that call, or
//! silence for as long, ends the outage. Kept per call and not per mount, because a mount that is half there answers
//! some calls all along, and would keep the others waiting for ever.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;

/// How many calls are watched. Past it the first failures are forgotten, and those calls wait once more.
const CALL_COUNT_MAX: usize = 4096;

#[derive(Debug)]
struct Outage {
    began: SystemTime,
    last: SystemTime,
}

/// The outages that calls meet at present.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    by_call: Mutex<HashMap<u64, Outage>>,
    /// The length of `by_call`, so that success costs nothing while there is no outage.
    count: AtomicUsize,
    hasher: RandomState,
}

impl Outages {
    /// Notes that a call met one, and says whether it has lasted `limit`.
    pub(crate) fn met(&self, procedure: u32, args: &Bytes, now: SystemTime, limit: Duration) -> bool {
        let key = self.hasher.hash_one((procedure, args));
        let mut by_call = self.lock();
        let since = |then: SystemTime| now.duration_since(then).unwrap_or_default();
        if by_call.len() >= CALL_COUNT_MAX && !by_call.contains_key(&key) {
            by_call.retain(|_, outage| since(outage.last) < limit);
            if by_call.len() >= CALL_COUNT_MAX {
                by_call.clear();
            }
        }
        let outage = by_call.entry(key).or_insert(Outage { began: now, last: now });
        if since(outage.last) > limit.saturating_mul(2) {
            outage.began = now;
        }
        outage.last = now;
        let lasted = since(outage.began) >= limit;
        self.count.store(by_call.len(), Ordering::Relaxed);
        lasted
    }

    /// Notes that a call met none.
    pub(crate) fn over(&self, procedure: u32, args: &Bytes) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut by_call = self.lock();
            by_call.remove(&self.hasher.hash_one((procedure, args)));
            self.count.store(by_call.len(), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Outage>> {
        self.by_call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn a_call_waits_for_the_limit_and_no_longer() {
        let outages = Outages::default();
        let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
        assert!(!outages.met(6, &one, at(0), LIMIT));
        assert!(!outages.met(6, &one, at(29), LIMIT));
        assert!(outages.met(6, &one, at(30), LIMIT));
        assert!(outages.met(6, &one, at(31), LIMIT));
        assert!(!outages.met(6, &two, at(31), LIMIT), "another call has its own wait");
        outages.over(6, &two);
        assert!(outages.met(6, &one, at(32), LIMIT), "and its success ends nobody else's");
        outages.over(6, &one);
        assert!(!outages.met(6, &one, at(33), LIMIT), "success ends it");
        assert!(!outages.met(6, &one, at(1000), LIMIT), "so does silence");
    }

    #[test]
    fn the_calls_watched_are_bounded() {
        let outages = Outages::default();
        for call in 0..3 * CALL_COUNT_MAX {
            outages.met(6, &call.to_be_bytes().to_vec().into(), at(0), LIMIT);
            assert!(outages.lock().len() <= CALL_COUNT_MAX);
        }
    }
}
