//! Scrubbing a store: one pass at a time over all shards, gone on with after whatever ended it.
//!
//! The library walks and heals ([`Erasure::scrub`]); here is what outlives a process: how far a pass is, what it found,
//! what the last whole one found, and whether a pass is due because something is lacking that nobody has noted. That is
//! kept in the mount's own directory, sealed, as it names blocks. Who scrubs in the background makes way for whoever
//! asks for a scrub, who goes on with the same pass. Spec: spec/zstor.md #scrub.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt, mem,
    num::NonZeroU64,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use muxfs::{
    BlockKey, Cid, Env, Error, ErrorKind, Name, Result,
    block::{self, Encrypt, Erasure, ScrubOptions, ScrubReport},
    heads::{Heads as _, LogHeads, Swap},
    media::{Media, MemMedia, OverlayMedia},
};
use muxfs_local::FileMedia;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch},
    time::Instant,
};

use crate::{members::Members, node::OpenNode, settler::Layout, status::lost, store::Access};

/// The version of what is kept.
const VERSION: u8 = 1;
/// So many blocks are named that a pass left weak or unhealed, with so much of the reason, in bytes: all that is kept fits
/// into a head.
const NAMED_MAX: usize = 32;
const WHY_LEN_MAX: usize = 256;
/// How far a pass is, is written down so often.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What is known of scrubs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScrubState {
    v: u8,
    /// The pass that has not come to its end; `None` where none was begun since the last one ended.
    pub current: Option<ScrubTotals>,
    /// The last pass that came to its end.
    pub last: Option<ScrubTotals>,
    /// Whether blocks may lack shards of which nobody has noted which: since a node went, was replaced or added, or a
    /// server ended without a word. A pass that is begun with all nodes finds them.
    pub is_due: bool,
    /// Whether a server has the store: if it is so at an opening, that one ended without a word.
    is_served: bool,
    /// The nodes that there were when every shard was found where it belongs; `None` where one may not be.
    #[serde(default)]
    pub(crate) settled: Option<Layout>,
}

/// A pass, and what it found and did so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScrubTotals {
    /// In seconds since 1970.
    pub began: u64,
    /// Likewise; `None` while it has not come to its end.
    pub ended: Option<u64>,
    /// The last block that was done.
    position: Option<Vec<u8>>,
    /// Which part of all blocks is done, 0 to 1.
    pub coverage: f64,
    /// How many blocks there were.
    pub blocks: u64,
    /// How many shards were read.
    pub shards: u64,
    /// How long they were, in bytes.
    pub bytes: u64,
    /// How many of them were not what was written.
    pub bad: u64,
    /// How many were not where they belong, on nodes that answered.
    pub missing: u64,
    /// How many were written.
    pub healed: u64,
    /// How many were removed that were good for nothing.
    pub removed: u64,
    /// How many blocks can be read and were left with fewer shards than they should have.
    pub weak: u64,
    /// How many blocks could not be read or healed.
    pub unhealed: u64,
    /// The first of those.
    pub named: VecDeque<NamedBlock>,
}

/// A block that a pass left weak or unhealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedBlock {
    /// The CID that it has as plain bytes, or what it is called on the nodes where that cannot be told.
    pub block: String,
    /// What is the matter with it.
    pub why: String,
    /// Whether it can be read.
    pub readable: bool,
}

impl ScrubTotals {
    /// Adds what a walk did since it began.
    fn plus(&self, report: &ScrubReport, named: &VecDeque<NamedBlock>) -> Self {
        let sum = &report.shards;
        Self {
            blocks: self.blocks + report.blocks,
            shards: self.shards + sum.shards_read,
            bytes: self.bytes + sum.bytes_read,
            bad: self.bad + sum.bad,
            missing: self.missing + sum.missing,
            healed: self.healed + sum.healed,
            removed: self.removed + sum.removed,
            weak: self.weak + report.weak,
            unhealed: self.unhealed + report.unhealed,
            named: named.clone(),
            ..self.clone()
        }
    }
}

/// What is scrubbed.
#[derive(Clone)]
pub(crate) struct Scrub {
    pub(crate) shards: Erasure,
    pub(crate) encrypt: Arc<Encrypt>,
    pub(crate) members: Arc<Members>,
}

/// Goes through all shards of a store and heals them, one pass at a time.
#[derive(Clone)]
pub struct Scrubber {
    inner: Arc<Inner>,
}

struct Inner {
    of: Scrub,
    env: Env,
    access: Access,
    heads: LogHeads,
    state: Mutex<ScrubState>,
    /// What is written down.
    saved: AsyncMutex<ScrubState>,
    /// Whoever holds it scrubs.
    scrubbing: Arc<AsyncMutex<()>>,
    /// Whoever holds it was asked to scrub, and did not begin by itself.
    asked: Arc<AsyncMutex<()>>,
    /// How many wait who were asked.
    waiting: watch::Sender<usize>,
    /// How many repairs were known to have found no room to wait, and
    dropped_count: AtomicU64,
    /// the nodes that were known not to be there.
    gone: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber").field("state", &*self.inner.state()).finish_non_exhaustive()
    }
}

impl Scrubber {
    /// Takes up what is kept in a directory.
    pub(crate) async fn open(
        of: Scrub,
        dir: &Path,
        access: Access,
        seal: impl FnOnce(Arc<dyn Media>) -> Arc<dyn Media>,
        env: &Env,
    ) -> Result<Self> {
        let media: Arc<dyn Media> = match access {
            Access::Write => Arc::new(FileMedia::open(dir)?),
            Access::Look if dir.exists() => Arc::new(OverlayMedia::new(Arc::new(FileMedia::open(dir)?))),
            Access::Look => Arc::new(MemMedia::default()),
        };
        let (heads, state) = match load(seal(media), env).await {
            Ok(loaded) => loaded,
            // It costs a pass, which is not worth a start that fails.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::BadKey | ErrorKind::Unsupported) => {
                tracing::warn!(
                    dir = %dir.display(),
                    "how far a scrub was cannot be read, and is noted in memory alone until that directory is removed: {error:#}"
                );
                let state = ScrubState { is_due: true, ..ScrubState::default() };
                (LogHeads::open(Arc::new(MemMedia::default()), env).await?, state)
            }
            Err(error) => return Err(error),
        };
        let inner = Inner {
            of,
            env: env.clone(),
            access,
            heads,
            saved: AsyncMutex::new(ScrubState { v: VERSION, ..state.clone() }),
            state: Mutex::new(state),
            scrubbing: Arc::default(),
            asked: Arc::default(),
            waiting: watch::Sender::new(0),
            dropped_count: AtomicU64::new(0),
            gone: Mutex::default(),
        };
        let scrubber = Self { inner: Arc::new(inner) };
        let ended_without_a_word = scrubber.state().is_served;
        // One that was made anew lacks everything, and one that was added what belongs there.
        let mut there = scrubber.inner.of.members.open();
        there.retain(|node| node.lost().is_none());
        let is_lacking = there.iter().any(OpenNode::is_empty) && !there.iter().all(OpenNode::is_empty);
        if access == Access::Write && (ended_without_a_word || is_lacking) {
            scrubber.change(|state| (state.is_due, state.is_served) = (true, false)).await?;
        }
        // What they miss from here on is owed to them.
        *scrubber.inner.gone() = scrubber.inner.not_there();
        Ok(scrubber)
    }

    /// What is known now.
    pub fn state(&self) -> ScrubState {
        self.inner.state().clone()
    }

    /// Whether somebody scrubs now.
    pub fn is_running(&self) -> bool {
        self.inner.scrubbing.try_lock().is_err()
    }

    /// The names of the nodes that are lost, as far as is known.
    pub fn lost(&self) -> Vec<String> {
        let Scrub { members, shards, .. } = &self.inner.of;
        lost(&members.open(), shards).into_iter().map(|(node, _)| node).collect()
    }

    /// Whether a pass is to be begun, or gone on with, by who does it every so often.
    pub fn is_due(&self, every: Duration) -> bool {
        self.look();
        let now = self.inner.now();
        let state = self.inner.state();
        let is_old = |last: &ScrubTotals| now.saturating_sub(last.began) >= every.as_secs();
        state.is_due || state.current.is_some() || state.last.as_ref().is_none_or(is_old)
    }

    /// Notes that a server has the store: should it end without [`close`](crate::Zstor::close), a pass is due.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn begin_serving(&self) -> Result<()> {
        self.change(|state| state.is_served = true).await
    }

    /// Begins a pass, or goes on with the one that has not come to its end, unless `restart` says not to, or one is due and
    /// all nodes are there to begin it with. Whoever scrubs in the background makes way.
    ///
    /// # Errors
    /// `Unavailable` while somebody else who was asked to scrubs; those of the disk.
    pub async fn scrub(&self, restart: bool, bytes_per_sec: Option<NonZeroU64>) -> Result<ScrubPass> {
        let asked = Arc::clone(&self.inner.asked).try_lock_owned().map_err(|_| {
            Error::new(ErrorKind::Unavailable, "zstor.scrub").because("it is being scrubbed already: wait for its end")
        })?;
        let waiting = Waiting::new(&self.inner.waiting);
        let scrubbing = Arc::clone(&self.inner.scrubbing).lock_owned().await;
        drop(waiting);
        self.begin(restart, bytes_per_sec, (scrubbing, Some(asked))).await
    }

    /// The same of who does it in the background; `None` while somebody scrubs, or is about to.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn scrub_in_background(&self, bytes_per_sec: Option<NonZeroU64>) -> Result<Option<ScrubPass>> {
        if *self.inner.waiting.borrow() > 0 {
            return Ok(None);
        }
        let Ok(scrubbing) = Arc::clone(&self.inner.scrubbing).try_lock_owned() else { return Ok(None) };
        self.begin(false, bytes_per_sec, (scrubbing, None)).await.map(Some)
    }

    async fn begin(&self, restart: bool, bytes_per_sec: Option<NonZeroU64>, turn: Turn) -> Result<ScrubPass> {
        self.look();
        // Without one node whatever it lacks is not found.
        let is_whole = self.lost().is_empty();
        let state = self.state();
        let is_anew = restart || (state.is_due && is_whole);
        let before = state.current.filter(|_| !is_anew);
        let is_resumed = before.is_some();
        let before = before.unwrap_or_else(|| ScrubTotals { began: self.inner.now(), ..ScrubTotals::default() });
        self.change(|state| {
            state.is_due &= is_resumed || !is_whole;
            state.current = Some(before.clone());
        })
        .await?;
        let after = before.position.as_deref().map(BlockKey::new).transpose()?;
        let walk = self.inner.of.shards.scrub(ScrubOptions { after, bytes_per_sec });
        let named = before.named.clone();
        let scrubber = self.clone();
        Ok(ScrubPass { scrubber, before, named, walk, is_resumed, saved: Instant::now(), _turn: turn })
    }

    /// Notes what makes a pass due and nothing else notes: that a node went, and with it what was not synced there, and
    /// that repairs found no room to wait. For a server to call every so often.
    pub fn look(&self) {
        let dropped_count = self.inner.of.shards.repairs_dropped();
        let is_dropped = self.inner.dropped_count.swap(dropped_count, Ordering::Relaxed) < dropped_count;
        let gone = self.inner.not_there();
        let went = !gone.is_subset(&mem::replace(&mut *self.inner.gone(), gone.clone()));
        if is_dropped || went {
            self.inner.state().is_due = true;
        }
    }

    /// Changes the state, durably.
    async fn change(&self, change: impl FnOnce(&mut ScrubState) + Send) -> Result<()> {
        change(&mut self.inner.state());
        self.save().await
    }

    /// Notes the nodes under which everything is where it belongs, durably.
    pub(crate) async fn set_settled(&self, settled: Option<Layout>) -> Result<()> {
        self.change(|state| state.settled = settled).await
    }

    /// Writes the state down, if it is another than what was.
    async fn save(&self) -> Result<()> {
        const OP: &str = "zstor.scrub";
        if self.inner.access == Access::Look {
            return Ok(());
        }
        let mut saved = self.inner.saved.lock().await;
        let state = ScrubState { v: VERSION, ..self.state() };
        if state == *saved {
            return Ok(());
        }
        let text = serde_json::to_vec(&state).map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?;
        let version = self.inner.heads.load(&name()?).await?.map(|(_, version)| version);
        match self.inner.heads.swap(&name()?, version.as_ref(), text.into()).await? {
            Swap::Done(_) => {
                *saved = state;
                Ok(())
            }
            Swap::Lost => Err(Error::new(ErrorKind::Internal, OP).because("somebody else has the store")),
        }
    }

    /// Writes everything down at the end of a process.
    pub(crate) async fn close(&self) -> Result<()> {
        self.look();
        // How far a pass is may be newer than what was written, too.
        self.change(|state| state.is_served = false).await?;
        self.inner.heads.close().await
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, ScrubState> {
        // What is done under the lock is done in single steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the nodes that are not there, those aside that merely do not answer.
    fn not_there(&self) -> BTreeSet<String> {
        let nodes = self.of.members.open();
        nodes.iter().filter(|node| node.lost().is_some()).map(|node| node.name().to_owned()).collect()
    }

    /// In seconds since 1970.
    fn now(&self) -> u64 {
        (self.env.now)().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// The turn of who scrubs, and of who was asked to.
type Turn = (OwnedMutexGuard<()>, Option<OwnedMutexGuard<()>>);

/// Somebody who waits until whoever scrubs in the background makes way.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A pass under way; goes on only while it is told to. Dropped, it stops where it is, and the next one goes on there.
pub struct ScrubPass {
    scrubber: Scrubber,
    /// What was found before this walk.
    before: ScrubTotals,
    named: VecDeque<NamedBlock>,
    walk: block::Scrub,
    is_resumed: bool,
    saved: Instant,
    _turn: Turn,
}

impl fmt::Debug for ScrubPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScrubPass({:?})", self.walk)
    }
}

impl ScrubPass {
    /// Whether it goes on with one that was begun before.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// What the whole pass found so far.
    pub fn totals(&self) -> ScrubTotals {
        let totals = self.before.plus(self.walk.report(), &self.named);
        let position = self.walk.position().map(|key| key.as_bytes().to_vec());
        ScrubTotals { position, coverage: self.walk.coverage(), ..totals }
    }

    /// Reads the next block and heals it; `false` where that was the last, and the pass is ended. Dropped half way, the
    /// next step begins with the same block.
    ///
    /// # Errors
    /// `Unavailable` where so many nodes fail that their keys are not known; those of the disk that notes how far it is.
    /// The next step tries again.
    pub async fn step(&mut self) -> Result<bool> {
        let is_going_on = self.walk.step().await?;
        self.name_new().await;
        let totals = self.totals();
        if is_going_on {
            self.scrubber.inner.state().current = Some(totals);
            if self.saved.elapsed() >= SAVE_EVERY {
                self.saved = Instant::now();
                self.scrubber.save().await?;
            }
            return Ok(true);
        }
        let ended = Some(self.scrubber.inner.now());
        let last = Some(ScrubTotals { ended, position: None, coverage: 1.0, ..totals });
        self.scrubber.change(|state| (state.current, state.last) = (None, last)).await?;
        Ok(false)
    }

    /// Changes how many bytes are read in a second, from the next step on.
    pub fn set_rate(&mut self, bytes_per_sec: Option<NonZeroU64>) {
        self.walk.set_rate(bytes_per_sec);
    }

    /// Gives what ends when somebody was asked to scrub, and waits that this pass makes way.
    pub fn until_wanted(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut waiting = self.scrubber.inner.waiting.subscribe();
        async move {
            // Its sender is there as long as the pass.
            waiting.wait_for(|count| *count > 0).await.ok();
        }
    }

    /// Names the blocks that the last step left weak or unhealed.
    async fn name_new(&mut self) {
        if self.named.len() >= NAMED_MAX {
            return;
        }
        let report = self.walk.report();
        let named = self.before.named.len();
        let unhealed = report.unhealed_keys.iter().map(|(key, why)| (key, why, false));
        let weak = report.weak_keys.iter().map(|(key, why)| (key, why, true));
        // In the order of keys, as they were found.
        let mut all: Vec<_> = unhealed.chain(weak).collect();
        all.sort_by_key(|(key, ..)| *key);
        for (key, why, readable) in all.into_iter().skip(self.named.len() - named).take(NAMED_MAX - self.named.len()) {
            let block = self.scrubber.name_of(key).await;
            let why = why.chars().scan(0, |len, char| {
                *len += char.len_utf8();
                (*len <= WHY_LEN_MAX).then_some(char)
            });
            self.named.push_back(NamedBlock { block, why: why.collect(), readable });
        }
    }
}

impl Scrubber {
    /// What a block is called that nodes have under this key.
    async fn name_of(&self, stored: &BlockKey) -> String {
        /// Version 1, and the codec of plain bytes.
        const RAW: [u8; 2] = [1, 0x55];
        let key = self.inner.of.encrypt.key_of(stored).await.ok().flatten();
        let cid = key.and_then(|key| Cid::from_bytes(&[&RAW[..], key.as_bytes()].concat()).ok());
        cid.map_or_else(|| format!("{stored:?}"), |cid| cid.to_string())
    }
}

fn name() -> Result<Name> {
    Name::new(b"scrub")
}

async fn load(media: Arc<dyn Media>, env: &Env) -> Result<(LogHeads, ScrubState)> {
    let heads = LogHeads::open(media, env).await?;
    let Some((text, _)) = heads.load(&name()?).await? else { return Ok((heads, ScrubState::default())) };
    let refuse = |kind, why: String| Err(Error::new(kind, "zstor.scrub").because(why));
    match serde_json::from_slice::<ScrubState>(&text) {
        Ok(state) if state.v == VERSION => Ok((heads, state)),
        Ok(state) => refuse(ErrorKind::Unsupported, format!("a newer program wrote it (version {})", state.v)),
        Err(error) => refuse(ErrorKind::Corrupt, error.to_string()),
    }
}
