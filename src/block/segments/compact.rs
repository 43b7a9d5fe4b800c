//! Compaction: the room of deleted blocks goes back to the disk.
//!
//! From the oldest segment on, what is still live is appended again and then the beginning of the log is dropped. So a
//! record is dropped only together with everything older: a deletion never goes before the block that it hides, a
//! segment that is back after a crash is known by its number, and there is no list of holes that could be lost. The
//! price is that blocks which nobody ever deletes are copied each time the log has grown by a quarter of garbage; a
//! byte that comes back costs three that are copied at most. Spec: spec/segments.md, "Compaction".
//!
//! One block is on its way at a time, under the lock of its key; everybody else reads, puts and deletes meanwhile.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use super::{Inner, Place, Segments, entry::Entry, index_is_damaged, is_lost, lookup::Candidates, record::Change};
use crate::{
    BlockKey, ErrorKind, Result,
    log::{LogPos, detached},
    media::SegmentId,
};

/// A compaction goes on until the dead bytes are at most this share of the live ones, in percent.
const DEAD_PERCENT_LEFT: u64 = 10;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// How many blocks were copied to the end of the log.
    pub blocks_moved: u64,
    /// How long their records are together, in bytes.
    pub bytes_moved: u64,
    /// How many segments are gone.
    pub segments_removed: u64,
    /// How long the records in them were together, in bytes; what was moved is written anew.
    pub bytes_removed: u64,
    /// Whether it stopped before its time, because somebody lists the keys: what was moved need not be moved again.
    pub postponed: bool,
}

impl Segments {
    /// Gives the room of deleted blocks back to the disk, until a tenth of what is live is left of it at most.
    ///
    /// Goes on by itself when deleted blocks take more than
    /// [`SegmentsOptions::compact_percent_min`](super::SegmentsOptions::compact_percent_min) says; this is for who does
    /// not want to wait, as after a garbage collection. Needs room for a segment or two. Also when this call is
    /// dropped it goes on to its end; a second one waits for it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{BlockKey, BlockStore, block::{Segments, SegmentsOptions}, media::MemMedia};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let (data, index, env) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()), muxfs::testing::env());
    /// let store = Segments::open(data, index, SegmentsOptions::default(), &env).await?;
    /// let key = BlockKey::new(b"k")?;
    /// store.put(&key, vec![7; 1 << 20].into()).await?;
    /// store.delete(&key).await?;
    /// assert!(store.compact().await?.bytes_removed > 1 << 20);
    /// assert!(store.stats().dead_len < 1000);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of the media, and `NoSpace`: nothing is lost, and it can be tried again.
    pub async fn compact(&self) -> Result<CompactReport> {
        let inner = Arc::clone(&self.inner);
        let work = async move { inner.compact().await };
        detached("segments.compact", self.inner.tasks.track_future(work)).await
    }
}

impl Inner {
    pub(super) async fn compact(self: &Arc<Self>) -> Result<CompactReport> {
        let _turn = self.compacting.lock().await;
        let mut report = CompactReport::default();
        if self.listings.try_write().is_err() {
            report.postponed = true;
            return Ok(report);
        }
        // What is moved comes behind this, and all before it is on the media.
        let end = self.log.rotate()?.segment;
        self.log.sync().await?;
        let sources: Vec<SegmentId> = self.lock().counts.usage.range(..end).map(|(id, _)| *id).collect();
        let (mut moved, mut done, mut stray, mut is_all) = (0, None, None, true);
        let last = sources.last().copied();
        for source in sources {
            if self.is_compact_from(source) || self.closing.load(Ordering::Relaxed) {
                is_all = false;
                break;
            }
            // Nothing is read of a segment in which all is dead, but a key of the last one, which may be needed.
            if Some(source) == last || !self.is_dead(source) {
                if report.blocks_moved == 0 && done.is_some() {
                    // What takes no copying comes back first: on a full disk that is the room to copy to.
                    self.drop_before(done, &mut report).await?;
                }
                self.empty(source, done, &mut report, &mut stray).await?;
            }
            if report.postponed {
                // What is moved gives no room back while somebody lists, and takes some.
                return Ok(report);
            }
            if self.closing.load(Ordering::Relaxed) {
                is_all = false;
                break;
            }
            done = Some(SegmentId(source.0 + 1));
            if report.bytes_moved - moved >= u64::from(self.options.segment_len_max) {
                moved = report.bytes_moved;
                self.drop_before(done, &mut report).await?;
                if report.postponed {
                    return Ok(report);
                }
            }
        }
        if is_all && let Some(key) = stray {
            self.append_something(end, &key).await?;
        }
        self.drop_before(done, &mut report).await?;
        Ok(report)
    }

    /// Moves what is live in a segment; where there is no room for that, the room of those that are `done` is taken.
    async fn empty(
        self: &Arc<Self>,
        source: SegmentId,
        done: Option<SegmentId>,
        report: &mut CompactReport,
        stray: &mut Option<BlockKey>,
    ) -> Result<()> {
        match self.move_live(source, report, stray).await {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                let before = report.segments_removed;
                self.drop_before(done, report).await?;
                if report.postponed {
                    return Ok(());
                }
                if report.segments_removed == before {
                    return Err(error);
                }
                self.move_live(source, report, stray).await
            }
            moved => moved,
        }
    }

    /// Whether nothing in a segment is live.
    fn is_dead(&self, source: SegmentId) -> bool {
        self.lock().counts.usage.get(&source).is_none_or(|usage| usage.live == 0)
    }

    /// Whether there is little to gain in this segment and all later ones.
    fn is_compact_from(&self, source: SegmentId) -> bool {
        let state = self.lock();
        let dead: u64 = state.counts.usage.range(source..).map(|(_, usage)| usage.dead).sum();
        let live: u64 = state.counts.usage.values().map(|usage| usage.live).sum();
        dead <= live / 100 * DEAD_PERCENT_LEFT
    }

    /// Appends every block again that is live in a segment; `stray` becomes a key that was met and has no block.
    async fn move_live(
        self: &Arc<Self>,
        source: SegmentId,
        report: &mut CompactReport,
        stray: &mut Option<BlockKey>,
    ) -> Result<()> {
        let mut heads = self.log.heads_of(source).await?;
        while let Some(record) = heads.next().await? {
            if self.closing.load(Ordering::Relaxed) {
                break;
            }
            let Some(change) = Change::decode(&record.head) else { continue };
            let key = change.key();
            if matches!(change, Change::Delete { .. }) {
                // What it hides is older and goes with it.
                *stray = Some(key.clone());
                continue;
            }
            let is_lost = matches!(change, Change::Lose { .. });
            let generation = self.generation();
            let moved = match self.move_block(key, record.pos, is_lost).await {
                Err(error) if index_is_damaged(&error) => {
                    self.rebuild(generation, error).await?;
                    self.move_block(key, record.pos, is_lost).await?
                }
                moved => moved?,
            };
            if let Some(len) = moved {
                report.blocks_moved += 1;
                report.bytes_moved += u64::from(len);
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Appends the block of a key again if it is at this place, and gives the length of its frame. `is_lost` says that the
    /// record there has no block.
    async fn move_block(self: &Arc<Self>, key: &BlockKey, pos: LogPos, is_lost: bool) -> Result<Option<u32>> {
        let _open = self.gate.read().await;
        let _turn = self.stripe(key).lock().await;
        let mut candidates = Candidates::new(self, key);
        let Some(first) = candidates.next().await? else { return Ok(None) };
        // Mostly the index tells it without another look at the log: its newest entry is this very record, or it has none
        // of it any more.
        let (entry, bad) = if first.pos == pos && !first.deleted {
            (first, is_lost || self.lock().rotten.contains(&pos))
        } else {
            let mut is_known = first.pos == pos;
            while !is_known && let Some(entry) = candidates.next().await? {
                is_known = entry.pos == pos;
            }
            if !is_known {
                return Ok(None);
            }
            match self.find(key).await? {
                Place::At { entry, .. } => (entry, false),
                Place::Damaged(entry) if !entry.deleted => (entry, true),
                Place::Damaged(_) | Place::Absent => return Ok(None),
            }
        };
        if entry.pos != pos {
            return Ok(None);
        }
        let block = if bad { None } else { self.block_at(entry).await? };
        let from = (entry.pos, entry.len);
        match block {
            Some(block) => self.append(Change::Move { key: key.clone(), from }, block).await?,
            // That the block was bad must not be forgotten: who asks for it is told so until it is put again.
            None => self.append(Change::Lose { key: key.clone(), from }, Bytes::new()).await?,
        }
        Ok(Some(entry.len))
    }

    /// The block of an entry, checked; `None` if it is bad.
    async fn block_at(&self, entry: Entry) -> Result<Option<Bytes>> {
        match self.log.read_frame(entry.pos, entry.len, |_| true).await {
            Err(error) if is_lost(&error) => Ok(None),
            block => block,
        }
    }

    /// Appends a record, if none was since `end` was the end: the last one is what ties the index to its log, so the
    /// segment that it is in stays.
    async fn append_something(self: &Arc<Self>, end: SegmentId, key: &BlockKey) -> Result<()> {
        let _open = self.gate.read().await;
        let _turn = self.stripe(key).lock().await;
        let unchanged = self.lock().counts.last.is_some_and(|(last, _)| last.segment < end);
        if unchanged && matches!(self.find(key).await?, Place::Absent) {
            self.append(Change::Delete { key: key.clone(), removed: None }, Bytes::new()).await?;
        }
        Ok(())
    }

    /// Drops the segments before `boundary`, in which nothing is live any more.
    async fn drop_before(self: &Arc<Self>, boundary: Option<SegmentId>, report: &mut CompactReport) -> Result<()> {
        let last = self.lock().counts.last.map(|(last, _)| last.segment);
        let Some(boundary) = boundary.min(last).filter(|boundary| *boundary > self.log.first()) else { return Ok(()) };
        {
            // An index that covers less than where the log begins would have to be built anew. The first may be one
            // that was begun before and could not be written then.
            let _turn = self.upkeep.lock().await;
            self.write_index(false).await?;
            self.write_index(false).await?;
        }
        // A listing goes through the segments that there were when it began.
        let Ok(_no_listing) = self.listings.try_write() else {
            report.postponed = true;
            return Ok(());
        };
        // Nor does the building of an index meet a segment that goes.
        let _open = self.gate.read().await;
        self.log.drop_before(LogPos { segment: boundary, offset: 0 }).await?;
        let mut state = self.lock();
        let kept = state.counts.usage.split_off(&boundary);
        let dropped = std::mem::replace(&mut state.counts.usage, kept);
        report.segments_removed += dropped.len() as u64;
        report.bytes_removed += dropped.values().map(|usage| usage.live + usage.dead).sum::<u64>();
        state.rotten = state.rotten.split_off(&LogPos { segment: boundary, offset: 0 });
        Ok(())
    }

    /// Compacts in the background if deleted blocks take too much room; asked each time they have grown by some.
    pub(super) fn compact_if_worth_it(self: &Arc<Self>, state: &mut super::State) {
        state.died_len = 0;
        let (live, dead) =
            state.counts.usage.values().fold((0, 0), |(live, dead), usage| (live + usage.live, dead + usage.dead));
        let options = &self.options;
        let is_worth_it = dead >= options.compact_len_min
            && dead / 100 * (100 - u64::from(options.compact_percent_min.min(100)))
                >= live / 100 * u64::from(options.compact_percent_min);
        if is_worth_it && !state.compacting {
            state.compacting = true;
            let inner = Arc::clone(self);
            drop(self.tasks.spawn(async move {
                if let Err(error) = inner.compact().await {
                    // Nothing is lost: it is tried again when more was deleted.
                    tracing::warn!(%error, cause = format!("{error:#}"), "deleted blocks keep their room for now");
                }
                inner.lock().compacting = false;
            }));
        }
    }
}

#[cfg(test)]
mod tests;
