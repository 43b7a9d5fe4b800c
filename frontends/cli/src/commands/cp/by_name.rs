//! Copies of what has a name, or to a name: nodes are read one by one, as any client reads them.
//!
//! One walk serves two ends: under a name, where each file and symlink takes its place at one stroke, and into content.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use muxfs::{
    Cid, Error, ErrorKind, FileKind, Name, QfsPath, Result, Source, Store as _,
    dag::{Dag, Entry, Link, UnixfsMeta},
    path::PATH_PART_COUNT_MAX,
    vfs::{Attr, Cookie, DirPage, Lease, Listing, Vfs, as_store::AsStore},
    working::HISTORY_NAME,
};
use tokio_util::io::StreamReader;

use super::Told;
use crate::{
    commands::put::FILES_AT_ONCE,
    instance::Instance,
    namespace::{Durable, Kept, Kind, Namespace as _, Place, Stat, seconds},
};

/// How much of a file is asked for at once, in bytes, and how many such pieces ahead.
const READ_LEN: u64 = 1 << 20;
const READ_AHEAD: usize = 4;
/// How many entries of a directory are asked for at once.
const PAGE_LEN: usize = 1024;

/// Makes `target` what `source` is; a directory that is there gets what the source has, and keeps what else it has. In a
/// working tree what has a name keeps its mode and its time.
pub(super) async fn put(
    instance: &Instance,
    source: &QfsPath,
    target: &QfsPath,
    is_tree: bool,
    told: &Arc<Told>,
) -> Result<()> {
    let store = instance.by_place(target, Durable::Now).await?;
    if source.prefix == target.prefix && target.parts.starts_with(&source.parts) {
        let why = "the target is in the source: it would be copied into itself";
        return Err(Error::new(ErrorKind::InvalidArgument, "cp").at(target).because(why));
    }
    let keeps = is_tree && source.cid().is_none();
    let end = Placed { instance, store, target, is_tree, keeps };
    Walk { instance, source, told, end }.run().await.map(drop)
}

/// Puts what `source` is as content, neither durable nor pinned; its CID.
pub(super) async fn import(instance: &Instance, source: &QfsPath, dag: &Dag, told: &Arc<Told>) -> Result<Cid> {
    let made = Walk { instance, source, told, end: Imported { dag } }.run().await?;
    made.map(|link| link.cid).ok_or_else(|| {
        let why = "it is neither a file nor a directory nor a symlink";
        Error::new(ErrorKind::Unsupported, "cp").at(source).because(why)
    })
}

/// What a walk comes to.
struct Node {
    lease: Lease,
    attr: Attr,
    /// The names that lead to it below the source.
    below: Vec<Name>,
}

/// Where the nodes go.
#[async_trait]
trait End: Send + Sync {
    /// What a directory is made of.
    type Made: Send;
    /// Why a name cannot be given there, if it cannot.
    fn refused(&self, name: &Name) -> Option<&'static str>;
    async fn begin_dir(&self, dir: &Node) -> Result<()>;
    /// Puts a file; whether it had to be, or was there.
    async fn file(&self, file: &Node, bytes: Pieces) -> Result<(Self::Made, bool)>;
    async fn symlink(&self, symlink: &Node, target: Bytes) -> Result<(Self::Made, bool)>;
    async fn end_dir(&self, dir: &Node, entries: Vec<(Name, Self::Made)>) -> Result<Self::Made>;
}

struct Walk<'a, E> {
    instance: &'a Instance,
    source: &'a QfsPath,
    told: &'a Arc<Told>,
    end: E,
}

/// What became of an entry.
enum Met<M> {
    Dir(Name),
    Made(Name, M),
    Nothing,
}

impl<E: End> Walk<'_, E> {
    async fn run(&self) -> Result<Option<E::Made>> {
        let (lease, attr) = self.instance.walk(&Place::Path(self.source.clone())).await?;
        let node = Node { lease, attr, below: Vec::new() };
        if node.attr.kind == FileKind::Dir {
            return self.dir(node).await.map(Some);
        }
        self.leaf(&node).await
    }

    fn path(&self, below: &[Name]) -> QfsPath {
        QfsPath { prefix: self.source.prefix, parts: [&self.source.parts[..], below].concat() }
    }

    fn dir(&self, dir: Node) -> BoxFuture<'_, Result<E::Made>> {
        Box::pin(async move {
            if self.source.parts.len() + dir.below.len() > PATH_PART_COUNT_MAX {
                let error = Error::new(ErrorKind::NameTooLong, "cp");
                let why = format!("a path has at most {PATH_PART_COUNT_MAX} parts");
                return Err(error.at(self.path(&dir.below)).because(why));
            }
            self.end.begin_dir(&dir).await?;
            let (mut made, mut dirs, mut after) = (Vec::new(), Vec::new(), Cookie::START);
            loop {
                let page = self.page(&dir, after).await?;
                let next = page.entries.last().map(|entry| entry.cookie);
                let met = stream::iter(page.entries).map(|entry| self.entry(&dir, entry.name));
                let mut met = met.buffer_unordered(FILES_AT_ONCE);
                while let Some(met) = met.try_next().await? {
                    match met {
                        Met::Dir(name) => dirs.push(name),
                        Met::Made(name, entry) => made.push((name, entry)),
                        Met::Nothing => {}
                    }
                }
                match next {
                    Some(next) if !page.eof => after = next,
                    _ => break,
                }
            }
            for name in dirs {
                let Some(node) = self.node(&dir, &name).await? else { continue };
                made.push((name, self.dir(node).await?));
            }
            self.end.end_dir(&dir, made).await
        })
    }

    /// What an entry is; nothing where it went since it was listed, which content does not.
    async fn node(&self, dir: &Node, name: &Name) -> Result<Option<Node>> {
        let below = [&dir.below[..], std::slice::from_ref(name)].concat();
        let mut found = self.instance.vfs.lookup(dir.lease.ino(), name).await;
        if found.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) && self.source.cid().is_none() {
            // So is what is there, but of which a block is lost.
            if !self.is_listed(dir, name).await? {
                return Ok(None);
            }
            // Or it came back meanwhile.
            found = self.instance.vfs.lookup(dir.lease.ino(), name).await;
        }
        let attr = found.map_err(|error| error.at(self.path(&below)))?;
        let lease = Lease::adopt(self.instance.vfs.clone(), attr.ino);
        Ok(Some(Node { lease, attr, below }))
    }

    /// Whether a directory has a name now.
    async fn is_listed(&self, dir: &Node, name: &Name) -> Result<bool> {
        let mut after = Cookie::START;
        loop {
            let page = self.page(dir, after).await?;
            if page.entries.iter().any(|entry| entry.name == *name) {
                return Ok(true);
            }
            match page.entries.last() {
                Some(last) if !page.eof => after = last.cookie,
                _ => return Ok(false),
            }
        }
    }

    async fn page(&self, dir: &Node, after: Cookie) -> Result<DirPage> {
        let page = self.instance.vfs.readdir(dir.lease.ino(), after, PAGE_LEN, Listing::Names).await;
        page.map_err(|error| error.at(self.path(&dir.below)))
    }

    /// Copies what an entry is, but for a directory, which comes after the rest.
    async fn entry(&self, dir: &Node, name: Name) -> Result<Met<E::Made>> {
        let Some(node) = self.node(dir, &name).await? else { return Ok(Met::Nothing) };
        if let Some(why) = self.end.refused(&name) {
            self.told.skip(&self.path(&node.below), why).await;
            return Ok(Met::Nothing);
        }
        if node.attr.kind == FileKind::Dir {
            return Ok(Met::Dir(name));
        }
        Ok(self.leaf(&node).await?.map_or(Met::Nothing, |made| Met::Made(name, made)))
    }

    async fn leaf(&self, node: &Node) -> Result<Option<E::Made>> {
        let (made, is_new) = match node.attr.kind {
            FileKind::File => {
                let pieces = Pieces::of(&self.instance.vfs, node, self.told);
                let failed = pieces.failed.clone();
                let made = self.end.file(node, pieces).await;
                // What is wrong with the source is told by who reads it.
                let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
                made.map_err(|error| failed.map_or(error, |failed| failed.at(self.path(&node.below))))?
            }
            FileKind::Symlink => {
                let target = self.instance.vfs.readlink(node.lease.ino()).await;
                let target = target.map_err(|error| error.at(self.path(&node.below)))?;
                self.end.symlink(node, target).await?
            }
            _ => {
                self.told.skip(&self.path(&node.below), "not a file, directory or symlink").await;
                return Ok(None);
            }
        };
        self.told.add(if is_new { &self.told.moved } else { &self.told.there }, 1);
        Ok(Some(made))
    }
}

/// The bytes of a file, as they are read.
struct Pieces {
    stream: BoxStream<'static, io::Result<Bytes>>,
    /// Why no more of them came.
    failed: Arc<Mutex<Option<Error>>>,
}

impl Pieces {
    fn of(vfs: &Arc<dyn Vfs>, node: &Node, told: &Arc<Told>) -> Self {
        let (lease, size, vfs, told) = (node.lease.clone(), node.attr.size, vfs.clone(), told.clone());
        let failed: Arc<Mutex<Option<Error>>> = Arc::default();
        let slot = failed.clone();
        let step = usize::try_from(READ_LEN).unwrap_or(usize::MAX);
        let read = move |offset: u64| {
            let (lease, vfs) = (lease.clone(), vfs.clone());
            async move {
                let len = READ_LEN.min(size - offset);
                let piece = vfs.read(lease.ino(), offset, u32::try_from(len).unwrap_or(u32::MAX)).await?;
                if (piece.len() as u64) < len {
                    let why = "it became shorter while it was read: copy it again";
                    return Err(Error::new(ErrorKind::Unavailable, "cp.read").because(why));
                }
                Ok(piece)
            }
        };
        let stream =
            stream::iter((0..size).step_by(step)).map(read).buffered(READ_AHEAD).map(move |piece| match piece {
                Ok(piece) => {
                    told.add(&told.bytes, piece.len() as u64);
                    Ok(piece)
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    Err(io::Error::other(text))
                }
            });
        Self { stream: stream.boxed(), failed }
    }
}

/// Under a name.
struct Placed<'a> {
    instance: &'a Instance,
    store: Arc<AsStore>,
    target: &'a QfsPath,
    is_tree: bool,
    keeps: bool,
}

impl Placed<'_> {
    fn path(&self, node: &Node) -> QfsPath {
        QfsPath { prefix: self.target.prefix, parts: [&self.target.parts[..], &node.below].concat() }
    }

    async fn there(&self, path: &QfsPath) -> Result<Option<Stat>> {
        match self.instance.stat(&Place::Path(path.clone())).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether what is there has the mode and the time of its source, which are given last.
    fn is_kept(&self, node: &Node, there: &Stat) -> bool {
        let has_mode = node.attr.kind == FileKind::Symlink || there.mode == node.attr.mode;
        self.keeps && has_mode && there.mtime == Some(seconds(node.attr.mtime))
    }

    async fn keep(&self, node: &Node, path: &QfsPath) -> Result<()> {
        if !self.keeps || self.there(path).await?.is_some_and(|there| self.is_kept(node, &there)) {
            return Ok(());
        }
        let mode = (node.attr.kind != FileKind::Symlink).then_some(node.attr.mode);
        let mtime = seconds(node.attr.mtime);
        let kept = Kept { mode, mtime, owner: None, holes: Vec::new(), xattrs: Vec::new() };
        self.instance.keep(path, &kept, Durable::Now).await
    }
}

#[async_trait]
impl End for Placed<'_> {
    type Made = ();

    fn refused(&self, name: &Name) -> Option<&'static str> {
        let is_taken = self.is_tree && name.as_bytes() == HISTORY_NAME.as_bytes();
        is_taken.then_some("in a working tree the name means the history")
    }

    async fn begin_dir(&self, dir: &Node) -> Result<()> {
        self.store.put_dir(&self.path(dir)).await
    }

    async fn file(&self, file: &Node, bytes: Pieces) -> Result<((), bool)> {
        let path = self.path(file);
        let there = self.there(&path).await?.filter(|there| there.kind == Kind::File);
        let is_new = there.is_none_or(|there| match (there.cid, file.attr.cid) {
            (Some(there), Some(cid)) => there != cid,
            // Who changes a file and gives it its time again would have to be read to be found out.
            _ => there.size != file.attr.size || !self.is_kept(file, &there),
        });
        if is_new {
            self.store.put(&path, Source::Reader(Box::new(StreamReader::new(bytes.stream)))).await?;
        }
        self.keep(file, &path).await?;
        Ok(((), is_new))
    }

    async fn symlink(&self, symlink: &Node, target: Bytes) -> Result<((), bool)> {
        let path = self.path(symlink);
        let is_new = self.there(&path).await?.is_none_or(|there| there.target.as_ref() != Some(&target));
        if is_new {
            self.store.put_symlink(&path, target).await?;
        }
        self.keep(symlink, &path).await?;
        Ok(((), is_new))
    }

    async fn end_dir(&self, dir: &Node, _entries: Vec<(Name, ())>) -> Result<()> {
        // Last: what was put into it moved its time.
        self.keep(dir, &self.path(dir)).await
    }
}

/// Into content.
struct Imported<'a> {
    dag: &'a Dag,
}

#[async_trait]
impl End for Imported<'_> {
    type Made = Link;

    fn refused(&self, _name: &Name) -> Option<&'static str> {
        None
    }

    async fn begin_dir(&self, _dir: &Node) -> Result<()> {
        Ok(())
    }

    async fn file(&self, _file: &Node, bytes: Pieces) -> Result<(Link, bool)> {
        Ok((self.dag.import(StreamReader::new(bytes.stream), UnixfsMeta::default()).await?, true))
    }

    async fn symlink(&self, _symlink: &Node, target: Bytes) -> Result<(Link, bool)> {
        Ok((self.dag.put_symlink(&target, UnixfsMeta::default()).await?, true))
    }

    async fn end_dir(&self, _dir: &Node, entries: Vec<(Name, Link)>) -> Result<Link> {
        let entries = entries.into_iter().map(|(name, link)| Ok(Entry { name, link }));
        self.dag.put_dir(stream::iter(entries).boxed()).await
    }
}
