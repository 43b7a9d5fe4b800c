//! A Bloom filter that grows: nobody knows how many blocks there are before they have been counted.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{BlockKey, bloom::Bloom};

/// At 16 bits for a key even ten parts together pass less than one stranger in a hundred.
const BITS_PER_KEY: u64 = 16;
/// How many keys the first part has room for: 8 KiB.
const PART_COUNT_MIN: u64 = 1 << 12;
/// How many keys a part has room for at most: 8 MiB. Larger ones would waste more room than they save look-ups.
const PART_COUNT_MAX: u64 = 1 << 22;

/// A set of keys that may hold more than were put in, never less, in two to four bytes for each.
#[derive(Debug)]
pub(super) struct KeyFilter {
    /// Makes what is taken for a key that was put in differ from filter to filter.
    seed: u64,
    /// Each twice as large as the one before, up to [`PART_COUNT_MAX`].
    parts: Vec<Bloom>,
    /// How many keys the last part has room for.
    room: u64,
    part_count: u64,
    count: u64,
}

impl KeyFilter {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, parts: Vec::new(), room: 0, part_count: PART_COUNT_MIN, count: 0 }
    }

    /// How many keys were put in, those not counted that seemed to be there.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn insert(&mut self, key: &BlockKey) {
        let print = self.print(key);
        if self.holds(print) {
            return;
        }
        if self.room == 0 {
            self.parts.push(Bloom::for_count(self.part_count, BITS_PER_KEY));
            self.room = self.part_count;
            self.part_count = PART_COUNT_MAX.min(2 * self.part_count);
        }
        if let Some(last) = self.parts.last_mut() {
            last.insert(print);
        }
        self.room -= 1;
        self.count += 1;
    }

    pub(super) fn may_hold(&self, key: &BlockKey) -> bool {
        self.holds(self.print(key))
    }

    /// How many bytes of memory it takes.
    #[cfg(test)]
    pub(super) fn memory_len(&self) -> usize {
        self.parts.iter().map(|part| part.as_bytes().len()).sum()
    }

    fn holds(&self, print: u64) -> bool {
        self.parts.iter().rev().any(|part| part.may_hold(print))
    }

    fn print(&self, key: &BlockKey) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, key).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> BlockKey {
        BlockKey::new(&n.to_le_bytes()).expect("a key")
    }

    #[test]
    fn it_grows_and_takes_few_strangers_and_others_with_another_seed() {
        let strangers = |seed| {
            let mut filter = KeyFilter::new(seed);
            for n in (0..100_000).chain(0..100_000) {
                filter.insert(&key(n));
            }
            assert!((0..100_000).all(|n| filter.may_hold(&key(n))));
            assert!(filter.count() > 99_000, "{}", filter.count());
            assert_eq!(filter.parts.len(), 5, "one that is there needs no room");
            (100_000..200_000).filter(|n| filter.may_hold(&key(*n))).collect::<Vec<_>>()
        };
        let (some, others) = (strangers(1), strangers(2));
        assert!(some.len() < 700 && others.len() < 700, "{} {}", some.len(), others.len());
        assert!(some.iter().filter(|n| others.contains(n)).count() < 20, "a new seed lets other strangers pass");
    }
}
