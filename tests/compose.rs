//! Goal: stores compose. The laws of the QFS calls hold over every stack there is, and a namespace of several mounts
//! behaves as each of them. Method: `store_laws!` over each stack; whole namespaces through `MuxFs` and its `Vfs`.

use std::sync::Arc;

use muxfs::{
    BlockStore, ErrorKind, Mount, MuxFs, Name, Prefix, Store,
    block::{Mem, Segments, SegmentsOptions},
    cas::Cas,
    dag::{Dag, DagOptions, Profile},
    media::MemMedia,
    pins::Pins,
    testing::{self, model::ModelFs},
    vfs::{
        Cookie, Listing, Vfs,
        as_store::AsStore,
        posix::{Caller, posix},
        union::{Slots, UnionVfs},
    },
};

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).expect("a prefix")
}

async fn segments() -> Arc<dyn BlockStore> {
    let (data, index) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()));
    Arc::new(Segments::open(data, index, SegmentsOptions::default(), &muxfs::testing::env()).await.expect("segments"))
}

async fn pins() -> Arc<Pins> {
    Arc::new(Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await.expect("pins"))
}

async fn over_segments() -> Arc<dyn Store> {
    Arc::new(Cas::new(prefix("ipfs"), Dag::new(segments().await, DagOptions::default()), pins().await))
}

/// The profile of old, and every block verified on every read.
async fn over_segments_without_a_cache() -> Arc<dyn Store> {
    let options = DagOptions { params: Profile::UnixfsV0_2015.params(), verified_len_max: 0 };
    Arc::new(Cas::new(prefix("ipfs"), Dag::new(segments().await, options), pins().await))
}

fn over_a_caller() -> std::future::Ready<Arc<dyn Store>> {
    let env = testing::env();
    let vfs = posix(ModelFs::new(env.clone()), Caller { uid: 0, gid: 0, groups: Vec::new() });
    std::future::ready(Arc::new(AsStore::new(prefix("local"), vfs, env)))
}

muxfs::store_laws!(content_in_segments, Content, over_segments());
muxfs::store_laws!(content_in_segments_without_a_cache, Content, over_segments_without_a_cache());
muxfs::store_laws!(places_for_a_caller, Location, over_a_caller());

async fn namespace() -> (MuxFs, Arc<dyn Vfs>) {
    let env = testing::env();
    let mut mux = MuxFs::new()
        .with_slots(Slots::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await.expect("slots"));
    let mem = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    mux.mount(Mount::cas(prefix("mem"), mem, pins().await)).expect("mounts");
    let ipfs = Dag::new(segments().await, DagOptions::default());
    mux.mount(Mount::cas(prefix("ipfs"), ipfs, pins().await)).expect("mounts");
    mux.mount(Mount::location(prefix("local"), ModelFs::new(env.clone()), env.clone())).expect("mounts");
    let vfs = mux.vfs(&env).await.expect("a view");
    (mux, vfs)
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// What is put by path is read by inode, at the same place, and what one mount holds the others do not.
#[tokio::test]
async fn both_tongues_speak_of_the_same_files() {
    let (mux, vfs) = namespace().await;
    for to in ["/mem", "/ipfs", "/local/a"] {
        let path = mux.put(to, to.as_bytes().to_vec()).await.expect("put");
        let mut at = vfs.getattr(vfs.root()).await.expect("the root");
        for part in std::iter::once(&name(path.prefix.as_str())).chain(&path.parts) {
            at = vfs.lookup(at.ino, part).await.expect("found by inode");
        }
        assert_eq!(vfs.read(at.ino, 0, 99).await.expect("read"), to.as_bytes());
        assert_eq!(at.cid, path.cid());
        for other in ["mem", "ipfs"] {
            let elsewhere = format!("/{other}/{}", path.parts.first().expect("a part"));
            if path.cid().is_some() && path.prefix != prefix(other) {
                assert!(!mux.has(elsewhere).await.expect("has"), "{path} is in one store");
            }
        }
    }
}

/// The root lists the mounts, a content-addressed one its pins, as they are now.
#[tokio::test]
async fn listings_show_mounts_and_pins() {
    let (mux, vfs) = namespace().await;
    let names = async |ino| {
        let page = vfs.readdir(ino, Cookie::START, 100, Listing::Names).await.expect("lists");
        page.entries.into_iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(vfs.root()).await, ["mem", "ipfs", "local"]);
    let mem = vfs.lookup(vfs.root(), &name("mem")).await.expect("a mount").ino;
    assert_eq!(names(mem).await, [""; 0]);
    let path = mux.put("/mem", &b"x"[..]).await.expect("put");
    let shown = path.parts.first().expect("a CID").to_string();
    assert_eq!(names(mem).await, [shown.as_str()]);
    assert!(mux.delete(&path).await.expect("delete"));
    assert_eq!(names(mem).await, [""; 0]);
    assert!(vfs.lookup(mem, &name(&shown)).await.is_ok(), "unpinned is not yet gone");
    assert_eq!(vfs.lookup(vfs.root(), &name("etc")).await.expect_err("no mount").kind(), ErrorKind::NotFound);
}

/// The Vfs of a namespace can itself be mounted by place, deeper than the root.
#[tokio::test]
async fn a_namespace_is_a_file_system_like_any_other() {
    let (mux, vfs) = namespace().await;
    let content = mux.put("/ipfs", &b"content"[..]).await.expect("put");
    let mut outer = MuxFs::new();
    outer.mount(Mount::location(prefix("all"), vfs, testing::env())).expect("mounts");
    outer.put("/all/local/new/file", &b"place"[..]).await.expect("put through two namespaces");
    assert_eq!(mux.open("/local/new/file").await.expect("open").read_at(0, 99).await.expect("read"), "place");
    let inner = format!("/all{content}");
    assert_eq!(outer.open(&inner).await.expect("open").read_at(0, 99).await.expect("read"), "content");
    let error = outer.put(&inner, &b"other"[..]).await.expect_err("content does not change");
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert_eq!(outer.put("/all/new", &b"x"[..]).await.expect_err("no mount").kind(), ErrorKind::ReadOnly);
}

/// Slots of a union say which mount is meant: they cannot be shared.
#[tokio::test]
async fn two_mounts_cannot_share_a_slot() {
    let env = testing::env();
    let model = || -> Arc<dyn Vfs> { ModelFs::new(env.clone()) };
    let union = UnionVfs::new(vec![(prefix("a"), 1, model()), (prefix("b"), 1, model())], &env);
    assert_eq!(union.expect_err("refused").kind(), ErrorKind::InvalidArgument);
}
