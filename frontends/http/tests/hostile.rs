//! What clients and stores do that they should not: each gets a definite end, and nobody a wrong byte.

mod web;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use muxfs::{
    BlockKey, Cid, ErrorKind,
    block::Mem,
    cid_of,
    dag::{Params, Profile, UnixfsMeta},
    testing::fault::{BlockCall, Fault, Faulty},
};
use muxfs_http::Options;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use self::web::{Site, reply, say};

const CHUNK_LEN: u32 = 64 << 10;

/// A site over a store that can be told to misbehave.
async fn faulty(options: Options) -> (Site, Arc<Faulty<Mem>>) {
    let store = Arc::new(Faulty::new(Mem::default()));
    (Site::over(store.clone(), Arc::new(Mem::default()), options).await, store)
}

/// A file whose chunks all differ.
async fn long_file(site: &Site, chunk_count: u32) -> (Cid, Vec<u8>) {
    let chunk = |at: u32| [&at.to_le_bytes()[..], &vec![7; CHUNK_LEN as usize - 4]].concat();
    let content = (0..chunk_count).map(chunk).collect::<Vec<_>>().concat();
    let dag = site.dag.with_params(Params { chunk_len: CHUNK_LEN, ..Profile::default().params() });
    (dag.import(content.as_slice(), UnixfsMeta::default()).await.expect("memory").cid, content)
}

fn leaf(content: &[u8], at: usize) -> BlockKey {
    let len = CHUNK_LEN as usize;
    BlockKey::from(&cid_of(muxfs::Codec::Raw, &content[at * len..(at + 1) * len]))
}

#[tokio::test]
async fn hostile_paths_lead_nowhere() {
    let site = Site::new().await;
    let (cid, _) = long_file(&site, 1).await;
    let cid = cid.to_string();
    let mixed = format!("b{}", cid.get(1..).expect("ASCII").to_uppercase());
    let cut = cid.get(..cid.len() - 1).expect("ASCII");
    let mut paths: Vec<Vec<u8>> = [
        "/ipfs/../../etc/passwd",
        "/ipfs/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/ipfs/%2e%2e/%2e%2e/etc/passwd",
        "/..;/etc/passwd",
        "/ipfs/..\\..\\etc\\passwd",
        "/ipfs/%5c..%5cetc",
        "/ipfs/%c0%ae%c0%ae/etc/passwd",
        "/ipfs/%e0%80%ae/etc",
        "/ipfs/%00",
        "/ipfs/%252e%252e/etc/passwd",
        "/ipfs/%u002e%u002e/",
        "/ipfs/C:/Windows",
        "//etc/passwd",
        "/ipfs/ipfs/x",
        "/ipfs/bafkqaaa%00",
        "/ipfs/bafkqaaa/..",
        "/ipfs/bafkqaaa/%2e%2e/x",
        "/ipfs/mAVUAAA",
        "/ipfs/f0155",
    ]
    .map(|path| path.as_bytes().to_vec())
    .to_vec();
    for look_alike in [
        mixed,
        cut.to_owned(),
        format!("{cid}a"),
        format!("{cid}%20"),
        format!("%20{cid}"),
        format!("{cid}%0a"),
        format!("z{cid}"),
        format!("ipfs%2f{cid}"),
        cid.replacen('b', "%00b", 1),
        format!("{cid}/.."),
        format!("{cid}/%2e%2e/x"),
        format!("{cid}/a%2fb"),
        format!("{cid}/x"),
    ] {
        paths.push(format!("/ipfs/{look_alike}").into_bytes());
    }
    for len in [255, 256, 4096, 5000, 60_000] {
        paths.push(format!("/ipfs/{}", "a".repeat(len)).into_bytes());
        paths.push(format!("/ipfs/{cid}/{}", "a".repeat(len)).into_bytes());
        paths.push(format!("/ipfs/{cid}{}", "/a".repeat(len / 2)).into_bytes());
    }
    for path in paths {
        let request = [b"GET ", path.as_slice(), b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"].concat();
        let reply = say(site.addr(), &request, false).await;
        let shown: String = path.escape_ascii().to_string().chars().take(80).collect();
        assert!(matches!(reply.status, 400 | 404 | 414), "{shown}: {}", reply.status);
        assert!(reply.is_whole && !reply.text().contains("root:"), "{shown}");
    }
    // Beyond what a line or a head may be, it is not read at all.
    for (request, status) in [
        (format!("GET /ipfs/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(70_000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(200_000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: a\r\n".repeat(500)), 431),
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400),
    ] {
        let reply = say(site.addr(), request.as_bytes(), false).await;
        assert_eq!(reply.status, status, "{}", request.chars().take(40).collect::<String>());
    }
    assert_eq!(site.get(&format!("/ipfs/{cid}")).await.status, 200, "and the server is there");
}

/// A leaf that rotted after the answer has begun: what came before it is right, and the connection does not end well.
#[tokio::test]
async fn a_wrong_block_ends_the_answer() {
    let (site, store) = faulty(Options::default()).await;
    let (cid, content) = long_file(&site, 8).await;
    let path = format!("/ipfs/{cid}");
    for fault in [Fault::FlipBit(77), Fault::Lie(Bytes::from_static(b"other")), Fault::Lose, Fault::Fail(ErrorKind::Io)]
    {
        store.heal();
        store.fault(&leaf(&content, 5), fault.clone());
        let reply = site.get(&path).await;
        assert_eq!((reply.status, reply.is_whole), (200, false), "{fault:?}");
        assert!(reply.body.len() <= 5 * CHUNK_LEN as usize && content.starts_with(&reply.body), "{fault:?}");
        for format in ["car", "tar"] {
            let reply = site.get(&format!("{path}?format={format}")).await;
            assert_eq!((reply.status, reply.is_whole), (200, false), "{fault:?}: {format}");
        }
        let range = format!("bytes={}-", 6 * CHUNK_LEN);
        let reply = site.ask("GET", &path, &[("Range", &range)]).await;
        assert_eq!((reply.status, reply.is_whole), (206, true), "{fault:?}: what does not need it is there");
        assert!(reply.body == content[6 * CHUNK_LEN as usize..], "{fault:?}");
    }
    for (fault, status) in [
        (Fault::FlipBit(77), 502),
        (Fault::Lose, 404),
        (Fault::Fail(ErrorKind::Unavailable), 503),
        (Fault::Fail(ErrorKind::Io), 500),
    ] {
        store.heal();
        store.fault(&leaf(&content, 0), fault.clone());
        let reply = site.get(&path).await;
        assert_eq!((reply.status, reply.is_whole), (status, true), "{fault:?}: nothing had begun");
        let raw = cid_of(muxfs::Codec::Raw, &content[..CHUNK_LEN as usize]);
        assert_eq!(site.get(&format!("/ipfs/{raw}?format=raw")).await.status, status, "{fault:?}");
    }
}

async fn begin(site: &Site, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(site.addr()).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut beginning = [0; 100];
    stream.read_exact(&mut beginning).await.expect("an answer begins");
    stream
}

/// Asks until the one place for a connection is free.
async fn until_free(site: &Site) {
    while site.get("/ipfs/bafkqaaa").await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_work() {
    let (site, store) = faulty(Options { connections_max: 1, ..Options::default() }).await;
    let (cid, _) = long_file(&site, 600).await;
    let stream = begin(&site, &format!("/ipfs/{cid}")).await;
    assert_eq!(site.get("/ipfs/bafkqaaa").await.status, 503, "there is place for one");
    drop(stream);
    until_free(&site).await;
    let read = store.calls(BlockCall::Read);
    assert!(read < 500, "{read} blocks were read for who took next to nothing");
}

/// Of who reads nothing no more is fetched than fits into buffers, and it does not keep its place.
#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    let options = Options { connections_max: 1, stall_timeout: Duration::from_secs(2), ..Options::default() };
    let (site, store) = faulty(options).await;
    let (cid, content) = long_file(&site, 600).await;
    let mut stream = begin(&site, &format!("/ipfs/{cid}")).await;
    until_free(&site).await;
    assert!(store.calls(BlockCall::Read) < 500, "what is not taken is not fetched");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    assert!(rest.len() < content.len(), "the answer broke off");
}

/// What is sent at once is bounded by answers, not by connections: others wait for their turn, and get all of theirs.
#[tokio::test]
async fn who_asks_for_more_than_is_sent_at_once_waits() {
    let options = Options { answers_max: 1, answer_timeout: Duration::from_secs(3), ..Options::default() };
    let (site, _) = faulty(options).await;
    let (cid, content) = long_file(&site, 600).await;
    let path = format!("/ipfs/{cid}");
    let first = begin(&site, &path).await;
    let late = site.get("/ipfs/bafkqaaa").await;
    assert_eq!((late.status, late.is_whole), (503, true), "the one answer is not taken");
    let (second, ()) = tokio::join!(site.get(&path), async { drop(first) });
    assert_eq!((second.status, second.is_whole), (200, true));
    assert!(second.body == content, "all of it");
    let head = site.ask("HEAD", &path, &[]).await;
    assert_eq!(head.header("content-length"), Some(content.len().to_string().as_str()));
    assert_eq!(site.get("/ipfs/bafkqaaa").await.status, 200, "every turn was given back");
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let site = Site::with(Options { head_timeout: Duration::from_secs(2), ..Options::default() }).await;
    for beginning in [&b""[..], b"GET /ipfs/bafkqaaa HTTP/1.1\r\nHost: loc"] {
        let mut stream = TcpStream::connect(site.addr()).await.expect("connects");
        stream.write_all(beginning).await.expect("begins");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("the server closes");
    }
    // As one who asked, and asks no more.
    let mut stream = TcpStream::connect(site.addr()).await.expect("connects");
    stream.write_all(b"GET /ipfs/bafkqaaa HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("asks");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("the server closes");
    assert_eq!(reply(&all, false).status, 200);
}

#[tokio::test]
async fn what_takes_too_long_is_not_waited_for() {
    let options = Options { answer_timeout: Duration::from_millis(50), ..Options::default() };
    let (site, store) = faulty(options).await;
    let (cid, _) = long_file(&site, 1).await;
    store.fault_all(Fault::Delay);
    assert_eq!(site.get(&format!("/ipfs/{cid}")).await.status, 504);
}

#[tokio::test]
async fn an_answer_under_way_survives_the_end_of_the_server() {
    let (site, store) = faulty(Options::default()).await;
    let (cid, content) = long_file(&site, 8).await;
    store.fault(&leaf(&content, 7), Fault::Delay);
    let mut stream = begin(&site, &format!("/ipfs/{cid}")).await;
    let mut idle = TcpStream::connect(site.addr()).await.expect("connects");
    let ending = tokio::spawn(site.server.shutdown());
    idle.read_to_end(&mut Vec::new()).await.expect("who asked for nothing is let go");
    store.release(1);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("the rest");
    assert!(rest.ends_with(&content[content.len() - 1000..]), "all of it came");
    ending.await.expect("ends");
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let site = Site::new().await;
    let mut stream = TcpStream::connect(site.addr()).await.expect("connects");
    let request = "GET /ipfs/bafkqabtimvwgy3yk HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /ipfs/bafkqabtimvwgy3yk HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{request}{request}{last}").as_bytes()).await.expect("asks");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("answers");
    let text = String::from_utf8(all).expect("text");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3);
    assert_eq!(text.matches("hello\n").count(), 3);
}
