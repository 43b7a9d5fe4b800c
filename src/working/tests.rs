//! What the join adds to its parts: the names that mean something else, the borders, numbers, handles and leases. The
//! history of each directory has a file of its own.

mod past;

use proptest::prelude::*;

use super::*;
use crate::{
    FileKind, block,
    cas_view::CasViewOptions,
    dag::{Dag, DagOptions, Entry, Link, UnixfsMeta},
    heads::MemHeads,
    media::MemMedia,
    pins::Pins,
    testing::{
        self,
        model::ModelFs,
        vfs::{SpecimenNode, build_specimen, specimen},
    },
    tree::{Tree, TreeOptions},
    vfs::{Lease, ext::list, narrow::subtree},
};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

fn place(dir: Ino, name: &Name) -> Place<'_> {
    Place { dir, name, expect: None }
}

/// Outlives a law, and then finds that every lease was given back.
struct Balanced(Arc<ModelFs>, Arc<History>);

impl Drop for Balanced {
    fn drop(&mut self) {
        // A law that failed shows its own panic.
        if !std::thread::panicking() {
            assert_eq!((self.0.lease_count(), self.1.lease_count()), (0, 0), "leases were never given back");
        }
    }
}

/// A tree that is a model and a history with the one commit `then`, over a store with a directory of one file.
struct World {
    tree: Arc<ModelFs>,
    history: Arc<History>,
    dag: Dag,
    working: Arc<WorkingVfs>,
    dir: Link,
    file: Link,
}

async fn view_of(dag: &Dag) -> CasView {
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &testing::env()).await.expect("opens"));
    CasView::new(dag.clone(), pins, CasViewOptions::default())
}

/// A tree, empty, in memory.
async fn empty_tree(clock: &testing::Clock) -> Tree {
    let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), clock.env(2)) };
    let opened = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await;
    opened.expect("the tree opens")
}

async fn world() -> World {
    let clock = testing::Clock::default();
    let (tree, old) = (ModelFs::new(clock.env(1)), empty_tree(&clock).await);
    old.snapshot("then").await.expect("a snapshot");
    let history = Arc::new(History::new(old));
    let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    let file = dag.import(&b"for ever"[..], UnixfsMeta::default()).await.expect("imports");
    let dir = dir_of(&dag, vec![("file".to_owned(), file)]).await;
    let working = Arc::new(WorkingVfs::new(tree.clone(), view_of(&dag).await, Some(history.clone())));
    World { tree, history, dag, working, dir, file }
}

async fn dir_of(dag: &Dag, entries: Vec<(String, Link)>) -> Link {
    let entries = entries.into_iter().map(|(text, link)| Ok(Entry { name: name(&text), link }));
    dag.put_dir(Box::pin(futures_util::stream::iter(entries))).await.expect("a directory")
}

impl World {
    /// The nodes of a content path and of the history's directory, leased for good.
    async fn immutable(&self) -> [Attr; 3] {
        let dir = self.find(self.working.root(), &self.dir.cid.to_string()).await;
        let file = self.find(dir.ino, "file").await;
        let history = self.find(self.working.root(), HISTORY_NAME).await;
        [dir, file, history]
    }

    async fn find(&self, dir: Ino, text: &str) -> Attr {
        self.working.lookup(dir, &name(text)).await.expect("lookup")
    }

    async fn make(&self, dir: Ino, text: &str, node: NewNode) -> Ino {
        self.working.create(dir, &name(text), node, SetAttr::default()).await.expect("create").node.ino
    }
}

async fn working_tree() -> (Arc<dyn Vfs>, Balanced) {
    let World { tree, history, working, .. } = world().await;
    (working, Balanced(tree, history))
}

/// The specimen as it was committed, below `.history`.
async fn history_of_a_working_tree() -> (Arc<dyn Vfs>, Balanced) {
    let (model, old) = (ModelFs::new(testing::env()), empty_tree(&testing::Clock::default()).await);
    build_specimen(&(Arc::new(old.clone()) as Arc<dyn Vfs>)).await.expect("the specimen is built");
    old.snapshot("then").await.expect("a snapshot");
    let (dag, history) = (old.dag().clone(), Arc::new(History::new(old)));
    let working = Arc::new(WorkingVfs::new(model.clone(), view_of(&dag).await, Some(history.clone())));
    let top = working.lookup(working.root(), &name(HISTORY_NAME)).await.expect("lookup");
    let then = working.lookup(top.ino, &name("then")).await.expect("lookup");
    (subtree(working.clone(), Lease::adopt(working, then.ino)), Balanced(model, history))
}

/// The specimen below the CID of its root.
async fn content_of_a_working_tree() -> (Arc<dyn Vfs>, Balanced) {
    let World { tree, history, dag, working, .. } = world().await;
    let mut above = std::collections::BTreeMap::<String, Vec<(String, Link)>>::new();
    // Backwards, so that what is below a directory is there before it.
    for (path, node) in specimen().into_iter().rev() {
        let (dir, text) = path.rsplit_once('/').unwrap_or(("", &path));
        let link = match node {
            SpecimenNode::File(data) => dag.import(&data[..], UnixfsMeta::default()).await.expect("a file"),
            SpecimenNode::Symlink(target) => dag.put_symlink(&target, UnixfsMeta::default()).await.expect("a symlink"),
            SpecimenNode::Dir => dir_of(&dag, above.remove(&path).unwrap_or_default()).await,
        };
        above.entry(dir.to_owned()).or_default().push((text.to_owned(), link));
    }
    let root = dir_of(&dag, above.remove("").expect("the root")).await;
    let top = working.lookup(working.root(), &name(&root.cid.to_string())).await.expect("lookup");
    (subtree(working.clone(), Lease::adopt(working, top.ino)), Balanced(tree, history))
}

crate::vfs_laws!(of_the_tree, working_tree());
crate::vfs_read_laws!(of_the_history, history_of_a_working_tree());
crate::vfs_read_laws!(of_content, content_of_a_working_tree());

#[tokio::test]
async fn a_cid_at_the_root_is_that_content_and_the_history_is_hidden() {
    let world = world().await;
    let root = world.working.root();
    world.make(root, "a", NewNode::File).await;
    let [dir, file, history] = world.immutable().await;
    assert_eq!(world.working.read(file.ino, 0, 99).await.expect("read"), "for ever");
    assert_eq!((dir.kind, file.cid, dir.fsid, history.fsid), (FileKind::Dir, Some(world.file.cid), Fsid(0), Fsid(1)));
    assert_eq!(world.find(history.ino, "then").await.fsid, Fsid(1));
    let listed = list(&*world.working, root, 10).await.expect("list");
    assert_eq!(listed.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), [name("a")]);
    // Every spelling of a CID is the same content.
    let upper = world.dir.cid.to_string().to_uppercase();
    assert_eq!(world.find(root, &upper).await.ino, dir.ino);
    // One that is not in the store is not found; nor is anything of the sort below the root, where names are names.
    let absent = crate::cid_of(crate::Codec::Raw, b"absent").to_string();
    let sub = world.make(root, "sub", NewNode::Dir).await;
    for (dir, text) in [(root, absent), (sub, world.dir.cid.to_string()), (dir.ino, HISTORY_NAME.to_owned())] {
        assert_eq!(world.working.lookup(dir, &name(&text)).await.expect_err(&text).kind(), ErrorKind::NotFound);
        if dir == sub {
            world.make(sub, &text, NewNode::File).await;
            assert_eq!(world.find(sub, &text).await.size, 0);
        }
    }
}

#[tokio::test]
async fn above_content_and_history_is_the_root() {
    let world = world().await;
    let root = world.working.root();
    let [dir, file, history] = world.immutable().await;
    for (ino, above) in [(root, root), (dir.ino, root), (file.ino, dir.ino), (history.ino, root)] {
        assert_eq!(world.working.parent(ino).await.expect("parent").ino, above);
        world.working.release(above, 1);
    }
    let then = world.find(history.ino, "then").await;
    assert_eq!(world.working.parent(then.ino).await.expect("parent").ino, history.ino);
}

#[tokio::test]
async fn names_that_mean_something_else_cannot_be_given() {
    let world = world().await;
    let (working, root) = (&world.working, world.working.root());
    let (a, b) = (name("a"), name("b"));
    let file = world.make(root, "a", NewNode::File).await;
    let sub = world.make(root, "b", NewNode::Dir).await;
    // Also those that name nothing in this store.
    let absent = crate::cid_of(crate::Codec::Raw, b"absent").to_string();
    for text in [HISTORY_NAME, &world.dir.cid.to_string(), &absent, "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"] {
        let taken = name(text);
        let refused = [
            working.create(root, &taken, NewNode::File, SetAttr::default()).await.map(drop),
            working.create(root, &taken, NewNode::Dir, SetAttr::default()).await.map(drop),
            working.link(file, root, &taken).await.map(drop),
            working.rename(place(root, &a), place(root, &taken), RenameMode::Replace).await.map(drop),
            working.rename(place(root, &b), place(root, &taken), RenameMode::NoReplace).await.map(drop),
            working.rename(place(root, &a), place(root, &taken), RenameMode::Exchange).await.map(drop),
            working.rename(place(root, &taken), place(root, &a), RenameMode::Exchange).await.map(drop),
        ];
        assert_eq!(refused.map(|result| result.expect_err(text).kind()), [ErrorKind::InvalidArgument; 7]);
        // What is met by such a name is immutable.
        let immutable = [
            working.remove(place(root, &taken), RemoveKind::NonDir).await.map(drop),
            working.remove(place(root, &taken), RemoveKind::Dir).await.map(drop),
            working.rename(place(root, &taken), place(sub, &a), RenameMode::Replace).await.map(drop),
        ];
        assert_eq!(immutable.map(|result| result.expect_err(text).kind()), [ErrorKind::ReadOnly; 3]);
    }
    let gone = working.remove(place(root, &name("gone")), RemoveKind::NonDir).await;
    assert_eq!(gone.expect_err("an ordinary name").kind(), ErrorKind::NotFound);
    working.rename(place(root, &a), place(sub, &name(&absent)), RenameMode::Replace).await.expect("below the root");
}

/// A root that came from elsewhere may hold such names: they are listed, mean content, and can be taken away.
#[tokio::test]
async fn entries_of_such_names_are_listed_and_mean_content() {
    let world = world().await;
    let (working, root) = (&world.working, world.working.root());
    let cid = name(&world.file.cid.to_string());
    for text in [&cid, &name(HISTORY_NAME)] {
        let made = world.tree.create(root, text, NewNode::Dir, SetAttr::default()).await.expect("below the join");
        world.tree.release(made.node.ino, 1);
    }
    let page = working.readdir(root, Cookie::START, 10, Listing::Attrs).await.expect("readdir");
    assert_eq!((page.entries.len(), page.entries.iter().filter(|entry| entry.attr.is_some()).count()), (2, 0));
    assert_eq!(world.tree.lease_count(), 0);
    assert_eq!(working.lookup(root, &cid).await.expect("content").size, 8);
    // Who looked at the content does not take the entry away by it.
    let seen = working.lookup(root, &cid).await.expect("content").ino;
    let expecting = Place { expect: Some(seen), ..place(root, &cid) };
    assert_eq!(working.remove(expecting, RemoveKind::Dir).await.expect_err("another").kind(), ErrorKind::Stale);
    let (a, dir) = (name("a"), RemoveKind::Dir);
    working.rename(place(root, &cid), place(root, &a), RenameMode::Replace).await.expect("it moves away");
    assert_eq!(world.find(root, "a").await.kind, FileKind::Dir);
    working.remove(place(root, &name(HISTORY_NAME)), dir).await.expect("it goes");
    assert_eq!(list(&**working, root, 10).await.expect("list").len(), 1);
}

#[tokio::test]
async fn content_and_history_cannot_be_changed_and_nothing_crosses() {
    let world = world().await;
    let (working, root) = (&world.working, world.working.root());
    let [dir, file, history] = world.immutable().await;
    let (a, f) = (name("a"), name("file"));
    let mine = world.make(root, "a", NewNode::File).await;
    let then = name("then");
    let xattr = XattrName::new(b"user.a").expect("a good name");
    let refused = [
        working.create(dir.ino, &a, NewNode::File, SetAttr::default()).await.map(drop),
        working.create(history.ino, &a, NewNode::File, SetAttr::default()).await.map(drop),
        working.remove(place(dir.ino, &f), RemoveKind::NonDir).await.map(drop),
        working.remove(place(history.ino, &then), RemoveKind::Dir).await.map(drop),
        working.rename(place(dir.ino, &f), place(dir.ino, &a), RenameMode::Replace).await.map(drop),
        working.link(file.ino, dir.ino, &a).await.map(drop),
        working.write(file.ino, 0, Bytes::new(), false).await.map(drop),
        working.setattr(history.ino, SetAttr { mode: Some(0), ..SetAttr::default() }).await.map(drop),
        working.allocate(file.ino, 0..1, false).await.map(drop),
        working.punch_hole(file.ino, 0..1).await.map(drop),
        working.setxattr(file.ino, &xattr, Bytes::new(), XattrMode::Set).await.map(drop),
        working.removexattr(history.ino, &xattr).await.map(drop),
    ];
    assert_eq!(refused.map(|result| result.expect_err("immutable").kind()), [ErrorKind::ReadOnly; 12]);
    let crossing = [
        working.rename(place(dir.ino, &f), place(root, &a), RenameMode::Replace).await.map(drop),
        working.rename(place(root, &a), place(dir.ino, &f), RenameMode::Replace).await.map(drop),
        working.rename(place(history.ino, &then), place(root, &a), RenameMode::Replace).await.map(drop),
        working.link(file.ino, root, &name("b")).await.map(drop),
        working.link(mine, history.ino, &name("b")).await.map(drop),
        working.copy_range((file.ino, 0), (mine, 0), 1).await.map(drop),
        working.copy_range((mine, 0), (file.ino, 0), 1).await.map(drop),
    ];
    assert_eq!(crossing.map(|result| result.expect_err("it crosses").kind()), [ErrorKind::CrossDevice; 7]);
    let elsewhere = Place { expect: Some(file.ino), ..place(root, &a) };
    assert_eq!(working.remove(elsewhere, RemoveKind::NonDir).await.expect_err("another").kind(), ErrorKind::Stale);
    working.remove(Place { expect: Some(mine), ..elsewhere }, RemoveKind::NonDir).await.expect("the right one");
}

#[tokio::test]
async fn each_part_answers_for_its_own_space_and_the_tree_is_synced() {
    let world = world().await;
    let (working, root) = (&world.working, world.working.root());
    let [dir, _, history] = world.immutable().await;
    assert!(working.statfs(root).await.expect("statfs").bytes_total > 0);
    for immutable in [dir.ino, history.ino] {
        assert_eq!(working.statfs(immutable).await.expect("statfs").bytes_total, 0);
    }
    working.sync(root).await.expect("sync");
    working.sync(dir.ino).await.expect("sync");
    working.sync_inode(root).await.expect("sync");
    assert_eq!(world.tree.sync_count(), 2);
    world.tree.fail(Some(ErrorKind::Io));
    assert_eq!(working.sync(root).await.expect_err("the tree failed").kind(), ErrorKind::Io);
}

/// A handle says its part in its first byte, and is found again by another join of the same parts.
#[tokio::test]
async fn handles_tell_the_part_and_survive_a_restart() {
    let world = world().await;
    let root = world.working.root();
    let mine = world.make(root, "a", NewNode::File).await;
    let [dir, file, history] = world.immutable().await;
    let again = WorkingVfs::new(world.tree.clone(), view_of(&world.dag).await, Some(world.history.clone()));
    let without = WorkingVfs::new(world.tree.clone(), view_of(&world.dag).await, None);
    for (ino, tag) in [(root, 1), (mine, 1), (dir.ino, 2), (file.ino, 2), (history.ino, 3)] {
        let handle = world.working.handle(ino).expect("handle");
        assert_eq!(handle.0[0], tag);
        assert!(handle.0.len() <= LEAF_HANDLE_LEN_MAX);
        assert_eq!(again.resolve(&handle).await.expect("resolve").ino, ino);
        let alone = without.resolve(&handle).await.map(|attr| attr.ino).map_err(|error| error.kind());
        assert_eq!(alone, if tag == 3 { Err(ErrorKind::Stale) } else { Ok(ino) });
    }
    assert_eq!(without.lookup(root, &name(HISTORY_NAME)).await.expect_err("none").kind(), ErrorKind::NotFound);
    // The root of the content by itself is nothing that anybody was ever given.
    for garbage in [&b""[..], b"\0", b"\x01", b"\x02", b"\x02\0", b"\x03", b"\x04m", b"m"] {
        let error = again.resolve(&Handle(Bytes::copy_from_slice(garbage))).await.expect_err("garbage");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", garbage.escape_ascii());
    }
}

/// Leases go to the part they are of, and what the join itself looked at is given back.
#[tokio::test]
async fn leases_balance() {
    let world = world().await;
    let root = world.working.root();
    let mine = world.make(root, "a", NewNode::Dir).await;
    let history = world.find(root, HISTORY_NAME).await.ino;
    let then = world.find(history, "then").await.ino;
    assert_eq!((world.tree.lease_count(), world.history.lease_count()), (1, 1));
    world.working.retain(then);
    world.working.release(then, 2);
    world.working.release(mine, 1);
    world.working.release(history, 1);
    assert_eq!((world.tree.lease_count(), world.history.lease_count()), (0, 0));
}

/// A part that gives a number of another part is refused, and its lease given back.
#[tokio::test]
async fn a_part_that_gives_anothers_numbers_is_refused() {
    let branch = |kind| Branch { kind, vfs: ModelFs::new(testing::env()) };
    let ino = |number| Ino(NonZeroU64::new(number).expect("not 0"));
    for (kind, number) in [
        (Kind::Tree, HISTORY_BIT),
        (Kind::Tree, CONTENT_BIT),
        (Kind::Tree, DERIVED_BIT | CONTENT_BIT),
        (Kind::Tree, 1 << INO_BITS),
        (Kind::History, HISTORY_BIT),
        (Kind::History, u64::MAX),
        (Kind::Content, 1),
        (Kind::Content, 1 << INO_BITS | DERIVED_BIT),
    ] {
        assert_eq!(branch(kind).up(ino(number)).expect_err("refused").kind(), ErrorKind::Internal);
    }
    assert_eq!(branch(Kind::Tree).fsid_up(Fsid(1)).expect_err("refused").kind(), ErrorKind::Internal);
    let stray = world().await.working.getattr(ino(1 << INO_BITS | 1)).await;
    assert_eq!(stray.expect_err("nobody's").kind(), ErrorKind::Stale);
}

proptest! {
    /// Every number that a part may give goes up to one of the join that no other part has, and comes down again.
    #[test]
    fn numbers_never_collide(random: u64) {
        let branch = |kind| Branch { kind, vfs: ModelFs::new(testing::env()) };
        for (kind, number) in [
            (Kind::Tree, random & (HISTORY_BIT - 1)),
            (Kind::Tree, random & (CONTENT_BIT - 1) | DERIVED_BIT),
            (Kind::History, random & (HISTORY_BIT - 1)),
            (Kind::Content, random & (DERIVED_BIT - 1) | DERIVED_BIT),
        ] {
            let Some(leaf) = NonZeroU64::new(number).map(Ino) else { continue };
            let up = branch(kind).up(leaf).expect("a number it may give");
            prop_assert!(up.0.get() >> INO_BITS == 0);
            for other in [Kind::Tree, Kind::Content, Kind::History] {
                prop_assert_eq!(branch(other).down(up), (other == kind).then_some(leaf));
            }
        }
    }
}
