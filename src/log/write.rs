//! Writing a log: from the buffer to the media, and making it durable.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use super::{
    COPY_LEN_MAX, LogPos, Placed, Record, WRITE_LEN_MAX,
    frame::{FRAME_HEADER_LEN, Frame, FrameKind, Prepared, SEGMENT_HEADER_LEN, Salt, SegmentHeader, padded},
    replay::Kind,
};
use crate::{
    Error, ErrorKind, Result,
    media::{Media, SegmentId},
};

/// A sync writes no more than this in the same call of the media: nobody else appends to it meanwhile.
const GROUP_LEN_MAX: usize = 128 * 1024;
/// How long the frame of a mark is.
const MARK_LEN: u32 = 24;
const _: () = assert!(FRAME_HEADER_LEN == 24 && MARK_LEN == padded(MARK_LEN));

pub(super) struct Inner {
    pub(super) media: Arc<dyn Media>,
    pub(super) kind: Kind,
    pub(super) salt: Salt,
    pub(super) segment_len_max: u32,
    pub(super) state: Mutex<State>,
    /// Whoever holds it appends to the media.
    pub(super) writer: AsyncMutex<Writer>,
    /// Whoever holds it syncs; the others find it done when they get it.
    pub(super) syncer: Arc<AsyncMutex<()>>,
    /// What goes on in the background.
    pub(super) tasks: TaskTracker,
}

pub(super) struct State {
    /// Where the next frame goes.
    pub(super) next: LogPos,
    /// Behind the last record.
    pub(super) end: LogPos,
    /// Behind the last frame that is on the media.
    pub(super) written: LogPos,
    /// What is before it is durable.
    pub(super) synced: LogPos,
    pub(super) pending: VecDeque<Frame>,
    pub(super) pending_len: usize,
    /// Whether a write in the background is on its way.
    pub(super) writing: bool,
    pub(super) poisoned: Option<String>,
    pub(super) closed: bool,
    /// The log begins with this segment: lower ones are no part of it.
    pub(super) first: SegmentId,
}

pub(super) struct Writer {
    /// The segment that is appended to, once it is made, or the one replay ended in; and where it ends.
    pub(super) last: Option<(SegmentId, u32)>,
    /// Whether `last` was made by this opening and can be appended to.
    pub(super) open: bool,
}

impl State {
    pub(super) fn usable(&self, op: &'static str) -> Result<()> {
        match self.poisoned(op) {
            None if self.closed => Err(Error::new(ErrorKind::Unavailable, op).because("the log was closed")),
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    pub(super) fn poisoned(&self, op: &'static str) -> Option<Error> {
        let why = self.poisoned.as_ref()?;
        Some(
            Error::new(ErrorKind::Io, op)
                .because(format!("an earlier sync failed and the log takes no more until it is reopened: {why}")),
        )
    }

    pub(super) fn push(&mut self, prepared: Prepared, salt: Salt, segment_len_max: u32) -> Placed {
        let len = prepared.padded_len();
        if self.next.offset > SEGMENT_HEADER_LEN && self.next.offset.saturating_add(len) > segment_len_max {
            self.rotate();
        }
        let pos = self.next;
        let synced = if self.synced.segment == pos.segment { self.synced.offset } else { 0 };
        let frame = prepared.place(salt, pos, synced);
        let placed = Placed { pos, len: u32::try_from(frame.len()).unwrap_or(u32::MAX), crc: frame.crc() };
        self.next = frame.end();
        self.pending_len += len as usize;
        self.pending.push_back(frame);
        placed
    }

    /// All that is pending, and the mark that is to follow it, where that is little and all of segment `open`.
    ///
    /// The mark says that what stands before it is durable, which it is not yet; the one that is pending in its place,
    /// should this one not be written, says no more than is true now.
    fn group(&mut self, open: SegmentId, salt: Salt, segment_len_max: u32) -> Option<(Vec<Frame>, Frame)> {
        let fits = self.next.segment == open
            && self.pending.front().is_some_and(|first| first.pos.segment == open)
            && self.pending_len <= GROUP_LEN_MAX
            && self.next.offset <= segment_len_max.saturating_sub(MARK_LEN);
        if !fits {
            return None;
        }
        let frames = self.pending.iter().cloned().collect();
        let mark = || Prepared::new(FrameKind::Mark, Record::default());
        let says_so = mark()?.place(salt, self.next, self.next.offset);
        self.push(mark()?, salt, segment_len_max);
        Some((frames, says_so))
    }

    /// Takes a mark out again that was not written, if nothing came behind it: tried often, they would gather.
    fn take_back(&mut self, mark: &Frame) {
        if self.next == mark.end() && self.pending.pop_back_if(|last| last.pos == mark.pos).is_some() {
            self.next = mark.pos;
            self.pending_len -= MARK_LEN as usize;
        }
    }

    /// Takes note that the media has the first `count` frames that were pending.
    fn written(&mut self, count: usize) {
        for frame in self.pending.drain(..count.min(self.pending.len())) {
            self.pending_len -= frame.len() + frame.padding().len();
            self.written = frame.end();
        }
    }

    /// Lets the next frame go to a segment that no frame was in, and returns where.
    pub(super) fn rotate(&mut self) -> LogPos {
        if self.next.offset > SEGMENT_HEADER_LEN {
            self.next = LogPos { segment: SegmentId(self.next.segment.0 + 1), offset: SEGMENT_HEADER_LEN };
        }
        self.next
    }

    /// The frames that are to be written next, all of one segment.
    pub(super) fn batch(&self) -> Vec<Frame> {
        let Some(first) = self.pending.front() else { return Vec::new() };
        let mut len = 0;
        let fits = |frame: &&Frame| {
            let fits = frame.pos.segment == first.pos.segment && len < WRITE_LEN_MAX;
            len += frame.len();
            fits
        };
        self.pending.iter().take_while(fits).cloned().collect()
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // State changes in single steps that cannot panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_in_background(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        drop(self.tasks.spawn(async move {
            // Whoever appends or syncs next meets the same error and reports it.
            if let Err(error) = inner.write_out().await {
                tracing::debug!(%error, "a write in the background failed");
            }
            inner.lock().writing = false;
        }));
    }

    /// Writes everything that is pending and returns where the media's last frame ends.
    pub(super) async fn write_out(&self) -> Result<LogPos> {
        let mut writer = self.writer.lock().await;
        self.write_pending(&mut writer).await
    }

    pub(super) async fn write_pending(&self, writer: &mut Writer) -> Result<LogPos> {
        loop {
            let batch = {
                let state = self.lock();
                state.usable("log.write")?;
                state.batch()
            };
            let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(self.lock().written) };
            let (start, end) = (first.pos, last.end());
            if !writer.is_open(start.segment) {
                let first = self.lock().first;
                self.begin(writer, start.segment, first).await?;
            }
            let offset = self.media.append_vectored(start.segment, parts(&batch)).await?;
            if offset != u64::from(start.offset) {
                return Err(self.poison(format!("{} is appended to by another, at {offset}", start.segment)));
            }
            writer.last = Some((end.segment, end.offset));
            self.lock().written(batch.len());
        }
    }

    /// Writes what is pending, syncs it and marks that it did, all at once and in one call of the media; `None` where it
    /// takes more than one.
    async fn write_group(&self, writer: &mut Writer) -> Result<Option<LogPos>> {
        let Some((segment, _)) = writer.last.filter(|_| writer.open) else { return Ok(None) };
        let group = {
            let mut state = self.lock();
            state.usable("log.sync")?;
            state.group(segment, self.salt, self.segment_len_max)
        };
        let Some((frames, mark)) = group else { return Ok(None) };
        let (Some(start), end) = (frames.first().map(|frame| frame.pos), mark.pos) else { return Ok(None) };
        let durable = match self.media.append_durable(segment, parts(&frames), mark.front.clone()).await {
            Ok(durable) => durable,
            Err(error) => {
                self.lock().take_back(&mark);
                return Err(error);
            }
        };
        if durable.offset != u64::from(start.offset) {
            return Err(self.poison(format!("{segment} is appended to by another, at {}", durable.offset)));
        }
        writer.last = Some((segment, if durable.is_marked { mark.end() } else { end }.offset));
        self.lock().written(frames.len() + usize::from(durable.is_marked));
        match durable.synced {
            Ok(()) => Ok(Some(end)),
            Err(error) => Err(self.sync_failed(&error).await),
        }
    }

    /// Makes a segment, durably, after what is before it is durable; it says that the log begins with `first`.
    pub(super) async fn begin(&self, writer: &mut Writer, segment: SegmentId, first: SegmentId) -> Result<()> {
        self.sync_last(writer).await?;
        // A log of no segments begins here, whatever numbers were given out in vain.
        let first = if writer.last.is_some() { first } else { segment };
        let header = self.header(segment, first, writer.last);
        self.make(header).await?;
        *writer = Writer { last: Some((segment, SEGMENT_HEADER_LEN)), open: true };
        self.lock().first = first;
        self.note_synced(LogPos { segment, offset: SEGMENT_HEADER_LEN })
    }

    /// Makes the segment of a checkpoint; it is no part of the log yet.
    pub(super) async fn begin_checkpoint(&self, writer: &Writer, segment: SegmentId) -> Result<()> {
        self.sync_last(writer).await?;
        self.make(SegmentHeader { checkpoint: true, ..self.header(segment, segment, None) }).await
    }

    fn header(&self, id: SegmentId, first: SegmentId, prev: Option<(SegmentId, u32)>) -> SegmentHeader {
        let Kind { name: kind, record_version } = self.kind;
        SegmentHeader { id, first, prev, checkpoint: false, kind, record_version, salt: self.salt }
    }

    async fn sync_last(&self, writer: &Writer) -> Result<()> {
        if let Some((last, end)) = writer.last {
            self.sync_segment(last).await?;
            self.note_synced(LogPos { segment: last, offset: end })?;
        }
        Ok(())
    }

    async fn make(&self, header: SegmentHeader) -> Result<()> {
        let offset = self.media.append(header.id, header.encode()).await?;
        if offset != 0 {
            return Err(self.poison(format!("{} exists already", header.id)));
        }
        self.sync_segment(header.id).await
    }

    /// Syncs what is before `target`; whoever calls it has its turn.
    pub(super) async fn sync_to(self: &Arc<Self>, target: LogPos, _turn: &OwnedMutexGuard<()>) -> Result<()> {
        if self.lock().synced >= target {
            return Ok(());
        }
        let mut writer = self.writer.lock().await;
        if let Some(synced) = self.write_group(&mut writer).await? {
            return self.note_synced(synced);
        }
        let written = self.write_pending(&mut writer).await?;
        self.lock().usable("log.sync")?;
        // Nothing was ever written: there is nothing to lose.
        if writer.last.is_none() {
            return Ok(());
        }
        drop(writer);
        self.sync_segment(written.segment).await?;
        self.note_synced(written)?;
        self.mark();
        Ok(())
    }

    /// Lets the log say that it is durable up to here even if no record follows, so that replay can tell damage there
    /// from a torn tail. Nothing waits for it. A group has its mark already.
    pub(super) fn mark(self: &Arc<Self>) {
        let Some(mark) = Prepared::new(FrameKind::Mark, Record::default()) else { return };
        let mut state = self.lock();
        let fits = state.next.offset.saturating_add(mark.padded_len()) <= self.segment_len_max;
        let current = state.synced.segment == state.next.segment;
        // A write that is on its way in the background may be past what it found.
        if !state.pending.is_empty() || !fits || !current {
            return;
        }
        state.push(mark, self.salt, self.segment_len_max);
        state.writing = true;
        drop(state);
        self.write_in_background();
    }

    pub(super) async fn sync_segment(&self, segment: SegmentId) -> Result<()> {
        match self.media.sync(segment).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.sync_failed(&error).await),
        }
    }

    async fn sync_failed(&self, error: &Error) -> Error {
        let error = self.poison(format!("{error:#}"));
        self.end_where_durable().await;
        error
    }

    /// Lets the log end where it was durable last, for the next opening: systems call clean what they could not write,
    /// and show it until they forget it, so that what was not durable looks well and another sync of it lies.
    ///
    /// The header of a segment of its own says so. Best effort, on a disk that has just failed.
    async fn end_where_durable(&self) {
        let (id, first, durable) = {
            let state = self.lock();
            (SegmentId(state.next.segment.0 + 1), state.first, state.synced)
        };
        // There is no segment yet that was durable.
        if durable.offset < SEGMENT_HEADER_LEN {
            return;
        }
        let header = self.header(id, first, Some((durable.segment, durable.offset)));
        let said = match self.media.append(id, header.encode()).await {
            Ok(_) => self.media.sync(id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = said {
            let cause = format!("{error:#}");
            tracing::warn!(%error, cause, "a sync failed, and so did noting where the log was durable last");
        }
    }

    /// Takes note that all before `pos` is durable. Of two syncs at a time one may have been told of a failure that hit
    /// the other as well: once one has failed, none is acknowledged.
    pub(super) fn note_synced(&self, pos: LogPos) -> Result<()> {
        let mut state = self.lock();
        if let Some(error) = state.poisoned("log.sync") {
            return Err(error);
        }
        state.synced = state.synced.max(pos);
        Ok(())
    }

    /// Writes and syncs all there is, and says in the header of a next segment where it ends.
    pub(super) async fn close(&self) -> Result<()> {
        let _turn = self.syncer.lock().await;
        let mut writer = self.writer.lock().await;
        let (next, first) = loop {
            if self.lock().closed {
                return Ok(());
            }
            self.write_pending(&mut writer).await?;
            let mut state = self.lock();
            if state.pending.is_empty() {
                state.closed = true;
                break (state.rotate().segment, state.first);
            }
        };
        let holds_frames = writer.last.is_some_and(|(_, end)| end > SEGMENT_HEADER_LEN);
        if writer.open && holds_frames { self.begin(&mut writer, next, first).await } else { Ok(()) }
    }

    pub(super) fn poison(&self, why: String) -> Error {
        let error = Error::new(ErrorKind::Io, "log.sync").because(why.clone());
        self.lock().poisoned.get_or_insert(why);
        error
    }
}

impl Writer {
    pub(super) fn is_open(&self, segment: SegmentId) -> bool {
        self.open && self.last.is_some_and(|(last, _)| last == segment)
    }
}

/// The bytes of frames: small ones copied together, large ones as they are.
pub(super) fn parts(frames: &[Frame]) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let mut small = BytesMut::new();
    for frame in frames {
        for part in [frame.front.clone(), frame.body.clone(), frame.padding()] {
            if part.len() < COPY_LEN_MAX {
                small.extend_from_slice(&part);
            } else {
                if !small.is_empty() {
                    parts.push(small.split().freeze());
                }
                parts.push(part);
            }
        }
    }
    if !small.is_empty() {
        parts.push(small.freeze());
    }
    parts
}
