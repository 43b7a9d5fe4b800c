//! Attributes as the kernel takes them, and what it sets as the file system does.

use std::time::Duration;

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use muxfs::{
    FileKind,
    vfs::{Attr, Rdev, SetTime},
};

/// The twelve permission bits.
pub(crate) const MODE_MASK: u32 = 0o7777;
/// Runs as the file's owner.
pub(crate) const SETUID: u32 = 0o4000;
/// Runs as the file's group.
pub(crate) const SETGID: u32 = 0o2000;
/// The group may run it: only then does `SETGID` mean what it says.
const GROUP_EXECUTES: u32 = 0o010;
/// The bits of a mode that say the kind.
const KIND_MASK: u32 = 0o170_000;
/// The unit that programs read and write best.
const BLOCK_LEN: u32 = 4096;
/// The unit of `st_blocks`.
const SECTOR_LEN: u64 = 512;

/// For ever, as far as the kernel is concerned: it is told when that ends.
pub(crate) const FOR_EVER: Duration = Duration::from_hours(24 * 365);

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that the upper bits of a mode say; 0 is a file.
pub(crate) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    Some(match mode & KIND_MASK {
        0 | 0o100_000 => FileKind::File,
        0o040_000 => FileKind::Dir,
        0o120_000 => FileKind::Symlink,
        0o010_000 => FileKind::Fifo,
        0o140_000 => FileKind::Socket,
        0o020_000 => FileKind::CharDevice,
        0o060_000 => FileKind::BlockDevice,
        _ => return None,
    })
}

/// A node's attributes under the kernel's number of it.
pub(crate) fn file_attr(attr: &Attr, id: u64, uid: Option<u32>, gid: Option<u32>) -> FileAttr {
    FileAttr {
        ino: INodeNo(id),
        size: attr.size,
        blocks: attr.used.div_ceil(SECTOR_LEN),
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.ctime,
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & MODE_MASK).unwrap_or_default(),
        nlink: attr.nlink,
        uid: uid.unwrap_or(attr.uid),
        gid: gid.unwrap_or(attr.gid),
        rdev: device_number(attr.rdev),
        blksize: BLOCK_LEN,
        flags: 0,
    }
}

/// What stands for a node of which nothing is known but its number and kind, or (number 0) for none.
pub(crate) fn bare_attr(id: u64, kind: FileType) -> FileAttr {
    let epoch = std::time::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(id),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_LEN,
        flags: 0,
    }
}

/// The numbers of a device in the one that the kernel passes: 12 bits of major in 20 of minor.
pub(crate) fn device_number(rdev: Rdev) -> u32 {
    (rdev.minor & 0xff) | ((rdev.major & 0xfff) << 8) | ((rdev.minor & 0xf_ff00) << 12)
}

pub(crate) fn device_of_number(number: u32) -> Rdev {
    Rdev { major: (number >> 8) & 0xfff, minor: (number & 0xff) | ((number >> 12) & 0xf_ff00) }
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::SpecificTime(time) => SetTime::At(time),
        TimeOrNow::Now => SetTime::Now,
    }
}

/// The mode of what is no directory after it changed hands, or was written by one who is not root.
///
/// Setgid of a file that its group cannot run means mandatory locking, and stays.
pub(crate) fn without_suid(mode: u32) -> u32 {
    if mode & GROUP_EXECUTES != 0 { mode & !(SETUID | SETGID) } else { mode & !SETUID }
}

/// The mode of a file after one who is not root changed what is in it: setgid stays only for one of the file's group, as
/// Linux has it since 6.2.
pub(crate) fn without_suid_of_others(mode: u32, is_in_group: bool) -> u32 {
    if is_in_group { without_suid(mode) } else { mode & !(SETUID | SETGID) }
}

/// Whether a change of what is in a file may change its mode too.
pub(crate) fn has_suid(mode: u32) -> bool {
    mode & (SETUID | SETGID) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 256), (0xfff, 0xf_ffff)] {
            let rdev = Rdev { major, minor };
            assert_eq!(device_of_number(device_number(rdev)), rdev);
        }
        assert_eq!(device_number(Rdev { major: 1, minor: 3 }), 0x103);
    }

    #[test]
    fn kinds_are_those_of_modes() {
        for (mode, kind) in
            [(0o100_644, FileKind::File), (0o010_600, FileKind::Fifo), (0o060_000, FileKind::BlockDevice)]
        {
            assert_eq!(kind_of_mode(mode), Some(kind));
        }
        assert_eq!(kind_of_mode(0o170_000), None);
    }

    #[test]
    fn suid_goes_and_mandatory_locking_stays() {
        let modes = [0o6755, 0o4711, 0o2755, 0o2745, 0o644];
        assert_eq!(modes.map(without_suid), [0o755, 0o711, 0o755, 0o2745, 0o644]);
        assert_eq!(modes.map(|mode| without_suid_of_others(mode, true)), modes.map(without_suid));
        assert_eq!(modes.map(|mode| without_suid_of_others(mode, false)), [0o755, 0o711, 0o755, 0o745, 0o644]);
        assert_eq!(modes.map(has_suid), [true, true, true, true, false]);
    }
}
