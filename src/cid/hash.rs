//! The hash functions a block may be named by, and nothing else: what stands in this table can be computed.
//!
//! Sits below [`Cid`](super::Cid). Allow-list and computation are one table, so no hash can be accepted that nobody
//! checks. Spec: spec/cids.md #hashes.

use std::iter::zip;

use blake2::{
    Blake2b, Blake2s,
    digest::consts::{
        U20, U21, U22, U23, U24, U25, U26, U27, U28, U29, U30, U31, U32, U33, U34, U35, U36, U37, U38, U39, U40, U41,
        U42, U43, U44, U45, U46, U47, U48, U49, U50, U51, U52, U53, U54, U55, U56, U57, U58, U59, U60, U61, U62, U63,
        U64,
    },
};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use sha3::{
    Keccak224, Keccak256, Keccak384, Keccak512, Sha3_224, Sha3_256, Sha3_384, Sha3_512, Shake256,
    digest::{ExtendableOutput, Update, XofReader},
};

/// The shortest digest that names a block, in bytes: below 160 bits, two blocks of one name can be found.
pub(super) const DIGEST_LEN_MIN: usize = 20;
/// The longest digest, in bytes: longer ones of functions without an end add nothing (and IPFS refuses them).
pub(super) const DIGEST_LEN_MAX: usize = 128;

/// Fills its second argument, at most `digest_len_max` bytes, with the beginning of the digest of its first.
type Fill = fn(&[u8], &mut [u8]);

/// A hash function that may name a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct HashFn {
    /// The longest digest it gives, in bytes; a shorter one is its beginning.
    pub(super) digest_len_max: usize,
    /// Computes it.
    pub(super) fill: Fill,
}

/// The function of a multihash code, identity apart; `None` if it may not name a block.
pub(super) fn find(code: u64) -> Option<HashFn> {
    let (digest_len_max, fill): (usize, Fill) = match code {
        0x11 => (20, fixed::<Sha1>),
        0x12 => (32, fixed::<Sha256>),
        0x13 => (64, fixed::<Sha512>),
        0x14 => (64, fixed::<Sha3_512>),
        0x15 => (48, fixed::<Sha3_384>),
        0x16 => (32, fixed::<Sha3_256>),
        0x17 => (28, fixed::<Sha3_224>),
        0x19 => (DIGEST_LEN_MAX, shake256),
        0x1a => (28, fixed::<Keccak224>),
        0x1b => (32, fixed::<Keccak256>),
        0x1c => (48, fixed::<Keccak384>),
        0x1d => (64, fixed::<Keccak512>),
        0x1e => (DIGEST_LEN_MAX, blake3),
        0x56 => (32, double_sha256),
        0xb201..=0xb240 => blake2b(code - 0xb200)?,
        0xb241..=0xb260 => blake2s(code - 0xb240)?,
        _ => return None,
    };
    Some(HashFn { digest_len_max, fill })
}

fn fixed<D: Digest>(block: &[u8], out: &mut [u8]) {
    zip(out, D::digest(block)).for_each(|(to, from)| *to = from);
}

fn double_sha256(block: &[u8], out: &mut [u8]) {
    fixed::<Sha256>(Sha256::digest(block).as_slice(), out);
}

fn shake256(block: &[u8], out: &mut [u8]) {
    let mut hasher = Shake256::default();
    hasher.update(block);
    hasher.finalize_xof().read(out);
}

fn blake3(block: &[u8], out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(block);
    hasher.finalize_xof().fill(out);
}

/// The functions of a family that has one per digest length: the length is mixed into the hash, so each is its own.
macro_rules! by_len {
    ($name:ident, $hash:ident: $($len:literal $size:ident)*) => {
        fn $name(len: u64) -> Option<(usize, Fill)> {
            match len {
                $($len => Some(($len, fixed::<$hash<$size>>)),)*
                _ => None,
            }
        }
    };
}

by_len!(blake2b, Blake2b: 20 U20 21 U21 22 U22 23 U23 24 U24 25 U25 26 U26 27 U27 28 U28 29 U29 30 U30 31 U31 32 U32
    33 U33 34 U34 35 U35 36 U36 37 U37 38 U38 39 U39 40 U40 41 U41 42 U42 43 U43 44 U44 45 U45 46 U46 47 U47 48 U48
    49 U49 50 U50 51 U51 52 U52 53 U53 54 U54 55 U55 56 U56 57 U57 58 U58 59 U59 60 U60 61 U61 62 U62 63 U63 64 U64);
by_len!(blake2s, Blake2s: 20 U20 21 U21 22 U22 23 U23 24 U24 25 U25 26 U26 27 U27 28 U28 29 U29 30 U30 31 U31 32 U32);
