//! A Kubo node, by its RPC: blocks that it has, or fetches for us, and DAGs that it is given to keep.
//!
//! Every call is a `POST` below `/api/v0`. A call that fails says so in its status, in the middle of an answer as one of
//! its lines, or in a trailer; all three are looked at. Without `offline` a node looks for a block for as long as it is
//! let, so each call has a limit. Spec: spec/sources.md #kubo, <https://docs.ipfs.tech/reference/kubo/rpc/>.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use hyper::{
    StatusCode,
    header::{AUTHORIZATION, HeaderName, HeaderValue},
};
use muxfs::{
    BlockKey, BlockStore, Cid, Error, ErrorKind, Result,
    block::{Checks, Given},
    dag::DAG_BLOCK_LEN_MAX,
};
use serde::Deserialize;
use tokio::sync::SemaphorePermit;

use crate::{
    checked, cid_of_key,
    http::{Answer, Body, Http, HttpOptions, shown},
    url::Url,
};

/// The longest answer that is no block, and the longest line of one that has lines.
pub(crate) const REPLY_LEN_MAX: usize = 1 << 20;
/// A node that looks for a block in its network is let do so for a little less long than it is waited for.
const LOOK_SPARE: Duration = Duration::from_secs(2);
/// What a node says of a block that it has not, of a pin, and of a record.
const ABSENT: [&str; 4] = ["could not find", "not found locally", "not pinned", "routing: not found"];
/// What a node says that looked for a block for as long as it was let.
const OUT_OF_TIME: &str = "context deadline exceeded";

/// Who we are to a node: what Kubo calls an `AuthSecret`, `bearer:TOKEN` or `basic:USER:PASSWORD`.
#[derive(Clone)]
pub struct KuboAuth(HeaderValue);

impl fmt::Debug for KuboAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KuboAuth(..)")
    }
}

/// Reads the secret, which no error repeats.
impl FromStr for KuboAuth {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let header = match text.split_once(':') {
            Some(("bearer", token)) if !token.is_empty() => format!("Bearer {token}"),
            Some(("basic", login)) if login.contains(':') => {
                format!("Basic {}", multibase::Base::Base64Pad.encode(login))
            }
            _ => return Err(refused("a secret is bearer:TOKEN or basic:USER:PASSWORD")),
        };
        let mut header = HeaderValue::try_from(header).map_err(|_| refused("a token is of visible characters"))?;
        header.set_sensitive(true);
        Ok(Self(header))
    }
}

fn refused(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "kubo.auth").because(why)
}

/// How a node is spoken to.
#[derive(Debug, Clone, Default)]
pub struct KuboOptions {
    /// Who we are, where it wants to know.
    pub auth: Option<KuboAuth>,
    /// Whether it looks in its own network for a block that it has not.
    pub network: bool,
    /// What it may cost.
    pub http: HttpOptions,
}

/// A Kubo node, as a [`BlockStore`] that is only read; it can be [given whole DAGs](Kubo::import) to [keep](Kubo::pin).
///
/// What is given hashes to its key; a block that does not is `Corrupt`, naming the node.
#[derive(Debug)]
pub struct Kubo {
    http: Http,
    auth: Option<KuboAuth>,
    network: bool,
    checks: Checks,
}

/// What a call that failed says.
#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "Message")]
    message: String,
}

impl Kubo {
    /// The node whose RPC is at an address. Nobody is asked before something is.
    ///
    /// ```
    /// use muxfs_ipfs::{Kubo, KuboOptions};
    /// let kubo = Kubo::new("http://127.0.0.1:5001".parse()?, KuboOptions::default());
    /// assert_eq!(kubo.url().to_string(), "http://127.0.0.1:5001");
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn new(url: Url, options: KuboOptions) -> Self {
        let KuboOptions { auth, network, mut http } = options;
        if network {
            // It says nothing while it looks.
            http.silence_max = http.silence_max.max(http.request_max);
        }
        Self { http: Http::new(url, http), auth, network, checks: Checks::new() }
    }

    /// Its address.
    pub fn url(&self) -> &Url {
        self.http.url()
    }

    /// Calls; an answer is one that has begun well.
    ///
    /// # Errors
    /// `NotFound` where the node says that it has no such block or pin; `Denied` where it wants to know who we are;
    /// `Unavailable` with what it says.
    pub(crate) async fn call(
        &self,
        call: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Option<Body>,
    ) -> Result<Answer<'_>> {
        let auth = self.auth.iter().map(|auth| (AUTHORIZATION, auth.0.clone()));
        let headers: Vec<_> = headers.iter().cloned().chain(auth).collect();
        let answer = self.http.post(&format!("/api/v0/{call}"), &headers, body).await?;
        let failed = |kind, why: String| Error::new(kind, "kubo.call").at(self.url()).because(why);
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(failed(ErrorKind::Denied, format!("it answers {}: who may call it?", answer.status)))
            }
            status => {
                let reply = answer.read(REPLY_LEN_MAX).await?;
                Err(match serde_json::from_slice::<Failure>(&reply) {
                    Ok(failure) if ABSENT.iter().any(|absent| failure.message.contains(absent)) => {
                        failed(ErrorKind::NotFound, shown(failure.message.as_bytes()))
                    }
                    Ok(failure) if failure.message.contains(OUT_OF_TIME) => {
                        self.http.undecided(shown(failure.message.as_bytes()))
                    }
                    Ok(failure) => failed(ErrorKind::Unavailable, shown(failure.message.as_bytes())),
                    Err(_) => failed(ErrorKind::Unavailable, format!("it answers {status}: is it a Kubo node?")),
                })
            }
        }
    }

    /// What tells a node how far to look for something.
    pub(crate) fn look(&self) -> String {
        let limit = self.http.options().request_max;
        if self.network {
            format!("timeout={}ms", limit.saturating_sub(LOOK_SPARE).max(limit / 2).as_millis())
        } else {
            "offline=true".to_owned()
        }
    }

    /// See [`Http::spare_place`].
    pub(crate) async fn spare_place(&self) -> Result<SemaphorePermit<'_>> {
        self.http.spare_place().await
    }

    /// See [`Http::in_time`].
    pub(crate) async fn in_time<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.http.in_time(work).await
    }

    /// Calls about a block, in time; `None` where the node has it not.
    async fn about(&self, call: &str, cid: &Cid, len_max: usize) -> Result<Option<Bytes>> {
        let call = format!("{call}?arg={cid}&{}", self.look());
        match self.in_time(async { self.call(&call, &[], None).await?.read(len_max).await }).await {
            Ok(reply) => Ok(Some(reply)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The error of what a node says in the middle of an answer.
    pub(crate) fn said(&self, message: &str) -> Error {
        let kind = if ABSENT.iter().any(|absent| message.contains(absent)) {
            ErrorKind::NotFound
        } else {
            ErrorKind::Unavailable
        };
        Error::new(kind, "kubo.call").at(self.url()).because(shown(message.as_bytes()))
    }
}

#[async_trait]
impl BlockStore for Kubo {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        Ok(self.get_checked(key).await?.map(|given| given.bytes().clone()))
    }

    async fn get_checked(&self, key: &BlockKey) -> Result<Option<Given>> {
        let Some(cid) = cid_of_key(key) else { return Ok(None) };
        let Some(block) = self.about("block/get", &cid, DAG_BLOCK_LEN_MAX).await? else { return Ok(None) };
        checked(&self.checks, &cid, block, "kubo.get", self.url()).await.map(|block| Some(Given::Checked(block)))
    }

    /// `Unsupported`: a node is given whole DAGs.
    async fn put(&self, _key: &BlockKey, _block: Bytes) -> Result<()> {
        Err(unsupported("kubo.put", "a node is given whole DAGs, which it can keep").at(self.url()))
    }

    /// `Unsupported`: what a node keeps is what it has pinned.
    async fn delete(&self, _key: &BlockKey) -> Result<()> {
        Err(unsupported("kubo.delete", "a node lets go what it has not pinned").at(self.url()))
    }

    /// What the node says: nobody can check it.
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        let Some(cid) = cid_of_key(key) else { return Ok(false) };
        Ok(self.about("block/stat", &cid, REPLY_LEN_MAX).await?.is_some())
    }

    /// `Unsupported`: a node lists all that it has of everybody's.
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let error = unsupported("kubo.keys", "what a node has of everybody's is not listed").at(self.url());
        stream::once(async { Err(error) }).boxed()
    }
}

fn unsupported(op: &'static str, why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, op).because(why)
}
