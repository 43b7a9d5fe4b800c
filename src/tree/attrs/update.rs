//! From one committed state to the next: changed inodes in, a new root out, with only the way up to it written.
//!
//! Works level by level: down, to load the index nodes on the way to what changes, then the leaves, then up again. So
//! children are put before their parents, and what is at one level is loaded and put side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Attrs, INO_END,
    inode::Inode,
    internal,
    list::{Part, put_list},
    names::Names,
    names_update,
    node::{AttrNode, NodeId, corrupt, load, put},
    radix::{INDEX_BITS, InodeIndex, InodeLeaf, LEAF_BITS, Root, height, place},
};
use crate::{
    FileKind, Name, Result,
    dag::{Dag, Link},
    rank::Rank,
    tree::inode::{Meta, NameEntry},
    vfs::{Ino, XattrName},
};

/// How many nodes are loaded, or put, at the same time.
pub(super) const PUT_COUNT: usize = 8;

/// The most data ranges of a file that are kept. One with more holes than that counts as one without: it reads the same.
pub(crate) const RANGE_COUNT_MAX: usize = 1 << 20;

/// What may stay as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change<T> {
    /// As in the base.
    Keep,
    /// This from now on.
    Set(T),
}

/// The next committed state, as what differs from the base.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    /// Inodes that are new or changed, or (`None`) gone.
    pub(crate) inodes: BTreeMap<Ino, Option<InodeChange>>,
    /// The number that the next inode gets: above all that there are, and not less than in the base.
    pub(crate) next_ino: u64,
    /// How many inodes there are then.
    pub(crate) inode_count: u64,
    /// The bytes that all files take then.
    pub(crate) used: u64,
}

/// An inode that is new or changed.
#[derive(Debug, Clone)]
pub(crate) struct InodeChange {
    /// What does not grow. Times are kept as [`time_in_range`](super::time_in_range) says.
    pub(crate) meta: Meta,
    /// The `UnixFS` node: of a file, a directory or a symlink always, of others never.
    pub(crate) content: Option<Link>,
    /// The target: of a symlink always, of others never.
    pub(crate) target: Option<Bytes>,
    /// The names it has, in any order; `None`: as in the base.
    pub(crate) parents: Option<Vec<(Ino, Name)>>,
    /// The ranges of a sparse file that are not holes, in bytes, sorted and apart, in whole units of 4 KiB; `None`
    /// within: it has no holes.
    pub(crate) data: Change<Option<Vec<Range<u64>>>>,
    /// The extended attributes; `None`: as in the base.
    pub(crate) xattrs: Option<BTreeMap<XattrName, Bytes>>,
    /// What changed among the names of a directory: by rank, the entry that is there from now on, or none.
    pub(crate) names: BTreeMap<Rank, Option<NameEntry>>,
}

/// Makes the next state and puts its blocks, children first, without a flush. What did not change is shared with the
/// base and not read. The root's CID follows from the state alone.
///
/// # Errors
/// `NotFound`, `Corrupt` where the base is; `TooLarge` for lists past 64 MiB; `Internal` for changes that no tree makes;
/// those of putting.
pub(crate) async fn update(dag: &Dag, base: Option<&Attrs>, changes: Changes) -> Result<Attrs> {
    let Changes { inodes, next_ino, inode_count, used } = changes;
    let base_root = base.map(Attrs::root);
    let base_next = base_root.map_or(1, |root| root.next_ino);
    if next_ino < base_next || next_ino > INO_END || inodes.keys().any(|ino| ino.0.get() >= next_ino) {
        return Err(internal("numbers are below the next one, which never falls"));
    }
    let base_inodes = base_root.and_then(|root| root.inodes);
    let inodes = update_inodes(dag, base_inodes.map(|id| (id, height(base_next))), inodes, height(next_ino)).await?;
    let root = Root { next_ino, inode_count, used, inodes };
    let cid = put(dag, root.encode()).await?.cid();
    Ok(Attrs { cid, root: Arc::new(AttrNode::Root(root)) })
}

/// Changes the radix tree of the base, whose height is given, and makes it `height` high.
async fn update_inodes(
    dag: &Dag,
    base: Option<(NodeId, u32)>,
    inodes: BTreeMap<Ino, Option<InodeChange>>,
    height: u32,
) -> Result<Option<NodeId>> {
    let mut by_leaf: BTreeMap<u64, Vec<(Ino, Option<InodeChange>)>> = BTreeMap::new();
    for (ino, change) in inodes {
        by_leaf.entry(ino.0.get() >> LEAF_BITS).or_default().push((ino, change));
    }
    let base_height = base.map(|(_, height)| height);
    let mut numbers: BTreeSet<u64> = by_leaf.keys().copied().collect();
    let mut touched = Vec::new();
    for level in 1..=height {
        numbers = numbers.iter().map(|number| number >> INDEX_BITS).collect();
        // A base that is lower hangs below the first node of each level above it.
        if base_height.is_some_and(|base| level > base) {
            numbers.insert(0);
        }
        touched.push((level, numbers.clone()));
    }

    // Down. `stored` has the links of the level at hand, as they are in the base.
    let link_at = |level| base.filter(|(_, height)| *height == level).map(|(id, _)| id);
    let mut levels: Vec<(u32, BTreeMap<u64, InodeIndex>)> = Vec::new();
    let stored = |levels: &[(u32, BTreeMap<u64, InodeIndex>)], level: u32, number: u64| match link_at(level) {
        Some(id) => (number == 0).then_some(id),
        None => levels.last().and_then(|(_, above)| above.get(&(number >> INDEX_BITS))?.child(number)),
    };
    for (level, numbers) in touched.into_iter().rev() {
        let ids: Vec<_> = numbers.into_iter().map(|number| (number, stored(&levels, level, number))).collect();
        let nodes = stream::iter(ids).map(|(number, id)| async move {
            let Some(id) = id else { return Ok((number, InodeIndex::default())) };
            match &*load(dag, id).await? {
                AttrNode::InodeIndex(index) => Ok((number, index.clone())),
                _ => Err(corrupt(&id.cid(), "an index of inodes is wanted here")),
            }
        });
        let nodes = nodes.buffer_unordered(PUT_COUNT).try_collect().await?;
        levels.push((level, nodes));
    }

    // The leaves.
    let leaves: Vec<_> =
        by_leaf.into_iter().map(|(number, changes)| (number, stored(&levels, 0, number), changes)).collect();
    let leaves = stream::iter(leaves).map(|(number, id, changes)| update_leaf(dag, number, id, changes));
    let mut changed: BTreeMap<u64, Option<NodeId>> = leaves.buffer_unordered(PUT_COUNT).try_collect().await?;

    // Up.
    while let Some((level, mut nodes)) = levels.pop() {
        if let Some(id) = link_at(level - 1) {
            // The root of a base that is lower: unless something below it changed, it is what it was.
            changed.entry(0).or_insert(Some(id));
        }
        for (number, child) in changed {
            nodes.entry(number >> INDEX_BITS).or_default().set(number, child);
        }
        let puts = stream::iter(nodes).map(|(number, index)| async move {
            let id = if index.is_empty() { None } else { Some(put(dag, index.encode()).await?) };
            Ok::<_, crate::Error>((number, id))
        });
        changed = puts.buffer_unordered(PUT_COUNT).try_collect().await?;
    }
    Ok(changed.get(&0).copied().unwrap_or_else(|| link_at(height)))
}

async fn update_leaf(
    dag: &Dag,
    number: u64,
    base: Option<NodeId>,
    changes: Vec<(Ino, Option<InodeChange>)>,
) -> Result<(u64, Option<NodeId>)> {
    let mut records: BTreeMap<u32, Bytes> = BTreeMap::new();
    if let Some(id) = base {
        match &*load(dag, id).await? {
            AttrNode::Inodes(leaf) if leaf.number() == number => {
                records.extend(leaf.records().map(|(place, record)| (place, record.clone())));
            }
            _ => return Err(corrupt(&id.cid(), "inodes of these numbers are wanted here")),
        }
    }
    for (ino, change) in changes {
        match change {
            None => drop(records.remove(&place(ino))),
            Some(change) => {
                let base = records.get(&place(ino)).map(|record| Inode::decode(record)).transpose();
                let record = change.encode(dag, base.map_err(internal)?).await?;
                records.insert(place(ino), record);
            }
        }
    }
    let records: Vec<_> = records.into_iter().collect();
    match InodeLeaf::encode(number, &records) {
        Some(block) => Ok((number, Some(put(dag, block).await?))),
        None => Ok((number, None)),
    }
}

impl InodeChange {
    /// Puts the parts that have blocks of their own, and gives the record.
    async fn encode(self, dag: &Dag, base: Option<Inode>) -> Result<Bytes> {
        let (parents, data, xattrs, names) = match base {
            Some(base) => (base.parents, base.data, base.xattrs, base.names),
            None => (Part::empty(), None, Part::empty(), Names::empty()),
        };
        if self.meta.kind != FileKind::Dir && !self.names.is_empty() {
            return Err(internal("only a directory has names"));
        }
        let parents = match self.parents {
            None => parents,
            Some(mut list) => {
                list.sort_unstable();
                list.dedup();
                put_list(dag, list).await?
            }
        };
        let data = match self.data {
            Change::Keep => data,
            Change::Set(Some(ranges)) if ranges.len() <= RANGE_COUNT_MAX => {
                if !ranges.windows(2).all(|two| matches!(two, [left, right] if left.end < right.start)) {
                    return Err(internal("data ranges are sorted and apart"));
                }
                Some(put_list(dag, ranges).await?)
            }
            Change::Set(_) => None,
        };
        let xattrs = match self.xattrs {
            None => xattrs,
            Some(map) => put_list(dag, map).await?,
        };
        let names = names_update::update(dag, &names, self.names).await?;
        let inode = Inode { meta: self.meta, content: self.content, target: self.target, parents, data, xattrs, names };
        inode.encode().map(Bytes::from).map_err(internal)
    }
}
