//! The turn of an answer among those under way, which it has for as long as it is sent.
//!
//! A connection costs little; an answer holds what is fetched ahead of its client. So there may be many of the one, and of the
//! other only so many at once: who asks for more waits. Spec: spec/http.md, "Limits".

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody},
    http::Response,
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// Has an answer keep its turn until its body is sent or dropped.
pub(crate) fn keep(answer: Response<Body>, turn: OwnedSemaphorePermit) -> Response<Body> {
    answer.map(|body| Body::new(Kept { body, _turn: turn }))
}

struct Kept {
    body: Body,
    _turn: OwnedSemaphorePermit,
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
