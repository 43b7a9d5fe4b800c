//! What a client may send that no client should.

mod node;

use std::{env, net::SocketAddr, time::Duration};

use muxfs::testing::fault::Dice;
use muxfs_zdb_serve::Options;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use self::node::{Client, Node, Reply, options, request};

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
    let node = Node::with(Options { stall_timeout: Duration::from_secs(1), ..options() }).await;
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

/// Streams of whole, damaged and invented requests, many at once: whatever comes, each connection ends with its client, what
/// is replied is RESP, another client is answered meanwhile, and a namespace that none of them knows the name of is as it was.
///
/// `MUXFS_FUZZ_STREAMS` says how many, `MUXFS_FUZZ_SEED` where they begin.
#[tokio::test]
async fn whatever_is_sent_others_are_answered_and_keep_what_they_have() {
    let of = |name: &str, default: u64| {
        env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
    };
    let (count, seed) = (of("MUXFS_FUZZ_STREAMS", 400), of("MUXFS_FUZZ_SEED", 1));
    println!("streams {seed} to {}", seed + count);
    let node = Node::start().await;
    let mut witness = node.client().await;
    witness.ok("NSNEW mine").await;
    witness.ok("SELECT mine").await;
    witness.say("SET k v").await;
    let mut good_count = 0;
    for seed in seed..seed + count {
        let streams = (0..4).map(|n| tokio::spawn(fuzz(node.addr(), stream_of(&mut Dice::new(seed << 2 | n)))));
        let streams: Vec<_> = streams.collect();
        assert_eq!(witness.say("GET k").await, Reply::bulk("v"), "{seed}");
        for stream in streams {
            let ended = tokio::time::timeout(PATIENCE, stream).await;
            let ended = ended.unwrap_or_else(|_| panic!("{seed}: a connection outlives its client"));
            good_count += ended.expect("no panic");
        }
        assert_eq!(witness.say("DBSIZE").await, Reply::Number(1), "{seed}");
    }
    assert!(good_count > count, "most of what is sent is refused: {good_count}");
    node.stop().await;
}

/// Requests of known and unknown commands over few keys and numbers, most of them whole.
fn stream_of(dice: &mut Dice) -> Vec<u8> {
    const WORDS: [&[u8]; 32] = [
        b"PING", b"TIME", b"AUTH", b"INDEX", b"DATA", b"SET", b"SETX", b"GET", b"MGET", b"DEL", b"EXISTS", b"CHECK",
        b"SCAN", b"SCANX", b"RSCAN", b"KSCAN", b"HISTORY", b"KEYCUR", b"LENGTH", b"KEYTIME", b"INFO", b"STOP",
        b"DBSIZE", b"NSNEW", b"NSDEL", b"NSLIST", b"NSSET", b"NSINFO", b"SELECT", b"RELOAD", b"FLUSH", b"NSJUMP",
    ];
    const ARGUMENTS: [&[u8]; 25] = [
        b"",
        b"k",
        b"default",
        b"x",
        b"y",
        b"0",
        b"1",
        b"2",
        b"64",
        b"-1",
        b"18446744073709551615",
        b"SECURE",
        b"RAW",
        b"EXPLORE",
        b"DIRTY",
        b"password",
        b"maxsize",
        b"mode",
        b"user",
        b"seq",
        b"lock",
        b"worm",
        b"freeze",
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    let mut bytes = Vec::new();
    for _ in 0..=dice.roll(12) {
        let mut arguments = vec![WORDS[dice.roll(WORDS.len())].to_vec()];
        for _ in 0..dice.roll(5) {
            arguments.push(match dice.roll(8) {
                0 => (0..dice.roll(300)).map(|_| dice.bits().to_le_bytes()[0]).collect(),
                1 => vec![b'v'; dice.roll(100_000)],
                _ => ARGUMENTS[dice.roll(ARGUMENTS.len())].to_vec(),
            });
        }
        let begin = bytes.len();
        bytes.extend(request(&arguments));
        for _ in 0..dice.roll(8).saturating_sub(5) {
            let at = begin + dice.roll(bytes.len() - begin);
            match dice.roll(4) {
                0 => bytes[at] ^= 1 << dice.roll(8),
                1 => bytes.truncate(at.max(begin + 1)),
                2 => bytes.insert(at, b'9'),
                _ => bytes.extend_from_within(at..),
            }
        }
    }
    bytes
}

/// Sends it, and reads what is replied to its end: how many replies are no refusals.
async fn fuzz(addr: SocketAddr, bytes: Vec<u8>) -> u64 {
    let (read, mut write) = TcpStream::connect(addr).await.expect("connected").into_split();
    let mut client = Client::over(tokio::io::join(read, tokio::io::empty()));
    let sending = async {
        // Who is cut off sends no more.
        write.write_all(&bytes).await.ok();
        drop(write);
    };
    let reading = async {
        let mut good_count = 0;
        while let Some(reply) = client.try_reply().await {
            good_count += u64::from(!matches!(reply, Reply::Error(_)));
        }
        good_count
    };
    tokio::join!(sending, reading).1
}
