//! Records of names at a Kubo node: asked for, and given to it for its network.
//!
//! The node is asked for the record itself (`routing/get`), never for what it leads to (`name/resolve`), which nobody could
//! check. Spec: spec/sources.md #kubo.

use async_trait::async_trait;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{body::Frame, header::CONTENT_TYPE};
use muxfs::{
    BoxError, Error, ErrorKind, Result,
    ipns::{IpnsName, RECORD_LEN_MAX, Record, Records},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    http::Body,
    kubo::Kubo,
    publish::{Multipart, STILL_MAX},
};

/// The numbers of the events, among those that a node tells of its search, that are a failure and what was asked for.
const IS_FAILURE: u64 = 3;
const IS_VALUE: u64 = 5;
/// So many lines of its search are read: each is about one peer.
const LINE_COUNT_MAX: usize = 10_000;

impl Kubo {
    /// The record as the node has it, and as text. What it found counts, whatever goes wrong after that; that it found nothing
    /// only where it says so to the end.
    async fn routed(&self, name: &IpnsName) -> Result<Option<String>> {
        let call = format!("routing/get?arg=/ipns/{name}&{}", self.look());
        let answer = self.call(&call, &[], None).await?;
        let (mut found, mut failure, mut line_count, mut is_ended) = (None, None, 0, false);
        let read = self.lines(answer, |line| {
            is_ended |= line.failure().is_some();
            match (line.kind.as_ref().and_then(Value::as_u64), line.extra) {
                (Some(IS_VALUE), Some(value)) => found = Some(value),
                // Of one peer, or of all of the search: of these the last counts.
                (Some(IS_FAILURE), Some(why)) => failure = Some(self.said(&why)),
                _ => {}
            }
            line_count += 1;
            line_count <= LINE_COUNT_MAX
        });
        let read = read.await;
        if found.is_some() {
            return Ok(found);
        }
        let is_absent = failure.as_ref().is_none_or(|failure| failure.kind() == ErrorKind::NotFound);
        match (read, failure) {
            (Ok(()), Some(failure)) if !is_absent => Err(failure),
            (Ok(()), _) => Ok(None),
            // It says so once more at the end, as of any failure: in a line, or after all of them.
            (Err(error), Some(_)) if is_absent && (is_ended || self.is_said_absent(&error)) => Ok(None),
            (Err(error), _) => Err(error),
        }
    }

    /// Whether an error is what a node says of what it has not.
    fn is_said_absent(&self, error: &Error) -> bool {
        let said = std::error::Error::source(error).map(ToString::to_string);
        said.is_some_and(|said| self.said(&said).kind() == ErrorKind::NotFound)
    }

    /// Gives a node a record of a name, which it verifies, and tells its network of. Idempotent. `boundary` is what the record
    /// has not in it, by its randomness.
    ///
    /// # Errors
    /// `Denied` where the node wants to know who we are; `Unavailable` with what the node says, and where it says nothing for
    /// two minutes.
    pub async fn put_record(&self, record: &Record, boundary: u128) -> Result<()> {
        let multipart = Multipart::new("record", boundary);
        let bytes = [multipart.head.as_bytes(), record.as_bytes(), multipart.end.as_bytes()].concat();
        let frame = Ok::<_, BoxError>(Frame::data(bytes.into()));
        let body: Body = StreamBody::new(stream::iter([frame])).boxed_unsync();
        let call = format!("routing/put?arg=/ipns/{}&allow-offline=true", record.name());
        let headers = [(CONTENT_TYPE, multipart.content_type()?)];
        let mut line_count = 0;
        let put = timeout(STILL_MAX, async {
            let answer = self.call(&call, &headers, Some(body)).await?;
            self.lines(answer, |_| {
                line_count += 1;
                line_count <= LINE_COUNT_MAX
            })
            .await
        });
        put.await.map_err(|_| {
            Error::new(ErrorKind::Unavailable, "kubo.put_record").at(self.url()).because("it takes too long")
        })?
    }
}

#[async_trait]
impl Records for Kubo {
    /// The newest record that the node knows, verified; with `network` also one that its network knows.
    async fn record(&self, name: &IpnsName) -> Result<Option<Record>> {
        let _place = self.spare_place().await?;
        let text = match self.in_time(self.routed(name)).await {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let corrupt = |why: &'static str| Error::new(ErrorKind::Corrupt, "kubo.record").at(self.url()).because(why);
        if text.len() > RECORD_LEN_MAX * 4 / 3 + 4 {
            return Err(corrupt("it gives more than a record is long"));
        }
        let bytes = multibase::Base::Base64Pad.decode(&text).map_err(|_| corrupt("it gives no base64"))?;
        let record = Record::verify(name, &bytes);
        record.map(Some).map_err(|error| Error::new(error.kind(), "kubo.record").at(self.url()).because(error))
    }
}
