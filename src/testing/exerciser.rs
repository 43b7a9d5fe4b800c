//! One file, read and written at random: what every way to a file must stand, after the fashion of `fsx`.
//!
//! A [`Way`] is how bytes get to a file and back: calls of the library, those of the kernel on a mount, those of a
//! client of the network. [`exercise`] draws what to do with it from a seed, does the same to a plain vector of bytes,
//! and compares whatever is read. Offsets and lengths lie at and beside the edges of pages and chunks half of the time.
//! The [`Bed`] has the file in a working tree of small chunks, which commits beside the steps, or never, and collects its
//! garbage beside them.

use std::{
    collections::VecDeque,
    env, fmt,
    fmt::Write as _,
    io,
    ops::Range,
    panic,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{runtime::Runtime, task::JoinHandle};

use super::fault::Dice;
use crate::{
    Name, Result,
    block::Mem,
    dag::{Dag, DagOptions, GcOptions, Params, Profile},
    heads::MemHeads,
    media::MemMedia,
    tree::{Retention, Tree, TreeOptions},
};

/// The longest that a file gets: many chunks, and yet read whole in no time.
pub const FILE_LEN_MAX: u64 = 256 * 1024;
/// How long the chunks of a [`Bed`]'s tree are: some writes cover whole ones, which go past the journal.
const CHUNK_LEN: u32 = 16 * 1024;
/// How many steps one file is exercised for, before another one with a seed of its own: few enough to try them again.
const FILE_STEP_COUNT: u64 = 10_000;
/// A [`Bed`] collects its garbage once in so many settlings: else a million steps fill its memory.
const COLLECT_EVERY: u64 = 64;
/// How many of the last steps are told where one fails.
const TOLD_COUNT: usize = 40;
/// Where random bytes come from: their place in it tells one write from another.
const NOISE_LEN: usize = 1 << 20;

/// What can be done with a file by some way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Read a range.
    Read,
    /// Write a range, or append.
    Write,
    /// Ask for the length.
    Len,
    /// Cut it, or let it grow.
    SetLen,
    /// Make a range a hole.
    Punch,
    /// Make a range zeros, and let the file grow to its end.
    Zero,
    /// Reserve a range, and let the file grow to its end.
    Allocate,
    /// Copy one range of the file to another.
    Copy,
    /// Read a range of the file where it is mapped into memory.
    MapRead,
    /// Write a range of the file where it is mapped into memory.
    MapWrite,
    /// Whatever moves what was written from one place to another: sync, commit, open again.
    Settle,
}

/// Each verb, and how often it is drawn beside the others.
const WEIGHTS: [(Verb, usize); 11] = [
    (Verb::Read, 300),
    (Verb::Write, 330),
    (Verb::Len, 60),
    (Verb::SetLen, 80),
    (Verb::Punch, 50),
    (Verb::Zero, 20),
    (Verb::Allocate, 20),
    (Verb::Copy, 50),
    (Verb::MapRead, 40),
    (Verb::MapWrite, 40),
    (Verb::Settle, 4),
];

/// A way to one file, which is empty at first. What a way has no verb for is never called.
#[expect(clippy::len_without_is_empty, reason = "a file is asked for its length, never whether it is empty")]
pub trait Way {
    /// What it can do.
    fn verbs(&self) -> &'static [Verb];

    /// The bytes of a range; short only at the end of the file.
    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// Writes at an offset, past the end too.
    fn write(&mut self, offset: u64, data: Bytes) -> io::Result<()>;

    /// The length of the file.
    fn len(&mut self) -> io::Result<u64>;

    /// Cuts the file, or lets it grow.
    fn set_len(&mut self, len: u64) -> io::Result<()>;

    /// [`Verb::Settle`].
    fn settle(&mut self) -> io::Result<()>;

    /// Makes a range a hole; the length stays.
    fn punch(&mut self, _range: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes a range zeros.
    fn zero(&mut self, _range: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Reserves a range.
    fn allocate(&mut self, _range: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Copies all of `from`, which is within the file, to where `to` is; they do not overlap.
    fn copy(&mut self, _from: Range<u64>, _to: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// As `read`, of what is within the file, through memory.
    fn map_read(&mut self, _range: Range<u64>) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// As `write`, within the file, through memory.
    fn map_write(&mut self, _offset: u64, _data: Bytes) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// How much is done, and from which seed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How many steps there are in all.
    pub step_count: u64,
    /// The seed of the first file; the next one has the next.
    pub first_seed: u64,
}

impl Plan {
    /// What `MUXFS_EXERCISE_STEPS` and `MUXFS_EXERCISE_SEED` say; else so many steps, from seed 1 on.
    ///
    /// # Panics
    /// Where they are no numbers.
    pub fn from_env(step_count: u64) -> Self {
        let number = |name: &str, otherwise| match env::var(name) {
            Ok(text) => u64::from_str(&text).unwrap_or_else(|error| panic!("{name}={text}: {error}")),
            Err(_) => otherwise,
        };
        Self { step_count: number("MUXFS_EXERCISE_STEPS", step_count), first_seed: number("MUXFS_EXERCISE_SEED", 1) }
    }
}

/// Exercises one file after the other, each made by `way` from the number of the file, until `plan` is done.
///
/// # Panics
/// Where a file is not what it should be: says the seed, what differs, and the last steps before.
pub fn exercise<W: Way>(name: &str, plan: Plan, mut way: impl FnMut(u64) -> W) {
    let begun = Instant::now();
    let (mut seed, mut rest) = (plan.first_seed, plan.step_count);
    // No zeros: a hole never looks like what was written.
    let noise: Bytes = Dice::new(0).bytes(NOISE_LEN).iter().map(|byte| byte | 1).collect();
    while rest > 0 {
        let count = rest.min(FILE_STEP_COUNT);
        let mut way = way(seed);
        Run::new(seed, noise.clone()).go(name, &mut way, count);
        rest -= count;
        seed += 1;
    }
    let seeds = plan.first_seed..seed;
    eprintln!("{name}: {} steps on the files of seeds {seeds:?} in {:?}", plan.step_count, begun.elapsed());
}

/// One step, with all that it takes to do it again.
#[derive(Debug, Clone)]
enum Step {
    Read(Range<u64>),
    Write(u64, Bytes),
    Len,
    SetLen(u64),
    Punch(Range<u64>),
    Zero(Range<u64>),
    Allocate(Range<u64>),
    Copy(Range<u64>, u64),
    MapRead(Range<u64>),
    MapWrite(u64, Bytes),
    Settle,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(range) => write!(f, "read {range:?}"),
            Self::Write(offset, data) => write!(f, "write {:?}", offset..&(offset + data.len() as u64)),
            Self::Len => write!(f, "ask for the length"),
            Self::SetLen(len) => write!(f, "set the length to {len}"),
            Self::Punch(range) => write!(f, "punch {range:?}"),
            Self::Zero(range) => write!(f, "zero {range:?}"),
            Self::Allocate(range) => write!(f, "allocate {range:?}"),
            Self::Copy(from, to) => write!(f, "copy {from:?} to {to}"),
            Self::MapRead(range) => write!(f, "read {range:?} in memory"),
            Self::MapWrite(offset, data) => {
                write!(f, "write {:?} in memory", offset..&(offset + data.len() as u64))
            }
            Self::Settle => write!(f, "settle"),
        }
    }
}

/// A file, as it should be, and what was done with it.
struct Run {
    seed: u64,
    dice: Dice,
    noise: Bytes,
    /// As long as a file may be; zeros from `len` on.
    content: Vec<u8>,
    len: usize,
    told: VecDeque<String>,
}

/// A place in a file of the model.
fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Run {
    fn new(seed: u64, noise: Bytes) -> Self {
        Self {
            seed,
            dice: Dice::new(seed),
            noise,
            content: vec![0; place(FILE_LEN_MAX)],
            len: 0,
            told: VecDeque::new(),
        }
    }

    fn go(mut self, name: &str, way: &mut impl Way, count: u64) {
        let weights = WEIGHTS.iter().filter(|(verb, _)| way.verbs().contains(verb));
        let verbs: Vec<Verb> = weights.flat_map(|(verb, weight)| [*verb].repeat(*weight)).collect();
        for number in 0..count {
            let verb = verbs[self.dice.roll(verbs.len())];
            let Some(step) = self.draw(verb) else { continue };
            if self.told.len() == TOLD_COUNT {
                self.told.pop_front();
            }
            self.told.push_back(format!("{number:>6} {step} of {}", self.len));
            self.take(way, &step).unwrap_or_else(|what| self.fail(name, number, &what));
            if matches!(step, Step::Settle) || number + 1 == count {
                let whole = way.read(0..FILE_LEN_MAX + 1).map_err(|error| error.to_string());
                let whole = whole.and_then(|found| differs(&found, self.there(&(0..FILE_LEN_MAX)), 0));
                whole.unwrap_or_else(|what| self.fail(name, number, &format!("all of it: {what}")));
            }
        }
    }

    fn fail(&self, name: &str, number: u64, what: &str) -> ! {
        let mut text = format!("{name}, MUXFS_EXERCISE_SEED={}, step {number}: {what}; the last steps:\n", self.seed);
        for step in &self.told {
            writeln!(text, "{step}").expect("text");
        }
        panic!("{text}");
    }

    /// An offset below `bound`, often at an edge or beside it.
    fn offset(&mut self, bound: u64) -> u64 {
        let any = self.dice.bits() % bound.max(1);
        let edge = [1, 512, 4096, u64::from(CHUNK_LEN)][self.dice.roll(4)];
        let beside = [0, 0, 0, 1][self.dice.roll(4)];
        (any / edge * edge + beside).min(bound.saturating_sub(1))
    }

    /// A range of at least one byte that ends at `bound` at most.
    fn range(&mut self, bound: u64) -> Range<u64> {
        let start = self.offset(bound);
        let scale = [64, 64, 4096, 4096, 4096, 20_000, 20_000, 3 * u64::from(CHUNK_LEN)][self.dice.roll(8)];
        let end = start + 1 + self.dice.bits() % scale;
        let edge = [1, 1, 4096, u64::from(CHUNK_LEN)][self.dice.roll(4)];
        start..(end.next_multiple_of(edge)).min(bound)
    }

    fn some_noise(&mut self, len: u64) -> Bytes {
        let len = place(len);
        let start = self.dice.roll(NOISE_LEN - len);
        self.noise.slice(start..start + len)
    }

    /// What to do by this verb, if there is anything.
    fn draw(&mut self, verb: Verb) -> Option<Step> {
        let len = self.len as u64;
        let within = |range: Range<u64>| (range.end <= len).then_some(range);
        Some(match verb {
            Verb::Read => Step::Read(self.range(FILE_LEN_MAX)),
            Verb::Write => {
                let mut range = self.range(FILE_LEN_MAX);
                if self.dice.roll(8) == 0 {
                    let end = (len + range.end - range.start).min(FILE_LEN_MAX);
                    range = len.min(end)..end;
                }
                if range.is_empty() {
                    return None;
                }
                Step::Write(range.start, self.some_noise(range.end - range.start))
            }
            Verb::Len => Step::Len,
            Verb::SetLen => Step::SetLen(self.offset(FILE_LEN_MAX)),
            Verb::Punch => Step::Punch(self.range(FILE_LEN_MAX)),
            Verb::Zero => Step::Zero(self.range(FILE_LEN_MAX)),
            Verb::Allocate => Step::Allocate(self.range(FILE_LEN_MAX)),
            Verb::Copy => {
                let from = within(self.range(len))?;
                let to = self.offset(FILE_LEN_MAX - (from.end - from.start));
                let overlaps = to < from.end && from.start < to + (from.end - from.start);
                if overlaps || from.is_empty() {
                    return None;
                }
                Step::Copy(from, to)
            }
            Verb::MapRead | Verb::MapWrite => {
                let range = within(self.range(len))?;
                if range.is_empty() {
                    return None;
                }
                if verb == Verb::MapRead {
                    Step::MapRead(range)
                } else {
                    Step::MapWrite(range.start, self.some_noise(range.end - range.start))
                }
            }
            Verb::Settle => Step::Settle,
        })
    }

    /// Takes a step on both sides.
    fn take(&mut self, way: &mut impl Way, step: &Step) -> std::result::Result<(), String> {
        let io = |error: io::Error| error.to_string();
        match step {
            Step::Read(range) => differs(&way.read(range.clone()).map_err(io)?, self.there(range), range.start),
            Step::MapRead(range) => differs(&way.map_read(range.clone()).map_err(io)?, self.there(range), range.start),
            Step::Len => match way.len().map_err(io)? {
                len if len == self.len as u64 => Ok(()),
                len => Err(format!("its length is {len} and not {}", self.len)),
            },
            Step::Write(offset, data) => {
                self.put(*offset, data);
                way.write(*offset, data.clone()).map_err(io)
            }
            Step::MapWrite(offset, data) => {
                self.put(*offset, data);
                way.map_write(*offset, data.clone()).map_err(io)
            }
            Step::SetLen(len) => {
                self.clear(&(*len..FILE_LEN_MAX));
                self.len = place(*len);
                way.set_len(*len).map_err(io)
            }
            Step::Punch(range) => {
                self.clear(range);
                way.punch(range.clone()).map_err(io)
            }
            Step::Zero(range) => {
                self.grow(range.end);
                self.clear(range);
                way.zero(range.clone()).map_err(io)
            }
            Step::Allocate(range) => {
                self.grow(range.end);
                way.allocate(range.clone()).map_err(io)
            }
            Step::Copy(from, to) => {
                let data = Bytes::copy_from_slice(self.there(from));
                self.put(*to, &data);
                way.copy(from.clone(), *to).map_err(io)
            }
            Step::Settle => way.settle().map_err(io),
        }
    }

    /// What a read of the range gives.
    fn there(&self, range: &Range<u64>) -> &[u8] {
        let end = place(range.end).min(self.len);
        self.content.get(place(range.start)..end).unwrap_or_default()
    }

    fn grow(&mut self, len: u64) {
        self.len = self.len.max(place(len));
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        self.grow(offset + data.len() as u64);
        self.content[place(offset)..place(offset) + data.len()].copy_from_slice(data);
    }

    fn clear(&mut self, range: &Range<u64>) {
        self.content[place(range.start)..place(range.end)].fill(0);
    }
}

/// Where what was found, which begins at `offset`, is not what was wanted.
fn differs(found: &[u8], wanted: &[u8], offset: u64) -> std::result::Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    let same = found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted).count();
    let byte = |bytes: &[u8]| bytes.get(same).map_or_else(|| "the end".to_owned(), |byte| format!("{byte:#04x}"));
    Err(format!("at {} there is {} and not {}", offset + same as u64, byte(found), byte(wanted)))
}

/// Whether a tree commits while its file is exercised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commits {
    /// With every [`Way::settle`], beside the steps that follow it.
    Beside,
    /// Never.
    Never,
}

/// A working tree in memory, made of small chunks.
#[derive(Debug)]
pub struct Bed {
    /// The tree.
    pub tree: Tree,
    commits: Commits,
    settled_count: u64,
    /// What goes on beside the steps.
    beside: Option<JoinHandle<Result<()>>>,
}

impl Bed {
    /// An empty one.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub async fn new(commits: Commits) -> Self {
        let env = super::env();
        let params = Params { chunk_len: CHUNK_LEN, width: 4, ..Profile::default().params() };
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions { params, ..DagOptions::default() });
        let head = Name::new(b"main").expect("a good name");
        let [all, hourly, daily] = [Duration::ZERO; 3];
        let retention = Retention { all, hourly, daily };
        let options = TreeOptions { auto_commit: None, retention, ..TreeOptions::new(head, env) };
        let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await;
        Self { tree: tree.expect("a tree in memory"), commits, settled_count: 0, beside: None }
    }

    /// Begins the next commit on `runtime`, when the one before has ended, if there are commits, and now and then a
    /// collection of garbage after it.
    ///
    /// # Errors
    /// What ended those before.
    ///
    /// # Panics
    /// Where one of them did.
    pub fn settle(&mut self, runtime: &Runtime) -> Result<()> {
        if let Some(beside) = self.beside.take() {
            runtime.block_on(beside).unwrap_or_else(|error| panic::resume_unwind(error.into_panic()))?;
        }
        self.settled_count += 1;
        let (tree, commits) = (self.tree.clone(), self.commits);
        let collects = self.settled_count.is_multiple_of(COLLECT_EVERY);
        self.beside = Some(runtime.spawn(async move {
            if commits == Commits::Beside {
                tree.commit("").await?;
            }
            if collects {
                tree.dag().collect_garbage(|| tree.gc_roots(), &GcOptions::new(&super::env())).await?;
            }
            Ok(())
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that loses what is told to be lost.
    #[derive(Default)]
    struct Plain {
        content: Vec<u8>,
        loses_what_was_cut: bool,
    }

    impl Way for Plain {
        fn verbs(&self) -> &'static [Verb] {
            &[Verb::Read, Verb::Write, Verb::Len, Verb::SetLen]
        }
        fn read(&mut self, range: Range<u64>) -> io::Result<Vec<u8>> {
            let end = place(range.end).min(self.content.len());
            Ok(self.content.get(place(range.start)..end).unwrap_or_default().to_vec())
        }
        fn write(&mut self, offset: u64, data: Bytes) -> io::Result<()> {
            let end = place(offset) + data.len();
            if self.content.len() < end {
                self.content.resize(end, 0);
            }
            self.content[place(offset)..end].copy_from_slice(&data);
            Ok(())
        }
        fn len(&mut self) -> io::Result<u64> {
            Ok(self.content.len() as u64)
        }
        fn set_len(&mut self, len: u64) -> io::Result<()> {
            // As some file systems did: what lay past the end is seen again when the file grows.
            let filler = if self.loses_what_was_cut { 0 } else { 0xff };
            self.content.resize(place(len), filler);
            Ok(())
        }
        fn settle(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_that_keeps_its_bytes_passes() {
        let plan = Plan { step_count: 3000, first_seed: 7 };
        exercise("plain", plan, |_| Plain { loses_what_was_cut: true, ..Plain::default() });
    }

    #[test]
    #[should_panic(expected = "there is 0xff and not 0x00")]
    fn a_file_that_shows_what_was_cut_is_found_out() {
        exercise("plain", Plan { step_count: 3000, first_seed: 7 }, |_| Plain::default());
    }
}
