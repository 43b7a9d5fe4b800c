//! What a collection keeps, what it refuses, what it costs, and what a crash leaves of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use tokio::sync::Semaphore;

use super::{GcOptions, GcReport, GcRoot, filter::KeyFilter, mark::Marks};
use crate::{
    BlockKey, BlockStore, Cid, Codec, Env, Error, ErrorKind, Prefix, Result, Source, Store,
    block::{Mem, Segments, SegmentsOptions},
    cas::Cas,
    cid_of,
    dag::{
        Dag, DagOptions, Ipld, UnixfsMeta,
        pb::{PbLink, PbNode},
    },
    media::MemMedia,
    pins::Pins,
    testing::{
        env,
        fault::{BlockCall, Crash, CrashMedia, Fault, Faulty},
    },
};

fn options(run: u8) -> GcOptions {
    GcOptions { dry_run: false, secret: [run; 32], on_progress: None }
}

fn roots<'a>(roots: &[GcRoot]) -> BoxStream<'a, Result<GcRoot>> {
    stream::iter(roots.to_vec()).map(Ok).boxed()
}

async fn keys(store: &dyn BlockStore) -> BTreeSet<BlockKey> {
    store.keys().try_collect().await.expect("keys")
}

async fn leaf(dag: &Dag, name: &str) -> Cid {
    dag.put_block(Codec::Raw, format!("leaf {name}").into()).await.expect("put")
}

async fn node(dag: &Dag, children: &[Cid]) -> Cid {
    dag.put_linked(&Ipld::List(children.iter().map(|cid| Ipld::from(*cid)).collect())).await.expect("put")
}

fn faulty() -> (Arc<Faulty<Mem>>, Dag) {
    let store = Arc::new(Faulty::new(Mem::default()));
    (store.clone(), Dag::new(store, DagOptions { verified_len_max: 0, ..DagOptions::default() }))
}

#[tokio::test]
async fn links_of_every_codec_keep_what_they_lead_to() {
    let (store, dag) = faulty();
    let leaves =
        [leaf(&dag, "pb").await, leaf(&dag, "cbor").await, leaf(&dag, "json").await, leaf(&dag, "inline").await];
    let links = vec![PbLink { cid: leaves[0], name: Some(Bytes::new()), tsize: None }];
    let pb = dag.put_block(Codec::DagPb, PbNode { links, data: None }.encode()).await.expect("put");
    let json = dag.put_block(Codec::DagJson, format!(r#"{{"a":{{"/":"{}"}}}}"#, leaves[2]).into()).await.expect("put");
    // An identity CID has no block, and what it links to is linked all the same.
    let inline = crate::dag::cbor::encode(&Ipld::from(leaves[3])).expect("a link");
    let head = [1, 0x71, 0, u8::try_from(inline.len()).expect("short")];
    let inline = Cid::from_bytes(&[&head[..], &inline].concat()).expect("an identity CID");
    let root = node(&dag, &[pb, leaves[1], json, inline]).await;
    let alone = node(&dag, &[leaf(&dag, "below a block that is kept alone").await]).await;
    node(&dag, &[leaf(&dag, "garbage").await, leaves[0]]).await;

    let kept = [GcRoot::Dag(root), GcRoot::Block(alone)];
    let dry = GcOptions { dry_run: true, ..options(1) };
    let told = dag.collect_garbage(|| roots(&kept), &dry).await.expect("a dry run");
    assert_eq!(keys(&*store).await.len(), 11, "a dry run removes nothing");
    let report = dag.collect_garbage(|| roots(&kept), &options(1)).await.expect("a run");
    let there: BTreeSet<_> = leaves.iter().chain([&pb, &json, &root, &alone]).map(BlockKey::from).collect();
    assert_eq!(keys(&*store).await, there);
    assert_eq!((report.blocks_kept, report.blocks_removed, report.blocks_fresh), (8, 3, 0));
    assert!(report.bytes_removed > 30 && told.bytes_kept.is_some_and(|bytes| bytes > 100));
    assert_eq!(report, GcReport { bytes_kept: None, ..told });
    let again = dag.collect_garbage(|| roots(&kept), &options(2)).await.expect("again");
    assert_eq!(again, GcReport { blocks_removed: 0, bytes_removed: 0, ..report });
}

/// Whatever is unknown could be all that keeps a block.
#[tokio::test]
async fn an_error_while_marking_removes_nothing() {
    let (store, dag) = faulty();
    let below = node(&dag, &[leaf(&dag, "kept").await]).await;
    let root = node(&dag, &[below]).await;
    let no_node = dag.put_block(Codec::DagCbor, "no node".into()).await.expect("put");
    leaf(&dag, "garbage").await;
    let before = keys(&*store).await;
    let failing = |kind| Error::new(kind, "test.roots");

    let listed = [Ok(GcRoot::Dag(root)), Err(failing(ErrorKind::Io))];
    let error = dag.collect_garbage(|| stream::iter(listed).boxed(), &options(1)).await.expect_err("half a list");
    assert_eq!(error.kind(), ErrorKind::Io);
    let faults = [
        (Fault::Lose, ErrorKind::NotFound),
        (Fault::FlipBit(9), ErrorKind::Corrupt),
        (Fault::Fail(ErrorKind::Unavailable), ErrorKind::Unavailable),
    ];
    for (fault, kind) in faults {
        store.fault(&BlockKey::from(&below), fault);
        let error = dag.collect_garbage(|| roots(&[root.into()]), &options(1)).await.expect_err("a bad node");
        assert_eq!((error.kind(), error.path()), (kind, Some(below.to_string().as_str())));
        store.heal();
    }
    let error = dag.collect_garbage(|| roots(&[root.into(), no_node.into()]), &options(1)).await.expect_err("no node");
    assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(no_node.to_string().as_str())));
    let absent = cid_of(Codec::DagCbor, b"absent");
    let error = dag.collect_garbage(|| roots(&[absent.into()]), &options(1)).await.expect_err("absent");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(keys(&*store).await, before);
    assert_eq!(store.calls(BlockCall::Delete), 0);

    // Anybody can lease what is not there: that stops nobody.
    let lease = dag.lease(&absent);
    let report = dag.collect_garbage(|| roots(&[root.into(), absent_leaf().into()]), &options(1)).await.expect("a run");
    assert_eq!((report.blocks_kept, report.blocks_removed), (3, 2));
    drop(lease);
}

/// A leaf is not read, so one that is absent is not met.
fn absent_leaf() -> Cid {
    cid_of(Codec::Raw, b"an absent leaf")
}

#[tokio::test]
async fn an_error_while_sweeping_ends_it_and_the_next_run_goes_on() {
    let (store, dag) = faulty();
    let root = node(&dag, &[leaf(&dag, "kept").await]).await;
    for n in 0..40 {
        leaf(&dag, &n.to_string()).await;
    }
    for call in [BlockCall::Keys, BlockCall::Delete, BlockCall::Flush] {
        store.fail_next(call, ErrorKind::Unavailable);
        let error = dag.collect_garbage(|| roots(&[root.into()]), &options(1)).await.expect_err("an outage");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    let rotten = leaf(&dag, "rotten").await;
    store.fault(&BlockKey::from(&rotten), Fault::Fail(ErrorKind::Corrupt));
    let report = dag.collect_garbage(|| roots(&[root.into()]), &options(2)).await.expect("a run");
    assert_eq!((report.blocks_kept, report.blocks_removed), (2, 1), "what the store knows to be bad goes too");
    assert_eq!(keys(&*store).await.len(), 2);
}

/// A chain of nodes as long as memory allows would overflow a stack, and a diamond of diamonds has 2^60 paths.
#[tokio::test]
async fn depth_and_paths_cost_nothing() {
    let (store, dag) = faulty();
    let mut root = leaf(&dag, "the end").await;
    for n in 0..20_000 {
        root = if n < 60 { node(&dag, &[root, root]).await } else { node(&dag, &[root]).await };
    }
    let report = dag.collect_garbage(|| roots(&[root.into()]), &options(1)).await.expect("a run");
    assert_eq!((report.blocks_kept, report.blocks_removed), (20_001, 0));
    assert_eq!(store.calls(BlockCall::Read), 20_000, "each node is read once, and the leaf is not");
}

/// A block that was kept in memory was still got after it was removed, and could be pinned.
#[tokio::test]
async fn what_is_removed_is_not_got_any_more() {
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let cid = leaf(&dag, "read before").await;
    dag.get_block(&cid).await.expect("it is there");
    dag.collect_garbage(|| roots(&[]), &options(1)).await.expect("a run");
    assert_eq!(dag.get_block(&cid).await.expect_err("it is gone").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn sessions_keep_what_was_put_since_the_oldest_began() {
    let (store, dag) = faulty();
    let put = async |name: &str| BlockKey::from(&leaf(&dag, name).await);
    let run = async |run| dag.collect_garbage(|| roots(&[]), &options(run)).await.expect("a run").blocks_fresh;
    put("before").await;
    let first = dag.begin_write();
    let in_first = put("in the first").await;
    assert_eq!(run(1).await, 1);
    let second = dag.begin_write();
    let in_second = put("in the second").await;
    assert_eq!(run(2).await, 2);
    drop(first);
    assert_eq!(run(3).await, 1, "what was put before a run that followed the first");
    assert_eq!(keys(&*store).await, BTreeSet::from([in_second]));
    put("in the first").await;
    assert!(keys(&*store).await.contains(&in_first));
    drop(second);
    assert_eq!(run(4).await, 0);
    assert!(keys(&*store).await.is_empty());
}

#[tokio::test]
async fn stamps_that_nobody_needs_take_no_memory() {
    let (_, dag) = faulty();
    leaf(&dag, "without a session").await;
    assert_eq!(dag.epochs.stamp_count(), 0);
    let mut session = dag.begin_write();
    for n in 0..200_000_u32 {
        let key = BlockKey::new(&n.to_le_bytes()).expect("a key");
        dag.epochs.putting(&key).await.stamp(&key);
        if n % 1000 == 0 {
            // There is always one, and none lives for long.
            session = dag.begin_write();
        }
    }
    let count = dag.epochs.stamp_count();
    assert!(count < 140_000, "{count} stamps");
    drop(session);
    assert_eq!(dag.epochs.stamp_count(), 0);
}

/// spec/gc.md, "Memory": below 64 MiB for 10 million blocks, one in sixteen of them a node.
#[tokio::test]
async fn marks_are_small() {
    let mut filter = KeyFilter::new(1);
    for n in 0..600_000_u32 {
        filter.insert(&BlockKey::new(&n.to_le_bytes()).expect("a key"));
    }
    let for_ten_million_blocks = filter.memory_len() * 10_000_000 / 600_000;
    assert!(for_ten_million_blocks < 42_000_000, "{for_ten_million_blocks}");

    let (_, dag) = faulty();
    let mut nodes = Vec::new();
    for n in 0..4000 {
        nodes.push(GcRoot::Dag(
            node(&dag, &[absent_leaf(), cid_of(Codec::Raw, &[u8::try_from(n % 256).expect("small")])]).await,
        ));
        nodes.push(GcRoot::Dag(dag.put_linked(&Ipld::Integer(n)).await.expect("put")));
    }
    let mut marks = Marks::new([7; 32], None);
    marks.mark(&dag, roots(&nodes), super::mark::Absent::Refused).await.expect("mark");
    let for_one_in_sixteen = marks.visited_memory_len() * (10_000_000 / 16) / 8000;
    assert!(for_ten_million_blocks + for_one_in_sixteen < 64 << 20, "{for_one_in_sixteen}");
}

/// A store whose flush waits, once.
#[derive(Debug)]
struct Held {
    inner: Mem,
    hold: AtomicBool,
    reached: Semaphore,
    release: Semaphore,
}

#[async_trait]
impl BlockStore for Held {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.get(key).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.inner.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.delete(key).await
    }
    async fn flush(&self) -> Result<()> {
        if self.hold.swap(false, Ordering::SeqCst) {
            self.reached.add_permits(1);
            drop(self.release.acquire().await.expect("open"));
        }
        Ok(())
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// Between the last block and the pin nothing but the session of `put` keeps the content, and nothing but the lease of
/// `pin` a root that lost its pin just now.
#[tokio::test]
async fn content_is_not_collected_between_put_and_pin() {
    let store = Arc::new(Held {
        inner: Mem::default(),
        hold: AtomicBool::new(false),
        reached: Semaphore::new(0),
        release: Semaphore::new(0),
    });
    let dag = Dag::new(store.clone(), DagOptions::default());
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env()).await.expect("open"));
    let cas = Arc::new(Cas::new(Prefix::new("mem").expect("a prefix"), dag.clone(), pins.clone()));
    let content: Vec<u8> = (0..3 << 20).map(|n: u32| n.to_le_bytes()[2]).collect();

    store.hold.store(true, Ordering::SeqCst);
    let put = tokio::spawn({
        let cas = cas.clone();
        async move { cas.put(&"/mem".parse().expect("a path"), Source::from(content)).await }
    });
    drop(store.reached.acquire().await.expect("open"));
    let report = dag.collect_garbage(|| pins.roots(), &options(1)).await.expect("a run");
    assert_eq!((report.blocks_removed, report.blocks_fresh), (0, 4), "three leaves and a root");
    store.release.add_permits(1);
    let path = put.await.expect("no panic").expect("put");
    let cid = path.cid().expect("by content");
    let whole = dag.collect_garbage(|| pins.roots(), &options(2)).await.expect("a run");
    assert_eq!((whole.blocks_kept, whole.blocks_removed, whole.blocks_fresh), (4, 0, 0));

    store.reached.forget_permits(1);
    store.release.forget_permits(1);
    pins.remove(&cid).await.expect("unpinned");
    store.hold.store(true, Ordering::SeqCst);
    let pin = tokio::spawn({
        let cas = cas.clone();
        async move { cas.pin(&cid).await }
    });
    drop(store.reached.acquire().await.expect("open"));
    let report = dag.collect_garbage(|| pins.roots(), &options(3)).await.expect("a run");
    assert_eq!(report.blocks_removed, 0);
    store.release.add_permits(1);
    assert!(pin.await.expect("no panic").expect("pinned"));

    pins.remove(&cid).await.expect("unpinned");
    assert_eq!(dag.collect_garbage(|| pins.roots(), &options(4)).await.expect("a run").blocks_removed, 4);
    assert_eq!(cas.pin(&cid).await.expect_err("gone").kind(), ErrorKind::NotFound);
}

async fn segments(data: &Arc<CrashMedia>, index: &Arc<CrashMedia>, env: &Env) -> Result<Segments> {
    let options = SegmentsOptions {
        segment_len_max: 4000,
        memory_count_max: 16,
        checkpoint_len: 8000,
        ..SegmentsOptions::default()
    };
    Segments::open(data.clone(), index.clone(), options, env).await
}

/// Stops the machine at every call of the media while a collection sweeps: the root is whole, the rest goes with the
/// next run.
#[tokio::test]
async fn a_crash_in_a_sweep_loses_nothing_live() {
    let mut call = 0;
    loop {
        let crash = Crash::never();
        let (data, index) = (Arc::new(CrashMedia::new(crash.clone())), Arc::new(CrashMedia::new(crash)));
        let dag =
            |store: Segments| Dag::new(Arc::new(store), DagOptions { verified_len_max: 0, ..DagOptions::default() });
        let before = dag(segments(&data, &index, &env()).await.expect("open"));
        let mut children = Vec::new();
        for n in 0..60_u8 {
            let meta = UnixfsMeta::default();
            children.push(before.import(&[n; 100][..], meta).await.expect("import").cid);
        }
        let root = node(&before, &children[..20]).await;
        before.flush().await.expect("flush");
        drop(before);

        let crash = Crash::at(call);
        let (data, index) = (Arc::new(data.reopen(crash.clone())), Arc::new(index.reopen(crash.clone())));
        let swept = async {
            let dag = dag(segments(&data, &index, &env()).await?);
            dag.collect_garbage(|| roots(&[root.into()]), &options(1)).await
        };
        let swept = swept.await;
        let (data, index) =
            (Arc::new(data.restart(call, Crash::never())), Arc::new(index.restart(call + 1, Crash::never())));
        let after = dag(segments(&data, &index, &env()).await.expect("open"));
        let mut visits = after.walk(&root);
        while let Some(visit) = visits.next().await {
            assert!(visit.error.is_none(), "crash at call {call}: {:?}", visit.error);
        }
        drop(visits);
        let report = after.collect_garbage(|| roots(&[root.into()]), &options(2)).await.expect("a run");
        assert_eq!(report.blocks_kept, 21);
        if swept.is_ok() && !crash.happened() {
            assert_eq!(report.blocks_removed, 0);
            break;
        }
        call += 1;
    }
    assert!(call > 40, "{call}");
}
