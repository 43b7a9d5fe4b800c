//! A repository: files and directories by path over any store of blocks, for programs that embed them.
//!
//! Sits on a [`Tree`], which it shares with whoever else has it (a frontend serves the same one), and adds nothing to what
//! is kept: paths instead of inode numbers, [`OpenFile`] for what reads and writes streams, and the versions of a file.
//! What encrypts or packs the blocks is a [`BlockStore`] below it, with keys and passwords of its own.
//!
//! Paths are names with slashes between them, from the root; one at the beginning may be there or not. No symlink is
//! followed, and there is no `.` nor `..`. Names are bytes.

mod open_file;
#[cfg(test)]
mod tests;
mod way;

use std::sync::Arc;

use bytes::Bytes;

pub use self::open_file::OpenFile;
use self::way::parse;
use crate::{
    BlockStore, Cid, Error, ErrorKind, FileKind, Name, Result,
    dag::{Dag, DagOptions, GcOptions, GcReport},
    heads::Heads,
    media::Media,
    tree::{History, KeptCommit, Transaction, Tree, TreeOptions, Version},
    vfs::{Attr, Cookie, FsStat, Lease, Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs},
};

/// How many entries are asked for at a time.
const PAGE_COUNT: usize = 1024;
/// The same, of what is about to be removed: where a directory is met, the others are asked for again.
const REMOVE_COUNT: usize = 64;
/// So much of a file is read at one moment.
const READ_LEN: u32 = 1 << 20;
/// So much, about, is written at a time, in bytes.
const WRITE_LEN: usize = 1 << 20;

/// Files and directories by path, in a [`Tree`]. Clones share it.
///
/// What a call changed is seen by all when it returns, and durable after [`Repo::sync`]. [`Repo::transaction`] makes many
/// changes one; [`Repo::commit`] makes a version of all.
///
/// ```
/// use std::sync::Arc;
/// use muxfs::{Name, block::Mem, heads::MemHeads, media::MemMedia, repo::Repo, testing, tree::TreeOptions};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (blocks, journal, heads) = (Arc::new(Mem::default()), Arc::new(MemMedia::default()), Arc::new(MemHeads::default()));
/// let options = TreeOptions::new(Name::new(b"notes")?, testing::env());
/// let repo = Repo::create(blocks, journal, heads, options).await?;
/// repo.create_dir_all("/2026/november").await?;
/// repo.write("/2026/november/23", "hello").await?;
/// repo.transaction(|repo| async move {
///     repo.rename("/2026/november/23", "/2026/november/22").await?;
///     repo.write("/2026/november/23", "hello again").await
/// })
/// .await?;
/// repo.commit("two days").await?;
/// assert_eq!(repo.read("/2026/november/22").await?, "hello");
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Repo {
    tree: Tree,
    history: Arc<History>,
    /// The tree, or a transaction of it.
    vfs: Arc<dyn Vfs>,
    transaction: Option<Transaction>,
}

/// Keeps the transaction that it is in from being committed if it goes before it is whole: a change that fails, or that nobody
/// waits for any more, has been made in part.
struct Partial<'a>(Option<&'a Transaction>);

impl Partial<'_> {
    fn made_whole(mut self) {
        self.0 = None;
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if let Some(transaction) = self.0 {
            transaction.spoil();
        }
    }
}

/// What [`Repo::read_dir`] lists.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// Its name in the directory.
    pub name: Name,
    /// What it is.
    pub metadata: Attr,
}

impl Repo {
    /// Makes a repository that is empty.
    ///
    /// `blocks` holds the content, `journal` what changed since the last commit, `heads` the name of that; all three
    /// belong to it alone while it is open.
    ///
    /// # Errors
    /// `Exists` where there is one of that name in `heads`; those of [`Tree::open`].
    pub async fn create(
        blocks: Arc<dyn BlockStore>,
        journal: Arc<dyn Media>,
        heads: Arc<dyn Heads>,
        options: TreeOptions,
    ) -> Result<Self> {
        if heads.load(&options.head).await?.is_some() {
            return Err(Error::new(ErrorKind::Exists, "repo.create").at(&options.head));
        }
        let dag = Dag::new(blocks, DagOptions::default());
        Tree::open(dag, journal, heads, options).await.map(Self::new)
    }

    /// Opens a repository that was made before: as it was at some moment, no older than the last sync.
    ///
    /// # Errors
    /// `NotFound` where there is none; those of [`Tree::open`].
    pub async fn open(
        blocks: Arc<dyn BlockStore>,
        journal: Arc<dyn Media>,
        heads: Arc<dyn Heads>,
        options: TreeOptions,
    ) -> Result<Self> {
        if heads.load(&options.head).await?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, "repo.open").at(&options.head));
        }
        let dag = Dag::new(blocks, DagOptions::default());
        Tree::open(dag, journal, heads, options).await.map(Self::new)
    }

    /// A repository in a tree that was opened elsewhere, over whatever store.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Name, block, dag::{Dag, DagOptions}, heads::MemHeads, media::MemMedia, testing};
    /// # use muxfs::{repo::Repo, tree::{Tree, TreeOptions}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// # let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await?;
    /// let repo = Repo::new(tree);
    /// assert!(repo.read_dir("/").await?.is_empty());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(tree: Tree) -> Self {
        let history = Arc::new(History::new(tree.clone()));
        Self { vfs: Arc::new(tree.clone()), tree, history, transaction: None }
    }

    /// The tree below: to serve it by a frontend, name snapshots, check it out. Calls of it are in no transaction.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// All bytes of a file, in memory, as they were at one moment.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `IsDir`; `Unavailable` where a file of 1 MiB or more changed a hundred times while it was read;
    /// those of the stores below.
    pub async fn read(&self, path: impl AsRef<[u8]> + Send) -> Result<Bytes> {
        let names = parse(path.as_ref())?;
        if self.transaction.is_some() {
            return self.read_pieces(&names).await;
        }
        let (file, attr) = self.file_at(&names, "repo.read").await?;
        if attr.size < u64::from(READ_LEN) {
            let bytes = self.vfs.read(file.ino(), 0, READ_LEN).await?;
            if bytes.len() < READ_LEN as usize {
                return Ok(bytes);
            }
        }
        drop(file);
        self.transaction(|repo| {
            let names = names.clone();
            async move { repo.read_pieces(&names).await }
        })
        .await
    }

    /// Makes `data` all that a file has; where there is none, it is made. One change: in a transaction in which it failed after
    /// it began, nothing can be committed.
    ///
    /// # Errors
    /// `NotFound` where the directory is not there; `IsDir`; those of a change.
    pub async fn write(&self, path: impl AsRef<[u8]> + Send, data: impl Into<Bytes> + Send) -> Result<()> {
        let (names, data) = (parse(path.as_ref())?, data.into());
        self.at_once(|repo| {
            let (names, data) = (names.clone(), data.clone());
            async move {
                let file = repo.empty_file(&names, "repo.write").await?;
                let (partial, step) = (repo.partial(), repo.step());
                for at in (0..data.len()).step_by(step) {
                    let piece = data.slice(at..data.len().min(at + step));
                    repo.vfs.write(file.ino(), at as u64, piece, false).await?;
                }
                partial.made_whole();
                Ok(())
            }
        })
        .await
    }

    /// Opens a file that is there, to read and to write.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `IsDir`.
    pub async fn open_file(&self, path: impl AsRef<[u8]> + Send) -> Result<OpenFile> {
        let (file, _) = self.file_at(&parse(path.as_ref())?, "repo.open_file").await?;
        Ok(OpenFile::of_node(Arc::clone(&self.vfs), file, self.step()))
    }

    /// Opens a file that is empty: a new one, or the one that is there, whose bytes go.
    ///
    /// # Errors
    /// `NotFound` where the directory is not there; `IsDir`; those of a change.
    pub async fn create_file(&self, path: impl AsRef<[u8]> + Send) -> Result<OpenFile> {
        let file = self.empty_file(&parse(path.as_ref())?, "repo.create_file").await?;
        Ok(OpenFile::of_node(Arc::clone(&self.vfs), file, self.step()))
    }

    /// Makes a file the same as another, with its permissions, but never set-user-ID, set-group-ID or sticky; the blocks are
    /// shared. One change, as `write`.
    ///
    /// # Errors
    /// `NotFound`, `IsDir`; those of a change.
    pub async fn copy(&self, from: impl AsRef<[u8]> + Send, to: impl AsRef<[u8]> + Send) -> Result<()> {
        let (from, to) = (parse(from.as_ref())?, parse(to.as_ref())?);
        self.at_once(|repo| {
            let (from, to) = (from.clone(), to.clone());
            async move {
                let (source, attr) = repo.file_at(&from, "repo.copy").await?;
                if repo.lookup(&to).await?.is_some_and(|(found, _)| found.ino() == source.ino()) {
                    return Ok(());
                }
                let target = repo.empty_file(&to, "repo.copy").await?;
                let partial = repo.partial();
                // The owner is not that of the other: what runs as its owner would run as this one's.
                let set = SetAttr { mode: Some(attr.mode & 0o777), ..SetAttr::default() };
                repo.vfs.setattr(target.ino(), set).await?;
                if attr.size > 0 {
                    repo.vfs.copy_range((source.ino(), 0), (target.ino(), 0), attr.size).await?;
                }
                partial.made_whole();
                Ok(())
            }
        })
        .await
    }

    /// Gives a file or directory another name, elsewhere too; what has that name already is replaced, if it is a file for
    /// a file or an empty directory for a directory.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `IsDir`, `NotDir`; `InvalidArgument` for a directory that would move into itself.
    pub async fn rename(&self, from: impl AsRef<[u8]> + Send, to: impl AsRef<[u8]> + Send) -> Result<()> {
        let (from, to) = (parse(from.as_ref())?, parse(to.as_ref())?);
        let ((from_dir, from), (to_dir, to)) =
            (self.above(&from, "repo.rename").await?, self.above(&to, "repo.rename").await?);
        let from = Place { dir: from_dir.ino(), name: from, expect: None };
        let to = Place { dir: to_dir.ino(), name: to, expect: None };
        self.vfs.rename(from, to, RenameMode::Replace).await.map(drop)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `Exists`; `NotFound` where the one above is not there.
    pub async fn create_dir(&self, path: impl AsRef<[u8]> + Send) -> Result<()> {
        let names = parse(path.as_ref())?;
        let (dir, name) = self.above(&names, "repo.create_dir").await?;
        let made = self.vfs.create(dir.ino(), name, NewNode::Dir, SetAttr::default()).await?;
        self.vfs.release(made.node.ino, 1);
        Ok(())
    }

    /// Makes a directory, and all above it, where they are not there.
    ///
    /// # Errors
    /// `NotDir` where something else is in the way.
    pub async fn create_dir_all(&self, path: impl AsRef<[u8]> + Send) -> Result<()> {
        let mut at = self.root();
        for name in parse(path.as_ref())? {
            let attr = match self.vfs.lookup(at.ino(), &name).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    match self.vfs.create(at.ino(), &name, NewNode::Dir, SetAttr::default()).await {
                        Ok(made) => Ok(made.node),
                        // Somebody was faster.
                        Err(error) if error.kind() == ErrorKind::Exists => self.vfs.lookup(at.ino(), &name).await,
                        Err(error) => Err(error),
                    }
                }
                found => found,
            }?;
            at = self.lease(attr.ino);
            if attr.kind != FileKind::Dir {
                return Err(Error::new(ErrorKind::NotDir, "repo.create_dir_all").at(&name));
            }
        }
        Ok(())
    }

    /// Removes the name of a file, or of anything else but a directory.
    ///
    /// # Errors
    /// `NotFound`, `IsDir`.
    pub async fn remove_file(&self, path: impl AsRef<[u8]> + Send) -> Result<()> {
        self.remove(path.as_ref(), RemoveKind::NonDir, "repo.remove_file").await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NotEmpty`.
    pub async fn remove_dir(&self, path: impl AsRef<[u8]> + Send) -> Result<()> {
        self.remove(path.as_ref(), RemoveKind::Dir, "repo.remove_dir").await
    }

    /// Removes a directory and all below it, name by name; in a transaction all of it at once.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`; `NotEmpty` where others put something in meanwhile. What was removed until then is gone.
    pub async fn remove_dir_all(&self, path: impl AsRef<[u8]> + Send) -> Result<()> {
        let names = parse(path.as_ref())?;
        let (above, name) = self.above(&names, "repo.remove_dir_all").await?;
        let top = self.lease(self.vfs.lookup(above.ino(), name).await?.ino);
        // The directories on the way down, each with the one above it.
        let mut way = vec![(above, name.clone(), top)];
        while let Some((above, name, dir)) = way.last().cloned() {
            if let Some(name) = self.remove_files(&dir).await? {
                let below = self.lease(self.vfs.lookup(dir.ino(), &name).await?.ino);
                way.push((dir, name, below));
                continue;
            }
            let place = Place { dir: above.ino(), name: &name, expect: Some(dir.ino()) };
            self.vfs.remove(place, RemoveKind::Dir).await?;
            way.pop();
        }
        Ok(())
    }

    /// What a directory has, with the metadata of each: all of it, in memory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`.
    pub async fn read_dir(&self, path: impl AsRef<[u8]> + Send) -> Result<Vec<DirEntry>> {
        let dir = self.walk(&parse(path.as_ref())?).await?;
        let (mut entries, mut after) = (Vec::new(), Cookie::START);
        loop {
            let page = self.vfs.readdir(dir.ino(), after, PAGE_COUNT, Listing::Attrs).await?;
            let is_last = page.eof || page.entries.is_empty();
            for entry in page.entries {
                after = entry.cookie;
                let metadata = match entry.attr {
                    Some(attr) => {
                        self.vfs.release(attr.ino, 1);
                        attr
                    }
                    None => self.vfs.getattr(entry.ino).await?,
                };
                entries.push(DirEntry { name: entry.name, metadata });
            }
            if is_last {
                return Ok(entries);
            }
        }
    }

    /// What a path leads to: kind, length, times, owner, permissions.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`.
    pub async fn metadata(&self, path: impl AsRef<[u8]> + Send) -> Result<Attr> {
        let node = self.walk(&parse(path.as_ref())?).await?;
        self.vfs.getattr(node.ino()).await
    }

    /// Whether a path leads to something.
    ///
    /// # Errors
    /// All but `NotFound` and `NotDir`.
    pub async fn exists(&self, path: impl AsRef<[u8]> + Send) -> Result<bool> {
        Ok(self.lookup(&parse(path.as_ref())?).await?.is_some())
    }

    /// The room there is, and what is left of it.
    ///
    /// # Errors
    /// Those of the tree.
    pub async fn space(&self) -> Result<FsStat> {
        self.vfs.statfs(self.vfs.root()).await
    }

    /// Runs `changes` on a repository of which nobody else sees anything before all of it: all changes are made, or, after
    /// an error, none; see [`Tree::transaction`]. Durable after [`Repo::sync`].
    ///
    /// Where others changed meanwhile what it goes by, it runs again.
    ///
    /// # Errors
    /// Those of `changes` and of [`Transaction::commit`](crate::tree::Transaction::commit); `InvalidArgument` in a
    /// transaction: one has no other in it.
    pub async fn transaction<T, F>(&self, mut changes: impl FnMut(Self) -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        self.outside("repo.transaction")?;
        self.tree
            .transaction(|transaction| {
                changes(Self { vfs: Arc::new(transaction.clone()), transaction: Some(transaction), ..self.clone() })
            })
            .await
    }

    /// Makes durable what was changed before the call.
    ///
    /// # Errors
    /// Those of the stores below.
    pub async fn sync(&self) -> Result<()> {
        self.vfs.sync(self.vfs.root()).await
    }

    /// Makes a version of all that there is, durable, and returns its CID: the root of the same names and bytes in IPFS is
    /// in it.
    ///
    /// # Errors
    /// Those of [`Tree::commit`]; `InvalidArgument` in a transaction.
    pub async fn commit(&self, note: &str) -> Result<Cid> {
        self.outside("repo.commit")?;
        self.tree.commit(note).await
    }

    /// The commits that are kept, newest first.
    ///
    /// # Errors
    /// Those of reading them.
    pub async fn history(&self) -> Result<Vec<KeptCommit>> {
        self.history.kept().await
    }

    /// The versions of a file, newest first: each content of it that a kept commit has, of a file that was removed too.
    /// What changed since the last commit is in none.
    ///
    /// # Errors
    /// As [`History::versions`]; `InvalidArgument` in a transaction.
    pub async fn versions(&self, path: impl AsRef<[u8]> + Send) -> Result<Vec<Version>> {
        self.outside("repo.versions")?;
        let names = parse(path.as_ref())?;
        let (dir, name) = self.above(&names, "repo.versions").await?;
        self.history.versions(dir.ino(), name).await
    }

    /// Opens a version of a file, to read. It stays for as long as it is open.
    ///
    /// # Errors
    /// `Stale` where its commit is no longer kept.
    pub async fn open_version(&self, version: &Version) -> Result<OpenFile> {
        let lease = self.history.hold(version).await?;
        Ok(OpenFile::of_version(self.tree.dag().clone(), lease, version.len))
    }

    /// Makes a file what it was in a version, or makes it anew. One change.
    ///
    /// # Errors
    /// As [`History::restore`]; `InvalidArgument` in a transaction.
    pub async fn restore(&self, path: impl AsRef<[u8]> + Send, version: &Version) -> Result<()> {
        self.outside("repo.restore")?;
        let names = parse(path.as_ref())?;
        let (dir, name) = self.above(&names, "repo.restore").await?;
        self.history.restore(version, dir.ino(), name).await
    }

    /// Removes the blocks that nothing here needs any more, from a store that belongs to the repository alone.
    ///
    /// # Errors
    /// Those of [`Dag::collect_garbage`].
    pub async fn collect_garbage(&self, options: &GcOptions) -> Result<GcReport> {
        self.tree.dag().collect_garbage(|| self.tree.gc_roots(), options).await
    }

    /// Makes all durable and takes no more changes; see [`Tree::close`].
    ///
    /// # Errors
    /// Those of a commit and a sync; also then it is closed. `InvalidArgument` in a transaction.
    pub async fn close(&self) -> Result<()> {
        self.outside("repo.close")?;
        self.tree.close().await
    }
}

impl Repo {
    fn outside(&self, op: &'static str) -> Result<()> {
        if self.transaction.is_some() {
            let why = "a transaction changes files: this is for the repository as a whole";
            return Err(Error::new(ErrorKind::InvalidArgument, op).because(why));
        }
        Ok(())
    }

    /// Runs what is one change: in the transaction that this is, or in one of its own.
    async fn at_once<F>(&self, mut changes: impl FnMut(Self) -> F + Send) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send,
    {
        if self.transaction.is_some() { changes(self.clone()).await } else { self.transaction(changes).await }
    }

    fn partial(&self) -> Partial<'_> {
        Partial(self.transaction.as_ref())
    }

    /// All bytes of a file; in a transaction, which refuses what changed in between, as of one moment.
    async fn read_pieces(&self, names: &[Name]) -> Result<Bytes> {
        let (file, _) = self.file_at(names, "repo.read").await?;
        crate::vfs::ext::read_to_end(&*self.vfs, file.ino(), u64::MAX).await
    }

    /// How much is written at a time: whole chunks, which go past the journal.
    fn step(&self) -> usize {
        let chunk_len = self.tree.dag().params().chunk_len as usize;
        chunk_len * (WRITE_LEN / chunk_len).max(1)
    }

    /// Removes what a directory has until a directory in it is met, which is told; `None` when it is empty.
    async fn remove_files(&self, dir: &Lease) -> Result<Option<Name>> {
        loop {
            // What was removed is not met again.
            let page = self.vfs.readdir(dir.ino(), Cookie::START, REMOVE_COUNT, Listing::Names).await?;
            if page.entries.is_empty() {
                return Ok(None);
            }
            for entry in page.entries {
                let place = Place { dir: dir.ino(), name: &entry.name, expect: None };
                match self.vfs.remove(place, RemoveKind::NonDir).await {
                    Err(error) if error.kind() == ErrorKind::IsDir => return Ok(Some(entry.name)),
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
    }

    async fn remove(&self, path: &[u8], kind: RemoveKind, op: &'static str) -> Result<()> {
        let names = parse(path)?;
        let (dir, name) = self.above(&names, op).await?;
        self.vfs.remove(Place { dir: dir.ino(), name, expect: None }, kind).await.map(drop)
    }
}
