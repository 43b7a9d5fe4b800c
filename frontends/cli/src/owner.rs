//! [`Namespace`] by the process that owns the data directory.

use std::{
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    Cid, Error, ErrorKind, Name, Prefix, QfsPath, Result, Source, Store,
    dag::{Entry, Link, UnixfsMeta},
    file::FileKind,
    mux::Mount,
    overlay::{BASE_XATTR, BELOW_XATTR},
    tree::{History, KeptCommit, PathChange},
    vfs::{
        Attr, Cookie, Lease, Listing, NewNode, Rdev, SetAttr, SetTime, Vfs, XattrMode, XattrName, as_store::AsStore,
        ext, narrow::subtree,
    },
    working::HISTORY_NAME,
};
use tokio_util::io::StreamReader;

use crate::{
    commands::{
        car, cp, doctor, key,
        verify_all::{self, AllFinding, VerifyAll},
        zstor,
    },
    instance::{Instance, env},
    namespace::{
        Collecting, Difference, Durable, Finding, Hold, Input, Kept, Kind, Logged, Namespace, Place, Stat, from_text,
        seconds, time, to_text,
    },
    place_node::{self, Putting},
    restore,
};

/// How much of a file is asked for at once: a chunk of the default profile.
const READ_LEN: u32 = 1 << 20;
/// How many such pieces are read ahead.
const READ_AHEAD: usize = 4;
/// How many entries of a directory are asked for at once.
const PAGE_LEN: usize = 1024;

impl Instance {
    /// The node at a place, leased; a symlink at its end is not followed.
    pub(crate) async fn walk(&self, place: &Place) -> Result<(Lease, Attr)> {
        let root = self.vfs.root();
        let Place::Path(path) = place else { return ext::walk(&self.vfs, root, &[]).await };
        let prefix = Name::new(path.prefix.as_str().as_bytes())?;
        let names: Vec<Name> = std::iter::once(prefix).chain(path.parts.iter().cloned()).collect();
        ext::walk(&self.vfs, root, &names).await.map_err(|error| error.at(path))
    }

    /// What a path is in, which names a place: a location-addressed mount, or a working tree.
    pub(crate) async fn by_place(&self, path: &QfsPath, durable: Durable) -> Result<Arc<AsStore>> {
        let mount = self.there(path.prefix).map_err(|error| error.at(path))?;
        if mount.as_cas().is_some() && !names_a_place(path) {
            return Err(Error::new(ErrorKind::InvalidArgument, "mount")
                .at(path)
                .because("content is named by its CID: name a place in the working tree, as /ipfs/name"));
        }
        let is_lazy = is_lazy(mount, durable);
        let known = || self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().get(&(path.prefix, is_lazy)).cloned();
        if let Some(store) = found {
            return Ok(store);
        }
        // Not the mount itself: whoever caches is to hear of it.
        let root = QfsPath { prefix: path.prefix, parts: Vec::new() };
        let (top, _) = self.walk(&Place::Path(root)).await?;
        let store = AsStore::new(mount.prefix(), subtree(self.vfs.clone(), top), env());
        let store = Arc::new(if is_lazy { store.lazy() } else { store });
        Ok(known().entry((path.prefix, is_lazy)).or_insert(store).clone())
    }

    /// Whose QFS calls a path is for. Those of a mount with a working tree are for its content, by CID; what it has by
    /// name is called as in a location-addressed mount.
    async fn store(&self, path: &QfsPath, durable: Durable) -> Result<Arc<dyn Store>> {
        let mount = self.there(path.prefix).map_err(|error| error.at(path))?;
        if mount.as_cas().is_none() || mount.as_tree().is_some() && names_a_place(path) {
            return Ok(self.by_place(path, durable).await?);
        }
        Ok(mount.store().clone())
    }

    /// Puts a node under the last name of a path, whose directory is there.
    async fn place(&self, path: &QfsPath, putting: Putting, durable: Durable) -> Result<()> {
        let Some((name, above)) = path.parts.split_last() else {
            return Err(Error::new(ErrorKind::IsDir, "put.node").at(path));
        };
        let above = QfsPath { prefix: path.prefix, parts: above.to_vec() };
        let (dir, _) = self.walk(&Place::Path(above)).await?;
        let mut random = [0; 8];
        (env().fill)(&mut random);
        let put = place_node::put(&self.vfs, (dir.ino(), name), putting, u64::from_be_bytes(random));
        let put = async {
            put.await?;
            if is_lazy(self.there(path.prefix)?, durable) { Ok(()) } else { self.vfs.sync(dir.ino()).await }
        };
        put.await.map_err(|error: Error| error.at(path))
    }

    async fn stat_entry(&self, name: Name, attr: &Attr) -> Result<Stat> {
        let target = match attr.kind {
            FileKind::Symlink => Some(self.vfs.readlink(attr.ino).await?),
            _ => None,
        };
        Ok(Stat { below: self.below(attr).await?, ..Stat::of_attr(name, attr, target) })
    }

    /// Where a node of an overlay lies below, if it is as it is there; of its root, where all of it does.
    async fn below(&self, attr: &Attr) -> Result<Option<Bytes>> {
        if !self.overlays.contains(&attr.fsid) {
            return Ok(None);
        }
        for name in [BELOW_XATTR, BASE_XATTR] {
            match self.vfs.getxattr(attr.ino, &XattrName::new(name.as_bytes())?).await {
                // Content by CID is below the same root, and has none.
                Err(error) if matches!(error.kind(), ErrorKind::NoAttr | ErrorKind::Unsupported) => {}
                below => return below.map(Some),
            }
        }
        Ok(None)
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
            if let Some(attr) = entry.attr {
                stats.push(self.stat_entry(entry.name, &attr).await?);
                continue;
            }
            match self.vfs.lookup(dir.ino(), &entry.name).await {
                Ok(attr) => {
                    let _lease = Lease::adopt(self.vfs.clone(), attr.ino);
                    stats.push(self.stat_entry(entry.name, &attr).await?);
                }
                // It went since it was listed.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Stale) => {}
                // It is there all the same; what is wrong with it is told to who looks into it.
                Err(_) => stats.push(Stat::unseen(entry.name)),
            }
        }
        Ok((stats, next))
    }
}

/// Whether what is put in a mount is made durable by a later call. Where there is no working tree a name may come back from a crash
/// without its bytes.
fn is_lazy(mount: &Mount, durable: Durable) -> bool {
    durable == Durable::Later && mount.as_tree().is_some()
}

/// Whether a path in a mount with a working tree names something in that, and not content.
pub(crate) fn names_a_place(path: &QfsPath) -> bool {
    !path.parts.is_empty() && path.cid().is_none()
}

/// The kept commit of a name, a CID, or `head`.
fn find_commit<'a>(kept: &'a [KeptCommit], text: &str) -> Result<&'a KeptCommit> {
    let found = match text {
        "head" => kept.first(),
        text => kept.iter().find(|kept| kept.name == text || kept.cid.to_string() == text),
    };
    found.ok_or_else(|| {
        let newest: Vec<&str> = kept.iter().take(3).map(|kept| kept.name.as_str()).collect();
        let why = format!("no commit of that name or CID is kept; the newest are {}", newest.join(" "));
        Error::new(ErrorKind::NotFound, "commit.find").at(text).because(why)
    })
}

/// What `log` compares of a path from commit to commit.
fn traits_of(attr: &Attr) -> (FileKind, Option<Cid>, u32, SystemTime, SystemTime) {
    (attr.kind, attr.cid, attr.mode, attr.mtime, attr.ctime)
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
                let file = self.store(path, Durable::Now).await?.open(path).await?;
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
                    rdev: None,
                    below: None,
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
        let opened = async move { self.store(path, Durable::Now).await?.open(path).await };
        let pieces = stream::once(opened).map_ok(|file| {
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
        self.store(path, Durable::Now).await?.has(path).await
    }

    async fn put(&self, path: &QfsPath, input: Input, durable: Durable) -> Result<QfsPath> {
        let source: Box<dyn tokio::io::AsyncRead + Send + Unpin> = match input {
            Input::File(file) => Box::new(StreamReader::new(file.stream())),
            Input::Stream(stream) => Box::new(StreamReader::new(stream)),
        };
        self.store(path, durable).await?.put(path, Source::Reader(source)).await
    }

    async fn delete(&self, path: &QfsPath) -> Result<bool> {
        self.store(path, Durable::Now).await?.delete(path).await
    }

    fn cp<'a>(&'a self, source: &'a QfsPath, target: &'a QfsPath) -> BoxStream<'a, Result<cp::Copying>> {
        cp::run(self, source, target)
    }

    async fn put_dir(&self, path: &QfsPath, durable: Durable) -> Result<()> {
        self.by_place(path, durable).await?.put_dir(path).await
    }

    async fn put_symlink(&self, path: &QfsPath, target: Bytes, durable: Durable) -> Result<()> {
        self.by_place(path, durable).await?.put_symlink(path, target).await
    }

    async fn put_link(&self, source: &QfsPath, target: &QfsPath, durable: Durable) -> Result<()> {
        // Both by place, and in one mount: else the file system below says so.
        drop(self.by_place(source, durable).await?);
        drop(self.by_place(target, durable).await?);
        let (node, _) = self.walk(&Place::Path(source.clone())).await?;
        self.place(target, Putting::Link(node.ino()), durable).await
    }

    async fn put_node(&self, path: &QfsPath, kind: Kind, (major, minor): (u32, u32), durable: Durable) -> Result<()> {
        drop(self.by_place(path, durable).await?);
        let rdev = Rdev { major, minor };
        let node = match kind {
            Kind::Fifo => NewNode::Fifo,
            Kind::Socket => NewNode::Socket,
            Kind::CharDevice => NewNode::CharDevice(rdev),
            Kind::BlockDevice => NewNode::BlockDevice(rdev),
            Kind::File | Kind::Dir | Kind::Symlink => {
                let why = "files, directories and symlinks are put in their own ways";
                return Err(Error::new(ErrorKind::InvalidArgument, "put.node").at(path).because(why));
            }
        };
        self.place(path, Putting::Node(node), durable).await
    }

    async fn keep(&self, path: &QfsPath, kept: &Kept, durable: Durable) -> Result<()> {
        let (node, attr) = self.walk(&Place::Path(path.clone())).await?;
        let keep = async {
            for (first, len) in &kept.holes {
                // What is reserved or written behind the end is none of the source's.
                let end = first.saturating_add(*len).min(attr.size);
                if *first < end {
                    self.vfs.punch_hole(node.ino(), *first..end).await?;
                }
            }
            for (name, value) in &kept.xattrs {
                let bad = || Error::new(ErrorKind::InvalidArgument, "put.keep").because("bad hex digits");
                let name = XattrName::new(&from_text(name).ok_or_else(bad)?)?;
                let value = from_text(value).ok_or_else(bad)?;
                self.vfs.setxattr(node.ino(), &name, value.into(), XattrMode::Set).await?;
            }
            let (uid, gid) = kept.owner.unzip();
            let mtime = Some(SetTime::At(time(kept.mtime)));
            // The mode after the owner: to give a file away takes its set-user-id bit.
            if uid.is_some() {
                self.vfs.setattr(node.ino(), SetAttr { uid, gid, ..SetAttr::default() }).await?;
            }
            self.vfs.setattr(node.ino(), SetAttr { mode: kept.mode, mtime, ..SetAttr::default() }).await
        };
        keep.await.map_err(|error: Error| error.at(path))?;
        if is_lazy(self.there(path.prefix)?, durable) { Ok(()) } else { self.vfs.sync_inode(node.ino()).await }
    }

    async fn commit(&self, mount: Prefix, note: &str) -> Result<Cid> {
        self.tree(mount)?.commit(note).await
    }

    async fn log(&self, path: &QfsPath) -> Result<Vec<Logged>> {
        let history: Arc<History> = Arc::new(History::new(self.tree(path.prefix)?.clone()));
        let vfs: Arc<dyn Vfs> = history.clone();
        let mut logged: Vec<(Logged, Option<_>)> = Vec::new();
        for KeptCommit { name, cid, commit } in history.kept().await? {
            let text = cid.to_string();
            if let Some((same, _)) = logged.iter_mut().find(|(known, _)| known.commit == text) {
                same.names.push(name);
                continue;
            }
            let names: Vec<Name> =
                std::iter::once(Name::new(name.as_bytes())?).chain(path.parts.iter().cloned()).collect();
            let there = match ext::walk(&vfs, vfs.root(), &names).await {
                Ok((_lease, attr)) => Some(traits_of(&attr)),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir) => None,
                Err(error) => return Err(error.at(path)),
            };
            let (root, time, note) = (commit.root.to_string(), seconds(commit.time), commit.note.clone());
            logged.push((Logged { commit: text, root, names: vec![name], time, note }, there));
        }
        if path.parts.is_empty() {
            return Ok(logged.into_iter().map(|(logged, _)| logged).collect());
        }
        let before: Vec<Option<_>> = logged.iter().skip(1).map(|(_, there)| *there).chain([None]).collect();
        let changed = logged.into_iter().zip(before).filter(|((_, there), before)| there != before);
        Ok(changed.map(|((logged, _), _)| logged).collect())
    }

    fn diff<'a>(&'a self, path: &'a QfsPath, before: &'a str, after: &'a str) -> BoxStream<'a, Result<Difference>> {
        let begun = async move {
            let history = Arc::new(History::new(self.tree(path.prefix)?.clone()));
            let kept = history.kept().await?;
            let (before, after) = (find_commit(&kept, before)?.cid, find_commit(&kept, after)?.cid);
            history.diff(&before, &after).await
        };
        let text = |names: Vec<Name>| to_text(&QfsPath { prefix: path.prefix, parts: names }.to_bytes());
        let is_below = |names: &[Name]| names.starts_with(&path.parts);
        let shown = move |change: PathChange| match change {
            PathChange::Added(path) => is_below(&path).then(|| Difference::Added { path: text(path) }),
            PathChange::Removed(path) => is_below(&path).then(|| Difference::Removed { path: text(path) }),
            PathChange::Changed(path) => is_below(&path).then(|| Difference::Changed { path: text(path) }),
            PathChange::Renamed { from, to } => {
                (is_below(&from) || is_below(&to)).then(|| Difference::Renamed { from: text(from), to: text(to) })
            }
        };
        let changes = stream::once(begun).try_flatten();
        changes.try_filter_map(move |change| std::future::ready(Ok(shown(change)))).boxed()
    }

    async fn snapshot(&self, mount: Prefix, name: &str) -> Result<Cid> {
        self.tree(mount)?.snapshot(name).await
    }

    async fn remove_snapshot(&self, mount: Prefix, name: &str) -> Result<()> {
        if self.tree(mount)?.remove_snapshot(name).await? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, "snapshot.remove").at(name).because("there is no snapshot of that name"))
    }

    async fn checkout(&self, mount: Prefix, commit: &str) -> Result<Cid> {
        let tree = self.tree(mount)?;
        let kept = History::new(tree.clone()).kept().await?;
        let cid = match find_commit(&kept, commit) {
            Ok(kept) => kept.cid,
            Err(error) => commit.parse().map_err(|_| error)?,
        };
        let head = tree.checkout(&cid).await?;
        self.watch.everything_changed().await;
        Ok(head)
    }

    async fn restore(&self, commit: &str, path: &QfsPath, target: &QfsPath) -> Result<u64> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "restore").at(path).because(why));
        let tree = self.tree(path.prefix)?;
        let (Some((name, above)), false) = (target.parts.split_last(), path.parts.is_empty()) else {
            return refuse("name something below the mount; to restore all of it, check the commit out");
        };
        if !names_a_place(path) || !names_a_place(target) || path.prefix != target.prefix {
            return refuse("only what is in a working tree is restored, and there");
        }
        let kept = History::new(tree.clone()).kept().await?;
        let then = Name::new(find_commit(&kept, commit)?.name.as_bytes())?;
        tree.commit("").await?;
        let parts = [&[Name::new(HISTORY_NAME.as_bytes())?, then][..], &path.parts[..]].concat();
        let (node, attr) = self.walk(&Place::Path(QfsPath { prefix: path.prefix, parts })).await?;
        let (dir, _) = self.walk(&Place::Path(QfsPath { prefix: path.prefix, parts: above.to_vec() })).await?;
        let mut random = [0; 8];
        (env().fill)(&mut random);
        let random = u64::from_be_bytes(random);
        restore::copy(&self.vfs, (node.ino(), &attr), (dir.ino(), name), random).await.map_err(|error| error.at(target))
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

    async fn hold(&self, mount: Prefix, cid: Option<&Cid>) -> Result<Hold> {
        let dag = self.by_content(mount)?.dag();
        let session = dag.begin_write();
        let lease = cid.map(|cid| dag.lease(cid));
        if let Some(lease) = &lease {
            lease.settled().await;
        }
        Ok(Hold::new((session, lease)))
    }

    fn gc(&self, mount: Option<Prefix>, dry_run: bool) -> BoxStream<'_, Result<Collecting>> {
        crate::collector::collect_all(self, mount, dry_run)
    }

    async fn pin(&self, mount: Prefix, cid: &Cid) -> Result<bool> {
        self.by_content(mount)?.pin(cid).await
    }

    async fn unpin(&self, mount: Prefix, cid: &Cid) -> Result<bool> {
        self.by_content(mount)?.pins().remove(cid).await
    }

    async fn pins(&self, mount: Option<Prefix>) -> Result<Vec<(Prefix, Cid)>> {
        let mut pins = Vec::new();
        for (mount, cas) in self.named_or_all(mount)? {
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

    fn doctor(&self) -> BoxStream<'_, Result<doctor::Finding>> {
        doctor::findings(|out| async move { doctor::of_instance(self, &out).await })
    }

    fn verify_all<'a>(&'a self, options: &'a VerifyAll) -> BoxStream<'a, Result<AllFinding>> {
        verify_all::run(self, options)
    }

    fn car_export<'a>(
        &'a self,
        mount: Prefix,
        root: &'a Cid,
        options: &'a car::Export,
    ) -> BoxStream<'a, Result<car::Piece>> {
        car::export_of(self, mount, root, options)
    }

    async fn car_import(&self, mount: Prefix, input: Input, options: &car::Import) -> Result<car::Imported> {
        car::import_of(self, mount, input, options).await
    }

    async fn zstor_status(&self, mount: Option<Prefix>) -> Result<Vec<zstor::Status>> {
        zstor::status_of(self, mount).await
    }

    async fn zstor_plan(&self, mount: Option<Prefix>, lose: &[String]) -> Result<zstor::Plan> {
        zstor::plan_of(self, mount, lose).await
    }

    fn zstor_scrub<'a>(&'a self, options: &'a zstor::Scrub) -> BoxStream<'a, Result<zstor::Scrubbing>> {
        zstor::run(self, options)
    }

    fn key_rotate<'a>(&'a self, options: &'a key::Rotate) -> BoxStream<'a, Result<key::Rotating>> {
        key::run(self, options)
    }

    async fn config(&self) -> Result<String> {
        self.loaded.lock().await.to_text()
    }
}
