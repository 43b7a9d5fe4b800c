//! Writing a log: from the buffer to the media, and making it durable.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::task::TaskTracker;

use super::{
    COPY_LEN_MAX, LogPos, Placed, Record, WRITE_LEN_MAX,
    frame::{Frame, FrameKind, Prepared, SEGMENT_HEADER_LEN, Salt, SegmentHeader},
    replay::Kind,
};
use crate::{
    Error, ErrorKind, Result,
    media::{Media, SegmentId},
};

pub(super) struct Inner {
    pub(super) media: Arc<dyn Media>,
    pub(super) kind: Kind,
    pub(super) salt: Salt,
    pub(super) segment_len_max: u32,
    pub(super) state: Mutex<State>,
    /// Whoever holds it appends to the media.
    pub(super) writer: AsyncMutex<Writer>,
    /// Whoever holds it syncs; the others find it done when they get it.
    pub(super) syncer: AsyncMutex<()>,
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
            let mut state = self.lock();
            state.pending.drain(..batch.len());
            let len: usize = batch.iter().map(|frame| frame.len() + frame.padding().len()).sum();
            state.pending_len -= len;
            state.written = end;
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

    pub(super) async fn sync_to(self: &Arc<Self>, target: LogPos) -> Result<()> {
        let _turn = self.syncer.lock().await;
        if self.lock().synced >= target {
            return Ok(());
        }
        let written = self.write_out().await?;
        self.lock().usable("log.sync")?;
        // Nothing was ever written: there is nothing to lose.
        if self.writer.lock().await.last.is_none() {
            return Ok(());
        }
        self.sync_segment(written.segment).await?;
        self.note_synced(written)?;
        self.mark();
        Ok(())
    }

    /// Lets the log say that it is durable up to here even if no record follows, so that replay can tell damage there
    /// from a torn tail. Nothing waits for it.
    pub(super) fn mark(self: &Arc<Self>) {
        let Some(mark) = Prepared::new(FrameKind::Mark, Record::default()) else { return };
        let mut state = self.lock();
        let fits = state.next.offset.saturating_add(mark.padded_len()) <= self.segment_len_max;
        let current = state.synced.segment == state.next.segment;
        if !state.pending.is_empty() || state.writing || !fits || !current {
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
            Err(error) => {
                let error = self.poison(format!("{error:#}"));
                self.end_where_durable().await;
                Err(error)
            }
        }
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
        // What a process before this one left may be durable without our knowing.
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
