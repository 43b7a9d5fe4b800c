//! Each change of the model: what it refuses, in the order in which Linux does, and what it then does.

use std::{ops::Range, time::SystemTime};

use super::{Body, Content, Dir, Node, State, end_of, refuse};
use crate::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{
        Changed, DirChanged, Ino, NewNode, Place, Rdev, RemoveKind, RenameMode, Renamed, SYMLINK_LEN_MAX, SetAttr,
        SetTime,
    },
};

/// The inode of a place, checked against what the caller believes.
fn expected(found: Option<Ino>, place: &Place<'_>, op: &'static str) -> Result<Option<Ino>> {
    match (found, place.expect) {
        (Some(found), Some(expect)) if found != expect => Err(Error::new(ErrorKind::Stale, op).at(place.name)),
        _ => Ok(found),
    }
}

impl State {
    /// Checks `set` against the kind of node it is for.
    fn check_set(set: &SetAttr, kind: FileKind, op: &'static str) -> Result<()> {
        match (set.size, kind) {
            (None, _) => Ok(()),
            (Some(size), FileKind::File) => end_of(size, 0, op).map(drop),
            (Some(_), FileKind::Dir) => refuse(ErrorKind::IsDir, op),
            (Some(_), _) => refuse(ErrorKind::InvalidArgument, op),
        }
    }

    fn apply_set(node: &mut Node, set: &SetAttr, now: SystemTime) {
        if let (Some(size), Body::File(content)) = (set.size, &mut node.body) {
            content.set_len(size);
            node.mtime = now;
        }
        if let Some(mode) = set.mode
            && node.kind() != FileKind::Symlink
        {
            node.mode = mode & 0o7777;
        }
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        node.atime = set.atime.map_or(node.atime, time);
        node.mtime = set.mtime.map_or(node.mtime, time);
    }

    pub(in super::super) fn setattr(&mut self, ino: Ino, set: &SetAttr, now: SystemTime) -> Result<Changed> {
        let kind = self.node(ino, "model.setattr")?.kind();
        Self::check_set(set, kind, "model.setattr")?;
        if *set == SetAttr::default() {
            return Ok(self.unchanged(ino));
        }
        Ok(self.change(ino, now, |node| Self::apply_set(node, set, now)))
    }

    pub(in super::super) fn write(
        &mut self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        clear_suid: bool,
        now: SystemTime,
    ) -> Result<Changed> {
        let content = self.file(ino, "model.write")?;
        let end = end_of(offset, data.len() as u64, "model.write")?;
        self.need_pages(content.pages_missing(&(offset..end)), "model.write")?;
        if data.is_empty() {
            return Ok(self.unchanged(ino));
        }
        Ok(self.change(ino, now, |node| {
            node.mtime = now;
            if clear_suid {
                node.mode &= !0o6000;
            }
            if let Body::File(content) = &mut node.body {
                content.write(offset, data);
            }
        }))
    }

    pub(in super::super) fn create(
        &mut self,
        dir: Ino,
        name: &Name,
        node: NewNode,
        set: &SetAttr,
        now: SystemTime,
    ) -> Result<DirChanged> {
        let op = "model.create";
        if self.living_dir(dir, op)?.get(name).is_some() {
            return Err(Error::new(ErrorKind::Exists, op).at(name));
        }
        let body = match node {
            NewNode::File => Body::File(Content::default()),
            NewNode::Dir => Body::Dir(Dir::new(dir)),
            NewNode::Symlink(target) if target.is_empty() || target.contains(&0) => {
                return refuse(ErrorKind::InvalidArgument, op);
            }
            NewNode::Symlink(target) if target.len() > SYMLINK_LEN_MAX => return refuse(ErrorKind::NameTooLong, op),
            NewNode::Symlink(target) => Body::Symlink(target),
            NewNode::Fifo => Body::Other(FileKind::Fifo, Rdev::default()),
            NewNode::Socket => Body::Other(FileKind::Socket, Rdev::default()),
            NewNode::CharDevice(rdev) => Body::Other(FileKind::CharDevice, rdev),
            NewNode::BlockDevice(rdev) => Body::Other(FileKind::BlockDevice, rdev),
        };
        let is_dir = matches!(body, Body::Dir(_));
        let kind = match &body {
            Body::File(_) => FileKind::File,
            Body::Dir(_) => FileKind::Dir,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Other(kind, _) => *kind,
        };
        Self::check_set(set, kind, op)?;
        if self.node_count() >= self.options.inodes_max {
            return refuse(ErrorKind::NoSpace, op);
        }
        let ino = self.add_node(body, now);
        if let Some(node) = self.nodes.get_mut(&ino) {
            Self::apply_set(node, set, now);
        }
        let dir = self.change_dir(dir, now, |dir, nlink| {
            dir.insert(name, ino);
            *nlink += u32::from(is_dir);
        });
        Ok(DirChanged { dir, node: self.leased(ino) })
    }

    pub(in super::super) fn link(&mut self, ino: Ino, dir: Ino, name: &Name, now: SystemTime) -> Result<DirChanged> {
        let op = "model.link";
        let node = self.node(ino, op)?;
        match node.kind() {
            FileKind::Dir => return refuse(ErrorKind::NotPermitted, op),
            _ if node.nlink == 0 => return refuse(ErrorKind::NotFound, op),
            _ => {}
        }
        let full = node.nlink >= self.options.links_max;
        if self.living_dir(dir, op)?.get(name).is_some() {
            return Err(Error::new(ErrorKind::Exists, op).at(name));
        }
        if full {
            return refuse(ErrorKind::TooManyLinks, op);
        }
        self.change(ino, now, |node| node.nlink += 1);
        let dir = self.change_dir(dir, now, |dir, _| dir.insert(name, ino));
        Ok(DirChanged { dir, node: self.leased(ino) })
    }

    pub(in super::super) fn remove(
        &mut self,
        place: &Place<'_>,
        kind: RemoveKind,
        now: SystemTime,
    ) -> Result<DirChanged> {
        let op = "model.remove";
        let found = expected(self.dir(place.dir, op)?.get(place.name), place, op)?;
        let ino = found.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(place.name))?;
        match (kind, self.is_dir(ino)) {
            (RemoveKind::NonDir, true) => return Err(Error::new(ErrorKind::IsDir, op).at(place.name)),
            (RemoveKind::Dir, false) => return Err(Error::new(ErrorKind::NotDir, op).at(place.name)),
            (RemoveKind::Dir, true) if !self.is_empty_dir(ino) => {
                return Err(Error::new(ErrorKind::NotEmpty, op).at(place.name));
            }
            _ => {}
        }
        self.unlink(ino, now);
        let dir = self.change_dir(place.dir, now, |dir, nlink| {
            dir.remove(place.name);
            *nlink -= u32::from(kind == RemoveKind::Dir);
        });
        let node = self.attr_of(ino);
        self.free_if_gone(ino);
        Ok(DirChanged { dir, node })
    }

    pub(in super::super) fn rename(
        &mut self,
        from: &Place<'_>,
        to: &Place<'_>,
        mode: RenameMode,
        now: SystemTime,
    ) -> Result<Renamed> {
        let op = "model.rename";
        let moved = expected(self.dir(from.dir, op)?.get(from.name), from, op)?;
        let replaced = expected(self.living_dir(to.dir, op)?.get(to.name), to, op)?;
        let moved = moved.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(from.name))?;
        match (mode, replaced) {
            (RenameMode::NoReplace, Some(_)) => return Err(Error::new(ErrorKind::Exists, op).at(to.name)),
            (RenameMode::Exchange, None) => return Err(Error::new(ErrorKind::NotFound, op).at(to.name)),
            _ => {}
        }
        if self.is_ancestor(moved, to.dir) {
            return Err(Error::new(ErrorKind::InvalidArgument, op).because("a directory does not move into itself"));
        }
        if let Some(replaced) = replaced {
            if self.is_ancestor(replaced, from.dir) {
                let kind = if mode == RenameMode::Exchange { ErrorKind::InvalidArgument } else { ErrorKind::NotEmpty };
                return Err(Error::new(kind, op).at(to.name));
            }
            if replaced == moved {
                let (from, to) = (self.unchanged(from.dir), self.unchanged(to.dir));
                return Ok(Renamed { from, to, node: self.attr_of(moved) });
            }
            if mode == RenameMode::Replace {
                match (self.is_dir(moved), self.is_dir(replaced)) {
                    (true, false) => return Err(Error::new(ErrorKind::NotDir, op).at(to.name)),
                    (false, true) => return Err(Error::new(ErrorKind::IsDir, op).at(to.name)),
                    (true, true) if !self.is_empty_dir(replaced) => {
                        return Err(Error::new(ErrorKind::NotEmpty, op).at(to.name));
                    }
                    _ => {}
                }
            }
        }

        let back = replaced.filter(|_| mode == RenameMode::Exchange);
        if let Some(replaced) = replaced.filter(|_| mode != RenameMode::Exchange) {
            self.unlink(replaced, now);
        }
        self.change(moved, now, |node| node.adopt(to.dir));
        if let Some(back) = back {
            self.change(back, now, |node| node.adopt(from.dir));
        }
        // Subdirectories that come and go in each directory.
        let (moved_dir, replaced_dir) =
            (u32::from(self.is_dir(moved)), u32::from(replaced.is_some_and(|ino| self.is_dir(ino))));
        let back_dir = if back.is_some() { replaced_dir } else { 0 };
        let before = self.unchanged(from.dir).before;
        let mut from_changed = self.change_dir(from.dir, now, |dir, nlink| {
            match back {
                Some(back) => dir.insert(from.name, back),
                None => dir.remove(from.name),
            }
            *nlink = *nlink + back_dir - moved_dir;
        });
        let mut to_changed = self.change_dir(to.dir, now, |dir, nlink| {
            dir.insert(to.name, moved);
            *nlink = *nlink + moved_dir - replaced_dir;
        });
        if from.dir == to.dir {
            to_changed.before = before;
            from_changed = to_changed.clone();
        }
        if let Some(replaced) = replaced {
            self.free_if_gone(replaced);
        }
        Ok(Renamed { from: from_changed, to: to_changed, node: self.attr_of(moved) })
    }

    pub(in super::super) fn allocate(
        &mut self,
        ino: Ino,
        range: &Range<u64>,
        keep_size: bool,
        now: SystemTime,
    ) -> Result<Changed> {
        let op = "model.allocate";
        let content = self.file(ino, op)?;
        if range.is_empty() {
            return refuse(ErrorKind::InvalidArgument, op);
        }
        end_of(range.end, 0, op)?;
        self.need_pages(content.pages_missing(range), op)?;
        Ok(self.change_content(ino, now, |content| {
            content.reserve(range);
            if !keep_size && content.len() < range.end {
                content.set_len(range.end);
            }
        }))
    }

    pub(in super::super) fn punch_hole(&mut self, ino: Ino, range: Range<u64>, now: SystemTime) -> Result<Changed> {
        self.file(ino, "model.punch_hole")?;
        if range.is_empty() {
            return refuse(ErrorKind::InvalidArgument, "model.punch_hole");
        }
        Ok(self.change_content(ino, now, |content| content.punch(range)))
    }

    pub(in super::super) fn copy_range(
        &mut self,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
        now: SystemTime,
    ) -> Result<(u64, Changed)> {
        let op = "model.copy_range";
        let source = self.file(from.0, op)?;
        let target = self.file(to.0, op)?;
        let len = len.min(source.len().saturating_sub(from.1));
        let end = end_of(to.1, len, op)?;
        if from.0 == to.0 && from.1.abs_diff(to.1) < len {
            return Err(Error::new(ErrorKind::InvalidArgument, op).because("the ranges overlap"));
        }
        if len == 0 {
            return Ok((0, self.unchanged(to.0)));
        }
        let pieces = source.pieces(from.1..from.1 + len);
        let needed = pieces
            .iter()
            .map(|(at, bytes)| {
                let at = at - from.1 + to.1;
                target.pages_missing(&(at..at + bytes.len() as u64))
            })
            .sum();
        self.need_pages(needed, op)?;
        let changed = self.change_content(to.0, now, |content| {
            content.punch(to.1..end);
            content.set_len(content.len().max(end));
            for (at, bytes) in &pieces {
                content.write(at - from.1 + to.1, bytes);
            }
        });
        Ok((len, changed))
    }
}

impl Node {
    fn adopt(&mut self, parent: Ino) {
        if let Body::Dir(dir) = &mut self.body {
            dir.parent = parent;
        }
    }
}
