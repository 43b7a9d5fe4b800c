//! Bounds: descriptors, leases, and many callers at once.

use std::sync::Arc;

use muxfs::{
    ErrorKind,
    vfs::{NewNode, RemoveKind, Vfs},
};
use muxfs_local::LocalOptions;

use crate::world::{World, kind, name};

fn open_descriptors(world: &World) -> usize {
    let below = world.top().display().to_string();
    let links = std::fs::read_dir("/proc/self/fd").expect("/proc").flatten();
    let paths = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    paths.filter(|path| path.starts_with(&below)).count()
}

#[tokio::test]
async fn thousands_of_leased_files_keep_few_descriptors_and_all_answer() {
    let world = World::with(LocalOptions { open_file_count_max: Some(64), ..LocalOptions::default() });
    let root = world.root();
    let mut dir = root;
    let mut files = vec![];
    for depth in 0..20 {
        dir = world.make(dir, &format!("d{depth}"), NewNode::Dir).await.ino;
        for index in 0..100 {
            files.push(world.file(dir, &format!("f{index}"), "here").await.ino);
        }
    }
    // The table, the root twice, and the cached ones.
    assert!(open_descriptors(&world) <= 64 + 4, "{} open", open_descriptors(&world));
    for file in &files {
        assert_eq!(world.text(*file).await.expect("it answers"), "here");
    }
    assert!(open_descriptors(&world) <= 64 + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_one_file_follow_each_other_without_a_gap() {
    let world = Arc::new(World::new());
    let file = world.make(world.root(), "a", NewNode::File).await;
    let tasks: Vec<_> = (0..4u8)
        .map(|writer| {
            let world = world.clone();
            tokio::spawn(async move {
                let mut seen = vec![];
                for round in 0..50u64 {
                    // Short ones run on this task, long ones on another thread: the order holds between both.
                    let len = if round % 2 == 0 { 100 } else { 100_000 };
                    let changed = world.vfs.write(file.ino, 0, vec![writer; len].into(), false).await;
                    let changed = changed.expect("a write");
                    seen.push((changed.before.change, changed.after.change));
                }
                seen
            })
        })
        .collect();
    let mut seen = vec![];
    for task in tasks {
        seen.extend(task.await.expect("it ends"));
    }
    seen.sort_unstable();
    let coarse = seen.iter().any(|(before, after)| before == after);
    if coarse {
        muxfs::testing::skip("this kernel's times are coarse (before Linux 6.13)");
        return;
    }
    for pair in seen.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "what one left the next one met");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_creates_a_name_and_all_others_are_told() {
    let world = Arc::new(World::new());
    for round in 0..50 {
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let world = world.clone();
                let name = name(&format!("f{round}"));
                tokio::spawn(async move {
                    let made = world.vfs.create(world.root(), &name, NewNode::File, muxfs::vfs::SetAttr::default());
                    made.await.map(|made| made.node.ino)
                })
            })
            .collect();
        let mut made = 0;
        for task in tasks {
            match task.await.expect("it ends") {
                Ok(_) => made += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Exists),
            }
        }
        assert_eq!(made, 1);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_leases_nothing() {
    let world = World::new();
    let file = world.file(world.root(), "a", "x").await.ino;
    let handle = world.vfs.handle(file).expect("a handle");
    let world = world.restarted();
    // Polled once, so that the search runs on its thread, and dropped.
    {
        let mut resolve = Box::pin(world.vfs.resolve(&handle));
        let polled = futures_util::poll!(resolve.as_mut());
        if let std::task::Poll::Ready(found) = polled {
            world.vfs.release(found.expect("found").ino, 1);
        }
    }
    let found = world.vfs.resolve(&handle).await.expect("found");
    world.remove(world.root(), "a", RemoveKind::NonDir).await.expect("removed");
    world.vfs.release(found.ino, 1);
    // With every lease given back the file is forgotten: the dropped call's too, once its thread is done.
    let begun = std::time::Instant::now();
    while world.vfs.getattr(found.ino).await.is_ok() {
        assert!(begun.elapsed() < std::time::Duration::from_mins(1), "it is leased");
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
    assert_eq!(kind(world.vfs.getattr(found.ino).await), ErrorKind::Stale);
}
