//! Heads in a vault: what a tree in it is found by. They are in the superblock, so a swap writes the head of the vault and
//! nothing else, and whatever tells an older vault from the current one tells an older head. Spec: spec/vault.md #heads.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Name, Result,
    heads::{Heads, Swap, Version},
};

use crate::{
    flush::After,
    vault::{Inner, Vault},
};

/// All heads of a vault and their names have so many bytes together at most; that of a tree has less than a hundred.
pub(crate) const HEADS_LEN_MAX: usize = 4 << 10;

type Table = BTreeMap<Name, (u64, Bytes)>;

fn version(epoch: u64) -> Version {
    Version(Bytes::copy_from_slice(&epoch.to_be_bytes()))
}

fn load(heads: &Table, name: &Name) -> Option<(Bytes, Version)> {
    heads.get(name).map(|(epoch, head)| (head.clone(), version(*epoch)))
}

#[async_trait]
impl Heads for Vault {
    /// A head that the newest superblock has. Waits for a flush that is under way.
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        detached("vault.load", async move {
            inner.check_current()?;
            let mut head = inner.head.lock().await;
            inner.settle(&mut head).await?;
            Ok(load(&head.current.superblock.heads, &name))
        })
        .await
    }

    /// Sets a head: one swap of the head of the vault. What was put before is durable only if it was flushed.
    ///
    /// # Errors
    /// `TooLarge` where all heads and their names would have more than 4096 bytes; as [`Vault::change_password`].
    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        let (inner, name, expected) = (Arc::clone(&self.inner), name.clone(), expected.cloned());
        detached("vault.swap", async move { inner.swap_head(name, expected.as_ref(), head).await }).await
    }
}

impl Inner {
    async fn swap_head(self: &Arc<Self>, name: Name, expected: Option<&Version>, bytes: Bytes) -> Result<Swap> {
        self.check_writer()?;
        let mut head = self.head.lock().await;
        self.settle(&mut head).await?;
        let mut next = head.current.clone();
        let superblock = &mut next.superblock;
        if load(&superblock.heads, &name).map(|(_, version)| version).as_ref() != expected {
            return Ok(Swap::Lost);
        }
        superblock.epoch += 1;
        superblock.heads.insert(name, (superblock.epoch, bytes));
        let len: usize = superblock.heads.iter().map(|(name, (_, head))| name.as_bytes().len() + head.len()).sum();
        if len > HEADS_LEN_MAX {
            let why = format!("all heads in a vault and their names have at most {HEADS_LEN_MAX} bytes");
            return Err(Error::new(ErrorKind::TooLarge, "vault.swap").because(why));
        }
        let set_in = superblock.epoch;
        self.swap(&mut head, next, After::default()).await?;
        Ok(Swap::Done(version(set_in)))
    }
}

/// Goes on when its caller is dropped: what a swap leaves half known is known to the next call.
async fn detached<T: Send + 'static>(
    op: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.map_err(|error| Error::new(ErrorKind::Internal, op).because(error))?
}
