//! Heads that fail without telling whether they did what was asked: nothing is lost, and nothing is mixed up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{super::TreeOptions, Ground, assert_sound, crash::describe, make, name, options};
use crate::{
    Env, Error, ErrorKind, Name, Result,
    block::{Segments, SegmentsOptions},
    dag::{Dag, DagOptions, GcOptions},
    heads::{Heads, LogHeads, MemHeads, Swap, Version},
    testing::{
        self,
        fault::{Crash, CrashMedia},
    },
    tree::Tree,
    vfs::{NewNode, Vfs},
};

/// Heads that say nothing for a while, and do or do not what they were asked.
#[derive(Debug)]
struct Mute {
    inner: Arc<dyn Heads>,
    silent: AtomicBool,
    does: bool,
}

impl Mute {
    fn new(inner: Arc<dyn Heads>, does: bool) -> Arc<Self> {
        Arc::new(Self { inner, silent: AtomicBool::new(false), does })
    }

    fn mute(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    fn speak(&self) -> Result<()> {
        if self.silent.load(Ordering::Relaxed) { Err(Error::new(ErrorKind::Io, "mute")) } else { Ok(()) }
    }
}

#[async_trait]
impl Heads for Mute {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        self.speak()?;
        self.inner.load(name).await
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        if !self.does {
            self.speak()?;
        }
        let swapped = self.inner.swap(name, expected, head).await;
        self.speak()?;
        swapped
    }
}

async fn open(disks: &[Arc<CrashMedia>; 4], does: bool) -> Result<(Tree, Arc<Mute>)> {
    let [data, index, journal, heads] = disks.clone();
    let blocks = Arc::new(Segments::open(data, index, SegmentsOptions::default(), &testing::env()).await?);
    let heads = Mute::new(Arc::new(LogHeads::open(heads, &testing::env()).await?), does);
    let dag = Dag::new(blocks, DagOptions::default());
    Ok((Tree::open(dag, journal, heads.clone(), options()).await?, heads))
}

/// What was seen of a tree, which of it was durable, and what else a restart may find.
#[derive(Debug, Default)]
struct Told {
    states: Vec<String>,
    synced: usize,
}

impl Told {
    async fn tell(&mut self, tree: &Tree) -> Result<()> {
        self.states.push(describe(tree).await?);
        Ok(())
    }

    async fn synced(&mut self, tree: &Tree) -> Result<()> {
        tree.sync(tree.root()).await?;
        self.synced = self.states.len() - 1;
        Ok(())
    }
}

/// A checkout of which nobody knows whether it happened, and changes after it, until the machine stops.
async fn work(disks: &[Arc<CrashMedia>; 4], does: bool, told: &mut Told) -> Result<()> {
    let (tree, heads) = open(disks, does).await?;
    let root = tree.root();
    told.tell(&tree).await?;
    let file = make(&tree, root, "old", NewNode::File).await;
    told.tell(&tree).await?;
    let old = tree.commit("old").await?;
    told.synced = 1;
    tree.write(file.ino(), 0, "newer".into(), false).await?;
    told.tell(&tree).await?;
    tree.commit("new").await?;
    told.synced = 2;

    heads.mute(true);
    tree.checkout(&old).await.expect_err("nobody knows");
    let refused = tree.write(file.ino(), 2, "mixed up".into(), false).await.expect_err("of which state?");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:#}");
    assert_eq!(tree.read(file.ino(), 0, 9).await?, "newer", "reading goes on");
    heads.mute(false);

    if does {
        // It may have happened: the state that a restart finds is this or the next.
        told.states.push(told.states[1].clone());
    }
    tree.write(file.ino(), 1, "later".into(), false).await?;
    told.tell(&tree).await?;
    assert_eq!(tree.read(file.ino(), 0, 9).await?, if does { "\0later" } else { "nlater" });
    told.synced(&tree).await?;
    tree.write(file.ino(), 3, "last".into(), false).await?;
    told.tell(&tree).await?;
    told.synced(&tree).await?;
    tree.commit("last").await?;
    assert_eq!(tree.head().1.note, "last");
    Ok(())
}

/// After a checkout of which nobody knew, changes were made on the state that stood, and after a crash replayed on the one
/// that had been checked out.
#[tokio::test]
async fn what_follows_a_checkout_of_which_nobody_knows_is_on_the_state_that_it_left() {
    for does in [false, true] {
        let fresh = |crash: &Arc<Crash>| [(); 4].map(|()| Arc::new(CrashMedia::new(crash.clone())));
        let mut whole = Told::default();
        let never = Crash::never();
        work(&fresh(&never), does, &mut whole).await.expect("it works");
        for call in 0..never.calls() {
            let disks = fresh(&Crash::at(call));
            let mut told = Told::default();
            let stopped = std::panic::AssertUnwindSafe(work(&disks, does, &mut told));
            drop(futures_util::FutureExt::catch_unwind(stopped).await);
            let disks = [0, 1, 2, 3].map(|i| Arc::new(disks[i].restart(call * 4 + i as u64, Crash::never())));
            let (tree, _) = open(&disks, does).await.unwrap_or_else(|error| panic!("{does}, call {call}: {error:#}"));
            let found = describe(&tree).await.expect("described");
            let place = format!("{does}, call {call}, synced {}, seen {}", told.synced, told.states.len());
            let until = (told.states.len() + 2).min(whole.states.len());
            assert!(whole.states[told.synced..until].contains(&found), "{place}: {found}\nof {:#?}", whole.states);
            assert_sound(&tree, &place).await;
            tree.commit("").await.unwrap_or_else(|error| panic!("{place}: {error:#}"));
            assert_eq!(describe(&tree).await.expect("described"), found, "{place}: after a commit");
        }
    }
}

/// The collector took the blocks of a commit of which nobody knew that the head named it: the tree could not be opened
/// any more.
#[tokio::test]
async fn a_commit_that_may_be_the_head_is_kept() {
    for is_checkout in [false, true] {
        let ground = Ground::new();
        let heads = Mute::new(ground.heads.clone(), true);
        let opened = Tree::open(ground.dag.clone(), ground.journal.clone(), heads.clone(), options()).await;
        let tree = opened.expect("open");
        let old = tree.commit("old").await.expect("commit");
        make(&tree, tree.root(), "file", NewNode::File).await;
        tree.sync(tree.root()).await.expect("sync");
        if is_checkout {
            tree.commit("").await.expect("commit");
            heads.mute(true);
            tree.checkout(&old).await.expect_err("nobody knows");
        } else {
            heads.mute(true);
            tree.commit("").await.expect_err("nobody knows");
        }
        let options = GcOptions::new(&testing::env());
        ground.dag.collect_garbage(|| tree.gc_roots(), &options).await.expect("it collects");
        drop(tree);
        let tree = ground.open().await;
        let count = crate::vfs::ext::list(&tree, tree.root(), 9).await.expect("list").len();
        assert_eq!(count, usize::from(!is_checkout));
    }
}

/// What a checkout that failed was to say was said by the next commit, of another state.
#[tokio::test]
async fn a_checkout_that_fails_leaves_nothing_behind() {
    let ground = Ground::new();
    let heads = Mute::new(ground.heads.clone(), false);
    let opened = Tree::open(ground.dag.clone(), ground.journal.clone(), heads.clone(), options()).await;
    let tree = opened.expect("open");
    let old = tree.head().0;
    make(&tree, tree.root(), "file", NewNode::File).await;
    let head = tree.commit("here").await.expect("commit");
    heads.mute(true);
    tree.checkout(&old).await.expect_err("it fails");
    tree.snapshot("name").await.expect_err("it fails");
    heads.mute(false);
    assert_eq!(tree.commit("").await.expect("nothing changed"), head);
    heads.mute(true);
    tree.checkout(&old).await.expect_err("it fails");
    heads.mute(false);
    make(&tree, tree.root(), "other", NewNode::File).await;
    tree.sync(tree.root()).await.expect("sync");
    drop(tree);
    // The journal has a commit that began and held nothing, and one that does.
    let tree = ground.open().await;
    tree.commit("there").await.expect("commit");
    let notes: Vec<_> = tree.history().await.expect("history").into_iter().map(|(_, commit)| commit.note).collect();
    assert_eq!(notes, ["there", "here", ""]);
    assert_eq!(crate::vfs::ext::list(&tree, tree.root(), 9).await.expect("list").len(), 2);
}

/// A note was lost where nothing had changed: what it was to name could not be found by it.
#[tokio::test]
async fn a_note_makes_a_commit_even_where_nothing_changed() {
    let ground = Ground::new();
    let heads = Mute::new(ground.heads.clone(), false);
    let opened = Tree::open(ground.dag.clone(), ground.journal.clone(), heads.clone(), options()).await;
    let tree = opened.expect("open");
    let first = tree.commit("first").await.expect("commit");
    assert_eq!(tree.head().1.note, "first");
    assert_eq!(tree.commit("").await.expect("commit"), first, "nothing to say");
    make(&tree, tree.root(), "file", NewNode::File).await;
    heads.mute(true);
    tree.commit("second").await.expect_err("it fails");
    heads.mute(false);
    tree.commit("second").await.expect("and is tried again");
    let notes: Vec<_> = tree.history().await.expect("history").into_iter().map(|(_, commit)| commit.note).collect();
    assert_eq!(notes, ["second", "first", ""], "once");
    assert!(tree.lookup(tree.root(), &name("file")).await.is_ok());
}

/// A swap that seemed to fail and had happened made the tree believe for ever that another program wrote to it.
#[tokio::test]
async fn a_swap_of_which_nobody_knew_is_not_anothers() {
    // A clock that ticks: an attempt later is another commit.
    let time = Arc::new(AtomicU64::new(0));
    let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(time.fetch_add(1, Ordering::Relaxed));
    let options = TreeOptions { env: Env { now: Arc::new(now), ..testing::env() }, ..options() };
    let Ground { dag, journal, .. } = Ground::new();
    let heads = Mute::new(Arc::new(MemHeads::default()), true);
    let tree = Tree::open(dag.clone(), journal.clone(), heads.clone(), options.clone()).await.expect("open");
    for text in ["a", "b"] {
        make(&tree, tree.root(), text, NewNode::File).await;
        heads.mute(true);
        tree.commit("").await.expect_err("nobody knows");
        tree.commit("").await.expect_err("nor now");
        heads.mute(false);
        tree.commit("").await.expect("it is asked, and moves on");
    }
    let text = crate::vfs::ext::list(&tree, tree.root(), 9).await.expect("list").len();
    assert_eq!(text, 2);
    // Another program's head still is.
    let other = heads.load(&options.head).await.expect("load").expect("a head");
    let swapped = heads.swap(&options.head, Some(&other.1), "another".into()).await.expect("swap");
    assert!(matches!(swapped, Swap::Done(_)));
    make(&tree, tree.root(), "c", NewNode::File).await;
    assert_eq!(tree.commit("").await.expect_err("another's").kind(), ErrorKind::Unavailable);
}
