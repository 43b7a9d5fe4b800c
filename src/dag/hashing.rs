//! Hashing of long blocks: off the threads that serve others, two at a time where two wait.
//!
//! Sits between the blocks that enter and leave memory ([`verified`](super::verified)) and the hash functions. A long
//! block costs more to hash than to hand to a thread that may block, and two at once cost little more than one
//! ([`sha256_pair`]). So a worker takes two blocks where two wait, and another worker begins, up to one for each
//! processor, only where there are two for it too. A block that comes alone waits for nobody; one that comes while
//! another is being hashed waits for that, or for a third to share a worker with.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::oneshot};

use super::import::on_thread;
use crate::{
    Cid, Result,
    cid::sha256::{Digest32, sha256, sha256_pair},
};

/// Blocks of this length and more, in bytes, are handed over: hashing them takes 0.1 ms and more, while handing work
/// over and back takes some 0.02 ms.
const HAND_OVER_LEN_MIN: usize = 256 << 10;

/// The long blocks of a [`Dag`](super::Dag) that wait to be hashed, and those who hash them.
pub(crate) struct Hashing {
    state: Mutex<State>,
    worker_count_max: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Threads that hash or are about to: while there is one, nothing that waits is forgotten.
    worker_count: usize,
}

struct Job {
    block: Bytes,
    done: oneshot::Sender<Digest32>,
}

impl Hashing {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), worker_count_max: available_parallelism().map_or(1, usize::from) }
    }

    /// Checks that the block is the CID's; `Corrupt` if not.
    pub(crate) async fn verify(self: &Arc<Self>, cid: &Cid, block: &Bytes) -> Result<()> {
        if cid.is_sha256() {
            return cid.verify_sha256(&self.sha256(block).await);
        }
        if block.len() < HAND_OVER_LEN_MIN {
            return cid.verify(block);
        }
        let (cid, block) = (*cid, block.clone());
        on_thread(move || cid.verify(&block)).await
    }

    /// The sha2-256 digest of a block. A short one is hashed here; a long one too where no runtime has threads for it.
    pub(crate) async fn sha256(self: &Arc<Self>, block: &Bytes) -> Digest32 {
        let runtime = if block.len() < HAND_OVER_LEN_MIN { None } else { Handle::try_current().ok() };
        let Some(runtime) = runtime else { return sha256(block) };
        // The runtime of all workers may end before they came to it, while this caller lives on in another.
        self.hand_over(&runtime, block.clone()).await.unwrap_or_else(|_| sha256(block))
    }

    /// Has a block hashed by whoever comes to it first, a new worker if there may be one more.
    fn hand_over(self: &Arc<Self>, runtime: &Handle, block: Bytes) -> oneshot::Receiver<Digest32> {
        let (done, digest) = oneshot::channel();
        let mut state = self.state();
        state.waiting.push_back(Job { block, done });
        let is_worker_wanted =
            state.worker_count == 0 || (state.waiting.len() >= 2 && state.worker_count < self.worker_count_max);
        state.worker_count += usize::from(is_worker_wanted);
        drop(state);
        if is_worker_wanted {
            let worker = Worker { hashing: Arc::clone(self), is_done: false };
            runtime.spawn_blocking(move || worker.work());
        }
        digest
    }

    /// Held for a few steps that do not panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hashing({} at once)", self.worker_count_max)
    }
}

/// One thread's part; counted from before the thread is asked for until it leaves or is refused.
struct Worker {
    hashing: Arc<Hashing>,
    is_done: bool,
}

impl Worker {
    fn work(mut self) {
        while let Some((one, other)) = self.next() {
            let Some(other) = other else {
                let _ = one.done.send(sha256(&one.block));
                continue;
            };
            let [digest, other_digest] = sha256_pair(&one.block, &other.block);
            // Who waited may be gone.
            let _ = one.done.send(digest);
            let _ = other.done.send(other_digest);
        }
    }

    /// What has waited longest, and the one after it, of those that somebody still waits for. The last worker takes also
    /// one; others leave it to him, or to the next pair.
    fn next(&mut self) -> Option<(Job, Option<Job>)> {
        let mut state = self.hashing.state();
        let State { waiting, worker_count } = &mut *state;
        waiting.retain(|job| !job.done.is_closed());
        if (waiting.len() >= 2 || *worker_count == 1)
            && let Some(job) = waiting.pop_front()
        {
            return Some((job, waiting.pop_front()));
        }
        *worker_count -= 1;
        self.is_done = true;
        None
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        // Never run: its runtime ends. What nobody is left to hash is given back to who waits for it.
        let mut state = self.hashing.state();
        state.worker_count -= 1;
        if state.worker_count == 0 {
            state.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};
    use tokio::runtime::Builder;

    use super::*;

    fn block(len: usize, seed: u8) -> Bytes {
        (0..=250).cycle().take(len).map(|byte: u8| byte ^ seed).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_asks_gets_his_own_digest() {
        let hashing = Arc::new(Hashing::new());
        let blocks: Vec<_> = (0..20u8).map(|i| block(HAND_OVER_LEN_MIN - 10 + usize::from(i), i)).collect();
        let digests = join_all(blocks.iter().map(|block| hashing.sha256(block))).await;
        for (block, digest) in blocks.iter().zip(digests) {
            assert_eq!(digest, sha256(block));
        }
        // Those who turn away leave nothing behind, and nobody waits for them.
        for block in &blocks {
            // Answered already where it is short, or this thread was held up.
            let _ = futures_util::poll!(Box::pin(hashing.sha256(block)));
        }
        assert_eq!(hashing.sha256(&blocks[19]).await, sha256(&blocks[19]));
        while hashing.state().worker_count > 0 {
            tokio::task::yield_now().await;
        }
        assert!(hashing.state().waiting.is_empty());
    }

    /// A runtime that has ended takes no work: what it is asked for is given back, and nobody waits for it.
    #[test]
    fn where_no_thread_comes_whoever_asks_hashes() {
        let hashing = Arc::new(Hashing::new());
        let long = block(HAND_OVER_LEN_MIN, 1);
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let handle = runtime.handle().clone();
        drop(runtime);
        let _entered = handle.enter();
        assert_eq!(hashing.sha256(&long).now_or_never(), Some(sha256(&long)));
        assert_eq!(hashing.state().worker_count, 0);
        assert!(hashing.state().waiting.is_empty());
    }
}
