//! The laws of blocks and heads, each over a server of its own.

mod server;

use std::sync::Arc;

use muxfs::{BlockStore, heads::Heads, testing};
use muxfs_redis::{RedisOptions, RedisStore};
use server::{ALWAYS, Server};

async fn open(server: &Server) -> RedisStore {
    RedisStore::open(RedisOptions { prefix: "a*[b]?\\-^:".into(), ..server.options() }, &testing::env())
        .await
        .expect("open")
}

/// A law that has no server is kept by the store in memory.
async fn blocks() -> testing::block_store::Subject {
    let Some(server) = Server::start(ALWAYS) else { return muxfs::block::Mem::default().into() };
    // What is not below the prefix is no block, whatever its name is.
    server.say(&[b"SET", b"a*[b]?\\-^", b"another's"]).await;
    server.say(&[b"SET", b"abb?\\-^:b:x", b"another's"]).await;
    let server = Arc::new(server);
    testing::block_store::Subject::reopening(move || {
        let server = server.clone();
        Box::pin(async move { Arc::new(open(&server).await) as Arc<dyn BlockStore> })
    })
    .await
}

async fn heads() -> testing::heads::Subject {
    let Some(server) = Server::start(ALWAYS) else { return muxfs::heads::MemHeads::default().into() };
    let server = Arc::new(server);
    testing::heads::Subject::reopening(move || {
        let server = server.clone();
        Box::pin(async move { Arc::new(open(&server).await) as Arc<dyn Heads> })
    })
    .await
}

muxfs::block_store_laws!(blocks_on_a_server, blocks());
muxfs::heads_laws!(heads_on_a_server, heads());

#[tokio::test(flavor = "multi_thread")]
async fn heads_at_once_can_be_put_in_order() {
    let Some(server) = Server::start(ALWAYS) else { return };
    let heads: Arc<dyn Heads> = Arc::new(open(&server).await);
    testing::heads::calls_at_once_can_be_put_in_order(vec![heads; 4], 40).await;
}
