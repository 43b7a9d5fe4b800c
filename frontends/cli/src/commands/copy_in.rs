//! `put` into a location-addressed mount: files, directories and symlinks under names of their own.
//!
//! Every file appears whole, but a tree is no unit: one that fails half way leaves what was put before, and putting it
//! again goes over it. What the target has beside it stays.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use muxfs::{QfsPath, Result};

use super::put::{Entries, FILES_AT_ONCE, Walk, host};
use crate::namespace::Namespace;

impl Walk<'_> {
    /// Puts the source to `target`: a directory becomes that one, or is merged into it.
    pub(super) async fn copy_in(&self, namespace: &dyn Namespace, target: &QfsPath) -> Result<()> {
        let source = self.job.source;
        if source != Path::new("-") && fs::metadata(source).is_ok_and(|metadata| metadata.is_dir()) {
            return self.copy_dir(namespace, source.into(), target.clone()).await;
        }
        self.copy_leaf(namespace, source, false, target).await
    }

    fn copy_dir<'b>(
        &'b self,
        namespace: &'b dyn Namespace,
        path: PathBuf,
        target: QfsPath,
    ) -> BoxFuture<'b, Result<()>> {
        Box::pin(async move {
            // Listed before it is made: a directory that is put into itself is not met again in the copy.
            let Entries { dirs, leaves } = self.entries(&path)?;
            namespace.put_dir(&target).await?;
            let (below, at) = (&path, &target);
            let leaves = stream::iter(leaves).map(|(name, is_symlink)| async move {
                let path = below.join(OsStr::from_bytes(name.as_bytes()));
                self.copy_leaf(namespace, &path, is_symlink, &at.join(&name)).await
            });
            leaves.buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
            for name in dirs {
                self.copy_dir(namespace, path.join(OsStr::from_bytes(name.as_bytes())), target.join(&name)).await?;
            }
            Ok(())
        })
    }

    async fn copy_leaf(
        &self,
        namespace: &dyn Namespace,
        path: &Path,
        is_symlink: bool,
        target: &QfsPath,
    ) -> Result<()> {
        if is_symlink {
            let link = fs::read_link(path).map_err(|error| host(path, error))?;
            return namespace.put_symlink(target, Bytes::copy_from_slice(link.as_os_str().as_bytes())).await;
        }
        let input = self.open(path)?;
        let len = input.len_known();
        namespace.put(target, input).await.map_err(|error| error.at(path.display()))?;
        self.count(len);
        Ok(())
    }
}
