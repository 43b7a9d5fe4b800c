//! The laws of blocks and heads, in a file of its own each.

use std::sync::Arc;

use muxfs::{BlockStore, heads::Heads, testing};
use muxfs_sqlite::{SqliteOptions, SqliteStore};

async fn blocks() -> testing::block_store::Subject {
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    testing::block_store::Subject::reopening(move || {
        let dir = dir.clone();
        Box::pin(async move { Arc::new(open(&dir).await) as Arc<dyn BlockStore> })
    })
    .await
}

async fn heads() -> testing::heads::Subject {
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    testing::heads::Subject::reopening(move || {
        let dir = dir.clone();
        Box::pin(async move { Arc::new(open(&dir).await) as Arc<dyn Heads> })
    })
    .await
}

async fn open(dir: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(dir.path().join("store.sqlite"), SqliteOptions::default()).await.expect("open")
}

muxfs::block_store_laws!(blocks_in_a_file, blocks());
muxfs::heads_laws!(heads_in_a_file, heads());

#[tokio::test(flavor = "multi_thread")]
async fn heads_at_once_can_be_put_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let heads: Arc<dyn Heads> = Arc::new(open(&dir).await);
    testing::heads::calls_at_once_can_be_put_in_order(vec![heads; 4], 40).await;
}
