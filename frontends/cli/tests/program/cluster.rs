//! A cluster through a bad day: `/zstor` on six storage nodes, each behind a link that can be cut, while files are put and read
//! all the time. Nodes are started anew one after the other, killed in pairs, cut off and stalled; one loses its disk.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use muxfs::testing::fault::Dice;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    PATIENCE, Server, World, number_of,
    zdb::{Client, node},
};

const NODE_COUNT: usize = 6;
/// How often a link that passes nothing looks whether it does again.
const POLL: Duration = Duration::from_millis(5);

/// What a link does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Passing {
    /// Passes them.
    All,
    /// Keeps connections, and passes nothing.
    Nothing,
    /// Breaks connections, and takes none.
    Broken,
}

/// A TCP link to a node, on an address of its own.
struct Link {
    addr: SocketAddr,
    passing: Arc<AtomicU8>,
}

impl Link {
    /// To a node that is where `to` says, now or later.
    fn new(ip: [u8; 4], to: SocketAddr) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((ip, 0))).expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let passing = Arc::new(AtomicU8::new(Passing::All as u8));
        let told = passing.clone();
        // Lives as long as the test's process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if told.load(Ordering::Relaxed) == Passing::Broken as u8 {
                    continue;
                }
                let Ok(server) = TcpStream::connect(to) else { continue };
                for (from, into) in [(&client, &server), (&server, &client)] {
                    let [from, into] = [from, into].map(|stream| stream.try_clone().expect("a descriptor"));
                    let told = told.clone();
                    thread::spawn(move || pass(from, into, &told));
                }
            }
        });
        Self { addr, passing }
    }

    fn set(&self, passing: Passing) {
        self.passing.store(passing as u8, Ordering::Relaxed);
    }
}

/// Passes bytes one way until either end is done or the link breaks.
fn pass(mut from: TcpStream, mut into: TcpStream, passing: &AtomicU8) {
    from.set_read_timeout(Some(POLL)).expect("set");
    into.set_nodelay(true).expect("set");
    let mut buffer = vec![0; 64 << 10];
    loop {
        match passing.load(Ordering::Relaxed) {
            now if now == Passing::Broken as u8 => break,
            now if now == Passing::Nothing as u8 => {
                thread::sleep(POLL);
                continue;
            }
            _ => {}
        }
        match from.read(&mut buffer) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Ok(len) if len > 0 && into.write_all(&buffer[..len]).is_ok() => {}
            _ => break,
        }
    }
    // Whatever is left of either, both ends find out.
    from.shutdown(Shutdown::Both).ok();
    into.shutdown(Shutdown::Both).ok();
}

/// Six nodes, and the server whose `/zstor` is on them.
struct Cluster {
    world: Arc<World>,
    nodes: Vec<Server>,
    /// Where each node listens, and under which directory it keeps what it has.
    places: Vec<(SocketAddr, String)>,
    links: Vec<Link>,
}

impl Cluster {
    fn new() -> Self {
        let world = World::by_default();
        let start = |n: usize| {
            let addr = format!("127.0.0.{}:0", n + 11);
            node(&world, &format!("node{n}"), &["--listen", &addr, "--namespace", "muxfs"])
        };
        let nodes: Vec<Server> = (0..NODE_COUNT).map(start).collect();
        let places: Vec<_> = nodes.iter().enumerate().map(|(n, node)| (node.addr("zdb"), format!("node{n}"))).collect();
        let ips = (101..).map(|last| [127, 0, 0, last]);
        let links: Vec<Link> = ips.zip(&places).map(|(ip, (addr, _))| Link::new(ip, *addr)).collect();
        let listed = links
            .iter()
            .enumerate()
            .map(|(n, link)| format!("    {{ zdb = \"{}\", namespace = \"muxfs\", name = \"n{n}\" }},\n", link.addr));
        let text = format!(
            "[[mount]]\nkind = \"zstor\"\nprefix = \"zstor\"\ndata = 4\nparity = 2\nnodes = [\n{}]\n",
            listed.collect::<String>()
        );
        let config = world.path("muxfs.toml");
        fs::write(&config, text).expect("written");
        Self { world: Arc::new(World { config: Some(config), ..world }), nodes, places, links }
    }

    /// Starts a node that has ended on what it had, at the address that it had.
    fn start(&mut self, n: usize) {
        let (addr, dir) = &self.places[n];
        self.nodes[n] = node(&self.world, dir, &["--listen", &addr.to_string(), "--namespace", "muxfs"]);
    }

    fn stop(&mut self, n: usize, signal: Signal) {
        let node = &mut self.nodes[n];
        kill_process(Pid::from_child(&node.child), signal).expect("signalled");
        node.child.wait().expect("a child");
    }

    /// Waits until every node is there and every block has all its shards.
    fn wait_until_whole(&self, after: &str) {
        let begun = Instant::now();
        loop {
            let status: Value = serde_json::from_str(&self.world.ok(&["--json", "zstor", "status"])).expect("JSON");
            let nodes = status["nodes"].as_array().expect("a list");
            if nodes.iter().all(|node| node["lost"].is_null()) && status["repairs_waiting"] == 0 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not at full strength after {after}: {status:#}");
            thread::yield_now();
        }
    }
}

/// Puts files and reads them, one after the other, until it is told to end.
struct Load {
    world: Arc<World>,
    /// How many were put and acknowledged; each has a number, which tells what is in it.
    count: AtomicU64,
    done: AtomicBool,
}

impl Load {
    fn bytes(number: u64) -> Vec<u8> {
        let mut dice = Dice::new(number);
        let len = dice.roll(300_000);
        dice.bytes(len)
    }

    fn read(&self, number: u64) {
        let output = self.world.run(&["cat", &format!("/zstor/{number}")]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{number} cannot be read: {told}");
        assert!(output.stdout == Self::bytes(number), "{number} has other bytes");
    }

    fn run(&self) {
        let mut dice = Dice::new(7);
        let file = self.world.path("next");
        while !self.done.load(Ordering::Relaxed) {
            let number = self.count.load(Ordering::Relaxed);
            fs::write(&file, Self::bytes(number)).expect("written");
            self.world.ok(&["put", file.to_str().expect("UTF-8"), &format!("/zstor/{number}")]);
            self.count.store(number + 1, Ordering::Relaxed);
            self.read(dice.roll(usize::try_from(number + 1).expect("few")) as u64);
        }
    }

    /// Waits until so many more were put.
    fn wait_for(&self, more: u64) {
        let (begun, wanted) = (Instant::now(), self.count.load(Ordering::Relaxed) + more);
        while self.count.load(Ordering::Relaxed) < wanted {
            assert!(begun.elapsed() < PATIENCE, "puts stand still");
            assert!(!self.done.load(Ordering::Relaxed), "the load failed");
            thread::sleep(POLL);
        }
    }
}

/// Tells the others when the load ends, however it does.
struct Ends<'a>(&'a Load);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_cluster_loses_nothing_on_a_bad_day() {
    let mut cluster = Cluster::new();
    let server = cluster.world.serve(&[]);
    let load = Load { world: cluster.world.clone(), count: AtomicU64::new(0), done: AtomicBool::new(false) };
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ends = Ends(&load);
            load.run();
        });
        let _ends = Ends(&load);
        load.wait_for(3);
        for _ in 0..number_of("MUXFS_CLUSTER_ROUNDS", 1) {
            bad_day(&mut cluster, &load);
        }
    });
    cluster.world.ok(&["commit"]);
    // What was missed has been made good: any two may go.
    for n in [0, 5] {
        cluster.stop(n, Signal::KILL);
    }
    for number in 0..load.count.load(Ordering::Relaxed) {
        load.read(number);
    }
    for n in [0, 5] {
        cluster.start(n);
    }
    cluster.wait_until_whole("the end");
    cluster.world.ok(&["verify", "--all"]);
    assert_eq!(server.terminate(), Some(0));
}

fn bad_day(cluster: &mut Cluster, load: &Load) {
    for n in 0..NODE_COUNT {
        cluster.stop(n, Signal::TERM);
        load.wait_for(1);
        cluster.start(n);
        cluster.wait_until_whole("a node was started anew");
    }
    for pair in [[0, 1], [4, 2]] {
        for n in pair {
            cluster.stop(n, Signal::KILL);
        }
        load.wait_for(2);
        for n in pair {
            cluster.start(n);
        }
        cluster.wait_until_whole("two nodes were killed");
    }
    for (passing, pair) in [(Passing::Broken, [3, 5]), (Passing::Nothing, [1, 2])] {
        for n in pair {
            cluster.links[n].set(passing);
        }
        load.wait_for(2);
        for n in pair {
            cluster.links[n].set(Passing::All);
        }
        cluster.wait_until_whole("two links were cut");
    }
    // A disk that is lost, and an empty one in its place, which somebody says is this node.
    cluster.stop(3, Signal::KILL);
    fs::remove_dir_all(cluster.world.path(&cluster.places[3].1)).expect("removed");
    load.wait_for(1);
    cluster.start(3);
    let mut client = Client::connect(cluster.places[3].0);
    client.ok("SELECT muxfs");
    client.send(&[b"SET", b"muxfs-node", b""]).expect("sent");
    client.reply().expect("answered");
    cluster.wait_until_whole("a disk was exchanged");
    // Nobody noted what it should have.
    cluster.world.ok(&["zstor", "scrub"]);
    load.wait_for(1);
}
