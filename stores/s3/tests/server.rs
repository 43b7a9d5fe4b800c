//! A store over real servers: ours, and s3s-fs where it is there, over HTTP, with signatures and conditions.

mod faulty;
mod peer;

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, future::join_all};
use muxfs::{
    BlockStore, ErrorKind, Name,
    heads::{Heads, Swap},
};
use muxfs_s3::{Bucket, S3Access, S3Credentials, S3Limits, S3Options, S3Place, S3Store};
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use tokio::io::AsyncReadExt as _;

use faulty::{block, key, options};
use peer::{Peer, me};

/// Opens a store in a bucket, which is one of its own as that of another machine is.
async fn open(bucket: &(impl Fn() -> Arc<Bucket> + Sync), options: S3Options) -> muxfs::Result<S3Store> {
    S3Store::open(bucket(), options).await
}

fn bucket_of(peer: &Peer) -> impl Fn() -> Arc<Bucket> + use<> {
    let addr = peer.addr;
    move || peer::bucket_at(addr, S3Limits::default())
}

fn name() -> Name {
    Name::new(b"main").expect("a name")
}

async fn blocks_and_heads_are_kept(peer: &(impl Fn() -> Arc<Bucket> + Sync)) {
    let store = open(peer, options("me", 50_000)).await.expect("open");
    let len = |n: u64| 700 + usize::try_from(n).expect("small");
    for n in 0..200 {
        store.put(&key(n), block(n, len(n))).await.expect("put");
    }
    store.put(&key(1000), block(1000, 3 << 20)).await.expect("put");
    let Swap::Done(version) = store.swap(&name(), None, "one".into()).await.expect("swap") else { panic!("alone") };
    for n in 0..50 {
        store.delete(&key(n)).await.expect("delete");
    }
    store.compact().await.expect("compact");
    let error = open(peer, options("you", 50_000)).await.expect_err("another writes");
    assert_eq!(error.kind(), ErrorKind::Denied);
    let follower = open(peer, S3Options { access: S3Access::Follow, ..options("you", 50_000) }).await.expect("open");
    assert!(matches!(store.swap(&name(), Some(&version), "two".into()).await, Ok(Swap::Done(_))));
    assert_eq!(follower.load(&name()).await.expect("load").expect("set").0, "two");
    let reads = (0..200).map(|n| {
        let follower = follower.clone();
        async move { (n, follower.get(&key(n)).await.expect("get")) }
    });
    for (n, found) in join_all(reads).await {
        let expected = (n >= 50).then(|| block(n, len(n)));
        assert!(found == expected, "block {n}");
    }
    assert!(follower.get(&key(1000)).await.expect("get") == Some(block(1000, 3 << 20)));
    let part = follower.get_range(&key(1000), 1 << 20..(1 << 20) + 10).await.expect("get");
    assert_eq!(part, Some(block(1000, 3 << 20).slice(1 << 20..(1 << 20) + 10)));
    store.close().await.expect("close");
    let taken = S3Options { access: S3Access::TakeOver, ..options("you", 50_000) };
    assert!(open(peer, taken).await.is_ok());
}

#[tokio::test]
async fn blocks_and_heads_are_kept_by_our_server() {
    let peer = Peer::ours().await;
    blocks_and_heads_are_kept(&bucket_of(&peer)).await;
    peer.end().await;
}

/// What one reads behind the other comes in few requests, also several at once, and what is read here and there in one each.
#[tokio::test]
async fn who_reads_on_asks_for_much_at_once() {
    let peer = Peer::ours().await;
    let bucket = bucket_of(&peer);
    let store = open(&bucket, options("me", 1 << 20)).await.expect("open");
    for n in 0..1000 {
        store.put(&key(n), block(n, 4000)).await.expect("put");
    }
    store.close().await.expect("close");
    let follower =
        open(&bucket, S3Options { access: S3Access::Follow, ..options("you", 1 << 20) }).await.expect("open");
    let before = follower.stats().gets;
    for first in (0..1000).step_by(10) {
        let reads = (first..first + 10).map(|n| {
            let follower = follower.clone();
            async move { (n, follower.get(&key(n)).await.expect("get")) }
        });
        for (n, found) in join_all(reads).await {
            assert!(found == Some(block(n, 4000)), "block {n}");
        }
    }
    let gets = follower.stats().gets - before;
    assert!(gets < 20, "{gets} requests for a thousand blocks");
    peer.end().await;
}

/// Either it keeps two writers apart, and is a place for a store as ours is, or it is refused before anything is written there.
async fn as_good_or_refused(bucket: &(impl Fn() -> Arc<Bucket> + Sync)) {
    match open(bucket, options("me", 50_000)).await {
        Ok(store) => {
            store.close().await.expect("close");
            blocks_and_heads_are_kept(bucket).await;
        }
        Err(error) => {
            let told = format!("{error:#}");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{told}");
            assert!(told.contains("two writers") && told.contains("use one that knows"), "{told}");
            println!("refused: {told}");
            assert_eq!(left(&bucket()).count().await, 0);
        }
    }
}

/// What is in the part of a bucket that is this test's.
fn left(bucket: &Bucket) -> impl Stream<Item = object_store::path::Path> + use<> {
    let below = bucket.place().rsplit('/').next().unwrap_or_default().into();
    bucket.objects().list(Some(&below)).map(|meta| meta.expect("listed").location)
}

#[tokio::test]
async fn another_server_is_as_good_or_refused() {
    let Some(peer) = Peer::s3s_fs().await else { return };
    as_good_or_refused(&bucket_of(&peer)).await;
    peer.end().await;
}

/// Garage, `MinIO`, whatever runs somewhere.
#[tokio::test]
async fn a_server_that_is_named_is_as_good_or_refused() {
    let below = format!("muxfs-test-{}", std::process::id());
    let Some((place, me)) = peer::named(&below) else {
        return muxfs::testing::skip("MUXFS_S3_BUCKET names no bucket");
    };
    let bucket = || Arc::new(place.open(&me, S3Limits::default(), &muxfs::testing::env()).expect("a place"));
    as_good_or_refused(&bucket).await;
    let objects = bucket();
    let all: Vec<_> = left(&objects).collect().await;
    for at in all {
        objects.objects().delete(&at).await.expect("deleted");
    }
}

/// What is wrong is said in words that help, and in time.
#[tokio::test]
async fn errors_say_what_to_do() {
    let peer = Peer::ours().await;
    let quick = || S3Limits { call_max: Duration::from_millis(300), ..S3Limits::default() };
    let open = async |place: &S3Place, me: &S3Credentials, limits: S3Limits| {
        let bucket = Arc::new(place.open(me, limits, &muxfs::testing::env()).expect("a place"));
        let error = S3Store::open(bucket, options("me", 4000)).await.expect_err("something is wrong");
        (error.kind(), format!("{error:#}"))
    };
    let missing = S3Place { bucket: "missing".into(), ..peer.place("") };
    let (kind, told) = open(&missing, &me(), S3Limits::default()).await;
    assert!(kind == ErrorKind::NotFound && told.contains("s3://missing") && told.contains("make it"), "{told}");
    let stranger = S3Credentials { access_key: "mine".into(), secret_key: "wrong".into(), token: None };
    let (kind, told) = open(&peer.place(""), &stranger, S3Limits::default()).await;
    assert!(kind == ErrorKind::Denied && told.contains("the key may not"), "{told}");
    assert!(!told.contains("wrong"), "{told}");

    // A server that takes connections and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.read_u8().await.ok();
            held.push(stream);
        }
    });
    let place = S3Place { endpoint: Some(format!("http://{addr}")), ..peer.place("") };
    let limits = S3Limits { attempt_max: Duration::from_millis(200), call_max: Duration::from_millis(200), ..quick() };
    let (kind, told) = open(&place, &me(), limits).await;
    assert!(kind == ErrorKind::Unavailable && told.contains("endpoint"), "{told}");
    silent.abort();
    // Nobody listens there any more.
    let place = peer.place("");
    peer.end().await;
    let (kind, told) = open(&place, &me(), quick()).await;
    assert_eq!(kind, ErrorKind::Unavailable, "{told}");
}
