//! What the parts of a tree tell each other of a node: its metadata, and a name in a directory.

use std::time::SystemTime;

use crate::{
    Cid, FileKind, Name,
    rank::Rank,
    vfs::{Attr, Fsid, Ino, PreAttr, Rdev},
};

/// The metadata of a node that is not its content and does not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// What it is.
    pub(crate) kind: FileKind,
    /// The twelve permission bits.
    pub(crate) mode: u32,
    /// Its owner.
    pub(crate) uid: u32,
    /// Its group.
    pub(crate) gid: u32,
    /// How many names it has.
    pub(crate) nlink: u32,
    /// Of a device; else 0, 0.
    pub(crate) rdev: Rdev,
    /// Length in bytes: of a file, or of the target of a symlink; 0 for all else.
    pub(crate) size: u64,
    /// How many entries a directory has; 0 for all else.
    pub(crate) entry_count: u64,
    /// Bytes taken: holes take none.
    pub(crate) used: u64,
    /// When it was read.
    pub(crate) atime: SystemTime,
    /// When the content, or the names of a directory, last changed.
    pub(crate) mtime: SystemTime,
    /// When anything of it last changed.
    pub(crate) ctime: SystemTime,
    /// Grows with every change of data or attributes.
    pub(crate) change: u64,
}

/// A name in a directory, at its place in the order of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameEntry {
    /// The place: given at creation, and kept.
    pub(crate) rank: Rank,
    /// The name.
    pub(crate) name: Name,
    /// The inode it has.
    pub(crate) ino: Ino,
}

/// What a directory claims as its size: a block, as most file systems do.
const DIR_LEN: u64 = 4096;

impl Meta {
    /// The size that clients are told, in bytes.
    pub(crate) fn len(&self) -> u64 {
        if self.kind == FileKind::Dir { DIR_LEN } else { self.size }
    }

    /// What clients are told of the node, with the CID of its content where that is known.
    pub(crate) fn attr(&self, ino: Ino, cid: Option<Cid>) -> Attr {
        Attr {
            ino,
            fsid: Fsid(0),
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            rdev: self.rdev,
            size: self.len(),
            used: self.used,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            change: self.change,
            cid,
        }
    }

    /// What clients compare to know that nobody else changed the node.
    pub(crate) fn pre(&self) -> PreAttr {
        PreAttr { size: self.len(), mtime: self.mtime, ctime: self.ctime, change: self.change }
    }
}
