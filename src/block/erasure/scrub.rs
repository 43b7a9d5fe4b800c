//! Scrub: every shard of every block is read, and what is bad or missing healed.
//!
//! Nodes list their keys in any order, each key on as many nodes as have a shard of it, and all keys do not fit into memory.
//! So blocks are taken in the order of their keys: each listing keeps the first that are behind the place that was
//! reached, as many as there is room for. That place is all that it takes to go on later. Spec: spec/erasure.md, "Scrub".

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{Inner, repair::RepairReport};
use crate::{BlockKey, Error, ErrorKind, Result};

/// So many keys are taken from one listing: some 32 MiB of memory.
const WINDOW_COUNT: usize = 1 << 18;
/// So many blocks are read at once where no rate is given: a node that answers late, and a processor that waits for one,
/// holds up none of the others.
const AHEAD_COUNT: usize = 4;
/// So many blocks that cannot be healed are named, and as many that are not at full strength.
const NAMED_MAX: usize = 1000;

/// Where a [`Scrub`] begins, and how fast it goes.
#[derive(Debug, Clone, Default)]
pub struct ScrubOptions {
    /// It begins behind this key, the [`position`](Scrub::position) of an earlier one; `None` is at the beginning.
    pub after: Option<BlockKey>,
    /// It reads no more than so many bytes of shards a second; `None` is as fast as it can.
    pub bytes_per_sec: Option<NonZeroU64>,
}

/// What a [`Scrub`] found and did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// How many blocks there were.
    pub blocks: u64,
    /// The sums over all of them; `lacking` is empty.
    pub shards: RepairReport,
    /// How many blocks can be read but are not at full strength, because nodes have no shard although one belongs there.
    pub weak: u64,
    /// The first 1,000 of them, each with what it lacks.
    pub weak_keys: Vec<(BlockKey, String)>,
    /// How many blocks could not be read or healed.
    pub unhealed: u64,
    /// The first 1,000 of them, each with the reason.
    pub unhealed_keys: Vec<(BlockKey, String)>,
}

/// A pass over all blocks of an [`Erasure`](super::Erasure); goes on only while it is told to. Dropped, it ends; another
/// one goes on from its position.
pub struct Scrub {
    inner: Arc<Inner>,
    options: ScrubOptions,
    window_count: usize,
    window: VecDeque<BlockKey>,
    /// The repairs of the first of the window, in that order.
    running: VecDeque<JoinHandle<Result<RepairReport>>>,
    listing: Listing,
    /// When the next block may be read.
    due: Option<Instant>,
    report: ScrubReport,
}

/// What the last listing gave: keys, each as often as nodes have it.
#[derive(Debug, Default, Clone, Copy)]
struct Listing {
    all: u64,
    /// Those in the window.
    taken: u64,
    /// Those behind it.
    ahead: u64,
    /// How many blocks the window was.
    window_count: usize,
    is_last: bool,
}

impl fmt::Debug for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrub({} blocks, {:.0} %)", self.report.blocks, self.coverage() * 100.0)
    }
}

impl Scrub {
    pub(super) fn new(inner: Arc<Inner>, options: ScrubOptions) -> Self {
        Self::with_window(inner, options, WINDOW_COUNT)
    }

    pub(super) fn with_window(inner: Arc<Inner>, options: ScrubOptions, window_count: usize) -> Self {
        let (window, running, listing) = (VecDeque::new(), VecDeque::new(), Listing::default());
        Self { inner, options, window_count, window, running, listing, due: None, report: ScrubReport::default() }
    }

    /// Reads the next block and heals it; `false` where there is none behind the position.
    ///
    /// A block that cannot be healed is told in the report, and is no error. Dropped half way, the next step begins with
    /// the same block. Without a rate the next few blocks are read meanwhile.
    ///
    /// # Errors
    /// `Unavailable` where so many nodes fail that their keys are not known; the next step tries again.
    pub async fn step(&mut self) -> Result<bool> {
        if self.window.is_empty() && !self.listing.is_last {
            self.list().await?;
        }
        let Some(key) = self.window.front().cloned() else { return Ok(false) };
        if self.running.is_empty()
            && let Some(due) = self.due
        {
            sleep_until(due).await;
        }
        let ahead_count = if self.options.bytes_per_sec.is_some() { 1 } else { AHEAD_COUNT };
        for key in self.window.iter().take(ahead_count).skip(self.running.len()) {
            let (inner, key) = (Arc::clone(&self.inner), key.clone());
            self.running.push_back(tokio::spawn(async move { inner.repair(&key).await }));
        }
        let repaired = match self.running.front_mut() {
            Some(repairing) => repairing.await,
            None => return Err(Error::new(ErrorKind::Internal, "erasure.scrub")),
        };
        self.running.pop_front();
        let repaired =
            repaired.unwrap_or_else(|stopped| Err(Error::new(ErrorKind::Internal, "erasure.scrub").because(stopped)));
        match repaired {
            Ok(repaired) => self.add(&key, &repaired),
            Err(error) => {
                self.report.blocks += 1;
                self.report.unhealed += 1;
                name(&mut self.report.unhealed_keys, &key, || format!("{error:#}"));
            }
        }
        self.window.pop_front();
        self.options.after = Some(key);
        Ok(true)
    }

    /// Changes how many bytes are read in a second, from the next block on: nothing is waited for by the former rate.
    pub fn set_rate(&mut self, bytes_per_sec: Option<NonZeroU64>) {
        if self.options.bytes_per_sec != bytes_per_sec {
            self.options.bytes_per_sec = bytes_per_sec;
            self.due = None;
        }
    }

    /// Goes on to the end, and tells what was found on the whole way.
    ///
    /// # Errors
    /// Those of [`step`](Self::step).
    pub async fn run(&mut self) -> Result<&ScrubReport> {
        while self.step().await? {}
        Ok(&self.report)
    }

    /// What was found and done so far.
    pub fn report(&self) -> &ScrubReport {
        &self.report
    }

    /// The last block that was read, which another scrub can begin behind; `None` before the first.
    pub fn position(&self) -> Option<&BlockKey> {
        self.options.after.as_ref()
    }

    /// Which part of all blocks is not behind the position any more, 0 to 1, as of the last listing of keys.
    #[expect(clippy::cast_precision_loss, reason = "a part of a whole, for people")]
    pub fn coverage(&self) -> f64 {
        let Listing { all, ahead, taken, .. } = self.listing;
        if all == 0 {
            return if self.listing.is_last { 1.0 } else { 0.0 };
        }
        // Each of the keys that were taken stands for as many shards as the others.
        let left = taken as f64 * self.window.len() as f64 / self.listing.window_count.max(1) as f64;
        1.0 - (ahead as f64 + left) / all as f64
    }

    fn add(&mut self, key: &BlockKey, repaired: &RepairReport) {
        let RepairReport { shards_read, bytes_read, bad, missing, healed, removed, lacking } = repaired;
        let sum = &mut self.report.shards;
        sum.shards_read += shards_read;
        sum.bytes_read += bytes_read;
        sum.bad += bad;
        sum.missing += missing;
        sum.healed += healed;
        sum.removed += removed;
        // One that was deleted since it was listed is none.
        self.report.blocks += u64::from(*shards_read > 0);
        if !lacking.is_empty() {
            self.report.weak += 1;
            name(&mut self.report.weak_keys, key, || lacking.join("; "));
        }
        if let Some(rate) = self.options.bytes_per_sec {
            let nanos = u128::from(*bytes_read) * 1_000_000_000 / u128::from(rate.get());
            let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            // What was missed while nothing was read is not caught up with.
            self.due = Some(self.due.map_or_else(Instant::now, |due| due.max(Instant::now())) + takes);
        }
    }

    /// Takes the first keys behind the position.
    async fn list(&mut self) -> Result<()> {
        let mut window = BTreeMap::<BlockKey, u64>::new();
        let mut listing = Listing::default();
        let mut keys = self.inner.keys();
        while let Some(key) = keys.try_next().await? {
            listing.all += 1;
            if self.options.after.as_ref().is_some_and(|after| key <= *after) {
                continue;
            }
            *window.entry(key).or_default() += 1;
            if window.len() > self.window_count
                && let Some((_, count)) = window.pop_last()
            {
                listing.ahead += count;
            }
        }
        drop(keys);
        listing.taken = window.values().sum();
        listing.window_count = window.len();
        listing.is_last = listing.ahead == 0;
        self.window = window.into_keys().collect();
        self.listing = listing;
        Ok(())
    }
}

impl Drop for Scrub {
    /// What is read ahead ends with it: a repair may stop anywhere, and the next one goes on.
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}

/// Names a block and what is the matter with it, if it is one of the first.
fn name(named: &mut Vec<(BlockKey, String)>, key: &BlockKey, why: impl FnOnce() -> String) {
    if named.len() < NAMED_MAX {
        named.push((key.clone(), why()));
    }
}
