//! Storage nodes as processes: `muxfs zdb serve` from outside, its data after every kind of end, and `/zstor` on six of them.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{PATIENCE, Server, World, assert_same_tree, number_of};

/// Starts a node on a directory of its own, and waits until it is ready.
pub(crate) fn node(world: &World, name: &str, args: &[&str]) -> Server {
    let ready = world.path(&format!("{name}.json"));
    fs::remove_file(&ready).ok();
    let mut command = zdb(world, name);
    command.args(["serve", "--quiet", "--ready-file"]).arg(&ready);
    if !args.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let mut child = command.args(args).spawn().expect("the program runs");
    let begun = Instant::now();
    loop {
        if let Ok(text) = fs::read(&ready) {
            return Server { child, ready: serde_json::from_slice(&text).expect("JSON") };
        }
        if let Some(status) = child.try_wait().expect("a child") {
            panic!("the node ended: {status}");
        }
        assert!(begun.elapsed() < PATIENCE, "the node is not ready");
        std::thread::yield_now();
    }
}

/// `muxfs zdb --data DIR`
fn zdb(world: &World, name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muxfs"));
    command.args(["zdb", "--data"]).arg(world.path(name)).stdin(Stdio::null());
    command
}

/// Runs it to its end, which must be `code`; what it said on standard error.
fn fails(mut command: Command, code: i32) -> String {
    let output = command.output().expect("the program runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{told}");
    told
}

/// A client of a node.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, words: &[&[u8]]) -> std::io::Result<()> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend(format!("${}\r\n", word.len()).into_bytes());
            request.extend(*word);
            request.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&request)
    }

    /// The next reply, as it came: its first line, and the bytes of a string.
    pub(crate) fn reply(&mut self) -> std::io::Result<(String, Vec<u8>)> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 || !line.ends_with("\r\n") {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        let mut bytes = Vec::new();
        if let Some(Ok(len)) = line.strip_prefix('$').map(str::parse::<usize>) {
            bytes.resize(len + 2, 0);
            self.0.read_exact(&mut bytes)?;
            bytes.truncate(len);
        }
        Ok((line, bytes))
    }

    fn say(&mut self, words: &str) -> (String, Vec<u8>) {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        self.send(&words).expect("sent");
        self.reply().expect("answered")
    }

    pub(crate) fn ok(&mut self, words: &str) {
        assert_eq!(self.say(words).0, "+OK", "{words}");
    }
}

fn password_file(world: &World, name: &str, password: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let file = world.path(name);
    fs::write(&file, format!("{password}\nnothing of this line\n")).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
    file
}

#[test]
fn a_node_serves_until_it_is_told_to_end_and_goes_on_with_what_it_had() {
    let world = World::by_default();
    let server = node(&world, "node", &[]);
    let addr = server.addr("zdb");
    let mut client = Client::connect(addr);
    client.ok("NSNEW n");
    client.ok("NSSET n password secret");
    client.ok("SELECT n secret");
    assert_eq!(client.say("SET k v").1, b"k");
    let mut second = zdb(&world, "node");
    second.args(["serve", "--listen", "127.0.0.1:0"]);
    let told = fails(second, 5);
    assert!(told.contains("another process"), "it says what to do: {told}");
    assert_eq!(server.terminate(), Some(0));
    assert!(!world.path("node.json").exists(), "the ready file goes with the node");
    assert!(client.reply().is_err(), "it is gone");

    // Written shortly before an end that a node is told of, and not synced by itself for long.
    let addr = addr.to_string();
    let server = node(&world, "node", &["--listen", &addr, "--sync", "1h"]);
    let mut client = Client::connect(server.addr("zdb"));
    client.ok("SELECT n secret");
    assert_eq!(client.say("GET k").1, b"v");
    assert_eq!(client.say("SET k w").1, b"k");
    assert_eq!(server.terminate(), Some(0));
    let server = node(&world, "node", &["--allow-stop", "--mode", "mixed", "--data-size", "1MiB"]);
    let mut client = Client::connect(server.addr("zdb"));
    client.ok("SELECT n secret");
    assert_eq!(client.say("GET k").1, b"w");
    assert_eq!(client.say("STOP").0, "+Stopping");
    let mut server = server;
    assert_eq!(server.child.wait().expect("a child").code(), Some(0));
}

#[test]
fn what_a_node_is_not_given_it_says() {
    let world = World::by_default();
    let run = |args: &[&str], code: i32| {
        let mut command = zdb(&world, "node");
        command.args(args);
        fails(command, code)
    };
    let told = run(&["serve", "--listen", "0.0.0.0:0"], 2);
    assert!(told.contains("--admin-password-file"), "{told}");
    assert!(run(&["serve", "--listen", "nowhere"], 2).contains("nowhere"));
    assert!(run(&["serve", "--listen", "off"], 2).contains("nowhere"));
    assert!(run(&["serve", "--sync", "0s"], 2).contains("group"));
    assert!(run(&["serve", "--data-size", "3GiB"], 2).contains("--data-size"));
    assert!(run(&["serve", "--password-file", "x"], 2).contains("--namespace"));
    assert!(!world.path("node").exists(), "nothing was made");
    let mut without = Command::new(env!("CARGO_BIN_EXE_muxfs"));
    without.args(["zdb", "serve"]);
    assert!(fails(without, 2).contains("--data"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = taken.local_addr().expect("bound").to_string();
    let told = run(&["serve", "--listen", &addr], 1);
    assert!(told.contains(&addr) && told.contains("--listen"), "{told}");
    let readable = world.path("readable");
    fs::write(&readable, "secret\n").expect("written");
    fs::set_permissions(&readable, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("set");
    let told = run(&["serve", "--admin-password-file", readable.to_str().expect("UTF-8")], 6);
    assert!(told.contains("chmod 600"), "{told}");
    run(&["serve", "--admin-password-file", "/nowhere"], 3);
}

#[test]
fn a_node_of_zstor_is_made_private_and_elsewhere_than_on_loopback() {
    let world = World::by_default();
    let (admin, secret) = (password_file(&world, "admin", "root"), password_file(&world, "secret", "hush"));
    let socket = world.path("zdb.sock");
    let [admin, secret, socket] = [&admin, &secret, &socket].map(|path| path.to_str().expect("UTF-8"));
    let args = [
        "--listen",
        "0.0.0.0:0",
        "--admin-password-file",
        admin,
        "--namespace",
        "muxfs",
        "--password-file",
        secret,
        "--socket",
        socket,
        "--metrics",
        "127.0.0.1:0",
    ];
    for _ in 0..2 {
        let server = node(&world, "node", &args);
        assert_eq!(server.ready["socket"], socket);
        let mut client = Client::connect(([127, 0, 0, 1], server.addr("zdb").port()).into());
        assert_eq!(client.say("NSNEW x").0, "-Permission denied");
        assert_eq!(client.say("SELECT muxfs").0, "-Namespace protected and private");
        client.ok("SELECT muxfs hush");
        client.say("SET k v");
        client.ok("AUTH root");
        let told = String::from_utf8(client.say("NSINFO muxfs").1).expect("UTF-8");
        assert!(told.contains("\nmode: userkey\n") && told.contains("\npublic: no\n"), "{told}");
        let mut http = TcpStream::connect(server.addr("metrics")).expect("connected");
        http.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        http.read_to_string(&mut text).expect("answered");
        let counted = r#"muxfs_zdb_requests_total{command="SELECT",status="ok"} 1"#;
        assert!(text.contains(counted) && text.contains("muxfs_zdb_connections 1"), "{text}");
        assert_eq!(server.terminate(), Some(0));
        assert!(!Path::new(socket).exists());
    }
}

#[test]
fn redis_cli_speaks_to_a_node() {
    let world = World::by_default();
    let server = node(&world, "node", &[]);
    let port = server.addr("zdb").port().to_string();
    let run = |words: &[&str]| Command::new("redis-cli").args(["-p", &port]).args(words).output();
    let Ok(pong) = run(&["PING"]) else {
        muxfs::testing::skip("redis-cli is not installed");
        return;
    };
    assert_eq!(pong.stdout, b"PONG\n");
    for (words, told) in [
        (&["SET", "hello", "world"][..], "hello\n"),
        (&["GET", "hello"], "world\n"),
        (&["MGET", "hello", "nope"], "world\n\n"),
        (&["DEL", "hello"], "OK\n"),
        (&["DBSIZE"], "0\n"),
    ] {
        assert_eq!(String::from_utf8_lossy(&run(words).expect("it runs").stdout), told, "{words:?}");
    }
    assert_eq!(server.terminate(), Some(0));
}

/// What was replied to is there, whatever else is, and has the value that it had last.
#[test]
fn a_node_that_is_killed_has_all_that_it_replied_to() {
    let world = World::by_default();
    let rounds = number_of("MUXFS_ZDB_ROUNDS", 5);
    // Of each key the last value that was replied to, and those sent after it.
    let mut known = BTreeMap::<String, (Option<String>, Vec<String>)>::new();
    let mut number = 0_u64;
    for round in 0..rounds {
        let server = node(&world, "node", &["--data-size", "256KiB"]);
        let mut client = Client::connect(server.addr("zdb"));
        for (key, (acknowledged, sent)) in &mut known {
            let (line, value) = client.say(&format!("GET {key}"));
            let value = (line != "$-1").then(|| String::from_utf8(value).expect("UTF-8"));
            assert!(
                value == *acknowledged || sent.contains(value.as_ref().expect("a value")),
                "{round}: {key}: {value:?}"
            );
            (*acknowledged, *sent) = (value, Vec::new());
        }
        let pid = rustix::process::Pid::from_child(&server.child);
        // Some way into what follows, another way each round.
        let killer = std::thread::spawn(move || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(50 + 37 * (round as u64 % 7)) {
                std::thread::yield_now();
            }
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
        });
        'sending: loop {
            let mut batch = Vec::new();
            for _ in 0..16 {
                let key = format!("key-{}", number % 97);
                let value = format!("{number}-{}", "v".repeat(usize::try_from(number % 3000).expect("small")));
                number += 1;
                known.entry(key.clone()).or_default().1.push(value.clone());
                if client.send(&[b"SET", key.as_bytes(), value.as_bytes()]).is_err() {
                    break 'sending;
                }
                batch.push((key, value));
            }
            for (key, value) in batch {
                match client.reply() {
                    Ok((_, stored)) => {
                        assert_eq!(stored, key.as_bytes());
                        let (acknowledged, sent) = known.get_mut(&key).expect("sent");
                        sent.retain(|later| *later != value);
                        *acknowledged = Some(value);
                    }
                    Err(_) => break 'sending,
                }
            }
        }
        killer.join().expect("no panic");
        drop(server);
    }
    assert!(known.values().any(|(acknowledged, _)| acknowledged.is_some()), "nothing was replied to");
}

/// Puts, loses any two nodes, reads, heals, and puts another key in the place of the first, all over nodes of ours.
#[test]
fn zstor_lives_on_six_nodes_of_ours() {
    let world = World::by_default();
    let start = |n: usize, addr: &str| node(&world, &format!("node{n}"), &["--listen", addr, "--namespace", "muxfs"]);
    let mut nodes: Vec<Server> = (0..6).map(|n| start(n, "127.0.0.1:0")).collect();
    let addrs: Vec<String> = nodes.iter().map(|node| node.addr("zdb").to_string()).collect();
    let listed: Vec<String> = addrs
        .iter()
        .enumerate()
        .map(|(n, addr)| format!("    {{ zdb = \"{addr}\", namespace = \"muxfs\", name = \"n{n}\" }},"))
        .collect();
    let text = format!(
        "[[mount]]\nkind = \"zstor\"\nprefix = \"zstor\"\ndata = 4\nparity = 2\nnodes = [\n{}\n]\n",
        listed.join("\n")
    );
    let config = world.path("muxfs.toml");
    fs::write(&config, text).expect("written");
    let world = World { config: Some(config), ..world };
    let whole = |name: &str| {
        let back = world.path("back");
        fs::remove_dir_all(&back).ok();
        world.ok(&["get", name, back.to_str().expect("UTF-8")]);
        assert_same_tree(&world.path("tree"), &back);
    };
    let tree = world.tree();
    let tree = tree.to_str().expect("UTF-8");
    let server = world.serve(&[]);
    world.ok(&["put", "-r", tree, "/zstor/t"]);
    world.ok(&["commit"]);
    whole("/zstor/t");
    for lost in [0, 3] {
        nodes[lost].kill_now();
    }
    whole("/zstor/t");
    world.ok(&["put", "-r", tree, "/zstor/meanwhile"]);
    whole("/zstor/meanwhile");
    for lost in [0, 3] {
        let addr = addrs[lost].clone();
        nodes[lost].child.wait().expect("a child");
        nodes[lost] = node(&world, &format!("node{lost}"), &["--listen", &addr, "--namespace", "muxfs"]);
    }
    let lost = || {
        let status: Value = serde_json::from_str(&world.ok(&["--json", "zstor", "status"])).expect("JSON");
        let nodes = status["nodes"].as_array().expect("a list").clone();
        nodes.into_iter().filter(|node| !node["lost"].is_null()).count()
    };
    let begun = Instant::now();
    while lost() > 0 {
        assert!(begun.elapsed() < PATIENCE, "a node does not come back");
        std::thread::yield_now();
    }
    world.ok(&["commit"]);
    world.ok(&["zstor", "repair"]);
    // Two others: what those that were away missed has been brought to them.
    for lost in [1, 5] {
        nodes[lost].kill_now();
    }
    whole("/zstor/meanwhile");
    for lost in [1, 5] {
        let addr = addrs[lost].clone();
        nodes[lost].child.wait().expect("a child");
        nodes[lost] = node(&world, &format!("node{lost}"), &["--listen", &addr, "--namespace", "muxfs"]);
    }
    let begun = Instant::now();
    while lost() > 0 {
        assert!(begun.elapsed() < PATIENCE, "a node does not come back");
        std::thread::yield_now();
    }
    world.ok(&["key", "rotate"]);
    whole("/zstor/t");
    world.ok(&["verify", "--all"]);
    assert_eq!(server.terminate(), Some(0));
    for node in nodes {
        assert_eq!(node.terminate(), Some(0));
    }
}

#[test]
fn what_a_0_db_left_is_brought_over() {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../stores/zdb/tests/engine/zdb-dirs.tgz");
    let world = World::by_default();
    let left = world.path("0-db");
    fs::create_dir(&left).expect("made");
    let unpacked = Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(&left).status();
    if !unpacked.is_ok_and(|status| status.success()) {
        muxfs::testing::skip(format_args!("no tar, or no {}", archive.display()));
        return;
    }
    let import = || {
        let mut command = zdb(&world, "node");
        command.arg("import").arg("--from-data").arg(left.join("data")).arg("--from-index").arg(left.join("index"));
        command
    };
    let done = import().output().expect("the program runs");
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
    assert!(told.contains("user1: 5 keys"), "{told}");
    assert!(fails(import(), 1).contains("user1"), "what is there stays");
    let server = node(&world, "node", &[]);
    let mut client = Client::connect(server.addr("zdb"));
    client.ok("SELECT user1 secret");
    assert_eq!(client.say("GET hello").1, b"world2");
    assert_eq!(client.say("DBSIZE").0, ":5");
    client.ok("SELECT seq1");
    client.send(&[b"GET", &1_u64.to_le_bytes()]).expect("sent");
    assert_eq!(client.reply().expect("answered").1, b"updated");
    client.send(&[b"SET", b"", b"next"]).expect("sent");
    assert_eq!(client.reply().expect("answered").1, 16_u64.to_le_bytes(), "the numbers go on");
    assert_eq!(server.terminate(), Some(0));
}
