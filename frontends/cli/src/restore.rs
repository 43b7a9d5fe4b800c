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
