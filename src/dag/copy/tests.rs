use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::{
    join,
    stream::{self, BoxStream},
};

use super::*;
use crate::{
    BlockKey, BlockStore, Name,
    block::Mem,
    cid_of,
    dag::{DagOptions, Entry, GcOptions, Ipld, Link, UnixfsMeta},
};

/// A store that lets others run before each call, and counts what it was given and asked.
#[derive(Debug, Default)]
struct Store {
    inner: Mem,
    gets: AtomicU64,
    puts: AtomicU64,
}

#[async_trait]
impl BlockStore for Store {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        tokio::task::yield_now().await;
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: std::ops::Range<usize>) -> Result<Option<Bytes>> {
        self.inner.get_range(key, range).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        tokio::task::yield_now().await;
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.inner.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        tokio::task::yield_now().await;
        self.inner.delete(key).await
    }
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        tokio::task::yield_now().await;
        self.inner.has(key).await
    }
    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.inner.block_len(key).await
    }
    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

struct Side {
    store: Arc<Store>,
    dag: Dag,
}

fn side() -> Side {
    let store = Arc::new(Store::default());
    let options = DagOptions { verified_len_max: 0, ..DagOptions::default() };
    Side { dag: Dag::new(store.clone(), options), store }
}

async fn file(dag: &Dag, text: String) -> Link {
    dag.import(text.as_bytes(), UnixfsMeta::default()).await.expect("a file")
}

async fn dir(dag: &Dag, entries: Vec<(String, Link)>) -> Link {
    let entry = |(name, link): (String, Link)| Ok(Entry { name: Name::new(name.as_bytes())?, link });
    dag.put_dir(stream::iter(entries.into_iter().map(entry)).boxed()).await.expect("a directory")
}

/// Two directories of 20 files each below one: 43 blocks. `changed` is what the last file of the second says.
async fn tree(dag: &Dag, changed: &str) -> Cid {
    let mut dirs = Vec::new();
    for outer in 0..2 {
        let mut files = Vec::new();
        for inner in 0..20 {
            let text = if (outer, inner) == (1, 19) { changed } else { "" };
            files.push((inner.to_string(), file(dag, format!("{outer} {inner} {text}")).await));
        }
        dirs.push((outer.to_string(), dir(dag, files).await));
    }
    dir(dag, dirs).await.cid
}

async fn copied(to: &Side, from: &Side, root: &Cid) -> (u64, u64) {
    let moved = to.dag.copy_from(&from.dag, root, None).await.expect("copies").moved;
    to.dag.check_whole(root).await.expect("whole");
    (moved.block_count, moved.there_count)
}

/// What is there is not moved, and not even read where it is a leaf; of a change, the way to it.
#[tokio::test]
async fn only_what_is_missing_is_moved() {
    let (from, to) = (side(), side());
    let one = tree(&from.dag, "before").await;
    let other = tree(&from.dag, "after").await;
    assert_eq!(copied(&to, &from, &one).await, (43, 0));
    let read = from.store.gets.swap(0, Ordering::Relaxed);
    assert_eq!((read, to.store.puts.swap(0, Ordering::Relaxed)), (43, 43));
    assert_eq!(copied(&to, &from, &one).await, (0, 43));
    assert_eq!(copied(&to, &from, &other).await, (3, 40), "a leaf, its directory, and the one above");
    assert_eq!((from.store.gets.load(Ordering::Relaxed), to.store.puts.load(Ordering::Relaxed)), (3, 3));
    // And back: nothing.
    assert_eq!(copied(&from, &to, &other).await, (0, 43));
}

/// A node that is there without what is below it vouches for nothing.
#[tokio::test]
async fn what_a_node_lacks_is_moved() {
    let (from, to) = (side(), side());
    let root = tree(&from.dag, "").await;
    copied(&to, &from, &root).await;
    let all: Vec<BlockKey> = to.dag.keys().map(|key| key.expect("a key")).collect().await;
    for key in &all {
        to.store.delete(key).await.expect("deleted");
        assert_eq!(copied(&to, &from, &root).await, (1, 42), "{key:?}");
    }
}

/// What a killed copy left is gone on with.
#[tokio::test]
async fn a_copy_that_was_dropped_is_gone_on_with() {
    let (from, to) = (side(), side());
    let root = tree(&from.dag, "").await;
    let mut turns = 0;
    loop {
        turns += 1;
        let mut copying = Box::pin(to.dag.copy_from(&from.dag, &root, None));
        let mut ended = false;
        for _ in 0..turns {
            ended = futures_util::poll!(&mut copying).is_ready();
            if ended {
                break;
            }
            // The runtime gives a task only so many steps at a time.
            tokio::task::yield_now().await;
        }
        if ended {
            break;
        }
        drop(copying);
        let left = copied(&to, &from, &root).await.0;
        assert!(left <= 43);
        for key in to.dag.keys().map(|key| key.expect("a key")).collect::<Vec<_>>().await {
            to.store.delete(&key).await.expect("deleted");
        }
    }
    assert!(turns > 4, "it was dropped at several places: {turns}");
}

#[tokio::test]
async fn wrong_blocks_are_not_moved_and_wrong_nodes_are_replaced() {
    let (from, to) = (side(), side());
    let root = tree(&from.dag, "").await;
    copied(&to, &from, &root).await;
    let spoil = async |side: &Side, cid: &Cid| {
        let key = BlockKey::from(cid);
        side.store.delete(&key).await.expect("deleted");
        side.store.put(&key, "other bytes".into()).await.expect("put");
    };
    spoil(&to, &root).await;
    assert_eq!(copied(&to, &from, &root).await, (1, 42), "the root anew");

    let empty = side();
    let leaf = file(&from.dag, "0 0 ".to_owned()).await.cid;
    spoil(&from, &leaf).await;
    let error = empty.dag.copy_from(&from.dag, &root, None).await.expect_err("a wrong leaf");
    assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(leaf.to_string().as_str())));
    assert!(empty.dag.get_block(&leaf).await.is_err());
    from.store.delete(&BlockKey::from(&leaf)).await.expect("deleted");
    let error = empty.dag.copy_from(&from.dag, &root, None).await.expect_err("an absent leaf");
    assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(leaf.to_string().as_str())));
}

/// dag-cbor, dag-json, blocks in their CIDs, and a block that two codecs lead to.
#[tokio::test]
async fn every_codec_is_followed() {
    let (from, to) = (side(), side());
    let leaf = file(&from.dag, "leaf".to_owned()).await;
    let inner = dir(&from.dag, vec![("a".to_owned(), leaf)]).await.cid;
    let as_raw = cid_of(Codec::Raw, &from.dag.get_block(&inner).await.expect("there"));
    let inline: Cid = "bafkqabiaaebagba".parse().expect("an identity CID");
    let json = from.dag.put_block(Codec::DagJson, format!(r#"[{{"/":"{inner}"}}]"#).into()).await.expect("put");
    let list = Ipld::List(vec![as_raw.into(), json.into(), inline.into()]);
    let root = from.dag.put_linked(&list).await.expect("put");
    assert_eq!(copied(&to, &from, &root).await.0, 4, "two CIDs have one block");
    assert_eq!(to.dag.keys().count().await, 4);

    let bad = from.dag.put_block(Codec::DagPb, "no node".into()).await.expect("put");
    let error = to.dag.copy_from(&from.dag, &bad, None).await.expect_err("what it leads to is not known");
    assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(bad.to_string().as_str())));
}

/// Wherever a collection meets a copy, over garbage that the copy counts on too: what the report holds stays until it is
/// dropped.
#[tokio::test]
async fn a_collection_takes_nothing_of_a_copy() {
    let (from, options) = (side(), GcOptions::new(&crate::testing::env()));
    let root = tree(&from.dag, "").await;
    let half = tree(&from.dag, "other").await;
    for pause in 0..120 {
        let to = side();
        copied(&to, &from, &half).await;
        let roots = || stream::empty().boxed();
        let collect = async {
            for _ in 0..pause {
                tokio::task::yield_now().await;
            }
            to.dag.collect_garbage(roots, &options).await.expect("collects");
        };
        let (report, ()) = join!(to.dag.copy_from(&from.dag, &root, None), collect);
        let report = report.expect("copies");
        to.dag.check_whole(&root).await.unwrap_or_else(|error| panic!("after {pause} turns: {error:#}"));
        to.dag.collect_garbage(roots, &options).await.expect("collects");
        to.dag.check_whole(&root).await.unwrap_or_else(|error| panic!("after {pause} turns: {error:#}"));
        drop(report);
        to.dag.collect_garbage(roots, &options).await.expect("collects");
        assert_eq!(to.dag.keys().count().await, 0, "and nothing for longer");
    }
}
