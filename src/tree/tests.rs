//! What a tree keeps: the laws of a file system, whatever commits meanwhile; and what a crash leaves.

mod check;
mod collected;
mod collide;
mod continued;
mod crash;
mod durable;
mod found;
mod full;
mod hostile;
mod model;
mod races;
mod transaction;
mod uncertain;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{CheckReport, Checked, Tree, TreeOptions};
use crate::{
    Cid, Name, Result,
    block::Mem,
    dag::{Dag, DagOptions, Link, Params, Profile, UnixfsMeta},
    forward_vfs,
    heads::MemHeads,
    media::MemMedia,
    testing::{self, fault::Faulty},
    vfs::{
        Changed, DirChanged, Ino, Lease, NewNode, Place, RemoveKind, RenameMode, Renamed, Seek, SetAttr, Vfs,
        XattrMode, XattrName,
    },
    vfs_laws,
};

/// What outlives a tree: what it is opened over again.
#[derive(Debug, Clone)]
struct Ground {
    dag: Dag,
    journal: Arc<MemMedia>,
    heads: Arc<MemHeads>,
}

impl Ground {
    fn new() -> Self {
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        Self { dag, journal: Arc::default(), heads: Arc::default() }
    }

    /// So short chunks that small files have many.
    fn with_chunk_len(chunk_len: u32) -> Self {
        let params = Params { chunk_len, width: 8, ..Profile::default().params() };
        let options = DagOptions { params, ..DagOptions::default() };
        Self { dag: Dag::new(Arc::new(Mem::default()), options), ..Self::new() }
    }

    async fn open(&self) -> Tree {
        self.open_with(options()).await
    }

    async fn open_with(&self, options: TreeOptions) -> Tree {
        let opened = Tree::open(self.dag.clone(), self.journal.clone(), self.heads.clone(), options).await;
        opened.expect("the tree opens")
    }
}

fn options() -> TreeOptions {
    TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), testing::env()) }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

async fn empty() -> (Arc<dyn Vfs>, ()) {
    (Arc::new(Ground::new().open().await), ())
}

/// A tree that commits after every so many changes: nobody may notice.
#[derive(Debug)]
struct Restless {
    tree: Tree,
    every: u64,
    changes: std::sync::atomic::AtomicU64,
}

impl Restless {
    async fn over_a_new_tree(every: u64) -> Arc<dyn Vfs> {
        Arc::new(Self { tree: Ground::new().open().await, every, changes: 0.into() })
    }

    async fn changed(&self) {
        let count = self.changes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if count.is_multiple_of(self.every) {
            self.tree.commit("").await.expect("it commits");
        }
    }
}

async fn restless() -> (Arc<dyn Vfs>, ()) {
    (Restless::over_a_new_tree(1).await, ())
}

async fn now_and_then() -> (Arc<dyn Vfs>, ()) {
    (Restless::over_a_new_tree(7).await, ())
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Restless {
    forward_vfs!(tree: root, lookup, expect, parent, getattr, readdir, read, host_file, readlink, statfs, handle);
    forward_vfs!(tree: resolve, retain, release, seek, getxattr, listxattr, sync, sync_inode);

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        let changed = self.tree.setattr(ino, set).await;
        self.changed().await;
        changed
    }
    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        let changed = self.tree.write(ino, offset, data, clear_suid).await;
        self.changed().await;
        changed
    }
    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        let changed = self.tree.create(dir, name, node, set).await;
        self.changed().await;
        changed
    }
    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        let changed = self.tree.remove(place, kind).await;
        self.changed().await;
        changed
    }
    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        let changed = self.tree.rename(from, to, mode).await;
        self.changed().await;
        changed
    }
    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        let changed = self.tree.link(ino, dir, name).await;
        self.changed().await;
        changed
    }
    async fn allocate(&self, ino: Ino, range: std::ops::Range<u64>, keep_size: bool) -> Result<Changed> {
        let changed = self.tree.allocate(ino, range, keep_size).await;
        self.changed().await;
        changed
    }
    async fn punch_hole(&self, ino: Ino, range: std::ops::Range<u64>) -> Result<Changed> {
        let changed = self.tree.punch_hole(ino, range).await;
        self.changed().await;
        changed
    }
    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        let changed = self.tree.copy_range(from, to, len).await;
        self.changed().await;
        changed
    }
    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        let changed = self.tree.setxattr(ino, name, value, mode).await;
        self.changed().await;
        changed
    }
    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        let changed = self.tree.removexattr(ino, name).await;
        self.changed().await;
        changed
    }
}

/// What a transaction sees of itself, before anybody else sees any of it.
async fn in_a_transaction() -> (Arc<dyn Vfs>, ()) {
    (Arc::new(Ground::new().open().await.begin()), ())
}

vfs_laws!(uncommitted, empty());
vfs_laws!(of_a_transaction, in_a_transaction());
vfs_laws!(committed_at_every_change, restless());
vfs_laws!(committed_now_and_then, now_and_then());

/// Puts what stands below a directory of a tree as an import would, and returns the link of it.
async fn import(tree: &Tree, dag: &Dag, dir: Ino) -> Option<Link> {
    let meta = UnixfsMeta::default;
    let attr = tree.getattr(dir).await.expect("getattr");
    match attr.kind {
        crate::FileKind::File => {
            let bytes = crate::vfs::ext::read_to_end(tree, dir, 1 << 30).await.expect("read");
            Some(dag.import(&bytes[..], meta()).await.expect("import"))
        }
        crate::FileKind::Symlink => {
            let target = tree.readlink(dir).await.expect("readlink");
            Some(dag.put_symlink(&target, meta()).await.expect("put"))
        }
        crate::FileKind::Dir => {
            let mut entries = Vec::new();
            for entry in crate::vfs::ext::list(tree, dir, usize::MAX).await.expect("list") {
                let found = tree.lookup(dir, &entry.name).await.expect("lookup");
                if let Some(link) = Box::pin(import(tree, dag, found.ino)).await {
                    entries.push(Ok(crate::dag::Entry { name: entry.name, link }));
                }
                tree.release(found.ino, 1);
            }
            Some(dag.put_dir(stream::iter(entries).boxed()).await.expect("put_dir"))
        }
        _ => None,
    }
}

/// The root of what is committed equals what an import of the same names and bytes gives.
async fn root_equals_import(tree: &Tree) -> Cid {
    tree.commit("").await.expect("it commits");
    let (_, commit) = tree.head();
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions { params: *tree.dag().params(), ..Default::default() });
    let imported = import(tree, &dag, tree.root()).await.expect("a root");
    assert_eq!(commit.root, imported.cid);
    commit.root
}

/// What a check of a tree finds to be wrong, and what it went through.
async fn faults(tree: &Tree) -> (Vec<String>, CheckReport) {
    let (mut faults, mut found) = (Vec::new(), tree.check());
    while let Some(found) = found.next().await {
        match found {
            Checked::Progress { .. } => {}
            Checked::Fault(error) => faults.push(format!("{error:#}")),
            Checked::Done(report) => return (faults, report),
        }
    }
    panic!("a check ends with a report");
}

/// A tree that was never checked out from elsewhere fits together, in all that it says.
async fn assert_sound(tree: &Tree, when: &str) {
    let (faults, report) = faults(tree).await;
    assert!(faults.is_empty(), "{when}: {faults:#?}");
    assert_eq!((report.fault_count, report.foreign_dir_count), (0, 0), "{when}");
}

async fn make(tree: &Tree, dir: Ino, text: &str, node: NewNode) -> Lease {
    let made = tree.create(dir, &name(text), node, SetAttr::default()).await.expect("create");
    Lease::adopt(Arc::new(tree.clone()), made.node.ino)
}

#[tokio::test]
async fn a_restart_finds_what_was_synced_and_what_was_committed() {
    let ground = Ground::new();
    let tree = ground.open().await;
    let dir = make(&tree, tree.root(), "dir", NewNode::Dir).await;
    let file = make(&tree, dir.ino(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, "hello".into(), false).await.expect("write");
    tree.commit("one").await.expect("commit");
    tree.write(file.ino(), 5, ", world".into(), false).await.expect("write");
    let handle = tree.handle(file.ino()).expect("handle");
    tree.sync(file.ino()).await.expect("sync");
    drop((dir, file, tree));

    let tree = ground.open().await;
    let found = tree.resolve(&handle).await.expect("the handle still leads there");
    assert_eq!(tree.read(found.ino, 0, 100).await.expect("read"), "hello, world");
    assert_eq!(tree.head().1.note, "one");
    root_equals_import(&tree).await;
}

#[tokio::test]
async fn a_checkout_brings_back_names_attributes_and_handles() {
    let ground = Ground::new();
    let tree = ground.open().await;
    let root = tree.root();
    let file = make(&tree, root, "file", NewNode::File).await;
    tree.write(file.ino(), 0, "old".into(), false).await.expect("write");
    let gone = make(&tree, root, "gone", NewNode::File).await;
    let handle = tree.handle(gone.ino()).expect("handle");
    let before = tree.commit("before").await.expect("commit");
    tree.write(file.ino(), 0, "new".into(), false).await.expect("write");
    let gone_name = name("gone");
    tree.remove(Place { dir: root, name: &gone_name, expect: None }, RemoveKind::NonDir).await.expect("remove");
    drop(gone);
    assert_eq!(tree.resolve(&handle).await.expect_err("removed").kind(), crate::ErrorKind::Stale);
    let later = make(&tree, root, "later", NewNode::File).await;

    tree.checkout(&before).await.expect("checkout");
    assert_eq!(tree.read(file.ino(), 0, 10).await.expect("read"), "old");
    assert_eq!(tree.getattr(later.ino()).await.expect_err("not there then").kind(), crate::ErrorKind::Stale);
    let again = tree.resolve(&handle).await.expect("it is there again");
    tree.release(again.ino, 1);
    let made = make(&tree, root, "made", NewNode::File).await;
    assert!(made.ino() > later.ino(), "a number is given once");
    let after = tree.history().await.expect("history").get(1).expect("what stood before").0;
    tree.checkout(&after).await.expect("the way back");
    assert_eq!(tree.read(file.ino(), 0, 10).await.expect("read"), "new");
    root_equals_import(&tree).await;
    drop((file, later, made, tree));
    let tree = ground.open().await;
    root_equals_import(&tree).await;
}

#[tokio::test]
async fn a_directory_from_anywhere_can_be_checked_out() {
    let dag = Ground::new().open().await.dag().clone();
    let hello = dag.import(&b"hello"[..], UnixfsMeta { mode: Some(0o600), mtime: None }).await.expect("import");
    let link = dag.put_symlink(b"hello", UnixfsMeta::default()).await.expect("put");
    let entry = |text: &str, link| Ok(crate::dag::Entry { name: name(text), link });
    let sub = dag.put_dir(stream::iter([entry("hello", hello)]).boxed()).await.expect("put_dir");
    let root = stream::iter([entry("sub", sub), entry("link", link), entry("hello", hello)]);
    let root = dag.put_dir(root.boxed()).await.expect("put_dir");
    let ground = Ground { dag, ..Ground::new() };
    let tree = ground.open().await;
    make(&tree, tree.root(), "before", NewNode::File).await;
    tree.checkout(&root.cid).await.expect("checkout");
    assert_eq!(tree.head().1.root, root.cid);
    let sub = tree.lookup(tree.root(), &name("sub")).await.expect("lookup");
    let file = tree.lookup(sub.ino, &name("hello")).await.expect("lookup");
    assert_eq!((file.mode, file.size, file.nlink, sub.nlink), (0o600, 5, 1, 2));
    tree.write(file.ino, 5, " there".into(), false).await.expect("write");
    assert_eq!(tree.read(file.ino, 0, 100).await.expect("read"), "hello there");
    let refused = tree.checkout(&hello.cid).await.expect_err("a file is no tree");
    assert_eq!(refused.kind(), crate::ErrorKind::InvalidArgument);
    drop(tree);
    let tree = ground.open().await;
    tree.commit("").await.expect("commit");
    assert_ne!(tree.head().1.root, root.cid);
}

#[tokio::test]
async fn a_snapshot_stays_under_its_name() {
    let retention = super::Retention {
        all: std::time::Duration::ZERO,
        hourly: std::time::Duration::ZERO,
        daily: std::time::Duration::ZERO,
    };
    let ground = Ground::new();
    let tree = ground.open_with(TreeOptions { retention, ..options() }).await;
    make(&tree, tree.root(), "a", NewNode::File).await;
    let kept = tree.snapshot("keep").await.expect("snapshot");
    for text in ["b", "c", "d"] {
        make(&tree, tree.root(), text, NewNode::File).await;
        tree.commit("").await.expect("commit");
    }
    assert_eq!(tree.head().1.snapshots.get("keep"), Some(&kept));
    tree.checkout(&kept).await.expect("checkout");
    assert_eq!(crate::vfs::ext::list(&tree, tree.root(), 9).await.expect("list").len(), 1);
    assert!(tree.remove_snapshot("keep").await.expect("remove"));
    assert!(!tree.remove_snapshot("keep").await.expect("remove"));
    assert!(tree.snapshot("a/b").await.is_err());
}

#[tokio::test]
async fn what_no_kept_commit_holds_is_collected() {
    let nothing = std::time::Duration::ZERO;
    let retention = super::Retention { all: nothing, hourly: nothing, daily: nothing };
    let clock = testing::Clock::default();
    let ground = Ground::new();
    let tree = ground.open_with(TreeOptions { retention, env: clock.env(1), ..options() }).await;
    let root = tree.root();
    let large: Bytes = (0..9_000_000_u32).map(|i| u8::try_from(i * 31 % 253).unwrap_or(0)).collect::<Vec<_>>().into();
    let file = make(&tree, root, "large", NewNode::File).await;
    tree.write(file.ino(), 0, large.clone(), false).await.expect("write");
    let collect = || async {
        let options = crate::dag::GcOptions::new(&testing::env());
        tree.dag().collect_garbage(|| tree.gc_roots(), &options).await.expect("it collects")
    };
    collect().await;
    assert_eq!(
        crate::vfs::ext::read_to_end(&tree, file.ino(), 1 << 30).await.expect("only the journal names it"),
        large
    );
    tree.commit("").await.expect("commit");
    let large_name = name("large");
    tree.remove(Place { dir: root, name: &large_name, expect: None }, RemoveKind::NonDir).await.expect("remove");
    for text in ["a", "b"] {
        make(&tree, root, text, NewNode::File).await;
        clock.advance(std::time::Duration::from_hours(1));
        tree.commit("").await.expect("commit");
    }
    collect().await;
    assert_eq!(crate::vfs::ext::read_to_end(&tree, file.ino(), 1 << 30).await.expect("it is open"), large);
    drop(file);
    let report = collect().await;
    assert!(report.bytes_removed > 8_000_000, "{report:?}");
    assert!(report.blocks_kept < 20, "{report:?}");
    root_equals_import(&tree).await;
}

#[tokio::test]
async fn a_sync_that_fails_makes_a_tree_read_only() {
    let media = Arc::new(crate::testing::fault::FaultyMedia::new(Arc::new(MemMedia::default())));
    let Ground { dag, heads, .. } = Ground::new();
    let tree = Tree::open(dag, media.clone(), heads, options()).await.expect("open");
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.sync(file.ino()).await.expect("sync");
    tree.write(file.ino(), 0, "lost?".into(), false).await.expect("write");
    media.fail_next(crate::testing::fault::MediaCall::Sync, crate::ErrorKind::Io);
    tree.sync(file.ino()).await.expect_err("the disk failed");
    tree.sync(file.ino()).await.expect_err("and is not trusted again");
    let refused = tree.write(file.ino(), 0, "more".into(), false).await.expect_err("nothing can be made durable");
    assert_eq!(refused.kind(), crate::ErrorKind::ReadOnly);
    tree.commit("").await.expect_err("nor committed");
    assert_eq!(tree.read(file.ino(), 0, 10).await.expect("reading goes on"), "lost?");
}

/// Where a store's nodes were away, a program that wrote whole chunks was refused, and one that wrote a byte less was not.
#[tokio::test]
async fn a_chunk_that_the_store_cannot_take_now_is_in_the_journal() {
    let store = Arc::new(Faulty::new(Mem::default()));
    let dag = || Dag::new(store.clone(), DagOptions::default());
    let ground = Ground { dag: dag(), ..Ground::new() };
    let tree = ground.open().await;
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    let bytes: Bytes = (0..3 << 20).map(|at: u32| at.to_le_bytes()[at as usize % 3]).collect();
    store.set_offline(true);
    tree.write(file.ino(), 0, bytes.clone(), false).await.expect("the journal takes it");
    assert_eq!(tree.commit("").await.expect_err("later").kind(), crate::ErrorKind::Unavailable);
    store.set_offline(false);
    tree.sync(file.ino()).await.expect("durable");
    drop((file, tree));
    let ground = Ground { dag: dag(), ..ground };
    let tree = ground.open().await;
    let file = Lease::adopt(Arc::new(tree.clone()), tree.lookup(tree.root(), &name("file")).await.expect("there").ino);
    for _ in 0..2 {
        assert!(tree.read(file.ino(), 0, 4 << 20).await.expect("read") == bytes);
        tree.commit("").await.expect("committed");
    }
}

/// A chunk that came between the last sync and the end of the journal was taken, lost at the next start, and made whatever
/// synced the tree once more fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_taken_until_the_end_is_there_at_the_next_start() {
    const CHUNK_LEN: usize = 1 << 20;
    for _ in 0..10 {
        let ground = Ground::new();
        let tree = ground.open().await;
        let file = make(&tree, tree.root(), "file", NewNode::File).await;
        let (writer, ino) = (tree.clone(), file.ino());
        let writing = tokio::spawn(async move {
            for number in 0_u8.. {
                let chunk = Bytes::from(vec![number; CHUNK_LEN]);
                let offset = u64::from(number) * CHUNK_LEN as u64;
                if let Err(error) = writer.write(ino, offset, chunk, false).await {
                    assert_eq!(error.kind(), crate::ErrorKind::Unavailable, "{error}");
                    return number;
                }
            }
            0
        });
        while tree.getattr(ino).await.expect("getattr").size == 0 {
            tokio::task::yield_now().await;
        }
        tree.close().await.expect("close");
        let taken = writing.await.expect("no panic");
        tree.sync(tree.root()).await.expect("nothing is left to sync");
        drop((file, tree));
        let tree = ground.open().await;
        let attr = tree.lookup(tree.root(), &name("file")).await.expect("lookup");
        assert_eq!(attr.size, u64::from(taken) * CHUNK_LEN as u64);
        let last = u64::from(taken - 1) * CHUNK_LEN as u64;
        assert_eq!(tree.read(attr.ino, last, 1).await.expect("read")[0], taken - 1);
        tree.release(attr.ino, 1);
    }
}

#[tokio::test]
async fn a_sparse_file_of_a_terabyte_takes_a_page() {
    let ground = Ground::new();
    let tree = ground.open().await;
    let file = make(&tree, tree.root(), "sparse", NewNode::File).await;
    tree.write(file.ino(), 1 << 40, "x".into(), false).await.expect("write");
    tree.commit("").await.expect("commit");
    drop((file, tree));
    let tree = ground.open().await;
    let attr = tree.lookup(tree.root(), &name("sparse")).await.expect("lookup");
    assert_eq!((attr.size, attr.used), ((1 << 40) + 1, 4096));
    assert_eq!(tree.read(attr.ino, (1 << 40) - 3, 10).await.expect("read"), "\0\0\0x");
    tree.write(attr.ino, 5, "y".into(), false).await.expect("write");
    assert_eq!(tree.getattr(attr.ino).await.expect("getattr").used, 8192);
}

/// A few bytes in a page were data by themselves, and its rest a hole: programs that took the first offset found for the
/// size of a block punched holes of that size, which stayed data.
#[tokio::test]
async fn a_page_is_data_or_a_hole_as_a_whole() {
    let tree = Ground::new().open().await;
    let file = make(&tree, tree.root(), "f", NewNode::File).await;
    for (at, byte) in [(4096 + 5, "a"), (4096 + 700, "b"), (3 * 4096 + 1, "c")] {
        tree.write(file.ino(), at, byte.into(), false).await.expect("write");
    }
    let size = 3 * 4096 + 2;
    for committed in [false, true] {
        let seek = async |offset, what| tree.seek(file.ino(), offset, what).await.expect("seek");
        for (offset, data, hole) in [
            (0, 4096, 0),
            (4095, 4096, 4095),
            (4096, 4096, 8192),
            (4096 + 6, 4096 + 6, 8192),
            (8191, 8191, 8192),
            (8192, 3 * 4096, 8192),
            (3 * 4096, 3 * 4096, size),
            (size - 1, size - 1, size),
        ] {
            let found = (seek(offset, Seek::Data).await, seek(offset, Seek::Hole).await);
            assert_eq!(found, (Some(data), Some(hole)), "from {offset}, committed: {committed}");
        }
        tree.commit("").await.expect("commit");
    }
}

#[tokio::test]
async fn an_open_file_without_a_name_survives_commits() {
    let tree = Ground::new().open().await;
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, "first".into(), false).await.expect("write");
    tree.commit("").await.expect("commit");
    let (root, file_name) = (tree.root(), name("file"));
    tree.remove(Place { dir: root, name: &file_name, expect: None }, RemoveKind::NonDir).await.expect("remove");
    tree.commit("").await.expect("commit");
    assert_eq!(tree.read(file.ino(), 0, 100).await.expect("read"), "first");
    tree.write(file.ino(), 5, " second".into(), false).await.expect("write");
    tree.commit("").await.expect("commit");
    make(&tree, root, "other", NewNode::File).await;
    tree.commit("").await.expect("commit");
    assert_eq!(tree.read(file.ino(), 0, 100).await.expect("read"), "first second");
    let ino = file.ino();
    drop(file);
    assert_eq!(tree.getattr(ino).await.expect_err("gone").kind(), crate::ErrorKind::Stale);
    root_equals_import(&tree).await;
}

#[tokio::test]
async fn whole_chunks_go_past_the_journal() {
    let ground = Ground::new();
    let tree = ground.open().await;
    let file = make(&tree, tree.root(), "large", NewNode::File).await;
    let bytes: Bytes = (0..5_000_000_u32).map(|i| u8::try_from(i * 7 % 251).unwrap_or(0)).collect::<Vec<_>>().into();
    tree.write(file.ino(), 0, bytes.clone(), false).await.expect("write");
    tree.sync(file.ino()).await.expect("sync");
    let journal_len: u64 = {
        use crate::media::Media;
        ground.journal.segments().await.expect("segments").iter().map(|segment| segment.len).sum()
    };
    assert!(journal_len < 1 << 20, "the journal holds {journal_len} bytes");
    assert_eq!(crate::vfs::ext::read_to_end(&tree, file.ino(), 1 << 30).await.expect("read"), bytes);
    tree.write(file.ino(), 1_500_000, "over a border of nothing".into(), false).await.expect("write");
    root_equals_import(&tree).await;
}

#[tokio::test]
async fn a_copy_shares_and_a_commit_finds_the_same_content() {
    let tree = Ground::new().open().await;
    let root = tree.root();
    let file = make(&tree, root, "from", NewNode::File).await;
    let bytes: Bytes = (0..3_000_000_u32).map(|i| u8::try_from(i * 13 % 241).unwrap_or(0)).collect::<Vec<_>>().into();
    tree.write(file.ino(), 100, bytes, false).await.expect("write");
    tree.commit("").await.expect("commit");
    tree.write(file.ino(), 2_000_000, "new".into(), false).await.expect("write");
    let copy = make(&tree, root, "to", NewNode::File).await;
    let (len, _) = tree.copy_range((file.ino(), 0), (copy.ino(), 0), u64::MAX >> 1).await.expect("copy");
    assert_eq!(len, 3_000_100);
    tree.commit("").await.expect("commit");
    let (from, to) = (tree.getattr(file.ino()).await, tree.getattr(copy.ino()).await);
    assert_eq!(from.expect("getattr").cid, to.expect("getattr").cid);
    root_equals_import(&tree).await;
}

#[tokio::test]
async fn a_quota_is_kept_and_removing_works_when_it_is_used_up() {
    let quota = super::Quota { bytes_max: Some(8192), inodes_max: Some(3) };
    let tree = Ground::new().open_with(TreeOptions { quota, ..options() }).await;
    let root = tree.root();
    let file = make(&tree, root, "a", NewNode::File).await;
    let kind = |result: Result<Changed>| result.expect_err("refused").kind();
    assert_eq!(kind(tree.write(file.ino(), 0, vec![1; 8193].into(), false).await), crate::ErrorKind::NoSpace);
    tree.write(file.ino(), 0, vec![1; 8192].into(), false).await.expect("it fits");
    make(&tree, root, "b", NewNode::File).await;
    let refused = tree.create(root, &name("c"), NewNode::File, SetAttr::default()).await;
    assert_eq!(refused.expect_err("the fourth").kind(), crate::ErrorKind::NoSpace);
    tree.commit("").await.expect("commit");
    assert_eq!(tree.statfs(root).await.expect("statfs").bytes_free, 0);
    let place_name = name("a");
    tree.remove(Place { dir: root, name: &place_name, expect: None }, RemoveKind::NonDir).await.expect("remove");
    drop(file);
    assert_eq!(tree.statfs(root).await.expect("statfs").bytes_free, 8192);
    make(&tree, root, "c", NewNode::File).await;
}
