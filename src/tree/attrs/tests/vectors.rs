//! Goal: the bytes that are written today are read, and written, for ever. Method: a tree with one of everything is built
//! here and compared, block by block, with spec/vectors/tree.json; an independent reader lists the same file.

use std::fmt::Write;

use futures_util::{StreamExt, TryStreamExt, stream};
use multibase::Base;
use serde_json::{Value, json};

use super::*;
use crate::{
    BlockKey, BlockStore,
    dag::{Entry, Params, Profile, UnixfsMeta},
    tree::commit_node::Commit,
};

const VECTORS: &str = include_str!("../../../../spec/vectors/tree.json");

/// Names as the vectors write them: what is not plain ASCII, and '%', as %XX.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b'%' | ..=b' ' | 0x7f.. => write!(text, "%{byte:02X}").expect("a String takes all"),
            _ => text.push(char::from(*byte)),
        }
        text
    })
}

/// A tree under construction: inodes, and the bytes of files.
struct Sample {
    dag: Dag,
    model: Model,
    bytes: BTreeMap<Ino, Vec<u8>>,
}

impl Sample {
    /// Adds a node with its first name.
    async fn add(&mut self, dir: u64, text: &str, kind: FileKind, bytes: &[u8]) -> Ino {
        let number = ino(self.model.next_ino);
        self.model.next_ino += 1;
        let mut node = Node::new(kind);
        node.meta.change = number.0.get() * 10;
        node.meta.nlink = 0;
        node.meta.mtime = at(1_700_000_000_000_000_000 + i64::try_from(number.0.get()).expect("small"));
        if kind == FileKind::File {
            node.content = Some(self.dag.import(bytes, UnixfsMeta::default()).await.expect("put"));
            node.meta.size = bytes.len() as u64;
            node.meta.used = bytes.len().next_multiple_of(4096) as u64;
            self.bytes.insert(number, bytes.to_vec());
        } else if kind == FileKind::Symlink {
            node.content = Some(self.dag.put_symlink(bytes, UnixfsMeta::default()).await.expect("put"));
            node.target = Some(Bytes::copy_from_slice(bytes));
            node.meta.size = bytes.len() as u64;
            node.meta.mode = 0o777;
        }
        self.model.nodes.insert(number, node);
        if number.0.get() > 1 {
            self.link(dir, text.as_bytes(), number);
        }
        number
    }

    fn link(&mut self, dir: u64, bytes: &[u8], number: Ino) {
        let name = name(bytes);
        self.node(ino(dir)).add(&name, number).expect("a new name");
        let node = self.node(number);
        node.parents.push((ino(dir), name));
        node.parents.sort();
        node.meta.nlink += 1;
    }

    fn node(&mut self, number: Ino) -> &mut Node {
        self.model.nodes.get_mut(&number).expect("there")
    }

    /// Puts the `UnixFS` directories, those with the highest numbers first: each is above its parent's.
    async fn put_dirs(&mut self) {
        let dirs = self.model.nodes.iter().filter(|(_, node)| node.meta.kind == FileKind::Dir).map(|(ino, _)| *ino);
        for dir in dirs.collect::<Vec<_>>().into_iter().rev() {
            let entries = self.node(dir).names.values().cloned().collect::<Vec<_>>();
            let entries: Vec<_> = entries
                .into_iter()
                .filter_map(|entry| Some(Ok(Entry { link: self.node(entry.ino).content?, name: entry.name })))
                .collect();
            let link = self.dag.put_dir(stream::iter(entries).boxed()).await.expect("put");
            self.node(dir).content = Some(link);
        }
    }

    /// What a reader has to list: each path in the order of its bytes.
    fn listing(&self) -> Value {
        let mut found: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
        let mut left = vec![(Vec::new(), ino(1))];
        while let Some((path, number)) = left.pop() {
            let node = &self.model.nodes[&number];
            let under = |entry: &NameEntry| ([&*path, b"/", entry.name.as_bytes()].concat(), entry.ino);
            left.extend(node.names.values().map(under));
            let shown = if path.is_empty() { "/".to_owned() } else { escaped(&path) };
            found.insert(path, self.line(&shown, number, node));
        }
        found.into_values().collect()
    }

    fn line(&self, path: &str, number: Ino, node: &Node) -> Value {
        let meta = &node.meta;
        let kind = match meta.kind {
            FileKind::File => "file",
            FileKind::Dir => "dir",
            FileKind::Symlink => "symlink",
            FileKind::Fifo => "fifo",
            FileKind::Socket => "socket",
            FileKind::CharDevice => "chardev",
            FileKind::BlockDevice => "blockdev",
        };
        let mut line = json!({
            "path": path, "ino": number.0.get(), "kind": kind, "mode": format!("{:04o}", meta.mode),
            "uid": meta.uid, "gid": meta.gid, "nlink": meta.nlink, "size": meta.size, "used": meta.used,
            "mtime": nanos_of(meta.mtime), "ctime": nanos_of(meta.ctime), "atime": nanos_of(meta.atime), "change": meta.change,
        });
        let mut put = |key: &str, value: Value| line[key] = value;
        if let Some(target) = &node.target {
            put("target", escaped(target).into());
        }
        if let Some(bytes) = self.bytes.get(&number) {
            let digest = Base::Base16Lower.encode(cid_of(Codec::Raw, bytes).digest());
            put("sha256", digest.into());
        }
        if let Some(data) = &node.data {
            put("ranges", json!([data.len(), data.iter().map(|range| range.end - range.start).sum::<u64>()]));
        }
        if matches!(meta.kind, FileKind::CharDevice | FileKind::BlockDevice) {
            put("rdev", json!([meta.rdev.major, meta.rdev.minor]));
        }
        if !node.xattrs.is_empty() {
            let xattrs = node.xattrs.iter().map(|(name, value)| (escaped(name.as_bytes()), escaped(value).into()));
            put("xattrs", Value::Object(xattrs.collect()));
        }
        line
    }
}

/// One of everything.
async fn sample(dag: &Dag) -> Sample {
    let model = Model { next_ino: 1, ..Model::default() };
    let mut sample = Sample { dag: dag.clone(), model, bytes: BTreeMap::new() };
    sample.add(0, "", FileKind::Dir, b"").await;
    sample.node(ino(1)).meta.nlink = 1;
    let hello = sample.add(1, "hello.txt", FileKind::File, b"hello\n").await;
    let long: Vec<u8> = (0..10_000u32).map(|at| (at % 251).to_be_bytes()[3]).collect();
    let long = sample.add(1, "long.bin", FileKind::File, &long).await;
    let mut old = sample.add(1, "empty", FileKind::File, b"").await;
    sample.node(old).meta.mtime = at(-1_500_000_000_999_999_999);
    sample.node(old).meta.mode = 0o4755;
    old = sample.add(1, "at the end of time", FileKind::Fifo, b"").await;
    (sample.node(old).meta.atime, sample.node(old).meta.mtime) = (at(i64::MAX), at(i64::MIN));
    sample.add(1, "socket", FileKind::Socket, b"").await;
    sample.add(1, "null", FileKind::CharDevice, b"").await;
    let disk = sample.add(1, "disk", FileKind::BlockDevice, b"").await;
    sample.node(disk).meta.rdev = Rdev { major: 259, minor: 70_000 };
    sample.add(1, "link", FileKind::Symlink, b"hello.txt").await;
    let docs = sample.add(1, "docs", FileKind::Dir, b"").await.0.get();
    sample.link(docs, b"hello again.txt", hello);
    for (text, len) in [("user.note", 5), ("user.long", 600), ("trusted.\u{fffd}", 0)] {
        let name = XattrName::new(text.as_bytes()).expect("a name");
        sample.node(long).xattrs.insert(name, vec![b'v'; len].into());
        let name = XattrName::new(text.as_bytes()).expect("a name");
        sample.node(hello).xattrs.insert(name, vec![b'w'; len % 100].into());
    }

    // Holes: a few, and very many.
    let holes = |count: usize| [[b'x'; 4096], [0; 4096]].concat().repeat(count);
    for (text, count) in [("sparse", 3), ("full of holes", 1500)] {
        let file = sample.add(docs, text, FileKind::File, &holes(count)).await;
        sample.node(file).meta.used = count as u64 * 4096;
        sample.node(file).data = Some((0..count as u64).map(|at| at * 8192..at * 8192 + 4096).collect());
    }

    // One file with very many long names; names whose hashes are equal; numbers far apart.
    let many = sample.add(1, "many", FileKind::Dir, b"").await.0.get();
    let file = sample.add(many, &"0".repeat(180), FileKind::File, b"many names\n").await;
    (1..60).for_each(|number| sample.link(many, format!("{number:0>180}").as_bytes(), file));
    sample.model.next_ino = 70_000;
    let collide = sample.add(1, "collide", FileKind::Dir, b"").await.0.get();
    for name in colliding(3) {
        sample.link(collide, name.as_bytes(), hello);
    }
    sample.put_dirs().await;
    sample
}

#[tokio::test]
async fn the_vectors_are_what_is_written() {
    let (store, dag) = dag();
    let params = Params { chunk_len: 4096, width: 100, hamt_threshold: 2048, ..Profile::UnixfsV1_2025.params() };
    let dag = dag.with_params(params);
    let sample = sample(&dag).await;
    let attrs = sample.model.build(&dag).await;
    sample.model.check(&dag, &attrs).await;
    let root = sample.model.nodes[&ino(1)].content.expect("a directory").cid;
    let before = cid_of(Codec::DagCbor, b"before");
    let commit = Commit {
        profile: params,
        root,
        attrs: Some(attrs.cid()),
        prev: vec![before],
        snapshots: [("monday".to_owned(), before)].into(),
        time: at(1_795_190_400_000_000_001),
        note: "one of everything".to_owned(),
    };
    let cid = commit.put(&dag).await.expect("put");
    assert_eq!(Commit::get(&dag, &cid).await.expect("a commit"), commit);

    let mut blocks = BTreeMap::new();
    let keys: Vec<BlockKey> = store.keys().try_collect().await.expect("keys");
    for key in keys {
        let block = store.get(&key).await.expect("got").expect("there");
        // By multihash: a store knows no more of a block.
        blocks.insert(Base::Base16Lower.encode(key.as_bytes()), Base::Base16Lower.encode(&block));
    }
    let found = json!({ "commit": cid.to_string(), "blocks": blocks, "listing": sample.listing() });
    let expected: Value = serde_json::from_str(VECTORS).expect("JSON");
    for key in ["commit", "blocks", "listing"] {
        assert!(found[key] == expected[key], "{key} differ: a format changed, and formats are for ever");
    }
}
