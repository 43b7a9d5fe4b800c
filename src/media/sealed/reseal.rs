//! Another key for what is sealed, while it is read and appended to.
//!
//! A segment stays what it is to who appends and reads: its copy under the newest key is made in the other of two places
//! that a segment may have on the inner media, which its number tells, and what was before is removed when the copy is
//! durable. After a crash both may be there: the copy counts if it is whole. Spec: spec/sealed.md #another-key.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::{
    Known, Opened, SealedMedia,
    record::Sealer,
    scan::{Scanned, Table, scan},
    seal,
};
use crate::{
    Error, ErrorKind, Result, SecretKey,
    media::{Segment, SegmentId},
};

const OP: &str = "sealed_media.reseal";
/// Segments have lower numbers; on the inner media one that is sealed again is called so, and back.
const OTHER: u64 = 1 << 63;
/// So much is copied at once, in bytes.
const COPY_LEN: u32 = 1 << 20;

/// How long a segment is in each of its places, where it is there.
pub(super) type Lens = [Option<u64>; 2];

/// The other place of a segment.
pub(super) fn other(place: SegmentId) -> SegmentId {
    SegmentId(place.0 ^ OTHER)
}

/// Whether a number is that of another place, and of no segment.
pub(super) fn is_other(place: SegmentId) -> bool {
    place.0 & OTHER != 0
}

/// What was copied of a segment so far.
struct Copy<'a> {
    key: &'a SecretKey,
    sealer: Sealer,
    segment: SegmentId,
    place: SegmentId,
    table: Table,
    synced: u64,
}

impl SealedMedia {
    /// Seals with `newest` from now on; what was sealed with `older`, or with what was given before, is still read. What
    /// is in neither is read no more: see [`SealedMedia::reseal`].
    ///
    /// A call that is under way may still begin a segment with a key of before; the next `reseal` finds it.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{SecretKey, media::{Media, MemMedia, SealedMedia, SegmentId}, testing::env};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (inner, old, new) = (Arc::new(MemMedia::default()), SecretKey::new([1; 32]), SecretKey::new([2; 32]));
    /// let media = SealedMedia::new(inner.clone(), old.clone(), env());
    /// media.append(SegmentId(0), "hello".into()).await?;
    /// media.set_keys(new.clone(), [old]);
    /// media.reseal().await?;
    /// assert_eq!(SealedMedia::new(inner, new, env()).read_at(SegmentId(0), 0, 9).await?, "hello");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn set_keys(&self, newest: SecretKey, older: impl IntoIterator<Item = SecretKey>) {
        let mut keys = vec![newest];
        keys.extend(older);
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Seals again, with the newest key, what is sealed with an older one: when it returns nothing is left that was, and
    /// what there is is durable. Others read and append meanwhile. Where it stops, another call goes on.
    ///
    /// # Errors
    /// `Io` for a segment whose last append or sync failed, which its owner has to leave first; `Corrupt`; those of the
    /// media. All is as readable as before.
    pub async fn reseal(&self) -> Result<()> {
        let listed = self.lens().await?;
        // One whose first append is under way is not listed.
        let opened: Vec<_> = self.segments_lock().keys().copied().collect();
        let none = opened.into_iter().map(|segment| (segment, Lens::default()));
        let all: BTreeMap<_, _> = none.chain(listed).collect();
        for (segment, lens) in all {
            let _turn = self.moving.lock().await;
            self.reseal_one(segment).await?;
            let opened = self.cell(segment);
            if let (Some(opened), [Some(_), Some(_)]) = (opened, lens) {
                self.inner.remove(other(opened.place)).await?;
            }
        }
        Ok(())
    }

    /// A segment that was opened before.
    pub(super) fn cell(&self, segment: SegmentId) -> Option<Arc<Opened>> {
        self.segments_lock().get(&segment).and_then(|cell| cell.get().cloned())
    }

    async fn reseal_one(&self, segment: SegmentId) -> Result<()> {
        let newest = self.newest(segment)?;
        let opened = match self.opened(OP, segment, None, false).await {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Unless its first append is under way.
                let Some(opened) = self.cell(segment) else { return Ok(()) };
                opened
            }
            Err(error) => return Err(error),
        };
        // Whoever appends first has chosen the key by then.
        drop(opened.writer.lock().await);
        if !opened.known().exists || opened.known().key.as_bytes() == newest.as_bytes() {
            return Ok(());
        }
        let place = other(opened.place);
        self.inner.remove(place).await?;
        let moved = match self.reseal_to(&opened, segment, place, newest).await {
            Ok(moved) => moved,
            Err(error) => {
                // What there is of the copy would fill the disk until the next attempt.
                self.inner.remove(place).await.ok();
                return Err(error);
            }
        };
        self.inner.remove(moved).await
    }

    /// Makes a copy under another key, which is the segment from then on; where it was before.
    async fn reseal_to(
        &self,
        opened: &Opened,
        segment: SegmentId,
        place: SegmentId,
        newest: SecretKey,
    ) -> Result<SegmentId> {
        let sealer = self.sealer(&newest, segment);
        let mut copy = Copy { key: &newest, sealer, segment, place, table: Table::default(), synced: 0 };
        // All but the last byte; so the last record says that those before it are durable.
        let most = opened.known().table.end().plain.saturating_sub(1);
        if most > 0 {
            self.copy(opened, &mut copy, most).await?;
            self.inner.sync(place).await?;
            copy.synced = most;
        }
        let _writer = {
            let writer = opened.writer.lock().await;
            if writer.is_lost || opened.known().is_sync_failed {
                let why = "its last append or sync failed: open it anew first";
                return Err(Error::new(ErrorKind::Io, OP).at(segment).because(why));
            }
            writer
        };
        let end = opened.known().table.end().plain;
        self.copy(opened, &mut copy, end).await?;
        self.inner.sync(place).await?;
        let is_cut = opened.known().is_cut;
        let known = Known { table: copy.table, synced: end, is_cut, exists: true, ..Known::new(newest.clone()) };
        let moved = OnceCell::new_with(Some(Opened::new(place, known)));
        self.segments_lock().insert(segment, moved.into());
        opened.is_moved.store(true, Ordering::Release);
        Ok(opened.place)
    }

    /// Goes on with a copy until it holds the first `end` bytes.
    async fn copy(&self, opened: &Opened, copy: &mut Copy<'_>, end: u64) -> Result<()> {
        let &mut Copy { key, segment, place, synced, .. } = copy;
        loop {
            let at = copy.table.end();
            let len = u32::try_from(end - at.plain).unwrap_or(COPY_LEN).min(COPY_LEN);
            let bytes = if len == 0 { Bytes::new() } else { self.read(opened, segment, at.plain, len).await? };
            if bytes.is_empty() && at.inner > 0 {
                return Ok(());
            }
            let (added, headers) = seal(key, segment, &copy.sealer, at, synced, &bytes);
            if self.inner.append(place, added).await? != at.inner {
                return Err(Error::new(ErrorKind::Io, OP).at(segment).because("another appends to its copy"));
            }
            if at.inner == 0 {
                copy.table.begin();
            }
            for header in headers {
                copy.table.push(header.len, header.record_len());
            }
        }
    }

    /// Which segments there are on the inner media, and where.
    pub(super) async fn lens(&self) -> Result<BTreeMap<SegmentId, Lens>> {
        let mut lens = BTreeMap::<_, Lens>::new();
        for Segment { id, len } in self.inner.segments().await? {
            let [first, second] = lens.entry(SegmentId(id.0 & !OTHER)).or_default();
            *(if is_other(id) { second } else { first }) = Some(len);
        }
        Ok(lens)
    }

    /// Opens a segment: where it is, and what is known of it. Of two the one with the newer key, if it is whole; the other
    /// goes.
    pub(super) async fn scan(&self, segment: SegmentId, lens: Lens) -> Result<Option<(SegmentId, Known)>> {
        let (first, second) = (segment, other(segment));
        match lens {
            [None, None] => Ok(None),
            [Some(len), None] => Ok(Some((first, self.scan_place(segment, first, len).await?.1))),
            [None, Some(len)] => Ok(Some((second, self.scan_place(segment, second, len).await?.1))),
            [Some(first_len), Some(second_len)] => {
                let one = self.scan_place(segment, first, first_len).await;
                let two = self.scan_place(segment, second, second_len).await;
                let ((place, known), gone) = match (one, two) {
                    (Ok((older, one)), Ok((newer, two))) => {
                        // The lower the number, the newer the key.
                        let (copy, before, is_first) =
                            if older < newer { (&one, &two, true) } else { (&two, &one, false) };
                        let is_whole = copy.table.end().plain >= before.table.end().plain;
                        if is_whole == is_first { ((first, one), second) } else { ((second, two), first) }
                    }
                    // Of a key that is known no more: it was sealed again.
                    (Ok((_, one)), Err(error)) if error.kind() == ErrorKind::BadKey => ((first, one), second),
                    (Err(error), Ok((_, two))) if error.kind() == ErrorKind::BadKey => ((second, two), first),
                    (Err(error), _) | (_, Err(error)) => return Err(error),
                };
                // Where only the process ended, it need not be durable yet.
                self.inner.sync(place).await?;
                self.inner.remove(gone).await?;
                Ok(Some((place, known)))
            }
        }
    }

    /// Opens what is in one place, with the key that it was sealed with, and which of them that is.
    async fn scan_place(&self, segment: SegmentId, place: SegmentId, len: u64) -> Result<(usize, Known)> {
        let (mut headless, mut refused) = (None, None);
        for (index, key) in self.keys().into_iter().enumerate() {
            match scan(&*self.inner, &key, segment, place, len).await {
                Ok(Scanned { table, synced, is_cut }) => {
                    let has_header = table.end().inner > 0;
                    let known = Known { table, synced, is_cut, exists: true, ..Known::new(key) };
                    if has_header {
                        return Ok((index, known));
                    }
                    // Any key suits, unless one knows what follows.
                    headless.get_or_insert((index, known));
                }
                Err(error) if error.kind() == ErrorKind::BadKey => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        let none = || Error::new(ErrorKind::Internal, OP).at(segment).because("there is no key");
        headless.ok_or_else(|| refused.unwrap_or_else(none))
    }
}
