//! Checking out: the state of a tree becomes that of a commit it had, or of any UnixFS directory.
//!
//! What stands in the tree is committed first, so nothing is lost, and the way back is a checkout too. Writers wait
//! meanwhile. Numbers are never given twice: nodes of an own commit have the numbers they had, so their handles lead to
//! them again; the nodes of a directory that comes without attributes get new ones. What the tree lies over is of the tree, and
//! of none of its states. Spec: spec/tree.md #checking-out.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::StreamExt;

use super::{
    Commit, Shared, Tree,
    attrs::{self, Attrs, Change, Changes, InodeChange, NodeCache, Nodes},
    commit::{Committer, Published},
    inode::{Meta, NameEntry},
    ops::new_meta,
    sight::pages_of,
    standing::Standing,
    state::{ROOT, Reading, USED_MAX},
};
use crate::{
    Cid, Codec, Error, ErrorKind, FileKind, Name, Result,
    dag::{Dag, Entry, Link},
    log::detached,
    overlay::BASE_XATTR,
    rank::Rank,
    vfs::{FILE_LEN_MAX, Ino, NewNode, XattrName},
};

/// So many new nodes are gathered before they are put: what adopting a directory holds in memory.
const BATCH_COUNT: usize = 10_000;
/// How deep the directories may lie that are adopted.
const DEPTH_MAX: usize = 1000;

/// Extended attributes.
type Xattrs = BTreeMap<XattrName, Bytes>;

impl Tree {
    /// Makes the state that of `cid`: one of this tree's kept commits, or a UnixFS directory from anywhere.
    ///
    /// Commits what stands first. Nodes that are not in the new state are gone: leased ones become `Stale`. Costs little
    /// for an own commit, and a look at every node for a directory, which comes without owners and modes of its own
    /// unless UnixFS tells them: the tree's owner gets it.
    ///
    /// After an error the state is as before, but where the head could not be read it may have moved: whoever changes
    /// something next finds out, and is refused (`Unavailable`) until the head can be read.
    ///
    /// # Errors
    /// `InvalidArgument` for what is neither; `Unsupported` for a commit of another tree: check out its root;
    /// `NotFound`, `Corrupt` where blocks are missing or bad; as `commit`.
    pub async fn checkout(&self, cid: &Cid) -> Result<Cid> {
        let (shared, cid) = (Arc::clone(&self.shared), *cid);
        detached("tree.checkout", async move {
            let _nobody_writes = shared.gate.write().await;
            let mut committer = shared.committer.lock().await;
            shared.checkout(&mut committer, cid).await
        })
        .await
    }
}

impl Shared {
    async fn checkout(&self, committer: &mut Committer, cid: Cid) -> Result<Cid> {
        self.commit(committer, "").await?;
        let _session = self.dag.begin_write();
        let lease = self.dag.lease(&cid);
        // Of what nothing kept so far the collector may have taken parts.
        lease.settled().await;
        let base = self.lies_over().await?;
        let published = match cid.codec() {
            Some(Codec::DagCbor) => self.own_commit(&cid, base).await?,
            _ => self.adopt(&cid, base).await?,
        };
        self.freeze(committer, &format!("checkout of {cid}")).await?;
        let internal = || Error::new(ErrorKind::Internal, "tree.checkout");
        let pending = committer.pending.clone().ok_or_else(internal)?;
        self.publish(committer, &pending, published, None).await?;
        Ok(self.lock().base.cid)
    }

    /// The attribute of the root that says what all of the tree lies over.
    async fn lies_over(&self) -> Result<Xattrs> {
        let all = self.attempt(&Standing::default(), |attempt| attempt.sight(|sight| sight.xattrs(ROOT))).await?;
        Ok(all.into_iter().filter(|(name, _)| name.as_bytes() == BASE_XATTR.as_bytes()).collect())
    }

    /// The state of a commit that this tree had, and that lies over what it lies over now: it may be older than that.
    async fn own_commit(&self, cid: &Cid, base: Xattrs) -> Result<Published> {
        let op = "tree.checkout";
        let head = self.lock().base.clone();
        let commit = Commit::get(&self.dag, cid).await.map_err(|error| error.at(cid))?;
        let is_own = head.cid == *cid
            || head.commit.prev.contains(cid)
            || head.commit.snapshots.values().any(|snapshot| snapshot == cid);
        let (Some(attrs), true) = (commit.attrs, is_own) else {
            let why = format!("not a kept commit of this tree: check out its root, {}", commit.root);
            return Err(Error::new(ErrorKind::Unsupported, op).at(cid).because(why));
        };
        let attrs = Attrs::open(&self.dag, &attrs).await?;
        let (inode_count, used) = (attrs.inode_count(), attrs.used());
        let next_ino = self.lock().next_ino.max(attrs.next_ino());
        let mut inodes = BTreeMap::new();
        let root = told(&self.dag, |nodes| attrs.inode(nodes, ROOT)).await?;
        if let (Some(root), false) = (root, base.is_empty()) {
            let mut xattrs = told(&self.dag, |nodes| root.xattrs(nodes)).await?;
            xattrs.extend(base);
            let change = InodeChange {
                meta: root.meta,
                content: root.content,
                target: None,
                parents: None,
                data: Change::Keep,
                xattrs: Some(xattrs),
                names: BTreeMap::new(),
            };
            inodes.insert(ROOT, Some(change));
        }
        let changes = Changes { inodes, next_ino, inode_count, used };
        let attrs = attrs::update(&self.dag, Some(&attrs), changes).await?;
        Ok(Published { root: commit.root, attrs, snapshots: head.commit.snapshots.clone() })
    }

    /// The state of a UnixFS directory: every node below it gets a number and attributes.
    async fn adopt(&self, root: &Cid, base: Xattrs) -> Result<Published> {
        let head = self.lock().base.clone();
        let node = self.dag.stat(root).await.map_err(|error| error.at(root))?;
        if node.kind != FileKind::Dir {
            let why = "neither a commit nor a directory";
            return Err(Error::new(ErrorKind::InvalidArgument, "tree.checkout").at(root).because(why));
        }
        // Whatever is missing would be missed only when it is read, and no collection would go past it.
        self.dag.check_whole(root).await?;
        let mut adoption = Adoption {
            shared: self,
            attrs: head.attrs.clone(),
            next_ino: self.lock().next_ino,
            inode_count: 0,
            used: 0,
            changes: BTreeMap::new(),
            base,
        };
        adoption.clear().await?;
        adoption.dir(ROOT, Link { cid: *root, tsize: 0 }, None, 0).await?;
        adoption.put().await?;
        Ok(Published { root: *root, attrs: adoption.attrs, snapshots: head.commit.snapshots.clone() })
    }
}

/// A directory that is being adopted.
struct Adoption<'a> {
    shared: &'a Shared,
    attrs: Attrs,
    next_ino: u64,
    inode_count: u64,
    used: u64,
    changes: BTreeMap<Ino, Option<InodeChange>>,
    /// What the root has.
    base: Xattrs,
}

/// What an attribute tree says, with the nodes loaded that it takes.
async fn told<T>(dag: &Dag, look: impl Fn(&mut dyn Nodes) -> std::result::Result<T, attrs::Halt>) -> Result<T> {
    let (mut held, mut cache) = (HashMap::new(), NodeCache::new(0));
    loop {
        let missing = match look(&mut Reading { held: &held, cache: &mut cache }) {
            Ok(told) => return Ok(told),
            Err(attrs::Halt::Failed(error)) => return Err(error),
            Err(attrs::Halt::Missing(id)) => id,
        };
        held.insert(missing, attrs::load(dag, missing).await?);
    }
}

impl Adoption<'_> {
    /// Begins with no node at all, and numbers that no node had.
    async fn clear(&mut self) -> Result<()> {
        let dag = &self.shared.dag;
        let changes = Changes { inodes: BTreeMap::new(), next_ino: self.next_ino, inode_count: 0, used: 0 };
        self.attrs = attrs::update(dag, None, changes).await?;
        Ok(())
    }

    async fn put(&mut self) -> Result<()> {
        let inodes = std::mem::take(&mut self.changes);
        let Self { next_ino, inode_count, used, .. } = *self;
        let changes = Changes { inodes, next_ino, inode_count, used };
        self.attrs = attrs::update(&self.shared.dag, Some(&self.attrs), changes).await?;
        Ok(())
    }

    /// A number that no node had.
    fn number(&mut self) -> Result<Ino> {
        let number = NonZeroU64::new(self.next_ino).filter(|number| number.get() < attrs::INO_END);
        self.next_ino += 1;
        number.map(Ino).ok_or_else(|| Error::new(ErrorKind::NoSpace, "tree.checkout"))
    }

    async fn add(&mut self, ino: Ino, change: InodeChange) -> Result<()> {
        self.inode_count += 1;
        let used = self.used.checked_add(change.meta.used).filter(|used| *used <= USED_MAX);
        self.used = used.ok_or_else(|| {
            Error::new(ErrorKind::NoSpace, "tree.checkout").because("its files claim more bytes than can be counted")
        })?;
        self.changes.insert(ino, Some(change));
        if self.changes.len() >= BATCH_COUNT { self.put().await } else { Ok(()) }
    }

    /// Adopts a directory and all below it.
    async fn dir(&mut self, ino: Ino, link: Link, parent: Option<(Ino, Name)>, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            let why = "directories that lie too deep";
            return Err(Error::new(ErrorKind::InvalidArgument, "tree.checkout").at(link.cid).because(why));
        }
        let mut names = BTreeMap::new();
        let mut sub_count = 0;
        let dag = self.shared.dag.clone();
        let mut entries = dag.list(&link.cid, 0);
        let mut last: Option<Rank> = None;
        while let Some(entry) = entries.next().await {
            let Entry { name, link } = entry?;
            let first = Rank::of(name.as_bytes());
            let rank = match last {
                Some(last) if last.hash_min() == first.hash_min() => last.next().ok_or_else(|| {
                    Error::new(ErrorKind::NoSpace, "tree.checkout").because("65536 names of one hash in a directory")
                })?,
                _ => first,
            };
            last = Some(rank);
            let child = self.number()?;
            let node = dag.stat(&link.cid).await.map_err(|error| error.at(link.cid))?;
            let parent = Some((ino, name.clone()));
            if node.kind == FileKind::Dir {
                sub_count += 1;
                Box::pin(self.dir(child, link, parent, depth + 1)).await?;
            } else {
                self.leaf(child, link, parent, &node).await?;
            }
            names.insert(rank, Some(NameEntry { rank, name, ino: child }));
        }
        let node = dag.stat(&link.cid).await?;
        let mut meta = self.meta(&NewNode::Dir, &node);
        meta.nlink = 2 + sub_count;
        meta.entry_count = names.len() as u64;
        let parents = Some(parent.into_iter().collect());
        let change = InodeChange {
            meta,
            content: Some(link),
            target: None,
            parents,
            data: Change::Set(None),
            xattrs: (ino == ROOT).then(|| std::mem::take(&mut self.base)),
            names,
        };
        self.add(ino, change).await
    }

    /// Adopts a file or a symlink.
    async fn leaf(&mut self, ino: Ino, link: Link, parent: Option<(Ino, Name)>, node: &crate::dag::Node) -> Result<()> {
        let (mut meta, target) = match node.kind {
            FileKind::Symlink => {
                let target = self.shared.dag.read_symlink(&link.cid).await?;
                (self.meta(&NewNode::Symlink(target.clone()), node), Some(target))
            }
            _ => (self.meta(&NewNode::File, node), None),
        };
        if node.kind == FileKind::File {
            if node.size > FILE_LEN_MAX {
                let why = "a file that claims to be longer than any can be";
                return Err(Error::new(ErrorKind::TooLarge, "tree.checkout").at(link.cid).because(why));
            }
            meta.size = node.size;
            meta.used = pages_of(&(0..node.size)).end;
        }
        let parents = Some(parent.into_iter().collect());
        let names = BTreeMap::new();
        let change =
            InodeChange { meta, content: Some(link), target, parents, data: Change::Set(None), xattrs: None, names };
        self.add(ino, change).await
    }

    fn meta(&self, new: &NewNode, node: &crate::dag::Node) -> Meta {
        let now = (self.shared.options.env.now)();
        let (uid, gid) = self.shared.options.owner;
        let meta = new_meta(new, now);
        let mode = node.mode.map_or(meta.mode, |mode| mode & 0o7777);
        Meta { uid, gid, mode, mtime: node.mtime.unwrap_or(now), ..meta }
    }
}
