//! From a number or a handle to an open inode, and from a name to a number.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
};

use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Attr, Handle, Ino},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, Statx},
    io::Errno,
};

use super::{
    Local,
    errno::fail,
    host::{Host, Identity, Whereabouts, attr, identity, stat_fd, stat_name},
    listing::Entries,
    nodes::{Anchor, Closing, Data, Hint, Nodes, Stamp, Step},
};
use crate::handles::{HandleParts, Row};

/// The most directories between an inode and one that is open: as deep as a path of 4096 bytes goes, and some.
const CLIMB_COUNT_MAX: usize = 4096;
/// Names remembered from one scan, so that finding all files of a directory again is not quadratic: about 10 MiB.
const SCANNED_COUNT_MAX: usize = 128 * 1024;
/// How often an open is tried again after descriptors were given up.
const ROOM_TRIES: usize = 4;

/// Names seen while looking for another number: (directory's number, number) to name.
pub(super) type Scanned = HashMap<(u64, u64), Name>;

pub(super) fn stale(op: &'static str) -> Error {
    Error::new(ErrorKind::Stale, op)
}

impl Local {
    pub(super) fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table, and closes what it gave up once it is unlocked.
    pub(super) fn with_nodes<T>(&self, change: impl FnOnce(&mut Nodes, &mut Closing) -> T) -> T {
        let mut closing = vec![];
        let result = change(&mut self.nodes(), &mut closing);
        drop(closing);
        result
    }

    /// Opens something; where the process has no descriptor left, gives up cached ones and tries again.
    pub(super) fn with_room<T>(&self, open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        for _ in 1..ROOM_TRIES {
            match open() {
                Err(Errno::MFILE | Errno::NFILE) => {
                    let shed = self.nodes().shed();
                    drop(shed);
                    self.closer.close_one();
                }
                other => return other,
            }
        }
        open()
    }

    /// Does what takes room on the disk; where there is none, after removed files gave up theirs.
    pub(super) fn with_space<T>(&self, take: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match take() {
            Err(Errno::NOSPC | Errno::DQUOT) if self.closer.close_all() => take(),
            other => other,
        }
    }

    /// Refuses what is of another mount or device.
    pub(super) fn here(&self, stat: &Statx, op: &'static str) -> Result<Identity> {
        if !self.host.is_here(stat) {
            return Err(Error::new(ErrorKind::CrossDevice, op).because("another file system is mounted here"));
        }
        identity(stat)
    }

    /// The descriptor of an inode, checked to stand below the root.
    pub(super) fn anchor(&self, ino: Ino, op: &'static str) -> Result<Arc<Anchor>> {
        Ok(self.anchor_seen(ino, op)?.0)
    }

    /// The same, and what the inode is where the check told it.
    fn anchor_seen(&self, ino: Ino, op: &'static str) -> Result<(Arc<Anchor>, Option<Statx>)> {
        let cached = {
            let mut nodes = self.nodes();
            nodes.anchor(ino).map(|(anchor, is_kept)| (anchor, is_kept, nodes.way(ino)))
        };
        let Some((anchor, is_kept, way)) = cached else { return Ok((self.reopen(ino, op)?, None)) };
        if is_kept {
            return Ok((anchor, None));
        }
        if let Some(stat) = way.and_then(|way| self.end_of_way(&way)) {
            return Ok((anchor, Some(stat)));
        }
        let anchor = match self.host.whereabouts(&anchor.fd).map_err(fail(op))? {
            Whereabouts::Inside => anchor,
            Whereabouts::Gone => self.anchor_without_name(ino, anchor, op)?,
            Whereabouts::Outside => {
                self.with_nodes(|nodes, closing| nodes.lose_anchor(ino, closing));
                drop(anchor);
                self.reopen(ino, op)?
            }
        };
        Ok((anchor, None))
    }

    /// What stands at the end of a way from the root; nothing where a step does not lead to the inode it led to before.
    ///
    /// The steps are those of `openat2` with the rules of `host.rs`: no symlink is followed, no mount entered, and each
    /// inode is the one that is held open. One or two cost less than asking for a path, and tell the attributes too.
    fn end_of_way(&self, way: &[Step]) -> Option<Statx> {
        let mut end = None;
        for step in way.iter().rev() {
            let stat = stat_name(&step.dir.fd, step.name.as_bytes()).ok()?;
            if !self.host.is_here(&stat) || identity(&stat).ok()? != step.id {
                return None;
            }
            end = Some(stat);
        }
        end
    }

    /// The descriptor of a directory, and what the directory is.
    pub(super) fn dir_seen(&self, ino: Ino, op: &'static str) -> Result<(Arc<Anchor>, Statx)> {
        self.must_be_dir(ino, op)?;
        let (anchor, seen) = self.anchor_seen(ino, op)?;
        let stat = seen.map_or_else(|| stat_fd(&anchor.fd).map_err(fail(op)), Ok)?;
        Ok((anchor, stat))
    }

    /// What becomes of a descriptor whose own name went: the inode may have another, or be leased.
    fn anchor_without_name(&self, ino: Ino, anchor: Arc<Anchor>, op: &'static str) -> Result<Arc<Anchor>> {
        let stat = stat_fd(&anchor.fd).map_err(fail(op))?;
        let is_leased = self.nodes().is_leased(ino);
        if stat.stx_nlink == 0 {
            let kept = anchor.clone();
            self.with_nodes(|nodes, closing| nodes.gone(ino, Some(kept), closing));
            return if is_leased { Ok(anchor) } else { Err(stale(op)) };
        }
        // A directory has one name: it only looks as if that had gone.
        if identity(&stat)?.kind == FileKind::Dir || self.has_name(ino) {
            return Ok(anchor);
        }
        match self.reopen(ino, op) {
            Err(_) if is_leased => Ok(anchor),
            other => other,
        }
    }

    /// Whether one of the names an inode was seen under still leads to it.
    fn has_name(&self, ino: Ino) -> bool {
        let known = self.nodes().known(ino);
        known.is_some_and(|known| known.hints.iter().any(|hint| self.leads_to(hint, known.id)))
    }

    fn leads_to(&self, hint: &Hint, id: Identity) -> bool {
        let Ok(dir) = self.reopen_dir(hint.dir, "local.find") else { return false };
        stat_name(&dir.fd, hint.name.as_bytes()).is_ok_and(|stat| identity(&stat).ok() == Some(id))
    }

    /// The descriptor of a directory.
    pub(super) fn dir(&self, ino: Ino, op: &'static str) -> Result<Arc<Anchor>> {
        self.must_be_dir(ino, op)?;
        self.anchor(ino, op)
    }

    fn must_be_dir(&self, ino: Ino, op: &'static str) -> Result<()> {
        let id = self.nodes().id(ino).ok_or_else(|| stale(op))?;
        if id.kind == FileKind::Dir { Ok(()) } else { Err(Error::new(ErrorKind::NotDir, op)) }
    }

    /// Opens an inode again by the names it was last seen under, from the nearest directory that is open.
    fn reopen(&self, ino: Ino, op: &'static str) -> Result<Arc<Anchor>> {
        let known = self.nodes().known(ino).ok_or_else(|| stale(op))?;
        for hint in known.hints.iter().rev() {
            if let Ok(dir) = self.reopen_dir(hint.dir, op)
                && let Some(anchor) = self.open_known(ino, known.id, hint, &dir)?
            {
                return Ok(anchor);
            }
        }
        Err(stale(op))
    }

    fn reopen_dir(&self, ino: Ino, op: &'static str) -> Result<Arc<Anchor>> {
        let mut below = vec![];
        let mut at = ino;
        let mut dir = loop {
            let open = self.nodes().anchor(at);
            if let Some((anchor, is_kept)) = open
                && (is_kept || self.host.whereabouts(&anchor.fd) == Ok(Whereabouts::Inside))
            {
                break anchor;
            }
            let known = self.nodes().known(at).ok_or_else(|| stale(op))?;
            let hint = known.hints.last().cloned().ok_or_else(|| stale(op))?;
            if below.len() >= CLIMB_COUNT_MAX {
                return Err(stale(op));
            }
            let above = hint.dir;
            below.push((at, known.id, hint));
            at = above;
        };
        for (ino, id, hint) in below.into_iter().rev() {
            dir = self.open_known(ino, id, &hint, &dir)?.ok_or_else(|| stale(op))?;
        }
        Ok(dir)
    }

    /// Opens a known inode in the directory it was last in: under its last name, else where its number is now.
    fn open_known(&self, ino: Ino, id: Identity, hint: &Hint, dir: &Anchor) -> Result<Option<Arc<Anchor>>> {
        if let Some(fd) = self.open_as(&dir.fd, hint.name.as_bytes(), id)? {
            let anchor = Anchor::new(fd, None);
            let kept = anchor.clone();
            self.with_nodes(|nodes, closing| nodes.keep(ino, kept, closing));
            return Ok(Some(anchor));
        }
        let dir_number = self.nodes().id(hint.dir).map_or(0, |id| id.number);
        let Some((name, fd)) = self.find_by_number(dir, dir_number, id)? else { return Ok(None) };
        let anchor = Anchor::new(fd, None);
        let kept = anchor.clone();
        let moved = Hint { dir: hint.dir, name };
        self.with_nodes(|nodes, closing| {
            nodes.lose_name(ino, hint.dir, &hint.name);
            nodes.meet(id, Some(moved), Some(kept), 0, closing)
        });
        Ok(Some(anchor))
    }

    /// Opens a name where it is the very inode wanted.
    fn open_as(&self, dir: impl AsFd, name: &[u8], id: Identity) -> Result<Option<OwnedFd>> {
        const OP: &str = "local.open";
        match self.with_room(|| Host::open_name(&dir, name)) {
            Ok(fd) => {
                let stat = stat_fd(&fd).map_err(fail(OP))?;
                Ok((self.host.is_here(&stat) && identity(&stat).ok() == Some(id)).then_some(fd))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::STALE) => Ok(None),
            Err(errno) => Err(fail(OP)(errno)),
        }
    }

    /// Looks a number up in a directory, and opens it where it is the inode wanted.
    fn find_by_number(&self, dir: &Anchor, dir_number: u64, id: Identity) -> Result<Option<(Name, OwnedFd)>> {
        const OP: &str = "local.find";
        let scanned =
            self.scanned.lock().unwrap_or_else(PoisonError::into_inner).get(&(dir_number, id.number)).cloned();
        if let Some(name) = scanned
            && let Some(fd) = self.open_as(&dir.fd, name.as_bytes(), id)?
        {
            return Ok(Some((name, fd)));
        }
        let data = self.data(dir, false, OP)?;
        let _reading = dir.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Entries::start(&data.fd, 0, 1024).map_err(fail(OP))?;
        let mut found = None;
        let mut seen = Scanned::new();
        while let Some((raw, name)) = entries.next().map_err(fail(OP))? {
            if found.is_none() && raw.number == id.number {
                found = self.open_as(&dir.fd, name.as_bytes(), id)?.map(|fd| (name, fd));
            } else if found.is_some() {
                // Those who look for one often look for its neighbours next, in the directory's own order.
                if seen.len() >= SCANNED_COUNT_MAX {
                    break;
                }
                seen.insert((dir_number, raw.number), name);
            }
        }
        if found.is_some() {
            let mut scanned = self.scanned.lock().unwrap_or_else(PoisonError::into_inner);
            if scanned.len() + seen.len() > SCANNED_COUNT_MAX {
                *scanned = seen;
            } else {
                scanned.extend(seen);
            }
        }
        Ok(found)
    }

    /// The open file of an inode, or a directory open for reading.
    pub(super) fn data(&self, anchor: &Anchor, is_written: bool, op: &'static str) -> Result<Data> {
        if let Some(data) = anchor.data()
            && (data.is_writable || !is_written)
        {
            return Ok(data);
        }
        let flags = if is_written { OFlags::RDWR } else { OFlags::RDONLY };
        let fd = self.with_room(|| self.host.reopen(&anchor.fd, flags)).map_err(fail(op))?;
        let data = Data::new(Arc::new(fd), is_written);
        anchor.set_data(data.clone());
        Ok(data)
    }

    /// Refuses what is no file: `IsDir` for a directory, `InvalidArgument` for what else holds no bytes.
    pub(super) fn must_be_file(&self, ino: Ino, op: &'static str) -> Result<()> {
        let id = self.nodes().id(ino).ok_or_else(|| stale(op))?;
        match id.kind {
            FileKind::File => Ok(()),
            FileKind::Dir => Err(Error::new(ErrorKind::IsDir, op)),
            _ => Err(Error::new(ErrorKind::InvalidArgument, op).because("only regular files hold bytes")),
        }
    }

    /// The open file behind a number.
    pub(super) fn file(&self, ino: Ino, is_written: bool, op: &'static str) -> Result<Data> {
        self.must_be_file(ino, op)?;
        let anchor = self.anchor(ino, op)?;
        self.data(&anchor, is_written, op)
    }

    pub(super) fn getattr(&self, ino: Ino) -> Result<Attr> {
        const OP: &str = "local.getattr";
        let (anchor, seen) = self.anchor_seen(ino, OP)?;
        let stat = seen.map_or_else(|| stat_fd(&anchor.fd).map_err(fail(OP)), Ok)?;
        Ok(attr(ino, &stat))
    }

    /// Leases the inode of a name.
    pub(super) fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        const OP: &str = "local.lookup";
        let above = self.dir(dir, OP)?;
        let stat = stat_name(&above.fd, name.as_bytes()).map_err(fail(OP))?;
        let id = self.here(&stat, OP)?;
        let hint = Hint { dir, name: name.clone() };
        let is_open = {
            let mut nodes = self.nodes();
            let ino = nodes.ino_of(id.number);
            ino.is_some_and(|ino| nodes.id(ino) == Some(id) && nodes.anchor(ino).is_some())
        };
        if is_open {
            let ino = self.with_nodes(|nodes, closing| nodes.meet(id, Some(hint), None, 1, closing));
            return Ok(attr(ino, &stat));
        }
        let fd = self.with_room(|| Host::open_name(&above.fd, name.as_bytes())).map_err(fail(OP))?;
        let stat = stat_fd(&fd).map_err(fail(OP))?;
        let id = self.here(&stat, OP)?;
        let anchor = Anchor::new(fd, None);
        let ino = self.with_nodes(|nodes, closing| nodes.meet(id, Some(hint), Some(anchor), 1, closing));
        Ok(attr(ino, &stat))
    }

    /// Leases the directory above; of what is no directory, one that has a name of it.
    pub(super) fn parent(&self, ino: Ino) -> Result<Attr> {
        const OP: &str = "local.parent";
        let here = self.anchor(ino, OP)?;
        if ino == self.root {
            return self.getattr(ino);
        }
        if stat_fd(&here.fd).map_err(fail(OP))?.stx_nlink == 0 {
            return Err(Error::new(ErrorKind::NotFound, OP).because("its last name went"));
        }
        let known = self.nodes().known(ino).ok_or_else(|| stale(OP))?;
        if known.id.kind != FileKind::Dir {
            let above = known.hints.iter().rev().find(|hint| self.leads_to(hint, known.id));
            // It has a name, and none that was seen: the host tells names by number to nobody.
            let above = above.ok_or_else(|| Error::new(ErrorKind::NotDir, OP))?.dir;
            let found = self.getattr(above)?;
            self.nodes().retain(above);
            return Ok(found);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let above = self.with_room(|| rustix::fs::openat(&here.fd, "..", flags, Mode::empty())).map_err(fail(OP))?;
        // Asked after it was opened: a directory moved out a moment ago has a parent that is none of ours.
        if self.host.whereabouts(&above).map_err(fail(OP))? == Whereabouts::Outside {
            return Err(stale(OP));
        }
        let stat = stat_fd(&above).map_err(fail(OP))?;
        let id = self.here(&stat, OP)?;
        {
            let mut nodes = self.nodes();
            if let Some(ino) = nodes.ino_of(id.number).filter(|ino| nodes.id(*ino) == Some(id)) {
                nodes.retain(ino);
                return Ok(attr(ino, &stat));
            }
        }
        // Others moved it to where we have not been: walk there, so that the way is known.
        let parts = self.host.parts_below(&above).map_err(fail(OP))?.ok_or_else(|| stale(OP))?;
        let mut at = self.root;
        let mut found = self.getattr(at)?;
        for part in parts {
            let next = self.lookup(at, &Name::new(&part)?);
            self.release(at, 1);
            found = next?;
            at = found.ino;
        }
        if self.nodes().id(at) == Some(id) {
            return Ok(found);
        }
        self.release(at, 1);
        Err(stale(OP))
    }

    pub(super) fn release(&self, ino: Ino, count: u64) {
        let closing = self.nodes().release(ino, count);
        self.closer.close(closing);
    }

    /// The handle of an inode; gives rows to the directories above too, or it could not be found after a restart.
    pub(super) fn handle(&self, ino: Ino) -> Result<Handle> {
        const OP: &str = "local.handle";
        let mut first = None;
        let mut at = ino;
        for _ in 0..CLIMB_COUNT_MAX {
            let (known, above) = {
                let nodes = self.nodes();
                let known = nodes.known(at).ok_or_else(|| stale(OP))?;
                let above = known.hints.last().map(|hint| hint.dir);
                (known, above.and_then(|dir| Some((dir, nodes.id(dir)?.number))))
            };
            let Identity { number, birth, kind } = known.id;
            // Where no name is known, as where there is none above: in the directory it had before.
            let parent = match (above, known.stamp) {
                (Some((_, parent)), _) => parent,
                (None, Some(own)) => own.parent,
                (None, None) => self.row_of(known.id)?.map_or(number, |row| row.parent),
            };
            let is_noted = known.stamp.is_some_and(|own| own.parent == parent);
            let own = match known.stamp.filter(|_| is_noted) {
                Some(own) => own,
                None => Stamp { stamp: self.handles.stamp(number, birth, kind, parent)?, parent },
            };
            self.nodes().set_stamp(at, own);
            let table = self.handles.table();
            let first = *first.get_or_insert(HandleParts { table, number, stamp: own.stamp });
            match above {
                Some((dir, _)) if !is_noted => at = dir,
                _ => return Ok(first.encode()),
            }
        }
        Err(stale(OP))
    }

    fn row_of(&self, id: Identity) -> Result<Option<Row>> {
        Ok(self.handles.row(id.number)?.filter(|row| row.is_of(id.birth, id.kind)))
    }

    /// Sees to it that an inode whose names changed is found again by the handle it has, if it has one.
    pub(super) fn note_place(&self, ino: Ino) -> Result<()> {
        let Some(known) = self.nodes().known(ino) else { return Ok(()) };
        if known.stamp.is_some() || self.row_of(known.id)?.is_some() {
            self.handle(ino)?;
        }
        Ok(())
    }

    /// Leases the inode of a handle that is known here; `None` sends the caller to [`Local::resolve_row`].
    pub(super) fn resolve_known(&self, parts: HandleParts) -> Result<Option<Attr>> {
        const OP: &str = "local.resolve";
        if parts.table != self.handles.table() {
            return Err(stale(OP).because("the handle is of a table that was lost"));
        }
        let Some(ino) = self.nodes().lease_stamped(parts.number, parts.stamp) else { return Ok(None) };
        match self.getattr(ino) {
            // One without a name is found for as long as somebody else has it open.
            Ok(found) if found.nlink > 0 || self.nodes().lease_count(ino) > 1 => Ok(Some(found)),
            result => {
                self.release(ino, 1);
                match result {
                    Err(error) if error.kind() != ErrorKind::Stale => return Err(error),
                    Ok(_) => self.handles.forget(parts.number)?,
                    Err(_) => {}
                }
                Err(stale(OP))
            }
        }
    }

    /// Leases the inode of a handle by its row: after a restart, or when it was forgotten.
    pub(super) fn resolve_row(&self, parts: HandleParts) -> Result<Attr> {
        const OP: &str = "local.resolve";
        let row = self.handles.row(parts.number)?.filter(|row| row.stamp == parts.stamp).ok_or_else(|| stale(OP))?;
        let mut chain = vec![(parts.number, row)];
        let (mut dir_ino, mut dir) = loop {
            let parent = chain.last().map_or(0, |(_, row)| row.parent);
            let known = {
                let nodes = self.nodes();
                nodes.ino_of(parent).filter(|ino| nodes.id(*ino).is_some())
            };
            if let Some(ino) = known {
                break (ino, self.dir(ino, OP)?);
            }
            if chain.len() >= CLIMB_COUNT_MAX {
                return Err(stale(OP));
            }
            chain.push((parent, self.handles.row(parent)?.ok_or_else(|| stale(OP))?));
        };
        let count = chain.len();
        for (index, (number, Row { stamp, birth, kind, parent })) in chain.into_iter().rev().enumerate() {
            let id = Identity { number, birth, kind };
            let is_last = index + 1 == count;
            if id == self.host.root_id() {
                self.nodes().set_stamp(self.root, Stamp { stamp, parent });
                return self.getattr(self.root);
            }
            let Some((name, fd)) = self.find_by_number(&dir, parent, id)? else {
                // Not dropped: it may have been moved by others, and a lookup will tell where to.
                return Err(stale(OP));
            };
            let anchor = Anchor::new(fd, None);
            let kept = anchor.clone();
            let hint = Hint { dir: dir_ino, name };
            dir_ino = self.with_nodes(|nodes, closing| {
                let ino = nodes.meet(id, Some(hint), Some(kept), u64::from(is_last), closing);
                nodes.set_stamp(ino, Stamp { stamp, parent });
                ino
            });
            dir = anchor;
        }
        match stat_fd(&dir.fd) {
            Ok(stat) => Ok(attr(dir_ino, &stat)),
            Err(errno) => {
                self.release(dir_ino, 1);
                Err(fail(OP)(errno))
            }
        }
    }
}
