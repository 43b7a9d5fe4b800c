//! The control protocol: how a command asks the server that owns the data directory.
//!
//! HTTP/1.1 over a Unix socket that only the owner can open. Each request names the protocol's version; bytes are
//! streamed, and the server never opens a path that a client names on the host. Spec: spec/control.md.

mod client;
mod server;

use bytes::{BufMut as _, Bytes, BytesMut};
use muxfs::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

pub(crate) use self::{client::Client, server::serve};

/// The version that both sides must speak.
const PROTOCOL: &str = "1";
/// The header that names it.
const PROTOCOL_HEADER: &str = "muxfs-protocol";

/// An error, as the protocol carries it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: String,
    message: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { kind: format!("{:?}", error.kind()), message: format!("{error:#}") }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = ErrorKind::ALL.into_iter().find(|kind| format!("{kind:?}") == failure.kind);
        Self::new(kind.unwrap_or(ErrorKind::Internal), "server").because(failure.message)
    }
}

/// What `/v1/hello` tells.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    program: String,
    version: String,
    protocol: String,
    pid: u32,
}

/// A stream in frames: a length as `u32` in big-endian and that many bytes. A frame of no bytes ends it well,
/// `u32::MAX` and a [`Failure`] in a frame of its own ends it badly; what just stops was cut off.
const FRAME_END: u32 = 0;
const FRAME_FAILURE: u32 = u32::MAX;
/// The longest frame: what is read of a file at once, or a line of JSON.
const FRAME_LEN_MAX: u32 = 4 << 20;

fn frame(payload: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(payload.len() + 4);
    framed.put_u32(u32::try_from(payload.len()).unwrap_or(FRAME_END));
    framed.extend_from_slice(payload);
    framed.freeze()
}

fn last_frame(end: Result<(), &Error>) -> Bytes {
    let mut framed = BytesMut::new();
    match end {
        Ok(()) => framed.put_u32(FRAME_END),
        Err(error) => {
            framed.put_u32(FRAME_FAILURE);
            let failure = serde_json::to_vec(&Failure::from(error)).unwrap_or_default();
            framed.put_u32(u32::try_from(failure.len()).unwrap_or(0));
            framed.extend_from_slice(&failure);
        }
    }
    framed.freeze()
}
