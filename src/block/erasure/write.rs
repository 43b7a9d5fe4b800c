//! Writing: which shards a block lacks, where they go, and what may be deleted for them.
//!
//! Every write looks first at what is there. Where shards give a block, only those that are missing are added, of that
//! stripe. A node has two slots for a block, so a new stripe is written beside an old one and never over it; a shard is
//! deleted only if it is damaged, if its stripe can give no block any more whatever comes back, or if another stripe is
//! stored and durable. So what can be read can be read after every step, and a write that ends half way is gone on with
//! by the next. Spec: spec/erasure.md, "Writing".

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    mem,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{join, join_all},
    stream::FuturesUnordered,
};

use super::{
    Erasure, Inner, SLOT_COUNT, StripeCode, Unflushed,
    collected::{Collected, Found},
    read::{Answer, What},
    shard::{SHARD_HEADER_LEN, Shard, Stripe},
    slot_keys,
};
use crate::{BlockKey, Error, ErrorKind, Result};

/// The shards of a block of other parameters are written again if all together are no longer than this, in bytes, or than
/// those of the store's own may be: 31 copies of the longest block of a DAG.
const CUT_LEN_MAX: usize = 64 << 20;

/// What is in a slot of a node.
pub(super) enum Slot {
    Empty,
    /// Something that is no good shard, of so many bytes.
    Damaged(usize),
    Held(Shard),
}

impl Slot {
    pub(super) fn stripe(&self) -> Option<Stripe> {
        match self {
            Self::Held(shard) => Some(shard.header.stripe),
            Self::Empty | Self::Damaged(_) => None,
        }
    }
}

/// What is on the nodes that were asked.
#[derive(Default)]
pub(super) struct Survey(pub(super) BTreeMap<usize, Result<[Slot; SLOT_COUNT]>>);

impl Survey {
    fn held(&self) -> impl Iterator<Item = (usize, &Shard)> {
        let slots = self.0.iter().filter_map(|(node, slots)| Some((*node, slots.as_ref().ok()?)));
        slots.flat_map(|(node, slots)| {
            slots.iter().filter_map(move |slot| match slot {
                Slot::Held(shard) => Some((node, shard)),
                Slot::Empty | Slot::Damaged(_) => None,
            })
        })
    }

    fn index_count(&self, stripe: &Stripe) -> usize {
        let of_it = self.held().filter(|(_, shard)| shard.header.stripe == *stripe);
        of_it.map(|(_, shard)| shard.header.index).collect::<BTreeSet<_>>().len()
    }

    pub(super) fn stripes(&self) -> BTreeSet<Stripe> {
        self.held().map(|(_, shard)| shard.header.stripe).collect()
    }

    /// The stripes other than this one.
    fn others(&self, stripe: &Stripe) -> BTreeSet<Stripe> {
        self.stripes().into_iter().filter(|other| other != stripe).collect()
    }

    /// Those of the others that give no block, whatever the nodes that fail have.
    pub(super) fn lost(&self, stripe: &Stripe) -> BTreeSet<Stripe> {
        let may_come = self.failed().count();
        let is_lost = |other: &Stripe| self.index_count(other) + may_come < other.data_shards();
        self.others(stripe).into_iter().filter(is_lost).collect()
    }

    pub(super) fn failed(&self) -> impl Iterator<Item = (usize, &Error)> {
        self.0.iter().filter_map(|(node, slots)| Some((*node, slots.as_ref().err()?)))
    }

    /// The slots that hold anything but a shard of this stripe.
    fn slots_of_others(&self, stripe: &Stripe) -> Vec<(usize, usize)> {
        let slots = self.0.iter().flat_map(|(node, slots)| slots.iter().flatten().zip(0..).map(move |at| (*node, at)));
        let others = slots.filter(|(_, (slot, _))| !matches!(slot, Slot::Empty) && slot.stripe() != Some(*stripe));
        others.map(|(node, (_, slot))| (node, slot)).collect()
    }

    /// The block that shards of one of these stripes give: of the one that has the most, if several do.
    pub(super) async fn readable(&self, code: &StripeCode, stripes: BTreeSet<Stripe>) -> Result<Option<Found>> {
        let mut stripes: Vec<_> = stripes.into_iter().collect();
        stripes.sort_by_key(|stripe| Reverse(self.index_count(stripe)));
        for stripe in stripes {
            let mut collected = Collected::new(What::Block, 1);
            for (node, shard) in self.held().filter(|(_, shard)| shard.header.stripe == stripe) {
                let found = collected.add(node, shard.clone(), code)?;
                if let Some(found) = collected.search_all(found, code).await? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Takes shards of the stripe that are not what they should be for damaged, right checksum or not.
    pub(super) fn hold_against(&mut self, stripe: &Stripe, shards: &[Bytes]) {
        for slot in self.0.values_mut().flatten().flatten() {
            if let Slot::Held(shard) = slot
                && shard.header.stripe == *stripe
                && *shard.bytes() != shards[usize::from(shard.header.index)]
            {
                *slot = Slot::Damaged(shard.bytes().len());
            }
        }
    }
}

/// What a stripe lacks, and how it gets it.
#[derive(Default)]
pub(super) struct Plan {
    /// Nodes that have a shard of it, each another.
    pub(super) holders: Vec<usize>,
    pub(super) moves: Vec<Move>,
    /// Nodes that can take none, and why.
    pub(super) missing: Vec<(usize, Error)>,
}

/// A shard on its way to a node.
pub(super) struct Move {
    node: usize,
    slot: usize,
    index: usize,
    /// Whether something in the slot goes first: a store may keep what it has.
    replaces: bool,
}

impl Plan {
    /// Plans for the nodes that the stripe belongs on, the first of `order`; shards of `replaceable` may go.
    pub(super) fn new(order: &[usize], mut survey: Survey, stripe: &Stripe, replaceable: &BTreeSet<Stripe>) -> Self {
        let mut plan = Self::default();
        let mut has = vec![false; stripe.shards()];
        let mut vacant = Vec::new();
        for (rank, node) in order.iter().copied().take(stripe.shards()).enumerate() {
            let slots = match survey.0.remove(&node) {
                Some(Ok(slots)) => slots,
                Some(Err(error)) => {
                    plan.missing.push((node, error));
                    continue;
                }
                None => continue,
            };
            let own = slots.iter().zip(0..).find_map(|(slot, at)| match slot {
                Slot::Held(shard) if shard.header.stripe == *stripe => Some((at, usize::from(shard.header.index))),
                _ => None,
            });
            if let Some((slot, index)) = own {
                if mem::replace(&mut has[index], true) {
                    // It has what another has already: better what nobody has.
                    vacant.push((rank, Move { node, slot, index, replaces: true }));
                } else {
                    plan.holders.push(node);
                }
                continue;
            }
            let first = |is_fit: &dyn Fn(&Slot) -> bool| slots.iter().position(is_fit);
            let may_go = |slot: &Slot| slot.stripe().is_some_and(|other| replaceable.contains(&other));
            let damaged = first(&|slot| matches!(slot, Slot::Damaged(_))).map(|slot| (slot, true));
            let empty = || first(&|slot| matches!(slot, Slot::Empty)).map(|slot| (slot, false));
            let other = || first(&may_go).map(|slot| (slot, true));
            match damaged.or_else(empty).or_else(other) {
                Some((slot, replaces)) => vacant.push((rank, Move { node, slot, index: rank, replaces })),
                None => plan.missing.push((node, occupied())),
            }
        }
        let mut left = Vec::new();
        for (rank, vacancy) in vacant {
            if mem::replace(&mut has[rank], true) {
                left.push(vacancy);
            } else {
                plan.moves.push(Move { index: rank, ..vacancy });
            }
        }
        let lacking = has.iter().zip(0..).filter(|(has, _)| !**has).map(|(_, index)| index);
        plan.moves.extend(left.into_iter().zip(lacking).map(|(vacancy, index)| Move { index, ..vacancy }));
        plan
    }
}

fn occupied() -> Error {
    let why = "it has shards of two other stripes of the block, which may be needed";
    Error::new(ErrorKind::Unavailable, "erasure.put").because(why)
}

/// What was written.
pub(super) struct Filled {
    pub(super) slots: BTreeSet<(usize, usize)>,
    /// Nodes that have no shard although one belongs there.
    pub(super) missing: Vec<(usize, Error)>,
}

impl Inner {
    /// Puts a block: fills up the stripe that gives one already, or writes one.
    pub(super) async fn put(&self, key: &BlockKey, block: &[u8]) -> Result<()> {
        let keys = slot_keys(key).ok_or_else(|| {
            let why = format!("the key of a block in shards has at most {} bytes", Erasure::KEY_LEN_MAX);
            Error::new(ErrorKind::InvalidArgument, "erasure.put").because(why)
        })?;
        let (mut stripe, mut shards) = self.code.cut(block)?;
        let _guard = self.lock(key).await;
        self.keep(key).await?;
        let order = self.placement.order(key);
        let (nearest, rest) = order.split_at(stripe.shards());
        let (mut survey, count_min) = (Survey::default(), stripe.stored_count_min());
        self.survey(&mut survey, &keys, nearest, count_min).await;
        if !survey.others(&stripe).is_empty() {
            // Something else was put under this key, or with other parameters, and perhaps on other nodes.
            self.survey(&mut survey, &keys, rest, 0).await;
        }
        survey.hold_against(&stripe, &shards);
        if survey.index_count(&stripe) < stripe.data_shards()
            && let Some(found) = survey.readable(&self.code, survey.others(&stripe)).await?
            // Fewer nodes than it takes to read this stripe do not talk anybody out of writing it.
            && (found.stripe.data_count >= stripe.data_count || found.block == block)
            && self.check_cut_len("erasure.put", &found.stripe).is_ok()
        {
            shards = self.code.cut_again(&found.stripe, &found.block)?;
            stripe = found.stripe;
            survey.hold_against(&stripe, &shards);
        }
        let lost = survey.lost(&stripe);
        let plan = Plan::new(&order, survey, &stripe, &lost);
        let filled = self.fill("erasure.put", &keys, plan, &stripe, &shards).await?;
        self.owe(key, &filled.missing).await;
        Ok(())
    }

    /// Refuses to cut a block as a header says where that takes more memory than a block is worth: one node alone can say of
    /// its shard that there are 254 others as long.
    pub(super) fn check_cut_len(&self, op: &'static str, stripe: &Stripe) -> Result<()> {
        let cut_len = |shards: usize, shard_len: usize| shards.saturating_mul(SHARD_HEADER_LEN + shard_len);
        let own = cut_len(self.shards(), self.code.block_len_max().div_ceil(usize::from(self.code.counts().0)));
        if cut_len(stripe.shards(), stripe.shard_len()) <= own.max(CUT_LEN_MAX) {
            return Ok(());
        }
        let why = format!(
            "its shards say that there are {} of {} bytes each, which is more than a repair writes: re-encode the block",
            stripe.shards(),
            stripe.shard_len()
        );
        Err(Error::new(ErrorKind::Unsupported, op).because(why))
    }

    /// Brings a block to this store's parameters; whether there was anything to do.
    pub(super) async fn reencode(&self, key: &BlockKey) -> Result<bool> {
        const OP: &str = "erasure.reencode";
        let Some(keys) = slot_keys(key) else { return Ok(false) };
        let _guard = self.lock(key).await;
        let order = self.placement.order(key);
        let mut survey = Survey::default();
        self.survey(&mut survey, &keys, &order, order.len()).await;
        self.none_may_fail(OP, survey.failed())?;
        let Some(Found { block, .. }) = survey.readable(&self.code, survey.stripes()).await? else {
            let is_absent = survey.0.values().flatten().flatten().all(|slot| matches!(slot, Slot::Empty));
            let why = "its shards give no block";
            return if is_absent { Ok(false) } else { Err(Error::new(ErrorKind::Corrupt, OP).because(why)) };
        };
        let (stripe, shards) = self.code.cut(&block)?;
        survey.hold_against(&stripe, &shards);
        let others = survey.slots_of_others(&stripe);
        let mut replaceable = survey.others(&stripe);
        // One that gives the block stays to the end, and is durable before any other goes.
        if let Some(kept) = survey.readable(&self.code, survey.others(&stripe)).await? {
            replaceable.remove(&kept.stripe);
        }
        if !replaceable.is_empty() {
            self.flush_all(OP).await?;
        }
        let plan = Plan::new(&order, survey, &stripe, &replaceable);
        let filled = self.fill(OP, &keys, plan, &stripe, &shards).await?;
        self.none_may_fail(OP, filled.missing.iter().map(|(node, error)| (*node, error)))?;
        let old: Vec<_> = others.into_iter().filter(|slot| !filled.slots.contains(slot)).collect();
        if !old.is_empty() {
            self.flush_all(OP).await?;
            self.delete_shards(OP, &keys, old).await?;
            return Ok(true);
        }
        Ok(!filled.slots.is_empty())
    }

    /// Deletes every shard of a block, wherever it is; m nodes may be away, which are owed it.
    pub(super) async fn delete(&self, key: &BlockKey) -> Result<()> {
        const OP: &str = "erasure.delete";
        let Some(keys) = slot_keys(key) else { return Ok(()) };
        let _guard = self.lock(key).await;
        let all = self.members().into_iter().flat_map(|node| (0..SLOT_COUNT).map(move |slot| (node, slot)));
        let (done, failed) = self.delete_slots(&keys, all.collect()).await;
        let away_max = if self.mending.owes() { usize::from(self.code.counts().1) } else { 0 };
        if failed.len() > away_max {
            let failed = self.failures(failed.iter().map(|(node, error)| (*node, error)));
            let why = format!("no more than {away_max} nodes may miss it; these do: {failed}");
            return Err(Error::new(ErrorKind::Unavailable, OP).because(why));
        }
        let missed: Vec<_> = failed.iter().map(|(node, _)| *node).collect();
        self.owe_deletion(key, &missed, &done).await?;
        // One that goes before it has flushed is owed it too.
        let may_fail = if away_max > 0 && self.deleted(key, done.clone()) { away_max - missed.len() } else { 0 };
        let count_min = done.len().saturating_sub(may_fail);
        self.unflushed().insert(Unflushed { nodes: done, count_min, left_min: 0 });
        Ok(())
    }

    /// Asks nodes for all that they have of a block; waits for those that are down only if fewer than so many others
    /// answer.
    pub(super) async fn survey(
        &self,
        survey: &mut Survey,
        keys: &[BlockKey; SLOT_COUNT],
        nodes: &[usize],
        count_min: usize,
    ) {
        let looks = nodes.iter().map(|node| {
            let look = async move {
                let [first, second] = keys;
                let (first, second) = join(self.ask(*node, first, false), self.ask(*node, second, false)).await;
                Ok([slot(first)?, slot(second)?])
            };
            (*node, look)
        });
        let answered = |looks: &[(usize, Result<_>)]| looks.iter().filter(|(_, look)| look.is_ok()).count();
        survey.0.extend(self.wait_for(looks, |looks| answered(looks) >= count_min).await);
    }

    /// Has every node flush; none may fail.
    pub(super) async fn flush_all(&self, op: &'static str) -> Result<()> {
        let flushes = self.flush_nodes(self.members().into_iter(), |_| false).await;
        self.none_may_fail(op, flushes.iter().filter_map(|(node, flush)| Some((*node, flush.as_ref().err()?))))
    }

    /// Carries out a plan; an error unless the stripe is stored then.
    pub(super) async fn fill(
        &self,
        op: &'static str,
        keys: &[BlockKey; SLOT_COUNT],
        plan: Plan,
        stripe: &Stripe,
        shards: &[Bytes],
    ) -> Result<Filled> {
        let Plan { mut holders, moves, mut missing } = plan;
        let count_min = stripe.stored_count_min();
        if holders.len() + moves.len() < count_min {
            return Err(self.not_stored(op, holders.len(), count_min, &missing));
        }
        let mut running: FuturesUnordered<_> = moves
            .into_iter()
            .map(|Move { node, slot, index, replaces }| async move {
                let (to, key) = (&self.nodes[node], &keys[slot]);
                let result = async {
                    if replaces {
                        to.call(to.store().delete(key)).await?;
                    }
                    to.call(to.store().put(key, shards[index].clone())).await
                };
                (node, slot, result.await)
            })
            .collect();
        let mut slots = BTreeSet::new();
        while let Some((node, slot, result)) = running.next().await {
            match result {
                Ok(()) => {
                    slots.insert((node, slot));
                    holders.push(node);
                }
                Err(error) => missing.push((node, error)),
            }
        }
        if holders.len() < count_min {
            return Err(self.not_stored(op, holders.len(), count_min, &missing));
        }
        holders.sort_unstable();
        self.unflushed().insert(Unflushed { nodes: holders, count_min, left_min: stripe.data_count.into() });
        Ok(Filled { slots, missing })
    }

    pub(super) async fn delete_shards(
        &self,
        op: &'static str,
        keys: &[BlockKey; SLOT_COUNT],
        slots: Vec<(usize, usize)>,
    ) -> Result<()> {
        let (nodes, failed) = self.delete_slots(keys, slots).await;
        self.none_may_fail(op, failed.iter().map(|(node, error)| (*node, error)))?;
        let count_min = nodes.len();
        self.unflushed().insert(Unflushed { nodes, count_min, left_min: 0 });
        Ok(())
    }

    /// Deletes slots, each of a node: which nodes have, and which failed.
    async fn delete_slots(
        &self,
        keys: &[BlockKey; SLOT_COUNT],
        slots: Vec<(usize, usize)>,
    ) -> (Vec<usize>, Vec<(usize, Error)>) {
        let mut by_node = BTreeMap::<_, Vec<_>>::new();
        for (node, slot) in slots {
            by_node.entry(node).or_default().push(slot);
        }
        let deletes = by_node.into_iter().map(|(node, slots)| {
            let deletes = slots.into_iter().map(move |slot| {
                let of = &self.nodes[node];
                of.call(of.store().delete(&keys[slot]))
            });
            (node, async { join_all(deletes).await.into_iter().collect::<Result<()>>() })
        });
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for (node, result) in self.wait_for(deletes, |_| true).await {
            match result {
                Ok(()) => done.push(node),
                Err(error) => failed.push((node, error)),
            }
        }
        done.sort_unstable();
        (done, failed)
    }

    /// `Unavailable` naming the nodes that failed, if any did.
    pub(super) fn none_may_fail<'a>(
        &self,
        op: &'static str,
        failed: impl Iterator<Item = (usize, &'a Error)>,
    ) -> Result<()> {
        let mut failed = failed.peekable();
        if failed.peek().is_none() {
            return Ok(());
        }
        let why = format!("every node has to answer; these do not: {}", self.failures(failed));
        Err(Error::new(ErrorKind::Unavailable, op).because(why))
    }

    fn not_stored(&self, op: &'static str, count: usize, count_min: usize, missing: &[(usize, Error)]) -> Error {
        // Where all nodes say the same, trying again is of no use before that has changed.
        let mut kinds = missing.iter().map(|(_, error)| error.kind());
        let first = kinds.next().unwrap_or(ErrorKind::Unavailable);
        let is_limit = matches!(first, ErrorKind::NoSpace | ErrorKind::Quota | ErrorKind::ReadOnly);
        let kind = if is_limit && kinds.all(|kind| kind == first) { first } else { ErrorKind::Unavailable };
        let missing = self.failures(missing.iter().map(|(node, error)| (*node, error)));
        Error::new(kind, op).because(format!(
            "{count} shards are stored, and a block counts as stored with {count_min}; missing: {missing}"
        ))
    }
}

/// What an answer says of a slot.
fn slot(answer: Answer) -> Result<Slot> {
    match answer {
        Answer::Nothing => Ok(Slot::Empty),
        Answer::Shard(shard) if shard.is_sound() => Ok(Slot::Held(shard)),
        Answer::Shard(shard) => Ok(Slot::Damaged(shard.bytes().len())),
        Answer::Damaged(len) => Ok(Slot::Damaged(len)),
        Answer::Failed(error) => Err(error),
    }
}
