//! The [`Media`] in memory: what tests and `/mem` keep their logs in.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Media, Segment, SegmentId};
use crate::{Error, ErrorKind, Result};

/// How much memory some stores may take together; each says what it takes and gives back.
#[derive(Debug)]
pub struct MemLimit {
    len_max: usize,
    used: AtomicUsize,
}

impl MemLimit {
    /// A limit of so many bytes.
    ///
    /// ```
    /// let limit = muxfs::media::MemLimit::new(1 << 20);
    /// assert_eq!((limit.len_max(), limit.used_len()), (1 << 20, 0));
    /// ```
    pub fn new(len_max: usize) -> Self {
        Self { len_max, used: AtomicUsize::new(0) }
    }

    /// How many bytes there may be.
    pub fn len_max(&self) -> usize {
        self.len_max
    }

    /// How many are taken.
    pub fn used_len(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes so many bytes, or none: then `NoSpace`.
    pub(crate) fn take(&self, len: usize, op: &'static str) -> Result<()> {
        let more = |used: usize| used.checked_add(len).filter(|used| *used <= self.len_max);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(used) => {
                Err(Error::new(ErrorKind::NoSpace, op).because(format!("{used} of {} bytes are used", self.len_max)))
            }
        }
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, len: usize) {
        self.used.fetch_sub(len, Ordering::Relaxed);
    }
}

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
    limit: Option<Arc<MemLimit>>,
}

impl MemMedia {
    /// A media that takes no more than `limit` leaves: an append past it is `NoSpace`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use muxfs::{ErrorKind, media::{Media, MemLimit, MemMedia, SegmentId}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let media = MemMedia::within(Arc::new(MemLimit::new(8)));
    /// media.append(SegmentId(0), "hello".into()).await?;
    /// let full = media.append(SegmentId(0), " world".into()).await.unwrap_err();
    /// assert_eq!(full.kind(), ErrorKind::NoSpace);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn within(limit: Arc<MemLimit>) -> Self {
        Self { segments: Mutex::default(), limit: Some(limit) }
    }

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
        if let Some(limit) = &self.limit {
            limit.take(parts.iter().map(Bytes::len).sum(), "media.append")?;
        }
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
        let removed = self.lock().remove(&segment);
        if let (Some(limit), Some(content)) = (&self.limit, removed) {
            limit.give(content.len());
        }
        Ok(())
    }
}

fn missing(op: &'static str, segment: SegmentId) -> Error {
    Error::new(ErrorKind::NotFound, op).at(segment)
}
