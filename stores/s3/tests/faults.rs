//! What goes wrong between a store and its bucket, and inside of it: nothing acknowledged is lost, nothing wrong is given,
//! nothing takes longer than its time.

mod faulty;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use muxfs::{
    BlockStore, ErrorKind, Name,
    heads::{Heads, Swap, Version},
    testing::{Clock, fault::Dice},
};
use muxfs_s3::{Bucket, S3Access, S3Limits, S3Options, S3Store};
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, memory::InMemory};

use faulty::{Faults, Faulty, Late, block, bucket, key, limits, objects_of, open, options, rounds};

fn name() -> Name {
    Name::new(b"main").expect("a name")
}

/// What is to be there: each block that was put and synced, none that was deleted and synced, and what may be.
#[derive(Debug, Default, Clone)]
struct Model {
    synced: BTreeMap<u64, bool>,
    pending: BTreeMap<u64, bool>,
    head: Option<u64>,
    tried: Option<u64>,
}

impl Model {
    fn sync(&mut self) {
        self.synced.append(&mut self.pending);
    }

    async fn check(&mut self, store: &S3Store, what: &str) -> Option<Version> {
        for (n, was_put) in &self.synced {
            let found = store.get(&key(*n)).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
            match (found, self.pending.contains_key(n)) {
                (None, false) => assert!(!was_put, "{what}: block {n} was synced and is lost"),
                (Some(_), false) => assert!(was_put, "{what}: block {n} was deleted and is back"),
                (_, true) => {}
            }
        }
        for n in self.synced.keys().chain(self.pending.keys()) {
            if let Some(found) = store.get(&key(*n)).await.expect("get") {
                assert_eq!(found, block(*n, 700), "{what}: block {n} is another");
            }
        }
        let loaded = store.load(&name()).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let (now, version) = loaded.map_or((None, None), |(head, version)| {
            (Some(u64::from_le_bytes(head.as_ref().try_into().expect("a number"))), Some(version))
        });
        assert!(now == self.head || now == self.tried, "{what}: head {now:?}, not {:?} or {:?}", self.head, self.tried);
        // What was found stays.
        for n in self.synced.keys().chain(self.pending.keys()).copied().collect::<Vec<_>>() {
            let is_there = store.has(&key(n)).await.expect("has");
            self.synced.insert(n, is_there);
        }
        self.pending.clear();
        (self.head, self.tried) = (now, now);
        version
    }
}

/// Works until something fails.
async fn work(store: &S3Store, dice: &mut Dice, model: &mut Model, mut version: Option<Version>) -> muxfs::Result<()> {
    for step in 0..12 {
        for _ in 0..=dice.roll(6) {
            let n = dice.roll(60) as u64;
            let is_put = dice.roll(3) > 0;
            // Before it: what fails may have happened.
            model.pending.insert(n, is_put);
            if is_put { store.put(&key(n), block(n, 700)).await? } else { store.delete(&key(n)).await? }
        }
        match dice.roll(4) {
            0 => {
                let next = model.head.unwrap_or(0) + 1;
                model.tried = Some(next);
                let head = Bytes::copy_from_slice(&next.to_le_bytes());
                let Swap::Done(done) = store.swap(&name(), version.as_ref(), head).await? else {
                    panic!("nobody else swaps")
                };
                (model.head, version) = (Some(next), Some(done));
                model.sync();
            }
            1 if step % 3 == 0 => {
                store.compact().await?;
                model.sync();
            }
            _ => {
                store.flush().await?;
                model.sync();
            }
        }
    }
    store.close().await
}

/// The machine stops at any put or deletion, whether that still happens or not, again and again.
#[tokio::test]
async fn a_crash_at_any_put_loses_nothing_that_was_synced() {
    let quick = || S3Limits { attempt_max: Duration::ZERO, call_max: Duration::ZERO, ..limits() };
    let mut stopped = 0_u64;
    let rounds = rounds(70);
    for at in 0..rounds {
        for seed in 0..3 {
            let (inner, mut model, mut dice) = (Arc::new(InMemory::new()), Model::default(), Dice::new(at * 10 + seed));
            let late = Arc::new(Late::default());
            for round in 0..5 {
                let stops_at = (round < 4).then(|| if round == 0 { at } else { dice.roll(40) as u64 });
                // What the machine before it gave up may happen while this one works.
                let happens_later = if seed == 2 && round < 4 { 9 } else { 0 };
                let faults = Faults { happens_later, stops_at, ..Faults::default() };
                let objects = Faulty::with_late(inner.clone(), late.clone(), seed, faults);
                let what = format!("stop at {at}, seed {seed}, round {round}");
                let limits = if round < 4 { quick() } else { limits() };
                let bucket = bucket(objects.clone(), at * 100 + seed * 10 + round, limits);
                let done = async {
                    let store = S3Store::open(bucket, options("me", 4000)).await?;
                    if objects.has_stopped() {
                        return Ok(());
                    }
                    let version = model.check(&store, &what).await;
                    work(&store, &mut dice, &mut model, version).await
                };
                match done.await {
                    Ok(()) => {}
                    Err(error) => {
                        assert!(objects.has_stopped() || happens_later > 0, "{what}: {error:#}");
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: a crash is no damage: {error:#}");
                        stopped += 1;
                    }
                }
            }
        }
    }
    assert!(stopped > 4 * rounds, "{stopped} stops are few");
}

/// A million small files are not a million objects, whatever is synced when.
#[tokio::test]
async fn the_number_of_objects_follows_from_what_they_hold() {
    let pack_len = 64 << 10;
    let inner = Arc::new(InMemory::new());
    let store = open(inner.clone(), 1, options("me", pack_len)).await.expect("open");
    let mut dice = Dice::new(5);
    let check = async |most: usize| {
        let (count, len) = objects_of(&inner).await;
        let full = usize::try_from(len).expect("small") / pack_len;
        assert!(count <= full + most, "{count} objects for {full} packs");
    };
    for n in 0..3000 {
        store.put(&key(n), block(n, 700)).await.expect("put");
        if dice.roll(8) == 0 {
            store.flush().await.expect("flush");
            check(300).await;
        }
    }
    store.compact().await.expect("compact");
    check(60).await;
    store.close().await.expect("close");
    let again = open(inner, 2, options("me", pack_len)).await.expect("open");
    for n in 0..3000 {
        assert_eq!(again.get(&key(n)).await.expect("get"), Some(block(n, 700)));
    }
}

/// What is deleted gives its room back, also where a writer stopped between its last pack and the deletion of old ones.
#[tokio::test]
async fn dead_blocks_give_their_room_back() {
    let inner = Arc::new(InMemory::new());
    let alone = S3Options { compacts: false, ..options("me", 32 << 10) };
    let store = open(inner.clone(), 1, alone).await.expect("open");
    for n in 0..1000 {
        store.put(&key(n), block(n, 700)).await.expect("put");
    }
    store.flush().await.expect("flush");
    let (_, before) = objects_of(&inner).await;
    for n in (0..1000).filter(|n| n % 10 != 0) {
        store.delete(&key(n)).await.expect("delete");
    }
    let compacted = store.compact().await.expect("compact");
    assert!(compacted.objects_deleted > 10, "{compacted:?}");
    let (_, after) = objects_of(&inner).await;
    assert!(after < before / 4, "{before} bytes became {after}");
    let check = async |store: &S3Store| {
        for n in 0..1000 {
            let expected = (n % 10 == 0).then(|| block(n, 700));
            assert_eq!(store.get(&key(n)).await.expect("get"), expected, "block {n}");
        }
        assert_eq!(store.keys().count().await, 100);
    };
    check(&store).await;
    check(&open(inner, 2, options("me", 32 << 10)).await.expect("open")).await;
}

/// The client panics while a pack is put: who waits for it is told, and the next sync puts it again.
#[tokio::test(start_paused = true)]
async fn a_panic_keeps_nobody_waiting() {
    let inner = Arc::new(InMemory::new());
    let objects = Faulty::new(inner.clone(), 1, Faults::default());
    let store =
        S3Store::open(bucket(objects.clone(), 1, S3Limits::default()), options("me", 8 << 20)).await.expect("open");
    store.put(&key(0), block(0, 700)).await.expect("put");
    objects.set(|faults| faults.panics = true);
    let told = tokio::time::timeout(Duration::from_mins(5), store.flush()).await.expect("it ends");
    assert_eq!(told.expect_err("it panicked").kind(), ErrorKind::Internal);
    store.flush().await.expect("put again");
    let again = open(inner, 2, options("me", 8 << 20)).await.expect("open");
    assert_eq!(again.get(&key(0)).await.expect("get"), Some(block(0, 700)));
}

/// The server does not answer for a minute: calls fail in their time, and nothing is lost that was put meanwhile.
#[tokio::test(start_paused = true)]
async fn a_dead_minute_costs_its_time_and_nothing_else() {
    let inner = Arc::new(InMemory::new());
    let objects = Faulty::new(inner.clone(), 1, Faults::default());
    let bucket = bucket(objects.clone(), 1, S3Limits::default());
    let store = S3Store::open(bucket, options("me", 8 << 20)).await.expect("open");
    store.put(&key(0), block(0, 700)).await.expect("put");
    store.flush().await.expect("flush");
    objects.set(|faults| faults.hangs = true);
    let begun = tokio::time::Instant::now();
    store.put(&key(1), block(1, 700)).await.expect("it is in memory");
    for _ in 0..2 {
        let call = tokio::time::Instant::now();
        let error = store.flush().await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(format!("{error:#}").contains("s3://bucket/below/packs/"), "{error:#}");
        assert!(call.elapsed() <= Duration::from_secs(31), "{:?}", call.elapsed());
        let error = store.get(&key(0)).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
    objects.set(|faults| faults.hangs = false);
    store.flush().await.expect("it answers again");
    let again = open(inner, 2, options("me", 8 << 20)).await.expect("open");
    for n in 0..2 {
        assert_eq!(again.get(&key(n)).await.expect("get"), Some(block(n, 700)));
    }
}

/// Who reads on and goes away before the answer is there disturbs nobody who reads there later.
#[tokio::test(start_paused = true)]
async fn who_goes_away_disturbs_nobody() {
    let inner = Arc::new(InMemory::new());
    let store = open(inner.clone(), 1, options("me", 8 << 20)).await.expect("open");
    for n in 0..1000 {
        store.put(&key(n), block(n, 7000)).await.expect("put");
    }
    store.close().await.expect("close");
    let objects = Faulty::new(inner, 1, Faults::default());
    let limits = S3Limits { call_count_max: 2, ..S3Limits::default() };
    let store = S3Store::open(bucket(objects.clone(), 2, limits), options("me", 8 << 20)).await.expect("open");
    for from in (0..900).step_by(100) {
        objects.set(|faults| faults.hangs = false);
        store.get(&key(from)).await.expect("get");
        objects.set(|faults| faults.hangs = true);
        let next = key(from + 1);
        let mut gone = store.get(&next);
        assert!(futures_util::poll!(&mut gone).is_pending(), "nobody answers");
        drop(gone);
    }
    objects.set(|faults| faults.hangs = false);
    tokio::time::sleep(Duration::from_mins(1)).await;
    for n in 0..1000 {
        assert_eq!(store.get(&key(n)).await.expect("the bucket is well"), Some(block(n, 7000)), "block {n}");
    }
}

/// A storm in which most calls fail: what is acknowledged is there.
#[tokio::test]
async fn a_storm_of_errors_is_waited_out() {
    let inner = Arc::new(InMemory::new());
    let objects = Faulty::new(inner.clone(), 3, Faults { fails: 2, loses_answers: 3, yields: 3, ..Faults::default() });
    let store = open(objects, 1, options("me", 8000)).await.expect("open");
    // What fails in its time is tried again by who wants it.
    let until_done = async || {
        while let Err(error) = store.flush().await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        }
    };
    for n in 0..400 {
        while let Err(error) = store.put(&key(n), block(n, 700)).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        }
        if n % 37 == 0 {
            until_done().await;
        }
    }
    until_done().await;
    let again = open(inner, 2, options("me", 8000)).await.expect("open");
    for n in 0..400 {
        assert_eq!(again.get(&key(n)).await.expect("get"), Some(block(n, 700)));
    }
}

/// Nothing is believed that a listing does not show: who opens finds all, and who sweeps deletes nothing that counts.
#[tokio::test]
async fn listings_that_lag_hide_nothing() {
    let inner = Arc::new(InMemory::new());
    let objects = Faulty::new(inner.clone(), 1, Faults::default());
    let store = open(objects.clone(), 1, options("me", 4000)).await.expect("open");
    for round in 0..20 {
        if round % 5 == 0 {
            let shown: Vec<_> = inner.list(None).map_ok(|meta| meta.location).try_collect().await.expect("list");
            objects.set(|faults| faults.lists = Some(shown));
        }
        for n in round * 10..round * 10 + 10 {
            store.put(&key(n), block(n, 700)).await.expect("put");
        }
        store.delete(&key(round * 10)).await.expect("delete");
        if round % 4 == 3 { store.compact().await.map(drop) } else { store.flush().await }.expect("durable");
        let mut follow = options("you", 4000);
        follow.access = S3Access::Follow;
        let other = open(objects.clone(), 100 + round, follow).await.expect("open");
        for n in 0..round * 10 + 10 {
            let expected = (n % 10 != 0).then(|| block(n, 700));
            assert_eq!(other.get(&key(n)).await.expect("get"), expected, "block {n} in round {round}");
        }
    }
}

/// A wrong byte is an error, never data, and goes when the block is put again; what is in other packs is read as before.
#[tokio::test]
async fn damage_is_found_and_put_right() {
    let inner = Arc::new(InMemory::new());
    let store = open(inner.clone(), 1, options("me", 8 << 20)).await.expect("open");
    for n in 0..10 {
        store.put(&key(n), block(n, 700)).await.expect("put");
    }
    store.flush().await.expect("flush");
    let all: Vec<_> = inner.list(None).try_collect().await.expect("list");
    let largest = all.into_iter().max_by_key(|meta| meta.size).expect("a pack").location;
    let mut bytes = inner.get(&largest).await.expect("get").bytes().await.expect("bytes").to_vec();
    bytes[8 + 3 * 700 + 5] ^= 1;
    inner.put(&largest, PutPayload::from(bytes)).await.expect("put");
    for n in 0..10 {
        let found = store.get(&key(n)).await;
        match n {
            3 => assert_eq!(found.expect_err("damaged").kind(), ErrorKind::Corrupt),
            _ => assert_eq!(found.expect("get"), Some(block(n, 700))),
        }
    }
    store.compact().await.expect("what is damaged stays where it is");
    store.put(&key(3), block(3, 700)).await.expect("put");
    store.flush().await.expect("flush");
    let again = open(inner.clone(), 2, options("me", 8 << 20)).await.expect("open");
    for n in 0..10 {
        assert_eq!(again.get(&key(n)).await.expect("get"), Some(block(n, 700)));
    }
    // Without the object nobody knows what was in it, and says so.
    drop((store, again));
    inner.delete(&largest).await.expect("delete");
    let again = open(inner, 3, options("me", 8 << 20)).await.expect("open");
    assert_eq!(again.get(&key(7)).await.expect_err("lost").kind(), ErrorKind::Corrupt);
    assert_eq!(again.get(&key(3)).await.expect("get"), Some(block(3, 700)));
}

/// Two writers cannot be kept apart by a server that overlooks conditions.
#[tokio::test]
async fn a_server_without_conditions_is_refused() {
    let objects = Faulty::new(Arc::default(), 1, Faults { overlooks_conditions: true, ..Faults::default() });
    let error = open(objects.clone(), 1, options("me", 4000)).await.expect_err("it overwrites");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(format!("{error:#}").contains("two writers"), "{error:#}");
    assert_eq!(objects_of(objects.inner()).await.0, 0, "nothing is left there");
}

/// The indexes that this machine keeps save most of an opening, and are no more than a copy.
#[tokio::test]
async fn kept_indexes_are_read_instead_of_packs() {
    let (inner, dir) = (Arc::new(InMemory::new()), tempfile::tempdir().expect("a directory"));
    let with = || S3Options { kept: Some(dir.path().into()), compacts: false, ..options("me", 4000) };
    let store = open(inner.clone(), 1, with()).await.expect("open");
    for n in 0..300 {
        store.put(&key(n), block(n, 700)).await.expect("put");
    }
    store.close().await.expect("close");
    let (packs, again) = (store.usage().pack_count as u64, open(inner.clone(), 2, with()).await.expect("open"));
    assert!(packs > 40 && again.stats().gets < 12, "{packs} packs, {:?}", again.stats());
    again.close().await.expect("close");
    for file in walk(dir.path()) {
        std::fs::write(file, b"anything").expect("written");
    }
    let again = open(inner, 3, with()).await.expect("open");
    assert!(again.stats().gets >= packs);
    for n in 0..300 {
        assert_eq!(again.get(&key(n)).await.expect("get"), Some(block(n, 700)));
    }
}

/// A bucket that was put back to what it was goes on with other packs under numbers that this machine knows: what it kept of those
/// hides nothing, and nothing goes because of it.
#[tokio::test]
async fn kept_indexes_of_another_history_are_not_believed() {
    let (inner, dir) = (Arc::new(InMemory::new()), tempfile::tempdir().expect("a directory"));
    let with = |kept: bool| {
        let kept = kept.then(|| dir.path().into());
        S3Options { kept, compacts: false, ..options("me", 4000) }
    };
    let puts = async |inner: &Arc<InMemory>, seed: u64, kept: bool, numbers: std::ops::Range<u64>| {
        let store = open(inner.clone(), seed, with(kept)).await.expect("open");
        for n in numbers {
            store.put(&key(n), block(n, 700)).await.expect("put");
        }
        store.close().await.expect("close");
    };
    puts(&inner, 1, true, 0..50).await;
    let before = Arc::new(inner.fork());
    puts(&inner, 2, true, 100..200).await;
    puts(&before, 3, false, 200..300).await;
    let check = async |store: &S3Store, deleted: u64| {
        for n in 0..300 {
            let is_there = n < 50 || n >= 200 + deleted;
            assert_eq!(store.get(&key(n)).await.expect("get"), is_there.then(|| block(n, 700)), "block {n}");
        }
    };
    let store = open(before.clone(), 4, with(true)).await.expect("open");
    check(&store, 0).await;
    for n in 200..233 {
        store.delete(&key(n)).await.expect("delete");
    }
    store.compact().await.expect("compact");
    check(&store, 33).await;
    store.close().await.expect("close");
    check(&open(before.clone(), 5, with(true)).await.expect("open"), 33).await;
    check(&open(before, 6, with(false)).await.expect("open"), 33).await;
}

/// A bucket that was put back goes on with a first pack under a number whose index is kept here of the history that is gone: at no
/// opening after that is anything of it believed to be there, and it can be put again.
#[tokio::test]
async fn a_kept_index_of_a_later_pack_is_not_believed() {
    for reopened in [false, true] {
        let (inner, dir) = (Arc::new(InMemory::new()), tempfile::tempdir().expect("a directory"));
        let with = || S3Options { kept: Some(dir.path().into()), compacts: false, ..options("me", 4000) };
        let puts = async |store: &S3Store, numbers: std::ops::Range<u64>| {
            for n in numbers {
                store.put(&key(n), block(n, 700)).await.expect("put");
            }
            store.flush().await.expect("flush");
        };
        let mut store = open(inner.clone(), 1, with()).await.expect("open");
        puts(&store, 0..50).await;
        if reopened {
            store.close().await.expect("close");
            store = open(inner.clone(), 2, with()).await.expect("open");
            puts(&store, 50..60).await;
        }
        let (before, len) = (Arc::new(inner.fork()), if reopened { 60 } else { 50 });
        puts(&store, 100..200).await;
        store.close().await.expect("close");
        assert!(!walk(dir.path()).is_empty(), "indexes are kept");

        let store = open(before.clone(), 3, with()).await.expect("open");
        puts(&store, 200..300).await;
        store.close().await.expect("close");
        let store = open(before.clone(), 4, with()).await.expect("open");
        for n in 100..200 {
            assert!(!store.has(&key(n)).await.expect("has"), "block {n} is gone, reopened {reopened}");
        }
        puts(&store, 100..200).await;
        store.close().await.expect("close");
        let store = open(before, 5, with()).await.expect("open");
        for n in (0..len).chain(100..300) {
            assert_eq!(store.get(&key(n)).await.expect("get"), Some(block(n, 700)), "block {n}");
        }
    }
}

/// Who closes a store while packs are put together has ended for good: nothing is put after that, and another may begin.
#[tokio::test]
async fn what_has_ended_stays_so() {
    let (mut refused, mut compacted) = (0, 0);
    for turns in 0..120 {
        let inner = Arc::new(InMemory::new());
        let objects = Faulty::new(inner.clone(), turns, Faults { yields: 4, ..Faults::default() });
        let alone = S3Options { compacts: false, ..options("me", 1000) };
        let store = open(objects, 1, alone).await.expect("open");
        for n in 0..20 {
            store.put(&key(n), block(n, 70)).await.expect("put");
            store.flush().await.expect("flush");
        }
        let compacting = tokio::spawn({
            let store = store.clone();
            async move { store.compact().await }
        });
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        store.close().await.expect("close");
        let newest = newest_pack(&inner).await;
        match compacting.await.expect("no panic") {
            Ok(_) => compacted += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
                refused += 1;
            }
        }
        assert_eq!(newest_pack(&inner).await, newest, "a pack came after the end, {turns} turns");
        let other =
            open(inner, 2, options("you", 1000)).await.unwrap_or_else(|error| panic!("{turns} turns: {error:#}"));
        for n in 0..20 {
            assert_eq!(other.get(&key(n)).await.expect("get"), Some(block(n, 70)));
        }
    }
    assert!(refused > 10 && compacted > 10, "{refused} refused, {compacted} compacted");
}

async fn newest_pack(inner: &InMemory) -> Option<String> {
    let all: Vec<_> = inner.list(Some(&"below/packs".into())).try_collect().await.expect("list");
    all.into_iter().map(|meta| meta.location.to_string()).max()
}

/// The fence follows the packs also where several count at once, so that an opening has few to look for.
#[tokio::test]
async fn an_opening_looks_for_few_packs() {
    for seed in 0..10 {
        let inner = Arc::new(InMemory::new());
        let objects = Faulty::new(inner.clone(), seed, Faults { yields: 9, ..Faults::default() });
        let store = open(objects, 1, S3Options { compacts: false, ..options("me", 100) }).await.expect("open");
        for n in 0..700 {
            store.put(&key(n), block(n, 100)).await.expect("put");
        }
        store.flush().await.expect("flush");
        let newest = newest_pack(&inner).await.expect("packs");
        let newest = u64::from_str_radix(newest.rsplit('/').next().expect("a name"), 16).expect("a number");
        let fence = inner.get(&"below/fence".into()).await.expect("get").bytes().await.expect("bytes");
        let fence: serde_json::Value = serde_json::from_slice(&fence).expect("JSON");
        let tail = fence["tail"].as_u64().expect("a number");
        assert!(newest > 700 && newest - tail < 140, "pack {newest}, and the fence says {tail} with seed {seed}");
    }
}

/// What an opening that was cut off left is deleted when nobody can need it any more.
#[tokio::test]
async fn probes_that_are_left_are_swept() {
    let inner = Arc::new(InMemory::new());
    let probe: object_store::path::Path = "below/probes/0123".into();
    inner.put(&probe, PutPayload::from_static(b"one")).await.expect("put");
    let clock = Clock::default();
    let bucket = || Arc::new(Bucket::new(inner.clone(), "below", "s3://bucket", limits(), &clock.env(1)));
    let since =
        std::time::SystemTime::now().duration_since((clock.env(1).now)()).expect("the clock of tests is behind");
    clock.advance(since);
    let store = S3Store::open(bucket(), options("me", 1000)).await.expect("open");
    store.compact().await.expect("compact");
    assert!(inner.head(&probe).await.is_ok(), "somebody opens a store now");
    clock.advance(Duration::from_hours(48));
    store.compact().await.expect("compact");
    assert!(inner.head(&probe).await.is_err());
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
