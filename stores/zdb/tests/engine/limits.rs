//! Where something ends: syncs that are shared and syncs that fail, disks that are full.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use muxfs::{ErrorKind, testing::fault::MediaCall};
use muxfs_zdb::{Delete, Engine, EngineOptions, Set, SyncRule};

use crate::home::{TestHome, open, options};

/// 64 commands of one client, and one of each of 64 clients, share a sync or two.
#[tokio::test]
async fn a_sync_is_shared() {
    let home = Arc::new(TestHome::default());
    let engine = Engine::open(home.clone(), EngineOptions { file_len_max: 1 << 20, ..options() }).await.expect("open");
    let space = engine.default_namespace();
    space.set(b"first", "x".into(), None).await.expect("set");
    space.durable().await.expect("durable");
    let data = home.newest_data();
    let before = data.calls(MediaCall::Sync);
    for n in 0..64_u8 {
        space.set(&[n + 1], vec![n; 128].into(), None).await.expect("set");
    }
    space.durable().await.expect("durable");
    assert!(data.calls(MediaCall::Sync) - before <= 2);
    let before = data.calls(MediaCall::Sync);
    join_all((0..64_u8).map(|n| {
        let space = &space;
        async move {
            space.set(&[n + 100], vec![n; 128].into(), None).await.expect("set");
            space.durable().await.expect("durable");
        }
    }))
    .await;
    assert!(data.calls(MediaCall::Sync) - before <= 64, "no more than one each");
    // Nothing waits: nothing is synced.
    let before = data.calls(MediaCall::Sync);
    space.durable().await.expect("durable");
    assert_eq!(data.calls(MediaCall::Sync), before);
}

#[tokio::test(start_paused = true)]
async fn a_sync_every_so_often() {
    let home = Arc::new(TestHome::default());
    let options = EngineOptions { sync: SyncRule::Every(Duration::from_secs(5)), ..options() };
    let engine = Engine::open(home.clone(), options).await.expect("open");
    let space = engine.default_namespace();
    let data = home.newest_data();
    let before = data.calls(MediaCall::Sync);
    space.set(b"key", "x".into(), None).await.expect("set");
    space.durable().await.expect("it waits for nothing");
    assert_eq!(data.calls(MediaCall::Sync), before);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(data.calls(MediaCall::Sync) > before);
    engine.close().await.expect("close");
}

/// A full disk: what would take room is refused, and all else goes on.
#[tokio::test]
async fn a_full_disk_refuses_sets_alone() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let space = engine.default_namespace();
    space.set(b"key", "value".into(), None).await.expect("set");
    home.set_free_len(1000);
    let full = space.set(b"other", "value".into(), None).await.expect_err("full");
    assert_eq!(full.kind(), ErrorKind::NoSpace);
    assert_eq!(space.get(b"key").await.expect("get").map(|entry| entry.value), Some("value".into()));
    assert_eq!(space.get(b"other").await.expect("get"), None);
    assert_eq!(space.delete(b"key", None).await.expect("delete"), Delete::Deleted);
    space.durable().await.expect("durable");
    home.set_free_len(1 << 40);
    assert_eq!(space.set(b"other", "v".into(), None).await.expect("set"), Set::Stored { key: "other".into() });
}

/// A disk that fills up under a write: the write is not acknowledged, and it may be there later.
#[tokio::test]
async fn a_write_that_found_no_room_is_not_acknowledged() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let space = engine.default_namespace();
    space.set(b"key", "value".into(), None).await.expect("set");
    space.durable().await.expect("durable");
    let data = home.newest_data();
    data.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    space.set(b"other", "value".into(), None).await.expect("it is queued");
    assert_eq!(space.durable().await.expect_err("full").kind(), ErrorKind::NoSpace);
    assert_eq!(space.get(b"key").await.expect("get").map(|entry| entry.value), Some("value".into()));
    space.durable().await.expect("there is room again");
    assert_eq!(space.get(b"other").await.expect("get").map(|entry| entry.value), Some("value".into()));
}

/// After a sync that failed nothing is acknowledged until the namespace is reloaded; what was acknowledged is there.
#[tokio::test]
async fn a_failed_sync_is_final_until_it_is_reloaded() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let space = engine.default_namespace();
    space.set(b"key", "value".into(), None).await.expect("set");
    space.durable().await.expect("durable");
    home.newest_data().fail_next(MediaCall::Sync, ErrorKind::Io);
    space.set(b"lost", "value".into(), None).await.expect("it is queued");
    assert_eq!(space.durable().await.expect_err("the disk failed").kind(), ErrorKind::Io);
    assert_eq!(space.set(b"more", "value".into(), None).await.expect_err("poisoned").kind(), ErrorKind::Io);
    assert!(space.figures().data_io_errors > 0);
    assert_eq!(space.get(b"key").await.expect("get").map(|entry| entry.value), Some("value".into()));
    engine.reload(&space).await.expect("reload");
    assert_eq!(space.get(b"key").await.expect("get").map(|entry| entry.value), Some("value".into()));
    assert_eq!(space.get(b"lost").await.expect("get"), None);
    space.set(b"more", "value".into(), None).await.expect("set");
    space.durable().await.expect("durable");
}

#[tokio::test]
async fn a_closed_engine_takes_nothing() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let space = engine.default_namespace();
    space.set(b"key", "value".into(), None).await.expect("set");
    engine.close().await.expect("close");
    engine.close().await.expect("close");
    assert_eq!(space.get(b"key").await.expect_err("closed").kind(), ErrorKind::Unavailable);
    let engine = open(home).await;
    assert_eq!(engine.default_namespace().len(), 1);
}
