//! What a client may send that no client should.

mod node;

use std::time::Duration;

use muxfs_zdb_serve::Options;

use self::node::{Node, Reply, options, request};

/// Only what never comes takes as long.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let node = Node::start().await;
    let mut client = node.client().await;
    for byte in [request(&["SET", "k", "v\r\n"]), request(&["GET", "k"])].concat() {
        client.send(&[byte]).await;
        // Each is a packet of its own.
        tokio::task::yield_now().await;
    }
    assert_eq!(client.reply().await, Reply::bulk("k"));
    assert_eq!(client.reply().await, Reply::bulk("v\r\n"));
    node.stop().await;
}

#[tokio::test]
async fn what_is_no_request_is_told_so_and_cut_off() {
    let node = Node::start().await;
    let long: Vec<u8> = [&b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10485760\r\n"[..], &vec![0; 10 << 20]].concat();
    let table: [(&[u8], &str); 11] = [
        (b"+1\r\n$4\r\nPING\r\n", "Malformed request, array expected"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "Malformed request, array expected"),
        (b"PING\r\n", "Malformed request, array expected"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "Malformed request, array expected"),
        (b"*-1\r\n", "Malformed request, array expected"),
        (b"*1025\r\n", "Too many arguments"),
        (b"*1\r\n*1\r\n$1\r\nX\r\n", "Malformed query string"),
        (b"*1\r\n$-5\r\n", "Malformed query string"),
        (b"*1\r\n$4\r\nPINGPING\r\n", "Malformed query string"),
        (b"*2\r\n$3\r\nGET\r\n$8388609\r\n", "Payload too big"),
        // All of it comes, and is read, so that the client reads why.
        (&long, "Payload too big"),
    ];
    for (sent, text) in table {
        let mut client = node.client().await;
        client.try_send(sent).await;
        let shown = String::from_utf8_lossy(&sent[..sent.len().min(40)]).into_owned();
        assert_eq!(client.reply().await, Reply::error(text), "{shown}");
        assert!(tokio::time::timeout(PATIENCE, client.has_ended()).await.expect("an end"), "{shown}");
    }
    // What came before is answered, and an empty request ends nothing.
    let mut client = node.client().await;
    client
        .send(&[request(&["SET", "k", "v"]), b"*0\r\n".to_vec(), request(&["GET", "k"]), b"nonsense".to_vec()].concat())
        .await;
    for expected in [
        Reply::bulk("k"),
        Reply::error("Missing arguments"),
        Reply::bulk("v"),
        Reply::error("Malformed request, array expected"),
    ] {
        assert_eq!(client.reply().await, expected);
    }
    assert!(client.has_ended().await);
    node.stop().await;
}

#[tokio::test]
async fn the_most_arguments_are_as_many() {
    let node = Node::start().await;
    let mut client = node.client().await;
    let words: Vec<&str> = std::iter::once("MGET").chain(std::iter::repeat_n("k", 1023)).collect();
    assert_eq!(client.ask(&words).await.items().len(), 1023);
    node.stop().await;
}

/// One that has begun and does not go on, and one that takes nothing of its replies.
#[tokio::test]
async fn who_stalls_is_cut_off() {
    let node = Node::with(Options { stall_timeout: Duration::from_millis(50), ..options() }).await;
    let mut idle = node.client().await;
    let mut half = node.client().await;
    half.send(b"*1\r\n$4\r\nPI").await;
    assert!(tokio::time::timeout(PATIENCE, half.has_ended()).await.expect("an end"));
    let mut deaf = node.client().await;
    let value = vec![7; 4 << 20];
    assert_eq!(deaf.ask(&[&b"SET"[..], b"k", &value]).await, Reply::bulk("k"));
    deaf.send(&request(&["GET", "k"]).repeat(16)).await;
    // It cannot be seen from outside that the server waits for it: its place among the connections is given up.
    let begun = tokio::time::Instant::now();
    while deaf.probe(&request(&["PING"])).await {
        assert!(begun.elapsed() < PATIENCE, "it is waited for");
    }
    assert_eq!(idle.say("PING").await, Reply::Simple("PONG".into()), "idle is not stalled");
    node.stop().await;
}
