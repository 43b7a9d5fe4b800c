//! A store beside its bucket: sequential writing and reading of blocks in packs, and of plain objects as long as packs with the same
//! client over the same server, in turns in one run.
//!
//! `cargo bench -p muxfs-s3` starts a server of ours in this process, and after it s3s-fs where `MUXFS_S3S_FS` names its program;
//! `MUXFS_S3_ENDPOINT`, `MUXFS_S3_BUCKET`, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` name another instead. `MUXFS_S3_MIB` is how
//! much is written a time (64).

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use muxfs::{
    BlockKey, BlockStore, Name,
    dag::{Dag, DagOptions},
    media::MemMedia,
    testing::{Clock, fault::Dice},
    tree::{Tree, TreeOptions},
    vfs::{NewNode, SetAttr, Vfs as _},
};
use muxfs_s3::{PACK_LEN, S3Credentials, S3Limits, S3Options, S3Place, S3Store};
use object_store::{ObjectStoreExt as _, PutPayload, path::Path};

#[path = "../tests/peer/mod.rs"]
mod peer;

use peer::Peer;

const BLOCK_LEN: usize = 1 << 20;
const FILE_COUNT: u64 = 10_000;
const ROUND_COUNT: usize = 5;
/// So much is asked for at once.
const AHEAD_COUNT: usize = 4;

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

#[tokio::main]
async fn main() {
    if let Some((place, me)) = peer::named("") {
        return measure(&place, &me).await;
    }
    for (name, peer) in [("ours", Some(Peer::ours().await)), ("s3s-fs", Peer::s3s_fs().await)] {
        let Some(peer) = peer else { continue };
        println!("{name}");
        measure(&peer.place(""), &peer::me()).await;
        peer.end().await;
    }
}

async fn measure(place: &S3Place, me: &S3Credentials) {
    let mib: usize = std::env::var("MUXFS_S3_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    let env = Clock::default().env(u64::from(std::process::id()));
    let bucket = Arc::new(place.open(me, S3Limits::default(), &env).expect("a place"));
    let objects = bucket.objects().clone();
    let store = S3Store::open(bucket, S3Options { compacts: false, ..S3Options::new("bench") }).await.expect("open");
    let (mut times, pack_count) = ([(); 4].map(|()| Vec::new()), (mib * BLOCK_LEN).div_ceil(PACK_LEN));
    for round in 0..ROUND_COUNT {
        let blocks: Vec<Bytes> =
            (0..mib).map(|n| Dice::new((round * mib + n) as u64).bytes(BLOCK_LEN).into()).collect();
        let key = |n: usize| BlockKey::new(format!("{round} {n}").as_bytes()).expect("a key");
        let object = |n: usize| Path::from(format!("plain/{round}-{n}"));
        let packs: Vec<Bytes> = blocks.chunks(PACK_LEN / BLOCK_LEN).map(|part| part.concat().into()).collect();

        let begun = Instant::now();
        for (n, block) in blocks.iter().enumerate() {
            store.put(&key(n), block.clone()).await.expect("put");
        }
        store.flush().await.expect("flush");
        times[0].push(begun.elapsed());

        let begun = Instant::now();
        let puts = stream::iter(packs.iter().enumerate().map(|(n, pack)| {
            let (objects, at, pack) = (objects.clone(), object(n), PutPayload::from_bytes(pack.clone()));
            async move { objects.put(&at, pack).await.expect("put") }
        }));
        puts.buffer_unordered(AHEAD_COUNT).for_each(async |_| {}).await;
        times[1].push(begun.elapsed());

        let begun = Instant::now();
        let gets = stream::iter((0..mib).map(|n| {
            let (store, key) = (store.clone(), key(n));
            async move { store.get(&key).await.expect("get").expect("it is there") }
        }));
        let read = gets.buffered(AHEAD_COUNT).fold(0, async |sum, block| sum + block.len()).await;
        times[2].push(begun.elapsed());
        assert_eq!(read, mib * BLOCK_LEN);

        let begun = Instant::now();
        let gets = stream::iter((0..pack_count).map(|n| {
            let (objects, at) = (objects.clone(), object(n));
            async move { objects.get(&at).await.expect("get").bytes().await.expect("bytes") }
        }));
        let read = gets.buffered(AHEAD_COUNT).fold(0, async |sum, pack| sum + pack.len()).await;
        times[3].push(begun.elapsed());
        assert_eq!(read, mib * BLOCK_LEN);
    }
    let [write, plain_write, read, plain_read] = times.map(median);
    let rate = |time: f64| mib as f64 / time;
    println!("write  {:7.1} MiB/s in packs, {:7.1} plain: {:.2}", rate(write), rate(plain_write), plain_write / write);
    println!("read   {:7.1} MiB/s in packs, {:7.1} plain: {:.2}", rate(read), rate(plain_read), plain_read / read);

    store.close().await.expect("close");
    files(place, me).await;
}

/// What a tree asks of the bucket that files of 4 KiB are written to, as by unpacking them, committed each thousand; and what one
/// asks that reads them all.
async fn files(place: &S3Place, me: &S3Credentials) {
    let place = S3Place { prefix: "files".into(), ..place.clone() };
    let open = async |seed: u64| {
        let env = Clock::default().env(seed + u64::from(std::process::id()));
        let bucket = Arc::new(place.open(me, S3Limits::default(), &env).expect("a place"));
        let store = S3Store::open(bucket, S3Options::new("bench")).await.expect("open");
        let dag = Dag::new(Arc::new(store.clone()), DagOptions::default());
        let options = TreeOptions { auto_commit: None, ..TreeOptions::new(Name::new(b"main").expect("a name"), env) };
        let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(store.clone()), options).await;
        (store, tree.expect("open"))
    };
    let (store, tree) = open(1).await;
    let (before, begun) = (store.stats(), Instant::now());
    let mut inos = Vec::new();
    for n in 0..FILE_COUNT {
        let name = |text: String| Name::new(text.as_bytes()).expect("a name");
        let dir = if n % 100 == 0 {
            let made = tree.create(tree.root(), &name(format!("dir {n}")), NewNode::Dir, SetAttr::default()).await;
            inos.push(made.expect("made").node.ino);
            inos[inos.len() - 1]
        } else {
            inos[inos.len() - 1]
        };
        let made = tree.create(dir, &name(format!("file {n}")), NewNode::File, SetAttr::default()).await.expect("made");
        tree.write(made.node.ino, 0, Dice::new(n).bytes(4096).into(), true).await.expect("written");
        if n % 1000 == 999 {
            tree.commit("").await.expect("committed");
        }
    }
    tree.close().await.expect("close");
    store.close().await.expect("close");
    let asked = store.stats().requests() - before.requests();
    let each = |asked: u64| asked as f64 / FILE_COUNT as f64;
    let rate = FILE_COUNT as f64 / begun.elapsed().as_secs_f64();
    println!(
        "files  {:.4} requests for each of {FILE_COUNT} files of 4 KiB that are written ({rate:.0} /s)",
        each(asked)
    );
    let (store, tree) = open(2).await;
    let (before, begun) = (store.stats(), Instant::now());
    for dir in 0..FILE_COUNT / 100 {
        let name = |text: String| Name::new(text.as_bytes()).expect("a name");
        let found = tree.lookup(tree.root(), &name(format!("dir {}", dir * 100))).await.expect("there").ino;
        for n in dir * 100..dir * 100 + 100 {
            let file = tree.lookup(found, &name(format!("file {n}"))).await.expect("there").ino;
            let bytes = tree.read(file, 0, 4096).await.expect("read");
            assert!(bytes == Dice::new(n).bytes(4096), "file {n}");
        }
    }
    let asked = store.stats().requests() - before.requests();
    let rate = FILE_COUNT as f64 / begun.elapsed().as_secs_f64();
    println!("       {:.4} for each that is read ({rate:.0} /s)", each(asked));
    tree.close().await.expect("close");
    store.close().await.expect("close");
}
