//! `cp`: between the mounts of one program, with a server and without: the same CID everywhere, and only what is missing moves.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use muxfs::{
    BlockKey, BlockStore as _, Cid, Codec, Env,
    block::{Segments, SegmentsOptions},
    dag::{Dag, DagOptions, Ipld},
};
use muxfs_local::FileMedia;
use serde_json::{Value, json};

use crate::{PATIENCE, WITHOUT_ZSTOR, World, assert_same_tree, verify::copy};

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

/// The blocks of `/ipfs`, where no program has them.
async fn blocks(world: &World) -> Arc<Segments> {
    let dir = world.path("data/mounts/ipfs");
    let media = |part: &str| Arc::new(FileMedia::open(dir.join(part)).expect("nobody has it"));
    let env = Env { now: Arc::new(SystemTime::now), fill: Arc::new(|bytes| bytes.fill(7)) };
    let opened = Segments::open(media("blocks"), media("index"), SegmentsOptions::default(), &env).await;
    Arc::new(opened.expect("the blocks open"))
}

fn linked(value: &Ipld, met: &mut Vec<Cid>) {
    match value {
        Ipld::Link(cid) if cid.codec() == Some(Codec::DagCbor) => met.push(**cid),
        Ipld::List(values) => values.iter().for_each(|value| linked(value, met)),
        _ => {}
    }
}

/// The blocks of the attribute tree of a commit.
async fn attribute_blocks(dag: &Dag, commit: &str) -> Vec<Cid> {
    let commit = dag.get_linked(&commit.parse().expect("a CID")).await.expect("a block").expect("linked data");
    let Ipld::Map(commit) = commit else { panic!("a commit is a map") };
    let (mut all, mut met) = (Vec::new(), Vec::new());
    linked(&commit["attrs"], &mut met);
    while let Some(cid) = met.pop() {
        all.push(cid);
        linked(&dag.get_linked(&cid).await.expect("a block").expect("linked data"), &mut met);
    }
    all
}

/// What a copy by name was not told of, since a block of the attributes is lost, is not taken for what is not there:
/// whichever is lost, the copy fails, or it is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_out_of_a_copy_in_silence() {
    let world = World::new();
    let source = world.path("source");
    fs::create_dir_all(source.join("sub")).expect("made");
    for number in 0..100 {
        fs::write(source.join(format!("file-{number}")), number.to_string()).expect("written");
    }
    world.ok(&["put", "-r", text(&source), "/ipfs/source"]);
    let commit = world.ok(&["commit"]);
    let commit = commit.rsplit('/').next().expect("a CID");
    let store = blocks(&world).await;
    let all = attribute_blocks(&Dag::new(store.clone(), DagOptions::default()), commit).await;
    store.close().await.expect("closed");
    drop(store);
    assert!(all.len() > 5, "the attributes are in several blocks: {all:?}");
    copy(&world.path("data"), &world.path("whole"));
    let mut failed = 0;
    for lost in all {
        fs::remove_dir_all(world.path("data")).expect("removed");
        copy(&world.path("whole"), &world.path("data"));
        let store = blocks(&world).await;
        store.delete(&BlockKey::from(&lost)).await.expect("deleted");
        store.close().await.expect("closed");
        drop(store);
        let done = world.run(&["cp", "/ipfs/source", "/local/copy"]);
        let names = |dir: &Path| -> HashSet<_> {
            fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("listed").file_name()).collect()
        };
        let is_whole = names(&world.path("data/local/copy")) == names(&source);
        let told = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.success(), is_whole, "{lost}: {told}");
        failed += usize::from(!is_whole);
    }
    assert!(failed > 2, "no block that was lost was needed");
}

/// Where both have a CID it alone says whether the bytes are the same; mode and time follow.
#[test]
fn cids_tell_what_is_the_same() {
    let world = World::by_default();
    let file = world.path("file");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let write = |bytes: &str, time: SystemTime| {
        fs::write(&file, bytes).expect("written");
        fs::File::options().write(true).open(&file).expect("opened").set_modified(time).expect("set");
        // One that is there with this length and time would be kept.
        world.run(&["rm", "/ipfs/file"]);
        world.ok(&["put", text(&file), "/ipfs/file"]);
        world.ok(&["commit", "/ipfs"]);
    };
    let copied = || -> Value {
        let copied = told(&world, &["/ipfs/file", "/zstor/file"]);
        world.ok(&["commit", "/zstor"]);
        copied
    };
    write("one", time);
    assert_eq!(counts(&copied()), (&json!("files"), &json!(1), &json!(0)));
    // Other bytes of the same length and time.
    write("two", time);
    assert_eq!(world.ok(&["cat", "/ipfs/file"]), "two");
    assert_eq!(counts(&copied()), (&json!("files"), &json!(1), &json!(0)));
    assert_eq!(world.ok(&["cat", "/zstor/file"]), "two");
    // Another time of the same bytes.
    write("two", time + Duration::from_secs(1));
    assert_eq!(counts(&copied()), (&json!("files"), &json!(0), &json!(1)));
    let stat = |path: &str| -> Value { serde_json::from_str(&world.ok(&["--json", "stat", path])).expect("JSON") };
    assert_eq!(stat("/ipfs/file")["mtime"], stat("/zstor/file")["mtime"]);
}

/// What is wrong is said of what it is wrong with: room that the target has not, a name that cannot be shown as it is.
#[test]
fn what_is_told_names_the_right_side() {
    let world = World::by_default();
    let config = world.path("small.toml");
    let small = WITHOUT_ZSTOR.replace("prefix = \"mem\"\n", "prefix = \"mem\"\nlimit = \"64KiB\"\n");
    fs::write(&config, small).expect("written");
    let server = world.serve(&["--config", text(&config)]);
    let tree = world.tree();
    let path = world.ok(&["put", "-r", text(&tree), "/ipfs"]);
    let why = world.fails(&["cp", &path, "/mem"], 1);
    assert!(why.contains("/mem") && !why.contains(&path), "{why}");
    assert_eq!(server.terminate(), Some(0));

    let pipe = world.path("data/local/dir").join(OsStr::from_bytes(b"\xff"));
    fs::create_dir_all(pipe.parent().expect("a directory")).expect("made");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o640.into(), 0).expect("a pipe");
    let done = world.run(&["cp", "/local/dir", "/ipfs"]);
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && told.contains("skipped /local/dir/"), "{told}");
    let why = world.fails(&["cp", "/local/dir", "/mem"], 5);
    assert!(why.contains("cp") && !why.contains("put"), "{why}");
}
