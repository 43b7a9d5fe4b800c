//! A directory of the namespace, put into an flist that is made, while others may change it: what vanishes is left out, and files that are
//! written to are as they were read; both are told.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream::BoxStream};
use muxfs::{Error, ErrorKind, Name, QfsPath, Result, vfs::Rdev};
use muxfs_flist::write::{About, Making, Progress, What};

use crate::namespace::{Kind, Namespace, Place, Stat};

/// What is asked of a [`Namespace`].
#[async_trait]
pub(super) trait Look: Sync {
    async fn stat(&self, path: &QfsPath) -> Result<Stat>;
    async fn list(&self, dir: &QfsPath) -> Result<Vec<Stat>>;
    fn read<'a>(&'a self, path: &'a QfsPath) -> BoxStream<'a, Result<Bytes>>;
}

#[async_trait]
impl<T: Namespace + ?Sized> Look for T {
    async fn stat(&self, path: &QfsPath) -> Result<Stat> {
        Namespace::stat(self, &Place::Path(path.clone())).await
    }

    async fn list(&self, dir: &QfsPath) -> Result<Vec<Stat>> {
        let place = Place::Path(dir.clone());
        Namespace::list(self, &place).try_collect().await
    }

    fn read<'a>(&'a self, path: &'a QfsPath) -> BoxStream<'a, Result<Bytes>> {
        Namespace::read(self, path)
    }
}

/// Puts a directory, of which `root` is known, at the root of what is made, with all that is below it, but for what `reuse` puts
/// itself: that is asked first of whatever is found, and not looked into.
///
/// # Errors
/// Those of reading and of `reuse`, with the path; not that something vanished, but the directory itself.
pub(super) async fn fill<L: Look + ?Sized>(
    look: &L,
    making: &mut Making,
    (path, root): (&QfsPath, &Stat),
    progress: &Progress,
    mut reuse: impl FnMut(&mut Making, &Stat, &[Name]) -> Result<bool>,
) -> Result<()> {
    making.put(&[], about(root), What::Dir)?;
    let mut dirs = vec![(path.clone(), Vec::<Name>::new())];
    while let Some((dir, at)) = dirs.pop() {
        let mut entries = match look.list(&dir).await {
            Err(error) if !at.is_empty() && is_gone(look, &dir, Kind::Dir, &error).await => {
                skip(progress, &dir);
                making.remove(&at)?;
                continue;
            }
            listed => listed?,
        };
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for stat in entries {
            let (path, at) = (dir.join(&stat.name), [&at[..], std::slice::from_ref(&stat.name)].concat());
            if reuse(making, &stat, &at).map_err(|error| error.at(&path))? {
                continue;
            }
            if put(look, making, &stat, (&path, &at), progress).await? {
                dirs.push((path, at));
            }
        }
    }
    Ok(())
}

/// Whether what was listed failed since it vanished, or became something else. A store may fail so, too; and where nobody
/// can tell, it is there.
async fn is_gone<L: Look + ?Sized>(look: &L, path: &QfsPath, kind: Kind, error: &Error) -> bool {
    use ErrorKind::{IsDir, NotDir, NotFound, Stale};
    matches!(error.kind(), NotFound | Stale | NotDir | IsDir)
        && match look.stat(path).await {
            Ok(again) => again.kind != kind,
            Err(error) => matches!(error.kind(), NotFound | Stale | NotDir),
        }
}

fn skip(progress: &Progress, path: &QfsPath) {
    progress.skipped.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(path = %path, "left out: it vanished, or became something else, while it was read");
}

/// Puts what was listed at a path into what is made, and tells of what changed meanwhile; whether it is a directory, to be looked into.
async fn put<L: Look + ?Sized>(
    look: &L,
    making: &mut Making,
    stat: &Stat,
    (path, at): (&QfsPath, &[Name]),
    progress: &Progress,
) -> Result<bool> {
    let what = match what(look, making, stat, path).await {
        Err(error) if is_gone(look, path, stat.kind, &error).await => {
            skip(progress, path);
            return Ok(false);
        }
        what => what?,
    };
    if let What::File { len, .. } = what {
        // One that is gone by now was read before.
        let again = look.stat(path).await.ok();
        let is_same = |again: &Stat| (again.mtime, again.size, again.kind) == (stat.mtime, stat.size, stat.kind);
        if len != stat.size || again.is_some_and(|again| !is_same(&again)) {
            progress.changed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(path = %path, "it was changed while it was read");
        }
    }
    making.put(at, about(stat), what)?;
    Ok(stat.kind == Kind::Dir)
}

/// What is at a path; of a file all is read.
async fn what<L: Look + ?Sized>(look: &L, making: &mut Making, stat: &Stat, path: &QfsPath) -> Result<What> {
    let rdev = stat.rdev.map(|(major, minor)| Rdev { major, minor }).unwrap_or_default();
    Ok(match stat.kind {
        Kind::Dir => What::Dir,
        Kind::File => {
            let (content, len) = making.content(look.read(path)).await.map_err(|error| error.at(path))?;
            What::File { len, content }
        }
        Kind::Symlink => What::Symlink(stat.target.clone().unwrap_or_default()),
        Kind::Fifo => What::Fifo,
        Kind::Socket => What::Socket,
        Kind::CharDevice => What::CharDevice(rdev),
        Kind::BlockDevice => What::BlockDevice(rdev),
    })
}

pub(super) fn about(stat: &Stat) -> About {
    About {
        mode: if stat.kind == Kind::Symlink { 0o777 } else { stat.mode },
        uid: stat.uid.unwrap_or(0),
        gid: stat.gid.unwrap_or(0),
        mtime: stat.mtime.map_or(0, |(seconds, _)| u64::try_from(seconds).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::Path, sync::Arc};

    use futures_util::{StreamExt as _, stream};
    use muxfs_flist::{
        Flist,
        write::{CreateOptions, Facts, Report, Stores, Tree},
    };

    use super::*;

    /// A namespace in which things go on: what a listing tells of a path, and what is there when it is asked for again.
    #[derive(Default)]
    struct Changing {
        listed: HashMap<QfsPath, Vec<Stat>>,
        there: HashMap<QfsPath, (Stat, Vec<u8>)>,
        /// Who is asked for the bytes of this fails.
        broken: Option<QfsPath>,
        /// What this is, is not to be learned now.
        unseen: Option<QfsPath>,
    }

    fn absent() -> Error {
        Error::new(ErrorKind::NotFound, "test")
    }

    #[async_trait]
    impl Look for Changing {
        async fn stat(&self, path: &QfsPath) -> Result<Stat> {
            if self.unseen.as_ref() == Some(path) {
                return Err(Error::new(ErrorKind::Unavailable, "test"));
            }
            self.there.get(path).map(|(stat, _)| stat.clone()).ok_or_else(absent)
        }

        async fn list(&self, dir: &QfsPath) -> Result<Vec<Stat>> {
            self.listed.get(dir).cloned().ok_or_else(absent)
        }

        fn read<'a>(&'a self, path: &'a QfsPath) -> BoxStream<'a, Result<Bytes>> {
            let read = match self.there.get(path) {
                _ if self.broken.as_ref() == Some(path) => Err(absent()),
                Some((stat, bytes)) if stat.kind == Kind::File => Ok(bytes.clone().into()),
                Some(_) => Err(Error::new(ErrorKind::IsDir, "test")),
                None => Err(absent()),
            };
            stream::iter([read]).boxed()
        }
    }

    fn path(text: &str) -> QfsPath {
        QfsPath::parse(text.as_bytes()).expect("a path")
    }

    fn stat(name: &str, kind: Kind, size: u64, mtime: i64) -> Stat {
        let name = Name::new(name.as_bytes()).expect("a name");
        Stat { kind, size, mtime: Some((mtime, 0)), mode: 0o644, ..Stat::unseen(name) }
    }

    async fn make(look: &Changing, dir: &Path) -> Result<Report> {
        let url = format!("dir://{}", dir.join("chunks").display()).parse().expect("an address");
        let (stores, options) = (Arc::new(Stores::open(&[url])?), CreateOptions::default());
        let mut making = Making::begin(Tree::default(), stores, &dir.join("a.fl"), &options)?;
        let root = stat("app", Kind::Dir, 0, 1);
        let keep = |making: &mut Making, stat: &Stat, at: &[Name]| {
            let is_kept = stat.name.as_bytes() == b"kept";
            if is_kept {
                making.put(at, about(stat), What::Fifo)?;
            }
            Ok(is_kept)
        };
        fill(look, &mut making, (&path("/app"), &root), &options.progress, keep).await?;
        making.finish(Facts::default()).await
    }

    /// Names of programs that run vanished, and that ended `flist commit`; a file that was torn was told by nothing.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_changes_meanwhile_is_told_and_ends_nothing() {
        let mut look = Changing::default();
        let file = |name: &str, len, mtime| stat(name, Kind::File, len, mtime);
        let dir = |name: &str| stat(name, Kind::Dir, 0, 1);
        let names = [
            file("same", 3, 1),
            file("longer", 3, 1),
            file("touched", 3, 1),
            file("gone", 3, 1),
            file("dir-now", 3, 1),
            file("kept", 3, 1),
            dir("dir"),
            dir("gone-dir"),
            dir("file-now"),
        ];
        look.listed.insert(path("/app"), names.to_vec());
        look.listed.insert(path("/app/dir"), vec![file("below", 2, 1)]);
        for (name, stat, bytes) in [
            ("same", file("same", 3, 1), "abc"),
            ("longer", file("longer", 4, 1), "abcd"),
            ("touched", file("touched", 3, 2), "xyz"),
            ("dir-now", dir("dir-now"), ""),
            ("dir", dir("dir"), ""),
            ("dir/below", file("below", 2, 1), "zz"),
            ("file-now", file("file-now", 1, 1), "z"),
        ] {
            look.there.insert(path(&format!("/app/{name}")), (stat, bytes.into()));
        }
        let here = tempfile::tempdir().expect("a directory");
        let report = make(&look, here.path()).await.expect("it is made all the same");
        assert_eq!((report.skipped, report.changed), (4, 2));
        let flist = Flist::open(&here.path().join("a.fl"), here.path()).expect("opens");
        let root = flist.dir(&flist.root().expect("a root")).expect("read");
        let mut found: Vec<&[u8]> = root.entries.iter().map(|entry| entry.name.as_bytes()).collect();
        found.sort_unstable();
        assert_eq!(found, [&b"dir"[..], b"kept", b"longer", b"same", b"touched"]);
        // What is there and cannot be read is not gone.
        look.broken = Some(path("/app/same"));
        let error = make(&look, here.path()).await.expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(format!("{error:#}").contains("/app/same"), "{error:#}");
        // Nor is what nobody can tell of.
        look.unseen = look.broken.clone();
        let error = make(&look, here.path()).await.expect_err("it fails");
        assert!(format!("{error:#}").contains("/app/same"), "{error:#}");
        (look.broken, look.unseen) = (None, None);
        look.listed.remove(&path("/app/dir"));
        drop(make(&look, here.path()).await.expect_err("so are directories"));
    }
}
