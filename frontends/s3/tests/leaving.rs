//! Buckets that go: nobody else waits for it however much there is to remove, and what was left goes with the next start.

mod s3;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use muxfs::{
    Error, ErrorKind, Name, Result, forward_vfs,
    testing::wire::working_tree,
    vfs::{Cookie, DirChanged, Listing, NewNode, Place, RemoveKind, SetAttr, Vfs, ext},
};
use tokio::{sync::Semaphore, time::timeout};

use self::s3::{Site, key};

/// Only what never comes takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Holds up whoever removes a file while it is closed, or refuses it.
#[derive(Debug)]
struct Gated {
    vfs: Arc<dyn Vfs>,
    is_closed: AtomicBool,
    is_refusing: AtomicBool,
    reached: Semaphore,
    open: Semaphore,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Gated {
    forward_vfs!(vfs: root, lookup, expect, parent, getattr, readdir, read, host_file, readlink, statfs, handle);
    forward_vfs!(vfs: resolve, retain, release, setattr, write, create, rename, link, allocate, punch_hole);
    forward_vfs!(vfs: copy_range, seek, getxattr, listxattr, setxattr, removexattr, sync, sync_inode);

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        if kind == RemoveKind::NonDir && self.is_refusing.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::ReadOnly, "gated.remove"));
        }
        if kind == RemoveKind::NonDir && self.is_closed.load(Ordering::SeqCst) {
            self.reached.add_permits(1);
            self.open.acquire().await.expect("open").forget();
        }
        self.vfs.remove(place, kind).await
    }
}

async fn gated() -> (Arc<Gated>, Site) {
    let (vfs, ()) = working_tree().await;
    let none = || Semaphore::new(0);
    let off = || AtomicBool::new(false);
    let gated = Arc::new(Gated { vfs, is_closed: off(), is_refusing: off(), reached: none(), open: none() });
    let site = Site::over(gated.clone(), vec![key("ann")]).await;
    (gated, site)
}

/// A bucket with an upload of one part, and a directory that another frontend made.
async fn make_bucket(site: &Site) {
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let begun = ann.ask("POST", "/abc/big", &[("uploads", "")], &[], b"").await.expect(200);
    let id = begun.one("UploadId").expect("an id");
    ann.ask("PUT", "/abc/big", &[("partNumber", "1"), ("uploadId", &id)], &[], b"part").await.expect(200);
    make(site, "abc", "empty", NewNode::Dir).await;
}

async fn make(site: &Site, dir: &str, name: &str, node: NewNode) {
    let named = |text: &str| Name::new(text.as_bytes()).expect("a name");
    let dirs: Vec<_> = dir.split('/').map(named).collect();
    let (dir, _) = ext::walk(&site.vfs, site.vfs.root(), &dirs).await.expect("there");
    let set = SetAttr { mode: Some(0o755), ..SetAttr::default() };
    let made = site.vfs.create(dir.ino(), &named(name), node, set).await.expect("made");
    site.vfs.release(made.node.ino, 1);
}

/// The names beside the buckets.
async fn names(vfs: &dyn Vfs) -> Vec<String> {
    let page = vfs.readdir(vfs.root(), Cookie::START, 100, Listing::Names).await.expect("lists");
    let mut names: Vec<_> = page.entries.iter().map(|entry| entry.name.to_string()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn nobody_waits_while_a_bucket_is_removed() {
    let (gate, site) = gated().await;
    let ann = site.ann();
    make_bucket(&site).await;
    ann.put("/other", b"").await.expect(200);
    gate.is_closed.store(true, Ordering::SeqCst);
    let removing = tokio::spawn({
        let ann = ann.clone();
        async move { ann.delete("/abc").await }
    });
    timeout(PATIENCE, gate.reached.acquire()).await.expect("the part is removed").expect("open").forget();
    let goes_on = async {
        for number in 0..40 {
            ann.put(&format!("/other/{number}"), b"x").await.expect(200);
        }
        ann.get("/abc/k").await.refused(404, "NoSuchBucket");
        // The name is free again already.
        ann.put("/abc", b"").await.expect(200);
        ann.put("/abc/k", b"new").await.expect(200);
    };
    timeout(PATIENCE, goes_on).await.expect("nobody waits");
    gate.is_closed.store(false, Ordering::SeqCst);
    gate.open.add_permits(1);
    removing.await.expect("it ends").expect(204);
    assert_eq!(ann.get("/abc/k").await.expect(200).text(), "new");
    assert_eq!(names(&*site.vfs).await, ["abc", "other"]);
}

#[tokio::test]
async fn what_a_stop_left_of_a_bucket_goes_and_what_another_put_there_comes_back() {
    for is_put in [false, true] {
        let (gate, site) = gated().await;
        make_bucket(&site).await;
        gate.is_closed.store(true, Ordering::SeqCst);
        let ann = site.ann();
        let removing = tokio::spawn(async move { ann.try_ask("DELETE", "/abc", &[], b"").await });
        timeout(PATIENCE, gate.reached.acquire()).await.expect("the part is removed").expect("open").forget();
        let left = names(&*site.vfs).await;
        assert!(matches!(&left[..], [one] if one.starts_with(".muxfs-s3.leaving.abc.")), "{left:?}");
        if is_put {
            make(&site, &left[0], "file", NewNode::File).await;
        }
        let Site { server, .. } = site;
        drop(server);
        assert!(removing.await.expect("it ends").is_none(), "it is cut off");
        let site = Site::over(gate.vfs.clone(), vec![key("ann")]).await;
        let expected: &[&str] = if is_put { &["abc"] } else { &[] };
        assert_eq!(names(&*site.vfs).await, expected);
        if is_put {
            assert_eq!(site.ann().list("abc", "", "", 10).await, ["file"]);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_removed_keeps_no_other_bucket_from_being_served() {
    let (gate, site) = gated().await;
    make_bucket(&site).await;
    site.ann().put("/other", b"").await.expect(200);
    site.ann().put("/other/k", b"kept").await.expect(200);
    make(&site, "other/.muxfs-s3.work", "half", NewNode::File).await;
    gate.is_refusing.store(true, Ordering::SeqCst);
    site.ann().delete("/abc").await.refused(403, "AccessDenied");
    for is_refusing in [true, false] {
        gate.is_refusing.store(is_refusing, Ordering::SeqCst);
        let site = Site::over(gate.clone(), vec![key("ann")]).await;
        assert_eq!(site.ann().get("/other/k").await.expect(200).text(), "kept");
        let left = names(&*site.vfs).await;
        assert_eq!(left.iter().any(|name| name.starts_with(".muxfs-s3.leaving.abc.")), is_refusing, "{left:?}");
        assert_eq!(site.file("other/.muxfs-s3.work/half").await.is_some(), is_refusing);
    }
}
