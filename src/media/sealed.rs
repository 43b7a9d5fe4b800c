//! A [`Media`] that keeps nothing in clear.
//!
//! Sits between a log and the media on the disk of whoever encrypts: journals, pins and heads of such a mount. Every
//! append becomes records of at most 64 KiB, each sealed with AES-256-GCM under a key of its own segment, bound to its
//! place, and padded so that not even lengths are exact. So a read opens what it touches and no more, and nothing can be
//! moved, dropped or joined unseen. Callers see plain offsets. Spec: spec/sealed.md #media.
//!
//! A nonce is the place of a record, and a place is sealed once under one key: another opening, or an append after one
//! that failed, draws a new salt and so has a new key; a segment that a crash cut takes no more appends at all.
//!
//! Where its key is replaced, what was sealed is sealed again, segment by segment, while all goes on ([`reseal`]).

mod record;
mod reseal;
mod scan;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use self::{
    record::{
        Opener, RECORD_HEADER_LEN, RECORD_LEN_MAX, RecordHeader, SEGMENT_HEADER_LEN, Salt, Sealer, SegmentHeader,
    },
    reseal::{Lens, is_other, other},
    scan::{Place, Table, Window, corrupt, open},
};
use super::{Durable, Media, Segment, SegmentId, join};
use crate::{Env, Error, ErrorKind, Result, SecretKey};

/// A [`Media`] over another that seals all it is given: AES-256-GCM, bound to segment and place.
///
/// Offsets and lengths are those of the plain bytes. Beyond the laws of `Media`: a segment that a crash cut is
/// `ReadOnly`, damage is `Corrupt`, another key `BadKey`, a segment of a newer version `Unsupported`; every call may say
/// so. The first call that meets a segment reads through its headers, and through what was not surely durable.
///
/// Its key can be [replaced](Self::set_keys) while it is used. Segments have numbers below 2^63.
///
/// One at a time over a media: the caller sees to it.
pub struct SealedMedia {
    inner: Arc<dyn Media>,
    /// The one that new segments are sealed with, then those that others may be, from newer to older.
    keys: Mutex<Vec<SecretKey>>,
    env: Env,
    segments: Mutex<Cells>,
    /// Whoever holds it seals a segment again, or removes one.
    moving: AsyncMutex<()>,
}

type Cells = BTreeMap<SegmentId, Arc<OnceCell<Arc<Opened>>>>;

impl fmt::Debug for SealedMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedMedia").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// A segment whose records are known.
struct Opened {
    /// What the inner one is called.
    place: SegmentId,
    /// Held by whoever appends.
    writer: AsyncMutex<Writer>,
    known: Mutex<Known>,
    /// Whether it was sealed again: who has this one looks for the other.
    is_moved: AtomicBool,
}

#[derive(Default)]
struct Writer {
    /// What the next record is sealed with, if the last append went well.
    sealer: Option<Sealer>,
    /// Whether an append began of which nobody knows how it ended.
    is_lost: bool,
}

struct Known {
    /// What it is sealed with.
    key: SecretKey,
    table: Table,
    /// How far it is durable.
    synced: u64,
    /// Whether a sync failed: what is durable then never grows.
    is_sync_failed: bool,
    /// Whether a crash cut it.
    is_cut: bool,
    /// Whether it is on the media.
    exists: bool,
}

impl Known {
    /// One that is not there.
    fn new(key: SecretKey) -> Self {
        let table = Table::default();
        Self { key, table, synced: 0, is_sync_failed: false, is_cut: false, exists: false }
    }
}

impl Opened {
    fn new(place: SegmentId, known: Known) -> Arc<Self> {
        Arc::new(Self {
            place,
            writer: AsyncMutex::default(),
            known: Mutex::new(known),
            is_moved: AtomicBool::new(false),
        })
    }

    fn is_moved(&self) -> bool {
        self.is_moved.load(Ordering::Acquire)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing is left half done where the lock is held, so a panic elsewhere spoils nothing.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SealedMedia {
    /// Seals with `key` what `inner` is given; salts are drawn from `env`.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{SecretKey, media::{Media, MemMedia, SealedMedia, SegmentId}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let inner = Arc::new(MemMedia::default());
    /// let sealed = SealedMedia::new(inner.clone(), SecretKey::new([7; 32]), muxfs::testing::env());
    /// sealed.append(SegmentId(0), "hello".into()).await?;
    /// assert_eq!(sealed.read_at(SegmentId(0), 1, 3).await?, "ell");
    /// assert!(!inner.read_at(SegmentId(0), 0, 1000).await?.windows(5).any(|bytes| bytes == b"hello"));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(inner: Arc<dyn Media>, key: SecretKey, env: Env) -> Self {
        let (keys, segments, moving) = (Mutex::new(vec![key]), Mutex::default(), AsyncMutex::default());
        Self { inner, keys, env, segments, moving }
    }

    fn segments_lock(&self) -> MutexGuard<'_, Cells> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> Vec<SecretKey> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What segments are sealed with that begin now.
    fn newest(&self, segment: SegmentId) -> Result<SecretKey> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let none = || Error::new(ErrorKind::Internal, "sealed_media.append").at(segment).because("there is no key");
        keys.first().cloned().ok_or_else(none)
    }

    /// The segment, scanned if it was not yet; `lens` are those of the inner ones, if known. With `make`, one that does not
    /// exist is empty; without, `NotFound`.
    async fn opened(
        &self,
        op: &'static str,
        segment: SegmentId,
        lens: Option<Lens>,
        make: bool,
    ) -> Result<Arc<Opened>> {
        let missing = || Error::new(ErrorKind::NotFound, op).at(segment);
        let cell = self.segments_lock().entry(segment).or_default().clone();
        let opened = cell.get_or_try_init(|| async {
            let lens = match lens {
                Some(lens) => lens,
                None => self.lens().await?.remove(&segment).unwrap_or_default(),
            };
            match self.scan(segment, lens).await? {
                Some((place, known)) => Ok(Opened::new(place, known)),
                None if make => Ok(Opened::new(segment, Known::new(self.newest(segment)?))),
                None => Err(missing()),
            }
        });
        let opened = opened.await.cloned();
        if opened.is_err() {
            let mut segments = self.segments_lock();
            // Cells are shared under this lock alone: nobody else has it, so asking for segments takes no memory.
            if Arc::strong_count(&cell) == 2 && !cell.initialized() {
                segments.remove(&segment);
            }
        }
        let opened = opened?;
        if make || opened.known().exists { Ok(opened) } else { Err(missing()) }
    }

    fn sealer(&self, key: &SecretKey, segment: SegmentId) -> Sealer {
        let mut salt = [0; 16];
        (self.env.fill)(&mut salt);
        Sealer::new(key, segment, Salt(salt))
    }

    async fn read(&self, opened: &Opened, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        let (key, end, (mut at, last)) = {
            let known = opened.known();
            let end = offset.saturating_add(len.into()).min(known.table.end().plain);
            (known.key.clone(), end, known.table.around(offset, end))
        };
        if offset >= end {
            return Ok(Bytes::new());
        }
        let mut window = Window::new(&*self.inner, opened.place).sized(last.inner.saturating_sub(at.inner));
        let mut records = Opener::new(&key, segment);
        let mut read = BytesMut::with_capacity(usize::try_from(end - offset).unwrap_or(0));
        while at.plain < end {
            let header = records.open_header(at.inner, &window.at(at.inner, RECORD_HEADER_LEN).await?);
            let header = header.filter(|header| header.offset == at.plain).ok_or_else(|| corrupt(segment, at))?;
            if header.end() > offset {
                let bytes = open(&mut window, &mut records, at, header).await?.ok_or_else(|| corrupt(segment, at))?;
                let place = |offset: u64| usize::try_from(offset - at.plain).unwrap_or(usize::MAX);
                let wanted = place(offset.max(at.plain))..place(end.min(header.end()));
                read.extend_from_slice(bytes.get(wanted).unwrap_or_default());
            }
            at = Place { plain: header.end(), inner: at.inner + header.record_len() as u64 };
        }
        Ok(read.freeze())
    }
}

impl SealedMedia {
    /// Adds `bytes`; with a mark makes them durable, and then adds that.
    async fn add(&self, segment: SegmentId, bytes: Bytes, mark: Option<Bytes>) -> Result<Durable> {
        const OP: &str = "sealed_media.append";
        if is_other(segment) {
            let why = "segments have numbers below 2^63";
            return Err(Error::new(ErrorKind::InvalidArgument, OP).at(segment).because(why));
        }
        let mut opened = self.opened(OP, segment, None, true).await?;
        let mut writer = opened.writer.lock().await;
        while opened.is_moved() {
            drop(writer);
            opened = self.opened(OP, segment, None, true).await?;
            writer = opened.writer.lock().await;
        }
        let newest = self.newest(segment)?;
        let (key, end, synced, is_cut, is_sync_failed) = {
            let mut known = opened.known();
            if known.table.end().inner == 0 {
                known.key = newest;
            }
            (known.key.clone(), known.table.end(), known.synced, known.is_cut, known.is_sync_failed)
        };
        let refuse = |kind, why: &str| Err(Error::new(kind, OP).at(segment).because(why));
        if is_cut {
            return refuse(ErrorKind::ReadOnly, "a crash cut this segment: begin a new one");
        }
        if writer.is_lost {
            return refuse(ErrorKind::Io, "nobody knows how the last append ended: begin a new segment");
        }
        if bytes.is_empty() && mark.is_none() && end.inner > 0 {
            return Ok(Durable { offset: end.plain, synced: Ok(()), is_marked: false });
        }
        // Taken until the append went well: what one that failed left on a disk is sealed under another key.
        let sealer = writer.sealer.take().unwrap_or_else(|| self.sealer(&key, segment));
        let (added, headers) = seal(&key, segment, &sealer, end, synced, &bytes);
        // It is there only if everything before it is durable.
        let marked_at = Place { plain: end.plain + bytes.len() as u64, inner: end.inner + added.len() as u64 };
        let marked_synced = if is_sync_failed { synced } else { marked_at.plain };
        let mark = mark.map(|mark| seal(&key, segment, &sealer, marked_at, marked_synced, &mark));
        let (mark, mark_headers) = mark.unzip();
        let is_marking = mark.is_some();
        writer.is_lost = true;
        let done = if let Some(mark) = mark {
            self.inner.append_durable(opened.place, vec![added], mark).await
        } else {
            let appended = self.inner.append(opened.place, added).await;
            appended.map(|offset| Durable { offset, synced: Ok(()), is_marked: false })
        };
        writer.is_lost = false;
        let done = done?;
        if done.offset != end.inner {
            writer.is_lost = true;
            return refuse(ErrorKind::Io, "another appends to this segment");
        }
        // A mark that was not added may have left something behind.
        if !is_marking || done.is_marked {
            writer.sealer = Some(sealer);
        }
        let mut known = opened.known();
        if !known.exists || end.inner == 0 {
            known.exists = true;
            known.table.begin();
        }
        known.is_sync_failed |= done.synced.is_err();
        if is_marking && !known.is_sync_failed {
            known.synced = known.synced.max(marked_at.plain);
        }
        let mark_headers = mark_headers.filter(|_| done.is_marked).unwrap_or_default();
        for header in headers.into_iter().chain(mark_headers) {
            known.table.push(header.len, header.record_len());
        }
        Ok(Durable { offset: end.plain, ..done })
    }
}

#[async_trait]
impl Media for SealedMedia {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        Ok(self.add(segment, bytes, None).await?.offset)
    }

    async fn append_vectored(&self, segment: SegmentId, parts: Vec<Bytes>) -> Result<u64> {
        self.append(segment, join(parts)).await
    }

    async fn append_durable(&self, segment: SegmentId, parts: Vec<Bytes>, mark: Bytes) -> Result<Durable> {
        self.add(segment, join(parts), Some(mark)).await
    }

    async fn sync(&self, segment: SegmentId) -> Result<()> {
        loop {
            let opened = self.opened("sealed_media.sync", segment, None, false).await?;
            let end = opened.known().table.end().plain;
            let synced = self.inner.sync(opened.place).await;
            let mut known = opened.known();
            if synced.is_err() && opened.is_moved() {
                continue;
            }
            known.is_sync_failed |= synced.is_err();
            if !known.is_sync_failed {
                known.synced = known.synced.max(end);
            }
            return synced;
        }
    }

    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        loop {
            let opened = self.opened("sealed_media.read_at", segment, None, false).await?;
            let read = self.read(&opened, segment, offset, len).await;
            if read.is_ok() || !opened.is_moved() {
                return read;
            }
        }
    }

    async fn segments(&self) -> Result<Vec<Segment>> {
        let mut segments = Vec::new();
        for (id, lens) in self.lens().await? {
            match self.opened("sealed_media.segments", id, Some(lens), true).await {
                Ok(opened) => segments.push(Segment { id, len: opened.known().table.end().plain }),
                // Removed since.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(segments)
    }

    async fn remove(&self, segment: SegmentId) -> Result<()> {
        let _turn = self.moving.lock().await;
        // What is of no use first: alone it would be taken for the segment.
        let place = self.cell(segment).map_or(segment, |opened| opened.place);
        self.inner.remove(other(place)).await?;
        self.inner.remove(place).await?;
        self.segments_lock().remove(&segment);
        Ok(())
    }
}

/// What is appended at `end` of a segment to add `bytes`, and what its records say.
fn seal(
    key: &SecretKey,
    segment: SegmentId,
    sealer: &Sealer,
    end: Place,
    synced: u64,
    bytes: &[u8],
) -> (Bytes, Vec<RecordHeader>) {
    let begins = end.inner == 0;
    let mut headers = Vec::with_capacity(bytes.len().div_ceil(RECORD_LEN_MAX));
    let mut next = Place { inner: if begins { SEGMENT_HEADER_LEN as u64 } else { end.inner }, ..end };
    for part in bytes.chunks(RECORD_LEN_MAX) {
        let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let header = RecordHeader { at: next.inner, offset: next.plain, synced, len };
        next = Place { plain: header.end(), inner: next.inner + header.record_len() as u64 };
        headers.push(header);
    }
    let mut added = BytesMut::with_capacity(usize::try_from(next.inner - end.inner).unwrap_or(0));
    if begins {
        added.extend_from_slice(&SegmentHeader::encode(key, segment, sealer.salt()));
    }
    for (part, header) in bytes.chunks(RECORD_LEN_MAX).zip(&headers) {
        sealer.seal(*header, part, &mut added);
    }
    (added.freeze(), headers)
}
