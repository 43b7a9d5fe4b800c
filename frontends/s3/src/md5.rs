//! MD5, of one run of bytes or of several in step.
//!
//! Each step of an MD5 waits for the one before, so a core that hashes one run mostly waits. Where several come at once,
//! eight go in step, where registers hold eight words: each word of the state is that of eight runs, side by side. RFC 1321.

#![allow(clippy::inline_always, reason = "what is not inlined is not compiled for the registers of who calls it")]

use std::array::from_fn;

/// So many runs are hashed in step.
pub(crate) const LANE_COUNT: usize = 8;
/// The length of a block, in bytes.
const BLOCK_LEN: usize = 64;

type State = [u32; 4];
type Block = [u8; BLOCK_LEN];
/// A word of each of those in step.
type Lanes = [u32; LANE_COUNT];

const BEGIN: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
/// The sines of 1 to 64 radians without their sign, times 2^32.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// An MD5 under way.
#[derive(Debug, Clone)]
pub(crate) struct Md5 {
    state: State,
    /// What is no whole block yet.
    rest: Block,
    /// All bytes so far.
    len: u64,
}

impl Md5 {
    pub(crate) fn new() -> Self {
        Self { state: BEGIN, rest: [0; BLOCK_LEN], len: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        Self::update_all(&mut [(self, bytes)]);
    }

    /// Goes on with several at once, each with bytes of its own.
    pub(crate) fn update_all(all: &mut [(&mut Self, &[u8])]) {
        let mut runs: Vec<_> = all.iter_mut().map(|(md5, bytes)| md5.begin(bytes)).collect();
        loop {
            runs.retain(|(_, blocks)| !blocks.is_empty());
            match &mut runs[..] {
                [] => break,
                [(state, blocks)] => {
                    one(state, blocks);
                    *blocks = &[];
                }
                several => in_step(several),
            }
        }
    }

    /// Takes bytes until a block is whole; the whole blocks that follow, and what has to take them. What comes behind them is kept.
    fn begin<'a>(&'a mut self, bytes: &'a [u8]) -> (&'a mut State, &'a [Block]) {
        let held = self.held();
        self.len += bytes.len() as u64;
        let (first, bytes) = bytes.split_at(bytes.len().min((BLOCK_LEN - held) % BLOCK_LEN));
        self.rest[held..held + first.len()].copy_from_slice(first);
        if held > 0 && held + first.len() == BLOCK_LEN {
            let block = self.rest;
            one(&mut self.state, &[block]);
        }
        let (blocks, rest) = bytes.as_chunks();
        if !bytes.is_empty() {
            self.rest[..rest.len()].copy_from_slice(rest);
        }
        (&mut self.state, blocks)
    }

    /// How much there is of a block that is not whole, in bytes.
    fn held(&self) -> usize {
        usize::try_from(self.len % BLOCK_LEN as u64).unwrap_or_default()
    }

    pub(crate) fn finish(mut self) -> [u8; 16] {
        let bits = self.len.wrapping_mul(8).to_le_bytes();
        let zeros = (2 * BLOCK_LEN - 9 - self.held()) % BLOCK_LEN;
        let mut end = vec![0x80];
        end.resize(1 + zeros, 0);
        end.extend(bits);
        self.update(&end);
        let mut told = [0; 16];
        for (to, word) in told.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *to = word.to_le_bytes();
        }
        told
    }
}

/// A word of one run, or of several side by side.
trait Word: Copy {
    fn splat(word: u32) -> Self;
    fn plus(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    /// The bits of `other` where this one has none.
    fn not_and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    /// Turned to the left by so many bits; `REST` is what is left of 32.
    fn turn<const BITS: i32, const REST: i32>(self) -> Self;
}

impl Word for u32 {
    #[inline(always)]
    fn splat(word: u32) -> Self {
        word
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self & other
    }
    #[inline(always)]
    fn not_and(self, other: Self) -> Self {
        !self & other
    }
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self | other
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }
    #[inline(always)]
    fn turn<const BITS: i32, const REST: i32>(self) -> Self {
        self << BITS | self >> REST
    }
}

#[inline(always)]
fn mix_f<W: Word>(b: W, c: W, d: W) -> W {
    d.xor(b.and(c.xor(d)))
}

#[inline(always)]
fn mix_g<W: Word>(b: W, c: W, d: W) -> W {
    // No bit is in both: their sum waits less for `b` than what is the same otherwise.
    d.not_and(c).plus(d.and(b))
}

#[inline(always)]
fn mix_h<W: Word>(b: W, c: W, d: W) -> W {
    b.xor(c.xor(d))
}

#[inline(always)]
fn mix_i<W: Word>(b: W, c: W, d: W) -> W {
    c.xor(b.or(d.xor(W::splat(u32::MAX))))
}

#[inline(always)]
fn step<W: Word, const BITS: i32, const REST: i32>(mixed: W, a: W, b: W, word: W, sine: u32) -> W {
    a.plus(word.plus(W::splat(sine))).plus(mixed).turn::<BITS, REST>().plus(b)
}

/// Takes one block into a state.
#[inline(always)]
fn compress<W: Word>([a0, b0, c0, d0]: [W; 4], words: [W; 16]) -> [W; 4] {
    let (mut a, mut b, mut c, mut d) = (a0, b0, c0, d0);
    macro_rules! four {
        ($mix:ident, $at:literal, [$w0:literal, $w1:literal, $w2:literal, $w3:literal],
            [$s0:literal $r0:literal, $s1:literal $r1:literal, $s2:literal $r2:literal, $s3:literal $r3:literal]) => {
            a = step::<W, $s0, $r0>($mix(b, c, d), a, b, words[$w0], SINES[$at]);
            d = step::<W, $s1, $r1>($mix(a, b, c), d, a, words[$w1], SINES[$at + 1]);
            c = step::<W, $s2, $r2>($mix(d, a, b), c, d, words[$w2], SINES[$at + 2]);
            b = step::<W, $s3, $r3>($mix(c, d, a), b, c, words[$w3], SINES[$at + 3]);
        };
    }
    four!(mix_f, 0, [0, 1, 2, 3], [7 25, 12 20, 17 15, 22 10]);
    four!(mix_f, 4, [4, 5, 6, 7], [7 25, 12 20, 17 15, 22 10]);
    four!(mix_f, 8, [8, 9, 10, 11], [7 25, 12 20, 17 15, 22 10]);
    four!(mix_f, 12, [12, 13, 14, 15], [7 25, 12 20, 17 15, 22 10]);
    four!(mix_g, 16, [1, 6, 11, 0], [5 27, 9 23, 14 18, 20 12]);
    four!(mix_g, 20, [5, 10, 15, 4], [5 27, 9 23, 14 18, 20 12]);
    four!(mix_g, 24, [9, 14, 3, 8], [5 27, 9 23, 14 18, 20 12]);
    four!(mix_g, 28, [13, 2, 7, 12], [5 27, 9 23, 14 18, 20 12]);
    four!(mix_h, 32, [5, 8, 11, 14], [4 28, 11 21, 16 16, 23 9]);
    four!(mix_h, 36, [1, 4, 7, 10], [4 28, 11 21, 16 16, 23 9]);
    four!(mix_h, 40, [13, 0, 3, 6], [4 28, 11 21, 16 16, 23 9]);
    four!(mix_h, 44, [9, 12, 15, 2], [4 28, 11 21, 16 16, 23 9]);
    four!(mix_i, 48, [0, 7, 14, 5], [6 26, 10 22, 15 17, 21 11]);
    four!(mix_i, 52, [12, 3, 10, 1], [6 26, 10 22, 15 17, 21 11]);
    four!(mix_i, 56, [8, 15, 6, 13], [6 26, 10 22, 15 17, 21 11]);
    four!(mix_i, 60, [4, 11, 2, 9], [6 26, 10 22, 15 17, 21 11]);
    [a0.plus(a), b0.plus(b), c0.plus(c), d0.plus(d)]
}

#[inline(always)]
fn word(block: &Block, index: usize) -> u32 {
    let (words, _) = block.as_chunks();
    u32::from_le_bytes(words[index])
}

fn one(state: &mut State, blocks: &[Block]) {
    for block in blocks {
        *state = compress(*state, from_fn(|index| word(block, index)));
    }
}

impl Word for Lanes {
    #[inline(always)]
    fn splat(word: u32) -> Self {
        [word; LANE_COUNT]
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        from_fn(|lane| self[lane].wrapping_add(other[lane]))
    }
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        from_fn(|lane| self[lane] & other[lane])
    }
    #[inline(always)]
    fn not_and(self, other: Self) -> Self {
        from_fn(|lane| !self[lane] & other[lane])
    }
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        from_fn(|lane| self[lane] | other[lane])
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        from_fn(|lane| self[lane] ^ other[lane])
    }
    #[inline(always)]
    fn turn<const BITS: i32, const REST: i32>(self) -> Self {
        from_fn(|lane| self[lane] << BITS | self[lane] >> REST)
    }
}

/// Takes as many blocks of each of several as the shortest of those in step has.
fn in_step(runs: &mut [(&mut State, &[Block])]) {
    let end = runs.len().min(LANE_COUNT);
    let runs = &mut runs[..end];
    let count = runs.iter().map(|(_, blocks)| blocks.len()).min().unwrap_or_default();
    // Where there are fewer the first one fills up: what comes of that is nobody's.
    let lanes: [_; LANE_COUNT] = from_fn(|lane| if lane < end { lane } else { 0 });
    let mut state = from_fn(|word| lanes.map(|lane| runs[lane].0[word]));
    let is_taken = take(&mut state, lanes.map(|lane| &runs[lane].1[..count]));
    for (lane, (own, blocks)) in runs.iter_mut().enumerate() {
        let (taken, left) = blocks.split_at(count);
        if is_taken {
            **own = state.map(|words| words[lane]);
        } else {
            one(own, taken);
        }
        *blocks = left;
    }
}

/// Whether this machine takes blocks in step; else nothing is done.
#[cfg(target_arch = "x86_64")]
fn take(state: &mut [Lanes; 4], runs: [&[Block]; LANE_COUNT]) -> bool {
    let able = std::arch::is_x86_feature_detected!("avx2");
    if able {
        #[expect(unsafe_code, reason = "the one way to call code for features that are found at run time")]
        // SAFETY: the features that it is compiled for are there.
        unsafe {
            wide(state, runs);
        }
    }
    able
}

#[cfg(not(target_arch = "x86_64"))]
fn take(_: &mut [Lanes; 4], _: [&[Block]; LANE_COUNT]) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn wide(state: &mut [Lanes; 4], runs: [&[Block]; LANE_COUNT]) {
    // By itself the compiler finds that eight words are a register, in a function that has nothing else.
    #[target_feature(enable = "avx2")]
    #[inline(never)]
    fn block(state: &mut [Lanes; 4], words: &[Lanes; 16]) {
        *state = compress(*state, *words);
    }
    let mut words = [[0; LANE_COUNT]; 16];
    for at in 0..runs[0].len() {
        for (lane, blocks) in runs.iter().enumerate() {
            for (index, words) in words.iter_mut().enumerate() {
                words[lane] = word(&blocks[at], index);
            }
        }
        block(state, &words);
    }
}

#[cfg(test)]
mod tests {
    use s3s::crypto::Checksum as _;

    use super::*;

    fn bytes(seed: u8, len: usize) -> Vec<u8> {
        let mut next = u32::from(seed) + 1;
        let draw = |_| {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            next.to_be_bytes()[0]
        };
        (0..len).map(draw).collect()
    }

    /// Held against another one, for every length around the ends of blocks, and cut everywhere.
    #[test]
    fn it_is_the_md5_of_all_others() {
        for len in (0..200).chain([1000, 65_537]) {
            let all = bytes(1, len);
            for cut in [0, 1, len / 3, len.saturating_sub(64), len] {
                let mut md5 = Md5::new();
                let (first, second) = all.split_at(cut.min(len));
                md5.update(first);
                md5.update(second);
                assert_eq!(md5.finish(), s3s::crypto::Md5::checksum(&all), "{len} cut at {cut}");
            }
        }
    }

    /// However many go in step, of whatever lengths, each with something before.
    #[test]
    fn in_step_each_is_itself() {
        for count in 0..20_u8 {
            let runs: Vec<_> = (0..count)
                .map(|seed| {
                    let seed_len = usize::from(seed);
                    (bytes(seed, seed_len * 7 % 130), bytes(seed ^ 0x55, 64 * (seed_len * 5 % 11) + seed_len % 3 * 31))
                })
                .collect();
            let mut hashing: Vec<_> = runs.iter().map(|_| Md5::new()).collect();
            for pick in [|run: &(Vec<u8>, Vec<u8>)| run.0.clone(), |run: &(Vec<u8>, Vec<u8>)| run.1.clone()] {
                let pieces: Vec<_> = runs.iter().map(pick).collect();
                let mut all: Vec<_> = hashing.iter_mut().zip(pieces.iter().map(Vec::as_slice)).collect();
                Md5::update_all(&mut all);
            }
            for (md5, (first, second)) in hashing.into_iter().zip(&runs) {
                let expected = s3s::crypto::Md5::checksum(&[first.as_slice(), second].concat());
                assert_eq!(md5.finish(), expected, "of {count}: {} and {}", first.len(), second.len());
            }
        }
    }
}
