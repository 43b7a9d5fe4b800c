//! A node as a place of editions: each in a slot, beside the shards, encrypted as blocks are.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::join_all,
    stream::{self, BoxStream},
};
use muxfs::{BlockKey, BlockStore, Error, ErrorKind, Result, block::Encrypt, seal::SecretKey};
use tokio::sync::Mutex as AsyncMutex;

use super::edition::{Edition, SLOT_COUNT};

/// What the key of an edition ends in on a node: no shard's key does.
const SUFFIX: u8 = 0xfe;

/// A node, as far as it has heads.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) name: String,
    slots: Arc<Encrypt>,
    /// Held until the node has answered, also where nobody waits for that any more: what is written late takes the place of
    /// nothing newer.
    writing: Arc<AsyncMutex<()>>,
}

/// Keys that are no shards', in the store of a node.
#[derive(Debug)]
struct Beside(Arc<dyn BlockStore>);

fn beside(key: &BlockKey) -> Result<BlockKey> {
    BlockKey::new(&[key.as_bytes(), &[SUFFIX]].concat())
}

#[async_trait]
impl BlockStore for Beside {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.0.get(&beside(key)?).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.0.get_range(&beside(key)?, range).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.0.put(&beside(key)?, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.0.delete(&beside(key)?).await
    }
    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        stream::empty().boxed()
    }
}

fn slot_key(slot: usize) -> Result<BlockKey> {
    BlockKey::new(format!("heads {slot}").as_bytes())
}

impl Holder {
    pub(super) fn new((name, node): (String, Arc<dyn BlockStore>), key: &SecretKey) -> Self {
        let slots = Arc::new(Encrypt::new(Arc::new(Beside(node)), key.clone()));
        Self { name, slots, writing: Arc::default() }
    }

    /// The editions that it has, of the one before a claim as well. One that is damaged is none: others have it too.
    pub(super) async fn read(&self) -> Result<Vec<Edition>> {
        let slots = (0..SLOT_COUNT).map(|slot| async move {
            self.slots.get(&slot_key(slot)?).await?.map(|bytes| Edition::decode(&bytes)).transpose()
        });
        let mut editions = Vec::new();
        for edition in join_all(slots).await.into_iter().filter_map(Result::transpose) {
            match edition {
                Ok(edition) => editions.push(edition),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(node = self.name, cause = format!("{error:#}"), "heads on a node are damaged");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(editions)
    }

    /// Has the node keep an edition, when it is done with the one before.
    pub(super) async fn write(&self, edition: &Edition) -> Result<()> {
        let writing = Arc::clone(&self.writing).lock_owned().await;
        let (key, edition, slots) = (slot_key(edition.slot())?, edition.encode(), self.slots.clone());
        let written = tokio::spawn(async move {
            let _writing = writing;
            slots.delete(&key).await?;
            slots.put(&key, edition).await?;
            slots.flush().await
        });
        written.await.map_err(|error| Error::new(ErrorKind::Internal, "zstor.heads").because(error))?
    }
}
