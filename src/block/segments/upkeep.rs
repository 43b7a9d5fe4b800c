//! Keeping the index on the media: writing it down in the background, and building it anew when it is damaged.

use std::sync::Arc;

use super::{Frozen, Inner, index::merge_start, manifest::Manifest, run::Run};
use crate::{Error, Result, log::detached, media::SegmentId};

impl Inner {
    /// Writes the index down.
    pub(super) async fn checkpoint(&self) -> Result<()> {
        let _turn = self.upkeep.lock().await;
        self.write_index(false).await
    }

    pub(super) async fn write_index(&self, even_if_unchanged: bool) -> Result<()> {
        let frozen = {
            let mut state = self.lock();
            let unchanged = state.frozen.is_none() && state.memory.len() == 0 && state.outdated.is_empty();
            if state.counts.last.is_none() || unchanged && !even_if_unchanged {
                return Ok(());
            }
            let frozen = state.frozen.take().unwrap_or_else(|| {
                state.grown_len = 0;
                Arc::new(Frozen {
                    memory: std::mem::take(&mut state.memory),
                    counts: state.counts.clone(),
                    covered: self.log.end(),
                })
            });
            state.frozen = Some(Arc::clone(&frozen));
            frozen
        };
        // The index must never know of a record that the log may lose.
        self.log.sync().await?;
        let mut runs = self.lock().runs.to_vec();
        runs.extend(self.places.spill(self.take_index_id(), &frozen.memory, runs.is_empty(), self.log.first()).await?);
        self.publish(&frozen, runs.clone(), true).await?;
        if let Some(start) = merge_start(&runs) {
            let merged = self.places.merge(self.take_index_id(), &runs, start, self.log.first()).await?;
            runs.truncate(start);
            runs.extend(merged);
            self.publish(&frozen, runs, false).await?;
        }
        Ok(())
    }

    /// Makes `runs` the index, on the media and here, and removes what it replaces.
    async fn publish(&self, frozen: &Frozen, runs: Vec<Arc<Run>>, spilled: bool) -> Result<()> {
        let ids = runs.iter().map(|run| run.id).collect();
        let (counts, salt) = (frozen.counts.clone(), self.log.salt());
        let manifest = Manifest { covered: frozen.covered, counts, runs: ids, salt };
        let id = self.take_index_id();
        self.places.write_manifest(id, &manifest).await?;
        let in_use: Vec<SegmentId> = {
            let mut state = self.lock();
            let old = std::mem::replace(&mut state.runs, Arc::new(runs));
            if spilled {
                state.frozen = None;
            }
            let kept: Vec<_> = state.runs.iter().map(|run| run.id).collect();
            state.outdated.extend(old.iter().filter(|run| !kept.contains(&run.id)).cloned());
            drop(old);
            // Readers have runs of their own; files that are still read are left for the next time.
            state.outdated.retain(|run| Arc::strong_count(run) > 1);
            kept.into_iter().chain(state.outdated.iter().map(|run| run.id)).chain([id]).collect()
        };
        for segment in self.places.index.segments().await? {
            if segment.id <= id && !in_use.contains(&segment.id) {
                self.places.index.remove(segment.id).await?;
            }
        }
        Ok(())
    }

    fn take_index_id(&self) -> SegmentId {
        let mut state = self.lock();
        let id = state.next_index_id;
        state.next_index_id = SegmentId(id.0 + 1);
        id
    }

    /// Builds the index anew from the log, unless that was done since `generation`.
    pub(super) async fn rebuild(self: &Arc<Self>, generation: u64, cause: Error) -> Result<()> {
        let inner = Arc::clone(self);
        let work = async move { inner.rebuild_alone(generation, cause).await };
        detached("segments.rebuild", self.tasks.track_future(work)).await
    }

    async fn rebuild_alone(&self, generation: u64, cause: Error) -> Result<()> {
        let _closed = self.gate.write().await;
        let _turn = self.upkeep.lock().await;
        if self.generation() != generation {
            return Ok(());
        }
        tracing::warn!(error = %cause, cause = format!("{cause:#}"), "the index of the blocks is built from the log");
        self.log.sync().await?;
        let mut builder = Self::builder(&self.places, &self.options, self.lock().next_index_id);
        builder.report_to(self.options.on_build_index.clone()).await?;
        let replayed = self.log.replay(true, &mut builder).await;
        // Also where it failed: a file that was made under a number is never appended to by another.
        self.lock().next_index_id = builder.next_id;
        replayed?;
        builder.tell(self.log.end());
        {
            let mut state = self.lock();
            state.memory = builder.memory;
            state.frozen = None;
            state.counts = builder.counts;
            let old = std::mem::replace(&mut state.runs, Arc::new(builder.runs));
            state.outdated.extend(old.iter().cloned());
            state.generation += 1;
        }
        self.write_index(true).await
    }
}
