//! What a file was: each content of it that the kept commits have, to be read and to be brought back.
//!
//! A commit is asked for the file of that name, as programs that save a file beside its name and rename it onto that make a
//! new node each time; one that has no such name, for the number, whatever it was called then.

use std::{ops::Range, sync::Arc, time::SystemTime};

use futures_util::{StreamExt, stream};

use super::{History, STAT_COUNT, Then, no_longer_kept};
use crate::{
    Cid, Error, ErrorKind, FileKind, Name, Result,
    dag::DagLease,
    tree::{Transaction, attrs::Inode, ops::Part},
    vfs::{Ino, Lease, NewNode, SetAttr, Vfs},
};

/// A content that a file had, for as long as one kept commit after the other had the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// When the oldest of these commits was made.
    pub time: SystemTime,
    /// When the file was last written then.
    pub mtime: SystemTime,
    /// How long it was, in bytes.
    pub len: u64,
    /// Its content.
    pub cid: Cid,
    /// The newest of these commits: the version is there for as long as this one is kept.
    pub commit: Cid,
    /// The number it had.
    ino: Ino,
}

impl History {
    /// The versions of a file of the tree, newest first; none where no commit has it. Of what changed since the last commit
    /// there is none yet.
    ///
    /// It need not be there any more: what had its name in this directory is found all the same.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Name, block, dag::{Dag, DagOptions}, heads::MemHeads, media::MemMedia, testing};
    /// # use muxfs::{tree::{History, Tree, TreeOptions}, vfs::{NewNode, SetAttr, Vfs}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// # let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// # let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await?;
    /// let (history, name) = (History::new(tree.clone()), Name::new(b"notes")?);
    /// let file = tree.create(tree.root(), &name, NewNode::File, SetAttr::default()).await?.node.ino;
    /// for text in ["one", "two"] {
    ///     tree.write(file, 0, text.into(), false).await?;
    ///     tree.commit("").await?;
    /// }
    /// let versions = history.versions(tree.root(), &name).await?;
    /// assert_eq!(versions.len(), 2);
    /// history.restore(&versions[1], tree.root(), &name).await?;
    /// assert_eq!(tree.read(file, 0, 9).await?, "one");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `IsDir`, or `InvalidArgument` for what is no file now; those of reading the commits.
    pub async fn versions(&self, dir: Ino, name: &Name) -> Result<Vec<Version>> {
        let number = match self.tree.lookup(dir, name).await {
            Ok(attr) => {
                self.tree.release(attr.ino, 1);
                check_kind(attr.kind, "history.versions").map_err(|error| error.at(name))?;
                Some(attr.ino)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let kept = self.now().await?;
        let (head, commit) = self.tree.head();
        // The clock may tell several the same time.
        let place = |cid: &Cid| [head].iter().chain(&commit.prev).position(|kept| kept == cid).unwrap_or(usize::MAX);
        let mut commits: Vec<_> =
            kept.commits.values().map(|then| (then.commit.time, place(&then.cid), then.clone())).collect();
        commits.sort_by(|one, other| (other.0, one.1, one.2.cid).cmp(&(one.0, other.1, other.2.cid)));
        let find = |(_, _, then): (SystemTime, usize, Arc<Then>)| async move {
            let found = self.file_in(&then, dir, number, name).await;
            (then, found)
        };
        let mut found = stream::iter(commits).map(find).buffered(STAT_COUNT);
        let mut versions: Vec<Version> = Vec::new();
        // Where the commit before did not have it, it is a version of its own.
        let mut is_run = false;
        while let Some((then, found)) = found.next().await {
            let found = match found {
                Ok(found) => found.and_then(|(ino, inode)| Some((ino, inode.content?.cid, inode.meta))),
                // Let go meanwhile, or content from elsewhere, which has no attributes.
                Err(error) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::Unsupported) => None,
                Err(error) => return Err(error),
            };
            let Some((ino, cid, meta)) = found else {
                is_run = false;
                continue;
            };
            match versions.last_mut().filter(|last| is_run && last.cid == cid) {
                Some(last) => (last.time, last.mtime) = (then.commit.time, meta.mtime),
                None => versions.push(Version {
                    time: then.commit.time,
                    mtime: meta.mtime,
                    len: meta.size,
                    cid,
                    commit: then.cid,
                    ino,
                }),
            }
            is_run = true;
        }
        Ok(versions)
    }

    /// Keeps the content of a version from being collected, for as long as the lease lives: it can be read by its CID.
    ///
    /// # Errors
    /// `Stale` where its commit is no longer kept.
    pub async fn hold(&self, version: &Version) -> Result<DagLease> {
        let lease = self.dag().lease(&version.cid);
        self.then_of(version, "history.hold").await?;
        Ok(lease)
    }

    /// Makes a file what it was: its bytes, and its holes. What else it has, and who has it open, stays; where there is no
    /// such name, a file is made with the mode and the owner that it had. One change, which a sync makes durable; the
    /// blocks are shared.
    ///
    /// # Errors
    /// `Stale` where the version's commit is no longer kept, or the directory is gone; `IsDir`, or `InvalidArgument` where
    /// the name is of something else; those of a change.
    pub async fn restore(&self, version: &Version, dir: Ino, name: &Name) -> Result<()> {
        let op = "history.restore";
        let lease = self.dag().lease(&version.cid);
        let then = self.then_of(version, op).await?;
        let inode = self.inode_of(&then, version.ino).await?;
        if inode.content.map(|link| link.cid) != Some(version.cid) {
            let why = "the commit has another content of the file";
            return Err(Error::new(ErrorKind::InvalidArgument, op).at(name).because(why));
        }
        let data = self.look(&then, |nodes| inode.data(nodes)).await?;
        let parts = parts(&version.cid, inode.meta.size, data);
        let restored = self.tree.transaction(|t| bring_back(t, dir, name, &inode, &parts)).await;
        drop(lease);
        restored
    }

    async fn then_of(&self, version: &Version, op: &'static str) -> Result<Arc<Then>> {
        let kept = self.now().await?;
        kept.commits.get(&version.commit).cloned().ok_or_else(|| no_longer_kept(&version.commit, op))
    }

    /// The file in a commit: by its name in the directory of that number, or else by its own number.
    async fn file_in(
        &self,
        then: &Then,
        dir: Ino,
        number: Option<Ino>,
        name: &Name,
    ) -> Result<Option<(Ino, Arc<Inode>)>> {
        let is_file = |inode: &Arc<Inode>| inode.meta.kind == FileKind::File;
        let above = self.inode(then, dir).await?.filter(|inode| inode.meta.kind == FileKind::Dir);
        if let Some(above) = above
            && let Some(entry) = self.look(then, |nodes| above.entry(nodes, name)).await?
        {
            let inode = self.inode_of(then, entry.ino).await?;
            if is_file(&inode) {
                return Ok(Some((entry.ino, inode)));
            }
        }
        let Some(ino) = number else { return Ok(None) };
        Ok(self.inode(then, ino).await?.filter(is_file).map(|inode| (ino, inode)))
    }
}

fn check_kind(kind: FileKind, op: &'static str) -> Result<()> {
    match kind {
        FileKind::File => Ok(()),
        FileKind::Dir => Err(Error::new(ErrorKind::IsDir, op)),
        _ => Err(Error::new(ErrorKind::InvalidArgument, op).because("only a file has versions")),
    }
}

/// What a file of `len` bytes is made of, where `data` tells which ranges are no holes, if any is.
fn parts(cid: &Cid, len: u64, data: Option<Vec<Range<u64>>>) -> Vec<Part> {
    let all = 0..len;
    let data = data.unwrap_or_else(|| vec![all]);
    let mut parts = Vec::new();
    let mut at = 0;
    for range in
        data.into_iter().map(|range| range.start.min(len)..range.end.min(len)).filter(|range| !range.is_empty())
    {
        if at < range.start {
            parts.push(Part::Hole(at..range.start));
        }
        at = range.end;
        parts.push(Part::Slice(range.clone(), *cid, range.start));
    }
    if at < len {
        parts.push(Part::Hole(at..len));
    }
    parts
}

async fn bring_back(t: Transaction, dir: Ino, name: &Name, then: &Inode, parts: &[Part]) -> Result<()> {
    let ino = match t.lookup(dir, name).await {
        Ok(attr) => {
            let file = Lease::adopt(Arc::new(t.clone()), attr.ino);
            check_kind(attr.kind, "history.restore").map_err(|error| error.at(name))?;
            t.setattr(file.ino(), SetAttr { size: Some(0), ..SetAttr::default() }).await?;
            file
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let meta = &then.meta;
            let set = SetAttr { mode: Some(meta.mode), uid: Some(meta.uid), gid: Some(meta.gid), ..SetAttr::default() };
            Lease::adopt(Arc::new(t.clone()), t.create(dir, name, NewNode::File, set).await?.node.ino)
        }
        Err(error) => return Err(error),
    };
    t.write_parts(ino.ino(), 0..then.meta.size, parts).await
}
