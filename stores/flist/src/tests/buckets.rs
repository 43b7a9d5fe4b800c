//! Goal: chunks lie in a bucket of S3 as rfs has them there, come from it verified, and whatever is wrong with it is told in time.
//! Method: our server of S3, whose one key has one bucket; flists made into it, and read with the key, without it, with another,
//! and after the server ended.

use std::{fs, sync::Arc};

use bytes::Bytes;
use muxfs::{
    ErrorKind, Name,
    testing::wire::working_tree,
    vfs::{NewNode, SetAttr},
};
use muxfs_s3::S3Limits;
use muxfs_s3_serve::{Key, Keys, Options, Server, serve};
use tokio::time::Instant;

use super::{made::World, writing::long};
use crate::{
    Chunks, ChunksOptions, Flist, Route, SourceUrl,
    address::{Address, open_bucket},
    chunk::hex,
    write::{self, CreateOptions, Report, Source, Stores},
};

const SECRET: &str = "the-secret-of-mine";

/// A server with the bucket `chunks`, and where it is.
async fn server() -> (Server, String) {
    let (vfs, ()) = working_tree().await;
    let bucket = Name::new(b"chunks").expect("a name");
    vfs.create(vfs.root(), &bucket, NewNode::Dir, SetAttr::default()).await.expect("made");
    let key = Key { id: "mine".into(), secret: SECRET.into(), read_only: false, allow: Vec::new() };
    let keys = Keys::new(vec![key]).expect("keys");
    let options = Options { addr: ([127, 0, 0, 1], 0).into(), keys, ..Options::default() };
    let server = serve(vfs, options).await.expect("listens");
    let place = format!("{}/chunks", server.local_addr());
    (server, place)
}

async fn create(world: &World, store: &str) -> muxfs::Result<Report> {
    let root = world.path("rootfs");
    if !root.exists() {
        fs::create_dir(&root).expect("made");
        fs::write(root.join("long"), long()).expect("written");
    }
    let stores = Arc::new(Stores::open(&[store.parse().expect(store)])?);
    let target = world.path("flists").join("a.fl");
    write::create(Source::Dir(root), stores, &target, CreateOptions::default()).await
}

/// The long file of an flist, its chunks from a source, or where the flist says.
async fn read(flist: &Flist, source: Option<&str>) -> muxfs::Result<Bytes> {
    let sources = source.iter().map(|url| url.parse().expect(url)).collect();
    let chunks = Chunks::open(ChunksOptions { sources, follow: source.is_none(), kept: None }).await?;
    let sources = chunks.sources_of(flist)?;
    let dir = flist.dir(&flist.root()?)?;
    let (_, entry) = dir.find(&Name::new(b"long")?).expect("it is there");
    let (mut all, mut index) = (Vec::new(), 0);
    while let Some(bytes) = chunks.read(&sources, flist, &entry.inode, index).await? {
        all.extend_from_slice(&bytes);
        index += 1;
    }
    Ok(all.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_objects_of_a_bucket() {
    let (server, place) = server().await;
    let world = World::new();
    for below in ["", "/below/it"] {
        let mine = format!("s3://mine:{SECRET}@{place}{below}?region=eu-1");
        let report = create(&world, &mine).await.expect("made");
        assert_eq!((report.chunks, report.chunks_stored), (3, 3), "{report:?}");
        let again = create(&world, &mine).await.expect("made");
        assert_eq!((again.chunks_stored, again.bytes_stored), (0, 0), "the bucket has them");
        let flist = world.open("a.fl").expect("opens");
        assert!(read(&flist, Some(&mine)).await.expect("read") == long());
        // Each under its id alone, as rfs looks for it.
        let url: SourceUrl = mine.parse().expect("an address");
        let Address::S3 { place: there, who } = &url.address else { panic!("a bucket") };
        let bucket = open_bucket(there, who, S3Limits::default()).expect("a bucket");
        let dir = flist.dir(&flist.root().expect("a root")).expect("read");
        for chunk in flist.chunks(dir.entries[0].inode.id, 0, 9).expect("its chunks").1 {
            let stored = bucket.get(&hex(chunk.id()), 1 << 20).await.expect("got").expect("there");
            assert!(chunk.is(&stored));
        }
        // Whoever has the flist has the address, and not the key.
        let routes = flist.routes().expect("routes");
        assert_eq!(routes, [Route { first: 0, last: 255, url: format!("s3://{place}{below}?region=eu-1") }]);
        let bytes = fs::read(world.path("flists/a.fl")).expect("read");
        assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()));
    }
    server.shutdown().await;
}

/// As rfs writes it where nobody took the key out.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_an_flist_has_is_used_where_it_is_followed() {
    let (server, place) = server().await;
    let world = World::new();
    let mine = format!("s3://mine:{SECRET}@{place}");
    create(&world, &mine).await.expect("made");
    let path = world.path("flists/a.fl");
    let routes = [Route { first: 0, last: 255, url: mine.clone() }];
    let (tree, facts) = {
        let flist = world.open("a.fl").expect("opens");
        let facts = write::Facts { routes: routes.to_vec(), ..write::Facts::of(&flist).expect("read") };
        (write::Tree::of(&flist).expect("read"), facts)
    };
    write::save(&tree, &facts, &path, crate::Format::Fl).expect("written");
    let flist = world.open("a.fl").expect("opens");
    assert!(read(&flist, None).await.expect("read") == long());
    server.shutdown().await;
}

/// What is refused is refused at once and for good; who is gone may come again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_bucket_is_told_in_time() {
    let (server, place) = server().await;
    let world = World::new();
    let mine = format!("s3://mine:{SECRET}@{place}");
    create(&world, &mine).await.expect("made");
    let flist = world.open("a.fl").expect("opens");
    let missing = mine.replace("/chunks", "/missing");
    for (url, why) in [
        (format!("s3://{place}"), "AccessDenied"),
        (format!("s3://mine:wrong@{place}"), "the key may not"),
        (missing.clone(), "no such bucket"),
        (format!("{mine}/elsewhere"), "none of 1 sources has it"),
    ] {
        let error = read(&flist, Some(&url)).await.expect_err(&url);
        let told = format!("{error:#}");
        assert!(error.kind() == ErrorKind::Io && told.contains(why) && !told.contains(SECRET), "{url}: {told}");
    }
    let error = create(&world, &missing).await.expect_err("it has to be there");
    assert!(error.kind() == ErrorKind::NotFound && format!("{error:#}").contains("make it"), "{error:#}");
    server.shutdown().await;
    let begun = Instant::now();
    let error = read(&flist, Some(&mine)).await.expect_err("nobody listens");
    let told = format!("{error:#}");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{told}");
    assert!(told.contains(&place.replace("/chunks", "")) && !told.contains(SECRET), "{told}");
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}
