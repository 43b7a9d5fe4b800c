//! Transactions: changes of many nodes that are one record of the journal, and so one change.
//!
//! What a transaction changes is a layer of its own above those of the tree, which nobody else sees. When it ends, the
//! effects of all its calls become one record, under the lock that every change takes: a commit freezes before it or
//! behind it, a sync covers it or does not, a crash leaves it whole or not at all, and replay needs to know nothing of
//! transactions. Nobody waits for one: what it goes by is noted as it looks, and where something else changed that
//! before it ends, it is refused and has done nothing. Spec: spec/tree.md #transactions.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{
    Tree,
    inode::Meta,
    layer::Layer,
    ops::Part,
    record::{Effect, Usage},
    sight::{Halt, Try},
    standing::Standing,
    state::{Attempt, Edit},
};
use crate::{
    Error, ErrorKind, Name, Result,
    dag::{DagLease, WriteSession},
    forward_vfs,
    log::LogPos,
    media::SegmentId,
    rank::Rank,
    vfs::{Ino, Vfs},
};

/// Where a layer of a transaction says that bytes are which are in no record yet.
pub(super) const UNPLACED: LogPos = LogPos { segment: SegmentId(u64::MAX), offset: 0 };

/// What a transaction puts into its record of the bytes that it writes; what is more goes to the block store. To read any
/// of a record all of it is read.
const DATA_LEN_MAX: usize = 4 << 20;
/// What several calls at a time may put there that each found room.
const DATA_LEN_LIMIT: usize = 2 * DATA_LEN_MAX;
/// What all else takes of the record, at most: so that the record is one that the log takes.
const EFFECTS_LEN_MAX: usize = 4 << 20;
/// The most that the effect of an inode takes of it: a tag, two numbers, six words, four long words and three times.
const INODE_LEN_MAX: usize = 1 + 10 + 1 + 6 * 5 + 4 * 10 + 3 * 15;
/// So many nodes and names a transaction may go by: each takes a hundred bytes or two of memory.
const SEEN_COUNT_MAX: usize = 1 << 17;
/// How often [`Tree::transaction`] begins again.
const TRY_COUNT_MAX: u32 = 100;

/// What a transaction goes by: nodes as they are below its own changes, and where names lead.
#[derive(Debug, Default)]
pub(super) struct Seen {
    nodes: HashMap<Ino, Option<Meta>>,
    names: HashMap<(Ino, Name), Option<(Rank, Ino)>>,
    /// Whether something of it has changed since.
    is_outdated: bool,
}

impl Seen {
    pub(super) fn node(&mut self, ino: Ino, meta: Option<Meta>) -> Result<()> {
        let is_full = self.is_full();
        match self.nodes.get(&ino) {
            Some(before) if *before == meta => Ok(()),
            Some(_) => Err(self.outdated()),
            None if is_full => Err(too_large("nodes that it goes by")),
            None => {
                self.nodes.insert(ino, meta);
                Ok(())
            }
        }
    }

    pub(super) fn name(&mut self, dir: Ino, name: &Name, place: Option<(Rank, Ino)>) -> Result<()> {
        let is_full = self.is_full();
        let key = (dir, name.clone());
        match self.names.get(&key) {
            Some(before) if *before == place => Ok(()),
            Some(_) => Err(self.outdated()),
            None if is_full => Err(too_large("names that it goes by")),
            None => {
                self.names.insert(key, place);
                Ok(())
            }
        }
    }

    fn is_full(&self) -> bool {
        self.nodes.len() + self.names.len() >= SEEN_COUNT_MAX
    }

    fn outdated(&mut self) -> Error {
        self.is_outdated = true;
        outdated()
    }
}

fn outdated() -> Error {
    let why = "something else changed what the transaction goes by: begin it again";
    Error::new(ErrorKind::Unavailable, "tree.transaction").because(why)
}

fn too_large(what: &str) -> Error {
    let why = format!("a transaction holds no more {what}: end it with what it has, and begin another");
    Error::new(ErrorKind::TooLarge, "tree.transaction").because(why)
}

/// What a transaction did so far.
#[derive(Debug, Default)]
pub(super) struct Grouped {
    pub(super) layer: Layer,
    pub(super) seen: Seen,
    pub(super) usage: Usage,
    /// In order, but for what inodes are, which the layer knows.
    effects: Vec<Effect>,
    /// What they are encoded.
    effects_len: usize,
    data: BytesMut,
    memory_len_max: usize,
    /// Keep what the effects name of blocks that others had, and blocks that were put.
    leases: Vec<DagLease>,
    _session: Option<WriteSession>,
    /// Whether a call that is one change failed after a part of it was made.
    is_partial: bool,
    has_ended: bool,
    /// Whether what it did is done.
    is_committed: bool,
}

impl Grouped {
    /// Refuses what cannot count any more.
    pub(super) fn stands(&self) -> Result<()> {
        if self.seen.is_outdated {
            return Err(outdated());
        }
        if self.has_ended {
            return Err(Error::new(ErrorKind::Stale, "tree.transaction").because("the transaction has ended"));
        }
        Ok(())
    }

    /// Takes a change in, to be seen by the calls behind it.
    pub(super) fn record(&mut self, edit: Edit) -> Result<()> {
        let Edit { mut effects, usage, data } = edit;
        if data.len() > DATA_LEN_LIMIT.saturating_sub(self.data.len()) {
            return Err(too_large("bytes that are in no whole chunk and that the block store cannot take now"));
        }
        let behind = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        for effect in &mut effects {
            if let Effect::Data { at, .. } = effect {
                *at += behind;
            }
        }
        let is_new = |effect: &&Effect| matches!(effect, Effect::Inode(ino, _) if !self.layer.nodes.contains_key(ino));
        let inode_count = self.layer.nodes.len() + effects.iter().filter(is_new).count();
        let others: Vec<Effect> =
            effects.iter().filter(|effect| !matches!(effect, Effect::Inode(..))).cloned().collect();
        let mut encoded = Vec::new();
        for effect in &others {
            effect.encode(&mut encoded);
        }
        let effects_len = self.effects_len + encoded.len();
        if effects_len + inode_count * INODE_LEN_MAX > EFFECTS_LEN_MAX || self.layer.memory_len > self.memory_len_max {
            return Err(too_large("changes"));
        }
        self.effects_len = effects_len;
        self.data.extend_from_slice(&data);
        self.usage = self.usage.plus(usage);
        self.effects.extend(others);
        self.layer.apply(UNPLACED, effects);
        Ok(())
    }

    /// Lets go of all that it held: nothing more becomes of it.
    fn end(&mut self) {
        let seen = Seen { is_outdated: self.seen.is_outdated, ..Seen::default() };
        *self = Self { has_ended: true, is_committed: self.is_committed, seen, ..Self::default() };
    }
}

/// A transaction, as its calls share it.
#[derive(Default)]
pub(super) struct Group(Mutex<Grouped>);

impl Group {
    pub(super) fn lock(&self) -> MutexGuard<'_, Grouped> {
        // A panic under the lock is a bug of ours that already showed itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl Standing {
    /// Bytes that a transaction wrote and that are in no record yet.
    pub(super) fn read(&self, at: u32, len: usize) -> Result<Bytes> {
        let internal = || Error::new(ErrorKind::Internal, "tree.transaction").because("bytes of no transaction");
        let group = self.group().ok_or_else(internal)?;
        // Read by a call that was under way when it ended.
        group.stands()?;
        let bytes = group.data.get(at as usize..).and_then(|bytes| bytes.get(..len));
        Ok(Bytes::copy_from_slice(bytes.ok_or_else(internal)?))
    }

    /// How many bytes more the record of a transaction takes; `None` for calls that are in none.
    pub(super) fn data_room(&self) -> Option<usize> {
        self.group().map(|group| DATA_LEN_MAX.saturating_sub(group.data.len()))
    }

    /// Keeps what a transaction may name until it ends; for calls that are in none, gives it back.
    pub(super) fn hold(&self, leases: Vec<DagLease>) -> Vec<DagLease> {
        match self.group() {
            Some(mut group) if !group.has_ended => {
                group.leases.extend(leases);
                Vec::new()
            }
            _ => leases,
        }
    }
}

impl Attempt<'_> {
    /// Ends the transaction: all that it did becomes one record, if what it went by is still so.
    fn end_transaction(&mut self, op: &'static str) -> Try<()> {
        // From here on all that is seen is what others see.
        let Some(group) = self.group.take() else { return Err(Error::new(ErrorKind::Internal, op).into()) };
        self.check_seen(&mut group.seen)?;
        if group.layer.is_empty() {
            group.is_committed = true;
            group.end();
            return Ok(());
        }
        if group.is_partial {
            let why = "a call in the transaction failed after a part of its change was made: begin again";
            return Err(Error::new(ErrorKind::InvalidArgument, op).because(why).into());
        }
        if self.state.undecided {
            return Err(Halt::Undecided);
        }
        let mut inodes: Vec<(Ino, Meta)> = group.layer.nodes.iter().map(|(ino, node)| (*ino, node.meta)).collect();
        inodes.sort_unstable_by_key(|(ino, _)| *ino);
        // Of nodes without a name nothing outlives a restart, but they take room until nobody leases them.
        let mut room = group.usage;
        let mut lost = Vec::new();
        let mut grown = 0_i64;
        for (ino, meta) in inodes.iter().filter(|(_, meta)| meta.nlink == 0) {
            let is_leased = self.state.leases.contains_key(ino);
            match group.seen.nodes.get(ino).copied().flatten() {
                Some(before) if before.nlink == 0 && !is_leased => {
                    group.seen.is_outdated = true;
                    return Err(Error::new(ErrorKind::Stale, op).at(ino.0).into());
                }
                Some(before) if before.nlink == 0 => {
                    let more = i128::from(meta.used) - i128::from(before.used);
                    grown = grown.saturating_add(i64::try_from(more).unwrap_or(i64::MAX));
                }
                _ => {
                    lost.push((*ino, *meta));
                    if is_leased {
                        let bytes = i64::try_from(meta.used).unwrap_or(i64::MAX);
                        room = room.plus(Usage { inodes: 1, bytes });
                    }
                }
            }
        }
        self.check_usage(room.plus(Usage { inodes: 0, bytes: grown }), op)?;
        let mut effects: Vec<Effect> = inodes.into_iter().map(|(ino, meta)| Effect::Inode(ino, meta)).collect();
        effects.append(&mut group.effects);
        let edit = Edit { effects, usage: group.usage, data: group.data.split().freeze() };
        let recorded = self.record(edit);
        // What it keeps in the store is named by the tree from here on, or by nobody.
        group.end();
        recorded?;
        group.is_committed = true;
        self.state.orphan_used = self.state.orphan_used.saturating_add_signed(grown);
        for (ino, meta) in lost {
            self.state.lost_its_name(ino, &meta);
        }
        Ok(())
    }

    /// Refuses where something changed that the transaction goes by, and ends nothing.
    fn check_transaction(&mut self) -> Try<()> {
        match self.group.take() {
            Some(group) => self.check_seen(&mut group.seen),
            None => Ok(()),
        }
    }

    /// Refuses where something changed that the transaction goes by. What is missing to know is told at once, to be loaded
    /// at once.
    fn check_seen(&mut self, seen: &mut Seen) -> Try<()> {
        let mut missing = Vec::new();
        let mut is_same = true;
        let mut check = |found: Try<bool>| {
            match found {
                Ok(same) => is_same &= same,
                Err(Halt::Missing(ids)) => missing.extend(ids),
                Err(halt) => return Err(halt),
            }
            Ok(())
        };
        for (ino, meta) in &seen.nodes {
            check(self.sight(|sight| sight.meta(*ino)).map(|found| found == *meta))?;
        }
        for ((dir, name), place) in &seen.names {
            let found = self.sight(|sight| sight.entry(*dir, name));
            check(found.map(|found| found.map(|entry| (entry.rank, entry.ino)) == *place))?;
        }
        match (is_same, missing.is_empty()) {
            (false, _) => Err(seen.outdated().into()),
            (true, true) => Ok(()),
            (true, false) => {
                missing.sort_unstable();
                missing.dedup();
                Err(Halt::Missing(missing))
            }
        }
    }
}

/// Changes of a [`Tree`] that are made together or not at all: a [`Vfs`] of the tree with these changes, which nobody else
/// sees before [`Transaction::commit`]. Clones share it; when the last goes, what was not committed is as if it had never
/// been.
///
/// Reads see what the transaction wrote, and else what the tree has. Others write meanwhile, and wait for nothing. Where
/// others changed a node or a name that a transaction saw before, the call that meets it again is refused (`Unavailable`),
/// and so are all after it. Two that were seen once each may be of two moments: only the commit tells that all is of one, so
/// nothing should be told, and nobody panic, by what was read before. Of a directory that was only looked up on the way,
/// the metadata may change.
///
/// Numbers and handles of nodes that it makes are those they keep. A `sync` in a transaction makes nothing durable: that
/// is for the tree to do, once it is committed. A transaction holds about 20,000 new nodes, or changes of 25,000 others;
/// of bytes that it writes, any number, as the block store takes what is more than 4 MiB. What is more is refused
/// (`TooLarge`), and changes nothing, but for a copy of a range, which may be made in part.
#[derive(Debug, Clone)]
pub struct Transaction {
    tree: Tree,
}

impl Transaction {
    /// Makes all changes of the transaction those of the tree, at one moment: in the journal when it returns, and durable
    /// after a `sync` of the tree, all of them or none, whatever happens.
    ///
    /// Ends it also after an error, when none of them is made; calls of other clones are `Stale` from here on.
    ///
    /// # Errors
    /// `Unavailable` where something else changed what the transaction goes by: files that it read or changed, directories
    /// that it listed or changed, names that it looked up; `Stale` after a checkout; `NoSpace`; `InvalidArgument` where a
    /// [`Repo`](crate::repo::Repo) made but a part of one of its changes; those of a change.
    pub async fn commit(self) -> Result<()> {
        let Tree { shared, standing } = &self.tree;
        let ended = async {
            let (changes, grows) = standing.group().map_or((false, false), |group| {
                (!group.layer.is_empty(), group.usage.bytes > 0 || group.usage.inodes > 0)
            });
            if grows {
                shared.refuse_when_short()?;
            }
            // One that only reads is for a journal that takes no more, too.
            if changes {
                shared.make_room().await?;
            }
            let _no_checkout = shared.gate.read().await;
            shared.attempt(standing, |attempt| attempt.end_transaction("tree.transaction")).await?;
            if changes && shared.options.write_through { shared.log.write().await } else { Ok(()) }
        };
        let ended = ended.await;
        self.end();
        ended
    }

    /// Lets go of all that it did and held, for all its clones.
    fn end(&self) {
        if let Some(mut group) = self.tree.standing.group() {
            group.end();
        }
    }

    /// A part of a change was made that should be one: what has it cannot be committed.
    pub(crate) fn spoil(&self) {
        if let Some(mut group) = self.tree.standing.group() {
            group.is_partial = true;
        }
    }

    /// Looks once more at what it goes by, for [`Transaction::is_outdated`] to tell whether all of it is of one moment.
    async fn look_again(&self) {
        let Tree { shared, standing } = &self.tree;
        #[expect(
            clippy::redundant_closure_for_method_calls,
            reason = "the method is of one lifetime, the closure of all"
        )]
        let checked = shared.attempt(standing, |attempt| attempt.check_transaction()).await;
        if let Err(error) = checked {
            tracing::debug!(%error, "what a transaction goes by has changed, or cannot be looked at");
        }
    }

    /// Writes `parts`, which are ascending and apart and all in `range`.
    pub(super) async fn write_parts(&self, ino: Ino, range: Range<u64>, parts: &[Part]) -> Result<()> {
        let Tree { shared, standing } = &self.tree;
        shared.grow(standing, |attempt| attempt.write(ino, &range, parts, false)).await.map(drop)
    }

    /// Whether something else changed what it goes by, so that it cannot be committed: one that begins now sees that.
    pub fn is_outdated(&self) -> bool {
        // Of what is done nothing is outdated, whatever else its commit met.
        let Some(group) = self.tree.standing.group() else { return false };
        let (is_committed, is_outdated) = (group.is_committed, group.seen.is_outdated);
        drop(group);
        !is_committed && (is_outdated || self.tree.is_past())
    }
}

/// A transaction of [`Tree::transaction`]: it ends with that, whoever has a clone of it.
struct Run(Transaction);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Tree {
    /// Begins a transaction; [`Tree::transaction`] also ends it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Name, block, dag::{Dag, DagOptions}, heads::MemHeads, media::MemMedia, testing};
    /// # use muxfs::{tree::{Tree, TreeOptions}, vfs::{NewNode, SetAttr, Vfs}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// # let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// # let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await?;
    /// let name = Name::new(b"new")?;
    /// let transaction = tree.begin();
    /// let made = transaction.create(transaction.root(), &name, NewNode::Dir, SetAttr::default()).await?;
    /// transaction.release(made.node.ino, 1);
    /// assert!(transaction.lookup(tree.root(), &name).await.is_ok());
    /// assert!(tree.lookup(tree.root(), &name).await.is_err(), "nobody else sees it yet");
    /// transaction.commit().await?;
    /// assert!(tree.lookup(tree.root(), &name).await.is_ok());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn begin(&self) -> Transaction {
        let grouped = Grouped {
            memory_len_max: self.shared.options.memory_len_max,
            _session: Some(self.shared.dag.begin_write()),
            ..Grouped::default()
        };
        let mut tree = self.as_it_stands();
        tree.standing.transaction = Some(Arc::new(Group(Mutex::new(grouped))));
        Transaction { tree }
    }

    /// Runs `changes` in a transaction and commits it: all of them are made, or, after an error, none.
    ///
    /// In the journal when it returns, and durable after `sync`, as any change. Where others changed meanwhile what it
    /// goes by, `changes` runs again in a new transaction, so that it sees that: it should do nothing elsewhere that must
    /// not be done twice. So it does too where `changes` fails: its error is given only if all that it went by was of one
    /// moment. Whoever gives up waiting has made no change, or all. What is left of a transaction outside `changes` has
    /// ended when this returns.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Error, ErrorKind, Name, block, dag::{Dag, DagOptions}, heads::MemHeads, media::MemMedia, testing};
    /// # use muxfs::{tree::{Tree, TreeOptions}, vfs::{NewNode, SetAttr, Vfs, ext::list}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// # let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// # let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await?;
    /// async fn make(vfs: &dyn Vfs, name: &str) -> muxfs::Result<()> {
    ///     let made = vfs.create(vfs.root(), &Name::new(name.as_bytes())?, NewNode::File, SetAttr::default()).await?;
    ///     vfs.release(made.node.ino, 1);
    ///     Ok(())
    /// }
    /// tree.transaction(|t| async move {
    ///     make(&t, "one").await?;
    ///     make(&t, "two").await
    /// })
    /// .await?;
    /// let failed = tree.transaction(|t| async move {
    ///     make(&t, "three").await?;
    ///     Err::<(), _>(Error::new(ErrorKind::InvalidArgument, "example"))
    /// });
    /// assert!(failed.await.is_err());
    /// assert_eq!(list(&tree, tree.root(), 10).await?.len(), 2, "one and two, and no three");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of `changes`; those of [`Transaction::commit`], `Unavailable` where others were in the way a hundred times.
    pub async fn transaction<T, F>(&self, mut changes: impl FnMut(Transaction) -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let mut try_count = 1;
        loop {
            let run = Run(self.begin());
            let transaction = &run.0;
            let done = match changes(transaction.clone()).await {
                Ok(done) => transaction.clone().commit().await.map(|()| done),
                Err(error) => {
                    transaction.look_again().await;
                    Err(error)
                }
            };
            // The tree itself may be one that ends with a checkout.
            if done.is_ok() || !transaction.is_outdated() || self.is_past() {
                return done;
            }
            if try_count >= TRY_COUNT_MAX {
                return Err(outdated());
            }
            try_count += 1;
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Transaction {
    forward_vfs!(tree: root, lookup, expect, parent, getattr, readdir, read, host_file, readlink, statfs, handle);
    forward_vfs!(tree: resolve, retain, release, setattr, write, create, remove, rename, link, allocate, punch_hole);
    forward_vfs!(tree: copy_range, seek, getxattr, listxattr, setxattr, removexattr, sync, sync_inode);
}
