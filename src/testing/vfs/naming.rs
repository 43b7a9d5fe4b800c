//! Laws of names that come and go.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Bed, assert_frames, assert_kind, assert_moved, assert_same, at_once, name, place, unless_unprivileged};
use crate::{
    ErrorKind, FileKind, Name,
    vfs::{Cookie, Listing, NewNode, Place, Rdev, RemoveKind, SYMLINK_LEN_MAX, SetAttr, SetTime},
};

/// A node of each kind is made, found by its name, and has nothing in it.
pub async fn create_makes_each_kind(bed: &Bed) {
    let kinds = [NewNode::File, NewNode::Dir, NewNode::Symlink("to".into()), NewNode::Fifo, NewNode::Socket];
    for node in kinds {
        let kind = node.kind();
        let text = format!("{kind:?}");
        let made = bed.create(bed.root(), &text, node).await.expect("create");
        let lease = bed.adopt(&made.node);
        assert_eq!(made.node.kind, kind);
        assert_same(&made.node, &bed.attr(lease.ino()).await);
        assert_eq!(bed.find(bed.root(), &text).await.expect("lookup").ino(), lease.ino(), "{text}");
        match kind {
            FileKind::File => assert_eq!(bed.read(lease.ino()).await, Bytes::new()),
            FileKind::Dir => assert!(bed.names(lease.ino()).await.is_empty()),
            FileKind::Symlink => assert_eq!(bed.vfs.readlink(lease.ino()).await.expect("readlink"), "to"),
            _ => assert_kind(bed.vfs.read(lease.ino(), 0, 1).await, ErrorKind::InvalidArgument),
        }
    }
}

/// Devices keep their numbers.
pub async fn create_makes_devices(bed: &Bed) {
    let rdev = Rdev { major: 1, minor: 3 };
    for (text, node, kind) in [
        ("char", NewNode::CharDevice(rdev), FileKind::CharDevice),
        ("block", NewNode::BlockDevice(rdev), FileKind::BlockDevice),
    ] {
        let Some(made) = unless_unprivileged(bed.create(bed.root(), text, node).await) else { continue };
        let lease = bed.adopt(&made.node);
        assert_eq!((made.node.kind, made.node.rdev), (kind, rdev));
        assert_kind(bed.vfs.read(lease.ino(), 0, 1).await, ErrorKind::InvalidArgument);
    }
}

/// What is set at creation is there with the name.
pub async fn create_applies_attributes(bed: &Bed) {
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let set = SetAttr {
        size: Some(1000),
        mode: Some(0o640),
        mtime: Some(SetTime::At(time)),
        atime: Some(SetTime::At(time)),
        ..SetAttr::default()
    };
    let made = bed.vfs.create(bed.root(), &name("f"), NewNode::File, set.clone()).await.expect("create");
    let file = bed.adopt(&made.node);
    assert_eq!((made.node.size, made.node.mode, made.node.mtime), (1000, 0o640, time));
    assert_eq!(bed.read(file.ino()).await, Bytes::from(vec![0; 1000]));
    let of_dir = SetAttr { size: None, mode: Some(0o1770), ..set.clone() };
    let made = bed.vfs.create(bed.root(), &name("d"), NewNode::Dir, of_dir).await.expect("create");
    assert_eq!(bed.adopt(&made.node).ino(), made.node.ino);
    assert_eq!((made.node.mode, made.node.mtime), (0o1770, time));
    assert_kind(bed.vfs.create(bed.root(), &name("e"), NewNode::Dir, set).await, ErrorKind::IsDir);
    assert_eq!(bed.names(bed.root()).await, ["d", "f"]);
}

/// A name that is taken is not taken again, and what has it stays as it is.
pub async fn create_where_taken_is_refused(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "kept").await;
    let _dir = bed.dir(bed.root(), "d").await;
    let (before, above) = (bed.attr(file.ino()).await, bed.attr(bed.root()).await);
    for text in ["f", "d"] {
        for node in [NewNode::File, NewNode::Dir, NewNode::Symlink("x".into())] {
            assert_kind(bed.create(bed.root(), text, node).await, ErrorKind::Exists);
        }
    }
    assert_same(&bed.attr(file.ino()).await, &before);
    assert_same(&bed.attr(bed.root()).await, &above);
}

/// Nothing is made in what is no directory.
pub async fn create_in_a_file_is_not_dir(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    assert_kind(bed.create(file.ino(), "below", NewNode::File).await, ErrorKind::NotDir);
}

/// A target is never looked at: any bytes but NUL come back.
pub async fn targets_of_symlinks_are_bytes(bed: &Bed) {
    let long = vec![b'x'; 1000];
    let targets: [&[u8]; 6] = [b"../up", b"/abs/", b"\xff\xfe", b"a\nb", b".", &long];
    for (number, target) in targets.into_iter().enumerate() {
        let link = bed.make(bed.root(), &format!("l{number}"), NewNode::Symlink(Bytes::copy_from_slice(target))).await;
        assert_eq!(bed.vfs.readlink(link.ino()).await.expect("readlink"), target);
        assert_eq!(bed.attr(link.ino()).await.size, target.len() as u64);
    }
}

/// A target is not empty, has no NUL, and is no longer than the limit.
pub async fn targets_out_of_bounds_are_refused(bed: &Bed) {
    let long = Bytes::from(vec![b'x'; SYMLINK_LEN_MAX + 1]);
    let cases = [
        (Bytes::new(), ErrorKind::InvalidArgument),
        (Bytes::from_static(b"a\0b"), ErrorKind::InvalidArgument),
        (long, ErrorKind::NameTooLong),
    ];
    for (target, kind) in cases {
        assert_kind(bed.create(bed.root(), "l", NewNode::Symlink(target)).await, kind);
    }
    assert!(bed.names(bed.root()).await.is_empty());
}

/// Names are bytes: of other scripts, of no script, of 255 bytes, and none is another.
pub async fn names_are_bytes(bed: &Bed) {
    let long = [b'x'; 255];
    let names: [&[u8]; 14] = [
        b"a",
        b"A",
        b"\xff",
        b"\xc3\xa9",
        b"e\xcc\x81",
        b" ",
        b"a ",
        b"...",
        b"-",
        b"\n",
        b"\\",
        b"\x01\x7f",
        b".a",
        &long,
    ];
    let mut made = BTreeMap::new();
    for bytes in names {
        let name = Name::new(bytes).expect("a good name");
        let node = bed.vfs.create(bed.root(), &name, NewNode::File, SetAttr::default()).await.expect("create").node;
        made.insert(name, bed.adopt(&node));
    }
    let page = bed.vfs.readdir(bed.root(), Cookie::START, 100, Listing::Names).await.expect("readdir");
    let listed: BTreeMap<_, _> = page.entries.into_iter().map(|entry| (entry.name, entry.ino)).collect();
    assert_eq!(listed, made.iter().map(|(name, lease)| (name.clone(), lease.ino())).collect());
    for (name, lease) in &made {
        let found = bed.vfs.lookup(bed.root(), name).await.expect("lookup");
        assert_eq!(bed.adopt(&found).ino(), lease.ino(), "{name:?}");
        bed.vfs.remove(place(bed.root(), name), RemoveKind::NonDir).await.expect("remove");
    }
    assert!(bed.names(bed.root()).await.is_empty());
}

/// Of many who create one name at the same time one does, and the others are told.
pub async fn of_many_creates_one_wins(bed: &Bed) {
    for round in 0..8 {
        let creates = (0..8).map(|_| {
            let (vfs, name) = (bed.vfs.clone(), name(&format!("n{round}")));
            async move { vfs.create(vfs.root(), &name, NewNode::File, SetAttr::default()).await }
        });
        let mut won = Vec::new();
        for result in at_once(creates).await {
            match result {
                Ok(made) => won.push(bed.adopt(&made.node)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Exists),
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
    }
}

/// A removed name is gone, and free for another node.
pub async fn remove_takes_a_name_away(bed: &Bed) {
    let file = bed.file(bed.root(), "n", "old").await;
    let gone = bed.unlink(bed.root(), "n").await.expect("remove");
    assert_eq!((gone.node.ino, gone.node.nlink), (file.ino(), 0));
    assert_kind(bed.find(bed.root(), "n").await, ErrorKind::NotFound);
    assert_kind(bed.unlink(bed.root(), "n").await, ErrorKind::NotFound);
    assert_kind(bed.rmdir(bed.root(), "n").await, ErrorKind::NotFound);
    let dir = bed.dir(bed.root(), "n").await;
    assert_eq!(bed.rmdir(bed.root(), "n").await.expect("rmdir").node.ino, dir.ino());
    let file = bed.file(bed.root(), "n", "new").await;
    assert_eq!(bed.read(file.ino()).await, "new");
}

/// Unlink is not for directories, and rmdir for nothing else.
pub async fn remove_wants_the_right_kind(bed: &Bed) {
    let (_dir, _file) = (bed.dir(bed.root(), "d").await, bed.file(bed.root(), "f", "").await);
    let _link = bed.make(bed.root(), "l", NewNode::Symlink("d".into())).await;
    assert_kind(bed.unlink(bed.root(), "d").await, ErrorKind::IsDir);
    assert_kind(bed.rmdir(bed.root(), "f").await, ErrorKind::NotDir);
    assert_kind(bed.rmdir(bed.root(), "l").await, ErrorKind::NotDir);
    assert_eq!(bed.names(bed.root()).await, ["d", "f", "l"]);
    let file = bed.find(bed.root(), "f").await.expect("lookup");
    assert_kind(bed.unlink(file.ino(), "x").await, ErrorKind::NotDir);
}

/// A directory with entries is `NotEmpty`, whatever they are.
pub async fn remove_of_a_directory_with_entries_is_refused(bed: &Bed) {
    let dir = bed.dir(bed.root(), "d").await;
    for node in [NewNode::File, NewNode::Dir, NewNode::Symlink("x".into())] {
        let kind = node.kind();
        let _entry = bed.make(dir.ino(), ".entry", node).await;
        assert_kind(bed.rmdir(bed.root(), "d").await, ErrorKind::NotEmpty);
        let name = name(".entry");
        let how = if kind == FileKind::Dir { RemoveKind::Dir } else { RemoveKind::NonDir };
        bed.vfs.remove(place(dir.ino(), &name), how).await.expect("remove");
    }
    bed.rmdir(bed.root(), "d").await.expect("it is empty");
}

/// A name that has another inode than the caller believes is left alone.
pub async fn remove_checks_what_is_expected(bed: &Bed) {
    let (one, other) = (bed.file(bed.root(), "one", "").await, bed.file(bed.root(), "other", "").await);
    let text = name("one");
    let wrong = Place { expect: Some(other.ino()), ..place(bed.root(), &text) };
    assert_kind(bed.vfs.remove(wrong, RemoveKind::NonDir).await, ErrorKind::Stale);
    assert_eq!(bed.names(bed.root()).await, ["one", "other"]);
    let right = Place { expect: Some(one.ino()), ..wrong };
    bed.vfs.remove(right, RemoveKind::NonDir).await.expect("the right one");
    assert_kind(bed.vfs.remove(right, RemoveKind::NonDir).await, ErrorKind::NotFound);
}

/// A directory that was removed while it was leased is empty, and nothing comes into it.
pub async fn a_removed_directory_is_empty_and_takes_nothing(bed: &Bed) {
    let (dir, file) = (bed.dir(bed.root(), "d").await, bed.file(bed.root(), "f", "").await);
    bed.rmdir(bed.root(), "d").await.expect("rmdir");
    let attr = bed.attr(dir.ino()).await;
    assert_eq!((attr.kind, attr.nlink), (FileKind::Dir, 0));
    assert!(bed.names(dir.ino()).await.is_empty());
    assert_kind(bed.find(dir.ino(), "x").await, ErrorKind::NotFound);
    assert_kind(bed.create(dir.ino(), "x", NewNode::File).await, ErrorKind::NotFound);
    assert_kind(bed.create(dir.ino(), "x", NewNode::Dir).await, ErrorKind::NotFound);
    assert_kind(bed.vfs.parent(dir.ino()).await, ErrorKind::NotFound);
    let linked = bed.vfs.link(file.ino(), dir.ino(), &name("x")).await;
    let kind = linked.map(drop).expect_err("it is gone").kind();
    assert!(matches!(kind, ErrorKind::NotFound | ErrorKind::Unsupported), "{kind:?}");
}

/// A name that comes or goes moves its directory's times, and each reply frames the change.
pub async fn names_coming_and_going_move_the_directory(bed: &Bed) {
    let dir = bed.dir(bed.root(), "d").await;
    let before = bed.attr(dir.ino()).await;
    let made = bed.create(dir.ino(), "f", NewNode::File).await.expect("create");
    let _file = bed.adopt(&made.node);
    let between = bed.attr(dir.ino()).await;
    assert_frames(&made.dir, &before, &between);
    assert_moved(&before, &between, true);
    let gone = bed.unlink(dir.ino(), "f").await.expect("remove");
    let after = bed.attr(dir.ino()).await;
    assert_frames(&gone.dir, &between, &after);
    assert_moved(&between, &after, true);
    assert_kind(bed.unlink(dir.ino(), "f").await, ErrorKind::NotFound);
    assert_same(&bed.attr(dir.ino()).await, &after);
}

/// Entries that stay are met exactly once, whatever comes and goes between two pages.
pub async fn readdir_meets_what_stays_exactly_once(bed: &Bed) {
    for count in [1, 3, 10] {
        let dir = bed.dir(bed.root(), &format!("d{count}")).await;
        for number in 0..60 {
            let text = format!("{}{number:02}", if number % 2 == 0 { "stay" } else { "go" });
            let _file = bed.file(dir.ino(), &text, "").await;
        }
        let mut met: BTreeMap<String, usize> = BTreeMap::new();
        let mut after = Cookie::START;
        let mut round = 0;
        loop {
            let page = bed.vfs.readdir(dir.ino(), after, count, Listing::Names).await.expect("readdir");
            for entry in &page.entries {
                *met.entry(entry.name.to_string()).or_default() += 1;
            }
            after = page.entries.last().map_or(after, |entry| entry.cookie);
            if page.eof {
                break;
            }
            // One goes, one comes, one that came goes again: also the entry whose cookie is held.
            if round < 30 {
                bed.unlink(dir.ino(), &format!("go{:02}", round * 2 + 1)).await.expect("remove");
                let _new = bed.file(dir.ino(), &format!("new{round:02}"), "").await;
                if round % 3 == 2 {
                    bed.unlink(dir.ino(), &format!("new{:02}", round - 1)).await.expect("remove");
                }
            }
            round += 1;
            assert!(round < 1000, "the listing ends");
        }
        for number in (0..60).step_by(2) {
            assert_eq!(met.get(&format!("stay{number:02}")), Some(&1), "stay{number:02}, pages of {count}");
        }
        assert!(met.values().all(|times| *times == 1), "nothing is met twice: {met:?}");
    }
}

/// A listing goes on from a cookie whose entry, and all others, are gone.
pub async fn readdir_survives_the_removal_of_all(bed: &Bed) {
    let dir = bed.dir(bed.root(), "d").await;
    for number in 0..20 {
        let _file = bed.file(dir.ino(), &format!("{number}"), "").await;
    }
    let page = bed.vfs.readdir(dir.ino(), Cookie::START, 10, Listing::Names).await.expect("readdir");
    let held = page.entries.last().expect("an entry").cookie;
    for number in 0..20 {
        bed.unlink(dir.ino(), &format!("{number}")).await.expect("remove");
    }
    let page = bed.vfs.readdir(dir.ino(), held, 10, Listing::Names).await.expect("readdir");
    assert!(page.entries.is_empty() && page.eof);
}
