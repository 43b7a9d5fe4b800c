//! Rounds of load and kill -9: several NFS and FTP clients, and programs on a mount, write to one server until it dies,
//! and look after each restart at what they have. A dead mount is replaced by that of the next server.
//!
//! Each client owns a directory, calls one thing after the other, and keeps every state its directory may be found in:
//! the last one that was durable, and those after it. A restart must show exactly one of them, whole, and files must
//! answer under the handles they had. The seed is printed; which call the server dies in is up to the machine.
//!
//! `MUXFS_KILL_ROUNDS` sets how many rounds there are.

mod ftp;
mod fuse;
mod nfs;

use std::{
    collections::BTreeMap,
    env,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use muxfs::testing::fault::Dice;
use tokio::sync::Notify;

use self::{ftp::FtpClient, fuse::FuseClient, nfs::NfsClient};
use crate::{Mount, PATIENCE, World, number_of};

const ROUNDS: usize = 50;
const NFS_CLIENTS: usize = 3;
const FTP_CLIENTS: usize = 2;
const FUSE_CLIENTS: usize = 2;
/// So many calls are answered in a round before the server is ended, at the most.
const CALLS_MAX: usize = 300;

/// The server is gone.
#[derive(Debug, Clone, Copy)]
struct Lost;

/// One directory, by name.
type State<N> = BTreeMap<String, N>;

/// The states a directory may be found in after a crash: the last that is known to be durable, and each one after it.
#[derive(Debug)]
struct Expected<N> {
    states: Vec<State<N>>,
}

impl<N: Clone> Expected<N> {
    fn new() -> Self {
        Self { states: vec![State::new()] }
    }

    /// What is visible.
    fn now(&self) -> &State<N> {
        self.states.last().expect("there is always one")
    }

    /// A change is under way: it may be found done from now on.
    fn begin(&mut self, change: impl FnOnce(&mut State<N>)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    /// Everything up to now is durable.
    fn settle(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }

    /// What was found after a restart: one of the states it may be, and from now on the only one.
    fn found(&mut self, who: &str, is_found: impl Fn(&State<N>) -> bool, told: impl FnOnce(&[State<N>]) -> String) {
        let index = self.states.iter().rposition(is_found);
        let index = index.unwrap_or_else(|| panic!("{who} found a state that never was: {}", told(&self.states)));
        self.states = vec![self.states[index].clone()];
    }
}

/// How far a round is.
#[derive(Debug, Default)]
struct Round {
    answered: AtomicUsize,
    moved: Notify,
    /// The server is being ended.
    ends: AtomicBool,
}

impl Round {
    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.moved.notify_one();
    }

    async fn reaches(&self, count: usize) {
        let reached = async {
            while self.answered.load(Ordering::Relaxed) < count {
                self.moved.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the clients go on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_round_of_kill_9_leaves_what_was_synced_and_no_handle_stale() {
    kill_again_and_again("ipfs", 1).await;
}

/// The journal is sealed, and the blocks are in shards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_round_of_kill_9_leaves_what_was_synced_in_zstor() {
    kill_again_and_again("zstor", 5).await;
}

/// One in `part` of all rounds, on a mount.
async fn kill_again_and_again(prefix: &'static str, part: usize) {
    let rounds = number_of("MUXFS_KILL_ROUNDS", ROUNDS);
    let rounds: usize = rounds.div_ceil(part);
    let seed = env::var("MUXFS_KILL_SEED").map_or(0x5eed, |text| text.parse().expect("a seed"));
    eprintln!("MUXFS_KILL_ROUNDS={rounds} MUXFS_KILL_SEED={seed}");
    let world = World::of(prefix);
    let mut dice = Dice::new(seed);
    let mut nfs: Vec<NfsClient> =
        (0..NFS_CLIENTS).map(|i| NfsClient::new(prefix, format!("nfs{i}"), dice.bits())).collect();
    let mut ftp: Vec<FtpClient> =
        (0..FTP_CLIENTS).map(|i| FtpClient::new(format!("/{prefix}/ftp{i}"), dice.bits())).collect();
    let mounted = world.mount_dir();
    let _mount = mounted.as_deref().map(|dir| Mount(&world, dir));
    let serve_args = mounted.as_ref().map_or(vec![], |dir| vec!["--mount", dir.to_str().expect("UTF-8")]);
    let fuse = mounted.iter().flat_map(|mount| (0..FUSE_CLIENTS).map(move |i| (mount, format!("fuse{i}"))));
    let mut fuse: Vec<FuseClient> =
        fuse.map(|(mount, dir)| FuseClient::new(&mount.join(prefix), dir, dice.bits())).collect();
    for number in 0..rounds {
        let server = world.serve(&serve_args);
        let round = Arc::new(Round::default());
        let over_nfs = nfs.drain(..).map(|mut client| {
            let (addr, round) = (server.addr("nfs"), Arc::clone(&round));
            tokio::spawn(async move {
                client.run(addr, &round).await;
                client
            })
        });
        let over_nfs: Vec<_> = over_nfs.collect();
        let over_ftp = ftp.drain(..).map(|mut client| {
            let (addr, round) = (server.addr("ftp"), Arc::clone(&round));
            tokio::task::spawn_blocking(move || {
                client.run(addr, &round);
                client
            })
        });
        let over_ftp: Vec<_> = over_ftp.collect();
        let over_fuse = fuse.drain(..).map(|mut client| {
            let round = Arc::clone(&round);
            tokio::task::spawn_blocking(move || {
                client.run(&round);
                client
            })
        });
        let over_fuse: Vec<_> = over_fuse.collect();
        round.reaches(dice.roll(CALLS_MAX / 2)).await;
        // What goes on beside the load: nothing, a commit, or a commit that the end of the server meets.
        let besides = (dice.roll(3) > 0).then(|| {
            let mut command = world.command();
            command.arg("commit").stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("the program runs")
        });
        let count = round.answered.load(Ordering::Relaxed) + dice.roll(CALLS_MAX / 2);
        round.reaches(count).await;
        round.ends.store(true, Ordering::SeqCst);
        if number % 5 == 4 {
            assert_eq!(server.terminate(), Some(0), "a clean end under load, in round {number}");
        } else {
            server.kill();
        }
        for client in over_nfs {
            nfs.push(client.await.unwrap_or_else(|error| panic!("round {number}: {error}")));
        }
        for client in over_ftp {
            ftp.push(client.await.unwrap_or_else(|error| panic!("round {number}: {error}")));
        }
        for client in over_fuse {
            fuse.push(client.await.unwrap_or_else(|error| panic!("round {number}: {error}")));
        }
        if let Some(mut besides) = besides {
            besides.wait().expect("it ends");
        }
    }
    // Everything that was committed on the way is whole.
    let server = world.serve(&[]);
    world.ok(&["commit"]);
    let log = world.ok(&["--json", "log"]);
    for line in log.lines() {
        let commit: serde_json::Value = serde_json::from_str(line).expect("JSON");
        world.ok(&["verify", &format!("/{prefix}/{}", commit["root"].as_str().expect("a CID"))]);
    }
    assert_eq!(server.terminate(), Some(0));
}
