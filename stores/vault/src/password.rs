//! A password, and what it costs to try one: Argon2id (RFC 9106) with parameters that are measured once and kept in the
//! header. Spec: spec/vault.md #password.

use std::{
    fmt,
    time::{Duration, Instant},
};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use muxfs::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

/// A password, or what is in a key file: any bytes, as they are. Zeroed when dropped, never printed.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Takes its bytes; those of a text are its UTF-8, which nothing normalizes.
    ///
    /// ```
    /// use muxfs_vault::Password;
    /// assert_eq!(format!("{:?}", Password::new("correct horse")?), "Password(..)");
    /// assert!(Password::new("").is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for none, or one longer than 64 KiB.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = Zeroizing::new(bytes.into());
        if bytes.is_empty() || bytes.len() > 64 << 10 {
            let error = Error::new(ErrorKind::InvalidArgument, "vault.password");
            return Err(error.because("a password has 1 to 65536 bytes"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What it costs to try a password: memory, passes over it, and lanes. Kept in the header in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// In KiB: 8 for each lane to 1 GiB.
    pub memory_kib: u32,
    /// 1 to 64; memory times passes at most 4 GiB.
    pub passes: u32,
    /// 1 to 4.
    pub lanes: u8,
}

const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u8 = 4;
/// Bounds the time that a header which somebody made up can take.
const WORK_KIB_MAX: u64 = 4 << 20;

impl Default for Cost {
    /// The second recommendation of RFC 9106: 64 MiB, 3 passes, 4 lanes.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

#[cfg(test)]
thread_local! {
    /// What was paid on this thread.
    pub(crate) static PAID: std::cell::RefCell<Vec<Cost>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Cost {
    /// What can be paid, and is a cost at all: anything else in a header was never written there by this program.
    pub(crate) fn is_valid(self) -> bool {
        let Self { memory_kib, passes, lanes } = self;
        (1..=LANES_MAX).contains(&lanes)
            && (8 * u32::from(lanes)..=MEMORY_KIB_MAX).contains(&memory_kib)
            && (1..=PASSES_MAX).contains(&passes)
            && u64::from(memory_kib) * u64::from(passes) <= WORK_KIB_MAX
    }

    /// Measures this machine: the cost that takes about `target` here, never less than [`Cost::default`].
    ///
    /// More memory comes before more passes, since that is what costs who tries passwords on hardware of his own.
    pub fn calibrated(target: Duration) -> Self {
        Self::calibrated_by(target, |cost| {
            let begin = Instant::now();
            drop(cost.derive(b"as long as any", &[0; 32]));
            begin.elapsed()
        })
    }

    fn calibrated_by(target: Duration, mut measure: impl FnMut(Self) -> Duration) -> Self {
        let mut cost = Self::default();
        let mut took = measure(cost);
        while took * 2 <= target && cost.memory_kib < MEMORY_KIB_MAX {
            cost.memory_kib *= 2;
            took = measure(cost);
        }
        let more = target.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let passes_max = WORK_KIB_MAX / u64::from(cost.memory_kib);
        while f64::from(cost.passes + 1) <= more * 3.0
            && cost.passes < PASSES_MAX
            && u64::from(cost.passes) < passes_max
        {
            cost.passes += 1;
        }
        cost
    }

    /// What a password gives with a salt. Takes its time: not for a thread that serves others.
    pub(crate) fn derive(self, password: &[u8], salt: &[u8]) -> Zeroizing<[u8; 32]> {
        #[cfg(test)]
        PAID.with_borrow_mut(|paid| paid.push(self));
        let Self { memory_kib, passes, lanes } = self;
        let params = Params::new(memory_kib, passes, lanes.into(), Some(32)).expect("a cost is checked before");
        let mut derived = Zeroizing::new([0; 32]);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        // What it leaves in its memory gives the key.
        let mut memory = Zeroizing::new(vec![Block::default(); argon2.params().block_count()]);
        let hashed = argon2.hash_password_into_with_memory(password, salt, &mut *derived, &mut **memory);
        hashed.expect("password and salt have lengths that it takes");
        derived
    }
}

impl Password {
    pub(crate) fn derive(&self, cost: Cost, salt: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        cost.derive(&self.0, salt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which a pass over a MiB takes a fixed time.
    fn machine(per_mib: Duration) -> impl FnMut(Cost) -> Duration {
        move |cost| per_mib * (cost.memory_kib / 1024) * cost.passes
    }

    #[test]
    fn a_cost_takes_about_as_long_as_is_asked_for() {
        for micros in [50, 300, 1000, 3000, 50_000] {
            let per_mib = Duration::from_micros(micros);
            for target in [1, 500, 1000, 5000].map(Duration::from_millis) {
                let cost = Cost::calibrated_by(target, machine(per_mib));
                assert!(cost.is_valid(), "{cost:?}");
                let took = machine(per_mib)(cost);
                let is_least = cost == Cost::default();
                let is_most = u64::from(cost.memory_kib) * u64::from(cost.passes + 1) > WORK_KIB_MAX;
                assert!(is_least || took <= target, "{cost:?} takes {took:?} of {target:?}");
                assert!(is_most || took * 3 >= target, "{cost:?} takes {took:?} of {target:?}");
            }
        }
    }

    #[test]
    fn what_nobody_can_pay_is_no_cost() {
        assert!(Cost::default().is_valid());
        for (memory_kib, passes, lanes) in [
            (0, 1, 1),
            (7, 1, 1),
            (31, 1, 4),
            (8, 0, 1),
            (8, 1, 0),
            (8, 1, 5),
            (8, 65, 1),
            (1 << 21, 1, 1),
            (1 << 20, 5, 1),
        ] {
            assert!(!Cost { memory_kib, passes, lanes }.is_valid(), "{memory_kib} KiB, {passes}, {lanes}");
        }
    }
}
