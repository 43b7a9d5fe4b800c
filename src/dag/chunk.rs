//! Chunks: where a file's bytes come from and how a piece of them becomes a leaf.
//!
//! A leaf is the chunk itself (raw) or a dag-pb node around it. Either is built in the buffer the bytes were read into,
//! so that what is hashed is what is put, without a copy. Sits under [`import`](super::import) and
//! [`splice`](super::splice). Spec: spec/dag.md #leaves.

use std::{io, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    DAG_BLOCK_LEN_MAX, Layout, Params, UnixfsMeta,
    layout::FileLink,
    unixfs::{UnixfsData, UnixfsType},
    wire::{bytes_len, put_len, put_number, varint_len},
};
use crate::{
    Codec, Error, ErrorKind, Result,
    cid::sha256::{Digest32, sha256, sha256_pair},
};

/// Bytes of a known length that can be read anywhere, by several threads at once: what `pread` gives.
pub trait ReadAt: Send + Sync + 'static {
    /// Reads some of the bytes from `offset` on into `buf` and returns how many; 0 only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for Bytes {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        io::Read::read(&mut &*rest, buf)
    }
}

/// A leaf that is hashed: the link to it, and its block.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) link: FileLink,
    pub(super) block: Bytes,
}

/// How chunks become leaves: one thing for all leaves of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeafForm {
    params: Params,
    /// Of the file, where this is its only leaf: a node of its own then, even if leaves are raw.
    meta: UnixfsMeta,
}

impl LeafForm {
    pub(super) fn new(params: &Params) -> Self {
        Self { params: *params, meta: UnixfsMeta::default() }
    }

    /// The form of a leaf that is all of its file. In a trickle it has a root above it, which takes the metadata.
    pub(super) fn whole(params: &Params, meta: UnixfsMeta) -> Self {
        match params.layout {
            Layout::Balanced => Self { params: *params, meta },
            Layout::Trickle => Self::new(params),
        }
    }

    pub(super) fn codec(&self) -> Codec {
        if self.params.raw_leaves && self.meta == UnixfsMeta::default() { Codec::Raw } else { Codec::DagPb }
    }

    /// What stands before and after `len` bytes of content.
    fn frame(&self, len: usize) -> Result<(Vec<u8>, Vec<u8>)> {
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        if self.codec() == Codec::DagPb {
            let kind = if self.params.layout == Layout::Trickle { UnixfsType::Raw } else { UnixfsType::File };
            let mut message = UnixfsData::new(kind).with_meta(self.meta)?;
            message.filesize = Some(len as u64);
            message.encode_after_data(&mut tail);
            let content_len = if len == 0 { 0 } else { bytes_len(len) };
            put_len(&mut head, 1, 1 + varint_len(kind as u64) + content_len + tail.len());
            put_number(&mut head, 1, kind as u64);
            if len > 0 {
                put_len(&mut head, 2, len);
            }
        }
        Ok((head, tail))
    }

    /// The length of the block of a leaf of `len` bytes.
    pub(super) fn block_len(&self, len: usize) -> Result<usize> {
        let (head, tail) = self.frame(len)?;
        Ok(head.len() + len + tail.len())
    }

    /// A buffer for a chunk of exactly `len` bytes in memory that was used before: what is in it is overwritten.
    pub(super) fn buffer_in(&self, mut bytes: BytesMut, len: usize) -> Result<ChunkBuffer> {
        let (head, tail) = self.frame(len)?;
        let block_len = head.len() + len + tail.len();
        bytes.reserve(block_len.saturating_sub(bytes.len()));
        bytes.resize(head.len() + len, 0);
        bytes.iter_mut().zip(&head).for_each(|(to, from)| *to = *from);
        Ok(ChunkBuffer { form: *self, head_len: head.len(), len_max: len, bytes })
    }

    /// An empty buffer for a chunk of up to `len` bytes, its content to be appended.
    pub(super) fn buffer(&self, len: usize) -> Result<ChunkBuffer> {
        let (head, tail) = self.frame(len)?;
        let mut bytes = BytesMut::with_capacity(head.len() + len.min(FIRST_BUFFER_LEN) + tail.len());
        bytes.extend_from_slice(&head);
        Ok(ChunkBuffer { form: *self, head_len: head.len(), len_max: len, bytes })
    }
}

/// The buffer of a chunk begins with so much and grows: most files are small.
const FIRST_BUFFER_LEN: usize = 64 * 1024;

/// A chunk as it is read, with room for what will stand around it.
#[derive(Debug)]
pub(super) struct ChunkBuffer {
    form: LeafForm,
    head_len: usize,
    len_max: usize,
    bytes: BytesMut,
}

impl ChunkBuffer {
    /// How much content it holds.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.head_len
    }

    /// Makes it as long as it may be and gives the content, to be overwritten.
    pub(super) fn content(&mut self) -> &mut [u8] {
        let len = self.head_len + self.len_max;
        self.bytes.reserve((len + TAIL_LEN_MAX).saturating_sub(self.bytes.len()));
        self.bytes.resize(len, 0);
        self.bytes.get_mut(self.head_len..).unwrap_or_default()
    }

    /// Reads until the chunk is full or the source ends.
    pub(super) async fn fill(&mut self, source: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        while self.len() < self.len_max {
            if self.bytes.capacity() == self.bytes.len() {
                // Twice as much each time, then the rest and the tail at once.
                self.bytes.reserve((self.len_max - self.len() + TAIL_LEN_MAX).min(self.bytes.len()));
            }
            let rest = self.len_max - self.len();
            if source.read_buf(&mut (&mut self.bytes).limit(rest)).await? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Reads the whole chunk from `offset`, or fails. Blocks the thread as long as that takes.
    pub(super) fn read(&mut self, source: &dyn ReadAt, offset: u64) -> Result<()> {
        let mut from = offset;
        let mut rest = self.content();
        while !rest.is_empty() {
            let len = read_some(source, from, rest)?;
            if len == 0 {
                return Err(changed("the source ended before its length"));
            }
            from += len as u64;
            rest = rest.get_mut(len..).ok_or_else(|| changed("the source gave more than was asked"))?;
        }
        Ok(())
    }

    /// Fixes that this chunk is the whole file, where that changes its form.
    pub(super) fn set_form(&mut self, form: LeafForm) {
        self.form = form;
    }

    /// Hashes the leaf. Blocks the thread as long as that takes.
    pub(super) fn into_leaf(self) -> Result<Leaf> {
        let block = self.into_block()?;
        let digest = sha256(&block.bytes);
        Ok(block.into_leaf(digest))
    }

    /// Hashes the leaves, two at a time. Blocks the thread as long as that takes.
    pub(super) fn into_leaves(chunks: Vec<Self>) -> Result<Vec<Leaf>> {
        let mut leaves = Vec::with_capacity(chunks.len());
        let mut blocks = chunks.into_iter().map(Self::into_block);
        while let Some(one) = blocks.next().transpose()? {
            let Some(other) = blocks.next().transpose()? else {
                let digest = sha256(&one.bytes);
                leaves.push(one.into_leaf(digest));
                break;
            };
            let [digest, other_digest] = sha256_pair(&one.bytes, &other.bytes);
            leaves.extend([one.into_leaf(digest), other.into_leaf(other_digest)]);
        }
        Ok(leaves)
    }

    /// Puts around the chunk what its form wants.
    fn into_block(mut self) -> Result<LeafBlock> {
        let len = self.len();
        let (head, tail) = self.form.frame(len)?;
        let framed = self.bytes.get(..self.head_len) == Some(&head);
        // A chunk shorter than its buffer, or in another form than foreseen: moved, not to hold on to what it has not.
        let loose = self.bytes.capacity() / 2 > self.bytes.len() + TAIL_LEN_MAX;
        if !framed || loose {
            let content = self.bytes.split_off(self.head_len);
            self.bytes = BytesMut::with_capacity(head.len() + len + tail.len());
            self.bytes.extend_from_slice(&head);
            self.bytes.extend_from_slice(&content);
        }
        self.bytes.extend_from_slice(&tail);
        if self.bytes.len() > DAG_BLOCK_LEN_MAX {
            return Err(
                Error::new(ErrorKind::TooLarge, "dag.import").because("a leaf and its frame have at most 2 MiB")
            );
        }
        Ok(LeafBlock { form: self.form, len, bytes: self.bytes.freeze() })
    }
}

/// The block of a leaf, yet to be hashed.
struct LeafBlock {
    form: LeafForm,
    /// Of the content, in bytes.
    len: usize,
    bytes: Bytes,
}

impl LeafBlock {
    fn into_leaf(self, digest: Digest32) -> Leaf {
        let cid = self.form.params.cid_of_digest(self.form.codec(), digest);
        let link = FileLink { cid, tsize: self.bytes.len() as u64, size: self.len as u64 };
        Leaf { link, block: self.bytes }
    }
}

/// The longest tail of a leaf: filesize, mode and mtime.
const TAIL_LEN_MAX: usize = 48;

fn read_some(source: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<usize> {
    loop {
        match source.read_at(offset, buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(|error| from_io("dag.import", error)),
        }
    }
}

/// Checks that the source ends at `len`.
pub(super) fn check_end(source: &dyn ReadAt, len: u64) -> Result<()> {
    match read_some(source, len, &mut [0])? {
        0 => Ok(()),
        _ => Err(changed("the source is longer than its length")),
    }
}

fn changed(why: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, "dag.import").because(format!("{why}: it changed while it was read"))
}

/// An error of a reader; one of ours that travelled through it keeps its kind.
pub(crate) fn from_io(op: &'static str, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => Error::new(ErrorKind::Io, op).because(error),
    }
}

impl Params {
    /// Checks that files can be made by these numbers.
    pub(super) fn check_file(&self) -> Result<()> {
        let refuse = |why| Err(Error::new(ErrorKind::InvalidArgument, "dag.params").because(why));
        match self {
            _ if !(1..=DAG_BLOCK_LEN_MAX).contains(&self.chunk_len()) => refuse("a chunk has 1 byte to 2 MiB"),
            _ if self.width < 2 => refuse("a node of a file has room for 2 links at least"),
            _ => Ok(()),
        }
    }

    /// The length of a chunk, as the lengths of what is in memory are counted.
    pub(super) fn chunk_len(&self) -> usize {
        self.chunk_len as usize
    }

    /// The range of the bytes of chunk `index` in a file of `size` bytes.
    pub(super) fn chunk_range(&self, index: u64, size: u64) -> Range<u64> {
        let start = index.saturating_mul(self.chunk_len.into()).min(size);
        start..start.saturating_add(self.chunk_len.into()).min(size)
    }

    /// How many chunks a file of `size` bytes has: one at least.
    pub(super) fn chunk_count(&self, size: u64) -> u64 {
        size.div_ceil(self.chunk_len.into()).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::Profile;

    #[tokio::test]
    async fn a_leaf_is_the_same_however_its_bytes_come() {
        let content: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        for profile in [Profile::UnixfsV1_2025, Profile::UnixfsV0_2015] {
            let form = LeafForm::new(&profile.params());
            for len in [0, 1, 127, 128, 65536, 65537, 200_000] {
                let content = &content[..len];
                let mut from_memory = form.buffer(len).expect("room");
                from_memory.content().copy_from_slice(content);
                let from_memory = from_memory.into_leaf().expect("short");
                let mut streamed = form.buffer(262_144).expect("room");
                streamed.fill(&mut &*content).await.expect("memory");
                let used = BytesMut::from(&vec![0xff; 100_000][..]);
                let mut positioned = form.buffer_in(used, len).expect("room");
                positioned.read(&Bytes::copy_from_slice(content), 0).expect("memory");
                for other in ChunkBuffer::into_leaves(vec![streamed, positioned]).expect("short") {
                    assert_eq!((other.link.cid, &other.block), (from_memory.link.cid, &from_memory.block), "{len}");
                }
                assert_eq!(form.block_len(len).expect("short"), from_memory.block.len());
            }
        }
    }
}
