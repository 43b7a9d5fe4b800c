//! Catching up: a node that came, empty or after a while, gets what it lacks.
//!
//! Nobody wrote down what it missed. So all keys are listed, and those repaired whose shard belongs on this node and is not
//! there: that costs a look into its index for each, and reads nothing that is whole. Spec: spec/erasure.md, "What is
//! repaired by itself".

use futures_util::TryStreamExt as _;

use super::{Inner, slot_keys};
use crate::{BlockKey, Error, ErrorKind, Result};

impl Inner {
    /// How many blocks were repaired.
    pub(super) async fn catch_up(&self, name: &str) -> Result<u64> {
        const OP: &str = "erasure.catch_up";
        let Some(node) = self.number_of(name) else {
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because(format!("there is no node {name:?}")));
        };
        let (mut repaired, mut failed) = (0, None);
        let mut keys = self.keys();
        while let Some(key) = keys.try_next().await? {
            let belongs = self.placement.order(&key).into_iter().take(self.shards()).any(|place| place == node);
            if !belongs || self.has_any(node, &key).await? {
                continue;
            }
            match self.repair(&key).await {
                Ok(report) => repaired += u64::from(report.healed > 0),
                // Nothing to do with this node, perhaps.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(repaired), Err)
    }

    /// Whether a node has anything of a block.
    async fn has_any(&self, node: usize, key: &BlockKey) -> Result<bool> {
        let node = &self.nodes[node];
        for slot in slot_keys(key).into_iter().flatten() {
            if node.call(node.store().has(&slot)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
