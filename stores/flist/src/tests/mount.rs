//! Goal: `/flist` is a file system like any other that is read.
//! Method: the laws of reading over flists of both formats; and what is particular: several flists, replaced ones, handles
//! over a restart, bad ones beside good ones.

use std::{fs, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use muxfs::{
    BlockKey, BlockStore as _, ErrorKind, FileKind, Name, SecretKey,
    block::Mem,
    ipns::NameKey,
    testing::{
        fault::Dice,
        vfs::{SpecimenNode, specimen},
    },
    vfs::{Cookie, Lease, Listing, Vfs, ext, narrow::subtree},
};

use super::made::{What, World};
use crate::{
    Chunks, ChunksOptions, FlistVfs, KeptFlists, Profiles, Signers, has_kept, kept_file, node_of_handle, sign,
    signature_path,
};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

async fn mounted(world: &World) -> Arc<FlistVfs> {
    mounted_with(world, Profiles::default()).await
}

async fn chunks_of(world: &World) -> Arc<Chunks> {
    let source = format!("dir://{}", world.path("chunks").display()).parse().expect("an address");
    let options = ChunksOptions { sources: vec![source], ..ChunksOptions::default() };
    Arc::new(Chunks::open(options).await.expect("opens"))
}

async fn mounted_with(world: &World, profiles: Profiles) -> Arc<FlistVfs> {
    let vfs = FlistVfs::new(world.path("flists"), world.path("scratch"), chunks_of(world).await, (7, 8));
    Arc::new(vfs.with_profiles(profiles))
}

fn specimen_nodes() -> Vec<(String, What)> {
    let what = |node| match node {
        SpecimenNode::Dir => What::Dir,
        SpecimenNode::File(data) => What::File(data.to_vec()),
        SpecimenNode::Symlink(target) => What::Symlink(target.to_vec()),
    };
    specimen().into_iter().map(|(path, node)| (path, what(node))).collect()
}

/// The specimen as an flist, seen from its root.
async fn specimen_of(make: fn(&World)) -> (Arc<dyn Vfs>, World) {
    let world = World::new();
    make(&world);
    let vfs: Arc<dyn Vfs> = mounted(&world).await;
    let root = vfs.lookup(vfs.root(), &name("x")).await.expect("the flist");
    let lease = Lease::adopt(vfs.clone(), root.ino);
    (subtree(vfs, lease), world)
}

muxfs::vfs_read_laws!(laws_of_flist, specimen_of(|world| world.flist("x.flist", &specimen_nodes(), |_| {})));
muxfs::vfs_read_laws!(laws_of_fl, specimen_of(|world| world.fl("x.fl", &specimen_nodes(), |_| {})));

fn file(data: &[u8]) -> Vec<(String, What)> {
    vec![("file".into(), What::File(data.to_vec()))]
}

async fn read(vfs: &Arc<dyn Vfs>, flist: &str) -> muxfs::Result<Vec<u8>> {
    let (lease, _) = ext::walk(vfs, vfs.root(), &[name(flist), name("file")]).await?;
    Ok(ext::read_to_end(&**vfs, lease.ino(), 1 << 20).await?.to_vec())
}

#[tokio::test]
async fn flists_stand_side_by_side_and_a_bad_one_hides_no_other() {
    let world = World::new();
    world.fl("a.fl", &file(b"one"), |_| {});
    world.flist("b.flist", &file(b"two"), |_| {});
    fs::write(world.path("flists").join("bad.fl"), "no flist").expect("written");
    let vfs: Arc<dyn Vfs> = mounted(&world).await;
    let page = vfs.readdir(vfs.root(), Cookie::START, 100, Listing::Attrs).await.expect("listed");
    let mut names: Vec<_> = page.entries.iter().map(|entry| (entry.name.to_string(), entry.attr.is_some())).collect();
    names.sort();
    assert_eq!(names, [("a".into(), true), ("b".into(), true), ("bad".into(), false)]);
    for entry in &page.entries {
        match vfs.lookup(vfs.root(), &entry.name).await {
            Ok(attr) => assert_eq!((attr.ino, attr.kind, attr.uid), (entry.ino, FileKind::Dir, 7)),
            Err(error) => assert!(error.kind() == ErrorKind::Corrupt && format!("{error:#}").contains("bad.fl")),
        }
    }
    assert_eq!(read(&vfs, "a").await.expect("read"), b"one");
    assert_eq!(read(&vfs, "b").await.expect("read"), b"two");
    let absent = vfs.lookup(vfs.root(), &name("c")).await.expect_err("none");
    assert_eq!(absent.kind(), ErrorKind::NotFound);
}

/// To open one may take as long as it takes to unpack: a page of a directory of thousands is there all the same.
#[tokio::test]
async fn a_page_opens_some_flists_and_the_next_one_goes_on() {
    let world = World::new();
    world.fl("0.fl", &file(b"x"), |_| {});
    let first = world.path("flists").join("0.fl");
    for number in 1..100 {
        fs::copy(&first, world.path("flists").join(format!("{number}.fl"))).expect("copied");
    }
    let vfs: Arc<dyn Vfs> = mounted(&world).await;
    let names = vfs.readdir(vfs.root(), Cookie::START, 1000, Listing::Names).await.expect("listed");
    assert_eq!((names.entries.len(), names.eof), (100, true), "names are told at once");
    let (mut listed, mut after, mut lens) = (Vec::new(), Cookie::START, Vec::new());
    loop {
        let page = vfs.readdir(vfs.root(), after, 1000, Listing::Attrs).await.expect("listed");
        lens.push(page.entries.len());
        after = page.entries.last().expect("never empty").cookie;
        for entry in page.entries {
            let attr = entry.attr.expect("opened");
            vfs.release(attr.ino, 1);
            listed.push((entry.name, attr.ino));
        }
        if page.eof {
            break;
        }
    }
    assert_eq!(lens, [32, 32, 32, 4]);
    let expected: Vec<_> = names.entries.into_iter().map(|entry| (entry.name, entry.ino)).collect();
    assert_eq!(listed, expected, "all of them, in order, with the numbers that were told before");
}

/// Who starts a program reads it in any order, a page after the other, each of which would be waited for.
#[tokio::test]
async fn a_program_comes_whole_when_its_beginning_is_read() {
    let world = World::new();
    let mut dice = Dice::new(5);
    let mut node = |name: &str, first: &[u8]| {
        let data = [first, &dice.bytes(4 * (512 << 10))].concat();
        (name.to_owned(), What::File(data))
    };
    world.fl("a.fl", &[node("script", b"#!/bin/sh"), node("program", b"\x7fELF")], |_| {});
    let kept = Arc::new(Mem::default());
    let source = format!("dir://{}", world.path("chunks").display()).parse().expect("an address");
    let options = ChunksOptions { sources: vec![source], kept: Some((kept.clone(), 1 << 30)), follow: false };
    let chunks = Arc::new(Chunks::open(options).await.expect("opens"));
    let vfs: Arc<dyn Vfs> = Arc::new(FlistVfs::new(world.path("flists"), world.path("scratch"), chunks, (7, 8)));
    let read = async |file: &str, offset| {
        let (node, _) = ext::walk(&vfs, vfs.root(), &[name("a"), name(file)]).await.expect("there");
        vfs.read(node.ino(), offset, 100).await.expect("read");
    };
    read("script", 0).await;
    // Not its beginning.
    read("program", 9).await;
    assert_eq!(kept.keys().count().await, 2, "what was read");
    read("program", 0).await;
    while kept.keys().count().await < 6 {
        tokio::task::yield_now().await;
    }
    let flist = world.open("a.fl").expect("opens");
    let root = flist.dir(&flist.root().expect("a root")).expect("read");
    let program = root.find(&name("program")).expect("there").1.inode.id;
    for chunk in flist.chunks(program, 0, 10).expect("told").1 {
        assert!(kept.has(&BlockKey::new(chunk.id()).expect("short")).await.expect("told"), "of nothing else");
    }
}

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
    std::os::unix::fs::symlink("../alice/a.fl", flists.join("bob/other.fl")).expect("linked");
    std::os::unix::fs::symlink("alice", flists.join("link")).expect("linked");
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

/// Something that lies over an flist holds handles of it over restarts, whatever becomes of the file.
#[tokio::test]
async fn a_kept_flist_is_found_by_its_handles_when_it_is_replaced_or_gone() {
    for format in ["fl", "flist"] {
        let (world, file_name) = (World::new(), format!("a.{format}"));
        let path = world.path("flists").join(&file_name);
        let make = |data: &[u8]| {
            match format {
                "fl" => world.fl("new.part", &file(data), |_| {}),
                _ => world.flist("new.part", &file(data), |_| {}),
            }
            fs::rename(world.path("flists").join("new.part"), &path).expect("renamed");
        };
        make(b"old");
        let kept = world.path("kept");
        let open = async || {
            let vfs: Arc<dyn Vfs> = Arc::new(KeptFlists::new(mounted(&world).await, kept.clone()));
            vfs
        };
        let vfs = open().await;
        assert!(!has_kept(&kept));
        let (root, _) = ext::walk(&vfs, vfs.root(), &[name("a")]).await.expect("there");
        assert!(!has_kept(&kept), "who looks names up lies over nothing");
        vfs.getattr(root.ino()).await.expect("known");
        assert!(has_kept(&kept));
        let (node, _) = ext::walk(&vfs, root.ino(), &[name("file")]).await.expect("there");
        let handles = [root.ino(), node.ino()].map(|ino| vfs.handle(ino).expect("told"));
        let (id, _) = node_of_handle(&handles[1]).expect("its own").expect("a node");
        drop((root, node));
        let before = fs::read(&path).expect("there");
        assert_eq!(fs::read(kept_file(&kept, id).expect("kept")).expect("there"), before);
        for what in ["it is there", "it was replaced", "it is gone"] {
            match what {
                "it was replaced" => make(b"another"),
                "it is gone" => fs::remove_file(&path).expect("removed"),
                _ => {}
            }
            let vfs = open().await;
            for handle in &handles {
                let attr = vfs.resolve(handle).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
                assert_eq!(vfs.handle(attr.ino).expect("told"), *handle, "{what}");
                if attr.kind == FileKind::File {
                    assert_eq!(vfs.read(attr.ino, 0, 100).await.expect("read"), "old", "{what}");
                }
                vfs.release(attr.ino, 1);
            }
            let now = vfs.lookup(vfs.root(), &name("a")).await;
            assert_eq!(now.is_ok(), what != "it is gone", "what is kept is not shown");
        }
        // Other bytes under its name are not it.
        let copy = kept_file(&kept, id).expect("kept");
        make(b"another");
        fs::copy(&path, copy).expect("copied");
        let error = open().await.resolve(&handles[1]).await.expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::Stale);
    }
}

/// What was held of the old one answers as before; who looks the name up finds the new one.
#[tokio::test]
async fn a_replaced_flist_is_another() {
    let world = World::new();
    world.fl("a.fl", &file(b"old"), |_| {});
    let vfs: Arc<dyn Vfs> = mounted(&world).await;
    let (old, _) = ext::walk(&vfs, vfs.root(), &[name("a"), name("file")]).await.expect("found");
    let handle = vfs.handle(old.ino()).expect("a handle");
    world.fl("b.fl", &file(b"new one"), |_| {});
    fs::rename(world.path("flists").join("b.fl"), world.path("flists").join("a.fl")).expect("renamed");
    assert_eq!(read(&vfs, "a").await.expect("read"), b"new one");
    assert_eq!(vfs.read(old.ino(), 0, 100).await.expect("read"), "old");
    let again = vfs.resolve(&handle).await.expect("it is held");
    assert_eq!(again.ino, old.ino());
    vfs.release(again.ino, 1);
    drop(old);
    let vfs: Arc<dyn Vfs> = mounted(&world).await;
    let error = vfs.resolve(&handle).await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::Stale);
}

/// Also by a handle from before, and whatever was found of it before its signature came or went.
#[tokio::test]
async fn where_signatures_count_nothing_of_an_flist_is_shown_without_one() {
    let world = World::new();
    world.fl("a.fl", &file(b"one"), |_| {});
    let plain: Arc<dyn Vfs> = mounted(&world).await;
    let (node, _) = ext::walk(&plain, plain.root(), &[name("a"), name("file")]).await.expect("found");
    let handle = plain.handle(node.ino()).expect("a handle");
    let key = NameKey::of_seed(SecretKey::new([1; 32]));
    let signers = Signers::new(vec![key.name().clone()]).expect("it signs");
    let chunks = format!("dir://{}", world.path("chunks").display()).parse().expect("an address");
    let chunks = ChunksOptions { sources: vec![chunks], ..ChunksOptions::default() };
    let chunks = Arc::new(Chunks::open(chunks).await.expect("opens"));
    let vfs = FlistVfs::new(world.path("flists"), world.path("scratch"), chunks, (7, 8)).signed_by(signers);
    let vfs: Arc<dyn Vfs> = Arc::new(vfs);
    let refused = |error: muxfs::Error| {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        format!("{error:#}")
    };
    assert!(refused(read(&vfs, "a").await.expect_err("unsigned")).contains("not signed"));
    assert!(refused(vfs.resolve(&handle).await.expect_err("unsigned")).contains("not signed"));
    let path = world.path("flists").join("a.fl");
    fs::write(signature_path(&path), sign(&path, &key).expect("signed")).expect("written");
    assert_eq!(read(&vfs, "a").await.expect("signed"), b"one");
    world.fl("b.fl", &file(b"other"), |_| {});
    fs::rename(world.path("flists").join("b.fl"), &path).expect("renamed");
    assert!(refused(read(&vfs, "a").await.expect_err("another")).contains("was changed"));
    fs::remove_file(signature_path(&path)).expect("removed");
    assert!(refused(read(&vfs, "a").await.expect_err("unsigned")).contains("not signed"));
    let page = vfs.readdir(vfs.root(), Cookie::START, 100, Listing::Names).await.expect("listed");
    assert_eq!(page.entries.len(), 1, "the signature is no flist");
}

/// A byte of a file of the flist `a`.
async fn byte(vfs: &Arc<dyn Vfs>, file: &str, at: u64) -> muxfs::Result<u8> {
    let (lease, _) = ext::walk(vfs, vfs.root(), &[name("a"), name(file)]).await?;
    vfs.read(lease.ino(), at, 1).await.map(|read| read[0])
}

/// Of both formats: what was read of two files, out of order, is there before anybody asks for it the next time, and nothing else
/// is. A profile that is damaged, or of the flist that was there before, is none.
#[tokio::test(start_paused = true)]
async fn what_a_start_touched_is_fetched_when_it_is_opened_the_next_time() {
    let long: Vec<u8> = (0..3_000_000u32).map(|at| at.to_le_bytes()[1] ^ at.to_le_bytes()[2]).collect();
    let nodes = [("long".to_owned(), What::File(long.clone())), ("short".to_owned(), What::File(b"short".to_vec()))];
    for is_fl in [true, false] {
        let world = World::new();
        if is_fl {
            world.fl("a.fl", &nodes, |_| {});
        } else {
            world.flist("a.flist", &nodes, |_| {});
        }
        let profile = world.path("flists").join(if is_fl { "a.fl.profile" } else { "a.flist.profile" });
        let touched = [("long", 2_700_000), ("short", 0), ("long", 600_000)];
        {
            let vfs: Arc<dyn Vfs> = mounted_with(&world, Profiles::Record).await;
            for (file, at) in touched {
                byte(&vfs, file, at).await.expect("read");
            }
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        let text = fs::read_to_string(&profile).expect("written");
        assert_eq!(text.lines().count(), 5, "{text}");
        let replayed = async || {
            let vfs: Arc<dyn Vfs> = mounted(&world).await;
            drop(ext::walk(&vfs, vfs.root(), &[name("a")]).await.expect("opened"));
            // On a clock that moves when all is done.
            tokio::time::sleep(Duration::from_secs(1)).await;
            vfs
        };
        let vfs = replayed().await;
        let hidden = world.path("hidden");
        fs::rename(world.path("chunks"), &hidden).expect("moved");
        for (file, at) in touched {
            let expected = if file == "long" { long[usize::try_from(at).expect("short")] } else { b's' };
            assert_eq!(byte(&vfs, file, at).await.expect("it is there"), expected);
        }
        byte(&vfs, "long", 0).await.expect_err("that was not touched");
        fs::rename(&hidden, world.path("chunks")).expect("moved back");
        for bad in [text.replacen('0', "1", 1), text[1..].to_owned(), String::new()] {
            fs::write(&profile, bad).expect("written");
            let vfs = replayed().await;
            fs::rename(world.path("chunks"), &hidden).expect("moved");
            byte(&vfs, "short", 0).await.expect_err("nothing was fetched");
            fs::rename(&hidden, world.path("chunks")).expect("moved back");
            assert_eq!(byte(&vfs, "short", 0).await.expect("read as ever"), b's');
        }
        let page = vfs.readdir(vfs.root(), Cookie::START, 100, Listing::Names).await.expect("listed");
        assert_eq!(page.entries.len(), 1, "a profile is no flist");
    }
}

#[tokio::test]
async fn handles_and_numbers_are_good_after_a_restart() {
    let world = World::new();
    let nodes = [("d".to_owned(), What::Dir), ("d/file".to_owned(), What::File(b"x".to_vec()))];
    world.fl("a.fl", &nodes, |_| {});
    world.flist("b.flist", &nodes, |_| {});
    let vfs: Arc<dyn Vfs> = mounted(&world).await;
    for flist in ["a", "b"] {
        let (node, attr) = ext::walk(&vfs, vfs.root(), &[name(flist), name("d"), name("file")]).await.expect("found");
        let handle = vfs.handle(node.ino()).expect("a handle");
        let again: Arc<dyn Vfs> = mounted(&world).await;
        let found = again.resolve(&handle).await.expect("found again");
        assert_eq!((found.ino, found.size), (attr.ino, 1));
        let above = again.parent(found.ino).await.expect("a directory");
        let (dir, _) = ext::walk(&vfs, vfs.root(), &[name(flist), name("d")]).await.expect("found");
        assert_eq!(above.ino, dir.ino());
        let root = again.parent(above.ino).await.expect("the flist");
        assert_eq!(root.ino, vfs.lookup(vfs.root(), &name(flist)).await.expect("found").ino);
        assert_eq!(again.parent(root.ino).await.expect("the mount").ino, again.root());
    }
}

/// A file that comes beside an flist changes what that is called, and nothing of it: a handle leads to it still, whichever it
/// was called when the handle was made.
#[tokio::test]
async fn handles_are_good_when_another_file_comes_beside_it_and_goes() {
    let world = World::new();
    world.fl("a.fl", &file(b"one"), |_| {});
    let handle = async |named: &str| {
        let vfs: Arc<dyn Vfs> = mounted(&world).await;
        let (node, _) = ext::walk(&vfs, vfs.root(), &[name(named), name("file")]).await.expect("found");
        vfs.handle(node.ino()).expect("a handle")
    };
    let alone = handle("a").await;
    world.flist("a.flist", &file(b"another"), |_| {});
    let [beside, other] = [handle("a.fl").await, handle("a.flist").await];
    let finds = async |handle| {
        let vfs: Arc<dyn Vfs> = mounted(&world).await;
        let attr = vfs.resolve(handle).await?;
        let bytes = vfs.read(attr.ino, 0, 100).await;
        vfs.release(attr.ino, 1);
        bytes
    };
    for handle in [&alone, &beside] {
        assert_eq!(finds(handle).await.expect("it is there"), "one");
    }
    fs::remove_file(world.path("flists").join("a.flist")).expect("removed");
    for handle in [&alone, &beside] {
        assert_eq!(finds(handle).await.expect("it is there"), "one");
    }
    assert_eq!(finds(&other).await.expect_err("it is gone").kind(), ErrorKind::Stale);
    // One that cannot be opened hides no other.
    fs::write(world.path("flists").join("a.flist"), b"no flist").expect("written");
    assert_eq!(finds(&alone).await.expect("it is there"), "one");
    fs::remove_file(world.path("flists").join("a.fl")).expect("removed");
    finds(&alone).await.expect_err("it is gone, and the other is none");
}

/// A file whose chunks are fewer than its length wants, or other ones.
#[tokio::test]
async fn files_that_are_not_whole_are_an_error_and_never_other_bytes() {
    let data = vec![5; 1_200_000];
    for (sql, kind) in [
        ("DELETE FROM block WHERE rowid = 3", ErrorKind::Corrupt),
        ("UPDATE inode SET size = size + 1 WHERE ino = 2", ErrorKind::Corrupt),
        ("UPDATE inode SET size = 9223372036854775807 WHERE ino = 2", ErrorKind::Corrupt),
        ("UPDATE block SET key = randomblob(32) WHERE rowid = 3", ErrorKind::Corrupt),
        ("UPDATE block SET id = randomblob(32) WHERE rowid = 3", ErrorKind::Io),
    ] {
        let world = World::new();
        world.fl("a.fl", &file(&data), |database| database.execute_batch(sql).expect(sql));
        let vfs: Arc<dyn Vfs> = mounted(&world).await;
        let (file, _) = ext::walk(&vfs, vfs.root(), &[name("a"), name("file")]).await.expect("found");
        assert_eq!(vfs.read(file.ino(), 0, 4096).await.expect("the beginning is good").len(), 4096, "{sql}");
        let error = vfs.read(file.ino(), 1_199_000, 1 << 20).await.expect_err(sql);
        assert_eq!(error.kind(), kind, "{sql}: {error:#}");
    }
}
