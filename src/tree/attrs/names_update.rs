//! Changes to the names of a directory: only the leaves that are touched and the index nodes above them are written.
//!
//! What is touched is taken apart into entries; on the way back up, parts that are too long for a leaf are halved, and
//! halves that fit in one leaf are put together, also with neighbours that were not touched. That restores the one shape
//! that these names have.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};

use super::{
    INLINE_LEN_MAX, internal,
    names::{
        Child, DEPTH_MAX, Entries, INDEX_BITS, LEAF_LEN_MAX, NameIndex, NameLeaf, Names, SLOT_COUNT, encode_entry,
        place, slot, slot_count,
    },
    node::{AttrNode, NodeId, corrupt, load, put},
    update::PUT_COUNT,
};
use crate::{
    Result,
    dag::{Dag, cbor::Reader},
    rank::Rank,
    tree::inode::NameEntry,
};

/// A change: the rank, and what is there from now on.
type Edit = (Rank, Option<Bytes>);

/// A part of the trie on its way.
enum Part {
    /// As it is stored.
    Stored(Child),
    /// Taken apart, or new. Not necessarily short enough for a leaf.
    Entries(Entries),
}

impl Part {
    fn len(&self) -> Option<usize> {
        match self {
            Self::Stored(child) => child.len(),
            Self::Entries(entries) => Some(entries.len()),
        }
    }
}

/// Makes `changes` to the names of a directory and puts the blocks that this takes.
pub(super) async fn update(dag: &Dag, base: &Names, changes: BTreeMap<Rank, Option<NameEntry>>) -> Result<Names> {
    if changes.is_empty() {
        return Ok(base.clone());
    }
    let mut edits: Vec<Edit> = Vec::with_capacity(changes.len());
    for (rank, entry) in changes {
        if entry.as_ref().is_some_and(|entry| entry.rank != rank) {
            return Err(internal("an entry goes by its rank"));
        }
        let encoded = entry.as_ref().map(encode_entry).transpose().map_err(internal)?;
        edits.push((rank, encoded.map(Bytes::from)));
    }
    let root = match base {
        Names::Inline(encoded) => Part::Entries(Entries::read(&mut Reader::new(encoded), encoded).map_err(internal)?),
        Names::Node(id) => match &*load(dag, *id).await? {
            AttrNode::Names(leaf) => Part::Entries(leaf.entries.clone()),
            AttrNode::NameIndex(_) => Part::Stored(Child::Index(*id)),
            _ => return Err(corrupt(&id.cid(), "names are wanted here")),
        },
    };
    match edit(dag, root, 0, &edits).await? {
        Part::Entries(entries) if entries.len() <= INLINE_LEN_MAX => {
            let mut out = Vec::with_capacity(entries.len() + 3);
            entries.write(&mut out);
            Ok(Names::Inline(out.into()))
        }
        Part::Entries(entries) => Ok(Names::Node(put(dag, NameLeaf::encode(&entries)).await?)),
        Part::Stored(Child::Index(id)) => Ok(Names::Node(id)),
        Part::Stored(_) => Err(internal("a leaf that was touched is taken apart")),
    }
}

/// Makes edits to a part. It comes back as entries that fit in a leaf, or as an index node.
fn edit<'a>(dag: &'a Dag, part: Part, depth: u32, edits: &'a [Edit]) -> BoxFuture<'a, Result<Part>> {
    async move {
        let Part::Stored(Child::Index(id)) = part else {
            let entries = merge(entries(dag, part).await?, edits);
            return if entries.len() <= LEAF_LEN_MAX {
                Ok(Part::Entries(entries))
            } else {
                assemble(dag, depth, vec![(0, Part::Entries(entries))]).await
            };
        };
        let node = load(dag, id).await?;
        let AttrNode::NameIndex(index) = &*node else {
            return Err(corrupt(&id.cid(), "an index of names is wanted here"));
        };
        if depth > DEPTH_MAX {
            return Err(corrupt(&id.cid(), "no index of names is as deep"));
        }
        let mut parts = Vec::with_capacity(index.children.len());
        let (mut left, mut start) = (edits, 0);
        for (bits, child) in &index.children {
            let end = start + slot_count(*bits);
            let (here, behind) =
                left.split_at(left.partition_point(|(rank, _)| end == SLOT_COUNT || slot(place(*rank), depth) < end));
            let part = Part::Stored(*child);
            let part = match child {
                _ if here.is_empty() => part,
                Child::Index(_) => edit(dag, part, depth + INDEX_BITS, here).await?,
                Child::Empty | Child::Leaf(..) => Part::Entries(merge(entries(dag, part).await?, here)),
            };
            parts.push((*bits, part));
            (left, start) = (behind, end);
        }
        assemble(dag, depth, parts).await
    }
    .boxed()
}

/// Takes a leaf apart.
async fn entries(dag: &Dag, part: Part) -> Result<Entries> {
    let (id, len) = match part {
        Part::Entries(entries) => return Ok(entries),
        Part::Stored(Child::Empty) => return Ok(Entries::default()),
        Part::Stored(Child::Leaf(id, len)) => (id, len),
        Part::Stored(Child::Index(_)) => return Err(internal("an index node is no leaf")),
    };
    match &*load(dag, id).await? {
        AttrNode::Names(leaf) if leaf.entries.len() == len => Ok(leaf.entries.clone()),
        _ => Err(corrupt(&id.cid(), "a leaf of names as long as its index node says is wanted here")),
    }
}

fn merge(entries: Entries, edits: &[Edit]) -> Entries {
    let mut base = entries.into_list().into_iter().peekable();
    let mut merged = Entries::default();
    for (rank, encoded) in edits {
        while let Some((at, before)) = base.next_if(|(at, _)| at <= rank) {
            if at < *rank {
                merged.push(at, before);
            }
        }
        if let Some(encoded) = encoded {
            merged.push(*rank, encoded.clone());
        }
    }
    base.for_each(|(at, before)| merged.push(at, before));
    merged
}

/// Gives the parts of an index node their one shape: entries that fit in a leaf, or an index node, which is put.
fn assemble(dag: &Dag, depth: u32, parts: Vec<(u32, Part)>) -> BoxFuture<'_, Result<Part>> {
    async move {
        let mut whole: Vec<(u32, Part)> = Vec::new();
        // Behind the slots of what is in `whole`.
        let mut end = 0;
        for (mut bits, mut part) in halve(dag, depth, parts).await? {
            end += slot_count(bits);
            // A second half joins the first where both fit in one leaf.
            while end.is_multiple_of(2 * slot_count(bits))
                && let Some((_, left)) = whole.pop_if(|(left_bits, left)| *left_bits == bits && fits(left, &part))
            {
                let (left, right) = (entries(dag, left).await?, entries(dag, part).await?);
                part = Part::Entries(left.into_list().into_iter().chain(right.into_list()).collect());
                bits -= 1;
            }
            whole.push((bits, part));
        }
        if let [(0, _)] = &*whole
            && let Some((_, part)) = whole.pop()
        {
            return Ok(Part::Entries(entries(dag, part).await?));
        }
        let children = stream::iter(whole).map(|(bits, part)| async move {
            let child = match part {
                Part::Stored(child) => child,
                Part::Entries(entries) if entries.is_empty() => Child::Empty,
                Part::Entries(entries) => Child::Leaf(put(dag, NameLeaf::encode(&entries)).await?, entries.len()),
            };
            Ok::<_, crate::Error>((bits, child))
        });
        let children = children.buffered(PUT_COUNT).try_collect().await?;
        let id: NodeId = put(dag, NameIndex { children }.encode()).await?;
        Ok(Part::Stored(Child::Index(id)))
    }
    .boxed()
}

fn fits(left: &Part, right: &Part) -> bool {
    left.len().zip(right.len()).is_some_and(|(left, right)| left + right <= LEAF_LEN_MAX)
}

/// Halves what is too long for a leaf, and makes index nodes of what is too long even at the lowest depth.
async fn halve(dag: &Dag, depth: u32, parts: Vec<(u32, Part)>) -> Result<Vec<(u32, Part)>> {
    let mut done = Vec::new();
    let mut left: Vec<(u32, Part)> = parts.into_iter().rev().collect();
    // The first slot of what is at the end of `left`.
    let mut start = 0;
    while let Some((bits, part)) = left.pop() {
        match part {
            Part::Entries(entries) if entries.len() > LEAF_LEN_MAX && bits < INDEX_BITS => {
                let middle = start + slot_count(bits + 1);
                let mut low = entries.into_list();
                let high = low.split_off(low.partition_point(|(rank, _)| slot(place(*rank), depth) < middle));
                left.push((bits + 1, Part::Entries(high.into_iter().collect())));
                left.push((bits + 1, Part::Entries(low.into_iter().collect())));
            }
            Part::Entries(entries) if entries.len() > LEAF_LEN_MAX => {
                // Ranks differ, so at the greatest depth there is one name for each slot, and that fits.
                done.push((bits, assemble(dag, depth + INDEX_BITS, vec![(0, Part::Entries(entries))]).await?));
                start += slot_count(bits);
            }
            part => {
                done.push((bits, part));
                start += slot_count(bits);
            }
        }
    }
    Ok(done)
}
