//! The directory of flists: which names it shows, and which files they are.
//!
//! Where there are repositories it has directories, each of which is such a directory of flists by itself.
//!
//! A name is that of a file less `.flist` or `.fl`. Where two files would have one name, each is shown with its own. Names
//! that begin with a dot are files that are on their way, and are not shown; what else is there is none of ours.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use muxfs::{Error, ErrorKind, Name, Result, vfs::Cookie};

use crate::signature_path;

/// What the files of flists end with.
const EXTENSIONS: [&[u8]; 2] = [b".flist", b".fl"];
/// So many flists are shown.
const PLACE_COUNT_MAX: usize = 1 << 17;
/// Set in every cookie: keeps it clear of 0 to 2.
const COOKIE_BIT: u64 = 1 << 62;

/// The file that an flist is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// The directory that shows it, where there are several.
    pub(super) repository: Option<Name>,
    /// The beginning of BLAKE3 of the name of that.
    pub(super) within: Option<[u8; 2]>,
    /// The beginning of BLAKE3 of the name, with that of the repository and a slash in front.
    pub(super) digest: [u8; 8],
    /// What tells a file from the one that replaced it: device, inode, length, and when it changed.
    stamp: Stamp,
    /// The same of the file of its signatures, where those count and there is one.
    signature: Option<Stamp>,
}

type Stamp = (u64, u64, u64, i64, i64);

fn stamp(about: &fs::Metadata) -> Stamp {
    (about.dev(), about.ino(), about.len(), about.ctime(), about.ctime_nsec())
}

/// The file that a directory of flists shows under a name; `None` where it shows none.
///
/// # Errors
/// `Io`.
pub fn flist_file(dir: &Path, name: &Name) -> Result<Option<PathBuf>> {
    Ok(Places::new(dir.into()).find(name)?.map(|place| place.path))
}

/// A directory of the host.
#[derive(Debug, Clone)]
pub(super) struct Places {
    dir: PathBuf,
    are_signed: bool,
    /// Which of several directories this is.
    repository: Option<Name>,
}

fn digest_of<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    *blake3::hash(bytes).as_bytes().first_chunk().unwrap_or(&[0; LEN])
}

/// What a repository has its number and its handle by.
pub(super) fn repository_digest(name: &Name) -> [u8; 8] {
    digest_of(name.as_bytes())
}

/// What handles of what is in it have of that.
pub(super) fn repository_beginning(name: &Name) -> [u8; 2] {
    digest_of(name.as_bytes())
}

/// Where a name stands among the others.
fn cookie(name: &Name) -> Cookie {
    Cookie(COOKIE_BIT | u64::from_be_bytes(digest_of(name.as_bytes())) >> 2)
}

/// Names in the order of their cookies.
fn in_order(names: impl Iterator<Item = Name>) -> Vec<(Cookie, Name)> {
    let mut all: Vec<(Cookie, Name)> = names.map(|name| (cookie(&name), name)).collect();
    all.sort();
    // Of names that share 62 bits of a hash one is shown; there are none.
    all.dedup_by_key(|(cookie, _)| *cookie);
    all
}

/// The cookie after which a listing goes on; `None` from the start.
pub(super) fn after(cookie: Cookie) -> Result<Option<Cookie>> {
    match cookie {
        Cookie::START => Ok(None),
        Cookie(bits) if bits & !(COOKIE_BIT - 1) == COOKIE_BIT => Ok(Some(cookie)),
        _ => Err(Error::new(ErrorKind::BadCookie, "flist.readdir")),
    }
}

impl Places {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, are_signed: false, repository: None }
    }

    /// The same, where an flist is another one when its signatures change.
    pub(super) fn signed(self) -> Self {
        Self { are_signed: true, ..self }
    }

    /// A directory in it, as one of flists.
    pub(super) fn within(&self, repository: &Name) -> Self {
        let dir = self.dir.join(OsStr::from_bytes(repository.as_bytes()));
        Self { dir, are_signed: self.are_signed, repository: Some(repository.clone()) }
    }

    pub(super) fn repository(&self) -> Option<&Name> {
        self.repository.as_ref()
    }

    /// The beginning of the hash of a name in it.
    pub(super) fn digest(&self, name: &Name) -> [u8; 8] {
        match &self.repository {
            Some(repository) => digest_of(&[repository.as_bytes(), b"/", name.as_bytes()].concat()),
            None => digest_of(name.as_bytes()),
        }
    }

    /// The directory of a name in it, if it is one. No symlink is followed.
    pub(super) fn find_repository(&self, name: &Name) -> Result<Option<Self>> {
        let there = self.within(name);
        match fs::symlink_metadata(&there.dir) {
            _ if name.as_bytes().starts_with(b".") => Ok(None),
            Ok(about) => Ok(Some(there).filter(|_| about.is_dir())),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename => Ok(None),
                _ => Err(self.failed(error)),
            },
        }
    }

    /// The directories in it, in the order of their cookies.
    pub(super) fn list_repositories(&self) -> Result<Vec<(Cookie, Name)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| self.failed(error))? {
            let entry = entry.map_err(|error| self.failed(error))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && !entry.file_name().as_bytes().starts_with(b".")
                && let Ok(name) = Name::new(entry.file_name().as_bytes())
            {
                names.push(name);
            }
            if names.len() > PLACE_COUNT_MAX {
                return Err(self.too_many("repositories"));
            }
        }
        Ok(in_order(names.into_iter()))
    }

    fn too_many(&self, what: &str) -> Error {
        let why = format!("there are more than {PLACE_COUNT_MAX} {what}");
        Error::new(ErrorKind::TooLarge, "flist.places").at(self.dir.display()).because(why)
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::new(ErrorKind::Io, "flist.places").at(self.dir.display()).because(error)
    }

    /// The file of this name, if it is one.
    fn file(&self, name: &[u8]) -> Result<Option<fs::Metadata>> {
        match fs::metadata(self.dir.join(OsStr::from_bytes(name))) {
            Ok(about) => Ok(Some(about).filter(fs::Metadata::is_file)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(self.failed(error)),
            },
        }
    }

    /// Whether there is a file of this name; one that cannot be looked at hides no other.
    fn is_file(&self, name: &[u8]) -> bool {
        let found = self.file(name).unwrap_or_else(|error| {
            tracing::debug!(name = %name.escape_ascii(), "no flist: {error:#}");
            None
        });
        found.is_some()
    }

    /// The file that is shown under a name.
    pub(super) fn find(&self, name: &Name) -> Result<Option<Place>> {
        if name.as_bytes().starts_with(b".") {
            return Ok(None);
        }
        let place = |file: Vec<u8>, about: fs::Metadata| {
            self.place(self.dir.join(OsStr::from_bytes(&file)), self.digest(name), &about)
        };
        let with = |extension: &[u8]| [name.as_bytes(), extension].concat();
        let [long, short] = EXTENSIONS.map(with);
        let shown = match (self.file(&long)?, self.file(&short)?) {
            (Some(about), None) => Some(place(long, about)),
            (None, Some(about)) => Some(place(short, about)),
            _ => None,
        };
        if shown.is_some() {
            return Ok(shown);
        }
        // A name with its extension, where there is another without.
        let Some((stem, other)) = split(name.as_bytes()) else { return Ok(None) };
        if self.file(&[stem, other].concat())?.is_none() {
            return Ok(None);
        }
        Ok(self.file(name.as_bytes())?.map(|about| place(name.as_bytes().to_vec(), about)))
    }

    /// A file that is shown under no name, as one of a digest.
    pub(super) fn hidden(&self, path: PathBuf, (within, digest): (Option<[u8; 2]>, [u8; 8])) -> Result<Place> {
        let about = fs::metadata(&path).map_err(|error| self.failed(error))?;
        Ok(Place { within, ..self.place(path, digest, &about) })
    }

    fn place(&self, path: PathBuf, digest: [u8; 8], about: &fs::Metadata) -> Place {
        // What cannot be looked at is told by who reads it.
        let signature = self.are_signed.then(|| fs::metadata(signature_path(&path)).ok()).flatten();
        let (repository, within) = (self.repository.clone(), self.repository.as_ref().map(repository_beginning));
        Place { path, repository, within, digest, stamp: stamp(about), signature: signature.as_ref().map(stamp) }
    }

    /// The names that are shown, in the order of their cookies.
    pub(super) fn list(&self) -> Result<Vec<(Cookie, Name)>> {
        let mut stems: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| self.failed(error))? {
            let file = entry.map_err(|error| self.failed(error))?.file_name();
            let file = file.as_bytes();
            if let Some((stem, _)) = split(file).filter(|(stem, _)| !stem.is_empty() && !stem.starts_with(b"."))
                && self.is_file(file)
            {
                stems.entry(stem.to_vec()).or_default().push(file.to_vec());
            }
            if stems.len() > PLACE_COUNT_MAX {
                return Err(self.too_many("flists"));
            }
        }
        let names = stems.into_iter().flat_map(|(stem, files)| if files.len() == 1 { vec![stem] } else { files });
        Ok(in_order(names.filter_map(|name| Name::new(&name).ok())))
    }

    /// The names that a digest may be of: that which has it, or else those of files that would have it if another file came, or
    /// went, beside them.
    fn names_of_digest(&self, wanted: [u8; 8]) -> Result<Vec<Name>> {
        let names: Vec<Name> = self.list()?.into_iter().map(|(_, name)| name).collect();
        if let Some(name) = names.iter().find(|name| self.digest(name) == wanted) {
            return Ok(vec![name.clone()]);
        }
        let is_of = |name: &[u8]| Name::new(name).is_ok_and(|name| self.digest(&name) == wanted);
        let could_have = |name: &Name| {
            let longer = EXTENSIONS.iter().any(|extension| is_of(&[name.as_bytes(), extension].concat()));
            longer || split(name.as_bytes()).is_some_and(|(stem, _)| is_of(stem))
        };
        Ok(names.into_iter().filter(could_have).collect())
    }

    /// The same names, with the directory that shows them.
    pub(super) fn of_digest(&self, wanted: [u8; 8]) -> Result<Vec<(Self, Name)>> {
        Ok(self.names_of_digest(wanted)?.into_iter().map(|name| (self.clone(), name)).collect())
    }

    /// The same of a repository whose name has a hash that begins so.
    pub(super) fn of_digest_within(&self, beginning: [u8; 2], wanted: [u8; 8]) -> Result<Vec<(Self, Name)>> {
        let mut found = Vec::new();
        for (_, repository) in self.list_repositories()? {
            if repository_beginning(&repository) == beginning {
                found.extend(self.within(&repository).of_digest(wanted)?);
            }
        }
        Ok(found)
    }

    /// When names last came or went.
    pub(super) fn mtime(&self) -> Result<SystemTime> {
        fs::metadata(self.dir_path()).and_then(|about| about.modified()).map_err(|error| self.failed(error))
    }

    fn dir_path(&self) -> &Path {
        &self.dir
    }
}

/// The name of a file less its extension, and the other extension.
pub(super) fn split(file: &[u8]) -> Option<(&[u8], &'static [u8])> {
    let [long, short] = EXTENSIONS;
    match file.strip_suffix(long) {
        Some(stem) => Some((stem, short)),
        None => file.strip_suffix(short).map(|stem| (stem, long)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files_without_their_extension() {
        let dir = tempfile::TempDir::new().expect("a directory");
        for file in ["a.flist", "b.fl", "c.flist", "c.fl", "d", ".e.fl", ".fl", "f.fl.flist", "g.txt"] {
            fs::write(dir.path().join(file), file).expect("written");
        }
        fs::create_dir(dir.path().join("h.fl")).expect("made");
        std::os::unix::fs::symlink("i.fl", dir.path().join("i.fl")).expect("a loop");
        let places = Places::new(dir.path().into());
        let mut names: Vec<String> =
            places.list().expect("listed").into_iter().map(|(_, name)| name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["a", "b", "c.fl", "c.flist", "f.fl"]);
        let name = |text: &str| Name::new(text.as_bytes()).expect("a name");
        for (text, file) in
            [("a", "a.flist"), ("b", "b.fl"), ("c.fl", "c.fl"), ("c.flist", "c.flist"), ("f.fl", "f.fl.flist")]
        {
            let place = places.find(&name(text)).expect("looked up").expect(text);
            assert_eq!(place.path.file_name(), Some(OsStr::new(file)));
            assert_eq!(places.names_of_digest(place.digest).expect("listed"), [name(text)]);
        }
        for text in ["a.flist", "b.fl", "c", "d", "e", ".e", "h", "f", "g", &"x".repeat(255)] {
            assert!(places.find(&name(text)).expect("looked up").is_none(), "{text}");
        }
        // What they were called before another came beside them, or while it was there.
        for (text, now) in
            [("c", &["c.fl", "c.flist"][..]), ("a.flist", &["a"]), ("b.fl", &["b"]), ("f.fl.flist", &["f.fl"])]
        {
            let mut found = places.names_of_digest(places.digest(&name(text))).expect("listed");
            found.sort();
            assert_eq!(found, now.iter().map(|text| name(text)).collect::<Vec<_>>(), "{text}");
        }
        assert_eq!(places.names_of_digest(places.digest(&name("d"))).expect("listed"), []);
    }
}
