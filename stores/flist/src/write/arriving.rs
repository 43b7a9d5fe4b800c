//! Files that are on their way to their place: written under another name, whole before they have their own.
//!
//! Whoever writes one holds a lock of it. What has the name of such a file and nobody's lock is what a run left that was
//! killed, and is removed. Spec: spec/flist.md #making.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use muxfs::{Error, ErrorKind, Result};
use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use super::io_failed;

/// What the names of chunks and of flists begin with, and of all of them end in. What begins with a dot no mount shows.
pub(crate) const CHUNK: &str = ".chunk-";
pub(crate) const FLIST: &str = ".flist-";
const END: &str = ".part";
/// So many letters and digits are between.
const DRAWN_COUNT: usize = 6;
const OP: &str = "flist.write";

/// Begins one in a directory.
pub(crate) fn begin(dir: &Path, start: &str, permissions: &fs::Permissions) -> io::Result<NamedTempFile> {
    loop {
        let mut named = tempfile::Builder::new();
        named.prefix(start).suffix(END).rand_bytes(DRAWN_COUNT);
        let file = named.permissions(permissions.clone()).tempfile_in(dir)?;
        // A file system without locks keeps what a killed run leaves. Before the lock it may have been taken for that.
        if file.as_file().lock().is_err() || file.as_file().metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// Removes what killed runs left in a directory. Where that fails it stays: it is in nobody's way.
pub(crate) fn sweep(dir: &Path, start: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(io::Result::ok) {
        let name = entry.file_name();
        let drawn = name.to_str().and_then(|name| name.strip_prefix(start)?.strip_suffix(END));
        if drawn
            .is_none_or(|drawn| drawn.len() != DRAWN_COUNT || !drawn.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        {
            continue;
        }
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
        let left = OpenOptions::new().read(true).custom_flags(flags).open(entry.path());
        let is_left = |file: &File| file.metadata().is_ok_and(|about| about.is_file()) && file.try_lock().is_ok();
        if left.is_ok_and(|file| is_left(&file)) && fs::remove_file(entry.path()).is_ok() {
            tracing::debug!(path = %entry.path().display(), "removed what a killed run left");
        }
    }
}

/// An flist that is being changed, by this alone until it is dropped: what it says is read, changed, and saved in its place.
#[derive(Debug)]
pub struct Changing {
    _locked: File,
}

impl Changing {
    /// Begins with the flist at `path`, before it is read.
    ///
    /// # Errors
    /// `Unavailable` where another program changes it just now; `NotFound`, `Io`.
    pub fn begin(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| io_failed(&error).at(path.display());
        loop {
            let file = File::open(path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let why = "another program changes it just now";
                    return Err(Error::new(ErrorKind::Unavailable, OP).at(path.display()).because(why));
                }
                // A file system without locks.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Another one may be in its place by now, which who put it there had locked no more.
            let (here, there) = (file.metadata().map_err(failed)?, fs::metadata(path).map_err(failed)?);
            if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
                return Ok(Self { _locked: file });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let mine = begin(dir.path(), CHUNK, &fs::Permissions::from_mode(0o644)).expect("begun");
        let others = [
            ".chunk-",
            ".chunk-abc",
            ".chunk-abcdef.parts",
            ".chunk-abc/ef.part",
            ".flist-abcdef.part",
            "chunk-abcdef.part",
        ];
        for name in others.iter().filter(|name| !name.contains('/')) {
            fs::write(path(name), "mine").expect("written");
        }
        fs::create_dir(path(".chunk-DirDir.part")).expect("made");
        fs::write(path(".chunk-aB3dE6.part"), "left").expect("written");
        sweep(dir.path(), CHUNK);
        assert!(!path(".chunk-aB3dE6.part").exists(), "it stays");
        assert!(mine.path().exists(), "somebody writes it");
        let count = fs::read_dir(dir.path()).expect("listed").count();
        assert_eq!(count, 5 + 1 + 1, "what has another name stays");
        // When its writer is gone it is left, too.
        let (file, left) = mine.keep().expect("kept");
        drop(file);
        sweep(dir.path(), CHUNK);
        assert!(!left.exists());
    }

    #[test]
    fn one_at_a_time_changes_an_flist() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.fl");
        assert_eq!(Changing::begin(&path).expect_err("none").kind(), ErrorKind::NotFound);
        fs::write(&path, "1").expect("written");
        let first = Changing::begin(&path).expect("nobody does");
        assert_eq!(Changing::begin(&path).expect_err("somebody does").kind(), ErrorKind::Unavailable);
        // It is replaced while it is locked: the new one is free when it is there.
        fs::write(dir.path().join("b"), "2").expect("written");
        fs::rename(dir.path().join("b"), &path).expect("renamed");
        drop(first);
        Changing::begin(&path).expect("nobody does any more");
    }
}
