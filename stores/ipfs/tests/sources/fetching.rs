//! Fetching from gateways that do what they should: this MuxFS's own, over TLS too, and slow ones.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use muxfs::{
    BlockKey, BlockStore, Codec, ErrorKind, Mount, MuxFs, Name, Prefix, Result,
    block::Mem,
    cid_of,
    dag::{Dag, DagOptions, Entry, Profile, UnixfsMeta},
    media::MemMedia,
    pins::Pins,
    testing::{self, fault::Dice},
};
use muxfs_ipfs::{Gateway, HttpOptions, Url};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::{
    asked_for, block,
    server::{Server, answer},
};

fn dag() -> Dag {
    Dag::new(Arc::new(Mem::default()), DagOptions::default())
}

/// A directory of files, and a big file.
async fn tree(dag: &Dag) -> (muxfs::Cid, Vec<u8>) {
    let big = Dice::new(1).bytes(5 << 20);
    let file = dag.import(&big[..], UnixfsMeta::default()).await.expect("a file");
    let mut entries = vec![Ok(Entry { name: Name::new(b"big").expect("a name"), link: file })];
    for n in 0..200 {
        let link = dag.import(format!("file {n}").as_bytes(), UnixfsMeta::default()).await.expect("a file");
        entries.push(Ok(Entry { name: Name::new(format!("file {n}").as_bytes()).expect("a name"), link }));
    }
    (dag.put_dir(stream::iter(entries).boxed()).await.expect("a directory").cid, big)
}

/// This MuxFS's gateway over a `Dag`.
async fn serve(dag: Dag) -> (muxfs_http::Server, Url) {
    let pins = Pins::open(Arc::new(MemMedia::default()), &testing::env()).await.expect("pins");
    let mut mux = MuxFs::new();
    mux.mount(Mount::cas(Prefix::new("ipfs").expect("a prefix"), dag, Arc::new(pins))).expect("mounted");
    let options = muxfs_http::Options { addr: ([127, 0, 0, 1], 0).into(), ..Default::default() };
    let server = muxfs_http::serve(mux, options).expect("served");
    let url = format!("http://{}", server.local_addr()).parse().expect("an address");
    (server, url)
}

/// Everything that a tree has, over the wire, each kind of node and profile.
#[tokio::test]
async fn a_tree_of_another_muxfs_is_read() {
    for profile in [Profile::UnixfsV1_2025, Profile::UnixfsV0_2015] {
        let far = dag().with_params(profile.params());
        let (root, big) = tree(&far).await;
        let (server, url) = serve(far.clone()).await;
        let near = dag();
        let reading = near.with_elsewhere(Arc::new(Gateway::new(url, HttpOptions::default())));
        let names: Vec<Entry> = reading.list(&root, 0).try_collect().await.expect("listed");
        assert_eq!(names.len(), 201);
        for entry in names {
            let bytes: Vec<_> = reading.reader(&entry.link.cid, 0).try_collect().await.expect("read");
            let expected = if entry.name.as_bytes() == b"big" { &big } else { entry.name.as_bytes() };
            assert!(bytes.concat() == *expected, "{}", entry.name);
        }
        let absent = cid_of(Codec::Raw, b"nowhere");
        assert_eq!(reading.get_block(&absent).await.expect_err("absent").kind(), ErrorKind::NotFound);
        assert_eq!(near.keys().count().await, 0, "what is read is not put");
        server.shutdown().await;
    }
}

/// Two that have each other for a source do not ask each other for ever.
#[tokio::test]
async fn two_that_ask_each_other_come_to_an_end() {
    struct Later(Mutex<Option<Arc<Gateway>>>);
    impl std::fmt::Debug for Later {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Later")
        }
    }
    #[async_trait::async_trait]
    impl BlockStore for Later {
        async fn get(&self, key: &BlockKey) -> Result<Option<bytes::Bytes>> {
            let gateway = self.0.lock().expect("no panic").clone().expect("known by now");
            gateway.get(key).await
        }
        async fn put(&self, _key: &BlockKey, _block: bytes::Bytes) -> Result<()> {
            Ok(())
        }
        async fn delete(&self, _key: &BlockKey) -> Result<()> {
            Ok(())
        }
        fn keys(&self) -> stream::BoxStream<'_, Result<BlockKey>> {
            stream::empty().boxed()
        }
    }
    let mut servers = Vec::new();
    for _ in 0..2 {
        let other = Arc::new(Later(Mutex::default()));
        let env = testing::env();
        let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env).await.expect("pins"));
        let options = muxfs::cas_view::CasViewOptions { elsewhere: Some(other.clone()), ..Default::default() };
        let mount = Mount::cas_with_options(Prefix::new("ipfs").expect("a prefix"), dag(), pins, options);
        let cas = mount.as_cas().expect("content").clone();
        let mut mux = MuxFs::new();
        mux.mount(mount).expect("mounted");
        let options = muxfs_http::Options { addr: ([127, 0, 0, 1], 0).into(), ..Default::default() };
        servers.push((other, cas, muxfs_http::serve(mux, options).expect("served")));
    }
    for (at, to) in [(0, 1), (1, 0)] {
        let url = format!("http://{}", servers[to].2.local_addr()).parse().expect("an address");
        *servers[at].0.0.lock().expect("no panic") = Some(Arc::new(Gateway::new(url, HttpOptions::default())));
    }
    let there = servers[1].1.dag().put_block(Codec::Raw, "there".into()).await.expect("put");
    // By the gateway of the first, as a browser asks.
    let url: Url = format!("http://{}", servers[0].2.local_addr()).parse().expect("an address");
    let absent = cid_of(Codec::Raw, b"nowhere");
    assert_eq!(servers[0].1.reading_dag().get_block(&there).await.expect("of the other"), "there");
    let error = servers[0].1.reading_dag().get_block(&absent).await.expect_err("absent");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // For another it says what it has, and asks nobody.
    let gateway = Gateway::new(url, HttpOptions::default());
    assert_eq!(gateway.get(&BlockKey::from(&there)).await.expect("an answer"), None);
}

/// Connections are used again, and there are no more than there may be.
#[tokio::test]
async fn connections_are_few_and_used_again() {
    let under_way = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let server = {
        let (under_way, most) = (under_way.clone(), most.clone());
        Server::http(move |request| {
            let (under_way, most) = (under_way.clone(), most.clone());
            async move {
                most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(5)).await;
                under_way.fetch_sub(1, Ordering::SeqCst);
                let n = (0..100).find(|n| {
                    asked_for(request.uri().path()).is_some_and(|cid| BlockKey::from(&cid) == block(*n, 1000).0)
                });
                n.map_or_else(|| answer(404, ""), |n| answer(200, block(n, 1000).1))
            }
        })
        .await
    };
    let options = HttpOptions { connection_count_max: 4, ..HttpOptions::default() };
    let gateway = Gateway::new(server.url(), options);
    let gateway = &gateway;
    let gets = (0..100).map(|n| async move { gateway.get(&block(n, 1000).0).await });
    for (n, got) in (0..).zip(futures_util::future::join_all(gets).await) {
        assert_eq!(got.expect("get"), Some(block(n, 1000).1));
    }
    assert_eq!((server.requests(), server.connections(), most.load(Ordering::SeqCst)), (100, 4, 4));
}

/// A server may close a connection that nobody uses, also while the next request is on its way.
#[tokio::test]
async fn a_connection_that_was_closed_is_opened_again() {
    use tokio::io::AsyncWriteExt as _;
    let server = Server::raw(|_, mut stream| async move {
        let body = block(1, 1000).1;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).await.ok();
        // Gone, and said nothing about it.
    })
    .await;
    let gateway = Gateway::new(server.url(), HttpOptions::default());
    for _ in 0..10 {
        assert_eq!(gateway.get(&block(1, 1000).0).await.expect("get"), Some(block(1, 1000).1));
    }
    assert_eq!(server.requests(), 10);
}

/// Over TLS by a certificate that is trusted, and by no other.
#[tokio::test]
async fn tls_is_checked() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = made.signing_key.serialize_der().try_into().expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a good certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::of_connections(move |stream, requests| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |_| {
                requests.fetch_add(1, Ordering::SeqCst);
                async { Ok::<_, std::convert::Infallible>(answer(200, block(1, 1000).1)) }
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        }
    })
    .await;
    let gateway = |host: &str, roots: rustls::RootCertStore| {
        let url = format!("https://{host}:{}", server.port()).parse().expect("an address");
        Gateway::new(url, HttpOptions { roots: Some(Arc::new(roots)), ..HttpOptions::default() })
    };
    let mut trusted = rustls::RootCertStore::empty();
    trusted.add(made.cert.der().clone()).expect("a certificate");
    let (key, bytes) = block(1, 1000);
    assert_eq!(gateway("localhost", trusted.clone()).get(&key).await.expect("get"), Some(bytes));
    for gateway in [gateway("localhost", rustls::RootCertStore::empty()), gateway("127.0.0.1", trusted)] {
        let error = gateway.get(&key).await.expect_err("not trusted");
        assert!(error.kind() == ErrorKind::Unavailable && format!("{error:#}").contains("TLS"), "{error:#}");
    }
    assert_eq!(server.requests(), 1);
}

/// A link that takes its time for each block is filled by asking for several at once: for the next ones of a big file, and
/// for those that a listing with attributes needs.
#[tokio::test]
async fn a_slow_link_is_kept_busy() {
    let far = dag();
    let bytes = Dice::new(1).bytes(24 << 20);
    let file = far.import(&bytes[..], UnixfsMeta::default()).await.expect("a file");
    let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let wanted = Arc::new(AtomicUsize::new(6));
    let server = {
        let (far, under_way, most, wanted) = (far.clone(), under_way.clone(), most.clone(), wanted.clone());
        Server::http(move |request| {
            let (far, under_way, most, wanted) = (far.clone(), under_way.clone(), most.clone(), wanted.clone());
            async move {
                most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // The others may be late on a slow machine; what is asked for alone has none.
                let others = async {
                    while most.load(Ordering::SeqCst) < wanted.load(Ordering::SeqCst) {
                        sleep(Duration::from_millis(5)).await;
                    }
                };
                timeout(Duration::from_secs(2), others).await.ok();
                sleep(Duration::from_millis(50)).await;
                under_way.fetch_sub(1, Ordering::SeqCst);
                let cid = asked_for(request.uri().path()).expect("a CID");
                answer(200, far.get_block(&cid).await.expect("there"))
            }
        })
        .await
    };
    let reading = || dag().with_elsewhere(Arc::new(Gateway::new(server.url(), HttpOptions::default())));
    let read: Vec<_> = reading().reader(&file.cid, 0).try_collect().await.expect("read");
    assert!(read.concat() == bytes);
    let filled = most.swap(0, Ordering::SeqCst);
    assert!((6..=16).contains(&filled), "{filled} at once");
    assert_eq!(server.requests(), 25, "each block once");

    // As NFS and FUSE ask: a short part after the other.
    wanted.store(4, Ordering::SeqCst);
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &testing::env()).await.expect("pins"));
    let mount = Mount::cas(Prefix::new("ipfs").expect("a prefix"), reading(), pins);
    let vfs = mount.vfs();
    let found = vfs.lookup(vfs.root(), &Name::new(file.cid.to_string().as_bytes()).expect("a name")).await;
    let (ino, before) = (found.expect("there").ino, server.requests());
    for part in bytes.chunks(256 << 10) {
        let at = part.as_ptr() as u64 - bytes.as_ptr() as u64;
        assert!(vfs.read(ino, at, 256 << 10).await.expect("read") == part);
    }
    let filled = most.swap(0, Ordering::SeqCst);
    assert!((4..=16).contains(&filled), "{filled} at once");
    assert_eq!(server.requests() - before, 24, "each block once, but the root, which is known");

    wanted.store(10, Ordering::SeqCst);
    let (root, _) = tree(&far).await;
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &testing::env()).await.expect("pins"));
    let mount = Mount::cas(Prefix::new("ipfs").expect("a prefix"), reading(), pins);
    let vfs = mount.vfs();
    let dir = vfs.lookup(vfs.root(), &Name::new(root.to_string().as_bytes()).expect("a name")).await.expect("there");
    let page = vfs.readdir(dir.ino, muxfs::vfs::Cookie::START, 1000, muxfs::vfs::Listing::Attrs).await.expect("listed");
    let names: BTreeSet<_> =
        page.entries.iter().filter(|entry| entry.attr.is_some()).map(|entry| &entry.name).collect();
    assert_eq!(names.len(), 201);
    let filled = most.load(Ordering::SeqCst);
    assert!((10..=16).contains(&filled), "{filled} at once");
}
