//! What a collection must not take from a tree, and what taking it did once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;

use super::*;
use crate::{
    BlockKey, BlockStore, Error, ErrorKind,
    dag::{GcOptions, GcReport},
    heads::{Heads, Swap, Version},
    tree::{History, Retention},
    vfs::{FsStat, ext::list},
};

async fn collect(tree: &Tree) -> GcReport {
    let options = GcOptions::new(&testing::env());
    tree.dag().collect_garbage(|| tree.gc_roots(), &options).await.expect("it collects")
}

fn keeps_the_head_only() -> TreeOptions {
    let [all, hourly, daily] = [Duration::ZERO; 3];
    TreeOptions { retention: Retention { all, hourly, daily }, ..options() }
}

/// A copy named a chunk that was durable already, so no flush was noted behind it. It was overwritten, all was synced, the
/// chunk collected; and the next opening took the copy for one that no sync covered, and undid it and all after it.
#[tokio::test]
async fn a_chunk_that_was_copied_overwritten_and_collected_undoes_nothing() {
    let ground = Ground::with_chunk_len(1024);
    let tree = ground.open().await;
    let root = tree.root();
    let (one, two) = (make(&tree, root, "one", NewNode::File).await, make(&tree, root, "two", NewNode::File).await);
    tree.write(one.ino(), 0, vec![7; 1024].into(), false).await.expect("write");
    tree.sync(root).await.expect("sync");
    tree.copy_range((one.ino(), 0), (two.ino(), 0), 1024).await.expect("copy");
    for file in [&one, &two] {
        tree.write(file.ino(), 0, vec![8; 1000].into(), false).await.expect("write");
        tree.setattr(file.ino(), SetAttr { size: Some(1000), ..SetAttr::default() }).await.expect("cut");
    }
    make(&tree, root, "three", NewNode::File).await;
    tree.sync(root).await.expect("sync");
    assert_eq!(collect(&tree).await.blocks_removed, 1);
    drop((one, two, tree));

    let tree = ground.open().await;
    assert_eq!(list(&tree, root, 9).await.expect("list").len(), 3, "all that was synced is there");
    let two = tree.lookup(root, &name("two")).await.expect("lookup");
    assert_eq!(tree.read(two.ino, 0, 2000).await.expect("read"), vec![8; 1000]);
}

/// Heads that swap and then say that they failed.
#[derive(Debug, Default)]
struct Doubtful {
    inner: MemHeads,
    lies: AtomicBool,
}

#[async_trait]
impl Heads for Doubtful {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        if self.lies.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, "heads.load"));
        }
        self.inner.load(name).await
    }
    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        let swapped = self.inner.swap(name, expected, head).await;
        if self.lies.load(Ordering::Relaxed) { Err(Error::new(ErrorKind::Unavailable, "heads.swap")) } else { swapped }
    }
}

/// The head named a commit whose swap seemed to have failed. To the tree it was none, so the collector took its blocks,
/// and the tree could not be opened again.
#[tokio::test]
async fn a_commit_that_the_head_may_name_is_not_collected() {
    let Ground { dag, journal, .. } = Ground::new();
    let heads = Arc::new(Doubtful::default());
    let tree = Tree::open(dag.clone(), journal.clone(), heads.clone(), options()).await.expect("open");
    make(&tree, tree.root(), "a", NewNode::File).await;
    heads.lies.store(true, Ordering::Relaxed);
    tree.commit("").await.expect_err("nobody knows");
    collect(&tree).await;
    heads.lies.store(false, Ordering::Relaxed);
    drop(tree);

    let tree = Tree::open(dag, journal, heads, options()).await.expect("what the head names is there");
    assert_eq!(list(&tree, tree.root(), 9).await.expect("list").len(), 1);
    make(&tree, tree.root(), "b", NewNode::File).await;
    tree.commit("").await.expect("commit");
    collect(&tree).await;
    root_equals_import(&tree).await;
}

/// A directory of which a leaf is missing was checked out all the same: the file could not be read, ever.
#[tokio::test]
async fn a_directory_that_is_not_whole_is_not_checked_out() {
    let blocks = Arc::new(Mem::default());
    let dag = Dag::new(blocks.clone(), DagOptions::default());
    let ground = Ground { dag: dag.clone(), ..Ground::new() };
    let tree = ground.open().await;
    let leaf = dag.import(&b"gone"[..], UnixfsMeta::default()).await.expect("import");
    let entry = crate::dag::Entry { name: name("file"), link: leaf };
    let dir = dag.put_dir(stream::iter([Ok(entry)]).boxed()).await.expect("a directory");
    blocks.delete(&BlockKey::from(&leaf.cid)).await.expect("deleted");
    let before = tree.head().0;
    let refused = tree.checkout(&dir.cid).await.expect_err("a leaf is missing");
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert_eq!(tree.head().0, before);
    collect(&tree).await;
}

/// Who looks at a commit that is let go and collected meanwhile is told that it is gone, not that names are missing.
#[tokio::test]
async fn a_reader_of_a_commit_that_was_let_go_is_told_so() {
    let clock = testing::Clock::default();
    let ground = Ground::new();
    let tree = ground.open_with(TreeOptions { env: clock.env(1), ..keeps_the_head_only() }).await;
    let dir = make(&tree, tree.root(), "dir", NewNode::Dir).await;
    let file = make(&tree, dir.ino(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, vec![1; 3000].into(), false).await.expect("write");
    tree.commit("").await.expect("commit");
    let history = Arc::new(History::new(tree.clone()));
    let then = name(&history.kept().await.expect("kept").remove(0).name);
    let vfs: Arc<dyn Vfs> = history.clone();
    let (old, _) = crate::vfs::ext::walk(&vfs, vfs.root(), &[then, name("dir"), name("file")]).await.expect("there");
    assert_eq!(history.read(old.ino(), 0, 9).await.expect("read").len(), 9);

    tree.write(file.ino(), 0, vec![2; 3000].into(), false).await.expect("write");
    clock.advance(Duration::from_secs(10));
    tree.commit("").await.expect("commit");
    clock.advance(Duration::from_secs(10));
    make(&tree, dir.ino(), "other", NewNode::File).await;
    tree.commit("").await.expect("commit");
    assert!(collect(&tree).await.blocks_removed > 0);
    assert_eq!(history.read(old.ino(), 0, 9).await.expect_err("gone").kind(), ErrorKind::Stale);
}

/// A disk that writers filled had no room for the journal to note what was removed.
#[tokio::test]
async fn on_a_disk_that_is_nearly_full_only_what_grows_is_refused() {
    let free = Arc::new(std::sync::atomic::AtomicU64::new(1 << 30));
    let told = free.clone();
    let space = move || FsStat {
        bytes_total: 1 << 40,
        bytes_free: told.load(Ordering::Relaxed),
        inodes_total: 0,
        inodes_free: 0,
    };
    let tree = Ground::new().open_with(TreeOptions { room: Arc::new(space), ..options() }).await;
    let root = tree.root();
    let file = make(&tree, root, "file", NewNode::File).await;
    tree.write(file.ino(), 0, vec![1; 5000].into(), false).await.expect("write");
    let (file_name, other) = (name("file"), name("other"));

    // Enough to remove, and not to commit what would be written.
    free.store((64 << 20) + 1000, Ordering::Relaxed);
    let refused = [
        tree.write(file.ino(), 0, "more".into(), false).await.map(drop),
        tree.create(root, &other, NewNode::Dir, SetAttr::default()).await.map(drop),
        tree.link(file.ino(), root, &other).await.map(drop),
        tree.allocate(file.ino(), 0..10_000, true).await.map(drop),
        tree.copy_range((file.ino(), 0), (file.ino(), 5000), 100).await.map(drop),
    ];
    for refused in refused {
        assert_eq!(refused.expect_err("it would grow").kind(), ErrorKind::NoSpace);
    }
    assert_eq!(tree.read(file.ino(), 0, 9).await.expect("read"), vec![1; 9]);
    tree.setattr(file.ino(), SetAttr { size: Some(10), ..SetAttr::default() }).await.expect("cut");
    tree.commit("").await.expect("commit");
    tree.remove(Place { dir: root, name: &file_name, expect: None }, RemoveKind::NonDir).await.expect("remove");
    tree.commit("").await.expect("commit");
    free.store(1 << 30, Ordering::Relaxed);
    make(&tree, root, "other", NewNode::File).await;
}
