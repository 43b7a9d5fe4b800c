//! Repair: one block is brought back to full strength.
//!
//! Everything that nodes have of the block is read. Where each node has just the shard that belongs there, they are held
//! against each other where they are; else the block is put together and cut again, and each shard compared with what it
//! should be: so one that was never written is found although its checksum is right. What is missing or bad is
//! written as by a put. Only when all k + m shards are where they belong and durable, what is there besides goes. A
//! repair that ends half way is gone on with by the next. Spec: spec/erasure.md, "Repair".

use std::collections::BTreeSet;

use super::{
    Inner, SLOT_COUNT, StripeCode,
    collected::Found,
    read::{Gathered, What},
    shard::Stripe,
    slot_keys,
    write::{Plan, Slot, Survey},
};
use crate::{BlockKey, Error, Result};

/// What [`Erasure::repair`](super::Erasure::repair) found of a block, and did. Of an absent block everything is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// How many shards were read, good and bad.
    pub shards_read: u64,
    /// How long they were, in bytes.
    pub bytes_read: u64,
    /// How many of them are not what was written.
    pub bad: u64,
    /// How many shards were not where they belong, on nodes that answered.
    pub missing: u64,
    /// How many shards were written.
    pub healed: u64,
    /// How many were removed that were good for nothing: bad ones, and others of which there was one too many.
    pub removed: u64,
    /// What is left to do: nodes that have no shard although one belongs there, each with the reason. The block can be
    /// read all the same.
    pub lacking: Vec<String>,
}

impl Survey {
    /// All slots with something in them, each with the number of its node and its own.
    fn taken(&self) -> impl Iterator<Item = (usize, usize, &Slot)> {
        let nodes = self.0.iter().filter_map(|(node, slots)| Some((*node, slots.as_ref().ok()?)));
        let slots = nodes.flat_map(|(node, slots)| slots.iter().zip(0..).map(move |(slot, at)| (node, at, slot)));
        slots.filter(|(_, _, slot)| !matches!(slot, Slot::Empty))
    }

    /// The stripe of this code that every node has its one shard of which one belongs on, byte for byte as it was cut, where
    /// no other node has anything: nothing is to be done then.
    fn whole(&self, code: &StripeCode, places: &[usize]) -> Result<Option<Stripe>> {
        let (mut shards, mut holders) = (Vec::with_capacity(places.len()), BTreeSet::new());
        for (node, _, slot) in self.taken() {
            match slot {
                Slot::Held(shard) if places.contains(&node) && holders.insert(node) => shards.push(shard),
                _ => return Ok(None),
            }
        }
        let Some(stripe) = shards.first().map(|shard| shard.header.stripe) else { return Ok(None) };
        shards.sort_by_key(|shard| shard.header.index);
        // All of them, each from another node.
        Ok(code.is_cut(&stripe, &shards)?.then_some(stripe))
    }

    /// What was found, of a stripe if there is one.
    fn report(&self, stripe: Option<&Stripe>, places: &[usize]) -> RepairReport {
        let mut report = RepairReport::default();
        for (_, _, slot) in self.taken() {
            let len = match slot {
                Slot::Empty => 0,
                Slot::Damaged(len) => *len,
                Slot::Held(shard) => shard.bytes().len(),
            };
            report.shards_read += 1;
            report.bytes_read += len as u64;
            report.bad += u64::from(matches!(slot, Slot::Damaged(_)));
        }
        let is_vacant = |slot: &Slot| match slot {
            Slot::Empty => true,
            Slot::Damaged(_) => false,
            Slot::Held(shard) => Some(&shard.header.stripe) != stripe,
        };
        let vacant =
            places.iter().filter(|node| matches!(self.0.get(node), Some(Ok(slots)) if slots.iter().all(is_vacant)));
        report.missing = if stripe.is_some() { vacant.count() as u64 } else { 0 };
        report
    }

    /// The slots that are good for nothing once every one of these nodes has a shard of the stripe: all that hold
    /// something damaged or of a stripe that can give no block, and all that hold another shard of this one.
    fn strays(&self, stripe: &Stripe, places: &[usize]) -> Vec<(usize, usize)> {
        let lost = self.lost(stripe);
        let has_before =
            |node, at| self.taken().any(|(n, before, slot)| n == node && before < at && slot.stripe() == Some(*stripe));
        let is_stray = |(node, at, slot): &(usize, usize, &Slot)| match slot.stripe() {
            None => true,
            Some(other) if other == *stripe => !places.contains(node) || has_before(*node, *at),
            Some(other) => lost.contains(&other),
        };
        self.taken().filter(is_stray).map(|(node, at, _)| (node, at)).collect()
    }
}

impl Inner {
    /// Brings a block back to full strength.
    pub(super) async fn repair(&self, key: &BlockKey) -> Result<RepairReport> {
        const OP: &str = "erasure.repair";
        let Some(keys) = slot_keys(key) else { return Ok(RepairReport::default()) };
        let _guard = self.lock(key).await;
        let order = self.placement.order(key);
        let mut survey = Survey::default();
        self.survey(&mut survey, &keys, &order, self.stored_count_min()).await;
        let (data_count, _) = self.code.counts();
        let places = &order[..self.shards().min(order.len())];
        if let Some(stripe) = survey.whole(&self.code, places)? {
            return Ok(survey.report(Some(&stripe), places));
        }
        let own = survey.stripes().into_iter().filter(|stripe| stripe.data_count >= data_count).collect();
        let found = match survey.readable(&self.code, own).await? {
            Some(found) => Some(found),
            None => self.last_found(key, &keys).await?,
        };
        let Some(Found { stripe, block }) = found else { return Ok(survey.report(None, &[])) };
        self.check_cut_len(OP, &stripe)?;
        let shards = self.code.cut_again(&stripe, &block)?;
        survey.hold_against(&stripe, &shards);
        let places = &order[..stripe.shards().min(order.len())];
        let mut report = survey.report(Some(&stripe), places);
        let (strays, lost) = (survey.strays(&stripe, places), survey.lost(&stripe));
        let plan = Plan::new(&order, survey, &stripe, &lost);
        let (written, missing) = if plan.moves.is_empty() {
            (Vec::new(), plan.missing)
        } else {
            let filled = self.fill(OP, &keys, plan, &stripe, &shards).await?;
            (filled.slots.into_iter().collect(), filled.missing)
        };
        report.healed = written.len() as u64;
        self.owe(key, &missing).await;
        report.lacking = missing.iter().map(|(node, error)| self.lacking(*node, error)).collect();
        let strays: Vec<_> = strays.into_iter().filter(|slot| !written.contains(slot)).collect();
        if missing.is_empty() && places.len() == stripe.shards() && !strays.is_empty() {
            // Perhaps a shard that goes is all that a crash would leave of what was written instead of it.
            let flushes = self.flush_nodes(places.iter().copied(), |_| false).await;
            self.none_may_fail(OP, flushes.iter().filter_map(|(node, flush)| Some((*node, flush.as_ref().err()?))))?;
            report.removed = strays.len() as u64;
            self.delete_shards(OP, &keys, strays).await?;
        }
        Ok(report)
    }

    /// The block as a read finds it, whatever its parameters are.
    async fn last_found(&self, key: &BlockKey, keys: &[BlockKey; SLOT_COUNT]) -> Result<Option<Found>> {
        match self.gather(key, keys, What::Block, Vec::new()).await? {
            Gathered::Found { found, .. } => Ok(Some(found)),
            Gathered::Absent => Ok(None),
            Gathered::Short { error, .. } => Err(error),
        }
    }

    fn lacking(&self, node: usize, error: &Error) -> String {
        format!("{}: {error:#}", self.nodes[node].name)
    }
}
