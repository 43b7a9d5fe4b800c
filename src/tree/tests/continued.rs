//! A journal, or the head of its tree, that is put back alone: changes are never played over a state that they were not made on.

use std::sync::Arc;

use super::{Ground, assert_sound, crash::describe, make, name, options};
use crate::{
    Error, ErrorKind, Result,
    block::Mem,
    dag::{Dag, DagOptions},
    heads::{Heads as _, MemHeads, Swap},
    log::{Log, LogOptions},
    media::{Media as _, MemMedia},
    testing::{
        self,
        fault::{Crash, CrashMedia},
    },
    tree::{Tree, record::Record, uncommitted_count},
    vfs::{NewNode, SetAttr, Vfs as _},
};

/// What is on a disk.
async fn copy(from: &MemMedia) -> Result<Arc<MemMedia>> {
    let to = MemMedia::default();
    for segment in from.segments().await? {
        let len = u32::try_from(segment.len).expect("it is short");
        to.append(segment.id, from.read_at(segment.id, 0, len).await?).await?;
        to.sync(segment.id).await?;
    }
    Ok(Arc::new(to))
}

impl Ground {
    /// The same blocks, with a journal and a head as they are now.
    async fn copy(&self) -> Self {
        let heads = MemHeads::default();
        if let Some((head, _)) = self.heads.load(&name("main")).await.expect("loaded") {
            let swapped = heads.swap(&name("main"), None, head).await.expect("swapped");
            assert!(matches!(swapped, Swap::Done(_)), "nobody else is there");
        }
        let journal = copy(&self.journal).await.expect("copied");
        Self { dag: self.dag.clone(), journal, heads: Arc::new(heads) }
    }

    async fn try_open(&self) -> Result<Tree> {
        Tree::open(self.dag.clone(), self.journal.clone(), self.heads.clone(), options()).await
    }
}

/// A tree with a commit, and synced changes after it.
async fn with_changes(ground: &Ground, text: &str) -> Tree {
    let tree = ground.open().await;
    make(&tree, tree.root(), &format!("committed {text}"), NewNode::Dir).await;
    tree.commit("").await.expect("committed");
    make(&tree, tree.root(), &format!("synced {text}"), NewNode::Dir).await;
    tree.sync(tree.root()).await.expect("synced");
    tree
}

/// Asserts that nothing is opened, that it is said why, and that everything is as it was.
async fn assert_refused(ground: &Ground, told: &[&str]) {
    let head = ground.heads.load(&name("main")).await.expect("loaded");
    let count = uncommitted_count(copy(&ground.journal).await.expect("copied"), &testing::env()).await.expect("read");
    for _ in 0..2 {
        let error = ground.try_open().await.expect_err("they do not belong together");
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
        let text = format!("{error:#}");
        for part in told {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
    assert_eq!(ground.heads.load(&name("main")).await.expect("loaded"), head);
    assert!(count > 0);
    let left = uncommitted_count(ground.journal.clone(), &testing::env()).await.expect("read");
    assert_eq!(left, count, "what the journal has stays there");
}

/// A bucket was put back to what it was, and the journal of later was played over it: what had been committed in between was
/// lost, and what came after it was there.
#[tokio::test]
async fn a_head_that_was_put_back_is_not_played_over() {
    let ground = Ground::new();
    let tree = with_changes(&ground, "1").await;
    let before = ground.copy().await;
    let earlier = tree.head().0;
    make(&tree, tree.root(), "more", NewNode::Dir).await;
    let later = tree.commit("").await.expect("committed");
    make(&tree, tree.root(), "synced 2", NewNode::Dir).await;
    tree.sync(tree.root()).await.expect("synced");
    drop(tree);
    let put_back = Ground { heads: before.heads.clone(), ..ground.clone() };
    assert_refused(
        &put_back,
        &[&earlier.to_string(), &later.to_string(), "came earlier", "journal of this tree aside"],
    )
    .await;
    // With its own head it goes on, and so does the earlier state with its own journal.
    for (ground, there) in [(ground, "synced 2"), (before, "synced 1")] {
        let tree = ground.open().await;
        tree.lookup(tree.root(), &name(there)).await.expect("nothing is lost");
        assert_sound(&tree, "opened").await;
    }
}

/// Another data directory went on with the head; or this one was put back to what it was.
#[tokio::test]
async fn a_head_that_went_on_is_not_played_over() {
    let ground = Ground::new();
    let tree = with_changes(&ground, "1").await;
    let earlier = tree.head().0;
    let put_back = Ground { journal: ground.copy().await.journal, ..ground.clone() };
    let mut later = earlier;
    for n in 0..3 {
        make(&tree, tree.root(), &format!("later {n}"), NewNode::Dir).await;
        later = tree.commit("").await.expect("committed");
    }
    drop(tree);
    assert_refused(&put_back, &[&earlier.to_string(), &later.to_string(), "came later"]).await;
    // As it says: the journal aside, it goes on from the head.
    let without = Ground { journal: Arc::default(), ..put_back };
    let tree = without.open().await;
    tree.lookup(tree.root(), &name("later 2")).await.expect("it is committed");
    assert_sound(&tree, "opened").await;
}

/// The head of another tree, of which not even a first commit is the same.
#[tokio::test]
async fn the_journal_of_another_tree_is_not_played() {
    for commits in [true, false] {
        let (ground, other) = (Ground::new(), Ground::new());
        let tree = ground.open().await;
        if commits {
            make(&tree, tree.root(), "committed", NewNode::Dir).await;
            tree.commit("").await.expect("committed");
        }
        make(&tree, tree.root(), "synced", NewNode::Dir).await;
        tree.sync(tree.root()).await.expect("synced");
        let on = tree.head().0;
        drop(tree);
        let there = with_changes(&other, "there").await;
        let head = there.head().0;
        drop(there);
        let mixed = Ground { journal: ground.journal.clone(), ..other };
        // New trees of one moment are the same commit.
        let how = if commits { "knows nothing" } else { "came later" };
        assert_refused(&mixed, &[&on.to_string(), &head.to_string(), how]).await;
        // No head at all: no new tree is made for it.
        let headless = Ground { heads: Arc::default(), ..ground };
        assert_refused(&headless, &["there is no head", &on.to_string()]).await;
    }
}

/// A journal in which nothing is left is in nobody's way; from then on it continues the head that it found.
#[tokio::test]
async fn a_journal_with_nothing_left_goes_with_any_head() {
    let ground = Ground::new();
    let tree = ground.open().await;
    make(&tree, tree.root(), "one", NewNode::Dir).await;
    tree.commit("").await.expect("committed");
    let before = ground.copy().await;
    make(&tree, tree.root(), "two", NewNode::Dir).await;
    tree.commit("").await.expect("committed");
    drop(tree);
    let later_head = Ground { journal: before.journal.clone(), ..ground.clone() };
    let earlier_head = Ground { heads: before.heads.clone(), ..ground };
    for mixed in [later_head, earlier_head] {
        for n in 0..3 {
            let tree = mixed.try_open().await.expect("nothing is left in the journal");
            make(&tree, tree.root(), &format!("synced {n}"), NewNode::Dir).await;
            tree.sync(tree.root()).await.expect("synced");
            assert_sound(&tree, "opened").await;
        }
        let tree = mixed.open().await;
        for n in 0..3 {
            tree.lookup(tree.root(), &name(&format!("synced {n}"))).await.expect("it is played");
        }
        tree.commit("").await.expect("committed");
        drop(tree);
        mixed.open().await;
    }
}

/// One that an earlier version began says what it continues from its first commit on, and is taken as it was before.
#[tokio::test]
async fn a_journal_that_does_not_say_it_is_played() {
    let ground = Ground::new();
    let tree = ground.open().await;
    make(&tree, tree.root(), "synced", NewNode::Dir).await;
    tree.sync(tree.root()).await.expect("synced");
    drop(tree);
    let (mut records, env) = (Vec::new(), testing::env());
    let collect = |_, record| {
        records.push(record);
        Ok::<_, Error>(())
    };
    Log::open(ground.journal.clone(), LogOptions::new("journal", &env), collect).await.expect("read");
    let journal = Arc::new(MemMedia::default());
    let log = Log::open(journal.clone(), LogOptions::new("journal", &env), |_, _| Ok(())).await.expect("open");
    // The freeze and the commit that it begins with now.
    for record in records.into_iter().skip(2) {
        log.append(record).await.expect("appended");
    }
    log.close().await.expect("closed");
    let earlier = Ground { journal, ..ground };
    for _ in 0..2 {
        let tree = earlier.open().await;
        tree.lookup(tree.root(), &name("synced")).await.expect("it is played");
        tree.sync(tree.root()).await.expect("synced");
    }
    let tree = earlier.open().await;
    tree.commit("").await.expect("committed");
    make(&tree, tree.root(), "after", NewNode::Dir).await;
    tree.sync(tree.root()).await.expect("synced");
    drop(tree);
    let other = Ground::new();
    drop(with_changes(&other, "there").await);
    assert_refused(&Ground { journal: earlier.journal, ..other }, &["knows nothing"]).await;
}

/// Changes of others beside a commit, of names and of bytes: the journal still begins by saying what it continues, and what it says
/// is there when it is played.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_beside_a_commit_come_after_what_it_continues() {
    let ground = Ground::new();
    let mut written = None;
    for round in 0..200 {
        let tree = ground.open().await;
        if let Some(before) = written.replace(format!("{round} bytes")) {
            let file = tree.lookup(tree.root(), &name(&before)).await.expect("it was synced");
            let bytes = tree.read(file.ino, 0, 99).await.expect("read");
            assert_eq!(bytes, (0..20).collect::<Vec<u8>>(), "round {round}");
            tree.release(file.ino, 1);
        }
        let file = make(&tree, tree.root(), &format!("{round} bytes"), NewNode::File).await;
        let bytes = tokio::spawn({
            let (tree, ino) = (tree.clone(), file.ino());
            async move {
                for n in 0..20_u8 {
                    tree.write(ino, n.into(), vec![n].into(), false).await.expect("written");
                }
            }
        });
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let tree = tree.clone();
                tokio::spawn(async move {
                    for n in 0..20 {
                        make(&tree, tree.root(), &format!("{round} {writer} {n}"), NewNode::Dir).await;
                    }
                })
            })
            .collect();
        make(&tree, tree.root(), &format!("{round}"), NewNode::Dir).await;
        tree.commit("").await.expect("committed");
        for writer in writers.into_iter().chain([bytes]) {
            writer.await.expect("no panic");
        }
        tree.sync(tree.root()).await.expect("synced");
        drop((file, tree));
        let (mut first, env) = (None, testing::env());
        let collect = |_, record: crate::log::Record| {
            first.get_or_insert(Record::decode(&record)?);
            Ok::<_, Error>(())
        };
        let journal = copy(&ground.journal).await.expect("copied");
        Log::open(journal, LogOptions::new("journal", &env), collect).await.expect("read");
        assert!(matches!(first, Some(Record::Freeze)), "round {round}: it begins with {first:?}");
    }
}

/// The machine stops at each call of the disk of the journal, also while one is tied to another head: whatever is found then opens over
/// the head that is there, and has what was synced.
#[tokio::test]
async fn a_stop_at_any_time_leaves_what_opens() {
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let heads = Arc::new(MemHeads::default());
    let open =
        async |journal: &Arc<CrashMedia>| Tree::open(dag.clone(), journal.clone(), heads.clone(), options()).await;
    for stop in 0.. {
        let crash = Crash::at(stop);
        let journal = Arc::new(CrashMedia::new(crash.clone()));
        let mut synced = None;
        let work = async {
            let tree = open(&journal).await?;
            let made = name(&format!("synced {stop}"));
            tree.create(tree.root(), &made, NewNode::Dir, SetAttr::default()).await?;
            tree.sync(tree.root()).await?;
            synced = Some(made);
            tree.commit("").await?;
            drop(tree);
            // Another goes on with the head, and this one finds it.
            let elsewhere = Tree::open(dag.clone(), Arc::new(MemMedia::default()), heads.clone(), options()).await?;
            make(&elsewhere, elsewhere.root(), &format!("elsewhere {stop}"), NewNode::Dir).await;
            elsewhere.commit("").await?;
            let tree = open(&journal).await?;
            tree.create(tree.root(), &name(&format!("later {stop}")), NewNode::Dir, SetAttr::default()).await?;
            tree.sync(tree.root()).await?;
            Ok::<_, Error>(())
        };
        let worked = work.await;
        let journal = Arc::new(journal.restart(stop, Crash::never()));
        let tree = open(&journal).await.expect("it opens wherever it stopped");
        if let Some(made) = synced {
            tree.lookup(tree.root(), &made).await.expect("it was synced");
        }
        assert_sound(&tree, "after a stop").await;
        describe(&tree).await.expect("all is read");
        tree.commit("").await.expect("committed");
        if !crash.happened() {
            worked.expect("nothing stopped it");
            assert!(stop > 10, "it stopped {stop} times");
            return;
        }
    }
}
