//! Several sources as one: the fastest is asked first, the next one when it takes too long or has not got it.
//!
//! ```text
//! ask the best ---- answer? ---- yes, it has the block: done, who is still asked is let go
//!      ^               |
//!      |               '-- it has not, or failed: ask the next at once
//!      '------------------ twice its usual time is over: ask the next beside it
//! ```
//!
//! Sits below the cache of `/ipfs`. It keeps no block but those that come before they are asked for; of each source it keeps how fast it was, whether it fails, and
//! whether it lied. Spec: spec/sources.md #order.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use muxfs::{BlockKey, BlockStore, BoxError, Cid, Error, ErrorKind, Result};
use tokio::time::{Instant, sleep_until};

use crate::{Undecided, ahead::Ahead, cid_of_key, gateway::Gateway, read_only};

/// A source that failed so often, one time after the other, is left out for a while,
const FAILURE_COUNT_MAX: u32 = 3;
/// which is this long at first, doubles with each failure more, and ends here.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_mins(1);
/// A source that gave other bytes than those it was asked for is asked after all others for so long.
const DISTRUST: Duration = Duration::from_mins(10);
/// How much of what was known of the speed of a source the next answer leaves: so many parts of one more.
const MEMORY_PARTS: u32 = 3;
/// A source that was not asked for so long is taken for twice as fast as it was, so that each has its turn again.
const FORGIVEN_AFTER: Duration = Duration::from_mins(1);
/// The next source is asked beside one that takes so many times as long as it usually does,
const HEDGE_FACTOR: u32 = 2;
/// and beside one that was never asked before after so long.
const HEDGE_UNKNOWN: Duration = Duration::from_millis(500);

/// How long sources are waited for.
#[derive(Debug, Clone)]
pub struct SourcesOptions {
    /// How long all of them together may take for a block.
    pub time_max: Duration,
    /// How long the first one is waited for, at least and at most, before another is asked beside it.
    pub hedge_min: Duration,
    /// See `hedge_min`.
    pub hedge_max: Duration,
}

impl Default for SourcesOptions {
    /// 30 s in all, 100 ms to 2 s before the next one is asked.
    fn default() -> Self {
        Self {
            time_max: Duration::from_secs(30),
            hedge_min: Duration::from_millis(100),
            hedge_max: Duration::from_secs(2),
        }
    }
}

/// Several stores that are only read, as one: an answer is that of whoever has the block first.
///
/// A block is absent only if all say so; where one fails, or is left out since it failed before, and none has the
/// block, it is `Unavailable`, with why, or `Corrupt` where one lied. Every block is held against its key; what is not of its key is neither given on nor
/// counted.
pub struct Sources {
    each: Vec<Source>,
    options: SourcesOptions,
    ahead: Ahead,
}

struct Source {
    store: Arc<dyn BlockStore>,
    /// The same, where it gives CARs.
    gateway: Option<Arc<Gateway>>,
    health: Mutex<Health>,
}

/// What is known of a source.
#[derive(Debug, Clone, Default)]
struct Health {
    /// How long an answer took lately; `None` before the first.
    latency: Option<Duration>,
    asked: Option<Instant>,
    /// How often it failed since it last answered.
    failure_count: u32,
    failed: Option<Instant>,
    /// It is not asked before.
    rests_until: Option<Instant>,
    distrusted_until: Option<Instant>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.each.iter().map(|source| &source.store)).finish()
    }
}

impl Source {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    /// What a look at it is ordered by: those that lied last, then the slow.
    fn rank(&self, now: Instant) -> (bool, Duration) {
        let lied = self.distrusted_until.is_some_and(|until| now < until);
        (lied, self.latency_now(now).unwrap_or(Duration::ZERO))
    }

    /// How long an answer is likely to take; it is more likely to be another the longer nobody asked.
    fn latency_now(&self, now: Instant) -> Option<Duration> {
        let idle = self.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        self.latency.map(|latency| latency.div_f64(1.0 + idle.as_secs_f64() / FORGIVEN_AFTER.as_secs_f64()))
    }

    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Notes that it is asked, unless it rests. One that rested for long enough is tried by one, while others still leave it
    /// out.
    fn ask(&mut self, now: Instant) -> bool {
        if self.rests(now) {
            return false;
        }
        self.rests_until = self.rests_until.map(|_| now + self.rest());
        (self.latency, self.asked) = (self.latency_now(now), Some(now));
        true
    }

    fn rest(&self) -> Duration {
        let doubled = self.failure_count.saturating_sub(FAILURE_COUNT_MAX).min(16);
        (REST_MIN * 2u32.pow(doubled)).min(REST_MAX)
    }

    fn learn(&mut self, took: Duration) {
        let before = self.latency.unwrap_or(took);
        self.latency = Some((before * MEMORY_PARTS + took) / (MEMORY_PARTS + 1));
    }

    fn answered(&mut self, took: Duration) {
        self.learn(took);
        (self.failure_count, self.failed, self.rests_until) = (0, None, None);
    }

    /// Was let go while it was asked, or gave up: it takes this long at least.
    fn outrun(&mut self, took: Duration) {
        if self.latency.is_none_or(|latency| latency < took) {
            self.learn(took);
        }
    }

    fn failed(&mut self, asked: Instant, now: Instant) {
        // All that were under way together fail together: that is one failure.
        if self.failed.is_some_and(|failed| asked < failed) {
            return;
        }
        self.failure_count = self.failure_count.saturating_add(1);
        self.failed = Some(now);
        if self.failure_count >= FAILURE_COUNT_MAX {
            self.rests_until = Some(now + self.rest());
        }
    }
}

/// A source that is being asked. To drop it before it has answered notes how long it was waited for.
struct Asking<'a> {
    source: &'a Source,
    since: Instant,
    is_open: bool,
}

impl Asking<'_> {
    fn close<T>(mut self, answer: &Result<Option<T>>) {
        self.is_open = false;
        let now = Instant::now();
        let mut health = self.source.health();
        match answer {
            Ok(_) => health.answered(now - self.since),
            Err(error) if error.kind() == ErrorKind::Corrupt => health.distrusted_until = Some(now + DISTRUST),
            // That nobody finds this block says nothing of the next one.
            Err(error) if Undecided::is_cause_of(error) => health.outrun(now - self.since),
            Err(_) => health.failed(self.since, now),
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.source.health().outrun(self.since.elapsed());
        }
    }
}

type Ask<T> = fn(Arc<dyn BlockStore>, BlockKey) -> BoxFuture<'static, Result<Option<T>>>;

impl Sources {
    /// Asks `stores`; who is asked first before anything is known is the first of them.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, Codec, block::Mem, cid_of};
    /// use muxfs_ipfs::{Sources, SourcesOptions};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let (one, other) = (Arc::new(Mem::default()), Arc::new(Mem::default()));
    /// let key = BlockKey::from(&cid_of(Codec::Raw, b"hello"));
    /// other.put(&key, "hello".into()).await?;
    /// let sources = Sources::new(vec![one, other], SourcesOptions::default());
    /// assert_eq!(sources.get(&key).await?, Some("hello".into()));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(stores: Vec<Arc<dyn BlockStore>>, options: SourcesOptions) -> Self {
        let each = stores.into_iter().map(|store| Source { store, gateway: None, health: Mutex::default() }).collect();
        Self { each, options, ahead: Ahead::default() }
    }

    /// Asks this one too, after those that are there; and while it is the fastest, for CARs of files that are read in order.
    #[must_use]
    pub fn and_gateway(mut self, gateway: Arc<Gateway>) -> Self {
        let store: Arc<dyn BlockStore> = gateway.clone();
        self.each.push(Source { store, gateway: Some(gateway), health: Mutex::default() });
        self
    }

    /// Asks this one too, after those that are there, for one block at a time.
    #[must_use]
    pub fn and(mut self, store: Arc<dyn BlockStore>) -> Self {
        self.each.push(Source { store, gateway: None, health: Mutex::default() });
        self
    }

    /// Who is asked for a CAR now: whoever would be asked for a block, if it gives any.
    fn gateway(&self) -> Option<Arc<Gateway>> {
        let now = Instant::now();
        let (order, _) = self.order(now);
        let first = order.front()?;
        let (is_liar, _) = first.health().rank(now);
        first.gateway.clone().filter(|gateway| !is_liar && gateway.gives_cars())
    }

    /// Who may be asked now, in this order, and how many may not.
    fn order(&self, now: Instant) -> (VecDeque<&Source>, usize) {
        let mut ranked: Vec<_> = Vec::new();
        for source in &self.each {
            let health = source.health();
            if !health.rests(now) {
                ranked.push((health.rank(now), source));
            }
        }
        let resting = self.each.len() - ranked.len();
        ranked.sort_by_key(|(rank, _)| *rank);
        (ranked.into_iter().map(|(_, source)| source).collect(), resting)
    }

    /// How long a source is waited for before the next one is asked too.
    fn patience(&self, source: &Source) -> Duration {
        let usual = source.health().latency.map_or(HEDGE_UNKNOWN, |latency| latency * HEDGE_FACTOR);
        usual.clamp(self.options.hedge_min, self.options.hedge_max)
    }

    /// The first answer that is one.
    async fn first<T: Send + 'static>(&self, key: &BlockKey, ask: Ask<T>) -> Result<Option<T>> {
        let begun = Instant::now();
        let deadline = begun + self.options.time_max;
        let (mut waiting, mut resting) = self.order(begun);
        let (mut asked, mut failed, mut next_at) = (FuturesUnordered::new(), None, begun);
        loop {
            let now = Instant::now();
            if (asked.is_empty() || now >= next_at)
                && let Some(source) = waiting.pop_front()
            {
                if !source.health().ask(now) {
                    // It failed meanwhile, or another tries it.
                    resting += 1;
                    continue;
                }
                let asking = Asking { source, since: now, is_open: true };
                let answer = ask(source.store.clone(), key.clone());
                asked.push(async move {
                    let answer = answer.await;
                    asking.close(&answer);
                    answer
                });
                next_at = now + self.patience(source);
            }
            if asked.is_empty() {
                break;
            }
            let may_hedge = !waiting.is_empty();
            let answer = tokio::select! {
                biased;
                answer = asked.next() => answer,
                () = sleep_until(next_at), if may_hedge => None,
                () = sleep_until(deadline) => {
                    let secs = self.options.time_max.as_secs_f32();
                    return Err(failed.map_or_else(|| unavailable(format!("no source answered in {secs} s")), failure));
                }
            };
            match answer {
                Some(Ok(Some(found))) => return Ok(Some(found)),
                Some(Ok(None)) => next_at = Instant::now(),
                Some(Err(error)) => {
                    failed = failed.or(Some(error));
                    next_at = Instant::now();
                }
                None => {}
            }
        }
        match (failed, resting) {
            (Some(error), _) => Err(failure(error)),
            (None, 0) => Ok(None),
            (None, _) => {
                let count = self.each.len();
                Err(unavailable(format!("{resting} of {count} sources failed lately, and are tried again soon")))
            }
        }
    }
}

fn unavailable(why: impl Into<BoxError>) -> Error {
    Error::new(ErrorKind::Unavailable, "sources.get").because(why)
}

/// What a failure of a source is to who reads: that a source refuses us does not mean that he may not read.
fn failure(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Unavailable => error,
        _ => unavailable(error),
    }
}

#[async_trait]
impl BlockStore for Sources {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        if let Some(block) = self.ahead.take(key, || self.gateway()).await {
            return Ok(Some(block));
        }
        self.first(key, |store, key| {
            Box::pin(async move {
                // Whatever a store promises: from here on a block is one.
                let Some(cid) = cid_of_key(&key) else { return Ok(None) };
                let Some(block) = store.get(&key).await? else { return Ok(None) };
                cid.verify(&block).map(|()| Some(block))
            })
        })
        .await
    }

    async fn put(&self, _key: &BlockKey, _block: Bytes) -> Result<()> {
        Err(read_only("sources.put"))
    }

    async fn delete(&self, _key: &BlockKey) -> Result<()> {
        Err(read_only("sources.delete"))
    }

    fn expect(&self, cid: &Cid, block: &Bytes) {
        if self.each.iter().any(|source| source.gateway.is_some()) {
            self.ahead.expect(cid, block);
        }
    }

    /// What the sources say: nobody can check it.
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        let found = self.first(key, |store, key| Box::pin(async move { Ok(store.has(&key).await?.then_some(())) }));
        Ok(found.await?.is_some())
    }

    /// `Unsupported`: no source tells.
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let error = Error::new(ErrorKind::Unsupported, "sources.keys");
        stream::once(async { Err(error.because("which blocks others have cannot be listed")) }).boxed()
    }
}
