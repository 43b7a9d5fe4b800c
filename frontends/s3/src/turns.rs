//! Who waits for whom: changes of one key take turns, and a bucket goes while nothing is put into it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as Turn, MutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// So many keys can be written at once that have nothing to do with each other.
const TURN_COUNT: usize = 256;

/// The turns of a server.
#[derive(Debug)]
pub(crate) struct Turns {
    keys: Vec<Turn<()>>,
    /// Of each bucket that somebody has a turn in, or waits for one.
    buckets: Mutex<HashMap<Box<str>, Weak<RwLock<()>>>>,
}

/// The turn of a key in its bucket.
pub(crate) type OfKey<'a> = (OwnedRwLockReadGuard<()>, MutexGuard<'a, ()>);

impl Default for Turns {
    fn default() -> Self {
        Self { keys: (0..TURN_COUNT).map(|_| Turn::new(())).collect(), buckets: Mutex::default() }
    }
}

impl Turns {
    /// Nobody else changes this key, and the bucket stays.
    pub(crate) async fn of_key(&self, bucket: &str, key: &str) -> OfKey<'_> {
        let stays = self.bucket(bucket).read_owned().await;
        let hash = blake3::hash(format!("{bucket}/{key}").as_bytes());
        (stays, self.keys[usize::from(hash.as_bytes()[0]) % TURN_COUNT].lock().await)
    }

    /// Nothing is put into a bucket and nothing removed from it meanwhile.
    pub(crate) async fn of_bucket(&self, bucket: &str) -> OwnedRwLockWriteGuard<()> {
        self.bucket(bucket).write_owned().await
    }

    fn bucket(&self, name: &str) -> Arc<RwLock<()>> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(name).and_then(Weak::upgrade) {
            return bucket;
        }
        buckets.retain(|_, bucket| bucket.strong_count() > 0);
        let bucket = Arc::default();
        buckets.insert(name.into(), Arc::downgrade(&bucket));
        bucket
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_bucket_waits_for_its_keys_and_for_no_others() {
        let turns = Turns::default();
        let (one, other) = (turns.of_key("abc", "k").await, turns.of_key("abd", "l").await);
        let mut leaving = Box::pin(turns.of_bucket("abc"));
        assert!(leaving.as_mut().now_or_never().is_none(), "a key of it is changed");
        drop(one);
        let left = leaving.await;
        assert!(turns.of_key("abc", "k").now_or_never().is_none(), "it goes");
        assert!(turns.of_key("abd", "k").now_or_never().is_some(), "another one does not");
        drop((left, other));
        drop(turns.of_key("xyz", "k").await);
        assert_eq!(turns.buckets.lock().expect("whole").len(), 1, "what nobody has a turn in is forgotten");
    }
}
