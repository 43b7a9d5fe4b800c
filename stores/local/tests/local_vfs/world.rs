//! A root directory, something outside of it, and the file system on top.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{
    ErrorKind, Name, Result,
    vfs::{Attr, Cookie, DirEntry, Ino, Listing, NewNode, Place, RemoveKind, SetAttr, Vfs},
};
use muxfs_local::{LocalOptions, LocalVfs};

/// `dir/root` is served, `dir/outside` must never be touched, `dir/handles` is the table.
#[derive(Debug)]
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) vfs: Arc<LocalVfs>,
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// What a call that must fail failed with.
pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("it must fail").kind()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(LocalOptions::default())
    }

    pub(crate) fn with(options: LocalOptions) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("root")).expect("the root");
        std::fs::create_dir(dir.path().join("outside")).expect("the outside");
        let vfs = LocalVfs::open(&dir.path().join("root"), &dir.path().join("handles"), options).expect("it opens");
        Self { dir, vfs }
    }

    /// Opens it again, as after a restart. Nothing of ours runs at the end of the first.
    pub(crate) fn restarted(self) -> Self {
        let Self { dir, vfs } = self;
        drop(vfs);
        let root = dir.path().join("root");
        let vfs = LocalVfs::open(&root, &dir.path().join("handles"), LocalOptions::default()).expect("it opens");
        Self { dir, vfs }
    }

    /// A path of the host below the root.
    pub(crate) fn host(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    pub(crate) fn outside(&self, path: &str) -> PathBuf {
        self.dir.path().join("outside").join(path)
    }

    pub(crate) fn top(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn root(&self) -> Ino {
        self.vfs.root()
    }

    pub(crate) async fn lookup(&self, dir: Ino, text: &str) -> Result<Attr> {
        self.vfs.lookup(dir, &name(text)).await
    }

    /// Makes a node with what it has by default.
    pub(crate) async fn make(&self, dir: Ino, text: &str, node: NewNode) -> Attr {
        self.vfs.create(dir, &name(text), node, SetAttr::default()).await.expect("it is made").node
    }

    pub(crate) async fn file(&self, dir: Ino, text: &str, content: &'static str) -> Attr {
        let made = self.make(dir, text, NewNode::File).await;
        self.vfs.write(made.ino, 0, content.into(), false).await.expect("it is written").after
    }

    pub(crate) async fn text(&self, ino: Ino) -> Result<String> {
        let bytes = self.vfs.read(ino, 0, 1 << 20).await?;
        Ok(String::from_utf8(bytes.to_vec()).expect("text"))
    }

    pub(crate) async fn remove(&self, dir: Ino, text: &str, kind: RemoveKind) -> Result<Attr> {
        let name = name(text);
        let place = Place { dir, name: &name, expect: None };
        self.vfs.remove(place, kind).await.map(|removed| removed.node)
    }

    /// Every entry, taken `count` at a time.
    pub(crate) async fn list(&self, dir: Ino, count: usize, listing: Listing) -> Vec<DirEntry> {
        let mut all = vec![];
        let mut after = Cookie::START;
        loop {
            let page = self.vfs.readdir(dir, after, count, listing).await.expect("a page");
            assert!(page.eof || !page.entries.is_empty(), "an empty page is the last");
            after = page.entries.last().map_or(after, |entry| entry.cookie);
            all.extend(page.entries);
            if page.eof {
                return all;
            }
        }
    }
}
