//! CAR files: what is read to its end is written again as it was, and nothing that is not its CID's is taken.

use std::{fs, path::Path, sync::Arc};

use futures_util::TryStreamExt;
use muxfs::{
    BlockKey, BlockStore, Cid,
    block::Mem,
    car::{self, ImportOptions, Reader, Writer},
    dag::{Dag, DagOptions},
    testing::fault::Dice,
};

use crate::{
    fuzz,
    make::{block, damage},
};

const COUNT: u64 = 3_000;

fn vector(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors/car").join(name)).expect("a vector")
}

/// An archive of version 1, and how many of its last blocks are roots.
async fn archive(dice: &mut Dice) -> Vec<u8> {
    let (mut cids, mut blocks): (Vec<Cid>, Vec<_>) = (Vec::new(), Vec::new());
    for _ in 0..dice.roll(12) {
        let made = block(dice, &cids);
        cids.push(made.0);
        blocks.push(made);
    }
    if dice.roll(2) == 0 {
        blocks.reverse();
    }
    let roots: Vec<Cid> = cids.iter().rev().take(dice.roll(3)).copied().collect();
    let mut writer = Writer::new(Vec::new(), &roots).await.expect("memory");
    for (cid, block) in &blocks {
        writer.write(cid, block).await.expect("memory");
    }
    writer.finish().await.expect("memory")
}

/// The same in version 2, without an index or with one that nobody is to believe.
fn wrapped(dice: &mut Dice, inner: &[u8]) -> Vec<u8> {
    let padding = dice.roll(3) * dice.roll(100);
    let start = 51 + padding as u64;
    let index_at = if dice.roll(2) == 0 { 0 } else { start + inner.len() as u64 };
    let mut all = [&b"\x0a\xa1gversion\x02"[..], &[0; 16]].concat();
    for number in [start, inner.len() as u64, index_at] {
        all.extend(number.to_le_bytes());
    }
    all.resize(all.len() + padding, 0);
    all.extend(inner);
    if index_at > 0 {
        let len = dice.roll(200);
        all.extend(dice.bytes(len));
    }
    all
}

#[test]
fn archives() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let vectors = [vector("carv1-basic.car"), vector("carv2-basic.car")];
    fuzz(COUNT, &["read", "refused"], move |dice| {
        runtime.block_on(async {
            let mut bytes = match dice.roll(6) {
                0 => vectors[dice.roll(2)].clone(),
                1 | 2 => {
                    let inner = archive(dice).await;
                    wrapped(dice, &inner)
                }
                _ => archive(dice).await,
            };
            if dice.roll(4) > 0 {
                damage(dice, &mut bytes);
            }
            check(&bytes).await
        })
    });
}

async fn check(bytes: &[u8]) -> &'static str {
    let (read, again) = read(bytes).await;
    let checked = car::check(bytes, None).await;
    assert_eq!(checked.is_ok(), read, "two who read it agree");
    let store = Arc::new(Mem::default());
    let dag = Dag::new(store.clone(), DagOptions::default());
    let options = ImportOptions { all: bytes.len().is_multiple_of(2), ..ImportOptions::default() };
    let imported = car::import(&dag, bytes, &options).await;
    assert!(imported.is_err() || read, "what cannot be read to its end is not imported");
    let keys: Vec<BlockKey> = dag.keys().try_collect().await.expect("memory");
    for key in keys {
        dag.check_block(&key).await.expect("what was put is its CID's");
        assert!(store.has(&key).await.expect("memory"));
    }
    if !read {
        return "refused";
    }
    if let Some(again) = again {
        assert_eq!(again, bytes, "written again as it was");
    }
    "read"
}

/// Whether it can be read to its end, and what is written of an archive of version 1 without identity blocks.
async fn read(bytes: &[u8]) -> (bool, Option<Vec<u8>>) {
    let Ok(mut reader) = Reader::open(bytes).await else { return (false, None) };
    let mut writer = Writer::new(Vec::new(), reader.roots()).await.expect("few roots");
    let mut len = 0;
    loop {
        match reader.next().await {
            Ok(Some(section)) => {
                section.cid.verify(&section.block).expect("verified");
                len += section.block.len();
                assert!(len <= bytes.len(), "no more than is there");
                writer.write(&section.cid, &section.block).await.expect("memory");
            }
            Ok(None) => break,
            Err(_) => {
                assert!(reader.next().await.expect("an error is the end").is_none());
                return (false, None);
            }
        }
    }
    let again = writer.finish().await.expect("memory");
    // Identity blocks are passed over; within version 2 there may be anything around.
    let is_all = reader.version() == 1 && again.len() == bytes.len();
    (true, is_all.then_some(again))
}
