//! The server as clients together use it: pipelines, those who wait for each other, sockets, limits, and its end.

mod node;

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use muxfs::ErrorKind;
use muxfs_zdb::{EngineOptions, MemHome};
use muxfs_zdb_serve::{Options, Password, serve};

use self::node::{Client, Node, Reply, options, request};

/// Only what never comes takes as long.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_pipeline_is_answered_in_order() {
    let node = Node::start().await;
    let mut client = node.client().await;
    let mut sent = Vec::new();
    for n in 0..64 {
        sent.extend(request(&["SET", &format!("key-{n}"), &"v".repeat(128)]));
    }
    for words in
        [&["GET", "key-63"][..], &["DEL", "key-0"], &["DEL", "key-0"], &["SET", "key-1", &"v".repeat(128)], &["PING"]]
    {
        sent.extend(request(words));
    }
    client.send(&sent).await;
    for n in 0..64 {
        assert_eq!(client.reply().await, Reply::bulk(format!("key-{n}")));
    }
    assert_eq!(client.reply().await, Reply::bulk("v".repeat(128)));
    assert_eq!(client.reply().await, Reply::ok());
    assert_eq!(client.reply().await, Reply::error("Key not found"));
    assert_eq!(client.reply().await, Reply::Nil);
    assert_eq!(client.reply().await, Reply::Simple("PONG".into()));
    node.stop().await;
}

/// Long values between promises, in several namespaces, on one connection.
#[tokio::test]
async fn a_pipeline_of_everything_keeps_its_order() {
    let node = Node::start().await;
    let mut client = node.client().await;
    let long = vec![b'x'; 300_000];
    let (mut sent, mut expected) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let name = format!("ns-{n}");
        sent.extend(request(&["NSNEW", &name]));
        sent.extend(request(&["SELECT", &name]));
        sent.extend(request(&[&b"SET"[..], b"k", &long]));
        sent.extend(request(&["GET", "k"]));
        sent.extend(request(&["MGET", "k", "nope", "k"]));
        sent.extend(request(&["FOO"]));
        let got = Reply::Bulk(long.clone());
        expected.extend([Reply::ok(), Reply::ok(), Reply::bulk("k"), got.clone()]);
        expected.extend([Reply::Array(vec![got.clone(), Reply::Nil, got]), Reply::error("Command not supported")]);
    }
    for (at, expected) in expected.into_iter().enumerate() {
        if at == 0 {
            client.send(&sent).await;
        }
        assert!(client.reply().await == expected, "{at}");
    }
    node.stop().await;
}

#[tokio::test]
async fn clients_at_once_see_each_others_values() {
    let node = Node::start().await;
    let addr = node.addr();
    let clients = (0..16).map(|client| {
        tokio::spawn(async move {
            let mut connection = Client::connect(addr).await;
            for n in 0..100 {
                let key = format!("{client}-{n}");
                assert_eq!(connection.ask(&["SET", &key, &key]).await, Reply::bulk(&key));
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no panic");
    }
    let mut client = node.client().await;
    assert_eq!(client.say("DBSIZE").await, Reply::Number(1600));
    assert_eq!(client.say("GET 15-99").await, Reply::bulk("15-99"));
    node.stop().await;
}

/// Whether a client waits is not seen from outside: the other goes on until it is heard.
async fn until_heard(waits: &mut Client, other: &mut Client, words: &str) -> Reply {
    let begun = tokio::time::Instant::now();
    let reply = waits.reply();
    tokio::pin!(reply);
    loop {
        other.say(words).await;
        if let Ok(reply) = tokio::time::timeout(Duration::from_millis(5), &mut reply).await {
            return reply;
        }
        assert!(begun.elapsed() < PATIENCE, "it never hears of {words}");
    }
}

#[tokio::test]
async fn one_client_waits_for_what_another_does() {
    let node = Node::start().await;
    let (mut waits, mut other) = (node.client().await, node.client().await);
    waits.send(&request(&["WAIT", "set", "60000"])).await;
    other.say("PING").await;
    assert_eq!(until_heard(&mut waits, &mut other, "SET k v").await, Reply::Simple("SET".into()));
    waits.send(&request(&["WAIT", "*", "60000"])).await;
    assert_eq!(until_heard(&mut waits, &mut other, "GET k").await, Reply::Simple("GET".into()));
    // Another namespace is not heard, and what is asked meanwhile is answered afterwards.
    other.ok("NSNEW other").await;
    other.ok("SELECT other").await;
    waits.send(&[request(&["WAIT", "SET", "100"]), request(&["PING"])].concat()).await;
    other.say("SET k v").await;
    assert_eq!(waits.reply().await, Reply::error("Timeout"));
    assert_eq!(waits.reply().await, Reply::Simple("PONG".into()));
    assert_eq!(waits.refused("WAIT").await, "Invalid arguments");
    assert_eq!(waits.refused("WAIT nope").await, "Unknown command to watch");
    assert_eq!(waits.refused("WAIT SET 50").await, "Invalid timeout");
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_and_goes_is_forgotten() {
    let node = Node::with(Options { connections_max: 1, ..options() }).await;
    let mut waits = node.client().await;
    waits.send(&request(&["WAIT", "SET", "1800000"])).await;
    drop(waits);
    // Its place is free as soon as it is found to be gone.
    let answered = async {
        loop {
            let mut client = node.client().await;
            client.try_send(&request(&["PING"])).await;
            if client.try_reply().await == Some(Reply::Simple("PONG".into())) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("there is room");
    node.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let node = Node::with(Options { connections_max: 2, ..options() }).await;
    let mut clients = [node.client().await, node.client().await];
    for client in &mut clients {
        assert_eq!(client.say("PING").await, Reply::Simple("PONG".into()));
    }
    let mut third = node.client().await;
    assert_eq!(third.reply().await, Reply::error("Too many connections"));
    assert!(third.has_ended().await);
    assert_eq!(clients[0].say("PING").await, Reply::Simple("PONG".into()));
    node.stop().await;
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_goes_with_the_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("zdb.sock");
    // What a killed server left.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let alone = Options { addr: None, socket: Some(path.clone()), ..Options::default() };
    let node = Node::with(alone.clone()).await;
    assert_eq!((node.server.local_addr(), node.server.socket()), (None, Some(&*path)));
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
    let mut client = Client::connect_unix(&path).await;
    assert_eq!(client.say("SET k v").await, Reply::bulk("k"));
    let error = serve(node.engine.clone(), alone.clone()).expect_err("it is taken");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(client.say("GET k").await, Reply::bulk("v"), "it goes on");
    node.stop().await;
    assert!(client.has_ended().await);
    assert!(!path.exists() && fs::read_dir(dir.path()).expect("listed").count() == 0);

    fs::write(&path, "a file").expect("written");
    let engine = muxfs_zdb::Engine::open(Arc::new(MemHome::default()), EngineOptions::new(&muxfs::testing::env()));
    let engine = engine.await.expect("opened");
    assert_eq!(serve(engine, alone).expect_err("a file").kind(), ErrorKind::InvalidArgument);
    assert_eq!(fs::read(&path).expect("there"), b"a file");
}

#[tokio::test]
async fn a_server_that_ends_answers_what_it_began() {
    let node = Node::start().await;
    let mut idle = node.client().await;
    let mut half = node.client().await;
    half.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk").await;
    let mut waits = node.client().await;
    waits.send(&request(&["WAIT", "NSNEW", "1800000"])).await;
    let mut busy = node.client().await;
    let mut sent = Vec::new();
    for n in 0..500 {
        sent.extend(request(&["SET", &format!("key-{n}"), "v"]));
    }
    busy.send(&sent).await;
    assert_eq!(busy.reply().await, Reply::bulk("key-0"));
    let engine = node.engine.clone();
    tokio::time::timeout(PATIENCE, node.server.shutdown()).await.expect("it ends");
    for client in [&mut idle, &mut half, &mut waits] {
        assert!(client.has_ended().await);
    }
    // Every reply that was sent is of a value that is there.
    let mut answered = 1;
    while let Some(reply) = busy.try_reply().await {
        assert_eq!(reply, Reply::bulk(format!("key-{answered}")));
        answered += 1;
    }
    assert!(engine.default_namespace().len() >= answered);
    engine.close().await.expect("closed");
}

#[tokio::test]
async fn an_administrator_may_stop_where_it_is_allowed() {
    let admin = Some(Password::new("root").expect("a password"));
    let node = Node::with(Options { stop_allowed: true, admin, ..options() }).await;
    let mut client = node.client().await;
    assert_eq!(client.refused("STOP").await, "Permission denied");
    client.ok("AUTH root").await;
    assert_eq!(client.say("STOP").await, Reply::Simple("Stopping".into()));
    tokio::time::timeout(PATIENCE, node.server.asked_to_stop()).await.expect("it was asked");
    node.stop().await;
}
