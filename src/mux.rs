//! [`MuxFs`]: prefixes to mounts, in two tongues, the QFS calls and one [`Vfs`].
//!
//! The top of the library. It parses nothing (that is [`path`](crate::path)), stores nothing (that is a [`Mount`]) and
//! falls back to nothing: a prefix that is not mounted is `NotFound`, whatever the host has of that name.
//! Spec: spec/qfs.md.

mod later;

use std::sync::Arc;

use futures_util::StreamExt;

pub use self::later::Later;

use crate::{
    Env, Error, ErrorKind, File, Prefix, QfsPath, Result, SecretKey, Source, Store,
    cas::Cas,
    cas_view::{CasView, CasViewOptions},
    dag::{Dag, GcOptions, GcReport},
    overlay::Overlay,
    pins::Pins,
    tree::{History, Tree},
    vfs::{
        Vfs,
        as_store::AsStore,
        union::{SLOT_MAX, Slots, UnionVfs},
    },
    working::WorkingVfs,
};

/// Where `put` goes that names no mount, where none is configured: the first of these that is mounted. Never `/mem`,
/// which forgets.
const DEFAULT_WRITE: [&str; 2] = ["zstor", "ipfs"];

/// What stands at a prefix: the QFS calls and the inodes of one store.
#[derive(Debug, Clone)]
pub struct Mount {
    prefix: Prefix,
    store: Arc<dyn Store>,
    vfs: Arc<dyn Vfs>,
    cas: Option<Arc<Cas>>,
    tree: Option<Tree>,
    /// What fills it, where it comes later.
    later: Option<Later>,
}

impl Mount {
    /// A content-addressed mount that is read by CID: its root lists the pins, its nodes belong to uid and gid 0.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Mount, Prefix, block, dag::{Dag, DagOptions}, media::MemMedia, pins::Pins};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// let pins = Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?;
    /// let mount = Mount::cas(Prefix::new("mem")?, dag, Arc::new(pins));
    /// assert_eq!(mount.prefix().as_str(), "mem");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn cas(prefix: Prefix, dag: Dag, pins: Arc<Pins>) -> Self {
        Self::cas_with_options(prefix, dag, pins, CasViewOptions::default())
    }

    /// [`Mount::cas`], with what its inodes are to say that content does not.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Mount, Prefix, block, cas_view::CasViewOptions, dag::{Dag, DagOptions}, media::MemMedia, pins::Pins};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// # let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?);
    /// let owner = CasViewOptions { uid: 1000, gid: 1000, ..CasViewOptions::default() };
    /// let mount = Mount::cas_with_options(Prefix::new("mem")?, dag, pins, owner);
    /// assert_eq!(mount.vfs().getattr(mount.vfs().root()).await?.uid, 1000);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn cas_with_options(prefix: Prefix, dag: Dag, pins: Arc<Pins>, mut options: CasViewOptions) -> Self {
        let reading = options.reading(dag.clone());
        let cas = Arc::new(Cas::new(prefix, dag, pins.clone()).reading_with(reading.clone()));
        let vfs = Arc::new(CasView::new(reading, pins, options));
        Self { prefix, store: cas.clone(), vfs, cas: Some(cas), tree: None, later: None }
    }

    /// A content-addressed mount with a working tree: its inodes are those of `tree`, with all content by CID and the
    /// history below the same root (see [`WorkingVfs`]); the QFS calls stay strict, by CID and nothing else.
    ///
    /// Content is put into the tree's own [`Dag`]. `options` are for what is seen by CID; the tree knows its own owners
    /// and space, and what it holds is in its store: nothing but what is looked up by CID is looked for elsewhere.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Mount, Name, Prefix, block, cas_view::CasViewOptions, dag::{Dag, DagOptions}, heads::MemHeads};
    /// # use muxfs::{media::MemMedia, pins::Pins, testing, vfs::{NewNode, SetAttr}};
    /// use muxfs::tree::{Tree, TreeOptions};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let env = testing::env();
    /// let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env).await?);
    /// let (journal, heads) = (Arc::new(MemMedia::default()), Arc::new(MemHeads::default()));
    /// let tree = Tree::open(dag, journal, heads, TreeOptions::new(Name::new(b"mem")?, env)).await?;
    /// let mount = Mount::content(Prefix::new("mem")?, pins, tree.clone(), CasViewOptions::default());
    ///
    /// let vfs = mount.vfs();
    /// vfs.create(vfs.root(), &Name::new(b"by name")?, NewNode::Dir, SetAttr::default()).await?;
    /// tree.commit("a directory").await?;
    /// let root = Name::new(tree.head().1.root.to_string().as_bytes())?;
    /// let then = vfs.lookup(vfs.root(), &root).await?;
    /// assert!(vfs.lookup(then.ino, &Name::new(b"by name")?).await.is_ok());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn content(prefix: Prefix, pins: Arc<Pins>, tree: Tree, mut options: CasViewOptions) -> Self {
        let reading = options.reading(tree.dag().clone());
        let cas = Arc::new(Cas::new(prefix, tree.dag().clone(), pins.clone()).reading_with(reading.clone()));
        let content = CasView::new(reading, pins, options);
        let history = Arc::new(History::new(tree.clone()));
        let vfs = Arc::new(WorkingVfs::new(Arc::new(tree.clone()), content, Some(history)));
        Self { prefix, store: cas.clone(), vfs, cas: Some(cas), tree: Some(tree), later: None }
    }

    /// A content-addressed mount whose working tree lies over something else: its inodes are those of the overlay, with all
    /// content by CID below the same root. The history of the tree is not shown, since it is not what the overlay was.
    ///
    /// As [`Mount::content`] otherwise.
    pub fn overlay(prefix: Prefix, pins: Arc<Pins>, overlay: Arc<Overlay>, mut options: CasViewOptions) -> Self {
        let tree = overlay.tree().clone();
        let reading = options.reading(tree.dag().clone());
        let cas = Arc::new(Cas::new(prefix, tree.dag().clone(), pins.clone()).reading_with(reading.clone()));
        let content = CasView::new(reading, pins, options);
        let vfs = Arc::new(WorkingVfs::new(overlay, content, None));
        Self { prefix, store: cas.clone(), vfs, cas: Some(cas), tree: Some(tree), later: None }
    }

    /// A location-addressed mount: any [`Vfs`], which also answers the QFS calls (see [`AsStore`]).
    ///
    /// ```
    /// # use muxfs::{Mount, Prefix, testing::{self, model::ModelFs}};
    /// let env = testing::env();
    /// let mount = Mount::location(Prefix::new("local")?, ModelFs::new(env.clone()), env);
    /// assert!(mount.as_cas().is_none());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn location(prefix: Prefix, vfs: Arc<dyn Vfs>, env: Env) -> Self {
        Self {
            prefix,
            store: Arc::new(AsStore::new(prefix, vfs.clone(), env)),
            vfs,
            cas: None,
            tree: None,
            later: None,
        }
    }

    /// Where it stands.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Its QFS calls.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Its inodes.
    pub fn vfs(&self) -> &Arc<dyn Vfs> {
        &self.vfs
    }

    /// What a content-addressed mount has beyond the QFS calls: its [`Dag`] and its pins. Of one that comes [`Later`]
    /// nothing until then.
    pub fn as_cas(&self) -> Option<&Arc<Cas>> {
        self.cas.as_ref().or_else(|| self.has_come()?.as_cas())
    }

    /// The working tree of a mount that has one. Of one that comes [`Later`] nothing until then.
    pub fn as_tree(&self) -> Option<&Tree> {
        self.tree.as_ref().or_else(|| self.has_come()?.as_tree())
    }

    /// Why nothing of it can be had now: of a mount that comes [`Later`], and has not yet.
    pub fn absence(&self) -> Option<Error> {
        self.later.as_ref().filter(|later| later.has_come().is_none()).map(|later| later.away("mux.mount"))
    }

    fn has_come(&self) -> Option<&Self> {
        self.later.as_ref()?.has_come()
    }

    /// Removes the blocks that neither a pin nor the working tree keeps, nor who reads or writes now: see
    /// [`Dag::collect_garbage`]. Others go on meanwhile. How the store gives the room back is its own affair
    /// ([`Segments::compact`](crate::block::Segments::compact)).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Codec, Mount, Prefix, block, dag::{Dag, DagOptions, GcOptions}, media::MemMedia, pins::Pins, testing};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let env = testing::env();
    /// let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env).await?);
    /// let mount = Mount::cas(Prefix::new("mem")?, dag.clone(), pins.clone());
    /// let kept = dag.put_block(Codec::Raw, "pinned".into()).await?;
    /// pins.add(&kept).await?;
    /// dag.put_block(Codec::Raw, "not pinned".into()).await?;
    /// let report = mount.collect_garbage(&GcOptions::new(&env)).await?;
    /// assert_eq!((report.blocks_kept, report.blocks_removed), (1, 1));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Unsupported` for a location-addressed mount; that of [`Mount::absence`]; as [`Dag::collect_garbage`].
    pub async fn collect_garbage(&self, options: &GcOptions) -> Result<GcReport> {
        if let Some(away) = self.absence() {
            return Err(away);
        }
        let Some(cas) = self.as_cas() else {
            let why = "it is not content-addressed: there is nothing to collect";
            return Err(Error::new(ErrorKind::Unsupported, "mux.collect_garbage")
                .at(QfsPath::mount(self.prefix))
                .because(why));
        };
        // Every source of roots of the `Dag`: one that is forgotten here is lost.
        let roots = || match self.as_tree() {
            // The tree tells what it holds at this moment; what moves from it to a pin meanwhile is leased.
            Some(tree) => tree.gc_roots().chain(cas.pins().roots()).boxed(),
            None => cas.pins().roots(),
        };
        cas.dag().collect_garbage(roots, options).await
    }
}

/// Prefixes to mounts. Cheap to clone; mounts keep the order in which they were mounted.
#[derive(Debug, Clone, Default)]
pub struct MuxFs {
    mounts: Vec<Mount>,
    default_write: Option<Prefix>,
    slots: Option<Arc<Slots>>,
}

impl MuxFs {
    /// A namespace without mounts.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let error = muxfs::MuxFs::new().open("/etc/passwd").await.unwrap_err();
    /// assert_eq!(error.kind(), muxfs::ErrorKind::NotFound);
    /// # });
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the inode numbers of [`MuxFs::vfs`] the same whatever is mounted later: a durable slot for each prefix.
    /// Without, they go by the order of the mounts.
    #[must_use]
    pub fn with_slots(mut self, slots: impl Into<Arc<Slots>>) -> Self {
        self.slots = Some(slots.into());
        self
    }

    /// Makes `prefix` the mount that `put` goes to where none is named.
    #[must_use]
    pub fn with_default_write(mut self, prefix: Prefix) -> Self {
        self.default_write = Some(prefix);
        self
    }

    /// Mounts a store.
    ///
    /// # Errors
    /// `Exists` if the prefix is taken; `Quota` past [`SLOT_MAX`] mounts.
    pub fn mount(&mut self, mount: Mount) -> Result<()> {
        if self.mounts.iter().any(|other| other.prefix == mount.prefix) {
            return Err(Error::new(ErrorKind::Exists, "mux.mount").at(QfsPath::mount(mount.prefix)));
        }
        if self.mounts.len() >= usize::from(SLOT_MAX) {
            return Err(Error::new(ErrorKind::Quota, "mux.mount")
                .at(QfsPath::mount(mount.prefix))
                .because(format!("there can be {SLOT_MAX} mounts")));
        }
        self.mounts.push(mount);
        Ok(())
    }

    /// All mounts, in their order.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The mount at a prefix.
    ///
    /// # Errors
    /// `NotFound`, naming the mounts that exist.
    pub fn mount_at(&self, prefix: Prefix) -> Result<&Mount> {
        self.mounts.iter().find(|mount| mount.prefix == prefix).ok_or_else(|| {
            let there: Vec<String> = self.mounts.iter().map(|mount| format!("/{}", mount.prefix)).collect();
            let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
            Error::new(ErrorKind::NotFound, "mux.route")
                .because(format!("nothing is mounted at /{prefix}; there is {there}"))
        })
    }

    /// Where `put` goes that names no mount: the configured one, else `/zstor`, else `/ipfs`, of those that are mounted;
    /// `None` if there is none of them.
    pub fn default_write(&self) -> Option<Prefix> {
        let is_mounted = |prefix: &Prefix| self.mounts.iter().any(|mount| mount.prefix == *prefix);
        if let Some(configured) = self.default_write {
            return Some(configured).filter(is_mounted);
        }
        DEFAULT_WRITE.iter().filter_map(|prefix| Prefix::new(prefix).ok()).find(is_mounted)
    }

    /// All mounts under one root: what frontends serve. `env` says when the root came to be.
    ///
    /// # Errors
    /// Those of [`Slots::slot`].
    pub async fn vfs(&self, env: &Env) -> Result<Arc<dyn Vfs>> {
        let mut mounts = Vec::with_capacity(self.mounts.len());
        for (slot, mount) in (1..=SLOT_MAX).zip(&self.mounts) {
            let slot = match &self.slots {
                Some(slots) => slots.slot(mount.prefix).await?,
                None => slot,
            };
            mounts.push((mount.prefix, slot, mount.vfs.clone()));
        }
        Ok(Arc::new(UnionVfs::new(mounts, env)?))
    }

    /// Whether [`MuxFs::open`] would find something.
    ///
    /// # Errors
    /// As [`Store::has`]; `NotFound` for a prefix that is not mounted.
    pub async fn has(&self, path: impl IntoPath) -> Result<bool> {
        let (store, path) = self.route(path)?;
        store.has(&path).await
    }

    /// Opens a file, a directory or a linked-data node.
    ///
    /// # Errors
    /// As [`Store::open`]; `NotFound` for a prefix that is not mounted.
    pub async fn open(&self, path: impl IntoPath) -> Result<Box<dyn File>> {
        let (store, path) = self.route(path)?;
        store.open(&path).await
    }

    /// Stores `source`, durably, and returns its path.
    ///
    /// # Errors
    /// As [`Store::put`]; `NotFound` for a prefix that is not mounted.
    pub async fn put(&self, path: impl IntoPath, source: impl Into<Source> + Send) -> Result<QfsPath> {
        let (store, path) = self.route(path)?;
        store.put(&path, source.into()).await
    }

    /// [`MuxFs::put`] where no mount is named: at [`MuxFs::default_write`].
    ///
    /// # Errors
    /// As [`Store::put`]; `InvalidArgument` where there is no such mount.
    pub async fn put_default(&self, source: impl Into<Source> + Send) -> Result<QfsPath> {
        let prefix = self.default_write().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "mux.put")
                .because("there is no mount to write to by default: name one")
        })?;
        self.put(QfsPath::mount(prefix), source).await
    }

    /// Removes a file or an empty directory by place, a pin by content; whether there was something to remove.
    ///
    /// # Errors
    /// As [`Store::delete`]; `NotFound` for a prefix that is not mounted.
    pub async fn delete(&self, path: impl IntoPath) -> Result<bool> {
        let (store, path) = self.route(path)?;
        store.delete(&path).await
    }

    /// Opens a sealed file.
    ///
    /// # Errors
    /// As [`Store::open_encrypted`]; `NotFound` for a prefix that is not mounted.
    pub async fn open_encrypted(&self, key: &SecretKey, path: impl IntoPath) -> Result<Box<dyn File>> {
        let (store, path) = self.route(path)?;
        store.open_encrypted(key, &path).await
    }

    /// Stores `source`, sealed.
    ///
    /// # Errors
    /// As [`Store::put_encrypted`]; `NotFound` for a prefix that is not mounted.
    pub async fn put_encrypted(
        &self,
        key: &SecretKey,
        path: impl IntoPath,
        source: impl Into<Source> + Send,
    ) -> Result<QfsPath> {
        let (store, path) = self.route(path)?;
        store.put_encrypted(key, &path, source.into()).await
    }

    fn route(&self, path: impl IntoPath) -> Result<(&dyn Store, QfsPath)> {
        let path = path.into_path()?;
        let mount = self.mount_at(path.prefix).map_err(|error| error.at(&path))?;
        Ok((&*mount.store, path))
    }
}

/// A path, or text or bytes that are one.
pub trait IntoPath: Send {
    /// The path.
    ///
    /// # Errors
    /// Those of [`QfsPath::parse`].
    fn into_path(self) -> Result<QfsPath>;
}

impl<P: TryInto<QfsPath, Error: Into<Error>> + Send> IntoPath for P {
    fn into_path(self) -> Result<QfsPath> {
        self.try_into().map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Name,
        block::Mem,
        dag::DagOptions,
        heads::MemHeads,
        media::MemMedia,
        testing::{env, model::ModelFs},
        tree::TreeOptions,
        vfs::{NewNode, SetAttr},
        working::HISTORY_NAME,
    };

    fn prefix(text: &str) -> Prefix {
        Prefix::new(text).expect("a prefix")
    }

    async fn cas(text: &str) -> Mount {
        let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &crate::testing::env()).await.expect("opens"));
        Mount::cas(prefix(text), Dag::new(Arc::new(Mem::default()), DagOptions::default()), pins)
    }

    fn location(text: &str) -> Mount {
        Mount::location(prefix(text), ModelFs::new(env()), env())
    }

    #[tokio::test]
    async fn an_unknown_prefix_is_named_and_so_are_those_that_exist() {
        let mut mux = MuxFs::new();
        for mount in [cas("mem").await, location("local")] {
            mux.mount(mount).expect("mounts");
        }
        let key = SecretKey::new([0; 32]);
        let errors = [
            mux.has("/etc/passwd").await.expect_err("refused"),
            mux.open("/etc/passwd").await.expect_err("refused"),
            mux.put("/etc/passwd", &b"x"[..]).await.expect_err("refused"),
            mux.delete("/etc/passwd").await.expect_err("refused"),
            mux.open_encrypted(&key, "/etc/passwd").await.expect_err("refused"),
            mux.put_encrypted(&key, "/etc/passwd", &b"x"[..]).await.expect_err("refused"),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert_eq!(
                format!("{error:#}"),
                "mux.route: not found (/etc/passwd): nothing is mounted at /etc; there is /mem, /local"
            );
        }
    }

    #[tokio::test]
    async fn a_prefix_is_mounted_once() {
        let mut mux = MuxFs::new();
        mux.mount(location("mem")).expect("mounts");
        assert_eq!(mux.mount(cas("mem").await).expect_err("taken").kind(), ErrorKind::Exists);
        assert_eq!(mux.mounts().len(), 1);
    }

    #[tokio::test]
    async fn the_default_target_is_one_that_keeps() {
        let cases: [(&[&str], Option<&str>, Option<&str>); 8] = [
            (&[], None, None),
            (&["mem", "local"], None, None),
            (&["mem", "ipfs"], None, Some("ipfs")),
            (&["ipfs", "zstor"], None, Some("zstor")),
            (&["ipfs", "s3"], Some("s3"), Some("s3")),
            (&["ipfs", "zstor"], Some("ipfs"), Some("ipfs")),
            (&["ipfs", "mem"], Some("mem"), Some("mem")),
            (&["ipfs"], Some("s3"), None),
        ];
        for (mounts, configured, expected) in cases {
            let mut mux = MuxFs::new();
            for mount in mounts {
                mux.mount(cas(mount).await).expect("mounts");
            }
            if let Some(configured) = configured {
                mux = mux.with_default_write(prefix(configured));
            }
            assert_eq!(mux.default_write(), expected.map(prefix), "{mounts:?} {configured:?}");
            let put = mux.put_default(&b"x"[..]).await;
            match expected {
                Some(expected) => assert_eq!(put.expect("put").prefix, prefix(expected)),
                None => assert_eq!(put.expect_err("nowhere").kind(), ErrorKind::InvalidArgument),
            }
        }
    }

    /// Names are the frontends'; to the QFS calls a content-addressed mount is its CIDs.
    #[tokio::test]
    async fn a_working_tree_is_written_by_name_and_the_calls_stay_strict() {
        let env = env();
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env).await.expect("opens"));
        let options = TreeOptions::new(Name::new(b"main").expect("a name"), env.clone());
        let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await;
        let tree = tree.expect("opens");
        let mut mux = MuxFs::new();
        mux.mount(Mount::content(prefix("mem"), pins, tree.clone(), CasViewOptions::default())).expect("mounts");
        let vfs = mux.vfs(&env).await.expect("a view");
        let names = ["mem", "notes.txt"].map(|text| Name::new(text.as_bytes()).expect("a name"));
        let top = vfs.lookup(vfs.root(), &names[0]).await.expect("the mount");
        let made = vfs.create(top.ino, &names[1], NewNode::File, SetAttr::default()).await.expect("create");
        vfs.write(made.node.ino, 0, "by name".into(), false).await.expect("write");

        let error = mux.open("/mem/notes.txt").await.expect_err("a name");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(mux.put("/mem/notes.txt", &b"x"[..]).await.expect_err("a name").kind(), ErrorKind::InvalidArgument);
        let commit = tree.commit("").await.expect("commits");
        let root = tree.head().1.root;
        let file = mux.open(format!("/mem/{root}/notes.txt")).await.expect("by CID");
        assert_eq!(file.read_at(0, 100).await.expect("reads"), "by name");
        for cid in [root, commit] {
            let name = Name::new(cid.to_string().as_bytes()).expect("a name");
            vfs.lookup(top.ino, &name).await.expect("by CID over the frontends");
        }
        let history = Name::new(HISTORY_NAME.as_bytes()).expect("a name");
        let history = vfs.lookup(top.ino, &history).await.expect("hidden, and there");
        assert_ne!(history.fsid, top.fsid, "clients see a mount point");
        assert_eq!(mux.mounts()[0].as_tree().expect("it has one").head().0, commit);
    }

    /// With slots, a mount keeps its inode numbers when others come before it.
    #[tokio::test]
    async fn numbers_outlive_the_order_of_mounts() {
        let media = Arc::new(MemMedia::default());
        let mut numbers = Vec::new();
        for order in [["local", "other"], ["other", "local"]] {
            let mut mux =
                MuxFs::new().with_slots(Slots::open(media.clone(), &crate::testing::env()).await.expect("opens"));
            for mount in order {
                mux.mount(location(mount)).expect("mounts");
            }
            let vfs = mux.vfs(&env()).await.expect("a view");
            let name = Name::new(b"local").expect("a name");
            numbers.push(vfs.lookup(vfs.root(), &name).await.expect("lookup").ino);
        }
        assert_eq!(numbers.first(), numbers.last());
    }

    /// A path may be text, bytes, a path or a reference to one.
    #[tokio::test]
    async fn paths_come_in_many_forms() {
        let mut mux = MuxFs::new();
        mux.mount(location("local")).expect("mounts");
        let path = mux.put("/local/a", &b"x"[..]).await.expect("put");
        let text = path.to_string();
        assert!(mux.has(&path).await.expect("by reference") && mux.has(path.clone()).await.expect("by value"));
        assert!(mux.has(text.as_str()).await.expect("text") && mux.has(&text).await.expect("a String"));
        assert!(mux.has(&b"/local/a"[..]).await.expect("bytes"));
        assert_eq!(mux.has("local/a").await.expect_err("relative").kind(), ErrorKind::InvalidArgument);
    }
}
