//! Blocks on a local disk: what puts cost beside raw writes, and what ten million blocks cost to open and to hold.
//!
//! `cargo bench --bench segments`; `MUXFS_BENCH_DIR` names the directory (default: a temporary one),
//! `MUXFS_BENCH_COUNT` the number of tiny blocks. Opening is measured in a process of its own, so that its memory is
//! not that of the building.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use muxfs::{
    BlockKey, BlockStore, Result,
    block::{Segments, SegmentsOptions},
};
use muxfs_local::FileMedia;

const MIB: usize = 1 << 20;
const LARGE_COUNT: usize = 1024;
const SMALL_COUNT: usize = 400_000;
const LOOKUP_COUNT: usize = 200_000;

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match args.get(1).map(String::as_str) {
        Some("open") => runtime.block_on(open_many(Path::new(&args[2]))),
        Some("--bench") => runtime.block_on(bench()),
        _ => {
            println!("only runs as a benchmark: cargo bench --bench segments");
            Ok(())
        }
    }
}

async fn bench() -> Result<()> {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = std::env::var_os("MUXFS_BENCH_DIR").map_or_else(|| temp.path().to_path_buf(), PathBuf::from);
    let count = std::env::var("MUXFS_BENCH_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(10_000_000);
    for round in 0..3 {
        raw(&dir.join("raw"));
        large(&dir.join(format!("large {round}"))).await?;
    }
    small(&dir.join("small")).await?;
    many(&dir.join("many"), count).await
}

async fn open(dir: &Path) -> Result<Segments> {
    let (data, index) = (FileMedia::open(dir.join("data"))?, FileMedia::open(dir.join("index"))?);
    Segments::open(Arc::new(data), Arc::new(index), SegmentsOptions::default(), &muxfs::testing::env()).await
}

fn key(n: usize) -> BlockKey {
    let mut bytes = vec![0x12, 0x20];
    for part in 0..4_u64 {
        bytes.extend_from_slice(&mix(n as u64 * 4 + part).to_le_bytes());
    }
    BlockKey::new(&bytes).expect("34 bytes are a key")
}

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (n >> 32)
}

fn rate(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).expect("small")) / took.as_secs_f64()
}

fn raw(path: &Path) {
    let block = vec![0x5a; MIB];
    let start = Instant::now();
    let mut file = fs::File::create(path).expect("a file");
    for _ in 0..LARGE_COUNT {
        file.write_all(&block).expect("write");
    }
    file.sync_data().expect("sync");
    println!("raw writes of 1 MiB, one sync:   {:8.0} MiB/s", rate(LARGE_COUNT, start.elapsed()));
    fs::remove_file(path).expect("remove");
}

async fn large(dir: &Path) -> Result<()> {
    let block = Bytes::from(vec![0x5a; MIB]);
    let store = open(dir).await?;
    let start = Instant::now();
    for n in 0..LARGE_COUNT {
        store.put(&key(n), block.clone()).await?;
    }
    store.flush().await?;
    println!("puts of 1 MiB, one flush:        {:8.0} MiB/s", rate(LARGE_COUNT, start.elapsed()));
    let start = Instant::now();
    for n in 0..LARGE_COUNT {
        assert!(store.get(&key(n)).await?.is_some());
    }
    println!("gets of 1 MiB, cached:           {:8.0} MiB/s", rate(LARGE_COUNT, start.elapsed()));
    drop(store);
    fs::remove_dir_all(dir).expect("remove");
    Ok(())
}

async fn small(dir: &Path) -> Result<()> {
    let block = Bytes::from(vec![0x5a; 4096]);
    let store = open(dir).await?;
    let start = Instant::now();
    for n in 0..SMALL_COUNT {
        store.put(&key(n), block.clone()).await?;
    }
    println!("puts of 4 KiB, no flush:         {:8.0} /s", rate(SMALL_COUNT, start.elapsed()));
    store.flush().await?;
    println!("the same, with one flush:        {:8.0} /s", rate(SMALL_COUNT, start.elapsed()));
    let start = Instant::now();
    for n in 0..2000 {
        store.put(&key(SMALL_COUNT + n), block.clone()).await?;
        store.flush().await?;
    }
    println!("puts of 4 KiB, a flush each:     {:8.0} /s", rate(2000, start.elapsed()));
    drop(store);
    fs::remove_dir_all(dir).expect("remove");
    Ok(())
}

async fn many(dir: &Path, count: usize) -> Result<()> {
    let store = open(dir).await?;
    let start = Instant::now();
    for n in 0..count {
        store.put(&key(n), Bytes::copy_from_slice(&n.to_le_bytes())).await?;
    }
    store.checkpoint().await?;
    println!("puts of 8 bytes, {count}:     {:8.0} /s, {} MiB resident", rate(count, start.elapsed()), resident_mib());
    drop(store);
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).arg("open").arg(dir).arg(count.to_string()).status().expect("it runs");
    assert!(status.success());
    fs::remove_dir_all(dir).expect("remove");
    Ok(())
}

async fn open_many(dir: &Path) -> Result<()> {
    let start = Instant::now();
    let store = open(dir).await?;
    let took = start.elapsed();
    let stats = store.stats();
    println!("opening {} blocks:         {took:?}, {} MiB resident", stats.block_count, resident_mib());
    let count = usize::try_from(stats.block_count).expect("it fits");
    let start = Instant::now();
    for n in 0..LOOKUP_COUNT {
        let n = usize::try_from(mix(n as u64)).expect("64 bits") % count;
        assert!(store.get(&key(n)).await?.is_some());
    }
    println!("random gets:                     {:8.0} /s", rate(LOOKUP_COUNT, start.elapsed()));
    let start = Instant::now();
    for n in 0..LOOKUP_COUNT {
        assert!(store.get(&key(count + n)).await?.is_none());
    }
    println!("gets of what is not there:       {:8.0} /s", rate(LOOKUP_COUNT, start.elapsed()));
    println!("afterwards:                      {:8} MiB resident", resident_mib());
    Ok(())
}

/// The memory of this process that is in RAM, where the system tells.
fn resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}
