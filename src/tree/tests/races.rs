//! Collections among writers, copies, commits, checkouts, snapshots, pins and readers of old commits, in every order that a
//! seed gives.
//!
//! Goal: nothing that can be read by name, by a kept commit or by a pin is lost, and what nothing keeps is gone in the end.
//! Method: all of them are tasks on one thread, over a store of blocks and heads that let the others run as often as dice
//! say before and after each of their calls. Each writer knows what its files hold. The seed says who runs when, but for
//! the order in which hashed sets are gone through.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures_util::{FutureExt, TryStreamExt, stream::BoxStream};
use tokio::sync::RwLock;

use super::{crash::describe, *};
use crate::{
    BlockKey, BlockStore, ErrorKind,
    dag::GcOptions,
    heads::{Heads, Swap, Version},
    pins::Pins,
    testing::fault::Dice,
    tree::{History, Retention},
};

/// How many calls of the store and of heads a world lasts: a million in all.
const WORLD_STEP_COUNT: u64 = 20_000;
const WORLD_COUNT: u64 = 50;
const WRITER_COUNT: u64 = 3;
const CHUNK_LEN: usize = 64;

/// Of so many kinds that most chunks are let go at some time, and of so few that they come back after they were collected.
fn kind(dice: &mut Dice) -> u8 {
    u8::try_from(dice.roll(100)).unwrap_or(0)
}

/// Lets the others run, now more and now less.
#[derive(Debug)]
struct Turns {
    dice: Mutex<Dice>,
    count: AtomicU64,
}

impl Turns {
    async fn pass(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let times = self.dice.lock().expect("nobody panicked").roll(4);
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    }
}

#[derive(Debug)]
struct Stepped<T> {
    inner: T,
    turns: Arc<Turns>,
}

#[async_trait]
impl BlockStore for Stepped<Mem> {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.turns.pass().await;
        let block = self.inner.get(key).await;
        self.turns.pass().await;
        block
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.turns.pass().await;
        self.inner.put(key, block).await?;
        self.turns.pass().await;
        Ok(())
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.turns.pass().await;
        self.inner.delete(key).await?;
        self.turns.pass().await;
        Ok(())
    }
    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.turns.pass().await;
        self.inner.block_len(key).await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner
            .keys()
            .then(move |key| async move {
                self.turns.pass().await;
                key
            })
            .boxed()
    }
}

#[async_trait]
impl Heads for Stepped<MemHeads> {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        self.turns.pass().await;
        self.inner.load(name).await
    }
    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        self.turns.pass().await;
        let swapped = self.inner.swap(name, expected, head).await;
        self.turns.pass().await;
        swapped
    }
}

#[derive(Clone)]
struct World {
    tree: Tree,
    pins: Arc<Pins>,
    clock: testing::Clock,
    /// Held by whoever changes names and bytes; alone by who checks out, and back.
    checkouts: Arc<RwLock<()>>,
    over: Arc<AtomicBool>,
    removed: Arc<AtomicU64>,
}

impl World {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Writes two files, and knows what they hold.
    async fn write(self, number: u64, mut dice: Dice) {
        let root = self.tree.root();
        let names = [name(&format!("one {number}")), name(&format!("two {number}"))];
        let mut files: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
        {
            let _no_checkout = self.checkouts.read().await;
            for text in &names {
                make(&self.tree, root, &text.to_string(), NewNode::File).await;
            }
        }
        while !self.is_over() {
            let _no_checkout = self.checkouts.read().await;
            let at = dice.roll(2);
            let ino = self.tree.lookup(root, &names[at]).await.expect("it is there").ino;
            let _lease = Lease::adopt(Arc::new(self.tree.clone()), ino);
            let offset = dice.roll(6) * CHUNK_LEN + if dice.roll(3) == 0 { 7 } else { 0 };
            match dice.roll(12) {
                0..5 => {
                    let len = [20, CHUNK_LEN, 3 * CHUNK_LEN][dice.roll(3)];
                    let data = vec![kind(&mut dice); len];
                    let mut after = files[at].clone();
                    after.resize(after.len().max(offset + len), 0);
                    after[offset..offset + len].copy_from_slice(&data);
                    let written = self.tree.write(ino, offset as u64, data.into(), false);
                    if dice.roll(8) == 0 {
                        // Somebody goes away in the middle: it was written or not.
                        let mut written = written;
                        for _ in 0..dice.roll(12) {
                            if (&mut written).now_or_never().is_some() {
                                break;
                            }
                            tokio::task::yield_now().await;
                        }
                        drop(written);
                        let found = self.tree.read(ino, 0, 1 << 20).await.expect("read");
                        assert!(found == files[at] || found == after, "neither before nor after");
                        files[at] = found.to_vec();
                    } else {
                        written.await.expect("write");
                        files[at] = after;
                    }
                }
                5 => {
                    self.tree
                        .setattr(ino, SetAttr { size: Some(offset as u64), ..SetAttr::default() })
                        .await
                        .expect("cut or grown");
                    files[at].resize(offset, 0);
                }
                6..8 => {
                    let other = self.tree.lookup(root, &names[1 - at]).await.expect("it is there").ino;
                    let _other = Lease::adopt(Arc::new(self.tree.clone()), other);
                    let len = (3 * CHUNK_LEN) as u64;
                    let (copied, _) = self.tree.copy_range((other, 0), (ino, offset as u64), len).await.expect("copy");
                    let copied = usize::try_from(copied).expect("short");
                    let bytes = files[1 - at][..copied].to_vec();
                    if copied > 0 {
                        let len = files[at].len().max(offset + copied);
                        files[at].resize(len, 0);
                        files[at][offset..offset + copied].copy_from_slice(&bytes);
                    }
                }
                8 => {
                    let place = Place { dir: root, name: &names[at], expect: None };
                    self.tree.remove(place, RemoveKind::NonDir).await.expect("remove");
                    // Without a name, and open.
                    let found = self.tree.read(ino, 0, 1 << 20).await.expect("it is leased");
                    assert!(found == files[at], "an open file without a name changed");
                    make(&self.tree, root, &names[at].to_string(), NewNode::File).await;
                    files[at].clear();
                }
                9 => self.tree.sync(root).await.expect("sync"),
                _ => {
                    let found = self.tree.read(ino, 0, 1 << 20).await.expect("read");
                    assert!(found == files[at], "{}: other bytes", names[at]);
                }
            }
        }
        for (text, expected) in names.iter().zip(&files) {
            let ino = self.tree.lookup(root, text).await.expect("it is there").ino;
            assert!(
                self.tree.read(ino, 0, 1 << 20).await.expect("read") == *expected,
                "{text}: other bytes in the end"
            );
            self.tree.release(ino, 1);
        }
    }

    async fn commit(self, mut dice: Dice) {
        while !self.is_over() {
            self.clock.advance(std::time::Duration::from_secs(1));
            match dice.roll(8) {
                0 => drop(self.tree.snapshot("named").await.expect("snapshot")),
                1 => drop(self.tree.remove_snapshot("named").await.expect("removed")),
                2 => {
                    let _alone = self.checkouts.write().await;
                    let now = describe(&self.tree).await.expect("described");
                    let here = self.tree.commit("").await.expect("commit");
                    let kept = self.tree.history().await.expect("kept");
                    let there = kept[dice.roll(kept.len())].0;
                    self.tree.checkout(&there).await.expect("what is kept can be checked out");
                    describe(&self.tree).await.expect("and is whole");
                    self.tree.checkout(&here).await.expect("the way back");
                    assert_eq!(describe(&self.tree).await.expect("described"), now);
                }
                _ => drop(self.tree.commit("").await.expect("commit")),
            }
            for _ in 0..dice.roll(200) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Looks whether all of a kept commit is there, for as long as it is kept.
    async fn look_back(self, mut dice: Dice) {
        let history = History::new(self.tree.clone());
        while !self.is_over() {
            let kept = history.kept().await.expect("kept");
            let then = &kept[dice.roll(kept.len())];
            let attrs = then.commit.attrs.expect("attributes");
            for below in [then.commit.root, attrs] {
                if let Err(error) = self.tree.dag().check_whole(&below).await {
                    assert_eq!(error.kind(), ErrorKind::NotFound);
                    let kept = history.kept().await.expect("kept");
                    assert!(kept.iter().all(|kept| kept.cid != then.cid), "a kept commit is not whole: {error:#}");
                }
            }
        }
    }

    /// Puts content, pins it, and lets it go again.
    async fn pin(self, mut dice: Dice) {
        let dag = self.tree.dag().clone();
        let cas = crate::cas::Cas::new(crate::Prefix::new("mem").expect("a prefix"), dag.clone(), self.pins.clone());
        while !self.is_over() {
            let session = dag.begin_write();
            let mut entries = Vec::new();
            for text in ["a", "b", "c"] {
                // What a writer writes too, and nobody else.
                let content = vec![kind(&mut dice); dice.roll(5 * CHUNK_LEN)];
                let link = dag.import(&content[..], UnixfsMeta::default()).await.expect("import");
                entries.push(Ok(crate::dag::Entry { name: name(text), link }));
            }
            let dir = dag.put_dir(stream::iter(entries).boxed()).await.expect("a directory").cid;
            cas.pin(&dir).await.expect("pin");
            drop(session);
            for _ in 0..dice.roll(100) {
                tokio::task::yield_now().await;
            }
            dag.check_whole(&dir).await.expect("it is pinned");
            if dice.roll(3) > 0 {
                self.pins.remove(&dir).await.expect("unpinned");
            }
        }
    }

    async fn collect_once(&self, dice: &mut Dice) -> u64 {
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&dice.bits().to_le_bytes());
        let options = GcOptions { secret, ..GcOptions::new(&testing::env()) };
        let roots = || self.tree.gc_roots().chain(self.pins.roots()).boxed();
        let report = self.tree.dag().collect_garbage(roots, &options).await.expect("it collects");
        report.blocks_removed
    }

    async fn collect(self, mut dice: Dice) {
        while !self.is_over() {
            let patience = if dice.roll(5) == 0 { dice.roll(300) } else { usize::MAX };
            let mut own = Dice::new(dice.bits());
            let mut collection = Box::pin(self.collect_once(&mut own));
            for _ in 0..patience {
                if let Some(removed) = (&mut collection).now_or_never() {
                    self.removed.fetch_add(removed, Ordering::Relaxed);
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Lives through a world; tells how many blocks were removed.
async fn live(seed: u64) -> u64 {
    let mut dice = Dice::new(seed);
    let turns = Arc::new(Turns { dice: Mutex::new(Dice::new(dice.bits())), count: AtomicU64::new(0) });
    let params =
        Params { chunk_len: u32::try_from(CHUNK_LEN).expect("small"), width: 4, ..Profile::default().params() };
    let store = Arc::new(Stepped { inner: Mem::default(), turns: turns.clone() });
    // A small cache, so that blocks are read again.
    let dag = Dag::new(store.clone(), DagOptions { params, verified_len_max: 8000 });
    let heads = Arc::new(Stepped { inner: MemHeads::default(), turns: turns.clone() });
    let (journal, clock) = (Arc::new(MemMedia::default()), testing::Clock::default());
    let seconds = std::time::Duration::from_secs;
    let retention = Retention { all: seconds(3), hourly: seconds(0), daily: seconds(0) };
    let options = || TreeOptions { retention: retention.clone(), env: clock.env(seed), ..options() };
    let tree = Tree::open(dag.clone(), journal.clone(), heads.clone(), options()).await.expect("open");
    let pins = Pins::open(Arc::new(MemMedia::default()), &testing::env()).await.expect("open");
    let (checkouts, over, removed) = Default::default();
    let world = World { tree: tree.clone(), pins: Arc::new(pins), clock: clock.clone(), checkouts, over, removed };
    let mut tasks = Vec::new();
    for number in 0..WRITER_COUNT {
        tasks.push(tokio::spawn(world.clone().write(number, Dice::new(dice.bits()))));
    }
    tasks.push(tokio::spawn(world.clone().commit(Dice::new(dice.bits()))));
    tasks.push(tokio::spawn(world.clone().look_back(Dice::new(dice.bits()))));
    tasks.push(tokio::spawn(world.clone().pin(Dice::new(dice.bits()))));
    tasks.push(tokio::spawn(world.clone().collect(Dice::new(dice.bits()))));
    while turns.count.load(Ordering::Relaxed) < WORLD_STEP_COUNT
        && !tasks.iter().any(tokio::task::JoinHandle::is_finished)
    {
        tokio::task::yield_now().await;
    }
    world.over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }

    // When all is quiet, two runs leave exactly what is kept: what one mistakes for marked the next does not.
    let found = describe(&tree).await.expect("described");
    for _ in 0..3 {
        world.collect_once(&mut dice).await;
    }
    let there: std::collections::BTreeSet<BlockKey> = store.inner.keys().try_collect().await.expect("keys");
    let mut kept = std::collections::BTreeSet::new();
    let mut roots = tree.gc_roots().chain(world.pins.roots()).boxed();
    while let Some(root) = roots.try_next().await.expect("roots") {
        match root {
            crate::dag::GcRoot::Block(cid) => drop(kept.insert(BlockKey::from(&cid))),
            crate::dag::GcRoot::Dag(cid) => {
                let mut walk = dag.walk(&cid);
                while let Some(visit) = walk.next().await {
                    assert!(visit.error.is_none(), "seed {seed}: {:?}", visit.error);
                    kept.insert(BlockKey::from(&visit.cid));
                }
            }
        }
    }
    drop(roots);
    assert!(there == kept, "seed {seed}: {} blocks are there, {} are kept", there.len(), kept.len());
    tree.sync(tree.root()).await.expect("sync");
    let removed = world.removed.load(Ordering::Relaxed);
    drop((world, tree));
    let tree = Tree::open(dag, journal, heads, options()).await.expect("open");
    assert_eq!(describe(&tree).await.expect("described"), found, "seed {seed}: after a restart");
    removed
}

#[test]
fn a_collection_takes_nothing_from_a_tree_whoever_works_on_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let removed: u64 = (0..WORLD_COUNT).map(|seed| runtime().block_on(live(seed))).sum();
    assert!(removed > 50 * WORLD_COUNT, "only {removed} blocks were garbage");
}
