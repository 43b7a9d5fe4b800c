//! Reading ahead of who reads a file in order, where what it is made of is far away.
//!
//! A client that reads over NFS or FUSE asks for a part after the other, each shorter than what is fetched at once, and would
//! wait for every piece by itself. What follows such a part is fetched beside it, into a memory of whoever reads; the next
//! read finds it there, or joins the fetch that is under way. Counts in whatever a file is cut into: bytes, or chunks.

use std::{
    fmt,
    hash::Hash,
    num::NonZeroUsize,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use tokio_util::task::AbortOnDropHandle;

/// How many files are read ahead at a time, those that were read last.
const FILE_COUNT_MAX: usize = 32;

/// How far files were read, and what is fetched ahead of that. Dropped, it ends what it fetches.
pub struct ReadAhead<K> {
    /// How much is fetched ahead of a reader; the next stretch is begun when half of it is read.
    ahead_len: u64,
    /// A client has several reads under way, in any order: so far from where it was expected one is still in order.
    order_slack: u64,
    files: Mutex<LruCache<K, Reading>>,
}

impl<K> fmt::Debug for ReadAhead<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadAhead({} ahead)", self.ahead_len)
    }
}

impl<K: Hash + Eq> ReadAhead<K> {
    /// Fetches so much ahead of who reads a file in order; a read that is no further than `order_slack` from where it was
    /// expected is in order.
    pub fn new(ahead_len: u64, order_slack: u64) -> Self {
        let count = NonZeroUsize::new(FILE_COUNT_MAX).unwrap_or(NonZeroUsize::MIN);
        Self { ahead_len, order_slack, files: Mutex::new(LruCache::new(count)) }
    }

    /// Takes note of a read of a file that is `len` long, and in a task of its own has `fetch` fetch what follows, if the reads
    /// of it are in order. The first one tells nothing.
    ///
    /// What fails there is for the read to tell that comes to it. For who is in a Tokio runtime.
    pub fn note<F>(&self, file: K, read: &Range<u64>, len: u64, fetch: impl FnOnce(Range<u64>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reading) = files.get_mut(&file) else {
            files.put(file, Reading { next: read.end, until: read.end, fetching: None });
            return;
        };
        if let Some(range) = reading.note(read, len, self.ahead_len, self.order_slack) {
            reading.fetching = Some(AbortOnDropHandle::new(tokio::spawn(fetch(range))));
        }
    }
}

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
    fn note(&mut self, read: &Range<u64>, len: u64, ahead_len: u64, order_slack: u64) -> Option<Range<u64>> {
        let is_in_order = read.start.abs_diff(self.next) <= order_slack;
        if !is_in_order {
            *self = Self { next: read.end, until: read.end, fetching: None };
            return None;
        }
        self.next = self.next.max(read.end);
        let from = self.until.max(self.next);
        let is_busy = self.fetching.as_ref().is_some_and(|fetching| !fetching.is_finished());
        if is_busy || from >= len || from - self.next > ahead_len / 2 {
            return None;
        }
        self.until = from.saturating_add(ahead_len).min(len);
        Some(from..self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_bytes_in_order_are_known_and_others_are_not() {
        const PART: u64 = 128 << 10;
        const AHEAD_LEN: u64 = 8 << 20;
        let mut reading = Reading { next: PART, until: PART, fetching: None };
        let size = 100 << 20;
        let mut note = |at: u64| reading.note(&(at..at + PART), size, AHEAD_LEN, 4 << 20);
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

    #[test]
    fn reads_of_chunks_in_order_are_known_and_others_are_not() {
        let mut reading = Reading { next: 1, until: 1, fetching: None };
        let mut note = |read: Range<u64>| reading.note(&read, 100, 8, 2);
        assert_eq!(note(0..1), Some(1..9), "another part of the same chunk");
        assert_eq!(note(1..2), None, "that is on its way");
        assert_eq!(note(5..6), None, "it is not expected there");
        assert_eq!(note(6..7), Some(7..15));
        assert_eq!(note(8..9), None);
        assert_eq!(note(10..11), Some(15..23), "half of it was read");
        assert_eq!(note(50..51), None, "a jump");
        assert_eq!(note(51..52), Some(52..60));
        assert_eq!(note(10..11), None, "back");
        assert_eq!(note(97..98), None, "a jump");
        assert_eq!(note(98..99), Some(99..100));
        assert_eq!(note(99..100), None, "behind which is nothing");
    }
}
