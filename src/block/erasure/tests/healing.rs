//! Repair and scrub: what is bad or missing is found, counted and healed, exactly, and nothing that can be read is ever
//! put at risk for it.

use std::{num::NonZeroU64, sync::atomic::Ordering};

use tokio::time::{Instant, sleep};

use super::{
    stops::{copies, mems, stopping},
    *,
};
use crate::testing::fault::{BlockCall, Fault};

fn mem_nodes(count: usize) -> Vec<Arc<Mem>> {
    (0..count).map(|_| Arc::new(Mem::default())).collect()
}

/// The number of the node that a shard of the block belongs on.
fn place(store: &Erasure, key: &BlockKey, index: usize) -> usize {
    store.nodes_of(key)[index].strip_prefix("node-").expect("its name").parse().expect("its number")
}

async fn replace(node: &Mem, slot: &BlockKey, bytes: Bytes) {
    node.delete(slot).await.expect("delete");
    node.put(slot, bytes).await.expect("put");
}

/// Flips a bit of the shard of a block, anywhere in it.
async fn flip(node: &Mem, key: &BlockKey, dice: &mut Dice) {
    let [slot, _] = slots(key);
    let mut bytes = node.get(&slot).await.expect("get").expect("its shard").to_vec();
    let bit = dice.roll(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    replace(node, &slot, bytes.into()).await;
}

async fn scrub(store: &Erasure) -> ScrubReport {
    store.scrub(ScrubOptions::default()).run().await.expect("scrub").clone()
}

/// A thousand bits flipped in a thousand shards, at most m of a block: one scrub finds and heals exactly those.
#[tokio::test]
async fn a_scrub_finds_and_heals_every_flipped_bit() {
    const SEED: u64 = 3;
    const BLOCKS: usize = 700;
    let mut dice = Dice::new(SEED);
    let nodes = mem_nodes(8);
    let store = erasure(&nodes, 4, 2);
    for n in 0..BLOCKS {
        store.put(&key(n), block(n, 100 + n)).await.expect("put");
    }
    let mut shards: Vec<_> = (0..2 * BLOCKS).collect();
    for _ in 0..1000 {
        let n = shards.swap_remove(dice.roll(shards.len()));
        // Of each block two neighbours at most.
        let first = 5 * (n / 2 % 2);
        flip(&nodes[place(&store, &key(n / 2), (first + n % 2) % 6)], &key(n / 2), &mut dice).await;
    }
    let report = scrub(&store).await;
    let RepairReport { shards_read, bytes_read, bad, missing, healed, removed, lacking } = report.shards;
    assert_eq!((bad, healed, missing, removed), (1000, 1000, 0, 0), "seed {SEED}");
    let len: usize = (0..BLOCKS).map(|n| 6 * ((100 + n).div_ceil(4) + SHARD_HEADER_LEN)).sum();
    assert_eq!((shards_read, bytes_read), (6 * BLOCKS as u64, len as u64), "seed {SEED}");
    assert_eq!((report.blocks, report.weak, report.unhealed), (BLOCKS as u64, 0, 0), "seed {SEED}");
    assert!(lacking.is_empty() && report.unhealed_keys.is_empty());
    for n in 0..BLOCKS {
        assert_whole(&nodes, &key(n), 4, 2).await;
    }
    let again = scrub(&store).await.shards;
    assert_eq!(
        again,
        RepairReport { shards_read, bytes_read, ..RepairReport::default() },
        "there is nothing left to do"
    );
}

/// Shards lost, damaged, made up with a right checksum, moved to other nodes and doubled, any way: after a repair each is
/// there once, where it belongs.
#[tokio::test]
async fn a_repair_brings_a_block_back_to_full_strength() {
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let nodes = mem_nodes(9);
        let store = erasure(&nodes, 4, 2);
        store.put(&key(0), block(0, 700)).await.expect("put");
        let [slot, other_slot] = slots(&key(0));
        for index in drawn(&mut dice, 6, 2) {
            let node = &nodes[place(&store, &key(0), index)];
            let shard = node.get(&slot).await.expect("get").expect("its shard");
            match dice.roll(4) {
                0 => node.delete(&slot).await.expect("delete"),
                1 => flip(node, &key(0), &mut dice).await,
                2 => {
                    let mut header = super::shard::Header::decode(&shard).expect("a shard");
                    let data = dice.bytes(shard.len() - SHARD_HEADER_LEN);
                    header.data_crc = crc32c::crc32c(&data);
                    replace(node, &slot, [&header.encode()[..], &data].concat().into()).await;
                }
                _ => {
                    // What is bad is in the way of nothing.
                    node.put(&other_slot, dice.bytes(20).into()).await.expect("put");
                    node.delete(&slot).await.expect("delete");
                }
            }
        }
        for index in 0..6 {
            let shard = nodes[place(&store, &key(0), index)].get(&slot).await.expect("get");
            if let Some(shard) = shard
                && dice.roll(3) == 0
            {
                let stray = dice.roll(9);
                let at = if nodes[stray].has(&slot).await.expect("has") { &other_slot } else { &slot };
                nodes[stray].put(at, shard).await.expect("put");
            }
        }
        let report = store.repair(&key(0)).await.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        assert!(report.lacking.is_empty(), "seed {seed}: {report:?}");
        assert_whole(&nodes, &key(0), 4, 2).await;
        for index in 0..6 {
            let node = &nodes[place(&store, &key(0), index)];
            assert!(node.has(&slot).await.expect("has") || node.has(&other_slot).await.expect("has"), "seed {seed}");
        }
        let again = store.repair(&key(0)).await.expect("repair");
        assert_eq!((again.healed, again.bad, again.missing, again.removed), (0, 0, 0, 0), "seed {seed}");
    }
}

/// What a stop leaves can be read, and the next repair ends it.
#[tokio::test]
async fn a_stopped_repair_takes_nothing_away() {
    let [slot, other_slot] = slots(&key(0));
    for state in 0..5 {
        let begun = mems(8, 4, 2).await;
        let store = erasure(&begun, 4, 2);
        let at = |index| Arc::clone(&begun[place(&store, &key(0), index)]);
        let away: Vec<_> = (0..8).filter(|node| !store.nodes_of(&key(0)).contains(&name(*node).as_str())).collect();
        match state {
            // Two lost; two damaged; two on other nodes; one doubled in the place of another; another stripe begun.
            0 => {
                for index in [1, 4] {
                    at(index).delete(&slot).await.expect("delete");
                }
            }
            1 => {
                for index in [0, 5] {
                    replace(&at(index), &slot, block(9, 100)).await;
                }
            }
            2 => {
                for (index, away) in [2, 3].into_iter().zip(&away) {
                    let shard = at(index).get(&slot).await.expect("get").expect("its shard");
                    begun[*away].put(&slot, shard).await.expect("put");
                    at(index).delete(&slot).await.expect("delete");
                }
            }
            3 => {
                for (index, double) in [(1, 2), (3, 4)] {
                    let shard = at(index).get(&slot).await.expect("get").expect("its shard");
                    replace(&at(double), &slot, shard.clone()).await;
                    begun[away[0]].put(&slot, shard.clone()).await.expect("put");
                    at(index).put(&other_slot, shard).await.expect("put");
                }
            }
            _ => {
                assert!(stopping(&begun, 18, 3, 3).0.reencode(&key(0)).await.is_err(), "broken off");
                at(1).delete(&slot).await.expect("delete");
            }
        }
        for at in 0.. {
            let nodes = copies(&begun).await;
            let (store, calls) = stopping(&nodes, at, 4, 2);
            let result = store.repair(&key(0)).await;
            let stopped = calls.load(Ordering::SeqCst) > at;
            let told = format!("state {state}, stopped at call {at}");
            assert!(stopped || result.is_ok(), "{told}: {result:?}");
            let next = erasure(&nodes, 4, 2);
            assert_eq!(get(&next, &key(0)).await, Some(block(0, 700)), "{told}");
            next.repair(&key(0)).await.unwrap_or_else(|error| panic!("{told}, repaired again: {error:#}"));
            assert_eq!(get(&next, &key(0)).await, Some(block(0, 700)), "{told}");
            assert_whole(&nodes, &key(0), 4, 2).await;
            if !stopped {
                assert!(at > 15, "it made calls");
                break;
            }
        }
    }
}

/// Nodes were added, and shards are where they do not belong any more: none goes before all that were written instead are
/// durable.
#[tokio::test]
async fn nothing_is_removed_before_the_rest_is_durable() {
    for unflushed in 0..6 {
        let nodes = faulty(12);
        let store = idle(&nodes, 4, 2);
        store.put(&key(0), block(0, 700)).await.expect("put");
        let [slot, _] = slots(&key(0));
        let away: Vec<_> = (0..12).filter(|node| !store.nodes_of(&key(0)).contains(&name(*node).as_str())).collect();
        for (index, away) in away.iter().enumerate() {
            let place = nodes[place(&store, &key(0), index)].inner();
            let shard = place.get(&slot).await.expect("get").expect("its shard");
            nodes[*away].inner().put(&slot, shard).await.expect("put");
            place.delete(&slot).await.expect("delete");
        }
        let count = || away.iter().map(|node| nodes[*node].inner().block_count()).sum::<usize>();
        let failing = place(&store, &key(0), unflushed);
        nodes[failing].fail_next(BlockCall::Flush, ErrorKind::Io);
        assert_names(&store.repair(&key(0)).await.expect_err("one is not durable"), &[failing]);
        assert_eq!(count(), 6);
        let report = store.repair(&key(0)).await.expect("repair");
        assert_eq!((report.healed, report.removed, count()), (0, 6, 0));
    }
}

/// Nodes fail at random in the middle of it, in any way: whatever it says, the block is there, and one more repair with
/// all nodes brings it back.
#[tokio::test]
async fn a_repair_among_failing_nodes_takes_nothing_away() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let nodes = faulty(8);
        let store = erasure(&nodes, 4, 2);
        store.put(&key(0), block(0, 700)).await.expect("put");
        let [slot, _] = slots(&key(0));
        let lost = place(&store, &key(0), dice.roll(6));
        nodes[lost].inner().delete(&slot).await.expect("delete");
        for _ in 0..5 {
            let node = &nodes[dice.roll(8)];
            match dice.roll(5) {
                0 => node.set_offline(true),
                1 => node.fault_all(Fault::Lose),
                2 => node.fault_all(Fault::Lie(dice.bytes(60).into())),
                3 => node.fail_next(BlockCall::Put, ErrorKind::NoSpace),
                _ => node.fail_next(BlockCall::Delete, ErrorKind::Io),
            }
            let result = store.repair(&key(0)).await;
            if dice.roll(2) == 0 {
                for node in &nodes {
                    node.heal();
                }
                assert_eq!(get(&store, &key(0)).await, Some(block(0, 700)), "seed {seed}: {result:?}");
            }
        }
        for node in &nodes {
            node.heal();
        }
        assert_eq!(get(&store, &key(0)).await, Some(block(0, 700)), "seed {seed}");
        let report = store.repair(&key(0)).await.expect("repair");
        assert!(report.lacking.is_empty(), "seed {seed}: {report:?}");
        let again = store.repair(&key(0)).await.expect("repair");
        assert_eq!((again.healed, again.bad, again.missing), (0, 0, 0), "seed {seed}");
    }
}

#[tokio::test]
async fn a_repair_says_what_it_lacks() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    store.put(&key(0), block(0, 700)).await.expect("put");
    assert_eq!(store.repair(&key(1)).await.expect("repair"), RepairReport::default(), "absent");
    nodes[2].set_offline(true);
    let report = store.repair(&key(0)).await.expect("readable");
    assert!(report.lacking.len() == 1 && report.lacking[0].starts_with("node-02: "), "{report:?}");
    nodes[3].set_offline(true);
    nodes[4].set_offline(true);
    let error = store.repair(&key(0)).await.expect_err("three are left");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_names(&error, &[2, 3, 4]);
    for node in &nodes {
        node.heal();
    }
    let [slot, _] = slots(&key(0));
    for node in &nodes[..3] {
        node.inner().delete(&slot).await.expect("delete");
    }
    assert_eq!(store.repair(&key(0)).await.expect_err("lost").kind(), ErrorKind::Corrupt);
    let report = scrub(&store).await;
    assert_eq!((report.blocks, report.unhealed, report.unhealed_keys.len()), (1, 1, 1));
    assert_eq!(report.unhealed_keys[0].0, key(0));
}

/// Every block once, in whatever pieces it is done, and with room for a few keys only.
#[tokio::test]
async fn a_scrub_goes_on_where_it_ended() {
    let nodes = mem_nodes(7);
    let store = erasure(&nodes, 4, 2);
    for n in 0..100 {
        store.put(&key(n), block(n, 50)).await.expect("put");
    }
    for (window_count, step_count) in [(1, 7), (10, 3), (10, 1000), (100, 33), (1000, 1000)] {
        let (mut blocks, mut after, mut covered) = (0, None, 0.0);
        loop {
            let options = ScrubOptions { after: after.clone(), bytes_per_sec: None };
            let mut part = Scrub::with_window(Arc::clone(&store.inner), options, window_count);
            let mut has_next = true;
            for _ in 0..step_count {
                has_next = has_next && part.step().await.expect("step");
                assert!(part.coverage() >= covered, "{} after {covered}", part.coverage());
                covered = part.coverage();
            }
            after = part.position().cloned();
            blocks += part.report().blocks;
            if !has_next {
                break;
            }
        }
        assert_eq!(blocks, 100, "{window_count} keys at a time, {step_count} steps");
        assert!((covered - 1.0).abs() < 1e-9, "{covered}");
    }
    let empty = erasure(&mem_nodes(6), 4, 2);
    let mut scrub = empty.scrub(ScrubOptions::default());
    assert_eq!(scrub.run().await.expect("scrub"), &ScrubReport::default());
    assert!((scrub.coverage() - 1.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn a_scrub_reads_no_faster_than_it_may() {
    let nodes = mem_nodes(6);
    let store = erasure(&nodes, 4, 2);
    for n in 0..50 {
        store.put(&key(n), block(n, 4 * (1000 - SHARD_HEADER_LEN))).await.expect("put");
    }
    let start = Instant::now();
    let options = ScrubOptions { bytes_per_sec: NonZeroU64::new(60_000), ..ScrubOptions::default() };
    let mut scrub = store.scrub(options);
    let report = scrub.run().await.expect("scrub");
    assert_eq!(report.shards.bytes_read, 300_000);
    assert_eq!(start.elapsed().as_millis(), 4900, "all but what the last block takes");
}

/// A shard that a node lacked because it was down comes to it when it is back, and one that a read finds to be bad or gone
/// is written again: without anybody asking for it.
#[tokio::test(start_paused = true)]
async fn what_is_owed_comes_by_itself() {
    for (is_hung, away) in (0..6).flat_map(|away| [(false, away), (true, away)]) {
        let nodes = faulty(6);
        let store = erasure(&nodes, 4, 2);
        if is_hung {
            nodes[away].set_answer_time(Duration::MAX);
        } else {
            nodes[away].set_offline(true);
        }
        for n in 0..30 {
            store.put(&key(n), block(n, 500)).await.expect("put");
        }
        assert_eq!((nodes[away].inner().block_count(), store.repairs_waiting()), (0, 30));
        sleep(Duration::from_mins(5)).await;
        assert_eq!((nodes[away].inner().block_count(), store.repairs_waiting()), (0, 30));
        nodes[away].heal();
        sleep(Duration::from_secs(45)).await;
        assert_eq!((nodes[away].inner().block_count(), store.repairs_waiting()), (30, 0));
        let report = scrub(&store).await;
        assert_eq!((report.shards.bad, report.shards.missing), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_has_repaired_what_it_finds() {
    let mut dice = Dice::new(4);
    for index in 0..4 {
        let nodes = mem_nodes(7);
        let store = erasure(&nodes, 4, 2);
        for n in 0..20 {
            store.put(&key(n), block(n, 500)).await.expect("put");
            let node = &nodes[place(&store, &key(n), index)];
            if n % 2 == 0 {
                flip(node, &key(n), &mut dice).await;
            } else {
                node.delete(&slots(&key(n))[0]).await.expect("delete");
            }
        }
        for n in 0..20 {
            assert_eq!(get(&store, &key(n)).await, Some(block(n, 500)));
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(store.repairs_waiting(), 0);
        for n in 0..20 {
            assert_whole(&nodes, &key(n), 4, 2).await;
        }
    }
}

/// What waits is bounded, a scrub finds the rest; and nothing is left running when the store is dropped.
#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_and_ends_with_the_store() {
    for repairs_max in [0, 10] {
        let nodes = faulty(6);
        let named = nodes.iter().enumerate().map(|(n, store)| ErasureNode::new(name(n), Arc::clone(store)));
        let store = Erasure::new(named, ErasureOptions { repairs_max, ..options(4, 2) }).expect("room");
        nodes[3].set_offline(true);
        for n in 0..30 {
            store.put(&key(n), block(n, 500)).await.expect("put");
        }
        assert_eq!(store.repairs_waiting(), repairs_max);
        nodes[3].heal();
        sleep(Duration::from_secs(45)).await;
        assert_eq!(nodes[3].inner().block_count(), repairs_max);
        let report = scrub(&store).await;
        assert_eq!(report.shards.healed, 30 - repairs_max as u64);
        nodes[3].set_offline(true);
        store.put(&key(99), block(99, 500)).await.expect("put");
        drop(store);
        sleep(Duration::from_mins(1)).await;
        assert!(nodes.iter().all(|node| Arc::strong_count(node) == 1), "the store is held by nobody");
    }
}

/// A node takes no shard: reads do not have it tried again and again.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_repaired_is_not_tried_again_with_each_read() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    store.put(&key(0), block(0, 500)).await.expect("put");
    let full = place(&store, &key(0), 0);
    nodes[full].inner().delete(&slots(&key(0))[0]).await.expect("delete");
    let before = nodes[full].calls(BlockCall::Put);
    for _ in 0..20 {
        nodes[full].fail_next(BlockCall::Put, ErrorKind::NoSpace);
    }
    for _ in 0..20 {
        assert_eq!(get(&store, &key(0)).await, Some(block(0, 500)));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(nodes[full].calls(BlockCall::Put) - before, 1);
}

/// A node that answers all with a block of its own is not believed, and costs the others nothing.
#[tokio::test]
async fn a_repair_makes_nothing_of_what_one_node_makes_up() {
    let made_up = StripeCode::new(1, 0).expect("a code").encode(b"made up").expect("encode").remove(0);
    for liar in 0..6 {
        let nodes = faulty(6);
        let store = erasure(&nodes, 4, 2);
        store.put(&key(0), block(0, 500)).await.expect("put");
        let [slot, _] = slots(&key(0));
        nodes[liar].fault_all(Fault::Lie(made_up.clone()));
        nodes[(liar + 1) % 6].inner().delete(&slot).await.expect("delete");
        let report = store.repair(&key(0)).await.expect("four others have it");
        assert_eq!((report.healed, report.lacking.len()), (1, 1), "{report:?}");
        nodes[liar].heal();
        assert_eq!(get(&store, &key(0)).await, Some(block(0, 500)));
        assert_eq!(store.repair(&key(0)).await.expect("repair").healed, 0);
    }
}

/// One node alone can say of its shard that it is one of 255 copies of 8 MiB: a repair, and a put of that block, had 2 GiB
/// in memory for it.
#[tokio::test]
async fn a_header_is_not_believed_more_copies_than_a_block_is_worth() {
    let nodes = mem_nodes(3);
    let store = idle(&nodes, 1, 2);
    let long = Bytes::from(vec![7; 1 << 20]);
    let hostile = StripeCode::new(1, 254).expect("a code").encode(&long).expect("encode").remove(0);
    for slot in &slots(&key(0))[..1] {
        replace(&nodes[0], slot, hostile.clone()).await;
    }
    // It is the block, for all that can be known, and is read.
    assert_eq!(get(&store, &key(0)).await.as_ref(), Some(&long));
    let error = store.repair(&key(0)).await.expect_err("255 MiB");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(format!("{error:#}").contains("255 of 1048576 bytes"), "{error:#}");
    // Put or re-encoded it is cut as this store does.
    store.put(&key(0), long.clone()).await.expect("put");
    assert!(store.reencode(&key(0)).await.expect("re-encode"));
    assert_whole(&nodes, &key(0), 1, 2).await;
    // A former configuration of many copies is none of that.
    let small = Bytes::from_static(b"small");
    let former = StripeCode::new(1, 20).expect("a code").encode(&small).expect("encode").remove(0);
    replace(&nodes[0], &slots(&key(1))[0], former).await;
    assert_eq!(store.repair(&key(1)).await.expect("repair").healed, 2);
}
