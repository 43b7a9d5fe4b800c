//! How a mount begins and ends: refused, busy, taken away by others, given one owner.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
    time::Duration,
};

use muxfs::{ErrorKind, vfs::NewNode};
use muxfs_fuse::{Options, mount, unmount};

use super::{Bed, blocking, is_root, name, names_in, unmounted, within_patience};

/// One that programs use stays until they are done, or until it is detached; what they wrote is durable then.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_in_use_is_not_taken_away() {
    let Some(bed) = Bed::new().await else { return };
    let path = bed.path("f");
    let file = blocking(move || File::create(path).expect("made")).await;
    let error = within_patience(bed.mounted.unmount()).await.expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:#}").contains("-l"), "it says what to do: {error:#}");
    let dir = bed.mounted.dir().to_owned();
    blocking(move || assert_eq!(names_in(&dir), ["f"], "it is still there")).await;

    within_patience(bed.mounted.detach()).await.expect("detached");
    let dir = bed.mounted.dir().to_owned();
    let file = blocking(move || {
        assert!(names_in(&dir).is_empty(), "it is out of its place");
        io::Write::write_all(&mut &file, b"to the end").expect("who has it open goes on");
        file
    })
    .await;
    let syncs = bed.fs.sync_count();
    blocking(move || drop(file)).await;
    within_patience(bed.mounted.wait()).await.expect("ended");
    assert!(bed.fs.sync_count() > syncs, "everything was synced");
    assert_eq!(bed.read("f").await, b"to the end");
    assert_eq!(bed.fs.lease_count(), 0);
}

/// Whoever takes it away: `wait` returns when all is durable and given back.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_others_take_away_ends_well() {
    let Some(bed) = Bed::new().await else { return };
    let (path, dir) = (bed.path("f"), bed.mounted.dir().to_owned());
    blocking(move || fs::write(path, "kept").expect("written")).await;
    blocking(move || unmount(&dir, false).expect("not in use")).await;
    within_patience(bed.mounted.wait()).await.expect("ended");
    assert_eq!(bed.fs.lease_count(), 0);
    bed.mounted.unmount().await.expect("it is gone already");
    let dir = bed.mounted.dir().to_owned();
    let error = blocking(move || unmount(&dir, false).expect_err("nothing there")).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mounted_is_refused_with_a_reason() {
    let Some(bed) = Bed::new().await else { return };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let options = Options::default;
    drop(bed.make(bed.elsewhere.root(), "f", NewNode::File).await);
    let places = tempfile::tempdir().expect("a directory");
    let refused = [
        (places.path().join("absent"), options(), ErrorKind::NotFound),
        (file.path().to_owned(), options(), ErrorKind::NotDir),
        (bed.mounted.dir().to_owned(), options(), ErrorKind::Exists),
        (places.path().to_owned(), Options { below: vec![name("absent")], ..options() }, ErrorKind::NotFound),
        (places.path().to_owned(), Options { below: vec![name("f")], ..options() }, ErrorKind::NotDir),
    ];
    for (dir, options, kind) in refused {
        let error = within_patience(mount(&bed.watch, &dir, options)).await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{error:#}");
    }
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_mounted_read_only() {
    let Some(bed) = Bed::new().await else { return };
    let top = bed.make(bed.elsewhere.root(), "top", NewNode::Dir).await;
    drop(bed.make(top.ino(), "f", NewNode::File).await);
    drop(top);
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { below: vec![name("top")], read_only: true, ..Options::default() };
    let part = mount(&bed.watch, dir.path(), options).await.expect("mounted");
    let dir = part.dir().to_owned();
    blocking(move || {
        assert_eq!(names_in(&dir), ["f"]);
        assert_eq!(fs::metadata(&dir).expect("there").ino(), 1);
        for refused in [fs::write(dir.join("g"), "").err(), fs::remove_file(dir.join("f")).err()] {
            assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::ReadOnlyFilesystem));
        }
    })
    .await;
    unmounted(&part).await;
    bed.end().await;
}

/// A call waits for a store that is out of reach, as long as it may.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_out_of_reach_is_waited_for() {
    let Some(bed) = Bed::new().await else { return };
    let hasty_dir = tempfile::tempdir().expect("a directory");
    let options = Options { unavailable_after: Duration::ZERO, ..Options::default() };
    let hasty = mount(&bed.watch, hasty_dir.path(), options).await.expect("mounted");
    let (patient, hasty_path) = (bed.path("f"), hasty.dir().join("f"));
    bed.fs.fail(Some(ErrorKind::Unavailable));
    let waiting = tokio::spawn(blocking(move || fs::write(patient, "after all")));
    let failed = blocking(move || fs::write(hasty_path, "")).await.expect_err("it does not wait");
    assert_eq!(failed.raw_os_error(), Some(5), "EIO");
    assert!(!waiting.is_finished());
    bed.fs.fail(None);
    within_patience(waiting).await.expect("no panic").expect("written");
    assert_eq!(bed.read("f").await, b"after all");
    unmounted(&hasty).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_is_shown_for_all() {
    let options = Options { uid: Some(1234), gid: Some(4321), allow_other: true, ..Options::default() };
    let Some(bed) = Bed::with(options).await else { return };
    let path = bed.path("f");
    blocking(move || {
        if !is_root() {
            return;
        }
        fs::write(&path, "").expect("made");
        let owner = |path: &Path| fs::metadata(path).map(|attr| (attr.uid(), attr.gid())).expect("there");
        assert_eq!(owner(&path), (1234, 4321));
        chown(&path, Some(1234), None).expect("it is theirs");
        assert_eq!(chown(&path, Some(7), None).expect_err("there is one").raw_os_error(), Some(1));
    })
    .await;
    bed.end().await;
}
