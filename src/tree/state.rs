//! What a tree knows, and one attempt to read or change it.
//!
//! Everything is behind one lock that is held for the time of an attempt only, and an attempt never waits: it reads what
//! it needs, decides, and where it changes something makes one journal record and applies it. So every call is one
//! point in time, and the journal is in the order of those points.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU64,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;

use super::{
    attrs::{AttrNode, Attrs, INO_END, NodeCache, NodeId, Nodes},
    commit_node::Commit,
    inode::Meta,
    layer::Layer,
    ops::new_meta,
    record::{Effect, Record, Usage},
    sight::{Halt, Sight, Try, refuse},
    transaction::Grouped,
};
use crate::{
    Cid, Error, ErrorKind, FileKind,
    log::{Log, LogPos},
    vfs::{Attr, Changed, Ino, NewNode},
};

/// So many numbers are reserved at a time: a sync for each so many new nodes, and so many that a restart skips.
const RESERVE_COUNT: u64 = 1 << 16;
/// The number of the root directory.
pub(super) const ROOT: Ino = Ino(NonZeroU64::MIN);

/// The commit below the layers.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) cid: Cid,
    pub(super) commit: Arc<Commit>,
    pub(super) attrs: Attrs,
}

/// The most bytes that all files may take: changes of the sum are signed.
pub(super) const USED_MAX: u64 = i64::MAX as u64;

/// How much there may be; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes that all files together may take, in pages of 4 KiB.
    pub bytes_max: Option<u64>,
    /// Nodes there may be.
    pub inodes_max: Option<u64>,
}

/// What a tree knows.
#[derive(Debug)]
pub(super) struct State {
    pub(super) base: Base,
    /// What changed and is not being committed.
    pub(super) active: Layer,
    /// What a commit is writing out.
    pub(super) frozen: Option<Arc<Layer>>,
    /// Committed nodes without a name that somebody leases still.
    pub(super) orphans: Arc<Layer>,
    pub(super) leases: HashMap<Ino, u64>,
    pub(super) cache: NodeCache,
    pub(super) next_ino: u64,
    /// The next number to give, while it is below `reserved`; what is reserved is taken in the journal, durably.
    pub(super) give: u64,
    pub(super) reserved: u64,
    /// How many nodes have a name, and the bytes they take.
    pub(super) inode_count: u64,
    pub(super) used: u64,
    /// How many nodes without a name are leased, and the bytes they take: nothing of them outlives a restart.
    pub(super) orphan_count: u64,
    pub(super) orphan_used: u64,
    /// Counts the commits that became the base, so that a reader knows that what it was told is outdated.
    pub(super) generation: u64,
    /// Counts the checkouts: whoever learned something of a node before one knows nothing of it.
    pub(super) checkout_count: u64,
    /// Counts the records that name blocks; those of a journal that was replayed are one.
    pub(super) naming_count: u64,
    /// Chunks that went past the journal and that no flush of the store covers since, with the count of the records that
    /// named them last.
    pub(super) unproved: BTreeMap<Cid, u64>,
    /// Those of them that the journal named when it was replayed.
    pub(super) inherited: BTreeSet<Cid>,
    /// Chunks whose bytes the journal has as well, and where: what names one is read from there.
    pub(super) kept: BTreeMap<Cid, LogPos>,
    /// Commits that the head may name: swapping it failed, and may have happened all the same.
    pub(super) doubtful: Vec<Cid>,
    /// Whether a checkout is among them, so that nobody knows what a change would change.
    pub(super) undecided: bool,
    /// No more changes: what there is is being made durable for the last time.
    pub(super) closed: bool,
    /// Why nothing can be committed from here any more, where another program goes on with the head.
    pub(super) passed_over: Option<String>,
}

impl State {
    pub(super) fn new(base: Base, cache: NodeCache) -> Self {
        Self {
            next_ino: base.attrs.next_ino(),
            give: 0,
            reserved: 0,
            inode_count: base.attrs.inode_count(),
            used: base.attrs.used(),
            base,
            active: Layer::default(),
            frozen: None,
            orphans: Arc::default(),
            leases: HashMap::new(),
            cache,
            orphan_count: 0,
            orphan_used: 0,
            generation: 0,
            checkout_count: 0,
            naming_count: 1,
            unproved: BTreeMap::new(),
            inherited: BTreeSet::new(),
            kept: BTreeMap::new(),
            doubtful: Vec::new(),
            undecided: false,
            closed: false,
            passed_over: None,
        }
    }

    /// Applies a change of the journal: the only place where the state changes by one.
    pub(super) fn apply(&mut self, pos: LogPos, effects: Vec<Effect>, usage: Usage) {
        for effect in &effects {
            if let Effect::Inode(ino, _) = effect
                && ino.0.get() < INO_END
            {
                self.next_ino = self.next_ino.max(ino.0.get() + 1);
            }
        }
        self.inode_count = self.inode_count.saturating_add_signed(usage.inodes);
        self.used = self.used.saturating_add_signed(usage.bytes);
        self.active.apply(pos, effects);
    }

    /// Begins with what the base holds: nothing changed since, and no node is but those in it.
    pub(super) fn begin_at_base(&mut self) {
        self.checkout_count += 1;
        let attrs = &self.base.attrs;
        (self.next_ino, self.inode_count, self.used) = (attrs.next_ino(), attrs.inode_count(), attrs.used());
        self.orphans = Arc::default();
        (self.orphan_count, self.orphan_used) = (0, 0);
    }

    /// Counts a node whose last name just went, or frees it where nobody leases it.
    pub(super) fn lost_its_name(&mut self, ino: Ino, meta: &Meta) {
        self.orphan_count += 1;
        self.orphan_used = self.orphan_used.saturating_add(meta.used);
        self.free_if_gone(ino);
    }

    /// Frees what a node without a name held, where nobody leases it any more.
    pub(super) fn free_if_gone(&mut self, ino: Ino) {
        if self.leases.contains_key(&ino) {
            return;
        }
        let layers = [Some(&self.active), self.frozen.as_deref(), Some(&*self.orphans)];
        let newest = layers.into_iter().flatten().find_map(|layer| layer.nodes.get(&ino));
        let Some(meta) = newest.map(|node| node.meta).filter(|meta| meta.nlink == 0) else { return };
        self.active.forget(ino);
        if self.orphans.nodes.contains_key(&ino) {
            Arc::make_mut(&mut self.orphans).nodes.remove(&ino);
        }
        self.orphan_count = self.orphan_count.saturating_sub(1);
        self.orphan_used = self.orphan_used.saturating_sub(meta.used);
    }

    /// Frees every node that has no name: after a restart nobody leases one.
    pub(super) fn free_orphans(&mut self) {
        let gone = self.active.nodes.iter().filter(|(_, node)| node.meta.nlink == 0).map(|(ino, _)| *ino);
        for ino in gone.collect::<Vec<_>>() {
            self.active.forget(ino);
        }
    }
}

/// Decoded nodes that an attempt may use: those that were loaded for it, and what the tree keeps.
pub(super) struct Reading<'a> {
    pub(super) held: &'a HashMap<NodeId, Arc<AttrNode>>,
    pub(super) cache: &'a mut NodeCache,
}

impl Nodes for Reading<'_> {
    fn node(&mut self, id: NodeId) -> Option<Arc<AttrNode>> {
        self.held.get(&id).cloned().or_else(|| self.cache.node(id))
    }
}

/// One attempt at a call.
pub(super) struct Attempt<'a> {
    pub(super) state: &'a mut State,
    pub(super) held: &'a HashMap<NodeId, Arc<AttrNode>>,
    pub(super) log: &'a Log,
    pub(super) quota: Quota,
    pub(super) now: SystemTime,
    /// What the transaction changed that the call is in.
    pub(super) group: Option<&'a mut Grouped>,
}

/// A change that is being put together.
#[derive(Debug, Default)]
pub(super) struct Edit {
    pub(super) effects: Vec<Effect>,
    pub(super) usage: Usage,
    pub(super) data: Bytes,
}

impl Edit {
    /// The metadata of an inode, stamped as changed at `now`.
    pub(super) fn touch(&mut self, ino: Ino, meta: &mut Meta, now: SystemTime) {
        meta.ctime = now;
        meta.change = meta.change.saturating_add(1);
        // Each inode is told of before the rest of it is.
        self.effects.insert(0, Effect::Inode(ino, *meta));
    }
}

impl Attempt<'_> {
    /// The state as the layers and the base say. A transaction goes by what is seen of it, and ends only where that is
    /// still so.
    pub(super) fn sight<T>(&mut self, look: impl FnOnce(&mut Sight<'_>) -> Try<T>) -> Try<T> {
        self.look(true, look)
    }

    /// The same, of what a transaction passes and does not go by.
    pub(super) fn glance<T>(&mut self, look: impl FnOnce(&mut Sight<'_>) -> Try<T>) -> Try<T> {
        self.look(false, look)
    }

    fn look<T>(&mut self, is_gone_by: bool, look: impl FnOnce(&mut Sight<'_>) -> Try<T>) -> Try<T> {
        let State { base, active, frozen, orphans, cache, .. } = &mut *self.state;
        let mut reading = Reading { held: self.held, cache };
        let (own, seen) = match self.group.as_deref_mut() {
            Some(Grouped { layer, seen, .. }) => (Some(&*layer), is_gone_by.then_some(seen)),
            None => (None, None),
        };
        let layers = [own, Some(&*active), frozen.as_deref(), Some(&**orphans)];
        look(&mut Sight { layers, base: &base.attrs, nodes: &mut reading, seen })
    }

    /// The metadata of a node that is there: one with a name, or one without that somebody leases.
    pub(super) fn meta(&mut self, ino: Ino, op: &'static str) -> Try<Meta> {
        let meta = self.sight(|sight| sight.meta(ino))?;
        self.there(ino, meta, op)
    }

    /// The same of a node on the way to others: a transaction goes by the names that lead on, not by what else becomes
    /// of a directory.
    pub(super) fn passed(&mut self, ino: Ino, op: &'static str) -> Try<Meta> {
        let meta = self.glance(|sight| sight.meta(ino))?;
        self.there(ino, meta, op)
    }

    fn there(&self, ino: Ino, meta: Option<Meta>, op: &'static str) -> Try<Meta> {
        match meta {
            Some(meta) if meta.nlink > 0 || self.state.leases.contains_key(&ino) => Ok(meta),
            _ => Err(Error::new(ErrorKind::Stale, op).at(ino.0).into()),
        }
    }

    /// The metadata of a directory, which may have been removed.
    pub(super) fn dir(&mut self, ino: Ino, op: &'static str) -> Try<Meta> {
        let meta = self.meta(ino, op)?;
        if meta.kind == FileKind::Dir { Ok(meta) } else { Err(Error::new(ErrorKind::NotDir, op).at(ino.0).into()) }
    }

    /// The metadata of a directory that is still there: nothing can be put into one that was removed.
    pub(super) fn living_dir(&mut self, ino: Ino, op: &'static str) -> Try<Meta> {
        let meta = self.dir(ino, op)?;
        if meta.nlink == 0 {
            return Err(Error::new(ErrorKind::NotFound, op).because("the directory was removed").into());
        }
        Ok(meta)
    }

    /// The metadata of a regular file.
    pub(super) fn file(&mut self, ino: Ino, op: &'static str) -> Try<Meta> {
        let meta = self.meta(ino, op)?;
        match meta.kind {
            FileKind::File => Ok(meta),
            FileKind::Dir => Err(Error::new(ErrorKind::IsDir, op).at(ino.0).into()),
            _ => Err(Error::new(ErrorKind::InvalidArgument, op).at(ino.0).because("only a file has bytes").into()),
        }
    }

    /// What clients are told of a node.
    pub(super) fn attr(&mut self, ino: Ino, meta: &Meta) -> Try<Attr> {
        let is_own = self.group.as_ref().is_some_and(|group| !group.layer.is_empty());
        let quiet = self.state.active.is_empty() && self.state.frozen.is_none() && !is_own;
        let cid = self.sight(|sight| {
            // A directory changes with everything below it.
            if sight.is_committed(ino) && (meta.kind != FileKind::Dir || quiet) {
                Ok(sight.base(ino)?.and_then(|inode| inode.content).map(|link| link.cid))
            } else {
                Ok(None)
            }
        })?;
        Ok(meta.attr(ino, cid))
    }

    /// What a call tells that found nothing to do.
    pub(super) fn unchanged(&mut self, ino: Ino, meta: &Meta) -> Try<Changed> {
        Ok(Changed { before: meta.pre(), after: self.attr(ino, meta)? })
    }

    /// Counts a lease; the root's is endless and not counted.
    pub(super) fn lease(&mut self, ino: Ino) {
        if ino != ROOT {
            *self.state.leases.entry(ino).or_insert(0) += 1;
        }
    }

    /// Refuses what would pass the quota.
    pub(super) fn check_usage(&self, usage: Usage, op: &'static str) -> Try<()> {
        let beyond = |now: u64, more: i64, max: Option<u64>| {
            more > 0 && max.is_some_and(|max| now.saturating_add_signed(more) > max)
        };
        let (inode_count, used) = self.taken();
        if beyond(used, usage.bytes, Some(USED_MAX)) {
            return Err(Error::new(ErrorKind::NoSpace, op).because("more bytes than can be counted").into());
        }
        if beyond(inode_count, usage.inodes, self.quota.inodes_max) {
            let why = "as many files and directories as this mount may hold";
            return Err(Error::new(ErrorKind::NoSpace, op).because(why).into());
        }
        if beyond(used, usage.bytes, self.quota.bytes_max) {
            return Err(Error::new(ErrorKind::NoSpace, op).because("as many bytes as this mount may hold").into());
        }
        Ok(())
    }

    /// How many nodes there are and how many bytes they take, those without a name too.
    pub(super) fn taken(&self) -> (u64, u64) {
        let own = self.group.as_ref().map(|group| group.usage).unwrap_or_default();
        let inode_count = self.state.inode_count.saturating_add(self.state.orphan_count);
        let used = self.state.used.saturating_add(self.state.orphan_used);
        (inode_count.saturating_add_signed(own.inodes), used.saturating_add_signed(own.bytes))
    }

    /// Notes that the last name of a node went.
    pub(super) fn lost_its_name(&mut self, ino: Ino, meta: &Meta) {
        // In a transaction it is there still, until that ends.
        if self.group.is_none() {
            self.state.lost_its_name(ino, meta);
        }
    }

    /// A number that no node had: one that was reserved, so that no crash makes anybody give it again.
    pub(super) fn next_ino(&self) -> Try<Ino> {
        match NonZeroU64::new(self.state.give) {
            Some(number) if self.state.give < self.state.reserved => Ok(Ino(number)),
            _ => Err(Halt::NoNumber),
        }
    }

    /// Records that numbers are taken, and tells up to where; they may be given once that is durable.
    pub(super) fn reserve(&mut self) -> Try<u64> {
        let first = self.state.next_ino.max(self.state.give);
        let end = first.saturating_add(RESERVE_COUNT);
        let Some(last) = NonZeroU64::new(end - 1).filter(|_| end <= INO_END) else {
            return refuse(ErrorKind::NoSpace, "tree.create");
        };
        let mut edit = Edit::default();
        // A node that never had a name: replay learns the number from it, and drops it.
        edit.effects.push(Effect::Inode(Ino(last), Meta { nlink: 0, ..new_meta(&NewNode::File, self.now) }));
        self.record(edit)?;
        self.state.give = first;
        Ok(end)
    }

    /// Writes the change to the journal and applies it; one of a transaction is kept until that ends.
    pub(super) fn record(&mut self, edit: Edit) -> Try<()> {
        if self.state.undecided {
            return Err(Halt::Undecided);
        }
        if self.state.closed {
            return Err(Error::new(ErrorKind::Unavailable, "tree.change").because("the tree was closed").into());
        }
        if let Some(why) = &self.state.passed_over {
            return Err(Error::new(ErrorKind::Denied, "tree.change").because(why.as_str()).into());
        }
        if let Some(group) = self.group.as_deref_mut() {
            return Ok(group.record(edit)?);
        }
        let Edit { effects, usage, data } = edit;
        let record = Record::Change { effects, usage, data };
        let placed = self.log.push(Log::prepare(record.encode())?)?;
        if let Record::Change { effects, usage, .. } = record {
            if effects.iter().any(|effect| matches!(effect, Effect::Slice { .. })) {
                self.state.naming_count += 1;
            }
            for effect in &effects {
                if let Effect::Slice { cid, .. } = effect {
                    self.state.name(*cid);
                }
            }
            self.state.apply(placed.pos, effects, usage);
        }
        let layer = &mut self.state.active;
        layer.journal_len += u64::from(placed.len);
        layer.first.get_or_insert(self.now);
        layer.last = Some(self.now);
        Ok(())
    }

    /// A node before and after a change that `record` made.
    pub(super) fn changed(&mut self, ino: Ino, before: &Meta, after: &Meta) -> Try<Changed> {
        Ok(Changed { before: before.pre(), after: self.attr(ino, after)? })
    }
}
