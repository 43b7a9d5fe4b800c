//! The inodes of `/flist`: a directory of flists, each a read-only tree below its name.
//!
//! An flist is opened when somebody looks below its name, a directory of it is read when somebody looks into it, and a
//! chunk is fetched when somebody reads it; what is open, listed or read stays for a while in bounded memory. Numbers are
//! derived, from the name of the flist and the node, so a restart changes none; a handle names both, so it is good after
//! one. An flist that is replaced by another is another: what was open of the old one answers until it is let go. One that is
//! written to in its place is shown as it was, until it is whole.
//! Spec: spec/flist.md #mount.

mod files;
mod handle;
mod kept;
mod nodes;
mod places;
mod repositories;
mod starts;

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Attr, Cookie, DirEntry, DirPage, FsStat, Fsid, Handle, Ino, Listing, Vfs},
};

use self::{
    files::Files,
    handle::{Named, NodeName},
    nodes::{Known, Nodes, ROOT, is_repository},
    places::{Place, Places},
    starts::Start,
};
pub use self::{
    handle::node_of_handle,
    kept::{KeptFlists, kept_file},
    places::flist_file,
    starts::Profiles,
};
use crate::{
    Chunks, Dir, Flist, FlistId, Inode, NodeId, Signers, chunks::Sources, profile::Profile, values::AllValues,
};

/// So many flists are open at a time, beside those of which a node is held.
const OPEN_COUNT_MAX: usize = 64;
/// What is remembered of directories, in bytes.
const DIRS_LEN_MAX: usize = 32 << 20;
/// The most entries of one page.
const PAGE_COUNT_MAX: usize = 4096;
/// The cookie of the first entry of a directory.
const FIRST_COOKIE: u64 = 3;

/// An open flist, and who is asked for its chunks.
#[derive(Debug)]
pub(crate) struct Open {
    flist: Flist,
    place: Place,
    sources: Arc<Sources>,
    /// Whoever holds it asks the database.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What was touched, where that is recorded.
    touched: Option<Mutex<Profile>>,
    /// Records or replays a start, until this is dropped.
    start: Mutex<Option<Start>>,
}

impl Open {
    /// Notes that somebody reads a chunk.
    fn touch(&self, node: NodeId, index: u64) {
        if let Some(touched) = &self.touched {
            lock(touched).touch(node, index);
        }
    }

    /// Asks the flist where waiting for the disk is allowed. One at a time: the database answers one after another, and who
    /// waits for it should take no thread. Who gives up leaves the turn to what was begun.
    async fn query<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Flist) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.turn.clone().lock_owned().await;
        let this = self.clone();
        blocking(move || {
            let _turn = turn;
            work(&this.flist)
        })
        .await
    }
}

/// What an open flist is found by: the path of the directory that shows it, where there are several, and its name.
type Key = (Vec<Name>, Name);

/// A read-only [`Vfs`] of the flists in a directory of the host.
#[derive(Debug)]
pub struct FlistVfs {
    places: Places,
    /// The paths of repositories, and of directories in them, where there are any; by their numbers.
    repositories: Option<Mutex<LruCache<Ino, Vec<Name>>>>,
    scratch: PathBuf,
    /// Whose signature an flist has to have, if any.
    signers: Option<Arc<Signers>>,
    profiles: Profiles,
    chunks: Arc<Chunks>,
    owner: (u32, u32),
    open: Mutex<LruCache<Key, Arc<Open>>>,
    /// Files that were found to be no good flists, and why.
    refused: Mutex<LruCache<Key, (Place, ErrorKind, String)>>,
    /// Whoever holds it opens one.
    opening: Arc<tokio::sync::Mutex<()>>,
    nodes: Mutex<Nodes>,
    dirs: Mutex<Dirs>,
    /// What directories of `.flist`s were read from.
    values: AllValues,
    files: Arc<Files>,
}

#[derive(Debug)]
struct Dirs {
    read: LruCache<(FlistId, NodeId), (Arc<Dir>, usize)>,
    len: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

/// Carries out what waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Internal, "flist.vfs").because(error))?
}

fn stale() -> Error {
    Error::new(ErrorKind::Stale, "flist.vfs")
}

impl FlistVfs {
    /// Shows the flists in `dir`, packed ones unpacked into files of `scratch` without a name; the directory itself belongs
    /// to `owner`, a user and a group.
    pub fn new(dir: PathBuf, scratch: PathBuf, chunks: Arc<Chunks>, owner: (u32, u32)) -> Self {
        let files = Arc::new(Files::new(chunks.clone()));
        Self {
            places: Places::new(dir),
            repositories: None,
            scratch,
            signers: None,
            profiles: Profiles::default(),
            chunks,
            owner,
            open: Mutex::new(LruCache::new(count(OPEN_COUNT_MAX))),
            refused: Mutex::new(LruCache::new(count(OPEN_COUNT_MAX))),
            opening: Arc::default(),
            nodes: Mutex::default(),
            values: AllValues::default(),
            dirs: Mutex::new(Dirs { read: LruCache::unbounded(), len: 0 }),
            files,
        }
    }

    /// The same, where an flist that none of these keys signed is refused.
    #[must_use]
    pub fn signed_by(self, signers: Signers) -> Self {
        Self { places: self.places.signed(), signers: Some(Arc::new(signers)), ..self }
    }

    /// The same, with this done about what starts touch.
    #[must_use]
    pub fn with_profiles(self, profiles: Profiles) -> Self {
        Self { profiles, ..self }
    }

    /// The flist of a name, as it is now.
    async fn flist(&self, places: &Places, name: &Name) -> Result<Arc<Open>> {
        let (there, name_there) = (places.clone(), name.clone());
        let place = blocking(move || there.find(&name_there)).await?;
        let place = place.ok_or_else(|| Error::new(ErrorKind::NotFound, "flist.lookup").at(name))?;
        self.open_at((places.path().to_vec(), name.clone()), place).await
    }

    /// The flist at a place, open under a name.
    async fn open_at(&self, name: Key, place: Place) -> Result<Arc<Open>> {
        let name = &name;
        if let Some(open) = lock(&self.open).get(name).filter(|open| open.place == place) {
            return Ok(open.clone());
        }
        // One at a time: each may take as much of the disk as the longest flist unpacked.
        let turn = self.opening.clone().lock_owned().await;
        if let Some(open) = lock(&self.open).get(name).filter(|open| open.place == place) {
            return Ok(open.clone());
        }
        if let Some((_, kind, why)) = lock(&self.refused).get(name).filter(|(there, ..)| *there == place) {
            let error = Error::new(*kind, "flist.open").because(why.clone());
            return self.before(name, &place).ok_or(error);
        }
        let (scratch, chunks, there) = (self.scratch.clone(), self.chunks.clone(), place.clone());
        let (signers, profiles, values) = (self.signers.clone(), self.profiles, self.values.clone());
        let opened = blocking(move || {
            let opened = Flist::open_among(&there.path, &scratch, signers.as_deref(), &values);
            let opened = opened.map(|flist| {
                // Where its chunks are does not matter to who looks at names.
                let sources = chunks.sources_of(&flist).unwrap_or_else(|error| {
                    tracing::warn!("the routes of an flist cannot be read: {error:#}");
                    Arc::new(chunks.sources(&[]))
                });
                let touched = (profiles == Profiles::Record).then(Mutex::default);
                Arc::new(Open { flist, place: there, sources, turn: Arc::default(), touched, start: Mutex::default() })
            });
            // Also where nobody waits for it any more.
            Ok((opened, turn))
        });
        let (opened, _turn) = opened.await?;
        let open = match opened {
            Ok(open) => open,
            Err(error) => {
                let is_bad = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooLarge);
                if is_bad {
                    // It takes as long to find out as to open a good one, and will be so again.
                    let refused = (place.clone(), error.kind(), format!("{error:#}"));
                    lock(&self.refused).put(name.clone(), refused);
                }
                let before = self.before(name, &place).filter(|_| is_bad || error.kind() == ErrorKind::Unavailable);
                let Some(before) = before else { return Err(error) };
                tracing::warn!("an flist is being written to in its place, and is shown as it was: {error:#}");
                return Ok(before);
            }
        };
        *lock(&open.start) = Start::begin(self.profiles, &open, &self.files);
        // What is dropped of an old one is closed with its last node.
        let pushed = lock(&self.open).push(name.clone(), open.clone());
        if let Some((_, old)) = pushed {
            lock(&self.nodes).forget(&old);
        }
        Ok(open)
    }

    /// What was open of a file that is written to in its place. Where signatures count, what is signed now does.
    fn before(&self, name: &Key, place: &Place) -> Option<Arc<Open>> {
        let open = lock(&self.open).get(name).cloned()?;
        let is_shown = self.signers.is_none() && place.is_being_written(&open.place, SystemTime::now());
        is_shown.then_some(open)
    }

    fn known(&self, ino: Ino) -> Result<Known> {
        lock(&self.nodes).known(ino).ok_or_else(stale)
    }

    /// A directory, read or remembered.
    async fn dir(&self, known: &Known) -> Result<Arc<Dir>> {
        let key = (known.open.flist.id(), known.inode.id);
        if let Some((dir, _)) = lock(&self.dirs).read.get(&key) {
            return Ok(dir.clone());
        }
        let inode = known.inode.clone();
        let dir = known.open.query(move |flist| flist.dir(&inode).map(Arc::new)).await?;
        let weight = dir.weight();
        let mut dirs = lock(&self.dirs);
        dirs.len += weight;
        if let Some((_, (_, old))) = dirs.read.push(key, (dir.clone(), weight)) {
            dirs.len -= old;
        }
        while dirs.len > DIRS_LEN_MAX && dirs.read.len() > 1 {
            let Some((_, (_, old))) = dirs.read.pop_lru() else { break };
            dirs.len -= old;
        }
        Ok(dir)
    }

    fn attr(ino: Ino, inode: &Inode) -> Attr {
        Attr {
            ino,
            fsid: Fsid::default(),
            kind: inode.kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: if inode.kind == FileKind::Dir { 2 } else { 1 },
            rdev: inode.rdev,
            size: inode.size,
            used: inode.size,
            atime: inode.mtime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            change: 0,
            cid: None,
        }
    }

    /// The flist of an id that has one of these names, as they are now.
    async fn of_id(&self, names: &[(Places, Name)], id: FlistId) -> Result<Arc<Open>> {
        let mut why = None;
        for (places, name) in names {
            match self.flist(places, name).await {
                Ok(open) if open.flist.id() == id => return Ok(open),
                Ok(_) => why = why.or_else(|| Some(stale().because("its flist was replaced by another"))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // It may be the one.
                Err(error) => why = Some(error),
            }
        }
        Err(why.unwrap_or_else(stale))
    }

    /// Leases a node.
    fn adopt(&self, open: &Arc<Open>, inode: &Inode) -> Result<Attr> {
        let ino = lock(&self.nodes).adopt(open, inode)?;
        Ok(Self::attr(ino, inode))
    }

    /// Leases a node that is in an flist.
    async fn adopt_node(&self, open: &Arc<Open>, node: NodeId) -> Result<Attr> {
        let inode = open.query(move |flist| flist.inode(node)).await?.ok_or_else(stale)?;
        self.adopt(open, &inode)
    }

    /// Leases the root of an flist.
    async fn adopt_root(&self, open: Arc<Open>) -> Result<Attr> {
        let root = open.query(Flist::root).await?;
        self.adopt(&open, &root)
    }
}

#[async_trait]
impl Vfs for FlistVfs {
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        if let Some(places) = self.places_of(dir).await? {
            return self.lookup_in(places, name).await;
        }
        let known = self.known(dir)?;
        let dir = self.dir(&known).await?;
        let (_, entry) = dir.find(name).ok_or_else(|| Error::new(ErrorKind::NotFound, "flist.lookup").at(name))?;
        self.adopt(&known.open, &entry.inode)
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        if let Some(places) = self.places_of(dir).await? {
            let above = places.path().split_last().map_or(&[][..], |(_, above)| above);
            return self.dir_attr(self.places_at(above.to_vec()).await?).await;
        }
        let known = self.known(dir)?;
        if known.inode.id == NodeId::Root {
            return self.dir_attr(self.places_at(known.open.place.shelf.clone()).await?).await;
        }
        let node = known.inode.id;
        let above = known.open.query(move |flist| flist.inode(flist.parent(node)?)?.ok_or_else(stale));
        self.adopt(&known.open, &above.await?)
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        if let Some(places) = self.places_of(ino).await? {
            return self.dir_attr(places).await;
        }
        Ok(Self::attr(ino, &self.known(ino)?.inode))
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let count = count.clamp(1, PAGE_COUNT_MAX);
        if let Some(places) = self.places_of(dir).await? {
            return self.list_places(places, after, count, listing).await;
        }
        let known = self.known(dir)?;
        let dir = self.dir(&known).await?;
        let len = dir.entries.len() as u64;
        let first = match after {
            Cookie::START => 0,
            Cookie(after) => {
                (after.checked_sub(FIRST_COOKIE).filter(|index| *index < len))
                    .ok_or_else(|| Error::new(ErrorKind::BadCookie, "flist.readdir"))?
                    + 1
            }
        };
        let mut entries = Vec::new();
        let found = (first..len).zip(dir.entries.iter().skip(usize::try_from(first).unwrap_or(usize::MAX)));
        for (index, entry) in found.take(count) {
            let cookie = Cookie(FIRST_COOKIE + index);
            let (ino, attr) = match listing {
                Listing::Names => (lock(&self.nodes).number(&known.open, entry.inode.id)?, None),
                Listing::Attrs => {
                    let attr = self.adopt(&known.open, &entry.inode)?;
                    (attr.ino, Some(attr))
                }
            };
            entries.push(DirEntry { name: entry.name.clone(), ino, cookie, attr });
        }
        let eof = first + entries.len() as u64 == len;
        Ok(DirPage { entries, eof })
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        if ino == ROOT || is_repository(ino) {
            return Err(Error::new(ErrorKind::IsDir, "flist.read"));
        }
        self.files.read(&self.known(ino)?, offset, len).await
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        let known = if ino == ROOT || is_repository(ino) { None } else { Some(self.known(ino)?) };
        match known {
            Some(known) if known.inode.kind == FileKind::Symlink => Ok(known.inode.target.clone()),
            _ => Err(Error::new(ErrorKind::InvalidArgument, "flist.readlink").because("not a symlink")),
        }
    }

    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        if ino != ROOT && !is_repository(ino) {
            self.known(ino)?;
        }
        // Nobody can write, and nobody has counted.
        Ok(FsStat { bytes_total: 0, bytes_free: 0, inodes_total: 0, inodes_free: 0 })
    }

    fn handle(&self, ino: Ino) -> Result<Handle> {
        if ino == ROOT {
            return Ok(handle::root());
        }
        if is_repository(ino) {
            return Ok(handle::of_repository(nodes::digest_of_number(ino)));
        }
        let known = self.known(ino)?;
        let place = &known.open.place;
        let (id, node) = (known.open.flist.id(), known.inode.id);
        Ok(handle::encode(NodeName { repository: place.within, place: place.digest, id, node }))
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let NodeName { repository, place, id, node } = match handle::decode(handle)? {
            Named::Top => return self.root_attr().await,
            Named::Repository(digest) => {
                return self.getattr(nodes::repository_number(digest)).await;
            }
            Named::Node(node) => node,
        };
        // One that is held may have been replaced since.
        let held = lock(&self.nodes).open_of(place, id, node);
        let open = if let Some(open) = held {
            open
        } else {
            let (places, is_one) = (self.places.clone(), self.repositories.is_none());
            let names = blocking(move || match repository {
                None if is_one => places.of_digest(place),
                Some(beginning) if !is_one => places.of_digest_within(beginning, place),
                _ => Ok(Vec::new()),
            });
            self.of_id(&names.await?, id).await?
        };
        self.adopt_node(&open, node).await
    }

    fn retain(&self, ino: Ino) {
        if ino != ROOT {
            lock(&self.nodes).retain(ino);
        }
    }

    fn release(&self, ino: Ino, count: u64) {
        if ino != ROOT {
            lock(&self.nodes).release(ino, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{ChunksOptions, tests::made::World};

    /// A program that is interrupted while it waits for a slow flist, again and again, would fill all threads with it.
    #[tokio::test]
    async fn who_gives_up_leaves_the_turn_to_what_was_begun() {
        let world = World::new();
        world.fl("a.fl", &[], |_| {});
        let chunks = Arc::new(Chunks::open(ChunksOptions::default()).await.expect("opens"));
        let vfs = FlistVfs::new(world.path("flists"), world.path("scratch"), chunks, (7, 8));
        let open = vfs.flist(&vfs.places, &Name::new(b"a").expect("a name")).await.expect("opens");
        let ((begun, is_begun), (end, is_ended)) = (mpsc::channel(), mpsc::channel::<()>());
        let there = open.clone();
        let first = tokio::spawn(async move {
            let slow = there.query(move |_| {
                begun.send(()).expect("somebody waits");
                Ok(is_ended.recv().is_ok())
            });
            slow.await
        });
        let begun = tokio::task::spawn_blocking(move || is_begun.recv()).await;
        begun.expect("no panic").expect("begun");
        first.abort();
        first.await.expect_err("given up");
        assert!(open.turn.try_lock().is_err(), "it is still under way");
        end.send(()).expect("it waits");
        assert_eq!(open.query(Flist::root).await.expect("the next").kind, FileKind::Dir);
    }
}
