//! What is repaired by itself: blocks that a read found to lack a shard, and those that a node lacked when they were put.
//!
//! A set of keys in memory, of bounded size: what does not fit, or is lost with the process, a scrub finds. Blocks that are
//! owed to a node that is down wait until it is back; the others are repaired at once, one after the other, by a task in
//! the background that there is only as long as something waits. Spec: spec/erasure.md, "What is repaired by itself".

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{runtime::Handle, sync::Notify};

use super::Inner;
use crate::{BlockKey, Error, ErrorKind};

/// The keys of blocks that wait for repair.
#[derive(Debug)]
pub(super) struct Mending {
    waiting: Mutex<Waiting>,
    count_max: usize,
    /// Told when a node is back, and when nobody needs the store any more.
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Waiting {
    ready: BTreeSet<BlockKey>,
    /// Of each node that was down those that it lacks.
    owed: BTreeMap<usize, BTreeSet<BlockKey>>,
    /// Those that a repair did not bring to full strength: a read does not have it tried again until a node is back.
    given_up: BTreeSet<BlockKey>,
    is_worked_on: bool,
}

/// What the task does next.
enum Next {
    Repair(BlockKey),
    Wait,
    End,
}

impl Mending {
    pub(super) fn new(count_max: usize, wake: Arc<Notify>) -> Self {
        Self { waiting: Mutex::default(), count_max, wake }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many blocks wait; one that is owed to several nodes counts for each.
    pub(super) fn count(&self) -> usize {
        self.waiting().count()
    }
}

impl Waiting {
    fn count(&self) -> usize {
        self.ready.len() + self.owed.values().map(BTreeSet::len).sum::<usize>()
    }

    fn next(&mut self, is_down: impl Fn(usize) -> bool) -> Next {
        if self.ready.is_empty() {
            let (owed, back): (BTreeMap<_, _>, BTreeMap<_, _>) =
                mem::take(&mut self.owed).into_iter().partition(|(node, _)| is_down(*node));
            self.owed = owed;
            if !back.is_empty() {
                self.given_up.clear();
            }
            self.ready.extend(back.into_values().flatten());
        }
        match self.ready.pop_first() {
            Some(key) => Next::Repair(key),
            None if self.owed.is_empty() => {
                self.is_worked_on = false;
                Next::End
            }
            None => Next::Wait,
        }
    }
}

impl Inner {
    /// Has a block repaired that a read found to lack a shard.
    pub(super) fn mend(&self, key: &BlockKey) {
        let mut waiting = self.mending.waiting();
        if waiting.count() < self.mending.count_max && !waiting.given_up.contains(key) {
            waiting.ready.insert(key.clone());
            self.work_on(waiting);
        }
    }

    /// Has a block repaired when those nodes are back that were unavailable to it: at once where they are by now.
    pub(super) fn owe(&self, key: &BlockKey, missing: &[(usize, Error)]) {
        let mut waiting = self.mending.waiting();
        for (node, _) in missing.iter().filter(|(_, error)| error.kind() == ErrorKind::Unavailable) {
            if waiting.count() < self.mending.count_max {
                waiting.owed.entry(*node).or_default().insert(key.clone());
            }
        }
        if !waiting.owed.is_empty() {
            self.work_on(waiting);
        }
    }

    fn work_on(&self, mut waiting: MutexGuard<'_, Waiting>) {
        // Outside of a runtime nothing runs in the background; what waits is worked on with what comes next in one.
        let Ok(runtime) = Handle::try_current() else { return };
        if !waiting.is_worked_on {
            waiting.is_worked_on = true;
            drop(runtime.spawn(work(self.me.clone(), Arc::clone(&self.mending.wake))));
        }
        drop(waiting);
        self.mending.wake.notify_one();
    }
}

/// Repairs what waits until nothing does.
async fn work(inner: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let next = inner.mending.waiting().next(|node| inner.nodes[node].is_down());
        match next {
            Next::Repair(key) => {
                // What cannot be repaired now is owed again, or for a scrub to tell.
                let is_whole = inner.repair(&key).await.is_ok_and(|report| report.lacking.is_empty());
                if !is_whole {
                    let mut waiting = inner.mending.waiting();
                    if waiting.given_up.len() >= inner.mending.count_max {
                        waiting.given_up.clear();
                    }
                    waiting.given_up.insert(key);
                }
            }
            Next::Wait => {
                drop(inner);
                wake.notified().await;
            }
            Next::End => return,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.mending.wake.notify_one();
    }
}
