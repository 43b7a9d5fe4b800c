//! A file system that waits, fails or panics when the test tells it to: the model, behind a gate.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Name, Result, testing,
    testing::model::ModelFs,
    vfs::{
        Attr, Changed, Cookie, DirChanged, DirPage, FsStat, Handle, Ino, Listing, NewNode, Place, RemoveKind,
        RenameMode, Renamed, SetAttr, Vfs,
    },
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
impl Vfs for Gate {
    fn root(&self) -> Ino {
        self.fs.root()
    }
    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        self.fs.lookup(dir, name).await
    }
    async fn parent(&self, dir: Ino) -> Result<Attr> {
        self.fs.parent(dir).await
    }
    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.fs.getattr(ino).await
    }
    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        self.fs.readdir(dir, after, count, listing).await
    }
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
    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        self.fs.statfs(ino).await
    }
    fn handle(&self, ino: Ino) -> Result<Handle> {
        self.fs.handle(ino)
    }
    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        self.fs.resolve(handle).await
    }
    fn retain(&self, ino: Ino) {
        self.fs.retain(ino);
    }
    fn release(&self, ino: Ino, count: u64) {
        self.fs.release(ino, count);
    }
    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        self.fs.setattr(ino, set).await
    }
    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        let changed = self.fs.write(ino, offset, data, clear_suid).await;
        if self.holds_write.load(Ordering::SeqCst) {
            self.pass().await;
        }
        changed
    }
    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        self.fs.create(dir, name, node, set).await
    }
    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        self.pass().await;
        self.fs.remove(place, kind).await
    }
    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        self.fs.rename(from, to, mode).await
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
}
