//! The laws of block stores, over vaults of each cipher, of short and of long packs, and of a vault in a vault.

use std::sync::Arc;

use muxfs::{
    BlockStore,
    block::{Segments, SegmentsOptions},
    testing::block_store::Subject,
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
