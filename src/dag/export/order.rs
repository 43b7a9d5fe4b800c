//! The depth-first walk itself: a stack of links that are yet to be followed.
//!
//! Nothing here recurses. What a block leads to is put down as a frame of links; a frame that is used up is gone before
//! the next is put on it, so that a long chain costs no more than a short one. Without duplicates a block that was followed
//! is not followed again, so that 2^200 paths over 200 blocks are 200 blocks.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    fmt,
    ops::Range,
};

use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use super::{Absent, ExportLimits, ExportOptions};
use crate::{
    Cid, Codec, Error, ErrorKind, Result,
    dag::{
        Dag,
        hamt::{Fanout, Shard},
        pb::PbScan,
        unixfs::{UnixfsData, UnixfsType, file_size},
        walk::for_each_link_of,
    },
};

/// The most that the links which are yet to be followed may take in memory, in bytes: those of 300 directories of the
/// largest kind, one in the other.
pub const EXPORT_PATH_LEN_MAX: usize = 64 << 20;
/// So many leaves are read ahead: of the longest 16 MiB.
const AHEAD_COUNT_MAX: usize = 8;

/// What below a block is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    /// Nothing.
    Block,
    /// Everything.
    All,
    /// All parts of a file.
    Part,
    /// Those parts of a file which these bytes of it are in, counted from the beginning of this part.
    Bytes(Range<u64>),
    /// The shards below a shard of a directory.
    Shard {
        /// The fanout of the shard above, if there is one.
        parent: Option<Fanout>,
        /// How many shards are above.
        level: u32,
    },
}

/// A link that is yet to be followed.
pub(super) struct Item {
    cid: Box<[u8]>,
    want: Want,
    fetch: Option<AbortOnDropHandle<Result<Bytes>>>,
}

impl Item {
    pub(super) fn new(cid: &Cid, want: Want) -> Self {
        Self { cid: cid.to_bytes().into(), want, fetch: None }
    }

    fn cid(&self) -> Result<Cid> {
        Cid::from_bytes(&self.cid)
    }

    fn len(&self) -> usize {
        size_of::<Self>() + self.cid.len()
    }
}

/// The links of one block.
struct Frame {
    items: VecDeque<Item>,
    /// What they take in memory, in bytes.
    len: usize,
    /// How many links they are below the first block.
    depth: usize,
    /// Whether the last of them that was followed led to nothing: then the next is likely to be a leaf too.
    has_leaves: bool,
}

/// What is known of a block that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    /// It was given.
    Given,
    /// So was everything that is wanted below it.
    Followed,
}

pub(super) struct Order {
    dag: Dag,
    absent: Absent,
    /// What is left of them.
    limits: ExportLimits,
    /// By a hash of the CID; `None` where duplicates are wanted.
    met: Option<HashMap<[u8; 16], Met>>,
    stack: Vec<Frame>,
    stack_len: usize,
}

impl Order {
    pub(super) fn new(dag: Dag, options: &ExportOptions, items: VecDeque<Item>) -> Result<Self> {
        let met = (!options.duplicates).then(HashMap::new);
        let (absent, limits) = (options.absent.clone(), options.limits);
        let mut order = Self { dag, absent, limits, met, stack: Vec::new(), stack_len: 0 };
        order.push(items, 0)?;
        Ok(order)
    }

    /// The next block; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<(Cid, Bytes)>> {
        while let Some((item, depth)) = self.take() {
            let cid = item.cid()?;
            let is_whole = !matches!(item.want, Want::Block | Want::Bytes(_));
            let (is_given, is_followed) = self.meet(&item.cid, is_whole);
            if is_given && is_followed {
                continue;
            }
            let Some(block) = self.block(&cid, item.fetch).await? else { continue };
            let links = if is_followed { VecDeque::new() } else { links_of(&cid, &block, item.want)? };
            if let Some(frame) = self.stack.last_mut() {
                frame.has_leaves = links.is_empty();
            }
            self.push(links, depth + 1).map_err(|error| error.at(cid))?;
            if is_given || cid.identity().is_some() {
                continue;
            }
            self.count(&block).map_err(|error| error.at(cid))?;
            return Ok(Some((cid, block)));
        }
        Ok(None)
    }

    /// The next link, and how deep it is. Where it leads to a leaf, those behind it are read ahead.
    fn take(&mut self) -> Option<(Item, usize)> {
        loop {
            let Self { dag, met, stack, stack_len, .. } = self;
            let frame = stack.last_mut()?;
            let Some(item) = frame.items.pop_front() else {
                *stack_len -= frame.len;
                stack.pop();
                continue;
            };
            if frame.has_leaves || is_raw(&item) {
                for next in frame.items.iter_mut().take(AHEAD_COUNT_MAX) {
                    if !frame.has_leaves && !is_raw(next) {
                        break;
                    }
                    let is_met = met.as_ref().is_some_and(|met| met.contains_key(&print(&next.cid)));
                    if next.fetch.is_none()
                        && !is_met
                        && let Ok(cid) = next.cid()
                    {
                        let dag = dag.clone();
                        let fetch = tokio::spawn(async move { dag.get_block_once(&cid).await });
                        next.fetch = Some(AbortOnDropHandle::new(fetch));
                    }
                }
            }
            return Some((item, frame.depth));
        }
    }

    /// Whether a block was given before, and whether nothing below it has to be followed any more.
    fn meet(&mut self, cid: &[u8], is_whole: bool) -> (bool, bool) {
        let Some(met) = &mut self.met else { return (false, false) };
        let now = if is_whole { Met::Followed } else { Met::Given };
        match met.entry(print(cid)) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(now);
                (false, false)
            }
            hash_map::Entry::Occupied(mut entry) => {
                let before = *entry.get();
                if is_whole {
                    entry.insert(now);
                }
                (true, before == Met::Followed)
            }
        }
    }

    /// The block of a link; `None` where it is absent and may be.
    async fn block(&self, cid: &Cid, fetch: Option<AbortOnDropHandle<Result<Bytes>>>) -> Result<Option<Bytes>> {
        if let Some(content) = cid.identity() {
            return Ok(Some(Bytes::copy_from_slice(content)));
        }
        let block = match fetch {
            Some(fetch) => fetch.await.map_err(|error| Error::new(ErrorKind::Internal, "dag.export").because(error))?,
            None => self.dag.get_block_once(cid).await,
        };
        match (block, &self.absent) {
            (Err(error), Absent::Skipped(tell)) if error.kind() == ErrorKind::NotFound => {
                tell(cid);
                Ok(None)
            }
            (block, _) => block.map(Some),
        }
    }

    fn push(&mut self, items: VecDeque<Item>, depth: usize) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        while let Some(frame) = self.stack.pop_if(|frame| frame.items.is_empty()) {
            self.stack_len -= frame.len;
        }
        let len = items.iter().map(Item::len).sum();
        self.stack_len += len;
        if depth > self.limits.depth_max {
            return Err(too_large(format!("the DAG is more than {} links deep", self.limits.depth_max)));
        }
        if self.stack_len > EXPORT_PATH_LEN_MAX {
            return Err(too_large("the links that are yet to be followed take too much memory"));
        }
        self.stack.push(Frame { items, len, depth, has_leaves: false });
        Ok(())
    }

    /// Counts a block that is given.
    fn count(&mut self, block: &Bytes) -> Result<()> {
        let ExportLimits { block_count_max, len_max, .. } = &mut self.limits;
        *block_count_max = block_count_max.checked_sub(1).ok_or_else(|| too_large("too many blocks"))?;
        *len_max = len_max.checked_sub(block.len() as u64).ok_or_else(|| too_large("too many bytes"))?;
        Ok(())
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({} frames, {} bytes of links)", self.stack.len(), self.stack_len)
    }
}

/// What a CID is remembered by. Two share it when somebody has spent what forging a short digest costs, to have a block
/// of his own left out.
fn print(cid: &[u8]) -> [u8; 16] {
    let mut print = [0; 16];
    blake3::Hasher::new().update(cid).finalize_xof().fill(&mut print);
    print
}

fn is_raw(item: &Item) -> bool {
    item.cid().is_ok_and(|cid| cid.codec() == Some(Codec::Raw) && cid.identity().is_none())
}

fn too_large(why: impl Into<crate::BoxError>) -> Error {
    Error::new(ErrorKind::TooLarge, "dag.export").because(why)
}

fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "dag.export").because(why)
}

/// The links of a block that are wanted, in the order of the node. One to plain bytes that its CID holds itself leads to
/// nothing that is given, and is left out.
fn links_of(cid: &Cid, block: &Bytes, want: Want) -> Result<VecDeque<Item>> {
    let mut items = VecDeque::new();
    let mut found = |link: &Cid, want: Want| {
        if link.identity().is_none() || link.codec() != Some(Codec::Raw) {
            items.push_back(Item::new(link, want));
        }
    };
    let done = match want {
        Want::Block => Ok(()),
        Want::All => for_each_link_of(cid, block, &mut |link| found(link, Want::All)),
        Want::Part => parts(cid, block, None, &mut found),
        Want::Bytes(bytes) => parts(cid, block, Some(bytes), &mut found),
        Want::Shard { parent, level } => shards(cid, block, parent, level, &mut found),
    };
    done.map_err(|error| error.at(cid))?;
    Ok(items)
}

/// The parts of a file.
fn parts(cid: &Cid, block: &Bytes, bytes: Option<Range<u64>>, found: &mut impl FnMut(&Cid, Want)) -> Result<()> {
    match cid.codec() {
        Some(Codec::Raw) => return Ok(()),
        Some(Codec::DagPb) => {}
        _ => return Err(corrupt("a part of a file is linked data")),
    }
    let scan = PbScan::new(block)?;
    let data = scan.data.ok_or_else(|| corrupt("a dag-pb node without Data"))?;
    let message = UnixfsData::decode(&block.slice_ref(data))?;
    if !matches!(message.kind, UnixfsType::File | UnixfsType::Raw) {
        return Err(corrupt("a part of a file is no file"));
    }
    let Some(bytes) = bytes else {
        for link in scan {
            found(&link?.cid()?, Want::Part);
        }
        return Ok(());
    };
    // Sizes are a claim of this node; whoever reads by them finds out with the parts that he gets here.
    file_size(&message)?;
    if scan.clone().count() != message.blocksizes.len() {
        return Err(corrupt("links and blocksizes differ in number"));
    }
    let mut start = message.data.len() as u64;
    for (link, size) in scan.zip(&message.blocksizes) {
        let end = start.saturating_add(*size);
        let within = bytes.start.max(start)..bytes.end.min(end);
        if within.start < within.end {
            let whole = within.start == start && within.end == end;
            let want = if whole { Want::Part } else { Want::Bytes(within.start - start..within.end - start) };
            found(&link?.cid()?, want);
        }
        start = end;
    }
    Ok(())
}

/// The shards below a shard.
fn shards(
    cid: &Cid,
    block: &Bytes,
    parent: Option<Fanout>,
    level: u32,
    found: &mut impl FnMut(&Cid, Want),
) -> Result<()> {
    if cid.codec() != Some(Codec::DagPb) {
        return Err(corrupt("a part of a sharded directory is not dag-pb"));
    }
    let shard = Shard::decode(block, parent)?;
    if shard.fanout.path(0, level).is_none() {
        return Err(corrupt("a sharded directory deeper than its hash"));
    }
    for link in shard.links.iter().filter(|link| link.name.is_empty()) {
        found(&link.raw.cid()?, Want::Shard { parent: Some(shard.fanout), level: level + 1 });
    }
    Ok(())
}
