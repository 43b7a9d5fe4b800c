//! The laws of blocks and heads over a bucket, also one whose calls fail and whose answers get lost.

mod faulty;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use muxfs::{BlockStore, heads::Heads, testing};
use muxfs_s3::PACK_LEN;
use object_store::memory::InMemory;

use faulty::{Faults, Faulty, open, options};

fn faults(is_bad: bool) -> Faults {
    if is_bad { Faults { fails: 7, loses_answers: 5, yields: 4, ..Faults::default() } } else { Faults::default() }
}

async fn blocks(pack_len: usize, is_bad: bool) -> testing::block_store::Subject {
    let (inner, seed) = (Arc::new(InMemory::new()), AtomicU64::new(1));
    testing::block_store::Subject::reopening(move || {
        let (inner, seed) = (inner.clone(), seed.fetch_add(1000, Ordering::Relaxed));
        Box::pin(async move {
            let objects = Faulty::new(inner, seed, faults(is_bad));
            let store = open(objects, seed, options("me", pack_len)).await.expect("open");
            Arc::new(store) as Arc<dyn BlockStore>
        })
    })
    .await
}

async fn heads(is_bad: bool) -> testing::heads::Subject {
    let (inner, seed) = (Arc::new(InMemory::new()), AtomicU64::new(1));
    testing::heads::Subject::reopening(move || {
        let (inner, seed) = (inner.clone(), seed.fetch_add(1000, Ordering::Relaxed));
        Box::pin(async move {
            let objects = Faulty::new(inner, seed, faults(is_bad));
            Arc::new(open(objects, seed, options("me", PACK_LEN)).await.expect("open")) as Arc<dyn Heads>
        })
    })
    .await
}

muxfs::block_store_laws!(blocks_in_packs, blocks(PACK_LEN, false));
muxfs::block_store_laws!(blocks_in_tiny_packs, blocks(4096, false));
muxfs::block_store_laws!(blocks_with_lost_answers, blocks(20_000, true));
muxfs::heads_laws!(heads_in_packs, heads(false));
muxfs::heads_laws!(heads_with_lost_answers, heads(true));
