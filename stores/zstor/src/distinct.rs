//! Each key once: what lists shards on many nodes names a block once for each of them.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher as _,
    ops::Range,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream::BoxStream};
use muxfs::{BlockKey, BlockStore, Result};

/// A [`BlockStore`] over another that lists each key once, so that who goes through all blocks, as a verification and a
/// collection of garbage do, looks at each but once.
///
/// A listing remembers 8 bytes of each key, hashed with numbers drawn for it: two keys of one hash, of which the second is not
/// listed, happen by chance once in 2^64 pairs, and cannot be made up.
#[derive(Debug)]
pub(crate) struct Distinct {
    inner: Arc<dyn BlockStore>,
}

impl Distinct {
    pub(crate) fn new(inner: Arc<dyn BlockStore>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl BlockStore for Distinct {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.inner.get_range(key, range).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.inner.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.delete(key).await
    }
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.inner.has(key).await
    }
    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.inner.block_len(key).await
    }
    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let (hasher, mut seen) = (RandomState::new(), HashSet::new());
        self.inner.keys().try_filter(move |key| future::ready(seen.insert(hasher.hash_one(key)))).boxed()
    }
}
