//! What nodes that are away miss is brought to them when they are back, by this process or by the next: shards, so that
//! blocks are whole again, and deletions, so that nothing that is gone comes back.

use futures_util::TryStreamExt;
use tokio::time::sleep;

use super::*;
use crate::{
    media::{Media, MemMedia},
    testing::{
        env,
        fault::{BlockCall, Crash, CrashMedia},
    },
};

/// Longer than a node that is down is ever left alone.
const A_WHILE: Duration = Duration::from_mins(2);

async fn open<B: BlockStore>(nodes: &[Arc<B>], (k, m): (u8, u8), owed: Arc<dyn Media>) -> Result<Erasure> {
    let nodes: Vec<_> =
        nodes.iter().enumerate().map(|(n, store)| ErasureNode::new(name(n), Arc::clone(store))).collect();
    Erasure::open(nodes, options(k, m), owed, &env()).await
}

fn set_offline(nodes: &[Arc<Faulty<Mem>>], away: &[usize], offline: bool) {
    for node in away {
        nodes[*node].set_offline(offline);
    }
}

fn shard_count(nodes: &[Arc<Faulty<Mem>>]) -> usize {
    nodes.iter().map(|node| node.inner().block_count()).sum()
}

async fn keys(store: &Erasure) -> BTreeSet<BlockKey> {
    store.keys().try_collect().await.expect("keys")
}

/// With 2 + 2 the two that missed a deletion have enough to give the block back.
#[tokio::test(start_paused = true)]
async fn what_is_deleted_without_some_nodes_stays_deleted_when_they_are_back() {
    for (k, m) in [(4, 2), (2, 2), (1, 2)] {
        let count = usize::from(k + m);
        for away in sets(count, m.into()) {
            let nodes = faulty(count);
            let store = erasure(&nodes, k, m);
            store.put(&key(0), block(0, 100)).await.expect("put");
            set_offline(&nodes, &away, true);
            store.delete(&key(0)).await.expect("m may be away");
            store.delete(&key(0)).await.expect("what is owed already is no more than that");
            assert_eq!(store.deletions_waiting(), usize::from(m), "{k}+{m} without {away:?}");
            // Nobody noticed yet that they are back.
            set_offline(&nodes, &away, false);
            assert_eq!(get(&store, &key(0)).await, None, "{k}+{m} without {away:?}");
            assert!(!store.has(&key(0)).await.expect("has") && keys(&store).await.is_empty());
            assert_eq!(store.repair(&key(0)).await.expect("repair"), RepairReport::default());
            sleep(A_WHILE).await;
            assert_eq!((store.deletions_waiting(), shard_count(&nodes)), (0, 0), "{k}+{m} without {away:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_after_a_deletion_is_not_deleted() {
    for away in sets(4, 2) {
        let nodes = faulty(4);
        let store = erasure(&nodes, 2, 2);
        store.put(&key(0), block(0, 100)).await.expect("put");
        set_offline(&nodes, &away, true);
        store.delete(&key(0)).await.expect("delete");
        set_offline(&nodes, &away[1..], false);
        store.put(&key(0), block(0, 100)).await.expect("three are there");
        set_offline(&nodes, &away, false);
        sleep(A_WHILE).await;
        assert_eq!((store.deletions_waiting(), store.repairs_waiting()), (0, 0));
        assert_whole(&nodes, &key(0), 2, 2).await;
    }
}

/// The node is back, and has to delete what it missed, while a put of the same block waits for its turn: that comes first,
/// and its shard there is none that was missed.
#[tokio::test(start_paused = true)]
async fn a_late_deletion_takes_nothing_of_a_put_that_came_before_it() {
    let nodes = faulty(4);
    let store = erasure(&nodes, 2, 2);
    store.put(&key(0), block(0, 100)).await.expect("put");
    set_offline(&nodes, &[3], true);
    store.delete(&key(0)).await.expect("one may be away");
    for node in &nodes[..3] {
        node.set_answer_time(Duration::from_secs(8));
    }
    let others = async || {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    let (first, second) = (store.clone(), store.clone());
    let repairing = tokio::spawn(async move { first.repair(&key(0)).await.map(drop) });
    others().await;
    let putting = tokio::spawn(async move { second.put(&key(0), block(0, 100)).await });
    others().await;
    set_offline(&nodes, &[3], false);
    while store.node_status()[3].down.is_some() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(!repairing.is_finished(), "both wait for it");
    repairing.await.expect("it ends").expect("nothing is there");
    putting.await.expect("it ends").expect("put");
    sleep(A_WHILE).await;
    assert_eq!((store.deletions_waiting(), store.repairs_waiting()), (0, 0));
    assert_whole(&nodes, &key(0), 2, 2).await;
}

/// Whatever of a block a node has, in either slot.
#[tokio::test(start_paused = true)]
async fn a_late_deletion_takes_all_that_a_node_has() {
    for slot in slots(&key(0)) {
        let nodes = faulty(4);
        let store = erasure(&nodes, 2, 2);
        store.put(&key(0), block(0, 100)).await.expect("put");
        set_offline(&nodes, &[3], true);
        store.delete(&key(0)).await.expect("one may be away");
        nodes[3].inner().delete(&slots(&key(0))[0]).await.expect("deleted");
        nodes[3].inner().put(&slot, "of another time".into()).await.expect("put");
        set_offline(&nodes, &[3], false);
        sleep(A_WHILE).await;
        assert_eq!((store.deletions_waiting(), shard_count(&nodes)), (0, 0));
    }
}

#[tokio::test]
async fn a_deletion_that_too_many_miss_names_them() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    store.put(&key(0), block(0, 100)).await.expect("put");
    set_offline(&nodes, &[1, 2, 4], true);
    let error = store.delete(&key(0)).await.expect_err("three may give it back with one more");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_names(&error, &[1, 2, 4]);
    // Nobody who repairs nothing by itself owes anything either.
    let store = idle(&nodes, 4, 2);
    set_offline(&nodes, &[1, 4], false);
    assert_names(&store.delete(&key(0)).await.expect_err("one is missed"), &[2]);
    set_offline(&nodes, &[2], false);
    store.delete(&key(0)).await.expect("delete");
    assert_eq!((get(&store, &key(0)).await, shard_count(&nodes)), (None, 0));
}

#[tokio::test]
async fn more_deletions_than_are_remembered_are_refused() {
    let nodes = faulty(6);
    let stores = nodes.iter().enumerate().map(|(n, store)| ErasureNode::new(name(n), Arc::clone(store)));
    let store = Erasure::new(stores, ErasureOptions { repairs_max: 3, ..options(4, 2) }).expect("room");
    nodes[5].set_offline(true);
    for n in 0..3 {
        store.delete(&key(n)).await.expect("remembered");
    }
    assert_names(&store.delete(&key(3)).await.expect_err("too many"), &[5]);
    store.delete(&key(1)).await.expect("it is remembered already");
}

#[tokio::test(start_paused = true)]
async fn a_restart_forgets_nothing_that_is_owed() {
    let nodes = faulty(6);
    let log = Arc::new(MemMedia::default());
    let store = open(&nodes, (4, 2), log.clone()).await.expect("open");
    for n in 0..30 {
        store.put(&key(n), block(n, 100)).await.expect("put");
    }
    store.flush().await.expect("flush");
    set_offline(&nodes, &[0, 3], true);
    for n in 0..10 {
        store.delete(&key(n)).await.expect("delete");
    }
    store.flush().await.expect("flush");
    set_offline(&nodes, &[0], false);
    for n in 30..40 {
        store.put(&key(n), block(n, 100)).await.expect("put");
    }
    for n in 5..10 {
        store.put(&key(n), block(n, 100)).await.expect("put again");
    }
    store.flush().await.expect("flush");
    drop(store);
    let store = open(&nodes, (4, 2), log.clone()).await.expect("open");
    sleep(A_WHILE).await;
    assert!(store.deletions_waiting() >= 5 && store.repairs_waiting() >= 15, "one is still away");
    drop(store);
    set_offline(&nodes, &[3], false);
    let store = open(&nodes, (4, 2), log.clone()).await.expect("open");
    for n in 0..5 {
        assert_eq!(get(&store, &key(n)).await, None, "{n} is gone from the first moment");
    }
    sleep(A_WHILE).await;
    assert_eq!((store.deletions_waiting(), store.repairs_waiting()), (0, 0));
    let report = store.scrub(ScrubOptions::default()).run().await.expect("scrub").clone();
    assert_eq!((report.blocks, report.shards.shards_read, report.shards.missing), (35, 35 * 6, 0), "{report:?}");
    // What is paid is taken out when it is durable.
    store.flush().await.expect("flush");
    store.close().await.expect("close");
    let len: u64 = log.segments().await.expect("segments").iter().map(|segment| segment.len).sum();
    assert!(len < 500, "{len} bytes of nothing");
}

/// A node that forgets what it did since its last flush, as one that ends without a word does.
async fn lose_power(node: &Faulty<Mem>, flushed: &[(BlockKey, Bytes)]) {
    let now: Vec<BlockKey> = node.inner().keys().try_collect().await.expect("keys");
    for key in now {
        node.inner().delete(&key).await.expect("delete");
    }
    for (key, bytes) in flushed {
        node.inner().put(key, bytes.clone()).await.expect("put");
    }
}

async fn contents(node: &Faulty<Mem>) -> Vec<(BlockKey, Bytes)> {
    let keys: Vec<BlockKey> = node.inner().keys().try_collect().await.expect("keys");
    let mut contents = Vec::new();
    for key in keys {
        let bytes = node.inner().get(&key).await.expect("get").expect("it is there");
        contents.push((key, bytes));
    }
    contents
}

/// Nodes deleted what they had and went before they had flushed: with 2 + 2 the two of them brought the block back from the
/// dead, and with 4 + 2 one that was corrupt. Told of it they had been, so that nobody owed them anything.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_a_node_did_not_flush_is_owed_to_it() {
    for (k, m) in [(4, 2), (2, 2), (1, 2)] {
        for away in sets(usize::from(k + m), m.into()) {
            for is_restarted in [false, true] {
                let told = format!("{k}+{m} without {away:?}, restarted: {is_restarted}");
                let (nodes, log) = (faulty(usize::from(k + m)), Arc::new(CrashMedia::new(Crash::never())));
                let mut store = open(&nodes, (k, m), log.clone()).await.expect("open");
                store.put(&key(0), block(0, 100)).await.expect("put");
                store.put(&key(1), block(1, 100)).await.expect("put");
                store.flush().await.expect("flush");
                let mut before = Vec::new();
                for node in &nodes {
                    before.push(contents(node).await);
                }
                store.delete(&key(0)).await.expect("delete");
                store.delete(&key(1)).await.expect("delete");
                store.put(&key(1), block(1, 100)).await.expect("put again");
                set_offline(&nodes, &away, true);
                store.flush().await.expect_err("too few have what was put again");
                set_offline(&nodes, &away[1..], false);
                store.flush().await.unwrap_or_else(|error| panic!("{told}: {error:#}"));
                assert_eq!(store.deletions_waiting(), 1, "{told}");
                for node in &away[..1] {
                    lose_power(&nodes[*node], &before[*node]).await;
                }
                if is_restarted {
                    drop(store);
                    let log = Arc::new(log.restart(k.into(), Crash::never()));
                    store = open(&nodes, (k, m), log).await.expect("open");
                }
                set_offline(&nodes, &away, false);
                assert_eq!(get(&store, &key(0)).await, None, "{told}");
                assert_eq!(keys(&store).await, [key(1)].into(), "{told}");
                sleep(A_WHILE).await;
                assert_eq!((store.deletions_waiting(), shard_count(&nodes)), (0, usize::from(k + m)), "{told}");
                assert_eq!(get(&store, &key(1)).await, Some(block(1, 100)), "{told}");
            }
        }
    }
}

/// A deletion that was carried out late is as little worth before the node flushes.
#[tokio::test(start_paused = true)]
async fn a_late_deletion_is_owed_until_it_is_flushed() {
    let nodes = faulty(4);
    let store = erasure(&nodes, 2, 2);
    store.put(&key(0), block(0, 100)).await.expect("put");
    store.flush().await.expect("flush");
    let before = contents(&nodes[3]).await;
    set_offline(&nodes, &[3], true);
    store.delete(&key(0)).await.expect("delete");
    store.flush().await.expect("flush");
    nodes[3].fail_next(BlockCall::Flush, ErrorKind::Unavailable);
    let count = nodes[3].calls(BlockCall::Flush);
    set_offline(&nodes, &[3], false);
    // The node deletes, and goes before it has flushed.
    while nodes[3].calls(BlockCall::Flush) == count {
        sleep(Duration::from_millis(1)).await;
    }
    lose_power(&nodes[3], &before).await;
    assert!(store.deletions_waiting() == 1 && get(&store, &key(0)).await.is_none());
    sleep(A_WHILE).await;
    assert_eq!((store.deletions_waiting(), shard_count(&nodes)), (0, 0));
}

/// At a start nobody has asked the nodes yet. One that was away still seemed to be there: all that it was owed was read
/// and repaired in vain, once for each start.
#[tokio::test(start_paused = true)]
async fn nothing_is_repaired_for_a_node_before_it_answers() {
    let (nodes, log) = (faulty(6), Arc::new(MemMedia::default()));
    let store = open(&nodes, (4, 2), log.clone()).await.expect("open");
    set_offline(&nodes, &[2], true);
    for n in 0..20 {
        store.put(&key(n), block(n, 100)).await.expect("put");
    }
    store.flush().await.expect("flush");
    drop(store);
    sleep(A_WHILE).await;
    let reads = || nodes.iter().map(|node| node.calls(BlockCall::Read)).sum::<u64>();
    let before = reads();
    let store = open(&nodes, (4, 2), log.clone()).await.expect("open");
    sleep(A_WHILE).await;
    assert!(reads() < before + 20, "{} reads while it is away", reads() - before);
    assert_eq!(store.repairs_waiting(), 20);
    // One that is there is brought what it lacks, though nobody asked it for anything.
    set_offline(&nodes, &[2], false);
    drop(store);
    let store = open(&nodes, (4, 2), log).await.expect("open");
    sleep(A_WHILE).await;
    assert_eq!((store.repairs_waiting(), shard_count(&nodes)), (0, 20 * 6));
}

/// A node was taken out of the configuration for a while. What it was to delete was forgotten when the log was written anew,
/// and came back with it.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_none_for_a_while_is_owed_its_deletions() {
    let (nodes, log) = (faulty(5), Arc::new(MemMedia::default()));
    let store = open(&nodes, (1, 2), log.clone()).await.expect("open");
    for n in 0..20 {
        store.put(&key(n), block(n, 100)).await.expect("put");
    }
    store.flush().await.expect("flush");
    set_offline(&nodes, &[3, 4], true);
    for n in 0..20 {
        store.delete(&key(n)).await.expect("delete");
    }
    store.flush().await.expect("flush");
    drop(store);
    let store = open(&nodes[..3], (1, 2), log.clone()).await.expect("open");
    for n in 0..5 {
        store.put(&key(n), block(n, 100)).await.expect("put again");
    }
    for round in 0..3 {
        // As often as the log is written anew.
        set_offline(&nodes, &[0], true);
        for n in 100..900 {
            store.put(&key(n), block(n, 10)).await.expect("put");
        }
        set_offline(&nodes, &[0], false);
        sleep(A_WHILE).await;
        for n in 100..900 {
            store.delete(&key(n)).await.expect("delete");
        }
        store.flush().await.expect("flush");
        assert_eq!((store.repairs_waiting(), store.deletions_waiting()), (0, 0), "round {round}");
    }
    store.close().await.expect("close");
    drop(store);
    set_offline(&nodes, &[3, 4], false);
    let store = open(&nodes, (1, 2), log).await.expect("open");
    for n in 0..20 {
        assert_eq!(get(&store, &key(n)).await, (n < 5).then(|| block(n, 100)), "block {n}");
    }
    sleep(A_WHILE).await;
    assert_eq!((store.deletions_waiting(), keys(&store).await), (0, (0..5).map(key).collect()));
}

/// What somebody knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Absent,
    Present,
    /// Not told, or not flushed before a crash.
    Unknown,
}

/// Puts, deletions, flushes, nodes that come and go, and crashes at any call of the log: what a flush acknowledged stays, and
/// in the end every block that is there is whole.
#[tokio::test(start_paused = true)]
async fn crashes_at_random_forget_nothing_that_was_flushed() {
    const BLOCKS: usize = 12;
    let mut checked = 0;
    for seed in 0..150 {
        let mut dice = Dice::new(seed);
        let (k, m) = [(4, 2), (2, 2), (3, 1)][dice.roll(3)];
        let nodes = faulty(usize::from(k + m));
        let mut media = Arc::new(CrashMedia::new(Crash::at(dice.roll(60) as u64)));
        let (mut now, mut flushed) = ([Known::Absent; BLOCKS], [Known::Absent; BLOCKS]);
        for life in 0..6 {
            let Ok(store) = open(&nodes, (k, m), media.clone()).await else {
                media = Arc::new(media.restart(dice.bits(), Crash::never()));
                continue;
            };
            let mut changed = [false; BLOCKS];
            for step in 0..40 {
                let told = format!("seed {seed}, life {life}, step {step}");
                let n = dice.roll(BLOCKS);
                match dice.roll(10) {
                    0..3 => {
                        let put = store.put(&key(n), block(n, 50)).await;
                        now[n] = if put.is_ok() { Known::Present } else { Known::Unknown };
                    }
                    3..6 => {
                        let deleted = store.delete(&key(n)).await;
                        now[n] = if deleted.is_ok() { Known::Absent } else { Known::Unknown };
                    }
                    6 => {
                        if store.flush().await.is_ok() {
                            (flushed, changed) = (now, [false; BLOCKS]);
                        }
                    }
                    7 => {
                        let away = drawn(&mut dice, nodes.len(), m.into());
                        set_offline(&nodes, &(0..nodes.len()).collect::<Vec<_>>(), false);
                        set_offline(&nodes, &away[..dice.roll(usize::from(m) + 1)], true);
                    }
                    8 => sleep(Duration::from_millis(dice.roll(5000) as u64)).await,
                    _ => {
                        if let Ok(found) = store.get(&key(n)).await {
                            let is_right = match now[n] {
                                Known::Absent => found.is_none(),
                                Known::Present => found == Some(block(n, 50)),
                                Known::Unknown => found.is_none_or(|found| found == block(n, 50)),
                            };
                            assert!(is_right, "{told}: block {n} is {:?}", now[n]);
                        }
                    }
                }
                changed[n] |= now[n] != flushed[n];
            }
            drop(store);
            for n in (0..BLOCKS).filter(|n| changed[*n]) {
                flushed[n] = Known::Unknown;
            }
            now = flushed;
            // The task in the background ends with the store.
            sleep(Duration::from_millis(1)).await;
            media = Arc::new(media.restart(dice.bits(), Crash::at(dice.roll(60) as u64)));
        }
        set_offline(&nodes, &(0..nodes.len()).collect::<Vec<_>>(), false);
        let store = open(&nodes, (k, m), Arc::new(media.restart(dice.bits(), Crash::never()))).await.expect("open");
        sleep(A_WHILE).await;
        assert_eq!((store.deletions_waiting(), store.repairs_waiting()), (0, 0), "seed {seed}");
        for (n, known) in flushed.into_iter().enumerate() {
            let is_there = match (known, store.get(&key(n)).await) {
                (Known::Unknown, _) => continue,
                (_, found) => found.unwrap_or_else(|error| panic!("seed {seed}, block {n}: {known:?}, {error:#}")),
            };
            assert_eq!(is_there.is_some(), known == Known::Present, "seed {seed}, block {n}");
            let report = store.repair(&key(n)).await.expect("repair");
            assert_eq!(report.missing, 0, "seed {seed}, block {n}: {known:?}, {report:?}");
            checked += 1;
        }
    }
    assert!(checked > 300, "{checked} blocks were known");
}
