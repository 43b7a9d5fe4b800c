//! A Bloom filter of 64-byte blocks: whether something may have been put in, in two bytes or less for each.
//!
//! What goes in is 64 bits that are spread evenly, such as a hash. All probes for one of them lie in one cache line,
//! which costs a little precision and saves a miss of the cache for each probe. Never forgets what was put in; takes
//! what was not for something that was once in 200 times at 12 bits each, once in 1400 at 16. It is also what the runs
//! of an index carry, so its layout is a format. Spec: spec/segments.md #run.

const BLOCK_LEN: usize = 64;
const PROBES: u32 = 7;

/// A set that may hold more than was put in, never less.
#[derive(Debug)]
pub(crate) struct Bloom(Vec<u8>);

impl Bloom {
    /// An empty filter with room for `count` items at so many bits each.
    pub(crate) fn for_count(count: u64, bits_per_item: u64) -> Self {
        let block_count = count.saturating_mul(bits_per_item).div_ceil(BLOCK_LEN as u64 * 8).max(1);
        Self(vec![0; usize::try_from(block_count).unwrap_or(1) * BLOCK_LEN])
    }

    /// The filter that [`Bloom::as_bytes`] gave; its length is a multiple of 64, and not 0.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        (!bytes.is_empty() && bytes.len().is_multiple_of(BLOCK_LEN)).then_some(Self(bytes))
    }

    /// The filter as it is written down.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn block_start(&self, print: u64) -> usize {
        let block_count = (self.0.len() / BLOCK_LEN) as u128;
        let block = (u128::from(print) * block_count) >> 64;
        usize::try_from(block).unwrap_or(0) * BLOCK_LEN
    }

    fn probes(print: u64) -> impl Iterator<Item = usize> {
        // The block was chosen by the high bits; the multiplication mixes the low ones into nine bits for each probe.
        let mixed = print.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..PROBES).map(move |n| usize::try_from((mixed >> (9 * n)) & 511).unwrap_or(0))
    }

    pub(crate) fn insert(&mut self, print: u64) {
        let start = self.block_start(print);
        for bit in Self::probes(print) {
            self.0[start + bit / 8] |= 1 << (bit % 8);
        }
    }

    pub(crate) fn may_hold(&self, print: u64) -> bool {
        let start = self.block_start(print);
        Self::probes(print).all(|bit| self.0[start + bit / 8] & 1 << (bit % 8) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fault::Dice;

    #[test]
    fn nothing_is_forgotten_and_few_strangers_pass() {
        for (bits_per_item, passed_max) in [(12, 600), (16, 120)] {
            let mut dice = Dice::new(bits_per_item);
            let prints: Vec<u64> = (0..20_000).map(|_| dice.bits()).collect();
            let mut bloom = Bloom::for_count(20_000, bits_per_item);
            for print in &prints {
                bloom.insert(*print);
            }
            let bloom = Bloom::from_bytes(bloom.as_bytes().to_vec()).expect("whole blocks");
            assert!(prints.iter().all(|print| bloom.may_hold(*print)));
            let passed = (0..80_000).filter(|_| bloom.may_hold(dice.bits())).count();
            assert!(passed < passed_max, "{passed} of 80000 strangers pass at {bits_per_item} bits");
        }
        assert!(Bloom::from_bytes(vec![0; 65]).is_none() && Bloom::from_bytes(Vec::new()).is_none());
    }
}
