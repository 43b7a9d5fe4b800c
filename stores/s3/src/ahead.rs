//! Reading ahead: blocks that are asked for one behind the other, as those of a file are, come in a few large requests.
//!
//! A block is asked for alone until the one behind it in its pack is, too. From then on a *window* is fetched, twice as long each
//! time, of which all are cut that lie in it, also those that are asked for before it is there; and the next ones before they are asked
//! for, also those at the beginning of the next pack. Nothing is kept but the last windows. Spec: spec/s3-store.md #reading.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Shared};

use crate::{index::Location, log::Failure, pack::FRONT_LEN};

/// A window has at least so many bytes, and at most so many, but for a block that is longer.
const WINDOW_LEN_MIN: u64 = 128 << 10;
const WINDOW_LEN_MAX: u64 = 8 << 20;
/// So many bytes are kept in windows, shared by all who read; for each reader that asks for more than is left, a window beyond.
const WINDOWS_LEN_MAX: u64 = 48 << 20;
/// So many are fetched before who reads on asks for them: one connection alone is slower than what it leads to.
pub(crate) const AHEAD_COUNT: usize = 3;
/// Who asks for windows shorter than this, and may have longer ones, is not known to read on for long: nothing is fetched before.
const AHEAD_LEN_MIN: u64 = 4 << 20;
/// A block is in turn that is no more of its lengths away from where its reader is.
const NEAR_COUNT: u64 = 4;
/// So many readers at different places are told apart.
const RUN_COUNT_MAX: usize = 16;
/// Who asked for nothing while so many blocks were asked for is gone.
const IDLE_COUNT: u64 = 4 * RUN_COUNT_MAX as u64;

/// What is fetched once for all who ask for it; `None` where the object is absent.
pub(crate) type Fetch = Shared<BoxFuture<'static, Result<Option<Bytes>, Failure>>>;

/// A part of a pack that is there, or comes.
#[derive(Clone)]
pub(crate) struct Window {
    pub(crate) number: u64,
    pub(crate) range: Range<u64>,
    pub(crate) fetch: Fetch,
    /// The reader it was opened for.
    run: u64,
    /// Whether somebody asked for something in it.
    is_wanted: bool,
}

impl Window {
    /// Whether it is the same one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.fetch.ptr_eq(&other.fetch)
    }

    fn has(&self, number: u64, at: u64) -> bool {
        self.number == number && self.range.contains(&at)
    }
}

/// A reader: where it is, and how much it asked for at last.
#[derive(Debug)]
struct Run {
    id: u64,
    number: u64,
    end: u64,
    /// How long its window was, or else its block.
    len: u64,
    /// How long the block was.
    block_len: u64,
    /// Whether it asked for one block behind another.
    reads_on: bool,
    /// When it asked last, in blocks that were asked for.
    asked_at: u64,
}

/// What is to be done for who asks for a block.
pub(crate) enum Plan {
    /// To ask for it alone.
    Alone,
    /// To cut it out of one window, or out of several that touch.
    Windows {
        found: Vec<Window>,
        /// Those that are new, of them or behind them: somebody has to see to it that they are fetched, whoever waits for that.
        opened: Vec<Window>,
    },
}

/// The last windows, and who reads where.
#[derive(Default)]
pub(crate) struct Ahead {
    windows: VecDeque<Window>,
    /// Who asked last is the last one.
    runs: VecDeque<Run>,
    /// How many blocks were asked for.
    asked_count: u64,
}

impl Ahead {
    /// What to do for a block, where the blocks of its pack and of those behind it end as told: a number and an end each, of
    /// `1 + AHEAD_COUNT` packs at most. `fetch` begins to fetch a part of one.
    pub(crate) fn plan(
        &mut self,
        location: &Location,
        packs: &[(u64, u64)],
        fetch: impl Fn(u64, Range<u64>) -> Fetch,
    ) -> Plan {
        let (number, start) = (location.number, u64::from(location.offset));
        let range = start..start + u64::from(location.len);
        let pack_end = packs.first().map_or(0, |(_, end)| *end).max(range.end);
        let reads_on = self.note(number, &range);
        let (mut found, mut opened, mut at, mut is_first) = (Vec::new(), Vec::new(), start, false);
        while at < range.end
            && let Some(window) = self.windows.iter_mut().find(|window| window.has(number, at))
        {
            (at, is_first) = (window.range.end, !std::mem::replace(&mut window.is_wanted, true));
            found.push(window.clone());
        }
        if at < range.end {
            if found.is_empty() && !reads_on {
                return Plan::Alone;
            }
            let len = range.end - at;
            let Some(window) = self.open(number, (at, len), pack_end, &fetch) else {
                return Plan::Alone;
            };
            let is_long = window.range.end - window.range.start >= AHEAD_LEN_MIN.min(self.window_len_max());
            (at, is_first) = (window.range.end, is_long);
            opened.push(window.clone());
            found.push(window);
        }
        if is_first {
            self.open_ahead(&mut opened, at, packs, fetch);
        }
        Plan::Windows { found, opened }
    }

    /// Forgets what could not be fetched.
    pub(crate) fn forget(&mut self, window: &Window) {
        self.windows.retain(|other| !other.is(window));
    }

    /// Notes who read what; whether that one reads on, a little out of turn perhaps, as several at once do.
    fn note(&mut self, number: u64, range: &Range<u64>) -> bool {
        self.asked_count += 1;
        let len = range.end - range.start;
        let near = NEAR_COUNT * len;
        let is_of = |run: &Run| {
            let is_here = run.number == number && range.start <= run.end + near && run.end <= range.end + near;
            is_here || run.number + 1 == number && range.start <= u64::from(FRONT_LEN) + near
        };
        let asked_at = self.asked_count;
        if let Some(run) = self.runs.iter().position(is_of).and_then(|at| self.runs.remove(at)) {
            let before = if run.number == number { run.end } else { 0 };
            let reads_on = range.end > before;
            let end = range.end.max(before);
            self.runs.push_back(Run {
                number,
                end,
                block_len: len,
                reads_on: run.reads_on || reads_on,
                asked_at,
                ..run
            });
            return reads_on;
        }
        if self.runs.len() >= RUN_COUNT_MAX {
            self.runs.pop_front();
        }
        self.runs.push_back(Run {
            id: asked_at,
            number,
            end: range.end,
            len,
            block_len: len,
            reads_on: false,
            asked_at,
        });
        false
    }

    /// How long a window may be, where all who read on now have as much.
    fn window_len_max(&self) -> u64 {
        let count = self.runs.iter().filter(|run| run.reads_on && self.is_here(run)).count().max(1) as u64;
        (WINDOWS_LEN_MAX / count / (1 + AHEAD_COUNT as u64)).clamp(WINDOW_LEN_MIN, WINDOW_LEN_MAX)
    }

    fn is_here(&self, run: &Run) -> bool {
        run.asked_at + IDLE_COUNT >= self.asked_count
    }

    /// Opens the windows behind a place in the first of the packs that are not open yet, as far as there is room.
    fn open_ahead(
        &mut self,
        opened: &mut Vec<Window>,
        mut at: u64,
        packs: &[(u64, u64)],
        fetch: impl Fn(u64, Range<u64>) -> Fetch,
    ) {
        let mut packs = packs.iter().copied();
        let Some((mut number, mut end)) = packs.next() else { return };
        for _ in 0..AHEAD_COUNT {
            if at >= end {
                let Some(next) = packs.next() else { return };
                ((number, end), at) = (next, FRONT_LEN.into());
            }
            let there = self.windows.iter().find(|window| window.has(number, at)).map(|window| window.range.end);
            at = match there {
                Some(end) => end,
                None => match self.open(number, (at, 0), end, &fetch) {
                    Some(window) => {
                        opened.push(window.clone());
                        window.range.end
                    }
                    None => return,
                },
            };
        }
    }

    /// A window for who asked last, from `start` on: twice what was asked for before. Of it `len` bytes are waited for; where
    /// none are it is opened only if there is room.
    fn open(
        &mut self,
        number: u64,
        (start, len): (u64, u64),
        pack_end: u64,
        fetch: impl Fn(u64, Range<u64>) -> Fetch,
    ) -> Option<Window> {
        let len_max = self.window_len_max();
        let run = self.runs.back_mut()?;
        run.len = (2 * run.len).clamp(WINDOW_LEN_MIN, len_max);
        let (run, window_len) = (run.id, run.len.max(len));
        // Windows touch, and do not overlap.
        let begun = self.windows.iter().filter(|window| window.number == number && window.range.start >= start);
        let end = begun.map(|window| window.range.start).min().unwrap_or(pack_end).min(pack_end);
        let range = start..end.min(start + window_len);
        if range.is_empty() || !self.make_room(range.end - range.start) && len == 0 {
            return None;
        }
        let window = Window { number, fetch: fetch(number, range.clone()), range, run, is_wanted: len > 0 };
        self.windows.push_back(window.clone());
        Some(window)
    }

    /// Forgets windows, the oldest first, until there is room for one of so many bytes; but none that its reader has yet to come to.
    fn make_room(&mut self, len: u64) -> bool {
        let mut held = self.held_len();
        while held + len > WINDOWS_LEN_MAX {
            // Who reads a little out of turn may come back to what is only just behind: that goes last.
            let left = [NEAR_COUNT, 0].map(|near| self.windows.iter().position(|window| self.is_left(window, near)));
            let Some(at) = left.into_iter().flatten().next() else { return false };
            held -= self.windows.remove(at).map_or(0, |window| window.range.end - window.range.start);
        }
        true
    }

    /// How many bytes there are in windows.
    fn held_len(&self) -> u64 {
        self.windows.iter().map(|window| window.range.end - window.range.start).sum()
    }

    /// Whether its reader is beyond it by so many blocks, or gone.
    fn is_left(&self, window: &Window, near_count: u64) -> bool {
        let run = self.runs.iter().find(|run| run.id == window.run && self.is_here(run));
        run.is_none_or(|run| (window.number, window.range.end + near_count * run.block_len) <= (run.number, run.end))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt as _;

    use super::*;

    const LEN: u32 = 1000;

    /// What is asked of a bucket when blocks are read in some order: ranges of packs of a thousand blocks, and how many blocks were
    /// asked for alone.
    fn asked(order: impl Iterator<Item = (u64, u32)>) -> (Vec<Range<u64>>, usize) {
        asked_of_packs(order, LEN, 1000)
    }

    fn asked_of_packs(order: impl Iterator<Item = (u64, u32)>, len: u32, count: u32) -> (Vec<Range<u64>>, usize) {
        let (asked, mut ahead, mut alone) = (RefCell::new(Vec::new()), Ahead::default(), 0);
        let fetch = |_, range: Range<u64>| {
            asked.borrow_mut().push(range);
            async { Ok(None) }.boxed().shared()
        };
        let end = u64::from(FRONT_LEN + count * len);
        for (number, n) in order {
            let location = Location { number, offset: FRONT_LEN + n * len, len, crc: 0 };
            // A hundred packs for each who reads.
            let packs: Vec<_> =
                (number..=number / 100 * 100 + 99).take(1 + AHEAD_COUNT).map(|number| (number, end)).collect();
            match ahead.plan(&location, &packs, fetch) {
                Plan::Alone => alone += 1,
                Plan::Windows { found: windows, .. } => {
                    let start = u64::from(location.offset);
                    let (first, last) = (windows.first().expect("one"), windows.last().expect("one"));
                    assert!(first.has(number, start) && last.has(number, start + u64::from(len) - 1), "block {n}");
                    assert!(windows.windows(2).all(|two| two[0].range.end == two[1].range.start));
                }
            }
            let bound = WINDOWS_LEN_MAX + WINDOWS_LEN_MAX / 2;
            assert!(ahead.held_len() <= bound && ahead.runs.len() <= RUN_COUNT_MAX, "{} bytes", ahead.held_len());
        }
        (asked.into_inner(), alone)
    }

    fn sum(ranges: &[Range<u64>]) -> u64 {
        ranges.iter().map(|range| range.end - range.start).sum()
    }

    #[test]
    fn who_reads_on_asks_for_more_each_time() {
        let (asked, alone) = asked((97..=99).flat_map(|number| (0..1000).map(move |n| (number, n))));
        assert!(alone == 1 && asked.len() < 12, "{alone} alone and {asked:?}");
        // Nothing is asked for twice.
        assert_eq!(sum(&asked), u64::from(3000 * LEN - LEN));
    }

    #[test]
    fn whole_packs_are_fetched_before_they_are_asked_for() {
        let (asked, mut ahead) = (RefCell::new(Vec::new()), Ahead::default());
        let fetch = |number, range: Range<u64>| {
            asked.borrow_mut().push((number, range));
            async { Ok(None) }.boxed().shared()
        };
        let (len, pack_end) = (1 << 20, u64::from(FRONT_LEN) + (8 << 20));
        // Packs that are gone are passed over.
        let numbers = [1, 2, 3, 5, 8, 9];
        for (at, number) in numbers.iter().enumerate().take(3) {
            let packs: Vec<_> =
                numbers.iter().skip(at).take(1 + AHEAD_COUNT).map(|number| (*number, pack_end)).collect();
            for n in 0..8 {
                let location = Location { number: *number, offset: FRONT_LEN + n * len, len, crc: 0 };
                drop(ahead.plan(&location, &packs, fetch));
            }
        }
        for number in [5, 8, 9] {
            assert!(asked.borrow().contains(&(number, FRONT_LEN.into()..pack_end)), "{number} of {:?}", asked.borrow());
        }
    }

    #[test]
    fn readers_at_once_do_not_take_it_from_each_other() {
        for (len, count) in [(1 << 20, 8), (256 << 10, 32), (1 << 20, 31), (100_000, 80)] {
            for readers in 1..=RUN_COUNT_MAX as u64 {
                let blocks =
                    |pack| (0..count).flat_map(move |n| (0..readers).map(move |reader| (reader * 100 + pack, n)));
                let (asked, alone) = asked_of_packs((1..=12).flat_map(blocks), len, count);
                let read = readers * 12 * u64::from(count * len);
                let fetched = sum(&asked) + alone as u64 * u64::from(len);
                // But for what was fetched before and not read any more at the end.
                let unread = WINDOWS_LEN_MAX + WINDOWS_LEN_MAX / 2;
                assert!(fetched <= read + unread, "{readers} of blocks of {len}: {fetched} for {read} bytes");
                assert!(alone as u64 <= 2 * readers, "{readers} of blocks of {len}: {alone} alone");
            }
        }
    }

    #[test]
    fn who_goes_away_leaves_its_room_to_others() {
        let first = (1..=4).flat_map(|pack| (0..8).map(move |n| (pack, n)));
        let second = (101..=130).flat_map(|pack| (0..8).map(move |n| (pack, n)));
        let (asked, alone) = asked_of_packs(first.chain(second), 1 << 20, 8);
        assert!(alone <= 2, "{alone} alone");
        let whole = asked.iter().rev().take(10).filter(|range| range.end - range.start == WINDOW_LEN_MAX).count();
        assert!(whole >= 9, "{asked:?}");
    }

    #[test]
    fn several_at_once_are_one_who_reads_on() {
        let order = (0..250).flat_map(|four| [1, 0, 3, 2].map(|n| (1, four * 4 + n)));
        let (asked, alone) = asked(order);
        assert!(alone + asked.len() < 12, "{alone} alone and {asked:?}");
    }

    #[test]
    fn who_reads_here_and_there_asks_for_nothing_else() {
        let (asked, alone) = asked((0..1000).map(|n| (90 + u64::from(n % 7), n * 377 % 1000)));
        assert!(asked.len() < 60 && alone > 900, "{alone} alone and {} windows", asked.len());
    }
}
