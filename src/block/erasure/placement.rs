//! Which nodes the shards of a block belong on.
//!
//! Rendezvous hashing: every node has a score for every block, and the highest have it. Nothing is kept, everybody comes
//! to the same answer, and a node that is added takes its share from all others and moves nothing else. Groups (sites,
//! racks) are a limit on that: the nodes are taken from the highest score down, except those whose group has its share
//! of the block already. That never paints itself into a corner (the choice of nodes with so many in a group is a
//! matroid, where the greedy choice is the best one), so it costs a sort and no search, and one node more or less changes
//! the nodes of a block by one at most, groups or not. Spec: spec/erasure.md, "Placement".

use std::collections::{BTreeMap, BTreeSet};

use crate::{BlockKey, Error, ErrorKind, Result};

/// Where shards belong, as numbers of nodes.
#[derive(Debug)]
pub(super) struct Placement {
    nodes: Vec<Place>,
    counts: (u8, u8),
    /// So many shards of a block may be in one group.
    group_shards_max: u8,
}

#[derive(Debug)]
struct Place {
    /// The BLAKE3 of its name: the key of its scores.
    seed: [u8; 32],
    /// The number of its group.
    group: Option<usize>,
    standing: Standing,
}

/// Whether shards belong on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Member,
    /// None do, and it may have some.
    Drained,
    /// It is asked for none.
    Gone,
}

/// A node, as placement sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) name: &'a str,
    pub(super) group: Option<&'a str>,
    pub(super) standing: Standing,
}

impl<'a> From<(&'a str, Option<&'a str>)> for Member<'a> {
    fn from((name, group): (&'a str, Option<&'a str>)) -> Self {
        Self { name, group, standing: Standing::Member }
    }
}

impl Placement {
    /// Makes the placement of k + m shards on nodes with these names and groups. `group_shards_max` is m where it is not
    /// said: as many as may be lost.
    ///
    /// # Errors
    /// `InvalidArgument` with the reason: two nodes of one name or an empty one; too few nodes; groups that hold too few
    /// shards, or one that could not be lost.
    pub(super) fn new<'a>(
        nodes: impl IntoIterator<Item = impl Into<Member<'a>>>,
        (data_count, parity_count): (u8, u8),
        group_shards_max: Option<u8>,
    ) -> Result<Self> {
        let shards = usize::from(data_count) + usize::from(parity_count);
        let group_shards_max = group_shards_max.unwrap_or(parity_count);
        let (mut names, mut groups, mut places) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
        for node in nodes {
            let Member { name, group, standing } = node.into();
            if name.is_empty() {
                return refuse("a node has no name".to_owned());
            }
            if standing != Standing::Gone && !names.insert(name) {
                return refuse(format!("two nodes have the name {name}"));
            }
            let count = groups.len();
            let group = group.filter(|_| standing == Standing::Member);
            let group = group.map(|group| *groups.entry(group).or_insert(count));
            places.push(Place { seed: blake3::hash(name.as_bytes()).into(), group, standing });
        }
        let count = places.iter().filter(|node| node.standing == Standing::Member).count();
        if count < shards {
            let drained = places.iter().filter(|node| node.standing == Standing::Drained).count();
            let besides = if drained > 0 { format!(", besides {drained} that are drained") } else { String::new() };
            return refuse(format!(
                "{data_count}+{parity_count} shards take {shards} nodes, and there are {count}{besides}"
            ));
        }
        if !groups.is_empty() && group_shards_max == 0 {
            return refuse(format!(
                "a group of nodes may be lost, and {data_count}+{parity_count} shards have none to lose"
            ));
        }
        if !groups.is_empty() && group_shards_max > parity_count {
            return refuse(format!(
                "with {group_shards_max} shards in a group, a block does not outlive its loss: of {data_count}+{parity_count} only {parity_count} may be lost"
            ));
        }
        let placement = Self { nodes: places, counts: (data_count, parity_count), group_shards_max };
        let room = placement.room();
        if room < shards {
            let count = groups.len();
            return refuse(format!(
                "{data_count}+{parity_count} shards take {shards} nodes, and with at most {group_shards_max} of them in each of the {count} groups there are {room}"
            ));
        }
        Ok(placement)
    }

    /// The placement of the same shards on other nodes.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub(super) fn with<'a>(&self, nodes: impl IntoIterator<Item = Member<'a>>) -> Result<Self> {
        // A group has to be there for its bound to be refused.
        Self::new(nodes, self.counts, Some(self.group_shards_max))
    }

    /// The nodes that may have shards.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> {
        let nodes = self.nodes.iter().zip(0..).filter(|(node, _)| node.standing != Standing::Gone);
        nodes.map(|(_, node)| node)
    }

    /// How many shards of a block there is room for.
    fn room(&self) -> usize {
        self.room_on(|_| true)
    }

    /// How many of them on some of the nodes: so many has the block that has the most there.
    fn room_on(&self, is_one: impl Fn(usize) -> bool) -> usize {
        let mut taken = Groups::default();
        let some = self.nodes.iter().zip(0..).filter(|(_, node)| is_one(*node));
        some.filter(|(node, _)| taken.take(node, self.group_shards_max.into())).count()
    }

    /// How many of the k + m shards of a block belong on nodes that are lost: of the block that has the fewest there, and
    /// of the one that has the most. There are such blocks among all that can be, and none outside of that. A node that is
    /// drained may have a shard of any block still.
    pub(super) fn lost_shards(&self, shards: usize, is_lost: impl Fn(usize) -> bool) -> (usize, usize) {
        let kept_max = shards.min(self.room_on(|node| !is_lost(node)));
        let drained = self.nodes.iter().zip(0..).filter(|(node, _)| node.standing == Standing::Drained);
        let drained = drained.filter(|(_, node)| is_lost(*node)).count();
        (shards - kept_max, shards.min(self.room_on(is_lost) + drained))
    }

    /// All nodes in the order of a block: its k + m shards belong on the first k + m, in the order of their index. Behind
    /// them come those that would be next, and last those whose groups are full and those that are drained.
    pub(super) fn order(&self, key: &BlockKey) -> Vec<usize> {
        let mut scored: Vec<(u64, usize)> = self.members().map(|node| (self.nodes[node].score(key), node)).collect();
        scored.sort_unstable_by(|(score, node), (other_score, other)| {
            // No two names are known that give one score.
            other_score.cmp(score).then_with(|| self.nodes[*node].seed.cmp(&self.nodes[*other].seed))
        });
        let mut taken = Groups::default();
        let all = scored.into_iter().map(|(_, node)| node);
        let (mut order, full): (Vec<_>, Vec<_>) =
            all.partition(|node| taken.take(&self.nodes[*node], self.group_shards_max.into()));
        order.extend(full);
        order
    }
}

impl Place {
    fn score(&self, key: &BlockKey) -> u64 {
        let hash = blake3::keyed_hash(&self.seed, key.as_bytes());
        let mut score = [0; 8];
        score.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(score)
    }
}

/// How many nodes were taken of each group.
#[derive(Default)]
struct Groups(BTreeMap<usize, usize>);

impl Groups {
    /// Takes a node unless its group has as many as it may; one without a group always, if shards belong there.
    fn take(&mut self, node: &Place, max: usize) -> bool {
        if node.standing != Standing::Member {
            return false;
        }
        let Some(group) = node.group else { return true };
        let count = self.0.entry(group).or_default();
        let has_room = *count < max;
        *count += usize::from(has_room);
        has_room
    }
}

fn refuse<T>(why: String) -> Result<T> {
    Err(Error::new(ErrorKind::InvalidArgument, "erasure.place").because(why))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Nodes `0` to `count - 1`; every `per_group` of them are a group, where that is not 0.
    fn names(count: usize, per_group: usize) -> Vec<(String, Option<String>)> {
        (0..count)
            .map(|n| (format!("node {n}"), n.checked_div(per_group).map(|group| format!("site {group}"))))
            .collect()
    }

    fn placement(nodes: &[(String, Option<String>)], counts: (u8, u8), max: Option<u8>) -> Result<Placement> {
        Placement::new(nodes.iter().map(|(name, group)| (name.as_str(), group.as_deref())), counts, max)
    }

    fn key(n: u32) -> BlockKey {
        BlockKey::new(&n.to_be_bytes()).expect("four bytes")
    }

    /// The names of the nodes that have shards of a block.
    fn chosen(nodes: &[(String, Option<String>)], placement: &Placement, n: u32, shards: usize) -> BTreeSet<String> {
        placement.order(&key(n))[..shards].iter().map(|node| nodes[*node].0.clone()).collect()
    }

    #[test]
    fn every_order_has_every_node_once() {
        for per_group in [0, 4] {
            let nodes = names(20, per_group);
            let placement = placement(&nodes, (4, 2), None).expect("room for six");
            for n in 0..100 {
                let mut order = placement.order(&key(n));
                order.sort_unstable();
                assert_eq!(order, (0..20).collect::<Vec<_>>());
            }
        }
    }

    /// The order of the nodes in the configuration counts for nothing.
    #[test]
    fn the_same_nodes_in_another_order_place_the_same() {
        let nodes = names(12, 3);
        let mut turned = nodes.clone();
        turned.rotate_left(5);
        turned.swap(0, 7);
        let (one, other) = (placement(&nodes, (4, 2), None), placement(&turned, (4, 2), None));
        let (one, other) = (one.expect("room"), other.expect("room"));
        for n in 0..200 {
            let names = |nodes: &[(String, Option<String>)], order: Vec<usize>| -> Vec<String> {
                order.into_iter().map(|node| nodes[node].0.clone()).collect()
            };
            assert_eq!(names(&nodes, one.order(&key(n))), names(&turned, other.order(&key(n))));
        }
    }

    /// Each of 20 nodes has its share of the shards of 20,000 blocks, and of each index, give or take six times what
    /// chance does.
    #[test]
    fn nodes_have_like_shares() {
        const BLOCKS: u32 = 20_000;
        let nodes = names(20, 0);
        let placement = placement(&nodes, (4, 2), None).expect("room");
        let mut counts = [[0_u32; 6]; 20];
        for n in 0..BLOCKS {
            for (index, node) in placement.order(&key(n))[..6].iter().enumerate() {
                counts[*node][index] += 1;
            }
        }
        for (node, counts) in counts.iter().enumerate() {
            assert!(counts.iter().all(|count| count.abs_diff(BLOCKS / 20) < 190), "node {node}: {counts:?}");
            assert!(counts.iter().sum::<u32>().abs_diff(BLOCKS * 6 / 20) < 390, "node {node}: {counts:?}");
        }
    }

    /// What k + m nodes of 16 in four groups may look like: 8 + 8 with a whole group to lose takes all four of each.
    #[test]
    fn groups_of_any_number_are_placed_at_once() {
        let nodes = names(16, 4);
        let placement_16 = placement(&nodes, (8, 8), None).expect("room for sixteen");
        assert_eq!(chosen(&nodes, &placement_16, 0, 16).len(), 16);
        let nodes = names(2000, 20);
        let placement = placement(&nodes, (200, 55), Some(3)).expect("room for 255");
        for n in 0..20 {
            let order = placement.order(&key(n));
            let mut in_group = BTreeMap::<_, usize>::new();
            order[..255].iter().for_each(|node| *in_group.entry(&nodes[*node].1).or_default() += 1);
            assert!(in_group.values().all(|count| *count <= 3), "{in_group:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let why = |count, per_group, counts, max| {
            let error = placement(&names(count, per_group), counts, max).expect_err("it cannot be");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            format!("{error:#}")
        };
        assert!(why(5, 0, (4, 2), None).contains("4+2 shards take 6 nodes, and there are 5"));
        // Two sites of many nodes: with two shards in each there are four, and six are needed.
        assert!(why(20, 10, (4, 2), None).contains("at most 2 of them in each of the 2 groups there are 4"));
        assert!(why(20, 5, (4, 2), Some(3)).contains("only 2 may be lost"));
        assert!(why(20, 5, (4, 0), None).contains("none to lose"));
        let twice = Placement::new([("a", None), ("b", None), ("a", None)], (1, 1), None).expect_err("two of one name");
        assert!(format!("{twice:#}").contains("two nodes have the name a"));
        Placement::new([("", None), ("b", None)], (1, 1), None).expect_err("no name");
    }

    /// No block has more or fewer shards on lost nodes than is said, and some have as many and as few.
    #[test]
    fn what_may_be_lost_is_what_is_lost_of_some_block() {
        const BLOCKS: u32 = 2000;
        for (count, per_group, counts, max) in [
            (6, 0, (4, 2), None),
            (8, 0, (4, 2), None),
            (8, 2, (4, 2), None),
            (8, 2, (4, 2), Some(1)),
            (9, 3, (2, 2), None),
        ] {
            let nodes = names(count, per_group);
            let Ok(placement) = placement(&nodes, counts, max) else { continue };
            let shards = usize::from(counts.0) + usize::from(counts.1);
            let places: Vec<_> = (0..BLOCKS).map(|n| placement.order(&key(n))[..shards].to_vec()).collect();
            for lost in 0..1u32 << count {
                let is_lost = |node: usize| lost >> node & 1 == 1;
                let of_block = |places: &Vec<usize>| places.iter().filter(|node| is_lost(**node)).count();
                let found = (places.iter().map(of_block).min(), places.iter().map(of_block).max());
                let (min, max) = placement.lost_shards(shards, is_lost);
                assert_eq!(found, (Some(min), Some(max)), "{count} nodes, {per_group} in a group, lost {lost:b}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// A node more takes blocks from others and moves nothing between those: of each block at most one shard, of
        /// all blocks about its share. Groups or not; a node less is the same seen from the other side.
        #[test]
        fn a_node_more_moves_what_it_takes(count in 6..30_usize, per_group in 0..4_usize, added in 0..30_usize, salt: u32) {
            let mut with = names(count + 1, per_group);
            with.rotate_right(added % (count + 1));
            let without = with[..count].to_vec();
            let (before, after) = (placement(&without, (3, 2), None), placement(&with, (3, 2), None));
            prop_assume!(before.is_ok());
            let (before, after) = (before.expect("room"), after.expect("room for more"));
            let new = &with[count].0;
            let mut moved = 0;
            for n in 0..400 {
                let n = salt.wrapping_add(n);
                let (before, after) = (chosen(&without, &before, n, 5), chosen(&with, &after, n, 5));
                if before != after {
                    moved += 1;
                    let came: Vec<_> = after.difference(&before).collect();
                    prop_assert_eq!(came, vec![new]);
                }
            }
            if per_group == 0 {
                let share = 400 * 5 / (count + 1);
                prop_assert!(moved < share + 80, "{} of 400 blocks moved, {} would be its share", moved, share);
            }
        }

        /// As many shards in each group as may be, never more, whatever the groups are.
        #[test]
        fn no_group_has_more_than_its_share(count in 1..40_usize, per_group in 1..9_usize, k in 1..10_u8, m in 1..6_u8, n: u32) {
            let nodes = names(count, per_group);
            let shards = usize::from(k + m);
            let room: usize = (0..count).step_by(per_group).map(|at| per_group.min(count - at).min(m.into())).sum();
            match placement(&nodes, (k, m), None) {
                Err(_) => prop_assert!(room < shards, "{} nodes have room for {}", count, shards),
                Ok(placement) => {
                    prop_assert!(room >= shards);
                    let mut in_group = BTreeMap::<_, usize>::new();
                    for node in &placement.order(&key(n))[..shards] {
                        *in_group.entry(node / per_group).or_default() += 1;
                    }
                    prop_assert!(in_group.values().all(|count| *count <= usize::from(m)));
                }
            }
        }
    }
}
