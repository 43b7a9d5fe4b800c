//! Goal: a mount of repositories shows what a hub has: the flists of each user, tags, and links to them, under numbers and handles that
//! stay; and nothing that a hub would not show.
//! Method: directories as a hub keeps them, walked through and listed, by servers that met them and others; what leads elsewhere.

use std::{fs, os::unix::fs::symlink, sync::Arc};

use muxfs::{
    ErrorKind, FileKind, Name,
    vfs::{Cookie, Ino, Listing, Vfs, ext},
};

use super::{
    made::World,
    mount::{chunks_of, file, mounted, name},
};
use crate::{FlistVfs, flist_file};

/// As a hub has them: a directory for each of its users, with symlinks to the flists of others.
#[tokio::test]
async fn repositories_are_directories_of_flists() {
    let world = World::new();
    let flists = world.path("flists");
    for dir in ["alice", "bob", ".hidden"] {
        fs::create_dir(flists.join(dir)).expect("made");
    }
    world.fl("alice/a.fl", &file(b"one"), |_| {});
    world.flist("bob/a.flist", &file(b"two"), |_| {});
    world.fl("top.fl", &file(b"no"), |_| {});
    world.fl(".hidden/a.fl", &file(b"no"), |_| {});
    symlink("../alice/a.fl", flists.join("bob/other.fl")).expect("linked");
    symlink("alice", flists.join("link")).expect("linked");
    let open = async || {
        let vfs = FlistVfs::new(flists.clone(), world.path("scratch"), chunks_of(&world).await, (7, 8));
        let vfs: Arc<dyn Vfs> = Arc::new(vfs.of_repositories());
        vfs
    };
    let walk = async |vfs: &Arc<dyn Vfs>, path: &str| {
        let names: Vec<Name> = path.split('/').map(name).collect();
        ext::walk(vfs, vfs.root(), &names).await
    };
    let vfs = open().await;
    for (dir, expected) in [(None, &["alice", "bob"][..]), (Some("alice"), &["a"]), (Some("bob"), &["a", "other"])] {
        let ino = match dir {
            Some(dir) => vfs.lookup(vfs.root(), &name(dir)).await.expect("there").ino,
            None => vfs.root(),
        };
        let mut found = Vec::new();
        for listing in [Listing::Names, Listing::Attrs] {
            let (mut after, mut names) = (Cookie::START, Vec::new());
            loop {
                let page = vfs.readdir(ino, after, 1, listing).await.expect("listed");
                for entry in page.entries {
                    let attr = vfs.lookup(ino, &entry.name).await.expect("there");
                    assert_eq!((attr.ino, attr.kind), (entry.ino, FileKind::Dir));
                    assert_eq!(vfs.parent(attr.ino).await.expect("above").ino, ino);
                    after = entry.cookie;
                    names.push(entry.name.to_string());
                }
                if page.eof {
                    break;
                }
            }
            names.sort();
            found.push(names);
        }
        assert_eq!(found, [expected, expected]);
    }
    for absent in ["top", "link", ".hidden", "carol", "alice/other"] {
        let error = walk(&vfs, absent).await.expect_err("not shown");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{absent}");
    }
    let mut all = Vec::new();
    for (path, data) in [("alice/a/file", "one"), ("bob/a/file", "two"), ("bob/other/file", "one")] {
        let (lease, attr) = walk(&vfs, path).await.expect("there");
        assert_eq!(vfs.read(attr.ino, 0, 10).await.expect("read"), data, "{path}");
        all.push((vfs.handle(lease.ino()).expect("told"), attr.ino, Some(data)));
    }
    for path in ["alice", "bob", "bob/other"] {
        let (lease, attr) = walk(&vfs, path).await.expect("there");
        all.push((vfs.handle(lease.ino()).expect("told"), attr.ino, None));
    }
    let numbers: std::collections::HashSet<_> = all.iter().map(|(_, ino, _)| *ino).collect();
    assert_eq!(numbers.len(), all.len(), "each has a number of its own");
    // Over a restart, by a server that never met them.
    for (handle, ino, data) in &all {
        let vfs = open().await;
        let attr = vfs.resolve(handle).await.expect("it is found");
        assert_eq!((attr.ino, vfs.handle(attr.ino).expect("told")), (*ino, handle.clone()));
        if let Some(data) = data {
            assert_eq!(vfs.read(attr.ino, 0, 10).await.expect("read"), *data);
        }
    }
    fs::rename(flists.join("alice"), flists.join("carol")).expect("renamed");
    for (handle, ino, _) in [&all[0], &all[3]] {
        assert_eq!(open().await.resolve(handle).await.expect_err("it is gone").kind(), ErrorKind::Stale);
        if *ino == all[3].1 {
            assert_eq!(vfs.getattr(*ino).await.expect_err("it is gone").kind(), ErrorKind::Stale);
        }
    }
    // One that is a plain directory of flists knows none of these.
    let plain: Arc<dyn Vfs> = mounted(&world).await;
    assert_eq!(walk(&plain, "top/file").await.expect("there").1.size, 2);
    for (handle, ..) in &all {
        assert_eq!(plain.resolve(handle).await.expect_err("of another").kind(), ErrorKind::Stale);
    }
}

async fn open(world: &World) -> Arc<dyn Vfs> {
    let vfs = FlistVfs::new(world.path("flists"), world.path("scratch"), chunks_of(world).await, (7, 8));
    Arc::new(vfs.of_repositories())
}

/// What is below a directory that is a repository, or in one: its path, number and handle.
async fn walk_all(vfs: &Arc<dyn Vfs>, dir: Ino, path: &str, depth: usize, found: &mut Vec<(String, Ino)>) {
    if depth == 0 {
        return;
    }
    let mut after = Cookie::START;
    loop {
        let page = vfs.readdir(dir, after, 1, Listing::Attrs).await.expect("listed");
        for entry in page.entries {
            let path = format!("{path}/{}", entry.name);
            let attr = vfs.lookup(dir, &entry.name).await.expect(&path);
            assert_eq!((attr.ino, attr.kind == FileKind::Dir), (entry.ino, !path.ends_with("/file")), "{path}");
            if attr.kind == FileKind::Dir {
                assert_eq!(vfs.parent(attr.ino).await.expect("above").ino, dir, "{path}");
                Box::pin(walk_all(vfs, attr.ino, &path, depth - 1, found)).await;
            }
            found.push((path, attr.ino));
            after = entry.cookie;
        }
        if page.eof {
            break;
        }
    }
}

/// As a hub has them at `/REPO/tags/TAG/FLIST`, and a link to a tag as a directory of what that has.
#[tokio::test]
async fn tags_are_directories_of_flists() {
    let world = World::new();
    let flists = world.path("flists");
    for dir in ["alice", "bob/.tag-v1", "bob/.tag-v2", "carol", "elsewhere.d"] {
        fs::create_dir_all(flists.join(dir)).expect("made");
    }
    world.fl("alice/app.fl", &file(b"one"), |_| {});
    world.fl("bob/tags.fl", &file(b"called so"), |_| {});
    world.flist("carol/stable.flist", &file(b"its own"), |_| {});
    fs::write(world.path("outside.fl"), fs::read(flists.join("alice/app.fl")).expect("read")).expect("written");
    for (target, link) in [
        ("../../alice/app.fl", "bob/.tag-v1/app.fl"),
        ("../../carol/stable.flist", "bob/.tag-v1/other.flist"),
        ("../bob/.tag-v1", "carol/stable"),
        // What a hub does not show.
        ("../../../outside.fl", "bob/.tag-v2/outside.fl"),
        ("../../outside.fl", "alice/outside.fl"),
        ("../bob/.tag-v3", "carol/nowhere"),
        ("../bob/../bob/.tag-v1", "carol/roundabout"),
        ("../bob", "carol/bob"),
        ("../bob/.tag-v1", "carol/tags"),
    ] {
        symlink(target, flists.join(link)).expect("linked");
    }
    let vfs = open(&world).await;
    let mut found = Vec::new();
    walk_all(&vfs, vfs.root(), "", 5, &mut found).await;
    let mut paths: Vec<&str> = found.iter().map(|(path, _)| &**path).collect();
    paths.sort_unstable();
    let expected = [
        "/alice",
        "/alice/app",
        "/alice/app/file",
        "/bob",
        "/bob/tags",
        "/bob/tags.fl",
        "/bob/tags.fl/file",
        "/bob/tags/v1",
        "/bob/tags/v1/app",
        "/bob/tags/v1/app/file",
        "/bob/tags/v1/other",
        "/bob/tags/v1/other/file",
        "/bob/tags/v2",
        "/carol",
        "/carol/stable",
        "/carol/stable.flist",
        "/carol/stable.flist/file",
        "/carol/stable/app",
        "/carol/stable/app/file",
        "/carol/stable/other",
        "/carol/stable/other/file",
        "/elsewhere.d",
    ];
    assert_eq!(paths, expected);
    let numbers: std::collections::HashSet<_> = found.iter().map(|(_, ino)| *ino).collect();
    assert_eq!(numbers.len(), found.len(), "each has a number of its own");
    // Over a restart, by a server that never met them.
    for (path, ino) in &found {
        let handle = vfs.handle(*ino).expect("told");
        let again = open(&world).await;
        let attr = again.resolve(&handle).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
        assert_eq!((attr.ino, again.handle(attr.ino).expect("told")), (*ino, handle), "{path}");
        if path.ends_with("/file") {
            let expected = match &path[..path.len() - 5] {
                "/bob/tags.fl" => "called so",
                "/carol/stable.flist" | "/bob/tags/v1/other" | "/carol/stable/other" => "its own",
                _ => "one",
            };
            assert_eq!(again.read(attr.ino, 0, 100).await.expect("read"), expected, "{path}");
        }
    }
    for absent in
        ["alice/tags", "bob/.tag-v1", "bob/tags/v3", "bob/tags/app", "bob/v1", "carol/nowhere", "carol/tags/app"]
    {
        let names: Vec<Name> = absent.split('/').map(name).collect();
        let error = ext::walk(&vfs, vfs.root(), &names).await.expect_err("not shown");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{absent}");
    }
    let at = |path: &str| flist_file(&flists, &path.split('/').map(name).collect::<Vec<_>>()).expect("looked up");
    assert_eq!(at("bob/tags/v1/app"), Some(flists.join("bob/.tag-v1/app.fl")));
    assert_eq!((at("bob/tags"), at("bob/tags/v1")), (None, None));
    // A tag that goes takes its directory along, for the link too; a server that has met them says so.
    let held: Vec<_> = found.iter().filter(|(path, _)| matches!(&**path, "/bob/tags/v1" | "/carol/stable")).collect();
    fs::rename(flists.join("bob/.tag-v1"), flists.join("bob/.tag-v9")).expect("renamed");
    for (path, ino) in held {
        assert_eq!(vfs.getattr(*ino).await.expect_err("it is gone").kind(), ErrorKind::Stale, "{path}");
        let error = open(&world).await.resolve(&vfs.handle(*ino).expect("told")).await.expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::Stale, "{path}");
    }
}
