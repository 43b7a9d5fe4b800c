//! How fast the engine is on a disk, without a protocol: keys set, keys read, and a namespace of millions opened.
//!
//! `cargo bench -p muxfs-zdb -- [KEYS]`, ten million where it is not said; about 1 GiB in the directory for temporary
//! files (`TMPDIR`) for each ten million.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use muxfs::testing::fault::Dice;
use muxfs_zdb::{DirHome, Engine, EngineOptions};

/// A value of so many bytes; what is measured is what each key costs.
const VALUE_LEN: usize = 32;
/// So many keys are read.
const READ_COUNT: u64 = 1_000_000;
/// So many are set before it is waited for the disk: what clients in parallel come to.
const GROUP_COUNT: u64 = 1000;

fn main() -> muxfs::Result<()> {
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10_000_000_u64);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(count))
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
async fn run(count: u64) -> muxfs::Result<()> {
    let dir = tempfile::tempdir().expect("a directory for temporary files");
    let open = || async {
        Engine::open(Arc::new(DirHome::open(dir.path())?), EngineOptions::new(&muxfs::testing::env())).await
    };
    let engine = open().await?;
    let space = engine.default_namespace();
    let value = Bytes::from(vec![7; VALUE_LEN]);
    let began = Instant::now();
    for n in 0..count {
        space.set(&key(n), value.clone(), None).await?;
        if n % GROUP_COUNT == 0 {
            space.durable().await?;
        }
    }
    space.durable().await?;
    tell("set", count, began);

    let mut dice = Dice::new(1);
    let began = Instant::now();
    for _ in 0..READ_COUNT {
        let entry = space.get(&key(dice.bits() % count)).await?;
        assert_eq!(entry.map(|entry| entry.value.len()), Some(VALUE_LEN));
    }
    tell("get", READ_COUNT, began);
    let figures = space.figures();
    println!("memory: {:.1} bytes a key", figures.index_len as f64 / figures.entries as f64);

    let began = Instant::now();
    engine.close().await?;
    println!("close: {:.2} s", began.elapsed().as_secs_f64());
    drop((space, engine));
    let began = Instant::now();
    let engine = open().await?;
    println!("open {count} keys: {:.2} s", began.elapsed().as_secs_f64());
    assert_eq!(engine.default_namespace().len(), count);
    engine.close().await
}

/// 16 bytes that no two numbers share.
fn key(n: u64) -> [u8; 16] {
    let mut key = [b'k'; 16];
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn tell(what: &str, count: u64, began: Instant) {
    let secs = began.elapsed().as_secs_f64();
    println!("{what}: {count} in {secs:.2} s, {:.0} a second", count as f64 / secs);
}
