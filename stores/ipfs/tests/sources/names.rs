//! Records of names from gateways and Kubo nodes: found, verified, and whatever a server does, believed only where the key
//! of the name signed them.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response, body::Incoming, header::ACCEPT};
use muxfs::{
    BlockStore as _, ErrorKind, SecretKey,
    ipns::{LIFETIME, NameKey, RECORD_LEN_MAX, Record, Records, TTL},
};
use muxfs_ipfs::{Gateway, HttpOptions, Kubo, KuboOptions};
use tokio::io::AsyncWriteExt as _;

use crate::{
    block,
    server::{PATIENCE, Server, answer},
};

const RECORD_TYPE: &str = "application/vnd.ipfs.ipns-record";

fn key(seed: u8) -> NameKey {
    NameKey::of_seed(SecretKey::new([seed; 32]))
}

fn record(seed: u8, sequence: u64) -> Record {
    let expires = SystemTime::now() + LIFETIME;
    Record::create(&key(seed), b"/ipfs/bafkqaaa", sequence, expires, TTL).expect("a record")
}

/// An answer of a gateway.
fn as_record(bytes: Bytes) -> Response<http_body_util::Full<Bytes>> {
    let mut response = answer(200, bytes);
    response.headers_mut().insert("content-type", RECORD_TYPE.parse().expect("a header"));
    response
}

#[tokio::test]
async fn a_gateway_gives_records() {
    let known = record(1, 7);
    let given = known.clone();
    let server = Server::http(move |request| {
        let known = given.clone();
        async move {
            assert_eq!(request.headers()[ACCEPT], RECORD_TYPE);
            let path = format!("/ipns/{}?format=ipns-record", known.name());
            if request.uri().to_string() == path { as_record(known.as_bytes().clone()) } else { answer(404, "none") }
        }
    })
    .await;
    let gateway = server.gateway();
    assert_eq!(gateway.record(known.name()).await.expect("asked"), Some(known));
    assert_eq!(gateway.record(key(2).name()).await.expect("asked"), None);
}

/// Names that a gateway does not answer for leave connections for blocks: many of them once had all there are.
#[tokio::test]
async fn names_leave_connections_for_blocks() {
    let (block_key, bytes) = block(1, 100);
    let given = bytes.clone();
    let server = Server::http(move |request| {
        let given = given.clone();
        async move {
            if request.uri().path().starts_with("/ipns/") {
                std::future::pending::<()>().await;
            }
            answer(200, given)
        }
    })
    .await;
    let options = HttpOptions::default();
    let half = options.connection_count_max / 2;
    let gateway = Gateway::new(server.url(), options);
    let keys: Vec<NameKey> = (0..64).map(key).collect();
    let names = futures_util::future::join_all(keys.iter().map(|key| gateway.record(key.name())));
    let read = async {
        while server.requests() < half {
            tokio::task::yield_now().await;
        }
        gateway.get(&block_key).await
    };
    tokio::select! {
        biased;
        _ = names => panic!("nobody answers"),
        read = read => assert_eq!(read.expect("there is a connection"), Some(bytes)),
    }
    assert_eq!(server.requests(), half + 1);
}

/// None of what these say is a record of the name, and none holds who asks up.
#[tokio::test]
async fn a_gateway_that_lies_is_not_believed() {
    let (good, stranger) = (record(1, 7), record(2, 7));
    let mut bent = good.as_bytes().to_vec();
    let middle = bent.len() / 2;
    bent[middle] ^= 1;
    for (sent, kind) in [
        (stranger.as_bytes().clone(), ErrorKind::Corrupt),
        (bent.into(), ErrorKind::Corrupt),
        (good.as_bytes().slice(..good.as_bytes().len() - 1), ErrorKind::Corrupt),
        (Bytes::new(), ErrorKind::Corrupt),
        (vec![0; RECORD_LEN_MAX + 1].into(), ErrorKind::Unavailable),
    ] {
        let server = Server::http(move |_| {
            let sent = sent.clone();
            async move { as_record(sent) }
        })
        .await;
        let error = server.gateway().record(good.name()).await.expect_err("no record");
        assert_eq!(error.kind(), kind, "{error:#}");
        assert!(format!("{error:#}").contains(&server.text()), "{error:#}");
    }
    let page = Server::http(|_| async {
        let mut response = answer(200, "<html>");
        response.headers_mut().insert("content-type", "text/html".parse().expect("a header"));
        response
    })
    .await;
    assert!(format!("{:#}", page.gateway().record(good.name()).await.expect_err("a page")).contains("is it a gateway"));
    // One that never ends, one that drips, one that says nothing.
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {RECORD_TYPE}\r\n\r\n");
    for (chunk, every) in [(vec![7; 1000], 0), (vec![7], 100), (Vec::new(), 100)] {
        let head = head.clone();
        let server = Server::raw(move |_, mut stream| {
            let (head, chunk) = (head.clone(), chunk.clone());
            async move {
                stream.write_all(head.as_bytes()).await.ok();
                while stream.write_all(&chunk).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(every)).await;
                }
            }
        })
        .await;
        let begun = Instant::now();
        let error = server.hasty_gateway().record(good.name()).await.expect_err("no end");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }
}

/// A search that found nothing says so in an event, and again after the answer; one that is cut off in between says nothing.
#[tokio::test]
async fn a_search_that_breaks_off_found_nothing_out() {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let not_found = chunk("{\"Type\":3,\"Extra\":\"routing: not found\"}\n");
    let head = "HTTP/1.1 200 OK\r\nTrailer: X-Stream-Error\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (end, is_known_absent) in [
        ("0\r\nX-Stream-Error: routing: not found\r\n\r\n", true),
        ("0\r\n\r\n", true),
        ("0\r\nX-Stream-Error: disk is full\r\n\r\n", false),
        ("", false),
    ] {
        let text = format!("{head}{not_found}{end}");
        let server = Server::raw(move |_, mut stream| {
            let text = text.clone();
            async move {
                stream.write_all(text.as_bytes()).await.ok();
            }
        })
        .await;
        let kubo = Kubo::new(server.url(), KuboOptions::default());
        let asked = kubo.record(key(1).name()).await;
        assert_eq!(asked.is_ok_and(|found| found.is_none()), is_known_absent, "{end:?}");
    }
}

/// The body of a node's answer.
type Says = Arc<Mutex<(u16, String)>>;

async fn node(says: Says, calls: Arc<Mutex<Vec<(String, Bytes)>>>) -> Server {
    Server::http(move |request: Request<Incoming>| {
        let (says, calls) = (says.clone(), calls.clone());
        async move {
            assert_eq!(request.method(), Method::POST);
            let call = request.uri().to_string();
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            calls.lock().expect("no panic").push((call, body));
            let (status, text) = says.lock().expect("no panic").clone();
            answer(status, text)
        }
    })
    .await
}

#[tokio::test]
async fn a_kubo_node_gives_records_and_takes_them() {
    let (says, calls) = (Says::default(), Arc::<Mutex<Vec<_>>>::default());
    let server = node(says.clone(), calls.clone()).await;
    let kubo = |network| Kubo::new(server.url(), KuboOptions { network, ..KuboOptions::default() });
    let say = |status, text: String| *says.lock().expect("no panic") = (status, text);
    let known = record(1, 7);
    let event =
        |kind: u64, extra: &str| format!("{{\"ID\":\"\",\"Type\":{kind},\"Responses\":null,\"Extra\":\"{extra}\"}}\n");
    let base64 = |bytes: &[u8]| multibase::Base::Base64Pad.encode(bytes);

    // Older nodes tell of their search before.
    say(200, format!("{}{}", event(0, ""), event(5, &base64(known.as_bytes()))));
    assert_eq!(kubo(false).record(known.name()).await.expect("asked"), Some(known.clone()));
    assert_eq!(kubo(true).record(known.name()).await.expect("asked"), Some(known.clone()));
    let asked: Vec<_> = calls.lock().expect("no panic").drain(..).map(|(call, _)| call).collect();
    let path = format!("/api/v0/routing/get?arg=/ipns/{}", known.name());
    assert_eq!(asked[0], format!("{path}&offline=true"));
    assert!(asked[1].starts_with(&format!("{path}&timeout=")), "or it would look for ever");

    for (status, text) in [
        (500, "{\"Message\":\"routing: not found\",\"Code\":0,\"Type\":\"error\"}".to_owned()),
        (200, format!("{}{}", event(3, "routing: not found"), "{\"Message\":\"x\",\"Code\":0,\"Type\":\"error\"}")),
        (200, String::new()),
    ] {
        say(status, text);
        assert_eq!(kubo(false).record(known.name()).await.expect("asked"), None);
    }
    // What was found stays found.
    for end in ["{\"Message\":\"x\",\"Code\":0,\"Type\":\"error\"}", "<html>", &event(3, "a peer went")] {
        say(200, format!("{}{end}", event(5, &base64(known.as_bytes()))));
        assert_eq!(kubo(false).record(known.name()).await.expect("asked"), Some(known.clone()), "{end}");
    }
    let stranger = record(2, 9);
    for (text, kind) in [
        // That nothing was found is believed who says so to the end.
        (format!("{}<html>", event(3, "routing: not found")), ErrorKind::Unavailable),
        (event(3, "a peer went"), ErrorKind::Unavailable),
        (event(5, &base64(stranger.as_bytes())), ErrorKind::Corrupt),
        (event(5, "no base64"), ErrorKind::Corrupt),
        (event(5, &base64(&vec![0; RECORD_LEN_MAX + 100])), ErrorKind::Corrupt),
        (event(5, &"A".repeat(2 << 20)), ErrorKind::Unavailable),
        ("<html>".to_owned(), ErrorKind::Unavailable),
        ("\n".repeat(100_000), ErrorKind::Unavailable),
    ] {
        say(200, text);
        let error = kubo(false).record(known.name()).await.expect_err("no record");
        assert_eq!(error.kind(), kind, "{error:#}");
    }

    // What it is given is the record, alone in a form.
    calls.lock().expect("no panic").clear();
    say(200, event(2, ""));
    kubo(false).put_record(&known, 7).await.expect("taken");
    let (call, body) = calls.lock().expect("no panic").remove(0);
    assert_eq!(call, format!("/api/v0/routing/put?arg=/ipns/{}&allow-offline=true", known.name()));
    assert!(body.windows(known.as_bytes().len()).any(|part| part == known.as_bytes()));
    assert!(body.starts_with(b"--muxfs-") && body.ends_with(b"--\r\n"));
    say(500, "{\"Message\":\"invalid record\",\"Code\":0,\"Type\":\"error\"}".to_owned());
    let error = kubo(false).put_record(&known, 7).await.expect_err("refused");
    assert!(format!("{error:#}").contains("invalid record"), "{error:#}");
}
