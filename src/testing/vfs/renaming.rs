//! Laws of renames.

use super::{Bed, assert_frames, assert_kind, assert_moved, assert_same, at_once, name, place, unless_unsupported};
use crate::{
    ErrorKind, Result,
    vfs::{Ino, NewNode, Place, RenameMode, Renamed},
};

async fn rename(bed: &Bed, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) -> Result<Renamed> {
    let (from_name, to_name) = (name(from.1), name(to.1));
    bed.vfs.rename(place(from.0, &from_name), place(to.0, &to_name), mode).await
}

async fn replace(bed: &Bed, from: (Ino, &str), to: (Ino, &str)) -> Result<Renamed> {
    rename(bed, from, to, RenameMode::Replace).await
}

/// A name becomes another one; the inode and all that is in it stay.
pub async fn rename_moves_within_a_directory(bed: &Bed) {
    let (root, file) = (bed.root(), bed.file(bed.root(), "a", "data").await);
    let (node, above) = (bed.attr(file.ino()).await, bed.attr(root).await);
    let renamed = replace(bed, (root, "a"), (root, "b")).await.expect("rename");
    let after = bed.attr(root).await;
    assert_frames(&renamed.from, &above, &after);
    assert_frames(&renamed.to, &above, &after);
    assert_moved(&above, &after, true);
    assert_same(&renamed.node, &bed.attr(file.ino()).await);
    assert_eq!((renamed.node.ino, renamed.node.mtime), (file.ino(), node.mtime));
    assert_eq!(bed.names(root).await, ["b"]);
    assert_eq!(bed.find(root, "b").await.expect("lookup").ino(), file.ino());
    assert_eq!(bed.read(file.ino()).await, "data");
}

/// A name moves from one directory to another, and both are told.
pub async fn rename_moves_to_another_directory(bed: &Bed) {
    let (from, to) = (bed.dir(bed.root(), "from").await, bed.dir(bed.root(), "to").await);
    for node in [NewNode::File, NewNode::Dir, NewNode::Symlink("x".into())] {
        let node = bed.make(from.ino(), "a", node).await;
        let (from_before, to_before) = (bed.attr(from.ino()).await, bed.attr(to.ino()).await);
        let renamed = replace(bed, (from.ino(), "a"), (to.ino(), "b")).await.expect("rename");
        assert_frames(&renamed.from, &from_before, &bed.attr(from.ino()).await);
        assert_frames(&renamed.to, &to_before, &bed.attr(to.ino()).await);
        assert_moved(&from_before, &renamed.from.after, true);
        assert_moved(&to_before, &renamed.to.after, true);
        assert_eq!(bed.find(to.ino(), "b").await.expect("lookup").ino(), node.ino());
        assert!(bed.names(from.ino()).await.is_empty());
        replace(bed, (to.ino(), "b"), (bed.root(), &format!("{}", node.ino().0))).await.expect("out of the way");
    }
}

/// What had the new name loses it, at one stroke.
pub async fn rename_replaces_a_file(bed: &Bed) {
    let root = bed.root();
    let (new, old) = (bed.file(root, "new", "new").await, bed.file(root, "old", "old").await);
    replace(bed, (root, "new"), (root, "old")).await.expect("rename");
    assert_eq!(bed.names(root).await, ["old"]);
    assert_eq!(bed.find(root, "old").await.expect("lookup").ino(), new.ino());
    assert_eq!(bed.attr(old.ino()).await.nlink, 0);
    let link = bed.make(root, "link", NewNode::Symlink("x".into())).await;
    replace(bed, (root, "link"), (root, "old")).await.expect("a symlink over a file");
    assert_eq!(bed.find(root, "old").await.expect("lookup").ino(), link.ino());
}

/// A directory replaces an empty one.
pub async fn rename_replaces_an_empty_directory(bed: &Bed) {
    let root = bed.root();
    let (new, old) = (bed.dir(root, "new").await, bed.dir(root, "old").await);
    let _file = bed.file(new.ino(), "f", "").await;
    replace(bed, (root, "new"), (root, "old")).await.expect("rename");
    assert_eq!(bed.find(root, "old").await.expect("lookup").ino(), new.ino());
    assert_eq!(bed.names(new.ino()).await, ["f"]);
    assert_eq!(bed.attr(old.ino()).await.nlink, 0);
    assert_kind(bed.create(old.ino(), "x", NewNode::File).await, ErrorKind::NotFound);
}

/// A directory does not replace a file, nor a file a directory, nor anything one with entries.
pub async fn rename_over_what_is_in_the_way_is_refused(bed: &Bed) {
    let root = bed.root();
    let (dir, full, file) =
        (bed.dir(root, "dir").await, bed.dir(root, "full").await, bed.file(root, "file", "kept").await);
    let _entry = bed.file(full.ino(), "entry", "").await;
    let before = bed.attr(root).await;
    assert_kind(replace(bed, (root, "dir"), (root, "file")).await, ErrorKind::NotDir);
    assert_kind(replace(bed, (root, "file"), (root, "dir")).await, ErrorKind::IsDir);
    assert_kind(replace(bed, (root, "file"), (root, "full")).await, ErrorKind::IsDir);
    assert_kind(replace(bed, (root, "dir"), (root, "full")).await, ErrorKind::NotEmpty);
    assert_kind(replace(bed, (root, "dir"), (file.ino(), "x")).await, ErrorKind::NotDir);
    assert_kind(replace(bed, (file.ino(), "x"), (root, "y")).await, ErrorKind::NotDir);
    assert_same(&bed.attr(root).await, &before);
    assert_eq!(bed.names(root).await, ["dir", "file", "full"]);
    assert!(bed.names(dir.ino()).await.is_empty());
}

/// A directory does not move below itself, nor onto one it is in.
pub async fn rename_into_itself_is_refused(bed: &Bed) {
    let root = bed.root();
    let a = bed.dir(root, "a").await;
    let b = bed.dir(a.ino(), "b").await;
    let c = bed.dir(b.ino(), "c").await;
    for below in [a.ino(), b.ino(), c.ino()] {
        assert_kind(replace(bed, (root, "a"), (below, "x")).await, ErrorKind::InvalidArgument);
    }
    assert_kind(replace(bed, (b.ino(), "c"), (root, "a")).await, ErrorKind::NotEmpty);
    if unless_unsupported_rename(bed).await {
        let exchanged = rename(bed, (root, "a"), (b.ino(), "c"), RenameMode::Exchange).await;
        assert_kind(exchanged, ErrorKind::InvalidArgument);
        let exchanged = rename(bed, (b.ino(), "c"), (root, "a"), RenameMode::Exchange).await;
        assert_kind(exchanged, ErrorKind::InvalidArgument);
    }
    let above = bed.vfs.parent(c.ino()).await.expect("parent");
    assert_eq!(bed.adopt(&above).ino(), b.ino());
}

/// Whether the file system can exchange names at all: some hosts cannot.
async fn unless_unsupported_rename(bed: &Bed) -> bool {
    let (root, one, two) = (bed.root(), ".one", ".two");
    let _files = (bed.file(root, one, "").await, bed.file(root, two, "").await);
    let can = unless_unsupported(rename(bed, (root, one), (root, two), RenameMode::Exchange).await).is_some();
    for text in [one, two] {
        bed.unlink(root, text).await.expect("remove");
    }
    can
}

/// What is not there does not move.
pub async fn rename_of_what_is_not_there_is_not_found(bed: &Bed) {
    let root = bed.root();
    let _file = bed.file(root, "f", "kept").await;
    let before = bed.attr(root).await;
    assert_kind(replace(bed, (root, "none"), (root, "f")).await, ErrorKind::NotFound);
    assert_kind(replace(bed, (root, "none"), (root, "new")).await, ErrorKind::NotFound);
    assert_kind(replace(bed, (root, "none"), (root, "none")).await, ErrorKind::NotFound);
    assert_same(&bed.attr(root).await, &before);
}

/// Two names of one inode: both stay, and nothing moves.
pub async fn rename_of_two_names_of_one_inode_does_nothing(bed: &Bed) {
    let (root, file) = (bed.root(), bed.file(bed.root(), "f", "").await);
    let Some(linked) = unless_unsupported(bed.vfs.link(file.ino(), root, &name("g")).await) else { return };
    drop(bed.adopt(&linked.node));
    let (before, above) = (bed.attr(file.ino()).await, bed.attr(root).await);
    let renamed = replace(bed, (root, "f"), (root, "g")).await.expect("rename");
    assert_eq!(bed.names(root).await, ["f", "g"]);
    assert_same(&bed.attr(file.ino()).await, &before);
    assert_same(&bed.attr(root).await, &above);
    assert_frames(&renamed.from, &above, &above);
    let kept = rename(bed, (root, "f"), (root, "g"), RenameMode::NoReplace).await;
    if let Err(error) = kept {
        assert!(matches!(error.kind(), ErrorKind::Exists | ErrorKind::Unsupported), "{error:?}");
    } else {
        panic!("the new name is taken");
    }
}

/// Onto itself: nothing moves.
pub async fn rename_onto_itself_does_nothing(bed: &Bed) {
    let root = bed.root();
    let (_file, _dir) = (bed.file(root, "f", "").await, bed.dir(root, "d").await);
    let before = bed.attr(root).await;
    for text in ["f", "d"] {
        replace(bed, (root, text), (root, text)).await.expect("rename");
    }
    assert_same(&bed.attr(root).await, &before);
    assert_eq!(bed.names(root).await, ["d", "f"]);
}

/// `NoReplace` moves to a free name and to no other.
pub async fn rename_without_replacing(bed: &Bed) {
    let root = bed.root();
    let (file, _taken, _dir) =
        (bed.file(root, "f", "").await, bed.file(root, "taken", "kept").await, bed.dir(root, "dir").await);
    let free = rename(bed, (root, "f"), (root, "free"), RenameMode::NoReplace).await;
    if unless_unsupported(free).is_none() {
        return;
    }
    assert_eq!(bed.find(root, "free").await.expect("lookup").ino(), file.ino());
    for text in ["taken", "dir", "free"] {
        assert_kind(rename(bed, (root, "free"), (root, text), RenameMode::NoReplace).await, ErrorKind::Exists);
    }
    assert_eq!(bed.names(root).await, ["dir", "free", "taken"]);
}

/// `Exchange` swaps two names of any kinds.
pub async fn rename_exchanges_two_names(bed: &Bed) {
    if !unless_unsupported_rename(bed).await {
        return;
    }
    let root = bed.root();
    let (file, dir) = (bed.file(root, "f", "").await, bed.dir(root, "d").await);
    let _entry = bed.file(dir.ino(), "entry", "").await;
    let before = bed.attr(root).await;
    let renamed = rename(bed, (root, "f"), (root, "d"), RenameMode::Exchange).await.expect("exchange");
    assert_frames(&renamed.to, &before, &bed.attr(root).await);
    assert_eq!(renamed.node.ino, file.ino());
    assert_eq!(bed.find(root, "f").await.expect("lookup").ino(), dir.ino());
    assert_eq!(bed.find(root, "d").await.expect("lookup").ino(), file.ino());
    assert_eq!(bed.names(dir.ino()).await, ["entry"]);
}

/// `Exchange` swaps across directories, and ".." of each directory follows.
pub async fn rename_exchanges_across_directories(bed: &Bed) {
    if !unless_unsupported_rename(bed).await {
        return;
    }
    let (one, two) = (bed.dir(bed.root(), "1").await, bed.dir(bed.root(), "2").await);
    let (a, b) = (bed.dir(one.ino(), "a").await, bed.dir(two.ino(), "b").await);
    rename(bed, (one.ino(), "a"), (two.ino(), "b"), RenameMode::Exchange).await.expect("exchange");
    for (node, above) in [(&a, &two), (&b, &one)] {
        let found = bed.vfs.parent(node.ino()).await.expect("parent");
        assert_eq!(bed.adopt(&found).ino(), above.ino());
    }
    assert_eq!(bed.find(one.ino(), "a").await.expect("lookup").ino(), b.ino());
}

/// `Exchange` wants both names.
pub async fn rename_exchange_wants_both(bed: &Bed) {
    if !unless_unsupported_rename(bed).await {
        return;
    }
    let root = bed.root();
    let _file = bed.file(root, "f", "").await;
    assert_kind(rename(bed, (root, "f"), (root, "none"), RenameMode::Exchange).await, ErrorKind::NotFound);
    assert_kind(rename(bed, (root, "none"), (root, "f"), RenameMode::Exchange).await, ErrorKind::NotFound);
    assert_eq!(bed.names(root).await, ["f"]);
}

/// A place that has another inode than the caller believes is left alone, at either end.
pub async fn rename_checks_what_is_expected(bed: &Bed) {
    let root = bed.root();
    let (a, b) = (bed.file(root, "a", "").await, bed.file(root, "b", "").await);
    let (a_name, b_name, c_name) = (name("a"), name("b"), name("c"));
    let expecting = |text, lease: &crate::vfs::Lease| Place { expect: Some(lease.ino()), ..place(root, text) };
    let mode = RenameMode::Replace;
    let before = bed.attr(root).await;
    assert_kind(bed.vfs.rename(expecting(&a_name, &b), place(root, &c_name), mode).await, ErrorKind::Stale);
    assert_kind(bed.vfs.rename(place(root, &a_name), expecting(&b_name, &a), mode).await, ErrorKind::Stale);
    assert_same(&bed.attr(root).await, &before);
    // Nothing there is nothing else: the caller's target may have gone meanwhile.
    bed.vfs.rename(expecting(&a_name, &a), expecting(&c_name, &b), mode).await.expect("to a free name");
    bed.vfs.rename(expecting(&c_name, &a), expecting(&b_name, &b), mode).await.expect("as expected");
    assert_eq!(bed.find(root, "b").await.expect("lookup").ino(), a.ino());
}

/// ".." of a directory that moved is where it moved to.
pub async fn rename_moves_dot_dot(bed: &Bed) {
    let (from, to) = (bed.dir(bed.root(), "from").await, bed.dir(bed.root(), "to").await);
    let dir = bed.dir(from.ino(), "d").await;
    replace(bed, (from.ino(), "d"), (to.ino(), "d")).await.expect("rename");
    let above = bed.vfs.parent(dir.ino()).await.expect("parent");
    assert_eq!(bed.adopt(&above).ino(), to.ino());
    bed.rmdir(bed.root(), "from").await.expect("nothing is left in it");
}

/// Nothing moves into a directory that was removed.
pub async fn rename_into_a_removed_directory_is_not_found(bed: &Bed) {
    let (dir, _file) = (bed.dir(bed.root(), "d").await, bed.file(bed.root(), "f", "").await);
    bed.rmdir(bed.root(), "d").await.expect("rmdir");
    assert_kind(replace(bed, (bed.root(), "f"), (dir.ino(), "f")).await, ErrorKind::NotFound);
    assert_kind(replace(bed, (dir.ino(), "f"), (bed.root(), "g")).await, ErrorKind::NotFound);
    assert_eq!(bed.names(bed.root()).await, ["f"]);
}

/// Two directories that are moved into each other at the same time do not vanish into a loop.
pub async fn renames_at_once_make_no_loop(bed: &Bed) {
    for round in 0..16 {
        let top = bed.dir(bed.root(), &format!("top{round}")).await;
        let (a, b) = (bed.dir(top.ino(), "a").await, bed.dir(top.ino(), "b").await);
        let moves = [("a", b.ino()), ("b", a.ino())].map(|(text, into)| {
            let (vfs, dir, from) = (bed.vfs.clone(), top.ino(), name(text));
            async move { vfs.rename(place(dir, &from), place(into, &from), RenameMode::Replace).await }
        });
        let results = at_once(moves).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "round {round}");
        for dir in [&a, &b] {
            let mut at = dir.clone();
            for _ in 0..4 {
                let above = bed.vfs.parent(at.ino()).await.expect("parent");
                at = bed.adopt(&above);
            }
            assert_eq!(at.ino(), bed.root(), "round {round}");
        }
    }
}
