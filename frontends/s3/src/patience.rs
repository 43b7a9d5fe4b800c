//! The body of a request that ends when nothing of it comes any more.
//!
//! hyper limits how long a head may take to arrive, and not how long a body may: a client that announces one and sends
//! none of it would hold a connection for ever.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use s3s::StdError;
use tokio::time::{Sleep, sleep};

/// A body, and how long it may stand still while it is waited for.
pub(crate) struct Patient {
    body: Incoming,
    timeout: Duration,
    /// Since when nothing came, as a timer; none while it comes.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(crate) fn new(body: Incoming, timeout: Duration) -> Self {
        Self { body, timeout, waiting: None }
    }
}

/// Nothing came any more.
#[derive(Debug)]
pub(crate) struct TimedOut;

/// What it says: what is made of it below is known by its last words alone.
pub(crate) const TIMED_OUT: &str = "nothing came any more";

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TIMED_OUT)
    }
}

impl std::error::Error for TimedOut {}

impl Body for Patient {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let timeout = self.timeout;
        let timer = self.waiting.get_or_insert_with(|| Box::pin(sleep(timeout)));
        timer.as_mut().poll(cx).map(|()| Some(Err(Box::new(TimedOut) as StdError)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
