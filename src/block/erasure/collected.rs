//! The shards of one block as they come in, in any order and from anybody, until they give the block.
//!
//! Only shards of one stripe are combined, and what they give is the block only if its hash is the stripe's. If it is
//! not, those with a wrong checksum go; if none has one, some node gives data that were never written, and every choice
//! of k shards is tried, within bounds, until one gives the block. Pure: who is asked, and when, is decided in `read`.
//! Spec: spec/erasure.md, "Reading".

use std::{
    collections::{BTreeMap, BTreeSet},
    iter, mem,
};

use bytes::Bytes;
use tokio::task::yield_now;

use super::{
    code::StripeCode,
    read::What,
    shard::{Shard, Stripe},
};
use crate::Result;

/// So much is put together in vain, in bytes of blocks with what a try costs besides: of blocks of 1 MiB some 7,700
/// choices, and four lying nodes of twenty leave 4,845. Some seconds of a processor.
const SEARCH_LEN_MAX: u64 = 8 << 30;
/// What a try costs besides, as bytes of a block.
const TRY_LEN: u64 = 64 << 10;
/// So many choices are tried before others have their turn.
const STEP_COUNT: usize = 16;

/// What shards gave.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) stripe: Stripe,
    /// Empty where only headers were collected; perhaps other bytes where nobody was to look.
    pub(super) block: Bytes,
}

/// Shards that came in.
pub(super) struct Collected {
    piles: BTreeMap<Stripe, Pile>,
    /// Nodes that gave something that is no good shard.
    damaged: BTreeSet<usize>,
    what: What,
    /// Stripes of fewer data shards are set aside: one node alone can make up a stripe of one shard.
    data_count_min: u8,
    search: Option<Search>,
    search_len_left: u64,
}

/// Choices of shards that are still to be tried.
struct Search {
    stripe: Stripe,
    choices: Box<dyn Iterator<Item = Vec<usize>> + Send>,
}

/// Those of one stripe.
#[derive(Default)]
pub(super) struct Pile {
    /// Each with the node that gave it.
    shards: Vec<(usize, Shard)>,
    /// Whether k of them have not given the block: each that comes has its checksum looked at from then on.
    is_disputed: bool,
}

impl Collected {
    /// Makes an empty collection that is to give a block, or to tell whether there is one, at once if it is in so many data
    /// shards or more.
    pub(super) fn new(what: What, data_count_min: u8) -> Self {
        let (piles, damaged) = (BTreeMap::new(), BTreeSet::new());
        Self { piles, damaged, what, data_count_min, search: None, search_len_left: SEARCH_LEN_MAX }
    }

    /// Adds the shard of a node and gives the block if it can be had now; what it comes to otherwise is for `search` to say.
    pub(super) fn add(&mut self, node: usize, shard: Shard, code: &StripeCode) -> Result<Option<Found>> {
        let stripe = shard.header.stripe;
        let pile = self.piles.entry(stripe).or_default();
        if pile.is_disputed && !shard.is_sound() {
            self.damaged.insert(node);
            return Ok(None);
        }
        pile.shards.push((node, shard));
        if stripe.data_count < self.data_count_min {
            return Ok(None);
        }
        self.join(stripe, code)
    }

    /// Gives the block of a stripe that was set aside, when nobody is left to be asked: of the one that most nodes have
    /// a shard of, or of none.
    pub(super) fn last_resort(&mut self, code: &StripeCode) -> Result<Option<Found>> {
        let nearest = self.nearest().map(|(stripe, _)| *stripe);
        match nearest {
            Some(stripe) if stripe.data_count < self.data_count_min => self.join(stripe, code),
            _ => Ok(None),
        }
    }

    /// Puts the block of a stripe together, of whose shards all choices without the last were tried.
    fn join(&mut self, stripe: Stripe, code: &StripeCode) -> Result<Option<Found>> {
        let pile = self.piles.entry(stripe).or_default();
        if pile.index_count() < stripe.data_shards() {
            return Ok(None);
        }
        match self.what {
            What::Headers => return Ok(Some(Found { stripe, block: Bytes::new() })),
            What::UncheckedBlock => {
                let block = code.join_unchecked(&stripe, &pile.one_of_each(stripe.data_shards()))?;
                return Ok(block.map(|block| Found { stripe, block }));
            }
            What::Block => {}
        }
        let mut newest = pile.shards.len().checked_sub(1);
        if !pile.is_disputed {
            if let Some(block) = code.join(&stripe, &pile.one_of_each(stripe.data_shards()))? {
                return Ok(Some(Found { stripe, block }));
            }
            pile.is_disputed = true;
            let (sound, damaged): (Vec<_>, Vec<_>) =
                mem::take(&mut pile.shards).into_iter().partition(|(_, shard)| shard.is_sound());
            self.damaged.extend(damaged.iter().map(|(node, _)| *node));
            pile.shards = sound;
            newest = None;
        }
        let choices = Box::new(choices(pile.shards.len(), stripe.data_shards(), newest));
        self.search = Some(Search { stripe, choices });
        self.search(code)
    }

    /// Whether there are choices of shards that were not tried yet.
    pub(super) fn is_searching(&self) -> bool {
        self.search.is_some()
    }

    /// Tries some of the choices that are left.
    pub(super) fn search(&mut self, code: &StripeCode) -> Result<Option<Found>> {
        let Some(Search { stripe, mut choices }) = self.search.take() else { return Ok(None) };
        let Some(pile) = self.piles.get(&stripe) else { return Ok(None) };
        for _ in 0..STEP_COUNT {
            let Some(choice) = choices.next() else { return Ok(None) };
            let Some(left) = self.search_len_left.checked_sub(TRY_LEN + u64::from(stripe.block_len)) else {
                return Ok(None);
            };
            self.search_len_left = left;
            if let Some(shards) = pile.chosen(&choice)
                && let Some(block) = code.join(&stripe, &shards)?
            {
                return Ok(Some(Found { stripe, block }));
            }
        }
        self.search = Some(Search { stripe, choices });
        Ok(None)
    }

    /// Goes on with a search to its end, if nothing was found yet, and lets others run in between.
    pub(super) async fn search_all(&mut self, mut found: Option<Found>, code: &StripeCode) -> Result<Option<Found>> {
        while found.is_none() && self.is_searching() {
            yield_now().await;
            found = self.search(code)?;
        }
        Ok(found)
    }

    /// Notes that a node gave something that is no good shard.
    pub(super) fn add_damaged(&mut self, node: usize) {
        self.damaged.insert(node);
    }

    /// How many more shards may give the block, at least 1.
    pub(super) fn wanted(&self) -> usize {
        let piles = self.piles.iter().filter(|(stripe, _)| stripe.data_count >= self.data_count_min);
        let lacking = piles.map(|(stripe, pile)| stripe.data_shards().saturating_sub(pile.index_count()));
        lacking.min().unwrap_or(self.data_count_min.into()).max(1)
    }

    /// The stripe that there are the most shards of.
    pub(super) fn nearest(&self) -> Option<(&Stripe, &Pile)> {
        self.piles.iter().max_by_key(|(_, pile)| pile.index_count())
    }

    /// The nodes that gave something that is no good shard.
    pub(super) fn damaged(&self) -> &BTreeSet<usize> {
        &self.damaged
    }
}

impl Pile {
    /// How many different shards there are.
    pub(super) fn index_count(&self) -> usize {
        self.shards.iter().map(|(_, shard)| shard.header.index).collect::<BTreeSet<_>>().len()
    }

    /// The nodes that have them.
    pub(super) fn nodes(&self) -> BTreeSet<usize> {
        self.shards.iter().map(|(node, _)| *node).collect()
    }

    /// The first that came of each index, as many as it takes.
    fn one_of_each(&self, count: usize) -> Vec<&Shard> {
        let mut indexes = BTreeSet::new();
        let all = self.shards.iter().map(|(_, shard)| shard);
        all.filter(|shard| indexes.insert(shard.header.index)).take(count).collect()
    }

    /// The shards of a choice, unless two of them have one index.
    fn chosen(&self, choice: &[usize]) -> Option<Vec<&Shard>> {
        let mut indexes = BTreeSet::new();
        let shards = choice.iter().map(|at| &self.shards[*at].1);
        shards.map(|shard| indexes.insert(shard.header.index).then_some(shard)).collect()
    }
}

/// Every choice of `size` of the numbers below `count`; where there is a newest, the last of them, each with that.
fn choices(count: usize, size: usize, newest: Option<usize>) -> impl Iterator<Item = Vec<usize>> {
    let (count, size) = if newest.is_some() { (count - 1, size - 1) } else { (count, size) };
    let first = (size <= count).then(|| (0..size).collect::<Vec<_>>());
    let all = iter::successors(first, move |last| {
        let at = (0..size).rev().find(|at| last[*at] < count - size + at)?;
        let (kept, next) = (&last[..at], last[at] + 1);
        Some(kept.iter().copied().chain(next..next + size - at).collect())
    });
    all.map(move |choice| choice.into_iter().chain(newest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_all_there_are() {
        for (count, size, choices_count) in [(5, 3, 10), (3, 3, 1), (2, 3, 0), (4, 1, 4), (20, 16, 4845)] {
            let all: BTreeSet<_> = choices(count, size, None).collect();
            assert_eq!(all.len(), choices_count, "{size} of {count}");
            assert_eq!(choices(count, size, None).count(), choices_count, "none comes twice");
            let newest = count - 1;
            let with_newest: BTreeSet<_> = all.into_iter().filter(|choice| choice.contains(&newest)).collect();
            assert_eq!(choices(count, size, Some(newest)).collect::<BTreeSet<_>>(), with_newest);
        }
    }
}
