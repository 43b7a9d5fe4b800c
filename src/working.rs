//! The inodes of a content-addressed mount that can be written: its working tree, below the same root all content by
//! CID, and, hidden in each directory, its history.
//!
//! Sits between the union of mounts and three file systems: a tree (any [`Vfs`] that can be changed), a [`CasView`], and
//! the [`History`] of that tree. It keeps nothing. Which part a node is in shows in its number and in the first byte of
//! its handle, so that nothing is translated by a table and all of it is the same after a restart:
//!
//! ```text
//! bits 55, 54, 53    part       its own number
//! 0    0   0         tree       the same
//! 1    0   any       tree       the same: numbers derived for foreign roots
//! 0    0   1         history    below 2^53
//! any  1   any       content    bit 55 set: bit 54 of it stands in bit 55 here
//! ```
//!
//! A name at the root that is a CID always means that content, and `.history` in any directory of the tree the history of
//! that directory: neither can be created, linked or renamed to, so no change of the tree ever hides what is immutable,
//! and a path with a CID in it is good for ever. A tree that came from elsewhere may have such names all the same. Those
//! at its root are hidden; a `.history` below it is what it is, so that nobody's files are out of reach.
//! Spec: spec/vfs.md #working-tree.

use std::{fs::File, num::NonZeroU64, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Cid, Error, ErrorKind, Name, Result,
    cas_view::CasView,
    tree::History,
    vfs::{
        Attr, Changed, Cookie, DirChanged, DirPage, FsStat, Fsid, Handle, INO_BITS, Ino, LEAF_HANDLE_LEN_MAX, Listing,
        NewNode, Place, RemoveKind, RenameMode, Renamed, Seek, SetAttr, Vfs, XattrMode, XattrName,
        narrow::read_only_view, part::Part,
    },
};

/// The name in each directory that its history is reached by. It is not listed.
pub const HISTORY_NAME: &str = ".history";

/// Set in the numbers of content, here and in [`CasView`]; with [`CONTENT_BIT`] clear, in derived numbers of the tree.
const DERIVED_BIT: u64 = 1 << 55;
/// Set in the numbers of content, and in no others.
const CONTENT_BIT: u64 = 1 << 54;
/// Set in the numbers of the history, with the two above clear.
const HISTORY_BIT: u64 = 1 << 53;
/// How many bytes a handle has before the part's own.
const TAG_LEN: usize = 1;

/// A tree that can be written, all content by CID, and the history, under one root: the tree's.
#[derive(Debug)]
pub struct WorkingVfs {
    tree: Branch,
    content: Branch,
    history: Option<Past>,
}

/// The history, as a part, and as what knows the lists of directories.
#[derive(Debug)]
struct Past {
    branch: Branch,
    history: Arc<History>,
}

#[derive(Debug)]
struct Branch {
    kind: Kind,
    vfs: Arc<dyn Vfs>,
}

/// Which part; its number is the first byte of the handles of its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tree = 1,
    Content = 2,
    History = 3,
}

impl Kind {
    /// The part that a number of the join is in; `None` for one that a union put something above.
    fn of(ino: u64) -> Option<Self> {
        match ino {
            _ if ino >> INO_BITS != 0 => None,
            _ if ino & CONTENT_BIT != 0 => Some(Self::Content),
            _ if ino & (DERIVED_BIT | HISTORY_BIT) == HISTORY_BIT => Some(Self::History),
            _ => Some(Self::Tree),
        }
    }
}

impl Part for Branch {
    fn vfs(&self) -> &dyn Vfs {
        &*self.vfs
    }

    fn up(&self, leaf: Ino) -> Result<Ino> {
        let number = leaf.0.get();
        let up = match self.kind {
            Kind::Tree => Some(number).filter(|number| Kind::of(*number) == Some(Kind::Tree)),
            Kind::History => (number < HISTORY_BIT).then_some(number | HISTORY_BIT),
            Kind::Content => (number >> (INO_BITS - 1) == 1)
                .then_some(number & (CONTENT_BIT - 1) | CONTENT_BIT | (number & CONTENT_BIT) << 1),
        };
        up.and_then(NonZeroU64::new).map(Ino).ok_or_else(|| self.broken("an inode number that is another part's"))
    }

    fn down(&self, ino: Ino) -> Option<Ino> {
        let number = ino.0.get();
        if Kind::of(number) != Some(self.kind) {
            return None;
        }
        let leaf = match self.kind {
            Kind::Tree => number,
            Kind::History => number & !HISTORY_BIT,
            Kind::Content => number & (CONTENT_BIT - 1) | DERIVED_BIT | (number & DERIVED_BIT) >> 1,
        };
        NonZeroU64::new(leaf).map(Ino)
    }

    fn fsid_up(&self, leaf: Fsid) -> Result<Fsid> {
        match (leaf, self.kind) {
            (Fsid(0), Kind::Tree | Kind::Content) => Ok(Fsid(0)),
            (Fsid(0), Kind::History) => Ok(Fsid(1)),
            _ => Err(self.broken("an fsid above 0")),
        }
    }

    fn broken(&self, what: &'static str) -> Error {
        Error::new(ErrorKind::Internal, "working.part").because(format!("the {:?} gave {what}", self.kind))
    }
}

/// What a name in a directory means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// What the directory has by it.
    Entry,
    /// The content of that CID, whatever the directory has by it.
    Content,
    /// The history of the root, whatever it has by it.
    History,
    /// What the directory has by it, and else its history.
    EntryOrHistory,
}

impl Meaning {
    /// What a name at the root means.
    fn at_root(name: &Name) -> Self {
        match name.as_str() {
            Some(HISTORY_NAME) => Self::History,
            Some(text) if Cid::parse_in_path(text).is_ok() => Self::Content,
            _ => Self::Entry,
        }
    }
}

impl WorkingVfs {
    /// Joins a tree, whose root becomes the root of all, with the content of a store and, where it keeps one, its history.
    ///
    /// The tree's numbers are below 2^53, or between 2^55 and 2^55 + 2^54. Its handles have at most 47 bytes, their fsid is
    /// 0. What it gives beyond that is refused as `Internal` when it is met.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Name, block, cas_view::{CasView, CasViewOptions}, dag::{Dag, DagOptions, UnixfsMeta}, media::MemMedia};
    /// # use muxfs::{pins::Pins, testing::{self, model::ModelFs}, vfs::{NewNode, SetAttr, Vfs}, working::WorkingVfs};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// let file = dag.import(&b"for ever"[..], UnixfsMeta::default()).await?;
    /// let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &testing::env()).await?);
    /// let content = CasView::new(dag, pins, CasViewOptions::default());
    /// let working = WorkingVfs::new(ModelFs::new(testing::env()), content, None);
    ///
    /// let name = Name::new(file.cid.to_string().as_bytes())?;
    /// let found = working.lookup(working.root(), &name).await?;
    /// assert_eq!(working.read(found.ino, 0, 100).await?, "for ever");
    /// assert!(working.create(working.root(), &name, NewNode::Dir, SetAttr::default()).await.is_err());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(tree: Arc<dyn Vfs>, content: CasView, history: Option<Arc<History>>) -> Self {
        let past = |history: Arc<History>| Past {
            branch: Branch { kind: Kind::History, vfs: read_only_view(history.clone()) },
            history,
        };
        Self {
            tree: Branch { kind: Kind::Tree, vfs: tree },
            content: Branch { kind: Kind::Content, vfs: read_only_view(Arc::new(content)) },
            history: history.map(past),
        }
    }

    fn branches(&self) -> impl Iterator<Item = &Branch> {
        [&self.tree, &self.content].into_iter().chain(self.history.as_ref().map(|past| &past.branch))
    }

    /// The part a node is in, and its number there.
    fn find(&self, ino: Ino, op: &'static str) -> Result<(&Branch, Ino)> {
        let found = self.branches().find_map(|branch| Some((branch, branch.down(ino)?)));
        found.ok_or_else(|| Error::new(ErrorKind::Stale, op))
    }

    /// The part that both are in.
    fn find_both(&self, one: Ino, other: Ino, op: &'static str) -> Result<(&Branch, Ino, Ino)> {
        match (self.find(one, op)?, self.find(other, op)?) {
            ((branch, one), (same, other)) if branch.kind == same.kind => Ok((branch, one, other)),
            _ => Err(Error::new(ErrorKind::CrossDevice, op)
                .because("content by CID and history are immutable: copy what is in them")),
        }
    }

    /// What a name in a directory means.
    fn meaning(&self, dir: Ino, name: &Name) -> Meaning {
        if dir == self.root() {
            return Meaning::at_root(name);
        }
        let is_hidden = name.as_bytes() == HISTORY_NAME.as_bytes() && self.history.is_some();
        if is_hidden && Kind::of(dir.0.get()) == Some(Kind::Tree) { Meaning::EntryOrHistory } else { Meaning::Entry }
    }

    /// Refuses a name that cannot be given to a node.
    fn check_new(&self, dir: Ino, name: &Name, op: &'static str) -> Result<()> {
        let why = match self.meaning(dir, name) {
            Meaning::Entry => return Ok(()),
            Meaning::Content => "the name is a CID, and means that content",
            Meaning::History | Meaning::EntryOrHistory => "the name means the history of the directory",
        };
        Err(Error::new(ErrorKind::InvalidArgument, op).at(name).because(why))
    }

    /// The place of a name that is to be taken away, as the tree has it.
    ///
    /// The tree may hold one that means something else, and can be rid of it; where it does not, what is met by the name
    /// is immutable, and so is what whoever looked at it expects there.
    async fn taken_from<'a>(
        &self,
        branch: &Branch,
        place: Place<'a>,
        leaf: Ino,
        op: &'static str,
    ) -> Result<Place<'a>> {
        let down = branch.place_down(place, leaf, op);
        if down.is_ok() || self.meaning(place.dir, place.name) == Meaning::Entry {
            return down;
        }
        let there = branch.vfs.lookup(leaf, place.name).await;
        branch.vfs.release(self.taken_away(&place, op, there)?.ino, 1);
        down
    }

    /// What the tree says of taking a name away.
    fn taken_away<T>(&self, place: &Place<'_>, op: &'static str, result: Result<T>) -> Result<T> {
        let is_entry = self.meaning(place.dir, place.name) == Meaning::Entry;
        result.map_err(|error| match error.kind() {
            ErrorKind::NotFound if !is_entry => {
                Error::new(ErrorKind::ReadOnly, op).at(place.name).because("it is not in the tree, and immutable")
            }
            _ => error,
        })
    }

    /// A name that a directory of the tree has, or else its history.
    async fn entry_or_history(&self, leaf: Ino, name: &Name) -> Result<Attr> {
        let (absent, past) = match (self.tree.vfs.lookup(leaf, name).await, &self.history) {
            (Err(error), Some(past)) if error.kind() == ErrorKind::NotFound => (error, past),
            (found, _) => return self.tree.leased_up(found?),
        };
        match past.history.of(leaf).await {
            // It was removed, and nothing is in it.
            Err(error) if error.kind() == ErrorKind::Stale => Err(absent),
            list => past.branch.leased_up(list?),
        }
    }

    /// The root of a part, leased.
    async fn root_of(branch: &Branch) -> Result<Attr> {
        let root = branch.vfs.root();
        let attr = branch.attr_up(branch.vfs.getattr(root).await?)?;
        branch.vfs.retain(root);
        Ok(attr)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for WorkingVfs {
    fn root(&self) -> Ino {
        self.tree.vfs.root()
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        let op = "working.lookup";
        let (branch, leaf) = match (self.meaning(dir, name), &self.history) {
            (Meaning::Entry, _) => self.find(dir, op)?,
            (Meaning::Content, _) => (&self.content, self.content.vfs.root()),
            (Meaning::EntryOrHistory, _) => return self.entry_or_history(self.find(dir, op)?.1, name).await,
            (Meaning::History, Some(past)) => return Self::root_of(&past.branch).await,
            (Meaning::History, None) => {
                return Err(Error::new(ErrorKind::NotFound, op).at(name).because("this mount keeps no history"));
            }
        };
        branch.leased_up(branch.vfs.lookup(leaf, name).await?)
    }

    fn expect(&self, dir: Ino, names: &[Name]) {
        let Some(first) = names.first() else { return };
        if self.meaning(dir, first) == Meaning::Content {
            self.content.vfs.expect(self.content.vfs.root(), names);
        } else if let Ok((branch, leaf)) = self.find(dir, "working.expect") {
            branch.vfs.expect(leaf, names);
        }
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        let (branch, leaf) = self.find(dir, "working.parent")?;
        let top = branch.vfs.root();
        let above = branch.vfs.parent(leaf).await?;
        if branch.kind == Kind::History
            && let Some(dir) = History::dir_of(leaf)
        {
            branch.vfs.release(above.ino, 1);
            // The directory need not be leased; its handle makes it so.
            return self.tree.leased_up(self.tree.vfs.resolve(&self.tree.vfs.handle(dir)?).await?);
        }
        if branch.kind == Kind::Content && above.ino == top {
            branch.vfs.release(top, 1);
            return Self::root_of(&self.tree).await;
        }
        branch.leased_up(above)
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        let (branch, leaf) = self.find(ino, "working.getattr")?;
        branch.attr_up(branch.vfs.getattr(leaf).await?)
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let (branch, leaf) = self.find(dir, "working.readdir")?;
        let mut page = branch.page_up(branch.vfs.readdir(leaf, after, count, listing).await?)?;
        if dir == self.root() {
            // A name that means something else is listed, but what it means is for `lookup` to say.
            for entry in page.entries.iter_mut().filter(|entry| entry.attr.is_some()) {
                if Meaning::at_root(&entry.name) != Meaning::Entry {
                    entry.attr = None;
                    self.release(entry.ino, 1);
                }
            }
        }
        Ok(page)
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        let (branch, leaf) = self.find(ino, "working.read")?;
        branch.vfs.read(leaf, offset, len).await
    }

    async fn host_file(&self, ino: Ino) -> Result<Option<File>> {
        let (branch, leaf) = self.find(ino, "working.host_file")?;
        branch.vfs.host_file(leaf).await
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        let (branch, leaf) = self.find(ino, "working.readlink")?;
        branch.vfs.readlink(leaf).await
    }

    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        let (branch, leaf) = self.find(ino, "working.statfs")?;
        branch.vfs.statfs(leaf).await
    }

    fn handle(&self, ino: Ino) -> Result<Handle> {
        let (branch, leaf) = self.find(ino, "working.handle")?;
        branch.handle_up(&[branch.kind as u8], leaf, LEAF_HANDLE_LEN_MAX - TAG_LEN)
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let op = "working.resolve";
        let foreign = || Error::new(ErrorKind::InvalidArgument, op).because("not a handle of this mount");
        let tag = *handle.0.first().ok_or_else(foreign)?;
        let branch = match self.branches().find(|branch| branch.kind as u8 == tag) {
            Some(branch) => branch,
            None if tag == Kind::History as u8 => {
                return Err(Error::new(ErrorKind::Stale, op).because("this mount keeps no history any more"));
            }
            None => return Err(foreign()),
        };
        let attr = branch.vfs.resolve(&Handle(handle.0.slice(TAG_LEN..))).await?;
        if branch.kind == Kind::Content && attr.ino == branch.vfs.root() {
            branch.vfs.release(attr.ino, 1);
            return Err(foreign());
        }
        branch.leased_up(attr)
    }

    fn retain(&self, ino: Ino) {
        if let Ok((branch, leaf)) = self.find(ino, "working.retain") {
            branch.vfs.retain(leaf);
        }
    }

    fn release(&self, ino: Ino, count: u64) {
        if let Ok((branch, leaf)) = self.find(ino, "working.release") {
            branch.vfs.release(leaf, count);
        }
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        let (branch, leaf) = self.find(ino, "working.setattr")?;
        branch.changed_up(branch.vfs.setattr(leaf, set).await?)
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        let (branch, leaf) = self.find(ino, "working.write")?;
        branch.changed_up(branch.vfs.write(leaf, offset, data, clear_suid).await?)
    }

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        self.check_new(dir, name, "working.create")?;
        let (branch, leaf) = self.find(dir, "working.create")?;
        branch.made_up(branch.vfs.create(leaf, name, node, set).await?)
    }

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        let op = "working.remove";
        let (branch, leaf) = self.find(place.dir, op)?;
        let removed = branch.vfs.remove(self.taken_from(branch, place, leaf, op).await?, kind).await;
        branch.removed_up(self.taken_away(&place, op, removed)?)
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        let op = "working.rename";
        self.check_new(to.dir, to.name, op)?;
        if mode == RenameMode::Exchange {
            self.check_new(from.dir, from.name, op)?;
        }
        let (branch, from_leaf, to_leaf) = self.find_both(from.dir, to.dir, op)?;
        let from_place = self.taken_from(branch, from, from_leaf, op).await?;
        let places = (from_place, branch.place_down(to, to_leaf, op)?);
        let renamed = branch.vfs.rename(places.0, places.1, mode).await;
        branch.renamed_up(self.taken_away(&from, op, renamed)?)
    }

    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        self.check_new(dir, name, "working.link")?;
        let (branch, leaf, dir) = self.find_both(ino, dir, "working.link")?;
        branch.made_up(branch.vfs.link(leaf, dir, name).await?)
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        let (branch, leaf) = self.find(ino, "working.allocate")?;
        branch.changed_up(branch.vfs.allocate(leaf, range, keep_size).await?)
    }

    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        let (branch, leaf) = self.find(ino, "working.punch_hole")?;
        branch.changed_up(branch.vfs.punch_hole(leaf, range).await?)
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        let (branch, source, target) = self.find_both(from.0, to.0, "working.copy_range")?;
        let (copied, changed) = branch.vfs.copy_range((source, from.1), (target, to.1), len).await?;
        Ok((copied, branch.changed_up(changed)?))
    }

    async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        let (branch, leaf) = self.find(ino, "working.seek")?;
        branch.vfs.seek(leaf, offset, what).await
    }

    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        let (branch, leaf) = self.find(ino, "working.getxattr")?;
        branch.vfs.getxattr(leaf, name).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        let (branch, leaf) = self.find(ino, "working.listxattr")?;
        branch.vfs.listxattr(leaf).await
    }

    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        let (branch, leaf) = self.find(ino, "working.setxattr")?;
        branch.changed_up(branch.vfs.setxattr(leaf, name, value, mode).await?)
    }

    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        let (branch, leaf) = self.find(ino, "working.removexattr")?;
        branch.changed_up(branch.vfs.removexattr(leaf, name).await?)
    }

    // Of the root, the tree: nothing else here can change.
    async fn sync(&self, ino: Ino) -> Result<()> {
        let (branch, leaf) = self.find(ino, "working.sync")?;
        branch.vfs.sync(leaf).await
    }

    async fn sync_inode(&self, ino: Ino) -> Result<()> {
        let (branch, leaf) = self.find(ino, "working.sync_inode")?;
        branch.vfs.sync_inode(leaf).await
    }
}

#[cfg(test)]
mod tests;
