//! The directory of flists: which names it shows, and which files they are.
//!
//! Where there are repositories it has directories, each of which is such a directory of flists by itself, with its tags, and links to
//! tags, in it. What each of them is called is its path:
//!
//! ```text
//!   DIR/bob                                      bob
//!   DIR/bob/.tag-v1                              bob/tags/v1
//!   DIR/carol/stable -> ../bob/.tag-v1           carol/stable
//! ```
//!
//! A name is that of a file less `.flist` or `.fl`. Where two files would have one name, each is shown with its own. Names
//! that begin with a dot are files that are on their way, and are not shown; what else is there is none of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use muxfs::{Error, ErrorKind, Name, Result, vfs::Cookie};

use crate::{
    flist::{Stamp, stamp},
    signature_path,
};

/// What the files of flists end with.
const EXTENSIONS: [&[u8]; 2] = [b".flist", b".fl"];
/// So many flists are shown.
const PLACE_COUNT_MAX: usize = 1 << 17;
/// A file that was written to that lately may be written to still.
const WRITTEN_LATELY: Duration = Duration::from_mins(1);
/// Set in every cookie: keeps it clear of 0 to 2.
const COOKIE_BIT: u64 = 1 << 62;

/// The file that an flist is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// The path of the directory that shows it, where there are several.
    pub(super) shelf: Vec<Name>,
    /// The beginning of BLAKE3 of the name of the repository that has that.
    pub(super) within: Option<[u8; 2]>,
    /// The beginning of BLAKE3 of the name, with the path of the directory and a slash in front.
    pub(super) digest: [u8; 8],
    stamp: Stamp,
    /// The same of the file of its signatures, where those count and there is one.
    signature: Option<Stamp>,
}

impl Place {
    /// Whether it is the same file as that, with other bytes, and may have others yet.
    pub(super) fn is_being_written(&self, before: &Self, now: SystemTime) -> bool {
        let ((device, inode, .., seconds, _), (device_before, inode_before, ..)) = (self.stamp, before.stamp);
        let written = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let since = now.duration_since(SystemTime::UNIX_EPOCH + written).unwrap_or(Duration::ZERO);
        (device, inode) == (device_before, inode_before) && self.stamp != before.stamp && since < WRITTEN_LATELY
    }
}

/// The file that a directory of flists shows under a path: a name, or where it has repositories the path of one of those, or of a tag,
/// and a name. `None` where it shows none.
///
/// # Errors
/// `Io`; `Stale` where a directory goes meanwhile.
pub fn flist_file(dir: &Path, path: &[Name]) -> Result<Option<PathBuf>> {
    let Some((name, above)) = path.split_last() else { return Ok(None) };
    let mut places = Places::new(dir.into());
    for dir in above {
        let Some(there) = places.find_dir(dir)? else { return Ok(None) };
        places = there;
    }
    Ok(if places.has_flists() || above.is_empty() { places.find(name)?.map(|place| place.path) } else { None })
}

/// What the directory of the tags of a repository is called,
const TAGS: &[u8] = b"tags";
/// and what that of a tag begins with where it lies.
const TAG: &str = ".tag-";

/// A directory of the host.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// That of the mount.
    top: PathBuf,
    dir: PathBuf,
    are_signed: bool,
    /// Which of several directories this is.
    path: Vec<Name>,
}

fn digest_of<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    *blake3::hash(bytes).as_bytes().first_chunk().unwrap_or(&[0; LEN])
}

/// What a repository, or a directory in one, has its number and its handle by.
pub(super) fn path_digest(path: &[Name]) -> [u8; 8] {
    digest_of(&joined(path))
}

fn joined(path: &[Name]) -> Vec<u8> {
    path.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/')
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
        Self { top: dir.clone(), dir, are_signed: false, path: Vec::new() }
    }

    /// The same, where an flist is another one when its signatures change.
    pub(super) fn signed(self) -> Self {
        Self { are_signed: true, ..self }
    }

    /// A directory of the host, called so in it.
    fn within(&self, name: &Name, dir: PathBuf) -> Self {
        let path = self.path.iter().cloned().chain([name.clone()]).collect();
        Self { top: self.top.clone(), dir, are_signed: self.are_signed, path }
    }

    /// What it is called, from the mount on.
    pub(super) fn path(&self) -> &[Name] {
        &self.path
    }

    /// Whether it has flists, be it a mount without repositories or one of those, and not only directories.
    pub(super) fn has_flists(&self) -> bool {
        !matches!(&self.path[..], [] | [_, _]) || matches!(&self.path[..], [_, link] if link.as_bytes() != TAGS)
    }

    /// The beginning of the hash of a name in it.
    pub(super) fn digest(&self, name: &Name) -> [u8; 8] {
        if self.path.is_empty() {
            return digest_of(name.as_bytes());
        }
        digest_of(&[&joined(&self.path)[..], b"/", name.as_bytes()].concat())
    }

    fn child(&self, name: &Name) -> PathBuf {
        self.dir.join(OsStr::from_bytes(name.as_bytes()))
    }

    /// The directory that it shows under a name, if it does: a repository, the tags of one, a tag, or what a link to a tag leads to. No other
    /// symlink is followed.
    pub(super) fn find_dir(&self, name: &Name) -> Result<Option<Self>> {
        if name.as_bytes().starts_with(b".") {
            return Ok(None);
        }
        let is_tags = name.as_bytes() == TAGS;
        match &self.path[..] {
            [] => self.dir_at(name, self.child(name)),
            [_] if is_tags => Ok(self.has_tags()?.then(|| self.within(name, self.dir.clone()))),
            [_] => match fs::read_link(self.child(name)) {
                Ok(target) => match self.tag_of(&target) {
                    Some(dir) => self.dir_at(name, dir),
                    None => Ok(None),
                },
                // No symlink, or none at all.
                Err(_) => Ok(None),
            },
            [_, tags] if tags.as_bytes() == TAGS => self.dir_at(name, self.tag_dir(name)),
            _ => Ok(None),
        }
    }

    fn tag_dir(&self, tag: &Name) -> PathBuf {
        self.dir.join(OsStr::from_bytes(&[TAG.as_bytes(), tag.as_bytes()].concat()))
    }

    /// Where a link to a tag leads, as it is written: `../REPOSITORY/.tag-TAG`.
    fn tag_of(&self, target: &Path) -> Option<PathBuf> {
        let (repository, tag) = target.to_str()?.strip_prefix("../")?.split_once('/')?;
        let is_plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        let repository = Some(self.top.join(repository)).filter(|_| is_plain(repository))?;
        let is_dir = fs::symlink_metadata(&repository).is_ok_and(|about| about.is_dir());
        (is_dir && tag.strip_prefix(TAG).is_some_and(is_plain)).then(|| repository.join(tag))
    }

    /// A directory of the host that is there, and no symlink.
    fn dir_at(&self, name: &Name, dir: PathBuf) -> Result<Option<Self>> {
        match fs::symlink_metadata(&dir) {
            Ok(about) => Ok(about.is_dir().then(|| self.within(name, dir))),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => Ok(None),
                _ => Err(self.failed(error)),
            },
        }
    }

    fn has_tags(&self) -> Result<bool> {
        Ok(!self.tags()?.is_empty())
    }

    /// The tags of a repository.
    fn tags(&self) -> Result<Vec<Name>> {
        self.names("tags", |entry| {
            let file = entry.file_name();
            let tag = file.as_bytes().strip_prefix(TAG.as_bytes()).filter(|tag| !tag.starts_with(b"."))?;
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            Name::new(tag).ok().filter(|_| is_dir)
        })
    }

    /// What an entry of the directory makes a name, of all of them.
    fn names(&self, what: &str, name: impl Fn(&fs::DirEntry) -> Option<Name>) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| self.failed(error))? {
            names.extend(name(&entry.map_err(|error| self.failed(error))?));
            if names.len() > PLACE_COUNT_MAX {
                return Err(self.too_many(what));
            }
        }
        Ok(names)
    }

    /// The names of the directories that it shows.
    pub(super) fn dirs(&self) -> Result<Vec<Name>> {
        let plain = |entry: &fs::DirEntry| {
            let file = entry.file_name();
            Name::new(file.as_bytes()).ok().filter(|_| !file.as_bytes().starts_with(b"."))
        };
        match &self.path[..] {
            [] => self.names("repositories", |entry| {
                plain(entry).filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            }),
            [_] => {
                let is_link = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_symlink());
                let mut names = self.names("names", |entry| {
                    let name = plain(entry).filter(|name| is_link(entry) && name.as_bytes() != TAGS)?;
                    self.find_dir(&name).ok().flatten().map(|_| name)
                })?;
                if self.has_tags()? {
                    names.push(Name::new(TAGS)?);
                }
                Ok(names)
            }
            [_, tags] if tags.as_bytes() == TAGS => self.tags(),
            _ => Ok(Vec::new()),
        }
    }

    /// All directories below it that show something, itself first.
    fn all_below(&self) -> Result<Vec<Self>> {
        let mut all = vec![self.clone()];
        for name in self.dirs()? {
            if let Some(dir) = self.find_dir(&name)? {
                all.extend(dir.all_below()?);
            }
        }
        Ok(all)
    }

    /// The directory of a digest of its path, in a mount of repositories.
    pub(super) fn of_path_digest(&self, is_it: impl Fn(&[Name]) -> bool) -> Result<Option<Self>> {
        let mut repositories = Vec::new();
        for name in self.dirs()? {
            if let Some(dir) = self.find_dir(&name)? {
                if is_it(&dir.path) {
                    return Ok(Some(dir));
                }
                repositories.push(dir);
            }
        }
        for repository in repositories {
            match repository.all_below() {
                Ok(all) => {
                    if let Some(found) = all.into_iter().find(|dir| is_it(&dir.path)) {
                        return Ok(Some(found));
                    }
                }
                // It is gone, or may not be read; another may be it.
                Err(error) => tracing::debug!("a repository is passed over: {error:#}"),
            }
        }
        Ok(None)
    }

    fn too_many(&self, what: &str) -> Error {
        let why = format!("there are more than {PLACE_COUNT_MAX} {what}");
        Error::new(ErrorKind::TooLarge, "flist.places").at(self.dir.display()).because(why)
    }

    fn failed(&self, error: io::Error) -> Error {
        let is_gone = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        // The directory of the mount is to be there; one in it may go.
        let kind = if is_gone && !self.path.is_empty() { ErrorKind::Stale } else { ErrorKind::Io };
        Error::new(kind, "flist.places").at(self.dir.display()).because(error)
    }

    /// The file of this name, if it is one. In a repository a symlink is none that leads to elsewhere than a repository.
    fn file(&self, name: &[u8]) -> Result<Option<fs::Metadata>> {
        let path = self.dir.join(OsStr::from_bytes(name));
        let is_link = || fs::symlink_metadata(&path).is_ok_and(|about| about.is_symlink());
        match fs::metadata(&path) {
            Ok(about) if !self.path.is_empty() && is_link() => Ok(Some(about).filter(|_| self.leads_here(&path))),
            Ok(about) => Ok(Some(about).filter(fs::Metadata::is_file)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(self.failed(error)),
            },
        }
    }

    /// Whether a symlink leads to an flist of a repository.
    fn leads_here(&self, path: &Path) -> bool {
        let (Ok(real), Ok(top)) = (fs::canonicalize(path), fs::canonicalize(&self.top)) else { return false };
        let below = real.strip_prefix(&top).map(|below| below.iter().map(OsStr::as_bytes).collect::<Vec<_>>());
        let is_named = |name: &[u8]| !name.starts_with(b".");
        let is_one = matches!(below.as_deref(), Ok([repository, file]) if is_named(repository) && is_named(file));
        is_one && fs::metadata(&real).is_ok_and(|about| about.is_file())
    }

    /// Whether there is a file of this name; one that cannot be looked at hides no other.
    fn is_file(&self, name: &[u8]) -> bool {
        let found = self.file(name).unwrap_or_else(|error| {
            tracing::debug!(name = %name.escape_ascii(), "no flist: {error:#}");
            None
        });
        found.is_some()
    }

    /// Whether a directory is shown under a name in a repository: an flist of that name keeps its ending.
    fn is_dir_name(&self, name: &[u8]) -> bool {
        self.path.len() == 1 && Name::new(name).is_ok_and(|name| matches!(self.find_dir(&name), Ok(Some(_))))
    }

    /// The file that is shown under a name.
    pub(super) fn find(&self, name: &Name) -> Result<Option<Place>> {
        if name.as_bytes().starts_with(b".") || self.is_dir_name(name.as_bytes()) {
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
        if self.file(&[stem, other].concat())?.is_none() && !self.is_dir_name(stem) {
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
        let within = self.path.first().map(repository_beginning);
        Place {
            path,
            shelf: self.path.clone(),
            within,
            digest,
            stamp: stamp(about),
            signature: signature.as_ref().map(stamp),
        }
    }

    /// All that is shown, in the order of the cookies, and whether it is a directory of flists and no flist.
    pub(super) fn list_all(&self, has_dirs: bool) -> Result<Vec<(Cookie, Name, bool)>> {
        let dirs: BTreeSet<Name> = if has_dirs { self.dirs()?.into_iter().collect() } else { BTreeSet::new() };
        let flists = if self.has_flists() || !has_dirs { self.flists(&dirs)? } else { Vec::new() };
        let all = in_order(flists.into_iter().chain(dirs.iter().cloned()));
        let told = |(cookie, name)| {
            let is_dir = dirs.contains(&name);
            (cookie, name, is_dir)
        };
        Ok(all.into_iter().map(told).collect())
    }

    /// The names of flists that are shown, where these directories are.
    fn flists(&self, dirs: &BTreeSet<Name>) -> Result<Vec<Name>> {
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
        let is_dir = |stem: &[u8]| Name::new(stem).is_ok_and(|name| dirs.contains(&name));
        let names = stems.into_iter().flat_map(
            |(stem, files)| {
                if files.len() == 1 && !is_dir(&stem) { vec![stem] } else { files }
            },
        );
        Ok(names.filter_map(|name| Name::new(&name).ok()).collect())
    }

    /// The names that a digest may be of: that which has it, or else those of files that would have it if another file came, or
    /// went, beside them.
    fn names_of_digest(&self, wanted: [u8; 8]) -> Result<Vec<Name>> {
        let dirs = if self.path.is_empty() { BTreeSet::new() } else { self.dirs()?.into_iter().collect() };
        let names = self.flists(&dirs)?;
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

    /// The same of a repository whose name has a hash that begins so, and of its tags.
    pub(super) fn of_digest_within(&self, beginning: [u8; 2], wanted: [u8; 8]) -> Result<Vec<(Self, Name)>> {
        let (mut found, mut unknown) = (Vec::new(), None);
        for repository in self.dirs()?.into_iter().filter(|name| repository_beginning(name) == beginning) {
            let within = || {
                let Some(repository) = self.find_dir(&repository)? else { return Ok(Vec::new()) };
                let all = repository.all_below()?.into_iter().filter(Self::has_flists);
                all.map(|places| places.of_digest(wanted)).collect::<Result<Vec<_>>>()
            };
            match within() {
                Ok(names) => found.extend(names.into_iter().flatten()),
                Err(error) if error.kind() == ErrorKind::Stale => {}
                // It may be in another.
                Err(error) => unknown = Some(error),
            }
        }
        if found.is_empty() { unknown.map_or(Ok(found), Err) } else { Ok(found) }
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
    fn a_file_is_being_written_where_it_is_the_same_and_young() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let places = Places::new(dir.path().into());
        let place = |text: &str| {
            fs::write(dir.path().join("a.fl"), text).expect("written");
            places.find(&Name::new(b"a").expect("a name")).expect("looked up").expect("there")
        };
        let (before, after, now) = (place("one"), place("longer"), SystemTime::now());
        assert!(after.is_being_written(&before, now) && !after.is_being_written(&after, now));
        assert!(!after.is_being_written(&before, now + Duration::from_secs(62)));
        fs::rename(dir.path().join("a.fl"), dir.path().join("b.fl")).expect("renamed");
        assert!(!place("another").is_being_written(&after, now));
    }

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
            places.list_all(false).expect("listed").into_iter().map(|(_, name, _)| name.to_string()).collect();
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
