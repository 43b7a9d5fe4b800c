//! Less of a [`Vfs`]: the part below one directory, or all of it without its changes.
//!
//! An export of a part of a tree and the home of a user are subtrees; an export that only reads, and every view of what
//! is immutable, is a read-only view. Both are views: what others change below shows up.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Attr, Changed, DirChanged, Handle, Ino, Lease, NewNode, Place, RemoveKind, RenameMode, Renamed, SetAttr, Vfs,
    XattrMode, XattrName, read_only,
};
use crate::{Error, ErrorKind, FileKind, Name, Result, forward_vfs};

/// How many directories a handle may lie below the top of a subtree: bounds the climb that each costs. Deeper ones work
/// by name, and their handles are `Stale`.
pub const SUBTREE_DEPTH_MAX: usize = 1024;

/// The part of `vfs` below `lease`: no name, no ".." and no handle leads out of it.
///
/// A handle is followed upwards to the top before it is believed, so each costs its depth; it is `Stale` where it leads
/// elsewhere, or where the file system below cannot tell where a file lies ([`Vfs::parent`]). A file that also has a
/// name outside is one file: what is done to it shows there.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::sync::Arc;
/// use muxfs::{Name, testing, testing::model::ModelFs};
/// use muxfs::vfs::{Lease, NewNode, SetAttr, Vfs, narrow::subtree};
/// let vfs: Arc<dyn Vfs> = ModelFs::new(testing::env());
/// let home = vfs.create(vfs.root(), &Name::new(b"home")?, NewNode::Dir, SetAttr::default()).await?;
/// let below = subtree(vfs.clone(), Lease::adopt(vfs.clone(), home.node.ino));
/// assert_eq!(below.parent(below.root()).await?.ino, home.node.ino);
/// # below.release(below.root(), 1);
/// # Ok::<(), muxfs::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn subtree(vfs: Arc<dyn Vfs>, lease: Lease) -> Arc<dyn Vfs> {
    Arc::new(Subtree { vfs, top: lease })
}

/// `vfs` without its changes: each is `ReadOnly`.
///
/// ```
/// use muxfs::{testing, testing::model::ModelFs, vfs::narrow::read_only_view};
/// let vfs = read_only_view(ModelFs::new(testing::env()));
/// # drop(vfs);
/// ```
pub fn read_only_view(vfs: Arc<dyn Vfs>) -> Arc<dyn Vfs> {
    Arc::new(ReadOnlyView { vfs })
}

#[derive(Debug)]
struct Subtree {
    vfs: Arc<dyn Vfs>,
    top: Lease,
}

impl Subtree {
    /// Passes a leased node on if it is the top or below it, else gives it back.
    async fn inside(&self, attr: Attr, op: &'static str) -> Result<Attr> {
        let found = Lease::adopt(self.vfs.clone(), attr.ino);
        let mut at = found.clone();
        let mut kind = attr.kind;
        for _ in 0..SUBTREE_DEPTH_MAX {
            if at.ino() == self.top.ino() {
                // The caller takes over what the call below leased.
                self.vfs.retain(attr.ino);
                return Ok(attr);
            }
            let above = match self.vfs.parent(at.ino()).await {
                Ok(above) => above,
                Err(error) if matches!(error.kind(), ErrorKind::NotDir | ErrorKind::NotFound) => break,
                Err(error) => return Err(error),
            };
            let above_ino = above.ino;
            let lease = Lease::adopt(self.vfs.clone(), above_ino);
            if above_ino == at.ino() && kind == FileKind::Dir {
                break;
            }
            kind = above.kind;
            at = lease;
        }
        Err(Error::new(ErrorKind::Stale, op).because("not in this part of the tree"))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Subtree {
    forward_vfs!(vfs: lookup, expect, getattr, readdir, read, host_file, readlink, statfs, handle, retain, release);
    forward_vfs!(vfs: setattr, write, create, remove, rename, link, allocate, punch_hole, copy_range, seek);
    forward_vfs!(vfs: getxattr, listxattr, setxattr, removexattr, sync_inode);

    fn root(&self) -> Ino {
        self.top.ino()
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        if dir == self.top.ino() {
            let attr = self.vfs.getattr(dir).await?;
            self.vfs.retain(dir);
            return Ok(attr);
        }
        // Whoever moved the directory away must not have taken the caller along.
        let above = self.vfs.parent(dir).await?;
        self.inside(above, "subtree.parent").await
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let attr = self.vfs.resolve(handle).await?;
        self.inside(attr, "subtree.resolve").await
    }

    // Of the root, everything: below, only the true root means that.
    async fn sync(&self, ino: Ino) -> Result<()> {
        self.vfs.sync(if ino == self.top.ino() { self.vfs.root() } else { ino }).await
    }
}

#[derive(Debug)]
struct ReadOnlyView {
    vfs: Arc<dyn Vfs>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for ReadOnlyView {
    forward_vfs!(vfs: root, lookup, expect, parent, getattr, readdir, read, host_file, readlink, statfs, handle);
    forward_vfs!(vfs: resolve, retain, release, seek, getxattr, listxattr, sync, sync_inode);

    async fn setattr(&self, _ino: Ino, _set: SetAttr) -> Result<Changed> {
        read_only("read_only.setattr")
    }

    async fn write(&self, _ino: Ino, _offset: u64, _data: Bytes, _clear_suid: bool) -> Result<Changed> {
        read_only("read_only.write")
    }

    async fn create(&self, _dir: Ino, _name: &Name, _node: NewNode, _set: SetAttr) -> Result<DirChanged> {
        read_only("read_only.create")
    }

    async fn remove(&self, _place: Place<'_>, _kind: RemoveKind) -> Result<DirChanged> {
        read_only("read_only.remove")
    }

    async fn rename(&self, _from: Place<'_>, _to: Place<'_>, _mode: RenameMode) -> Result<Renamed> {
        read_only("read_only.rename")
    }

    async fn link(&self, _ino: Ino, _dir: Ino, _name: &Name) -> Result<DirChanged> {
        read_only("read_only.link")
    }

    async fn allocate(&self, _ino: Ino, _range: Range<u64>, _keep_size: bool) -> Result<Changed> {
        read_only("read_only.allocate")
    }

    async fn punch_hole(&self, _ino: Ino, _range: Range<u64>) -> Result<Changed> {
        read_only("read_only.punch_hole")
    }

    async fn copy_range(&self, _from: (Ino, u64), _to: (Ino, u64), _len: u64) -> Result<(u64, Changed)> {
        read_only("read_only.copy_range")
    }

    async fn setxattr(&self, _ino: Ino, _name: &XattrName, _value: Bytes, _mode: XattrMode) -> Result<Changed> {
        read_only("read_only.setxattr")
    }

    async fn removexattr(&self, _ino: Ino, _name: &XattrName) -> Result<Changed> {
        read_only("read_only.removexattr")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, model::ModelFs};

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a good name")
    }

    async fn make(vfs: &dyn Vfs, dir: Ino, text: &str, node: NewNode) -> Ino {
        vfs.create(dir, &name(text), node, SetAttr::default()).await.expect("create").node.ino
    }

    /// `/top/in/file`, `/out/file`, and a view of `/top`.
    async fn world() -> (Arc<ModelFs>, Arc<dyn Vfs>, [Ino; 5]) {
        let fs = ModelFs::new(testing::env());
        let top = make(&*fs, fs.root(), "top", NewNode::Dir).await;
        let inner = make(&*fs, top, "in", NewNode::Dir).await;
        let file = make(&*fs, inner, "file", NewNode::File).await;
        let out = make(&*fs, fs.root(), "out", NewNode::Dir).await;
        let outer = make(&*fs, out, "file", NewNode::File).await;
        let view = subtree(fs.clone(), Lease::adopt(fs.clone(), top));
        (fs, view, [top, inner, file, out, outer])
    }

    #[tokio::test]
    async fn no_handle_leads_out() {
        let (fs, view, [top, inner, file, out, outer]) = world().await;
        for ino in [top, inner, file] {
            let leases = fs.lease_count();
            let handle = view.handle(ino).expect("handle");
            assert_eq!(view.resolve(&handle).await.expect("inside").ino, ino);
            view.release(ino, 1);
            assert_eq!(fs.lease_count(), leases);
        }
        for ino in [fs.root(), out, outer] {
            let leases = fs.lease_count();
            let error = view.resolve(&fs.handle(ino).expect("handle")).await.expect_err("outside");
            assert_eq!((error.kind(), fs.lease_count()), (ErrorKind::Stale, leases));
        }
    }

    /// A directory that was leased inside and then moved out does not take the caller along.
    #[tokio::test]
    async fn no_dot_dot_leads_out() {
        let (fs, view, [top, inner, _, out, _]) = world().await;
        assert_eq!(view.parent(view.root()).await.expect("itself").ino, top);
        assert_eq!(view.parent(inner).await.expect("the top").ino, top);
        let from = Place { dir: top, name: &name("in"), expect: None };
        fs.rename(from, Place { dir: out, ..from }, RenameMode::Replace).await.expect("rename");
        let leases = fs.lease_count();
        assert_eq!(view.parent(inner).await.expect_err("moved out").kind(), ErrorKind::Stale);
        assert_eq!(fs.lease_count(), leases);
    }

    #[tokio::test]
    async fn a_view_that_only_reads_refuses_each_change() {
        let fs = ModelFs::new(testing::env());
        let file = make(&*fs, fs.root(), "file", NewNode::File).await;
        let before = fs.getattr(file).await.expect("getattr").change;
        let view = read_only_view(fs.clone());
        let (root, taken, new) = (view.root(), name("file"), name("new"));
        let xattr = XattrName::new(b"user.a").expect("a good name");
        let place = Place { dir: root, name: &taken, expect: None };
        let kinds = [
            view.setattr(file, SetAttr::default()).await.map(drop),
            view.write(file, 0, Bytes::new(), false).await.map(drop),
            view.create(root, &new, NewNode::File, SetAttr::default()).await.map(drop),
            view.remove(place, RemoveKind::NonDir).await.map(drop),
            view.rename(place, Place { name: &new, ..place }, RenameMode::Replace).await.map(drop),
            view.link(file, root, &new).await.map(drop),
            view.allocate(file, 0..1, false).await.map(drop),
            view.punch_hole(file, 0..1).await.map(drop),
            view.copy_range((file, 0), (file, 1), 1).await.map(drop),
            view.setxattr(file, &xattr, Bytes::new(), XattrMode::Set).await.map(drop),
            view.removexattr(file, &xattr).await.map(drop),
        ]
        .map(|result| result.expect_err("read-only").kind());
        assert_eq!(kinds, [ErrorKind::ReadOnly; 11]);
        assert_eq!(fs.getattr(file).await.expect("getattr").change, before);
        assert_eq!(view.lookup(root, &taken).await.expect("reading works").ino, file);
    }
}
