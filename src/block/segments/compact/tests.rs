//! What compaction gives back, what it leaves alone, and what a crash in the middle of it leaves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};

use super::*;
use crate::{
    BlockStore, Error, ErrorKind,
    block::{
        Segments, SegmentsOptions,
        segments::{
            lookup::Candidates,
            tests::{Story, block, contents, crash_everywhere, key, open, tiny},
        },
    },
    media::{Media, MemMedia, Segment},
    testing::{
        env,
        fault::{Dice, FaultyMedia},
    },
};

async fn media_len(media: &dyn Media) -> u64 {
    media.segments().await.expect("segments").iter().map(|segment| segment.len).sum()
}

/// A store of 200 blocks of which every fourth is left.
async fn mostly_dead(store: Segments) -> Segments {
    for n in 0..200 {
        store.put(&key(n), block(n, 150)).await.expect("put");
    }
    for n in (0..200).filter(|n| n % 4 > 0) {
        store.delete(&key(n)).await.expect("delete");
    }
    store
}

/// Stops the machine at every media call, compactions included, and again while it recovers.
#[tokio::test]
async fn a_crash_in_a_compaction_loses_nothing_that_was_flushed() {
    crash_everywhere(Story::of_compactions).await;
}

#[tokio::test]
async fn the_room_of_deleted_blocks_comes_back_and_the_index_stays() {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let options = || SegmentsOptions { segment_len_max: 4000, ..tiny() };
    let store = Segments::open(data.clone(), index.clone(), options(), &env()).await.expect("open");
    let store = mostly_dead(store).await;
    let before = (contents(&store).await, store.stats());
    let report = store.compact().await.expect("compact");
    assert_eq!((report.blocks_moved, report.postponed), (50, false));
    assert!(report.segments_removed > 5 && report.bytes_removed > 3 * report.bytes_moved, "{report:?}");
    let after = store.stats();
    assert_eq!((&contents(&store).await, after.block_count), (&before.0, before.1.block_count));
    assert!(after.dead_len * 10 <= after.live_len, "{after:?}");
    let len = media_len(&*data).await;
    assert!(len * 10 <= after.live_len * 13, "{len} bytes for {}", after.live_len);
    for n in 0..200 {
        let expected = (n % 4 == 0).then(|| block(n, 150));
        assert_eq!(store.block_len(&key(n)).await.expect("block_len"), expected.as_ref().map(|_| 150));
        assert_eq!(store.get(&key(n)).await.expect("get"), expected);
    }
    let again = store.compact().await.expect("compact");
    assert_eq!(again, CompactReport::default(), "there is nothing to gain");
    store.put(&key(1), block(1, 10)).await.expect("put");
    store.delete(&key(0)).await.expect("delete");
    store.flush().await.expect("flush");
    let (blocks, stats) = (contents(&store).await, store.stats());
    drop(store);

    // With the index as it is, and with none.
    let built = Arc::new(AtomicBool::new(false));
    for (index, is_built) in [(index, false), (Arc::default(), true)] {
        let noted = Arc::clone(&built);
        let options = SegmentsOptions {
            on_build_index: Some(Arc::new(move |_| noted.store(true, Ordering::SeqCst))),
            ..options()
        };
        let store = Segments::open(data.clone(), index, options, &env()).await.expect("open");
        assert_eq!(built.load(Ordering::SeqCst), is_built);
        assert_eq!((contents(&store).await, store.stats()), (blocks.clone(), stats));
    }
}

#[tokio::test]
async fn of_an_empty_store_next_to_nothing_is_left() {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let store = mostly_dead(open(data.clone(), index.clone()).await).await;
    for n in 0..200 {
        store.delete(&key(n)).await.expect("delete");
    }
    store.compact().await.expect("compact");
    let len = media_len(&*data).await;
    assert!(len < 1000, "{len} bytes for nothing");
    store.put(&key(7), block(7, 7)).await.expect("put");
    store.flush().await.expect("flush");
    drop(store);
    for index in [index, Arc::default()] {
        let store = open(data.clone(), index).await;
        assert_eq!(contents(&store).await, [(key(7), block(7, 7))].into());
        assert_eq!(store.stats().block_count, 1);
    }
}

/// A bad block that was moved would have been another's, or gone without a word.
#[tokio::test]
async fn a_rotten_block_stays_known_to_be_bad() {
    let data = Arc::new(FaultyMedia::new(Arc::<MemMedia>::default()));
    let index: Arc<MemMedia> = Arc::default();
    let store = mostly_dead(open(data.clone(), index.clone()).await).await;
    store.flush().await.expect("flush");
    let entry = Candidates::new(&store.inner, &key(100)).next().await.expect("find").expect("it was put");
    data.flip(entry.pos.segment, u64::from(entry.pos.offset + entry.len - 1), 1);
    assert_eq!(store.compact().await.expect("compact").blocks_moved, 50);
    data.unflip();
    let block_count = store.stats().block_count;
    store.flush().await.expect("flush");
    drop(store);
    for index in [index, Arc::default()] {
        let store = open(data.clone(), index).await;
        assert_eq!(store.stats().block_count, block_count);
        assert_eq!(store.get(&key(100)).await.expect_err("rotten").kind(), ErrorKind::Corrupt);
        assert_eq!(store.has(&key(100)).await.expect_err("rotten").kind(), ErrorKind::Corrupt);
        assert!(store.keys().try_collect::<Vec<_>>().await.expect("keys").contains(&key(100)));
    }
    let store = open(data, Arc::<MemMedia>::default()).await;
    store.put(&key(100), block(100, 150)).await.expect("put");
    assert_eq!(store.get(&key(100)).await.expect("mended"), Some(block(100, 150)));
    assert_eq!(store.stats().block_count, block_count);
}

#[tokio::test]
async fn who_lists_the_keys_meets_what_is_moved_meanwhile() {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let store = mostly_dead(open(data, index).await).await;
    store.flush().await.expect("flush");
    let mut listed = vec![];
    let mut keys = store.keys();
    listed.push(keys.next().await.expect("there are some").expect("keys"));
    let end = store.inner.log.rotate().expect("rotate").segment;
    let segments: Vec<_> = store.inner.lock().counts.usage.range(..end).map(|(id, _)| *id).collect();
    let (mut report, mut stray) = (CompactReport::default(), None);
    for segment in segments {
        store.inner.move_live(segment, &mut report, &mut stray).await.expect("move");
    }
    assert_eq!(report.blocks_moved, 50);
    assert!(store.compact().await.expect("compact").postponed, "somebody lists");
    listed.extend(keys.try_collect::<Vec<_>>().await.expect("keys"));
    listed.sort();
    listed.dedup();
    let expected: std::collections::BTreeSet<_> = (0..200).step_by(4).map(key).collect();
    let extra: Vec<_> = listed.iter().filter(|key| !expected.contains(key)).collect();
    assert_eq!(listed.len(), 50, "{extra:?}");
    assert!(!store.compact().await.expect("compact").postponed);
    assert_eq!(contents(&store).await.len(), 50);
}

#[tokio::test]
async fn it_begins_by_itself_when_enough_is_dead() {
    let data: Arc<MemMedia> = Arc::default();
    let options = SegmentsOptions { compact_len_min: 4000, compact_percent_min: 50, ..tiny() };
    let store = Segments::open(data.clone(), Arc::<MemMedia>::default(), options, &env()).await.expect("open");
    let mut longest = 0;
    for n in 0..1000 {
        store.put(&key(n), block(n, 150)).await.expect("put");
        if n >= 20 {
            store.delete(&key(n - 20)).await.expect("delete");
        }
        while store.inner.lock().compacting {
            tokio::task::yield_now().await;
        }
        longest = longest.max(media_len(&*data).await);
    }
    assert_eq!(contents(&store).await.len(), 20);
    assert!(longest < 30_000, "{longest} bytes for 20 blocks");
}

/// Blocks that stay are got and listed at any moment, whatever is put, deleted and compacted meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_disturbed() {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let store = Arc::new(mostly_dead(open(data, index).await).await);
    let done = Arc::new(AtomicBool::new(false));
    let mut others = Vec::new();
    for task in 0..3 {
        let (store, done) = (store.clone(), done.clone());
        others.push(tokio::spawn(async move {
            let mut dice = Dice::new(task);
            while !done.load(Ordering::SeqCst) {
                for _ in 0..20 {
                    let n = dice.roll(50) * 4;
                    assert_eq!(store.get(&key(n)).await.expect("get"), Some(block(n, 150)));
                    assert!(store.has(&key(n)).await.expect("has"));
                    let n = 1000 + dice.roll(60);
                    if dice.roll(2) == 0 {
                        store.put(&key(n), block(n, 150)).await.expect("put");
                    } else {
                        store.delete(&key(n)).await.expect("delete");
                    }
                }
                if task == 0 && dice.roll(4) == 0 {
                    let keys: std::collections::BTreeSet<_> = store.keys().try_collect().await.expect("keys");
                    assert!((0..200).step_by(4).all(|n| keys.contains(&key(n))));
                }
            }
        }));
    }
    let mut removed = 0;
    while removed < 150 && !others.iter().any(tokio::task::JoinHandle::is_finished) {
        removed += store.compact().await.expect("compact").segments_removed;
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::SeqCst);
    for other in others {
        other.await.expect("no panic");
    }
    for n in (0..200).step_by(4) {
        assert_eq!(store.get(&key(n)).await.expect("get"), Some(block(n, 150)));
    }
}

/// A store that is closed does not wait for a compaction that has far to go, and loses nothing by it.
#[tokio::test]
async fn closing_ends_a_compaction_half_way() {
    for steps in 0..60 {
        let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
        let store = Arc::new(mostly_dead(open(data.clone(), index.clone()).await).await);
        let compacting = tokio::spawn({
            let store = store.clone();
            async move { store.compact().await.map(|report| report.blocks_moved) }
        });
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        store.close().await.expect("close");
        let moved = compacting.await.expect("no panic");
        assert!(steps > 0 || !moved.is_ok_and(|moved| moved > 8), "it was closed at once");
        drop(store);
        assert_eq!(contents(&open(data, index).await).await.len(), 50, "after {steps} steps");
    }
}

/// A media that takes so much and no more.
#[derive(Debug, Default)]
struct Bounded {
    inner: MemMedia,
    len_max: AtomicU64,
}

#[async_trait]
impl Media for Bounded {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        if media_len(&self.inner).await + bytes.len() as u64 > self.len_max.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::NoSpace, "media.append"));
        }
        self.inner.append(segment, bytes).await
    }
    async fn sync(&self, segment: SegmentId) -> Result<()> {
        self.inner.sync(segment).await
    }
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        self.inner.read_at(segment, offset, len).await
    }
    async fn segments(&self) -> Result<Vec<Segment>> {
        self.inner.segments().await
    }
    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.inner.remove(segment).await
    }
}

/// On a full disk nothing could be copied, so nothing came back, though whole segments were dead.
#[tokio::test]
async fn a_full_disk_gives_back_first_what_needs_no_copying() {
    let data = Arc::new(Bounded { len_max: u64::MAX.into(), ..Bounded::default() });
    let options = SegmentsOptions { segment_len_max: 4000, ..tiny() };
    let store = Segments::open(data.clone(), Arc::<MemMedia>::default(), options, &env()).await.expect("open");
    for n in 0..200 {
        store.put(&key(n), block(n, 150)).await.expect("put");
    }
    // The first segments are dead, and in the others half of it is.
    for n in (0..200).filter(|n| *n < 60 || n % 2 == 0) {
        store.delete(&key(n)).await.expect("delete");
    }
    store.flush().await.expect("flush");
    let before = contents(&store).await;
    let full = media_len(&*data).await;
    // Room for a few headers, and for no segment.
    data.len_max.store(full + 500, Ordering::SeqCst);
    let report = store.compact().await.expect("it makes its own room");
    assert!(report.segments_removed > 5 && report.blocks_moved > 0, "{report:?}");
    assert!(media_len(&*data).await < full * 2 / 3);
    assert_eq!(contents(&store).await, before);
}

/// A disk that blocks filled to the last byte had no room to note what was deleted, so nothing ever came back.
#[tokio::test]
async fn what_fills_a_disk_can_be_deleted_and_its_room_comes_back() {
    let data = Arc::new(Bounded { len_max: 60_000.into(), ..Bounded::default() });
    let len = Arc::new(AtomicU64::new(0));
    let told = len.clone();
    let options = SegmentsOptions {
        segment_len_max: 4000,
        // The last 15,000 bytes, as the disk was found before the last put.
        is_full: Some(Arc::new(move || told.load(Ordering::SeqCst) > 45_000)),
        ..tiny()
    };
    let store = Segments::open(data.clone(), Arc::<MemMedia>::default(), options, &env()).await.expect("open");
    let mut count = 0;
    let full = loop {
        store.flush().await.expect("flush");
        len.store(media_len(&*data).await, Ordering::SeqCst);
        match store.put(&key(count), block(count, 150)).await {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::NoSpace);
    assert!(count > 100, "{count}");
    store.put(&key(0), block(0, 150)).await.expect("what is there needs no room");
    for n in 10..count {
        store.delete(&key(n)).await.expect("deleting goes on");
    }
    store.flush().await.expect("flush");
    store.compact().await.expect("compact");
    assert!(media_len(&*data).await < 10_000);
    assert_eq!(contents(&store).await.len(), 10);
}
