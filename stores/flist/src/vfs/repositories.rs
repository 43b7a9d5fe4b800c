//! Directories of flists, and directories of such: what a hub has of its users.
//!
//! A repository has its flists, `tags` where it has tags, each of which is a directory of flists, and such for each link to a tag.
//! What is in one is found by its name and that of the repository, and is a node like any other from then on. Repositories
//! themselves have numbers that follow from their names, and are found by them whether anybody holds them or not.

use std::{
    sync::Mutex,
    time::{Duration, SystemTime},
};

use lru::LruCache;
use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Attr, Cookie, DirEntry, DirPage, Fsid, Ino, Listing, Rdev},
};

use super::{
    FlistVfs, OPEN_COUNT_MAX, blocking, count, lock,
    nodes::{ROOT, is_repository, repository_number, root_number},
    places::{self, Places, path_digest},
    stale,
};

/// So many are opened for one page of the directory of flists, which ends there: half of those that stay open.
const LISTED_COUNT_MAX: usize = OPEN_COUNT_MAX / 2;
/// The names of so many are remembered by their numbers.
const REPOSITORY_COUNT: usize = 1024;

fn number(path: &[Name]) -> Ino {
    repository_number(path_digest(path))
}

impl FlistVfs {
    /// The same, of a directory whose directories have the flists: repositories, as those of a hub, with their tags.
    #[must_use]
    pub fn of_repositories(self) -> Self {
        Self { repositories: Some(Mutex::new(LruCache::new(count(REPOSITORY_COUNT)))), ..self }
    }

    /// A directory of flists, or of such.
    pub(super) async fn dir_attr(&self, places: Places) -> Result<Attr> {
        if places.path().is_empty() {
            return self.places_attr(ROOT, places).await;
        }
        let ino = number(places.path());
        if let Some(repositories) = &self.repositories {
            lock(repositories).put(ino, places.path().to_vec());
        }
        self.places_attr(ino, places).await
    }

    /// The directory of flists, or of such, of a number; `None` for what is in an flist.
    pub(super) async fn places_of(&self, ino: Ino) -> Result<Option<Places>> {
        match &self.repositories {
            _ if ino == ROOT => Ok(Some(self.places.clone())),
            Some(known) if is_repository(ino) => {
                let (places, path) = (self.places.clone(), lock(known).get(&ino).cloned());
                let found = blocking(move || match path {
                    Some(path) => at(&places, &path),
                    None => places.of_path_digest(|path| number(path) == ino),
                });
                let places = found.await?.ok_or_else(stale)?;
                lock(known).put(ino, places.path().to_vec());
                Ok(Some(places))
            }
            None if is_repository(ino) => Err(stale()),
            _ => Ok(None),
        }
    }

    /// The directory of a path, which has to be there.
    pub(super) async fn places_at(&self, path: Vec<Name>) -> Result<Places> {
        let places = self.places.clone();
        blocking(move || at(&places, &path)).await?.ok_or_else(stale)
    }

    /// What a directory of flists, or of such, has under a name.
    pub(super) async fn lookup_in(&self, places: Places, name: &Name) -> Result<Attr> {
        if self.repositories.is_some() {
            let (there, called) = (places.clone(), name.clone());
            if let Some(dir) = blocking(move || there.find_dir(&called)).await? {
                return self.dir_attr(dir).await;
            }
            if !places.has_flists() {
                return Err(Error::new(ErrorKind::NotFound, "flist.lookup").at(name));
            }
        }
        self.adopt_root(self.flist(&places, name).await?).await
    }

    pub(super) async fn root_attr(&self) -> Result<Attr> {
        self.places_attr(ROOT, self.places.clone()).await
    }

    /// A directory of flists, or of repositories.
    async fn places_attr(&self, ino: Ino, places: Places) -> Result<Attr> {
        let mtime = blocking(move || places.mtime()).await?;
        let since = mtime.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let change = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Ok(Attr {
            ino,
            fsid: Fsid::default(),
            kind: FileKind::Dir,
            mode: 0o755,
            uid: self.owner.0,
            gid: self.owner.1,
            nlink: 2,
            rdev: Rdev::default(),
            size: 0,
            used: 0,
            atime: mtime,
            mtime,
            ctime: mtime,
            change,
            cid: None,
        })
    }

    /// A page of what a directory has, of flists or of such.
    pub(super) async fn list_places(
        &self,
        places: Places,
        after: Cookie,
        wanted: usize,
        listing: Listing,
    ) -> Result<DirPage> {
        let (there, has_dirs) = (places.clone(), self.repositories.is_some());
        let all = blocking(move || there.list_all(has_dirs)).await?;
        let after = places::after(after)?;
        let mut rest = all.into_iter().filter(|(cookie, ..)| after.is_none_or(|after| *cookie > after)).peekable();
        let (mut entries, mut left) = (Vec::new(), LISTED_COUNT_MAX);
        while entries.len() < wanted
            && let Some((_, name, is_dir)) = rest.peek()
        {
            if *is_dir {
                let Some((cookie, name, _)) = rest.next() else { break };
                let path: Vec<Name> = places.path().iter().cloned().chain([name.clone()]).collect();
                let attr = match listing {
                    Listing::Names => None,
                    // It may be gone by now.
                    Listing::Attrs => self.lookup_in(places.clone(), &name).await.ok(),
                };
                entries.push(DirEntry { name, ino: number(&path), cookie, attr });
                continue;
            }
            let key = (places.path().to_vec(), name.clone());
            let is_opened =
                listing == Listing::Attrs && !lock(&self.open).contains(&key) && !lock(&self.refused).contains(&key);
            if is_opened && left == 0 {
                break;
            }
            left -= usize::from(is_opened);
            let Some((cookie, name, _)) = rest.next() else { break };
            let attr = match listing {
                Listing::Names => None,
                // One that cannot be opened has a name all the same, and looking it up says why.
                Listing::Attrs => match self.flist(&places, &name).await {
                    Ok(open) => self.adopt_root(open).await.ok(),
                    Err(_) => None,
                },
            };
            let ino = attr.as_ref().map_or_else(|| root_number(places.digest(&name)), |attr| attr.ino);
            entries.push(DirEntry { name, ino, cookie, attr });
        }
        let eof = rest.peek().is_none();
        Ok(DirPage { entries, eof })
    }
}

/// The directory of a path below that of the mount.
fn at(places: &Places, path: &[Name]) -> Result<Option<Places>> {
    let mut there = places.clone();
    for name in path {
        let Some(below) = there.find_dir(name)? else { return Ok(None) };
        there = below;
    }
    Ok(Some(there))
}
