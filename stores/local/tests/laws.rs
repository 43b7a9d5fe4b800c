//! The laws of a `Vfs`, over a host directory.

use std::sync::Arc;

use muxfs::vfs::Vfs;
use muxfs_local::{LocalOptions, LocalVfs};

/// A new root, and the directories that must outlive it.
fn new() -> (Arc<dyn Vfs>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    std::fs::create_dir(&root).expect("the root");
    let vfs = LocalVfs::open(&root, &dir.path().join("handles"), LocalOptions::default()).expect("it opens");
    (vfs, dir)
}

muxfs::vfs_laws!(local, async { super::new() }, except: {
    numbers_are_not_used_again: "numbers are the host's, which uses them again once nobody leases them; handles differ",
});
