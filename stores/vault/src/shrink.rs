//! Pieces made shorter: each by itself, with LZ4 or zstd; what does not shrink is stored.
//!
//! What a piece claims to be long is held against its limit before memory is taken for it. Spec: spec/vault.md #pieces.

use std::{
    borrow::Cow,
    fmt, io,
    sync::{Mutex, PoisonError},
};

use muxfs::Result;
use zstd::bulk::{Compressor, Decompressor};

use crate::wire::corrupt;

/// What zstd is asked for: more takes twice as long for a few percent.
const ZSTD_LEVEL: i32 = 1;
/// So many of what compresses are kept for the next pieces, and of what expands.
const IDLE_COUNT_MAX: usize = 4;

/// How pieces are compressed that are put from now on; whatever the others are is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// Little, and very fast to read.
    Lz4,
    /// Well, and fast.
    #[default]
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "not compressed",
            Self::Lz4 => "LZ4",
            Self::Zstd => "zstd",
        })
    }
}

impl Compression {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    pub(crate) fn of_number(number: u8) -> Result<Self> {
        match number {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            _ => Err(corrupt("its compression is unknown")),
        }
    }
}

/// What compresses and expands.
pub(crate) struct Shrinker {
    compression: Compression,
    compressors: Idle<Compressor<'static>>,
    decompressors: Idle<Decompressor<'static>>,
}

/// What takes longer to make than to use.
struct Idle<T>(Mutex<Vec<T>>);

impl<T> Idle<T> {
    fn with<R>(&self, make: impl FnOnce() -> io::Result<T>, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut one = idle.map_or_else(make, Ok).ok()?;
        let done = work(&mut one);
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_COUNT_MAX {
            idle.push(one);
        }
        Some(done)
    }
}

impl fmt::Debug for Shrinker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shrinker({:?})", self.compression)
    }
}

impl Shrinker {
    pub(crate) fn new(compression: Compression) -> Self {
        Self { compression, compressors: Idle(Mutex::default()), decompressors: Idle(Mutex::default()) }
    }

    /// A piece as it is kept, and how.
    pub(crate) fn shrink<'a>(&self, plain: &'a [u8]) -> (Compression, Cow<'a, [u8]>) {
        let shrunk = match self.compression {
            Compression::None => None,
            Compression::Lz4 => {
                let mut shrunk = vec![0; lz4_flex::block::get_maximum_output_size(plain.len())];
                lz4_flex::block::compress_into(plain, &mut shrunk).ok().map(|len| {
                    shrunk.truncate(len);
                    shrunk
                })
            }
            Compression::Zstd => {
                let make = || Compressor::new(ZSTD_LEVEL);
                self.compressors.with(make, |compressor| compressor.compress(plain).ok()).flatten()
            }
        };
        match shrunk {
            Some(shrunk) if shrunk.len() < plain.len() => (self.compression, Cow::Owned(shrunk)),
            _ => (Compression::None, Cow::Borrowed(plain)),
        }
    }

    /// How new pieces are compressed.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Appends the `len` bytes of a piece that is kept like this; what is appended where it fails is nothing.
    ///
    /// # Errors
    /// `Corrupt` where it is not that long, or no such thing.
    pub(crate) fn expand(&self, how: Compression, kept: &[u8], len: usize, out: &mut Vec<u8>) -> Result<()> {
        let begin = out.len();
        if how == Compression::None {
            if kept.len() != len {
                return Err(corrupt("a piece is not as long as it was"));
            }
            out.extend_from_slice(kept);
            return Ok(());
        }
        out.resize(begin + len, 0);
        let to = out.get_mut(begin..).unwrap_or_default();
        let expanded = if how == Compression::Lz4 {
            lz4_flex::block::decompress_into(kept, to).ok()
        } else {
            let expand = |decompressor: &mut Decompressor<'_>| decompressor.decompress_to_buffer(kept, to).ok();
            self.decompressors.with(Decompressor::new, expand).flatten()
        };
        if expanded == Some(len) {
            return Ok(());
        }
        out.truncate(begin);
        Err(corrupt("a piece does not expand to what it was"))
    }

    /// A piece that is kept like this, whole.
    ///
    /// # Errors
    /// As [`expand`](Self::expand).
    pub(crate) fn piece(&self, how: Compression, kept: &[u8], len: u32) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        self.expand(how, kept, len as usize, &mut whole)?;
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use muxfs::testing::fault::Dice;

    use super::*;

    const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

    #[test]
    fn pieces_come_back_and_none_is_longer() {
        for compression in ALL {
            let shrinker = Shrinker::new(compression);
            for plain in [vec![7; 100_000], Dice::new(1).bytes(70_000), vec![], vec![1], b"abcabcabcabc".to_vec()] {
                let (how, kept) = shrinker.shrink(&plain);
                assert!(kept.len() <= plain.len());
                let mut out = b"before".to_vec();
                shrinker.expand(how, &kept, plain.len(), &mut out).expect("good");
                assert_eq!(out, [b"before", &plain[..]].concat());
            }
            assert_eq!(Compression::of_number(compression.number()).expect("known"), compression);
        }
    }

    /// Whatever the bytes are and however long they claim to be: the bytes of that length, or an error and no byte.
    #[test]
    fn other_bytes_are_refused() {
        for compression in ALL {
            let plain: Vec<u8> = b"some text that repeats, repeats, repeats ".repeat(50);
            let shrinker = Shrinker::new(compression);
            let (how, kept) = shrinker.shrink(&plain);
            for seed in 0..2000 {
                let mut dice = Dice::new(seed);
                let mut bad = kept.to_vec();
                let at = dice.roll(bad.len());
                bad[at] ^= 1 << dice.roll(8);
                bad.truncate(bad.len() - dice.roll(2) * dice.roll(bad.len()));
                let len = if dice.roll(2) == 0 { plain.len() } else { dice.roll(4000) };
                let mut out = Vec::new();
                let is_good = shrinker.expand(how, &bad, len, &mut out).is_ok();
                assert_eq!(out.len(), if is_good { len } else { 0 });
            }
        }
        assert!(Compression::of_number(3).is_err());
    }
}
