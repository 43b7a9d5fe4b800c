//! A frozen layer as blocks: contents, then directories from the bottom up, then the attribute tree.
//!
//! Only what changed is put, and what is above it. What is put already when something fails is put again, to no effect,
//! by the next attempt. Spec: spec/tree.md #committing.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Shared,
    attrs::{Change, Changes, InodeChange},
    commit::Pending,
    extent::{Extents, Piece},
    inode::NameEntry,
    layer::{Layer, Node},
    sight::{Halt, Sight, Try, pages_of},
    standing::Standing,
    state::{Base, ROOT, Reading},
};
use crate::{
    Cid, Codec, Error, ErrorKind, FileKind, Name, Result,
    dag::{Dag, DagLease, Link, Patch, UnixfsMeta},
    rank::Rank,
    vfs::{FILE_LEN_MAX, Ino},
};

/// So many files are written out at a time: enough to hide a disk's latency and to use all cores for hashing.
const FILE_COUNT: usize = 8;
/// One patch of a splice is at most so long: what writing a file out holds in memory.
const PATCH_LEN_MAX: u64 = 1 << 20;

/// A frozen layer and what is below it: it changes no more.
pub(super) struct Frozen<'a> {
    pub(super) shared: &'a Shared,
    pub(super) layer: Arc<Layer>,
    /// Committed nodes without a name.
    pub(super) below: Arc<Layer>,
    pub(super) base: Base,
    /// Nodes without a name that are leased.
    pub(super) orphans: Vec<Ino>,
    /// What those hold in the DAG, should they be let go meanwhile.
    pub(super) _leases: Vec<DagLease>,
}

/// New links of nodes.
pub(super) type Links = HashMap<Ino, Link>;

impl Frozen<'_> {
    /// Looks at the layer and what is below it, and loads what that needs.
    async fn look<T>(&self, mut look: impl FnMut(&mut Sight<'_>) -> Try<T>) -> Result<T> {
        let mut held = HashMap::new();
        loop {
            let missing = {
                let mut state = self.shared.lock();
                let mut reading = Reading { held: &held, cache: &mut state.cache };
                let layers = [None, Some(&*self.layer), None, Some(&*self.below)];
                match look(&mut Sight { layers, base: &self.base.attrs, nodes: &mut reading, seen: None }) {
                    Ok(value) => return Ok(value),
                    Err(Halt::Error(error)) => return Err(error),
                    Err(Halt::Missing(ids)) => ids,
                    Err(Halt::NoNumber | Halt::Undecided) => {
                        return Err(Error::new(ErrorKind::Internal, "tree.commit"));
                    }
                }
            };
            held.extend(self.shared.load(missing).await?);
        }
    }

    fn dag(&self) -> &Dag {
        &self.shared.dag
    }

    /// Puts the contents of all files and symlinks that changed.
    pub(super) async fn contents(&self) -> Result<Links> {
        let named = self.layer.nodes.iter().filter(|(_, node)| node.meta.nlink > 0);
        let mut named: Vec<Ino> = named.map(|(ino, _)| *ino).collect();
        // About as the journal has their bytes: each of its records is read whole, and few are kept.
        named.sort_unstable();
        let links: Vec<Option<(Ino, Link)>> =
            stream::iter(named).map(|ino| self.content(ino)).buffer_unordered(FILE_COUNT).try_collect().await?;
        Ok(links.into_iter().flatten().collect())
    }

    /// Puts the content of a file or symlink, where it changed.
    async fn content(&self, ino: Ino) -> Result<Option<(Ino, Link)>> {
        let Some(node) = self.layer.nodes.get(&ino) else { return Ok(None) };
        let base = self.look(|sight| sight.base(ino)).await?;
        let link = match node.meta.kind {
            FileKind::File => {
                let old = base.as_ref().and_then(|inode| inode.content.map(|link| (link, inode.meta.size)));
                if let Some((_, size)) = old
                    && node.extents.is_empty()
                    && size == node.meta.size
                {
                    return Ok(None);
                }
                self.put_file(ino, node.meta.size, &node.extents, old.map(|(link, _)| link)).await?
            }
            FileKind::Symlink if base.is_none() => {
                let target = self.look(|sight| sight.target(ino)).await?;
                let target = target.ok_or_else(|| Error::new(ErrorKind::Corrupt, "tree.commit").at(ino.0))?;
                self.dag().put_symlink(&target, UnixfsMeta::default()).await?
            }
            _ => return Ok(None),
        };
        Ok(Some((ino, link)))
    }

    /// Puts a file: `old` with what `extents` says is new, cut or grown to `size`.
    async fn put_file(&self, ino: Ino, size: u64, extents: &Extents, old: Option<Link>) -> Result<Link> {
        let dag = self.dag();
        let base = match old {
            Some(link) => link,
            None => dag.import(&b""[..], UnixfsMeta::default()).await?,
        };
        // Where the old file is not what is below (an orphan that was written before), all of it is said.
        let pieces = if old.is_some() {
            extents.iter().collect()
        } else {
            self.look(|sight| sight.pieces(ino, 0..size)).await?
        };
        let chunk_len = u64::from(dag.params().chunk_len);
        let raw_leaves = dag.params().raw_leaves;
        let cut = pieces.into_iter().filter(|(range, _)| range.start < size);
        let patches = cut.flat_map(move |(range, piece)| patches_of(range, piece, chunk_len, raw_leaves, size));
        let shared = self.shared;
        let patches = stream::iter(patches).then(move |patch| async move {
            match patch {
                Planned::Hole(range) => Ok(Patch::Hole(range)),
                // The beginning of a leaf that is longer than a chunk is no chunk: files from elsewhere have such.
                // Nor is one put that the store may have lost.
                Planned::Chunk(offset, cid)
                    if shared.kept_at(&cid).is_none() && dag.block_len(&cid).await? == Some(chunk_len) =>
                {
                    Ok(Patch::Chunk(offset, cid))
                }
                Planned::Chunk(offset, cid) => {
                    let range = offset..offset.saturating_add(chunk_len);
                    Ok(Patch::Bytes(
                        offset,
                        shared.read_piece(&Standing::default(), &range, Piece::Slice(cid, 0)).await?,
                    ))
                }
                Planned::Bytes(range, piece) => {
                    Ok(Patch::Bytes(range.start, shared.read_piece(&Standing::default(), &range, piece).await?))
                }
            }
        });
        dag.splice(&base.cid, patches.boxed(), size).await
    }

    /// The leased nodes without a name, with their bytes in the DAG: the journal that has them goes.
    pub(super) async fn orphans(&self) -> Result<Vec<(Ino, Node)>> {
        let mut kept = Vec::new();
        for ino in &self.orphans {
            let Some(node) = self.layer.nodes.get(ino) else { continue };
            let mut node = node.clone();
            node.target = self.look(|sight| sight.target(*ino)).await?;
            node.xattrs = self.look(|sight| sight.xattrs(*ino)).await?.into_iter().map(|(n, v)| (n, Some(v))).collect();
            if node.meta.kind == FileKind::File {
                let size = node.meta.size;
                let pieces = self.look(|sight| sight.pieces(*ino, 0..size)).await?;
                let link = self.put_file(*ino, size, &node.extents, None).await?;
                node.extents = Extents::default();
                for (range, piece) in pieces {
                    let from = range.start;
                    node.extents
                        .insert(range, if piece.is_data() { Piece::Slice(link.cid, from) } else { Piece::Hole });
                }
            }
            kept.push((*ino, node));
        }
        Ok(kept)
    }

    /// Puts every directory that changed, or that is above one that did; returns the root, and all links that changed.
    pub(super) async fn directories(&self, mut links: Links) -> Result<(Link, Links)> {
        let mut todo = Dirs::default();
        // New links of files belong in the directories they have names in.
        for ino in links.keys() {
            for (dir, name) in self.look(|sight| sight.parents(*ino)).await? {
                self.queue(&mut todo, dir).await?;
                todo.changed.entry(dir).or_default().insert((name, *ino));
            }
        }
        for dir in self.layer.names.keys() {
            self.queue(&mut todo, *dir).await?;
        }
        for (ino, node) in &self.layer.nodes {
            if node.meta.kind == FileKind::Dir {
                self.queue(&mut todo, *ino).await?;
            }
        }
        while let Some((_, dir)) = todo.queue.pop() {
            let changed = todo.changed.remove(&dir).unwrap_or_default();
            let Some(link) = self.directory(dir, changed, &links).await? else { continue };
            links.insert(dir, link);
            if dir != ROOT {
                for (above, name) in self.look(|sight| sight.parents(dir)).await? {
                    self.queue(&mut todo, above).await?;
                    todo.changed.entry(above).or_default().insert((name, dir));
                }
            }
        }
        let root = match links.get(&ROOT) {
            Some(link) => *link,
            None => self.link(ROOT, &links).await?.ok_or_else(|| Error::new(ErrorKind::Corrupt, "tree.commit"))?,
        };
        Ok((root, links))
    }

    /// Queues a directory, if it is still there: the deepest come first.
    async fn queue(&self, todo: &mut Dirs, dir: Ino) -> Result<()> {
        if todo.queued.contains(&dir) {
            return Ok(());
        }
        todo.queued.insert(dir);
        let is_there = self.look(|sight| sight.meta(dir)).await?.is_some_and(|meta| meta.nlink > 0);
        if is_there {
            let depth = self.depth(todo, dir).await?;
            todo.queue.push((depth, dir));
        }
        Ok(())
    }

    /// How far a directory is below the root.
    async fn depth(&self, todo: &mut Dirs, dir: Ino) -> Result<u64> {
        let mut way = Vec::new();
        let mut at = dir;
        let mut depth = loop {
            if at == ROOT {
                break 0;
            }
            if let Some(depth) = todo.depths.get(&at) {
                break *depth;
            }
            way.push(at);
            let parents = self.look(|sight| sight.parents(at)).await?;
            let circle = way.len() as u64 > self.base.attrs.inode_count() + self.layer.nodes.len() as u64;
            match parents.into_iter().next() {
                Some((above, _)) if !circle => at = above,
                _ => {
                    let why = "a directory that is not below the root";
                    return Err(Error::new(ErrorKind::Corrupt, "tree.commit").at(at.0).because(why));
                }
            }
        };
        for dir in way.into_iter().rev() {
            depth += 1;
            todo.depths.insert(dir, depth);
        }
        Ok(depth)
    }

    /// Puts a directory with what is new of it; `None` where it is as before.
    async fn directory(&self, dir: Ino, changed: BTreeSet<(Name, Ino)>, links: &Links) -> Result<Option<Link>> {
        let mut names: BTreeMap<Name, Option<Link>> = BTreeMap::new();
        let base = self.look(|sight| sight.base(dir)).await?;
        if let Some(overlay) = self.layer.names.get(&dir) {
            // First what went, so that a name that moved to another place stays.
            if let Some(base) = &base {
                for rank in overlay.keys() {
                    let old = self.look(|sight| Ok(base.entries(sight.nodes, *rank, 1)?)).await?;
                    if let Some(old) = old.into_iter().next().filter(|old| old.rank == *rank) {
                        names.insert(old.name, None);
                    }
                }
            }
            for (name, ino) in overlay.values().flatten() {
                names.insert(name.clone(), self.link(*ino, links).await?);
            }
        }
        for (name, ino) in changed {
            names.insert(name, self.link(ino, links).await?);
        }
        let old = base.and_then(|inode| inode.content);
        let from = match old {
            Some(link) if names.is_empty() => return Ok(Some(link).filter(|link| old != Some(*link))),
            Some(link) => link,
            None => self.dag().put_dir(stream::empty().boxed()).await?,
        };
        let link = if names.is_empty() { from } else { self.dag().patch_dir(&from.cid, &names).await? };
        Ok((old != Some(link)).then_some(link))
    }

    /// The link of a node; `None` for one that UnixFS does not know, such as a device.
    async fn link(&self, ino: Ino, links: &Links) -> Result<Option<Link>> {
        if let Some(link) = links.get(&ino) {
            return Ok(Some(*link));
        }
        Ok(self.look(|sight| sight.base(ino)).await?.and_then(|inode| inode.content))
    }

    /// What changes in the attribute tree.
    pub(super) async fn changes(&self, links: &Links, pending: &Pending) -> Result<Changes> {
        let mut inodes = BTreeMap::new();
        for (ino, node) in &self.layer.nodes {
            let base = self.look(|sight| sight.base(*ino)).await?;
            if node.meta.nlink == 0 {
                if base.is_some() {
                    inodes.insert(*ino, None);
                }
                continue;
            }
            let resized = base.as_ref().is_none_or(|inode| inode.meta.size != node.meta.size);
            let is_new = base.is_none();
            let data = if node.meta.kind == FileKind::File && (resized || !node.extents.is_empty()) {
                Change::Set(self.data(*ino, node.meta.size).await?)
            } else {
                Change::Keep
            };
            let parents = if is_new || !node.parents.is_empty() {
                Some(self.look(|sight| sight.parents(*ino)).await?.into_iter().collect())
            } else {
                None
            };
            let xattrs = if is_new || !node.xattrs.is_empty() {
                Some(self.look(|sight| sight.xattrs(*ino)).await?)
            } else {
                None
            };
            let change = InodeChange {
                meta: node.meta,
                content: self.link(*ino, links).await?,
                target: self.look(|sight| sight.target(*ino)).await?,
                parents,
                data,
                xattrs,
                names: self.names(*ino),
            };
            inodes.insert(*ino, Some(change));
        }
        // Directories that are only above a change.
        for (ino, link) in links.iter().filter(|(ino, _)| !self.layer.nodes.contains_key(ino)) {
            let inode = self.look(|sight| sight.base(*ino)).await?;
            let inode = inode.ok_or_else(|| Error::new(ErrorKind::Internal, "tree.commit").at(ino.0))?;
            let change = InodeChange {
                meta: inode.meta,
                content: Some(*link),
                target: None,
                parents: None,
                data: Change::Keep,
                xattrs: None,
                names: BTreeMap::new(),
            };
            inodes.insert(*ino, Some(change));
        }
        let Pending { next_ino, inode_count, used, .. } = *pending;
        Ok(Changes { inodes, next_ino, inode_count, used })
    }

    fn names(&self, dir: Ino) -> BTreeMap<Rank, Option<NameEntry>> {
        let entry = |(rank, entry): (&Rank, &Option<(Name, Ino)>)| {
            let entry = entry.clone().map(|(name, ino)| NameEntry { rank: *rank, name, ino });
            (*rank, entry)
        };
        self.layer.names.get(&dir).into_iter().flatten().map(entry).collect()
    }

    /// The pages of a file that are no holes, those that are reserved behind its end too; `None` where no page is one.
    async fn data(&self, ino: Ino, size: u64) -> Result<Option<Vec<Range<u64>>>> {
        let end = pages_of(&(0..size)).end;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (range, piece) in self.look(|sight| sight.pieces(ino, 0..FILE_LEN_MAX)).await? {
            if !piece.is_data() {
                continue;
            }
            let pages = pages_of(&range);
            match ranges.last_mut() {
                Some(last) if last.end >= pages.start => last.end = last.end.max(pages.end),
                _ => ranges.push(pages),
            }
        }
        let is_dense = matches!(ranges.as_slice(), [all] if *all == (0..end)) || size == 0 && ranges.is_empty();
        Ok((!is_dense).then_some(ranges))
    }
}

/// The directories that a commit has to put.
#[derive(Default)]
struct Dirs {
    /// The deepest first.
    queue: BinaryHeap<(u64, Ino)>,
    queued: HashSet<Ino>,
    depths: HashMap<Ino, u64>,
    /// Names whose nodes have new links.
    changed: HashMap<Ino, BTreeSet<(Name, Ino)>>,
}

/// A patch whose bytes are not read yet.
enum Planned {
    Hole(Range<u64>),
    Chunk(u64, Cid),
    Bytes(Range<u64>, Piece),
}

/// What a piece of a file is to a splice, in lengths that fit in memory.
fn patches_of(range: Range<u64>, piece: Piece, chunk_len: u64, raw_leaves: bool, size: u64) -> Vec<Planned> {
    let range = range.start..range.end.min(size);
    match piece {
        Piece::Hole | Piece::Reserved => vec![Planned::Hole(range)],
        Piece::Slice(cid, 0)
            if raw_leaves
                && cid.codec() == Some(Codec::Raw)
                && range.start.is_multiple_of(chunk_len)
                && range.end - range.start == chunk_len =>
        {
            vec![Planned::Chunk(range.start, cid)]
        }
        piece => {
            let step = PATCH_LEN_MAX;
            let starts =
                std::iter::successors(Some(range.start), |at| at.checked_add(step).filter(|at| *at < range.end));
            starts
                .map(|at| {
                    let part = at..at.saturating_add(step).min(range.end);
                    Planned::Bytes(part, piece.after(at - range.start))
                })
                .collect()
        }
    }
}
