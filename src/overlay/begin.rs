//! Where an overlay begins: a tree without anything is laid over a directory, once and for good.
//!
//! That is said by an attribute of the root, which a checkout leaves as it is. So an overlay that has nothing, because
//! somebody checked out a directory that is empty, is none that is new. One whose directory below is not there yet
//! waits for it: nobody looks into it before, or changes it.

use super::{Below, Overlay, now::Now};
use crate::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Cookie, Ino, Listing, SetAttr, SetTime, Vfs as _, XattrMode, ext::walk},
};

/// The name of the snapshot that is all as below.
pub const BELOW_SNAPSHOT: &str = "below";

impl Overlay {
    /// The same, to be laid over what is at this path of the file system below, as soon as that is there and somebody looks, unless
    /// it lies over something.
    #[must_use]
    pub fn over(self, path: Vec<Name>) -> Self {
        Self { over: Some(path), ..self }
    }

    /// What it lies over; `None` before it was said, durably.
    ///
    /// # Errors
    /// `Unsupported` where a newer program said it; `Corrupt`, `Io`.
    pub async fn base(&self) -> Result<Option<Below>> {
        self.now(|now| async move { now.said(now.tree.root(), &self.names.base).await }).await
    }

    /// Lays it over what it is to lie over ([`Overlay::over`]), unless it lies over something, or the tree has files of its own and
    /// lies over nothing. Everything that looks into the root does the same first.
    ///
    /// # Errors
    /// `Unavailable` where that is not there; those of [`Overlay::begin`].
    pub async fn ready(&self) -> Result<()> {
        let Some(over) = &self.over else { return Ok(()) };
        let begin = async || {
            let is_begun = self.base().await?.is_some();
            if is_begun {
                self.name_below().await;
            }
            if is_begun || !self.now(async |now: Now<'_>| now.is_empty().await).await? {
                return Ok(());
            }
            let (top, _) = walk(&self.lower, self.lower.root(), over).await.map_err(|error| {
                let why = format!("what it is to lie over is not there, and it begins when that is: {error:#}");
                Error::new(ErrorKind::Unavailable, "overlay.begin").because(why)
            })?;
            self.begin(top.ino()).await
        };
        self.begun.get_or_try_init(begin).await.copied()
    }

    /// Makes the snapshot [`BELOW_SNAPSHOT`] where it is missing, as after a crash before it was made, and nothing came yet: else
    /// nobody can tell any more what was below.
    async fn name_below(&self) {
        let is_missing = async |now: Now<'_>| {
            let is_named = now.tree.head().1.snapshots.contains_key(BELOW_SNAPSHOT);
            Ok(!is_named && now.dir_below(now.tree.root()).await?.is_some() && now.is_empty().await?)
        };
        let named = match self.now(is_missing).await {
            Ok(true) => self.tree.snapshot(BELOW_SNAPSHOT).await.map(drop),
            other => other.map(drop),
        };
        if let Err(error) = named {
            // All but going back to it is as it should be.
            tracing::warn!("an overlay has no snapshot of all that is below: {error:#}");
        }
    }

    /// Lays an empty tree over a directory below, which the caller leases, durably and for as long as the tree is there. Its
    /// snapshot [`BELOW_SNAPSHOT`] is all of it as it is below.
    ///
    /// # Errors
    /// `InvalidArgument` where the tree has files of its own; `NotDir`; those below.
    pub async fn begin(&self, top: Ino) -> Result<()> {
        self.now(|now| async move { now.begin(top).await }).await?;
        self.tree.snapshot(BELOW_SNAPSHOT).await.map(drop)
    }
}

impl Now<'_> {
    /// Whether the tree has no file of its own, nor any that came.
    async fn is_empty(&self) -> Result<bool> {
        let page = self.tree.readdir(self.tree.root(), Cookie::START, 1, Listing::Names).await?;
        Ok(page.entries.is_empty())
    }

    /// Has the overlay begin before its root is looked into.
    pub(super) async fn begun(&self, ino: Ino) -> Result<()> {
        if ino == self.tree.root() { self.overlay.ready().await } else { Ok(()) }
    }

    async fn begin(&self, top: Ino) -> Result<()> {
        let (op, root) = ("overlay.begin", self.tree.root());
        if !self.is_empty().await? {
            let why = "the tree has files of its own, and lies over nothing";
            return Err(Error::new(ErrorKind::InvalidArgument, op).because(why));
        }
        let attr = self.overlay.lower.getattr(top).await?;
        if attr.kind != FileKind::Dir {
            return Err(Error::new(ErrorKind::NotDir, op).because("what a tree lies over is a directory"));
        }
        let set = SetAttr {
            mode: Some(attr.mode),
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            atime: Some(SetTime::At(attr.atime)),
            mtime: Some(SetTime::At(attr.mtime)),
            ..SetAttr::default()
        };
        self.tree.setattr(root, set).await?;
        let below = self.overlay.mark(&attr)?.encode();
        // What it lies over last: with that it is begun.
        for name in [&self.overlay.names.below, &self.overlay.names.base] {
            self.tree.setxattr(root, name, below.clone(), XattrMode::Set).await?;
        }
        Ok(())
    }
}
