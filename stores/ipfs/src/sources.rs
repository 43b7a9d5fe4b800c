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

use std::{collections::VecDeque, fmt, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use muxfs::{
    BlockKey, BlockStore, BoxError, Cid, Error, ErrorKind, Result,
    block::{Checked, Checks, Expected, Given, Subtree},
};
use tokio::time::{Instant, sleep_until};

use crate::{
    ahead::{Ahead, Awaited, STALL_MAX, tree},
    cars::Of,
    cid_of_key,
    gateway::Gateway,
    health::{Asking, Source},
    read_only,
};

/// The next source is asked beside one that takes so many times as long as it usually does,
const HEDGE_FACTOR: u32 = 2;
/// and beside one that was never asked before after so long.
const HEDGE_UNKNOWN: Duration = Duration::from_millis(500);

/// So long who reads waits for one block of a CAR, however much of others comes.
const COMING_MAX: Duration = Duration::from_secs(10);

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
    each: Vec<Arc<Source>>,
    options: SourcesOptions,
    ahead: Ahead,
    checks: Checks,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.each.iter().map(|source| &source.store)).finish()
    }
}

type Ask<T> = fn(Arc<dyn BlockStore>, BlockKey, Checks) -> BoxFuture<'static, Result<Option<T>>>;

/// Whatever a store promises: from here on a block is one.
fn ask_for_block(
    store: Arc<dyn BlockStore>,
    key: BlockKey,
    checks: Checks,
) -> BoxFuture<'static, Result<Option<Checked>>> {
    Box::pin(async move {
        let Some(cid) = cid_of_key(&key) else { return Ok(None) };
        match store.get_checked(&key).await? {
            None => Ok(None),
            Some(Given::Checked(checked)) if *checked.key() == key => Ok(Some(checked)),
            Some(given) => checks.check(&cid, given.bytes().clone()).await.map(Some),
        }
    })
}

/// Until a time that may be put off meanwhile.
async fn passed(at: impl Fn() -> Instant) {
    loop {
        let due = at();
        sleep_until(due).await;
        if at() <= due {
            return;
        }
    }
}

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
        let each = stores.into_iter().map(|store| Arc::new(Source::new(store, None))).collect();
        Self { each, options, ahead: Ahead::default(), checks: Checks::new() }
    }

    /// Asks this one too, after those that are there; and while it is the fastest, for CARs of what is about to be read.
    #[must_use]
    pub fn and_gateway(mut self, gateway: Arc<Gateway>) -> Self {
        let store: Arc<dyn BlockStore> = gateway.clone();
        self.each.push(Arc::new(Source::new(store, Some(gateway))));
        self
    }

    /// Asks this one too, after those that are there, for one block at a time.
    #[must_use]
    pub fn and(mut self, store: Arc<dyn BlockStore>) -> Self {
        self.each.push(Arc::new(Source::new(store, None)));
        self
    }

    /// Who is asked for a CAR now: whoever would be asked for a block, if it gives any. One that rested is tried with a block,
    /// which it may give where it gives no CARs.
    fn streaming(&self, of: Of) -> Option<&Arc<Source>> {
        let now = Instant::now();
        let (order, _) = self.order(now, None);
        let first = *order.front()?;
        let gives_cars = first.gateway.as_ref().is_some_and(|gateway| gateway.cars().are_given(of));
        let mut health = first.health();
        let (is_liar, _) = health.rank(now);
        (!is_liar && gives_cars && !health.is_doubted() && health.ask(now)).then_some(first)
    }

    /// Who may be asked now, in this order, and how many may not; one is left out.
    fn order(&self, now: Instant, except: Option<&Arc<Source>>) -> (VecDeque<&Arc<Source>>, usize) {
        let others = self.each.iter().filter(|source| except.is_none_or(|except| !Arc::ptr_eq(except, source)));
        let (mut resting, mut order) = (0, VecDeque::new());
        for source in others {
            if source.health().rests(now) {
                resting += 1;
            } else {
                order.push_back(source);
            }
        }
        sort(&mut order, now);
        (order, resting)
    }

    /// How long a source is waited for before the next one is asked too.
    fn patience(&self, source: &Source) -> Duration {
        let usual = source.health().latency.map_or(HEDGE_UNKNOWN, |latency| latency * HEDGE_FACTOR);
        usual.clamp(self.options.hedge_min, self.options.hedge_max)
    }

    /// A block that comes in a CAR. Where that stands still, or takes long, others are asked for it beside it; and where it
    /// does so for longer nothing more is awaited of it, and who sends it is asked for the block alone, as others are. All
    /// of that has one limit in time.
    async fn get_coming(&self, key: &BlockKey, awaited: &Awaited) -> Result<Option<Checked>> {
        let coming = &awaited.coming;
        let (begun, source) = (Instant::now(), coming.source());
        let mut look = Look::new(self, key, ask_for_block, Some(source));
        let patience = self.patience(source);
        let hedged_at = || (coming.progressed().max(begun) + patience).min(begun + self.options.hedge_max);
        let given_up_at = {
            let last = look.deadline.min(begun + COMING_MAX);
            move || (coming.progressed().max(begun) + STALL_MAX).min(last)
        };
        let car = async {
            tokio::select! {
                biased;
                block = awaited.block() => block,
                () = passed(given_up_at) => {
                    let waited = begun.elapsed();
                    coming.give_up(waited, waited >= COMING_MAX);
                    None
                }
            }
        };
        let others = async {
            passed(hedged_at).await;
            look.next().await
        };
        let came = {
            let mut car = pin!(car);
            tokio::select! {
                biased;
                came = &mut car => came,
                found = others => {
                    if let Some(block) = found {
                        coming.outrun(begun);
                        return Ok(Some(block));
                    }
                    car.await
                }
            }
        };
        if came.is_some() {
            return Ok(came);
        }
        look.admit(source);
        match look.next().await {
            Some(block) => Ok(Some(block)),
            None => look.absence(),
        }
    }

    /// The first answer that is one.
    async fn first<T: Send + 'static>(&self, key: &BlockKey, ask: Ask<T>) -> Result<Option<T>> {
        let mut look = Look::new(self, key, ask, None);
        match look.next().await {
            Some(found) => Ok(Some(found)),
            None => look.absence(),
        }
    }
}

/// The best first.
fn sort(order: &mut VecDeque<&Arc<Source>>, now: Instant) {
    order.make_contiguous().sort_by_cached_key(|source| source.health().rank(now));
}

/// Looking for one block: who is asked, and who is next.
struct Look<'a, T> {
    sources: &'a Sources,
    key: &'a BlockKey,
    ask: Ask<T>,
    deadline: Instant,
    /// Who may still be asked, the best first, and when the next of them is, whoever is to answer yet.
    waiting: VecDeque<&'a Arc<Source>>,
    next_at: Instant,
    asked: FuturesUnordered<BoxFuture<'a, Result<Option<T>>>>,
    /// How many are left out, since they failed before; and what went wrong first.
    resting: usize,
    failed: Option<Error>,
}

impl<'a, T: Send + 'static> Look<'a, T> {
    /// Asks nobody yet; one is left out.
    fn new(sources: &'a Sources, key: &'a BlockKey, ask: Ask<T>, except: Option<&Arc<Source>>) -> Self {
        let now = Instant::now();
        let (waiting, resting) = sources.order(now, except);
        let deadline = now + sources.options.time_max;
        let asked = FuturesUnordered::new();
        Self { sources, key, ask, deadline, waiting, next_at: now, asked, resting, failed: None }
    }

    /// Has one more that may be asked, from now on.
    fn admit(&mut self, source: &'a Arc<Source>) {
        self.next_at = Instant::now();
        self.waiting.push_back(source);
        sort(&mut self.waiting, self.next_at);
    }

    /// The first answer that is one; `None` where nobody is left who might have it, or the time is over. Dropped, it goes on
    /// where it is called again.
    async fn next(&mut self) -> Option<T> {
        loop {
            let now = Instant::now();
            if (self.asked.is_empty() || now >= self.next_at)
                && let Some(source) = self.waiting.pop_front()
            {
                if !source.health().ask(now) {
                    // It failed meanwhile, or another tries it.
                    self.resting += 1;
                    continue;
                }
                let asking = Asking::new(source, now);
                let answer = (self.ask)(source.store.clone(), self.key.clone(), self.sources.checks.clone());
                self.asked.push(Box::pin(async move {
                    let answer = answer.await;
                    asking.close(&answer);
                    answer
                }));
                self.next_at = now + self.sources.patience(source);
            }
            if self.asked.is_empty() {
                return None;
            }
            let may_hedge = !self.waiting.is_empty();
            let answer = tokio::select! {
                biased;
                answer = self.asked.next() => answer,
                () = sleep_until(self.next_at), if may_hedge => None,
                () = sleep_until(self.deadline) => {
                    let secs = self.sources.options.time_max.as_secs_f32();
                    self.failed.get_or_insert_with(|| unavailable(format!("no source answered in {secs} s")));
                    return None;
                }
            };
            match answer {
                Some(Ok(Some(found))) => return Some(found),
                Some(Ok(None)) => self.next_at = Instant::now(),
                Some(Err(error)) => {
                    self.failed.get_or_insert(error);
                    self.next_at = Instant::now();
                }
                None => {}
            }
        }
    }

    /// What it comes to that nobody gave it.
    fn absence(self) -> Result<Option<T>> {
        match (self.failed, self.resting) {
            (Some(error), _) => Err(failure(error)),
            (None, 0) => Ok(None),
            (None, resting) => {
                let count = self.sources.each.len();
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
        Ok(self.get_checked(key).await?.map(|given| given.bytes().clone()))
    }

    async fn get_checked(&self, key: &BlockKey) -> Result<Option<Given>> {
        let found = match self.ahead.find(key, |of| self.streaming(of).cloned()) {
            Some(awaited) => self.get_coming(key, &awaited).await?,
            None => self.first(key, ask_for_block).await?,
        };
        Ok(found.map(Given::Checked))
    }

    async fn put(&self, _key: &BlockKey, _block: Bytes) -> Result<()> {
        Err(read_only("sources.put"))
    }

    async fn delete(&self, _key: &BlockKey) -> Result<()> {
        Err(read_only("sources.delete"))
    }

    fn expect(&self, expected: &Expected<'_>) {
        if self.each.iter().any(|source| source.gateway.is_some()) {
            self.ahead.expect(expected);
        }
    }

    /// As one CAR, of the gateway that would be asked first.
    fn subtree<'a>(&'a self, root: &Cid) -> Option<Subtree<'a>> {
        let source = self.streaming(Of::Tree)?;
        Some(tree(*root, source, source.gateway.as_deref()?))
    }

    /// What the sources say: nobody can check it.
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        let found: Ask<()> = |store, key, _| Box::pin(async move { Ok(store.has(&key).await?.then_some(())) });
        Ok(self.first(key, found).await?.is_some())
    }

    /// `Unsupported`: no source tells.
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let error = Error::new(ErrorKind::Unsupported, "sources.keys");
        stream::once(async { Err(error.because("which blocks others have cannot be listed")) }).boxed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::http::HttpOptions;

    /// A source that gave CARs alone was taken for as fast as one that nobody had asked for as long.
    #[tokio::test(start_paused = true)]
    async fn who_is_asked_for_a_car_is_asked() {
        let url = "http://127.0.0.1:1".parse().expect("an address");
        let gateway = Arc::new(Gateway::new(url, HttpOptions::default()));
        let sources = Sources::new(Vec::new(), SourcesOptions::default()).and_gateway(gateway);
        let took = Duration::from_millis(100);
        for minutes in [0, 10] {
            advance(Duration::from_mins(minutes)).await;
            let source = sources.streaming(Of::File).expect("it gives CARs");
            source.health().answered(took);
            let (_, rank) = source.health().rank(Instant::now());
            assert!(rank > took / 4, "{rank:?}");
        }
        // One that failed is left out for CARs as for blocks, and then tried with a block.
        let source = &sources.each[0];
        for _ in 0..3 {
            let now = Instant::now();
            source.health().failed(now, now);
        }
        assert!(sources.streaming(Of::File).is_none());
        advance(Duration::from_secs(1)).await;
        assert!(sources.streaming(Of::Path).is_none());
        assert!(source.health().ask(Instant::now()), "nothing was taken of its try");
        source.health().answered(took);
        assert!(sources.streaming(Of::Path).is_some() && sources.streaming(Of::File).is_some());
    }
}
