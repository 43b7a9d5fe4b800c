//! What was acknowledged and not flushed: after a restart of the server it is asked for, since it may be lost.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use muxfs::BlockKey;

/// So many are remembered: who puts one more flushes first.
const PENDING_COUNT_MAX: usize = 1 << 16;

/// What became of a key, and in which generation of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) is_there: bool,
    pub(crate) generation: u64,
    /// No two changes have the same.
    number: u64,
}

/// Keys that were put or deleted since they were last known to be durable.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<Changes>);

#[derive(Debug, Default)]
struct Changes {
    by_key: BTreeMap<BlockKey, Change>,
    count: u64,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Changes> {
        // It changes in single steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, key: &BlockKey, is_there: bool, generation: u64) {
        let mut changes = self.lock();
        changes.count += 1;
        let change = Change { is_there, generation, number: changes.count };
        changes.by_key.insert(key.clone(), change);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.lock().by_key.len() >= PENDING_COUNT_MAX
    }

    /// What there is now.
    pub(crate) fn all(&self) -> BTreeMap<BlockKey, Change> {
        self.lock().by_key.clone()
    }

    /// Forgets what has not changed since it was looked at.
    pub(crate) fn forget(&self, durable: &BTreeMap<BlockKey, Change>) {
        self.lock().by_key.retain(|key, change| durable.get(key) != Some(change));
    }
}
