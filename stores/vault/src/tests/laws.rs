//! The laws of block stores, over vaults of each cipher and of short and long packs, and those of heads.

use std::sync::Arc;

use muxfs::{
    BlockStore,
    block::{Segments, SegmentsOptions},
    testing::{block_store::Subject, heads::calls_at_once_can_be_put_in_order},
};

use super::*;

async fn subject(options: VaultOptions) -> Subject {
    let (world, pack_len) = (World::new(1), options.pack_len);
    let subject = Subject::reopening(move || {
        let (world, options) = (world.clone(), options.clone());
        Box::pin(async move {
            let opened = world.open().await;
            let vault = if opened.is_ok() { opened } else { Ok(world.create(&options).await) };
            Arc::new(vault.expect("open")) as Arc<dyn BlockStore>
        })
    });
    subject.await.with_limits(Vault::block_len_max(pack_len), muxfs::block::BLOCK_KEY_LEN_MAX)
}

async fn over_segments() -> Subject {
    let (data, index) = (muxfs::media::MemMedia::default(), muxfs::media::MemMedia::default());
    let env = muxfs::testing::env();
    let segments =
        Segments::open(Arc::new(data), Arc::new(index), SegmentsOptions::default(), &env).await.expect("open");
    let place = place(Arc::new(segments), Arc::new(MemHeads::default()), env);
    let vault = Vault::create(place, &password(), &options()).await.expect("made");
    Subject::from(vault).with_limits(Vault::block_len_max(PACK_LEN_MIN), muxfs::block::BLOCK_KEY_LEN_MAX)
}

muxfs::block_store_laws!(short_packs, subject(options()));
muxfs::block_store_laws!(long_packs, subject(VaultOptions { cost: CHEAP, ..VaultOptions::default() }));
muxfs::block_store_laws!(
    xchacha,
    subject(VaultOptions {
        cipher: Cipher::XChaCha20Poly1305,
        compression: Compression::Lz4,
        pack_len: 256 << 10,
        cost: CHEAP,
    })
);
muxfs::block_store_laws!(on_a_disk, over_segments());

async fn heads() -> muxfs::testing::heads::Subject {
    let world = World::new(2);
    world.create(&options()).await;
    let subject = muxfs::testing::heads::Subject::reopening(move || {
        let world = world.clone();
        Box::pin(async move { Arc::new(world.open().await.expect("open")) as Arc<dyn Heads> })
    });
    subject.await.with_len_max(crate::heads::HEADS_LEN_MAX)
}

muxfs::heads_laws!(heads, heads());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_linearizable() {
    let vault: Arc<dyn Heads> = Arc::new(World::new(3).create(&options()).await);
    calls_at_once_can_be_put_in_order(vec![vault; 4], 20).await;
}

/// A tree and its files are in the vault: who has the store and the password has them, on whatever machine.
#[tokio::test]
async fn a_tree_in_a_vault_needs_nothing_beside_it() {
    use muxfs::{media::MemMedia, repo::Repo, tree::TreeOptions};
    let world = World::new(4);
    let options = || TreeOptions::new(Name::new(b"tree").expect("a name"), world.env.clone());
    let vault = Arc::new(world.create(&super::options()).await);
    let repo = Repo::create(vault.clone(), Arc::new(MemMedia::default()), vault, options()).await.expect("made");
    repo.write("letter", "dear reader").await.expect("written");
    repo.close().await.expect("closed");
    drop(repo);
    let vault = Arc::new(world.open().await.expect("open"));
    let repo = Repo::open(vault.clone(), Arc::new(MemMedia::default()), vault, options()).await.expect("open");
    assert_eq!(repo.read("letter").await.expect("read"), "dear reader");
}
