//! DAGs of hostile nodes, each block its CID's: reading, listing, resolving, walking and exporting them ends.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use muxfs::{
    BlockKey, BlockStore, Cid, Name,
    block::Mem,
    dag::{Dag, DagOptions, EntityBytes, ExportLimits, ExportOptions, Scope},
    testing::fault::Dice,
};

use crate::{
    fuzz,
    make::{block, number, text},
};

const COUNT: u64 = 2_000;
/// How much is taken of what may be without end.
const ENTRY_COUNT: usize = 200;
const READ_LEN: u32 = 1 << 20;

async fn dag(dice: &mut Dice) -> (Dag, Vec<Cid>) {
    let (store, mut cids) = (Arc::new(Mem::default()), Vec::new());
    for _ in 0..=dice.roll(20) {
        // Of what was made so far, so that there is no circle: no hash has one.
        let (cid, block) = block(dice, &cids);
        store.put(&BlockKey::from(&cid), block).await.expect("memory");
        cids.push(cid);
    }
    (Dag::new(store, DagOptions::default()), cids)
}

#[test]
fn hostile_dags() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    fuzz(COUNT, &["something", "nothing"], move |dice| {
        runtime.block_on(async {
            let (dag, cids) = dag(dice).await;
            let root = *cids.last().expect("one at least");
            let mut good_count = 0;
            let node = dag.stat(&root).await;
            good_count += usize::from(node.is_ok());
            if let Ok(node) = &node {
                let offset = number(dice);
                for offset in [0, node.size / 2, node.size, offset] {
                    if let Ok(read) = dag.read_at(&root, offset, READ_LEN).await {
                        assert!(read.len() as u64 <= node.size.saturating_sub(offset), "no more than it says to have");
                        good_count += 1;
                    }
                }
            }
            let names: Vec<Name> = (0..3).filter_map(|_| Name::new(text(dice).as_bytes()).ok()).collect();
            for name in &names {
                good_count += usize::from(dag.lookup(&root, name).await.is_ok());
            }
            good_count += usize::from(dag.resolve(&root, &names).await.is_ok());
            let listed: Vec<_> = dag.list(&root, number(dice)).take(ENTRY_COUNT).collect().await;
            for entry in listed.into_iter().flatten() {
                // What is listed is found.
                let found = dag.lookup(&root, &entry.name).await;
                good_count += usize::from(found.is_ok());
            }
            dag.read_symlink(&root).await.ok();
            let visits = dag.walk(&root).collect::<Vec<_>>().await;
            assert!(visits.len() <= 4 * cids.len() * cids.len() + 200, "each is met once: {}", visits.len());
            export(&dag, &root, dice).await;
            if good_count > 0 { "something" } else { "nothing" }
        })
    });
}

async fn export(dag: &Dag, root: &Cid, dice: &mut Dice) {
    let limits = ExportLimits { block_count_max: 500, len_max: 1 << 20, depth_max: 64 };
    let scope = [Scope::Block, Scope::Entity, Scope::All][dice.roll(3)];
    let range = EntityBytes { from: number(dice).cast_signed(), to: Some(number(dice).cast_signed()) };
    let bytes = (dice.roll(2) == 0).then_some(range);
    let options = ExportOptions { scope, bytes, duplicates: dice.roll(2) == 0, limits, ..ExportOptions::default() };
    let Ok(export) = dag.export(root, &[], &options).await else { return };
    let mut blocks = export.blocks();
    let mut count = 0;
    while let Ok(Some((cid, block))) = blocks.try_next().await {
        cid.verify(&block).expect("the block of its CID");
        count += 1;
        assert!(count <= 500, "the limit holds");
    }
}
