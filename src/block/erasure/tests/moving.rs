//! Nodes that come, are drained and go while blocks are read and written: what was put can be read at every moment, has
//! never fewer shards than before, and is in the end where it belongs and nowhere else.

use super::*;
use crate::testing::fault::BlockCall;

const BLOCKS: usize = 60;

fn mems(count: usize) -> Vec<Arc<Mem>> {
    (0..count).map(|_| Arc::new(Mem::default())).collect()
}

fn node(nodes: &[Arc<Mem>], n: usize) -> ErasureNode {
    ErasureNode::new(name(n), Arc::clone(&nodes[n]))
}

/// A store on the first six of these nodes.
async fn with_blocks(nodes: &[Arc<Mem>]) -> Erasure {
    let store = idle(&nodes[..6], 4, 2);
    for n in 0..BLOCKS {
        store.put(&key(n), block(n, 500 + n)).await.expect("put");
    }
    store
}

/// Reads every block, again and again, until it is told to end; how often.
fn reader(store: &Erasure) -> (tokio::task::JoinHandle<usize>, Arc<Notify>) {
    let (store, end) = (store.clone(), Arc::new(Notify::new()));
    let ended = Arc::clone(&end);
    let reading = tokio::spawn(async move {
        let mut rounds = 0;
        let mut ended = std::pin::pin!(ended.notified());
        loop {
            for n in 0..BLOCKS {
                assert_eq!(get(&store, &key(n)).await, Some(block(n, 500 + n)), "block {n} in round {rounds}");
                tokio::task::yield_now().await;
            }
            rounds += 1;
            if futures_util::FutureExt::now_or_never(ended.as_mut()).is_some() {
                return rounds;
            }
        }
    });
    (reading, end)
}

/// How many different shards of a block there are.
async fn index_count(nodes: &[Arc<Mem>], key: &BlockKey) -> usize {
    let mut indexes = BTreeSet::new();
    for node in nodes {
        for slot in &slots(key) {
            if let Some(bytes) = node.get(slot).await.expect("get") {
                indexes.insert(Shard::parse(bytes).expect("a shard").header.index);
            }
        }
    }
    indexes.len()
}

/// Settles all, and looks after each step that no block has fewer shards than it had.
async fn settle(store: &Erasure, nodes: &[Arc<Mem>]) -> SettleReport {
    let mut walk = store.settle(None);
    let mut before = vec![0; BLOCKS];
    loop {
        let is_going_on = walk.step().await.expect("keys are known");
        for (n, before) in before.iter_mut().enumerate() {
            let now = index_count(nodes, &key(n)).await;
            assert!(now >= *before, "block {n} had {before} shards and has {now}");
            *before = now;
        }
        if !is_going_on {
            assert!((walk.coverage() - 1.0).abs() < f64::EPSILON);
            return walk.report().clone();
        }
    }
}

/// Each block has all its shards, on the nodes where they belong, and none elsewhere.
async fn assert_settled(store: &Erasure, nodes: &[Arc<Mem>]) {
    for n in 0..BLOCKS {
        assert_whole(nodes, &key(n), 4, 2).await;
        let places = store.nodes_of(&key(n));
        for (number, node) in nodes.iter().enumerate() {
            let is_there = node.has(&slots(&key(n))[0]).await.expect("has");
            assert_eq!(is_there, places.contains(&name(number).as_str()), "block {n} on {}", name(number));
        }
    }
}

/// Eight nodes in the end instead of six, and then six others: readers find all, and nothing is left behind.
#[tokio::test]
async fn nodes_come_and_go_under_a_reader() {
    let nodes = mems(8);
    let store = with_blocks(&nodes).await;
    let (reading, end) = reader(&store);
    store.set_nodes((0..8).map(|n| node(&nodes, n))).await.expect("two come");
    let report = settle(&store, &nodes).await;
    // Of eight nodes two are new: each has its share.
    assert!(report.is_whole() && report.moved > 0, "{report:?}");
    assert_settled(&store, &nodes).await;
    for n in [6, 7] {
        assert!(store.blocks_on(&name(n)).await.expect("it tells") > 0);
    }
    let drained = |n: usize| if n < 2 { node(&nodes, n).drained() } else { node(&nodes, n) };
    store.set_nodes((0..8).map(drained)).await.expect("two are drained");
    let held = store.blocks_on(&name(0)).await.expect("it tells");
    assert!(held > 0);
    let report = settle(&store, &nodes).await;
    assert!(report.is_whole(), "{report:?}");
    assert_settled(&store, &nodes).await;
    for n in [0, 1] {
        assert_eq!(store.blocks_on(&name(n)).await.expect("it tells"), 0);
    }
    store.set_nodes((2..8).map(|n| node(&nodes, n))).await.expect("two go");
    assert_eq!(store.node_status().len(), 6);
    assert_settled(&store, &nodes).await;
    store.put(&key(BLOCKS), block(0, 9)).await.expect("put on those that are left");
    assert_whole(&nodes[2..], &key(BLOCKS), 4, 2).await;
    end.notify_one();
    assert!(reading.await.expect("all was found at every moment") > 0);
}

/// A node is lost while another is drained: nothing that can be read is waited for, and what could not be brought where it
/// belongs is told, until the lost one went too.
#[tokio::test(start_paused = true)]
async fn a_node_is_lost_during_the_move() {
    let faulty = faulty(8);
    let of = |n: usize| ErasureNode::new(name(n), Arc::clone(&faulty[n]));
    let options = ErasureOptions { repairs_max: 0, ..options(4, 2) };
    let store = Erasure::new((0..8).map(of), options).expect("room");
    for n in 0..BLOCKS {
        store.put(&key(n), block(n, 500 + n)).await.expect("put");
    }
    store.set_nodes((1..8).map(of).chain([of(0).drained()])).await.expect("one is drained");
    let mut walk = store.settle(None);
    for _ in 0..5 {
        assert!(walk.step().await.expect("a step"));
    }
    drop(walk);
    faulty[3].set_offline(true);
    let mut walk = store.settle(None);
    let report = walk.run().await.expect("most are there").clone();
    assert!(!report.is_whole() && report.silent.contains(&name(3)), "{report:?}");
    for n in 0..BLOCKS {
        assert_eq!(get(&store, &key(n)).await, Some(block(n, 500 + n)));
    }
    // It is gone for good: what it had comes from parity.
    store.set_nodes([1, 2, 4, 5, 6, 7].map(of).into_iter().chain([of(0).drained()])).await.expect("it goes");
    let report = store.settle(None).run().await.expect("all are there").clone();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(store.blocks_on(&name(0)).await.expect("it tells"), 0);
    store.set_nodes([1, 2, 4, 5, 6, 7].map(of)).await.expect("it goes");
    for n in 0..BLOCKS {
        assert_whole(&[1, 2, 4, 5, 6, 7].map(|n| Arc::clone(&faulty[n])), &key(n), 4, 2).await;
    }
}

/// A node that comes and has no room is not taken for one that has what belongs there; when it has room the next pass ends it.
#[tokio::test(start_paused = true)]
async fn a_node_without_room_lacks_what_belongs_there() {
    let faulty = faulty(7);
    let of = |n: usize| ErasureNode::new(name(n), Arc::clone(&faulty[n]));
    let options = ErasureOptions { repairs_max: 0, ..options(4, 2) };
    let store = Erasure::new((0..6).map(of), options).expect("room");
    for n in 0..BLOCKS {
        store.put(&key(n), block(n, 500 + n)).await.expect("put");
    }
    store.set_nodes((0..7).map(of)).await.expect("one comes");
    let belongs = (0..BLOCKS).filter(|n| store.nodes_of(&key(*n)).contains(&name(6).as_str())).count() as u64;
    assert!(belongs > 0);
    (0..4 * BLOCKS).for_each(|_| faulty[6].fail_next(BlockCall::Put, ErrorKind::NoSpace));
    let report = store.settle(None).run().await.expect("the others are there").clone();
    assert_eq!((report.moved, report.left), (0, belongs), "{report:?}");
    assert!(!report.is_whole() && report.first_left.is_some());
    for n in 0..BLOCKS {
        assert_eq!(get(&store, &key(n)).await, Some(block(n, 500 + n)));
    }
    faulty[6].heal();
    let report = store.settle(None).run().await.expect("all are there").clone();
    assert_eq!((report.moved, report.left), (belongs, 0), "{report:?}");
}

/// Of a node that does not tell what it has nothing is known: not that it lacks anything either.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_silent_is_not_taken_for_empty() {
    let faulty = faulty(6);
    let of = |n: usize| ErasureNode::new(name(n), Arc::clone(&faulty[n]));
    let options = ErasureOptions { repairs_max: 0, ..options(4, 2) };
    let store = Erasure::new((0..6).map(of), options).expect("room");
    for n in 0..BLOCKS {
        store.put(&key(n), block(n, 500 + n)).await.expect("put");
    }
    faulty[3].set_offline(true);
    let report = store.settle(None).run().await.expect("five are there").clone();
    assert_eq!(report, SettleReport { silent: [name(3)].into(), ..SettleReport::default() });
}

/// A program that ends in the middle of a move goes on with it next time, and finds what is left to do by itself.
#[tokio::test]
async fn a_move_that_was_broken_off_is_gone_on_with() {
    let nodes = mems(8);
    let store = with_blocks(&nodes).await;
    store.set_nodes((0..8).map(|n| node(&nodes, n))).await.expect("two come");
    let mut walk = Settle::with_window(Arc::clone(&store.inner), None, 7);
    for _ in 0..10 {
        assert!(walk.step().await.expect("a step"));
    }
    drop((walk, store));
    let store = idle(&nodes, 4, 2);
    let (mut before, mut walk) = (0.0, Settle::with_window(Arc::clone(&store.inner), None, 7));
    while walk.step().await.expect("a step") {
        assert!(walk.coverage() >= before);
        before = walk.coverage();
    }
    assert!(walk.report().is_whole() && walk.report().moved > 0);
    assert_settled(&store, &nodes).await;
    let again = store.settle(None).run().await.expect("nothing to do").clone();
    assert_eq!(again, SettleReport::default());
}

/// Groups count for what is moved: in the end none has more than it may.
#[tokio::test]
async fn groups_are_respected() {
    let nodes = mems(9);
    let grouped = |n: usize| node(&nodes, n).in_group(format!("site {}", n / 3));
    let options = ErasureOptions { repairs_max: 0, ..options(4, 2) };
    let store = Erasure::new((0..9).map(grouped), options).expect("room");
    for n in 0..BLOCKS {
        store.put(&key(n), block(n, 500 + n)).await.expect("put");
    }
    let others = || (0..9).filter(|n| *n != 4).map(grouped);
    store.set_nodes(others().chain([grouped(4).drained()])).await.expect("one is drained");
    assert!(settle(&store, &nodes).await.is_whole());
    assert_settled(&store, &nodes).await;
    for n in 0..BLOCKS {
        let mut of_site = [0; 3];
        for place in store.nodes_of(&key(n)) {
            let number: usize = place.strip_prefix("node-").expect("its name").parse().expect("its number");
            of_site[number / 3] += 1;
        }
        assert_eq!(of_site, [2, 2, 2]);
    }
    // A site of one node more could not have its two.
    let fewer = || others().filter(|n| n.name != name(5));
    let refused = store.set_nodes(fewer().chain([grouped(5).drained()])).await.expect_err("too few places");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(format!("{refused:#}").contains("at most 2 of them in each of the 3 groups there are 5"), "{refused:#}");
    assert_eq!(store.node_status().len(), 9, "nothing was changed");
}

/// What a node that goes was owed is forgotten, in the log too: another of its name is not told to delete what it has.
#[tokio::test(start_paused = true)]
async fn debts_of_a_node_that_goes_are_forgotten() {
    use crate::media::MemMedia;
    let faulty = faulty(7);
    let of = |n: usize| ErasureNode::new(name(n), Arc::clone(&faulty[n]));
    let log: Arc<MemMedia> = Arc::default();
    let env = crate::testing::env();
    let open = || Erasure::open((0..7).map(of), options(4, 2), log.clone(), &env);
    let store = open().await.expect("opens");
    for n in 0..BLOCKS {
        store.put(&key(n), block(n, 500 + n)).await.expect("put");
    }
    faulty[6].set_offline(true);
    store.delete(&key(0)).await.expect("it is owed");
    assert_eq!(store.deletions_waiting(), 1);
    for n in BLOCKS..2 * BLOCKS {
        store.put(&key(n), block(n, 500 + n)).await.expect("put without it");
    }
    assert!(store.repairs_waiting() > 0);
    store.set_nodes((0..6).map(of)).await.expect("it goes");
    assert_eq!((store.deletions_waiting(), store.repairs_waiting()), (0, 0));
    store.put(&key(0), block(0, 500)).await.expect("put again");
    store.close().await.expect("closed");
    faulty[6].set_offline(false);
    let store = open().await.expect("opens with another of the name");
    assert_eq!((store.deletions_waiting(), store.repairs_waiting()), (0, 0));
    assert_eq!(get(&store, &key(0)).await, Some(block(0, 500)));
}

/// A drained node may have a shard of any block still: what may be lost is counted with it.
#[tokio::test]
async fn what_may_be_lost_counts_drained_nodes() {
    let nodes = mems(7);
    let store = with_blocks(&nodes).await;
    store.set_nodes((1..7).map(|n| node(&nodes, n)).chain([node(&nodes, 0).drained()])).await.expect("drained");
    assert_eq!(store.loss_of(|_| false).spare, Some(2));
    assert_eq!(store.loss_of(|lost| lost == name(0)).spare, Some(1));
    let refused = store.set_nodes((2..7).map(|n| node(&nodes, n)).chain([node(&nodes, 1).drained()])).await;
    let why = format!("{:#}", refused.expect_err("five are too few"));
    assert!(why.contains("4+2 shards take 6 nodes, and there are 5, besides 1 that are drained"), "{why}");
}

/// Whoever takes two nodes away between a put and its sync was told that the block is kept, and no node had a shard of it.
#[tokio::test]
async fn nodes_do_not_go_with_what_a_sync_is_to_keep() {
    let nodes = mems(4);
    let store = idle(&nodes, 1, 1);
    store.put(&key(0), block(0, 500)).await.expect("put");
    let (mut holders, mut others) = (Vec::new(), Vec::new());
    for n in 0..4 {
        let list = if index_count(&nodes[n..=n], &key(0)).await > 0 { &mut holders } else { &mut others };
        list.push(n);
    }
    assert_eq!((holders.len(), others.len()), (2, 2));
    let before: Vec<String> = store.nodes_of(&key(0)).into_iter().map(String::from).collect();
    let error = store.set_nodes(others.iter().map(|n| node(&nodes, *n))).await.expect_err("the block would be gone");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(store.node_status().len(), 4, "nothing is changed");
    assert_eq!(store.nodes_of(&key(0)), before, "and it belongs where it did");
    store.flush().await.expect("flush");
    store.set_nodes(holders.iter().map(|n| node(&nodes, *n))).await.expect("nothing is on the others");
    assert_eq!(get(&store, &key(0)).await, Some(block(0, 500)));
}
