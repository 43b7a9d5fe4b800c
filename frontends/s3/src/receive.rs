//! The bytes of a request: hashed and written as they come, and held against what was said of them.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use s3s::{S3Error, S3ErrorCode, StdError, dto::StreamingBlob};

use crate::{
    budget::LARGE_LEN,
    failure::{S3Result, failed, refuse},
    hashers::Hashers,
    patience::TIMED_OUT,
    record::{Content, nanos},
    sums::{Algorithm, Claimed, Hashing},
    tree::{Node, Tree},
};

/// The most bytes of one request: AWS's limit.
pub(crate) const BODY_LEN_MAX: u64 = 5 << 30;

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16);
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit).collect()
}

/// How a body is taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receiver<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) hashers: &'a Hashers,
}

impl Receiver<'_> {
    /// Writes a body into an empty file, and hashes it, one piece while the next one comes. What is known of it then.
    pub(crate) async fn receive(
        self,
        file: &Node,
        body: Option<StreamingBlob>,
        len: Option<i64>,
        (claimed, algorithms): (&Claimed, &[Algorithm]),
    ) -> S3Result<Content> {
        let len = len.map(|len| u64::try_from(len).unwrap_or(u64::MAX));
        self.check_room(file, len).await?;
        let mut hashing = Hashing::new(algorithms);
        let (mut at, mut held, mut mtime) = (0, Bytes::new(), file.attr.mtime);
        // Of what is held, and of what is gathered meanwhile.
        let mut allowed = None;
        let mut body = body;
        loop {
            let gathering = self.tree.budget.piece();
            let wanted = gathering.len();
            let next = async {
                let mut gathered = BytesMut::new();
                while gathered.len() < wanted
                    && let Some(piece) = self.piece(&mut body).await?
                {
                    if gathered.is_empty() && piece.len() >= wanted {
                        return Ok(piece);
                    }
                    gathered.extend_from_slice(&piece);
                }
                Ok::<_, S3Error>(gathered.freeze())
            };
            let write = async {
                if held.is_empty() {
                    return Ok::<_, S3Error>(None);
                }
                let changed = self.tree.vfs.write(file.ino(), at, held.clone(), false).await.map_err(failed)?;
                Ok(Some(changed.after.mtime))
            };
            let hash = hashing.give(self.hashers, held.clone());
            let (gathered, written, hashed) = tokio::join!(next, write, hash);
            mtime = written?.unwrap_or(mtime);
            hashed.map_err(failed)?;
            at += held.len() as u64;
            held = gathered?;
            drop(allowed.replace(gathering));
            if held.is_empty() {
                break;
            }
            if at + held.len() as u64 > BODY_LEN_MAX {
                return refuse(S3ErrorCode::EntityTooLarge, "A request has at most 5 GiB: more comes in parts.");
            }
        }
        if len.is_some_and(|len| len != at) {
            return refuse(S3ErrorCode::IncompleteBody, "The body broke off; nothing was kept.");
        }
        let hashed = hashing.finish();
        claimed.check(&hashed)?;
        let etag = hex(&hashed.md5);
        Ok(Content { etag, size: at, mtime: nanos(mtime), sums: hashed.sums, parts: Vec::new() })
    }

    async fn check_room(self, file: &Node, len: Option<u64>) -> S3Result<()> {
        if len.is_some_and(|len| len > BODY_LEN_MAX) {
            return refuse(S3ErrorCode::EntityTooLarge, "A request has at most 5 GiB: more comes in parts.");
        }
        // A short one finds out as it is written.
        if let Some(len) = len.filter(|len| *len > LARGE_LEN as u64)
            && let Ok(space) = self.tree.vfs.statfs(file.ino()).await
            && space.bytes_total > 0
            && len > space.bytes_free
        {
            return Err(failed(muxfs::Error::new(muxfs::ErrorKind::NoSpace, "s3.put")));
        }
        Ok(())
    }

    async fn piece(self, body: &mut Option<StreamingBlob>) -> S3Result<Option<Bytes>> {
        let Some(stream) = body else { return Ok(None) };
        match stream.next().await {
            Some(Ok(piece)) => Ok(Some(piece)),
            Some(Err(error)) => Err(broken(&error)),
            None => {
                *body = None;
                Ok(None)
            }
        }
    }
}

/// What a body is that ended in an error. The checks of signatures and lengths below tell what they found by their words
/// alone: their types are nobody's to name.
fn broken(error: &StdError) -> S3Error {
    let said = error.to_string();
    let (code, why) = if said.ends_with(TIMED_OUT) {
        (S3ErrorCode::RequestTimeout, "Nothing came any more.")
    } else if said.ends_with("SignatureMismatch") {
        (S3ErrorCode::SignatureDoesNotMatch, "A chunk does not have the signature that it says.")
    } else if said.ends_with("Sha256Mismatch") {
        let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
        let mut error = S3Error::with_message(code, "The bytes that came do not have this x-amz-content-sha256.");
        error.set_status_code(hyper::StatusCode::BAD_REQUEST);
        return error;
    } else {
        (S3ErrorCode::IncompleteBody, "The body broke off, or is not in the form that its headers say.")
    };
    S3Error::with_message(code, why)
}
