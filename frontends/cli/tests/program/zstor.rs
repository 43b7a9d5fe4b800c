//! `/zstor` as the program has it without a configuration: encrypted, in shards on six directories.
//!
//! That it is a working tree as others are is proved where those are (`trees`, `rounds`). Here: its key, what can be read
//! without it, and what the loss of nodes does to a server and to the next.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    time::Instant,
};

use multibase::Base;

use crate::{PATIENCE, World, assert_same_tree};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Everything below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut dirs, mut files) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let kind = fs::symlink_metadata(&path).expect("there").file_type();
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn the_first_start_makes_a_key_and_says_so_once() {
    let world = World::by_default();
    world.ok(&["doctor"]);
    assert!(!world.path("data").exists(), "who only looks makes no key");
    let first = world.run(&["--quiet", "ls", "/"]);
    assert_eq!(String::from_utf8_lossy(&first.stdout), "mem\nlocal\nipfs\nzstor\n");
    let key = world.path("data/zstor/key");
    assert!(stderr(&first).contains("Keep a copy") && stderr(&first).contains(key.to_str().expect("UTF-8")));
    assert_eq!(fs::metadata(&key).expect("there").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&key).expect("read");
    let second = world.run(&["ls", "/"]);
    assert!(second.status.success() && stderr(&second).is_empty(), "{second:?}");
    assert_eq!(fs::read_to_string(&key).expect("read"), text);
    for hex in text.split_whitespace().filter(|word| word.len() == 8) {
        assert!(!stderr(&first).contains(hex), "the key is not told");
    }
    assert_eq!(fs::read_dir(world.path("data/zstor/nodes")).expect("listed").count(), 6);
}

/// What is named nowhere goes to `/zstor`, and every command that works on content works there.
#[test]
fn content_is_put_verified_and_collected() {
    for served in [true, false] {
        let world = World::by_default();
        let server = served.then(|| world.serve(&[]));
        let tree = world.tree();
        let text = tree.to_str().expect("UTF-8");
        let path = world.ok(&["put", "-r", text]);
        assert!(path.starts_with("/zstor/bafy"), "{path}");
        assert_eq!(
            world.ok(&["put", "-r", "--only-hash", text]),
            path.replacen("zstor", "ipfs", 1),
            "the CID is that of IPFS"
        );
        let back = world.path("back");
        world.ok(&["get", &path, back.to_str().expect("UTF-8")]);
        assert_same_tree(&tree, &back);
        world.ok(&["verify", &path]);
        // Each block is looked at once, though six nodes have a part of it.
        let counts = |line: &str| -> serde_json::Value { serde_json::from_str(line).expect("JSON") };
        let verified = world.ok(&["--json", "verify", "--all", "/zstor"]);
        let verified = counts(verified.lines().last().expect("an end"));
        world.ok(&["put", "-r", text, "/zstor/copy"]);
        world.ok(&["commit"]);
        world.ok(&["rm", &path]);
        fs::write(world.path("x"), "garbage").expect("written");
        let gone = world.ok(&["put", world.path("x").to_str().expect("UTF-8")]);
        world.ok(&["rm", &gone]);
        let collected = world.ok(&["--json", "gc", "/zstor"]);
        let collected = counts(collected.lines().last().expect("an end"));
        assert_eq!(collected["blocks_removed"], 1, "{collected}");
        assert!(collected["blocks_kept"].as_u64() >= verified["blocks"].as_u64(), "{collected} {verified}");
        world.fails(&["cat", &gone], 3);
        world.ok(&["verify", "--all"]);
        assert!(!world.path("data/verify/zstor").exists(), "how far it is would be told in clear");
        let found = world.run(&["--json", "doctor"]);
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(found.contains("6 of 6 are there"), "{found}");
        for check in ["nodes", "pins", "heads", "journal", "commits", "tree", "secrets"] {
            assert!(!found.contains(&format!(r#""level":"error","check":"{check}""#)), "{found}");
        }
        if let Some(server) = server {
            assert_eq!(server.terminate(), Some(0));
        }
        assert_eq!(world.ok(&["cat", "/zstor/copy/a.txt"]), "hello world");
    }
}

/// How bytes may be written: as they are, and in the alphabets of names and tools, from each place in a digit.
fn spellings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![bytes.to_vec()];
    for base in [Base::Base16Lower, Base::Base16Upper] {
        all.push(base.encode(bytes).into_bytes());
    }
    for (base, bits) in [(Base::Base64, 6), (Base::Base64Url, 6), (Base::Base32Lower, 5)] {
        for before in 0..5 {
            let text = base.encode([&vec![0; before], bytes].concat());
            // Digits that say something of other bytes too are not compared.
            let (from, to) = ((before * 8).div_ceil(bits), (before + bytes.len()) * 8 / bits);
            all.push(text.as_bytes()[from..to].to_vec());
        }
    }
    all
}

/// Bytes as text that is searched quickly: each is a character.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[test]
fn no_name_no_byte_no_cid_and_no_length_is_in_clear() {
    const LEN: usize = 13_579;
    let world = World::by_default();
    let server = world.serve(&[]);
    let body: Vec<u8> = b"canary body, ".iter().copied().cycle().take(LEN).collect();
    let source = world.path("source");
    fs::write(&source, &body).expect("written");
    let source = source.to_str().expect("UTF-8");
    let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
    ftp.login("anyone", "x").expect("logged in");
    ftp.transfer_type(suppaftp::types::FileType::Binary).expect("binary");
    ftp.mkdir("/zstor/canarydir").expect("made");
    ftp.put_file("/zstor/canarydir/canaryname", &mut &*body).expect("uploaded");
    let pinned = world.ok(&["put", source, "/zstor"]);
    world.ok(&["put", source, "/zstor/canaryfile"]);
    let commit = world.ok(&["commit", "-m", "canarynote"]);
    world.ok(&["snapshot", "canarysnapshot"]);
    world.ok(&["verify", "--all"]);
    world.ok(&["zstor", "scrub"]);
    world.ok(&["rm", "/zstor/canaryfile"]);
    world.ok(&["gc"]);
    // What the search must find.
    fs::write(world.path("plain"), "plainbody").expect("written");
    world.ok(&["put", world.path("plain").to_str().expect("UTF-8"), "/ipfs/plainname"]);
    ftp.put_file("/zstor/canarylast", &mut &*body).expect("uploaded");
    server.kill();

    let cid = pinned.rsplit('/').next().expect("a CID").to_owned();
    let mut secrets: Vec<Vec<u8>> = ["canary", "canary body, canary"].map(|text| text.as_bytes().to_vec()).into();
    for cid in [&cid, &commit] {
        let (_, bytes) = multibase::decode(cid).expect("base32");
        secrets.push(bytes[4..].to_vec());
        secrets.push(cid.as_bytes().to_vec());
    }
    let mut needles: Vec<String> =
        secrets.iter().flat_map(|secret| spellings(secret)).map(|bytes| text(&bytes)).collect();
    needles.extend([LEN.to_le_bytes(), LEN.to_be_bytes()].map(|bytes| text(&bytes)));
    needles.push(LEN.to_string());
    let (mut plain_count, all) = (0, files(&world.path("data")));
    assert!(all.len() > 20, "nodes, journals, pins, heads: {all:?}");
    for path in all {
        let bytes = fs::read(&path).expect("read");
        assert_ne!(bytes.len(), LEN, "{}", path.display());
        let held = format!("{}\n{}", path.display(), text(&bytes));
        for needle in &needles {
            assert!(!held.contains(needle), "{} has {needle:?}", path.display());
        }
        plain_count += usize::from(held.contains("plainname") || held.contains("plainbody"));
    }
    assert!(plain_count > 0, "the search finds what is in clear");
    let server = world.serve(&[]);
    assert!(world.run(&["cat", "/zstor/canarylast"]).stdout == body);
    drop(server);
}

#[test]
fn two_nodes_may_be_removed_and_three_are_named() {
    let world = World::by_default();
    let node = |n: usize| world.path(&format!("data/zstor/nodes/{n}"));
    let tree = world.tree();
    let put = |to: &str| assert_eq!(world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), to]), to);
    let whole = |path: &str| {
        let back = world.path("back");
        fs::remove_dir_all(&back).ok();
        world.ok(&["get", path, back.to_str().expect("UTF-8")]);
        assert_same_tree(&tree, &back);
    };
    let server = world.serve(&[]);
    put("/zstor/before");
    world.ok(&["commit"]);
    fs::remove_dir_all(node(1)).expect("removed");
    put("/zstor/one-lost");
    world.ok(&["commit"]);
    // What was written and not synced when the second goes would be missed by every sync until it is back.
    assert_eq!(server.terminate(), Some(0));
    fs::remove_dir_all(node(4)).expect("removed");
    let server = world.serve(&[]);
    // Whole chunks and small files: the journal on this disk has what nodes cannot take.
    put("/zstor/two-lost");
    whole("/zstor/two-lost");
    let told = world.fails(&["commit"], 5);
    assert!(told.contains('4') && told.contains('1'), "{told}");
    let found = world.run(&["doctor"]);
    assert_eq!(found.status.code(), Some(1));
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.contains("4 of 6 are there") && found.contains(node(4).to_str().expect("UTF-8")), "{found}");
    server.kill();

    let server = world.serve(&[]);
    for path in ["/zstor/before", "/zstor/one-lost", "/zstor/two-lost"] {
        whole(path);
    }
    assert!(!node(1).exists(), "a lost node is not made anew");
    // One of them comes back, empty, since somebody said so: what waited is committed.
    server.kill();
    fs::create_dir_all(node(4)).expect("made");
    fs::write(node(4).join("muxfs-node"), "").expect("written");
    let server = world.serve(&[]);
    world.ok(&["commit"]);
    whole("/zstor/two-lost");
    assert_eq!(server.terminate(), Some(0));

    // With more lost than may be, the others are served; it is there again as soon as they are.
    let aside = |n: usize| world.path(&format!("aside {n}"));
    for n in [0, 3] {
        fs::rename(node(n), aside(n)).expect("moved");
    }
    let server = world.serve(&[]);
    put("/ipfs/others");
    for args in [["ls", "/zstor"], ["zstor", "status"], ["zstor", "scrub"]] {
        let told = world.fails(&args, 5);
        for n in [0, 1, 3] {
            assert!(told.contains(node(n).to_str().expect("UTF-8")), "{args:?}: {told}");
        }
        assert!(!told.contains(node(2).to_str().expect("UTF-8")), "{args:?}: {told}");
    }
    for n in [0, 3] {
        fs::rename(aside(n), node(n)).expect("moved back");
    }
    let begun = Instant::now();
    while !world.run(&["ls", "/zstor"]).status.success() {
        assert!(begun.elapsed() < PATIENCE, "it does not come");
        std::thread::yield_now();
    }
    whole("/zstor/two-lost");
    put("/zstor/after");
    world.ok(&["commit"]);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_key_that_is_missing_wrong_or_open_to_others_stops_the_start() {
    let world = World::by_default();
    fs::write(world.path("x"), "secret").expect("written");
    world.ok(&["put", world.path("x").to_str().expect("UTF-8"), "/zstor/x"]);
    let key = world.path("data/zstor/key");
    let set = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("set");
    set(0o644);
    let told = world.fails(&["ls", "/zstor"], 6);
    assert!(told.contains(&format!("chmod 600 {}", key.display())), "{told}");
    set(0o600);
    assert_eq!(world.ok(&["cat", "/zstor/x"]), "secret");

    // Nothing is told as lost that is not, and no key is made over it.
    let kept = world.path("kept-elsewhere");
    fs::rename(&key, &kept).expect("moved");
    let told = world.fails(&["serve", "--nfs", "off", "--ftp", "off"], 6);
    for part in ["is missing", "is lost", "MUXFS_ZSTOR_KEY", "begin anew", "zstor/nodes/5"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!key.exists());
    let found = world.run(&["doctor"]);
    assert!(String::from_utf8_lossy(&found.stdout).contains("is missing") && found.status.code() == Some(1));

    // Another store's.
    let other = World::by_default();
    other.ok(&["ls", "/"]);
    fs::copy(other.path("data/zstor/key"), &key).expect("copied");
    let told = world.fails(&["cat", "/zstor/x"], 6);
    assert!(told.contains("another key") && !told.contains("corrupt"), "{told}");

    // The environment has the right one, and wins.
    let line = fs::read_to_string(&kept).expect("read").lines().last().expect("a line").to_owned();
    let with =
        |text: &str| world.command().env("MUXFS_ZSTOR_KEY", text).args(["cat", "/zstor/x"]).output().expect("ran");
    assert_eq!(with(&line).stdout, b"secret");
    let mistyped = line.replace("muxfs-key 1 ", "muxfs-key 1 0000");
    let refused = with(&mistyped);
    assert_eq!(refused.status.code(), Some(6));
    assert!(stderr(&refused).contains("MUXFS_ZSTOR_KEY") && !stderr(&refused).contains(&line[12..20]), "{refused:?}");
}

/// Key and nodes are all that it takes; what was committed last is there, with its history.
#[test]
fn a_machine_that_is_lost_is_replaced_by_another() {
    let world = World::by_default();
    let tree = world.tree();
    fs::write(world.path("x"), "pinned").expect("written");
    let pinned = world.ok(&["put", world.path("x").to_str().expect("UTF-8")]);
    fs::write(world.path("x"), "garbage").expect("written");
    let garbage = world.ok(&["put", world.path("x").to_str().expect("UTF-8")]);
    world.ok(&["rm", &garbage]);
    for round in 0..4 {
        let server = world.serve(&[]);
        for before in 0..round {
            let back = world.path(&format!("back-{round}-{before}"));
            world.ok(&["get", &format!("/zstor/{before}"), back.to_str().expect("UTF-8")]);
            assert_same_tree(&tree, &back);
        }
        world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), &format!("/zstor/{round}")]);
        world.ok(&["commit", "-m", &format!("round {round}")]);
        let log = world.ok(&["log", "/zstor"]);
        assert!((0..=round).all(|n| log.contains(&format!("round {n}"))), "{log}");
        if round == 2 {
            fs::remove_dir_all(world.path("data/zstor/nodes/1")).expect("removed");
        }
        server.kill();
        world.lose_machine();
    }
    // What was pinned there is not known here, and not collected before somebody says so.
    let server = world.serve(&[]);
    assert_eq!(world.ok(&["cat", &pinned]), "pinned");
    let told = world.fails(&["gc", "/zstor"], 6);
    assert!(told.contains("pins-lost"), "{told}");
    assert_eq!(world.ok(&["cat", &pinned]), "pinned");
    world.ok(&["pin", "add", &pinned]);
    fs::remove_file(world.path("data/mounts/zstor/pins-lost")).expect("there");
    world.ok(&["gc", "/zstor"]);
    drop(server);
    world.ok(&["verify", "--all", "/zstor"]);
    assert_eq!(world.ok(&["cat", &pinned]), "pinned");
    assert_eq!(world.ok(&["cat", "/zstor/3/a.txt"]), "hello world");
}

#[test]
fn the_example_of_a_configuration_works() {
    let world = World::by_default();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/configs/zstor-local.toml");
    let text = fs::read_to_string(example).expect("read");
    let here = |path: &str| world.path("there").join(path).display().to_string();
    let text = text.replace("\"/disks/", &format!("\"{}/", here("disks"))).replace("/etc/muxfs", &here("etc"));
    let config = world.path("zstor-local.toml");
    fs::write(&config, text).expect("written");
    let args = ["--config", config.to_str().expect("UTF-8")];
    let run = |more: &[&'static str]| [&args[..], more].concat();
    let told = world.fails(&run(&["ls", "/"]), 3);
    assert!(told.contains("etc"), "the place of the key is not made: {told}");
    fs::create_dir_all(here("etc")).expect("made");
    let told = world.fails(&run(&["ls", "/"]), 3);
    assert!(told.contains("disks/1/muxfs"), "nor those of nodes: {told}");
    for n in 1..7 {
        fs::create_dir_all(here(&format!("disks/{n}/muxfs"))).expect("made");
    }
    let server = world.serve(&args);
    fs::write(world.path("x"), "text").expect("written");
    world.ok(&["put", world.path("x").to_str().expect("UTF-8"), "/zstor/x"]);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(world.ok(&run(&["cat", "/zstor/x"])), "text");
    assert!(files(Path::new(&here("disks"))).len() >= 18 && !world.path("data/zstor").exists());
    // Printed, it is the same configuration.
    let printed = world.ok(&run(&["config"]));
    fs::write(&config, &printed).expect("written");
    assert_eq!(world.ok(&run(&["config"])), printed);
    assert_eq!(world.ok(&run(&["cat", "/zstor/x"])), "text");
}
