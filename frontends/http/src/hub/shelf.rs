//! The repositories on disk: a directory for each, flists in it, symlinks to flists of it and of others, and tags.
//!
//! ```text
//!   DIR/alice/app.flist                    an flist of the user alice
//!   DIR/alice/latest.flist -> app.flist    or ../bob/app.flist
//!   DIR/alice/.tag-v1/app.flist -> ../../bob/app.flist
//!   DIR/alice/stable -> ../bob/.tag-v1     a link to a tag
//! ```
//!
//! The same as 0-hub has on its disk. Nothing is remembered of it but checksums, so that several servers may have one
//! directory. What a symlink leads to counts only where that is in the directory. Calls wait for the disk.
//! Spec: spec/hub.md #on-disk.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use axum::http::StatusCode;
use md5::{Digest as _, Md5};

use super::names::{TAG, flist_name, is_flist, is_reserved, name};
use crate::failure::Failure;

/// What a file begins with that has no name yet.
pub(super) const PART: &str = ".muxfs-part-";
/// What makers of flists call theirs.
const OTHER_PART: &str = ".flist-";
/// The file that is locked by who changes names.
const LOCK: &str = ".muxfs-lock";
/// What nobody wrote to for so long, and nobody holds, was left by a server that ended.
const LEFT_AGE: Duration = Duration::from_mins(1);
/// The most repositories, and the most names of one, that are listed.
pub(super) const LIST_COUNT_MAX: usize = 100_000;
/// So many checksums are remembered.
const CHECKSUM_COUNT_MAX: usize = 4096;

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// What tells a file from the one that replaced it: device, inode, length, and when it changed.
pub(super) type Stamp = (u64, u64, u64, i64, i64);

pub(super) fn stamp(about: &fs::Metadata) -> Stamp {
    (about.dev(), about.ino(), about.len(), about.ctime(), about.ctime_nsec())
}

/// A directory of repositories.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    checksums: Mutex<HashMap<Stamp, String>>,
    /// Whoever holds it computes one.
    hashing: Mutex<()>,
}

/// The place of an flist, be it there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) repository: String,
    pub(super) tag: Option<String>,
    /// The name of its file.
    pub(super) flist: String,
}

impl Spot {
    /// What is called so; `.flist` may be left out.
    pub(super) fn new(repository: &str, flist: &str) -> Result<Self> {
        Ok(Self { repository: name(repository)?.into(), tag: None, flist: flist_name(flist)? })
    }

    /// The same among those of a tag.
    pub(super) fn tagged(self, tag: &str) -> Result<Self> {
        Ok(Self { tag: Some(name(tag)?.into()), ..self })
    }
}

/// What is in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shelved {
    /// The name of its file, or of the tag.
    pub(super) name: String,
    /// In bytes, of what a symlink leads to where that is there.
    pub(super) len: u64,
    /// The same, in seconds since 1970.
    pub(super) mtime: i64,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    /// Where it leads, as it says, and since when.
    Symlink(String, i64),
    /// The same of a link to a tag.
    TagLink(String, i64),
    Tag,
}

pub(super) fn absent(what: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("{what} not found"), "")
}

/// What a disk refuses.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn failed(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => absent("source"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Failure::new(StatusCode::INSUFFICIENT_STORAGE, "The disk of the hub is full.", "")
        }
        _ => {
            tracing::warn!(%error, "the directory of the hub fails");
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "The directory of the hub fails.", "")
        }
    }
}

/// Whoever holds it gives names, or takes them.
pub(super) struct Turn(#[expect(dead_code, reason = "its lock goes when it is closed")] File);

impl Shelf {
    /// The repositories in a directory that is there. What servers left that were ended is removed.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let shelf = Self { dir: fs::canonicalize(dir)?, checksums: Mutex::default(), hashing: Mutex::default() };
        for entry in fs::read_dir(&shelf.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_part = name.to_str().is_some_and(|name| name.starts_with(PART) || name.starts_with(OTHER_PART));
            if is_part && is_left(&entry.path()) {
                tracing::info!(name = %name.display(), "the hub removes what did not arrive");
                fs::remove_file(entry.path())?;
            }
        }
        Ok(shelf)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until nobody else, in this process or another, changes names.
    pub(super) fn turn(&self) -> Result<Turn> {
        let locked = || {
            let file = File::options().create(true).append(true).open(self.dir.join(LOCK))?;
            file.lock().map(|()| Turn(file))
        };
        locked().map_err(failed)
    }

    pub(super) fn repository(&self, repository: &str) -> Result<PathBuf> {
        Ok(self.dir.join(name(repository)?))
    }

    /// Where an flist is, or would be.
    pub(super) fn path(&self, spot: &Spot) -> PathBuf {
        let repository = self.dir.join(&spot.repository);
        let dir = spot.tag.as_ref().map_or_else(|| repository.clone(), |tag| repository.join(format!("{TAG}{tag}")));
        dir.join(&spot.flist)
    }

    /// The repositories, in order, and when each changed, in seconds since 1970.
    pub(super) fn repositories(&self) -> Result<Vec<(String, i64)>> {
        let all = names(&self.dir, |entry| {
            let about = entry.metadata().ok().filter(fs::Metadata::is_dir)?;
            Some(about.mtime())
        })?;
        Ok(all.into_iter().filter(|(text, _)| name(text).is_ok() && !is_reserved(text)).collect())
    }

    /// What is in a repository, in order: tags first.
    pub(super) fn list(&self, repository: &str) -> Result<Vec<Shelved>> {
        let dir = self.existing(repository)?;
        let all = names(&dir, |entry| self.shelved(&entry.path(), entry.file_name().to_str()?))?;
        Ok(all.into_iter().map(|(_, shelved)| shelved).collect())
    }

    /// The flists of a tag, in order.
    pub(super) fn tagged(&self, repository: &str, tag: &str) -> Result<Vec<Shelved>> {
        let dir = self.existing(repository)?.join(format!("{TAG}{}", name(tag)?));
        if !fs::symlink_metadata(&dir).is_ok_and(|about| about.is_dir()) {
            return Err(absent("tag"));
        }
        let all = names(&dir, |entry| self.shelved(&entry.path(), entry.file_name().to_str()?))?;
        Ok(all
            .into_iter()
            .map(|(_, shelved)| shelved)
            .filter(|shelved| matches!(shelved.kind, Kind::Symlink(..)))
            .collect())
    }

    /// The directory of a repository that is there.
    pub(super) fn existing(&self, repository: &str) -> Result<PathBuf> {
        let dir = self.repository(repository)?;
        // A repository is no symlink to elsewhere.
        let is_dir = !is_reserved(repository) && fs::symlink_metadata(&dir).is_ok_and(|about| about.is_dir());
        if is_dir { Ok(dir) } else { Err(absent("user")) }
    }

    /// What is known of an flist, or of the symlink that it is.
    pub(super) fn about(&self, spot: &Spot) -> Result<Shelved> {
        self.existing(&spot.repository)?;
        self.shelved(&self.path(spot), &spot.flist).ok_or_else(|| absent("source"))
    }

    /// Where a link to a tag leads.
    pub(super) fn tag_link(&self, repository: &str, link: &str) -> Result<String> {
        let dir = self.existing(repository)?;
        match self.shelved(&dir.join(name(link)?), link).map(|shelved| shelved.kind) {
            Some(Kind::TagLink(target, _)) => Ok(target),
            _ => Err(absent("source")),
        }
    }

    /// The file of an flist, to which symlinks may lead that stay in the directory.
    pub(super) fn file(&self, spot: &Spot) -> Result<PathBuf> {
        self.existing(&spot.repository)?;
        self.resolved(&self.path(spot)).ok_or_else(|| absent("source"))
    }

    /// The flist that a path leads to.
    fn resolved(&self, path: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(path).ok()?;
        let mut below = real.strip_prefix(&self.dir).ok()?.components();
        let (repository, flist) = (below.next()?.as_os_str().to_str()?, below.next()?.as_os_str().to_str()?);
        let is_one = below.next().is_none() && name(repository).is_ok() && is_flist(flist) && !flist.starts_with('.');
        (is_one && fs::metadata(&real).is_ok_and(|about| about.is_file())).then_some(real)
    }

    fn shelved(&self, path: &Path, text: &str) -> Option<Shelved> {
        let about = fs::symlink_metadata(path).ok()?;
        if about.is_dir() {
            let tag = text.strip_prefix(TAG).filter(|tag| name(tag).is_ok())?;
            return Some(Shelved { name: tag.into(), len: 0, mtime: about.mtime(), kind: Kind::Tag });
        }
        let own = name(text).is_ok().then_some(text)?.to_owned();
        if !about.is_symlink() {
            let is_one = about.is_file() && is_flist(text);
            return is_one.then(|| Shelved { name: own, len: about.len(), mtime: about.mtime(), kind: Kind::Regular });
        }
        let target = fs::read_link(path).ok()?.into_os_string().into_string().ok()?;
        if is_flist(text) {
            let (len, mtime) = self
                .resolved(path)
                .and_then(|real| fs::metadata(real).ok())
                .map_or((0, about.mtime()), |real| (real.len(), real.mtime()));
            return Some(Shelved { name: own, len, mtime, kind: Kind::Symlink(target, about.mtime()) });
        }
        // As it is written here: ../REPOSITORY/.tag-TAG.
        let (repository, tag) = target.strip_prefix("../")?.split_once('/')?;
        name(repository).ok()?;
        name(tag.strip_prefix(TAG)?).ok()?;
        Some(Shelved { name: own, len: 0, mtime: about.mtime(), kind: Kind::TagLink(target, about.mtime()) })
    }

    fn checksums(&self) -> MutexGuard<'_, HashMap<Stamp, String>> {
        self.checksums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The MD5 of a file, in hex, computed once for each.
    pub(super) fn md5(&self, path: &Path) -> Result<String> {
        let mut file = File::open(path).map_err(failed)?;
        let known = stamp(&file.metadata().map_err(failed)?);
        let there = || self.checksums().get(&known).cloned();
        if let Some(checksum) = there() {
            return Ok(checksum);
        }
        let _alone = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(checksum) = there() {
            return Ok(checksum);
        }
        let (mut md5, mut piece) = (Md5::new(), vec![0; 256 << 10]);
        loop {
            let len = file.read(&mut piece).map_err(failed)?;
            let Some(read) = piece.get(..len).filter(|read| !read.is_empty()) else { break };
            md5.update(read);
        }
        let checksum = md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let mut checksums = self.checksums();
        if checksums.len() >= CHECKSUM_COUNT_MAX {
            checksums.clear();
        }
        checksums.insert(known, checksum.clone());
        Ok(checksum)
    }
}

/// Whether nobody works on a file that has no name yet.
fn is_left(path: &Path) -> bool {
    let looked = || {
        let about = fs::symlink_metadata(path)?;
        if about.is_symlink() {
            // One that was to be a link, and leads nowhere from here.
            return Ok(SystemTime::now().duration_since(about.modified()?).unwrap_or_default() > LEFT_AGE);
        }
        let file = File::open(path)?;
        let age = SystemTime::now().duration_since(file.metadata()?.modified()?).unwrap_or_default();
        Ok::<_, io::Error>(age > LEFT_AGE && file.try_lock().is_ok())
    };
    looked().unwrap_or(false)
}

/// The names in a directory of which something is known, in order.
fn names<T>(dir: &Path, about: impl Fn(&fs::DirEntry) -> Option<T>) -> Result<Vec<(String, T)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(text) = entry.file_name().into_string() else { continue };
        if let Some(about) = about(&entry) {
            names.push((text, about));
        }
        if names.len() > LIST_COUNT_MAX {
            return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "There are too many names to list.", ""));
        }
    }
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(names)
}
