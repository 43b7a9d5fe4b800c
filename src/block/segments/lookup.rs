//! Looking into the index: for one key, and for all of them.

use std::sync::Arc;

use bytes::Bytes;

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
};

/// The entries that may be those of a key, newest first: from memory, then run by run.
pub(super) struct Candidates<'a> {
    inner: &'a Inner,
    fingerprint: u64,
    last: Option<Entry>,
    /// What was there when the look-up began.
    frozen: Option<Arc<Frozen>>,
    runs: Option<Arc<Vec<Arc<Run>>>>,
    runs_left: usize,
    found: std::vec::IntoIter<Entry>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(inner: &'a Inner, key: &BlockKey) -> Self {
        let fingerprint = fingerprint(key);
        Self { inner, fingerprint, last: None, frozen: None, runs: None, runs_left: 0, found: Vec::new().into_iter() }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Entry>> {
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
    pending: std::vec::IntoIter<(LogPos, Bytes)>,
    scan: HeadScan,
}

impl<'a> KeyScan<'a> {
    pub(super) async fn new(inner: &'a Arc<Inner>) -> Result<Self> {
        // In this order: a record that moves to the media meanwhile is met twice rather than not at all.
        let pending = inner.log.pending_heads().into_iter();
        Ok(Self { inner, pending, scan: inner.log.heads().await? })
    }

    pub(super) async fn next(&mut self) -> Result<Option<BlockKey>> {
        loop {
            let next = match self.scan.next().await? {
                Some(record) => Some((record.pos, record.head)),
                None => self.pending.next(),
            };
            let Some((pos, head)) = next else { return Ok(None) };
            let Some(Change::Put { key }) = Change::decode(&head) else { continue };
            let generation = self.inner.generation();
            let is_newest = match self.is_newest(&key, pos).await {
                Err(error) if index_is_damaged(&error) => {
                    self.inner.rebuild(generation, error).await?;
                    self.is_newest(&key, pos).await?
                }
                result => result?,
            };
            if is_newest {
                return Ok(Some(key));
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
            Some(_) => Ok(matches!(self.inner.find(key).await?, Place::At(entry) if entry.pos == pos)),
        }
    }
}
