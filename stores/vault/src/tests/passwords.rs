//! Wrong passwords, changed heads, other passwords: what is told is the same wherever nobody may know more.

use muxfs::ErrorKind;

use super::{stops::Stops, *};
use crate::{head::unlock, password::PAID};

/// Where a slot says how much memory a try takes: flipped high, a test would take half a GiB.
const MEMORY: std::ops::Range<usize> = 12..16;

/// How a head is refused; and that it takes as much work, whatever is wrong: one try, at what it says, or else what a new one costs.
fn told(head: &[u8], password: &Password) -> (ErrorKind, String) {
    PAID.take();
    let error = unlock(head, password).err().expect("refused");
    let paid = PAID.take();
    if error.kind() != ErrorKind::Unsupported {
        let said = head.get(11..20).map_or(Cost::default(), |said| Cost {
            lanes: said[0],
            memory_kib: u32::from_le_bytes(said[1..5].try_into().expect("four")),
            passes: u32::from_le_bytes(said[5..].try_into().expect("four")),
        });
        assert_eq!(paid, [if said.is_valid() { said } else { Cost::default() }], "{error:#}");
    }
    (error.kind(), format!("{error:#}"))
}

#[tokio::test]
async fn a_wrong_password_and_a_changed_head_are_told_alike() {
    let world = World::new(1);
    drop(world.create(&options()).await);
    let head = world.head().await.to_vec();
    assert_eq!(head.len(), crate::head::HEAD_LEN);
    unlock(&head, &password()).expect("good");
    let wrong = told(&head, &Password::new("correct horsf").expect("a password"));
    assert_eq!(wrong.0, ErrorKind::BadKey);
    let superblock = (144..head.len()).step_by(1021);
    for byte in (0..144).chain(superblock) {
        for bit in 0..8 {
            if MEMORY.contains(&byte) && byte > MEMORY.start && bit < 7 {
                continue;
            }
            let mut changed = head.clone();
            changed[byte] ^= 1 << bit;
            assert_eq!(told(&changed, &password()), wrong, "bit {bit} of {byte}");
        }
    }
    for len in [0, 1, 8, 9, 100, 143, 144, 200, head.len() - 1] {
        assert_eq!(told(&head[..len], &password()), wrong, "cut at {len}");
    }
    assert_eq!(told(&[&head[..], &[0]].concat(), &password()), wrong, "longer");
    let other = World::new(2);
    drop(other.create(&options()).await);
    let spliced = [&head[..144], &other.head().await[144..]].concat();
    assert_eq!(told(&spliced, &password()), wrong, "the superblock of another vault");
}

/// A newer version says so twice, so that no damage passes for one.
#[tokio::test]
async fn a_newer_version_is_refused_by_name() {
    let world = World::new(1);
    drop(world.create(&options()).await);
    let mut head = world.head().await.to_vec();
    (head[8], head[9]) = (2, !2);
    assert_eq!(told(&head, &password()).0, ErrorKind::Unsupported);
}

#[tokio::test]
async fn another_password_opens_the_vault_and_the_first_one_no_more() {
    let world = World::new(1);
    let vault = world.create(&options()).await;
    put(&vault, &key(1), block(1, 100_000)).await;
    flush(&vault).await;
    let (objects, old_head) = (world.objects().await, world.head().await);
    let other = Password::new("battery staple").expect("a password");
    let cost = Cost { memory_kib: 16, passes: 2, lanes: 2 };
    vault.change_password(&other, cost).await.expect("changed");
    assert_eq!(world.objects().await, objects, "nothing but the head is written");
    // Who has it open goes on.
    put(&vault, &key(2), block(2, 100)).await;
    flush(&vault).await;
    drop(vault);
    let refused = world.open().await.expect_err("the first password");
    assert_eq!(refused.kind(), ErrorKind::BadKey);
    let vault = Vault::open(world.place(), &other).await.expect("the other password");
    assert_eq!(all(&vault).await.expect("all").len(), 2);
    assert_eq!(unlock(&world.head().await, &other).expect("good").0.cost(), cost);
    // The old slot before the new superblock is no head, so an old password is not let in by putting it back.
    let new_head = world.head().await;
    let spliced = [&old_head[..144], &new_head[144..]].concat();
    assert_eq!(told(&spliced, &password()).0, ErrorKind::BadKey);
    let dear = Cost { memory_kib: 4 << 20, passes: 1, lanes: 1 };
    let refused = vault.change_password(&other, dear).await.expect_err("too dear");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn what_is_there_is_not_made_again() {
    let world = World::new(1);
    drop(world.create(&options()).await);
    let made = Vault::create(world.place(), &password(), &options()).await;
    assert_eq!(made.expect_err("there is one").kind(), ErrorKind::Exists);
    let none = World::new(2).open().await;
    assert_eq!(none.expect_err("there is none").kind(), ErrorKind::NotFound);
    for options in [
        VaultOptions { pack_len: 100_000, ..options() },
        VaultOptions { pack_len: 32 << 10, ..options() },
        VaultOptions { pack_len: 8 << 20, ..options() },
        VaultOptions { cost: Cost { memory_kib: 1, passes: 1, lanes: 1 }, ..options() },
    ] {
        let made = Vault::create(World::new(3).place(), &password(), &options).await;
        assert_eq!(made.expect_err("out of range").kind(), ErrorKind::InvalidArgument);
    }
}

/// Stopped at any call, before it is done or after: one of the two passwords opens the vault, and all is in it.
#[tokio::test]
async fn of_a_change_that_is_stopped_one_password_opens() {
    let other = Password::new("battery staple").expect("a password");
    let whole = World::new(1);
    let vault = whole.create(&options()).await;
    put(&vault, &key(1), block(1, 100_000)).await;
    flush(&vault).await;
    drop(vault);
    let (objects, head) = (whole.objects().await, whole.head().await);
    let mut opened_by = [0, 0];
    for is_done in [false, true] {
        for at in 0.. {
            let (world, stops) = (World::of(&objects, head.clone(), 7).await, Stops::new(at, true, is_done));
            let changed = async {
                let vault = Vault::open(stops.place(&world), &password()).await?;
                vault.put(&key(2), block(2, 1000)).await?;
                vault.change_password(&other, CHEAP).await
            };
            let changed = changed.await;
            let world = World { env: Clock::default().env(1000 + at), ..world };
            let [first, second] = [world.open().await, Vault::open(world.place(), &other).await].map(muxfs::Result::ok);
            assert!(first.is_some() != second.is_some(), "stopped at {at}: one of them");
            assert!(changed.is_err() || second.is_some(), "a password that was changed is the other one");
            opened_by[usize::from(second.is_some())] += 1;
            let vault = first.or(second).expect("one of them");
            let found = all(&vault).await.expect("all");
            assert_eq!(found.get(&key(1)), Some(&block(1, 100_000)));
            assert!(changed.is_err() || found.len() == 2);
            if changed.is_ok() {
                assert!(!stops.happened());
                break;
            }
        }
    }
    assert!(opened_by.iter().all(|count| *count > 1), "{opened_by:?}");
}

/// The head of before, put back alone, opens with the password of before; but packs that are newer tell, and who remembers does.
#[tokio::test]
async fn an_old_head_lets_no_old_password_in_unseen() {
    let (world, memory) = (World::new(1), Arc::new(MemHeads::default()));
    let place = VaultPlace { memory: Some(memory.clone()), ..world.place() };
    let vault = Vault::create(place, &password(), &options()).await.expect("made");
    put(&vault, &key(1), block(1, 1000)).await;
    flush(&vault).await;
    let old_head = world.head().await;
    let other = Password::new("battery staple").expect("a password");
    vault.change_password(&other, CHEAP).await.expect("changed");
    let put_back = World::of(&world.objects().await, old_head.clone(), 2).await;
    let place = VaultPlace { memory: Some(memory), ..put_back.place() };
    let refused = Vault::open(place, &password()).await.expect_err("it is remembered");
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused:#}");
    put(&vault, &key(2), block(2, 1000)).await;
    flush(&vault).await;
    let put_back = World::of(&world.objects().await, old_head, 3).await;
    let refused = put_back.open().await.expect_err("there are newer packs");
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused:#}");
}
