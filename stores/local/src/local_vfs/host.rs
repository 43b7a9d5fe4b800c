//! The host directory: opens one name at a time, tells what an inode is, and where it stands.
//!
//! Confinement rests on three rules kept here. A name is opened as a single component from the descriptor of a
//! directory, with `openat2` forbidding symlinks, magic links and mounts, so no name leads anywhere but to an entry of
//! that very directory. Every inode reached by a name is checked to be of the root's mount. And a descriptor that was
//! kept is used again only while the host says that it stands below the root ([`Host::whereabouts`]): a directory that
//! others moved out is refused from then on.

use std::{
    fmt,
    mem::MaybeUninit,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use muxfs::{
    Error, ErrorKind, FileKind, Result,
    vfs::{Attr, Fsid, INO_BITS, Ino, PreAttr, Rdev},
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags},
    io::Errno,
    path::DecInt,
};

use super::errno::fail;

/// The deepest directory that is walked up to the root where the host cannot tell a path: past 4096 bytes of path.
const DEPTH_MAX: usize = 16 * 1024;
/// What the host appends to the path of a descriptor whose name went.
const DELETED: &[u8] = b" (deleted)";

/// What tells one inode from another that had the same number before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// The host's inode number: not 0, below 2^55.
    pub(super) number: u64,
    /// Nanoseconds since 1970, or 0 where the host does not tell.
    pub(super) birth: i64,
    pub(super) kind: FileKind,
}

/// Where a descriptor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    Inside,
    /// The name it was opened by went, or ends like that of one that went.
    Gone,
    Outside,
}

/// The root and what all of it shares.
pub(super) struct Host {
    root: OwnedFd,
    root_id: Identity,
    device: (u32, u32),
    mount: u64,
    /// `/proc/self/fd`: where a descriptor of ours is opened again, and its path read.
    descriptors: OwnedFd,
    root_path: RwLock<Arc<[u8]>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.root_path.read().unwrap_or_else(PoisonError::into_inner).clone();
        write!(f, "Host({})", path.escape_ascii())
    }
}

impl Host {
    pub(super) fn open(root: &Path) -> Result<Self> {
        const OP: &str = "local.open";
        let at = |error: Error| error.at(root.display());
        let fd = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(fail(OP))
            .map_err(at)?;
        let descriptors =
            rustix::fs::openat(CWD, "/proc/self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| at(fail(OP)(errno).because(format!("/proc must be mounted: {errno}"))))?;
        let stat = stat_fd(&fd).map_err(fail(OP)).map_err(at)?;
        if !mask(&stat).contains(StatxFlags::MNT_ID) {
            return Err(at(Error::new(ErrorKind::Unsupported, OP).because("needs Linux 5.8 or newer")));
        }
        let root_id = identity(&stat).map_err(at)?;
        let host = Self {
            root_id,
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            mount: stat.stx_mnt_id,
            descriptors,
            root_path: RwLock::new(Arc::from([])),
            root: fd,
        };
        let path = host.path_of(&host.root).map_err(fail(OP)).map_err(at)?;
        *host.root_path.write().unwrap_or_else(PoisonError::into_inner) = path;
        match Self::open_name(&host.root, b".muxfs-probe") {
            Err(Errno::NOSYS | Errno::PERM) => {
                Err(at(Error::new(ErrorKind::Unsupported, OP).because("openat2 is missing or forbidden here")))
            }
            _ => Ok(host),
        }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(super) fn root_id(&self) -> Identity {
        self.root_id
    }

    pub(super) fn descriptors(&self) -> &OwnedFd {
        &self.descriptors
    }

    /// Whether an inode is of the root's own mount and device: only there are numbers unique.
    pub(super) fn is_here(&self, stat: &Statx) -> bool {
        (stat.stx_dev_major, stat.stx_dev_minor) == self.device && stat.stx_mnt_id == self.mount
    }

    /// Opens an entry of a directory without following or touching it.
    pub(super) fn open_name(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
        rustix::fs::openat2(
            dir,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
        )
    }

    /// Opens a descriptor of ours again with other rights.
    ///
    /// The magic link is our own and leads to the inode itself, wherever its names are now.
    pub(super) fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(&self.descriptors, DecInt::from_fd(fd), flags, Mode::empty())
    }

    /// The path of a descriptor's inode for the calls that take nothing else.
    pub(super) fn magic_path(fd: BorrowedFd<'_>) -> String {
        format!("/proc/self/fd/{}", DecInt::from_fd(fd).as_str())
    }

    fn path_of(&self, fd: impl AsFd) -> Result<Arc<[u8]>, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let (path, _) = rustix::fs::readlinkat_raw(&self.descriptors, DecInt::from_fd(fd), &mut buffer)?;
        // "/" as a root: everything begins with "" and a slash.
        Ok(if *path == *b"/" { Arc::from([]) } else { Arc::from(&*path) })
    }

    /// Where a descriptor stands now.
    pub(super) fn whereabouts(&self, fd: impl AsFd) -> Result<Whereabouts, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let path = match rustix::fs::readlinkat_raw(&self.descriptors, DecInt::from_fd(&fd), &mut buffer) {
            Ok((path, _)) => &*path,
            Err(Errno::NAMETOOLONG) => return self.walk_up(fd.as_fd()),
            Err(errno) => return Err(errno),
        };
        let root = self.root_path.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(place) = place_below(&root, path) {
            return Ok(place);
        }
        // The root itself may have been moved.
        let root = self.path_of(&self.root)?;
        *self.root_path.write().unwrap_or_else(PoisonError::into_inner) = root.clone();
        Ok(place_below(&root, path).unwrap_or(Whereabouts::Outside))
    }

    /// The parts of the path from the root to a descriptor.
    pub(super) fn parts_below(&self, fd: impl AsFd) -> Result<Option<Vec<Vec<u8>>>, Errno> {
        if self.whereabouts(&fd)? != Whereabouts::Inside {
            return Ok(None);
        }
        let path = self.path_of(fd)?;
        let root = self.root_path.read().unwrap_or_else(PoisonError::into_inner).clone();
        let below = path.strip_prefix(&*root);
        Ok(below.map(|below| {
            below.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
        }))
    }

    /// Where a descriptor too deep for a path stands; of a file, nothing can be told but that it is deep.
    fn walk_up(&self, fd: BorrowedFd<'_>) -> Result<Whereabouts, Errno> {
        let open_parent = |fd: BorrowedFd<'_>| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(fd, "..", flags, Mode::empty())
        };
        let mut stat = stat_fd(fd)?;
        if kind_of(&stat) != FileKind::Dir {
            // It cannot be walked from; the directory it was opened from was checked.
            return Ok(Whereabouts::Inside);
        }
        let mut held = open_parent(fd)?;
        for _ in 0..DEPTH_MAX {
            let above = stat_fd(&held)?;
            if self.is_here(&above) && above.stx_ino == self.root_id.number {
                return Ok(Whereabouts::Inside);
            }
            if above.stx_ino == stat.stx_ino && above.stx_mnt_id == stat.stx_mnt_id {
                break;
            }
            held = open_parent(held.as_fd())?;
            stat = above;
        }
        Ok(Whereabouts::Outside)
    }
}

fn place_below(root: &[u8], path: &[u8]) -> Option<Whereabouts> {
    match path.strip_prefix(root)? {
        [] => Some(Whereabouts::Inside),
        below @ [b'/', ..] => Some(if below.ends_with(DELETED) { Whereabouts::Gone } else { Whereabouts::Inside }),
        _ => None,
    }
}

/// What all calls ask of an inode.
const ASKED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID);

/// The facts of an open inode.
pub(super) fn stat_fd(fd: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, ASKED)
}

/// The facts of an entry of a directory; a symlink is not followed.
pub(super) fn stat_name(dir: impl AsFd, name: &[u8]) -> Result<Statx, Errno> {
    rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, ASKED)
}

fn mask(stat: &Statx) -> StatxFlags {
    StatxFlags::from_bits_retain(stat.stx_mask)
}

/// The kind of an inode.
pub(super) fn kind_of(stat: &Statx) -> FileKind {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => FileKind::File,
    }
}

/// # Errors
/// `Unsupported` for a number that leaves no room for the mount's.
pub(super) fn identity(stat: &Statx) -> Result<Identity> {
    let birth = if mask(stat).contains(StatxFlags::BTIME) {
        stat.stx_btime.tv_sec.wrapping_mul(1_000_000_000).wrapping_add(stat.stx_btime.tv_nsec.into())
    } else {
        0
    };
    // One bit less than a mount may use: the upper half is for numbers of our own.
    if stat.stx_ino == 0 || stat.stx_ino >= 1 << (INO_BITS - 1) {
        return Err(Error::new(ErrorKind::Unsupported, "local.identity")
            .because(format!("inode number {} of this file system does not fit in 55 bits", stat.stx_ino)));
    }
    Ok(Identity { number: stat.stx_ino, birth, kind: kind_of(stat) })
}

fn time(stamp: rustix::fs::StatxTimestamp) -> SystemTime {
    let whole = Duration::from_secs(stamp.tv_sec.unsigned_abs());
    let second = if stamp.tv_sec < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    second.unwrap_or(SystemTime::UNIX_EPOCH) + Duration::from_nanos(stamp.tv_nsec.into())
}

/// The last change in nanoseconds: since Linux 6.13 each change that was looked at has a time of its own.
fn change(stat: &Statx) -> u64 {
    let nanos = i128::from(stat.stx_ctime.tv_sec) * 1_000_000_000 + i128::from(stat.stx_ctime.tv_nsec);
    u64::try_from(nanos).unwrap_or(0)
}

pub(super) fn pre_attr(stat: &Statx) -> PreAttr {
    PreAttr { size: stat.stx_size, mtime: time(stat.stx_mtime), ctime: time(stat.stx_ctime), change: change(stat) }
}

pub(super) fn attr(ino: Ino, stat: &Statx) -> Attr {
    Attr {
        ino,
        fsid: Fsid(0),
        kind: kind_of(stat),
        mode: mode(stat),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink,
        rdev: Rdev { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor },
        size: stat.stx_size,
        used: stat.stx_blocks.saturating_mul(512),
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        change: change(stat),
        cid: None,
    }
}

/// The twelve permission bits.
pub(super) fn mode(stat: &Statx) -> u32 {
    u32::from(stat.stx_mode) & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_path_stands() {
        use Whereabouts::{Gone, Inside};
        for (root, path, place) in [
            ("/a/b", "/a/b", Some(Inside)),
            ("/a/b", "/a/b/c", Some(Inside)),
            ("/a/b", "/a/b/c (deleted)", Some(Gone)),
            ("/a/b", "/a/bc", None),
            ("/a/b", "/a", None),
            ("/a/b", "/x/a/b/c", None),
            ("", "/x", Some(Inside)),
        ] {
            assert_eq!(place_below(root.as_bytes(), path.as_bytes()), place, "{path} below {root}");
        }
    }
}
