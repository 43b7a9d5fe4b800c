//! Putting packs together: small ones, so that their number follows from what they hold, and those that are mostly dead.
//!
//! What still counts of some packs is put as a new one, whose state does without them; when that counts they are deleted, and
//! not before the fence says that from a later pack on everything is there. Spec: spec/s3-store.md #compaction.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muxfs::{BlockKey, Error, ErrorKind, Result};

use crate::{
    fence::PROBES,
    index::{Location, Usage},
    log::{Found, Log, Moving},
    pack::{PackIndex, number_of, object_name},
    store::{Inner, S3Store},
};

/// So many packs of about one size are put together.
const ALIKE_COUNT: usize = 8;
/// Packs that are less than a quarter as long are of another size; of those that are shorter than the last all are alike.
const CLASS_COUNT: u64 = 7;
/// What a block takes in an index, about, in bytes.
const ENTRY_LEN: u64 = 48;
/// Where there are so many small packs whoever syncs waits until some are put together.
const SMALL_COUNT_MAX: usize = 256;
/// So many packs are read at once, and so many objects deleted.
const AT_ONCE_COUNT: usize = 8;
/// The fence follows after so many packs, so that an opening has few to look for.
const FENCE_COUNT: u64 = 128;

/// What an opening tried the server with, and could not delete, is deleted when it is so old.
const PROBE_AGE_MAX: Duration = Duration::from_hours(24);

/// What a pack says of itself, and what of it still counts.
type Moved = (PackIndex, Vec<(BlockKey, Location, Bytes)>);

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct S3Compacted {
    /// Packs that were written.
    pub packs_written: u64,
    /// Objects that were deleted.
    pub objects_deleted: u64,
}

impl S3Store {
    /// Gives back the room of blocks that were deleted, where half of a pack or more is dead, and deletes what counts for
    /// nothing. Only who writes does.
    ///
    /// # Errors
    /// Those of the bucket; `ReadOnly`, `Denied` for who does not write any more.
    pub async fn compact(&self) -> Result<S3Compacted> {
        self.flush_first().await?;
        let mut done = self.inner.compact(true).await?;
        done.objects_deleted += self.inner.sweep().await?;
        Ok(done)
    }

    async fn flush_first(&self) -> Result<()> {
        self.inner.check_writer()?;
        let last = self.inner.seal()?;
        self.inner.sent(last).await
    }
}

/// What still counts of a pack, in bytes, with its entries.
fn weight(usage: Usage) -> u64 {
    usage.live_len + ENTRY_LEN * (usage.live_count + usage.deleted_count)
}

/// Whether a pack is to be put together with others.
fn is_small(usage: Usage, pack_len: u64) -> bool {
    weight(usage) < pack_len / 8 * 7
}

/// The packs that may be put together.
fn movable(log: &Log) -> impl Iterator<Item = (u64, Usage)> + '_ {
    let stays = |number: u64| log.unmovable.contains(&number) || log.state.posts.contains(number);
    log.index.packs().filter(move |(number, _)| *number <= log.tail && !stays(*number))
}

/// The packs that are to be put together next; none where there are none.
fn plan(log: &Log, pack_len: u64, with_dead: bool) -> Vec<u64> {
    let mut classes: Vec<Vec<(u64, u64)>> = vec![Vec::new(); usize::try_from(CLASS_COUNT + 1).unwrap_or(1)];
    for (number, usage) in movable(log) {
        let weight = weight(usage);
        if with_dead && 2 * weight < usage.len + ENTRY_LEN * usage.deleted_count && usage.len >= pack_len / 8 {
            if let Some(dead) = classes.last_mut() {
                dead.push((number, weight));
            }
        } else if is_small(usage, pack_len) {
            let class = u64::from((pack_len / weight.max(1)).max(1).ilog2() / 2).min(CLASS_COUNT - 1);
            if let Some(class) = usize::try_from(class).ok().and_then(|class| classes.get_mut(class)) {
                class.push((number, weight));
            }
        }
    }
    let dead = classes.pop().unwrap_or_default();
    let group = if dead.is_empty() {
        classes.into_iter().find(|class| class.len() >= ALIKE_COUNT).unwrap_or_default()
    } else {
        dead
    };
    let mut sum = 0;
    group
        .into_iter()
        .take_while(|(_, weight)| {
            let has_room = sum < pack_len;
            sum += weight;
            has_room
        })
        .map(|(number, _)| number)
        .collect()
}

/// What lies from `begin` to `end`; `None` where there is not so much.
fn cut(bytes: &Bytes, begin: u64, end: u64) -> Option<Bytes> {
    let (begin, end) = (usize::try_from(begin).ok()?, usize::try_from(end).ok()?);
    (begin <= end && end <= bytes.len()).then(|| bytes.slice(begin..end))
}

impl Inner {
    fn plan(&self, with_dead: bool) -> Vec<u64> {
        plan(&self.log(), self.options.pack_len as u64, with_dead)
    }

    /// Does beside others what is to be done after a pack.
    pub(crate) fn look_after_itself(self: &Arc<Self>) {
        let (is_behind, is_closed) = {
            let log = self.log();
            (log.tail.saturating_sub(log.fence_tail) >= FENCE_COUNT, log.closed)
        };
        let is_due = is_behind || self.options.compacts && !self.plan(false).is_empty();
        if !is_due || is_closed || self.upkeep.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(self);
        drop(self.tasks.spawn(async move {
            let done = async {
                if is_behind {
                    inner.advance_fence(false).await?;
                }
                if inner.options.compacts { inner.compact(false).await.map(drop) } else { Ok(()) }
            };
            if let Err(error) = done.await {
                // Nothing is lost: it is tried again after the next pack.
                tracing::debug!(error = format!("{error:#}"), "packs could not be put together");
            }
            inner.upkeep.store(false, Ordering::Release);
        }));
    }

    async fn compact(self: &Arc<Self>, with_dead: bool) -> Result<S3Compacted> {
        let _turn = self.compacting.lock().await;
        let mut done = S3Compacted::default();
        loop {
            self.check_writer()?;
            let numbers = self.plan(with_dead);
            if numbers.is_empty() {
                return Ok(done);
            }
            if let Some(objects_deleted) = self.put_together(numbers).await? {
                done.packs_written += 1;
                done.objects_deleted += objects_deleted;
            }
        }
    }

    /// Makes room where small packs come faster than they are put together.
    pub(crate) async fn keep_up(self: &Arc<Self>) {
        let small = |(_, usage): &(u64, Usage)| is_small(*usage, self.options.pack_len as u64);
        if !self.options.compacts || movable(&self.log()).filter(small).count() < SMALL_COUNT_MAX {
            return;
        }
        let _turn = self.compacting.lock().await;
        let numbers = self.plan(false);
        if !numbers.is_empty()
            && let Err(error) = self.put_together(numbers).await
        {
            // Whoever syncs finds out whether the bucket is there.
            tracing::debug!(error = format!("{error:#}"), "packs could not be put together");
        }
    }

    /// Puts what counts of some packs as one; how many objects went, `None` where all of them have to stay.
    async fn put_together(self: &Arc<Self>, numbers: Vec<u64>) -> Result<Option<u64>> {
        let mut moving = Moving::default();
        let mut reads = stream::iter(numbers)
            .map(|number| async move { (number, self.moved(number).await) })
            .buffered(AT_ONCE_COUNT);
        while let Some((number, moved)) = reads.next().await {
            self.gather(number, moved, &mut moving)?;
        }
        drop(reads);
        if moving.from.is_empty() {
            return Ok(None);
        }
        let (from, nonce) = (moving.from.clone(), self.nonce());
        self.room().await?;
        let number = {
            let mut log = self.log();
            self.check_open(&log)?;
            log.seal_moved(nonce, moving)
        };
        self.send(number);
        self.sent(number).await?;
        self.advance_fence(false).await?;
        self.delete_packs(from).await.map(Some)
    }

    /// Adds what counts of a pack.
    fn gather(&self, number: u64, moved: Result<Moved>, moving: &mut Moving) -> Result<()> {
        match moved {
            Ok((pack, blocks)) => {
                moving.from.push(number);
                moving.blocks.extend(blocks);
                moving.deleted.extend(pack.deleted);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::error!(error = format!("{error:#}"), "a pack with damaged blocks stays as it is");
                self.log().unmovable.insert(number);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn moved(&self, number: u64) -> Result<Moved> {
        let name = object_name(number);
        let gone = || self.bucket.error(ErrorKind::Corrupt, "s3.compact", &name).because("its object is gone");
        // What it says itself, and no copy of that: what nobody knows it to hold would go with it.
        let (pack, tail) = self.load_end(number).await?.ok_or_else(gone)?;
        let is_there = |location: &Location, found: Found| matches!(found, Found::At(at) if at == *location);
        let mut live = Vec::new();
        for placed in &pack.blocks {
            let location = Location::of(number, placed);
            if is_there(&location, self.log().find(&placed.key)) {
                live.push((placed.key.clone(), location));
            }
        }
        let begin = live.iter().map(|(_, location)| u64::from(location.offset)).min().unwrap_or(0);
        let end =
            live.iter().map(|(_, location)| u64::from(location.offset) + u64::from(location.len)).max().unwrap_or(0);
        if begin >= end {
            let blocks = live.into_iter().map(|(key, location)| (key, location, Bytes::new())).collect();
            return Ok((pack, blocks));
        }
        let bytes = if tail.bytes.len() as u64 == tail.len {
            cut(&tail.bytes, begin, end).ok_or_else(|| self.bucket.error(ErrorKind::Corrupt, "s3.compact", &name))?
        } else {
            self.bucket.get_range(&name, begin..end).await?.ok_or_else(gone)?
        };
        let mut blocks = Vec::with_capacity(live.len());
        for (key, location) in live {
            let from = usize::try_from(u64::from(location.offset) - begin).unwrap_or(usize::MAX);
            let block = bytes.slice(from..from + location.len as usize);
            if crc32c::crc32c(&block) != location.crc {
                return Err(self.lost(&key, location, "its bytes are damaged"));
            }
            blocks.push((key, location, block));
        }
        Ok((pack, blocks))
    }

    async fn delete_packs(&self, numbers: Vec<u64>) -> Result<u64> {
        let count = numbers.len() as u64;
        let deletions =
            stream::iter(numbers).map(|number| async move { self.bucket.delete(&object_name(number)).await });
        deletions.buffer_unordered(AT_ONCE_COUNT).try_collect::<()>().await?;
        if let Some(kept) = &self.kept {
            let live = self.log().state.live.clone();
            kept.retain(move |number| live.contains(number)).await;
        }
        Ok(count)
    }

    /// Deletes the objects of packs that count no more: those of a writer that ended before it could.
    async fn sweep(self: &Arc<Self>) -> Result<u64> {
        let _turn = self.compacting.lock().await;
        // What is sealed and does not count yet lets nothing go.
        let last = self.log().next() - 1;
        self.sent(last).await?;
        self.advance_fence(false).await?;
        let tail = match &*self.fence.lock().await {
            Some((fence, _)) => fence.tail,
            None => return Err(Error::new(ErrorKind::Internal, "s3.compact").because("the fence is not held")),
        };
        let now = (self.bucket.env().now)();
        let mut probes = self.bucket.list(PROBES);
        while let Some((name, time)) = probes.try_next().await? {
            // Whoever opens a store now needs its own.
            if now.duration_since(time).is_ok_and(|age| age > PROBE_AGE_MAX) {
                self.bucket.delete(&format!("{PROBES}/{name}")).await?;
            }
        }
        let listed: Vec<String> = self.bucket.list("packs").map_ok(|(name, _)| name).try_collect().await?;
        let live = self.log().state.live.clone();
        let is_dead = |number: &u64| *number < tail && !live.contains(*number);
        self.delete_packs(listed.iter().filter_map(|name| number_of(name)).filter(is_dead).collect()).await
    }
}
