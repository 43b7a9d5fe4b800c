//! New nodes and new names.

use bytes::Bytes;

use super::super::{
    inode::Meta,
    record::Effect,
    sight::{Try, refuse},
    state::{Attempt, Edit},
};
use crate::{
    Error, ErrorKind, FileKind, Name,
    vfs::{DirChanged, Ino, NewNode, Rdev, SYMLINK_LEN_MAX, SetAttr},
};

/// Names one node may have: a node keeps all of them, so that a write through one updates the directories of all.
const LINK_COUNT_MAX: u32 = 4096;

impl Attempt<'_> {
    pub(in super::super) fn create(&mut self, dir: Ino, name: &Name, node: &NewNode, set: &SetAttr) -> Try<DirChanged> {
        let op = "tree.create";
        let before = self.free_place(dir, name, op)?;
        let kind = node.kind();
        let target = if let NewNode::Symlink(target) = node { Some(checked_target(target, op)?) } else { None };
        Self::check_set(set, kind, op)?;
        let mut edit = Edit::default();
        edit.usage.inodes = 1;
        self.check_usage(edit.usage, op)?;
        let ino = self.next_ino()?;

        let mut meta = new_meta(node, self.now);
        self.apply_set(&mut meta, set);
        edit.effects.extend(target.map(|target| Effect::Target(ino, target)));
        let made = self.add_name(dir, name, ino, kind, before, &mut meta, edit)?;
        self.state.give += 1;
        Ok(made)
    }

    pub(in super::super) fn link(&mut self, ino: Ino, dir: Ino, name: &Name) -> Try<DirChanged> {
        let op = "tree.link";
        let mut meta = self.meta(ino, op)?;
        match meta.kind {
            FileKind::Dir => return refuse(ErrorKind::NotPermitted, op),
            _ if meta.nlink == 0 => return refuse(ErrorKind::NotFound, op),
            _ => {}
        }
        let before = self.free_place(dir, name, op)?;
        if meta.nlink >= LINK_COUNT_MAX {
            return refuse(ErrorKind::TooManyLinks, op);
        }
        meta.nlink += 1;
        self.add_name(dir, name, ino, meta.kind, before, &mut meta, Edit::default())
    }

    /// The directory, where it has no such name.
    fn free_place(&mut self, dir: Ino, name: &Name, op: &'static str) -> Try<Meta> {
        let meta = self.living_dir(dir, op)?;
        if self.sight(|sight| sight.entry(dir, name))?.is_some() {
            return Err(Error::new(ErrorKind::Exists, op).at(name).into());
        }
        Ok(meta)
    }

    /// Gives a node a name, leased, and records it.
    #[allow(clippy::too_many_arguments, reason = "what a new name is made of, said once for create and link")]
    fn add_name(
        &mut self,
        dir: Ino,
        name: &Name,
        ino: Ino,
        kind: FileKind,
        before: Meta,
        meta: &mut Meta,
        mut edit: Edit,
    ) -> Try<DirChanged> {
        let rank = self.sight(|sight| sight.free_rank(dir, name))?;
        edit.effects.push(Effect::Name { dir, rank, name: name.clone(), ino, there: true });
        let mut after = before;
        after.entry_count = after.entry_count.saturating_add(1);
        after.nlink = after.nlink.saturating_add(u32::from(kind == FileKind::Dir));
        after.mtime = self.now;
        edit.touch(dir, &mut after, self.now);
        edit.touch(ino, meta, self.now);
        self.record(edit)?;
        self.lease(ino);
        Ok(DirChanged { dir: self.changed(dir, &before, &after)?, node: self.attr(ino, meta)? })
    }
}

/// The metadata of a node that nobody has set any of.
pub(in crate::tree) fn new_meta(node: &NewNode, now: std::time::SystemTime) -> Meta {
    let kind = node.kind();
    let (mode, nlink) = match kind {
        FileKind::Dir => (0o755, 2),
        FileKind::Symlink => (0o777, 1),
        _ => (0o644, 1),
    };
    Meta {
        kind,
        mode,
        uid: 0,
        gid: 0,
        nlink,
        rdev: if let NewNode::CharDevice(rdev) | NewNode::BlockDevice(rdev) = node { *rdev } else { Rdev::default() },
        size: if let NewNode::Symlink(target) = node { target.len() as u64 } else { 0 },
        entry_count: 0,
        used: 0,
        atime: now,
        mtime: now,
        ctime: now,
        change: 0,
    }
}

fn checked_target(target: &Bytes, op: &'static str) -> Try<Bytes> {
    if target.is_empty() || target.contains(&0) {
        return refuse(ErrorKind::InvalidArgument, op);
    }
    if target.len() > SYMLINK_LEN_MAX {
        return refuse(ErrorKind::NameTooLong, op);
    }
    // Copied: it stays for as long as the layer, and what it was read from is longer.
    Ok(Bytes::copy_from_slice(target))
}
