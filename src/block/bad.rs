//! What a layer found to be bad below it, so that a put replaces it.
//!
//! A store keeps the bytes that it has under a key, and knows not that a layer above cannot read them.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Mutex as AsyncMutex;

use super::{BlockKey, BlockStore};
use crate::{ErrorKind, Result};

/// So many keys are remembered: of a store with more, each is found again when it is read again.
const BAD_COUNT_MAX: usize = 1 << 16;

/// The keys, as the store below has them, under which a layer found bytes that are `Corrupt`.
#[derive(Debug, Default)]
pub(super) struct Bad {
    keys: Mutex<HashSet<BlockKey>>,
    /// Whoever holds it replaces bad bytes.
    replacing: AsyncMutex<()>,
}

impl Bad {
    fn keys(&self) -> MutexGuard<'_, HashSet<BlockKey>> {
        // A set is whole whatever panics around it.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what a layer read out of the bytes under `key`, and remembers if they were `Corrupt`.
    pub(super) fn note<T>(&self, key: &BlockKey, read: Result<T>) -> Result<T> {
        if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt) {
            let mut keys = self.keys();
            if keys.len() < BAD_COUNT_MAX {
                keys.insert(key.clone());
            }
        }
        read
    }

    /// Puts into the store below, in the place of what was found to be bad there. Left half way the key stays
    /// remembered, and the next put does it.
    pub(super) async fn put(&self, inner: &dyn BlockStore, key: &BlockKey, block: Bytes) -> Result<()> {
        if !self.keys().contains(key) {
            return inner.put(key, block).await;
        }
        let _turn = self.replacing.lock().await;
        // Another may have done so by now, or the store below have mended it: a good block is deleted by nobody.
        let found = inner.get(key).await;
        if self.keys().contains(key) && !matches!(found, Ok(Some(found)) if found == block) {
            inner.delete(key).await?;
        }
        inner.put(key, block).await?;
        self.keys().remove(key);
        Ok(())
    }
}
