//! Goal: flists that zflist and rfs made read back as what they were made of.
//! Method: everything they say, and every byte of their files, is held against what an independent reader found in them
//! (`tests/flist_vectors.py`), which itself was held against the tree they were made of.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use muxfs::FileKind;
use serde_json::{Map, Value, json};

use super::made::{World, content};
use crate::{Flist, Format, Inode};

fn vectors() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/flist")
}

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "dir",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char_device",
        FileKind::BlockDevice => "block_device",
    }
}

/// A node as the independent reader tells of it.
fn told(flist: &Flist, inode: &Inode) -> Value {
    let mtime = inode.mtime.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let mut value = json!({
        "kind": kind(inode.kind), "mode": inode.mode, "uid": inode.uid, "gid": inode.gid, "size": inode.size,
        "mtime": mtime,
    });
    if inode.kind == FileKind::Symlink {
        value["target"] = String::from_utf8(inode.target.to_vec()).expect("UTF-8").into();
    }
    if inode.kind == FileKind::File {
        let bytes = content(flist, inode, &vectors().join("chunks")).expect("good");
        value["blake2b"] = crate::chunk::hex(&crate::chunk::blake2b_128(&bytes)).into();
    }
    value
}

fn walk(flist: &Flist, path: &str, inode: &Inode, found: &mut Map<String, Value>) {
    found.insert(if path.is_empty() { "/".into() } else { path.into() }, told(flist, inode));
    if inode.kind == FileKind::Dir {
        for entry in flist.dir(inode).expect("a directory").entries {
            let again = flist.inode(entry.inode.id).expect("reads").expect("it is there");
            assert_eq!(format!("{again:?}"), format!("{:?}", entry.inode), "{path}/{}", entry.name);
            assert_eq!(flist.parent(entry.inode.id).expect("a parent"), inode.id, "{path}/{}", entry.name);
            walk(flist, &format!("{path}/{}", entry.name), &entry.inode, found);
        }
    }
}

#[test]
fn flists_that_others_made_read_back() {
    let expected = std::fs::read(vectors().join("expected.json")).expect("read");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    let world = World::new();
    for (name, format) in [("small.flist", Format::Flist), ("small.fl", Format::Fl)] {
        let flist = Flist::open(&vectors().join(name), &world.path("scratch")).expect("opens");
        let expected = &expected[name];
        assert_eq!(flist.format(), format);
        assert_eq!(json!(flist.format().to_string()), expected["format"]);
        assert_eq!(json!(flist.metadata().expect("metadata")), expected["metadata"]);
        let mut found = Map::new();
        walk(&flist, "", &flist.root().expect("a root"), &mut found);
        assert_eq!(Value::Object(found), expected["nodes"], "{name}");
    }
    assert_eq!(world.path("scratch").read_dir().expect("listed").count(), 0, "nothing is left of what was unpacked");
}

#[test]
fn they_say_where_their_chunks_are() {
    let world = World::new();
    let routes = |name: &str| {
        let flist = Flist::open(&vectors().join(name), &world.path("scratch")).expect("opens");
        flist
            .routes()
            .expect("routes")
            .into_iter()
            .map(|route| (route.first, route.last, route.url))
            .collect::<Vec<_>>()
    };
    assert_eq!(routes("small.flist"), [(0, 255, "zdb://127.0.0.1:19905/flist2".to_owned())]);
    assert_eq!(routes("small.fl"), [(0, 255, "dir://store_small".to_owned())]);
}

/// What rfs published, of which the chunks are elsewhere.
#[test]
fn published_flists_are_read() {
    let Some(shared) = std::env::var_os("MUXFS_SHARED") else {
        muxfs::testing::skip("MUXFS_SHARED does not say where the published flists are");
        return;
    };
    let world = World::new();
    for (name, count) in [("alpine-a.fl", 524), ("hello-world.fl", 15)] {
        let path = PathBuf::from(&shared).join("data/fixtures/rfs").join(name);
        let flist = Flist::open(&path, &world.path("scratch")).expect("opens");
        let (mut dirs, mut kinds) = (vec![flist.root().expect("a root")], BTreeMap::from([("dir", 1)]));
        while let Some(dir) = dirs.pop() {
            for entry in flist.dir(&dir).expect("a directory").entries {
                *kinds.entry(kind(entry.inode.kind)).or_insert(0) += 1;
                if entry.inode.kind == FileKind::File {
                    let (len, chunks) = flist.chunks(entry.inode.id, 0, 1000).expect("chunks");
                    assert_eq!(chunks.len() as u64, entry.inode.size.div_ceil(len), "{}", entry.name);
                }
                if entry.inode.kind == FileKind::Dir {
                    dirs.push(entry.inode);
                }
            }
        }
        assert_eq!(kinds.values().sum::<usize>(), count, "{kinds:?}");
    }
}
