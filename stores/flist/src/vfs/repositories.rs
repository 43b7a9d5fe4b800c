//! Directories of flists in a directory: what a hub has of its users.
//!
//! What is in a repository is found by its name and that of the repository, and is a node like any other from then on. Repositories
//! themselves have numbers that follow from their names, and are found by them whether anybody holds them or not.

use std::sync::Mutex;

use lru::LruCache;
use muxfs::{
    Name, Result,
    vfs::{Attr, Cookie, DirEntry, DirPage, Ino, Listing},
};

use super::{
    FlistVfs, blocking, count, lock,
    nodes::{ROOT, is_repository, repository_number},
    places::{self, Places, repository_digest},
    stale,
};

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
}
