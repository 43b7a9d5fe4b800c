//! `/ipfs/<any CID>`: a server that has another one as its source reads what is there, and keeps it; and what is here is
//! given to a Kubo node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{extract::Request, http::StatusCode};

use crate::{PATIENCE, Server, WITHOUT_ZSTOR, World, assert_same_tree, serving::read_over_nfs, webdav::ask};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A world whose `/ipfs` asks these.
pub(crate) fn with_sources(sources: &[&str]) -> World {
    let world = World::new();
    let config = format!("[ipfs]\ncache = \"64MiB\"\nsources = {sources:?}\n{WITHOUT_ZSTOR}");
    fs::write(world.path("without-zstor.toml"), config).expect("written");
    world
}

/// The status of an answer, and its body.
fn over_http(addr: SocketAddr, path: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(addr).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let body = answer.split_off(at + 4);
    (String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned(), body)
}

fn over_ftp(server: &Server, path: &str) -> Vec<u8> {
    let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
    ftp.login("anyone", "x").expect("loopback takes any name");
    ftp.transfer_type(suppaftp::types::FileType::Binary).expect("binary");
    ftp.retr_as_buffer(path).expect("there").into_inner()
}

/// Over every frontend, then from the cache with the source gone, also after a restart; and what is collected, checked and
/// pinned is what is here.
#[test]
fn another_server_is_a_source() {
    let first = World::new();
    let tree = first.tree();
    let origin = first.serve(&[]);
    let path = first.ok(&["put", "-r", text(&tree), "/ipfs"]);
    let url = format!("http://{}", origin.addr("http"));
    let long = fs::read(tree.join("sub/long.bin")).expect("read");
    let file = format!("{path}/sub/long.bin");

    let second = with_sources(&[&url]);
    let server = second.serve(&[]);
    assert!(over_ftp(&server, &file) == long, "FTP gave other bytes");
    assert!(read_over_nfs(server.addr("nfs"), &file) == long, "NFS gave other bytes");
    assert_eq!(over_http(server.addr("http"), &file), ("200".into(), long.clone()));
    let out = second.path("out");
    second.ok(&["get", &path, text(&out)]);
    assert_same_tree(&tree, &out);
    let listed = second.ok(&["ls", &path]);
    let absent = "/ipfs/bafkreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    second.fails(&["cat", absent], 3);
    assert_eq!(over_http(server.addr("http"), absent).0, "404");

    // The source is gone: what was read is here, and what was not is out of reach, which is told soon.
    origin.kill();
    let gone = |server: &Server| {
        assert_eq!(second.ok(&["ls", &path]), listed);
        assert!(over_ftp(server, &file) == long);
        assert_eq!(over_http(server.addr("http"), &file), ("200".into(), long.clone()));
        let begun = Instant::now();
        second.fails(&["cat", absent], 5);
        assert_eq!(over_http(server.addr("http"), absent).0, "503");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    };
    gone(&server);
    // None of it is content of this server.
    second.fails(&["pin", "add", &path], 3);
    let collected = second.ok(&["--json", "gc", "--dry-run", "/ipfs"]);
    assert!(collected.contains("\"blocks_removed\":0"), "{collected}");
    second.ok(&["verify", "--all"]);
    second.ok(&["put", text(&tree.join("sub/long.bin")), "/ipfs/by-name"]);
    second.ok(&["commit", "/ipfs"]);
    second.ok(&["gc"]);
    assert_eq!(server.terminate(), Some(0));
    let server = second.serve(&[]);
    gone(&server);
    assert_eq!(server.terminate(), Some(0));
    // By a command without a server, too.
    let again = second.path("again");
    second.ok(&["get", &path, text(&again)]);
    assert_same_tree(&tree, &again);
}

/// A file far down in a tree that is far away takes as few round trips over every frontend that is told its whole path as the
/// library does with a CAR of it: not one for each part.
#[test]
fn a_deep_path_is_asked_for_in_one_go() {
    let first = World::new();
    let origin = first.serve(&["--metrics", "127.0.0.1:0"]);
    let asked = || {
        let (_, told) = over_http(origin.addr("metrics"), "/metrics");
        let told = String::from_utf8(told).expect("UTF-8");
        let lines = told.lines().filter(|line| line.starts_with("muxfs_http_requests_total{"));
        lines.map(|line| line.rsplit(' ').next().expect("a number").parse::<f64>().expect("a number")).sum::<f64>()
    };
    let url = format!("http://{}", origin.addr("http"));
    let second = with_sources(&[&url]);
    let server = second.serve(&[]);
    let below = "/1/2/3/4/5/6/7/8/9/10/11/12";
    for way in ["http", "propfind", "ftp", "cat"] {
        let tree = first.path(way);
        let dir = first.path(&format!("{way}{below}"));
        fs::create_dir_all(&dir).expect("made");
        fs::write(dir.join("file"), way).expect("written");
        let path = format!("{}{below}/file", first.ok(&["put", "-r", text(&tree), "/ipfs"]));
        let before = asked();
        match way {
            "http" => assert_eq!(over_http(server.addr("http"), &path), ("200".into(), way.into())),
            "propfind" => {
                let (status, told) = ask(server.addr("http"), "PROPFIND", &path, &[("Depth", "0")], b"");
                assert_eq!(status, 207, "{told}");
            }
            "ftp" => assert_eq!(over_ftp(&server, &path), way.as_bytes()),
            _ => assert_eq!(second.ok(&["cat", &path]), way),
        }
        let count = asked() - before;
        assert!((1.0..=2.0).contains(&count), "{way}: {count} requests");
    }
}

/// A directory of small files comes from far away many at once, not one after the other: this gateway gives none of them before
/// all are asked for.
#[test]
fn small_files_come_at_once() {
    const FILE_COUNT: usize = 8;
    let first = World::new();
    let tree = first.path("tree");
    fs::create_dir(&tree).expect("made");
    let mut blocks = BTreeMap::new();
    for number in 0..FILE_COUNT {
        let file = tree.join(number.to_string());
        fs::write(&file, format!("file {number}")).expect("written");
        let path = first.ok(&["put", text(&file), "/ipfs"]);
        blocks.insert(path.trim().to_owned(), (true, fs::read(&file).expect("read")));
    }
    let path = first.ok(&["put", "-r", text(&tree), "/ipfs"]);
    let origin = first.serve(&[]);
    let (status, dir) = over_http(origin.addr("http"), &format!("{path}?format=raw"));
    assert_eq!(status, "200");
    // A block is asked for by what it hashes to, as one of raw bytes.
    blocks.insert(path.trim().replacen("bafybei", "bafkrei", 1), (false, dir));

    let all_asked = Arc::new(tokio::sync::Barrier::new(FILE_COUNT));
    let blocks = Arc::new(blocks);
    let answer = move |request: Request| {
        let (all_asked, blocks) = (all_asked.clone(), blocks.clone());
        async move {
            let is_block = request.uri().query().is_some_and(|query| query.contains("format=raw"));
            match blocks.get(request.uri().path()).filter(|_| is_block) {
                None => (StatusCode::NOT_IMPLEMENTED, Vec::new()),
                Some((is_file, bytes)) => {
                    if *is_file {
                        all_asked.wait().await;
                    }
                    (StatusCode::OK, bytes.clone())
                }
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    runtime.spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });

    let second = with_sources(&[&url]);
    let out = second.path("out");
    second.ok(&["get", &path, text(&out)]);
    assert_same_tree(&tree, &out);
}

/// Where no source is named nobody is asked, and an absent CID is not found at once.
#[test]
fn without_sources_nobody_is_asked() {
    let world = World::new();
    let absent = "/ipfs/bafkreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    world.fails(&["cat", absent], 3);
    assert!(!world.path("data/cache").exists());
    assert!(!world.ok(&["config"]).contains("http://"));
}

/// A source that takes connections and says nothing holds a reader up for a while, and nobody else at all.
#[test]
fn a_source_that_is_silent_stops_nobody_else() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let world = with_sources(&[&url]);
    let server = world.serve(&[]);
    let asking = std::thread::spawn({
        let addr = server.addr("http");
        move || over_http(addr, "/ipfs/bafkreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").0
    });
    // Somebody waits for it from here on.
    let (_held, _) = silent.accept().expect("asked");
    let begun = Instant::now();
    let tree = world.tree();
    let path = world.ok(&["put", "-r", text(&tree), "/ipfs"]);
    world.ok(&["ls", "-l", "/ipfs"]);
    world.ok(&["commit", "/ipfs"]);
    world.ok(&["gc"]);
    world.ok(&["verify", &path]);
    world.ok(&["get", &path, text(&world.path("out"))]);
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(asking.join().expect("no panic"), "503", "told, and not for ever");
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_bad_source_is_named_with_its_line() {
    let world = with_sources(&["https://good.example", "gopher://bad.example"]);
    let told = world.fails(&["ls", "/ipfs"], 2);
    assert!(told.contains("line 3") && told.contains("gopher://bad.example"), "{told}");
}

/// A Kubo node, as far as publishing needs one: what it was given, and what it keeps.
pub(crate) struct Node {
    pub(crate) addr: SocketAddr,
    pub(crate) state: Arc<Mutex<NodeState>>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Default)]
pub(crate) struct NodeState {
    cars: Vec<Vec<u8>>,
    pins: BTreeSet<String>,
    /// The calls that gave it records, with what they sent.
    pub(crate) records: Vec<(String, Vec<u8>)>,
}

impl Node {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let state = Arc::<Mutex<NodeState>>::default();
        let answer = {
            let state = state.clone();
            move |request: Request| Self::answer(state.clone(), request)
        };
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let addr = listener.local_addr().expect("an address");
        runtime.spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        Self { addr, state, _runtime: runtime }
    }

    async fn answer(state: Arc<Mutex<NodeState>>, request: Request) -> (StatusCode, String) {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let cid = query.split('&').find_map(|pair| pair.strip_prefix("arg=")).unwrap_or_default().to_owned();
        if request.method() != "POST" {
            return (StatusCode::METHOD_NOT_ALLOWED, String::new());
        }
        let Ok(body) = axum::body::to_bytes(request.into_body(), 64 << 20).await else {
            return (StatusCode::BAD_REQUEST, String::new());
        };
        let mut state = state.lock().expect("no panic");
        match path.as_str() {
            "/api/v0/dag/import" => {
                let from = body.windows(4).position(|four| four == b"\r\n\r\n").expect("a part") + 4;
                let to = body.windows(8).rposition(|eight| eight == b"\r\n--muxf").expect("its end");
                state.cars.push(body[from..to].to_vec());
                (StatusCode::OK, "{\"Stats\":{\"BlockCount\":9,\"BlockBytesCount\":9}}\n".into())
            }
            "/api/v0/pin/add" => {
                state.pins.insert(cid.clone());
                (StatusCode::OK, format!("{{\"Progress\":9}}\n{{\"Pins\":[\"{cid}\"]}}\n"))
            }
            "/api/v0/routing/put" => {
                state.records.push((cid, body.to_vec()));
                (StatusCode::OK, "{\"ID\":\"\",\"Type\":2,\"Responses\":null,\"Extra\":\"\"}\n".into())
            }
            "/api/v0/pin/ls" if state.pins.contains(&cid) => (StatusCode::OK, "{}".into()),
            _ => {
                let message = "{\"Message\":\"it is not pinned\",\"Code\":0,\"Type\":\"error\"}";
                (StatusCode::INTERNAL_SERVER_ERROR, message.into())
            }
        }
    }

    fn car_count(&self) -> usize {
        self.state.lock().expect("no panic").cars.len()
    }
}

/// All of it, once, with a server and without; whoever is given the CAR has the tree.
#[test]
fn what_is_here_is_published() {
    for served in [false, true] {
        let node = Node::start();
        let url = format!("http://{}", node.addr);
        let world = with_sources(&["http://127.0.0.1:1", &format!("kubo+{url}")]);
        let server = served.then(|| world.serve(&[]));
        let tree = world.tree();
        let path = world.ok(&["put", "-r", text(&tree), "/ipfs"]);
        let cid = path.strip_prefix("/ipfs/").expect("a CID");
        for _ in 0..2 {
            assert_eq!(world.ok(&["ipfs", "publish", &path]), path);
        }
        assert_eq!(node.car_count(), 1, "it is there already");
        assert!(node.state.lock().expect("no panic").pins.contains(cid));
        let car = node.state.lock().expect("no panic").cars.remove(0);
        let other = World::new();
        let taken = other.fed(&["car", "import", "-", "--whole", "--into", "/ipfs"], &car);
        assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
        let out = other.path("out");
        other.ok(&["get", &path, text(&out)]);
        assert_same_tree(&tree, &out);

        // By name, and with what was sent told.
        world.ok(&["put", "-r", text(&tree), "/ipfs/tree"]);
        world.ok(&["commit", "/ipfs"]);
        let told = world.ok(&["--json", "ipfs", "publish", "/ipfs/tree", "--again", "--to", &url]);
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!((told["cid"].as_str(), told["was_pinned"].as_bool()), (Some(cid), Some(true)), "{told}");
        assert_eq!((told["blocks"].as_u64(), node.car_count()), (Some(9), 1));
        let absent = "/ipfs/bafkreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        world.fails(&["ipfs", "publish", absent], 3);
        assert_eq!(node.car_count(), 1, "nothing was begun");
        drop(node);
        world.fails(&["ipfs", "publish", &path], 5);
        drop(server);
    }
    let world = World::new();
    assert!(world.fails(&["ipfs", "publish", "/ipfs/x"], 2).contains("--to"));
}
