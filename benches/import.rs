//! How fast files become CIDs: only-hash import of 1 GiB, and of many small files, beside plain SHA-256 on as many
//! threads in the same run. Run: `cargo bench -p muxfs --bench import`; with `-- sha256` only the plain hashing.

use std::{io, sync::Arc, thread, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use muxfs::{
    BlockKey, BlockStore, Result,
    dag::{Dag, DagOptions, ReadAt, UnixfsMeta},
};
use sha2::{Digest, Sha256};

const THREAD_COUNT: usize = 2;
const FILE_LEN: u64 = 1 << 30;
const SMALL_COUNT: u32 = 20_000;
const ROUND_COUNT: usize = 5;

/// Takes blocks and forgets them.
#[derive(Debug)]
struct OnlyHash;

#[async_trait]
impl BlockStore for OnlyHash {
    async fn get(&self, _: &BlockKey) -> Result<Option<Bytes>> {
        Ok(None)
    }
    async fn put(&self, _: &BlockKey, _: Bytes) -> Result<()> {
        Ok(())
    }
    async fn delete(&self, _: &BlockKey) -> Result<()> {
        Ok(())
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        stream::empty().boxed()
    }
}

/// A file of `FILE_LEN` bytes: a buffer too long for any cache, over and over.
struct Repeated(Bytes);

impl ReadAt for Repeated {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let left = FILE_LEN.saturating_sub(offset);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        self.0.read_at(offset % self.0.len() as u64, &mut buf[..wanted])
    }
}

/// GiB per second of plain hashing in pieces of a chunk, on all threads.
fn plain(bytes: &Bytes) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..THREAD_COUNT {
            scope.spawn(|| {
                let mut left = FILE_LEN / THREAD_COUNT as u64;
                for chunk in bytes.chunks(1 << 20).cycle() {
                    if left == 0 {
                        break;
                    }
                    std::hint::black_box(Sha256::digest(chunk));
                    left -= chunk.len() as u64;
                }
            });
        }
    });
    1.0 / start.elapsed().as_secs_f64()
}

fn main() -> Result<()> {
    let bytes: Bytes = (0..64u32 << 20).map(|at| (at % 251) as u8).collect();
    if std::env::args().any(|arg| arg == "sha256") {
        println!("SHA-256 on {THREAD_COUNT} threads: {:.0} MiB/s", plain(&bytes) * 1024.0);
        return Ok(());
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(THREAD_COUNT).build().expect("a runtime");
    let dag = Dag::new(Arc::new(OnlyHash), DagOptions::default());
    let mut ratios = Vec::new();
    for _ in 0..ROUND_COUNT {
        let source = Arc::new(Repeated(bytes.clone()));
        let start = Instant::now();
        runtime.block_on(dag.import_at(source, FILE_LEN, UnixfsMeta::default()))?;
        let import = 1.0 / start.elapsed().as_secs_f64();
        let plain = plain(&bytes);
        println!("1 GiB: import {import:.2} GiB/s, plain SHA-256 {plain:.2} GiB/s, ratio {:.2}", import / plain);
        ratios.push(import / plain);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ROUND_COUNT / 2]);
    let start = Instant::now();
    runtime.block_on(async {
        for number in 0..SMALL_COUNT {
            let content = Bytes::from(number.to_string().repeat(200));
            let len = content.len() as u64;
            dag.import_at(Arc::new(content), len, UnixfsMeta::default()).await?;
        }
        Ok::<(), muxfs::Error>(())
    })?;
    println!("small files, one after the other: {:.0} files/s", f64::from(SMALL_COUNT) / start.elapsed().as_secs_f64());
    Ok(())
}
