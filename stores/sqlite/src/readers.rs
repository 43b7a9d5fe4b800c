//! Connections that read: a few, each used by one at a time, on threads that may block.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use muxfs::{Error, ErrorKind, Result};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::file::{Mode, connect};

/// So many read at a time.
const READER_COUNT_MAX: usize = 4;

/// The connections.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    mode: Mode,
    permits: Arc<Semaphore>,
    idle: Arc<Idle>,
}

#[derive(Debug, Default)]
struct Idle(Mutex<Vec<Connection>>);

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        // One that a panic interrupted is not put back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Readers {
    pub(crate) fn new(path: PathBuf, mode: Mode) -> Self {
        Self { path, mode, permits: Arc::new(Semaphore::new(READER_COUNT_MAX)), idle: Arc::default() }
    }

    /// Reads. A caller that is dropped leaves the reading to end by itself.
    ///
    /// # Errors
    /// Those of `work`; those of opening a connection.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        const OP: &str = "sqlite.read";
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_closed| {
            Error::new(ErrorKind::Unavailable, OP).at(self.path.display()).because("the store is closed")
        })?;
        let (idle, path, mode) = (Arc::clone(&self.idle), self.path.clone(), self.mode);
        let blocking = tokio::task::spawn_blocking(move || {
            let kept = idle.lock().pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => connect(&path, mode)?,
            };
            let read = work(&mut connection);
            idle.lock().push(connection);
            drop(permit);
            read.map_err(|error| error.at(path.display()))
        });
        blocking.await.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
    }

    /// Closes all connections when what is under way has ended; nothing can be read any more.
    pub(crate) async fn close(&self) {
        // It fails where it is closed already.
        let all = self.permits.acquire_many(u32::try_from(READER_COUNT_MAX).unwrap_or(u32::MAX)).await;
        self.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle.lock());
        // Closing the last one may write.
        tokio::task::spawn_blocking(move || drop(idle)).await.ok();
    }
}
