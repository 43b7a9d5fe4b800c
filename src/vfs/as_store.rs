//! The QFS calls over any [`Vfs`]: what a location-addressed mount answers to the library.
//!
//! Sits between [`MuxFs`](crate::MuxFs) and a `Vfs`, so that a store by place is written once, as inodes, and gets whole
//! files by path for nothing. A file is put beside its name and renamed onto it: whoever reads meets the old bytes or the
//! new, never a part. Spec: spec/qfs.md, "By place"; symlinks: spec/paths.md.

use std::{
    collections::BTreeMap,
    io::Cursor,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lru::LruCache;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    Addressing, Env, Error, ErrorKind, File, FileInfo, FileKind, Name, Prefix, QfsPath, Result, SecretKey, Source,
    Store,
    dag::Ipld,
    file::{LINK_COUNT_MAX, link_key},
    seal,
    vfs::{Attr, Cookie, Ino, Lease, Listing, NewNode, Place, READ_LEN_MAX, RemoveKind, RenameMode, SetAttr, Vfs},
    walk::{Step, Walk, escapes},
};

/// How a file that is being put is called until it is whole: this and 16 hex digits. One that a crash left behind is
/// nobody's: the first put into its directory removes it when nobody wrote to it for [`PUT_AGE_MAX`].
pub const PUT_PREFIX: &str = ".muxfs-put-";

/// How long a put may go without writing before what it has so far is taken for a leftover: no source is that slow.
pub const PUT_AGE_MAX: Duration = Duration::from_hours(24);

/// How many directories are remembered to be free of leftovers; one that is forgotten is only looked through again.
const SWEPT_COUNT_MAX: usize = 4096;
/// How many entries of a directory are looked at for leftovers: a put into a very large one is not to wait for all.
const SWEEP_ENTRY_COUNT_MAX: usize = 64 * PAGE_COUNT;
/// How much of a source is held at a time, in bytes.
const CHUNK_LEN: usize = 1 << 20;
/// How many entries are asked for at a time.
const PAGE_COUNT: usize = 1024;
/// How many random names are tried before a put gives up: with 64 random bits the second is never needed by chance.
const PUT_NAME_COUNT_MAX: usize = 4;

/// A location-addressed [`Store`] over a [`Vfs`].
#[derive(Debug)]
pub struct AsStore {
    kind: Prefix,
    vfs: Arc<dyn Vfs>,
    env: Env,
    /// The directories that were looked through for leftovers.
    swept: Mutex<LruCache<Ino, ()>>,
    /// Whether whoever puts makes it durable.
    is_lazy: bool,
}

/// A node that a walk came to, leased for as long as it is held.
#[derive(Debug)]
struct At {
    lease: Lease,
    attr: Attr,
}

impl At {
    fn ino(&self) -> Ino {
        self.lease.ino()
    }
}

impl AsStore {
    /// Puts the QFS calls over `vfs`; `env` gives the random part of temporary names.
    ///
    /// ```
    /// # use muxfs::{Prefix, QfsPath, Source, Store, testing::{self, model::ModelFs}, vfs::as_store::AsStore};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let env = testing::env();
    /// let store = AsStore::new(Prefix::new("local")?, ModelFs::new(env.clone()), env);
    /// let path: QfsPath = "/local/notes/a.txt".parse()?;
    /// store.put(&path, Source::from(&b"hello"[..])).await?;
    /// assert_eq!(store.open(&path).await?.read_at(0, 100).await?, "hello");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(kind: Prefix, vfs: Arc<dyn Vfs>, env: Env) -> Self {
        let swept = NonZeroUsize::new(SWEPT_COUNT_MAX).map_or_else(LruCache::unbounded, LruCache::new);
        Self { kind, vfs, env, swept: Mutex::new(swept), is_lazy: false }
    }

    /// Leaves it to the caller to make durable what is put: with the next put through another `AsStore`, or
    /// [`Vfs::sync`] of the root.
    ///
    /// For file systems that keep the order of changes, as [`Tree`](crate::tree::Tree) does: after a crash a file is there
    /// whole or not at all also then. A delete is durable all the same.
    #[must_use]
    pub fn lazy(self) -> Self {
        Self { is_lazy: true, ..self }
    }

    /// Makes a node durable that was put.
    async fn sync(&self, ino: Ino) -> Result<()> {
        if self.is_lazy { Ok(()) } else { self.vfs.sync(ino).await }
    }

    fn adopt(&self, attr: Attr) -> At {
        At { lease: Lease::adopt(self.vfs.clone(), attr.ino), attr }
    }

    async fn root(&self) -> Result<At> {
        let attr = self.vfs.getattr(self.vfs.root()).await?;
        // The root is leased for ever; one more lease is there to be given back.
        self.vfs.retain(attr.ino);
        Ok(self.adopt(attr))
    }

    /// The node of a name; `None` if there is none.
    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Option<At>> {
        match self.vfs.lookup(dir, name).await {
            Ok(attr) => Ok(Some(self.adopt(attr))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a directory, or takes the node that somebody else made meanwhile.
    async fn make_dir(&self, dir: Ino, name: &Name) -> Result<At> {
        let set = SetAttr { mode: Some(0o755), ..SetAttr::default() };
        match self.vfs.create(dir, name, NewNode::Dir, set).await {
            Ok(made) => Ok(self.adopt(made.node)),
            Err(error) if error.kind() == ErrorKind::Exists => self.lookup(dir, name).await?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Walks `parts` from the root, following every symlink, and returns what is met from the root down to the node.
    /// With `make`, makes the directories that are missing; without, `NotFound`.
    async fn walk(&self, parts: &[Name], make: bool) -> Result<Vec<At>> {
        let mut stack = vec![self.root().await?];
        let mut walk = Walk::new(parts);
        while let Some(step) = walk.next() {
            let here = stack.last().ok_or_else(escapes)?;
            if here.attr.kind != FileKind::Dir {
                return Err(Error::new(ErrorKind::NotDir, "as_store.walk"));
            }
            let Step::Down(name) = step else {
                stack.pop();
                if stack.is_empty() {
                    return Err(escapes());
                }
                continue;
            };
            let next = match self.lookup(here.ino(), &name).await? {
                Some(next) => next,
                None if make => self.make_dir(here.ino(), &name).await?,
                None => return Err(Error::new(ErrorKind::NotFound, "as_store.walk")),
            };
            if next.attr.kind != FileKind::Symlink {
                stack.push(next);
            } else if walk.follow(&self.vfs.readlink(next.ino()).await?)? {
                stack.truncate(1);
            }
        }
        Ok(stack)
    }

    /// The directory of a path that is to be written, from the root down, and the name in it.
    async fn place<'a>(&self, path: &'a QfsPath, make: bool) -> Result<(Vec<At>, &'a Name)> {
        check_by_place(path)?;
        let (name, dirs) = path.parts.split_last().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "as_store.place")
                .because("the path is the mount itself: name a file")
        })?;
        let stack = self.walk(dirs, make).await?;
        if stack.last().is_some_and(|dir| dir.attr.kind != FileKind::Dir) {
            return Err(Error::new(ErrorKind::NotDir, "as_store.place"));
        }
        Ok((stack, name))
    }

    /// Makes a directory and those above it that are missing, durably; one that is there already stays as it is.
    ///
    /// # Errors
    /// `NotDir` if something else is there; `InvalidArgument` for a path whose first part is a CID; those of
    /// [`Vfs::create`].
    pub async fn put_dir(&self, path: &QfsPath) -> Result<()> {
        let made = async {
            check_by_place(path)?;
            let stack = self.walk(&path.parts, true).await?;
            match stack.last() {
                Some(dir) if dir.attr.kind != FileKind::Dir => Err(Error::new(ErrorKind::NotDir, "as_store.put_dir")),
                _ => self.sync_dirs(&stack).await,
            }
        };
        made.await.map_err(|error| error.at(path))
    }

    /// Puts a symlink, durably and at one stroke; directories are made, and what is there and is none is replaced. The
    /// target is not looked at.
    ///
    /// # Errors
    /// `IsDir` if a directory is there; `InvalidArgument` for a path whose first part is a CID, the mount itself, or a
    /// target that no symlink can have.
    pub async fn put_symlink(&self, path: &QfsPath, target: Bytes) -> Result<()> {
        let put = async {
            let (dirs, name) = self.place(path, true).await?;
            let dir = dirs.last().ok_or_else(escapes)?;
            if self.lookup(dir.ino(), name).await?.is_some_and(|old| old.attr.kind == FileKind::Dir) {
                return Err(Error::new(ErrorKind::IsDir, "as_store.put_symlink"));
            }
            let unfinished = self.create_unfinished(dir, NewNode::Symlink(target), SetAttr::default()).await?;
            self.finish(unfinished, Ok(()), name, &dirs).await
        };
        put.await.map_err(|error| error.at(path))
    }

    /// Removes what puts left behind in a directory that were killed, once per directory. What fails is tried again by
    /// the next put; it does not hinder this one.
    async fn sweep(&self, dir: Ino) {
        let known = |swept: &Mutex<LruCache<Ino, ()>>, new: bool| {
            let mut swept = swept.lock().unwrap_or_else(PoisonError::into_inner);
            if new { swept.put(dir, ()).is_some() } else { swept.get(&dir).is_some() }
        };
        if known(&self.swept, false) {
            return;
        }
        match self.remove_leftovers(dir).await {
            Ok(()) => {
                known(&self.swept, true);
            }
            Err(error) => tracing::warn!(%error, "could not look for what killed puts left behind"),
        }
    }

    async fn remove_leftovers(&self, dir: Ino) -> Result<()> {
        let (mut after, mut seen, mut leftovers) = (Cookie::START, 0, Vec::new());
        loop {
            let page = self.vfs.readdir(dir, after, PAGE_COUNT, Listing::Names).await?;
            seen += page.entries.len();
            leftovers.extend(page.entries.iter().map(|entry| &entry.name).filter(|name| is_put_name(name)).cloned());
            match page.entries.last() {
                Some(last) if !page.eof && seen < SWEEP_ENTRY_COUNT_MAX => after = last.cookie,
                _ => break,
            }
        }
        for name in leftovers {
            let Some(found) = self.lookup(dir, &name).await? else { continue };
            let changed = found.attr.mtime.max(found.attr.ctime);
            // A clock that was set back makes it young: then it stays.
            let is_old = (self.env.now)().duration_since(changed).is_ok_and(|age| age >= PUT_AGE_MAX);
            if is_old && found.attr.kind != FileKind::Dir {
                let place = Place { dir, name: &name, expect: Some(found.ino()) };
                match self.vfs.remove(place, RemoveKind::NonDir).await {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.at(&name)),
                    _ => tracing::info!(%name, "removed what a killed put left behind"),
                }
            }
        }
        Ok(())
    }

    /// Makes a node under a name nobody has.
    async fn create_unfinished(&self, dir: &At, node: NewNode, set: SetAttr) -> Result<Unfinished> {
        self.sweep(dir.ino()).await;
        let mut tried = 0;
        loop {
            let mut random = [0; 8];
            (self.env.fill)(&mut random);
            let name = Name::new(format!("{PUT_PREFIX}{:016x}", u64::from_be_bytes(random)).as_bytes())?;
            tried += 1;
            match self.vfs.create(dir.ino(), &name, node.clone(), set.clone()).await {
                Ok(created) => {
                    let node = self.adopt(created.node).lease;
                    return Ok(Unfinished { vfs: self.vfs.clone(), dir: dir.lease.clone(), name: Some(name), node });
                }
                Err(error) if error.kind() == ErrorKind::Exists && tried < PUT_NAME_COUNT_MAX => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives what is whole its name, or removes it where `done` or that fails.
    async fn finish(&self, mut unfinished: Unfinished, done: Result<()>, name: &Name, dirs: &[At]) -> Result<()> {
        let done = match done {
            Ok(()) => unfinished.rename(name).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            unfinished.discard().await;
            return Err(error);
        }
        self.sync_dirs(dirs).await
    }

    /// A name is durable with its directory, and that one with the directory above: it may be new as well.
    async fn sync_dirs(&self, dirs: &[At]) -> Result<()> {
        for dir in dirs.iter().rev() {
            self.sync(dir.ino()).await?;
        }
        Ok(())
    }

    async fn put_at(&self, path: &QfsPath, source: Source) -> Result<()> {
        let source: Box<dyn AsyncRead + Send + Unpin> = match source {
            Source::Bytes(bytes) => Box::new(Cursor::new(bytes)),
            Source::Reader(reader) => reader,
            Source::LinkedData(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "as_store.put")
                    .because("this store holds files of bytes: put linked data into a content-addressed one"));
            }
        };
        let (dirs, name) = self.place(path, true).await?;
        let dir = dirs.last().ok_or_else(escapes)?;
        let mode = match self.lookup(dir.ino(), name).await? {
            Some(old) if old.attr.kind == FileKind::Dir => {
                return Err(Error::new(ErrorKind::IsDir, "as_store.put"));
            }
            Some(old) if old.attr.kind == FileKind::File => old.attr.mode & 0o777,
            _ => 0o644,
        };
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        let unfinished = self.create_unfinished(dir, NewNode::File, set).await?;
        let written = async {
            unfinished.write(source).await?;
            self.sync(unfinished.node.ino()).await
        };
        let written = written.await;
        self.finish(unfinished, written, name, &dirs).await
    }

    async fn delete_at(&self, path: &QfsPath) -> Result<bool> {
        let (dirs, name) = match self.place(path, false).await {
            Err(error) if is_absence(&error) => return Ok(false),
            found => found?,
        };
        let dir = dirs.last().ok_or_else(escapes)?;
        let removed = match self.lookup(dir.ino(), name).await? {
            None => false,
            Some(at) => {
                let kind = if at.attr.kind == FileKind::Dir { RemoveKind::Dir } else { RemoveKind::NonDir };
                match self.vfs.remove(Place { dir: dir.ino(), name, expect: None }, kind).await {
                    Ok(_) => true,
                    Err(error) if error.kind() == ErrorKind::NotFound => false,
                    Err(error) => return Err(error),
                }
            }
        };
        // Also where nothing was removed: a delete before this one may have failed to sync.
        self.vfs.sync(dir.ino()).await?;
        Ok(removed)
    }
}

/// Whether a name is that of a put under way, or of one that was killed.
fn is_put_name(name: &Name) -> bool {
    let digits = name.as_bytes().strip_prefix(PUT_PREFIX.as_bytes());
    digits.is_some_and(|digits| digits.len() == 16 && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// Refuses a path by content.
fn check_by_place(path: &QfsPath) -> Result<()> {
    match path.cid() {
        None => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::InvalidArgument, "as_store.place")
            .because("this store is addressed by location: a name that is a CID cannot be written here")),
    }
}

/// Whether an error says that there is nothing at a path.
fn is_absence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir)
}

#[async_trait]
impl Store for AsStore {
    fn kind(&self) -> Prefix {
        self.kind
    }

    fn addressing(&self) -> Addressing {
        Addressing::Location
    }

    async fn has(&self, path: &QfsPath) -> Result<bool> {
        match self.walk(&path.parts, false).await {
            Ok(_) => Ok(true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(error.at(path)),
        }
    }

    async fn open(&self, path: &QfsPath) -> Result<Box<dyn File>> {
        let mut stack = self.walk(&path.parts, false).await.map_err(|error| error.at(path))?;
        let At { lease, attr } = stack.pop().ok_or_else(escapes)?;
        let name = match path.parts.last() {
            Some(name) => name.clone(),
            None => Name::new(path.prefix.as_str().as_bytes())?,
        };
        let Attr { kind, size, mode, mtime, cid, .. } = attr;
        let info = FileInfo { name, kind, size, mode, mtime: Some(mtime), cid };
        Ok(Box::new(PlacedFile { vfs: self.vfs.clone(), lease, path: path.clone(), info }))
    }

    async fn put(&self, path: &QfsPath, source: Source) -> Result<QfsPath> {
        self.put_at(path, source).await.map_err(|error| error.at(path))?;
        Ok(path.clone())
    }

    async fn put_encrypted(&self, key: &SecretKey, path: &QfsPath, source: Source) -> Result<QfsPath> {
        let sealed = seal::source(key, source, &self.env).map_err(|error| error.at(path))?;
        self.put(path, sealed).await
    }

    async fn delete(&self, path: &QfsPath) -> Result<bool> {
        self.delete_at(path).await.map_err(|error| error.at(path))
    }
}

/// A file or symlink that is being put, under its temporary name. Dropped before it got its own, it is removed.
struct Unfinished {
    vfs: Arc<dyn Vfs>,
    dir: Lease,
    /// `None` once it has its own name or was discarded.
    name: Option<Name>,
    node: Lease,
}

impl Unfinished {
    async fn write(&self, mut source: impl AsyncRead + Send + Unpin) -> Result<()> {
        let mut offset = 0;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_LEN);
            (&mut source).take(CHUNK_LEN as u64).read_to_end(&mut chunk).await.map_err(|error| {
                Error::new(ErrorKind::Io, "as_store.put").because(format!("the source failed: {error}"))
            })?;
            if chunk.is_empty() {
                return Ok(());
            }
            let len = chunk.len() as u64;
            self.vfs.write(self.node.ino(), offset, chunk.into(), false).await?;
            offset += len;
        }
    }

    async fn rename(&mut self, to: &Name) -> Result<()> {
        let Some(name) = self.name.clone() else { return Ok(()) };
        let from = Place { dir: self.dir.ino(), name: &name, expect: Some(self.node.ino()) };
        let to = Place { dir: self.dir.ino(), name: to, expect: None };
        self.vfs.rename(from, to, RenameMode::Replace).await?;
        self.name = None;
        Ok(())
    }

    /// Removes the file; what went wrong before is what the caller will hear of.
    async fn discard(&mut self) {
        if let Some(name) = self.name.take() {
            remove_unfinished(&*self.vfs, self.dir.ino(), &name).await;
        }
    }
}

async fn remove_unfinished(vfs: &dyn Vfs, dir: Ino, name: &Name) {
    let place = Place { dir, name, expect: None };
    if let Err(error) = vfs.remove(place, RemoveKind::NonDir).await {
        tracing::warn!(%name, %error, "a put that failed left its temporary file behind");
    }
}

impl Drop for Unfinished {
    /// A put whose future is dropped half way cleans up behind itself, where there is a runtime left to do it.
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (vfs, dir) = (self.vfs.clone(), self.dir.clone());
        drop(runtime.spawn(async move {
            remove_unfinished(&*vfs, dir.ino(), &name).await;
            // The process may be about to end; else the name would be back with the next one.
            vfs.sync(dir.ino()).await.ok();
        }));
    }
}

/// A file opened by place. It keeps its node leased, so it can be read even after its name is gone.
#[derive(Debug)]
struct PlacedFile {
    vfs: Arc<dyn Vfs>,
    lease: Lease,
    path: QfsPath,
    info: FileInfo,
}

impl PlacedFile {
    /// The links of a directory: by name, the path of what stands there.
    async fn links(&self) -> Result<BTreeMap<String, Ipld>> {
        let mut links = BTreeMap::new();
        let mut after = Cookie::START;
        loop {
            let page = self.vfs.readdir(self.lease.ino(), after, PAGE_COUNT, Listing::Names).await?;
            for entry in &page.entries {
                let path = self.path.join(&entry.name).to_bytes();
                let path = String::from_utf8(path).map_or_else(|e| Ipld::Bytes(e.into_bytes().into()), Ipld::String);
                links.insert(link_key(&entry.name), path);
                after = entry.cookie;
            }
            if links.len() > LINK_COUNT_MAX {
                return Err(Error::new(ErrorKind::TooLarge, "as_store.linked_data")
                    .because("too many entries for one value: list the directory page by page"));
            }
            if page.eof || page.entries.is_empty() {
                return Ok(links);
            }
        }
    }
}

#[async_trait]
impl File for PlacedFile {
    fn info(&self) -> &FileInfo {
        &self.info
    }

    async fn read_at(&self, offset: u64, len: u32) -> Result<Bytes> {
        if self.info.kind == FileKind::Dir {
            return Err(Error::new(ErrorKind::IsDir, "as_store.read_at").at(&self.path));
        }
        let read = async |done: u32| {
            let bytes = self.vfs.read(self.lease.ino(), offset.saturating_add(done.into()), len - done).await;
            bytes.map_err(|error| error.at(&self.path))
        };
        let first = read(0).await?;
        if len <= READ_LEN_MAX || first.len() < READ_LEN_MAX as usize {
            return Ok(first);
        }
        let mut bytes = BytesMut::from(&*first);
        while let Some(done) = u32::try_from(bytes.len()).ok().filter(|done| *done < len) {
            let more = read(done).await?;
            if more.is_empty() {
                break;
            }
            bytes.extend_from_slice(&more);
        }
        Ok(bytes.freeze())
    }

    async fn linked_data(&self) -> Result<Option<Ipld>> {
        if self.info.kind != FileKind::Dir {
            return Ok(None);
        }
        self.links().await.map(|links| Some(Ipld::Map(links))).map_err(|error| error.at(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{env, model::ModelFs};

    fn store() -> std::future::Ready<Arc<dyn Store>> {
        std::future::ready(Arc::new(AsStore::new(Prefix::new("local").expect("a prefix"), ModelFs::new(env()), env())))
    }

    crate::store_laws!(laws_over_the_model, Location, store());

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    fn path(text: &str) -> QfsPath {
        text.parse().expect("a path")
    }

    /// A tree with symlinks of every sort, and a store over it.
    async fn linked() -> AsStore {
        let vfs: Arc<dyn Vfs> = ModelFs::new(env());
        let store = AsStore::new(Prefix::new("local").expect("a prefix"), vfs.clone(), env());
        store.put(&path("/local/a/b/file"), Source::from(&b"file"[..])).await.expect("put");
        let root = vfs.root();
        let dir = vfs.lookup(root, &name("a")).await.expect("a").ino;
        let links = [
            (root, "to-file", "a/b/file"),
            (root, "to-dir", "./a//b/"),
            (root, "absolute", "/a/b"),
            (dir, "up", "../a/b/file"),
            (dir, "out", "../../etc/passwd"),
            (root, "host", "/etc/passwd"),
            (root, "loop", "loop"),
            (root, "ping", "pong"),
            (root, "pong", "ping"),
            (root, "dangling", "nowhere"),
            (root, "chain-0", "a"),
        ];
        for (dir, link, target) in links {
            let target = NewNode::Symlink(Bytes::from_static(target.as_bytes()));
            vfs.create(dir, &name(link), target, SetAttr::default()).await.expect(link);
        }
        for i in 1..=41 {
            let target = NewNode::Symlink(format!("chain-{}", i - 1).into());
            vfs.create(root, &name(&format!("chain-{i}")), target, SetAttr::default()).await.expect("chain");
        }
        store
    }

    #[tokio::test]
    async fn symlinks_are_followed_within_the_mount_only() {
        let store = linked().await;
        let found: [(&str, Result<&str, ErrorKind>); 14] = [
            ("to-file", Ok("file")),
            ("to-dir/file", Ok("file")),
            ("absolute/file", Ok("file")),
            ("a/up", Ok("file")),
            ("chain-39/b/file", Ok("file")),
            ("chain-40/b/file", Err(ErrorKind::Loop)),
            ("a/out", Err(ErrorKind::InvalidArgument)),
            ("host", Err(ErrorKind::NotFound)),
            ("loop", Err(ErrorKind::Loop)),
            ("ping", Err(ErrorKind::Loop)),
            ("loop/x", Err(ErrorKind::Loop)),
            ("dangling", Err(ErrorKind::NotFound)),
            ("to-file/x", Err(ErrorKind::NotDir)),
            ("to-dir", Err(ErrorKind::IsDir)),
        ];
        for (at, expected) in found {
            let at = path(&format!("/local/{at}"));
            let read = match store.open(&at).await {
                Ok(file) => file.read_at(0, 99).await,
                Err(error) => Err(error),
            };
            let read = read.map_err(|error| error.kind());
            assert_eq!(read, expected.map(|text| Bytes::from_static(text.as_bytes())), "{at}");
            let has = store.has(&at).await.map_err(|error| error.kind());
            let is_there = match expected {
                Ok(_) | Err(ErrorKind::IsDir) => Ok(true),
                Err(ErrorKind::NotFound | ErrorKind::NotDir) => Ok(false),
                Err(kind) => Err(kind),
            };
            assert_eq!(has, is_there, "{at}");
        }
    }

    /// `put` and `delete` are about the name itself; on the way to it symlinks are followed, and never out.
    #[tokio::test]
    async fn a_symlink_at_the_end_is_replaced_and_removed_itself() {
        let store = linked().await;
        store.put(&path("/local/to-file"), Source::from(&b"own"[..])).await.expect("put");
        let opened = store.open(&path("/local/to-file")).await.expect("open");
        assert_eq!(opened.info().kind, FileKind::File);
        let target = store.open(&path("/local/a/b/file")).await.expect("open");
        assert_eq!(target.read_at(0, 99).await.expect("read"), "file", "what it pointed to is as it was");
        assert!(store.delete(&path("/local/dangling")).await.expect("delete"));
        assert!(store.delete(&path("/local/absolute")).await.expect("delete"));
        assert!(store.has(&path("/local/a/b/file")).await.expect("has"));
        store.put(&path("/local/to-dir/new"), Source::from(&b"new"[..])).await.expect("put through a link");
        assert!(store.has(&path("/local/a/b/new")).await.expect("has"));
        let error = store.put(&path("/local/a/out/x"), Source::from(&b"x"[..])).await.expect_err("leads out");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.path(), Some("/local/a/out/x"));
    }

    /// A file that is replaced keeps its permissions, but for setuid and setgid.
    #[tokio::test]
    async fn permissions_stay() {
        let vfs: Arc<dyn Vfs> = ModelFs::new(env());
        let store = AsStore::new(Prefix::new("local").expect("a prefix"), vfs.clone(), env());
        let at = path("/local/file");
        for (set, expected) in [(None, 0o644), (Some(0o600), 0o600), (Some(0o4755), 0o755)] {
            store.put(&at, Source::from(&b"x"[..])).await.expect("put");
            let ino = vfs.lookup(vfs.root(), &name("file")).await.expect("lookup").ino;
            vfs.setattr(ino, SetAttr { mode: set, ..SetAttr::default() }).await.expect("setattr");
            store.put(&at, Source::from(&b"y"[..])).await.expect("put");
            assert_eq!(store.open(&at).await.expect("open").info().mode, expected);
        }
    }

    #[tokio::test]
    async fn a_tree_is_put_by_place() {
        let vfs: Arc<dyn Vfs> = ModelFs::new(env());
        let store = AsStore::new(Prefix::new("local").expect("a prefix"), vfs.clone(), env());
        for _ in 0..2 {
            store.put_dir(&path("/local/a/b")).await.expect("made, or there");
            store.put_symlink(&path("/local/a/b/link"), "../c".into()).await.expect("put, or replaced");
        }
        store.put_dir(&path("/local")).await.expect("it is there");
        store.put(&path("/local/a/c"), Source::from(&b"x"[..])).await.expect("put");
        let (link, _) = crate::vfs::ext::walk(&vfs, vfs.root(), &path("/local/a/b/link").parts).await.expect("there");
        assert_eq!(vfs.readlink(link.ino()).await.expect("a link"), "../c");
        let (dir, _) = crate::vfs::ext::walk(&vfs, vfs.root(), &path("/local/a/b").parts).await.expect("there");
        let entries = crate::vfs::ext::list(&*vfs, dir.ino(), 10).await.expect("listed");
        assert_eq!(entries.len(), 1, "no temporary name stays");

        let cid = "/local/bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        let kinds = [
            (store.put_dir(&path("/local/a/c")).await, ErrorKind::NotDir),
            (store.put_dir(&path("/local/a/c/d")).await, ErrorKind::NotDir),
            (store.put_dir(&path(cid)).await, ErrorKind::InvalidArgument),
            (store.put_symlink(&path("/local/a/b"), "x".into()).await, ErrorKind::IsDir),
            (store.put_symlink(&path(cid), "x".into()).await, ErrorKind::InvalidArgument),
            (store.put_symlink(&path("/local"), "x".into()).await, ErrorKind::InvalidArgument),
            (store.put_symlink(&path("/local/e"), Bytes::new()).await, ErrorKind::InvalidArgument),
        ];
        for (index, (result, kind)) in kinds.into_iter().enumerate() {
            let error = result.expect_err("refused");
            assert_eq!(error.kind(), kind, "{index}");
            assert!(error.path().is_some(), "{index}: it names the path");
        }
    }

    /// A put that was killed left its temporary file behind for ever. The first put into the directory that finds it a
    /// day old removes it, and nothing that is younger or called otherwise.
    #[tokio::test]
    async fn what_killed_puts_left_behind_is_removed_a_day_later() {
        let clock = crate::testing::Clock::default();
        let vfs: Arc<dyn Vfs> = ModelFs::new(clock.env(1));
        let open = || AsStore::new(Prefix::new("local").expect("a prefix"), vfs.clone(), clock.env(2));
        let create = async |text: &str, node: NewNode| {
            vfs.create(vfs.root(), &name(text), node, SetAttr::default()).await.expect("create");
        };
        let names = async || {
            let entries = crate::vfs::ext::list(&*vfs, vfs.root(), 100).await.expect("listed");
            entries.into_iter().map(|entry| entry.name.to_string()).collect::<std::collections::BTreeSet<_>>()
        };
        let put = async |store: &AsStore| {
            store.put(&path("/local/file"), Source::from(&b"x"[..])).await.expect("put");
        };
        let kept = [".muxfs-put-0123", ".muxfs-put-0123456789abcdeF", ".muxfs-put-0123456789abcdef0", "notes"];
        for text in kept {
            create(text, NewNode::File).await;
        }
        create(".muxfs-put-00000000000000dd", NewNode::Dir).await;
        create(".muxfs-put-0123456789abcdef", NewNode::File).await;
        create(".muxfs-put-00000000000000aa", NewNode::Symlink("x".into())).await;
        clock.advance(PUT_AGE_MAX);
        create(".muxfs-put-00000000000000ee", NewNode::File).await;
        let mut expected: std::collections::BTreeSet<String> = kept.map(String::from).into();
        expected.extend([".muxfs-put-00000000000000dd", ".muxfs-put-00000000000000ee", "file"].map(String::from));
        let store = open();
        put(&store).await;
        assert_eq!(names().await, expected);
        clock.advance(PUT_AGE_MAX);
        put(&store).await;
        assert_eq!(names().await, expected, "a directory is looked through once");
        put(&open()).await;
        expected.remove(".muxfs-put-00000000000000ee");
        assert_eq!(names().await, expected);
    }

    /// A source that never ends, so that its put can be dropped half way.
    struct Endless;

    impl AsyncRead for Endless {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            if buf.remaining() < CHUNK_LEN {
                return std::task::Poll::Pending;
            }
            buf.put_slice(b"x");
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_put_that_is_dropped_leaves_nothing_behind() {
        let vfs: Arc<dyn Vfs> = ModelFs::new(env());
        let store = Arc::new(AsStore::new(Prefix::new("local").expect("a prefix"), vfs.clone(), env()));
        let names = async || {
            let page = vfs.readdir(vfs.root(), Cookie::START, 10, Listing::Names).await.expect("readdir");
            page.entries.len()
        };
        let putting = tokio::spawn({
            let store = store.clone();
            async move { store.put(&path("/local/file"), Source::Reader(Box::new(Endless))).await }
        });
        while names().await == 0 {
            tokio::task::yield_now().await;
        }
        putting.abort();
        assert!(putting.await.expect_err("dropped").is_cancelled());
        while names().await != 0 {
            tokio::task::yield_now().await;
        }
    }
}
