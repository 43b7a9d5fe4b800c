//! Directories of flists, and directories of such: what a hub has of its users.
//!
//! What is in a repository is found by its name and that of the repository, and is a node like any other from then on. Repositories
//! themselves have numbers that follow from their names, and are found by them whether anybody holds them or not.

use std::{
    sync::Mutex,
    time::{Duration, SystemTime},
};

use lru::LruCache;
use muxfs::{
    FileKind, Name, Result,
    vfs::{Attr, Cookie, DirEntry, DirPage, Fsid, Ino, Listing, Rdev},
};

use super::{
    FlistVfs, OPEN_COUNT_MAX, blocking, count, lock,
    nodes::{ROOT, is_repository, repository_number, root_number},
    places::{self, Places, repository_digest},
    stale,
};

/// So many are opened for one page of the directory of flists, which ends there: half of those that stay open.
const LISTED_COUNT_MAX: usize = OPEN_COUNT_MAX / 2;
/// The names of so many are remembered by their numbers.
const REPOSITORY_COUNT: usize = 1024;

fn number(name: &Name) -> Ino {
    repository_number(repository_digest(name))
}

impl FlistVfs {
    /// The same, of a directory whose directories have the flists: repositories, as those of a hub.
    #[must_use]
    pub fn of_repositories(self) -> Self {
        Self { repositories: Some(Mutex::new(LruCache::new(count(REPOSITORY_COUNT)))), ..self }
    }

    /// A repository.
    pub(super) async fn repository_attr(&self, name: &Name) -> Result<Attr> {
        let ino = number(name);
        if let Some(repositories) = &self.repositories {
            lock(repositories).put(ino, name.clone());
        }
        self.places_attr(ino, self.places.within(name)).await
    }

    /// The directory that has the flists of a number, if one has that.
    pub(super) async fn places_of(&self, ino: Ino) -> Result<Option<Places>> {
        match &self.repositories {
            None if ino == ROOT => Ok(Some(self.places.clone())),
            Some(_) if is_repository(ino) => self.repository(ino).await.map(|name| Some(self.places.within(&name))),
            _ => Ok(None),
        }
    }

    /// The repository of a number.
    pub(super) async fn repository_of(&self, ino: Ino) -> Result<Attr> {
        self.repository_attr(&self.repository(ino).await?).await
    }

    /// The name of the repository of a number, which is there.
    async fn repository(&self, ino: Ino) -> Result<Name> {
        let repositories = self.repositories.as_ref().ok_or_else(stale)?;
        let (places, known) = (self.places.clone(), lock(repositories).get(&ino).cloned());
        let find = move || {
            if let Some(name) = known {
                return Ok(places.find_repository(&name)?.map(|_| name));
            }
            let is_it = |name: &Name| number(name) == ino;
            Ok(places.list_repositories()?.into_iter().map(|(_, name)| name).find(is_it))
        };
        let name = blocking(find).await?.ok_or_else(stale)?;
        lock(repositories).put(ino, name.clone());
        Ok(name)
    }

    /// A page of the repositories.
    pub(super) async fn list_repositories(&self, after: Cookie, wanted: usize, listing: Listing) -> Result<DirPage> {
        let places = self.places.clone();
        let all = blocking(move || places.list_repositories()).await?;
        let after = places::after(after)?;
        let mut rest = all.into_iter().filter(|(cookie, _)| after.is_none_or(|after| *cookie > after)).peekable();
        let mut entries = Vec::new();
        for (cookie, name) in rest.by_ref().take(wanted) {
            let attr = match listing {
                Listing::Names => None,
                // It may be gone by now.
                Listing::Attrs => self.repository_attr(&name).await.ok(),
            };
            let ino = number(&name);
            entries.push(DirEntry { name, ino, cookie, attr });
        }
        let eof = rest.peek().is_none();
        Ok(DirPage { entries, eof })
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

    /// A page of the flists of a directory.
    pub(super) async fn list_places(
        &self,
        places: Places,
        after: Cookie,
        wanted: usize,
        listing: Listing,
    ) -> Result<DirPage> {
        let there = places.clone();
        let all = blocking(move || there.list()).await?;
        let after = places::after(after)?;
        let mut rest = all.into_iter().filter(|(cookie, _)| after.is_none_or(|after| *cookie > after)).peekable();
        let (mut entries, mut left) = (Vec::new(), LISTED_COUNT_MAX);
        while entries.len() < wanted
            && let Some((_, name)) = rest.peek()
        {
            let key = (places.repository().cloned(), name.clone());
            let is_opened =
                listing == Listing::Attrs && !lock(&self.open).contains(&key) && !lock(&self.refused).contains(&key);
            if is_opened && left == 0 {
                break;
            }
            left -= usize::from(is_opened);
            let Some((cookie, name)) = rest.next() else { break };
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
