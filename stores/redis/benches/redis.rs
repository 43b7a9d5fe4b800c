//! How fast blocks go to a Redis server and come back, beside `redis-benchmark`.
//!
//! `cargo bench -p muxfs-redis -- [MIB] [ROUNDS]`, 128 MiB and five rounds where it is not said, against a `redis-server` of
//! its own in memory, without a log. Beside it, in turn, `redis-benchmark` with as many bytes, clients and requests on their way:
//! it hashes nothing and looks at no reply. Medians.

use std::{process::Command, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muxfs::{BlockKey, BlockStore, Result, testing::fault::Dice};
use muxfs_redis::RedisAddress;

#[path = "../tests/server/mod.rs"]
mod server;

use server::{MEMORY, Server};

/// The lengths of blocks, in bytes.
const LENS: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
/// So many are put, or got, at a time: on four connections.
const AT_ONCE: usize = 64;

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (mib, rounds) = (numbers.next().unwrap_or(128_usize), numbers.next().unwrap_or(5_usize));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for len in LENS {
        let count = (mib << 20).min(len * 20_000) / len;
        let block = Bytes::from(Dice::new(1).bytes(len));
        let mut all: Vec<[f64; 4]> = Vec::new();
        for _ in 0..rounds {
            let Some(server) = Server::start(MEMORY) else { return Ok(()) };
            let [put, get] = runtime.block_on(ours(&server, count, &block))?;
            let Some([plain_put, plain_get]) = plain(&server, count, len) else { return Ok(()) };
            all.push([put, plain_put, get, plain_get]);
        }
        let median = |at: usize| {
            let mut rates: Vec<_> = all.iter().map(|rates| rates[at]).collect();
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        #[allow(clippy::cast_precision_loss, reason = "a length of at most 1 MiB")]
        let mib = len as f64 / f64::from(1 << 20);
        for (what, ours, plain) in [("put", median(0), median(1)), ("get", median(2), median(3))] {
            println!(
                "{len:>8} B {what}: {ours:>7.0} /s ({:>5.0} MiB/s), redis-benchmark {plain:>7.0} /s, {:.2}",
                ours * mib,
                ours / plain
            );
        }
    }
    Ok(())
}

fn key(n: u64) -> BlockKey {
    BlockKey::new(&Dice::new(n).bytes(34)).expect("a key")
}

/// Blocks put, and got, in a second.
async fn ours(server: &Server, count: usize, block: &Bytes) -> Result<[f64; 2]> {
    let store = Arc::new(server.open().await);
    let keys: Vec<_> = (0..count).map(|n| key(n as u64)).collect();
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let rate = |began: Instant| count as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    let puts = stream::iter(&keys).map(|key| store.put(key, block.clone()));
    puts.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    store.flush().await?;
    let put = rate(began);
    let began = Instant::now();
    let gets = stream::iter(&keys).map(|key| store.get(key));
    let found = gets
        .buffer_unordered(AT_ONCE)
        .try_fold(0, |found, block| async move { Ok(found + usize::from(block.is_some())) });
    assert_eq!(found.await?, count);
    let get = rate(began);
    store.close().await?;
    Ok([put, get])
}

/// What the server's own client reaches; `None` where it is absent.
fn plain(server: &Server, count: usize, len: usize) -> Option<[f64; 2]> {
    let RedisAddress::Tcp(host, port) = server.address() else { panic!("a port") };
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &host, "-p", &port.to_string(), "-t", "set,get", "--csv", "-c", "4", "-r", "1000"]);
    command.args(["-P", &(AT_ONCE / 4).to_string(), "-n", &count.to_string(), "-d", &len.to_string()]);
    let Ok(output) = command.output() else {
        muxfs::testing::skip("there is no redis-benchmark to compare with");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout).replace('"', "");
    let rate = |what: &str| {
        let line = said.lines().find(|line| line.starts_with(what)).expect("it tells");
        line.split(',').nth(1).and_then(|rate| rate.parse().ok()).expect("a number")
    };
    Some([rate("SET,"), rate("GET,")])
}
