//! The [`Media`] in memory: what tests and `/mem` keep their logs in.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Media, Segment, SegmentId};
use crate::{Error, ErrorKind, Result};

/// A [`Media`] in memory: what is appended is at once as durable as it will ever be.
///
/// ```
/// use muxfs::media::{Media, MemMedia, SegmentId};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let media = MemMedia::default();
/// assert_eq!(media.append(SegmentId(0), "hello".into()).await?, 0);
/// assert_eq!(media.append(SegmentId(0), " world".into()).await?, 5);
/// assert_eq!(media.read_at(SegmentId(0), 6, 100).await?, "world");
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
#[derive(Default)]
pub struct MemMedia {
    segments: Mutex<BTreeMap<SegmentId, Vec<u8>>>,
}

impl MemMedia {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Vec<u8>>> {
        // Nothing is left half done where the lock is held, so a panic elsewhere spoils nothing.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Debug for MemMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemMedia({} segments)", self.lock().len())
    }
}

#[async_trait]
impl Media for MemMedia {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        self.append_vectored(segment, vec![bytes]).await
    }

    async fn append_vectored(&self, segment: SegmentId, parts: Vec<Bytes>) -> Result<u64> {
        let mut segments = self.lock();
        let content = segments.entry(segment).or_default();
        let offset = content.len() as u64;
        for part in parts {
            content.extend_from_slice(&part);
        }
        Ok(offset)
    }

    async fn sync(&self, segment: SegmentId) -> Result<()> {
        self.lock().get(&segment).map(|_| ()).ok_or_else(|| missing("media.sync", segment))
    }

    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        let segments = self.lock();
        let content = segments.get(&segment).ok_or_else(|| missing("media.read_at", segment))?;
        let start = usize::try_from(offset).map_or(content.len(), |offset| offset.min(content.len()));
        let end = start.saturating_add(len as usize).min(content.len());
        Ok(Bytes::copy_from_slice(&content[start..end]))
    }

    async fn segments(&self) -> Result<Vec<Segment>> {
        Ok(self.lock().iter().map(|(id, content)| Segment { id: *id, len: content.len() as u64 }).collect())
    }

    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.lock().remove(&segment);
        Ok(())
    }
}

fn missing(op: &'static str, segment: SegmentId) -> Error {
    Error::new(ErrorKind::NotFound, op).at(segment)
}
