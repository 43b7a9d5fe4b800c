//! The working tree: a file system that can be written, over committed content and a journal of what changed since.
//!
//! Sits on [`Dag`] and [`log`](crate::log) and is a [`Vfs`]. Committing turns what
//! changed into content: the same root CID as adding the same names and bytes to IPFS gives. Its parts, from the bottom:
//! `inode` and `extent`, the shared words; `record`, what the journal says; `layer`, what changed since a commit;
//! `attrs`, the committed POSIX metadata beside the content; `commit_node`, the block that ties both; `sight`, all of
//! these seen as one; `state`, `ops` and `content`, the calls; `durable`, what a sync does; `commit` and `write_out`, how
//! changes become content; `graft`, what comes from elsewhere and was always there; `standing`, which state a call is for; `transaction`, changes that are one; `open` and `checkout`, where a tree begins; `check`, whether it all fits together.
//!
//! A write is in the journal and in memory when it returns, and durable after `sync`. Replaying the journal applies the
//! same records as the calls did. Spec: spec/tree.md, spec/journal.md.

pub(crate) mod attrs;
mod check;
mod checkout;
mod commit;
mod commit_node;
mod content;
mod continued;
mod durable;
mod extent;
mod follow;
mod graft;
mod history;
mod inode;
mod layer;
mod open;
mod ops;
mod passed_over;
mod recent;
mod record;
mod sight;
mod standing;
mod state;
#[cfg(test)]
mod tests;
mod transaction;
mod write_out;

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU64,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Mutex as AsyncMutex, RwLock};

pub(crate) use self::graft::Graft;
use self::{
    attrs::{AttrNode, NodeId},
    commit::Committer,
    recent::Recent,
    sight::{Halt, Try},
    standing::Standing,
    state::{Attempt, ROOT, State},
};
pub use self::{
    check::{CheckReport, Checked},
    commit_node::Commit,
    history::{History, KeptCommit, PathChange, Version},
    passed_over::uncommitted_count,
    state::Quota,
    transaction::Transaction,
};
use crate::{
    Cid, Env, Error, ErrorKind, Name, Result,
    dag::Dag,
    heads::Heads,
    log::Log,
    media::Media,
    vfs::{
        Attr, Changed, Cookie, DirChanged, DirPage, FsStat, Handle, Ino, Lease, Listing, NewNode, Place, RemoveKind,
        RenameMode, Renamed, Seek, SetAttr, Vfs, XattrMode, XattrName,
    },
};

/// The first byte of a handle of a tree.
const HANDLE_MAGIC: u8 = b't';
/// How many bytes of a tree's identity are in its handles.
const ID_LEN: usize = 16;
/// So much of the disk below, in bytes, or one part in so many of a small one, is left for removing, beside what a commit
/// of all that changed takes.
const RESERVE_LEN: u64 = 64 << 20;
const RESERVE_PART: u64 = 32;
/// How many nodes of the attribute tree are loaded at a time: enough to hide a disk's latency.
const LOAD_COUNT: usize = 16;

/// When a tree commits by itself; also on clean shutdown.
#[derive(Debug, Clone)]
pub struct AutoCommit {
    /// When the journal is longer than this, in bytes…
    pub journal_len_max: u64,
    /// …or nothing changed for so long,
    pub quiet: Duration,
    /// but never sooner than this after the last one,
    pub interval_min: Duration,
    /// and never later, while there are changes.
    pub interval_max: Duration,
}

impl Default for AutoCommit {
    /// 256 MiB; 5 s of quiet; not within 30 s; at least every 10 min.
    fn default() -> Self {
        let [quiet, interval_min, interval_max] = [5, 30, 600].map(Duration::from_secs);
        Self { journal_len_max: 256 << 20, quiet, interval_min, interval_max }
    }
}

/// Which commits stay: every one younger than `all`, then one an hour up to `hourly`, then one a day up to `daily`.
///
/// The head always stays, and so do named snapshots.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Every commit of so long ago stays.
    pub all: Duration,
    /// The last commit of every hour stays so long.
    pub hourly: Duration,
    /// The last commit of every day stays so long.
    pub daily: Duration,
}

impl Default for Retention {
    /// An hour, a day, and 30 days.
    fn default() -> Self {
        let [all, hourly, daily] = [1, 24, 30 * 24].map(|hours| Duration::from_secs(hours * 3600));
        Self { all, hourly, daily }
    }
}

/// Tells the space of the store below a tree.
pub type Room = Arc<dyn Fn() -> FsStat + Send + Sync>;

/// How a tree is kept.
#[derive(Clone)]
pub struct TreeOptions {
    /// The name of its head.
    pub head: Name,
    /// `None`: commits only when asked, and when memory would run out.
    pub auto_commit: Option<AutoCommit>,
    /// Which commits stay.
    pub retention: Retention,
    /// How much there may be in it.
    pub quota: Quota,
    /// How much of what changed since the last commit, and of what was read, is held in memory, in bytes, each; beyond
    /// it writers wait for a commit.
    pub memory_len_max: usize,
    /// Hands every change but written bytes to the system before its call returns: it outlives a process that is killed,
    /// though not yet the power. For frontends that do not sync names. It does not hold for what comes behind whole chunks
    /// that no sync covers yet and that the block store still has in its memory: replay ends there.
    pub write_through: bool,
    /// The owner and the group of the root of a tree that is made.
    pub owner: (u32, u32),
    /// The space of the store below, as `statfs` tells it; asked before whatever makes the tree grow, which is refused
    /// with `NoSpace` where too little is left. All zeros are not known.
    pub room: Room,
    /// Clock and randomness.
    pub env: Env,
}

impl TreeOptions {
    /// A tree that commits by itself, keeps the default history, has no quota and takes 64 MiB of memory.
    ///
    /// ```
    /// use muxfs::{Name, testing, tree::TreeOptions};
    /// let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// assert!(options.auto_commit.is_some());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn new(head: Name, env: Env) -> Self {
        let endless = FsStat { bytes_total: 1 << 60, bytes_free: 1 << 60, inodes_total: 1 << 55, inodes_free: 1 << 55 };
        Self {
            head,
            auto_commit: Some(AutoCommit::default()),
            retention: Retention::default(),
            quota: Quota::default(),
            memory_len_max: 64 << 20,
            write_through: false,
            owner: (0, 0),
            room: Arc::new(move || endless),
            env,
        }
    }
}

impl fmt::Debug for TreeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeOptions")
            .field("head", &self.head)
            .field("auto_commit", &self.auto_commit)
            .field("retention", &self.retention)
            .field("quota", &self.quota)
            .field("memory_len_max", &self.memory_len_max)
            .field("write_through", &self.write_through)
            .finish_non_exhaustive()
    }
}

/// A writable [`Vfs`]: a committed root in a [`Dag`] and a journal of what changed since. Clones share it.
///
/// A change is in the journal when its call returns and durable after `sync`, which flushes blocks, then the journal.
#[derive(Debug, Clone)]
pub struct Tree {
    shared: Arc<Shared>,
    /// Of which state it is.
    standing: Standing,
}

struct Shared {
    dag: Dag,
    log: Log,
    options: TreeOptions,
    /// Names this tree in handles, so that one of another tree is not taken for its own.
    id: [u8; ID_LEN],
    state: Mutex<State>,
    recent: Recent,
    /// Whoever holds it commits.
    committer: AsyncMutex<Committer>,
    /// How many records that name blocks a flush covers, durably. Whoever holds it flushes; the others find it done when
    /// they get it.
    flushed: AsyncMutex<u64>,
    /// Whoever changes something shares it; a checkout has it alone.
    gate: RwLock<()>,
    /// Whoever holds it reserves numbers.
    reserving: AsyncMutex<()>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("head", &self.options.head).field("log", &self.log).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug of ours that already showed itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `call` until it needs nothing that is not in memory.
    async fn attempt<T>(&self, standing: &Standing, mut call: impl FnMut(&mut Attempt<'_>) -> Try<T>) -> Result<T> {
        let mut held: HashMap<NodeId, Arc<AttrNode>> = HashMap::new();
        loop {
            let (tried, generation) = self.try_once(standing, &held, |attempt| {
                attempt.stands(standing)?;
                call(attempt)
            });
            let missing = match tried {
                Ok(value) => return Ok(value),
                Err(Halt::Missing(ids)) => ids,
                Err(Halt::NoNumber) => {
                    self.reserve().await?;
                    continue;
                }
                Err(Halt::Undecided) => {
                    self.before_change().await?;
                    continue;
                }
                Err(Halt::Error(error)) => return Err(error),
            };
            match self.load(missing).await {
                Ok(loaded) => {
                    let mut state = self.lock();
                    for (id, node) in loaded {
                        state.cache.insert(id, Arc::clone(&node));
                        held.insert(id, node);
                    }
                }
                // The base it belonged to may be no base any more, and its blocks gone.
                Err(_) if self.lock().generation != generation => {}
                // That a block is not there says nothing of the name that was asked for.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Error::new(ErrorKind::Corrupt, "tree.load").because(error));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs `call` once, with what is in memory and what is `held`; tells also which base it saw.
    fn try_once<T>(
        &self,
        standing: &Standing,
        held: &HashMap<NodeId, Arc<AttrNode>>,
        call: impl FnOnce(&mut Attempt<'_>) -> Try<T>,
    ) -> (Try<T>, u64) {
        let mut state = self.lock();
        let generation = state.generation;
        let now = attrs::time_in_range((self.options.env.now)());
        let (log, quota) = (&self.log, self.options.quota);
        let mut group = standing.group();
        let group = group.as_deref_mut();
        (call(&mut Attempt { state: &mut state, held, log, quota, now, group }), generation)
    }

    /// Reserves numbers for new nodes, durably, unless somebody did meanwhile: a number that a crash undoes, and that is
    /// given again, would be that of another node in somebody's handle.
    async fn reserve(&self) -> Result<()> {
        let _alone = self.reserving.lock().await;
        let (tried, _) = self.try_once(&Standing::default(), &HashMap::new(), |attempt| {
            if attempt.next_ino().is_ok() { Ok(None) } else { attempt.reserve().map(Some) }
        });
        let end = match tried {
            Ok(Some(end)) => end,
            Ok(None) => return Ok(()),
            Err(Halt::Undecided) => return self.before_change().await,
            Err(Halt::Error(error)) => return Err(error),
            Err(Halt::Missing(_) | Halt::NoNumber) => return Err(Error::new(ErrorKind::Internal, "tree.reserve")),
        };
        self.log.sync().await?;
        self.lock().reserved = end;
        Ok(())
    }

    /// Loads nodes of the attribute tree.
    async fn load(&self, ids: Vec<NodeId>) -> Result<Vec<(NodeId, Arc<AttrNode>)>> {
        let load = |id| async move { Ok((id, attrs::load(&self.dag, id).await?)) };
        stream::iter(ids).map(load).buffer_unordered(LOAD_COUNT).try_collect().await
    }

    /// Runs a call that changes something, when there is room for it.
    async fn change<T>(
        self: &Arc<Self>,
        standing: &Standing,
        call: impl FnMut(&mut Attempt<'_>) -> Try<T>,
    ) -> Result<T> {
        self.make_room().await?;
        let _no_checkout = self.gate.read().await;
        let done = self.attempt(standing, call).await?;
        if self.options.write_through && !standing.is_grouped() {
            self.log.write().await?;
        }
        Ok(done)
    }

    /// `grow`, of what gives a node away, leased. Whoever stops waiting or is told of an error has no lease to give back.
    async fn give(
        self: &Arc<Self>,
        standing: &Standing,
        call: impl FnMut(&mut Attempt<'_>) -> Try<DirChanged>,
    ) -> Result<DirChanged> {
        self.refuse_when_short()?;
        self.make_room().await?;
        let _no_checkout = self.gate.read().await;
        let given = self.attempt(standing, call).await?;
        if self.options.write_through && !standing.is_grouped() {
            let (tree, ino) = (Arc::new(Tree::new(Arc::clone(self))), given.node.ino);
            let _lease = Lease::adopt(tree.clone(), ino);
            self.log.write().await?;
            // The caller's own.
            tree.retain(ino);
        }
        Ok(given)
    }

    /// `change`, of what makes the tree grow.
    async fn grow<T>(self: &Arc<Self>, standing: &Standing, call: impl FnMut(&mut Attempt<'_>) -> Try<T>) -> Result<T> {
        self.refuse_when_short()?;
        self.change(standing, call).await
    }

    fn uncommitted_len(&self) -> u64 {
        let state = self.lock();
        state.active.journal_len.saturating_add(state.frozen.as_ref().map_or(0, |frozen| frozen.journal_len))
    }

    /// Refuses what makes the tree grow where what is left below it is needed to commit what changed, and to remove.
    fn refuse_when_short(&self) -> Result<()> {
        let room = (self.options.room)();
        let journal_len = self.uncommitted_len();
        let kept = RESERVE_LEN.min(room.bytes_total / RESERVE_PART);
        if room.bytes_total > 0 && room.bytes_free < kept.saturating_add(journal_len) {
            let why = "what is left of the disk is kept for committing and removing";
            return Err(Error::new(ErrorKind::NoSpace, "tree.change").because(why));
        }
        Ok(())
    }

    /// Waits until the journal and memory have room for one more change.
    async fn make_room(self: &Arc<Self>) -> Result<()> {
        self.log.ready().await.map_err(|error| match error.kind() {
            // Nothing more can be made durable, so nothing more is taken: reading goes on.
            ErrorKind::Io => Error::new(ErrorKind::ReadOnly, "tree.change").because(error),
            _ => error,
        })?;
        if self.is_full() {
            self.commit_when_full().await?;
        }
        Ok(())
    }
}

impl Tree {
    /// Loads the head and replays the journal: the state is one no older than the last acknowledged sync.
    ///
    /// Costs what the journal holds, not what the tree holds. Where there is no head yet, an empty tree is made.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{Name, block, dag::{Dag, DagOptions}, heads::MemHeads, media::MemMedia, testing};
    /// use muxfs::{tree::{Tree, TreeOptions}, vfs::{NewNode, SetAttr, Vfs}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await?;
    /// let name = Name::new(b"hello.txt")?;
    /// let made = tree.create(tree.root(), &name, NewNode::File, SetAttr::default()).await?;
    /// tree.write(made.node.ino, 0, "hello".into(), false).await?;
    /// tree.release(made.node.ino, 1);
    /// let commit = tree.commit("first").await?;
    /// assert_eq!(tree.head().0, commit);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported`, naming what, where the head, the commit or the journal cannot be read; `Denied`, with both
    /// commits and nothing changed, where the journal has changes that were made on another state than the head's; and those
    /// of the stores below.
    pub async fn open(dag: Dag, journal: Arc<dyn Media>, heads: Arc<dyn Heads>, options: TreeOptions) -> Result<Self> {
        open::open(dag, journal, heads, options).await
    }

    /// The commit that the head names: changes since are not in it.
    pub fn head(&self) -> (Cid, Arc<Commit>) {
        let state = self.shared.lock();
        (state.base.cid, Arc::clone(&state.base.commit))
    }

    /// How much of what was written is in the journal and in no commit yet, in bytes.
    pub fn uncommitted_len(&self) -> u64 {
        self.shared.uncommitted_len()
    }

    /// The DAG it commits to.
    pub fn dag(&self) -> &Dag {
        &self.shared.dag
    }
}

#[async_trait]
impl Vfs for Tree {
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        self.shared.attempt(&self.standing, |attempt| attempt.lookup(dir, name)).await
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        self.shared.attempt(&self.standing, |attempt| attempt.parent(dir)).await
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.shared.attempt(&self.standing, |attempt| attempt.getattr(ino)).await
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        self.shared.attempt(&self.standing, |attempt| attempt.readdir(dir, after, count, listing)).await
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.shared.read(&self.standing, ino, offset, len).await
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        self.shared.attempt(&self.standing, |attempt| attempt.readlink(ino)).await
    }

    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        let room = (self.shared.options.room)();
        self.shared.attempt(&self.standing, |attempt| attempt.statfs(ino, room)).await
    }

    /// `t`, 16 bytes that name the tree, and the inode number: valid for as long as the node is there.
    fn handle(&self, ino: Ino) -> Result<Handle> {
        let bytes = [&[HANDLE_MAGIC][..], &self.shared.id, &ino.0.get().to_be_bytes()].concat();
        Ok(Handle(bytes.into()))
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let op = "tree.resolve";
        let foreign = || Error::new(ErrorKind::InvalidArgument, op).because("not a handle of this file system");
        let rest = handle.0.strip_prefix(&[HANDLE_MAGIC]).ok_or_else(foreign)?;
        let (id, number) = rest.split_first_chunk::<ID_LEN>().ok_or_else(foreign)?;
        let number = u64::from_be_bytes(number.try_into().map_err(|_| foreign())?);
        let ino = Ino(NonZeroU64::new(number).ok_or_else(foreign)?);
        if *id != self.shared.id {
            return Err(Error::new(ErrorKind::Stale, op).because("the file system it was of is gone"));
        }
        self.shared.attempt(&self.standing, |attempt| attempt.resolve(ino)).await
    }

    fn retain(&self, ino: Ino) {
        if ino != ROOT {
            *self.shared.lock().leases.entry(ino).or_insert(0) += 1;
        }
    }

    fn release(&self, ino: Ino, count: u64) {
        let mut state = self.shared.lock();
        let Some(leases) = state.leases.get_mut(&ino) else { return };
        *leases = leases.saturating_sub(count);
        if *leases == 0 {
            state.leases.remove(&ino);
            state.free_if_gone(ino);
        }
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        self.shared.change(&self.standing, |attempt| attempt.setattr(ino, &set)).await
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        self.shared.write(&self.standing, ino, (offset, data), clear_suid).await
    }

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        self.shared.give(&self.standing, |attempt| attempt.create(dir, name, &node, &set)).await
    }

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        self.shared.change(&self.standing, |attempt| attempt.remove(&place, kind)).await
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        self.shared.change(&self.standing, |attempt| attempt.rename(&from, &to, mode)).await
    }

    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        self.shared.give(&self.standing, |attempt| attempt.link(ino, dir, name)).await
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        self.shared.grow(&self.standing, |attempt| attempt.allocate(ino, &range, keep_size)).await
    }

    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        self.shared.change(&self.standing, |attempt| attempt.punch_hole(ino, &range)).await
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        self.shared.copy_range(&self.standing, from, to, len).await
    }

    async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        self.shared.attempt(&self.standing, |attempt| attempt.seek(ino, offset, what)).await
    }

    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        self.shared.attempt(&self.standing, |attempt| attempt.getxattr(ino, name)).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        self.shared.attempt(&self.standing, |attempt| attempt.listxattr(ino)).await
    }

    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        self.shared.grow(&self.standing, |attempt| attempt.setxattr(ino, name, &value, mode)).await
    }

    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        self.shared.change(&self.standing, |attempt| attempt.removexattr(ino, name)).await
    }

    /// Flushes the chunks that were put, then the journal: all callers that wait share the work.
    async fn sync(&self, ino: Ino) -> Result<()> {
        if ino != ROOT {
            self.shared.attempt(&self.standing, |attempt| attempt.meta(ino, "tree.sync")).await?;
        }
        if self.standing.is_grouped() {
            return Ok(());
        }
        self.shared.sync().await
    }
}
