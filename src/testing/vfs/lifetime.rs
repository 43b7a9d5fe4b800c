//! Laws of how long nodes, numbers and handles live.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Bed, assert_kind, name, place};
use crate::{
    ErrorKind,
    vfs::{RenameMode, SetAttr},
};

/// A file that lost its last name is read, written, cut and told about for as long as it is leased.
pub async fn a_file_without_a_name_answers_while_leased(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "data").await;
    bed.unlink(bed.root(), "f").await.expect("remove");
    let _other = bed.file(bed.root(), "f", "another").await;
    assert_eq!(bed.attr(file.ino()).await.nlink, 0);
    assert_eq!(bed.read(file.ino()).await, "data");
    bed.vfs.write(file.ino(), 4, Bytes::from_static(b" more"), false).await.expect("write");
    assert_eq!(bed.read(file.ino()).await, "data more");
    let set = SetAttr { size: Some(2), mode: Some(0o600), ..SetAttr::default() };
    bed.vfs.setattr(file.ino(), set).await.expect("setattr");
    let second = file.clone();
    drop(file);
    assert_eq!(bed.read(second.ino()).await, "da");
    assert_kind(bed.vfs.parent(second.ino()).await.map(|attr| bed.adopt(&attr)), ErrorKind::NotFound);
}

/// So does a file that another one replaced.
pub async fn a_replaced_file_answers_while_leased(bed: &Bed) {
    let (old, _new) = (bed.file(bed.root(), "old", "old").await, bed.file(bed.root(), "new", "new").await);
    let (from, to) = (name("new"), name("old"));
    bed.vfs.rename(place(bed.root(), &from), place(bed.root(), &to), RenameMode::Replace).await.expect("rename");
    assert_eq!((bed.attr(old.ino()).await.nlink, bed.read(old.ino()).await), (0, "old".into()));
}

/// With the last name and the last lease the node goes: its handle is `Stale`, whatever has the name now.
pub async fn a_handle_of_what_is_gone_is_stale(bed: &Bed) {
    let (file, dir) = (bed.file(bed.root(), "f", "data").await, bed.dir(bed.root(), "d").await);
    let handles = [file.ino(), dir.ino()].map(|ino| bed.vfs.handle(ino).expect("handle"));
    bed.unlink(bed.root(), "f").await.expect("remove");
    bed.rmdir(bed.root(), "d").await.expect("rmdir");
    drop((file, dir));
    let _others = (bed.file(bed.root(), "f", "another").await, bed.dir(bed.root(), "d").await);
    for handle in handles {
        assert_kind(bed.vfs.resolve(&handle).await.map(|attr| bed.adopt(&attr)), ErrorKind::Stale);
    }
}

/// A handle names the node, not the name: it leads there after renames, also of a directory above.
pub async fn a_handle_follows_a_rename(bed: &Bed) {
    let (one, two) = (bed.dir(bed.root(), "1").await, bed.dir(bed.root(), "2").await);
    let file = bed.file(one.ino(), "f", "data").await;
    let (ino, handle) = (file.ino(), bed.vfs.handle(file.ino()).expect("handle"));
    drop(file);
    let names = ["f", "g", "2", "3"].map(name);
    let [f, g, from, to] = &names;
    bed.vfs.rename(place(one.ino(), f), place(two.ino(), g), RenameMode::Replace).await.expect("rename");
    bed.vfs.rename(place(bed.root(), from), place(bed.root(), to), RenameMode::Replace).await.expect("rename");
    let found = bed.vfs.resolve(&handle).await.expect("resolve");
    let file = bed.adopt(&found);
    assert_eq!(file.ino(), ino);
    assert_eq!(bed.read(file.ino()).await, "data");
    assert_eq!(bed.vfs.handle(file.ino()).expect("handle"), handle);
}

/// No number is ever given to another node, nor a handle.
pub async fn numbers_are_not_used_again(bed: &Bed) {
    let (mut inos, mut handles) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..50 {
        let file = bed.file(bed.root(), "f", "").await;
        assert!(inos.insert(file.ino()), "round {round}");
        assert!(handles.insert(bed.vfs.handle(file.ino()).expect("handle").0), "round {round}");
        bed.unlink(bed.root(), "f").await.expect("remove");
    }
}

/// What has no name any more can still be synced by who has it open.
pub async fn a_file_without_a_name_can_be_synced(bed: &Bed) {
    let (file, dir) = (bed.file(bed.root(), "f", "data").await, bed.dir(bed.root(), "d").await);
    bed.unlink(bed.root(), "f").await.expect("remove");
    bed.rmdir(bed.root(), "d").await.expect("rmdir");
    for ino in [file.ino(), dir.ino(), bed.root()] {
        bed.vfs.sync(ino).await.expect("sync");
    }
}
