//! The pieces of a request's body, from a client that may stop in the middle.

use std::time::Duration;

use axum::{body::BodyDataStream, http::StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::failure::Failure;

/// The next bytes of a body, for which `patience` is waited; `None` at its end.
pub(crate) async fn piece(body: &mut BodyDataStream, patience: Duration) -> Result<Option<Bytes>, Failure> {
    match timeout(patience, body.next()).await {
        Err(_) => {
            let why = "Nothing came for too long.";
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, why, "Send it again; nothing was kept."))
        }
        Ok(Some(Err(error))) => {
            tracing::debug!(%error, "HTTP: a body broke off");
            Err(Failure::bad("The body broke off.", "Send it again; nothing was kept."))
        }
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(None) => Ok(None),
    }
}

/// A body that is read before anything is done, of `len_max` bytes at most.
pub(crate) async fn whole(body: &mut BodyDataStream, len_max: usize, patience: Duration) -> Result<Vec<u8>, Failure> {
    let mut all = Vec::new();
    while let Some(piece) = piece(body, patience).await? {
        if all.len() + piece.len() > len_max {
            let why = format!("The body is longer than {len_max} bytes.");
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, why, ""));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}
