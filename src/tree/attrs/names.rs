//! The names of a directory, in the order of ranks: a trie over the bits of the rank.
//!
//! A subtree whose names take at most 8 KiB is a leaf; a larger one is halved by the next bit of the rank until its parts
//! are leaves, and every six bits an index node holds what there is below: leaves at any of the six depths, and, where
//! even that is too much, index nodes six bits further down. So the shape follows from the names alone, leaves are half
//! full at least as long as hashes spread, and names whose hashes were made to collide cost depth, at most 11 index
//! nodes, since their ranks differ. A leaf does not write its ranks: they follow from the names, but for an index among
//! equal hashes, which is written where it is not 0.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    INLINE_LEN_MAX,
    cache::{Halt, Nodes, misplaced, node},
    inode::read_ino,
    list::read_name,
    node::{AttrNode, NodeId, expect_count, write_tag},
};
use crate::{
    Name,
    dag::cbor::{Reader, write_content, write_head},
    rank::Rank,
    tree::inode::NameEntry,
};

/// The longest leaf, in bytes of entries: some 370 names of usual length.
pub(super) const LEAF_LEN_MAX: usize = 8 << 10;
/// Bits of a rank that an index node tells apart.
pub(super) const INDEX_BITS: u32 = 6;
/// Slots of an index node.
pub(super) const SLOT_COUNT: u32 = 1 << INDEX_BITS;
/// The depth, in bits, of the deepest index nodes: 62 bits of rank, and what fills up the last six.
pub(super) const DEPTH_MAX: u32 = 60;
/// Bits that pick the index among names of equal hash.
const RANK_INDEX_MASK: u64 = 0xffff;

/// A place in the trie: a rank, filled up with zeros to whole index nodes.
pub(super) type Place = u128;

/// Behind the last place.
const PLACE_END: Place = 1 << (DEPTH_MAX + INDEX_BITS);

pub(super) fn place(rank: Rank) -> Place {
    Place::from(rank.bits()) << (DEPTH_MAX + INDEX_BITS - 62)
}

/// The slot of a place in an index node of this depth.
#[expect(clippy::cast_possible_truncation, reason = "six bits")]
pub(super) fn slot(place: Place, depth: u32) -> u32 {
    (place >> (DEPTH_MAX - depth)) as u32 & (SLOT_COUNT - 1)
}

/// Entries in the order of ranks, encoded, and found.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    /// Rank, and the encoded entry.
    list: Vec<(Rank, Bytes)>,
    len: usize,
}

impl Entries {
    /// Reads the entries of a list.
    pub(super) fn read(reader: &mut Reader<'_>, block: &Bytes) -> Result<Self, &'static str> {
        let mut entries = Self::default();
        for _ in 0..reader.list()? {
            let start = reader.rest();
            let entry = read_entry(reader)?;
            if let Some((last, _)) = entries.list.last()
                && *last >= entry.rank
            {
                return Err("names are in the order of their ranks");
            }
            let (encoded, _) = start.split_at_checked(start.len() - reader.rest().len()).unwrap_or_default();
            entries.push(entry.rank, block.slice_ref(encoded));
        }
        Ok(entries)
    }

    pub(super) fn push(&mut self, rank: Rank, encoded: Bytes) {
        self.len += encoded.len();
        self.list.push((rank, encoded));
    }

    /// How many bytes the entries take.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn into_list(self) -> Vec<(Rank, Bytes)> {
        self.list
    }

    /// Writes the list of entries.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_head(4, self.list.len() as u64, out);
        self.list.iter().for_each(|(_, encoded)| out.extend_from_slice(encoded));
    }

    fn from(&self, rank: Rank) -> &[(Rank, Bytes)] {
        self.list.get(self.list.partition_point(|(at, _)| *at < rank)..).unwrap_or_default()
    }
}

impl FromIterator<(Rank, Bytes)> for Entries {
    fn from_iter<I: IntoIterator<Item = (Rank, Bytes)>>(list: I) -> Self {
        let mut entries = Self::default();
        list.into_iter().for_each(|(rank, encoded)| entries.push(rank, encoded));
        entries
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<NameEntry, &'static str> {
    let count = reader.list()?;
    let name = read_name(reader.bytes()?)?;
    let ino = read_ino(reader)?;
    let first = Rank::of(name.as_bytes());
    let rank = match count {
        2 => first,
        3 => {
            let index = Some(reader.uint()?).filter(|index| (1..=RANK_INDEX_MASK).contains(index));
            let index = index.ok_or("an index among equal hashes is from 1 to 65535 where it is written")?;
            Rank::from_bits(first.bits() | index).ok_or("there is no such rank")?
        }
        _ => return Err("an entry is a list of 2 or 3"),
    };
    Ok(NameEntry { rank, name, ino })
}

/// The entry of a name in a short list: compares bytes, and hashes nothing but what it finds.
fn find(list: &[u8], name: &Name) -> Result<Option<NameEntry>, &'static str> {
    let mut reader = Reader::new(list);
    for _ in 0..reader.list()? {
        let mut entry = reader;
        let count = reader.list()?;
        if reader.bytes()? == name.as_bytes() {
            return read_entry(&mut entry).map(Some);
        }
        (2..=count).try_for_each(|_| reader.uint().map(drop))?;
    }
    Ok(None)
}

/// Whether an entry is of this name.
fn is_named(encoded: &[u8], name: &Name) -> Result<bool, &'static str> {
    let mut reader = Reader::new(encoded);
    reader.list()?;
    Ok(reader.bytes()? == name.as_bytes())
}

/// Encodes an entry.
pub(super) fn encode_entry(entry: &NameEntry) -> Result<Vec<u8>, &'static str> {
    let index = entry.rank.bits() & RANK_INDEX_MASK;
    if entry.rank.bits() != Rank::of(entry.name.as_bytes()).bits() | index {
        return Err("the rank of an entry belongs to another name");
    }
    let mut out = Vec::new();
    write_head(4, if index == 0 { 2 } else { 3 }, &mut out);
    write_content(2, entry.name.as_bytes(), &mut out);
    write_head(0, entry.ino.0.get(), &mut out);
    if index > 0 {
        write_head(0, index, &mut out);
    }
    Ok(out)
}

/// Names of a directory in a block.
#[derive(Debug)]
pub(crate) struct NameLeaf {
    pub(super) entries: Entries,
}

impl NameLeaf {
    pub(super) const TAG: &str = "names";

    pub(super) fn read(reader: &mut Reader<'_>, count: u64, block: &Bytes) -> Result<Self, &'static str> {
        expect_count(count, 2)?;
        let entries = Entries::read(reader, block)?;
        if !(1..=LEAF_LEN_MAX).contains(&entries.len()) {
            return Err("a leaf has 1 to 8192 bytes of names");
        }
        Ok(Self { entries })
    }

    pub(super) fn encode(entries: &Entries) -> Vec<u8> {
        let mut out = Vec::with_capacity(entries.len() + 16);
        write_tag(Self::TAG, 2, &mut out);
        entries.write(&mut out);
        out
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() + size_of_val(&*self.entries.list)
    }
}

/// What an index node has in some of its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    /// Nothing.
    Empty,
    /// A leaf, and its length in bytes of entries.
    Leaf(NodeId, usize),
    /// An index node six bits further down.
    Index(NodeId),
}

impl Child {
    /// How many bytes of entries it has; `None` for an index node: more than fit in a leaf.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::Empty => Some(0),
            Self::Leaf(_, len) => Some(*len),
            Self::Index(_) => None,
        }
    }
}

/// How many slots a child of this depth below its index node takes.
pub(super) fn slot_count(bits: u32) -> u32 {
    SLOT_COUNT >> bits
}

/// An index node: its children in order, each with its depth below the node in bits. They take all 64 slots.
#[derive(Debug)]
pub(crate) struct NameIndex {
    pub(super) children: Vec<(u32, Child)>,
}

impl NameIndex {
    pub(super) const TAG: &str = "name-index";

    pub(super) fn read(reader: &mut Reader<'_>, count: u64) -> Result<Self, &'static str> {
        expect_count(count, 2)?;
        let count = reader.list()?;
        let mut children: Vec<(u32, Child)> = Vec::new();
        let mut next = 0;
        let depth = |bits: u64| u32::try_from(bits).ok().filter(|bits| (1..=INDEX_BITS).contains(bits));
        // Depths and lengths of what was read, halves that are whole put together: none that could be one leaf.
        let mut halves: Vec<(u32, Option<usize>)> = Vec::new();
        for _ in 0..count {
            let (bits, child) = if reader.is_link() {
                (INDEX_BITS, Child::Index(NodeId::read(reader)?))
            } else if matches!(reader.rest(), [0x83, ..]) {
                reader.list()?;
                let (bits, len, id) = (reader.uint()?, reader.uint()?, NodeId::read(reader)?);
                let len = usize::try_from(len).ok().filter(|len| (1..=LEAF_LEN_MAX).contains(len));
                let len = len.ok_or("a leaf has 1 to 8192 bytes of names")?;
                (depth(bits).ok_or("a depth is from 1 to 6")?, Child::Leaf(id, len))
            } else {
                (depth(reader.uint()?).ok_or("a depth is from 1 to 6")?, Child::Empty)
            };
            if next % slot_count(bits) != 0 {
                return Err("a child begins where one of its depth can");
            }
            next += slot_count(bits);
            if next > SLOT_COUNT {
                return Err("an index node has 64 slots");
            }
            children.push((bits, child));
            let (mut bits, mut len) = (bits, child.len());
            while let Some(&(left_bits, left_len)) = halves.last()
                && left_bits == bits
            {
                halves.pop();
                len = left_len.zip(len).map(|(left, right)| left + right);
                bits -= 1;
                if len.is_some_and(|len| len <= LEAF_LEN_MAX) {
                    return Err("what fits in one leaf is one leaf");
                }
                // Two that do not fit in one leaf are never too small to be halves.
                len = None;
            }
            halves.push((bits, len));
        }
        if next != SLOT_COUNT {
            return Err("an index node has 64 slots");
        }
        Ok(Self { children })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_tag(Self::TAG, 2, &mut out);
        write_head(4, self.children.len() as u64, &mut out);
        for (bits, child) in &self.children {
            match child {
                Child::Empty => write_head(0, (*bits).into(), &mut out),
                Child::Leaf(id, len) => {
                    write_head(4, 3, &mut out);
                    write_head(0, (*bits).into(), &mut out);
                    write_head(0, *len as u64, &mut out);
                    id.write(&mut out);
                }
                Child::Index(id) => id.write(&mut out),
            }
        }
        out
    }

    pub(super) fn len(&self) -> usize {
        size_of_val(&*self.children)
    }

    /// The child that a slot belongs to, and the slots it takes.
    fn child(&self, slot: u32) -> Option<(u32, u32, Child)> {
        let mut start = 0;
        for (bits, child) in &self.children {
            let end = start + slot_count(*bits);
            if slot < end {
                return Some((start, end, *child));
            }
            start = end;
        }
        None
    }
}

/// The names of a directory as its inode has them.
#[derive(Debug, Clone)]
pub(super) enum Names {
    /// The entries themselves, encoded, with the head of their list.
    Inline(Bytes),
    /// A leaf, or the topmost index node.
    Node(NodeId),
}

/// Some entries, and the place behind all that could be among them.
struct Run {
    node: Option<Arc<AttrNode>>,
    end: Place,
}

impl Run {
    fn entries(&self) -> Option<&Entries> {
        match self.node.as_deref() {
            Some(AttrNode::Names(leaf)) => Some(&leaf.entries),
            _ => None,
        }
    }
}

impl Names {
    pub(super) fn empty() -> Self {
        Self::Inline(Bytes::from_static(&[0x80]))
    }

    pub(super) fn read(reader: &mut Reader<'_>, block: &Bytes) -> Result<Self, &'static str> {
        if reader.is_link() {
            return NodeId::read(reader).map(Self::Node);
        }
        let start = reader.rest();
        if Entries::read(reader, block)?.len() > INLINE_LEN_MAX {
            return Err("what is longer than 512 bytes is in a block of its own");
        }
        let (entries, _) = start.split_at_checked(start.len() - reader.rest().len()).unwrap_or_default();
        Ok(Self::Inline(block.slice_ref(entries)))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Inline(entries) => out.extend_from_slice(entries),
            Self::Node(id) => id.write(out),
        }
    }

    pub(super) fn entry(&self, nodes: &mut dyn Nodes, name: &Name) -> Result<Option<NameEntry>, Halt> {
        if let Self::Inline(encoded) = self {
            return find(encoded, name).map_err(bad);
        }
        let first = Rank::of(name.as_bytes());
        let mut found = None;
        self.visit(nodes, first, |rank, encoded| {
            // Names that were made to collide are many: no more than one is decoded.
            if is_named(encoded, name)? {
                found = Some(read_entry(&mut Reader::new(encoded))?);
            }
            Ok(found.is_none() && rank.hash_min() == first.hash_min())
        })?;
        Ok(found)
    }

    pub(super) fn entries(&self, nodes: &mut dyn Nodes, from: Rank, count: usize) -> Result<Vec<NameEntry>, Halt> {
        let mut found = Vec::new();
        if count > 0 {
            self.visit(nodes, from, |_, encoded| {
                found.push(read_entry(&mut Reader::new(encoded))?);
                Ok(found.len() < count)
            })?;
        }
        Ok(found)
    }

    pub(super) fn ranks(&self, nodes: &mut dyn Nodes, hash_of: Rank) -> Result<Vec<NameEntry>, Halt> {
        let mut found = Vec::new();
        let Some(first) = Rank::from_bits(hash_of.bits() & !RANK_INDEX_MASK) else { return Ok(found) };
        self.visit(nodes, first, |rank, encoded| {
            let same = rank.hash_min() == first.hash_min();
            if same {
                found.push(read_entry(&mut Reader::new(encoded))?);
            }
            Ok(same)
        })?;
        Ok(found)
    }

    /// Shows `seen` the entries from a rank on, encoded, until it says false.
    fn visit(
        &self,
        nodes: &mut dyn Nodes,
        from: Rank,
        mut seen: impl FnMut(Rank, &[u8]) -> Result<bool, &'static str>,
    ) -> Result<(), Halt> {
        let mut at = place(from);
        while at < PLACE_END {
            let run = self.run(nodes, at)?;
            for (rank, encoded) in run.entries().map(|entries| entries.from(from)).unwrap_or_default() {
                if !seen(*rank, encoded).map_err(bad)? {
                    return Ok(());
                }
            }
            at = run.end;
        }
        Ok(())
    }

    /// The entries around a place.
    fn run(&self, nodes: &mut dyn Nodes, at: Place) -> Result<Run, Halt> {
        let mut id = match self {
            Self::Inline(encoded) => {
                let entries = Entries::read(&mut Reader::new(encoded), encoded).map_err(bad)?;
                return Ok(Run { node: Some(Arc::new(AttrNode::Names(NameLeaf { entries }))), end: PLACE_END });
            }
            Self::Node(id) => *id,
        };
        let (mut start, mut end, mut len) = (0, PLACE_END, None);
        let mut depth = 0;
        loop {
            let node = node(nodes, id)?;
            let index = match &*node {
                AttrNode::Names(leaf) => {
                    check_leaf(leaf, start, end, len).or_else(|why| misplaced(id, why))?;
                    return Ok(Run { node: Some(node), end });
                }
                // Of a leaf its length is known.
                AttrNode::NameIndex(index) if len.is_none() && depth <= DEPTH_MAX => index,
                _ => return misplaced(id, "names are wanted here"),
            };
            let Some((first, behind, child)) = index.child(slot(at, depth)) else {
                return misplaced(id, "an index node has 64 slots");
            };
            let shift = DEPTH_MAX - depth;
            end = start + (Place::from(behind) << shift);
            start += Place::from(first) << shift;
            match child {
                Child::Empty => return Ok(Run { node: None, end }),
                Child::Leaf(leaf, leaf_len) => (id, len) = (leaf, Some(leaf_len)),
                Child::Index(index) => id = index,
            }
            depth += INDEX_BITS;
        }
    }
}

/// Checks that a leaf is the one that its index node speaks of.
pub(super) fn check_leaf(leaf: &NameLeaf, start: Place, end: Place, len: Option<usize>) -> Result<(), &'static str> {
    let entries = &leaf.entries;
    if len.is_some_and(|len| len != entries.len()) {
        return Err("a leaf is as long as its index node says");
    }
    let ends = [entries.list.first(), entries.list.last()];
    let within = |(rank, _): &(Rank, Bytes)| (start..end).contains(&place(*rank));
    if ends.into_iter().flatten().all(within) { Ok(()) } else { Err("names of other ranks are wanted here") }
}

fn bad(why: &'static str) -> Halt {
    use crate::{Error, ErrorKind};
    Error::new(ErrorKind::Corrupt, "attrs.lookup").because(why).into()
}
