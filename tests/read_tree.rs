//! Goal: the specification of commits and attributes says all that a reader needs. Method: `read_tree.py`, which was
//! written from it and shares no code with this program, lists the tree of spec/vectors/tree.json, from a directory of
//! blocks and from the file itself; its list is the one that the program made. What is damaged or absent it refuses.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use multibase::Base;
use muxfs::{BlockKey, Cid, testing::skip};
use serde_json::Value;

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/spec/vectors/tree.json");
const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_tree.py");

fn read(blocks: &Path, commit: &str) -> Output {
    Command::new("python3").arg(READER).arg(blocks).arg(commit).output().expect("python3 runs")
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        skip("no python3: the independent reader of trees was not run");
    }
    found
}

fn hex(block: &Value) -> Vec<u8> {
    Base::Base16Lower.decode(block.as_str().expect("text")).expect("base16")
}

fn listed(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::str::from_utf8(&output.stdout).expect("ASCII");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn an_independent_reader_lists_the_same_tree() {
    if !has_python() {
        return;
    }
    let vectors: Value = serde_json::from_slice(&fs::read(VECTORS).expect("the vectors")).expect("JSON");
    let commit = vectors["commit"].as_str().expect("a CID");
    let expected = vectors["listing"].as_array().expect("a list");
    assert!(expected.len() > 70, "one of everything");
    assert_eq!(&listed(&read(Path::new(VECTORS), commit)), expected);

    let dir = tempfile::tempdir().expect("a directory");
    let blocks = vectors["blocks"].as_object().expect("blocks");
    for (key, block) in blocks {
        fs::write(dir.path().join(key), hex(block)).expect("written");
    }
    assert_eq!(&listed(&read(dir.path(), commit)), expected);

    // Every single block matters: without it, or with another last byte, nothing is listed.
    let top = BlockKey::from(&commit.parse::<Cid>().expect("a CID"));
    let top = Base::Base16Lower.encode(top.as_bytes());
    let others = blocks.keys().filter(|key| **key != top).step_by(6);
    for key in others.chain([&top]) {
        let path = dir.path().join(key);
        let block = fs::read(&path).expect("a block");
        let mut damaged = block.clone();
        match damaged.last_mut() {
            Some(last) => *last ^= 1,
            None => damaged.push(0),
        }
        fs::write(&path, damaged).expect("written");
        refused(&read(dir.path(), commit), "is damaged");
        fs::remove_file(&path).expect("removed");
        refused(&read(dir.path(), commit), "is absent");
        fs::write(&path, block).expect("written");
    }
}

fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty() && said.contains(why), "{said}");
}
