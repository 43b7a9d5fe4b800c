//! Blocks of a DAG in depth-first order, all of them or those that somebody asked for: what a CAR is made of.
//!
//! ```text
//! the blocks that the path leads through, each once ‖ the block where it ends ‖ what the scope adds below that block
//! ```
//!
//! Whoever has these blocks, in whatever order, can check the path and read what is at its end, and needs no trust for
//! it. Sits above [`Dag::resolve`] and the codecs, and beside [`Dag::walk`], which has no order, and so reads several
//! blocks at once. Spec: spec/car.md #export, <https://specs.ipfs.tech/http-gateways/trustless-gateway/>.

mod order;

use std::{fmt, ops::Range, str::FromStr, sync::Arc};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

pub use self::order::EXPORT_PATH_LEN_MAX;
use self::order::{Item, Order, Want};
use super::{
    Dag, DagLease, Resolved, linked,
    resolve::Way,
    unixfs::{UnixfsType, file_size, unixfs_of},
    walk::for_each_link_of,
};
use crate::{Cid, Codec, Error, ErrorKind, Name, Result};

/// Which blocks below the end of a path are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    /// None: the block where the path ends alone.
    Block,
    /// What it takes to read a file, or to list a directory: all blocks of a file, all shards of a sharded directory and
    /// nothing of its entries, the one block of anything else.
    Entity,
    /// Everything that can be reached.
    #[default]
    All,
}

/// A part of a file, as `entity-bytes` of the gateway names it: both ends are in it, and one below zero counts from the
/// end of the file, -1 being its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntityBytes {
    /// The first byte; further before the end than the file is long it is the first of all.
    pub from: i64,
    /// The last byte; `None` for the last of the file.
    pub to: Option<i64>,
}

impl EntityBytes {
    /// The bytes of a file of `len` bytes, the end excluded and within the file.
    ///
    /// ```
    /// use muxfs::dag::EntityBytes;
    /// assert_eq!("0:*".parse::<EntityBytes>()?.range(10)?, 0..10);
    /// assert_eq!("-3:-1".parse::<EntityBytes>()?.range(10)?, 7..10);
    /// assert_eq!("2:99".parse::<EntityBytes>()?.range(10)?, 2..10);
    /// assert!("10:*".parse::<EntityBytes>()?.range(10).is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` where none of them is in the file; of an empty file every range that begins at or before 0 is
    /// the empty one.
    pub fn range(self, len: u64) -> Result<Range<u64>> {
        let place = |at: i64| match u64::try_from(at) {
            Ok(at) => Some(at),
            Err(_) => len.checked_sub(at.unsigned_abs()),
        };
        let from = place(self.from).unwrap_or(0);
        if from == 0 && len == 0 {
            return Ok(0..0);
        }
        let to = match self.to {
            None => len,
            Some(to) => place(to).map_or(0, |to| to.saturating_add(1)).min(len),
        };
        if from >= to {
            return Err(refuse(format!("the bytes {self} are not in a file of {len} bytes")));
        }
        Ok(from..to)
    }
}

/// `from:to`, as a URL has it: two whole numbers, or `*` for the second.
impl FromStr for EntityBytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why =
            || refuse(format!("{text:?} is no range of bytes: it is from:to, two whole numbers, or * for the end"));
        let number = |text: &str| {
            // `parse` would take a plus, which no URL means as one.
            let is_number = text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<i64>().ok().filter(|_| is_number).ok_or_else(why)
        };
        let (from, to) = text.split_once(':').ok_or_else(why)?;
        let (from, to) = (number(from)?, if to == "*" { None } else { Some(number(to)?) });
        // Told without the file, where both ends are counted from the same one.
        if to.is_some_and(|to| (from < 0) == (to < 0) && to < from) {
            return Err(refuse(format!("the range {text} ends before it begins")));
        }
        Ok(Self { from, to })
    }
}

impl fmt::Display for EntityBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            Some(to) => write!(f, "{}:{to}", self.from),
            None => write!(f, "{}:*", self.from),
        }
    }
}

/// What becomes of a block that the store does not have.
#[derive(Clone, Default)]
pub enum Absent {
    /// The export ends there with `NotFound`.
    #[default]
    Refused,
    /// It is left out with what only it leads to, and told of each time that it is met.
    Skipped(Arc<dyn Fn(&Cid) + Send + Sync>),
}

impl fmt::Debug for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "Refused",
            Self::Skipped(_) => "Skipped(..)",
        })
    }
}

/// How much an export gives before it ends with `TooLarge`: of a few blocks others can make as many as they like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportLimits {
    /// So many blocks, one that is given twice counted twice.
    pub block_count_max: u64,
    /// So many bytes of blocks.
    pub len_max: u64,
    /// A block may be so many links below the first.
    pub depth_max: usize,
}

impl ExportLimits {
    /// No limit but that of memory: for who knows what he exports.
    pub const NONE: Self = Self { block_count_max: u64::MAX, len_max: u64::MAX, depth_max: usize::MAX };
}

impl Default for ExportLimits {
    /// For requests of others: a million blocks, of 1 TiB together, 1024 links deep.
    fn default() -> Self {
        Self { block_count_max: 1_000_000, len_max: 1 << 40, depth_max: 1024 }
    }
}

/// What is exported, and how.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// Which blocks.
    pub scope: Scope,
    /// Of a file only the blocks that it takes to read these bytes; it makes the scope [`Scope::Entity`]. It means nothing
    /// where the path ends at something else.
    pub bytes: Option<EntityBytes>,
    /// Whether a block is given each time that it is met; else the first time only.
    pub duplicates: bool,
    /// What becomes of absent blocks.
    pub absent: Absent,
    /// Where it stops.
    pub limits: ExportLimits,
}

impl Dag {
    /// Begins to export what a path leads to: walks the path and reads the block at its end, so that what is wrong with
    /// these shows before the first byte is given.
    ///
    /// The blocks come from [`Export::blocks`], and as a CAR from [`car::stream`](crate::car::stream). Nothing of it is
    /// collected as garbage for as long as the export lives. Symlinks are not followed.
    ///
    /// Memory: some 20 MiB of blocks, at most [`EXPORT_PATH_LEN_MAX`] of links that are yet to
    /// be followed, and without `duplicates` 17 bytes and some table for each block.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{block::Mem, dag::{Dag, DagOptions, ExportOptions, UnixfsMeta}};
    /// use futures_util::TryStreamExt;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    /// let file = dag.import(&b"hello"[..], UnixfsMeta::default()).await?;
    /// let export = dag.export(&file.cid, &[], &ExportOptions::default()).await?;
    /// let blocks: Vec<_> = export.blocks().try_collect().await?;
    /// assert_eq!(blocks, [(file.cid, "hello".into())]);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Dag::resolve`]; `NotFound` and `Corrupt` for the block at the end; `InvalidArgument` for bytes that are not in
    /// the file.
    pub async fn export(&self, root: &Cid, path: &[Name], options: &ExportOptions) -> Result<Export> {
        let lease = self.lease(root);
        let mut way = Way::default();
        let end = self.resolve_noting(root, path, &mut way).await?;
        let passed = way.passed;
        let block = self.get_block(&end.cid).await?;
        let scope = if options.bytes.is_some() { Scope::Entity } else { options.scope };
        let (mut want, mut below) = (Want::Block, Vec::new());
        match scope {
            Scope::Block => {}
            Scope::Entity => want = entity(&end.cid, &block, options.bytes).map_err(|error| error.at(end.cid))?,
            Scope::All if end.within.is_empty() => {
                // What cannot be read as its codec says has no links that could be followed.
                for_each_link_of(&end.cid, &block, &mut |_| {}).map_err(|error| error.at(end.cid))?;
                want = Want::All;
            }
            Scope::All => {
                if let (Some(codec), Some(value)) = (end.cid.codec(), self.get_value(&end).await?) {
                    // Encoded, since a value does not have the order of its codec.
                    let block = linked::encode(codec, &value)?;
                    for_each_link_of(&end.cid, &block, &mut |cid| below.push(*cid))?;
                }
            }
        }
        let first = passed.iter().map(|cid| Item::new(cid, Want::Block)).chain([Item::new(&end.cid, want)]);
        let items = first.chain(below.iter().map(|cid| Item::new(cid, Want::All))).collect();
        let order = Order::new(self.clone(), options, items)?;
        Ok(Export { end, order, _lease: lease })
    }
}

/// What of a file or directory is wanted.
fn entity(cid: &Cid, block: &Bytes, bytes: Option<EntityBytes>) -> Result<Want> {
    let range = |len: u64| bytes.map(|bytes| bytes.range(len)).transpose();
    if cid.codec() == Some(Codec::Raw) {
        return range(block.len() as u64).map(|_| Want::Block);
    }
    if cid.codec() != Some(Codec::DagPb) {
        return Ok(Want::Block);
    }
    // dag-pb that is not `UnixFS` is a block like any other.
    let Ok(message) = unixfs_of(block) else { return Ok(Want::Block) };
    match message.kind {
        UnixfsType::File | UnixfsType::Raw => Ok(match range(file_size(&message)?)? {
            Some(range) => Want::Bytes(range),
            None => Want::Part,
        }),
        UnixfsType::HamtShard => Ok(Want::Shard { parent: None, level: 0 }),
        UnixfsType::Directory | UnixfsType::Symlink | UnixfsType::Metadata => Ok(Want::Block),
    }
}

fn refuse(why: impl Into<crate::BoxError>) -> Error {
    Error::new(ErrorKind::InvalidArgument, "dag.export").because(why)
}

/// An export that has begun.
#[derive(Debug)]
pub struct Export {
    end: Resolved,
    order: Order,
    _lease: DagLease,
}

impl Export {
    /// Where the path ended.
    pub fn end(&self) -> &Resolved {
        &self.end
    }

    /// The blocks, verified, in depth-first order: a block before what it links to, links in the order of their node.
    /// Blocks of identity CIDs, which hold them themselves, are not among them. Ends after the first error.
    ///
    /// # Errors
    /// Its items': `NotFound` for an absent block, `Corrupt` for one that is not what its CID or its codec says, both
    /// naming it; `TooLarge` past the limits.
    pub fn blocks(self) -> BoxStream<'static, Result<(Cid, Bytes)>> {
        stream::try_unfold(
            self,
            |mut export| async move { Ok(export.order.next().await?.map(|block| (block, export))) },
        )
        .boxed()
    }
}

#[cfg(test)]
mod tests;
