//! The bytes of files: which chunks a read needs, fetched at once, and those behind it ahead of who reads in order.

use std::{
    num::NonZeroUsize,
    ops::Range,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lru::LruCache;
use muxfs::{Error, ErrorKind, FileKind, Result, vfs::READ_LEN_MAX};
use tokio_util::task::AbortOnDropHandle;

use super::{lock, nodes::Known};
use crate::{Chunk, Chunks, FlistId, NodeId};

/// Chunks are looked up so many at a time, and so many such parts of files are remembered.
const PART_COUNT: u64 = 128;
const PARTS_COUNT_MAX: usize = 256;
/// So many chunks of one read are fetched at a time.
const READ_COUNT: usize = 8;
/// So many chunks are fetched ahead of who reads a file in order; the next ones when half of them are read.
const AHEAD_COUNT: u64 = 8;
/// A client has several reads under way, in any order: so many chunks from where it was expected one is still in order.
const ORDER_SLACK: u64 = 2;
/// So many files are read ahead at a time, those that were read last.
const READING_COUNT_MAX: usize = 32;

/// Which file.
type FileId = (FlistId, NodeId);
/// Chunks of a file that follow each other, and how long each of the file's is but the last, in bytes.
type Part = (u64, Arc<[Chunk]>);

/// Reads files of flists.
#[derive(Debug)]
pub(super) struct Files {
    chunks: Arc<Chunks>,
    parts: Mutex<LruCache<(FileId, u64), Part>>,
    reading: Mutex<LruCache<FileId, Reading>>,
}

/// How far a file was read, in chunks.
#[derive(Debug, Default)]
struct Reading {
    /// Where the next read is expected.
    next: u64,
    /// What is before this was fetched, or is on its way.
    until: u64,
    /// To drop it ends it.
    fetching: Option<AbortOnDropHandle<()>>,
}

impl Reading {
    /// Takes note of a read of a file of `count` chunks; what is to be fetched beside it.
    fn note(&mut self, read: &Range<u64>, count: u64) -> Option<Range<u64>> {
        if read.start.abs_diff(self.next) > ORDER_SLACK {
            *self = Self { next: read.end, until: read.end, fetching: None };
            return None;
        }
        self.next = self.next.max(read.end);
        let from = self.until.max(self.next);
        let is_busy = self.fetching.as_ref().is_some_and(|fetching| !fetching.is_finished());
        if is_busy || from >= count || from - self.next > AHEAD_COUNT / 2 {
            return None;
        }
        self.until = (from + AHEAD_COUNT).min(count);
        Some(from..self.until)
    }
}

fn count(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

fn id(known: &Known) -> FileId {
    (known.open.flist.id(), known.inode.id)
}

impl Files {
    pub(super) fn new(chunks: Arc<Chunks>) -> Self {
        let parts = Mutex::new(LruCache::new(count(PARTS_COUNT_MAX)));
        Self { chunks, parts, reading: Mutex::new(LruCache::new(count(READING_COUNT_MAX))) }
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
        let (chunk_len, _) = self.chunk(known, 0).await?;
        let (first, last) = (offset / chunk_len, (end - 1) / chunk_len);
        self.fetch_ahead(known, &(first..last + 1), size.div_ceil(chunk_len));
        let piece = |index: u64| async move {
            let bytes = self.bytes(known, index).await?;
            let start = index * chunk_len;
            let within = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
            Ok::<_, Error>(bytes.slice(within(offset)..within(end)))
        };
        if first == last {
            return piece(first).await;
        }
        let mut all = BytesMut::with_capacity(usize::try_from(end - offset).unwrap_or(0));
        let mut pieces = stream::iter(first..=last).map(piece).buffered(READ_COUNT);
        while let Some(piece) = pieces.try_next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// The bytes of a chunk of a file.
    async fn bytes(&self, known: &Known, index: u64) -> Result<Bytes> {
        let (len, chunk) = self.chunk(known, index).await?;
        let left = known.inode.size.saturating_sub(index.saturating_mul(len)).min(len);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        self.chunks.get(&known.open.sources, chunk, left).await
    }

    /// The chunk of a file at an index, and how long each of the file's is but the last.
    async fn chunk(&self, known: &Known, index: u64) -> Result<(u64, Chunk)> {
        let (part, at) = (index / PART_COUNT, index % PART_COUNT);
        let key = (id(known), part);
        let remembered = lock(&self.parts).get(&key).cloned();
        let (len, chunks) = if let Some(part) = remembered {
            part
        } else {
            let (node, count) = (known.inode.id, usize::try_from(PART_COUNT).unwrap_or(usize::MAX));
            let found = known.open.query(move |flist| flist.chunks(node, part * PART_COUNT, count));
            let (len, chunks) = found.await?;
            let part: Part = (len, chunks.into());
            lock(&self.parts).put(key, part.clone());
            part
        };
        let chunk = usize::try_from(at).ok().and_then(|at| chunks.get(at)).copied();
        let chunk = chunk.ok_or_else(|| {
            let why = format!("a file has {} bytes, and no chunk {index} of {len} bytes", known.inode.size);
            Error::new(ErrorKind::Corrupt, "flist.read").at(known.open.place.path.display()).because(why)
        })?;
        Ok((len, chunk))
    }

    /// Fetches what follows a read, if the reads of its file are in order. The first one tells nothing.
    fn fetch_ahead(self: &Arc<Self>, known: &Known, read: &Range<u64>, count: u64) {
        let mut all = lock(&self.reading);
        let Some(reading) = all.get_mut(&id(known)) else {
            all.put(id(known), Reading { next: read.end, until: read.end, fetching: None });
            return;
        };
        let Some(range) = reading.note(read, count) else { return };
        let (this, known) = (self.clone(), known.clone());
        let fetch = async move {
            // What fails is told to who reads it.
            let fetch = |index| {
                let (this, known) = (&this, &known);
                async move { this.bytes(known, index).await.is_ok() }
            };
            let mut fetched = stream::iter(range).map(fetch).buffered(READ_COUNT);
            while fetched.next().await == Some(true) {}
        };
        reading.fetching = Some(AbortOnDropHandle::new(tokio::spawn(fetch)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_are_known_and_others_are_not() {
        let mut reading = Reading { next: 1, until: 1, fetching: None };
        let mut note = |read: Range<u64>| reading.note(&read, 100);
        assert_eq!(note(0..1), Some(1..9), "another part of the same chunk");
        assert_eq!(note(1..2), None, "that is on its way");
        assert_eq!(note(5..6), None, "it is not expected there");
        assert_eq!(note(6..7), Some(7..15));
        assert_eq!(note(8..9), None);
        assert_eq!(note(10..11), Some(15..23), "half of it was read");
        assert_eq!(note(50..51), None, "a jump");
        assert_eq!(note(51..52), Some(52..60));
        assert_eq!(note(10..11), None, "back");
        assert_eq!(note(97..98), None, "a jump");
        assert_eq!(note(98..99), Some(99..100));
        assert_eq!(note(99..100), None, "behind which is nothing");
    }
}
