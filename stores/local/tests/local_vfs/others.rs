//! Changes made by others on the host show up at once.

use muxfs::{
    ErrorKind,
    vfs::{Listing, NewNode, Vfs},
};
use muxfs_local::LocalOptions;

use crate::world::{World, kind};

#[tokio::test]
async fn content_attributes_and_names_are_seen_by_the_next_call() {
    let world = World::new();
    let root = world.root();
    let a = world.file(root, "a", "old").await.ino;
    std::fs::write(world.host("a"), "newer").expect("a write");
    assert_eq!(world.vfs.getattr(a).await.expect("attributes").size, 5);
    assert_eq!(world.text(a).await.expect("a read"), "newer");
    std::fs::write(world.host("b"), "b").expect("a write");
    assert_eq!(world.list(root, 10, Listing::Names).await.len(), 2);
    let b = world.lookup(root, "b").await.expect("found").ino;
    std::fs::remove_file(world.host("b")).expect("removed");
    assert_eq!(kind(world.lookup(root, "b").await), ErrorKind::NotFound);
    assert_eq!(world.text(b).await.expect("leased"), "b", "what is leased answers");
    world.vfs.release(b, 1);
    assert_eq!(kind(world.vfs.getattr(b).await), ErrorKind::Stale);
}

#[tokio::test]
async fn a_leased_file_is_found_again_wherever_others_moved_it() {
    for options in [LocalOptions::default(), LocalOptions { open_file_count_max: Some(8), ..LocalOptions::default() }] {
        let world = World::with(options);
        let root = world.root();
        let dir = world.make(root, "d", NewNode::Dir).await.ino;
        let file = world.file(dir, "a", "content").await.ino;
        std::fs::rename(world.host("d/a"), world.host("d/b")).expect("a rename");
        std::fs::rename(world.host("d"), world.host("e")).expect("a rename");
        for index in 0..20 {
            world.file(root, &format!("f{index}"), "").await;
        }
        assert_eq!(world.text(file).await.expect("found"), "content");
        assert_eq!(world.lookup(dir, "b").await.expect("found").ino, file);
    }
}

#[tokio::test]
async fn the_parent_is_where_others_moved_it() {
    let world = World::new();
    for path in ["x/y/z", "u/v"] {
        std::fs::create_dir_all(world.host(path)).expect("directories");
    }
    let x = world.lookup(world.root(), "x").await.expect("found").ino;
    let y = world.lookup(x, "y").await.expect("found").ino;
    assert_eq!(world.vfs.parent(y).await.expect("its parent").ino, x);
    std::fs::rename(world.host("x/y"), world.host("u/v/y")).expect("a rename");
    let v = world.vfs.parent(y).await.expect("its parent");
    let u = world.vfs.parent(v.ino).await.expect("its parent");
    assert_eq!(world.lookup(world.root(), "u").await.expect("found").ino, u.ino);
    assert_eq!(world.vfs.parent(u.ino).await.expect("its parent").ino, world.root());
    assert_eq!(world.vfs.parent(world.root()).await.expect("its own").ino, world.root());
}
