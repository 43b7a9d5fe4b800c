//! A file system below that fails, that is gone, or that lies: what did not come is an error that says so, what came is there,
//! and nothing is half there.

use super::*;
use crate::{
    Error,
    vfs::{FsStat, Handle},
};

/// What a file system below that lost its place says of every node, and what those above are told.
#[tokio::test]
async fn what_fails_below_is_told_and_what_came_is_there() {
    let (ground, fs) = built().await;
    let overlay = ground.open().await;
    let (a, _) = find(&overlay, "a").await;
    let (b, _) = find(&overlay, "b").await;
    let (c, _) = find(&overlay, "c").await;
    let made =
        overlay.create(overlay.root(), &name("new"), NewNode::File, SetAttr::default()).await.expect("create").node;
    for (below, told) in [
        (ErrorKind::Stale, ErrorKind::Io),
        (ErrorKind::NotFound, ErrorKind::Io),
        (ErrorKind::Denied, ErrorKind::Io),
        (ErrorKind::Io, ErrorKind::Io),
        (ErrorKind::Corrupt, ErrorKind::Corrupt),
        (ErrorKind::Unavailable, ErrorKind::Unavailable),
    ] {
        fs.fail(Some(below));
        let root = overlay.root();
        let kinds = [
            overlay.read(a.ino(), 0, 10).await.map(drop),
            overlay.write(a.ino(), 0, "x".into(), false).await.map(drop),
            overlay.setattr(a.ino(), SetAttr { size: Some(7), ..SetAttr::default() }).await.map(drop),
            overlay.lookup(b.ino(), &name("a")).await.map(drop),
            overlay.readdir(b.ino(), Cookie::START, 10, Listing::Names).await.map(drop),
            overlay.create(b.ino(), &name("x"), NewNode::File, SetAttr::default()).await.map(drop),
            overlay.remove(place(root, &name("b")), RemoveKind::Dir).await.map(drop),
            overlay.rename(place(root, &name("a")), place(b.ino(), &name("x")), RenameMode::Replace).await.map(drop),
        ];
        for (at, done) in kinds.into_iter().enumerate() {
            assert_eq!(done.map_err(|error| error.kind()), Err(told), "{below:?}, call {at}");
        }
        // What came, what is here alone, and what is known of the rest.
        overlay.write(made.ino, 0, "here".into(), false).await.expect("it is here");
        overlay.sync(made.ino).await.expect("it is here");
        assert_eq!(overlay.readlink(c.ino()).await.expect("it came with its directory"), "target");
        assert_eq!(overlay.getattr(a.ino()).await.expect("it is known").size, 5000);
        overlay.setattr(a.ino(), SetAttr { mode: Some(0o644), ..SetAttr::default() }).await.expect("it is here");
        // Nothing of it is wanted any more.
        let gone = overlay.create(root, &name("gone"), NewNode::File, SetAttr::default()).await.expect("create").node;
        overlay.remove(place(root, &name("gone")), RemoveKind::NonDir).await.expect("removed");
        overlay.release(gone.ino, 1);
        fs.fail(None);
        assert_eq!(overlay.read(a.ino(), 0, 9999).await.expect("read"), content(5000), "{below:?}");
    }
    fs.fail(Some(ErrorKind::Unavailable));
    let cut = overlay.setattr(a.ino(), SetAttr { size: Some(0), ..SetAttr::default() }).await;
    assert_eq!(cut.expect("nothing of it is needed").after.size, 0);
    fs.fail(None);
    assert_eq!(list(&*overlay, b.ino(), 10).await.expect("listed").len(), 3);
}

/// A file that ends before it was said to, and one whose source dies after some of it came.
#[tokio::test]
async fn a_file_that_comes_in_part_is_as_below_and_comes_again() {
    let (ground, fs) = built().await;
    let overlay = ground.open().await;
    let (a, _) = find(&overlay, "a").await;
    let below = fs.lookup(fs.root(), &name("a")).await.expect("it is there").ino;
    fs.setattr(below, SetAttr { size: Some(3000), ..SetAttr::default() }).await.expect("cut below");
    let error = overlay.write(a.ino(), 0, "x".into(), false).await.expect_err("it is shorter");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let attr = overlay.getattr(a.ino()).await.expect("getattr");
    assert_eq!((attr.size, attr.used), (5000, 5000), "it is as it was said to be");
    assert_eq!(overlay.read(a.ino(), 0, 9999).await.expect("read").len(), 3000, "and read as it is below");
    // What came is not fetched again, not after a restart either.
    overlay.sync(overlay.root()).await.expect("sync");
    drop((a, overlay));
    fs.write(below, 3000, content(5000).slice(3000..), false).await.expect("write");
    let overlay = ground.open().await;
    let (a, _) = find(&overlay, "a").await;
    ground.read_len();
    overlay.write(a.ino(), 0, "x".into(), false).await.expect("write");
    assert_eq!(ground.read_len(), 2000);
    assert_eq!(overlay.read(a.ino(), 1, 9999).await.expect("read"), content(5000).slice(1..));
}

/// A file system below whose listings are what somebody else wants.
#[derive(Debug)]
struct Liar {
    fs: Arc<ModelFs>,
    lists: std::sync::Mutex<Vec<Vec<&'static str>>>,
}

#[async_trait]
impl Vfs for Liar {
    forward_vfs!(fs: root, lookup, parent, getattr, read, readlink, handle, resolve, retain, release);

    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        self.fs.statfs(ino).await
    }

    async fn readdir(&self, dir: Ino, _: Cookie, _: usize, _: Listing) -> Result<DirPage> {
        let mut page = self.fs.readdir(dir, Cookie::START, 10, Listing::Names).await?;
        let first = page.entries.remove(0);
        let mut lists = self.lists.lock().expect("no panic");
        let names = lists.pop().ok_or_else(|| Error::new(ErrorKind::Unavailable, "liar"))?;
        let entry = |text: &&str| crate::vfs::DirEntry { name: name(text), ..first.clone() };
        Ok(DirPage { entries: names.iter().map(entry).collect(), eof: lists.is_empty() })
    }
}

/// A listing that names one thing twice, breaks off, or never ends: names are there once, and a directory is shown when all
/// of it came.
#[tokio::test]
async fn a_listing_that_lies_makes_no_directory_that_does() {
    let (ground, fs) = built().await;
    let liar = Arc::new(Liar { fs, lists: vec![vec!["a", "b"], vec!["a"]].into() });
    let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), testing::env()) };
    let tree = Tree::open(ground.dag.clone(), ground.journal.clone(), ground.heads.clone(), options).await;
    let overlay = Overlay::new(tree.expect("opens"), liar.clone());
    overlay.begin(liar.root()).await.expect("begins");
    liar.lists.lock().expect("no panic").insert(0, vec!["a", "a", "c"]);
    let entries = list(&overlay, overlay.root(), 10).await.expect("listed");
    let mut names: Vec<String> = entries.iter().map(|entry| entry.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "c"]);
    // A handle of theirs that leads elsewhere than to a file of this file system.
    let foreign = Handle("nobody's".into());
    assert_eq!(overlay.resolve(&foreign).await.expect_err("foreign").kind(), ErrorKind::InvalidArgument);
}
