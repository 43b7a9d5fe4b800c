//! The laws of the seams, a model file system and fault injection (feature `testing`).
//!
//! Who writes a store or a frontend runs the laws over it: each law is a test of its own, an exception is named with its
//! reason, and nothing here looks at a wall clock or at real randomness: [`env()`] lends both.

use std::{
    fmt,
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::Env;

pub mod block_store;
pub mod exerciser;
pub mod fault;
pub mod fuzz;
pub mod heads;
pub mod hostile;
mod laws;
pub mod linear;
pub mod media;
pub mod model;
pub mod store;
pub mod vfs;
pub mod wire;
pub mod workload;

/// Where the clock of the tests begins, in seconds since 1970: a time of no meaning, long past.
const CLOCK_START_SECS: u64 = 1_700_000_000;

/// Returns an [`Env`] that is the same in every run: a clock of its own and numbers drawn from a fixed seed.
///
/// ```
/// let env = muxfs::testing::env();
/// assert!((env.now)() < (env.now)(), "each look at the clock is later than the one before");
/// ```
pub fn env() -> Env {
    Clock::default().env(0)
}

/// Says that a test does less than it could, and why: on standard error itself, where it is seen without `--nocapture`.
///
/// ```
/// if std::env::var_os("MUXFS_SHARED").is_none() {
///     muxfs::testing::skip("MUXFS_SHARED names no directory of fixtures");
/// }
/// ```
pub fn skip(reason: impl fmt::Display) {
    // The harness captures what the printing macros print, and a test that passes shows none of it.
    io::stderr().write_all(format!("SKIPPED: {reason}\n").as_bytes()).ok();
}

/// A clock that moves only when it is read, by a microsecond, and when a test moves it.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// Returns an [`Env`] on this clock, its randomness drawn from `seed`.
    ///
    /// ```
    /// use std::time::Duration;
    /// let clock = muxfs::testing::Clock::default();
    /// let env = clock.env(7);
    /// let then = (env.now)();
    /// clock.advance(Duration::from_secs(86_400));
    /// assert!((env.now)() >= then + Duration::from_secs(86_400));
    /// ```
    pub fn env(&self, seed: u64) -> Env {
        let clock = self.clone();
        let drawn = AtomicU64::new(seed);
        Env {
            now: Arc::new(move || clock.read()),
            fill: Arc::new(move |buffer| {
                for bytes in buffer.chunks_mut(8) {
                    let mixed = mix(drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)).to_le_bytes();
                    bytes.iter_mut().zip(mixed).for_each(|(to, from)| *to = from);
                }
            }),
        }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn read(&self) -> SystemTime {
        let micros = self.0.fetch_add(1, Ordering::Relaxed);
        SystemTime::UNIX_EPOCH + Duration::from_secs(CLOCK_START_SECS) + Duration::from_micros(micros)
    }
}

/// The output function of `SplitMix64`.
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(env: &Env) -> [u8; 20] {
        let mut bytes = [0; 20];
        (env.fill)(&mut bytes);
        bytes
    }

    #[test]
    fn one_seed_gives_the_same_numbers_and_another_gives_others() {
        let (one, same, other) = (Clock::default().env(1), Clock::default().env(1), Clock::default().env(2));
        let first = draw(&one);
        assert_eq!(first, draw(&same));
        assert_ne!(first, draw(&other));
        assert_ne!(first, draw(&one), "two draws differ");
    }
}
