//! Where a block is cut into pieces: where its bytes say so, so that pieces come again though what is around them changed.
//!
//! `FastCDC` with a table of the vault's own: who has not the key cannot tell where bytes that he knows are cut, nor make bytes
//! that are cut badly. After the shortest length a place is a cut where a rolling hash of the 64 bytes before it has some
//! high bits clear, more of them before the length that is aimed at than behind it. Spec: spec/vault.md #pieces.

use std::ops::Range;

use zeroize::Zeroize as _;

/// So many bytes tell whether there is a cut behind them.
const WINDOW_LEN: usize = 64;
/// How many bits more are to be clear before the length that is aimed at, and how many less behind it.
const NORMAL_BITS: u32 = 2;
/// Pieces of larger packs are not longer than those of packs of 1 MiB, in bytes.
const PIECE_LEN_MAX: usize = 256 << 10;

/// How long pieces are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceLens {
    pub(crate) min: usize,
    pub(crate) aim: usize,
    pub(crate) max: usize,
}

impl PieceLens {
    /// Those of a vault of such packs: a power of two.
    pub(crate) fn of_packs(pack_len: u32) -> Self {
        let max = (pack_len as usize / 4).min(PIECE_LEN_MAX);
        Self { min: max / 16, aim: max / 4, max }
    }
}

/// Cuts blocks.
pub(crate) struct Cutter {
    gear: Box<[u64; 256]>,
    lens: PieceLens,
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.gear.zeroize();
    }
}

impl Cutter {
    pub(crate) fn new(gear: Box<[u64; 256]>, lens: PieceLens) -> Self {
        Self { gear, lens }
    }

    /// The pieces of a block, one behind the other; none of an empty one.
    pub(crate) fn cut<'a>(&'a self, block: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = block.get(at..).filter(|rest| !rest.is_empty())?;
            let range = at..at + self.first(rest);
            at = range.end;
            Some(range)
        })
    }

    /// How long the first piece of some bytes is.
    fn first(&self, bytes: &[u8]) -> usize {
        let PieceLens { min, aim, max } = self.lens;
        if bytes.len() <= min {
            return bytes.len();
        }
        let bits = aim.ilog2();
        let (before, behind) = (u64::MAX << (64 - bits - NORMAL_BITS), u64::MAX << (64 - bits + NORMAL_BITS));
        let (end, aim) = (bytes.len().min(max), bytes.len().min(aim));
        let roll = |hash: u64, byte: &u8| (hash << 1).wrapping_add(self.gear[usize::from(*byte)]);
        let mut hash = bytes[min - WINDOW_LEN..min].iter().fold(0, roll);
        for (part, mask) in [(min..aim, before), (aim..end, behind)] {
            for (at, byte) in part.clone().zip(&bytes[part]) {
                if hash & mask == 0 {
                    return at;
                }
                hash = roll(hash, byte);
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use muxfs::testing::fault::Dice;
    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;

    fn cutter(key: u8, pack_len: u32) -> Cutter {
        let seed = Secret::new(&[key; 32]);
        Cutter::new(seed.gear(), PieceLens::of_packs(pack_len))
    }

    fn check(cutter: &Cutter, block: &[u8]) -> Vec<Range<usize>> {
        let pieces: Vec<_> = cutter.cut(block).collect();
        let PieceLens { min, max, .. } = cutter.lens;
        let mut at = 0;
        for (n, piece) in pieces.iter().enumerate() {
            assert_eq!(piece.start, at, "one behind the other");
            let is_last = n + 1 == pieces.len();
            assert!(piece.len() <= max && (is_last || piece.len() >= min) && !piece.is_empty(), "{piece:?}");
            at = piece.end;
        }
        assert_eq!(at, block.len(), "all of it");
        pieces
    }

    #[test]
    fn lengths_follow_from_packs() {
        let lens = |pack_len| PieceLens::of_packs(pack_len);
        assert_eq!(lens(64 << 10), PieceLens { min: 1 << 10, aim: 4 << 10, max: 16 << 10 });
        assert_eq!(lens(1 << 20), PieceLens { min: 16 << 10, aim: 64 << 10, max: 256 << 10 });
        assert_eq!(lens(4 << 20), lens(1 << 20));
    }

    #[test]
    fn any_bytes_are_cut_within_bounds() {
        let cutter = cutter(1, 64 << 10);
        for block in
            [vec![], vec![0; 1], vec![0; 1 << 10], vec![0; (1 << 10) + 1], vec![0; 300_000], vec![0xff; 99_999]]
        {
            check(&cutter, &block);
        }
        let text: Vec<u8> = b"all work and no play ".iter().copied().cycle().take(500_000).collect();
        check(&cutter, &text);
    }

    #[test]
    fn random_bytes_are_cut_about_as_long_as_is_aimed_at() {
        let (cutter, block) = (cutter(1, 1 << 20), Dice::new(7).bytes(32 << 20));
        let pieces = check(&cutter, &block);
        let mean = block.len() / pieces.len();
        assert!((48 << 10..112 << 10).contains(&mean), "{mean} bytes is the mean");
        let at_max = pieces.iter().filter(|piece| piece.len() == cutter.lens.max).count();
        assert!(at_max * 50 < pieces.len(), "{at_max} of {} were cut by force", pieces.len());
    }

    #[test]
    fn another_key_cuts_elsewhere() {
        let block = Dice::new(3).bytes(1 << 20);
        let cuts = |key| cutter(key, 64 << 10).cut(&block).map(|piece| piece.end).collect::<HashSet<_>>();
        let (one, other) = (cuts(1), cuts(2));
        assert_eq!(one, cuts(1), "the same key cuts in the same places");
        let both = one.intersection(&other).count();
        assert!(both * 20 < one.len(), "{both} of {} cuts are the same", one.len());
    }

    proptest! {
        /// What is put in changes the pieces around it, three mostly, and seldom many: then cuts are where they were.
        #[test]
        fn most_pieces_come_again_though_bytes_are_shifted(seed: u64, at in 0_usize..1_000_000, len in 1_usize..3000) {
            let cutter = cutter(1, 64 << 10);
            let block = Dice::new(seed).bytes(1_000_000);
            let mut other = block.clone();
            other.splice(at..at, Dice::new(!seed).bytes(len));
            let pieces: HashSet<&[u8]> = check(&cutter, &block).into_iter().map(|piece| &block[piece]).collect();
            let news = check(&cutter, &other).into_iter().filter(|piece| !pieces.contains(&other[piece.clone()])).count();
            prop_assert!(news * 5 <= pieces.len(), "{news} of {} pieces are new", pieces.len());
        }

        #[test]
        fn any_length_is_cut_within_bounds(seed: u64, len in 0_usize..100_000, symbols in 1_u8..5) {
            let block: Vec<u8> = Dice::new(seed).bytes(len).into_iter().map(|byte| byte % symbols).collect();
            check(&cutter(9, 64 << 10), &block);
        }
    }
}
