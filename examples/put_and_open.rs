//! Puts a file by content and by place, opens it by path, and shows that content is its own name.
//!
//! Run it with `cargo run --example put_and_open`. It keeps everything in memory and asserts what it prints.

use std::sync::Arc;

use muxfs::{
    ErrorKind, FileKind, Mount, MuxFs, Prefix, Result,
    block::Mem,
    dag::{Dag, DagOptions},
    media::MemMedia,
    pins::Pins,
    testing::{self, model::ModelFs},
};

#[tokio::main]
async fn main() -> Result<()> {
    // A store of blocks under a DAG, and pins that say what to keep: a content-addressed mount.
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?);
    let mut mux = MuxFs::new();
    mux.mount(Mount::cas(Prefix::new("mem")?, dag, pins))?;
    // Any file system by inodes: a location-addressed mount.
    let env = testing::env();
    mux.mount(Mount::location(Prefix::new("local")?, ModelFs::new(env.clone()), env))?;

    let path = mux.put("/mem", &b"hello"[..]).await?;
    println!("put 5 bytes by content: {path}");
    assert_eq!(path.to_string(), "/mem/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq");

    let file = mux.open(&path).await?;
    println!("open says: {:?}, {} bytes, CID {:?}", file.info().kind, file.info().size, file.info().cid);
    assert_eq!(file.read_at(0, 5).await?, "hello");
    assert_eq!(file.read_at(3, 99).await?, "lo");

    assert_eq!(mux.put("/mem", &b"hello"[..]).await?, path);
    println!("put again: the same path, since the content is the same");

    let refused = mux.put(&path, &b"other"[..]).await.expect_err("other bytes have another CID");
    println!("put other bytes there: {refused:#}");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);

    mux.put("/local/notes/a.txt", &b"first"[..]).await?;
    mux.put("/local/notes/a.txt", &b"second"[..]).await?;
    let notes = mux.open("/local/notes").await?;
    println!("by place, /local/notes is a {:?} of {:?}", notes.info().kind, notes.linked_data().await?);
    assert_eq!(notes.info().kind, FileKind::Dir);
    assert_eq!(mux.open("/local/notes/a.txt").await?.read_at(0, 99).await?, "second");

    assert!(mux.delete(&path).await? && !mux.delete(&path).await?);
    println!("delete unpinned {path}; a second time there is nothing to unpin");

    let unknown = mux.open("/etc/passwd").await.expect_err("no such mount");
    println!("and a prefix that is not mounted is never a host path: {unknown:#}");
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    Ok(())
}
