//! The attribute tree: the POSIX metadata of a committed tree, by inode, in blocks of dag-cbor beside the content.
//!
//! Sits between [`Dag`] and the working tree. A radix tree leads from a number to an [`Inode`]; what would make its
//! leaves large (many names, many links, many holes, long extended attributes) is in blocks of its own. The shape of all
//! of it follows from what it holds, never from how it came about: equal states have equal CIDs, equal directories share
//! their blocks, and a [`diff`] passes equal parts by.
//!
//! [`update`] makes the next state and writes only what changed and the way up to the root. Look-ups are synchronous,
//! over [`Nodes`] in memory, so that they can run under a lock; what is not there ends them with [`Halt::Missing`], to be
//! [`load`]ed and tried again. Nodes stay in their encoded form, checked once: an inode is some hundred bytes there, and
//! several times that as a value, so far more of them fit into a cache, and only what is asked for is decoded.
//! Spec: spec/attrs.md.

mod cache;
mod inode;
mod list;
mod names;
mod names_update;
mod node;
mod radix;
#[cfg(test)]
pub(super) mod tests;
mod update;
mod walk;

use std::sync::Arc;

pub(crate) use self::{
    cache::{Halt, NodeCache, Nodes},
    inode::{Inode, nanos_of, time_in_range, time_of},
    node::{AttrNode, NodeId, load},
    update::{Change, Changes, InodeChange, update},
    walk::{Difference, diff, inodes},
};
use self::{node::corrupt, radix::Root};
use crate::{Cid, Error, ErrorKind, Result, dag::Dag, vfs::Ino};

/// Numbers are below 2^55: bit 55 is for numbers derived from foreign roots, and a mount has 56 bits.
pub(crate) const INO_END: u64 = 1 << 55;

/// The longest part of an inode that stays in the leaf, in bytes: its names, its parents, its data ranges or its
/// extended attributes. Most directories have fewer than two dozen entries and fit; a leaf stays below 64 KiB even if
/// all its inodes have all four, and symlinks of usual length.
const INLINE_LEN_MAX: usize = 512;

/// A committed attribute tree. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Attrs {
    cid: Cid,
    root: Arc<AttrNode>,
}

impl Attrs {
    /// Opens the tree of a root: reads one block.
    ///
    /// # Errors
    /// `NotFound` if the block is absent; `Corrupt` if it is no such root; `Unsupported` if a newer program wrote it.
    pub(crate) async fn open(dag: &Dag, cid: &Cid) -> Result<Self> {
        let id = NodeId::of(cid).ok_or_else(|| corrupt(cid, "not the CID of an attribute tree"))?;
        let root = load(dag, id).await?;
        match *root {
            AttrNode::Root(_) => Ok(Self { cid: *cid, root }),
            _ => Err(corrupt(cid, "not the root of an attribute tree")),
        }
    }

    /// The CID of the root block.
    pub(crate) fn cid(&self) -> Cid {
        self.cid
    }

    /// The number that the next inode gets: all in the tree are below.
    pub(crate) fn next_ino(&self) -> u64 {
        self.root().next_ino
    }

    /// How many inodes the tree has.
    pub(crate) fn inode_count(&self) -> u64 {
        self.root().inode_count
    }

    /// The bytes that all files take.
    pub(crate) fn used(&self) -> u64 {
        self.root().used
    }

    /// The inode of a number; `None` if there is none.
    ///
    /// # Errors
    /// [`Halt::Missing`] where a node has to be loaded first; `Corrupt`.
    pub(crate) fn inode(&self, nodes: &mut dyn Nodes, ino: Ino) -> Result<Option<Arc<Inode>>, Halt> {
        radix::find(self.root(), nodes, ino)
    }

    /// The topmost node of the radix tree, and how many levels of index nodes there are from it on.
    fn top(&self) -> Option<(NodeId, u32)> {
        let root = self.root();
        root.inodes.map(|id| (id, radix::height(root.next_ino)))
    }

    fn root(&self) -> &Root {
        match &*self.root {
            AttrNode::Root(root) => root,
            _ => unreachable!("checked where it is made"),
        }
    }
}

/// What goes wrong on writing is a bug of ours: nothing outside decides what is given to [`update`].
fn internal(why: &'static str) -> Error {
    Error::new(ErrorKind::Internal, "attrs.update").because(why)
}
