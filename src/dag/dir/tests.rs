//! Goal: directories are a function of their entries, and hostile ones cost nothing. Method: patching is held against
//! putting the result; shards and blocks are made by hand that no writer would make.

use std::{collections::BTreeSet, sync::Arc, time::UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::{
    BlockStore,
    block::Mem,
    cid_of,
    dag::{
        DagOptions, Profile,
        noted::Noted,
        pb::{PbLink, PbNode},
    },
};

fn dag(params: Params) -> Dag {
    Dag::new(Arc::new(Mem::default()), DagOptions { params, ..DagOptions::default() })
}

fn default_dag() -> Dag {
    dag(Profile::default().params())
}

fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).expect("a name")
}

fn link(seed: &[u8]) -> Link {
    Link { cid: cid_of(Codec::Raw, seed), tsize: seed.len() as u64 }
}

async fn put(dag: &Dag, entries: &BTreeMap<Name, Link>, meta: UnixfsMeta) -> Link {
    let entries = entries.iter().map(|(name, link)| Ok(Entry { name: name.clone(), link: *link }));
    dag.put_dir_with(stream::iter(entries.collect::<Vec<_>>()).boxed(), meta).await.expect("memory")
}

async fn list(dag: &Dag, dir: &Cid, from: u64) -> Result<Vec<Entry>> {
    dag.list(dir, from).try_collect().await
}

async fn kind(dag: &Dag, dir: &Cid) -> UnixfsType {
    unixfs_of(&dag.get_block(dir).await.expect("memory")).expect("a directory").kind
}

/// Names that share whole prefixes of their hashes, so that the trees get deep: found by trying many.
fn near_names() -> &'static [Name] {
    static NAMES: std::sync::OnceLock<Vec<Name>> = std::sync::OnceLock::new();
    NAMES.get_or_init(|| {
        let numbers = (0..400_000u32).map(|number| number.to_string());
        let near = numbers.filter(|text| murmur3_x64_64(text.as_bytes()) >> 52 == 0x5a5);
        near.map(|text| name(text.as_bytes())).collect()
    })
}

fn any_name() -> impl Strategy<Value = Name> {
    prop_oneof![
        2 => (0..60u32).prop_map(|number| name(format!("file {number}").as_bytes())),
        1 => (0..12u32).prop_map(|number| name(&vec![0xff; 200 + number as usize])),
        2 => any::<proptest::sample::Index>().prop_map(|index| index.get(near_names()).clone()),
    ]
}

fn any_params() -> impl Strategy<Value = Params> {
    let profile = prop_oneof![Just(Profile::UnixfsV1_2025), Just(Profile::UnixfsV0_2015)];
    let sizes = prop_oneof![Just(DirSize::BlockBytes), Just(DirSize::LinksBytes)];
    let fanout = prop_oneof![Just(8u32), Just(16), Just(256), Just(1024)];
    let threshold = prop_oneof![Just(0u32), 0..6000u32, Just(1 << 18)];
    (profile, sizes, fanout, threshold).prop_map(|(profile, dir_size, hamt_fanout, hamt_threshold)| Params {
        hamt_fanout,
        hamt_threshold,
        dir_size,
        ..profile.params()
    })
}

fn any_changes() -> impl Strategy<Value = BTreeMap<Name, Option<Link>>> {
    let link = any::<(u8, u64)>().prop_map(|(seed, tsize)| Link { tsize: tsize >> 8, ..link(&[seed]) });
    proptest::collection::btree_map(any_name(), proptest::option::of(link), 0..60)
}

async fn check_patches(params: Params, meta: UnixfsMeta, rounds: &[BTreeMap<Name, Option<Link>>]) {
    let dag = dag(params);
    let mut entries = BTreeMap::new();
    let mut dir = put(&dag, &entries, meta).await;
    for changes in rounds {
        for (name, change) in changes {
            match change {
                Some(link) => entries.insert(name.clone(), *link),
                None => entries.remove(name),
            };
        }
        dir = dag.patch_dir(&dir.cid, changes).await.expect("memory");
        assert_eq!(dir, put(&dag, &entries, meta).await, "{params:?} {} entries", entries.len());
        let listed = list(&dag, &dir.cid, 0).await.expect("memory");
        let mut expected: Vec<_> =
            entries.iter().map(|(name, link)| Entry { name: name.clone(), link: *link }).collect();
        expected.sort_by_key(|entry| (murmur3_x64_64(entry.name.as_bytes()), entry.name.clone()));
        assert_eq!(listed, expected);
        if let Some(middle) = expected.get(expected.len() / 2) {
            let from = murmur3_x64_64(middle.name.as_bytes());
            let rest = &expected[expected.len() / 2..];
            assert_eq!(list(&dag, &dir.cid, from).await.expect("memory"), rest, "from the middle");
            assert_eq!(list(&dag, &dir.cid, from + 1).await.expect("memory"), rest[1..], "from behind it");
        }
        for (name, change) in changes {
            let found = dag.lookup(&dir.cid, name).await.expect("memory").map(|entry| entry.link);
            assert_eq!(found, *change, "{name:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Patching is putting the result, round after round: over all forms, across the threshold both ways, and with
    /// names whose hashes begin alike.
    #[test]
    fn patch_is_put_of_the_result(
        params in any_params(), rounds in proptest::collection::vec(any_changes(), 1..6), has_meta in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mtime = UNIX_EPOCH.checked_add(std::time::Duration::new(5, 6));
        let meta = if has_meta { UnixfsMeta { mode: Some(0o750), mtime } } else { UnixfsMeta::default() };
        runtime.block_on(check_patches(params, meta, &rounds));
    }
}

/// 20,000 names: the root, 256 shards, some 2,300 below them. One name changes the shard it is in and those above.
#[tokio::test]
async fn only_changed_shards_are_put() {
    let store = Arc::new(Noted::default());
    let dag = Dag::new(store.clone(), DagOptions { verified_len_max: 0, ..DagOptions::default() });
    let entries = (0..20_000u32).map(|number| (name(number.to_string().as_bytes()), link(b""))).collect();
    let dir = put(&dag, &entries, UnixfsMeta::default()).await;
    let cases: [(&str, &[u8], Option<Link>); 4] = [
        ("a new name", b"new", Some(link(b"x"))),
        ("another link", b"17", Some(link(b"x"))),
        ("a name less", b"17", None),
        ("an absent name", b"absent", None),
    ];
    for (what, changed, link) in cases {
        store.take();
        let after = dag.patch_dir(&dir.cid, &BTreeMap::from([(name(changed), link)])).await.expect(what);
        let (read, put) = store.take();
        assert!(put <= 3, "{what}: {put} blocks put");
        assert!(read <= 120, "{what}: {read} blocks read to know that it is still large");
        assert_eq!(after == dir, what == "an absent name", "{what}");
    }
}

#[tokio::test]
async fn what_put_refuses() {
    let dag = default_dag();
    let twice = [name(b"a"), name(b"b"), name(b"a")].map(|name| Ok(Entry { name, link: link(b"x") }));
    let error = dag.put_dir(stream::iter(twice).boxed()).await.expect_err("a name twice");
    assert_eq!((error.kind(), error.path()), (ErrorKind::InvalidArgument, Some("a")));
    let failing = stream::iter([Err(Error::new(ErrorKind::Unavailable, "test.entries"))]);
    assert_eq!(dag.put_dir(failing.boxed()).await.expect_err("its error").kind(), ErrorKind::Unavailable);
    let targets: [(&[u8], ErrorKind); 3] = [
        (b"", ErrorKind::InvalidArgument),
        (b"a\0b", ErrorKind::InvalidArgument),
        (&[b'a'; SYMLINK_LEN_MAX + 1], ErrorKind::NameTooLong),
    ];
    for (target, kind) in targets {
        assert_eq!(dag.put_symlink(target, UnixfsMeta::default()).await.expect_err("refused").kind(), kind);
    }
}

async fn put_node(dag: &Dag, names: &[&[u8]], data: &UnixfsData) -> Cid {
    let link = |name: &&[u8]| PbLink { cid: link(name).cid, name: Some(Bytes::copy_from_slice(name)), tsize: Some(1) };
    let node = PbNode { links: names.iter().map(link).collect(), data: Some(data.encode().into()) };
    dag.put_block(Codec::DagPb, node.encode()).await.expect("memory")
}

/// What others wrote: names that no file system has, names twice, names out of order.
#[tokio::test]
async fn foreign_names_are_hidden_and_kept() {
    let dag = default_dag();
    let long = [b'x'; 256];
    let names: [&[u8]; 9] = [b"z", b"", b".", b"..", b"a/b", b"a\0b", &long, b"a", b"z"];
    let dir = put_node(&dag, &names, &UnixfsData::new(UnixfsType::Directory)).await;
    let shown: BTreeSet<Name> =
        list(&dag, &dir, 0).await.expect("memory").into_iter().map(|entry| entry.name).collect();
    assert_eq!(shown, BTreeSet::from([name(b"a"), name(b"z")]));
    assert_eq!(dag.lookup(&dir, &name(b"z")).await.expect("memory").expect("the first").link.cid, link(b"z").cid);
    let patched = dag.patch_dir(&dir, &BTreeMap::from([(name(b"z"), None)])).await.expect("memory");
    let block = dag.get_block(&patched.cid).await.expect("memory");
    let left: Vec<_> = PbNode::decode(&block).expect("dag-pb").links.into_iter().filter_map(|link| link.name).collect();
    let expected: [&[u8]; 7] = [b"", b".", b"..", b"a", b"a\0b", b"a/b", &long];
    assert_eq!(left, expected);
}

fn shard(fanout: u64, bitmap: &'static [u8]) -> UnixfsData {
    let mut data = UnixfsData::new(UnixfsType::HamtShard);
    (data.data, data.hash_type, data.fanout) = (Bytes::from_static(bitmap), Some(0x22), Some(fanout));
    data
}

/// "470.txt" belongs into bucket 00 and then 6E of 256.
#[tokio::test]
async fn hostile_shards_are_corrupt() {
    let dag = default_dag();
    let good = put_node(&dag, &[b"00470.txt"], &shard(256, b"\x01")).await;
    assert_eq!(list(&dag, &good, 0).await.expect("a good shard").len(), 1);
    assert!(dag.lookup(&good, &name(b"470.txt")).await.expect("a good shard").is_some());
    let mut other_hash = shard(256, b"\x01");
    other_hash.hash_type = Some(0x12);
    let cases: Vec<(&str, Cid)> = vec![
        ("a fanout of 2^30", put_node(&dag, &[], &shard(1 << 30, b"")).await),
        ("a fanout of 2^64 - 1", put_node(&dag, &[], &shard(u64::MAX, b"")).await),
        ("a fanout that is no power of two", put_node(&dag, &[], &shard(48, b"")).await),
        ("a fanout of 4", put_node(&dag, &[], &shard(4, b"")).await),
        ("a fanout of 2048", put_node(&dag, &[], &shard(2048, b"")).await),
        ("no fanout", put_node(&dag, &[], &UnixfsData { fanout: None, ..shard(8, b"") }).await),
        ("another hash", put_node(&dag, &[b"00470.txt"], &other_hash).await),
        ("more bits than links", put_node(&dag, &[b"00470.txt"], &shard(256, b"\x03")).await),
        ("more links than bits", put_node(&dag, &[b"00470.txt", b"01a"], &shard(256, b"\x01")).await),
        ("another bit", put_node(&dag, &[b"00470.txt"], &shard(256, b"\x02")).await),
        ("a bucket twice", put_node(&dag, &[b"00470.txt", b"00b"], &shard(256, b"\x03")).await),
        ("a bucket in lower case", put_node(&dag, &[b"0a470.txt"], &shard(256, b"\x04\x00")).await),
        ("a bucket with a sign", put_node(&dag, &[b"+1470.txt"], &shard(256, b"\x02")).await),
        ("a bucket past the fanout", put_node(&dag, &[b"F470.txt"], &shard(8, b"\x80")).await),
        ("a link too short for a bucket", put_node(&dag, &[b"0"], &shard(256, b"\x01")).await),
    ];
    for (what, cid) in cases {
        assert_eq!(list(&dag, &cid, 0).await.expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
        let looked_up = dag.lookup(&cid, &name(b"470.txt")).await;
        assert_eq!(looked_up.expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
        let patched = dag.patch_dir(&cid, &BTreeMap::from([(name(b"470.txt"), Some(link(b"x")))])).await;
        assert!(patched.is_err(), "{what}");
    }
    // A name in a bucket that is not its own: who looks for it does not find it, who lists finds out.
    let misplaced = put_node(&dag, &[b"01470.txt"], &shard(256, b"\x02")).await;
    assert_eq!(list(&dag, &misplaced, 0).await.expect_err("misplaced").kind(), ErrorKind::Corrupt);
    assert_eq!(dag.lookup(&misplaced, &name(b"470.txt")).await.expect("a shard"), None);
}

async fn put_chain(dag: &Dag, bottom: Cid, prefixes: &[&'static [u8]], bitmap: &'static [u8]) -> Cid {
    let mut cid = bottom;
    for _ in 0..70 {
        let link = |name: &&'static [u8]| PbLink { cid, name: Some(Bytes::from_static(name)), tsize: Some(1) };
        let links = prefixes.iter().map(link).collect();
        let node = PbNode { links, data: Some(shard(256, bitmap).encode().into()) };
        cid = dag.put_block(Codec::DagPb, node.encode()).await.expect("memory");
    }
    cid
}

/// Seventy shards, each twice below the next: 2^70 ways down, and no name on any. A reader that follows them never
/// comes back; one that knows a hash to end after eight levels does at once.
#[tokio::test]
async fn a_tree_of_nothing_but_shards_ends() {
    let dag = default_dag();
    let empty = put_node(&dag, &[], &shard(256, b"")).await;
    let one = put_node(&dag, &[b"00470.txt"], &shard(256, b"\x01")).await;
    for bottom in [empty, one] {
        let bomb = put_chain(&dag, bottom, &[b"00", b"01"], b"\x03").await;
        assert_eq!(list(&dag, &bomb, 0).await.expect_err("a bomb").kind(), ErrorKind::Corrupt);
        let change = BTreeMap::from([(name(b"470.txt"), None)]);
        assert_eq!(dag.patch_dir(&bomb, &change).await.expect_err("a bomb").kind(), ErrorKind::Corrupt);
    }
    let chain = put_chain(&dag, one, &[b"00"], b"\x01").await;
    // The hash of this name is 0 in every bucket.
    assert_eq!(murmur3_x64_64(b""), 0);
    assert_eq!(
        dag.lookup_sharded(dag.get_block(&chain).await.expect("memory"), b"", &mut Vec::new())
            .await
            .expect_err("deep")
            .kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn what_is_no_directory() {
    let dag = default_dag();
    let file = dag.import(&b"x"[..], UnixfsMeta { mode: Some(0o644), mtime: None }).await.expect("memory").cid;
    let raw = dag.import(&b"x"[..], UnixfsMeta::default()).await.expect("memory").cid;
    let symlink = dag.put_symlink(b"x", UnixfsMeta::default()).await.expect("memory").cid;
    let dir = put(&dag, &BTreeMap::new(), UnixfsMeta::default()).await.cid;
    for cid in [file, raw, symlink] {
        assert_eq!(dag.lookup(&cid, &name(b"a")).await.expect_err("no directory").kind(), ErrorKind::NotDir);
        assert_eq!(list(&dag, &cid, 0).await.expect_err("no directory").kind(), ErrorKind::NotDir);
        assert_eq!(dag.patch_dir(&cid, &BTreeMap::new()).await.expect_err("no directory").kind(), ErrorKind::NotDir);
    }
    for cid in [file, raw, dir] {
        assert_eq!(dag.read_symlink(&cid).await.expect_err("no symlink").kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(dag.read_at(&dir, 0, 1).await.expect_err("a directory").kind(), ErrorKind::IsDir);
    assert_eq!(dag.read_at(&symlink, 0, 1).await.expect_err("a symlink").kind(), ErrorKind::InvalidArgument);
}

/// A directory that other parameters made comes out as these make it.
#[tokio::test]
async fn patching_what_others_made_is_putting_the_result() {
    let store: Arc<dyn BlockStore> = Arc::new(Mem::default());
    let with = |params| Dag::new(store.clone(), DagOptions { params, ..DagOptions::default() });
    let ours = with(Params { hamt_threshold: 1000, ..Profile::default().params() });
    let others = [
        Params { hamt_threshold: 0, ..*ours.params() },
        Params { hamt_threshold: 0, hamt_fanout: 16, ..*ours.params() },
        Params { hamt_threshold: 0, ..Profile::UnixfsV0_2015.params() },
        Params { hamt_threshold: 1 << 20, ..Profile::UnixfsV0_2015.params() },
    ];
    for count in [1, 5, 500] {
        let entries: BTreeMap<Name, Link> =
            (0..count).map(|number: u32| (name(number.to_string().as_bytes()), link(b"x"))).collect();
        for params in others {
            let theirs = put(&with(params), &entries, UnixfsMeta::default()).await;
            let change = BTreeMap::from([(name(b"new"), Some(link(b"y")))]);
            let patched = ours.patch_dir(&theirs.cid, &change).await.expect("memory");
            let mut entries = entries.clone();
            entries.insert(name(b"new"), link(b"y"));
            assert_eq!(patched, put(&ours, &entries, UnixfsMeta::default()).await, "{count} {params:?}");
        }
    }
    assert_eq!(
        kind(&ours, &put(&ours, &BTreeMap::new(), UnixfsMeta::default()).await.cid).await,
        UnixfsType::Directory
    );
}
