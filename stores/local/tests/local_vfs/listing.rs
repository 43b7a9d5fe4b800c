//! Listings: everything once, while entries come and go, and in time linear in the entries.

use std::collections::{HashMap, HashSet};

use muxfs::{
    FileKind,
    vfs::{Cookie, Listing, NewNode, RemoveKind, SetAttr, Vfs},
};

use crate::world::{World, name};

#[tokio::test]
async fn entries_that_stay_are_met_exactly_once_while_others_come_and_go() {
    let world = World::new();
    let dir = world.make(world.root(), "d", NewNode::Dir).await.ino;
    for index in 0..600 {
        std::fs::write(world.host(&format!("d/stays{index}")), "").expect("a write");
        std::fs::write(world.host(&format!("d/goes{index}")), "").expect("a write");
    }
    for listing in [Listing::Names, Listing::Attrs] {
        let mut met = HashMap::<String, u32>::new();
        let mut gone = HashSet::new();
        let mut after = Cookie::START;
        let mut round = 0;
        loop {
            let page = world.vfs.readdir(dir, after, 7, listing).await.expect("a page");
            for entry in &page.entries {
                let text = String::from_utf8(entry.name.as_bytes().to_vec()).expect("text");
                assert!(!gone.contains(&text), "{text} was removed before this page was asked for");
                *met.entry(text).or_default() += 1;
                after = entry.cookie;
                if entry.attr.is_some() {
                    world.vfs.release(entry.ino, 1);
                }
            }
            if page.eof {
                break;
            }
            let text = format!("goes{round}");
            if std::fs::remove_file(world.host(&format!("d/{text}"))).is_ok() {
                gone.insert(text);
            }
            std::fs::write(world.host(&format!("d/{listing:?}came{round}")), "").expect("a write");
            round += 1;
        }
        for index in 0..600 {
            assert_eq!(met.get(&format!("stays{index}")), Some(&1), "{listing:?} {index}");
        }
        assert!(met.values().all(|count| *count == 1));
    }
}

#[tokio::test]
async fn a_page_ends_with_eof_and_the_last_cookie_ends_there_too() {
    let world = World::new();
    let dir = world.make(world.root(), "d", NewNode::Dir).await.ino;
    let page = world.vfs.readdir(dir, Cookie::START, 5, Listing::Names).await.expect("a page");
    assert!(page.entries.is_empty() && page.eof, "no . and no ..");
    for index in 0..5 {
        world.file(dir, &format!("f{index}"), "").await;
    }
    let page = world.vfs.readdir(dir, Cookie::START, 5, Listing::Names).await.expect("a page");
    assert_eq!(page.entries.len(), 5);
    let last = page.entries[4].cookie;
    let page = world.vfs.readdir(dir, last, 5, Listing::Names).await.expect("a page");
    assert!(page.entries.is_empty() && page.eof);
    let page = world.vfs.readdir(dir, Cookie::START, 0, Listing::Names).await.expect("a page");
    assert_eq!(page.entries.len(), 1, "one at least");
    assert!(world.list(dir, 2, Listing::Names).await.iter().all(|entry| entry.cookie > Cookie::DOT_DOT));
    for index in 0..5 {
        world.remove(dir, &format!("f{index}"), RemoveKind::NonDir).await.expect("removed");
    }
    world.remove(world.root(), "d", RemoveKind::Dir).await.expect("removed");
    let page = world.vfs.readdir(dir, Cookie::START, 5, Listing::Names).await.expect("leased");
    assert!(page.entries.is_empty() && page.eof, "a removed directory is empty");
}

#[tokio::test]
async fn a_hundred_thousand_entries_are_listed_with_attributes_and_found_by_handle_after_a_restart() {
    const COUNT: usize = 100_000;
    let world = World::new();
    let dir = world.make(world.root(), "d", NewNode::Dir).await.ino;
    for index in 0..COUNT {
        std::fs::File::create(world.host(&format!("d/{index}"))).expect("a file");
    }
    let entries = world.list(dir, 1000, Listing::Attrs).await;
    let names: HashSet<_> = entries.iter().map(|entry| entry.name.clone()).collect();
    assert_eq!((entries.len(), names.len()), (COUNT, COUNT));
    assert!(entries.iter().all(|entry| entry.attr.as_ref().is_some_and(|attr| attr.ino == entry.ino)));

    // Each is found by number in its directory: were each search a scan of its own, this would not end today.
    let handles: Vec<_> = entries.iter().map(|entry| world.vfs.handle(entry.ino).expect("a handle")).collect();
    let world = world.restarted();
    for (entry, handle) in entries.iter().zip(&handles) {
        let found = world.vfs.resolve(handle).await.expect("found");
        assert_eq!((found.ino, found.kind), (entry.ino, FileKind::File));
        world.vfs.release(found.ino, 1);
    }
}

#[tokio::test]
async fn names_are_bytes() {
    let world = World::new();
    let odd = muxfs::Name::new(b"\xff\xfe not text").expect("a name");
    let long = name(&"x".repeat(255));
    for name in [&odd, &long] {
        world.vfs.create(world.root(), name, NewNode::File, SetAttr::default()).await.expect("made");
        world.vfs.lookup(world.root(), name).await.expect("found");
    }
    let names: HashSet<_> =
        world.list(world.root(), 1, Listing::Names).await.into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, HashSet::from([odd, long]));
}
