//! Who hashes long bodies: away from the threads that carry requests, several in step.
//!
//! An MD5 is what costs most of an upload. Whoever has a piece gives it here and waits; a worker takes as many as wait, up to
//! what goes in step, so that many uploads at once cost little more than one. ADR 0039.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};
use tokio::{sync::oneshot, task::spawn_blocking};

use crate::md5::{LANE_COUNT, Md5};

/// A shorter piece is hashed where it is: to give it away would cost more, in bytes.
const GIVEN_LEN_MIN: usize = 32 << 10;

/// What waits to be hashed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hashers(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    worker_count: usize,
}

#[derive(Debug)]
struct Job {
    md5: Md5,
    piece: Bytes,
    done: oneshot::Sender<Md5>,
}

impl Hashers {
    /// An MD5 with a piece more.
    pub(crate) async fn update(&self, mut md5: Md5, piece: Bytes) -> Result<Md5> {
        if piece.len() < GIVEN_LEN_MIN {
            md5.update(&piece);
            return Ok(md5);
        }
        let (done, hashed) = oneshot::channel();
        if self.push(Job { md5, piece, done }) {
            let hashers = self.clone();
            drop(spawn_blocking(move || hashers.work()));
        }
        hashed.await.map_err(|gone| Error::new(ErrorKind::Internal, "s3.hash").because(gone))
    }

    /// Whether a worker has to begin: there is none, or as many wait as one takes at once.
    fn push(&self, job: Job) -> bool {
        let workers_max = available_parallelism().map_or(1, usize::from);
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        let is_late = queue.jobs.len() >= LANE_COUNT && queue.worker_count < workers_max;
        let begins = queue.worker_count == 0 || is_late;
        queue.worker_count += usize::from(begins);
        begins
    }

    /// Some that wait; where there are none the worker ends.
    fn take(&self) -> Vec<Job> {
        let mut queue = self.queue();
        let count = queue.jobs.len().min(LANE_COUNT);
        queue.worker_count -= usize::from(count == 0);
        queue.jobs.drain(..count).collect()
    }

    fn work(&self) {
        let mut jobs = self.take();
        while !jobs.is_empty() {
            let mut all: Vec<_> = jobs.iter_mut().map(|job| (&mut job.md5, &*job.piece)).collect();
            Md5::update_all(&mut all);
            for job in mem::replace(&mut jobs, self.take()) {
                // Whoever gave it may be gone.
                drop(job.done.send(job.md5));
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_gets_its_own_and_workers_end() {
        let hashers = Hashers::default();
        let hash = async |number: u8| {
            let mut md5 = Md5::new();
            let mut expected = Md5::new();
            for round in 0..4_u8 {
                let piece = vec![number ^ round; GIVEN_LEN_MIN - 1 + usize::from(number) * 100];
                expected.update(&piece);
                md5 = hashers.update(md5, piece.into()).await.expect("hashed");
            }
            assert_eq!(md5.finish(), expected.finish(), "{number}");
        };
        join_all((0..40).map(hash)).await;
        // One that came last may still look for more.
        while hashers.queue().worker_count > 0 {
            tokio::task::yield_now().await;
        }
        assert!(hashers.queue().jobs.is_empty());
        hash(7).await;
    }
}
