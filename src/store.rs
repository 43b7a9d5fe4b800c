//! The QFS filesystem: whole files by path.
//!
//! [`Cas`](crate::cas::Cas) (content-addressed) and [`AsStore`](crate::vfs::as_store::AsStore) (location-addressed)
//! implement it; stores of blocks need not.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{Error, ErrorKind, File, Prefix, QfsPath, Result, SecretKey, Source};

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

    /// `open`, unsealed.
    ///
    /// # Errors
    /// `Unsupported` until sealed files are there.
    async fn open_encrypted(&self, _key: &SecretKey, path: &QfsPath) -> Result<Box<dyn File>> {
        Err(Error::new(ErrorKind::Unsupported, "store.open_encrypted").at(path))
    }

    /// `put`, sealed.
    ///
    /// # Errors
    /// `Unsupported` until sealed files are there.
    async fn put_encrypted(&self, _key: &SecretKey, path: &QfsPath, _source: Source) -> Result<QfsPath> {
        Err(Error::new(ErrorKind::Unsupported, "store.put_encrypted").at(path))
    }
}
