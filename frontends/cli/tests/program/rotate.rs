//! Another key in the place of that of `/zstor`: what a person types and sees, and what is left when the server is killed on
//! the way.

use std::{fs, time::Instant};

use serde_json::Value;

use crate::{PATIENCE, World, assert_same_tree};

fn key_text(world: &World) -> String {
    fs::read_to_string(world.path("data/zstor/key")).expect("read")
}

/// The keys in a file, and what is left of others.
fn lines(text: &str, word: &str) -> usize {
    text.lines().filter(|line| line.starts_with(word)).count()
}

fn is_whole(world: &World) {
    let back = world.path("back");
    fs::remove_dir_all(&back).ok();
    world.ok(&["get", "/zstor/t", back.to_str().expect("UTF-8")]);
    assert_same_tree(&world.path("tree"), &back);
}

fn rotation(world: &World) -> Value {
    let status: Value = serde_json::from_str(&world.ok(&["--json", "zstor", "status"])).expect("JSON");
    status["key_rotation"].clone()
}

/// All but the nodes is lost, and a key is brought from elsewhere.
fn lose_machine(world: &World, key: &str) {
    world.lose_machine();
    fs::write(world.path("data/zstor/key"), key).expect("written");
}

#[test]
fn a_key_is_replaced_while_a_server_runs() {
    let world = World::by_default();
    let server = world.serve(&[]);
    world.ok(&["put", "-r", world.tree().to_str().expect("UTF-8"), "/zstor/t"]);
    world.ok(&["commit", "-m", "before"]);
    let old = key_text(&world);
    let told = world.ok(&["key", "rotate"]);
    let file = world.path("data/zstor/key").display().to_string();
    assert!(told.contains(&file) && told.contains("Copy that file anew"), "{told}");
    assert!(told.contains("everything is under the newest key"), "{told}");
    let new = key_text(&world);
    let first = old.lines().last().expect("a line").strip_prefix("muxfs-key 1 ").expect("a key").to_owned();
    assert!(!new.contains(&first) && !told.contains(&first[..8]));
    assert_eq!((lines(&new, "muxfs-key 2 "), lines(&new, "muxfs-former 2 ")), (1, 1), "{new}");
    assert_eq!(rotation(&world), Value::Null);
    is_whole(&world);
    world.ok(&["commit", "-m", "after"]);
    world.ok(&["gc", "/zstor"]);
    world.ok(&["verify", "--all", "/zstor"]);
    // And once more, as any key is replaced.
    let told = world.ok(&["--json", "key", "rotate", "/zstor"]);
    assert!(told.contains(r#""rotate":"begun""#) && told.contains(r#""rotate":"done""#), "{told}");
    assert_eq!(lines(&key_text(&world), "muxfs-former 2 "), 2);
    is_whole(&world);
    assert_eq!(server.terminate(), Some(0));

    // Nothing on the nodes or here is of the keys of before.
    let newest = key_text(&world);
    for gone in [&old, &new] {
        fs::write(world.path("data/zstor/key"), gone).expect("written");
        let told = world.fails(&["cat", "/zstor/t/a.txt"], 6);
        assert!(told.contains("took its place since"), "{told}");
        lose_machine(&world, gone);
        let told = world.fails(&["serve", "--nfs", "off", "--ftp", "off"], 6);
        assert!(told.contains("took its place since") || told.contains("was replaced"), "{told}");
    }
    // A machine with the newest goes on.
    lose_machine(&world, &newest);
    let server = world.serve(&[]);
    is_whole(&world);
    let log = world.ok(&["log", "/zstor"]);
    assert!(log.contains("before") && log.contains("after"), "{log}");
    assert_eq!(server.terminate(), Some(0));
}

/// The server is killed on the way; the next one goes on by itself, and so does one on another machine, with the keys as
/// they were when the new one was drawn.
#[test]
fn what_was_begun_is_gone_on_with() {
    let world = World::by_default();
    world.ok(&["put", "-r", world.tree().to_str().expect("UTF-8"), "/zstor/t"]);
    world.ok(&["commit", "-m", "before"]);
    let told = world.ok(&["key", "rotate", "--no-wait"]);
    assert!(!told.contains("everything is"), "{told}");
    let both = key_text(&world);
    assert_eq!((lines(&both, "muxfs-key 2 "), lines(&both, "muxfs-former 2 ")), (2, 0), "{both}");
    assert!(world.ok(&["zstor", "status"]).contains("goes on when a server runs"));
    assert_eq!(key_text(&world), both, "who only puts, reads or looks moves nothing");
    for _ in 0..3 {
        let server = world.serve(&[]);
        server.kill();
        is_whole(&world);
    }
    lose_machine(&world, &both);
    let server = world.serve(&[]);
    let begun = Instant::now();
    while lines(&key_text(&world), "muxfs-key 2 ") > 1 {
        assert!(begun.elapsed() < PATIENCE, "{}", world.ok(&["zstor", "status"]));
        std::thread::yield_now();
    }
    is_whole(&world);
    assert!(world.ok(&["log", "/zstor"]).contains("before"));
    assert_eq!(server.terminate(), Some(0));
    is_whole(&world);
}

/// While a node is away nothing of an older key goes, and it is said why; when it is back, all does.
#[test]
fn a_node_that_is_away_is_waited_for() {
    let world = World::by_default();
    let server = world.serve(&[]);
    world.ok(&["put", "-r", world.tree().to_str().expect("UTF-8"), "/zstor/t"]);
    world.ok(&["commit"]);
    let (node, away) = (world.path("data/zstor/nodes/2"), world.path("away"));
    fs::rename(&node, &away).expect("moved");
    // A read finds out.
    is_whole(&world);
    world.ok(&["key", "rotate", "--no-wait"]);
    let begun = Instant::now();
    while !rotation(&world)["left"].as_str().is_some_and(|why| why.contains("2 (")) {
        assert!(begun.elapsed() < PATIENCE, "{}", rotation(&world));
    }
    assert!(world.ok(&["zstor", "status"]).contains("waits: "));
    assert_eq!(lines(&key_text(&world), "muxfs-key 2 "), 2);
    is_whole(&world);
    fs::rename(&away, &node).expect("moved");
    let told = world.ok(&["key", "rotate"]);
    assert!(told.contains("going on with the key that was drawn before"), "{told}");
    assert_eq!(lines(&key_text(&world), "muxfs-key 2 "), 1);
    is_whole(&world);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_key_that_is_in_no_file_of_its_own_is_not_replaced() {
    let world = World::by_default();
    world.ok(&["ls", "/zstor"]);
    let text = key_text(&world);
    let line = text.lines().last().expect("a line");
    let refused = world.command().env("MUXFS_ZSTOR_KEY", line).args(["key", "rotate"]).output().expect("ran");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("in a file of its own"), "{told}");
    assert_eq!(key_text(&world), text);
    let told = world.run(&["key", "rotate", "/ipfs"]);
    assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("has no nodes"));
}

/// What somebody sealed with the key of a store is still read with its file when that key was replaced.
#[test]
fn sealed_files_are_read_with_the_file_of_the_newest_key() {
    let world = World::by_default();
    let key = world.path("data/zstor/key").display().to_string();
    world.ok(&["ls", "/zstor"]);
    let file = world.path("x");
    fs::write(&file, "sealed before").expect("written");
    let file = file.to_str().expect("UTF-8").to_owned();
    world.ok(&["put", "--key-file", &key, &file, "/zstor/before"]);
    world.ok(&["key", "rotate"]);
    fs::write(&file, "sealed after").expect("written");
    world.ok(&["put", "--key-file", &key, &file, "/zstor/after"]);
    assert_eq!(world.ok(&["cat", "--key-file", &key, "/zstor/before", "/zstor/after"]), "sealed beforesealed after");
    let back = world.path("back");
    world.ok(&["get", "--key-file", &key, "/zstor/before", back.to_str().expect("UTF-8")]);
    assert_eq!(fs::read(back).expect("read"), b"sealed before");
}
