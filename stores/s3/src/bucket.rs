//! A bucket, or what is below a prefix of one: every call ends in time, is tried again where that may help, and names what it
//! was about.
//!
//! Sits between the store and `object_store`, which here tries nothing twice: what may be repeated is known above it, and
//! time is bounded in one place. Spec: spec/s3-store.md #limits.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use muxfs::{Env, Error, ErrorKind, Result};
use object_store::{
    GetOptions, GetRange, GetResult, ObjectStore, PutMode, PutOptions, PutPayload, UpdateVersion, path::Path as Key,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};

/// What calls may cost.
#[derive(Debug, Clone)]
pub struct S3Limits {
    /// How long one attempt may take, and a second more for each 64 KiB that it moves.
    pub attempt_max: Duration,
    /// How long a call may take with all its attempts; one attempt is made in any case.
    pub call_max: Duration,
    /// So many attempts are made of a call at most, 1 at least.
    pub attempt_count_max: u32,
    /// The pause before the second attempt, of which at least half is waited; each may be twice as long as the one before.
    pub pause: Duration,
    /// So many calls are under way at once.
    pub call_count_max: usize,
}

impl Default for S3Limits {
    /// 10 s, 30 s, as many attempts as fit into that, 100 ms, 32 calls.
    fn default() -> Self {
        Self {
            attempt_max: Duration::from_secs(10),
            call_max: Duration::from_secs(30),
            attempt_count_max: u32::MAX,
            pause: Duration::from_millis(100),
            call_count_max: 32,
        }
    }
}

/// An attempt that moves bytes has a second more for so many.
const SLOWEST_RATE: u64 = 64 << 10;
/// No pause between two attempts is longer.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A server is left alone no longer, whatever it asks for.
const REST_MAX: Duration = Duration::from_secs(10);

/// What [`Bucket`] did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct S3Stats {
    /// Objects that were put, each attempt counted.
    pub puts: u64,
    /// Objects, or parts of them, that were asked for.
    pub gets: u64,
    /// Objects that were deleted.
    pub deletes: u64,
    /// Pages of listings, and whatever else.
    pub lists: u64,
}

impl S3Stats {
    /// All of them.
    pub fn requests(&self) -> u64 {
        self.puts + self.gets + self.deletes + self.lists
    }
}

#[derive(Debug, Default)]
struct Counts {
    puts: AtomicU64,
    gets: AtomicU64,
    deletes: AtomicU64,
    lists: AtomicU64,
}

/// Until when a server asked to be left alone (`Retry-After`).
#[derive(Debug, Default)]
pub(crate) struct Rest(Mutex<Option<Instant>>);

impl Rest {
    pub(crate) fn ask(&self, pause: Duration) {
        let until = Instant::now() + pause.min(REST_MAX);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all = Some(all.map_or(until, |before| before.max(until)));
    }

    fn left(&self) -> Duration {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

/// A bucket, or what is below a prefix of one.
pub struct Bucket {
    objects: Arc<dyn ObjectStore>,
    prefix: Key,
    place: String,
    limits: S3Limits,
    env: Env,
    calls: Semaphore,
    counts: Counts,
    /// The last call got no answer: until one does, each call is one attempt.
    is_silent: AtomicBool,
    rest: Arc<Rest>,
    gives_short_ends: AtomicBool,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.place)
    }
}

/// An object, or its end.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    /// How long all of it is, in bytes.
    pub(crate) len: u64,
    /// What a conditional put names it by.
    pub(crate) tag: Option<String>,
}

/// What became of a conditional put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Put {
    /// The object is there, and this is its tag.
    Done(Option<String>),
    /// The condition does not hold: of an attempt before, perhaps, whose answer was lost.
    Refused,
}

/// When an object is put.
#[derive(Debug, Clone)]
pub(crate) enum When {
    /// Whatever is there.
    Always,
    /// Nothing has its key.
    Absent,
    /// What has its key has this tag.
    Is(Option<String>),
}

impl Bucket {
    /// What is below `prefix` of the bucket that `objects` is; `place` names the bucket in errors.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs_s3::{Bucket, S3Limits};
    /// use object_store::memory::InMemory;
    /// let bucket = Bucket::new(Arc::new(InMemory::new()), "photos", "s3://bucket", S3Limits::default(), &muxfs::testing::env());
    /// assert_eq!(bucket.place(), "s3://bucket/photos");
    /// ```
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: &str, place: &str, limits: S3Limits, env: &Env) -> Self {
        let prefix = Key::from(prefix);
        let place = if prefix.as_ref().is_empty() { place.to_owned() } else { format!("{place}/{prefix}") };
        let calls = Semaphore::new(limits.call_count_max.clamp(1, Semaphore::MAX_PERMITS));
        Self {
            objects,
            prefix,
            place,
            limits,
            env: env.clone(),
            calls,
            counts: Counts::default(),
            is_silent: AtomicBool::new(false),
            rest: Arc::default(),
            gives_short_ends: AtomicBool::new(true),
        }
    }

    /// The same, waiting when the server asks to be left alone, as whoever reads its answers tells.
    pub(crate) fn resting(self, rest: Arc<Rest>) -> Self {
        Self { rest, ..self }
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// All objects of the bucket, whatever the prefix: for who measures, or looks after what is there.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// What it did.
    pub fn stats(&self) -> S3Stats {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { puts, gets, deletes, lists } = &self.counts;
        S3Stats { puts: of(puts), gets: of(gets), deletes: of(deletes), lists: of(lists) }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    fn key(&self, name: &str) -> Key {
        name.split('/').fold(self.prefix.clone(), Key::join)
    }

    /// An error about an object here.
    pub(crate) fn error(&self, kind: ErrorKind, op: &'static str, name: &str) -> Error {
        let place = if name.is_empty() { self.place.clone() } else { format!("{}/{name}", self.place) };
        Error::new(kind, op).at(place)
    }

    /// All of an object; `None` where it is absent.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs_s3::{Bucket, S3Limits};
    /// use object_store::memory::InMemory;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let bucket = Bucket::new(Arc::new(InMemory::new()), "chunks", "s3://bucket", S3Limits::default(), &muxfs::testing::env());
    /// bucket.put("a/b", "bytes".into()).await?;
    /// assert_eq!(bucket.get("a/b", 100).await?, Some("bytes".into()));
    /// assert_eq!(bucket.get("c", 100).await?, None);
    /// assert_eq!(bucket.get("a/b", 4).await.unwrap_err().kind(), muxfs::ErrorKind::TooLarge);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `TooLarge` where it is longer than `len_max` bytes; `Unavailable`, `Denied`, and `NotFound` of the bucket.
    pub async fn get(&self, name: &str, len_max: u64) -> Result<Option<Bytes>> {
        match self.fetch(name, None, len_max).await? {
            Some(object) if object.len > len_max => {
                let why = format!("it has {} bytes, and at most {len_max} are read", object.len);
                Err(self.error(ErrorKind::TooLarge, "s3.get", name).because(why))
            }
            found => Ok(found.map(|object| object.bytes)),
        }
    }

    /// Whether an object is there; none of its bytes come. Where the bucket is absent it may be that nothing is.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`, and `NotFound` of the bucket, where the server says so.
    pub async fn has(&self, name: &str) -> Result<bool> {
        let key = self.key(name);
        let attempt = || async {
            self.counts.gets.fetch_add(1, Ordering::Relaxed);
            let options = GetOptions { head: true, ..GetOptions::default() };
            self.objects.get_opts(&key, options).await.map(drop)
        };
        match self.call("s3.head", name, 0, attempt).await? {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed("s3.head", name, &error)),
        }
    }

    /// Puts an object, whatever was there; it is durable when this returns.
    ///
    /// # Errors
    /// `Unavailable`: it may have happened; `Denied`, `NotFound` of the bucket, `NoSpace`.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.put_if(name, &PutPayload::from_bytes(bytes), When::Always).await.map(drop)
    }

    /// What is in a range of an object; `None` where it is absent.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`; `Corrupt` where the object ends before the range.
    pub(crate) async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let len = range.end.saturating_sub(range.start);
        let found = self.fetch(name, Some(GetRange::Bounded(range)), len).await?;
        match found {
            Some(object) if object.bytes.len() as u64 == len => Ok(Some(object.bytes)),
            Some(object) => {
                let why = format!("{} bytes came of {len}: the object was cut off", object.bytes.len());
                Err(self.error(ErrorKind::Corrupt, "s3.get", name).because(why))
            }
            None => Ok(None),
        }
    }

    /// The last `len` bytes of an object, or all of it where it is shorter; `None` where it is absent.
    pub(crate) async fn get_end(&self, name: &str, len: u64) -> Result<Option<Object>> {
        self.fetch(name, Some(GetRange::Suffix(len)), len).await
    }

    /// All of a short object, and its tag; no bytes of one that is longer than `len_max`.
    pub(crate) async fn get_short(&self, name: &str, len_max: u64) -> Result<Option<Object>> {
        self.fetch(name, None, len_max).await
    }

    /// Finds out, by an object that is there, whether the server gives all of it to who asks for a longer end, as it should.
    pub(crate) async fn learn_ends(&self, name: &str, len: u64) {
        self.counts.gets.fetch_add(1, Ordering::Relaxed);
        let options = GetOptions { range: Some(GetRange::Suffix(len)), ..GetOptions::default() };
        let key = self.key(name);
        let asked = timeout(self.limits.attempt_max, self.objects.get_opts(&key, options)).await;
        self.gives_short_ends.store(matches!(asked, Ok(Ok(_))), Ordering::Relaxed);
    }

    /// Whether more may be asked for of an object's end than there is.
    pub(crate) fn gives_short_ends(&self) -> bool {
        self.gives_short_ends.load(Ordering::Relaxed)
    }

    /// An object, or a part, of which no more than `len_max` bytes are read.
    async fn fetch(&self, name: &str, range: Option<GetRange>, len_max: u64) -> Result<Option<Object>> {
        let key = self.key(name);
        let attempt = || async {
            self.counts.gets.fetch_add(1, Ordering::Relaxed);
            let options = GetOptions { range: range.clone(), ..GetOptions::default() };
            let found = self.objects.get_opts(&key, options).await?;
            let (len, tag) = (found.meta.size, found.meta.e_tag.clone());
            let part_len = found.range.end - found.range.start;
            let bytes = if part_len > len_max { Bytes::new() } else { read(found, part_len).await? };
            Ok(Object { bytes, len, tag })
        };
        match self.call("s3.get", name, len_max, attempt).await? {
            Ok(object) => Ok(Some(object)),
            Err(error @ object_store::Error::NotFound { .. }) if !is_bucket_absent(&said(&error)) => Ok(None),
            Err(error) => Err(self.failed("s3.get", name, &error)),
        }
    }

    /// Puts an object on a condition.
    ///
    /// # Errors
    /// `Unavailable`: it may have happened; `Denied`, `NotFound` of the bucket, `NoSpace`.
    pub(crate) async fn put_if(&self, name: &str, payload: &PutPayload, when: When) -> Result<Put> {
        let key = self.key(name);
        let mode = match when {
            When::Always => PutMode::Overwrite,
            When::Absent => PutMode::Create,
            When::Is(e_tag) => PutMode::Update(UpdateVersion { e_tag, version: None }),
        };
        let attempt = || async {
            self.counts.puts.fetch_add(1, Ordering::Relaxed);
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            self.objects.put_opts(&key, payload.clone(), options).await
        };
        match self.call("s3.put", name, payload.content_length() as u64, attempt).await? {
            Ok(put) => Ok(Put::Done(put.e_tag)),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotModified { .. },
            ) => Ok(Put::Refused),
            Err(error) => Err(self.failed("s3.put", name, &error)),
        }
    }

    /// Deletes an object; one that is absent is no error.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let key = self.key(name);
        let attempt = || async {
            self.counts.deletes.fetch_add(1, Ordering::Relaxed);
            let one = futures_util::stream::iter([Ok(key.clone())]).boxed();
            self.objects.delete_stream(one).try_collect::<Vec<_>>().await
        };
        match self.call("s3.delete", name, 0, attempt).await? {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("s3.delete", name, &error)),
        }
    }

    /// The names of the objects in a directory, and when each was put, as far as they are told now.
    pub(crate) fn list<'a>(&'a self, dir: &'a str) -> BoxStream<'a, Result<(String, SystemTime)>> {
        let key = self.key(dir);
        self.counts.lists.fetch_add(1, Ordering::Relaxed);
        let listed = self.objects.list(Some(&key));
        // A page at a time has to come in time; what has come is not asked for again.
        futures_util::stream::unfold(Some(listed), move |listed| async move {
            let mut listed = listed?;
            match timeout(self.limits.call_max, listed.next()).await {
                Ok(None) => None,
                Ok(Some(Ok(meta))) => {
                    let name = meta.location.filename().unwrap_or_default().to_owned();
                    Some((Ok((name, meta.last_modified.into())), Some(listed)))
                }
                Ok(Some(Err(error))) => Some((Err(self.failed("s3.list", dir, &error)), None)),
                Err(_elapsed) => Some((Err(self.silent("s3.list", dir)), None)),
            }
        })
        .boxed()
    }

    /// Makes attempts until one gives an answer that another would not change, or the time is over.
    async fn call<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        op: &'static str,
        name: &str,
        len: u64,
        attempt: impl Fn() -> F,
    ) -> Result<object_store::Result<T>> {
        let attempt_max = self.limits.attempt_max + Duration::from_secs(len / SLOWEST_RATE);
        let until = Instant::now() + self.limits.call_max.max(attempt_max);
        let place = timeout_at(until, self.calls.acquire()).await.map_err(|_elapsed| self.silent(op, name))?;
        let _place = place.map_err(|error| Error::new(ErrorKind::Internal, op).because(error))?;
        let was_silent = self.is_silent.load(Ordering::Relaxed);
        let mut pause = self.limits.pause;
        let rest = self.rest.left();
        if rest > Duration::ZERO {
            if Instant::now() + rest >= until {
                let why = format!("the server asks to be left alone for {} s", rest.as_secs().max(1));
                return Err(self.error(ErrorKind::Unavailable, op, name).because(why));
            }
            sleep(rest).await;
        }
        let mut attempts_left = self.limits.attempt_count_max;
        loop {
            attempts_left = attempts_left.saturating_sub(1);
            let end = until.min(Instant::now() + attempt_max);
            let (failed, is_answered) = match timeout_at(end, attempt()).await {
                Ok(answer) if !is_transient(&answer) => {
                    self.is_silent.store(false, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => (self.failed(op, name, &error), has_status(&error)),
                Ok(Ok(_)) | Err(_) => (self.silent(op, name), false),
            };
            let wait = self.jitter(pause).max(self.rest.left());
            pause = PAUSE_MAX.min(2 * pause);
            if was_silent || attempts_left == 0 || Instant::now() + wait >= until {
                self.is_silent.store(!is_answered, Ordering::Relaxed);
                return Err(failed);
            }
            tracing::debug!(error = format!("{failed:#}"), "a call to a bucket is tried again");
            sleep(wait).await;
        }
    }

    /// Between half of it and all.
    fn jitter(&self, pause: Duration) -> Duration {
        let mut drawn = [0; 2];
        (self.env.fill)(&mut drawn);
        pause / 2 + pause / 2 * u32::from(u16::from_le_bytes(drawn)) / u32::from(u16::MAX)
    }

    fn silent(&self, op: &'static str, name: &str) -> Error {
        let why = "no answer in time: look whether the endpoint is right and reachable";
        self.error(ErrorKind::Unavailable, op, name).because(why)
    }

    fn failed(&self, op: &'static str, name: &str, error: &object_store::Error) -> Error {
        use object_store::Error as Failed;
        let said = said(error);
        let (kind, todo) = match error {
            // The code is in the body alone.
            _ if is_bucket_absent(&said) => (ErrorKind::NotFound, "there is no such bucket: make it, or name another"),
            _ if code(&said) == Some("RequestTimeTooSkewed") => {
                (ErrorKind::Denied, "the clock of this machine is wrong: set it")
            }
            _ if is_elsewhere(&said) => {
                (ErrorKind::InvalidArgument, "the bucket is in another region, or at another endpoint: name that")
            }
            _ if is_full(&said) => (ErrorKind::NoSpace, "the bucket has no room: give it more, or delete something"),
            Failed::PermissionDenied { .. } | Failed::Unauthenticated { .. } => {
                (ErrorKind::Denied, "the key may not do this: it needs to list, get, put and delete objects")
            }
            Failed::NotImplemented { .. } | Failed::NotSupported { .. } => {
                (ErrorKind::Unsupported, "the server cannot do this")
            }
            Failed::NotFound { .. } => (ErrorKind::NotFound, "it is gone"),
            _ => (ErrorKind::Unavailable, "the server does not do it now"),
        };
        self.error(kind, op, name).because(format!("{todo}: {error}"))
    }
}

/// The bytes of an answer, of which no more than `len` are taken.
async fn read(found: GetResult, len: u64) -> object_store::Result<Bytes> {
    let (mut stream, mut first, mut all) = (found.into_stream(), Bytes::new(), BytesMut::new());
    while let Some(part) = stream.try_next().await? {
        if (first.len() + all.len() + part.len()) as u64 > len {
            return Err(object_store::Error::Generic {
                store: "S3",
                source: "more bytes came than were asked for".into(),
            });
        }
        if first.is_empty() && all.is_empty() {
            first = part;
        } else {
            if all.is_empty() {
                all.reserve(usize::try_from(len).unwrap_or(0));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&part);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// What the server said, or what broke, and nothing of what was asked for, whose name may have any words in it.
fn said(error: &object_store::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// What stands before the status in what `object_store` says: it is told in no other way.
const STATUS: &str = "status code: ";

/// The status of an answer; nothing where there was none.
fn status(said: &str) -> &str {
    said.split_once(STATUS).and_then(|(_, status)| status.get(..3)).unwrap_or_default()
}

/// The code of an error of S3.
fn code(said: &str) -> Option<&str> {
    said.split_once("<Code>")?.1.split_once("</Code>").map(|(code, _)| code)
}

/// Whether it is the bucket that is not there.
fn is_bucket_absent(said: &str) -> bool {
    code(said) == Some("NoSuchBucket")
}

/// Whether there is no room, as servers say it.
fn is_full(said: &str) -> bool {
    status(said) == "507" || matches!(code(said), Some("QuotaExceeded" | "XMinioStorageFull"))
}

/// Whether the server sends us to another.
fn is_elsewhere(said: &str) -> bool {
    said.starts_with("Received redirect") || status(said).starts_with('3')
}

/// Whether another attempt may get another answer.
fn is_transient<T>(answer: &object_store::Result<T>) -> bool {
    use object_store::Error as Failed;
    match answer {
        Err(error @ Failed::Generic { .. }) => !is_refusal(&said(error)),
        Err(Failed::JoinError { .. }) => true,
        _ => false,
    }
}

/// Whether an error is an answer of the server.
fn has_status(error: &object_store::Error) -> bool {
    !status(&said(error)).is_empty()
}

/// Whether the server says that the request is wrong.
fn is_refusal(said: &str) -> bool {
    let status = status(said);
    is_elsewhere(said) || is_full(said) || status.starts_with('4') && !matches!(status, "408" | "409" | "429")
}
