//! Sharded directories: a trie over the murmur3-x64-64 of the names, a node per shard.
//!
//! ```text
//! level d takes the next log2(fanout) bits of the hash, from its top: the bucket
//! bucket with one entry:   link HEX(bucket) + name      with several: link HEX(bucket) to a shard of them
//! Data of a shard: the bits of its buckets as one big-endian number, its leading zero bytes cut off
//! ```
//!
//! The shape depends on the names alone, not on the order they came in: a shard that removal leaves with one entry
//! becomes that entry. Bits and bytes go from the top, whatever older texts say; all CIDs depend on it. Shards that
//! others wrote are held to their form, so that none can send a reader in circles. Spec: spec/dag.md #sharded.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    Dag, Link,
    dir::{Child, Names},
    murmur3_x64_64,
    pb::{PbRawLink, PbScan, put_link},
    unixfs::{UnixfsData, UnixfsType},
    wire::{Why, put_bytes},
};
use crate::{Cid, Codec, Error, ErrorKind, Result};

/// The fanouts that are read: powers of two from this to [`HAMT_FANOUT_MAX`].
pub const HAMT_FANOUT_MIN: u32 = 8;
/// More links than this do not fit a block, and no writer makes them: a claim of 2^30 is an attack on memory.
pub const HAMT_FANOUT_MAX: u32 = 1024;
/// The multihash number of murmur3-x64-64.
const MURMUR3_X64_64: u64 = 0x22;

/// How the bits of a hash are dealt out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fanout(u32);

impl Fanout {
    pub(super) fn new(fanout: u64) -> Option<Self> {
        let fanout = u32::try_from(fanout).ok()?;
        let fits = (HAMT_FANOUT_MIN..=HAMT_FANOUT_MAX).contains(&fanout) && fanout.is_power_of_two();
        fits.then_some(Self(fanout))
    }

    /// How far down the bits of a level end; `None` past the end of the hash.
    fn shift(self, level: u32) -> Option<u32> {
        64u32.checked_sub(self.0.trailing_zeros().checked_mul(level + 1)?)
    }

    /// What of a hash has been used down to a level: the buckets on the way, as one number.
    pub(super) fn path(self, hash: u64, level: u32) -> Option<u64> {
        Some(hash >> self.shift(level)?)
    }

    fn bucket(self, hash: u64, level: u32) -> Option<u32> {
        u32::try_from(self.path(hash, level)? & u64::from(self.0 - 1)).ok()
    }

    /// The highest hash below a path that ends at a level.
    pub(super) fn last_hash(self, path: u64, level: u32) -> u64 {
        self.shift(level).map_or(path, |shift| path << shift | ((1 << shift) - 1))
    }

    /// The path one level further down.
    pub(super) fn descend(self, path: u64, bucket: u32) -> u64 {
        path << self.0.trailing_zeros() | u64::from(bucket)
    }

    /// The number of hexadecimal digits before each name.
    fn pad(self) -> usize {
        (self.0 - 1).ilog(16) as usize + 1
    }

    fn prefix(self, bucket: u32) -> Vec<u8> {
        format!("{bucket:0pad$X}", pad = self.pad()).into_bytes()
    }
}

/// A link of a shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShardLink<'a> {
    pub(super) bucket: u32,
    /// The name of the entry; empty for a link to a shard.
    pub(super) name: &'a [u8],
    pub(super) raw: PbRawLink<'a>,
}

/// A shard that was read and has the form of one.
#[derive(Debug)]
pub(super) struct Shard<'a> {
    pub(super) fanout: Fanout,
    /// By bucket.
    pub(super) links: Vec<ShardLink<'a>>,
}

impl<'a> Shard<'a> {
    /// Reads a shard; one below the root must have `parent`'s fanout and an entry at least.
    pub(super) fn decode(block: &'a Bytes, parent: Option<Fanout>) -> Result<Self> {
        let scan = PbScan::new(block)?;
        let message = UnixfsData::decode(&block.slice_ref(scan.data.unwrap_or_default()))?;
        let links = scan.collect::<Result<Vec<_>>>()?;
        Self::check(&message, links, parent).map_err(corrupt)
    }

    fn check(message: &UnixfsData, raw: Vec<PbRawLink<'a>>, parent: Option<Fanout>) -> Result<Self, Why> {
        if message.kind != UnixfsType::HamtShard {
            return Err("a part of a sharded directory is no shard");
        }
        if message.hash_type != Some(MURMUR3_X64_64) {
            return Err("a shard by another hash than murmur3-x64-64");
        }
        let fanout =
            message.fanout.and_then(Fanout::new).ok_or("a shard whose fanout is no power of two from 8 to 1024")?;
        if parent.is_some_and(|parent| parent != fanout) {
            return Err("a shard with another fanout than its parent");
        }
        // Or a tree of nothing but shards could keep a reader busy for ever.
        if parent.is_some() && raw.is_empty() {
            return Err("an empty shard below another");
        }
        let bit = |bucket: u32| {
            let byte = message.data.len().checked_sub(1 + (bucket / 8) as usize)?;
            Some(message.data.get(byte)? >> (bucket % 8) & 1 == 1)
        };
        let mut links = Vec::new();
        for link in raw {
            let (prefix, name) =
                link.name.and_then(|name| name.split_at_checked(fanout.pad())).ok_or("a short link")?;
            let bucket = std::str::from_utf8(prefix).ok().and_then(|prefix| u32::from_str_radix(prefix, 16).ok());
            let bucket = bucket.filter(|bucket| fanout.prefix(*bucket) == prefix && *bucket < fanout.0);
            let bucket = bucket.ok_or("a link that does not begin with its bucket")?;
            if bit(bucket) != Some(true) {
                return Err("a link that is not in the bitmap");
            }
            links.push(ShardLink { bucket, name, raw: link });
        }
        links.sort_by_key(|link| link.bucket);
        if links.windows(2).any(|pair| matches!(pair, [a, b] if a.bucket == b.bucket)) {
            return Err("a bucket that is there twice");
        }
        let bits: u32 = message.data.iter().map(|byte| byte.count_ones()).sum();
        if bits as usize != links.len() {
            return Err("a bitmap with other bits than there are links");
        }
        Ok(Self { fanout, links })
    }

    /// The link in the bucket of a hash.
    fn link(&self, hash: u64, level: u32) -> Result<Option<&ShardLink<'a>>> {
        let bucket =
            self.fanout.bucket(hash, level).ok_or_else(|| corrupt("a sharded directory deeper than its hash"))?;
        Ok(self.links.binary_search_by_key(&bucket, |link| link.bucket).ok().and_then(|at| self.links.get(at)))
    }
}

fn corrupt(why: Why) -> Error {
    Error::new(ErrorKind::Corrupt, "hamt.decode").because(why)
}

/// The block of a shard as it is written.
struct ShardWriter {
    fanout: Fanout,
    links: Vec<u8>,
    bitmap: Vec<u8>,
    tsize: u64,
}

impl ShardWriter {
    fn new(fanout: Fanout) -> Self {
        Self { fanout, links: Vec::new(), bitmap: vec![0; (fanout.0 / 8) as usize], tsize: 0 }
    }

    /// Appends the link of a bucket, in their order; `name` is empty for a shard.
    fn link(&mut self, bucket: u32, name: &[u8], cid: &[u8], tsize: u64) {
        put_link(&mut self.links, cid, [&self.fanout.prefix(bucket), name], tsize);
        if let Some(byte) = self.bitmap.iter_mut().rev().nth((bucket / 8) as usize) {
            *byte |= 1 << (bucket % 8);
        }
        self.tsize = self.tsize.saturating_add(tsize);
    }

    async fn put(mut self, dag: &Dag, meta: Option<&UnixfsData>) -> Result<Link> {
        let mut message = UnixfsData::new(UnixfsType::HamtShard);
        let zeros = self.bitmap.iter().take_while(|byte| **byte == 0).count();
        message.data = self.bitmap.split_off(zeros).into();
        message.hash_type = Some(MURMUR3_X64_64);
        message.fanout = Some(self.fanout.0.into());
        if let Some(meta) = meta {
            (message.mode, message.mtime) = (meta.mode, meta.mtime);
        }
        put_bytes(&mut self.links, 1, &message.encode());
        let tsize = self.tsize.saturating_add(self.links.len() as u64);
        let cid = dag.put_block(Codec::DagPb, self.links.into()).await?;
        Ok(Link { cid, tsize })
    }
}

/// What a shard below the root has become.
enum Patched {
    Nothing,
    /// One entry, which belongs into the parent.
    One(Child),
    Shard(Link),
}

/// What a bucket holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bucket {
    Entry(Child),
    Shard(Link),
}

/// The buckets of the root after a change: what is known of the directory before its form is decided.
pub(super) struct PatchedRoot {
    pub(super) buckets: BTreeMap<u32, Bucket>,
    pub(super) is_changed: bool,
}

/// A name that is set or removed.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) hash: u64,
    pub(super) name: Bytes,
    pub(super) link: Option<Link>,
}

impl Dag {
    pub(super) fn fanout(&self) -> Result<Fanout> {
        let why = "the fanout is a power of two from 8 to 1024";
        Fanout::new(self.params().hamt_fanout.into())
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "dag.params").because(why))
    }

    /// Puts names, sorted by hash, as a sharded directory, children first.
    pub(super) fn put_shards<'a>(
        &'a self,
        names: &'a Names,
        index: &'a [(u64, usize)],
        level: u32,
        meta: Option<&'a UnixfsData>,
    ) -> BoxFuture<'a, Result<Link>> {
        Box::pin(async move {
            let fanout = self.fanout()?;
            if fanout.shift(level).is_none() {
                let why = "two names with one hash cannot be in one sharded directory";
                return Err(Error::new(ErrorKind::InvalidArgument, "dag.put_dir").because(why));
            }
            let bucket = |hash: u64| fanout.bucket(hash, level).unwrap_or_default();
            let mut shard = ShardWriter::new(fanout);
            for group in index.chunk_by(|a, b| bucket(a.0) == bucket(b.0)) {
                let Some((hash, at)) = group.first() else { continue };
                if group.len() == 1 {
                    let item = names.item(*at);
                    shard.link(bucket(*hash), item.name, item.cid, item.tsize);
                } else {
                    let below = self.put_shards(names, group, level + 1, None).await?;
                    shard.link(bucket(*hash), b"", &below.cid.to_bytes(), below.tsize);
                }
            }
            shard.put(self, meta).await
        })
    }

    /// Applies changes, sorted by hash, to the buckets of a shard.
    async fn patch_buckets(
        &self,
        block: &Bytes,
        parent: Option<Fanout>,
        level: u32,
        changes: &[Change],
    ) -> Result<PatchedRoot> {
        let shard = Shard::decode(block, parent)?;
        let fanout = shard.fanout;
        if fanout.shift(level).is_none() {
            return Err(corrupt("a sharded directory deeper than its hash"));
        }
        let mut buckets = BTreeMap::new();
        for link in &shard.links {
            let below = Link { cid: link.raw.cid()?, tsize: link.raw.tsize.unwrap_or(0) };
            let name = Bytes::copy_from_slice(link.name);
            let bucket =
                if name.is_empty() { Bucket::Shard(below) } else { Bucket::Entry(Child { name, link: below }) };
            buckets.insert(link.bucket, bucket);
        }
        let of = |change: &Change| fanout.bucket(change.hash, level).unwrap_or_default();
        let mut is_changed = false;
        for group in changes.chunk_by(|a, b| of(a) == of(b)) {
            let Some(bucket) = group.first().map(of) else { continue };
            let before = buckets.remove(&bucket);
            let after = match before.clone() {
                Some(Bucket::Shard(link)) => match self.patch_shard(&link, fanout, level + 1, group).await? {
                    Patched::Nothing => None,
                    Patched::One(child) => Some(Bucket::Entry(child)),
                    Patched::Shard(link) => Some(Bucket::Shard(link)),
                },
                Some(Bucket::Entry(child)) => self.merge(Some(child), group, level + 1).await?,
                None => self.merge(None, group, level + 1).await?,
            };
            is_changed |= before != after;
            if let Some(after) = after {
                buckets.insert(bucket, after);
            }
        }
        Ok(PatchedRoot { buckets, is_changed })
    }

    /// What a bucket becomes that held one entry or none.
    async fn merge(&self, child: Option<Child>, changes: &[Change], level: u32) -> Result<Option<Bucket>> {
        let kept = child.filter(|child| changes.iter().all(|change| change.name != child.name));
        let set = changes.iter().filter_map(|change| Some(Child { name: change.name.clone(), link: change.link? }));
        let mut children: Vec<Child> = kept.into_iter().chain(set).collect();
        if children.len() < 2 {
            return Ok(children.pop().map(Bucket::Entry));
        }
        let mut names = Names::new(self.params());
        for child in &children {
            names.push(&child.name, child.link);
        }
        let index = names.by_hash()?;
        Ok(Some(Bucket::Shard(self.put_shards(&names, &index, level, None).await?)))
    }

    fn patch_shard<'a>(
        &'a self,
        link: &'a Link,
        parent: Fanout,
        level: u32,
        changes: &'a [Change],
    ) -> BoxFuture<'a, Result<Patched>> {
        Box::pin(async move {
            let block = self.get_shard(&link.cid).await?;
            let patched = self.patch_buckets(&block, Some(parent), level, changes).await;
            let PatchedRoot { mut buckets, is_changed } = patched.map_err(|error| error.at(link.cid))?;
            if let Some(only) = buckets.first_entry()
                && matches!(only.get(), Bucket::Entry(_))
                && buckets.len() == 1
                && let Some((_, Bucket::Entry(child))) = buckets.pop_first()
            {
                return Ok(Patched::One(child));
            }
            if buckets.is_empty() {
                return Ok(Patched::Nothing);
            }
            let link = if is_changed { self.put_buckets(parent, &buckets, None).await? } else { *link };
            Ok(Patched::Shard(link))
        })
    }

    /// Applies changes, sorted by hash, to the root of a sharded directory; nothing is put for the root itself.
    pub(super) async fn patch_root(&self, block: &Bytes, changes: &[Change]) -> Result<PatchedRoot> {
        self.patch_buckets(block, None, 0, changes).await
    }

    /// Puts the shard of these buckets.
    pub(super) async fn put_buckets(
        &self,
        fanout: Fanout,
        buckets: &BTreeMap<u32, Bucket>,
        meta: Option<&UnixfsData>,
    ) -> Result<Link> {
        let mut shard = ShardWriter::new(fanout);
        for (bucket, below) in buckets {
            match below {
                Bucket::Entry(child) => {
                    shard.link(*bucket, &child.name, &child.link.cid.to_bytes(), child.link.tsize);
                }
                Bucket::Shard(link) => shard.link(*bucket, b"", &link.cid.to_bytes(), link.tsize),
            }
        }
        shard.put(self, meta).await
    }

    /// Finds a name below the root shard `block`; notes the shards below that root which were read for it.
    pub(super) async fn lookup_sharded(
        &self,
        mut block: Bytes,
        name: &[u8],
        passed: &mut Vec<Cid>,
    ) -> Result<Option<Link>> {
        let hash = murmur3_x64_64(name);
        let mut parent = None;
        for level in 0.. {
            let next = {
                let shard = Shard::decode(&block, parent)?;
                parent = Some(shard.fanout);
                match shard.link(hash, level)? {
                    Some(link) if link.name.is_empty() => link.raw.cid()?,
                    Some(link) if link.name == name => {
                        return Ok(Some(Link { cid: link.raw.cid()?, tsize: link.raw.tsize.unwrap_or(0) }));
                    }
                    _ => return Ok(None),
                }
            };
            block = self.get_shard(&next).await?;
            passed.push(next);
        }
        Ok(None)
    }

    /// The block of a shard below another, as a part of a directory: only dag-pb can be one.
    pub(super) async fn get_shard(&self, cid: &Cid) -> Result<Bytes> {
        if cid.codec() != Some(Codec::DagPb) {
            return Err(corrupt("a part of a sharded directory is not dag-pb").at(cid));
        }
        self.get_block(cid).await
    }
}
