//! A server that dies, loses what it acknowledged, is away, is another's, or says what no Redis would.

mod server;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use muxfs::{
    BlockKey, BlockStore, ErrorKind, Name, Result,
    heads::{Heads, Swap, Version},
    testing::{env, fault::Dice},
};
use muxfs_redis::{RedisAccess, RedisDurability, RedisOptions, RedisStore};
use muxfs_zstor::Password;
use server::{ALWAYS, MEMORY, Server, Spoilt, Way};

/// Long for a server that answers, and soon over. On a machine that stands still it is too short for any: what has to succeed is
/// tried again.
const SHORT: Duration = Duration::from_secs(3);
/// How long to wait for what must happen, on a slow machine.
const PATIENCE: Duration = Duration::from_mins(3);

fn key(n: usize) -> BlockKey {
    BlockKey::new(format!("key {n}").as_bytes()).expect("a key")
}

fn block(n: usize) -> Bytes {
    Dice::new(n as u64).bytes(n * 7919 % 60_000).into()
}

fn main_head() -> Name {
    Name::new(b"main").expect("a name")
}

async fn refused(options: RedisOptions) -> muxfs::Error {
    RedisStore::open(options, &env()).await.expect_err("refused")
}

async fn swap(store: &RedisStore, expected: Option<&Version>, head: &str) -> Version {
    match store.swap(&main_head(), expected, head.to_owned().into()).await.expect("swap") {
        Swap::Done(version) => version,
        Swap::Lost => panic!("nobody else swaps"),
    }
}

/// Asks until there is an answer, as somebody who waits for a server would.
async fn when_back<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}"),
        }
        assert!(begun.elapsed() < PATIENCE, "it does not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn get_when_back(store: &RedisStore, key: &BlockKey) -> Option<Bytes> {
    when_back(|| store.get(key)).await
}

async fn open_when_back(options: &RedisOptions) -> RedisStore {
    when_back(|| async { RedisStore::open(options.clone(), &env()).await }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill_of_the_server() {
    let Some(mut server) = Server::start(ALWAYS) else { return };
    let store = server.open().await;
    assert_eq!(store.durability(), RedisDurability::Synced);
    let (mut version, mut count) = (None, 0);
    for round in 0..5 {
        let puts = (count..).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.put(&key(n), block(n)).await })
        });
        // Some are acknowledged, some under way.
        for (n, put) in (count..).zip(puts.take(30).collect::<Vec<_>>()) {
            put.await.expect("no panic").expect("put");
            count = n + 1;
        }
        version = Some(swap(&store, version.as_ref(), &round.to_string()).await);
        let under_way = {
            let store = store.clone();
            tokio::spawn(async move { store.put(&key(10_000 + round), block(round)).await })
        };
        server.kill();
        // It was put, or it was not.
        drop(under_way.await.expect("no panic"));
        let away = store.get(&key(0)).await.expect_err("it is away");
        assert_eq!(away.kind(), ErrorKind::Unavailable);
        assert!(server.run(), "it starts again");
        assert_eq!(get_when_back(&store, &key(0)).await, Some(block(0)));
        for n in 0..count {
            assert_eq!(store.get(&key(n)).await.expect("get"), Some(block(n)), "block {n}");
        }
        store.flush().await.expect("nothing is lost");
        let (head, found) = store.load(&main_head()).await.expect("load").expect("it is set");
        assert_eq!((head, Some(found)), (Bytes::from(round.to_string()), version.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_what_it_acknowledged_is_found_out_when_it_is_flushed() {
    let Some(mut server) = Server::start(MEMORY) else { return };
    let store = server.open().await;
    assert_eq!(store.durability(), RedisDurability::Memory);
    store.put(&key(1), block(1)).await.expect("put");
    server.say(&[b"SAVE"]).await;
    store.put(&key(2), block(2)).await.expect("put");
    server.kill();
    assert!(server.run());
    assert_eq!(get_when_back(&store, &key(1)).await, Some(block(1)), "it is in the snapshot");
    for _ in 0..2 {
        assert_eq!(store.flush().await.expect_err("one is lost").kind(), ErrorKind::Io);
    }
    store.put(&key(2), block(2)).await.expect("put");
    store.flush().await.expect("all is there");
    // All of it is lost, the mark too: that is no empty store.
    server.say(&[b"FLUSHALL"]).await;
    server.say(&[b"SAVE"]).await;
    server.kill();
    assert!(server.run());
    let begun = Instant::now();
    let error = loop {
        let error = store.get(&key(1)).await.expect_err("it is no store any more");
        if format!("{error:#}").contains("mark") {
            break error;
        }
        assert!(begun.elapsed() < PATIENCE, "{error:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_in_time_and_used_when_it_is_back() {
    let Some(server) = Server::start(ALWAYS) else { return };
    let way = Way::to(server.address()).await;
    let options = RedisOptions { address: way.address.clone(), call_time_max: SHORT, ..server.options() };
    let store = open_when_back(&options).await;
    when_back(|| async { store.put(&key(1), block(1)).await }).await;
    for spoilt in [Spoilt::Silent, Spoilt::Cut] {
        way.spoil(spoilt);
        let began = Instant::now();
        assert_eq!(store.get(&key(1)).await.expect_err("away").kind(), ErrorKind::Unavailable);
        assert_eq!(store.put(&key(2), block(2)).await.expect_err("away").kind(), ErrorKind::Unavailable);
        assert!(began.elapsed() < SHORT * 20, "{:?}", began.elapsed());
        assert_eq!(refused(options.clone()).await.kind(), ErrorKind::Unavailable);
        way.spoil(Spoilt::No);
        assert_eq!(get_when_back(&store, &key(1)).await, Some(block(1)));
    }
    let nowhere = RedisOptions { address: "127.0.0.1:1".parse().expect("an address"), ..options };
    assert_eq!(refused(nowhere).await.kind(), ErrorKind::Unavailable);
}

/// A swap whose reply was lost has happened once, and it is known which.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_whose_reply_is_lost_is_settled() {
    let Some(server) = Server::start(ALWAYS) else { return };
    let way = Way::to(server.address()).await;
    let options = RedisOptions { address: way.address.clone(), ..server.options() };
    let store = RedisStore::open(options.clone(), &env()).await.expect("open");
    let first = swap(&store, None, "first").await;
    store.close().await.expect("closed");
    let store = open_when_back(&RedisOptions { call_time_max: SHORT, ..options }).await;
    way.spoil(Spoilt::LosesReplies);
    let lost = store.swap(&main_head(), Some(&first), "second".into()).await.expect_err("nobody is told");
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
    assert_eq!(store.load(&main_head()).await.expect_err("not known").kind(), ErrorKind::Unavailable);
    way.spoil(Spoilt::No);
    let (head, second) = when_back(|| async { store.load(&main_head()).await }).await.expect("it is set");
    assert_eq!(head, "second");
    assert_ne!(first, second);
    let swapped = when_back(|| async {
        match store.swap(&main_head(), Some(&second), "third".into()).await? {
            Swap::Done(_) => Ok(true),
            // One before it was told of no reply, too.
            Swap::Lost => Ok(store.load(&main_head()).await?.is_some_and(|(head, _)| head == "third")),
        }
    });
    assert!(swapped.await);
}

#[tokio::test]
async fn who_may_not_is_denied() {
    let Some(server) = Server::start(&["--requirepass", "right"]) else { return };
    let with = |user: Option<&str>, password: Option<&str>| RedisOptions {
        user: user.map(Into::into),
        password: password.map(Password::new),
        ..server.options()
    };
    for options in [with(None, None), with(None, Some("wrong")), with(Some("nobody"), Some("right"))] {
        let error = refused(options).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
        assert!(!format!("{error:#}").contains("right"), "no password is told");
    }
    let options = RedisOptions { database: 3, ..with(None, Some("right")) };
    let store = RedisStore::open(options, &env()).await.expect("open");
    store.put(&key(1), block(1)).await.expect("put");
    assert!(!format!("{store:?}").contains("right"));
}

#[tokio::test]
async fn one_writes_and_is_named_and_one_that_was_passed_over_is_through() {
    let Some(server) = Server::start(ALWAYS) else { return };
    let first =
        RedisStore::open(RedisOptions { host: "first host".into(), ..server.options() }, &env()).await.expect("open");
    first.put(&key(1), block(1)).await.expect("put");
    let version = swap(&first, None, "first").await;
    let other = RedisOptions { writer: "another".into(), ..server.options() };
    let error = refused(other.clone()).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(format!("{error:#}").contains("first host"), "{error:#}");
    let look = RedisOptions { access: RedisAccess::Look, ..other.clone() };
    let look = RedisStore::open(look, &env()).await.expect("who only looks may");
    assert_eq!(look.get(&key(1)).await.expect("get"), Some(block(1)));
    assert_eq!(look.load(&main_head()).await.expect("load").expect("set").0, "first");
    assert_eq!(look.put(&key(2), block(2)).await.expect_err("refused").kind(), ErrorKind::ReadOnly);
    let taken = RedisOptions { access: RedisAccess::TakeOver, ..other.clone() };
    let taken = RedisStore::open(taken, &env()).await.expect("it takes over");
    for refused in [
        first.delete(&key(1)).await.expect_err("refused"),
        first.swap(&main_head(), Some(&version), "late".into()).await.expect_err("refused"),
    ] {
        assert_eq!(refused.kind(), ErrorKind::Denied);
    }
    assert!(taken.has(&key(1)).await.expect("has"));
    swap(&taken, Some(&version), "second").await;
    taken.close().await.expect("closed");
    server.open().await;
}

#[tokio::test]
async fn what_somebody_changed_is_corrupt_and_replaced() {
    let Some(server) = Server::start(ALWAYS) else { return };
    let store = server.open().await;
    store.put(&key(1), "the block".into()).await.expect("put");
    store.put(&key(2), "another".into()).await.expect("put");
    let version = swap(&store, None, "the head").await;
    let other = server.say(&[b"GET", b"muxfs:b:key 2"]).await;
    let other = &other[other.iter().position(|byte| *byte == b'\n').expect("a line") + 1..other.len() - 2];
    for value in [&b"the block"[..], b"", b"x", b"\0\0\0\0the block", other] {
        server.say(&[b"SET", b"muxfs:b:key 1", value]).await;
        if value.is_empty() {
            // Redis has such a value, and its length is that of none: what is asked for its length alone says so.
            assert_eq!(store.block_len(&key(1)).await.expect("told"), None);
        }
        assert_eq!(store.get(&key(1)).await.expect_err("changed").kind(), ErrorKind::Corrupt, "{value:?}");
        assert_eq!(store.has(&key(1)).await.expect_err("known").kind(), ErrorKind::Corrupt);
        store.put(&key(1), "the block".into()).await.expect("put");
        assert_eq!(store.get(&key(1)).await.expect("get"), Some("the block".into()));
    }
    server.say(&[b"DEL", b"muxfs:b:key 1"]).await;
    server.say(&[b"LPUSH", b"muxfs:b:key 1", b"x"]).await;
    assert_eq!(store.get(&key(1)).await.expect_err("a list").kind(), ErrorKind::Corrupt);
    server.say(&[b"SETRANGE", b"muxfs:h:main", b"25", b"X"]).await;
    assert_eq!(store.load(&main_head()).await.expect_err("changed").kind(), ErrorKind::Corrupt);
    server.say(&[b"SET", b"muxfs:h:main", b"short"]).await;
    assert_eq!(store.load(&main_head()).await.expect_err("changed").kind(), ErrorKind::Corrupt);
    let lost = store.swap(&main_head(), Some(&version), "x".into()).await.expect("told");
    assert_eq!(lost, Swap::Lost);
}

#[tokio::test]
async fn what_is_no_store_or_may_lose_blocks_is_refused() {
    let Some(server) = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]) else { return };
    let error = refused(server.options()).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(format!("{error:#}").contains("allkeys-lru"), "{error:#}");
    let options = RedisOptions { allow_eviction: true, ..server.options() };
    RedisStore::open(options, &env()).await.expect("somebody said that they know").close().await.expect("closed");
    server.say(&[b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction"]).await;
    server.open().await.close().await.expect("closed");
    for (mark, kind) in [
        (&b"another program's"[..], ErrorKind::InvalidArgument),
        (b"", ErrorKind::InvalidArgument),
        (b"muxfs-redis 2 00", ErrorKind::Unsupported),
        (b"muxfs-redis", ErrorKind::Unsupported),
    ] {
        server.say(&[b"SET", b"muxfs:mark", mark]).await;
        assert_eq!(refused(server.options()).await.kind(), kind, "{mark:?}");
    }
    let look = RedisOptions { access: RedisAccess::Look, prefix: "nothing:".into(), ..server.options() };
    assert_eq!(refused(look).await.kind(), ErrorKind::NotFound);
    assert_eq!(
        refused(RedisOptions { prefix: String::new(), ..server.options() }).await.kind(),
        ErrorKind::InvalidArgument
    );
}

#[tokio::test]
async fn a_full_server_is_no_space() {
    let Some(server) = Server::start(&["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]) else { return };
    let store = server.open().await;
    let mut count = 0;
    let error = loop {
        match store.put(&key(count), vec![7; 200_000].into()).await {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 100, "it is full at some time");
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:#}");
    let usage = store.usage().await.expect("usage");
    assert_eq!(usage.len_max, Some(8 << 20));
    for n in 0..count {
        assert_eq!(store.get(&key(n)).await.expect("get"), Some(vec![7; 200_000].into()));
    }
}

/// Whatever a server says, or an impostor: an error in time, and no memory that did not come.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_an_error() {
    let Some(server) = Server::start(ALWAYS) else { return };
    let way = Way::to(server.address()).await;
    let options = RedisOptions { address: way.address.clone(), ..server.options() };
    let store = RedisStore::open(options.clone(), &env()).await.expect("open");
    store.put(&key(1), block(1)).await.expect("put");
    swap(&store, None, "head").await;
    // What says too little is waited for, many times; a call that fails for that is no error here.
    let options = RedisOptions { call_time_max: SHORT / 5, ..options };
    store.close().await.expect("closed");
    let store = open_when_back(&options).await;
    let mut dice = Dice::new(9);
    let mut sayings: Vec<Vec<u8>> = [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"$99999999999999\r\nabc",
        b"$8388608\r\nabc",
        b"*1048576\r\n*1048576\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
        b"-\r\n",
        b":1\r\n:1\r\n",
        b"$-1\r\n$-1\r\n$-1\r\n",
        b"*2\r\n$1\r\n5\r\n*1\r\n$1\r\nx\r\n",
        b"",
    ]
    .map(<[u8]>::to_vec)
    .into();
    sayings.extend((0..8).map(|_| dice.bytes(300)));
    for saying in sayings {
        way.say(saying.clone());
        let said = String::from_utf8_lossy(&saying).into_owned();
        let is_error = |kind: ErrorKind| {
            let kinds = [
                ErrorKind::Corrupt,
                ErrorKind::Unavailable,
                ErrorKind::Io,
                ErrorKind::Unsupported,
                ErrorKind::NotFound,
            ];
            assert!(kinds.contains(&kind), "{kind:?} of {said:?}");
        };
        // It may say that there is nothing, and no checksum is against that.
        match store.get(&key(1)).await {
            Ok(found) => assert_eq!(found, None, "{said:?}"),
            Err(error) => is_error(error.kind()),
        }
        if let Err(error) = store.load(&main_head()).await {
            is_error(error.kind());
        }
        if let Err(error) = store.keys().try_collect::<Vec<_>>().await {
            is_error(error.kind());
        }
        if let Err(error) = RedisStore::open(options.clone(), &env()).await {
            assert_ne!(error.kind(), ErrorKind::Internal, "{said:?}");
        }
        way.spoil(Spoilt::No);
        assert_eq!(get_when_well(&store, &key(1)).await, Some(block(1)), "after {said:?}");
    }
}

async fn get_when_well(store: &RedisStore, key: &BlockKey) -> Option<Bytes> {
    let begun = Instant::now();
    loop {
        match store.get(key).await {
            Ok(found) => return found,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A server of 7.2 waits for its log, which one of 7.0 does not know: here its words are put into the mouth of one.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_server_can_say_what_is_synced_that_is_waited_for() {
    let Some(server) = Server::start(&["--appendonly", "yes", "--appendfsync", "everysec"]) else { return };
    assert!(matches!(server.open().await.durability(), RedisDurability::Seconds | RedisDurability::Waited));
    let way = Way::to(server.address()).await;
    let unknown = "-ERR unknown command 'WAITAOF', with args beginning with: '1' '0' '10000' \r\n";
    way.replace(&[("redis_version:7.0.", "redis_version:7.9."), (unknown, "*2\r\n:1\r\n:0\r\n")]);
    let options = RedisOptions { address: way.address.clone(), ..server.options() };
    let store = RedisStore::open(options, &env()).await.expect("open");
    assert_eq!(store.durability(), RedisDurability::Waited);
    let store = Arc::new(store);
    store.put(&key(1), block(1)).await.expect("put");
    store.flush().await.expect("synced");
    swap(&store, None, "head").await;
    store.load(&main_head()).await.expect("load");
    if server.say(&[b"WAITAOF", b"1", b"0", b"10000"]).await.starts_with(b"-ERR unknown") {
        way.replace(&[(unknown, "*2\r\n:0\r\n:0\r\n")]);
        store.put(&key(2), block(2)).await.expect("put");
        assert_eq!(store.flush().await.expect_err("not synced").kind(), ErrorKind::Unavailable);
        assert_eq!(store.load(&main_head()).await.expect_err("not synced").kind(), ErrorKind::Unavailable);
    }
}
