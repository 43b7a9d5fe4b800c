//! The index: which record holds the block of a key.
//!
//! The newest entries are in memory; when there are enough of them they become a sorted run in the index media, and
//! runs of like size are merged, so that there are few to look into. The log is the truth and the index a cache of it:
//! it covers the log up to some place, the rest is replayed at opening, and if it is damaged all of it is built again.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    BuildIndex, OnBuildIndex,
    entry::{Entry, fingerprint},
    manifest::{Counts, MANIFEST_LEN_MAX, Manifest},
    record::Change,
    run::{Run, RunScan, RunWriter},
};
use crate::{
    BlockKey, Error, ErrorKind, Result,
    log::{LogPos, Replayed, Salt, Visitor, padded, read_crc, read_head},
    media::{Media, SegmentId},
};

/// So many runs of like size become one. A lookup looks into the filters of about this many for each fourfold growth.
const MERGE_RUN_COUNT: usize = 4;
/// A merge lets others run after so many entries.
const YIELD_ENTRY_COUNT: u64 = 4096;
/// Progress is told after so many records.
const PROGRESS_RECORD_COUNT: u64 = 4096;

/// Entries in memory, ordered as in a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory(BTreeMap<(u64, u64), u32>);

impl Memory {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.0.insert(entry.order(), entry.bits());
    }

    /// The newest entry of a fingerprint that is older than `than`.
    pub(super) fn next(&self, fingerprint: u64, than: Option<Entry>) -> Option<Entry> {
        let from = than.map_or((fingerprint, 0), |than| (fingerprint, than.order().1 + 1));
        let (order, bits) = self.0.range(from..=(fingerprint, u64::MAX)).next()?;
        Some(Entry::of(*order, *bits))
    }

    fn entries(&self) -> Vec<Entry> {
        self.0.iter().map(|(order, bits)| Entry::of(*order, *bits)).collect()
    }

    /// Takes what a record says, and counts it.
    pub(super) fn apply(&mut self, counts: &mut Counts, change: &Change, at: (LogPos, u32), crc: u32) {
        let (pos, len) = at;
        let deleted = match change {
            Change::Put { .. } => {
                counts.block_count += 1;
                counts.usage.entry(pos.segment).or_default().live += u64::from(padded(len));
                false
            }
            Change::Delete { removed, .. } => {
                if removed.is_some_and(|removed| counts.outdate(removed)) {
                    counts.block_count = counts.block_count.saturating_sub(1);
                }
                counts.usage.entry(pos.segment).or_default().dead += u64::from(padded(len));
                true
            }
            Change::Move { from, .. } | Change::Lose { from, .. } => {
                if !counts.outdate(*from) {
                    counts.block_count += 1;
                }
                counts.usage.entry(pos.segment).or_default().live += u64::from(padded(len));
                false
            }
        };
        counts.last = Some((pos, crc));
        self.insert(Entry { fingerprint: fingerprint(change.key()), pos, len, deleted });
    }
}

/// The two media of a store: where the log is, and where the index is.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) data: Arc<dyn Media>,
    pub(super) index: Arc<dyn Media>,
    /// That of the log, once it is known.
    pub(super) salt: Option<Salt>,
}

/// What opening finds of an index.
pub(super) enum Found {
    /// Neither index nor log.
    Nothing,
    /// No index was ever written down: the log has to be read from its start.
    Missing,
    /// The log has to be read from its start, for this reason.
    Useless(String),
    Good(Manifest, Vec<Arc<Run>>),
}

impl Places {
    /// Looks for the newest whole index that belongs to the log. It also tells the log's salt, where the log itself
    /// does not.
    ///
    /// # Errors
    /// `Unsupported` for one of a newer format; those of the media other than `Corrupt` and `NotFound`.
    pub(super) async fn find_index(&mut self) -> Result<Found> {
        match self.load_index().await {
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                Ok(Found::Useless(format!("{error:#}")))
            }
            found => found,
        }
    }

    async fn load_index(&mut self) -> Result<Found> {
        let segments = self.index.segments().await?;
        let mut damaged = false;
        for segment in segments.iter().rev().filter(|segment| segment.len <= MANIFEST_LEN_MAX) {
            let len = u32::try_from(segment.len).unwrap_or(u32::MAX);
            let starts = self.index.read_at(segment.id, 0, 8).await?;
            if !Manifest::begins(&starts) {
                continue;
            }
            let Some(manifest) = Manifest::decode(&self.index.read_at(segment.id, 0, len).await?)? else {
                damaged = true;
                continue;
            };
            let salt = self.salt.unwrap_or(manifest.salt);
            let last = manifest.counts.last;
            if salt != manifest.salt
                || matches!(last, Some((pos, crc)) if read_crc(&*self.data, salt, pos).await? != crc)
            {
                return Ok(Found::Useless("it belongs to another log".into()));
            }
            if last.is_some() {
                self.salt = Some(salt);
            }
            let mut runs = Vec::new();
            for id in &manifest.runs {
                let run = segments.iter().find(|segment| segment.id == *id);
                let len = run.ok_or_else(|| missing(*id))?.len;
                runs.push(Arc::new(Run::open(Arc::clone(&self.index), *id, len).await?));
            }
            return Ok(Found::Good(manifest, runs));
        }
        if self.data.segments().await?.is_empty() {
            return Ok(Found::Nothing);
        }
        // What a process left that died before it had written the first one names itself no index.
        Ok(if damaged { Found::Useless("there is no whole one".into()) } else { Found::Missing })
    }

    /// The number for the next file of the index.
    pub(super) async fn next_index_id(&self) -> Result<SegmentId> {
        Ok(SegmentId(self.index.segments().await?.last().map_or(0, |last| last.id.0 + 1)))
    }

    /// Writes a manifest, durably.
    pub(super) async fn write_manifest(&self, id: SegmentId, manifest: &Manifest) -> Result<()> {
        self.index.append(id, manifest.encode()).await?;
        self.index.sync(id).await
    }

    /// Writes what is in `memory` as a run; `None` if nothing is left of it. The log begins with the segment `first`.
    pub(super) async fn spill(
        &self,
        id: SegmentId,
        memory: &Memory,
        bottom: bool,
        first: SegmentId,
    ) -> Result<Option<Arc<Run>>> {
        let count = memory.len() as u64;
        self.write_run(id, vec![Source::Memory(memory.entries().into_iter())], count, bottom, first).await
    }

    /// Merges the runs from `start` on into one; `None` if nothing is left of them.
    pub(super) async fn merge(
        &self,
        id: SegmentId,
        runs: &[Arc<Run>],
        start: usize,
        first: SegmentId,
    ) -> Result<Option<Arc<Run>>> {
        let merged = &runs[start..];
        let count = merged.iter().map(|run| run.entry_count).sum();
        let sources = merged.iter().map(|run| Source::Run(run.scan())).collect();
        self.write_run(id, sources, count, start == 0, first).await
    }

    async fn write_run(
        &self,
        id: SegmentId,
        sources: Vec<Source>,
        count: u64,
        bottom: bool,
        first: SegmentId,
    ) -> Result<Option<Arc<Run>>> {
        let mut merge = Merge::new(sources).await?;
        let mut writer = RunWriter::new(Arc::clone(&self.index), id, count);
        let (mut group, mut seen, mut kept) = (Vec::new(), 0, 0);
        while merge.group(&mut group).await? {
            // What was in a segment that is dropped was deleted, or moved to a newer one.
            group.retain(|entry| entry.pos.segment >= first);
            // Below the oldest run there is nothing that a deletion could hide.
            if group.len() > 1 {
                self.drop_outdated(&mut group, bottom).await?;
            } else {
                group.retain(|entry| !(bottom && entry.deleted));
            }
            for entry in &group {
                kept += 1;
                writer.push(*entry).await?;
            }
            seen += 1;
            if seen % YIELD_ENTRY_COUNT == 0 {
                tokio::task::yield_now().await;
            }
        }
        if kept == 0 { Ok(None) } else { Ok(Some(Arc::new(writer.finish().await?))) }
    }

    async fn read_head(&self, pos: LogPos) -> Result<Bytes> {
        match self.salt {
            Some(salt) => read_head(&*self.data, salt, pos).await,
            None => Err(Error::new(ErrorKind::NotFound, "segments.read").at(pos).because("there is no log")),
        }
    }

    /// Keeps the newest entry of every key, or none where that is a deletion and `bottom`. Keys are in the log only; a
    /// record that cannot be read is kept, a deletion above all: it hides a block, and nobody can tell which.
    async fn drop_outdated(&self, group: &mut Vec<Entry>, bottom: bool) -> Result<()> {
        let mut keys: Vec<BlockKey> = Vec::new();
        let mut newest = Vec::new();
        for entry in group.drain(..) {
            let key = match self.read_head(entry.pos).await {
                Ok(head) => Change::decode(&head).map(|change| change.key().clone()),
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => None,
                Err(error) => return Err(error),
            };
            if let Some(key) = key {
                if keys.contains(&key) {
                    continue;
                }
                keys.push(key);
                if bottom && entry.deleted {
                    continue;
                }
            }
            newest.push(entry);
        }
        *group = newest;
        Ok(())
    }
}

/// The first of the newest runs that are to become one, if it is time.
pub(super) fn merge_start(runs: &[Arc<Run>]) -> Option<usize> {
    let mut start = runs.len().checked_sub(1)?;
    let mut count = runs[start].entry_count;
    while start > 0 && runs[start - 1].entry_count < 2 * count {
        start -= 1;
        count += runs[start].entry_count;
    }
    (runs.len() - start >= MERGE_RUN_COUNT).then_some(start)
}

enum Source {
    Memory(std::vec::IntoIter<Entry>),
    Run(RunScan),
}

impl Source {
    async fn next(&mut self) -> Result<Option<Entry>> {
        match self {
            Self::Memory(entries) => Ok(entries.next()),
            Self::Run(scan) => scan.next().await,
        }
    }
}

/// The entries of several sources in order.
struct Merge {
    sources: Vec<(Source, Option<Entry>)>,
}

impl Merge {
    async fn new(sources: Vec<Source>) -> Result<Self> {
        let mut merge = Self { sources: Vec::new() };
        for mut source in sources {
            let first = source.next().await?;
            merge.sources.push((source, first));
        }
        Ok(merge)
    }

    /// Puts the entries of the next fingerprint into `group`, newest first.
    async fn group(&mut self, group: &mut Vec<Entry>) -> Result<bool> {
        group.clear();
        loop {
            let next = self.sources.iter_mut().filter(|(_, entry)| entry.is_some());
            let next = next.min_by_key(|(_, entry)| entry.map(|entry| entry.order()));
            let Some((source, slot)) = next else { break };
            let Some(entry) = *slot else { break };
            if group.first().is_some_and(|first| first.fingerprint != entry.fingerprint) {
                break;
            }
            *slot = source.next().await?;
            group.push(entry);
        }
        Ok(!group.is_empty())
    }
}

/// Makes an index of the records of a replay, in bounded memory.
pub(super) struct Builder {
    pub(super) places: Places,
    pub(super) memory: Memory,
    pub(super) memory_count_max: usize,
    pub(super) counts: Counts,
    /// The oldest first.
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) next_id: SegmentId,
    /// Whom to tell how far it is, and what the log is long.
    pub(super) progress: Option<(OnBuildIndex, Vec<(SegmentId, u64)>)>,
    pub(super) record_count: u64,
    /// How long the frames of these records were.
    pub(super) frames_len: u64,
}

impl Builder {
    /// Tells from now on how far it is in a log that is as long as the media.
    pub(super) async fn report_to(&mut self, tell: Option<OnBuildIndex>) -> Result<()> {
        let Some(tell) = tell else { return Ok(()) };
        let segments = self.places.data.segments().await?;
        self.progress = Some((tell, segments.iter().map(|segment| (segment.id, segment.len)).collect()));
        Ok(())
    }

    /// Tells that the log was gone through up to `pos`.
    pub(super) fn tell(&self, pos: LogPos) {
        let Some((tell, segments)) = &self.progress else { return };
        let before: u64 = segments.iter().take_while(|(id, _)| *id < pos.segment).map(|(_, len)| len).sum();
        tell(BuildIndex {
            record_count: self.record_count,
            done_len: before + u64::from(pos.offset),
            log_len: segments.iter().map(|(_, len)| len).sum(),
        });
    }

    pub(super) fn take_id(&mut self) -> SegmentId {
        let id = self.next_id;
        self.next_id = SegmentId(id.0 + 1);
        id
    }
}

#[async_trait]
impl Visitor for Builder {
    fn record(&mut self, record: Replayed) -> Result<bool> {
        if let Some(change) = Change::decode(&record.head) {
            self.memory.apply(&mut self.counts, &change, (record.pos, record.len), record.crc);
        } else if Change::is_newer(&record.head) {
            return Err(Error::new(ErrorKind::Unsupported, "segments.open").at(record.pos).because(
                "among the blocks is a record of a kind that this program does not know: use the newer program that \
                 wrote it",
            ));
        } else {
            // Its checksum is good, so it was written like this: nobody's block.
            tracing::warn!(place = %record.pos, "a record without a key among the blocks");
        }
        self.record_count += 1;
        self.frames_len += u64::from(record.len);
        if self.record_count.is_multiple_of(PROGRESS_RECORD_COUNT) {
            self.tell(record.pos);
        }
        Ok(self.memory.len() >= self.memory_count_max)
    }

    async fn pause(&mut self) -> Result<()> {
        let id = self.take_id();
        let memory = std::mem::take(&mut self.memory);
        self.runs.extend(self.places.spill(id, &memory, self.runs.is_empty(), SegmentId(0)).await?);
        if let Some(start) = merge_start(&self.runs) {
            let id = self.take_id();
            let merged = self.places.merge(id, &self.runs, start, SegmentId(0)).await?;
            // Their files stay for as long as the manifest on the media may name them.
            self.runs.truncate(start);
            self.runs.extend(merged);
        }
        Ok(())
    }
}

fn missing(id: SegmentId) -> Error {
    Error::new(ErrorKind::Corrupt, super::INDEX_OP).at(id).because("a run of the index is missing")
}
