//! Settling: what is not where it belongs is put there, after nodes came, were drained or went.
//!
//! Nobody wrote down what is where. So the keys of all nodes are listed, and blocks repaired whose shards are on other
//! nodes than they belong on: a repair writes what is missing before it removes what is one too many. That costs a listing,
//! and reads nothing that is in its place. Keys are taken in windows, in their order, as a scrub does; what was done needs no
//! note to go on later, as it is in its place then. Spec: spec/erasure.md, "Nodes that come and go".

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep_until};

use super::{Inner, without_slot};
use crate::{BlockKey, Error, ErrorKind, Result, log::detached};

/// So many keys are taken from one listing: some 32 MiB of memory.
const WINDOW_COUNT: usize = 1 << 17;

/// What a [`Settle`] did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettleReport {
    /// How many blocks were repaired and are where they belong.
    pub moved: u64,
    /// How many bytes of shards were read for that.
    pub bytes_read: u64,
    /// How many blocks could not be brought where they belong.
    pub left: u64,
    /// The first of them, with the reason.
    pub first_left: Option<(BlockKey, String)>,
    /// Nodes that did not tell what they have, in the last listing: of those nothing was repaired that they may lack.
    pub silent: BTreeSet<String>,
}

impl SettleReport {
    /// Whether all that there was is where it belongs, if the pass came to its end.
    pub fn is_whole(&self) -> bool {
        self.left == 0 && self.silent.is_empty()
    }
}

/// A pass over the keys of all blocks; goes on only while it is told to. Dropped, it ends, and takes nothing away.
pub struct Settle {
    inner: Arc<Inner>,
    bytes_per_sec: Option<NonZeroU64>,
    window_count: usize,
    /// Blocks that are not where they belong, and how many of the listing are done when one of them is.
    window: VecDeque<(BlockKey, u64)>,
    /// The last key that was listed; `None` at the beginning.
    after: Option<BlockKey>,
    listed: u64,
    done: u64,
    is_last: bool,
    /// When the next block may be read.
    due: Option<Instant>,
    report: SettleReport,
}

impl fmt::Debug for Settle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settle({} blocks moved, {:.0} %)", self.report.moved, self.coverage() * 100.0)
    }
}

impl Settle {
    pub(super) fn new(inner: Arc<Inner>, bytes_per_sec: Option<NonZeroU64>) -> Self {
        Self::with_window(inner, bytes_per_sec, WINDOW_COUNT)
    }

    pub(super) fn with_window(inner: Arc<Inner>, bytes_per_sec: Option<NonZeroU64>, window_count: usize) -> Self {
        Self {
            inner,
            bytes_per_sec,
            window_count,
            window: VecDeque::new(),
            after: None,
            listed: 0,
            done: 0,
            is_last: false,
            due: None,
            report: SettleReport::default(),
        }
    }

    /// Changes how many bytes are read in a second, from the next block on: nothing is waited for by the former rate.
    pub fn set_rate(&mut self, bytes_per_sec: Option<NonZeroU64>) {
        if self.bytes_per_sec != bytes_per_sec {
            self.bytes_per_sec = bytes_per_sec;
            self.due = None;
        }
    }

    /// Brings the next block where it belongs; `false` where there is none. One that cannot be is told in the report, and is
    /// no error.
    ///
    /// # Errors
    /// `Unavailable` where so many nodes fail that their keys are not known; the next step tries again.
    pub async fn step(&mut self) -> Result<bool> {
        while self.window.is_empty() {
            if self.is_last {
                return Ok(false);
            }
            self.list().await?;
        }
        let Some((key, done)) = self.window.front().cloned() else { return Ok(false) };
        if let Some(due) = self.due {
            sleep_until(due).await;
        }
        let repaired = {
            let (inner, key) = (Arc::clone(&self.inner), key.clone());
            detached("erasure.settle", async move { inner.repair(&key).await }).await
        };
        let why = match repaired {
            Ok(report) => {
                self.report.bytes_read += report.bytes_read;
                self.wait_after(report.bytes_read);
                report.lacking.first().cloned()
            }
            Err(error) => Some(format!("{error:#}")),
        };
        match why {
            None => self.report.moved += 1,
            Some(why) => {
                self.report.left += 1;
                self.report.first_left.get_or_insert((key, why));
            }
        }
        self.done = done;
        self.window.pop_front();
        Ok(true)
    }

    /// Goes on to the end, and tells what was done.
    ///
    /// # Errors
    /// Those of [`step`](Self::step).
    pub async fn run(&mut self) -> Result<&SettleReport> {
        while self.step().await? {}
        Ok(&self.report)
    }

    /// What was done so far.
    pub fn report(&self) -> &SettleReport {
        &self.report
    }

    /// Which part of all keys was looked at, 0 to 1, as of the last listing.
    #[expect(clippy::cast_precision_loss, reason = "a part of a whole, for people")]
    pub fn coverage(&self) -> f64 {
        match self.listed {
            _ if self.is_last && self.window.is_empty() => 1.0,
            0 => 0.0,
            listed => self.done as f64 / listed as f64,
        }
    }

    fn wait_after(&mut self, bytes_read: u64) {
        if let Some(rate) = self.bytes_per_sec {
            let nanos = u128::from(bytes_read) * 1_000_000_000 / u128::from(rate.get());
            let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            // What was missed while nothing was read is not caught up with.
            self.due = Some(self.due.map_or_else(Instant::now, |due| due.max(Instant::now())) + takes);
        }
    }

    /// Takes the first keys behind the last, and keeps those that are not where they belong.
    async fn list(&mut self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let (mut window, mut is_cut) = (BTreeMap::<BlockKey, Vec<usize>>::new(), false);
        let (mut listed, mut behind, mut failed) = (0, 0, Vec::new());
        for number in inner.members() {
            let node = &inner.nodes[number];
            let mut keys = node.store().keys();
            loop {
                let key = match node.call(async { keys.next().await.transpose() }).await {
                    Ok(Some(key)) => key,
                    Ok(None) => break,
                    Err(error) => {
                        failed.push((number, error));
                        break;
                    }
                };
                let Some(key) = without_slot(&key).filter(|key| !inner.mending.is_deleted(number, key)) else {
                    continue;
                };
                listed += 1;
                if self.after.as_ref().is_some_and(|after| key <= *after) {
                    behind += 1;
                    continue;
                }
                let holders = window.entry(key).or_default();
                // Of both slots.
                if holders.last() != Some(&number) && !holders.contains(&number) {
                    holders.push(number);
                }
                if window.len() > self.window_count {
                    window.pop_last();
                    is_cut = true;
                }
            }
        }
        // What counts as stored is on one of the other nodes too.
        if failed.len() >= inner.stored_count_min() {
            let failed = inner.failures(failed.iter().map(|(node, error)| (*node, error)));
            let why = format!("keys may be missing; unreachable: {failed}");
            return Err(Error::new(ErrorKind::Unavailable, "erasure.settle").because(why));
        }
        self.report.silent = failed.iter().map(|(node, _)| inner.nodes[*node].name.clone()).collect();
        self.after = window.last_key_value().map(|(key, _)| key.clone()).or(self.after.take());
        (self.is_last, self.listed, self.done) = (!is_cut, listed, behind);
        let (placement, shards, mut done) = (inner.placement.get(), inner.shards(), behind);
        for (key, holders) in window {
            done += holders.len() as u64;
            let order = placement.order(&key);
            let (places, others) = order.split_at(shards.min(order.len()));
            let is_silent = |node: &usize| failed.iter().any(|(other, _)| other == node);
            let is_there = places.iter().all(|node| holders.contains(node) || is_silent(node));
            if !is_there || others.iter().any(|node| holders.contains(node)) {
                self.window.push_back((key, done));
            }
        }
        Ok(())
    }
}
