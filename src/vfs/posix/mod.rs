//! Any [`Vfs`] as one caller may use it: permission bits, sticky and setgid directories, who may chown.
//!
//! It stands between a frontend that knows who asks and a file system that does not. What it cannot check without a race
//! it makes the file system check: the inode that a sticky bit was looked at for goes along as `expect`, the dropping of
//! setuid as `clear_suid`. A call costs one `getattr` more at most, a call of root none but for what it creates or
//! chowns; moving names out of sticky directories or from one directory to another also looks up what is moved.
//!
//! Rules follow POSIX and, where that leaves a choice, Linux. Spec: spec/vfs.md #callers.

mod caller;

use std::{fs::File, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

pub use self::caller::{Access, Caller};
use self::caller::{SETGID, SUID_BITS};
use super::{
    Attr, Changed, Cookie, DirChanged, DirPage, Ino, Listing, NewNode, Place, RemoveKind, RenameMode, Renamed, Seek,
    SetAttr, SetTime, Vfs, XattrMode, XattrName,
};
use crate::{Error, ErrorKind, FileKind, Name, Result, forward_vfs};

/// How often a call that was overtaken looks again before it gives up with `Stale` or `Exists`: who loses this often
/// loses to somebody who makes it lose.
const RACE_COUNT_MAX: usize = 8;

/// How strictly a caller is held to the bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PosixOptions {
    /// For a protocol without open (NFS): the owner may always read and write, since on a local file system a file that
    /// was created 0444 or chmodded while open stays open; and whoever may execute a file may read it, since that is how
    /// it gets executed. Other servers do the same.
    pub owner_override: bool,
}

/// `vfs` as `caller` may use it. Errors: `Denied` where the bits refuse, `NotPermitted` where only an owner or root may.
///
/// ```
/// use muxfs::{testing, testing::model::ModelFs, vfs::posix::{Caller, posix}};
/// let alice = Caller { uid: 1000, gid: 1000, groups: vec![27] };
/// let vfs = posix(ModelFs::new(testing::env()), alice);
/// # drop(vfs);
/// ```
pub fn posix(vfs: Arc<dyn Vfs>, caller: Caller) -> Arc<dyn Vfs> {
    posix_with(vfs, caller, PosixOptions::default())
}

/// [`posix`] with options.
///
/// ```
/// use muxfs::{testing, testing::model::ModelFs, vfs::posix::{Caller, PosixOptions, posix_with}};
/// let alice = Caller { uid: 1000, gid: 1000, groups: vec![] };
/// let vfs = posix_with(ModelFs::new(testing::env()), alice, PosixOptions { owner_override: true });
/// # drop(vfs);
/// ```
pub fn posix_with(vfs: Arc<dyn Vfs>, caller: Caller, options: PosixOptions) -> Arc<dyn Vfs> {
    Arc::new(Posix { vfs, caller, options })
}

/// What `caller` may do with a leased inode, by its bits alone: the answer to NFS's ACCESS, with the attributes that
/// go into its reply.
///
/// # Errors
/// `Stale`, `Io`.
pub async fn access(vfs: &dyn Vfs, caller: &Caller, ino: Ino) -> Result<(Access, Attr)> {
    let attr = vfs.getattr(ino).await?;
    Ok((caller.access(&attr), attr))
}

#[derive(Debug)]
struct Posix {
    vfs: Arc<dyn Vfs>,
    caller: Caller,
    options: PosixOptions,
}

fn refuse<T>(kind: ErrorKind, op: &'static str, why: &'static str) -> Result<T> {
    Err(Error::new(kind, op).because(why))
}

// ---- what may be done

impl Posix {
    /// The attributes of a directory with which the caller may do what is `wanted`.
    async fn dir(&self, dir: Ino, wanted: Access, op: &'static str) -> Result<Attr> {
        let attr = self.vfs.getattr(dir).await?;
        if attr.kind != FileKind::Dir {
            return Err(Error::new(ErrorKind::NotDir, op));
        }
        if !self.caller.access(&attr).covers(wanted) {
            return refuse(ErrorKind::Denied, op, "the permissions of the directory");
        }
        Ok(attr)
    }

    fn may_read(&self, attr: &Attr) -> bool {
        let access = self.caller.access(attr);
        access.read || self.options.owner_override && (self.caller.owns(attr) || access.execute)
    }

    fn may_write(&self, attr: &Attr) -> bool {
        self.caller.access(attr).write || self.options.owner_override && self.caller.owns(attr)
    }

    async fn check_read(&self, ino: Ino, op: &'static str) -> Result<()> {
        if self.caller.is_root() || self.may_read(&self.vfs.getattr(ino).await?) {
            return Ok(());
        }
        refuse(ErrorKind::Denied, op, "the permissions of the file")
    }

    /// Checks that the caller may write, and says whether setuid or setgid are there to be dropped.
    async fn check_write(&self, ino: Ino, op: &'static str) -> Result<bool> {
        if self.caller.is_root() {
            return Ok(false);
        }
        let attr = self.vfs.getattr(ino).await?;
        if !self.may_write(&attr) {
            return refuse(ErrorKind::Denied, op, "the permissions of the file");
        }
        Ok(attr.kind == FileKind::File && attr.mode & SUID_BITS != 0)
    }

    /// As `check_write`, for calls that cannot drop the bits themselves: they go first, so that no moment shows the new
    /// content with the old bits.
    async fn check_write_and_drop_suid(&self, ino: Ino, op: &'static str) -> Result<()> {
        if self.check_write(ino, op).await? {
            let mode = self.vfs.getattr(ino).await?.mode & !SUID_BITS;
            self.vfs.setattr(ino, SetAttr { mode: Some(mode), ..SetAttr::default() }).await?;
        }
        Ok(())
    }

    /// The node of a name, without a lease; `None` where there is none.
    async fn peek(&self, place: &Place<'_>) -> Result<Option<Attr>> {
        match self.vfs.lookup(place.dir, place.name).await {
            Ok(attr) => {
                self.vfs.release(attr.ino, 1);
                Ok(Some(attr))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn check_sticky(&self, dir: &Attr, node: &Attr, op: &'static str) -> Result<()> {
        if self.caller.may_take(dir, node) {
            return Ok(());
        }
        refuse(ErrorKind::NotPermitted, op, "the directory is sticky, and neither it nor the node is the caller's")
    }

    /// What the caller may set, and what that drops besides.
    fn checked_set(&self, attr: &Attr, mut set: SetAttr) -> Result<SetAttr> {
        let op = "posix.setattr";
        let caller = &self.caller;
        let owner = caller.owns(attr);
        if set.size.is_some() && !self.may_write(attr) {
            return refuse(ErrorKind::Denied, op, "the permissions of the file");
        }
        if set.mode.is_some() && !owner {
            return refuse(ErrorKind::NotPermitted, op, "only the owner sets the mode");
        }
        if let Some(uid) = set.uid
            && !caller.is_root()
            && !(owner && uid == attr.uid)
        {
            return refuse(ErrorKind::NotPermitted, op, "only root gives a file away");
        }
        if let Some(gid) = set.gid
            && !caller.is_root()
            && !(owner && (gid == attr.gid || caller.is_in(gid)))
        {
            return refuse(ErrorKind::NotPermitted, op, "the owner may choose among their own groups only");
        }
        let times = [set.atime, set.mtime];
        if !owner && times.iter().any(|time| matches!(time, Some(SetTime::At(_)))) {
            return refuse(ErrorKind::NotPermitted, op, "only the owner sets another time than now");
        }
        if !owner && times.contains(&Some(SetTime::Now)) && !self.may_write(attr) {
            return refuse(ErrorKind::Denied, op, "the permissions of the file");
        }

        let given = set.uid.is_some() || set.gid.is_some();
        if let Some(mode) = set.mode
            && !caller.is_root()
            && !caller.is_in(set.gid.unwrap_or(attr.gid))
        {
            set.mode = Some(mode & !SETGID);
        }
        // Of a file that changes hands the bits go even for root: they were meant for the one who had it.
        let mode = set.mode.unwrap_or(attr.mode);
        let resized = set.size.is_some() && set.mode.is_none() && !caller.is_root();
        if attr.kind != FileKind::Dir && (given || resized) && mode & SUID_BITS != 0 {
            set.mode = Some(mode & !SUID_BITS);
        }
        Ok(set)
    }

    /// What a new node in `dir` gets.
    fn set_of_new(&self, dir: &Attr, node: &NewNode, mut set: SetAttr) -> Result<SetAttr> {
        let op = "posix.create";
        let caller = &self.caller;
        if matches!(node, NewNode::CharDevice(_) | NewNode::BlockDevice(_)) && !caller.is_root() {
            return refuse(ErrorKind::NotPermitted, op, "only root makes devices");
        }
        if set.uid.is_some_and(|uid| uid != caller.uid) && !caller.is_root() {
            return refuse(ErrorKind::NotPermitted, op, "only root creates for others");
        }
        if set.gid.is_some_and(|gid| gid != dir.gid && !caller.is_in(gid)) && !caller.is_root() {
            return refuse(ErrorKind::NotPermitted, op, "the owner may choose among their own groups only");
        }
        let is_dir = node.kind() == FileKind::Dir;
        let inherits = dir.mode & SETGID != 0;
        set.uid.get_or_insert(caller.uid);
        let gid = *set.gid.get_or_insert(if inherits { dir.gid } else { caller.gid });
        if is_dir && inherits {
            set.mode = Some(set.mode.unwrap_or(0o755) | SETGID);
        } else if !is_dir && !caller.is_root() && !caller.is_in(gid) {
            set.mode = set.mode.map(|mode| mode & !SETGID);
        }
        Ok(set)
    }

    /// Whether a caller who is no root may use an attribute: `user.` goes by the bits, `trusted.` is not there,
    /// others are read by all and set by the owner, `security.` by root.
    async fn check_xattr(&self, ino: Ino, name: &XattrName, change: bool, op: &'static str) -> Result<()> {
        if self.caller.is_root() {
            return Ok(());
        }
        let name = name.as_bytes();
        if name.starts_with(b"trusted.") {
            let kind = if change { ErrorKind::NotPermitted } else { ErrorKind::NoAttr };
            return refuse(kind, op, "only root sees trusted attributes");
        }
        if !name.starts_with(b"user.") {
            return match change {
                false => Ok(()),
                true if name.starts_with(b"security.") => refuse(ErrorKind::NotPermitted, op, "only root may"),
                true if self.caller.owns(&self.vfs.getattr(ino).await?) => Ok(()),
                true => refuse(ErrorKind::NotPermitted, op, "only the owner may"),
            };
        }
        let attr = self.vfs.getattr(ino).await?;
        let may = if change { self.may_write(&attr) } else { self.may_read(&attr) };
        if may { Ok(()) } else { refuse(ErrorKind::Denied, op, "the permissions of the node") }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Posix {
    forward_vfs!(vfs: root, expect, getattr, readlink, statfs, handle, resolve, retain, release, sync, sync_inode);

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        if !self.caller.is_root() {
            self.dir(dir, Access::SEARCH, "posix.lookup").await?;
        }
        self.vfs.lookup(dir, name).await
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        if !self.caller.is_root() {
            let attr = self.vfs.getattr(dir).await?;
            if attr.kind == FileKind::Dir && !self.caller.access(&attr).execute {
                return refuse(ErrorKind::Denied, "posix.parent", "the permissions of the directory");
            }
        }
        self.vfs.parent(dir).await
    }

    // Who may read a directory but not search it learns the names alone.
    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let mut listing = listing;
        if !self.caller.is_root() {
            let attr = self.dir(dir, Access::READ, "posix.readdir").await?;
            if !self.caller.access(&attr).execute {
                listing = Listing::Names;
            }
        }
        self.vfs.readdir(dir, after, count, listing).await
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.check_read(ino, "posix.read").await?;
        self.vfs.read(ino, offset, len).await
    }

    // As an open file goes on being read by whoever could open it.
    async fn host_file(&self, ino: Ino) -> Result<Option<File>> {
        self.check_read(ino, "posix.host_file").await?;
        self.vfs.host_file(ino).await
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        let set = if self.caller.is_root() && set.uid.is_none() && set.gid.is_none() {
            set
        } else {
            self.checked_set(&self.vfs.getattr(ino).await?, set)?
        };
        self.vfs.setattr(ino, set).await
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        let drops = self.check_write(ino, "posix.write").await?;
        // Also where the bits were not seen: somebody may set them just now.
        self.vfs.write(ino, offset, data, clear_suid || drops || !self.caller.is_root()).await
    }

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        let attr = self.dir(dir, Access::CHANGE_NAMES, "posix.create").await?;
        let set = self.set_of_new(&attr, &node, set)?;
        self.vfs.create(dir, name, node, set).await
    }

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        if self.caller.is_root() {
            return self.vfs.remove(place, kind).await;
        }
        let op = "posix.remove";
        let dir = self.dir(place.dir, Access::CHANGE_NAMES, op).await?;
        if !self.caller.is_bound_by_sticky(&dir) {
            return self.vfs.remove(place, kind).await;
        }
        let mut tries = 1;
        loop {
            let node = self.peek(&place).await?.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(place.name))?;
            self.check_sticky(&dir, &node, op)?;
            let expecting = Place { expect: place.expect.or(Some(node.ino)), ..place };
            match self.vfs.remove(expecting, kind).await {
                Err(error) if error.kind() == ErrorKind::Stale && place.expect.is_none() && tries < RACE_COUNT_MAX => {
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        if self.caller.is_root() {
            return self.vfs.rename(from, to, mode).await;
        }
        let op = "posix.rename";
        let from_dir = self.dir(from.dir, Access::CHANGE_NAMES, op).await?;
        let crosses = from.dir != to.dir;
        let to_dir = if crosses { self.dir(to.dir, Access::CHANGE_NAMES, op).await? } else { from_dir.clone() };
        let look_from = crosses || self.caller.is_bound_by_sticky(&from_dir);
        let look_to = self.caller.is_bound_by_sticky(&to_dir) || crosses && mode == RenameMode::Exchange;
        // A directory that gets another parent has its ".." written.
        let check_parent_change = |node: &Attr| {
            if crosses && node.kind == FileKind::Dir && !self.caller.access(node).write {
                return refuse(ErrorKind::Denied, op, "the permissions of the directory that would move");
            }
            Ok(())
        };
        let mut tries = 1;
        loop {
            let (mut from, mut to, mut inner_mode) = (from, to, mode);
            let may_retry = tries < RACE_COUNT_MAX && from.expect.is_none() && to.expect.is_none();
            if look_from {
                let moved = self.peek(&from).await?.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(from.name))?;
                self.check_sticky(&from_dir, &moved, op)?;
                check_parent_change(&moved)?;
                from.expect = from.expect.or(Some(moved.ino));
            }
            if look_to {
                match self.peek(&to).await? {
                    Some(replaced) => {
                        self.check_sticky(&to_dir, &replaced, op)?;
                        if mode == RenameMode::Exchange {
                            check_parent_change(&replaced)?;
                        }
                        to.expect = to.expect.or(Some(replaced.ino));
                    }
                    // What comes there now was not looked at.
                    None if mode == RenameMode::Replace => inner_mode = RenameMode::NoReplace,
                    None => {}
                }
            }
            match self.vfs.rename(from, to, inner_mode).await {
                Err(error)
                    if may_retry
                        && (error.kind() == ErrorKind::Stale && (look_from || look_to)
                            || error.kind() == ErrorKind::Exists && inner_mode != mode) =>
                {
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        if !self.caller.is_root() {
            self.dir(dir, Access::CHANGE_NAMES, "posix.link").await?;
        }
        self.vfs.link(ino, dir, name).await
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        self.check_write_and_drop_suid(ino, "posix.allocate").await?;
        self.vfs.allocate(ino, range, keep_size).await
    }

    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        self.check_write_and_drop_suid(ino, "posix.punch_hole").await?;
        self.vfs.punch_hole(ino, range).await
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        self.check_read(from.0, "posix.copy_range").await?;
        self.check_write_and_drop_suid(to.0, "posix.copy_range").await?;
        self.vfs.copy_range(from, to, len).await
    }

    async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        self.check_read(ino, "posix.seek").await?;
        self.vfs.seek(ino, offset, what).await
    }

    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        self.check_xattr(ino, name, false, "posix.getxattr").await?;
        self.vfs.getxattr(ino, name).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        let mut names = self.vfs.listxattr(ino).await?;
        if !self.caller.is_root() {
            names.retain(|name| !name.as_bytes().starts_with(b"trusted."));
        }
        Ok(names)
    }

    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        self.check_xattr(ino, name, true, "posix.setxattr").await?;
        self.vfs.setxattr(ino, name, value, mode).await
    }

    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        self.check_xattr(ino, name, true, "posix.removexattr").await?;
        self.vfs.removexattr(ino, name).await
    }
}

#[cfg(test)]
mod tests;
