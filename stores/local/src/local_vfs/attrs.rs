//! Attributes: setting them at one stroke as far as the host lets us, and what the file system has left.

use std::time::{Duration, SystemTime};

use muxfs::{
    Error, ErrorKind, FileKind, Result,
    vfs::{Changed, FILE_LEN_MAX, FsStat, Ino, SetAttr, SetTime},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Gid, Mode, Statx, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid},
    io::Errno,
    path::DecInt,
};

use super::{
    Local,
    errno::fail,
    host::{attr, identity, mode, pre_attr, stat_fd},
};

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(time)) => match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => exact(after, 1),
            Err(before) => {
                let before = before.duration();
                let whole = exact(before, -1);
                if before.subsec_nanos() == 0 {
                    return whole;
                }
                // Nanoseconds count forward, also before 1970.
                Timespec { tv_sec: whole.tv_sec - 1, tv_nsec: 1_000_000_000 - i64::from(before.subsec_nanos()) }
            }
        },
    }
}

fn exact(distance: Duration, sign: i64) -> Timespec {
    let seconds = i64::try_from(distance.as_secs()).unwrap_or(i64::MAX / 2);
    Timespec { tv_sec: sign * seconds, tv_nsec: distance.subsec_nanos().into() }
}

/// Sets what `set` says of the owner.
pub(super) fn set_owner(fd: impl AsFd, set: &SetAttr) -> Result<(), Errno> {
    if set.uid.or(set.gid).is_none() {
        return Ok(());
    }
    // -1 means "leave it" to the host: it is no owner.
    if set.uid == Some(u32::MAX) || set.gid == Some(u32::MAX) {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
    rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)
}

fn lost_earlier() -> Error {
    Error::new(ErrorKind::Io, "local.sync")
        .because("bytes that were written before did not reach the disk: write them again")
}

impl Local {
    pub(super) fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Changed> {
        const OP: &str = "local.setattr";
        self.writable(OP)?;
        let anchor = self.anchor(ino, OP)?;
        let before = stat_fd(&anchor.fd).map_err(fail(OP))?;
        let kind = identity(&before)?.kind;
        self.may_set(&before, set, OP)?;
        // Whatever can be refused is tried first, and undone if what comes after it fails.
        if let Some(size) = set.size {
            match kind {
                FileKind::File => {}
                FileKind::Dir => return Err(Error::new(ErrorKind::IsDir, OP)),
                _ => return Err(Error::new(ErrorKind::InvalidArgument, OP).because("only regular files have a size")),
            }
            if size > FILE_LEN_MAX {
                return Err(Error::new(ErrorKind::TooLarge, OP));
            }
            let data = self.data(&anchor, true, OP)?;
            data.writes();
            set_owner(&anchor.fd, set).map_err(fail(OP))?;
            if let Err(errno) = rustix::fs::ftruncate(&data.fd, size) {
                let back = SetAttr { uid: Some(before.stx_uid), gid: Some(before.stx_gid), ..SetAttr::default() };
                if set.uid.or(set.gid).is_some() && set_owner(&anchor.fd, &back).is_ok() {
                    let _undone = self.set_mode(&anchor.fd, mode(&before));
                }
                return Err(fail(OP)(errno));
            }
        } else {
            set_owner(&anchor.fd, set).map_err(fail(OP))?;
        }
        self.set_mode_and_times(&anchor.fd, kind, set, &before).map_err(fail(OP))?;
        let after = stat_fd(&anchor.fd).map_err(fail(OP))?;
        Ok(Changed { before: pre_attr(&before), after: attr(ino, &after) })
    }

    /// Refuses what this process may not do, before anything is done.
    fn may_set(&self, before: &Statx, set: &SetAttr, op: &'static str) -> Result<()> {
        if self.is_privileged {
            return Ok(());
        }
        let own = before.stx_uid == self.uid;
        let gives_away = set.uid.is_some_and(|uid| uid != before.stx_uid);
        let owner_only = set.mode.is_some()
            || set.gid.is_some_and(|gid| gid != before.stx_gid)
            || matches!(set.atime, Some(SetTime::At(_)))
            || matches!(set.mtime, Some(SetTime::At(_)));
        if gives_away || (owner_only && !own) {
            return Err(Error::new(ErrorKind::NotPermitted, op)
                .because("the server is not root and acts as itself: it may not do this to this file"));
        }
        Ok(())
    }

    /// Applies `set` to a node that was just made, and has no name yet or was seen by nobody.
    pub(super) fn dress(&self, fd: &OwnedFd, kind: FileKind, bits: u32, set: &SetAttr) -> Result<(), Errno> {
        let owner = SetAttr { uid: set.uid, gid: set.gid, ..SetAttr::default() };
        if self.is_privileged {
            set_owner(fd, &owner)?;
        }
        let before = stat_fd(fd)?;
        let rest = SetAttr { mode: (mode(&before) != bits).then_some(bits), ..set.clone() };
        self.set_mode_and_times(fd, kind, &rest, &before)
    }

    pub(super) fn set_mode(&self, fd: impl AsFd, bits: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(bits & 0o7777);
        rustix::fs::chmodat(self.host.descriptors(), DecInt::from_fd(fd), mode, AtFlags::empty())
    }

    fn set_mode_and_times(&self, fd: &OwnedFd, kind: FileKind, set: &SetAttr, before: &Statx) -> Result<(), Errno> {
        // The bits of a symlink mean nothing, and the host refuses to set them.
        if let Some(bits) = set.mode
            && kind != FileKind::Symlink
        {
            self.set_mode(fd, bits)?;
        }
        if set.atime.is_none() && set.mtime.is_none() {
            return Ok(());
        }
        let times = Timestamps { last_access: timespec(set.atime), last_modification: timespec(set.mtime) };
        rustix::fs::utimensat(self.host.descriptors(), DecInt::from_fd(fd), &times, AtFlags::empty()).inspect_err(
            |_| {
                if set.mode.is_some() && kind != FileKind::Symlink {
                    let _undone = self.set_mode(fd, mode(before));
                }
            },
        )
    }

    pub(super) fn statfs(&self) -> Result<FsStat> {
        let stat = rustix::fs::fstatvfs(self.host.root()).map_err(fail("local.statfs"))?;
        Ok(FsStat {
            bytes_total: stat.f_blocks.saturating_mul(stat.f_frsize),
            // What is kept for root alone is no use to anybody here.
            bytes_free: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes_total: stat.f_files,
            inodes_free: stat.f_favail,
        })
    }

    /// Makes one inode durable.
    pub(super) fn sync_inode(&self, ino: Ino) -> Result<()> {
        const OP: &str = "local.sync";
        let anchor = self.anchor(ino, OP)?;
        let kind = self.nodes().id(ino).map(|id| id.kind);
        if matches!(kind, Some(FileKind::File | FileKind::Dir))
            && let Ok(data) = self.data(&anchor, false, OP)
        {
            data.sync().map_err(fail(OP))?;
            return self.nothing_lost(ino);
        }
        // The host has no call for one fifo, symlink or file we may not read.
        self.sync_all()
    }

    /// Makes everything durable.
    pub(super) fn sync_all(&self) -> Result<()> {
        rustix::fs::syncfs(&self.sync_fd).map_err(fail("local.sync"))?;
        self.handles.sync()?;
        if self.lost.take_all() { Err(lost_earlier()) } else { Ok(()) }
    }

    /// Tells, once, of bytes of an inode that were lost before.
    fn nothing_lost(&self, ino: Ino) -> Result<()> {
        let number = self.nodes().id(ino).map_or(0, |id| id.number);
        if self.lost.take(number) { Err(lost_earlier()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970() {
        let at = |time| timespec(Some(SetTime::At(time)));
        let epoch = SystemTime::UNIX_EPOCH;
        for (time, seconds, nanos) in [
            (epoch, 0, 0),
            (epoch + Duration::new(5, 7), 5, 7),
            (epoch - Duration::new(5, 0), -5, 0),
            (epoch - Duration::new(5, 1), -6, 999_999_999),
        ] {
            assert_eq!((at(time).tv_sec, at(time).tv_nsec), (seconds, nanos));
        }
    }
}
