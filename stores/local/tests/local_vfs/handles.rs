//! Handles: the same file after a restart, and never another one.

use muxfs::{
    ErrorKind,
    vfs::{Handle, NewNode, Place, RemoveKind, RenameMode, Vfs},
};

use crate::world::{World, kind, name};

#[tokio::test]
async fn handles_survive_a_restart_that_nobody_prepared_for() {
    let world = World::new();
    let root = world.vfs.handle(world.root()).expect("a handle");
    let one = world.make(world.root(), "one", NewNode::Dir).await.ino;
    let two = world.make(one, "two", NewNode::Dir).await.ino;
    let file = world.file(two, "file", "content").await.ino;
    let handle = world.vfs.handle(file).expect("a handle");
    assert_eq!(world.vfs.handle(file).expect("a handle"), handle, "the same each time");
    assert!(handle.0.len() <= 48);
    let link = world.make(two, "link", NewNode::Symlink("x".into())).await.ino;
    let link_handle = world.vfs.handle(link).expect("a handle");

    let world = world.restarted();
    assert_eq!(world.vfs.resolve(&root).await.expect("resolved").ino, world.root());
    assert_eq!(world.vfs.resolve(&link_handle).await.expect("resolved").ino, link);
    let found = world.vfs.resolve(&handle).await.expect("the directories above are found by the same rows");
    assert_eq!(world.text(found.ino).await.expect("a read"), "content");
    assert_eq!(world.vfs.handle(found.ino).expect("a handle"), handle, "the same after a restart");
    let above = world.vfs.parent(two).await.expect("its parent");
    assert_eq!(above.ino, one);
}

#[tokio::test]
async fn a_handle_follows_its_file_through_renames() {
    let world = World::new();
    let root = world.root();
    let one = world.make(root, "one", NewNode::Dir).await.ino;
    let file = world.file(root, "a", "content").await.ino;
    let handle = world.vfs.handle(file).expect("a handle");
    let (a, b) = (name("a"), name("b"));
    let to = Place { dir: one, name: &b, expect: None };
    world.vfs.rename(Place { dir: root, name: &a, expect: None }, to, RenameMode::Replace).await.expect("moved");
    let world = world.restarted();
    let found = world.vfs.resolve(&handle).await.expect("found in the other directory");
    assert_eq!(world.text(found.ino).await.expect("a read"), "content");

    // Renamed by others while nobody served it: found by its number.
    let world = world.restarted();
    std::fs::rename(world.host("one/b"), world.host("one/c")).expect("a rename");
    let found = world.vfs.resolve(&handle).await.expect("found under another name");
    assert_eq!(world.text(found.ino).await.expect("a read"), "content");

    // Moved by others into a directory that no handle was given for, and met there.
    let two = world.make(world.root(), "two", NewNode::Dir).await.ino;
    std::fs::rename(world.host("one/c"), world.host("two/c")).expect("a rename");
    let met = world.lookup(two, "c").await.expect("found").ino;
    assert_eq!(world.vfs.handle(met).expect("a handle"), handle);
    let world = world.restarted();
    let found = world.vfs.resolve(&handle).await.expect("found where it was met");
    assert_eq!(world.text(found.ino).await.expect("a read"), "content");
}

/// A file was looked for in the directory where its handle was made, after the name there went and another was left.
#[tokio::test]
async fn a_handle_leads_to_the_name_that_is_left() {
    let world = World::new();
    let root = world.root();
    let dir = world.make(root, "dir", NewNode::Dir).await.ino;
    let removed = world.file(root, "removed", "one").await.ino;
    let replaced = world.file(root, "replaced", "two").await.ino;
    let handles = [removed, replaced].map(|file| world.vfs.handle(file).expect("a handle"));
    world.vfs.link(removed, dir, &name("one")).await.expect("linked");
    world.vfs.link(replaced, dir, &name("two")).await.expect("linked");
    world.remove(root, "removed", RemoveKind::NonDir).await.expect("removed");
    world.make(root, "other", NewNode::File).await;
    let (from, to) = (name("other"), name("replaced"));
    let to = Place { dir: root, name: &to, expect: None };
    world.vfs.rename(Place { dir: root, name: &from, expect: None }, to, RenameMode::Replace).await.expect("moved");

    let world = world.restarted();
    for (handle, text) in handles.iter().zip(["one", "two"]) {
        let found = world.vfs.resolve(handle).await.expect("found by the other name");
        assert_eq!(world.text(found.ino).await.expect("a read"), text);
    }
}

/// Nothing leads from an inode to its names but what was seen of them since the start.
#[tokio::test]
async fn a_name_that_was_not_seen_is_not_known() {
    let world = World::new();
    let root = world.root();
    let dir = world.make(root, "dir", NewNode::Dir).await.ino;
    let file = world.file(root, "a", "content").await.ino;
    world.vfs.link(file, dir, &name("b")).await.expect("linked");
    let handle = world.vfs.handle(file).expect("a handle");
    world.remove(dir, "b", RemoveKind::NonDir).await.expect("removed");
    std::fs::hard_link(world.host("a"), world.host("dir/c")).expect("linked by others");
    world.remove(root, "a", RemoveKind::NonDir).await.expect("removed");

    assert_eq!(world.text(file).await.expect("leased"), "content");
    assert_eq!(kind(world.vfs.parent(file).await), ErrorKind::NotDir);
    let found = world.lookup(dir, "c").await.expect("found").ino;
    assert_eq!((found, world.vfs.handle(found).expect("a handle")), (file, handle));
    assert_eq!(world.vfs.parent(file).await.expect("known now").ino, dir);
}

#[tokio::test]
async fn a_number_used_again_is_another_file() {
    let world = World::new();
    let root = world.root();
    let mut handles: Vec<Handle> = vec![];
    let mut numbers = std::collections::HashSet::new();
    let mut used_again = 0;
    for round in 0..200 {
        let file = world.make(root, "a", NewNode::File).await.ino;
        used_again += u32::from(!numbers.insert(file));
        for handle in &handles {
            assert_eq!(kind(world.vfs.resolve(handle).await), ErrorKind::Stale, "round {round}");
        }
        handles.push(world.vfs.handle(file).expect("a handle"));
        if round % 2 == 0 {
            world.remove(root, "a", RemoveKind::NonDir).await.expect("removed");
            world.vfs.release(file, 1);
        } else {
            world.vfs.release(file, 1);
            std::fs::remove_file(world.host("a")).expect("removed by others");
        }
    }
    if used_again == 0 {
        muxfs::testing::skip("this file system does not use numbers again so soon");
    }
}

#[tokio::test]
async fn handles_of_a_lost_table_are_stale_and_bytes_that_never_were_one_are_refused() {
    let world = World::new();
    let file = world.file(world.root(), "a", "content").await.ino;
    let handle = world.vfs.handle(file).expect("a handle");
    std::fs::remove_file(world.top().join("handles")).expect("removed");
    let world = world.restarted();
    assert_eq!(kind(world.vfs.resolve(&handle).await), ErrorKind::Stale);
    let file = world.lookup(world.root(), "a").await.expect("found").ino;
    let other = world.vfs.handle(file).expect("a handle");
    assert_ne!(handle, other);

    for len in 0..handle.0.len() {
        assert_eq!(kind(world.vfs.resolve(&Handle(other.0.slice(..len))).await), ErrorKind::InvalidArgument);
    }
    for bit in 0..other.0.len() * 8 {
        let mut bytes = other.0.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let wrong = kind(world.vfs.resolve(&Handle(bytes.into())).await);
        assert!(matches!(wrong, ErrorKind::Stale | ErrorKind::InvalidArgument), "bit {bit}: {wrong:?}");
    }
}

#[tokio::test]
async fn the_rows_of_files_that_are_gone_are_dropped() {
    let world = World::new();
    let root = world.root();
    let rows = || std::fs::read(world.top().join("handles")).expect("the table");
    world.vfs.handle(root).expect("a handle");
    let one = world.file(root, "one", "").await.ino;
    let count = |table: &[u8]| table[4096..].chunks(32).filter(|row| row.iter().any(|byte| *byte != 0)).count();
    world.vfs.handle(one).expect("a handle");
    let before = count(&rows());
    world.remove(root, "one", RemoveKind::NonDir).await.expect("removed");
    assert_eq!(count(&rows()), before - 1);
}
