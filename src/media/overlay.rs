//! A media over another that it never changes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{Media, Segment, SegmentId};
use crate::{Error, ErrorKind, Result};

/// Shows what another [`Media`] holds and keeps every change in memory: what opens a log over it recovers as it would, and
/// the media below stays as it is, byte for byte.
///
/// For who looks and must not touch. Changes are gone when it is dropped; nobody else changes the media below meanwhile.
///
/// ```
/// use std::sync::Arc;
/// use muxfs::media::{Media, MemMedia, OverlayMedia, SegmentId};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let below = Arc::new(MemMedia::default());
/// below.append(SegmentId(1), "hello".into()).await?;
/// let over = OverlayMedia::new(below.clone());
/// over.append(SegmentId(1), ", world".into()).await?;
/// assert_eq!(over.read_at(SegmentId(1), 3, 6).await?, "lo, wo");
/// over.remove(SegmentId(1)).await?;
/// assert_eq!(below.read_at(SegmentId(1), 0, 99).await?, "hello");
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct OverlayMedia {
    below: Arc<dyn Media>,
    changes: Mutex<BTreeMap<SegmentId, Change>>,
}

/// What became of a segment.
#[derive(Debug)]
enum Change {
    Removed,
    /// So many bytes of the media below, and these behind them.
    Appended(u64, Vec<u8>),
}

impl OverlayMedia {
    /// Lays nothing over `below`.
    pub fn new(below: Arc<dyn Media>) -> Self {
        Self { below, changes: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Change>> {
        // What is done under the lock is done in single steps.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn len_below(&self, segment: SegmentId) -> Result<Option<u64>> {
        let segments = self.below.segments().await?;
        Ok(segments.iter().find(|there| there.id == segment).map(|there| there.len))
    }
}

fn missing(op: &'static str, segment: SegmentId) -> Error {
    Error::new(ErrorKind::NotFound, op).at(segment)
}

#[async_trait]
impl Media for OverlayMedia {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        let below = self.len_below(segment).await?.unwrap_or(0);
        let mut changes = self.lock();
        let change = changes.entry(segment).or_insert_with(|| Change::Appended(below, Vec::new()));
        if let Change::Removed = change {
            *change = Change::Appended(0, Vec::new());
        }
        let Change::Appended(below, above) = change else { return Err(missing("media.append", segment)) };
        let offset = *below + above.len() as u64;
        above.extend_from_slice(&bytes);
        Ok(offset)
    }

    async fn sync(&self, segment: SegmentId) -> Result<()> {
        match self.lock().get(&segment) {
            Some(Change::Appended(..)) => return Ok(()),
            Some(Change::Removed) => return Err(missing("media.sync", segment)),
            None => {}
        }
        match self.len_below(segment).await? {
            Some(_) => Ok(()),
            None => Err(missing("media.sync", segment)),
        }
    }

    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        let (below, above) = match self.lock().get(&segment) {
            None => (None, Bytes::new()),
            Some(Change::Removed) => return Err(missing("media.read_at", segment)),
            Some(Change::Appended(below, above)) => {
                let start = offset.saturating_sub(*below);
                let end = offset.saturating_add(len.into()).saturating_sub(*below);
                let [start, end] = [start, end].map(|at| usize::try_from(at).unwrap_or(usize::MAX).min(above.len()));
                (Some(*below), Bytes::copy_from_slice(above.get(start..end).unwrap_or_default()))
            }
        };
        let Some(below) = below else { return self.below.read_at(segment, offset, len).await };
        let len = u32::try_from(below.saturating_sub(offset).min(len.into())).unwrap_or(len);
        if len == 0 {
            return Ok(above);
        }
        let mut bytes = BytesMut::from(&*self.below.read_at(segment, offset, len).await?);
        bytes.extend_from_slice(&above);
        Ok(bytes.freeze())
    }

    async fn segments(&self) -> Result<Vec<Segment>> {
        let below = self.below.segments().await?;
        let mut all: BTreeMap<SegmentId, u64> = below.into_iter().map(|there| (there.id, there.len)).collect();
        for (id, change) in &*self.lock() {
            match change {
                Change::Removed => drop(all.remove(id)),
                Change::Appended(below, above) => drop(all.insert(*id, below + above.len() as u64)),
            }
        }
        Ok(all.into_iter().map(|(id, len)| Segment { id, len }).collect())
    }

    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.lock().insert(segment, Change::Removed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        media::MemMedia,
        media_laws,
        testing::media::{image, load},
    };

    media_laws!(overlay, async { OverlayMedia::new(Arc::new(MemMedia::default())) });

    /// Whatever is done above, below stays what it was.
    #[tokio::test]
    async fn the_media_below_is_never_changed() {
        let before = [(SegmentId(1), b"one".to_vec()), (SegmentId(5), b"five".to_vec())].into();
        let below = load(&before).await;
        let over = OverlayMedia::new(below.clone());
        assert_eq!(over.append(SegmentId(5), " and".into()).await.expect("append"), 4);
        assert_eq!(over.append(SegmentId(5), " more".into()).await.expect("append"), 8);
        over.append(SegmentId(6), "six".into()).await.expect("append");
        over.remove(SegmentId(1)).await.expect("remove");
        assert_eq!(over.read_at(SegmentId(5), 2, 8).await.expect("read"), "ve and m");
        assert_eq!(over.read_at(SegmentId(5), 9, 99).await.expect("read"), "more");
        assert_eq!(over.read_at(SegmentId(1), 0, 9).await.expect_err("removed").kind(), ErrorKind::NotFound);
        let lens: Vec<u64> = over.segments().await.expect("segments").iter().map(|there| there.len).collect();
        assert_eq!(lens, [13, 3]);
        assert_eq!(over.append(SegmentId(1), "anew".into()).await.expect("append"), 0);
        assert_eq!(over.read_at(SegmentId(1), 0, 9).await.expect("read"), "anew");
        assert_eq!(image(&*below).await, before);
    }
}
