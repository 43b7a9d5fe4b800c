//! Whatever heads, packs, directories and indexes say: they are read or refused; nothing panics, hangs or eats memory, and
//! what is read is written again as it was.
//!
//! Good ones, damaged; one seed is one input. `MUXFS_FUZZ_INPUTS` says how many, `MUXFS_FUZZ_SEED` where they begin. Behind a
//! tag nobody writes who has not the key: these are read as if somebody did.

use muxfs::testing::fuzz::inputs;

use super::*;
use crate::{
    directory::{self, Directory},
    head,
    keys::{Keys, PackName},
    pack::{self, Kind, Opened, PACK_LEN_MAX},
    runs::{self, Parts},
    secret::Secret,
    superblock::{self, Superblock},
};

const COUNT: u64 = 3000;
const MEMORY_LEN_MAX: u64 = 1 << 30;

/// Flips, overwrites, cuts, repeats or drops some bytes.
fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len());
        match dice.roll(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.roll(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.roll(5)],
            2 => bytes.truncate(at),
            3 => {
                let many = vec![[0, 0xff, 0x80][dice.roll(3)]; dice.roll(12)];
                bytes.splice(at..at, many).for_each(drop);
            }
            4 => {
                let end = (at + dice.roll(40)).min(bytes.len());
                bytes.drain(at..end).for_each(drop);
            }
            _ => {
                let end = (at + dice.roll(40)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part).for_each(drop);
            }
        }
    }
}

fn said<T>(read: muxfs::Result<T>) -> &'static str {
    match read {
        Ok(_) => "read",
        Err(error) => {
            use muxfs::ErrorKind::{BadKey, Corrupt, Unsupported};
            assert!(matches!(error.kind(), Corrupt | BadKey | Unsupported), "{error:#}");
            "refused"
        }
    }
}

#[test]
fn directories() {
    inputs(COUNT, MEMORY_LEN_MAX, &["read", "refused"], |dice| {
        let mut bytes = directory::sample().encode();
        damage(dice, &mut bytes);
        let read = Directory::decode(&bytes);
        if let Ok(directory) = &read {
            assert_eq!(Directory::decode(&directory.encode()).expect("it is one"), *directory);
            said(directory.places(u32::try_from(dice.roll(1000)).expect("small")));
            let mut index = crate::index::Index::default();
            said(index.follow(7, directory, 5 * 116));
        }
        said(read)
    });
}

#[test]
fn superblocks() {
    inputs(COUNT, MEMORY_LEN_MAX, &["read", "refused"], |dice| {
        let mut bytes = superblock::sample().encode();
        damage(dice, &mut bytes);
        let read = Superblock::decode(&bytes);
        if let Ok(superblock) = &read {
            assert_eq!(Superblock::decode(&superblock.encode()).expect("it is one"), *superblock);
        }
        said(read)
    });
}

#[test]
fn indexes() {
    let good = runs::encode(runs::sample());
    let parts = Parts { parts: vec![(Compression::Zstd, 7, 9); 3], before: vec![PackName([1; 24])] }.encode();
    inputs(COUNT, MEMORY_LEN_MAX, &["read", "refused"], move |dice| {
        let (mut bytes, mut parts) = (good.clone(), parts.clone());
        damage(dice, &mut bytes);
        damage(dice, &mut parts);
        said(Parts::decode(&parts));
        let read = runs::decode(&bytes.into(), 9, PACK_LEN_MIN);
        if let Ok(entries) = &read {
            let again = runs::encode(entries.clone()).into();
            assert_eq!(&runs::decode(&again, 9, PACK_LEN_MIN).expect("it is one"), entries);
        }
        said(read)
    });
}

#[test]
fn packs() {
    let keys = Keys::new(Cipher::Aes256Gcm, Secret::new(&[1; 32]));
    let name = PackName([3; 24]);
    let good =
        pack::seal(&keys.pack(&name), PACK_LEN_MIN, (Kind::Data, 1, 1), [&b"item"[..]].into_iter(), b"directory")
            .expect("it fits");
    inputs(COUNT / 10, MEMORY_LEN_MAX, &["refused"], move |dice| {
        let mut bytes = good.to_vec();
        damage(dice, &mut bytes);
        let pack_len = [PACK_LEN_MIN, PACK_LEN_MAX][dice.roll(2)];
        let read = Opened::whole(&keys.pack(&name), &bytes, pack_len);
        assert!(read.is_err() || bytes == good[..], "a pack that was changed is read");
        said(read)
    });
}

/// A trailer that says anything, under the right key.
#[test]
fn trailers() {
    let keys = Keys::new(Cipher::Aes256Gcm, Secret::new(&[1; 32]));
    let name = PackName([3; 24]);
    inputs(COUNT, MEMORY_LEN_MAX, &["read", "refused"], move |dice| {
        let mut plain = [0; 32];
        plain[..2].copy_from_slice(&[1, 1]);
        plain[4..6].copy_from_slice(&dice.bytes(2));
        plain[8..10].copy_from_slice(&dice.bytes(2));
        if dice.roll(3) > 0 {
            plain[dice.roll(32)] ^= 1 << dice.roll(8);
        }
        let key = keys.pack(&name);
        let tag = key.seal(PACK_LEN_MIN - pack::TRAILER_LEN, &[], &mut plain);
        let end = [&[0; 1000][..], &plain, &tag].concat();
        let trailer = pack::Trailer::open(&key, &end, PACK_LEN_MIN);
        if let Ok(trailer) = &trailer {
            said(Opened::directory(&key, trailer, &end, PACK_LEN_MIN));
        }
        said(trailer)
    });
}

#[test]
fn heads() {
    let good =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(async {
            let world = World::new(1);
            drop(world.create(&options()).await);
            world.head().await
        });
    inputs(COUNT, MEMORY_LEN_MAX, &["refused"], move |dice| {
        let mut bytes = good.to_vec();
        if dice.roll(2) == 0 {
            damage(dice, &mut bytes);
        } else {
            let at = dice.roll(200);
            bytes[at] ^= 1 << dice.roll(8);
        }
        // What it costs to try is bounded, and dear: not here.
        if let Some(cost) = bytes.get_mut(11..20) {
            cost.copy_from_slice(&good[11..20]);
        }
        if bytes == good[..] {
            return "good";
        }
        said(head::unlock(&bytes, &password()))
    });
}
