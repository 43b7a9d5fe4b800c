//! A bucket that fails on purpose: answers get lost, calls fail or hang, listings lag, conditions are overlooked, and the
//! machine that asks stops.

#![allow(dead_code, reason = "each test uses a part")]

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use muxfs::{
    BlockKey,
    testing::{Clock, fault::Dice},
};
use muxfs_s3::{Bucket, S3Limits, S3Options, S3Store};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};

/// What goes wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// One call in so many fails before it happens; none where 0.
    pub(crate) fails: usize,
    /// One put or deletion in so many happens, and its answer is lost.
    pub(crate) loses_answers: usize,
    /// One put or deletion in so many fails, and happens when somebody made a few other calls: long after its caller gave it up.
    pub(crate) happens_later: usize,
    /// Calls are never answered.
    pub(crate) hangs: bool,
    /// The next put or deletion panics.
    pub(crate) panics: bool,
    /// Listings show nothing that was put since this was set.
    pub(crate) lists: Option<Vec<Path>>,
    /// Puts happen whatever their condition.
    pub(crate) overlooks_conditions: bool,
    /// The machine stops at the so many-th put or deletion from now on, which still happens in every other case.
    pub(crate) stops_at: Option<u64>,
    /// A call waits for so many turns of others.
    pub(crate) yields: usize,
}

#[derive(Debug)]
struct Script {
    faults: Faults,
    dice: Dice,
    writes: u64,
}

/// Calls that happen later, each when so many others were made, by whomever.
#[derive(Debug, Default)]
pub(crate) struct Late(Mutex<Vec<(usize, Call)>>);

#[derive(Debug)]
enum Call {
    Put(Path, PutPayload, PutOptions),
    Delete(Path),
}

/// The longest that a call is late, in calls of others.
const LATE_COUNT_MAX: usize = 40;

impl Late {
    fn add(&self, dice: usize, call: Call) {
        self.0.lock().expect("no panic").push((1 + dice, call));
    }

    /// Another call is made: those whose time has come happen before it.
    async fn tick(&self, inner: &InMemory) {
        let due: Vec<Call> = {
            let mut all = self.0.lock().expect("no panic");
            all.iter_mut().for_each(|(left, _)| *left -= 1);
            all.extract_if(.., |(left, _)| *left == 0).map(|(_, call)| call).collect()
        };
        for call in due {
            // Nobody is there to be told.
            match call {
                Call::Put(at, payload, options) => inner.put_opts(&at, payload, options).await.map(drop).ok(),
                Call::Delete(at) => inner.delete(&at).await.ok(),
            };
        }
    }
}

/// Objects in memory behind faults; those who share the memory may have faults of their own.
#[derive(Debug, Clone)]
pub(crate) struct Faulty {
    inner: Arc<InMemory>,
    script: Arc<Mutex<Script>>,
    late: Arc<Late>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn failed(why: &str) -> Error {
    Error::Generic { store: "faulty", source: why.to_owned().into() }
}

enum Fate {
    Happens,
    LosesAnswer,
    /// When so many other calls were made.
    Later(usize),
}

impl Faulty {
    pub(crate) fn new(inner: Arc<InMemory>, seed: u64, faults: Faults) -> Arc<Self> {
        Self::with_late(inner, Arc::default(), seed, faults)
    }

    /// One whose late calls are those of others, too.
    pub(crate) fn with_late(inner: Arc<InMemory>, late: Arc<Late>, seed: u64, faults: Faults) -> Arc<Self> {
        let script = Arc::new(Mutex::new(Script { faults, dice: Dice::new(seed), writes: 0 }));
        Arc::new(Self { inner, script, late })
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.script.lock().expect("no panic").faults);
    }

    pub(crate) fn inner(&self) -> &Arc<InMemory> {
        &self.inner
    }

    /// Whether the machine stopped.
    pub(crate) fn has_stopped(&self) -> bool {
        let script = self.script.lock().expect("no panic");
        script.faults.stops_at.is_some_and(|at| script.writes > at)
    }

    pub(crate) fn writes(&self) -> u64 {
        self.script.lock().expect("no panic").writes
    }

    async fn call(&self, is_write: bool) -> Result<Fate> {
        let (fate, yields, hangs, panics) = {
            let mut script = self.script.lock().expect("no panic");
            let Script { faults, dice, writes } = &mut *script;
            let now = *writes;
            *writes += u64::from(is_write);
            let one_in = |dice: &mut Dice, count: usize| count > 0 && dice.roll(count) == 0;
            let fate = match faults.stops_at {
                Some(at) if now > at || (now == at && is_write && at % 2 == 0) => {
                    Err(failed("this machine has stopped"))
                }
                Some(at) if now == at && is_write => Ok(Fate::LosesAnswer),
                _ if one_in(dice, faults.fails) => Err(failed("status code: 503 Service Unavailable: SlowDown")),
                _ if is_write && one_in(dice, faults.loses_answers) => Ok(Fate::LosesAnswer),
                _ if is_write && one_in(dice, faults.happens_later) => Ok(Fate::Later(dice.roll(LATE_COUNT_MAX))),
                _ => Ok(Fate::Happens),
            };
            let panics = is_write && std::mem::take(&mut faults.panics);
            (fate, if faults.yields > 0 { dice.roll(faults.yields) } else { 0 }, faults.hangs, panics)
        };
        assert!(!panics, "a client that panics, as this test wants it to");
        self.late.tick(&self.inner).await;
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        if hangs {
            std::future::pending::<()>().await;
        }
        fate
    }

    async fn delete_one(self, at: Path) -> Result<Path> {
        match self.call(true).await? {
            Fate::Happens => self.inner.delete(&at).await.map(|()| at),
            Fate::LosesAnswer => {
                self.inner.delete(&at).await?;
                Err(lost())
            }
            Fate::Later(count) => {
                self.late.add(count, Call::Delete(at));
                Err(lost())
            }
        }
    }
}

fn lost() -> Error {
    failed("the connection broke off")
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let fate = self.call(true).await?;
        if self.script.lock().expect("no panic").faults.overlooks_conditions {
            options.mode = PutMode::Overwrite;
        }
        if let Fate::Later(count) = fate {
            self.late.add(count, Call::Put(at.clone(), payload, options));
            return Err(lost());
        }
        let done = self.inner.put_opts(at, payload, options).await;
        if matches!(fate, Fate::LosesAnswer) { Err(lost()) } else { done }
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.call(false).await?;
        self.inner.get_opts(at, options).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.call(false).await?;
        self.inner.get_ranges(at, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let faulty = self.clone();
        locations.and_then(move |at| faulty.clone().delete_one(at)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let shown = self.script.lock().expect("no panic").faults.lists.clone();
        let is_shown = move |meta: &ObjectMeta| shown.as_ref().is_none_or(|shown| shown.contains(&meta.location));
        let listed = self.inner.list(prefix);
        listed.filter(move |meta| std::future::ready(meta.as_ref().is_ok_and(&is_shown))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// So many rounds, unless `MUXFS_S3_ROUNDS` says another number.
pub(crate) fn rounds(otherwise: u64) -> u64 {
    std::env::var("MUXFS_S3_ROUNDS").map_or(otherwise, |text| text.parse().expect("MUXFS_S3_ROUNDS is a number"))
}

/// Limits under which a test ends soon.
pub(crate) fn limits() -> S3Limits {
    S3Limits {
        attempt_max: Duration::from_secs(5),
        call_max: Duration::from_secs(20),
        attempt_count_max: u32::MAX,
        pause: Duration::from_micros(100),
        call_count_max: 32,
    }
}

/// A bucket of these objects, its randomness drawn from `seed`.
pub(crate) fn bucket(objects: Arc<dyn ObjectStore>, seed: u64, limits: S3Limits) -> Arc<Bucket> {
    Arc::new(Bucket::new(objects, "below", "s3://bucket", limits, &Clock::default().env(seed)))
}

pub(crate) fn options(writer: &str, pack_len: usize) -> S3Options {
    S3Options { pack_len, host: format!("host of {writer}"), ..S3Options::new(writer) }
}

pub(crate) async fn open(objects: Arc<dyn ObjectStore>, seed: u64, options: S3Options) -> muxfs::Result<S3Store> {
    S3Store::open(bucket(objects, seed, limits()), options).await
}

pub(crate) fn key(n: u64) -> BlockKey {
    BlockKey::new(format!("key {n}").as_bytes()).expect("a key")
}

pub(crate) fn block(n: u64, len: usize) -> Bytes {
    Dice::new(n).bytes(len).into()
}

/// How many objects there are, and their bytes.
pub(crate) async fn objects_of(inner: &InMemory) -> (usize, u64) {
    let all: Vec<_> = inner.list(None).collect().await;
    let lens = all.iter().map(|meta| meta.as_ref().expect("listed").size);
    (all.len(), lens.sum())
}
