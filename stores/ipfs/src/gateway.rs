//! Blocks and records of names from a trustless gateway, as another MuxFS is one: one `GET` for each, verified.
//!
//! Spec: spec/sources.md #gateways, <https://specs.ipfs.tech/http-gateways/trustless-gateway/>.

use std::{
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use hyper::{
    Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use muxfs::{
    BlockKey, BlockStore, Cid, Error, ErrorKind, Name, Result,
    block::{Checks, Given},
    dag::DAG_BLOCK_LEN_MAX,
    ipns::{IpnsName, RECORD_LEN_MAX, Record, Records},
};
use tokio::time::{Instant, timeout};

use crate::{
    Undecided, checked, cid_of_key,
    http::{Answer, Http, HttpOptions, shown},
    read_only,
    url::Url,
};

const BLOCK_TYPE: &str = "application/vnd.ipld.raw";
const CAR_TYPE: &str = "application/vnd.ipld.car";
const RECORD_TYPE: &str = "application/vnd.ipfs.ipns-record";
/// What a server calls bytes that it knows nothing of.
const BYTES_TYPE: &str = "application/octet-stream";
/// A server that asks for a rest without saying how long has this one, and none has a longer one than the second.
const REST_DEFAULT: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_mins(5);
/// A gateway that gave no CAR, or another than it was asked for, is asked for blocks alone for so long.
const NO_CARS: Duration = Duration::from_mins(5);

/// So many CARs that broke off one after the other, and so many paths that it gave none of, are the last for as long.
const CAR_FAILURE_COUNT_MAX: u32 = 3;
const PATH_REFUSAL_COUNT_MAX: u32 = 3;

/// The blocks of a trustless gateway, as a [`BlockStore`] that is only read.
///
/// What is given hashes to its key; a block that does not is `Corrupt`, naming the gateway. Which blocks a gateway has
/// cannot be listed.
#[derive(Debug)]
pub struct Gateway {
    http: Http,
    /// Until when it is not asked: it said so.
    rests_until: Mutex<Option<Instant>>,
    cars: Mutex<Cars>,
    checks: Checks,
}

/// Whether it gives CARs.
#[derive(Debug, Default)]
struct Cars {
    none_until: Option<Instant>,
    /// How many broke off or dripped, one after the other.
    failure_count: u32,
    no_paths_until: Option<Instant>,
    /// How many of paths it did not give, one after the other.
    refusal_count: u32,
}

impl Gateway {
    /// The gateway at an address. Nobody is asked before a block is.
    ///
    /// ```
    /// use muxfs_ipfs::{Gateway, HttpOptions};
    /// let gateway = Gateway::new("https://gateway.example".parse()?, HttpOptions::default());
    /// assert_eq!(gateway.url().to_string(), "https://gateway.example");
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn new(url: Url, options: HttpOptions) -> Self {
        Self {
            http: Http::new(url, options),
            rests_until: Mutex::default(),
            cars: Mutex::default(),
            checks: Checks::new(),
        }
    }

    /// Its address.
    pub fn url(&self) -> &Url {
        self.http.url()
    }

    async fn ask_for_block(&self, method: &Method, cid: &Cid) -> Result<Option<Answer<'_>>> {
        self.ask(method, &format!("/ipfs/{cid}?format=raw"), BLOCK_TYPE).await
    }

    /// Asks for something of a media type; `None` where the gateway says that there is none.
    async fn ask(&self, method: &Method, path: &str, media_type: &'static str) -> Result<Option<Answer<'_>>> {
        self.check_rest()?;
        let accept = [(ACCEPT, HeaderValue::from_static(media_type))];
        let answer = self.http.ask(method, path, &accept).await?;
        match answer.status {
            StatusCode::OK => {
                let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or(media_type);
                let kind = kind.split(';').next().unwrap_or_default().trim();
                if !kind.eq_ignore_ascii_case(media_type) && !kind.eq_ignore_ascii_case(BYTES_TYPE) {
                    let why =
                        format!("it answers with {}, not with {media_type}: is it a gateway?", shown(kind.as_bytes()));
                    return Err(self.http.unavailable(why));
                }
                Ok(Some(answer))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                drop(answer.discard().await);
                Ok(None)
            }
            // It looked for the block, or may not give it: others are another matter.
            status @ (StatusCode::GATEWAY_TIMEOUT | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS) => {
                drop(answer.discard().await);
                Err(self.http.undecided(format!("it answers {status}")))
            }
            status => {
                // One that gives no CARs now may give blocks.
                let is_resting = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
                if is_resting && media_type != CAR_TYPE {
                    self.rest(&answer);
                }
                drop(answer.discard().await);
                Err(self.http.unavailable(format!("it answers {status}")))
            }
        }
    }

    /// What checks its blocks.
    pub(crate) fn checks(&self) -> &Checks {
        &self.checks
    }

    fn cars(&self) -> MutexGuard<'_, Cars> {
        self.cars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is asked for CARs now.
    pub(crate) fn gives_cars(&self) -> bool {
        self.cars().none_until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether it is asked for CARs of paths now.
    pub(crate) fn gives_paths(&self) -> bool {
        self.cars().no_paths_until.is_none_or(|until| until <= Instant::now())
    }

    /// Asks it for none for a while.
    pub(crate) fn leave_cars(&self) {
        self.cars().none_until = Some(Instant::now() + NO_CARS);
    }

    /// A CAR came to its end.
    pub(crate) fn car_ended(&self) {
        self.cars().failure_count = 0;
    }

    /// A CAR broke off, or came so slowly that it was given up: the third in a row is the last for a while.
    pub(crate) fn car_failed(&self) {
        let mut cars = self.cars();
        cars.failure_count += 1;
        if cars.failure_count >= CAR_FAILURE_COUNT_MAX {
            (cars.failure_count, cars.none_until) = (0, Some(Instant::now() + NO_CARS));
        }
    }

    /// Asks for a CAR of what a file has from an offset on, up to another, or to its end. It is known whether that is in the file,
    /// or it is not: then a refusal may speak of it alone.
    pub(crate) async fn car_of_file(
        &self,
        cid: &Cid,
        from: u64,
        to: Option<u64>,
        is_known: bool,
    ) -> Result<Answer<'_>> {
        let last = to.map_or_else(|| "*".to_owned(), |to| to.saturating_sub(1).to_string());
        let query = format!("dag-scope=entity&entity-bytes={from}:{last}");
        let asked = self.ask_for_car(&cid.to_string(), &query).await;
        // That it has not this one, or does not find it in time, says nothing of the next.
        let asked = asked.inspect_err(|error| match (Undecided::is_cause_of(error), is_known) {
            (true, _) => {}
            (false, true) => self.leave_cars(),
            (false, false) => self.car_failed(),
        })?;
        asked.ok_or_else(|| self.has_none())
    }

    /// Asks for a CAR of the blocks that a path leads through, and the one where it ends.
    pub(crate) async fn car_of_path(&self, root: &Cid, parts: &[Name]) -> Result<Answer<'_>> {
        let mut path = root.to_string();
        for part in parts {
            path.push('/');
            push_escaped(&mut path, part.as_bytes());
        }
        let asked = self.ask_for_car(&path, "dag-scope=block").await;
        let mut cars = self.cars();
        // That this is not there may be true; that nothing ever is, is not.
        cars.refusal_count = if matches!(asked, Ok(Some(_))) { 0 } else { cars.refusal_count + 1 };
        if cars.refusal_count >= PATH_REFUSAL_COUNT_MAX {
            (cars.refusal_count, cars.no_paths_until) = (0, Some(Instant::now() + NO_CARS));
        }
        drop(cars);
        asked?.ok_or_else(|| self.has_none())
    }

    async fn ask_for_car(&self, path: &str, query: &str) -> Result<Option<Answer<'_>>> {
        let path = format!("/ipfs/{path}?format=car&{query}&car-order=dfs&car-dups=n");
        self.in_time(self.ask(&Method::GET, &path, CAR_TYPE)).await
    }

    fn has_none(&self) -> Error {
        self.http.unavailable("it has no CAR of what it is asked for")
    }

    fn check_rest(&self) -> Result<()> {
        let mut until = self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.and_then(|until| until.checked_duration_since(Instant::now()));
        match left {
            Some(left) if !left.is_zero() => {
                Err(self.http.unavailable(format!("it asked not to be asked for {} s more", left.as_secs() + 1)))
            }
            _ => {
                *until = None;
                Ok(())
            }
        }
    }

    /// Leaves the gateway in peace for as long as it wants.
    fn rest(&self, answer: &Answer<'_>) {
        let secs = answer.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
        let rest = secs.map_or(REST_DEFAULT, Duration::from_secs).min(REST_MAX);
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + rest);
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let limit = self.http.options().request_max;
        timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(self.http.undecided(format!("it takes longer than {} s", limit.as_secs_f32()))))
    }
}

/// Appends a part of a path as a URL has it.
fn push_escaped(path: &mut String, part: &[u8]) {
    for &byte in part {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // A string takes all.
            write!(path, "%{byte:02X}").ok();
        }
    }
}

#[async_trait]
impl BlockStore for Gateway {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        Ok(self.get_checked(key).await?.map(|given| given.bytes().clone()))
    }

    async fn get_checked(&self, key: &BlockKey) -> Result<Option<Given>> {
        let Some(cid) = cid_of_key(key) else { return Ok(None) };
        let block = self.in_time(async {
            match self.ask_for_block(&Method::GET, &cid).await? {
                Some(answer) => answer.read(DAG_BLOCK_LEN_MAX).await.map(Some),
                None => Ok(None),
            }
        });
        let Some(block) = block.await? else { return Ok(None) };
        checked(&self.checks, &cid, block, "gateway.get", self.url()).await.map(|block| Some(Given::Checked(block)))
    }

    async fn put(&self, _key: &BlockKey, _block: Bytes) -> Result<()> {
        Err(read_only("gateway.put").at(self.url()))
    }

    async fn delete(&self, _key: &BlockKey) -> Result<()> {
        Err(read_only("gateway.delete").at(self.url()))
    }

    /// What the gateway says: nobody can check it.
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        let Some(cid) = cid_of_key(key) else { return Ok(false) };
        let answer = self.in_time(async {
            match self.ask_for_block(&Method::HEAD, &cid).await? {
                Some(answer) => {
                    drop(answer.discard().await);
                    Ok(true)
                }
                None => Ok(false),
            }
        });
        answer.await
    }

    /// `Unsupported`: no gateway tells.
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let error = Error::new(ErrorKind::Unsupported, "gateway.keys").at(self.url());
        stream::once(async { Err(error.because("which blocks a gateway has cannot be listed")) }).boxed()
    }
}

#[async_trait]
impl Records for Gateway {
    /// The newest record that the gateway knows, verified.
    async fn record(&self, name: &IpnsName) -> Result<Option<Record>> {
        let path = format!("/ipns/{name}?format=ipns-record");
        let bytes = self.in_time(async {
            match self.ask(&Method::GET, &path, RECORD_TYPE).await? {
                Some(answer) => answer.read(RECORD_LEN_MAX).await.map(Some),
                None => Ok(None),
            }
        });
        let Some(bytes) = bytes.await? else { return Ok(None) };
        let record = Record::verify(name, &bytes);
        record.map(Some).map_err(|error| Error::new(error.kind(), "gateway.record").at(self.url()).because(error))
    }
}
