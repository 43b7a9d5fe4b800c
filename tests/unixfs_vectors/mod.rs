//! The vectors of spec/vectors/unixfs-vectors.json: what each is put by, and the tree or file that it is.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use muxfs::{
    Name, Result,
    dag::{Dag, Entry, Layout, Link, Params, Profile, ReadAt, UnixfsMeta},
};
use serde_json::Value;

pub(crate) fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/spec/vectors/unixfs-vectors.json");
    serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON")
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is text: {value}"))
}

pub(crate) fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} is a number: {value}"))
}

pub(crate) fn small<N: TryFrom<u64>>(number: u64) -> N {
    number.try_into().ok().expect("a number in range")
}

pub(crate) fn profile(name: &str) -> Params {
    match name {
        "unixfs-v1-2025" => Profile::UnixfsV1_2025.params(),
        "unixfs-v0-2015" => Profile::UnixfsV0_2015.params(),
        "kubo-cidv1-legacy" => Profile::KuboCidV1Legacy.params(),
        other => panic!("an unknown profile {other}"),
    }
}

pub(crate) fn params(vector: &Value) -> Params {
    let mut params = profile(text(vector, "profile"));
    let Some(changes) = vector.get("params") else { return params };
    for (key, value) in changes.as_object().expect("parameters") {
        let number = || small(value.as_u64().expect("a number"));
        match key.as_str() {
            "chunk_size" => params.chunk_len = number(),
            "width" => params.width = number(),
            "threshold" => params.hamt_threshold = number(),
            "fanout" => params.hamt_fanout = number(),
            "layout" if value == "trickle" => params.layout = Layout::Trickle,
            other => panic!("an unknown parameter {other}"),
        }
    }
    params
}

fn meta(vector: &Value) -> UnixfsMeta {
    let mtime = vector.get("mtime").map(|mtime| {
        let seconds = mtime["secs"].as_i64().expect("seconds");
        let nanos = Duration::from_nanos(mtime["nsecs"].as_u64().unwrap_or(0));
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let time: SystemTime = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
        time + nanos
    });
    UnixfsMeta { mode: vector["mode"].as_u64().map(small), mtime }
}

pub(crate) fn hex(text: &str) -> Bytes {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
}

/// The bytes of a file: large ones are never in memory whole.
#[derive(Clone)]
pub(crate) enum Input {
    Bytes(Bytes),
    /// Byte i is i mod 251: many cycles of that to copy from, and how many bytes there are.
    Mod251(Bytes, u64),
}

impl Input {
    fn of(input: &Value) -> Self {
        match text(input, "gen") {
            "hex" => Self::Bytes(hex(text(input, "hex"))),
            "utf8" => Self::Bytes(text(input, "text").to_owned().into()),
            "zero" => Self::Bytes(vec![0; small(number(input, "len"))].into()),
            "mod251" => {
                assert!(input.get("offset").is_none(), "no vector uses an offset");
                let cycle: Vec<u8> = (0..251u8).collect();
                Self::Mod251(cycle.repeat(8192).into(), number(input, "len"))
            }
            other => panic!("an unknown generator {other}"),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Mod251(_, len) => *len,
        }
    }
}

impl ReadAt for Input {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Bytes(bytes) => bytes.read_at(offset, buf),
            Self::Mod251(cycles, len) => {
                let wanted = small::<usize>(len.saturating_sub(offset)).min(buf.len());
                cycles.read_at(offset % 251, &mut buf[..wanted])
            }
        }
    }
}

/// What a node is expected to be: of a directory its entries by name.
pub(crate) enum Tree {
    File(Input, UnixfsMeta),
    Symlink(String, UnixfsMeta),
    Dir(BTreeMap<String, Self>, UnixfsMeta),
}

impl Tree {
    pub(crate) fn of(vector: &Value) -> Self {
        match text(vector, "kind") {
            "file" => Self::File(Input::of(&vector["input"]), meta(vector)),
            "tree" => Self::of_entries(vector),
            other => panic!("an unknown kind {other}"),
        }
    }

    fn of_entries(vector: &Value) -> Self {
        let mut root = Self::Dir(BTreeMap::new(), meta(vector));
        for entry in vector["entries"].as_array().expect("entries") {
            let node = match text(entry, "type") {
                "file" => Self::File(Input::of(&entry["input"]), meta(entry)),
                "symlink" => Self::Symlink(text(entry, "target").to_owned(), meta(entry)),
                "dir" => Self::Dir(BTreeMap::new(), meta(entry)),
                other => panic!("an unknown type {other}"),
            };
            root.insert(text(entry, "path"), node);
        }
        if let Some(generated) = vector.get("generated") {
            let start = generated["start"].as_u64().unwrap_or(0);
            for i in start..start + number(generated, "count") {
                let fill = |pattern: &str| pattern.replace("{i:05}", &format!("{i:05}")).replace("{i}", &i.to_string());
                let node = match generated["type"].as_str() {
                    Some("dir") => Self::Dir(BTreeMap::new(), UnixfsMeta::default()),
                    None | Some("file") => {
                        Self::File(Input::Bytes(fill(text(generated, "text")).into()), UnixfsMeta::default())
                    }
                    Some(other) => panic!("an unknown type {other}"),
                };
                root.insert(&fill(text(generated, "name")), node);
            }
        }
        root
    }

    fn insert(&mut self, path: &str, node: Self) {
        let Self::Dir(entries, _) = self else { panic!("{path} goes through a file") };
        match path.split_once('/') {
            None => assert!(entries.insert(path.to_owned(), node).is_none(), "{path} twice"),
            Some((first, rest)) => entries
                .entry(first.to_owned())
                .or_insert_with(|| Self::Dir(BTreeMap::new(), UnixfsMeta::default()))
                .insert(rest, node),
        }
    }

    pub(crate) fn put<'a>(&'a self, dag: &'a Dag) -> BoxFuture<'a, Result<Link>> {
        Box::pin(async move {
            match self {
                Self::File(input, meta) => dag.import_at(Arc::new(input.clone()), input.len(), *meta).await,
                Self::Symlink(target, meta) => dag.put_symlink(target.as_bytes(), *meta).await,
                Self::Dir(children, meta) => {
                    let mut entries = Vec::new();
                    for (name, child) in children {
                        entries.push(Ok(Entry { name: Name::new(name.as_bytes())?, link: child.put(dag).await? }));
                    }
                    // The order they come in must not matter.
                    entries.reverse();
                    dag.put_dir_with(stream::iter(entries).boxed(), *meta).await
                }
            }
        })
    }
}
