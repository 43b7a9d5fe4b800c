//! Names whose hashes were made to collide.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::{Ground, assert_sound, name, root_equals_import};
use crate::{
    ErrorKind, Name,
    block::Mem,
    dag::{Dag, DagOptions, Entry, Params, Profile, UnixfsMeta},
    tree::attrs::tests::colliding,
    vfs::{NewNode, Place, RemoveKind, SetAttr, Vfs, ext::list},
};

/// Two names with one hash cannot be in one sharded directory: once somebody had made them, no commit was possible.
#[tokio::test]
async fn names_of_one_hash_do_not_stop_commits() {
    let params = Params { hamt_threshold: 0, ..Profile::default().params() };
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions { params, ..DagOptions::default() });
    let tree = Ground { dag, ..Ground::new() }.open().await;
    let root = tree.root();
    let names = colliding(2);
    let made = tree.create(root, &names[0], NewNode::File, SetAttr::default()).await.expect("create");
    let refused = async |place: &str| {
        let created = tree.create(root, &names[1], NewNode::File, SetAttr::default()).await;
        assert_eq!(created.expect_err("its hash is taken").kind(), ErrorKind::InvalidArgument, "{place}");
        let linked = tree.link(made.node.ino, root, &names[1]).await;
        assert_eq!(linked.expect_err("its hash is taken").kind(), ErrorKind::InvalidArgument, "{place}");
        tree.commit("").await.expect("commit");
    };
    refused("uncommitted").await;
    refused("committed").await;
    let place = Place { dir: root, name: &names[0], expect: None };
    tree.remove(place, RemoveKind::NonDir).await.expect("remove");
    tree.create(root, &names[1], NewNode::File, SetAttr::default()).await.expect("it is free");
    root_equals_import(&tree).await;
}

/// Names whose hashes were made to collide, among others, in a directory from elsewhere: each has a place of its own.
#[tokio::test]
async fn names_that_collide_are_all_adopted() {
    let dag = Ground::new().open().await.dag().clone();
    let file = dag.import(&b"hello"[..], UnixfsMeta::default()).await.expect("import");
    let mut names: Vec<Name> = (0..50).map(|number| name(&format!("other {number}"))).collect();
    // The order of a directory that was put is that of the names, and these are neighbours only by their hashes.
    names.extend(colliding(8));
    let entries = names.iter().map(|name| Ok(Entry { name: name.clone(), link: file })).collect::<Vec<_>>();
    let root = dag.put_dir(stream::iter(entries).boxed()).await.expect("put_dir");
    let ground = Ground { dag, ..Ground::new() };
    let tree = ground.open().await;
    tree.checkout(&root.cid).await.expect("checkout");
    let listed = list(&tree, tree.root(), 100).await.expect("list");
    assert_eq!(listed.len(), names.len());
    assert!(listed.windows(2).all(|pair| pair[0].cookie < pair[1].cookie), "each has a place of its own");
    for name in &names {
        let found = tree.lookup(tree.root(), name).await.expect("it is there");
        tree.release(found.ino, 1);
    }
    assert_sound(&tree, "adopted").await;
    assert_eq!(root_equals_import(&tree).await, root.cid);
}
