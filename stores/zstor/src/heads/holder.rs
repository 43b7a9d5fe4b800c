//! A node as a place of editions: each in a slot, beside the shards, encrypted as blocks are.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::{join, join_all},
    stream::{self, BoxStream},
};
use muxfs::{BlockKey, BlockStore, Error, ErrorKind, Result, block::Encrypt, seal::SecretKey};
use tokio::sync::Mutex as AsyncMutex;

use super::edition::{Edition, REPLACED, SLOT_COUNT};

/// What the key of an edition ends in on a node: no shard's key does.
const SUFFIX: u8 = 0xfe;

/// The newest key, and older ones.
pub(super) type Keys = (SecretKey, Vec<SecretKey>);

/// A node, as far as it has heads.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) name: String,
    node: Arc<dyn BlockStore>,
    slots: Arc<Encrypt>,
    /// Under older keys.
    older: Vec<Arc<Encrypt>>,
    /// Whether nothing is there any more.
    is_retired: AtomicBool,
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

async fn edition_in(slots: &Encrypt, slot: usize) -> Result<Option<Edition>> {
    slots.get(&slot_key(slot)?).await?.map(|bytes| Edition::decode(&bytes)).transpose()
}

impl Holder {
    pub(super) fn new((name, node): (String, Arc<dyn BlockStore>), (newest, older): &Keys) -> Self {
        let slots = |key: &SecretKey| Arc::new(Encrypt::new(Arc::new(Beside(node.clone())), key.clone()));
        let (slots, older) = (slots(newest), older.iter().map(slots).collect());
        Self { name, node, slots, older, is_retired: AtomicBool::new(false), writing: Arc::default() }
    }

    /// One that is written when another one, perhaps of the same node, is done.
    pub(super) fn after(self, other: &Self) -> Self {
        Self { writing: other.writing.clone(), ..self }
    }

    /// The same node with other keys.
    pub(super) fn with_keys(self, keys: &Keys) -> Self {
        Self { writing: self.writing, ..Self::new((self.name, self.node), keys) }
    }

    /// The editions that it has, of the one before a claim as well. One that is damaged is none: others have it too.
    pub(super) async fn read(&self) -> Result<Vec<Edition>> {
        let slots = (0..SLOT_COUNT).map(|slot| edition_in(&self.slots, slot));
        let older = self.older.iter().flat_map(|slots| (0..SLOT_COUNT).map(|slot| edition_in(slots, slot)));
        let (newest, older) = join(join_all(slots), join_all(older)).await;
        // That a key was replaced is news to who has no newer one.
        let is_news =
            |edition: &Result<Option<Edition>>| !matches!(edition, Err(error) if error.kind() == ErrorKind::BadKey);
        let found = newest.into_iter().chain(older.into_iter().filter(is_news));
        let mut editions = Vec::new();
        for edition in found.filter_map(Result::transpose) {
            match edition {
                // One that was placed under another key again.
                Ok(edition) if editions.contains(&edition) => {}
                Ok(edition) => editions.push(edition),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(node = self.name, cause = format!("{error:#}"), "heads on a node are damaged");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(editions)
    }

    /// Whether it may have something under older keys.
    pub(super) fn has_older(&self) -> bool {
        !self.older.is_empty() && !self.is_retired.load(Ordering::Acquire)
    }

    /// Takes away what the node has under older keys, and leaves there that they were replaced.
    pub(super) async fn retire(&self) -> Result<()> {
        if !self.has_older() {
            return Ok(());
        }
        let _writing = self.writing.lock().await;
        for slots in &self.older {
            let first = slot_key(0)?;
            slots.delete(&first).await?;
            slots.put(&first, Bytes::from_static(&REPLACED)).await?;
            let others = (1..SLOT_COUNT).map(|slot| async move { slots.delete(&slot_key(slot)?).await });
            join_all(others).await.into_iter().collect::<Result<()>>()?;
            slots.flush().await?;
        }
        self.is_retired.store(true, Ordering::Release);
        Ok(())
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
