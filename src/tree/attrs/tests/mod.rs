//! A model of what the attribute tree promises: plain maps. What is committed must equal it.

mod growth;
mod hostile;
mod laws;
mod reach;
mod vectors;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use chacha20::{ChaCha20Rng, rand_core::Rng};

use super::*;
use crate::{
    Codec, FileKind, Name,
    block::Mem,
    cid_of,
    dag::{DagOptions, Link},
    rank::Rank,
    tree::inode::{Meta, NameEntry},
    vfs::{Rdev, XattrName},
};

fn dag() -> (Arc<Mem>, Dag) {
    let blocks = Arc::new(Mem::default());
    (Arc::clone(&blocks), Dag::new(blocks, DagOptions::default()))
}

fn ino(number: u64) -> Ino {
    Ino(NonZeroU64::new(number).expect("not 0"))
}

fn name(text: impl AsRef<[u8]>) -> Name {
    Name::new(text.as_ref()).expect("a name")
}

fn at(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

fn content(of: u64) -> Link {
    let codec = if of.is_multiple_of(3) { Codec::DagPb } else { Codec::Raw };
    Link { cid: cid_of(codec, &of.to_be_bytes()), tsize: of }
}

/// One inode of the model: everything there is to know.
#[derive(Debug, Clone, PartialEq)]
struct Node {
    meta: Meta,
    content: Option<Link>,
    target: Option<Bytes>,
    parents: Vec<(Ino, Name)>,
    data: Option<Vec<Range<u64>>>,
    xattrs: BTreeMap<XattrName, Bytes>,
    names: BTreeMap<Rank, NameEntry>,
}

impl Node {
    fn new(kind: FileKind) -> Self {
        let (mode, used) = (0o644, 0);
        let time = at(1_800_000_000_123_456_789);
        let times = (time, time, time);
        let has_content = matches!(kind, FileKind::File | FileKind::Dir | FileKind::Symlink);
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        Self {
            meta: Meta {
                kind,
                mode,
                uid: 1000,
                gid: 1000,
                nlink: 1,
                rdev: if is_device { Rdev { major: 8, minor: 1 } } else { Rdev::default() },
                size: 0,
                entry_count: 0,
                used,
                atime: times.0,
                mtime: times.1,
                ctime: times.2,
                change: 1,
            },
            content: has_content.then(|| content(1)),
            target: (kind == FileKind::Symlink).then(|| Bytes::from_static(b"../target")),
            parents: Vec::new(),
            data: None,
            xattrs: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    /// The change that makes this node where there is none.
    fn whole(&self) -> InodeChange {
        InodeChange {
            names: self.names.iter().map(|(rank, entry)| (*rank, Some(entry.clone()))).collect(),
            data: Change::Set(self.data.clone()),
            parents: Some(self.parents.clone()),
            xattrs: Some(self.xattrs.clone()),
            ..self.bare()
        }
    }

    /// The change that touches nothing but what does not grow.
    fn bare(&self) -> InodeChange {
        InodeChange {
            meta: self.meta,
            content: self.content,
            target: self.target.clone(),
            parents: None,
            data: Change::Keep,
            xattrs: None,
            names: BTreeMap::new(),
        }
    }

    /// Adds a name, at the lowest free place, as a tree does; `None` where it is there already.
    fn add(&mut self, name: &Name, ino: Ino) -> Option<NameEntry> {
        let mut rank = Rank::of(name.as_bytes());
        if self.names.range(rank..=rank.last()).any(|(_, entry)| entry.name == *name) {
            return None;
        }
        while self.names.contains_key(&rank) {
            rank = rank.next()?;
        }
        let entry = NameEntry { rank, name: name.clone(), ino };
        self.names.insert(rank, entry.clone());
        self.meta.entry_count += 1;
        Some(entry)
    }
}

#[derive(Debug, Clone, Default)]
struct Model {
    nodes: BTreeMap<Ino, Node>,
    next_ino: u64,
}

impl Model {
    fn changes(&self, inodes: BTreeMap<Ino, Option<InodeChange>>) -> Changes {
        Changes { inodes, next_ino: self.next_ino, inode_count: self.nodes.len() as u64, used: 7 }
    }

    /// The tree of this state, made at one stroke.
    async fn build(&self, dag: &Dag) -> Attrs {
        let inodes = self.nodes.iter().map(|(ino, node)| (*ino, Some(node.whole()))).collect();
        update(dag, None, self.changes(inodes)).await.expect("builds")
    }

    /// Checks that the tree holds this state and nothing else.
    async fn check(&self, dag: &Dag, attrs: &Attrs) {
        assert_eq!((attrs.next_ino(), attrs.inode_count(), attrs.used()), (self.next_ino, self.nodes.len() as u64, 7));
        for number in self.nodes.keys().flat_map(|ino| [ino.0.get(), ino.0.get() + 1]) {
            let ino = ino(number);
            let found = lookup(dag, |nodes| attrs.inode(nodes, ino)).await.expect("looked up");
            match (self.nodes.get(&ino), found) {
                (Some(node), Some(inode)) => node.check(dag, &inode).await,
                (node, inode) => assert_eq!((node.is_some(), inode.is_some()), (false, false), "{ino:?}"),
            }
        }
    }
}

impl Node {
    async fn check(&self, dag: &Dag, inode: &Inode) {
        let names = self.names.values().cloned().collect::<Vec<_>>();
        let found = Self {
            meta: inode.meta,
            content: inode.content,
            target: inode.target.clone(),
            parents: lookup(dag, |nodes| inode.parents(nodes)).await.expect("parents"),
            data: lookup(dag, |nodes| inode.data(nodes)).await.expect("data"),
            xattrs: lookup(dag, |nodes| inode.xattrs(nodes)).await.expect("xattrs"),
            names: self.names.clone(),
        };
        assert_eq!(found, *self);
        let all = lookup(dag, |nodes| inode.entries(nodes, first(), usize::MAX)).await.expect("entries");
        assert_eq!(all, names);
        // Page by page, each name by itself, and names that are not there.
        let mut from = first();
        for page in names.chunks(7) {
            assert_eq!(lookup(dag, |nodes| inode.entries(nodes, from, 7)).await.expect("a page"), page);
            let last = page.last().map_or(0, |entry| entry.rank.bits());
            from = Rank::from_bits(last + 1).expect("a rank");
        }
        for entry in names.iter().step_by(names.len() / 20 + 1) {
            let found = lookup(dag, |nodes| inode.entry(nodes, &entry.name)).await.expect("an entry");
            assert_eq!(found.as_ref(), Some(entry));
            let same = |other: &&NameEntry| other.rank.hash_min() == entry.rank.hash_min();
            let ranks = lookup(dag, |nodes| inode.ranks(nodes, entry.rank)).await.expect("ranks");
            assert_eq!(ranks, names.iter().filter(same).cloned().collect::<Vec<_>>());
        }
        let absent = name("no such name");
        assert_eq!(lookup(dag, |nodes| inode.entry(nodes, &absent)).await.expect("looked up"), None);
    }
}

/// Before every name.
fn first() -> Rank {
    Rank::from_bits(0).expect("a rank")
}

fn below(rng: &mut ChaCha20Rng, end: u64) -> u64 {
    rng.next_u64() % end
}

/// Names of one hash: the second block of each takes the hash to a state that the first led elsewhere.
pub(in crate::tree) fn colliding(count: usize) -> Vec<Name> {
    fn inverse(odd: u64) -> u64 {
        (0..6).fold(odd, |inverse, _| inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse))))
    }
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let mut names = Vec::new();
    for salt in 0u64.. {
        if names.len() == count {
            break;
        }
        let first = format!("{salt:016}");
        let (k1, k2) = first.as_bytes().split_at(8);
        let [k1, k2] = [k1, k2].map(|half| u64::from_le_bytes(half.try_into().expect("8 bytes")));
        let h1 = mix1(k1).rotate_left(27).wrapping_mul(5).wrapping_add(0x52dc_e729);
        let h2 = mix2(k2).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
        let (to1, to2) = (0x1234_5678_9abc_def0u64, 0x0fed_cba9_8765_4321u64);
        let mixed1 = to1.wrapping_sub(0x52dc_e729).wrapping_mul(inverse(5)).wrapping_sub(h2).rotate_right(27) ^ h1;
        let mixed2 = to2.wrapping_sub(0x3849_5ab5).wrapping_mul(inverse(5)).wrapping_sub(to1).rotate_right(31) ^ h2;
        let k1 = mixed1.wrapping_mul(inverse(C2)).rotate_right(31).wrapping_mul(inverse(C1));
        let k2 = mixed2.wrapping_mul(inverse(C1)).rotate_right(33).wrapping_mul(inverse(C2));
        let bytes = [first.as_bytes(), &k1.to_le_bytes(), &k2.to_le_bytes()].concat();
        names.extend(Name::new(&bytes).ok());
    }
    names
}

/// Nodes that one look-up loaded: held until it ends.
#[derive(Debug, Default)]
struct Held(HashMap<NodeId, Arc<AttrNode>>);

impl Nodes for Held {
    fn node(&mut self, id: NodeId) -> Option<Arc<AttrNode>> {
        self.0.get(&id).cloned()
    }
}

/// Runs a look-up to its end, loading what it misses. For callers that hold no lock and have no cache.
///
/// # Errors
/// Those of the look-up, and those of [`load`].
async fn lookup<T: Send>(dag: &Dag, mut look: impl FnMut(&mut dyn Nodes) -> Result<T, Halt> + Send) -> Result<T> {
    let mut held = Held::default();
    loop {
        let id = match look(&mut held) {
            Ok(found) => return Ok(found),
            Err(Halt::Failed(error)) => return Err(error),
            Err(Halt::Missing(id)) => id,
        };
        let node = load(dag, id).await?;
        held.0.insert(id, node);
    }
}
