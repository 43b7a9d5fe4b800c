//! Nodes that do not answer, or take long: what they cost, once and afterwards. The clock stands still but for what is
//! waited for, so the times are exact.

use futures_util::TryStreamExt;
use tokio::time::{Instant, sleep};

use super::*;
use crate::testing::fault::BlockCall;

/// What nodes have to answer.
const LIMIT: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::MAX;

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// How long it takes, with what comes of it.
async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let start = Instant::now();
    let given = work.await;
    (start.elapsed(), given)
}

fn down(store: &Erasure) -> Vec<usize> {
    let status = store.node_status();
    status.iter().enumerate().filter(|(_, status)| status.down.is_some()).map(|(node, _)| node).collect()
}

fn reads(nodes: &[Arc<Faulty<Mem>>]) -> Vec<u64> {
    nodes.iter().map(|node| node.calls(BlockCall::Read)).collect()
}

/// The first read asks others after a moment, the next ones ask those at once: no time limit is waited for.
#[tokio::test(start_paused = true)]
async fn a_read_waits_for_no_time_limit() {
    for lost in sets(6, 2) {
        let nodes = faulty(6);
        let store = erasure(&nodes, 4, 2);
        for n in 0..20 {
            store.put(&key(n), block(n, 500)).await.expect("put");
        }
        for node in &lost {
            nodes[*node].set_answer_time(NEVER);
        }
        let mut late_count = 0;
        for n in 0..20 {
            let (took, found) = timed(get(&store, &key(n))).await;
            assert_eq!(found, Some(block(n, 500)));
            late_count += usize::from(took > Duration::ZERO);
            assert!(took <= millis(100), "{lost:?} hang: {took:?}");
        }
        assert!(late_count <= lost.len(), "{late_count} reads asked a node that hangs");
        sleep(LIMIT * 2).await;
        assert_eq!(down(&store), lost, "that is known now");
        let (took, found) = timed(store.get(&key(99))).await;
        assert_eq!((took, found.expect("known")), (Duration::ZERO, None), "absent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_fails_is_asked_once_and_then_when_it_matters() {
    let nodes = faulty(8);
    let store = erasure(&nodes, 4, 2);
    for n in 0..50 {
        store.put(&key(n), block(n, 500)).await.expect("put");
    }
    nodes[3].set_offline(true);
    let before = reads(&nodes)[3];
    for n in 0..50 {
        assert_eq!(get(&store, &key(n)).await, Some(block(n, 500)));
        assert_eq!(store.get(&key(100 + n)).await.expect("known"), None);
    }
    assert_eq!(reads(&nodes)[3] - before, 1, "once, and the clock stands still for a probe");
    assert_eq!(down(&store), [3]);
    // Of a block that has lost two others it takes this one: back, but not probed yet.
    nodes[3].set_offline(false);
    let n = (0..50).find(|n| store.nodes_of(&key(*n)).contains(&name(3).as_str())).expect("one of many");
    let others: Vec<_> =
        (0..8).filter(|node| *node != 3 && store.nodes_of(&key(n)).contains(&name(*node).as_str())).collect();
    for node in &others[..2] {
        nodes[*node].set_offline(true);
    }
    assert_eq!(get(&store, &key(n)).await, Some(block(n, 500)));
    assert_eq!(down(&store), others[..2], "its answer was noted");
}

/// Nobody calls: the probe in the background finds it, after at most twice as long as it was away.
#[tokio::test(start_paused = true)]
async fn a_node_comes_back_by_itself() {
    for away_secs in [0, 1, 10, 1000] {
        let nodes = faulty(6);
        let store = erasure(&nodes, 4, 2);
        store.put(&key(0), block(0, 500)).await.expect("put");
        for node in &nodes {
            node.set_offline(true);
        }
        assert_eq!(store.get(&key(0)).await.expect_err("none is there").kind(), ErrorKind::Unavailable);
        assert_eq!(down(&store).len(), 6);
        sleep(Duration::from_secs(away_secs)).await;
        assert_eq!(down(&store).len(), 6);
        let probes = reads(&nodes)[0];
        assert!(probes < 15 + away_secs / 20, "{probes} probes in {away_secs} s");
        for node in &nodes {
            node.heal();
        }
        sleep(Duration::from_secs((away_secs + 1).min(30))).await;
        assert_eq!(down(&store), [0; 0], "away for {away_secs} s");
        let before = reads(&nodes);
        sleep(Duration::from_secs(1000)).await;
        assert_eq!(reads(&nodes), before, "nothing is probed that is up");
    }
}

/// The nodes take 10 ms and one of them 400: it is asked last, and waited for less than that.
#[tokio::test(start_paused = true)]
async fn a_slow_node_slows_nothing_down() {
    for slow in 0..6 {
        let nodes = faulty(6);
        for node in &nodes {
            node.set_answer_time(millis(10));
        }
        let store = erasure(&nodes, 4, 2);
        for n in 0..30 {
            store.put(&key(n), block(n, 500)).await.expect("put");
        }
        nodes[slow].set_answer_time(millis(400));
        // One slow answer may be chance.
        for _ in 0..2 {
            for n in 0..30 {
                let (took, found) = timed(get(&store, &key(n))).await;
                assert!(found == Some(block(n, 500)) && took <= millis(45), "node {slow} is slow, read {n}: {took:?}");
            }
            sleep(millis(1000)).await;
        }
        assert_eq!(down(&store), [0; 0], "slow is not down");
        let before = reads(&nodes)[slow];
        for n in 0..30 {
            let (took, found) = timed(get(&store, &key(n))).await;
            assert!(found == Some(block(n, 500)) && took <= millis(10), "node {slow} is slow, read {n}: {took:?}");
        }
        assert_eq!(reads(&nodes)[slow], before, "the others do");
        // It is quick again, and tried again after a while.
        nodes[slow].set_answer_time(millis(10));
        sleep(Duration::from_mins(1)).await;
        for n in 0..30 {
            assert_eq!(get(&store, &key(n)).await, Some(block(n, 500)));
        }
        assert!(reads(&nodes)[slow] > before + 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_waits_for_a_node_that_hangs_once() {
    for hung in 0..6 {
        let nodes = faulty(6);
        let store = erasure(&nodes, 4, 2);
        nodes[hung].set_answer_time(NEVER);
        let (took, put) = timed(store.put(&key(0), block(0, 500))).await;
        put.expect("five of six have a shard");
        assert_eq!(took, LIMIT);
        for n in 1..10 {
            let (took, put) = timed(store.put(&key(n), block(n, 500))).await;
            put.expect("five of six have a shard");
            assert_eq!(took, Duration::ZERO);
            let (took, deletion) = timed(store.delete(&key(n))).await;
            deletion.expect("what it has is owed");
            assert_eq!(took, Duration::ZERO);
        }
        let (took, flush) = timed(store.flush()).await;
        flush.expect("five nodes made durable what five have");
        assert_eq!(took, Duration::ZERO);
        // One that is slow is waited for twice: it is asked what it has, and given a shard.
        nodes[hung].heal();
        nodes[(hung + 1) % 6].set_answer_time(millis(9_000));
        let (took, put) = timed(store.put(&key(20), block(20, 500))).await;
        put.expect("slow is not down");
        assert_eq!(took, millis(18_000));
    }
}

/// Each call ends by itself whoever hangs, with an error where too few answer, and then costs less than the first time.
#[tokio::test(start_paused = true)]
async fn no_call_hangs() {
    for hung_count in [1, 2, 3, 6] {
        for call in 0..8 {
            let nodes = faulty(6);
            let store = erasure(&nodes, 4, 2);
            store.put(&key(0), block(0, 500)).await.expect("put");
            for node in &nodes[..hung_count] {
                node.set_answer_time(NEVER);
            }
            for round in 0..2 {
                let work = async {
                    match call {
                        0 => store.get(&key(0)).await.map(drop),
                        1 => store.has(&key(0)).await.map(drop),
                        2 => store.block_len(&key(0)).await.map(drop),
                        3 => store.put(&key(1), block(1, 500)).await,
                        4 => store.delete(&key(0)).await,
                        5 => store.reencode(&key(0)).await.map(drop),
                        6 => store.keys().try_collect::<Vec<_>>().await.map(drop),
                        _ => store.flush().await,
                    }
                };
                let (took, result) = timed(work).await;
                let told = format!("call {call}, {hung_count} hang, round {round}: {took:?}, {result:?}");
                let needed = match call {
                    0..3 | 4 => 4,
                    3 | 7 => 5,
                    6 => 2,
                    _ => 6,
                };
                assert_eq!(result.is_ok(), 6 - hung_count >= needed, "{told}");
                let limits = match call {
                    6 => 6,
                    7 => 12,
                    _ => 3,
                };
                assert!(took <= LIMIT * limits, "{told}");
                if round > 0 && result.is_ok() && call != 6 {
                    assert_eq!(took, Duration::ZERO, "{told}");
                }
            }
        }
    }
}

/// A call that had begun before its node went ended after it, well; the node was taken to be there, and as nobody asked it
/// anything more it was never looked for again.
#[tokio::test(start_paused = true)]
async fn an_answer_from_before_it_went_does_not_bring_a_node_back() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    let n = (0..50).find(|n| store.nodes_of(&key(*n))[..4].contains(&name(3).as_str())).expect("one of many");
    store.put(&key(n), block(n, 500)).await.expect("put");
    nodes[3].set_answer_time(millis(60));
    let slow = tokio::spawn({
        let store = store.clone();
        async move { store.get(&key(n)).await }
    });
    // Its call of the node is under way.
    sleep(millis(30)).await;
    nodes[3].set_answer_time(Duration::ZERO);
    nodes[3].fail_next(BlockCall::Flush, crate::ErrorKind::Unavailable);
    store.flush().await.expect("the others are enough");
    assert_eq!(down(&store), [3]);
    assert_eq!(slow.await.expect("ends").expect("read"), Some(block(n, 500)));
    sleep(millis(30)).await;
    assert_eq!(down(&store), [3], "what it answered was asked before");
    sleep(millis(1000)).await;
    assert_eq!(down(&store), [0; 0], "a probe found it");
}

/// The end of a listing that had failed was taken for an answer.
#[tokio::test(start_paused = true)]
async fn a_listing_that_fails_does_not_bring_a_node_back() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    store.put(&key(1), block(1, 500)).await.expect("put");
    nodes[3].set_offline(true);
    let listed: Vec<_> = store.keys().try_collect().await.expect("the others have all");
    assert!(listed.contains(&key(1)));
    assert_eq!(down(&store), [3]);
}
