//! Directories: putting, changing, searching and listing them, in one block or sharded.
//!
//! A directory is one dag-pb node while that is small and a trie of shards ([`hamt`](super::hamt)) above the threshold;
//! which of the two depends on its entries alone, so a directory that shrinks becomes one block again. It is listed in
//! the order of its names' hashes in both forms, so that a reader can go on where it was after the form has changed.
//! Spec: spec/dag.md #directories.

use std::collections::{BTreeMap, HashSet, VecDeque};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::{
    Dag, DirSize, Entry, Link, Params, UnixfsMeta,
    hamt::{Bucket, Change, Fanout, PatchedRoot, Shard},
    murmur3_x64_64,
    pb::{PbRawLink, PbScan, link_len, put_link},
    unixfs::{UnixfsData, UnixfsType, unixfs_of},
    wire::{bytes_len, put_bytes},
};
use crate::{Cid, Codec, Error, ErrorKind, Name, Result};

/// The longest target of a symlink that is written or read: `PATH_MAX` of Linux.
pub const SYMLINK_LEN_MAX: usize = 4096;
/// What an entry adds to the size of a directory at least: a name of one byte and the shortest CID.
const ENTRY_SIZE_MIN: u64 = 5;

impl Dag {
    /// Puts a directory; the order of `entries` does not matter. Memory: about the bytes of names and CIDs plus 60 for
    /// each entry, whatever the number of shards.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is there twice, or for two names of one hash in a sharded directory; the
    /// first error of the stream; those of [`BlockStore::put`](crate::BlockStore::put).
    pub async fn put_dir(&self, entries: BoxStream<'_, Result<Entry>>) -> Result<Link> {
        self.put_dir_with(entries, UnixfsMeta::default()).await
    }

    /// Puts a directory with metadata of its own; otherwise [`Dag::put_dir`].
    ///
    /// # Errors
    /// As [`Dag::put_dir`].
    pub async fn put_dir_with(&self, mut entries: BoxStream<'_, Result<Entry>>, meta: UnixfsMeta) -> Result<Link> {
        let meta = UnixfsData::new(UnixfsType::Directory).with_meta(meta)?;
        let _session = self.begin_write();
        let mut names = Names::new(self.params());
        while let Some(Entry { name, link }) = entries.try_next().await? {
            names.push(name.as_bytes(), link);
        }
        self.put_names(&names, &meta).await
    }

    /// Puts `dir` with names set (`Some`) and removed (`None`; one that is absent is no error), its metadata kept: the
    /// same CID as [`Dag::put_dir`] of the result. Of a sharded directory only the shards that change are put; to know
    /// that it is still large enough to be one, a few hundred others are read at most. Hidden names stay.
    ///
    /// # Errors
    /// `NotFound` if a needed block is absent; `Corrupt` if one fails verification or is no part of a directory;
    /// `NotDir` if `dir` is no directory; those of [`Dag::put_dir`].
    pub async fn patch_dir(&self, dir: &Cid, changes: &BTreeMap<Name, Option<Link>>) -> Result<Link> {
        let _session = self.begin_write();
        self.patch(dir, changes).await.map_err(|error| error.at(dir))
    }

    async fn patch(&self, dir: &Cid, changes: &BTreeMap<Name, Option<Link>>) -> Result<Link> {
        let block = self.get_dir(dir).await?;
        let message = unixfs_of(&block)?;
        if message.kind == UnixfsType::Directory {
            let links = first_of_each(&block)?;
            return self.put_changed(stream::iter(links.into_iter().map(Ok)).boxed(), changes, &message).await;
        }
        let shard = Shard::decode(&block, None)?;
        let is_ours = self.fanout()? == shard.fanout && dir.version() == self.params().cid_version;
        if !is_ours {
            let links = self.children(dir, 0).try_filter_map(async |found| Ok(Some(found.child)));
            return self.put_changed(links.boxed(), changes, &message).await;
        }
        let root = self.patch_root(&block, &by_hash(changes)).await?;
        if let Some(names) = self.names_if_small(&root, &message).await? {
            return self.put_names(&names, &message).await;
        }
        if !root.is_changed {
            let below = shard.links.iter().map(|link| link.raw.tsize.unwrap_or(0));
            return Ok(Link { cid: *dir, tsize: below.fold(block.len() as u64, u64::saturating_add) });
        }
        self.put_buckets(shard.fanout, &root.buckets, Some(&message)).await
    }

    async fn put_changed(
        &self,
        mut children: BoxStream<'_, Result<Child>>,
        changes: &BTreeMap<Name, Option<Link>>,
        meta: &UnixfsData,
    ) -> Result<Link> {
        let mut names = Names::new(self.params());
        while let Some(child) = children.try_next().await? {
            let is_changed = Name::new(&child.name).is_ok_and(|name| changes.contains_key(&name));
            if !is_changed {
                names.push(&child.name, child.link);
            }
        }
        for (name, link) in changes {
            if let Some(link) = link {
                names.push(name.as_bytes(), *link);
            }
        }
        self.put_names(&names, meta).await
    }

    /// Puts a directory in the form that its size asks for.
    async fn put_names(&self, names: &Names, meta: &UnixfsData) -> Result<Link> {
        let index = names.by_hash()?;
        if names.are_small(meta) {
            self.put_basic(names, index, meta).await
        } else {
            self.put_shards(names, &index, 0, Some(meta)).await
        }
    }

    async fn put_basic(&self, names: &Names, mut index: Vec<(u64, usize)>, meta: &UnixfsData) -> Result<Link> {
        index.sort_by_key(|(_, at)| names.item(*at).name);
        let (mut block, mut tsize) = (Vec::new(), 0u64);
        for item in index.iter().map(|(_, at)| names.item(*at)) {
            put_link(&mut block, item.cid, [item.name, b""], item.tsize);
            tsize = tsize.saturating_add(item.tsize);
        }
        put_bytes(&mut block, 1, &data_of_basic(meta));
        tsize = tsize.saturating_add(block.len() as u64);
        Ok(Link { cid: self.put_block(Codec::DagPb, block.into()).await?, tsize })
    }

    /// All names of a patched directory, where they are so few that they belong into one block. Loads shards until that
    /// is known: an unread one has two entries at least.
    async fn names_if_small(&self, root: &PatchedRoot, meta: &UnixfsData) -> Result<Option<Names>> {
        let fanout = self.fanout()?;
        let mut names = Names::new(self.params());
        let mut unread = VecDeque::new();
        for bucket in root.buckets.values() {
            match bucket {
                Bucket::Entry(child) => names.push(&child.name, child.link),
                Bucket::Shard(link) => unread.push_back((link.cid, 1)),
            }
        }
        loop {
            if names.size(meta).saturating_add(2 * ENTRY_SIZE_MIN * unread.len() as u64)
                > names.params.hamt_threshold.into()
            {
                return Ok((names.count == 0 && unread.is_empty()).then_some(names));
            }
            let Some((cid, level)) = unread.pop_front() else { return Ok(Some(names)) };
            let block = self.get_shard(&cid).await?;
            let shard = Shard::decode(&block, Some(fanout)).map_err(|error| error.at(cid))?;
            for link in &shard.links {
                let below = Link { cid: link.raw.cid()?, tsize: link.raw.tsize.unwrap_or(0) };
                if !link.name.is_empty() {
                    names.push(link.name, below);
                } else if fanout.path(0, level + 1).is_some() {
                    unread.push_back((below.cid, level + 1));
                } else {
                    return Err(corrupt("a sharded directory deeper than its hash").at(cid));
                }
            }
        }
    }

    /// Finds a name in a directory; `None` if it is not there. Of a name that is there twice, the first.
    ///
    /// # Errors
    /// `NotFound` if a needed block is absent; `Corrupt` if one fails verification or is no part of a directory;
    /// `NotDir` if `dir` is no directory.
    pub async fn lookup(&self, dir: &Cid, name: &Name) -> Result<Option<Entry>> {
        self.lookup_noting(dir, name, &mut Vec::new()).await
    }

    /// [`Dag::lookup`], which notes the shards below the root of `dir` that it read.
    pub(super) async fn lookup_noting(&self, dir: &Cid, name: &Name, passed: &mut Vec<Cid>) -> Result<Option<Entry>> {
        let found = self.find(dir, name.as_bytes(), passed).await.map_err(|error| error.at(dir))?;
        Ok(found.map(|link| Entry { name: name.clone(), link }))
    }

    async fn find(&self, dir: &Cid, name: &[u8], passed: &mut Vec<Cid>) -> Result<Option<Link>> {
        let block = self.get_dir(dir).await?;
        if unixfs_of(&block)?.kind == UnixfsType::HamtShard {
            return self.lookup_sharded(block, name, passed).await;
        }
        for link in PbScan::new(&block)? {
            let link = link?;
            if link.name == Some(name) {
                return Ok(Some(Link { cid: link.cid()?, tsize: link.tsize.unwrap_or(0) }));
            }
        }
        Ok(None)
    }

    /// Lists the entries whose names' murmur3-x64-64 is `hash` or more, in the order of hash, then name. Entries whose
    /// names cannot be ones of a file system (empty, `.`, `..`, with NUL or `/`, too long) are hidden; of a name that
    /// is there twice the first is shown.
    ///
    /// # Errors
    /// Its items', as [`Dag::lookup`]; the listing ends with the first.
    pub fn list(&self, dir: &Cid, hash: u64) -> BoxStream<'_, Result<Entry>> {
        let dir = *dir;
        let entries = self.children(&dir, hash).try_filter_map(async |found: Found| {
            let name = Name::new(&found.child.name);
            if name.is_err() {
                tracing::debug!(name = %found.child.name.escape_ascii(), "an entry is hidden: its name is no file's");
            }
            Ok(name.ok().map(|name| Entry { name, link: found.child.link }))
        });
        entries.map_err(move |error| error.at(dir)).boxed()
    }

    /// All entries from a hash on, in order, whatever their names.
    fn children(&self, dir: &Cid, from: u64) -> BoxStream<'_, Result<Found>> {
        let start = Children { dag: self, from, entries: Vec::new().into_iter(), open: Vec::new(), dir: Some(*dir) };
        stream::try_unfold(
            start,
            |mut children| async move { Ok(children.next().await?.map(|found| (found, children))) },
        )
        .boxed()
    }

    /// The block of a directory.
    async fn get_dir(&self, dir: &Cid) -> Result<Bytes> {
        let not_dir = || Error::new(ErrorKind::NotDir, "dag.dir");
        if dir.codec() != Some(Codec::DagPb) {
            return Err(not_dir());
        }
        let block = self.get_block(dir).await?;
        match unixfs_of(&block)?.kind {
            UnixfsType::Directory | UnixfsType::HamtShard => Ok(block),
            _ => Err(not_dir()),
        }
    }

    /// Puts a symlink.
    ///
    /// # Errors
    /// `InvalidArgument` for a target that is empty or holds NUL; `NameTooLong` past [`SYMLINK_LEN_MAX`].
    pub async fn put_symlink(&self, target: &[u8], meta: UnixfsMeta) -> Result<Link> {
        let refuse = |kind, why| Err(Error::new(kind, "dag.put_symlink").because(why));
        if target.is_empty() || target.contains(&0) {
            return refuse(ErrorKind::InvalidArgument, "a target is not empty and holds no NUL");
        }
        if target.len() > SYMLINK_LEN_MAX {
            return refuse(ErrorKind::NameTooLong, "a target has at most 4096 bytes");
        }
        let mut message = UnixfsData::new(UnixfsType::Symlink).with_meta(meta)?;
        message.data = Bytes::copy_from_slice(target);
        let mut block = Vec::new();
        put_bytes(&mut block, 1, &message.encode());
        let tsize = block.len() as u64;
        Ok(Link { cid: self.put_block(Codec::DagPb, block.into()).await?, tsize })
    }

    /// Reads the target of a symlink: bytes that others chose, to be followed with care.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no symlink; `NameTooLong` past [`SYMLINK_LEN_MAX`]; `NotFound` or `Corrupt` as
    /// [`Dag::get_block`].
    pub async fn read_symlink(&self, cid: &Cid) -> Result<Bytes> {
        let refuse = |kind, why| Err(Error::new(kind, "dag.read_symlink").at(cid).because(why));
        if cid.codec() != Some(Codec::DagPb) {
            return refuse(ErrorKind::InvalidArgument, "no symlink");
        }
        let message = unixfs_of(&self.get_block(cid).await?).map_err(|error| error.at(cid))?;
        match message.kind {
            UnixfsType::Symlink if message.data.len() <= SYMLINK_LEN_MAX => Ok(message.data),
            UnixfsType::Symlink => refuse(ErrorKind::NameTooLong, "a target has at most 4096 bytes"),
            _ => refuse(ErrorKind::InvalidArgument, "no symlink"),
        }
    }
}

/// An entry, its name as it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) name: Bytes,
    pub(super) link: Link,
}

/// An entry with the hash of its name.
struct Found {
    hash: u64,
    child: Child,
}

fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "dir.read").because(why)
}

fn child_of(link: &PbRawLink<'_>, name: &[u8]) -> Result<Child> {
    let below = Link { cid: link.cid()?, tsize: link.tsize.unwrap_or(0) };
    Ok(Child { name: Bytes::copy_from_slice(name), link: below })
}

/// The entries of a directory of one block; of equal names the first.
fn first_of_each(block: &[u8]) -> Result<Vec<Child>> {
    let (mut seen, mut children) = (HashSet::new(), Vec::new());
    for link in PbScan::new(block)? {
        let link = link?;
        let name = link.name.unwrap_or_default();
        if seen.insert(name) {
            children.push(child_of(&link, name)?);
        }
    }
    Ok(children)
}

fn by_hash(changes: &BTreeMap<Name, Option<Link>>) -> Vec<Change> {
    let change = |(name, link): (&Name, &Option<Link>)| Change {
        hash: murmur3_x64_64(name.as_bytes()),
        name: Bytes::copy_from_slice(name.as_bytes()),
        link: *link,
    };
    let mut changes: Vec<Change> = changes.iter().map(change).collect();
    changes.sort_by(|a, b| (a.hash, &a.name).cmp(&(b.hash, &b.name)));
    changes
}

fn data_of_basic(meta: &UnixfsData) -> Vec<u8> {
    let mut message = UnixfsData::new(UnixfsType::Directory);
    (message.mode, message.mtime) = (meta.mode, meta.mtime);
    message.encode()
}

/// The entries of a directory that is being put, packed: large ones have millions.
pub(super) struct Names {
    params: Params,
    /// Per entry: length of CID, CID, length of name, name, tsize.
    packed: Vec<u8>,
    /// Hash of the name, and where the entry lies in `packed`.
    index: Vec<(u64, usize)>,
    count: u64,
    /// The size of all links, as the parameters count it.
    links_size: u64,
}

/// An entry as it lies packed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) name: &'a [u8],
    pub(super) cid: &'a [u8],
    pub(super) tsize: u64,
}

impl Names {
    pub(super) fn new(params: &Params) -> Self {
        Self { params: *params, packed: Vec::new(), index: Vec::new(), count: 0, links_size: 0 }
    }

    pub(super) fn push(&mut self, name: &[u8], link: Link) {
        let cid = link.cid.to_bytes();
        self.links_size += match self.params.dir_size {
            DirSize::BlockBytes => link_len(cid.len(), name.len(), link.tsize),
            DirSize::LinksBytes => name.len() + cid.len(),
        } as u64;
        self.count += 1;
        self.index.push((murmur3_x64_64(name), self.packed.len()));
        for bytes in [&cid, name] {
            self.packed.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            self.packed.extend_from_slice(bytes);
        }
        self.packed.extend_from_slice(&link.tsize.to_le_bytes());
    }

    pub(super) fn item(&self, at: usize) -> Item<'_> {
        let mut rest = self.packed.get(at..).unwrap_or_default();
        let number = |rest: &mut &[u8]| {
            let (number, tail) = rest.split_first_chunk::<8>().expect("an offset that push gave");
            *rest = tail;
            u64::from_le_bytes(*number)
        };
        let mut bytes = || {
            let len = usize::try_from(number(&mut rest)).expect("a length that was a usize");
            let (bytes, tail) = rest.split_at(len);
            rest = tail;
            bytes
        };
        let (cid, name) = (bytes(), bytes());
        Item { name, cid, tsize: number(&mut rest) }
    }

    /// Where the entries lie, by hash, then name; a name that is there twice is an error.
    pub(super) fn by_hash(&self) -> Result<Vec<(u64, usize)>> {
        let mut index = self.index.clone();
        index.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| self.item(a.1).name.cmp(self.item(b.1).name)));
        for pair in index.windows(2) {
            if let [a, b] = pair
                && a.0 == b.0
                && self.item(a.1).name == self.item(b.1).name
            {
                let name = self.item(a.1).name.escape_ascii();
                return Err(Error::new(ErrorKind::InvalidArgument, "dag.put_dir").at(name).because("a name twice"));
            }
        }
        Ok(index)
    }

    /// The size of the directory, as the parameters count it, were it one block.
    fn size(&self, meta: &UnixfsData) -> u64 {
        match self.params.dir_size {
            DirSize::BlockBytes => self.links_size + bytes_len(data_of_basic(meta).len()) as u64,
            DirSize::LinksBytes => self.links_size,
        }
    }

    fn are_small(&self, meta: &UnixfsData) -> bool {
        self.count == 0 || self.size(meta) <= self.params.hamt_threshold.into()
    }
}

/// A listing under way.
struct Children<'a> {
    dag: &'a Dag,
    from: u64,
    /// The directory, until it is opened.
    dir: Option<Cid>,
    /// Of one block, all that is left.
    entries: std::vec::IntoIter<Found>,
    /// Of a sharded one, the shards from the root down.
    open: Vec<OpenShard>,
}

struct OpenShard {
    fanout: Fanout,
    level: u32,
    /// The buckets from the root to this shard, as one number.
    path: u64,
    buckets: std::vec::IntoIter<(u32, Child)>,
}

impl Children<'_> {
    async fn next(&mut self) -> Result<Option<Found>> {
        if let Some(dir) = self.dir.take() {
            let block = self.dag.get_dir(&dir).await?;
            if unixfs_of(&block)?.kind == UnixfsType::HamtShard {
                self.enter(&block, None, 0, 0)?;
            } else {
                let found = |child: Child| Found { hash: murmur3_x64_64(&child.name), child };
                let mut all: Vec<Found> = first_of_each(&block)?.into_iter().map(found).collect();
                all.retain(|found| found.hash >= self.from);
                all.sort_by(|a, b| (a.hash, &a.child.name).cmp(&(b.hash, &b.child.name)));
                self.entries = all.into_iter();
            }
        }
        if let Some(found) = self.entries.next() {
            return Ok(Some(found));
        }
        while let Some(shard) = self.open.last_mut() {
            let Some((bucket, child)) = shard.buckets.next() else {
                self.open.pop();
                continue;
            };
            let (fanout, level, path) = (shard.fanout, shard.level, shard.fanout.descend(shard.path, bucket));
            if fanout.last_hash(path, level) < self.from {
                continue;
            }
            if child.name.is_empty() {
                let block = self.dag.get_shard(&child.link.cid).await?;
                self.enter(&block, Some(fanout), level + 1, path).map_err(|error| error.at(child.link.cid))?;
                continue;
            }
            let hash = murmur3_x64_64(&child.name);
            // Also what ends a tree of shards that lead into each other: no name is below two paths.
            if fanout.path(hash, level) != Some(path) {
                return Err(corrupt("a name in a shard where it does not belong"));
            }
            if hash >= self.from {
                return Ok(Some(Found { hash, child }));
            }
        }
        Ok(None)
    }

    fn enter(&mut self, block: &Bytes, parent: Option<Fanout>, level: u32, path: u64) -> Result<()> {
        let shard = Shard::decode(block, parent)?;
        if shard.fanout.path(0, level).is_none() {
            return Err(corrupt("a sharded directory deeper than its hash"));
        }
        let bucket = |link: &super::hamt::ShardLink<'_>| Ok((link.bucket, child_of(&link.raw, link.name)?));
        let buckets = shard.links.iter().map(bucket).collect::<Result<Vec<_>>>()?.into_iter();
        self.open.push(OpenShard { fanout: shard.fanout, level, path, buckets });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
