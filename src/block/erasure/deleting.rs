//! Deletions that nodes missed, or carried out and may lose again: each node is owed them until it has made them durable.
//!
//! A shard that comes back is no harm by itself; as many as give the block bring back what is gone. So a node that was away
//! when a block was deleted, or did not flush since, has nothing of that block, whatever it says, until it has deleted what it
//! has once more and flushed. Spec: spec/erasure.md, "Writing".

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join;

use super::{
    Inner,
    mending::{ByNode, count},
    owed::Debt,
    slot_keys,
};
use crate::{BlockKey, Error, ErrorKind, Result, log::Record};

/// Which nodes are to delete which blocks.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    /// Of each node those that it is owed.
    owed: ByNode,
    /// Those of them that it has carried out since it flushed last.
    carried_out: ByNode,
    /// Those that nodes carried out when they were told, with a number of their own: the nodes were not flushed since.
    fresh: BTreeMap<BlockKey, (u64, Vec<usize>)>,
    fresh_count: u64,
    /// What is owed to those that are no nodes now, by their names: they may be nodes again.
    of_strangers: BTreeMap<String, BTreeSet<BlockKey>>,
    /// Nodes that are there and do not delete: they are not asked again until some node is back.
    refusing: BTreeSet<usize>,
}

/// What is to be done next for a node.
pub(super) enum Due {
    Delete(usize, BlockKey),
    /// All that it is owed it has carried out.
    Flush(usize),
}

impl Deletions {
    pub(super) fn is_owed(&self, node: usize, key: &BlockKey) -> bool {
        self.owed.get(&node).is_some_and(|keys| keys.contains(key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.owed.values().all(BTreeSet::is_empty)
    }

    /// The nodes that are owed some.
    pub(super) fn nodes(&self) -> impl Iterator<Item = usize> {
        self.owed.iter().filter(|(_, keys)| !keys.is_empty()).map(|(node, _)| *node)
    }

    /// How many are owed to nodes.
    pub(super) fn count(&self) -> usize {
        count(&self.owed)
    }

    /// How many records it takes to say what is owed.
    pub(super) fn noted_count(&self) -> usize {
        self.count() + self.of_strangers.values().map(BTreeSet::len).sum::<usize>()
    }

    pub(super) fn records<'a>(&'a self, name: impl Fn(usize) -> &'a str) -> impl Iterator<Item = Record> {
        let nodes = self.owed.iter().map(move |(node, keys)| (name(*node), keys));
        let all = nodes.chain(self.of_strangers.iter().map(|(name, keys)| (name.as_str(), keys)));
        all.flat_map(|(name, keys)| keys.iter().map(move |key| Debt::Deletion.record(name, key)))
    }

    pub(super) fn set_owed(&mut self, node: usize, key: BlockKey, is_owed: bool) {
        if is_owed {
            self.owed.entry(node).or_default().insert(key);
        } else {
            self.carried_out.entry(node).or_default().remove(&key);
            self.owed.entry(node).or_default().remove(&key);
        }
    }

    pub(super) fn set_owed_to_stranger(&mut self, name: &str, key: BlockKey, is_owed: bool) {
        let keys = self.of_strangers.entry(name.to_owned()).or_default();
        if is_owed {
            keys.insert(key);
        } else {
            keys.remove(&key);
        }
        self.of_strangers.retain(|_, keys| !keys.is_empty());
    }

    /// Owes nothing any more to a node that is gone.
    pub(super) fn forget(&mut self, node: usize) {
        self.owed.remove(&node);
        self.carried_out.remove(&node);
        self.refusing.remove(&node);
        for (_, nodes) in self.fresh.values_mut() {
            nodes.retain(|other| *other != node);
        }
    }

    /// Notes that nodes deleted a block and have still to flush.
    fn set_fresh(&mut self, key: &BlockKey, nodes: Vec<usize>) {
        self.fresh_count += 1;
        let (number, all) = self.fresh.entry(key.clone()).or_default();
        *number = self.fresh_count;
        all.extend(nodes);
    }

    /// The first thing to do for a node that is there.
    pub(super) fn due(&self, is_there: impl Fn(usize) -> bool) -> Option<Due> {
        let nodes = self.owed.iter().filter(|(node, _)| is_there(**node) && !self.refusing.contains(node));
        let none = BTreeSet::new();
        for (node, keys) in nodes {
            let carried_out = self.carried_out.get(node).unwrap_or(&none);
            if let Some(key) = keys.difference(carried_out).next() {
                return Some(Due::Delete(*node, key.clone()));
            }
            if !carried_out.is_empty() {
                return Some(Due::Flush(*node));
            }
        }
        None
    }

    pub(super) fn try_all_again(&mut self) {
        self.refusing.clear();
    }
}

impl Inner {
    /// Notes that these nodes deleted a block: those that do not flush are owed it. Whether there is room to note it; else
    /// all of them have to flush. The block is locked.
    pub(super) fn deleted(&self, key: &BlockKey, nodes: Vec<usize>) -> bool {
        let count_max = self.mending.count_max();
        let deletions = &mut self.mending.waiting().deletions;
        let has_room = deletions.fresh.len() < count_max || deletions.fresh.contains_key(key);
        if has_room {
            deletions.set_fresh(key, nodes);
        }
        has_room
    }

    /// The deletions that the nodes have still to make durable, each with its number.
    pub(super) fn fresh_deletions(&self) -> Vec<(BlockKey, u64)> {
        let waiting = self.mending.waiting();
        waiting.deletions.fresh.iter().map(|(key, (number, _))| (key.clone(), *number)).collect()
    }

    /// Has nodes that did not flush delete once more what they deleted before; durable when it returns.
    ///
    /// # Errors
    /// As of [`owe_deletion`](Self::owe_deletion): what is not noted is for the next flush.
    pub(super) async fn owe_fresh_deletions(&self, fresh: Vec<(BlockKey, u64)>, failed: &[usize]) -> Result<()> {
        let mut is_noted = false;
        for (key, number) in fresh {
            let _guard = self.lock(&key).await;
            let nodes = match self.mending.waiting().deletions.fresh.get(&key) {
                Some((latest, nodes)) if *latest == number => nodes.clone(),
                // It was put since, or deleted again.
                _ => continue,
            };
            let owed: BTreeSet<_> = nodes.into_iter().filter(|node| failed.contains(node)).collect();
            is_noted |= !owed.is_empty();
            self.owe_deletion(&key, &owed.into_iter().collect::<Vec<_>>(), &[]).await?;
            self.mending.waiting().deletions.fresh.remove(&key);
        }
        if is_noted { self.mending.sync_log().await } else { Ok(()) }
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
        let mut log = self.mending.log().await;
        for node in done.iter().filter(is_done) {
            if let Some(log) = log.as_mut() {
                log.append(Debt::NoDeletion.record(&self.nodes[*node].name, key)).await?;
            }
            self.mending.waiting().deletions.set_owed(*node, key.clone(), false);
        }
        for node in owed {
            if self.mending.is_deleted(*node, key) {
                continue;
            }
            if self.mending.deletion_count() >= self.mending.count_max() {
                let why = format!(
                    "{} missed so many deletions that no more are remembered ({}): bring it back, or put an empty one in its place",
                    self.nodes[*node].name,
                    self.mending.count_max()
                );
                return Err(Error::new(ErrorKind::Unavailable, "erasure.delete").because(why));
            }
            if let Some(log) = log.as_mut() {
                log.append(Debt::Deletion.record(&self.nodes[*node].name, key)).await?;
            }
            self.mending.waiting().deletions.set_owed(*node, key.clone(), true);
        }
        drop(log);
        self.work_on(self.mending.waiting());
        Ok(())
    }

    /// Nodes that have a shard of the block keep it from now on: it is put again. The block is locked.
    pub(super) async fn keep(&self, key: &BlockKey) -> Result<()> {
        let strangers: Vec<_> = {
            let deletions = &mut self.mending.waiting().deletions;
            deletions.fresh.remove(key);
            let owed = deletions.of_strangers.iter().filter(|(_, keys)| keys.contains(key));
            owed.map(|(name, _)| name.clone()).collect()
        };
        for name in strangers {
            if let Some(log) = self.mending.log().await.as_mut() {
                log.append(Debt::NoDeletion.record(&name, key)).await?;
            }
            self.mending.waiting().deletions.set_owed_to_stranger(&name, key.clone(), false);
        }
        let nodes: Vec<_> = (0..self.nodes.count()).filter(|node| self.mending.is_deleted(*node, key)).collect();
        self.owe_deletion(key, &[], &nodes).await
    }

    /// Has a node delete what was deleted without it, unless it was put again.
    pub(super) async fn delete_waiting(&self, node: usize, key: &BlockKey) {
        let Some(keys) = slot_keys(key) else { return };
        let _guard = self.lock(key).await;
        if !self.mending.is_deleted(node, key) {
            return;
        }
        let of = &self.nodes[node];
        let [first, second] = &keys;
        match try_join(of.call(of.store().delete(first)), of.call(of.store().delete(second))).await {
            Ok(_) => {
                let deletions = &mut self.mending.waiting().deletions;
                deletions.carried_out.entry(node).or_default().insert(key.clone());
            }
            Err(error) => self.not_deleted(node, &error),
        }
    }

    /// Has a node make durable what it deleted late, and ends what it is owed of that.
    pub(super) async fn flush_deleted(&self, node: usize) {
        let carried_out = self.mending.waiting().deletions.carried_out.get(&node).cloned().unwrap_or_default();
        if let Err(error) = self.nodes[node].flush().await {
            // Perhaps it comes back with what it had before.
            self.mending.waiting().deletions.carried_out.remove(&node);
            self.not_deleted(node, &error);
            return;
        }
        for key in carried_out {
            let _guard = self.lock(&key).await;
            if let Err(error) = self.owe_deletion(&key, &[], &[node]).await {
                self.not_deleted(node, &error);
                return;
            }
        }
    }

    fn not_deleted(&self, node: usize, error: &Error) {
        let of = &self.nodes[node];
        if !of.is_down() {
            tracing::warn!(node = of.name, cause = format!("{error:#}"), "a node does not delete what it missed");
            self.mending.waiting().deletions.refusing.insert(node);
        }
    }
}
