//! A private repository in ten lines: files in a vault, whose store sees objects of one length and nothing else.
//!
//! Run it with `cargo run --example vault`. It keeps everything in a temporary directory and asserts what it prints.

use std::{fs, path::Path, sync::Arc};

use muxfs::{
    Env, Name, Result,
    block::{Segments, SegmentsOptions},
    heads::LogHeads,
    media::SealedMedia,
    repo::Repo,
    testing,
    tree::TreeOptions,
};
use muxfs_local::FileMedia;
use muxfs_vault::{Password, Vault, VaultOptions, VaultPlace};

/// Where a vault in a directory is. It may as well be in SQLite, on Redis, in a bucket or on many nodes.
async fn place(dir: &Path, env: &Env) -> Result<VaultPlace> {
    let media = |part: &str| FileMedia::open(dir.join(part)).map(Arc::new);
    let blocks = Segments::open(media("blocks")?, media("index")?, SegmentsOptions::default(), env).await?;
    let heads = LogHeads::open(media("heads")?, env).await?;
    Ok(VaultPlace::new(Arc::new(blocks), Arc::new(heads), Name::new(b"vault")?, env.clone()))
}

/// What keeps what was not committed yet.
fn journal(dir: &Path, vault: &Vault, env: &Env) -> Result<Arc<SealedMedia>> {
    let media = FileMedia::open(dir.join("journal")).map(Arc::new)?;
    Ok(Arc::new(SealedMedia::new(media, vault.key("journal"), env.clone())))
}

/// Whether a file below a directory has these bytes in it.
fn is_seen(dir: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").path()).any(|path| {
        let has = |file: &Path| fs::read(file).expect("read").windows(bytes.len()).any(|window| window == bytes);
        if path.is_dir() { is_seen(&path, bytes) } else { has(&path) }
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let temp = tempfile::tempdir().expect("a temporary directory");
    // A program of its own has a clock and randomness of its own: `muxfs::Env`.
    let (dir, env) = (temp.path(), testing::env());

    // The ten lines. What was not committed yet is in the journal, encrypted with a key of the vault; all else is in the vault.
    let password = Password::new("correct horse battery staple")?;
    let vault = Arc::new(Vault::create(place(dir, &env).await?, &password, &VaultOptions::default()).await?);
    let (journal, options) = (journal(dir, &vault, &env)?, TreeOptions::new(Name::new(b"private")?, env.clone()));
    let repo = Repo::create(vault.clone(), journal, vault.clone(), options.clone()).await?;
    repo.create_dir_all("/letters").await?;
    repo.write("/letters/to-alice", "Dear Alice, it is in the garden.").await?;
    repo.close().await?;
    drop((repo, vault));
    assert!(!is_seen(dir, b"garden") && !is_seen(dir, b"to-alice"), "neither what files say nor what they are called");

    let wrong = Password::new("correct horse battery stable")?;
    println!("{}", Vault::open(place(dir, &env).await?, &wrong).await.expect_err("nobody knows what is in it"));

    let vault = Arc::new(Vault::open(place(dir, &env).await?, &password).await?);
    println!("{:?}", vault.usage());
    let repo = Repo::open(vault.clone(), self::journal(dir, &vault, &env)?, vault.clone(), options).await?;
    assert_eq!(repo.read("/letters/to-alice").await?, "Dear Alice, it is in the garden.");
    repo.close().await?;

    // A new password: nothing but the head is written again.
    let newer = Password::new("a better one")?;
    vault.change_password(&newer, VaultOptions::default().cost).await?;
    drop((repo, vault));
    assert!(Vault::open(place(dir, &env).await?, &password).await.is_err());
    Vault::open(place(dir, &env).await?, &newer).await.map(drop)
}
