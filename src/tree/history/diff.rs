//! What changed between two commits, by path.
//!
//! Found by inode: what is equal in both is not read, so it costs what changed. A directory that was moved is one change;
//! what is below it moved along. A directory is changed where its owner or mode is: that names in it came and went is
//! told of those. A node is told to be renamed where its own name, or the directory it is in, is another.

use std::sync::Arc;

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::{History, Then, no_longer_kept};
use crate::{
    Cid, Error, ErrorKind, FileKind, Name, Result,
    tree::{
        attrs::{Difference, Inode, diff},
        state::ROOT,
    },
    vfs::Ino,
};

/// The deepest path that is told: with names of one byte, far more than a client can name.
const DEPTH_MAX: usize = 1 << 16;

/// A path at which two commits differ; the names from the root down.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathChange {
    /// It is only in the second.
    Added(Vec<Name>),
    /// It is only in the first.
    Removed(Vec<Name>),
    /// It is in both, and has other bytes or attributes.
    Changed(Vec<Name>),
    /// A node, with all below it, is elsewhere; it may be changed too.
    Renamed {
        /// Where it is in the first.
        from: Vec<Name>,
        /// Where it is in the second.
        to: Vec<Name>,
    },
}

impl History {
    /// What changed from one kept commit to another, in the order of inode numbers. Ends after 1000 errors.
    ///
    /// # Errors
    /// `Stale` for a commit that is not kept; those of reading.
    pub async fn diff(self: &Arc<Self>, before: &Cid, after: &Cid) -> Result<BoxStream<'static, Result<PathChange>>> {
        let op = "history.diff";
        let kept = self.now().await?;
        let then = |cid: &Cid| kept.commits.get(cid).cloned().ok_or_else(|| no_longer_kept(cid, op));
        let (before, after) = (then(before)?, then(after)?);
        let (old, new) = (self.attrs(&before).await?.clone(), self.attrs(&after).await?.clone());
        let differences = diff(self.dag(), &old, &new);
        let history = Arc::clone(self);
        let changes = differences.then(move |difference| {
            let (history, before, after) = (history.clone(), before.clone(), after.clone());
            async move {
                match history.changes(&before, &after, difference?).await {
                    Ok(changes) => Ok(stream::iter(changes.into_iter().map(Ok))),
                    Err(error) => Err(error),
                }
            }
        });
        let flat = changes.flat_map(|changes| match changes {
            Ok(changes) => changes.boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        });
        Ok(flat.boxed())
    }

    async fn changes(&self, before: &Arc<Then>, after: &Arc<Then>, found: Difference) -> Result<Vec<PathChange>> {
        let Difference { ino, before: old, after: new } = found;
        let (from, mut to) = (self.names_of(before, old.as_ref()).await?, self.names_of(after, new.as_ref()).await?);
        let (stayed, gone): (Vec<_>, Vec<_>) = from.into_iter().partition(|name| to.contains(name));
        to.retain(|name| !stayed.contains(name));
        if let ([from], [to]) = (&gone[..], &to[..]) {
            let (from, to) = (self.path(before, from).await?, self.path(after, to).await?);
            return Ok(vec![PathChange::Renamed { from, to }]);
        }
        let moved = !gone.is_empty() || !to.is_empty();
        let is_changed = old.zip(new).is_some_and(|(old, new)| differ(&old, &new, moved));
        let mut changes = Vec::new();
        if is_changed && ino == ROOT {
            changes.push(PathChange::Changed(Vec::new()));
        }
        for name in &gone {
            // Where another node has the name now, that one tells it.
            if !self.has(after, name).await? {
                changes.push(PathChange::Removed(self.path(before, name).await?));
            }
        }
        for name in &to {
            let path = self.path(after, name).await?;
            let replaces = self.has(before, name).await?;
            changes.push(if replaces { PathChange::Changed(path) } else { PathChange::Added(path) });
        }
        for name in stayed.iter().filter(|_| is_changed) {
            changes.push(PathChange::Changed(self.path(after, name).await?));
        }
        Ok(changes)
    }

    /// The names of a node, each in its directory.
    async fn names_of(&self, then: &Then, inode: Option<&Arc<Inode>>) -> Result<Vec<(Ino, Name)>> {
        let Some(inode) = inode else { return Ok(Vec::new()) };
        self.look(then, |nodes| inode.parents(nodes)).await
    }

    /// Whether a directory, by its number, has a name in a commit.
    async fn has(&self, then: &Arc<Then>, (dir, name): &(Ino, Name)) -> Result<bool> {
        let Some(inode) = self.inode(then, *dir).await? else { return Ok(false) };
        let is_dir = inode.meta.kind == FileKind::Dir;
        Ok(is_dir && self.look(then, |nodes| inode.entry(nodes, name)).await?.is_some())
    }

    /// The path of a name in a directory.
    async fn path(&self, then: &Arc<Then>, (dir, name): &(Ino, Name)) -> Result<Vec<Name>> {
        let (mut path, mut above) = (vec![name.clone()], *dir);
        while above != ROOT {
            let inode = self.inode_of(then, above).await?;
            let mut names = self.names_of(then, Some(&inode)).await?;
            let (dir, name) = names.pop().filter(|_| path.len() < DEPTH_MAX).ok_or_else(|| {
                let why = format!("inode {} leads to no root", above.0);
                Error::new(ErrorKind::Corrupt, "history.diff").at(then.cid).because(why)
            })?;
            path.push(name);
            above = dir;
        }
        path.reverse();
        Ok(path)
    }
}

/// Whether a client would see a difference, other than in when it was read. A name more or less of it moves `ctime`, and
/// is told as such.
fn differ(old: &Inode, new: &Inode, moved: bool) -> bool {
    let (one, other) = (&old.meta, &new.meta);
    let owned = (one.kind, one.mode, one.uid, one.gid) != (other.kind, other.mode, other.uid, other.gid);
    if one.kind == FileKind::Dir {
        return owned;
    }
    let cid = |inode: &Inode| inode.content.map(|link| link.cid);
    owned
        || (one.rdev, one.mtime) != (other.rdev, other.mtime)
        || (cid(old), &old.target) != (cid(new), &new.target)
        || (!moved && one.ctime != other.ctime)
}
