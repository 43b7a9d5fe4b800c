//! A mount: what programs ask their kernel for, from the directory that is mounted.

use std::{ffi::OsStr, fs::File, os::unix::ffi::OsStrExt as _, path::Path};

use muxfs::{
    Cid,
    testing::hostile::{HostilePath, Sort},
};
use rustix::{
    fs::{AtFlags, FileType, Mode, mkdirat, statat, unlinkat},
    io::Errno,
};

use super::{Exception, Verdict, Wire, walked};

pub(super) struct Mounted {
    /// Paths begin here, so that none is longer than it has to be.
    root: File,
    dir: Cid,
}

impl Mounted {
    pub(super) fn new(at: &Path, dir: Cid) -> Self {
        Self { root: File::open(at).expect("a directory"), dir }
    }
}

fn relative(path: &HostilePath) -> Vec<u8> {
    path.parts.join(&b'/').iter().copied().skip_while(|byte| *byte == b'/').collect()
}

fn verdict(error: Errno) -> Verdict {
    match error {
        Errno::NOENT | Errno::NOTDIR => Verdict::NotFound,
        Errno::NAMETOOLONG => Verdict::TooLong,
        Errno::INVAL => Verdict::Invalid,
        other => panic!("{other:?} is no verdict"),
    }
}

impl Wire for Mounted {
    fn name(&self) -> &'static str {
        "mount"
    }

    fn exception(&self, path: &HostilePath) -> Option<Exception> {
        if path.parts.iter().flatten().any(|byte| *byte == 0) {
            return Some(Exception::Cannot("a path of the kernel ends at a NUL"));
        }
        if path.parts.iter().flatten().any(|byte| *byte == b'/') {
            return Some(Exception::Cannot("a slash within a name is one between two"));
        }
        match path.sort {
            Sort::Dots => Some(match walked(path, &self.dir, true) {
                (_, true) => Exception::Cannot("above the mount is the host, where the kernel goes by itself"),
                (found, false) => Exception::Says(found, "the kernel takes '..' for a step up"),
            }),
            Sort::Long if path.parts.len() > 3 && relative(path).len() < 4096 => {
                Some(Exception::Says(Verdict::NotFound, "the kernel asks for one name at a time"))
            }
            _ => None,
        }
    }

    fn look(&mut self, path: &HostilePath) -> Verdict {
        let relative = relative(path);
        match statat(&self.root, OsStr::from_bytes(&relative), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Verdict::Dir,
            Ok(stat) => Verdict::File(u64::try_from(stat.st_size).expect("a length")),
            Err(error) => verdict(error),
        }
    }

    fn make_dir(&mut self, path: &HostilePath) -> Verdict {
        match mkdirat(&self.root, OsStr::from_bytes(&relative(path)), Mode::from_raw_mode(0o755)) {
            Ok(()) => Verdict::Made,
            Err(error) => verdict(error),
        }
    }

    fn remove_dir(&mut self, path: &HostilePath) {
        unlinkat(&self.root, OsStr::from_bytes(&relative(path)), AtFlags::REMOVEDIR).expect("removed");
    }
}
