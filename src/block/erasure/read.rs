//! Reading: whom to ask, and what it means when too few answer.
//!
//! As many nodes are asked at once as shards are lacking, those first where the shards belong, data before parity; every
//! answer that is no good has another node asked. That goes on over all nodes, so shards are found wherever they are.

use std::collections::VecDeque;

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    Inner, SLOT_COUNT,
    collected::{Collected, Found},
    shard::{Flaw, SHARD_HEADER_LEN, Shard},
    slot_keys,
};
use crate::{BlockKey, Error, ErrorKind, Result};

/// What a node has in a slot.
#[derive(Debug)]
pub(super) enum Answer {
    Nothing,
    /// Something that is no good shard.
    Damaged,
    Shard(Shard),
    /// It does not say.
    Failed(Error),
}

/// What came of asking.
enum Gathered {
    Found(Found),
    Absent,
    /// Too few shards; whether there were any.
    Short(Error, bool),
}

impl Inner {
    /// Reads a block, or only what the headers of its shards say; `None` where it is known to be absent.
    ///
    /// # Errors
    /// `Unavailable` while nodes that fail may have what is lacking; `Corrupt` where they cannot.
    pub(super) async fn read(&self, key: &BlockKey, is_headers: bool) -> Result<Option<Found>> {
        let Some(keys) = slot_keys(key) else { return Ok(None) };
        let gathered = match self.gather(key, &keys, is_headers).await? {
            // Perhaps a put or a delete is half way: that one ends first, and there is none in the second look.
            Gathered::Short(_, true) => {
                let _guard = self.lock(key).await;
                self.gather(key, &keys, is_headers).await?
            }
            gathered => gathered,
        };
        match gathered {
            Gathered::Found(found) => Ok(Some(found)),
            Gathered::Absent => Ok(None),
            Gathered::Short(error, _) => Err(error),
        }
    }

    async fn gather(&self, key: &BlockKey, keys: &[BlockKey; SLOT_COUNT], is_headers: bool) -> Result<Gathered> {
        let (data_count, _) = self.code.counts();
        let order = self.placement.order(key);
        let mut waiting: VecDeque<_> = order.iter().map(|node| (*node, 0)).collect();
        let mut asked = FuturesUnordered::new();
        let mut collected =
            if is_headers { Collected::of_headers(data_count) } else { Collected::of_blocks(data_count) };
        let mut failed = Vec::new();
        loop {
            while asked.len() < collected.wanted()
                && let Some((node, slot)) = waiting.pop_front()
            {
                asked.push(self.ask_from(node, slot, keys, is_headers));
            }
            let Some((node, slot, answer)) = asked.next().await else { break };
            if slot + 1 < SLOT_COUNT && !matches!(answer, Answer::Failed(_)) {
                waiting.push_back((node, slot + 1));
            }
            match answer {
                Answer::Nothing => {}
                Answer::Damaged => collected.add_damaged(node),
                Answer::Failed(error) => failed.push((node, error)),
                Answer::Shard(shard) => {
                    let found = collected.add(node, shard, &self.code)?;
                    if let Some(found) = collected.search_all(found, &self.code).await? {
                        return Ok(Gathered::Found(found));
                    }
                }
            }
        }
        let found = collected.last_resort(&self.code)?;
        Ok(match collected.search_all(found, &self.code).await? {
            Some(found) => Gathered::Found(found),
            None => self.too_few(&order, &collected, &failed),
        })
    }

    /// Asks a node for what is in the first of its slots, from `slot` on, that is not empty.
    async fn ask_from(
        &self,
        node: usize,
        slot: usize,
        keys: &[BlockKey; SLOT_COUNT],
        is_headers: bool,
    ) -> (usize, usize, Answer) {
        for (slot, key) in keys.iter().enumerate().skip(slot) {
            match self.ask(node, key, is_headers).await {
                Answer::Nothing => {}
                answer => return (node, slot, answer),
            }
        }
        (node, SLOT_COUNT - 1, Answer::Nothing)
    }

    /// Asks a node for the shard of a slot.
    pub(super) async fn ask(&self, node: usize, key: &BlockKey, is_header: bool) -> Answer {
        let store = &self.nodes[node].store;
        let given = if is_header { store.get_range(key, 0..SHARD_HEADER_LEN).await } else { store.get(key).await };
        let parsed = match given {
            Ok(None) => return Answer::Nothing,
            Ok(Some(bytes)) if is_header => Shard::parse_header(bytes),
            Ok(Some(bytes)) => Shard::parse(bytes),
            // It knows that it has lost what it had.
            Err(error) if error.kind() == ErrorKind::Corrupt => return Answer::Damaged,
            Err(error) => return Answer::Failed(error),
        };
        match parsed {
            Ok(shard) => Answer::Shard(shard),
            Err(Flaw::Damaged) => Answer::Damaged,
            Err(Flaw::Newer) => {
                let why = "the shard was written by a newer version of MuxFS";
                Answer::Failed(Error::new(ErrorKind::Unsupported, "erasure.get").because(why))
            }
        }
    }

    /// Says what it means that all nodes were asked and gave no block.
    fn too_few(&self, order: &[usize], collected: &Collected, failed: &[(usize, Error)]) -> Gathered {
        let (data_count, _) = self.code.counts();
        let damaged = collected.damaged();
        let (found, takes, shards, holders) = match collected.nearest() {
            Some((stripe, pile)) => (pile.index_count(), stripe.data_shards(), stripe.shards(), pile.nodes()),
            // What counts as stored cannot be on the failed nodes alone.
            None if damaged.is_empty() && failed.len() < self.stored_count_min() => return Gathered::Absent,
            None => (0, data_count.into(), self.shards(), [].into()),
        };
        let has_failed = |node: &usize| failed.iter().any(|(other, _)| other == node);
        let without = order.iter().take(shards).filter(|node| !holders.contains(node));
        let without: Vec<_> = without.copied().filter(|node| !damaged.contains(node) && !has_failed(node)).collect();
        let mut why = if found < takes {
            format!("of the {takes} shards that it takes {found} were found")
        } else {
            format!("no {takes} of the {found} shards that were found give the block")
        };
        if !failed.is_empty() {
            let failed = self.failures(failed.iter().map(|(node, error)| (*node, error)));
            why = format!("{why}; unreachable: {failed}");
        }
        let damaged: Vec<_> = damaged.iter().copied().collect();
        for (label, nodes) in [("damaged", &damaged), ("without one", &without)] {
            if !nodes.is_empty() {
                why = format!("{why}; {label}: {}", self.names(nodes));
            }
        }
        let may_come = !failed.is_empty() && found + failed.len() >= takes;
        let kind = if may_come { ErrorKind::Unavailable } else { ErrorKind::Corrupt };
        Gathered::Short(Error::new(kind, "erasure.get").because(why), found > 0 || !damaged.is_empty())
    }

    fn names(&self, nodes: &[usize]) -> String {
        nodes.iter().map(|node| self.nodes[*node].name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
