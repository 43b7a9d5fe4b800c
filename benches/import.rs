//! How fast files become CIDs: only-hash import of 1 GiB, and of many small files, beside plain SHA-256 on as many
//! threads in the same run. Run: `cargo bench -p muxfs --bench import`; with `-- sha256` only the plain hashing, with
//! `-- read FILE` what any program can reach that reads a file and hashes it: `pread` into one small buffer on each
//! thread, and nothing else.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use bytes::Bytes;
use muxfs::{
    Result,
    block::Nowhere,
    dag::{Dag, DagOptions, ReadAt, UnixfsMeta},
};
use sha2::{Digest, Sha256};

const THREAD_COUNT: usize = 2;
const FILE_LEN: u64 = 1 << 30;
const SMALL_COUNT: u32 = 20_000;
const ROUND_COUNT: usize = 5;
const CHUNK_LEN: u64 = 1 << 20;
/// Fits into a core's own cache. From 64 KiB to 256 KiB it makes no difference; 1 MiB is slower.
const READ_LEN: usize = 128 << 10;

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

/// MiB per second of reading a file from the page cache and hashing it, in pieces of a chunk, on all threads.
fn read_and_hash(file: &File) -> io::Result<f64> {
    let (len, next) = (file.metadata()?.len(), AtomicU64::new(0));
    let start = Instant::now();
    let hash = || -> io::Result<()> {
        let mut buffer = vec![0; READ_LEN];
        loop {
            let from = next.fetch_add(CHUNK_LEN, Ordering::Relaxed);
            if from >= len {
                return Ok(());
            }
            let (mut at, mut hasher) = (from, Sha256::new());
            while at < len.min(from + CHUNK_LEN) {
                let got = file.read_at(&mut buffer, at)?;
                hasher.update(&buffer[..got]);
                at += got as u64;
            }
            std::hint::black_box(hasher.finalize());
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREAD_COUNT).map(|_| scope.spawn(hash)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    let chunks = u32::try_from(len / CHUNK_LEN).expect("a file below 4 PiB");
    Ok(f64::from(chunks) / start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    if let Some(file) = std::env::args().skip_while(|arg| arg != "read").nth(1) {
        let read = File::open(&file).and_then(|file| read_and_hash(&file)).expect("a file that can be read");
        println!("pread and SHA-256 on {THREAD_COUNT} threads: {read:.0} MiB/s");
        return Ok(());
    }
    let bytes: Bytes = (0..64u32 << 20).map(|at| (at % 251) as u8).collect();
    if std::env::args().any(|arg| arg == "sha256") {
        println!("SHA-256 on {THREAD_COUNT} threads: {:.0} MiB/s", plain(&bytes) * 1024.0);
        return Ok(());
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(THREAD_COUNT).build().expect("a runtime");
    let dag = Dag::new(Arc::new(Nowhere), DagOptions::default());
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
