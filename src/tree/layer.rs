//! What changed since a commit: inodes, names and ranges of bytes, by the records that said so.
//!
//! A tree is a committed base with two layers above it: one that a commit is writing out, and one that takes what
//! changes meanwhile. A layer says of an inode all that is fixed in length, and of its names, attributes and bytes only
//! what is new: the rest is as in the layer below.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use bytes::Bytes;

use super::{
    extent::{Extents, Piece},
    inode::Meta,
    record::Effect,
};
use crate::{
    Name,
    log::LogPos,
    rank::Rank,
    vfs::{FILE_LEN_MAX, Ino, XattrName},
};

/// About what a node, a name and a range take in memory beside their bytes. The maps of a node that has one name and one
/// range have room for eleven of each.
const NODE_LEN: usize = 1300;
const NAME_LEN: usize = 120;
const EXTENT_LEN: usize = 160;

/// Names of a directory, by their places: what is there now, `None` where a name went.
pub(super) type Names = BTreeMap<Rank, Option<(Name, Ino)>>;

/// What is new of an inode.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) meta: Meta,
    pub(super) target: Option<Bytes>,
    /// Names that came (`true`) and went.
    pub(super) parents: BTreeMap<(Ino, Name), bool>,
    pub(super) xattrs: BTreeMap<XattrName, Option<Bytes>>,
    pub(super) extents: Extents,
}

impl Node {
    fn new(meta: Meta) -> Self {
        Self { meta, target: None, parents: BTreeMap::new(), xattrs: BTreeMap::new(), extents: Extents::default() }
    }

    /// Takes in what a newer layer says.
    fn settle(&mut self, newer: Self) {
        self.meta = newer.meta;
        self.target = newer.target.or(self.target.take());
        self.parents.extend(newer.parents);
        self.xattrs.extend(newer.xattrs);
        for (range, piece) in newer.extents.iter() {
            self.extents.insert(range, piece);
        }
    }
}

/// What changed since a commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pub(super) nodes: HashMap<Ino, Node>,
    pub(super) names: HashMap<Ino, Names>,
    /// How many records were applied, and about how long they were, in bytes.
    pub(super) record_count: u64,
    pub(super) journal_len: u64,
    /// When the first and the last change were made; `None` after a restart.
    pub(super) first: Option<SystemTime>,
    pub(super) last: Option<SystemTime>,
    /// About what it takes in memory, in bytes.
    pub(super) memory_len: usize,
}

impl Layer {
    /// Whether nothing changed.
    pub(super) fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Applies the effects of the record at `pos`. An inode is told of before anything else of it is.
    pub(super) fn apply(&mut self, pos: LogPos, effects: Vec<Effect>) {
        self.record_count += 1;
        for effect in effects {
            self.apply_one(pos, effect);
        }
    }

    fn apply_one(&mut self, pos: LogPos, effect: Effect) {
        match effect {
            Effect::Inode(ino, meta) => {
                if let Some(node) = self.nodes.get_mut(&ino) {
                    node.meta = meta;
                } else {
                    self.memory_len += NODE_LEN;
                    self.nodes.insert(ino, Node::new(meta));
                }
            }
            Effect::Target(ino, target) => {
                self.memory_len += target.len();
                self.with(ino, |node| node.target = Some(target));
            }
            Effect::Name { dir, rank, name, ino, there } => {
                self.memory_len += 2 * (NAME_LEN + name.as_bytes().len());
                let entry = there.then(|| (name.clone(), ino));
                self.names.entry(dir).or_default().insert(rank, entry);
                self.with(ino, |node| {
                    node.parents.insert((dir, name), there);
                });
            }
            Effect::Xattr(ino, name, value) => {
                self.memory_len += NAME_LEN + name.as_bytes().len() + value.as_ref().map_or(0, Bytes::len);
                self.with(ino, |node| drop(node.xattrs.insert(name, value)));
            }
            Effect::Data { ino, offset, len, at } => {
                self.put(ino, offset, u64::from(len), Piece::Journal(pos, at));
            }
            Effect::Slice { ino, range, cid, from } => {
                self.put(ino, range.start, range.end - range.start, Piece::Slice(cid, from));
            }
            Effect::Hole(ino, range) => self.put(ino, range.start, range.end - range.start, Piece::Hole),
            Effect::Reserve(ino, range) => self.put(ino, range.start, range.end - range.start, Piece::Reserved),
        }
    }

    fn put(&mut self, ino: Ino, offset: u64, len: u64, piece: Piece) {
        let mut grown = 0;
        self.with(ino, |node| {
            let before = node.extents.len();
            node.extents.insert(offset..offset.saturating_add(len).min(FILE_LEN_MAX), piece);
            grown = node.extents.len().saturating_sub(before);
        });
        self.memory_len += grown * EXTENT_LEN;
    }

    /// What is new of an inode that a record told of; one it did not tell of is nobody's, and stays so.
    fn with(&mut self, ino: Ino, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            change(node);
        }
    }

    /// Becomes one with the layer below it. Nodes without a name that nobody leases hold nothing.
    pub(super) fn settle_on(&mut self, mut below: Self, is_leased: impl Fn(Ino) -> bool) {
        for (ino, node) in std::mem::take(&mut self.nodes) {
            let is_gone = node.meta.nlink == 0 && !is_leased(ino);
            below.nodes.entry(ino).or_insert_with(|| Node::new(node.meta)).settle(node);
            if is_gone {
                below.forget(ino);
            }
        }
        for (dir, names) in std::mem::take(&mut self.names) {
            below.names.entry(dir).or_default().extend(names);
        }
        below.record_count = below.record_count.saturating_add(self.record_count);
        below.journal_len = below.journal_len.saturating_add(self.journal_len);
        below.memory_len = below.memory_len.saturating_add(self.memory_len);
        below.first = below.first.or(self.first);
        below.last = self.last.or(below.last);
        *self = below;
    }

    /// Forgets the bytes and attributes of a node that nobody can reach any more; that it is gone stays known.
    pub(super) fn forget(&mut self, ino: Ino) {
        self.names.remove(&ino);
        self.with(ino, |node| *node = Node::new(node.meta));
    }
}
