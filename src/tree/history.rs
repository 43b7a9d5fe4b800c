//! The history of a tree: a read-only [`Vfs`] whose root lists the kept commits, each as the tree was then; and of each
//! directory of the tree a list of the commits that had it, each as the directory was then.
//!
//! Sits beside the tree, on the same [`Dag`]; a content-addressed mount shows these lists as `.history`. It keeps nothing
//! that is not in the commits: which there are, the head says; an inode's number here is derived from the commit, the
//! number it had there and the list that leads to it, so it is the same after a restart; a handle carries all three. A
//! commit that is no longer kept is `Stale`, also where its blocks are still there: the collector may take them at any
//! time.
//!
//! What is met below two lists has two numbers: a directory then has one directory above it, as kernels want it, and
//! what is below a part of the tree leads nowhere but there. Spec: spec/history.md.

mod diff;
mod held;
mod kept;
mod versions;
mod when;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

pub use self::{diff::PathChange, versions::Version};
use self::{
    held::{Held, Named, Place, list_of},
    kept::{Kept, Then},
};
use super::{
    Commit, Tree,
    attrs::{self, AttrNode, Attrs, Halt, Inode, NodeCache, NodeId, Nodes},
    inode::NameEntry,
    state::{ROOT, Reading},
};
use crate::{
    Cid, Error, ErrorKind, FileKind, Name, Result,
    dag::Dag,
    rank::Rank,
    vfs::{Attr, Cookie, DirEntry, DirPage, FsStat, Fsid, Handle, Ino, Listing, READ_LEN_MAX, Rdev, Vfs, XattrName},
};

/// What a list lets of a directory's mode through: nothing is written there, and nothing belongs to whom it is shown as.
const LIST_MODE: u32 = 0o555;
/// How much of the attribute trees of old commits is held in memory, in bytes: looking back is rare.
const CACHE_LEN_MAX: usize = 8 << 20;
/// The most entries of one page, whatever was asked for: bounds what a page takes in memory.
const PAGE_COUNT_MAX: usize = 4096;
/// How many nodes, or commits that may have a directory, are looked up at a time: enough to hide a disk's latency.
const STAT_COUNT: usize = 16;

/// A commit that is kept, as the history shows it.
#[derive(Debug, Clone)]
pub struct KeptCommit {
    /// The name that it is listed by: when it was made, or the name of a snapshot.
    pub name: String,
    /// Its CID.
    pub cid: Cid,
    /// What it says.
    pub commit: Arc<Commit>,
}

/// A read-only [`Vfs`] of the commits that a tree keeps.
pub struct History {
    tree: Tree,
    /// As the head said when it was last asked.
    kept: Mutex<Arc<Kept>>,
    held: Mutex<Held>,
    cache: Mutex<NodeCache>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("tree", &self.tree).finish_non_exhaustive()
    }
}

/// A node of a commit, decoded, and the list that leads to it.
struct Found {
    top: Ino,
    then: Arc<Then>,
    ino: Ino,
    inode: Arc<Inode>,
}

/// What a number leads to.
enum Spot {
    /// The list of the commits that had a directory. It has the directory's number.
    List(Box<Attr>),
    Node(Found),
}

impl History {
    /// Shows the commits that `tree` keeps: those of its head at any time, and the head itself.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Name, block, dag::{Dag, DagOptions}, heads::MemHeads, media::MemMedia, testing};
    /// use muxfs::{tree::{History, Tree, TreeOptions}, vfs::{NewNode, SetAttr, Vfs}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// # let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// # let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await?;
    /// let made = tree.create(tree.root(), &Name::new(b"a")?, NewNode::Dir, SetAttr::default()).await?;
    /// tree.release(made.node.ino, 1);
    /// let commit = tree.commit("a directory").await?;
    /// let history = History::new(tree);
    /// let newest = history.kept().await?.remove(0);
    /// assert_eq!((newest.cid, newest.commit.note.as_str()), (commit, "a directory"));
    /// let then = history.lookup(history.root(), &Name::new(newest.name.as_bytes())?).await?;
    /// assert!(history.lookup(then.ino, &Name::new(b"a")?).await.is_ok());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(tree: Tree) -> Self {
        Self { tree, kept: Mutex::default(), held: Mutex::default(), cache: Mutex::new(NodeCache::new(CACHE_LEN_MAX)) }
    }

    /// The kept commits, newest first; one with several names once for each.
    ///
    /// # Errors
    /// Those of reading the commits.
    pub async fn kept(&self) -> Result<Vec<KeptCommit>> {
        let kept = self.now().await?;
        let entry = |(_, name, then): &(Rank, Name, Arc<Then>)| KeptCommit {
            name: name.to_string(),
            cid: then.cid,
            commit: then.commit.clone(),
        };
        let mut all: Vec<KeptCommit> = kept.entries.iter().map(entry).collect();
        all.sort_by(|one, other| (other.commit.time, &other.name).cmp(&(one.commit.time, &one.name)));
        Ok(all)
    }

    /// The list of the commits that had a directory of the tree, leased: by the names of the root, each as the directory
    /// was then, whatever it was called and wherever it was.
    ///
    /// It has the directory's number, is there for as long as the directory is, and may be read by whom the directory's
    /// mode lets read it now.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Name, block, dag::{Dag, DagOptions}, heads::MemHeads, media::MemMedia, testing};
    /// # use muxfs::{tree::{History, Tree, TreeOptions}, vfs::{NewNode, Place, RenameMode, SetAttr, Vfs}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// # let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// # let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await?;
    /// let history = History::new(tree.clone());
    /// let (old, new) = (Name::new(b"old")?, Name::new(b"new")?);
    /// let dir = tree.create(tree.root(), &old, NewNode::Dir, SetAttr::default()).await?.node.ino;
    /// tree.commit("").await?;
    /// let from = Place { dir: tree.root(), name: &old, expect: None };
    /// tree.rename(from, Place { name: &new, ..from }, RenameMode::Replace).await?;
    /// let list = history.of(dir).await?;
    /// let then = Name::new(history.kept().await?[0].name.as_bytes())?;
    /// assert!(history.lookup(list.ino, &then).await.is_ok());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Stale` for what is no directory of the tree, or was removed.
    pub async fn of(&self, dir: Ino) -> Result<Attr> {
        self.list(dir, "history.of").await
    }

    /// The directory whose list a node is; `None` for what is in a commit.
    pub fn dir_of(list: Ino) -> Option<Ino> {
        list_of(list)
    }

    /// How many nodes are leased.
    #[cfg(test)]
    pub(crate) fn lease_count(&self) -> usize {
        self.held().len()
    }

    fn dag(&self) -> &Dag {
        self.tree.dag()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the head keeps now.
    async fn now(&self) -> Result<Arc<Kept>> {
        let (head, commit) = self.tree.head();
        let before = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if before.head == Some(head) {
            return Ok(before);
        }
        let kept = Arc::new(Kept::load(self.dag(), head, commit, &before).await?);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept.clone();
        Ok(kept)
    }

    /// Runs a look-up in attribute trees to its end, loading what it misses.
    async fn look<T: Send>(
        &self,
        then: &Then,
        mut look: impl FnMut(&mut dyn Nodes) -> Result<T, Halt> + Send,
    ) -> Result<T> {
        let mut held: HashMap<NodeId, Arc<AttrNode>> = HashMap::new();
        loop {
            let id = {
                let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                match look(&mut Reading { held: &held, cache: &mut cache }) {
                    Ok(found) => return Ok(found),
                    Err(Halt::Failed(error)) => return Err(error),
                    Err(Halt::Missing(id)) => id,
                }
            };
            let node = match attrs::load(self.dag(), id).await {
                Ok(node) => node,
                Err(error) => return Err(self.unless_let_go(then, error).await),
            };
            self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(id, node.clone());
            held.insert(id, node);
        }
    }

    /// The inode of a number in a commit, if there is one.
    async fn inode(&self, then: &Then, ino: Ino) -> Result<Option<Arc<Inode>>> {
        let attrs = self.attrs(then).await?;
        self.look(then, |nodes| attrs.inode(nodes, ino)).await
    }

    /// The attributes of a commit.
    async fn attrs<'a>(&self, then: &'a Then) -> Result<&'a Attrs> {
        let attrs = then.attrs.get_or_try_init(|| async {
            let attrs = then.commit.attrs.ok_or_else(|| {
                let why = format!("the commit has no attributes: its content is {}", then.commit.root);
                Error::new(ErrorKind::Unsupported, "history.attrs").at(then.cid).because(why)
            })?;
            Attrs::open(self.dag(), &attrs).await
        });
        match attrs.await {
            Err(error) => Err(self.unless_let_go(then, error).await),
            attrs => attrs,
        }
    }

    /// What an error means that was met in a commit: what is missing of one that was let go meanwhile was collected.
    async fn unless_let_go(&self, then: &Then, error: Error) -> Error {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        match self.now().await {
            Ok(kept) if !kept.commits.contains_key(&then.cid) => {
                no_longer_kept(&then.cid, "history.read").because(error)
            }
            _ => error,
        }
    }

    /// An inode that a commit says is there.
    async fn inode_of(&self, then: &Then, ino: Ino) -> Result<Arc<Inode>> {
        self.inode(then, ino).await?.ok_or_else(|| {
            let why = format!("it names inode {}, and has none", ino.0);
            Error::new(ErrorKind::Corrupt, "history.node").at(then.cid).because(why)
        })
    }

    /// A node that a commit says is there.
    async fn node_of(&self, top: Ino, then: &Arc<Then>, ino: Ino) -> Result<Found> {
        Ok(Found { top, then: then.clone(), ino, inode: self.inode_of(then, ino).await? })
    }

    /// The directory of a list as a commit has it, if it does.
    async fn top_of(&self, top: Ino, then: &Arc<Then>) -> Result<Option<Found>> {
        if top == ROOT {
            return self.node_of(top, then, ROOT).await.map(Some);
        }
        let inode = self.inode(then, top).await?.filter(|inode| inode.meta.kind == FileKind::Dir);
        Ok(inode.map(|inode| Found { top, then: then.clone(), ino: top, inode }))
    }

    /// The list of a number, or the node of a leased one.
    async fn find(&self, ino: Ino, op: &'static str) -> Result<Spot> {
        if let Some(top) = list_of(ino) {
            return self.list(top, op).await.map(|list| Spot::List(Box::new(list)));
        }
        let Place { top, commit, ino } = self.held().place(ino).ok_or_else(|| Error::new(ErrorKind::Stale, op))?;
        let kept = self.now().await?;
        let then = kept.commits.get(&commit).ok_or_else(|| no_longer_kept(&commit, op))?;
        self.node_of(top, then, ino).await.map(Spot::Node)
    }

    /// A list, or a leased directory.
    async fn dir(&self, ino: Ino, op: &'static str) -> Result<Spot> {
        match self.find(ino, op).await? {
            Spot::Node(found) if found.inode.meta.kind != FileKind::Dir => Err(Error::new(ErrorKind::NotDir, op)),
            spot => Ok(spot),
        }
    }

    /// Leases a node.
    fn adopt(&self, found: &Found) -> Result<Attr> {
        let ino = self.held().adopt(found.place())?;
        Ok(found.attr(ino))
    }

    /// The list of a directory. What it lists changes with the head, so its times are the head's; who may read it is the
    /// directory's to say.
    async fn list(&self, top: Ino, op: &'static str) -> Result<Attr> {
        let gone = || Error::new(ErrorKind::Stale, op).because("there is no such directory in the tree");
        let kept = self.now().await?;
        let time = kept.newest().map_or(SystemTime::UNIX_EPOCH, |then| then.commit.time);
        let mut attr = Attr {
            ino: top,
            fsid: Fsid(0),
            kind: FileKind::Dir,
            mode: LIST_MODE,
            uid: 0,
            gid: 0,
            nlink: u32::try_from(kept.entries.len()).unwrap_or(u32::MAX).saturating_add(2),
            rdev: Rdev::default(),
            size: 0,
            used: 0,
            atime: time,
            mtime: time,
            ctime: time,
            change: 0,
            cid: None,
        };
        if top != ROOT {
            let dir = self.tree.getattr(list_of(top).ok_or_else(gone)?).await?;
            if dir.kind != FileKind::Dir || dir.nlink == 0 {
                return Err(gone());
            }
            // One is what file systems say that do not count.
            (attr.mode, attr.uid, attr.gid, attr.nlink) = (dir.mode & LIST_MODE, dir.uid, dir.gid, 1);
            attr.ctime = time.max(dir.ctime);
        }
        let nanos = attr.ctime.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        attr.change = u64::try_from(nanos).unwrap_or(u64::MAX);
        Ok(attr)
    }

    /// A page of a list: the commits that have its directory. One of which that cannot be told is listed without
    /// attributes, and hides no other.
    async fn commits(&self, top: Ino, after: Option<Rank>, count: usize, listing: Listing) -> Result<DirPage> {
        let kept = self.now().await?;
        let from = kept.entries.partition_point(|(rank, ..)| after.is_some_and(|after| *rank <= after));
        let mut looked = stream::iter(from..kept.entries.len())
            .map(|at| {
                let kept = kept.clone();
                async move { (at, self.listed(&kept, at, top, listing).await) }
            })
            .buffered(STAT_COUNT);
        let (mut listed, mut eof) = (Vec::new(), true);
        while let Some((at, found)) = looked.next().await {
            let Some(found) = found else { continue };
            if listed.len() == count {
                eof = false;
                break;
            }
            listed.push((at, found));
        }
        drop(looked);
        // From here nothing is awaited: all are leased, or none.
        let mut entries = Vec::with_capacity(listed.len());
        for (at, found) in listed {
            let Some((rank, name, then)) = kept.entries.get(at) else { continue };
            let place = Place { top, commit: then.cid, ino: top };
            entries.push(self.entry(name.clone(), *rank, place, found.as_ref())?);
        }
        Ok(DirPage { entries, eof })
    }

    /// Whether a list has the commit at a place, and its directory there where attributes are asked for and can be read.
    async fn listed(&self, kept: &Kept, at: usize, top: Ino, listing: Listing) -> Option<Option<Found>> {
        let (_, _, then) = kept.entries.get(at)?;
        if top == ROOT && listing == Listing::Names {
            return Some(None);
        }
        match self.top_of(top, then).await {
            Ok(found) => found.map(|found| Some(found).filter(|_| listing == Listing::Attrs)),
            Err(error) if error.kind() == ErrorKind::Stale => None,
            Err(_) => Some(None),
        }
    }

    /// A page of a directory of a commit.
    async fn names(&self, dir: &Found, after: Option<Rank>, count: usize, listing: Listing) -> Result<DirPage> {
        let from = after.map_or(Rank::from_bits(0), |after| Rank::from_bits(after.bits() + 1));
        let mut names: Vec<NameEntry> = match from {
            Some(from) => self.look(&dir.then, |nodes| dir.inode.entries(nodes, from, count + 1)).await?,
            None => Vec::new(),
        };
        let eof = names.len() <= count;
        names.truncate(count);
        let inos = names.iter().map(|entry| entry.ino).collect();
        let nodes = self.attrs_of(dir, inos, listing).await;
        let mut entries = Vec::with_capacity(names.len());
        for (entry, node) in names.into_iter().zip(&nodes) {
            let place = Place { ino: entry.ino, ..dir.place() };
            entries.push(self.entry(entry.name, entry.rank, place, node.as_ref())?);
        }
        Ok(DirPage { entries, eof })
    }

    /// The attributes of entries, where they are asked for and can be read: one that is bad hides no other.
    async fn attrs_of(&self, dir: &Found, inos: Vec<Ino>, listing: Listing) -> Vec<Option<Found>> {
        match listing {
            Listing::Names => inos.iter().map(|_| None).collect(),
            Listing::Attrs => {
                let found =
                    stream::iter(inos).map(|ino| async move { self.node_of(dir.top, &dir.then, ino).await.ok() });
                found.buffered(STAT_COUNT).collect().await
            }
        }
    }

    /// An entry; leased where its node is given.
    fn entry(&self, name: Name, rank: Rank, place: Place, found: Option<&Found>) -> Result<DirEntry> {
        let ino = match found {
            Some(_) => self.held().adopt(place)?,
            None => self.held().number(place)?,
        };
        Ok(DirEntry { name, ino, cookie: rank.cookie(), attr: found.map(|found| found.attr(ino)) })
    }
}

impl Found {
    fn place(&self) -> Place {
        Place { top: self.top, commit: self.then.cid, ino: self.ino }
    }

    fn attr(&self, ino: Ino) -> Attr {
        self.inode.meta.attr(ino, self.inode.content.map(|link| link.cid))
    }
}

fn no_longer_kept(commit: &Cid, op: &'static str) -> Error {
    Error::new(ErrorKind::Stale, op).at(commit).because("the commit is no longer kept")
}

#[async_trait]
impl Vfs for History {
    /// The list of the root of the tree.
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        let op = "history.lookup";
        let not_found = || Error::new(ErrorKind::NotFound, op).at(name);
        let found = match self.dir(dir, op).await? {
            Spot::List(list) => {
                let kept = self.now().await?;
                let then = kept.find(name).ok_or_else(not_found)?;
                self.top_of(list.ino, then).await?.ok_or_else(not_found)?
            }
            Spot::Node(dir) => {
                let entry = self.look(&dir.then, |nodes| dir.inode.entry(nodes, name)).await?.ok_or_else(not_found)?;
                self.node_of(dir.top, &dir.then, entry.ino).await?
            }
        };
        self.adopt(&found)
    }

    /// A list is its own: what is above it is in the tree.
    async fn parent(&self, dir: Ino) -> Result<Attr> {
        let op = "history.parent";
        let found = match self.find(dir, op).await? {
            Spot::List(list) => return Ok(*list),
            Spot::Node(found) => found,
        };
        if found.ino == found.top {
            return self.list(found.top, op).await;
        }
        let parents = self.look(&found.then, |nodes| found.inode.parents(nodes)).await?;
        let (above, _) =
            parents.first().ok_or_else(|| Error::new(ErrorKind::NotFound, op).because("it has no name"))?;
        self.adopt(&self.node_of(found.top, &found.then, *above).await?)
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        Ok(match self.find(ino, "history.getattr").await? {
            Spot::Node(found) => found.attr(ino),
            Spot::List(list) => *list,
        })
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let op = "history.readdir";
        let count = count.clamp(1, PAGE_COUNT_MAX);
        let dir = self.dir(dir, op).await?;
        let after = match after {
            Cookie::START => None,
            after => Some(Rank::from_cookie(after).ok_or_else(|| Error::new(ErrorKind::BadCookie, op))?),
        };
        match dir {
            Spot::List(list) => self.commits(list.ino, after, count, listing).await,
            Spot::Node(dir) => self.names(&dir, after, count, listing).await,
        }
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        let op = "history.read";
        let Spot::Node(found) = self.find(ino, op).await? else { return Err(Error::new(ErrorKind::IsDir, op)) };
        match (found.inode.meta.kind, found.inode.content) {
            (FileKind::File, Some(link)) => match self.dag().read_at(&link.cid, offset, len.min(READ_LEN_MAX)).await {
                Err(error) => Err(self.unless_let_go(&found.then, error).await),
                bytes => bytes,
            },
            (FileKind::Dir, _) => Err(Error::new(ErrorKind::IsDir, op)),
            _ => Err(Error::new(ErrorKind::InvalidArgument, op).because("only a file has bytes")),
        }
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        let op = "history.readlink";
        let target = match self.find(ino, op).await? {
            Spot::Node(found) => found.inode.target.clone(),
            Spot::List(_) => None,
        };
        target.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, op).because("only a symlink has a target"))
    }

    /// All zeros: nothing is written here.
    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        self.find(ino, "history.statfs").await?;
        Ok(FsStat { bytes_total: 0, bytes_free: 0, inodes_total: 0, inodes_free: 0 })
    }

    fn handle(&self, ino: Ino) -> Result<Handle> {
        let place = || self.held().place(ino).ok_or_else(|| Error::new(ErrorKind::Stale, "history.handle"));
        let named = list_of(ino).map_or_else(|| place().map(Named::Node), |top| Ok(Named::List(top)));
        held::encode(&named?)
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let op = "history.resolve";
        let place = match held::decode(handle)? {
            Named::List(top) => return self.list(top, op).await,
            Named::Node(place) => place,
        };
        let kept = self.now().await?;
        let then = kept.commits.get(&place.commit).ok_or_else(|| no_longer_kept(&place.commit, op))?;
        let gone = || Error::new(ErrorKind::Stale, op).because("the commit has no such node");
        let inode = self.inode(then, place.ino).await?.ok_or_else(gone)?;
        self.adopt(&Found { top: place.top, then: then.clone(), ino: place.ino, inode })
    }

    fn retain(&self, ino: Ino) {
        self.held().retain(ino);
    }

    fn release(&self, ino: Ino, count: u64) {
        self.held().release(ino, count);
    }

    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        let op = "history.getxattr";
        let no_attr = || Error::new(ErrorKind::NoAttr, op);
        let Spot::Node(found) = self.find(ino, op).await? else { return Err(no_attr()) };
        self.look(&found.then, |nodes| found.inode.xattrs(nodes)).await?.remove(name).ok_or_else(no_attr)
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        let Spot::Node(found) = self.find(ino, "history.listxattr").await? else { return Ok(Vec::new()) };
        Ok(self.look(&found.then, |nodes| found.inode.xattrs(nodes)).await?.into_keys().collect())
    }
}

#[cfg(test)]
mod tests;
