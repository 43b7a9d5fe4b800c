//! Files, directories and linked data in a [`BlockStore`]: the only code that knows a CID.

pub mod cbor;
mod chunk;
mod copy;
mod dir;
mod elsewhere;
mod export;
mod gc;
mod hamt;
pub(crate) mod hashing;
mod import;
pub mod ipld;
pub mod json;
mod layout;
pub mod linked;
mod murmur3;
#[cfg(test)]
mod noted;
pub mod pb;
mod read;
mod resolve;
mod splice;
pub mod unixfs;
mod verified;
mod walk;
pub(crate) mod wire;

pub use chunk::ReadAt;
pub(crate) use chunk::from_io;
pub use copy::{COPY_COUNT, CopyProgress, CopyReport, OnCopyProgress};
pub use dir::SYMLINK_LEN_MAX;
pub use export::{Absent, EXPORT_PATH_LEN_MAX, EntityBytes, Export, ExportLimits, ExportOptions, Scope};
pub use gc::{DagLease, GcOptions, GcProgress, GcReport, GcRoot, OnGcProgress, WriteSession};
pub use hamt::{HAMT_FANOUT_MAX, HAMT_FANOUT_MIN};
pub use import::IMPORT_LEN_MAX;
pub(crate) use import::on_thread;
pub use ipld::Ipld;
pub use murmur3::murmur3_x64_64;
pub use read::{FILE_DEPTH_MAX, FILE_PATH_LEN_MAX, READ_BLOCK_COUNT_MAX};
pub use resolve::RESOLVE_BLOCK_COUNT_MAX;
pub use splice::{FILE_LEN_MAX, RECHUNK_LEN_MAX};
pub use walk::{Visit, WALK_READ_COUNT, WalkMemory};
pub(crate) use walk::{for_each_link_of, print};

use std::{ops::Range, sync::Arc, time::SystemTime};

use bytes::Bytes;

use crate::{
    BlockStore, Cid, Codec, FileKind, Name, Result,
    block::BLOCK_LEN_MAX,
    cid::sha256::{Digest32, sha256},
};

/// The longest block of a DAG, read or written.
pub const DAG_BLOCK_LEN_MAX: usize = 2 * 1024 * 1024;
const _: () = assert!(DAG_BLOCK_LEN_MAX < BLOCK_LEN_MAX);

/// Everything a CID depends on besides the content. One per `MuxFS` instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// `CIDv1`, sha2-256, raw leaves, chunks of 1 MiB, balanced, width 1024, HAMT above 256 KiB.
    #[default]
    UnixfsV1_2025,
    /// What Kubo does when it is not told otherwise: `CIDv0`, dag-pb leaves, chunks of 256 KiB, width 174.
    UnixfsV0_2015,
    /// What Kubo does when it is told only `--cid-version=1`: as `UnixfsV0_2015` with `CIDv1` and raw leaves.
    KuboCidV1Legacy,
}
impl Profile {
    /// The numbers of the profile.
    pub fn params(self) -> Params {
        let v1 = Params {
            cid_version: 1,
            raw_leaves: true,
            chunk_len: 1 << 20,
            layout: Layout::Balanced,
            width: 1024,
            hamt_fanout: 256,
            hamt_threshold: 256 << 10,
            dir_size: DirSize::BlockBytes,
        };
        let kubo = Params { chunk_len: 256 << 10, width: 174, dir_size: DirSize::LinksBytes, ..v1 };
        match self {
            Self::UnixfsV1_2025 => v1,
            Self::UnixfsV0_2015 => Params { cid_version: 0, raw_leaves: false, ..kubo },
            Self::KuboCidV1Legacy => kubo,
        }
    }
}

/// How the leaves of a file hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Every leaf at the same depth, every node but the last of its level full.
    Balanced,
    /// Leaves near the root come first: each node has leaves, then four subtrees of depth 1, four of depth 2, …
    Trickle,
}

/// How the size of a directory is estimated against the threshold of sharding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirSize {
    /// The exact length of the directory's block, were it not sharded.
    BlockBytes,
    /// The lengths of names and CIDs, summed up.
    LinksBytes,
}

/// A profile's numbers, for those who need others. Lengths in bytes, width and fanout in links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// The version of the CIDs of dag-pb nodes: 0 or 1. Raw leaves have version 1 in any case.
    pub cid_version: u8,
    /// Whether leaves are plain bytes, not dag-pb nodes.
    pub raw_leaves: bool,
    /// The length of every leaf but the last, in bytes of content: 1 to 2 MiB.
    pub chunk_len: u32,
    /// How the leaves hang together.
    pub layout: Layout,
    /// The most links of a file node: 2 and up.
    pub width: u32,
    /// The most links of a shard: a power of two from 8 to 1024.
    pub hamt_fanout: u32,
    /// A directory is sharded when its size is above this, in bytes. An empty one never is.
    pub hamt_threshold: u32,
    /// What its size is.
    pub dir_size: DirSize,
}

impl Params {
    /// The CID of a block: sha2-256, and of version 0 only where these numbers say so and the codec is dag-pb.
    ///
    /// ```
    /// use muxfs::{Codec, dag::Profile};
    /// let cid = Profile::UnixfsV0_2015.params().cid(Codec::DagPb, b"\x0a\x02\x08\x01");
    /// assert_eq!(cid.to_string(), "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn");
    /// ```
    pub fn cid(&self, codec: Codec, block: &[u8]) -> Cid {
        self.cid_of_digest(codec, sha256(block))
    }

    /// The CID of a block whose sha2-256 digest is known.
    fn cid_of_digest(&self, codec: Codec, digest: Digest32) -> Cid {
        if self.cid_version == 0 && codec == Codec::DagPb {
            Cid::v0_sha256(digest)
        } else {
            Cid::v1_sha256(codec, digest)
        }
    }
}

/// `UnixFS` 1.5 metadata in the node itself: changes the CID, so only on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnixfsMeta {
    /// The permission bits; written as given, also where they are the usual ones.
    pub mode: Option<u32>,
    /// When the content last changed.
    pub mtime: Option<SystemTime>,
}

/// How a [`Dag`] makes CIDs and what it keeps in memory.
#[derive(Debug, Clone)]
pub struct DagOptions {
    /// How content becomes blocks.
    pub params: Params,
    /// How much of verified blocks to keep; a hit is not hashed again. 0 keeps none.
    pub verified_len_max: usize,
}
impl Default for DagOptions {
    fn default() -> Self {
        Self { params: Profile::default().params(), verified_len_max: 64 << 20 }
    }
}

/// A link as dag-pb holds it: `tsize` is the length of all blocks below, as IPFS counts them (not the file's size).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// What it points to.
    pub cid: Cid,
    /// The length of all blocks below, one that occurs twice counted twice, in bytes. In foreign data only a hint.
    pub tsize: u64,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// What it points to.
    pub link: Link,
}

/// What the block of a node says of it.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is: a file, a directory or a symlink.
    pub kind: FileKind,
    /// The length of a file or of a symlink's target in bytes; 0 for a directory.
    pub size: u64,
    /// The mode, where the node has one, all 32 bits as they are written.
    pub mode: Option<u32>,
    /// The modification time, where the node has one that the system can count.
    pub mtime: Option<SystemTime>,
}

/// Where a path ends: a block, and the rest of the path within it (dag-cbor, dag-json), mostly empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The block.
    pub cid: Cid,
    /// The parts that lead on within it.
    pub within: Vec<Name>,
}

/// A change to a file, at its offset. A `Chunk` is a whole aligned chunk that is in the store already.
#[derive(Debug, Clone)]
pub enum Patch {
    /// These bytes, from this offset on.
    Bytes(u64, Bytes),
    /// The leaf of this CID, at this offset: a multiple of the chunk length, which is also the length of its content.
    Chunk(u64, Cid),
    /// Zeros.
    Hole(Range<u64>),
}

/// Files, directories and linked data in a [`BlockStore`]: the only code that knows a CID. Cheap to clone.
///
/// Verifies every block once, as it enters memory: wrong bytes from below are `Corrupt`, absent ones `NotFound`. Puts
/// are visible when they return and durable after `flush`; all are idempotent, children go before parents.
#[derive(Debug, Clone)]
pub struct Dag {
    blocks: Arc<dyn BlockStore>,
    options: Arc<DagOptions>,
    verified: Arc<verified::Verified>,
    epochs: Arc<gc::Epochs>,
    hashing: Arc<hashing::Hashing>,
    /// Where a block is looked for that the store has not.
    elsewhere: Option<Arc<elsewhere::Elsewhere>>,
}

impl Dag {
    /// Puts a DAG over a store of blocks.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use muxfs::{Codec, block::Mem, dag::{Dag, DagOptions}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    /// let cid = dag.put_block(Codec::Raw, "hello".into()).await?;
    /// assert_eq!(dag.get_block(&cid).await?, "hello");
    /// # Ok::<(), muxfs::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn new(blocks: Arc<dyn BlockStore>, options: DagOptions) -> Self {
        let verified = Arc::new(verified::Verified::new(options.verified_len_max));
        let (epochs, hashing) = (Arc::new(gc::Epochs::new()), Arc::new(hashing::Hashing::new()));
        Self { blocks, options: Arc::new(options), verified, epochs, hashing, elsewhere: None }
    }

    /// Makes every put that returned before this call durable.
    pub async fn flush(&self) -> Result<()> {
        self.blocks.flush().await
    }

    /// This DAG, over the same blocks and with the same cache, making CIDs by other numbers.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{block::Mem, dag::{Dag, DagOptions, Profile, UnixfsMeta}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    /// let old = dag.with_params(Profile::UnixfsV0_2015.params()).import(&b""[..], UnixfsMeta::default()).await?;
    /// assert_eq!(old.cid.to_string(), "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH");
    /// assert_eq!(dag.read_at(&old.cid, 0, 1).await?, "");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn with_params(&self, params: Params) -> Self {
        Self { options: Arc::new(DagOptions { params, ..*self.options }), ..self.clone() }
    }

    /// How this DAG makes CIDs.
    pub fn params(&self) -> &Params {
        &self.options.params
    }
}
