//! The turn of an answer among those under way, which it has for as long as it is sent.
//!
//! A connection costs little; an answer holds what is fetched ahead of its client. So there may be many of the one, and of the
//! other only so many at once: who asks for more waits, for as long as turns come round. Spec: spec/http.md, "Limits".

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::Response,
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// The turns there are.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Arc<Semaphore>,
    /// How many were given yet.
    given_count: AtomicU64,
}

impl Turns {
    pub(crate) fn new(count: usize) -> Self {
        let free = Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self { free, given_count: AtomicU64::new(0) }
    }

    /// The next turn, in the order of asking; `None` where nobody at all was given one for `patience`.
    pub(crate) async fn take(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let mut turn = pin!(self.free.clone().acquire_owned());
        loop {
            let given_count = self.given_count.load(Ordering::Relaxed);
            if let Ok(turn) = timeout(patience, &mut turn).await {
                self.given_count.fetch_add(1, Ordering::Relaxed);
                return turn.ok();
            }
            if self.given_count.load(Ordering::Relaxed) == given_count {
                return None;
            }
        }
    }
}

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

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);
    /// Nearly as long.
    const KEPT: Duration = Duration::from_secs(59);

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_however_long_as_turns_come_round() {
        let turns = Arc::new(Turns::new(1));
        let begun = Instant::now();
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move {
                    let turn = turns.take(PATIENCE).await;
                    sleep(KEPT).await;
                    turn.is_some()
                })
            })
            .collect();
        for turn in waiting {
            assert!(turn.await.expect("it ended"), "its turn came");
        }
        assert!(begun.elapsed() > PATIENCE * 9);
        assert!(turns.take(PATIENCE).await.is_some(), "every turn was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_turns_that_do_not_come_round() {
        let turns = Turns::new(1);
        let kept = turns.take(PATIENCE).await.expect("it is free");
        let begun = Instant::now();
        assert!(turns.take(PATIENCE).await.is_none());
        assert!(begun.elapsed() >= PATIENCE);
        drop(kept);
        assert!(turns.take(PATIENCE).await.is_some());
    }
}
