//! Nothing is deleted where it is not known what is kept.

use std::{ops::Range, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use muxfs::{BlockKey, BlockStore, Error, ErrorKind, Result};

use crate::heads::NodeHeads;

/// A [`BlockStore`] over another that refuses deletions for as long as there is a file, since the pins of a data directory
/// that was lost are not on the nodes and what only they kept would be collected as garbage; when another machine has taken
/// over, whose blocks nothing here leads to; and for as long as a machine that comes next may find other heads than these.
#[derive(Debug)]
pub(crate) struct Keeping {
    inner: Arc<dyn BlockStore>,
    file: PathBuf,
    heads: Arc<NodeHeads>,
}

impl Keeping {
    pub(crate) fn new(inner: Arc<dyn BlockStore>, file: PathBuf, heads: Arc<NodeHeads>) -> Self {
        Self { inner, file, heads }
    }
}

#[async_trait]
impl BlockStore for Keeping {
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
        if !matches!(self.file.try_exists(), Ok(false)) {
            let why = format!(
                "the pins of the machine that was lost are not known, and what only they kept would go: pin what is to stay \
                 (muxfs pin add), and remove the file {}",
                self.file.display()
            );
            return Err(Error::new(ErrorKind::Denied, "zstor.delete").because(why));
        }
        self.heads.check_alone().await?;
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
        self.inner.keys()
    }
}
