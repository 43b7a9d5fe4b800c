//! The table of nodes that clients hold: derived numbers, leases, and a bounded memory of what was let go.
//!
//! A node that nobody leases may be forgotten, and is, the least recently used first; one that is leased, or above one
//! that is known, stays. So ".." of a known directory is known.

use std::{collections::HashMap, num::NonZeroU64};

use lru::LruCache;
use sha2::{Digest, Sha256};

use super::{ROOT, handle};
use crate::{
    Cid, Error, ErrorKind, Result,
    dag::Node,
    vfs::{INO_BITS, Ino},
};

/// How many nodes are remembered that nobody leases: some 500 bytes each. NFS leases a node for one request at a time,
/// so this is what makes the next request for it cheap.
const IDLE_COUNT_MAX: usize = 1 << 15;
/// How many CIDs are remembered that do not fit in a handle: some 250 bytes each.
const LONG_COUNT_MAX: usize = 1 << 14;
/// How many numbers are tried for a node whose own is taken: the first has 55 bits, so the second is luck enough.
const NUMBER_COUNT_MAX: u64 = 16;
/// The bit that says that a number is derived, not given out by a counter.
const DERIVED_BIT: u64 = 1 << (INO_BITS - 1);

/// Whether a number has the form of a derived one.
pub(super) fn is_derived(ino: Ino) -> bool {
    ino.0.get() >> (INO_BITS - 1) == 1
}

/// What a node's number is derived from: the directory it was found in, and its name there (below the root, the binary
/// CID, so that all spellings of it are one node).
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) dir: Ino,
    pub(super) name: &'a [u8],
}

#[derive(Debug)]
struct Known {
    cid: Cid,
    /// Where it was found; `None` for one that came by its handle.
    origin: Option<(Ino, Box<[u8]>)>,
    node: Option<Node>,
    lease_count: u64,
    /// How many known nodes were found in it.
    child_count: u64,
}

#[derive(Debug)]
pub(super) struct Nodes {
    known: HashMap<Ino, Known>,
    /// Those without leases and children.
    idle: LruCache<Ino, ()>,
    long: LruCache<[u8; 32], Cid>,
}

impl Default for Nodes {
    fn default() -> Self {
        let long_count_max = std::num::NonZeroUsize::new(LONG_COUNT_MAX).unwrap_or(std::num::NonZeroUsize::MIN);
        Self { known: HashMap::new(), idle: LruCache::unbounded(), long: LruCache::new(long_count_max) }
    }
}

/// The `attempt`-th number of a node: 55 bits of sha2-256, and the bit that says so.
fn derive(origin: Origin<'_>, attempt: u64) -> Ino {
    let mut hash = Sha256::new();
    hash.update(b"muxfs inode 1");
    hash.update(attempt.to_be_bytes());
    hash.update(origin.dir.0.get().to_be_bytes());
    hash.update(origin.name);
    let digest = hash.finalize();
    let first = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Ino(NonZeroU64::MIN.saturating_add((DERIVED_BIT | (first & (DERIVED_BIT - 1))) - 1))
}

fn stale() -> Error {
    Error::new(ErrorKind::Stale, "cas_view.node")
}

impl Nodes {
    /// The CID of a known node.
    pub(super) fn cid(&self, ino: Ino) -> Result<Cid> {
        self.known.get(&ino).map(|known| known.cid).ok_or_else(stale)
    }

    /// What is known of it.
    pub(super) fn node(&self, ino: Ino) -> Option<Node> {
        self.known.get(&ino)?.node.clone()
    }

    pub(super) fn learn(&mut self, ino: Ino, node: &Node) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.node.get_or_insert_with(|| node.clone());
        }
    }

    /// The number of a node: the first of its numbers that no other node has.
    pub(super) fn number(&self, origin: Origin<'_>, cid: &Cid) -> Result<Ino> {
        let is_free = |ino: &Ino| match self.known.get(ino) {
            None => true,
            Some(Known { cid: there, origin: None, .. }) => there == cid,
            Some(Known { cid: there, origin: Some((dir, name)), .. }) => {
                there == cid && *dir == origin.dir && **name == *origin.name
            }
        };
        (0..NUMBER_COUNT_MAX).map(|attempt| derive(origin, attempt)).find(is_free).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "cas_view.number").because("every number of this node is taken by another")
        })
    }

    /// Leases the node of an origin, which is leased itself, and returns its number.
    pub(super) fn adopt(&mut self, origin: Origin<'_>, cid: Cid) -> Result<Ino> {
        let ino = self.number(origin, &cid)?;
        let above_is_known = origin.dir == ROOT || self.known.contains_key(&origin.dir);
        let known = self.known.entry(ino).or_insert_with(|| Known::new(cid));
        known.lease_count += 1;
        self.idle.pop(&ino);
        if known.origin.is_none() && above_is_known {
            known.origin = Some((origin.dir, origin.name.into()));
            if let Some(dir) = self.known.get_mut(&origin.dir) {
                dir.child_count += 1;
                self.idle.pop(&origin.dir);
            }
        }
        Ok(ino)
    }

    /// Leases the node of a handle.
    pub(super) fn adopt_handle(&mut self, ino: Ino, cid: Cid) -> Result<()> {
        let known = self.known.entry(ino).or_insert_with(|| Known::new(cid));
        if known.cid != cid {
            return Err(stale().because("the number of this handle is another node's now"));
        }
        known.lease_count += 1;
        self.idle.pop(&ino);
        Ok(())
    }

    /// Leases the directory a node was found in; `None` for the root.
    pub(super) fn lease_parent(&mut self, ino: Ino) -> Result<Option<Ino>> {
        let known = self.known.get(&ino).ok_or_else(stale)?;
        let (above, _) = known.origin.as_ref().ok_or_else(|| {
            stale().because("it was found by its handle, and content does not know what is above it: look it up again")
        })?;
        let above = *above;
        if above == ROOT {
            return Ok(None);
        }
        self.known.get_mut(&above).ok_or_else(stale)?.lease_count += 1;
        Ok(Some(above))
    }

    pub(super) fn retain(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.lease_count += 1;
            self.idle.pop(&ino);
        }
    }

    pub(super) fn release(&mut self, ino: Ino, count: u64) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.lease_count = known.lease_count.saturating_sub(count);
            self.let_go(ino);
        }
    }

    /// Makes a node idle if nothing holds it, and forgets the idle ones that are too many.
    fn let_go(&mut self, ino: Ino) {
        if self.known.get(&ino).is_some_and(|known| known.lease_count == 0 && known.child_count == 0) {
            self.idle.push(ino, ());
        }
        while self.idle.len() > IDLE_COUNT_MAX {
            let Some((oldest, ())) = self.idle.pop_lru() else { return };
            let Some(Known { origin: Some((above, _)), .. }) = self.known.remove(&oldest) else { continue };
            let Some(dir) = self.known.get_mut(&above) else { continue };
            dir.child_count -= 1;
            if dir.lease_count == 0 && dir.child_count == 0 {
                self.idle.push(above, ());
            }
        }
    }

    /// Remembers a CID that does not fit in a handle.
    pub(super) fn remember_long(&mut self, cid: &Cid) {
        self.long.push(handle::long_digest(cid), *cid);
    }

    pub(super) fn long(&mut self, digest: &[u8; 32]) -> Option<Cid> {
        self.long.get(digest).copied()
    }
}

impl Known {
    fn new(cid: Cid) -> Self {
        Self { cid, origin: None, node: None, lease_count: 0, child_count: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Codec, cid_of};

    fn cid(i: usize) -> Cid {
        cid_of(Codec::Raw, &i.to_be_bytes())
    }

    fn in_root(name: &[u8]) -> Origin<'_> {
        Origin { dir: ROOT, name }
    }

    /// The derivation is a promise: the same file has the same number after a restart and an update.
    #[test]
    fn numbers_are_derived_from_the_directory_and_the_name() {
        let ino = derive(in_root(b"a"), 0);
        assert!(is_derived(ino) && !is_derived(ROOT));
        assert_eq!(ino.0.get(), 0xc2_fe92_324e_60a9);
        assert_ne!(ino, derive(Origin { dir: ino, name: b"a" }, 0));
        assert_ne!(ino, derive(in_root(b"b"), 0));
    }

    /// A number that a handle brought for other content is not given to a node a second time.
    #[test]
    fn a_number_that_is_taken_is_not_given_again() {
        let mut nodes = Nodes::default();
        let first = derive(in_root(b"a"), 0);
        nodes.adopt_handle(first, cid(1)).expect("a handle");
        let ino = nodes.adopt(in_root(b"a"), cid(2)).expect("adopts");
        assert_eq!(ino, derive(in_root(b"a"), 1));
        assert_eq!((nodes.cid(first).expect("known"), nodes.cid(ino).expect("known")), (cid(1), cid(2)));
        assert_eq!(nodes.adopt_handle(first, cid(2)).expect_err("other content").kind(), ErrorKind::Stale);
        assert_eq!(nodes.number(in_root(b"a"), &cid(2)).expect("a number"), ino, "a listing says the same");
    }

    /// A node that came by its handle is the one that is found by its name afterwards, and then knows what is above.
    #[test]
    fn a_node_by_handle_learns_where_it_is() {
        let mut nodes = Nodes::default();
        let dir = nodes.adopt(in_root(b"dir"), cid(1)).expect("adopts");
        let ino = derive(Origin { dir, name: b"a" }, 0);
        nodes.adopt_handle(ino, cid(2)).expect("a handle");
        assert_eq!(nodes.lease_parent(ino).expect_err("unknown").kind(), ErrorKind::Stale);
        assert_eq!(nodes.adopt(Origin { dir, name: b"a" }, cid(2)).expect("adopts"), ino);
        assert_eq!(nodes.lease_parent(ino).expect("known"), Some(dir));
        assert_eq!(nodes.lease_parent(dir).expect("known"), None);
    }

    /// What nobody holds is forgotten, oldest first; what is leased stays, and so does everything above it.
    #[test]
    fn memory_is_bounded_and_leases_hold() {
        let mut nodes = Nodes::default();
        let dir = nodes.adopt(in_root(b"dir"), cid(0)).expect("adopts");
        let held = nodes.adopt(Origin { dir, name: b"held" }, cid(1)).expect("adopts");
        nodes.release(dir, 1);
        let first = nodes.adopt(in_root(b"first"), cid(2)).expect("adopts");
        nodes.release(first, 1);
        for i in 0..IDLE_COUNT_MAX + 10 {
            let name = i.to_be_bytes();
            let ino = nodes.adopt(in_root(&name), cid(i)).expect("adopts");
            nodes.release(ino, 1);
        }
        assert_eq!(nodes.known.len(), IDLE_COUNT_MAX + 2);
        assert_eq!(nodes.cid(first).expect_err("forgotten").kind(), ErrorKind::Stale);
        assert_eq!(nodes.lease_parent(held).expect("known"), Some(dir));
        nodes.release(dir, 1);
        nodes.release(held, 1);
        for i in 0..2 * IDLE_COUNT_MAX {
            let name = [1, 2].iter().chain(&i.to_be_bytes()).copied().collect::<Vec<_>>();
            let ino = nodes.adopt(in_root(&name), cid(i)).expect("adopts");
            nodes.release(ino, 1);
        }
        assert!(nodes.cid(held).is_err() && nodes.cid(dir).is_err(), "the directory went after what was in it");
        assert!(nodes.known.len() <= IDLE_COUNT_MAX);
    }

    #[test]
    fn releasing_too_much_is_harmless() {
        let mut nodes = Nodes::default();
        let ino = nodes.adopt(in_root(b"a"), cid(1)).expect("adopts");
        nodes.release(ino, 99);
        nodes.release(ino, 1);
        nodes.release(derive(in_root(b"unknown"), 0), 1);
        assert!(nodes.cid(ino).is_ok());
    }
}
