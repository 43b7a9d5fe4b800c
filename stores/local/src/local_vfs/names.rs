//! Names: making, removing, moving and linking them.
//!
//! A change of a directory waits for the one before it (the caller holds the directory's lock), so that the
//! attributes before and after have none of our own changes between them.

use std::sync::{Arc, atomic::Ordering};

use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{
        Attr, Changed, DirChanged, FILE_LEN_MAX, Ino, NewNode, Place, RemoveKind, RenameMode, Renamed, SYMLINK_LEN_MAX,
        SetAttr,
    },
};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Statx},
    io::Errno,
    path::DecInt,
    time::ClockId,
};

use super::{
    Local,
    attrs::set_owner,
    errno::fail,
    find::stale,
    host::{Host, Identity, attr, identity, kind_of, mode, pre_attr, stat_fd, stat_name},
    nodes::{Anchor, Data, Hint},
};

/// A place by value: the call may move to another thread.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) dir: Ino,
    pub(super) name: Name,
    pub(super) expect: Option<Ino>,
}

impl From<Place<'_>> for Spot {
    fn from(place: Place<'_>) -> Self {
        Self { dir: place.dir, name: place.name.clone(), expect: place.expect }
    }
}

/// An entry that is about to change: what it is, under which number, and a descriptor that outlives its name.
struct Held {
    ino: Ino,
    id: Identity,
    anchor: Arc<Anchor>,
}

fn changed(dir: Ino, before: &Statx, after: &Statx) -> Changed {
    Changed { before: pre_attr(before), after: attr(dir, after) }
}

/// Refuses what no host could make.
fn makes_sense(node: &NewNode, set: &SetAttr) -> Result<()> {
    const OP: &str = "local.create";
    match (node, set.size) {
        (NewNode::File, Some(size)) if size > FILE_LEN_MAX => Err(Error::new(ErrorKind::TooLarge, OP)),
        (NewNode::File, _) | (_, None) => match node {
            NewNode::Symlink(target) if target.is_empty() || target.contains(&0) => {
                let why = "the target of a symlink is not empty and holds no NUL";
                Err(Error::new(ErrorKind::InvalidArgument, OP).because(why))
            }
            NewNode::Symlink(target) if target.len() > SYMLINK_LEN_MAX => Err(Error::new(ErrorKind::NameTooLong, OP)),
            _ => Ok(()),
        },
        (NewNode::Dir, Some(_)) => Err(Error::new(ErrorKind::IsDir, OP)),
        (_, Some(_)) => Err(Error::new(ErrorKind::InvalidArgument, OP).because("only regular files have a size")),
    }
}

/// What stands under a name, if anything does.
fn entry(dir: &Anchor, name: &Name, op: &'static str) -> Result<Option<Statx>> {
    match stat_name(&dir.fd, name.as_bytes()) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(fail(op)(errno)),
    }
}

/// The number that the host packs a device into.
fn device(rdev: muxfs::vfs::Rdev) -> u64 {
    rustix::fs::makedev(rdev.major, rdev.minor)
}

impl Local {
    /// Refuses changes where the options do.
    pub(super) fn writable(&self, op: &'static str) -> Result<()> {
        if self.options.read_only { Err(Error::new(ErrorKind::ReadOnly, op)) } else { Ok(()) }
    }

    /// Makes a node, leased.
    pub(super) fn create(&self, dir: Ino, name: &Name, node: &NewNode, set: &SetAttr) -> Result<DirChanged> {
        const OP: &str = "local.create";
        self.writable(OP)?;
        let (above, before) = self.dir_seen(dir, OP)?;
        if let Err(error) = makes_sense(node, set) {
            // Of two reasons the taken name is told first: it is the one a caller waits for.
            let is_taken = stat_name(&above.fd, name.as_bytes()).is_ok();
            return Err(if is_taken { Error::new(ErrorKind::Exists, OP) } else { error });
        }
        let (anchor, stat) = match node {
            NewNode::File => self.make_file(&above, &before, name, set)?,
            other => self.make_other(&above, &before, name, other, set)?,
        };
        let id = self.here(&stat, OP)?;
        // The number may have been another file's, removed by others: its handle must not lead here.
        self.handles.forget(id.number)?;
        let hint = Hint { dir, name: name.clone() };
        let ino = self.with_nodes(|nodes, closing| nodes.meet_new(id, hint, anchor, closing));
        let after = stat_fd(&above.fd).map_err(fail(OP))?;
        Ok(DirChanged { dir: changed(dir, &before, &after), node: attr(ino, &stat) })
    }

    /// Whether a node that the host makes with these bits is what `set` asks for, or differs by no more than bits that
    /// are missing: nobody can do with it what they should not.
    fn is_plain(&self, bits: u32, set: &SetAttr) -> bool {
        let owner_stays = !self.is_privileged
            || (set.uid.is_none_or(|uid| uid == self.uid) && set.gid.is_none_or(|gid| gid == self.gid));
        owner_stays
            && bits & 0o7000 == 0
            && set.size.is_none_or(|size| size == 0)
            && set.atime.is_none()
            && set.mtime.is_none()
    }

    /// The bits to make a plain node with: none for its group while that may be the directory's and not the one meant.
    fn first_bits(&self, bits: u32, set: &SetAttr, dir: &Statx) -> u32 {
        let may_differ = self.is_privileged && set.gid.is_some_and(|gid| gid != dir.stx_gid);
        if may_differ { bits & !0o070 } else { bits }
    }

    /// Gives a node that was made plainly what the host left out: bits that the umask or a default ACL of the directory
    /// took away, and the group where the directory gave it its own. What the node is now.
    fn finish_plain(&self, fd: &OwnedFd, bits: u32, set: &SetAttr) -> Result<Statx, Errno> {
        let stat = stat_fd(fd)?;
        let gid = set.gid.filter(|gid| self.is_privileged && *gid != stat.stx_gid);
        if gid.is_some() {
            set_owner(fd, &SetAttr { gid, ..SetAttr::default() })?;
        }
        let is_short = mode(&stat) != bits && kind_of(&stat) != FileKind::Symlink;
        if is_short {
            self.set_mode(fd, bits)?;
        }
        if gid.is_some() || is_short { stat_fd(fd) } else { Ok(stat) }
    }

    fn make_file(&self, above: &Anchor, dir: &Statx, name: &Name, set: &SetAttr) -> Result<(Arc<Anchor>, Statx)> {
        const OP: &str = "local.create";
        let bits = set.mode.unwrap_or(0o644) & 0o7777;
        let open = |flags: OFlags, path: &[u8], bits: u32| {
            let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(bits);
            self.with_space(|| self.with_room(|| rustix::fs::openat(&above.fd, path, flags, mode)))
        };
        let undo = |error: Error| {
            let _gone = rustix::fs::unlinkat(&above.fd, name.as_bytes(), AtFlags::empty());
            error
        };
        if self.is_plain(bits, set) {
            let first = self.first_bits(bits, set, dir);
            // Where more is to follow, lookups through us wait until it has.
            let _making = (first & !self.umask != bits).then(|| Making::begin(self));
            let fd = open(OFlags::CREATE | OFlags::EXCL, name.as_bytes(), first).map_err(fail(OP))?;
            let stat = self.finish_plain(&fd, bits, set).map_err(fail(OP)).map_err(undo)?;
            return Ok((Anchor::created(fd), stat));
        }
        // Dressed before it gets its name: nobody sees it half made.
        let fd = match open(OFlags::TMPFILE, b".", 0o600) {
            Ok(fd) => fd,
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                // This file system has no nameless files: it is nobody's to open until it is dressed.
                let fd = open(OFlags::CREATE | OFlags::EXCL, name.as_bytes(), 0).map_err(fail(OP))?;
                let stat = self.dress_file(&fd, bits, set).and_then(|()| stat_fd(&fd).map_err(fail(OP)));
                return Ok((Anchor::created(fd), stat.map_err(undo)?));
            }
            Err(errno) => return Err(fail(OP)(errno)),
        };
        self.dress_file(&fd, bits, set)?;
        let from = DecInt::from_fd(&fd);
        rustix::fs::linkat(self.host.descriptors(), from, &above.fd, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)
            .map_err(fail(OP))?;
        self.anchor_of_nameless(fd, above, name)
    }

    fn dress_file(&self, fd: &OwnedFd, bits: u32, set: &SetAttr) -> Result<()> {
        const OP: &str = "local.create";
        if let Some(size) = set.size {
            rustix::fs::ftruncate(fd, size).map_err(fail(OP))?;
        }
        self.dress(fd, FileKind::File, bits, set).map_err(fail(OP))
    }

    /// Keeps the descriptor of a new file open for the writes that follow. It was nameless, stands for no name and
    /// cannot tell where it is: the name is opened for that.
    fn anchor_of_nameless(&self, fd: OwnedFd, above: &Anchor, name: &Name) -> Result<(Arc<Anchor>, Statx)> {
        const OP: &str = "local.create";
        let stands = self.with_room(|| Host::open_name(&above.fd, name.as_bytes())).map_err(fail(OP))?;
        let stat = stat_fd(&stands).map_err(fail(OP))?;
        if stat_fd(&fd).map_err(fail(OP))?.stx_ino != stat.stx_ino {
            return Err(stale(OP).because("another process put something else there"));
        }
        Ok((Anchor::new(stands, Some(Data::new(Arc::new(fd), true))), stat))
    }

    fn make_other(
        &self,
        above: &Anchor,
        dir: &Statx,
        name: &Name,
        node: &NewNode,
        set: &SetAttr,
    ) -> Result<(Arc<Anchor>, Statx)> {
        const OP: &str = "local.create";
        let (kind, bits, made_as) = match node {
            NewNode::File | NewNode::Fifo => (FileKind::Fifo, 0o644, FileType::Fifo),
            NewNode::Dir => (FileKind::Dir, 0o755, FileType::Directory),
            NewNode::Symlink(_) => (FileKind::Symlink, 0o777, FileType::Symlink),
            NewNode::Socket => (FileKind::Socket, 0o644, FileType::Socket),
            NewNode::CharDevice(_) => (FileKind::CharDevice, 0o644, FileType::CharacterDevice),
            NewNode::BlockDevice(_) => (FileKind::BlockDevice, 0o644, FileType::BlockDevice),
        };
        let bits = set.mode.unwrap_or(bits) & 0o7777;
        // Made with fewer rights, not more; until it is dressed, lookups of this directory wait.
        let plain = self.is_plain(bits, set);
        let first = Mode::from_raw_mode(if plain { self.first_bits(bits, set, dir) } else { bits & 0o700 });
        let began = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
        let _making = Making::begin(self);
        let path = name.as_bytes();
        let make = || match node {
            NewNode::Dir => rustix::fs::mkdirat(&above.fd, path, first),
            NewNode::Symlink(target) => rustix::fs::symlinkat(&**target, &above.fd, path),
            NewNode::CharDevice(rdev) | NewNode::BlockDevice(rdev) => {
                rustix::fs::mknodat(&above.fd, path, made_as, first, device(*rdev))
            }
            NewNode::File | NewNode::Fifo | NewNode::Socket => rustix::fs::mknodat(&above.fd, path, made_as, first, 0),
        };
        self.with_space(make).map_err(fail(OP))?;
        let fd = self.with_room(|| Host::open_name(&above.fd, path)).map_err(fail(OP))?;
        let stat = stat_fd(&fd).map_err(fail(OP))?;
        // Others on the host may have put something else there; that is not ours to give away.
        let began = began.tv_sec.saturating_mul(1_000_000_000).saturating_add(began.tv_nsec);
        let id = self.here(&stat, OP)?;
        if id.kind != kind || stat.stx_uid != self.uid || (id.birth != 0 && id.birth < began) {
            return Err(stale(OP).because("the new node was replaced by another process"));
        }
        let dressed = if plain {
            self.finish_plain(&fd, bits, set)
        } else {
            self.dress(&fd, kind, bits, set).and_then(|()| stat_fd(&fd))
        };
        let stat = dressed.map_err(|errno| {
            let flags = if kind == FileKind::Dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _gone = rustix::fs::unlinkat(&above.fd, path, flags);
            fail(OP)(errno)
        })?;
        Ok((Anchor::new(fd, None), stat))
    }

    /// Opens an entry that is about to change, checked to be what was just seen.
    fn hold(&self, dir: &Anchor, name: &Name, stat: &Statx, op: &'static str) -> Result<Held> {
        let id = self.here(stat, op)?;
        let open = {
            let mut nodes = self.nodes();
            nodes
                .ino_of(id.number)
                .filter(|ino| nodes.id(*ino) == Some(id))
                .and_then(|ino| nodes.anchor(ino).map(|(anchor, _)| (ino, anchor)))
        };
        if let Some((ino, anchor)) = open {
            return Ok(Held { ino, id, anchor });
        }
        let fd = self.with_room(|| Host::open_name(&dir.fd, name.as_bytes())).map_err(fail(op))?;
        if identity(&stat_fd(&fd).map_err(fail(op))?)? != id {
            return Err(stale(op).because("another process put something else there"));
        }
        let anchor = Anchor::new(fd, None);
        let ino = self.nodes().ino_of(id.number).ok_or_else(|| stale(op))?;
        Ok(Held { ino, id, anchor })
    }

    /// Refuses a place that does not hold the inode its caller believes.
    fn expect(&self, expect: Option<Ino>, stat: Option<&Statx>, op: &'static str) -> Result<()> {
        let (Some(expect), Some(stat)) = (expect, stat) else { return Ok(()) };
        let known = self.nodes().id(expect);
        if known.is_some() && identity(stat).ok() == known {
            return Ok(());
        }
        Err(stale(op).because("the name has another inode than expected"))
    }

    /// Takes note that a name went; gives what the node is now.
    fn lost(&self, held: Held, dir: Ino, name: &Name, op: &'static str) -> Result<Attr> {
        let Held { ino, id, anchor } = held;
        let stat = stat_fd(&anchor.fd).map_err(fail(op))?;
        let mut node = attr(ino, &stat);
        if stat.stx_nlink == 0 || kind_of(&stat) == FileKind::Dir {
            node.nlink = 0;
            let forgotten = self.handles.forget(id.number);
            let mut closing = vec![];
            {
                let mut nodes = self.nodes();
                if nodes.id(ino) == Some(id) {
                    nodes.gone(ino, Some(anchor), &mut closing);
                } else {
                    closing.push(anchor);
                }
            }
            if stat.stx_blocks > 0 {
                self.closer.close(closing);
            }
            forgotten?;
        } else {
            self.with_nodes(|nodes, closing| {
                nodes.lose_name(ino, dir, name);
                closing.push(anchor);
            });
            self.note_place(ino)?;
        }
        Ok(node)
    }

    pub(super) fn remove(&self, spot: &Spot, kind: RemoveKind) -> Result<DirChanged> {
        const OP: &str = "local.remove";
        self.writable(OP)?;
        let above = self.dir(spot.dir, OP)?;
        let name = spot.name.as_bytes();
        let stat = stat_name(&above.fd, name).map_err(fail(OP))?;
        self.expect(spot.expect, Some(&stat), OP)?;
        let held = self.hold(&above, &spot.name, &stat, OP)?;
        let flags = match (kind, held.id.kind) {
            (RemoveKind::NonDir, FileKind::Dir) => return Err(Error::new(ErrorKind::IsDir, OP)),
            (RemoveKind::NonDir, _) => AtFlags::empty(),
            (RemoveKind::Dir, _) => AtFlags::REMOVEDIR,
        };
        let before = stat_fd(&above.fd).map_err(fail(OP))?;
        rustix::fs::unlinkat(&above.fd, name, flags).map_err(|errno| match errno {
            Errno::EXIST => Error::new(ErrorKind::NotEmpty, OP),
            errno => fail(OP)(errno),
        })?;
        let after = stat_fd(&above.fd).map_err(fail(OP))?;
        let node = self.lost(held, spot.dir, &spot.name, OP)?;
        Ok(DirChanged { dir: changed(spot.dir, &before, &after), node })
    }

    pub(super) fn rename(&self, from: &Spot, to: &Spot, how: RenameMode) -> Result<Renamed> {
        const OP: &str = "local.rename";
        self.writable(OP)?;
        // Of several reasons to refuse, the first in this order is told: what is at the one place, then at the other.
        let from_dir = self.dir(from.dir, OP)?;
        let stat = entry(&from_dir, &from.name, OP)?;
        self.expect(from.expect, stat.as_ref(), OP)?;
        let to_dir = self.dir(to.dir, OP)?;
        let target = entry(&to_dir, &to.name, OP)?;
        self.expect(to.expect, target.as_ref(), OP)?;
        let stat = stat.ok_or_else(|| Error::new(ErrorKind::NotFound, OP))?;
        let moving = self.hold(&from_dir, &from.name, &stat, OP)?;
        let other = target.map(|stat| self.hold(&to_dir, &to.name, &stat, OP)).transpose()?;
        let is_same = other.as_ref().is_some_and(|other| other.id == moving.id);
        let flags = match how {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        let from_before = stat_fd(&from_dir.fd).map_err(fail(OP))?;
        let to_before = stat_fd(&to_dir.fd).map_err(fail(OP))?;
        rustix::fs::renameat_with(&from_dir.fd, from.name.as_bytes(), &to_dir.fd, to.name.as_bytes(), flags).map_err(
            |errno| match (errno, how) {
                (Errno::EXIST, RenameMode::Replace) => Error::new(ErrorKind::NotEmpty, OP),
                _ => fail(OP)(errno),
            },
        )?;
        let from_after = stat_fd(&from_dir.fd).map_err(fail(OP))?;
        let to_after = stat_fd(&to_dir.fd).map_err(fail(OP))?;
        if !is_same {
            match (how, other) {
                (RenameMode::Exchange, Some(other)) => self.arrived(&other, to, from)?,
                (_, Some(other)) => {
                    self.lost(other, to.dir, &to.name, OP)?;
                }
                (_, None) => {}
            }
            self.arrived(&moving, from, to)?;
        }
        let node = stat_fd(&moving.anchor.fd).map_err(fail(OP))?;
        Ok(Renamed {
            from: changed(from.dir, &from_before, &from_after),
            to: changed(to.dir, &to_before, &to_after),
            node: attr(moving.ino, &node),
        })
    }

    /// Takes note that an inode moved.
    fn arrived(&self, held: &Held, from: &Spot, to: &Spot) -> Result<()> {
        let hint = Hint { dir: to.dir, name: to.name.clone() };
        let kept = held.anchor.clone();
        let ino = self.with_nodes(|nodes, closing| {
            let ino = nodes.meet(held.id, Some(hint), Some(kept), 0, closing);
            nodes.lose_name(ino, from.dir, &from.name);
            ino
        });
        if from.dir == to.dir { Ok(()) } else { self.note_place(ino) }
    }

    /// Gives an inode one more name; leases it.
    pub(super) fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        const OP: &str = "local.link";
        self.writable(OP)?;
        let id = self.nodes().id(ino).ok_or_else(|| stale(OP))?;
        if id.kind == FileKind::Dir {
            return Err(Error::new(ErrorKind::NotPermitted, OP).because("a directory has one name"));
        }
        let anchor = self.anchor(ino, OP)?;
        let above = self.dir(dir, OP)?;
        if stat_fd(&anchor.fd).map_err(fail(OP))?.stx_nlink == 0 {
            return Err(Error::new(ErrorKind::NotFound, OP).because("its last name went"));
        }
        let before = stat_fd(&above.fd).map_err(fail(OP))?;
        let from = DecInt::from_fd(&anchor.fd);
        rustix::fs::linkat(self.host.descriptors(), from, &above.fd, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)
            .map_err(fail(OP))?;
        let after = stat_fd(&above.fd).map_err(fail(OP))?;
        let stat = stat_fd(&anchor.fd).map_err(fail(OP))?;
        let hint = Hint { dir, name: name.clone() };
        let ino = self.with_nodes(|nodes, closing| nodes.meet(id, Some(hint), None, 1, closing));
        Ok(DirChanged { dir: changed(dir, &before, &after), node: attr(ino, &stat) })
    }

    pub(super) fn readlink(&self, ino: Ino) -> Result<bytes::Bytes> {
        const OP: &str = "local.readlink";
        if self.nodes().id(ino).ok_or_else(|| stale(OP))?.kind != FileKind::Symlink {
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because("only a symlink has a target"));
        }
        let anchor = self.anchor(ino, OP)?;
        let target = rustix::fs::readlinkat(&anchor.fd, c"", Vec::new()).map_err(fail(OP))?;
        Ok(target.into_bytes().into())
    }
}

/// Counts nodes that have a name and not yet their attributes: lookups wait for their directory meanwhile.
struct Making<'a>(&'a Local);

impl<'a> Making<'a> {
    fn begin(local: &'a Local) -> Self {
        local.making.fetch_add(1, Ordering::SeqCst);
        Self(local)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.making.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use muxfs::vfs::Vfs;

    use super::{
        super::{LocalOptions, LocalVfs},
        *,
    };

    /// Whoever speaks for a caller names the owner. That made every file nameless first, and then dressed, linked and
    /// opened again: twice the work, when the owner was the server all along.
    #[tokio::test]
    async fn a_file_of_the_servers_own_is_made_by_one_open() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("the root");
        let vfs = LocalVfs::open(&root, &dir.path().join("handles"), LocalOptions::default()).expect("it opens");
        let own = (Some(vfs.local.uid), Some(vfs.local.gid));
        let table = [("a", (None, None), Some(0o666)), ("b", own, Some(0o644)), ("c", own, None)];
        for (text, (uid, gid), mode) in table {
            let name = Name::new(text.as_bytes()).expect("a name");
            let set = SetAttr { mode, uid, gid, ..SetAttr::default() };
            let made = vfs.create(vfs.root(), &name, NewNode::File, set).await.expect("made").node;
            let (anchor, _) = vfs.local.nodes().anchor(made.ino).expect("open");
            let data = anchor.data().expect("open for the writes that follow");
            assert!(Arc::ptr_eq(&data.fd, &anchor.fd), "{text}: one descriptor for everything");
        }
    }
}
