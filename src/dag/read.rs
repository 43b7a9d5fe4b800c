//! Reading files: any layout, any mix of depths, data and links in one node, raw leaves and dag-pb ones.
//!
//! A read walks from the root along the one path it needs, by `blocksizes`, and loads nothing beside it. Every size is
//! held against what is found: a leaf that is not as long as its parent says is `Corrupt`, never a shifted file. What
//! is claimed costs nothing: memory follows what was read. Spec: spec/dag.md #reading.

use std::{collections::VecDeque, ops::Range};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Dag,
    pb::PbScan,
    unixfs::{UnixfsData, UnixfsType, file_size},
};
use crate::{Cid, Codec, Error, ErrorKind, Result, block::Expected};

/// The deepest a file may be: one of 2^63 bytes has depth 5 by the default parameters; a chain is an attack.
pub const FILE_DEPTH_MAX: usize = 64;
/// The longest all nodes on the path from the root to a leaf may be, in bytes: ours take 50 KiB each; more is an attack
/// on the memory of the reader.
pub const FILE_PATH_LEN_MAX: usize = 16 << 20;
/// The most blocks that one [`Dag::read_at`] loads: 4 GiB in chunks of 8 KiB. A file of tiny leaves needs smaller reads.
pub const READ_BLOCK_COUNT_MAX: usize = 1 << 19;
/// How much of a file is fetched ahead of the reader, and in how many blocks: enough to keep several processors hashing
/// and a distant store busy.
const AHEAD_LEN_MAX: u64 = 8 << 20;
const AHEAD_COUNT_MAX: usize = 16;

impl Dag {
    /// Reads up to `len` bytes of a file from `offset` on; short only at the end of the file, empty past it. Of dag-cbor
    /// and dag-json the bytes are those of the block. One leaf is returned without a copy.
    ///
    /// # Errors
    /// `NotFound` if a needed block is absent; `Corrupt` if one fails verification or does not fit its parent; `IsDir`
    /// for a directory; `InvalidArgument` for a symlink; `TooLarge` past [`READ_BLOCK_COUNT_MAX`].
    pub async fn read_at(&self, file: &Cid, offset: u64, len: u32) -> Result<Bytes> {
        let mut pieces = Pieces::open(self.clone(), file, offset, len.into()).await.map_err(|error| error.at(file))?;
        let Some(first) = pieces.next().await.map_err(|error| error.at(file))? else { return Ok(Bytes::new()) };
        if pieces.is_done() {
            return Ok(first);
        }
        let mut all = BytesMut::from(first);
        while let Some(piece) = pieces.next().await.map_err(|error| error.at(file))? {
            if pieces.block_count > READ_BLOCK_COUNT_MAX {
                let why = "a file of so small leaves must be read in smaller parts";
                return Err(Error::new(ErrorKind::TooLarge, "dag.read_at").at(file).because(why));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Reads a file from `offset` to its end, leaf by leaf without a copy, fetching ahead. Ends after the first error.
    ///
    /// # Errors
    /// Its items', as [`Dag::read_at`].
    pub fn reader(&self, file: &Cid, offset: u64) -> BoxStream<'static, Result<Bytes>> {
        self.range_reader(file, offset..u64::MAX)
    }

    /// Reads a part of a file, of any length, leaf by leaf without a copy, fetching ahead, and nothing beyond the part's
    /// end; short only at the end of the file. Ends after the first error.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use futures_util::TryStreamExt;
    /// # use muxfs::{block::Mem, dag::{Dag, DagOptions, UnixfsMeta}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    /// let file = dag.import(&b"hello world"[..], UnixfsMeta::default()).await?;
    /// let pieces: Vec<_> = dag.range_reader(&file.cid, 6..9).try_collect().await?;
    /// assert_eq!(pieces.concat(), b"wor");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Its items', as [`Dag::read_at`].
    pub fn range_reader(&self, file: &Cid, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        let (dag, file) = (self.clone(), *file);
        let len = range.end.saturating_sub(range.start);
        let pieces = stream::once(async move { Pieces::open(dag, &file, range.start, len).await });
        let pieces =
            pieces.map(move |pieces| match pieces {
                Ok(pieces) => stream::try_unfold(pieces, |mut pieces| async move {
                    Ok(pieces.next().await?.map(|piece| (piece, pieces)))
                })
                .boxed(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            });
        pieces.flatten().map(move |piece| piece.map_err(|error: Error| error.at(file))).boxed()
    }
}

/// The content of a file in order, from one offset to another.
struct Pieces {
    dag: Dag,
    file: Cid,
    /// What is still wanted.
    range: Range<u64>,
    /// The nodes from the root to where the reading is, each with its children yet to come.
    path: Vec<Inner>,
    path_len: usize,
    /// What the root alone gave.
    first: Option<Bytes>,
    block_count: usize,
    /// How many fetches are under way, in all of `path`.
    ahead_count: usize,
}

/// A part of a file: where it lies, and its block.
#[derive(Debug, Clone)]
struct Part {
    cid: Cid,
    range: Range<u64>,
}

/// An inner node.
struct Inner {
    block_len: usize,
    /// Its links, those that are yet to be read, as they are encoded.
    links: Bytes,
    sizes: std::vec::IntoIter<u64>,
    /// Where the next child begins.
    start: u64,
    ahead: VecDeque<(Part, AbortOnDropHandle<Result<Bytes>>)>,
    /// Whether its children were leaves so far: only those are fetched ahead.
    has_leaves: bool,
}

/// What a block of a file is.
enum Content {
    Leaf(Bytes),
    Inner { data: Bytes, links: Bytes, sizes: Vec<u64> },
}

impl Content {
    /// Takes a block for what its codec says; `expected` is what the parent says of its length, at the root nothing.
    fn of(cid: &Cid, block: &Bytes, expected: Option<u64>) -> Result<(Self, u64)> {
        let corrupt = |why: &'static str| Error::new(ErrorKind::Corrupt, "dag.read").because(why);
        let (content, size) = match (cid.codec(), expected) {
            (Some(Codec::Raw), _) | (Some(Codec::DagCbor | Codec::DagJson), None) => {
                (Self::Leaf(block.clone()), block.len() as u64)
            }
            (Some(Codec::DagPb), _) => {
                let scan = PbScan::new(block)?;
                let data = scan.data.ok_or_else(|| corrupt("a dag-pb node without Data"))?;
                let message = UnixfsData::decode(&block.slice_ref(data))?;
                match (message.kind, expected) {
                    (UnixfsType::File | UnixfsType::Raw, _) => {}
                    (UnixfsType::Directory | UnixfsType::HamtShard, None) => {
                        return Err(Error::new(ErrorKind::IsDir, "dag.read"));
                    }
                    (UnixfsType::Symlink, None) => {
                        return Err(Error::new(ErrorKind::InvalidArgument, "dag.read").because("a symlink"));
                    }
                    _ => return Err(corrupt("a part of a file is no file")),
                }
                let size = file_size(&message)?;
                let links = block.slice_ref(scan.links);
                if scan.clone().count() != message.blocksizes.len() {
                    return Err(corrupt("links and blocksizes differ in number"));
                }
                if links.is_empty() {
                    (Self::Leaf(message.data), size)
                } else {
                    (Self::Inner { data: message.data, links, sizes: message.blocksizes }, size)
                }
            }
            (Some(_), Some(_)) => return Err(corrupt("a part of a file is linked data")),
            (None, _) => return Err(Error::new(ErrorKind::Unsupported, "dag.read").because("an unknown codec")),
        };
        match expected {
            Some(expected) if expected != size => Err(corrupt("a part of a file is not as long as its parent says")),
            _ => Ok((content, size)),
        }
    }
}

impl Pieces {
    async fn open(dag: Dag, file: &Cid, offset: u64, len: u64) -> Result<Self> {
        dag.expect_elsewhere(&Expected::File { file, range: offset..offset.saturating_add(len) });
        let block = dag.get_block(file).await?;
        let (content, size) = Content::of(file, &block, None)?;
        let end = offset.saturating_add(len).min(size);
        let (range, file) = (offset.min(end)..end, *file);
        let mut pieces =
            Self { dag, file, range, path: Vec::new(), path_len: 0, first: None, block_count: 1, ahead_count: 0 };
        pieces.first = pieces.enter(&(0..size), content, (&file, &block))?;
        Ok(pieces)
    }

    fn is_done(&self) -> bool {
        self.range.is_empty()
    }

    /// The next bytes, never none; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while !self.range.is_empty() {
            let Some((part, block)) = self.part().await? else {
                // Sizes add up, so the children reach to the end of their node.
                return Err(Error::new(ErrorKind::Internal, "dag.read").because("a file ended before its size"));
            };
            self.block_count += 1;
            let (content, _) = Content::of(&part.cid, &block, Some(part.range.end - part.range.start))?;
            if let Some(piece) = self.enter(&part.range, content, (&part.cid, &block))? {
                return Ok(Some(piece));
            }
        }
        self.path.clear();
        Ok(None)
    }

    /// Takes a node whose content lies at `at`: its wanted bytes, if there are any, and its children for later.
    fn enter(&mut self, at: &Range<u64>, content: Content, (cid, block): (&Cid, &Bytes)) -> Result<Option<Bytes>> {
        let data = match content {
            Content::Leaf(data) => {
                if let Some(parent) = self.path.last_mut() {
                    parent.has_leaves = true;
                }
                data
            }
            Content::Inner { data, links, sizes } => {
                let block_len = block.len();
                self.path_len += block_len;
                if self.path.len() >= FILE_DEPTH_MAX || self.path_len > FILE_PATH_LEN_MAX {
                    return Err(Error::new(ErrorKind::Corrupt, "dag.read").because("a file deeper than files are"));
                }
                let (file, offset) = (&self.file, at.start);
                self.dag.expect_elsewhere(&Expected::Node { file, node: cid, block, offset });
                let start = at.start.saturating_add(data.len() as u64);
                let (sizes, ahead) = (sizes.into_iter(), VecDeque::new());
                self.path.push(Inner { block_len, links, sizes, start, ahead, has_leaves: false });
                data
            }
        };
        Ok(self.cut(at.start, &data))
    }

    /// The wanted part of bytes that lie at `start`; they are wanted no more.
    fn cut(&mut self, start: u64, data: &Bytes) -> Option<Bytes> {
        let within = |offset: u64| {
            usize::try_from(offset.saturating_sub(start)).map_or(data.len(), |offset| offset.min(data.len()))
        };
        let (from, to) = (within(self.range.start), within(self.range.end));
        if from >= to {
            return None;
        }
        self.range.start += (to - from) as u64;
        Some(data.slice(from..to))
    }

    /// The next part that holds wanted bytes, loaded; `None` when there is none.
    async fn part(&mut self) -> Result<Option<(Part, Bytes)>> {
        while let Some(inner) = self.path.last_mut() {
            let fetched = inner.ahead.pop_front();
            let part = match fetched {
                Some((part, fetch)) => Some((part, Some(fetch))),
                None => inner.child(&self.range)?.map(|part| (part, None)),
            };
            let Some((part, fetch)) = part else {
                self.path_len -= inner.block_len;
                self.path.pop();
                continue;
            };
            if fetch.is_some() {
                self.ahead_count -= 1;
            }
            self.fetch_ahead(&part)?;
            let block = match fetch {
                Some(fetch) => {
                    fetch.await.map_err(|error| Error::new(ErrorKind::Internal, "dag.read").because(error))??
                }
                None => self.dag.get_block(&part.cid).await?,
            };
            return Ok(Some((part, block)));
        }
        Ok(None)
    }

    /// Starts to fetch what follows `part` in its node.
    fn fetch_ahead(&mut self, part: &Part) -> Result<()> {
        let Some(inner) = self.path.last_mut() else { return Ok(()) };
        if !inner.has_leaves && part.cid.codec() != Some(Codec::Raw) {
            return Ok(());
        }
        while self.ahead_count < AHEAD_COUNT_MAX
            && inner.start < self.range.end.min(part.range.end.saturating_add(AHEAD_LEN_MAX))
        {
            let Some(next) = inner.child(&self.range)? else { break };
            let (dag, cid) = (self.dag.clone(), next.cid);
            let fetch = tokio::spawn(async move { dag.get_block(&cid).await });
            inner.ahead.push_back((next, AbortOnDropHandle::new(fetch)));
            self.ahead_count += 1;
        }
        Ok(())
    }
}

impl Inner {
    /// The next child that holds bytes of `wanted`.
    fn child(&mut self, wanted: &Range<u64>) -> Result<Option<Part>> {
        let mut scan = PbScan { links: &self.links, data: None };
        let mut found = None;
        while self.start < wanted.end
            && let (Some(size), Some(link)) = (self.sizes.next(), scan.next())
        {
            let range = self.start..self.start.saturating_add(size);
            self.start = range.end;
            if size > 0 && range.end > wanted.start {
                found = Some(Part { cid: link?.cid()?, range });
                break;
            }
            link?;
        }
        self.links = self.links.slice_ref(scan.links);
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
