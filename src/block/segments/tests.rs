//! What a store of segments keeps through crashes, rot and a lost index, and what it costs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::TryStreamExt;
use proptest::prelude::*;

use super::*;
use crate::{
    media::MemMedia,
    testing::{
        self, env,
        fault::{Crash, CrashMedia, Dice, FaultyMedia, MediaCall},
        media::{Image, image, load},
    },
};

pub(super) type Blocks = BTreeMap<BlockKey, Bytes>;

pub(super) fn key(n: usize) -> BlockKey {
    BlockKey::new(format!("key {n}").as_bytes()).expect("a key")
}

pub(super) fn block(n: usize, len: usize) -> Bytes {
    Dice::new(n as u64).bytes(len).into()
}

/// Small enough that a few dozen records make segments, runs and merges.
pub(super) fn tiny() -> SegmentsOptions {
    SegmentsOptions { segment_len_max: 700, memory_count_max: 5, checkpoint_len: 1000, ..SegmentsOptions::default() }
}

pub(super) async fn open(data: Arc<dyn Media>, index: Arc<dyn Media>) -> Segments {
    Segments::open(data, index, tiny(), &env()).await.expect("open")
}

/// Waits for the upkeep in the background.
async fn settle(store: &Segments) {
    while store.inner.lock().upkeep {
        tokio::task::yield_now().await;
    }
}

pub(super) async fn contents(store: &Segments) -> Blocks {
    try_contents(store).await.expect("nothing fails")
}

async fn try_contents(store: &Segments) -> Result<Blocks> {
    let keys: BTreeSet<BlockKey> = store.keys().try_collect().await?;
    let mut blocks = Blocks::new();
    for key in keys {
        let block = store.get(&key).await?.expect("it is listed");
        blocks.insert(key, block);
    }
    Ok(blocks)
}

/// The states a store went through, one for each change that was tried.
pub(super) struct Story {
    states: Vec<Blocks>,
    /// The first that the store may be in: those before it are older than the last flush.
    flushed: usize,
    step: usize,
    /// Whether it is compacted now and then.
    compacts: bool,
}

impl Story {
    pub(super) fn new() -> Self {
        Self { states: vec![Blocks::new()], flushed: 0, step: 0, compacts: false }
    }

    pub(super) fn of_compactions() -> Self {
        Self { compacts: true, ..Self::new() }
    }

    fn last(&self) -> &Blocks {
        self.states.last().expect("there is a first state")
    }

    /// The store is in one of the states it may be in; from here the story goes on.
    async fn check(&mut self, store: &Segments) -> Result<()> {
        let found = try_contents(store).await?;
        let possible = &self.states[self.flushed..];
        let Some(state) = possible.iter().rev().find(|state| **state == found) else {
            panic!("{:?} is none of {} states", found.keys(), possible.len());
        };
        for key in (0..12).map(key) {
            assert_eq!(store.get(&key).await?, state.get(&key).cloned());
        }
        assert_eq!(store.stats().block_count, found.len() as u64);
        self.states = vec![found];
        self.flushed = 0;
        Ok(())
    }

    async fn live(&mut self, data: Arc<dyn Media>, index: Arc<dyn Media>) -> Result<()> {
        let store = Segments::open(data, index, tiny(), &env()).await?;
        self.check(&store).await?;
        for _ in 0..40 {
            self.step += 1;
            let mut dice = Dice::new(self.step as u64);
            let key = key(dice.roll(12));
            let mut next = self.last().clone();
            if dice.roll(3) > 0 {
                let block = block(self.step, dice.roll(250));
                next.entry(key.clone()).or_insert_with(|| block.clone());
                self.states.push(next);
                store.put(&key, block).await?;
            } else {
                next.remove(&key);
                self.states.push(next);
                store.delete(&key).await?;
            }
            if dice.roll(4) == 0 {
                let upto = self.states.len() - 1;
                store.flush().await?;
                self.flushed = upto;
            }
            if dice.roll(12) == 0 {
                store.checkpoint().await?;
                self.flushed = self.states.len() - 1;
            }
            if self.compacts && dice.roll(8) == 0 {
                store.compact().await?;
            }
        }
        settle(&store).await;
        store.flush().await?;
        self.flushed = self.states.len() - 1;
        Ok(())
    }
}

/// Stops the machine at every media call, of the log and of the index, and again while it recovers: what was flushed
/// is there, the rest is as after some change, and the store goes on.
#[tokio::test]
async fn a_crash_at_any_call_loses_nothing_that_was_flushed() {
    crash_everywhere(Story::new).await;
}

pub(super) async fn crash_everywhere(begin: impl Fn() -> Story) {
    let calls = {
        let crash = Crash::never();
        let (data, index) = (Arc::new(CrashMedia::new(crash.clone())), Arc::new(CrashMedia::new(crash.clone())));
        let mut story = begin();
        story.live(data.clone(), index).await.expect("nothing fails");
        let calls = crash.calls();
        let first = data.segments().await.expect("segments")[0].id;
        assert_eq!(first > SegmentId(0), story.compacts, "what is compacted loses its beginning");
        calls
    };
    assert!(calls > 80, "{calls}");
    for call in 0..calls {
        for seed in 0..3 {
            let mut story = begin();
            let crash = Crash::at(call);
            let mut data = Arc::new(CrashMedia::new(crash.clone()));
            let mut index = Arc::new(CrashMedia::new(crash));
            for round in 0..2 {
                // Ends at the crash, or at the end if that was met in the background.
                if let Err(error) = story.live(data.clone(), index.clone()).await {
                    assert_ne!(error.kind(), ErrorKind::Corrupt, "a crash is no damage: {error:#}");
                }
                let crash = if round == 0 { Crash::at((call * 7 + seed) % 60) } else { Crash::never() };
                data = Arc::new(data.restart(seed + round, crash.clone()));
                index = Arc::new(index.restart(seed + round + 100, crash));
            }
            story.live(data.clone(), index.clone()).await.expect("nothing stops it now");
            let reopened = open(data.clone(), index).await;
            story.check(&reopened).await.expect("nothing stops it now");
            let counted = reopened.stats();
            reopened.close().await.expect("nothing stops it now");
            // What the index says, and counts, is what the log says.
            let rebuilt = open(data, Arc::<MemMedia>::default()).await;
            story.check(&rebuilt).await.expect("nothing stops it now");
            assert_eq!(rebuilt.stats(), counted);
        }
    }
}

/// A store with all kinds of records and runs: some of the log is not yet in the index.
async fn sample() -> (Image, Image, Blocks) {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let store = open(data.clone(), index.clone()).await;
    for n in 0..40 {
        store.put(&key(n), block(n, n * 5)).await.expect("put");
        settle(&store).await;
    }
    for n in (0..40).step_by(5) {
        store.delete(&key(n)).await.expect("delete");
        settle(&store).await;
    }
    store.checkpoint().await.expect("checkpoint");
    for n in 40..43 {
        store.put(&key(n), block(n, 50)).await.expect("put");
    }
    store.flush().await.expect("flush");
    // The log's last word, that it is durable, is written behind the flush.
    tokio::task::yield_now().await;
    let blocks = contents(&store).await;
    assert_eq!(blocks.len(), 35);
    (image(&*data).await, image(&*index).await, blocks)
}

#[tokio::test]
async fn a_flipped_bit_in_the_index_costs_nothing() {
    let (data, index, blocks) = sample().await;
    assert!(index.len() > 2, "a manifest and runs");
    for (id, bytes) in &index {
        for at in (0..bytes.len()).step_by(if bytes.len() > 1000 { 23 } else { 1 }) {
            let mut bad = index.clone();
            bad.get_mut(id).expect("it is there")[at] ^= 1 << (at % 8);
            let store = open(load(&data).await, load(&bad).await).await;
            for n in 0..43 {
                assert_eq!(store.get(&key(n)).await.expect("get"), blocks.get(&key(n)).cloned(), "{id} byte {at}");
            }
            assert_eq!(store.stats().block_count, 35);
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_costs_one_block_and_never_gives_wrong_bytes() {
    let (data, index, blocks) = sample().await;
    let mut corrupt = 0;
    for (id, bytes) in &data {
        for at in (0..bytes.len()).step_by(5) {
            let mut bad = data.clone();
            bad.get_mut(id).expect("it is there")[at] ^= 1 << (at % 8);
            for index in [index.clone(), Image::new()] {
                let store = open(load(&bad).await, load(&index).await).await;
                let mut wrong = 0;
                for n in 0..43 {
                    let expected = blocks.get(&key(n));
                    match store.get(&key(n)).await {
                        Ok(found) if found.as_ref() == expected => {}
                        // The record of its deletion is gone, so the block is back: the one that was put.
                        Ok(Some(found)) if expected.is_none() => {
                            assert_eq!(found, block(n, n * 5));
                            wrong += 1;
                        }
                        // The record of the put is gone with its key, and so is the index.
                        Ok(None) => wrong += 1,
                        Ok(Some(_)) => panic!("wrong bytes for key {n} with byte {at} of {id} flipped"),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Corrupt);
                            (wrong, corrupt) = (wrong + 1, corrupt + 1);
                            store.delete(&key(n)).await.expect("a bad block can be deleted");
                            store.put(&key(n), block(n, 9)).await.expect("and put again");
                            assert_eq!(store.get(&key(n)).await.expect("get"), Some(block(n, 9)));
                        }
                    }
                }
                assert!(wrong <= 1, "byte {at} of {id} costs {wrong} blocks");
            }
        }
    }
    assert!(corrupt > 500, "{corrupt}");
}

/// Rotten bytes stayed for ever unless they were deleted first: whoever put the block again was told that it is there.
#[tokio::test]
async fn a_block_that_was_found_rotten_is_mended_by_putting_it_again() {
    let disk: Arc<MemMedia> = Arc::default();
    let (data, index) = (Arc::new(FaultyMedia::new(disk.clone())), Arc::<MemMedia>::default());
    let store = open(data.clone(), index.clone()).await;
    store.put(&key(1), block(1, 50)).await.expect("put");
    store.put(&key(2), block(2, 50)).await.expect("put");
    store.flush().await.expect("flush");
    let (pos, len) = {
        let entry = store.inner.lock().memory.next(fingerprint(&key(1)), None).expect("it was put");
        (entry.pos, entry.len)
    };
    data.flip(pos.segment, u64::from(pos.offset + len - 1), 1);
    assert_eq!(store.get(&key(1)).await.expect_err("rotten").kind(), ErrorKind::Corrupt);
    assert_eq!(store.has(&key(1)).await.expect_err("known to be").kind(), ErrorKind::Corrupt);
    let stats = store.stats();
    store.put(&key(1), block(1, 50)).await.expect("put");
    assert_eq!(store.get(&key(1)).await.expect("get"), Some(block(1, 50)));
    assert!(store.has(&key(1)).await.expect("has"));
    assert_eq!((store.stats().block_count, store.stats().live_len), (stats.block_count, stats.live_len));
    let end = store.inner.log.end();
    store.put(&key(1), block(1, 50)).await.expect("put");
    assert_eq!(store.inner.log.end(), end, "a whole block is not put twice");
    store.flush().await.expect("flush");
    drop(store);
    let store = open(data, index).await;
    assert_eq!(contents(&store).await, [(key(1), block(1, 50)), (key(2), block(2, 50))].into());
}

/// Whoever opened a store again at once met what the one before had still under way.
#[tokio::test]
async fn a_closed_store_leaves_nothing_behind_it() {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let mut expected = Blocks::new();
    for round in 0..6 {
        let store = open(data.clone(), index.clone()).await;
        assert_eq!(contents(&store).await, expected);
        for n in 20 * round..20 * round + 20 {
            store.put(&key(n), block(n, 100)).await.expect("put");
            expected.insert(key(n), block(n, 100));
        }
        store.close().await.expect("close");
        store.close().await.expect("repeatable");
        assert_eq!(contents(&store).await, expected, "reads go on");
        assert_eq!(store.put(&key(999), block(1, 1)).await.expect_err("closed").kind(), ErrorKind::Unavailable);
        drop(store);
        assert_eq!((Arc::strong_count(&data), Arc::strong_count(&index)), (1, 1));
    }
}

/// The entry of a deletion whose record had rotted was dropped from the index as if its key had been seen, and the deleted
/// block was back.
#[tokio::test]
async fn a_deletion_that_rots_brings_no_block_back() {
    let data = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let store = open(data.clone(), Arc::new(MemMedia::default())).await;
    store.put(&key(1), block(1, 50)).await.expect("put");
    store.checkpoint().await.expect("checkpoint");
    store.delete(&key(1)).await.expect("delete");
    let entry = store.inner.lock().memory.next(fingerprint(&key(1)), None).expect("it was deleted");
    assert!(entry.deleted);
    data.flip(entry.pos.segment, u64::from(entry.pos.offset) + 30, 1);
    store.checkpoint().await.expect("checkpoint");
    let mut merged = false;
    for n in 2..40 {
        store.put(&key(n), block(n, 50)).await.expect("put");
        store.checkpoint().await.expect("checkpoint");
        merged |= store.inner.lock().runs.len() == 1;
        assert_eq!(store.get(&key(1)).await.expect_err("nobody knows").kind(), ErrorKind::Corrupt, "{n}");
    }
    assert!(merged, "down to the oldest run");
    store.put(&key(1), block(1, 60)).await.expect("put");
    assert_eq!(store.get(&key(1)).await.expect("get"), Some(block(1, 60)));
}

/// A store that is killed again and again, each time before its log has grown by enough to write the index down, had
/// more to replay each time.
#[tokio::test]
async fn what_an_opening_has_to_replay_does_not_add_up() {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let options = SegmentsOptions { memory_count_max: 1000, checkpoint_len: 5000, ..tiny() };
    for n in 0..60 {
        let store = Segments::open(data.clone(), index.clone(), options.clone(), &env()).await.expect("open");
        let replayed = store.inner.lock().memory.len();
        assert!(replayed < 8, "{replayed} records at opening {n}");
        store.put(&key(n), block(n, 1000)).await.expect("put");
        store.flush().await.expect("flush");
        settle(&store).await;
    }
}

/// With room for no record in memory the first put went round and round, waiting for room.
#[tokio::test]
async fn no_room_in_memory_is_room_for_one() {
    let options = SegmentsOptions { memory_count_max: 0, ..tiny() };
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let store = Segments::open(data, index, options, &env()).await.expect("open");
    for n in 0..9 {
        store.put(&key(n), block(n, 50)).await.expect("put");
    }
    assert_eq!(contents(&store).await, (0..9).map(|n| (key(n), block(n, 50))).collect());
}

#[tokio::test]
async fn a_lost_index_is_built_from_the_log_and_says_how_far_it_is() {
    let (data, _, blocks) = sample().await;
    let told = Arc::new(AtomicU64::new(0));
    let options = SegmentsOptions {
        on_build_index: Some(Arc::new({
            let told = Arc::clone(&told);
            move |progress: BuildIndex| {
                assert!(progress.done_len <= progress.log_len);
                told.store(progress.record_count, Ordering::SeqCst);
            }
        })),
        ..tiny()
    };
    let (data, index) = (load(&data).await, Arc::new(MemMedia::default()));
    let store = Segments::open(data.clone(), index.clone(), options, &env()).await.expect("open");
    assert_eq!(told.load(Ordering::SeqCst), 51, "40 and 3 puts, 8 deletes");
    assert_eq!(contents(&store).await, blocks);
    drop(store);
    let index = Arc::new(FaultyMedia::new(index));
    let data = Arc::new(FaultyMedia::new(data));
    let store = open(data.clone(), index).await;
    assert!(data.calls(MediaCall::Read) < 8, "it is not built twice");
    assert_eq!(contents(&store).await, blocks);
}

/// Whoever was killed before the index was first written down was told that it is damaged.
#[tokio::test]
async fn an_index_that_was_never_written_is_not_called_damaged() {
    let (data, index, blocks) = sample().await;
    let find = async |index: &Image| {
        let mut places = Places { data: load(&data).await, index: load(index).await, salt: None };
        places.find_index().await.expect("nothing fails")
    };
    assert!(matches!(find(&Image::new()).await, Found::Missing));
    // Killed while its first run was written.
    let torn = Image::from([(SegmentId(0), vec![0; 4096])]);
    assert!(matches!(find(&torn).await, Found::Missing));
    assert_eq!(contents(&open(load(&data).await, load(&torn).await).await).await, blocks);
    assert!(matches!(find(&index).await, Found::Good(..)));
    let mut damaged = index;
    for bytes in damaged.values_mut() {
        *bytes.last_mut().expect("no file of the index is empty") ^= 1;
    }
    assert!(matches!(find(&damaged).await, Found::Useless(_)));
}

/// A building that failed half way gave the number of a file that it had made to the next one, whose entries then stood
/// behind the old ones and were not found.
#[tokio::test]
async fn an_index_that_cannot_be_built_leaves_no_number_to_be_used_twice() {
    let (data, index, mut blocks) = sample().await;
    let index = Arc::new(FaultyMedia::new(load(&index).await));
    let store = open(load(&data).await, index.clone()).await;
    let ids: Vec<_> = store.inner.lock().runs.iter().map(|run| run.id).collect();
    for id in ids {
        index.flip(id, 100, 1);
    }
    index.fail_next(MediaCall::Sync, ErrorKind::Io);
    assert_eq!(store.get(&key(1)).await.expect_err("the new index cannot be written").kind(), ErrorKind::Io);
    index.unflip();
    for n in 50..56 {
        store.put(&key(n), block(n, 50)).await.expect("put");
        blocks.insert(key(n), block(n, 50));
    }
    store.checkpoint().await.expect("checkpoint");
    for (key, block) in blocks {
        assert_eq!(store.get(&key).await.expect("get"), Some(block));
    }
}

/// With the header of its only segment everything was lost that its salt is needed for: the index knows it too.
#[tokio::test]
async fn a_rotten_header_costs_no_block_where_the_index_knows_the_salt() {
    let options = SegmentsOptions { segment_len_max: 1 << 20, ..tiny() };
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let store = Segments::open(data.clone(), index.clone(), options.clone(), &env()).await.expect("open");
    let expected: Blocks = (0..20).map(|n| (key(n), block(n, 100))).collect();
    for (key, block) in &expected {
        store.put(key, block.clone()).await.expect("put");
    }
    store.checkpoint().await.expect("checkpoint");
    drop(store);
    let mut bad = image(&*data).await;
    assert_eq!(bad.len(), 1);
    bad.get_mut(&SegmentId(0)).expect("it is there")[50] ^= 1;
    let elsewhere = testing::Clock::default().env(99);
    let store = Segments::open(load(&bad).await, index, options.clone(), &elsewhere).await.expect("open");
    assert_eq!(contents(&store).await, expected);
    let error = Segments::open(load(&bad).await, Arc::new(MemMedia::default()), options, &elsewhere).await;
    assert_eq!(error.expect_err("nobody knows it").kind(), ErrorKind::Corrupt);
}

/// A record of a later program was passed over with a warning: what it says would have been lost at the next writing.
#[tokio::test]
async fn a_record_of_a_kind_that_is_not_known_is_refused() {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let log = Log::open(data.clone(), LogOptions::new(KIND, &env()), |_, _| Ok(())).await.expect("open");
    log.append(Record { head: Bytes::from_static(b"\x05key"), body: "a block, in some new way".into() })
        .await
        .expect("append");
    log.sync().await.expect("sync");
    let error = Segments::open(data, index, tiny(), &env()).await.expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(format!("{error:#}").contains("newer program"), "{error:#}");
}

#[tokio::test]
async fn an_index_of_another_log_is_not_believed() {
    let (data, _, blocks) = sample().await;
    let (other_data, other_index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let other = open(other_data, other_index.clone()).await;
    for n in 0..43 {
        other.put(&key(n), block(n + 1, 33)).await.expect("put");
    }
    other.checkpoint().await.expect("checkpoint");
    assert_eq!(contents(&open(load(&data).await, other_index).await).await, blocks);
}

/// A page of the index rots while the store is open: the call that meets it builds the index anew.
#[tokio::test]
async fn a_page_that_rots_under_an_open_store_is_mended() {
    let (data, index, blocks) = sample().await;
    for call in 0..4 {
        let index = Arc::new(FaultyMedia::new(load(&index).await));
        let store = open(load(&data).await, index.clone()).await;
        let ids: Vec<_> = store.inner.lock().runs.iter().map(|run| run.id).collect();
        for id in ids {
            index.flip(id, 100, 1);
        }
        match call {
            0 => assert_eq!(store.get(&key(1)).await.expect("get"), Some(block(1, 5))),
            1 => store.put(&key(1), block(1, 5)).await.expect("put"),
            2 => store.delete(&key(0)).await.expect("delete"),
            _ => assert!(store.has(&key(1)).await.expect("has")),
        }
        assert_eq!(store.inner.generation(), 1, "built anew once");
        assert_eq!(contents(&store).await, blocks);
    }
}

/// Two keys may have one fingerprint: the record decides. No such pair is known, so the index is told of one.
#[tokio::test]
async fn keys_with_one_fingerprint_are_two_keys() {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let store = open(data.clone(), index.clone()).await;
    store.put(&key(1), block(1, 50)).await.expect("put");
    let mine = store.inner.lock().memory.next(fingerprint(&key(1)), None).expect("it was put");
    let shared = Entry { fingerprint: fingerprint(&key(2)), ..mine };
    store.inner.lock().memory.insert(shared);
    assert_eq!(store.get(&key(2)).await.expect("get"), None);
    assert!(!store.has(&key(2)).await.expect("has"));
    store.delete(&key(2)).await.expect("nothing to delete");
    store.put(&key(2), block(2, 60)).await.expect("put");
    for round in 0..6 {
        assert_eq!(store.get(&key(1)).await.expect("get"), Some(block(1, 50)));
        assert_eq!(store.get(&key(2)).await.expect("get"), Some(block(2, 60)), "round {round}");
        for n in 0..6 {
            store.put(&key(100 * round + n + 10), block(n, 5)).await.expect("put");
        }
        store.checkpoint().await.expect("checkpoint");
    }
    store.delete(&key(2)).await.expect("delete");
    assert_eq!(store.get(&key(2)).await.expect("get"), None);
    assert_eq!(store.get(&key(1)).await.expect("get"), Some(block(1, 50)));
}

#[tokio::test]
async fn a_full_disk_is_no_end() {
    let data = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let index = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let store = open(data.clone(), index.clone()).await;
    store.put(&key(0), block(0, 100)).await.expect("to memory");
    data.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    assert_eq!(store.flush().await.expect_err("full").kind(), ErrorKind::NoSpace);
    assert_eq!(store.get(&key(0)).await.expect("get"), Some(block(0, 100)));
    store.flush().await.expect("there is room again");
    index.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    assert_eq!(store.checkpoint().await.expect_err("full").kind(), ErrorKind::NoSpace);
    for n in 0..30 {
        store.put(&key(n), block(n, 100)).await.expect("put");
    }
    store.checkpoint().await.expect("there is room again");
    assert_eq!(contents(&open(data, index).await).await, (0..30).map(|n| (key(n), block(n, 100))).collect());
}

#[tokio::test]
async fn what_is_live_and_dead_is_counted_and_survives() {
    let (data, index): (Arc<MemMedia>, Arc<MemMedia>) = Default::default();
    let store = open(data.clone(), index.clone()).await;
    for n in 0..20 {
        store.put(&key(n), block(n, 100)).await.expect("put");
        store.put(&key(n), block(n, 100)).await.expect("no second record");
    }
    // A frame's header, the head with its kind and key, the block, padding.
    let live: u64 = (0..20_u64).map(|n| (24 + 1 + if n < 10 { 5 } else { 6 } + 100_u64).next_multiple_of(8)).sum();
    assert_eq!(store.stats(), SegmentsStats { block_count: 20, live_len: live, dead_len: 0 });
    for n in 0..20 {
        store.delete(&key(n)).await.expect("delete");
        store.delete(&key(n)).await.expect("no second record");
    }
    store.flush().await.expect("flush");
    let stats = store.stats();
    assert_eq!((stats.block_count, stats.live_len), (0, 0));
    let frames: usize = image(&*data).await.values().map(|bytes| bytes.len() - 64).sum();
    assert!(stats.dead_len <= frames as u64 && stats.dead_len > live, "{stats:?} of {frames}");
    drop(store);
    let built = open(data.clone(), Arc::new(MemMedia::default())).await;
    assert_eq!(built.stats(), stats, "built from the log");
    drop(built);
    assert_eq!(open(data, index).await.stats(), stats, "read from the index and replayed");
}

/// 200,000 tiny blocks: the index is in few runs, a look-up costs at most two reads, opening a handful.
#[tokio::test]
async fn many_tiny_blocks_cost_few_reads() {
    const COUNT: usize = 200_000;
    let data = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let index = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let options = SegmentsOptions { memory_count_max: 8192, segment_len_max: 4 << 20, ..SegmentsOptions::default() };
    let store = Segments::open(data.clone(), index.clone(), options.clone(), &env()).await.expect("open");
    for n in 0..COUNT {
        store.put(&key(n), Bytes::copy_from_slice(&n.to_le_bytes())).await.expect("put");
    }
    for n in (0..COUNT).step_by(10) {
        store.delete(&key(n)).await.expect("delete");
    }
    store.checkpoint().await.expect("checkpoint");
    drop(store);

    let before = data.calls(MediaCall::Read) + index.calls(MediaCall::Read);
    let store = Segments::open(data.clone(), index.clone(), options, &env()).await.expect("open");
    let opening = data.calls(MediaCall::Read) + index.calls(MediaCall::Read) - before;
    let run_count = store.inner.lock().runs.len();
    assert!(run_count <= 10, "{run_count} runs");
    assert!(opening < 10 + 8 * run_count as u64, "{opening} reads to open");
    assert_eq!(store.stats().block_count, 180_000);

    let before = data.calls(MediaCall::Read) + index.calls(MediaCall::Read);
    let sample: Vec<_> = (0..COUNT + 2000).step_by(97).collect();
    for n in &sample {
        let expected = (*n < COUNT && n % 10 != 0).then(|| Bytes::copy_from_slice(&n.to_le_bytes()));
        assert_eq!(store.get(&key(*n)).await.expect("get"), expected);
    }
    let reads = data.calls(MediaCall::Read) + index.calls(MediaCall::Read) - before;
    assert!(reads <= sample.len() as u64 * 5 / 2, "{reads} reads for {} look-ups", sample.len());
    let listed: BTreeSet<BlockKey> = store.keys().try_collect().await.expect("keys");
    assert_eq!(listed.len(), 180_000);
}

proptest! {
    /// Whatever the media hold, opening ends with a store that takes and gives, or with an error.
    #[test]
    fn any_bytes_open_or_are_refused(
        edits in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<(bool, prop::sample::Index, prop::sample::Index)>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let (mut data, mut index, blocks) = sample().await;
            for (of_data, segment, at, byte) in edits {
                let image = if of_data { &mut data } else { &mut index };
                let id = *segment.get(&image.keys().copied().collect::<Vec<_>>());
                let bytes = image.get_mut(&id).expect("it is there");
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let image = if cut.0 { &mut data } else { &mut index };
            let id = *cut.1.get(&image.keys().copied().collect::<Vec<_>>());
            let bytes = image.get_mut(&id).expect("it is there");
            bytes.truncate(cut.2.index(bytes.len() + 1));
            bytes.extend_from_slice(&noise);
            let store = open(load(&data).await, load(&index).await).await;
            for n in 0..43 {
                match store.get(&key(n)).await {
                    Ok(Some(found)) => {
                        let was_put = blocks.get(&key(n)).is_some_and(|block| *block == found);
                        assert!(was_put || found == block(n, n * 5), "wrong bytes for key {n}");
                    }
                    Ok(None) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
                }
            }
            store.delete(&key(7)).await.expect("delete");
            store.put(&key(7), block(70, 7)).await.expect("put");
            store.checkpoint().await.expect("checkpoint");
            assert_eq!(store.get(&key(7)).await.expect("get"), Some(block(70, 7)));
        });
    }
}
