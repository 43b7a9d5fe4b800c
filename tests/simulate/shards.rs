//! A store as /zstor is, for the worlds of the simulation: blocks compressed, encrypted, and in shards on nodes of segments,
//! each with disks of its own. Nodes go away, lose what they had not flushed, come back, and are full; at most m of them at
//! a time lack anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    BlockKey, BlockStore, Env, Error, ErrorKind, Result, SecretKey,
    block::{Compress, Encrypt, Erasure, ErasureNode, ErasureOptions, ScrubOptions, Segments, SegmentsOptions},
    media::SealedMedia,
    testing::{
        Clock,
        fault::{Crash, CrashMedia, Dice},
    },
};

use crate::turn_taking;

/// So many blocks are put under another key at once.
const MOVED_COUNT: usize = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The root key of what is beside the nodes.
pub(crate) fn root() -> SecretKey {
    SecretKey::new([7; 32])
}

/// The root keys of the blocks, as a file has them that no machine loses.
#[derive(Debug, Clone, Default)]
struct Ring {
    /// How often another came: it is the newest.
    newest: u8,
    has_older: bool,
}

impl Ring {
    fn key(number: u8) -> SecretKey {
        SecretKey::new([number; 32])
    }

    fn older(&self) -> Option<SecretKey> {
        self.has_older.then(|| Self::key(self.newest - 1))
    }

    /// What opens the blocks of the nodes.
    fn open(&self, nodes: Arc<dyn BlockStore>) -> Encrypt {
        let encrypt = Encrypt::new(nodes, Self::key(self.newest));
        let retired = (0..self.newest - u8::from(self.has_older)).map(|number| Encrypt::key_id(Self::key(number)));
        let encrypt = retired.fold(encrypt, Encrypt::with_retired_key);
        self.older().into_iter().fold(encrypt, Encrypt::with_older_key)
    }
}

/// What the nodes are, and the place of what they are owed.
#[derive(Debug)]
pub(crate) struct Nodes {
    all: Vec<Arc<Node>>,
    owed: Arc<CrashMedia>,
    ring: Arc<Mutex<Ring>>,
    data_count: u8,
    parity_count: u8,
    /// Whether the nodes stop with the machine, as directories of it do.
    is_one_machine: bool,
}

impl Nodes {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let (data_count, parity_count) = [(2, 1), (2, 2)][dice.roll(2)];
        let disk = || Arc::new(CrashMedia::new(Crash::never()));
        let node = |n| Arc::new(Node::new(format!("node {n}"), [disk(), disk()], Crash::never(), false, dice.bits()));
        let all = (0..data_count + parity_count).map(node).collect();
        let ring = Arc::default();
        Self { all, owed: disk(), ring, data_count, parity_count, is_one_machine: dice.roll(2) == 0 }
    }

    /// As the next machine finds them, or the next process of the same one.
    pub(crate) fn next(&self, dice: &mut Dice, machine_stopped: bool, crash: &Arc<Crash>) -> Self {
        let Self { data_count, parity_count, is_one_machine, .. } = *self;
        let of_node = if is_one_machine { crash.clone() } else { Crash::never() };
        let again = |disk: &CrashMedia, seed, stopped: bool, crash: &Arc<Crash>| {
            Arc::new(if stopped { disk.restart(seed, crash.clone()) } else { disk.reopen(crash.clone()) })
        };
        let mut away = BTreeSet::new();
        for _ in 0..parity_count {
            if dice.roll(4) == 0 {
                away.insert(dice.roll(self.all.len()));
            }
        }
        let all = self.all.iter().zip(0..).map(|(node, n)| {
            let disks = node.state().disks.clone();
            let disks = disks.map(|disk| again(&disk, dice.bits(), machine_stopped && is_one_machine, &of_node));
            Arc::new(Node::new(node.name.clone(), disks, of_node.clone(), away.contains(&n), dice.bits()))
        });
        let all = all.collect();
        let owed = again(&self.owed, dice.bits(), machine_stopped, crash);
        Self { all, owed, ring: self.ring.clone(), data_count, parity_count, is_one_machine }
    }

    /// All nodes are there.
    pub(crate) async fn come_back(&self) {
        for node in &self.all {
            node.come_back().await.expect("it opens");
        }
    }

    pub(crate) async fn open(
        &self,
        dice: &mut Dice,
        env: &Env,
        clock: &Clock,
    ) -> Result<(Arc<dyn BlockStore>, Shards)> {
        for node in &self.all {
            let is_away = node.state().is_away;
            if !is_away {
                node.come_back().await?;
            }
        }
        let options = ErasureOptions {
            data_count: self.data_count,
            parity_count: self.parity_count,
            ..ErasureOptions::default()
        };
        let stores = self.all.iter().map(|node| ErasureNode::new(node.name.clone(), node.clone()));
        let owed = turn_taking(&self.owed, dice);
        let owed = Arc::new(SealedMedia::new(owed, root(), clock.env(dice.bits())));
        let erasure = Erasure::open(stores.collect::<Vec<_>>(), options, owed, env).await?;
        let encrypt = Arc::new(lock(&self.ring).open(Arc::new(erasure.clone())));
        let behind = Mutex::new((0..self.all.len()).collect()).into();
        let blocks = Arc::new(Compress::new(encrypt.clone()));
        let (nodes, ring, parity_count) = (self.all.clone(), self.ring.clone(), self.parity_count.into());
        Ok((blocks, Shards { nodes, erasure, encrypt, ring, parity_count, behind }))
    }
}

/// The nodes of a store that is open.
#[derive(Debug, Clone)]
pub(crate) struct Shards {
    nodes: Vec<Arc<Node>>,
    erasure: Erasure,
    encrypt: Arc<Encrypt>,
    ring: Arc<Mutex<Ring>>,
    parity_count: usize,
    /// Those that may lack something.
    behind: Arc<Mutex<BTreeSet<usize>>>,
}

impl Shards {
    fn behind(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        lock(&self.behind)
    }

    /// Something that happens to a node, or is done for one.
    pub(crate) async fn step(&self, dice: &mut Dice) -> Result<()> {
        let n = dice.roll(self.nodes.len());
        let node = &self.nodes[n];
        match dice.roll(10) {
            0..3 => {
                let may_ail = {
                    let mut behind = self.behind();
                    let may_ail = behind.contains(&n) && behind.len() <= self.parity_count;
                    may_ail || (behind.len() < self.parity_count && behind.insert(n))
                };
                if may_ail {
                    node.ail(dice);
                }
            }
            3 => node.come_back().await?,
            4 => {
                for node in &self.nodes {
                    node.come_back().await?;
                }
                self.erasure.probe_nodes();
                return self.heal().await;
            }
            // What it leaves is of puts that a crash ended half way, and that nobody was told of.
            5 => drop(self.erasure.settle(None).run().await?),
            6 | 7 => self.replace_key().await?,
            8 => {
                let store = node.store();
                if let Ok((store, _)) = store {
                    store.compact().await?;
                }
            }
            _ => {
                // Who waits to ask a node again, or has waited too long for one, has its turn.
                tokio::time::advance(Duration::from_millis(dice.roll(2000) as u64)).await;
                self.erasure.flush().await?;
            }
        }
        Ok(())
    }

    /// Brings another root key, or puts some blocks more under the one that came last.
    async fn replace_key(&self) -> Result<()> {
        if !lock(&self.ring).has_older {
            let ring = {
                let mut ring = lock(&self.ring);
                *ring = Ring { newest: ring.newest + 1, has_older: true };
                ring.clone()
            };
            self.encrypt.set_keys(Ring::key(ring.newest), ring.older()).await;
            return Ok(());
        }
        let mut names: Vec<_> = self.encrypt.older_names().try_collect().await?;
        names.sort_unstable();
        names.dedup();
        let is_last = names.len() <= MOVED_COUNT;
        names.truncate(MOVED_COUNT);
        let mut found = false;
        for name in &names {
            match self.encrypt.put_under_newest(name).await {
                Ok(moved) => found |= moved.is_some(),
                // Of a put that a crash ended half way, and nobody was told of: if not, it is missed at the end.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.erasure.delete(name).await?;
                    found = true;
                }
                Err(error) => return Err(error),
            }
            let Some(newest) = self.encrypt.newest_name(name) else { continue };
            if !self.erasure.repair(&newest).await?.lacking.is_empty() {
                return Ok(());
            }
        }
        if self.nodes.iter().any(|node| node.store().is_err()) {
            return Ok(());
        }
        self.encrypt.flush().await?;
        self.erasure.flush_on_all().await?;
        for name in &names {
            self.encrypt.remove_older(name).await?;
        }
        self.encrypt.flush().await?;
        self.erasure.flush_on_all().await?;
        let is_alone = self.nodes.iter().all(|node| node.store().is_ok());
        if is_last && !found && is_alone && self.erasure.deletions_waiting() == 0 {
            let newest = {
                let mut ring = lock(&self.ring);
                ring.has_older = false;
                ring.newest
            };
            self.encrypt.set_keys(Ring::key(newest), None).await;
        }
        Ok(())
    }

    /// Puts all blocks under the newest key: after that the nodes have none that it does not know. How often a key came.
    pub(crate) async fn end_replacing_the_key(&self) -> u8 {
        self.heal().await.expect("all nodes are there");
        while lock(&self.ring).has_older {
            self.replace_key().await.expect("all nodes are there");
        }
        let names: Vec<_> = self.erasure.keys().try_collect().await.expect("listed");
        for name in names {
            assert!(self.encrypt.key_of(&name).await.expect("told").is_some(), "{name:?} is of a key that went");
        }
        lock(&self.ring).newest
    }

    /// Brings all blocks to full strength, of which there must be none that cannot be.
    pub(crate) async fn assert_whole(&self) {
        let report = self.erasure.scrub(ScrubOptions::default()).run().await.expect("scrubbed").clone();
        assert_eq!(report.weak, 0, "{report:?}");
    }

    /// Repairs all blocks; who is there then and flushes lacks nothing.
    async fn heal(&self) -> Result<()> {
        let before = self.nodes.iter().map(|node| node.state().epoch).collect::<Vec<_>>();
        let mut scrub = self.erasure.scrub(ScrubOptions::default());
        let whole = scrub.run().await?.weak == 0;
        self.erasure.flush().await?;
        let is_there = |n: &usize| {
            let state = self.nodes[*n].state();
            state.open.is_some() && !state.is_away && !state.is_full && state.epoch == before[*n]
        };
        if whole {
            self.behind().retain(|n| !is_there(n));
        }
        Ok(())
    }
}

/// A node: it fails while it is away, and tells of what it lost as those of /zstor do.
#[derive(Debug)]
struct Node {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    disks: [Arc<CrashMedia>; 2],
    /// That of the machine which it is in.
    crash: Arc<Crash>,
    open: Option<Arc<Segments>>,
    /// Counts how often it went: what was asked of it before gets no answer.
    epoch: u64,
    is_away: bool,
    is_full: bool,
    dice: Dice,
    /// What was put and not flushed since, each with the number of its put.
    unflushed: BTreeMap<BlockKey, u64>,
    put_count: u64,
    /// What it had lost when it came back: it does not flush before somebody brings it again or deletes it.
    missing: BTreeSet<BlockKey>,
}

fn away() -> Error {
    Error::new(ErrorKind::Unavailable, "simulate.node").because("the node is away")
}

impl Node {
    fn new(name: String, disks: [Arc<CrashMedia>; 2], crash: Arc<Crash>, is_away: bool, seed: u64) -> Self {
        let state = State {
            disks,
            crash,
            open: None,
            epoch: 0,
            is_away,
            is_full: false,
            dice: Dice::new(seed),
            unflushed: BTreeMap::new(),
            put_count: 0,
            missing: BTreeSet::new(),
        };
        Self { name, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Goes away, ends without a word, or has no room.
    fn ail(&self, dice: &mut Dice) {
        let mut state = self.state();
        match dice.roll(4) {
            0 => state.is_full = true,
            1 => {
                state.is_away = true;
                state.epoch += 1;
            }
            _ => {
                state.is_away = true;
                state.epoch += 1;
                state.open = None;
                let seeds = [dice.bits(), dice.bits()];
                let [data, index] = &state.disks;
                let crash = &state.crash;
                let disks = [data.restart(seeds[0], crash.clone()), index.restart(seeds[1], crash.clone())];
                state.disks = disks.map(Arc::new);
            }
        }
    }

    /// Is there again, with what its disks have.
    async fn come_back(&self) -> Result<()> {
        let (epoch, disks, seed) = {
            let mut state = self.state();
            state.is_full = false;
            if state.open.is_some() {
                state.is_away = false;
                return Ok(());
            }
            (state.epoch, state.disks.clone(), state.dice.bits())
        };
        let small = SegmentsOptions { segment_len_max: 1 << 14, ..SegmentsOptions::default() };
        let env = Clock::default().env(seed);
        let mut dice = Dice::new(seed);
        let [data, index] = disks.map(|disk| turn_taking(&disk, &mut dice));
        let store = Arc::new(Segments::open(data, index, small, &env).await?);
        let unflushed = self.state().unflushed.clone();
        let mut missing = BTreeSet::new();
        for key in unflushed.into_keys() {
            if !store.has(&key).await? {
                missing.insert(key);
            }
        }
        let mut state = self.state();
        // It went once more meanwhile, or somebody else opened it.
        if state.epoch == epoch && state.open.is_none() {
            state.open = Some(store);
            state.missing = missing;
            state.is_away = false;
        }
        Ok(())
    }

    fn store(&self) -> Result<(Arc<Segments>, u64)> {
        let state = self.state();
        let store = state.open.clone().filter(|_| !state.is_away).ok_or_else(away)?;
        Ok((store, state.epoch))
    }

    /// An answer that comes after the node went is none.
    fn still(&self, epoch: u64) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.epoch == epoch && !state.is_away { Ok(state) } else { Err(away()) }
    }
}

#[async_trait]
impl BlockStore for Node {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let (store, epoch) = self.store()?;
        let found = store.get(key).await;
        drop(self.still(epoch)?);
        found
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        let (store, epoch) = self.store()?;
        if self.state().is_full {
            return Err(Error::new(ErrorKind::NoSpace, "simulate.node"));
        }
        let put = store.put(key, block).await;
        let mut state = self.still(epoch)?;
        put?;
        state.put_count += 1;
        let number = state.put_count;
        state.unflushed.insert(key.clone(), number);
        state.missing.remove(key);
        Ok(())
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let (store, epoch) = self.store()?;
        let deleted = store.delete(key).await;
        let mut state = self.still(epoch)?;
        deleted?;
        state.unflushed.remove(key);
        state.missing.remove(key);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let (store, epoch) = self.store()?;
        let covered = {
            let state = self.state();
            if !state.missing.is_empty() {
                let why = format!("{} blocks are missing that were put", state.missing.len());
                return Err(Error::new(ErrorKind::Unavailable, "simulate.node").because(why));
            }
            state.put_count
        };
        let flushed = store.flush().await;
        let mut state = self.still(epoch)?;
        flushed?;
        state.unflushed.retain(|_, number| *number > covered);
        Ok(())
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let keys = async {
            let listed = async {
                let (store, epoch) = self.store()?;
                let keys = store.keys().try_collect::<Vec<_>>().await;
                drop(self.still(epoch)?);
                keys
            };
            match listed.await {
                Ok(keys) => stream::iter(keys).map(Ok).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(keys).flatten().boxed()
    }
}
