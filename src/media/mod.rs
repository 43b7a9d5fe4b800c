//! The disk under a log: segments that only grow.
//!
//! The lowest seam: [`Log`](crate::log::Log) and [`Segments`](crate::block::Segments) keep everything they have in
//! segments of a `Media`, and never see a file. Few small calls, so that a test can stop the world between any two of
//! them and a wrapper can keep nothing in clear. [`MemMedia`] keeps segments in memory, [`SealedMedia`] encrypts those of another
//! media, [`OverlayMedia`] shows those of another and changes none; files are `muxfs_local::FileMedia`. The laws are in `testing::media`. Spec: spec/media.md.

mod mem;
mod overlay;
mod sealed;

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

pub use self::{
    mem::{MemLimit, MemMedia},
    overlay::OverlayMedia,
    sealed::SealedMedia,
};
use crate::Result;

/// The number of a segment, below 2^63: the owner of the media gives them out, ascending, and never gives one twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {:016x}", self.0)
    }
}

/// A segment as [`Media::segments`] lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its number.
    pub id: SegmentId,
    /// How many bytes it holds.
    pub len: u64,
}

/// How a [`Media::append_durable`] ended whose append went well.
#[derive(Debug)]
pub struct Durable {
    /// Where the bytes begin.
    pub offset: u64,
    /// How the sync went. A failure is final, as one of [`Media::sync`] is.
    pub synced: Result<()>,
    /// Whether the mark was added; where it was not, nothing was, and it may be tried again.
    pub is_marked: bool,
}

/// The disk under a log: segments that only grow. A crash can be simulated between any two calls.
///
/// After a crash a segment holds what was synced and then perhaps a part of what was not, the last bytes torn, and zeros
/// perhaps; a removed one may be back, whole, unless another of its number was synced. Nothing is truncated: whoever reopens begins a new segment.
#[async_trait]
pub trait Media: Debug + Send + Sync + 'static {
    /// Adds `bytes` at the end and returns the offset they begin at. The first append makes the segment.
    ///
    /// One appender at a time per segment; readable when it returns, durable after `sync`. After an error nothing was
    /// added, and whoever tries again appends at the same offset. A dropped call adds all or nothing, perhaps after it
    /// was dropped: an owner that goes on appending lets none be dropped.
    ///
    /// # Errors
    /// `NoSpace`, `Quota`, `ReadOnly`, `Io`.
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64>;

    /// Adds `parts` one after the other: the same as `append` of them joined, but a disk need not copy them together.
    ///
    /// # Errors
    /// As `append`.
    async fn append_vectored(&self, segment: SegmentId, parts: Vec<Bytes>) -> Result<u64> {
        self.append(segment, join(parts)).await
    }

    /// Makes the segment, and every append to it that returned before, durable.
    ///
    /// # Errors
    /// `NotFound` if it does not exist; else `Io`. A failure is final: what was not durable then never counts as
    /// durable.
    async fn sync(&self, segment: SegmentId) -> Result<()>;

    /// Adds `parts`, makes the segment durable, and then adds `mark`, which may say so: the same as `append_vectored`,
    /// `sync` and `append`, each only if the one before went well. A disk need not be asked three times.
    ///
    /// # Errors
    /// As `append_vectored`: nothing was added. What fails later is in the value.
    async fn append_durable(&self, segment: SegmentId, parts: Vec<Bytes>, mark: Bytes) -> Result<Durable> {
        let offset = self.append_vectored(segment, parts).await?;
        let synced = self.sync(segment).await;
        let is_marked = synced.is_ok() && self.append(segment, mark).await.is_ok();
        Ok(Durable { offset, synced, is_marked })
    }

    /// The bytes from `offset`; short only at the end of the segment, empty past it.
    ///
    /// # Errors
    /// `NotFound` if it does not exist; else `Io`.
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes>;

    /// All segments, ascending.
    async fn segments(&self) -> Result<Vec<Segment>>;

    /// Removes a segment. Idempotent. After a crash it may be back, whole, unless another of its number was synced.
    async fn remove(&self, segment: SegmentId) -> Result<()>;
}

// Forwards every method: one left to its default would silently lose the inner media's better one.
#[async_trait]
impl<M: Media + ?Sized> Media for Arc<M> {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        (**self).append(segment, bytes).await
    }
    async fn append_vectored(&self, segment: SegmentId, parts: Vec<Bytes>) -> Result<u64> {
        (**self).append_vectored(segment, parts).await
    }
    async fn sync(&self, segment: SegmentId) -> Result<()> {
        (**self).sync(segment).await
    }
    async fn append_durable(&self, segment: SegmentId, parts: Vec<Bytes>, mark: Bytes) -> Result<Durable> {
        (**self).append_durable(segment, parts, mark).await
    }
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        (**self).read_at(segment, offset, len).await
    }
    async fn segments(&self) -> Result<Vec<Segment>> {
        (**self).segments().await
    }
    async fn remove(&self, segment: SegmentId) -> Result<()> {
        (**self).remove(segment).await
    }
}

/// Joins parts into one buffer; a single part is passed on as it is.
pub(crate) fn join(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() == 1 {
        return parts.pop().unwrap_or_default();
    }
    let mut joined = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in &parts {
        joined.extend_from_slice(part);
    }
    joined.freeze()
}
