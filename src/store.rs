//! The QFS filesystem: whole files by path.
//!
//! [`Cas`](crate::cas::Cas) (content-addressed) and [`AsStore`](crate::vfs::as_store::AsStore) (location-addressed)
//! implement it; stores of blocks need not.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{Error, ErrorKind, File, Prefix, QfsPath, Result, SecretKey, Source, seal};

/// How a store names what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// By CID.
    Content,
    /// By place.
    Location,
}

/// Whole files by path. Paths come with the mount's prefix and go out with it.
///
/// A content-addressed store knows `/prefix/<cid>[/path]` and nothing else; a location-addressed one refuses to write
/// a path that begins with a CID.
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// The kind of store ("ipfs"): often, but not necessarily, the prefix of its mount.
    fn kind(&self) -> Prefix;

    /// How it names what it holds.
    fn addressing(&self) -> Addressing;

    /// Whether `open` would find something.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is not of this store's form; `Unavailable` where it cannot tell.
    async fn has(&self, path: &QfsPath) -> Result<bool>;

    /// Opens a file, a directory or a linked-data node.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a path that is not of this store's form; `Corrupt`.
    async fn open(&self, path: &QfsPath) -> Result<Box<dyn File>>;

    /// Stores `source`, durably, and returns its path. Idempotent.
    ///
    /// By content: `/prefix` gets a CID; `/prefix/<cid>` must hash to it; both are pinned. By location: missing
    /// directories on the way are made, a file that is there is replaced at one stroke.
    ///
    /// # Errors
    /// `InvalidArgument` where the content does not hash to the CID asked for, or the path is not of this store's form.
    async fn put(&self, path: &QfsPath, source: Source) -> Result<QfsPath>;

    /// Removes (by content: unpins), durably. Idempotent; whether there was something to remove.
    async fn delete(&self, path: &QfsPath) -> Result<bool>;

    /// Opens what [`put_encrypted`](Self::put_encrypted) put, in whatever store; [`seal::open`] says what it is like.
    ///
    /// # Errors
    /// As `open` and [`seal::open`].
    async fn open_encrypted(&self, key: &SecretKey, path: &QfsPath) -> Result<Box<dyn File>> {
        seal::open(key, self.open(path).await?).await.map_err(|error| error.at(path))
    }

    /// `put`, sealed. Not idempotent: each time another salt is drawn, so by content it gets another CID.
    ///
    /// # Errors
    /// As `put`; `InvalidArgument` for linked data and for a path that names a CID; `Unsupported` by a store without
    /// randomness.
    async fn put_encrypted(&self, _key: &SecretKey, path: &QfsPath, _source: Source) -> Result<QfsPath> {
        Err(Error::new(ErrorKind::Unsupported, "store.put_encrypted").at(path))
    }
}
