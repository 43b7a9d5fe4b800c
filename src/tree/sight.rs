//! What a tree says of a node: the newest layer that knows, and at last the committed base.
//!
//! Looks through the layers from the newest to the oldest and joins what each says. It never waits: where a block of
//! the base is needed that is not in memory, the answer is [`Halt::Missing`], and whoever asked loads it and asks
//! again.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    attrs::{self, Attrs, Inode, NodeId, Nodes},
    extent::Piece,
    inode::{Meta, NameEntry},
    layer::{Layer, Names},
    transaction::Seen,
};
use crate::{
    Error, ErrorKind, Name,
    dag::murmur3_x64_64,
    rank::Rank,
    vfs::{Ino, XattrName},
};

/// Why an attempt ended without an answer.
#[derive(Debug)]
pub(super) enum Halt {
    /// These nodes of the attribute tree are not in memory.
    Missing(Vec<NodeId>),
    /// No number is reserved that a new node could have.
    NoNumber,
    /// It is not known which state a change would change.
    Undecided,
    /// The answer is an error.
    Error(Error),
}

impl From<attrs::Halt> for Halt {
    fn from(halt: attrs::Halt) -> Self {
        match halt {
            attrs::Halt::Missing(id) => Self::Missing(vec![id]),
            attrs::Halt::Failed(error) => Self::Error(error),
        }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(super) type Try<T> = Result<T, Halt>;

/// An attempt that ends with an error of this kind.
pub(super) fn refuse<T>(kind: ErrorKind, op: &'static str) -> Try<T> {
    Err(Error::new(kind, op).into())
}

/// Where a transaction has changes of its own, they are one layer, above all others.
const OWN_COUNT: usize = 1;

/// The layers of a tree, the newest first, and the base below them. The first is what a transaction changed.
pub(super) struct Sight<'a> {
    pub(super) layers: [Option<&'a Layer>; 4],
    pub(super) base: &'a Attrs,
    pub(super) nodes: &'a mut dyn Nodes,
    /// What a transaction goes by, which is what is below its own changes.
    pub(super) seen: Option<&'a mut Seen>,
}

impl<'a> Sight<'a> {
    fn layers(&self) -> impl Iterator<Item = &'a Layer> + use<'a> {
        self.layers_from(0)
    }

    fn layers_from(&self, skipped: usize) -> impl Iterator<Item = &'a Layer> + use<'a> {
        self.layers.into_iter().skip(skipped).flatten()
    }

    /// The inode as the base has it; `None` for one that came later.
    pub(super) fn base(&mut self, ino: Ino) -> Try<Option<Arc<Inode>>> {
        if ino.0.get() < self.base.next_ino() { Ok(self.base.inode(self.nodes, ino)?) } else { Ok(None) }
    }

    /// The metadata of an inode; `None` if there never was one, or it is gone and forgotten.
    pub(super) fn meta(&mut self, ino: Ino) -> Try<Option<Meta>> {
        self.note(ino)?;
        self.meta_from(0, ino)
    }

    /// The same, without so many of the newest layers.
    fn meta_from(&mut self, skipped: usize, ino: Ino) -> Try<Option<Meta>> {
        for layer in self.layers_from(skipped) {
            if let Some(node) = layer.nodes.get(&ino) {
                return Ok(Some(node.meta));
            }
        }
        Ok(self.base(ino)?.map(|inode| inode.meta))
    }

    /// Notes that a transaction goes by an inode: whatever changes of it changes its metadata.
    fn note(&mut self, ino: Ino) -> Try<()> {
        if self.seen.is_none() {
            return Ok(());
        }
        let below = self.meta_from(OWN_COUNT, ino)?;
        Ok(self.seen.as_deref_mut().map_or(Ok(()), |seen| seen.node(ino, below))?)
    }

    /// Whether nothing of the inode is newer than the base.
    pub(super) fn is_committed(&self, ino: Ino) -> bool {
        self.layers().all(|layer| !layer.nodes.contains_key(&ino))
    }

    /// The target of a symlink.
    pub(super) fn target(&mut self, ino: Ino) -> Try<Option<Bytes>> {
        let mut targets = self.layers().filter_map(|layer| layer.nodes.get(&ino)?.target.clone());
        match targets.next() {
            Some(target) => Ok(Some(target)),
            None => Ok(self.base(ino)?.and_then(|inode| inode.target.clone())),
        }
    }

    fn names(&self, dir: Ino) -> impl Iterator<Item = &'a Names> + use<'a> {
        self.layers().filter_map(move |layer| layer.names.get(&dir))
    }

    /// The entry of that name. A transaction goes by that, and not by the rest of the directory.
    pub(super) fn entry(&mut self, dir: Ino, name: &Name) -> Try<Option<NameEntry>> {
        if self.seen.is_some() {
            let below = self.entry_from(OWN_COUNT, dir, name)?.map(|entry| (entry.rank, entry.ino));
            self.seen.as_deref_mut().map_or(Ok(()), |seen| seen.name(dir, name, below))?;
        }
        self.entry_from(0, dir, name)
    }

    fn entry_from(&mut self, skipped: usize, dir: Ino, name: &Name) -> Try<Option<NameEntry>> {
        let mut known = BTreeSet::new();
        let first = Rank::of(name.as_bytes());
        for names in self.layers_from(skipped).filter_map(|layer| layer.names.get(&dir)) {
            for (rank, entry) in names.range(first..=first.last()) {
                if !known.insert(*rank) {
                    continue;
                }
                if let Some((found, ino)) = entry
                    && found == name
                {
                    return Ok(Some(NameEntry { rank: *rank, name: name.clone(), ino: *ino }));
                }
            }
        }
        let Some(inode) = self.base(dir)? else { return Ok(None) };
        let entry = inode.entry(self.nodes, name)?;
        Ok(entry.filter(|entry| !known.contains(&entry.rank)))
    }

    /// The lowest place that is free for a new name.
    pub(super) fn free_rank(&mut self, dir: Ino, name: &Name) -> Try<Rank> {
        self.note(dir)?;
        let first = Rank::of(name.as_bytes());
        let mut taken: BTreeMap<Rank, Option<Name>> = BTreeMap::new();
        for names in self.names(dir) {
            for (rank, entry) in names.range(first..=first.last()) {
                taken.entry(*rank).or_insert_with(|| entry.as_ref().map(|(name, _)| name.clone()));
            }
        }
        if let Some(inode) = self.base(dir)? {
            for entry in inode.ranks(self.nodes, first)? {
                taken.entry(entry.rank).or_insert(Some(entry.name));
            }
        }
        // Should the directory grow, no commit could hold both: a sharded directory tells names by their hashes.
        let hash = murmur3_x64_64(name.as_bytes());
        if let Some(other) = taken.values().flatten().find(|other| murmur3_x64_64(other.as_bytes()) == hash) {
            let why = format!("its hash is that of {other}, and no directory of UnixFS has room for both");
            return Err(Error::new(ErrorKind::InvalidArgument, "tree.create").at(name).because(why).into());
        }
        let mut rank = first;
        while taken.get(&rank).is_some_and(Option::is_some) {
            let next = rank.next().ok_or_else(|| {
                Error::new(ErrorKind::NoSpace, "tree.create").because("65536 names of this directory have one hash")
            })?;
            rank = next;
        }
        Ok(rank)
    }

    /// At most `count` entries from `from` on, in order; fewer only at the end.
    pub(super) fn entries(&mut self, dir: Ino, from: Rank, count: usize) -> Try<Vec<NameEntry>> {
        self.note(dir)?;
        let inode = self.base(dir)?;
        let mut news: Vec<Peekable<_>> = self.names(dir).map(|names| names.range(from..).peekable()).collect();
        let mut found = Vec::new();
        let mut base = Page { entries: Vec::new().into_iter().peekable(), next: inode.is_some().then_some(from) };
        while found.len() < count {
            if let Some(inode) = &inode {
                base.fill(count, |from, count| Ok(inode.entries(self.nodes, from, count)?))?;
            }
            let heads = news.iter_mut().filter_map(|names| names.peek().map(|(rank, _)| **rank));
            let Some(rank) = heads.chain(base.entries.peek().map(|entry| entry.rank)).min() else { break };
            // The newest that knows of this place is right; all of them move on.
            let mut entry = base.entries.next_if(|entry| entry.rank == rank);
            for names in news.iter_mut().rev() {
                if let Some((_, newer)) = names.next_if(|(at, _)| **at == rank) {
                    entry = newer.clone().map(|(name, ino)| NameEntry { rank, name, ino });
                }
            }
            found.extend(entry);
        }
        Ok(found)
    }

    /// The directories that an inode has a name in, with the names.
    pub(super) fn parents(&mut self, ino: Ino) -> Try<BTreeSet<(Ino, Name)>> {
        self.note(ino)?;
        let mut news: BTreeMap<&(Ino, Name), bool> = BTreeMap::new();
        for layer in self.layers() {
            for (parent, there) in layer.nodes.get(&ino).into_iter().flat_map(|node| &node.parents) {
                news.entry(parent).or_insert(*there);
            }
        }
        let old = match self.base(ino)? {
            Some(inode) => inode.parents(self.nodes)?,
            None => Vec::new(),
        };
        let kept = old.into_iter().filter(|parent| !news.contains_key(parent));
        let came = news.iter().filter(|(_, there)| **there).map(|(parent, _)| (*parent).clone());
        Ok(kept.chain(came).collect())
    }

    /// The extended attributes of an inode.
    pub(super) fn xattrs(&mut self, ino: Ino) -> Try<BTreeMap<XattrName, Bytes>> {
        self.note(ino)?;
        let mut news: BTreeMap<&XattrName, &Option<Bytes>> = BTreeMap::new();
        for layer in self.layers() {
            for (name, value) in layer.nodes.get(&ino).into_iter().flat_map(|node| &node.xattrs) {
                news.entry(name).or_insert(value);
            }
        }
        let mut all = match self.base(ino)? {
            Some(inode) => inode.xattrs(self.nodes)?,
            None => BTreeMap::new(),
        };
        for (name, value) in news {
            match value {
                Some(value) => drop(all.insert(name.clone(), value.clone())),
                None => drop(all.remove(name)),
            }
        }
        Ok(all)
    }

    /// Where the bytes of `range` of a file are, ascending and without a gap.
    pub(super) fn pieces(&mut self, ino: Ino, range: Range<u64>) -> Try<Vec<(Range<u64>, Piece)>> {
        self.note(ino)?;
        let mut open = if range.is_empty() { Vec::new() } else { vec![range] };
        let mut pieces = Vec::new();
        for layer in self.layers() {
            let Some(node) = layer.nodes.get(&ino) else { continue };
            let mut still_open = Vec::new();
            for range in open {
                for (part, piece) in node.extents.parts(range) {
                    match piece {
                        Some(piece) => pieces.push((part, piece)),
                        None => still_open.push(part),
                    }
                }
            }
            open = still_open;
        }
        if !open.is_empty() {
            let base = match self.base(ino)? {
                Some(inode) => Some((inode.content, inode.meta.size, inode.data(self.nodes)?)),
                None => None,
            };
            for range in open {
                committed(&range, base.as_ref(), &mut pieces);
            }
        }
        pieces.sort_unstable_by_key(|(range, _)| range.start);
        Ok(pieces)
    }

    /// How many bytes of `range`, which begins and ends with a page, are in pages that take space.
    pub(super) fn used(&mut self, ino: Ino, range: Range<u64>) -> Try<u64> {
        let mut used = 0;
        // Behind the last page that was counted.
        let mut counted = range.start;
        for (part, _) in self.pieces(ino, range)?.into_iter().filter(|(_, piece)| piece.is_data()) {
            let pages = pages_of(&part);
            let from = pages.start.max(counted);
            used += pages.end.saturating_sub(from);
            counted = counted.max(pages.end);
        }
        Ok(used)
    }
}

/// How finely holes are told from data, in bytes.
pub(super) const PAGE_LEN: u64 = 4096;

/// The pages that `range` touches, as a range of bytes.
pub(super) fn pages_of(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return range.start..range.start;
    }
    range.start / PAGE_LEN * PAGE_LEN..range.end.div_ceil(PAGE_LEN).saturating_mul(PAGE_LEN)
}

type Committed = (Option<crate::dag::Link>, u64, Option<Vec<Range<u64>>>);

/// Adds where the base has the bytes of `range`: in the file's content, but for its holes. Behind its end there are only
/// pages that were reserved.
fn committed(range: &Range<u64>, base: Option<&Committed>, to: &mut Vec<(Range<u64>, Piece)>) {
    let Some((Some(content), size, data)) = base else {
        to.push((range.clone(), Piece::Hole));
        return;
    };
    let mut at = range.start;
    let all = 0..*size;
    let data = data.as_deref().unwrap_or(std::slice::from_ref(&all));
    let first = data.partition_point(|data| data.end <= range.start);
    for data in data.get(first..).unwrap_or_default() {
        let (from, until) = (data.start.max(at), data.end.min(range.end));
        if from >= until {
            break;
        }
        if at < from {
            to.push((at..from, Piece::Hole));
        }
        let end = until.min(*size).max(from);
        if from < end {
            to.push((from..end, Piece::Slice(content.cid, from)));
        }
        if end < until {
            to.push((end..until, Piece::Reserved));
        }
        at = until;
    }
    if at < range.end {
        to.push((at..range.end, Piece::Hole));
    }
}

/// The base's entries of a directory, read as far as they are needed.
struct Page {
    entries: Peekable<std::vec::IntoIter<NameEntry>>,
    /// Where the next ones begin, while there may be more.
    next: Option<Rank>,
}

impl Page {
    fn fill(&mut self, count: usize, read: impl FnOnce(Rank, usize) -> Try<Vec<NameEntry>>) -> Try<()> {
        if self.entries.peek().is_some() {
            return Ok(());
        }
        let Some(from) = self.next else { return Ok(()) };
        let entries = read(from, count)?;
        let last = entries.last().filter(|_| entries.len() >= count);
        self.next = last.and_then(|entry| Rank::from_bits(entry.rank.bits() + 1));
        self.entries = entries.into_iter().peekable();
        Ok(())
    }
}
