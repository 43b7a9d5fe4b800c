//! A directory of this machine as a source: all that is in it, by name, no symlink followed.
//!
//! What changes while it is read is in the flist as it was met: a file is what was read of it, and what is known of it is
//! asked of the file that was opened, not of its name. Each directory is opened below the one that it was found in, so nothing that
//! is put in its place leads elsewhere. What is gone when it is read is left out, and told.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
    rc::Rc,
    sync::atomic::Ordering,
};

use muxfs::{Error, Name, Result, vfs::Rdev};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};

use super::{About, What, filler::Filler, io_failed, tree::ContentId};

/// Files that have several names, which are read once.
type Linked = HashMap<FileKey, (ContentId, u64)>;

/// Which file it is, and in which state: a number that is free is given to another file.
#[derive(PartialEq, Eq, Hash)]
struct FileKey {
    dev: u64,
    ino: u64,
    len: u64,
    changed: (i64, u64),
}

/// How a file is opened that was one a moment ago: neither what a symlink in its place leads to, nor a pipe that nobody writes to.
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// A name in a directory that is open, and where it goes.
struct Met {
    above: Rc<OwnedFd>,
    name: OsString,
    /// As errors show it.
    path: PathBuf,
    at: Vec<Name>,
}

/// What came of a name.
enum Became {
    /// It is in the tree.
    Put,
    /// It is in the tree, and what is in it is yet to be read.
    Dir,
    /// It is not there any more, or something else.
    Gone,
}

#[allow(clippy::useless_conversion, reason = "these numbers have other widths on other systems")]
fn about(found: &Stat) -> About {
    About {
        mode: u32::from(found.st_mode) & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        // Before 1970 there is no time in an flist.
        mtime: u64::try_from(found.st_mtime).unwrap_or(0),
    }
}

#[allow(
    clippy::useless_conversion,
    clippy::unnecessary_fallible_conversions,
    reason = "these numbers have other widths on other systems"
)]
fn key(found: &Stat) -> Option<FileKey> {
    let number = |number| u64::try_from(number).ok();
    (found.st_nlink > 1).then_some(FileKey {
        dev: u64::try_from(found.st_dev).ok()?,
        ino: u64::from(found.st_ino),
        len: number(found.st_size)?,
        changed: (found.st_ctime, u64::try_from(found.st_ctime_nsec).ok()?),
    })
}

/// Whether two looks at a file tell of the same bytes.
fn is_same(before: &Stat, after: &Stat) -> bool {
    let state = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    state(before) == state(after)
}

/// Whether what was met a moment ago is gone, or something else now.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::NXIO)
}

fn failed(path: &Path, error: impl Into<io::Error>) -> Error {
    io_failed(&error.into()).at(path.display())
}

/// Puts what is at `source` at a path of the tree; of a directory, all that is in it. It says nothing of itself.
///
/// # Errors
/// Those of reading, with the path; `InvalidArgument` where chunks would be stored within what is read.
pub(super) fn fill(filler: &mut Filler, source: &Path, at: &[Name]) -> Result<Vec<(String, String)>> {
    let is_link = fs::symlink_metadata(source).map_err(|error| failed(source, error))?.is_symlink();
    // The source itself may be named by a symlink to it.
    let real = if is_link && at.is_empty() {
        fs::canonicalize(source).map_err(|error| failed(source, error))?
    } else {
        source.into()
    };
    filler.check_stores_are_not_in(&real)?;
    let here = openat(rustix::fs::CWD, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let here = Rc::new(here.map_err(|error| failed(Path::new("."), error))?);
    let first = Met { above: here, name: real.into(), path: source.into(), at: at.to_vec() };
    let (mut linked, mut dirs) = (Linked::new(), Vec::new());
    match put(filler, &first, &mut linked)? {
        Became::Put => {}
        Became::Dir => dirs.push(first),
        Became::Gone => return Err(failed(source, Errno::NOENT)),
    }
    while let Some(dir) = dirs.pop() {
        let Some((open, names)) = enter(filler, &dir)? else { continue };
        let mut below = Vec::new();
        for name in names {
            let path = dir.path.join(&name);
            let at = Name::new(name.as_bytes()).map_err(|error| error.at(path.display()))?;
            let met = Met { above: open.clone(), name, path, at: [&dir.at[..], &[at]].concat() };
            match put(filler, &met, &mut linked)? {
                Became::Put => {}
                Became::Dir => below.push(met),
                Became::Gone => filler.progress.skip(&met.path),
            }
        }
        dirs.extend(below.into_iter().rev());
    }
    Ok(Vec::new())
}

/// Opens a directory that is in the tree, and tells the names in it, in order. One that is gone goes from the tree, too.
fn enter(filler: &mut Filler, dir: &Met) -> Result<Option<(Rc<OwnedFd>, Vec<OsString>)>> {
    let read = |error: Errno| failed(&dir.path, error);
    let open = match openat(&dir.above, &dir.name, OPEN | OFlags::DIRECTORY, Mode::empty()) {
        Ok(open) => open,
        Err(error) if is_gone(error) && !dir.at.is_empty() => {
            filler.progress.skip(&dir.path);
            filler.tree.remove(&dir.at)?;
            return Ok(None);
        }
        Err(error) => return Err(read(error)),
    };
    filler.tree.put(&dir.at, about(&fstat(&open).map_err(read)?), What::Dir)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&open).map_err(read)? {
        let name = entry.map_err(read)?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort_unstable();
    Ok(Some((Rc::new(open), names)))
}

/// Puts a node, of a directory not what is in it.
fn put(filler: &mut Filler, met: &Met, linked: &mut Linked) -> Result<Became> {
    let read = |error: Errno| failed(&met.path, error);
    let found = match statat(&met.above, &met.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(error) if is_gone(error) => return Ok(Became::Gone),
        Err(error) => return Err(read(error)),
    };
    let mut known = about(&found);
    let rdev = Rdev { major: rustix::fs::major(found.st_rdev), minor: rustix::fs::minor(found.st_rdev) };
    let what = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => What::Dir,
        FileType::Symlink => match readlinkat(&met.above, &met.name, Vec::new()) {
            Ok(target) => {
                known.mode = 0o777;
                What::Symlink(target.into_bytes().into())
            }
            // It became something that is none.
            Err(error) if is_gone(error) || error == Errno::INVAL => return Ok(Became::Gone),
            Err(error) => return Err(read(error)),
        },
        FileType::Fifo => What::Fifo,
        FileType::Socket => What::Socket,
        FileType::CharacterDevice => What::CharDevice(rdev),
        FileType::BlockDevice => What::BlockDevice(rdev),
        _ => match openat(&met.above, &met.name, OPEN, Mode::empty()) {
            Ok(open) => {
                let Some((about, what)) = file(filler, open, &met.path, linked)? else { return Ok(Became::Gone) };
                known = about;
                what
            }
            Err(error) if is_gone(error) => return Ok(Became::Gone),
            Err(error) => return Err(read(error)),
        },
    };
    filler.progress.nodes.fetch_add(1, Ordering::Relaxed);
    let became = if what == What::Dir { Became::Dir } else { Became::Put };
    filler.tree.put(&met.at, known, what)?;
    Ok(became)
}

/// Reads a file that was opened, unless it was before under another name; `None` where it is no file.
fn file(filler: &mut Filler, open: OwnedFd, path: &Path, linked: &mut Linked) -> Result<Option<(About, What)>> {
    let look = |open: &dyn AsFd| fstat(open.as_fd()).map_err(|error| failed(path, error));
    let found = look(&open)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let key = key(&found);
    let read_before = key.as_ref().and_then(|key| linked.get(key).copied());
    let (content, len) = if let Some(read) = read_before {
        read
    } else {
        let open = File::from(open);
        let len = u64::try_from(found.st_size).unwrap_or(0);
        let read = filler.read(&open, len, |error| failed(path, error)).map_err(|error| error.at(path.display()))?;
        if !is_same(&found, &look(&open)?) {
            filler.progress.change(path);
        } else if let Some(key) = key {
            filler.tree.take(size_of::<(FileKey, (ContentId, u64))>() * 2)?;
            linked.insert(key, read);
        }
        read
    };
    Ok(Some((about(&found), What::File { len, content })))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Seek as _, Write as _},
        sync::Arc,
    };

    use super::*;
    use crate::{
        Format,
        write::{Stores, Tree, tar::Unpacking},
    };

    fn filler(dir: &Path) -> Filler {
        let url = format!("dir://{}", dir.join("chunks").display()).parse().expect("an address");
        let stores = Arc::new(Stores::open(&[url]).expect("made"));
        let unpacking = Unpacking::new(std::env::temp_dir(), u64::MAX);
        Filler::new(Tree::default(), Format::Fl, stores, (Arc::default(), unpacking)).expect("begun")
    }

    fn met(dir: &Path, name: &str) -> Met {
        let above = Rc::new(File::open(dir).expect("opens").into());
        let at = vec![Name::new(name.as_bytes()).expect("a name")];
        Met { above, name: name.into(), path: dir.join(name), at }
    }

    fn content(filler: &Filler, name: &str) -> ContentId {
        let name = Name::new(name.as_bytes()).expect("a name");
        match filler.tree.get(&[name]).expect("it is there").1 {
            What::File { content, .. } => *content,
            other => panic!("{other:?}"),
        }
    }

    /// Two names of a file that is written to between the looks at them, and two of one that is not.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_is_read_again_where_it_may_be_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        let mut first = File::create(dir.join("a")).expect("made");
        first.write_all(b"before").expect("written");
        for name in ["b", "c"] {
            fs::hard_link(dir.join("a"), dir.join(name)).expect("linked");
        }
        let mut filler = filler(dir);
        let mut linked = Linked::new();
        let mut put = |filler: &mut Filler, name: &str| {
            tokio::task::block_in_place(|| super::put(filler, &met(dir, name), &mut linked)).expect("put");
        };
        put(&mut filler, "a");
        put(&mut filler, "b");
        assert_eq!(content(&filler, "a"), content(&filler, "b"), "it is read once");
        // Of another length, as a file is that was given the number of one that is gone.
        first.rewind().expect("sought");
        first.write_all(b"and after").expect("written");
        put(&mut filler, "c");
        assert_ne!(content(&filler, "a"), content(&filler, "c"), "it is not what it was");
        // One that has a single name is no other name of anything, whatever number it has.
        fs::remove_file(dir.join("a")).expect("removed");
        fs::remove_file(dir.join("b")).expect("removed");
        assert!(key(&fstat(&first).expect("open")).is_none());
    }

    /// What is known of a file is asked of what was opened: a name may lead elsewhere by then.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_became_something_else_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        fs::create_dir(dir.join("was-dir")).expect("made");
        let mut filler = filler(dir);
        let dir_met = met(dir, "was-dir");
        assert!(matches!(put(&mut filler, &dir_met, &mut Linked::new()).expect("put"), Became::Dir));
        fs::remove_dir(dir.join("was-dir")).expect("removed");
        std::os::unix::fs::symlink("/", dir.join("was-dir")).expect("linked");
        assert!(enter(&mut filler, &dir_met).expect("no failure").is_none(), "no symlink is followed");
        assert!(filler.tree.get(&dir_met.at).is_none());
        assert_eq!(filler.progress.skipped.load(Ordering::Relaxed), 1);
        assert!(matches!(put(&mut filler, &met(dir, "absent"), &mut Linked::new()).expect("no failure"), Became::Gone));
        let pipe = dir.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).expect("made");
        let open = openat(rustix::fs::CWD, &pipe, OPEN, Mode::empty()).expect("it does not wait for a writer");
        assert!(
            file(&mut filler, open, &pipe, &mut Linked::new()).expect("no failure").is_none(),
            "a pipe is not read"
        );
    }
}
