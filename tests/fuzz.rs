//! Goal: bytes from outside never panic, hang or eat memory, and what is read means one thing: it is written again as it
//! was, or it is refused.
//!
//! Method: valid inputs made from a seed, then damaged where it matters (lengths, numbers, heads, order) and sometimes
//! anywhere; one seed is one input. `MUXFS_FUZZ_INPUTS` says how many of each kind, `MUXFS_FUZZ_SEED` where they begin.
//! What is found is told with its seed. HTTP and flists are fuzzed the same way beside their crates.

#[path = "fuzz/cars.rs"]
mod cars;
#[path = "fuzz/codecs.rs"]
mod codecs;
#[path = "fuzz/dags.rs"]
mod dags;
#[path = "fuzz/make.rs"]
mod make;
#[path = "fuzz/names.rs"]
mod names;

use muxfs::testing::{fault::Dice, fuzz::inputs};

/// What the whole test may take of memory at any time, its threads together: a value of linked data may take 64 MiB.
const MEMORY_LEN_MAX: u64 = 1 << 30;

/// Tries so many inputs, unless the environment says how many.
fn fuzz(count: u64, wanted: &[&'static str], attempt: impl FnMut(&mut Dice) -> &'static str + Send + 'static) {
    inputs(count, MEMORY_LEN_MAX, wanted, attempt);
}
