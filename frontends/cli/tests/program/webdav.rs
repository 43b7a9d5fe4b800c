//! Writing over HTTP through the program: who may, what is durable, and what litmus says.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    process::Command,
};

use multibase::Base;
use serde_json::Value;

use crate::{Server, World};

/// Asks on a connection of its own; the status and all that came.
pub(crate) fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).expect("connected");
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
    let len = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: {len}\r\n{lines}\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.get(9..12).and_then(|status| status.parse().ok()).expect("a status"), answer)
}

fn token(world: &World) -> String {
    world.ok(&["http", "token"])
}

fn put(server: &Server, token: &str, path: &str, body: &[u8]) -> u16 {
    let bearer = format!("Bearer {token}");
    ask(server.addr("http"), "PUT", path, &[("Authorization", &bearer)], body).0
}

/// What was acknowledged is there after `kill -9`, in every mount that is kept, and other frontends see it; a half-sent
/// file is not.
#[test]
fn what_was_put_survives_kill_9() {
    let world = World::new();
    assert!(world.fails(&["http", "token"], 3).contains("muxfs serve"));
    let server = world.serve(&[]);
    let token = token(&world);
    let file = world.path("data/http/token");
    assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&file).expect("read"), format!("{token}\n"));
    let long: Vec<u8> = (0..5_000_000u32).map(|index| u8::try_from(index % 251).expect("small")).collect();
    for (prefix, body) in [("ipfs", &long[..]), ("local", b"small"), ("mem", b"small")] {
        let path = format!("/{prefix}/f");
        assert_eq!(ask(server.addr("http"), "PUT", &path, &[], body).0, 401, "{path}");
        assert_eq!(put(&server, &token, &path, b"older"), 201, "{path}");
        assert_eq!(put(&server, &token, &path, body), 204, "{path}");
        assert!(world.run(&["cat", &path]).stdout == body, "{path}");
    }
    assert_eq!(put(&server, &token, "/ipfs/bafkqaaa", b"x"), 400, "a name that is a CID");
    let mut half = TcpStream::connect(server.addr("http")).expect("connected");
    let head = format!(
        "PUT /ipfs/f HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 9000000\r\n\r\n"
    );
    half.write_all(&[head.as_bytes(), &long].concat()).expect("sent");
    server.kill();
    half.shutdown(Shutdown::Both).ok();
    let server = world.serve(&[]);
    assert!(world.run(&["cat", "/ipfs/f"]).stdout == long);
    assert_eq!(world.ok(&["cat", "/local/f"]), "small");
    assert_eq!(put(&server, &token, "/ipfs/f", b"new"), 204, "the token is the same as before");
    assert!(world.ok(&["http", "token"]) == token);
    assert_eq!(server.terminate(), Some(0));
}

/// One file of users for FTP and HTTP: over both a user is at home where the file says, and over HTTP at everybody's addresses, with
/// the hub of the same server among what is not theirs.
#[test]
fn users_write_in_their_homes() {
    let world = World::new();
    let (users, config) = (world.path("users"), world.path("with-users.toml"));
    let file = users.to_str().expect("UTF-8");
    for (name, home) in [("ann", "/ipfs/ann"), ("root", "/")] {
        let made = world.fed(&["ftp-user", name, "--home", home, "--users", file], b"correct horse\n");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let text = fs::read_to_string(world.path("without-zstor.toml")).expect("there");
    // A path that is no absolute one is one of where the server was started.
    fs::write(
        &config,
        format!("[ftp]\nusers = {users:?}\n[http]\nusers = \"users\"\nprivate = true\n[http.hub]\n{text}"),
    )
    .expect("written");
    let config = config.to_str().expect("UTF-8");
    world.fails(
        &["--config", config, "serve", "--nfs", "127.0.0.1:0", "--ftp", "127.0.0.1:0", "--http", "127.0.0.1:0"],
        3,
    );
    fs::write(config, fs::read_to_string(config).expect("there").replace("\"users\"", &format!("{users:?}")))
        .expect("written");
    let server = world.serve(&["--config", config]);
    let owner = format!("Bearer {}", token(&world));
    let basic = |name: &str, password: &str| format!("Basic {}", Base::Base64Pad.encode(format!("{name}:{password}")));
    let (ann, root, wrong) =
        (basic("ann", "correct horse"), basic("root", "correct horse"), basic("ann", "wrong horse"));
    for (who, method, path, status) in [
        (&owner, "MKCOL", "/ipfs/ann/", 201),
        (&ann, "PUT", "/ipfs/ann/f", 201),
        (&ann, "GET", "/ipfs/ann/f", 200),
        (&ann, "PROPFIND", "/ipfs/ann/", 207),
        (&ann, "PUT", "/ipfs/f", 403),
        (&ann, "GET", "/ipfs/bafkqaaa", 403),
        (&ann, "GET", "/local/", 403),
        (&ann, "GET", "/hub", 403),
        (&ann, "GET", "/api/flist", 403),
        (&ann, "GET", "/api/flist/me", 401),
        (&root, "GET", "/api/flist", 200),
        (&root, "PUT", "/local/f", 201),
        (&wrong, "GET", "/ipfs/ann/f", 401),
    ] {
        let headers = [("Authorization", who.as_str()), ("Depth", "0")];
        let body: &[u8] = if method == "PUT" { b"x" } else { b"" };
        let (told, answer) = ask(server.addr("http"), method, path, &headers, body);
        assert_eq!(told, status, "{method} {path}: {answer}");
    }
    let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
    ftp.login("ann", "correct horse").expect("logged in");
    assert_eq!(ftp.retr_as_buffer("/f").expect("there").into_inner(), b"x", "the same home");
    ftp.quit().expect("bye");
    assert_eq!(server.terminate(), Some(0));
}

/// Content that a mount has already takes no blocks there but those of its names, from whichever mount it is copied or moved.
#[test]
fn content_that_comes_from_another_mount_is_kept_once() {
    let world = World::new();
    let server = world.serve(&[]);
    let token = token(&world);
    let bearer = format!("Bearer {token}");
    let content = |first: u32| -> Vec<u8> { (first..first + 4_000_000).flat_map(u32::to_le_bytes).collect() };
    let blocks = || {
        world.ok(&["commit", "/ipfs"]);
        let told = world.ok(&["--json", "gc", "--dry-run", "/ipfs"]);
        let count = told.rsplit("\"blocks_kept\":").next().expect("a count");
        count.split(|c: char| !c.is_ascii_digit()).next().and_then(|count| count.parse::<u64>().ok()).expect("a number")
    };
    assert_eq!(put(&server, &token, "/mem/f", &content(0)), 201);
    assert_eq!(put(&server, &token, "/mem/other", &content(10_000_000)), 201);
    assert_eq!(put(&server, &token, "/ipfs/there", &content(0)), 201);
    let mut before = blocks();
    for (method, from, to, is_new) in [
        ("COPY", "/mem/f", "/ipfs/copy", false),
        ("MOVE", "/mem/f", "/ipfs/moved", false),
        ("COPY", "/mem/other", "/ipfs/other", true),
    ] {
        let headers = [("Destination", to), ("Authorization", bearer.as_str())];
        assert_eq!(ask(server.addr("http"), method, from, &headers, b"").0, 201, "{method} {from}");
        let now = blocks();
        // 16 MB are blocks of a megabyte at most; a commit has some of its own.
        assert_eq!(now - before >= 15, is_new, "{method} {from}: {before} blocks, and then {now}");
        before = now;
    }
    let (_, listed) = ask(server.addr("http"), "GET", "/ipfs/", &[("Accept", "application/json")], b"");
    let listed: Value = serde_json::from_str(listed.split_once("\r\n\r\n").expect("a head").1).expect("JSON");
    let cid = |name: &str| {
        let entries = listed["entries"].as_array().expect("entries");
        entries.iter().find(|entry| entry["name"] == name).expect("there")["cid"].as_str().expect("committed")
    };
    assert_eq!([cid("copy"), cid("moved")], [cid("there"), cid("there")]);
    assert_ne!(cid("other"), cid("there"));
    assert_eq!(server.terminate(), Some(0));
}

/// Restoring is copying from the history.
#[test]
fn the_history_is_copied_back() {
    let world = World::new();
    let server = world.serve(&[]);
    let token = token(&world);
    put(&server, &token, "/ipfs/f", b"one");
    world.ok(&["commit", "-m", "one", "/ipfs"]);
    put(&server, &token, "/ipfs/f", b"two");
    let bearer = format!("Bearer {token}");
    let (status, told) =
        ask(server.addr("http"), "PROPFIND", "/ipfs/.history/", &[("Depth", "1"), ("Authorization", &bearer)], b"");
    assert_eq!(status, 207, "{told}");
    let moments: Vec<&str> =
        told.split("<D:href>/ipfs/.history/").skip(2).filter_map(|rest| rest.split("/<").next()).collect();
    let moment = moments.iter().find(|moment| {
        let path = format!("/ipfs/.history/{moment}/f");
        ask(server.addr("http"), "GET", &path, &[], b"").1.ends_with("\r\n\r\none")
    });
    let from = format!("/ipfs/.history/{}/f", moment.unwrap_or_else(|| panic!("no moment in {told}")));
    let headers = [("Destination", "/ipfs/f"), ("Authorization", bearer.as_str())];
    assert_eq!(ask(server.addr("http"), "COPY", &from, &headers, b"").0, 204);
    assert_eq!(world.ok(&["cat", "/ipfs/f"]), "one");
    for method in ["PUT", "DELETE", "MKCOL"] {
        let (status, told) = ask(server.addr("http"), method, &from, &[("Authorization", &bearer)], b"");
        assert!(matches!(status, 403 | 405), "{method}: {told}");
    }
}

/// The suites of litmus, in each mount that is written. Skipped, and said so, where it is not installed.
#[test]
fn litmus_passes_in_full() {
    if Command::new("litmus").arg("--help").output().is_err() {
        muxfs::testing::skip("litmus is not installed");
        return;
    }
    let world = World::new();
    let server = world.serve(&[]);
    let token = token(&world);
    for prefix in ["ipfs", "mem", "local"] {
        let dir = world.path(&format!("litmus-{prefix}"));
        fs::create_dir(&dir).expect("made");
        let url = format!("http://{}/{prefix}/", server.addr("http"));
        let mut litmus = Command::new("litmus");
        litmus.args(["-k", &url, "me", &token]).current_dir(&dir).env("TESTS", "basic copymove props locks http");
        let output = litmus.output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let summaries = told.lines().filter(|line| line.contains("summary for")).count();
        assert!(output.status.success() && summaries == 5 && !told.contains("FAIL"), "/{prefix}: {told}");
    }
}
