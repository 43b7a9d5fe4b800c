//! What an inode has many of beside names: parents, data ranges, extended attributes. Sorted lists, in blocks if long.
//!
//! A short list is inline in the inode. A longer one is cut into blocks where an item's own hash says so, so that a
//! change in the middle moves no cuts but its own, and equal lists are cut alike however they came about. The links to
//! the blocks are a list that is cut in the same way, up to a single block.

use std::{collections::HashSet, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    INLINE_LEN_MAX,
    cache::{Halt, Nodes, misplaced, node},
    inode::read_ino,
    node::{AttrNode, NodeId, expect_count, put, write_tag},
};
use crate::{
    Error, ErrorKind, Name, Result,
    dag::{
        Dag,
        cbor::{Reader, write_content, write_head},
        murmur3_x64_64,
    },
    vfs::{FILE_LEN_MAX, Ino, XATTR_LEN_MAX, XattrName},
};

/// The longest block of a list, in bytes of items; one item may be longer.
const LIST_LEN_MAX: usize = 32 << 10;
/// A block ends after an item whose hash has these bits clear: one of 512.
const LIST_CUT: u64 = 511;
/// The most links of an index.
const LIST_INDEX_MAX: usize = 512;
/// An index ends after a link whose first byte has these bits clear: one of 64.
const LIST_INDEX_CUT: u8 = 63;
/// How many levels of index nodes are followed: more than any list that fits needs.
const LIST_LEVEL_MAX: u32 = 8;
/// The longest list, in bytes of items: it is read into memory as a whole. Room for 2^17 parents of the longest names.
pub(super) const LIST_TOTAL_LEN_MAX: usize = 64 << 20;

/// The unit of data ranges, in bytes.
pub(super) const RANGE_UNIT: u64 = 4096;

/// An item of a list.
pub(super) trait Item: Sized {
    /// The tag of the blocks that hold such.
    const TAG: &str;
    fn read(reader: &mut Reader<'_>, block: &Bytes) -> Result<Self, &'static str>;
    fn write(&self, out: &mut Vec<u8>) -> Result<(), &'static str>;
    /// Whether it may stand behind `before`.
    fn follows(&self, before: &Self) -> bool;
}

/// A name that an inode has: the directory, and the name in it.
impl Item for (Ino, Name) {
    const TAG: &str = "parents";

    fn read(reader: &mut Reader<'_>, _: &Bytes) -> Result<Self, &'static str> {
        Ok((read_ino(reader)?, read_name(reader.bytes()?)?))
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        write_head(0, self.0.0.get(), out);
        write_content(2, self.1.as_bytes(), out);
        Ok(())
    }

    fn follows(&self, before: &Self) -> bool {
        self > before
    }
}

/// The name of an entry.
pub(super) fn read_name(bytes: &[u8]) -> Result<Name, &'static str> {
    Name::new(bytes).map_err(|_| "a name has 1 to 255 bytes, no NUL and no slash, and is neither . nor ..")
}

/// A range of a file that is not a hole.
impl Item for Range<u64> {
    const TAG: &str = "ranges";

    fn read(reader: &mut Reader<'_>, _: &Bytes) -> Result<Self, &'static str> {
        let (start, count) = (reader.uint()?, reader.uint()?);
        let end = start.checked_add(count).filter(|end| *end <= FILE_LEN_MAX / RANGE_UNIT + 1 && count > 0);
        let end = end.ok_or("a range is not empty and ends at 2^63 at the latest")?;
        Ok(start * RANGE_UNIT..end * RANGE_UNIT)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if self.is_empty()
            || !self.start.is_multiple_of(RANGE_UNIT)
            || !self.end.is_multiple_of(RANGE_UNIT)
            || self.end - 1 > FILE_LEN_MAX
        {
            return Err("a data range is of whole units of 4 KiB");
        }
        write_head(0, self.start / RANGE_UNIT, out);
        write_head(0, (self.end - self.start) / RANGE_UNIT, out);
        Ok(())
    }

    fn follows(&self, before: &Self) -> bool {
        self.start > before.end
    }
}

/// An extended attribute.
impl Item for (XattrName, Bytes) {
    const TAG: &str = "xattrs";

    fn read(reader: &mut Reader<'_>, block: &Bytes) -> Result<Self, &'static str> {
        let name = XattrName::new(reader.bytes()?);
        let name = name.map_err(|_| "the name of an extended attribute has 1 to 255 bytes without NUL")?;
        let value = reader.bytes()?;
        if value.len() > XATTR_LEN_MAX {
            return Err("an extended attribute has at most 64 KiB");
        }
        Ok((name, block.slice_ref(value)))
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if self.1.len() > XATTR_LEN_MAX {
            return Err("an extended attribute has at most 64 KiB");
        }
        write_content(2, self.0.as_bytes(), out);
        write_content(2, &self.1, out);
        Ok(())
    }

    fn follows(&self, before: &Self) -> bool {
        self.0 > before.0
    }
}

/// Reads a list of items, each of which is two values; gives their encoded length too.
fn read_items<T: Item>(reader: &mut Reader<'_>, block: &Bytes) -> Result<(Vec<T>, usize), &'static str> {
    let count = reader.list()?;
    if count % 2 != 0 {
        return Err("each item of a list is two values");
    }
    let len = reader.rest().len();
    let mut items: Vec<T> = Vec::new();
    for _ in 0..count / 2 {
        let item = T::read(reader, block)?;
        if items.last().is_some_and(|before| !item.follows(before)) {
            return Err("a list is sorted, and nothing stands in it twice");
        }
        items.push(item);
    }
    Ok((items, len - reader.rest().len()))
}

/// A list as an inode has it.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// The items themselves, encoded, with the head of their list.
    Inline(Bytes),
    /// The block that holds them or leads to them.
    Node(NodeId),
}

impl Part {
    pub(super) fn empty() -> Self {
        Self::Inline(Bytes::from_static(&[0x80]))
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Inline(items) if items.len() == 1)
    }

    pub(super) fn read<T: Item>(reader: &mut Reader<'_>, block: &Bytes) -> Result<Self, &'static str> {
        if reader.is_link() {
            return NodeId::read(reader).map(Self::Node);
        }
        let start = reader.rest();
        let (_, len) = read_items::<T>(reader, block)?;
        if len > INLINE_LEN_MAX {
            return Err("what is longer than 512 bytes is in a block of its own");
        }
        let (items, _) = start.split_at_checked(start.len() - reader.rest().len()).unwrap_or_default();
        Ok(Self::Inline(block.slice_ref(items)))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Inline(items) => out.extend_from_slice(items),
            Self::Node(id) => id.write(out),
        }
    }

    /// The items, all of them.
    pub(super) fn items<T: Item>(&self, nodes: &mut dyn Nodes) -> Result<Vec<T>, Halt> {
        let root = match self {
            Self::Inline(items) => {
                let read = read_items(&mut Reader::new(items), items);
                return read.map(|(items, _)| items).map_err(|why| bad(why).into());
            }
            Self::Node(id) => *id,
        };
        let lists = blocks(root, nodes)?;
        let mut all: Vec<T> = Vec::new();
        for (id, node) in lists {
            let AttrNode::List(list) = &*node else { continue };
            if list.tag != T::TAG {
                return misplaced(id, "a list of another kind is wanted here");
            }
            let (items, _) = read_items::<T>(&mut Reader::new(&list.items), &list.items).map_err(bad)?;
            if let (Some(before), Some(first)) = (all.last(), items.first())
                && !first.follows(before)
            {
                return misplaced(id, "a list is sorted, and nothing stands in it twice");
            }
            all.extend(items);
        }
        Ok(all)
    }
}

fn bad(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "attrs.lookup").because(why)
}

/// The blocks of a list in order. All are looked for before any is decoded: each that is missing costs a new attempt.
fn blocks(root: NodeId, nodes: &mut dyn Nodes) -> Result<Vec<(NodeId, Arc<AttrNode>)>, Halt> {
    let (mut found, mut met, mut len) = (Vec::new(), HashSet::new(), 0);
    let mut left = vec![(root, LIST_LEVEL_MAX)];
    while let Some((id, level)) = left.pop() {
        if !met.insert(id) {
            return misplaced(id, "nothing stands in a list twice");
        }
        let node = node(nodes, id)?;
        match &*node {
            AttrNode::ListIndex(index) if level > 0 => {
                left.extend(index.children.iter().rev().map(|child| (*child, level - 1)));
            }
            AttrNode::List(list) => {
                len += list.items.len();
                found.push((id, node));
            }
            _ => return misplaced(id, "a list is wanted here"),
        }
        if len > LIST_TOTAL_LEN_MAX {
            return misplaced(id, "a list has at most 64 MiB");
        }
    }
    Ok(found)
}

/// A block of a list.
#[derive(Debug)]
pub(crate) struct List {
    tag: &'static str,
    /// The items with the head of their list.
    items: Bytes,
}

impl List {
    pub(super) fn read(tag: &str, reader: &mut Reader<'_>, count: u64, block: &Bytes) -> Result<Self, &'static str> {
        expect_count(count, 2)?;
        let start = reader.rest();
        let (tag, count) = match tag {
            <(Ino, Name)>::TAG => (<(Ino, Name)>::TAG, read_items::<(Ino, Name)>(reader, block)?.0.len()),
            Range::<u64>::TAG => (Range::<u64>::TAG, read_items::<Range<u64>>(reader, block)?.0.len()),
            <(XattrName, Bytes)>::TAG => {
                (<(XattrName, Bytes)>::TAG, read_items::<(XattrName, Bytes)>(reader, block)?.0.len())
            }
            _ => return Err("there is no such kind of node"),
        };
        if count == 0 {
            return Err("a block of a list has an item at least");
        }
        let (items, _) = start.split_at_checked(start.len() - reader.rest().len()).unwrap_or_default();
        Ok(Self { tag, items: block.slice_ref(items) })
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Decodes the items and encodes them again.
    #[cfg(test)]
    pub(super) fn encode(&self) -> Result<Vec<u8>, &'static str> {
        fn again<T: Item>(list: &Bytes) -> Result<Vec<u8>, &'static str> {
            let (items, _) = read_items::<T>(&mut Reader::new(list), list)?;
            let mut out = Vec::new();
            write_tag(T::TAG, 2, &mut out);
            write_head(4, 2 * items.len() as u64, &mut out);
            items.iter().try_for_each(|item| item.write(&mut out))?;
            Ok(out)
        }
        match self.tag {
            <(Ino, Name)>::TAG => again::<(Ino, Name)>(&self.items),
            Range::<u64>::TAG => again::<Range<u64>>(&self.items),
            _ => again::<(XattrName, Bytes)>(&self.items),
        }
    }
}

/// Leads to the blocks of a list.
#[derive(Debug)]
pub(crate) struct ListIndex {
    pub(super) children: Vec<NodeId>,
}

impl ListIndex {
    pub(super) const TAG: &str = "list-index";

    pub(super) fn read(reader: &mut Reader<'_>, count: u64) -> Result<Self, &'static str> {
        expect_count(count, 2)?;
        let count = reader.list()?;
        if count == 0 || count > LIST_INDEX_MAX as u64 {
            return Err("an index of a list has 1 to 512 links");
        }
        Ok(Self { children: (0..count).map(|_| NodeId::read(reader)).collect::<Result<_, _>>()? })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_tag(Self::TAG, 2, &mut out);
        write_head(4, self.children.len() as u64, &mut out);
        self.children.iter().for_each(|id| id.write(&mut out));
        out
    }

    pub(super) fn len(&self) -> usize {
        size_of_val(&*self.children)
    }
}

/// Puts a list, sorted already, in blocks where it is long.
pub(super) async fn put_list<T: Item>(dag: &Dag, items: impl IntoIterator<Item = T>) -> Result<Part> {
    let mut encoded = Vec::new();
    let mut ends = Vec::new();
    for item in items {
        item.write(&mut encoded).map_err(super::internal)?;
        ends.push(encoded.len());
        if encoded.len() > LIST_TOTAL_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "attrs.update").because("a list has at most 64 MiB"));
        }
    }
    if encoded.len() <= INLINE_LEN_MAX {
        let mut inline = Vec::with_capacity(encoded.len() + 3);
        write_head(4, 2 * ends.len() as u64, &mut inline);
        inline.extend(encoded);
        return Ok(Part::Inline(inline.into()));
    }
    let mut ids = Vec::new();
    for (items, count) in cut(&encoded, &ends) {
        let mut block = Vec::with_capacity(items.len() + 16);
        write_tag(T::TAG, 2, &mut block);
        write_head(4, 2 * count, &mut block);
        block.extend_from_slice(items);
        ids.push(put(dag, block).await?);
    }
    while ids.len() > 1 {
        let mut above = Vec::new();
        for links in cut_links(&ids) {
            above.push(put(dag, ListIndex { children: links.to_vec() }.encode()).await?);
        }
        ids = above;
    }
    ids.first().map(|id| Part::Node(*id)).ok_or_else(|| super::internal("a long list has blocks"))
}

/// Cuts encoded items, which end at `ends`, into blocks: the items of each, and how many they are.
fn cut<'a>(encoded: &'a [u8], ends: &[usize]) -> Vec<(&'a [u8], u64)> {
    let mut blocks = Vec::new();
    let (mut start, mut last, mut count) = (0, 0, 0);
    let mut close = |start: usize, end: usize, count: u64| {
        blocks.extend(encoded.get(start..end).filter(|_| count > 0).map(|items| (items, count)));
    };
    for &end in ends {
        if end - start > LIST_LEN_MAX {
            close(start, last, count);
            (start, count) = (last, 0);
        }
        count += 1;
        if encoded.get(last..end).is_some_and(|item| murmur3_x64_64(item) & LIST_CUT == 0) {
            close(start, end, count);
            (start, count) = (end, 0);
        }
        last = end;
    }
    close(start, last, count);
    blocks
}

/// Cuts links into index nodes. One that has a single link leads to a shorter list above all the same.
fn cut_links(ids: &[NodeId]) -> Vec<&[NodeId]> {
    let mut left = ids;
    let mut nodes = Vec::new();
    while !left.is_empty() {
        let cut = left.iter().take(LIST_INDEX_MAX).position(|NodeId([first, ..])| first & LIST_INDEX_CUT == 0);
        // Two at least, where there are two: so that every level is shorter than the one below.
        let count = cut.map_or(LIST_INDEX_MAX, |at| (at + 1).max(2)).min(left.len());
        let (node, rest) = left.split_at(count);
        nodes.push(node);
        left = rest;
    }
    nodes
}
