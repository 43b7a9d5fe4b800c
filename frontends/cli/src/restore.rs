//! Copying a part of the history back into the tree: kinds, bytes, links, owners, modes, times and extended attributes.
//!
//! The copy is made beside its place and put there at one stroke, so whoever reads meets what stood before or what was
//! restored, whole.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;
use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{
        Attr, Cookie, Ino, Lease, Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, SetTime, Vfs, XattrMode,
        as_store::PUT_PREFIX,
    },
};

/// How much of a file is copied at a time: a chunk of the default profile, which goes past the journal.
const COPY_LEN: u32 = 1 << 20;
/// How many entries are asked for at a time.
const PAGE_COUNT: usize = 1024;

/// One copy under way.
struct Copy<'a> {
    vfs: &'a Arc<dyn Vfs>,
    /// Nodes with several names, as they were copied first.
    links: HashMap<Ino, Lease>,
    count: u64,
}

/// Makes `name` in `dir` a copy of a node and of all below it, and gives how many nodes that are. `random` makes the
/// name unique under which it is made.
///
/// # Errors
/// Those of the file system; what was begun is then removed.
pub(crate) async fn copy(
    vfs: &Arc<dyn Vfs>,
    from: (Ino, &Attr),
    (dir, name): (Ino, &Name),
    random: u64,
) -> Result<u64> {
    let part = Name::new(format!("{PUT_PREFIX}{random:016x}").as_bytes())?;
    let mut copying = Copy { vfs, links: HashMap::new(), count: 0 };
    let copied = match copying.node(from.0, from.1, dir, &part).await {
        Ok(()) => put_in_place(vfs, dir, &part, name).await,
        Err(error) => Err(error),
    };
    // After an exchange it is what stood there before.
    let removed = remove(vfs, dir, &part).await;
    copied?;
    removed?;
    vfs.sync(vfs.root()).await?;
    Ok(copying.count)
}

async fn put_in_place(vfs: &Arc<dyn Vfs>, dir: Ino, part: &Name, name: &Name) -> Result<()> {
    let from = Place { dir, name: part, expect: None };
    let to = Place { name, ..from };
    match vfs.rename(from, to, RenameMode::NoReplace).await {
        Err(error) if error.kind() == ErrorKind::Exists => vfs.rename(from, to, RenameMode::Exchange).await.map(drop),
        renamed => renamed.map(drop),
    }
}

impl Copy<'_> {
    fn node<'b>(&'b mut self, from: Ino, attr: &'b Attr, dir: Ino, name: &'b Name) -> BoxFuture<'b, Result<()>> {
        Box::pin(async move {
            self.count += 1;
            if let Some(first) = self.links.get(&from) {
                let linked = self.vfs.link(first.ino(), dir, name).await?;
                self.vfs.release(linked.node.ino, 1);
                return Ok(());
            }
            let new = match attr.kind {
                FileKind::File => NewNode::File,
                FileKind::Dir => NewNode::Dir,
                FileKind::Symlink => NewNode::Symlink(self.vfs.readlink(from).await?),
                FileKind::Fifo => NewNode::Fifo,
                FileKind::Socket => NewNode::Socket,
                FileKind::CharDevice => NewNode::CharDevice(attr.rdev),
                FileKind::BlockDevice => NewNode::BlockDevice(attr.rdev),
            };
            let made = self.vfs.create(dir, name, new, SetAttr::default()).await?;
            let made = Lease::adopt(self.vfs.clone(), made.node.ino);
            match attr.kind {
                FileKind::File => self.bytes(from, attr.size, made.ino()).await?,
                FileKind::Dir => self.entries(from, made.ino()).await?,
                _ => {}
            }
            for xattr in self.vfs.listxattr(from).await? {
                let value = self.vfs.getxattr(from, &xattr).await?;
                self.vfs.setxattr(made.ino(), &xattr, value, XattrMode::Set).await?;
            }
            let set = SetAttr {
                mode: Some(attr.mode),
                uid: Some(attr.uid),
                gid: Some(attr.gid),
                atime: Some(SetTime::At(attr.atime)),
                mtime: Some(SetTime::At(attr.mtime)),
                size: None,
            };
            self.vfs.setattr(made.ino(), set).await?;
            if attr.kind != FileKind::Dir && attr.nlink > 1 {
                self.links.insert(from, made);
            }
            Ok(())
        })
    }

    async fn bytes(&self, from: Ino, size: u64, to: Ino) -> Result<()> {
        let mut offset = 0;
        while offset < size {
            let data = self.vfs.read(from, offset, COPY_LEN).await?;
            if data.is_empty() {
                return Err(Error::new(ErrorKind::Corrupt, "restore.read").because("the file is shorter than it says"));
            }
            let len = data.len() as u64;
            // A hole stays one.
            if data.iter().any(|byte| *byte != 0) {
                self.vfs.write(to, offset, data, false).await?;
            }
            offset += len;
        }
        self.vfs.setattr(to, SetAttr { size: Some(size), ..SetAttr::default() }).await.map(drop)
    }

    async fn entries(&mut self, from: Ino, to: Ino) -> Result<()> {
        let mut after = Cookie::START;
        loop {
            let page = self.vfs.readdir(from, after, PAGE_COUNT, Listing::Names).await?;
            for entry in &page.entries {
                let attr = self.vfs.lookup(from, &entry.name).await?;
                let node = Lease::adopt(self.vfs.clone(), attr.ino);
                self.node(node.ino(), &attr, to, &entry.name).await?;
                after = entry.cookie;
            }
            if page.eof {
                return Ok(());
            }
        }
    }
}

/// Removes a node and all below it, if it is there.
fn remove<'a>(vfs: &'a Arc<dyn Vfs>, dir: Ino, name: &'a Name) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let node = match vfs.lookup(dir, name).await {
            Ok(attr) => (Lease::adopt(vfs.clone(), attr.ino), attr.kind),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let kind = if node.1 == FileKind::Dir { RemoveKind::Dir } else { RemoveKind::NonDir };
        if node.1 == FileKind::Dir {
            loop {
                let page = vfs.readdir(node.0.ino(), Cookie::START, PAGE_COUNT, Listing::Names).await?;
                for entry in &page.entries {
                    remove(vfs, node.0.ino(), &entry.name).await?;
                }
                if page.eof {
                    break;
                }
            }
        }
        vfs.remove(Place { dir, name, expect: None }, kind).await.map(drop)
    })
}

#[cfg(test)]
mod tests {
    use muxfs::{
        testing::{self, model::ModelFs},
        vfs::{Rdev, XattrName, ext::list},
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a good name")
    }

    async fn make(vfs: &Arc<dyn Vfs>, dir: Ino, text: &str, node: NewNode, mode: u32) -> Ino {
        let set = SetAttr { mode: Some(mode), uid: Some(7), gid: Some(8), ..SetAttr::default() };
        vfs.create(dir, &name(text), node, set).await.expect("create").node.ino
    }

    async fn find(vfs: &Arc<dyn Vfs>, dir: Ino, text: &str) -> Attr {
        vfs.lookup(dir, &name(text)).await.expect(text)
    }

    /// A directory with what directories have.
    async fn world() -> (Arc<ModelFs>, Arc<dyn Vfs>, Ino) {
        let model = ModelFs::new(testing::env());
        let vfs: Arc<dyn Vfs> = model.clone();
        let from = make(&vfs, vfs.root(), "from", NewNode::Dir, 0o1750).await;
        let file = make(&vfs, from, "file", NewNode::File, 0o4711).await;
        vfs.write(file, 3 << 20, "after a hole".into(), false).await.expect("write");
        let xattr = XattrName::new(b"user.note").expect("a good name");
        vfs.setxattr(file, &xattr, "kept".into(), XattrMode::Set).await.expect("setxattr");
        vfs.link(file, from, &name("link")).await.expect("link");
        make(&vfs, from, "symlink", NewNode::Symlink("file".into()), 0o777).await;
        make(&vfs, from, "device", NewNode::CharDevice(Rdev { major: 1, minor: 2 }), 0o600).await;
        make(&vfs, from, "pipe", NewNode::Fifo, 0o600).await;
        let sub = make(&vfs, from, "sub", NewNode::Dir, 0o700).await;
        make(&vfs, sub, "inner", NewNode::File, 0o600).await;
        (model, vfs, from)
    }

    #[tokio::test]
    async fn a_copy_is_what_it_is_a_copy_of() {
        let (model, vfs, from) = world().await;
        let root = vfs.root();
        // What stands there is replaced, with all that is in it.
        let old = make(&vfs, root, "to", NewNode::Dir, 0o755).await;
        make(&vfs, old, "older", NewNode::File, 0o644).await;
        let attr = vfs.getattr(from).await.expect("getattr");
        let leases = model.lease_count();
        assert_eq!(copy(&vfs, (from, &attr), (root, &name("to")), 1).await.expect("copies"), 8);
        assert_eq!(model.lease_count(), leases);

        let to = find(&vfs, root, "to").await;
        let seen = |attr: &Attr| {
            let kept = (attr.kind, attr.mode, attr.uid, attr.gid, attr.nlink);
            (kept, attr.rdev, attr.size, attr.atime, attr.mtime)
        };
        assert_eq!(seen(&to), seen(&attr));
        for entry in list(&*vfs, from, 100).await.expect("list") {
            let (one, other) = (find(&vfs, from, &entry.name.to_string()).await, vfs.lookup(to.ino, &entry.name).await);
            assert_eq!(seen(&other.expect("copied")), seen(&one), "{}", entry.name);
        }
        assert_eq!(list(&*vfs, to.ino, 100).await.expect("list").len(), 6, "nothing older stays");
        let (file, link) = (find(&vfs, to.ino, "file").await, find(&vfs, to.ino, "link").await);
        assert_eq!(file.ino, link.ino, "one file with two names");
        assert_eq!(vfs.read(file.ino, 3 << 20, 100).await.expect("read"), "after a hole");
        assert!(file.used < 1 << 20, "a hole stays one: {}", file.used);
        let xattr = XattrName::new(b"user.note").expect("a good name");
        assert_eq!(vfs.getxattr(file.ino, &xattr).await.expect("kept"), "kept");
        let symlink = find(&vfs, to.ino, "symlink").await;
        assert_eq!(vfs.readlink(symlink.ino).await.expect("a target"), "file");
        assert_eq!(list(&*vfs, root, 100).await.expect("list").len(), 2, "nothing unfinished is left");
    }

    /// What cannot be copied leaves what stood there, and nothing beside it.
    #[tokio::test]
    async fn a_copy_that_fails_leaves_nothing() {
        let (_, vfs, from) = world().await;
        let root = vfs.root();
        let old = make(&vfs, root, "to", NewNode::File, 0o600).await;
        let attr = vfs.getattr(from).await.expect("getattr");
        // A file that says it is longer than it is.
        let file = find(&vfs, from, "file").await;
        let longer = Attr { size: file.size + 1, ..file.clone() };
        let error = copy(&vfs, (file.ino, &longer), (root, &name("to")), 1).await.expect_err("cut short");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(find(&vfs, root, "to").await.ino, old);
        assert_eq!(list(&*vfs, root, 100).await.expect("list").len(), 2);
        assert_eq!(vfs.getattr(from).await.expect("getattr").change, attr.change);
    }
}
