//! The bytes of an answer: read ahead of the client by a bounded stretch, and no further.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;
use muxfs::{Error, ErrorKind};
use s3s::{
    Body, StdError,
    dto::StreamingBlob,
    stream::{ByteStream, RemainingLength},
};
use tokio::sync::mpsc;

use crate::{
    budget::{Allowed, SMALL_LEN},
    failure::{S3Result, failed},
    tree::{Node, Tree},
};

/// How many pieces are read ahead of the client.
const AHEAD_COUNT: usize = 2;

/// What is left of a body.
struct Pieces {
    pieces: mpsc::Receiver<Result<(Bytes, Allowed), Error>>,
    left: u64,
}

impl Stream for Pieces {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.pieces.poll_recv(cx);
        if let Poll::Ready(Some(Ok((piece, _)))) = &next {
            self.left = self.left.saturating_sub(piece.len() as u64);
        }
        next.map(|next| next.map(|piece| piece.map(|(bytes, _)| bytes).map_err(Into::into)))
    }
}

impl ByteStream for Pieces {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.left).unwrap_or(usize::MAX))
    }
}

/// The bytes of a file from `at`, of which there are `len`.
pub(crate) async fn body(tree: Arc<Tree>, file: Node, at: u64, len: u64) -> S3Result<StreamingBlob> {
    if len <= SMALL_LEN as u64 {
        let bytes = read(&tree, &file, at, len).await.map_err(failed)?;
        return Ok(StreamingBlob::from(Body::from(bytes)));
    }
    let (sender, pieces) = mpsc::channel(AHEAD_COUNT);
    tokio::spawn(async move {
        let (mut at, mut left) = (at, len);
        while left > 0 {
            let allowed = tree.budget.piece();
            let piece = read(&tree, &file, at, left.min(allowed.len() as u64)).await;
            let done = piece.as_ref().map_or(left, |piece| piece.len() as u64);
            // Nobody listens any more, or the end was an error.
            if sender.send(piece.map(|piece| (piece, allowed))).await.is_err() {
                return;
            }
            (at, left) = (at + done, left - done);
        }
    });
    Ok(StreamingBlob::new(Pieces { pieces, left: len }))
}

/// Exactly so many bytes: a file that became shorter meanwhile breaks the answer off.
async fn read(tree: &Tree, file: &Node, at: u64, len: u64) -> Result<Bytes, Error> {
    if len == 0 {
        return Ok(Bytes::new());
    }
    let bytes = tree.vfs.read(file.ino(), at, u32::try_from(len).unwrap_or(u32::MAX)).await?;
    if (bytes.len() as u64) < len {
        return Err(Error::new(ErrorKind::Stale, "s3.read").because("the file was cut off while it was read"));
    }
    Ok(bytes)
}
