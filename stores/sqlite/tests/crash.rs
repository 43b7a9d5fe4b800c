//! What was acknowledged is there after a crash: of the process, killed while it puts, and of the machine, which loses what
//! was not synced.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bytes::Bytes;
use muxfs::{
    BlockKey, BlockStore, Name,
    heads::{Heads, Swap},
    testing::fault::Dice,
};
use muxfs_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::Connection;

const PLACE: &str = "MUXFS_SQLITE_TEST_PLACE";
/// Blocks that are put at once, then flushed.
const GROUP_COUNT: usize = 8;

fn key(n: usize) -> BlockKey {
    BlockKey::new(format!("key {n}").as_bytes()).expect("a key")
}

fn block(n: usize) -> Bytes {
    Dice::new(n as u64).bytes(n * 7919 % 60_000).into()
}

fn head() -> Name {
    Name::new(b"main").expect("a name")
}

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions::default()).await.expect("open")
}

/// The number that the head says; 0 if there is none.
async fn number(store: &SqliteStore) -> usize {
    let found = store.load(&head()).await.expect("load");
    found.map_or(0, |(head, _)| String::from_utf8_lossy(&head).parse().expect("a number"))
}

/// Puts group after group, and says of each when it is flushed, and of each head when it is swapped, for ever.
async fn put_for_ever(path: &Path) {
    let store = open(path).await;
    for group in number(&store).await.. {
        let puts = (group * GROUP_COUNT..(group + 1) * GROUP_COUNT).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.put(&key(n), block(n)).await })
        });
        for put in puts.collect::<Vec<_>>() {
            put.await.expect("no panic").expect("put");
        }
        if group % 3 == 0 {
            store.flush().await.expect("flush");
            println!("\nflushed {group}");
        }
        let version = store.load(&head()).await.expect("load").map(|(_, version)| version);
        let swap = store.swap(&head(), version.as_ref(), (group + 1).to_string().into()).await.expect("swap");
        assert!(matches!(swap, Swap::Done(_)));
        println!("\nswapped {group}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    const TEST: &str = "what_was_acknowledged_survives_a_kill";
    if let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) {
        return put_for_ever(&place).await;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let mut dice = Dice::new(1);
    for _ in 0..12 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([TEST, "--exact", "--nocapture"])
            .env(PLACE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let told = lines.filter_map(|line| {
            let (what, group) = line.split_once(' ')?;
            ["flushed", "swapped"]
                .contains(&what)
                .then(|| (what == "swapped", group.parse::<usize>().expect("a number")))
        });
        let (mut flushed, mut swapped) = (0, 0);
        for (is_swap, group) in told.take(1 + dice.roll(12)) {
            flushed = flushed.max((group + 1) * GROUP_COUNT);
            if is_swap {
                swapped = swapped.max(group + 1);
            }
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        let store = open(&path).await;
        let number = number(&store).await;
        assert!(number >= swapped, "the head says {number}, and {swapped} was swapped");
        for n in 0..flushed.max(number * GROUP_COUNT) {
            assert_eq!(store.get(&key(n)).await.expect("get"), Some(block(n)), "block {n} of {flushed}");
        }
        store.close().await.expect("closed");
        let said: String = Connection::open(&path)
            .and_then(|connection| connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
            .expect("checked");
        assert_eq!(said, "ok");
    }
}

/// Of the log a machine that loses power keeps what was synced, and of what was written behind that any part: cut off,
/// never written, or other bytes. What was flushed is there in each case, and a block after it whole or not at all.
#[tokio::test]
async fn what_was_flushed_survives_the_loss_of_what_was_not_synced() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, log) = (dir.path().join("store"), dir.path().join("store-wal"));
    let store = open(&path).await;
    for n in 0..20 {
        store.put(&key(n), block(n)).await.expect("put");
    }
    let swap = store.swap(&head(), None, "1".into()).await.expect("swap");
    assert!(matches!(swap, Swap::Done(_)));
    for n in 20..30 {
        store.put(&key(n), block(n)).await.expect("put");
    }
    store.delete(&key(0)).await.expect("delete");
    store.flush().await.expect("flush");
    let synced_len = fs::metadata(&log).expect("it is there").len();
    for n in 30..40 {
        store.put(&key(n), block(n)).await.expect("put");
    }
    store.delete(&key(1)).await.expect("delete");
    let (file, written) = (fs::read(&path).expect("read"), fs::read(&log).expect("read"));
    assert!(written.len() as u64 > synced_len + 100_000, "much is not synced");
    let mut dice = Dice::new(3);
    for round in 0..60 {
        let copy = dir.path().join(format!("copy{round}"));
        fs::write(&copy, &file).expect("written");
        let copied_log = dir.path().join(format!("copy{round}-wal"));
        fs::write(&copied_log, &written).expect("written");
        let lost = OpenOptions::new().write(true).open(&copied_log).expect("opened");
        let behind = usize::try_from(written.len() as u64 - synced_len).expect("short");
        match round % 3 {
            0 => lost.set_len(synced_len + dice.roll(behind) as u64).expect("cut off"),
            kind => {
                // Sectors that did not get there.
                for _ in 0..=dice.roll(20) {
                    let at = synced_len + (dice.roll(behind) & !511) as u64;
                    let sector = if kind == 1 { vec![0; 512] } else { dice.bytes(512) };
                    lost.write_all_at(&sector, at).expect("written");
                }
            }
        }
        drop(lost);
        let copy = open(&copy).await;
        assert_eq!(number(&copy).await, 1);
        assert_eq!(copy.get(&key(0)).await.expect("get"), None, "its deletion was flushed");
        for n in 2..30 {
            assert_eq!(copy.get(&key(n)).await.expect("get"), Some(block(n)), "block {n}, round {round}");
        }
        for n in (30..40).chain([1]) {
            let found = copy.get(&key(n)).await.expect("get");
            assert!(found.is_none_or(|found| found == block(n)), "block {n}, round {round}");
        }
    }
}
