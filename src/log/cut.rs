//! Making a log shorter: a checkpoint that replaces all of it, and a beginning that moves on.
//!
//! In both the header of a new segment says where the log begins from now on, and it is durable before anything that
//! stands below is removed: so whatever a crash leaves there, or brings back, is known for what it is.

use super::{
    Log, LogPos, Record, SEGMENT_LEN_MAX, WRITE_LEN_MAX,
    frame::{FrameKind, Prepared, SEGMENT_HEADER_LEN},
    write::{Inner, Writer, parts},
};
use crate::{Error, ErrorKind, Result, media::SegmentId};

impl Inner {
    pub(super) async fn checkpoint(&self, records: impl Iterator<Item = Record> + Send) -> Result<()> {
        let _turn = self.syncer.lock().await;
        let mut writer = self.writer.lock().await;
        // What is appended from now on comes after the checkpoint.
        let segment = self.turn(&mut writer, 1).await?;
        let segment = if writer.last.is_some() {
            segment
        } else {
            // Replay passes over an unfinished checkpoint only where there is something older.
            let first = self.lock().first;
            self.begin(&mut writer, segment, first).await?;
            self.lock().next.segment.0 += 1;
            SegmentId(segment.0 + 1)
        };
        let made = self.write_checkpoint(&mut writer, segment, records).await;
        match made {
            Ok(end) => {
                *writer = Writer { last: Some((segment, end)), open: false };
                let end = LogPos { segment, offset: end };
                let mut state = self.lock();
                state.first = segment;
                if state.pending.is_empty() {
                    state.end = end;
                }
                state.written = end;
                state.synced = end;
            }
            Err(error) => {
                // It is not whole, so replay passes over it; away with it all the same.
                self.discard(segment).await;
                return Err(error);
            }
        }
        // From here the checkpoint is the log.
        self.discard_before(segment).await;
        Ok(())
    }

    pub(super) async fn drop_before(&self, pos: LogPos) -> Result<()> {
        // Nobody syncs a segment that is about to go.
        let _turn = self.syncer.lock().await;
        let mut writer = self.writer.lock().await;
        if pos > self.lock().next {
            return Err(Error::new(ErrorKind::InvalidArgument, "log.drop_before")
                .at(pos)
                .because("the log ends before this place"));
        }
        let first = self.lock().first;
        if pos.segment > first {
            let segment = self.turn(&mut writer, 0).await?;
            // Its header says that the log begins there; durable before anything goes.
            self.begin(&mut writer, segment, pos.segment).await?;
        }
        let first = self.lock().first;
        self.discard_before(first).await;
        Ok(())
    }

    /// Writes what is pending and returns the number of a segment that is not made yet; what is appended from now on
    /// goes to the one that is so much higher.
    async fn turn(&self, writer: &mut Writer, reserved: u64) -> Result<SegmentId> {
        loop {
            self.write_pending(writer).await?;
            let mut state = self.lock();
            if state.pending.is_empty() {
                let next = state.rotate();
                let segment = if writer.is_open(next.segment) { SegmentId(next.segment.0 + 1) } else { next.segment };
                state.next = LogPos { segment: SegmentId(segment.0 + reserved), offset: SEGMENT_HEADER_LEN };
                return Ok(segment);
            }
        }
    }

    /// Removes what is no part of the log any more; what cannot be removed now is removed by the next opening.
    async fn discard_before(&self, first: SegmentId) {
        for old in self.media.segments().await.unwrap_or_default() {
            if old.id < first {
                self.discard(old.id).await;
            }
        }
    }

    /// Removes a segment that is no part of the log.
    async fn discard(&self, segment: SegmentId) {
        if let Err(error) = self.media.remove(segment).await {
            tracing::warn!(%error, cause = format!("{error:#}"), "a segment that is no part of the log is left over");
        }
    }

    async fn write_checkpoint(
        &self,
        writer: &mut Writer,
        segment: SegmentId,
        records: impl Iterator<Item = Record> + Send,
    ) -> Result<u32> {
        self.begin_checkpoint(writer, segment).await?;
        let mut pos = LogPos { segment, offset: SEGMENT_HEADER_LEN };
        let mut frames = Vec::new();
        let mut len = 0;
        let end = Prepared::new(FrameKind::CheckpointEnd, Record::default()).into_iter().map(Ok);
        for prepared in records.map(Log::prepare).chain(end) {
            let frame = prepared?.place(self.salt, pos, SEGMENT_HEADER_LEN);
            if frame.end().offset > SEGMENT_LEN_MAX {
                return Err(Error::new(ErrorKind::TooLarge, "log.checkpoint")
                    .because(format!("a checkpoint is one segment of at most {SEGMENT_LEN_MAX} bytes")));
            }
            pos = frame.end();
            len += frame.len();
            frames.push(frame);
            if len >= WRITE_LEN_MAX {
                self.media.append_vectored(segment, parts(&frames)).await?;
                frames.clear();
                len = 0;
            }
        }
        self.media.append_vectored(segment, parts(&frames)).await?;
        self.sync_segment(segment).await?;
        Ok(pos.offset)
    }
}
