//! `verify --all`: what is wrong is named, wherever it is; what was done is not done again.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use crate::{PATIENCE, World};

/// Bytes that no two blocks share.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..len).map(step).collect()
}

/// Flips a bit in the one place of the store where these bytes are, or so far before it.
fn rot(world: &World, bytes: &[u8], before: usize) {
    let mut flipped = 0;
    for file in files(&world.path("data/mounts/ipfs/blocks")) {
        let mut there = fs::read(&file).expect("read");
        if let Some(at) = there.windows(bytes.len()).position(|window| window == bytes) {
            there[at - before] ^= 1;
            fs::write(&file, there).expect("written");
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
}

/// Every file below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A tree, pinned and in a commit, and a file that nothing keeps.
pub(crate) fn fill(world: &World) -> String {
    let tree = world.tree();
    let tree = tree.to_str().expect("UTF-8");
    world.ok(&["put", "-r", tree]);
    world.ok(&["put", "-r", tree, "/ipfs/tree"]);
    fs::write(world.path("lone"), noise(1, 50_000)).expect("written");
    let lone = world.ok(&["put", world.path("lone").to_str().expect("UTF-8")]);
    world.ok(&["rm", &lone]);
    world.ok(&["commit"]);
    lone
}

#[test]
fn a_whole_store_is_whole_with_a_server_and_without() {
    for served in [true, false] {
        let world = World::new();
        let server = served.then(|| world.serve(&[]));
        fill(&world);
        let told = world.ok(&["verify", "--all"]);
        assert!(told.contains("/ipfs: ") && told.contains("all there and whole"), "{told}");
        assert!(told.contains("/mem: "), "{told}");
        let lines = world.ok(&["--json", "verify", "--all", "/ipfs"]);
        let done: serde_json::Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
        assert_eq!((&done["finding"], &done["bad"]), (&"done".into(), &0.into()), "{lines}");
        assert!(done["blocks"].as_u64() >= Some(8) && done["roots"].as_u64() >= Some(3), "{lines}");
        world.fails(&["verify"], 2);
        world.fails(&["verify", "--restart", "/ipfs"], 2);
        world.fails(&["verify", "--all", "/local"], 2);
        world.fails(&["verify", "--all", "--max-rate", "0"], 2);
        drop(server);
    }
}

/// What nothing reaches is read too; what a root needs is named with the root.
#[test]
fn what_is_wrong_is_named_and_told_again() {
    for served in [true, false] {
        let world = World::new();
        let lone = fill(&world);
        rot(&world, &noise(1, 50_000)[1000..1064], 0);
        let server = served.then(|| world.serve(&[]));
        let output = world.run(&["verify", "--all", "/ipfs"]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(4), "{told}");
        let cid = lone.strip_prefix("/ipfs/").expect("a CID");
        assert_eq!(
            told.lines().filter(|line| line.starts_with("bad /ipfs") && line.contains(cid)).count(),
            1,
            "{told}"
        );
        let output = world.run(&["--json", "verify", "--all", "/ipfs"]);
        assert_eq!(output.status.code(), Some(4));
        let bad: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .filter(|line: &serde_json::Value| line["finding"] == "bad")
            .collect();
        assert!(bad.len() == 1 && bad[0]["path"] == cid && bad[0]["needed_by"].is_null(), "{bad:?}");
        drop(server);
    }
}

/// A record whose key is destroyed is no block that can be listed, and is missed all the same.
#[test]
fn a_record_without_a_key_is_missed() {
    let world = World::new();
    fill(&world);
    rot(&world, &noise(1, 50_000)[..64], 10);
    let output = world.run(&["verify", "--all", "/ipfs"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains("the records of 1 blocks are destroyed"), "{told}");
}

/// Ended at any moment, it goes on where it was; what it found before is told again.
#[test]
fn it_goes_on_after_kill_9() {
    let world = World::new();
    let source = world.path("x");
    fs::write(&source, noise(1, 50_000)).expect("written");
    world.ok(&["put", source.to_str().expect("UTF-8")]);
    fs::write(&source, noise(2, 16 << 20)).expect("written");
    world.ok(&["put", source.to_str().expect("UTF-8")]);
    rot(&world, &noise(1, 50_000)[1000..1064], 0);
    for served in [true, false] {
        let server = served.then(|| world.serve(&[]));
        let mut command = world.command();
        let mut child = command
            .args(["verify", "--all", "--restart", "--max-rate", "2MiB", "/ipfs"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let begun = Instant::now();
        let blocks = || {
            let text = fs::read_to_string(world.path("data/verify/ipfs")).ok()?;
            let run: serde_json::Value = serde_json::from_str(text.split_once('\n')?.1).ok()?;
            (run["ended"] == 0).then(|| run["blocks"].as_u64()).flatten().filter(|blocks| *blocks >= 2)
        };
        let done = loop {
            if let Some(blocks) = blocks() {
                break blocks;
            }
            assert!(begun.elapsed() < PATIENCE, "nothing is written down");
            std::thread::yield_now();
        };
        if let Some(server) = server {
            server.kill();
        }
        child.kill().expect("killed");
        child.wait().expect("a child");

        let output = world.run(&["--json", "verify", "--all", "/ipfs"]);
        assert_eq!(output.status.code(), Some(4));
        let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let last = lines.last().expect("a line");
        assert_eq!((&last["finding"], lines[0]["finding"].as_str()), (&"done".into(), Some("bad")), "{lines:?}");
        let fresh = world.run(&["--json", "verify", "--all", "--restart", "/ipfs"]);
        let fresh = String::from_utf8_lossy(&fresh.stdout).into_owned();
        let fresh: serde_json::Value = serde_json::from_str(fresh.lines().last().expect("a line")).expect("JSON");
        assert!(last["blocks"].as_u64() > Some(done), "{last}");
        assert_eq!(last["blocks"], fresh["blocks"], "each block once");
        assert_eq!(last["bytes"], fresh["bytes"]);
        assert!(last["bad"].as_u64() >= Some(1));
    }
}

/// A server went on for a command that was gone, for as long as it had nothing to tell: everybody else was refused.
#[test]
fn it_ends_with_its_command() {
    let world = World::new();
    let _server = world.serve(&[]);
    fill(&world);
    let mut command = world.command();
    // A byte a second: it waits for hours.
    let command = command.args(["verify", "--all", "--max-rate", "1", "/ipfs"]).stdout(Stdio::null());
    let mut child = command.spawn().expect("the program runs");
    let begun = Instant::now();
    while !world.path("data/verify/ipfs").exists() {
        assert!(begun.elapsed() < PATIENCE, "it does not begin");
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("a child");
    loop {
        let output = world.run(&["verify", "--all", "/ipfs"]);
        match output.status.code() {
            Some(0) => break,
            Some(5) => assert!(begun.elapsed() < PATIENCE, "it goes on for nobody"),
            code => panic!("{code:?}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

/// What is done to a file of so many bytes.
type Harm = fn(&Path, u64);
/// A flip in the middle and near the beginning, a cut, a loss.
pub(crate) const HARMS: [Harm; 4] = [
    |file, len| flip(file, len / 2),
    |file, _| flip(file, 5),
    |file, len| fs::OpenOptions::new().write(true).open(file).expect("open").set_len(len / 2).expect("cut"),
    |file, _| fs::remove_file(file).expect("removed"),
];

/// A data directory that is damaged in any file, by a flip, a cut or a loss: something is said, and nothing panics.
#[test]
fn no_damage_makes_it_panic() {
    let world = World::new();
    fill(&world);
    let whole = world.path("whole");
    let data = world.path("data");
    copy(&data, &whole);
    for file in files(&whole.join("mounts")) {
        let name = file.strip_prefix(&whole).expect("below").to_owned();
        let len = fs::metadata(&file).expect("there").len();
        if len == 0 {
            continue;
        }
        for (number, harm) in HARMS.into_iter().enumerate() {
            fs::remove_dir_all(&data).expect("removed");
            copy(&whole, &data);
            harm(&data.join(&name), len);
            let output = world.run(&["verify", "--all"]);
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(!told.contains("panicked"), "{} {number}: {told}", name.display());
            assert!(output.status.code().is_some_and(|code| code <= 6), "{} {number}: {told}", name.display());
        }
    }
}

pub(crate) fn flip(file: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(file).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("written");
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else if path.is_file() {
            fs::copy(&path, &to).expect("copied");
        }
    }
}
