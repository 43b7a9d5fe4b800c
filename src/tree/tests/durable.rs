//! What a sync promises while nodes of the store are away: durable on this disk is enough.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::Notify;

use super::*;
use crate::{
    BlockKey, BlockStore, Codec, Error, ErrorKind,
    block::{Erasure, ErasureNode, ErasureOptions},
    media::{Media, Segment, SegmentId},
    testing::fault::{BlockCall, Crash, CrashMedia, Fault, Faulty},
};

const NODE_COUNT: usize = 6;
const CHUNK_LEN: u32 = 1024;

/// A tree over 4 + 2 nodes, and a disk of its own for the journal.
struct World {
    nodes: Vec<Arc<Faulty<Mem>>>,
    journal: Arc<CrashMedia>,
    heads: Arc<MemHeads>,
}

impl World {
    fn new() -> Self {
        let nodes = (0..NODE_COUNT).map(|_| Arc::new(Faulty::new(Mem::default()))).collect();
        Self { nodes, journal: Arc::new(CrashMedia::new(Crash::never())), heads: Arc::default() }
    }

    async fn open(&self) -> Tree {
        let nodes = self.nodes.iter().zip(0..).map(|(node, n)| ErasureNode::new(format!("{n}"), node.clone()));
        // Nothing happens by itself, so that the tree alone brings back what nodes lose.
        let options = ErasureOptions { repairs_max: 0, ..ErasureOptions::default() };
        let store = Erasure::new(nodes, options).expect("six nodes");
        let params = Params { chunk_len: CHUNK_LEN, width: 8, ..Profile::default().params() };
        // Nothing is remembered: what is read is on the nodes or in the journal.
        let dag = Dag::new(Arc::new(store), DagOptions { params, verified_len_max: 0 });
        Tree::open(dag, self.journal.clone(), self.heads.clone(), super::options()).await.expect("the tree opens")
    }

    /// The machine ends, and so do the nodes with it that lose what they had not flushed: all that they were given since
    /// `kept` was listed.
    async fn stop(&mut self, seed: u64, losing: &[usize], kept: &[Vec<BlockKey>]) {
        self.journal = Arc::new(self.journal.restart(seed, Crash::never()));
        for node in losing {
            for key in keys(&self.nodes[*node]).await {
                if !kept[*node].contains(&key) {
                    self.nodes[*node].inner().delete(&key).await.expect("lost");
                }
            }
        }
    }

    async fn kept(&self) -> Vec<Vec<BlockKey>> {
        let mut kept = Vec::new();
        for node in &self.nodes {
            kept.push(keys(node).await);
        }
        kept
    }

    fn set_offline(&self, away: &[usize]) {
        for (node, n) in self.nodes.iter().zip(0..) {
            node.set_offline(away.contains(&n));
        }
    }

    async fn journal_len(&self) -> u64 {
        self.journal.segments().await.expect("segments").iter().map(|segment| segment.len).sum()
    }
}

async fn keys(node: &Faulty<Mem>) -> Vec<BlockKey> {
    node.inner().keys().map(|key| key.expect("a key")).collect().await
}

fn chunks(first: u8, count: usize) -> Bytes {
    (0..count * CHUNK_LEN as usize)
        .map(|at| first.wrapping_add(u8::try_from(at / 1000 % 251).expect("small")))
        .collect()
}

async fn find(tree: &Tree, text: &str) -> Lease {
    let found = tree.lookup(tree.root(), &name(text)).await.expect("it is there");
    Lease::adopt(Arc::new(tree.clone()), found.ino)
}

/// A node went between a put and its flush while another was away: of five shards four could be flushed, and every sync
/// failed until one of both was back, though the disk with the journal was well. Whatever becomes of the nodes then, what
/// was synced is there: nodes may stay away, or come back without what they had not flushed, so that fewer than four
/// shards are left.
#[tokio::test(start_paused = true)]
async fn a_sync_while_a_node_goes_holds_whatever_becomes_of_the_nodes() {
    let (chunk, other) = (chunks(1, 3), chunks(100, 2));
    // Which nodes lose what they had not flushed, and which are away after the restart.
    for (seed, (losing, away)) in
        [(&[][..], &[][..]), (&[], &[0, 1]), (&[1], &[0]), (&[0, 1], &[]), (&[1, 2], &[]), (&[0, 1, 2], &[])]
            .into_iter()
            .enumerate()
    {
        for freezes in [false, true] {
            let when = format!("{losing:?} lose, {away:?} stay away, a commit failed: {freezes}");
            let mut world = World::new();
            let tree = world.open().await;
            let file = make(&tree, tree.root(), "file", NewNode::File).await;
            tree.commit("").await.expect("all are there");
            let kept = world.kept().await;

            world.set_offline(&[0]);
            tree.write(file.ino(), 0, chunk.clone(), false).await.expect("five shards are enough");
            world.set_offline(&[0, 1]);
            if freezes {
                let error = tree.commit("").await.expect_err("four are not");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{when}");
            }
            tree.sync(file.ino()).await.unwrap_or_else(|error| panic!("{when}: {error:#}"));
            let len = world.journal_len().await;
            tree.write(file.ino(), 8192, other.clone(), false).await.expect("the journal takes it");
            tree.sync(file.ino()).await.expect("nothing went past the journal since");
            let grown = world.journal_len().await - len;
            assert!(grown < 2 * other.len() as u64, "{when}: {grown} bytes, as if all were appended again");

            drop((file, tree));
            world.stop(seed as u64, losing, &kept).await;
            world.set_offline(away);
            let tree = world.open().await;
            let file = find(&tree, "file").await;
            let wanted = [&chunk[..], &[0; 8192 - 3 * 1024], &other[..]].concat();
            let read = tree.read(file.ino(), 0, 1 << 20).await.unwrap_or_else(|error| panic!("{when}: {error:#}"));
            assert!(read == wanted, "{when}");
            // And when all are back it becomes a commit like any other.
            world.set_offline(&[]);
            tokio::time::sleep(std::time::Duration::from_mins(1)).await;
            root_equals_import(&tree).await;
            assert!(tree.read(file.ino(), 0, 1 << 20).await.expect("read") == wanted, "{when}");
            assert_sound(&tree, &when).await;
            drop((file, tree));
            let tree = world.open().await;
            let file = find(&tree, "file").await;
            assert!(tree.read(file.ino(), 0, 1 << 20).await.expect("read") == wanted, "{when}: it is in the commit");
        }
    }
}

/// What the journal has for a layer that a commit holds goes with that commit. A copy that was made since names the same
/// chunk, and is in the next one: it needs a record of its own.
#[tokio::test(start_paused = true)]
async fn a_copy_of_what_the_journal_has_outlives_the_commit_of_the_first() {
    let mut world = World::new();
    let tree = world.open().await;
    let (first, copy) = (make(&tree, tree.root(), "first", NewNode::File).await, "copy");
    let copy = make(&tree, tree.root(), copy, NewNode::File).await;
    tree.commit("").await.expect("all are there");
    let kept = world.kept().await;
    world.set_offline(&[0]);
    tree.write(first.ino(), 0, chunks(1, 1), false).await.expect("write");
    world.set_offline(&[0, 1]);
    tree.sync(first.ino()).await.expect("the journal takes it");
    tree.commit("").await.expect_err("too few nodes");
    tree.copy_range((first.ino(), 0), (copy.ino(), 0), 1024).await.expect("copy");
    // The commit that is tried again is made without the chunk.
    tree.write(first.ino(), 0, vec![9; 100].into(), false).await.expect("write");
    tree.sync(first.ino()).await.expect("sync");
    drop((first, copy, tree));
    world.stop(7, &[0, 1, 2], &kept).await;
    world.set_offline(&[]);
    let tree = world.open().await;
    let copy = find(&tree, "copy").await;
    for _ in 0..3 {
        assert!(tree.read(copy.ino(), 0, 2000).await.expect("read") == chunks(1, 1));
        tree.commit("").await.expect("commit");
        tree.write(copy.ino(), 1024, "more".into(), false).await.expect("write");
        tree.setattr(copy.ino(), SetAttr { size: Some(1024), ..SetAttr::default() }).await.expect("cut");
    }
    root_equals_import(&tree).await;
}

/// A process was killed that had put a chunk, and the next one synced while two nodes were away. It did not know that they
/// had to flush, so it took the chunk for durable, and it was lost with what they had not flushed.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_put_is_not_durable_before_its_nodes_flush() {
    let mut world = World::new();
    let tree = world.open().await;
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.commit("").await.expect("all are there");
    world.set_offline(&[0]);
    tree.write(file.ino(), 0, chunks(1, 1), false).await.expect("write");
    tree.shared.log.write().await.expect("the system has it");
    drop((file, tree));
    world.journal = Arc::new(world.journal.reopen(Crash::never()));
    let tree = world.open().await;
    let file = find(&tree, "file").await;
    world.set_offline(&[1, 2]);
    let error = tree.sync(file.ino()).await.expect_err("three shards may be all there is");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    world.set_offline(&[1]);
    let puts = || world.nodes.iter().map(|node| node.calls(BlockCall::Put)).sum::<u64>();
    let before = puts();
    tree.sync(file.ino()).await.expect("it is put again");
    let after = puts();
    assert_eq!(after - before, 1, "the node that had none has a shard");
    tree.setattr(file.ino(), SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.expect("setattr");
    tree.sync(file.ino()).await.expect("once is enough");
    assert_eq!(puts(), after);
    assert!(tree.read(file.ino(), 0, 2000).await.expect("read") == chunks(1, 1));
}

/// What was overwritten is nobody's, perhaps gone, and no reason for a sync to fail; what is needed and cannot be read is.
#[tokio::test(start_paused = true)]
async fn what_is_needed_has_to_be_readable_and_nothing_else_has() {
    let world = World::new();
    let tree = world.open().await;
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.commit("").await.expect("all are there");
    world.set_offline(&[0]);
    tree.write(file.ino(), 0, chunks(1, 2), false).await.expect("write");
    world.set_offline(&[0, 1, 2]);
    let error = tree.sync(file.ino()).await.expect_err("three shards give nothing");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:#}").contains("2 (") || format!("{error:#}").contains("unreachable"), "{error:#}");
    tree.write(file.ino(), 0, vec![1; 2047].into(), false).await.expect("write");
    tree.write(file.ino(), 2047, vec![1; 1].into(), false).await.expect("write");
    tree.sync(file.ino()).await.expect("nothing is needed that is not in the journal");
    world.set_offline(&[]);
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    root_equals_import(&tree).await;
}

/// A store that does not flush as long as blocks are missing that it lost: as a node's directory that was removed and came
/// back does.
#[derive(Debug)]
struct Forgetful {
    inner: Faulty<Mem>,
    missing: std::sync::Mutex<Vec<BlockKey>>,
    put_count: AtomicUsize,
}

#[async_trait]
impl BlockStore for Forgetful {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.get(key).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.put_count.fetch_add(1, Ordering::Relaxed);
        self.inner.put(key, block).await?;
        self.missing.lock().expect("no panic").retain(|missing| missing != key);
        Ok(())
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.delete(key).await
    }
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.inner.has(key).await
    }
    async fn flush(&self) -> Result<()> {
        if !self.missing.lock().expect("no panic").is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, "forgetful"));
        }
        self.inner.flush().await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// The chunk was written after a commit had begun, so that the commit did not put it; and the store did not flush before
/// somebody did: no commit could be made any more.
#[tokio::test]
async fn a_commit_puts_again_what_only_the_journal_has_for_sure() {
    let store = Forgetful { inner: Faulty::new(Mem::default()), missing: Vec::new().into(), put_count: 0.into() };
    let store = Arc::new(store);
    let params = Params { chunk_len: CHUNK_LEN, width: 8, ..Profile::default().params() };
    let dag = Dag::new(store.clone(), DagOptions { params, verified_len_max: 0 });
    let tree = Ground { dag, ..Ground::new() }.open().await;
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    store.inner.fail_next(BlockCall::Flush, ErrorKind::Unavailable);
    tree.commit("").await.expect_err("it has begun");
    let before = keys(&store.inner).await;
    tree.write(file.ino(), 0, chunks(1, 1), false).await.expect("write");
    store.inner.fail_next(BlockCall::Flush, ErrorKind::Unavailable);
    tree.sync(file.ino()).await.expect("the journal takes it");
    for key in keys(&store.inner).await.into_iter().filter(|key| !before.contains(key)) {
        store.inner.inner().delete(&key).await.expect("lost");
        store.missing.lock().expect("no panic").push(key);
    }
    assert_eq!(store.missing.lock().expect("no panic").len(), 1);
    tree.commit("").await.expect("the journal has what is missing");
    root_equals_import(&tree).await;
    let count = store.put_count.load(Ordering::Relaxed);
    tree.commit("said").await.expect("commit");
    assert!(store.put_count.load(Ordering::Relaxed) < count + 3, "what is in a commit is not put again");
}

/// A sync that copies chunks into the journal names what somebody may overwrite meanwhile, and a collector take: a collection
/// waits for it, so that it finds all that it set out to copy.
#[tokio::test]
async fn a_collection_takes_nothing_that_a_sync_is_to_keep() {
    let store = Arc::new(Faulty::new(Mem::default()));
    let params = Params { chunk_len: CHUNK_LEN, width: 8, ..Profile::default().params() };
    let dag = Dag::new(store.clone(), DagOptions { params, verified_len_max: 0 });
    let tree = Ground { dag: dag.clone(), ..Ground::new() }.open().await;
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, chunks(1, 1), false).await.expect("write");
    let cid = dag.put_block(Codec::Raw, chunks(1, 1)).await.expect("the same once more");
    store.fault(&BlockKey::from(&cid), Fault::Delay);
    store.fail_next(BlockCall::Flush, ErrorKind::Unavailable);
    let reads = store.calls(BlockCall::Read);
    let (syncing, ino) = (tree.clone(), file.ino());
    let sync = tokio::spawn(async move { syncing.sync(ino).await });
    while store.calls(BlockCall::Read) == reads {
        tokio::task::yield_now().await;
    }
    tree.write(file.ino(), 0, chunks(2, 1), false).await.expect("overwritten");
    let (collector, roots_of) = (dag.clone(), tree.clone());
    let collection = tokio::spawn(async move {
        let options = crate::dag::GcOptions::new(&testing::env());
        collector.collect_garbage(|| roots_of.gc_roots(), &options).await
    });
    // As far as it comes.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    store.release(1000);
    sync.await.expect("no panic").expect("it finds the chunk");
    collection.await.expect("no panic").expect("collected");
    root_equals_import(&tree).await;
}

/// A journal whose first read waits, once it is told so, until it is let go on.
#[derive(Debug, Default)]
struct Gated {
    inner: MemMedia,
    is_slow: AtomicBool,
    /// Told when the read is under way, and when it may go on.
    begun: Notify,
    goes_on: Notify,
}

#[async_trait]
impl Media for Gated {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        self.inner.append(segment, bytes).await
    }
    async fn sync(&self, segment: SegmentId) -> Result<()> {
        self.inner.sync(segment).await
    }
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        if self.is_slow.swap(false, Ordering::Relaxed) {
            self.begun.notify_one();
            self.goes_on.notified().await;
        }
        self.inner.read_at(segment, offset, len).await
    }
    async fn segments(&self) -> Result<Vec<Segment>> {
        self.inner.segments().await
    }
    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.inner.remove(segment).await
    }
}

/// A chunk that the journal kept was named again; while a sync copied it to the journal's end a commit took it into the
/// store and let the old place go, and the sync failed for want of bytes that were there all the time.
#[tokio::test]
async fn a_commit_takes_nothing_that_a_sync_is_to_keep() {
    let store = Arc::new(Faulty::new(Mem::default()));
    let params = Params { chunk_len: CHUNK_LEN, width: 8, ..Profile::default().params() };
    let dag = Dag::new(store.clone(), DagOptions { params, verified_len_max: 0 });
    let (journal, heads) = (Arc::new(Gated::default()), Arc::new(MemHeads::default()));
    let tree = Tree::open(dag, journal.clone(), heads, options()).await.expect("the tree opens");
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, chunks(1, 1), false).await.expect("write");
    store.fail_next(BlockCall::Flush, ErrorKind::Unavailable);
    tree.sync(file.ino()).await.expect("the journal takes it");
    tree.write(file.ino(), CHUNK_LEN.into(), chunks(1, 1), false).await.expect("the same chunk");
    journal.is_slow.store(true, Ordering::Relaxed);
    store.fail_next(BlockCall::Flush, ErrorKind::Unavailable);
    let (syncing, ino) = (tree.clone(), file.ino());
    let sync = tokio::spawn(async move { syncing.sync(ino).await });
    journal.begun.notified().await;
    tree.commit("").await.expect("the node is back");
    journal.goes_on.notify_one();
    sync.await.expect("no panic").expect("the store has the chunk");
    root_equals_import(&tree).await;
}

/// A journal without room leaves a sync as it was: later.
#[tokio::test]
async fn a_full_journal_makes_a_sync_unavailable() {
    let store = Arc::new(Faulty::new(Mem::default()));
    let params = Params { chunk_len: CHUNK_LEN, width: 8, ..Profile::default().params() };
    let dag = Dag::new(store.clone(), DagOptions { params, verified_len_max: 0 });
    let free = Arc::new(AtomicUsize::new(1 << 20));
    let room = free.clone();
    let room = move || crate::vfs::FsStat {
        bytes_total: 1 << 20,
        bytes_free: room.load(Ordering::Relaxed) as u64,
        inodes_total: 0,
        inodes_free: 0,
    };
    let options = TreeOptions { room: Arc::new(room), ..options() };
    let tree = Ground { dag, ..Ground::new() }.open_with(options).await;
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, chunks(1, 4), false).await.expect("write");
    store.fail_next(BlockCall::Flush, ErrorKind::Unavailable);
    free.store(100, Ordering::Relaxed);
    assert_eq!(tree.sync(file.ino()).await.expect_err("no room").kind(), ErrorKind::Unavailable);
    // It comes down to the store again.
    tree.sync(file.ino()).await.expect("sync");
}
