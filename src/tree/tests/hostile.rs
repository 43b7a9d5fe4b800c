//! What is on disk may be anything: it is refused, or it is what was written.

use std::{
    num::NonZeroU64,
    ops::Range,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt;
use proptest::{collection::vec, prelude::*};

use super::{
    super::{
        Tree,
        inode::Meta,
        record::{Effect, Record, Usage},
    },
    crash::describe,
    make, name, options,
};
use crate::{
    Codec, FileKind, Name, Result,
    block::{Segments, SegmentsOptions},
    cid_of,
    dag::{Dag, DagOptions, Params, Profile},
    heads::LogHeads,
    log::{self, LogPos},
    media::{Media, MemMedia, SegmentId},
    rank::Rank,
    testing,
    vfs::{FILE_LEN_MAX, Ino, NewNode, Rdev, Vfs, XattrMode, XattrName},
};

fn inos() -> impl Strategy<Value = Ino> {
    prop_oneof![1..100_u64, 1..1_u64 << 55].prop_filter_map("a number", |number| NonZeroU64::new(number).map(Ino))
}

fn ranges() -> impl Strategy<Value = Range<u64>> {
    let short = (0..1_u64 << 40, 1..1_u64 << 20).prop_map(|(start, len)| start..start + len);
    prop_oneof![short, (0..FILE_LEN_MAX).prop_map(|start| start..FILE_LEN_MAX)]
}

fn times() -> impl Strategy<Value = SystemTime> {
    (any::<bool>(), 0..1_u64 << 33, 0..1_000_000_000_u32).prop_map(|(before, seconds, nanos)| {
        let distance = Duration::new(seconds, nanos);
        if before { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
    })
}

fn metas() -> impl Strategy<Value = Meta> {
    let kind = prop_oneof![Just(FileKind::File), Just(FileKind::Dir), Just(FileKind::Fifo), Just(FileKind::CharDevice)];
    let words = (0..0o10000_u32, any::<u32>(), any::<u32>(), any::<u32>(), any::<(u32, u32)>());
    let numbers = (0..=FILE_LEN_MAX, any::<u64>(), any::<u64>(), any::<u64>());
    (kind, words, numbers, (times(), times(), times())).prop_map(|(kind, words, numbers, times)| {
        let (mode, uid, gid, nlink, (major, minor)) = words;
        let (size, entry_count, used, change) = numbers;
        let (atime, mtime, ctime) = times;
        let rdev = Rdev { major, minor };
        Meta { kind, mode, uid, gid, nlink, rdev, size, entry_count, used, atime, mtime, ctime, change }
    })
}

/// Effects on a record with so much data, all that there are.
fn effects(data_len: u32) -> impl Strategy<Value = Effect> {
    let name = "[^/\0.]{1,20}".prop_filter_map("a name", |text| Name::new(text.as_bytes()).ok());
    let xattr = "user.[a-z]{1,9}".prop_filter_map("a name", |text| XattrName::new(text.as_bytes()).ok());
    let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let cid = any::<u64>().prop_map(|number| cid_of(Codec::Raw, &number.to_be_bytes()));
    let data = (inos(), 0..1_u64 << 40, 0..data_len).prop_flat_map(move |(ino, offset, at)| {
        (1..=data_len - at).prop_map(move |len| Effect::Data { ino, offset, len, at })
    });
    prop_oneof![
        (inos(), metas()).prop_map(|(ino, meta)| Effect::Inode(ino, meta)),
        (inos(), bytes()).prop_map(|(ino, target)| Effect::Target(ino, target)),
        (inos(), name, inos(), any::<bool>()).prop_map(|(dir, name, ino, there)| {
            Effect::Name { dir, rank: Rank::of(name.as_bytes()), name, ino, there }
        }),
        (inos(), xattr, proptest::option::of(bytes())).prop_map(|(ino, name, value)| Effect::Xattr(ino, name, value)),
        data,
        (inos(), ranges(), cid, 0..1_u64 << 40)
            .prop_map(|(ino, range, cid, from)| { Effect::Slice { ino, range, cid, from } }),
        (inos(), ranges()).prop_map(|(ino, range)| Effect::Hole(ino, range)),
        (inos(), ranges()).prop_map(|(ino, range)| Effect::Reserve(ino, range)),
    ]
}

fn records() -> impl Strategy<Value = Record> {
    let pos = || (any::<u64>(), any::<u32>()).prop_map(|(id, offset)| LogPos { segment: SegmentId(id), offset });
    // More effects than a head holds, at times.
    let change = (vec(any::<u8>(), 1..50), any::<(i64, i64)>(), prop_oneof![4 => 0..8_usize, 1 => 80..300_usize]);
    let change = change.prop_flat_map(|(data, (inodes, bytes), count)| {
        let data_len = u32::try_from(data.len()).unwrap_or(1);
        vec(effects(data_len), count).prop_map(move |effects| Record::Change {
            effects,
            usage: Usage { inodes, bytes },
            data: data.clone().into(),
        })
    });
    prop_oneof![
        6 => change,
        1 => Just(Record::Freeze),
        1 => (pos(), any::<u64>()).prop_map(|(through, number)| Record::Commit {
            through,
            cid: cid_of(Codec::DagCbor, &number.to_be_bytes()),
        }),
        1 => pos().prop_map(|through| Record::Flush { through }),
        1 => vec(any::<u8>(), 0..50).prop_map(|bytes| Record::Chunk { cid: cid_of(Codec::Raw, &bytes), bytes: bytes.into() }),
    ]
}

/// What decodes encodes to the same bytes.
fn check_strict(bytes: &log::Record) {
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(record.encode(), *bytes, "{record:?}");
    }
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_was(record in records()) {
        prop_assert_eq!(Record::decode(&record.encode()).expect("it decodes"), record);
    }

    /// A record with a byte changed, or cut off, or with bytes more, has one spelling still or is refused.
    #[test]
    fn a_damaged_record_is_refused_or_another(record in records(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
                                              in_body in any::<bool>(), edit in 0..3) {
        let log::Record { head, body } = record.encode();
        let mut parts = [head.to_vec(), body.to_vec()];
        let part = &mut parts[usize::from(in_body && !body.is_empty())];
        let at = at.index(part.len());
        match edit {
            0 => part[at] = byte,
            1 => part.truncate(at),
            _ => part.insert(at, byte),
        }
        let [head, body] = parts.map(Bytes::from);
        check_strict(&log::Record { head, body });
    }

    #[test]
    fn noise_is_refused_or_has_one_spelling(head in vec(any::<u8>(), 0..60), body in vec(any::<u8>(), 0..60),
                                            form in 0..6_u8) {
        let head = [&[1, form][..], &head].concat();
        check_strict(&log::Record { head: head.into(), body: body.into() });
    }
}

/// The four disks of a tree.
#[derive(Debug, Clone)]
struct Disks([Arc<MemMedia>; 4]);

/// What is done to one byte of a disk, or to what follows it.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(u64),
    Cut(u64),
}

impl Disks {
    fn new() -> Self {
        Self([(); 4].map(|()| Arc::default()))
    }

    /// The same bytes on other disks, but for one segment.
    async fn damaged(&self, disk: usize, segment: SegmentId, damage: Damage) -> Self {
        let copy = Self::new();
        for (number, (from, to)) in self.0.iter().zip(&copy.0).enumerate() {
            for found in from.segments().await.expect("segments") {
                let len = u32::try_from(found.len).expect("short");
                let mut bytes = from.read_at(found.id, 0, len).await.expect("read").to_vec();
                if (number, found.id) == (disk, segment) {
                    match damage {
                        Damage::Flip(at) => bytes[usize::try_from(at).expect("short")] ^= 1 << (at % 8),
                        Damage::Cut(at) => bytes.truncate(usize::try_from(at).expect("short")),
                    }
                }
                to.append(found.id, bytes.into()).await.expect("append");
            }
        }
        copy
    }

    async fn open(&self) -> Result<(Tree, Arc<Segments>, Arc<LogHeads>)> {
        let [data, index, journal, heads] = self.0.clone();
        let params = Params { chunk_len: 64, width: 8, ..Profile::default().params() };
        let blocks = Arc::new(Segments::open(data, index, SegmentsOptions::default(), &testing::env()).await?);
        let dag = Dag::new(blocks.clone(), DagOptions { params, ..Default::default() });
        let heads = Arc::new(LogHeads::open(heads, &testing::env()).await?);
        Ok((Tree::open(dag, journal, heads.clone(), options()).await?, blocks, heads))
    }

    /// All that there is, read.
    async fn read(&self) -> Result<String> {
        let (tree, ..) = self.open().await?;
        describe(&tree).await
    }
}

/// A tree of every kind of thing, some of it committed and some in the journal, closed as a program does that ends well.
async fn small() -> Disks {
    let disks = Disks::new();
    let (tree, blocks, heads) = disks.open().await.expect("open");
    let root = tree.root();
    let file = make(&tree, root, "file", NewNode::File).await;
    tree.write(file.ino(), 10, vec![1; 150].into(), false).await.expect("write");
    let dir = make(&tree, root, "dir", NewNode::Dir).await;
    make(&tree, dir.ino(), "link", NewNode::Symlink("there".into())).await;
    tree.commit("one").await.expect("commit");
    tree.write(file.ino(), 70, vec![2; 20].into(), false).await.expect("write");
    tree.write(file.ino(), 128, vec![3; 64].into(), false).await.expect("a chunk of its own");
    let xattr = XattrName::new(b"user.x").expect("a name");
    tree.setxattr(dir.ino(), &xattr, "value".into(), XattrMode::Set).await.expect("set");
    tree.link(file.ino(), dir.ino(), &name("again")).await.expect("link");
    tree.sync(root).await.expect("sync");
    tree.shared.log.close().await.expect("close");
    heads.close().await.expect("close");
    blocks.close().await.expect("close");
    disks
}

/// Damages every byte of every disk in turn. What is found then is an error or all that was written; much of what is
/// there is of the past, or an index that is made anew.
async fn damage_all(damage: fn(u64) -> Damage) -> (u64, u64) {
    let disks = small().await;
    let right = disks.read().await.expect("undamaged");
    let disks = small().await;
    let (mut harmless, mut detected) = (0, 0);
    for (number, disk) in disks.0.iter().enumerate() {
        for segment in disk.segments().await.expect("segments") {
            for at in 0..segment.len {
                let damage = damage(at);
                let damaged = disks.damaged(number, segment.id, damage).await;
                let read = AssertUnwindSafe(damaged.read()).catch_unwind().await;
                let place = format!("disk {number}, {}, {damage:?}", segment.id);
                match read.unwrap_or_else(|_| panic!("{place}: a panic")) {
                    Ok(found) => {
                        assert_eq!(found, right, "{place}");
                        harmless += 1;
                    }
                    Err(_) => detected += 1,
                }
            }
        }
    }
    (harmless, detected)
}

#[tokio::test]
async fn a_flipped_byte_is_detected_or_harmless() {
    let (harmless, detected) = damage_all(Damage::Flip).await;
    println!("{harmless} harmless, {detected} detected");
    assert!(detected > 0, "{harmless} harmless, {detected} detected");
}

#[tokio::test]
async fn a_segment_that_was_cut_is_detected_or_harmless() {
    let (harmless, detected) = damage_all(Damage::Cut).await;
    println!("{harmless} harmless, {detected} detected");
    assert!(detected > 0, "{harmless} harmless, {detected} detected");
}
