//! Reading ahead of who reads a file in order, where its blocks are far away.
//!
//! A client that reads over NFS or FUSE asks for a part after the other, each shorter than a block, and would wait for every
//! block by itself. What follows such a part is fetched beside it, into the memory that the [`Dag`] keeps verified blocks in;
//! the next read finds it there, or joins the fetch that is under way.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use futures_util::StreamExt as _;
use lru::LruCache;
use tokio_util::task::AbortOnDropHandle;

use crate::{Cid, dag::Dag};

/// How far ahead of a reader is fetched, in bytes; the next stretch is begun when half of it is read.
const AHEAD_LEN: u64 = 8 << 20;
/// A client has several reads under way, in any order: so far from where it was expected one is still in order.
const ORDER_SLACK: u64 = 4 << 20;
/// How many files are read ahead at a time, those that were read last.
const FILE_COUNT_MAX: usize = 32;

/// How far files were read, and what is fetched ahead of that.
#[derive(Debug)]
pub(super) struct Ahead(Mutex<LruCache<Cid, Reading>>);

#[derive(Debug, Default)]
struct Reading {
    /// Where the next read is expected.
    next: u64,
    /// What is before this was fetched, or is on its way.
    until: u64,
    /// To drop it ends it.
    fetching: Option<AbortOnDropHandle<()>>,
}

impl Reading {
    /// Takes note of a read; what is to be fetched beside it.
    fn note(&mut self, read: &Range<u64>, size: u64) -> Option<Range<u64>> {
        let is_in_order = read.start.abs_diff(self.next) <= ORDER_SLACK;
        if !is_in_order {
            *self = Self { next: read.end, until: read.end, fetching: None };
            return None;
        }
        self.next = self.next.max(read.end);
        let from = self.until.max(self.next);
        let is_busy = self.fetching.as_ref().is_some_and(|fetching| !fetching.is_finished());
        if is_busy || from >= size || from - self.next > AHEAD_LEN / 2 {
            return None;
        }
        self.until = from.saturating_add(AHEAD_LEN).min(size);
        Some(from..self.until)
    }
}

impl Default for Ahead {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(
            std::num::NonZeroUsize::new(FILE_COUNT_MAX).unwrap_or(std::num::NonZeroUsize::MIN),
        )))
    }
}

impl Ahead {
    /// Fetches what follows a read of a file of `size` bytes, if the reads of it are in order. The first one tells nothing.
    pub(super) fn note(&self, dag: &Dag, file: &Cid, read: Range<u64>, size: u64) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reading) = files.get_mut(file) else {
            let reading = Reading { next: read.end, until: read.end, fetching: None };
            files.put(*file, reading);
            return;
        };
        let Some(range) = reading.note(&read, size) else { return };
        let mut pieces = dag.range_reader(file, range);
        // What fails is told to who reads it.
        let fetch = async move { while pieces.next().await.is_some_and(|piece| piece.is_ok()) {} };
        reading.fetching = Some(AbortOnDropHandle::new(tokio::spawn(fetch)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_are_known_and_others_are_not() {
        const PART: u64 = 128 << 10;
        let mut reading = Reading { next: PART, until: PART, fetching: None };
        let size = 100 << 20;
        let mut note = |at: u64| reading.note(&(at..at + PART), size);
        assert_eq!(note(PART), Some(2 * PART..2 * PART + AHEAD_LEN));
        assert_eq!(note(3 * PART), None, "that is on its way");
        assert_eq!(note(2 * PART), None, "one that was overtaken");
        let middle = 2 * PART + AHEAD_LEN / 2;
        assert_eq!(note(middle), Some(2 * PART + AHEAD_LEN..2 * PART + 2 * AHEAD_LEN));
        assert_eq!(note(50 << 20), None, "a jump");
        let after = (50 << 20) + 2 * PART;
        assert_eq!(note((50 << 20) + PART), Some(after..after + AHEAD_LEN));
        assert_eq!(note(10 << 20), None, "back");
        assert_eq!(note(size - PART), None, "to the end");
        assert_eq!(note(size - PART), None, "behind which is nothing");
    }
}
