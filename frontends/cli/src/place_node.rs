//! Putting a node under a name at one stroke: one more name of a node that is there, or one without bytes.
//!
//! It is made beside its place and moved there, as files and symlinks are, so that whoever looks meets the old or the new.

use std::sync::Arc;

use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Ino, Lease, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs, as_store::PUT_PREFIX},
};

/// What is put.
#[derive(Debug, Clone)]
pub(crate) enum Putting {
    /// One more name of this node.
    Link(Ino),
    /// A new one.
    Node(NewNode),
}

/// Puts it as `name` into `dir`; what is there and no directory is replaced, what is there and the same stays. It is durable
/// with the next sync of `dir`. `random` makes the name unique under which it is made.
///
/// # Errors
/// `IsDir` if a directory is there; those of the file system.
pub(crate) async fn put(vfs: &Arc<dyn Vfs>, (dir, name): (Ino, &Name), putting: Putting, random: u64) -> Result<()> {
    match vfs.lookup(dir, name).await {
        Ok(attr) => {
            let there = Lease::adopt(vfs.clone(), attr.ino);
            let is_same = match &putting {
                Putting::Link(ino) => there.ino() == *ino,
                Putting::Node(NewNode::Fifo) => attr.kind == FileKind::Fifo,
                Putting::Node(NewNode::Socket) => attr.kind == FileKind::Socket,
                Putting::Node(NewNode::CharDevice(rdev)) => (attr.kind, attr.rdev) == (FileKind::CharDevice, *rdev),
                Putting::Node(NewNode::BlockDevice(rdev)) => (attr.kind, attr.rdev) == (FileKind::BlockDevice, *rdev),
                Putting::Node(_) => false,
            };
            if is_same {
                return Ok(());
            }
            if attr.kind == FileKind::Dir {
                return Err(Error::new(ErrorKind::IsDir, "put.node").at(name));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let part = Name::new(format!("{PUT_PREFIX}{random:016x}").as_bytes())?;
    let made = match putting {
        Putting::Link(ino) => vfs.link(ino, dir, &part).await?,
        Putting::Node(node) => vfs.create(dir, &part, node, SetAttr::default()).await?,
    };
    let _made = Lease::adopt(vfs.clone(), made.node.ino);
    let from = Place { dir, name: &part, expect: None };
    if let Err(error) = vfs.rename(from, Place { name, ..from }, RenameMode::Replace).await {
        // The first failure is the one to tell.
        vfs.remove(from, RemoveKind::NonDir).await.ok();
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use muxfs::{
        testing::{self, model::ModelFs},
        vfs::ext::list,
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a good name")
    }

    #[tokio::test]
    async fn a_node_is_put_once_and_replaces_what_is_there() {
        let model = ModelFs::new(testing::env());
        let vfs: Arc<dyn Vfs> = model.clone();
        let root = vfs.root();
        let file = vfs.create(root, &name("file"), NewNode::File, SetAttr::default()).await.expect("create").node.ino;
        vfs.create(root, &name("dir"), NewNode::Dir, SetAttr::default()).await.expect("create");
        let leases = model.lease_count();
        for _ in 0..2 {
            put(&vfs, (root, &name("link")), Putting::Link(file), 1).await.expect("put");
            put(&vfs, (root, &name("pipe")), Putting::Node(NewNode::Fifo), 1).await.expect("put");
        }
        let attr = vfs.lookup(root, &name("link")).await.expect("there");
        vfs.release(attr.ino, 1);
        assert_eq!((attr.ino, attr.nlink), (file, 2));
        // What was another node becomes this one, and the other way round.
        put(&vfs, (root, &name("pipe")), Putting::Link(file), 1).await.expect("put");
        put(&vfs, (root, &name("link")), Putting::Node(NewNode::Fifo), 1).await.expect("put");
        let error = put(&vfs, (root, &name("dir")), Putting::Link(file), 1).await.expect_err("a directory");
        assert_eq!(error.kind(), ErrorKind::IsDir);
        let names: Vec<String> = list(&*vfs, root, 9).await.expect("list").iter().map(|e| e.name.to_string()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(model.lease_count(), leases);
    }
}
