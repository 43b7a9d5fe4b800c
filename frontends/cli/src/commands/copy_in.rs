//! `put` into a location-addressed mount or a working tree: files, directories and symlinks under names of their own.
//!
//! Every file appears whole, but a tree is no unit: one that fails half way leaves what was put before, and putting it
//! again goes over it, past the files that are there whole where times are kept. What the target has beside it stays.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use muxfs::{ErrorKind, QfsPath, Result};

use super::put::{Entries, FILES_AT_ONCE, Walk, host};
use crate::namespace::{Kind, Namespace, Place, Stat, seconds};

/// Where a copy goes.
#[derive(Clone, Copy)]
struct To<'a> {
    namespace: &'a dyn Namespace,
    keep: bool,
}

impl To<'_> {
    /// Whether a file was copied whole before, and its source did not change since: its time is set last.
    async fn has(&self, path: &Path, target: &QfsPath) -> Result<bool> {
        if !self.keep {
            return Ok(false);
        }
        let metadata = fs::metadata(path).map_err(|error| host(path, error))?;
        let there = self.there(target).await?;
        Ok(there.is_some_and(|there| {
            (there.kind, there.size) == (Kind::File, metadata.len()) && Kept::of(&there) == Kept::on_host(&metadata)
        }))
    }

    /// Gives a copy the permissions and the time of its source, if it has others.
    async fn keep(&self, path: &Path, target: &QfsPath) -> Result<()> {
        if !self.keep {
            return Ok(());
        }
        let metadata = fs::metadata(path).map_err(|error| host(path, error))?;
        let Some(kept) = Kept::on_host(&metadata) else { return Ok(()) };
        if self.there(target).await?.is_some_and(|there| Kept::of(&there) == Some(kept)) {
            return Ok(());
        }
        self.namespace.keep(target, kept.mode, kept.mtime).await
    }

    async fn there(&self, target: &QfsPath) -> Result<Option<Stat>> {
        match self.namespace.stat(&Place::Path(target.clone())).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a copy keeps of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    mode: u32,
    mtime: (i64, u32),
}

impl Kept {
    fn of(stat: &Stat) -> Option<Self> {
        stat.mtime.map(|mtime| Self { mode: stat.mode, mtime })
    }

    /// `None` on a host that tells no times.
    fn on_host(metadata: &fs::Metadata) -> Option<Self> {
        let mtime = seconds(metadata.modified().ok()?);
        Some(Self { mode: metadata.permissions().mode() & 0o7777, mtime })
    }
}

impl Walk<'_> {
    /// Puts the source to `target`: a directory becomes that one, or is merged into it.
    ///
    /// With `keep`, permissions and times of files and directories too.
    pub(super) async fn copy_in(&self, namespace: &dyn Namespace, target: &QfsPath, keep: bool) -> Result<()> {
        let source = self.job.source;
        let to = To { namespace, keep };
        if source != Path::new("-") && fs::metadata(source).is_ok_and(|metadata| metadata.is_dir()) {
            return self.copy_dir(to, source.into(), target.clone()).await;
        }
        self.copy_leaf(to, source, false, target).await
    }

    fn copy_dir<'b>(&'b self, to: To<'b>, path: PathBuf, target: QfsPath) -> BoxFuture<'b, Result<()>> {
        Box::pin(async move {
            // Listed before it is made: a directory that is put into itself is not met again in the copy.
            let Entries { dirs, leaves } = self.entries(&path)?;
            to.namespace.put_dir(&target).await?;
            let (below, at) = (&path, &target);
            let leaves = stream::iter(leaves).map(|(name, is_symlink)| async move {
                let path = below.join(OsStr::from_bytes(name.as_bytes()));
                self.copy_leaf(to, &path, is_symlink, &at.join(&name)).await
            });
            leaves.buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
            for name in dirs {
                self.copy_dir(to, path.join(OsStr::from_bytes(name.as_bytes())), target.join(&name)).await?;
            }
            // Last: what was put into it moved its time.
            to.keep(&path, &target).await
        })
    }

    async fn copy_leaf(&self, to: To<'_>, path: &Path, is_symlink: bool, target: &QfsPath) -> Result<()> {
        if is_symlink {
            let link = fs::read_link(path).map_err(|error| host(path, error))?;
            let bytes = Bytes::copy_from_slice(link.as_os_str().as_bytes());
            if to.keep && to.there(target).await?.is_some_and(|there| there.target.as_ref() == Some(&bytes)) {
                return Ok(());
            }
            return to.namespace.put_symlink(target, bytes).await;
        }
        if path != Path::new("-") && to.has(path, target).await? {
            self.count(fs::metadata(path).map_or(0, |metadata| metadata.len()));
            return Ok(());
        }
        let input = self.open(path)?;
        let len = input.len_known();
        to.namespace.put(target, input).await.map_err(|error| error.at(path.display()))?;
        if path != Path::new("-") {
            to.keep(path, target).await?;
        }
        self.count(len);
        Ok(())
    }
}
