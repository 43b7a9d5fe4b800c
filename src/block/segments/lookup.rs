//! Looking into the index: for one key, and for all of them.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedRwLockReadGuard;

use super::{
    Frozen, Inner, Place,
    entry::{Entry, fingerprint},
    index_is_damaged,
    record::Change,
    run::Run,
};
use crate::{
    BlockKey, Result,
    log::{HeadScan, LogPos},
    media::SegmentId,
};

/// The entries that may be those of a key, newest first: from memory, then run by run.
pub(super) struct Candidates<'a> {
    inner: &'a Inner,
    fingerprint: u64,
    last: Option<Entry>,
    /// Where the log began when the look-up did: what counted before it had been moved by then. What is dropped later is
    /// shown, and whoever cannot read it looks again.
    first: SegmentId,
    /// What was there when the look-up began.
    frozen: Option<Arc<Frozen>>,
    runs: Option<Arc<Vec<Arc<Run>>>>,
    runs_left: usize,
    found: std::vec::IntoIter<Entry>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(inner: &'a Inner, key: &BlockKey) -> Self {
        let fingerprint = fingerprint(key);
        let (first, found) = (inner.log.first(), Vec::new().into_iter());
        Self { inner, fingerprint, last: None, first, frozen: None, runs: None, runs_left: 0, found }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Entry>> {
        while let Some(entry) = self.next_of_all().await? {
            if entry.pos.segment >= self.first {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    async fn next_of_all(&mut self) -> Result<Option<Entry>> {
        let runs = if let Some(runs) = &self.runs {
            Arc::clone(runs)
        } else {
            // Entries move from memory to frozen to a run: all three are looked at in one moment.
            let state = self.inner.lock();
            if let Some(entry) = state.memory.next(self.fingerprint, self.last) {
                self.last = Some(entry);
                return Ok(Some(entry));
            }
            self.frozen.clone_from(&state.frozen);
            self.runs_left = state.runs.len();
            self.runs.insert(Arc::clone(&state.runs)).clone()
        };
        if let Some(entry) = self.frozen.as_ref().and_then(|frozen| frozen.memory.next(self.fingerprint, self.last)) {
            self.last = Some(entry);
            return Ok(Some(entry));
        }
        loop {
            // What was seen in memory before it became a run is not shown twice.
            let older = |entry: &Entry| self.last.is_none_or(|last| last.order() < entry.order());
            if let Some(entry) = self.found.by_ref().find(older) {
                self.last = Some(entry);
                return Ok(Some(entry));
            }
            let Some(left) = self.runs_left.checked_sub(1) else { return Ok(None) };
            self.runs_left = left;
            if let Some(run) = runs.get(left) {
                self.found = run.find(self.fingerprint).await?.into_iter();
            }
        }
    }
}

/// Goes through the log and gives the keys whose newest record it meets.
pub(super) struct KeyScan<'a> {
    inner: &'a Arc<Inner>,
    /// Where the log ended when it began: a block that was moved meanwhile is behind.
    begun: LogPos,
    pending: std::vec::IntoIter<(LogPos, Bytes)>,
    scan: HeadScan,
    /// No segment is dropped meanwhile.
    _listing: OwnedRwLockReadGuard<()>,
}

impl<'a> KeyScan<'a> {
    /// Begins at the first record, or at the place of one.
    pub(super) async fn new(inner: &'a Arc<Inner>, from: Option<LogPos>) -> Result<Self> {
        let listing = Arc::clone(&inner.listings).read_owned().await;
        let begun = inner.log.end();
        // In this order: a record that moves to the media meanwhile is met twice rather than not at all.
        let mut pending = inner.log.pending_heads();
        pending.retain(|(pos, _)| from.is_none_or(|from| *pos >= from));
        let pending = pending.into_iter();
        Ok(Self { inner, begun, pending, scan: inner.log.heads(from).await?, _listing: listing })
    }

    pub(super) async fn next(&mut self) -> Result<Option<(LogPos, BlockKey)>> {
        loop {
            let next = match self.scan.next().await? {
                Some(record) => Some((record.pos, record.head)),
                None => self.pending.next(),
            };
            let Some((pos, head)) = next else { return Ok(None) };
            let Some(change) = Change::decode(&head) else { continue };
            let (Change::Put { key } | Change::Move { key, .. } | Change::Lose { key, .. }) = change else { continue };
            let generation = self.inner.generation();
            let is_newest = match self.is_newest(&key, pos).await {
                Err(error) if index_is_damaged(&error) => {
                    self.inner.rebuild(generation, error).await?;
                    self.is_newest(&key, pos).await?
                }
                result => result?,
            };
            if is_newest {
                return Ok(Some((pos, key)));
            }
        }
    }

    async fn is_newest(&self, key: &BlockKey, pos: LogPos) -> Result<bool> {
        let _open = self.inner.gate.read().await;
        let first = Candidates::new(self.inner, key).next().await?;
        match first {
            Some(entry) if entry.pos == pos => Ok(true),
            None => Ok(false),
            // Another key with the same fingerprint, or a newer record of this one.
            Some(_) => {
                let (Place::At { entry, .. } | Place::Damaged(entry)) = self.inner.find(key).await? else {
                    return Ok(false);
                };
                Ok(!entry.deleted && (entry.pos == pos || entry.pos >= self.begun))
            }
        }
    }
}
