//! Mounts whose store is not there yet: known by their prefix, and filled when the store comes.
//!
//! A server whose bucket is away has all its other mounts to serve. Spec: spec/vfs.md #mounts-that-come-later.

use std::{
    fs::File as HostFile,
    num::NonZeroU64,
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::Mount;
use crate::{
    Addressing, Env, Error, ErrorKind, File, FileKind, Name, Prefix, QfsPath, Result, SecretKey, Source, Store,
    vfs::{
        Attr, Changed, Cookie, DirChanged, DirPage, FsStat, Fsid, Handle, Ino, Listing, NewNode, Place, Rdev,
        RemoveKind, RenameMode, Renamed, Seek, SetAttr, Vfs, XattrMode, XattrName,
    },
};

/// The root of any mount with a working tree, or by CID.
const ROOT: Ino = Ino(NonZeroU64::MIN);

/// A mount whose store is away: its root is there, and everything else is `Unavailable` until [`Later::come`].
///
/// For mounts with a working tree, and for views of such. Cheap to clone; all clones are one mount.
///
/// ```
/// # use std::sync::Arc;
/// # use muxfs::{Mount, MuxFs, Prefix, block, dag::{Dag, DagOptions}, media::MemMedia, pins::Pins, testing};
/// use muxfs::{Addressing, Error, ErrorKind, mux::Later};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let prefix = Prefix::new("s3")?;
/// let away = Error::new(ErrorKind::Unavailable, "s3.open").because("nobody listens there");
/// let later = Later::new(prefix, Addressing::Content, &away, &testing::env());
/// let mut mux = MuxFs::new();
/// mux.mount(later.mount())?;
/// assert_eq!(mux.put("/s3", &b"hello"[..]).await.unwrap_err().kind(), ErrorKind::Unavailable);
///
/// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
/// # let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &testing::env()).await?);
/// later.come(Mount::cas(prefix, dag, pins))?;
/// assert!(mux.put("/s3", &b"hello"[..]).await.is_ok());
/// # Ok::<(), Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Later {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    prefix: Prefix,
    addressing: Addressing,
    /// Why it is not there.
    away: Mutex<Error>,
    /// When it was first missed: the times that its root has until it comes.
    since: SystemTime,
    come: OnceLock<Mount>,
}

impl Later {
    /// A mount that is away because of `error`, addressed as it will be.
    pub fn new(prefix: Prefix, addressing: Addressing, error: &Error, env: &Env) -> Self {
        let away = Mutex::new(told(error));
        Self { inner: Arc::new(Inner { prefix, addressing, away, since: (env.now)(), come: OnceLock::new() }) }
    }

    /// What is to be mounted: the same mount before and after it has come.
    pub fn mount(&self) -> Mount {
        let vfs = Arc::new(self.clone());
        Mount { prefix: self.inner.prefix, store: vfs.clone(), vfs, cas: None, tree: None, later: Some(self.clone()) }
    }

    /// Why it is still away, for who asks from now on.
    pub fn still_away(&self, error: &Error) {
        *self.inner.away.lock().unwrap_or_else(PoisonError::into_inner) = told(error);
    }

    /// Fills it: what is asked from now on is asked of `mount`.
    ///
    /// # Errors
    /// `InvalidArgument` for a mount of another prefix, or whose root has another number; `Exists` if it has come already.
    pub fn come(&self, mount: Mount) -> Result<()> {
        let at = QfsPath::mount(self.inner.prefix);
        if mount.prefix != self.inner.prefix || mount.vfs.root() != ROOT {
            let why = format!("/{} cannot come for it", mount.prefix);
            return Err(Error::new(ErrorKind::InvalidArgument, "mux.come").at(at).because(why));
        }
        self.inner.come.set(mount).map_err(|_| Error::new(ErrorKind::Exists, "mux.come").at(at))
    }

    /// What has come.
    pub(super) fn has_come(&self) -> Option<&Mount> {
        self.inner.come.get()
    }

    /// Why it is not there, as of a call.
    pub(super) fn away(&self, op: &'static str) -> Error {
        let away = self.inner.away.lock().unwrap_or_else(PoisonError::into_inner);
        Error::new(ErrorKind::Unavailable, op)
            .at(QfsPath::mount(self.inner.prefix))
            .because(format!("what it keeps all in is away, and looked for: {away:#}"))
    }

    fn vfs(&self, op: &'static str) -> Result<&Arc<dyn Vfs>> {
        self.has_come().map(Mount::vfs).ok_or_else(|| self.away(op))
    }

    fn store(&self, op: &'static str) -> Result<&Arc<dyn Store>> {
        self.has_come().map(Mount::store).ok_or_else(|| self.away(op))
    }

    /// The root, as long as nothing is known of it but that it is there.
    fn root_attr(&self) -> Attr {
        let since = self.inner.since;
        Attr {
            ino: ROOT,
            fsid: Fsid(0),
            kind: FileKind::Dir,
            mode: 0o555,
            uid: 0,
            gid: 0,
            nlink: 2,
            rdev: Rdev::default(),
            size: 0,
            used: 0,
            atime: since,
            mtime: since,
            ctime: since,
            change: 0,
            cid: None,
        }
    }
}

/// The same error: one is told to many.
fn told(error: &Error) -> Error {
    Error::new(error.kind(), "mux.later").because(format!("{error:#}"))
}

#[async_trait]
impl Store for Later {
    fn kind(&self) -> Prefix {
        self.has_come().map_or(self.inner.prefix, |mount| mount.store.kind())
    }

    fn addressing(&self) -> Addressing {
        self.has_come().map_or(self.inner.addressing, |mount| mount.store.addressing())
    }

    async fn has(&self, path: &QfsPath) -> Result<bool> {
        self.store("later.has")?.has(path).await
    }

    async fn open(&self, path: &QfsPath) -> Result<Box<dyn File>> {
        self.store("later.open")?.open(path).await
    }

    async fn put(&self, path: &QfsPath, source: Source) -> Result<QfsPath> {
        self.store("later.put")?.put(path, source).await
    }

    async fn delete(&self, path: &QfsPath) -> Result<bool> {
        self.store("later.delete")?.delete(path).await
    }

    async fn open_encrypted(&self, key: &SecretKey, path: &QfsPath) -> Result<Box<dyn File>> {
        self.store("later.open")?.open_encrypted(key, path).await
    }

    async fn put_encrypted(&self, key: &SecretKey, path: &QfsPath, source: Source) -> Result<QfsPath> {
        self.store("later.put")?.put_encrypted(key, path, source).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Later {
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        self.vfs("later.lookup")?.lookup(dir, name).await
    }

    fn expect(&self, dir: Ino, names: &[Name]) {
        if let Some(mount) = self.has_come() {
            mount.vfs.expect(dir, names);
        }
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        match self.has_come() {
            None if dir == ROOT => Ok(self.root_attr()),
            _ => self.vfs("later.parent")?.parent(dir).await,
        }
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        match self.has_come() {
            None if ino == ROOT => Ok(self.root_attr()),
            _ => self.vfs("later.getattr")?.getattr(ino).await,
        }
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        self.vfs("later.readdir")?.readdir(dir, after, count, listing).await
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.vfs("later.read")?.read(ino, offset, len).await
    }

    async fn host_file(&self, ino: Ino) -> Result<Option<HostFile>> {
        self.vfs("later.host_file")?.host_file(ino).await
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        self.vfs("later.readlink")?.readlink(ino).await
    }

    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        self.vfs("later.statfs")?.statfs(ino).await
    }

    fn handle(&self, ino: Ino) -> Result<Handle> {
        self.vfs("later.handle")?.handle(ino)
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        self.vfs("later.resolve")?.resolve(handle).await
    }

    // What was leased of the root before it came is nobody's: roots stay.
    fn retain(&self, ino: Ino) {
        if let Some(mount) = self.has_come() {
            mount.vfs.retain(ino);
        }
    }

    fn release(&self, ino: Ino, count: u64) {
        if let Some(mount) = self.has_come() {
            mount.vfs.release(ino, count);
        }
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        self.vfs("later.setattr")?.setattr(ino, set).await
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        self.vfs("later.write")?.write(ino, offset, data, clear_suid).await
    }

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        self.vfs("later.create")?.create(dir, name, node, set).await
    }

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        self.vfs("later.remove")?.remove(place, kind).await
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        self.vfs("later.rename")?.rename(from, to, mode).await
    }

    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        self.vfs("later.link")?.link(ino, dir, name).await
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        self.vfs("later.allocate")?.allocate(ino, range, keep_size).await
    }

    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        self.vfs("later.punch_hole")?.punch_hole(ino, range).await
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        self.vfs("later.copy_range")?.copy_range(from, to, len).await
    }

    async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        self.vfs("later.seek")?.seek(ino, offset, what).await
    }

    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        self.vfs("later.getxattr")?.getxattr(ino, name).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        self.vfs("later.listxattr")?.listxattr(ino).await
    }

    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        self.vfs("later.setxattr")?.setxattr(ino, name, value, mode).await
    }

    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        self.vfs("later.removexattr")?.removexattr(ino, name).await
    }

    // Nothing was written here that could be lost; what a process before this one wrote is in its journal.
    async fn sync(&self, ino: Ino) -> Result<()> {
        match self.has_come() {
            Some(mount) => mount.vfs.sync(ino).await,
            None => Ok(()),
        }
    }

    async fn sync_inode(&self, ino: Ino) -> Result<()> {
        match self.has_come() {
            Some(mount) => mount.vfs.sync_inode(ino).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        MuxFs,
        block::Mem,
        cas_view::CasViewOptions,
        dag::{Dag, DagOptions, GcOptions},
        heads::MemHeads,
        media::MemMedia,
        pins::Pins,
        testing::{env, model::ModelFs},
        tree::{Tree, TreeOptions},
    };

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    fn away(why: &str) -> Error {
        Error::new(ErrorKind::Unavailable, "bucket.open").because(why.to_owned())
    }

    async fn content(prefix: Prefix) -> Mount {
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env()).await.expect("opens"));
        let options = TreeOptions::new(name("main"), env());
        let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await;
        Mount::content(prefix, pins, tree.expect("opens"), CasViewOptions::default())
    }

    #[tokio::test]
    async fn others_are_served_until_it_comes() {
        let prefixes = ["ipfs", "s3"].map(|text| Prefix::new(text).expect("a prefix"));
        let later = Later::new(prefixes[1], Addressing::Content, &away("nobody listens there"), &env());
        let mut mux = MuxFs::new();
        mux.mount(content(prefixes[0]).await).expect("mounts");
        mux.mount(later.mount()).expect("mounts");
        let vfs = mux.vfs(&env()).await.expect("a view");

        let listed = vfs.readdir(vfs.root(), Cookie::START, 10, Listing::Attrs).await.expect("the root");
        assert!(listed.entries.len() == 2 && listed.entries.iter().all(|entry| entry.attr.is_some()));
        let [ipfs, s3] = prefixes.map(|prefix| name(prefix.as_str()));
        let there = vfs.lookup(vfs.root(), &ipfs).await.expect("there").ino;
        vfs.create(there, &name("file"), NewNode::File, SetAttr::default()).await.expect("made");
        let before = vfs.lookup(vfs.root(), &s3).await.expect("its root is known");
        let dir = before.ino;
        vfs.sync(vfs.root()).await.expect("what is there is durable");
        let refused = vfs.create(dir, &name("file"), NewNode::File, SetAttr::default()).await.expect_err("away");
        assert!(refused.kind() == ErrorKind::Unavailable && format!("{refused:#}").contains("nobody listens there"));
        later.still_away(&away("its server begins"));
        for refused in [
            vfs.lookup(dir, &name("file")).await.map(drop),
            vfs.readdir(dir, Cookie::START, 10, Listing::Names).await.map(drop),
            vfs.statfs(dir).await.map(drop),
            vfs.handle(dir).map(drop),
            mux.put("/s3", &b"x"[..]).await.map(drop),
            mux.mounts()[1].collect_garbage(&GcOptions::new(&env())).await.map(drop),
        ] {
            let refused = refused.expect_err("away");
            assert!(refused.kind() == ErrorKind::Unavailable && format!("{refused:#}").contains("its server begins"));
        }
        let mount = &mux.mounts()[1];
        assert!(mount.as_tree().is_none() && mount.as_cas().is_none());
        assert_eq!(mount.absence().expect("away").kind(), ErrorKind::Unavailable);

        for other in [content(prefixes[0]).await, Mount::location(prefixes[0], ModelFs::new(env()), env())] {
            assert_eq!(later.come(other).expect_err("another").kind(), ErrorKind::InvalidArgument);
        }
        later.come(content(prefixes[1]).await).expect("comes");
        assert_eq!(later.come(content(prefixes[1]).await).expect_err("it is there").kind(), ErrorKind::Exists);
        let mount = &mux.mounts()[1];
        assert!(mount.as_tree().is_some() && mount.as_cas().is_some() && mount.absence().is_none());
        // Who had its root before has it still.
        let made = vfs.create(dir, &name("file"), NewNode::File, SetAttr::default()).await.expect("made");
        vfs.write(made.node.ino, 0, "hello".into(), false).await.expect("written");
        let after = vfs.lookup(vfs.root(), &s3).await.expect("there");
        assert_eq!((after.ino, after.fsid), (dir, before.fsid));
        vfs.release(dir, 2);
        assert_eq!(vfs.resolve(&vfs.handle(dir).expect("a handle")).await.expect("there").ino, dir);
        mux.put("/s3", &b"x"[..]).await.expect("put");
        mount.collect_garbage(&GcOptions::new(&env())).await.expect("collected");
    }
}
