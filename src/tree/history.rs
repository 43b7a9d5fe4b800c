//! The history of a tree: a read-only [`Vfs`] whose root lists the kept commits, each as the tree was then.
//!
//! Sits beside the tree, on the same [`Dag`]; a content-addressed mount shows it as `.history`. It keeps nothing that
//! is not in the commits: which there are, the head says; an inode's number here is derived from the commit and the
//! number it had there, so it is the same after a restart; a handle carries both. A commit that is no longer kept is
//! `Stale`, also where its blocks are still there: the collector may take them at any time. Spec: spec/history.md.

mod diff;
mod held;
mod when;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::OnceCell;

pub use self::diff::PathChange;
use self::held::{Held, Place};
use super::{
    Commit, Tree,
    attrs::{self, AttrNode, Attrs, Halt, Inode, NodeCache, NodeId, Nodes},
    inode::NameEntry,
    state::{ROOT as TREE_ROOT, Reading},
};
use crate::{
    Cid, Error, ErrorKind, FileKind, Name, Result,
    dag::Dag,
    rank::Rank,
    vfs::{Attr, Cookie, DirEntry, DirPage, FsStat, Fsid, Handle, Ino, Listing, READ_LEN_MAX, Rdev, Vfs, XattrName},
};

/// The root's number. Derived numbers have bit 52 set, so it is none of them.
const ROOT: Ino = Ino(NonZeroU64::MIN);
/// How much of the attribute trees of old commits is held in memory, in bytes: looking back is rare.
const CACHE_LEN_MAX: usize = 8 << 20;
/// The most entries of one page, whatever was asked for: bounds what a page takes in memory.
const PAGE_COUNT_MAX: usize = 4096;
/// How many entries' attributes are looked up at a time: enough to hide a disk's latency.
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

/// The commits that a head keeps.
#[derive(Default)]
struct Kept {
    /// `None` before the first was asked.
    head: Option<Cid>,
    commits: HashMap<Cid, Arc<Then>>,
    /// In the order of a listing.
    entries: Vec<(Rank, Name, Arc<Then>)>,
}

/// A kept commit.
struct Then {
    cid: Cid,
    commit: Arc<Commit>,
    /// Opened when it is first looked into.
    attrs: OnceCell<Attrs>,
}

/// A node of a commit, decoded.
struct Found {
    then: Arc<Then>,
    ino: Ino,
    inode: Arc<Inode>,
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
        let kept = Arc::new(self.load(head, commit, &before).await?);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept.clone();
        Ok(kept)
    }

    /// Loads what a head keeps; what was kept before is not read again.
    async fn load(&self, head: Cid, commit: Arc<Commit>, before: &Kept) -> Result<Kept> {
        let mut commits = HashMap::from([(head, Then::new(head, commit.clone()))]);
        let mut times = vec![head];
        for cid in commit.prev.iter().chain(commit.snapshots.values()) {
            let then = match (commits.get(cid), before.commits.get(cid)) {
                (Some(_), _) => continue,
                (None, Some(then)) => then.clone(),
                (None, None) => match Commit::get(self.dag(), cid).await {
                    Ok(commit) => Then::new(*cid, Arc::new(commit)),
                    // A head may name commits that were not kept.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    // One that is bad hides no other.
                    Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                        tracing::warn!(commit = %cid, %error, "a kept commit cannot be read: the history goes without it");
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            commits.insert(*cid, then);
            times.push(*cid);
        }
        let times = times.iter().filter_map(|cid| commits.get(cid));
        let mut named: BTreeMap<String, Arc<Then>> = BTreeMap::new();
        for (name, then) in when::names(times.map(|then| (then.commit.time, then.cid, then))) {
            named.insert(name, then.clone());
        }
        // Who names a snapshot as another one was made, means the snapshot.
        for (name, cid) in &commit.snapshots {
            if let Some(then) = commits.get(cid) {
                named.insert(name.clone(), then.clone());
            }
        }
        let mut entries: Vec<(Rank, Name, Arc<Then>)> = Vec::with_capacity(named.len());
        for (name, then) in named {
            let Ok(name) = Name::new(name.as_bytes()) else { continue };
            entries.push((Rank::of(name.as_bytes()), name, then));
        }
        entries.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        for at in 1..entries.len() {
            let (before, after) = entries.split_at_mut(at);
            if let (Some((last, ..)), Some((rank, ..))) = (before.last(), after.first_mut())
                && last.hash_min() == rank.hash_min()
            {
                *rank = last.next().unwrap_or(*rank);
            }
        }
        Ok(Kept { head: Some(head), commits, entries })
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

    /// The node of a number in a commit, if there is one.
    async fn node(&self, then: &Arc<Then>, ino: Ino) -> Result<Option<Found>> {
        let attrs = self.attrs(then).await?;
        let inode = self.look(then, |nodes| attrs.inode(nodes, ino)).await?;
        Ok(inode.map(|inode| Found { then: then.clone(), ino, inode }))
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

    /// A node that a commit says is there.
    async fn node_of(&self, then: &Arc<Then>, ino: Ino) -> Result<Found> {
        self.node(then, ino).await?.ok_or_else(|| {
            let why = format!("it names inode {}, and has none", ino.0);
            Error::new(ErrorKind::Corrupt, "history.node").at(then.cid).because(why)
        })
    }

    /// The node of a leased number; `None` for the root.
    async fn find(&self, ino: Ino, op: &'static str) -> Result<Option<Found>> {
        if ino == ROOT {
            return Ok(None);
        }
        let place = self.held().place(ino).ok_or_else(|| Error::new(ErrorKind::Stale, op))?;
        let kept = self.now().await?;
        let then = kept.commits.get(&place.commit).ok_or_else(|| no_longer_kept(&place.commit, op))?;
        self.node_of(then, place.ino).await.map(Some)
    }

    /// A leased directory; `None` for the root.
    async fn dir(&self, ino: Ino, op: &'static str) -> Result<Option<Found>> {
        let found = self.find(ino, op).await?;
        match &found {
            Some(Found { inode, .. }) if inode.meta.kind != FileKind::Dir => Err(Error::new(ErrorKind::NotDir, op)),
            _ => Ok(found),
        }
    }

    /// Leases a node.
    fn adopt(&self, found: &Found) -> Result<Attr> {
        let ino = self.held().adopt(found.place())?;
        Ok(found.attr(ino))
    }

    /// The root. What it lists changes with the head, so its times are the head's.
    async fn root_attr(&self) -> Result<Attr> {
        let kept = self.now().await?;
        let head = kept.head.and_then(|head| kept.commits.get(&head));
        let time = head.map_or(SystemTime::UNIX_EPOCH, |then| then.commit.time);
        let nanos = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        Ok(Attr {
            ino: ROOT,
            fsid: Fsid(0),
            kind: FileKind::Dir,
            mode: 0o555,
            uid: 0,
            gid: 0,
            nlink: u32::try_from(kept.entries.len()).unwrap_or(u32::MAX).saturating_add(2),
            rdev: Rdev::default(),
            size: 0,
            used: 0,
            atime: time,
            mtime: time,
            ctime: time,
            change: u64::try_from(nanos).unwrap_or(u64::MAX),
            cid: None,
        })
    }

    /// The attributes of entries, where they are asked for and can be read: one that is bad hides no other.
    async fn attrs_of(&self, then: &Arc<Then>, inos: Vec<Ino>, listing: Listing) -> Vec<Option<Found>> {
        match listing {
            Listing::Names => inos.iter().map(|_| None).collect(),
            Listing::Attrs => {
                let found = stream::iter(inos).map(|ino| async move { self.node_of(then, ino).await.ok() });
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

impl Then {
    fn new(cid: Cid, commit: Arc<Commit>) -> Arc<Self> {
        Arc::new(Self { cid, commit, attrs: OnceCell::new() })
    }
}

impl Found {
    fn place(&self) -> Place {
        Place { commit: self.then.cid, ino: self.ino }
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
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        let op = "history.lookup";
        let not_found = || Error::new(ErrorKind::NotFound, op).at(name);
        let found = match self.dir(dir, op).await? {
            None => {
                let kept = self.now().await?;
                let (_, _, then) = kept.entries.iter().find(|(_, kept, _)| kept == name).ok_or_else(not_found)?;
                self.node_of(then, TREE_ROOT).await?
            }
            Some(dir) => {
                let entry = self.look(&dir.then, |nodes| dir.inode.entry(nodes, name)).await?.ok_or_else(not_found)?;
                self.node_of(&dir.then, entry.ino).await?
            }
        };
        self.adopt(&found)
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        let op = "history.parent";
        let Some(found) = self.find(dir, op).await? else { return self.root_attr().await };
        if found.ino == TREE_ROOT {
            return self.root_attr().await;
        }
        let parents = self.look(&found.then, |nodes| found.inode.parents(nodes)).await?;
        let (above, _) =
            parents.first().ok_or_else(|| Error::new(ErrorKind::NotFound, op).because("it has no name"))?;
        self.adopt(&self.node_of(&found.then, *above).await?)
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        match self.find(ino, "history.getattr").await? {
            Some(found) => Ok(found.attr(ino)),
            None => self.root_attr().await,
        }
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let op = "history.readdir";
        let count = count.clamp(1, PAGE_COUNT_MAX);
        let dir = self.dir(dir, op).await?;
        let after = match after {
            Cookie::START => None,
            after => Some(Rank::from_cookie(after).ok_or_else(|| Error::new(ErrorKind::BadCookie, op))?),
        };
        let mut entries = Vec::new();
        let Some(dir) = dir else {
            let kept = self.now().await?;
            let rest = kept.entries.iter().filter(|(rank, ..)| after.is_none_or(|after| *rank > after));
            let mut rest: Vec<_> = rest.take(count + 1).collect();
            let eof = rest.len() <= count;
            rest.truncate(count);
            let mut nodes = Vec::with_capacity(rest.len());
            for (_, _, then) in &rest {
                nodes.extend(self.attrs_of(then, vec![TREE_ROOT], listing).await);
            }
            // From here nothing is awaited: all are leased, or none.
            for ((rank, name, then), node) in rest.into_iter().zip(&nodes) {
                let place = Place { commit: then.cid, ino: TREE_ROOT };
                entries.push(self.entry(name.clone(), *rank, place, node.as_ref())?);
            }
            return Ok(DirPage { entries, eof });
        };
        let from = after.map_or(Rank::from_bits(0), |after| Rank::from_bits(after.bits() + 1));
        let mut names: Vec<NameEntry> = match from {
            Some(from) => self.look(&dir.then, |nodes| dir.inode.entries(nodes, from, count + 1)).await?,
            None => Vec::new(),
        };
        let eof = names.len() <= count;
        names.truncate(count);
        let inos = names.iter().map(|entry| entry.ino).collect();
        let nodes = self.attrs_of(&dir.then, inos, listing).await;
        for (entry, node) in names.into_iter().zip(&nodes) {
            let place = Place { commit: dir.then.cid, ino: entry.ino };
            entries.push(self.entry(entry.name, entry.rank, place, node.as_ref())?);
        }
        Ok(DirPage { entries, eof })
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        let op = "history.read";
        let found = self.find(ino, op).await?.ok_or_else(|| Error::new(ErrorKind::IsDir, op))?;
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
        let target = self.find(ino, op).await?.and_then(|found| found.inode.target.clone());
        target.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, op).because("only a symlink has a target"))
    }

    /// All zeros: nothing is written here.
    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        self.find(ino, "history.statfs").await?;
        Ok(FsStat { bytes_total: 0, bytes_free: 0, inodes_total: 0, inodes_free: 0 })
    }

    fn handle(&self, ino: Ino) -> Result<Handle> {
        if ino == ROOT {
            return Ok(held::root_handle());
        }
        let place = self.held().place(ino).ok_or_else(|| Error::new(ErrorKind::Stale, "history.handle"))?;
        held::encode(&place)
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let op = "history.resolve";
        let Some(place) = held::decode(handle)? else { return self.root_attr().await };
        let kept = self.now().await?;
        let then = kept.commits.get(&place.commit).ok_or_else(|| no_longer_kept(&place.commit, op))?;
        let found = self.node(then, place.ino).await?;
        self.adopt(&found.ok_or_else(|| Error::new(ErrorKind::Stale, op).because("the commit has no such node"))?)
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
        let found = self.find(ino, op).await?.ok_or_else(no_attr)?;
        self.look(&found.then, |nodes| found.inode.xattrs(nodes)).await?.remove(name).ok_or_else(no_attr)
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        let Some(found) = self.find(ino, "history.listxattr").await? else { return Ok(Vec::new()) };
        Ok(self.look(&found.then, |nodes| found.inode.xattrs(nodes)).await?.into_keys().collect())
    }
}

#[cfg(test)]
mod tests;
