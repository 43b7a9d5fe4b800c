//! Nodes go down, hang, slow down, fill up, answer garbage or deny what they have, two of them at a time and at random,
//! under load, for minutes of a clock that a test moves. No flush that was acknowledged is lost, no byte is wrong, no call
//! takes longer than its limits, and when the nodes are well all blocks come back to full strength. One seed is one world.

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::*;
use crate::testing::fault::{BlockCall, Fault};

const WORKERS: usize = 4;
const KEYS_EACH: usize = 15;
const TIME: Duration = Duration::from_mins(5);
/// The longest a call takes, with what goes before it under the same lock: some six time limits.
const CALL_TIME_MAX: Duration = Duration::from_mins(1);
/// The same of a flush, which waits so long for a node itself.
const FLUSH_TIME_MAX: Duration = Duration::from_mins(3);

/// What a worker knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Absent,
    /// Nobody was told how the last call ended.
    Unknown,
    Put,
    Flushed,
}

fn content(n: usize) -> Bytes {
    block(n, 40 * n)
}

async fn in_time<T>(told: &str, time_max: Duration, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let given = work.await;
    assert!(start.elapsed() <= time_max, "{told}: {:?}", start.elapsed());
    given
}

/// Puts, reads, deletes and flushes its own blocks, and knows what has to be there.
async fn work(store: Erasure, seed: u64, worker: usize) -> Vec<(usize, Known)> {
    let mut dice = Dice::new(seed * 100 + worker as u64);
    let mut known: Vec<_> = (0..KEYS_EACH).map(|n| (worker * KEYS_EACH + n, Known::Absent)).collect();
    let start = Instant::now();
    while start.elapsed() < TIME {
        let at = dice.roll(KEYS_EACH);
        let (n, state) = known[at];
        let call = dice.roll(20);
        let told = format!("seed {seed}, block {n}, {state:?}, call {call} at {:?}", start.elapsed());
        match call {
            0..8 => match in_time(&told, CALL_TIME_MAX, store.get(&key(n))).await {
                Ok(Some(found)) => assert!(found == content(n) && state != Known::Absent, "{told}: made up"),
                Ok(None) => assert!(state == Known::Absent || state == Known::Unknown, "{told}: lost"),
                Err(_) => {}
            },
            8..15 => match in_time(&told, CALL_TIME_MAX, store.put(&key(n), content(n))).await {
                Ok(()) if state != Known::Flushed => known[at].1 = Known::Put,
                Err(_) if state == Known::Absent => known[at].1 = Known::Unknown,
                _ => {}
            },
            15 => {
                let deleted = in_time(&told, CALL_TIME_MAX, store.delete(&key(n))).await;
                known[at].1 = if deleted.is_ok() { Known::Absent } else { Known::Unknown };
            }
            16 => drop(in_time(&told, CALL_TIME_MAX, store.repair(&key(n))).await),
            _ => {
                if in_time(&told, FLUSH_TIME_MAX, store.flush()).await.is_ok() {
                    for (_, state) in known.iter_mut().filter(|(_, state)| *state == Known::Put) {
                        *state = Known::Flushed;
                    }
                }
            }
        }
        sleep(Duration::from_millis(dice.roll(2000) as u64)).await;
    }
    known
}

/// Has two nodes fail at most at a time, in all ways.
async fn torment(nodes: Vec<Arc<Faulty<Mem>>>, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut ill = Vec::new();
    let start = Instant::now();
    while start.elapsed() < TIME {
        if ill.len() == 2 || (!ill.is_empty() && dice.roll(2) == 0) {
            let healed: usize = ill.swap_remove(dice.roll(ill.len()));
            nodes[healed].heal();
        } else {
            let n = dice.roll(nodes.len());
            if !ill.contains(&n) {
                ill.push(n);
                let node = &nodes[n];
                match dice.roll(7) {
                    0 => node.set_offline(true),
                    1 => node.set_answer_time(Duration::MAX),
                    2 => node.set_answer_time(Duration::from_secs(10)),
                    3 => node.set_answer_time(Duration::from_millis(dice.roll(3000) as u64)),
                    4 => (0..200).for_each(|_| node.fail_next(BlockCall::Put, ErrorKind::NoSpace)),
                    5 => node.fault_all(Fault::Lie(dice.bytes(100).into())),
                    _ => node.fault_all(Fault::Lose),
                }
            }
        }
        sleep(Duration::from_millis(dice.roll(20_000) as u64)).await;
    }
    for node in &nodes {
        node.heal();
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_fail_at_random_lose_nothing() {
    let mut flushed = 0;
    for seed in 0..6 {
        let nodes = faulty(8);
        let store = erasure(&nodes, 4, 2);
        let mut workers: JoinSet<_> = (0..WORKERS).map(|worker| work(store.clone(), seed, worker)).collect();
        torment(nodes.clone(), seed).await;
        let mut known = Vec::new();
        while let Some(worker) = workers.join_next().await {
            known.extend(worker.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
        }
        sleep(Duration::from_mins(2)).await;
        let down = store.node_status().into_iter().find(|status| status.down.is_some());
        assert_eq!((down, store.repairs_waiting()), (None, 0), "seed {seed}");
        let report = store.scrub(ScrubOptions::default()).run().await.expect("scrub").clone();
        assert_eq!(report.weak, 0, "seed {seed}: {report:?}");
        for (n, state) in known {
            // What nobody was told of may be there in part.
            if state == Known::Unknown {
                continue;
            }
            flushed += usize::from(state == Known::Flushed);
            assert!(report.unhealed_keys.iter().all(|(unhealed, _)| *unhealed != key(n)), "seed {seed}: {report:?}");
            let found = store.get(&key(n)).await.unwrap_or_else(|error| panic!("seed {seed}, block {n}: {error:#}"));
            assert_eq!(found, (state != Known::Absent).then(|| content(n)), "seed {seed}, block {n}: {state:?}");
            let again = store.repair(&key(n)).await.expect("repair");
            assert_eq!((again.bad, again.missing, again.removed), (0, 0, 0), "seed {seed}, block {n}");
        }
    }
    assert!(flushed > 60, "{flushed} blocks were flushed");
}
