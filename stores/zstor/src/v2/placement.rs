//! On which backends the shards of a file go.
//!
//! zstor v2 asks of a choice that the file survives the loss of `redundant_groups` groups and of `redundant_nodes` backends
//! in each of the others. It lists all choices, which are exponentially many, and draws one. Whether there is any is
//! decided here by far fewer: of so many groups, the largest with as even a number of shards in each as they have room for
//! lose the least with their fullest, so where those do not do, none do.

use std::cmp::Reverse;

/// How files are cut, and what they have to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// k: so many shards give a file back.
    pub data_shards: usize,
    /// k + m: so many there are.
    pub shards: usize,
    /// So many whole groups may be lost.
    pub redundant_groups: usize,
    /// So many backends of each other group that is used may be lost as well.
    pub redundant_nodes: usize,
}

impl Rules {
    /// Returns how many shards go to each of the groups, given how many backends those have; `None` where no choice does.
    /// `roll` draws a number below the one that it is given.
    pub(super) fn place(&self, sizes: &[usize], mut roll: impl FnMut(usize) -> usize) -> Option<Vec<usize>> {
        let mut order: Vec<usize> =
            (0..sizes.len()).filter(|group| sizes[*group] >= self.redundant_nodes.max(1)).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, roll(last + 1));
        }
        order.sort_by_key(|group| Reverse(sizes[*group]));
        let parity = self.shards.saturating_sub(self.data_shards);
        let count_max = match parity.checked_div(self.redundant_nodes) {
            Some(count) => count.saturating_add(self.redundant_groups).min(order.len()),
            None => order.len(),
        };
        let mut choices: Vec<Vec<usize>> = (self.redundant_groups.saturating_add(1)..=count_max)
            .filter_map(|count| self.spread(sizes, &order[..count]))
            .collect();
        if choices.is_empty() {
            return None;
        }
        let chosen = roll(choices.len());
        Some(choices.swap_remove(chosen))
    }

    /// As evenly over these groups as they have room; `None` where that is not enough of what is left after the losses.
    fn spread(&self, sizes: &[usize], groups: &[usize]) -> Option<Vec<usize>> {
        let mut counts = vec![0; sizes.len()];
        for _ in 0..self.shards {
            let emptiest =
                groups.iter().filter(|group| counts[**group] < sizes[**group]).min_by_key(|group| counts[**group])?;
            counts[*emptiest] += 1;
        }
        let mut used: Vec<usize> = groups.iter().map(|group| counts[*group]).collect();
        used.sort_unstable_by_key(|count| Reverse(*count));
        let left = used.iter().map(|count| count.checked_sub(self.redundant_nodes)).collect::<Option<Vec<_>>>()?;
        let left: usize = left.iter().skip(self.redundant_groups).sum();
        (left >= self.data_shards).then_some(counts)
    }
}

#[cfg(test)]
mod tests {
    use muxfs::testing::fault::Dice;

    use super::*;

    /// Whether any choice of shards in groups does, by trying all of them.
    fn any_does(rules: &Rules, sizes: &[usize]) -> bool {
        fn try_all(rules: &Rules, sizes: &[usize], counts: &mut Vec<usize>, left: usize) -> bool {
            let Some(size) = sizes.get(counts.len()) else {
                let mut used: Vec<usize> = counts.iter().copied().filter(|count| *count > 0).collect();
                used.sort_unstable_by_key(|count| Reverse(*count));
                let parity = rules.shards - rules.data_shards;
                let is_few =
                    rules.redundant_nodes == 0 || used.len() <= parity / rules.redundant_nodes + rules.redundant_groups;
                let survives = used.iter().all(|count| *count >= rules.redundant_nodes)
                    && used
                        .iter()
                        .skip(rules.redundant_groups)
                        .map(|count| count - rules.redundant_nodes)
                        .sum::<usize>()
                        >= rules.data_shards;
                return left == 0 && is_few && survives && used.len() > rules.redundant_groups;
            };
            (0..=left.min(*size)).any(|count| {
                counts.push(count);
                let does = try_all(rules, sizes, counts, left - count);
                counts.pop();
                does
            })
        }
        try_all(rules, sizes, &mut Vec::new(), rules.shards)
    }

    #[test]
    fn it_finds_a_choice_wherever_there_is_one() {
        let mut dice = Dice::new(11);
        let (mut placed_count, mut refused_count) = (0, 0);
        for _ in 0..3000 {
            let data_shards = 1 + dice.roll(5);
            let rules = Rules {
                data_shards,
                shards: data_shards + 1 + dice.roll(5),
                redundant_groups: dice.roll(3),
                redundant_nodes: dice.roll(3),
            };
            let sizes: Vec<usize> = (0..=dice.roll(5)).map(|_| dice.roll(5)).collect();
            let placed = rules.place(&sizes, |below| dice.roll(below));
            assert_eq!(placed.is_some(), any_does(&rules, &sizes), "{rules:?} over {sizes:?}");
            let Some(counts) = placed else {
                refused_count += 1;
                continue;
            };
            placed_count += 1;
            assert_eq!(counts.iter().sum::<usize>(), rules.shards);
            assert!(counts.iter().zip(&sizes).all(|(count, size)| count <= size));
        }
        assert!(placed_count > 300 && refused_count > 300, "{placed_count} {refused_count}");
    }

    /// zstor v2 lists some 10^60 choices here.
    #[test]
    fn many_groups_take_no_time() {
        let rules = Rules { data_shards: 64, shards: 128, redundant_groups: 3, redundant_nodes: 1 };
        let counts = rules.place(&[9; 60], |below| below - 1).expect("there is room");
        assert_eq!(counts.iter().sum::<usize>(), 128);
    }
}
