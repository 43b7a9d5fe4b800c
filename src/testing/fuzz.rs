//! Many inputs, one for each seed, and what has to hold of each: it ends, and nothing panics.

use std::{
    collections::BTreeMap,
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use super::fault::Dice;

/// One input takes well below a second: only what never ends takes as long.
const PATIENCE: Duration = Duration::from_mins(2);
/// From so many inputs on each kind of end has to be met.
const MANY: u64 = 1000;

fn number_of(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Tries inputs of consecutive seeds: `attempt` makes one from its dice, tries it, and says what became of it. Of each
/// word in `wanted` there has to be some, or the inputs are not what they are meant to be.
///
/// `MUXFS_FUZZ_INPUTS` says how many where it is not to be `count`, `MUXFS_FUZZ_SEED` where they begin.
///
/// # Panics
/// Where an input panics or does not end, with its seed; where a word is missing among a thousand inputs or more; where the process
/// ever had more than `memory_len_max` bytes of memory.
///
/// ```
/// use muxfs::{Cid, testing::fuzz};
/// fuzz::inputs(100, 1 << 30, &["refused"], |dice| {
///     let len = dice.roll(50);
///     if Cid::from_bytes(&dice.bytes(len)).is_ok() { "read" } else { "refused" }
/// });
/// ```
pub fn inputs(
    count: u64,
    memory_len_max: u64,
    wanted: &[&'static str],
    mut attempt: impl FnMut(&mut Dice) -> &'static str + Send + 'static,
) {
    let (count, first) = (number_of("MUXFS_FUZZ_INPUTS", count), number_of("MUXFS_FUZZ_SEED", 1));
    let at = Arc::new(AtomicU64::new(first));
    let (tell, told) = channel();
    let worker = thread::spawn({
        let at = at.clone();
        move || {
            let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
            for seed in first..first + count {
                at.store(seed, Ordering::Relaxed);
                // The dice of neighbours are strangers.
                let mut dice = Dice::new(seed.wrapping_mul(0xa076_1d64_78bd_642f));
                *ends.entry(attempt(&mut dice)).or_default() += 1;
            }
            tell.send(ends).ok();
        }
    });
    let mut before = first;
    let ends = loop {
        match told.recv_timeout(PATIENCE) {
            Ok(ends) => break ends,
            Err(RecvTimeoutError::Disconnected) => break BTreeMap::new(),
            Err(RecvTimeoutError::Timeout) => {
                let now = at.load(Ordering::Relaxed);
                assert_ne!(now, before, "MUXFS_FUZZ_SEED={now} does not end");
                before = now;
            }
        }
    };
    worker.join().unwrap_or_else(|_| panic!("MUXFS_FUZZ_SEED={} is what fails", at.load(Ordering::Relaxed)));
    println!("seeds {first} to {}: {ends:?}", first + count - 1);
    if count >= MANY {
        for end in wanted {
            assert!(ends.contains_key(end), "no input was {end:?}: {ends:?}");
        }
    }
    if let Some(len) = memory_peak() {
        assert!(len < memory_len_max, "{} MiB of memory were taken", len >> 20);
    }
}

/// The most memory that this process ever had, in bytes, where the system tells.
fn memory_peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
