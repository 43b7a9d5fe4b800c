//! Blocks from elsewhere: a store, and others that are asked for what it has not.
//!
//! What is put, deleted and listed is the first store's alone; the others are only read, each after the one before.
//! They may be anybody's, so what they give can be held against its key before it is given on or kept. Spec:
//! spec/layers.md
//! #fallback.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{TryFutureExt as _, stream::BoxStream};

use super::{BlockKey, BlockStore};
use crate::{Error, ErrorKind, Result};

/// A [`BlockStore`] over several: a block that the first has not, or cannot give, is looked for in the others in their
/// order.
///
/// It keeps the laws of `BlockStore` where the others have nothing. A block that is deleted, from the first alone, is
/// still what others give. An absent block is known to be absent only if all say so: if one fails, and none has it,
/// that is the error.
pub struct Fallback {
    first: Arc<dyn BlockStore>,
    others: Vec<Arc<dyn BlockStore>>,
    check: Option<Check>,
    is_filled: bool,
}

type Check = Box<dyn Fn(&BlockKey, &Bytes) -> bool + Send + Sync>;

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Fallback");
        debug.field("first", &self.first).field("others", &self.others).field("is_filled", &self.is_filled);
        debug.finish_non_exhaustive()
    }
}

impl Fallback {
    /// Asks `others` for what `first` has not.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, block::{Fallback, Mem}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (near, far) = (Arc::new(Mem::default()), Arc::new(Mem::default()));
    /// let key = BlockKey::new(b"k")?;
    /// far.put(&key, "far away".into()).await?;
    /// let store = Fallback::new(near.clone(), vec![far]).filling();
    /// assert_eq!(store.get(&key).await?, Some("far away".into()));
    /// assert!(near.has(&key).await?);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(first: Arc<dyn BlockStore>, others: Vec<Arc<dyn BlockStore>>) -> Self {
        Self { first, others, check: None, is_filled: false }
    }

    /// What the first store has not and another gives is put into it. That it could not be is no error of the read.
    #[must_use]
    pub fn filling(mut self) -> Self {
        self.is_filled = true;
        self
    }

    /// What another gives and `is_good` refuses is neither given on nor kept: the next one is asked.
    #[must_use]
    pub fn with_check(mut self, is_good: impl Fn(&BlockKey, &Bytes) -> bool + Send + Sync + 'static) -> Self {
        self.check = Some(Box::new(is_good));
        self
    }

    fn all(&self) -> impl Iterator<Item = &Arc<dyn BlockStore>> + Send {
        [&self.first].into_iter().chain(&self.others)
    }

    fn refuse(&self, key: &BlockKey, block: &Bytes) -> Result<()> {
        match &self.check {
            Some(is_good) if !is_good(key, block) => {
                Err(Error::new(ErrorKind::Corrupt, "fallback.get").because("a source gave another block"))
            }
            _ => Ok(()),
        }
    }
}

/// The first answer that is one; the next is asked when the one before has answered.
async fn first_of<T>(answers: impl Iterator<Item = impl Future<Output = Result<Option<T>>>>) -> Result<Option<T>> {
    let mut failed = None;
    for answer in answers {
        match answer.await {
            Ok(Some(answer)) => return Ok(Some(answer)),
            Ok(None) => {}
            // That of the nearest says most.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(None), Err)
}

#[async_trait]
impl BlockStore for Fallback {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let mut failed = match self.first.get(key).await {
            Ok(Some(block)) => return Ok(Some(block)),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        for other in &self.others {
            let got = match other.get(key).await {
                Ok(Some(block)) => self.refuse(key, &block).map(|()| block),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match got {
                Ok(block) => {
                    if self.is_filled
                        && let Err(error) = self.first.put(key, block.clone()).await
                    {
                        tracing::debug!(%error, "a block from elsewhere was not kept");
                    }
                    return Ok(Some(block));
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// From the store that has the block; where there is a check, out of the whole of it.
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        if self.check.is_none() && !self.is_filled {
            return first_of(self.all().map(|store| store.get_range(key, range.clone()))).await;
        }
        if let Ok(Some(part)) = self.first.get_range(key, range.clone()).await {
            return Ok(Some(part));
        }
        Ok(self.get(key).await?.map(|block| {
            let end = range.end.min(block.len());
            block.slice(range.start.min(end)..end)
        }))
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.first.put(key, block).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.first.delete(key).await
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        let has = self.all().map(|store| store.has(key).map_ok(|has| has.then_some(())));
        Ok(first_of(has).await?.is_some())
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        first_of(self.all().map(|store| store.block_len(key))).await
    }

    async fn flush(&self) -> Result<()> {
        self.first.flush().await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.first.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        block::Mem,
        block_store_laws,
        testing::fault::{BlockCall, Fault, Faulty},
    };

    block_store_laws!(alone, async { Fallback::new(Arc::new(Mem::default()), Vec::new()) });
    block_store_laws!(over_empty_others, async {
        let others: Vec<Arc<dyn BlockStore>> = vec![Arc::new(Mem::default()), Arc::new(Mem::default())];
        Fallback::new(Arc::new(Mem::default()), others).filling()
    });

    fn key() -> BlockKey {
        BlockKey::new(b"key").expect("a key")
    }

    /// Three stores in memory that fail when they are told to; the last two have the block.
    async fn three() -> [Arc<Faulty<Mem>>; 3] {
        let stores = [(); 3].map(|()| Arc::new(Faulty::new(Mem::default())));
        for (store, block) in stores.iter().zip(["", "second", "third"]).skip(1) {
            store.put(&key(), block.into()).await.expect("put");
        }
        stores
    }

    fn over([first, second, third]: &[Arc<Faulty<Mem>>; 3]) -> Fallback {
        Fallback::new(first.clone(), vec![second.clone(), third.clone()])
    }

    #[tokio::test]
    async fn the_first_that_has_it_gives_it() {
        let stores = three().await;
        let store = over(&stores);
        assert_eq!(store.get(&key()).await.expect("get"), Some("second".into()));
        assert_eq!(store.get_range(&key(), 1..4).await.expect("get"), Some("eco".into()));
        assert_eq!(store.block_len(&key()).await.expect("length"), Some(6));
        assert!(store.has(&key()).await.expect("has") && !stores[0].inner().has(&key()).await.expect("has"));
        stores[1].fault_all(Fault::Fail(ErrorKind::Unavailable));
        assert_eq!(store.get(&key()).await.expect("get"), Some("third".into()), "one that fails is passed over");
        assert_eq!(store.block_len(&key()).await.expect("length"), Some(5));
        stores[0].fault_all(Fault::Fail(ErrorKind::Io));
        assert_eq!(store.get(&key()).await.expect("get"), Some("third".into()), "as the first is");
        stores[0].fail_next(BlockCall::Put, ErrorKind::NoSpace);
        store.put(&key(), "mine".into()).await.expect_err("but nothing is put elsewhere");
    }

    /// Absence is a promise that a store which is out of reach cannot make.
    #[tokio::test]
    async fn what_none_has_is_absent_only_if_all_say_so() {
        let stores = three().await;
        let store = over(&stores);
        let other = BlockKey::new(b"other").expect("a key");
        assert_eq!(store.get(&other).await.expect("get"), None);
        stores[2].fault_all(Fault::Fail(ErrorKind::Unavailable));
        assert_eq!(store.get(&other).await.expect_err("unknown").kind(), ErrorKind::Unavailable);
        assert_eq!(store.has(&other).await.expect_err("unknown").kind(), ErrorKind::Unavailable);
        assert_eq!(store.block_len(&other).await.expect_err("unknown").kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn what_is_refused_is_neither_given_nor_kept() {
        let stores = three().await;
        let store = over(&stores).filling().with_check(|_, block| &block[..] == b"third");
        for part in [0..99, 1..4] {
            let expected = Bytes::from("third").slice(part.start..part.end.min(5));
            assert_eq!(store.get_range(&key(), part).await.expect("get"), Some(expected));
        }
        assert_eq!(stores[0].inner().get(&key()).await.expect("get"), Some("third".into()), "kept");
        stores[0].delete(&key()).await.expect("delete");
        let store = over(&stores).filling().with_check(|_, _| false);
        assert_eq!(store.get(&key()).await.expect_err("refused").kind(), ErrorKind::Corrupt);
        assert_eq!(store.get_range(&key(), 0..1).await.expect_err("refused").kind(), ErrorKind::Corrupt);
        assert_eq!(stores[0].inner().get(&key()).await.expect("get"), None);
    }

    /// Where the first has no room a read is no worse for it.
    #[tokio::test]
    async fn what_cannot_be_kept_is_given_all_the_same() {
        let stores = three().await;
        let store = over(&stores).filling();
        stores[0].fail_next(BlockCall::Put, ErrorKind::NoSpace);
        assert_eq!(store.get(&key()).await.expect("get"), Some("second".into()));
    }
}
