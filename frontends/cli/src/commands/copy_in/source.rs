//! What a node of the host has beside its bytes, as far as a copy keeps it.
//!
//! Permissions, times, holes and the extended attributes of users always; owners and devices when root copies, as `cp -a`
//! and `rsync -a` do. Attributes of other classes speak to the host's kernel (labels, capabilities, access lists) and stay
//! there.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{SeekFrom, fgetxattr, flistxattr, major, minor, seek},
    io::Errno,
    process::geteuid,
};

use crate::namespace::{Kept, Kind, Stat, seconds, to_text};

/// The classes of extended attributes that are kept.
const XATTR_CLASS: &[u8] = b"user.";
/// The longest list of names, and the longest value, that Linux gives.
const XATTR_LEN_MAX: usize = 64 << 10;
/// So many holes of a file are kept; of a file with more the rest takes space.
const HOLE_COUNT_MAX: usize = 1 << 16;
/// Shorter holes, and what of them is no whole page, take space.
const PAGE_LEN: u64 = 4096;

/// Whether this process may keep owners and make devices.
pub(super) fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether a copy has the permissions and the time of its source, which are given last, and its owner where that is kept.
pub(super) fn is_kept(there: &Stat, metadata: &fs::Metadata) -> bool {
    let Ok(modified) = metadata.modified() else { return true };
    there.mtime == Some(seconds(modified))
        && mode(metadata).is_none_or(|mode| there.mode == mode)
        && owner(metadata).is_none_or(|owner| there.uid.zip(there.gid) == Some(owner))
}

/// What a copy keeps; `None` on a host that tells no times.
pub(super) fn kept(path: &Path, metadata: &fs::Metadata) -> io::Result<Option<Kept>> {
    let Ok(modified) = metadata.modified() else { return Ok(None) };
    let mut kept = Kept {
        mode: mode(metadata),
        mtime: seconds(modified),
        owner: owner(metadata),
        holes: Vec::new(),
        xattrs: Vec::new(),
    };
    if metadata.is_file() || metadata.is_dir() {
        let mut options = File::options();
        // A pipe that took its place is not waited for.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = options.read(true).custom_flags(flags).open(path)?;
        let opened = file.metadata()?;
        if (opened.dev(), opened.ino()) != (metadata.dev(), metadata.ino()) {
            return Err(io::Error::other("it was replaced while it was read: put it again"));
        }
        kept.xattrs = xattrs(&file)?;
        if metadata.is_file() && metadata.blocks().saturating_mul(512) < metadata.len() {
            kept.holes = holes(&file, metadata.len())?;
        }
    }
    Ok(Some(kept))
}

/// The kind and the device of a pipe, a socket or a device; `None` for anything else.
pub(super) fn special(metadata: &fs::Metadata) -> Option<(Kind, (u32, u32))> {
    let kind = metadata.file_type();
    let rdev = (major(metadata.rdev()), minor(metadata.rdev()));
    if kind.is_fifo() {
        Some((Kind::Fifo, (0, 0)))
    } else if kind.is_socket() {
        Some((Kind::Socket, (0, 0)))
    } else if kind.is_char_device() {
        Some((Kind::CharDevice, rdev))
    } else if kind.is_block_device() {
        Some((Kind::BlockDevice, rdev))
    } else {
        None
    }
}

fn mode(metadata: &fs::Metadata) -> Option<u32> {
    (!metadata.is_symlink()).then(|| metadata.permissions().mode() & 0o7777)
}

fn owner(metadata: &fs::Metadata) -> Option<(u32, u32)> {
    is_root().then(|| (metadata.uid(), metadata.gid()))
}

fn xattrs(file: &File) -> io::Result<Vec<(String, String)>> {
    let mut names = vec![0; XATTR_LEN_MAX];
    match flistxattr(file, &mut names[..]) {
        Ok(len) => names.truncate(len),
        // A file system without any.
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| name.starts_with(XATTR_CLASS)) {
        let mut value = vec![0; XATTR_LEN_MAX];
        match fgetxattr(file, name, &mut value[..]) {
            Ok(len) => value.truncate(len),
            // Removed meanwhile.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        xattrs.push((to_text(name), to_text(&value)));
    }
    Ok(xattrs)
}

/// The whole pages of a file that are holes; none where the file system does not tell.
fn holes(file: &File, len: u64) -> io::Result<Vec<(u64, u64)>> {
    let (mut holes, mut at) = (Vec::new(), 0);
    while at < len && holes.len() < HOLE_COUNT_MAX {
        let hole = match seek(file, SeekFrom::Hole(at)) {
            Ok(hole) => hole,
            Err(Errno::NXIO | Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        };
        let data = match seek(file, SeekFrom::Data(hole)) {
            Ok(data) => data,
            // To its end.
            Err(Errno::NXIO) => len,
            Err(error) => return Err(error.into()),
        };
        let first = hole.next_multiple_of(PAGE_LEN);
        let end = if data >= len { len } else { data / PAGE_LEN * PAGE_LEN };
        if first < end {
            holes.push((first, end - first));
        }
        at = data.max(hole.saturating_add(1));
    }
    Ok(holes)
}
