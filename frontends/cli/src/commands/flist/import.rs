//! `flist import`: what an flist describes as content of a mount, or under a name in a working tree.
//!
//! As content it is what `put -r` makes of the same tree: names, bytes and symlinks, and the CID that goes with them. Under
//! a name modes, times, pipes and sockets are kept too, and owners and devices where root imports, as `put -r` does; the
//! next commit has it all.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use muxfs::{
    Error, FileKind, Name, QfsPath, Result,
    dag::{self, Link},
    working::HISTORY_NAME,
};
use muxfs_flist::{Chunks, Entry, Flist, Inode, Sources};
use serde_json::json;

use super::{chunks_of, dir_at, open};
use crate::{
    args::FlistSources,
    namespace::{Durable, Input, Kept, Namespace, seconds},
    output::{Output, Progress, bytes, count},
};

/// How many files of a directory are read at once.
const FILES_AT_ONCE: usize = 8;
/// How many chunks of a file are fetched at once.
const CHUNKS_AT_ONCE: usize = 4;

/// An flist that is imported.
struct Import<'a> {
    flist: Arc<Flist>,
    chunks: Arc<Chunks>,
    sources: Arc<Sources>,
    namespace: &'a dyn Namespace,
    target: &'a QfsPath,
    is_root: bool,
    output: Output,
    progress: Progress,
    files: AtomicU64,
    bytes: Arc<AtomicU64>,
    skipped: AtomicU64,
}

/// Imports what `path` describes to `target`: a mount, or with `by_name` a name in a working tree; and prints its path.
pub(crate) async fn import(
    namespace: &dyn Namespace,
    path: &Path,
    sources: &FlistSources,
    (target, by_name): (&QfsPath, bool),
    output: Output,
) -> Result<()> {
    let flist = open(path)?;
    let (chunks, sources) = chunks_of(&flist, sources).await?;
    let import = Import {
        flist: Arc::new(flist),
        chunks: Arc::new(chunks),
        sources,
        namespace,
        target,
        is_root: rustix::process::geteuid().is_root(),
        output,
        progress: output.progress(None),
        files: AtomicU64::new(0),
        bytes: Arc::default(),
        skipped: AtomicU64::new(0),
    };
    let root = import.flist.root()?;
    if by_name {
        import.place_dir(target.clone(), root, 0).await?;
        return import.print(target);
    }
    // Until the pin, nothing else keeps what is imported.
    let _hold = namespace.hold(target.prefix, None).await?;
    let link = import.content_of_dir(b"/".to_vec(), root, 0).await?;
    namespace.pin(target.prefix, &link.cid).await?;
    import.print(&QfsPath::content(target.prefix, &link.cid))
}

impl Import<'_> {
    /// The bytes of a file, fetched as they are taken.
    fn input(&self, inode: &Inode) -> Input {
        let (flist, chunks, sources) = (self.flist.clone(), self.chunks.clone(), self.sources.clone());
        let (inode, progress, count) = (Arc::new(inode.clone()), self.progress.clone(), self.bytes.clone());
        let fetch = move |index: u64| {
            let (flist, chunks) = (flist.clone(), chunks.clone());
            let (sources, inode) = (sources.clone(), inode.clone());
            async move { chunks.read(&sources, &flist, &inode, index).await.transpose() }
        };
        let pieces = stream::iter(0..).map(fetch).buffered(CHUNKS_AT_ONCE);
        let pieces = pieces.take_while(|piece| std::future::ready(piece.is_some()));
        let pieces = pieces.filter_map(std::future::ready).map(move |piece: Result<Bytes>| {
            let piece = piece.map_err(io::Error::other)?;
            progress.add_bytes(piece.len() as u64);
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(piece)
        });
        Input::Stream(pieces.boxed())
    }

    fn count(&self) {
        let files = self.files.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.say(format!("{} files", count(files)));
    }

    fn skip(&self, path: &[u8], why: &str) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        self.output.notice(&format!("skipped {}: {why}", path.escape_ascii()));
    }

    fn content_of_dir(&self, path: Vec<u8>, dir: Inode, depth: usize) -> BoxFuture<'_, Result<Link>> {
        Box::pin(async move {
            let entries = dir_at(&self.flist, &dir, depth).map_err(|error| error.at(path.escape_ascii()))?;
            let (dirs, leaves): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| entry.inode.kind == FileKind::Dir);
            let path = &path;
            let leaves = stream::iter(leaves).map(|Entry { name, inode }| async move {
                let link = match inode.kind {
                    FileKind::File => self.namespace.import(self.target.prefix, self.input(&inode)).await,
                    FileKind::Symlink => self.namespace.import_symlink(self.target.prefix, inode.target.clone()).await,
                    _ => {
                        self.skip(&below(path, &name), "not a file, directory or symlink");
                        return Ok(None);
                    }
                };
                let link = link.map_err(|error| error.at(below(path, &name).escape_ascii()))?;
                self.count();
                Ok::<_, Error>(Some(dag::Entry { name, link }))
            });
            let leaves: Vec<_> = leaves.buffer_unordered(FILES_AT_ONCE).try_collect().await?;
            let mut entries: Vec<_> = leaves.into_iter().flatten().collect();
            for Entry { name, inode } in dirs {
                let link = self.content_of_dir([&below(path, &name)[..], b"/"].concat(), inode, depth + 1).await?;
                entries.push(dag::Entry { name, link });
            }
            self.namespace.import_dir(self.target.prefix, entries).await
        })
    }

    fn place_dir(&self, target: QfsPath, dir: Inode, depth: usize) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let entries = dir_at(&self.flist, &dir, depth).map_err(|error| error.at(&target))?;
            self.namespace.put_dir(&target, Durable::Now).await?;
            let (dirs, leaves): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| entry.inode.kind == FileKind::Dir);
            let at = &target;
            let leaves = stream::iter(leaves)
                .map(|Entry { name, inode }| async move { self.place_leaf(&at.join(&name), &name, &inode).await });
            leaves.buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
            for Entry { name, inode } in dirs {
                if self.can_be_given(at, &name) {
                    self.place_dir(at.join(&name), inode, depth + 1).await?;
                }
            }
            // Last: what was put into it moved its time.
            self.keep(at, &dir).await
        })
    }

    fn can_be_given(&self, at: &QfsPath, name: &Name) -> bool {
        let is_taken = name.as_bytes() == HISTORY_NAME.as_bytes();
        if is_taken {
            self.skip(&at.join(name).to_bytes(), "in a working tree the name means the history");
        }
        !is_taken
    }

    async fn place_leaf(&self, target: &QfsPath, name: &Name, inode: &Inode) -> Result<()> {
        if name.as_bytes() == HISTORY_NAME.as_bytes() {
            self.skip(&target.to_bytes(), "in a working tree the name means the history");
            return Ok(());
        }
        match inode.kind {
            FileKind::File => drop(self.namespace.put(target, self.input(inode), Durable::Now).await?),
            FileKind::Symlink => self.namespace.put_symlink(target, inode.target.clone(), Durable::Now).await?,
            FileKind::CharDevice | FileKind::BlockDevice if !self.is_root => {
                self.skip(&target.to_bytes(), "only root imports devices");
                return Ok(());
            }
            kind => {
                let rdev = (inode.rdev.major, inode.rdev.minor);
                self.namespace.put_node(target, kind.into(), rdev, Durable::Now).await?;
            }
        }
        self.count();
        self.keep(target, inode).await
    }

    /// Gives what was put what the flist says of it.
    async fn keep(&self, target: &QfsPath, inode: &Inode) -> Result<()> {
        let kept = Kept {
            mode: (inode.kind != FileKind::Symlink).then_some(inode.mode),
            mtime: seconds(inode.mtime),
            owner: self.is_root.then_some((inode.uid, inode.gid)),
            holes: Vec::new(),
            xattrs: Vec::new(),
        };
        self.namespace.keep(target, &kept, Durable::Now).await
    }

    fn print(&self, path: &QfsPath) -> Result<()> {
        let (files, len) = (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let skipped = self.skipped.load(Ordering::Relaxed);
        if !self.output.json {
            let note = if skipped == 0 { String::new() } else { format!(", {} skipped", count(skipped)) };
            self.output.notice(&format!("{} files, {}{note}", count(files), bytes(len)));
        }
        let text = path.to_string();
        let cid = path.cid().map(|cid| cid.to_string());
        let value = json!({ "path": text, "cid": cid, "files": files, "bytes": len, "skipped": skipped });
        self.output.result(text.as_bytes(), &value)
    }
}

/// The path of a name in a directory, whose own ends in a slash.
fn below(dir: &[u8], name: &Name) -> Vec<u8> {
    [dir, name.as_bytes()].concat()
}
