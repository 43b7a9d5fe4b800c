//! Disks that are full: what can be done then, and that it mends.

use std::sync::Arc;

use super::{super::TreeOptions, Ground, assert_sound, crash::describe, make, name, options, root_equals_import};
use crate::{
    ErrorKind,
    block::{Mem, MemOptions},
    dag::{Dag, DagOptions, GcOptions, Params, Profile},
    heads::MemHeads,
    media::{MemLimit, MemMedia},
    tree::{Retention, Tree},
    vfs::{FsStat, NewNode, Place, RemoveKind, SetAttr, Vfs},
};

/// What a limit leaves.
fn room_of(limit: Arc<MemLimit>) -> super::super::Room {
    Arc::new(move || {
        let (bytes_total, used) = (limit.len_max() as u64, limit.used_len() as u64);
        FsStat { bytes_total, bytes_free: bytes_total.saturating_sub(used), inodes_total: 0, inodes_free: 0 }
    })
}

/// A journal without room fails to sync, and is not the worse for it: reading goes on, and so do small changes; when there
/// is room again, all of it is made durable.
#[tokio::test]
async fn a_journal_that_is_full_is_not_poisoned() {
    let limit = Arc::new(MemLimit::new(100_000));
    let Ground { dag, heads, .. } = Ground::new();
    let journal = Arc::new(MemMedia::within(limit.clone()));
    let tree = Tree::open(dag.clone(), journal.clone(), heads.clone(), options()).await.expect("open");
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.sync(file.ino()).await.expect("sync");
    let ballast = 100_000 - limit.used_len();
    limit.take(ballast, "another program").expect("what is left");
    tree.write(file.ino(), 0, "visible".into(), false).await.expect("there is room in memory");
    for _ in 0..3 {
        assert_eq!(tree.sync(file.ino()).await.expect_err("not on the disk").kind(), ErrorKind::NoSpace);
        assert_eq!(tree.commit("").await.expect_err("nor for a commit").kind(), ErrorKind::NoSpace);
    }
    assert_eq!(tree.read(file.ino(), 0, 100).await.expect("read"), "visible");
    tree.write(file.ino(), 7, " and more".into(), false).await.expect("write");
    let seen = describe(&tree).await.expect("described");
    limit.give(ballast);
    tree.sync(file.ino()).await.expect("there is room again");
    drop((file, tree));
    let tree = Tree::open(dag, journal, heads, options()).await.expect("open");
    assert_eq!(describe(&tree).await.expect("described"), seen);
    root_equals_import(&tree).await;
}

/// A disk was filled to the last byte, and then nothing could be removed: the record of it, and the commit that gives room
/// back, need some themselves. The journal of `/mem` did not count at all.
#[tokio::test]
async fn what_is_full_can_be_emptied() {
    let nothing = std::time::Duration::ZERO;
    let retention = Retention { all: nothing, hourly: nothing, daily: nothing };
    for write_len in [1000, 70_000] {
        let mem = Arc::new(Mem::new(MemOptions { len_max: 8 << 20 }));
        let limit = mem.limit();
        let params = Params { chunk_len: 65_536, ..Profile::default().params() };
        let dag = Dag::new(mem, DagOptions { params, ..DagOptions::default() });
        let journal = Arc::new(MemMedia::within(limit.clone()));
        let options = TreeOptions { room: room_of(limit.clone()), retention: retention.clone(), ..options() };
        let tree = Tree::open(dag, journal, Arc::new(MemHeads::default()), options).await.expect("open");
        let root = tree.root();
        let mut dice = crate::testing::fault::Dice::new(7);
        let mut names = Vec::new();
        let error = loop {
            let text = format!("file {}", names.len());
            let made = match tree.create(root, &name(&text), NewNode::File, SetAttr::default()).await {
                Ok(made) => made.node.ino,
                Err(error) => break error,
            };
            names.push(name(&text));
            let written = tree.write(made, 0, dice.bytes(write_len).into(), false).await;
            tree.release(made, 1);
            if let Err(error) = written {
                break error;
            }
            tree.sync(root).await.expect("what was taken can be made durable");
        };
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:#}");
        assert!(limit.used_len() > 3 << 20, "{} of 8 MiB", limit.used_len());
        let cut = tree.lookup(root, &names[0]).await.expect("lookup").ino;
        tree.setattr(cut, SetAttr { size: Some(0), ..SetAttr::default() }).await.expect("cutting off works");
        tree.release(cut, 1);
        // As a server does: what was removed is committed and collected from time to time.
        for names in names[1..].chunks(200) {
            for name in names {
                tree.remove(Place { dir: root, name, expect: None }, RemoveKind::NonDir).await.expect("removing works");
            }
            tree.sync(root).await.expect("and is durable");
            tree.commit("").await.expect("a commit fits");
            let options = GcOptions::new(&crate::testing::env());
            tree.dag().collect_garbage(|| tree.gc_roots(), &options).await.expect("it collects");
        }
        assert!(limit.used_len() < 1 << 20, "{} bytes are left", limit.used_len());
        let again = make(&tree, root, "again", NewNode::File).await;
        tree.write(again.ino(), 0, dice.bytes(write_len).into(), false).await.expect("there is room");
        assert_sound(&tree, "emptied").await;
        root_equals_import(&tree).await;
    }
}

/// What was frozen and did not fit was tried again and again as it was, and what had been removed since, and would have
/// made it fit, had to wait for it: no commit was possible any more.
#[tokio::test]
async fn what_does_not_fit_is_committed_when_enough_of_it_is_removed() {
    for reopened in [false, true] {
        let mem = Arc::new(Mem::new(MemOptions { len_max: 1 << 20 }));
        let ground = Ground { dag: Dag::new(mem, DagOptions::default()), ..Ground::new() };
        let mut tree = ground.open().await;
        let mut dice = crate::testing::fault::Dice::new(7);
        let names: Vec<_> = (0..40).map(|number| name(&format!("file {number}"))).collect();
        for name in &names {
            let made =
                tree.create(tree.root(), name, NewNode::File, SetAttr::default()).await.expect("create").node.ino;
            tree.write(made, 0, dice.bytes(50_000).into(), false).await.expect("write");
            tree.release(made, 1);
        }
        let (kept, gone) = names.split_at(10);
        assert_eq!(tree.commit("too much").await.expect_err("it does not fit").kind(), ErrorKind::NoSpace);
        let cut = tree.lookup(tree.root(), &kept[0]).await.expect("lookup").ino;
        tree.write(cut, 100, "overwritten".into(), false).await.expect("write");
        tree.setattr(cut, SetAttr { size: Some(1000), ..SetAttr::default() }).await.expect("cut off");
        tree.release(cut, 1);
        assert_eq!(tree.commit("").await.expect_err("it does not fit yet").kind(), ErrorKind::NoSpace);
        for name in gone {
            tree.remove(Place { dir: tree.root(), name, expect: None }, RemoveKind::NonDir).await.expect("remove");
        }
        tree.sync(tree.root()).await.expect("sync");
        let seen = describe(&tree).await.expect("described");
        if reopened {
            drop(tree);
            tree = ground.open().await;
            assert_eq!(describe(&tree).await.expect("described"), seen);
            // What is frozen is tried as it is before anybody knows that it does not fit.
            assert_eq!(tree.commit("").await.expect_err("not known").kind(), ErrorKind::NoSpace);
        }
        let collect = GcOptions::new(&crate::testing::env());
        tree.dag().collect_garbage(|| tree.gc_roots(), &collect).await.expect("what failed commits left goes");
        tree.commit("").await.expect("what is left fits");
        assert_eq!(describe(&tree).await.expect("described"), seen);
        assert_sound(&tree, "committed").await;
        root_equals_import(&tree).await;
        drop(tree);
        assert_eq!(describe(&ground.open().await).await.expect("described"), seen);
    }
}
