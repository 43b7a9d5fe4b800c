//! What a block in shards outlives: every loss that it was cut for, damage and lies (`losses`), nodes that do not answer
//! (`hangs`), writes that find it in any state (`writing`), and a stop at any call of a write (`stops`); and what brings it
//! back to full strength (`healing`, `owing`) and where it belongs (`moving`), also after minutes of faults at random (`storm`). Here are the laws of block stores,
//! and what all share.

mod hangs;
mod healing;
mod losses;
mod moving;
mod owing;
mod stops;
mod storm;
mod writing;

use super::{shard::Shard, *};
use crate::{
    block::Mem,
    testing::{
        block_store::Subject,
        fault::{Dice, Faulty},
    },
};

fn options(data_count: u8, parity_count: u8) -> ErasureOptions {
    ErasureOptions { data_count, parity_count, ..ErasureOptions::default() }
}

/// As many nodes in memory as there are shards; opened again they are the same.
async fn on_mem(data_count: u8, parity_count: u8) -> Subject {
    let nodes: Vec<_> = (0..data_count + parity_count).map(|_| Arc::new(Mem::default())).collect();
    let block_len_max = StripeCode::new(data_count, parity_count).expect("a code").block_len_max();
    let subject = Subject::reopening(move || {
        let nodes = nodes.clone();
        Box::pin(async move { Arc::new(erasure(&nodes, data_count, parity_count)) as Arc<dyn BlockStore> })
    });
    subject.await.with_limits(block_len_max, Erasure::KEY_LEN_MAX)
}

crate::block_store_laws!(without_parity, on_mem(3, 0));
crate::block_store_laws!(alone, on_mem(1, 0));
crate::block_store_laws!(three_copies, on_mem(1, 2));
crate::block_store_laws!(two_and_two, on_mem(2, 2));
crate::block_store_laws!(four_and_two, on_mem(4, 2));
crate::block_store_laws!(ten_and_four, on_mem(10, 4));
crate::block_store_laws!(sixteen_and_four, on_mem(16, 4));

fn key(n: usize) -> BlockKey {
    BlockKey::new(format!("key {n}").as_bytes()).expect("a key")
}

fn block(n: usize, len: usize) -> Bytes {
    Dice::new(n as u64).bytes(len).into()
}

fn slots(key: &BlockKey) -> [BlockKey; 2] {
    slot_keys(key).expect("a short key")
}

fn name(node: usize) -> String {
    format!("node-{node:02}")
}

fn erasure<B: BlockStore>(nodes: &[Arc<B>], data_count: u8, parity_count: u8) -> Erasure {
    let nodes = nodes.iter().enumerate().map(|(n, store)| ErasureNode::new(name(n), Arc::clone(store)));
    Erasure::new(nodes, options(data_count, parity_count)).expect("room for all shards")
}

/// The same, but it repairs nothing by itself: for tests that look at what nodes have.
fn idle<B: BlockStore>(nodes: &[Arc<B>], data_count: u8, parity_count: u8) -> Erasure {
    let nodes = nodes.iter().enumerate().map(|(n, store)| ErasureNode::new(name(n), Arc::clone(store)));
    Erasure::new(nodes, ErasureOptions { repairs_max: 0, ..options(data_count, parity_count) }).expect("room")
}

fn faulty(count: usize) -> Vec<Arc<Faulty<Mem>>> {
    (0..count).map(|_| Arc::new(Faulty::new(Mem::default()))).collect()
}

async fn get(store: &Erasure, key: &BlockKey) -> Option<Bytes> {
    store.get(key).await.expect("get")
}

/// Every choice of `size` nodes below `count`.
fn sets(count: usize, size: usize) -> Vec<Vec<usize>> {
    let all = (0..1_u32 << count).filter(|set| set.count_ones() as usize == size);
    all.map(|set| (0..count).filter(|node| set & 1 << node != 0).collect()).collect()
}

/// The same of many nodes, drawn.
fn drawn(dice: &mut Dice, count: usize, size: usize) -> Vec<usize> {
    let mut nodes: Vec<_> = (0..count).collect();
    (0..size).map(|_| nodes.swap_remove(dice.roll(nodes.len()))).collect()
}

fn assert_names(error: &Error, nodes: &[usize]) {
    let text = format!("{error:#}");
    assert!(nodes.iter().all(|node| text.contains(&name(*node))), "not all of {nodes:?} in: {text}");
}

/// That all shards of one stripe are there, each once and sound, and nothing else is.
async fn assert_whole(nodes: &[Arc<impl BlockStore>], key: &BlockKey, k: u8, m: u8) {
    let mut indexes = BTreeSet::new();
    let mut stripes = BTreeSet::new();
    for node in nodes {
        for slot in &slots(key) {
            let Some(bytes) = node.get(slot).await.expect("get") else { continue };
            let shard = Shard::parse(bytes).expect("a shard");
            assert!(shard.is_sound());
            assert!(indexes.insert(shard.header.index), "{} is there twice", shard.header.index);
            stripes.insert(shard.header.stripe);
        }
    }
    assert_eq!(stripes.len(), 1, "{stripes:?}");
    assert_eq!(indexes.into_iter().collect::<Vec<_>>(), (0..k + m).collect::<Vec<_>>());
}
