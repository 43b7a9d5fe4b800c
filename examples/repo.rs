//! A repository in ten lines: files by path over a store of blocks, several changes as one, and what files were before.
//!
//! Run it with `cargo run --example repo`. It keeps everything in a temporary directory and asserts what it prints.

use std::sync::Arc;

use muxfs::{
    Name, Result,
    block::{Segments, SegmentsOptions},
    heads::LogHeads,
    repo::Repo,
    testing,
    tree::TreeOptions,
};
use muxfs_local::FileMedia;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<()> {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let media = |name: &str| FileMedia::open(temp.path().join(name)).map(Arc::new);
    // A program of its own has a clock and randomness of its own: `muxfs::Env`.
    let env = testing::env();

    // The ten lines. Any store of blocks will do: memory, a directory, nodes, a bucket.
    let blocks = Segments::open(media("blocks")?, media("index")?, SegmentsOptions::default(), &env).await?;
    let heads = LogHeads::open(media("heads")?, &env).await?;
    let options = TreeOptions::new(Name::new(b"letters")?, env);
    let repo = Repo::create(Arc::new(blocks), media("journal")?, Arc::new(heads), options).await?;
    repo.create_dir_all("/inbox").await?;
    repo.write("/inbox/one", "Dear reader,").await?;
    repo.commit("the first letter").await?;

    // A file is also a stream.
    let mut file = repo.create_file("/inbox/two").await?;
    file.write_all(b"as I said,").await.expect("written");
    file.flush().await.expect("flushed");
    let mut text = String::new();
    repo.open_file("/inbox/two").await?.read_to_string(&mut text).await.expect("read");
    println!("/inbox/two: {text}");

    // All of this happens, or nothing of it, whatever crashes; nobody sees a half.
    repo.transaction(|repo| async move {
        repo.create_dir_all("/archive/2026").await?;
        repo.rename("/inbox/one", "/archive/2026/one").await?;
        repo.copy("/inbox/two", "/archive/2026/two").await?;
        repo.write("/archive/2026/one", "Dear reader, once more:").await
    })
    .await?;
    repo.sync().await?;
    let failed = repo.transaction(|repo| async move {
        repo.remove_dir_all("/archive").await?;
        repo.read("/nowhere").await
    });
    println!("a transaction that fails: {}", failed.await.expect_err("there is no such file"));
    assert_eq!(repo.read_dir("/archive/2026").await?.len(), 2);

    // Each commit that is kept has its version of the file, whatever it was called then.
    repo.commit("archived").await?;
    let versions = repo.versions("/archive/2026/one").await?;
    for version in &versions {
        println!("{} bytes in {}", version.len, version.cid);
    }
    repo.restore("/archive/2026/one", &versions[1]).await?;
    assert_eq!(repo.read("/archive/2026/one").await?, "Dear reader,");
    repo.close().await
}
