//! Nodes, and how each of them does: who is asked first, how long an answer may take, who is not waited for.
//!
//! Every call of a node goes through [`Node::call`], which ends it at a time limit and learns from what comes of it. A node
//! that gave no answer in time, or says that it is unavailable, is down until a call succeeds that began since; a probe in the
//! background sees to it that there is such a call. A read that got tired of waiting calls the node late, which is asked
//! after others until the probe, or any other call, has an answer of it. Time is that of the tokio runtime: where its
//! clock stands still, a test moves it. Spec: spec/erasure.md, "Nodes that do not answer".

use std::{
    collections::{BTreeSet, VecDeque},
    future::Future,
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{ErasureNode, Inner};
use crate::{BlockKey, BlockStore, Error, ErrorKind, Result};

/// So many answers of a node are remembered; the second slowest of them is what it usually takes at most.
const TIMES_COUNT: usize = 16;
/// An answer is remembered so long: a node that was slow is tried again then.
const TIMES_AGE_MAX: Duration = Duration::from_secs(30);
/// A node is waited for so many times as long as it usually takes before another is asked as well.
const LATE_FACTOR: u32 = 3;
/// But not shorter than this, or half of all requests would be sent twice where nodes take microseconds.
const LATE_MIN: Duration = Duration::from_millis(5);
/// And not longer than this, however slow it usually is.
const LATE_MAX: Duration = Duration::from_millis(500);
/// So long where nothing is known of any node.
const LATE_FIRST: Duration = Duration::from_millis(100);
/// A node that takes so many times as long as the middle one is asked after the others.
const SLOW_FACTOR: u32 = 4;
/// A node that is down is asked again after so long, then after twice as long, and so on.
const PROBE_WAIT_MIN: Duration = Duration::from_millis(500);
/// But at least so often.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(30);
/// What a probe of a node asks for with `has`: no shard's key, as it does not end in the number of a slot. It is sent to a
/// node that is late or down, again and again; a store may take it as a call to see whether it can be used again, and
/// end it only when it can.
pub const PROBE_KEY: &[u8] = b"probe";

/// How a node of an [`Erasure`](super::Erasure) does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureNodeStatus {
    /// Its name.
    pub name: String,
    /// Why it is taken to be down; `None` where it is up, as far as is known.
    pub down: Option<String>,
    /// How long its answers to reads take: the second slowest of the latest 16; `None` where there was none in the last
    /// 30 seconds.
    pub answer_time: Option<Duration>,
}

/// A node, and what is known of it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    store: Arc<dyn BlockStore>,
    call_time_max: Duration,
    health: Mutex<Health>,
    /// Told when it is back.
    back: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Health {
    standing: Standing,
    /// Whether a call of it has ended since the start.
    is_known: bool,
    /// How many calls have failed so that it was down.
    failed_count: u64,
    /// Whether somebody asks it again and again until it answers.
    is_probed: bool,
    /// How long its latest answers took.
    times: VecDeque<Duration>,
    /// The second slowest of them (one that was held up by chance does not count), and when the last came.
    usual: Option<(Duration, Instant)>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Standing {
    #[default]
    Up,
    /// Another node was asked instead of it.
    Late,
    /// It failed, and why.
    Down(String),
}

/// When a node is asked: the first first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Fast,
    Slow,
    Late,
    /// Only where the others do not do.
    Down,
}

/// How the nodes did at a moment: when each is asked, and how long it is waited for before another is asked as well.
pub(super) struct Ranks(Vec<(Class, Duration)>);

impl Ranks {
    pub(super) fn class(&self, node: usize) -> Class {
        self.0[node].0
    }

    pub(super) fn late_after(&self, node: usize) -> Duration {
        self.0[node].1
    }
}

impl Node {
    pub(super) fn new(
        ErasureNode { name, store, .. }: ErasureNode,
        call_time_max: Duration,
        back: Arc<Notify>,
    ) -> Self {
        Self { name, store, call_time_max, health: Mutex::default(), back }
    }

    pub(super) fn store(&self) -> &dyn BlockStore {
        &*self.store
    }

    /// Carries out a call of this node, which takes no longer than its limit.
    ///
    /// # Errors
    /// Those of the call; `Unavailable` where there was no answer in time.
    pub(super) async fn call<T>(self: &Arc<Self>, work: impl Future<Output = Result<T>>) -> Result<T> {
        Ok(self.timed(self.call_time_max, work).await?.0)
    }

    /// The same of a call that reads: how long it takes tells how fast the node is.
    pub(super) async fn call_to_read<T>(self: &Arc<Self>, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (given, took) = self.timed(self.call_time_max, work).await?;
        self.health().add_time(took);
        Ok(given)
    }

    /// The same of a flush, which has more to do than other calls and may take six times as long.
    pub(super) async fn flush(self: &Arc<Self>) -> Result<()> {
        self.timed(self.call_time_max * 6, self.store.flush()).await.map(|((), _took)| ())
    }

    async fn timed<T>(
        self: &Arc<Self>,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Duration)> {
        let (start, failed_count) = (Instant::now(), self.health().failed_count);
        let mut work = pin!(work);
        // Most calls of a local store are done at once, and need no timer.
        let result = match work.as_mut().now_or_never() {
            Some(result) => result,
            None => timeout(limit, work).await.unwrap_or_else(|_elapsed| {
                Err(Error::new(ErrorKind::Unavailable, "erasure.call").because(no_answer(limit)))
            }),
        };
        match &result {
            Err(error) if error.kind() == ErrorKind::Unavailable => self.set_down(format!("{error:#}")),
            _ => self.set_up(failed_count),
        }
        Ok((result?, start.elapsed()))
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.health().standing, Standing::Down(_))
    }

    /// Whether it answers: one that nobody has asked yet is neither there nor down.
    pub(super) fn is_there(&self) -> bool {
        let health = self.health();
        health.is_known && !matches!(health.standing, Standing::Down(_))
    }

    /// What to say of it where it is not asked, or not waited for.
    pub(super) fn down_error(&self) -> Error {
        let why = match &self.health().standing {
            Standing::Down(why) => format!("it is down: {why}"),
            Standing::Up | Standing::Late => "it has not answered yet".to_owned(),
        };
        Error::new(ErrorKind::Unavailable, "erasure.call").because(why)
    }

    pub(super) fn status(&self) -> ErasureNodeStatus {
        let health = self.health();
        let down = match &health.standing {
            Standing::Down(why) => Some(why.clone()),
            Standing::Up | Standing::Late => None,
        };
        ErasureNodeStatus { name: self.name.clone(), down, answer_time: health.usual_time(Instant::now()) }
    }

    /// It answered a call that began when so many had failed. One that had begun before the node went tells nothing.
    fn set_up(&self, failed_count: u64) {
        let is_back = {
            let mut health = self.health();
            if health.failed_count != failed_count {
                return;
            }
            let was_known = mem::replace(&mut health.is_known, true);
            let before = mem::replace(&mut health.standing, Standing::Up);
            !was_known || matches!(before, Standing::Down(_))
        };
        if is_back {
            self.back.notify_one();
        }
    }

    fn set_down(self: &Arc<Self>, why: String) {
        {
            let mut health = self.health();
            health.standing = Standing::Down(why);
            health.is_known = true;
            health.failed_count += 1;
        }
        self.probe(PROBE_WAIT_MIN);
    }

    /// Another node was asked instead of this one.
    pub(super) fn set_late(self: &Arc<Self>) {
        {
            let mut health = self.health();
            if health.standing != Standing::Up {
                return;
            }
            health.standing = Standing::Late;
        }
        self.probe(Duration::ZERO);
    }

    /// Asks the node in the background whether it is there, and if it is not, until it is.
    pub(super) fn look_for(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let node = Arc::downgrade(self);
        drop(runtime.spawn(async move {
            if let Some(node) = node.upgrade() {
                node.ask_to_probe().await;
            }
        }));
    }

    async fn ask_to_probe(self: &Arc<Self>) {
        if let Ok(key) = BlockKey::new(PROBE_KEY) {
            // What comes of it is noted.
            drop(self.call_to_read(self.store.has(&key)).await);
        }
    }

    /// Asks the node in the background until it answers, unless somebody does.
    fn probe(self: &Arc<Self>, wait: Duration) {
        // Outside of a runtime nothing runs in the background: the next calls find out.
        let Ok(runtime) = Handle::try_current() else { return };
        let was_probed = mem::replace(&mut self.health().is_probed, true);
        if !was_probed {
            drop(runtime.spawn(probe(Arc::downgrade(self), wait)));
        }
    }
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}

/// Asks a node until it is up, or until nobody needs it any more.
async fn probe(node: Weak<Node>, mut wait: Duration) {
    loop {
        sleep(wait).await;
        let Some(node) = node.upgrade() else { return };
        if node.health().standing != Standing::Up {
            node.ask_to_probe().await;
        }
        let mut health = node.health();
        if health.standing == Standing::Up {
            health.is_probed = false;
            return;
        }
        wait = (wait * 2).clamp(PROBE_WAIT_MIN, PROBE_WAIT_MAX);
    }
}

impl Health {
    fn add_time(&mut self, took: Duration) {
        let now = Instant::now();
        if self.usual_time(now).is_none() {
            self.times.clear();
        }
        if self.times.len() == TIMES_COUNT {
            self.times.pop_front();
        }
        self.times.push_back(took);
        let (mut slowest, mut second) = (took, None);
        for time in self.times.iter().copied().take(self.times.len() - 1) {
            second = second.max(Some(slowest.min(time)));
            slowest = slowest.max(time);
        }
        self.usual = Some((second.unwrap_or(slowest), now));
    }

    fn usual_time(&self, now: Instant) -> Option<Duration> {
        let (time, at) = self.usual?;
        (now.saturating_duration_since(at) < TIMES_AGE_MAX).then_some(time)
    }
}

impl Inner {
    /// Looks at how all nodes do.
    pub(super) fn ranks(&self) -> Ranks {
        let now = Instant::now();
        let look = |node: &Arc<Node>| {
            let health = node.health();
            let class = match health.standing {
                Standing::Up => Class::Fast,
                Standing::Late => Class::Late,
                Standing::Down(_) => Class::Down,
            };
            (class, health.usual_time(now))
        };
        // Those that are gone keep their numbers.
        let known: Vec<_> = (0..self.nodes.count()).map(|node| look(&self.nodes[node])).collect();
        let mut times: Vec<_> = known.iter().filter_map(|(_, time)| *time).collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2).copied();
        let is_slow = |time| middle.is_some_and(|middle| time > LATE_MIN.max(middle * SLOW_FACTOR));
        let rank = |(class, time): (Class, Option<Duration>)| {
            let class = if class == Class::Fast && time.is_some_and(is_slow) { Class::Slow } else { class };
            let late_after = time.or(middle).map_or(LATE_FIRST, |time| (time * LATE_FACTOR).clamp(LATE_MIN, LATE_MAX));
            (class, late_after)
        };
        Ranks(known.into_iter().map(rank).collect())
    }

    /// Waits for calls of nodes. When what came is enough, the others have until a call's limit has passed since the
    /// beginning, and those that are down until all others have ended: they fail then.
    pub(super) async fn wait_for<T, F: Future<Output = Result<T>>>(
        &self,
        calls: impl IntoIterator<Item = (usize, F)>,
        is_enough: impl Fn(&[(usize, Result<T>)]) -> bool,
    ) -> Vec<(usize, Result<T>)> {
        let (down, up): (Vec<_>, Vec<_>) = calls.into_iter().partition(|(node, _)| self.nodes[*node].is_down());
        let mut left_down: BTreeSet<_> = down.iter().map(|(node, _)| *node).collect();
        let mut left_up: BTreeSet<_> = up.iter().map(|(node, _)| *node).collect();
        let deadline = Instant::now() + self.call_time_max;
        // What is asked first may have answered before the others have.
        let mut running: FuturesUnordered<_> =
            down.into_iter().chain(up).map(|(node, call)| async move { (node, call.await) }).collect();
        let mut ended = Vec::new();
        loop {
            let next = match running.next().now_or_never() {
                Some(next) => next,
                None if !is_enough(&ended) => running.next().await,
                None if left_up.is_empty() => None,
                None => timeout_at(deadline, running.next()).await.unwrap_or(None),
            };
            let Some((node, result)) = next else { break };
            left_up.remove(&node);
            left_down.remove(&node);
            ended.push((node, result));
        }
        for node in &left_up {
            self.nodes[*node].set_down(no_answer(self.call_time_max));
        }
        let left = left_down.into_iter().chain(left_up);
        ended.extend(left.map(|node| (node, Err(self.nodes[node].down_error()))));
        ended
    }
}
