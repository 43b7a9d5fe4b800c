//! Blocks that were held against their key, as a type: whoever is given one needs not hash it again.
//!
//! A block from far away is hashed where it arrives, since a cache must not keep what is none, and whoever sent it is
//! remembered for it. The [`Dag`](crate::dag::Dag) above believes no store and would hash it again. A [`Checked`] is made by
//! hashing alone, so to take one is not to believe anybody. Spec: spec/block-stores.md.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::BlockKey;
use crate::{Cid, Result, dag::hashing::Hashing};

/// A block that hashes to its key, a multihash. Made by [`Checks::check`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    key: BlockKey,
    block: Bytes,
}

impl Checked {
    /// Its key.
    pub fn key(&self) -> &BlockKey {
        &self.key
    }

    /// Its bytes.
    pub fn block(&self) -> &Bytes {
        &self.block
    }
}

/// Makes [`Checked`] blocks, two at once where two wait. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checks(Arc<Hashing>);

impl Checks {
    /// With threads of its own, as far as there is a Tokio runtime.
    pub fn new() -> Self {
        Self(Arc::new(Hashing::new()))
    }

    /// Holds a block against a CID, of whatever codec.
    ///
    /// ```
    /// use muxfs::{BlockKey, Codec, block::Checks, cid_of};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let cid = cid_of(Codec::Raw, b"hello");
    /// let checked = Checks::new().check(&cid, "hello".into()).await?;
    /// assert_eq!(checked.key(), &BlockKey::from(&cid));
    /// assert!(Checks::new().check(&cid, "hallo".into()).await.is_err());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Corrupt` where it is not the block of the CID.
    pub async fn check(&self, cid: &Cid, block: Bytes) -> Result<Checked> {
        self.0.verify(cid, &block).await?;
        Ok(Checked { key: BlockKey::from(cid), block })
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self::new()
    }
}

/// The blocks below a CID as they come, each with the CID that whoever sends it calls it by.
pub type Subtree<'a> = BoxStream<'a, Result<(Cid, Checked)>>;

/// What a store gives: bytes that nobody held against their key, or a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// What the store has.
    Bytes(Bytes),
    /// What is the block of its key.
    Checked(Checked),
}

impl Given {
    /// The bytes, be they checked or not.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Checked(checked) => checked.block(),
        }
    }
}
