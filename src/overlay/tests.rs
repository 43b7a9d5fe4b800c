//! What an overlay keeps: the laws of a file system, what is below as it is there, and what a crash leaves.

mod begin;
mod checkout;
mod crash;
mod hostile;

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};

use super::{BASE_XATTR, BELOW_XATTR, Below, Overlay};
use crate::{
    ErrorKind, FileKind, Name, Result,
    block::Mem,
    dag::{Dag, DagOptions, Params, Profile},
    forward_vfs,
    heads::MemHeads,
    media::MemMedia,
    testing::{
        self,
        model::ModelFs,
        vfs::{build_specimen, compare_with},
    },
    tree::{Tree, TreeOptions},
    vfs::{
        Attr, Cookie, DirPage, Ino, Lease, Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, SetTime, Vfs,
        XattrMode, XattrName,
        ext::{list, read_to_end, walk},
    },
    vfs_laws, vfs_read_laws,
};

/// The file system below, and how much was read of it. It is so slow that others go on meanwhile.
struct Lower {
    fs: Arc<ModelFs>,
    read_len: AtomicU64,
    longest: AtomicU64,
    /// What a call waits for, and how many there are before that.
    then: Mutex<Option<(u64, BoxFuture<'static, ()>)>>,
}

impl fmt::Debug for Lower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lower").finish_non_exhaustive()
    }
}

impl Lower {
    /// After so many calls more, the next waits for this.
    fn then(&self, count: u64, then: impl Future<Output = ()> + Send + 'static) {
        *self.then.lock().expect("no panic") = Some((count, then.boxed()));
    }

    /// Whether no call is to wait any more.
    fn is_done(&self) -> bool {
        self.then.lock().expect("no panic").is_none()
    }

    async fn called(&self) {
        tokio::task::yield_now().await;
        let then = {
            let mut then = self.then.lock().expect("no panic");
            match &mut *then {
                Some((count, _)) if *count > 0 => {
                    *count -= 1;
                    None
                }
                _ => then.take(),
            }
        };
        if let Some((_, then)) = then {
            then.await;
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Lower {
    forward_vfs!(fs: root, lookup, parent, getattr, host_file, readlink, statfs, handle, resolve, retain);
    forward_vfs!(fs: release, setattr, write, create, remove, rename, link, allocate, punch_hole, copy_range, seek);
    forward_vfs!(fs: getxattr, listxattr, setxattr, removexattr, sync, sync_inode, expect);

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        self.called().await;
        self.fs.readdir(dir, after, count, listing).await
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.called().await;
        let bytes = self.fs.read(ino, offset, len).await?;
        self.read_len.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.longest.fetch_max(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// What outlives an overlay: what it is opened over again.
#[derive(Debug, Clone)]
struct Ground {
    dag: Dag,
    journal: Arc<MemMedia>,
    heads: Arc<MemHeads>,
    lower: Arc<Lower>,
}

impl Ground {
    /// Over a file system in memory; chunks are so short that small files have many.
    fn over(fs: Arc<ModelFs>) -> Self {
        let params = Params { chunk_len: 1024, width: 8, ..Profile::default().params() };
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions { params, ..DagOptions::default() });
        let lower =
            Arc::new(Lower { fs, read_len: AtomicU64::new(0), longest: AtomicU64::new(0), then: Mutex::default() });
        Self { dag, journal: Arc::default(), heads: Arc::default(), lower }
    }

    async fn open(&self) -> Arc<Overlay> {
        let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), testing::env()) };
        let tree = Tree::open(self.dag.clone(), self.journal.clone(), self.heads.clone(), options).await;
        let overlay = Overlay::new(tree.expect("the tree opens"), self.lower.clone()).over(Vec::new());
        overlay.ready().await.expect("it begins");
        Arc::new(overlay)
    }

    /// How many bytes were read below since this was asked last.
    fn read_len(&self) -> u64 {
        self.lower.read_len.swap(0, Ordering::Relaxed)
    }
}

/// Outlives a law, and then finds that every lease below was given back.
struct Balanced(Arc<ModelFs>);

impl Drop for Balanced {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.0.lease_count(), 0, "leases were never given back");
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

fn place(dir: Ino, name: &Name) -> Place<'_> {
    Place { dir, name, expect: None }
}

async fn over_nothing() -> (Arc<dyn Vfs>, Balanced) {
    let fs = ModelFs::new(testing::env());
    (Ground::over(fs.clone()).open().await, Balanced(fs))
}

async fn over_the_specimen() -> (Arc<dyn Vfs>, Balanced) {
    let fs = ModelFs::new(testing::env());
    let lower: Arc<dyn Vfs> = fs.clone();
    build_specimen(&lower).await.expect("it is built");
    (Ground::over(fs.clone()).open().await, Balanced(fs))
}

vfs_laws!(over_nothing_it_keeps_the_laws, over_nothing());
vfs_read_laws!(over_the_specimen_it_keeps_the_laws, over_the_specimen(), except: {
    changes_are_refused: "it is there to be changed",
});

/// A file of so many bytes, none of which is zero.
fn content(len: usize) -> Bytes {
    (0..len).map(|at| u8::try_from(at % 251 + 1).unwrap_or(1)).collect::<Vec<_>>().into()
}

async fn make(vfs: &dyn Vfs, dir: Ino, text: &str, node: NewNode, data: Bytes) -> Ino {
    let set = SetAttr { mode: Some(0o750), uid: Some(7), ..SetAttr::default() };
    let ino = vfs.create(dir, &name(text), node, set).await.expect("create").node.ino;
    if !data.is_empty() {
        vfs.write(ino, 0, data, false).await.expect("write");
    }
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let mtime = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
    vfs.setattr(ino, mtime).await.expect("setattr");
    ino
}

/// `a`, a file of 5000 bytes, and directories `b` and `b/c` with more; a symlink `c`.
async fn build(vfs: &dyn Vfs, top: Ino) {
    make(vfs, top, "a", NewNode::File, content(5000)).await;
    let b = make(vfs, top, "b", NewNode::Dir, Bytes::new()).await;
    make(vfs, top, "c", NewNode::Symlink("target".into()), Bytes::new()).await;
    make(vfs, b, "a", NewNode::File, content(3)).await;
    make(vfs, b, "b", NewNode::Dir, Bytes::new()).await;
    let c = make(vfs, b, "c", NewNode::Dir, Bytes::new()).await;
    make(vfs, c, "a", NewNode::File, Bytes::new()).await;
    make(vfs, c, "b", NewNode::Fifo, Bytes::new()).await;
}

async fn built() -> (Ground, Arc<ModelFs>) {
    let fs = ModelFs::new(testing::env());
    build(&*fs, fs.root()).await;
    (Ground::over(fs.clone()), fs)
}

async fn find(vfs: &Arc<Overlay>, path: &str) -> (Lease, Attr) {
    let vfs: Arc<dyn Vfs> = vfs.clone();
    let names: Vec<Name> = path.split('/').filter(|part| !part.is_empty()).map(name).collect();
    walk(&vfs, vfs.root(), &names).await.unwrap_or_else(|error| panic!("{path}: {error:#}"))
}

/// Everything that is seen, as text, but for what a directory counts and for numbers.
async fn describe(vfs: &dyn Vfs) -> Result<String> {
    let mut text = String::new();
    let mut todo = vec![(String::new(), vfs.root())];
    while let Some((path, dir)) = todo.pop() {
        for entry in list(vfs, dir, usize::MAX).await? {
            let attr = vfs.lookup(dir, &entry.name).await?;
            let path = format!("{path}/{}", entry.name);
            let content = match attr.kind {
                FileKind::File => read_to_end(vfs, attr.ino, 1 << 24).await?,
                FileKind::Symlink => vfs.readlink(attr.ino).await?,
                _ => Bytes::new(),
            };
            let mut xattrs = BTreeMap::new();
            for name in vfs.listxattr(attr.ino).await? {
                xattrs.insert(name.clone(), vfs.getxattr(attr.ino, &name).await?);
            }
            let (kind, mode, uid, mtime) = (attr.kind, attr.mode, attr.uid, attr.mtime);
            let (size, nlink) = if kind == FileKind::Dir { (0, 0) } else { (attr.size, attr.nlink) };
            let digest = crate::cid_of(crate::Codec::Raw, &content);
            writeln!(text, "{path} {kind:?} {mode:o} {uid} {nlink} {size} {mtime:?} {digest} {xattrs:?}")
                .expect("text is written");
            if attr.kind == FileKind::Dir {
                todo.push((path, attr.ino));
            }
            vfs.release(attr.ino, 1);
        }
    }
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

#[tokio::test]
async fn at_first_it_shows_what_is_below() {
    let (ground, fs) = built().await;
    let xattr = XattrName::new(b"user.x").expect("a name");
    let a = fs.lookup(fs.root(), &name("a")).await.expect("it is there").ino;
    fs.setxattr(a, &xattr, "value".into(), XattrMode::Set).await.expect("set");
    let (overlay, expected) = (ground.open().await, describe(&*fs).await.expect("described"));
    assert_eq!(describe(&*overlay).await.expect("described"), expected);
    let below = fs.getattr(fs.root()).await.expect("getattr");
    let root = overlay.getattr(overlay.root()).await.expect("getattr");
    assert_eq!((root.mode, root.uid, root.mtime), (below.mode, below.uid, below.mtime));
}

/// A file system that holds the same at the beginning of so many histories.
async fn histories(count: u32) -> Arc<ModelFs> {
    let fs = ModelFs::new(testing::env());
    for number in 0..count {
        let set = SetAttr { mode: Some(0o755), ..SetAttr::default() };
        let dir = fs.create(fs.root(), &name(&format!("history{number}")), NewNode::Dir, set).await;
        build(&*fs, dir.expect("create").node.ino).await;
    }
    fs
}

/// The law above the laws, where there is something below: over a base an overlay behaves as a plain file system that holds
/// the same.
#[tokio::test]
async fn over_a_base_it_behaves_like_the_model_of_both() {
    const CASES: u32 = 200;
    for seed in [1, 2] {
        // Where a history is made shorter, it begins in directories of its own.
        let [lower, model] = [histories(CASES + 400).await, histories(CASES + 400).await];
        let before = describe(&*lower).await.expect("described");
        compare_with(model, Ground::over(lower.clone()).open().await, CASES, seed).await;
        assert!(describe(&*lower).await.expect("described") == before, "what is below changed");
    }
}

#[tokio::test]
async fn what_nobody_changed_is_as_below_and_only_what_is_read_is_fetched() {
    let (ground, fs) = built().await;
    let overlay = ground.open().await;
    let whole = describe(&*fs).await.expect("described");
    // Names, attributes and changes of them read no file.
    let (a, attr) = find(&overlay, "a").await;
    let (b, _) = find(&overlay, "b").await;
    let (deep, _) = find(&overlay, "b/c/a").await;
    assert_eq!((attr.size, attr.used, attr.cid), (5000, 5000, None));
    overlay
        .rename(place(overlay.root(), &name("b")), place(overlay.root(), &name("moved")), RenameMode::Replace)
        .await
        .expect("renamed");
    overlay.link(a.ino(), b.ino(), &name("link")).await.expect("linked");
    let changed = overlay.setattr(a.ino(), SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.expect("set");
    assert_eq!((changed.before.size, changed.after.size, changed.after.mode), (5000, 5000, 0o600));
    overlay
        .setxattr(a.ino(), &XattrName::new(b"user.x").expect("a name"), "v".into(), XattrMode::Set)
        .await
        .expect("set");
    assert_eq!(ground.read_len(), 0);
    // Of a file what is read.
    assert_eq!(overlay.read(a.ino(), 4990, 100).await.expect("read"), content(5000).slice(4990..));
    assert_eq!(ground.read_len(), 10);
    // What is cut away is not fetched.
    let cut = overlay.setattr(a.ino(), SetAttr { size: Some(0), ..SetAttr::default() }).await.expect("cut");
    assert_eq!((cut.before.size, cut.after.size, ground.read_len()), (5000, 0, 0));
    assert_eq!(overlay.getattr(deep.ino()).await.expect("getattr").size, 0);
    assert_eq!(describe(&*fs).await.expect("described"), whole, "below nothing changed");
}

/// Two descriptors, and two names, of one file: what one writes the other sees, and nobody meets a state between.
#[tokio::test]
async fn whoever_has_a_file_open_sees_what_another_writes() {
    let (ground, _) = built().await;
    let overlay = ground.open().await;
    let (reader, _) = find(&overlay, "a").await;
    assert_eq!(overlay.read(reader.ino(), 0, 2).await.expect("read"), content(2));
    let (writer, attr) = find(&overlay, "a").await;
    overlay.link(writer.ino(), overlay.root(), &name("second")).await.expect("link");
    assert_eq!(writer.ino(), reader.ino());
    let changed = overlay.write(writer.ino(), 1, "new".into(), false).await.expect("write");
    assert_eq!((changed.before.size, changed.after.size), (5000, 5000));
    assert!(changed.after.change > attr.change && changed.before.mtime == attr.mtime, "what came moved no time");
    let expected = [b"\x01new", &content(5000)[4..]].concat();
    assert_eq!(overlay.read(reader.ino(), 0, 10_000).await.expect("read"), expected);
    let (second, attr) = find(&overlay, "second").await;
    assert_eq!((second.ino(), attr.nlink, attr.size), (reader.ino(), 2, 5000));
    // Without any name it is read and written still.
    for text in ["a", "second"] {
        overlay.remove(place(overlay.root(), &name(text)), RemoveKind::NonDir).await.expect("removed");
    }
    overlay.write(reader.ino(), 0, "!".into(), false).await.expect("write");
    assert_eq!(overlay.read(writer.ino(), 0, 2).await.expect("read"), "!n");
}

/// A file that nobody changed is removed while somebody reads it, or replaced.
#[tokio::test]
async fn a_file_without_a_name_is_as_below_for_who_has_it() {
    let (ground, _) = built().await;
    let overlay = ground.open().await;
    let (open, _) = find(&overlay, "a").await;
    let removed = overlay.remove(place(overlay.root(), &name("a")), RemoveKind::NonDir).await.expect("removed");
    assert_eq!((removed.node.size, removed.node.nlink), (5000, 0));
    assert_eq!(overlay.read(open.ino(), 0, 9999).await.expect("read"), content(5000));
    overlay.write(open.ino(), 5000, "more".into(), false).await.expect("write");
    assert_eq!(overlay.getattr(open.ino()).await.expect("getattr").size, 5004);
}

/// A name that was removed stays so, a directory that was replaced shows nothing of what was below, and a directory that
/// nobody looked into is not taken for an empty one.
#[tokio::test]
async fn what_was_removed_does_not_come_back() {
    let (ground, _) = built().await;
    let overlay = ground.open().await;
    let root = overlay.root();
    let replaced = overlay.rename(place(root, &name("b")), place(root, &name("b")), RenameMode::Replace).await;
    replaced.expect("onto itself");
    let made = overlay.create(root, &name("empty"), NewNode::Dir, SetAttr::default()).await.expect("create").node.ino;
    let over = overlay.rename(place(root, &name("empty")), place(root, &name("b")), RenameMode::Replace).await;
    assert_eq!(over.expect_err("it has entries").kind(), ErrorKind::NotEmpty);
    let gone = overlay.remove(place(root, &name("b")), RemoveKind::Dir).await;
    assert_eq!(gone.expect_err("it has entries").kind(), ErrorKind::NotEmpty);
    // One that is empty below.
    let (b, _) = find(&overlay, "b").await;
    overlay.remove(place(b.ino(), &name("b")), RemoveKind::Dir).await.expect("it is empty");
    overlay.create(b.ino(), &name("b"), NewNode::Dir, SetAttr::default()).await.expect("create");
    for path in ["b/c/a", "b/c/b", "b/a"] {
        let (dir, last) = path.rsplit_once('/').expect("it has two parts");
        let (dir, _) = find(&overlay, dir).await;
        overlay.remove(place(dir.ino(), &name(last)), RemoveKind::NonDir).await.expect(path);
    }
    overlay.remove(place(b.ino(), &name("c")), RemoveKind::Dir).await.expect("it is empty now");
    overlay.remove(place(b.ino(), &name("b")), RemoveKind::Dir).await.expect("it is empty");
    overlay.rename(place(root, &name("empty")), place(root, &name("b")), RenameMode::Replace).await.expect("empty");
    let expected = describe(&*overlay).await.expect("described");
    overlay.tree().commit("").await.expect("commit");
    drop((b, overlay));
    let overlay = ground.open().await;
    assert_eq!(describe(&*overlay).await.expect("described"), expected);
    let (b, _) = find(&overlay, "b").await;
    assert_eq!(b.ino(), made);
    assert!(list(&*overlay, b.ino(), 10).await.expect("listed").is_empty());
}

/// Handles, numbers and cookies are good after a restart, of what came and of what did not.
#[tokio::test]
async fn a_restart_changes_nothing() {
    let (ground, _) = built().await;
    let overlay = ground.open().await;
    let mut handles = Vec::new();
    for path in ["", "a", "b", "b/c"] {
        let (node, attr) = find(&overlay, path).await;
        handles.push((overlay.handle(node.ino()).expect("handle"), node.ino(), attr.size));
    }
    let page = overlay.readdir(overlay.root(), Cookie::START, 1, Listing::Names).await;
    let first = page.expect("listed").entries.remove(0);
    overlay.sync(overlay.root()).await.expect("sync");
    drop(overlay);
    for commits in [false, true] {
        let overlay = ground.open().await;
        for (handle, ino, size) in &handles {
            let attr = overlay.resolve(handle).await.expect("resolves");
            assert_eq!((attr.ino, attr.size), (*ino, *size));
            overlay.release(attr.ino, 1);
        }
        let rest = overlay.readdir(overlay.root(), first.cookie, 10, Listing::Names).await.expect("listed");
        assert_eq!((rest.entries.len(), rest.eof), (2, true));
        if commits {
            overlay.tree().commit("").await.expect("commit");
        }
    }
}

/// Nobody else says where files lie below, or hides what does.
#[tokio::test]
async fn the_attributes_that_it_needs_are_its_own() {
    let (ground, _) = built().await;
    let overlay = ground.open().await;
    let (a, _) = find(&overlay, "a").await;
    let [below, base] = [BELOW_XATTR, BASE_XATTR].map(|text| XattrName::new(text.as_bytes()).expect("a name"));
    let set = overlay.setxattr(a.ino(), &below, "x".into(), XattrMode::Set).await;
    assert_eq!(set.expect_err("reserved").kind(), ErrorKind::NotPermitted);
    let removed = overlay.removexattr(a.ino(), &below).await;
    assert_eq!(removed.expect_err("reserved").kind(), ErrorKind::NotPermitted);
    assert!(overlay.listxattr(a.ino()).await.expect("listed").is_empty());
    let told = Below::decode(&overlay.getxattr(a.ino(), &below).await.expect("told")).expect("decodes");
    assert_eq!((told.is_file, told.size), (true, 5000));
    overlay.getxattr(overlay.root(), &base).await.expect("told");
    overlay.write(a.ino(), 0, "x".into(), false).await.expect("write");
    assert_eq!(overlay.getxattr(a.ino(), &below).await.expect_err("it came").kind(), ErrorKind::NoAttr);
}

/// A range is copied of what is as below without fetching more of it.
#[tokio::test]
async fn a_range_is_copied_of_a_file_that_is_as_below() {
    let (ground, _) = built().await;
    let overlay = ground.open().await;
    let (a, _) = find(&overlay, "a").await;
    let target =
        overlay.create(overlay.root(), &name("new"), NewNode::File, SetAttr::default()).await.expect("create").node;
    let (len, changed) = overlay.copy_range((a.ino(), 4000), (target.ino, 10), 500).await.expect("copied");
    assert_eq!((len, changed.before.size, changed.after.size, ground.read_len()), (500, 0, 510, 500));
    let (len, changed) = overlay.copy_range((a.ino(), 4900), (target.ino, 0), 500).await.expect("copied");
    assert_eq!((len, changed.after.size), (100, 510));
    let (len, _) = overlay.copy_range((a.ino(), 9000), (target.ino, 0), 500).await.expect("nothing is there");
    assert_eq!(len, 0);
    // Within itself: it has to come.
    let (len, changed) = overlay.copy_range((a.ino(), 0), (a.ino(), 5000), 5000).await.expect("copied");
    assert_eq!((len, changed.before.size, changed.after.size), (5000, 5000, 10_000));
    let read = overlay.read(target.ino, 0, 1000).await.expect("read");
    assert_eq!(read, [&content(5000)[4900..], &content(5000)[4090..4500]].concat());
}

/// Two writers of one file fetch it once, in pieces.
#[tokio::test]
async fn a_file_comes_once_and_piece_by_piece() {
    let (ground, _) = built().await;
    let overlay = ground.open().await;
    let (a, _) = find(&overlay, "a").await;
    let writes = (0..8u64).map(|at| overlay.write(a.ino(), at * 600, "x".into(), false));
    for done in futures_util::future::join_all(writes).await {
        assert_eq!(done.expect("written").before.size, 5000);
    }
    assert_eq!(ground.read_len(), 5000);
    assert_eq!(ground.lower.longest.load(Ordering::Relaxed), 2048);
}

/// Where a reserved size is set that no file has, nothing is fetched, and nothing changes.
#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let (ground, _) = built().await;
    let overlay = ground.open().await;
    let (a, _) = find(&overlay, "a").await;
    let huge = SetAttr { size: Some(u64::MAX), ..SetAttr::default() };
    assert_eq!(overlay.setattr(a.ino(), huge).await.expect_err("too large").kind(), ErrorKind::TooLarge);
    assert_eq!(
        overlay.write(a.ino(), u64::MAX, "x".into(), false).await.expect_err("too large").kind(),
        ErrorKind::TooLarge
    );
    let nothing = overlay.write(a.ino(), 3, Bytes::new(), false).await.expect("nothing to do");
    assert_eq!((nothing.before.size, nothing.after.size, ground.read_len()), (5000, 5000, 0));
    let error = overlay.begin(ground.lower.root()).await.expect_err("it has files");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
