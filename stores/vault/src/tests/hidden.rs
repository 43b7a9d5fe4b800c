//! What the store below sees: as little as it is told here.

use super::*;

/// What can be seen of a vault: names' lengths, objects' lengths, their number.
async fn seen(world: &World) -> Vec<(usize, usize)> {
    world.objects().await.iter().map(|(name, object)| (name.as_bytes().len(), object.len())).collect()
}

/// Two vaults of one size class that differ in names, sizes and number of blocks.
#[tokio::test]
async fn vaults_of_one_class_look_alike() {
    let mut all = Vec::new();
    for what in 0..4_usize {
        let world = World::new(what as u64);
        let vault = world.create(&VaultOptions { compression: Compression::None, ..options() }).await;
        match what {
            0 => put(&vault, &key(0), Dice::new(1).bytes(150_000).into()).await,
            1 => {
                for n in 0..600 {
                    put(&vault, &key(n), Dice::new(n as u64).bytes(n / 4).into()).await;
                }
            }
            2 => {
                for n in 0..9 {
                    let key = BlockKey::new(&[7; 200][..200 - n]).expect("a key");
                    put(&vault, &key, vec![0; 15_000 * n].into()).await;
                    flush(&vault).await;
                }
            }
            _ => {}
        }
        flush(&vault).await;
        all.push((seen(&world).await, world.head().await.len()));
        // The names themselves, and the bytes, are as good as random.
        let mut counts = [0_u32; 256];
        let objects = world.objects().await;
        let bytes = objects.iter().flat_map(|(name, object)| name.as_bytes().iter().chain(object));
        bytes.for_each(|byte| counts[usize::from(*byte)] += 1);
        let mean = f64::from(counts.iter().sum::<u32>()) / 256.0;
        let chi_square: f64 = counts.iter().map(|count| (f64::from(*count) - mean).powi(2) / mean).sum();
        assert!((150.0..400.0).contains(&chi_square), "{chi_square} is not what random bytes have");
    }
    assert!(all.iter().all(|one| one == &all[0]), "{all:?}");
}

/// Nothing that was put, neither bytes nor keys, is below in clear; and nothing is there twice.
#[tokio::test]
async fn nothing_is_in_clear_and_nothing_comes_twice() {
    let world = World::new(1);
    let vault = world.create(&VaultOptions { compression: Compression::None, ..options() }).await;
    let canary = b"a canary that sings of what it sees";
    let key = BlockKey::new(b"the key of the canary").expect("a key");
    let mut everything = Vec::new();
    for round in 0..6 {
        put(&vault, &key, Bytes::from_static(canary)).await;
        flush(&vault).await;
        everything.extend(world.objects().await);
        everything.push((key.clone(), world.head().await));
        vault.delete(&key).await.expect("delete");
        put(&vault, &super::key(round), Bytes::new()).await;
    }
    let mut parts = std::collections::HashMap::new();
    for (name, object) in &everything {
        for word in [&canary[..8], b"the key of"] {
            assert!(!object.windows(word.len()).any(|window| window == word), "a word is in clear");
        }
        let sealed = if object.len() == crate::head::HEAD_LEN { &object[144..] } else { object };
        for part in sealed.chunks_exact(16) {
            // Two objects have no 16 bytes in common, at whatever place: no nonce of theirs is used twice.
            let first = parts.entry(part.to_vec()).or_insert((name.clone(), object.clone()));
            assert!(first == &(name.clone(), object.clone()), "{name:?} repeats what {:?} has", first.0);
        }
    }
}

/// A flush puts whole packs and nothing else, whatever was put, and the number of objects stays in its class.
#[tokio::test]
async fn between_flushes_the_number_of_objects_is_of_a_class() {
    let world = World::new(1);
    let vault = world.create(&options()).await;
    let mut dice = Dice::new(1);
    for n in 0..60 {
        put(&vault, &key(n), dice.bytes(1 << dice.clone().roll(17)).into()).await;
        if n % 3 == 0 {
            vault.delete(&key(dice.roll(n + 1))).await.expect("delete");
        }
        flush(&vault).await;
        assert!(world.blocks.block_count().is_multiple_of(4), "{} objects", world.blocks.block_count());
        assert!(seen(&world).await.iter().all(|lens| *lens == (24, PACK_LEN_MIN as usize)));
    }
}

/// There are few objects more than data takes: what is not filled, covers and the index.
#[tokio::test]
async fn there_are_few_objects_more_than_data_takes() {
    for count in [1, 20, 100, 400, 1000] {
        let world = World::new(1);
        let vault = world.create(&VaultOptions { compression: Compression::None, ..options() }).await;
        let mut len = 0;
        for n in 0..count {
            let bytes = Dice::new(n as u64).bytes(1 + n * 7919 % 9000);
            len += bytes.len();
            put(&vault, &key(n), bytes.into()).await;
            if n % 50 == 0 {
                flush(&vault).await;
            }
        }
        flush(&vault).await;
        let (objects, packs) = (world.blocks.block_count(), len.div_ceil(PACK_LEN_MIN as usize));
        assert!(objects <= packs + 8, "{objects} objects for {len} bytes, which are {packs} packs");
    }
}

/// Without the password there is the number of packs, in fours, and what it costs to try one: whatever is in them.
#[tokio::test]
async fn what_is_seen_from_outside() {
    let world = World::new(5);
    let refused = Vault::seen(&world.place()).await.expect_err("nothing is there");
    assert_eq!(refused.kind(), muxfs::ErrorKind::NotFound);
    let vault = world.create(&options()).await;
    world.blocks.put(&key(7), block(7, 100)).await.expect("somebody else's");
    let seen = Vault::seen(&world.place()).await.expect("seen");
    assert_eq!((seen.cipher, seen.cost, seen.object_count), (Cipher::Aes256Gcm, CHEAP, 4));
    vault.put(&key(1), block(1, 1000)).await.expect("put");
    vault.flush().await.expect("flushed");
    assert_eq!(Vault::seen(&world.place()).await.expect("seen").object_count % 4, 0);
}
