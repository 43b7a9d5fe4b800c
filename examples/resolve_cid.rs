//! Resolves paths below a CID: through linked data, directories and symlinks, from block to block.
//!
//! Run it with `cargo run --example resolve_cid`. It keeps everything in memory and asserts what it prints.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::stream;
use muxfs::{
    ErrorKind, Mount, MuxFs, Name, Prefix, Result, Source,
    block::Mem,
    dag::{Dag, DagOptions, Entry, Ipld, UnixfsMeta},
    media::MemMedia,
    pins::Pins,
};

#[tokio::main]
async fn main() -> Result<()> {
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?);
    let mut mux = MuxFs::new();
    mux.mount(Mount::cas(Prefix::new("mem")?, dag.clone(), pins))?;

    // A directory of one file and one symlink, put through the DAG itself.
    let file = dag.import(&b"foo"[..], UnixfsMeta::default()).await?;
    let symlink = dag.put_symlink(b"foo", UnixfsMeta::default()).await?;
    let entries =
        [("foo", file), ("bar", symlink)].map(|(name, link)| Ok(Entry { name: Name::new(name.as_bytes())?, link }));
    let dir = dag.put_dir(Box::pin(stream::iter(entries))).await?;
    println!("a directory: /mem/{}", dir.cid);

    // Linked data that links to it, twice.
    let releases = Ipld::List(vec![Ipld::Null, Ipld::from(dir.cid)]);
    let index = Ipld::Map(BTreeMap::from([
        ("name".to_owned(), Ipld::from("an example")),
        ("latest".to_owned(), Ipld::from(dir.cid)),
        ("releases".to_owned(), releases),
    ]));
    let root = mux.put("/mem", Source::LinkedData(index)).await?;
    println!("linked data that links to it: {root}");

    for below in ["latest/foo", "releases/1/foo", "releases/1/bar"] {
        let file = mux.open(format!("{root}/{below}")).await?;
        println!("{below} leads to {:?}", file.info().cid);
        assert_eq!(file.read_at(0, 99).await?, "foo");
    }

    let name = mux.open(format!("{root}/name")).await?;
    println!("a path may end inside a block, at a value: {:?}", name.linked_data().await?);
    assert_eq!(name.linked_data().await?, Some(Ipld::from("an example")));

    let links = mux.open(format!("{root}/latest")).await?.linked_data().await?;
    println!("a directory is linked data, its links by name: {links:?}");
    assert_eq!(
        links,
        Some(Ipld::Map([("bar", symlink), ("foo", file)].map(|(n, l)| (n.to_owned(), l.cid.into())).into()))
    );

    for (below, kind) in [("latest/baz", ErrorKind::NotFound), ("latest/foo/x", ErrorKind::NotDir)] {
        let error = mux.open(format!("{root}/{below}")).await.expect_err("nothing is there");
        println!("{below}: {error}");
        assert_eq!(error.kind(), kind);
    }
    Ok(())
}
