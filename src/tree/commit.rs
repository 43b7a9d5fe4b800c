//! Committing: what changed becomes content, and the head moves.
//!
//! While writers go on in a new layer, the frozen one is written out as blocks. The order makes a crash at any point
//! harmless: blocks, flush, a record of the journal, sync, head, and only then is the journal cut. A commit that failed is
//! tried again with the same layer; nothing is lost meanwhile, since the journal holds it. Spec: spec/tree.md
//! #committing.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};

use super::{
    AutoCommit, Commit, Retention, Shared, Tree,
    attrs::Attrs,
    commit_node::{NOTE_LEN_MAX, PREV_COUNT_MAX, SNAPSHOT_COUNT_MAX},
    extent::Piece,
    layer::Node,
    open::Head,
    record::Record,
    state::{Base, State},
    write_out::Frozen,
};
use crate::{
    Cid, Error, ErrorKind, Result,
    dag::GcRoot,
    heads::{Heads, Swap, Version},
    log::{Log, LogPos, detached},
    vfs::Ino,
};

/// What whoever commits knows.
pub(super) struct Committer {
    pub(super) heads: Arc<dyn Heads>,
    /// The version of the head that names the base.
    pub(super) version: Version,
    /// Of the frozen layer, while there is one.
    pub(super) pending: Option<Pending>,
    /// The kept commits before the head, newest first, with their times; `None` before they were read.
    pub(super) history: Option<Vec<(Cid, SystemTime)>>,
    /// The state that a checkout may have made the head's: nothing changes before that is known.
    undecided: Option<Next>,
    /// Whether the last commit found no room.
    is_short: bool,
}

/// A state whose commit is to become the base.
pub(super) struct Next {
    pub(super) base: Base,
    pub(super) history: Vec<(Cid, SystemTime)>,
    /// Where the journal begins that it does not hold.
    pub(super) through: LogPos,
    /// The leased nodes without a name; `None` where it is another state than what stood, with other nodes.
    pub(super) orphans: Option<Vec<(Ino, Node)>>,
}

/// What became of a swap of the head.
enum Swapped {
    Yes,
    No(Error),
    /// The head could not be asked.
    Unknown(Error),
}

/// What a commit that is under way will say.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// Where the journal froze.
    pub(super) through: LogPos,
    pub(super) next_ino: u64,
    pub(super) inode_count: u64,
    pub(super) used: u64,
    pub(super) note: String,
}

/// So many commits are kept for being young: what is committed more often than once a second is thinned out sooner.
const YOUNG_COUNT_MAX: usize = PREV_COUNT_MAX / 2;
/// A layer that found no room joins what changed since while both take at most so many times the memory that a layer may:
/// bounds what a store that is full for long makes a tree hold.
const THAWED_COUNT_MAX: usize = 4;

impl Committer {
    pub(super) fn new(heads: Arc<dyn Heads>, version: Version, pending: Option<Pending>) -> Self {
        Self { heads, version, pending, history: None, undecided: None, is_short: false }
    }
}

impl Tree {
    /// Commits what is visible now and returns its CID, durable, blocks first, then the head; the present head where
    /// nothing changed and there is no note: a note makes a commit in any case, to be found by it.
    ///
    /// Writers go on meanwhile. After an error nothing is lost, and the next commit tries again.
    ///
    /// # Errors
    /// Those of the stores below; `Unavailable` if another program moved the head; `InvalidArgument` for a note longer
    /// than 4096 bytes.
    pub async fn commit(&self, note: &str) -> Result<Cid> {
        // Refused before anything freezes: a commit that can never be made would be in the way of all others.
        if note.len() > NOTE_LEN_MAX {
            let why = "a note has at most 4096 bytes";
            return Err(Error::new(ErrorKind::InvalidArgument, "tree.commit").because(why));
        }
        let (shared, note) = (Arc::clone(&self.shared), note.to_owned());
        detached("tree.commit", async move {
            let mut committer = shared.committer.lock().await;
            shared.commit(&mut committer, &note).await
        })
        .await
    }

    /// Commits if [`AutoCommit`] says that it is time, and returns how long to wait before asking again.
    ///
    /// Whoever runs the tree owns the timer.
    ///
    /// # Errors
    /// As `commit`; asking again tries again.
    pub async fn tick(&self) -> Result<Duration> {
        let Some(auto) = self.shared.options.auto_commit.clone() else { return Ok(Duration::MAX) };
        let wait = self.shared.lock().due_in(&auto, (self.shared.options.env.now)());
        if wait.is_zero() {
            self.commit("").await?;
            return Ok(auto.interval_min.min(auto.quiet));
        }
        Ok(wait)
    }

    /// Ends the work with a tree: commits, if it does so by itself, syncs, and takes no more changes. Without it nothing
    /// that was synced is lost.
    ///
    /// # Errors
    /// As `commit` and `sync`; also then it has ended, and where only the commit failed, what changed is durable in the
    /// journal.
    pub async fn close(&self) -> Result<()> {
        let committed =
            if self.shared.options.auto_commit.is_some() { self.commit("").await.map(drop) } else { Ok(()) };
        // Whoever still writes is refused from here on, so that the last sync is the last word on everything before.
        self.shared.lock().closed = true;
        let synced = self.shared.sync().await;
        let closed = self.shared.log.close().await;
        committed.and(synced).and(closed)
    }

    /// Commits what is visible now and gives the commit a name, under which it stays until the name is removed.
    ///
    /// A name that is there already names this commit from now on.
    ///
    /// # Errors
    /// As `commit`; `InvalidArgument` for a name that is empty, longer than 255 bytes or with a slash; `NoSpace` where
    /// there are 2048 others.
    pub async fn snapshot(&self, name: &str) -> Result<Cid> {
        if name.is_empty() || name.len() > 255 || name.contains(['/', '\0']) {
            let why = "the name of a snapshot has 1 to 255 bytes and no slash";
            return Err(Error::new(ErrorKind::InvalidArgument, "tree.snapshot").at(name).because(why));
        }
        let name = name.to_owned();
        self.rename_snapshots(move |head, snapshots| {
            snapshots.insert(name, head);
            true
        })
        .await
    }

    /// Removes the name of a snapshot; whether there was one. The commit stays for as long as [`Retention`] says.
    ///
    /// # Errors
    /// As `commit`.
    pub async fn remove_snapshot(&self, name: &str) -> Result<bool> {
        let before = self.head().1.snapshots.contains_key(name);
        let name = name.to_owned();
        self.rename_snapshots(move |_, snapshots| snapshots.remove(&name).is_some()).await?;
        Ok(before)
    }

    /// Commits, changes the names of snapshots, and commits that; the first commit is told.
    async fn rename_snapshots(
        &self,
        change: impl FnOnce(Cid, &mut BTreeMap<String, Cid>) -> bool + Send + 'static,
    ) -> Result<Cid> {
        let shared = Arc::clone(&self.shared);
        detached("tree.snapshot", async move {
            let mut committer = shared.committer.lock().await;
            let head = shared.commit(&mut committer, "").await?;
            let mut commit = (*shared.lock().base.commit).clone();
            if change(head, &mut commit.snapshots) {
                if commit.snapshots.len() > SNAPSHOT_COUNT_MAX {
                    let why = "a tree has at most 2048 snapshots: remove one first";
                    return Err(Error::new(ErrorKind::NoSpace, "tree.snapshot").because(why));
                }
                shared.freeze(&mut committer, &commit.note).await?;
                shared.write_out_as(&mut committer, Some(commit.snapshots)).await?;
            }
            Ok(head)
        })
        .await
    }

    /// The kept commits with their CIDs, newest first: the head, and those before it that [`Retention`] kept.
    ///
    /// # Errors
    /// Those of the stores below.
    pub async fn history(&self) -> Result<Vec<(Cid, Commit)>> {
        let (cid, head) = self.head();
        let mut history = vec![(cid, (*head).clone())];
        for cid in &head.prev {
            match Commit::get(&self.shared.dag, cid).await {
                Ok(commit) => history.push((*cid, commit)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.at(cid)),
            }
        }
        Ok(history)
    }
}

impl Tree {
    /// What a garbage collection must keep for this tree, as it is when the stream is made: the head, the kept commits,
    /// the named snapshots, and what changed since. Before it ends it syncs, so that what changed in what it kept before
    /// is durably so.
    ///
    /// # Errors
    /// An item is one where a kept commit cannot be read; one that is gone is kept no longer. Those of `sync`.
    pub fn gc_roots(&self) -> BoxStream<'static, Result<GcRoot>> {
        let (head, doubtful, changed) = {
            let state = self.shared.lock();
            let layers = [Some(&state.active), state.frozen.as_deref(), Some(&*state.orphans)];
            let pieces = layers.into_iter().flatten().flat_map(|layer| layer.nodes.values());
            let slices = pieces.flat_map(|node| node.extents.iter()).filter_map(|(_, piece)| match piece {
                Piece::Slice(cid, _) => Some(cid),
                _ => None,
            });
            (state.base.clone(), state.doubtful.clone(), slices.collect::<HashSet<Cid>>())
        };
        let needed: HashSet<Cid> = doubtful.into_iter().chain([head.cid]).collect();
        let commits: HashSet<Cid> =
            head.commit.prev.iter().chain(head.commit.snapshots.values()).chain(&needed).copied().collect();
        let dag = self.shared.dag.clone();
        let kept = stream::iter(commits).then(move |cid| {
            let (dag, is_needed) = (dag.clone(), needed.contains(&cid));
            async move {
                let roots = match Commit::get(&dag, &cid).await {
                    Ok(commit) => {
                        let below = commit.attrs.into_iter().chain([commit.root]).map(GcRoot::Dag);
                        below.chain([GcRoot::Block(cid)]).collect()
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound && !is_needed => Vec::new(),
                    Err(error) => return Err(error.at(cid)),
                };
                Ok(stream::iter(roots).map(Ok))
            }
        });
        let changed = stream::iter(changed).map(|cid| Ok(GcRoot::Dag(cid)));
        let shared = Arc::clone(&self.shared);
        let synced = stream::once(async move { shared.sync().await }).filter_map(async |synced| synced.err().map(Err));
        kept.try_flatten().chain(changed).chain(synced).boxed()
    }
}

impl State {
    /// How long until a commit is due.
    fn due_in(&self, auto: &AutoCommit, now: SystemTime) -> Duration {
        // What was in the future was told by a clock that has been set back since: it is no reason to wait.
        let since = |time: SystemTime| now.duration_since(time).unwrap_or(Duration::MAX);
        if self.active.is_empty() && self.frozen.is_none() {
            return auto.quiet;
        }
        let soonest = auto.interval_min.saturating_sub(since(self.base.commit.time));
        if self.active.journal_len > auto.journal_len_max || self.frozen.is_some() {
            return soonest;
        }
        let quiet = auto.quiet.saturating_sub(since(self.active.last.unwrap_or(SystemTime::UNIX_EPOCH)));
        let latest = auto.interval_max.saturating_sub(since(self.active.first.unwrap_or(SystemTime::UNIX_EPOCH)));
        soonest.max(quiet.min(latest))
    }
}

impl Shared {
    /// Commits because memory is full, if nobody else did meanwhile.
    pub(super) async fn commit_when_full(self: &Arc<Self>) -> Result<()> {
        let shared = Arc::clone(self);
        detached("tree.commit", async move {
            let mut committer = shared.committer.lock().await;
            if shared.is_full() {
                shared.commit(&mut committer, "").await?;
            }
            Ok(())
        })
        .await
    }

    /// Whether as much changed as is held in memory.
    pub(super) fn is_full(&self) -> bool {
        self.lock().active.memory_len > self.options.memory_len_max
    }

    pub(super) async fn commit(&self, committer: &mut Committer, note: &str) -> Result<Cid> {
        self.decide(committer).await?;
        self.thaw_nothing(committer);
        if committer.is_short {
            self.thaw(committer);
        }
        let mut is_said = note.is_empty();
        if let Some(pending) = &committer.pending {
            // This very commit failed before.
            is_said |= pending.note == note;
            self.write_out(committer).await?;
        }
        if !self.lock().active.is_empty() || !is_said {
            self.freeze(committer, note).await?;
            self.write_out(committer).await?;
        }
        Ok(self.lock().base.cid)
    }

    /// Freezes what changed.
    pub(super) async fn freeze(&self, committer: &mut Committer, note: &str) -> Result<()> {
        self.log.ready().await?;
        let mut state = self.lock();
        // So that the segments before can go once the commit is made. No change comes between the two: what is kept then begins by
        // saying what it continues.
        self.log.rotate()?;
        let placed = self.log.push(Log::prepare(Record::Freeze.encode())?)?;
        let State { next_ino, inode_count, used, .. } = *state;
        state.frozen = Some(Arc::new(std::mem::take(&mut state.active)));
        committer.pending = Some(Pending { through: placed.pos, next_ino, inode_count, used, note: note.to_owned() });
        Ok(())
    }

    /// Forgets a commit that failed and had nothing to hold but what was to be said of it: a checkout, or the name of a
    /// snapshot.
    fn thaw_nothing(&self, committer: &mut Committer) {
        let mut state = self.lock();
        if state.frozen.as_ref().is_some_and(|layer| layer.is_empty()) {
            state.frozen = None;
            committer.pending = None;
        }
    }

    /// Puts a frozen layer that found no room together with what changed since, to be frozen with it: what was removed
    /// meanwhile needs no room then. Its note was that of a commit that whoever asked for it saw fail.
    fn thaw(&self, committer: &mut Committer) {
        let mut state = self.lock();
        let State { active, frozen, leases, doubtful, .. } = &mut *state;
        let memory_len = frozen.as_ref().map_or(0, |layer| layer.memory_len.saturating_add(active.memory_len));
        // A commit that the head may name is finished first.
        let is_certain =
            doubtful.is_empty() && memory_len <= self.options.memory_len_max.saturating_mul(THAWED_COUNT_MAX);
        if active.is_empty() || !is_certain {
            return;
        }
        if let Some(below) = frozen.take() {
            active.settle_on(Arc::unwrap_or_clone(below), |ino| leases.contains_key(&ino));
            committer.pending = None;
        }
    }

    /// Turns the frozen layer into a commit.
    pub(super) async fn write_out(&self, committer: &mut Committer) -> Result<()> {
        let written = self.write_out_as(committer, None).await;
        committer.is_short = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace);
        written
    }

    /// Turns the frozen layer into a commit, with these named snapshots or those of the base.
    async fn write_out_as(&self, committer: &mut Committer, snapshots: Option<BTreeMap<String, Cid>>) -> Result<()> {
        let internal = || Error::new(ErrorKind::Internal, "tree.commit").because("nothing is frozen");
        let pending = committer.pending.clone().ok_or_else(internal)?;
        // Until the head names it, nobody else keeps what is put.
        let _session = self.dag.begin_write();
        let frozen = self.frozen().ok_or_else(internal)?;
        let links = frozen.contents().await?;
        let orphans = frozen.orphans().await?;
        let (root, links) = frozen.directories(links).await?;
        let changes = frozen.changes(&links, &pending).await?;
        let attrs = super::attrs::update(&self.dag, Some(&frozen.base.attrs), changes).await?;
        let snapshots = snapshots.unwrap_or_else(|| frozen.base.commit.snapshots.clone());
        self.publish(committer, &pending, Published { root: root.cid, attrs, snapshots }, Some(orphans)).await
    }

    fn frozen(&self) -> Option<Frozen<'_>> {
        let state = self.lock();
        let layer = state.frozen.clone()?;
        let leased = |ino: &Ino| state.leases.contains_key(ino);
        let orphans = layer.nodes.iter().filter(|(ino, node)| node.meta.nlink == 0 && leased(ino));
        let orphans: Vec<Ino> = orphans.map(|(ino, _)| *ino).collect();
        let below = Arc::clone(&state.orphans);
        let held = orphans.iter().filter_map(|ino| below.nodes.get(ino)).flat_map(|node| node.extents.iter());
        let kept = self.leases(held.map(|(_, piece)| piece));
        Some(Frozen { shared: self, layer, below, base: state.base.clone(), orphans, _leases: kept })
    }

    /// Makes a new state the base: its commit is put, the head moves, and the journal is cut.
    ///
    /// `orphans` are the nodes of the frozen layer that are leased and have no name; `None` where the new state is
    /// another than what stood: then no node is but those in it.
    pub(super) async fn publish(
        &self,
        committer: &mut Committer,
        pending: &Pending,
        published: Published,
        orphans: Option<Vec<(Ino, Node)>>,
    ) -> Result<()> {
        let Published { root, attrs, snapshots } = published;
        let now = (self.options.env.now)();
        let base = self.lock().base.clone();
        let history = self.options.retention.keep(now, self.kept(committer, &base).await?);
        let commit = Commit {
            profile: *self.dag.params(),
            root,
            attrs: Some(attrs.cid()),
            prev: history.iter().map(|(cid, _)| *cid).collect(),
            snapshots,
            time: now,
            note: pending.note.clone(),
        };
        let cid = commit.put(&self.dag).await?;
        self.flush_commit().await?;
        // The journal says what the commit holds before the head says that it counts.
        self.log.append(Record::Commit { through: pending.through, cid }.encode()).await?;
        self.log.sync().await?;
        let base = Base { cid, commit: Arc::new(commit), attrs };
        let next = Next { base, history, through: pending.through, orphans };
        match self.swap_head(committer, cid).await? {
            Swapped::Yes => self.begin(committer, next).await,
            Swapped::No(error) => Err(error),
            Swapped::Unknown(error) => {
                // What a commit holds stands either way. Of a checkout a crash may find the one state or the other, and
                // a change belongs to the one that it was made on.
                if next.orphans.is_none() {
                    self.lock().undecided = true;
                    committer.undecided = Some(next);
                }
                Err(error)
            }
        }
    }

    /// Makes the commit that the head names the base.
    pub(super) async fn begin(&self, committer: &mut Committer, next: Next) -> Result<()> {
        let Next { base, history, through, orphans } = next;
        committer.pending = None;
        committer.history = Some(history);
        {
            let mut state = self.lock();
            state.base = base;
            // In one step: a collection in between would find what the head names neither here nor there.
            state.doubtful.clear();
            state.frozen = None;
            state.kept.retain(|_, pos| *pos >= through);
            state.generation += 1;
            match orphans {
                Some(orphans) => {
                    let kept: Vec<_> = orphans.into_iter().filter(|(ino, _)| state.leases.contains_key(ino)).collect();
                    Arc::make_mut(&mut state.orphans).nodes.extend(kept);
                }
                None => state.begin_at_base(),
            }
        }
        self.log.drop_before(through).await
    }

    /// Asks the head whether a checkout happened of which that is not known, before anything changes.
    pub(super) async fn before_change(&self) -> Result<()> {
        let mut committer = self.committer.lock().await;
        self.decide(&mut committer).await.map_err(|error| {
            let why = format!("a checkout may have happened, and the head that tells cannot be read: {error:#}");
            Error::new(ErrorKind::Unavailable, "tree.change").because(why)
        })
    }

    /// Finds out whether a checkout happened.
    async fn decide(&self, committer: &mut Committer) -> Result<()> {
        let Some(next) = &committer.undecided else { return Ok(()) };
        let loaded = committer.heads.load(&self.options.head).await?;
        let (now, version) = loaded.ok_or_else(lost)?;
        let now = self.commit_of(&now)?;
        let happened = now == next.base.cid;
        if !happened && version != committer.version && !self.lock().doubtful.contains(&now) {
            return Err(lost());
        }
        let next = committer.undecided.take();
        committer.version = version;
        self.lock().undecided = false;
        match next.filter(|_| happened) {
            Some(next) => self.begin(committer, next).await,
            None => Ok(()),
        }
    }

    /// The commit that a head of this tree names.
    pub(super) fn commit_of(&self, head: &[u8]) -> Result<Cid> {
        let head = Head::decode(head).map_err(|_| lost())?;
        if head.id == self.id { Ok(head.commit) } else { Err(lost()) }
    }

    /// Makes the head name a commit.
    async fn swap_head(&self, committer: &mut Committer, cid: Cid) -> Result<Swapped> {
        let name = &self.options.head;
        let head = Head { id: self.id, commit: cid }.encode()?;
        loop {
            let swapped = committer.heads.swap(name, Some(&committer.version), head.clone()).await;
            if let Ok(Swap::Done(version)) = swapped {
                committer.version = version;
                self.lock().doubtful.clear();
                return Ok(Swapped::Yes);
            }
            // After an error it may have happened: the head itself tells, and if it cannot be asked now, the next attempt
            // has to know what it may find.
            if swapped.is_err() {
                let doubtful = &mut self.lock().doubtful;
                if !doubtful.contains(&cid) {
                    doubtful.push(cid);
                }
            }
            let (now, version) = match committer.heads.load(name).await {
                Ok(loaded) => loaded.ok_or_else(lost)?,
                Err(error) => return Ok(Swapped::Unknown(error)),
            };
            let now = self.commit_of(&now)?;
            let moved = version != committer.version;
            let was_doubtful = self.lock().doubtful.contains(&now);
            match swapped {
                _ if now == cid => {
                    committer.version = version;
                    self.lock().doubtful.clear();
                    return Ok(Swapped::Yes);
                }
                // An attempt before this one, of which it was not known, moved it: from there it moves on.
                Ok(_) if moved && was_doubtful => committer.version = version,
                Err(error) if !moved => return Ok(Swapped::No(error)),
                Err(error) if was_doubtful => {
                    committer.version = version;
                    return Ok(Swapped::No(error));
                }
                _ => return Err(lost()),
            }
        }
    }

    /// The kept commits up to the base, newest first.
    async fn kept(&self, committer: &mut Committer, base: &Base) -> Result<Vec<(Cid, SystemTime)>> {
        if committer.history.is_none() {
            let mut history = Vec::new();
            for cid in &base.commit.prev {
                // One that the collector took is kept no longer.
                match Commit::get(&self.dag, cid).await {
                    Ok(commit) => history.push((*cid, commit.time)),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error.at(cid)),
                }
            }
            committer.history = Some(history);
        }
        let before = committer.history.iter().flatten().copied();
        Ok([(base.cid, base.commit.time)].into_iter().chain(before).collect())
    }
}

/// A new state that becomes the base.
pub(super) struct Published {
    pub(super) root: Cid,
    pub(super) attrs: Attrs,
    pub(super) snapshots: BTreeMap<String, Cid>,
}

pub(super) fn lost() -> Error {
    let why = "another program moved the head of this tree: only one may write to it";
    Error::new(ErrorKind::Unavailable, "tree.commit").because(why)
}

impl Retention {
    /// The commits, newest first, that are kept at `now`. The newest always is.
    pub(super) fn keep(&self, now: SystemTime, commits: Vec<(Cid, SystemTime)>) -> Vec<(Cid, SystemTime)> {
        let mut slots = HashSet::new();
        let mut kept = Vec::new();
        for (cid, time) in commits {
            let age = now.duration_since(time).unwrap_or_default();
            let second = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let is_young = age <= self.all && kept.len() < YOUNG_COUNT_MAX;
            // The newest of each hour and day comes first and takes its place.
            let of_hour = !is_young && slots.insert((0, second / 3600));
            let of_day = !is_young && slots.insert((1, second / (24 * 3600)));
            let is_kept =
                kept.is_empty() || is_young || (of_hour && age <= self.hourly) || (of_day && age <= self.daily);
            if is_kept {
                kept.push((cid, time));
            }
        }
        // A commit has room for no more.
        kept.truncate(PREV_COUNT_MAX);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Codec, cid_of};

    /// A commit a minute for 40 days leaves all of an hour, one an hour of a day, one a day of 30.
    #[test]
    fn retention_thins_out() {
        let retention = Retention::default();
        let minute = Duration::from_mins(1);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut kept = Vec::new();
        for number in 0..40 * 24 * 60_u32 {
            let now = start + minute * number;
            let cid = cid_of(Codec::Raw, &number.to_be_bytes());
            kept = retention.keep(now, [(cid, now)].into_iter().chain(kept).collect());
        }
        let now = kept[0].1;
        let age = |time: SystemTime| now.duration_since(time).expect("in the past");
        let count = |from: Duration, to: Duration| kept.iter().filter(|(_, t)| age(*t) > from && age(*t) <= to).count();
        assert_eq!(count(Duration::ZERO, retention.all), 60);
        assert!((22..=25).contains(&count(retention.all, retention.hourly)), "hourly");
        assert!((28..=30).contains(&count(retention.hourly, retention.daily)), "daily");
        assert_eq!(kept.iter().filter(|(_, time)| age(*time) > retention.daily).count(), 0);
    }
}
