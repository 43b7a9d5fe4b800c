//! Splice: a file with some bytes changed, cut or grown, without touching the rest of it.
//!
//! In a balanced file of known parameters every offset tells which node is where. So the new file is put together from
//! the left out of whole subtrees of the old one, new leaves where a patch falls, and shared subtrees of zeros for holes;
//! what is above a changed leaf is made anew, nothing else is read or put. Where the old file turns out not to have the
//! shape that import would give it, that part of it is read and chunked again. Spec: spec/dag.md #splicing.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{BoxStream, Fuse},
};

use super::{
    Dag, Layout, Link, Params, Patch, UnixfsMeta,
    chunk::LeafForm,
    import::{HASH_AT_ONCE_LEN_MAX, on_thread},
    layout::{FileBuilder, FileLink},
    pb::PbNode,
    unixfs::{UnixfsData, UnixfsType, file_size},
};
use crate::{Cid, Codec, Error, ErrorKind, Result, cid::SHA2_256};

/// The longest file that is written, in bytes: what a signed offset of POSIX can reach.
pub const FILE_LEN_MAX: u64 = i64::MAX as u64;

/// How much of a base is chunked again at most, in bytes, where its nodes are of no use. A few blocks can claim to be a
/// file of any length; one of this length takes an hour.
pub const RECHUNK_LEN_MAX: u64 = 1 << 40;

impl Dag {
    /// Puts `base` with `patches`, ascending and apart, and cut or grown to `size`; what is new and not patched is
    /// zeros, and what of a patch lies past `size` is dropped. Metadata in the root of `base` stays.
    ///
    /// Equal to importing the result: the same CID. Puts only changed leaves and what is above them, and reads only
    /// those and the way to the first leaf, if that has the shape that the parameters give; else `base` is read and
    /// chunked again. (Of a base that is made of parts by different parameters, what is not touched stays as it is: the
    /// bytes are right, the CID is not the import's.) Repeatable.
    ///
    /// # Errors
    /// `InvalidArgument` for patches that overlap or descend, or a chunk that is not aligned; `TooLarge` past
    /// [`FILE_LEN_MAX`], and where more than [`RECHUNK_LEN_MAX`] of `base` would have to be chunked again; `NotFound` if `base` or a needed leaf is absent; `Corrupt` if one fails verification; `IsDir`
    /// for a directory; the first error of the stream.
    pub async fn splice(&self, base: &Cid, patches: BoxStream<'_, Result<Patch>>, size: u64) -> Result<Link> {
        self.params().check_file()?;
        let _session = self.begin_write();
        if size > FILE_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "dag.splice").because("a file is below 2^63 bytes"));
        }
        let old = self.old_file(base).await.map_err(|error| error.at(base))?;
        let patches =
            Patches { stream: patches.fuse(), ahead: VecDeque::new(), end: 0, chunk_len: self.params().chunk_len };
        let builder = FileBuilder::new(self.params());
        let mut splice =
            Splice { dag: self, base: *base, old, size, patches, builder, zeros: Vec::new(), rechunked: 0 };
        splice.run().await?;
        let Splice { builder, old, .. } = splice;
        if size == 0 {
            return self.import(&b""[..], old.meta).await;
        }
        Ok(builder.finish(self, old.meta).await?.into())
    }

    /// What the root of a file says.
    async fn old_file(&self, cid: &Cid) -> Result<Old> {
        let block = self.get_block(cid).await?;
        let size = block.len() as u64;
        let whole = FileLink { cid: *cid, tsize: size, size };
        let old = match cid.codec() {
            Some(Codec::DagPb) => {
                let node = PbNode::decode(&block)?;
                let message = UnixfsData::decode(&node.data.unwrap_or_default())?;
                match message.kind {
                    UnixfsType::File | UnixfsType::Raw => {}
                    UnixfsType::Directory | UnixfsType::HamtShard => {
                        return Err(Error::new(ErrorKind::IsDir, "dag.splice"));
                    }
                    _ => return Err(Error::new(ErrorKind::InvalidArgument, "dag.splice").because("no file")),
                }
                let below = node.links.iter().map(|link| link.tsize.unwrap_or(0));
                let tsize = below.fold(size, u64::saturating_add);
                let is_leaf = node.links.is_empty() && message.kind == UnixfsType::File;
                let root = FileLink { tsize, size: file_size(&message)?, ..whole };
                Old { root, meta: message.meta(), is_leaf }
            }
            Some(_) => Old { root: whole, meta: UnixfsMeta::default(), is_leaf: true },
            None => return Err(Error::new(ErrorKind::Unsupported, "dag.splice").because("an unknown codec")),
        };
        Ok(old)
    }
}

/// The file before.
struct Old {
    root: FileLink,
    meta: UnixfsMeta,
    /// Whether the root is all of it.
    is_leaf: bool,
}

/// A splice under way; all before the next chunk is in the builder.
struct Splice<'a> {
    dag: &'a Dag,
    base: Cid,
    old: Old,
    size: u64,
    patches: Patches<'a>,
    builder: FileBuilder,
    /// A full subtree of zeros for each height, as far as they were needed.
    zeros: Vec<FileLink>,
    /// How much of the old file was chunked again.
    rechunked: u64,
}

impl Splice<'_> {
    fn params(&self) -> &Params {
        self.dag.params()
    }

    /// How much a full subtree of this height holds.
    fn span(&self, height: usize) -> u64 {
        let params = self.params();
        (0..height).fold(params.chunk_len.into(), |span: u64, _| span.saturating_mul(params.width.into()))
    }

    /// Whether the new file is one leaf.
    fn is_whole(&self) -> bool {
        self.size <= self.params().chunk_len.into()
    }

    async fn run(&mut self) -> Result<()> {
        let root = self.old.root;
        let mut height = 0;
        while self.span(height) < root.size {
            height += 1;
        }
        if self.is_balanced(root, height).await? {
            self.old_tree(root, 0, height).await?;
        } else {
            self.old_bytes(0..root.size).await?;
        }
        let step = u64::from(self.params().chunk_len);
        self.zeros_from(root.size.min(self.size).div_ceil(step) * step).await
    }

    /// Whether the old file is laid out as these parameters do it, as far as the way to its first leaf tells: for a file
    /// that was made by any one set of parameters that is all of it.
    async fn is_balanced(&mut self, root: FileLink, height: usize) -> Result<bool> {
        if root.size == 0 || self.params().layout != Layout::Balanced || (height == 0 && !self.old.is_leaf) {
            return Ok(false);
        }
        let mut first = root;
        for height in (1..=height).rev() {
            match self.parts(&first, height).await?.as_deref() {
                Some([part, ..]) => first = *part,
                _ => return Ok(false),
            }
        }
        if height == 0 || first.cid.codec() == Some(Codec::Raw) {
            return Ok(true);
        }
        Ok(self.dag.old_file(&first.cid).await?.is_leaf)
    }

    /// Takes over a part of the old file that begins at `start`, as far as it is to stay.
    fn old_tree(&mut self, tree: FileLink, start: u64, height: usize) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let at = start..start.saturating_add(tree.size);
            if at.start >= self.size {
                return Ok(());
            }
            let is_full = tree.size == self.span(height);
            // Metadata is in a root only: in the old one, which is none of the new file's, and in a lone leaf.
            let has_meta = self.old.meta != UnixfsMeta::default();
            let meta_differs = has_meta && (tree.cid == self.base || self.is_whole());
            let stays = (is_full && at.end <= self.size) || at.end == self.size;
            if stays && !meta_differs && self.is_as_made_here(&tree.cid, height) && !self.patches.touch(&at).await? {
                return self.builder.push_tree(self.dag, height, tree).await;
            }
            if is_full && at.end <= self.size && self.patches.is_hole(&at).await? {
                let zeros = self.zeros(height).await?;
                return self.builder.push_tree(self.dag, height, zeros).await;
            }
            if height == 0 {
                return self.chunk(at.start, Some(tree)).await;
            }
            let Some(parts) = self.parts(&tree, height).await? else { return self.old_bytes(at).await };
            let mut start = at.start;
            for part in parts {
                self.old_tree(part, start, height - 1).await?;
                start += part.size;
            }
            Ok(())
        })
    }

    /// Whether import by these parameters could have given a node of this height this CID.
    fn is_as_made_here(&self, cid: &Cid, height: usize) -> bool {
        let codec = if height == 0 { LeafForm::new(self.params()).codec() } else { Codec::DagPb };
        let version = if codec == Codec::DagPb { self.params().cid_version } else { 1 };
        cid.codec() == Some(codec) && cid.version() == version && cid.hash_code() == SHA2_256
    }

    /// The children of a node, if it is as import would have made it.
    async fn parts(&mut self, tree: &FileLink, height: usize) -> Result<Option<Vec<FileLink>>> {
        if tree.cid.codec() != Some(Codec::DagPb) {
            return Ok(None);
        }
        let block = self.dag.get_block(&tree.cid).await?;
        let read = |block| {
            let node = PbNode::decode(block)?;
            Ok((UnixfsData::decode(node.data.as_ref().unwrap_or(&Bytes::new()))?, node.links))
        };
        let (message, links) = read(&block).map_err(|error: Error| error.at(tree.cid))?;
        let (span, count) = (self.span(height - 1), links.len() as u64);
        let mut fits = message.kind == UnixfsType::File
            && message.data.is_empty()
            && message.blocksizes.len() == links.len()
            && file_size(&message).is_ok_and(|size| size == tree.size)
            && count == tree.size.div_ceil(span);
        let mut parts = Vec::new();
        for (index, (link, size)) in (1u64..).zip(links.iter().zip(message.blocksizes)) {
            fits &= (size == span || index == count)
                && link.name.as_deref() == Some(b"")
                && self.is_as_made_here(&link.cid, height - 1);
            let Some(tsize) = link.tsize.filter(|_| fits) else { return Ok(None) };
            parts.push(FileLink { cid: link.cid, tsize, size });
        }
        Ok(fits.then_some(parts))
    }

    /// Takes over bytes of the old file whose nodes are of no use: chunks them again.
    async fn old_bytes(&mut self, at: Range<u64>) -> Result<()> {
        self.rechunked = self.rechunked.saturating_add(at.end.min(self.size).saturating_sub(at.start));
        if self.rechunked > RECHUNK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "dag.splice").at(self.base).because(
                "more than 1 TiB of the file would have to be chunked again: it was not made with these parameters, or \
                 is a trickle",
            ));
        }
        let mut start = at.start;
        while start < at.end.min(self.size) {
            self.chunk(start, None).await?;
            start = start.saturating_add(self.params().chunk_len.into());
        }
        Ok(())
    }

    /// Appends what follows the old file: zeros and patches, up to the new end.
    async fn zeros_from(&mut self, mut start: u64) -> Result<()> {
        if self.params().layout == Layout::Trickle {
            return self.trickle_zeros_from(start).await;
        }
        while start < self.size {
            let mut height = 0;
            let fits =
                |span: u64| start.is_multiple_of(span) && start.checked_add(span).is_some_and(|end| end <= self.size);
            while fits(self.span(height + 1)) {
                height += 1;
            }
            // The highest subtree of zeros that no patch touches; if there is none, a leaf.
            loop {
                let at = start..start.saturating_add(self.span(height));
                if at.end <= self.size && (!self.patches.touch(&at).await? || self.patches.is_hole(&at).await?) {
                    let zeros = self.zeros(height).await?;
                    self.builder.push_tree(self.dag, height, zeros).await?;
                    start = at.end;
                    break;
                }
                if height == 0 {
                    self.chunk(start, None).await?;
                    start = at.end;
                    break;
                }
                height -= 1;
            }
        }
        Ok(())
    }

    /// `zeros_from` for a trickle, whose subtrees begin where they may: it is told how many leaves of zeros come.
    async fn trickle_zeros_from(&mut self, mut start: u64) -> Result<()> {
        let step = u64::from(self.params().chunk_len);
        while start < self.size {
            let zeros_end = match self.patches.first(start).await? {
                Some((range, Piece::Hole)) if range.start <= start => range.end,
                Some((range, _)) => range.start,
                None => self.size,
            };
            let count = zeros_end.min(self.size).saturating_sub(start) / step;
            if count == 0 {
                self.chunk(start, None).await?;
                start = start.saturating_add(step);
            } else {
                let leaf = self.zeros(0).await?;
                self.builder.push_alike(self.dag, leaf, count).await?;
                start += count * step;
            }
        }
        Ok(())
    }

    /// A full subtree of zeros.
    async fn zeros(&mut self, height: usize) -> Result<FileLink> {
        while self.zeros.len() <= height {
            let next = if let Some(below) = self.zeros.last() {
                let parts = vec![*below; self.params().width as usize];
                self.dag.put_file_node(parts, UnixfsMeta::default()).await?
            } else {
                let len = self.params().chunk_len();
                self.put_chunk(Vec::new(), len).await?
            };
            self.zeros.push(next);
        }
        Ok(self.zeros[height])
    }

    /// Appends the chunk at `start`: old bytes, which lie in `leaf` if that is known, under patches.
    async fn chunk(&mut self, start: u64, leaf: Option<FileLink>) -> Result<()> {
        let at = start..start.saturating_add(self.params().chunk_len.into()).min(self.size);
        let pieces = self.patches.within(&at).await?;
        if let [(range, Piece::Chunk(cid))] = pieces.as_slice()
            && *range == at
            && at.end - at.start == u64::from(self.params().chunk_len)
            // Of a dag-pb node the CID does not tell whether it is a leaf as these parameters make it.
            && cid.codec() == Some(Codec::Raw)
            && self.is_as_made_here(cid, 0)
            && (self.old.meta == UnixfsMeta::default() || !self.is_whole())
        {
            let len = self.params().chunk_len();
            let tsize = LeafForm::new(self.params()).block_len(len)? as u64;
            return self.builder.push(self.dag, FileLink { cid: *cid, tsize, size: len as u64 }).await;
        }
        let mut parts = Vec::new();
        let old = at.start..at.end.min(self.old.root.size).max(at.start);
        let covered: u64 = pieces.iter().map(|(range, _)| range.end.min(old.end).saturating_sub(range.start)).sum();
        if covered < old.end - old.start {
            let len = u32::try_from(old.end - old.start).unwrap_or(u32::MAX);
            let (file, offset) = leaf.map_or((self.base, start), |leaf| (leaf.cid, 0));
            let bytes = self.dag.read_at(&file, offset, len).await?;
            if bytes.len() as u64 != old.end - old.start {
                let why = "a leaf is not as long as its parent says";
                return Err(Error::new(ErrorKind::Corrupt, "dag.splice").at(file).because(why));
            }
            parts.push((0, bytes));
        }
        for (range, piece) in pieces {
            let len = range.end - range.start;
            let bytes = match piece {
                Piece::Bytes(bytes) => bytes,
                Piece::Hole => vec![0; usize::try_from(len).unwrap_or(0)].into(),
                Piece::Chunk(cid) => {
                    let bytes = self.dag.read_at(&cid, 0, u32::try_from(len).unwrap_or(u32::MAX)).await?;
                    if bytes.len() as u64 != len {
                        let why = "a chunk that is patched in is shorter than a chunk";
                        return Err(Error::new(ErrorKind::InvalidArgument, "dag.splice").at(cid).because(why));
                    }
                    bytes
                }
            };
            parts.push((usize::try_from(range.start - start).unwrap_or(0), bytes));
        }
        let link = self.put_chunk(parts, usize::try_from(at.end - at.start).unwrap_or(0)).await?;
        self.builder.push(self.dag, link).await
    }

    /// Puts a leaf of `len` bytes: zeros, and over them these bytes at these places.
    async fn put_chunk(&mut self, parts: Vec<(usize, Bytes)>, len: usize) -> Result<FileLink> {
        let is_whole = self.size <= self.params().chunk_len.into();
        let form = if is_whole { LeafForm::whole(self.params(), self.old.meta) } else { LeafForm::new(self.params()) };
        let make = move || {
            let mut chunk = form.buffer(len)?;
            let content = chunk.content();
            for (at, bytes) in parts {
                if let Some(to) = content.get_mut(at..).and_then(|to| to.get_mut(..bytes.len())) {
                    to.copy_from_slice(&bytes);
                }
            }
            chunk.into_leaf()
        };
        let leaf = if len <= HASH_AT_ONCE_LEN_MAX { make()? } else { on_thread(make).await? };
        self.dag.put_leaf(leaf).await
    }
}

/// What a patch does to its range.
#[derive(Debug, Clone)]
enum Piece {
    Bytes(Bytes),
    Chunk(Cid),
    Hole,
}

/// The patches yet to be applied, read as they are needed.
struct Patches<'a> {
    stream: Fuse<BoxStream<'a, Result<Patch>>>,
    ahead: VecDeque<(Range<u64>, Piece)>,
    /// Where the last that was read ends.
    end: u64,
    chunk_len: u32,
}

impl Patches<'_> {
    /// Reads the next; whether there is one.
    async fn read(&mut self) -> Result<bool> {
        let refuse = |why: &'static str| Err(Error::new(ErrorKind::InvalidArgument, "dag.splice").because(why));
        loop {
            let Some(patch) = self.stream.next().await else { return Ok(false) };
            let (start, len, piece) = match patch? {
                Patch::Bytes(start, bytes) => (start, bytes.len() as u64, Piece::Bytes(bytes)),
                Patch::Hole(range) => (range.start, range.end.saturating_sub(range.start), Piece::Hole),
                Patch::Chunk(start, cid) if start.is_multiple_of(self.chunk_len.into()) => {
                    (start, self.chunk_len.into(), Piece::Chunk(cid))
                }
                Patch::Chunk(..) => return refuse("a chunk is at a multiple of the chunk length"),
            };
            if start < self.end {
                return refuse("patches are ascending and apart");
            }
            let Some(end) = start.checked_add(len) else { return refuse("a patch ends below 2^64") };
            self.end = end;
            if len > 0 {
                self.ahead.push_back((start..end, piece));
                return Ok(true);
            }
        }
    }

    /// Drops what lies before `start` and reads the first that does not.
    async fn first(&mut self, start: u64) -> Result<Option<&(Range<u64>, Piece)>> {
        loop {
            while self.ahead.front().is_some_and(|(range, _)| range.end <= start) {
                self.ahead.pop_front();
            }
            if !self.ahead.is_empty() || !self.read().await? {
                return Ok(self.ahead.front());
            }
        }
    }

    /// Whether any falls into `at`. As in all of these, `at` begins no earlier than it did before.
    async fn touch(&mut self, at: &Range<u64>) -> Result<bool> {
        Ok(self.first(at.start).await?.is_some_and(|(range, _)| range.start < at.end))
    }

    /// Whether one hole is all over `at`.
    async fn is_hole(&mut self, at: &Range<u64>) -> Result<bool> {
        let first = self.first(at.start).await?;
        Ok(first.is_some_and(|(range, piece)| {
            matches!(piece, Piece::Hole) && range.start <= at.start && at.end <= range.end
        }))
    }

    /// The parts of patches that fall into `at`, a chunk.
    async fn within(&mut self, at: &Range<u64>) -> Result<Vec<(Range<u64>, Piece)>> {
        self.first(at.start).await?;
        while self.end < at.end && self.read().await? {}
        let cut = |(range, piece): &(Range<u64>, Piece)| {
            let within = range.start.max(at.start)..range.end.min(at.end);
            let offset = |from: u64| usize::try_from(from - range.start).unwrap_or(usize::MAX);
            let piece = match piece {
                Piece::Bytes(bytes) => Piece::Bytes(bytes.slice(offset(within.start)..offset(within.end))),
                other => other.clone(),
            };
            (within, piece)
        };
        Ok(self.ahead.iter().take_while(|(range, _)| range.start < at.end).map(cut).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::UNIX_EPOCH};

    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        BlockStore,
        block::Mem,
        dag::{DagOptions, Profile, noted::Noted},
    };

    fn dag(blocks: Arc<dyn BlockStore>, params: Params) -> Dag {
        Dag::new(blocks, DagOptions { params, verified_len_max: 0 })
    }

    fn content(len: usize) -> Vec<u8> {
        (0..251u8).cycle().take(len).collect()
    }

    async fn splice(dag: &Dag, base: &Cid, patches: Vec<Patch>, size: u64) -> Result<Link> {
        dag.splice(base, stream::iter(patches.into_iter().map(Ok)).boxed(), size).await
    }

    /// A patch as the tests make it: chunks are put when it is applied.
    #[derive(Debug, Clone)]
    enum Edit {
        Bytes(Vec<u8>),
        Hole(usize),
        Chunk(u8),
    }

    fn edits() -> impl Strategy<Value = Vec<(usize, Edit)>> {
        let edit = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..70).prop_map(Edit::Bytes),
            (0..200usize).prop_map(Edit::Hole),
            any::<u8>().prop_map(Edit::Chunk),
        ];
        proptest::collection::vec((0..120usize, edit), 0..6)
    }

    fn any_params() -> impl Strategy<Value = Params> {
        let profile =
            prop_oneof![Just(Profile::UnixfsV1_2025), Just(Profile::UnixfsV0_2015), Just(Profile::KuboCidV1Legacy)];
        let layout = prop_oneof![4 => Just(Layout::Balanced), 1 => Just(Layout::Trickle)];
        (profile, layout, 1..24u32, 2..5u32).prop_map(|(profile, layout, chunk_len, width)| Params {
            chunk_len,
            layout,
            width,
            ..profile.params()
        })
    }

    fn any_meta() -> impl Strategy<Value = UnixfsMeta> {
        prop_oneof![
            3 => Just(UnixfsMeta::default()),
            1 => Just(UnixfsMeta { mode: Some(0o640), mtime: Some(UNIX_EPOCH) }),
        ]
    }

    async fn check(
        params: Params,
        other: Option<Params>,
        meta: UnixfsMeta,
        old: &[u8],
        edits: &[(usize, Edit)],
        size: usize,
    ) {
        let mem: Arc<dyn BlockStore> = Arc::new(Mem::default());
        let dag = dag(mem.clone(), params);
        let base_dag = self::dag(mem, other.unwrap_or(params));
        let base = base_dag.import(old, meta).await.expect("memory");
        let (mut new, mut patches, mut at) = (old.to_vec(), Vec::new(), 0);
        for (gap, edit) in edits {
            at += gap;
            let bytes = match edit {
                Edit::Bytes(bytes) => {
                    patches.push(Patch::Bytes(at as u64, bytes.clone().into()));
                    bytes.clone()
                }
                Edit::Hole(len) => {
                    patches.push(Patch::Hole(at as u64..(at + len) as u64));
                    vec![0; *len]
                }
                Edit::Chunk(byte) => {
                    at = at.next_multiple_of(params.chunk_len());
                    let bytes = vec![*byte; params.chunk_len()];
                    // A lone leaf of a balanced file is its chunk; a trickle has none alone, so it is the raw one.
                    let dag = if params.layout == Layout::Balanced { &dag } else { &base_dag };
                    let link = dag.import(bytes.as_slice(), UnixfsMeta::default()).await.expect("memory");
                    patches.push(Patch::Chunk(at as u64, link.cid));
                    bytes
                }
            };
            new.resize(new.len().max(at + bytes.len()), 0);
            new[at..at + bytes.len()].copy_from_slice(&bytes);
            at += bytes.len();
        }
        new.resize(size, 0);
        let spliced = splice(&dag, &base.cid, patches, size as u64).await.expect("memory");
        let imported = dag.import(new.as_slice(), meta).await.expect("memory");
        assert_eq!(spliced, imported, "{params:?} {meta:?}");
        let len = u32::try_from(size).expect("short") + 1;
        assert_eq!(dag.read_at(&spliced.cid, 0, len).await.expect("memory"), new);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Splicing is importing the patched bytes: any parameters, growth, truncation, holes, chunks, metadata, and
        /// bases that other parameters made.
        #[test]
        fn splice_is_import_of_the_result(
            params in any_params(), other in proptest::option::of(any_params()), meta in any_meta(), old in 0..700usize,
            edits in edits(), size in 0..700usize, keep_size in any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let size = if keep_size { old } else { size };
            runtime.block_on(check(params, other, meta, &content(old), &edits, size));
        }
    }

    /// What is done, with which patches, to which size; how many blocks it reads and puts.
    type Counted = (&'static str, Vec<Patch>, u64, (usize, usize));

    /// 1000 chunks, width 10: three levels of inner nodes. What a change reads is the way to the first leaf, which shows
    /// the layout, the way to the changed leaf and, where it does not cover it, that; what it puts is the leaf and the
    /// way up.
    #[tokio::test]
    async fn only_changed_leaves_and_what_is_above_them_are_read_and_put() {
        let params = Params { chunk_len: 100, width: 10, ..Profile::default().params() };
        let store = Arc::new(Noted::default());
        let dag = dag(store.clone(), params);
        // Chunks that differ, so that none stands for another.
        let bytes: Vec<u8> = (0..1000u32).flat_map(|chunk| chunk.to_le_bytes().repeat(25)).collect();
        let base = dag.import(bytes.as_slice(), UnixfsMeta::default()).await.expect("memory");
        let cases: Vec<Counted> = vec![
            ("nothing", vec![], 100_000, (3, 0)),
            ("the last byte", vec![Patch::Bytes(99_999, "x".into())], 100_000, (6, 4)),
            ("a byte", vec![Patch::Bytes(50_050, "x".into())], 100_000, (6, 4)),
            ("a whole leaf", vec![Patch::Bytes(50_000, vec![b'x'; 100].into())], 100_000, (5, 4)),
            ("bytes in two leaves of one node", vec![Patch::Bytes(50_099, "xx".into())], 100_000, (7, 5)),
            ("bytes far apart", vec![Patch::Bytes(0, "x".into()), Patch::Bytes(99_999, "x".into())], 100_000, (7, 7)),
            ("a cut at a chunk", vec![], 50_000, (3, 1)),
            ("a cut in a chunk", vec![], 50_001, (6, 4)),
            ("growth by a byte of zero", vec![], 100_001, (3, 5)),
            // A block of zeros for each of six heights; and one each above the old root, at three.
            ("growth by a very long hole", vec![], 100_000_000, (3, 9)),
        ];
        for (what, patches, size, expected) in cases {
            store.take();
            splice(&dag, &base.cid, patches, size).await.expect(what);
            assert_eq!(store.take(), expected, "{what}: blocks read and put");
        }
    }

    /// A trickle that grew to an enormous size was put together leaf by leaf, for years. Growth takes subtrees; a base that
    /// only claims to be so long, and would have to be read, is refused.
    #[tokio::test]
    async fn a_trickle_grows_to_any_length_at_once() {
        let params = Params { chunk_len: 100, width: 5, layout: Layout::Trickle, ..Profile::default().params() };
        let store = Arc::new(Noted::default());
        let dag = dag(store.clone(), params);
        let base = dag.import(content(1234).as_slice(), UnixfsMeta::default()).await.expect("memory");
        store.take();
        let patches = vec![Patch::Bytes(1 << 50, "x".into()), Patch::Hole((1 << 51)..(1 << 60))];
        let huge = splice(&dag, &base.cid, patches, FILE_LEN_MAX).await.expect("memory");
        let (read, put) = store.take();
        assert!(read < 20 && put < 400, "{read} blocks read, {put} put");
        assert_eq!(dag.read_at(&huge.cid, 1 << 50, 2).await.expect("memory"), "x\0");
        assert_eq!(dag.read_at(&huge.cid, 1000, 234).await.expect("memory"), content(1234)[1000..]);
        assert_eq!(dag.read_at(&huge.cid, FILE_LEN_MAX - 1, 9).await.expect("memory"), "\0");
        let error = splice(&dag, &huge.cid, vec![], RECHUNK_LEN_MAX + 1).await.expect_err("too long to be read");
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    }

    #[tokio::test]
    async fn patches_that_are_refused() {
        let params = Params { chunk_len: 10, width: 4, ..Profile::default().params() };
        let dag = dag(Arc::new(Mem::default()), params);
        let base = dag.import(content(100).as_slice(), UnixfsMeta::default()).await.expect("memory");
        let cases: [(&str, Vec<Patch>); 5] = [
            ("descending", vec![Patch::Bytes(50, "x".into()), Patch::Bytes(10, "x".into())]),
            ("overlapping", vec![Patch::Hole(5..15), Patch::Bytes(14, "x".into())]),
            ("a chunk that is not aligned", vec![Patch::Chunk(5, base.cid)]),
            ("a chunk that is longer than its place", vec![Patch::Chunk(0, base.cid), Patch::Bytes(9, "x".into())]),
            ("past all offsets", vec![Patch::Bytes(u64::MAX, "xx".into())]),
        ];
        for (what, patches) in cases {
            let error = splice(&dag, &base.cid, patches, 100).await.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}");
        }
        let error = splice(&dag, &base.cid, vec![], FILE_LEN_MAX + 1).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }
}
