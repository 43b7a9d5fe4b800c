//! A copy from a gateway: one CAR of what is below a node of which little is here, and single blocks of the rest. Whatever the
//! gateway gives, the copy is whole, and only what was missing was put.

use std::{sync::Arc, time::Instant};

use futures_util::{StreamExt as _, stream};
use muxfs::{
    Cid,
    block::Mem,
    dag::{CopyProgress, Dag, DagOptions, Entry, Link, Params, Profile, UnixfsMeta},
    testing::fault::Dice,
};
use muxfs_ipfs::{Gateway, HttpOptions, Sources, SourcesOptions};

use crate::{
    ahead::{Gives, gateway, gateway_of, name},
    server::PATIENCE,
};

const DIR_COUNT: usize = 3;
const FILE_COUNT: usize = 40;

fn dag_over(blocks: Arc<Mem>) -> Dag {
    let params = Params { chunk_len: 8 << 10, ..Profile::KuboCidV1Legacy.params() };
    Dag::new(blocks, DagOptions { params, ..DagOptions::default() })
}

fn empty() -> Dag {
    dag_over(Arc::default())
}

/// Directories of files, all different, some of several leaves, and how many blocks that is; the last of the last says which tree it
/// is.
async fn tree(dag: &Dag, which: u64) -> (Cid, u64) {
    let mut dirs = Vec::new();
    for at in 0..DIR_COUNT {
        let mut files = Vec::new();
        for n in 0..FILE_COUNT {
            let is_last = at + 1 == DIR_COUNT && n + 1 == FILE_COUNT;
            let seed = (at * FILE_COUNT + n) as u64 + if is_last { 1000 * which } else { 0 };
            let len = if n == 0 { 50_000 } else { 1000 };
            let link = dag.import(&Dice::new(seed).bytes(len)[..], UnixfsMeta::default()).await.expect("a file");
            files.push((format!("file {n}"), link));
        }
        dirs.push((format!("dir {at}"), dir(dag, files).await));
    }
    let root = dir(dag, dirs).await.cid;
    (root, dag.walk(&root).count().await as u64)
}

async fn dir(dag: &Dag, links: Vec<(String, Link)>) -> Link {
    let entries = links.into_iter().map(|(text, link)| Ok(Entry { name: name(&text), link }));
    dag.put_dir(stream::iter(entries).boxed()).await.expect("a directory")
}

/// Copies from a gateway; all of it is here then.
async fn copy(here: &Dag, gateway: Gateway, root: &Cid) -> CopyProgress {
    let sources = Sources::new(Vec::new(), SourcesOptions::default()).and_gateway(Arc::new(gateway));
    let moved = here.copy_from(&empty().with_elsewhere(Arc::new(sources)), root, None).await.expect("copied").moved;
    assert!(here.walk(root).all(async |visit| visit.error.is_none()).await);
    moved
}

#[tokio::test]
async fn what_is_not_here_comes_as_one_car_and_what_is_does_not_come() {
    let blocks = Arc::new(Mem::default());
    let dag = dag_over(blocks.clone());
    let ((root, count), (changed, _)) = (tree(&dag, 0).await, tree(&dag, 1).await);
    let (server, asked) = gateway(dag, blocks, Gives::What).await;
    let patient = || Gateway::new(server.url(), HttpOptions::default());
    let here = empty();
    let moved = copy(&here, patient(), &root).await;
    assert_eq!((moved.block_count, moved.there_count), (count, 0));
    assert_eq!(asked.counts(), (1, 1), "the root, and what is below it");
    assert_eq!(copy(&here, patient(), &root).await.block_count, 0);
    assert_eq!(asked.counts(), (1, 1));
    // Of another tree that is nearly the same: the root, a directory and a file.
    let moved = copy(&here, patient(), &changed).await;
    assert_eq!((moved.block_count, moved.there_count), (3, count - 3));
    assert_eq!(asked.counts(), (4, 1));
}

#[tokio::test]
async fn whatever_a_gateway_gives_a_copy_is_whole() {
    for gives in [
        Gives::Status(400),
        Gives::Status(404),
        Gives::Status(429),
        Gives::Status(500),
        Gives::Page,
        Gives::Cut(0),
        Gives::Cut(100_000),
        Gives::First(0),
        Gives::First(1),
        Gives::First(70),
        Gives::Silent(0),
        Gives::Silent(100_000),
        Gives::Bent(20),
        Gives::Bent(100_000),
        Gives::Stranger,
    ] {
        let blocks = Arc::new(Mem::default());
        let dag = dag_over(blocks.clone());
        let (root, count) = tree(&dag, 0).await;
        let (server, asked) = gateway(dag, blocks, gives).await;
        let begun = Instant::now();
        let moved = copy(&empty(), gateway_of(&server, gives), &root).await;
        assert_eq!((moved.block_count, moved.there_count), (count, 0), "{gives:?}");
        assert!(begun.elapsed() < PATIENCE, "{gives:?}: {:?}", begun.elapsed());
        let (_, cars) = asked.counts();
        assert!((1..=3 + 4).contains(&cars), "{gives:?}: {cars} CARs");
    }
}
