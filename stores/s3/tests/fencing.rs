//! Several machines and one bucket: one writes, others follow, and whoever takes over loses nothing that was committed.

mod faulty;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use muxfs::{
    BlockStore, ErrorKind, Name,
    heads::{Heads, Swap},
    testing::fault::Dice,
};
use muxfs_s3::{S3Access, S3Options, S3Store};
use object_store::memory::InMemory;

use faulty::{Faults, Faulty, Late, block, key, open, options, rounds};

fn name() -> Name {
    Name::new(b"main").expect("a name")
}

fn with(writer: &str, access: S3Access) -> S3Options {
    S3Options { access, ..options(writer, 3000) }
}

/// The commits that a head has: each has those before it.
fn commits(head: &[u8]) -> Vec<u64> {
    head.chunks_exact(8).map(|id| u64::from_le_bytes(id.try_into().expect("eight bytes"))).collect()
}

async fn head(store: &S3Store) -> Vec<u64> {
    store.load(&name()).await.expect("load").map_or_else(Vec::new, |(head, _)| commits(&head))
}

/// Opens whenever it is thrown out, and commits, until it has done so often; the commits that were acknowledged.
async fn write(objects: Arc<Faulty>, writer: &'static str, seed: u64, done: Arc<Mutex<Vec<u64>>>) {
    let mut dice = Dice::new(seed);
    for _ in 0..dice.roll(30) {
        tokio::task::yield_now().await;
    }
    let mut id = seed << 32;
    for opening in 0..3 {
        let access = if opening == 0 { S3Access::Write } else { S3Access::TakeOver };
        let Ok(store) = open(objects.clone(), seed + opening, with(writer, access)).await else { continue };
        for _ in 0..=dice.roll(4) {
            id += 1;
            let commit = async {
                let loaded = store.load(&name()).await?;
                let (before, version) = loaded.map_or((Bytes::new(), None), |(head, version)| (head, Some(version)));
                for part in 0..dice.roll(6) as u64 {
                    store.put(&key(id * 10 + part), block(id * 10 + part, 700)).await?;
                }
                store.put(&key(id * 10), block(id * 10, 100)).await?;
                if dice.roll(2) == 0 {
                    store.flush().await?;
                }
                let head = [&before[..], &id.to_le_bytes()].concat();
                store.swap(&name(), version.as_ref(), head.into()).await
            };
            match commit.await {
                Ok(Swap::Done(_)) => done.lock().expect("no panic").push(id),
                Ok(Swap::Lost) => {}
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unavailable), "{error:#}");
                    break;
                }
            }
            if dice.roll(5) == 0 {
                store.compact().await.ok();
            }
        }
        if dice.roll(3) == 0 {
            store.close().await.ok();
        }
    }
}

/// Two writers that begin at random and throw each other out, over calls that fail, answers that get lost, and puts and deletions that
/// happen long after their caller gave them up, the other having taken over: the commits that were acknowledged are one line, and
/// everything they put is there.
#[tokio::test]
async fn of_two_writers_no_commit_is_lost() {
    let (mut acknowledged, mut thrown_out) = (0, 0);
    let rounds = rounds(1000);
    for round in 0..rounds {
        let inner = Arc::new(InMemory::new());
        let done = Arc::new(Mutex::new(Vec::new()));
        let bad = || Faults { fails: 20, loses_answers: 10, happens_later: 8, yields: 6, ..Faults::default() };
        let late = Arc::new(Late::default());
        let mut writers = Vec::new();
        for (writer, seed) in [("one", round * 2 + 1), ("two", round * 2 + 2)] {
            let objects = Faulty::with_late(inner.clone(), late.clone(), seed, bad());
            writers.push(tokio::spawn(write(objects, writer, seed * 100, done.clone())));
        }
        for writer in writers {
            writer.await.expect("no panic");
        }
        let last = open(inner, 7, with("three", S3Access::TakeOver)).await.expect("open");
        let head = head(&last).await;
        let done = done.lock().expect("no panic").clone();
        for id in &done {
            let count = head.iter().filter(|other| *other == id).count();
            assert_eq!(
                count, 1,
                "round {round}: commit {id:x} was acknowledged and is there {count} times in {head:x?}"
            );
            let first = last.get(&key(id * 10)).await.expect("get");
            assert!(first.is_some(), "round {round}: what commit {id:x} put is lost");
        }
        acknowledged += done.len();
        thrown_out += usize::from(done.iter().any(|id| id >> 32 != done[0] >> 32));
    }
    let is_enough = acknowledged as u64 > 3 * rounds && thrown_out as u64 > rounds / 4;
    assert!(is_enough, "{acknowledged} commits, {thrown_out} of {rounds} rounds of both");
}

/// A second writer is told who the first is and what to do; one that takes over throws the first out, and loses nothing.
#[tokio::test]
async fn a_second_writer_is_refused_and_may_take_over() {
    let inner = Arc::new(InMemory::new());
    let first = open(inner.clone(), 1, with("one", S3Access::Write)).await.expect("open");
    first.put(&key(1), block(1, 700)).await.expect("put");
    let Swap::Done(version) = first.swap(&name(), None, "a".into()).await.expect("swap") else { panic!("it is alone") };
    let error = open(inner.clone(), 2, with("two", S3Access::Write)).await.expect_err("the first writes");
    assert_eq!(error.kind(), ErrorKind::Denied);
    let told = format!("{error:#}");
    assert!(told.contains("host of one") && told.contains("take over"), "{told}");
    first.put(&key(2), block(2, 700)).await.expect("it was not disturbed");
    first.flush().await.expect("it was not disturbed");

    let second = open(inner.clone(), 3, with("two", S3Access::TakeOver)).await.expect("open");
    for n in 1..3 {
        assert_eq!(second.get(&key(n)).await.expect("get"), Some(block(n, 700)));
    }
    first.put(&key(3), block(3, 700)).await.ok();
    for error in [
        first.flush().await.expect_err("thrown out"),
        first.swap(&name(), Some(&version), "b".into()).await.expect_err("thrown out"),
        first.load(&name()).await.map(drop).expect_err("its heads are of yesterday"),
        first.compact().await.map(drop).expect_err("only the writer does"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
        assert!(format!("{error:#}").contains("host of two"), "{error:#}");
    }
    let (head, version) = second.load(&name()).await.expect("load").expect("it was set");
    assert_eq!(head, "a");
    assert!(matches!(second.swap(&name(), Some(&version), "c".into()).await, Ok(Swap::Done(_))));
    second.close().await.expect("close");
    // Who ended needs not be taken over from.
    open(inner, 4, with("three", S3Access::Write)).await.expect("open");
}

/// Who follows has what is new when it asks, reads what was moved meanwhile, and changes nothing.
#[tokio::test]
async fn who_follows_sees_each_commit() {
    let inner = Arc::new(InMemory::new());
    let error = open(inner.clone(), 1, with("two", S3Access::Follow)).await.expect_err("there is nothing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let writer = open(inner.clone(), 2, with("one", S3Access::Write)).await.expect("open");
    let follower = open(inner.clone(), 3, with("two", S3Access::Follow)).await.expect("open");
    let mut version = None;
    for n in 0..60_u64 {
        writer.put(&key(n), block(n, 700)).await.expect("put");
        if n > 4 {
            writer.delete(&key(n - 5)).await.expect("delete");
        }
        let swapped = writer.swap(&name(), version.as_ref(), n.to_le_bytes().to_vec().into()).await.expect("swap");
        let Swap::Done(done) = swapped else { panic!("it is alone") };
        version = Some(done);
        if n % 7 == 3 {
            writer.compact().await.expect("compact");
        }
        if n % 3 == 0 {
            assert_eq!(commits(&follower.load(&name()).await.expect("load").expect("it is set").0), [n]);
        }
        if n > 4 {
            // Asked for without looking at what is new: perhaps it was moved, perhaps it is not known.
            let found = follower.get(&key(n - 4)).await.expect("get");
            assert!(found.is_none_or(|found| found == block(n - 4, 700)));
        }
    }
    follower.load(&name()).await.expect("load");
    for n in 0..60 {
        assert_eq!(follower.get(&key(n)).await.expect("get"), (n > 54).then(|| block(n, 700)), "block {n}");
    }
    for error in [
        follower.put(&key(1), block(1, 1)).await.expect_err("it only reads"),
        follower.delete(&key(1)).await.expect_err("it only reads"),
        follower.swap(&name(), version.as_ref(), "x".into()).await.map(drop).expect_err("it only reads"),
        follower.compact().await.map(drop).expect_err("it only reads"),
    ] {
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:#}");
    }
}

/// A writer that writes nothing learns within seconds that it is one no more.
#[tokio::test(start_paused = true)]
async fn an_idle_writer_learns_that_it_was_passed_over() {
    let objects: Arc<InMemory> = Arc::default();
    let one = open(objects.clone(), 1, with("one", S3Access::Write)).await.expect("open");
    let every = std::time::Duration::from_secs(5);
    let waiting = tokio::spawn({
        let one = one.clone();
        async move { one.passed_over(every).await }
    });
    tokio::time::sleep(8 * every).await;
    assert!(!waiting.is_finished(), "nobody did");
    let two = open(objects.clone(), 2, with("two", S3Access::TakeOver)).await.expect("open");
    let error = tokio::time::timeout(2 * every, waiting).await.expect("in time").expect("no panic");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(one.put(&key(1), block(1, 70)).await.expect_err("it is refused").kind(), ErrorKind::Denied);
    two.close().await.expect("close");
    assert!(tokio::time::timeout(8 * every, two.passed_over(every)).await.is_err(), "it ended");
    let three = open(objects, 3, with("three", S3Access::Write)).await.expect("it ended");
    assert!(tokio::time::timeout(8 * every, two.passed_over(every)).await.is_err(), "it ended before that");
    drop(three);
}
