//! Calls of a disk that may not come back: so many at a time, and each followed to its end.
//!
//! A call that hangs in the kernel cannot be ended by anybody, and it keeps its thread. So a disk has few threads, what is
//! asked of it runs on no thread that others are polled on, and while one of its calls has been under way for longer
//! than its limit, whoever asks is told at once. That call is what tells that the disk is back: by ending.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use muxfs::{Error, ErrorKind, Result};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

/// A call that takes longer hangs.
pub(crate) const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// As long as what waits for a flush does at most.
pub(crate) const SYNC_TIME_MAX: Duration = Duration::from_mins(1);

/// The calls of a disk that have not ended.
#[derive(Debug)]
pub(crate) struct Calls {
    permits: Arc<Semaphore>,
    running: Mutex<Running>,
    /// Told when one begins or ends.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    /// When each hangs, by its number.
    deadlines: BTreeMap<u64, Instant>,
}

/// A call that is under way, until it is dropped.
#[derive(Debug)]
struct Call {
    calls: Arc<Calls>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.running().deadlines.remove(&self.number);
        self.calls.changed.notify_waiters();
    }
}

impl Calls {
    /// For a disk that is asked for so many things at a time.
    pub(crate) fn new(count_max: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(count_max));
        Arc::new(Self { permits, running: Mutex::default(), changed: Notify::new() })
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses where a call hangs.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) fn check(&self) -> Result<()> {
        let now = Instant::now();
        let running = self.running();
        let hanging = running.deadlines.values().filter(|deadline| **deadline <= now).count();
        if hanging == 0 {
            return Ok(());
        }
        let why = format!("its disk does not answer: calls that have not ended in time: {hanging}");
        Err(Error::new(ErrorKind::Unavailable, "zstor.node").because(why))
    }

    /// Carries out a call. A caller that gives up leaves it under way.
    ///
    /// # Errors
    /// Those of the call; `Unavailable` at once where another hangs.
    pub(crate) async fn follow<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.check()?;
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_taken) => {
                let permit = Arc::clone(&self.permits).acquire_owned().await;
                self.check()?;
                permit.map_err(|closed| Error::new(ErrorKind::Internal, "zstor.call").because(closed))?
            }
        };
        let call = self.begin(limit, permit);
        let mut work = async move {
            let _call = call;
            work.await
        }
        .boxed();
        // What memory answers needs no task.
        if let Some(result) = (&mut work).now_or_never() {
            return result;
        }
        tokio::spawn(work)
            .await
            .unwrap_or_else(|stopped| Err(Error::new(ErrorKind::Unavailable, "zstor.call").because(stopped)))
    }

    /// The same of a function that may hang: it has a thread of its own.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let stopped = |stopped| Error::new(ErrorKind::Unavailable, "zstor.call").because(stopped);
        self.follow(limit, async move { tokio::task::spawn_blocking(work).await.map_err(stopped) }).await
    }

    fn begin(self: &Arc<Self>, limit: Duration, permit: OwnedSemaphorePermit) -> Call {
        let number = {
            let mut running = self.running();
            running.next += 1;
            let number = running.next;
            running.deadlines.insert(number, Instant::now() + limit);
            number
        };
        self.changed.notify_waiters();
        Call { calls: Arc::clone(self), number, _permit: permit }
    }

    /// Waits for the calls that are under way to end.
    pub(crate) async fn ended(&self) {
        let last = self.running().next;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.running().deadlines.keys().next().is_none_or(|first| *first > last) {
                return;
            }
            changed.await;
        }
    }

    /// Waits for one to hang.
    pub(crate) async fn hung(&self) -> Error {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Err(error) = self.check() {
                return error;
            }
            let next = self.running().deadlines.values().min().copied();
            let hangs = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = hangs => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock stands still but for what is waited for, so times are exact.
    #[tokio::test(start_paused = true)]
    async fn while_one_hangs_nothing_is_begun_until_it_ends() {
        let calls = Calls::new(4);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let hanging = calls.follow(CALL_TIME_MAX, async move {
            ended.await.expect("told");
            Ok(())
        });
        // Its caller gives up, and it goes on.
        assert!(tokio::time::timeout(CALL_TIME_MAX / 2, hanging).await.is_err());
        calls.follow(CALL_TIME_MAX, async { Ok(()) }).await.expect("it may still be slow");
        assert!(calls.hung().now_or_never().is_none());
        calls.hung().await;
        let begun = calls.follow::<()>(CALL_TIME_MAX, async { panic!("it is not begun") });
        assert_eq!(begun.await.expect_err("one hangs").kind(), ErrorKind::Unavailable);
        assert!(calls.ended().now_or_never().is_none());
        end.send(()).expect("waited for");
        calls.ended().await;
        calls.follow(CALL_TIME_MAX, async { Ok(()) }).await.expect("it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_under_way_at_most() {
        let calls = Calls::new(2);
        let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let call = || {
            let (calls, begun, gate) = (Arc::clone(&calls), Arc::clone(&begun), Arc::clone(&gate));
            let work = async move {
                begun.add_permits(1);
                gate.acquire().await.expect("open").forget();
                Ok(())
            };
            tokio::spawn(async move { calls.follow(CALL_TIME_MAX, work).await })
        };
        let all = [call(), call(), call(), call()];
        let error = calls.hung().await;
        assert_eq!((begun.available_permits(), error.kind()), (2, ErrorKind::Unavailable));
        gate.add_permits(4);
        for one in all {
            one.await.expect("ends").expect("nothing hangs any more");
        }
        assert_eq!(begun.available_permits(), 4);
    }
}
