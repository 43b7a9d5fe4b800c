//! Looking after `/zstor`: what is told of its nodes and of what more may be lost, scrubs and repairs, by a server and
//! without one, by themselves and on request.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use serde_json::Value;

use crate::{PATIENCE, Server, World, assert_same_tree};

fn node(world: &World, n: usize) -> PathBuf {
    world.path(&format!("data/zstor/nodes/{n}"))
}

/// A world with a tree in `/zstor/t`, and nobody who has it open.
fn with_a_tree() -> World {
    let world = World::by_default();
    world.ok(&["put", "-r", world.tree().to_str().expect("UTF-8"), "/zstor/t"]);
    world.ok(&["commit"]);
    world
}

fn is_whole(world: &World) {
    let back = world.path("back");
    fs::remove_dir_all(&back).ok();
    world.ok(&["get", "/zstor/t", back.to_str().expect("UTF-8")]);
    assert_same_tree(&world.path("tree"), &back);
}

fn status(world: &World) -> Value {
    serde_json::from_str(&world.ok(&["--json", "zstor", "status"])).expect("JSON")
}

/// What a command printed last.
fn last(printed: &str) -> Value {
    serde_json::from_str(printed.lines().last().expect("a line")).expect("JSON")
}

/// Empties a node as who replaces its disk does.
fn replace(world: &World, n: usize) {
    // It may be gone already.
    fs::remove_dir_all(node(world, n)).ok();
    fs::create_dir(node(world, n)).expect("made");
    fs::write(node(world, n).join("muxfs-node"), "").expect("written");
}

/// Flips a byte in the middle of what a node holds: with a file of some MiB in it, of a shard.
fn damage(world: &World, n: usize) {
    let files = fs::read_dir(node(world, n).join("blocks")).expect("listed");
    let longest =
        files.map(|file| file.expect("an entry").path()).max_by_key(|file| fs::metadata(file).expect("there").len());
    let longest = longest.expect("one");
    let mut bytes = fs::read(&longest).expect("read");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(longest, bytes).expect("written");
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn status_and_plan_tell_the_same_with_a_server_and_without() {
    let world = World::by_default();
    assert!(world.fails(&["zstor", "status"], 3).contains("no store yet"));
    assert!(!world.path("data").exists(), "who only looks makes nothing");
    let world = with_a_tree();
    for served in [false, true] {
        let server = served.then(|| world.serve(&[]));
        // How much is free is told where the disk says so at once.
        let (begun, mut told) = (Instant::now(), status(&world));
        while told["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["free"].is_null())) {
            assert!(begun.elapsed() < PATIENCE, "{told}");
            told = status(&world);
        }
        assert_eq!([&told["mount"], &told["served"]], [&Value::from("zstor"), &Value::from(served)], "{told}");
        assert_eq!([&told["data"], &told["parity"], &told["spare"]], [4, 2, 2], "{told}");
        assert_eq!([&told["readable"], &told["writable"]], [1.0, 1.0], "{told}");
        let nodes = told["nodes"].as_array().expect("a list");
        assert_eq!(nodes.len(), 6);
        for (n, of_node) in nodes.iter().enumerate() {
            assert_eq!(of_node["name"], n.to_string(), "{told}");
            assert!(of_node["lost"].is_null() && of_node["bytes"].as_u64() > Some(10_000), "{told}");
            assert!(of_node["answer_seconds"].as_f64().is_some() && of_node["free"].as_u64().is_some(), "{told}");
            assert_eq!(of_node["place"], node(&world, n).to_str().expect("UTF-8"));
        }
        let table = world.ok(&["zstor", "status", "/zstor"]);
        for part in
            ["4 + 2 shards of each block on 6 nodes", "NODE", "may be lost     2 more", "to be repaired  0 blocks"]
        {
            assert!(table.contains(part), "{part}: {table}");
        }
        let plan = |lose: &str, code: i32| {
            let run = world.run(&["--json", "zstor", "plan", "--lose", lose]);
            assert_eq!(run.status.code(), Some(code), "{run:?}");
            last(&String::from_utf8(run.stdout).expect("UTF-8"))
        };
        assert_eq!(plan("1", 0)["spare"], 1);
        let two = plan("1,4", 6);
        assert_eq!([&two["readable"], &two["writable"], &two["spare"]], [1.0, 0.0, 0.0], "{two}");
        assert_eq!(two["lose"], serde_json::json!(["1", "4"]));
        assert!(plan("0,1,2", 5)["spare"].is_null());
        assert!(world.fails(&["zstor", "plan", "--lose", "seven"], 2).contains("0, 1, 2, 3, 4, 5"));
        assert!(world.fails(&["zstor", "status", "/ipfs"], 2).contains("/zstor"));
        drop(server);
    }
    // What is written is on this machine alone until it is committed.
    let server = world.serve(&[]);
    fs::write(world.path("x"), "x".repeat(50_000)).expect("written");
    world.ok(&["put", world.path("x").to_str().expect("UTF-8"), "/zstor/x"]);
    assert!(status(&world)["uncommitted_bytes"].as_u64() >= Some(50_000));
    world.ok(&["commit"]);
    assert_eq!(status(&world)["uncommitted_bytes"], 0);
    assert_eq!(server.terminate(), Some(0));

    // However few nodes there are, who asks is told; a server does not start.
    for n in [0, 2, 5] {
        fs::remove_dir_all(node(&world, n)).expect("removed");
    }
    world.fails(&["cat", "/zstor/x"], 5);
    let told = status(&world);
    assert!(told["spare"].is_null() && told["readable"] == 0.0, "{told}");
    assert!(told["nodes"][2]["lost"].as_str().is_some_and(|why| why.contains("muxfs-node")), "{told}");
    assert!(world.ok(&["zstor", "status"]).contains("LOST"));
}

#[test]
fn a_scrub_heals_what_was_lost_and_damaged_and_a_repair_says_what_it_cannot() {
    for served in [false, true] {
        let world = with_a_tree();
        damage(&world, 4);
        let server = served.then(|| world.serve(&[]));
        let done = last(&world.ok(&["--json", "zstor", "scrub"]));
        assert_eq!([&done["bad"], &done["missing"], &done["healed"]], [1, 0, 1], "{done}");
        assert_eq!([&done["weak"], &done["unhealed"]], [0, 0], "{done}");
        let told = status(&world);
        assert_eq!([&told["scrub"]["last"]["bad"], &told["scrub"]["last"]["blocks"]], [&done["bad"], &done["blocks"]]);
        assert!(told["scrub"]["due"] == false && told["scrub"]["current"].is_null(), "{told}");
        let again = world.ok(&["zstor", "repair"]);
        assert!(again.contains("all at full strength"), "{again}");
        if let Some(server) = server {
            assert_eq!(server.terminate(), Some(0));
        }
        // One that has nothing: what is not brought to it by itself meanwhile, a repair brings.
        replace(&world, 1);
        let again = world.ok(&["--json", "zstor", "repair"]);
        assert_eq!([&last(&again)["weak"], &last(&again)["unhealed"]], [0, 0], "{again}");
        for n in [0, 5] {
            fs::remove_dir_all(node(&world, n)).expect("removed");
        }
        is_whole(&world);
        // Two are lost: everything is weak, and nothing more can be done.
        let told = world.fails(&["--json", "zstor", "repair"], 5);
        assert!(told.contains("not at full strength") && told.contains("0, 5"), "{told}");
        world.ok(&["zstor", "scrub"]);
        let told = status(&world);
        assert!(told["scrub"]["due"] == false && told["scrub"]["last"]["weak"] == done["blocks"], "{told}");
        let named = told["scrub"]["last"]["named"][0]["block"].as_str().expect("named");
        assert!(named.starts_with("bafk"), "by its CID: {told}");
        // A third one, and something damaged besides: with less than k shards there is no healing.
        damage(&world, 3);
        let run = world.run(&["--json", "zstor", "scrub", "--restart"]);
        assert_eq!(run.status.code(), Some(4), "{run:?}");
        assert_eq!(last(&String::from_utf8(run.stdout).expect("UTF-8"))["unhealed"], 1);
    }
}

#[test]
fn a_scrub_that_was_killed_is_gone_on_with() {
    let world = with_a_tree();
    for n in 0..30 {
        fs::write(world.path("x"), format!("{n}")).expect("written");
        world.ok(&["put", world.path("x").to_str().expect("UTF-8"), &format!("/zstor/x{n}")]);
    }
    // Nothing is left for a server to commit, whose blocks would be counted too.
    world.ok(&["commit"]);
    let blocks = last(&world.ok(&["--json", "zstor", "scrub"]))["blocks"].clone();
    let noted = || -> u64 {
        let files = fs::read_dir(world.path("data/mounts/zstor/scrub")).expect("listed");
        files.map(|file| file.expect("an entry").metadata().expect("there").len()).sum()
    };
    // By a process of its own that is killed, and by a server while its client goes away.
    let mut slow = world.command();
    slow.args(["zstor", "scrub", "--restart", "--max-rate", "4KiB"]).stdout(Stdio::null()).stderr(Stdio::null());
    let before = noted();
    let mut child = slow.spawn().expect("the program runs");
    wait_for("it notes how far it is", || noted() > before + 1000);
    child.kill().expect("killed");
    child.wait().expect("a child");
    let found = status(&world);
    let part = found["scrub"]["current"]["coverage"].as_f64().expect("one was interrupted");
    assert!(part < 1.0 && found["scrub"]["running"] == false, "{found}");
    let run = world.run(&["--json", "zstor", "scrub"]);
    assert!(String::from_utf8_lossy(&run.stderr).contains("going on with what began"), "{run:?}");
    assert_eq!(last(&String::from_utf8(run.stdout).expect("UTF-8"))["blocks"], blocks);

    let server = world.serve(&[]);
    let mut child = slow.spawn().expect("the program runs");
    wait_for("it has begun", || status(&world)["scrub"]["current"]["blocks"].as_u64() > Some(0));
    assert!(world.fails(&["zstor", "scrub"], 5).contains("already"), "one at a time");
    child.kill().expect("killed");
    child.wait().expect("a child");
    wait_for("the server stops with its client", || status(&world)["scrub"]["running"] == false);
    assert_eq!(server.terminate(), Some(0));
    let server = world.serve(&[]);
    let run = world.run(&["--json", "zstor", "scrub"]);
    assert!(String::from_utf8_lossy(&run.stderr).contains("going on with what began"), "{run:?}");
    assert_eq!(last(&String::from_utf8(run.stdout).expect("UTF-8"))["blocks"], blocks);
    assert_eq!(server.terminate(), Some(0));
}

pub(crate) fn metrics(server: &Server) -> String {
    let mut http = std::net::TcpStream::connect(server.addr("metrics")).expect("connected");
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    http.read_to_string(&mut text).expect("answered");
    text
}

/// Nobody asks for it: what rots is found and healed, and counted.
#[test]
fn a_server_scrubs_by_itself() {
    let world = with_a_tree();
    damage(&world, 2);
    let config = world.path("scrub.toml");
    fs::write(&config, "[scrub]\nevery = \"1s\"\nmax_rate = \"1GiB\"\n").expect("written");
    let text = config.to_str().expect("UTF-8");
    let server = world.serve(&["--config", text, "--metrics", "127.0.0.1:0"]);
    wait_for("a pass ends that healed", || {
        metrics(&server).contains("muxfs_zstor_scrub_healed_shards_total{mount=\"zstor\"} 1")
    });
    wait_for("a pass came to its end", || status(&world)["scrub"]["last"]["ended"].is_u64());
    wait_for("nodes are counted", || {
        let text = metrics(&server);
        let up = (0..6).all(|n| text.contains(&format!("muxfs_zstor_node_up{{mount=\"zstor\",node=\"{n}\"}} 1")));
        up && text.contains("muxfs_zstor_repairs_waiting{mount=\"zstor\"} 0")
    });
    fs::remove_dir_all(node(&world, 5)).expect("removed");
    world.ok(&["cat", "/zstor/t/a.txt"]);
    assert_eq!(status(&world)["spare"], 1);
    wait_for("a lost node is counted", || {
        metrics(&server).contains("muxfs_zstor_node_up{mount=\"zstor\",node=\"5\"} 0")
    });
    server.kill();
    replace(&world, 5);
    // Killed, with a node that was lost and is empty: a pass of everything is due at once, whatever the configuration says.
    fs::write(&config, "[scrub]\nenabled = false\n").expect("written");
    let server = world.serve(&["--config", text]);
    assert_eq!(status(&world)["scrub"]["due"], true);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(status(&world)["scrub"]["due"], true, "nobody did it");
    fs::write(&config, "[scrub]\nmax_rate = 0\n").expect("written");
    assert!(world.fails(&["--config", text, "ls", "/"], 2).contains("enabled = false"));
}

/// A pass kept the rate that it began with: one that was too slow by mistake went on for weeks, or until a restart.
#[test]
fn a_pass_under_way_takes_the_rate_of_a_configuration_that_is_read_again() {
    let world = with_a_tree();
    let config = world.path("scrub.toml");
    fs::write(&config, "[scrub]\nevery = \"1s\"\nmax_rate = \"1kB\"\n").expect("written");
    let server = world.serve(&["--config", config.to_str().expect("UTF-8")]);
    wait_for("a pass is under way", || status(&world)["scrub"]["current"]["blocks"].as_u64() > Some(0));
    // Of three megabytes.
    assert!(status(&world)["scrub"]["current"]["bytes"].as_u64() < Some(1 << 20));
    fs::write(&config, "[scrub]\nevery = \"1h\"\nmax_rate = \"1GiB\"\n").expect("written");
    assert_eq!(world.ok(&["reload"]), "changed: scrub\ntakes a restart: nothing");
    wait_for("it ends", || status(&world)["scrub"]["last"]["ended"].is_u64());
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn nobody_has_nodes_where_no_mount_is_of_this_kind() {
    let world = World::new();
    world.ok(&["ls", "/"]);
    for args in [&["zstor", "status"][..], &["zstor", "scrub"], &["zstor", "plan", "--lose", "1"]] {
        assert!(world.fails(args, 2).contains("no mount of kind zstor"), "{args:?}");
    }
    assert!(!Path::new(&world.path("data/zstor")).exists());
}
