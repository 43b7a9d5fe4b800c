//! `name`: keys and names of a data directory, with a server and without, and from one to another.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
};

use crate::{Server, World};

/// The body of an answer that is 200.
fn http(server: &Server, path: &str) -> Vec<u8> {
    let addr = server.addr("http");
    let mut stream = TcpStream::connect(addr).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    answer.split_off(head + 4)
}

#[test]
fn a_name_stays_and_leads_to_what_was_published_last() {
    for is_served in [false, true] {
        let world = World::new();
        let server = is_served.then(|| world.serve(&[]));
        let (one, two) = (world.path("one"), world.path("two"));
        fs::write(&one, "one\n").expect("written");
        fs::write(&two, "two\n").expect("written");
        let put = |file: &std::path::Path| world.ok(&["put", file.to_str().expect("UTF-8"), "/ipfs"]);
        let (one, two) = (put(&one), put(&two));
        let name = world.ok(&["name", "publish", &one]);
        assert!(name.starts_with("/ipns/k51"), "{name}");
        assert_eq!(world.ok(&["name", "resolve", &name]), one);
        assert_eq!(world.ok(&["name", "resolve", "self"]), one);
        assert_eq!(world.ok(&["name", "publish", &two]), name, "it is the key's");
        assert_eq!(world.ok(&["name", "resolve", &name]), two);
        assert_eq!(world.ok(&["name", "ls"]), format!("self {} {two}", name.trim_start_matches("/ipns/")));

        // Under a key of its own, through the other name.
        let site = world.ok(&["name", "new", "site"]);
        world.fails(&["name", "new", "site"], 1);
        assert_eq!(world.ok(&["name", "publish", &name, "--key", "site"]), format!("/ipns/{site}"));
        assert_eq!(world.ok(&["name", "resolve", "site"]), two);

        // The name goes with its key.
        let other = World::new();
        let file = world.path("site.key");
        let file = file.to_str().expect("UTF-8");
        world.ok(&["name", "export", "site", file]);
        world.fails(&["name", "export", "site", file], 1);
        assert_eq!(fs::metadata(file).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(other.ok(&["name", "import", "mine", file]), site);
        other.fails(&["name", "resolve", "mine"], 3);
        drop(server);
    }
}

#[test]
fn a_record_is_taken_elsewhere_and_never_an_older_one() {
    let (from, to) = (World::new(), World::new());
    let server = from.serve(&[]);
    let file = from.path("file");
    let mut records = Vec::new();
    let mut name = String::new();
    for content in ["one\n", "two\n"] {
        fs::write(&file, content).expect("written");
        let path = from.ok(&["put", file.to_str().expect("UTF-8"), "/ipfs"]);
        name = from.ok(&["name", "publish", &path]);
        let reply = http(&server, &format!("{name}?format=ipns-record"));
        let record = to.path(&format!("record-{}", records.len()));
        fs::write(&record, reply).expect("written");
        records.push((record.to_str().expect("UTF-8").to_owned(), path));
    }
    let name = name.trim_start_matches("/ipns/");
    let [(first, _), (second, path)] = &records[..] else { panic!("two records") };
    to.ok(&["name", "accept", name, second]);
    to.ok(&["name", "accept", name, first]);
    assert_eq!(&to.ok(&["name", "resolve", name]), path);
    let stranger = to.ok(&["name", "new", "stranger"]);
    to.fails(&["name", "accept", &stranger, second], 4);
    assert_eq!(http(&server, &format!("/ipns/{name}")), b"two\n");
}

#[test]
fn what_cannot_be_a_name_is_told() {
    let world = World::new();
    world.fails(&["name", "publish", "/mem"], 2);
    world.fails(&["name", "publish", "/ipns/example.org"], 1);
    world.fails(&["name", "resolve", "k51nothing"], 3);
    world.fails(&["name", "new", "Not/a/label"], 2);
    let file = world.path("no.key");
    fs::write(&file, "no key").expect("written");
    world.fails(&["name", "import", "no", file.to_str().expect("UTF-8")], 2);
}
