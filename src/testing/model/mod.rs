//! A complete file system in memory, simple and obviously right: the oracle of the laws and the frontends' test bed.
//!
//! One mutex, ordered maps, no cleverness. It is as strict as the trait lets it be, so that whoever works with it works
//! with any [`Vfs`]: an inode that nobody leases is forgotten at once (`Stale`), giving back a lease that was never
//! given panics, and [`ModelFs::lease_count`] shows what a frontend forgot to give back.

mod content;
mod state;

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use self::{
    content::PAGE_LEN,
    state::{ROOT, State},
};
use crate::{
    Env, Error, ErrorKind, Name, Result,
    vfs::{
        Attr, Changed, Cookie, DirChanged, DirPage, FsStat, Handle, Ino, Listing, NewNode, Place, RemoveKind,
        RenameMode, Renamed, Seek, SetAttr, Vfs, XattrMode, XattrName,
    },
};

/// The first byte of a handle of the model.
const HANDLE_MAGIC: u8 = b'm';

/// Limits of a [`ModelFs`], small enough for a test to meet them.
#[derive(Debug, Clone, Copy)]
pub struct ModelOptions {
    /// Bytes that all files together may take, in whole pages of 4 KiB; past it `NoSpace`.
    pub bytes_max: u64,
    /// Nodes there may be, the root and orphans included; past it `NoSpace`.
    pub inodes_max: u64,
    /// Names a node may have; past it `TooManyLinks`.
    pub links_max: u32,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self { bytes_max: 1 << 30, inodes_max: 1 << 20, links_max: 1000 }
    }
}

/// A complete writable [`Vfs`] in memory.
///
/// Reading changes no `atime`. A handle is `m`, 8 bytes that name this instance, 8 bytes of inode number: one of another
/// instance is `Stale`.
#[derive(Debug)]
pub struct ModelFs {
    env: Env,
    options: ModelOptions,
    instance: [u8; 8],
    guarded: Mutex<Guarded>,
}

#[derive(Debug)]
struct Guarded {
    state: State,
    fail: Option<ErrorKind>,
    sync_count: u64,
}

impl ModelFs {
    /// Makes an empty file system on the clock and the randomness of `env`.
    ///
    /// ```
    /// use muxfs::{testing, testing::model::ModelFs, vfs::Vfs};
    /// let fs = ModelFs::new(testing::env());
    /// assert_eq!(fs.lease_count(), 0);
    /// # let _ = fs.root();
    /// ```
    pub fn new(env: Env) -> Arc<Self> {
        Self::with_options(env, ModelOptions::default())
    }

    /// Makes an empty file system with limits of its own.
    ///
    /// ```
    /// use muxfs::{testing, testing::model::{ModelFs, ModelOptions}};
    /// let small = ModelFs::with_options(testing::env(), ModelOptions { bytes_max: 8192, ..Default::default() });
    /// # drop(small);
    /// ```
    pub fn with_options(env: Env, options: ModelOptions) -> Arc<Self> {
        let mut instance = [0; 8];
        (env.fill)(&mut instance);
        let state = State::new(options, (env.now)());
        let guarded = Mutex::new(Guarded { state, fail: None, sync_count: 0 });
        Arc::new(Self { env, options, instance, guarded })
    }

    /// How many leases are out; the root's endless one does not count. A frontend at rest has given all of them back.
    pub fn lease_count(&self) -> u64 {
        self.guarded().state.lease_count()
    }

    /// How many nodes there are, the root and orphans that are still leased included.
    pub fn node_count(&self) -> u64 {
        self.guarded().state.node_count()
    }

    /// How many calls of [`Vfs::sync`] succeeded.
    pub fn sync_count(&self) -> u64 {
        self.guarded().sync_count
    }

    /// Makes every call that can fail, fail with `kind` until told otherwise: what does the caller make of it?
    pub fn fail(&self, kind: Option<ErrorKind>) {
        self.guarded().fail = kind;
    }

    fn guarded(&self) -> MutexGuard<'_, Guarded> {
        // A test that panicked shows its own panic, not this one.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, op: &'static str, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut guarded = self.guarded();
        match guarded.fail {
            Some(kind) => Err(Error::new(kind, op).because("as the test told it to")),
            None => work(&mut guarded.state),
        }
    }

    fn change<T>(
        &self,
        op: &'static str,
        work: impl FnOnce(&mut State, std::time::SystemTime) -> Result<T>,
    ) -> Result<T> {
        // Inside the lock: times are in the order of the changes.
        self.with(op, |state| work(state, (self.env.now)()))
    }
}

#[async_trait]
impl Vfs for ModelFs {
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        self.with("model.lookup", |state| state.lookup(dir, name))
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        self.with("model.parent", |state| state.parent(dir))
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.with("model.getattr", |state| state.getattr(ino))
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        self.with("model.readdir", |state| state.readdir(dir, after, count, listing))
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.with("model.read", |state| state.read(ino, offset, len))
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        self.with("model.readlink", |state| state.readlink(ino))
    }

    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        self.with("model.statfs", |state| {
            state.getattr(ino)?;
            Ok(FsStat {
                bytes_total: self.options.bytes_max,
                bytes_free: state.pages_free() * PAGE_LEN as u64,
                inodes_total: self.options.inodes_max,
                inodes_free: self.options.inodes_max.saturating_sub(state.node_count()),
            })
        })
    }

    fn handle(&self, ino: Ino) -> Result<Handle> {
        self.with("model.handle", |state| {
            state.getattr(ino)?;
            let bytes = [&[HANDLE_MAGIC][..], &self.instance, &ino.0.get().to_be_bytes()].concat();
            Ok(Handle(bytes.into()))
        })
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let op = "model.resolve";
        let foreign = || Error::new(ErrorKind::InvalidArgument, op).because("not a handle of this file system");
        let rest = handle.0.strip_prefix(&[HANDLE_MAGIC]).ok_or_else(foreign)?;
        let (instance, number) = rest.split_first_chunk::<8>().ok_or_else(foreign)?;
        let number = u64::from_be_bytes(number.try_into().map_err(|_| foreign())?);
        let ino = Ino(number.try_into().map_err(|_| foreign())?);
        if *instance != self.instance {
            return Err(Error::new(ErrorKind::Stale, op).because("the file system it was of is gone"));
        }
        self.with(op, |state| if number < state.ino_next() { state.resolve(ino) } else { Err(foreign()) })
    }

    fn retain(&self, ino: Ino) {
        self.guarded().state.retain(ino);
    }

    fn release(&self, ino: Ino, count: u64) {
        let fits = self.guarded().state.release(ino, count);
        assert!(fits, "{count} leases of inode {} given back: more than were given", ino.0);
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        self.change("model.setattr", |state, now| state.setattr(ino, &set, now))
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        self.change("model.write", |state, now| state.write(ino, offset, &data, clear_suid, now))
    }

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        self.change("model.create", |state, now| state.create(dir, name, node, &set, now))
    }

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        self.change("model.remove", |state, now| state.remove(&place, kind, now))
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        self.change("model.rename", |state, now| state.rename(&from, &to, mode, now))
    }

    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        self.change("model.link", |state, now| state.link(ino, dir, name, now))
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        self.change("model.allocate", |state, now| state.allocate(ino, &range, keep_size, now))
    }

    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        self.change("model.punch_hole", |state, now| state.punch_hole(ino, range, now))
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        self.change("model.copy_range", |state, now| state.copy_range(from, to, len, now))
    }

    async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        self.with("model.seek", |state| state.seek(ino, offset, what))
    }

    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        self.with("model.getxattr", |state| state.getxattr(ino, name))
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        self.with("model.listxattr", |state| state.listxattr(ino))
    }

    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        self.change("model.setxattr", |state, now| state.setxattr(ino, name, value, mode, now))
    }

    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        self.change("model.removexattr", |state, now| state.removexattr(ino, name, now))
    }

    async fn sync(&self, ino: Ino) -> Result<()> {
        self.with("model.sync", |state| state.getattr(ino).map(drop))?;
        self.guarded().sync_count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a good name")
    }

    /// What the trait leaves open the model takes strictly: no lease, no answer.
    #[tokio::test]
    async fn an_inode_without_a_lease_is_stale() {
        let fs = ModelFs::new(testing::env());
        let made = fs.create(fs.root(), &name("a"), NewNode::File, SetAttr::default()).await.expect("create");
        assert_eq!(fs.lease_count(), 1);
        fs.release(made.node.ino, 1);
        assert_eq!(fs.lease_count(), 0);
        assert_eq!(fs.getattr(made.node.ino).await.expect_err("forgotten").kind(), ErrorKind::Stale);
        let again = fs.lookup(fs.root(), &name("a")).await.expect("the name is still there");
        assert_eq!(again.ino, made.node.ino);
    }

    #[tokio::test]
    #[should_panic(expected = "more than were given")]
    async fn giving_back_too_much_panics() {
        let fs = ModelFs::new(testing::env());
        let made = fs.create(fs.root(), &name("a"), NewNode::File, SetAttr::default()).await.expect("create");
        fs.release(made.node.ino, 2);
    }

    #[tokio::test]
    async fn orphans_are_freed_with_their_last_lease() {
        let fs = ModelFs::new(testing::env());
        let made = fs.create(fs.root(), &name("a"), NewNode::File, SetAttr::default()).await.expect("create");
        fs.write(made.node.ino, 0, Bytes::from_static(b"data"), false).await.expect("write");
        let free = fs.statfs(fs.root()).await.expect("statfs").bytes_free;
        let place = Place { dir: fs.root(), name: &name("a"), expect: None };
        fs.remove(place, RemoveKind::NonDir).await.expect("remove");
        assert_eq!(fs.node_count(), 2);
        fs.release(made.node.ino, 1);
        assert_eq!(fs.node_count(), 1);
        assert_eq!(fs.statfs(fs.root()).await.expect("statfs").bytes_free, free + PAGE_LEN as u64);
    }

    #[tokio::test]
    async fn limits_are_met() {
        let options = ModelOptions { bytes_max: 8192, inodes_max: 3, links_max: 2 };
        let fs = ModelFs::with_options(testing::env(), options);
        let root = fs.root();
        let made = fs.create(root, &name("a"), NewNode::File, SetAttr::default()).await.expect("create");
        let full = Bytes::from(vec![1; 8193]);
        assert_eq!(fs.write(made.node.ino, 0, full.clone(), false).await.expect_err("full").kind(), ErrorKind::NoSpace);
        assert_eq!(fs.getattr(made.node.ino).await.expect("getattr").size, 0, "nothing was written");
        fs.write(made.node.ino, 0, full.slice(..8192), false).await.expect("it fits");
        fs.link(made.node.ino, root, &name("b")).await.expect("a second name");
        let error = fs.link(made.node.ino, root, &name("c")).await.expect_err("a third name");
        assert_eq!(error.kind(), ErrorKind::TooManyLinks);
        fs.create(root, &name("d"), NewNode::Dir, SetAttr::default()).await.expect("the third node");
        let error = fs.create(root, &name("e"), NewNode::Dir, SetAttr::default()).await.expect_err("the fourth");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
    }

    #[tokio::test]
    async fn handles_of_others_are_told_from_garbage() {
        let clock = testing::Clock::default();
        let (one, other) = (ModelFs::new(clock.env(1)), ModelFs::new(clock.env(2)));
        let handle = one.handle(one.root()).expect("handle");
        assert_eq!(one.resolve(&handle).await.expect("its own").ino, one.root());
        assert_eq!(other.resolve(&handle).await.expect_err("another's").kind(), ErrorKind::Stale);
        for garbage in [&b""[..], b"m", b"x2345678abcdefgh", &handle.0[..16], &[&handle.0[..], b"x"].concat()] {
            let error = one.resolve(&Handle(Bytes::copy_from_slice(garbage))).await.expect_err("garbage");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", garbage.escape_ascii());
        }
    }

    #[tokio::test]
    async fn it_fails_as_it_is_told() {
        let fs = ModelFs::new(testing::env());
        fs.fail(Some(ErrorKind::Unavailable));
        assert_eq!(fs.getattr(fs.root()).await.expect_err("told so").kind(), ErrorKind::Unavailable);
        fs.fail(None);
        fs.getattr(fs.root()).await.expect("well again");
    }
}
