//! DAGs given to a Kubo node: their blocks as one CAR, and pins that keep them there.
//!
//! A CAR goes out as it is made, in one request: nothing of it is held here but what is on its way. There is no limit on how
//! long all of it may take, only on how long nothing may move. Spec: spec/sources.md #publishing.

use std::{
    fmt::Write as _,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::Frame,
    header::{CONTENT_TYPE, HeaderValue},
};
use muxfs::{BoxError, Cid, Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    http::{Answer, Body, shown},
    kubo::{Kubo, REPLY_LEN_MAX},
};

/// How long a node may take no byte, or get no further with what it does.
pub(crate) const STILL_MAX: Duration = Duration::from_mins(2);

/// What a node took of a CAR, as far as it says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KuboImport {
    /// How many blocks.
    pub block_count: u64,
    /// How long they are together, in bytes.
    pub len: u64,
}

/// So many lines are read of what a node says of a CAR; one is enough.
const IMPORT_LINE_COUNT_MAX: usize = 1000;

/// A line of an answer: what each call may say.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Line {
    message: Option<String>,
    /// Text of an error, a number of an event.
    #[serde(rename = "Type")]
    pub(crate) kind: Option<Value>,
    pub(crate) extra: Option<String>,
    stats: Option<Stats>,
    progress: Option<u64>,
    pins: Option<Vec<String>>,
}

impl Line {
    /// What went wrong, where the line says that something did.
    pub(crate) fn failure(&self) -> Option<&str> {
        let is_failure = self.kind.as_ref().and_then(Value::as_str) == Some("error");
        self.message.as_deref().filter(|_| is_failure)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stats {
    block_count: u64,
    block_bytes_count: u64,
}

/// What stands around the one file of an upload.
pub(crate) struct Multipart {
    boundary: String,
    pub(crate) head: String,
    pub(crate) end: String,
}

impl Multipart {
    pub(crate) fn new(file_name: &str, boundary: u128) -> Self {
        let boundary = format!("muxfs-{boundary:032x}");
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file_name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let end = format!("\r\n--{boundary}--\r\n");
        Self { boundary, head, end }
    }

    pub(crate) fn content_type(&self) -> Result<HeaderValue> {
        let kind = HeaderValue::try_from(format!("multipart/form-data; boundary={}", self.boundary));
        kind.map_err(|error| Error::new(ErrorKind::Internal, "kubo.upload").because(error))
    }
}

/// When something last moved.
#[derive(Clone)]
struct Moved(Arc<Mutex<Instant>>);

impl Moved {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kubo {
    /// Gives a node the blocks of a CAR, of version 1 or 2; nothing is pinned. Idempotent. `boundary` is what no CAR has in
    /// it, by its randomness.
    ///
    /// # Errors
    /// The first of `car`; `Denied` where the node wants to know who we are; `Unavailable` with what the node says, and
    /// where nothing moves for two minutes.
    pub async fn import(&self, car: BoxStream<'static, Result<Bytes>>, boundary: u128) -> Result<KuboImport> {
        let multipart = Multipart::new("dag.car", boundary);
        let (moved, failed) = (Moved::now(), Arc::new(Mutex::new(None)));
        let (moving, failing) = (moved.clone(), failed.clone());
        let pieces = car.map(move |piece| {
            moving.note();
            piece.map_err(|error| {
                // Told by who calls: a body that breaks off has no words for it.
                *failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                BoxError::from("the CAR broke off")
            })
        });
        let ends = |text: String| stream::once(async { Ok(Bytes::from(text)) });
        let headers = [(CONTENT_TYPE, multipart.content_type()?)];
        let pieces = ends(multipart.head).chain(pieces).chain(ends(multipart.end));
        let body: Body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync();
        let imported = async {
            let call = self.call("dag/import?pin-roots=false&stats=true", &headers, Some(body));
            let answer = self.while_moving(call, &moved).await?;
            let (mut imported, mut line_count) = (KuboImport::default(), 0);
            self.lines(answer, |line| {
                if let Some(Stats { block_count, block_bytes_count }) = line.stats {
                    imported = KuboImport { block_count, len: block_bytes_count };
                }
                line_count += 1;
                line_count <= IMPORT_LINE_COUNT_MAX
            })
            .await?;
            Ok(imported)
        };
        let imported = imported.await;
        match failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => imported,
        }
    }

    /// Has a node keep everything below a CID, under a name if there is one. Idempotent. What the node has not, it looks for
    /// in its network for as long as it gets on; `on_progress` is told how many blocks it went through.
    ///
    /// # Errors
    /// `Denied`; `Unavailable` with what the node says, and where it gets no further for two minutes.
    pub async fn pin(&self, cid: &Cid, name: Option<&str>, mut on_progress: impl FnMut(u64) + Send) -> Result<()> {
        let name = name.map(|name| format!("&name={}", encoded(name))).unwrap_or_default();
        let call = format!("pin/add?arg={cid}&recursive=true&progress=true{name}");
        let answer = self.call(&call, &[], None).await?;
        let (mut is_pinned, mut gone_through, mut since) = (false, 0, Instant::now());
        self.lines(answer, |line| {
            is_pinned |= line.pins.is_some_and(|pins| !pins.is_empty());
            if line.progress.is_some_and(|progress| progress != gone_through) {
                (gone_through, since) = (line.progress.unwrap_or_default(), Instant::now());
                on_progress(gone_through);
            }
            since.elapsed() < STILL_MAX
        })
        .await?;
        if is_pinned {
            return Ok(());
        }
        Err(self.failed(format!("it did not pin {cid}: a block below it is missing")))
    }

    /// Whether a node keeps everything below a CID by a pin of its own.
    ///
    /// # Errors
    /// `Denied`; `Unavailable`.
    pub async fn is_pinned(&self, cid: &Cid) -> Result<bool> {
        let asked = self.about_pin(&format!("pin/ls?arg={cid}&type=recursive")).await;
        match asked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes such a pin away; whether there was one.
    ///
    /// # Errors
    /// `Denied`; `Unavailable`.
    pub async fn unpin(&self, cid: &Cid) -> Result<bool> {
        match self.about_pin(&format!("pin/rm?arg={cid}&recursive=true")).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn about_pin(&self, call: &str) -> Result<()> {
        let limit = STILL_MAX;
        let asked = timeout(limit, async { self.call(call, &[], None).await?.read(REPLY_LEN_MAX).await });
        asked.await.map_err(|_| self.failed("it takes too long".to_owned()))?.map(drop)
    }

    /// Waits for an answer for as long as what is sent moves on.
    async fn while_moving<T>(&self, call: impl Future<Output = Result<T>> + Send, moved: &Moved) -> Result<T> {
        let mut call = pin!(call);
        loop {
            let still_at = moved.at() + STILL_MAX;
            tokio::select! {
                answer = &mut call => return answer,
                () = sleep_until(still_at) => {
                    if moved.at() + STILL_MAX <= Instant::now() {
                        return Err(self.failed("it takes nothing any more".to_owned()));
                    }
                }
            }
        }
    }

    /// Reads an answer line by line, also empty ones, until `take` wants no more, which is a failure, as is a line that tells
    /// of one.
    pub(crate) async fn lines(&self, mut answer: Answer<'_>, mut take: impl FnMut(Line) -> bool + Send) -> Result<()> {
        // What is in the buffer, and how much of it has no end of a line.
        let (mut buffer, mut searched_len) = (BytesMut::new(), 0);
        loop {
            let next = answer.next(STILL_MAX).await?;
            let is_last = next.is_none();
            buffer.extend_from_slice(&next.unwrap_or_else(|| Bytes::from_static(b"\n")));
            while let Some(end) = buffer[searched_len..].iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(searched_len + end);
                buffer.advance(1);
                searched_len = 0;
                let line = if line.trim_ascii().is_empty() {
                    Line::default()
                } else {
                    serde_json::from_slice(&line).map_err(|_| self.failed(format!("it answers {:?}", shown(&line))))?
                };
                let failure = line.failure().map(|message| self.said(message));
                let is_wanted = take(line);
                if let Some(failure) = failure {
                    return Err(failure);
                }
                if !is_wanted {
                    return Err(self.failed("it gets no further".to_owned()));
                }
            }
            searched_len = buffer.len();
            if searched_len > REPLY_LEN_MAX {
                return Err(self.failed("it answers in a line without an end".to_owned()));
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn failed(&self, why: String) -> Error {
        Error::new(ErrorKind::Unavailable, "kubo.call").at(self.url()).because(why)
    }
}

/// Text as it can stand in a query (RFC 3986 2.3).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
