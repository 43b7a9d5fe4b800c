//! Goal: nodes come, are drained and go while a store is open; what was put is read at every moment, ends where it belongs,
//! and a start after a stop in the middle goes on with it.
//! Method: directories as nodes, a reader that never stops, and nodes named anew, as a configuration would that was changed.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use muxfs::{
    BlockKey, ErrorKind, Name,
    heads::{Heads as _, Swap},
};
use muxfs_zstor::{Node, Place, RootKey, Zstor, ZstorOptions};
use tempfile::TempDir;

const BLOCKS: u8 = 40;
/// How long to wait for what must happen, on a slow machine.
const PATIENCE: Duration = Duration::from_mins(5);

struct World(TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().expect("a directory"));
        fs::create_dir(world.local()).expect("made");
        world
    }

    fn local(&self) -> PathBuf {
        self.0.path().join("local")
    }

    fn dir(&self, n: usize) -> PathBuf {
        self.0.path().join(format!("node{n}"))
    }

    /// As `muxfs zstor node add` marks what is to be a node.
    fn offer(&self, n: usize) {
        fs::create_dir_all(self.dir(n)).expect("made");
        fs::write(self.dir(n).join("muxfs-node"), "").expect("marked");
    }

    fn node(&self, n: usize) -> Node {
        Node::new(format!("{n}"), Place::Dir { path: self.dir(n), is_made: n < 6 })
    }

    fn drained(&self, n: usize) -> Node {
        Node { is_drained: true, ..self.node(n) }
    }

    fn nodes(&self, numbers: impl IntoIterator<Item = usize>) -> Vec<Node> {
        numbers.into_iter().map(|n| self.node(n)).collect()
    }

    /// Opens it when nobody has its directories any more: what may still be writing in the background has them until it ends.
    async fn open(&self, nodes: Vec<Node>) -> Zstor {
        let (options, env) = (ZstorOptions::new(4, 2, nodes), muxfs::testing::env());
        let begun = Instant::now();
        loop {
            match Zstor::open(&options, &RootKey::new([7; 32]), &self.local(), &env).await {
                Ok(zstor) if zstor.nodes().iter().all(|node| node.lost().is_none()) => return zstor,
                Ok(_) => assert!(begun.elapsed() < PATIENCE, "a node is lost"),
                Err(error) => {
                    assert!(error.kind() == ErrorKind::Unavailable && begun.elapsed() < PATIENCE, "{error:#}");
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// A store on six nodes, with blocks.
    async fn with_blocks(&self) -> Zstor {
        let zstor = self.open(self.nodes(0..6)).await;
        for n in 0..BLOCKS {
            zstor.blocks().put(&key(n), block(n)).await.expect("put");
        }
        zstor.blocks().flush().await.expect("flushed");
        zstor
    }
}

fn key(n: u8) -> BlockKey {
    BlockKey::new(&[n; 34]).expect("a key")
}

fn block(n: u8) -> Bytes {
    vec![n; 5000].into()
}

async fn assert_readable(zstor: &Zstor) {
    for n in 0..BLOCKS {
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("read"), Some(block(n)), "block {n}");
    }
}

/// Waits until everything is where it belongs.
async fn settled(zstor: &Zstor) {
    let begun = Instant::now();
    while !zstor.settling().is_settled {
        assert!(begun.elapsed() < PATIENCE, "it does not settle: {:?}", zstor.settling());
        tokio::task::yield_now().await;
    }
}

async fn swap(zstor: &Zstor, name: &Name, head: &'static str) {
    let before = zstor.heads().load(name).await.expect("loads").map(|(_, version)| version);
    let swap = zstor.heads().swap(name, before.as_ref(), head.into()).await.expect("enough nodes take it");
    assert!(matches!(swap, Swap::Done(_)), "{swap:?}");
}

async fn blocks_left(zstor: &Zstor, name: &str) -> Option<u64> {
    let status = zstor.status().await;
    status.nodes.into_iter().find(|node| node.name == name).expect("a node").blocks_left
}

/// The blocks that a node holds, its heads not counted.
fn shards(zstor: &Zstor, name: &str) -> u64 {
    let node = zstor.nodes().into_iter().find(|node| node.name() == name).expect("a node");
    node.segments().expect("it is there").stats().block_count
}

/// A node comes, another is drained and goes, under a reader; a head that was swapped before and one that is after are
/// found by a machine that has the nodes of the end and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go_under_a_reader() {
    let world = World::new();
    let zstor = Arc::new(world.with_blocks().await);
    let is_done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (zstor, is_done) = (Arc::clone(&zstor), Arc::clone(&is_done));
        async move {
            while !is_done.load(Ordering::Relaxed) {
                assert_readable(&zstor).await;
            }
        }
    });
    let name = Name::new(b"main").expect("a name");
    swap(&zstor, &name, "before").await;

    world.offer(6);
    zstor.set_nodes(&world.nodes(0..7)).await.expect("one comes");
    settled(&zstor).await;
    assert!(shards(&zstor, "6") > 1, "it has its share");
    assert!(zstor.settling().filling.is_empty());

    let nodes: Vec<_> = world.nodes(1..7).into_iter().chain([world.drained(0)]).collect();
    let early = zstor.set_nodes(&world.nodes(1..7)).await.expect_err("it is not drained");
    assert_eq!(early.kind(), ErrorKind::NotEmpty, "{early:#}");
    zstor.set_nodes(&nodes).await.expect("one is drained");
    settled(&zstor).await;
    assert_eq!(blocks_left(&zstor, "0").await, Some(0));
    zstor.set_nodes(&world.nodes(1..7)).await.expect("one goes");
    assert_eq!(zstor.nodes().len(), 6);
    settled(&zstor).await;

    is_done.store(true, Ordering::Relaxed);
    reader.await.expect("all was read at every moment");
    swap(&zstor, &name, "after").await;
    Arc::into_inner(zstor).expect("nobody else has it").close().await.expect("closed");

    fs::remove_dir_all(world.dir(0)).expect("it may go");
    fs::remove_dir_all(world.local()).expect("the machine is lost");
    fs::create_dir(world.local()).expect("made");
    let zstor = world.open(world.nodes(1..7)).await;
    assert_eq!(zstor.heads().load(&name).await.expect("loads").map(|(head, _)| head), Some("after".into()));
    assert_readable(&zstor).await;
    zstor.close().await.expect("closed");
}

/// The first swap after a node went reached as few nodes as may be before: a head outlives the nodes that kept it.
#[tokio::test]
async fn heads_are_where_they_are_looked_for_when_a_node_goes() {
    let world = World::new();
    let zstor = world.with_blocks().await;
    let name = Name::new(b"main").expect("a name");
    // One node misses the edition, and then one goes that has it.
    fs::rename(world.dir(5), world.0.path().join("away")).expect("its disk is away");
    swap(&zstor, &name, "head").await;
    fs::rename(world.0.path().join("away"), world.dir(5)).expect("its disk is back");
    world.offer(6);
    zstor.set_nodes(&world.nodes(0..7)).await.expect("one comes");
    let nodes: Vec<_> = world.nodes(1..7).into_iter().chain([world.drained(0)]).collect();
    zstor.set_nodes(&nodes).await.expect("one is drained");
    settled(&zstor).await;
    zstor.set_nodes(&world.nodes(1..7)).await.expect("it goes");
    zstor.close().await.expect("closed");
    drop(zstor);
    fs::remove_dir_all(world.local()).expect("the machine is lost");
    fs::create_dir(world.local()).expect("made");
    let zstor = world.open(world.nodes(1..7)).await;
    assert_eq!(zstor.heads().load(&name).await.expect("loads").map(|(head, _)| head), Some("head".into()));
    zstor.close().await.expect("closed");
}

/// What is changed while no server runs, or was broken off by its end, is gone on with by the next start: nobody asks it to.
#[tokio::test]
async fn a_start_goes_on_with_what_is_to_be_moved() {
    let world = World::new();
    let zstor = world.with_blocks().await;
    settled(&zstor).await;
    world.offer(6);
    let nodes = || world.nodes(1..7).into_iter().chain([world.drained(0)]).collect::<Vec<_>>();
    zstor.set_nodes(&nodes()).await.expect("one comes, one is drained");
    // As a server that is killed, as far as one process can be.
    drop(zstor);
    let zstor = world.open(nodes()).await;
    settled(&zstor).await;
    assert_eq!(blocks_left(&zstor, "0").await, Some(0));
    assert_readable(&zstor).await;
    zstor.close().await.expect("closed");
    drop(zstor);
    // And is not looked at again where nothing changed.
    let zstor = world.open(nodes()).await;
    assert!(zstor.settling().is_settled);
    zstor.close().await.expect("closed");
}

/// A node that is lost for good goes without being drained, and what it had is made anew from parity.
#[tokio::test]
async fn a_lost_node_goes() {
    let world = World::new();
    let zstor = world.with_blocks().await;
    world.offer(6);
    zstor.set_nodes(&world.nodes(0..7)).await.expect("one comes");
    settled(&zstor).await;
    fs::remove_dir_all(world.dir(3)).expect("lost");
    assert_readable(&zstor).await;
    // Whoever asks it finds out.
    assert!(zstor.status().await.nodes.iter().any(|node| node.name == "3" && node.lost.is_some()));
    zstor.set_nodes(&world.nodes([0, 1, 2, 4, 5, 6])).await.expect("it goes");
    settled(&zstor).await;
    let status = zstor.status().await;
    assert_eq!((status.nodes.len(), status.repairs_waiting, status.deletions_waiting), (6, 0, 0));
    assert_eq!(status.loss.spare, Some(2));
    for node in ["0", "1", "2", "4", "5", "6"] {
        // Each has a shard of every block, and some heads.
        assert!(shards(&zstor, node) > u64::from(BLOCKS), "{node}");
    }
    assert_readable(&zstor).await;
    zstor.close().await.expect("closed");
}

/// A node that was removed as lost and is named again by a later start has shards of what was deleted since. They are listed,
/// as garbage is, and go with it; what was kept needs none of them.
#[tokio::test]
async fn what_a_removed_node_brings_back_is_garbage() {
    let world = World::new();
    let zstor = world.with_blocks().await;
    world.offer(6);
    zstor.set_nodes(&world.nodes(0..7)).await.expect("one comes");
    settled(&zstor).await;
    let away = world.0.path().join("away");
    fs::rename(world.dir(3), &away).expect("lost");
    assert!(zstor.status().await.nodes.iter().any(|node| node.name == "3" && node.lost.is_some()));
    let without = [0, 1, 2, 4, 5, 6];
    zstor.set_nodes(&world.nodes(without)).await.expect("it goes");
    settled(&zstor).await;
    let deleted: Vec<_> = (0..10).map(key).collect();
    for key in &deleted {
        zstor.blocks().delete(key).await.expect("deleted");
    }
    zstor.blocks().flush().await.expect("flushed");
    zstor.close().await.expect("closed");
    drop(zstor);
    fs::rename(&away, world.dir(3)).expect("it is found again");
    let zstor = world.open(world.nodes(0..7)).await;
    for key in &deleted {
        // One shard is no block: it is not given.
        assert!(!zstor.blocks().has(key).await.expect("told"));
    }
    // What a collection goes by.
    let listed: BTreeSet<_> = zstor.blocks().keys().try_collect().await.expect("listed");
    let garbage: Vec<_> = deleted.iter().filter(|key| listed.contains(key)).collect();
    assert!(!garbage.is_empty(), "it had shards of them");
    for key in garbage {
        zstor.blocks().delete(key).await.expect("collected");
    }
    zstor.blocks().flush().await.expect("flushed");
    for key in &deleted {
        assert_eq!(zstor.blocks().get(key).await.expect("read"), None);
    }
    for n in 10..BLOCKS {
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("read"), Some(block(n)));
    }
    // The next walk finds nothing that cannot be moved.
    zstor.set_nodes(&world.nodes(0..7)).await.expect("as they are");
    settled(&zstor).await;
    zstor.close().await.expect("closed");
}

/// What cannot be is refused, with the reason, and nothing is changed.
#[tokio::test]
async fn what_cannot_be_a_node_is_refused() {
    let world = World::new();
    let zstor = world.with_blocks().await;
    let refused = async |nodes: Vec<Node>, kind, why: &str| {
        let error = zstor.set_nodes(&nodes).await.expect_err(why);
        assert_eq!(error.kind(), kind, "{error:#}");
        assert!(format!("{error:#}").contains(why), "{error:#}");
        assert_eq!(zstor.nodes().len(), 6);
    };
    let with = |node: Node| world.nodes(0..6).into_iter().chain([node]).collect::<Vec<_>>();
    fs::create_dir(world.dir(6)).expect("made");
    refused(with(world.node(6)), ErrorKind::Unavailable, "touch").await;
    refused(with(world.node(7)), ErrorKind::Unavailable, "touch").await;
    let same = Place::Dir { path: world.dir(5).join("../node5"), is_made: false };
    refused(with(Node::new("other", same)), ErrorKind::InvalidArgument, "one place").await;
    let five = world.nodes(0..5).into_iter().chain([world.drained(5)]).collect();
    refused(five, ErrorKind::InvalidArgument, "take 6 nodes, and there are 5").await;
    let moved = Node { place: Place::Dir { path: world.dir(6), is_made: false }, ..world.node(5) };
    let moved = world.nodes(0..5).into_iter().chain([moved]).collect();
    refused(moved, ErrorKind::InvalidArgument, "restart").await;
    // One that has shards of another time.
    let other = World::new();
    let theirs = other.with_blocks().await;
    theirs.close().await.expect("closed");
    drop(theirs);
    fs::write(other.dir(0).join("muxfs-node"), "").expect("marked anew");
    let place = Place::Dir { path: other.dir(0), is_made: false };
    refused(with(Node::new("6", place)), ErrorKind::NotEmpty, "empty it first").await;
    let theirs = Node::new("6", Place::Dir { path: other.dir(1), is_made: false });
    refused(with(theirs), ErrorKind::Unavailable, "it is the node").await;
    assert_readable(&zstor).await;
    zstor.close().await.expect("closed");
}
