//! `put` into a location-addressed mount or a working tree: files, directories and symlinks under names of their own.
//!
//! Every file appears whole, but a tree is no unit: one that fails half way leaves what was put before, and putting it
//! again goes over it, past the files that are there whole where times are kept. What the target has beside it stays.
//! A working tree also gets what a backup would keep: see [`source`]. And it keeps the order of changes, so that not every
//! file is made durable for itself, but all that was put, once in [`SYNC_EVERY`] and at the end.

mod source;

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use muxfs::{ErrorKind, Name, QfsPath, Result, working::HISTORY_NAME};
use tokio::sync::OnceCell;

use super::put::{Entries, FILES_AT_ONCE, Walk, entries, host};
use crate::namespace::{Durable, Kind, Namespace, Place, Stat};

/// The nodes of the host that have several names, by device and number, and where the first of them was put.
type Links = Mutex<HashMap<(u64, u64), Arc<OnceCell<QfsPath>>>>;

/// How much of a copy a crash may undo. A sync takes milliseconds, and in a second thousands of small files are put.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// When a copy of many files was made durable last.
struct Pace(Mutex<Instant>);

impl Pace {
    fn begin() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// Whether it is time again.
    fn next(&self) -> Durable {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < SYNC_EVERY {
            return Durable::Later;
        }
        *last = Instant::now();
        Durable::Now
    }
}

/// Where a copy goes.
#[derive(Clone, Copy)]
struct To<'a> {
    namespace: &'a dyn Namespace,
    keep: bool,
    links: &'a Links,
    /// Of a directory, into what keeps the order of changes.
    pace: Option<&'a Pace>,
}

impl To<'_> {
    /// Whether a file was copied whole before, and its source did not change since: its time is set last.
    async fn has(&self, metadata: &fs::Metadata, target: &QfsPath) -> Result<bool> {
        let there = if self.keep { self.there(target).await? } else { None };
        Ok(there.is_some_and(|there| {
            (there.kind, there.size) == (Kind::File, metadata.len()) && source::is_kept(&there, metadata)
        }))
    }

    /// Gives a copy what its source has, if it is not there yet.
    async fn keep(&self, path: &Path, metadata: &fs::Metadata, target: &QfsPath) -> Result<()> {
        if !self.keep || self.there(target).await?.is_some_and(|there| source::is_kept(&there, metadata)) {
            return Ok(());
        }
        match source::kept(path, metadata).map_err(|error| host(path, error))? {
            Some(kept) => self.namespace.keep(target, &kept, self.durable()).await,
            None => Ok(()),
        }
    }

    /// When the next thing that is put is durable.
    fn durable(&self) -> Durable {
        self.pace.map_or(Durable::Now, Pace::next)
    }

    async fn there(&self, target: &QfsPath) -> Result<Option<Stat>> {
        match self.namespace.stat(&Place::Path(target.clone())).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the first name of a node is put, if it has several and they stay one.
    fn first_of(&self, metadata: &fs::Metadata) -> Option<Arc<OnceCell<QfsPath>>> {
        if !self.keep || metadata.nlink() < 2 {
            return None;
        }
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        Some(links.entry((metadata.dev(), metadata.ino())).or_default().clone())
    }
}

impl Walk<'_> {
    /// Puts the source to `target`: a directory becomes that one, or is merged into it.
    ///
    /// With `keep`, what the nodes have beside their bytes too.
    pub(super) async fn copy_in(&self, namespace: &dyn Namespace, target: &QfsPath, keep: bool) -> Result<()> {
        let (source, links, pace) = (self.job.source, Links::default(), Pace::begin());
        let to = To { namespace, keep, links: &links, pace: None };
        if source == Path::new("-") {
            let input = self.open(source)?;
            to.namespace.put(target, input, Durable::Now).await.map_err(|error| error.at(source.display()))?;
            self.count(0);
            return Ok(());
        }
        // One that is named is followed.
        let metadata = fs::metadata(source).map_err(|error| host(source, error))?;
        if metadata.is_dir() {
            let to = To { pace: keep.then_some(&pace), ..to };
            let copied = self.copy_dir(to, source.into(), target.clone()).await;
            // Also what one put that fails half way; but where nothing was made, nothing is.
            if copied.is_err() && !to.there(target).await.is_ok_and(|there| there.is_some()) {
                return copied;
            }
            let settled = namespace.put_dir(target, Durable::Now).await;
            return copied.and(settled);
        }
        self.copy_file(to, source, &metadata, target).await
    }

    fn copy_dir<'b>(&'b self, to: To<'b>, path: PathBuf, target: QfsPath) -> BoxFuture<'b, Result<()>> {
        Box::pin(async move {
            // Listed before it is made: a directory that is put into itself is not met again in the copy.
            let Entries { dirs, leaves, others } = entries(&path)?;
            to.namespace.put_dir(&target, to.durable()).await?;
            let (below, at) = (&path, &target);
            let can_be_given = |name: &Name| {
                let is_taken = to.keep && name.as_bytes() == HISTORY_NAME.as_bytes();
                if is_taken {
                    self.skip(&below.join(HISTORY_NAME), "in a working tree the name means the history");
                }
                !is_taken
            };
            let names = leaves.into_iter().map(|(name, _)| name).chain(others).filter(can_be_given);
            let leaves = stream::iter(names).map(|name: Name| async move {
                let path = below.join(OsStr::from_bytes(name.as_bytes()));
                self.copy_leaf(to, &path, &at.join(&name)).await
            });
            leaves.buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
            for name in dirs.into_iter().filter(can_be_given) {
                self.copy_dir(to, path.join(OsStr::from_bytes(name.as_bytes())), target.join(&name)).await?;
            }
            // Last: what was put into it moved its time.
            let metadata = fs::metadata(&path).map_err(|error| host(&path, error))?;
            to.keep(&path, &metadata, &target).await
        })
    }

    /// Puts what is no directory: its bytes once, however many names it has.
    async fn copy_leaf(&self, to: To<'_>, path: &Path, target: &QfsPath) -> Result<()> {
        let metadata = fs::symlink_metadata(path).map_err(|error| host(path, error))?;
        let Some(first) = to.first_of(&metadata) else { return self.copy_node(to, path, &metadata, target).await };
        let copied = async {
            self.copy_node(to, path, &metadata, target).await?;
            Ok::<_, muxfs::Error>(target.clone())
        };
        let first = first.get_or_try_init(|| copied).await?;
        // One that was skipped is nowhere.
        if first == target || to.there(first).await?.is_none() {
            return Ok(());
        }
        to.namespace.put_link(first, target, to.durable()).await?;
        self.count(0);
        Ok(())
    }

    async fn copy_node(&self, to: To<'_>, path: &Path, metadata: &fs::Metadata, target: &QfsPath) -> Result<()> {
        if metadata.is_symlink() {
            return self.copy_symlink(to, path, metadata, target).await;
        }
        let Some((kind, rdev)) = source::special(metadata) else {
            return self.copy_file(to, path, metadata, target).await;
        };
        if !to.keep {
            self.skip(path, "not a file, directory or symlink");
            return Ok(());
        }
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) && !source::is_root() {
            self.skip(path, "only root copies devices");
            return Ok(());
        }
        to.namespace.put_node(target, kind, rdev, to.durable()).await?;
        to.keep(path, metadata, target).await
    }

    async fn copy_symlink(&self, to: To<'_>, path: &Path, metadata: &fs::Metadata, target: &QfsPath) -> Result<()> {
        let link = fs::read_link(path).map_err(|error| host(path, error))?;
        let bytes = Bytes::copy_from_slice(link.as_os_str().as_bytes());
        if !to.keep || to.there(target).await?.is_none_or(|there| there.target.as_ref() != Some(&bytes)) {
            to.namespace.put_symlink(target, bytes, to.durable()).await?;
        }
        to.keep(path, metadata, target).await
    }

    async fn copy_file(&self, to: To<'_>, path: &Path, metadata: &fs::Metadata, target: &QfsPath) -> Result<()> {
        if to.has(metadata, target).await? {
            self.count(metadata.len());
            return Ok(());
        }
        let input = self.open(path)?;
        let len = input.len_known();
        to.namespace.put(target, input, to.durable()).await.map_err(|error| error.at(path.display()))?;
        to.keep(path, metadata, target).await?;
        self.count(len);
        Ok(())
    }
}
