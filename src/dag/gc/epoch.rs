//! What a sweep must not touch, besides what it has marked: what was put lately, and what is leased.
//!
//! Time is divided into *eras*; a collection begins a new one, its epoch. While somebody writes, or a collection runs,
//! every put leaves a stamp: its key goes into a filter of the current era, *after* the store has the block. A session
//! remembers the era that it began in. A collection spares the stamps of all eras from the oldest session on that was
//! alive at its epoch, and its own. Stamps that nobody can ask for any more are dropped.
//!
//! A put holds its key's lock for sharing from before the store is asked until it is stamped, and a removal holds it
//! alone from before the stamps are looked at until the block is gone: so either the removal sees the stamp, or the put
//! comes to a store that has the block no more. Spec: spec/gc.md.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, RwLockReadGuard};

use super::filter::KeyFilter;
use crate::{BlockKey, Cid};

/// So many locks are shared by all keys: a removal makes one put in so many wait for it.
const STRIPE_COUNT: usize = 256;
/// A session that finds so many stamps in the current era begins a new one, so that old stamps can go before it ends.
const ERA_STAMP_COUNT: u64 = 1 << 16;

/// What all clones of a [`Dag`](crate::dag::Dag) know together.
pub(crate) struct Epochs {
    state: Mutex<State>,
    stripes: Vec<Arc<RwLock<()>>>,
    /// Held for sharing by every removal from its last look at the leases on.
    removing: Arc<RwLock<()>>,
    /// Whoever holds it collects.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    era: u64,
    /// How many sessions that began in an era are alive.
    sessions: BTreeMap<u64, usize>,
    /// The eras that have stamps, ascending.
    stamps: VecDeque<(u64, KeyFilter)>,
    leases: BTreeMap<Cid, usize>,
    collection: Option<Collection>,
}

/// A collection that is under way.
struct Collection {
    /// It spares the stamps of this era and of all later ones.
    spared_from: u64,
    /// What was leased at its epoch or since, and is not marked yet.
    leased: Vec<Cid>,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            stripes: (0..STRIPE_COUNT).map(|_| Arc::default()).collect(),
            removing: Arc::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Changed in single steps that do not panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The era of the collection that is under way.
    #[cfg(test)]
    pub(super) fn collecting(&self) -> Option<u64> {
        let state = self.lock();
        state.collection.as_ref().map(|_| state.era)
    }

    /// How many stamps are kept.
    #[cfg(test)]
    pub(super) fn stamp_count(&self) -> u64 {
        self.lock().stamps.iter().map(|(_, stamps)| stamps.count()).sum()
    }

    fn stripe(&self, key: &BlockKey) -> &Arc<RwLock<()>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.stripes[usize::try_from(hasher.finish() % STRIPE_COUNT as u64).unwrap_or(0)]
    }

    /// Keeps a key from being removed while it is put.
    pub(crate) async fn putting(&self, key: &BlockKey) -> Putting<'_> {
        Putting { epochs: self, _shared: self.stripe(key).read().await }
    }

    pub(super) fn begin_session(self: &Arc<Self>) -> WriteSession {
        let mut state = self.lock();
        let stamped =
            state.stamps.back().is_some_and(|(era, stamps)| *era == state.era && stamps.count() >= ERA_STAMP_COUNT);
        if stamped {
            state.era += 1;
        }
        let era = state.era;
        *state.sessions.entry(era).or_default() += 1;
        WriteSession { epochs: Arc::clone(self), era }
    }

    pub(super) fn lease(self: &Arc<Self>, cid: &Cid) -> DagLease {
        let mut state = self.lock();
        *state.leases.entry(*cid).or_default() += 1;
        if let Some(collection) = &mut state.collection {
            collection.leased.push(*cid);
        }
        DagLease { epochs: Arc::clone(self), cid: *cid }
    }

    /// Waits for its turn and takes the epoch.
    pub(super) async fn begin_collection(&self) -> Epoch<'_> {
        let turn = self.turn.lock().await;
        let mut state = self.lock();
        state.era += 1;
        let spared_from = state.sessions.keys().next().copied().unwrap_or(state.era);
        let leased = state.leases.keys().copied().collect();
        state.collection = Some(Collection { spared_from, leased });
        Epoch { epochs: self, _turn: turn }
    }
}

impl State {
    /// Drops the stamps that neither a session nor a collection can ask for.
    fn prune(&mut self) {
        let oldest = self.sessions.keys().next().copied();
        let spared = self.collection.as_ref().map(|collection| collection.spared_from);
        match [oldest, spared].into_iter().flatten().min() {
            Some(needed) => {
                while self.stamps.front().is_some_and(|(era, _)| *era < needed) {
                    self.stamps.pop_front();
                }
            }
            None => self.stamps.clear(),
        }
    }
}

impl fmt::Debug for Epochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Epochs")
            .field("era", &state.era)
            .field("sessions", &state.sessions.values().sum::<usize>())
            .field("leases", &state.leases.len())
            .field("collecting", &state.collection.is_some())
            .finish_non_exhaustive()
    }
}

/// A put under way.
pub(crate) struct Putting<'a> {
    epochs: &'a Epochs,
    _shared: RwLockReadGuard<'a, ()>,
}

impl Putting<'_> {
    /// Leaves the stamp, where somebody may ask for it: the store has the block.
    pub(crate) fn stamp(self, key: &BlockKey) {
        let mut state = self.epochs.lock();
        if state.sessions.is_empty() && state.collection.is_none() {
            return;
        }
        let era = state.era;
        if state.stamps.back().is_none_or(|(last, _)| *last < era) {
            state.stamps.push_back((era, KeyFilter::new(era)));
        }
        if let Some((_, stamps)) = state.stamps.back_mut() {
            stamps.insert(key);
        }
    }
}

/// Keeps what is put while it lives from being collected; [`Dag::begin_write`](crate::dag::Dag::begin_write) begins it.
///
/// To drop it ends it: from then on what was put must be reached from a root, or it goes with the next collection.
#[derive(Debug)]
#[must_use = "what is put is kept for as long as the session lives"]
pub struct WriteSession {
    epochs: Arc<Epochs>,
    era: u64,
}

impl Drop for WriteSession {
    fn drop(&mut self) {
        let mut state = self.epochs.lock();
        if let Some(count) = state.sessions.get_mut(&self.era) {
            *count -= 1;
            if *count == 0 {
                state.sessions.remove(&self.era);
                state.prune();
            }
        }
    }
}

/// Keeps everything below a CID from being collected, in this process, until dropped; [`Dag::lease`](crate::dag::Dag::lease)
/// gives it.
#[derive(Debug)]
#[must_use = "everything below is kept for as long as the lease lives"]
pub struct DagLease {
    epochs: Arc<Epochs>,
    cid: Cid,
}

impl DagLease {
    /// What is leased.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// Waits for the removals that had begun before the lease was taken: whatever is there below it then, stays.
    ///
    /// Needed only for what nothing else keeps, as before a stray root is pinned: some of it may be gone already, so
    /// look what is there after this returned.
    pub async fn settled(&self) {
        drop(self.epochs.removing.write().await);
    }
}

impl Drop for DagLease {
    fn drop(&mut self) {
        let mut state = self.epochs.lock();
        if let Some(count) = state.leases.get_mut(&self.cid) {
            *count -= 1;
            if *count == 0 {
                state.leases.remove(&self.cid);
            }
        }
    }
}

/// A collection under way; dropping it ends it.
pub(super) struct Epoch<'a> {
    epochs: &'a Epochs,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Epoch<'_> {
    /// What is leased and was not given before.
    pub(super) fn take_leased(&self) -> Vec<Cid> {
        let mut state = self.epochs.lock();
        state.collection.as_mut().map(|collection| std::mem::take(&mut collection.leased)).unwrap_or_default()
    }

    /// Whether a key was put too late to be missed by the marks.
    pub(super) fn is_fresh(&self, key: &BlockKey) -> bool {
        self.epochs.lock().is_fresh(key)
    }

    /// Asks to remove a key that is not marked: nobody puts it until the permit is dropped.
    pub(super) async fn removal(&self, key: &BlockKey) -> Removal {
        let alone = Arc::clone(self.epochs.stripe(key)).write_owned().await;
        let begun = Arc::clone(&self.epochs.removing).read_owned().await;
        let state = self.epochs.lock();
        if state.is_fresh(key) {
            Removal::Fresh
        } else if state.collection.as_ref().is_none_or(|collection| !collection.leased.is_empty()) {
            Removal::Unsure
        } else {
            Removal::Granted(Permit { _alone: alone, _begun: begun })
        }
    }
}

impl State {
    fn is_fresh(&self, key: &BlockKey) -> bool {
        let Some(collection) = &self.collection else { return true };
        let spared = self.stamps.iter().rev().take_while(|(era, _)| *era >= collection.spared_from);
        spared.into_iter().any(|(_, stamps)| stamps.may_hold(key))
    }
}

impl Drop for Epoch<'_> {
    fn drop(&mut self) {
        let mut state = self.epochs.lock();
        state.collection = None;
        state.prune();
    }
}

/// Whether a key may be removed.
pub(super) enum Removal {
    /// It may, for as long as the permit lives.
    Granted(Permit),
    /// It was put since the oldest session began.
    Fresh,
    /// There is a new lease that may lead to it: mark that first.
    Unsure,
}

pub(super) struct Permit {
    _alone: OwnedRwLockWriteGuard<()>,
    _begun: OwnedRwLockReadGuard<()>,
}
