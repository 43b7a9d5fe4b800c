//! Commands, with and without a server: the same results either way.

use std::{fs, io::Write as _, process::Stdio};

use crate::{World, assert_same_tree};

/// The CID of the tree of [`World::tree`] does not depend on who hashes it.
fn put_and_read_back(world: &World) {
    let tree = world.tree();
    let tree = tree.to_str().expect("UTF-8");
    let hashed = world.ok(&["put", "-r", "--only-hash", tree]);
    let path = world.ok(&["put", "-r", tree]);
    assert_eq!(path, hashed);
    assert!(path.starts_with("/ipfs/bafy"), "{path}");

    assert_eq!(world.ok(&["ls", "/"]), "mem\nlocal\nipfs");
    assert_eq!(world.ok(&["ls", "/ipfs"]), "", "the root lists names, and there are none");
    assert_eq!(world.ok(&["ls", &path]), ".hidden\na.txt\nsub");
    assert!(world.ok(&["ls", "-l", &format!("{path}/sub")]).contains("link -> ../a.txt"));
    assert_eq!(world.ok(&["cat", &format!("{path}/a.txt")]), "hello world");
    assert!(world.ok(&["stat", &format!("{path}/a.txt")]).contains("size   11"));
    assert_eq!(world.ok(&["has", &format!("{path}/sub/long.bin")]), "yes");
    assert_eq!(world.run(&["has", &format!("{path}/nope")]).status.code(), Some(3));
    assert_eq!(world.ok(&["pin", "ls"]), path);

    let back = world.path("back");
    fs::remove_dir_all(&back).ok();
    let back_text = back.to_str().expect("UTF-8");
    world.ok(&["get", &path, back_text]);
    assert_same_tree(&world.path("tree"), &back);
    world.fails(&["get", &path, back_text], 1);
    world.ok(&["get", "-f", &path, back_text]);
    assert_same_tree(&world.path("tree"), &back);

    world.ok(&["verify", &path]);
    world.ok(&["verify", "/ipfs"]);
    world.fails(&["cat", &format!("{path}/nope")], 3);
    world.fails(&["cat", &format!("{path}/sub")], 1);
    world.ok(&["rm", &path]);
    assert_eq!(world.ok(&["pin", "ls"]), "");
    world.fails(&["rm", &path], 3);
    // Not collected yet: what is there can be pinned again.
    world.ok(&["pin", "add", &path]);
    assert_eq!(world.ok(&["pin", "ls", "/ipfs"]), path);
    world.ok(&["pin", "rm", &path]);
}

#[test]
fn without_a_server() {
    put_and_read_back(&World::new());
}

#[test]
fn through_a_server() {
    let world = World::new();
    let server = world.serve(&[]);
    put_and_read_back(&world);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn files_below_local() {
    let world = World::new();
    fs::write(world.path("x"), b"xyz").expect("written");
    let x = world.path("x");
    let x = x.to_str().expect("UTF-8");
    for served in [false, true] {
        let server = served.then(|| world.serve(&[]));
        assert_eq!(world.ok(&["put", x, "/local/dir/x.txt"]), "/local/dir/x.txt");
        assert_eq!(fs::read(world.path("data/local/dir/x.txt")).expect("there"), b"xyz");
        assert_eq!(world.ok(&["cat", "/local/dir/x.txt"]), "xyz");
        world.ok(&["rm", "/local/dir/x.txt"]);
        world.fails(&["cat", "/local/dir/x.txt"], 3);
        drop(server);
    }
}

#[test]
fn a_tree_below_local() {
    let world = World::new();
    let tree = world.tree();
    let tree_text = tree.to_str().expect("UTF-8");
    let cid = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    for served in [false, true] {
        fs::remove_dir_all(world.path("data/local")).ok();
        let server = served.then(|| world.serve(&[]));
        for _ in 0..2 {
            assert_eq!(world.ok(&["put", "-r", tree_text, "/local/to/tree"]), "/local/to/tree");
            assert_same_tree(&tree, &world.path("data/local/to/tree"));
        }
        let put = world.ok(&["--json", "put", "-r", tree_text, "/local"]);
        let put: serde_json::Value = serde_json::from_str(&put).expect("JSON");
        assert_eq!((&put["files"], &put["bytes"]), (&4.into(), &3_000_015.into()));
        assert_same_tree(&tree.join("sub"), &world.path("data/local/sub"));
        assert_same_tree(&tree, &world.path("data/local/to/tree"));
        // A tree below its own copy ends all the same.
        let local = world.path("data/local");
        world.ok(&["put", "-r", local.to_str().expect("UTF-8"), "/local/self"]);
        assert_same_tree(&tree, &world.path("data/local/self/to/tree"));

        let told = world.fails(&["put", "-r", tree_text, &format!("/local/{cid}")], 2);
        assert!(told.contains("addressed by location") && told.contains(cid), "{told}");
        world.fails(&["put", "-r", tree_text, "/local/to/tree/a.txt"], 1);
        world.fails(&["put", tree_text, "/local/to/tree"], 1);
        let below = format!("/ipfs/{cid}/below");
        assert!(world.fails(&["put", "-r", tree_text, &below], 2).contains("by no other name"));
        drop(server);
    }
}

/// It opened every store, and made the data directory, only to print what the command line says.
#[test]
fn the_configuration_is_printed_without_a_store() {
    let world = World::new();
    assert!(world.ok(&["config"]).contains("data = "));
    assert!(!world.path("data").exists(), "nothing was opened");
    let config = world.path("muxfs.toml");
    fs::write(&config, "profile = \"unixfs-v0-2015\"\n").expect("written");
    let server = world.serve(&["--config", config.to_str().expect("UTF-8")]);
    assert!(world.ok(&["config"]).contains("unixfs-v0-2015"), "a server is asked for its own");
    server.kill();
    assert!(world.ok(&["config"]).contains("unixfs-v1-2025"), "one that was killed is not");
}

#[test]
fn a_file_is_no_data_directory() {
    let world = World::new();
    fs::write(world.path("data"), b"").expect("written");
    for args in [&["ls"][..], &["serve", "--nfs", "off", "--ftp", "off"]] {
        let told = world.fails(args, 1);
        assert!(told.contains("a file is there") && told.contains("--data"), "{told}");
    }
}

/// What ends a `get` in the middle leaves nothing beside the destination, and an error names what the user named.
#[test]
fn a_get_that_is_cut_short_leaves_nothing() {
    let world = World::new();
    // Takes seconds to read and no space to have.
    let path = "/local/long";
    fs::create_dir_all(world.path("data/local")).expect("made");
    fs::File::create(world.path("data/local/long")).and_then(|file| file.set_len(2 << 30)).expect("made");
    let into = world.path("into");
    fs::create_dir(&into).expect("made");
    let names =
        || -> Vec<_> { fs::read_dir(&into).expect("there").map(|entry| entry.expect("there").path()).collect() };
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        let begun = std::time::Instant::now();
        loop {
            assert!(begun.elapsed() < crate::PATIENCE, "it is never cut short by {signal:?}");
            let mut get = world.command();
            let mut get = get.args(["get", path]).arg(into.join("x")).spawn().expect("the program runs");
            while names().is_empty() && get.try_wait().expect("a child").is_none() {
                std::thread::yield_now();
            }
            rustix::process::kill_process(rustix::process::Pid::from_child(&get), signal).expect("signalled");
            let status = get.wait().expect("a child");
            let is_whole = fs::remove_file(into.join("x")).is_ok();
            assert_eq!(names(), Vec::<std::path::PathBuf>::new(), "{signal:?} {status}");
            // One that was whole before the signal came proves nothing: again.
            if !is_whole {
                assert_eq!(status.code(), Some(code), "{signal:?}");
                break;
            }
        }
    }
    let nowhere = into.join("nowhere/x");
    let told = world.fails(&["get", path, nowhere.to_str().expect("UTF-8")], 3);
    assert!(told.contains("nowhere/x") && !told.contains(".muxfs-get"), "{told}");
}

/// A process that worked without a server ended before it had removed the file that it was putting, and what it had
/// removed was not durable: the next command listed the part.
#[test]
fn a_put_that_is_cut_short_leaves_nothing() {
    let world = World::new();
    let local = world.path("data/local");
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        for target in ["/ipfs/sub/x", "/local/sub/x"] {
            let mut put = world.command();
            let mut put = put.args(["put", "-", target]).stdin(Stdio::piped()).spawn().expect("the program runs");
            let mut input = put.stdin.take().expect("piped");
            // More than a pipe holds: it was begun.
            input.write_all(&vec![7; 8 << 20]).expect("it reads");
            rustix::process::kill_process(rustix::process::Pid::from_child(&put), signal).expect("signalled");
            assert_eq!(put.wait().expect("a child").code(), Some(code), "{signal:?}");
            assert_eq!(world.ok(&["ls", target.strip_suffix("/x").expect("below")]), "", "{signal:?}");
        }
    }
    assert_eq!(fs::read_dir(local.join("sub")).expect("there").count(), 0);
}

/// The command took its own mounts for the server's: a put below a host directory that only the server's configuration
/// has was sent as content, and refused.
#[test]
fn the_server_says_which_mounts_there_are() {
    let world = World::new();
    let config = world.path("muxfs.toml");
    let mounts = "profile = \"unixfs-v0-2015\"\n[[mount]]\nkind = \"local\"\nprefix = \"files\"\n[[mount]]\nkind = \"ipfs\"\nprefix = \"ipfs\"\n";
    fs::write(&config, mounts).expect("written");
    fs::write(world.path("x"), b"xyz").expect("written");
    let x = world.path("x");
    let x = x.to_str().expect("UTF-8");
    let _server = world.serve(&["--config", config.to_str().expect("UTF-8")]);
    assert_eq!(world.ok(&["put", x, "/files/x.txt"]), "/files/x.txt");
    assert_eq!(world.ok(&["cat", "/files/x.txt"]), "xyz");
    assert!(world.ok(&["put", "--profile", "unixfs-v0-2015", x]).starts_with("/ipfs/Qm"));
}

/// A misspelt or unmounted directory was made anew, and an empty one served in its place.
#[test]
fn a_host_directory_that_is_named_must_be_there() {
    let world = World::new();
    let dir = world.path("srv");
    let text = dir.to_str().expect("UTF-8");
    assert!(world.fails(&["--local", text, "ls", "/local"], 3).contains("make it first"));
    assert!(!dir.exists());
    fs::write(&dir, b"").expect("written");
    world.fails(&["--local", text, "ls", "/local"], 1);
    fs::remove_file(&dir).expect("removed");
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("x"), b"").expect("written");
    assert_eq!(world.ok(&["--local", text, "ls", "/local"]), "x");
}

#[test]
fn standard_input_goes_to_the_ram_of_a_server() {
    let world = World::new();
    let refused = world.fed(&["put", "-", "/mem"], b"hello world");
    assert_eq!(refused.status.code(), Some(5), "there is no server");
    let _server = world.serve(&[]);
    let put = world.fed(&["put", "-", "/mem"], b"hello world");
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let path = String::from_utf8(put.stdout).expect("UTF-8");
    assert_eq!(path, "/mem/bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e\n");
    assert_eq!(world.ok(&["cat", path.trim()]), "hello world");
}

#[test]
fn what_does_not_hash_to_the_cid_is_refused() {
    let world = World::new();
    fs::write(world.path("x"), b"hello world").expect("written");
    let x = world.path("x");
    let x = x.to_str().expect("UTF-8");
    let right = "/ipfs/bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    let wrong = "/ipfs/bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    assert!(world.fails(&["put", x, wrong], 2).contains("hashes to"));
    assert_eq!(world.ok(&["pin", "ls"]), "");
    assert_eq!(world.ok(&["put", x, right]), right);
}

#[test]
fn bad_paths_and_bad_configurations_name_what_is_wrong() {
    let world = World::new();
    for path in ["ipfs", "/nope/x", "/ipfs//x", "/local/../x", "/toolong/x", ""] {
        let code = if path == "/nope/x" { 3 } else { 2 };
        world.fails(&["cat", path], code);
    }
    let told = world.fails(&["cat", "/nope/x"], 3);
    assert!(told.contains("/ipfs") && told.contains("/local"), "it names the mounts there are: {told}");
    let config = world.path("muxfs.toml");
    fs::write(&config, "[nfs]\nlisen = \"off\"\n").expect("written");
    let told = world.fails(&["--config", config.to_str().expect("UTF-8"), "config"], 2);
    assert!(told.contains("lisen") && told.contains("line 2"), "{told}");
    world.fails(&["--config", "/does/not/exist", "config"], 3);
    fs::write(&config, "default = \"mem\"\n").expect("written");
    let printed = world.ok(&["--config", config.to_str().expect("UTF-8"), "config"]);
    fs::write(&config, &printed).expect("written");
    assert_eq!(world.ok(&["--config", config.to_str().expect("UTF-8"), "config"]), printed);
}

/// `muxfs … | head` is no reason for a panic, on standard output or on standard error.
#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let world = World::new();
    let gone = || std::process::Stdio::from(std::io::pipe().expect("a pipe").1);
    for args in [&["completions", "bash"][..], &["ls", "/"], &["config"]] {
        let mut command = world.command();
        let output = command.args(args).stdout(gone()).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let tree = world.tree();
    let mut command = world.command();
    let put = command.args(["put", "-r"]).arg(&tree).stderr(gone()).output().expect("the program runs");
    assert_eq!(put.status.code(), Some(0));
    assert!(put.stdout.starts_with(b"/ipfs/bafy"), "the work is done all the same");
    let mut command = world.command();
    let failed = command.args(["cat", "/nope/x"]).stderr(gone()).output().expect("the program runs");
    assert_eq!(failed.status.code(), Some(3));
}

#[test]
fn json_is_json() {
    let world = World::new();
    let tree = world.tree();
    let put = world.ok(&["--json", "put", "-r", tree.to_str().expect("UTF-8")]);
    let put: serde_json::Value = serde_json::from_str(&put).expect("JSON");
    assert_eq!(put["files"], 4);
    let path = put["path"].as_str().expect("a path");
    let removed = world.ok(&["--json", "pin", "rm", path]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&removed).expect("JSON")["removed"], path);
    let file = world.path("tree/a.txt");
    let put = world.ok(&["--json", "put", file.to_str().expect("UTF-8")]);
    let put: serde_json::Value = serde_json::from_str(&put).expect("JSON");
    assert_eq!((&put["files"], &put["bytes"]), (&1.into(), &11.into()), "one file is counted too");
    let put = world.fed(&["--json", "put", "-", "/ipfs"], b"hello world");
    let put: serde_json::Value = serde_json::from_slice(&put.stdout).expect("JSON");
    assert_eq!((&put["files"], &put["bytes"]), (&1.into(), &11.into()), "and so is standard input");
    let listed = world.ok(&["--json", "ls", path]);
    let names: Vec<String> = listed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["name"].to_string())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

/// A name or a symlink's target from elsewhere does not drive the terminal of whoever lists it.
#[test]
fn listings_show_no_control_characters() {
    let world = World::new();
    fs::create_dir(world.path("odd")).expect("made");
    std::os::unix::fs::symlink("to\x1b[2J", world.path("odd/from\x1b[2J")).expect("linked");
    let path = world.ok(&["put", "-r", world.path("odd").to_str().expect("UTF-8")]);
    assert!(world.ok(&["ls", "-l", &path]).ends_with("from?[2J -> to?[2J"));
    let link = std::ffi::OsString::from(format!("{path}/from\x1b[2J"));
    let stat = world.command().arg("stat").arg(link).output().expect("the program runs");
    assert!(String::from_utf8_lossy(&stat.stdout).contains("target to?[2J"));
}

/// A flipped bit on disk is an error with its own exit code, by `cat` and by `verify`, never other bytes.
#[test]
fn a_rotten_block_is_told() {
    let world = World::new();
    let body: Vec<u8> = (0..100_000u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
    fs::write(world.path("x"), &body).expect("written");
    let path = world.ok(&["put", world.path("x").to_str().expect("UTF-8")]);
    let mut flipped = 0;
    for entry in fs::read_dir(world.path("data/mounts/ipfs/blocks")).expect("there") {
        let file = entry.expect("an entry").path();
        let mut bytes = fs::read(&file).expect("read");
        if let Some(at) = bytes.windows(64).position(|window| window == &body[1000..1064]) {
            bytes[at] ^= 1;
            fs::write(&file, bytes).expect("written");
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    world.fails(&["cat", &path], 4);
    world.fails(&["verify", &path], 4);
}
