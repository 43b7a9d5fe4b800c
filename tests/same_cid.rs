//! Goal: the same content has the same CID in every store, it is IPFS's, and a copy from one store to another moves what is
//! missing and nothing else. Method: the vectors of spec/vectors/unixfs-vectors.json, and trees of our own, are put into
//! every store and stack of layers that there is and copied between them, and the blocks that move are counted.

mod unixfs_vectors;

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use muxfs::{
    BlockKey, BlockStore, Cid, Codec, Mount, MuxFs, Name, Prefix, SecretKey, Source,
    block::{Cache, Compress, Encrypt, Erasure, ErasureNode, ErasureOptions, Fallback, Mem, Segments, SegmentsOptions},
    dag::{Dag, DagOptions, Entry, Ipld, Link, Params, Patch, Profile, UnixfsMeta},
    media::MemMedia,
    pins::Pins,
};
use muxfs_local::FileMedia;

use self::unixfs_vectors::{Tree, number, params, text, vectors};

/// Vectors of more blocks, or of more bytes, are left to tests/vectors.rs: what they add is size.
const VECTOR_BLOCK_COUNT_MAX: u64 = 300;
const VECTOR_LEN_MAX: u64 = 2 << 20;

/// A store, and what it needs for as long as it is used.
struct Stack {
    name: &'static str,
    blocks: Arc<dyn BlockStore>,
    _dir: Option<tempfile::TempDir>,
}

async fn segments() -> Arc<dyn BlockStore> {
    let (data, index) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()));
    Arc::new(Segments::open(data, index, SegmentsOptions::default(), &muxfs::testing::env()).await.expect("segments"))
}

async fn on_disk(dir: &std::path::Path) -> Arc<dyn BlockStore> {
    let media = ["blocks", "index"].map(|name| {
        let below = dir.join(name);
        std::fs::create_dir(&below).expect("made");
        Arc::new(FileMedia::open(below).expect("opens"))
    });
    let [data, index] = media;
    Arc::new(Segments::open(data, index, SegmentsOptions::default(), &muxfs::testing::env()).await.expect("segments"))
}

fn mem() -> Arc<dyn BlockStore> {
    Arc::new(Mem::default())
}

fn erasure() -> Arc<dyn BlockStore> {
    let nodes = (0..6).map(|node| ErasureNode::new(format!("node {node}"), Mem::default()));
    let options = ErasureOptions { data_count: 4, parity_count: 2, ..ErasureOptions::default() };
    Arc::new(Erasure::new(nodes, options).expect("room"))
}

fn encrypt(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    Arc::new(Encrypt::new(inner, SecretKey::new([7; 32])))
}

fn compress(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    Arc::new(Compress::new(inner))
}

/// Every store and every layer, empty, and the stacks that mounts are made of.
async fn stacks() -> Vec<Stack> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = on_disk(dir.path()).await;
    let cache = Cache::open(mem(), mem(), 64 << 10).await.expect("a cache");
    let fallback = Fallback::new(mem(), vec![mem()]).filling();
    let all: [(&'static str, Arc<dyn BlockStore>); 9] = [
        ("mem", mem()),
        ("segments in memory", segments().await),
        ("compress", compress(mem())),
        ("encrypt", encrypt(mem())),
        ("erasure", erasure()),
        ("cache", Arc::new(cache)),
        ("fallback", Arc::new(fallback)),
        ("compress, encrypt, erasure, as /zstor", compress(encrypt(erasure()))),
        ("compress, encrypt, segments", compress(encrypt(segments().await))),
    ];
    let mut stacks: Vec<Stack> = all.map(|(name, blocks)| Stack { name, blocks, _dir: None }).into();
    stacks.push(Stack { name: "segments in files, as /ipfs", blocks: file, _dir: Some(dir) });
    stacks
}

fn dag(blocks: Arc<dyn BlockStore>, params: Params) -> Dag {
    Dag::new(blocks, DagOptions { params, ..DagOptions::default() })
}

/// Copies, and checks that all is there then; how many blocks moved, and how long they are.
async fn copied(to: &Dag, from: &Dag, root: &Cid, what: &str) -> (u64, u64) {
    let report = to.copy_from(from, root, None).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let mut visits = to.walk(root);
    while let Some(visit) = visits.next().await {
        assert!(visit.error.is_none(), "{what}: {:?}", visit.error);
    }
    (report.moved.block_count, report.moved.len)
}

/// What a store holds.
async fn keys(dag: &Dag) -> BTreeSet<BlockKey> {
    dag.keys().try_collect().await.expect("keys")
}

fn by_profile(profile: &'static str) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut count = 0;
        for vector in vectors()["vectors"].as_array().expect("vectors") {
            let expect = &vector["expect"];
            let blocks = (number(expect, "unique_blocks"), number(expect, "unique_block_bytes"));
            if text(vector, "profile") != profile || blocks.0 > VECTOR_BLOCK_COUNT_MAX || blocks.1 > VECTOR_LEN_MAX {
                continue;
            }
            let (tree, params) = (Tree::of(vector), params(vector));
            let home = dag(mem(), params);
            let root = tree.put(&home).await.expect("put").cid;
            assert_eq!(root.to_string(), text(expect, "cid"));
            for stack in stacks().await {
                let what = format!("{} in {}", text(vector, "id"), stack.name);
                let there = dag(stack.blocks, params);
                if count % 2 == 0 {
                    assert_eq!(copied(&there, &home, &root, &what).await, blocks, "{what}");
                } else {
                    assert_eq!(tree.put(&there).await.expect("put").cid, root, "{what}");
                }
                assert_eq!(copied(&there, &home, &root, &what).await, (0, 0), "{what}, again");
                assert_eq!(copied(&dag(mem(), params), &there, &root, &what).await, blocks, "{what}, and back");
            }
            count += 1;
        }
        assert!(count >= 60, "most vectors are small: {count} of {profile}");
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_unixfs_v1_2025() {
    by_profile("unixfs-v1-2025").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_unixfs_v0_2015() {
    by_profile("unixfs-v0-2015").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_kubo_cidv1_legacy() {
    by_profile("kubo-cidv1-legacy").await;
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).expect("below 251")).collect()
}

/// A directory that is sharded, with a file of several chunks, a directory and a symlink in it, below linked data.
struct Made {
    large: Link,
    file: Link,
    dir: Link,
    root: Cid,
}

const LARGE_COUNT: u32 = 3000;

impl Made {
    async fn put(dag: &Dag) -> Self {
        let small = dag.import(&bytes(10)[..], UnixfsMeta::default()).await.expect("a file");
        let entry = |i: u32| Ok(Entry { name: Name::new(format!("a file of some name {i}").as_bytes())?, link: small });
        let large = dag.put_dir(stream::iter((0..LARGE_COUNT).map(entry)).boxed()).await.expect("a directory");
        let file = dag.import(&bytes(1_000_000)[..], UnixfsMeta::default()).await.expect("a file");
        let symlink = dag.put_symlink(b"file", UnixfsMeta::default()).await.expect("a symlink");
        let empty = dag.put_dir(stream::empty().boxed()).await.expect("a directory");
        let entries = [("large", large), ("file", file), ("symlink", symlink), ("empty", empty)];
        Self::of(dag, large, file, &entries).await
    }

    async fn of(dag: &Dag, large: Link, file: Link, entries: &[(&str, Link)]) -> Self {
        let entries: Vec<_> =
            entries.iter().map(|(name, link)| Ok(Entry { name: Name::new(name.as_bytes())?, link: *link })).collect();
        let dir = dag.put_dir(stream::iter(entries).boxed()).await.expect("a directory");
        let value = Ipld::Map([("dir".to_owned(), dir.cid.into()), ("n".to_owned(), 1.into())].into());
        let root = dag.put_linked(&value).await.expect("linked data");
        Self { large, file, dir, root }
    }

    /// The same with another byte in the middle of the file.
    async fn with_another_byte(&self, dag: &Dag) -> Self {
        let patch = stream::iter([Ok(Patch::Bytes(500_000, "?".into()))]).boxed();
        let file = dag.splice(&self.file.cid, patch, 1_000_000).await.expect("spliced");
        self.with(dag, "file", file).await
    }

    /// The same with one entry more in the sharded directory.
    async fn with_another_entry(&self, dag: &Dag) -> Self {
        let link = dag.import(&b"another"[..], UnixfsMeta::default()).await.expect("a file");
        let name = Name::new(b"another").expect("a name");
        let large = dag.patch_dir(&self.large.cid, &[(name, Some(link))].into()).await.expect("patched");
        self.with(dag, "large", large).await
    }

    async fn with(&self, dag: &Dag, name: &str, link: Link) -> Self {
        let entries: Vec<Entry> = dag.list(&self.dir.cid, 0).try_collect().await.expect("listed");
        let entries: Vec<(&str, Link)> = entries
            .iter()
            .map(|entry| (entry.name.as_str().expect("text"), entry.link))
            .map(|(there, before)| (there, if there == name { link } else { before }))
            .collect();
        Self::of(dag, self.large, self.file, &entries).await
    }
}

/// What changed moves, with the way to it from the root: known blocks, counted one by one, in every pair of stacks.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_moves_the_way_to_what_changed() {
    let params = Params { chunk_len: 100_000, hamt_threshold: 10_000, ..Profile::default().params() };
    let home = dag(mem(), params);
    let made = Made::put(&home).await;
    let at_first = keys(&home).await.len() as u64;
    let (byte, entry) = (made.with_another_byte(&home).await, made.with_another_entry(&home).await);

    // The leaf, the file, the directory, the map above it.
    let another_byte = 4;
    // The file, the directory, the map; and of the sharded one the shards by whose buckets the name goes, which are two: of 3000
    // names in 256 buckets each holds several.
    let another_entry = 1 + 2 + 2;
    for stack in stacks().await {
        assert_eq!(Made::put(&dag(stack.blocks, params)).await.root, made.root, "{}", stack.name);
    }
    let mut before: Option<(Dag, &'static str)> = None;
    for stack in stacks().await {
        let there = dag(stack.blocks.clone(), params);
        // Each from the one before, so that all meet.
        let (from, name) = before.as_ref().map_or((&home, "home"), |(dag, name)| (dag, *name));
        let what = format!("from {name} to {}", stack.name);
        assert_eq!(copied(&there, from, &made.root, &what).await.0, at_first, "{what}");
        assert_eq!(copied(&there, from, &byte.root, &what).await.0, another_byte, "{what}");
        assert_eq!(copied(&there, from, &entry.root, &what).await.0, another_entry, "{what}");
        for root in [&made.root, &byte.root, &entry.root] {
            assert_eq!(copied(&there, from, root, &what).await.0, 0, "{what}, again");
            assert_eq!(copied(from, &there, root, &what).await.0, 0, "{what}, and back");
        }
        assert_eq!(keys(&there).await, keys(&home).await, "{what}: nothing else");
        // One leaf is lost: it alone is moved.
        let leaf = leaf_of(&there, &made.file.cid).await;
        stack.blocks.delete(&BlockKey::from(&leaf)).await.expect("deleted");
        assert_eq!(copied(&there, from, &made.root, &what).await.0, 1, "{what}: what is below a node is looked for");
        before = Some((there, stack.name));
    }
}

/// A leaf of a file.
async fn leaf_of(dag: &Dag, file: &Cid) -> Cid {
    let visits: Vec<Cid> = dag.walk(file).map(|visit| visit.cid).collect().await;
    visits.into_iter().find(|cid| cid.codec() == Some(Codec::Raw)).expect("a leaf")
}

async fn mount(prefix: &str, blocks: Arc<dyn BlockStore>, profile: Profile) -> Mount {
    let pins = Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await.expect("pins");
    Mount::cas(Prefix::new(prefix).expect("a prefix"), dag(blocks, profile.params()), Arc::new(pins))
}

/// By the QFS calls too, and what was put by one store is what another one gives.
#[tokio::test]
async fn content_has_the_cid_that_ipfs_gives_in_every_mount() {
    let cases: [(Profile, usize, &str); 8] = [
        (Profile::UnixfsV1_2025, 0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (Profile::UnixfsV1_2025, 1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
        (Profile::UnixfsV1_2025, 1_048_576, "bafkreidddocae7lltzjlkooe5a3tmiwsgazn7logjvqk7bzttsidpzhxne"),
        (Profile::UnixfsV1_2025, 1_048_577, "bafybeidjogjfwuhbzwopgd4bn3skcf5m6oz72xshywcndzxgqb623nfclu"),
        (Profile::UnixfsV0_2015, 0, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
        (Profile::UnixfsV0_2015, 1, "QmS9JArPwa55ePgDnyg6TzX24mYTS1b1vLqWNebyVotKxQ"),
        (Profile::UnixfsV0_2015, 262_144, "QmeqfRyS3vkku7n6krqC3DgGMex3x2sCpSeKMDmrG13QQq"),
        (Profile::UnixfsV0_2015, 262_145, "QmUSjGawaz4ptvREcMKSMJneWCa5j8dAz2wSAAvHtW2rnB"),
    ];
    for (profile, len, cid) in cases {
        let mut mux = MuxFs::new();
        mux.mount(mount("mem", mem(), profile).await).expect("mounts");
        mux.mount(mount("ipfs", segments().await, profile).await).expect("mounts");
        mux.mount(mount("zstor", compress(encrypt(erasure())), profile).await).expect("mounts");
        for prefix in ["mem", "ipfs", "zstor"] {
            let path = mux.put(format!("/{prefix}"), bytes(len)).await.expect("put");
            assert_eq!(path.to_string(), format!("/{prefix}/{cid}"), "{len} bytes");
            let file = mux.open(&path).await.expect("open");
            let asked = u32::try_from(len + 1).expect("short");
            assert!(file.read_at(0, asked).await.expect("read") == bytes(len), "{path} reads back");
        }
        let value = || Source::LinkedData(Ipld::List(vec![Ipld::Null, Ipld::from("x")]));
        let (one, other) = (mux.put("/mem", value()).await, mux.put("/zstor", value()).await);
        assert_eq!(one.expect("put").cid(), other.expect("put").cid());
    }
}
