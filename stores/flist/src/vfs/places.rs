//! The directory of flists: which names it shows, and which files they are.
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
    /// The beginning of BLAKE3 of the name.
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
}

pub(super) fn digest(name: &Name) -> [u8; 8] {
    *blake3::hash(name.as_bytes()).as_bytes().first_chunk().unwrap_or(&[0; 8])
}

/// Where a name stands among the others.
fn cookie(name: &Name) -> u64 {
    COOKIE_BIT | u64::from_be_bytes(digest(name)) >> 2
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
        Self { dir, are_signed: false }
    }

    /// The same, where an flist is another one when its signatures change.
    pub(super) fn signed(self) -> Self {
        Self { are_signed: true, ..self }
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
            self.place(self.dir.join(OsStr::from_bytes(&file)), digest(name), &about)
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
    pub(super) fn hidden(&self, path: PathBuf, digest: [u8; 8]) -> Result<Place> {
        let about = fs::metadata(&path).map_err(|error| self.failed(error))?;
        Ok(self.place(path, digest, &about))
    }

    fn place(&self, path: PathBuf, digest: [u8; 8], about: &fs::Metadata) -> Place {
        // What cannot be looked at is told by who reads it.
        let signature = self.are_signed.then(|| fs::metadata(signature_path(&path)).ok()).flatten();
        Place { path, digest, stamp: stamp(about), signature: signature.as_ref().map(stamp) }
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
                let why = format!("there are more than {PLACE_COUNT_MAX} flists");
                return Err(Error::new(ErrorKind::TooLarge, "flist.places").at(self.dir.display()).because(why));
            }
        }
        let names = stems.into_iter().flat_map(|(stem, files)| if files.len() == 1 { vec![stem] } else { files });
        let names = names.filter_map(|name| Name::new(&name).ok());
        let mut all: Vec<(Cookie, Name)> = names.map(|name| (Cookie(cookie(&name)), name)).collect();
        all.sort();
        // Of names that share 62 bits of a hash one is shown; there are none.
        all.dedup_by_key(|(cookie, _)| *cookie);
        Ok(all)
    }

    /// The names that a digest may be of: that which has it, or else those of files that would have it if another file came, or
    /// went, beside them.
    pub(super) fn of_digest(&self, wanted: [u8; 8]) -> Result<Vec<Name>> {
        let names: Vec<Name> = self.list()?.into_iter().map(|(_, name)| name).collect();
        if let Some(name) = names.iter().find(|name| digest(name) == wanted) {
            return Ok(vec![name.clone()]);
        }
        let is_of = |name: &[u8]| Name::new(name).is_ok_and(|name| digest(&name) == wanted);
        let could_have = |name: &Name| {
            let longer = EXTENSIONS.iter().any(|extension| is_of(&[name.as_bytes(), extension].concat()));
            longer || split(name.as_bytes()).is_some_and(|(stem, _)| is_of(stem))
        };
        Ok(names.into_iter().filter(could_have).collect())
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
            assert_eq!(places.of_digest(place.digest).expect("listed"), [name(text)]);
        }
        for text in ["a.flist", "b.fl", "c", "d", "e", ".e", "h", "f", "g", &"x".repeat(255)] {
            assert!(places.find(&name(text)).expect("looked up").is_none(), "{text}");
        }
        // What they were called before another came beside them, or while it was there.
        for (text, now) in
            [("c", &["c.fl", "c.flist"][..]), ("a.flist", &["a"]), ("b.fl", &["b"]), ("f.fl.flist", &["f.fl"])]
        {
            let mut found = places.of_digest(digest(&name(text))).expect("listed");
            found.sort();
            assert_eq!(found, now.iter().map(|text| name(text)).collect::<Vec<_>>(), "{text}");
        }
        assert_eq!(places.of_digest(digest(&name("d"))).expect("listed"), []);
    }
}
