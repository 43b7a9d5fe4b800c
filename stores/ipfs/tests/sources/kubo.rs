//! A Kubo node as its RPC is documented, played by a server in this process: blocks, CARs, pins, and what fails late.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request, Response, body::Incoming};
use muxfs::{
    BlockKey, BlockStore, Cid, Codec, Error, ErrorKind,
    block::Mem,
    car::{self, Reader},
    cid_of,
    dag::{Dag, DagOptions, ExportOptions, UnixfsMeta},
    testing::fault::Dice,
};
use muxfs_ipfs::{HttpOptions, Kubo, KuboImport, KuboOptions, Sources, SourcesOptions};
use tokio::io::AsyncWriteExt as _;

use crate::{
    block,
    server::{Server, answer},
};

/// What a node has.
#[derive(Default)]
struct Node {
    blocks: BTreeMap<Vec<u8>, Bytes>,
    pins: BTreeSet<String>,
    /// What it wants to hear of who calls.
    auth: Option<&'static str>,
    calls: Vec<String>,
}

type Shared = Arc<Mutex<Node>>;

fn failure(message: &str) -> Response<Full<Bytes>> {
    answer(500, format!("{{\"Message\":\"{message}\",\"Code\":0,\"Type\":\"error\"}}\n"))
}

/// The value of an argument; there is one of each here.
fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

async fn call(node: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        return answer(405, "405 - Method Not Allowed");
    }
    let is_browser = ["origin", "referer"].iter().any(|name| head.headers.contains_key(*name));
    let auth = node.lock().expect("no panic").auth;
    let is_known = auth.is_none_or(|auth| head.headers.get("authorization").is_some_and(|value| value == auth));
    if is_browser || !is_known {
        return answer(403, "403 - Forbidden");
    }
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    node.lock().expect("no panic").calls.push(path.clone());
    let arg = argument(&query, "arg").unwrap_or_default().to_owned();
    let key = arg.parse::<Cid>().map(|cid| cid.multihash_bytes()).unwrap_or_default();
    match path.as_str() {
        "/api/v0/block/get" | "/api/v0/block/stat" => {
            assert!(query.contains("offline=true") || query.contains("timeout="), "it would wait for ever");
            let found = node.lock().expect("no panic").blocks.get(&key).cloned();
            match found {
                Some(found) if path.ends_with("get") => answer(200, found),
                Some(found) => answer(200, format!("{{\"Key\":\"{arg}\",\"Size\":{}}}\n", found.len())),
                None => failure(&format!("block was not found locally (offline): ipld: could not find {arg}")),
            }
        }
        "/api/v0/dag/import" => import(node, &head.headers, body).await,
        "/api/v0/pin/add" => {
            let mut node = node.lock().expect("no panic");
            if !node.blocks.contains_key(&key) {
                return answer(
                    200,
                    "{\"Progress\":0}\n{\"Message\":\"block not there\",\"Code\":0,\"Type\":\"error\"}\n",
                );
            }
            node.pins.insert(arg.clone());
            if let Some(name) = argument(&query, "name") {
                node.calls.push(format!("name {name}"));
            }
            answer(200, format!("{{\"Progress\":1}}\n{{\"Progress\":2}}\n{{\"Pins\":[\"{arg}\"]}}\n"))
        }
        "/api/v0/pin/ls" if node.lock().expect("no panic").pins.contains(&arg) => {
            answer(200, format!("{{\"Keys\":{{\"{arg}\":{{\"Type\":\"recursive\"}}}}}}\n"))
        }
        "/api/v0/pin/rm" if node.lock().expect("no panic").pins.remove(&arg) => {
            answer(200, format!("{{\"Pins\":[\"{arg}\"]}}\n"))
        }
        "/api/v0/pin/ls" => failure(&format!("path '{arg}' is not pinned")),
        "/api/v0/pin/rm" => failure("not pinned or pinned indirectly"),
        _ => answer(404, "404 page not found"),
    }
}

/// Takes a CAR out of a multipart body, every block verified.
async fn import(node: &Shared, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
    let Ok(body) = body.collect().await else { return answer(400, "it broke off") };
    let body = body.to_bytes();
    let kind = headers["content-type"].to_str().expect("text");
    let boundary = kind.split_once("boundary=").expect("multipart").1;
    let from = body.windows(4).position(|four| four == b"\r\n\r\n").expect("the head of a part") + 4;
    let end = format!("\r\n--{boundary}--\r\n");
    assert!(body.starts_with(format!("--{boundary}\r\n").as_bytes()) && body.ends_with(end.as_bytes()));
    let car = body.slice(from..body.len() - end.len());
    let mut reader = Reader::open(&car[..]).await.expect("a CAR");
    let (mut count, mut len) = (0, 0);
    while let Some(section) = reader.next().await.expect("a good CAR") {
        (count, len) = (count + 1, len + section.block.len());
        node.lock().expect("no panic").blocks.insert(section.cid.multihash_bytes(), section.block);
    }
    answer(200, format!("{{\"Stats\":{{\"BlockCount\":{count},\"BlockBytesCount\":{len}}}}}\n"))
}

async fn node() -> (Shared, Server) {
    let node = Shared::default();
    let shared = node.clone();
    let server = Server::http(move |request| {
        let node = shared.clone();
        async move { call(&node, request).await }
    })
    .await;
    (node, server)
}

fn kubo(server: &Server) -> Kubo {
    Kubo::new(server.url(), KuboOptions::default())
}

#[tokio::test]
async fn blocks_are_read_and_verified() {
    let (node, server) = node().await;
    let (key, bytes) = block(1, 1000);
    node.lock().expect("no panic").blocks.insert(key.as_bytes().to_vec(), bytes.clone());
    for network in [false, true] {
        let kubo = Kubo::new(server.url(), KuboOptions { network, ..KuboOptions::default() });
        assert_eq!(kubo.get(&key).await.expect("get"), Some(bytes.clone()));
        assert!(kubo.has(&key).await.expect("has"));
        let absent = block(2, 10).0;
        assert_eq!(kubo.get(&absent).await.expect("absent"), None);
        assert!(!kubo.has(&absent).await.expect("absent"));
        for refused in [kubo.put(&key, bytes.clone()).await, kubo.delete(&key).await] {
            assert_eq!(refused.expect_err("only read").kind(), ErrorKind::Unsupported);
        }
    }
    node.lock().expect("no panic").blocks.insert(key.as_bytes().to_vec(), "other bytes".into());
    let error = kubo(&server).get(&key).await.expect_err("a lie");
    assert!(error.kind() == ErrorKind::Corrupt && format!("{error:#}").contains(&server.text()), "{error:#}");
}

/// Who we are is told by a secret in Kubo's own words, which nothing prints.
#[tokio::test]
async fn a_node_may_want_to_know_who_calls() {
    let (node, server) = node().await;
    let key = block(1, 10).0;
    for (secret, header) in [("bearer:abc", "Bearer abc"), ("basic:user:a:b", "Basic dXNlcjphOmI=")] {
        node.lock().expect("no panic").auth = Some(header);
        let auth = Some(secret.parse().expect("a secret"));
        let options = KuboOptions { auth, ..KuboOptions::default() };
        assert!(!format!("{options:?}").contains("abc"));
        assert_eq!(Kubo::new(server.url(), options).get(&key).await.expect("known"), None);
        let error = kubo(&server).get(&key).await.expect_err("a stranger");
        assert_eq!(error.kind(), ErrorKind::Denied);
        // To who reads, a source that refuses us is one that is out of reach.
        let sources = Sources::new(vec![Arc::new(kubo(&server))], SourcesOptions::default());
        let error = sources.get(&key).await.expect_err("a stranger");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(format!("{error:#}").contains("403"), "{error:#}");
    }
    for bad in ["", "abc", "bearer:", "basic:user", "bearer:a\nb"] {
        let error = bad.parse::<muxfs_ipfs::KuboAuth>().expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

/// What is published is there, all of it and once more; and it is kept until it is let go.
#[tokio::test]
async fn a_dag_is_published() {
    let (node, server) = node().await;
    let kubo = kubo(&server);
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let bytes = Dice::new(1).bytes(5 << 20);
    let root = dag.import(&bytes[..], UnixfsMeta::default()).await.expect("a file").cid;
    let error = kubo.pin(&root, None, |_| {}).await.expect_err("nothing there");
    assert!(format!("{error:#}").contains("block not there"), "{error:#}");
    for n in 0..2 {
        assert_eq!(kubo.is_pinned(&root).await.expect("an answer"), n == 1);
        let car = car::export(&dag, &root, &[], &ExportOptions::default()).await.expect("begun");
        let imported = kubo.import(car, n).await.expect("imported");
        assert_eq!(imported.block_count, 6);
        assert!(imported.len > 5 << 20);
        let mut progress = Vec::new();
        kubo.pin(&root, Some("photos & more"), |blocks| progress.push(blocks)).await.expect("pinned");
        assert_eq!(progress, [1, 2]);
    }
    assert!(node.lock().expect("no panic").calls.contains(&"name photos%20%26%20more".to_owned()));
    let theirs = Dag::new(Arc::new(kubo), DagOptions::default());
    let read: Vec<_> = theirs.reader(&root, 0).try_collect().await.expect("read");
    assert!(read.concat() == bytes);
    let kubo = self::kubo(&server);
    assert!(kubo.unpin(&root).await.expect("unpinned") && !kubo.unpin(&root).await.expect("none"));
    assert!(!kubo.is_pinned(&root).await.expect("an answer"));
}

/// What cannot be read here is told as that, not as a fault of the node, and the node is left with a request that broke off.
#[tokio::test]
async fn a_car_that_breaks_off_is_told() {
    let (_, server) = node().await;
    let pieces = vec![Ok(Bytes::from_static(b"abc")), Err(Error::new(ErrorKind::Corrupt, "test"))];
    let error = kubo(&server).import(stream::iter(pieces).boxed(), 7).await.expect_err("broken off");
    assert_eq!((error.kind(), error.op()), (ErrorKind::Corrupt, "test"));
}

/// A node that speaks nonsense, ends too early, or tells of an error in its last line or behind it.
#[tokio::test]
async fn answers_that_are_no_success() {
    let chunked = "HTTP/1.1 200 OK\r\nTrailer: X-Stream-Error\r\nTransfer-Encoding: chunked\r\n\r\n";
    let late = format!("{chunked}3\r\n{{}}\n\r\n0\r\nX-Stream-Error: disk is full\r\n\r\n");
    let plain = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for (sent, word) in [
        (late, "disk is full"),
        (plain("{\"Message\":\"too big\",\"Code\":0,\"Type\":\"error\"}"), "too big"),
        (plain("<html>"), "it answers"),
        (plain(""), "did not pin"),
        (format!("{chunked}3\r\n{{}}\n\r\n"), "broke off"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), "a Kubo node?"),
        (plain(&"x".repeat(2 << 20)), "without an end"),
    ] {
        let server = Server::raw(move |_, mut stream| {
            let sent = sent.clone();
            async move {
                stream.write_all(sent.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            }
        })
        .await;
        let error = kubo(&server).pin(&cid_of(Codec::Raw, b"x"), None, |_| {}).await.expect_err(word);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        assert!(format!("{error:#}").contains(word), "{word}: {error:#}");
    }
}

/// A node that goes on to say nothing of a CAR is not listened to for ever.
#[tokio::test]
async fn an_answer_without_an_end_is_cut_off() {
    for line in ["\n", "{}\n"] {
        let server = Server::raw(move |_, mut stream| async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok();
            let chunk = format!("{:x}\r\n{line}\r\n", line.len());
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
        })
        .await;
        let error = kubo(&server).import(stream::empty().boxed(), 1).await.expect_err("no end");
        assert!(format!("{error:#}").contains("no further"), "{error:#}");
    }
}

/// An upload is not waited for for ever, though it may take as long as it moves.
#[tokio::test]
async fn an_upload_may_be_slow() {
    let (_, server) = node().await;
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let root = dag.import(&b"slow"[..], UnixfsMeta::default()).await.expect("a file").cid;
    let car = car::export(&dag, &root, &[], &ExportOptions::default()).await.expect("begun");
    let slow = car.then(|piece| async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        piece
    });
    // Longer than this client waits for the answer to anything else.
    let (silence_max, request_max) = (Duration::from_secs(1), Duration::from_secs(2));
    let http = HttpOptions { silence_max, request_max, ..HttpOptions::default() };
    let kubo = Kubo::new(server.url(), KuboOptions { http, ..KuboOptions::default() });
    assert_eq!(kubo.import(slow.boxed(), 1).await.expect("imported"), KuboImport { block_count: 1, len: 4 });
    let key = BlockKey::from(&root);
    assert_eq!(kubo.get(&key).await.expect("get"), Some("slow".into()));
}
