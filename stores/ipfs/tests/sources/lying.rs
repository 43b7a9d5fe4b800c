//! Servers that lie, hang, or speak no HTTP: one test each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use muxfs::{
    BlockKey, BlockStore, Cid, Codec, ErrorKind,
    block::Mem,
    dag::{
        DAG_BLOCK_LEN_MAX, Dag, DagOptions, FILE_DEPTH_MAX,
        pb::{PbLink, PbNode},
        unixfs::{UnixfsData, UnixfsType},
    },
};
use muxfs_ipfs::{Gateway, HttpOptions, Kubo, KuboOptions, Sources, SourcesOptions};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::sleep};

use crate::{
    asked_for, block,
    server::{PATIENCE, Server, answer, hasty},
};

/// How long a source that failed rests at first, and one that says nothing is waited for: what took longer shows nothing of either.
const SECOND: Duration = Duration::from_secs(1);

/// Asks a server that sends `sent` and then closes; what is wrong with it is told, with its address.
async fn refused(sent: Vec<u8>, kind: ErrorKind) -> String {
    let server = Server::raw(move |_, mut stream: TcpStream| {
        let sent = sent.clone();
        async move {
            stream.write_all(&sent).await.ok();
            stream.shutdown().await.ok();
        }
    })
    .await;
    of_server(&server, kind).await
}

async fn of_server(server: &Server, kind: ErrorKind) -> String {
    of_gateway(server.gateway(), server, kind).await
}

async fn of_gateway(gateway: Gateway, server: &Server, kind: ErrorKind) -> String {
    let begun = Instant::now();
    let error = gateway.get(&block(1, 1000).0).await.expect_err("no block");
    assert!(begun.elapsed() < PATIENCE);
    let text = format!("{error:#}");
    assert_eq!((error.kind(), text.contains(&server.text())), (kind, true), "{text}");
    text
}

fn with_body(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

#[tokio::test]
async fn other_bytes_are_corrupt() {
    let (_, other) = block(2, 1000);
    refused(with_body(&other), ErrorKind::Corrupt).await;
    refused(with_body(b""), ErrorKind::Corrupt).await;
    let (key, mut flipped) = (block(1, 1000).0, block(1, 1000).1.to_vec());
    flipped[500] ^= 1;
    refused(with_body(&flipped), ErrorKind::Corrupt).await;

    // Nobody is given them, and who has the block is asked; from then on first.
    let liar = Server::http(|_| async { answer(200, "other bytes") }).await;
    let honest = Arc::new(Mem::default());
    honest.put(&key, block(1, 1000).1).await.expect("put");
    let sources = Sources::new(vec![Arc::new(liar.gateway()), honest], SourcesOptions::default());
    for _ in 0..3 {
        assert_eq!(sources.get(&key).await.expect("from the other"), Some(block(1, 1000).1));
    }
    assert_eq!(liar.requests(), 1);
    // What only the liar could have is no less unknown.
    assert_eq!(sources.get(&block(3, 10).0).await.expect_err("a lie").kind(), ErrorKind::Corrupt);
}

/// What is read of an endless body is a little more than a block.
#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let sent = Arc::new(AtomicUsize::new(0));
    let told = sent.clone();
    let server = Server::raw(move |_, mut stream| {
        let sent = told.clone();
        async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok();
            let chunk = [b"10000\r\n", &vec![0; 0x10000][..], b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {
                sent.fetch_add(0x10000, Ordering::SeqCst);
            }
        }
    })
    .await;
    let text = of_server(&server, ErrorKind::Unavailable).await;
    assert!(text.contains("longer than"), "{text}");
    // With what buffers of the system hold.
    assert!(sent.load(Ordering::SeqCst) < 32 << 20);
}

#[tokio::test]
async fn a_length_past_that_of_blocks_is_not_believed() {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX / 2);
    assert!(refused(head.into(), ErrorKind::Unavailable).await.contains("longer than"));
    let (_, long) = block(1, DAG_BLOCK_LEN_MAX + 1);
    assert!(refused(with_body(&long), ErrorKind::Unavailable).await.contains("longer than"));
}

/// Each byte comes in time, and the block never would.
#[tokio::test]
async fn a_slow_drip_ends() {
    let server = Server::raw(|_, mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await.ok();
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let gateway = Gateway::new(server.url(), HttpOptions { silence_max: PATIENCE, ..hasty() });
    assert!(of_gateway(gateway, &server, ErrorKind::Unavailable).await.contains("longer than 1 s"));
}

#[tokio::test]
async fn silence_ends() {
    for said in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nxyz"] {
        let server = Server::raw(move |_, mut stream| async move {
            stream.write_all(said.as_bytes()).await.ok();
            std::future::pending::<()>().await;
        })
        .await;
        of_gateway(server.hasty_gateway(), &server, ErrorKind::Unavailable).await;
    }
}

#[tokio::test]
async fn a_redirect_in_a_circle_ends() {
    let server = Server::raw(|_, mut stream| async move {
        stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n").await.ok();
        stream.shutdown().await.ok();
    })
    .await;
    assert!(of_server(&server, ErrorKind::Unavailable).await.contains("redirects"));
    assert!(server.requests() <= 4);
}

/// A stranger could have this machine ask what only this machine can reach.
#[tokio::test]
async fn a_redirect_into_another_network_is_not_followed() {
    let (key, bytes) = block(1, 1000);
    let target = Server::http(move |_| {
        let bytes = bytes.clone();
        async { answer(200, bytes) }
    })
    .await;
    let to = |host: &'static str, port: u16| {
        Server::http(move |request| async move {
            let mut response = answer(301, "elsewhere");
            let location = format!("http://{host}:{port}{}", request.uri());
            response.headers_mut().insert("location", location.parse().expect("a header"));
            response
        })
    };
    let strange = to("localhost", target.port()).await;
    let text = of_server(&strange, ErrorKind::Unavailable).await;
    assert!(text.contains("no public address") && target.requests() == 0, "{text}");
    // On its own host a server may send whom it wants.
    let near = to("127.0.0.1", target.port()).await;
    assert_eq!(near.gateway().get(&key).await.expect("followed"), Some(block(1, 1000).1));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_block() {
    let (_, whole) = block(1, 1000);
    let cut = with_body(&whole);
    refused(cut[..cut.len() - 1].to_vec(), ErrorKind::Unavailable).await;
    let chunked = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n", &whole[..]].concat();
    refused(chunked, ErrorKind::Unavailable).await;
    // Without a length nobody can tell but the hash.
    let until_closed = [b"HTTP/1.1 200 OK\r\n\r\n", &whole[..900]].concat();
    refused(until_closed, ErrorKind::Corrupt).await;
}

#[tokio::test]
async fn what_is_nowhere_is_absent() {
    let servers = [404, 410].map(|status| Server::http(move |_| async move { answer(status, "no such block") }));
    let servers = futures_util::future::join_all(servers).await;
    let stores = servers.iter().map(|server| Arc::new(server.gateway()) as Arc<dyn BlockStore>).collect();
    let sources = Sources::new(stores, SourcesOptions::default());
    for n in 0..5 {
        assert_eq!(sources.get(&block(n, 10).0).await.expect("known to be absent"), None);
        assert!(!sources.has(&block(n, 10).0).await.expect("known to be absent"));
    }
    // Over connections that were there.
    assert!(servers.iter().all(|server| server.requests() == 10 && server.connections() <= 6));
}

/// What nobody finds in time is out of reach; who looked for it has not failed, and is asked for the next block.
#[tokio::test]
async fn blocks_that_nobody_finds_rest_nobody() {
    let (key, there) = block(1, 1000);
    let good = with_body(&there);
    let out_of_time = "{\"Message\":\"context deadline exceeded\",\"Code\":0,\"Type\":\"error\"}";
    let with_status = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    for (missing, is_asked_on) in [
        (with_status("504 Gateway Timeout", "no peers"), true),
        (with_status("451 Unavailable For Legal Reasons", ""), true),
        (with_status("500 Internal Server Error", out_of_time), true),
        // It says nothing, and an answer of it stands still.
        (String::new(), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc".to_owned(), true),
        (with_status("502 Bad Gateway", ""), false),
    ] {
        let (is_node, is_silent) = (missing.contains("deadline"), missing.is_empty() || missing.ends_with("abc"));
        let (cid, good, sent) = (key.clone(), good.clone(), missing.clone());
        let server = Server::raw(move |head, mut stream| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let asked = path.split(['/', '=', '?', '&']).find_map(|part| part.parse::<Cid>().ok());
            let is_there = asked.is_some_and(|asked| BlockKey::from(&asked) == cid);
            let sent = if is_there { good.clone() } else { sent.clone().into_bytes() };
            async move {
                stream.write_all(&sent).await.ok();
                sleep(PATIENCE).await;
            }
        })
        .await;
        let store: Arc<dyn BlockStore> = if is_node {
            Arc::new(Kubo::new(server.url(), KuboOptions { network: true, ..KuboOptions::default() }))
        } else if is_silent {
            let http = HttpOptions { silence_max: SECOND, ..HttpOptions::default() };
            Arc::new(Gateway::new(server.url(), http))
        } else {
            Arc::new(server.gateway())
        };
        let sources = Sources::new(vec![store], SourcesOptions::default());
        let begun = Instant::now();
        loop {
            let round = Instant::now();
            for n in 2..6 {
                let error = sources.get(&block(n, 1000).0).await.expect_err("nobody has it");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{missing}: {error:#}");
            }
            let last = Instant::now();
            let found = sources.get(&key).await.is_ok_and(|found| found.as_ref() == Some(&there));
            let took = if is_asked_on { last.elapsed() } else { round.elapsed() };
            if found == is_asked_on {
                break;
            }
            assert!(took >= SECOND && begun.elapsed() < PATIENCE, "{missing}: {found} after {took:?}");
        }
    }
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let mut dice = muxfs::testing::fault::Dice::new(7);
    for _ in 0..20 {
        refused(dice.bytes(2000), ErrorKind::Unavailable).await;
    }
    for head in [
        "HTTP/1.1 abc OK\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(10_000)),
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad".to_owned(),
        "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 302 Found\r\nLocation: \x01\r\n\r\n".to_owned(),
    ] {
        refused(head.into_bytes(), ErrorKind::Unavailable).await;
    }
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nlogin";
    assert!(refused(page.into(), ErrorKind::Unavailable).await.contains("text/html"), "who logs in first is told");
}

/// Who asks to be left in peace is.
#[tokio::test]
async fn a_server_that_wants_a_rest_has_it() {
    for status in [429, 503] {
        let server = Server::http(move |_| async move {
            let mut response = answer(status, "");
            response.headers_mut().insert("retry-after", "100".parse().expect("a header"));
            response
        })
        .await;
        let gateway = server.gateway();
        for _ in 0..3 {
            let error = gateway.get(&block(1, 10).0).await.expect_err("no answer");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        assert_eq!(server.requests(), 1);
    }
}

/// A small DAG that unfolds to more than anybody could hold, and one that is deeper than files are: each block is what its
/// CID says, and what is read of them is bounded by what was asked for.
#[tokio::test]
async fn a_dag_bomb_costs_what_is_read() {
    const LEVELS: usize = 5;
    const WIDTH: u64 = 1000;
    let far = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let above = async |below: muxfs::Cid, size: u64, width: u64| {
        let file = UnixfsData {
            filesize: Some(size * width),
            blocksizes: vec![size; usize::try_from(width).expect("small")],
            ..UnixfsData::new(UnixfsType::File)
        };
        let link = PbLink { cid: below, name: Some(bytes::Bytes::new()), tsize: Some(1) };
        let links = vec![link; usize::try_from(width).expect("small")];
        far.put_block(Codec::DagPb, PbNode { links, data: Some(file.encode().into()) }.encode()).await.expect("put")
    };
    let leaf = far.put_block(Codec::Raw, "x".into()).await.expect("put");
    let (mut wide, mut size) = (leaf, 1);
    for _ in 0..LEVELS {
        wide = above(wide, size, WIDTH).await;
        size *= WIDTH;
    }
    let mut deep = leaf;
    for _ in 0..=FILE_DEPTH_MAX {
        deep = above(deep, 1, 1).await;
    }
    let blocks = far.clone();
    let server = Server::http(move |request| {
        let far = blocks.clone();
        async move {
            match asked_for(request.uri().path()) {
                Some(cid) => answer(200, far.get_block(&cid).await.expect("there")),
                None => answer(400, ""),
            }
        }
    })
    .await;
    let source = Arc::new(server.gateway());
    let near = Dag::new(Arc::new(Mem::default()), DagOptions::default()).with_elsewhere(source);
    assert_eq!(near.stat(&wide).await.expect("stat").size, WIDTH.pow(5));
    assert_eq!(near.read_at(&wide, WIDTH.pow(5) / 3, 10).await.expect("read"), "xxxxxxxxxx");
    assert!(server.requests() <= LEVELS + 1, "{}", server.requests());
    let error = near.read_at(&deep, 0, 1).await.expect_err("too deep");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
