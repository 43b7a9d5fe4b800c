//! Packs whose directories cannot be read for a while: what is acknowledged meanwhile stays, and when they are back all is there.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use muxfs::{ErrorKind, Result};

use super::*;

fn random(n: usize, len: usize) -> Bytes {
    Dice::new(n as u64).bytes(len).into()
}

/// Blocks in many packs, some of them deleted by the last one, and what is left of them.
async fn sample() -> (World, BTreeMap<BlockKey, Bytes>) {
    let (world, mut model) = (World::new(1), BTreeMap::new());
    let options = VaultOptions { compression: Compression::None, ..options() };
    let mut vault = world.create(&options).await;
    let long = (0..2).map(|n| (n, 600_000)).chain((100..110).map(|n| (n, 1000)));
    let lens = [long.collect::<Vec<_>>(), vec![(2, 600_000)], vec![(200, 1000), (201, 1000), (202, 56_000)]];
    for (session, blocks) in lens.into_iter().enumerate() {
        for (n, len) in blocks {
            put(&vault, &key(n), random(n, len)).await;
            model.insert(key(n), random(n, len));
        }
        for n in (100..104).filter(|_| session == 2) {
            vault.delete(&key(n)).await.expect("delete");
            model.remove(&key(n));
        }
        flush(&vault).await;
        drop(vault);
        vault = world.open().await.expect("open");
    }
    (world, model)
}

async fn check(world: &World, model: &BTreeMap<BlockKey, Bytes>) -> Vault {
    let vault = world.open().await.expect("open");
    let found = all(&vault).await.expect("all is readable");
    assert_eq!(found.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
    assert!(&found == model, "some block is another");
    assert_eq!(vault.check().await.expect("check").damaged, Vec::<String>::new());
    vault
}

/// While a pack is away others are put, some of them again, some are deleted, and room is asked for: when it is back all of
/// that is as it was said to be, and what it tells of is there.
#[tokio::test]
async fn what_is_done_while_a_pack_is_away_stays_and_nothing_is_lost() {
    let (world, model) = sample().await;
    let (objects, head) = (world.objects().await, world.head().await);
    let packs = crate::head::unlock(&head, &password()).expect("good").2.packs;
    assert!(packs.len() > 1, "one that tells of a long block, and one that deletes");
    for (round, name) in packs.values().enumerate() {
        let world = World::of(&objects, head.clone(), 20 + round as u64).await;
        let name = BlockKey::new(&name.0).expect("a key");
        world.blocks.delete(&name).await.expect("delete");
        let mut model = model.clone();
        let vault = world.open().await.expect("open");
        assert_eq!(vault.get(&key(9999)).await.expect_err("who knows").kind(), ErrorKind::Corrupt);
        for n in [100, 200] {
            put(&vault, &key(n), random(n, 1000)).await;
            model.insert(key(n), random(n, 1000));
        }
        for n in [101, 105, 201] {
            vault.delete(&key(n)).await.expect("delete");
            model.remove(&key(n));
        }
        for n in 300..303 {
            put(&vault, &key(n), random(n, 30_000)).await;
            model.insert(key(n), random(n, 30_000));
            flush(&vault).await;
        }
        let compacted = vault.compact().await.expect("compact");
        assert_eq!((compacted.packs, compacted.damaged), (0, 1));
        drop(vault);
        world.blocks.put(&name, objects[&name].clone()).await.expect("put");
        let mut vault = check(&world, &model).await;
        // And what is deleted now does not come back when those are gone that were put meanwhile.
        for n in [100, 200, 300, 301, 302] {
            vault.delete(&key(n)).await.expect("delete");
            model.remove(&key(n));
        }
        for n in 400..404 {
            put(&vault, &key(n), random(n, 5000)).await;
            model.insert(key(n), random(n, 5000));
            vault.compact().await.expect("compact");
            drop(vault);
            vault = check(&world, &model).await;
        }
    }
}

/// One after the other of many packs: as long as nobody can tell what is in too many, nothing is written.
#[tokio::test]
async fn where_too_many_packs_cannot_be_read_nothing_is_written() {
    let world = World::new(1);
    let vault = world.create(&VaultOptions { compression: Compression::None, ..options() }).await;
    for n in 0..30 {
        put(&vault, &key(n), random(n, 60_000)).await;
    }
    flush(&vault).await;
    let (objects, head) = (world.objects().await, world.head().await);
    let (names, index) = {
        let head = vault.inner.head.lock().await;
        let runs = head.current.runs.runs.iter().flat_map(|run| run.objects.clone()).collect::<Vec<_>>();
        (head.current.names(), runs)
    };
    assert!(!index.is_empty(), "there is an index");
    for count in [16, 17] {
        let mut objects = objects.clone();
        for name in &index {
            objects.remove(&BlockKey::new(&name.0).expect("a key"));
        }
        for name in names.values().take(count) {
            let name = BlockKey::new(&name.0).expect("a key");
            let mut damaged = objects[&name].to_vec();
            let at = damaged.len() - 49;
            damaged[at] ^= 1;
            objects.insert(name, damaged.into());
        }
        let world = World::of(&objects, head.clone(), 2).await;
        let vault = world.open().await.expect("open");
        assert_eq!(vault.inner.state().unreadable.len(), count);
        assert_eq!(vault.get(&key(29)).await.expect("get"), Some(random(29, 60_000)));
        let written = vault.put(&key(100), random(100, 10)).await;
        let deleted = vault.delete(&key(101)).await;
        if count == 16 {
            written.expect("put");
            deleted.expect("delete");
            flush(&vault).await;
            let again = world.open().await.expect("open");
            assert_eq!(again.get(&key(100)).await.expect("get"), Some(random(100, 10)));
        } else {
            assert_eq!(written.expect_err("it is read only").kind(), ErrorKind::ReadOnly);
            assert_eq!(deleted.expect_err("it is read only").kind(), ErrorKind::ReadOnly);
            flush(&vault).await;
            assert_eq!(world.head().await, head, "nothing is written");
        }
    }
}

/// A store of which the next answers about one object have a bit that is another.
#[derive(Debug)]
struct Flips {
    inner: Arc<Mem>,
    name: BlockKey,
    next: AtomicU32,
}

#[async_trait]
impl BlockStore for Flips {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let got = self.inner.get(key).await?;
        let is_next = || self.next.fetch_update(SeqCst, SeqCst, |count| count.checked_sub(1)).is_ok();
        Ok(got.map(|got| {
            let mut got = got.to_vec();
            if *key == self.name && is_next() {
                *got.last_mut().expect("long") ^= 1;
            }
            got.into()
        }))
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.inner.put(key, block).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.delete(key).await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// A bit that is another once, on its way, makes no pack unreadable.
#[tokio::test]
async fn a_directory_that_came_damaged_is_asked_for_again() {
    let (world, model) = sample().await;
    let packs = crate::head::unlock(&world.head().await, &password()).expect("good").2.packs;
    let (_, name) = packs.last_key_value().expect("there are packs");
    let name = BlockKey::new(&name.0).expect("a key");
    for (next, is_read) in [(1_u32, true), (2, false)] {
        let flips = Flips { inner: world.blocks.clone(), name: name.clone(), next: next.into() };
        let env = Clock::default().env(90 + u64::from(next));
        let opened = Vault::open(place(Arc::new(flips), world.heads.clone(), env), &password()).await;
        assert_eq!(all(&opened.expect("open")).await.ok() == Some(model.clone()), is_read);
    }
}
