//! Nodes of `/zstor` that come, are emptied and go while a server runs, and a configuration that is read again: by the
//! commands that a person types, and what becomes of the file that a person wrote.

use std::{fs, time::Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{PATIENCE, Server, World, assert_same_tree, care::metrics};

/// A world on three directories of its own, 2 + 1, with a file that somebody wrote.
fn world() -> World {
    let world = World::by_default();
    let dir = |n: usize| world.path(&format!("disk{n}"));
    for n in 0..5 {
        fs::create_dir(dir(n)).expect("made");
    }
    let nodes: Vec<String> = (0..3)
        .map(|n| format!("    {{ dir = \"{}\", name = \"disk{n}\" }}, # disk {n} of ours", dir(n).display()))
        .collect();
    let text = format!(
        "# written by hand\n[scrub]\nevery = \"7d\" # weekly\n\n[[mount]]\nkind = \"zstor\"\nprefix = \"zstor\"\ndata = 2\nparity = 1\nnodes = [\n{}\n]\n",
        nodes.join("\n")
    );
    let config = world.path("muxfs.toml");
    fs::write(&config, text).expect("written");
    World { config: Some(config), ..world }
}

fn text(world: &World) -> String {
    fs::read_to_string(world.path("muxfs.toml")).expect("read")
}

fn edit(world: &World, from: &str, to: &str) {
    let text = text(world);
    assert!(text.contains(from), "{text}");
    fs::write(world.path("muxfs.toml"), text.replace(from, to)).expect("written");
}

fn node(world: &World, name: &str) -> Option<Value> {
    let status: Value = serde_json::from_str(&world.ok(&["--json", "zstor", "status"])).expect("JSON");
    let nodes = status["nodes"].as_array().expect("a list");
    nodes.iter().find(|node| node["name"] == name).cloned()
}

fn is_whole(world: &World) {
    let back = world.path("back");
    fs::remove_dir_all(&back).ok();
    world.ok(&["get", "/zstor/t", back.to_str().expect("UTF-8")]);
    assert_same_tree(&world.path("tree"), &back);
}

fn hangup(server: &Server) {
    kill_process(Pid::from_child(&server.child), Signal::HUP).expect("signalled");
}

#[test]
fn a_disk_is_exchanged_while_a_server_runs() {
    let world = world();
    let server = world.serve(&[]);
    world.ok(&["put", "-r", world.tree().to_str().expect("UTF-8"), "/zstor/t"]);
    world.ok(&["commit"]);
    let disk = world.path("disk3");
    let disk = disk.to_str().expect("UTF-8");

    let refused = world.run(&["zstor", "node", "drain", "disk0"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("take 3 nodes, and there are 2"), "{told}");
    assert!(!text(&world).contains("drain"), "the file is as it was");

    world.ok(&["zstor", "node", "add", disk, "--name", "disk3", "--wait"]);
    assert_eq!(node(&world, "disk3").expect("a node")["filling"], false);
    is_whole(&world);
    let twice = world.run(&["zstor", "node", "add", disk, "--name", "again"]);
    assert!(!twice.status.success(), "one directory is one node");
    let refused = world.run(&["zstor", "node", "rm", "disk0"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("node drain disk0"), "{told}");
    assert!(!world.run(&["zstor", "node", "rm", "disk0", "--lost"]).status.success(), "it is not lost");

    world.ok(&["zstor", "node", "drain", "disk0", "--wait"]);
    assert_eq!(node(&world, "disk0").expect("a node")["blocks_left"], 0);
    assert!(world.ok(&["zstor", "status"]).contains("empty: may be removed"));
    world.ok(&["zstor", "node", "rm", "disk0"]);
    assert_eq!(node(&world, "disk0"), None);
    fs::remove_dir_all(world.path("disk0")).expect("it may go");
    is_whole(&world);

    // One that is gone for good.
    let disk = world.path("disk4");
    world.ok(&["zstor", "node", "add", disk.to_str().expect("UTF-8"), "--name", "disk4", "--wait"]);
    fs::remove_dir_all(world.path("disk1")).expect("lost");
    world.ok(&["zstor", "node", "rm", "disk1", "--lost", "--wait"]);
    is_whole(&world);

    let text = text(&world);
    for kept in
        ["# written by hand", "every = \"7d\" # weekly", "# disk 2 of ours", "name = \"disk3\"", "name = \"disk4\""]
    {
        assert!(text.contains(kept), "{kept} in\n{text}");
    }
    assert!(!text.contains("\"disk0\"") && !text.contains("\"disk1\""), "{text}");
    assert_eq!(server.terminate(), Some(0));
    let server = world.serve(&[]);
    is_whole(&world);
    world.ok(&["zstor", "scrub"]);
    assert_eq!(server.terminate(), Some(0));
}

/// Whatever is half way when the server is killed, everything is read by the next, which goes on by itself until every shard
/// is where it belongs.
#[test]
fn a_server_that_is_killed_while_shards_are_moved_is_followed_by_one_that_goes_on() {
    let world = world();
    // Half a minute for the tree, so that it is killed on the way.
    let (slow, fast) = ("max_rate = \"100kB\"", "max_rate = \"1GB\"");
    edit(&world, "every = \"7d\"", &format!("every = \"7d\"\n{slow}"));
    let server = world.serve(&[]);
    world.ok(&["put", "-r", world.tree().to_str().expect("UTF-8"), "/zstor/t"]);
    world.ok(&["commit"]);
    let settling = || {
        let status: Value = serde_json::from_str(&world.ok(&["--json", "zstor", "status"])).expect("JSON");
        status["settling"].clone()
    };
    let wait_for = |what: &str, is_so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "{what}: {}", settling());
            std::thread::yield_now();
        }
    };
    let disk = world.path("disk3");
    world.ok(&["zstor", "node", "add", disk.to_str().expect("UTF-8"), "--name", "disk3"]);
    wait_for("some are moved", &|| settling()["moved"].as_u64() > Some(0));
    assert_eq!(settling()["settled"], false, "it is killed on the way");
    server.kill();
    edit(&world, slow, fast);
    let server = world.serve(&[]);
    is_whole(&world);
    wait_for("a start goes on", &|| settling()["settled"] == true);
    server.kill();
    edit(&world, fast, slow);
    let server = world.serve(&[]);
    world.ok(&["zstor", "node", "drain", "disk0"]);
    wait_for("some are moved", &|| settling()["moved"].as_u64() > Some(0));
    let left = node(&world, "disk0").expect("a node")["blocks_left"].as_u64();
    assert!(left > Some(0), "it is killed on the way");
    server.kill();
    edit(&world, slow, fast);
    let server = world.serve(&[]);
    is_whole(&world);
    wait_for("a start goes on", &|| node(&world, "disk0").expect("a node")["blocks_left"] == 0);
    wait_for("all is in its place", &|| settling()["settled"] == true);
    world.ok(&["zstor", "node", "rm", "disk0"]);
    // At full strength, without the one that went and any other.
    fs::remove_dir_all(world.path("disk0")).expect("it may go");
    fs::remove_dir_all(world.path("disk1")).expect("lost");
    is_whole(&world);
    world.ok(&["verify", "--all", "/zstor"]);
    assert_eq!(server.terminate(), Some(0));
}

/// A node that was removed was told as up, or as lost, until the next start.
#[test]
fn what_was_measured_of_a_node_ends_with_it() {
    let world = world();
    let server = world.serve(&["--metrics", "127.0.0.1:0"]);
    let up = |value: &str| format!("muxfs_zstor_node_up{{mount=\"zstor\",node=\"disk3\"}} {value}\n");
    let wait_for = |what: &str| {
        let begun = Instant::now();
        while !metrics(&server).contains(what) {
            assert!(begun.elapsed() < PATIENCE, "{what} in {}", metrics(&server));
            std::thread::yield_now();
        }
    };
    let disk = world.path("disk3");
    world.ok(&["zstor", "node", "add", disk.to_str().expect("UTF-8"), "--name", "disk3", "--wait"]);
    wait_for(&up("1"));
    world.ok(&["zstor", "node", "drain", "disk3", "--wait"]);
    world.ok(&["zstor", "node", "rm", "disk3"]);
    wait_for(&up("NaN"));
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn without_a_server_the_next_one_moves() {
    let world = world();
    world.ok(&["put", "-r", world.tree().to_str().expect("UTF-8"), "/zstor/t"]);
    world.ok(&["commit"]);
    let disk = world.path("disk3");
    world.ok(&["zstor", "node", "add", disk.to_str().expect("UTF-8"), "--name", "disk3"]);
    world.ok(&["zstor", "node", "drain", "disk1"]);
    is_whole(&world);
    let server = world.serve(&[]);
    let begun = Instant::now();
    while node(&world, "disk1").expect("a node")["blocks_left"] != 0 {
        assert!(begun.elapsed() < PATIENCE, "it is not emptied");
        std::thread::yield_now();
    }
    assert_eq!(server.terminate(), Some(0));
    world.ok(&["zstor", "node", "rm", "disk1"]);
    is_whole(&world);
}

/// Each read the file, edited what it had read and replaced it: of two commands at once one edit was lost, though both said
/// that it was done.
#[test]
fn commands_at_once_lose_no_edit() {
    let world = world();
    // They are not in the other's way by the server either.
    let server = world.serve(&[]);
    for round in 0..4 {
        let adding: Vec<_> = [3, 4]
            .map(|n| {
                let disk = world.path(&format!("disk{n}-{round}"));
                fs::create_dir(&disk).expect("made");
                let disk = disk.to_str().expect("UTF-8").to_owned();
                let args = ["zstor", "node", "add", &disk, "--name", &format!("{n}-{round}")];
                world.command_for(&args).args(args).spawn().expect("the program runs")
            })
            .into();
        for mut child in adding {
            assert!(child.wait().expect("a child").success());
        }
        let text = text(&world);
        for n in [3, 4] {
            assert!(text.contains(&format!("name = \"{n}-{round}\"")), "{n}-{round} is lost: {text}");
            assert!(node(&world, &format!("{n}-{round}")).is_some());
        }
    }
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_configuration_is_read_again() {
    let world = world();
    let server = world.serve(&[]);
    assert_eq!(world.ok(&["reload"]), "changed: nothing\ntakes a restart: nothing");
    edit(&world, "every = \"7d\"", "every = \"3d\"");
    hangup(&server);
    let begun = Instant::now();
    while !world.ok(&["config"]).contains("every = \"3d\"") {
        assert!(begun.elapsed() < PATIENCE, "a signal is heard");
        std::thread::yield_now();
    }
    edit(&world, "[scrub]", "[history]\nall = \"2h\"\n\n[gc]\nenabled = false\n\n[scrub]");
    assert_eq!(world.ok(&["reload"]), "changed: gc\ntakes a restart: history");
    // What cannot be read leaves everything as it is.
    edit(&world, "[history]", "[histery]");
    let other = world.path("other.toml");
    fs::write(&other, "").expect("written");
    let other = other.to_str().expect("UTF-8");
    assert!(world.fails(&["--config", other, "reload"], 2).contains("histery"));
    hangup(&server);
    assert!(world.ok(&["--config", other, "config"]).contains("every = \"3d\""));
    assert_eq!(server.terminate(), Some(0));
}

/// One mount changed and the other was refused: the answer was an error that said that nothing had changed, and a command
/// put the file back although its own edit was in effect.
#[test]
fn a_mount_whose_nodes_are_refused_keeps_no_other_from_its_own() {
    let world = world();
    let dirs: Vec<String> = (0..4).map(|n| world.path(&format!("other{n}")).display().to_string()).collect();
    for dir in &dirs {
        fs::create_dir(dir).expect("made");
    }
    let with_other = |nodes: &[String]| {
        let nodes: Vec<String> = nodes.iter().map(|dir| format!("{{ dir = \"{dir}\" }}")).collect();
        format!(
            "[[mount]]\nkind = \"zstor\"\nprefix = \"other\"\nkey = \"{}\"\ndata = 2\nparity = 1\nnodes = [{}]\n",
            world.path("other.key").display(),
            nodes.join(", ")
        )
    };
    let text_before = text(&world) + &with_other(&dirs[..3]);
    fs::write(world.path("muxfs.toml"), &text_before).expect("written");
    let server = world.serve(&[]);
    // It is no node: nobody marked it.
    let text_after = text_before.replace(&with_other(&dirs[..3]), &with_other(&dirs));
    fs::write(world.path("muxfs.toml"), text_after).expect("written");
    let disk = world.path("disk3");
    let args = ["zstor", "node", "add", disk.to_str().expect("UTF-8"), "--name", "disk3", "--mount", "/zstor"];
    let added = world.run(&args);
    let told = String::from_utf8_lossy(&added.stderr).into_owned();
    assert!(added.status.success() && told.contains("another mount") && told.contains("other3"), "{told}");
    assert!(text(&world).contains("disk3\""), "what is in effect is in the file");
    let nodes_of = |mount: &str| {
        let status: Value = serde_json::from_str(&world.ok(&["--json", "zstor", "status", mount])).expect("JSON");
        status["nodes"].as_array().expect("a list").len()
    };
    assert_eq!((nodes_of("/zstor"), nodes_of("/other")), (4, 3));
    let refused = world.run(&["--json", "reload"]);
    let told: Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert!(!refused.status.success() && told["refused"][0]["mount"] == "other", "{told}");
    assert_eq!(server.terminate(), Some(0));
}

/// What has no file is told how to get one, and what to type then.
#[test]
fn nodes_are_changed_in_a_file_alone() {
    let world = World::by_default();
    let server = world.serve(&[]);
    let disk = world.path("disk");
    fs::create_dir(&disk).expect("made");
    let told = world.fails(&["zstor", "node", "add", disk.to_str().expect("UTF-8")], 2);
    assert!(told.contains("muxfs config > FILE"), "{told}");
    assert!(!disk.join("muxfs-node").exists());
    let config = world.ok(&["config"]);
    assert_eq!(server.terminate(), Some(0));
    let file = world.path("muxfs.toml");
    fs::write(&file, config).expect("written");
    let world = World { config: Some(file), ..world };
    let server = world.serve(&[]);
    world.ok(&["zstor", "node", "add", disk.to_str().expect("UTF-8"), "--wait"]);
    assert_eq!(node(&world, disk.to_str().expect("UTF-8")).expect("a node")["drained"], false);
    assert!(node(&world, "5").is_some(), "the default nodes keep their names");
    assert_eq!(server.terminate(), Some(0));
}
