//! Blocks in shards on many nodes: any k of a block's k + m shards give it back.
//!
//! A layer over as many stores as there are nodes. A `put` cuts the block (`code`), sends each shard to the node where
//! it belongs (`placement`, `write`), and a `get` asks k nodes at once and more where those do not do (`read`,
//! `collected`). `repair` brings a block back to full strength, `scrub` all of them, `settle` those that are not where
//! they belong, and `mending` those that somebody came across; what nodes that were away have missed is noted (`owed`),
//! and blocks that are gone stay gone when they are back (`deleting`). No call of a node takes longer than its limit,
//! and who does not answer is not asked first (`health`). What a shard is a part of stands in the shard itself
//! (`shard`): there is no record beside the shards that could be lost, nodes come and go without anything being written
//! down, and a shard counts wherever it is found.
//!
//! Nodes are not trusted to be there, to keep what they have or to give what they were given. Nothing is encrypted here
//! and nobody is kept from reading a node: that is for the layer above. Spec: spec/erasure.md.

mod code;
mod collected;
mod deleting;
mod health;
mod loss;
mod members;
mod mending;
mod owed;
mod placement;
mod read;
mod repair;
mod scrub;
mod settle;
mod shard;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicU32},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::join_all,
    stream::{self, BoxStream},
};
use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify},
    time::{Instant, timeout},
};

pub use self::{
    code::StripeCode,
    health::{ErasureNodeStatus, PROBE_KEY},
    loss::{BlockShare, ErasureLoss},
    repair::RepairReport,
    scrub::{Scrub, ScrubOptions, ScrubReport},
    settle::{Settle, SettleReport},
    shard::SHARD_HEADER_LEN,
};
use self::{
    collected::Found,
    health::Node,
    members::{CurrentPlacement, Nodes},
    mending::{Mending, Waiting},
    owed::OwedLog,
    placement::{Member, Placement, Standing},
    read::What,
    shard::stored_count_min,
};
use super::{BLOCK_KEY_LEN_MAX, BlockKey, BlockStore, OpenBlock};
use crate::{Env, Error, ErrorKind, Result, log::detached, media::Media};

/// So many blocks can be written at the same time; two writes of one go one after the other.
const LOCK_COUNT: usize = 64;

/// A node has room for so many shards of a block: one of the stripe that is there, and one of a stripe that replaces it.
const SLOT_COUNT: usize = 2;

/// A store that shards are on.
#[derive(Debug, Clone)]
pub struct ErasureNode {
    /// Its name, as messages say it. Where shards belong follows from it, so it is kept for as long as the node is.
    pub name: String,
    /// What it is lost together with: a site, a rack.
    pub group: Option<String>,
    /// Where its shards are.
    pub store: Arc<dyn BlockStore>,
    /// Whether no shards belong there any more: what it has is to be put elsewhere.
    pub is_drained: bool,
}

impl ErasureNode {
    /// Makes a node that is in no group.
    pub fn new(name: impl Into<String>, store: impl BlockStore) -> Self {
        Self { name: name.into(), group: None, store: Arc::new(store), is_drained: false }
    }

    /// Puts it into a group.
    #[must_use]
    pub fn in_group(self, group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), ..self }
    }

    /// Has no shards belong there.
    #[must_use]
    pub fn drained(self) -> Self {
        Self { is_drained: true, ..self }
    }
}

/// How an [`Erasure`] cuts blocks, and how long it waits for nodes.
#[derive(Debug, Clone, Copy)]
pub struct ErasureOptions {
    /// k: so many shards give a block back. At least 1.
    pub data_count: u8,
    /// m: so many may be lost. At most 255 together with k.
    pub parity_count: u8,
    /// So many shards of a block may be on nodes of one group, at most m; `None` is m.
    pub group_shards_max: Option<u8>,
    /// A call of a node that takes longer has failed, and the node counts as down. A flush may take six times as long
    /// where the others are not enough.
    pub call_time_max: Duration,
    /// So many blocks that were found to lack a shard wait to be repaired by themselves, at most, in memory; a scrub
    /// finds the others. As many deletions that nodes missed are remembered; more are refused. 0: nothing is repaired
    /// that is not told to be, and each node has to take part in a deletion.
    pub repairs_max: usize,
}

impl Default for ErasureOptions {
    /// 4 + 2: any two of six nodes may be lost, for half as much again. A node has 10 seconds to answer, and 65,536 blocks
    /// wait to be repaired.
    fn default() -> Self {
        Self {
            data_count: 4,
            parity_count: 2,
            group_shards_max: None,
            call_time_max: Duration::from_secs(10),
            repairs_max: 1 << 16,
        }
    }
}

/// A [`BlockStore`] over nodes of which some may be lost, rot or lie.
///
/// A block counts as stored when k + 1 of its shards are (k where m is at most 1): then `put` succeeds, and `flush` when
/// so many are durable. Blocks of other parameters are read and kept as they are; [`reencode`](Self::reencode) changes
/// them. Keys have at most [`KEY_LEN_MAX`](Self::KEY_LEN_MAX) bytes, blocks
/// [`StripeCode::block_len_max`]. One store at a time over its nodes: the caller sees to it.
///
/// Calls are made in a tokio runtime whose timer is enabled: its clock is the one that limits them, and nodes that do not
/// answer are asked again in its background.
#[derive(Clone)]
pub struct Erasure {
    inner: Arc<Inner>,
}

struct Inner {
    /// Itself, for what runs in the background.
    me: Weak<Self>,
    nodes: Nodes,
    placement: CurrentPlacement,
    /// Whoever holds it changes which nodes there are.
    changing: AsyncMutex<()>,
    code: StripeCode,
    /// Whoever holds the one of a block writes its shards.
    locks: Vec<AsyncMutex<()>>,
    /// Whoever holds it flushes.
    flushing: AsyncMutex<()>,
    /// What was written since the nodes were flushed.
    unflushed: Mutex<BTreeSet<Unflushed>>,
    mending: Mending,
    /// So many of the next reads look at what shards give by themselves, because some gave what nobody had put.
    doubt_count: AtomicU32,
    call_time_max: Duration,
}

/// Nodes that were written to, and how many of them have to make it durable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Unflushed {
    nodes: Vec<usize>,
    count_min: usize,
    /// And how many at least where some of them are none any more: what gives the block.
    left_min: usize,
}

impl Erasure {
    /// The longest key, in bytes: a node's key has one more.
    pub const KEY_LEN_MAX: usize = BLOCK_KEY_LEN_MAX - 1;

    /// Makes the layer over these nodes; asks none of them. What it owes to nodes is forgotten with it: see
    /// [`open`](Self::open).
    ///
    /// ```
    /// use muxfs::{BlockKey, BlockStore, block::{Erasure, ErasureNode, ErasureOptions, Mem}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let nodes = (0..6).map(|n| ErasureNode::new(format!("node {n}"), Mem::default()));
    /// let store = Erasure::new(nodes, ErasureOptions { data_count: 4, parity_count: 2, ..ErasureOptions::default() })?;
    /// let key = BlockKey::new(b"k")?;
    /// store.put(&key, "four of six give it back".into()).await?;
    /// assert_eq!(store.get(&key).await?, Some("four of six give it back".into()));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` with the reason where blocks cannot be placed so; `Unsupported` on a processor that cannot do
    /// the arithmetic: see [`StripeCode::new`].
    pub fn new(nodes: impl IntoIterator<Item = ErasureNode>, options: ErasureOptions) -> Result<Self> {
        Self::with_owed(nodes.into_iter().collect(), options, Waiting::default(), None)
    }

    /// The same, with a place where what is owed to nodes that are away is kept, and found by the next opening. Names of
    /// nodes and keys of blocks stand there in clear.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); `Corrupt` or `Unsupported` for what is in the place, and its own.
    pub async fn open(
        nodes: impl IntoIterator<Item = ErasureNode> + Send,
        options: ErasureOptions,
        owed: Arc<dyn Media>,
        env: &Env,
    ) -> Result<Self> {
        let nodes: Vec<_> = nodes.into_iter().collect();
        let numbers: BTreeMap<_, _> = nodes.iter().map(|node| node.name.as_str()).zip(0..).collect();
        let mut waiting = Waiting::default();
        let log = OwedLog::open(owed, env, |debt, node, key| {
            waiting.replay(debt, numbers.get(node).copied(), node, key);
        });
        let log = log.await?;
        let this = Self::with_owed(nodes, options, waiting, Some(log))?;
        this.inner.go_on();
        Ok(this)
    }

    fn with_owed(
        nodes: Vec<ErasureNode>,
        options: ErasureOptions,
        waiting: Waiting,
        log: Option<OwedLog>,
    ) -> Result<Self> {
        let ErasureOptions { data_count, parity_count, group_shards_max, call_time_max, repairs_max } = options;
        let code = StripeCode::new(data_count, parity_count)?;
        let places = nodes.iter().map(|node| Member {
            name: node.name.as_str(),
            group: node.group.as_deref(),
            standing: if node.is_drained { Standing::Drained } else { Standing::Member },
        });
        let placement = CurrentPlacement::new(Placement::new(places, code.counts(), group_shards_max)?);
        let wake = Arc::new(Notify::new());
        let node = |node| Arc::new(Node::new(node, call_time_max, Arc::clone(&wake)));
        let nodes = Nodes::new(nodes.into_iter().map(node).collect());
        let locks = (0..LOCK_COUNT).map(|_| AsyncMutex::default()).collect();
        let inner = |me: &Weak<Inner>| Inner {
            me: me.clone(),
            nodes,
            placement,
            changing: AsyncMutex::default(),
            code,
            locks,
            flushing: AsyncMutex::default(),
            unflushed: Mutex::default(),
            mending: Mending::new(repairs_max, wake, waiting, log),
            doubt_count: AtomicU32::new(0),
            call_time_max,
        };
        Ok(Self { inner: Arc::new_cyclic(inner) })
    }

    /// The names of the nodes that a block's shards belong on, in the order of their index where all are there when it is
    /// put.
    pub fn nodes_of(&self, key: &BlockKey) -> Vec<&str> {
        let order = self.inner.placement.order(key);
        order.iter().take(self.inner.shards()).map(|node| self.inner.nodes[*node].name.as_str()).collect()
    }

    /// How each node does, in the order in which they were given; asks none of them.
    pub fn node_status(&self) -> Vec<ErasureNodeStatus> {
        self.inner.members().into_iter().map(|node| self.inner.nodes[node].status()).collect()
    }

    /// Asks every node for [`PROBE_KEY`], so that [`node_status`](Self::node_status) is of now, and gives how long each took to
    /// answer, in the order in which they were given; `None` where it failed, or did not within `limit`.
    pub async fn ask_nodes(&self, limit: Duration) -> Vec<Option<Duration>> {
        let ask = async |node: &Arc<Node>| {
            let key = BlockKey::new(PROBE_KEY).ok()?;
            let begun = Instant::now();
            let answer = timeout(limit, node.call(node.store().has(&key))).await.ok()?;
            answer.ok().map(|_| begun.elapsed())
        };
        let members = self.inner.members();
        join_all(members.into_iter().map(|node| ask(&self.inner.nodes[node]))).await
    }

    /// How many blocks wait to be repaired by themselves: those that a node lacks which is down, for each such node, and
    /// those that a read found to lack a shard. At most [`ErasureOptions::repairs_max`].
    pub fn repairs_waiting(&self) -> usize {
        self.inner.mending.repair_count()
    }

    /// How many deletions wait for nodes that missed them, or have not made them durable; one that several missed counts for
    /// each. At most
    /// [`ErasureOptions::repairs_max`].
    pub fn deletions_waiting(&self) -> usize {
        self.inner.mending.deletion_count()
    }

    /// Ends what goes on in the background, and makes durable what is owed: for a clean shutdown, when all else has
    /// ended.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn close(&self) -> Result<()> {
        self.inner.close_owed().await
    }

    /// How many blocks should have waited since this store was made, and found no room: what they lack a scrub finds.
    pub fn repairs_dropped(&self) -> u64 {
        self.inner.mending.dropped_count()
    }

    /// What becomes of blocks while the nodes of these names are lost; asks none of them, and takes none for lost that is
    /// not named. It is said of blocks of this store's parameters at full strength; exact but for the shares of which it
    /// is said that they are about so many.
    ///
    /// ```
    /// use muxfs::block::{BlockShare, Erasure, ErasureNode, ErasureOptions, Mem};
    /// let nodes = (0..6).map(|n| ErasureNode::new(format!("{n}"), Mem::default()));
    /// let store = Erasure::new(nodes, ErasureOptions::default())?;
    /// let loss = store.loss_of(|name| name == "0" || name == "3");
    /// assert_eq!((loss.readable, loss.writable, loss.spare), (BlockShare::All, BlockShare::None, Some(0)));
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn loss_of(&self, is_lost: impl Fn(&str) -> bool) -> ErasureLoss {
        self.inner.loss_of(is_lost)
    }

    /// Brings a block back to full strength: reads all that nodes have of it, writes what is missing or bad, and, when
    /// all k + m shards are where they belong and durable, removes what is there besides. A block of other parameters
    /// keeps them. Repeatable, and broken off at any moment it takes nothing away. Nodes that are down are not waited
    /// for: see [`RepairReport::lacking`].
    ///
    /// # Errors
    /// `Corrupt` where there are shards that give no block, `Unavailable` where nodes that fail may have what is lacking,
    /// or too few of them take shards.
    pub async fn repair(&self, key: &BlockKey) -> Result<RepairReport> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        detached("erasure.repair", async move { inner.repair(&key).await }).await
    }

    /// Makes durable what was put and deleted, on every node: for who is about to remove what it takes the place of. A
    /// [`flush`](BlockStore::flush) is content with as many as can be lost without it.
    ///
    /// # Errors
    /// That of a node that fails, with its name.
    pub async fn flush_on_all(&self) -> Result<()> {
        self.inner.flush_all("erasure.flush").await
    }

    /// Asks each node in the background whether it is there, and again and again one that is not.
    pub fn probe_nodes(&self) {
        for node in self.inner.members() {
            self.inner.nodes[node].look_for();
        }
    }

    /// Changes which nodes there are, while blocks are read and written: from now on shards belong on these. Nodes are told
    /// apart by name. One that is known stays as it is, its store too, and takes its group and whether it is drained from
    /// what is given; one that is not comes; and one that is not given any more goes with what it has, and what it is owed is
    /// forgotten. What is where it does not belong any more is found by reads, and moved by [`settle`](Self::settle): a node
    /// that is to go loses nothing if it was drained, and settled, before.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, block::{Erasure, ErasureNode, ErasureOptions, Mem}};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let node = |n: usize| ErasureNode::new(format!("node {n}"), Mem::default());
    /// let store = Erasure::new((0..6).map(node), ErasureOptions::default())?;
    /// let key = BlockKey::new(b"k")?;
    /// store.put(&key, "block".into()).await?;
    /// store.set_nodes((1..7).map(node).chain([node(0).drained()])).await?;
    /// assert_eq!(store.blocks_on("node 0").await?, 1);
    /// store.settle(None).run().await?;
    /// assert_eq!(store.blocks_on("node 0").await?, 0);
    /// store.set_nodes((1..7).map(node)).await?;
    /// assert_eq!(store.get(&key).await?, Some("block".into()));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` with the reason where blocks cannot be placed so, and nothing is changed. `Unavailable` where what is
    /// on its way to a node that goes cannot be made durable, and nothing is changed.
    pub async fn set_nodes(&self, nodes: impl IntoIterator<Item = ErasureNode>) -> Result<()> {
        let (inner, nodes) = (Arc::clone(&self.inner), nodes.into_iter().collect());
        detached("erasure.set_nodes", async move { inner.set_nodes(nodes).await }).await
    }

    /// How many blocks a node has shards of, whether they belong there or not: what a node that is drained has to lose.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no such node; its own.
    pub async fn blocks_on(&self, node: &str) -> Result<u64> {
        self.inner.blocks_on(node).await
    }

    /// Begins a pass over the keys of all blocks that repairs those of which a node has nothing although a shard belongs
    /// there, or something although none does; does nothing before its first step. It reads what it repairs, no more than
    /// so many bytes in a second.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, block::{Erasure, ErasureNode, ErasureOptions, Mem}};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let (key, nodes) = (BlockKey::new(b"k")?, [(); 6].map(|()| Arc::new(Mem::default())));
    /// let with = |nodes: &[Arc<Mem>]| {
    ///     let nodes = nodes.iter().enumerate().map(|(n, node)| ErasureNode::new(format!("node {n}"), node.clone()));
    ///     Erasure::new(nodes, ErasureOptions::default())
    /// };
    /// with(&nodes)?.put(&key, "block".into()).await?;
    /// let mut replaced = nodes.to_vec();
    /// replaced[2] = Arc::new(Mem::default());
    /// let store = with(&replaced)?;
    /// assert_eq!(store.settle(None).run().await?.moved, 1);
    /// assert_eq!(store.settle(None).run().await?.moved, 0);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn settle(&self, bytes_per_sec: Option<NonZeroU64>) -> Settle {
        Settle::new(Arc::clone(&self.inner), bytes_per_sec)
    }

    /// Begins a pass over all blocks that repairs each; does nothing before its first step.
    ///
    /// ```
    /// use muxfs::{BlockKey, BlockStore, block::{Erasure, ErasureNode, ErasureOptions, Mem, ScrubOptions}};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let nodes = (0..6).map(|n| ErasureNode::new(format!("node {n}"), Mem::default()));
    /// let store = Erasure::new(nodes, ErasureOptions::default())?;
    /// store.put(&BlockKey::new(b"k")?, "block".into()).await?;
    /// let mut scrub = store.scrub(ScrubOptions::default());
    /// let report = scrub.run().await?;
    /// assert_eq!((report.blocks, report.shards.shards_read, report.shards.bad), (1, 6, 0));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn scrub(&self, options: ScrubOptions) -> Scrub {
        Scrub::new(Arc::clone(&self.inner), options)
    }

    /// Brings a block to this store's parameters: writes all shards of the new stripe, makes them durable, and then
    /// deletes those of others. Whether there was anything to do. Repeatable: at each moment until it ends the block can
    /// be read, and another call goes on where one was broken off.
    ///
    /// # Errors
    /// `Unavailable` naming the nodes while any of them is; `Corrupt` where there are shards that give no block.
    pub async fn reencode(&self, key: &BlockKey) -> Result<bool> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        detached("erasure.reencode", async move { inner.reencode(&key).await }).await
    }
}

impl fmt::Debug for Erasure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (data_count, parity_count) = self.inner.code.counts();
        write!(f, "Erasure({data_count}+{parity_count} on {} nodes)", self.inner.members().len())
    }
}

#[async_trait]
impl BlockStore for Erasure {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        Ok(self.inner.read(key, What::Block).await?.map(|Found { block, .. }| block))
    }

    async fn get_opened(&self, key: &BlockKey, open: OpenBlock<'_>) -> Result<Option<Result<Bytes>>> {
        self.inner.read_opened(key, open).await
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        detached("erasure.put", async move { inner.put(&key, &block).await }).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        detached("erasure.delete", async move { inner.delete(&key).await }).await
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        match self.inner.read(key, What::Headers).await {
            Ok(found) => Ok(found.is_some()),
            // It is known that there are too few shards; a put adds to them.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        Ok(self.inner.read(key, What::Headers).await?.map(|Found { stripe, .. }| stripe.block_len.into()))
    }

    async fn flush(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        detached("erasure.flush", async move { inner.flush().await }).await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

impl Inner {
    /// k + m.
    fn shards(&self) -> usize {
        let (data_count, parity_count) = self.code.counts();
        usize::from(data_count) + usize::from(parity_count)
    }

    fn stored_count_min(&self) -> usize {
        let (data_count, parity_count) = self.code.counts();
        stored_count_min(data_count, parity_count)
    }

    async fn lock(&self, key: &BlockKey) -> AsyncMutexGuard<'_, ()> {
        let lock = crc32c::crc32c(key.as_bytes()) as usize % LOCK_COUNT;
        self.locks[lock].lock().await
    }

    fn unflushed(&self) -> MutexGuard<'_, BTreeSet<Unflushed>> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has every node flush. What was written to one that fails counts as not written, which matters to blocks that have
    /// too few others.
    async fn flush(&self) -> Result<()> {
        // One that is called meanwhile answers for what this one could not make durable.
        let _guard = self.flushing.lock().await;
        let repaired = self.sync_owed().await?;
        let written = mem::take(&mut *self.unflushed());
        // After that: a node that fails is owed each deletion that this flush answers for.
        let deleted = self.fresh_deletions();
        let flushed = match self.flush_written(written).await {
            Ok(failed) => self.owe_fresh_deletions(deleted, &failed).await,
            Err(error) => Err(error),
        };
        self.settle_owed(repaired, flushed.is_ok()).await;
        flushed
    }

    /// Which nodes failed, where the others are enough.
    async fn flush_written(&self, written: BTreeSet<Unflushed>) -> Result<Vec<usize>> {
        let is_short = |Unflushed { nodes, count_min, .. }: &Unflushed, flushes: &[(usize, Result<()>)]| {
            let is_durable = |node: &&usize| flushes.iter().any(|(other, flush)| other == *node && flush.is_ok());
            nodes.iter().filter(is_durable).count() < *count_min
        };
        let flushes = self
            .flush_nodes(self.members().into_iter(), |flushes| {
                !written.iter().any(|written| is_short(written, flushes))
            })
            .await;
        let short: BTreeSet<_> = written.into_iter().filter(|written| is_short(written, &flushes)).collect();
        if short.is_empty() {
            return Ok(flushes.into_iter().filter(|(_, flush)| flush.is_err()).map(|(node, _)| node).collect());
        }
        let failed: Vec<_> = flushes.into_iter().filter_map(|(node, flush)| Some((node, flush.err()?))).collect();
        self.unflushed().extend(short);
        let failed = self.failures(failed.iter().map(|(node, error)| (*node, error)));
        let why = format!("too few nodes made durable what was written; missing: {failed}");
        Err(Error::new(ErrorKind::Unavailable, "erasure.flush").because(why))
    }

    /// Has nodes flush; one that is down is not waited for where the others are enough.
    async fn flush_nodes(
        &self,
        nodes: impl Iterator<Item = usize>,
        is_enough: impl Fn(&[(usize, Result<()>)]) -> bool,
    ) -> Vec<(usize, Result<()>)> {
        self.wait_for(nodes.map(|node| (node, self.nodes[node].flush())), is_enough).await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        struct Listing<'a> {
            /// So many of the nodes were begun.
            node: usize,
            keys: Option<BoxStream<'a, Result<BlockKey>>>,
            failed: Vec<(usize, Error)>,
            members: Vec<usize>,
        }
        let members = self.members();
        let start = Listing { node: 0, keys: Some(stream::empty().boxed()), failed: Vec::new(), members };
        stream::unfold(start, move |mut listing| async move {
            loop {
                let Listing { node, keys, failed, members } = &mut listing;
                let number = node.checked_sub(1).and_then(|at| members.get(at)).copied();
                let next = match (keys.as_mut()?, number) {
                    (_, None) => Ok(None),
                    // That one which has failed gives no more is no answer of it.
                    (_, Some(number)) if failed.last().is_some_and(|(last, _)| *last == number) => Ok(None),
                    (keys, Some(number)) => self.nodes[number].call(async { keys.next().await.transpose() }).await,
                };
                let number = number.unwrap_or_default();
                match next {
                    Ok(Some(key)) => {
                        if let Some(key) = without_slot(&key)
                            && !self.mending.is_deleted(number, &key)
                        {
                            return Some((Ok(key), listing));
                        }
                    }
                    Err(error) => {
                        failed.push((number, error));
                        *keys = Some(stream::empty().boxed());
                    }
                    Ok(None) if *node < members.len() => {
                        *keys = Some(self.nodes[members[*node]].store().keys());
                        *node += 1;
                    }
                    Ok(None) => {
                        *keys = None;
                        // What counts as stored is on one of the other nodes too.
                        if failed.len() >= self.stored_count_min() {
                            let failed = self.failures(failed.iter().map(|(node, error)| (*node, error)));
                            let why = format!("keys may be missing; unreachable: {failed}");
                            return Some((
                                Err(Error::new(ErrorKind::Unavailable, "erasure.keys").because(why)),
                                listing,
                            ));
                        }
                    }
                }
            }
        })
        .boxed()
    }

    /// The names of nodes that failed, each with its error.
    fn failures<'a>(&self, failed: impl Iterator<Item = (usize, &'a Error)>) -> String {
        let failures = failed.map(|(node, error)| format!("{} ({error:#})", self.nodes[node].name));
        failures.collect::<Vec<_>>().join(", ")
    }
}

/// A block's keys on a node: its own and the number of the slot. `None` for a key that is too long, of which there is no
/// block.
fn slot_keys(key: &BlockKey) -> Option<[BlockKey; SLOT_COUNT]> {
    let slot_key = |slot| BlockKey::new(&[key.as_bytes(), &[slot]].concat()).ok();
    Some([slot_key(0)?, slot_key(1)?])
}

/// The key of the block that a node's key is of; `None` if that is no key of a shard.
fn without_slot(key: &BlockKey) -> Option<BlockKey> {
    let (slot, key) = key.as_bytes().split_last()?;
    (usize::from(*slot) < SLOT_COUNT).then_some(())?;
    BlockKey::new(key).ok()
}
