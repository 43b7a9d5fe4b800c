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
use tokio::time::Instant;

use crate::{
    Undecided,
    cars::{Cars, NoCar},
    checked, cid_of_key,
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

/// The blocks of a trustless gateway, as a [`BlockStore`] that is only read.
///
/// What is given hashes to its key; a block that does not is `Corrupt`, naming the gateway. Which blocks a gateway has
/// cannot be listed.
#[derive(Debug)]
pub struct Gateway {
    http: Http,
    /// Until when it is not asked: it said so.
    rests_until: Mutex<Option<Instant>>,
    cars: Cars,
    checks: Checks,
}

/// What it says to a request.
enum Reply<'a> {
    Given(Answer<'a>),
    /// There is none.
    Absent,
    /// It looked for it, or may not give it: others are another matter.
    Undecided(Error),
    /// It gives no such thing.
    Refused(Error),
    /// It wants to be left in peace until then.
    Rests(Error, Instant),
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
            cars: Cars::default(),
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
        match self.reply(method, path, media_type).await? {
            Reply::Given(answer) => Ok(Some(answer)),
            Reply::Absent => Ok(None),
            Reply::Undecided(error) | Reply::Refused(error) => Err(error),
            Reply::Rests(error, until) => {
                *self.rests_until() = Some(until);
                Err(error)
            }
        }
    }

    async fn reply(&self, method: &Method, path: &str, media_type: &'static str) -> Result<Reply<'_>> {
        let now = Instant::now();
        let rests_until = self.rests_until().filter(|until| *until > now);
        if let Some(until) = rests_until {
            let why = format!("it asked not to be asked for {} s more", (until - now).as_secs() + 1);
            return Ok(Reply::Rests(self.http.unavailable(why), until));
        }
        let accept = [(ACCEPT, HeaderValue::from_static(media_type))];
        let answer = self.http.ask(method, path, &accept).await?;
        let status = answer.status;
        if status == StatusCode::OK {
            let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or(media_type);
            let kind = kind.split(';').next().unwrap_or_default().trim();
            if !kind.eq_ignore_ascii_case(media_type) && !kind.eq_ignore_ascii_case(BYTES_TYPE) {
                let why =
                    format!("it answers with {}, not with {media_type}: is it a gateway?", shown(kind.as_bytes()));
                return Ok(Reply::Refused(self.http.unavailable(why)));
            }
            return Ok(Reply::Given(answer));
        }
        let rest = rest_of(&answer);
        drop(answer.discard().await);
        let why = format!("it answers {status}");
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Reply::Absent),
            StatusCode::GATEWAY_TIMEOUT | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => {
                Ok(Reply::Undecided(self.http.undecided(why)))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Ok(Reply::Rests(self.http.unavailable(why), Instant::now() + rest))
            }
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY => Err(self.http.unavailable(why)),
            _ => Ok(Reply::Refused(self.http.unavailable(why))),
        }
    }

    /// What checks its blocks.
    pub(crate) fn checks(&self) -> &Checks {
        &self.checks
    }

    /// Whether it is asked for CARs.
    pub(crate) fn cars(&self) -> &Cars {
        &self.cars
    }

    /// Asks for a CAR of what a file has from an offset on, up to another, or to its end.
    pub(crate) async fn car_of_file(&self, cid: &Cid, from: u64, to: Option<u64>) -> Result<Answer<'_>, NoCar> {
        let last = to.map_or_else(|| "*".to_owned(), |to| to.saturating_sub(1).to_string());
        self.ask_for_car(&cid.to_string(), &format!("dag-scope=entity&entity-bytes={from}:{last}")).await
    }

    /// Asks for a CAR of the blocks that a path leads through, and the one where it ends.
    pub(crate) async fn car_of_path(&self, root: &Cid, parts: &[Name]) -> Result<Answer<'_>, NoCar> {
        let mut path = root.to_string();
        for part in parts {
            path.push('/');
            push_escaped(&mut path, part.as_bytes());
        }
        self.ask_for_car(&path, "dag-scope=block").await
    }

    /// Asks for a CAR of all that is below a CID.
    pub(crate) async fn car_of_tree(&self, root: &Cid) -> Result<Answer<'_>, NoCar> {
        self.ask_for_car(&root.to_string(), "dag-scope=all").await
    }

    /// One that gives no CARs now may give blocks, so that alone is told.
    async fn ask_for_car(&self, path: &str, query: &str) -> Result<Answer<'_>, NoCar> {
        let path = format!("/ipfs/{path}?format=car&{query}&car-order=dfs&car-dups=n");
        match self.http.in_time(self.reply(&Method::GET, &path, CAR_TYPE)).await {
            Ok(Reply::Given(answer)) => Ok(answer),
            Ok(Reply::Absent) => Err(NoCar::Here(self.http.unavailable("it has no CAR of what it is asked for"))),
            Ok(Reply::Undecided(error)) => Err(NoCar::Here(error)),
            Ok(Reply::Refused(error)) => Err(NoCar::Never(error)),
            Ok(Reply::Rests(error, until)) => Err(NoCar::Later(error, until)),
            Err(error) if Undecided::is_cause_of(&error) => Err(NoCar::Here(error)),
            Err(error) => Err(NoCar::Down(error)),
        }
    }

    /// Until when the gateway wants to be left in peace.
    fn rests_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.rests_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long a gateway wants to be left in peace.
fn rest_of(answer: &Answer<'_>) -> Duration {
    let secs = answer.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
    secs.map_or(REST_DEFAULT, Duration::from_secs).min(REST_MAX)
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
        let block = self.http.in_time(async {
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
        let answer = self.http.in_time(async {
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
        let _place = self.http.spare_place().await?;
        let path = format!("/ipns/{name}?format=ipns-record");
        let bytes = self.http.in_time(async {
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
