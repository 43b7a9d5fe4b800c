//! Reading: whom to ask, and what it means when too few answer.
//!
//! As many nodes are asked at once as shards are lacking, those first where the shards belong, data before parity; every
//! answer that is no good, or does not come when it usually does, has another node asked. That goes on over all nodes, so
//! shards are found wherever they are; nodes that are down come last, and only if they can matter.

use std::{collections::VecDeque, mem, sync::atomic::Ordering};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use super::{
    Inner, SLOT_COUNT,
    collected::{Collected, Found},
    health::{Class, Ranks},
    shard::{Flaw, SHARD_HEADER_LEN, Shard},
    slot_keys, without_slot,
};
use crate::{BlockKey, Error, ErrorKind, Result, block::OpenBlock};

/// So many reads do not leave it to the layer above to find wrong bytes, after it has found some.
const DOUBT_COUNT: u32 = 64;

/// What of a block is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// What the headers of its shards say.
    Headers,
    Block,
    /// What its shards give, which somebody else checks.
    UncheckedBlock,
}

/// What a node has in a slot.
#[derive(Debug)]
pub(super) enum Answer {
    Nothing,
    /// Something that is no good shard, of so many bytes.
    Damaged(usize),
    Shard(Shard),
    /// It does not say.
    Failed(Error),
}

/// What came of asking.
pub(super) enum Gathered {
    /// The block, and whether something is damaged or missing where nodes answer.
    Found {
        found: Found,
        is_flawed: bool,
    },
    Absent,
    /// Too few shards; which nodes failed, and whether the others had any.
    Short {
        error: Error,
        failed: Vec<(usize, Error)>,
        found_any: bool,
    },
}

/// A node that is to be asked, and the first slot that it is asked for.
type Turn = (usize, usize);

/// A call that has not ended.
struct UnderWay {
    node: usize,
    /// When another node is asked as well; `None` where that was done.
    late_at: Option<Instant>,
}

impl Gathered {
    fn found(found: Found, is_missing: bool, collected: &Collected) -> Self {
        Self::Found { found, is_flawed: is_missing || !collected.damaged().is_empty() }
    }
}

impl Inner {
    /// Reads a block for one who knows whether it is right. Mostly it is, and then it is hashed there alone.
    pub(super) async fn read_opened(&self, key: &BlockKey, open: OpenBlock<'_>) -> Result<Option<Result<Bytes>>> {
        let less = |count: u32| count.checked_sub(1);
        if self.doubt_count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            let Some(found) = self.read(key, What::UncheckedBlock).await? else { return Ok(None) };
            if let Ok(block) = open(found.block) {
                return Ok(Some(Ok(block)));
            }
            // Also what looks like another key's or another version's may be what one node made up.
            self.doubt_count.store(DOUBT_COUNT, Ordering::Relaxed);
        }
        Ok(self.read(key, What::Block).await?.map(|found| open(found.block)))
    }

    /// Reads of a block what is looked for; `None` where it is known to be absent.
    ///
    /// # Errors
    /// `Unavailable` while nodes that fail may have what is lacking; `Corrupt` where they cannot.
    pub(super) async fn read(&self, key: &BlockKey, what: What) -> Result<Option<Found>> {
        let Some(keys) = slot_keys(key) else { return Ok(None) };
        let gathered = match self.gather(key, &keys, what, Vec::new()).await? {
            // Perhaps a put or a delete is half way: that one ends first, and there is none in the second look.
            Gathered::Short { failed, found_any: true, .. } => {
                let _guard = self.lock(key).await;
                self.gather(key, &keys, what, failed).await?
            }
            gathered => gathered,
        };
        match gathered {
            Gathered::Found { found, is_flawed } => {
                // One of fewer shards lacks some of what is looked for here, and need not have it.
                if is_flawed && found.stripe.data_count >= self.code.counts().0 {
                    self.mend(key);
                }
                Ok(Some(found))
            }
            Gathered::Absent => Ok(None),
            Gathered::Short { error, .. } => Err(error),
        }
    }

    /// Asks nodes until they give the block, except those that have failed before.
    pub(super) async fn gather(
        &self,
        key: &BlockKey,
        keys: &[BlockKey; SLOT_COUNT],
        what: What,
        mut failed: Vec<(usize, Error)>,
    ) -> Result<Gathered> {
        let (data_count, _) = self.code.counts();
        let order = self.placement.order(key);
        let ranks = self.ranks();
        let (mut waiting, mut down) = self.turns(&order, &ranks, &failed);
        let mut asked = FuturesUnordered::new();
        let mut under_way: Vec<UnderWay> = Vec::new();
        let mut is_missing = false;
        let mut collected = Collected::new(what, data_count);
        loop {
            // Instead of each that is late another is asked.
            let late_count = under_way.iter().filter(|call| call.late_at.is_none()).count();
            while asked.len() < collected.wanted() + late_count
                && let Some((node, slot)) = waiting.pop_front()
            {
                under_way.push(UnderWay { node, late_at: Some(Instant::now() + ranks.late_after(node)) });
                asked.push(self.ask_from(node, slot, keys, what == What::Headers));
            }
            if asked.is_empty() {
                if down.is_empty() || self.is_absent(&collected, failed.len() + down.len()) {
                    break;
                }
                // It comes down to those.
                waiting.extend(mem::take(&mut down));
                continue;
            }
            let answered = match asked.next().now_or_never() {
                Some(answered) => answered,
                None => match under_way.iter().filter_map(|call| call.late_at).min() {
                    Some(late_at) if !waiting.is_empty() => tokio::select! {
                        biased;
                        answered = asked.next() => answered,
                        () = sleep_until(late_at) => {
                            for call in under_way.iter_mut().filter(|call| call.late_at.is_some_and(|at| at <= late_at)) {
                                call.late_at = None;
                                self.nodes[call.node].set_late();
                            }
                            continue;
                        }
                    },
                    _ => asked.next().await,
                },
            };
            let Some((node, slot, answer)) = answered else { continue };
            under_way.retain(|call| call.node != node);
            if slot + 1 < SLOT_COUNT && !matches!(answer, Answer::Failed(_)) {
                waiting.push_back((node, slot + 1));
            }
            match answer {
                Answer::Nothing => is_missing |= order.iter().take(self.shards()).any(|place| *place == node),
                Answer::Damaged(_) => collected.add_damaged(node),
                Answer::Failed(error) => failed.push((node, error)),
                Answer::Shard(shard) => {
                    let found = collected.add(node, shard, &self.code)?;
                    if let Some(found) = collected.search_all(found, &self.code).await? {
                        return Ok(Gathered::found(found, is_missing, &collected));
                    }
                }
            }
        }
        failed.extend(down.into_iter().map(|(node, _)| (node, self.nodes[node].down_error())));
        let found = collected.last_resort(&self.code)?;
        Ok(match collected.search_all(found, &self.code).await? {
            Some(found) => Gathered::found(found, is_missing, &collected),
            None => self.too_few(&order, &collected, failed),
        })
    }

    /// In which order nodes are asked, each for its first slot, and those that are asked only if the others do not do.
    fn turns(&self, order: &[usize], ranks: &Ranks, failed: &[(usize, Error)]) -> (VecDeque<Turn>, Vec<Turn>) {
        let mut turns: Vec<_> = order.iter().copied().zip(0..).collect();
        // Where shards belong they are; among the same, data come before parity.
        turns.sort_by_key(|(node, rank)| (*rank >= self.shards(), ranks.class(*node)));
        let not_failed = turns.into_iter().filter(|(node, _)| failed.iter().all(|(other, _)| other != node));
        let (down, up): (Vec<_>, Vec<_>) =
            not_failed.map(|(node, _)| (node, 0)).partition(|(node, _)| ranks.class(*node) == Class::Down);
        (up.into(), down)
    }

    /// Whether nothing that counts as stored can be on the nodes that did not answer, and the others have none of it.
    fn is_absent(&self, collected: &Collected, failed_count: usize) -> bool {
        collected.nearest().is_none() && collected.damaged().is_empty() && failed_count < self.stored_count_min()
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

    /// Asks a node for the shard of a slot; what it has of a block that was deleted is nothing.
    pub(super) async fn ask(&self, node: usize, key: &BlockKey, is_header: bool) -> Answer {
        // Mostly none is owed, and then no key is taken apart.
        if self.mending.deletion_count() > 0 && without_slot(key).is_some_and(|key| self.mending.is_deleted(node, &key))
        {
            return Answer::Nothing;
        }
        let (node, store) = (&self.nodes[node], self.nodes[node].store());
        let given = if is_header {
            node.call_to_read(store.get_range(key, 0..SHARD_HEADER_LEN)).await
        } else {
            node.call_to_read(store.get(key)).await
        };
        let len = given.as_ref().map_or(0, |given| given.as_ref().map_or(0, Bytes::len));
        let parsed = match given {
            Ok(None) => return Answer::Nothing,
            Ok(Some(bytes)) if is_header => Shard::parse_header(bytes),
            Ok(Some(bytes)) => Shard::parse(bytes),
            // It knows that it has lost what it had.
            Err(error) if error.kind() == ErrorKind::Corrupt => return Answer::Damaged(0),
            Err(error) => return Answer::Failed(error),
        };
        match parsed {
            Ok(shard) => Answer::Shard(shard),
            Err(Flaw::Damaged) => Answer::Damaged(len),
            Err(Flaw::Newer) => {
                let why = "the shard was written by a newer version of MuxFS";
                Answer::Failed(Error::new(ErrorKind::Unsupported, "erasure.get").because(why))
            }
        }
    }

    /// Says what it means that all nodes were asked and gave no block.
    fn too_few(&self, order: &[usize], collected: &Collected, failed: Vec<(usize, Error)>) -> Gathered {
        let (data_count, _) = self.code.counts();
        let damaged = collected.damaged();
        let (found, takes, shards, holders) = match collected.nearest() {
            Some((stripe, pile)) => (pile.index_count(), stripe.data_shards(), stripe.shards(), pile.nodes()),
            None if self.is_absent(collected, failed.len()) => return Gathered::Absent,
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
            let unreachable = self.failures(failed.iter().map(|(node, error)| (*node, error)));
            why = format!("{why}; unreachable: {unreachable}");
        }
        let damaged: Vec<_> = damaged.iter().copied().collect();
        for (label, nodes) in [("damaged", &damaged), ("without one", &without)] {
            if !nodes.is_empty() {
                why = format!("{why}; {label}: {}", self.names(nodes));
            }
        }
        let may_come = !failed.is_empty() && found + failed.len() >= takes;
        let kind = if may_come { ErrorKind::Unavailable } else { ErrorKind::Corrupt };
        let error = Error::new(kind, "erasure.get").because(why);
        Gathered::Short { error, failed, found_any: found > 0 || !damaged.is_empty() }
    }

    fn names(&self, nodes: &[usize]) -> String {
        nodes.iter().map(|node| self.nodes[*node].name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
