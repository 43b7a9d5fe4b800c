//! The place of mutable pointers: small bytes under a name, swapped atomically.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Name, Result};

/// One value a head had: opaque (a sequence number, an ETag), comparable for equality only, never had twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub Bytes);

#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a lost swap changed nothing"]
pub enum Swap {
    Done(Version),
    Lost,
}

/// The place of mutable pointers: small bytes under a name, swapped atomically. It lets a new machine find a tree.
#[async_trait]
pub trait Heads: Debug + Send + Sync + 'static {
    /// The head and its version; `None` if it never was set. No older than the last `swap` that returned `Done`.
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>>;
    /// Sets the head if its version is `expected` (`None`: if it never was set); of several swappers one wins.
    /// `Done` is durable. After an error it may have happened or not: `load` tells.
    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap>;
}
