//! Heads on the nodes: what names the latest commit lies beside the blocks, so that whoever loses a machine loses no names.
//!
//! Each node has a copy of all heads, an *edition*, encrypted as blocks are. An edition counts when as many nodes have it
//! as have shards of a block that counts as stored; whoever asks all nodes but fewer than those finds the newest that
//! counts. An opening that may have rivals begins an *epoch* with an edition of its own, after which editions of an older
//! epoch do not count: so a machine that was passed over learns of it with its next swap, and there never are two that go
//! on from one head. On this disk is a copy too: what a swap was acknowledged with is known here although nodes are away.
//! Spec: spec/zstor.md #heads.

mod edition;
mod holder;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use muxfs::{
    BlockStore, Env, Error, ErrorKind, Name, Result,
    heads::{HEAD_LEN_MAX, Heads, LogHeads, Swap, Version},
};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep_until, timeout_at},
};

use self::{
    edition::Edition,
    holder::{Holder, Keys},
};
use crate::{key::failed, mark::sync_dir, ring::KeyRing, store::Access};

/// The head on this disk that says which edition it is of.
const LOCAL: &str = ".edition";
/// So long a node has to answer.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// And so long when enough others have.
const REST_TIME_MAX: Duration = Duration::from_millis(500);
/// Of machines that open nodes at once, each has to be done with its look and its claim in half of this.
const CLAIM_TIME: Duration = Duration::from_secs(6);

/// How nodes keep heads, and who may go on from them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadsOptions {
    /// So many nodes make an edition count.
    pub(crate) write_min: usize,
    pub(crate) access: Access,
    /// Whether this data directory belonged to the store before.
    pub(crate) is_known: bool,
    /// Whether no node can be open twice, so that a writer which has not ended is gone.
    pub(crate) is_exclusive: bool,
    /// Whether somebody said that it is.
    pub(crate) takes_over: bool,
}

/// [`Heads`] on all nodes of a store, and on this disk.
///
/// A swap is acknowledged when k + 1 nodes (k where m is at most 1) and this disk have it; with fewer nodes it is
/// `Unavailable` and goes on with the next call. A data directory that is new takes over what the nodes have. `Denied`
/// when another machine has done so meanwhile.
pub struct NodeHeads {
    state: Arc<AsyncMutex<State>>,
    names: Vec<Name>,
}

struct State {
    holders: Vec<Holder>,
    local: LogHeads,
    options: HeadsOptions,
    env: Env,
    edition: Edition,
    /// Whether the epoch is one that this opening began.
    is_begun: bool,
    /// A swap that may have happened.
    unsettled: Option<Unsettled>,
    /// Why nothing can be swapped any more.
    passed_over: Option<String>,
    /// What editions on nodes are encrypted with.
    keys: Keys,
    /// When no other was there the last time.
    alone_at: Option<Instant>,
    /// The file that is made before the heads of another directory are taken, whose pins are not known.
    pins_lost: PathBuf,
}

/// All editions that nodes have.
#[derive(Debug)]
struct Survey {
    editions: Vec<Edition>,
    /// Whether every node has told.
    is_whole: bool,
}

impl Survey {
    fn newest(&self) -> Option<&Edition> {
        self.editions.iter().max_by_key(|edition| edition.rank())
    }

    /// How many nodes have an edition: one has it once.
    fn count_of(&self, edition: &Edition) -> usize {
        self.editions.iter().filter(|kept| *kept == edition).count()
    }
}

#[derive(Debug, Clone)]
struct Unsettled {
    name: Name,
    expected: Option<Version>,
    edition: Edition,
}

impl fmt::Debug for NodeHeads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state.try_lock() {
            Ok(state) => write!(f, "NodeHeads({:?} on {} nodes)", state.edition.rank(), state.holders.len()),
            Err(_) => f.write_str("NodeHeads(swapping)"),
        }
    }
}

impl NodeHeads {
    /// Opens the heads of these nodes, and begins an epoch if they are to be written and enough nodes are there.
    pub(crate) async fn open(
        nodes: impl IntoIterator<Item = (String, Arc<dyn BlockStore>)>,
        local: LogHeads,
        keys: &KeyRing,
        options: HeadsOptions,
        pins_lost: PathBuf,
        env: &Env,
    ) -> Result<Self> {
        let keys = keys.of("node heads");
        let mut state = State {
            holders: nodes.into_iter().map(|node| Holder::new(node, &keys)).collect(),
            keys,
            local,
            options,
            env: env.clone(),
            edition: Edition::default(),
            is_begun: false,
            unsettled: None,
            passed_over: None,
            alone_at: None,
            pins_lost,
        };
        state.load_edition().await?;
        match state.begin().await {
            Ok(()) => {}
            Err(error)
                if error.kind() == ErrorKind::Unavailable && (options.is_known || options.access == Access::Look) =>
            {
                tracing::warn!(
                    cause = format!("{error:#}"),
                    "too few nodes have the heads: nothing can be committed now"
                );
            }
            Err(error) => return Err(error),
        }
        let names = state.edition.heads.keys().cloned().collect();
        Ok(Self { state: Arc::new(AsyncMutex::new(state)), names })
    }

    /// The names that had a head when it was opened.
    pub(crate) fn names(&self) -> &[Name] {
        &self.names
    }

    /// Gives the heads to nodes that lack them.
    pub(crate) async fn spread(&self) {
        let state = self.state.lock().await;
        if state.is_begun
            && state.unsettled.is_none()
            && state.passed_over.is_none()
            && let Err(error) = state.place(&state.edition).await
        {
            tracing::debug!(cause = format!("{error:#}"), "a node that came may lack the heads until the next commit");
        }
    }

    /// Has other nodes keep the heads: on enough of them there is an edition with these heads before this returns.
    ///
    /// # Errors
    /// `Unavailable` where too few take it, `Denied` if another machine has taken over; the nodes are those of before then.
    pub(crate) async fn set_holders(&self, nodes: Vec<(String, Arc<dyn BlockStore>)>) -> Result<()> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        detached(async move { state.set_holders(nodes).await }).await
    }

    /// Encrypts under other keys from now on, and reads besides what is under the older of them.
    pub(crate) async fn set_keys(&self, keys: Keys) {
        let mut state = self.state.lock().await;
        let holders = std::mem::take(&mut state.holders).into_iter();
        state.holders = holders.map(|holder| holder.with_keys(&keys)).collect();
        state.keys = keys;
    }

    /// Has all nodes keep the heads under the newest key, and nothing under older ones but that those were replaced.
    ///
    /// # Errors
    /// Those of the first node that fails; `Denied` if another machine has taken over.
    pub(crate) async fn rekey(&self) -> Result<()> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        detached(async move { state.rekey().await }).await
    }

    /// Checks that whoever comes next goes on from what is kept here: no other machine has taken over, whose blocks would be
    /// garbage of this one, and no node has heads that were never acknowledged. What was found of others counts for a moment,
    /// which is shorter than another one waits before it goes on.
    ///
    /// # Errors
    /// `Denied` if one has; `Unavailable` where too few nodes tell or keep the heads.
    pub(crate) async fn check_alone(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        if let Some(why) = &state.passed_over {
            return Err(denied(why));
        }
        state.settle().await?;
        let (now, was_begun) = (Instant::now(), state.is_begun);
        if !was_begun {
            state.begin().await?;
        }
        if state.options.is_exclusive || state.alone_at.is_some_and(|at| at.elapsed() < CLAIM_TIME / 2) {
            return Ok(());
        }
        if was_begun {
            let edition = state.edition.clone();
            state.look_for_others(&edition).await?;
        }
        state.alone_at = Some(now);
        Ok(())
    }

    /// Says on the nodes that this writer has ended, if anybody asks for that, and ends the copy on this disk.
    ///
    /// # Errors
    /// Those of this disk; nodes that are away are passed over.
    pub(crate) async fn close(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        let is_told = !state.options.is_exclusive;
        if is_told && state.is_begun && state.unsettled.is_none() && state.passed_over.is_none() {
            let mut last = state.next();
            last.is_last = true;
            state.note(&last).await?;
            if let Err(error) = state.place(&last).await {
                tracing::debug!(cause = format!("{error:#}"), "the nodes were not told of the end");
            }
            state.edition = last;
            state.is_begun = false;
        }
        state.local.close().await
    }
}

/// Waits for calls: all of them for a while, and no longer than some where enough have succeeded.
async fn gather<T>(
    calls: impl Iterator<Item = impl Future<Output = Result<T>>>,
    count_min: usize,
) -> (Vec<T>, Vec<(usize, Error)>) {
    let mut running: FuturesUnordered<_> = calls.enumerate().map(|(n, call)| async move { (n, call.await) }).collect();
    let (mut given, mut failed) = (Vec::new(), Vec::new());
    let mut left: Vec<_> = (0..running.len()).collect();
    let mut deadline = Instant::now() + CALL_TIME_MAX;
    while let Ok(Some((n, result))) = timeout_at(deadline, running.next()).await {
        left.retain(|other| *other != n);
        match result {
            Ok(value) => given.push(value),
            Err(error) => failed.push((n, error)),
        }
        if given.len() >= count_min {
            deadline = deadline.min(Instant::now() + REST_TIME_MAX);
        }
    }
    failed.extend(left.into_iter().map(|n| (n, too_late())));
    (given, failed)
}

impl State {
    /// So many nodes have to tell what they have, for the newest edition that counts to be among it.
    fn read_min(&self) -> usize {
        self.holders.len() + 1 - self.options.write_min.min(self.holders.len())
    }

    /// Reads the edition on this disk.
    async fn load_edition(&mut self) -> Result<()> {
        let Some((bytes, _)) = self.local.load(&local_name()?).await? else {
            (self.env.fill)(&mut self.edition.writer.0);
            // Before anything of this writer is on a node, where it has to know its own again.
            return self.note(&self.edition).await;
        };
        self.edition = Edition::decode(&bytes)?;
        // There it has names alone: what they have may be older by one swap.
        let mut heads = BTreeMap::new();
        for name in self.edition.heads.keys() {
            if let Some((now, _)) = self.local.load(name).await? {
                heads.insert(name.clone(), now);
            }
        }
        self.edition.heads = heads;
        Ok(())
    }

    /// Notes an edition on this disk, before it is on any node: so there never are two of one rank, and what the nodes have
    /// that is newer was not written from this disk as it is.
    async fn note(&self, edition: &Edition) -> Result<()> {
        let name = local_name()?;
        let heads = edition.heads.keys().map(|name| (name.clone(), Bytes::new())).collect();
        let version = self.local.load(&name).await?.map(|(_, version)| version);
        let swap = self.local.swap(&name, version.as_ref(), Edition { heads, ..edition.clone() }.encode()).await?;
        if swap == Swap::Lost { Err(two_writers()) } else { Ok(()) }
    }

    /// The next edition of this writer.
    fn next(&self) -> Edition {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host: String = host.trim().chars().take(60).collect();
        let time = (self.env.now)().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let edition = self.edition.clone();
        Edition { number: edition.number + 1, host, time, is_last: false, ..edition }
    }

    /// What the nodes have.
    async fn survey(&self) -> Result<Survey> {
        let read_min = self.read_min();
        let (given, mut failed) = gather(self.holders.iter().map(Holder::read), self.holders.len()).await;
        if let Some(replaced) = failed.iter().position(|(_, error)| error.kind() == ErrorKind::BadKey) {
            return Err(failed.swap_remove(replaced).1);
        }
        if given.len() < read_min {
            return Err(self.too_few("tell the heads", given.len(), read_min, &failed));
        }
        let is_whole = given.len() == self.holders.len();
        Ok(Survey { editions: given.into_iter().flatten().collect(), is_whole })
    }

    /// Has the nodes keep an edition.
    async fn place(&self, edition: &Edition) -> Result<()> {
        self.place_on(self.options.write_min, edition).await
    }

    async fn place_on(&self, count_min: usize, edition: &Edition) -> Result<()> {
        let (done, failed) = gather(self.holders.iter().map(|holder| holder.write(edition)), count_min).await;
        if done.len() < count_min {
            return Err(self.too_few("keep the heads", done.len(), count_min, &failed));
        }
        Ok(())
    }

    fn too_few(&self, what: &str, count: usize, count_min: usize, failed: &[(usize, Error)]) -> Error {
        let failed: Vec<_> = failed.iter().map(|(n, error)| format!("{} ({error:#})", self.holders[*n].name)).collect();
        let why = format!("{count} nodes {what}, and it takes {count_min}; missing: {}", failed.join(", "));
        Error::new(ErrorKind::Unavailable, "zstor.heads").because(why)
    }

    /// Begins another edition of the same heads, which is on no node yet.
    async fn advance(&mut self) -> Result<()> {
        if let Some(why) = &self.passed_over {
            return Err(denied(why));
        }
        if !self.is_begun {
            self.begin().await?;
        }
        self.settle().await?;
        // One that only some of the nodes take is never the number of another.
        self.edition = self.next();
        self.note(&self.edition).await?;
        Ok(())
    }

    async fn rekey(&mut self) -> Result<()> {
        self.advance().await?;
        let all = self.holders.len();
        self.place_on(all, &self.edition).await?;
        if !self.options.is_exclusive {
            self.look_for_others(&self.edition.clone()).await?;
        }
        self.retire_older(all).await
    }

    /// Has so many nodes at least have nothing under older keys: who knows none but those finds a node that says so, and no
    /// heads that are behind. Nobody else may have begun an epoch under one of them.
    async fn retire_older(&self, count_min: usize) -> Result<()> {
        let left = || self.holders.iter().enumerate().filter(|(_, holder)| holder.has_older());
        let numbers: Vec<_> = left().map(|(n, _)| n).collect();
        let done = self.holders.len() - numbers.len();
        if done >= count_min {
            return Ok(());
        }
        let (given, failed) = gather(left().map(|(_, holder)| holder.retire()), count_min - done).await;
        if done + given.len() < count_min {
            let failed: Vec<_> = failed.into_iter().map(|(n, error)| (numbers[n], error)).collect();
            return Err(self.too_few(
                "keep the heads under the newest key alone",
                done + given.len(),
                count_min,
                &failed,
            ));
        }
        Ok(())
    }

    async fn set_holders(&mut self, nodes: Vec<(String, Arc<dyn BlockStore>)>) -> Result<()> {
        self.advance().await?;
        let holder = |node| {
            let holder = Holder::new(node, &self.keys);
            match self.holders.iter().find(|before| before.name == holder.name) {
                Some(before) => holder.after(before),
                None => holder,
            }
        };
        let holders = nodes.into_iter().map(holder).collect();
        let before = std::mem::replace(&mut self.holders, holders);
        let edition = self.edition.clone();
        let placed = async {
            self.place(&edition).await?;
            if !self.options.is_exclusive {
                self.look_for_others(&edition).await?;
            }
            self.retire_older(self.options.write_min).await
        };
        let placed = placed.await;
        if placed.is_err() {
            self.holders = before;
        }
        placed
    }

    /// Takes the newest edition, and begins an epoch.
    async fn begin(&mut self) -> Result<()> {
        let HeadsOptions { access, is_known, is_exclusive, takes_over, .. } = self.options;
        let start = Instant::now();
        let survey = self.survey().await?;
        let newest = survey.newest().cloned();
        let is_own = newest.as_ref().is_some_and(|newest| newest.writer == self.edition.writer);
        // Nobody else can have begun an epoch meanwhile, and no node that is away brings back what was never acknowledged.
        let is_only = |newest: &Edition| survey.is_whole && survey.count_of(newest) >= self.options.write_min;
        let is_begun = is_exclusive && is_own && newest.as_ref().is_some_and(is_only);
        if let Some(newest) = newest
            // A stop between the nodes and this disk leaves heads there that are newer, of the edition that was noted here.
            && (newest.rank() > self.edition.rank() || is_own && newest.rank() == self.edition.rank())
        {
            if is_known && newest.rank() > self.edition.rank() {
                let passed_over = self.pass_over(&newest);
                if access == Access::Look {
                    // Who only looks is told, and may look.
                    tracing::error!("{passed_over:#}");
                    return Ok(());
                }
                return Err(passed_over);
            }
            if access == Access::Write && !is_own && !newest.is_last && !is_exclusive && !takes_over {
                return Err(still_there(&newest));
            }
            self.adopt(newest).await?;
        }
        if access == Access::Look {
            return Ok(());
        }
        if is_begun {
            self.is_begun = true;
            return Ok(());
        }
        let epoch = self.edition.epoch + 1;
        loop {
            let known = self.edition.rank();
            let edition = Edition { epoch, ..self.next() };
            self.note(&edition).await?;
            // From here on some nodes may have it, whatever becomes of the others.
            self.edition = edition;
            self.place(&self.edition).await?;
            let missed = if is_exclusive {
                None
            } else {
                if !is_own {
                    self.wait_for_others(start).await?;
                }
                // What somebody else was acknowledged before this claim was there, and after the look before it.
                let others = self.look_for_others(&self.edition.clone()).await?.editions.into_iter();
                others.filter(|other| other.epoch < epoch && other.rank() > known).max_by_key(Edition::rank)
            };
            let Some(missed) = missed else {
                self.retire_older(self.options.write_min).await?;
                self.is_begun = true;
                return Ok(());
            };
            self.adopt(missed).await?;
        }
    }

    /// Of two that claim the same epoch the later one may take the claim of the other away: waits until each has seen what is
    /// left.
    async fn wait_for_others(&self, start: Instant) -> Result<()> {
        if start.elapsed() > CLAIM_TIME {
            return Ok(());
        }
        if start.elapsed() > CLAIM_TIME / 2 {
            let why = "the nodes are too slow to tell whether another machine opens this store: try again";
            return Err(Error::new(ErrorKind::Unavailable, "zstor.heads").because(why));
        }
        sleep_until(start + CLAIM_TIME).await;
        Ok(())
    }

    /// Makes the heads on this disk those of an edition.
    async fn adopt(&mut self, newest: Edition) -> Result<()> {
        if !self.options.is_known && !newest.heads.is_empty() {
            tracing::warn!(host = newest.host, "the names were found on the nodes, as they were committed last");
            if self.options.access == Access::Write {
                make_durably(&self.pins_lost)?;
            }
        }
        for (name, head) in &newest.heads {
            let now = self.local.load(name).await?;
            if now.as_ref().is_some_and(|(now, _)| now == head) {
                continue;
            }
            let swap = self.local.swap(name, now.as_ref().map(|(_, version)| version), head.clone()).await?;
            if swap == Swap::Lost {
                return Err(two_writers());
            }
        }
        self.edition = Edition { writer: self.edition.writer, ..newest };
        self.note(&self.edition).await
    }

    /// Finds out whether somebody else has begun an epoch, or has written over what was placed; what the nodes have.
    async fn look_for_others(&mut self, edition: &Edition) -> Result<Survey> {
        let survey = self.survey().await?;
        let other = |other: &&Edition| other.epoch >= edition.epoch && other.writer != edition.writer;
        if let Some(other) = survey.editions.iter().filter(other).max_by_key(|other| other.rank()) {
            return Err(self.pass_over(other));
        }
        let kept = survey.count_of(edition);
        if kept < self.read_min() {
            let why = format!("{kept} nodes kept the heads that they were given");
            return Err(Error::new(ErrorKind::Unavailable, "zstor.heads").because(why));
        }
        Ok(survey)
    }

    fn pass_over(&mut self, newest: &Edition) -> Error {
        let who = if newest.writer == self.edition.writer {
            "this directory is a copy of an older state, which went on".to_owned()
        } else {
            format!("{} has taken over this store", machine(newest))
        };
        let why = format!(
            "{who}, {} seconds after 1970: what was written here since is not part of it. To go on from what the nodes have, \
             without what was not committed, move away the directory of this mount in the data directory",
            newest.time
        );
        self.passed_over = Some(why.clone());
        denied(&why)
    }

    /// Finds out what became of a swap that failed, by making it happen.
    async fn settle(&mut self) -> Result<()> {
        let Some(Unsettled { name, expected, edition }) = self.unsettled.clone() else { return Ok(()) };
        self.note(&edition).await?;
        self.place(&edition).await?;
        if !self.options.is_exclusive {
            self.look_for_others(&edition).await?;
        }
        self.retire_older(self.options.write_min).await?;
        let head = edition.heads.get(&name).cloned().unwrap_or_default();
        if self.local.swap(&name, expected.as_ref(), head.clone()).await? == Swap::Lost
            && self.local.load(&name).await?.is_none_or(|(now, _)| now != head)
        {
            return Err(two_writers());
        }
        self.edition = edition;
        self.unsettled = None;
        Ok(())
    }

    async fn load(&mut self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        self.settle().await?;
        self.local.load(name).await
    }

    async fn swap(&mut self, name: Name, expected: Option<Version>, head: Bytes) -> Result<Swap> {
        if let Some(why) = &self.passed_over {
            return Err(denied(why));
        }
        if !self.is_begun {
            self.begin().await?;
        }
        let now = self.load(&name).await?;
        if now.map(|(_, version)| version) != expected {
            return Ok(Swap::Lost);
        }
        let mut edition = self.next();
        edition.heads.insert(name.clone(), head);
        self.unsettled = Some(Unsettled { name: name.clone(), expected, edition });
        match self.load(&name).await? {
            Some((_, version)) => Ok(Swap::Done(version)),
            None => Err(two_writers()),
        }
    }
}

fn make_durably(file: &Path) -> Result<()> {
    let made = File::create(file).and_then(|made| made.sync_all());
    let made = made.and_then(|()| sync_dir(file.parent().unwrap_or(Path::new("."))));
    made.map_err(|error| failed("zstor.open", file, error))
}

fn local_name() -> Result<Name> {
    Name::new(LOCAL.as_bytes())
}

fn machine(edition: &Edition) -> String {
    if edition.host.is_empty() { "another machine".into() } else { format!("the machine {:?}", edition.host) }
}

fn denied(why: &str) -> Error {
    Error::new(ErrorKind::Denied, "zstor.heads").because(why.to_owned())
}

fn still_there(newest: &Edition) -> Error {
    let why = format!(
        "{} has this store open, or did not end cleanly ({} seconds after 1970). If it is gone for good, make an empty file \
         `take-over` in the directory of this mount in the data directory",
        machine(newest),
        newest.time
    );
    denied(&why)
}

fn too_late() -> Error {
    Error::new(ErrorKind::Unavailable, "zstor.heads").because("no answer in time")
}

fn two_writers() -> Error {
    Error::new(ErrorKind::Internal, "zstor.heads").because("the heads on this disk were changed by somebody else")
}

#[async_trait]
impl Heads for NodeHeads {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        let (name, mut state) = (name.clone(), Arc::clone(&self.state).lock_owned().await);
        detached(async move { state.load(&name).await }).await
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        if head.len() > HEAD_LEN_MAX {
            let why = format!("a head has at most {HEAD_LEN_MAX} bytes");
            return Err(Error::new(ErrorKind::TooLarge, "zstor.heads").because(why));
        }
        let (name, expected, head) = (name.clone(), expected.cloned(), Bytes::copy_from_slice(&head));
        let mut state = Arc::clone(&self.state).lock_owned().await;
        detached(async move { state.swap(name, expected, head).await }).await
    }
}

/// Runs what must not stop half way when its caller is dropped.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| Error::new(ErrorKind::Internal, "zstor.heads").because(error))?
}
