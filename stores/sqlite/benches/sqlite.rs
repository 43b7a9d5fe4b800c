//! How fast blocks go into an SQLite file and come out, beside SQLite itself.
//!
//! `cargo bench -p muxfs-sqlite -- [MIB] [ROUNDS]`, 256 MiB and five rounds where it is not said, in the directory for
//! temporary files (`TMPDIR`). Beside it, in turn, one connection with the same settings: all rows in one transaction, synced
//! once, and each read by its key. Medians.

use std::{path::Path, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muxfs::{BlockKey, BlockStore, Result, testing::fault::Dice};
use muxfs_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::{Connection, params};

/// The lengths of blocks, in bytes.
const LENS: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
/// So many are put, or got, at a time.
const AT_ONCE: usize = 64;
/// So many are put one after the other, with a flush after each.
const SYNCED_COUNT: usize = 200;

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (mib, rounds) = (numbers.next().unwrap_or(256_usize), numbers.next().unwrap_or(5_usize));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for len in LENS {
        // Small ones are many.
        let count = (mib << 20).min(len * 20_000) / len;
        let block = Bytes::from(Dice::new(1).bytes(len));
        let keys: Vec<_> = (0..count).map(|n| key(n as u64)).collect();
        let mut all: Vec<[f64; 5]> = Vec::new();
        for _ in 0..rounds {
            let dir = tempfile::tempdir().expect("a directory");
            let [plain_put, plain_get] = plain(&dir.path().join("plain"), &keys, &block);
            let [put, get, synced] = runtime.block_on(ours(&dir.path().join("ours"), &keys, &block))?;
            all.push([put, plain_put, get, plain_get, synced]);
        }
        let median = |at: usize| {
            let mut times: Vec<_> = all.iter().map(|times| times[at]).collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let (mib, count) = ((count * len) as f64 / f64::from(1 << 20), SYNCED_COUNT as f64);
        let row = |what: &str, ours: f64, plain: f64| {
            println!(
                "{len:>8} B {what}: {:>6.0} MiB/s, plain SQLite {:>6.0} MiB/s, {:.2}",
                mib / ours,
                mib / plain,
                plain / ours
            );
        };
        row("put", median(0), median(1));
        row("get", median(2), median(3));
        println!("{len:>8} B put and flushed, one after the other: {:.0} /s", count / median(4));
    }
    Ok(())
}

/// Keys as those of blocks are: 34 bytes of no order.
fn key(n: u64) -> BlockKey {
    BlockKey::new(&Dice::new(n).bytes(34)).expect("a key")
}

/// Seconds to put all and sync, to get all, to put and flush some alone.
async fn ours(path: &Path, keys: &[BlockKey], block: &Bytes) -> Result<[f64; 3]> {
    let store = Arc::new(SqliteStore::open(path, SqliteOptions::default()).await?);
    let began = Instant::now();
    let puts = stream::iter(keys).map(|key| store.put(key, block.clone()));
    puts.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    store.flush().await?;
    let put = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let gets = stream::iter(keys).map(|key| store.get(key));
    let found = gets
        .buffer_unordered(AT_ONCE)
        .try_fold(0, |found, block| async move { Ok(found + usize::from(block.is_some())) });
    assert_eq!(found.await?, keys.len());
    let get = began.elapsed().as_secs_f64();
    let began = Instant::now();
    for n in 0..SYNCED_COUNT {
        store.put(&key(u64::MAX - n as u64), block.clone()).await?;
        store.flush().await?;
    }
    let synced = began.elapsed().as_secs_f64();
    store.close().await?;
    Ok([put, get, synced])
}

/// The same of SQLite alone, but for the last.
fn plain(path: &Path, keys: &[BlockKey], block: &Bytes) -> [f64; 2] {
    let mut connection = Connection::open(path).expect("opened");
    connection
        .execute_batch("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 8192; \
                        CREATE TABLE blocks (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, block BLOB NOT NULL) STRICT")
        .expect("made");
    let began = Instant::now();
    let all = connection.transaction().expect("begun");
    {
        let mut insert = all.prepare("INSERT INTO blocks (key, block) VALUES (?1, ?2)").expect("prepared");
        for key in keys {
            insert.execute(params![key.as_bytes(), &block[..]]).expect("inserted");
        }
    }
    all.commit().expect("committed");
    let put = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let mut select = connection.prepare("SELECT block FROM blocks WHERE key = ?1").expect("prepared");
    for key in keys {
        let found: Vec<u8> = select.query_row([key.as_bytes()], |row| row.get(0)).expect("found");
        assert_eq!(found.len(), block.len());
    }
    [put, began.elapsed().as_secs_f64()]
}
