//! The disk under a log: segments that only grow.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub id: SegmentId,
    pub len: u64,
}

/// The disk under a log: segments that only grow. A crash can be simulated between any two calls.
///
/// After a crash a segment holds what was synced and then perhaps a part of what was not, the last bytes torn; a
/// removed one may be back, whole. Nothing is truncated: whoever reopens begins a new segment.
#[async_trait]
pub trait Media: Debug + Send + Sync + 'static {
    /// Adds `bytes` at the end and returns the offset they begin at. The first append makes the segment. One appender
    /// at a time per segment; readable when it returns, durable after `sync`.
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64>;
    /// Makes the segment, and every append to it that returned before, durable. A failure is final: what was not
    /// durable then never counts as durable.
    async fn sync(&self, segment: SegmentId) -> Result<()>;
    /// The bytes from `offset`; short only at the end of the segment. `NotFound` if it does not exist.
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes>;
    /// All segments, ascending.
    async fn segments(&self) -> Result<Vec<Segment>>;
    /// Removes a segment. Idempotent.
    async fn remove(&self, segment: SegmentId) -> Result<()>;
}
