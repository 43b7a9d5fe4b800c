//! What a sealed media keeps, hides, cuts and refuses.

use proptest::prelude::*;

use super::*;
use crate::{
    media::MemMedia,
    testing::{
        Clock, env,
        fault::{Crash, CrashMedia, Dice, FaultyMedia, MediaCall},
        media::Subject,
    },
};

const ID: SegmentId = SegmentId(7);

fn key() -> SecretKey {
    SecretKey::new([42; 32])
}

fn sealed(inner: Arc<dyn Media>) -> SealedMedia {
    SealedMedia::new(inner, key(), env())
}

/// Each opening draws salts of its own, as it would outside of tests.
async fn subject() -> Subject {
    let (disk, openings) = (Arc::new(MemMedia::default()), std::sync::atomic::AtomicU64::new(0));
    Subject::reopening(move || {
        let seed = openings.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let media = SealedMedia::new(disk.clone(), key(), Clock::default().env(seed));
        Box::pin(async move { Arc::new(media) as Arc<dyn Media> })
    })
    .await
}

crate::media_laws!(over_memory, subject());
crate::media_laws!(over_crash, async { sealed(Arc::new(CrashMedia::new(Crash::never()))) });
crate::media_laws!(over_faulty, async { sealed(Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())))) });

/// Each opening has another key, and seals again what those before it have sealed.
async fn resealed() -> Subject {
    let (disk, openings) = (Arc::new(MemMedia::default()), std::sync::atomic::AtomicU8::new(0));
    Subject::reopening(move || {
        let opening = openings.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let media = SealedMedia::new(disk.clone(), numbered(opening), Clock::default().env(opening.into()));
        Box::pin(async move {
            media.set_keys(numbered(opening), (0..opening).rev().map(numbered));
            media.reseal().await.expect("reseal");
            media.set_keys(numbered(opening), []);
            Arc::new(media) as Arc<dyn Media>
        })
    })
    .await
}

crate::media_laws!(with_another_key_each_time, resealed());

fn numbered(n: u8) -> SecretKey {
    SecretKey::new([n; 32])
}

async fn bytes_of(media: &dyn Media, id: SegmentId) -> Vec<u8> {
    media.read_at(id, 0, 64 << 20).await.expect("read").to_vec()
}

/// A media in memory that holds these bytes.
async fn holding(bytes: &[u8]) -> Arc<MemMedia> {
    let media = Arc::new(MemMedia::default());
    media.append(ID, Bytes::copy_from_slice(bytes)).await.expect("append");
    media
}

/// What a new opening says about these inner bytes: the plain ones, all of them read.
async fn reopen(bytes: &[u8]) -> Result<Vec<u8>> {
    reopen_with(bytes, key()).await
}

async fn reopen_with(bytes: &[u8], key: SecretKey) -> Result<Vec<u8>> {
    let media = SealedMedia::new(holding(bytes).await, key, env());
    let len = media.segments().await?[0].len;
    let read = media.read_at(ID, 0, u32::try_from(len).expect("short")).await?;
    assert_eq!(read.len() as u64, len, "what is listed is read or refused");
    Ok(read.to_vec())
}

fn kind(result: Result<Vec<u8>>) -> ErrorKind {
    result.expect_err("refused").kind()
}

/// Four records, each but the last known to be durable by the one after it; where each begins, and all inner bytes.
async fn four_synced() -> (Vec<usize>, Vec<u8>) {
    let inner = Arc::new(MemMedia::default());
    let media = sealed(inner.clone());
    let mut starts = Vec::new();
    for n in 0..4u8 {
        starts.push(inner.segments().await.expect("segments").first().map_or(64, |there| there.len).max(64));
        media.append(ID, vec![n; 100].into()).await.expect("append");
        media.sync(ID).await.expect("sync");
    }
    let starts = starts.into_iter().map(|start| usize::try_from(start).expect("short")).collect();
    (starts, bytes_of(&*inner, ID).await)
}

/// Neither what is written nor how long exactly it is can be told from the inner media.
#[tokio::test]
async fn neither_bytes_nor_lengths_reach_the_inner_media() {
    let canary = b"a canary that nobody is to see";
    let mut lens = Vec::new();
    for len in [1000, 1001, 1007] {
        let inner = Arc::new(MemMedia::default());
        let media = sealed(inner.clone());
        let bytes: Vec<u8> = canary.iter().copied().cycle().take(len).collect();
        media.append(ID, bytes.clone().into()).await.expect("append");
        media.append(ID, bytes.into()).await.expect("append");
        let raw = bytes_of(&*inner, ID).await;
        assert!(raw.windows(8).all(|seen| !canary.windows(8).any(|part| part == seen)), "no part of it is in clear");
        for (at, field) in raw.windows(4).enumerate() {
            let said = u32::from_le_bytes(field.try_into().expect("four"));
            assert!(said as usize != len && said.swap_bytes() as usize != len, "its length is in clear at {at}");
        }
        let halves = (64 + (raw.len() - 64) / 2, raw.len());
        assert_ne!(raw[64..halves.0], raw[halves.0..], "the same bytes twice are not the same bytes");
        lens.push(raw.len());
    }
    assert_eq!(lens, [lens[0]; 3], "lengths are rounded up");
}

#[test]
fn padding_costs_little_and_hides_lengths() {
    for len in 1..=RECORD_LEN_MAX {
        let sealed = record::body_len(len);
        assert!(sealed.is_multiple_of(64) && sealed >= len + 16);
        assert!(sealed <= len + 16 + 64.max(len / 8), "{len} bytes take {sealed}");
    }
    assert_eq!(record::body_len(RECORD_LEN_MAX), 64 * 1024);
    let classes: std::collections::BTreeSet<usize> = (1..=RECORD_LEN_MAX).map(record::body_len).collect();
    assert!(classes.len() < 200, "{} different lengths are told apart", classes.len());
}

/// Any flipped bit in what was durable is found; one in the last record, of which nothing says that it was durable, may
/// pass for a torn end, and no other bytes are ever given.
#[tokio::test]
async fn a_flipped_bit_is_corrupt_or_the_torn_end() {
    let (starts, good) = four_synced().await;
    let plain: Vec<u8> = (0..4u8).flat_map(|n| [n; 100]).collect();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        match reopen(&bad).await {
            Err(error) => assert!(error.kind() == ErrorKind::Corrupt && at < starts[3], "at {at}: {error}"),
            Ok(read) => assert!(read == plain[..300] && at >= starts[3], "at {at}: {} bytes", read.len()),
        }
    }
}

#[tokio::test]
async fn records_that_are_moved_dropped_or_joined_are_corrupt() {
    let (starts, good) = four_synced().await;
    let [_, b, c, d] = starts[..] else { panic!("four records") };
    let mut swapped = good.clone();
    swapped[b..c].copy_from_slice(&good[c..d]);
    swapped[c..d].copy_from_slice(&good[b..c]);
    assert_eq!(kind(reopen(&swapped).await), ErrorKind::Corrupt, "two records swapped");
    let without = [&good[..b], &good[c..]].concat();
    assert_eq!(kind(reopen(&without).await), ErrorKind::Corrupt, "one left out");
    let mut blanked = good.clone();
    blanked[b..c].fill(0);
    assert_eq!(kind(reopen(&blanked).await), ErrorKind::Corrupt, "one blanked");
    let mut repeated = good.clone();
    repeated[c..d].copy_from_slice(&good[b..c]);
    assert_eq!(kind(reopen(&repeated).await), ErrorKind::Corrupt, "one repeated");

    let other = Arc::new(MemMedia::default());
    let media = SealedMedia::new(other.clone(), key(), env());
    for n in 0..4u8 {
        media.append(SegmentId(8), vec![n; 100].into()).await.expect("append");
        media.sync(SegmentId(8)).await.expect("sync");
    }
    let other = bytes_of(&*other, SegmentId(8)).await;
    assert_eq!(other.len(), good.len());
    let mut spliced = good.clone();
    spliced[b..c].copy_from_slice(&other[b..c]);
    assert_eq!(kind(reopen(&spliced).await), ErrorKind::Corrupt, "one of another segment at the same place");
    assert_eq!(kind(reopen(&other).await), ErrorKind::Corrupt, "a whole segment under another number");
}

/// The end is cut wherever a write was torn, and never in the middle of what was known to be durable.
#[tokio::test]
async fn a_torn_end_is_cut_wherever_it_is_torn() {
    let (starts, good) = four_synced().await;
    let plain: Vec<u8> = (0..4u8).flat_map(|n| [n; 100]).collect();
    for len in starts[3]..=good.len() {
        let expected = if len == good.len() { 400 } else { 300 };
        assert_eq!(reopen(&good[..len]).await.expect("opens"), plain[..expected], "torn at {len}");
        let mut blank = good[..len].to_vec();
        blank.resize(good.len() + 512, 0);
        if len < good.len() - 16 {
            assert_eq!(reopen(&blank).await.expect("opens"), plain[..300], "blank from {len}");
        }
    }
    for len in 0..64 {
        assert_eq!(reopen(&good[..len]).await.expect("opens"), b"", "torn at {len}");
    }
}

#[tokio::test]
async fn a_segment_that_a_crash_cut_takes_no_more() {
    let (_, good) = four_synced().await;
    let inner = holding(&good[..good.len() - 1]).await;
    let media = sealed(inner.clone());
    let error = media.append(ID, "more".into()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert_eq!(bytes_of(&*inner, ID).await.len(), good.len() - 1, "nothing was added");
    media.append(SegmentId(8), "more".into()).await.expect("another takes it");
}

/// A key that sealed a place once seals nothing else there: what a failed append left on a disk, or what another opening
/// wrote there that a crash took back, would otherwise tell the difference of the two.
#[tokio::test]
async fn no_place_is_sealed_twice_under_one_key() {
    let salt_of_last = async |inner: &dyn Media| {
        let bytes = bytes_of(inner, ID).await;
        bytes[bytes.len() - 128..][..16].to_vec()
    };
    let faulty = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let media = sealed(faulty.clone());
    let mut salts = Vec::new();
    for round in 0..3 {
        assert_eq!(media.append(ID, "one".into()).await.expect("append"), round * 6);
        salts.push(salt_of_last(&*faulty).await);
        assert_eq!(media.append(ID, "two".into()).await.expect("append"), round * 6 + 3);
        assert_eq!(salt_of_last(&*faulty).await, salts[salts.len() - 1], "a key lasts while all goes well");
        faulty.fail_next(MediaCall::Append, ErrorKind::NoSpace);
        assert_eq!(media.append(ID, "lost".into()).await.expect_err("full").kind(), ErrorKind::NoSpace);
    }
    let again = SealedMedia::new(faulty.clone(), key(), Clock::default().env(9));
    again.append(ID, "one".into()).await.expect("append");
    salts.push(salt_of_last(&*faulty).await);
    salts.sort();
    salts.dedup();
    assert_eq!(salts.len(), 4, "an append that failed and an opening each begin a new key");
    assert_eq!(again.read_at(ID, 0, 99).await.expect("read"), "onetwo".repeat(3) + "one");
}

#[tokio::test]
async fn a_durable_append_seals_no_place_twice() {
    let faulty = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let media = sealed(faulty.clone());
    let salt_of_last = async || {
        let bytes = bytes_of(&*faulty, ID).await;
        bytes[bytes.len() - 128..][..16].to_vec()
    };
    let durable = media.append_durable(ID, vec!["o".into(), "ne".into()], "m".into()).await.expect("append");
    assert!(durable.is_marked && durable.synced.is_ok() && durable.offset == 0);
    let salt = salt_of_last().await;
    let durable = media.append_durable(ID, vec!["two".into()], "m".into()).await.expect("append");
    assert!(durable.is_marked && durable.offset == 4);
    assert_eq!(salt_of_last().await, salt, "a key lasts while all goes well");
    faulty.fail_next(MediaCall::Sync, ErrorKind::Io);
    let durable = media.append_durable(ID, vec!["three".into()], "m".into()).await.expect("append");
    assert!(!durable.is_marked && durable.synced.is_err() && durable.offset == 8);
    // The mark may lie on a disk where this is put.
    assert_eq!(media.append(ID, "x".into()).await.expect("append"), 13);
    assert_ne!(salt_of_last().await, salt);
    assert_eq!(bytes_of(&media, ID).await, b"onemtwomthreex");
    assert_eq!(bytes_of(&sealed(faulty.clone()), ID).await, b"onemtwomthreex");
}

/// The three calls that it stands for are one of the disk too.
#[tokio::test]
async fn a_durable_append_is_one_call_of_the_disk() {
    #[derive(Debug)]
    struct Whole(MemMedia);
    #[async_trait::async_trait]
    impl Media for Whole {
        async fn append(&self, _: SegmentId, _: Bytes) -> Result<u64> {
            unreachable!("by itself")
        }
        async fn append_durable(&self, id: SegmentId, parts: Vec<Bytes>, mark: Bytes) -> Result<Durable> {
            self.0.append_durable(id, parts, mark).await
        }
        async fn sync(&self, _: SegmentId) -> Result<()> {
            unreachable!("by itself")
        }
        async fn read_at(&self, id: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
            self.0.read_at(id, offset, len).await
        }
        async fn segments(&self) -> Result<Vec<Segment>> {
            self.0.segments().await
        }
        async fn remove(&self, id: SegmentId) -> Result<()> {
            self.0.remove(id).await
        }
    }
    let disk = Arc::new(Whole(MemMedia::default()));
    let media = sealed(disk.clone());
    for n in 0..3 {
        let durable = media.append_durable(ID, vec!["some".into()], "mark".into()).await.expect("append");
        assert!(durable.is_marked && durable.offset == 8 * n);
    }
    assert_eq!(bytes_of(&sealed(disk), ID).await, b"somemark".repeat(3));
}

#[tokio::test]
async fn another_key_a_newer_version_and_clear_bytes_are_told_apart() {
    let (_, good) = four_synced().await;
    assert_eq!(kind(reopen_with(&good, SecretKey::new([43; 32])).await), ErrorKind::BadKey);
    let mut newer = good.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..60]).to_le_bytes();
    newer[60..64].copy_from_slice(&crc);
    assert_eq!(kind(reopen(&newer).await), ErrorKind::Unsupported);
    let clear = [b"this was written in clear ".as_slice(); 10].concat();
    assert_eq!(
        kind(reopen(&clear).await),
        ErrorKind::Corrupt,
        "nothing that somebody wrote passes for an empty segment"
    );
}

/// A sync that fails is never said to have happened, so what it covered is still cut as torn when it is.
#[tokio::test]
async fn what_a_failed_sync_covered_is_not_called_durable() {
    let faulty = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let media = sealed(faulty.clone());
    media.append(ID, vec![0; 100].into()).await.expect("append");
    media.sync(ID).await.expect("sync");
    media.append(ID, vec![1; 100].into()).await.expect("append");
    faulty.fail_next(MediaCall::Sync, ErrorKind::Io);
    media.sync(ID).await.expect_err("fails");
    media.sync(ID).await.expect("the disk calls it clean");
    let second = 64 + (bytes_of(&*faulty, ID).await.len() - 64) / 2;
    media.append(ID, vec![2; 100].into()).await.expect("append");
    let mut bytes = bytes_of(&*faulty, ID).await;
    bytes[second..second + 192].fill(0);
    assert_eq!(reopen(&bytes).await.expect("opens"), [0; 100]);
}

/// A read opens the records it touches and no others, however far into the segment it is.
#[tokio::test]
async fn a_read_touches_what_it_needs() {
    let inner = Arc::new(MemMedia::default());
    let media = sealed(inner.clone());
    let bytes = Dice::new(1).bytes(1 << 20);
    media.append(ID, bytes.clone().into()).await.expect("append");
    media.sync(ID).await.expect("sync");
    media.append(ID, "says so".into()).await.expect("append");
    // The body of the fifth record rots: whoever does not touch it does not notice.
    let faulty = Arc::new(FaultyMedia::new(inner));
    faulty.flip(ID, 64 + 4 * (64 + 64 * 1024) + 1000, 1);
    let media = sealed(faulty);
    let len = RECORD_LEN_MAX as u64;
    for (offset, ends_well) in
        [(0, true), (4 * len - 10, true), (4 * len, false), (5 * len - 1, false), (5 * len, true)]
    {
        let read = media.read_at(ID, offset, 10).await;
        assert_eq!(read.is_ok(), ends_well, "at {offset}");
        let at = usize::try_from(offset).expect("short");
        assert!(read.map_or_else(|error| error.kind() == ErrorKind::Corrupt, |read| read == bytes[at..at + 10]));
    }
}

/// Asks for segments that are not there take no memory, and a first append that fails makes none.
#[tokio::test]
async fn what_does_not_exist_is_forgotten() {
    let faulty = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let media = sealed(faulty.clone());
    for id in 0..100 {
        assert_eq!(media.read_at(SegmentId(id), 0, 1).await.expect_err("absent").kind(), ErrorKind::NotFound);
    }
    assert!(media.segments_lock().is_empty());
    faulty.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    media.append(ID, "x".into()).await.expect_err("full");
    assert_eq!(media.read_at(ID, 0, 1).await.expect_err("absent").kind(), ErrorKind::NotFound);
    assert_eq!(media.append(ID, "x".into()).await.expect("append"), 0);
    assert_eq!(media.read_at(ID, 0, 1).await.expect("read"), "x");
}

/// The bytes are those of the specification: an independent program (Python's `cryptography` and `blake3`) made them.
#[tokio::test]
async fn the_bytes_are_those_of_the_specification() {
    let vector: serde_json::Value =
        serde_json::from_str(include_str!("../../../spec/vectors/sealed-media.json")).expect("JSON");
    let text = |name: &str| vector[name].as_str().expect("text").to_owned();
    let hex = |name: &str| {
        let text = text(name);
        let digits = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
        digits.collect::<Result<Vec<u8>, _>>().expect("hexadecimal")
    };
    let (id, salt) = (SegmentId(vector["segment"].as_u64().expect("a number")), hex("salt"));
    let env = Env { fill: Arc::new(move |buffer| buffer.copy_from_slice(&salt)), ..env() };
    let key = SecretKey::new(hex("key").try_into().expect("32 bytes"));
    let inner = Arc::new(MemMedia::default());
    let media = SealedMedia::new(inner.clone(), key, env);
    media.append(id, text("first").into()).await.expect("append");
    media.sync(id).await.expect("sync");
    media.append(id, text("second").into()).await.expect("append");
    assert_eq!(bytes_of(&*inner, id).await, hex("sealed"));
    assert_eq!(bytes_of(&media, id).await, (text("first") + &text("second")).into_bytes());
}

/// What was appended, how much of it is surely durable, and how many keys there were.
#[derive(Default, Clone)]
struct Resealed {
    appended: BTreeMap<SegmentId, (Vec<u8>, usize)>,
    key_count: u8,
}

impl Resealed {
    async fn check(&mut self, media: &SealedMedia) -> Result<()> {
        let there = media.segments().await?;
        for (id, (bytes, synced)) in &mut self.appended {
            let len = there.iter().find(|there| there.id == *id).map_or(0, |there| there.len);
            let read = if len == 0 { Bytes::new() } else { media.read_at(*id, 0, u32::MAX).await? };
            assert!(read.len() >= *synced, "what was synced is there: {} of {synced} of {id}", read.len());
            assert_eq!(read, bytes[..read.len()]);
            bytes.truncate(read.len());
        }
        Ok(())
    }

    async fn append(&mut self, media: &SealedMedia, id: SegmentId, len: usize, is_synced: bool) -> Result<()> {
        let added = Dice::new(len as u64).bytes(len);
        let (bytes, synced) = self.appended.entry(id).or_default();
        // It may be there although it failed.
        bytes.extend(&added);
        if is_synced && len.is_multiple_of(200) {
            let durable_len = bytes.len();
            bytes.extend(b"mark");
            let durable = media.append_durable(id, vec![added.into()], "mark".into()).await?;
            // A mark that failed may be there too.
            durable.synced?;
            *synced = durable_len;
            return Ok(());
        }
        media.append(id, added.into()).await?;
        if is_synced {
            media.sync(id).await?;
            *synced = bytes.len();
        }
        Ok(())
    }

    /// Opens it with all keys that there were, appends, takes another key, and goes on.
    async fn live(&mut self, disk: Arc<CrashMedia>, seed: u64) -> Result<()> {
        let old = self.key_count;
        let media = SealedMedia::new(disk.clone(), numbered(old), Clock::default().env(seed));
        media.set_keys(numbered(old), (0..old).rev().map(numbered));
        self.check(&media).await?;
        let first = SegmentId(self.appended.last_key_value().map_or(0, |(last, _)| last.0 + 1));
        let second = SegmentId(first.0 + 1);
        self.append(&media, first, 3000, true).await?;
        self.append(&media, first, 10, false).await?;
        self.append(&media, second, 1, true).await?;
        self.key_count += 1;
        let new = numbered(self.key_count);
        media.set_keys(new.clone(), (0..self.key_count).rev().map(numbered));
        self.append(&media, second, 300, true).await?;
        media.reseal().await?;
        self.append(&media, first, 200, true).await?;
        self.append(&media, SegmentId(first.0 + 2), 100, true).await?;
        self.check(&SealedMedia::new(disk, new, env())).await
    }
}

/// Stops the machine at every media call while one key takes the place of another, and again while it goes on: nothing
/// that was durable is lost at any moment, and at the end the newest key alone opens everything.
#[tokio::test]
async fn a_crash_at_any_call_of_another_key_loses_nothing() {
    let calls = {
        let crash = Crash::never();
        Resealed::default().live(Arc::new(CrashMedia::new(crash.clone())), 0).await.expect("nothing fails");
        crash.calls()
    };
    assert!(calls > 30, "{calls}");
    for call in 0..calls {
        for seed in 0..4 {
            let (mut story, mut disk) = (Resealed::default(), Arc::new(CrashMedia::new(Crash::at(call))));
            drop(story.live(disk.clone(), 0).await);
            for round in 1..3 {
                let again = Crash::at((seed * 11 + call * 3 + round * 7) % calls);
                // Once in a while only the process ends.
                let next = if (seed + round) % 4 == 0 { disk.reopen(again) } else { disk.restart(seed, again) };
                disk = Arc::new(next);
                drop(story.live(disk.clone(), seed + round).await);
            }
            disk = Arc::new(disk.restart(seed + 9, Crash::never()));
            let ended = story.live(disk, seed + 99).await;
            ended.unwrap_or_else(|error| panic!("stopped at call {call}, seed {seed}: {error:#}"));
        }
    }
}

/// Who appends and reads notices nothing of other keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_is_sealed_again_while_it_is_used() {
    let (plain, inner) = (MemMedia::default(), Arc::new(MemMedia::default()));
    let media = Arc::new(SealedMedia::new(inner.clone(), numbered(0), Clock::default().env(1)));
    let sealing = tokio::spawn({
        let media = media.clone();
        async move {
            for n in 1..100 {
                media.set_keys(numbered(n), [numbered(n - 1)]);
                media.reseal().await.expect("reseal");
                tokio::task::yield_now().await;
            }
        }
    });
    let mut dice = Dice::new(3);
    let mut round = 0;
    while round < 300 || !sealing.is_finished() {
        let bytes = Bytes::from(dice.bytes(1 + round % 2000));
        let id = SegmentId(round as u64 / 50 % 5);
        let offset = plain.append(id, bytes.clone()).await.expect("memory");
        assert_eq!(media.append(id, bytes).await.expect("append"), offset);
        if round % 7 == 0 {
            media.sync(id).await.expect("sync");
        }
        let at = offset.saturating_sub(dice.roll(5000) as u64);
        assert_eq!(
            media.read_at(id, at, 3000).await.expect("read"),
            plain.read_at(id, at, 3000).await.expect("memory")
        );
        round += 1;
        tokio::task::yield_now().await;
    }
    sealing.await.expect("it ends");
    let alone = SealedMedia::new(inner, numbered(99), env());
    assert_eq!(alone.segments().await.expect("the newest key"), plain.segments().await.expect("memory"));
}

/// Numbers above are those of segments that are sealed again.
#[tokio::test]
async fn a_number_that_no_segment_has_is_refused() {
    let (inner, id) = (Arc::new(MemMedia::default()), SegmentId(1 << 63));
    let media = sealed(inner.clone());
    assert_eq!(media.append(id, "x".into()).await.expect_err("refused").kind(), ErrorKind::InvalidArgument);
    assert_eq!(media.read_at(id, 0, 1).await.expect_err("absent").kind(), ErrorKind::NotFound);
    assert!(inner.segments().await.expect("listed").is_empty());
}

/// A copy of which a crash left a part is none, and what lies beside a whole copy is not asked for its key.
#[tokio::test]
async fn of_two_places_the_whole_copy_counts() {
    let (_, good) = four_synced().await;
    let other = other(ID);
    let resealed = holding(&good).await;
    let media = sealed(resealed.clone());
    media.set_keys(numbered(1), [key()]);
    media.reseal().await.expect("reseal");
    assert_eq!(resealed.segments().await.expect("listed").len(), 1, "what was before is gone");
    let copy = bytes_of(&*resealed, other).await;
    for (len, keys, expected) in [
        (copy.len() - 1, vec![numbered(1), key()], good.clone()),
        (copy.len(), vec![numbered(1), key()], copy.clone()),
        (copy.len(), vec![numbered(1)], copy.clone()),
        (70, vec![key()], good.clone()),
    ] {
        let both = holding(&good).await;
        both.append(other, Bytes::copy_from_slice(&copy[..len])).await.expect("append");
        let media = SealedMedia::new(both.clone(), keys[0].clone(), env());
        media.set_keys(keys[0].clone(), keys[1..].iter().cloned());
        assert_eq!(media.segments().await.expect("opens"), [Segment { id: ID, len: 400 }]);
        let left = both.segments().await.expect("listed");
        assert_eq!(left.len(), 1, "the other is removed");
        assert_eq!(bytes_of(&*both, left[0].id).await, expected);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Read(u64, u32),
    Sync,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3000usize).prop_map(Step::Append),
        1 => (60_000..200_000usize).prop_map(Step::Append),
        6 => (0..300_000u64, 0..100_000u32).prop_map(|(offset, len)| Step::Read(offset, len)),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is appended and read, through however many openings, a sealed media is a media.
    #[test]
    fn it_is_a_media_like_another(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (plain, inner) = (MemMedia::default(), Arc::new(MemMedia::default()));
            let mut media = sealed(inner.clone());
            for (seed, step) in (1u64..).zip(steps) {
                match step {
                    Step::Append(len) => {
                        let bytes = Bytes::from(Dice::new(seed).bytes(len));
                        let offset = plain.append(ID, bytes.clone()).await.expect("memory");
                        assert_eq!(media.append(ID, bytes).await.expect("append"), offset);
                    }
                    Step::Read(offset, len) => assert_eq!(
                        media.read_at(ID, offset, len).await.map_err(|error| error.kind()),
                        plain.read_at(ID, offset, len).await.map_err(|error| error.kind()),
                    ),
                    Step::Sync => assert_eq!(media.sync(ID).await.is_ok(), plain.sync(ID).await.is_ok()),
                    Step::Reopen => media = SealedMedia::new(inner.clone(), key(), Clock::default().env(seed)),
                }
                assert_eq!(media.segments().await.expect("sealed"), plain.segments().await.expect("memory"));
            }
        });
    }

    /// Bytes of any kind where a segment is expected are refused or are an empty segment; none panics.
    #[test]
    fn any_bytes_open_or_are_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..600), has_header in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            if has_header {
                bytes.splice(..0, SegmentHeader::encode(&key(), ID, Salt([1; 16])));
            }
            match reopen(&bytes).await {
                Ok(read) => assert!(read.is_empty()),
                Err(error) => assert!(!has_header && error.kind() == ErrorKind::Corrupt),
            }
        });
    }
}
