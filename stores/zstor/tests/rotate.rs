//! Another key in the place of a store's: whatever stops the moving, all is there under the keys of the file; and at the end
//! nothing is left that the older key reads.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use muxfs::{
    BlockKey, Env, ErrorKind, Name, Result, cid_of,
    heads::{Heads, LogHeads, Swap},
    pins::Pins,
    testing::fault::Dice,
};
use muxfs_local::FileMedia;
use muxfs_zstor::{KeyRing, Node, Place, RootKey, Zstor, ZstorOptions};
use tempfile::TempDir;

/// So many blocks that it takes some batches to move them.
const BLOCK_COUNT: u64 = 600;
/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_mins(5);

struct World {
    dir: TempDir,
    seed: AtomicU64,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().expect("a directory"), seed: 0.into() };
        fs::create_dir(world.local()).expect("made");
        RootKey::make(&world.key(), &world.env()).expect("made");
        world
    }

    /// Each opening draws what no other has drawn.
    fn env(&self) -> Env {
        let dice = Mutex::new(Dice::new(self.seed.fetch_add(1, Ordering::Relaxed)));
        let fill = move |buffer: &mut [u8]| {
            let drawn = dice.lock().expect("whole").bytes(buffer.len());
            buffer.copy_from_slice(&drawn);
        };
        Env { fill: Arc::new(fill), ..muxfs::testing::env() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn local(&self) -> PathBuf {
        self.path("local")
    }

    fn key(&self) -> PathBuf {
        self.path("key")
    }

    fn ring(&self) -> KeyRing {
        KeyRing::load(&self.key()).expect("readable").expect("there")
    }

    async fn open_in(&self, local: &Path, keys: &KeyRing) -> Result<Zstor> {
        let place = |n: usize| Place::Dir { path: self.path(&format!("node{n}")), is_made: true };
        let nodes = (0..3).map(|n| Node::new(format!("{n}"), place(n))).collect();
        let options = ZstorOptions { key_file: Some(self.key()), ..ZstorOptions::new(2, 1, nodes) };
        Zstor::open(&options, keys, local, &self.env()).await
    }

    async fn open(&self) -> Zstor {
        self.open_with(&self.local(), &self.ring()).await
    }

    /// With all nodes. What was dropped without an end has its directories until its calls have ended.
    async fn open_with(&self, local: &Path, keys: &KeyRing) -> Zstor {
        let begun = Instant::now();
        loop {
            match self.open_in(local, keys).await {
                Ok(zstor) if zstor.nodes().iter().all(|node| node.lost().is_none()) => return zstor,
                Ok(_) => assert!(begun.elapsed() < PATIENCE, "a node is lost"),
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:#}"),
            }
            tokio::task::yield_now().await;
        }
    }

    async fn media(&self, part: &str) -> Arc<FileMedia> {
        let begun = Instant::now();
        loop {
            match FileMedia::open(self.local().join(part)) {
                Ok(media) => return Arc::new(media),
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:#}"),
            }
            tokio::task::yield_now().await;
        }
    }

    /// What a mount seals besides.
    async fn beside(&self, zstor: &Zstor) -> (Pins, LogHeads) {
        let pins = Pins::open(zstor.sealed("pins", self.media("pins").await), &self.env()).await.expect("opens");
        let journal = zstor.sealed("journal", self.media("journal").await);
        let journal = LogHeads::open(journal, &self.env()).await.expect("opens");
        (pins, journal)
    }
}

fn key(n: u64) -> BlockKey {
    BlockKey::new(format!("block {n}").as_bytes()).expect("a key")
}

fn block(n: u64) -> Bytes {
    Dice::new(n).bytes(100 + usize::try_from(n).expect("small")).into()
}

async fn check(zstor: &Zstor, count: u64) {
    for n in 0..count {
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("readable"), Some(block(n)), "block {n}");
    }
}

async fn ended(zstor: &Zstor) {
    let mut rotation = zstor.rotation();
    let all = rotation.wait_for(|now| !now.is_under_way);
    tokio::time::timeout(PATIENCE, all).await.expect("it ends").expect("its sender is there");
}

fn name() -> Name {
    Name::new(b"name").expect("a name")
}

async fn set(heads: &dyn Heads, head: &'static str) {
    let swap = heads.swap(&name(), None, head.into()).await.expect("swapped");
    assert!(matches!(swap, Swap::Done(_)));
}

/// The moving is broken off after each batch, as by a process that is killed; others put and delete meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_there_whatever_stops_the_moving() {
    let world = World::new();
    let old = world.ring();
    let zstor = world.open().await;
    for n in 0..BLOCK_COUNT {
        zstor.blocks().put(&key(n), block(n)).await.expect("put");
    }
    let (pins, journal) = world.beside(&zstor).await;
    let pinned = cid_of(muxfs::Codec::Raw, b"pinned");
    pins.add(&pinned).await.expect("pinned");
    set(&journal, "noted").await;
    set(&**zstor.heads(), "a head").await;
    zstor.blocks().flush().await.expect("flushed");
    assert!(zstor.rotate().await.expect("drawn"), "a new key");
    assert!(!zstor.rotate().await.expect("asked again"), "one at a time");
    let both = world.ring();
    assert!(both.has_older());
    // What is put now is under the new key; nothing else is yet.
    zstor.blocks().put(&key(BLOCK_COUNT), block(BLOCK_COUNT)).await.expect("put");
    zstor.blocks().flush().await.expect("flushed");
    pins.close().await.expect("closed");
    drop((zstor, pins, journal));

    let mut moved = 0;
    for life in 0.. {
        let zstor = world.open().await;
        let beside = world.beside(&zstor).await;
        if !zstor.rotation().borrow().is_under_way {
            break;
        }
        let mut rotation = zstor.rotation();
        zstor.go_on_rotating();
        let some = rotation.wait_for(|now| now.moved > 0 || !now.is_under_way).await.expect("it goes on").moved;
        moved += some;
        check(&zstor, BLOCK_COUNT + 1).await;
        assert!(life < 20, "{:?}", *zstor.rotation().borrow());
        drop((zstor, beside));
    }
    assert!(moved >= BLOCK_COUNT / 2, "it was broken off on the way: {moved}");

    // The newest key alone opens everything, wherever it is opened.
    let newest = world.ring();
    assert!(!newest.has_older());
    for (keys, local) in [(&newest, world.local()), (&both, world.path("another")), (&newest, world.path("third"))] {
        fs::create_dir_all(&local).expect("made");
        let zstor = world.open_with(&local, keys).await;
        check(&zstor, BLOCK_COUNT + 1).await;
        let listed: Vec<_> = zstor.blocks().keys().try_collect().await.expect("all keys are known");
        assert!((0..=BLOCK_COUNT).all(|n| listed.contains(&key(n))));
        let head = zstor.heads().load(&name()).await.expect("loaded").expect("there").0;
        assert_eq!(head, "a head");
        if keys.has_older() {
            // It read its keys before another one had the older go from the file.
            zstor.go_on_rotating();
            ended(&zstor).await;
        }
        if local == world.local() {
            let (pins, journal) = world.beside(&zstor).await;
            assert!(pins.contains(&pinned));
            assert_eq!(journal.load(&name()).await.expect("loaded").expect("there").0, "noted");
        }
        zstor.close().await.expect("closed");
    }
    // The older one opens nothing, neither here nor elsewhere.
    for local in [world.local(), world.path("fourth")] {
        fs::create_dir_all(&local).expect("made");
        let error = world.open_in(&local, &old).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::BadKey, "{error:#}");
    }
}

/// Whoever uses the store notices nothing: no block that is there is ever absent, and none that was deleted is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_read_put_and_delete_meanwhile() {
    let world = World::new();
    let zstor = world.open().await;
    let beside = world.beside(&zstor).await;
    for n in 0..BLOCK_COUNT {
        zstor.blocks().put(&key(n), block(n)).await.expect("put");
    }
    zstor.go_on_rotating();
    zstor.rotate().await.expect("drawn");
    let mut dice = Dice::new(7);
    let mut gone = 0;
    let begun = Instant::now();
    while zstor.rotation().borrow().is_under_way || gone < 50 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", zstor.rotation().borrow());
        let n = gone + dice.roll(usize::try_from(BLOCK_COUNT - gone).expect("small")) as u64;
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("readable"), Some(block(n)));
        if gone < 300 {
            zstor.blocks().delete(&key(gone)).await.expect("deleted");
            zstor.blocks().put(&key(BLOCK_COUNT + gone), block(BLOCK_COUNT + gone)).await.expect("put");
            gone += 1;
        }
    }
    ended(&zstor).await;
    for n in 0..BLOCK_COUNT + gone {
        let expected = (n >= gone).then(|| block(n));
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("readable"), expected, "block {n}");
    }
    zstor.close().await.expect("closed");
    drop(beside);
    assert!(!world.ring().has_older());
}

/// With a node away not everything is moved, for days perhaps. The heads on that node are behind from the first commit on, and
/// who has the older key alone would have gone on from them.
#[tokio::test]
async fn who_has_the_older_key_goes_on_from_nothing_that_is_behind() {
    let world = World::new();
    let old = world.ring();
    let zstor = world.open().await;
    set(&**zstor.heads(), "before").await;
    zstor.close().await.expect("closed");
    drop(zstor);
    let away = world.path("away");
    fs::rename(world.path("node2"), &away).expect("moved");
    let zstor = world.open_in(&world.local(), &old).await.expect("two are there");
    assert!(zstor.rotate().await.expect("drawn"));
    let (_, version) = zstor.heads().load(&name()).await.expect("loaded").expect("there");
    let swap = zstor.heads().swap(&name(), Some(&version), "after".into()).await.expect("two keep it");
    assert!(matches!(swap, Swap::Done(_)));
    zstor.close().await.expect("closed");
    drop(zstor);
    fs::rename(&away, world.path("node2")).expect("moved");
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    let error = world.open_in(&elsewhere, &old).await.expect_err("it is behind");
    assert_eq!(error.kind(), ErrorKind::BadKey, "{error:#}");
    let zstor = world.open_in(&elsewhere, &world.ring()).await.expect("with both");
    assert_eq!(zstor.heads().load(&name()).await.expect("loaded").expect("there").0, "after");
}

/// A file that somebody changed meanwhile is not written over, and what is not open keeps the older key.
#[tokio::test]
async fn nothing_is_lost_by_haste() {
    let world = World::new();
    let zstor = world.open().await;
    let beside = world.beside(&zstor).await;
    set(&beside.1, "noted").await;
    drop(beside);
    let text = fs::read(world.key()).expect("read");
    fs::remove_file(world.key()).expect("removed");
    RootKey::make(&world.key(), &world.env()).expect("made");
    let other = fs::read(world.key()).expect("read");
    assert_eq!(zstor.rotate().await.expect_err("another key").kind(), ErrorKind::BadKey);
    assert_eq!(fs::read(world.key()).expect("read"), other);
    fs::write(world.key(), text).expect("written");
    zstor.close().await.expect("closed");
    drop(zstor);

    let zstor = world.open().await;
    zstor.rotate().await.expect("drawn");
    zstor.go_on_rotating();
    let mut rotation = zstor.rotation();
    let left = rotation.wait_for(|now| now.left.is_some()).await.expect("told").left.clone();
    assert!(left.as_deref().is_some_and(|why| why.contains("journal")), "{left:?}");
    assert!(world.ring().has_older());
    let beside = world.beside(&zstor).await;
    zstor.rotate().await.expect("goes on");
    ended(&zstor).await;
    assert!(!world.ring().has_older());
    drop(beside);
}
