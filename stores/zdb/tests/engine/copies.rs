//! Directories on a disk: one process at a time, and copies that are made while it runs.

use std::{path::Path, process::Command, sync::Arc};

use muxfs::ErrorKind;
use muxfs_zdb::{DirHome, Engine, Setting};

use crate::home::options;

async fn open(path: &Path) -> muxfs::Result<Engine> {
    Engine::open(Arc::new(DirHome::open(path)?), options()).await
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().expect("tempdir");
    let engine = open(dir.path()).await.expect("open");
    let taken = open(dir.path()).await.expect_err("it is locked");
    assert_eq!(taken.kind(), ErrorKind::Unavailable);
    assert!(format!("{taken:#}").contains("another process"), "{taken:#}");
    engine.close().await.expect("close");
    drop(engine);
    open(dir.path()).await.expect("it is free");
}

#[tokio::test]
async fn others_cannot_look_into_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("node");
    open(&path).await.expect("open");
    let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// A copy by `cp` while values are written one after the other: it holds all of the first ones, those that were
/// acknowledged before it began among them; or it is refused, and the message says to copy again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_whole_or_refused() {
    for history in [true, false] {
        let dir = tempfile::tempdir().expect("tempdir");
        let engine = open(&dir.path().join("node")).await.expect("open");
        let space = engine.default_namespace();
        engine.update(&space, Setting::History(history)).await.expect("history");
        let (acknowledged, mut is_acknowledged) = tokio::sync::watch::channel(0_u32);
        let (stop, is_stopped) = tokio::sync::watch::channel(false);
        let writing = tokio::spawn({
            let space = Arc::clone(&space);
            async move {
                let mut n = 0_u32;
                while !*is_stopped.borrow() {
                    n += 1;
                    // Each value says how many there are, under a few keys, so that there is something to compact too.
                    space.set(&n.to_le_bytes(), vec![7; 100].into(), None).await.expect("set");
                    space.set(b"count", n.to_le_bytes().to_vec().into(), None).await.expect("set");
                    space.durable().await.expect("durable");
                    acknowledged.send_replace(n);
                }
            }
        });
        let mut whole = 0;
        for round in 0..12 {
            let before = *is_acknowledged.borrow_and_update();
            let copy = dir.path().join(format!("copy {round}"));
            let from = dir.path().join("node");
            let copied = Command::new("cp").arg("-r").arg(&from).arg(&copy).output().expect("cp");
            // A file that goes while it is copied is told by `cp`; what the copy is worth, by opening it.
            drop(copied);
            match open(&copy).await {
                Ok(engine) => {
                    let space = engine.default_namespace();
                    let count = space.len().saturating_sub(1);
                    for n in 1..=count {
                        let n = u32::try_from(n).expect("small");
                        assert!(
                            space.get(&n.to_le_bytes()).await.expect("get").is_some(),
                            "round {round}: no {n} of {count}"
                        );
                    }
                    assert!(count >= before.into(), "round {round}: {count} values, {before} were acknowledged");
                    whole += 1;
                    engine.close().await.expect("close");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "round {round}: {error:?}");
                    assert!(format!("{error:#}").contains("copy"), "round {round}: {error:#}");
                }
            }
            is_acknowledged.changed().await.expect("it is writing");
        }
        stop.send_replace(true);
        writing.await.expect("no panic");
        engine.close().await.expect("close");
        let copied = Command::new("cp").arg("-r").arg(dir.path().join("node")).arg(dir.path().join("last")).status();
        assert!(copied.expect("cp").success());
        let engine = open(&dir.path().join("last")).await.expect("a copy of what rests is whole");
        assert_eq!(engine.default_namespace().len(), u64::from(*is_acknowledged.borrow()) + 1);
        assert!(whole > 0, "of twelve copies some are whole");
    }
}
