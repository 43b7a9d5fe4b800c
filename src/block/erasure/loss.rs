//! What the loss of nodes means: how much can be read and written without them, and how many more may go.
//!
//! Follows from where shards belong, and from nothing else: no node is asked. Bounds are exact, since each choice of nodes
//! that placement allows is that of some block; how many blocks lie between them is counted of blocks that are made up.
//! Spec: spec/erasure.md, "Placement".

use super::{Inner, placement::Placement};
use crate::BlockKey;

/// So many blocks are made up to tell how many of all there are.
const SAMPLE_COUNT: u32 = 4096;

/// How many of all blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BlockShare {
    /// None at all.
    None,
    /// Some and not all; about this part of them, 0 to 1.
    Some(f64),
    /// Every one.
    All,
}

/// What becomes of blocks while nodes are lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErasureLoss {
    /// So many shards lacks the block that lacks the most.
    pub shards_lost_max: usize,
    /// Which blocks can be read.
    pub readable: BlockShare,
    /// Which blocks can be put, so that they count as stored.
    pub writable: BlockShare,
    /// So many more nodes may be lost, whichever they are, and every block can be read still; `None` where not every one
    /// can be as it is.
    pub spare: Option<usize>,
}

impl Inner {
    pub(super) fn loss_of(&self, is_lost: impl Fn(&str) -> bool) -> ErasureLoss {
        let placement = self.placement.get();
        let mut lost = vec![false; self.nodes.count()];
        for node in placement.members() {
            if let Some(lost) = lost.get_mut(node) {
                *lost = is_lost(&self.nodes[node].name);
            }
        }
        let (shards, (data_count, parity_count)) = (self.shards(), self.code.counts());
        let (lost_min, lost_max) = placement.lost_shards(shards, |node| lost[node]);
        let share = |needed: usize| match (shards - lost_max >= needed, shards - lost_min >= needed) {
            (true, _) => BlockShare::All,
            (_, false) => BlockShare::None,
            (false, true) => BlockShare::Some(self.part_with(&placement, needed, &lost)),
        };
        ErasureLoss {
            shards_lost_max: lost_max,
            readable: share(data_count.into()),
            writable: share(self.stored_count_min()),
            // Each node more takes one shard more of some block, as long as there is a block with one on it.
            spare: usize::from(parity_count).checked_sub(lost_max),
        }
    }

    /// Which part of blocks has so many shards on nodes that are not lost.
    fn part_with(&self, placement: &Placement, needed: usize, lost: &[bool]) -> f64 {
        let has = |n: &u32| {
            let Ok(key) = BlockKey::new(&n.to_le_bytes()) else { return false };
            let order = placement.order(&key);
            order.iter().take(self.shards()).filter(|node| !lost[**node]).count() >= needed
        };
        let count = (0..SAMPLE_COUNT).filter(has).count();
        f64::from(u32::try_from(count).unwrap_or(SAMPLE_COUNT)) / f64::from(SAMPLE_COUNT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Erasure, ErasureNode, ErasureOptions, Mem};

    fn store(nodes: &[(&str, Option<&str>)], data_count: u8, parity_count: u8) -> Erasure {
        let node = |(name, group): &(&str, Option<&str>)| ErasureNode {
            group: group.map(Into::into),
            ..ErasureNode::new(*name, Mem::default())
        };
        let options = ErasureOptions { data_count, parity_count, ..ErasureOptions::default() };
        Erasure::new(nodes.iter().map(node), options).expect("made")
    }

    #[test]
    fn six_nodes_outlive_two_of_them() {
        let names = ["a", "b", "c", "d", "e", "f"];
        let store = store(&names.map(|name| (name, None)), 4, 2);
        for (lost, readable, writable, spare) in [
            (0, BlockShare::All, BlockShare::All, Some(2)),
            (1, BlockShare::All, BlockShare::All, Some(1)),
            (2, BlockShare::All, BlockShare::None, Some(0)),
            (3, BlockShare::None, BlockShare::None, None),
        ] {
            let loss = store.loss_of(|name| names[..lost].contains(&name));
            assert_eq!((loss.shards_lost_max, loss.readable, loss.writable), (lost, readable, writable));
            assert_eq!(loss.spare, spare, "{lost}");
        }
    }

    /// With more nodes than shards, some blocks outlive what others do not. Three of eight are lost: of the 28 choices of
    /// six nodes 10 have all three, and 3 only one of them.
    #[test]
    fn more_nodes_than_shards_lose_a_part() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let store = store(&names.map(|name| (name, None)), 4, 2);
        let loss = store.loss_of(|name| ["a", "b", "c"].contains(&name));
        let BlockShare::Some(part) = loss.readable else { panic!("{loss:?}") };
        assert!((part - 18.0 / 28.0).abs() < 0.05, "{part}");
        assert_eq!(loss.spare, None);
        let BlockShare::Some(part) = loss.writable else { panic!("{loss:?}") };
        assert!((part - 3.0 / 28.0).abs() < 0.05, "{part}");
    }

    #[test]
    fn a_group_may_be_lost_whole() {
        let nodes = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c"), ("c2", "c")];
        let store = store(&nodes.map(|(name, group)| (name, Some(group))), 4, 2);
        let of_a = store.loss_of(|name| name.starts_with('a'));
        assert_eq!((of_a.shards_lost_max, of_a.readable, of_a.spare), (2, BlockShare::All, Some(0)));
        let more = store.loss_of(|name| name.starts_with('a') || name == "b1");
        assert_eq!((more.shards_lost_max, more.readable, more.spare), (3, BlockShare::None, None));
    }
}
