//! The thread that writes: it takes what waits, writes it in one transaction, and tells all of them.
//!
//! While one transaction is synced the next one gathers, so the more ask at a time the fewer syncs each costs. Where one
//! cannot be written the others are, each by itself. When nothing waits, and much of the file is free, it is made shorter
//! step by step.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
        mpsc::{Receiver, RecvError, TryRecvError},
    },
};

use muxfs::{Error, ErrorKind, Result};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{
    batch::{Changed, Order, Refused, Write, Written, write_all},
    failed::{failed, is_lost_write},
    file::{LOG_LEN, beside},
    lock::Lock,
};

/// No transaction writes more at a time.
const BATCH_COUNT_MAX: usize = 4096;
/// So many pages are given back at a time: no write waits for more.
const STEP_PAGE_COUNT: u32 = 512;
/// It is made shorter by itself where so many pages are free, and one in [`FREE_PART`] or more.
const FREE_COUNT_MIN: u32 = 1024;
const FREE_PART: u32 = 8;
/// A log that readers kept from beginning anew is put into the file whatever that takes when it is this long, in bytes.
const LOG_LEN_MAX: u64 = 4 * LOG_LEN as u64;
const OP: &str = "sqlite.write";

/// What the thread is asked for.
#[derive(Debug)]
pub(crate) enum Ask {
    Write(Order),
    /// To give back all that is free.
    Compact(oneshot::Sender<Result<()>>),
    /// To end, with all in the file and nothing beside it.
    Stop(oneshot::Sender<Result<()>>),
}

/// What others see of the thread.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) transaction_count: AtomicU64,
    pub(crate) sync_count: AtomicU64,
    pub(crate) change_count: AtomicU64,
    /// What there is, as far as nobody else writes.
    pub(crate) block_count: AtomicI64,
    pub(crate) block_len: AtomicI64,
    lost: Mutex<Option<String>>,
}

impl Progress {
    fn lost(&self) -> MutexGuard<'_, Option<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses where something that was written may be lost.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn check(&self) -> Result<()> {
        match &*self.lost() {
            None => Ok(()),
            Some(why) => {
                let why = format!("what was written may be lost: open the store again ({why})");
                Err(Error::new(ErrorKind::Io, OP).because(why))
            }
        }
    }
}

/// The thread's own.
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    pub(crate) progress: Arc<Progress>,
    /// Whether something was committed and not synced.
    pub(crate) is_dirty: bool,
    /// Whether pages are being given back, until so many are free, and who waits for that.
    pub(crate) vacuum: Option<Vacuum>,
    // Given back last, when the connection is closed.
    pub(crate) _lock: Lock,
}

#[derive(Debug, Default)]
pub(crate) struct Vacuum {
    free_count: u32,
    waiting: Vec<oneshot::Sender<Result<()>>>,
}

impl Writer {
    /// Works until it is told to stop or nobody is left who could ask.
    pub(crate) fn run(mut self, asks: &Receiver<Ask>) {
        loop {
            let first = if self.vacuum.is_some() {
                match asks.try_recv() {
                    Ok(ask) => Some(ask),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                }
            } else {
                match asks.recv() {
                    Ok(ask) => Some(ask),
                    Err(RecvError) => return,
                }
            };
            let mut orders = Vec::new();
            let mut next = first;
            while let Some(ask) = next.take() {
                match ask {
                    Ask::Write(order) => orders.push(order),
                    Ask::Compact(reply) => {
                        // On a full disk what is moved has no room in the log before that is emptied; where it cannot be,
                        // moving tells why.
                        self.put_log_in().ok();
                        let vacuum = self.vacuum.get_or_insert_default();
                        vacuum.free_count = 0;
                        vacuum.waiting.push(reply);
                    }
                    Ask::Stop(reply) => {
                        self.write(std::mem::take(&mut orders));
                        // Whoever asked may be gone.
                        reply.send(self.stop()).ok();
                        return;
                    }
                }
                if orders.len() < BATCH_COUNT_MAX {
                    next = asks.try_recv().ok();
                }
            }
            self.write(orders);
            self.give_back();
        }
    }

    fn write(&mut self, orders: Vec<Order>) {
        if orders.is_empty() {
            return;
        }
        let written = self.attempt(orders.iter().map(|order| &order.write));
        match written {
            Ok(written) => {
                for (order, written) in orders.into_iter().zip(written) {
                    order.reply.send(Ok(written)).ok();
                }
            }
            Err(error) if orders.len() == 1 => {
                for order in orders {
                    order.reply.send(Err(error_of(&error))).ok();
                }
            }
            // One is to blame, and each is to hear of its own.
            Err(_) => {
                for order in orders {
                    let written = self.attempt(std::iter::once(&order.write));
                    let written = written.map(|mut written| written.pop().unwrap_or(Written::Done));
                    order.reply.send(written).ok();
                }
            }
        }
    }

    fn attempt<'a>(&mut self, writes: impl Iterator<Item = &'a Write> + Clone) -> Result<Vec<Written>> {
        self.progress.check()?;
        match write_all(&mut self.connection, writes, self.is_dirty) {
            Ok((written, changed)) => {
                self.note(changed);
                Ok(written)
            }
            Err(Refused::Found(error)) => Err(error),
            Err(Refused::Sql(error)) => Err(self.refused(error)),
        }
    }

    fn note(&mut self, changed: Changed) {
        self.progress.change_count.fetch_add(changed.change_count, Ordering::Relaxed);
        self.progress.block_count.fetch_add(changed.block_count, Ordering::Relaxed);
        self.progress.block_len.fetch_add(changed.block_len, Ordering::Relaxed);
        if changed.is_synced {
            self.is_dirty = false;
            self.progress.sync_count.fetch_add(1, Ordering::Relaxed);
        } else if changed.change_count > 0 {
            self.is_dirty = true;
        }
        if changed.is_synced || changed.change_count > 0 {
            self.progress.transaction_count.fetch_add(1, Ordering::Relaxed);
        }
        if changed.has_deleted && self.vacuum.is_none() {
            // It is looked at again after the next deletion.
            if let Ok((free, all)) = self.page_counts()
                && free >= FREE_COUNT_MIN.max(all / FREE_PART)
            {
                self.vacuum = Some(Vacuum { free_count: free / 2, waiting: Vec::new() });
            }
        }
        if fs::metadata(beside(&self.path, "-wal")).is_ok_and(|log| log.len() > LOG_LEN_MAX) {
            self.put_log_in().ok();
        }
    }

    fn refused(&self, error: rusqlite::Error) -> Error {
        if is_lost_write(&error) {
            let why = error.to_string();
            tracing::error!(path = %self.path.display(), why, "a write is lost, and nothing is written any more until the store is opened again");
            *self.progress.lost() = Some(why);
        }
        failed(OP, error).at(self.path.display())
    }

    fn page_counts(&self) -> rusqlite::Result<(u32, u32)> {
        let count = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
        Ok((count("freelist_count")?, count("page_count")?))
    }

    /// Gives some free pages back, where that is under way.
    fn give_back(&mut self) {
        let Some(vacuum) = &self.vacuum else { return };
        let free_count = vacuum.free_count;
        let stepped = self.progress.check().and_then(|()| self.step(free_count));
        if matches!(stepped, Ok(true)) {
            return;
        }
        let ended = stepped.and_then(|_| self.put_log_in());
        if let Err(error) = &ended {
            tracing::warn!(path = %self.path.display(), cause = format!("{error:#}"), "free space could not be given back");
        }
        for waiting in self.vacuum.take().map(|vacuum| vacuum.waiting).unwrap_or_default() {
            waiting.send(ended.as_ref().copied().map_err(error_of)).ok();
        }
    }

    /// Gives some pages back; whether more are free than are to be.
    fn step(&mut self, free_count: u32) -> Result<bool> {
        let step = || {
            let (free, _) = self.page_counts()?;
            if free <= free_count {
                return Ok(false);
            }
            self.connection.pragma_update(None, "synchronous", "NORMAL")?;
            self.connection.pragma(None, "incremental_vacuum", STEP_PAGE_COUNT.min(free - free_count), |_| Ok(()))?;
            let (left, _) = self.page_counts()?;
            Ok::<_, rusqlite::Error>(left < free && left > free_count)
        };
        let stepped = step().map_err(|error| self.refused(error));
        self.is_dirty = true;
        stepped
    }

    /// Puts the log into the file, as far as readers let it, and empties it.
    fn put_log_in(&self) -> Result<()> {
        let put = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        put.map_err(|error| self.refused(error))
    }

    fn stop(self) -> Result<()> {
        let ended = self.progress.check().and_then(|()| self.put_log_in());
        let Self { connection, path, _lock: lock, .. } = self;
        let closed = connection.close().map_err(|(_, error)| failed("sqlite.close", error).at(path.display()));
        drop(lock);
        ended.and(closed)
    }
}

/// The same for each of those who are told of it.
fn error_of(error: &Error) -> Error {
    let same = Error::new(error.kind(), error.op())
        .because(std::error::Error::source(error).map_or_else(String::new, ToString::to_string));
    match error.path() {
        Some(path) => same.at(path),
        None => same,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;
    use muxfs::{BlockKey, block::BLOCK_LEN_MAX};

    use super::*;
    use crate::file::open_writer;

    /// Has all of it waiting when the thread begins; what each was told, and what it took.
    fn write(len_max: Option<u64>, writes: Vec<Write>) -> (Vec<Result<Written>>, Arc<Progress>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let lock = Lock::take(&path).expect("locked");
        let connection = open_writer(&path, len_max).expect("opened");
        let progress = Arc::new(Progress::default());
        let thread =
            Writer { connection, path, progress: progress.clone(), is_dirty: false, vacuum: None, _lock: lock };
        let (asks, asked) = mpsc::channel();
        let replies: Vec<_> = writes
            .into_iter()
            .map(|write| {
                let (reply, replied) = oneshot::channel();
                asks.send(Ask::Write(Order { write, reply, _room: None })).expect("it is there");
                replied
            })
            .collect();
        drop(asks);
        thread.run(&asked);
        (replies.into_iter().map(|reply| reply.blocking_recv().expect("told")).collect(), progress)
    }

    fn put(n: usize, len: usize) -> Write {
        let key = BlockKey::new(&n.to_be_bytes()).expect("a key");
        Write::Put { key, block: Bytes::from(vec![7; len]), replaces: false }
    }

    #[test]
    fn all_that_wait_are_one_transaction_and_one_sync() {
        let (told, progress) = write(None, (0..200).flat_map(|n| [put(n, 5000), Write::Flush]).collect());
        assert!(told.iter().all(Result::is_ok));
        let counts = [&progress.transaction_count, &progress.sync_count, &progress.change_count];
        assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [1, 1, 200]);
    }

    #[test]
    fn puts_that_nobody_wants_durable_are_not_synced() {
        let (told, progress) = write(None, (0..200).map(|n| put(n, 100)).collect());
        assert!(told.iter().all(Result::is_ok));
        assert_eq!(progress.sync_count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_that_cannot_be_written_hinders_none_beside_it() {
        let writes = vec![put(0, 1000), put(1, BLOCK_LEN_MAX), put(2, 1000), Write::Flush];
        let (told, _) = write(Some(1 << 20), writes);
        let kinds: Vec<_> = told.iter().map(|told| told.as_ref().err().map(Error::kind)).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::NoSpace), None, None]);
    }
}
