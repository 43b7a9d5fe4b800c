//! Chunks in memory, opened and verified, and those that are on their way there.
//!
//! What is kept is bounded by what it takes, and nothing but what was fetched is kept. Who wants the same chunk at the same
//! time shares one fetching and what comes of it, a failure too: else each would wait for those before him, and then as
//! long himself. Who comes afterwards begins anew. Spec: spec/flist.md #reading.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use lru::LruCache;
use muxfs::{Error, Result};
use tokio::sync::OnceCell;

use crate::chunk::Chunk;

/// What is kept of chunks, in bytes.
const MEMORY_LEN_MAX: usize = 64 << 20;
/// What a kept chunk takes beside its bytes: key, list and table.
const ENTRY_LEN: usize = 256;

/// What came of a fetching.
type Outcome = Result<Bytes, Arc<Error>>;
type Cell = Arc<OnceCell<Outcome>>;

/// What is fetched: a chunk, how long it is said to be, and of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Want {
    pub(crate) chunk: Chunk,
    pub(crate) len: usize,
    /// The address of the sources, which whoever fetches holds.
    pub(crate) sources: usize,
}

/// Keeps chunks.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Table>);

#[derive(Debug)]
struct Table {
    kept: LruCache<Chunk, Bytes>,
    /// What they take.
    kept_len: usize,
    fetchings: HashMap<Want, Cell>,
}

impl Default for Table {
    fn default() -> Self {
        Self { kept: LruCache::unbounded(), kept_len: 0, fetchings: HashMap::new() }
    }
}

impl Memory {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunk that is kept, of whatever length it is, or else what `fetch` gives, which is kept then.
    pub(crate) async fn get_or_fetch<F>(&self, want: Want, fetch: impl FnOnce() -> F) -> Outcome
    where
        F: Future<Output = Result<Bytes>>,
    {
        let fetching = {
            let mut table = self.table();
            if let Some(bytes) = table.kept.get(&want.chunk) {
                return Ok(bytes.clone());
            }
            let cell = table.fetchings.entry(want).or_default().clone();
            Fetching { memory: self, want, cell }
        };
        let outcome = fetching.cell.get_or_init(|| async {
            let outcome = fetch().await.map_err(Arc::new);
            let mut table = self.table();
            // Whoever comes from now on finds it kept, or begins anew.
            fetching.end(&mut table);
            if let Ok(bytes) = &outcome {
                table.keep(want.chunk, bytes.clone());
            }
            outcome
        });
        outcome.await.clone()
    }
}

impl Table {
    fn keep(&mut self, chunk: Chunk, bytes: Bytes) {
        self.kept_len += bytes.len() + ENTRY_LEN;
        if let Some(old) = self.kept.put(chunk, bytes) {
            self.kept_len -= old.len() + ENTRY_LEN;
        }
        while self.kept_len > MEMORY_LEN_MAX {
            let Some((_, oldest)) = self.kept.pop_lru() else { break };
            self.kept_len -= oldest.len() + ENTRY_LEN;
        }
    }
}

/// One caller's part in a fetching; the last to leave, also by being cancelled, ends it.
struct Fetching<'a> {
    memory: &'a Memory,
    want: Want,
    cell: Cell,
}

impl Fetching<'_> {
    fn end(&self, table: &mut Table) {
        if table.fetchings.get(&self.want).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            table.fetchings.remove(&self.want);
        }
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        // Cells are cloned and let go under the lock of the table only: so the last to leave finds the table's alone.
        let mut table = self.memory.table();
        drop(mem::take(&mut self.cell));
        if table.fetchings.get(&self.want).is_some_and(|cell| Arc::strong_count(cell) == 1) {
            table.fetchings.remove(&self.want);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::{join_all, pending};
    use muxfs::ErrorKind;

    use super::*;

    fn want(number: u32, len: usize) -> Want {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        Want { chunk: Chunk::Xxtea { id, key: id }, len, sources: 0 }
    }

    /// Whoever asks first may say that a chunk is a byte long; what it takes is what it has.
    #[tokio::test]
    async fn what_is_kept_is_bounded_by_what_it_takes() {
        let memory = Memory::default();
        for number in 0..100 {
            let short = memory.get_or_fetch(want(number, 1), pending);
            let long = memory.get_or_fetch(want(number, 4 << 20), || async { Ok(vec![7; 4 << 20].into()) });
            tokio::select! {
                biased;
                _ = short => unreachable!("nobody gives it"),
                got = long => assert_eq!(got.expect("fetched").len(), 4 << 20),
            }
        }
        for number in 100..400_000 {
            let got = memory.get_or_fetch(want(number, 1), || async { Ok(Bytes::from_static(b"x")) });
            got.await.expect("fetched");
        }
        let table = memory.table();
        let len: usize = table.kept.iter().map(|(_, bytes)| bytes.len() + ENTRY_LEN).sum();
        assert!(len == table.kept_len && len <= MEMORY_LEN_MAX && len > MEMORY_LEN_MAX / 2, "{len}");
        assert!(table.fetchings.is_empty(), "nothing is left of who gave up");
    }

    #[tokio::test]
    async fn who_waits_shares_a_failure_and_who_comes_later_begins_anew() {
        let (memory, count) = (Memory::default(), AtomicUsize::new(0));
        let fetch = || async {
            tokio::task::yield_now().await;
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                return Err(Error::new(ErrorKind::Unavailable, "test"));
            }
            Ok(Bytes::from_static(b"x"))
        };
        for outcome in join_all((0..20).map(|_| memory.get_or_fetch(want(1, 1), fetch))).await {
            assert_eq!(outcome.expect_err("an outage").kind(), ErrorKind::Unavailable);
        }
        assert!(memory.table().fetchings.is_empty(), "nothing is left of what failed");
        memory.get_or_fetch(want(1, 1), fetch).await.expect("it is back");
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
