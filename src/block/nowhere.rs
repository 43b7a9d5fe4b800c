//! Blocks put nowhere: for who wants to know what content would be named, and to store nothing.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::BoxStream};

use super::{BlockKey, BlockStore};
use crate::Result;

/// A [`BlockStore`] that takes every block and has none: under a [`Dag`](crate::dag::Dag) it makes the CIDs of what is
/// imported, and keeps no memory of it. The one store that breaks the law that what was put can be had.
///
/// ```
/// use std::sync::Arc;
/// use muxfs::{Codec, block::Nowhere, cid_of, dag::{Dag, DagOptions, UnixfsMeta}};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let dag = Dag::new(Arc::new(Nowhere), DagOptions::default());
/// let link = dag.import(&b"hello"[..], UnixfsMeta::default()).await?;
/// assert_eq!(link.cid, cid_of(Codec::Raw, b"hello"));
/// assert!(dag.get_block(&link.cid).await.is_err());
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Nowhere;

#[async_trait]
impl BlockStore for Nowhere {
    async fn get(&self, _key: &BlockKey) -> Result<Option<Bytes>> {
        Ok(None)
    }
    async fn put(&self, _key: &BlockKey, _block: Bytes) -> Result<()> {
        Ok(())
    }
    async fn delete(&self, _key: &BlockKey) -> Result<()> {
        Ok(())
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        stream::empty().boxed()
    }
}
