//! `cp`: between the mounts of one program, with a server and without: the same CID everywhere, and only what is missing moves.

use std::{fs, path::Path, process::Stdio, time::Instant};

use serde_json::{Value, json};

use crate::{PATIENCE, WITHOUT_ZSTOR, World, assert_same_tree};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn told(world: &World, args: &[&str]) -> Value {
    serde_json::from_str(&world.ok(&[&["--json", "cp"], args].concat())).expect("JSON")
}

/// What a copy says, without the path.
fn counts(told: &Value) -> (&Value, &Value, &Value) {
    (&told["unit"], &told["moved"], &told["there"])
}

/// How many blocks [`World::tree`] is: three files of one leaf, three leaves and the file above them, a symlink, three
/// directories. Of those one is empty, and every mount with a working tree begins with an empty directory.
const TREE_BLOCKS: u64 = 3 + 4 + 1 + 3;

#[test]
fn content_goes_from_mount_to_mount() {
    for served in [true, false] {
        let world = World::by_default();
        let tree = world.tree();
        let server = served.then(|| world.serve(&[]));
        let path = world.ok(&["put", "-r", text(&tree), "/ipfs"]);
        let cid = path.strip_prefix("/ipfs/").expect("a path");

        let first = told(&world, &[&path, "/zstor"]);
        assert_eq!((&first["path"], &first["cid"]), (&json!(format!("/zstor/{cid}")), &json!(cid)));
        assert_eq!(counts(&first), (&json!("blocks"), &json!(TREE_BLOCKS - 1), &json!(1)));
        let again = told(&world, &[&path, &format!("/zstor/{cid}")]);
        assert_eq!(counts(&again), (&json!("blocks"), &json!(0), &json!(TREE_BLOCKS)));
        assert_eq!(again["bytes"], 0);
        world.ok(&["gc", "/zstor"]);
        world.ok(&["verify", &format!("/zstor/{cid}")]);
        let out = world.path("out");
        world.ok(&["get", &format!("/zstor/{cid}"), text(&out)]);
        assert_same_tree(&tree, &out);

        // A leaf, its directory, and the one above; and back.
        fs::write(tree.join("sub/ünï code"), "another text").expect("written");
        let changed = world.ok(&["put", "-r", text(&tree), "/zstor"]);
        let moved = told(&world, &[&changed, "/ipfs"]);
        assert_eq!(counts(&moved), (&json!("blocks"), &json!(3), &json!(TREE_BLOCKS - 3)));
        assert_eq!(world.ok(&["cp", &format!("{path}/sub/link"), "/zstor"]), {
            let stat: Value =
                serde_json::from_str(&world.ok(&["--json", "stat", &format!("{path}/sub/link")])).expect("JSON");
            format!("/zstor/{}", stat["cid"].as_str().expect("a CID"))
        });
        if served {
            world.ok(&["cp", &path, "/mem"]);
            assert_eq!(world.ok(&["cat", &format!("/mem/{cid}/a.txt")]), "hello world");
        } else {
            world.fails(&["cp", &path, "/mem"], 5);
        }

        // What it is to be, and is not; what is nowhere; what is no content.
        world.fails(&["cp", &path, &changed], 2);
        world.fails(&["cp", &path, &format!("{changed}/a.txt")], 2);
        let absent = "bafkreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        let why = world.fails(&["cp", &format!("/ipfs/{absent}"), "/zstor"], 3);
        assert!(why.contains(absent), "{why}");
        world.fails(&["cp", "/ipfs/no-such-name", "/zstor"], 3);
        world.fails(&["cp", &path, "/nope"], 3);
        assert!(!world.ok(&["pin", "ls", "/zstor"]).contains(absent));
        drop(server);
    }
}

#[test]
fn names_go_anywhere() {
    for served in [true, false] {
        let world = World::by_default();
        let tree = world.tree();
        let server = served.then(|| world.serve(&[]));
        world.ok(&["put", "-r", text(&tree), "/local/tree"]);
        let cid = world.ok(&["put", "--only-hash", "-r", text(&tree), "/ipfs"]);
        let cid = cid.strip_prefix("/ipfs/").expect("a path");

        // Into content, and under a name in a working tree; the second time there is nothing to do.
        let imported = told(&world, &["/local/tree", "/ipfs"]);
        assert_eq!(
            (&imported["path"], counts(&imported)),
            (&json!(format!("/ipfs/{cid}")), (&json!("files"), &json!(5), &json!(0)))
        );
        let placed = told(&world, &["/local/tree", "/zstor/tree"]);
        assert_eq!((&placed["path"], &placed["cid"]), (&json!("/zstor/tree"), &Value::Null));
        assert_eq!(counts(&placed), (&json!("files"), &json!(5), &json!(0)));
        assert_eq!(counts(&told(&world, &["/local/tree", "/zstor/tree"])), (&json!("files"), &json!(0), &json!(5)));
        let out = world.path("out");
        world.ok(&["get", "/zstor/tree", text(&out)]);
        assert_same_tree(&tree, &out);
        let stat = |path: &str| -> Value { serde_json::from_str(&world.ok(&["--json", "stat", path])).expect("JSON") };
        for below in ["a.txt", "sub", "sub/link"] {
            let (from, to) = (stat(&format!("/local/tree/{below}")), stat(&format!("/zstor/tree/{below}")));
            assert_eq!((&from["mtime"], &from["mode"]), (&to["mtime"], &to["mode"]), "{below}");
        }

        // What is committed under a name has a CID, and goes by blocks.
        world.ok(&["commit", "/zstor"]);
        let moved = told(&world, &["/zstor/tree", "/ipfs"]);
        assert_eq!((&moved["cid"], counts(&moved)), (&json!(cid), (&json!("blocks"), &json!(0), &json!(TREE_BLOCKS))));

        // Content under a name: merged into what is there.
        fs::create_dir_all(world.path("other/sub")).expect("made");
        fs::write(world.path("other/a.txt"), "older").expect("written");
        fs::write(world.path("other/kept"), "kept").expect("written");
        world.ok(&["put", "-r", text(&world.path("other")), "/local/to"]);
        assert_eq!(world.ok(&["cp", &format!("/ipfs/{cid}"), "/local/to"]), "/local/to");
        assert_eq!(world.ok(&["cat", "/local/to/a.txt"]), "hello world");
        assert_eq!(world.ok(&["cat", "/local/to/kept"]), "kept");
        assert_eq!(world.ok(&["cat", "/local/to/sub/link"]), "hello world");
        world.ok(&["cp", "/local/to/a.txt", "/local/b.txt"]);
        assert_eq!(world.ok(&["cat", "/local/b.txt"]), "hello world");

        // Into itself, over a directory, below a file.
        let why = world.fails(&["cp", "/local/to", "/local/to/sub/to"], 2);
        assert!(why.contains("into itself"), "{why}");
        world.fails(&["cp", "/local/b.txt", "/local/to"], 1);
        world.fails(&["cp", "/local/to", "/local/b.txt"], 1);
        world.fails(&["cp", "/local/nothing", "/zstor"], 3);
        drop(server);
    }
}

/// What only another server has comes here, and stays.
#[test]
fn what_is_missing_comes_from_the_sources() {
    let (origin, world) = (World::new(), World::new());
    let tree = origin.tree();
    let server = origin.serve(&[]);
    let path = origin.ok(&["put", "-r", text(&tree), "/ipfs"]);
    let config = format!("[ipfs]\ncache = \"0\"\nsources = [\"http://{}\"]\n{WITHOUT_ZSTOR}", server.addr("http"));
    fs::write(world.path("without-zstor.toml"), config).expect("written");
    assert_eq!(told(&world, &[&path, "/ipfs"])["moved"], TREE_BLOCKS - 1);
    assert_eq!(server.terminate(), Some(0));
    world.ok(&["gc"]);
    let out = world.path("out");
    world.ok(&["get", &path, text(&out)]);
    assert_same_tree(&tree, &out);
    world.ok(&["verify", &path]);
}

/// One that is interrupted is gone on with, also where a server collects meanwhile.
#[test]
fn an_interrupted_copy_does_no_harm() {
    let world = World::by_default();
    let config = world.path("eager.toml");
    fs::write(&config, "[gc]\nevery = \"0s\"\n").expect("written");
    let source = world.path("source");
    fs::create_dir(&source).expect("made");
    for file in 0..40_u32 {
        let bytes: Vec<u8> =
            (0..1_000_000_u32).map(|i| u8::try_from((i ^ (file << 4)) % 253).expect("small")).collect();
        fs::write(source.join(file.to_string()), [&file.to_le_bytes()[..], &bytes].concat()).expect("written");
    }
    let server = world.serve(&["--config", text(&config)]);
    let path = world.ok(&["put", "-r", text(&source), "/ipfs"]);
    let len = || -> u64 {
        let nodes = fs::read_dir(world.path("data/zstor/nodes")).expect("nodes");
        let files =
            nodes.flat_map(|node| fs::read_dir(node.expect("a node").path().join("blocks")).into_iter().flatten());
        files.map(|file| file.expect("a file").metadata().map_or(0, |metadata| metadata.len())).sum()
    };
    for _ in 0..3 {
        let before = len();
        let mut copy = world.command().args(["cp", &path, "/zstor"]).stdout(Stdio::null()).spawn().expect("runs");
        let begun = Instant::now();
        while len() < before + (1 << 20) && copy.try_wait().expect("a child").is_none() {
            assert!(begun.elapsed() < PATIENCE, "nothing is copied");
            std::thread::yield_now();
        }
        copy.kill().ok();
        copy.wait().expect("a child");
        world.ok(&["gc", "/zstor"]);
    }
    let done = world.ok(&["cp", &path, "/zstor"]);
    world.ok(&["gc", "/zstor"]);
    world.ok(&["verify", &done]);
    assert_eq!(told(&world, &[&path, "/zstor"])["moved"], 0);
    assert_eq!(server.terminate(), Some(0));
}
