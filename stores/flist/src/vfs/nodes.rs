//! The table of nodes that clients hold: derived numbers, leases, and a bounded memory of what was let go.

use std::{collections::HashMap, num::NonZeroU64, sync::Arc};

use lru::LruCache;
use muxfs::{
    Error, ErrorKind, Result,
    vfs::{INO_BITS, Ino},
};

use super::{Open, handle};
use crate::{FlistId, Inode, NodeId};

/// The number of the directory of flists. Derived numbers have bit 55 set, so it is none of them.
pub(super) const ROOT: Ino = Ino(NonZeroU64::MIN);
/// How many nodes are remembered that nobody leases: some 400 bytes each.
const IDLE_COUNT_MAX: usize = 1 << 14;
/// How many numbers are tried for a node whose own is taken: the first has 55 bits, so the second is luck enough.
const NUMBER_COUNT_MAX: u64 = 16;
/// The bit that says that a number is derived.
const DERIVED_BIT: u64 = 1 << (INO_BITS - 1);
/// The bit that says so of a number without that one, which is of a repository.
const REPOSITORY_BIT: u64 = 1 << (INO_BITS - 2);

/// A node that somebody holds, or held a moment ago.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) open: Arc<Open>,
    pub(super) inode: Arc<Inode>,
    lease_count: u64,
}

#[derive(Debug)]
pub(super) struct Nodes {
    known: HashMap<Ino, Known>,
    /// Those without leases.
    idle: LruCache<Ino, ()>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { known: HashMap::new(), idle: LruCache::unbounded() }
    }
}

/// The `attempt`-th number of a node. That of the root of an flist goes by the name alone, so that it can be told before
/// the flist is opened.
fn derive(place: [u8; 8], id: FlistId, node: NodeId, attempt: u64) -> Ino {
    let mut hash = blake3::Hasher::new();
    hash.update(b"muxfs flist inode 1");
    hash.update(&attempt.to_be_bytes());
    hash.update(&place);
    if node != NodeId::Root {
        hash.update(&id.0);
        hash.update(&handle::node(node));
    }
    let first = hash.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Ino(NonZeroU64::MIN.saturating_add((DERIVED_BIT | (first & (DERIVED_BIT - 1))) - 1))
}

/// The number of the root of the flist of a name, by the digest of that.
pub(super) fn root_number(place: [u8; 8]) -> Ino {
    derive(place, FlistId([0; 16]), NodeId::Root, 0)
}

/// The number of a repository, which no node of an flist has.
pub(super) fn repository_number(digest: [u8; 8]) -> Ino {
    let low = u64::from_be_bytes(digest) & (REPOSITORY_BIT - 1);
    Ino(NonZeroU64::MIN.saturating_add((REPOSITORY_BIT | low) - 1))
}

/// What such a number is made of, as far as that is known.
pub(super) fn digest_of_number(ino: Ino) -> [u8; 8] {
    (ino.0.get() & (REPOSITORY_BIT - 1)).to_be_bytes()
}

/// Whether a number is one of those.
pub(super) fn is_repository(ino: Ino) -> bool {
    ino.0.get() & (DERIVED_BIT | REPOSITORY_BIT) == REPOSITORY_BIT
}

impl Nodes {
    pub(super) fn known(&self, ino: Ino) -> Option<Known> {
        self.known.get(&ino).cloned()
    }

    /// The number of a node: the first of its numbers that no other node has.
    pub(super) fn number(&self, open: &Open, node: NodeId) -> Result<Ino> {
        let (place, id) = (open.place.digest, open.flist.id());
        let is_free = |ino: &Ino| {
            self.known.get(ino).is_none_or(|known| {
                known.open.place.digest == place && known.open.flist.id() == id && known.inode.id == node
            })
        };
        let found = (0..NUMBER_COUNT_MAX).map(|attempt| derive(place, id, node, attempt)).find(is_free);
        found.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "flist.number").because("every number of this node is taken by another")
        })
    }

    /// Leases a node, and gives its number.
    pub(super) fn adopt(&mut self, open: &Arc<Open>, inode: &Inode) -> Result<Ino> {
        let ino = self.number(open, inode.id)?;
        let new = || Known { open: open.clone(), inode: Arc::new(inode.clone()), lease_count: 0 };
        self.known.entry(ino).or_insert_with(new).lease_count += 1;
        self.idle.pop(&ino);
        Ok(ino)
    }

    /// The open flist of a name's digest and an id, where this node of it is known, or its root.
    pub(super) fn open_of(&self, place: [u8; 8], id: FlistId, node: NodeId) -> Option<Arc<Open>> {
        let is_it = |known: &&Known| known.open.place.digest == place && known.open.flist.id() == id;
        // The number of the root is that of whichever flist has the name, and may be another's by now.
        let known =
            |node| (0..NUMBER_COUNT_MAX).find_map(|at| self.known.get(&derive(place, id, node, at)).filter(is_it));
        known(node).or_else(|| known(NodeId::Root)).map(|known| known.open.clone())
    }

    pub(super) fn retain(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.lease_count += 1;
            self.idle.pop(&ino);
        }
    }

    pub(super) fn release(&mut self, ino: Ino, count: u64) {
        let Some(known) = self.known.get_mut(&ino) else { return };
        known.lease_count = known.lease_count.saturating_sub(count);
        if known.lease_count == 0 {
            self.idle.push(ino, ());
        }
        while self.idle.len() > IDLE_COUNT_MAX {
            let Some((oldest, ())) = self.idle.pop_lru() else { return };
            self.known.remove(&oldest);
        }
    }

    /// Forgets the nodes of an flist that nobody leases, so that it can be closed.
    pub(super) fn forget(&mut self, open: &Arc<Open>) {
        self.known.retain(|ino, known| {
            let stays = known.lease_count > 0 || !Arc::ptr_eq(&known.open, open);
            if !stays {
                self.idle.pop(ino);
            }
            stays
        });
    }
}
