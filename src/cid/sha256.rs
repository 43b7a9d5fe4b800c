//! sha2-256 of two blocks at once, for where two are at hand: 1.7 times as fast as one after the other.
//!
//! Sits beside the [table](super::hash) of hash functions and equals its sha2-256. A round of SHA-256 waits for the round
//! before it, so one block keeps a processor with SHA instructions half idle; the rounds of a second block fill the gaps.
//! Processors without them hash one block after the other. Spec: spec/adr/0013-two-hashes-at-once.md; FIPS 180-4.

use sha2::{Digest, Sha256};

/// A sha2-256 digest.
pub(crate) type Digest32 = [u8; 32];

/// The digest of a block.
pub(crate) fn sha256(block: &[u8]) -> Digest32 {
    Sha256::digest(block).into()
}

/// The digests of two blocks. As fast as it can be where they are of about the same length; blocks whole, so bounded by
/// those.
pub(crate) fn sha256_pair(first: &[u8], second: &[u8]) -> [Digest32; 2] {
    #[cfg(target_arch = "x86_64")]
    if let Some(digests) = x86::pair(first, second) {
        return digests;
    }
    [sha256(first), sha256(second)]
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_setzero_si128,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
    };

    use super::Digest32;

    /// The bytes that one compression takes in: a quarter of the schedule is two words of 8 bytes.
    type Chunk = [[[u8; 8]; 2]; 4];
    const CHUNK_LEN: usize = 64;

    /// `None` where the processor has no SHA instructions.
    pub(super) fn pair(first: &[u8], second: &[u8]) -> Option<[Digest32; 2]> {
        let able =
            is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1");
        #[expect(unsafe_code, reason = "the one way to call code for features that are found at run time")]
        // SAFETY: all features that `digests` is compiled for were just found.
        able.then(|| unsafe { digests(first, second) })
    }

    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn digests(first: &[u8], second: &[u8]) -> [Digest32; 2] {
        let (mut one, mut two) = (Lane::new(), Lane::new());
        let ((first_chunks, first_rest), (second_chunks, second_rest)) = (chunks(first), chunks(second));
        let common = first_chunks.len().min(second_chunks.len());
        let (first_common, first_more) = first_chunks.split_at(common);
        let (second_common, second_more) = second_chunks.split_at(common);
        for (first, second) in first_common.iter().zip(second_common) {
            [one, two] = compress([one.with(first), two.with(second)]);
        }
        one.end(first_more, first_rest, first.len());
        two.end(second_more, second_rest, second.len());
        [one.digest(), two.digest()]
    }

    fn chunks(bytes: &[u8]) -> (&[Chunk], &[u8]) {
        let (words, _) = bytes.as_chunks::<8>();
        let (chunks, _) = words.as_chunks::<2>().0.as_chunks::<4>();
        (chunks, bytes.get(chunks.len() * CHUNK_LEN..).unwrap_or_default())
    }

    /// A digest in the making: its eight words in the order that the instructions want, now and before the chunk that is
    /// taken in, and sixteen of that chunk's schedule.
    #[derive(Clone, Copy)]
    struct Lane {
        abef: __m128i,
        cdgh: __m128i,
        before: [__m128i; 2],
        schedule: [__m128i; 4],
    }

    impl Lane {
        #[target_feature(enable = "sse2")]
        fn new() -> Self {
            let words = |a: u32, b: u32, e: u32, f: u32| {
                _mm_set_epi32(a.cast_signed(), b.cast_signed(), e.cast_signed(), f.cast_signed())
            };
            Self {
                abef: words(0x6a09_e667, 0xbb67_ae85, 0x510e_527f, 0x9b05_688c),
                cdgh: words(0x3c6e_f372, 0xa54f_f53a, 0x1f83_d9ab, 0x5be0_cd19),
                before: [_mm_setzero_si128(); 2],
                schedule: [_mm_setzero_si128(); 4],
            }
        }

        /// With the next chunk, to be taken in.
        #[inline]
        #[target_feature(enable = "ssse3")]
        fn with(self, chunk: &Chunk) -> Self {
            let [first, second, third, fourth] = *chunk;
            let schedule = [swapped(first), swapped(second), swapped(third), swapped(fourth)];
            Self { before: [self.abef, self.cdgh], schedule, ..self }
        }

        /// Rounds 4 `I` to 4 `I` + 3.
        #[inline]
        #[target_feature(enable = "sha,sse2")]
        fn rounds<const I: usize>(&mut self) {
            let [a, b, c, d] = K[I];
            let constants = _mm_set_epi32(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed());
            let message = _mm_add_epi32(self.schedule[I % 4], constants);
            self.cdgh = _mm_sha256rnds2_epu32(self.cdgh, self.abef, message);
            self.abef = _mm_sha256rnds2_epu32(self.abef, self.cdgh, _mm_shuffle_epi32::<0x0e>(message));
        }

        /// Puts the words of the schedule in the place of those which rounds 4 `I` to 4 `I` + 3 used up.
        #[inline]
        #[target_feature(enable = "sha,sse2,ssse3")]
        fn refill<const I: usize>(&mut self) {
            // No closures here: what is generic over one is not inlined where processor features are enabled.
            let (first, second, third, last) = (I % 4, (I + 1) % 4, (I + 2) % 4, (I + 3) % 4);
            let sum = _mm_sha256msg1_epu32(self.schedule[first], self.schedule[second]);
            let sum = _mm_add_epi32(sum, _mm_alignr_epi8::<4>(self.schedule[last], self.schedule[third]));
            self.schedule[first] = _mm_sha256msg2_epu32(sum, self.schedule[last]);
        }

        /// Takes in what is left of a block of `len` bytes, and its padding.
        #[target_feature(enable = "sha,sse2,ssse3")]
        fn end(&mut self, more: &[Chunk], rest: &[u8], len: usize) {
            let mut last = [0; 2 * CHUNK_LEN];
            let bits = (len as u64) << 3;
            let padded_len = if rest.len() + 9 > CHUNK_LEN { 2 * CHUNK_LEN } else { CHUNK_LEN };
            last[..rest.len()].copy_from_slice(rest);
            last[rest.len()] = 0x80;
            last[padded_len - 8..padded_len].copy_from_slice(&bits.to_be_bytes());
            for chunk in more.iter().chain(chunks(&last[..padded_len]).0) {
                [*self] = compress([self.with(chunk)]);
            }
        }

        #[target_feature(enable = "sse2,sse4.1")]
        fn digest(&self) -> Digest32 {
            let (abef, cdgh) = (self.abef, self.cdgh);
            let words = [
                _mm_extract_epi32::<3>(abef),
                _mm_extract_epi32::<2>(abef),
                _mm_extract_epi32::<3>(cdgh),
                _mm_extract_epi32::<2>(cdgh),
                _mm_extract_epi32::<1>(abef),
                _mm_extract_epi32::<0>(abef),
                _mm_extract_epi32::<1>(cdgh),
                _mm_extract_epi32::<0>(cdgh),
            ];
            let mut digest = [0; 32];
            for (to, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                *to = word.to_be_bytes();
            }
            digest
        }
    }

    /// Four words of the schedule, each the other way round.
    #[inline]
    #[target_feature(enable = "ssse3")]
    fn swapped([low, high]: [[u8; 8]; 2]) -> __m128i {
        let bytes = _mm_set_epi64x(i64::from_le_bytes(high), i64::from_le_bytes(low));
        _mm_shuffle_epi8(bytes, _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203))
    }

    /// Takes in the chunk that each lane is with, a round of the one beside the same of the other.
    #[inline]
    #[target_feature(enable = "sha,sse2,ssse3")]
    fn compress<const N: usize>(mut lanes: [Lane; N]) -> [Lane; N] {
        macro_rules! rounds {
            ($($i:literal)*) => {
                $(for lane in &mut lanes {
                    lane.rounds::<$i>();
                }
                if $i < 12 {
                    for lane in &mut lanes {
                        lane.refill::<$i>();
                    }
                })*
            };
        }
        rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for lane in &mut lanes {
            let [abef, cdgh] = lane.before;
            lane.abef = _mm_add_epi32(lane.abef, abef);
            lane.cdgh = _mm_add_epi32(lane.cdgh, cdgh);
        }
        lanes
    }

    /// The constants of the rounds (FIPS 180-4, 4.2.2).
    #[rustfmt::skip]
    const K: [[u32; 4]; 16] = [
        [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5], [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
        [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3], [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc], [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
        [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7], [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13], [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
        [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3], [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5], [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
        [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208], [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the pair is the two digests, whatever the lengths. Method: the plain function beside it, for lengths around
    /// every edge of a chunk and of its padding, each against each.
    #[test]
    fn a_pair_is_two_digests() {
        let bytes: Vec<u8> = (0..=250).cycle().take(1 << 16).collect();
        let lens = [0, 1, 3, 54, 55, 56, 57, 63, 64, 65, 118, 119, 120, 127, 128, 129, 191, 192, 1000, 4096, 65_530];
        for first in lens {
            for second in lens {
                let (first, second) = (&bytes[..first], &bytes[5..5 + second]);
                assert_eq!(sha256_pair(first, second), [sha256(first), sha256(second)]);
            }
        }
    }
}
