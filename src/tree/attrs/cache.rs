//! Nodes in memory: what synchronous look-ups run over, and how one goes on after it met a node that is not there.

use std::{fmt, sync::Arc};

use lru::LruCache;

use super::node::{AttrNode, NodeId, corrupt};
use crate::Error;

/// Why a look-up ended without an answer.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It needs this node: load it, and try again while holding it.
    Missing(NodeId),
    /// It met something that is wrong.
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Nodes that are in memory.
pub(crate) trait Nodes {
    /// The node of a link; `None` if it is not in memory.
    fn node(&mut self, id: NodeId) -> Option<Arc<AttrNode>>;
}

/// The node of a link, or what ends the look-up.
pub(super) fn node(nodes: &mut dyn Nodes, id: NodeId) -> Result<Arc<AttrNode>, Halt> {
    nodes.node(id).ok_or(Halt::Missing(id))
}

/// Ends a look-up at a node that is not in its place.
pub(super) fn misplaced<T>(id: NodeId, why: &'static str) -> Result<T, Halt> {
    Err(corrupt(&id.cid(), why).into())
}

/// Nodes that were loaded, bounded in bytes: those longest not used go first.
pub(crate) struct NodeCache {
    nodes: LruCache<NodeId, Arc<AttrNode>>,
    len: usize,
    len_max: usize,
}

impl NodeCache {
    /// An empty cache of about `len_max` bytes.
    pub(crate) fn new(len_max: usize) -> Self {
        Self { nodes: LruCache::unbounded(), len: 0, len_max }
    }

    /// Keeps a node. One that alone is longer than the cache is not kept.
    pub(crate) fn insert(&mut self, id: NodeId, node: Arc<AttrNode>) {
        if node.len() > self.len_max {
            return;
        }
        self.len += node.len();
        if let Some(before) = self.nodes.put(id, node) {
            self.len -= before.len();
        }
        while self.len > self.len_max {
            let Some((_, oldest)) = self.nodes.pop_lru() else { break };
            self.len -= oldest.len();
        }
    }
}

impl Nodes for NodeCache {
    fn node(&mut self, id: NodeId) -> Option<Arc<AttrNode>> {
        self.nodes.get(&id).cloned()
    }
}

impl fmt::Debug for NodeCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeCache({} nodes, {} of {} bytes)", self.nodes.len(), self.len, self.len_max)
    }
}
