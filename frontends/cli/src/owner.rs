//! [`Namespace`] by the process that owns the data directory.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    Cid, Error, ErrorKind, Name, Prefix, QfsPath, Result, Source,
    dag::{Entry, Link, UnixfsMeta},
    file::FileKind,
    vfs::{Attr, Cookie, Lease, Listing, as_store::AsStore, ext},
};
use tokio_util::io::StreamReader;

use crate::{
    instance::{Instance, env},
    namespace::{Finding, Input, Namespace, Place, Stat, seconds},
};

/// How much of a file is asked for at once: a chunk of the default profile.
const READ_LEN: u32 = 1 << 20;
/// How many such pieces are read ahead.
const READ_AHEAD: usize = 4;
/// How many entries of a directory are asked for at once.
const PAGE_LEN: usize = 1024;

impl Instance {
    /// The node at a place, leased; a symlink at its end is not followed.
    async fn walk(&self, place: &Place) -> Result<(Lease, Attr)> {
        let root = self.vfs.root();
        let Place::Path(path) = place else { return ext::walk(&self.vfs, root, &[]).await };
        let prefix = Name::new(path.prefix.as_str().as_bytes())?;
        let names: Vec<Name> = std::iter::once(prefix).chain(path.parts.iter().cloned()).collect();
        ext::walk(&self.vfs, root, &names).await.map_err(|error| error.at(path))
    }

    /// The location-addressed mount of a path.
    fn by_place(&self, path: &QfsPath) -> Result<AsStore> {
        let mount = self.mux.mount_at(path.prefix).map_err(|error| error.at(path))?;
        if mount.as_cas().is_some() {
            return Err(Error::new(ErrorKind::InvalidArgument, "mount")
                .at(path)
                .because("directories and symlinks have names of their own only in a location-addressed mount"));
        }
        Ok(AsStore::new(mount.prefix(), mount.vfs().clone(), env()))
    }

    async fn stat_entry(&self, name: Name, attr: &Attr) -> Result<Stat> {
        let target = match attr.kind {
            FileKind::Symlink => Some(self.vfs.readlink(attr.ino).await?),
            _ => None,
        };
        Ok(Stat::of_attr(name, attr, target))
    }

    async fn page(&self, dir: &Lease, after: Cookie) -> Result<(Vec<Stat>, Option<Cookie>)> {
        let page = self.vfs.readdir(dir.ino(), after, PAGE_LEN, Listing::Attrs).await?;
        let next = if page.eof { None } else { page.entries.last().map(|entry| entry.cookie) };
        let mut stats = Vec::with_capacity(page.entries.len());
        // Leases first, so that an error on the way gives back those of the rest too.
        let leased: Vec<_> = page
            .entries
            .into_iter()
            .map(|entry| (entry.attr.is_some().then(|| Lease::adopt(self.vfs.clone(), entry.ino)), entry))
            .collect();
        for (_lease, entry) in leased {
            // Without attributes it is gone since it was listed.
            if let Some(attr) = entry.attr {
                stats.push(self.stat_entry(entry.name, &attr).await?);
            }
        }
        Ok((stats, next))
    }
}

/// The last name of a place.
fn name_of(place: &Place) -> Result<Name> {
    match place {
        Place::Root => Name::new(b"root"),
        Place::Path(path) => path.parts.last().cloned().map_or_else(|| Name::new(path.prefix.as_str().as_bytes()), Ok),
    }
}

#[async_trait]
impl Namespace for Instance {
    async fn stat(&self, place: &Place) -> Result<Stat> {
        match self.walk(place).await {
            Ok((_lease, attr)) => self.stat_entry(name_of(place)?, &attr).await,
            Err(error) => {
                // Within linked data there are paths that no directory knows.
                let Place::Path(path) = place else { return Err(error) };
                if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir) {
                    return Err(error);
                }
                let file = self.mux.open(path.clone()).await?;
                let info = file.info();
                Ok(Stat {
                    name: info.name.clone(),
                    kind: info.kind.into(),
                    size: info.size,
                    mode: info.mode,
                    uid: None,
                    gid: None,
                    mtime: info.mtime.map(seconds),
                    cid: info.cid,
                    target: None,
                })
            }
        }
    }

    fn list<'a>(&'a self, place: &'a Place) -> BoxStream<'a, Result<Stat>> {
        let pages = stream::once(self.walk(place)).map_ok(move |(lease, attr)| {
            if attr.kind != FileKind::Dir {
                let own = async move {
                    let _lease = lease;
                    self.stat_entry(name_of(place)?, &attr).await
                };
                return stream::once(own).boxed();
            }
            let pages = stream::try_unfold(Some(Cookie::START), move |after| {
                let lease = lease.clone();
                async move {
                    let Some(after) = after else { return Ok::<_, Error>(None) };
                    let (stats, next) = self.page(&lease, after).await?;
                    Ok(Some((stream::iter(stats.into_iter().map(Ok)), next)))
                }
            });
            pages.try_flatten().boxed()
        });
        pages.try_flatten().boxed()
    }

    fn read<'a>(&'a self, path: &'a QfsPath) -> BoxStream<'a, Result<Bytes>> {
        let pieces = stream::once(self.mux.open(path.clone())).map_ok(|file| {
            let file: Arc<dyn muxfs::File> = file.into();
            let offsets = stream::iter((0..file.info().size.max(1)).step_by(READ_LEN as usize));
            let known = offsets.map(move |offset| {
                let file = file.clone();
                async move { file.read_at(offset, READ_LEN).await }
            });
            known.buffered(READ_AHEAD).try_filter(|piece| std::future::ready(!piece.is_empty()))
        });
        pieces.try_flatten().boxed()
    }

    async fn has(&self, path: &QfsPath) -> Result<bool> {
        self.mux.has(path.clone()).await
    }

    async fn put(&self, path: &QfsPath, input: Input) -> Result<QfsPath> {
        let source: Box<dyn tokio::io::AsyncRead + Send + Unpin> = match input {
            Input::File(file) => Box::new(StreamReader::new(file.stream())),
            Input::Stream(stream) => Box::new(StreamReader::new(stream)),
        };
        self.mux.put(path.clone(), Source::Reader(source)).await
    }

    async fn delete(&self, path: &QfsPath) -> Result<bool> {
        self.mux.delete(path.clone()).await
    }

    async fn put_dir(&self, path: &QfsPath) -> Result<()> {
        self.by_place(path)?.put_dir(path).await
    }

    async fn put_symlink(&self, path: &QfsPath, target: Bytes) -> Result<()> {
        self.by_place(path)?.put_symlink(path, target).await
    }

    async fn default_write(&self) -> Result<Prefix> {
        self.mux.default_write().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "put.target").because("no default mount: name one, as /ipfs")
        })
    }

    async fn import(&self, mount: Prefix, input: Input) -> Result<Link> {
        let dag = self.by_content(mount)?.dag();
        match input {
            Input::File(file) => {
                let len = file.len;
                dag.import_at(Arc::new(file), len, UnixfsMeta::default()).await
            }
            Input::Stream(stream) => dag.import(StreamReader::new(stream), UnixfsMeta::default()).await,
        }
    }

    async fn import_symlink(&self, mount: Prefix, target: Bytes) -> Result<Link> {
        self.by_content(mount)?.dag().put_symlink(&target, UnixfsMeta::default()).await
    }

    async fn import_dir(&self, mount: Prefix, entries: Vec<Entry>) -> Result<Link> {
        self.by_content(mount)?.dag().put_dir(stream::iter(entries.into_iter().map(Ok)).boxed()).await
    }

    async fn pin(&self, mount: Prefix, cid: &Cid) -> Result<bool> {
        self.by_content(mount)?.pin(cid).await
    }

    async fn unpin(&self, mount: Prefix, cid: &Cid) -> Result<bool> {
        self.by_content(mount)?.pins().remove(cid).await
    }

    async fn pins(&self, mount: Option<Prefix>) -> Result<Vec<(Prefix, Cid)>> {
        let mounts = match mount {
            Some(mount) => vec![(mount, self.by_content(mount)?)],
            None => self.all_by_content().collect(),
        };
        let mut pins = Vec::new();
        for (mount, cas) in mounts {
            let mut list = cas.pins().list();
            while let Some(cid) = list.try_next().await? {
                pins.push((mount, cid));
            }
        }
        Ok(pins)
    }

    fn verify<'a>(&'a self, path: &'a QfsPath) -> BoxStream<'a, Result<Finding>> {
        crate::commands::verify::walk(self, path)
    }

    async fn config(&self) -> Result<String> {
        self.config.to_text()
    }
}
