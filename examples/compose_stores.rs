//! Composes stores: the same content in two of them has one name, and frontends see all mounts as one tree.
//!
//! Run it with `cargo run --example compose_stores`. It keeps everything in memory and asserts what it prints.

use std::sync::Arc;

use muxfs::{
    BlockStore, Mount, MuxFs, Name, Prefix, Result,
    block::{Mem, Segments, SegmentsOptions},
    dag::{Dag, DagOptions},
    media::MemMedia,
    pins::Pins,
    testing::{self, model::ModelFs},
    vfs::{Cookie, Listing, Vfs, union::Slots},
};

/// A content-addressed mount over any store of blocks.
async fn mount(prefix: &str, blocks: Arc<dyn BlockStore>) -> Result<Mount> {
    let pins = Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?;
    Ok(Mount::cas(Prefix::new(prefix)?, Dag::new(blocks, DagOptions::default()), Arc::new(pins)))
}

async fn names(vfs: &Arc<dyn Vfs>) -> Result<Vec<String>> {
    let page = vfs.readdir(vfs.root(), Cookie::START, 100, Listing::Names).await?;
    Ok(page.entries.iter().map(|entry| format!("/{}", entry.name)).collect())
}

#[tokio::main]
async fn main() -> Result<()> {
    let env = testing::env();
    // Segments are append-only logs; here over memory, on a machine over files (`muxfs_local::FileMedia`).
    let (blocks, index) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()));
    let segments = Segments::open(blocks, index, SegmentsOptions::default(), &muxfs::testing::env()).await?;

    // Slots keep the inode numbers of a mount, whatever is mounted beside it later.
    let mut mux = MuxFs::new().with_slots(Slots::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await?);
    mux.mount(mount("mem", Arc::new(Mem::default())).await?)?;
    mux.mount(mount("ipfs", Arc::new(segments)).await?)?;
    mux.mount(Mount::location(Prefix::new("local")?, ModelFs::new(env.clone()), env.clone()))?;

    let content = vec![7; 3_000_000];
    let in_memory = mux.put("/mem", content.clone()).await?;
    let on_segments = mux.put("/ipfs", content).await?;
    println!("{in_memory}\n{on_segments}: one CID, whatever the store");
    assert_eq!(in_memory.cid(), on_segments.cid());

    let kept = mux.put_default(&b"to keep"[..]).await?;
    println!("where no mount is named, content goes to one that keeps it: {kept}");
    assert_eq!(kept.prefix, Prefix::new("ipfs")?);

    mux.put("/local/a.txt", &b"a"[..]).await?;
    let vfs = mux.vfs(&env).await?;
    println!("frontends see one tree: {:?}", names(&vfs).await?);
    assert_eq!(names(&vfs).await?, ["/mem", "/ipfs", "/local"]);

    // The path /ipfs/<cid>, as NFS or FTP would walk it.
    let ipfs = vfs.lookup(vfs.root(), &Name::new(b"ipfs")?).await?;
    let cid = on_segments.parts.first().expect("a CID");
    let file = vfs.lookup(ipfs.ino, cid).await?;
    println!("{on_segments} is inode {:#x} of {} bytes", file.ino.0, file.size);
    assert_eq!(vfs.read(file.ino, 2_999_999, 10).await?, &[7][..]);
    for ino in [file.ino, ipfs.ino] {
        vfs.release(ino, 1);
    }
    Ok(())
}
