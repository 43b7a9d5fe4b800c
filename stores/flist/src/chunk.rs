//! A chunk: the bytes of a part of a file, as they are stored, and back.
//!
//! Both formats name a chunk by the hash of what is stored and keep the hash of what it was made of as its key: so it is
//! told to be the right one before it is decrypted, and its bytes to be the right ones after. Spec: spec/flist.md #chunks.

use aes_gcm::{AeadInOut as _, Aes256Gcm, KeyInit as _};
use blake2::{
    Blake2b, Digest as _,
    digest::consts::{U16, U32},
};
use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};

use crate::flist::Format;

/// The longest chunk that is read, in bytes: no store of chunks takes a longer value than 8 MiB, and what is stored is
/// a little longer than what snappy makes of it.
pub const CHUNK_LEN_MAX: usize = 4 << 20;
/// The longest value that a chunk is stored as, in bytes.
pub const STORED_LEN_MAX: usize = 8 << 20;

const OP: &str = "flist.chunk";
/// The tag of AES-GCM, and its nonce, which is the beginning of the key.
const TAG_LEN: usize = 16;
const NONCE_LEN: usize = 12;
/// What XXTEA adds up in each round.
const DELTA: u32 = 0x9e37_79b9;

/// A chunk of a file: what it is stored under, and its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chunk {
    /// Of an `.flist`: BLAKE2b-128 of what is stored, and of the bytes; XXTEA.
    Xxtea {
        /// What it is stored under.
        id: [u8; 16],
        /// What it is decrypted with.
        key: [u8; 16],
    },
    /// Of an `.fl`: BLAKE2b-256 of what is stored, and of the bytes; AES-256-GCM.
    Aes {
        /// What it is stored under.
        id: [u8; 32],
        /// What it is decrypted with.
        key: [u8; 32],
    },
}

impl Chunk {
    /// What it is stored under: 16 or 32 bytes.
    pub fn id(&self) -> &[u8] {
        match self {
            Self::Xxtea { id, .. } => id,
            Self::Aes { id, .. } => id,
        }
    }

    /// What it is stored under, in lower-case hex.
    pub fn hex(&self) -> String {
        hex(self.id())
    }

    /// The chunk of some bytes whose key is known, and what is stored of it. It takes the processor for a while.
    ///
    /// # Errors
    /// `TooLarge` for more bytes than snappy takes.
    pub(crate) fn seal(format: Format, key: Key, plain: &[u8]) -> Result<(Self, Vec<u8>)> {
        let too_long = || Error::new(ErrorKind::TooLarge, OP).because(format!("a chunk of {} bytes", plain.len()));
        let compressed = snap::raw::Encoder::new().compress_vec(plain).map_err(|_| too_long())?;
        Ok(match format {
            Format::Flist => {
                let key = *key.0.first_chunk().unwrap_or(&[0; 16]);
                let stored = xxtea_seal(compressed, &key).ok_or_else(too_long)?;
                (Self::Xxtea { id: blake2b_128(&stored), key }, stored)
            }
            Format::Fl => {
                let stored = aes_seal(compressed, &key.0).ok_or_else(too_long)?;
                (Self::Aes { id: blake2b_256(&stored), key: key.0 }, stored)
            }
        })
    }

    /// Whether bytes are what is stored under its id.
    pub fn is(&self, stored: &[u8]) -> bool {
        match self {
            Self::Xxtea { id, .. } => blake2b_128(stored) == *id,
            Self::Aes { id, .. } => blake2b_256(stored) == *id,
        }
    }

    /// The bytes of the chunk, `len` of them, of what is stored. It takes the processor for a while.
    ///
    /// # Errors
    /// `Corrupt` where it is not what was stored, or not of that many bytes; they name the chunk.
    pub fn open(&self, stored: &[u8], len: usize) -> Result<Bytes> {
        self.decode(stored, len)
            .map_err(|why| Error::new(ErrorKind::Corrupt, OP).at(format!("chunk {}", self.hex())).because(why))
    }

    fn decode(&self, stored: &[u8], len: usize) -> std::result::Result<Bytes, String> {
        if !self.is(stored) {
            return Err(format!("the {} bytes that are stored are other ones", stored.len()));
        }
        let compressed = match self {
            Self::Xxtea { key, .. } => xxtea_open(stored, key).ok_or("what is stored is no XXTEA of its key")?,
            Self::Aes { key, .. } => aes_open(stored, key).ok_or("its key does not open what is stored")?,
        };
        let told = snap::raw::decompress_len(&compressed).map_err(|error| format!("its snappy is damaged: {error}"))?;
        if told != len || len > CHUNK_LEN_MAX {
            return Err(format!("it has {told} bytes, and its file has {len} there"));
        }
        let plain = snap::raw::Decoder::new().decompress_vec(&compressed);
        let plain = plain.map_err(|error| format!("its snappy is damaged: {error}"))?;
        let is_good = match self {
            Self::Xxtea { key, .. } => blake2b_128(&plain) == *key,
            Self::Aes { key, .. } => blake2b_256(&plain) == *key,
        };
        if is_good { Ok(plain.into()) } else { Err("its bytes do not hash to its key".into()) }
    }
}

/// The hash of the bytes of a chunk, which is what it is encrypted with: of an `.flist` its first half alone is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn of(format: Format, plain: &[u8]) -> Self {
        match format {
            Format::Fl => Self(blake2b_256(plain)),
            Format::Flist => {
                let mut key = [0; 32];
                key[..16].copy_from_slice(&blake2b_128(plain));
                Self(key)
            }
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |half: u8| DIGITS[usize::from(half & 15)];
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

pub(crate) fn blake2b_128(bytes: &[u8]) -> [u8; 16] {
    Blake2b::<U16>::digest(bytes).into()
}

fn blake2b_256(bytes: &[u8]) -> [u8; 32] {
    Blake2b::<U32>::digest(bytes).into()
}

fn aes_seal(mut bytes: Vec<u8>, key: &[u8; 32]) -> Option<Vec<u8>> {
    let nonce: &[u8; NONCE_LEN] = key.first_chunk()?;
    let sealed = Aes256Gcm::new(key.into()).encrypt_inout_detached(nonce.into(), &[], bytes.as_mut_slice().into());
    let tag: [u8; TAG_LEN] = sealed.ok()?.into();
    bytes.extend(tag);
    Some(bytes)
}

fn aes_open(stored: &[u8], key: &[u8; 32]) -> Option<Vec<u8>> {
    let (sealed, tag) = stored.split_last_chunk::<TAG_LEN>()?;
    let nonce: &[u8; NONCE_LEN] = key.first_chunk()?;
    let mut plain = sealed.to_vec();
    let cipher = Aes256Gcm::new(key.into());
    let opened = cipher.decrypt_inout_detached(nonce.into(), &[], plain.as_mut_slice().into(), tag.into());
    opened.ok().map(|()| plain)
}

/// What XXTEA does to a word from its neighbours.
fn xxtea_mix(before: u32, after: u32, sum: u32, key: u32) -> u32 {
    let shifted = (before >> 5 ^ after << 2).wrapping_add(after >> 3 ^ before << 4);
    shifted ^ (sum ^ after).wrapping_add(key ^ before)
}

/// What XXTEA makes of bytes, with their length behind them.
fn xxtea_seal(mut bytes: Vec<u8>, key: &[u8; 16]) -> Option<Vec<u8>> {
    let len = u32::try_from(bytes.len()).ok()?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(len.to_le_bytes());
    let (mut words, key) = (words_of(&bytes), words_of(key));
    let count = words.len();
    let mut before = *words.last()?;
    let mut sum = 0u32;
    for _ in 0..6 + 52 / count {
        sum = sum.wrapping_add(DELTA);
        let turn = usize::try_from(sum >> 2 & 3).ok()?;
        for at in 0..count {
            let after = words[if at + 1 == count { 0 } else { at + 1 }];
            before = words[at].wrapping_add(xxtea_mix(before, after, sum, key[at & 3 ^ turn]));
            words[at] = before;
        }
    }
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    Some(bytes)
}

/// Numbers of four bytes each.
fn words_of(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).filter_map(|word| Some(u32::from_le_bytes(*word.first_chunk()?))).collect()
}

/// XXTEA of words whose last is the length of the bytes before it; `None` where it is none of them.
fn xxtea_open(stored: &[u8], key: &[u8; 16]) -> Option<Vec<u8>> {
    if !stored.len().is_multiple_of(4) || stored.len() < 8 {
        return None;
    }
    let (mut words, key) = (words_of(stored), words_of(key));
    let count = words.len();
    let rounds = u32::try_from(6 + 52 / count).ok()?;
    let mut sum = rounds.wrapping_mul(DELTA);
    let mut after = *words.first()?;
    for _ in 0..rounds {
        let turn = usize::try_from(sum >> 2 & 3).ok()?;
        for at in (0..count).rev() {
            let before = words[if at == 0 { count - 1 } else { at - 1 }];
            after = words[at].wrapping_sub(xxtea_mix(before, after, sum, key[at & 3 ^ turn]));
            words[at] = after;
        }
        sum = sum.wrapping_sub(DELTA);
    }
    let len = usize::try_from(words.pop()?).ok()?;
    let padded: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let is_padding = len <= padded.len() && len + 4 > padded.len();
    is_padding.then(|| padded.get(..len).map(<[u8]>::to_vec)).flatten()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn seal_xxtea(plain: &[u8]) -> (Chunk, Vec<u8>) {
        Chunk::seal(Format::Flist, Key::of(Format::Flist, plain), plain).expect("short")
    }

    pub(crate) fn seal_aes(plain: &[u8]) -> (Chunk, Vec<u8>) {
        Chunk::seal(Format::Fl, Key::of(Format::Fl, plain), plain).expect("short")
    }

    #[test]
    fn chunks_are_opened_again() {
        let long: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(at) / 7).to_le_bytes()[1]).collect();
        for plain in [&b"x"[..], b"hello world", &vec![0; 524_288], &long] {
            for (chunk, stored) in [seal_xxtea(plain), seal_aes(plain)] {
                assert_eq!(chunk.open(&stored, plain.len()).expect("good"), plain);
                let error = chunk.open(&stored, plain.len() + 1).expect_err("another length");
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(format!("{error:#}").contains(&chunk.hex()), "{error:#}");
            }
        }
    }

    #[test]
    fn what_was_stored_otherwise_is_refused() {
        for (chunk, stored) in [seal_xxtea(b"some bytes of a file"), seal_aes(b"some bytes of a file")] {
            for bit in 0..stored.len() * 8 {
                let mut flipped = stored.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                chunk.open(&flipped, 20).expect_err("other bytes");
            }
            for len in 0..stored.len() {
                chunk.open(&stored[..len], 20).expect_err("fewer bytes");
            }
        }
    }

    /// Whoever makes an flist chooses the ids, so what has the right id can be anything.
    #[test]
    fn what_is_stored_under_the_right_id_is_held_against_its_key() {
        let (right, stored) = seal_xxtea(b"some bytes of a file");
        let Chunk::Xxtea { id, .. } = right else { unreachable!("it is one") };
        Chunk::Xxtea { id, key: [7; 16] }.open(&stored, 20).expect_err("another key");
        // Lengths that XXTEA has not, and what is behind it is no snappy.
        for len in [0, 1, 4, 7, 8, 12, 100] {
            let stored = vec![9; len];
            let chunk = Chunk::Xxtea { id: blake2b_128(&stored), key: [7; 16] };
            assert_eq!(chunk.open(&stored, 20).expect_err("nothing").kind(), ErrorKind::Corrupt);
            let chunk = Chunk::Aes { id: blake2b_256(&stored), key: [7; 32] };
            assert_eq!(chunk.open(&stored, 20).expect_err("nothing").kind(), ErrorKind::Corrupt);
        }
    }

    /// A few bytes of snappy that tell of gigabytes.
    #[test]
    fn a_bomb_is_refused_before_it_goes_off() {
        let plain = vec![0; 1 << 20];
        let (chunk, stored) = seal_aes(&plain);
        let error = chunk.open(&stored, 512).expect_err("more than the file has");
        assert!(format!("{error:#}").contains("1048576 bytes"), "{error:#}");
        let (chunk, stored) = seal_aes(&vec![0; CHUNK_LEN_MAX + 1]);
        chunk.open(&stored, CHUNK_LEN_MAX + 1).expect_err("longer than any chunk");
    }
}
