//! Goal: reading is slicing, whatever the shape of the file, and what lies is `Corrupt`. Method: files of every layout
//! are read at every offset; nodes are made by hand that no writer would make, and blocks are mutated.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use proptest::prelude::*;

use super::*;
use crate::{
    BlockKey, BlockStore, FileKind, Name,
    block::Mem,
    cid_of,
    dag::{
        DagOptions, Layout, Params, Profile, UnixfsMeta,
        pb::{PbLink, PbNode},
    },
};

fn dag(params: Params) -> Dag {
    Dag::new(Arc::new(Mem::default()), DagOptions { params, ..DagOptions::default() })
}

fn default_dag() -> Dag {
    dag(Profile::default().params())
}

async fn all(dag: &Dag, cid: &Cid, offset: u64) -> Result<Vec<u8>> {
    let pieces: Vec<Bytes> = dag.reader(cid, offset).try_collect().await?;
    assert!(pieces.iter().all(|piece| !piece.is_empty()), "a piece is never empty");
    Ok(pieces.concat())
}

#[tokio::test]
async fn every_slice_of_every_layout() {
    let content: Vec<u8> = (0..=250u8).collect();
    for profile in [Profile::UnixfsV1_2025, Profile::UnixfsV0_2015] {
        for layout in [Layout::Balanced, Layout::Trickle] {
            let dag = dag(Params { chunk_len: 7, width: 2, layout, ..profile.params() });
            let cid = dag.import(content.as_slice(), UnixfsMeta::default()).await.expect("memory").cid;
            for from in (0..260).step_by(3) {
                let rest = content.get(from..).unwrap_or_default();
                assert_eq!(all(&dag, &cid, from as u64).await.expect("memory"), rest);
                for len in [0, 1, 6, 7, 8, 50, 300] {
                    let read = dag.read_at(&cid, from as u64, len).await.expect("memory");
                    assert_eq!(read, rest.get(..len as usize).unwrap_or(rest), "{layout:?} {from} {len}");
                    let range = from as u64..from as u64 + u64::from(len);
                    let part: Vec<Bytes> = dag.range_reader(&cid, range).try_collect().await.expect("memory");
                    assert_eq!(part.concat(), read, "{layout:?} {from} {len}");
                }
            }
            assert_eq!(dag.read_at(&cid, u64::MAX, u32::MAX).await.expect("past the end"), "");
        }
    }
}

/// A part is read though every leaf outside it is absent: nothing is fetched ahead of its end.
#[tokio::test]
async fn a_part_asks_for_its_own_leaves_only() {
    let blocks = Arc::new(Mem::default());
    let params = Params { chunk_len: 4, ..Profile::default().params() };
    let dag = Dag::new(blocks.clone(), DagOptions { params, verified_len_max: 0 });
    let cid = dag.import(&b"aaaabbbbccccdddd"[..], UnixfsMeta::default()).await.expect("memory").cid;
    for leaf in [b"aaaa", b"dddd"] {
        blocks.delete(&BlockKey::from(&cid_of(Codec::Raw, leaf))).await.expect("deleted");
    }
    let part: Vec<Bytes> = dag.range_reader(&cid, 5..12).try_collect().await.expect("the leaves are there");
    assert_eq!(part.concat(), b"bbbcccc");
    let error = dag.range_reader(&cid, 5..13).try_collect::<Vec<_>>().await.expect_err("a leaf is absent");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// A node by hand: links to parts of these lengths, and a message.
async fn put_node(dag: &Dag, parts: &[(Cid, u64)], data: &'static [u8], filesize: u64) -> Cid {
    put_message(dag, parts, |message| (message.data, message.filesize) = (Bytes::from_static(data), Some(filesize)))
        .await
}

async fn put_message(dag: &Dag, parts: &[(Cid, u64)], change: impl FnOnce(&mut UnixfsData)) -> Cid {
    let link = |(cid, _): &(Cid, u64)| PbLink { cid: *cid, name: None, tsize: None };
    let mut message = UnixfsData::new(UnixfsType::File);
    message.blocksizes = parts.iter().map(|(_, size)| *size).collect();
    change(&mut message);
    let node = PbNode { links: parts.iter().map(link).collect(), data: Some(message.encode().into()) };
    dag.put_block(Codec::DagPb, node.encode()).await.expect("memory")
}

async fn put_raw(dag: &Dag, bytes: &'static [u8]) -> Cid {
    dag.put_block(Codec::Raw, Bytes::from_static(bytes)).await.expect("memory")
}

/// Data and links in one node, leaves of three kinds, empty parts, depths mixed, no names and no sizes in links.
#[tokio::test]
async fn shapes_that_others_make() {
    let dag = default_dag();
    let raw = put_raw(&dag, b"raw").await;
    let empty = put_raw(&dag, b"").await;
    let typed =
        put_message(&dag, &[], |m| (m.kind, m.data, m.filesize) = (UnixfsType::Raw, "typed".into(), Some(5))).await;
    let sizeless = put_message(&dag, &[], |message| message.data = "old".into()).await;
    let inner = put_node(&dag, &[(typed, 5), (empty, 0), (raw, 3)], b"data", 12).await;
    let root = put_node(&dag, &[(empty, 0), (inner, 12), (raw, 3), (sizeless, 3), (inner, 12)], b"+", 31).await;
    let content = b"+datatypedrawrawolddatatypedraw";
    assert_eq!(dag.stat(&root).await.expect("memory").size, 31);
    for (from, offset) in (0..32usize).zip(0u64..) {
        let rest = content.get(from..).unwrap_or_default();
        assert_eq!(all(&dag, &root, offset).await.expect("memory"), rest);
        assert_eq!(dag.read_at(&root, offset, 4).await.expect("memory"), rest.get(..4).unwrap_or(rest));
    }
    let linked = dag.put_block(Codec::DagCbor, Bytes::from_static(b"\xa0")).await.expect("memory");
    assert_eq!(dag.read_at(&linked, 0, 9).await.expect("its bytes"), &b"\xa0"[..]);
}

#[tokio::test]
async fn files_that_lie_are_corrupt() {
    let dag = default_dag();
    let raw = put_raw(&dag, b"raw").await;
    let leaf = put_node(&dag, &[], b"leaf", 4).await;
    let dir = put_message(&dag, &[], |message| message.kind = UnixfsType::Directory).await;
    let linked = dag.put_block(Codec::DagCbor, Bytes::from_static(b"\xa0")).await.expect("memory");
    let cases: Vec<(&str, Cid)> = vec![
        ("a leaf shorter than its filesize", put_node(&dag, &[], b"leaf", 5).await),
        ("a leaf longer than its filesize", put_node(&dag, &[], b"leaf", 3).await),
        ("a file longer than its parts", put_node(&dag, &[(raw, 3)], b"", 4).await),
        ("a file of all bytes there are", put_node(&dag, &[(raw, 3)], b"", u64::MAX).await),
        ("parts past 64 bits", put_node(&dag, &[(raw, u64::MAX), (raw, 4)], b"", 3).await),
        ("a raw part shorter than said", put_node(&dag, &[(raw, 4)], b"", 4).await),
        ("a raw part longer than said", put_node(&dag, &[(raw, 2)], b"", 2).await),
        ("a dag-pb part shorter than said", put_node(&dag, &[(leaf, 5)], b"", 5).await),
        ("a part that is a directory", put_node(&dag, &[(dir, 5)], b"", 5).await),
        ("a part that is linked data", put_node(&dag, &[(linked, 1)], b"", 1).await),
        (
            "more sizes than links",
            put_message(&dag, &[(raw, 3)], |m| {
                m.blocksizes.push(0);
                m.filesize = Some(3);
            })
            .await,
        ),
        (
            "fewer sizes than links",
            put_message(&dag, &[(raw, 3), (raw, 0)], |m| {
                m.blocksizes.pop();
                m.filesize = Some(3);
            })
            .await,
        ),
        ("no Data", dag.put_block(Codec::DagPb, Bytes::new()).await.expect("memory")),
        ("no dag-pb", dag.put_block(Codec::DagPb, Bytes::from_static(b"\xff")).await.expect("memory")),
    ];
    for (what, cid) in cases {
        assert_eq!(dag.read_at(&cid, 0, 100).await.expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
        assert_eq!(all(&dag, &cid, 0).await.expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
    }
    let absent = put_node(&dag, &[(crate::cid_of(Codec::Raw, b"absent"), 6)], b"", 6).await;
    assert_eq!(dag.read_at(&absent, 0, 6).await.expect_err("absent").kind(), ErrorKind::NotFound);
}

/// Each node has its child a thousand times: 10^15 bytes in six blocks. Any part of it costs what that part is.
#[tokio::test]
async fn a_file_much_larger_than_its_blocks_costs_what_is_read() {
    let dag = default_dag();
    let (mut cid, mut size) = (put_raw(&dag, b"x").await, 1u64);
    for _ in 0..5 {
        cid = put_node(&dag, &vec![(cid, size); 1000], b"", size * 1000).await;
        size *= 1000;
    }
    assert_eq!(dag.stat(&cid).await.expect("memory").size, 1_000_000_000_000_000);
    for offset in [0, 123_456_789_012_345, size - 2] {
        assert_eq!(dag.read_at(&cid, offset, 2).await.expect("memory"), "xx");
    }
    let mut reader = dag.reader(&cid, 5);
    assert_eq!(reader.try_next().await.expect("memory").expect("a piece"), "x");
}

#[tokio::test]
async fn a_chain_of_nodes_ends() {
    let dag = default_dag();
    let mut cid = put_raw(&dag, b"x").await;
    for depth in 1..=FILE_DEPTH_MAX + 1 {
        cid = put_node(&dag, &[(cid, 1)], b"", 1).await;
        let read = dag.read_at(&cid, 0, 1).await.map_err(|error| error.kind());
        let expected = if depth <= FILE_DEPTH_MAX { Ok(Bytes::from("x")) } else { Err(ErrorKind::Corrupt) };
        assert_eq!(read, expected, "depth {depth}");
    }
}

fn mutated() -> impl Strategy<Value = (u8, Vec<(proptest::sample::Index, u8)>, Option<proptest::sample::Index>)> {
    let edits = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4);
    (0..6u8, edits, proptest::option::weighted(0.2, any::<proptest::sample::Index>()))
}

/// A block of each kind, as it is written.
async fn seed(dag: &Dag, which: u8) -> Bytes {
    let meta = UnixfsMeta { mode: Some(0o755), mtime: Some(std::time::UNIX_EPOCH + Duration::new(1, 2)) };
    let entry = |number: u32| {
        let link = crate::dag::Link { cid: crate::cid_of(Codec::Raw, b"raw"), tsize: 3 };
        Ok(crate::dag::Entry { name: Name::new(number.to_string().as_bytes())?, link })
    };
    let cid = match which {
        0 => dag.import(&b"x"[..], meta).await.expect("memory").cid,
        1 | 2 => dag.import([7; 50].as_slice(), meta).await.expect("memory").cid,
        3 => dag.put_symlink(b"target", meta).await.expect("memory").cid,
        4 => dag.put_dir(stream::iter((0..2).map(entry)).boxed()).await.expect("memory").cid,
        _ => dag.put_dir(stream::iter((0..50).map(entry)).boxed()).await.expect("memory").cid,
    };
    dag.get_block(&cid).await.expect("memory")
}

/// Everything that can be asked of a node, of any kind, ends with an answer or an error.
async fn ask(dag: &Dag, cid: &Cid) {
    let name = Name::new(b"7").expect("a name");
    if let Ok(node) = dag.stat(cid).await
        && node.kind == FileKind::File
        && let Ok(read) = dag.read_at(cid, 3, 100).await
    {
        assert!(read.len() as u64 <= node.size.saturating_sub(3).min(100));
    }
    drop(dag.reader(cid, 0).take(100).try_collect::<Vec<_>>().await);
    drop(dag.read_symlink(cid).await);
    let found = dag.lookup(cid, &name).await;
    if let Ok(entries) = dag.list(cid, 0).take(1000).try_collect::<Vec<_>>().await {
        let listed = entries.iter().find(|entry| entry.name == name);
        assert_eq!(found.expect("what is listed can be looked up").as_ref(), listed);
    }
    let changes = std::collections::BTreeMap::from([(name, None)]);
    drop(dag.patch_dir(cid, &changes).await);
    let patches = stream::iter([Ok(crate::dag::Patch::Bytes(5, "patch".into()))]);
    drop(dag.splice(cid, patches.boxed(), 20).await);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn mutated_blocks_are_harmless((which, edits, cut) in mutated()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let dag = dag(Params { chunk_len: 8, width: 4, hamt_threshold: 500, ..Profile::default().params() });
            let mut block = seed(&dag, which).await.to_vec();
            for (at, byte) in edits {
                let at = at.index(block.len());
                block[at] = byte;
            }
            if let Some(cut) = cut {
                block.truncate(cut.index(block.len()));
            }
            let cid = dag.put_block(Codec::DagPb, block.into()).await.expect("memory");
            ask(&dag, &cid).await;
        });
    }

    #[test]
    fn any_block_is_harmless(block in proptest::collection::vec(any::<u8>(), 0..100)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let dag = default_dag();
            let cid = dag.put_block(Codec::DagPb, block.into()).await.expect("memory");
            ask(&dag, &cid).await;
        });
    }
}
