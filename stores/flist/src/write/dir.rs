//! A directory of this machine as a source: all that is in it, by name, no symlink followed.
//!
//! What changes while it is read is in the flist as it was met: a file is as long as what was read of it.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use muxfs::{Error, ErrorKind, Name, Result, vfs::Rdev};
use rustix::fs::OFlags;

use super::{About, What, filler::Filler, io_failed, tree::ContentId};

/// Files that have several names, by device and number: read once.
type Linked = HashMap<(u64, u64), (ContentId, u64)>;

/// What the system knows of a node.
pub(super) fn about(found: &Metadata) -> About {
    About {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        // Before 1970 there is no time in an flist.
        mtime: u64::try_from(found.mtime()).unwrap_or(0),
    }
}

/// Puts what is at `source` at a path of the tree; of a directory, all that is in it. It says nothing of itself.
///
/// # Errors
/// Those of reading, with the path.
pub(super) fn fill(filler: &mut Filler, source: &Path, at: &[Name]) -> Result<Vec<(String, String)>> {
    let mut linked = Linked::new();
    let mut dirs: Vec<(PathBuf, Vec<Name>)> = Vec::new();
    let found = fs::symlink_metadata(source).map_err(|error| failed(source, &error))?;
    // The source itself may be named by a symlink to it.
    let found = if found.is_symlink() && at.is_empty() {
        fs::metadata(source).map_err(|error| failed(source, &error))?
    } else {
        found
    };
    if let Some(dir) = put(filler, source, at.to_vec(), &found, &mut linked)? {
        dirs.push((source.into(), dir));
    }
    while let Some((dir, at)) = dirs.pop() {
        let read = |error: io::Error| failed(&dir, &error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).map_err(read)? {
            names.push(entry.map_err(read)?.file_name());
        }
        names.sort_unstable();
        let mut below = Vec::new();
        for name in names {
            let path = dir.join(&name);
            let name = Name::new(name.as_bytes()).map_err(|error| error.at(path.display()))?;
            let found = match fs::symlink_metadata(&path) {
                Ok(found) => found,
                // It went while its directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&path, &error)),
            };
            let at = [&at[..], &[name]].concat();
            if let Some(at) = put(filler, &path, at, &found, &mut linked)? {
                below.push((path, at));
            }
        }
        dirs.extend(below.into_iter().rev());
    }
    Ok(Vec::new())
}

/// Puts a node; the path of a directory, which is yet to be read.
fn put(
    filler: &mut Filler,
    path: &Path,
    at: Vec<Name>,
    found: &Metadata,
    linked: &mut Linked,
) -> Result<Option<Vec<Name>>> {
    filler.progress.nodes.fetch_add(1, Ordering::Relaxed);
    let kind = found.file_type();
    let rdev = Rdev { major: rustix::fs::major(found.rdev()), minor: rustix::fs::minor(found.rdev()) };
    let mut about = about(found);
    let what = if kind.is_dir() {
        filler.tree.put(&at, about, What::Dir)?;
        return Ok(Some(at));
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(|error| failed(path, &error))?;
        about.mode = 0o777;
        What::Symlink(target.as_os_str().as_bytes().to_vec().into())
    } else if kind.is_fifo() {
        What::Fifo
    } else if kind.is_socket() {
        What::Socket
    } else if kind.is_char_device() {
        What::CharDevice(rdev)
    } else if kind.is_block_device() {
        What::BlockDevice(rdev)
    } else {
        let known = linked.get(&(found.dev(), found.ino())).copied();
        let (content, len) = if let Some(known) = known {
            known
        } else {
            let file = open(path)?;
            let read = filler.read(file, |error| failed(path, &error)).map_err(|error| error.at(path.display()))?;
            if found.nlink() > 1 {
                filler.tree.take(size_of::<((u64, u64), (ContentId, u64))>() * 2)?;
                linked.insert((found.dev(), found.ino()), read);
            }
            read
        };
        What::File { len, content }
    };
    filler.tree.put(&at, about, what)?;
    Ok(None)
}

/// Opens a file that was one a moment ago: neither what a symlink in its place leads to, nor a pipe that nobody writes to.
fn open(path: &Path) -> Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| failed(path, &error))?;
    if !file.metadata().map_err(|error| failed(path, &error))?.is_file() {
        let why = "it became something else than a file while it was read";
        return Err(Error::new(ErrorKind::Io, "flist.read").at(path.display()).because(why));
    }
    Ok(file)
}

fn failed(path: &Path, error: &io::Error) -> Error {
    io_failed(error).at(path.display())
}
