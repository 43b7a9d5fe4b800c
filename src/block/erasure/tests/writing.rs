//! What a put, a deletion and a flush promise, whatever they find on the nodes.

use futures_util::TryStreamExt;

use super::*;
use crate::{
    block::MemOptions,
    testing::fault::{BlockCall, Fault},
};

/// A node that says itself that it lost a block does not count as one that may come back with it.
#[tokio::test]
async fn a_shard_that_its_node_knows_to_be_bad_is_written_again() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    store.put(&key(0), block(0, 100)).await.expect("put");
    let [slot, _] = slots(&key(0));
    nodes[..3].iter().for_each(|node| node.fault(&slot, Fault::Fail(ErrorKind::Corrupt)));
    let error = store.get(&key(0)).await.expect_err("three are bad");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_names(&error, &[0, 1, 2]);
    store.put(&key(0), block(0, 100)).await.expect("put again");
    let written: Vec<_> =
        nodes.iter().map(|node| (node.calls(BlockCall::Delete), node.calls(BlockCall::Put))).collect();
    assert_eq!(written, [(1, 2), (1, 2), (1, 2), (0, 1), (0, 1), (0, 1)], "deleted and put where it was bad");
}

/// Damages more shards than a block can do without, in the stores themselves.
#[tokio::test]
async fn a_corrupt_block_is_whole_again_when_it_is_put_again() {
    let nodes: Vec<_> = (0..6).map(|_| Arc::new(Mem::default())).collect();
    let store = erasure(&nodes, 4, 2);
    store.put(&key(0), block(0, 1000)).await.expect("put");
    let [slot, _] = slots(&key(0));
    for (kind, node) in nodes.iter().enumerate().skip(1) {
        let shard = node.get(&slot).await.expect("get").expect("its shard");
        let mut bytes = shard.to_vec();
        if kind < 4 {
            bytes[60] ^= 1;
        } else {
            bytes.truncate(30);
        }
        node.delete(&slot).await.expect("delete");
        node.put(&slot, bytes.into()).await.expect("put");
    }
    assert_eq!(store.get(&key(0)).await.expect_err("one is left").kind(), ErrorKind::Corrupt);
    store.put(&key(0), block(0, 1000)).await.expect("put again");
    assert_eq!(get(&store, &key(0)).await, Some(block(0, 1000)));
    assert_whole(&nodes, &key(0), 4, 2).await;
}

/// A block counts as stored at k + 1 shards, at k where there is at most one to spare; below it names who is missing.
#[tokio::test]
async fn a_put_wants_one_shard_more_than_a_get() {
    for (k, m, gone_max) in [(4, 2, 1), (10, 4, 3), (1, 2, 1), (4, 1, 1), (4, 0, 0)] {
        let nodes = faulty(usize::from(k + m));
        let store = erasure(&nodes, k, m);
        for gone in 0..=gone_max + 1 {
            (0..gone).for_each(|node| nodes[node].set_offline(true));
            let result = store.put(&key(gone), block(gone, 500)).await;
            if gone <= gone_max {
                result.unwrap_or_else(|error| panic!("{k}+{m} without {gone}: {error:#}"));
                assert_eq!(get(&store, &key(gone)).await, Some(block(gone, 500)));
            } else {
                let error = result.expect_err("too few take a shard");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{k}+{m} without {gone}");
                assert_names(&error, &(0..gone).collect::<Vec<_>>());
            }
            for node in &nodes {
                node.heal();
            }
            // What was missing comes with the next put.
            store.put(&key(gone), block(gone, 500)).await.expect("put again");
            for node in &nodes {
                let slots = slots(&key(gone));
                assert!(
                    node.inner().has(&slots[0]).await.expect("has") && !node.inner().has(&slots[1]).await.expect("has")
                );
            }
        }
    }
}

#[tokio::test]
async fn full_nodes_are_no_space_and_not_unavailable() {
    let nodes: Vec<_> = (0..6).map(|_| Arc::new(Mem::new(MemOptions { len_max: 500 }))).collect();
    let error = erasure(&nodes, 4, 2).put(&key(0), block(0, 4000)).await.expect_err("no node has room");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
}

/// While some are gone, what was never put is known to be absent as long as a stored block would show.
#[tokio::test]
async fn absent_is_said_only_where_it_is_known() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    for gone in 0..=6 {
        nodes[..gone].iter().for_each(|node| node.set_offline(true));
        let found = store.get(&key(0)).await;
        match gone {
            0..=4 => assert_eq!(found.expect("known"), None, "{gone} are gone"),
            _ => assert_eq!(found.expect_err("not known").kind(), ErrorKind::Unavailable),
        }
    }
}

#[tokio::test]
async fn flush_is_an_error_while_too_little_is_durable() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    store.put(&key(0), block(0, 100)).await.expect("put");
    nodes[3].fail_next(BlockCall::Flush, ErrorKind::Io);
    store.flush().await.expect("five of six are durable");
    store.put(&key(1), block(1, 100)).await.expect("put");
    for _ in 0..2 {
        for node in [1, 4] {
            nodes[node].fail_next(BlockCall::Flush, ErrorKind::Io);
        }
        let error = store.flush().await.expect_err("four of six are durable");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_names(&error, &[1, 4]);
    }
    store.flush().await.expect("all flush");
    for node in [1, 4] {
        nodes[node].fail_next(BlockCall::Flush, ErrorKind::Io);
    }
    store.flush().await.expect("nothing was written since");
    store.delete(&key(0)).await.expect("delete");
    for node in [1, 4] {
        nodes[node].fail_next(BlockCall::Flush, ErrorKind::Io);
    }
    store.flush().await.expect("two that have a shard again give no block");
    store.delete(&key(1)).await.expect("delete");
    for node in [1, 3, 5] {
        nodes[node].fail_next(BlockCall::Flush, ErrorKind::Io);
    }
    assert_names(&store.flush().await.expect_err("the deletion may come undone"), &[1, 3, 5]);
}

#[tokio::test]
async fn keys_are_listed_as_long_as_none_can_be_missing() {
    let nodes = faulty(6);
    let store = erasure(&nodes, 4, 2);
    for n in 0..50 {
        store.put(&key(n), block(n, n)).await.expect("put");
    }
    nodes[0].inner().put(&BlockKey::new(b"other").expect("a key"), Bytes::new()).await.expect("something of another's");
    for gone in 0..=5 {
        nodes[..gone].iter().for_each(|node| node.set_offline(true));
        let listed: Result<BTreeSet<BlockKey>> = store.keys().try_collect().await;
        if gone < 5 {
            assert_eq!(listed.expect("complete"), (0..50).map(key).collect());
        } else {
            assert_names(&listed.expect_err("perhaps not complete"), &[0, 1, 2, 3, 4]);
        }
    }
}

/// A later version may know better what that shard is good for.
#[tokio::test]
async fn a_shard_of_a_newer_version_is_left_alone() {
    let nodes: Vec<_> = (0..6).map(|_| Arc::new(Mem::default())).collect();
    let store = erasure(&nodes, 4, 2);
    store.put(&key(0), block(0, 100)).await.expect("put");
    let [slot, _] = slots(&key(0));
    let mut newer = nodes[0].get(&slot).await.expect("get").expect("its shard").to_vec();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..44]).to_le_bytes();
    newer[44..48].copy_from_slice(&crc);
    for node in &nodes[..2] {
        node.delete(&slot).await.expect("delete");
        node.put(&slot, newer.clone().into()).await.expect("put");
    }
    assert_eq!(get(&store, &key(0)).await, Some(block(0, 100)), "four others are there");
    let error = store.put(&key(0), block(0, 100)).await.expect_err("two nodes take none");
    assert!(format!("{error:#}").contains("newer version"), "{error:#}");
    assert_eq!(nodes[1].get(&slot).await.expect("get"), Some(newer.into()));
}

/// Nodes are added: what was put before is found where it is, and a put brings shards to where they belong.
#[tokio::test]
async fn shards_are_found_wherever_they_are() {
    let nodes: Vec<_> = (0..20).map(|_| Arc::new(Mem::default())).collect();
    let few = erasure(&nodes[..6], 4, 2);
    for n in 0..40 {
        few.put(&key(n), block(n, 300)).await.expect("put");
    }
    let many = erasure(&nodes, 4, 2);
    for n in 0..40 {
        assert_eq!(get(&many, &key(n)).await, Some(block(n, 300)));
        assert!(many.has(&key(n)).await.expect("has"));
        many.put(&key(n), block(n, 300)).await.expect("put again");
        for wanted in many.nodes_of(&key(n)) {
            let node = (0..20).find(|node| name(*node) == wanted).expect("one of them");
            assert!(nodes[node].has(&slots(&key(n))[0]).await.expect("has"), "{wanted} has one now");
        }
        many.delete(&key(n)).await.expect("delete");
        assert_eq!(get(&few, &key(n)).await, None);
    }
    assert_eq!(nodes.iter().map(|node| node.block_count()).sum::<usize>(), 0);
}
