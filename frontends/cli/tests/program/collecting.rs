//! Garbage collection: the room of what nothing keeps comes back, and nothing else goes, whoever reads and writes.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use serde_json::Value;

use crate::{PATIENCE, World, assert_same_tree};

const MIB: u64 = 1 << 20;

/// Bytes that nobody else has.
fn unique(len: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(usize::try_from(len).expect("short")).collect()
}

/// What the blocks of `/ipfs` take on disk.
fn len_on_disk(world: &World) -> u64 {
    let len = |dir: &Path| -> u64 {
        // One that goes while it is looked at takes no room.
        let entries = fs::read_dir(dir).expect("a directory").filter_map(|entry| entry.ok()?.metadata().ok());
        entries.map(|metadata| metadata.len()).sum()
    };
    len(&world.path("data/mounts/ipfs/blocks"))
}

fn gc(world: &World, args: &[&str]) -> Vec<Value> {
    let told = world.ok(&[&["--json", "gc"], args].concat());
    told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} in {report}"))
}

/// Waits for what must happen.
fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// A configuration with which a server collects all the time, and history is soon let go.
fn eager(world: &World) -> String {
    let file = world.path("muxfs.toml");
    let history = "[history]\nall = \"0s\"\nhourly = \"0s\"\ndaily = \"0s\"\n";
    let mount = "[[mount]]\nkind = \"ipfs\"\nprefix = \"ipfs\"\n";
    fs::write(&file, format!("[gc]\nevery = \"0s\"\n{history}{mount}")).expect("written");
    file.to_str().expect("UTF-8").into()
}

#[test]
fn space_comes_back_by_itself_while_others_read_and_write() {
    let world = World::new();
    let tree = world.tree();
    let source = world.path("source");
    let text = source.to_str().expect("UTF-8");
    let config = eager(&world);
    let args = ["--config", &config, "--metrics", "127.0.0.1:0"];
    let server = world.serve(&args);
    let tree_text = tree.to_str().expect("UTF-8");
    world.ok(&["put", "-r", tree_text, "/ipfs/kept"]);
    let pinned = world.ok(&["put", "-r", tree_text]);
    world.ok(&["commit"]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let expected = fs::read(tree.join("sub/long.bin")).expect("read");
            while !done.load(Ordering::Relaxed) {
                for path in ["/ipfs/kept/sub/long.bin", &format!("{pinned}/sub/long.bin")] {
                    let read = world.run(&["cat", path]);
                    assert!(read.status.success() && read.stdout == expected, "{path}: {read:?}");
                }
            }
        });
        let writer = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let put = world.fed(&["put", "-", &format!("/ipfs/written-{count}")], &unique(100_000, count));
                assert!(put.status.success(), "{put:?}");
                count += 1;
            }
            count
        });
        // What is overwritten, let go and removed again and again would be 48 MiB.
        for round in 0..6 {
            fs::write(&source, unique(8 * MIB, 1000 + round)).expect("written");
            world.ok(&["put", text, "/ipfs/large"]);
            world.ok(&["commit"]);
        }
        world.ok(&["rm", "/ipfs/large"]);
        for _ in 0..2 {
            world.ok(&["put", text, "/ipfs/last"]);
            world.ok(&["commit"]);
            world.ok(&["rm", "/ipfs/last"]);
            world.ok(&["commit"]);
        }
        done.store(true, Ordering::Relaxed);
        reader.join().expect("all that is kept was read");
        let count = writer.join().expect("all was written");
        for number in 0..count {
            let read = world.run(&["cat", &format!("/ipfs/written-{number}")]);
            assert!(read.stdout == unique(100_000, number), "written-{number}");
        }
        let written = count * 100_000;
        world.ok(&["put", text, "/ipfs/a-change"]);
        world.ok(&["rm", "/ipfs/a-change"]);
        world.ok(&["commit"]);
        wait_for("the room did not come back", || len_on_disk(&world) < 12 * MIB + 2 * written);
    });
    let verified = world.ok(&["verify", &pinned]);
    assert!(verified.contains("all there and whole"), "{verified}");
    world.ok(&["get", "/ipfs/kept", world.path("back").to_str().expect("UTF-8")]);
    assert_same_tree(&tree, &world.path("back"));

    let mut http = std::net::TcpStream::connect(server.addr("metrics")).expect("connected");
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut metrics = String::new();
    http.read_to_string(&mut metrics).expect("answered");
    assert!(metrics.contains("muxfs_gc_runs_total{mount=\"ipfs\",result=\"ok\"}"), "{metrics}");
    assert!(!metrics.contains("result=\"failed\""), "{metrics}");

    // It ends cleanly, and what is kept is there for the next.
    assert_eq!(server.terminate(), Some(0));
    world.ok(&["get", &pinned, world.path("again").to_str().expect("UTF-8")]);
    assert_same_tree(&tree, &world.path("again"));
    assert!(world.ok(&["verify", "/ipfs"]).contains("all there and whole"));
}

#[test]
fn gc_tells_what_it_does_with_a_server_and_without() {
    for served in [true, false] {
        let world = World::new();
        let server = served.then(|| world.serve(&[]));
        let source = world.path("x");
        let put = |seed: u64| {
            fs::write(&source, unique(3 * MIB, seed)).expect("written");
            world.ok(&["put", source.to_str().expect("UTF-8"), "/ipfs"])
        };
        let (kept, garbage) = (put(1), put(2));
        assert_eq!(number(&gc(&world, &["/ipfs"])[0], "blocks_removed"), 0, "both are pinned");
        world.ok(&["rm", &garbage]);
        let before = len_on_disk(&world);

        let told = &gc(&world, &["--dry-run", "ipfs"])[0];
        // Three leaves and the node above them.
        assert_eq!((number(told, "blocks_removed"), told["dry_run"].as_bool()), (4, Some(true)));
        assert!(number(told, "bytes_removed") > 3 * MIB && number(told, "bytes_kept") > 3 * MIB, "{told}");
        assert_eq!(len_on_disk(&world), before);
        assert!(world.ok(&["gc", "--dry-run"]).contains("/ipfs: would remove 4 blocks, 3.00 MiB"));

        let did = gc(&world, &[]);
        let did = did.iter().find(|report| report["mount"] == "ipfs").expect("a report");
        assert_eq!((number(did, "blocks_removed"), number(did, "bytes_removed")), (4, number(told, "bytes_removed")));
        assert!(number(did, "disk_before") > number(did, "disk_after") + 2 * MIB, "{did}");
        assert!(len_on_disk(&world) < before - 2 * MIB);
        assert!(world.ok(&["gc"]).contains("/ipfs: removed 0 blocks"));

        assert!(world.ok(&["verify", &kept]).contains("all there and whole"));
        world.fails(&["cat", &garbage], 3);
        world.fails(&["pin", "add", &garbage], 3);
        world.fails(&["gc", "/local"], 2);
        world.fails(&["gc", "/nope"], 3);
        drop(server);
    }
}

/// Each import of a put ended before the root was pinned: a collection in between would have taken what came first.
#[test]
fn a_put_loses_nothing_to_a_collection() {
    for served in [true, false] {
        let world = World::new();
        let server = served.then(|| world.serve(&[]));
        let source = world.path("many");
        for number in 0..200 {
            let dir = source.join(format!("{}", number % 10));
            fs::create_dir_all(&dir).expect("made");
            fs::write(dir.join(format!("{number}")), unique(20_000, number)).expect("written");
        }
        let done = AtomicBool::new(false);
        let path = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    world.ok(&["gc"]);
                }
            });
            let path = world.ok(&["put", "-r", source.to_str().expect("UTF-8")]);
            done.store(true, Ordering::Relaxed);
            path
        });
        world.ok(&["gc"]);
        assert!(world.ok(&["verify", &path]).contains("all there and whole"));
        drop(server);
    }
}

/// What a put keeps goes when its process does, however that ends.
#[test]
fn a_put_that_was_killed_keeps_nothing() {
    let world = World::new();
    let server = world.serve(&[]);
    let mut put = world.command();
    let mut put = put.args(["put", "-", "/ipfs"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it runs");
    let mut input = put.stdin.take().expect("piped");
    input.write_all(&unique(8 * MIB, 7)).expect("it reads");
    wait_for("nothing was put", || number(&gc(&world, &["--dry-run", "/ipfs"])[0], "blocks_fresh") >= 4);
    let report = &gc(&world, &["/ipfs"])[0];
    assert_eq!(number(report, "blocks_removed"), 0, "{report}");
    put.kill().expect("killed");
    put.wait().expect("a child");
    wait_for("it is still kept", || number(&gc(&world, &["/ipfs"])[0], "blocks_removed") >= 4);
    assert_eq!(server.terminate(), Some(0));
}

/// A small disk that is taken away in the end.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` where this user, or this machine, mounts none.
    fn mount(dir: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(dir).expect("made");
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then(|| Self(dir.into()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

/// A disk that puts had filled had no room to copy what lay before the garbage. Each collection took some of what was left,
/// and at last nothing could be removed.
#[test]
fn a_disk_that_is_full_gives_its_room_back() {
    let world = World::new();
    let Some(_disk) = SmallDisk::mount(&world.path("data"), "size=96m,mode=0700") else {
        eprintln!("SKIPPED: this user mounts no small disk");
        return;
    };
    let source = world.path("x");
    let put = |seed| {
        fs::write(&source, unique(6 * MIB, seed)).expect("written");
        world.run(&["put", source.to_str().expect("UTF-8"), "/ipfs"])
    };
    let mut paths = Vec::new();
    let full = loop {
        let output = put(paths.len() as u64);
        if !output.status.success() {
            break output;
        }
        paths.push(String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned());
    };
    let told = String::from_utf8_lossy(&full.stderr).into_owned();
    assert!(full.status.code() == Some(1) && told.contains("no space left"), "{told}");
    assert!(paths.len() > 8, "{} files fit", paths.len());
    // The first stay: what is garbage lies behind them.
    for path in paths.drain(4..) {
        world.ok(&["rm", &path]);
    }
    world.ok(&["gc", "/ipfs"]);
    for seed in 100..105 {
        let output = put(seed);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(world.ok(&["verify", "/ipfs"]).contains("all there and whole"));
}
