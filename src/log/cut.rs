//! Making a log shorter: a checkpoint that replaces all of it.

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
        let segment = loop {
            self.write_pending(&mut writer).await?;
            let mut state = self.lock();
            if state.pending.is_empty() {
                // What is appended from now on comes after the checkpoint.
                let segment = state.next.segment;
                let unused = state.next.offset == SEGMENT_HEADER_LEN && !writer.is_open(segment);
                let segment = if unused { segment } else { SegmentId(segment.0 + 1) };
                state.next = LogPos { segment: SegmentId(segment.0 + 1), offset: SEGMENT_HEADER_LEN };
                break segment;
            }
        };
        let segment = if writer.last.is_some() {
            segment
        } else {
            // Replay passes over an unfinished checkpoint only where there is something older.
            self.begin(&mut writer, segment, false).await?;
            self.lock().next.segment.0 += 1;
            SegmentId(segment.0 + 1)
        };
        let made = self.write_checkpoint(&mut writer, segment, records).await;
        match made {
            Ok(end) => {
                *writer = Writer { first: segment, last: Some((segment, end)), open: false };
                let end = LogPos { segment, offset: end };
                let mut state = self.lock();
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
        // From here the checkpoint is the log: what cannot be removed now is removed by the next opening.
        for old in self.media.segments().await.unwrap_or_default() {
            if old.id < segment {
                self.discard(old.id).await;
            }
        }
        Ok(())
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
        self.begin(writer, segment, true).await?;
        let mut pos = LogPos { segment, offset: SEGMENT_HEADER_LEN };
        let mut frames = Vec::new();
        let mut len = 0;
        let end = Prepared::new(FrameKind::CheckpointEnd, Record::default()).into_iter().map(Ok);
        for prepared in records.map(Log::prepare).chain(end) {
            let frame = prepared?.place(pos, SEGMENT_HEADER_LEN);
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
