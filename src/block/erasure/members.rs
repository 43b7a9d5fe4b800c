//! Which nodes a store has, and how that changes while it is used.
//!
//! A node has a number for as long as the program runs, and what is under way knows it by that: so one that comes is
//! appended, and one that goes keeps its number and is in no block's order any more. Where shards belong is exchanged as a
//! whole; a write looks for it under the lock of its block, so when every lock was held once, no write goes by what was
//! before. Spec: spec/erasure.md, "Nodes that come and go".

use std::{
    collections::BTreeSet,
    mem,
    ops::Index,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::StreamExt as _;

use super::{
    ErasureNode, Inner, Unflushed,
    health::Node,
    placement::{Member, Placement, Standing},
    without_slot,
};
use crate::{BlockKey, Error, ErrorKind, Result};

/// So many nodes may come in the life of a store: who exchanges more starts anew some time.
const ADDED_COUNT_MAX: usize = 1024;
/// So many blocks of a node are told apart when they are counted; of more, one that is in two slots counts twice.
const COUNTED_MAX: usize = 1 << 16;

/// The nodes that ever were, by number.
pub(super) struct Nodes {
    slots: Box<[OnceLock<Arc<Node>>]>,
    count: AtomicUsize,
}

impl Nodes {
    pub(super) fn new(nodes: Vec<Arc<Node>>) -> Self {
        let count = AtomicUsize::new(nodes.len());
        let slots = nodes.into_iter().map(OnceLock::from).chain((0..ADDED_COUNT_MAX).map(|_| OnceLock::new()));
        Self { slots: slots.collect(), count }
    }

    /// How many there were.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Gives a node the next number. One at a time: the caller sees to it.
    fn push(&self, node: Arc<Node>) -> Result<usize> {
        let number = self.count();
        if self.slots.get(number).is_none_or(|slot| slot.set(node).is_err()) {
            let why = format!("{ADDED_COUNT_MAX} nodes came since the start: start anew before the next");
            return Err(Error::new(ErrorKind::Unavailable, "erasure.set_nodes").because(why));
        }
        self.count.store(number + 1, Ordering::Release);
        Ok(number)
    }
}

impl Index<usize> for Nodes {
    type Output = Arc<Node>;

    fn index(&self, number: usize) -> &Arc<Node> {
        self.slots[number].get().expect("a number is given with its node")
    }
}

/// Where shards belong now.
pub(super) struct CurrentPlacement(RwLock<Arc<Placement>>);

impl CurrentPlacement {
    pub(super) fn new(placement: Placement) -> Self {
        Self(RwLock::new(Arc::new(placement)))
    }

    pub(super) fn get(&self) -> Arc<Placement> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, placement: Arc<Placement>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = placement;
    }

    /// See [`Placement::order`].
    pub(super) fn order(&self, key: &BlockKey) -> Vec<usize> {
        self.get().order(key)
    }
}

/// What nodes had to make durable, and what is left of it without those that go.
struct Forgotten {
    before: Unflushed,
    after: Unflushed,
}

impl Inner {
    /// The numbers of the nodes that there are.
    pub(super) fn members(&self) -> Vec<usize> {
        self.placement.get().members().collect()
    }

    /// The number of the node of a name.
    pub(super) fn number_of(&self, name: &str) -> Option<usize> {
        self.members().into_iter().find(|node| self.nodes[*node].name == name)
    }

    /// See [`Erasure::set_nodes`](super::Erasure::set_nodes).
    pub(super) async fn set_nodes(&self, nodes: Vec<ErasureNode>) -> Result<()> {
        let _turn = self.changing.lock().await;
        let before = self.placement.get();
        let standing = |node: &ErasureNode| if node.is_drained { Standing::Drained } else { Standing::Member };
        // Refused before anything is changed.
        let refused = nodes.iter().map(|node| Member {
            name: &node.name,
            group: node.group.as_deref(),
            standing: standing(node),
        });
        before.with(refused)?;
        let is_gone = |number: &usize| nodes.iter().all(|node| node.name != self.nodes[*number].name);
        let gone: Vec<_> = self.members().into_iter().filter(is_gone).collect();
        let (mut named, mut came) = (Vec::new(), Vec::new());
        for node in nodes {
            let (name, group, standing) = (node.name.clone(), node.group.clone(), standing(&node));
            let number = if let Some(number) = self.number_of(&name) {
                number
            } else {
                let number = self.nodes.push(Arc::new(Node::new(node, self.call_time_max, self.mending.wake())))?;
                came.push(number);
                number
            };
            named.push((number, name, group, standing));
        }
        let place = |gone_standing: Standing| {
            let members = (0..self.nodes.count()).map(|number| {
                let named = named.iter().find(|(other, ..)| *other == number);
                let (group, standing) = match named {
                    Some((_, _, group, standing)) => (group.as_deref(), *standing),
                    None if gone.contains(&number) => (None, gone_standing),
                    None => (None, Standing::Gone),
                };
                Member { name: &self.nodes[number].name, group, standing }
            });
            before.with(members)
        };
        // At first nothing more is put on those that go: what is on its way there is made durable elsewhere.
        self.placement.set(Arc::new(place(Standing::Drained)?));
        self.pass_locks().await;
        if gone.is_empty() {
            return Ok(());
        }
        let forgotten = self.forget_unflushed(&gone);
        if let Err(error) = self.flush().await {
            self.remember_unflushed(forgotten);
            self.placement.set(before);
            // What was put on those that came meanwhile is not asked of them again.
            self.pass_locks().await;
            self.forget_unflushed(&came);
            return Err(error);
        }
        self.placement.set(Arc::new(place(Standing::Gone)?));
        self.pass_locks().await;
        // A flush that began before may owe it something yet.
        let _flushing = self.flushing.lock().await;
        self.forget_unflushed(&gone);
        for number in gone {
            // They are gone, whatever the log says: the next start takes it for what is owed to those that are no nodes.
            if let Err(error) = self.forget_debts(number).await {
                tracing::error!(node = self.nodes[number].name, "what it was owed stays in the owed log: {error:#}");
            }
        }
        Ok(())
    }

    /// Waits until no write is under way that was when it was called.
    async fn pass_locks(&self) {
        for lock in &self.locks {
            drop(lock.lock().await);
        }
    }

    /// What is on a node that goes need not be durable there: deletions that it carried out, and shards if the others have
    /// enough of them to give the block.
    fn forget_unflushed(&self, gone: &[usize]) -> Vec<Forgotten> {
        let mut unflushed = self.unflushed();
        let mut forgotten = Vec::new();
        for before in mem::take(&mut *unflushed) {
            let Unflushed { nodes, count_min, left_min } = &before;
            let nodes: Vec<_> = nodes.iter().filter(|node| !gone.contains(node)).copied().collect();
            let count_min = (*count_min).min(nodes.len().max(*left_min));
            let after = Unflushed { nodes, count_min, left_min: *left_min };
            unflushed.insert(after.clone());
            forgotten.push(Forgotten { before, after });
        }
        forgotten
    }

    /// Has nodes that stay after all make durable what they had to before.
    fn remember_unflushed(&self, forgotten: Vec<Forgotten>) {
        let mut unflushed = self.unflushed();
        // What the others have made durable by now is not there any more.
        let (left, before) = forgotten
            .into_iter()
            .filter(|one| unflushed.contains(&one.after))
            .map(|one| (one.after, one.before))
            .unzip::<_, _, Vec<_>, Vec<_>>();
        unflushed.retain(|written| !left.contains(written));
        unflushed.extend(before);
    }

    /// How many blocks a node has something of.
    pub(super) async fn blocks_on(&self, name: &str) -> Result<u64> {
        let Some(number) = self.number_of(name) else {
            let why = format!("there is no node {name:?}");
            return Err(Error::new(ErrorKind::InvalidArgument, "erasure.blocks_on").because(why));
        };
        let (node, mut blocks) = (&self.nodes[number], BTreeSet::new());
        let (mut keys, mut count) = (node.store().keys(), 0);
        while let Some(key) = node.call(async { keys.next().await.transpose() }).await? {
            let Some(key) = without_slot(&key).filter(|key| !self.mending.is_deleted(number, key)) else { continue };
            count += u64::from(blocks.len() >= COUNTED_MAX || blocks.insert(key));
        }
        Ok(count)
    }
}
