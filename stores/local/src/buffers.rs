//! Buffers for long reads that were used before: fresh memory costs a page fault for each 4 KiB of it, together as much
//! as copying the bytes.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// The length of a buffer that is used again: a read of 1 MiB, the most that NFS clients ask for and the length of a
/// chunk, and what stands around a chunk where it is stored.
const POOLED_LEN: usize = (1 << 20) + (4 << 10);

/// Buffers that were used before. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Buffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Reads shorter than this take memory of their own: the rest of a buffer would lie idle for as long as they are kept.
    len_min: usize,
    count_max: usize,
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
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.pool.count_max {
            free.push(std::mem::take(&mut self.buffer));
        }
    }
}

impl Buffers {
    /// For reads from `len_min` bytes to 1 MiB; `count_max` buffers of that length wait for their next use at most.
    pub(crate) fn new(len_min: usize, count_max: usize) -> Self {
        Self { free: Arc::default(), len_min, count_max }
    }

    /// A buffer of at least `len` bytes; what is in it is of no meaning.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        if (self.len_min..=POOLED_LEN).contains(&len) {
            let used = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
            return used.unwrap_or_else(|| vec![0; POOLED_LEN]);
        }
        vec![0; len]
    }

    /// The first `len` bytes of a buffer that `take` gave.
    pub(crate) fn give(&self, mut buffer: Vec<u8>, len: usize) -> Bytes {
        if buffer.len() == POOLED_LEN {
            return Bytes::from_owner(Pooled { buffer, len, pool: self.clone() });
        }
        buffer.truncate(len);
        Bytes::from(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_never_shows_what_was_in_it() {
        let pool = Buffers::new(1000, 1);
        let mut buffer = pool.take(1000);
        buffer[..3].copy_from_slice(b"abc");
        let bytes = pool.give(buffer, 2);
        assert_eq!(&bytes[..], b"ab");
        let clone = bytes.clone();
        drop(bytes);
        assert!(pool.free.lock().expect("the pool").is_empty(), "still read");
        drop(clone);
        assert_eq!(pool.free.lock().expect("the pool").len(), 1);
        let (first, second) = (pool.take(1000), pool.take(1 << 20));
        drop((pool.give(first, 1), pool.give(second, 1)));
        assert_eq!(pool.free.lock().expect("the pool").len(), 1, "no more than there may be");
        assert_eq!((pool.take(999).len(), pool.take(2 << 20).len()), (999, 2 << 20));
    }
}
