//! How fast layers are by themselves: one thread, everything in memory, beside AES-256-GCM alone on as many bytes.
//!
//! `cargo bench --bench layers`. Blocks of 1 MiB and of 4 KiB, of noise, which nobody can shrink, and of text. Puts go
//! nowhere; gets come from memory, which shares its blocks, so that Encrypt has to copy each before it decrypts it there.
//! Rows are measured in turn, five times, by the processor time of the thread; what is printed is the median.

use std::{collections::BTreeMap, hint::black_box, sync::Arc};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use muxfs::{
    BlockKey, BlockStore, Result, SecretKey,
    block::{Compress, Encrypt, Mem, Nowhere},
    testing::fault::Dice,
};
use rustix::time::{ClockId, clock_gettime};

const ROUND_COUNT: usize = 5;
/// How many bytes a row takes in each round.
const ROW_LEN: usize = 1 << 29;
/// As many different bytes: more than the caches of one core hold, so that none is measured for all.
const DATA_LEN: usize = 8 << 20;
/// What the others are held against.
const ALONE: &str = "AES-256-GCM alone, in place";

fn main() -> Result<()> {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("only runs as a benchmark: cargo bench --bench layers");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for block_len in [1 << 20, 4 << 10] {
        println!("blocks of {} KiB: GB/s on one core, of {ALONE}", block_len >> 10);
        let mut rows = Rows::default();
        for _ in 0..ROUND_COUNT {
            primitives(block_len, &mut rows);
            for (what, content) in [("noise", noise(block_len)), ("text", text(block_len))] {
                runtime.block_on(layers(what, &content, &mut rows))?;
            }
        }
        rows.print();
    }
    Ok(())
}

/// How long this thread has had a processor, in seconds: others on the machine do not count.
fn cpu_secs() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u32::try_from(time.tv_sec).map_or(0.0, f64::from) + u32::try_from(time.tv_nsec).map_or(0.0, f64::from) * 1e-9
}

#[derive(Default)]
struct Rows {
    order: Vec<String>,
    rates: BTreeMap<String, Vec<f64>>,
}

impl Rows {
    fn add(&mut self, what: String, count: usize, block_len: usize, start: f64) {
        let mib = u32::try_from((count * block_len) >> 20).expect("some GiB");
        let rate = f64::from(mib) * 1_048_576e-9 / (cpu_secs() - start);
        if !self.rates.contains_key(&what) {
            self.order.push(what.clone());
        }
        self.rates.entry(what).or_default().push(rate);
    }

    fn print(&mut self) {
        let mut alone = None;
        for what in &self.order {
            let rates = self.rates.get_mut(what).expect("it was measured");
            rates.sort_by(f64::total_cmp);
            let median = rates[rates.len() / 2];
            let alone = *alone.get_or_insert(median);
            println!("{what:40} {median:7.2} {:7.2}", median / alone);
        }
    }
}

fn noise(block_len: usize) -> Vec<Bytes> {
    (0..DATA_LEN / block_len).map(|n| Dice::new(n as u64).bytes(block_len).into()).collect()
}

/// Words at random: snappy makes about half of it.
fn text(block_len: usize) -> Vec<Bytes> {
    let words: Vec<_> = (0..2000).map(|n| Dice::new(n).bits().to_string()).collect();
    let mut dice = Dice::new(1);
    let mut block = || {
        let mut text = String::new();
        while text.len() < block_len {
            text += &words[dice.roll(words.len())][..2 + dice.roll(8)];
            text.push(' ');
        }
        text.truncate(block_len);
        Bytes::from(text)
    };
    (0..DATA_LEN / block_len).map(|_| block()).collect()
}

fn key(n: usize) -> BlockKey {
    let mut key = vec![0x12, 0x20];
    key.extend(Dice::new(n as u64).bytes(32));
    BlockKey::new(&key).expect("34 bytes are a key")
}

/// What the layers are made of.
fn primitives(block_len: usize, rows: &mut Rows) {
    let mut blocks: Vec<Vec<u8>> = noise(block_len).iter().map(|block| block.to_vec()).collect();
    let count = ROW_LEN / block_len;
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("a key"));
    let start = cpu_secs();
    for n in 0..count {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&n.to_le_bytes());
        let block = &mut blocks[n % (DATA_LEN / block_len)];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = cipher.seal_in_place_separate_tag(nonce, Aad::from(&[0; 50]), block).expect("sealed");
        black_box(tag.as_ref());
    }
    rows.add(ALONE.into(), count, block_len, start);
    let start = cpu_secs();
    for n in 0..count {
        black_box(blake3::keyed_hash(&[7; 32], &blocks[n % (DATA_LEN / block_len)]));
    }
    rows.add("keyed BLAKE3 alone".into(), count, block_len, start);
    let start = cpu_secs();
    for n in 0..count {
        black_box(Bytes::copy_from_slice(&blocks[n % (DATA_LEN / block_len)]));
    }
    rows.add("a copy alone".into(), count, block_len, start);
}

fn encrypt(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    Arc::new(Encrypt::new(inner, SecretKey::new([7; 32])))
}

fn compress(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    Arc::new(Compress::new(inner))
}

fn compress_encrypt(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    compress(encrypt(inner))
}

/// Puts layers over a store.
type Stack = fn(Arc<dyn BlockStore>) -> Arc<dyn BlockStore>;

async fn layers(what: &str, blocks: &[Bytes], rows: &mut Rows) -> Result<()> {
    let stacks: [(&str, Stack); 3] =
        [("Encrypt", encrypt), ("Compress", compress), ("Compress > Encrypt", compress_encrypt)];
    for (stack, over) in stacks {
        if what == "text" && stack == "Encrypt" {
            continue;
        }
        let keys: Vec<_> = (0..blocks.len()).map(key).collect();
        // Snappy takes its time over what shrinks.
        let count = if what == "text" { ROW_LEN / 8 } else { ROW_LEN } / blocks[0].len();
        let store = over(Arc::new(Nowhere));
        let start = cpu_secs();
        for n in 0..count {
            store.put(&keys[n % keys.len()], blocks[n % blocks.len()].clone()).await?;
        }
        rows.add(format!("{stack} put, {what}"), count, blocks[0].len(), start);
        let store = over(Arc::new(Mem::default()));
        for (key, block) in keys.iter().zip(blocks) {
            store.put(key, block.clone()).await?;
        }
        let start = cpu_secs();
        for n in 0..count {
            black_box(store.get(&keys[n % keys.len()]).await?);
        }
        rows.add(format!("{stack} get, {what}"), count, blocks[0].len(), start);
    }
    Ok(())
}
