//! Numbers as ranges: which packs count, told in a few bytes where few gaps are between them.

use std::collections::BTreeMap;

/// A set of numbers above 0, held as ranges that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// The last number of each range by its first.
    ranges: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds the numbers from `first` to `last`.
    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first, last.max(first));
        while let Some((&begin, &end)) = self.ranges.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.ranges.remove(&begin);
            (first, last) = (first.min(begin), last.max(end));
        }
        self.ranges.insert(first, last);
    }

    /// Takes a number out.
    pub(crate) fn remove(&mut self, number: u64) {
        let Some((&first, &last)) = self.ranges.range(..=number).next_back() else { return };
        if last < number {
            return;
        }
        self.ranges.remove(&first);
        if first < number {
            self.ranges.insert(first, number - 1);
        }
        if number < last {
            self.ranges.insert(number + 1, last);
        }
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// The ranges, ascending: first and last of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// The numbers, ascending.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.iter().flat_map(|(first, last)| first..=last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use muxfs::testing::fault::Dice;

    use super::*;

    /// It is what a plain set is, in as few ranges as there can be.
    #[test]
    fn it_is_a_set_of_numbers() {
        for seed in 0..200 {
            let (mut dice, mut ranges, mut set) = (Dice::new(seed), Ranges::default(), BTreeSet::new());
            for _ in 0..60 {
                let (first, run) = (1 + dice.roll(40) as u64, dice.roll(5) as u64);
                if dice.roll(3) == 0 {
                    ranges.remove(first);
                    set.remove(&first);
                } else {
                    ranges.insert(first, first + run);
                    set.extend(first..=first + run);
                }
                assert_eq!(ranges.numbers().collect::<BTreeSet<_>>(), set, "seed {seed}");
                let gaps = set.iter().filter(|number| !set.contains(&(*number + 1))).count();
                assert_eq!(ranges.iter().count(), gaps);
                assert!((1..50).all(|number| ranges.contains(number) == set.contains(&number)));
            }
        }
    }
}
