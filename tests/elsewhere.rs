//! Content from elsewhere: only who looks something up by CID reaches for it. What is put, written, committed, listed,
//! collected, checked and exported asks nobody, and does not stop where nobody answers.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use muxfs::{
    BlockStore, Cid, Codec, ErrorKind, Mount, Name, Prefix, QfsPath, Source,
    block::{Cache, Mem},
    car,
    cas_view::CasViewOptions,
    cid_of,
    dag::{Dag, DagOptions, Entry, ExportOptions, GcOptions, UnixfsMeta},
    heads::MemHeads,
    media::MemMedia,
    pins::Pins,
    testing::{
        self,
        fault::{BlockCall, Faulty},
    },
    tree::{Tree, TreeOptions},
    vfs::{Cookie, Listing, NewNode, SetAttr},
};

fn prefix() -> Prefix {
    Prefix::new("ipfs").expect("a prefix")
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// A mount with a working tree over blocks here, others elsewhere, and what is kept of those.
struct World {
    mount: Mount,
    tree: Tree,
    here: Arc<Mem>,
    far: Arc<Faulty<Mem>>,
    /// A directory of ten files that is only far away.
    root: Cid,
}

async fn world() -> World {
    let (here, far, near) = (Arc::new(Mem::default()), Arc::new(Faulty::new(Mem::default())), Arc::new(Mem::default()));
    let others = Dag::new(far.clone(), DagOptions::default());
    let mut entries = Vec::new();
    for n in 0..10 {
        let link = others.import(format!("far away {n}").as_bytes(), UnixfsMeta::default()).await.expect("a file");
        entries.push(Ok(Entry { name: name(&n.to_string()), link }));
    }
    let root = others.put_dir(stream::iter(entries).boxed()).await.expect("a directory").cid;
    let env = testing::env();
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env).await.expect("pins"));
    let dag = Dag::new(here.clone(), DagOptions::default());
    let (journal, heads) = (Arc::new(MemMedia::default()), Arc::new(MemHeads::default()));
    let tree = Tree::open(dag, journal, heads, TreeOptions::new(name("main"), env)).await.expect("a tree");
    let cache: Arc<dyn BlockStore> = Arc::new(Cache::open(far.clone(), near, 1 << 20).await.expect("a cache"));
    let options = CasViewOptions { elsewhere: Some(cache), ..CasViewOptions::default() };
    World { mount: Mount::content(prefix(), pins, tree.clone(), options), tree, here, far, root }
}

impl World {
    /// What was asked for far away since the last look.
    fn asked(&self) -> u64 {
        [BlockCall::Read, BlockCall::Keys].into_iter().map(|call| self.far.calls(call)).sum()
    }

    async fn collect(&self) -> (u64, u64) {
        let report = self.mount.collect_garbage(&GcOptions::new(&testing::env())).await.expect("collected");
        (report.blocks_kept, report.blocks_removed)
    }

    async fn read(&self, below: &str) -> muxfs::Result<bytes::Bytes> {
        let path: QfsPath = format!("/ipfs/{}{below}", self.root).parse().expect("a path");
        self.mount.store().open(&path).await?.read_at(0, 100).await
    }
}

/// Every call that is not a look-up, with nobody there: each does what it would without an elsewhere.
#[tokio::test]
async fn nobody_is_asked_but_for_a_look_up() {
    let world = world().await;
    world.far.set_offline(true);
    let (before, vfs, cas) = (world.asked(), world.mount.vfs(), world.mount.as_cas().expect("content"));

    let put = world.mount.store().put(&"/ipfs".parse().expect("a path"), Source::from(&b"put here"[..])).await;
    let put = put.expect("put").cid().expect("a CID");
    let dir = vfs.create(vfs.root(), &name("dir"), NewNode::Dir, SetAttr::default()).await.expect("made").node;
    let file = vfs.create(dir.ino, &name("file"), NewNode::File, SetAttr::default()).await.expect("made").node;
    vfs.write(file.ino, 0, vec![7; 3 << 20].into(), false).await.expect("written");
    vfs.sync(vfs.root()).await.expect("synced");
    world.tree.commit("one").await.expect("committed");
    vfs.write(file.ino, 1 << 20, b"patched"[..].into(), false).await.expect("written");
    let head = world.tree.commit("two").await.expect("committed");

    for ino in [vfs.root(), dir.ino] {
        vfs.readdir(ino, Cookie::START, 100, Listing::Attrs).await.expect("listed");
    }
    let absent = vfs.lookup(vfs.root(), &name("no such name")).await.expect_err("no such name");
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    vfs.lookup(vfs.root(), &name(".history")).await.expect("the history");
    vfs.statfs(vfs.root()).await.expect("its space");
    assert!(cas.pin(&head).await.expect("pinned"));
    assert_eq!(cas.pin(&world.root).await.expect_err("not here").kind(), ErrorKind::NotFound);
    assert_eq!(world.tree.checkout(&world.root).await.expect_err("not here").kind(), ErrorKind::NotFound);
    for root in [head, put] {
        assert!(cas.dag().walk(&root).all(async |visit| visit.error.is_none()).await);
        let pieces: Vec<_> = car::export(cas.dag(), &root, &[], &ExportOptions::default())
            .await
            .expect("begun")
            .try_collect()
            .await
            .expect("exported");
        assert!(!pieces.is_empty());
    }
    let missing: Vec<_> = cas.dag().walk(&world.root).collect().await;
    assert_eq!(missing.len(), 1);
    assert!(world.collect().await.0 > 0);
    // Content that is here is read without a question, too.
    let path = QfsPath::content(prefix(), &put);
    assert!(world.mount.store().has(&path).await.expect("has"));
    assert_eq!(world.mount.store().open(&path).await.expect("open").read_at(0, 9).await.expect("read"), "put here");
    assert_eq!(world.asked(), before, "somebody asked elsewhere");

    let error = world.read("/1").await.expect_err("nobody there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(world.asked() > before);
}

/// In both tongues; what was found once is read when nobody is there any more; and it is nobody's garbage.
#[tokio::test]
async fn what_is_elsewhere_is_read_kept_and_not_counted() {
    let world = world().await;
    let vfs = world.mount.vfs();
    assert_eq!(world.read("/3").await.expect("read"), "far away 3");
    let dir = vfs.lookup(vfs.root(), &name(&world.root.to_string())).await.expect("there");
    let page = vfs.readdir(dir.ino, Cookie::START, 100, Listing::Attrs).await.expect("listed");
    assert!(page.entries.len() == 10 && page.entries.iter().all(|entry| entry.attr.is_some()));

    // A root that only others have can be open while garbage is collected.
    let held =
        world.mount.store().open(&format!("/ipfs/{}/3", world.root).parse().expect("a path")).await.expect("open");
    let (kept, _) = world.collect().await;
    assert_eq!(kept, world.here.keys().count().await as u64);
    world.far.set_offline(true);
    for n in 0..10 {
        assert_eq!(world.read(&format!("/{n}")).await.expect("kept"), format!("far away {n}"));
    }
    assert_eq!(held.read_at(0, 8).await.expect("kept"), "far away");
    let keys: Vec<_> = world.here.keys().try_collect().await.expect("listed");
    assert!(!keys.contains(&muxfs::BlockKey::from(&world.root)), "what is read is not put");
}

/// A copy of what was read by CID is bytes of its own: nothing in the tree is left to others.
#[tokio::test]
async fn what_is_copied_into_the_tree_is_here() {
    let world = world().await;
    let vfs = world.mount.vfs();
    let dir = vfs.lookup(vfs.root(), &name(&world.root.to_string())).await.expect("there");
    let from = vfs.lookup(dir.ino, &name("3")).await.expect("there");
    let to = vfs.create(vfs.root(), &name("copy"), NewNode::File, SetAttr::default()).await.expect("made").node;
    let error = vfs.copy_range((from.ino, 0), (to.ino, 0), from.size).await.expect_err("from another part");
    assert_eq!(error.kind(), ErrorKind::CrossDevice);
    let bytes = vfs.read(from.ino, 0, 100).await.expect("read");
    vfs.write(to.ino, 0, bytes, false).await.expect("written");
    let head = world.tree.commit("a copy").await.expect("committed");
    world.far.set_offline(true);
    assert!(world.tree.dag().walk(&head).all(async |visit| visit.error.is_none()).await);
}

/// What others have wrong is not read, and a block that is bad here is had from others.
#[tokio::test]
async fn what_is_bad_is_looked_for_too() {
    let world = world().await;
    let dag = world.mount.as_cas().expect("content").reading_dag().clone();
    let cid = cid_of(Codec::Raw, b"good");
    let key = muxfs::BlockKey::from(&cid);
    world.far.inner().put(&key, "evil".into()).await.expect("put");
    assert_eq!(dag.get_block(&cid).await.expect_err("wrong").kind(), ErrorKind::Corrupt);

    let cid = cid_of(Codec::Raw, b"rotten here");
    let key = muxfs::BlockKey::from(&cid);
    world.here.put(&key, "rotten".into()).await.expect("put");
    assert_eq!(dag.get_block(&cid).await.expect_err("bad").kind(), ErrorKind::Corrupt);
    // That nobody can help now does not hide what is wrong here.
    world.far.set_offline(true);
    for read in [dag.get_block(&cid).await, dag.with_elsewhere(world.far.clone()).get_block(&cid).await] {
        let error = read.expect_err("bad");
        assert_eq!(
            (error.kind(), format!("{error:#}").contains("unavailable")),
            (ErrorKind::Corrupt, true),
            "{error:#}"
        );
    }
    world.far.set_offline(false);
    world.far.inner().put(&key, "rotten here".into()).await.expect("put");
    assert_eq!(dag.get_block(&cid).await.expect("of others"), "rotten here");
    assert_eq!(world.tree.dag().get_block(&cid).await.expect_err("bad").kind(), ErrorKind::Corrupt);
}
