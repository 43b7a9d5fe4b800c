//! Nodes are gone, have lost what they had, have it damaged, or lie: m of them cost nothing, and one more is an error
//! that names them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{
    block::erasure::shard::{Header, Stripe},
    testing::fault::Fault,
};

/// Loses nodes in both ways, and has `look` say what it finds.
async fn lose(nodes: &[Arc<Faulty<Mem>>], lost: &[usize], mut look: impl AsyncFnMut(bool)) {
    for node in lost {
        nodes[*node].set_offline(true);
    }
    look(true).await;
    for node in lost {
        nodes[*node].heal();
    }
    for node in lost {
        nodes[*node].fault_all(Fault::Lose);
    }
    look(false).await;
    for node in lost {
        nodes[*node].heal();
    }
}

#[tokio::test]
async fn any_m_nodes_may_be_lost_and_with_one_more_it_says_which() {
    for (k, m) in [(1, 2), (2, 2), (4, 2)] {
        let count = usize::from(k + m);
        let nodes = faulty(count);
        let store = erasure(&nodes, k, m);
        store.put(&key(0), block(0, 1001)).await.expect("put");
        for size in 0..=usize::from(m) {
            for lost in sets(count, size) {
                lose(&nodes, &lost, async |_| {
                    assert_eq!(get(&store, &key(0)).await, Some(block(0, 1001)), "{k}+{m} without {lost:?}");
                    assert!(store.has(&key(0)).await.expect("has"));
                    assert_eq!(store.block_len(&key(0)).await.expect("block_len"), Some(1001));
                })
                .await;
            }
        }
        for lost in sets(count, usize::from(m) + 1) {
            lose(&nodes, &lost, async |are_offline| {
                let result = store.get(&key(0)).await;
                if !are_offline && lost.len() == count {
                    assert_eq!(result.expect("nothing is left of it"), None);
                    return;
                }
                let error = result.expect_err("too few are left");
                assert_eq!(error.kind(), if are_offline { ErrorKind::Unavailable } else { ErrorKind::Corrupt });
                assert_names(&error, &lost);
                let has = store.has(&key(0)).await;
                assert_eq!(has.ok(), if are_offline { None } else { Some(false) }, "{k}+{m} without {lost:?}");
            })
            .await;
        }
    }
}

/// All sets of at most m nodes, some thousands, each with another of twenty blocks.
#[tokio::test]
async fn any_m_nodes_of_wide_stripes_may_be_lost() {
    const SEED: u64 = 1;
    for (k, m) in [(10, 4), (10, 5), (16, 4)] {
        let mut dice = Dice::new(SEED);
        let count = usize::from(k + m);
        let nodes = faulty(count);
        let store = idle(&nodes, k, m);
        for n in 0..20 {
            store.put(&key(n), block(n, 100 * n)).await.expect("put");
        }
        for lost in (1..=usize::from(m)).flat_map(|size| sets(count, size)) {
            let is_silent = dice.roll(2) == 0;
            for node in &lost {
                if is_silent { nodes[*node].fault_all(Fault::Lose) } else { nodes[*node].set_offline(true) }
            }
            let n = dice.roll(20);
            assert_eq!(get(&store, &key(n)).await, Some(block(n, 100 * n)), "seed {SEED}: {k}+{m} without {lost:?}");
            for node in &lost {
                nodes[*node].heal();
            }
        }
        for _ in 0..200 {
            let lost = drawn(&mut dice, count, usize::from(m) + 1);
            for node in &lost {
                nodes[*node].set_offline(true);
            }
            let error = store.get(&key(7)).await.expect_err("too few are left");
            assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {SEED}: {k}+{m} without {lost:?}");
            assert_names(&error, &lost);
            for node in &lost {
                nodes[*node].heal();
            }
        }
    }
}

/// Of each shard every bit is flipped, while another node is gone, so that there is one to spare for it.
#[tokio::test]
async fn every_flipped_bit_is_noticed_and_the_block_still_read() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    store.put(&key(0), block(0, 201)).await.expect("put");
    for (n, node) in nodes.iter().enumerate() {
        let [slot, _] = slots(&key(0));
        let shard = node.inner().get(&slot).await.expect("get").expect("each node has one");
        nodes[(n + 1) % 6].set_offline(true);
        for bit in 0..shard.len() * 8 {
            node.fault(&slot, Fault::FlipBit(bit));
            let flipped = node.get(&slot).await.expect("get").expect("it is there");
            assert!(Shard::parse(flipped).map_or(true, |shard| !shard.is_sound()), "bit {bit} of node {n}");
            assert_eq!(get(&store, &key(0)).await, Some(block(0, 201)), "bit {bit} of node {n}");
        }
        node.heal();
        nodes[(n + 1) % 6].heal();
    }
}

/// Something else than the shard, which is that of another block where it is to be believed.
fn lie(kind: usize, shard: &Bytes, dice: &mut Dice) -> Fault {
    let header = Header::decode(shard).expect("a shard");
    let forged = |header: Header, data: &[u8]| Fault::Lie([&header.encode()[..], data].concat().into());
    let data = dice.bytes(shard.len() - SHARD_HEADER_LEN);
    match kind % 6 {
        0 => Fault::FlipBit(SHARD_HEADER_LEN * 8 + dice.roll(8 * data.len())),
        1 => Fault::Lie(dice.bytes(shard.len()).into()),
        2 => Fault::Lie(shard.slice(..shard.len() - 1)),
        // A right checksum of data that were never put.
        3 => forged(Header { data_crc: crc32c::crc32c(&data), ..header }, &data),
        // A shard that another node should have.
        4 => forged(
            Header { index: (header.index + 1) % header.stripe.data_count, ..header },
            &shard[SHARD_HEADER_LEN..],
        ),
        // One of another stripe, in order in itself.
        _ => {
            let stripe = Stripe::of(&data, header.stripe.data_count, header.stripe.parity_count);
            let stripe = Stripe { block_len: header.stripe.block_len, ..stripe };
            forged(Header { stripe, data_crc: crc32c::crc32c(&data), ..header }, &data)
        }
    }
}

#[tokio::test]
async fn any_m_nodes_may_lie_and_with_one_more_it_says_which() {
    const SEED: u64 = 2;
    for (k, m, rounds) in [(2, 2, 300), (4, 2, 300), (10, 4, 60)] {
        let mut dice = Dice::new(SEED);
        let count = usize::from(k + m);
        let nodes = faulty(count);
        let store = idle(&nodes, k, m);
        store.put(&key(0), block(0, 1000)).await.expect("put");
        let [slot, _] = slots(&key(0));
        for round in 0..rounds {
            for size in [usize::from(m), usize::from(m) + 1] {
                let liars = drawn(&mut dice, count, size);
                let mut kinds = Vec::new();
                for liar in &liars {
                    let kind = dice.roll(6);
                    let shard = nodes[*liar].inner().get(&slot).await.expect("get").expect("its shard");
                    nodes[*liar].fault(&slot, lie(kind, &shard, &mut dice));
                    kinds.push(kind);
                }
                let found = store.get(&key(0)).await;
                let told = format!("seed {SEED}, round {round}: {k}+{m}, {liars:?} tell lies {kinds:?}: {found:?}");
                if size == usize::from(m) {
                    assert_eq!(found.ok(), Some(Some(block(0, 1000))), "{told}");
                } else {
                    let error = found.expect_err("too many lie");
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{told}");
                    // Whose checksums are right cannot be told.
                    let found_out = liars.iter().zip(&kinds).filter(|(_, kind)| **kind < 3).map(|(liar, _)| *liar);
                    assert_names(&error, &found_out.collect::<Vec<_>>());
                }
                for liar in &liars {
                    nodes[*liar].heal();
                }
            }
        }
    }
}

/// Who knows the block is given it as soon as k shards came, and whatever m nodes make of theirs; asked twice at most, and
/// once while it was seldom that the first shards did.
#[tokio::test]
async fn who_knows_the_block_is_asked_before_it_is_hashed() {
    const SEED: u64 = 4;
    let mut dice = Dice::new(SEED);
    let (slot, right) = (&slots(&key(0))[0], block(0, 1000));
    let is_right = |bytes: Bytes| {
        // A forged header may look like one of another key.
        let wrong = |kind| Error::new(kind, "test.open");
        let kind = if bytes.first() == right.first() { ErrorKind::Corrupt } else { ErrorKind::BadKey };
        if bytes == right { Ok(bytes) } else { Err(wrong(kind)) }
    };
    for kind in 0..6 {
        for liars in sets(6, 2) {
            let nodes = faulty(6);
            let store = idle(&nodes, 4, 2);
            store.put(&key(0), right.clone()).await.expect("put");
            let is_first_read_wrong =
                liars.iter().any(|liar| store.nodes_of(&key(0))[..4].contains(&name(*liar).as_str()));
            for liar in &liars {
                let shard = nodes[*liar].inner().get(slot).await.expect("get").expect("its shard");
                nodes[*liar].fault(slot, lie(kind, &shard, &mut dice));
            }
            for round in 0..3 {
                let asked = AtomicUsize::new(0);
                let open = |bytes| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    is_right(bytes)
                };
                let opened = store.get_opened(&key(0), &open).await.expect("two nodes may lie");
                let told = format!("seed {SEED}: {liars:?} tell lies {kind}, read {round}");
                assert_eq!(opened.expect("there").expect(&told), right, "{told}");
                let asked_max = if round == 0 && is_first_read_wrong { 2 } else { 1 };
                assert!(asked.into_inner() <= asked_max, "{told}");
            }
        }
    }
}

/// A node that answers everything with a block of its own, in one shard that is in order in itself, keeps nobody from
/// reading and writing the one that is meant.
#[tokio::test]
async fn one_node_alone_makes_nothing_up() {
    let made_up = StripeCode::new(1, 0).expect("a code").encode(b"made up").expect("encode").remove(0);
    for liar in 0..6 {
        let nodes = faulty(6);
        let store = erasure(&nodes, 4, 2);
        store.put(&key(0), block(0, 500)).await.expect("put");
        nodes[liar].fault_all(Fault::Lie(made_up.clone()));
        assert_eq!(get(&store, &key(0)).await, Some(block(0, 500)));
        assert_eq!(store.block_len(&key(0)).await.expect("block_len"), Some(500));
        for n in 0..2 {
            store.put(&key(n), block(n, 500)).await.expect("the others do");
            nodes[(liar + 1) % 6].set_offline(true);
            assert_eq!(get(&store, &key(n)).await, Some(block(n, 500)), "node {liar} lies");
            nodes[(liar + 1) % 6].set_offline(false);
        }
    }
}

/// Blocks of a smaller k are found too, if no other stripe is.
#[tokio::test]
async fn blocks_of_other_parameters_are_read_and_kept() {
    for (k, m) in [(1, 2), (2, 2), (6, 0), (3, 3)] {
        let nodes: Vec<_> = (0..7).map(|_| Arc::new(Mem::default())).collect();
        erasure(&nodes, k, m).put(&key(0), block(0, 500)).await.expect("put");
        let store = erasure(&nodes, 4, 2);
        assert_eq!(get(&store, &key(0)).await, Some(block(0, 500)), "{k}+{m}");
        assert!(store.has(&key(0)).await.expect("has"));
        store.put(&key(0), block(0, 500)).await.expect("put again");
        assert_whole(&nodes, &key(0), k, m).await;
        assert!(store.reencode(&key(0)).await.expect("reencode"));
        assert_whole(&nodes, &key(0), 4, 2).await;
        assert_eq!(get(&store, &key(0)).await, Some(block(0, 500)), "{k}+{m}");
    }
}
