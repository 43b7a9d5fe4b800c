//! Goal: whatever happens, a tree is found in a state that was, no older than the last sync. Method: worlds drawn from a
//! seed, in which several clients, commits and collections take turns on one tree over disks that fail, and machines
//! that stop; each client's directory is held against the model.
//!
//! The worlds are of two kinds: blocks on one disk, and encrypted and in shards on nodes that come and go (`shards`). There is
//! no clock and no thread: the same seed gives the same world, and the digest of all that was told proves it. A
//! seed that fails is tried again with fewer lives and fewer steps, and what is printed last replays the least that
//! fails. `MUXFS_SIMULATE_SEEDS` says how many seeds of each kind are tried from `MUXFS_SIMULATE_FIRST` on;
//! `MUXFS_SIMULATE_LIVES` and `MUXFS_SIMULATE_STEPS` make worlds smaller.

#[path = "simulate/shards.rs"]
mod shards;

use std::{
    env,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use muxfs::{
    BlockStore, Codec, Error, ErrorKind, Name, Result,
    block::{Segments, SegmentsOptions},
    cid_of,
    dag::{Dag, DagOptions, GcOptions, Params, Profile},
    heads::LogHeads,
    media::{Media, SealedMedia, Segment, SegmentId},
    testing::{
        self, Clock,
        fault::{Crash, CrashMedia, Dice},
        model::ModelFs,
        workload::{Kinds, Path, Step, describe},
    },
    tree::{Checked, Retention, Tree, TreeOptions},
    vfs::{Lease, NewNode, SetAttr, Vfs, narrow::subtree},
};

use self::shards::{Nodes, Shards, root};

/// So short that a chunk is cheap to write, and a file of a few KiB has many.
const CHUNK_LEN: u32 = 1024;
const CLIENT_COUNT: usize = 2;
/// How often a machine starts in a world, and how many steps each client takes in a life.
const LIFE_COUNT: usize = 4;
const STEP_COUNT: usize = 24;
const SEED_COUNT: u64 = 2_000;
/// The same of worlds of shards, each of which takes three times as long.
const SHARDS_SEED_COUNT: u64 = 100;
/// How many seeds are played twice, for their digests.
const TWICE_COUNT: u64 = 20;
/// A world has not more calls of its disks than this before its machine stops, where it stops.
const CALLS_MAX: usize = 700;
/// The same where nodes have most of them.
const SHARDS_CALLS_MAX: usize = 3_000;

/// What the blocks of a world are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A disk.
    Segments,
    /// Nodes that come and go.
    Shards,
}

/// How much happens in a world.
#[derive(Debug, Clone, Copy)]
struct Size {
    lives: usize,
    steps: usize,
}

/// A disk at which everybody waits now and then, so that tasks take turns within each other's calls.
#[derive(Debug)]
struct TurnTaking {
    media: Arc<CrashMedia>,
    dice: Mutex<Dice>,
}

impl TurnTaking {
    async fn turn(&self) {
        let turns = self.dice.lock().expect("nobody panicked").roll(4);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Media for TurnTaking {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        self.turn().await;
        self.media.append(segment, bytes).await
    }
    async fn sync(&self, segment: SegmentId) -> Result<()> {
        self.turn().await;
        self.media.sync(segment).await
    }
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        self.turn().await;
        self.media.read_at(segment, offset, len).await
    }
    async fn segments(&self) -> Result<Vec<Segment>> {
        self.media.segments().await
    }
    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.turn().await;
        self.media.remove(segment).await
    }
}

/// A disk at which everybody waits now and then.
fn turn_taking(media: &Arc<CrashMedia>, dice: &mut Dice) -> Arc<TurnTaking> {
    Arc::new(TurnTaking { media: media.clone(), dice: Mutex::new(Dice::new(dice.bits())) })
}

/// What a tree is on: the disks of blocks and their index, or nodes; and the disks of its journal and heads.
#[derive(Debug)]
struct Disks {
    blocks: Blocks,
    tree: [Arc<CrashMedia>; 2],
}

#[derive(Debug)]
enum Blocks {
    Segments([Arc<CrashMedia>; 2]),
    Shards(Nodes),
}

/// What is done for blocks beside a tree.
#[derive(Debug, Clone)]
enum Upkeep {
    Segments(Arc<Segments>),
    Shards(Shards),
}

impl Upkeep {
    async fn step(&self, dice: &mut Dice) -> Result<()> {
        match self {
            Self::Segments(segments) => segments.compact().await.map(drop),
            Self::Shards(shards) => shards.step(dice).await,
        }
    }
}

impl Disks {
    fn new(kind: Kind, dice: &mut Dice) -> Self {
        let two = || [(); 2].map(|()| Arc::new(CrashMedia::new(Crash::never())));
        let blocks = match kind {
            Kind::Segments => Blocks::Segments(two()),
            Kind::Shards => Blocks::Shards(Nodes::draw(dice)),
        };
        Self { blocks, tree: two() }
    }

    /// As the next machine finds them; or the next process of the same one.
    fn next(&self, dice: &mut Dice, machine_stopped: bool, crash: &Arc<Crash>) -> Self {
        let mut next = |disks: &[Arc<CrashMedia>; 2]| {
            [0, 1].map(|i: usize| {
                let (disk, seed): (&CrashMedia, _) = (&disks[i], dice.bits());
                Arc::new(if machine_stopped { disk.restart(seed, crash.clone()) } else { disk.reopen(crash.clone()) })
            })
        };
        let tree = next(&self.tree);
        let blocks = match &self.blocks {
            Blocks::Segments(disks) => Blocks::Segments(next(disks)),
            Blocks::Shards(nodes) => Blocks::Shards(nodes.next(dice, machine_stopped, crash)),
        };
        Self { blocks, tree }
    }

    /// Has a disk fail to write some page, once; not one of a node, of which more fails as it is.
    fn fail_sync(&self, dice: &mut Dice) {
        let own = self.tree.iter().chain(match &self.blocks {
            Blocks::Segments(disks) => &disks[..],
            Blocks::Shards(_) => &[],
        });
        let own: Vec<_> = own.collect();
        own[dice.roll(own.len())].fail_sync(dice.roll(20) as u64);
    }

    /// Opens it when nothing fails any more, and all nodes are there.
    async fn open_healed(&self, dice: &mut Dice, clock: &Clock) -> (Tree, Upkeep) {
        if let Blocks::Shards(nodes) = &self.blocks {
            nodes.come_back().await;
        }
        self.open(dice, clock).await.expect("it opens")
    }

    async fn open(&self, dice: &mut Dice, clock: &Clock) -> Result<(Tree, Upkeep)> {
        let env = clock.env(dice.bits());
        let [journal, heads] = [0, 1].map(|i: usize| turn_taking(&self.tree[i], dice));
        let (blocks, upkeep, journal): (Arc<dyn BlockStore>, _, Arc<dyn Media>) = match &self.blocks {
            Blocks::Segments(disks) => {
                let small = SegmentsOptions { segment_len_max: 1 << 14, ..SegmentsOptions::default() };
                let [data, index] = [0, 1].map(|i: usize| turn_taking(&disks[i], dice));
                let segments = Arc::new(Segments::open(data, index, small, &env).await?);
                (segments.clone(), Upkeep::Segments(segments), journal)
            }
            Blocks::Shards(nodes) => {
                let (blocks, shards) = nodes.open(dice, &env, clock).await?;
                let sealed = SealedMedia::new(journal, root(), clock.env(dice.bits()));
                (blocks, Upkeep::Shards(shards), Arc::new(sealed))
            }
        };
        let params = Params { chunk_len: CHUNK_LEN, width: 8, ..Profile::default().params() };
        let dag = Dag::new(blocks, DagOptions { params, ..DagOptions::default() });
        let heads = Arc::new(LogHeads::open(heads, &env).await?);
        let retention = Retention { all: Duration::from_secs(1), hourly: Duration::ZERO, daily: Duration::ZERO };
        let head = Name::new(b"world")?;
        let options = TreeOptions { auto_commit: None, retention, ..TreeOptions::new(head, env) };
        Ok((Tree::open(dag, journal, heads, options).await?, upkeep))
    }
}

/// What a client knows: the steps that its directory is made of, and how many of them are surely durable.
#[derive(Debug)]
struct Client {
    name: Name,
    dice: Dice,
    steps: Vec<Step>,
    synced: usize,
    model: Arc<ModelFs>,
    /// What it was told, in order.
    told: String,
    tally: Tally,
}

/// How much was done in worlds: one in which nothing happens proves nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    steps: u64,
    /// Syncs that were acknowledged, and those that were not though the machine went on.
    synced: u64,
    not_synced: u64,
    /// How often another root key came.
    keys: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.synced += other.synced;
        self.not_synced += other.not_synced;
        self.keys += other.keys;
    }
}

impl Client {
    fn new(name: &str, seed: u64) -> Self {
        let name = Name::new(name.as_bytes()).expect("a good name");
        let (dice, model) = (Dice::new(seed), ModelFs::new(testing::env()));
        Self { name, dice, steps: Vec::new(), synced: 0, model, told: String::new(), tally: Tally::default() }
    }

    /// Its directory; made where the tree has none yet.
    async fn home(&self, tree: &Tree) -> Result<(Arc<dyn Vfs>, Lease)> {
        let vfs: Arc<dyn Vfs> = Arc::new(tree.clone());
        let found = match tree.lookup(tree.root(), &self.name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                assert_eq!(self.synced, 0, "{:?}: the directory is gone", self.name);
                tree.create(tree.root(), &self.name, NewNode::Dir, SetAttr::default()).await?.node
            }
            found => found?,
        };
        let lease = Lease::adopt(vfs.clone(), found.ino);
        Ok((subtree(vfs, lease.clone()), lease))
    }

    /// Finds out which of the states that may be is there, and makes it the model's.
    async fn recover(&mut self, home: &dyn Vfs) -> Result<()> {
        let (found, _) = describe(home).await?;
        let model = ModelFs::new(testing::env());
        let mut states = Vec::new();
        for count in 0..=self.steps.len() {
            if count > 0 {
                // What a step refuses is as good: the tree refused it too.
                self.steps[count - 1].take(&*model, Kinds::All).await.ok();
            }
            if count >= self.synced {
                states.push(describe(&*model).await?.0);
            }
        }
        let index = states.iter().rposition(|state| *state == found);
        let index = index.unwrap_or_else(|| {
            panic!(
                "{:?} is in no state between step {} and {}: found\n{found}\nnewest\n{}\noldest\n{}",
                self.name,
                self.synced,
                self.steps.len(),
                states.last().expect("there is one"),
                states[0]
            )
        });
        self.steps.truncate(self.synced + index);
        writeln!(self.told, "found {} of {}", self.steps.len(), self.synced).expect("text");
        let model = ModelFs::new(testing::env());
        for step in &self.steps {
            step.take(&*model, Kinds::All).await.ok();
        }
        self.model = model;
        Ok(())
    }

    /// Works until it is done or the machine fails it.
    async fn live(&mut self, home: &Arc<dyn Vfs>, count: usize, crash: &Crash) -> Result<()> {
        let mut paths: Vec<Path> = describe(&*self.model).await?.1;
        for number in 0..count {
            if self.dice.roll(8) == 0 {
                let begun = self.steps.len();
                match home.sync(home.root()).await {
                    Ok(()) => {
                        self.synced = begun;
                        self.tally.synced += 1;
                    }
                    // Nodes that are away keep a sync from its end, and nothing else.
                    Err(error) if error.kind() == ErrorKind::Unavailable && !crash.happened() => {
                        writeln!(self.told, "not synced").expect("text");
                        self.tally.not_synced += 1;
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            let step = Step::draw(&mut self.dice, &paths, Kinds::All);
            // Known before it is tried: where the machine stops it may have happened.
            self.steps.push(step.clone());
            let told = match step.take(&**home, Kinds::All).await {
                Err(error) if is_fault(error.kind()) => return Err(error),
                told => told.unwrap_or_else(|error| format!("{:?}", error.kind())),
            };
            self.tally.steps += 1;
            let wanted = step.take(&*self.model, Kinds::All).await;
            let wanted = wanted.unwrap_or_else(|error| format!("{:?}", error.kind()));
            assert_eq!(told, wanted, "{:?}, step {number}: {step:?}", self.name);
            writeln!(self.told, "{told}").expect("text");
            if number % 8 == 7 {
                let (wanted, known) = describe(&*self.model).await?;
                assert_eq!(describe(&**home).await?.0, wanted, "{:?}, after step {number}", self.name);
                paths = known;
            }
        }
        Ok(())
    }
}

/// Whether an error tells of the machine and not of the call.
fn is_fault(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Io | ErrorKind::ReadOnly | ErrorKind::NoSpace)
}

/// What does not fit together in a tree.
async fn faults(tree: &Tree) -> Vec<Error> {
    let faults = tree.check().filter_map(async |checked| match checked {
        Checked::Fault(error) => Some(error),
        Checked::Progress { .. } | Checked::Done(_) => None,
    });
    faults.collect().await
}

/// Commits and collects beside the clients, until they are done or the machine fails it.
async fn maintain(tree: Tree, upkeep: Upkeep, clock: Clock, mut dice: Dice, done: Arc<AtomicBool>, crash: Arc<Crash>) {
    while !done.load(Ordering::Relaxed) {
        for _ in 0..dice.roll(60) {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_millis(300));
        let kinds = if matches!(upkeep, Upkeep::Shards(_)) { 9 } else { 5 };
        let result = match dice.roll(kinds) {
            0 | 1 => tree.commit("").await.map(drop),
            2 => tree.sync(tree.root()).await,
            3 => {
                let secret = [u8::try_from(dice.roll(256)).unwrap_or(0); 32];
                let options = GcOptions { secret, ..GcOptions::new(&testing::env()) };
                tree.dag().collect_garbage(|| tree.gc_roots(), &options).await.map(drop)
            }
            _ => upkeep.step(&mut dice).await,
        };
        match result {
            // What nodes that are away do not do now, they do later.
            Err(error) if is_fault(error.kind()) && matches!(upkeep, Upkeep::Shards(_)) && !crash.happened() => {}
            Err(error) if is_fault(error.kind()) => return,
            result => result.unwrap_or_else(|error| panic!("beside the clients: {error:#}")),
        }
    }
}

/// One machine from its start to its end. `Err` where it failed somebody.
async fn live(
    clients: &mut Vec<Client>,
    disks: &Disks,
    crash: &Arc<Crash>,
    clock: &Clock,
    dice: &mut Dice,
    size: Size,
) -> Result<()> {
    let (tree, upkeep) = disks.open(dice, clock).await?;
    let mut homes = Vec::new();
    for client in &mut *clients {
        let (home, lease) = client.home(&tree).await?;
        client.recover(&*home).await?;
        homes.push((home, lease));
    }
    let faults: Vec<_> = faults(&tree).await;
    // One that stops meanwhile explains whatever else does not fit.
    if faults.iter().all(|error| !is_fault(error.kind())) {
        assert!(faults.is_empty(), "after recovery: {faults:#?}");
    }
    if dice.roll(4) == 0 {
        disks.fail_sync(dice);
    }
    let done = Arc::new(AtomicBool::new(false));
    let beside = Dice::new(dice.bits());
    let beside = maintain(tree.clone(), upkeep, clock.clone(), beside, done.clone(), crash.clone());
    let beside = tokio::spawn(beside);
    let tasks: Vec<_> = std::iter::zip(clients.drain(..), homes)
        .map(|(mut client, (home, lease))| {
            let crash = crash.clone();
            tokio::spawn(async move {
                let lived = client.live(&home, size.steps, &crash).await;
                drop(lease);
                (client, lived)
            })
        })
        .collect();
    let mut result = Ok(());
    for task in tasks {
        let (client, lived) = task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        clients.push(client);
        result = result.and(lived);
    }
    done.store(true, Ordering::Relaxed);
    beside.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    result?;
    if dice.roll(2) == 0 {
        tree.close().await?;
        for client in clients {
            client.synced = client.steps.len();
        }
    }
    Ok(())
}

/// Plays the world of a seed; the digest of all that was told in it, and how much was done.
async fn play(kind: Kind, seed: u64, size: Size) -> (String, Tally) {
    let mut dice = Dice::new(seed);
    let clock = Clock::default();
    let mut disks = Disks::new(kind, &mut dice);
    let calls_max = if kind == Kind::Shards { SHARDS_CALLS_MAX } else { CALLS_MAX };
    let mut clients: Vec<_> = (0..CLIENT_COUNT).map(|i| Client::new(&format!("client{i}"), dice.bits())).collect();
    for _ in 0..size.lives {
        // Drawn from the seed of the life, so that a world with fewer lives begins like one with more.
        let mut dice = Dice::new(dice.bits());
        let crash = if dice.roll(4) == 0 { Crash::never() } else { Crash::at(dice.roll(calls_max) as u64) };
        let machine_stopped = dice.roll(4) > 0;
        disks = disks.next(&mut dice, machine_stopped, &crash);
        let lived = live(&mut clients, &disks, &crash, &clock, &mut dice, size).await;
        if let Err(error) = lived {
            assert!(is_fault(error.kind()), "not what a machine does to one: {error:#}");
        }
    }
    // The last machine has no fault, and all is as it was.
    disks = disks.next(&mut dice, true, &Crash::never());
    let (tree, upkeep) = disks.open_healed(&mut dice, &clock).await;
    let (mut told, mut tally) = (String::new(), Tally::default());
    if let Upkeep::Shards(shards) = &upkeep {
        tally.keys = shards.end_replacing_the_key().await.into();
    }
    for client in &mut clients {
        let (home, _lease) = client.home(&tree).await.expect("home");
        client.recover(&*home).await.expect("read");
        told += &client.told;
        tally.add(client.tally);
    }
    let faults = faults(&tree).await;
    assert!(faults.is_empty(), "at the end: {faults:#?}");
    tree.commit("").await.expect("committed");
    if let Upkeep::Shards(shards) = upkeep {
        shards.assert_whole().await;
    }
    told += &tree.head().1.root.to_string();
    (cid_of(Codec::Raw, told.as_bytes()).to_string(), tally)
}

fn play_alone(kind: Kind, seed: u64, size: Size) -> (String, Tally) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // A clock that stands still but where a world moves it.
    let runtime = if kind == Kind::Shards { runtime.enable_time().start_paused(true) } else { &mut runtime };
    let has_thread = Arc::new(AtomicBool::new(false));
    let told = has_thread.clone();
    let runtime = runtime.on_thread_start(move || told.store(true, Ordering::Relaxed));
    let played = runtime.build().expect("a runtime").block_on(play(kind, seed, size));
    assert!(!has_thread.load(Ordering::Relaxed), "something was done on another thread, at a time that no seed draws");
    played
}

/// The least size that fails.
fn shrink(kind: Kind, seed: u64, size: Size) -> Size {
    let fails = |size: Size| catch_unwind(AssertUnwindSafe(|| play_alone(kind, seed, size))).is_err();
    let lives = (0..size.lives).find(|lives| fails(Size { lives: *lives, ..size })).unwrap_or(size.lives);
    let size = Size { lives, ..size };
    let steps = (1..size.steps).find(|steps| fails(Size { steps: *steps, ..size })).unwrap_or(size.steps);
    Size { steps, ..size }
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn size() -> Size {
    let of = |name: &str, default: usize| usize::try_from(number(name, default as u64)).expect("a small number");
    Size { lives: of("MUXFS_SIMULATE_LIVES", LIFE_COUNT), steps: of("MUXFS_SIMULATE_STEPS", STEP_COUNT) }
}

/// Plays the worlds of a kind, and tells how much was done in them; `of` is the name of the test that does.
fn play_all(kind: Kind, seed_count: u64, of: &str) -> Tally {
    let (first, count) = (number("MUXFS_SIMULATE_FIRST", 0), number("MUXFS_SIMULATE_SEEDS", seed_count));
    println!("{kind:?}: seeds {first} to {}", first + count);
    let threads: Vec<_> = (0..2)
        .map(|half| {
            let of = of.to_owned();
            std::thread::spawn(move || {
                let mut tally = Tally::default();
                for seed in (first + half..first + count).step_by(2) {
                    if let Ok((_, of_seed)) = catch_unwind(|| play_alone(kind, seed, size())) {
                        tally.add(of_seed);
                    } else {
                        let Size { lives, steps } = shrink(kind, seed, size());
                        panic!(
                            "seed {seed} fails; replay the least of it with MUXFS_SIMULATE_FIRST={seed} \
                             MUXFS_SIMULATE_SEEDS=1 MUXFS_SIMULATE_LIVES={lives} MUXFS_SIMULATE_STEPS={steps} and {of}"
                        );
                    }
                }
                tally
            })
        })
        .collect();
    let mut tally = Tally::default();
    for thread in threads {
        tally.add(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    }
    println!("{tally:?}");
    tally
}

#[test]
fn every_world_is_found_as_it_was() {
    play_all(Kind::Segments, SEED_COUNT, "every_world_is_found_as_it_was");
}

#[test]
fn every_world_of_shards_is_found_as_it_was() {
    let tally = play_all(Kind::Shards, SHARDS_SEED_COUNT, "every_world_of_shards_is_found_as_it_was");
    // No more than m nodes are away: what is not durable on the others is on the journal's disk.
    // Of few worlds nothing can be said.
    assert!(tally.not_synced < 20 || tally.synced >= 9 * tally.not_synced, "{tally:?}");
    assert!(tally.keys > 0 || tally.steps < 1000, "{tally:?}");
}

#[test]
fn the_same_seed_is_the_same_world() {
    for kind in [Kind::Segments, Kind::Shards] {
        for seed in 0..TWICE_COUNT {
            let [one, two] = [(); 2].map(|()| play_alone(kind, seed, size()).0);
            assert_eq!(one, two, "{kind:?}, seed {seed}");
        }
    }
}
