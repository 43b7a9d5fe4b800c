//! What goes on beside reads and writes: index files of closed data files, compaction, and the end.
//!
//! Compaction takes the data files from the oldest on: what is current in them is appended again, and then the beginning
//! of the log is dropped. So a record goes only together with everything older: no deletion mark goes before what it
//! hides, and a file that is back after a crash is known by its number. One record is on its way at a time, under the
//! lock of its key; everybody else reads and writes meanwhile. Spec: spec/zdb.md, "Compaction".

use std::sync::{Arc, atomic::Ordering};

use muxfs::{ErrorKind, Result, log::LogPos, media::SegmentId};
use tokio::task::JoinHandle;

use super::{Store, unknown_record};
use crate::{
    index::IndexFile,
    record::{Head, Kind, Place},
};

/// Overwritten and deleted values keep their room until they are this share of the data files, in percent.
const DEAD_PERCENT_MIN: u64 = 25;
/// A compaction goes on until they are at most this share.
const DEAD_PERCENT_LEFT: u64 = 10;

impl Store {
    /// Whether what is overwritten and deleted stays from now on.
    pub(crate) fn keep_history(self: &Arc<Self>, keep: bool) {
        self.keeps_history.store(keep, Ordering::Relaxed);
        self.follow_up();
    }

    /// Does what became due with the last record, in the background.
    pub(super) fn follow_up(self: &Arc<Self>) {
        let (is_upkeep_due, is_compaction_due) = {
            let mut state = self.lock();
            let is_upkeep_due = std::mem::take(&mut state.is_upkeep_due);
            let dead = state.dead_len();
            let is_compaction_due = !self.keeps_history.load(Ordering::Relaxed)
                && !state.is_compacting
                && dead >= state.compact_from.max(self.options.compact_len_min)
                && dead >= state.file_len / 100 * DEAD_PERCENT_MIN;
            state.is_compacting |= is_compaction_due;
            (is_upkeep_due, is_compaction_due)
        };
        if is_upkeep_due {
            self.upkeep_in_background();
        }
        if is_compaction_due {
            let store = Arc::clone(self);
            drop(self.tasks.spawn(async move {
                if let Err(error) = store.compact().await {
                    // Nothing is lost: it is tried again when more was overwritten.
                    tracing::warn!(%error, cause = format!("{error:#}"), "overwritten values keep their room for now");
                }
                let mut state = store.lock();
                state.is_compacting = false;
                state.compact_from = state.dead_len() + store.options.compact_len_min;
            }));
        }
    }

    /// A compaction that goes on to its end whoever waits for it.
    pub(crate) fn compact_in_background(self: &Arc<Self>) -> JoinHandle<Result<u64>> {
        let store = Arc::clone(self);
        self.tasks.spawn(async move { store.compact().await })
    }

    pub(super) fn upkeep_in_background(self: &Arc<Self>) {
        let store = Arc::clone(self);
        drop(self.tasks.spawn(async move {
            if let Err(error) = store.write_indexes(false).await {
                // It is derived: the next opening takes longer.
                tracing::warn!(%error, cause = format!("{error:#}"), "an index file could not be written");
            }
        }));
    }

    /// Writes the index files of the data files that have none: of all, or of all but the last, which still grows.
    async fn write_indexes(self: &Arc<Self>, all: bool) -> Result<()> {
        let _turn = self.upkeep.lock().await;
        loop {
            let next = {
                let state = self.lock();
                let last = state.ends.keys().next_back().copied();
                let mut files = state.ends.iter().filter(|(file, _)| all || Some(**file) != last);
                files.find(|(file, _)| !state.indexed.contains(file)).map(|(file, end)| (*file, *end))
            };
            let Some((file, end)) = next else { return Ok(()) };
            if self.closing.load(Ordering::Relaxed) && !all {
                return Ok(());
            }
            if !all {
                // It never says more than is durable.
                self.log.sync().await?;
            }
            let index = self.index_of(file, end).await?;
            let write = index.write(&self.index).await;
            write.inspect_err(|_| {
                self.index_faults.io_errors.fetch_add(1, Ordering::Relaxed);
                self.index_faults.io_error_last.store(self.now(), Ordering::Relaxed);
            })?;
            self.lock().indexed.insert(file);
        }
    }

    /// What the index file of a data file says.
    async fn index_of(&self, file: u32, end: u32) -> Result<IndexFile> {
        let mut entries = Vec::new();
        let mut next_id = 0;
        let mut heads = self.log.heads_between(SegmentId(file.into()), 0, end).await?;
        while let Some(head) = heads.next().await? {
            let Some((change, _)) = self.change(&head) else {
                return Err(unknown_record(Place { file, offset: head.pos.offset }));
            };
            next_id = next_id.max(change.next_id);
            if change.kind != Kind::Note {
                entries.push(change);
            }
        }
        // Stable: what happened to one key stays in order.
        entries.sort_by_key(|change| change.name);
        let before = self.lock().ends.range(..file).next_back().map(|(before, _)| *before);
        let (mode, identity) = (self.options.mode, self.log.identity());
        Ok(IndexFile { mode, identity, file, before, end, next_id, entries })
    }

    /// Gives the room of what was overwritten and deleted back; how many bytes.
    async fn compact(self: &Arc<Self>) -> Result<u64> {
        let _turn = self.compacting.lock().await;
        // What is moved comes behind this, and a log is never empty.
        let boundary = u32::try_from(self.log.rotate()?.segment.0).unwrap_or(u32::MAX);
        self.note(0).await?;
        self.sync().await?;
        let sources: Vec<u32> = self.lock().ends.range(..boundary).map(|(file, _)| *file).collect();
        let (mut freed, mut done, mut done_len, mut moved_len) = (0, None, 0, 0);
        for source in sources {
            let is_worth_it = {
                let state = self.lock();
                let left = state.dead_len().saturating_sub(done_len);
                left > state.live_len / 100 * DEAD_PERCENT_LEFT
            };
            if !is_worth_it || self.closing.load(Ordering::Relaxed) {
                break;
            }
            match self.move_live(source).await {
                Ok(len) => moved_len += len,
                // What is done already is the room to copy to.
                Err(error) if error.kind() == ErrorKind::NoSpace && done.is_some() => {
                    freed += self.drop_through(done.take()).await?;
                    (done_len, moved_len) = (0, self.move_live(source).await?);
                }
                Err(error) => return Err(error),
            }
            if self.closing.load(Ordering::Relaxed) {
                break;
            }
            done = Some(source);
            done_len += self.lock().ends.get(&source).map_or(0, |end| u64::from(*end));
            if moved_len >= u64::from(self.options.file_len_max) {
                freed += self.drop_through(done.take()).await?;
                (done_len, moved_len) = (0, 0);
            }
        }
        freed += self.drop_through(done).await?;
        Ok(freed)
    }

    /// Appends again what is current in a file; how many bytes.
    async fn move_live(self: &Arc<Self>, file: u32) -> Result<u64> {
        let mut moved_len = 0;
        let Some(end) = self.lock().ends.get(&file).copied() else { return Ok(0) };
        let mut heads = self.log.heads_between(SegmentId(file.into()), 0, end).await?;
        while let Some(head) = heads.next().await? {
            let Some((change, key)) = self.change(&head) else {
                return Err(unknown_record(Place { file, offset: head.pos.offset }));
            };
            if !matches!(change.kind, Kind::Set | Kind::Move) || !self.lock().has(change.name, change.place) {
                continue;
            }
            if self.closing.load(Ordering::Relaxed) {
                break;
            }
            let _turn = self.stripe(change.name).lock().await;
            if !self.lock().has(change.name, change.place) {
                continue;
            }
            let len_max = change.end().saturating_sub(change.place.offset);
            let record = self.log.read_within(head.pos, len_max).await.map_err(|error| self.fault(error))?;
            let before = Some((change.place, change.value_len));
            let timestamp = Head::decode(&record.head).map_or(0, |head| head.timestamp);
            let next_id = self.lock().next_id;
            self.append(Head { kind: Kind::Move, timestamp, before, next_id, key }, record.body).await?;
            moved_len += u64::from(len_max);
            tokio::task::yield_now().await;
        }
        Ok(moved_len)
    }

    /// Drops all files up to this one, in which nothing is current any more; how many bytes.
    async fn drop_through(self: &Arc<Self>, last: Option<u32>) -> Result<u64> {
        let Some(last) = last else { return Ok(0) };
        let _turn = self.upkeep.lock().await;
        // What was moved is durable before anything goes: the log sees to it.
        self.log.drop_before(LogPos { segment: SegmentId(u64::from(last) + 1), offset: 0 }).await?;
        let dropped = {
            let mut state = self.lock();
            let kept = state.ends.split_off(&(last + 1));
            let dropped = std::mem::replace(&mut state.ends, kept);
            state.indexed = state.indexed.split_off(&(last + 1));
            let len: u64 = dropped.values().map(|end| u64::from(*end)).sum();
            state.file_len -= len;
            dropped
        };
        for file in dropped.keys() {
            if let Err(error) = self.index.remove(SegmentId(u64::from(*file))).await {
                // The next opening removes it.
                tracing::warn!(%error, file, "an index file without its data file is left over");
            }
        }
        Ok(dropped.values().map(|end| u64::from(*end)).sum())
    }

    /// Ends what goes on in the background: for a store whose files are about to go.
    pub(crate) async fn discard(self: &Arc<Self>) {
        self.closing.store(true, Ordering::Relaxed);
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.log.close().await {
            tracing::debug!(%error, "a log that goes could not be ended");
        }
    }

    /// Makes everything durable, writes the last index file, and waits for what goes on in the background: when it returns
    /// the media are used no more.
    pub(crate) async fn close(self: &Arc<Self>) -> Result<()> {
        self.closing.store(true, Ordering::Relaxed);
        self.tasks.close();
        self.tasks.wait().await;
        // A log to which nothing was appended does not know that what it found is durable.
        let synced = self.log.sync().await;
        let closed = synced.and(self.log.close().await);
        if closed.is_ok()
            && let Err(error) = self.write_indexes(true).await
        {
            tracing::warn!(%error, cause = format!("{error:#}"), "an index file could not be written");
        }
        closed.map_err(|error| self.fault(error))
    }
}
