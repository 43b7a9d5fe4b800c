//! Another master key: nothing is lost and nothing stops while it is put under everything, whatever stops it it goes on, and when it
//! is done the older key opens nothing.

use std::collections::BTreeSet;

use muxfs::{ErrorKind, Result};

use super::{stops::Stops, *};
use crate::{
    head::{self, unlock},
    keys::{Keys, PackName},
    memory::Seen,
    pack::{self, Kind, Opened},
};

const STEP: u64 = PACK_LEN_MIN as u64;

/// The master key of now.
async fn keys(world: &World) -> Keys {
    unlock(&world.head().await, &password()).expect("good").1
}

fn pack_name(key: &BlockKey) -> PackName {
    PackName(key.as_bytes().try_into().expect("24 bytes"))
}

/// Fails where a key opens anything.
async fn check_useless(world: &World, older: &Keys) {
    let head = world.head().await;
    let slot = unlock(&head, &password()).expect("good").0;
    assert!(head::reopen(&head, &slot, older).is_err(), "the older key opens the head");
    for (name, object) in world.objects().await {
        let end = &object[object.len() - 1000..];
        let opened = pack::Trailer::open(&older.pack(&pack_name(&name)), end, PACK_LEN_MIN);
        assert!(opened.is_err(), "the older key opens {name:?}");
    }
}

async fn sample() -> (World, Vault, BTreeMap<BlockKey, Bytes>) {
    let (world, mut model) = (World::new(1), BTreeMap::new());
    let vault = world.create(&VaultOptions { compression: Compression::None, ..options() }).await;
    for n in 0..14 {
        put(&vault, &key(n), block(n, 40_000)).await;
        model.insert(key(n), block(n, 40_000));
        if n % 5 == 4 {
            vault.delete(&key(n - 2)).await.expect("delete");
            model.remove(&key(n - 2));
            flush(&vault).await;
        }
    }
    flush(&vault).await;
    assert!(!vault.inner.head.lock().await.current.runs.runs.is_empty(), "there is an index");
    (world, vault, model)
}

async fn check(vault: &Vault, model: &BTreeMap<BlockKey, Bytes>) {
    assert_eq!(&all(vault).await.expect("all"), model);
    assert_eq!(vault.check().await.expect("check").damaged, Vec::<String>::new());
}

#[tokio::test]
async fn everything_comes_under_another_key_bit_by_bit() {
    let (world, mut vault, mut model) = sample().await;
    let before = keys(&world).await;
    assert_eq!(vault.rekey_left(), None);
    let wrong = vault.rekey(&Password::new("wrong").expect("a password")).await.expect_err("wrong");
    assert_eq!(wrong.kind(), ErrorKind::BadKey);
    assert_eq!(keys(&world).await.id(), before.id());
    assert!(vault.rekey_some(1).await.expect("nothing is to be done").is_done);
    // What is in memory when it begins is flushed with it.
    put(&vault, &key(100), block(100, 30_000)).await;
    model.insert(key(100), block(100, 30_000));
    let key_beside = vault.key("journal");
    assert!(vault.rekey(&password()).await.expect("begun"));
    assert!(!vault.rekey(&password()).await.expect("one is under way"));
    assert_ne!(keys(&world).await.id(), before.id());
    let mut left = vault.rekey_left().expect("it is under way");
    assert!(left > 4, "{left} packs are left");
    for round in 0.. {
        check(&vault, &model).await;
        let n = 200 + round;
        put(&vault, &key(n), block(n, 20_000)).await;
        model.insert(key(n), block(n, 20_000));
        // The same bytes under another key are found in packs of before and now.
        put(&vault, &key(n + 1000), block(round, 40_000)).await;
        model.insert(key(n + 1000), block(round, 40_000));
        let done = vault.rekey_some(STEP).await.expect("goes on");
        assert!(world.blocks.block_count().is_multiple_of(4));
        if round % 2 == 1 {
            drop(vault);
            vault = world.open().await.expect("open");
        }
        if done.is_done {
            break;
        }
        assert!(done.packs > 0 && done.packs_left < left, "{done:?} of {left}");
        assert_eq!(vault.rekey_left(), Some(done.packs_left));
        left = done.packs_left;
    }
    assert_eq!(vault.rekey_left(), None);
    check(&vault, &model).await;
    check_useless(&world, &before).await;
    let superblock = unlock(&world.head().await, &password()).expect("good").2;
    assert!(superblock.older.is_none() && superblock.past == [before.id()]);
    drop(vault);
    let vault = world.open().await.expect("open");
    check(&vault, &model).await;
    assert_eq!(vault.key("journal").as_bytes(), key_beside.as_bytes(), "what is beside stays readable");
    // What was there is still not kept again.
    let count = world.blocks.block_count();
    for n in 0..5 {
        put(&vault, &key(n + 5000), block(n + 1, 40_000)).await;
    }
    flush(&vault).await;
    assert!(world.blocks.block_count() <= count + 4, "it is put again");
}

/// Goes through everything until something fails: opens, puts, replaces the key.
async fn live(place: VaultPlace, flushed: &mut BTreeSet<usize>, trying: &mut BTreeSet<usize>) -> Result<()> {
    let vault = Vault::open(place, &password()).await?;
    for round in 0..3 {
        let mut now = flushed.clone();
        for n in [100 + round, 200 + round] {
            vault.put(&key(n), block(n, 30_000)).await?;
            now.insert(n);
        }
        vault.delete(&key(round)).await?;
        now.remove(&round);
        trying.clone_from(&now);
        if round == 0 {
            vault.rekey(&password()).await?;
        } else {
            vault.rekey_some(2 * STEP).await?;
        }
        vault.flush().await?;
        *flushed = now;
    }
    while !vault.rekey_some(2 * STEP).await?.is_done {}
    Ok(())
}

/// Stopped at any call, before it is done or after: what opens is the state of a flush, the rekey goes on, and in the end nothing
/// is left that an older key opens, and nothing that nobody names.
#[tokio::test]
async fn wherever_a_rekey_is_stopped_it_goes_on() {
    let (whole, vault, model) = sample().await;
    drop(vault);
    let (objects, head) = (whole.objects().await, whole.head().await);
    let number = |key: &BlockKey| String::from_utf8_lossy(&key.as_bytes()[4..]).parse::<usize>().expect("a number");
    for is_done in [false, true] {
        for at in 0.. {
            let (world, stops) = (World::of(&objects, head.clone(), 7).await, Stops::new(at, true, is_done));
            let mut flushed: BTreeSet<usize> = model.keys().map(number).collect();
            let (mut trying, mut known) = (flushed.clone(), vec![keys(&world).await]);
            let lived = live(stops.place(&world), &mut flushed, &mut trying).await;
            if let Err(error) = &lived {
                assert!(stops.happened(), "{error:#}");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "stopped at {at}: {error:#}");
            }
            known.push(keys(&world).await);
            let world = World { env: Clock::default().env(1000 + at), ..world };
            let vault = world.open().await.expect("open");
            let found = all(&vault).await.expect("all");
            let numbers: BTreeSet<usize> = found.keys().map(number).collect();
            assert!(numbers == flushed || numbers == trying, "stopped at {at}: {numbers:?}");
            for (key, found) in &found {
                let n = number(key);
                assert!(*found == block(n, if n < 100 { 40_000 } else { 30_000 }), "block {n}");
            }
            if at % 3 == 0 {
                vault.rekey(&password()).await.expect("another, or that one");
                known.push(keys(&world).await);
            }
            put(&vault, &key(3000), block(3000, 10_000)).await;
            while !vault.rekey_some(100 * STEP).await.expect("goes on").is_done {}
            assert_eq!(all(&vault).await.expect("all").len(), found.len() + 1);
            assert_eq!(vault.check().await.expect("check").damaged, Vec::<String>::new());
            let newest = keys(&world).await.id();
            for older in known.iter().filter(|known| known.id() != newest) {
                check_useless(&world, older).await;
            }
            for (name, object) in world.objects().await {
                let opened = Opened::whole(&keys(&world).await.pack(&pack_name(&name)), &object, PACK_LEN_MIN);
                assert!(opened.is_ok(), "stopped at {at}: nobody knows {name:?}");
            }
            assert!(world.blocks.block_count().is_multiple_of(4));
            if lived.is_ok() {
                assert!(!stops.happened() && at > 60, "{at} calls");
                break;
            }
        }
    }
}

/// A call that fails once is tried again by the next one, in the same process.
#[tokio::test]
async fn what_fails_once_amid_a_rekey_is_tried_again() {
    let (whole, vault, model) = sample().await;
    drop(vault);
    let (objects, head) = (whole.objects().await, whole.head().await);
    for is_done in [false, true] {
        for at in 0.. {
            let (world, stops) = (World::of(&objects, head.clone(), 7).await, Stops::new(at, false, is_done));
            let before = keys(&world).await;
            let opened = Vault::open(stops.place(&world), &password()).await;
            let vault = match opened {
                Ok(vault) => vault,
                Err(_) => Vault::open(stops.place(&world), &password()).await.expect("the second time"),
            };
            let began = vault.rekey(&password()).await;
            let mut failures = u64::from(began.is_err());
            put(&vault, &key(3000), block(3000, 200_000)).await;
            if began.is_err() {
                // It began, or not: known by the next flush.
                failures += u64::from(vault.flush().await.is_err());
                flush(&vault).await;
                vault.rekey(&password()).await.expect("begun by now");
            }
            loop {
                match vault.rekey_some(2 * STEP).await {
                    Ok(done) if done.is_done => break,
                    Ok(_) => {}
                    Err(_) => failures += 1,
                }
            }
            assert!(failures <= 2, "one fault is told {failures} times");
            let mut model = model.clone();
            model.insert(key(3000), block(3000, 200_000));
            let is_over = !stops.happened();
            if !is_over {
                check(&vault, &model).await;
            }
            check_useless(&world, &before).await;
            drop(vault);
            check(&world.open().await.expect("open"), &model).await;
            if is_over {
                break;
            }
        }
    }
}

/// Readers and writers go on while everything is put again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn others_go_on_meanwhile() {
    let (world, vault, mut model) = sample().await;
    let (before, vault) = (keys(&world).await, Arc::new(vault));
    let mut tasks = Vec::new();
    for task in 1..4_usize {
        let (vault, known) = (vault.clone(), model.clone());
        tasks.push(tokio::spawn(async move {
            let mut mine = BTreeMap::new();
            for n in (0..40).map(|n| task * 10_000 + n) {
                put(&vault, &key(n), block(n, n * 997 % 60_000)).await;
                mine.insert(key(n), block(n, n * 997 % 60_000));
                for (key, block) in known.iter().chain(&mine).skip(n % 7).step_by(7) {
                    assert_eq!(vault.get(key).await.expect("get").as_ref(), Some(block));
                }
                if n % 10 == 9 {
                    flush(&vault).await;
                }
            }
            mine
        }));
    }
    for _ in 0..2 {
        vault.rekey(&password()).await.expect("begun");
        while !vault.rekey_some(STEP).await.expect("goes on").is_done {
            tokio::task::yield_now().await;
        }
    }
    for task in tasks {
        model.extend(task.await.expect("no panic"));
    }
    flush(&vault).await;
    check(&vault, &model).await;
    check_useless(&world, &before).await;
    drop(vault);
    check(&world.open().await.expect("open"), &model).await;
}

/// Who has the older key, and keeps the store, passes off no pack of his own for one that is under the newer.
#[tokio::test]
async fn the_older_key_forges_nothing_that_is_under_the_newer() {
    let (world, vault, model) = sample().await;
    let thief = keys(&world).await;
    vault.rekey(&password()).await.expect("begun");
    vault.rekey_some(STEP).await.expect("goes on");
    drop(vault);
    let (objects, head) = (world.objects().await, world.head().await);
    let (_, newest, superblock) = unlock(&head, &password()).expect("good");
    let (mut kinds, mut under_older) = (BTreeSet::new(), 0);
    for (name, object) in &objects {
        let name_of = pack_name(name);
        let Ok(opened) = Opened::whole(&newest.pack(&name_of), object, PACK_LEN_MIN) else {
            under_older += 1;
            continue;
        };
        let pack::Trailer { kind, number, epoch, .. } = opened.trailer;
        kinds.insert(format!("{kind:?}"));
        let forged = match kind {
            // One that says that there is nothing.
            Kind::Data => crate::directory::Directory::default().encode(),
            _ => opened.directory,
        };
        let sealed =
            pack::seal(&thief.pack(&name_of), PACK_LEN_MIN, (kind, number, epoch), std::iter::empty(), &forged);
        let mut objects = objects.clone();
        objects.insert(name.clone(), sealed.expect("it fits"));
        let world = World::of(&objects, head.clone(), 3).await;
        let vault = world.open().await.expect("open");
        if kind == Kind::Index {
            check(&vault, &model).await;
        } else {
            assert!(!vault.check().await.expect("check").damaged.is_empty(), "a forged {kind:?} is not seen");
        }
        for (key, block) in &model {
            match vault.get(key).await {
                Ok(got) => assert_eq!(got.as_ref(), Some(block)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
            }
        }
    }
    assert!(under_older > 0 && superblock.older.is_some(), "it is under way");
    assert_eq!(kinds.len(), 3, "{kinds:?}");
}

/// A head of before, or one of a later epoch that a thief of the older key made, opens with the password: whoever remembers
/// the newer key finds out. Who remembers an older one follows.
#[tokio::test]
async fn who_remembers_the_newer_key_is_not_led_back() {
    let (memory, elsewhere) = (Arc::new(MemHeads::default()), Arc::new(MemHeads::default()));
    let world = World::new(1);
    let of = |memory: &Arc<MemHeads>, seed| {
        let world = World { env: Clock::default().env(seed), ..world.clone() };
        VaultPlace { memory: Some(memory.clone()), ..world.place() }
    };
    let vault = Vault::create(of(&memory, 1), &password(), &options()).await.expect("made");
    put(&vault, &key(1), block(1, 1000)).await;
    flush(&vault).await;
    drop(vault);
    drop(Vault::open(of(&elsewhere, 2), &password()).await.expect("open"));
    let (slot, thief, superblock) = unlock(&world.head().await, &password()).expect("good");
    let vault = Vault::open(of(&memory, 3), &password()).await.expect("open");
    vault.rekey(&password()).await.expect("begun");
    while !vault.rekey_some(STEP).await.expect("goes on").is_done {}
    drop(vault);
    let forged = crate::superblock::Superblock { epoch: 1000, ..superblock };
    let forged = head::encode(&slot, &forged, &thief, &world.env).expect("it fits");
    let (_, _, said) = unlock(&forged, &password()).expect("the password opens it");
    let seen = Seen { superblock: &said, head: &forged, keys: &thief };
    let refused = crate::memory::check(&*memory, &name(), seen).await.expect_err("led back");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(format!("{refused:#}").contains("another key"), "{refused:#}");
    drop(Vault::open(of(&elsewhere, 4), &password()).await.expect("it comes after what is remembered"));
    let seen = Seen { superblock: &said, head: &forged, keys: &thief };
    crate::memory::check(&*elsewhere, &name(), seen).await.expect_err("and no way back");
    drop(Vault::open(of(&memory, 5), &password()).await.expect("open"));
}

/// What seals what is beside a vault is renewed by itself, and the older one is there for as long as it is wanted.
#[tokio::test]
async fn keys_for_what_is_beside_are_renewed_by_themselves() {
    let (world, vault, _) = sample().await;
    let bytes = |key: muxfs::SecretKey| *key.as_bytes();
    let first = bytes(vault.key("journal"));
    assert_ne!(first, bytes(vault.key("pins")));
    assert!(vault.older_key("journal").is_none() && !vault.forget_older_key().await.expect("none"));
    assert!(vault.renew_key().await.expect("renewed"));
    assert!(!vault.renew_key().await.expect("the older one is not forgotten"));
    let second = bytes(vault.key("journal"));
    assert_ne!(first, second);
    drop(vault);
    let vault = world.open().await.expect("open");
    assert_eq!(bytes(vault.key("journal")), second);
    assert_eq!(vault.older_key("journal").map(bytes), Some(first));
    assert!(vault.forget_older_key().await.expect("forgotten"));
    drop(vault);
    let vault = world.open().await.expect("open");
    assert_eq!(bytes(vault.key("journal")), second);
    assert!(vault.older_key("journal").is_none());
}

/// A damaged pack is not forgotten: it stays under the older key until its blocks are put again.
#[tokio::test]
async fn what_is_damaged_holds_up_its_end() {
    let (world, vault, model) = sample().await;
    vault.rekey(&password()).await.expect("begun");
    let place = {
        let state = vault.inner.state();
        let id = state.index.block(&key(0)).expect("there").pieces[0];
        state.index.place(&id).expect("there")
    };
    let pack = BlockKey::new(&vault.inner.state().names[&place.number].0).expect("a key");
    let mut damaged = world.blocks.get(&pack).await.expect("get").expect("there").to_vec();
    damaged[place.offset as usize] ^= 1;
    world.blocks.delete(&pack).await.expect("delete");
    world.blocks.put(&pack, damaged.into()).await.expect("put");
    let refused = loop {
        match vault.rekey_some(STEP).await {
            Ok(done) => assert!(!done.is_done),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused:#}");
    assert_eq!(vault.rekey_left(), Some(1));
    vault.get(&key(0)).await.expect_err("damaged");
    put(&vault, &key(0), model[&key(0)].clone()).await;
    while !vault.rekey_some(STEP).await.expect("goes on").is_done {}
    check(&vault, &model).await;
}
