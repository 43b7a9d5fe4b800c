//! A vault with all that it does beside the limits of the machine, in turns in one run: new blocks put and read back, in memory and
//! on files; many versions of a tree of sources; what it takes that objects have one length.
//!
//! `cargo bench -p muxfs-vault`. `MUXFS_VAULT_MIB` is how much is written a time (256), `MUXFS_VAULT_TREE` a directory whose files
//! are the tree (made up where absent), `TMPDIR` where files are.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::{
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use muxfs::{
    BlockKey, BlockStore, Name,
    block::{Mem, Segments, SegmentsOptions},
    cipher::Cipher,
    dag::{Dag, DagOptions, UnixfsMeta},
    heads::MemHeads,
    testing::{Clock, fault::Dice},
};
use muxfs_local::FileMedia;
use muxfs_vault::{Compression, Cost, Password, Vault, VaultOptions, VaultPlace};

const BLOCK_LEN: usize = 1 << 20;
const ROUND_COUNT: usize = 5;
/// So much is asked for at once.
const AHEAD_COUNT: usize = 8;
const VERSION_COUNT: usize = 20;
const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn rate(len: usize, took: Duration) -> f64 {
    len as f64 / 1e6 / took.as_secs_f64()
}

/// What AES-256-GCM does in place on each core, in MB/s.
fn cipher_limit(len: usize) -> f64 {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let begin = Instant::now();
    thread::scope(|scope| {
        for n in 0..threads {
            scope.spawn(move || {
                let cipher = Cipher::new(&[u8::try_from(n).expect("few"); 32]);
                let mut piece = vec![7; 64 << 10];
                for n in 0..len / threads / piece.len() {
                    let mut nonce = [0; 12];
                    nonce[..8].copy_from_slice(&(n as u64).to_le_bytes());
                    std::hint::black_box(cipher.seal(&nonce, &[], &mut piece));
                }
            });
        }
    });
    rate(len, begin.elapsed())
}

/// What copying does on one core, in MB/s.
fn copy_limit(len: usize) -> f64 {
    let from = vec![7_u8; len];
    let mut to = vec![0_u8; len];
    let begin = Instant::now();
    std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(&from));
    rate(len, begin.elapsed())
}

async fn below(dir: Option<&Path>) -> Arc<dyn BlockStore> {
    let env = Clock::default().env(1);
    let Some(dir) = dir else { return Arc::new(Mem::default()) };
    let media = |name: &str| {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).expect("made");
        Arc::new(FileMedia::open(&dir).expect("opened"))
    };
    let segments = Segments::open(media("blocks"), media("index"), SegmentsOptions::default(), &env);
    Arc::new(segments.await.expect("opened"))
}

fn place(blocks: Arc<dyn BlockStore>) -> VaultPlace {
    let name = Name::new(b"vault").expect("a name");
    VaultPlace::new(blocks, Arc::new(MemHeads::default()), name, Clock::default().env(2))
}

fn password() -> Password {
    Password::new("correct horse").expect("a password")
}

fn key(n: usize) -> BlockKey {
    BlockKey::new(&(n as u64).to_le_bytes()).expect("a key")
}

async fn create(place: VaultPlace, compression: Compression) -> Vault {
    let options = VaultOptions { compression, cost: CHEAP, ..VaultOptions::default() };
    Vault::create(place, &password(), &options).await.expect("made")
}

async fn put_all(vault: &Arc<Vault>, blocks: &[Bytes]) {
    let puts = blocks.iter().enumerate().map(|(n, block)| {
        let (vault, block) = (vault.clone(), block.clone());
        tokio::spawn(async move { vault.put(&key(n), block).await })
    });
    let mut puts = stream::iter(puts).buffer_unordered(AHEAD_COUNT);
    while let Some(put) = puts.next().await {
        put.expect("no panic").expect("put");
    }
    vault.flush().await.expect("flush");
}

async fn get_all(vault: &Arc<Vault>, count: usize) {
    let gets = (0..count).map(|n| {
        let vault = vault.clone();
        tokio::spawn(async move { vault.get(&key(n)).await })
    });
    let mut gets = stream::iter(gets).buffered(AHEAD_COUNT);
    while let Some(got) = gets.next().await {
        assert!(got.expect("no panic").expect("get").is_some_and(|block| block.len() == BLOCK_LEN));
    }
}

async fn blocks(mib: usize) {
    let noise: Vec<Bytes> = (0..mib).map(|n| Dice::new(n as u64).bytes(BLOCK_LEN).into()).collect();
    let text: Vec<Bytes> = (0..mib).map(|n| prose(n as u64, BLOCK_LEN).into()).collect();
    let len = mib * BLOCK_LEN;
    println!("{mib} MiB in blocks of 1 MiB, {AHEAD_COUNT} at a time; put means durable:");
    for (what, blocks) in [("noise", &noise), ("text", &text)] {
        for compression in [Compression::Zstd, Compression::Lz4] {
            for where_ in ["memory", "files"] {
                let (mut puts, mut gets, mut ciphers, mut copies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
                for _ in 0..ROUND_COUNT {
                    let dir = tempfile::tempdir().expect("a directory");
                    let place = place(below((where_ == "files").then(|| dir.path())).await);
                    let vault = Arc::new(create(place.clone(), compression).await);
                    let begin = Instant::now();
                    put_all(&vault, blocks).await;
                    puts.push(rate(len, begin.elapsed()));
                    drop(vault);
                    let vault = Arc::new(Vault::open(place, &password()).await.expect("opened"));
                    let begin = Instant::now();
                    get_all(&vault, mib).await;
                    gets.push(rate(len, begin.elapsed()));
                    ciphers.push(cipher_limit(len));
                    copies.push(copy_limit(len));
                }
                let (put, get) = (median(puts), median(gets));
                let (cipher, copy) = (median(ciphers), median(copies));
                println!(
                    "  {what:5} {compression:?} {where_:6}  put {put:6.0} MB/s  get {get:6.0} MB/s  (cipher alone on each core {cipher:.0}, \
                     copying on one {copy:.0}: {:.2} and {:.2} of the cipher)",
                    put / cipher,
                    get / cipher
                );
            }
        }
    }
}

/// Text of some thousand words, which shrinks as sources do.
fn prose(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut words = Dice::new(77);
    let words: Vec<Vec<u8>> = (0..2000)
        .map(|_| {
            let len = 2 + words.roll(9);
            words.bytes(len).into_iter().map(|byte| b'a' + byte % 26).collect()
        })
        .collect();
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        text.extend_from_slice(&words[dice.roll(45) * dice.roll(45)]);
        text.push(if dice.roll(9) == 0 { b'\n' } else { b' ' });
    }
    text.truncate(len);
    text
}

fn sources(dir: &Path, into: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let meta = fs::symlink_metadata(&path).expect("there");
        if meta.is_dir() {
            sources(&path, into);
        } else if meta.is_file() {
            into.push(fs::read(&path).expect("read"));
        }
    }
}

async fn versions() {
    let mut files = Vec::new();
    match std::env::var_os("MUXFS_VAULT_TREE") {
        Some(dir) => sources(Path::new(&dir), &mut files),
        None => files.extend((0..5000_usize).map(|n| prose(n as u64, 1000 + (n * 7919) % 20_000))),
    }
    let mem = Arc::new(Mem::default());
    let vault = Arc::new(create(place(mem.clone()), Compression::Zstd).await);
    let dag = Dag::new(vault.clone(), DagOptions::default());
    let (mut dice, mut len, mut took) = (Dice::new(5), 0, Duration::ZERO);
    let first: usize = files.iter().map(Vec::len).sum();
    for version in 0..VERSION_COUNT {
        if version > 0 {
            for _ in 0..files.len() / 50 {
                let n = dice.roll(files.len());
                let at = dice.roll(files[n].len() + 1);
                let line = prose(dice.bits(), 80);
                files[n].splice(at..at, line);
            }
        }
        let begin = Instant::now();
        let imports = files.iter().map(|file| dag.import(&file[..], UnixfsMeta::default()));
        let mut imports = stream::iter(imports).buffer_unordered(AHEAD_COUNT);
        while let Some(import) = imports.next().await {
            import.expect("imported");
        }
        dag.flush().await.expect("flush");
        took += begin.elapsed();
        len += files.iter().map(Vec::len).sum::<usize>();
    }
    let stored = mem.block_count() * (4 << 20);
    println!(
        "{VERSION_COUNT} versions of {} files of {:.1} MB: {:.0} MB/s, {:.1} MB stored ({:.2} of one version)",
        files.len(),
        first as f64 / 1e6,
        rate(len, took),
        stored as f64 / 1e6,
        stored as f64 / first as f64
    );
}

/// Small files that do not compress, and what the store below has of them: all of it, and what came beyond the first 64 MiB.
async fn hidden() {
    let pack_len = 4 << 20;
    let mem = Arc::new(Mem::default());
    let vault = Arc::new(create(place(mem.clone()), Compression::None).await);
    let dag = Dag::new(vault.clone(), DagOptions::default());
    println!("what it takes that nobody sees a length, of small files that do not compress:");
    let (mut n, mut len, mut first) = (0, 0, None);
    for mib in [4, 16, 64, 128, 256_usize] {
        let begin = Instant::now();
        let before = len;
        while len < mib << 20 {
            let file = Dice::new(n).bytes(100 + usize::try_from(n * 7919 % 20_000).expect("small"));
            dag.import(&file[..], UnixfsMeta::default()).await.expect("imported");
            (n, len) = (n + 1, len + file.len());
        }
        dag.flush().await.expect("flush");
        let (took, objects) = (begin.elapsed(), mem.block_count());
        let (base_stored, base_len) = if mib > 64 { *first.get_or_insert((0, 0)) } else { (0, 0) };
        let stored = objects * pack_len;
        if mib == 64 {
            first = Some((stored, len));
        }
        println!(
            "  {mib:4} MiB in {n} files: {:.3} bytes for each{}, {} objects more than data fills, {:.0} MB/s",
            (stored - base_stored) as f64 / (len - base_len) as f64,
            if mib > 64 { " beyond 64 MiB (asked: at most 1.150)" } else { "" },
            objects - len.div_ceil(pack_len).min(objects),
            rate(len - before, took),
        );
    }
    println!("  (asked: at most 8 objects more)");
}

#[tokio::main]
async fn main() {
    let mib = std::env::var("MUXFS_VAULT_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(256);
    blocks(mib).await;
    versions().await;
    hidden().await;
}
