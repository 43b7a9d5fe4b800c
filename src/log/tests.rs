//! What a log keeps, what it cuts and what it refuses.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{
    SecretKey,
    media::{Durable, MemMedia, SealedMedia},
    testing::{
        self, env,
        fault::{Crash, CrashMedia, Dice, FaultyMedia, MediaCall},
        media::{Image, image, load},
    },
};

fn options() -> LogOptions {
    LogOptions { segment_len_max: 400, ..LogOptions::new("test", &env()) }
}

async fn open(media: Arc<dyn Media>) -> Result<(Log, Vec<Record>)> {
    let mut seen = Vec::new();
    let log = Log::open(media, options(), |_, record| {
        seen.push(record);
        Ok(())
    })
    .await?;
    Ok((log, seen))
}

fn record(n: usize) -> Record {
    let mut dice = Dice::new(n as u64);
    let (head_len, body_len) = (dice.roll(20), dice.roll(90));
    Record { head: dice.bytes(head_len).into(), body: dice.bytes(body_len).into() }
}

/// Waits until the writes in the background are done.
async fn settle(log: &Log) {
    while log.inner.lock().writing {
        tokio::task::yield_now().await;
    }
}

/// A durable log of `count` records in several segments whose last words say so.
async fn durable(count: usize) -> (Image, Vec<Record>) {
    let media: Arc<MemMedia> = Arc::default();
    let (log, _) = open(media.clone()).await.expect("open");
    for n in 0..count {
        log.append(record(n)).await.expect("append");
        if n % 3 == 0 {
            log.sync().await.expect("sync");
        }
    }
    log.sync().await.expect("sync");
    settle(&log).await;
    (image(&*media).await, (0..count).map(record).collect())
}

#[tokio::test]
async fn records_come_back_in_order_and_by_place() {
    let media: Arc<MemMedia> = Arc::default();
    let mut expected = Vec::new();
    for round in 0..4 {
        let (log, seen) = open(media.clone()).await.expect("open");
        assert_eq!(seen, expected);
        for n in 0..7 {
            let record = record(round * 7 + n);
            let pos = log.append(record.clone()).await.expect("append");
            assert_eq!(log.read(pos).await.expect("read while pending"), record);
            expected.push(record);
        }
        log.sync().await.expect("sync");
    }
    let mut places = Vec::new();
    let log = Log::open(media, options(), |pos, record| {
        places.push((pos, record));
        Ok(())
    });
    let log = log.await.expect("open");
    assert!(places.is_sorted_by_key(|(pos, _)| *pos));
    for (pos, record) in places {
        assert_eq!(log.read(pos).await.expect("read from the media"), record);
    }
}

/// The salt of the vector is the same on every machine.
fn demo_env() -> Env {
    let fill = |buffer: &mut [u8]| buffer.copy_from_slice(b"salt of demo");
    Env { fill: Arc::new(fill), ..env() }
}

/// The bytes of spec/log.md: two records, a sync and its mark.
#[tokio::test]
async fn the_bytes_are_those_of_the_specification() {
    let media: Arc<MemMedia> = Arc::default();
    let log = Log::open(media.clone(), LogOptions::new("demo", &demo_env()), |_, _| Ok(())).await.expect("open");
    log.append("hello").await.expect("append");
    log.append(Record { head: "head".into(), body: "a body".into() }).await.expect("append");
    log.sync().await.expect("sync");
    settle(&log).await;
    let mut hex = String::new();
    for line in image(&*media).await[&SegmentId(0)].chunks(16) {
        for byte in line {
            write!(hex, "{byte:02x}").expect("a string takes all");
        }
        hex.push(' ');
    }
    let spec = include_str!("../../spec/log.md");
    let vector: Vec<_> = spec
        .split("<!-- vector -->")
        .nth(1)
        .expect("the specification has a vector")
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!(hex.split_whitespace().collect::<Vec<_>>(), vector);
}

/// What a log holds: the places of its records and the records.
async fn places(media: Arc<dyn Media>) -> Result<(Log, Vec<(LogPos, Record)>)> {
    let mut seen = Vec::new();
    let log = Log::open(media, options(), |pos, record| {
        seen.push((pos, record));
        Ok(())
    })
    .await?;
    Ok((log, seen))
}

#[tokio::test]
async fn a_boundary_divides_what_was_appended_before_from_what_comes_after() {
    let media: Arc<MemMedia> = Arc::default();
    let (log, _) = open(media.clone()).await.expect("open");
    assert_eq!(log.rotate().expect("rotate"), log.rotate().expect("rotate"), "nothing is between the two");
    let first = log.append(record(1)).await.expect("append");
    let boundary = log.rotate().expect("rotate");
    assert_eq!(log.rotate().expect("rotate"), boundary);
    assert!(log.end() <= boundary, "the end of what was appended is below it");
    let second = log.append(record(2)).await.expect("append");
    assert!(first < boundary && boundary <= second && first.segment < second.segment);
    log.sync().await.expect("sync");
    assert!(log.synced() > second);
    let (log, seen) = places(media).await.expect("open");
    assert_eq!(seen, [(first, record(1)), (second, record(2))]);
    assert!(log.synced() > second, "what is read back is durable");
    assert!(log.rotate().expect("rotate") > second);
}

#[tokio::test]
async fn what_is_dropped_is_gone_and_what_is_not_stays() {
    let media: Arc<MemMedia> = Arc::default();
    let (log, _) = open(media.clone()).await.expect("open");
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for n in 0..12 {
        dropped.push(log.append(record(n)).await.expect("append"));
    }
    let boundary = log.rotate().expect("rotate");
    for n in 12..24 {
        kept.push((log.append(record(n)).await.expect("append"), record(n)));
    }
    assert!(kept.last().expect("some").0.segment.0 > boundary.segment.0 + 1, "in several segments");
    log.drop_before(boundary).await.expect("drop");
    log.drop_before(boundary).await.expect("repeatable");
    log.drop_before(dropped[0]).await.expect("gone already");
    for pos in dropped {
        assert_eq!(log.read(pos).await.expect_err("dropped").kind(), ErrorKind::NotFound);
    }
    kept.push((log.append(record(24)).await.expect("append"), record(24)));
    for (pos, record) in &kept {
        assert_eq!(log.read(*pos).await.expect("read"), *record);
    }
    log.sync().await.expect("sync");
    let (log, seen) = places(media.clone()).await.expect("open");
    assert_eq!(seen, kept);

    // Of a segment that a place is in the middle of nothing goes.
    let middle = kept[kept.len() - 3].0;
    log.drop_before(middle).await.expect("drop");
    let kept: Vec<_> = kept.into_iter().filter(|(pos, _)| pos.segment >= middle.segment).collect();
    let (log, seen) = places(media.clone()).await.expect("open");
    assert_eq!(seen, kept);

    let past = LogPos { offset: u32::MAX, ..log.rotate().expect("rotate") };
    assert_eq!(log.drop_before(past).await.expect_err("past the end").kind(), ErrorKind::InvalidArgument);
    log.drop_before(log.rotate().expect("rotate")).await.expect("drop all");
    let (log, seen) = places(media.clone()).await.expect("open");
    assert_eq!(seen, []);
    assert_eq!(media.segments().await.expect("segments").len(), 1, "it says that nothing is left");
    let pos = log.append(record(1)).await.expect("append");
    log.sync().await.expect("sync");
    assert_eq!(places(media).await.expect("open").1, [(pos, record(1))]);
}

/// The number of a segment that was never made can be where a log begins: a boundary nothing was appended behind before
/// the machine stopped, or before a checkpoint that failed took the number.
#[tokio::test]
async fn a_log_may_begin_with_a_number_given_out_in_vain() {
    let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let (log, _) = open(media.clone()).await.expect("open");
    log.append(record(1)).await.expect("append");
    let boundary = log.rotate().expect("rotate");
    log.sync().await.expect("sync");
    settle(&log).await;
    media.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    assert_eq!(log.checkpoint([record(9)]).await.expect_err("full").kind(), ErrorKind::NoSpace);
    let pos = log.append(record(2)).await.expect("append");
    assert!(pos.segment > boundary.segment);
    log.drop_before(boundary).await.expect("drop");
    log.sync().await.expect("sync");
    assert_eq!(places(media).await.expect("open").1, [(pos, record(2))]);

    // A checkpoint that failed in an empty log left one that could not be opened.
    let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let (log, _) = open(media.clone()).await.expect("open");
    media.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    assert_eq!(log.checkpoint([record(9)]).await.expect_err("full").kind(), ErrorKind::NoSpace);
    log.append(record(3)).await.expect("append");
    log.sync().await.expect("sync");
    assert_eq!(open(media).await.expect("open").1, [record(3)]);
}

/// What a tree does with its journal before the machine stops: it appends, divides, syncs and drops what it has elsewhere.
#[derive(Clone, Default)]
struct Cutting {
    appended: Vec<Record>,
    /// So many of them are durable.
    acked: usize,
    /// With how many gone the log may begin: the last that was dropped durably, and those that were being dropped.
    firsts: Vec<usize>,
}

impl Cutting {
    async fn live(&mut self, media: Arc<dyn Media>) -> Result<()> {
        let (log, seen) = match open(media).await {
            Err(error) if error.kind() != ErrorKind::Unavailable => panic!("a crash is no damage: {error:#}"),
            opened => opened?,
        };
        let is_so = |first: &&usize| {
            let kept = &self.appended[**first..];
            seen.len() <= kept.len() && seen == kept[..seen.len()] && *first + seen.len() >= self.acked
        };
        let Some(first) = self.firsts.iter().find(is_so).copied() else {
            panic!("{} of {} records, from {:?}, {} durable", seen.len(), self.appended.len(), self.firsts, self.acked);
        };
        self.firsts = vec![first];
        // What is seen may be in the cache alone, so it counts as durable no more than before.
        self.appended.truncate(first + seen.len());
        let mut boundary = None;
        for step in 0..16 {
            // Long and short ones, so that some rounds cross segments by themselves and some do not.
            let record = record(self.appended.len() + 100 * step);
            self.appended.push(record.clone());
            log.append(record).await?;
            match step % 6 {
                1 => boundary = Some((log.rotate()?, self.appended.len())),
                3 => {
                    let count = self.appended.len();
                    log.sync().await?;
                    self.acked = count;
                }
                5 => {
                    let Some((pos, count)) = boundary else { continue };
                    self.firsts.push(count);
                    log.drop_before(pos).await?;
                    self.firsts = vec![count];
                    // What is gone is durable elsewhere.
                    self.acked = self.acked.max(count);
                }
                _ => {}
            }
        }
        log.sync().await?;
        self.acked = self.appended.len();
        settle(&log).await;
        Ok(())
    }
}

/// The media of a log over the disk of a machine.
type Over = fn(Arc<CrashMedia>) -> Arc<dyn Media>;

fn sealed(disk: Arc<CrashMedia>) -> Arc<dyn Media> {
    Arc::new(SealedMedia::new(disk, SecretKey::new([7; 32]), env()))
}

/// Stops the machine at every media call of a log that is divided and dropped in front, and again while it recovers:
/// what was dropped is gone whole or there whole, and comes back by no crash once that is durable.
#[tokio::test]
async fn a_crash_at_any_call_of_a_log_that_is_cut_in_front_loses_nothing_else() {
    crash_while_cutting(|disk| disk, 16).await;
}

#[tokio::test]
async fn a_crash_at_any_call_of_a_sealed_log_that_is_cut_in_front_loses_nothing_else() {
    crash_while_cutting(sealed, 4).await;
}

async fn crash_while_cutting(over: Over, seed_count: u64) {
    let start = Cutting { firsts: vec![0], ..Cutting::default() };
    let calls = {
        let crash = Crash::never();
        start.clone().live(over(Arc::new(CrashMedia::new(crash.clone())))).await.expect("nothing fails");
        crash.calls()
    };
    assert!(calls > 40, "{calls}");
    for call in 0..calls {
        for seed in 0..seed_count {
            let mut story = start.clone();
            let mut media = Arc::new(CrashMedia::new(Crash::at(call)));
            drop(story.live(over(media.clone())).await);
            for round in 0..3 {
                let again = Crash::at((seed * 5 + call + round * 7) % (calls + 8));
                // Once in a while only the process ends.
                let next = if (seed + round) % 4 == 0 { media.reopen(again) } else { media.restart(seed, again) };
                media = Arc::new(next);
                drop(story.live(over(media.clone())).await);
            }
            let media = Arc::new(media.restart(seed + 1000, Crash::never()));
            if let Err(error) = story.live(over(media)).await {
                panic!("stopped at call {call}, seed {seed}: {error}");
            }
        }
    }
}

/// What the machine did before it stopped: what was appended, how much of it is surely durable.
#[derive(Default)]
struct Story {
    appended: Vec<Record>,
    acked: usize,
    /// Whether nothing is ever replaced by a checkpoint.
    keeps: bool,
}

async fn live(media: Arc<dyn Media>, story: &mut Story) -> Result<()> {
    let (log, seen) = match open(media).await {
        Err(error) if error.kind() != ErrorKind::Unavailable => panic!("a crash is no damage: {error:#}"),
        opened => opened?,
    };
    assert!(seen.len() >= story.acked && seen == story.appended[..seen.len()], "what was synced is there, in order");
    story.appended.truncate(seen.len());
    story.acked = seen.len();
    for step in 0..12 {
        let record = record(story.appended.len() + 100 * step);
        story.appended.push(record.clone());
        log.append(record).await?;
        if step % 4 == 2 {
            let count = story.appended.len();
            log.sync().await?;
            story.acked = count;
        }
        if step == 8 && !story.keeps {
            let records = story.appended.clone();
            log.checkpoint(records).await?;
            story.acked = story.appended.len();
        }
    }
    log.sync().await?;
    story.acked = story.appended.len();
    settle(&log).await;
    Ok(())
}

/// Stops the machine at every media call, and again at every few of the recovery: what was synced is there, what was
/// not is there up to some record, and the log goes on.
#[tokio::test]
async fn a_crash_at_any_call_loses_nothing_that_was_synced() {
    crash_anywhere(|disk| disk, 12).await;
}

#[tokio::test]
async fn a_crash_at_any_call_of_a_sealed_log_loses_nothing_that_was_synced() {
    crash_anywhere(sealed, 6).await;
}

async fn crash_anywhere(over: Over, seed_count: u64) {
    let calls = {
        let crash = Crash::never();
        let mut story = Story::default();
        live(over(Arc::new(CrashMedia::new(crash.clone()))), &mut story).await.expect("nothing fails");
        crash.calls()
    };
    assert!(calls > 30);
    for call in 0..calls {
        for seed in 0..seed_count {
            let mut story = Story::default();
            let media = Arc::new(CrashMedia::new(Crash::at(call)));
            // The marks at the end are not waited for, so the last calls may not be met.
            drop(live(over(media.clone()), &mut story).await);
            let again = Crash::at(seed * 3 + call % 3);
            let media = Arc::new(media.restart(seed, again));
            drop(live(over(media.clone()), &mut story).await);
            let media = Arc::new(media.restart(seed + 1000, Crash::never()));
            if let Err(error) = live(over(media), &mut story).await {
                panic!("stopped at call {call}, seed {seed}: {error}");
            }
        }
    }
}

/// A process that is killed leaves on the disk's cache what it did not sync, a whole checkpoint perhaps. Who opened the
/// log after it removed what that replaced; when the power failed then, both were gone.
#[tokio::test]
async fn a_checkpoint_that_is_whole_in_the_cache_alone_replaces_nothing_yet() {
    killed_then_without_power(|disk| disk, 12).await;
}

#[tokio::test]
async fn a_sealed_checkpoint_that_is_whole_in_the_cache_alone_replaces_nothing_yet() {
    killed_then_without_power(sealed, 6).await;
}

async fn killed_then_without_power(over: Over, seed_count: u64) {
    for call in 0..80 {
        for seed in 0..seed_count {
            let mut story = Story::default();
            let media = Arc::new(CrashMedia::new(Crash::at(call)));
            drop(live(over(media.clone()), &mut story).await);
            let media = Arc::new(media.reopen(Crash::never()));
            let (_, seen) = open(over(media.clone())).await.expect("opens");
            assert!(seen.len() >= story.acked && seen == story.appended[..seen.len()], "call {call}");
            let shown = seen.len();
            let (_, seen) = match open(over(Arc::new(media.restart(seed, Crash::never())))).await {
                Ok(opened) => opened,
                Err(error) => panic!("killed at call {call}, then without power, seed {seed}: {error:#}"),
            };
            // What an opening showed, synced or not, is acted upon: a collector took the blocks of the commit before a head
            // that was in the cache alone, and the head before came back.
            assert!(seen.len() >= shown && seen == story.appended[..seen.len()], "call {call}, seed {seed}");
        }
    }
}

/// Bit rot in the middle of a log must not pass for a torn tail: a log that cut there would silently lose what had
/// been acknowledged after it.
#[tokio::test]
async fn a_flipped_bit_is_found_and_loses_no_record() {
    check_flips(durable(14).await).await;
}

/// The same where the log begins later than it did.
#[tokio::test]
async fn a_flipped_bit_in_a_log_that_was_cut_in_front_is_found_and_loses_no_record() {
    let (image_before, mut records) = durable(14).await;
    let media = load(&image_before).await;
    let (log, seen) = places(media.clone()).await.expect("open");
    let middle = seen[7].0.segment;
    records.drain(..seen.iter().position(|(pos, _)| pos.segment == middle).expect("it is there"));
    log.drop_before(LogPos { segment: middle, offset: 0 }).await.expect("drop");
    records.push(record(14));
    log.append(record(14)).await.expect("append");
    log.sync().await.expect("sync");
    settle(&log).await;
    check_flips((image(&*media).await, records)).await;
}

async fn check_flips((good, records): (Image, Vec<Record>)) {
    assert!(good.len() > 2);
    let mut refused = 0;
    for (id, bytes) in &good {
        for at in 0..bytes.len() {
            let mut bad = good.clone();
            bad.get_mut(id).expect("it is there")[at] ^= 1 << (at % 8);
            match open(load(&bad).await).await {
                Ok((_, seen)) => assert_eq!(seen, records, "{id} offset {at}"),
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    assert!(error.path().is_some_and(|path| path.starts_with("segment ")), "{error}");
                }
            }
        }
    }
    let len: usize = good.values().map(Vec::len).sum();
    assert!(refused > len / 2, "most bytes matter: {refused} of {len}");
}

/// A log cut short anywhere in what was durable is refused; only the last mark can go unnoticed.
#[tokio::test]
async fn a_missing_segment_or_end_is_found() {
    let (good, records) = durable(14).await;
    let last = *good.keys().last().expect("there are some");
    for id in good.keys().filter(|id| **id != last) {
        let mut bad = good.clone();
        bad.remove(id);
        assert_eq!(open(load(&bad).await).await.expect_err("a segment is missing").kind(), ErrorKind::Corrupt);
        let mut bad = good.clone();
        let bytes = bad.get_mut(id).expect("it is there");
        let end = bytes.len() - 32;
        bytes.truncate(end);
        match open(load(&bad).await).await {
            // The end of a segment may be a mark, which holds nothing.
            Ok((_, seen)) => assert_eq!(seen, records),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
        }
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_wherever_it_is_torn() {
    let media: Arc<MemMedia> = Arc::default();
    let log = Log::open(media.clone(), LogOptions::new("test", &env()), |_, _| Ok(())).await.expect("open");
    log.append(record(0)).await.expect("append");
    log.sync().await.expect("sync");
    let durable = log.end().offset as usize;
    for n in 1..5 {
        log.append(record(n)).await.expect("append");
    }
    log.inner.write_out().await.expect("write");
    let whole = image(&*media).await;
    for len in durable..whole[&SegmentId(0)].len() {
        let mut torn = whole.clone();
        torn.get_mut(&SegmentId(0)).expect("it is there").truncate(len);
        let media = load(&torn).await;
        let (log, seen) = open(media.clone()).await.expect("a torn tail is no damage");
        assert!(!seen.is_empty() && seen.len() < 5);
        let mut expected: Vec<_> = (0..seen.len()).map(record).collect();
        assert_eq!(seen, expected);
        log.append(record(9)).await.expect("append");
        log.sync().await.expect("sync");
        expected.push(record(9));
        assert_eq!(open(media).await.expect("and stays so").1, expected);
    }
}

#[tokio::test]
async fn callers_of_sync_share_the_work() {
    let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let log = Log::open(media.clone(), LogOptions::new("test", &env()), |_, _| Ok(())).await.expect("open");
    let callers: Vec<_> = (0..100)
        .map(|n| {
            let log = log.clone();
            tokio::spawn(async move {
                log.append(record(n)).await?;
                tokio::task::yield_now().await;
                log.sync().await
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic").expect("sync");
    }
    assert!(media.calls(MediaCall::Sync) < 10, "{} syncs for 100 callers", media.calls(MediaCall::Sync));
}

/// A mark that says that the record before it is durable must not be on the media before it is: the group that was to carry
/// both was not written, both were written later without a sync, and a crash then tore the record. Replay took the torn
/// tail for damage.
#[tokio::test]
async fn a_mark_of_a_group_that_was_not_written_says_nothing() {
    let disk: Arc<MemMedia> = Arc::default();
    let media = Arc::new(FaultyMedia::new(disk.clone()));
    let log = Log::open(media.clone(), LogOptions::new("test", &env()), |_, _| Ok(())).await.expect("open");
    log.append(record(0)).await.expect("append");
    log.sync().await.expect("sync");
    let begin = log.append(record(1)).await.expect("append").offset as usize;
    for _ in 0..3 {
        media.fail_next(MediaCall::Append, ErrorKind::NoSpace);
        assert_eq!(log.sync().await.expect_err("the disk is full").kind(), ErrorKind::NoSpace);
    }
    log.append(record(2)).await.expect("append");
    log.inner.write_out().await.expect("there is room again");
    let mut torn = image(&*disk).await;
    torn.get_mut(&SegmentId(0)).expect("it is there")[begin] ^= 1;
    let (_, seen) = open(load(&torn).await).await.expect("a torn tail is no damage");
    assert_eq!(seen, [record(0)]);
    log.sync().await.expect("sync");
    assert_eq!(open(disk).await.expect("open").1, [record(0), record(1), record(2)]);
}

/// A media that takes no mark with what it makes durable.
#[derive(Debug)]
struct Unmarked(MemMedia);

#[async_trait::async_trait]
impl Media for Unmarked {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        self.0.append(segment, bytes).await
    }
    async fn append_durable(&self, segment: SegmentId, parts: Vec<Bytes>, _mark: Bytes) -> Result<Durable> {
        let offset = self.0.append_vectored(segment, parts).await?;
        Ok(Durable { offset, synced: Ok(()), is_marked: false })
    }
    async fn sync(&self, segment: SegmentId) -> Result<()> {
        self.0.sync(segment).await
    }
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        self.0.read_at(segment, offset, len).await
    }
    async fn segments(&self) -> Result<Vec<crate::media::Segment>> {
        self.0.segments().await
    }
    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.0.remove(segment).await
    }
}

/// The place of a mark that was not written is kept for it: records that came behind it stay where they are.
#[tokio::test]
async fn a_mark_that_was_not_written_is_written_with_what_follows() {
    let media = Arc::new(Unmarked(MemMedia::default()));
    let (log, _) = open(media.clone()).await.expect("open");
    let mut places = Vec::new();
    for n in 0..9 {
        places.push(log.append(record(n)).await.expect("append"));
        log.sync().await.expect("sync");
    }
    for (n, pos) in places.into_iter().enumerate() {
        assert_eq!(log.read(pos).await.expect("read"), record(n));
    }
    assert_eq!(open(media).await.expect("open").1, (0..9).map(record).collect::<Vec<_>>());
}

/// Behind the last record there may be room that was made ready, and never used.
#[tokio::test]
async fn zeros_and_old_bytes_behind_the_last_record_are_its_end() {
    let (good, records) = durable(14).await;
    let last = *good.keys().last().expect("there are some");
    for (fill, len) in [(0, 1), (0, 7), (0, 24), (0, 5000), (0, 2 << 20), (0xa5, 5000)] {
        let mut ahead = good.clone();
        let bytes = ahead.get_mut(&last).expect("it is there");
        bytes.resize(bytes.len() + len, fill);
        let media = load(&ahead).await;
        for _ in 0..2 {
            let (log, seen) = open(media.clone()).await.expect("room is no damage");
            assert_eq!(seen, records, "{len} bytes");
            log.close().await.expect("close");
        }
    }
}

#[tokio::test]
async fn a_failed_sync_poisons_until_the_log_is_opened_again() {
    let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let (log, _) = open(media.clone()).await.expect("open");
    log.append(record(0)).await.expect("append");
    log.sync().await.expect("sync");
    let pos = log.append(record(1)).await.expect("append");
    media.fail_next(MediaCall::Sync, ErrorKind::Io);
    assert_eq!(log.sync().await.expect_err("the disk failed").kind(), ErrorKind::Io);
    assert_eq!(log.sync().await.expect_err("asking again does not make it durable").kind(), ErrorKind::Io);
    assert_eq!(log.append(record(2)).await.expect_err("refused").kind(), ErrorKind::Io);
    assert_eq!(log.read(pos).await.expect("reads go on"), record(1));
    assert_eq!(log.poisoned().expect("it is").kind(), ErrorKind::Io);
    drop(log);
    let (log, seen) = open(media).await.expect("open again");
    assert_eq!(seen, [record(0)], "what no sync covered is gone: nobody knows whether the disk has it");
    assert!(log.poisoned().is_none());
    log.append(record(2)).await.expect("append");
    log.sync().await.expect("sync");
}

/// A sync failed, the process ended and the next one read back what the disk never got; its own sync then succeeded, since
/// the system called those pages clean, and what stood behind them was lost with them when the power failed.
#[tokio::test]
async fn what_a_failed_sync_did_not_write_is_not_built_upon() {
    let mut failed = 0;
    for count in 0..14 {
        for seed in 0..12 {
            // A checkpoint would write all of it anew.
            let mut story = Story { keeps: true, ..Story::default() };
            let media = Arc::new(CrashMedia::new(Crash::never()));
            media.fail_sync(count);
            failed += u64::from(live(media.clone(), &mut story).await.is_err());
            // The process ends, the machine does not.
            let media = Arc::new(media.reopen(Crash::never()));
            live(media.clone(), &mut story).await.expect("the disk takes it now");
            let (_, seen) = match open(Arc::new(media.restart(seed, Crash::never()))).await {
                Ok(opened) => opened,
                Err(error) => panic!("sync {count} failed, seed {seed}: {error:#}"),
            };
            assert_eq!(seen, story.appended, "all of it was acknowledged");
        }
    }
    assert!(failed > 100, "{failed}");
}

/// Bytes of the last record that rotted after a clean shutdown passed for a torn tail.
#[tokio::test]
async fn after_closing_not_even_the_last_record_can_rot_unseen() {
    let media: Arc<MemMedia> = Arc::default();
    let (log, _) = open(media.clone()).await.expect("open");
    for n in 0..9 {
        log.append(record(n)).await.expect("append");
    }
    let last = log.append("the last").await.expect("append");
    log.close().await.expect("close");
    log.close().await.expect("repeatable");
    assert_eq!(log.read(last).await.expect("reads go on"), Record::from("the last"));
    log.sync().await.expect("all of it is durable");
    assert_eq!(log.append("more").await.expect_err("closed").kind(), ErrorKind::Unavailable);
    assert_eq!(log.rotate().expect_err("closed").kind(), ErrorKind::Unavailable);
    assert!(log.poisoned().is_none());
    let closed = image(&*media).await;
    let tail = &closed[&last.segment];
    for cut in 0..tail.len() - last.offset as usize {
        let mut bad = closed.clone();
        let bytes = bad.get_mut(&last.segment).expect("it is there");
        // The sector it is in, and whatever stands behind it in the segment.
        bytes[last.offset as usize + cut..].fill(0);
        match open(load(&bad).await).await {
            Ok((_, seen)) => assert_eq!(seen.len(), 10, "padding alone"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
        }
        bytes_truncated_is_corrupt(&closed, last, cut).await;
    }
    let (log, seen) = open(media.clone()).await.expect("open");
    assert_eq!(seen.len(), 10);
    let count = media.segments().await.expect("segments").len();
    log.close().await.expect("close");
    assert_eq!(media.segments().await.expect("segments").len(), count, "who appends nothing leaves no segment");
}

async fn bytes_truncated_is_corrupt(closed: &Image, last: LogPos, cut: usize) {
    let mut bad = closed.clone();
    bad.get_mut(&last.segment).expect("it is there").truncate(last.offset as usize + cut);
    assert_eq!(open(load(&bad).await).await.expect_err("it is cut off").kind(), ErrorKind::Corrupt);
}

/// Whoever opened a log right after dropping one over the same media met the writes that this had still under way.
#[tokio::test]
async fn a_closed_log_leaves_nothing_behind_it() {
    let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    for round in 0..50 {
        let (log, seen) = open(media.clone()).await.expect("open");
        assert_eq!(seen.len(), 3 * round);
        for n in 0..3 {
            log.append(record(n)).await.expect("append");
            if n == round % 3 {
                log.sync().await.expect("sync");
            }
        }
        // A caller that leaves goes on in the background.
        drop(futures_util::poll!(Box::pin(log.sync())));
        log.close().await.expect("close");
        assert_eq!(Arc::strong_count(&media), 2, "this one and the log's");
        drop(log);
        assert_eq!(Arc::strong_count(&media), 1);
    }
}

#[tokio::test]
async fn a_full_disk_is_no_end() {
    let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let (log, _) = open(media.clone()).await.expect("open");
    log.append(record(0)).await.expect("to memory");
    media.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    assert_eq!(log.sync().await.expect_err("full").kind(), ErrorKind::NoSpace);
    log.append(record(1)).await.expect("to memory");
    log.sync().await.expect("there is room again");
    assert_eq!(open(media).await.expect("open").1, [record(0), record(1)]);
}

#[tokio::test]
async fn a_checkpoint_replaces_the_log_and_a_failed_one_changes_nothing() {
    let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let (log, _) = open(media.clone()).await.expect("open");
    for n in 0..20 {
        log.append(record(n)).await.expect("append");
    }
    log.sync().await.expect("sync");
    settle(&log).await;
    let before = log.media_len().await.expect("len");
    for failing in [MediaCall::Append, MediaCall::Append] {
        media.fail_next(failing, ErrorKind::NoSpace);
        let error = log.checkpoint([record(50)]).await.expect_err("full");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        log.append(record(30)).await.expect("append");
        log.sync().await.expect("sync");
        settle(&log).await;
    }
    let (log, seen) = open(media.clone()).await.expect("open");
    assert_eq!(seen.len(), 22);
    log.checkpoint([record(50), record(51)]).await.expect("checkpoint");
    assert!(log.media_len().await.expect("len") < before / 2);
    log.append(record(52)).await.expect("append");
    log.sync().await.expect("sync");
    let expected = [record(50), record(51), record(52)];
    assert_eq!(open(media).await.expect("open").1, expected);
}

/// A checkpoint that was durable was reported as failed where an old segment could not be removed behind it, and one that
/// failed with the error of cleaning up.
#[tokio::test]
async fn a_checkpoint_that_cannot_clean_up_is_one_all_the_same() {
    let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let (log, _) = open(media.clone()).await.expect("open");
    for n in 0..20 {
        log.append(record(n)).await.expect("append");
    }
    log.sync().await.expect("sync");
    settle(&log).await;
    media.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    media.fail_next(MediaCall::Remove, ErrorKind::Io);
    assert_eq!(log.checkpoint([record(50)]).await.expect_err("full").kind(), ErrorKind::NoSpace);
    media.fail_next(MediaCall::Remove, ErrorKind::Io);
    log.checkpoint([record(50)]).await.expect("it is durable");
    log.append(record(51)).await.expect("append");
    log.sync().await.expect("sync");
    assert_eq!(open(media.clone()).await.expect("open").1, [record(50), record(51)]);
    let segments = media.segments().await.expect("segments");
    assert_eq!(segments.len(), 2, "what was left over is gone: {segments:?}");
}

#[tokio::test]
async fn another_kind_and_a_newer_format_are_refused_with_a_reason() {
    let (good, _) = durable(2).await;
    let error =
        Log::open(load(&good).await, LogOptions::new("other", &env()), |_, _| Ok(())).await.expect_err("another kind");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(format!("{error:#}").contains("test"), "{error:#}");
    let mut newer = good.clone();
    for bytes in newer.values_mut() {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
        bytes[60..64].copy_from_slice(&crc);
    }
    let error = open(load(&newer).await).await.expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(format!("{error:#}").contains("newer program"), "{error:#}");
}

#[tokio::test]
async fn lengths_have_limits() {
    let log = open(Arc::new(MemMedia::default())).await.expect("open").0;
    let too_long = Record { head: vec![0; RECORD_HEAD_LEN_MAX + 1].into(), body: Bytes::new() };
    assert_eq!(log.append(too_long).await.expect_err("a long head").kind(), ErrorKind::TooLarge);
    let longest = Record { head: vec![1; RECORD_HEAD_LEN_MAX].into(), body: vec![2; 1 << 20].into() };
    let pos = log.append(longest.clone()).await.expect("longer than a segment is meant to be");
    log.sync().await.expect("sync");
    assert_eq!(log.read(pos).await.expect("read"), longest);
    for kind in ["", "ninebytes", "é"] {
        let media = Arc::new(MemMedia::default());
        assert!(Log::open(media, LogOptions::new(kind, &env()), |_, _| Ok(())).await.is_err());
    }
}

/// What stands in a body that is made to look like the frames behind it: a record, and a mark that says that all before
/// it was durable.
fn forged(salt: Salt, at: LogPos) -> Bytes {
    let mut pos = at;
    let mut bytes = Vec::new();
    for (kind, record) in [(FrameKind::Record, Record::from("forged")), (FrameKind::Mark, Record::default())] {
        let frame = Prepared::new(kind, record).expect("short").place(salt, pos, pos.offset);
        for part in [frame.front.clone(), frame.body.clone(), frame.padding()] {
            bytes.extend_from_slice(&part);
        }
        pos = frame.end();
    }
    bytes.into()
}

/// Puts a forged body behind a header that then rots, and says what is found: leniently, and strictly where nothing of
/// it was synced.
async fn rot_before_forged(salt: impl Fn(&Log) -> Salt) -> (Vec<Bytes>, Result<Vec<Record>>) {
    let options = || LogOptions::new("test", &env());
    let media: Arc<MemMedia> = Arc::default();
    let log = Log::open(media.clone(), options(), |_, _| Ok(())).await.expect("open");
    log.append("before").await.expect("append");
    log.sync().await.expect("sync");
    settle(&log).await;
    let body_at = |pos: LogPos| LogPos { offset: pos.offset + 24, ..pos };
    // Behind the mark of the sync.
    let guess = log.append("x").await.expect("append");
    let next = LogPos { offset: guess.offset + 32, ..guess };
    let pos = log.append(forged(salt(&log), body_at(next))).await.expect("append");
    assert_eq!(pos, next, "whoever forges knows where it will stand");
    log.inner.write_out().await.expect("write");
    let mut torn = image(&*media).await;
    torn.get_mut(&pos.segment).expect("it is there")[pos.offset as usize + 9] ^= 1;
    let strict = open(load(&torn).await).await.map(|(_, seen)| seen);

    log.append("after").await.expect("append");
    log.sync().await.expect("sync");
    settle(&log).await;
    let mut rotten = image(&*media).await;
    rotten.get_mut(&pos.segment).expect("it is there")[pos.offset as usize + 9] ^= 1;
    let mut seen = Vec::new();
    let mut visitor = Each(|replayed: Replayed| {
        seen.push(replayed.body);
        Ok(())
    });
    let replay = Replay { lenient: true, ..Replay::default() };
    Log::open_with(load(&rotten).await, options(), replay, &mut visitor).await.expect("leniently");
    (seen, strict)
}

/// A block that holds what frames look like, a piece of a log for one, was replayed as records of the log where the header
/// before it was rotten, and made a torn tail look like damage.
#[tokio::test]
async fn a_body_that_looks_like_frames_is_taken_for_none() {
    let (seen, strict) = rot_before_forged(|_| Salt::draw(&testing::Clock::default().env(99))).await;
    assert_eq!(seen, ["before", "x", "after"]);
    assert_eq!(strict.expect("a torn tail"), [Record::from("before"), Record::from("x")]);

    // The same by somebody who can read the log's own salt: it is that alone which keeps the others out.
    let (seen, strict) = rot_before_forged(|log| log.inner.salt).await;
    assert_eq!(seen, ["before", "x", "forged", "after"]);
    assert_eq!(strict.expect_err("a mark says that it was durable").kind(), ErrorKind::Corrupt);
}

/// The segments of two logs in one media: one of them was restored from elsewhere.
#[tokio::test]
async fn a_segment_of_another_log_is_no_part_of_this_one() {
    let (mut good, _) = durable(9).await;
    let other = MemMedia::default();
    let options = LogOptions { env: testing::Clock::default().env(99), ..options() };
    let other = Arc::new(other);
    let log = Log::open(other.clone(), options, |_, _| Ok(())).await.expect("open");
    for n in 0..9 {
        log.append(record(n)).await.expect("append");
        if n % 3 == 0 {
            log.sync().await.expect("sync");
        }
    }
    log.sync().await.expect("sync");
    settle(&log).await;
    let others = image(&*other).await;
    assert_eq!(others.len(), good.len());
    good.insert(SegmentId(1), others[&SegmentId(1)].clone());
    let error = open(load(&good).await).await.expect_err("it is of another log");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(format!("{error:#}").contains("another log"), "{error:#}");
}

#[tokio::test]
async fn newer_records_are_refused_with_a_reason() {
    let media: Arc<MemMedia> = Arc::default();
    let newer = LogOptions { record_version: 2, ..options() };
    let log = Log::open(media.clone(), newer.clone(), |_, _| Ok(())).await.expect("open");
    log.append("of the future").await.expect("append");
    log.sync().await.expect("sync");
    Log::open(media.clone(), newer, |_, _| Ok(())).await.expect("known");
    let error = open(media).await.expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(format!("{error:#}").contains("(test) have version 2, this program knows 1"), "{error:#}");
}

/// An owner that keeps places finds its records by them, and need not be shown what it knows.
#[tokio::test]
async fn places_are_enough_to_find_records_by() {
    let empty: Arc<dyn Media> = Arc::new(MemMedia::default());
    assert_eq!(Log::start(&empty, &options()).await.expect("start"), None);

    let (image, records) = durable(12).await;
    let mut places = Vec::new();
    let log = Log::open(load(&image).await, options(), |pos, _| {
        places.push(pos);
        Ok(())
    });
    let log = log.await.expect("open");
    let media: Arc<dyn Media> = load(&image).await;
    let start = Log::start(&media, &options()).await.expect("start").expect("there is a log");
    assert_eq!(start, LogStart { first: log.first(), identity: log.identity() });
    let mut heads = Vec::new();
    for segment in image.keys() {
        let end = places.iter().zip(&records).rfind(|(pos, _)| pos.segment == *segment);
        let end = end.map_or(0, |(pos, record)| pos.behind(record.head.len(), record.body.len()).offset);
        let mut between = log.heads_between(*segment, 0, end).await.expect("heads");
        while let Some(head) = between.next().await.expect("next") {
            assert_eq!(log.head(head.pos).await.expect("head"), head);
            heads.push(head);
        }
    }
    for (n, (pos, record)) in places.iter().zip(&records).enumerate() {
        assert_eq!((heads[n].pos, &heads[n].head), (*pos, &record.head));
        assert_eq!(heads[n].body_len as usize, record.body.len());
        for len_max in [0, 24, 60, 4096] {
            let read = log.read_within(*pos, len_max).await;
            // What is not even a header is none.
            assert!(read.is_err() == (len_max < 24), "{len_max}");
            assert!(read.is_err() || read.expect("read") == *record);
        }
        for (from, count) in [(*pos, 12 - n), (heads[n].end(), 11 - n)] {
            let mut seen = Vec::new();
            let opened = Log::open_from(load(&image).await, options(), from, |_, record| {
                seen.push(record);
                Ok(())
            });
            opened.await.expect("open");
            assert_eq!(seen, records[12 - count..]);
        }
    }
}

/// Where a record is missing between two places, its reader is told.
#[tokio::test]
async fn heads_end_with_an_error_where_one_is_bad() {
    let (mut image, _) = durable(12).await;
    let (id, bytes) = image.first_key_value().map(|(id, bytes)| (*id, bytes.clone())).expect("a segment");
    let log = Log::open(load(&image).await, options(), |_, _| Ok(())).await.expect("open");
    let end = u32::try_from(bytes.len()).expect("small");
    let mut heads = log.heads_between(id, 0, end + 8).await.expect("heads");
    let error = loop {
        match heads.next().await {
            Ok(head) => assert!(head.is_some(), "the end is not reached"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    image.clear();
    assert_eq!(log.heads_between(SegmentId(99), 0, 64).await.expect_err("absent").kind(), ErrorKind::NotFound);
}

/// What changes with a record changes in the order of the log, whoever appends at the same time.
#[tokio::test]
async fn what_is_done_with_a_place_is_done_in_order() {
    let media: Arc<MemMedia> = Arc::default();
    let (log, _) = open(media).await.expect("open");
    let seen = Mutex::new(Vec::new());
    let appends = (0..40).map(|n| log.append_then(record(n), |pos| seen.lock().expect("no panic").push(pos)));
    let placed = futures_util::future::join_all(appends).await;
    let seen = seen.into_inner().expect("no panic");
    assert!(seen.is_sorted() && seen.len() == 40);
    assert!(placed.iter().all(|pos| seen.contains(pos.as_ref().expect("append"))));
    log.close().await.expect("close");
    assert!(log.append_then(record(0), |_| panic!("nothing was appended")).await.is_err());
}

proptest! {
    /// Whatever the segments hold, opening ends with records or an error.
    #[test]
    fn any_bytes_open_or_are_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..300),
        lenient in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let (mut image, _) = durable(9).await;
            for (segment, at, byte) in edits {
                let id = *segment.get(&image.keys().copied().collect::<Vec<_>>());
                let bytes = image.get_mut(&id).expect("it is there");
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            let last = image.values_mut().last().expect("there are some");
            last.truncate(cut.index(last.len() + 1));
            last.extend_from_slice(&noise);
            let mut count = 0;
            let replay = Replay { from: None, lenient, salt: None };
            let mut visitor = Each(|_| { count += 1; Ok(()) });
            let opened = Log::open_with(load(&image).await, options(), replay, &mut visitor).await;
            if let Ok(log) = opened {
                log.append("more").await.expect("append");
                log.sync().await.expect("sync");
            }
            assert!(count <= 9 + noise.len());
        });
    }
}
