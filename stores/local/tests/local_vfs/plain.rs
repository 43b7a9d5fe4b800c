//! The calls by themselves: what the host has afterwards, and what a caller is told.

use std::{
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    time::{Duration, SystemTime},
};

use muxfs::{
    ErrorKind, FileKind,
    vfs::{Cookie, Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, SetTime, Vfs, XattrMode, XattrName},
};
use muxfs_local::{LocalOptions, LocalVfs};

use crate::world::{World, kind, name};

/// The descriptor is of the file as others see it, and nobody writes by it.
#[tokio::test]
async fn the_host_file_shows_what_is_read_and_cannot_be_written() {
    use std::os::unix::fs::FileExt as _;
    const EBADF: i32 = 9;
    let world = World::new();
    let made = world.vfs.create(world.vfs.root(), &name("f"), NewNode::File, SetAttr::default()).await.expect("create");
    let ino = made.node.ino;
    let file = world.vfs.host_file(ino).await.expect("opened").expect("there is one");
    world.vfs.write(ino, 0, "bytes".into(), false).await.expect("write");
    std::fs::rename(world.host("f"), world.host("g")).expect("renamed");
    let mut back = [0; 5];
    file.read_exact_at(&mut back, 0).expect("read");
    assert_eq!(&back, b"bytes");
    assert_eq!(file.write_at(b"x", 0).expect_err("it only reads").raw_os_error(), Some(EBADF));
    assert_eq!(kind(world.vfs.host_file(world.vfs.root()).await), ErrorKind::IsDir);
}

#[tokio::test]
async fn what_is_written_is_on_the_host_and_numbers_are_the_hosts() {
    let world = World::new();
    let made = world.file(world.root(), "a", "hello").await;
    let host = std::fs::metadata(world.host("a")).expect("it is there");
    assert_eq!(std::fs::read(world.host("a")).expect("it is there"), b"hello");
    assert_eq!((made.ino.0.get(), made.size, made.nlink), (host.ino(), 5, 1));
    assert_eq!(made.used, host.blocks() * 512);
    assert_eq!(world.text(made.ino).await.expect("a read"), "hello");
    assert_eq!(world.vfs.read(made.ino, 3, 100).await.expect("a read"), "lo");
    assert!(world.vfs.read(made.ino, 5, 100).await.expect("a read").is_empty());
    assert!(world.vfs.read(made.ino, u64::MAX, 100).await.expect("a read").is_empty());
}

#[tokio::test]
async fn long_reads_and_writes_are_whole_and_a_claimed_length_costs_nothing() {
    let world = World::new();
    let made = world.make(world.root(), "a", NewNode::File).await;
    let long: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    let changed = world.vfs.write(made.ino, 7, long.clone().into(), false).await.expect("a write");
    assert_eq!((changed.before.size, changed.after.size), (0, 3_000_007));
    let read = world.vfs.read(made.ino, 7, u32::MAX).await.expect("a read");
    assert!(read == long, "the same bytes");
    let part = world.vfs.read(made.ino, 0, 100_000).await.expect("a read");
    assert!(part[..7] == [0; 7] && part[7..] == long[..99_993], "a hole, then the bytes");
}

#[tokio::test]
async fn every_kind_of_node_is_made_with_its_attributes() {
    let world = World::new();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 5);
    let set = SetAttr { mode: Some(0o1623), mtime: Some(SetTime::At(old)), ..SetAttr::default() };
    for (text, node, kind) in [
        ("file", NewNode::File, FileKind::File),
        ("dir", NewNode::Dir, FileKind::Dir),
        ("link", NewNode::Symlink("../outside/x".into()), FileKind::Symlink),
        ("fifo", NewNode::Fifo, FileKind::Fifo),
        ("socket", NewNode::Socket, FileKind::Socket),
    ] {
        let made = world.vfs.create(world.root(), &name(text), node, set.clone()).await.expect("it is made");
        assert_eq!((made.node.kind, made.node.mtime), (kind, old), "{text}");
        if kind != FileKind::Symlink {
            assert_eq!(made.node.mode, 0o1623, "{text}");
        }
        assert!(made.dir.after.change > made.dir.before.change, "{text}");
        let found = world.lookup(world.root(), text).await.expect("it is found");
        assert_eq!(found.ino, made.node.ino, "{text}");
    }
    assert!(std::fs::symlink_metadata(world.host("socket")).expect("it is there").file_type().is_socket());
    let link = world.lookup(world.root(), "link").await.expect("it is found");
    assert_eq!(world.vfs.readlink(link.ino).await.expect("a target"), "../outside/x");
    assert_eq!(kind(world.vfs.create(world.root(), &name("dir"), NewNode::File, set).await), ErrorKind::Exists);
}

#[tokio::test]
async fn an_owner_is_set_before_anybody_sees_the_file() {
    if !rustix::process::geteuid().is_root() {
        muxfs::testing::skip("only root gives files away");
        return;
    }
    let world = World::new();
    let set = SetAttr { uid: Some(1234), gid: Some(5678), mode: Some(0o4711), ..SetAttr::default() };
    for (text, node) in [("file", NewNode::File), ("dir", NewNode::Dir), ("link", NewNode::Symlink("x".into()))] {
        let made = world.vfs.create(world.root(), &name(text), node, set.clone()).await.expect("it is made").node;
        assert_eq!((made.uid, made.gid), (1234, 5678), "{text}");
        let host = std::fs::symlink_metadata(world.host(text)).expect("it is there");
        assert_eq!((host.uid(), host.gid()), (1234, 5678), "{text}");
        if made.kind != FileKind::Symlink {
            assert_eq!(host.permissions().mode() & 0o7777, 0o4711, "{text}");
        }
    }
    let node = world.lookup(world.root(), "file").await.expect("it is found");
    world.vfs.write(node.ino, 0, "x".into(), true).await.expect("a write");
    let host = std::fs::metadata(world.host("file")).expect("it is there");
    assert_eq!(host.permissions().mode() & 0o7777, 0o711, "the setuid bit goes with the write");
}

#[tokio::test]
async fn a_node_of_the_servers_own_is_made_as_asked_whatever_the_umask_and_the_directory_do() {
    let world = World::new();
    let root = world.root();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for bits in [0, 0o600, 0o644, 0o666, 0o777] {
        for (text, node) in [("file", NewNode::File), ("dir", NewNode::Dir), ("fifo", NewNode::Fifo)] {
            let text = format!("{text}{bits:o}");
            // The owner is named, as it is by whoever speaks for a caller.
            let set = SetAttr { mode: Some(bits), uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
            let made = world.vfs.create(root, &name(&text), node, set).await.expect("it is made").node;
            let host = std::fs::symlink_metadata(world.host(&text)).expect("it is there");
            assert_eq!((host.permissions().mode() & 0o7777, host.uid(), host.gid()), (bits, uid, gid), "{text}");
            assert_eq!((made.mode, made.uid, made.gid), (bits, uid, gid), "{text}");
        }
    }
    if !rustix::process::geteuid().is_root() {
        muxfs::testing::skip("only root makes a directory of another group");
        return;
    }
    std::os::unix::fs::chown(world.host("dir777"), None, Some(4321)).expect("root may");
    std::fs::set_permissions(world.host("dir777"), PermissionsExt::from_mode(0o2777)).expect("root may");
    let dir = world.lookup(root, "dir777").await.expect("found").ino;
    for (text, node, bits) in [("file", NewNode::File, 0o660), ("dir", NewNode::Dir, 0o775)] {
        let set = SetAttr { mode: Some(bits), uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
        let made = world.vfs.create(dir, &name(text), node, set).await.expect("it is made").node;
        assert_eq!((made.mode, made.gid), (bits, gid), "{text}");
        let theirs = SetAttr { mode: Some(bits), uid: Some(uid), ..SetAttr::default() };
        let made = world.vfs.create(dir, &name(&format!("{text}2")), NewNode::File, theirs).await.expect("made").node;
        assert_eq!((made.mode, made.gid), (bits, 4321), "{text}: the directory's");
    }
}

#[tokio::test]
async fn setattr_sets_all_or_nothing() {
    let world = World::new();
    let made = world.file(world.root(), "a", "hello").await;
    let old = SystemTime::UNIX_EPOCH - Duration::new(10, 1);
    let set = SetAttr {
        size: Some(2),
        mode: Some(0o600),
        atime: Some(SetTime::At(old)),
        mtime: Some(SetTime::At(old)),
        ..SetAttr::default()
    };
    let changed = world.vfs.setattr(made.ino, set).await.expect("it is set");
    assert_eq!((changed.before.size, changed.after.size, changed.after.mode), (5, 2, 0o600));
    assert_eq!((changed.after.atime, changed.after.mtime), (old, old));
    assert!(changed.after.change > changed.before.change);
    let too_large = SetAttr { size: Some(u64::MAX), mode: Some(0o644), ..SetAttr::default() };
    assert_eq!(kind(world.vfs.setattr(made.ino, too_large).await), ErrorKind::TooLarge);
    let dir_size = SetAttr { size: Some(0), mode: Some(0o700), ..SetAttr::default() };
    assert_eq!(kind(world.vfs.setattr(world.root(), dir_size).await), ErrorKind::IsDir);
    assert_eq!(world.vfs.getattr(made.ino).await.expect("attributes").mode, 0o600, "nothing was set");
}

#[tokio::test]
async fn names_are_removed_moved_and_exchanged() {
    let world = World::new();
    let root = world.root();
    let dir = world.make(root, "d", NewNode::Dir).await.ino;
    let a = world.file(root, "a", "of a").await.ino;
    let b = world.file(dir, "b", "of b").await.ino;
    let (an, bn, cn) = (name("a"), name("b"), name("c"));
    let at = |dir, name| Place { dir, name, expect: None };

    assert_eq!(kind(world.vfs.rename(at(root, &an), at(dir, &bn), RenameMode::NoReplace).await), ErrorKind::Exists);
    let moved = world.vfs.rename(at(root, &an), at(dir, &bn), RenameMode::Exchange).await.expect("exchanged");
    assert_eq!(moved.node.ino, a);
    assert_eq!(world.lookup(root, "a").await.expect("found").ino, b);
    assert_eq!(world.lookup(dir, "b").await.expect("found").ino, a);
    assert_eq!(kind(world.vfs.rename(at(root, &an), at(dir, &cn), RenameMode::Exchange).await), ErrorKind::NotFound);

    let wrong = Place { dir, name: &bn, expect: Some(b) };
    assert_eq!(kind(world.vfs.rename(at(root, &an), wrong, RenameMode::Replace).await), ErrorKind::Stale);
    let right = Place { dir, name: &bn, expect: Some(a) };
    world.vfs.rename(at(root, &an), right, RenameMode::Replace).await.expect("replaced");
    assert_eq!(kind(world.lookup(root, "a").await), ErrorKind::NotFound);
    assert_eq!(world.text(a).await.expect("leased"), "of a", "it answers without a name");
    assert_eq!(world.vfs.getattr(a).await.expect("leased").nlink, 0);

    assert_eq!(kind(world.remove(root, "d", RemoveKind::Dir).await), ErrorKind::NotEmpty);
    assert_eq!(kind(world.remove(root, "d", RemoveKind::NonDir).await), ErrorKind::IsDir);
    assert_eq!(kind(world.remove(dir, "b", RemoveKind::Dir).await), ErrorKind::NotDir);
    let expect_other = Place { dir, name: &bn, expect: Some(root) };
    assert_eq!(kind(world.vfs.remove(expect_other, RemoveKind::NonDir).await), ErrorKind::Stale);
    assert_eq!(world.remove(dir, "b", RemoveKind::NonDir).await.expect("removed").nlink, 0);
    assert_eq!(world.remove(root, "d", RemoveKind::Dir).await.expect("removed").nlink, 0);
    assert_eq!(std::fs::read_dir(world.host("")).expect("the root").count(), 0);
}

#[tokio::test]
async fn an_orphan_lives_as_long_as_its_leases() {
    let world = World::with(LocalOptions { open_file_count_max: Some(8), ..LocalOptions::default() });
    let root = world.root();
    let orphan = world.file(root, "a", "still here").await.ino;
    world.remove(root, "a", RemoveKind::NonDir).await.expect("removed");
    for index in 0..100 {
        world.file(root, &format!("f{index}"), "").await;
    }
    assert_eq!(world.text(orphan).await.expect("leased"), "still here", "whatever else was opened meanwhile");
    world.vfs.release(orphan, 2);
    assert_eq!(kind(world.vfs.getattr(orphan).await), ErrorKind::Stale);
}

#[tokio::test]
async fn links_share_one_inode() {
    let world = World::new();
    let root = world.root();
    let dir = world.make(root, "d", NewNode::Dir).await.ino;
    let a = world.file(root, "a", "one").await.ino;
    let linked = world.vfs.link(a, dir, &name("b")).await.expect("linked");
    assert_eq!((linked.node.ino, linked.node.nlink), (a, 2));
    assert_eq!(kind(world.vfs.link(a, dir, &name("b")).await), ErrorKind::Exists);
    assert_eq!(kind(world.vfs.link(dir, root, &name("e")).await), ErrorKind::NotPermitted);
    let symlink = world.make(root, "s", NewNode::Symlink("nowhere".into())).await.ino;
    let linked = world.vfs.link(symlink, dir, &name("t")).await.expect("linked");
    assert_eq!((linked.node.kind, linked.node.nlink), (FileKind::Symlink, 2), "the symlink itself");
    world.remove(root, "a", RemoveKind::NonDir).await.expect("removed");
    world.vfs.release(a, 3);
    let found = world.lookup(dir, "b").await.expect("found");
    assert_eq!(world.text(found.ino).await.expect("a read"), "one");
}

#[tokio::test]
async fn holes_room_and_copies() {
    let world = World::new();
    let root = world.root();
    let a = world.make(root, "a", NewNode::File).await.ino;
    world.vfs.write(a, 0, vec![7; 1 << 20].into(), false).await.expect("a write");
    world.vfs.sync(a).await.expect("synced");
    match world.vfs.punch_hole(a, 0..1 << 19).await {
        Ok(changed) => {
            assert_eq!(changed.after.size, 1 << 20);
            assert_eq!(world.vfs.read(a, (1 << 19) - 2, 4).await.expect("a read"), [0, 0, 7, 7].as_slice());
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
    }
    let b = world.make(root, "b", NewNode::File).await.ino;
    let (count, changed) = world.vfs.copy_range((a, (1 << 20) - 10), (b, 5), 100).await.expect("copied");
    assert_eq!((count, changed.after.size), (10, 15), "short at the end of the source");
    assert_eq!(world.vfs.read(b, 4, 3).await.expect("a read"), [0, 7, 7].as_slice());
    assert_eq!(kind(world.vfs.copy_range((a, 0), (a, 5), 10).await), ErrorKind::InvalidArgument);
    match world.vfs.allocate(b, 0..100_000, true).await {
        Ok(changed) => assert!(changed.after.size == 15 && changed.after.used >= 100_000),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
    }
}

#[tokio::test]
async fn attributes_of_user_and_of_nobody_else() {
    let world = World::new();
    let a = world.file(world.root(), "a", "").await.ino;
    let attr = |text: &str| XattrName::new(text.as_bytes()).expect("a name");
    match world.vfs.setxattr(a, &attr("user.note"), "hi".into(), XattrMode::Create).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            muxfs::testing::skip("this file system has no extended attributes");
            return;
        }
        other => drop(other.expect("it is set")),
    }
    let again = world.vfs.setxattr(a, &attr("user.note"), "ho".into(), XattrMode::Create).await;
    assert_eq!(kind(again), ErrorKind::Exists);
    assert_eq!(world.vfs.getxattr(a, &attr("user.note")).await.expect("a value"), "hi");
    assert_eq!(world.vfs.listxattr(a).await.expect("names"), [attr("user.note")]);
    let none = world.vfs.setxattr(a, &attr("user.none"), "ho".into(), XattrMode::Replace).await;
    assert_eq!(kind(none), ErrorKind::NoAttr);
    for foreign in ["trusted.x", "security.capability", "system.posix_acl_access"] {
        let set = world.vfs.setxattr(a, &attr(foreign), "x".into(), XattrMode::Set).await;
        assert_eq!(kind(set), ErrorKind::Unsupported, "{foreign}");
    }
    world.vfs.removexattr(a, &attr("user.note")).await.expect("removed");
    assert_eq!(kind(world.vfs.getxattr(a, &attr("user.note")).await), ErrorKind::NoAttr);
}

#[tokio::test]
async fn read_only_changes_nothing() {
    let world = World::with(LocalOptions { read_only: true, ..LocalOptions::default() });
    std::fs::write(world.host("a"), "x").expect("a write");
    let a = world.lookup(world.root(), "a").await.expect("found").ino;
    let node = world.vfs.create(world.root(), &name("b"), NewNode::File, SetAttr::default()).await;
    assert_eq!(kind(node), ErrorKind::ReadOnly);
    assert_eq!(kind(world.vfs.write(a, 0, "y".into(), false).await), ErrorKind::ReadOnly);
    assert_eq!(kind(world.vfs.setattr(a, SetAttr::default()).await), ErrorKind::ReadOnly);
    assert_eq!(kind(world.remove(world.root(), "a", RemoveKind::NonDir).await), ErrorKind::ReadOnly);
    assert_eq!(std::fs::read(world.host("a")).expect("it is there"), b"x");
}

#[tokio::test]
async fn wrong_kinds_are_told_apart() {
    let world = World::new();
    let root = world.root();
    let file = world.file(root, "a", "").await.ino;
    let fifo = world.make(root, "p", NewNode::Fifo).await.ino;
    assert_eq!(kind(world.lookup(file, "x").await), ErrorKind::NotDir);
    assert_eq!(kind(world.vfs.read(root, 0, 1).await), ErrorKind::IsDir);
    assert_eq!(kind(world.vfs.read(fifo, 0, 1).await), ErrorKind::InvalidArgument, "and does not wait for a writer");
    assert_eq!(kind(world.vfs.readlink(file).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(world.vfs.readdir(file, Cookie::START, 1, Listing::Names).await), ErrorKind::NotDir);
    assert_eq!(kind(world.vfs.readdir(root, Cookie(u64::MAX), 1, Listing::Names).await), ErrorKind::BadCookie);
    world.vfs.sync(fifo).await.expect("even a fifo is made durable");
    world.vfs.sync(root).await.expect("everything is");
}

#[test]
fn a_table_below_the_root_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = LocalVfs::open(dir.path(), &dir.path().join("handles"), LocalOptions::default());
    assert_eq!(kind(open), ErrorKind::InvalidArgument);
}
