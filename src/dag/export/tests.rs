//! Goal: an export gives what is asked for and nothing beside, in order, whatever the DAG costs.
//!
//! Method: DAGs of random shape are exported and compared with a walk that recurses. Of files and directories the law is
//! held from both sides: what was exported is enough to read them in a store that has nothing else, and without any one of
//! those blocks it is not. Bombs are made by hand.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use proptest::prelude::*;

use super::*;
use crate::{
    BlockKey, BlockStore,
    block::Mem,
    cid_of,
    dag::{
        DagOptions, Entry, Ipld, Layout, Link, Params, Profile, UnixfsMeta,
        pb::{PbLink, PbNode},
        unixfs::UnixfsData,
    },
};

fn dag_of(params: Params) -> (Arc<Mem>, Dag) {
    let blocks = Arc::new(Mem::default());
    (Arc::clone(&blocks), Dag::new(blocks, DagOptions { params, ..DagOptions::default() }))
}

fn dag() -> (Arc<Mem>, Dag) {
    dag_of(Profile::default().params())
}

async fn node(dag: &Dag, data: Option<&'static [u8]>, children: &[Cid]) -> Cid {
    let link = |cid: &Cid| PbLink { cid: *cid, name: Some(Bytes::new()), tsize: None };
    let node = PbNode { links: children.iter().map(link).collect(), data: data.map(Bytes::from_static) };
    dag.put_block(Codec::DagPb, node.encode()).await.expect("put")
}

async fn blocks(dag: &Dag, root: &Cid, path: &[Name], options: &ExportOptions) -> Result<Vec<(Cid, Bytes)>> {
    dag.export(root, path, options).await?.blocks().try_collect().await
}

async fn cids(dag: &Dag, root: &Cid, options: &ExportOptions) -> Result<Vec<Cid>> {
    Ok(blocks(dag, root, &[], options).await?.into_iter().map(|(cid, _)| cid).collect())
}

fn scope(scope: Scope) -> ExportOptions {
    ExportOptions { scope, ..ExportOptions::default() }
}

fn bytes(range: &str) -> ExportOptions {
    ExportOptions { bytes: Some(range.parse().expect("a range")), ..ExportOptions::default() }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// A `Dag` that has these blocks, without one of them.
async fn store_of(blocks: &[(Cid, Bytes)], without: Option<&Cid>) -> Dag {
    let (store, dag) = dag();
    for (cid, block) in blocks.iter().filter(|(cid, _)| Some(cid) != without) {
        store.put(&BlockKey::from(cid), block.clone()).await.expect("put");
    }
    dag
}

/// Checks that `read` works where these blocks are, and not where any one of them is missing.
async fn just_enough<F: Future<Output = bool> + Send>(blocks: &[(Cid, Bytes)], read: impl Fn(Dag) -> F + Send + Sync) {
    assert!(read(store_of(blocks, None).await).await, "what was exported is not enough");
    for (cid, _) in blocks {
        assert!(!read(store_of(blocks, Some(cid)).await).await, "{cid} was not needed");
    }
}

#[test]
fn ranges_of_bytes_as_text() {
    for (text, from, to) in [("0:*", 0, None), ("5:5", 5, Some(5)), ("-5:*", -5, None), ("-9999:-3", -9999, Some(-3))] {
        let range: EntityBytes = text.parse().expect("a range");
        assert_eq!((range, range.to_string().as_str()), (EntityBytes { from, to }, text));
    }
    let bad =
        ["", "0", ":", "*:0", "0:", "1:0", "-1:-2", "+1:2", "0x1:2", "1 :2", "1:2:3", "9223372036854775808:*", "--1:*"];
    for text in bad {
        assert_eq!(text.parse::<EntityBytes>().expect_err(text).kind(), ErrorKind::InvalidArgument, "{text}");
    }
    let range = |text: &str, len| text.parse::<EntityBytes>().expect("a range").range(len).ok();
    assert_eq!(
        [range("0:*", 0), range("-1:*", 0), range("0:-1", 0), range("1:*", 0)],
        [Some(0..0), Some(0..0), Some(0..0), None]
    );
    assert_eq!(
        [range("3:-9", 5), range("3:-3", 5), range("2:-3", 5), range("0:-9", 5)],
        [None, None, Some(2..3), None]
    );
    let (least, most) = (i64::MIN, i64::MAX);
    assert_eq!(range(&format!("{least}:{most}"), u64::MAX), Some((1 << 63) - 1..1 << 63));
    assert_eq!(range(&format!("{least}:*"), 7), Some(0..7));
}

#[tokio::test]
async fn a_dag_of_every_codec_in_order() {
    let (_, dag) = dag();
    let leaf = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
    let inline: Cid = "bafkqabiaaebagba".parse().expect("an identity CID");
    let dir = node(&dag, Some(b"\x08\x01"), &[leaf, inline]).await;
    let json = dag.put_block(Codec::DagJson, format!(r#"[{{"/":"{dir}"}}]"#).into()).await.expect("put");
    let other = dag.put_block(Codec::Raw, "other".into()).await.expect("put");
    let root = Ipld::Map(
        [("z".to_owned(), json.into()), ("aa".to_owned(), Ipld::List(vec![leaf.into(), other.into()]))].into(),
    );
    let root = dag.put_linked(&root).await.expect("put");
    // The shorter key is the first in dag-cbor, whatever the alphabet says.
    assert_eq!(cids(&dag, &root, &scope(Scope::All)).await.expect("all"), [root, json, dir, leaf, other]);
    let twice = ExportOptions { duplicates: true, ..ExportOptions::default() };
    assert_eq!(cids(&dag, &root, &twice).await.expect("all"), [root, json, dir, leaf, leaf, other]);
    for options in [scope(Scope::Entity), scope(Scope::Block), bytes("0:*")] {
        assert_eq!(cids(&dag, &root, &options).await.expect("one block"), [root], "{options:?}");
    }
    // To a value within the block: the block, and only what hangs from the value.
    let export = dag.export(&root, &[name("aa")], &ExportOptions::default()).await.expect("a path");
    assert_eq!(export.end(), &Resolved { cid: root, within: vec![name("aa")] });
    let found: Vec<_> = export.blocks().map_ok(|(cid, _)| cid).try_collect().await.expect("a value");
    assert_eq!(found, [root, leaf, other]);
    // An identity CID is its own block.
    assert_eq!(cids(&dag, &inline, &ExportOptions::default()).await.expect("nothing to give"), []);
}

/// A node that its own CID holds is not given, and what it links to is.
#[tokio::test]
async fn links_of_a_node_within_its_cid_are_followed() {
    let (_, dag) = dag();
    let leaf = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
    let block = PbNode { links: vec![PbLink { cid: leaf, name: None, tsize: None }], data: None }.encode();
    let inline = Cid::from_bytes(&[&[1, 0x70, 0, u8::try_from(block.len()).expect("short")], &block[..]].concat());
    let root = node(&dag, None, &[inline.expect("an identity CID")]).await;
    assert_eq!(cids(&dag, &root, &ExportOptions::default()).await.expect("all"), [root, leaf]);
}

#[tokio::test]
async fn a_part_of_a_file_is_just_enough_to_read_it() {
    let content: Vec<u8> = (0..=99u8).collect();
    for profile in [Profile::UnixfsV1_2025, Profile::UnixfsV0_2015] {
        for layout in [Layout::Balanced, Layout::Trickle] {
            let (_, dag) = dag_of(Params { chunk_len: 7, width: 2, layout, ..profile.params() });
            let file = dag.import(content.as_slice(), UnixfsMeta::default()).await.expect("memory").cid;
            for (range, from, to) in [
                ("0:*", 0, 100),
                ("0:0", 0, 1),
                ("6:7", 6, 8),
                ("7:13", 7, 14),
                ("50:*", 50, 100),
                ("-1:*", 99, 100),
                ("-60:-30", 40, 71),
            ] {
                let exported = blocks(&dag, &file, &[], &bytes(range)).await.expect("exported");
                let wanted = &content[from..to];
                just_enough(&exported, |dag| async move {
                    let len = u32::try_from(wanted.len()).expect("short");
                    dag.read_at(&file, from as u64, len).await.is_ok_and(|read| read == wanted)
                })
                .await;
            }
            let whole = blocks(&dag, &file, &[], &scope(Scope::Entity)).await.expect("exported");
            assert_eq!(whole, blocks(&dag, &file, &[], &bytes("0:*")).await.expect("exported"));
            assert_eq!(whole, blocks(&dag, &file, &[], &scope(Scope::All)).await.expect("exported"));
            let error = blocks(&dag, &file, &[], &bytes("100:*")).await.expect_err("past the end");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}

async fn dir(dag: &Dag, count: u32) -> (Cid, Vec<Name>) {
    let names: Vec<Name> = (0..count).map(|i| name(&format!("file {i}"))).collect();
    let mut entries = Vec::new();
    for name in &names {
        let cid = dag.put_block(Codec::Raw, Bytes::copy_from_slice(name.as_bytes())).await.expect("put");
        entries.push(Ok(Entry { name: name.clone(), link: Link { cid, tsize: 0 } }));
    }
    (dag.put_dir(stream::iter(entries).boxed()).await.expect("put").cid, names)
}

#[tokio::test]
async fn of_a_directory_just_enough_to_list_it_and_of_a_path_to_follow_it() {
    for (hamt_threshold, hamt_fanout) in [(1 << 20, 256), (0, 8), (0, 256)] {
        let (_, dag) = dag_of(Params { hamt_fanout, hamt_threshold, ..Profile::default().params() });
        let (root, names) = dir(&dag, 60).await;
        for options in [scope(Scope::Entity), bytes("3:5")] {
            let exported = blocks(&dag, &root, &[], &options).await.expect("exported");
            just_enough(&exported, |dag| async move {
                dag.list(&root, 0).try_collect::<Vec<_>>().await.is_ok_and(|all| all.len() == 60)
            })
            .await;
        }
        for name in names.iter().take(10) {
            let exported =
                blocks(&dag, &root, std::slice::from_ref(name), &scope(Scope::Block)).await.expect("exported");
            just_enough(&exported, |dag| async move {
                match dag.resolve(&root, std::slice::from_ref(name)).await {
                    Ok(end) => dag.get_block(&end.cid).await.is_ok_and(|block| block == name.as_bytes()),
                    Err(_) => false,
                }
            })
            .await;
        }
        let error =
            dag.export(&root, &[self::name("none")], &ExportOptions::default()).await.expect_err("no such name");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let whole = cids(&dag, &root, &ExportOptions::default()).await.expect("all");
        assert_eq!(whole.iter().collect::<BTreeSet<_>>().len(), whole.len());
    }
}

/// 2^200 paths and 201 blocks. Without duplicates they are 201 blocks; with them it ends where it is told to.
#[tokio::test]
async fn a_bomb_costs_what_its_blocks_do() {
    let (_, dag) = dag();
    let mut root = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
    for _ in 0..200 {
        root = node(&dag, None, &[root, root]).await;
    }
    assert_eq!(cids(&dag, &root, &ExportOptions::default()).await.expect("all").len(), 201);
    let limits = [
        ExportLimits { block_count_max: 1000, ..ExportLimits::default() },
        ExportLimits { len_max: 50_000, ..ExportLimits::default() },
        ExportLimits { depth_max: 199, ..ExportLimits::default() },
    ];
    for limits in limits {
        let options = ExportOptions { duplicates: true, limits, ..ExportOptions::default() };
        let mut given = dag.export(&root, &[], &options).await.expect("begun").blocks();
        let mut count = 0;
        let error = loop {
            match given.next().await.expect("it does not end well") {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{limits:?}");
        assert!((190..=1000).contains(&count), "{limits:?} gave {count}");
        assert!(given.next().await.is_none(), "it went on after an error");
    }
    let exactly = ExportLimits { block_count_max: 201, depth_max: 200, ..ExportLimits::default() };
    let options = ExportOptions { limits: exactly, ..ExportOptions::default() };
    assert_eq!(cids(&dag, &root, &options).await.expect("just so many").len(), 201);
}

/// A file of 10^15 bytes in six blocks, all of it and parts of it: parts overlap in the same node with other offsets.
#[tokio::test]
async fn a_file_much_larger_than_its_blocks() {
    let (_, dag) = dag();
    let (mut cid, mut size) = (dag.put_block(Codec::Raw, "x".into()).await.expect("put"), 1u64);
    for _ in 0..5 {
        let mut message = UnixfsData::new(UnixfsType::File);
        (message.blocksizes, message.filesize) = (vec![size; 1000], Some(size * 1000));
        let links = vec![PbLink { cid, name: None, tsize: None }; 1000];
        let block = PbNode { links, data: Some(message.encode().into()) }.encode();
        (cid, size) = (dag.put_block(Codec::DagPb, block).await.expect("put"), size * 1000);
    }
    for range in ["0:*", "1:-2", "123456789012345:987654321098765", "0:0"] {
        assert_eq!(cids(&dag, &cid, &bytes(range)).await.expect("cheap").len(), 6, "{range}");
    }
}

/// Ten nodes, one in the other, each with a million bytes of links that are yet to be followed.
#[tokio::test]
async fn links_that_wait_are_bounded() {
    let (_, dag) = dag();
    let absent = cid_of(Codec::Raw, b"absent");
    let mut root = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
    for _ in 0..20 {
        root = node(&dag, None, &[vec![root], vec![absent; 45_000]].concat()).await;
    }
    let options = ExportOptions { limits: ExportLimits::NONE, ..ExportOptions::default() };
    let error = cids(&dag, &root, &options).await.expect_err("too much");
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:#}");
}

/// A chain as long as a history: each frame is used up before the next, so it takes no memory.
#[tokio::test]
async fn a_chain_is_no_tree() {
    let (_, dag) = dag();
    let mut root = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
    for i in 0..3000u32 {
        let entry = Ipld::Map([("n".to_owned(), u64::from(i).into()), ("prev".to_owned(), root.into())].into());
        root = dag.put_linked(&entry).await.expect("put");
    }
    let error = cids(&dag, &root, &ExportOptions::default()).await.expect_err("deeper than requests go");
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let options = ExportOptions { limits: ExportLimits::NONE, ..ExportOptions::default() };
    let mut export = dag.export(&root, &[], &options).await.expect("begun");
    let mut count = 0;
    while export.order.next().await.expect("there").is_some() {
        count += 1;
        assert!(format!("{:?}", export.order).starts_with("Order(1 frames"), "{:?}", export.order);
    }
    assert_eq!(count, 3001);
}

#[tokio::test]
async fn absent_and_bad_blocks() {
    let (store, dag) = dag();
    let absent = cid_of(Codec::Raw, b"absent");
    let leaf = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
    let root = node(&dag, None, &[leaf, absent, absent]).await;
    let error = cids(&dag, &root, &ExportOptions::default()).await.expect_err("absent");
    assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(absent.to_string().as_str())));
    for duplicates in [false, true] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let absents = Absent::Skipped(Arc::new(move |cid: &Cid| tell.lock().expect("unpoisoned").push(*cid)));
        let options = ExportOptions { absent: absents, duplicates, ..ExportOptions::default() };
        assert_eq!(cids(&dag, &root, &options).await.expect("skipped"), [root, leaf]);
        assert_eq!(*told.lock().expect("unpoisoned"), vec![absent; 1 + usize::from(duplicates)]);
    }
    assert_eq!(dag.export(&absent, &[], &scope(Scope::Block)).await.expect_err("absent").kind(), ErrorKind::NotFound);
    store.delete(&BlockKey::from(&leaf)).await.expect("deleted");
    store.put(&BlockKey::from(&leaf), "life".into()).await.expect("put");
    let fresh = Dag::new(store, DagOptions::default());
    assert_eq!(cids(&fresh, &root, &ExportOptions::default()).await.expect_err("bad").kind(), ErrorKind::Corrupt);
}

/// Links of each node, by the indices of nodes made before it.
fn any_shape() -> impl Strategy<Value = Vec<Vec<prop::sample::Index>>> {
    proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..5), 1..14)
}

/// What an export is, in a few lines that recurse.
fn model(nodes: &[(Cid, Vec<usize>)], at: usize, seen: &mut Option<BTreeSet<usize>>, out: &mut Vec<Cid>) {
    if seen.as_mut().is_some_and(|seen| !seen.insert(at)) {
        return;
    }
    out.push(nodes[at].0);
    for below in &nodes[at].1 {
        model(nodes, *below, seen, out);
    }
}

proptest! {
    #[test]
    fn an_export_is_a_depth_first_walk(shape in any_shape()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (_, dag) = dag();
            let mut nodes: Vec<(Cid, Vec<usize>)> = Vec::new();
            for (i, links) in shape.into_iter().enumerate() {
                let below: Vec<usize> = if i == 0 { Vec::new() } else { links.into_iter().map(|link| link.index(i)).collect() };
                let children: Vec<Cid> = below.iter().map(|at| nodes[*at].0).collect();
                // Raw where it has no links, with something of its own, so that no two are the same.
                let cid = if below.is_empty() {
                    dag.put_block(Codec::Raw, format!("leaf {i}").into()).await.expect("put")
                } else {
                    let values = [Ipld::from(i as u64)].into_iter().chain(children.into_iter().map(Ipld::from));
                    dag.put_linked(&Ipld::List(values.collect())).await.expect("put")
                };
                nodes.push((cid, below));
            }
            let root = nodes.len() - 1;
            for duplicates in [false, true] {
                let mut expected = Vec::new();
                model(&nodes, root, &mut (!duplicates).then(BTreeSet::new), &mut expected);
                let options = ExportOptions { duplicates, ..ExportOptions::default() };
                prop_assert_eq!(cids(&dag, &nodes[root].0, &options).await.expect("exported"), expected);
            }
            Ok(())
        })?;
    }
}
