//! What is brought to nodes by itself: shards that a read found to be missing, and what a node that was away is owed.
//!
//! Sets of keys of bounded size, in memory and, as far as they are owed, in a log (`owed`): shards that do not fit are for a
//! scrub to find. What is owed to a node that is down, or has not answered since the start, waits until it does; the rest is
//! worked on at once, one block after the other, by a task in the background that there is only as long as something waits.
//! Deletions are told of in `deleting`. Spec: spec/erasure.md, "What is repaired by itself".

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify},
    task::JoinHandle,
};

use super::{
    Inner,
    deleting::{Deletions, Due},
    owed::{Debt, OwedLog},
};
use crate::{BlockKey, Error, ErrorKind, Result, log::Record};

/// Keys of blocks, of each node by its number.
pub(super) type ByNode = BTreeMap<usize, BTreeSet<BlockKey>>;

/// The keys of blocks that wait for repair or deletion.
#[derive(Debug)]
pub(super) struct Mending {
    waiting: Mutex<Waiting>,
    count_max: usize,
    /// Told when a node is back, and when nobody needs the store any more.
    wake: Arc<Notify>,
    /// Whoever changes what is owed holds it, from the change until it is noted.
    log: AsyncMutex<Option<OwedLog>>,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    ready: BTreeSet<BlockKey>,
    /// Of each node that was down those of which it lacks a shard.
    owed: ByNode,
    /// What nodes are to delete.
    pub(super) deletions: Deletions,
    /// Those that a repair did not bring to full strength: a read does not have it tried again until a node is back.
    given_up: BTreeSet<BlockKey>,
    /// The shards that the log says are owed.
    noted: BTreeMap<BlockKey, BTreeSet<usize>>,
    /// Those of them that were repaired since the nodes were flushed.
    repaired: Vec<BlockKey>,
    is_closed: bool,
    /// The task that works on it, if it has not ended.
    task: Option<JoinHandle<()>>,
    /// How many found no room.
    dropped_count: u64,
}

/// What the task does next.
enum Next {
    Repair(BlockKey),
    Delete(Due),
    Wait,
    End,
}

impl Waiting {
    /// Takes in a record of the log, of a node or of one that is none now.
    pub(super) fn replay(&mut self, debt: Debt, node: Option<usize>, name: &str, key: BlockKey) {
        match (debt, node) {
            (Debt::Shard, Some(node)) => {
                self.noted.entry(key.clone()).or_default().insert(node);
                self.owed.entry(node).or_default().insert(key);
            }
            // Without it other nodes have its places, and which blocks lack a shard there nobody noted anyway.
            (Debt::Shard, None) => {}
            (Debt::Deletion | Debt::NoDeletion, Some(node)) => {
                self.deletions.set_owed(node, key, debt == Debt::Deletion);
            }
            (Debt::Deletion | Debt::NoDeletion, None) => {
                self.deletions.set_owed_to_stranger(name, key, debt == Debt::Deletion);
            }
        }
    }

    /// The nodes that are owed something.
    fn creditors(&self) -> BTreeSet<usize> {
        self.owed.keys().copied().chain(self.deletions.nodes()).collect()
    }

    fn count(&self) -> usize {
        self.ready.len() + count(&self.owed)
    }

    fn next(&mut self, is_there: impl Fn(usize) -> bool) -> Next {
        if self.ready.is_empty() {
            let (owed, back): (BTreeMap<_, _>, BTreeMap<_, _>) =
                mem::take(&mut self.owed).into_iter().partition(|(node, _)| !is_there(*node));
            self.owed = owed;
            if !back.is_empty() {
                self.given_up.clear();
            }
            self.ready.extend(back.into_values().flatten());
        }
        if let Some(key) = self.ready.pop_first() {
            return Next::Repair(key);
        }
        if let Some(due) = self.deletions.due(is_there) {
            return Next::Delete(due);
        }
        if self.owed.is_empty() && self.deletions.is_empty() {
            self.task = None;
            return Next::End;
        }
        Next::Wait
    }

    /// How many records it takes to say what the log has to.
    fn noted_count(&self) -> usize {
        self.noted.values().map(BTreeSet::len).sum::<usize>() + self.deletions.noted_count()
    }

    fn records<'a>(&'a self, name: impl Fn(usize) -> &'a str) -> Vec<Record> {
        let shards = self.noted.iter().flat_map(|(key, nodes)| nodes.iter().map(move |node| (*node, key)));
        let shards = shards.map(|(node, key)| Debt::Shard.record(name(node), key)).collect::<Vec<_>>();
        shards.into_iter().chain(self.deletions.records(name)).collect()
    }

    /// Forgets what a node is owed.
    fn forget(&mut self, node: usize) {
        self.owed.remove(&node);
        self.deletions.forget(node);
        self.noted.retain(|_, nodes| {
            nodes.remove(&node);
            !nodes.is_empty()
        });
    }

    /// Nothing more has to be done for these, if nothing is owed anew: what they were repaired with is durable.
    fn settle(&mut self, repaired: Vec<BlockKey>) {
        for key in repaired {
            let Some(nodes) = self.noted.get_mut(&key) else { continue };
            if self.ready.contains(&key) {
                continue;
            }
            nodes.retain(|node| self.owed.get(node).is_some_and(|keys| keys.contains(&key)));
            if nodes.is_empty() {
                self.noted.remove(&key);
            }
        }
    }
}

pub(super) fn count(by_node: &ByNode) -> usize {
    by_node.values().map(BTreeSet::len).sum()
}

impl Mending {
    pub(super) fn new(count_max: usize, wake: Arc<Notify>, waiting: Waiting, log: Option<OwedLog>) -> Self {
        Self { waiting: Mutex::new(waiting), count_max, wake, log: AsyncMutex::new(log) }
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many blocks wait for repair; one that is owed to several nodes counts for each.
    pub(super) fn repair_count(&self) -> usize {
        self.waiting().count()
    }

    /// How many found no room to wait, and are for a scrub to find.
    pub(super) fn dropped_count(&self) -> u64 {
        self.waiting().dropped_count
    }

    /// How many deletions nodes have missed.
    pub(super) fn deletion_count(&self) -> usize {
        self.waiting().deletions.count()
    }

    /// What is told when a node is back.
    pub(super) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Whether anything is done by itself later.
    pub(super) fn owes(&self) -> bool {
        self.count_max > 0
    }

    /// At most so many wait.
    pub(super) fn count_max(&self) -> usize {
        self.count_max
    }

    pub(super) async fn log(&self) -> AsyncMutexGuard<'_, Option<OwedLog>> {
        self.log.lock().await
    }

    /// Makes durable what is noted.
    pub(super) async fn sync_log(&self) -> Result<()> {
        let log = self.log.lock().await.as_ref().map(OwedLog::log);
        match log {
            Some(log) => log.sync().await,
            None => Ok(()),
        }
    }

    /// Whether a node is to delete what it has of a block.
    pub(super) fn is_deleted(&self, node: usize, key: &BlockKey) -> bool {
        self.waiting().deletions.is_owed(node, key)
    }
}

impl Inner {
    /// Has a block repaired that a read found to lack a shard.
    pub(super) fn mend(&self, key: &BlockKey) {
        let mut waiting = self.mending.waiting();
        if waiting.given_up.contains(key) {
            return;
        }
        if waiting.count() >= self.mending.count_max {
            waiting.dropped_count += 1;
            return;
        }
        waiting.ready.insert(key.clone());
        self.work_on(waiting);
    }

    /// Has a block repaired when those nodes are back that were unavailable to it: at once where they are by now.
    pub(super) async fn owe(&self, key: &BlockKey, missing: &[(usize, Error)]) {
        let unavailable = missing.iter().filter(|(_, error)| error.kind() == ErrorKind::Unavailable);
        let nodes: BTreeSet<_> = unavailable.map(|(node, _)| *node).collect();
        if nodes.is_empty() {
            return;
        }
        let mut log = self.mending.log.lock().await;
        for node in nodes {
            let is_new = {
                let mut waiting = self.mending.waiting();
                if waiting.count() >= self.mending.count_max {
                    waiting.dropped_count += 1;
                    break;
                }
                waiting.owed.entry(node).or_default().insert(key.clone());
                log.is_some() && waiting.noted.entry(key.clone()).or_default().insert(node)
            };
            if let Some(log) = log.as_mut()
                && is_new
                && let Err(error) = log.append(Debt::Shard.record(&self.nodes[node].name, key)).await
            {
                tracing::warn!(%error, cause = format!("{error:#}"), "what a node is owed is kept in memory alone");
            }
        }
        drop(log);
        self.work_on(self.mending.waiting());
    }

    /// Makes durable what is noted, and gives what [`settle_owed`](Self::settle_owed) is told when the nodes have
    /// flushed.
    pub(super) async fn sync_owed(&self) -> Result<Vec<BlockKey>> {
        let repaired = mem::take(&mut self.mending.waiting().repaired);
        if let Err(error) = self.mending.sync_log().await {
            self.mending.waiting().repaired.extend(repaired);
            return Err(error);
        }
        Ok(repaired)
    }

    /// Forgets what was repaired, if it `is_durable`.
    pub(super) async fn settle_owed(&self, repaired: Vec<BlockKey>, is_durable: bool) {
        if !is_durable {
            self.mending.waiting().repaired.extend(repaired);
            return;
        }
        let mut log = self.mending.log.lock().await;
        let Some(log) = log.as_mut() else { return };
        let records = {
            let mut waiting = self.mending.waiting();
            waiting.settle(repaired);
            if !log.is_outdated(waiting.noted_count()) {
                return;
            }
            waiting.records(|node| &self.nodes[node].name)
        };
        if let Err(error) = log.rewrite(records).await {
            // Nothing is lost: it is only longer than it need be.
            tracing::warn!(%error, cause = format!("{error:#}"), "the owed log could not be written anew");
        }
    }

    /// Owes nothing any more to a node that is gone, in the log either: another of its name may come.
    pub(super) async fn forget_debts(&self, node: usize) -> Result<()> {
        let mut log = self.mending.log.lock().await;
        let records = {
            let mut waiting = self.mending.waiting();
            waiting.forget(node);
            waiting.records(|node| &self.nodes[node].name)
        };
        match log.as_mut() {
            Some(log) => log.rewrite(records).await,
            None => Ok(()),
        }
    }

    /// Ends what goes on in the background, wherever it is, and the log.
    pub(super) async fn close_owed(&self) -> Result<()> {
        let task = {
            let mut waiting = self.mending.waiting();
            waiting.is_closed = true;
            waiting.task.take()
        };
        if let Some(task) = task {
            task.abort();
            // It was broken off, or had ended.
            task.await.ok();
        }
        let log = self.mending.log.lock().await.take();
        match log {
            Some(log) => log.log().close().await,
            None => Ok(()),
        }
    }

    /// Goes on with what is owed since before a restart, when each of the nodes has answered.
    pub(super) fn go_on(&self) {
        let waiting = self.mending.waiting();
        for node in waiting.creditors() {
            self.nodes[node].look_for();
        }
        self.work_on(waiting);
    }

    pub(super) fn work_on(&self, mut waiting: MutexGuard<'_, Waiting>) {
        if !self.mending.owes() {
            return;
        }
        // Outside of a runtime nothing runs in the background; what waits is worked on with what comes next in one.
        let Ok(runtime) = Handle::try_current() else { return };
        // One that panicked is followed by another.
        if !waiting.is_closed && waiting.task.as_ref().is_none_or(JoinHandle::is_finished) {
            waiting.task = Some(runtime.spawn(work(self.me.clone(), Arc::clone(&self.mending.wake))));
        }
        drop(waiting);
        self.mending.wake.notify_one();
    }

    async fn repair_waiting(&self, key: BlockKey) {
        // What cannot be repaired now is owed again, or for a scrub to tell.
        let is_whole = self.repair(&key).await.is_ok_and(|report| report.lacking.is_empty());
        let mut waiting = self.mending.waiting();
        // What is owed still is tried again by the next opening.
        if is_whole && waiting.noted.contains_key(&key) {
            waiting.repaired.push(key.clone());
        }
        if !is_whole {
            if waiting.given_up.len() >= self.mending.count_max {
                waiting.given_up.clear();
            }
            waiting.given_up.insert(key);
        }
    }
}

/// Works on what waits until nothing does.
async fn work(inner: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let next = inner.mending.waiting().next(|node| inner.nodes[node].is_there());
        match next {
            Next::Repair(key) => inner.repair_waiting(key).await,
            Next::Delete(Due::Delete(node, key)) => inner.delete_waiting(node, &key).await,
            Next::Delete(Due::Flush(node)) => inner.flush_deleted(node).await,
            Next::Wait => {
                let waiting = Arc::downgrade(&inner);
                drop(inner);
                wake.notified().await;
                if let Some(inner) = waiting.upgrade() {
                    inner.mending.waiting().deletions.try_all_again();
                }
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
