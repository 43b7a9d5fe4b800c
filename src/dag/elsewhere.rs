//! Blocks that the store of a [`Dag`] has not, looked for elsewhere: for who reads by CID, and for nobody else.
//!
//! Sits beside [`Dag::get_block`], the only one that comes here. Two `Dag`s stand over one store: with one everything is
//! put, committed, pinned, collected and checked, and it knows only what the store holds; from it
//! [`Dag::with_elsewhere`] makes the one that frontends read content by CID with. What was found elsewhere is kept in a
//! memory of its own, so that the first never takes it for something that is in the store.
//! Spec: spec/sources.md #who-asks; why: spec/adr/0026-who-may-fetch.md.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Dag,
    verified::{Verified, check_len},
};
use crate::{
    BlockKey, BlockStore, Cid, Error, ErrorKind, Result,
    block::{Expected, Given, Subtree},
};

/// Where else blocks are, and those found there that are kept in memory.
#[derive(Debug)]
pub(super) struct Elsewhere {
    blocks: Arc<dyn BlockStore>,
    pub(super) verified: Verified,
}

impl Dag {
    /// This DAG, for who only reads: a block that its store has not, or cannot give, is looked for in `blocks`, and
    /// verified as any other. Whether a block is there, how long it is, what there is at all, and what a walk or a
    /// collection meets, stays a matter of the store alone.
    ///
    /// What is found is not put into the store. As much of it is kept in memory again as of the store's own
    /// ([`DagOptions::verified_len_max`](super::DagOptions::verified_len_max)).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{BlockStore, Codec, block::Mem, dag::{Dag, DagOptions}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (near, far) = (Arc::new(Mem::default()), Arc::new(Mem::default()));
    /// let cid = Dag::new(far.clone(), DagOptions::default()).put_block(Codec::Raw, "far away".into()).await?;
    /// let dag = Dag::new(near, DagOptions::default());
    /// assert!(dag.get_block(&cid).await.is_err());
    /// assert_eq!(dag.with_elsewhere(far).get_block(&cid).await?, "far away");
    /// assert!(dag.get_block(&cid).await.is_err());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn with_elsewhere(&self, blocks: Arc<dyn BlockStore>) -> Self {
        let verified = Verified::new(self.options.verified_len_max);
        Self { elsewhere: Some(Arc::new(Elsewhere { blocks, verified })), ..self.clone() }
    }

    /// Whether a block may be far away.
    pub(crate) fn looks_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// Tells where blocks may be far away what is about to be read.
    pub(super) fn expect_elsewhere(&self, expected: &Expected<'_>) {
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.blocks.expect(expected);
        }
    }

    /// All blocks below one, where blocks that may be far away come in one go.
    pub(super) fn subtree_elsewhere<'a>(&'a self, root: &Cid) -> Option<Subtree<'a>> {
        self.elsewhere.as_ref()?.blocks.subtree(root)
    }

    /// A block that was found elsewhere and is kept in memory.
    pub(super) fn kept_elsewhere(&self, key: &BlockKey) -> Option<Bytes> {
        self.elsewhere.as_ref()?.verified.get(key)
    }

    /// Looks elsewhere for a block that the store did not give, if there is such a place. Where that has none either, or
    /// fails while the store holds a bad one, the answer is the store's; `keep` says whether the block is kept in memory.
    pub(super) async fn or_elsewhere(
        &self,
        cid: &Cid,
        key: &BlockKey,
        keep: bool,
        held: Result<Bytes>,
    ) -> Result<Bytes> {
        let (error, elsewhere) = match (held, &self.elsewhere) {
            (Err(error), Some(elsewhere)) if may_be_elsewhere(&error) => (error, elsewhere),
            (held, _) => return held,
        };
        let found = if keep {
            elsewhere.verified.get_or_fetch(key, || self.fetch(elsewhere, cid, key)).await
        } else {
            self.fetch(elsewhere, cid, key).await.map_err(Arc::new)
        };
        // Both are named: the block here, and who could not give it below.
        let found = found.map_err(|error| Error::new(error.kind(), "dag.fetch").at(cid).because(error));
        match found {
            Err(other) if other.kind() == ErrorKind::NotFound && error.kind() == ErrorKind::NotFound => {
                Err(other.because("neither the store nor anybody else that was asked holds this block"))
            }
            Err(other) if other.kind() == ErrorKind::NotFound => Err(error),
            // What is wrong here stays wrong when those who could help are back.
            Err(other) if error.kind() != ErrorKind::NotFound => {
                let why = format!("{error:#}; and nobody else gives it: {other:#}");
                Err(Error::new(error.kind(), "dag.fetch").at(cid).because(why))
            }
            found => found,
        }
    }

    async fn fetch(&self, elsewhere: &Elsewhere, cid: &Cid, key: &BlockKey) -> Result<Bytes> {
        let given = elsewhere.blocks.get_checked(key).await?;
        let given = given.ok_or_else(|| Error::new(ErrorKind::NotFound, "dag.fetch"))?;
        match &given {
            Given::Checked(checked) if checked.key() == key => check_len(checked.block(), "dag.fetch")?,
            _ => self.check(cid, given.bytes()).await?,
        }
        Ok(given.bytes().clone())
    }
}

/// Whether what keeps the store from giving a block says nothing of the block.
fn may_be_elsewhere(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Unavailable | ErrorKind::Io)
}
