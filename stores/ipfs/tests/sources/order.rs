//! Who of several is asked, and what becomes of those that fail. On a clock of its own: no test waits.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use muxfs::{
    BlockKey, BlockStore, Codec, ErrorKind, Name,
    block::{Expected, Mem},
    cid_of,
    testing::fault::{BlockCall, Faulty},
};
use muxfs_ipfs::{Gateway, HttpOptions, Sources, SourcesOptions};
use tokio::time::{Instant, advance};

use crate::block;

type Far = Arc<Faulty<Mem>>;

/// Stores that answer after so many milliseconds, all with the same hundred blocks.
async fn stores<const N: usize>(answer_millis: [u64; N]) -> ([Far; N], Sources) {
    let stores = answer_millis.map(|_| Arc::new(Faulty::new(Mem::default())));
    for (store, millis) in stores.iter().zip(answer_millis) {
        for n in 0..100 {
            let (key, block) = block(n, 100);
            store.inner().put(&key, block).await.expect("put");
        }
        store.set_answer_time(Duration::from_millis(millis));
    }
    let list = stores.iter().map(|store| store.clone() as Arc<dyn BlockStore>).collect();
    (stores, Sources::new(list, SourcesOptions::default()))
}

async fn get(sources: &Sources, n: u64) {
    let (key, block) = block(n, 100);
    assert_eq!(sources.get(&key).await.expect("get"), Some(block));
}

fn reads(store: &Far) -> u64 {
    store.calls(BlockCall::Read)
}

/// Each is tried once; then the fastest is asked, whatever their order.
#[tokio::test(start_paused = true)]
async fn the_fastest_is_asked() {
    let ([slow, fast, middle], sources) = stores([80, 5, 40]).await;
    for n in 0..50 {
        get(&sources, n).await;
    }
    assert!(reads(&slow) <= 2 && reads(&middle) <= 2, "{} {}", reads(&slow), reads(&middle));
    assert!(reads(&fast) >= 46);
    // What was slow long ago may be fast by now.
    fast.set_answer_time(Duration::from_millis(90));
    slow.set_answer_time(Duration::from_millis(1));
    advance(Duration::from_mins(30)).await;
    for n in 50..100 {
        get(&sources, n).await;
    }
    assert!(reads(&slow) >= 40, "{}", reads(&slow));
}

/// One that hangs holds nobody up for longer than the next one needs to be asked.
#[tokio::test(start_paused = true)]
async fn a_slow_one_is_hedged() {
    let ([hung, spare], sources) = stores([3_600_000, 20]).await;
    for n in 0..20 {
        let begun = Instant::now();
        get(&sources, n).await;
        assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    }
    assert!(reads(&hung) <= 2 && reads(&spare) == 20, "{} {}", reads(&hung), reads(&spare));
}

/// All of them together have a limit.
#[tokio::test(start_paused = true)]
async fn waiting_ends() {
    let (_stores, sources) = stores([3_600_000, 3_600_000]).await;
    let begun = Instant::now();
    let error = sources.get(&block(1, 100).0).await.expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() <= Duration::from_secs(31), "{:?}", begun.elapsed());
}

/// Also where a CAR hangs first, at a gateway that hangs altogether: what others do meanwhile is within the limit, and who sent
/// the CAR is asked for the block beside them.
#[tokio::test(start_paused = true)]
async fn waiting_for_a_car_counts_too() {
    // Nobody accepts what connects.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address")).parse().expect("an address");
    let gateway = Arc::new(Gateway::new(url, HttpOptions::default()));
    let ([hung], _) = stores([3_600_000]).await;
    let sources = Sources::new(Vec::new(), SourcesOptions::default()).and_gateway(gateway).and(hung.clone());
    let root = cid_of(Codec::DagPb, b"a directory");
    sources.expect(&Expected::Path { root: &root, parts: &[Name::new(b"a name").expect("a name")] });
    let begun = Instant::now();
    let error = sources.get(&BlockKey::from(&root)).await.expect_err("nobody answers");
    assert_eq!((error.kind(), reads(&hung)), (ErrorKind::Unavailable, 1));
    assert!(begun.elapsed() <= Duration::from_secs(31), "{:?}", begun.elapsed());
}

/// One that is gone is passed over at once, left out after some failures, and found again when it is back.
#[tokio::test(start_paused = true)]
async fn the_dead_are_left_out_and_tried_again() {
    let ([gone, there], sources) = stores([5, 50]).await;
    gone.set_offline(true);
    for n in 0..50 {
        let begun = Instant::now();
        get(&sources, n).await;
        assert!(begun.elapsed() < Duration::from_millis(100));
    }
    let while_gone = reads(&gone);
    assert!((3..=6).contains(&while_gone), "{while_gone}");
    // What only the one that is left out could have is not known to be absent.
    let error = sources.get(&block(1000, 100).0).await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    gone.set_offline(false);
    advance(Duration::from_mins(2)).await;
    for n in 50..100 {
        get(&sources, n).await;
    }
    assert!(reads(&gone) > while_gone + 40 && reads(&there) < 60);
    assert_eq!(sources.get(&block(1000, 100).0).await.expect("all say so"), None);
}

/// One that is back is asked for what only it has, though a faster one answers everything else.
#[tokio::test(start_paused = true)]
async fn a_slower_one_that_is_back_is_found() {
    let ([fast, slow], sources) = stores([5, 50]).await;
    let (key, rare) = block(1000, 100);
    slow.inner().put(&key, rare.clone()).await.expect("put");
    for n in 0..10 {
        get(&sources, n).await;
    }
    slow.set_offline(true);
    for _ in 0..3 {
        sources.get(&key).await.expect_err("out of reach");
    }
    slow.set_offline(false);
    let before = reads(&slow);
    for n in 10..20 {
        advance(Duration::from_secs(2)).await;
        get(&sources, n).await;
    }
    assert!(reads(&slow) == before && reads(&fast) > 20);
    assert_eq!(sources.get(&key).await.expect("it is back"), Some(rare));
}

/// Where nobody is there, that is told at once from the third time on; many at a time count as one.
#[tokio::test(start_paused = true)]
async fn nobody_there_is_told_at_once() {
    let ([only], sources) = stores([10]).await;
    only.set_offline(true);
    let many = (0..50).map(|n| {
        let sources = &sources;
        async move { sources.get(&block(n, 100).0).await.expect_err("gone").kind() }
    });
    assert!(join_all(many).await.into_iter().all(|kind| kind == ErrorKind::Unavailable));
    only.set_offline(false);
    get(&sources, 1).await;
    only.set_offline(true);
    for n in 0..100 {
        sources.get(&block(n, 100).0).await.expect_err("gone");
    }
    assert!(reads(&only) < 60, "{}", reads(&only));
}

#[tokio::test(start_paused = true)]
async fn without_sources_nothing_is_there_and_nothing_is_changed() {
    let none = Sources::new(Vec::new(), SourcesOptions::default());
    let (key, bytes) = block(1, 10);
    assert_eq!(none.get(&key).await.expect("absent"), None);
    assert!(!none.has(&key).await.expect("absent"));
    let ([store], sources) = stores([1]).await;
    for refused in [sources.put(&key, bytes.clone()).await, sources.delete(&key).await] {
        assert_eq!(refused.expect_err("read only").kind(), ErrorKind::ReadOnly);
    }
    assert!(sources.has(&block(1, 100).0).await.expect("there"));
    // A key that is no multihash is nobody's, so nobody is asked.
    let before = reads(&store);
    let odd = muxfs::BlockKey::new(b"a key").expect("a key");
    assert_eq!(sources.get(&odd).await.expect("absent"), None);
    assert_eq!(reads(&store), before);
}
