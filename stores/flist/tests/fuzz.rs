//! Goal: whatever an flist, its container, a stored chunk or an archive says, it is read or refused with an error; nothing panics,
//! hangs, is written anywhere else, or takes more memory than it may.
//!
//! Method: good ones of both formats, damaged where it matters (heads, lengths, counts, pointers, names) and sometimes anywhere;
//! one seed is one input. `MUXFS_FUZZ_INPUTS` says how many of each kind, `MUXFS_FUZZ_SEED` where they begin. What the damage
//! of each kind is meant to find has a test of its own beside what it damages.

#[path = "fuzz/archives.rs"]
mod archives;
#[path = "fuzz/chunks.rs"]
mod chunks;
#[path = "fuzz/flists.rs"]
mod flists;
#[path = "fuzz/made.rs"]
mod made;

use muxfs::testing::{fault::Dice, fuzz::inputs};

/// What the whole test may take of memory at any time, its threads together: what is unpacked goes through pieces of some KiB, and a
/// window of zstd may have 128 MiB.
const MEMORY_LEN_MAX: u64 = 512 << 20;

/// Tries so many inputs, unless the environment says how many.
fn fuzz(count: u64, wanted: &[&'static str], attempt: impl FnMut(&mut Dice) -> &'static str + Send + 'static) {
    inputs(count, MEMORY_LEN_MAX, wanted, attempt);
}
