//! Goal: a store over 0-db namespaces loses nothing while at most m of them are lost, whatever those do; a namespace that
//! was emptied, or is not there, is a lost node; and no operation ever sends `FLUSH`.
//! Method: doubles of six servers in this process, with faults; and a real server where `MUXFS_ZDB` names one.

mod double;

use std::{fs, time::Instant};

use bytes::Bytes;
use double::{Double, Fault};
use futures_util::TryStreamExt as _;
use muxfs::{BlockKey, ErrorKind, Result, testing::Clock};
use muxfs_zstor::{KeyRing, Node, Password, Place, RootKey, ZdbAddress, ZdbPlace, Zstor, ZstorOptions};
use tempfile::TempDir;

const NAMESPACE: &str = "muxfs";

struct World {
    local: TempDir,
    servers: Vec<Double>,
}

impl World {
    async fn new() -> Self {
        let mut servers = Vec::new();
        for _ in 0..6 {
            servers.push(Double::start().await);
        }
        Self { local: tempfile::tempdir().expect("a directory"), servers }
    }

    fn options(&self) -> ZstorOptions {
        let node = |(n, server): (usize, &Double)| Node {
            name: n.to_string(),
            group: None,
            is_drained: false,
            place: Place::Zdb(ZdbPlace {
                address: ZdbAddress::Tcp(server.address),
                namespace: NAMESPACE.into(),
                password: Some(Password::new("secret")),
                is_made: true,
            }),
        };
        ZstorOptions::new(4, 2, self.servers.iter().enumerate().map(node).collect())
    }

    async fn try_open(&self, key: u8) -> Result<Zstor> {
        Zstor::open(&self.options(), &RootKey::new([key; 32]), self.local.path(), &muxfs::testing::env()).await
    }

    async fn with_blocks() -> (Self, Zstor) {
        let world = Self::new().await;
        let zstor = world.try_open(7).await.expect("opens");
        for n in 0..10 {
            zstor.blocks().put(&key(n), block(n)).await.expect("put");
        }
        zstor.blocks().flush().await.expect("flushed");
        (world, zstor)
    }

    /// Waits until each namespace has the mark and a shard of so many blocks.
    async fn at_full_strength(&self, blocks: usize) {
        while self.servers.iter().any(|server| server.count(NAMESPACE) != blocks + 1) {
            tokio::task::yield_now().await;
        }
    }
}

fn key(n: u8) -> BlockKey {
    BlockKey::new(&[n; 34]).expect("a key")
}

fn block(n: u8) -> Bytes {
    vec![n; 5000].into()
}

async fn assert_whole(zstor: &Zstor) {
    for n in 0..10 {
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("read"), Some(block(n)));
    }
}

fn lost(zstor: &Zstor) -> Vec<String> {
    zstor.nodes().iter().filter(|node| node.lost().is_some()).map(|node| node.name().to_owned()).collect()
}

#[tokio::test]
async fn whatever_two_servers_do_nothing_is_lost() {
    let (world, zstor) = World::with_blocks().await;
    for fault in [Fault::Garbage, Fault::Cut, Fault::Lie, Fault::Deny] {
        world.servers[1].set_fault(fault);
        world.servers[4].set_fault(fault);
        assert_whole(&zstor).await;
        world.servers[1].set_fault(Fault::None);
        world.servers[4].set_fault(Fault::None);
    }
    zstor.close().await.expect("closed");
    drop(zstor);
    let zstor = world.try_open(7).await.expect("opens again");
    assert_whole(&zstor).await;
    let mut keys: Vec<_> = zstor.blocks().keys().try_collect().await.expect("listed");
    keys.sort();
    assert_eq!(keys, (0..10).map(key).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_that_was_away_gets_what_it_missed() {
    let (mut world, zstor) = World::with_blocks().await;
    world.servers[2].stop();
    zstor.blocks().put(&key(10), block(10)).await.expect("k + 1 are there");
    zstor.blocks().flush().await.expect("and durable");
    assert_eq!(lost(&zstor), ["2"]);
    world.servers[2].restart().await;
    world.at_full_strength(11).await;
    assert!(lost(&zstor).is_empty());
}

/// A server that came back empty has no mark: nothing is written there, until somebody makes an empty one.
#[tokio::test]
async fn a_namespace_that_was_emptied_is_lost_until_somebody_marks_it() {
    let (world, zstor) = World::with_blocks().await;
    world.servers[3].empty(NAMESPACE);
    zstor.blocks().flush().await.expect("the others have it");
    assert_eq!(lost(&zstor), ["3"]);
    zstor.blocks().put(&key(10), block(10)).await.expect("k + 1 are there");
    assert_whole(&zstor).await;
    assert_eq!(world.servers[3].count(NAMESPACE), 0);
    world.servers[3].set(NAMESPACE, b"muxfs-node", b"");
    world.at_full_strength(11).await;
    assert!(lost(&zstor).is_empty());
}

#[tokio::test]
async fn wrong_keys_passwords_and_places_are_told() {
    let (world, zstor) = World::with_blocks().await;
    zstor.close().await.expect("closed");
    drop(zstor);
    assert_eq!(world.try_open(8).await.expect_err("wrong").kind(), ErrorKind::BadKey);
    let open = async |options: &ZstorOptions| {
        Zstor::open(options, &RootKey::new([7; 32]), world.local.path(), &muxfs::testing::env()).await
    };
    let mut options = world.options();
    let Place::Zdb(place) = &mut options.nodes[0].place else { panic!("a namespace") };
    place.password = Some(Password::new("other"));
    let opened = open(&options).await.expect("five are there");
    let why = opened.nodes()[0].lost().expect("it is refused");
    assert!(why.contains("Access denied") && !why.contains("other"), "{why}");
    assert!(!format!("{options:?} {:?}", options.nodes).contains("secret"));
    drop(opened);
    options.nodes[1].place = options.nodes[2].place.clone();
    let error = open(&options).await.expect_err("two nodes are one namespace");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

/// A password that was changed on the server, and in the configuration, was used by the next start alone.
#[tokio::test]
async fn a_password_that_is_another_now_is_used_by_the_next_connection() {
    let (mut world, zstor) = World::with_blocks().await;
    world.servers[2].set_password(NAMESPACE, "another");
    world.servers[2].stop();
    world.servers[2].restart().await;
    zstor.blocks().put(&key(10), block(10)).await.expect("k + 1 are there");
    assert_eq!(lost(&zstor), ["2"]);
    let mut nodes = zstor.named_nodes();
    let Place::Zdb(place) = &mut nodes[2].place else { panic!("a namespace") };
    place.password = Some(Password::new("another"));
    zstor.set_nodes(&nodes).await.expect("the same nodes");
    world.at_full_strength(11).await;
    assert!(lost(&zstor).is_empty() && zstor.named_nodes() == nodes);
}

/// A node that is full refuses the shards under the new key, and nobody is owed them: what it has under the older one stays
/// on all nodes until it takes them.
#[tokio::test]
async fn a_key_is_replaced_once_all_servers_have_room() {
    let world = World::new().await;
    let file = world.local.path().join("key");
    RootKey::make(&file, &muxfs::testing::env()).expect("made");
    let local = world.local.path().join("mount");
    fs::create_dir(&local).expect("made");
    let options = ZstorOptions { key_file: Some(file.clone()), ..world.options() };
    let ring = || KeyRing::load(&file).expect("readable").expect("there");
    // Draws other keys than the file was made with.
    let env = Clock::default().env(1);
    let zstor = Zstor::open(&options, ring(), &local, &env).await.expect("opens");
    for n in 0..10 {
        zstor.blocks().put(&key(n), block(n)).await.expect("put");
    }
    zstor.blocks().flush().await.expect("flushed");
    world.at_full_strength(10).await;

    world.servers[5].set_fault(Fault::Full);
    assert!(zstor.rotate().await.expect("drawn"));
    zstor.go_on_rotating();
    let mut rotation = zstor.rotation();
    let left = rotation.wait_for(|now| now.left.is_some()).await.expect("told").left.clone();
    assert!(left.as_deref().is_some_and(|why| why.contains("No space left")), "{left:?}");
    assert!(world.servers.iter().all(|server| server.count(NAMESPACE) >= 11), "nothing went under the older key");
    assert_whole(&zstor).await;
    assert!(ring().has_older());

    world.servers[5].set_fault(Fault::None);
    zstor.rotate().await.expect("goes on");
    rotation.wait_for(|now| !now.is_under_way).await.expect("it ends");
    world.at_full_strength(10).await;
    zstor.close().await.expect("closed");
    drop(zstor);
    assert!(!ring().has_older());
    // A third of the servers is lost: the others have all of it under the new key.
    for server in [0, 1] {
        world.servers[server].empty(NAMESPACE);
    }
    let zstor = Zstor::open(&options, ring(), &local, &env).await.expect("opens");
    assert_whole(&zstor).await;
}

/// `FLUSH` erases a namespace.
#[tokio::test]
async fn no_operation_sends_flush() {
    let (mut world, zstor) = World::with_blocks().await;
    let blocks = zstor.blocks();
    blocks.get(&key(1)).await.expect("read");
    blocks.get_range(&key(1), 3..5).await.expect("read");
    blocks.has(&key(1)).await.expect("told");
    blocks.block_len(&key(1)).await.expect("told");
    blocks.delete(&key(1)).await.expect("deleted");
    blocks.flush().await.expect("flushed");
    blocks.keys().try_collect::<Vec<_>>().await.expect("listed");
    zstor.space()().expect("told");
    for node in zstor.nodes() {
        node.len().await.expect("told");
    }
    world.servers[0].stop();
    blocks.put(&key(11), block(11)).await.expect("put");
    blocks.flush().await.expect("flushed");
    world.servers[0].restart().await;
    world.at_full_strength(10).await;
    zstor.close().await.expect("closed");
    let commands: Vec<_> = world.servers.iter().flat_map(Double::commands).collect();
    assert!(commands.iter().any(|command| command == "SET") && commands.iter().any(|command| command == "SCAN"));
    assert!(!commands.iter().any(|command| command.to_ascii_uppercase().starts_with('F')), "{commands:?}");
}

/// The same over namespaces of a real server, made by its administrator: `MUXFS_ZDB=127.0.0.1:9900`. Leaves them there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_real_server() {
    let Ok(addresses) = std::env::var("MUXFS_ZDB") else {
        eprintln!("SKIPPED over_a_real_server: MUXFS_ZDB does not name a 0-db server");
        return;
    };
    let addresses: Vec<ZdbAddress> = addresses.split(',').map(|address| address.parse().expect("an address")).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let unique = dir.path().file_name().expect("a name").to_string_lossy().replace('.', "");
    let node = |n: usize| {
        let namespace = format!("muxfs-{unique}-{n}");
        let (address, password) = (addresses[n % addresses.len()].clone(), Some(Password::new("secret")));
        let place = Place::Zdb(ZdbPlace { address, namespace, password, is_made: true });
        Node { name: n.to_string(), group: None, place, is_drained: false }
    };
    let over_dirs = |n: usize| Node {
        name: n.to_string(),
        group: None,
        is_drained: false,
        place: Place::Dir { path: dir.path().join(format!("node{n}")), is_made: true },
    };
    let nodes: [(&str, Vec<Node>); 2] =
        [("0-db", (0..6).map(node).collect()), ("directories", (0..6).map(over_dirs).collect())];
    for (what, nodes) in nodes {
        let local = dir.path().join(what);
        fs::create_dir(&local).expect("made");
        let options = ZstorOptions::new(4, 2, nodes);
        let open = async || {
            Zstor::open(&options, &RootKey::new([7; 32]), &local, &muxfs::testing::env()).await.expect("opens")
        };
        let zstor = open().await;
        let mut dice = muxfs::testing::fault::Dice::new(1);
        let count = 128_u8;
        let blocks: Vec<Bytes> = (0..count).map(|_| dice.bytes(1 << 20).into()).collect();
        let start = Instant::now();
        for (n, block) in blocks.iter().enumerate() {
            zstor.blocks().put(&key(u8::try_from(n).expect("few")), block.clone()).await.expect("put");
        }
        zstor.blocks().flush().await.expect("flushed");
        let put = f64::from(count) / start.elapsed().as_secs_f64();
        let start = Instant::now();
        for (n, block) in blocks.iter().enumerate() {
            let got = zstor.blocks().get(&key(u8::try_from(n).expect("few"))).await.expect("read");
            assert!(got.as_ref() == Some(block), "block {n}");
        }
        let get = f64::from(count) / start.elapsed().as_secs_f64();
        eprintln!("six nodes of {what}: put {put:.0} MiB/s, get {get:.0} MiB/s");
        zstor.blocks().put(&BlockKey::new(&[1; 200]).expect("a key"), Bytes::new()).await.expect("an empty block");
        zstor.blocks().delete(&key(0)).await.expect("deleted");
        zstor.close().await.expect("closed");
        drop(zstor);
        let zstor = open().await;
        assert_eq!(zstor.blocks().get(&key(0)).await.expect("read"), None);
        let keys: Vec<_> = zstor.blocks().keys().try_collect().await.expect("listed");
        assert_eq!(keys.len(), usize::from(count));
        zstor.close().await.expect("closed");
    }
}
