//! Buffers for long reads that were used before: fresh memory costs a page fault for each 4 KiB of it, together as much
//! as copying the bytes.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers of one length.
#[derive(Debug)]
pub(crate) struct Class {
    /// Reads shorter than this take no buffer of these: the rest of it would lie idle for as long as they are kept.
    pub(crate) len_min: usize,
    /// The length of each.
    pub(crate) len: usize,
    /// How many of them wait for their next use at most.
    pub(crate) count_max: usize,
}

/// The length of a read of 1 MiB, the most that NFS clients ask for and the length of a chunk, and of what stands around a
/// chunk where it is stored.
pub(crate) const CHUNK_LEN: usize = (1 << 20) + AROUND_LEN;
/// What is added to a chunk, or to a part of one, where it is stored, at most: what tells its length less exactly is a
/// thirty-second of it, and there are headers.
pub(crate) const AROUND_LEN: usize = 36 << 10;

/// Buffers that were used before. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Buffers {
    /// From the shortest to the longest.
    shelves: Arc<[Shelf]>,
}

/// The buffers of a class that wait.
#[derive(Debug)]
struct Shelf {
    class: &'static Class,
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer that goes back when the last of its readers is done.
#[derive(Debug)]
struct Pooled {
    buffer: Vec<u8>,
    len: usize,
    pool: Buffers,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(Shelf { class, free }) = self.pool.shelf_of(self.buffer.len()) {
            let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
            if free.len() < class.count_max {
                free.push(std::mem::take(&mut self.buffer));
            }
        }
    }
}

impl Buffers {
    /// `classes` from the shortest to the longest; a read that is of none takes memory of its own.
    pub(crate) fn new(classes: &'static [Class]) -> Self {
        Self { shelves: classes.iter().map(|class| Shelf { class, free: Mutex::default() }).collect() }
    }

    /// The shelf of buffers of exactly `len` bytes.
    fn shelf_of(&self, len: usize) -> Option<&Shelf> {
        self.shelves.iter().find(|shelf| shelf.class.len == len)
    }

    /// A buffer of at least `len` bytes; what is in it is of no meaning.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        let is_for = |Shelf { class, .. }: &&Shelf| (class.len_min..=class.len).contains(&len);
        let Some(Shelf { class, free }) = self.shelves.iter().find(is_for) else { return vec![0; len] };
        let used = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        used.unwrap_or_else(|| vec![0; class.len])
    }

    /// The first `len` bytes of a buffer that `take` gave.
    pub(crate) fn give(&self, mut buffer: Vec<u8>, len: usize) -> Bytes {
        if self.shelf_of(buffer.len()).is_some() {
            return Bytes::from_owner(Pooled { buffer, len, pool: self.clone() });
        }
        buffer.truncate(len);
        Bytes::from(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Class = Class { len_min: 1000, len: 1500, count_max: 1 };
    const LONG: Class = Class { len_min: 5000, len: 9000, count_max: 2 };

    fn waiting(pool: &Buffers) -> Vec<usize> {
        pool.shelves.iter().map(|shelf| shelf.free.lock().expect("the shelf").len()).collect()
    }

    #[test]
    fn a_buffer_is_used_again_and_never_shows_what_was_in_it() {
        let pool = Buffers::new(&[SHORT, LONG]);
        let mut buffer = pool.take(1000);
        buffer[..3].copy_from_slice(b"abc");
        let bytes = pool.give(buffer, 2);
        assert_eq!(&bytes[..], b"ab");
        let clone = bytes.clone();
        drop(bytes);
        assert_eq!(waiting(&pool), [0, 0], "still read");
        drop(clone);
        assert_eq!(waiting(&pool), [1, 0]);
        let (first, second, long) = (pool.take(1000), pool.take(1500), pool.take(5000));
        assert_eq!((first.len(), second.len(), long.len()), (1500, 1500, 9000));
        drop((pool.give(first, 1), pool.give(second, 1), pool.give(long, 9000)));
        assert_eq!(waiting(&pool), [1, 1], "no more than there may be");
        for len in [0, 999, 1501, 4999, 9001] {
            assert_eq!(pool.take(len).len(), len, "memory of its own");
        }
        drop(pool.give(vec![0; 999], 10));
        assert_eq!(waiting(&pool), [1, 1]);
    }
}
