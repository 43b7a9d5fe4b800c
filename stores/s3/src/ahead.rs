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
const WINDOW_LEN_MAX: u64 = 4 << 20;
/// So many windows are kept: 48 MiB.
const WINDOW_COUNT_MAX: usize = 12;
/// So many are fetched before who reads on asks for them: one connection alone is slower than what it leads to.
const AHEAD_COUNT: usize = 3;
/// A block is in turn that is no more of its lengths away from where its reader is.
const NEAR_COUNT: u64 = 4;
/// So many readers at different places are told apart.
const RUN_COUNT_MAX: usize = 16;

/// What is fetched once for all who ask for it; `None` where the object is absent.
pub(crate) type Fetch = Shared<BoxFuture<'static, Result<Option<Bytes>, Failure>>>;

/// A part of a pack that is there, or comes.
#[derive(Clone)]
pub(crate) struct Window {
    pub(crate) number: u64,
    pub(crate) range: Range<u64>,
    pub(crate) fetch: Fetch,
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
    number: u64,
    end: u64,
    len: u64,
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
    runs: VecDeque<Run>,
}

impl Ahead {
    /// What to do for a block in a pack whose blocks, and those of the next pack where there is one, end there; `fetch` begins to
    /// fetch a part of one.
    pub(crate) fn plan(
        &mut self,
        location: &Location,
        (pack_end, next_end): (u64, Option<u64>),
        fetch: impl Fn(u64, Range<u64>) -> Fetch,
    ) -> Plan {
        let (number, start) = (location.number, u64::from(location.offset));
        let range = start..start + u64::from(location.len);
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
            let Some(window) = self.open(number, at, range.end - at, pack_end.max(range.end), &fetch) else {
                return Plan::Alone;
            };
            if let Some(kept) = self.windows.back_mut() {
                kept.is_wanted = true;
            }
            (at, is_first) = (window.range.end, window.range.end - window.range.start >= WINDOW_LEN_MAX);
            opened.push(window.clone());
            found.push(window);
        }
        if is_first {
            self.open_ahead(&mut opened, (number, at), (pack_end, next_end), fetch);
        }
        Plan::Windows { found, opened }
    }

    /// Forgets what could not be fetched.
    pub(crate) fn forget(&mut self, window: &Window) {
        self.windows.retain(|other| !other.is(window));
    }

    /// Notes who read what; whether that one reads on, a little out of turn perhaps, as several at once do.
    fn note(&mut self, number: u64, range: &Range<u64>) -> bool {
        let len = range.end - range.start;
        let near = NEAR_COUNT * len;
        let is_of = |run: &Run| {
            let is_here = run.number == number && range.start <= run.end + near && run.end <= range.end + near;
            is_here || run.number + 1 == number && range.start <= u64::from(FRONT_LEN) + near
        };
        if let Some(run) = self.runs.iter().position(is_of).and_then(|at| self.runs.remove(at)) {
            let before = if run.number == number { run.end } else { 0 };
            self.runs.push_back(Run { number, end: range.end.max(before), len: run.len });
            return range.end > before;
        }
        if self.runs.len() >= RUN_COUNT_MAX {
            self.runs.pop_front();
        }
        self.runs.push_back(Run { number, end: range.end, len });
        false
    }

    /// Opens the windows behind a place that are not open yet.
    fn open_ahead(
        &mut self,
        opened: &mut Vec<Window>,
        (mut number, mut at): (u64, u64),
        (mut end, mut next_end): (u64, Option<u64>),
        fetch: impl Fn(u64, Range<u64>) -> Fetch,
    ) {
        for _ in 0..AHEAD_COUNT {
            if at >= end {
                let Some(next_end) = next_end.take() else { return };
                (number, at, end) = (number + 1, FRONT_LEN.into(), next_end);
            }
            let there = self.windows.iter().find(|window| window.has(number, at)).map(|window| window.range.end);
            at = match there {
                Some(end) => end,
                None => match self.open(number, at, 0, end, &fetch) {
                    Some(window) => {
                        opened.push(window.clone());
                        window.range.end
                    }
                    None => return,
                },
            };
        }
    }

    /// A window from `start` on, of at least `len` bytes and twice what its reader asked for before.
    fn open(
        &mut self,
        number: u64,
        start: u64,
        len: u64,
        pack_end: u64,
        fetch: impl Fn(u64, Range<u64>) -> Fetch,
    ) -> Option<Window> {
        let run = self.runs.back_mut()?;
        run.len = (2 * run.len).clamp(WINDOW_LEN_MIN, WINDOW_LEN_MAX);
        // Windows touch, and do not overlap.
        let begun = self.windows.iter().filter(|window| window.number == number && window.range.start >= start);
        let end = begun.map(|window| window.range.start).min().unwrap_or(pack_end).min(pack_end);
        let range = start..end.min(start + run.len.max(len));
        if range.is_empty() {
            return None;
        }
        let window = Window { number, fetch: fetch(number, range.clone()), range, is_wanted: false };
        if self.windows.len() >= WINDOW_COUNT_MAX {
            self.windows.pop_front();
        }
        self.windows.push_back(window.clone());
        Some(window)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt as _;

    use super::*;

    const LEN: u32 = 1000;

    fn location(number: u64, n: u32) -> Location {
        Location { number, offset: FRONT_LEN + n * LEN, len: LEN, crc: 0 }
    }

    /// What is asked of a bucket when blocks are read in some order: ranges of packs of a thousand blocks, how long one window is
    /// at most, and how many blocks were asked for alone.
    fn asked(order: impl Iterator<Item = (u64, u32)>) -> (Vec<Range<u64>>, usize) {
        let (asked, mut ahead, mut alone) = (RefCell::new(Vec::new()), Ahead::default(), 0);
        let fetch = |_, range: Range<u64>| {
            asked.borrow_mut().push(range);
            async { Ok(None) }.boxed().shared()
        };
        let end = u64::from(FRONT_LEN + 1000 * LEN);
        for (number, n) in order {
            match ahead.plan(&location(number, n), (end, (number < 3).then_some(end)), fetch) {
                Plan::Alone => alone += 1,
                Plan::Windows { found: windows, .. } => {
                    let start = u64::from(location(number, n).offset);
                    let (first, last) = (windows.first().expect("one"), windows.last().expect("one"));
                    assert!(first.has(number, start) && last.has(number, start + u64::from(LEN) - 1), "block {n}");
                    assert!(windows.windows(2).all(|two| two[0].range.end == two[1].range.start));
                }
            }
            assert!(ahead.windows.len() <= WINDOW_COUNT_MAX && ahead.runs.len() <= RUN_COUNT_MAX);
        }
        (asked.into_inner(), alone)
    }

    #[test]
    fn who_reads_on_asks_for_more_each_time() {
        let (asked, alone) = asked((1..=3).flat_map(|number| (0..1000).map(move |n| (number, n))));
        assert!(alone == 1 && asked.len() < 12, "{alone} alone and {asked:?}");
        // Nothing is asked for twice.
        let len: u64 = asked.iter().map(|range| range.end - range.start).sum();
        assert_eq!(len, u64::from(3000 * LEN - LEN));
    }

    #[test]
    fn several_at_once_are_one_who_reads_on() {
        let order = (0..250).flat_map(|four| [1, 0, 3, 2].map(|n| (1, four * 4 + n)));
        let (asked, alone) = asked(order);
        assert!(alone + asked.len() < 12, "{alone} alone and {asked:?}");
    }

    #[test]
    fn who_reads_here_and_there_asks_for_nothing_else() {
        let (asked, alone) = asked((0..1000).map(|n| (1 + u64::from(n % 7), n * 377 % 1000)));
        assert!(asked.len() < 60 && alone > 900, "{alone} alone and {} windows", asked.len());
    }
}
