//! Bits that flip and files that go: an error or the truth, never another value and never fewer keys.

use std::sync::Arc;

use muxfs::{media::SegmentId, testing::fault::Dice};
use muxfs_zdb::{Direction, Engine, Mode, Page, ScanLimit};

use crate::{
    home::{Image, TestHome, Which, open, options},
    model::{Model, compare, namespace, step},
};

/// A namespace of several files, closed.
async fn closed(mode: Mode, history: bool) -> (Image, Model) {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let space = namespace(&engine, "rot", mode, history).await;
    let (mut model, mut dice) = (Model::new(mode), Dice::new(3));
    for _ in 0..90 {
        step(&space, &mut model, &mut dice).await.expect("step");
    }
    engine.close().await.expect("close");
    (home.image().await, model)
}

/// What can be read of a damaged home is true. Whether all of it could be read.
async fn tells_the_truth(image: &Image, model: &Model, what: &str) -> bool {
    let Ok(engine) = Engine::open(TestHome::load(image).await, options()).await else { return false };
    let space = engine.namespace(b"rot").unwrap_or_else(|| panic!("{what}: the namespace is gone"));
    let mut is_all = true;
    for (key, (values, _)) in &model.keys {
        let (value, timestamp) = values.last().expect("a value");
        match space.get(key).await {
            Ok(Some(entry)) => assert_eq!((&entry.value, entry.timestamp), (value, *timestamp), "{what}"),
            Ok(None) => panic!("{what}: {key:?} is gone"),
            Err(_) => is_all = false,
        }
        // Whether it is there may not be known, but what is said of it is true.
        match space.check(key).await {
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => panic!("{what}: {key:?} is gone"),
        }
    }
    for direction in [Direction::Forward, Direction::Backward] {
        let limit = ScanLimit { count: usize::MAX, time: std::time::Duration::MAX };
        match space.scan(direction, None, limit).await {
            Ok(Page::Keys { keys, .. }) => assert_eq!(keys.len(), model.keys.len(), "{what}"),
            Ok(_) => panic!("{what}: a scan finds nothing"),
            Err(_) => is_all = false,
        }
    }
    is_all
}

fn parts(image: &Image) -> Vec<(Which, SegmentId, usize)> {
    let files = |(which, segments): (&Which, &std::collections::BTreeMap<SegmentId, Vec<u8>>)| {
        segments.iter().map(|(id, bytes)| (*which, *id, bytes.len())).collect::<Vec<_>>()
    };
    image.iter().flat_map(files).collect()
}

fn bytes(image: &mut Image, which: Which, id: SegmentId) -> &mut Vec<u8> {
    image.get_mut(&which).and_then(|segments| segments.get_mut(&id)).expect("it is there")
}

#[tokio::test]
async fn a_flipped_bit_is_an_error_or_nothing() {
    for (mode, history) in [(Mode::User, true), (Mode::Sequential, false)] {
        let (mut image, model) = closed(mode, history).await;
        assert!(tells_the_truth(&image, &model, "undamaged").await);
        let mut dice = Dice::new(11);
        for (which, id, len) in parts(&image) {
            let mut at = 0;
            while at < len {
                let mask = 1 << dice.roll(8);
                bytes(&mut image, which, id)[at] ^= mask;
                tells_the_truth(&image, &model, &format!("{which:?} {id} byte {at}")).await;
                bytes(&mut image, which, id)[at] ^= mask;
                // All of what every file begins with, and some of the rest.
                at += if at < 160 { 1 } else { 1 + dice.roll(40) };
            }
        }
    }
}

/// Index files are derived: without any, or with damaged ones, all is there.
#[tokio::test]
async fn index_files_are_built_again() {
    for mode in [Mode::User, Mode::Sequential] {
        let (image, model) = closed(mode, true).await;
        let is_index = |which: &Which| which.is_some_and(|(_, part)| part == muxfs_zdb::Part::Index);
        let mut without = image.clone();
        without.retain(|which, _| !is_index(which));
        assert!(tells_the_truth(&without, &model, "no index files").await);
        for (which, id, len) in parts(&image).into_iter().filter(|(which, _, _)| is_index(which)) {
            let mut damaged = image.clone();
            bytes(&mut damaged, which, id)[len / 2] ^= 1;
            assert!(tells_the_truth(&damaged, &model, &format!("index {id}")).await);
            damaged.get_mut(&which).expect("it is there").remove(&id);
            assert!(tells_the_truth(&damaged, &model, &format!("no index {id}")).await);
        }
        // And they are there again.
        let home = TestHome::load(&without).await;
        let engine = open(home.clone()).await;
        engine.close().await.expect("close");
        let count =
            home.image().await.iter().filter(|(which, _)| is_index(which)).map(|(_, files)| files.len()).sum::<usize>();
        assert!(count > 3, "{count} index files");
    }
}

#[tokio::test]
async fn a_lost_or_short_data_file_is_told() {
    let (image, model) = closed(Mode::User, true).await;
    let is_data = |which: &Which| which.is_some_and(|(_, part)| part == muxfs_zdb::Part::Data);
    let (mut errors, mut count) = (0, 0);
    for (which, id, len) in parts(&image).into_iter().filter(|(which, _, _)| is_data(which)) {
        count += 1;
        let mut lost = image.clone();
        lost.get_mut(&which).expect("it is there").remove(&id);
        // The last file, of a clean end, has nothing in it that would be missed.
        errors += u32::from(!tells_the_truth(&lost, &model, &format!("lost {which:?} {id}")).await);
        for cut in [1, 8, 100, len / 2, len - 1] {
            let mut short = image.clone();
            bytes(&mut short, which, id).truncate(len.saturating_sub(cut));
            tells_the_truth(&short, &model, &format!("{which:?} {id} without its last {cut} bytes")).await;
        }
    }
    // Two namespaces have a file each that holds nothing.
    assert!(errors > 1 && errors + 2 == count, "{errors} of {count} files were missed");
}

/// The first data file was not missed where index files told of all the others: the keys that only it had were gone.
#[tokio::test]
async fn a_lost_first_file_is_told() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let space = namespace(&engine, "rot", Mode::User, true).await;
    for n in 0..30_u8 {
        space.set(&[n + 1], vec![n; 900].into(), None).await.expect("set");
    }
    engine.close().await.expect("close");
    let mut image = home.image().await;
    let data = Some((1, muxfs_zdb::Part::Data));
    image.get_mut(&data).expect("its data").remove(&SegmentId(0)).expect("the first file");
    let error = Engine::open(TestHome::load(&image).await, options()).await.expect_err("a file is missing");
    assert_eq!(error.kind(), muxfs::ErrorKind::Corrupt);
    assert!(format!("{error:#}").contains("the segment is missing"), "{error:#}");
}

/// Without its list a node would have begun anew, beside all that it had.
#[tokio::test]
async fn a_lost_list_of_namespaces_is_told() {
    let (mut image, _) = closed(Mode::User, true).await;
    image.remove(&None);
    let error = Engine::open(TestHome::load(&image).await, options()).await.expect_err("the list is missing");
    assert_eq!(error.kind(), muxfs::ErrorKind::Corrupt);
}

/// Random bytes where anything of ours is expected: an error, and no panic.
#[tokio::test]
async fn hostile_files_are_refused() {
    let (image, _) = closed(Mode::Sequential, true).await;
    let mut dice = Dice::new(12);
    for (which, id, len) in parts(&image) {
        for _ in 0..20 {
            let mut hostile = image.clone();
            let from = dice.roll(len + 1);
            let junk = dice.bytes(len - from);
            bytes(&mut hostile, which, id)[from..].copy_from_slice(&junk);
            if let Ok(engine) = Engine::open(TestHome::load(&hostile).await, options()).await {
                for space in engine.namespaces() {
                    drop(space.scan(Direction::Forward, None, ScanLimit::default()).await);
                    drop(space.scan(Direction::Backward, None, ScanLimit::default()).await);
                }
            }
        }
    }
}

/// A value that rots is told by every read of it, and mended by setting it.
#[tokio::test]
async fn setting_a_rotten_value_mends_it() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let space = engine.create(b"rot").await.map(|_| engine.namespace(b"rot")).expect("create").expect("it was made");
    let value = vec![b'v'; 300];
    space.set(b"key", value.clone().into(), Some(1)).await.expect("set");
    space.durable().await.expect("durable");
    let data = home.newest_data();
    let segment = muxfs::media::Media::segments(&*data).await.expect("segments")[0];
    data.flip(segment.id, segment.len - 100, 1);
    assert_eq!(space.get(b"key").await.expect_err("rotten").kind(), muxfs::ErrorKind::Corrupt);
    assert_eq!(space.check(b"key").await.expect("check"), Some(false));
    assert_eq!(space.figures().data_faults, 2);
    let same = space.set(b"key", value.clone().into(), Some(2)).await.expect("set");
    assert_eq!(same, muxfs_zdb::Set::Stored { key: "key".into() });
    assert_eq!(space.get(b"key").await.expect("get").map(|entry| entry.value), Some(value.into()));
    let mut model = Model::new(Mode::User);
    model.set(b"key", vec![b'v'; 300].into(), 2);
    assert_eq!(compare(&space, &model, true, false).await, Ok(()));
}
