//! Having everything where it belongs: what moves shards after nodes came, were drained, went or came back.
//!
//! One walk at a time over the keys of all nodes ([`Erasure::settle`]), in the background, no faster than it is told. That
//! something is to be moved is noted before it is begun, in what is known of scrubs, and forgotten when a walk found all in
//! its place: so a program that ends on the way goes on with it. Spec: spec/zstor.md #nodes-that-come-and-go.

use std::{
    collections::BTreeSet,
    fmt, mem,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use muxfs::{
    Result,
    block::{Erasure, SettleReport},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver},
    time::timeout,
};

use crate::{heads::NodeHeads, members::Members, scrub::Scrubber};

/// What could not be moved is tried again after so long, then after twice as long each time.
const RETRY_MIN: Duration = Duration::from_mins(1);
/// But at least so often.
const RETRY_MAX: Duration = Duration::from_hours(1);

/// Where shards belong, as far as nodes say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    data: u8,
    parity: u8,
    group_max: Option<u8>,
    /// Name, group, and whether it is drained.
    nodes: BTreeSet<(String, Option<String>, bool)>,
}

/// How far moving is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settling {
    /// Whether everything is where it belongs, as far as is known.
    pub is_settled: bool,
    /// Whether it is being looked at, or moved, now.
    pub is_running: bool,
    /// Which part of all keys the walk has looked at that is under way, 0 to 1.
    pub coverage: f64,
    /// How many blocks walks of this process have moved,
    pub moved: u64,
    /// and how many bytes of shards they read for that.
    pub bytes_read: u64,
    /// Nodes that came, or came back, since all was in its place: they may lack shards.
    pub filling: BTreeSet<String>,
    /// Why the last walk left something to do; `None` where it did not.
    pub left: Option<String>,
}

/// Moves shards to where they belong.
#[derive(Clone)]
pub(crate) struct Settler(Arc<Inner>);

struct Inner {
    shards: Erasure,
    heads: Arc<NodeHeads>,
    scrubber: Scrubber,
    members: Arc<Members>,
    counts: (u8, u8),
    group_max: Option<u8>,
    /// Bytes in a second; 0 is as fast as it can.
    rate: AtomicU64,
    wanted: Notify,
    now: Mutex<Settling>,
}

impl fmt::Debug for Settler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settler({:?})", self.now())
    }
}

impl Settler {
    pub(crate) fn new(
        shards: Erasure,
        heads: Arc<NodeHeads>,
        scrubber: Scrubber,
        members: Arc<Members>,
        (counts, group_max): ((u8, u8), Option<u8>),
    ) -> Self {
        let (rate, wanted, now) = (AtomicU64::new(0), Notify::new(), Mutex::default());
        Self(Arc::new(Inner { shards, heads, scrubber, members, counts, group_max, rate, wanted, now }))
    }

    pub(crate) fn set_rate(&self, bytes_per_sec: Option<NonZeroU64>) {
        self.0.rate.store(bytes_per_sec.map_or(0, NonZeroU64::get), Ordering::Relaxed);
    }

    /// Has all looked at again: nodes came, or changed.
    pub(crate) fn want(&self, came: impl Iterator<Item = String>) {
        self.now_mut().filling.extend(came);
        self.0.wanted.notify_one();
    }

    pub(crate) fn now(&self) -> Settling {
        let is_settled = self.0.scrubber.state().settled.as_ref() == Some(&self.layout());
        Settling { is_settled, ..self.now_mut().clone() }
    }

    fn now_mut(&self) -> MutexGuard<'_, Settling> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layout(&self) -> Layout {
        let nodes = self.0.members.all().into_iter().map(|member| member.node);
        let nodes = nodes.map(|node| (node.name, node.group, node.is_drained)).collect();
        Layout { data: self.0.counts.0, parity: self.0.counts.1, group_max: self.0.group_max, nodes }
    }

    /// Goes on until it is dropped; told the names of nodes that were opened.
    pub(crate) async fn run(self, mut opened: UnboundedReceiver<String>) {
        let mut retry = RETRY_MIN;
        let mut is_wanted = !self.now().is_settled;
        loop {
            if !is_wanted {
                let is_settled = self.now().is_settled;
                let wait = if is_settled { Duration::MAX } else { retry };
                let wake = timeout(wait, async {
                    tokio::select! {
                        node = opened.recv() => node,
                        () = self.0.wanted.notified() => Some(String::new()),
                    }
                });
                match wake.await {
                    Ok(Some(node)) => {
                        self.now_mut().filling.extend(Some(node).filter(|node| !node.is_empty()));
                        retry = RETRY_MIN;
                    }
                    // Nobody can open a node any more.
                    Ok(None) => return,
                    Err(_elapsed) => retry = (retry * 2).min(RETRY_MAX),
                }
            }
            while let Ok(node) = opened.try_recv() {
                self.now_mut().filling.insert(node);
            }
            is_wanted = false;
            self.0.heads.spread().await;
            if let Err(error) = self.settle().await {
                self.now_mut().left = Some(format!("{error:#}"));
                tracing::warn!("shards may not be where they belong, which is looked at again later: {error:#}");
            }
            self.now_mut().is_running = false;
        }
    }

    async fn settle(&self) -> Result<()> {
        // A stop on the way is gone on with.
        self.0.scrubber.set_settled(None).await?;
        let (layout, filling) = (self.layout(), self.now().filling);
        let before = {
            let mut now = self.now_mut();
            (now.is_running, now.coverage) = (true, 0.0);
            (now.moved, now.bytes_read)
        };
        let rate = || NonZeroU64::new(self.0.rate.load(Ordering::Relaxed));
        let mut walk = self.0.shards.settle(rate());
        while walk.step().await? {
            walk.set_rate(rate());
            let mut now = self.now_mut();
            now.coverage = walk.coverage();
            (now.moved, now.bytes_read) = (before.0 + walk.report().moved, before.1 + walk.report().bytes_read);
        }
        let report = walk.report().clone();
        if report.moved > 0 {
            let nodes = filling.iter().cloned().collect::<Vec<_>>().join(", ");
            tracing::info!(nodes, "{} blocks were brought where they belong", report.moved);
        }
        if !report.is_whole() {
            self.now_mut().left = Some(why(&report));
            return Ok(());
        }
        {
            let mut now = self.now_mut();
            now.left = None;
            now.filling = mem::take(&mut now.filling).difference(&filling).cloned().collect();
        }
        if self.layout() == layout {
            self.0.scrubber.set_settled(Some(layout)).await?;
        }
        Ok(())
    }
}

fn why(report: &SettleReport) -> String {
    let mut whys = Vec::new();
    if let Some((_, why)) = &report.first_left {
        whys.push(format!("{} blocks could not be brought where they belong, the first: {why}", report.left));
    }
    if !report.silent.is_empty() {
        let silent: Vec<&str> = report.silent.iter().map(String::as_str).collect();
        whys.push(format!("these nodes did not tell what they have: {}", silent.join(", ")));
    }
    whys.join("; ")
}
