//! Goal: `/flist` is a file system like any other that is read.
//! Method: the laws of reading over flists of both formats; and what is particular: several flists, replaced ones, handles
//! over a restart, bad ones beside good ones.

use std::{fs, sync::Arc, time::Duration};

use muxfs::{
    ErrorKind, FileKind, Name, SecretKey,
    ipns::NameKey,
    testing::vfs::{SpecimenNode, specimen},
    vfs::{Cookie, Lease, Listing, Vfs, ext, narrow::subtree},
};

use super::made::{What, World};
use crate::{Chunks, ChunksOptions, FlistVfs, Profiles, Signers, sign, signature_path};

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

pub(super) async fn mounted(world: &World) -> Arc<FlistVfs> {
    mounted_with(world, Profiles::default()).await
}

pub(super) async fn mounted_dyn(world: &World) -> Arc<dyn Vfs> {
    mounted(world).await
}

pub(super) async fn chunks_of(world: &World) -> Arc<Chunks> {
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

pub(super) fn file(data: &[u8]) -> Vec<(String, What)> {
    vec![("file".into(), What::File(data.to_vec()))]
}

pub(super) async fn read(vfs: &Arc<dyn Vfs>, flist: &str) -> muxfs::Result<Vec<u8>> {
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
