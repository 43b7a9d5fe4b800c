//! `name`: keys and names of a data directory, with a server and without, and from one to another.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    time::Instant,
};

use crate::{
    PATIENCE, Server, World,
    sources::{Node, with_sources},
};

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
    // One that is good for no time, or that nobody could ever let go of.
    for lifetime in ["0s", "4s", "36501d"] {
        let told = world.fails(&["name", "publish", "/ipfs", "--follow", "--lifetime", lifetime], 2);
        assert!(told.contains("a record is good for 5s to 36500d"), "{told}");
    }
    let file = world.path("no.key");
    fs::write(&file, "no key").expect("written");
    world.fails(&["name", "import", "no", file.to_str().expect("UTF-8")], 2);
}

/// Waits for what must happen.
fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// The number of the newest record of the key `self`.
fn sequence(server: &Server, name: &str) -> u64 {
    let record = http(server, &format!("{name}?format=ipns-record"));
    let name = name.trim_start_matches("/ipns/").parse().expect("a name");
    muxfs::ipns::Record::verify(&name, &record).expect("good").sequence()
}

/// By whoever publishes them, with a server and without; and no older one is taken when that one comes again.
#[test]
fn names_that_others_know_are_found() {
    let first = World::new();
    let origin = first.serve(&[]);
    let file = first.path("file");
    let publish = |content: &str| {
        fs::write(&file, content).expect("written");
        let path = first.ok(&["put", file.to_str().expect("UTF-8"), "/ipfs"]);
        (first.ok(&["name", "publish", &path]), path)
    };
    let (name, path) = publish("one\n");
    let second = with_sources(&["http://127.0.0.1:1", &format!("http://{}", origin.addr("http"))]);
    assert_eq!(second.ok(&["name", "resolve", &name]), path);
    let server = second.serve(&[]);
    assert_eq!(second.ok(&["name", "resolve", &name]), path);
    assert_eq!(http(&server, &name), b"one\n");
    assert_eq!(sequence(&server, &name), 0);
    // Nobody knows this one, and one source cannot be asked.
    let stranger = first.ok(&["name", "new", "stranger"]);
    second.fails(&["name", "resolve", &stranger], 5);
    let (_, path) = publish("two\n");
    assert_eq!(second.ok(&["name", "resolve", &name]), path, "a command keeps nothing");
    // What is known here and good counts.
    let record = second.path("record");
    fs::write(&record, http(&origin, &format!("{name}?format=ipns-record"))).expect("written");
    second.ok(&["name", "accept", name.trim_start_matches("/ipns/"), record.to_str().expect("UTF-8")]);
    assert_eq!((http(&server, &name), sequence(&server, &name)), (b"two\n".to_vec(), 1));
    drop(origin);
    assert_eq!(second.ok(&["name", "resolve", &name]), path);
    // Where nobody is asked.
    World::new().fails(&["name", "resolve", &name], 3);
}

/// A key that was published elsewhere goes on above what the sources know, and a name whose file is broken keeps no other back.
#[test]
fn an_imported_key_goes_on_above_what_was_published_elsewhere() {
    let first = World::new();
    let origin = first.serve(&[]);
    let file = first.path("file");
    let mut name = String::new();
    for content in ["one\n", "two\n", "three\n"] {
        fs::write(&file, content).expect("written");
        let path = first.ok(&["put", file.to_str().expect("UTF-8"), "/ipfs"]);
        name = first.ok(&["name", "publish", &path]);
    }
    let key = first.path("self.key");
    let key = key.to_str().expect("UTF-8");
    first.ok(&["name", "export", "self", key]);
    let second = with_sources(&[&format!("http://{}", origin.addr("http"))]);
    assert_eq!(format!("/ipns/{}", second.ok(&["name", "import", "self", key])), name);
    fs::write(second.path("file"), "four\n").expect("written");
    second.ok(&["put", second.path("file").to_str().expect("UTF-8"), "/ipfs/site/a"]);
    assert_eq!(second.ok(&["name", "publish", "/ipfs/site", "--follow"]), name);
    second.ok(&["name", "new", "broken"]);
    fs::write(second.path("data/names/broken.follow"), "no JSON").expect("written");
    assert!(second.ok(&["name", "ls"]).contains("follows /ipfs/site"));
    let server = second.serve(&[]);
    assert_eq!(sequence(&server, &name), 3);
    fs::write(second.path("file"), "five\n").expect("written");
    second.ok(&["put", second.path("file").to_str().expect("UTF-8"), "/ipfs/site/a"]);
    second.ok(&["commit", "/ipfs"]);
    wait_for("the name follows", || sequence(&server, &name) == 4);
    assert_eq!(http(&server, &format!("{name}/a")), b"five\n");
    second.ok(&["name", "publish", &second.ok(&["name", "resolve", &name]), "--key", "broken"]);
}

/// After each commit that changes what is there, before the record ends, and no more once it is published by hand.
#[test]
fn a_name_follows_a_working_tree() {
    let (world, node) = (World::new(), Node::start());
    let file = world.path("file");
    let file = file.to_str().expect("UTF-8");
    let change = |text: &str, path: &str| {
        fs::write(file, text).expect("written");
        world.ok(&["put", file, path]);
    };
    let resolve = |name: &str| world.ok(&["name", "resolve", name]);
    world.fails(&["name", "publish", "/ipfs/site", "--follow"], 3);
    change("one\n", "/ipfs/site/a");
    let name = world.ok(&["name", "publish", "/ipfs/site", "--follow", "--lifetime", "30d"]);
    let first = resolve(&name);
    assert_eq!(world.ok(&["cat", &format!("{first}/a")]), "one", "it was committed for that");
    assert!(world.ok(&["name", "ls"]).ends_with("follows /ipfs/site"));

    let server = world.serve(&[]);
    world.ok(&["name", "new", "all"]);
    let url = format!("http://{}", node.addr);
    let all = world.ok(&["name", "publish", "/ipfs", "--follow", "--key", "all", "--push-to", &url]);
    change("two\n", "/ipfs/site/a");
    world.ok(&["commit", "/ipfs"]);
    wait_for("the name follows", || resolve(&name) != first);
    assert_eq!(http(&server, &format!("{name}/a")), b"two\n");
    assert_eq!(sequence(&server, &name), 1, "once for each commit");
    wait_for("the whole tree is followed", || sequence(&server, &all) == 1);
    assert_eq!(http(&server, &format!("{all}/site/a")), b"two\n");
    let newest = http(&server, &format!("{all}?format=ipns-record"));
    wait_for("the node has the newest record", || {
        let records = &node.state.lock().expect("no panic").records;
        let (name, body) = records.last().expect("the command gave it one");
        *name == all && body.windows(newest.len()).any(|part| part == newest)
    });

    // What changes elsewhere is nothing to it; what is published by hand stays.
    let now = resolve(&name);
    change("three\n", "/ipfs/elsewhere");
    world.ok(&["commit", "/ipfs"]);
    wait_for("the whole tree is followed", || sequence(&server, &all) == 2);
    assert_eq!((resolve(&name), sequence(&server, &name)), (now, 1));
    world.ok(&["name", "publish", &first]);
    change("four\n", "/ipfs/site/a");
    world.ok(&["commit", "/ipfs"]);
    wait_for("the whole tree is followed", || sequence(&server, &all) == 3);
    assert_eq!((resolve(&name), sequence(&server, &name)), (first.clone(), 2));

    // A record that ends soon is made anew before.
    world.ok(&["name", "publish", "/ipfs/site", "--follow", "--lifetime", "8s"]);
    let site = resolve(&name);
    wait_for("it is renewed", || sequence(&server, &name) >= 5);
    assert_eq!(resolve(&name), site);
    // So that it does not end while nobody serves.
    world.ok(&["name", "publish", "/ipfs/site", "--follow", "--lifetime", "30d"]);
    let last = sequence(&server, &name);
    // A server that comes later goes on.
    assert_eq!(server.terminate(), Some(0));
    change("five\n", "/ipfs/site/a");
    world.ok(&["commit", "/ipfs"]);
    let server = world.serve(&[]);
    wait_for("the name follows", || {
        sequence(&server, &name) > last && http(&server, &format!("{name}/a")) == b"five\n"
    });
    for (args, code) in [
        (&["name", "publish", "/zstor", "--follow"][..], 2),
        (&["name", "publish", &first, "--follow"], 2),
        (&["name", "publish", &first, "--push"], 2),
        (&["name", "publish", &first, "--push-to", "gopher://x"], 2),
    ] {
        world.fails(args, code);
    }
}
