//! A file system that waits, fails or panics when the test tells it to: the model, behind a gate.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Result, forward_vfs, testing,
    testing::model::ModelFs,
    vfs::{Changed, DirChanged, Ino, Place, RemoveKind, Vfs},
};
use tokio::sync::Semaphore;

/// The model behind a gate: `read` and `remove` wait until it is open; `write` and `sync`, done already, where told.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) fs: Arc<ModelFs>,
    permits: Semaphore,
    /// How many calls have come to the gate.
    pub(crate) arrived: AtomicUsize,
    /// `write` waits before it ends.
    pub(crate) holds_write: AtomicBool,
    /// `sync` waits before it ends well.
    pub(crate) holds_sync: AtomicBool,
    /// `sync` fails.
    pub(crate) fails_sync: AtomicBool,
    /// `read` is `Unavailable`.
    pub(crate) is_away: AtomicBool,
    /// `readlink` panics.
    pub(crate) panics: AtomicBool,
}

impl Gate {
    pub(crate) fn shut() -> Arc<Self> {
        Arc::new(Self {
            fs: ModelFs::new(testing::env()),
            permits: Semaphore::new(0),
            arrived: AtomicUsize::new(0),
            holds_write: AtomicBool::new(false),
            holds_sync: AtomicBool::new(false),
            fails_sync: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        })
    }

    pub(crate) fn open() -> Arc<Self> {
        let gate = Self::shut();
        gate.let_through();
        gate
    }

    /// Opens the gate for good.
    pub(crate) fn let_through(&self) {
        self.permits.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    async fn pass(&self) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.permits.acquire().await.expect("is never closed").forget();
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Gate {
    forward_vfs!(fs: root, lookup, parent, getattr, readdir, statfs, handle, resolve, retain, release);
    forward_vfs!(fs: setattr, create, rename, link, allocate, punch_hole, copy_range, seek);
    forward_vfs!(fs: getxattr, listxattr, setxattr, removexattr, host_file, expect);

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.pass().await;
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "gate.read"));
        }
        self.fs.read(ino, offset, len).await
    }
    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        assert!(!self.panics.load(Ordering::SeqCst), "the test told it to");
        self.fs.readlink(ino).await
    }
    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        let changed = self.fs.write(ino, offset, data, clear_suid).await;
        if self.holds_write.load(Ordering::SeqCst) {
            self.pass().await;
        }
        changed
    }
    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        self.pass().await;
        self.fs.remove(place, kind).await
    }
    async fn sync(&self, ino: Ino) -> Result<()> {
        if self.fails_sync.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Io, "gate.sync"));
        }
        let synced = self.fs.sync(ino).await;
        if self.holds_sync.load(Ordering::SeqCst) {
            self.pass().await;
        }
        synced
    }
    async fn sync_inode(&self, ino: Ino) -> Result<()> {
        self.sync(ino).await
    }
}
