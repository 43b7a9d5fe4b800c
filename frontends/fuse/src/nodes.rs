//! The nodes that the kernel knows: how often it was given each, and what it may believe of them.
//!
//! The kernel counts how often it was given a node and forgets so many at once; each count is a lease of the file
//! system's. It may end without forgetting, so the table is also what is given back at the end.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use muxfs::vfs::Ino;

/// The kernel's number of the root of a mount.
const ROOT: u64 = 1;
/// The table is in so many parts, so that requests seldom wait for each other.
const SHARD_COUNT: usize = 16;

/// Who changes a node, and so how long the kernel may believe what it was told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// All changes are told: for ever.
    Watched,
    /// It is as a kept commit has it, and never changes: for ever.
    Frozen,
    /// Others change it past MuxFS: for a moment.
    Outside,
    /// It changes by itself, as the list of commits does: not at all.
    Unwatched,
}

impl Trust {
    /// What the kernel may believe of a name in a directory that has this trust, and of the node that it leads to.
    pub(crate) fn of_name_to(self, node: Self) -> Self {
        if self == Self::Unwatched { self } else { node }
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    count: u64,
    trust: Trust,
}

/// What the kernel knows.
#[derive(Debug)]
pub(crate) struct Nodes {
    root: OnceLock<Ino>,
    shards: [Mutex<HashMap<Ino, Known>>; SHARD_COUNT],
}

impl Nodes {
    pub(crate) fn new() -> Self {
        Self { root: OnceLock::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Says which node is the root of the mount, which the kernel knows from the beginning to the end.
    pub(crate) fn set_root(&self, root: Ino, trust: Trust) {
        if self.root.set(root).is_ok() {
            self.shard(root).insert(root, Known { count: 0, trust });
        }
    }

    fn shard(&self, ino: Ino) -> MutexGuard<'_, HashMap<Ino, Known>> {
        let [first, ..] = &self.shards;
        // The numbers of one tree come one after another.
        let index = usize::try_from(ino.0.get() % SHARD_COUNT as u64).unwrap_or_default();
        self.shards.get(index).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel's number of a node: its own, but that of the root is 1, and what has 1 has the root's.
    pub(crate) fn id(&self, ino: Ino) -> u64 {
        let root = self.root.get().map_or(ROOT, |root| root.0.get());
        match ino.0.get() {
            number if number == root => ROOT,
            ROOT => root,
            number => number,
        }
    }

    /// The node of the kernel's number; `None` for 0, which is no node.
    pub(crate) fn ino(&self, id: u64) -> Option<Ino> {
        let id = std::num::NonZeroU64::new(id)?;
        // Swapping two numbers twice is swapping none.
        std::num::NonZeroU64::new(self.id(Ino(id))).map(Ino)
    }

    /// Counts that the kernel is given a node, with a lease of it.
    pub(crate) fn add(&self, ino: Ino, trust: Trust) {
        let mut shard = self.shard(ino);
        let known = shard.entry(ino).or_insert(Known { count: 0, trust });
        known.count += 1;
    }

    /// Takes `count` off; how many leases that gives back.
    pub(crate) fn forget(&self, ino: Ino, count: u64) -> u64 {
        let mut shard = self.shard(ino);
        let Some(known) = shard.get_mut(&ino) else { return 0 };
        let given_back = count.min(known.count);
        known.count -= given_back;
        if known.count == 0 && self.root.get() != Some(&ino) {
            shard.remove(&ino);
        }
        given_back
    }

    /// Whether the kernel may have something of a node in a cache.
    pub(crate) fn knows(&self, ino: Ino) -> bool {
        self.shard(ino).contains_key(&ino)
    }

    /// What the kernel may believe of a node that it knows.
    pub(crate) fn trust(&self, ino: Ino) -> Trust {
        self.shard(ino).get(&ino).map_or(Trust::Unwatched, |known| known.trust)
    }

    /// All that it knows.
    pub(crate) fn all(&self) -> Vec<Ino> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().unwrap_or_else(PoisonError::into_inner).keys());
        }
        all
    }

    /// Forgets all, and tells what is to be given back.
    pub(crate) fn drain(&self) -> Vec<(Ino, u64)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.drain().map(|(ino, known)| (ino, known.count)).filter(|(_, count)| *count > 0));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn ino(number: u64) -> Ino {
        Ino(NonZeroU64::new(number).expect("not 0"))
    }

    #[test]
    fn the_root_is_1_and_no_two_nodes_have_one_number() {
        let nodes = Nodes::new();
        nodes.set_root(ino(77), Trust::Watched);
        assert_eq!([77, 1, 5].map(|number| nodes.id(ino(number))), [1, 77, 5]);
        for id in [1, 77, 5, u64::MAX] {
            assert_eq!(nodes.id(nodes.ino(id).expect("a node")), id);
        }
        assert_eq!(nodes.ino(0), None);
    }

    #[test]
    fn what_was_given_is_given_back_once() {
        let nodes = Nodes::new();
        nodes.set_root(ino(1), Trust::Watched);
        nodes.add(ino(1), Trust::Watched);
        for _ in 0..3 {
            nodes.add(ino(40), Trust::Outside);
        }
        nodes.add(ino(41), Trust::Watched);
        assert_eq!(nodes.forget(ino(40), 2), 2);
        assert!(nodes.knows(ino(40)));
        assert_eq!(nodes.trust(ino(40)), Trust::Outside);
        assert_eq!(nodes.forget(ino(40), 9), 1, "no more than was given");
        assert!(!nodes.knows(ino(40)));
        assert_eq!(nodes.forget(ino(40), 1), 0);
        assert_eq!(nodes.forget(ino(1), 1), 1);
        assert!(nodes.knows(ino(1)), "the root is never forgotten");
        assert_eq!(nodes.drain(), [(ino(41), 1)]);
    }
}
