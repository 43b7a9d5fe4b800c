//! A chunk: the bytes of a part of a file, as they are stored, and back.
//!
//! Both formats name a chunk by the hash of what is stored and keep the hash of what it was made of as its key: so it is
//! told to be the right one before it is decrypted, and its bytes to be the right ones after. Spec: spec/flist.md #chunks.

use aws_lc_rs::aead::{self, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use blake2b_simd::{
    Params,
    many::{HashManyJob, hash_many},
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
/// The nonce of AES-GCM, which is the beginning of the key.
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

    /// The chunks of some bytes whose keys are known, and what is stored of each. It takes the processor for a while, and less for
    /// several together.
    ///
    /// # Errors
    /// `TooLarge` for more bytes than snappy takes.
    pub(crate) fn seal(format: Format, plain: &[(Key, &[u8])]) -> Result<Vec<(Self, Vec<u8>)>> {
        let too_long = |len: usize| Error::new(ErrorKind::TooLarge, OP).because(format!("a chunk of {len} bytes"));
        let mut snappy = snap::raw::Encoder::new();
        let sealed = plain.iter().map(|(key, plain)| {
            let too_long = || too_long(plain.len());
            let compressed = snappy.compress_vec(plain).map_err(|_| too_long())?;
            match format {
                Format::Flist => Ok(compressed),
                Format::Fl => aes_seal(compressed, &key.0).ok_or_else(too_long),
            }
        });
        let mut stored = sealed.collect::<Result<Vec<Vec<u8>>>>()?;
        if format == Format::Flist {
            let keys: Vec<[u8; 16]> = plain.iter().map(|(key, _)| key.half()).collect();
            stored = xxtea_seal(stored, &keys).ok_or_else(|| too_long(usize::MAX))?;
        }
        Ok(match format {
            Format::Flist => {
                let ids = hashes::<16>(stored.iter());
                let chunks = ids.into_iter().zip(plain).map(|(id, (key, _))| Self::Xxtea { id, key: key.half() });
                chunks.zip(stored).collect()
            }
            Format::Fl => {
                let ids = hashes::<32>(stored.iter());
                let chunks = ids.into_iter().zip(plain).map(|(id, (key, _))| Self::Aes { id, key: key.0 });
                chunks.zip(stored).collect()
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
    /// Those of several chunks.
    pub(crate) fn of<'a>(format: Format, plain: impl Iterator<Item = &'a [u8]>) -> Vec<Self> {
        match format {
            Format::Fl => hashes(plain).into_iter().map(Self).collect(),
            Format::Flist => {
                let whole = |half: [u8; 16]| {
                    let mut key = [0; 32];
                    key[..16].copy_from_slice(&half);
                    Self(key)
                };
                hashes(plain).into_iter().map(whole).collect()
            }
        }
    }

    fn half(&self) -> [u8; 16] {
        *self.0.first_chunk().unwrap_or(&[0; 16])
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |half: u8| DIGITS[usize::from(half & 15)];
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// `BLAKE2b` of several inputs, as many at a time as the processor has lanes for.
fn hashes<const LEN: usize>(inputs: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<[u8; LEN]> {
    let inputs: Vec<_> = inputs.collect();
    let params = blake2b(LEN);
    let mut jobs: Vec<_> = inputs.iter().map(|input| HashManyJob::new(&params, input.as_ref())).collect();
    hash_many(&mut jobs);
    jobs.iter().map(|job| *job.to_hash().as_bytes().first_chunk().unwrap_or(&[0; LEN])).collect()
}

/// `BLAKE2b` of a length of 1 to 64 bytes.
pub(crate) fn blake2b(len: usize) -> Params {
    let mut params = Params::new();
    params.hash_length(len);
    params
}

pub(crate) fn blake2b_128(bytes: &[u8]) -> [u8; 16] {
    *blake2b(16).hash(bytes).as_bytes().first_chunk().unwrap_or(&[0; 16])
}

fn blake2b_256(bytes: &[u8]) -> [u8; 32] {
    *blake2b(32).hash(bytes).as_bytes().first_chunk().unwrap_or(&[0; 32])
}

fn cipher(key: &[u8; 32]) -> Option<(LessSafeKey, Nonce)> {
    let nonce: &[u8; NONCE_LEN] = key.first_chunk()?;
    // A key is the hash of what is encrypted with it: the same nonce is always of the same bytes.
    Some((LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?), Nonce::assume_unique_for_key(*nonce)))
}

fn aes_seal(mut bytes: Vec<u8>, key: &[u8; 32]) -> Option<Vec<u8>> {
    let (cipher, nonce) = cipher(key)?;
    let tag: aead::Tag = cipher.seal_in_place_separate_tag(nonce, Aad::empty(), &mut bytes).ok()?;
    bytes.extend(tag.as_ref());
    Some(bytes)
}

fn aes_open(stored: &[u8], key: &[u8; 32]) -> Option<Vec<u8>> {
    let (cipher, nonce) = cipher(key)?;
    let mut plain = stored.to_vec();
    let len = cipher.open_in_place(nonce, Aad::empty(), &mut plain).ok()?.len();
    plain.truncate(len);
    Some(plain)
}

/// What XXTEA does to a word from its neighbours.
fn xxtea_mix(before: u32, after: u32, sum: u32, key: u32) -> u32 {
    let shifted = (before >> 5 ^ after << 2).wrapping_add(after >> 3 ^ before << 4);
    shifted ^ (sum ^ after).wrapping_add(key ^ before)
}

/// So many inputs of XXTEA go on side by side.
const LANE_COUNT: usize = 4;

/// What XXTEA makes of several inputs, each with its length behind it and a key of its own. Every word takes the one before it, which
/// the processor has to wait for: so it works on several inputs meanwhile.
fn xxtea_seal(inputs: Vec<Vec<u8>>, keys: &[[u8; 16]]) -> Option<Vec<Vec<u8>>> {
    let all = inputs.into_iter().zip(keys).map(|(bytes, key)| Xxtea::new(bytes, key));
    let mut all = all.collect::<Option<Vec<_>>>()?;
    let mut lanes: Vec<&mut Xxtea> = all.iter_mut().collect();
    while !lanes.is_empty() {
        if let Some(lanes) = lanes.first_chunk_mut::<LANE_COUNT>() {
            go_on(lanes);
        } else if let Some(lanes) = lanes.first_chunk_mut::<2>() {
            go_on(lanes);
        } else if let Some(lane) = lanes.first_chunk_mut::<1>() {
            go_on(lane);
        }
        lanes.retain(|lane| lane.round_count > 0);
    }
    Some(all.iter().map(|one| bytes_of(&one.words)).collect())
}

/// An input of XXTEA, and how far it is.
struct Xxtea {
    words: Vec<u32>,
    key: [u32; 4],
    /// Of the round that is under way.
    sum: u32,
    /// Those that are not done.
    round_count: usize,
    /// The word that is next, and what became of the one before it.
    at: usize,
    before: u32,
}

impl Xxtea {
    fn new(mut bytes: Vec<u8>, key: &[u8; 16]) -> Option<Self> {
        let len = u32::try_from(bytes.len()).ok()?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(len.to_le_bytes());
        let (words, key) = (words_of(&bytes), words_of(key));
        let (before, round_count) = (*words.last()?, 6 + 52 / words.len());
        Some(Self { words, key: *key.first_chunk()?, sum: DELTA, round_count, at: 0, before })
    }

    /// How many words there are in this round before the last one.
    fn left(&self) -> usize {
        self.words.len() - 1 - self.at
    }

    /// The key from the next word on, whose words come in turn.
    fn key_here(&self) -> [u32; 4] {
        let turn = (self.sum >> 2 & 3) as usize;
        [0, 1, 2, 3].map(|next| self.key[(self.at + next) & 3 ^ turn])
    }

    /// The last word of a round, behind which the first one is.
    fn end_round(&mut self) {
        let (key, sum, first) = (self.key_here(), self.sum, self.words[0]);
        let word = &mut self.words[self.at];
        *word = word.wrapping_add(xxtea_mix(self.before, first, sum, key[0]));
        self.before = *word;
        (self.at, self.sum, self.round_count) = (0, sum.wrapping_add(DELTA), self.round_count - 1);
    }
}

/// Goes on with some, side by side, until one of them is done.
fn go_on<const COUNT: usize>(lanes: &mut [&mut Xxtea; COUNT]) {
    while lanes.iter().all(|lane| lane.round_count > 0) {
        let count = lanes.iter().map(|lane| lane.left()).min().unwrap_or(0);
        let (keys, sums) = (lanes.each_ref().map(|lane| lane.key_here()), lanes.each_ref().map(|lane| lane.sum));
        let mut before = lanes.each_ref().map(|lane| lane.before);
        let words = lanes.each_mut().map(|lane| &mut lane.words[lane.at..=lane.at + count]);
        for at in 0..count {
            for lane in 0..COUNT {
                let mixed = xxtea_mix(before[lane], words[lane][at + 1], sums[lane], keys[lane][at & 3]);
                before[lane] = words[lane][at].wrapping_add(mixed);
                words[lane][at] = before[lane];
            }
        }
        for (lane, before) in lanes.iter_mut().zip(before) {
            (lane.at, lane.before) = (lane.at + count, before);
            if lane.left() == 0 {
                lane.end_round();
            }
        }
    }
}

/// Numbers of four bytes each.
fn words_of(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0; words.len() * 4];
    for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    bytes
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
    let mut bytes = bytes_of(&words);
    let is_padding = len <= bytes.len() && len + 4 > bytes.len();
    bytes.truncate(len);
    is_padding.then_some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn seal(format: Format, plain: &[&[u8]]) -> Vec<(Chunk, Vec<u8>)> {
        let keys = Key::of(format, plain.iter().copied());
        let plain: Vec<_> = keys.into_iter().zip(plain.iter().copied()).collect();
        Chunk::seal(format, &plain).expect("short")
    }

    pub(crate) fn seal_xxtea(plain: &[u8]) -> (Chunk, Vec<u8>) {
        seal(Format::Flist, &[plain]).remove(0)
    }

    pub(crate) fn seal_aes(plain: &[u8]) -> (Chunk, Vec<u8>) {
        seal(Format::Fl, &[plain]).remove(0)
    }

    /// However many there are, and however long each is: each is what it is alone.
    #[test]
    fn chunks_that_are_sealed_together_are_as_if_alone() {
        let mut dice = muxfs::testing::fault::Dice::new(3);
        let all: Vec<Vec<u8>> =
            (0..11).map(|number| dice.bytes([1, 2, 3, 4, 5, 400, 70_000][number % 7] + number)).collect();
        for count in 0..=all.len() {
            let plain: Vec<&[u8]> = all.iter().take(count).map(|bytes| &bytes[..]).collect();
            for format in [Format::Fl, Format::Flist] {
                let together = seal(format, &plain);
                let alone: Vec<_> = plain.iter().map(|plain| seal(format, &[*plain]).remove(0)).collect();
                assert!(together == alone && together.len() == count, "{count} of {format}");
                for ((chunk, stored), plain) in together.iter().zip(&plain) {
                    assert_eq!(chunk.open(stored, plain.len()).expect("good"), *plain);
                }
            }
        }
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
