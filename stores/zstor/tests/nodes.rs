//! Goal: a store over node directories is a block store like others; it loses nothing while at most m of its nodes are
//! lost, says which when more are, tells a wrong key from damage, and never takes an empty directory for a node that it
//! was not asked to take.
//! Method: the laws of blocks over six directories; then directories are removed, emptied, exchanged and marked by hand,
//! while a store is open and between two openings.

mod released;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use muxfs::{
    BlockKey, BlockStore, ErrorKind, Name, Result,
    block::{BLOCK_KEY_LEN_MAX, Compress, Encrypt},
    block_store_laws,
    heads::{Heads, Swap},
    heads_laws,
    testing::{block_store::Subject, heads},
};
use muxfs_zstor::{Access, Node, Place, RootKey, Zstor, ZstorOptions, holds_data};
use tempfile::TempDir;

use released::released;

/// How long to wait for what must happen, on a slow machine.
const PATIENCE: Duration = Duration::from_mins(5);

/// A directory with six nodes and one of the mount's own.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().expect("a directory") };
        fs::create_dir(world.local()).expect("made");
        world
    }

    fn local(&self) -> PathBuf {
        self.dir.path().join("local")
    }

    fn node(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("node{n}"))
    }

    fn options(&self) -> ZstorOptions {
        options(self.dir.path())
    }

    async fn try_open(&self, key: u8) -> Result<Zstor> {
        released(self.dir.path()).await;
        self.open_now(key).await
    }

    async fn open_now(&self, key: u8) -> Result<Zstor> {
        Zstor::open(&self.options(), &RootKey::new([key; 32]), &self.local(), &muxfs::testing::env()).await
    }

    async fn open(&self) -> Zstor {
        self.try_open(7).await.expect("opens")
    }

    /// A store of ten blocks, closed.
    async fn with_blocks() -> Self {
        let world = Self::new();
        let zstor = world.open().await;
        for n in 0..10 {
            zstor.blocks().put(&key(n), block(n)).await.expect("put");
        }
        zstor.blocks().flush().await.expect("flushed");
        zstor.close().await.expect("closed");
        world
    }
}

fn options(dir: &Path) -> ZstorOptions {
    let node = |n: usize| Node {
        name: format!("{n}"),
        group: None,
        is_drained: false,
        place: Place::Dir { path: dir.join(format!("node{n}")), is_made: true },
    };
    ZstorOptions::new(4, 2, (0..6).map(node).collect())
}

fn key(n: u8) -> BlockKey {
    BlockKey::new(&[n; 34]).expect("a key")
}

fn block(n: u8) -> Bytes {
    vec![n; 5000].into()
}

async fn assert_whole(zstor: &Zstor) {
    assert_whole_from(zstor, 0).await;
}

async fn assert_whole_from(zstor: &Zstor, first: u8) {
    for n in first..10 {
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("read"), Some(block(n)));
    }
}

/// Copies a directory that nobody has open.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).expect("copied");
        }
    }
}

fn lost(zstor: &Zstor) -> Vec<String> {
    zstor.nodes().iter().filter(|node| node.lost().is_some()).map(|node| node.name().to_owned()).collect()
}

/// Waits until no node is lost and each has a shard of so many blocks, which all have a shard on each.
async fn at_full_strength(zstor: &Zstor, blocks: usize) {
    let begun = Instant::now();
    for name in zstor.nodes().iter().map(|node| node.name().to_owned()) {
        while shards_on(zstor, &name).await != Some(blocks) {
            assert!(begun.elapsed() < PATIENCE, "node {name} has {:?} of {blocks}", shards_on(zstor, &name).await);
            tokio::task::yield_now().await;
        }
    }
}

async fn shards_on(zstor: &Zstor, name: &str) -> Option<usize> {
    let nodes = zstor.nodes();
    let node = nodes.iter().find(|node| node.name() == name)?.segments()?;
    let keys: Vec<BlockKey> = node.keys().try_collect().await.ok()?;
    // What ends so is a copy of the heads.
    Some(keys.iter().filter(|key| key.as_bytes().last() != Some(&0xfe)).count())
}

async fn until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it does not come to that");
        tokio::task::yield_now().await;
    }
}

/// Opens the store of a world that was dropped: what may still be writing in the background has its directories until it
/// ends.
async fn again(world: &World) -> Zstor {
    let begun = Instant::now();
    loop {
        match world.open_now(7).await {
            Ok(zstor) if lost(&zstor).is_empty() => return zstor,
            Ok(zstor) => assert!(begun.elapsed() < PATIENCE, "lost: {:?}", lost(&zstor)),
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:#}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn subject() -> Subject {
    let world = Arc::new(World::new());
    let subject = Subject::reopening(move || {
        let world = world.clone();
        Box::pin(async move { again(&world).await.blocks().clone() })
    });
    let header_len = muxfs::block::BLOCK_LEN_MAX - Compress::BLOCK_LEN_MAX;
    subject.await.with_limits(Encrypt::BLOCK_LEN_MAX - header_len, BLOCK_KEY_LEN_MAX - 16 - 1)
}

block_store_laws!(six_directories, subject());

async fn heads() -> heads::Subject {
    let world = Arc::new(World::new());
    let subject = heads::Subject::reopening(move || {
        let world = world.clone();
        Box::pin(async move { again(&world).await.heads().clone() as Arc<dyn Heads> })
    });
    subject.await
}

heads_laws!(heads_on_six_directories, heads());

fn name() -> Name {
    Name::new(b"main").expect("a name")
}

/// A start that is refused leaves nothing that the next one takes for a store of its own.
#[tokio::test]
async fn a_refused_start_is_refused_again() {
    let world = World::with_blocks().await;
    fs::remove_dir_all(world.local()).expect("removed");
    fs::create_dir(world.local()).expect("made");
    for _ in 0..3 {
        assert_eq!(world.try_open(7).await.expect_err("no names").kind(), ErrorKind::NotFound);
    }
}

/// The directory of the mount is lost with its machine; key and nodes are not.
#[tokio::test]
async fn a_new_machine_finds_the_heads_on_the_nodes() {
    let world = World::with_blocks().await;
    let zstor = world.open().await;
    let Swap::Done(version) = zstor.heads().swap(&name(), None, "a".into()).await.expect("swap") else {
        panic!("it never was set");
    };
    assert!(matches!(zstor.heads().swap(&name(), Some(&version), "b".into()).await, Ok(Swap::Done(_))));
    drop(zstor);
    let old = world.dir.path().join("old");
    fs::rename(world.local(), &old).expect("moved");
    fs::create_dir(world.local()).expect("made");
    let zstor = world.open().await;
    let (head, version) = zstor.heads().load(&name()).await.expect("load").expect("found");
    assert_eq!(head, "b");
    assert_whole(&zstor).await;
    let error = zstor.blocks().delete(&key(0)).await.expect_err("it may be pinned");
    assert!(error.kind() == ErrorKind::Denied && format!("{error:#}").contains("pins-lost"), "{error:#}");
    fs::remove_file(world.local().join("pins-lost")).expect("there");
    zstor.blocks().delete(&key(0)).await.expect("somebody said so");
    assert!(matches!(zstor.heads().swap(&name(), Some(&version), "c".into()).await, Ok(Swap::Done(_))));
    zstor.close().await.expect("closed");
    drop(zstor);
    // The old one comes back: it would go on from a head that is no more.
    fs::remove_dir_all(world.local()).expect("removed");
    fs::rename(&old, world.local()).expect("moved");
    assert_eq!(world.try_open(7).await.expect_err("a fork").kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn keys_are_listed_once_though_each_node_has_them() {
    let world = World::with_blocks().await;
    let zstor = world.open().await;
    let mut keys: Vec<_> = zstor.blocks().keys().try_collect().await.expect("listed");
    keys.sort();
    assert_eq!(keys, (0..10).map(key).collect::<Vec<_>>());
}

#[tokio::test]
async fn any_two_nodes_may_be_lost_between_two_starts() {
    for (a, b) in [(0, 1), (2, 5), (3, 4)] {
        let world = World::with_blocks().await;
        fs::remove_dir_all(world.node(a)).expect("removed");
        fs::remove_dir_all(world.node(b)).expect("removed");
        let zstor = world.open().await;
        assert_eq!(lost(&zstor), [a.to_string(), b.to_string()]);
        assert_whole(&zstor).await;
        let error = zstor.blocks().put(&key(77), block(77)).await.expect_err("fewer than k + 1 are there");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        zstor.close().await.expect("those that are there");
        assert!(!world.node(a).exists(), "a lost node is not made anew");
    }
}

#[tokio::test]
async fn one_lost_node_stops_neither_reading_nor_writing() {
    let world = World::with_blocks().await;
    fs::remove_dir_all(world.node(3)).expect("removed");
    let zstor = world.open().await;
    zstor.blocks().put(&key(10), block(10)).await.expect("k + 1 are there");
    zstor.blocks().flush().await.expect("and durable");
    assert_whole(&zstor).await;
}

/// What a lost node has of a deleted block is nothing when it is back, over any number of starts.
#[tokio::test]
async fn what_is_deleted_without_a_node_does_not_come_back_with_it() {
    let world = World::with_blocks().await;
    let away = world.dir.path().join("away");
    fs::rename(world.node(2), &away).expect("moved");
    let zstor = world.open().await;
    for n in 0..4 {
        zstor.blocks().delete(&key(n)).await.expect("one may be away");
    }
    zstor.blocks().put(&key(3), block(3)).await.expect("put again");
    zstor.blocks().flush().await.expect("flushed");
    zstor.close().await.expect("closed");
    drop(zstor);
    world.open().await.close().await.expect("closed");
    fs::rename(&away, world.node(2)).expect("moved");
    // What was dropped may have its directories a moment longer.
    let zstor = again(&world).await;
    for n in 0..3 {
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("read"), None);
    }
    assert_eq!(zstor.blocks().get(&key(3)).await.expect("read"), Some(block(3)));
    let mut keys: Vec<_> = zstor.blocks().keys().try_collect().await.expect("listed");
    keys.sort();
    assert_eq!(keys, (3..10).map(key).collect::<Vec<_>>());
}

#[tokio::test]
async fn more_lost_nodes_stop_the_start_with_their_names() {
    let world = World::with_blocks().await;
    for n in [0, 2, 5] {
        fs::remove_dir_all(world.node(n)).expect("removed");
    }
    let error = world.try_open(7).await.expect_err("too few");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let told = format!("{error:#}");
    for n in [0, 2, 5] {
        assert!(told.contains(world.node(n).to_str().expect("UTF-8")), "{told}");
    }
    assert!(!told.contains(world.node(1).to_str().expect("UTF-8")), "{told}");
}

/// What is written into a directory that was removed is kept nowhere, though each write succeeds.
#[tokio::test]
async fn nodes_that_go_while_the_store_is_open_are_found_when_it_writes() {
    let world = World::with_blocks().await;
    let zstor = world.open().await;
    fs::remove_dir_all(world.node(1)).expect("removed");
    zstor.blocks().put(&key(10), block(10)).await.expect("k + 1 are there");
    zstor.blocks().flush().await.expect("and durable");
    assert_eq!(lost(&zstor), ["1"]);
    // Another that came to its place is not it.
    fs::rename(world.node(4), world.node(1)).expect("moved");
    // At once: whoever puts may yet keep it elsewhere.
    zstor.blocks().put(&key(11), block(11)).await.expect_err("k are left");
    assert_eq!(lost(&zstor), ["1", "4"]);
    assert_whole(&zstor).await;
    zstor.close().await.expect("those that are there");
    drop(zstor);
    fs::rename(world.node(1), world.node(4)).expect("moved back");
    let zstor = world.open().await;
    assert_eq!(lost(&zstor), ["1"]);
    assert_eq!(zstor.blocks().get(&key(10)).await.expect("read"), Some(block(10)));
}

/// A directory that went and came back between a deletion and its flush had the shards again, and nobody owed it their
/// deletion: the other nodes had flushed it, and so had this one by then.
#[tokio::test]
async fn what_is_deleted_does_not_come_back_with_a_node_that_lost_the_deletion() {
    let world = World::with_blocks().await;
    let (gone, before) = (world.dir.path().join("gone"), world.dir.path().join("before"));
    copy_all(&world.node(1), &before);
    let zstor = world.open().await;
    for n in 0..4 {
        zstor.blocks().delete(&key(n)).await.expect("deleted");
    }
    zstor.blocks().put(&key(3), block(3)).await.expect("put again");
    fs::rename(world.node(1), &gone).expect("moved");
    zstor.blocks().put(&key(10), block(10)).await.expect("k + 1 are there");
    assert_eq!(lost(&zstor), ["1"]);
    fs::rename(&before, world.node(1)).expect("as it was on its disk");
    until(|| lost(&zstor).is_empty()).await;
    let node = zstor.nodes().into_iter().find(|node| node.name() == "1").expect("a node");
    let held = async || {
        let keys: Vec<_> = node.segments().expect("it is there").keys().try_collect().await.expect("listed");
        // The heads are another.
        keys.len() - 1
    };
    let back = held().await;
    assert!(back <= 8, "{} deleted blocks have a shard again", back - 8);
    zstor.blocks().flush().await.expect("on the others");
    at_full_strength(&zstor, 8).await;
    zstor.close().await.expect("closed");
    drop(node);
    drop(zstor);
    let zstor = world.open().await;
    for n in 0..3 {
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("read"), None);
    }
    assert_whole_from(&zstor, 3).await;
}

/// The place of a disk that is not mounted is an empty directory: shards would fill the disk below it.
#[tokio::test]
async fn an_empty_directory_is_taken_only_if_somebody_says_so() {
    let world = World::with_blocks().await;
    fs::remove_dir_all(world.node(2)).expect("removed");
    fs::create_dir(world.node(2)).expect("made");
    let zstor = world.open().await;
    assert_eq!(lost(&zstor), ["2"]);
    zstor.close().await.expect("closed");
    drop(zstor);
    assert_eq!(fs::read_dir(world.node(2)).expect("listed").count(), 0);
    fs::write(world.node(2).join("muxfs-node"), "").expect("written");
    let zstor = world.open().await;
    // What was dropped may have its directories a moment longer.
    until(|| lost(&zstor).is_empty()).await;
    assert_whole(&zstor).await;
}

/// A disk that is taken out for a while: what was written meanwhile comes to it when it is back, by itself.
#[tokio::test]
async fn a_node_that_was_removed_and_restored_is_back_by_itself() {
    let world = World::with_blocks().await;
    let zstor = world.open().await;
    let away = world.dir.path().join("away");
    for (round, n) in [(0, 1), (1, 4), (2, 1)] {
        fs::rename(world.node(n), &away).expect("moved");
        zstor.blocks().put(&key(10 + round), block(10 + round)).await.expect("k + 1 are there");
        zstor.blocks().flush().await.expect("and durable");
        assert_eq!(lost(&zstor), [n.to_string()]);
        fs::rename(&away, world.node(n)).expect("moved back");
        at_full_strength(&zstor, 11 + usize::from(round)).await;
    }
    zstor.blocks().flush().await.expect("on all");
    zstor.close().await.expect("closed");
    drop(zstor);
    // Without two that were always there it takes those that came back.
    fs::remove_dir_all(world.node(2)).expect("removed");
    fs::remove_dir_all(world.node(3)).expect("removed");
    let zstor = world.open().await;
    assert_whole(&zstor).await;
    for n in 10..13 {
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("read"), Some(block(n)));
    }
}

/// A disk that was lost for good: an empty mark in a new one is all that it takes.
#[tokio::test]
async fn a_node_that_was_replaced_is_filled_by_itself() {
    let world = World::with_blocks().await;
    let zstor = world.open().await;
    fs::remove_dir_all(world.node(2)).expect("removed");
    zstor.blocks().put(&key(10), block(10)).await.expect("k + 1 are there");
    zstor.blocks().flush().await.expect("and durable");
    assert_eq!(lost(&zstor), ["2"]);
    fs::create_dir(world.node(2)).expect("made");
    // The place of a disk that is not mounted yet.
    until(|| lost(&zstor) == ["2"] && zstor.nodes()[2].lost().is_some_and(|why| why.contains("there is no file")))
        .await;
    fs::write(world.node(2).join("muxfs-node"), "").expect("written");
    at_full_strength(&zstor, 11).await;
    assert_whole(&zstor).await;
}

#[tokio::test]
async fn a_node_that_was_missing_at_the_start_is_used_when_it_comes() {
    let world = World::with_blocks().await;
    let away = world.dir.path().join("away");
    fs::rename(world.node(5), &away).expect("moved");
    let zstor = world.open().await;
    assert_eq!(lost(&zstor), ["5"]);
    zstor.blocks().put(&key(10), block(10)).await.expect("k + 1 are there");
    zstor.close().await.expect("closed");
    drop(zstor);
    // What it missed then nobody knows any more.
    let zstor = world.open().await;
    assert_eq!(lost(&zstor), ["5"]);
    fs::rename(&away, world.node(5)).expect("moved back");
    at_full_strength(&zstor, 11).await;
}

#[tokio::test]
async fn who_only_looks_takes_no_node_that_comes() {
    let world = World::with_blocks().await;
    fs::remove_dir_all(world.node(2)).expect("removed");
    fs::create_dir(world.node(2)).expect("made");
    fs::write(world.node(2).join("muxfs-node"), "").expect("written");
    let options = ZstorOptions { access: Access::Look, ..world.options() };
    let zstor = Zstor::open(&options, &RootKey::new([7; 32]), &world.local(), &muxfs::testing::env()).await;
    let zstor = zstor.expect("opens");
    assert_eq!(lost(&zstor), ["2"]);
    assert_whole(&zstor).await;
    assert_eq!(fs::read(world.node(2).join("muxfs-node")).expect("read"), b"");
    assert_eq!(fs::read_dir(world.node(2)).expect("listed").count(), 1);
}

/// Such nodes would be lost together, and each would take the other's place.
#[tokio::test]
async fn two_nodes_of_one_directory_are_refused() {
    let open = async |world: &World, options: &ZstorOptions| {
        let opened = Zstor::open(options, &RootKey::new([7; 32]), &world.local(), &muxfs::testing::env()).await;
        let error = opened.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let told = format!("{error:#}");
        assert!(told.contains("\"1\"") && told.contains("\"3\""), "{told}");
    };
    let world = World::new();
    let mut options = world.options();
    options.nodes[3].place = Place::Dir { path: world.dir.path().join("./node1"), is_made: true };
    open(&world, &options).await;
    assert!(!world.node(0).exists(), "before anything is made");
    let world = World::with_blocks().await;
    std::os::unix::fs::symlink(world.node(1), world.dir.path().join("link")).expect("linked");
    let mut options = world.options();
    options.nodes[3].place = Place::Dir { path: world.dir.path().join("link"), is_made: true };
    open(&world, &options).await;
}

#[tokio::test]
async fn a_wrong_key_is_told_from_damage_wherever_it_is_found() {
    let world = World::with_blocks().await;
    assert_eq!(world.try_open(8).await.expect_err("wrong").kind(), ErrorKind::BadKey);
    // On another machine only the nodes can tell.
    fs::remove_dir_all(world.local()).expect("removed");
    fs::create_dir(world.local()).expect("made");
    assert_eq!(world.try_open(8).await.expect_err("wrong").kind(), ErrorKind::BadKey);
    // Nor do marks have to be believed: blocks under another key are not taken for none.
    for n in 0..6 {
        fs::write(world.node(n).join("muxfs-node"), "").expect("written");
    }
    assert_eq!(world.try_open(8).await.expect_err("wrong").kind(), ErrorKind::BadKey);
}

#[tokio::test]
async fn another_machine_finds_the_blocks_and_makes_no_node_anew() {
    let world = World::with_blocks().await;
    fs::remove_dir_all(world.local()).expect("removed");
    fs::create_dir(world.local()).expect("made");
    fs::remove_dir_all(world.node(0)).expect("removed");
    assert!(holds_data(&world.options().nodes, &world.local(), &muxfs::testing::env()).await);
    // A collection would remove every block, since no name led to any.
    let error = world.try_open(7).await.expect_err("the names are elsewhere");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let store = world.local().join("store");
    assert!(format!("{error:#}").contains(&format!("touch {}", store.display())));
    fs::write(&store, "").expect("told to begin anew");
    let zstor = world.open().await;
    assert_eq!(lost(&zstor), ["0"]);
    assert_whole(&zstor).await;
}

#[tokio::test]
async fn a_first_start_that_was_broken_off_goes_on() {
    let world = World::new();
    assert!(!holds_data(&world.options().nodes, &world.local(), &muxfs::testing::env()).await);
    world.open().await.close().await.expect("closed");
    // As a crash leaves it that came before the last two were made: no head is anywhere.
    fs::remove_dir_all(world.local()).expect("removed");
    fs::create_dir(world.local()).expect("made");
    for n in 0..4 {
        fs::remove_dir_all(world.node(n).join("blocks")).expect("removed");
        fs::remove_dir_all(world.node(n).join("index")).expect("removed");
    }
    fs::remove_dir_all(world.node(4)).expect("removed");
    fs::remove_dir_all(world.node(5)).expect("removed");
    let zstor = world.open().await;
    assert!(lost(&zstor).is_empty());
}

#[tokio::test]
async fn a_directory_that_is_named_and_not_there_is_not_made() {
    let world = World::new();
    let mut options = world.options();
    let Place::Dir { is_made, .. } = &mut options.nodes[2].place else { panic!("a directory") };
    *is_made = false;
    let opened = Zstor::open(&options, &RootKey::new([7; 32]), &world.local(), &muxfs::testing::env()).await;
    let error = opened.expect_err("its disk may not be mounted");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(format!("{error:#}").contains(world.node(2).to_str().expect("UTF-8")));
}

#[tokio::test]
async fn a_node_under_another_name_is_not_used() {
    let world = World::with_blocks().await;
    let mut options = world.options();
    options.nodes[0].name = "first".into();
    let opened = Zstor::open(&options, &RootKey::new([7; 32]), &world.local(), &muxfs::testing::env()).await;
    let zstor = opened.expect("five are there");
    assert!(zstor.nodes()[0].lost().expect("lost").contains("\"0\""));
    assert_whole(&zstor).await;
}

#[tokio::test]
async fn who_only_looks_changes_nothing() {
    let world = World::with_blocks().await;
    let all = || {
        let mut files = Vec::new();
        let mut dirs = vec![world.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() { dirs.push(path) } else { files.push((fs::read(&path).expect("read"), path)) }
            }
        }
        files.sort();
        files
    };
    let before = all();
    let options = ZstorOptions { access: Access::Look, ..world.options() };
    let zstor = Zstor::open(&options, &RootKey::new([7; 32]), &world.local(), &muxfs::testing::env()).await;
    let zstor = zstor.expect("opens");
    assert_whole(&zstor).await;
    zstor.blocks().put(&key(20), block(20)).await.expect("in memory");
    zstor.close().await.expect("closed");
    assert!(all() == before);
}
