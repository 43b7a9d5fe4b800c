//! `put` into a location-addressed mount: files, directories and symlinks under names of their own.
//!
//! Every file appears whole, but a tree is no unit: one that fails half way leaves what was put before, and putting it
//! again goes over it. What the target has beside it stays.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use muxfs::{QfsPath, Result};

use super::put::{Entries, FILES_AT_ONCE, Walk, host};
use crate::namespace::{Namespace, seconds};

/// Where a copy goes.
#[derive(Clone, Copy)]
struct To<'a> {
    namespace: &'a dyn Namespace,
    keep: bool,
}

impl To<'_> {
    /// Gives a copy the permissions and the time of its source.
    async fn keep(&self, path: &Path, target: &QfsPath) -> Result<()> {
        if !self.keep {
            return Ok(());
        }
        let metadata = fs::metadata(path).map_err(|error| host(path, error))?;
        let mtime = seconds(metadata.modified().map_err(|error| host(path, error))?);
        self.namespace.keep(target, metadata.permissions().mode() & 0o7777, mtime).await
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
            return to.namespace.put_symlink(target, Bytes::copy_from_slice(link.as_os_str().as_bytes())).await;
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
