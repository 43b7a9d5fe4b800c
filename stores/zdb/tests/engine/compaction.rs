//! Compaction: the room of overwritten values comes back, and nothing else goes.

use std::sync::Arc;

use muxfs::testing::fault::Dice;
use muxfs_zdb::{Delete, Direction, Engine, EngineOptions, Mode, Setting};

use crate::{
    home::{TestHome, open, options},
    model::{Model, compare, listed, namespace, step},
};

#[tokio::test]
async fn room_comes_back_by_itself() {
    let engine = open(Arc::new(TestHome::default())).await;
    let space = namespace(&engine, "compact", Mode::User, false).await;
    let mut dice = Dice::new(1);
    for n in 0..3000_u32 {
        let key = (n % 20).to_le_bytes();
        space.set(&key, dice.bytes(100).into(), None).await.expect("set");
        tokio::task::yield_now().await;
    }
    let figures = space.figures();
    assert_eq!((figures.entries, figures.data_len), (20, 2000));
    // Of some 480 thousand bytes that were written.
    assert!(figures.file_len < 40_000, "{figures:?}");
}

#[tokio::test]
async fn a_namespace_with_history_is_left_alone() {
    let engine = open(Arc::new(TestHome::default())).await;
    let space = engine.default_namespace();
    for n in 0..200_u8 {
        space.set(b"key", vec![n; 100].into(), None).await.expect("set");
    }
    assert_eq!(space.compact().await.expect("compact"), 0);
    let before = space.figures().file_len;
    assert!(before > 200 * 100);
    // The switch alone begins it.
    engine.update(&space, Setting::History(false)).await.expect("history");
    for _ in 0..100_000 {
        if space.figures().file_len > 5000 {
            tokio::task::yield_now().await;
        }
    }
    assert!(space.figures().file_len <= 5000);
    assert_eq!(space.get(b"key").await.expect("get").map(|entry| entry.value), Some(vec![199; 100].into()));
}

/// A deletion mark went with the file it was in while an older value of the key was still in another: opened again, the
/// key was back. Files go from the oldest on, so that cannot be.
#[tokio::test]
async fn a_deleted_key_stays_deleted() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let space = namespace(&engine, "compact", Mode::User, false).await;
    space.set(b"gone", vec![1; 100].into(), None).await.expect("set");
    // So much that is current that the oldest file is not worth it.
    for n in 0..40_u8 {
        space.set(&[b'k', n], vec![n; 400].into(), None).await.expect("set");
    }
    assert_eq!(space.delete(b"gone", None).await.expect("delete"), Delete::Deleted);
    for n in 0..8_u8 {
        space.set(b"often", vec![n; 500].into(), None).await.expect("set");
        space.compact().await.expect("compact");
    }
    for _ in 0..3 {
        space.durable().await.expect("durable");
        let home = TestHome::load(&home.image().await).await;
        let engine = open(home).await;
        let space = engine.namespace(b"compact").expect("it is there");
        assert_eq!(space.get(b"gone").await.expect("get"), None);
        assert_eq!(space.len(), 41);
        space.compact().await.expect("compact");
    }
}

/// In sequential mode a number is never given twice, also when all records of the highest ones are gone.
#[tokio::test]
async fn numbers_are_not_given_again() {
    let home = Arc::new(TestHome::default());
    let mut engine = open(home.clone()).await;
    let mut next = 0_u64;
    for _ in 0..4 {
        let space = namespace(&engine, "ids", Mode::Sequential, false).await;
        for _ in 0..30 {
            let set = space.set(b"", vec![1; 200].into(), None).await.expect("set");
            assert_eq!(set, muxfs_zdb::Set::Stored { key: next.to_le_bytes().to_vec().into() });
            space.delete(&next.to_le_bytes(), None).await.expect("delete");
            next += 1;
        }
        space.compact().await.expect("compact");
        assert!(space.is_empty());
        engine.close().await.expect("close");
        engine = open(home.clone()).await;
    }
}

/// What is written while it is compacted is there, and so is all else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on() {
    let engine = open(Arc::new(TestHome::default())).await;
    let space = namespace(&engine, "compact", Mode::User, false).await;
    let compacting = tokio::spawn({
        let space = Arc::clone(&space);
        async move {
            for _ in 0..50 {
                space.compact().await.expect("compact");
            }
        }
    });
    let (mut model, mut dice) = (Model::new(Mode::User), Dice::new(4));
    for _ in 0..600 {
        step(&space, &mut model, &mut dice).await.expect("step");
        let key = format!("key {}", dice.roll(40)).into_bytes();
        let expected = model.value(&key).map(|(value, _)| value.clone());
        assert_eq!(space.get(&key).await.expect("get").map(|entry| entry.value), expected);
    }
    compacting.await.expect("no panic");
    assert_eq!(compare(&space, &model, false, false).await, Ok(()));
    assert_eq!(listed(&space, Direction::Forward, 100).await.len(), model.keys.len());
}

/// Where no room to copy to is left, nothing is lost.
#[tokio::test]
async fn a_compaction_that_fails_loses_nothing() {
    let home = Arc::new(TestHome::default());
    let options = EngineOptions { compact_len_min: u64::MAX, ..options() };
    let engine = Engine::open(home.clone(), options.clone()).await.expect("open");
    let space = namespace(&engine, "compact", Mode::User, false).await;
    let (mut model, mut dice) = (Model::new(Mode::User), Dice::new(6));
    for _ in 0..100 {
        step(&space, &mut model, &mut dice).await.expect("step");
    }
    space.durable().await.expect("durable");
    let data = home.newest_data();
    for _ in 0..3 {
        data.fail_next(muxfs::testing::fault::MediaCall::Append, muxfs::ErrorKind::NoSpace);
    }
    assert!(space.compact().await.is_err());
    data.heal();
    assert_eq!(compare(&space, &model, false, false).await, Ok(()));
    assert!(space.compact().await.expect("compact") > 0);
    engine.close().await.expect("close");
    let engine = Engine::open(home, options).await.expect("open");
    let space = engine.namespace(b"compact").expect("it is there");
    assert_eq!(compare(&space, &model, false, false).await, Ok(()));
}
