//! Random changes on a tree and on the model, with commits, restarts, collections and checkouts in between: both say the same.

use super::{Ground, assert_sound};
use crate::{
    Cid,
    dag::GcOptions,
    testing::{
        self,
        fault::Dice,
        model::ModelFs,
        workload::{self, Kinds, Path, Step},
    },
    tree::Tree,
    vfs::Vfs,
};

/// How many changes are made, over all seeds.
const CHANGE_COUNT: usize = 100_000;
/// How many of them with one seed.
const SEED_LEN: usize = 5_000;

/// Takes a step, and tells how it went in words that both must use.
async fn take(vfs: &dyn Vfs, step: &Step, kinds: Kinds) -> String {
    step.take(vfs, kinds).await.unwrap_or_else(|error| format!("{:?}", error.kind()))
}

async fn describe(vfs: &dyn Vfs) -> (String, Vec<Path>) {
    workload::describe(vfs).await.expect("it is read")
}

/// Several steps in a transaction, while others sync and commit: what it sees of itself is what the model says, and so
/// is what comes of it. One that is given up was never there.
async fn together(tree: &Tree, model: &dyn Vfs, dice: &mut Dice, paths: &[Path], kinds: Kinds) {
    let transaction = tree.begin();
    let is_kept = dice.roll(3) > 0;
    for number in 0..dice.roll(12) {
        let step = Step::draw(dice, paths, kinds);
        let found = take(&transaction, &step, kinds).await;
        if is_kept {
            assert_eq!(found, take(model, &step, kinds).await, "step {number} of a transaction: {step:?}");
        }
        match dice.roll(40) {
            0 => tree.sync(tree.root()).await.expect("sync"),
            1 => drop(tree.commit("").await.expect("commit")),
            _ => {}
        }
    }
    if is_kept {
        assert_eq!(describe(&transaction).await.0, describe(model).await.0, "seen in the transaction");
        transaction.commit().await.expect("nobody else changed anything");
    }
}

async fn play(seed: u64, count: usize) {
    println!("seed {seed}");
    let kinds = if seed % 4 > 1 { Kinds::All } else { Kinds::Measured };
    let mut dice = Dice::new(seed);
    let ground = Ground::with_chunk_len(1024);
    let model = ModelFs::new(testing::env());
    let mut tree = ground.open().await;
    let mut paths = vec![Vec::new()];
    let mut kept: Vec<(Cid, String)> = Vec::new();
    for number in 0..count {
        let step = Step::draw(&mut dice, &paths, kinds);
        let (found, wanted) = (take(&tree, &step, kinds).await, take(&*model, &step, kinds).await);
        assert_eq!(found, wanted, "seed {seed}, step {number}: {step:?}");
        if dice.roll(50) == 0 {
            together(&tree, &*model, &mut dice, &paths, kinds).await;
        }
        match dice.roll(400) {
            0..20 => tree.sync(tree.root()).await.expect("sync"),
            20..30 => {
                let cid = tree.commit("").await.expect("commit");
                if dice.roll(5) == 0 {
                    kept.push((cid, describe(&tree).await.0));
                }
            }
            30..34 => {
                tree.sync(tree.root()).await.expect("sync");
                tree = ground.open().await;
            }
            35 => {
                let options = GcOptions::new(&testing::env());
                ground.dag.collect_garbage(|| tree.gc_roots(), &options).await.expect("it collects");
            }
            34 if !kept.is_empty() => {
                let now = describe(&tree).await.0;
                let here = tree.commit("").await.expect("commit");
                let (cid, then) = &kept[dice.roll(kept.len())];
                tree.checkout(cid).await.expect("checkout");
                assert_eq!(describe(&tree).await.0, *then, "seed {seed}, step {number}: checked out");
                tree.checkout(&here).await.expect("checkout");
                assert_eq!(describe(&tree).await.0, now, "seed {seed}, step {number}: and back");
            }
            _ => {}
        }
        if number % 50 == 49 {
            let (found, found_paths) = describe(&tree).await;
            let (wanted, _) = describe(&*model).await;
            assert_eq!(found, wanted, "seed {seed}, step {number}");
            paths = found_paths;
            if number % 250 == 249 {
                assert_sound(&tree, &format!("seed {seed}, step {number}")).await;
            }
        }
    }
    super::root_equals_import(&tree).await;
    assert_sound(&tree, &format!("seed {seed}, at the end")).await;
}

#[test]
fn a_hundred_thousand_changes_are_those_of_the_model() {
    let threads: Vec<_> = (0..2)
        .map(|half| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                for seed in (half..CHANGE_COUNT / SEED_LEN).step_by(2) {
                    runtime.block_on(play(seed as u64, SEED_LEN));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("both said the same");
    }
}
