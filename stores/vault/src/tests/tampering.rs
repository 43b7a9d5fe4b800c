//! Whoever keeps a vault changes it: bits, lengths, one object for another, an older one for a newer. All of that is found,
//! and no byte is ever another.

use muxfs::ErrorKind;

use super::*;
use crate::{keys::Keys, memory::Seen, secret::Secret};

fn keys(n: u8) -> Keys {
    Keys::new(Cipher::Aes256Gcm, Secret::new(&[n; 32]))
}

/// A vault of several flushes, with its index, its objects, its head and what is in it.
struct Sample {
    objects: BTreeMap<BlockKey, Bytes>,
    /// The objects of its index.
    index: Vec<BlockKey>,
    head: Bytes,
    older_head: Bytes,
    /// Every object that ever was.
    history: BTreeMap<BlockKey, Bytes>,
    model: BTreeMap<BlockKey, Bytes>,
    /// What was deleted.
    gone: Vec<BlockKey>,
}

/// With `count` blocks, of which as many are deleted as are left: enough of them for an index.
async fn sample_of(count: usize) -> Sample {
    sample_with(count, false).await
}

/// The same; rekeyed in part, if that is asked for.
async fn sample_with(count: usize, is_rekeyed: bool) -> Sample {
    let world = World::new(1);
    let mut vault = world.create(&VaultOptions { compression: Compression::Lz4, ..options() }).await;
    let (mut model, mut gone, mut history) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    let mut older_head = world.head().await;
    for n in 0..count {
        for n in [n, n + count] {
            put(&vault, &key(n), block(n, 1000 + n % count * 5000)).await;
        }
        model.insert(key(n), block(n, 1000 + n * 5000));
        if n % 2 == 1 {
            older_head = world.head().await;
            flush(&vault).await;
            history.extend(world.objects().await);
            for n in [n - 1 + count, n + count] {
                vault.delete(&key(n)).await.expect("delete");
                gone.push(key(n));
            }
        }
        if n == count / 2 {
            flush(&vault).await;
            drop(vault);
            vault = world.open().await.expect("open");
        }
        if is_rekeyed && n == count * 3 / 4 {
            assert!(vault.rekey(&password()).await.expect("begun"));
            assert!(!vault.rekey_some(1).await.expect("goes on").is_done);
        }
    }
    older_head = if count > 4 { world.head().await } else { older_head };
    flush(&vault).await;
    let runs = vault.inner.head.lock().await.current.runs.runs.clone();
    let index = runs.iter().flat_map(|run| &run.objects).map(|name| BlockKey::new(&name.0).expect("a key")).collect();
    let objects = world.objects().await;
    history.extend(objects.clone());
    Sample { objects, index, head: world.head().await, older_head, history, model, gone }
}

async fn sample() -> Sample {
    let sample = sample_of(12).await;
    assert!(!sample.index.is_empty(), "there is an index");
    sample
}

/// Whether anything is told when all of a world is read; fails where a byte is another, or something is back that was deleted.
async fn is_found(world: &World, Sample { model, gone, .. }: &Sample) -> bool {
    let vault = match world.open().await {
        Ok(vault) => vault,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::BadKey), "{error:#}");
            return true;
        }
    };
    let mut found = !vault.check().await.expect("check").damaged.is_empty();
    for key in gone {
        match vault.get(key).await {
            Ok(got) => assert!(got.is_none() || found, "{key:?} is back unseen"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
                found = true;
            }
        }
    }
    for (key, block) in model {
        match vault.get(key).await {
            Ok(got) => {
                assert!(got.is_none() || got.as_ref() == Some(block), "{key:?} is another");
                assert!(got.is_some() || found, "{key:?} is gone unseen");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
                found = true;
            }
        }
    }
    found
}

#[tokio::test]
async fn what_is_changed_is_found() {
    check_changes(sample().await).await;
}

/// So it is while there are two master keys.
#[tokio::test]
async fn what_is_changed_is_found_amid_a_rekey() {
    let sample = sample_with(12, true).await;
    let (_, _, superblock) = crate::head::unlock(&sample.head, &password()).expect("good");
    let through = superblock.older.expect("it is under way").through;
    let world = World::of(&sample.objects, sample.head.clone(), 2).await;
    let left = world.open().await.expect("open").rekey_left().expect("it is under way");
    assert!(
        left > 0 && superblock.through > through && !sample.index.is_empty(),
        "there are packs of each kind under each"
    );
    check_changes(sample).await;
}

async fn check_changes(sample: Sample) {
    let Sample { objects, head, index, .. } = &sample;
    assert!(!is_found(&World::of(objects, head.clone(), 2).await, &sample).await, "nothing was changed yet");
    // One that is of the index alone costs time alone; then all is as it was.
    let is_seen = async |objects: &BTreeMap<BlockKey, Bytes>, names: [&BlockKey; 2]| {
        let is_found = is_found(&World::of(objects, head.clone(), 2).await, &sample).await;
        is_found || names.iter().any(|name| index.contains(name))
    };
    let mut dice = Dice::new(11);
    for (name, object) in objects {
        let len = object.len();
        // Its beginning, its end, and anywhere.
        let edges = [0, 7, 8 * len - 1, 8 * (len - 48), 8 * (len - 49)];
        for bit in edges.into_iter().chain((0..25).map(|_| dice.roll(8 * len))) {
            let mut changed = object.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let objects = objects.iter().map(|(key, object)| (key.clone(), object.clone()));
            let objects = objects.chain([(name.clone(), changed.into())]).collect();
            assert!(is_seen(&objects, [name; 2]).await, "bit {bit} of {name:?}");
        }
        for cut in [0, 1, 48, 1000, len / 2, len - 48, len - 1].into_iter().chain((0..10).map(|_| dice.roll(len))) {
            let mut objects = objects.clone();
            objects.insert(name.clone(), object.slice(..cut));
            assert!(is_seen(&objects, [name; 2]).await, "{name:?} cut at {cut}");
        }
        for more in [1, 48, len] {
            let mut objects = objects.clone();
            objects.insert(name.clone(), [&object[..], &object[..more]].concat().into());
            assert!(is_seen(&objects, [name; 2]).await, "{name:?} longer by {more}");
        }
        let mut without = objects.clone();
        without.remove(name);
        assert!(is_seen(&without, [name; 2]).await, "{name:?} gone");
        for (other, instead) in objects.iter().filter(|(other, _)| *other > name) {
            let mut swapped = objects.clone();
            swapped.insert(name.clone(), instead.clone());
            swapped.insert(other.clone(), object.clone());
            assert!(is_seen(&swapped, [name, other]).await, "{name:?} and {other:?}");
        }
    }
}

/// Without its index a vault is what it was, whatever else of its past is there; and where then one more pack is missing that is
/// found, whatever is there in its place, nothing is written, and when it is back all is well.
#[tokio::test]
async fn who_takes_the_index_away_gains_nothing() {
    let sample = sample().await;
    let Sample { objects, index, head, history, model, gone, .. } = &sample;
    for is_damaged in [true, false] {
        let mut objects = objects.clone();
        for name in index {
            let mut damaged = objects.remove(name).expect("there").to_vec();
            damaged[5000] ^= 1;
            if is_damaged {
                objects.insert(name.clone(), damaged.into());
            }
        }
        let mut history: BTreeMap<_, _> = history.iter().map(|(name, object)| (name.clone(), object.clone())).collect();
        for name in index {
            history.remove(name);
        }
        history.extend(objects.clone());
        assert!(history.len() > objects.len() + 4, "there is a past");
        for there in [&objects, &history] {
            let world = World::of(there, head.clone(), 2).await;
            let vault = world.open().await.expect("open");
            assert_eq!(&all(&vault).await.expect("all"), model);
            for key in gone {
                assert_eq!(vault.get(key).await.expect("get"), None, "{key:?} is back");
            }
            assert_eq!(vault.check().await.expect("check").damaged, Vec::<String>::new());
            put(&vault, &key(1000), block(1000, 100)).await;
            flush(&vault).await;
            assert!(world.blocks.block_count().is_multiple_of(4));
            assert_eq!(all(&world.open().await.expect("open")).await.expect("all").len(), model.len() + 1);
        }
        for name in objects.keys() {
            for there in [&objects, &history] {
                let mut without = there.clone();
                let object = without.remove(name).expect("there");
                let world = World::of(&without, head.clone(), 2).await;
                let is_read_only = {
                    let vault = world.open().await.expect("open");
                    let is_read_only = vault.inner.state().read_only.is_some();
                    if is_read_only {
                        let refused = vault.put(&key(1000), Bytes::new()).await.expect_err("it is read only");
                        assert_eq!(refused.kind(), ErrorKind::ReadOnly);
                        assert_eq!(vault.delete(&key(0)).await.expect_err("it is").kind(), ErrorKind::ReadOnly);
                        assert_eq!(vault.get(&key(1000)).await.expect_err("who knows").kind(), ErrorKind::Corrupt);
                        flush(&vault).await;
                        assert_eq!(world.head().await, *head, "nothing is written");
                        assert_eq!(world.objects().await, without, "nothing is deleted");
                    }
                    is_read_only
                };
                let is_found = is_found(&World::of(&without, head.clone(), 2).await, &sample).await;
                assert!(is_found || index.contains(name), "{name:?} is missed by nobody");
                if is_read_only {
                    world.blocks.put(name, object).await.expect("put");
                    assert_eq!(&all(&world.open().await.expect("open")).await.expect("all"), model, "it is back");
                }
            }
        }
    }
}

/// A pack that is away for one opening, in which an index is kept, is not lost by that.
#[tokio::test]
async fn a_pack_that_comes_back_is_read_again() {
    let sample = sample_of(4).await;
    let Sample { objects, head, model, gone, .. } = &sample;
    let superblock = crate::head::unlock(head, &password()).expect("good").2;
    for name in superblock.packs.values() {
        let world = World::of(objects, head.clone(), 2).await;
        let name = BlockKey::new(&name.0).expect("a key");
        let object = world.blocks.get(&name).await.expect("get").expect("there");
        world.blocks.delete(&name).await.expect("delete");
        let mut model = model.clone();
        let vault = world.open().await.expect("open");
        assert_eq!(vault.get(&key(5000)).await.expect_err("who knows").kind(), ErrorKind::Corrupt);
        for n in 2000..2012 {
            put(&vault, &key(n), Dice::new(n as u64).bytes(50_000).into()).await;
            model.insert(key(n), Dice::new(n as u64).bytes(50_000).into());
        }
        flush(&vault).await;
        assert!(!vault.inner.head.lock().await.current.runs.runs.is_empty(), "there is an index by now");
        drop(vault);
        let vault = world.open().await.expect("open");
        assert_eq!(vault.get(&key(5000)).await.expect_err("who knows").kind(), ErrorKind::Corrupt);
        drop(vault);
        world.blocks.put(&name, object).await.expect("put");
        let vault = world.open().await.expect("open");
        assert_eq!(all(&vault).await.expect("all is there again"), model);
        for key in gone {
            assert_eq!(vault.get(key).await.expect("get"), None);
        }
        assert_eq!(vault.check().await.expect("check").damaged, Vec::<String>::new());
    }
}

/// An older head alone: the packs of later epochs give it away, or what is remembered does.
#[tokio::test]
async fn an_older_head_is_found() {
    let sample = sample_of(4).await;
    let Sample { objects, head, older_head, .. } = &sample;
    assert!(is_found(&World::of(objects, older_head.clone(), 2).await, &sample).await);
    let memory = Arc::new(MemHeads::default());
    let world = World::of(objects, head.clone(), 2).await;
    let place = VaultPlace { memory: Some(memory.clone()), ..world.place() };
    let vault = Vault::open(place.clone(), &password()).await.expect("opens, and is remembered");
    put(&vault, &key(100), block(100, 5)).await;
    flush(&vault).await;
    drop(vault);
    drop(Vault::open(place, &password()).await.expect("what is remembered is what is there"));
    // Everything as it was: whoever remembers nothing cannot tell.
    let rolled_back = World::of(objects, head.clone(), 3).await;
    assert!(!is_found(&rolled_back, &sample).await);
    let place = VaultPlace { memory: Some(memory.clone()), ..World::of(objects, head.clone(), 4).await.place() };
    let refused = Vault::open(place, &password()).await.expect_err("rolled back");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(format!("{refused:#}").contains("rolled back"), "{refused:#}");
    let other = World::new(5);
    drop(other.create(&options()).await);
    let place = VaultPlace { memory: Some(memory.clone()), ..other.place() };
    assert_eq!(Vault::open(place, &password()).await.expect_err("another vault").kind(), ErrorKind::Corrupt);
    let place = VaultPlace { memory: Some(memory), ..World::new(6).place() };
    let made = Vault::create(place, &password(), &options()).await;
    assert_eq!(made.expect_err("another is remembered").kind(), ErrorKind::Exists);
}

/// Of two that remember in one place the slower one does not make the newer state forgotten.
#[tokio::test]
async fn what_is_remembered_never_goes_back() {
    let memory = MemHeads::default();
    let keys = keys(1);
    let superblock = |epoch| crate::superblock::Superblock { epoch, ..crate::superblock::sample() };
    for (epoch, head, is_good) in [(5, "five", true), (7, "seven", true), (6, "six", true), (7, "another", false)] {
        let seen = Seen { superblock: &superblock(epoch), head: head.as_bytes(), keys: &keys };
        let remembered = crate::memory::remember(&memory, &name(), seen).await;
        assert_eq!(remembered.is_ok(), is_good, "{head}");
        let newest = if epoch == 5 { 5 } else { 7 };
        let seen = Seen { superblock: &superblock(newest - 1), head: b"older", keys: &keys };
        let older = crate::memory::check(&memory, &name(), seen).await;
        assert_eq!(older.expect_err("rolled back").kind(), ErrorKind::Corrupt);
    }
    let other = crate::superblock::Superblock { id: [1; 16], ..superblock(9) };
    let seen = Seen { superblock: &other, head: b"another vault", keys: &keys };
    assert!(crate::memory::remember(&memory, &name(), seen).await.is_err());
}

/// Two that go on from one state are told apart by who saw one of them.
#[tokio::test]
async fn a_fork_is_found() {
    let Sample { objects, head, .. } = sample().await;
    let memory = Arc::new(MemHeads::default());
    for seed in [5, 6] {
        let world = World::of(&objects, head.clone(), seed).await;
        let place = VaultPlace { memory: (seed == 5).then(|| memory.clone() as Arc<dyn Heads>), ..world.place() };
        drop(Vault::open(place, &password()).await.expect("opens"));
        if seed == 6 {
            let bytes = world.head().await;
            let (_, keys, superblock) = crate::head::unlock(&bytes, &password()).expect("good");
            let seen = Seen { superblock: &superblock, head: &bytes, keys: &keys };
            let known = crate::memory::check(&*memory, &name(), seen).await;
            assert_eq!(known.expect_err("another of the same epoch").kind(), ErrorKind::Corrupt);
        }
    }
}

/// A damaged block is replaced by whoever puts it again, and the others are there all the time.
#[tokio::test]
async fn what_is_damaged_is_mended_by_putting_it_again() {
    let Sample { objects, head, model, .. } = sample().await;
    let world = World::of(&objects, head, 2).await;
    let vault = world.open().await.expect("open");
    let place = {
        let state = vault.inner.state();
        let id = state.index.block(&key(9)).expect("there").pieces[0];
        state.index.place(&id).expect("there")
    };
    let pack = vault.inner.state().names[&place.number];
    let pack = BlockKey::new(&pack.0).expect("a key");
    let mut damaged = world.blocks.get(&pack).await.expect("get").expect("there").to_vec();
    damaged[place.offset as usize] ^= 1;
    world.blocks.delete(&pack).await.expect("delete");
    world.blocks.put(&pack, damaged.into()).await.expect("put");
    for _ in 0..2 {
        assert_eq!(vault.get(&key(9)).await.expect_err("damaged").kind(), ErrorKind::Corrupt);
        assert_eq!(vault.has(&key(9)).await.expect_err("damaged").kind(), ErrorKind::Corrupt);
    }
    put(&vault, &key(9), model[&key(9)].clone()).await;
    flush(&vault).await;
    assert_eq!(all(&vault).await.expect("all is there again"), model);
    assert_eq!(all(&world.open().await.expect("open")).await.expect("all"), model);
}

/// What was in a pack that cannot be read is never taken for absent: not at once, and not when an index was kept since.
#[tokio::test]
async fn what_nobody_knows_is_not_absent() {
    let Sample { objects, head, .. } = sample_of(4).await;
    let superblock = crate::head::unlock(&head, &password()).expect("good").2;
    let (_, name) = superblock.packs.first_key_value().expect("there are packs");
    let mut objects = objects;
    let mut damaged = objects[&BlockKey::new(&name.0).expect("a key")].to_vec();
    *damaged.last_mut().expect("long") ^= 1;
    objects.insert(BlockKey::new(&name.0).expect("a key"), damaged.into());
    let world = World::of(&objects, head, 2).await;
    for round in 0..3 {
        let vault = World { env: Clock::default().env(50 + round), ..world.clone() }.open().await.expect("open");
        assert_eq!(vault.get(&key(1000)).await.expect_err("who knows").kind(), ErrorKind::Corrupt, "round {round}");
        assert!(vault.keys().try_collect::<Vec<_>>().await.is_err(), "round {round}");
        for n in 0..90 {
            let n = 100 + usize::try_from(round).expect("small") * 90 + n;
            put(&vault, &key(n), Dice::new(n as u64).bytes(50_000).into()).await;
        }
        flush(&vault).await;
        assert!(!vault.inner.head.lock().await.current.runs.runs.is_empty(), "there is an index by now");
        assert!(!vault.check().await.expect("check").damaged.is_empty());
    }
}
