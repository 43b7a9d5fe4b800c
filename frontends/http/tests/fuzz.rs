//! Requests that are whole, damaged and invented, over real connections: each gets an answer that is HTTP or none, nobody
//! waits for ever, another client is answered meanwhile, and nothing is written without the token.
//!
//! `MUXFS_FUZZ_INPUTS` says how many, `MUXFS_FUZZ_SEED` where they begin.

mod web;

use std::{
    env,
    net::SocketAddr,
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use muxfs::{
    Mount, MuxFs, Prefix,
    block::Mem,
    dag::{Dag, DagOptions, UnixfsMeta},
    media::MemMedia,
    pins::Pins,
    testing::{fault::Dice, hostile, model::ModelFs},
    vfs::{Cookie, Listing, Vfs as _},
};
use muxfs_http::{Options, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use self::web::{reply, writing};

/// Only what never comes takes as long.
const PATIENCE: Duration = Duration::from_mins(1);
/// When a client takes it that nothing more comes; whether that is so makes no difference.
const SILENCE: Duration = Duration::from_millis(100);
/// Some wait for a second, as who shows a wrong token.
const AT_ONCE: usize = 64;

/// A server of content and of a file system that nobody may write.
async fn site() -> (Server, Arc<ModelFs>, muxfs::Cid) {
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let pins = Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await.expect("opens");
    let file = dag.import(&[7; 10_000][..], UnixfsMeta::default()).await.expect("memory").cid;
    let model = ModelFs::new(muxfs::testing::env());
    let mut mux = MuxFs::new();
    mux.mount(Mount::cas(Prefix::new("ipfs").expect("a prefix"), dag, Arc::new(pins))).expect("mounts");
    let of = Mount::location(Prefix::new("local").expect("a prefix"), model.clone(), muxfs::testing::env());
    mux.mount(of).expect("mounts");
    let vfs = mux.vfs(&muxfs::testing::env()).await.expect("joins");
    let options = Options {
        addr: ([127, 0, 0, 1], 0).into(),
        writing: Some(writing(vfs)),
        head_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_secs(2),
        ..Options::default()
    };
    (muxfs_http::serve(mux, options).expect("listens"), model, file)
}

fn of(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_asked_others_are_answered_and_nothing_is_written() {
    let (count, seed) = (of("MUXFS_FUZZ_INPUTS", 1_500), of("MUXFS_FUZZ_SEED", 1));
    println!("requests {seed} to {}", seed + count - 1);
    let panics = Arc::new(AtomicU64::new(0));
    let (counted, before) = (panics.clone(), panic::take_hook());
    // A task that panics ends a connection and nothing else: it would not be seen.
    panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
    let (server, model, file) = site().await;
    let addr = server.local_addr();
    let paths = hostile::paths(&file, seed);
    let (mut answered, mut good) = (0, 0);
    let cid = file.to_string();
    let mut ends = stream::iter(seed..seed + count)
        .map(|seed| {
            // The dice of neighbours are strangers.
            let request = request(&mut Dice::new(seed.wrapping_mul(0xa076_1d64_78bd_642f)), &cid, &paths);
            async move { (seed, timeout(PATIENCE, say(addr, request)).await) }
        })
        .buffer_unordered(AT_ONCE);
    while let Some((seed, ended)) = ends.next().await {
        let (statuses, all) = ended.unwrap_or_else(|_| panic!("MUXFS_FUZZ_SEED={seed}: no end"));
        let is_ours = |status: &u16| *status >= 500 && !matches!(status, 501 | 502 | 505);
        assert!(!statuses.iter().any(is_ours), "MUXFS_FUZZ_SEED={seed}: {all}");
        answered += usize::from(!statuses.is_empty());
        good += usize::from(statuses.iter().any(|status| *status < 300));
        assert_eq!(panics.load(Ordering::SeqCst), 0, "at about MUXFS_FUZZ_SEED={seed}");
        if seed % 8 == 0 {
            let other = web::ask(addr, "GET", &format!("/ipfs/{cid}"), &[]).await;
            assert_eq!((other.status, other.body.len()), (200, 10_000), "{seed}: somebody else");
        }
    }
    drop(ends);
    println!("{answered} answered, {good} with success");
    let there = model.readdir(model.root(), Cookie::START, 100, Listing::Names).await.expect("lists");
    assert_eq!(there.entries.len(), 0, "nobody had the token");
    if count >= 1000 {
        assert!(answered > 500 && good > 200, "{answered} of {count} were answered, {good} with success");
    }
    let ended = timeout(PATIENCE, server.shutdown()).await;
    ended.expect("it ends");
}

/// Says it, and reads what comes: the status of each answer.
async fn say(addr: SocketAddr, request: Vec<u8>) -> (Vec<u16>, String) {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    let (mut read, mut write) = stream.split();
    let mut all = Vec::new();
    let sending = write.write_all(&request);
    let reading = async { while let Ok(Ok(1..)) = timeout(SILENCE, read.read_buf(&mut all)).await {} };
    let (_, ()) = tokio::join!(sending, reading);
    // Who has nothing more to say is not waited for.
    write.shutdown().await.ok();
    read.read_to_end(&mut all).await.ok();
    let shown = || all.escape_ascii().to_string().chars().take(300).collect::<String>();
    if all.is_empty() {
        return (Vec::new(), String::new());
    }
    assert!(all.starts_with(b"HTTP/1."), "{}", shown());
    // Of several answers on a connection the first is looked at whole, as far as it can be without knowing the method.
    let first = reply(&all, true).status;
    let text = String::from_utf8_lossy(&all).into_owned();
    let others = text.split("\r\nHTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok());
    (std::iter::once(first).chain(others).collect(), shown())
}

// The first of each comes as often as all others together.
const METHODS: [&str; 16] = [
    "GET",
    "HEAD",
    "OPTIONS",
    "PROPFIND",
    "PUT",
    "DELETE",
    "MKCOL",
    "COPY",
    "MOVE",
    "PROPPATCH",
    "LOCK",
    "UNLOCK",
    "POST",
    "get",
    "CONNECT",
    "PRI",
];
const QUERIES: [&str; 23] = [
    "",
    "?format=raw",
    "?format=car",
    "?format=tar",
    "?format=dag-json",
    "?format=ipns-record",
    "?format=",
    "?format=car&dag-scope=entity&entity-bytes=0:10",
    "?format=car&entity-bytes=-1:-9223372036854775808",
    "?format=car&car-version=2",
    "?format=car&car-order=unk&car-dups=y",
    "?filename=%22%0d%0aX:%20y",
    "?filename=a&download=true",
    "?list",
    "?from=ffffffffffffffff",
    "?from=-1",
    "?%zz",
    "?a=%ff",
    "?&&==&",
    "#f",
    "?#",
    "?format=raw&format=car",
    "?+",
];
const HEADERS: [&str; 46] = [
    "Range: bytes=0-0",
    "Range: bytes=-1",
    "Range: bytes=5-",
    "Range: bytes=9999-",
    "Range: bytes=10000-",
    "Range: bytes=0-1,3-4,6-7",
    "Range: bytes=0-18446744073709551615",
    "Range: bytes=-99999999999999999999",
    "Range: bytes=,,,",
    "Range: lines=1-2",
    "If-Range: \"x\"",
    "If-None-Match: *",
    "If-None-Match: \"x\", W/\"y\"",
    "If-Match: \"",
    "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    "If-Modified-Since: Sun, 99 Nov 99999 99:99:99 GMT",
    "If-Unmodified-Since: yesterday",
    "If: (<urn:uuid:1>) (Not [\"x\"])",
    "If: ((((",
    "Accept: application/vnd.ipld.raw",
    "Accept: application/vnd.ipld.car; version=1; order=dfs; dups=n",
    "Accept: application/vnd.ipld.car;version=;=;;q=x",
    "Accept: text/html;q=0.1, */*;q=9999999999999999999",
    "Accept: ,;,;q=,",
    "Accept-Encoding: gzip, br;q=0",
    "Authorization: Bearer",
    "Authorization: Basic Og==",
    "Authorization: Basic ====",
    "Cookie: muxfs=; ;=; \"",
    "Origin: http://evil.example",
    "Origin: null",
    "Sec-Fetch-Site: cross-site",
    "Service-Worker: script",
    "Via: 1.1 muxfs",
    "Cache-Control: only-if-cached, max-age=,,",
    "Host: evil.example",
    "Host: localhost:99999",
    "Host: [::1",
    "Depth: 1",
    "Depth: infinity",
    "Destination: /local/../../etc/passwd",
    "Destination: http://[::1/x",
    "Overwrite: X",
    "Timeout: Second-99999999999999999999",
    "Transfer-Encoding: gzip, chunked",
    "Expect: 100-continue",
];
const BODIES: [&str; 7] = [
    "",
    "x",
    "token=0",
    "<?xml version=\"1.0\"?><D:propfind xmlns:D=\"DAV:\"><D:allprop/></D:propfind>",
    "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
    "<a><a><a><a>",
    "<D:lockinfo xmlns:D=\"DAV:\"><D:lockscope><D:exclusive/></D:lockscope></D:lockinfo>",
];

fn path(dice: &mut Dice, file: &str, paths: &[hostile::HostilePath]) -> Vec<u8> {
    match dice.roll(6) {
        0 => b"/".to_vec(),
        1 | 2 => format!("/ipfs/{file}").into_bytes(),
        3 => [&b"/local"[..], b"/.muxfs/status.json", b"/.muxfs/login", b"/ipns/k51", b"*", b"//", b"http://x/y"]
            [dice.roll(7)]
        .to_vec(),
        _ => {
            let parts = &paths[dice.roll(paths.len())].parts;
            let encode = |byte: &u8| match byte {
                b'!'..=b'~' => vec![*byte],
                byte => format!("%{byte:02x}").into_bytes(),
            };
            // What is longer than a request may be is a matter of its own.
            let bytes = parts.iter().flat_map(|part| [b"/".to_vec(), part.iter().flat_map(encode).collect()].concat());
            bytes.take(3000).collect()
        }
    }
}

fn request(dice: &mut Dice, file: &str, paths: &[hostile::HostilePath]) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..=dice.roll(3) / 2 {
        let body = BODIES[dice.roll(BODIES.len())];
        let version = ["HTTP/1.0", "HTTP/2.0", "", "HTTP/1.1"][dice.roll(40).min(3)];
        all.extend(METHODS[dice.roll(2 * METHODS.len()).saturating_sub(METHODS.len())].bytes());
        all.push(b' ');
        all.extend(path(dice, file, paths));
        all.extend(QUERIES[dice.roll(2 * QUERIES.len()).saturating_sub(QUERIES.len())].bytes());
        all.extend(format!(" {version}\r\n").bytes());
        if dice.roll(12) > 0 {
            all.extend(b"Host: localhost\r\n");
        }
        for _ in 0..dice.roll(6).saturating_sub(2) {
            all.extend(HEADERS[dice.roll(HEADERS.len())].bytes());
            all.extend(b"\r\n");
        }
        match dice.roll(6) {
            0 if !body.is_empty() => {
                all.extend(
                    format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).bytes(),
                );
            }
            1 => all.extend(format!("Content-Length: {}\r\n\r\n{body}", dice.bits() >> dice.roll(64)).bytes()),
            2 => all.extend(b"\r\n"),
            _ => all.extend(format!("Content-Length: {}\r\n\r\n{body}", body.len()).bytes()),
        }
    }
    for _ in 0..dice.roll(6).saturating_sub(3) {
        let at = dice.roll(all.len());
        match dice.roll(6) {
            0 => all[at] ^= 1 << dice.roll(8),
            1 => all.truncate(at + 1),
            2 => all[at] = [0, b'\r', b'\n', b' ', b':', 0xff][dice.roll(6)],
            3 => drop(all.remove(at)),
            4 => {
                let end = at + dice.roll(all.len() - at).min(200);
                all.extend_from_within(at..end);
            }
            _ => drop(all.splice(at..at, dice.bytes(3))),
        }
    }
    all
}
