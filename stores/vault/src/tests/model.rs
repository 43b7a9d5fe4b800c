//! A vault beside a map, whatever is done to both: also opened again, compacted, with its index kept and lost.

use muxfs::dag::{Dag, DagOptions, UnixfsMeta};

use super::*;

/// What a world holds is what the model holds.
async fn check(vault: &Vault, model: &BTreeMap<BlockKey, Bytes>) {
    let found = all(vault).await.expect("all is readable");
    assert_eq!(found.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
    assert!(&found == model, "some block is another");
}

async fn run(seed: u64, steps: usize, options: VaultOptions) {
    let (world, mut dice) = (World::new(seed), Dice::new(seed));
    let mut vault = world.create(&options).await;
    let mut model: BTreeMap<BlockKey, Bytes> = BTreeMap::new();
    // Blocks of few kinds, so that pieces are shared, come back, and go.
    let make = |n: usize| {
        let shared = block(n % 5, 30_000);
        Bytes::from([&shared[..20_000 + n * 10], &block(n, n * 97 % 40_000)[..]].concat())
    };
    for step in 0..steps {
        let n = dice.roll(40);
        match dice.roll(20) {
            0..9 => {
                put(&vault, &key(n), make(n)).await;
                model.insert(key(n), make(n));
            }
            9..15 => {
                vault.delete(&key(n)).await.expect("delete");
                model.remove(&key(n));
            }
            15 | 16 => flush(&vault).await,
            17 => {
                vault.compact().await.expect("compact");
                // What was deleted comes back: by then its packs may be gone, and an index may not have heard of that.
                flush(&vault).await;
                drop(vault);
                vault = world.open().await.expect("open");
                for n in 0..40 {
                    if dice.roll(2) == 0 && !model.contains_key(&key(n)) {
                        put(&vault, &key(n), make(n)).await;
                        model.insert(key(n), make(n));
                    }
                }
                check(&vault, &model).await;
            }
            18 => {
                flush(&vault).await;
                drop(vault);
                vault = world.open().await.expect("open");
            }
            _ => {
                let found = vault.get(&key(n)).await.expect("get");
                assert_eq!(found.as_ref(), model.get(&key(n)), "step {step}");
                let range = 100 * n..700 * n;
                let part = vault.get_range(&key(n), range.clone()).await.expect("get_range");
                let slice = |block: &Bytes| block.slice(range.start.min(block.len())..range.end.min(block.len()));
                assert_eq!(part, model.get(&key(n)).map(slice), "step {step}");
            }
        }
        if step % 50 == 0 {
            check(&vault, &model).await;
        }
    }
    flush(&vault).await;
    check(&vault, &model).await;
    assert_eq!(vault.check().await.expect("check").damaged, Vec::<String>::new());
    let vault = world.open().await.expect("open");
    check(&vault, &model).await;
    let (count, pack_len) = (world.blocks.block_count(), options.pack_len as usize);
    let live: usize = model.values().map(Bytes::len).sum();
    assert!(count.is_multiple_of(4) && count <= live.div_ceil(pack_len) * 2 + 16, "{count} objects for {live} bytes");
}

#[tokio::test]
async fn whatever_is_done_a_vault_is_a_map() {
    for seed in 0..6 {
        let cipher = if seed % 2 == 0 { Cipher::Aes256Gcm } else { Cipher::XChaCha20Poly1305 };
        let compression = [Compression::None, Compression::Lz4, Compression::Zstd][seed % 3];
        run(seed as u64, 400, VaultOptions { cipher, compression, ..options() }).await;
    }
}

/// Of many packs an index is kept; without it, or with a damaged one, the packs say the same.
#[tokio::test]
async fn an_index_that_is_lost_is_made_anew() {
    let world = World::new(3);
    let vault = world.create(&VaultOptions { compression: Compression::None, ..options() }).await;
    let mut model = BTreeMap::new();
    for n in 0..120 {
        let bytes = Bytes::from(Dice::new(n as u64).bytes(60_000));
        put(&vault, &key(n), bytes.clone()).await;
        model.insert(key(n), bytes);
        if n % 30 == 7 {
            vault.delete(&key(n - 3)).await.expect("delete");
            model.remove(&key(n - 3));
            flush(&vault).await;
        }
    }
    flush(&vault).await;
    vault.compact().await.expect("compact");
    let runs = vault.inner.head.lock().await.current.runs.runs.clone();
    let packs: Vec<_> = runs.iter().flat_map(|run| run.objects.clone()).collect();
    assert!(!packs.is_empty(), "there are packs enough for an index");
    let (objects, head) = (world.objects().await, world.head().await);
    drop(vault);
    check(&world.open().await.expect("open"), &model).await;
    for name in &packs {
        for is_gone in [true, false] {
            let mut objects = objects.clone();
            let name = BlockKey::new(&name.0).expect("a key");
            let mut damaged = objects.remove(&name).expect("there").to_vec();
            if !is_gone {
                damaged[100] ^= 1;
                objects.insert(name, damaged.into());
            }
            let world = World::of(&objects, head.clone(), 9).await;
            let vault = world.open().await.expect("open");
            check(&vault, &model).await;
            // What is deleted now stays so, with an index of its own.
            vault.delete(&key(50)).await.expect("delete");
            flush(&vault).await;
            let vault = world.open().await.expect("open");
            assert_eq!(vault.get(&key(50)).await.expect("get"), None);
            assert_eq!(vault.check().await.expect("check").damaged, Vec::<String>::new());
        }
    }
}

/// Many deletions of blocks in packs that are full of others are not moved again and again; and when those packs are gone, so
/// are the deletions.
#[tokio::test]
async fn deletions_that_are_many_are_moved_by_no_flush() {
    let world = World::new(5);
    let vault = world.create(&VaultOptions { compression: Compression::None, ..options() }).await;
    let long = |n: usize| BlockKey::new(format!("{n:0>200}").as_bytes()).expect("a key");
    let mut model = BTreeMap::new();
    for n in 0..1600 {
        put(&vault, &long(n), Bytes::from_static(b"x")).await;
        if n % 40 == 0 {
            let bytes = Bytes::from(Dice::new(n as u64).bytes(40_000));
            put(&vault, &key(n), bytes.clone()).await;
            model.insert(key(n), bytes);
        }
    }
    flush(&vault).await;
    for n in 0..1600 {
        vault.delete(&long(n)).await.expect("delete");
    }
    flush(&vault).await;
    let (mut before, mut came) = (world.objects().await, 0);
    for n in 2000..2020 {
        put(&vault, &key(n), block(n, 100)).await;
        model.insert(key(n), block(n, 100));
        flush(&vault).await;
        let now = world.objects().await;
        came += now.keys().filter(|name| !before.contains_key(*name)).count();
        before = now;
    }
    assert!(came <= 40, "20 small flushes put {came} objects");
    drop(vault);
    let vault = world.open().await.expect("open");
    check(&vault, &model).await;
    for n in (0..1600).step_by(40) {
        vault.delete(&key(n)).await.expect("delete");
        model.remove(&key(n));
    }
    for _ in 0..3 {
        vault.compact().await.expect("compact");
    }
    check(&vault, &model).await;
    let count = vault.usage().pack_count;
    assert!(count <= 4, "{count} packs for {} small blocks", model.len());
    drop(vault);
    check(&world.open().await.expect("open"), &model).await;
}

/// The same bytes are kept once: of another key, and where other bytes stand around them.
#[tokio::test]
async fn what_is_there_already_is_not_kept_again() {
    let world = World::new(4);
    let vault = world.create(&options()).await;
    let whole = Bytes::from(Dice::new(1).bytes(1 << 20));
    put(&vault, &key(0), whole.clone()).await;
    flush(&vault).await;
    let before = world.blocks.block_count();
    put(&vault, &key(1), whole.clone()).await;
    for n in 2..12 {
        let shifted = [&block(n, n * 11)[..], &whole].concat();
        put(&vault, &key(n), shifted.into()).await;
    }
    flush(&vault).await;
    let after = world.blocks.block_count();
    assert!(after <= before + 4, "{before} objects became {after}");
    assert_eq!(vault.get(&key(1)).await.expect("get"), Some(whole));
}

/// What stands above a vault is as above any store: a CID is the same.
#[tokio::test]
async fn content_has_the_same_cid_in_a_vault() {
    let bytes = Dice::new(8).bytes(3_000_000);
    let mem = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let world = World::new(8);
    let vault = Dag::new(Arc::new(world.create(&options()).await), DagOptions::default());
    let mut cids = Vec::new();
    for dag in [&mem, &vault] {
        cids.push(dag.import(&bytes[..], UnixfsMeta::default()).await.expect("import").cid);
        dag.flush().await.expect("flush");
    }
    assert_eq!(cids[0], cids[1]);
    drop(vault);
    let vault = Dag::new(Arc::new(world.open().await.expect("open")), DagOptions::default());
    let mut read = Vec::new();
    while read.len() < bytes.len() {
        read.extend(vault.read_at(&cids[0], read.len() as u64, 700_000).await.expect("read"));
    }
    assert!(read == bytes);
}
