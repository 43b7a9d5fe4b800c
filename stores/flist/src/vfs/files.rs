//! The bytes of files: which chunks a read needs, fetched at once, and those behind it ahead of who reads in order, or starts a program.

use std::{
    num::NonZeroUsize,
    ops::Range,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lru::LruCache;
use muxfs::{
    Error, ErrorKind, FileKind, Result,
    vfs::{READ_LEN_MAX, ReadAhead},
};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::{Open, lock, nodes::Known};
use crate::{Chunk, Chunks, FlistId, Inode, NodeId};

/// Chunks are looked up so many at a time, and so many such parts of files are remembered.
const PART_COUNT: u64 = 128;
const PARTS_COUNT_MAX: usize = 256;
/// So many chunks of one read are fetched at a time.
const READ_COUNT: usize = 8;
/// So many chunks are fetched ahead of who reads a file in order; the next ones when half of them are read.
const AHEAD_COUNT: u64 = 8;
/// A client has several reads under way, in any order: so many chunks from where it was expected one is still in order.
const ORDER_SLACK: u64 = 2;
/// What programs and libraries begin with. Who starts one reads it in any order, a page after the other.
const ELF: &[u8] = b"\x7fELF";
/// So many chunks are fetched of one whose beginning is read, of 512 KiB: of nearly all that is all.
const PROGRAM_COUNT: u64 = 16;
/// So many of those of all programs at a time: fewer than are asked of one source, so that who reads others is not behind all.
const PROGRAM_FETCHED_COUNT: usize = 6;
/// So many programs are remembered, of which that was begun.
const PROGRAMS_COUNT_MAX: usize = 256;

/// Which file.
type FileId = (FlistId, NodeId);
/// Chunks of a file that follow each other, and how long each of the file's is but the last, in bytes.
type Part = (u64, Arc<[Chunk]>);

/// Reads files of flists.
#[derive(Debug)]
pub(super) struct Files {
    chunks: Arc<Chunks>,
    parts: Mutex<LruCache<(FileId, u64), Part>>,
    ahead: ReadAhead<FileId>,
    /// Those whose rest was fetched, or is on its way; to drop that ends it.
    programs: Mutex<LruCache<FileId, AbortOnDropHandle<()>>>,
    /// For each chunk of a program that is fetched ahead.
    program_turns: Arc<Semaphore>,
}

fn count(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

fn id(open: &Open, inode: &Inode) -> FileId {
    (open.flist.id(), inode.id)
}

impl Files {
    pub(super) fn new(chunks: Arc<Chunks>) -> Self {
        let parts = Mutex::new(LruCache::new(count(PARTS_COUNT_MAX)));
        let programs = Mutex::new(LruCache::new(count(PROGRAMS_COUNT_MAX)));
        let program_turns = Arc::new(Semaphore::new(PROGRAM_FETCHED_COUNT));
        Self { chunks, parts, ahead: ReadAhead::new(AHEAD_COUNT, ORDER_SLACK), programs, program_turns }
    }

    /// The bytes of a file, as [`Vfs::read`](muxfs::vfs::Vfs::read) gives them.
    pub(super) async fn read(self: &Arc<Self>, known: &Known, offset: u64, len: u32) -> Result<Bytes> {
        match known.inode.kind {
            FileKind::File => {}
            FileKind::Dir => return Err(Error::new(ErrorKind::IsDir, "flist.read")),
            _ => return Err(Error::new(ErrorKind::InvalidArgument, "flist.read").because("it is no file")),
        }
        let size = known.inode.size;
        let end = offset.saturating_add(len.min(READ_LEN_MAX).into()).min(size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let (chunk_len, _) = self.chunk(&known.open, &known.inode, 0).await?;
        let (first, last) = (offset / chunk_len, (end - 1) / chunk_len);
        self.fetch_ahead(known, &(first..last + 1), size.div_ceil(chunk_len));
        let piece = |index: u64| async move {
            known.open.touch(known.inode.id, index);
            let bytes = self.bytes(&known.open, &known.inode, index).await?;
            let start = index * chunk_len;
            let within = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
            Ok::<_, Error>(bytes.slice(within(offset)..within(end)))
        };
        if first == last {
            let bytes = piece(first).await?;
            self.fetch_program(known, offset, &bytes, size.div_ceil(chunk_len));
            return Ok(bytes);
        }
        let mut all = BytesMut::with_capacity(usize::try_from(end - offset).unwrap_or(0));
        let mut pieces = stream::iter(first..=last).map(piece).buffered(READ_COUNT);
        while let Some(piece) = pieces.try_next().await? {
            all.extend_from_slice(&piece);
        }
        self.fetch_program(known, offset, &all, size.div_ceil(chunk_len));
        Ok(all.freeze())
    }

    /// Fetches a program whose beginning was read, of so many chunks, unless that was done.
    fn fetch_program(self: &Arc<Self>, known: &Known, offset: u64, read: &[u8], count: u64) {
        if offset > 0 || !read.starts_with(ELF) || count == 1 {
            return;
        }
        lock(&self.programs).get_or_insert(id(&known.open, &known.inode), || {
            let (this, known, turns) = (Arc::downgrade(self), known.clone(), self.program_turns.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                // What fails is told to who reads it.
                let fetch = |index| {
                    let (this, known, turns) = (this.clone(), &known, &turns);
                    async move {
                        let Ok(_turn) = turns.acquire().await else { return false };
                        let Some(this) = this.upgrade() else { return false };
                        this.bytes(&known.open, &known.inode, index).await.is_ok()
                    }
                };
                let mut fetched = stream::iter(1..count.min(PROGRAM_COUNT)).map(fetch).buffered(PROGRAM_FETCHED_COUNT);
                while fetched.next().await == Some(true) {}
            }))
        });
    }

    /// The bytes of a chunk of a file.
    pub(super) async fn bytes(&self, open: &Arc<Open>, inode: &Inode, index: u64) -> Result<Bytes> {
        let (len, chunk) = self.chunk(open, inode, index).await?;
        let left = inode.size.saturating_sub(index.saturating_mul(len)).min(len);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        self.chunks.get(&open.sources, chunk, left).await
    }

    /// The chunk of a file at an index, and how long each of the file's is but the last.
    async fn chunk(&self, open: &Arc<Open>, inode: &Inode, index: u64) -> Result<(u64, Chunk)> {
        let (part, at) = (index / PART_COUNT, index % PART_COUNT);
        let key = (id(open, inode), part);
        let remembered = lock(&self.parts).get(&key).cloned();
        let (len, chunks) = if let Some(part) = remembered {
            part
        } else {
            let (node, count) = (inode.id, usize::try_from(PART_COUNT).unwrap_or(usize::MAX));
            let found = open.query(move |flist| flist.chunks(node, part * PART_COUNT, count));
            let (len, chunks) = found.await?;
            let part: Part = (len, chunks.into());
            lock(&self.parts).put(key, part.clone());
            part
        };
        let chunk = usize::try_from(at).ok().and_then(|at| chunks.get(at)).copied();
        let chunk = chunk.ok_or_else(|| {
            let why = format!("a file has {} bytes, and no chunk {index} of {len} bytes", inode.size);
            Error::new(ErrorKind::Corrupt, "flist.read").at(open.place.path.display()).because(why)
        })?;
        Ok((len, chunk))
    }

    /// Fetches what follows a read, if the reads of its file are in order. The first one tells nothing.
    fn fetch_ahead(self: &Arc<Self>, known: &Known, read: &Range<u64>, count: u64) {
        self.ahead.note(id(&known.open, &known.inode), read, count, |range| {
            let (this, owned) = (self.clone(), known.clone());
            async move {
                // What fails is told to who reads it.
                let fetch = |index| {
                    let (this, known) = (&this, &owned);
                    async move { this.bytes(&known.open, &known.inode, index).await.is_ok() }
                };
                let mut fetched = stream::iter(range).map(fetch).buffered(READ_COUNT);
                while fetched.next().await == Some(true) {}
            }
        });
    }
}
