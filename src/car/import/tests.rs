//! Goal: an import takes what is below the wanted roots, all of it and nothing else, or says what is wrong.
//!
//! Method: random DAGs are exported, damaged, cut, put into other orders and given company, and imported into an empty
//! store, whose blocks are compared with what the roots reach.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    BlockKey, Codec,
    block::Mem,
    car::{self, Archive, CheckReport, Writer},
    cid_of,
    dag::{
        DagOptions, ExportOptions, GcOptions, Ipld,
        pb::{PbLink, PbNode},
    },
};

fn dag() -> Dag {
    Dag::new(Arc::new(Mem::default()), DagOptions::default())
}

fn root(cid: Cid) -> ImportOptions {
    ImportOptions { roots: vec![cid], ..ImportOptions::default() }
}

async fn take(bytes: &[u8], options: &ImportOptions) -> Result<(Dag, ImportReport)> {
    let dag = dag();
    let report = import(&dag, bytes, options).await?;
    Ok((dag, report))
}

async fn keys(dag: &Dag) -> BTreeSet<BlockKey> {
    dag.keys().try_collect().await.expect("listed")
}

fn keys_of(blocks: &[(Cid, Bytes)]) -> BTreeSet<BlockKey> {
    blocks.iter().map(|(cid, _)| BlockKey::from(cid)).collect()
}

async fn exported(dag: &Dag, root: &Cid) -> Vec<(Cid, Bytes)> {
    let export = dag.export(root, &[], &ExportOptions::default()).await.expect("begun");
    export.blocks().try_collect().await.expect("exported")
}

async fn car_of(roots: &[Cid], blocks: &[(Cid, Bytes)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), roots).await.expect("memory");
    for (cid, block) in blocks {
        writer.write(cid, block).await.expect("memory");
    }
    writer.finish().await.expect("memory")
}

/// A DAG of this shape: the links of each node, by the indices of nodes before it.
async fn dag_of_shape(shape: &[Vec<prop::sample::Index>]) -> (Dag, Cid) {
    let dag = dag();
    let mut nodes: Vec<Cid> = Vec::new();
    for (i, links) in shape.iter().enumerate() {
        let children: Vec<Cid> = links.iter().filter(|_| i > 0).map(|link| nodes[link.index(i)]).collect();
        let cid = match i % 3 {
            _ if children.is_empty() => dag.put_block(Codec::Raw, format!("leaf {i}").into()).await,
            0 => {
                let link = |cid| PbLink { cid, name: Some(format!("{i}").into()), tsize: None };
                let node = PbNode { links: children.into_iter().map(link).collect(), data: None };
                dag.put_block(Codec::DagPb, node.encode()).await
            }
            _ => {
                let values = [Ipld::from(i as u64)].into_iter().chain(children.into_iter().map(Ipld::from));
                dag.put_linked(&Ipld::List(values.collect())).await
            }
        };
        nodes.push(cid.expect("put"));
    }
    let root = *nodes.last().expect("a node");
    (dag, root)
}

fn any_shape() -> impl Strategy<Value = Vec<Vec<prop::sample::Index>>> {
    proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..4), 1..10)
}

/// Three levels: the root, two nodes, and leaves of which one is shared.
async fn some_dag() -> (Dag, Cid) {
    let dag = dag();
    let mut leaves = Vec::new();
    for i in 0..3u8 {
        leaves.push(dag.put_block(Codec::Raw, vec![i; 300].into()).await.expect("put"));
    }
    let left = dag.put_linked(&Ipld::List(vec![leaves[0].into(), leaves[1].into()])).await.expect("put");
    let right = dag.put_linked(&Ipld::List(vec![leaves[1].into(), leaves[2].into()])).await.expect("put");
    let root = dag.put_linked(&Ipld::List(vec![left.into(), right.into()])).await.expect("put");
    (dag, root)
}

/// A source fills the disk with what was asked for and nothing else, whatever it sends and in whatever order.
#[tokio::test]
async fn what_nobody_asked_for_is_left_out() {
    let (from, cid) = some_dag().await;
    let wanted = exported(&from, &cid).await;
    let other = (cid_of(Codec::Raw, b"other"), Bytes::from_static(b"other"));
    let mut all = wanted.clone();
    all.insert(0, other.clone());
    all.insert(3, wanted[2].clone());
    all.push(other.clone());
    let bytes = car_of(&[cid, other.0], &all).await;
    let (to, report) = take(&bytes, &root(cid)).await.expect("taken");
    assert_eq!(keys(&to).await, keys_of(&wanted));
    assert_eq!((report.block_count, report.passed_count), (6, 3));
    assert_eq!((report.roots.as_slice(), report.is_whole()), ([(cid, true)].as_slice(), true));
    let (to, report) = take(&bytes, &ImportOptions::default()).await.expect("both roots of the header");
    assert_eq!((keys(&to).await.len(), report.roots), (7, vec![(cid, true), (other.0, true)]));
    let (to, report) = take(&bytes, &ImportOptions { all: true, ..root(cid) }).await.expect("all");
    assert_eq!((keys(&to).await.len(), report.block_count, report.passed_count), (7, 7, 2));
    let nameless = car_of(&[], &all).await;
    assert_eq!(
        take(&nameless, &ImportOptions::default()).await.expect_err("whose?").kind(),
        ErrorKind::InvalidArgument
    );
    let (to, report) = take(&nameless, &ImportOptions { all: true, ..ImportOptions::default() }).await.expect("all");
    assert_eq!((keys(&to).await.len(), report.roots.len()), (7, 0));
}

/// What is missing is counted and named; what the store had before is not missing.
#[tokio::test]
async fn parts_of_dags_are_told() {
    let (from, cid) = some_dag().await;
    let blocks = exported(&from, &cid).await;
    for (index, (left_out, block)) in blocks.iter().enumerate() {
        let rest: Vec<_> = blocks.iter().filter(|(cid, _)| cid != left_out).cloned().collect();
        let bytes = car_of(&[cid], &rest).await;
        let (to, report) = take(&bytes, &ImportOptions::default()).await.expect("taken");
        assert_eq!((report.missing_count, report.missing.as_slice()), (1, [*left_out].as_slice()), "block {index}");
        assert_eq!(report.roots, [(cid, false)]);
        let error =
            import(&to, bytes.as_slice(), &ImportOptions { whole: true, ..root(cid) }).await.expect_err("not whole");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:#}");
        assert!(format!("{error:#}").contains(&left_out.to_string()), "{error:#}");
        to.put_hashed(left_out, block.clone()).await.expect("put");
        let report = import(&to, bytes.as_slice(), &ImportOptions::default()).await.expect("taken");
        // Of what only the missing one leads to nothing came: it was left out, the first time.
        let is_leaf = left_out.codec() == Some(Codec::Raw);
        assert!(report.is_whole() == is_leaf || report.missing_count > 0, "block {index}: {report:?}");
        let checked: CheckReport = car::check(bytes.as_slice(), None).await.expect("sound");
        assert_eq!((checked.missing_count, checked.missing.as_slice()), (1, [*left_out].as_slice()));
        assert_eq!((checked.block_count, checked.roots), (5, vec![(cid, *left_out != cid)]));
    }
}

/// A node within its CID does not come as a section, and what it links to is wanted all the same.
#[tokio::test]
async fn links_of_a_node_within_its_cid_are_wanted() {
    let leaf = (cid_of(Codec::Raw, b"leaf"), Bytes::from_static(b"leaf"));
    let block = PbNode { links: vec![PbLink { cid: leaf.0, name: None, tsize: None }], data: None }.encode();
    let inline = [&[1, 0x70, 0, u8::try_from(block.len()).expect("short")], &block[..]].concat();
    let inline = Cid::from_bytes(&inline).expect("an identity CID");
    let value = crate::dag::cbor::encode(&Ipld::List(vec![inline.into()])).expect("a value");
    let top = (cid_of(Codec::DagCbor, &value), Bytes::from(value));
    for (blocks, roots) in [(vec![top.clone(), leaf.clone()], [top.0]), (vec![leaf.clone()], [inline])] {
        let bytes = car_of(&roots, &blocks).await;
        let (to, report) = take(&bytes, &ImportOptions::default()).await.expect("taken");
        assert_eq!((keys(&to).await, report.is_whole()), (keys_of(&blocks), true));
        assert_eq!(car::check(bytes.as_slice(), None).await.expect("sound").missing_count, 0);
    }
}

/// What cannot be read as its codec says is taken, and told, so that nobody pins what a collection could not follow.
#[tokio::test]
async fn unreadable_blocks_are_told() {
    let bad = (cid_of(Codec::DagPb, b"no node"), Bytes::from_static(b"no node"));
    let bytes = car_of(&[bad.0], std::slice::from_ref(&bad)).await;
    for all in [false, true] {
        let options = ImportOptions { all, ..ImportOptions::default() };
        let (_, report) = take(&bytes, &options).await.expect("taken");
        assert_eq!((report.unreadable_count, report.roots.as_slice()), (1, [(bad.0, false)].as_slice()));
    }
}

/// Children first, and too much of it to wait for the parent in memory: a pipe is refused, the file itself is not.
#[tokio::test]
async fn what_comes_too_early_is_bounded() {
    let mut blocks: Vec<(Cid, Bytes)> = Vec::new();
    for i in 0..40u8 {
        let block = Bytes::from(vec![i; 2 << 20]);
        blocks.push((cid_of(Codec::Raw, &block), block));
    }
    let links = Ipld::List(blocks.iter().map(|(cid, _)| Ipld::from(*cid)).collect());
    let links = crate::dag::cbor::encode(&links).expect("a value");
    let top = cid_of(Codec::DagCbor, &links);
    blocks.push((top, links.into()));
    let bytes = car_of(&[top], &blocks).await;
    let error = take(&bytes, &ImportOptions::default()).await.expect_err("too much to hold");
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:#}");
    assert!(format!("{error:#}").contains("at byte "), "{error:#}");
    let archive = Arc::new(Archive::open(Arc::new(Bytes::from(bytes))).await.expect("an archive"));
    let sent: Vec<Bytes> = archive.in_order(&[top]).try_collect().await.expect("in order");
    let (to, report) = take(&sent.concat(), &ImportOptions::default()).await.expect("taken");
    assert_eq!((keys(&to).await, report.is_whole()), (keys_of(&blocks), true));
}

/// A block of the file that is not its CID's is told with its place in the file, though the file is read in another order.
#[tokio::test]
async fn an_archive_tells_the_place_of_a_bad_block() {
    let (from, cid) = some_dag().await;
    let mut blocks = exported(&from, &cid).await;
    blocks.reverse();
    let good = car_of(&[cid], &blocks).await;
    let mut reader = Reader::open(good.as_slice()).await.expect("a CAR");
    while let Some(section) = reader.next().await.expect("sound") {
        let mut bytes = good.clone();
        bytes[usize::try_from(reader.offset()).expect("short") - 1] ^= 1;
        let archive = Arc::new(Archive::open(Arc::new(Bytes::from(bytes))).await.expect("sections"));
        let error = archive.in_order(&[cid]).try_collect::<Vec<_>>().await.expect_err("bad");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(format!("{error:#}").contains(&format!("at byte {}", section.offset)), "{error:#}");
    }
    let cut = Bytes::copy_from_slice(&good[..good.len() - 1]);
    assert_eq!(Archive::open(Arc::new(cut)).await.expect_err("cut off").kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn progress_is_told_to_the_end() {
    let (from, cid) = some_dag().await;
    let bytes = car_of(&[cid], &exported(&from, &cid).await).await;
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tell = told.clone();
    let on_progress: OnImportProgress = Arc::new(move |at| tell.lock().expect("unpoisoned").push(at));
    take(&bytes, &ImportOptions { on_progress: Some(on_progress), ..ImportOptions::default() }).await.expect("taken");
    let told = told.lock().expect("unpoisoned");
    assert!(told.windows(2).all(|pair| pair[0].block_count < pair[1].block_count), "{told:?}");
    assert_eq!(told.last().map(|last| last.block_count), Some(6));
    assert!(told.last().is_some_and(|last| last.offset == bytes.len() as u64), "{told:?}");
}

proptest! {
    /// In any order, and as a file read anywhere, it is the same DAG in the end; exported again, the same bytes.
    #[test]
    fn what_is_exported_is_imported(shape in any_shape(), order in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (from, cid) = dag_of_shape(&shape).await;
            let blocks = exported(&from, &cid).await;
            let bytes = car_of(&[cid], &blocks).await;
            let mut shuffled = blocks.clone();
            shuffled.sort_by_key(|(cid, _)| blake3::hash(&[&order.to_be_bytes(), cid.digest()].concat()).as_bytes().to_vec());
            let shuffled = car_of(&[cid], &shuffled).await;
            let archive = Arc::new(Archive::open(Arc::new(Bytes::from(shuffled.clone()))).await.expect("an archive"));
            let in_order: Vec<Bytes> = archive.in_order(&[cid]).try_collect().await.expect("in order");
            prop_assert_eq!(in_order.concat(), &bytes[..]);
            for sent in [&bytes, &shuffled] {
                let (to, report) = take(sent, &ImportOptions::default()).await.expect("taken");
                prop_assert!(report.is_whole() && report.passed_count == 0);
                prop_assert_eq!(report.block_count, blocks.len() as u64);
                prop_assert_eq!(keys(&to).await, keys_of(&blocks));
                prop_assert_eq!(&exported(&to, &cid).await, &blocks);
            }
            Ok(())
        })?;
    }

    /// Cut off anywhere, or with any bit flipped: an error, or told not to be whole, or the flip changed nothing that the
    /// DAG is made of.
    #[test]
    fn damage_is_told(shape in any_shape(), at in any::<prop::sample::Index>(), bit in proptest::option::of(0..8u8), all: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (from, cid) = dag_of_shape(&shape).await;
            let blocks = exported(&from, &cid).await;
            let mut bytes = car_of(&[cid], &blocks).await;
            let at = at.index(bytes.len());
            match bit {
                Some(bit) => bytes[at] ^= 1 << bit,
                None => bytes.truncate(at),
            }
            let options = ImportOptions { all, ..ImportOptions::default() };
            if let Ok((to, report)) = take(&bytes, &options).await && report.is_whole() && report.roots == [(cid, true)] {
                prop_assert!(bit.is_some(), "cut at {at}");
                prop_assert_eq!(&exported(&to, &cid).await, &blocks);
            }
            let archive = Archive::open(Arc::new(Bytes::from(bytes.clone()))).await.map(Arc::new);
            if let Ok(archive) = archive
                && let Ok(sent) = archive.in_order(&[cid]).try_collect::<Vec<_>>().await
                && let Ok((to, report)) = take(&sent.concat(), &options).await
                && report.is_whole()
            {
                prop_assert_eq!(&exported(&to, &cid).await, &blocks);
            }
            // It ends, whatever it finds.
            car::check(bytes.as_slice(), None).await.ok();
            Ok(())
        })?;
    }
}

/// A leaf that an earlier import left without a pin was collected between the look at it and the pin of a root above it: the
/// root was told to be whole, and was not.
#[tokio::test]
async fn what_the_store_had_is_kept_until_the_report_is_dropped() {
    let dag = dag();
    let leaf = dag.put_block(Codec::Raw, "here before".into()).await.expect("put");
    let node = PbNode { links: vec![PbLink { cid: leaf, name: None, tsize: None }], data: None }.encode();
    let top = cid_of(Codec::DagPb, &node);
    let car = car_of(&[top], &[(top, node)]).await;
    let report = import(&dag, car.as_slice(), &ImportOptions::default()).await.expect("imported");
    assert_eq!((&*report.roots, report.missing_count), (&[(top, true)][..], 0));
    let collect = || async {
        let options = GcOptions::new(&crate::testing::env());
        dag.collect_garbage(|| stream::empty().boxed(), &options).await.expect("collected").blocks_removed
    };
    assert_eq!(collect().await, 0, "both are kept");
    drop(report);
    assert_eq!(collect().await, 2, "nothing else keeps them");
}
