//! Who asks, and what the permission bits of a node allow them: the rules alone, without any file system.

use crate::{FileKind, vfs::Attr};

/// The setgid bit.
pub(super) const SETGID: u32 = 0o2000;
/// The setuid and setgid bits.
pub(super) const SUID_BITS: u32 = 0o6000;
/// The sticky bit.
const STICKY: u32 = 0o1000;

/// Whoever asks: `AUTH_UNIX` credentials over NFS, a user over FTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user; 0 is root and may nearly everything.
    pub uid: u32,
    /// The group that what they create gets.
    pub gid: u32,
    /// The other groups they are in.
    pub groups: Vec<u32>,
}

/// What a caller may do with a node: read it; write it (a directory: create, rename and remove names); execute it (a
/// directory: reach what is in it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Read the content; list the names.
    pub read: bool,
    /// Change the content; create, rename and remove names.
    pub write: bool,
    /// Execute; look names up.
    pub execute: bool,
}

impl Access {
    /// To read.
    pub const READ: Self = Self { read: true, write: false, execute: false };
    /// To write.
    pub const WRITE: Self = Self { read: false, write: true, execute: false };
    /// To reach what is in a directory.
    pub const SEARCH: Self = Self { read: false, write: false, execute: true };
    /// To change the names of a directory.
    pub const CHANGE_NAMES: Self = Self { read: false, write: true, execute: true };

    /// Whether this allows all of `wanted`.
    pub fn covers(self, wanted: Self) -> bool {
        (self.read || !wanted.read) && (self.write || !wanted.write) && (self.execute || !wanted.execute)
    }
}

impl Caller {
    /// Whether the permission bits do not bind this caller.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether the caller is in the group.
    pub fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether the caller owns the node, or may act as if they did.
    pub fn owns(&self, attr: &Attr) -> bool {
        self.is_root() || self.uid == attr.uid
    }

    /// What the bits of the node allow: those of the owner, else of the group, else of the others; only one of the
    /// three counts, even where a later one would allow more. Root may all, but execute a file only if somebody may.
    pub fn access(&self, attr: &Attr) -> Access {
        if self.is_root() {
            let execute = attr.kind == FileKind::Dir || attr.mode & 0o111 != 0;
            return Access { read: true, write: true, execute };
        }
        let bits = if self.uid == attr.uid {
            attr.mode >> 6
        } else if self.is_in(attr.gid) {
            attr.mode >> 3
        } else {
            attr.mode
        };
        Access { read: bits & 4 != 0, write: bits & 2 != 0, execute: bits & 1 != 0 }
    }

    /// Whether the sticky bit of `dir` leaves `node`'s name in it to this caller.
    pub(super) fn may_take(&self, dir: &Attr, node: &Attr) -> bool {
        !self.is_bound_by_sticky(dir) || self.uid == node.uid
    }

    /// Whether the sticky bit of `dir` matters to this caller.
    pub(super) fn is_bound_by_sticky(&self, dir: &Attr) -> bool {
        dir.mode & STICKY != 0 && !self.owns(dir)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{num::NonZeroU64, time::SystemTime};

    use super::*;
    use crate::vfs::{Fsid, Ino, Rdev};

    pub(in super::super) fn attr(kind: FileKind, mode: u32, uid: u32, gid: u32) -> Attr {
        let time = SystemTime::UNIX_EPOCH;
        Attr {
            ino: Ino(NonZeroU64::MIN),
            fsid: Fsid(0),
            kind,
            mode,
            uid,
            gid,
            nlink: 1,
            rdev: Rdev::default(),
            size: 0,
            used: 0,
            atime: time,
            mtime: time,
            ctime: time,
            change: 1,
            cid: None,
        }
    }

    fn shown(access: Access) -> String {
        [(access.read, 'r'), (access.write, 'w'), (access.execute, 'x')]
            .map(|(may, letter)| if may { letter } else { '-' })
            .iter()
            .collect()
    }

    #[test]
    fn the_matrix_of_permission_bits() {
        // A node of user 10, group 20, seen by: its owner; one of its group; one with the group among others; a
        // stranger; root.
        let callers = [(10, 99, vec![]), (11, 20, vec![]), (11, 99, vec![98, 20]), (11, 99, vec![98]), (0, 0, vec![])]
            .map(|(uid, gid, groups)| Caller { uid, gid, groups });
        let cases = [
            (FileKind::File, 0o000, ["---", "---", "---", "---", "rw-"]),
            (FileKind::Dir, 0o000, ["---", "---", "---", "---", "rwx"]),
            (FileKind::File, 0o644, ["rw-", "r--", "r--", "r--", "rw-"]),
            (FileKind::File, 0o755, ["rwx", "r-x", "r-x", "r-x", "rwx"]),
            (FileKind::File, 0o001, ["---", "---", "---", "--x", "rwx"]),
            (FileKind::File, 0o070, ["---", "rwx", "rwx", "---", "rwx"]),
            // Only one class counts: the owner is refused what everybody else may.
            (FileKind::File, 0o077, ["---", "rwx", "rwx", "rwx", "rwx"]),
            (FileKind::File, 0o707, ["rwx", "---", "---", "rwx", "rwx"]),
            (FileKind::Dir, 0o751, ["rwx", "r-x", "r-x", "--x", "rwx"]),
            (FileKind::Symlink, 0o777, ["rwx", "rwx", "rwx", "rwx", "rwx"]),
            // The bits above the nine allow nothing.
            (FileKind::File, 0o7000, ["---", "---", "---", "---", "rw-"]),
        ];
        for (kind, mode, expected) in cases {
            let node = attr(kind, mode, 10, 20);
            let found = callers.each_ref().map(|caller| shown(caller.access(&node)));
            assert_eq!(found, expected, "{kind:?} {mode:o}");
        }
    }

    #[test]
    fn the_sticky_bit_leaves_a_name_to_three() {
        let caller = |uid| Caller { uid, gid: uid, groups: Vec::new() };
        let (sticky, plain) = (attr(FileKind::Dir, 0o1777, 1, 1), attr(FileKind::Dir, 0o777, 1, 1));
        let node = attr(FileKind::File, 0o777, 2, 2);
        for (uid, may) in [(0, true), (1, true), (2, true), (3, false)] {
            assert_eq!(caller(uid).may_take(&sticky, &node), may, "uid {uid}");
            assert!(caller(uid).may_take(&plain, &node));
        }
    }
}
