//! No faster than asked: waits so that what was read stays below a rate.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What was not used for so long is not made up for.
const CREDIT_MAX: Duration = Duration::from_millis(100);

/// A rate that reading keeps to.
#[derive(Debug)]
pub(super) struct Pace {
    /// In bytes a second; without it nothing waits.
    rate_max: Option<u64>,
    /// When as much may have been read as was.
    paid: Instant,
}

impl Pace {
    pub(super) fn new(rate_max: Option<u64>) -> Self {
        Self { rate_max: rate_max.map(|rate| rate.max(1)), paid: Instant::now() }
    }

    /// Counts what was read, and waits until it may have been.
    pub(super) async fn took(&mut self, len: u64) {
        let now = Instant::now();
        let until = self.due(len, now);
        if until > now {
            sleep_until(until).await;
        }
    }

    /// Counts what was read by `now`, and gives when it may have been.
    fn due(&mut self, len: u64, now: Instant) -> Instant {
        let Some(rate) = self.rate_max else { return now };
        // An hour at most: a longer wait would look like an end.
        let nanos = (u128::from(len) * 1_000_000_000 / u128::from(rate)).min(3_600_000_000_000);
        let from = self.paid.max(now.checked_sub(CREDIT_MAX).unwrap_or(now));
        self.paid = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_bytes_a_second_take_their_time() {
        let mut pace = Pace::new(Some(1000));
        let begun = pace.paid;
        let mut now = begun;
        for _ in 0..50 {
            now = now.max(pace.due(100, now));
        }
        assert_eq!(now - begun, Duration::from_secs(5));
        // A pause is not made up for.
        let later = now + Duration::from_mins(1);
        assert_eq!(pace.due(1000, later) - later, Duration::from_millis(900));
        assert_eq!(Pace::new(None).due(u64::MAX, now), now);
    }
}
