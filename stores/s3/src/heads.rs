//! Heads in a bucket: part of the state that each pack ends with.
//!
//! So a commit's blocks and its head are one put, the version of a head is the number of the pack that set it, which never
//! comes back, and the conditional put of that number is the comparison. Spec: spec/s3-store.md #heads.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Name, Result,
    heads::{HEAD_LEN_MAX, Heads, Swap, Version},
};

use crate::store::{Inner, S3Store};

fn version(number: u64) -> Version {
    Version(Bytes::copy_from_slice(&number.to_be_bytes()))
}

impl Inner {
    /// Finds out what became of a swap that failed.
    async fn settle(self: &Arc<Self>) -> Result<()> {
        let last = self.log().last_swap;
        self.sent(last).await
    }

    fn head(&self, name: &Name) -> Option<(Bytes, Version)> {
        self.log().state.heads.get(name).map(|(head, number)| (head.clone(), version(*number)))
    }

    async fn swap(self: Arc<Self>, name: Name, expected: Option<Version>, head: Bytes) -> Result<Swap> {
        let _turn = self.swapping.lock().await;
        self.settle().await?;
        if self.head(&name).map(|(_, version)| version) != expected {
            return Ok(Swap::Lost);
        }
        self.keep_up().await;
        self.room().await?;
        let nonce = self.nonce();
        let number = {
            let mut log = self.log();
            self.check_open(&log)?;
            let number = log.next();
            log.state.heads.insert(name, (head, number));
            log.last_swap = number;
            log.seal(nonce, true);
            number
        };
        self.send(number);
        self.sent(number).await?;
        Ok(Swap::Done(version(number)))
    }
}

#[async_trait]
impl Heads for S3Store {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        let inner = &self.inner;
        if inner.is_follower() {
            inner.refresh().await?;
            return Ok(inner.head(name));
        }
        let _turn = inner.swapping.lock().await;
        inner.settle().await?;
        // Another may have taken over of which this does not know: then its heads are newer.
        let (next, is_idle, epoch) = {
            let log = inner.log();
            (log.next(), log.sealed.is_empty(), log.epoch)
        };
        if is_idle && inner.whose(next).await?.is_some_and(|(there, _)| there.epoch > epoch) {
            return Err(inner.passed_over().await);
        }
        inner.check_writer()?;
        Ok(inner.head(name))
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        const OP: &str = "s3.swap";
        if head.len() > HEAD_LEN_MAX {
            let why = format!("a head has at most {HEAD_LEN_MAX} bytes");
            return Err(Error::new(ErrorKind::TooLarge, OP).because(why));
        }
        self.inner.check_writer()?;
        // Not to stop half way when the caller is dropped.
        let (name, expected, head) = (name.clone(), expected.cloned(), Bytes::copy_from_slice(&head));
        let work = self.inner.tasks.spawn(Arc::clone(&self.inner).swap(name, expected, head));
        work.await.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
    }
}
