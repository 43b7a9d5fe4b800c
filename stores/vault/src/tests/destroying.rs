//! Destroying a vault: all that it made goes and nothing else does; whatever stops it, no half of it is opened, and it ends when
//! it is called again.

use muxfs::{ErrorKind, Result};

use super::{stops::Stops, *};
use crate::{Destroyed, Unknown};

/// What others keep in the same store.
fn theirs() -> BTreeMap<BlockKey, Bytes> {
    let key = |bytes: &[u8]| BlockKey::new(bytes).expect("a key");
    let random = Dice::new(3).bytes(PACK_LEN_MIN as usize);
    [(key(&[5; 24]), Bytes::from("short")), (key(b"x"), "y".into()), (key(&[6; 24]), random.into())].into()
}

/// A vault with an index, and with packs that a crash left; and what is of others.
async fn sample() -> World {
    let world = World::new(1);
    for (key, block) in theirs() {
        world.blocks.put(&key, block).await.expect("put");
    }
    let vault = world.create(&VaultOptions { compression: Compression::None, ..options() }).await;
    for n in 0..8 {
        put(&vault, &key(n), block(n, 60_000)).await;
        flush(&vault).await;
    }
    assert!(!vault.inner.head.lock().await.current.runs.runs.is_empty(), "there is an index");
    put(&vault, &key(9), Dice::new(9).bytes(200_000).into()).await;
    vault.inner.sent(u64::MAX).await.expect("sent");
    world
}

async fn check_free(world: &World) {
    assert_eq!(world.objects().await, theirs(), "what is of others stays, and nothing else");
    let refused = world.open().await.expect_err("destroyed");
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused:#}");
    drop(world.create(&options()).await);
    drop(World { env: Clock::default().env(500), ..world.clone() }.open().await.expect("another one is made there"));
}

#[tokio::test]
async fn what_a_vault_made_goes_and_nothing_else() {
    let world = sample().await;
    let wrong = Password::new("wrong").expect("a password");
    let (objects, head) = (world.objects().await, world.head().await);
    let refused = Vault::destroy(world.place(), &wrong).await.expect_err("wrong");
    assert_eq!(refused.kind(), ErrorKind::BadKey);
    assert_eq!((world.objects().await, world.head().await), (objects.clone(), head));
    let vault = world.open().await.expect("open");
    let packs = world.objects().await.len() - theirs().len();
    let destroyed = Vault::destroy(world.place(), &password()).await.expect("destroyed");
    assert_eq!(destroyed, Destroyed { packs: packs as u64, left: 0 });
    put(&vault, &key(1000), Bytes::new()).await;
    assert_eq!(vault.flush().await.expect_err("it is gone").kind(), ErrorKind::Denied);
    // What an open one puts meanwhile, and no pack before that.
    let rest = world.objects().await.len() - theirs().len();
    assert!(rest <= 4, "{rest} objects are left by who had it open");
    let world = sample().await;
    let place = world.place();
    Vault::destroy(place.clone(), &password()).await.expect("destroyed");
    assert_eq!(Vault::destroy(place, &wrong).await.expect("again"), Destroyed::default());
    check_free(&world).await;
    let none = Vault::destroy(World::new(2).place(), &password()).await.expect_err("there is none");
    assert_eq!(none.kind(), ErrorKind::NotFound);
}

/// So it is amid a rekey, with packs under each of two keys.
#[tokio::test]
async fn what_is_under_an_older_key_goes_too() {
    let world = sample().await;
    let vault = world.open().await.expect("open");
    assert!(vault.rekey(&password()).await.expect("begun"));
    assert!(!vault.rekey_some(1).await.expect("goes on").is_done);
    drop(vault);
    Vault::destroy(world.place(), &password()).await.expect("destroyed");
    check_free(&world).await;
}

/// Damage keeps no pack that the head or the index names.
#[tokio::test]
async fn what_is_damaged_goes_too() {
    let world = sample().await;
    drop(world.open().await.expect("what a crash left is gone"));
    for (name, object) in world.objects().await {
        if !theirs().contains_key(&name) {
            let is_index = {
                let (_, keys, _) = crate::head::unlock(&world.head().await, &password()).expect("good");
                let name = crate::keys::PackName(name.as_bytes().try_into().expect("24 bytes"));
                let opened = crate::pack::Opened::whole(&keys.pack(&name), &object, PACK_LEN_MIN).expect("whole");
                opened.trailer.kind == crate::pack::Kind::Index
            };
            if !is_index {
                world.blocks.delete(&name).await.expect("delete");
                world.blocks.put(&name, object.slice(..object.len() - 1)).await.expect("put");
            }
        }
    }
    Vault::destroy(world.place(), &password()).await.expect("destroyed");
    check_free(&world).await;
}

/// Without a password nobody can tell whose packs are whose: they stay, or all of their kind go.
#[tokio::test]
async fn without_a_password_the_head_goes_and_what_may_be_packs_if_it_is_asked_for() {
    let world = sample().await;
    let packs = (world.objects().await.len() - 2) as u64;
    let destroyed = Vault::destroy_unopened(world.place(), Unknown::Leave).await.expect("destroyed");
    assert_eq!(destroyed, Destroyed { packs: 0, left: packs }, "a random object of others looks like a pack");
    assert_eq!(world.open().await.expect_err("destroyed").kind(), ErrorKind::NotFound);
    let destroyed = Vault::destroy_unopened(world.place(), Unknown::Delete).await.expect("again");
    assert_eq!(destroyed, Destroyed { packs, left: 0 });
    let left: Vec<_> = world.objects().await.into_values().collect();
    assert_eq!(left.len(), 2, "what cannot be a pack stays");
    drop(world.create(&options()).await);

    let other = World::new(3);
    drop(other.heads.swap(&name(), None, "something else".into()).await.expect("swap"));
    let refused = Vault::destroy_unopened(other.place(), Unknown::Delete).await.expect_err("no vault");
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert_eq!(other.head().await, "something else");
    let refused = Vault::destroy(other.place(), &password()).await.expect_err("no vault");
    assert_eq!(refused.kind(), ErrorKind::BadKey);
}

/// What was destroyed and is put back is not opened by who remembers.
#[tokio::test]
async fn what_was_destroyed_is_not_put_back_unseen() {
    let (memory, world) = (Arc::new(MemHeads::default()), World::new(1));
    let of = |world: &World| VaultPlace { memory: Some(memory.clone()), ..world.place() };
    drop(Vault::create(of(&world), &password(), &options()).await.expect("made"));
    let (objects, head) = (world.objects().await, world.head().await);
    Vault::destroy(of(&world), &password()).await.expect("destroyed");
    let again = World::of(&objects, head, 2).await;
    let refused = Vault::open(of(&again), &password()).await.expect_err("put back");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(format!("{refused:#}").contains("destroyed"), "{refused:#}");
    drop(Vault::create(of(&world), &password(), &options()).await.expect("another one"));
    drop(Vault::open(of(&world), &password()).await.expect("and it is opened"));
}

/// Stopped at any call of the stores below: before the first change it is the vault that it was, and then it is none, whoever asks;
/// called again it ends. With and without the password.
#[tokio::test]
async fn wherever_it_is_stopped_it_ends_when_it_is_called_again() {
    let destroy = async |place: VaultPlace, with_password: bool| -> Result<Destroyed> {
        if with_password {
            Vault::destroy(place, &password()).await
        } else {
            Vault::destroy_unopened(place, Unknown::Delete).await
        }
    };
    let whole = sample().await;
    let (objects, head) = (whole.objects().await, whole.head().await);
    for (with_password, is_done) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut half = 0;
        for at in 0.. {
            let (world, stops) = (World::of(&objects, head.clone(), 7).await, Stops::new(at, true, is_done));
            let ended = destroy(stops.place(&world), with_password).await;
            if world.head().await == head {
                assert!(ended.is_err());
                assert_eq!(world.objects().await, objects, "stopped at {at}: nothing is deleted before");
            } else {
                let refused = world.open().await.expect_err("no half is opened");
                assert_eq!(refused.kind(), ErrorKind::NotFound, "stopped at {at}: {refused:#}");
                half += usize::from(ended.is_err());
            }
            destroy(world.place(), with_password).await.expect("it goes on");
            let mut left = world.objects().await;
            if !with_password {
                left.extend(theirs());
            }
            assert_eq!(left, theirs(), "stopped at {at}");
            if !stops.happened() {
                ended.expect("nothing stopped it");
                break;
            }
        }
        assert!(half > 10, "it was stopped in the middle {half} times");
    }
}
