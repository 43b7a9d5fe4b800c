//! From numbers to inodes: the root, the index nodes and the leaves of the radix tree.
//!
//! A leaf has the inodes of 32 consecutive numbers, an index node 64 leaves or index nodes; what is empty is not there.
//! The height follows from `next_ino`. A leaf tells its place, so that a block linked from a wrong one is found out.
//! 32 and 64 are a compromise: touching one inode among a million rewrites a leaf of some 3 KB and three index nodes of
//! at most 2.7 KB, and the upper ones are shared with others that are touched.

use std::{num::NonZeroU64, sync::Arc};

use bytes::Bytes;

use super::{
    INO_END,
    cache::{Halt, Nodes, misplaced, node},
    inode::Inode,
    node::{AttrNode, NodeId, expect_count, write_tag},
};
use crate::{
    Error, ErrorKind, Result,
    dag::cbor::{Reader, write_head},
    vfs::Ino,
};

/// The version of the attribute tree that is written, and the newest that is read.
pub(super) const VERSION: u64 = 1;
/// Bits of a number that pick an inode in a leaf.
pub(super) const LEAF_BITS: u32 = 5;
/// Bits of a number that pick a child in an index node.
pub(super) const INDEX_BITS: u32 = 6;

/// How many levels of index nodes there are over the leaves. At most 9: numbers have 55 bits.
pub(super) fn height(next_ino: u64) -> u32 {
    let bits = u64::BITS - (next_ino.saturating_sub(1) >> LEAF_BITS).leading_zeros();
    bits.div_ceil(INDEX_BITS)
}

/// The root of the attribute tree.
#[derive(Debug)]
pub(crate) struct Root {
    pub(super) next_ino: u64,
    pub(super) inode_count: u64,
    pub(super) used: u64,
    pub(super) inodes: Option<NodeId>,
}

impl Root {
    pub(super) const TAG: &str = "muxfs-attrs";

    /// The outer result is about the version, the inner one about the rest.
    pub(super) fn read(reader: &mut Reader<'_>, count: u64) -> Result<Result<Self, &'static str>> {
        let unsupported = |why| Error::new(ErrorKind::Unsupported, "attrs.decode").because(why);
        let version = match reader.uint() {
            Ok(version) if version > VERSION => {
                return Err(unsupported(format!(
                    "attributes of version {version}: this program reads version {VERSION}, a newer MuxFS wrote them"
                )));
            }
            version => version,
        };
        let mut read = || {
            if version? != VERSION {
                return Err("there is no such version");
            }
            expect_count(count, 7)?;
            let root = Self {
                next_ino: reader.uint()?,
                inode_count: reader.uint()?,
                used: reader.uint()?,
                inodes: if reader.null() { None } else { Some(NodeId::read(reader)?) },
            };
            if !(1..=INO_END).contains(&root.next_ino) {
                return Err("the next number is from 1 to 2^55");
            }
            Ok(root)
        };
        let root = read();
        if root.is_ok() && reader.is_link() {
            return Err(unsupported("it has numbers of foreign roots, which this program does not read".to_owned()));
        }
        Ok(root.and_then(|root| if reader.null() { Ok(root) } else { Err("null is wanted, or a link") }))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_tag(Self::TAG, 7, &mut out);
        for number in [VERSION, self.next_ino, self.inode_count, self.used] {
            write_head(0, number, &mut out);
        }
        match self.inodes {
            Some(id) => id.write(&mut out),
            None => out.push(NULL),
        }
        out.push(NULL);
        out
    }
}

pub(super) const NULL: u8 = 0xf6;

/// Up to 64 children, by 6 bits of the number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InodeIndex {
    bitmap: u64,
    children: Vec<NodeId>,
}

impl InodeIndex {
    pub(super) const TAG: &str = "inode-index";

    pub(super) fn read(reader: &mut Reader<'_>, count: u64) -> Result<Self, &'static str> {
        expect_count(count, 3)?;
        let bitmap = reader.uint()?;
        let count = reader.list()?;
        if bitmap == 0 || count != u64::from(bitmap.count_ones()) {
            return Err("an index node has a child for each bit, and one at least");
        }
        let children = (0..count).map(|_| NodeId::read(reader)).collect::<Result<_, _>>()?;
        Ok(Self { bitmap, children })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_tag(Self::TAG, 3, &mut out);
        write_head(0, self.bitmap, &mut out);
        write_head(4, self.children.len() as u64, &mut out);
        self.children.iter().for_each(|id| id.write(&mut out));
        out
    }

    pub(super) fn len(&self) -> usize {
        size_of_val(&*self.children)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bitmap == 0
    }

    /// The child of a number among its neighbours: its lowest 6 bits count.
    pub(super) fn child(&self, number: u64) -> Option<NodeId> {
        let slot = slot(number);
        if self.bitmap & slot == 0 { None } else { self.children.get(self.rank(slot)).copied() }
    }

    pub(super) fn set(&mut self, number: u64, child: Option<NodeId>) {
        let slot = slot(number);
        let (rank, had) = (self.rank(slot), self.bitmap & slot != 0);
        if had {
            self.children.remove(rank);
        }
        self.bitmap &= !slot;
        if let Some(child) = child {
            self.children.insert(rank, child);
            self.bitmap |= slot;
        }
    }

    /// The children, each with its place.
    pub(super) fn children(&self) -> impl Iterator<Item = (u64, NodeId)> {
        ones(self.bitmap).zip(self.children.iter().copied())
    }

    fn rank(&self, slot: u64) -> usize {
        (self.bitmap & (slot - 1)).count_ones() as usize
    }
}

fn slot(number: u64) -> u64 {
    1 << (number & ((1 << INDEX_BITS) - 1))
}

fn ones(bitmap: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |bit| bitmap >> bit & 1 == 1)
}

/// Up to 32 inodes of consecutive numbers, encoded.
#[derive(Debug)]
pub(crate) struct InodeLeaf {
    /// The number of its first inode, by 32.
    number: u64,
    bitmap: u32,
    records: Vec<Bytes>,
}

impl InodeLeaf {
    pub(super) const TAG: &str = "inodes";

    pub(super) fn read(reader: &mut Reader<'_>, count: u64, block: &Bytes) -> Result<Self, &'static str> {
        expect_count(count, 4)?;
        let number = reader.uint()?;
        if number > (INO_END - 1) >> LEAF_BITS {
            return Err("numbers are below 2^55");
        }
        let bitmap = reader.uint()?;
        let bitmap = u32::try_from(bitmap).ok().filter(|bitmap| *bitmap != 0).ok_or("a bitmap has one to 32 bits")?;
        if bitmap & 1 == 1 && number == 0 {
            return Err("no inode has the number 0");
        }
        if reader.list()? != u64::from(bitmap.count_ones()) {
            return Err("a leaf has an inode for each bit");
        }
        let mut records = Vec::new();
        for _ in 0..bitmap.count_ones() {
            let start = reader.rest();
            Inode::read(reader, block)?;
            let (record, _) = start.split_at_checked(start.len() - reader.rest().len()).unwrap_or_default();
            records.push(block.slice_ref(record));
        }
        Ok(Self { number, bitmap, records })
    }

    /// The block of a leaf; `None` if there is no inode. Records go by the lowest 5 bits of their numbers.
    pub(super) fn encode(number: u64, records: &[(u32, Bytes)]) -> Option<Vec<u8>> {
        let bitmap = records.iter().fold(0, |bitmap: u64, (place, _)| bitmap | 1 << place);
        if bitmap == 0 {
            return None;
        }
        let mut out = Vec::new();
        write_tag(Self::TAG, 4, &mut out);
        write_head(0, number, &mut out);
        write_head(0, bitmap, &mut out);
        write_head(4, records.len() as u64, &mut out);
        for (_, record) in records {
            out.extend_from_slice(record);
        }
        Some(out)
    }

    pub(super) fn len(&self) -> usize {
        self.records.iter().map(|record| record.len() + size_of::<Bytes>()).sum()
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The inodes, encoded, each with its place.
    pub(super) fn records(&self) -> impl Iterator<Item = (u32, &Bytes)> {
        let bitmap = self.bitmap;
        (0..u32::BITS).filter(move |bit| bitmap >> bit & 1 == 1).zip(&self.records)
    }

    pub(super) fn record(&self, place: u32) -> Option<&Bytes> {
        if self.bitmap >> place & 1 == 0 {
            return None;
        }
        self.records.get((self.bitmap & ((1 << place) - 1)).count_ones() as usize)
    }
}

/// The place of an inode in its leaf.
pub(super) fn place(ino: Ino) -> u32 {
    (ino.0.get() & ((1 << LEAF_BITS) - 1)) as u32
}

/// The number of an inode in a leaf; `None` for 0.
pub(super) fn ino_at(number: u64, place: u32) -> Option<Ino> {
    NonZeroU64::new(number << LEAF_BITS | u64::from(place)).map(Ino)
}

pub(super) fn find(root: &Root, nodes: &mut dyn Nodes, ino: Ino) -> Result<Option<Arc<Inode>>, Halt> {
    if ino.0.get() >= root.next_ino {
        return Ok(None);
    }
    let number = ino.0.get() >> LEAF_BITS;
    let Some(mut id) = root.inodes else { return Ok(None) };
    for level in (0..height(root.next_ino)).rev() {
        let AttrNode::InodeIndex(index) = &*node(nodes, id)? else {
            return misplaced(id, "an index of inodes is wanted here");
        };
        match index.child(number >> (INDEX_BITS * level)) {
            Some(child) => id = child,
            None => return Ok(None),
        }
    }
    match &*node(nodes, id)? {
        AttrNode::Inodes(leaf) if leaf.number == number => {
            let Some(record) = leaf.record(place(ino)) else { return Ok(None) };
            match Inode::decode(record) {
                Ok(inode) => Ok(Some(Arc::new(inode))),
                Err(why) => misplaced(id, why),
            }
        }
        _ => misplaced(id, "inodes of these numbers are wanted here"),
    }
}
