//! What is stored of a chunk: it is opened to the bytes it was made of, or refused.

use std::fs;

use blake2b_simd::Params;
use muxfs::{ErrorKind, testing::fault::Dice};
use muxfs_flist::{CHUNK_LEN_MAX, Chunk, Flist};

use crate::{
    fuzz,
    made::{World, damage},
};

/// How many inputs are tried where nobody says.
const COUNT: u64 = 3000;

/// A good chunk of each format that is short, what is stored of it, and its bytes.
fn samples(world: &World) -> Vec<(Chunk, Vec<u8>)> {
    let sample = |name: &str| {
        let path = world.create(&world.path("source"), name).expect("made");
        let flist = Flist::open(&path, &world.path("scratch")).expect("opens");
        let mut dir = flist.root().expect("a root");
        for name in ["a", "b", "short"] {
            let name = muxfs::Name::new(name.as_bytes()).expect("a name");
            dir = flist.dir(&dir).expect("a directory").find(&name).expect("there").1.inode.clone();
        }
        let chunk = flist.chunks(dir.id, 0, 1).expect("one").1[0];
        let stored = fs::read(world.path("chunks").join(&chunk.hex()[..2]).join(chunk.hex())).expect("stored");
        (chunk, stored)
    };
    vec![sample("good.fl"), sample("good.flist")]
}

/// Whoever makes an flist chooses ids and keys: what is stored under the right id can be anything.
fn under_its_id(chunk: Chunk, stored: &[u8]) -> Chunk {
    let hash = |len: usize| Params::new().hash_length(len).hash(stored);
    match chunk {
        Chunk::Xxtea { key, .. } => Chunk::Xxtea { id: *hash(16).as_bytes().first_chunk().expect("16 bytes"), key },
        Chunk::Aes { key, .. } => Chunk::Aes { id: *hash(32).as_bytes().first_chunk().expect("32 bytes"), key },
    }
}

#[test]
fn stored_chunks() {
    const PLAIN: &[u8] = b"some bytes of a file";
    let world = World::new();
    let samples = samples(&world);
    let len_of = |dice: &mut Dice| [0, 1, PLAIN.len() - 1, CHUNK_LEN_MAX, usize::MAX][dice.roll(5)];
    fuzz(COUNT, &["read", "refused"], move |dice| {
        let (mut chunk, mut stored) = samples[dice.roll(samples.len())].clone();
        let is_damaged = dice.roll(4) > 0;
        if is_damaged {
            damage(dice, &mut stored);
        }
        if dice.roll(3) > 0 {
            chunk = under_its_id(chunk, &stored);
        }
        let len = if dice.roll(3) == 0 { len_of(dice) } else { PLAIN.len() };
        match chunk.open(&stored, len) {
            Ok(bytes) => {
                assert!(bytes == PLAIN && len == PLAIN.len(), "other bytes came of it");
                "read"
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
                assert!(format!("{error:#}").contains(&chunk.hex()), "{error:#}");
                "refused"
            }
        }
    });
}
