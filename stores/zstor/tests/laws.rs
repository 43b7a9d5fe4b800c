//! A working tree over `/zstor` keeps the laws of file systems, with its journal sealed and its head on the nodes.

use std::{fs, sync::Arc};

use muxfs::{
    Name,
    dag::{Dag, DagOptions},
    tree::{Tree, TreeOptions},
    vfs::Vfs,
};
use muxfs_local::FileMedia;
use muxfs_zstor::{Node, Place, RootKey, Zstor, ZstorOptions};
use tempfile::TempDir;

async fn tree() -> (Arc<dyn Vfs>, (TempDir, Zstor)) {
    let dir = tempfile::tempdir().expect("a directory");
    let (key, env, local) = (RootKey::new([7; 32]), muxfs::testing::env(), dir.path().join("local"));
    fs::create_dir(&local).expect("made");
    let place = |n: usize| Place::Dir { path: dir.path().join(format!("node{n}")), is_made: true };
    let nodes =
        (0..6).map(|n| Node { name: format!("{n}"), group: None, place: place(n), is_drained: false }).collect();
    let zstor = Zstor::open(&ZstorOptions::new(4, 2, nodes), &key, &local, &env).await.expect("opens");
    let heads = zstor.heads().clone();
    let journal = Arc::new(FileMedia::open_ahead(local.join("journal")).expect("opens"));
    let journal = zstor.sealed("journal", journal);
    let dag = Dag::new(zstor.blocks().clone(), DagOptions::default());
    let options = TreeOptions::new(Name::new(b"main").expect("a name"), env);
    let tree = Tree::open(dag, journal, heads, options).await.expect("opens");
    (Arc::new(tree), (dir, zstor))
}

muxfs::vfs_laws!(of_a_tree_over_six_directories, tree());
