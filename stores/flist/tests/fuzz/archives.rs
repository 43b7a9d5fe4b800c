//! Archives of which an flist is made: names that lead out of the tree, links to anywhere, lengths that nothing has, and layers
//! that take away what is not there.

use std::fs;

use muxfs::{ErrorKind, testing::fault::Dice};
use muxfs_flist::Flist;

use crate::{
    fuzz,
    made::{BLOCK_LEN, WRONG_LENS, World, damage, gzip, header, octal, walk},
};

/// How many inputs are tried where nobody says: of each an flist is made, durably.
const COUNT: u64 = 250;

const NAMES: [&[u8]; 16] = [
    b"a",
    b"a/b",
    b"a/b/c",
    b"./a/",
    b"../escaped",
    b"a/../../escaped",
    b"/escaped",
    b"a//b",
    b".",
    b"",
    b"link/through",
    b"link",
    b"a/.wh.b",
    b"a/.wh..wh..opq",
    b"manifest.json",
    b"oci-layout",
];

/// The first of them are good.
const GOOD_COUNT: usize = 4;

fn tar(dice: &mut Dice) -> Vec<u8> {
    let mut tar = Vec::new();
    let (names, kinds): (&[&[u8]], &[u8]) =
        if dice.roll(2) == 0 { (&NAMES, b"0000111255556LKxgSV7") } else { (&NAMES[..GOOD_COUNT], b"00255556V") };
    for _ in 0..=dice.roll(7) {
        let name = names[dice.roll(names.len())];
        let target = names[dice.roll(names.len())];
        let kind = kinds[dice.roll(kinds.len())];
        let data = match kind {
            b'x' | b'g' => {
                let texts: [&[u8]; 5] = [
                    b"20 path=../escaped\n\n",
                    b"9 size=-1\n",
                    b"99 path=x\n",
                    b"12 uid=9999\n",
                    b"18446744073709551616 a=b\n",
                ];
                texts[dice.roll(texts.len())].to_vec()
            }
            b'L' | b'K' => [target, b"\0"].concat(),
            b'0' => {
                let len = dice.roll(2000);
                dice.bytes(len)
            }
            _ => Vec::new(),
        };
        let len = if dice.roll(20) == 0 { *WRONG_LENS[dice.roll(WRONG_LENS.len())] } else { octal(data.len()) };
        tar.extend(header(name, kind, target, &len));
        tar.extend(data);
        tar.resize(tar.len().next_multiple_of(BLOCK_LEN), 0);
    }
    tar.resize(tar.len() + 2 * BLOCK_LEN, 0);
    tar
}

#[test]
fn archives() {
    let world = World::new();
    let archive = world.path("archive");
    fuzz(COUNT, &["read", "refused"], move |dice| {
        let mut bytes = tar(dice);
        if dice.roll(5) == 0 {
            damage(dice, &mut bytes);
        }
        if dice.roll(3) == 0 {
            bytes = gzip(&bytes);
            if dice.roll(3) == 0 {
                damage(dice, &mut bytes);
            }
        }
        fs::write(&archive, &bytes).expect("written");
        let made = world.create(&archive, "made.fl");
        let mut there: Vec<_> =
            world.dir.path().read_dir().expect("listed").map(|entry| entry.expect("one").file_name()).collect();
        there.sort();
        assert_eq!(there, ["archive", "chunks", "made", "scratch", "source"], "something escaped");
        match made {
            Ok(path) => {
                let flist = Flist::open(&path, &world.path("scratch")).expect("what was made opens");
                walk(&flist).expect("what was made is good");
                "read"
            }
            Err(error) => {
                let known = [
                    ErrorKind::Corrupt,
                    ErrorKind::InvalidArgument,
                    ErrorKind::NotDir,
                    ErrorKind::TooLarge,
                    ErrorKind::NotFound,
                ];
                assert!(known.contains(&error.kind()), "{:?} {error:#}", error.kind());
                "refused"
            }
        }
    });
}
