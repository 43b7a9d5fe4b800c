//! Laws of attributes, plain and extended.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{
    Bed, assert_frames, assert_kind, assert_moved, assert_same, name, place, unless_unprivileged, unless_unsupported,
};
use crate::{
    ErrorKind,
    vfs::{NewNode, RenameMode, SetAttr, SetTime, XATTR_LEN_MAX, XattrMode, XattrName},
};

fn secs(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

/// Each attribute is set alone; `ctime` and `change` tell that something was.
pub async fn setattr_sets_what_is_given_and_nothing_else(bed: &Bed) {
    for node in [NewNode::File, NewNode::Dir, NewNode::Fifo] {
        let text = format!("{:?}", node.kind());
        let node = bed.make(bed.root(), &text, node).await;
        let before = bed.attr(node.ino()).await;
        let set = SetAttr { mode: Some(0o711), ..SetAttr::default() };
        let changed = bed.vfs.setattr(node.ino(), set).await.expect("setattr");
        let after = bed.attr(node.ino()).await;
        assert_frames(&changed, &before, &after);
        assert_moved(&before, &after, false);
        assert_eq!((after.mode, after.uid, after.gid, after.size), (0o711, before.uid, before.gid, before.size));
        let set = SetAttr { mtime: Some(SetTime::At(secs(5))), ..SetAttr::default() };
        bed.vfs.setattr(node.ino(), set).await.expect("setattr");
        let timed = bed.attr(node.ino()).await;
        assert_eq!((timed.mtime, timed.mode), (secs(5), 0o711), "{text}");
        assert!(timed.ctime >= after.ctime && timed.change > after.change, "{text}");
    }
}

/// Times come back as they were set, to the second at least and never later.
pub async fn setattr_keeps_times(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    for time in [secs(0), secs(1), secs(1_234_567_890), secs(1 << 31), secs((1 << 32) - 1)] {
        let time = time + Duration::from_nanos(999_999_999);
        let set = SetAttr { atime: Some(SetTime::At(time)), mtime: Some(SetTime::At(time)), ..SetAttr::default() };
        bed.vfs.setattr(file.ino(), set).await.expect("setattr");
        let attr = bed.attr(file.ino()).await;
        for kept in [attr.atime, attr.mtime] {
            assert!(kept <= time && time.duration_since(kept).is_ok_and(|lost| lost.as_secs() < 1), "{kept:?}");
        }
    }
}

/// `Now` is no earlier than what was there, nor than what was made before it.
pub async fn setattr_now_is_not_the_past(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    let set = SetAttr { mtime: Some(SetTime::At(secs(5))), atime: Some(SetTime::At(secs(5))), ..SetAttr::default() };
    bed.vfs.setattr(file.ino(), set).await.expect("setattr");
    let earlier = bed.attr(file.ino()).await.ctime;
    let set = SetAttr { mtime: Some(SetTime::Now), atime: Some(SetTime::Now), ..SetAttr::default() };
    bed.vfs.setattr(file.ino(), set).await.expect("setattr");
    let attr = bed.attr(file.ino()).await;
    assert!(attr.mtime >= earlier && attr.atime >= earlier, "{:?} before {earlier:?}", attr.mtime);
}

/// Nothing to set: nothing moves.
pub async fn setattr_of_nothing_changes_nothing(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    let before = bed.attr(file.ino()).await;
    bed.vfs.setattr(file.ino(), SetAttr::default()).await.expect("setattr");
    assert_same(&bed.attr(file.ino()).await, &before);
}

/// The kind is not in the mode: higher bits are ignored; a symlink stays 0777.
pub async fn setattr_ignores_high_bits_of_the_mode(bed: &Bed) {
    let set = SetAttr { mode: Some(0o170_644), ..SetAttr::default() };
    let file = bed.file(bed.root(), "f", "").await;
    bed.vfs.setattr(file.ino(), set.clone()).await.expect("setattr");
    assert_eq!(bed.attr(file.ino()).await.mode, 0o644);
    let made = bed.vfs.create(bed.root(), &name("g"), NewNode::File, set.clone()).await.expect("create");
    assert_eq!((bed.adopt(&made.node).ino(), made.node.mode), (made.node.ino, 0o644));
    let link = bed.make(bed.root(), "l", NewNode::Symlink("f".into())).await;
    bed.vfs.setattr(link.ino(), set).await.expect("setattr");
    assert_eq!(bed.attr(link.ino()).await.mode, 0o777);
    assert_eq!(bed.attr(file.ino()).await.mode, 0o644, "what it points to is not meant");
}

/// Where size and `mtime` are set at once, `mtime` is what was asked for.
pub async fn setattr_of_size_lets_mtime_win(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "data").await;
    let set = SetAttr { size: Some(2), mtime: Some(SetTime::At(secs(7))), ..SetAttr::default() };
    let after = bed.vfs.setattr(file.ino(), set).await.expect("setattr").after;
    assert_eq!((after.size, after.mtime), (2, secs(7)));
}

/// Owner and group are set, each alone.
pub async fn setattr_sets_owners(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    let before = bed.attr(file.ino()).await;
    let set = SetAttr { uid: Some(1234), ..SetAttr::default() };
    let Some(changed) = unless_unprivileged(bed.vfs.setattr(file.ino(), set).await) else { return };
    assert_eq!((changed.after.uid, changed.after.gid), (1234, before.gid));
    let set = SetAttr { gid: Some(4321), ..SetAttr::default() };
    let changed = bed.vfs.setattr(file.ino(), set).await.expect("setattr");
    assert_eq!((changed.after.uid, changed.after.gid), (1234, 4321));
    let made = SetAttr { uid: Some(5), gid: Some(6), mode: Some(0o600), ..SetAttr::default() };
    let made = bed.vfs.create(bed.root(), &name("g"), NewNode::File, made).await.expect("create").node;
    assert_eq!((bed.adopt(&made).ino(), made.uid, made.gid), (made.ino, 5, 6));
}

fn xattr(text: &str) -> XattrName {
    XattrName::new(text.as_bytes()).expect("a good name")
}

/// An extended attribute is set, read, listed and removed; its value is bytes, and may be empty.
pub async fn xattrs_are_kept(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    let before = bed.attr(file.ino()).await;
    let (one, two) = (xattr("user.one"), xattr("user.two"));
    let value = Bytes::from_static(b"\0\xff binary");
    let set = bed.vfs.setxattr(file.ino(), &one, value.clone(), XattrMode::Set).await;
    let Some(changed) = unless_unsupported(set) else { return };
    assert_frames(&changed, &before, &bed.attr(file.ino()).await);
    assert_moved(&before, &changed.after, false);
    bed.vfs.setxattr(file.ino(), &two, Bytes::new(), XattrMode::Set).await.expect("setxattr");
    assert_eq!(bed.vfs.getxattr(file.ino(), &one).await.expect("getxattr"), value);
    assert_eq!(bed.vfs.getxattr(file.ino(), &two).await.expect("getxattr"), Bytes::new());
    let listed = bed.vfs.listxattr(file.ino()).await.expect("listxattr");
    assert!(listed.contains(&one) && listed.contains(&two), "{listed:?}");
    bed.vfs.removexattr(file.ino(), &one).await.expect("removexattr");
    assert_kind(bed.vfs.getxattr(file.ino(), &one).await, ErrorKind::NoAttr);
    assert_kind(bed.vfs.removexattr(file.ino(), &one).await, ErrorKind::NoAttr);
    assert!(!bed.vfs.listxattr(file.ino()).await.expect("listxattr").contains(&one));
}

/// `Create` wants it absent, `Replace` wants it there, and no value is longer than the limit.
pub async fn xattr_modes_are_kept(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "").await;
    let name = xattr("user.a");
    let set = |value: &'static str, mode| bed.vfs.setxattr(file.ino(), &name, value.into(), mode);
    let Some(_) = unless_unsupported(set("1", XattrMode::Create).await) else { return };
    assert_kind(set("2", XattrMode::Create).await, ErrorKind::Exists);
    assert_eq!(bed.vfs.getxattr(file.ino(), &name).await.expect("getxattr"), "1");
    set("3", XattrMode::Replace).await.expect("it is there");
    assert_eq!(bed.vfs.getxattr(file.ino(), &name).await.expect("getxattr"), "3");
    bed.vfs.removexattr(file.ino(), &name).await.expect("removexattr");
    assert_kind(set("4", XattrMode::Replace).await, ErrorKind::NoAttr);
    let long = Bytes::from(vec![b'x'; XATTR_LEN_MAX + 1]);
    assert_kind(bed.vfs.setxattr(file.ino(), &name, long, XattrMode::Set).await, ErrorKind::TooLarge);
}

/// Extended attributes are the inode's, not the name's.
pub async fn xattrs_follow_the_inode(bed: &Bed) {
    let (file, attr) = (bed.file(bed.root(), "f", "").await, xattr("user.a"));
    let set = bed.vfs.setxattr(file.ino(), &attr, "1".into(), XattrMode::Set).await;
    if unless_unsupported(set).is_none() {
        return;
    }
    let (f, g) = (name("f"), name("g"));
    bed.vfs.rename(place(bed.root(), &f), place(bed.root(), &g), RenameMode::Replace).await.expect("rename");
    let new = bed.file(bed.root(), "f", "").await;
    assert_kind(bed.vfs.getxattr(new.ino(), &attr).await, ErrorKind::NoAttr);
    let found = bed.find(bed.root(), "g").await.expect("lookup");
    assert_eq!(bed.vfs.getxattr(found.ino(), &attr).await.expect("getxattr"), "1");
}
