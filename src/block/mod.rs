//! Blocks: untrusted bytes under opaque keys, the seam below [`Dag`](crate::dag::Dag).
//!
//! Whoever reads verifies; a store may lose, rot or lie. Layers are stores over stores and obey the same laws
//! (`testing::block_store`). Spec: spec/block-stores.md.

mod bad;
mod cache;
mod checked;
mod compress;
mod encrypt;
mod erasure;
mod expected;
mod fallback;
mod keeping;
mod mem;
mod nowhere;
mod segments;

use std::{fmt::Debug, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use self::{
    cache::{Cache, CacheStats},
    checked::{Checked, Checks, Given, Subtree},
    compress::Compress,
    encrypt::Encrypt,
    erasure::{
        BlockShare, Erasure, ErasureLoss, ErasureNode, ErasureNodeStatus, ErasureOptions, PROBE_KEY, RepairReport,
        SHARD_HEADER_LEN, Scrub, ScrubOptions, ScrubReport, Settle, SettleReport, StripeCode,
    },
    expected::Expected,
    fallback::Fallback,
    keeping::{Keeping, check_pins},
    mem::{Mem, MemOptions},
    nowhere::Nowhere,
    segments::{BuildIndex, CompactReport, IsFull, OnBuildIndex, Segments, SegmentsOptions, SegmentsStats},
};
use crate::{Cid, Error, ErrorKind, Result};

/// The longest block a store takes: 8 MiB less 1 KiB, 0-db's limit. A layer adds to what it is given, so what enters at
/// the top stays well below: see [`DAG_BLOCK_LEN_MAX`](crate::dag::DAG_BLOCK_LEN_MAX).
pub const BLOCK_LEN_MAX: usize = 8 * 1024 * 1024 - 1024;
/// The longest key: 0-db's limit.
pub const BLOCK_KEY_LEN_MAX: usize = 255;

/// The key of a block: opaque bytes, 1 to [`BLOCK_KEY_LEN_MAX`]. A multihash, or a layer's disguise of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey(Box<[u8]>);
impl BlockKey {
    /// Checks a key.
    ///
    /// ```
    /// use muxfs::BlockKey;
    /// assert_eq!(BlockKey::new(b"k")?.as_bytes(), b"k");
    /// assert!(BlockKey::new(b"").is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() || bytes.len() > BLOCK_KEY_LEN_MAX {
            return Err(Error::new(ErrorKind::InvalidArgument, "block.key").because("a key is 1 to 255 bytes"));
        }
        Ok(Self(bytes.into()))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a layer makes of the bytes that a store has of its block; `Corrupt` where they are not those it put.
pub type OpenBlock<'a> = &'a (dyn Fn(Bytes) -> Result<Bytes> + Send + Sync);

/// Untrusted bytes under opaque keys. Whoever reads verifies: a store may lose, rot or lie, and is not asked to know.
///
/// Layers (Compress, Encrypt, Erasure, Cache, Fallback, Keeping) are stores over stores and obey the same laws.
#[async_trait]
pub trait BlockStore: Debug + Send + Sync + 'static {
    /// The block, or `None` where it is known to be absent. A store that cannot tell says `Unavailable`, never `None`.
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>>;

    /// The bytes of the block in `range`, cut off at its end; empty past it. Equal to slicing what `get` gives.
    ///
    /// A part cannot be verified against a key: for layers that check what they own, never for `Dag`.
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        Ok(self.get(key).await?.map(|block| {
            let end = range.end.min(block.len());
            block.slice(range.start.min(end)..end)
        }))
    }

    /// What `open` says to the bytes that `get` gives; `None` where there are none. For layers that find out by themselves
    /// whether those are right.
    ///
    /// A store may leave to `open` what it would check itself, and looks again, with all its checks, where `open` refuses
    /// what it is given: so that may be asked more than once, and its last answer counts.
    ///
    /// # Errors
    /// Those of `get`. What `open` says is in what is given.
    async fn get_opened(&self, key: &BlockKey, open: OpenBlock<'_>) -> Result<Option<Result<Bytes>>> {
        Ok(self.get(key).await?.map(open))
    }

    /// What `get` gives, [`Checked`] where this store held it against its key anyway: who verifies need not hash it again.
    ///
    /// # Errors
    /// Those of `get`.
    async fn get_checked(&self, key: &BlockKey) -> Result<Option<Given>> {
        Ok(self.get(key).await?.map(Given::Bytes))
    }

    /// Stores a block under its key: all of it or, on any error, perhaps none, never a part. Visible when it returns.
    ///
    /// Idempotent. Where the key exists already the store may keep the bytes it has, unless it has found them to be
    /// bad; to replace them in any case, `delete` first.
    ///
    /// # Errors
    /// `TooLarge` past [`BLOCK_LEN_MAX`]; `NoSpace`, `Quota`, `ReadOnly`, `Unavailable`.
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()>;

    /// Removes the block. Idempotent: an absent key is no error.
    async fn delete(&self, key: &BlockKey) -> Result<()>;

    /// Whether `get` would give a block; what it would give is not looked at.
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        Ok(self.get(key).await?.is_some())
    }

    /// How long the block is that `get` would give, in bytes; `None` where it is known to be absent. A store that knows
    /// does not read the block for it.
    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        Ok(self.get(key).await?.map(|block| block.len() as u64))
    }

    /// Tells what is about to be read: a store that is far away may fetch it in one go. Returns at once, and changes nothing of
    /// what any other method gives.
    fn expect(&self, _expected: &Expected<'_>) {}

    /// All blocks below a CID, itself first and each after one that links to it, where a store that is far away gives them in
    /// one go and has none of them near; `None` where each is better asked for by itself, as in a store that is not far away.
    ///
    /// For who wants all of them. Each is the block of its CID, but that it is below `root` is for whoever takes it to see;
    /// and they may be fewer than all: what has not come at the end, or after the error that is the last item, is asked for.
    fn subtree<'a>(&'a self, _root: &Cid) -> Option<Subtree<'a>> {
        None
    }

    /// Makes every `put` and `delete` that returned before this call durable. At once true in a store without buffers.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Every key that is present from the first item to the last: each at least once, perhaps more often, in any order.
    /// A key put or deleted meanwhile may be among them or not. Keys are those of `put`, whatever layers lie below.
    /// An `Err` item ends the stream: the listing is then incomplete.
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>>;
}

// Forwards every method: one left to its default would silently lose the inner store's better one.
#[async_trait]
impl<B: BlockStore + ?Sized> BlockStore for Arc<B> {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        (**self).get(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        (**self).get_range(key, range).await
    }
    async fn get_opened(&self, key: &BlockKey, open: OpenBlock<'_>) -> Result<Option<Result<Bytes>>> {
        (**self).get_opened(key, open).await
    }
    async fn get_checked(&self, key: &BlockKey) -> Result<Option<Given>> {
        (**self).get_checked(key).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        (**self).put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        (**self).delete(key).await
    }
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        (**self).has(key).await
    }
    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        (**self).block_len(key).await
    }
    fn expect(&self, expected: &Expected<'_>) {
        (**self).expect(expected);
    }
    fn subtree<'a>(&'a self, root: &Cid) -> Option<Subtree<'a>> {
        (**self).subtree(root)
    }
    async fn flush(&self) -> Result<()> {
        (**self).flush().await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        (**self).keys()
    }
}

/// Blocks go by multihash: a `CIDv0` and a `CIDv1` of the same bytes are one block.
impl From<&Cid> for BlockKey {
    fn from(cid: &Cid) -> Self {
        Self(cid.multihash_bytes().into())
    }
}
