//! A host directory as a [`Vfs`]: what stands behind `/local`.
//!
//! Everything goes to the host at once and nothing is cached but descriptors and names last seen, so what others
//! change on the host is seen by the next call. Inode numbers are the host's own. Handles survive restarts through
//! the table in `handles.rs`. No call leads out of the root: `host.rs` says why.
//!
//! Calls that the host answers from memory run on the caller's own task; those that may wait for the disk (reads that
//! miss the page cache, large writes, syncs, a handle that has to be searched for) go to Tokio's blocking threads. One
//! file per story: `host` (opening, confinement), `nodes` (what is remembered), `find` (numbers and handles to open
//! inodes), then the calls: `names`, `listing`, `attrs`, `read`, `write`, `xattrs`; and what lets go: `closer`, `sweep`.

mod attrs;
mod closer;
mod errno;
mod find;
mod host;
mod listing;
mod lost;
mod names;
mod nodes;
mod read;
mod sweep;
mod write;
mod xattrs;

use std::{
    fmt,
    fs::File,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Name, Result,
    vfs::{
        Attr, Changed, Cookie, DirChanged, DirPage, FsStat, Handle, Ino, Listing, NewNode, Place, RemoveKind,
        RenameMode, Renamed, Seek, SetAttr, Vfs, XattrMode, XattrName,
    },
};
use rustix::{
    fd::OwnedFd,
    fs::OFlags,
    process::{Resource, getrlimit},
};
use tokio::sync::OwnedMutexGuard;

use self::{
    closer::Closer,
    errno::fail,
    find::{Scanned, stale},
    host::Host,
    lost::Lost,
    names::Spot,
    nodes::{Anchor, Nodes},
    read::Read,
};
use crate::{
    buffers::Buffers,
    handles::{HandleParts, Handles},
};

/// Longer writes leave the caller's task: copying them takes longer than the way to another thread.
const INLINE_WRITE_LEN_MAX: usize = 64 * 1024;
/// Longer listings leave the caller's task.
const INLINE_LISTING_COUNT_MAX: usize = 256;
/// Descriptors used where neither the options nor the process's limit say less.
const OPEN_FILE_COUNT_MAX: u64 = 16 * 1024;

/// How a host directory is served. The default is safe: read and write, within one file system.
#[derive(Debug, Clone, Default)]
pub struct LocalOptions {
    /// Refuses every change with `ReadOnly`.
    pub read_only: bool,
    /// How many descriptors may be kept open between calls, at least 8; `None` takes half of the process's limit, at
    /// most 16,384. More than that are in use only while calls run; when the process has none left, cached ones are
    /// given up.
    pub open_file_count_max: Option<u64>,
}

/// A host directory as a file system.
///
/// Confined to its root, however others rename, link and mount around in it; entries that are mount points are listed
/// but cannot be entered (`CrossDevice`). Symlinks are told, never followed. `write`, and every other change, is as
/// durable as the host makes it until `sync`. A process that is not root acts as itself: it cannot give files away
/// (`NotPermitted`), and what it creates is its own. Only extended attributes of `user.` are served.
///
/// Config: `--local DIR`. Spec: spec/local.md.
pub struct LocalVfs {
    local: Arc<Local>,
}

impl fmt::Debug for LocalVfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalVfs({:?})", self.local.host)
    }
}

/// What the calls share; they are on it, so that they can go to another thread.
struct Local {
    host: Host,
    options: LocalOptions,
    handles: Handles,
    nodes: Mutex<Nodes>,
    root: Ino,
    /// The root, open for `syncfs`.
    sync_fd: OwnedFd,
    scanned: Mutex<Scanned>,
    buffers: Buffers,
    closer: Closer,
    lost: Lost,
    /// Nodes that have a name and not yet their attributes.
    making: AtomicUsize,
    uid: u32,
    gid: u32,
    /// Whether owners can be set.
    is_privileged: bool,
    umask: u32,
}

/// The umask of this process, which takes bits away from what is created; all of them where it cannot be told.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
}

impl LocalVfs {
    /// Serves the directory `root`, with the handle table in the file `handles` (made where there is none).
    ///
    /// The table belongs to this root and must not lie below it. Within a Tokio runtime a task closes idle files.
    ///
    /// ```
    /// use muxfs::{Name, vfs::{NewNode, SetAttr, Vfs}};
    /// use muxfs_local::{LocalOptions, LocalVfs};
    ///
    /// # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
    /// let dir = tempfile::tempdir()?;
    /// let root = dir.path().join("files");
    /// std::fs::create_dir(&root)?;
    /// let vfs = LocalVfs::open(&root, &dir.path().join("handles"), LocalOptions::default())?;
    /// let made = vfs.create(vfs.root(), &Name::new(b"a.txt")?, NewNode::File, SetAttr::default()).await?;
    /// vfs.write(made.node.ino, 0, "hello".into(), false).await?;
    /// assert_eq!(std::fs::read(root.join("a.txt"))?, b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `Denied` of the root; `Unavailable` while another process has the table;
    /// `InvalidArgument` for a table below the root; `Unsupported` on a host without `openat2` and `statx`; `Io`.
    pub fn open(root: &Path, handles: &Path, options: LocalOptions) -> Result<Arc<Self>> {
        const OP: &str = "local.open";
        let host = Host::open(root)?;
        if host.root_id().birth == 0 {
            tracing::warn!(
                root = %root.display(),
                "this file system tells no times of birth: a handle may lead to a new file if others remove the old one"
            );
        }
        let refuse_io = |error| Error::new(ErrorKind::Io, OP).at(handles.display()).because(error);
        if let Some(above) = handles.parent().filter(|above| !above.as_os_str().is_empty()) {
            std::fs::create_dir_all(above).map_err(refuse_io)?;
        }
        let table = Handles::open(handles)?;
        let is_below = handles.canonicalize().and_then(|path| Ok(path.starts_with(root.canonicalize()?)));
        if is_below.map_err(refuse_io)? {
            return Err(Error::new(ErrorKind::InvalidArgument, OP).at(handles.display()).because(
                "the handle table lies below the directory it is for: whoever may write there could forge it",
            ));
        }
        let sync_fd = host.reopen(host.root(), OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail(OP))?;
        let stands = rustix::io::fcntl_dupfd_cloexec(host.root(), 0).map_err(fail(OP))?;
        let anchor_count_max = anchor_count_max(&options);
        let closer = Closer::new(anchor_count_max);
        let cached_count_max = anchor_count_max - closer.count_max();
        let (nodes, root) = Nodes::new(host.root_id(), Anchor::new(stands, None), cached_count_max);
        let local = Arc::new(Local {
            host,
            options,
            handles: table,
            nodes: Mutex::new(nodes),
            root,
            sync_fd,
            scanned: Mutex::default(),
            buffers: read::buffers(),
            closer,
            lost: Lost::default(),
            making: AtomicUsize::new(0),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            is_privileged: rustix::process::geteuid().is_root(),
            umask: umask(),
        });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let _sweeps_by_itself = runtime.spawn(sweep::sweep_while_used(Arc::downgrade(&local)));
        }
        Ok(Arc::new(Self { local }))
    }

    /// Runs a call that may wait for the disk where waiting harms nobody.
    async fn blocking<T: Send + 'static>(
        &self,
        op: &'static str,
        call: impl FnOnce(&Local) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let local = self.local.clone();
        match tokio::task::spawn_blocking(move || call(&local)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(Error::new(ErrorKind::Internal, op).because(error)),
            Err(error) => Err(Error::new(ErrorKind::Unavailable, op).because(error)),
        }
    }

    /// Waits until no other change of this inode is under way.
    async fn change(&self, ino: Ino, op: &'static str) -> Result<OwnedMutexGuard<()>> {
        let lock = self.local.nodes().change_lock(ino).ok_or_else(|| stale(op))?;
        Ok(lock.lock_owned().await)
    }

    /// The same of two directories, which may be one.
    async fn change_two(
        &self,
        one: Ino,
        two: Ino,
        op: &'static str,
    ) -> Result<(OwnedMutexGuard<()>, Option<OwnedMutexGuard<()>>)> {
        let first = self.change(one.min(two), op).await?;
        let second = if one == two { None } else { Some(self.change(one.max(two), op).await?) };
        Ok((first, second))
    }

    /// Waits while a node below `dir` may have its name and not yet its attributes.
    async fn settled(&self, dir: Ino, op: &'static str) -> Result<()> {
        if self.local.making.load(Ordering::SeqCst) > 0 {
            drop(self.change(dir, op).await?);
        }
        Ok(())
    }
}

/// Two descriptors may belong to one inode: one that stands for it, one that reads.
fn anchor_count_max(options: &LocalOptions) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = options.open_file_count_max.unwrap_or((limit / 2).min(OPEN_FILE_COUNT_MAX));
    usize::try_from(count.max(8) / 2).unwrap_or(usize::MAX)
}

/// Leases on the way from another thread: given back if nobody waits for them any more.
struct Leased<T> {
    local: Arc<Local>,
    inos: Vec<Ino>,
    value: Option<T>,
}

impl<T> Leased<T> {
    fn take(mut self) -> Result<T> {
        self.inos.clear();
        self.value.take().ok_or_else(|| Error::new(ErrorKind::Internal, "local.lease"))
    }
}

impl<T> Drop for Leased<T> {
    fn drop(&mut self) {
        for ino in &self.inos {
            self.local.release(*ino, 1);
        }
    }
}

#[async_trait]
impl Vfs for LocalVfs {
    fn root(&self) -> Ino {
        self.local.root
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        self.settled(dir, "local.lookup").await?;
        self.local.lookup(dir, name)
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        self.local.parent(dir)
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.local.getattr(ino)
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        const OP: &str = "local.readdir";
        if listing == Listing::Attrs {
            self.settled(dir, OP).await?;
        }
        if count <= INLINE_LISTING_COUNT_MAX {
            return self.local.readdir(dir, after, count, listing);
        }
        let shared = self.local.clone();
        let leased = self.blocking(OP, move |local| {
            let page = local.readdir(dir, after, count, listing)?;
            let inos = page.entries.iter().filter(|entry| entry.attr.is_some()).map(|entry| entry.ino).collect();
            Ok(Leased { local: shared, inos, value: Some(page) })
        });
        leased.await?.take()
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        match self.local.read(ino, offset, len)? {
            Read::Done(bytes) => Ok(bytes),
            Read::Waits(reading) => self.blocking("local.read", move |_| reading.wait()).await,
        }
    }

    async fn host_file(&self, ino: Ino) -> Result<Option<File>> {
        self.local.host_file(ino)
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        self.local.readlink(ino)
    }

    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        drop(self.local.anchor(ino, "local.statfs")?);
        self.local.statfs()
    }

    fn handle(&self, ino: Ino) -> Result<Handle> {
        self.local.handle(ino)
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let parts = HandleParts::decode(handle)?;
        if let Some(found) = self.local.resolve_known(parts)? {
            return Ok(found);
        }
        let shared = self.local.clone();
        let leased = self.blocking("local.resolve", move |local| {
            let found = local.resolve_row(parts)?;
            Ok(Leased { local: shared, inos: vec![found.ino], value: Some(found) })
        });
        leased.await?.take()
    }

    fn retain(&self, ino: Ino) {
        self.local.nodes().retain(ino);
    }

    fn release(&self, ino: Ino, count: u64) {
        self.local.release(ino, count);
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        const OP: &str = "local.setattr";
        let guard = self.change(ino, OP).await?;
        if set.size.is_none() {
            return self.local.setattr(ino, &set);
        }
        self.blocking(OP, move |local| {
            let _guard = guard;
            local.setattr(ino, &set)
        })
        .await
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        const OP: &str = "local.write";
        let guard = self.change(ino, OP).await?;
        if data.len() <= INLINE_WRITE_LEN_MAX {
            return self.local.write(ino, offset, &data, clear_suid);
        }
        self.blocking(OP, move |local| {
            let _guard = guard;
            local.write(ino, offset, &data, clear_suid)
        })
        .await
    }

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        let _guard = self.change(dir, "local.create").await?;
        self.local.create(dir, name, &node, &set)
    }

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        let _guard = self.change(place.dir, "local.remove").await?;
        self.local.remove(&Spot::from(place), kind)
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        let _guards = self.change_two(from.dir, to.dir, "local.rename").await?;
        self.local.rename(&Spot::from(from), &Spot::from(to), mode)
    }

    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        let _guard = self.change(dir, "local.link").await?;
        self.local.link(ino, dir, name)
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        const OP: &str = "local.allocate";
        let guard = self.change(ino, OP).await?;
        self.blocking(OP, move |local| {
            let _guard = guard;
            local.allocate(ino, &range, keep_size)
        })
        .await
    }

    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        const OP: &str = "local.punch_hole";
        let guard = self.change(ino, OP).await?;
        self.blocking(OP, move |local| {
            let _guard = guard;
            local.punch_hole(ino, &range)
        })
        .await
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        const OP: &str = "local.copy_range";
        let guard = self.change(to.0, OP).await?;
        self.blocking(OP, move |local| {
            let _guard = guard;
            local.copy_range(from, to, len)
        })
        .await
    }

    async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        self.local.seek(ino, offset, what)
    }

    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        self.local.getxattr(ino, name)
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        self.local.listxattr(ino)
    }

    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        let _guard = self.change(ino, "local.setxattr").await?;
        self.local.setxattr(ino, name, &value, mode)
    }

    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        let _guard = self.change(ino, "local.removexattr").await?;
        self.local.removexattr(ino, name)
    }

    async fn sync(&self, ino: Ino) -> Result<()> {
        let whole = ino == self.local.root;
        self.blocking("local.sync", move |local| if whole { local.sync_all() } else { local.sync_inode(ino) }).await
    }

    async fn sync_inode(&self, ino: Ino) -> Result<()> {
        self.blocking("local.sync_inode", move |local| local.sync_inode(ino)).await
    }
}
