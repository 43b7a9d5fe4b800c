//! Blocks to shards and back, on one processor, beside the Reed-Solomon library alone.
//!
//! `cargo bench --bench erasure`. Of blocks of 1 MiB in 10 + 4 shards, in GB of block a second: what the library does with
//! shards that lie ready; what `StripeCode` does, which also hashes the block, sums up each shard and copies it to where it
//! is sent from; and what `Erasure` does over nodes that cost nothing. Processor time, medians of five.

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use muxfs::{
    BlockKey, BlockStore, Result,
    block::{Erasure, ErasureNode, ErasureOptions, Mem, Nowhere, StripeCode},
};
use reed_solomon_erasure::galois_8::ReedSolomon;

const BLOCK_LEN: usize = 1 << 20;
const COUNTS: (u8, u8) = (10, 4);
const DATA: usize = COUNTS.0 as usize;
const PARITY: usize = COUNTS.1 as usize;
/// How many blocks are gone through in turn: more than the caches of a processor hold would measure the memory.
const BLOCK_COUNT: usize = 4;
const REPEAT_COUNT: usize = 100;
const ROUND_COUNT: usize = 5;

fn main() -> Result<()> {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("only runs as a benchmark: cargo bench --bench erasure");
        return Ok(());
    }
    let blocks: Vec<Bytes> = (0..BLOCK_COUNT as u64).map(block).collect();
    let mut rows: Vec<(&str, Work, Vec<f64>)> = Vec::new();
    let mut row = |name, work: Work| rows.push((name, work, Vec::new()));

    row("hash of the block (BLAKE3)", {
        let blocks = blocks.clone();
        Box::new(move |n| {
            black_box(blake3::hash(&blocks[n]));
        })
    });
    row("checksums of the shards (CRC-32C)", {
        let blocks = blocks.clone();
        let shard_len = BLOCK_LEN.div_ceil(DATA);
        Box::new(move |n| {
            for shard in blocks[n].chunks(shard_len).chain(blocks[n].chunks(shard_len).take(PARITY)) {
                black_box(crc32c::crc32c(shard));
            }
        })
    });
    row("encode: library", library_encode(&blocks));
    row("encode: StripeCode", {
        let (code, blocks) = (StripeCode::new(COUNTS.0, COUNTS.1)?, blocks.clone());
        Box::new(move |n| drop(black_box(code.encode(&blocks[n]).expect("encode"))))
    });
    row("put: Erasure over nodes that keep nothing", {
        let blocks = blocks.clone();
        let nodes = (0..DATA + PARITY).map(|n| ErasureNode::new(format!("node {n}"), Nowhere));
        let store = Erasure::new(nodes, options())?;
        Box::new(move |n| now(store.put(&key(n), blocks[n].clone())))
    });
    row("join: StripeCode, all data there", decode(&blocks, 0)?);
    row("get: Erasure, all nodes there", get(&blocks, 0)?);
    row("reconstruct: library, 4 data shards lost", library_reconstruct(&blocks));
    row("reconstruct: StripeCode, 4 data shards lost", decode(&blocks, PARITY)?);
    row("get: Erasure, the nodes of 4 data shards lost", get(&blocks, PARITY)?);

    for _ in 0..ROUND_COUNT {
        for (_, work, rates) in &mut rows {
            (0..REPEAT_COUNT / 10).for_each(|n| work(n % BLOCK_COUNT));
            let start = processor_time();
            (0..REPEAT_COUNT).for_each(|n| work(n % BLOCK_COUNT));
            rates.push(rate(processor_time().saturating_sub(start)));
        }
    }
    for (name, _, mut rates) in rows {
        rates.sort_by(f64::total_cmp);
        println!("{name:48} {:6.1} GB/s", rates[ROUND_COUNT / 2]);
    }
    Ok(())
}

/// What this thread has had of a processor: others may be busy on the machine.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().expect("no negative time"), time.tv_nsec.try_into().expect("below a second"))
}

fn rate(took: Duration) -> f64 {
    let len = u32::try_from(BLOCK_LEN * REPEAT_COUNT).expect("small");
    f64::from(len) / took.as_secs_f64() / 1e9
}

fn options() -> ErasureOptions {
    ErasureOptions { data_count: COUNTS.0, parity_count: COUNTS.1, ..ErasureOptions::default() }
}

fn key(n: usize) -> BlockKey {
    BlockKey::new(&n.to_le_bytes()).expect("eight bytes")
}

fn block(seed: u64) -> Bytes {
    muxfs::testing::fault::Dice::new(seed).bytes(BLOCK_LEN).into()
}

/// Nothing in memory has to be waited for.
fn now<T>(call: impl Future<Output = Result<T>>) -> T {
    call.now_or_never().expect("nobody waits").expect("no error")
}

type Work = Box<dyn FnMut(usize)>;

/// Data and parity as the library wants them.
fn cut(block: &[u8]) -> Vec<Vec<u8>> {
    let shard_len = BLOCK_LEN.div_ceil(DATA);
    let padded = [block, &vec![0; shard_len * DATA - block.len()]].concat();
    padded.chunks(shard_len).map(<[u8]>::to_vec).chain((0..PARITY).map(|_| vec![0; shard_len])).collect()
}

fn library_encode(blocks: &[Bytes]) -> Work {
    let code = ReedSolomon::new(DATA, PARITY).expect("a code");
    let mut stripes: Vec<_> = blocks.iter().map(|block| cut(block)).collect();
    Box::new(move |n| code.encode(black_box(&mut stripes[n])).expect("encode"))
}

fn library_reconstruct(blocks: &[Bytes]) -> Work {
    let code = ReedSolomon::new(DATA, PARITY).expect("a code");
    let stripes = blocks.iter().map(|block| {
        let mut shards = cut(block);
        code.encode(&mut shards).expect("encode");
        shards.into_iter().enumerate().map(|(index, shard)| (shard, index >= PARITY)).collect::<Vec<_>>()
    });
    let mut stripes: Vec<_> = stripes.collect();
    Box::new(move |n| code.reconstruct_data(black_box(&mut stripes[n])).expect("reconstruct"))
}

fn decode(blocks: &[Bytes], lost: usize) -> Result<Work> {
    let code = StripeCode::new(COUNTS.0, COUNTS.1)?;
    let stripes: Result<Vec<_>> = blocks.iter().map(|block| code.encode(block)).collect();
    let stripes = stripes?;
    Ok(Box::new(move |n| drop(black_box(code.decode(&stripes[n][lost..lost + DATA]).expect("decode")))))
}

fn get(blocks: &[Bytes], lost: usize) -> Result<Work> {
    let nodes: Vec<_> = (0..DATA + PARITY).map(|_| Arc::new(Mem::default())).collect();
    let named = nodes.iter().enumerate().map(|(n, node)| ErasureNode::new(n.to_string(), Arc::clone(node)));
    let store = Erasure::new(named, options())?;
    for (n, block) in blocks.iter().enumerate() {
        now(store.put(&key(n), block.clone()));
        for name in store.nodes_of(&key(n)).into_iter().take(lost) {
            let slot = BlockKey::new(&[key(n).as_bytes(), &[0]].concat())?;
            now(nodes[name.parse::<usize>().expect("a number")].delete(&slot));
        }
    }
    Ok(Box::new(move |n| drop(black_box(now(store.get(&key(n))).expect("it is there")))))
}
