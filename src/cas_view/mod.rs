//! The inodes of a content-addressed mount: a read-only [`Vfs`] that walks any `/<cid>/…` and lists the pins.
//!
//! Sits between the union of mounts and a [`Dag`], beside [`Cas`](crate::cas::Cas), which answers the QFS calls. Content
//! has no inode numbers, so they are derived: from the number of the directory above and the name. A `find` over a
//! million files thus writes nothing, the same file has the same number after a restart, and the same content under two
//! names has two, as a client expects of two files. `nodes` keeps what clients hold and forgets the rest; a handle
//! carries the CID, so what was forgotten is found again. Spec: spec/qfs.md, "Inodes".

mod handle;
mod nodes;

use std::{
    fmt,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use self::{
    handle::Named,
    nodes::{Nodes, Origin},
};
use crate::{
    BlockStore, Cid, Error, ErrorKind, FileKind, Name, Result,
    cas::default_mode,
    dag::{Dag, Node},
    pins::Pins,
    rank::Rank,
    vfs::{Attr, Cookie, DirEntry, DirPage, FsStat, Fsid, Handle, Ino, Listing, READ_LEN_MAX, Rdev, ReadAhead, Vfs},
};

/// The root's number. Derived numbers have bit 55 set, so it is none of them.
const ROOT: Ino = Ino(NonZeroU64::MIN);
/// How many entries' attributes are looked up at a time: enough to hide a disk's latency.
const STAT_COUNT: usize = 16;
/// The most entries of one page, whatever was asked for: bounds what a page takes in memory.
const PAGE_COUNT_MAX: usize = 4096;
/// How far ahead of who reads a file in order is fetched where its blocks are far away, in bytes, into the memory that the
/// [`Dag`] keeps verified blocks in.
const AHEAD_LEN: u64 = 8 << 20;
/// A client has several reads under way, in any order: so far from where it was expected one is still in order.
const ORDER_SLACK: u64 = 4 << 20;

/// What content does not say of itself, and who else has some.
#[derive(Debug, Clone, Default)]
pub struct CasViewOptions {
    /// The owner of every node.
    pub uid: u32,
    /// The group of every node.
    pub gid: u32,
    /// The space of where the blocks lie.
    pub space: Space,
    /// Where a block is looked for that the store has not: see [`Dag::with_elsewhere`]. Nowhere where `None`.
    pub elsewhere: Option<Arc<dyn BlockStore>>,
}

impl CasViewOptions {
    /// What content is read with, over a store: the `Dag` of that store, which also looks elsewhere if there is such a
    /// place.
    pub(crate) fn reading(&mut self, dag: Dag) -> Dag {
        match self.elsewhere.take() {
            Some(elsewhere) => dag.with_elsewhere(elsewhere),
            None => dag,
        }
    }
}

/// Tells how much space a store of blocks has: that of its disk, or of its limit. By default nothing is known, and
/// everything is 0.
#[derive(Clone)]
pub struct Space(Arc<dyn Fn() -> Result<FsStat> + Send + Sync>);

impl Space {
    /// Asks `tell` whenever somebody wants to know. It should not wait for long: it is called where it is asked for.
    ///
    /// ```
    /// # use muxfs::{cas_view::{CasViewOptions, Space}, vfs::FsStat};
    /// let space = Space::new(|| Ok(FsStat { bytes_total: 1 << 30, bytes_free: 1 << 20, inodes_total: 0, inodes_free: 0 }));
    /// let options = CasViewOptions { space, ..CasViewOptions::default() };
    /// ```
    pub fn new(tell: impl Fn() -> Result<FsStat> + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl Default for Space {
    fn default() -> Self {
        Self::new(|| Ok(FsStat { bytes_total: 0, bytes_free: 0, inodes_total: 0, inodes_free: 0 }))
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Space")
    }
}

/// A read-only [`Vfs`] of content: its root lists the pins, and any CID in the store resolves there.
///
/// Directories and files are those of `UnixFS`; a dag-cbor or dag-json node is a file of its block's bytes.
#[derive(Debug)]
pub struct CasView {
    dag: Dag,
    pins: Arc<Pins>,
    options: CasViewOptions,
    nodes: Mutex<Nodes>,
    ahead: ReadAhead<Cid>,
}

impl CasView {
    /// Shows the content of `dag`, and `pins` as its root.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Name, Prefix, Source, Store, block, dag::{Dag, DagOptions}, media::MemMedia, pins::Pins};
    /// # use muxfs::{cas::Cas, cas_view::{CasView, CasViewOptions}, vfs::Vfs};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?);
    /// let path = Cas::new(Prefix::new("mem")?, dag.clone(), pins.clone()).put(&"/mem".parse()?, b"hi"[..].into()).await?;
    /// let view = CasView::new(dag, pins, CasViewOptions::default());
    /// let file = view.lookup(view.root(), &path.parts[0]).await?;
    /// assert_eq!(view.read(file.ino, 0, 100).await?, "hi");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(dag: Dag, pins: Arc<Pins>, mut options: CasViewOptions) -> Self {
        let dag = options.reading(dag);
        Self { dag, pins, options, nodes: Mutex::default(), ahead: ReadAhead::new(AHEAD_LEN, ORDER_SLACK) }
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attr(&self, ino: Ino, cid: Option<Cid>, node: &Node) -> Attr {
        let time = node.mtime.unwrap_or(SystemTime::UNIX_EPOCH);
        let size = if node.kind == FileKind::Dir { 0 } else { node.size };
        Attr {
            ino,
            fsid: Fsid::default(),
            kind: node.kind,
            mode: node.mode.map_or(default_mode(node.kind), |mode| mode & 0o7777),
            uid: self.options.uid,
            gid: self.options.gid,
            nlink: if node.kind == FileKind::Dir { 2 } else { 1 },
            rdev: Rdev::default(),
            size,
            used: size,
            atime: time,
            mtime: time,
            ctime: time,
            change: 0,
            cid,
        }
    }

    /// The root. Its times move with the pins, a second for each change: a client that compares them sees that there is
    /// something new, and this crate has no clock to ask.
    fn root_attr(&self) -> Attr {
        let generation = self.pins.generation();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(generation.min(u64::from(u32::MAX)));
        let node = Node { kind: FileKind::Dir, size: 0, mode: None, mtime: Some(time) };
        Attr { change: generation, ..self.attr(ROOT, None, &node) }
    }

    /// The CID of a leased node; `None` for the root.
    fn cid(&self, ino: Ino) -> Result<Option<Cid>> {
        if ino == ROOT { Ok(None) } else { self.nodes().cid(ino).map(Some) }
    }

    /// What is known of a node, looked up where it is not.
    async fn node(&self, ino: Ino) -> Result<(Cid, Node)> {
        let (cid, known) = {
            let nodes = self.nodes();
            (nodes.cid(ino)?, nodes.node(ino))
        };
        if let Some(node) = known {
            return Ok((cid, node));
        }
        let node = self.dag.stat(&cid).await?;
        self.nodes().learn(ino, &node);
        Ok((cid, node))
    }

    /// The entries of a directory behind a place, with the CID of each, and whether they are the last.
    async fn page(&self, dir: Option<Cid>, after: Option<Rank>, count: usize) -> Result<(Vec<Found>, bool)> {
        let Some(dir) = dir else {
            let mut pins = self.pins.page(after, count + 1);
            let eof = pins.len() <= count;
            pins.truncate(count);
            let found = pins.into_iter().map(|(rank, cid)| {
                let name = Name::new(cid.to_string().as_bytes())?;
                Ok(Found { rank, name, cid, origin: cid.to_bytes().into() })
            });
            return Ok((found.collect::<Result<_>>()?, eof));
        };
        let mut entries = self.dag.list(&dir, after.map_or(0, Rank::hash_min));
        let mut found: Vec<Found> = Vec::new();
        let mut last: Option<Rank> = None;
        while let Some(entry) = entries.try_next().await? {
            let first = Rank::of(entry.name.as_bytes());
            let rank = match last {
                Some(last) if last.hash_min() == first.hash_min() => last.next().ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "cas_view.readdir")
                        .because("more than 65536 names of one hash: made to be listed for ever")
                })?,
                _ => first,
            };
            last = Some(rank);
            if after.is_some_and(|after| rank <= after) {
                continue;
            }
            if found.len() == count {
                return Ok((found, false));
            }
            let origin = entry.name.as_bytes().into();
            found.push(Found { rank, name: entry.name, cid: entry.link.cid, origin });
        }
        Ok((found, true))
    }

    /// Leases a node, with what is known of it.
    fn adopt(&self, origin: Origin<'_>, cid: Cid, node: Option<&Node>) -> Result<Ino> {
        let mut nodes = self.nodes();
        let ino = nodes.adopt(origin, cid)?;
        if let Some(node) = node {
            nodes.learn(ino, node);
        }
        Ok(ino)
    }
}

/// An entry of a directory, before it has an inode.
struct Found {
    rank: Rank,
    name: Name,
    cid: Cid,
    /// What its number is derived from.
    origin: Box<[u8]>,
}

/// The CID that a name in the root is.
fn named(name: &Name) -> Option<Cid> {
    Cid::parse_in_path(name.as_str()?).ok()
}

/// The error of a node that cannot be shown: whatever is wrong with it, no such name is there.
fn absent(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported | ErrorKind::InvalidArgument => {
            Error::new(ErrorKind::NotFound, "cas_view.lookup").because(error)
        }
        _ => error,
    }
}

#[async_trait]
impl Vfs for CasView {
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        let not_found = || Error::new(ErrorKind::NotFound, "cas_view.lookup").at(name);
        let (cid, origin): (Cid, Box<[u8]>) = if dir == ROOT {
            // The number goes by the CID: its spelling in another base is the same node.
            let cid = named(name).ok_or_else(not_found)?;
            (cid, cid.to_bytes().into())
        } else {
            let (dir, node) = self.node(dir).await?;
            if node.kind != FileKind::Dir {
                return Err(Error::new(ErrorKind::NotDir, "cas_view.lookup"));
            }
            let entry = self.dag.lookup(&dir, name).await?.ok_or_else(not_found)?;
            (entry.link.cid, name.as_bytes().into())
        };
        let node = self.dag.stat(&cid).await.map_err(|error| absent(error).at(cid))?;
        let ino = self.adopt(Origin { dir, name: &origin }, cid, Some(&node))?;
        Ok(self.attr(ino, Some(cid), &node))
    }

    fn expect(&self, dir: Ino, names: &[Name]) {
        let at = match (self.cid(dir), names.split_first()) {
            (Ok(None), Some((first, below))) => named(first).map(|cid| (cid, below)),
            (Ok(cid), _) => cid.map(|cid| (cid, names)),
            (Err(_), _) => None,
        };
        if let Some((cid, below)) = at {
            self.dag.expect_path(&cid, below);
        }
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        if dir == ROOT {
            return Ok(self.root_attr());
        }
        // Also of a file: whoever shows a part of the tree asks whether a file is in it.
        let Some(above) = self.nodes().lease_parent(dir)? else { return Ok(self.root_attr()) };
        let (cid, node) = match self.node(above).await {
            Ok(found) => found,
            Err(error) => {
                self.release(above, 1);
                return Err(error);
            }
        };
        Ok(self.attr(above, Some(cid), &node))
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        if ino == ROOT {
            return Ok(self.root_attr());
        }
        let (cid, node) = self.node(ino).await?;
        Ok(self.attr(ino, Some(cid), &node))
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let cid = match self.cid(dir)? {
            None => None,
            Some(cid) if self.node(dir).await?.1.kind == FileKind::Dir => Some(cid),
            Some(_) => return Err(Error::new(ErrorKind::NotDir, "cas_view.readdir")),
        };
        let after = match after {
            Cookie::START => None,
            after => {
                Some(Rank::from_cookie(after).ok_or_else(|| Error::new(ErrorKind::BadCookie, "cas_view.readdir"))?)
            }
        };
        let (found, eof) = self.page(cid, after, count.clamp(1, PAGE_COUNT_MAX)).await?;
        // One that is absent or bad must not hide the others: it has a name, and `lookup` says what is wrong with it.
        let stats: Vec<Option<Node>> = match listing {
            Listing::Names => Vec::new(),
            Listing::Attrs => {
                let cids: Vec<Cid> = found.iter().map(|entry| entry.cid).collect();
                // Where others are asked who do not answer, a page does not wait for each entry anew.
                let is_out = &AtomicBool::new(false);
                let stats = stream::iter(cids).map(|cid| async move {
                    if is_out.load(Ordering::Relaxed) {
                        return None;
                    }
                    let stat = self.dag.stat(&cid).await;
                    if stat.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable) {
                        is_out.store(true, Ordering::Relaxed);
                    }
                    stat.ok()
                });
                stats.buffered(STAT_COUNT).collect().await
            }
        };
        // From here nothing is awaited: all are leased, or none.
        let mut entries = Vec::with_capacity(found.len());
        for (index, Found { rank, name, cid, origin }) in found.into_iter().enumerate() {
            let origin = Origin { dir, name: &origin };
            let node = stats.get(index).and_then(Option::as_ref);
            // Who is given no attributes has no lease to give back.
            let ino = match node {
                None => self.nodes().number(origin, &cid)?,
                Some(_) => self.adopt(origin, cid, node)?,
            };
            let attr = node.map(|node| self.attr(ino, Some(cid), node));
            entries.push(DirEntry { name, ino, cookie: rank.cookie(), attr });
        }
        Ok(DirPage { entries, eof })
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        if ino == ROOT {
            return Err(Error::new(ErrorKind::IsDir, "cas_view.read"));
        }
        let (cid, node) = self.node(ino).await?;
        match node.kind {
            FileKind::Dir => Err(Error::new(ErrorKind::IsDir, "cas_view.read").at(cid)),
            FileKind::Symlink => {
                Err(Error::new(ErrorKind::InvalidArgument, "cas_view.read").at(cid).because("a symlink has no bytes"))
            }
            _ => {
                let len = len.min(READ_LEN_MAX);
                if self.dag.looks_elsewhere() {
                    let read = offset..offset.saturating_add(len.into());
                    self.ahead.note(cid, &read, node.size, |range| {
                        let mut pieces = self.dag.range_reader(&cid, range);
                        async move { while pieces.next().await.is_some_and(|piece| piece.is_ok()) {} }
                    });
                }
                self.dag.read_at(&cid, offset, len).await
            }
        }
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        let not_a_link = || Error::new(ErrorKind::InvalidArgument, "cas_view.readlink").because("not a symlink");
        if ino == ROOT {
            return Err(not_a_link());
        }
        let (cid, node) = self.node(ino).await?;
        if node.kind != FileKind::Symlink {
            return Err(not_a_link());
        }
        self.dag.read_symlink(&cid).await
    }

    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        self.cid(ino)?;
        (self.options.space.0)()
    }

    fn handle(&self, ino: Ino) -> Result<Handle> {
        if ino == ROOT {
            return Ok(handle::root());
        }
        let mut nodes = self.nodes();
        let cid = nodes.cid(ino)?;
        if handle::is_long(&cid) {
            nodes.remember_long(&cid);
        }
        Ok(handle::encode(&cid, ino))
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let stale = || Error::new(ErrorKind::Stale, "cas_view.resolve");
        let Some((named, ino)) = handle::decode(handle)? else { return Ok(self.root_attr()) };
        let cid = match named {
            Named::Cid(cid) => cid,
            Named::Long(digest) => self.nodes().long(&digest).ok_or_else(stale)?,
        };
        let node = self.dag.stat(&cid).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::InvalidArgument => stale().because(error),
            _ => error,
        })?;
        let mut nodes = self.nodes();
        nodes.adopt_handle(ino, cid)?;
        nodes.learn(ino, &node);
        drop(nodes);
        Ok(self.attr(ino, Some(cid), &node))
    }

    fn retain(&self, ino: Ino) {
        if ino != ROOT {
            self.nodes().retain(ino);
        }
    }

    fn release(&self, ino: Ino, count: u64) {
        if ino != ROOT {
            self.nodes().release(ino, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        Codec,
        block::Mem,
        cid_of,
        dag::{DagOptions, Entry, Ipld, Link, Params, Profile, UnixfsMeta},
        media::MemMedia,
        testing::{self, vfs::SpecimenNode},
        vfs::{Lease, NewNode, SetAttr, narrow::subtree},
    };

    /// The specimen as content: a view of its root.
    async fn specimen_of(hamt_threshold: u32, is_elsewhere: bool) -> (Arc<dyn Vfs>, ()) {
        let world = world(hamt_threshold).await;
        let mut above: BTreeMap<String, Vec<(String, Link)>> = BTreeMap::new();
        // Backwards, so that what is below a directory is there before it.
        for (path, node) in testing::vfs::specimen().into_iter().rev() {
            let (dir, text) = path.rsplit_once('/').unwrap_or(("", &path));
            let link = match node {
                SpecimenNode::File(data) => world.dag.import(&data[..], UnixfsMeta::default()).await.expect("a file"),
                SpecimenNode::Symlink(target) => {
                    world.dag.put_symlink(&target, UnixfsMeta::default()).await.expect("a symlink")
                }
                SpecimenNode::Dir => world.dir_of(&above.remove(&path).unwrap_or_default()).await,
            };
            above.entry(dir.to_owned()).or_default().push((text.to_owned(), link));
        }
        let root = world.dir_of(&above.remove("").expect("the root")).await;
        assert!(above.is_empty(), "everything has its place");
        let view = if is_elsewhere { world.seen_from_elsewhere() } else { world.view };
        let view: Arc<dyn Vfs> = Arc::new(view);
        let root = view.lookup(view.root(), &name(&root.cid.to_string())).await.expect("the root");
        let lease = Lease::adopt(view.clone(), root.ino);
        (subtree(view, lease), ())
    }

    crate::vfs_read_laws!(laws_of_basic_directories, specimen_of(1 << 20, false));
    crate::vfs_read_laws!(laws_of_sharded_directories, specimen_of(0, false));
    crate::vfs_read_laws!(laws_of_content_from_elsewhere, specimen_of(1 << 20, true));

    struct World {
        blocks: Arc<Mem>,
        dag: Dag,
        pins: Arc<Pins>,
        view: CasView,
    }

    async fn world(hamt_threshold: u32) -> World {
        let params = Params { hamt_threshold, ..Profile::default().params() };
        let blocks = Arc::new(Mem::default());
        // No cache: what a store loses is lost at once.
        let dag = Dag::new(blocks.clone(), DagOptions { params, verified_len_max: 0 });
        let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &crate::testing::env()).await.expect("opens"));
        let view =
            CasView::new(dag.clone(), pins.clone(), CasViewOptions { uid: 7, gid: 8, ..CasViewOptions::default() });
        World { blocks, dag, pins, view }
    }

    impl World {
        /// A view over a store that has nothing, which looks in this world's.
        fn seen_from_elsewhere(&self) -> CasView {
            let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
            let elsewhere: Option<Arc<dyn BlockStore>> = Some(self.blocks.clone());
            CasView::new(dag, self.pins.clone(), CasViewOptions { elsewhere, ..CasViewOptions::default() })
        }
    }

    /// Clients take a file system without a byte for a full or a broken one: what the store has is told.
    #[tokio::test]
    async fn the_space_is_that_of_the_store() {
        let World { dag, pins, blocks, view } = world(0).await;
        assert_eq!(view.statfs(ROOT).await.expect("statfs").bytes_total, 0, "nobody said");
        let space = Space::new(move || {
            let (bytes_total, used) = (1 << 20, blocks.used_len() as u64);
            Ok(FsStat { bytes_total, bytes_free: bytes_total - used, inodes_total: 0, inodes_free: 0 })
        });
        let view = CasView::new(dag.clone(), pins, CasViewOptions { space, ..CasViewOptions::default() });
        let before = view.statfs(ROOT).await.expect("statfs");
        dag.import(&b"more"[..], UnixfsMeta::default()).await.expect("a file");
        let after = view.statfs(ROOT).await.expect("statfs");
        assert_eq!(before.bytes_total, 1 << 20);
        assert!(after.bytes_free < before.bytes_free, "it is asked each time");
    }

    impl World {
        /// The same store, as a server that was restarted meets it.
        fn restarted(&self) -> CasView {
            CasView::new(
                self.dag.clone(),
                self.pins.clone(),
                CasViewOptions { uid: 7, gid: 8, ..CasViewOptions::default() },
            )
        }

        async fn file(&self, text: &str) -> Link {
            self.dag.import(text.as_bytes(), UnixfsMeta::default()).await.expect("a file")
        }

        async fn dir(&self, entries: &[(&str, Link)]) -> Link {
            let entry = |(text, link): &(&str, Link)| Ok(Entry { name: name(text), link: *link });
            let entries: Vec<Result<Entry>> = entries.iter().map(entry).collect();
            self.dag.put_dir(Box::pin(stream::iter(entries))).await.expect("a directory")
        }

        async fn dir_of(&self, entries: &[(String, Link)]) -> Link {
            let entries: Vec<_> = entries.iter().map(|(text, link)| (text.as_str(), *link)).collect();
            self.dir(&entries).await
        }

        async fn pin(&self, text: &str) -> Cid {
            let cid = self.file(text).await.cid;
            self.pins.add(&cid).await.expect("pins");
            cid
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    async fn walk(view: &CasView, path: &str) -> Result<Attr> {
        let mut at = view.getattr(view.root()).await?;
        for part in path.split('/') {
            at = view.lookup(at.ino, &name(part)).await?;
        }
        Ok(at)
    }

    /// All names of a directory, in pages of `count`, with what `between` does after each page.
    async fn list(view: &CasView, dir: Ino, count: usize, mut between: impl AsyncFnMut(usize)) -> Vec<Name> {
        let (mut names, mut after) = (Vec::new(), Cookie::START);
        for number in 0.. {
            let page = view.readdir(dir, after, count, Listing::Names).await.expect("lists");
            assert!(page.entries.len() <= count && (page.eof || !page.entries.is_empty()));
            names.extend(page.entries.iter().map(|entry| entry.name.clone()));
            let Some(last) = page.entries.last().filter(|_| !page.eof) else { break };
            assert!(after < last.cookie && last.cookie.0 < 1 << 63 && last.cookie > Cookie::DOT_DOT);
            after = last.cookie;
            between(number).await;
        }
        names
    }

    #[tokio::test]
    async fn any_cid_in_the_store_resolves_and_its_tree_is_walked() {
        let world = world(1 << 20).await;
        let hello = world.file("hello").await;
        let link = world.dag.put_symlink(b"../elsewhere", UnixfsMeta::default()).await.expect("a symlink");
        let inner = world.dir(&[("hello", hello), ("link", link)]).await;
        let root = world.dir(&[("inner", inner)]).await;
        let view = &world.view;

        let file = walk(view, &format!("{}/inner/hello", root.cid)).await.expect("walks");
        assert_eq!((file.kind, file.size, file.mode, file.nlink), (FileKind::File, 5, 0o644, 1));
        assert_eq!((file.uid, file.gid, file.mtime, file.cid), (7, 8, SystemTime::UNIX_EPOCH, Some(hello.cid)));
        assert_eq!(view.read(file.ino, 1, 3).await.expect("reads"), "ell");
        assert_eq!(view.read(file.ino, 5, 3).await.expect("reads"), "");
        let link = walk(view, &format!("{}/inner/link", root.cid)).await.expect("walks");
        assert_eq!((link.kind, link.mode, link.size), (FileKind::Symlink, 0o777, 12));
        assert_eq!(view.readlink(link.ino).await.expect("a target"), "../elsewhere");
        let dir = walk(view, &format!("{}/inner", root.cid)).await.expect("walks");
        assert_eq!((dir.kind, dir.mode, dir.size), (FileKind::Dir, 0o755, 0));
        assert_eq!(view.parent(dir.ino).await.expect("above").cid, Some(root.cid));
        let above = view.parent(view.parent(dir.ino).await.expect("above").ino).await.expect("above");
        assert_eq!((above.ino, view.parent(ROOT).await.expect("itself").ino), (ROOT, ROOT));

        let kind = |result: Result<Bytes>| result.expect_err("refused").kind();
        assert_eq!(kind(view.read(dir.ino, 0, 1).await), ErrorKind::IsDir);
        assert_eq!(kind(view.read(ROOT, 0, 1).await), ErrorKind::IsDir);
        assert_eq!(kind(view.read(link.ino, 0, 1).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(view.readlink(file.ino).await), ErrorKind::InvalidArgument);
        for path in [format!("{}/inner/nope", root.cid), "name".to_owned(), cid_of(Codec::Raw, b"absent").to_string()] {
            assert_eq!(walk(view, &path).await.expect_err(&path).kind(), ErrorKind::NotFound, "{path}");
        }
        assert_eq!(view.lookup(file.ino, &name("x")).await.expect_err("a file").kind(), ErrorKind::NotDir);
        let listing = view.readdir(file.ino, Cookie::START, 1, Listing::Names).await;
        assert_eq!(listing.expect_err("a file").kind(), ErrorKind::NotDir);
        let made = view.create(dir.ino, &name("x"), NewNode::File, SetAttr::default()).await;
        assert_eq!(made.expect_err("content does not change").kind(), ErrorKind::ReadOnly);
    }

    /// Numbers and handles are the same each time and after a restart, and one node has one number in every spelling.
    #[tokio::test]
    async fn numbers_and_handles_survive_a_restart() {
        let world = world(1 << 20).await;
        let same = world.file("same").await;
        let root = world.dir(&[("a", same), ("b", same)]).await;
        let [a, b] = ["a", "b"].map(|name| format!("{}/{name}", root.cid));
        let (first, second) = (walk(&world.view, &a).await.expect("a"), walk(&world.view, &b).await.expect("b"));
        assert_ne!(first.ino, second.ino, "two names are two files");
        assert_eq!(first.cid, second.cid);
        let handle = world.view.handle(first.ino).expect("a handle");
        assert!(handle.0.len() <= 48);

        let again = world.restarted();
        assert_eq!(again.getattr(first.ino).await.expect_err("never met").kind(), ErrorKind::Stale);
        let resolved = again.resolve(&handle).await.expect("resolves");
        assert_eq!((resolved.ino, resolved.size, again.handle(first.ino).expect("a handle")), (first.ino, 4, handle));
        assert_eq!(walk(&again, &a).await.expect("a").ino, first.ino);
        let root_handle = again.handle(ROOT).expect("a handle");
        assert_eq!(again.resolve(&root_handle).await.expect("the root").ino, ROOT);

        let dir = walk(&world.view, &root.cid.to_string()).await.expect("the directory");
        let upper = root.cid.to_string().to_uppercase();
        assert_eq!(walk(&world.view, &upper).await.expect("base32 in upper case").ino, dir.ino);
        let handle = world.view.handle(dir.ino).expect("a handle");
        let fresh = world.restarted();
        let by_handle = fresh.resolve(&handle).await.expect("resolves");
        assert_eq!(fresh.parent(by_handle.ino).await.expect_err("not known").kind(), ErrorKind::Stale);
        assert_eq!(fresh.lookup(by_handle.ino, &name("a")).await.expect("its entries are").ino, first.ino);
        assert_eq!(walk(&fresh, &root.cid.to_string()).await.expect("by name").ino, by_handle.ino);
        assert_eq!(fresh.parent(by_handle.ino).await.expect("known now").ino, ROOT);
    }

    /// A CID that does not fit in a handle is remembered, and stale after a restart.
    #[tokio::test]
    async fn long_cids_are_remembered_while_the_server_runs() {
        let world = world(1 << 20).await;
        let attr = walk(&world.view, "bafkqabtimvwgy3yk").await.expect("an identity CID");
        assert_eq!(world.view.read(attr.ino, 0, 9).await.expect("reads"), "hello\n");
        let handle = world.view.handle(attr.ino).expect("a handle");
        world.view.release(attr.ino, 1);
        assert_eq!(world.view.resolve(&handle).await.expect("remembered").ino, attr.ino);
        assert_eq!(world.restarted().resolve(&handle).await.expect_err("forgotten").kind(), ErrorKind::Stale);
    }

    /// A handle of content that is gone is stale, one for other content too, and junk is no handle.
    #[tokio::test]
    async fn handles_that_lead_nowhere() {
        let world = world(1 << 20).await;
        let file = world.file("gone").await;
        let attr = walk(&world.view, &file.cid.to_string()).await.expect("walks");
        let handle = world.view.handle(attr.ino).expect("a handle");
        world.blocks.delete(&(&file.cid).into()).await.expect("deletes");
        assert_eq!(world.view.resolve(&handle).await.expect_err("gone").kind(), ErrorKind::Stale);
        let other = world.file("other").await;
        let forged = handle::encode(&other.cid, attr.ino);
        assert_eq!(world.view.resolve(&forged).await.expect_err("another's number").kind(), ErrorKind::Stale);
        for junk in [&b""[..], b"\x00\x00", &[9; 41], &[1; 40], &[0xff; 41]] {
            let error = world.view.resolve(&Handle(Bytes::copy_from_slice(junk))).await.expect_err("junk");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }

    /// Directories, basic and sharded, are listed whole in pages of any size, each entry once, attributes and all.
    #[tokio::test]
    async fn directories_are_listed_whole() {
        for hamt_threshold in [0, 1 << 20] {
            let world = world(hamt_threshold).await;
            let file = world.file("x").await;
            let names: Vec<String> = (0..300).map(|i| format!("file {i}")).collect();
            let entries: Vec<_> = names.iter().map(|name| (name.as_str(), file)).collect();
            let root = world.dir(&entries).await;
            let dir = walk(&world.view, &root.cid.to_string()).await.expect("walks").ino;
            let expected: BTreeSet<Name> = names.iter().map(|text| name(text)).collect();
            let mut orders = Vec::new();
            for count in [1, 7, 300, usize::MAX] {
                let listed = list(&world.view, dir, count, async |_| ()).await;
                assert_eq!(listed.len(), 300, "none twice");
                assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), expected);
                orders.push(listed);
            }
            assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "in one order");
            let page = world.view.readdir(dir, Cookie::START, 10, Listing::Attrs).await.expect("lists");
            for entry in page.entries {
                let found = world.view.lookup(dir, &entry.name).await.expect("found");
                assert_eq!((entry.ino, entry.attr.expect("attributes").size), (found.ino, 1));
            }
            for cookie in [1, 2, 3, 1 << 40, 1 << 63, u64::MAX] {
                let error = world.view.readdir(dir, Cookie(cookie), 1, Listing::Names).await.expect_err("never given");
                assert_eq!(error.kind(), ErrorKind::BadCookie);
            }
        }
    }

    /// The root lists every pin that stays exactly once, whatever is pinned and unpinned while it is read.
    #[tokio::test]
    async fn the_root_lists_the_pins_while_they_come_and_go() {
        let world = world(1 << 20).await;
        let mut stay = BTreeSet::new();
        let mut go = Vec::new();
        for i in 0..200 {
            let cid = world.pin(&format!("pin {i}")).await;
            if i % 2 == 0 {
                stay.insert(name(&cid.to_string()));
            } else {
                go.push(cid);
            }
        }
        let before = world.view.getattr(ROOT).await.expect("the root");
        let mut going = go.clone().into_iter();
        let listed = list(&world.view, ROOT, 7, async |page| {
            for cid in going.by_ref().take(5) {
                world.pins.remove(&cid).await.expect("unpins");
            }
            world.pin(&format!("new {page}")).await;
        })
        .await;
        let once: BTreeSet<Name> = listed.iter().cloned().collect();
        assert_eq!(once.len(), listed.len(), "none twice");
        assert!(stay.is_subset(&once), "none skipped");
        let after = world.view.getattr(ROOT).await.expect("the root");
        assert!(before.ctime < after.ctime && before.mtime < after.mtime && before.change < after.change);
        assert_eq!(after.cid, None);
        let page = world.view.readdir(ROOT, Cookie::START, 3, Listing::Attrs).await.expect("lists");
        for entry in page.entries {
            assert_eq!(world.view.lookup(ROOT, &entry.name).await.expect("a pin").ino, entry.ino);
        }
    }

    /// One entry that is absent, broken or of a foreign codec hides no other, and a lookup says what is wrong with it.
    /// Such entries were leased, though they have no attributes: callers give back what has some, so each listing of a
    /// directory with parts missing took memory for good.
    #[tokio::test]
    async fn a_bad_entry_hides_no_other() {
        let world = world(1 << 20).await;
        let git = Cid::from_bytes(&[&[1, 0x78, 0x12, 32][..], &[7; 32]].concat()).expect("a CID");
        let other_pb = world.dag.put_block(Codec::DagPb, Bytes::new()).await.expect("put");
        let gone = world.file("gone").await;
        let entries = [("good", world.file("good").await), ("gone", gone), ("git", Link { cid: git, tsize: 0 })];
        let root = world.dir(&[&entries[..], &[("pb", Link { cid: other_pb, tsize: 0 })]].concat()).await;
        world.blocks.delete(&(&gone.cid).into()).await.expect("deletes");
        let dir = walk(&world.view, &root.cid.to_string()).await.expect("walks").ino;
        let page = world.view.readdir(dir, Cookie::START, 10, Listing::Attrs).await.expect("lists");
        assert!(page.eof && page.entries.len() == 4);
        for entry in page.entries {
            assert_eq!(entry.attr.is_some(), entry.name == name("good"), "{:?}", entry.name);
            let kinds = [world.view.getattr(entry.ino).await, world.view.lookup(dir, &entry.name).await]
                .map(|result| result.map(|_| ()).map_err(|error| error.kind()));
            let expected = match entry.name.as_bytes() {
                b"good" => [Ok(()), Ok(())],
                b"pb" => [Err(ErrorKind::Stale), Err(ErrorKind::Corrupt)],
                _ => [Err(ErrorKind::Stale), Err(ErrorKind::NotFound)],
            };
            assert_eq!(kinds, expected, "{:?}", entry.name);
        }
    }

    /// Linked data is a file of its block.
    #[tokio::test]
    async fn linked_data_is_a_file() {
        let world = world(1 << 20).await;
        let file = world.file("x").await;
        let cid = world.dag.put_linked(&Ipld::List(vec![file.cid.into()])).await.expect("put");
        let attr = walk(&world.view, &cid.to_string()).await.expect("walks");
        assert_eq!(attr.kind, FileKind::File);
        let block = world.view.read(attr.ino, 0, 9999).await.expect("reads");
        assert_eq!((cid_of(Codec::DagCbor, &block), attr.size), (cid, block.len() as u64));
        assert_eq!(world.view.lookup(attr.ino, &name("0")).await.expect_err("a file").kind(), ErrorKind::NotDir);
    }

    /// What `UnixFS` says of a node is what its attributes say.
    #[tokio::test]
    async fn metadata_comes_through() {
        let world = world(1 << 20).await;
        let mtime = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        let meta = UnixfsMeta { mode: Some(0o4755), mtime: Some(mtime) };
        let link = world.dag.import(&b"x"[..], meta).await.expect("a file");
        let attr = walk(&world.view, &link.cid.to_string()).await.expect("walks");
        assert_eq!((attr.mode, attr.mtime, attr.ctime), (0o4755, mtime, mtime));
    }
}
