//! What is brought to nodes by itself: shards that a read found to be missing, and what a node that was away is owed.
//!
//! Sets of keys of bounded size, in memory and, as far as they are owed, in a log (`owed`): shards that do not fit are for a
//! scrub to find. What is owed to a node that is down waits until it is back; the rest is worked on at once, one block after
//! the other, by a task in the background that there is only as long as something waits. A node that is owed a deletion has
//! nothing of that block, whatever it says. Spec: spec/erasure.md, "What is repaired by itself".

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures_util::future::try_join;
use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, Notify},
    task::JoinHandle,
};

use super::{
    Inner,
    owed::{Debt, OwedLog},
    slot_keys,
};
use crate::{BlockKey, Error, ErrorKind, Result, log::Record};

/// Keys of blocks, of each node by its number.
type ByNode = BTreeMap<usize, BTreeSet<BlockKey>>;

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
    /// Of each node that was down those that were deleted without it.
    deletions: ByNode,
    /// Nodes that are there and do not delete: they are not asked again until some node is back.
    refusing: BTreeSet<usize>,
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
    Delete(usize, BlockKey),
    Wait,
    End,
}

impl Waiting {
    /// Takes in a record of the log.
    pub(super) fn replay(&mut self, debt: Debt, node: usize, key: BlockKey) {
        match debt {
            Debt::Shard => {
                self.noted.entry(key.clone()).or_default().insert(node);
                self.owed.entry(node).or_default().insert(key);
            }
            Debt::Deletion => drop(self.deletions.entry(node).or_default().insert(key)),
            Debt::NoDeletion => drop(self.deletions.entry(node).or_default().remove(&key)),
        }
    }

    fn count(&self) -> usize {
        self.ready.len() + count(&self.owed)
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
        if let Some(key) = self.ready.pop_first() {
            return Next::Repair(key);
        }
        let mut deletions = self.deletions.iter().filter(|(node, _)| !is_down(**node) && !self.refusing.contains(node));
        if let Some((node, key)) = deletions.find_map(|(node, keys)| Some((*node, keys.first()?.clone()))) {
            return Next::Delete(node, key);
        }
        if self.owed.is_empty() && self.deletions.values().all(BTreeSet::is_empty) {
            self.task = None;
            return Next::End;
        }
        Next::Wait
    }

    fn is_deleted(&self, node: usize, key: &BlockKey) -> bool {
        self.deletions.get(&node).is_some_and(|keys| keys.contains(key))
    }

    /// How many records it takes to say what the log has to.
    fn noted_count(&self) -> usize {
        self.noted.values().map(BTreeSet::len).sum::<usize>() + count(&self.deletions)
    }

    fn records<'a>(&self, name: impl Fn(usize) -> &'a str) -> Vec<Record> {
        let shards = self.noted.iter().flat_map(|(key, nodes)| nodes.iter().map(move |node| (Debt::Shard, *node, key)));
        let missed = self.deletions.iter();
        let missed = missed.flat_map(|(node, keys)| keys.iter().map(move |key| (Debt::Deletion, *node, key)));
        shards.chain(missed).map(|(debt, node, key)| debt.record(name(node), key)).collect()
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

fn count(by_node: &ByNode) -> usize {
    by_node.values().map(BTreeSet::len).sum()
}

impl Mending {
    pub(super) fn new(count_max: usize, wake: Arc<Notify>, waiting: Waiting, log: Option<OwedLog>) -> Self {
        Self { waiting: Mutex::new(waiting), count_max, wake, log: AsyncMutex::new(log) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
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
        count(&self.waiting().deletions)
    }

    /// Whether anything is done by itself later.
    pub(super) fn owes(&self) -> bool {
        self.count_max > 0
    }

    /// Whether a node is to delete what it has of a block.
    pub(super) fn is_deleted(&self, node: usize, key: &BlockKey) -> bool {
        self.waiting().is_deleted(node, key)
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

    /// Has these nodes delete a block when they can, and these others not any more. The block is locked.
    ///
    /// # Errors
    /// `Unavailable` where too much is owed already; those of the log. What was noted before stays.
    pub(super) async fn owe_deletion(&self, key: &BlockKey, owed: &[usize], done: &[usize]) -> Result<()> {
        let is_done = |node: &&usize| self.mending.is_deleted(**node, key);
        if owed.is_empty() && !done.iter().any(|node| is_done(&node)) {
            return Ok(());
        }
        let mut log = self.mending.log.lock().await;
        for node in done.iter().filter(is_done) {
            if let Some(log) = log.as_mut() {
                log.append(Debt::NoDeletion.record(&self.nodes[*node].name, key)).await?;
            }
            self.mending.waiting().replay(Debt::NoDeletion, *node, key.clone());
        }
        for node in owed {
            if self.mending.is_deleted(*node, key) {
                continue;
            }
            if self.mending.deletion_count() >= self.mending.count_max {
                let why = format!(
                    "{} missed so many deletions that no more are remembered ({}): bring it back, or put an empty one in its place",
                    self.nodes[*node].name, self.mending.count_max
                );
                return Err(Error::new(ErrorKind::Unavailable, "erasure.delete").because(why));
            }
            if let Some(log) = log.as_mut() {
                log.append(Debt::Deletion.record(&self.nodes[*node].name, key)).await?;
            }
            self.mending.waiting().replay(Debt::Deletion, *node, key.clone());
        }
        drop(log);
        self.work_on(self.mending.waiting());
        Ok(())
    }

    /// Nodes that have a shard of the block keep it from now on: it is put again. The block is locked.
    pub(super) async fn keep(&self, key: &BlockKey) -> Result<()> {
        let nodes: Vec<_> = (0..self.nodes.len()).filter(|node| self.mending.is_deleted(*node, key)).collect();
        self.owe_deletion(key, &[], &nodes).await
    }

    /// Makes durable what is noted, and gives what [`settle_owed`](Self::settle_owed) is told when the nodes have
    /// flushed.
    pub(super) async fn sync_owed(&self) -> Result<Vec<BlockKey>> {
        let repaired = mem::take(&mut self.mending.waiting().repaired);
        let log = self.mending.log.lock().await.as_ref().map(OwedLog::log);
        if let Some(log) = log
            && let Err(error) = log.sync().await
        {
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

    /// Goes on with what is owed since before a restart.
    pub(super) fn go_on(&self) {
        self.work_on(self.mending.waiting());
    }

    fn work_on(&self, mut waiting: MutexGuard<'_, Waiting>) {
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

    /// Has a node delete what was deleted without it, unless it was put again.
    async fn delete_waiting(&self, node: usize, key: &BlockKey) {
        let Some(keys) = slot_keys(key) else { return };
        let _guard = self.lock(key).await;
        if !self.mending.is_deleted(node, key) {
            return;
        }
        let of = &self.nodes[node];
        let deleted = async {
            let [first, second] = &keys;
            try_join(of.call(of.store().delete(first)), of.call(of.store().delete(second))).await?;
            self.owe_deletion(key, &[], &[node]).await
        };
        if let Err(error) = deleted.await
            && !of.is_down()
        {
            tracing::warn!(node = of.name, cause = format!("{error:#}"), "a node does not delete what it missed");
            self.mending.waiting().refusing.insert(node);
        }
    }
}

/// Works on what waits until nothing does.
async fn work(inner: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let next = inner.mending.waiting().next(|node| inner.nodes[node].is_down());
        match next {
            Next::Repair(key) => inner.repair_waiting(key).await,
            Next::Delete(node, key) => inner.delete_waiting(node, &key).await,
            Next::Wait => {
                let waiting = Arc::downgrade(&inner);
                drop(inner);
                wake.notified().await;
                if let Some(inner) = waiting.upgrade() {
                    inner.mending.waiting().refusing.clear();
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
