//! Goal: an flist that is replaced, written over, or gone is another one or none, and whoever holds the old one reads that.
//! Method: files renamed, removed and written in their place below a mount, with and without what keeps them; servers that never met
//! the old one.

use std::{fs, os::unix::fs::MetadataExt as _, sync::Arc, time::Duration};

use muxfs::{
    ErrorKind, FileKind,
    vfs::{Vfs, ext},
};

use super::{
    made::{What, World},
    mount::{file, mounted, mounted_dyn, name, read},
};
use crate::{KeptFlists, chunk::hex, kept_file, node_of_handle};

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
        let has_kept = || fs::read_dir(&kept).is_ok_and(|entries| entries.count() > 0);
        assert!(!has_kept());
        let (root, _) = ext::walk(&vfs, vfs.root(), &[name("a")]).await.expect("there");
        assert!(!has_kept(), "who looks names up lies over nothing");
        vfs.getattr(root.ino()).await.expect("known");
        assert!(has_kept());
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

/// Who looks at it while it is copied has it kept, too; what could not be is tried again after a while, not at each look; and signatures
/// that were left there are not those of a copy that has none.
#[tokio::test(start_paused = true)]
async fn a_copy_that_failed_is_made_later() {
    let world = World::new();
    world.fl("a.fl", &file(b"old"), |_| {});
    let kept = world.path("kept");
    fs::write(&kept, "a file where a directory is to be").expect("written");
    let vfs: Arc<dyn Vfs> = Arc::new(KeptFlists::new(mounted(&world).await, kept.clone()));
    let (root, _) = ext::walk(&vfs, vfs.root(), &[name("a")]).await.expect("there");
    let (id, _) = node_of_handle(&vfs.handle(root.ino()).expect("told")).expect("its own").expect("a node");
    let look = || async {
        vfs.getattr(root.ino()).await.expect("known");
        kept_file(&kept, id).is_some()
    };
    assert!(!look().await);
    fs::remove_file(&kept).expect("removed");
    fs::create_dir(&kept).expect("made");
    let left = kept.join(format!("{}.fl.sig", hex(&id.0)));
    fs::write(&left, "of another").expect("written");
    assert!(!look().await, "it was tried a moment ago");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(futures_util::join!(look(), look(), look()), (true, true, true));
    assert!(!left.exists(), "it has none");
}

/// As `cp` writes over it. The old one is shown until the new one is whole, which is another; a server that never met the old one
/// says what is wrong.
#[tokio::test]
async fn an_flist_that_is_written_in_its_place_is_the_old_one_until_it_is_whole() {
    for format in ["fl", "flist"] {
        let (world, file_name) = (World::new(), format!("a.{format}"));
        let path = world.path("flists").join(&file_name);
        let nodes: Vec<_> = (0..300)
            .map(|number| (format!("{number}-{}", "x".repeat(100)), What::Symlink(vec![b'y'; 200])))
            .chain(file(b"new one"))
            .collect();
        let make = |name: &str, nodes: &[(String, What)]| match format {
            "fl" => world.fl(name, nodes, |_| {}),
            _ => world.flist(name, nodes, |_| {}),
        };
        make("new.part", &nodes);
        let new = fs::read(world.path("flists").join("new.part")).expect("read");
        make(&file_name, &file(b"old"));
        let before = fs::metadata(&path).expect("there");
        let vfs: Arc<dyn Vfs> = mounted(&world).await;
        let (old, _) = ext::walk(&vfs, vfs.root(), &[name("a"), name("file")]).await.expect("found");
        let handle = vfs.handle(old.ino()).expect("a handle");
        // Behind the database of an archive nothing is missed.
        let last = if format == "fl" { new.len() - 1 } else { new.len() / 4 * 3 };
        for len in [0, 10, new.len() / 2, last] {
            // The same file: it is cut to nothing first.
            fs::write(&path, &new[..len]).expect("written");
            assert_eq!(read(&vfs, "a").await.expect("as it was"), b"old", "{format} {len}");
            assert_eq!(vfs.read(old.ino(), 0, 100).await.expect("it is held"), "old");
            let again = vfs.resolve(&handle).await.expect("it is shown");
            vfs.release(again.ino, 1);
            let error = read(&mounted_dyn(&world).await, "a").await.expect_err("nobody has the old one");
            assert!(
                error.kind() == ErrorKind::Corrupt && format!("{error:#}").contains(&file_name),
                "{len}: {error:#}"
            );
        }
        fs::write(&path, &new).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").ino(), before.ino());
        assert_eq!(read(&vfs, "a").await.expect("the new one"), b"new one");
        assert_eq!(vfs.read(old.ino(), 0, 100).await.expect("it is held"), "old");
        drop(old);
        let error = mounted_dyn(&world).await.resolve(&handle).await.expect_err("it is another");
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
