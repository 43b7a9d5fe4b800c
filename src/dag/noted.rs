//! A store for tests that notes what is asked of it.

use std::{collections::BTreeSet, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{BlockKey, BlockStore, Result, block::Mem};

/// Blocks in memory, and the keys that were read and put.
#[derive(Debug, Default)]
pub(super) struct Noted {
    mem: Mem,
    read: Mutex<BTreeSet<BlockKey>>,
    put: Mutex<BTreeSet<BlockKey>>,
}

impl Noted {
    /// How many different blocks were read and put since the last call.
    pub(super) fn take(&self) -> (usize, usize) {
        let take = |keys: &Mutex<BTreeSet<BlockKey>>| std::mem::take(&mut *keys.lock().expect("unpoisoned")).len();
        (take(&self.read), take(&self.put))
    }
}

#[async_trait]
impl BlockStore for Noted {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.read.lock().expect("unpoisoned").insert(key.clone());
        self.mem.get(key).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.put.lock().expect("unpoisoned").insert(key.clone());
        self.mem.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.mem.delete(key).await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.mem.keys()
    }
}
