//! What was acknowledged is found by whoever comes next: the same directory after a stop anywhere, or a new one with any m
//! nodes away; and of several machines at most one goes on.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Buf as _;
use futures_util::stream::BoxStream;
use muxfs::{
    BlockKey,
    block::Mem,
    media::{Media, MemMedia},
    testing::{
        self,
        fault::{Crash, CrashMedia, Dice, Faulty},
    },
};

use tempfile::TempDir;

use super::*;
use crate::RootKey;

type Nodes = Vec<Arc<Faulty<Mem>>>;

/// What six nodes of 4 + 2 keep, for a directory that is alone with them.
const ALONE: HeadsOptions =
    HeadsOptions { write_min: 5, access: Access::Write, is_known: false, is_exclusive: true, takes_over: false };
const KNOWN: HeadsOptions = HeadsOptions { is_known: true, ..ALONE };

/// Randomness that no two machines have in common.
fn env() -> Env {
    static MACHINES: AtomicU64 = AtomicU64::new(0);
    let fill = |buffer: &mut [u8]| {
        let seed = MACHINES.fetch_add(1, Ordering::Relaxed);
        buffer.copy_from_slice(&Dice::new(seed).bytes(buffer.len()));
    };
    Env { fill: Arc::new(fill), ..testing::env() }
}

fn nodes(count: usize) -> Nodes {
    (0..count).map(|_| Arc::new(Faulty::new(Mem::default()))).collect()
}

fn name() -> Name {
    Name::new(b"main").expect("a name")
}

async fn open(nodes: &Nodes, local: Arc<dyn Media>, options: HeadsOptions) -> Result<NodeHeads> {
    open_on(nodes.iter().map(|node| Arc::clone(node) as Arc<dyn BlockStore>), local, options).await
}

async fn open_on(
    nodes: impl Iterator<Item = Arc<dyn BlockStore>>,
    local: Arc<dyn Media>,
    options: HeadsOptions,
) -> Result<NodeHeads> {
    let stores = nodes.zip(0..).map(|(node, n)| (format!("node {n}"), node));
    let local = LogHeads::open(local, &env()).await?;
    NodeHeads::open(stores, local, &key(7).into(), options, pins_lost(), &env()).await
}

fn key(n: u8) -> RootKey {
    RootKey::new([n; 32])
}

fn pins_lost() -> PathBuf {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().expect("a directory")).path().join("pins-lost")
}

fn mem() -> Arc<MemMedia> {
    Arc::new(MemMedia::default())
}

fn head(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

async fn load(heads: &NodeHeads) -> Result<u64> {
    Ok(heads.load(&name()).await?.map_or(0, |(mut head, _)| head.get_u64_le()))
}

async fn swap(heads: &NodeHeads, number: u64) -> Result<Swap> {
    let version = heads.load(&name()).await?.map(|(_, version)| version);
    heads.swap(&name(), version.as_ref(), head(number)).await
}

async fn set(heads: &NodeHeads, number: u64) {
    assert!(matches!(swap(heads, number).await.expect("swap"), Swap::Done(_)));
}

fn set_offline(nodes: &Nodes, away: &[usize]) {
    for (n, node) in nodes.iter().enumerate() {
        node.set_offline(away.contains(&n));
    }
}

fn drawn(dice: &mut Dice, count: usize, size: usize) -> Vec<usize> {
    let mut all: Vec<_> = (0..count).collect();
    (0..size).map(|_| all.swap_remove(dice.roll(all.len()))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_machine_finds_what_was_acknowledged_last() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let nodes = nodes(6);
        let (mut done, mut tried) = (0, 0);
        for _ in 0..6 {
            let away = drawn(&mut dice, 6, 1);
            set_offline(&nodes, &away);
            let heads = open(&nodes, mem(), ALONE).await.expect("one may be away");
            let found = load(&heads).await.expect("load");
            assert!((done..=tried).contains(&found), "seed {seed}: {found} is one of {done} to {tried}");
            done = found;
            tried = found;
            for _ in 0..dice.roll(6) {
                let away_count = dice.roll(4);
                set_offline(&nodes, &drawn(&mut dice, 6, away_count));
                if swap(&heads, tried + 1).await.is_ok() {
                    assert!(away_count < 2, "seed {seed}: fewer than five acknowledged");
                    done = tried + 1;
                }
                tried += 1;
                // Another attempt has to wait for this one.
                if load(&heads).await.is_err() {
                    break;
                }
                done = tried;
            }
        }
    }
}

#[tokio::test]
async fn the_same_directory_goes_on_with_fewer_nodes_and_commits_when_they_are_back() {
    let (nodes, local) = (nodes(6), mem());
    let heads = open(&nodes, local.clone(), ALONE).await.expect("open");
    set(&heads, 1).await;
    drop(heads);
    set_offline(&nodes, &[0, 1, 2, 3, 4, 5]);
    let heads = open(&nodes, local, KNOWN).await.expect("it has a copy");
    assert_eq!(load(&heads).await.expect("load"), 1);
    assert_eq!(swap(&heads, 2).await.expect_err("nobody keeps it").kind(), ErrorKind::Unavailable);
    assert_eq!(load(&heads).await.expect("nothing was tried"), 1);
    set_offline(&nodes, &[3]);
    set(&heads, 2).await;
    assert_eq!(open(&nodes, mem(), ALONE).await.expect("five are there").names(), [name()]);
    set_offline(&nodes, &[0, 1, 2, 4, 5]);
    let error = open(&nodes, mem(), ALONE).await.expect_err("one may be behind");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:#}").contains("node 0"), "{error:#}");
}

#[tokio::test]
async fn a_stop_at_any_call_of_this_disk_loses_nothing() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let nodes = nodes(6);
        let mut local = Arc::new(CrashMedia::new(Crash::at(dice.roll(40) as u64)));
        let (mut done, mut tried, mut is_known) = (0, 0, false);
        for life in 0..8 {
            set_offline(&nodes, &drawn(&mut dice, 6, life % 2));
            let opened = open(&nodes, local.clone(), HeadsOptions { is_known, ..ALONE }).await;
            if let Ok(heads) = opened {
                is_known = true;
                for _ in 0..dice.roll(5) {
                    let Ok(found) = load(&heads).await else { break };
                    assert!((done..=tried).contains(&found), "seed {seed}: {found} is one of {done} to {tried}");
                    done = found;
                    tried = done + 1;
                    if !matches!(swap(&heads, tried).await, Ok(Swap::Done(_))) {
                        break;
                    }
                    done = tried;
                }
                if dice.roll(3) == 0 {
                    drop(heads.close().await);
                }
            } else if let Err(error) = opened {
                assert_ne!(error.kind(), ErrorKind::Denied, "seed {seed}: nobody else is there: {error:#}");
            }
            local = Arc::new(local.restart(dice.bits(), Crash::at(dice.roll(40) as u64)));
        }
        set_offline(&nodes, &[]);
        let local = Arc::new(local.restart(dice.bits(), Crash::never()));
        let heads = open(&nodes, local, HeadsOptions { is_known, ..ALONE }).await.expect("open");
        let found = load(&heads).await.expect("load");
        assert!((done..=tried).contains(&found), "seed {seed}: {found} is one of {done} to {tried}");
    }
}

#[tokio::test]
async fn a_machine_that_was_passed_over_learns_of_it() {
    let nodes = nodes(6);
    let shared = HeadsOptions { is_exclusive: false, ..ALONE };
    let first_local = mem();
    let first = open(&nodes, first_local.clone(), shared).await.expect("open");
    set(&first, 1).await;
    let error = open(&nodes, mem(), shared).await.expect_err("the first has not ended");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(format!("{error:#}").contains("take-over"), "{error:#}");
    set(&first, 2).await;
    let second = open(&nodes, mem(), HeadsOptions { takes_over: true, ..shared }).await.expect("somebody said so");
    assert_eq!(load(&second).await.expect("load"), 2);
    let error = swap(&first, 3).await.expect_err("it is the second's");
    assert_eq!(error.kind(), ErrorKind::Denied);
    set(&second, 4).await;
    assert_eq!(swap(&first, 5).await.expect_err("for good").kind(), ErrorKind::Denied);
    assert_eq!(first.check_alone().await.expect_err("it collects nothing").kind(), ErrorKind::Denied);
    second.check_alone().await.expect("the second does");
    drop(first);
    let error = open(&nodes, first_local, HeadsOptions { is_known: true, ..shared }).await.expect_err("a fork");
    assert_eq!(error.kind(), ErrorKind::Denied);
    second.close().await.expect("close");
    assert!(pins_lost().exists(), "what only pins of the first kept is not collected");
    let third = open(&nodes, mem(), shared).await.expect("the second has ended");
    assert_eq!(load(&third).await.expect("load"), 4);
}

async fn copy_of(local: &MemMedia) -> Arc<MemMedia> {
    let copy = mem();
    for segment in local.segments().await.expect("segments") {
        let len = u32::try_from(segment.len).expect("short");
        copy.append(segment.id, local.read_at(segment.id, 0, len).await.expect("read")).await.expect("append");
    }
    copy
}

/// What its journal says belongs to a state that went on.
#[tokio::test]
async fn a_copy_of_an_older_directory_is_refused() {
    let (nodes, local) = (nodes(6), mem());
    let heads = open(&nodes, local.clone(), ALONE).await.expect("open");
    set(&heads, 1).await;
    let copy = copy_of(&local).await;
    set(&heads, 2).await;
    set(&heads, 3).await;
    drop(heads);
    let error = open(&nodes, copy, KNOWN).await.expect_err("the nodes are two ahead");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(format!("{error:#}").contains("a copy of an older state"), "{error:#}");
    assert_eq!(load(&open(&nodes, local, KNOWN).await.expect("open")).await.expect("load"), 3);
}

/// Machines that open the same nodes at once and answer to nobody: acknowledged swaps are one chain.
#[tokio::test(start_paused = true)]
async fn of_machines_at_once_no_two_go_on_from_one_head() {
    let mut acknowledged = 0;
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let nodes = nodes(6);
        let heads = open(&nodes, mem(), ALONE).await.expect("open");
        set(&heads, 1).await;
        heads.close().await.expect("close");
        let machine = |machine: u64, start: Duration| {
            let nodes = nodes.clone();
            async move {
                tokio::time::sleep(start).await;
                let options = HeadsOptions { is_exclusive: false, takes_over: true, ..ALONE };
                let (mut steps, mut dice) = (Vec::new(), Dice::new(seed * 10 + machine));
                let Ok(heads) = open(&nodes, mem(), options).await else { return steps };
                for n in 0..5 {
                    tokio::time::sleep(Duration::from_millis(dice.roll(3000) as u64)).await;
                    let Ok(before) = load(&heads).await else { break };
                    let after = 1000 * machine + n;
                    if !matches!(swap(&heads, after).await, Ok(Swap::Done(_))) {
                        break;
                    }
                    steps.push((before, after));
                }
                steps
            }
        };
        for node in &nodes {
            node.set_answer_time(Duration::from_millis(dice.roll(50) as u64));
        }
        // Some at the same moment, some while another is at work.
        let spread = [800, 15_000][dice.roll(2)];
        let mut millis = || Duration::from_millis(dice.roll(spread) as u64);
        let (a, b, c) = tokio::join!(machine(2, millis()), machine(3, millis()), machine(4, millis()));
        let steps: Vec<_> = [a, b, c].concat();
        acknowledged += steps.len();
        let from: BTreeSet<_> = steps.iter().map(|(before, _)| before).collect();
        assert_eq!(from.len(), steps.len(), "seed {seed}: two went on from one head: {steps:?}");
    }
    assert!(acknowledged > 120, "{acknowledged} swaps");
}

/// A head that too few nodes took is what a new machine would go on from when those come back: nothing that it needs is
/// collected before it is outranked, and then nobody finds it any more.
#[tokio::test]
async fn what_was_never_acknowledged_does_not_come_back_behind_a_collection() {
    let (nodes, local) = (nodes(6), mem());
    let heads = open(&nodes, local.clone(), ALONE).await.expect("open");
    set(&heads, 1).await;
    set_offline(&nodes, &[0, 1, 2, 3]);
    assert_eq!(swap(&heads, 2).await.expect_err("two keep it").kind(), ErrorKind::Unavailable);
    assert_eq!(heads.check_alone().await.expect_err("it may come to count").kind(), ErrorKind::Unavailable);
    drop(heads);
    set_offline(&nodes, &[4, 5]);
    let heads = open(&nodes, local, KNOWN).await.expect("open");
    assert_eq!(load(&heads).await.expect("load"), 1);
    assert_eq!(heads.check_alone().await.expect_err("two others may have newer ones").kind(), ErrorKind::Unavailable);
    set_offline(&nodes, &[4]);
    heads.check_alone().await.expect("five have these again");
    drop(heads);
    for away in 0..4 {
        set_offline(&nodes, &[away]);
        assert_eq!(load(&open(&nodes, mem(), ALONE).await.expect("open")).await.expect("load"), 1, "without {away}");
    }
}

/// The claim of an opening that found too few nodes was taken for another's by its next attempt.
#[tokio::test]
async fn a_claim_that_too_few_nodes_took_is_made_again() {
    for is_exclusive in [true, false] {
        let (nodes, local) = (nodes(6), mem());
        let options = HeadsOptions { is_exclusive, ..ALONE };
        set(&open(&nodes, local.clone(), options).await.expect("open"), 1).await;
        set_offline(&nodes, &[0, 1]);
        let heads = open(&nodes, local, HeadsOptions { is_known: true, ..options }).await.expect("it has a copy");
        assert_eq!(swap(&heads, 2).await.expect_err("four are there").kind(), ErrorKind::Unavailable);
        set_offline(&nodes, &[]);
        set(&heads, 2).await;
        assert_eq!(load(&heads).await.expect("load"), 2);
    }
}

#[tokio::test]
async fn a_copy_one_commit_old_is_refused_to_write_and_may_be_looked_at() {
    let (nodes, local) = (nodes(6), mem());
    let heads = open(&nodes, local.clone(), ALONE).await.expect("open");
    set(&heads, 1).await;
    let copy = copy_of(&local).await;
    set(&heads, 2).await;
    drop(heads);
    assert_eq!(open(&nodes, copy.clone(), KNOWN).await.expect_err("one ahead").kind(), ErrorKind::Denied);
    let looking = open(&nodes, copy, HeadsOptions { access: Access::Look, ..KNOWN }).await.expect("told in the log");
    assert_eq!(load(&looking).await.expect("load"), 1);
    assert_eq!(swap(&looking, 3).await.expect_err("never").kind(), ErrorKind::Denied);
}

/// A node whose deletions can be slow, and go on when nobody waits for them any more, as calls of a disk do.
#[derive(Debug)]
struct Slow {
    inner: Arc<Faulty<Mem>>,
    is_slow: AtomicBool,
}

#[async_trait]
impl BlockStore for Slow {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.inner.get_range(key, range).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.inner.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let (inner, key, is_slow) = (self.inner.clone(), key.clone(), self.is_slow.load(Ordering::Relaxed));
        let deleted = tokio::spawn(async move {
            if is_slow {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
            inner.delete(&key).await
        });
        deleted.await.expect("no panic")
    }
    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// What a slow node did of one edition, when nobody waited for it any more, took away the one after the next, which it had
/// been counted for: a new machine found an older one.
#[tokio::test(start_paused = true)]
async fn what_a_slow_node_does_late_takes_nothing_away() {
    let nodes = nodes(6);
    let slow = Arc::new(Slow { inner: nodes[5].clone(), is_slow: AtomicBool::default() });
    let stores = nodes[..5].iter().map(|node| Arc::clone(node) as Arc<dyn BlockStore>);
    let stores = stores.chain([Arc::clone(&slow) as Arc<dyn BlockStore>]);
    let heads = open_on(stores, mem(), ALONE).await.expect("open");
    set(&heads, 1).await;
    slow.is_slow.store(true, Ordering::Relaxed);
    set(&heads, 2).await;
    slow.is_slow.store(false, Ordering::Relaxed);
    set(&heads, 3).await;
    set_offline(&nodes, &[0]);
    set(&heads, 4).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    set_offline(&nodes, &[1, 2, 3, 4]);
    let looking = open(&nodes, mem(), HeadsOptions { access: Access::Look, ..ALONE }).await.expect("two tell");
    assert_eq!(load(&looking).await.expect("load"), 4);
}

/// The heads are read at each moment of another key being taken, and by nobody with the older one when it was: who tries is
/// told, and writes nothing.
#[tokio::test(start_paused = true)]
async fn the_heads_go_on_under_another_key() {
    let (nodes, both) = (nodes(6), crate::KeyRing::from(key(7)).with_new(&env()));
    let local = mem();
    let heads = open(&nodes, local.clone(), ALONE).await.expect("open");
    set(&heads, 1).await;
    heads.set_keys(both.of("node heads")).await;
    // One that is away keeps what it has under the older key, which is behind from here on.
    nodes[4].set_offline(true);
    set(&heads, 2).await;
    nodes[4].set_offline(false);
    let reopened = async |ring: crate::KeyRing| {
        let stores =
            nodes.iter().zip(0..).map(|(node, n)| (format!("node {n}"), Arc::clone(node) as Arc<dyn BlockStore>));
        let local = LogHeads::open(mem(), &env()).await?;
        let options = HeadsOptions { access: Access::Look, ..ALONE };
        NodeHeads::open(stores, local, &ring, options, pins_lost(), &env()).await
    };
    let read = async |ring: &crate::KeyRing| load(&reopened(ring.clone()).await?).await;
    assert_eq!(read(&both).await.expect("both keys"), 2);
    assert_eq!(read(&key(7).into()).await.expect_err("it is behind").kind(), ErrorKind::BadKey);
    nodes[3].set_offline(true);
    heads.rekey().await.expect_err("a node is away");
    assert_eq!(read(&both).await.expect("both keys"), 2);
    nodes[3].set_offline(false);
    heads.rekey().await.expect("all are there");
    heads.rekey().await.expect("again");
    let alone = both.with_newest_alone();
    assert_eq!((read(&both).await.expect("both keys"), read(&alone).await.expect("the newest")), (2, 2));
    let error = read(&key(7).into()).await.expect_err("the older one");
    assert_eq!(error.kind(), ErrorKind::BadKey, "{error:#}");
    heads.set_keys(alone.of("node heads")).await;
    set(&heads, 3).await;
    assert_eq!(read(&alone).await.expect("the newest"), 3);
    // What is under the older key says nothing but that.
    for node in &nodes {
        assert_eq!(node.inner().block_count(), 3, "an edition in each slot of the epoch, and that");
    }
}
