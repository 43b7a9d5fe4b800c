//! Import: bytes become a file's DAG, by the parameters of the [`Dag`].
//!
//! Chunks are hashed on blocking threads, several at once, and put in their order by one task; what is read, hashed and
//! put is one buffer. A small file is one hash and one put. Spec: spec/dag.md #files.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tokio::io::AsyncRead;

use super::{
    Dag, Layout, Link, Params, UnixfsMeta,
    chunk::{ChunkBuffer, Leaf, LeafForm, ReadAt, check_end, from_io},
    layout::{FileBuilder, FileLink},
};
use crate::{Error, ErrorKind, Result};

/// How much of one file is in memory at once: read, being hashed or being put.
pub const IMPORT_LEN_MAX: usize = 4 << 20;
/// How much a thread hashes at a time: two chunks of the usual length, which cost little more than one, and of small ones
/// so many that handing them over costs little beside.
const JOB_LEN: usize = 2 << 20;
/// What is hashed on the spot: less than handing it over would cost.
pub(super) const HASH_AT_ONCE_LEN_MAX: usize = 32 << 10;

impl Dag {
    /// Puts a file, read to its end, and returns the link to it. Repeatable: the same bytes give the same CID.
    ///
    /// With `meta` a file is never a bare raw block: one of a single chunk becomes a node that holds bytes and metadata,
    /// a longer one has them in its root. At most [`IMPORT_LEN_MAX`] bytes of it are in memory, and the chunk that is
    /// read meanwhile.
    ///
    /// # Errors
    /// The reader's, as `Io` or, where it is one of ours, as it is; `InvalidArgument` for parameters that make no file;
    /// those of [`BlockStore::put`](crate::BlockStore::put). What was put before stays, without a root.
    pub async fn import(&self, bytes: impl AsyncRead + Send + Unpin, meta: UnixfsMeta) -> Result<Link> {
        self.params().check_file()?;
        let _session = self.begin_write();
        let reader = Reader { source: bytes, params: *self.params(), meta, next: Next::First };
        let jobs =
            stream::try_unfold(reader, |mut reader| async move { Ok(reader.job().await?.map(|job| (job, reader))) });
        self.build(jobs, meta, None).await
    }

    /// Puts a file of `len` bytes that can be read anywhere: several threads read and hash its chunks at once, each in
    /// the buffer that is then put. Equal to [`Dag::import`] of the same bytes.
    ///
    /// # Errors
    /// As [`Dag::import`]; `Unavailable` if the source ends before `len` or goes on after it: it changed meanwhile.
    pub async fn import_at(&self, source: Arc<dyn ReadAt>, len: u64, meta: UnixfsMeta) -> Result<Link> {
        let params = *self.params();
        params.check_file()?;
        let _session = self.begin_write();
        let (count, step) = (params.chunk_count(len), (JOB_LEN / params.chunk_len()).max(1));
        let starts = (0..count).step_by(step);
        let buffers = Arc::new(Buffers::default());
        let used = buffers.clone();
        let jobs = stream::iter(starts.map(move |start| {
            let chunks = start..count.min(start.saturating_add(step as u64));
            Ok(Job::At { source: source.clone(), params, len, meta, chunks, buffers: buffers.clone() })
        }));
        self.build(jobs, meta, Some(&used)).await
    }

    /// Hashes and puts the chunks of the jobs, and the nodes above them.
    async fn build(
        &self,
        jobs: impl Stream<Item = Result<Job>> + Send,
        meta: UnixfsMeta,
        used: Option<&Buffers>,
    ) -> Result<Link> {
        let mut builder = FileBuilder::new(self.params());
        let job_count = (IMPORT_LEN_MAX / self.params().chunk_len().max(JOB_LEN)).max(1);
        let mut done = std::pin::pin!(jobs.map(|job| self.put_leaves(job, used)).buffered(job_count));
        while let Some(links) = done.try_next().await? {
            for link in links {
                builder.push(self, link).await?;
            }
        }
        Ok(builder.finish(self, meta).await?.into())
    }

    async fn put_leaves(&self, job: Result<Job>, used: Option<&Buffers>) -> Result<Vec<FileLink>> {
        let leaves = job?.run().await?;
        let mut links = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let block = used.map(|_| leaf.block.clone());
            links.push(self.put_leaf(leaf).await?);
            if let (Some(used), Some(block)) = (used, block) {
                used.give_back(block);
            }
        }
        Ok(links)
    }

    /// Puts a leaf that is hashed already.
    pub(super) async fn put_leaf(&self, leaf: Leaf) -> Result<FileLink> {
        self.put_hashed(&leaf.link.cid, leaf.block).await?;
        Ok(leaf.link)
    }
}

/// The buffers of one import, used again where the store did not keep the block: fresh memory costs a page fault for
/// each 4 KiB of it, about half as much as hashing them.
#[derive(Default)]
struct Buffers(Mutex<VecDeque<Bytes>>);

/// So many are waited for; a store that keeps its blocks gives none back.
const BUFFER_COUNT_MAX: usize = 8;

impl Buffers {
    /// One that the store has let go of, the last given back first: the likeliest to be in the processor's cache. Else
    /// an empty one.
    fn take(&self) -> BytesMut {
        let mut buffers = self.lock();
        let free = buffers.iter().rposition(Bytes::is_unique).and_then(|free| buffers.remove(free));
        drop(buffers);
        free.and_then(|free| free.try_into_mut().ok()).unwrap_or_default()
    }

    /// Stores may hold on to a block for a moment after they put it.
    fn give_back(&self, block: Bytes) {
        let mut buffers = self.lock();
        buffers.push_back(block);
        if buffers.len() > BUFFER_COUNT_MAX {
            buffers.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A few chunks in a row, for one thread to hash.
enum Job {
    /// They are in memory.
    Read(Vec<ChunkBuffer>),
    /// They are yet to be read, by the indices of the chunks.
    At {
        source: Arc<dyn ReadAt>,
        params: Params,
        len: u64,
        meta: UnixfsMeta,
        chunks: Range<u64>,
        buffers: Arc<Buffers>,
    },
}

impl Job {
    async fn run(self) -> Result<Vec<Leaf>> {
        match &self {
            Self::Read(chunks) if chunks.iter().map(ChunkBuffer::len).sum::<usize>() <= HASH_AT_ONCE_LEN_MAX => {
                self.hash()
            }
            _ => on_thread(move || self.hash()).await,
        }
    }

    fn hash(self) -> Result<Vec<Leaf>> {
        match self {
            Self::Read(chunks) => ChunkBuffer::into_leaves(chunks),
            Self::At { source, params, len, meta, chunks, buffers } => {
                let whole = len <= params.chunk_len.into();
                let form = if whole { LeafForm::whole(&params, meta) } else { LeafForm::new(&params) };
                let mut read = Vec::new();
                for index in chunks {
                    let range = params.chunk_range(index, len);
                    if range.end == len {
                        check_end(&*source, len)?;
                    }
                    if range.is_empty() && params.layout == Layout::Trickle {
                        break;
                    }
                    let chunk_len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
                    let mut chunk = form.buffer_in(buffers.take(), chunk_len)?;
                    chunk.read(&*source, range.start)?;
                    read.push(chunk);
                }
                ChunkBuffer::into_leaves(read)
            }
        }
    }
}

/// Does work that takes a processor for long, or blocks, where it is in nobody's way; here where no runtime has threads
/// for it.
pub(crate) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return work() };
    let result = runtime.spawn_blocking(work).await;
    result.map_err(|error| Error::new(ErrorKind::Internal, "dag.thread").because(error))?
}

/// A reader and what comes next of it: one chunk is read ahead, to know which is the last.
struct Reader<R> {
    source: R,
    params: Params,
    meta: UnixfsMeta,
    next: Next,
}

enum Next {
    First,
    Chunk(ChunkBuffer),
    End,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn job(&mut self) -> Result<Option<Job>> {
        let next = std::mem::replace(&mut self.next, Next::End);
        let is_first = matches!(next, Next::First);
        let mut chunk = match next {
            Next::First => self.chunk().await?,
            Next::Chunk(chunk) => chunk,
            Next::End => return Ok(None),
        };
        if chunk.len() == 0 && self.params.layout == Layout::Trickle {
            return Ok(None);
        }
        let mut chunks = Vec::new();
        loop {
            let is_last = chunk.len() < self.params.chunk_len();
            chunks.push(chunk);
            let ahead = if is_last { None } else { Some(self.chunk().await?) };
            match ahead.filter(|ahead| ahead.len() > 0) {
                Some(ahead) if chunks.len() * self.params.chunk_len() < JOB_LEN => chunk = ahead,
                Some(ahead) => {
                    self.next = Next::Chunk(ahead);
                    break;
                }
                None => {
                    if let [only] = chunks.as_mut_slice()
                        && is_first
                    {
                        only.set_form(LeafForm::whole(&self.params, self.meta));
                    }
                    break;
                }
            }
        }
        Ok(Some(Job::Read(chunks)))
    }

    async fn chunk(&mut self) -> Result<ChunkBuffer> {
        let mut chunk = LeafForm::new(&self.params).buffer(self.params.chunk_len())?;
        chunk.fill(&mut self.source).await.map_err(|error| from_io("dag.import", error))?;
        Ok(chunk)
    }
}
