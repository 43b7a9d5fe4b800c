//! Stores that were dropped without an end, and calls that nobody waits for, have their directories until these have ended.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use muxfs_local::FileMedia;

const PATIENCE: Duration = Duration::from_mins(2);

/// Waits until nobody has a log below a directory of which a store is opened: `local` and `node0` to `node5`, those that are there.
pub(crate) async fn released(world: &Path) {
    let (begun, local) = (Instant::now(), world.join("local"));
    let nodes = (0..6).map(|n| world.join(format!("node{n}")));
    let mut dirs: Vec<_> = nodes.chain([local]).filter(|dir| dir.is_dir()).collect();
    while let Some(dir) = dirs.pop() {
        let mut is_log = false;
        for entry in fs::read_dir(&dir).expect("listed") {
            let path = entry.expect("an entry").path();
            is_log |= path.extension().is_some_and(|extension| extension == "seg");
            if path.is_dir() {
                dirs.push(path);
            }
        }
        while is_log && let Err(error) = FileMedia::open(&dir) {
            assert!(begun.elapsed() < PATIENCE, "{error:#}");
            tokio::task::yield_now().await;
        }
    }
}
