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
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use muxfs::{
    BlockKey, BlockStore, BoxError, Error, ErrorKind, Result,
    block::{Checked, Checks, Expected, Given},
};
use tokio::time::{Instant, sleep_until};

use crate::{
    ahead::{Ahead, Awaited},
    cid_of_key,
    gateway::Gateway,
    health::{Asking, Source},
    read_only,
};

/// The next source is asked beside one that takes so many times as long as it usually does,
const HEDGE_FACTOR: u32 = 2;
/// and beside one that was never asked before after so long.
const HEDGE_UNKNOWN: Duration = Duration::from_millis(500);

/// So long nothing comes of a CAR before no more is awaited of it,
const STALL_MAX: Duration = Duration::from_secs(2);
/// and so long who reads waits for one block of it, however much of others comes.
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

/// What comes before a time that may be put off while it is waited for.
async fn until<T>(mut wait: Pin<&mut impl Future<Output = T>>, at: impl Fn() -> Instant) -> Option<T> {
    loop {
        let due = at();
        tokio::select! {
            biased;
            came = &mut wait => return Some(came),
            () = sleep_until(due) => if at() <= due {
                return None;
            }
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

    /// Who is asked for a CAR now: whoever would be asked for a block, if it gives any.
    fn streaming(&self) -> Option<Arc<Source>> {
        let now = Instant::now();
        let (order, _) = self.order(now, None);
        let first = order.front()?;
        let (is_liar, _) = first.health().rank(now);
        let gives_cars = first.gateway.as_ref().is_some_and(|gateway| gateway.gives_cars());
        (!is_liar && gives_cars).then(|| Arc::clone(first))
    }

    /// Who may be asked now, in this order, and how many may not; one is left out.
    fn order(&self, now: Instant, except: Option<&Arc<Source>>) -> (VecDeque<&Arc<Source>>, usize) {
        let mut ranked: Vec<_> = Vec::new();
        let mut resting = 0;
        for source in &self.each {
            if except.is_some_and(|except| Arc::ptr_eq(except, source)) {
                continue;
            }
            let health = source.health();
            if health.rests(now) {
                resting += 1;
            } else {
                ranked.push((health.rank(now), source));
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        (ranked.into_iter().map(|(_, source)| source).collect(), resting)
    }

    /// How long a source is waited for before the next one is asked too.
    fn patience(&self, source: &Source) -> Duration {
        let usual = source.health().latency.map_or(HEDGE_UNKNOWN, |latency| latency * HEDGE_FACTOR);
        usual.clamp(self.options.hedge_min, self.options.hedge_max)
    }

    /// A block that comes in a CAR. Where that stands still, or takes long, others are asked for it beside it, and where it
    /// does so for longer nothing more is awaited of it.
    async fn get_coming(&self, key: &BlockKey, awaited: &Awaited) -> Result<Option<Checked>> {
        let coming = &awaited.coming;
        let (begun, source) = (Instant::now(), coming.source());
        let mut wait = pin!(awaited.block());
        if self.each.len() > 1 {
            let patience = self.patience(source);
            let at = || (coming.progressed().max(begun) + patience).min(begun + self.options.hedge_max);
            if let Some(block) = until(wait.as_mut(), at).await {
                return self.came_or_asked(key, block).await;
            }
            let mut others = pin!(self.first(key, ask_for_block, Some(source)));
            tokio::select! {
                biased;
                block = &mut wait => return match block {
                    Some(block) => Ok(Some(block)),
                    None => self.came_or_asked(key, None).await,
                },
                found = &mut others => if let Ok(Some(block)) = found {
                    coming.outrun(begun.elapsed());
                    return Ok(Some(block));
                }
            }
        }
        let at = || (coming.progressed().max(begun) + STALL_MAX).min(begun + COMING_MAX);
        if let Some(block) = until(wait, at).await {
            return self.came_or_asked(key, block).await;
        }
        let waited = begun.elapsed();
        coming.give_up(waited, waited >= COMING_MAX);
        self.came_or_asked(key, None).await
    }

    async fn came_or_asked(&self, key: &BlockKey, came: Option<Checked>) -> Result<Option<Checked>> {
        match came {
            Some(block) => Ok(Some(block)),
            None => self.first(key, ask_for_block, None).await,
        }
    }

    /// The first answer that is one; one source is left out.
    async fn first<T: Send + 'static>(
        &self,
        key: &BlockKey,
        ask: Ask<T>,
        except: Option<&Arc<Source>>,
    ) -> Result<Option<T>> {
        let begun = Instant::now();
        let deadline = begun + self.options.time_max;
        let (mut waiting, mut resting) = self.order(begun, except);
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
                let asking = Asking::new(source, now);
                let answer = ask(source.store.clone(), key.clone(), self.checks.clone());
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
        Ok(self.get_checked(key).await?.map(|given| given.bytes().clone()))
    }

    async fn get_checked(&self, key: &BlockKey) -> Result<Option<Given>> {
        let found = match self.ahead.find(key, || self.streaming()) {
            Some(awaited) => self.get_coming(key, &awaited).await?,
            None => self.first(key, ask_for_block, None).await?,
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

    /// What the sources say: nobody can check it.
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        let found: Ask<()> = |store, key, _| Box::pin(async move { Ok(store.has(&key).await?.then_some(())) });
        Ok(self.first(key, found, None).await?.is_some())
    }

    /// `Unsupported`: no source tells.
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let error = Error::new(ErrorKind::Unsupported, "sources.keys");
        stream::once(async { Err(error.because("which blocks others have cannot be listed")) }).boxed()
    }
}
