//! Writes that others run beside, and writes that stop at any call: what can be read can be read throughout.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::TryStreamExt;

use super::*;
use crate::{
    block::{Segments, SegmentsOptions},
    testing::{
        env,
        fault::{Crash, CrashMedia},
    },
};

/// Nodes that take their time, each call another: a read beside writes finds the block or none, and no error.
#[tokio::test]
async fn a_read_beside_writes_finds_all_or_nothing() {
    for seed in 0..30 {
        let nodes: Vec<_> = (0..8).map(|n| Arc::new(Wavering::new(seed * 100 + n))).collect();
        let (store, former) = (erasure(&nodes, 4, 2), erasure(&nodes, 2, 2));
        let writer = {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..12 {
                    match round % 4 {
                        0 | 2 => store.put(&key(0), block(0, 900)).await.expect("put"),
                        1 => drop(store.reencode(&key(0)).await.expect("reencode")),
                        _ => store.delete(&key(0)).await.expect("delete"),
                    }
                }
            })
        };
        while !writer.is_finished() {
            let found = store.get(&key(0)).await.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
            assert!(found.is_none() || found == Some(block(0, 900)), "seed {seed}: a part");
        }
        writer.await.expect("no panic");
        former.put(&key(1), block(1, 900)).await.expect("put");
        let change = tokio::spawn({
            let store = store.clone();
            async move { store.reencode(&key(1)).await }
        });
        while !change.is_finished() {
            let found = store.get(&key(1)).await.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
            assert!(found == Some(block(1, 900)), "seed {seed}: it was there all the time");
        }
        assert!(change.await.expect("no panic").expect("reencode"));
    }
}

/// A store that lets others run before and after it does what it is told.
#[derive(Debug)]
struct Wavering {
    inner: Mem,
    dice: Mutex<Dice>,
}

impl Wavering {
    fn new(seed: u64) -> Self {
        Self { inner: Mem::default(), dice: Mutex::new(Dice::new(seed)) }
    }

    async fn waver(&self) {
        let count = self.dice.lock().expect("no panic").roll(6);
        for _ in 0..count {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl BlockStore for Wavering {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.waver().await;
        let found = self.inner.get(key).await;
        self.waver().await;
        found
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.waver().await;
        self.inner.put(key, block).await?;
        self.waver().await;
        Ok(())
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.waver().await;
        self.inner.delete(key).await?;
        self.waver().await;
        Ok(())
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// A node in a machine that stops at a call, counted over all nodes of it.
#[derive(Debug)]
struct Stopping {
    inner: Arc<Mem>,
    calls: Arc<AtomicU64>,
    at: u64,
}

impl Stopping {
    fn go_on(&self) -> Result<()> {
        if self.calls.fetch_add(1, Ordering::SeqCst) < self.at {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "stopping").because("the machine stopped"))
    }
}

#[async_trait]
impl BlockStore for Stopping {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.go_on()?;
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.go_on()?;
        self.inner.get_range(key, range).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.go_on()?;
        self.inner.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.go_on()?;
        self.inner.delete(key).await
    }
    async fn flush(&self) -> Result<()> {
        self.go_on()
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// The layer over these nodes in a machine that stops at a call; and how many calls there were.
pub(super) fn stopping(nodes: &[Arc<Mem>], at: u64, k: u8, m: u8) -> (Erasure, Arc<AtomicU64>) {
    let calls = Arc::new(AtomicU64::new(0));
    let stopping = |inner: &Arc<Mem>| Arc::new(Stopping { inner: Arc::clone(inner), calls: Arc::clone(&calls), at });
    let store = erasure(&nodes.iter().map(stopping).collect::<Vec<_>>(), k, m);
    (store, calls)
}

/// New nodes with the same blocks.
pub(super) async fn copies(nodes: &[Arc<Mem>]) -> Vec<Arc<Mem>> {
    let mut copies = Vec::new();
    for node in nodes {
        let copy = Mem::default();
        let keys: Vec<_> = node.keys().try_collect().await.expect("keys");
        for key in keys {
            copy.put(&key, node.get(&key).await.expect("get").expect("listed")).await.expect("put");
        }
        copies.push(Arc::new(copy));
    }
    copies
}

pub(super) async fn mems(count: usize, k: u8, m: u8) -> Vec<Arc<Mem>> {
    let nodes: Vec<_> = (0..count).map(|_| Arc::new(Mem::default())).collect();
    erasure(&nodes, k, m).put(&key(0), block(0, 700)).await.expect("put");
    nodes
}

/// A put over a block that is there in whole or in part, stopped at every call: what could be read can be read, and the
/// next put goes through.
#[tokio::test]
async fn a_stopped_put_takes_nothing_away() {
    let [slot, other_slot] = slots(&key(0));
    for (state, k, m) in (0..8).flat_map(|state| [(state, 4, 2), (state, 3, 3), (state, 2, 4), (state, 1, 2)]) {
        let begun = mems(6, 4, 2).await;
        match state {
            // Whole; two shards lost; two damaged; two in the other slot; four lost.
            0 => {}
            1 => {
                for node in &begun[1..3] {
                    node.delete(&slot).await.expect("delete");
                }
            }
            2 => {
                for node in &begun[1..3] {
                    node.delete(&slot).await.expect("delete");
                    node.put(&slot, block(9, 100)).await.expect("damage");
                }
            }
            3 => {
                for node in &begun[1..3] {
                    let shard = node.get(&slot).await.expect("get").expect("its shard");
                    node.delete(&slot).await.expect("delete");
                    node.put(&other_slot, shard).await.expect("put");
                }
            }
            4 => {
                for node in &begun[1..5] {
                    node.delete(&slot).await.expect("delete");
                }
            }
            // Beside it another stripe that was begun; and that beside too few of the first.
            5 => drop(stopping(&begun, 15, 3, 3).0.reencode(&key(0)).await),
            6 => drop(stopping(&begun, 14, 5, 1).0.reencode(&key(0)).await),
            _ => {
                for node in &begun[2..] {
                    node.delete(&slot).await.expect("delete");
                }
                let (store, _) = stopping(&begun, 15, 3, 3);
                assert!(store.put(&key(0), block(0, 700)).await.is_err(), "broken off");
            }
        }
        let is_readable = state != 4 && state != 7;
        for at in 0.. {
            let nodes = copies(&begun).await;
            let (store, calls) = stopping(&nodes, at, k, m);
            let result = store.put(&key(0), block(0, 700)).await;
            let stopped = calls.load(Ordering::SeqCst) > at;
            let told = format!("state {state}, {k}+{m}, stopped at call {at}");
            assert!(stopped || result.is_ok(), "{told}: {result:?}");
            for (k, m) in [(4, 2), (k, m)] {
                match erasure(&nodes, k, m).get(&key(0)).await {
                    Ok(found) => {
                        assert!(found == Some(block(0, 700)) || (!is_readable && found.is_none()), "{told}: lost");
                    }
                    Err(error) => assert!(!is_readable && result.is_err(), "{told}: {error:#}"),
                }
            }
            let next = erasure(&nodes, k, m);
            next.put(&key(0), block(0, 700)).await.unwrap_or_else(|error| panic!("{told}, put again: {error:#}"));
            assert_eq!(get(&next, &key(0)).await, Some(block(0, 700)), "{told}");
            if !stopped {
                assert!(at > 5, "it made calls");
                break;
            }
        }
    }
}

/// A block is brought to other parameters, stopped at every call, then to others again, stopped at every call: it can be
/// read throughout, and in the end nothing of the old is left.
#[tokio::test]
async fn a_stopped_reencoding_takes_nothing_away() {
    let begun = mems(7, 4, 2).await;
    for first in 0.. {
        let half = copies(&begun).await;
        let (store, calls) = stopping(&half, first, 2, 3);
        let result = store.reencode(&key(0)).await;
        let first_stopped = calls.load(Ordering::SeqCst) > first;
        assert!(first_stopped || result.expect("not stopped"), "there was something to do");
        for second in (0..).step_by(if first_stopped { 3 } else { 1 }) {
            let nodes = copies(&half).await;
            let (store, calls) = stopping(&nodes, second, 3, 4);
            let result = store.reencode(&key(0)).await;
            let stopped = calls.load(Ordering::SeqCst) > second;
            assert!(stopped || result.is_ok(), "{result:?}");
            for (k, m) in [(4, 2), (2, 3), (3, 4)] {
                let found = erasure(&nodes, k, m).get(&key(0)).await;
                let told = format!("stopped at {first}, then at {second}: {found:?}");
                assert_eq!(found.ok(), Some(Some(block(0, 700))), "{told}");
            }
            let last = erasure(&nodes, 3, 4);
            assert_eq!(
                last.reencode(&key(0)).await.expect("not stopped"),
                stopped,
                "stopped at {first}, then at {second}"
            );
            assert_whole(&nodes, &key(0), 3, 4).await;
            assert!(!last.reencode(&key(0)).await.expect("again"), "there is nothing left to do");
            if !stopped {
                break;
            }
        }
        if !first_stopped {
            assert!(first > 20, "it made calls");
            break;
        }
    }
}

/// The same with nodes that lose at the stop what they have not flushed.
#[tokio::test]
async fn a_crashed_reencoding_takes_nothing_away() {
    type Disks = Vec<[Arc<CrashMedia>; 2]>;
    async fn open(disks: &Disks, k: u8, m: u8) -> Result<Erasure> {
        let mut nodes = Vec::new();
        for [data, index] in disks {
            let (data, index) = (Arc::clone(data), Arc::clone(index));
            nodes.push(Arc::new(Segments::open(data, index, SegmentsOptions::default(), &env()).await?));
        }
        Ok(erasure(&nodes, k, m))
    }
    fn restart(disks: &Disks, seed: u64, crash: &Arc<Crash>) -> Disks {
        let disk = |disk: &CrashMedia, n: usize| Arc::new(disk.restart(seed * 100 + n as u64, Arc::clone(crash)));
        disks.iter().enumerate().map(|(n, [data, index])| [disk(data, 2 * n), disk(index, 2 * n + 1)]).collect()
    }
    let never = Crash::never();
    let new = |_| [(); 2].map(|()| Arc::new(CrashMedia::new(Arc::clone(&never))));
    let begun: Disks = (0..6).map(new).collect();
    let store = open(&begun, 4, 2).await.expect("open");
    store.put(&key(0), block(0, 700)).await.expect("put");
    store.flush().await.expect("flush");
    drop(store);
    for at in 0.. {
        let crash = Crash::at(at);
        let disks = restart(&begun, at, &crash);
        let result = match open(&disks, 3, 3).await {
            Ok(store) => store.reencode(&key(0)).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(crash.happened() || result.is_ok(), "{result:?}");
        for seed in 0..3 {
            let disks = restart(&disks, at * 3 + seed, &Crash::never());
            let store = open(&disks, 3, 3).await.expect("open");
            assert_eq!(get(&store, &key(0)).await, Some(block(0, 700)), "crash at {at}, seed {seed}");
            store.reencode(&key(0)).await.expect("it goes on");
            assert_eq!(get(&store, &key(0)).await, Some(block(0, 700)), "crash at {at}, seed {seed}");
        }
        if !crash.happened() {
            assert!(at > 20, "it made calls");
            break;
        }
    }
}
