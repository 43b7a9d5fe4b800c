//! Syncs of one node: one at a time, and one for all who came while another was under way.
//!
//! The host tells a failed write-back once, to one of the syncs that are waiting: another of the same file, ended a moment
//! earlier or later, succeeds and knows of nothing. So what a failure brings about (the verifier is renewed) has to be done
//! before the next sync of that node ends. One at a time sees to that; that those who wait share one sync makes it cheap.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use muxfs::vfs::Ino;
use nfs3_types::nfs3::nfsstat3;

/// How a sync ended.
type Outcome = Result<(), nfsstat3>;

/// The nodes that are being synced.
#[derive(Debug, Default)]
pub(crate) struct Syncs(Mutex<HashMap<Ino, Arc<Group>>>);

/// How much a sync is to make durable: of a root these differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Extent {
    Inode,
    /// Of a root everything below it.
    Whole,
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    /// Which it was, counted from 1.
    number: u64,
    extent: Extent,
    outcome: Outcome,
}

#[derive(Debug, Default)]
struct Group {
    /// How many have begun.
    begun: AtomicU64,
    /// The last that ended. Whoever syncs holds it.
    last: tokio::sync::Mutex<Option<Ended>>,
}

/// One who syncs or waits; the last to leave takes the group along.
struct Member<'a> {
    syncs: &'a Syncs,
    ino: Ino,
    group: Arc<Group>,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let mut groups = self.syncs.groups();
        // Ours and the table's: nobody joins while the table is locked.
        if Arc::strong_count(&self.group) == 2 {
            groups.remove(&self.ino);
        }
    }
}

impl Syncs {
    fn groups(&self) -> MutexGuard<'_, HashMap<Ino, Arc<Group>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, ino: Ino) -> Member<'_> {
        let group = self.groups().entry(ino).or_default().clone();
        Member { syncs: self, ino, group }
    }

    /// Runs `sync`, or gives the outcome of another's that began after this call did.
    pub(crate) async fn run(&self, ino: Ino, extent: Extent, sync: impl Future<Output = Outcome> + Send) -> Outcome {
        let member = self.join(ino);
        let group = &member.group;
        let begun = group.begun.load(Ordering::SeqCst);
        let mut last = group.last.lock().await;
        if let Some(ended) = *last
            && ended.number > begun
            && ended.extent >= extent
        {
            return ended.outcome;
        }
        let number = group.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let outcome = sync.await;
        *last = Some(Ended { number, extent, outcome });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, pin::pin};

    use futures_util::{FutureExt, future::join_all};
    use tokio::sync::Semaphore;

    use super::*;

    const INO: Ino = Ino(NonZeroU64::MIN);

    /// Two syncs of one file at a time: the one was told of the failed write-back, the other of nothing, and it answered
    /// with the verifier from before. Now the second begins after the first ended, and a third shares the second's.
    #[tokio::test]
    async fn one_at_a_time_and_one_for_all_who_wait() {
        let (syncs, gate, runs) = (Syncs::default(), Semaphore::new(0), AtomicU64::new(0));
        let sync = || async {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.expect("open").forget();
            if run == 0 { Err(nfsstat3::NFS3ERR_IO) } else { Ok(()) }
        };
        let mut first = pin!(syncs.run(INO, Extent::Inode, sync()));
        assert!(first.as_mut().now_or_never().is_none());
        let mut others: Vec<_> = (0..3).map(|_| Box::pin(syncs.run(INO, Extent::Inode, sync()))).collect();
        for other in &mut others {
            assert!(other.now_or_never().is_none());
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1, "the others wait");
        gate.add_permits(2);
        assert_eq!(first.await, Err(nfsstat3::NFS3ERR_IO));
        assert_eq!(join_all(others).await, [Ok(()); 3]);
        assert_eq!(runs.load(Ordering::SeqCst), 2, "one more for the three");
        assert!(syncs.groups().is_empty());
    }

    #[tokio::test]
    async fn less_does_not_stand_for_everything() {
        let (syncs, gate, runs) = (Syncs::default(), Semaphore::new(0), AtomicU64::new(0));
        let sync = |extent| {
            syncs.run(INO, extent, async {
                runs.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("open").forget();
                Ok(())
            })
        };
        let mut waiting =
            [Extent::Inode, Extent::Inode, Extent::Whole, Extent::Inode].map(|extent| Box::pin(sync(extent)));
        for one in &mut waiting {
            assert!(one.now_or_never().is_none());
        }
        gate.add_permits(3);
        assert_eq!(join_all(waiting).await, [Ok(()); 4]);
        assert_eq!(runs.load(Ordering::SeqCst), 3, "the last had the one for everything");
    }

    #[tokio::test]
    async fn who_goes_away_leaves_nothing_behind() {
        let syncs = Syncs::default();
        {
            let mut stuck = pin!(syncs.run(INO, Extent::Inode, std::future::pending()));
            assert!(stuck.as_mut().now_or_never().is_none());
            assert_eq!(syncs.groups().len(), 1);
        }
        assert!(syncs.groups().is_empty());
        assert_eq!(syncs.run(INO, Extent::Inode, async { Ok(()) }).await, Ok(()));
    }
}
