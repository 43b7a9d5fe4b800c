//! The history of each directory: hidden, the directory's own wherever it went, and in nobody's way.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::{
    testing::fault::{BlockCall, Fault, Faulty},
    vfs::posix::{Caller, posix},
};

/// A working tree with its own history, and what it needs to be opened again.
struct World {
    clock: testing::Clock,
    blocks: Arc<Faulty<block::Mem>>,
    journal: Arc<MemMedia>,
    heads: Arc<MemHeads>,
    tree: Tree,
    history: Arc<History>,
    working: Arc<WorkingVfs>,
}

impl World {
    async fn new() -> Self {
        let blocks = Arc::new(Faulty::new(block::Mem::default()));
        Self::open(testing::Clock::default(), blocks, Arc::default(), Arc::default()).await
    }

    async fn open(
        clock: testing::Clock,
        blocks: Arc<Faulty<block::Mem>>,
        journal: Arc<MemMedia>,
        heads: Arc<MemHeads>,
    ) -> Self {
        let dag = Dag::new(blocks.clone(), DagOptions::default());
        let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), clock.env(1)) };
        let opened = Tree::open(dag.clone(), journal.clone(), heads.clone(), options).await;
        let tree = opened.expect("the tree opens");
        let history = Arc::new(History::new(tree.clone()));
        let content = view_of(&dag).await;
        let working = Arc::new(WorkingVfs::new(Arc::new(tree.clone()), content, Some(history.clone())));
        Self { clock, blocks, journal, heads, tree, history, working }
    }

    /// As after a restart.
    async fn reopen(self) -> Self {
        self.tree.sync(self.tree.root()).await.expect("sync");
        Self::open(self.clock, self.blocks, self.journal, self.heads).await
    }

    async fn make(&self, dir: Ino, text: &str, node: NewNode) -> Ino {
        self.working.create(dir, &name(text), node, SetAttr::default()).await.expect("create").node.ino
    }

    /// Writes a file that need not be there.
    async fn write(&self, dir: Ino, text: &str, bytes: &'static str) -> Ino {
        let file = match self.working.lookup(dir, &name(text)).await {
            Ok(found) => found.ino,
            Err(_) => self.make(dir, text, NewNode::File).await,
        };
        self.working.write(file, 0, bytes.into(), false).await.expect("write");
        file
    }

    /// Commits a second after the last time, under a name.
    async fn commit(&self, text: &str) {
        self.clock.advance(Duration::from_secs(1));
        self.tree.snapshot(text).await.expect("a snapshot");
    }

    /// The node that a path leads to, leased for good.
    async fn find(&self, from: Ino, path: &str) -> Result<Attr> {
        let mut attr = self.working.getattr(from).await?;
        for text in path.split('/') {
            attr = self.working.lookup(attr.ino, &name(text)).await?;
        }
        Ok(attr)
    }

    async fn read(&self, from: Ino, path: &str) -> Result<Bytes> {
        let found = self.find(from, path).await?;
        self.working.read(found.ino, 0, 100).await
    }

    /// The snapshots that the history of a directory lists.
    async fn snapshots(&self, dir: Ino) -> Vec<String> {
        let found = self.find(dir, HISTORY_NAME).await.expect("each directory has one");
        let entries = list(&*self.working, found.ino, 1000).await.expect("list");
        let names = entries.iter().map(|entry| entry.name.to_string());
        // The times are there twice for each, and another test's matter.
        names.filter(|text| !text.ends_with('Z') && !text.contains("Z-")).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The tree with its own history.
async fn tree_with_its_history() -> (Arc<dyn Vfs>, ()) {
    (World::new().await.working, ())
}

/// Outlives a law, and then finds that every lease was given back.
struct AllBack(Arc<History>);

impl Drop for AllBack {
    fn drop(&mut self) {
        // A law that failed shows its own panic.
        if !std::thread::panicking() {
            assert_eq!(self.0.lease_count(), 0, "leases were never given back");
        }
    }
}

/// The specimen in a directory as it was committed, below the history of that directory, which was renamed since.
async fn history_of_a_directory() -> (Arc<dyn Vfs>, AllBack) {
    let world = World::new().await;
    let root = world.working.root();
    let dir = world.make(root, "dir", NewNode::Dir).await;
    let below = subtree(world.working.clone(), Lease::adopt(world.working.clone(), dir));
    build_specimen(&below).await.expect("the specimen is built");
    world.commit("then").await;
    let (from, to) = (name("dir"), name("moved"));
    world.working.rename(place(root, &from), place(root, &to), RenameMode::Replace).await.expect("rename");
    world.write(dir, "small", "changed since").await;
    let list = world.working.lookup(dir, &name(HISTORY_NAME)).await.expect("lookup");
    let then = world.working.lookup(list.ino, &name("then")).await.expect("lookup");
    (subtree(world.working.clone(), Lease::adopt(world.working, then.ino)), AllBack(world.history))
}

crate::vfs_laws!(of_a_tree_with_its_history, tree_with_its_history());
crate::vfs_read_laws!(of_the_history_of_a_directory, history_of_a_directory());

#[tokio::test]
async fn each_directory_shows_itself_as_it_was() {
    let world = World::new().await;
    let root = world.working.root();
    let src = world.make(root, "src", NewNode::Dir).await;
    world.write(src, "main.rs", "one").await;
    world.commit("1").await;
    world.write(src, "main.rs", "two").await;
    let deep = world.make(src, "deep", NewNode::Dir).await;
    let file = world.write(deep, "file", "deep").await;
    world.commit("2").await;

    assert_eq!(world.snapshots(root).await, ["1", "2"]);
    assert_eq!(world.snapshots(src).await, ["1", "2"]);
    assert_eq!(world.snapshots(deep).await, ["2"], "before, it was not");
    for (path, bytes) in [("1/main.rs", "one"), ("2/main.rs", "two"), ("2/deep/file", "deep")] {
        assert_eq!(world.read(src, &format!(".history/{path}")).await.expect("then"), bytes);
        assert_eq!(
            world.read(root, &format!(".history/{}", path.replacen('/', "/src/", 1))).await.expect("then"),
            bytes
        );
    }
    let absent = ["1/deep", "3", "2/main.rs/x", "2/.history"];
    let kinds = [ErrorKind::NotFound, ErrorKind::NotFound, ErrorKind::NotDir, ErrorKind::NotFound];
    for (path, kind) in absent.into_iter().zip(kinds) {
        assert_eq!(world.find(src, &format!(".history/{path}")).await.expect_err(path).kind(), kind);
    }
    assert_eq!(world.find(deep, ".history/1").await.expect_err("before it was").kind(), ErrorKind::NotFound);
    assert_eq!(world.find(file, HISTORY_NAME).await.expect_err("a file").kind(), ErrorKind::NotDir);
    // Nothing that lists meets it.
    let listed = list(&*world.working, src, 10).await.expect("list");
    assert_eq!(
        listed.iter().map(|entry| entry.name.to_string()).collect::<BTreeSet<_>>(),
        ["deep", "main.rs"].map(str::to_owned).into()
    );
    // Each by its time too, and in pages with what a listing of the root gives.
    let (of_src, of_root) =
        (world.find(src, HISTORY_NAME).await.expect("it"), world.find(root, HISTORY_NAME).await.expect("it"));
    assert_eq!(world.working.getattr(of_src.ino).await.expect("getattr").nlink, 1, "not counted");
    let names = async |dir| {
        let (mut names, mut after) = (BTreeSet::new(), Cookie::START);
        loop {
            let page = world.working.readdir(dir, after, 1, Listing::Attrs).await.expect("readdir");
            for entry in page.entries {
                let attr = entry.attr.expect("attributes");
                assert_eq!((attr.ino, attr.kind, attr.fsid), (entry.ino, FileKind::Dir, Fsid(1)));
                after = entry.cookie;
                assert!(names.insert(entry.name), "met once");
            }
            if page.eof {
                return names;
            }
        }
    };
    let (src_names, root_names) = (names(of_src.ino).await, names(of_root.ino).await);
    assert!(src_names.is_subset(&root_names) && src_names.len() < root_names.len(), "all but the first, empty one");
}

#[tokio::test]
async fn a_directory_keeps_its_history_wherever_it_goes() {
    let world = World::new().await;
    let root = world.working.root();
    let (one, other) = (world.make(root, "one", NewNode::Dir).await, world.make(root, "other", NewNode::Dir).await);
    world.write(one, "file", "in one").await;
    world.commit("before").await;
    let (from, to, new) = (name("one"), name("moved"), name("one"));
    world.working.rename(place(root, &from), place(other, &to), RenameMode::Replace).await.expect("rename");
    let next = world.make(root, "one", NewNode::Dir).await;
    world.commit("after").await;
    assert_eq!(world.read(root, "other/moved/.history/before/file").await.expect("its own"), "in one");
    assert_eq!(world.snapshots(next).await, ["after"], "another directory of the same name is another one");
    // Once it is gone it is found where it was.
    world.working.release(one, 1);
    let file = name("file");
    world.working.remove(place(one, &file), RemoveKind::NonDir).await.expect("remove");
    world.working.remove(place(other, &to), RemoveKind::Dir).await.expect("remove");
    assert_eq!(world.read(other, ".history/after/moved/file").await.expect("above it"), "in one");
    world.working.remove(place(root, &new), RemoveKind::Dir).await.expect("what is hidden is in nobody's way");
    let before =
        world.history.kept().await.expect("kept").into_iter().find(|kept| kept.name == "before").expect("kept");
    world.tree.checkout(&before.cid).await.expect("checkout");
    assert_eq!(world.read(root, "one/.history/before/file").await.expect("it is back"), "in one");
}

/// A list is there for as long as its directory, what was found below it for as long as its commit.
#[tokio::test]
async fn a_removed_directory_has_no_history_and_what_was_is_still_held() {
    let world = World::new().await;
    let root = world.working.root();
    let dir = world.make(root, "dir", NewNode::Dir).await;
    world.write(dir, "file", "then").await;
    world.commit("then").await;
    let list = world.find(dir, HISTORY_NAME).await.expect("it");
    let (old, old_file) =
        (world.find(list.ino, "then").await.expect("it"), world.find(list.ino, "then/file").await.expect("it"));
    let handle = world.working.handle(list.ino).expect("handle");
    let (file, text) = (name("file"), name("dir"));
    world.working.remove(place(dir, &file), RemoveKind::NonDir).await.expect("remove");
    world.working.remove(place(root, &text), RemoveKind::Dir).await.expect("remove");
    assert_eq!(world.find(dir, HISTORY_NAME).await.expect_err("it is removed").kind(), ErrorKind::NotFound);
    let stale = [
        world.working.getattr(list.ino).await.map(drop),
        world.working.lookup(list.ino, &name("then")).await.map(drop),
        world.working.readdir(list.ino, Cookie::START, 9, Listing::Names).await.map(drop),
        world.working.resolve(&handle).await.map(drop),
        world.working.parent(list.ino).await.map(drop),
        world.working.parent(old.ino).await.map(drop),
    ];
    assert_eq!(stale.map(|result| result.expect_err("gone").kind()), [ErrorKind::Stale; 6]);
    assert_eq!(world.working.read(old_file.ino, 0, 9).await.expect("held"), "then");
    assert_eq!(world.working.parent(old_file.ino).await.expect("parent").ino, old.ino);
}

#[tokio::test]
async fn the_name_cannot_be_given_or_taken_away() {
    let world = World::new().await;
    let (working, root) = (&world.working, world.working.root());
    let dir = world.make(root, "dir", NewNode::Dir).await;
    let file = world.make(dir, "a", NewNode::File).await;
    world.make(dir, "b", NewNode::Dir).await;
    let (a, b, taken) = (name("a"), name("b"), name(HISTORY_NAME));
    let seen = working.lookup(dir, &taken).await.expect("lookup").ino;
    let refused = [
        working.create(dir, &taken, NewNode::File, SetAttr::default()).await.map(drop),
        working.create(dir, &taken, NewNode::Dir, SetAttr::default()).await.map(drop),
        working.link(file, dir, &taken).await.map(drop),
        working.rename(place(dir, &a), place(dir, &taken), RenameMode::Replace).await.map(drop),
        working.rename(place(dir, &b), place(dir, &taken), RenameMode::NoReplace).await.map(drop),
        working.rename(place(dir, &a), place(dir, &taken), RenameMode::Exchange).await.map(drop),
        working.rename(place(dir, &taken), place(dir, &a), RenameMode::Exchange).await.map(drop),
    ];
    assert_eq!(refused.map(|result| result.expect_err("refused").kind()), [ErrorKind::InvalidArgument; 7]);
    // Also where the caller looked first, as one that is bound by a sticky bit does.
    let expecting = Place { expect: Some(seen), ..place(dir, &taken) };
    let immutable = [
        working.remove(place(dir, &taken), RemoveKind::NonDir).await.map(drop),
        working.remove(place(dir, &taken), RemoveKind::Dir).await.map(drop),
        working.remove(expecting, RemoveKind::Dir).await.map(drop),
        working.rename(place(dir, &taken), place(root, &a), RenameMode::Replace).await.map(drop),
        working.rename(expecting, place(root, &a), RenameMode::NoReplace).await.map(drop),
    ];
    assert_eq!(immutable.map(|result| result.expect_err("immutable").kind()), [ErrorKind::ReadOnly; 5]);
    assert_eq!(list(&**working, dir, 9).await.expect("list").len(), 2, "nothing happened");
}

/// A root that came from elsewhere may hold such names: they are what they are, and the history is behind them.
#[tokio::test]
async fn an_entry_of_that_name_wins_until_it_is_gone() {
    let world = World::new().await;
    let (working, root, taken) = (&world.working, world.working.root(), name(HISTORY_NAME));
    let dir = world.make(root, "dir", NewNode::Dir).await;
    let made = world.tree.create(dir, &taken, NewNode::File, SetAttr::default()).await.expect("below the join");
    world.commit("then").await;
    let found = working.lookup(dir, &taken).await.expect("lookup");
    assert_eq!((found.ino, found.kind, found.fsid), (made.node.ino, FileKind::File, Fsid(0)));
    working.write(found.ino, 0, "mine".into(), false).await.expect("write");
    let page = working.readdir(dir, Cookie::START, 9, Listing::Attrs).await.expect("readdir");
    assert_eq!(
        page.entries.iter().map(|entry| entry.attr.as_ref().map(|attr| attr.ino)).collect::<Vec<_>>(),
        [Some(found.ino)]
    );
    let create = working.create(dir, &taken, NewNode::File, SetAttr::default()).await;
    assert_eq!(create.expect_err("not to be given").kind(), ErrorKind::InvalidArgument);
    // It is in the history of what is above it, by its name.
    assert_eq!(world.find(root, ".history/then/dir/.history").await.expect("then").kind, FileKind::File);

    let moved = name("moved");
    working.rename(place(dir, &taken), place(dir, &moved), RenameMode::Replace).await.expect("it moves away");
    assert_eq!(world.snapshots(dir).await, ["then"]);
    assert_eq!(world.read(dir, "moved").await.expect("read"), "mine");
    let again =
        world.tree.create(dir, &taken, NewNode::Dir, SetAttr::default()).await.expect("below the join").node.ino;
    assert_eq!(world.find(dir, HISTORY_NAME).await.expect("lookup").ino, again);
    assert_eq!(world.find(dir, ".history/.history").await.expect("its own").fsid, Fsid(1));
    working.remove(Place { expect: Some(again), ..place(dir, &taken) }, RemoveKind::Dir).await.expect("it goes");
    assert_eq!(world.snapshots(dir).await, ["then"]);
}

/// What is found below a list is found again by its handle after a restart, under the same number, and nowhere else; a
/// part of the tree has the histories below it, and no others.
#[tokio::test]
async fn handles_and_numbers_outlive_a_restart() {
    let world = World::new().await;
    let root = world.working.root();
    let dir = world.make(root, "dir", NewNode::Dir).await;
    let sub = world.make(dir, "sub", NewNode::Dir).await;
    world.write(sub, "file", "then").await;
    world.commit("then").await;
    let paths = ["dir/.history", "dir/.history/then", "dir/.history/then/sub", "dir/.history/then/sub/file"];
    let outside = [".history", ".history/then", ".history/then/dir", ".history/then/dir/sub/file"];
    let mut known = Vec::new();
    for path in paths.into_iter().chain(outside) {
        let found = world.find(root, path).await.expect(path);
        let handle = world.working.handle(found.ino).expect("handle");
        assert!(handle.0.len() <= LEAF_HANDLE_LEN_MAX, "{path}");
        known.push((path, found.ino, handle));
    }
    let sub_list = world.find(sub, HISTORY_NAME).await.expect("it").ino;
    let numbers: BTreeSet<_> = known.iter().map(|(_, ino, _)| *ino).chain([root, dir, sub, sub_list]).collect();
    assert_eq!(numbers.len(), known.len() + 4, "what is below two lists has two numbers");

    let world = world.reopen().await;
    let vfs: Arc<dyn Vfs> = world.working.clone();
    let top = vfs.lookup(vfs.root(), &name("dir")).await.expect("lookup");
    let below = subtree(vfs.clone(), Lease::adopt(vfs.clone(), top.ino));
    for (path, ino, handle) in &known {
        let found = world.working.resolve(handle).await.expect(path);
        assert_eq!((found.ino, found.fsid), (*ino, Fsid(1)), "{path}");
        let inside = below.resolve(handle).await.map(|attr| attr.ino).map_err(|error| error.kind());
        assert_eq!(inside, if path.starts_with("dir/") { Ok(*ino) } else { Err(ErrorKind::Stale) }, "{path}");
    }
    // Up again, by the way that led down.
    let mut at = known[3].1;
    for above in [known[2].1, known[1].1, known[0].1, dir, root, root] {
        at = world.working.parent(at).await.expect("parent").ino;
        assert_eq!(at, above);
    }
}

/// A commit that is in a list may have been another's view once: who may search the directory now decides, then the
/// modes that were.
#[tokio::test]
async fn the_directory_says_who_may_look_back() {
    let world = World::new().await;
    let root = world.working.root();
    let dir = world.make(root, "dir", NewNode::Dir).await;
    let set = SetAttr { mode: Some(0o3750), uid: Some(7), gid: Some(8), ..SetAttr::default() };
    world.working.setattr(dir, set).await.expect("setattr");
    world.commit("then").await;
    let attr = world.find(dir, HISTORY_NAME).await.expect("it");
    assert_eq!((attr.mode, attr.uid, attr.gid), (0o550, 7, 8));
    let open = SetAttr { mode: Some(0o755), ..SetAttr::default() };
    world.working.setattr(dir, open).await.expect("setattr");
    let later = world.working.getattr(attr.ino).await.expect("getattr");
    assert!(later.mode == 0o555 && later.change > attr.change && later.ctime > attr.ctime && later.mtime == attr.mtime);
    let caller = |uid| posix(world.working.clone(), Caller { uid, gid: 9, groups: Vec::new() });
    let taken = name(HISTORY_NAME);
    let list = caller(6).lookup(dir, &taken).await.expect("now it may be searched").ino;
    let then = caller(6).lookup(list, &name("then")).await.expect("listed").ino;
    assert_eq!(caller(6).lookup(then, &name("x")).await.expect_err("0750 then").kind(), ErrorKind::Denied);
    assert_eq!(caller(7).lookup(then, &name("x")).await.expect_err("its owner").kind(), ErrorKind::NotFound);
    world.working.setattr(dir, SetAttr { mode: Some(0o700), ..SetAttr::default() }).await.expect("setattr");
    assert_eq!(caller(6).lookup(dir, &taken).await.expect_err("0700 now").kind(), ErrorKind::Denied);
    assert_eq!(
        caller(6).lookup(list, &name("then")).await.expect_err("also where it is held").kind(),
        ErrorKind::Denied
    );
}

/// Finding one commit reads that commit, and finding an ordinary name nothing more than it did; a commit that cannot be
/// read is listed, and hides no other.
#[tokio::test]
async fn looking_back_reads_what_it_needs() {
    const COMMITS: usize = 40;
    /// The root, two index nodes and a leaf: a restart leaves up to 65536 numbers out.
    const PATH_LEN: u64 = 4;
    let world = World::new().await;
    let root = world.working.root();
    let dir = world.make(root, "dir", NewNode::Dir).await;
    for number in 0..COMMITS {
        world.write(dir, "file", "then").await;
        world.make(dir, &format!("{number}"), NewNode::File).await;
        world.commit(&format!("then {number}")).await;
    }
    let world = world.reopen().await;
    let dir = world.find(root, "dir").await.expect("lookup").ino;
    let gets = || world.blocks.calls(BlockCall::Read);
    let list_ino = world.find(dir, HISTORY_NAME).await.expect("lookup").ino;
    world.history.kept().await.expect("the commits are read once");
    world.find(dir, "file").await.expect("lookup");
    let before = gets();
    world.find(dir, "file").await.expect("lookup");
    world.find(dir, HISTORY_NAME).await.expect("lookup");
    assert_eq!(gets(), before, "what is known is not read again");
    world.find(list_ino, "then 3").await.expect("lookup");
    let one = gets() - before;
    assert!(one <= PATH_LEN, "one path of its attribute tree: {one}");
    let before = gets();
    let listed = list(&*world.working, list_ino, 1000).await.expect("list");
    assert!(gets() - before <= COMMITS as u64 * PATH_LEN, "{} blocks for {COMMITS} commits", gets() - before);

    // All but one, and what the tree stands on, can no longer be read.
    let kept = world.history.kept().await.expect("kept");
    let world = world.reopen().await;
    let dir = world.find(root, "dir").await.expect("lookup").ino;
    let then = kept.iter().find(|kept| kept.name == "then 3").expect("kept").commit.attrs;
    let whole = [world.tree.head().1.attrs, then];
    for attrs in kept.iter().map(|kept| kept.commit.attrs).filter(|attrs| !whole.contains(attrs)) {
        world.blocks.fault(&crate::BlockKey::from(&attrs.expect("attributes")), Fault::Fail(ErrorKind::Io));
    }
    world.find(dir, ".history/then 3/file").await.expect("it can");
    let list_ino = world.find(dir, HISTORY_NAME).await.expect("lookup").ino;
    let page = world.working.readdir(list_ino, Cookie::START, 1000, Listing::Attrs).await.expect("readdir");
    assert!(page.entries.len() >= listed.len(), "of the first it can no longer be told that it had no such directory");
    let has_attr =
        |text: &str| page.entries.iter().find(|entry| entry.name == name(text)).map(|entry| entry.attr.is_some());
    assert_eq!([has_attr("then 3"), has_attr("then 4")], [Some(true), Some(false)]);
}
