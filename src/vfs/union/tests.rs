//! What the union adds to its mounts: numbers, handles, the root, and the borders between them.

use super::*;
use crate::{
    forward_vfs,
    testing::{self, model::ModelFs},
    vfs::{Lease, ext::list, narrow::subtree},
};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).expect("a good prefix")
}

/// `/zz` in slot 7 and `/a` in slot 2, in this order, each with a file `f`.
struct World {
    union: UnionVfs,
    models: [Arc<ModelFs>; 2],
    roots: [Ino; 2],
    files: [Ino; 2],
}

async fn world() -> World {
    let clock = testing::Clock::default();
    let models = [ModelFs::new(clock.env(1)), ModelFs::new(clock.env(2))];
    let [one, two] = models.clone();
    let union = UnionVfs::new(vec![(prefix("zz"), 7, one), (prefix("a"), 2, two)], &clock.env(3)).expect("union");
    let mut roots = [ROOT; 2];
    let mut files = [ROOT; 2];
    for (index, text) in ["zz", "a"].into_iter().enumerate() {
        roots[index] = union.lookup(ROOT, &name(text)).await.expect("lookup").ino;
        let made = union.create(roots[index], &name("f"), NewNode::File, SetAttr::default()).await.expect("create");
        files[index] = made.node.ino;
    }
    World { union, models, roots, files }
}

#[tokio::test]
async fn numbers_and_fsids_tell_the_mount() {
    let World { union, roots, files, .. } = world().await;
    assert_eq!(roots.map(|ino| ino.0.get() >> INO_BITS), [7, 2]);
    assert_eq!(files.map(|ino| ino.0.get() >> INO_BITS), [7, 2]);
    let mut fsids = Vec::new();
    for (ino, text) in [(files[0], "zz"), (files[1], "a")] {
        let attr = union.getattr(ino).await.expect("getattr");
        assert_eq!(attr.fsid, Fsid(u64::from(prefix(text).number()) << 8));
        fsids.push(attr.fsid);
    }
    assert_ne!(fsids[0], fsids[1]);
    assert_eq!(union.getattr(ROOT).await.expect("getattr").fsid, Fsid(0));
    let stray = Ino(NonZeroU64::new(9 << INO_BITS | 1).expect("not 0"));
    assert_eq!(union.getattr(stray).await.expect_err("no such mount").kind(), ErrorKind::Stale);
}

#[tokio::test]
async fn the_root_lists_its_mounts_in_their_order() {
    let World { union, roots, models, .. } = world().await;
    let entries = list(&union, ROOT, 10).await.expect("list");
    let names: Vec<&[u8]> = entries.iter().map(|entry| entry.name.as_bytes()).collect();
    assert_eq!(names, [&b"zz"[..], b"a"]);
    assert_eq!(entries.iter().map(|entry| entry.ino).collect::<Vec<_>>(), roots);

    let page = union.readdir(ROOT, Cookie::START, 1, Listing::Attrs).await.expect("readdir");
    assert_eq!((page.entries.len(), page.eof), (1, false));
    // A mount that fails is listed, without attributes; the other still has its own.
    models[1].fail(Some(ErrorKind::Unavailable));
    let page = union.readdir(ROOT, page.entries[0].cookie, 10, Listing::Attrs).await.expect("readdir");
    assert_eq!((page.entries.len(), page.eof, page.entries[0].attr.is_none()), (1, true, true));
    assert_eq!(union.getattr(roots[0]).await.expect("getattr").ino, roots[0]);
    for cookie in [Cookie::DOT, Cookie::DOT_DOT, Cookie(3), Cookie(u64::MAX)] {
        let error = union.readdir(ROOT, cookie, 10, Listing::Names).await.expect_err("never given");
        assert_eq!(error.kind(), ErrorKind::BadCookie);
    }
}

#[tokio::test]
async fn above_a_mount_is_the_root() {
    let World { union, roots, files, .. } = world().await;
    assert_eq!(union.parent(ROOT).await.expect("parent").ino, ROOT);
    for (root, file) in roots.into_iter().zip(files) {
        assert_eq!(union.parent(root).await.expect("parent").ino, ROOT);
        assert_eq!(union.parent(file).await.expect("parent").ino, root);
    }
}

#[tokio::test]
async fn handles_name_the_prefix_and_outlive_the_order_of_mounts() {
    let World { union, models, roots, files } = world().await;
    let handles = [ROOT, roots[0], roots[1], files[0], files[1]].map(|ino| (ino, union.handle(ino).expect("handle")));
    assert_eq!(&handles[1].1.0[..4], prefix("zz").number().to_be_bytes());
    // The same mounts in another order, as after a restart with another configuration.
    let [one, two] = models;
    let mounts: Vec<(Prefix, u8, Arc<dyn Vfs>)> = vec![(prefix("a"), 2, two), (prefix("zz"), 7, one.clone())];
    let again = UnionVfs::new(mounts, &testing::env()).expect("union");
    for (ino, handle) in &handles {
        assert_eq!(again.resolve(handle).await.expect("resolve").ino, *ino);
    }
    let alone = UnionVfs::new(vec![(prefix("zz"), 7, one)], &testing::env()).expect("union");
    assert_eq!(alone.resolve(&handles[4].1).await.expect_err("unmounted").kind(), ErrorKind::Stale);
    let garbage: [&[u8]; 5] = [b"", b"\0\0\0", b"\0\0\0\0x", b"\xff\xff\xff\xffx", &handles[1].1.0[..4]];
    for bytes in garbage {
        let error = alone.resolve(&Handle(Bytes::copy_from_slice(bytes))).await.expect_err("garbage");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", bytes.escape_ascii());
    }
}

#[tokio::test]
async fn nothing_crosses_from_one_mount_to_another() {
    let World { union, roots, files, .. } = world().await;
    let (f, g) = (name("f"), name("g"));
    let place = |dir, name| Place { dir, name, expect: None };
    let crossing = [
        union.rename(place(roots[0], &f), place(roots[1], &g), RenameMode::Replace).await.map(drop),
        union.rename(place(roots[0], &f), place(ROOT, &g), RenameMode::Replace).await.map(drop),
        union.link(files[0], roots[1], &g).await.map(drop),
        union.link(files[0], ROOT, &g).await.map(drop),
        union.copy_range((files[0], 0), (files[1], 0), 1).await.map(drop),
    ];
    assert_eq!(crossing.map(|result| result.expect_err("it crosses").kind()), [ErrorKind::CrossDevice; 5]);
    let elsewhere = Place { expect: Some(files[1]), ..place(roots[0], &f) };
    assert_eq!(union.remove(elsewhere, RemoveKind::NonDir).await.expect_err("another").kind(), ErrorKind::Stale);
    let here = Place { expect: Some(files[0]), ..elsewhere };
    union.remove(here, RemoveKind::NonDir).await.expect("the right one");
}

#[tokio::test]
async fn the_root_cannot_be_changed() {
    let World { union, .. } = world().await;
    let (a, new) = (name("a"), name("new"));
    let place = |name| Place { dir: ROOT, name, expect: None };
    let xattr = XattrName::new(b"user.a").expect("a good name");
    let changes = [
        union.create(ROOT, &new, NewNode::Dir, SetAttr::default()).await.map(drop),
        union.remove(place(&a), RemoveKind::Dir).await.map(drop),
        union.rename(place(&a), place(&new), RenameMode::Replace).await.map(drop),
        union.setattr(ROOT, SetAttr { mode: Some(0o777), ..SetAttr::default() }).await.map(drop),
        union.setxattr(ROOT, &xattr, Bytes::new(), XattrMode::Set).await.map(drop),
        union.removexattr(ROOT, &xattr).await.map(drop),
    ];
    assert_eq!(changes.map(|result| result.expect_err("the root").kind()), [ErrorKind::ReadOnly; 6]);
    let error = union.create(ROOT, &a, NewNode::Dir, SetAttr::default()).await.expect_err("a mount");
    assert_eq!(error.kind(), ErrorKind::Exists);
    let contents = [
        union.read(ROOT, 0, 1).await.map(drop),
        union.write(ROOT, 0, Bytes::new(), false).await.map(drop),
        union.punch_hole(ROOT, 0..1).await.map(drop),
        union.allocate(ROOT, 0..1, false).await.map(drop),
    ];
    assert_eq!(contents.map(|result| result.expect_err("a directory").kind()), [ErrorKind::IsDir; 4]);
}

#[tokio::test]
async fn syncing_the_root_syncs_every_mount_even_after_one_failed() {
    let World { union, models, roots, .. } = world().await;
    union.sync(ROOT).await.expect("sync");
    assert_eq!(models.each_ref().map(|model| model.sync_count()), [1, 1]);
    union.sync(roots[1]).await.expect("sync");
    assert_eq!(models.each_ref().map(|model| model.sync_count()), [1, 2]);
    models[0].fail(Some(ErrorKind::Io));
    assert_eq!(union.sync(ROOT).await.expect_err("one failed").kind(), ErrorKind::Io);
    assert_eq!(models.each_ref().map(|model| model.sync_count()), [1, 3]);
}

/// The root of a mount may be leased below like any other node: what the union gives out is given back there.
#[tokio::test]
async fn leases_of_a_mounts_root_balance() {
    let model = ModelFs::new(testing::env());
    let made = model.create(model.root(), &name("top"), NewNode::Dir, SetAttr::default()).await.expect("create");
    let below = subtree(model.clone(), Lease::adopt(model.clone(), made.node.ino));
    let union = UnionVfs::new(vec![(prefix("m"), 1, below)], &testing::env()).expect("union");
    assert_eq!(model.lease_count(), 1);
    let root = union.lookup(ROOT, &name("m")).await.expect("lookup");
    let page = union.readdir(ROOT, Cookie::START, 9, Listing::Attrs).await.expect("readdir");
    assert_eq!(model.lease_count(), 3);
    union.release(root.ino, 2);
    assert_eq!(page.entries[0].ino, root.ino);
    assert_eq!(model.lease_count(), 1);
    assert_eq!(union.getattr(root.ino).await.expect("the mount keeps its own").ino, root.ino);
}

/// A mount that breaks its promises about numbers: its directories are in a file system that no union has room for.
#[derive(Debug)]
struct FarDirs {
    model: Arc<ModelFs>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for FarDirs {
    forward_vfs!(model: root, lookup, parent, getattr, readdir, read, readlink, statfs, handle, resolve, retain, release);
    forward_vfs!(model: setattr, write, remove, rename, allocate, punch_hole, copy_range, seek);
    forward_vfs!(model: getxattr, listxattr, setxattr, removexattr, sync, sync_inode, host_file, expect);

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        let mut made = self.model.create(dir, name, node, set).await?;
        made.dir.after.fsid = Fsid(256);
        Ok(made)
    }
    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        let mut made = self.model.link(ino, dir, name).await?;
        made.dir.after.fsid = Fsid(256);
        Ok(made)
    }
}

/// The node was fit to be given out and its directory was not: the call failed, and the node's lease stayed for ever.
#[tokio::test]
async fn what_was_made_in_a_directory_that_cannot_be_told_is_given_back() {
    let model = ModelFs::new(testing::env());
    let root = model.root();
    let file = model.create(root, &name("f"), NewNode::File, SetAttr::default()).await.expect("create").node.ino;
    let union = UnionVfs::new(vec![(prefix("m"), 1, Arc::new(FarDirs { model: model.clone() }))], &testing::env())
        .expect("union");
    let top = union.lookup(ROOT, &name("m")).await.expect("lookup").ino;
    let known = union.lookup(top, &name("f")).await.expect("lookup").ino;
    let leased = model.lease_count();
    let made = union.create(top, &name("g"), NewNode::File, SetAttr::default()).await;
    assert_eq!(made.expect_err("broken").kind(), ErrorKind::Internal);
    let linked = union.link(known, top, &name("h")).await;
    assert_eq!(linked.expect_err("broken").kind(), ErrorKind::Internal);
    assert_eq!(model.lease_count(), leased);
    model.release(file, 2);
}

#[tokio::test]
async fn two_mounts_share_neither_prefix_nor_slot() {
    let fs = || ModelFs::new(testing::env()) as Arc<dyn Vfs>;
    for (one, other) in [(("a", 1), ("a", 2)), (("a", 1), ("b", 1)), (("a", 1), ("b", 0))] {
        let mounts = vec![(prefix(one.0), one.1, fs()), (prefix(other.0), other.1, fs())];
        let error = UnionVfs::new(mounts, &testing::env()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
