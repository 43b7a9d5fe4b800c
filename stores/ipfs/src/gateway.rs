//! Blocks and records of names from a trustless gateway, as another MuxFS is one: one `GET` for each, verified.
//!
//! Spec: spec/sources.md #gateways, <https://specs.ipfs.tech/http-gateways/trustless-gateway/>.

use std::{
    sync::{Mutex, PoisonError},
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
    BlockKey, BlockStore, Cid, Error, ErrorKind, Result,
    dag::DAG_BLOCK_LEN_MAX,
    ipns::{IpnsName, RECORD_LEN_MAX, Record, Records},
};
use tokio::time::{Instant, timeout};

use crate::{
    cid_of_key,
    http::{Answer, Http, HttpOptions, shown},
    read_only,
    url::Url,
    verified,
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

/// The blocks of a trustless gateway, as a [`BlockStore`] that is only read.
///
/// What is given hashes to its key; a block that does not is `Corrupt`, naming the gateway. Which blocks a gateway has
/// cannot be listed.
#[derive(Debug)]
pub struct Gateway {
    http: Http,
    /// Until when it is not asked: it said so.
    rests_until: Mutex<Option<Instant>>,
    no_cars_until: Mutex<Option<Instant>>,
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
        Self { http: Http::new(url, options), rests_until: Mutex::default(), no_cars_until: Mutex::default() }
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

    /// Whether it is asked for CARs now.
    pub(crate) fn gives_cars(&self) -> bool {
        let until = *self.no_cars_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| until <= Instant::now())
    }

    /// Asks it for none for a while.
    pub(crate) fn leave_cars(&self) {
        *self.no_cars_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + NO_CARS);
    }

    /// Asks for a CAR of what a file has from an offset on.
    pub(crate) async fn car_of_rest(&self, cid: &Cid, offset: u64) -> Result<Answer<'_>> {
        let path = format!("/ipfs/{cid}?format=car&dag-scope=entity&entity-bytes={offset}:*&car-order=dfs&car-dups=n");
        let asked = self.in_time(self.ask(&Method::GET, &path, CAR_TYPE)).await;
        let answer = match asked {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.http.unavailable("it has no CAR of what it has a block of")),
            Err(error) => Err(error),
        };
        answer.inspect_err(|_| self.leave_cars())
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

#[async_trait]
impl BlockStore for Gateway {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let Some(cid) = cid_of_key(key) else { return Ok(None) };
        let block = self.in_time(async {
            match self.ask_for_block(&Method::GET, &cid).await? {
                Some(answer) => answer.read(DAG_BLOCK_LEN_MAX).await.map(Some),
                None => Ok(None),
            }
        });
        let block = block.await?;
        if let Some(block) = &block {
            verified(&cid, block, "gateway.get", self.url())?;
        }
        Ok(block)
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
