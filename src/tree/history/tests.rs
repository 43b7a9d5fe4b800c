//! What the history shows: each kept commit as the tree was, the same after a restart, and nothing that is not kept.

use std::{collections::BTreeSet, num::NonZeroU64, time::Duration};

use super::*;
use crate::{
    block::Mem,
    dag::DagOptions,
    heads::MemHeads,
    media::MemMedia,
    testing::{self, vfs::build_specimen},
    tree::{Retention, TreeOptions},
    vfs::{
        Lease, NewNode, RemoveKind, SetAttr, XattrMode,
        ext::{list, walk},
        narrow::subtree,
    },
};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

struct World {
    clock: testing::Clock,
    tree: Tree,
    history: Arc<History>,
}

async fn world(retention: Retention) -> World {
    let clock = testing::Clock::default();
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let options = TreeOptions { auto_commit: None, retention, ..TreeOptions::new(name("main"), clock.env(1)) };
    let opened = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await;
    let tree = opened.expect("the tree opens");
    World { history: Arc::new(History::new(tree.clone())), clock, tree }
}

impl World {
    async fn make(&self, dir: Ino, text: &str, node: NewNode) -> Ino {
        self.tree.create(dir, &name(text), node, SetAttr::default()).await.expect("create").node.ino
    }

    async fn write(&self, ino: Ino, text: &'static str) {
        self.tree.write(ino, 0, text.into(), false).await.expect("write");
    }

    /// Commits a second after the last time, and gives the name the commit has in the history.
    async fn commit(&self) -> Name {
        self.clock.advance(Duration::from_secs(1));
        let cid = self.tree.commit("").await.expect("commits");
        let kept = self.history.kept().await.expect("the commits");
        name(&kept.iter().find(|kept| kept.cid == cid).expect("it is kept").name)
    }

    async fn find(&self, path: &[&Name]) -> Result<Attr> {
        let names: Vec<Name> = path.iter().map(|name| (*name).clone()).collect();
        let vfs: Arc<dyn Vfs> = self.history.clone();
        // Leased for good: the walk gives its own back.
        let (lease, attr) = walk(&vfs, vfs.root(), &names).await?;
        vfs.retain(lease.ino());
        Ok(attr)
    }
}

/// Outlives a law, and then finds that every lease was given back.
struct Balanced(Arc<History>);

impl Drop for Balanced {
    fn drop(&mut self) {
        // A law that failed shows its own panic.
        if !std::thread::panicking() {
            assert_eq!(self.0.lease_count(), 0, "leases were never given back");
        }
    }
}

/// The specimen as it was committed; the tree has gone on since.
async fn specimen_then() -> (Arc<dyn Vfs>, Balanced) {
    let world = world(Retention::default()).await;
    let tree: Arc<dyn Vfs> = Arc::new(world.tree.clone());
    build_specimen(&tree).await.expect("the specimen is built");
    let then = world.commit().await;
    let small = tree.lookup(tree.root(), &name("small")).await.expect("lookup").ino;
    world.write(small, "changed since").await;
    tree.remove(crate::vfs::Place { dir: tree.root(), name: &name("empty"), expect: None }, RemoveKind::NonDir)
        .await
        .expect("removed since");
    world.commit().await;
    let history: Arc<dyn Vfs> = world.history.clone();
    let top = history.lookup(history.root(), &then).await.expect("lookup");
    (subtree(history.clone(), Lease::adopt(history, top.ino)), Balanced(world.history))
}

crate::vfs_read_laws!(of_a_commit, specimen_then());

#[tokio::test]
async fn a_commit_is_shown_as_the_tree_was() {
    let world = world(Retention::default()).await;
    let (tree, root) = (&world.tree, world.tree.root());
    let file = world.make(root, "file", NewNode::File).await;
    world.write(file, "first").await;
    let set = SetAttr { mode: Some(0o4751), uid: Some(7), gid: Some(8), ..SetAttr::default() };
    tree.setattr(file, set).await.expect("setattr");
    let xattr = XattrName::new(b"user.note").expect("a good name");
    tree.setxattr(file, &xattr, "then".into(), XattrMode::Set).await.expect("setxattr");
    tree.link(file, root, &name("link")).await.expect("link");
    world.make(root, "device", NewNode::CharDevice(Rdev { major: 5, minor: 6 })).await;
    world.make(root, "pipe", NewNode::Fifo).await;
    let before = tree.getattr(file).await.expect("getattr");
    let first = world.commit().await;

    world.write(file, "second").await;
    tree.setattr(file, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.expect("setattr");
    tree.removexattr(file, &xattr).await.expect("removexattr");
    let second = world.commit().await;

    let then = world.find(&[&first, &name("file")]).await.expect("then");
    let seen =
        |attr: &Attr| (attr.mode, attr.uid, attr.gid, attr.nlink, attr.size, attr.mtime, attr.ctime, attr.change);
    assert_eq!(seen(&then), seen(&before));
    let history = &world.history;
    assert_eq!(history.read(then.ino, 0, 100).await.expect("read"), "first");
    assert_eq!(history.getxattr(then.ino, &xattr).await.expect("then"), "then");
    assert_eq!(history.listxattr(then.ino).await.expect("then"), std::slice::from_ref(&xattr));
    assert_eq!(world.find(&[&first, &name("link")]).await.expect("a link").ino, then.ino, "one file");
    let device = world.find(&[&first, &name("device")]).await.expect("then");
    assert_eq!((device.kind, device.rdev), (FileKind::CharDevice, Rdev { major: 5, minor: 6 }));
    assert_eq!(history.read(device.ino, 0, 1).await.expect_err("a device").kind(), ErrorKind::InvalidArgument);

    let now = world.find(&[&second, &name("file")]).await.expect("now");
    assert_eq!((now.mode, history.read(now.ino, 0, 100).await.expect("read")), (0o600, "second".into()));
    assert_eq!(history.getxattr(now.ino, &xattr).await.expect_err("removed").kind(), ErrorKind::NoAttr);
    assert_ne!(now.ino, then.ino, "another node, with a number of its own");
    assert!(now.ino.0.get() < 1 << 53 && then.ino.0.get() < 1 << 53, "a mount leaves 53 bits");
}

#[tokio::test]
async fn the_root_lists_each_commit_by_its_time_and_each_snapshot_by_its_name() {
    let world = world(Retention::default()).await;
    let root = world.history.root();
    let mut all = BTreeSet::from([name("2023-11-14T22-13-20Z")]);
    for text in ["a", "b", "c"] {
        world.make(world.tree.root(), text, NewNode::Dir).await;
        all.insert(world.commit().await);
    }
    world.tree.snapshot("before the move").await.expect("a snapshot");
    let listed = |entries: Vec<DirEntry>| entries.into_iter().map(|entry| entry.name).collect::<BTreeSet<_>>();
    let entries = listed(list(&*world.history, root, 100).await.expect("list"));
    assert!(all.is_subset(&entries) && entries.contains(&name("before the move")), "{entries:?}");
    let snapshot = world.find(&[&name("before the move"), &name("c")]).await.expect("it is a commit");
    assert_eq!(snapshot.kind, FileKind::Dir);

    // In pages, from any entry on, each once.
    let (mut paged, mut after) = (Vec::new(), Cookie::START);
    loop {
        let page = world.history.readdir(root, after, 2, Listing::Attrs).await.expect("readdir");
        after = page.entries.last().expect("never empty").cookie;
        for entry in &page.entries {
            assert_eq!(entry.attr.as_ref().expect("attributes").ino, entry.ino);
            world.history.release(entry.ino, 1);
        }
        paged.extend(page.entries);
        if page.eof {
            break;
        }
    }
    assert_eq!((paged.len(), listed(paged)), (entries.len(), entries));
    let before = world.history.getattr(root).await.expect("getattr");
    world.make(world.tree.root(), "d", NewNode::Dir).await;
    world.commit().await;
    let after = world.history.getattr(root).await.expect("getattr");
    assert!(after.mtime > before.mtime && after.change > before.change, "clients see that there is something new");
    let error = world.history.create(root, &name("x"), NewNode::Dir, SetAttr::default()).await.expect_err("immutable");
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
}

/// The same number and handle for a server that never met the node; ".." leads to the root.
#[tokio::test]
async fn handles_and_numbers_survive_a_restart() {
    let world = world(Retention::default()).await;
    let sub = world.make(world.tree.root(), "sub", NewNode::Dir).await;
    world.make(sub, "file", NewNode::File).await;
    let then = world.commit().await;
    let file = world.find(&[&then, &name("sub"), &name("file")]).await.expect("then");
    let handle = world.history.handle(file.ino).expect("handle");
    assert_eq!(handle.0.len(), 41);

    let again = History::new(world.tree.clone());
    assert_eq!(again.getattr(file.ino).await.expect_err("never met").kind(), ErrorKind::Stale);
    assert_eq!(again.resolve(&handle).await.expect("resolves").ino, file.ino);
    let sub = again.parent(file.ino).await.expect("parent");
    let top = again.parent(sub.ino).await.expect("parent");
    assert_eq!(again.lookup(again.root(), &then).await.expect("lookup").ino, top.ino);
    assert_eq!(again.parent(top.ino).await.expect("parent").ino, again.root());
    assert_eq!(again.parent(again.root()).await.expect("parent").ino, again.root());
    let root = again.handle(again.root()).expect("handle");
    assert_eq!(again.resolve(&root).await.expect("resolves").ino, again.root());
    let Named::Node(place) = held::decode(&handle).expect("ours") else { panic!("a node") };
    let elsewhere = [Named::Node(Place { ino: NOWHERE, ..place }), Named::List(NOWHERE)];
    for nowhere in elsewhere.map(|named| held::encode(&named).expect("a handle")) {
        assert_eq!(again.resolve(&nowhere).await.expect_err("no such node").kind(), ErrorKind::Stale);
    }
}

/// A number that no tree of these tests has.
const NOWHERE: Ino = Ino(NonZeroU64::new(1 << 40).expect("not 0"));

/// A commit that retention let go is stale, however it is held.
#[tokio::test]
async fn a_commit_that_is_no_longer_kept_is_stale() {
    let world = world(Retention { all: Duration::ZERO, hourly: Duration::ZERO, daily: Duration::ZERO }).await;
    let file = world.make(world.tree.root(), "file", NewNode::File).await;
    world.write(file, "first").await;
    let first = world.commit().await;
    world.tree.snapshot("kept").await.expect("a snapshot");
    let held = world.find(&[&first, &name("file")]).await.expect("it is the head");
    let handle = world.history.handle(held.ino).expect("handle");
    for text in ["second", "third"] {
        world.write(file, text).await;
        world.commit().await;
    }
    // The snapshot keeps it.
    assert_eq!(world.history.read(held.ino, 0, 9).await.expect("read"), "first");
    assert!(world.tree.remove_snapshot("kept").await.expect("it was there"));
    world.write(file, "fourth").await;
    world.commit().await;
    let kinds = [
        world.history.getattr(held.ino).await.map(drop),
        world.history.read(held.ino, 0, 1).await.map(drop),
        world.history.resolve(&handle).await.map(drop),
    ];
    assert_eq!(kinds.map(|result| result.expect_err("let go").kind()), [ErrorKind::Stale; 3]);
    assert_eq!(world.find(&[&first]).await.expect_err("let go").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_diff_tells_what_changed_by_path() {
    let world = world(Retention::default()).await;
    let (tree, root) = (&world.tree, world.tree.root());
    let sub = world.make(root, "sub", NewNode::Dir).await;
    world.make(sub, "inner", NewNode::File).await;
    world.make(root, "stays", NewNode::File).await;
    world.make(root, "replaced", NewNode::File).await;
    let file = world.make(sub, "changes", NewNode::File).await;
    world.make(root, "goes", NewNode::File).await;
    let other = world.make(root, "moded", NewNode::Dir).await;
    let before = tree.commit("").await.expect("commits");

    world.write(file, "other bytes").await;
    let place = |dir, name| crate::vfs::Place { dir, name, expect: None };
    let (goes, sub, moved) = (name("goes"), name("sub"), name("moved"));
    tree.remove(place(root, &goes), RemoveKind::NonDir).await.expect("remove");
    let replaced = name("replaced");
    tree.remove(place(root, &replaced), RemoveKind::NonDir).await.expect("remove");
    world.make(root, "replaced", NewNode::Dir).await;
    let new = world.make(other, "new", NewNode::File).await;
    tree.link(new, root, &name("linked")).await.expect("link");
    tree.setattr(other, SetAttr { mode: Some(0o700), ..SetAttr::default() }).await.expect("setattr");
    let mode = crate::vfs::RenameMode::Replace;
    tree.rename(place(root, &sub), place(other, &moved), mode).await.expect("rename");
    let after = tree.commit("").await.expect("commits");

    let path = |text: &str| text.split('/').map(name).collect::<Vec<_>>();
    let diff = async |before: &Cid, after: &Cid| {
        let changes = world.history.diff(before, after).await.expect("both are kept");
        let mut changes: Vec<PathChange> = changes.map(|change| change.expect("reads")).collect().await;
        changes.sort();
        changes
    };
    let expected = vec![
        PathChange::Added(path("linked")),
        PathChange::Added(path("moded/new")),
        PathChange::Removed(path("goes")),
        PathChange::Changed(path("moded")),
        PathChange::Changed(path("moded/moved/changes")),
        PathChange::Changed(path("replaced")),
        PathChange::Renamed { from: path("sub"), to: path("moded/moved") },
    ];
    assert_eq!(diff(&before, &after).await, expected);
    assert_eq!(diff(&before, &before).await, []);
    let back = diff(&after, &before).await;
    assert!(back.contains(&PathChange::Added(path("goes"))) && back.contains(&PathChange::Removed(path("linked"))));
    let foreign = crate::cid_of(crate::Codec::DagCbor, b"no commit");
    let error = world.history.diff(&before, &foreign).await.err().expect("not kept");
    assert_eq!(error.kind(), ErrorKind::Stale);
}

/// A commit that is gone or bad hides no other.
#[tokio::test]
async fn a_bad_commit_hides_no_other() {
    let world = world(Retention::default()).await;
    world.make(world.tree.root(), "a", NewNode::Dir).await;
    world.commit().await;
    let (head, commit) = world.tree.head();
    let bad = world.tree.dag().put_block(crate::Codec::DagCbor, Bytes::from_static(b"\xa0")).await.expect("put");
    let gone = crate::cid_of(crate::Codec::DagCbor, b"gone");
    let mut worse = (*commit).clone();
    worse.prev.splice(0..0, [bad, gone]);
    worse.snapshots.insert("bad".to_owned(), bad);
    let names = async |commit: Arc<Commit>| {
        let kept = Kept::load(world.tree.dag(), head, commit, &Kept::default()).await.expect("loads");
        kept.entries.iter().map(|(_, name, _)| name.clone()).collect::<Vec<_>>()
    };
    let all = names(commit).await;
    assert_eq!(all.len(), 2, "the first, empty one and the head");
    assert_eq!(names(Arc::new(worse)).await, all);
}
