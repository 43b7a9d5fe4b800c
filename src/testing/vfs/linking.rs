//! Laws of hard links.

use super::{Bed, assert_frames, assert_kind, assert_moved, assert_same, name, place, unless_unsupported};
use crate::{
    ErrorKind,
    vfs::{NewNode, RenameMode, SetAttr},
};

/// A link is one more name of the same inode; each name that goes takes one away.
pub async fn link_gives_one_more_name(bed: &Bed) {
    let (file, dir) = (bed.file(bed.root(), "f", "data").await, bed.dir(bed.root(), "d").await);
    let (before, above) = (bed.attr(file.ino()).await, bed.attr(dir.ino()).await);
    let Some(linked) = unless_unsupported(bed.vfs.link(file.ino(), dir.ino(), &name("g")).await) else { return };
    let second = bed.adopt(&linked.node);
    assert_eq!((second.ino(), linked.node.nlink, before.nlink), (file.ino(), 2, 1));
    assert_frames(&linked.dir, &above, &bed.attr(dir.ino()).await);
    let after = bed.attr(file.ino()).await;
    assert_same(&linked.node, &after);
    assert_moved(&before, &after, false);
    assert_eq!(bed.find(dir.ino(), "g").await.expect("lookup").ino(), file.ino());
    let gone = bed.unlink(bed.root(), "f").await.expect("remove");
    assert_eq!(gone.node.nlink, 1);
    assert_moved(&after, &bed.attr(file.ino()).await, false);
    assert_eq!(bed.read(file.ino()).await, "data");
    assert_eq!(bed.unlink(dir.ino(), "g").await.expect("remove").node.nlink, 0);
}

/// No second name for a directory, none where one is taken, none for what has no name any more.
pub async fn link_where_it_cannot_be_is_refused(bed: &Bed) {
    let (file, dir) = (bed.file(bed.root(), "f", "").await, bed.dir(bed.root(), "d").await);
    let Some(linked) = unless_unsupported(bed.vfs.link(file.ino(), bed.root(), &name("g")).await) else { return };
    drop(bed.adopt(&linked.node));
    let before = bed.attr(file.ino()).await;
    for taken in ["f", "g", "d"] {
        assert_kind(bed.vfs.link(file.ino(), bed.root(), &name(taken)).await, ErrorKind::Exists);
    }
    assert_kind(bed.vfs.link(dir.ino(), bed.root(), &name("new")).await, ErrorKind::NotPermitted);
    assert_kind(bed.vfs.link(file.ino(), file.ino(), &name("new")).await, ErrorKind::NotDir);
    assert_same(&bed.attr(file.ino()).await, &before);
    bed.unlink(bed.root(), "f").await.expect("remove");
    bed.unlink(bed.root(), "g").await.expect("remove");
    assert_kind(bed.vfs.link(file.ino(), bed.root(), &name("new")).await, ErrorKind::NotFound);
}

/// What is done through one name shows through the other; symlinks can have two names too.
pub async fn links_share_everything(bed: &Bed) {
    let file = bed.file(bed.root(), "f", "one").await;
    let Some(linked) = unless_unsupported(bed.vfs.link(file.ino(), bed.root(), &name("g")).await) else { return };
    drop(bed.adopt(&linked.node));
    let other = bed.find(bed.root(), "g").await.expect("lookup");
    bed.vfs.write(other.ino(), 0, "two".into(), false).await.expect("write");
    bed.vfs.setattr(other.ino(), SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.expect("setattr");
    assert_eq!(bed.read(file.ino()).await, "two");
    assert_eq!(bed.attr(file.ino()).await.mode, 0o600);
    let (f, h) = (name("f"), name("h"));
    bed.vfs.rename(place(bed.root(), &f), place(bed.root(), &h), RenameMode::Replace).await.expect("rename");
    assert_eq!(bed.attr(other.ino()).await.nlink, 2);
    assert_eq!(bed.names(bed.root()).await, ["g", "h"]);
    let link = bed.make(bed.root(), "s", NewNode::Symlink("to".into())).await;
    if let Some(linked) = unless_unsupported(bed.vfs.link(link.ino(), bed.root(), &name("t")).await) {
        assert_eq!((bed.adopt(&linked.node).ino(), linked.node.nlink), (link.ino(), 2));
    }
}
