//! The file: whose it is, what is damaged in it, when it is full, how it gets shorter, and who writes it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use muxfs::{
    BlockKey, BlockStore, ErrorKind, Name,
    heads::{Heads, Swap},
    testing::{fault::Dice, skip},
};
use muxfs_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::Connection;

const PLACE: &str = "MUXFS_SQLITE_TEST_PLACE";
const FULL_LEN: u64 = 2 << 20;

fn key(n: usize) -> BlockKey {
    BlockKey::new(format!("key {n}").as_bytes()).expect("a key")
}

fn block(n: usize, len: usize) -> Bytes {
    Dice::new(n as u64).bytes(len).into()
}

fn main_head() -> Name {
    Name::new(b"main").expect("a name")
}

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions::default()).await.expect("open")
}

fn read_only() -> SqliteOptions {
    SqliteOptions { read_only: true, ..SqliteOptions::default() }
}

/// This program again, as one of its own tests.
fn play(test: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([test, "--exact", "--nocapture"]).env(PLACE, place).stdout(Stdio::piped());
    command
}

/// Where to play a part, in the process that was started for it.
fn place() -> Option<PathBuf> {
    std::env::var_os(PLACE).map(PathBuf::from)
}

#[tokio::test]
async fn what_is_no_store_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = |name: &str, sql: &str| {
        let path = dir.path().join(name);
        Connection::open(&path).expect("made").execute_batch(sql).expect("made");
        path
    };
    let text = dir.path().join("text");
    fs::write(&text, "a letter to a friend, and no database at all".repeat(50)).expect("written");
    let ours = dir.path().join("ours");
    open(&ours).await.close().await.expect("closed");
    let changed = |name: &str, sql: &str| {
        let path = dir.path().join(name);
        fs::copy(&ours, &path).expect("copied");
        Connection::open(&path).expect("opened").execute_batch(sql).expect("changed");
        path
    };
    for (path, kind, word) in [
        (text, ErrorKind::Corrupt, "not a database"),
        (
            made("foreign", "CREATE TABLE blocks (x); PRAGMA application_id = 7"),
            ErrorKind::InvalidArgument,
            "0x00000007",
        ),
        (made("unnamed", "CREATE TABLE mine (x)"), ErrorKind::InvalidArgument, "no store of MuxFS"),
        (changed("newer", "PRAGMA user_version = 2"), ErrorKind::Unsupported, "version 2"),
        (changed("more", "CREATE TABLE more (x)"), ErrorKind::Corrupt, "blocks, heads, more, totals"),
        (changed("less", "DROP TABLE heads"), ErrorKind::Corrupt, "blocks, totals"),
    ] {
        let before = fs::read(&path).expect("read");
        for options in [SqliteOptions::default(), read_only()] {
            let error = SqliteStore::open(&path, options).await.expect_err("refused");
            assert_eq!(error.kind(), kind, "{error:#}");
            let said = format!("{error:#}");
            assert!(said.contains(word) && said.contains(&*path.to_string_lossy()), "{said}");
        }
        assert!(fs::read(&path).expect("read") == before, "{} was changed", path.display());
    }
    let nowhere = dir.path().join("none/store");
    let error = SqliteStore::open(&nowhere, SqliteOptions::default()).await.expect_err("no directory");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = SqliteStore::open(dir.path().join("absent"), read_only()).await.expect_err("no file");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn one_process_writes_and_is_named() {
    const TEST: &str = "one_process_writes_and_is_named";
    if let Some(place) = place() {
        let _store = open(&place).await;
        println!("\nopen");
        std::thread::park();
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let mut child = play(TEST, &path).spawn().expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "open"));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    for path in [&path, &link] {
        let error = SqliteStore::open(path, SqliteOptions::default()).await.expect_err("it is locked");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(format!("{error:#}").contains(&format!("process {} (", child.id())), "{error:#}");
        SqliteStore::open(path, read_only()).await.expect("who only reads needs no lock");
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    open(&path).await;
}

#[tokio::test]
async fn who_reads_alone_follows_who_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = open(&path).await;
    store.put(&key(1), "block".into()).await.expect("put");
    let reader = SqliteStore::open(&path, read_only()).await.expect("open");
    assert_eq!(reader.get(&key(1)).await.expect("get"), Some("block".into()));
    store.put(&key(2), "later".into()).await.expect("put");
    assert_eq!(reader.get_range(&key(2), 1..3).await.expect("get"), Some("at".into()));
    assert_eq!(reader.put(&key(3), "x".into()).await.expect_err("refused").kind(), ErrorKind::ReadOnly);
    assert_eq!(reader.delete(&key(1)).await.expect_err("refused").kind(), ErrorKind::ReadOnly);
    let swap = reader.swap(&main_head(), None, "x".into()).await;
    assert_eq!(swap.expect_err("refused").kind(), ErrorKind::ReadOnly);
    reader.flush().await.expect("there is nothing to flush");
    reader.close().await.expect("closed");
    assert_eq!(reader.get(&key(1)).await.expect_err("closed").kind(), ErrorKind::Unavailable);
    assert_eq!(store.get(&key(1)).await.expect("get"), Some("block".into()));
}

#[tokio::test]
async fn a_closed_store_is_one_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = open(&path).await;
    for n in 0..100 {
        store.put(&key(n), block(n, 10_000)).await.expect("put");
    }
    store.close().await.expect("closed");
    store.close().await.expect("twice is once");
    assert_eq!(store.put(&key(0), "x".into()).await.expect_err("closed").kind(), ErrorKind::Unavailable);
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).expect("listed").map(|entry| entry.expect("one").file_name()).collect();
    names.sort();
    assert_eq!(names, ["store", "store-lock"]);
    let copy = dir.path().join("copy");
    fs::copy(&path, &copy).expect("copied");
    let copy = open(&copy).await;
    assert_eq!(copy.keys().count().await, 100);
    assert_eq!(copy.get(&key(99)).await.expect("get"), Some(block(99, 10_000)));
}

/// Whatever byte is damaged: no other bytes are given than were put, nothing panics, and a listing ends. That a block is
/// not found whose key is damaged SQLite cannot tell; of a head it is told.
#[tokio::test]
async fn what_is_damaged_is_never_given() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = open(&path).await;
    for n in 0..20 {
        store.put(&key(n), block(n, n * 700)).await.expect("put");
    }
    assert!(matches!(store.swap(&main_head(), None, "the head".into()).await, Ok(Swap::Done(_))));
    store.close().await.expect("closed");
    let whole = fs::read(&path).expect("read");
    let mut dice = Dice::new(5);
    let (mut corrupt_count, mut refused_count) = (0, 0);
    for round in 0..400 {
        let mut damaged = whole.clone();
        // Some in the header, some in the first pages, where the tables and heads are.
        let bound = [damaged.len(), 8 * 8192, 100][round % 3];
        let at = dice.roll(bound);
        damaged[at] ^= 1 << dice.roll(8);
        let copy = dir.path().join("damaged");
        fs::write(&copy, &damaged).expect("written");
        let store = match SqliteStore::open(&copy, SqliteOptions::default()).await {
            Ok(store) => store,
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::Internal, "byte {at}: {error:#}");
                refused_count += 1;
                continue;
            }
        };
        for n in 0..20 {
            match store.get(&key(n)).await {
                Ok(found) => assert!(found.is_none_or(|found| found == block(n, n * 700)), "byte {at}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error:#}");
                    corrupt_count += 1;
                }
            }
        }
        match store.load(&main_head()).await {
            Ok(found) => assert_eq!(found.expect("it is there, or the heads are damaged").0, "the head", "byte {at}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error:#}"),
        }
        store.keys().take(1000).try_collect::<Vec<_>>().await.ok();
        store.close().await.ok();
    }
    assert!(corrupt_count > 50, "{corrupt_count} blocks were found to be damaged");
    assert!(refused_count > 5, "{refused_count} files were");
}

#[tokio::test]
async fn a_put_replaces_what_is_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = open(&path).await;
    store.put(&key(1), block(1, 100_000)).await.expect("put");
    store.close().await.expect("closed");
    let mut bytes = fs::read(&path).expect("read");
    let part = &block(1, 100_000)[50_000..50_016];
    let at = bytes.windows(16).position(|window| window == part).expect("it is in the clear");
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    let store = open(&path).await;
    assert!(store.has(&key(1)).await.expect("nobody looked yet"));
    assert_eq!(store.get(&key(1)).await.expect_err("damaged").kind(), ErrorKind::Corrupt);
    assert_eq!(store.has(&key(1)).await.expect_err("known").kind(), ErrorKind::Corrupt);
    assert_eq!(store.get_range(&key(1), 0..5).await.expect_err("known").kind(), ErrorKind::Corrupt);
    store.put(&key(1), block(1, 100_000)).await.expect("put");
    assert_eq!(store.get(&key(1)).await.expect("get"), Some(block(1, 100_000)));
    let usage = store.usage().await.expect("usage");
    assert_eq!((usage.block_count, usage.block_len), (1, 100_000));
    assert_eq!((store.stats().block_count, store.stats().block_len), (1, 100_000));
}

#[tokio::test]
async fn a_full_store_takes_no_more_until_something_is_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = SqliteOptions { len_max: Some(FULL_LEN), ..SqliteOptions::default() };
    let store = SqliteStore::open(dir.path().join("store"), options).await.expect("open");
    fill(&store).await;
    let usage = store.usage().await.expect("usage");
    assert!(usage.file_len <= FULL_LEN, "{usage:?}");
}

/// On a file system of its own that is full, which it takes a mount to make.
#[tokio::test]
async fn a_full_disk_is_no_space() {
    const TEST: &str = "a_full_disk_is_no_space";
    if let Some(place) = place() {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "none"]).arg(&place).status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("\nnot mounted");
            return;
        }
        let disk = place.clone();
        let is_full = move || {
            let room = rustix::fs::statvfs(&disk).expect("told");
            // What is in the log has to have room in the file.
            room.f_bavail * room.f_frsize < 7 << 19
        };
        let options = SqliteOptions { is_full: Some(Arc::new(is_full)), ..SqliteOptions::default() };
        let store = SqliteStore::open(&place.join("store"), options).await.expect("open");
        let taken = fill(&store).await;
        // Without that it is filled to the last byte: what was flushed is there.
        store.close().await.expect("closed");
        let store = open(&place.join("store")).await;
        let mut more = taken;
        while store.put(&key(more), block(more, 50_000)).await.is_ok() && store.flush().await.is_ok() {
            more += 1;
        }
        for n in taken..more {
            assert_eq!(store.get(&key(n)).await.expect("get"), Some(block(n, 50_000)));
        }
        println!("\nfilled with {taken}");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let inner = play(TEST, dir.path());
    // The mount is seen by nobody else and ends with the process.
    let mut command = Command::new("unshare");
    command.arg("-m").arg(inner.get_program()).args(inner.get_args()).env(PLACE, dir.path());
    let Ok(output) = command.output() else { return skip("a_full_disk_is_no_space: there is no unshare") };
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains("not mounted") || String::from_utf8_lossy(&output.stderr).contains("unshare failed") {
        return skip("a_full_disk_is_no_space: it takes to be root to mount");
    }
    assert!(
        output.status.success() && said.contains("filled with"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Puts until it is full, and what was put before is there, and there is room again for what is less than was deleted.
async fn fill(store: &SqliteStore) -> usize {
    let mut taken = 0;
    let error = loop {
        let put = store.put(&key(taken), block(taken, 50_000)).await;
        match if put.is_ok() { store.flush().await } else { put } {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 1000, "it is full at some time");
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:#}");
    assert!(taken > 5);
    for n in 0..taken {
        assert_eq!(store.get(&key(n)).await.expect("get"), Some(block(n, 50_000)));
    }
    for n in 0..taken / 2 {
        store.delete(&key(n)).await.expect("delete");
    }
    store.flush().await.expect("flush");
    // What is free in the file is the disk's again.
    store.compact().await.expect("compact");
    store.put(&key(2000), block(7, 50_000)).await.expect("there is room");
    store.flush().await.expect("flush");
    taken
}

#[tokio::test]
async fn deleted_space_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = open(&path).await;
    let len = || fs::metadata(&path).expect("it is there").len();
    for n in 0..120 {
        store.put(&key(n), block(n, 200_000)).await.expect("put");
    }
    store.compact().await.expect("the log is put in");
    assert!(len() > 24_000_000, "{}", len());
    // By itself, half of it.
    for n in 0..100 {
        store.delete(&key(n)).await.expect("delete");
    }
    while len() > 16_000_000 {
        tokio::task::yield_now().await;
    }
    // When asked, all of it.
    store.compact().await.expect("compact");
    let usage = store.usage().await.expect("usage");
    assert_eq!((usage.block_count, usage.block_len, usage.free_len), (20, 4_000_000, 0));
    assert_eq!(len(), usage.file_len);
    assert!(len() < 4_500_000, "{}", len());
    for n in 100..120 {
        assert_eq!(store.get(&key(n)).await.expect("get"), Some(block(n, 200_000)));
    }
}

/// A reader that holds on to an old state would keep the log from ever being emptied: a listing that was begun does not.
#[tokio::test]
async fn a_listing_that_nobody_ends_keeps_nothing_from_going_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("store")).await;
    for n in 0..3000 {
        store.put(&key(n), block(n, 10)).await.expect("put");
    }
    let mut listing = store.keys();
    listing.next().await.expect("one").expect("a key");
    store.compact().await.expect("compact");
    assert_eq!(store.usage().await.expect("usage").log_len, 0);
    assert_eq!(listing.count().await, 2999);
}
