//! What replies promise: a sync before them, one for many, and an error for each where it fails.

mod node;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use muxfs::{
    ErrorKind, Result,
    media::Media,
    testing::fault::{FaultyMedia, MediaCall},
};
use muxfs_zdb::{EngineOptions, Home, MemHome, Part};

use self::node::{Node, Reply, options, request};

/// A home in memory whose media fail when told to.
#[derive(Debug, Default)]
struct FaultyHome {
    inner: MemHome,
    data: Mutex<BTreeMap<u64, Arc<FaultyMedia>>>,
}

#[async_trait]
impl Home for FaultyHome {
    async fn registry(&self) -> Result<Arc<dyn Media>> {
        self.inner.registry().await
    }

    async fn media(&self, number: u64, part: Part) -> Result<Arc<dyn Media>> {
        let media = self.inner.media(number, part).await?;
        if part == Part::Index {
            return Ok(media);
        }
        let faulty = Arc::new(FaultyMedia::new(media));
        self.data.lock().expect("a lock").insert(number, faulty.clone());
        Ok(faulty)
    }

    async fn numbers(&self) -> Result<Vec<u64>> {
        self.inner.numbers().await
    }

    async fn remove(&self, number: u64) -> Result<()> {
        self.inner.remove(number).await
    }

    fn free_len(&self) -> Option<u64> {
        self.inner.free_len()
    }

    fn path(&self, number: u64, part: Part) -> String {
        self.inner.path(number, part)
    }
}

impl FaultyHome {
    /// The data of the namespace that was made first.
    fn data(&self) -> Arc<FaultyMedia> {
        self.data.lock().expect("a lock").values().next().expect("opened").clone()
    }
}

async fn faulty() -> (Arc<FaultyHome>, Node) {
    let home = Arc::new(FaultyHome::default());
    let node = Node::over(home.clone(), EngineOptions::new(&muxfs::testing::env()), options()).await;
    (home, node)
}

fn pipeline(round: usize) -> Vec<u8> {
    (0..64).flat_map(|n| request(&["SET", &format!("key-{n}"), &format!("{round}-{n}")])).collect()
}

#[tokio::test]
async fn one_sync_is_for_all_that_came() {
    let (home, node) = faulty().await;
    let mut client = node.client().await;
    client.say("SET first v").await;
    let before = home.data().calls(MediaCall::Sync);
    assert!(before > 0, "it is durable");
    for round in 0..10 {
        client.send(&pipeline(round)).await;
        for n in 0..64 {
            assert_eq!(client.reply().await, Reply::bulk(format!("key-{n}")));
        }
    }
    let count = home.data().calls(MediaCall::Sync) - before;
    // A packet may come in parts, but not in 64.
    assert!((10..100).contains(&count), "{count} syncs for 640 sets");
    let before = home.data().calls(MediaCall::Sync);
    for _ in 0..100 {
        client.say("GET first").await;
    }
    assert_eq!(home.data().calls(MediaCall::Sync), before, "who only reads syncs nothing");
    node.stop().await;
}

/// Nothing is acknowledged that is not durable, and what else was asked is answered all the same.
#[tokio::test]
async fn a_sync_that_fails_makes_errors_of_what_it_was_for() {
    let (home, node) = faulty().await;
    let mut client = node.client().await;
    client.say("SET before v").await;
    home.data().fail_next(MediaCall::Sync, ErrorKind::Io);
    client.send(&[request(&["SET", "k", "v"]), request(&["PING"]), request(&["DEL", "before"])].concat()).await;
    let replies = [client.reply().await, client.reply().await, client.reply().await];
    assert!(
        matches!(&replies[0], Reply::Error(text) if text.starts_with("Cannot write data right now")),
        "{replies:?}"
    );
    assert_eq!(replies[1], Reply::Simple("PONG".into()));
    assert!(matches!(&replies[2], Reply::Error(_)), "{replies:?}");
    // It takes no more until it is read anew, and reads go on.
    let refused = client.refused("SET k v").await;
    assert!(refused.contains("RELOAD"), "{refused}");
    client.ok("RELOAD default").await;
    assert_eq!(client.say("GET before").await, Reply::bulk("v"));
    assert_eq!(client.say("SET k w").await, Reply::bulk("k"));
    assert_eq!(client.say("GET k").await, Reply::bulk("w"));
    node.stop().await;
}

#[tokio::test]
async fn a_full_disk_is_told_and_read() {
    let (home, node) = faulty().await;
    let mut client = node.client().await;
    client.say("SET k v").await;
    home.data().fail_next(MediaCall::Append, ErrorKind::NoSpace);
    assert_eq!(client.refused("SET k w").await, "No space left on the disk of this server");
    assert!(matches!(client.say("GET k").await, Reply::Bulk(_)));
    home.data().heal();
    assert_eq!(client.say("SET l v").await, Reply::bulk("l"), "when there is room it goes on");
    node.stop().await;
}
