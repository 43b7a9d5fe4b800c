//! Replacing the key of a store: what moves everything to the newest one, while all goes on.
//!
//! The new key is in its file before anything is under it. Then, in the background and again after whatever stopped it:
//! what the mount has on this machine is sealed again, the heads are put on the nodes anew, each block is put under the
//! newest key, made durable on all nodes and only then removed under the older; and when nothing is left, the older keys go
//! from the file. Nothing is removed while a node is away: its shards would be of a key that nobody has any more.
//! Spec: spec/zstor.md #another-key.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::NonZeroU64,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::TryStreamExt as _;
use muxfs::{
    BlockKey, BlockStore as _, Env, Error, ErrorKind, Result,
    block::{Encrypt, Erasure},
    media::{Media, SealedMedia},
};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, watch},
    time::{sleep, timeout},
};

use crate::{
    heads::NodeHeads,
    members::Members,
    ring::KeyRing,
    status::lost,
    store::{Access, PARTS, has_parts},
};

const OP: &str = "zstor.rotate";
const NO_FILE: &str = "its key is not in a file of its own, which could be changed: write all of it to one, name that as `key` \
                       of the mount in the configuration, and start again";
/// What could not be done is tried again after so long, then after twice as long each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// But at least so often.
const RETRY_MAX: Duration = Duration::from_mins(5);
/// So many names of blocks are in memory at once: a listing of all nodes finds as many.
const WINDOW_COUNT: usize = 1 << 16;
/// So many blocks, or so many bytes of them, are made durable at once.
const BATCH_COUNT: usize = 256;
const BATCH_LEN: usize = 64 << 20;

/// How far the replacing of a key is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rotation {
    /// Whether something may be under another key than the newest.
    pub is_under_way: bool,
    /// How many blocks this process has put under the newest key since,
    pub moved: u64,
    /// and how long they were, in bytes.
    pub bytes: u64,
    /// About how many are still under older ones; `None` where they were not counted.
    pub remaining: Option<u64>,
    /// Why it does not go on now, and is tried again later; `None` where it does.
    pub left: Option<String>,
}

impl Rotation {
    /// Which part of the blocks that this process found under older keys is under the newest, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a part of a whole, for people")]
    pub fn coverage(&self) -> f64 {
        match (self.is_under_way, self.remaining) {
            (false, _) => 1.0,
            (true, None) => 0.0,
            (true, Some(remaining)) => self.moved as f64 / (self.moved + remaining).max(1) as f64,
        }
    }
}

/// The media that a mount seals, by what they are for.
pub(crate) struct Parts {
    ring: Mutex<KeyRing>,
    env: Env,
    sealed: Mutex<BTreeMap<String, Arc<SealedMedia>>>,
}

impl Parts {
    pub(crate) fn new(ring: KeyRing, env: &Env) -> Self {
        Self { ring: Mutex::new(ring), env: env.clone(), sealed: Mutex::default() }
    }

    pub(crate) fn seal(&self, purpose: &str, media: Arc<dyn Media>) -> Arc<dyn Media> {
        // Whoever replaces keys has the ring as long, and so misses none.
        let ring = self.ring();
        let sealed = Arc::new(ring.sealed(purpose, media, &self.env));
        self.sealed().insert(purpose.into(), sealed.clone());
        sealed
    }

    fn ring(&self) -> MutexGuard<'_, KeyRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sealed(&self) -> MutexGuard<'_, BTreeMap<String, Arc<SealedMedia>>> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, to: &KeyRing) {
        let mut ring = self.ring();
        for (purpose, media) in &*self.sealed() {
            let (newest, older) = to.of(purpose);
            media.set_keys(newest, older);
        }
        ring.clone_from(to);
    }
}

/// What is moved, and where its keys are.
pub(crate) struct Moved {
    pub(crate) shards: Erasure,
    pub(crate) encrypt: Arc<Encrypt>,
    pub(crate) heads: Arc<NodeHeads>,
    pub(crate) members: Arc<Members>,
    pub(crate) parts: Parts,
    pub(crate) access: Access,
    /// The directory that the mount has for itself.
    pub(crate) local: PathBuf,
    /// Where the keys are kept, if they can be changed there.
    pub(crate) file: Option<PathBuf>,
    /// k and m.
    pub(crate) counts: (u8, u8),
}

/// Moves a store to its newest key.
#[derive(Clone)]
pub(crate) struct Rotator(Arc<Inner>);

struct Inner {
    of: Moved,
    env: Env,
    /// Bytes in a second; 0 is as fast as it can.
    rate: AtomicU64,
    /// Whoever holds it changes the keys.
    changing: AsyncMutex<()>,
    wanted: Notify,
    /// Whether no heads on nodes are under an older key.
    heads_done: AtomicBool,
    now: watch::Sender<Rotation>,
}

impl fmt::Debug for Rotator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rotator({:?})", *self.0.now.borrow())
    }
}

impl Rotator {
    pub(crate) fn new(of: Moved, env: &Env) -> Self {
        let now = Rotation { is_under_way: of.parts.ring().has_older(), ..Rotation::default() };
        let (rate, changing, wanted) = (AtomicU64::new(0), AsyncMutex::default(), Notify::new());
        let (env, heads_done, now) = (env.clone(), AtomicBool::new(false), watch::Sender::new(now));
        Self(Arc::new(Inner { of, env, rate, changing, wanted, heads_done, now }))
    }

    pub(crate) fn seal(&self, purpose: &str, media: Arc<dyn Media>) -> Arc<dyn Media> {
        self.0.of.parts.seal(purpose, media)
    }

    pub(crate) fn set_rate(&self, bytes_per_sec: Option<NonZeroU64>) {
        self.0.rate.store(bytes_per_sec.map_or(0, NonZeroU64::get), Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> watch::Receiver<Rotation> {
        self.0.now.subscribe()
    }

    /// Draws a new key, and writes it to the file; whether it did, or older keys are being replaced already.
    pub(crate) async fn rotate(&self) -> Result<bool> {
        let this = self.clone();
        // One that stops half way leaves the file and this process of two minds.
        let done = tokio::spawn(async move { this.0.rotate().await }).await;
        done.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
    }

    /// Goes on until it is dropped.
    pub(crate) async fn run(self) {
        let mut retry = RETRY_MIN;
        loop {
            if !self.0.now.borrow().is_under_way {
                self.0.wanted.notified().await;
                retry = RETRY_MIN;
                continue;
            }
            self.0.tell(|now| now.left = None);
            let Err(error) = self.0.work().await else {
                tracing::info!("everything is under the newest key, and the older ones are gone from its file");
                continue;
            };
            let why = format!("{error:#}");
            tracing::warn!("not everything is under the newest key yet, which is tried again later: {why}");
            self.0.tell(|now| now.left = Some(why));
            let is_wanted = timeout(retry, self.0.wanted.notified()).await.is_ok();
            retry = if is_wanted { RETRY_MIN } else { (retry * 2).min(RETRY_MAX) };
        }
    }
}

/// Blocks under older keys that go next.
#[derive(Default)]
struct Batch {
    names: Vec<BlockKey>,
    /// How many of them were put under the newest key: what is left of puts that were broken off is not.
    moved: u64,
    /// How long those are, in bytes.
    len: usize,
}

impl Inner {
    fn tell(&self, change: impl FnOnce(&mut Rotation)) {
        self.now.send_modify(change);
    }

    async fn rotate(&self) -> Result<bool> {
        let _turn = self.changing.lock().await;
        if self.of.access == Access::Look {
            return Err(Error::new(ErrorKind::ReadOnly, OP).because("who only looks replaces no key"));
        }
        let ring = self.of.parts.ring().clone();
        if ring.has_older() {
            self.wanted.notify_one();
            return Ok(false);
        }
        // Of two machines one would not know the key of the other.
        self.of.heads.check_alone().await?;
        let new = ring.with_new(&self.env);
        self.replace(&ring, &new)?;
        self.take(&new).await;
        self.wanted.notify_one();
        Ok(true)
    }

    /// Writes other keys to the file, unless it has them already: whoever had the store before may have come as far.
    fn replace(&self, ring: &KeyRing, new: &KeyRing) -> Result<()> {
        let Some(file) = &self.of.file else {
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because(NO_FILE));
        };
        let there = KeyRing::load(file)?.map(|there| there.to_text());
        if there.as_ref().is_some_and(|there| **there == *new.to_text()) {
            return Ok(());
        }
        if there.is_none_or(|there| *there != *ring.to_text()) {
            let why =
                "its file has other keys than those that the store was opened with: bring those back, or start again";
            return Err(Error::new(ErrorKind::BadKey, OP).at(file.display()).because(why));
        }
        new.replace(file)
    }

    /// Uses other keys.
    async fn take(&self, ring: &KeyRing) {
        let (newest, older) = ring.of("blocks");
        self.of.encrypt.set_keys(newest, older).await;
        self.of.heads.set_keys(ring.of("node heads")).await;
        self.of.parts.set(ring);
        let is_under_way = ring.has_older();
        self.heads_done.store(false, Ordering::Relaxed);
        self.tell(|now| {
            let before = std::mem::take(now);
            *now = if is_under_way {
                Rotation { is_under_way, ..Rotation::default() }
            } else {
                Rotation { is_under_way, remaining: None, left: None, ..before }
            };
        });
    }

    /// Has everything under the newest key, and the older ones go.
    async fn work(&self) -> Result<()> {
        self.check_nodes()?;
        self.reseal().await?;
        if !self.heads_done.load(Ordering::Relaxed) {
            self.of.heads.rekey().await?;
            self.heads_done.store(true, Ordering::Relaxed);
        }
        while self.walk().await? > 0 {}
        self.check_nodes()?;
        if self.of.shards.deletions_waiting() > 0 {
            return Err(unavailable("nodes have not yet deleted what they are to".into()));
        }
        // What comes back after that is under a key that nobody has.
        self.of.encrypt.flush().await?;
        self.of.shards.flush_on_all().await?;
        let _turn = self.changing.lock().await;
        let ring = self.of.parts.ring().clone();
        let settled = ring.with_newest_alone();
        if self.of.file.is_none() {
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because(format!(
                "everything is under the newest key, but {NO_FILE}; keep every line of it until then"
            )));
        }
        self.replace(&ring, &settled)?;
        self.take(&settled).await;
        Ok(())
    }

    /// Refuses while a node is away, which would come back with what nobody can read.
    fn check_nodes(&self) -> Result<()> {
        let lost = lost(&self.of.members.open(), &self.of.shards);
        if lost.is_empty() {
            return Ok(());
        }
        let lost: Vec<String> = lost.into_iter().map(|(name, why)| format!("{name} ({why})")).collect();
        Err(unavailable(format!("it waits until these nodes are back, or are removed: {}", lost.join(", "))))
    }

    /// Seals again what the mount has on this machine.
    async fn reseal(&self) -> Result<()> {
        let sealed: Vec<_> = self.of.parts.sealed().iter().map(|(of, media)| (of.clone(), media.clone())).collect();
        for part in PARTS {
            if !sealed.iter().any(|(of, _)| of == part) && has_parts(&self.of.local, &[part]) {
                let why = format!("the {part} of the mount is not open, and may be under an older key");
                return Err(Error::new(ErrorKind::Internal, OP).because(why));
            }
        }
        for (of, media) in sealed {
            match media.reseal().await {
                // What is known of scrubs costs a pass where it cannot be read.
                Err(error) if of == "scrub" => tracing::warn!("how far a scrub is may be forgotten: {error:#}"),
                resealed => resealed.map_err(|error| error.at(of))?,
            }
        }
        Ok(())
    }

    /// Puts all blocks under the newest key that are under older ones; how many those were.
    async fn walk(&self) -> Result<u64> {
        let (mut after, mut found, mut left) = (None, 0, None::<(u64, Error)>);
        loop {
            let (window, is_last) = self.list(after.as_ref()).await?;
            let mut batch = Batch::default();
            let count = window.len();
            after = window.last().cloned().or(after);
            for (done, name) in window.into_iter().enumerate() {
                match self.of.encrypt.put_under_newest(&name).await {
                    Ok(None) => batch.names.push(name),
                    Ok(Some(len)) => {
                        found += 1;
                        batch.names.push(name);
                        batch.moved += 1;
                        batch.len += len;
                        self.wait_after(len).await;
                    }
                    Err(error) => left = Some(left.map_or((1, error), |(count, first)| (count + 1, first))),
                }
                if batch.names.len() >= BATCH_COUNT || batch.len >= BATCH_LEN || done + 1 == count {
                    self.remove(std::mem::take(&mut batch)).await?;
                }
            }
            if is_last {
                break;
            }
        }
        match left {
            None => Ok(found),
            Some((count, first)) => {
                let why = format!("{count} blocks cannot be read, and stay under an older key, the first: {first:#}");
                Err(Error::new(first.kind(), OP).because(why))
            }
        }
    }

    /// The first names of blocks under older keys behind one, and whether these are the last.
    async fn list(&self, after: Option<&BlockKey>) -> Result<(BTreeSet<BlockKey>, bool)> {
        let (mut window, mut listed, mut is_last) = (BTreeSet::new(), 0_u64, true);
        let mut names = self.of.encrypt.older_names();
        while let Some(name) = names.try_next().await? {
            if after.is_some_and(|after| name <= *after) {
                continue;
            }
            listed += 1;
            window.insert(name);
            if window.len() > WINDOW_COUNT {
                window.pop_last();
                is_last = false;
            }
        }
        // Each node lists what it has a shard of.
        let (data_count, parity_count) = self.of.counts;
        let listed = listed / (u64::from(data_count) + u64::from(parity_count)).max(1);
        let remaining = if is_last { window.len() as u64 } else { listed };
        self.tell(|now| now.remaining = Some(remaining));
        Ok((window, is_last))
    }

    /// Removes what was put under the newest key under its older ones, when each of its shards is on its node and durable
    /// there. A put is content with fewer, and nobody is owed the others where a node refuses them.
    async fn remove(&self, batch: Batch) -> Result<()> {
        let Batch { names, moved, len } = batch;
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            let Some(newest) = self.of.encrypt.newest_name(name) else { continue };
            let report = self.of.shards.repair(&newest).await?;
            if !report.lacking.is_empty() {
                let why = format!("nodes have not taken all shards that they are to: {}", report.lacking.join("; "));
                return Err(unavailable(why));
            }
        }
        self.check_nodes()?;
        self.of.encrypt.flush().await?;
        self.of.shards.flush_on_all().await?;
        // Blocks of another machine are not ours to remove.
        self.of.heads.check_alone().await?;
        let mut stay_count = 0_u64;
        for name in &names {
            stay_count += u64::from(!self.of.encrypt.remove_older(name).await?);
        }
        // Else a process that is killed each time this far would begin anew for ever.
        self.of.encrypt.flush().await?;
        let count = moved.saturating_sub(stay_count);
        self.tell(|now| {
            (now.moved, now.bytes) = (now.moved + count, now.bytes + len as u64);
            now.remaining = now.remaining.map(|remaining| remaining.saturating_sub(count));
        });
        if stay_count > 0 {
            return Err(unavailable(format!("{stay_count} blocks that were moved are not there")));
        }
        Ok(())
    }

    async fn wait_after(&self, len: usize) {
        if let Some(rate) = NonZeroU64::new(self.rate.load(Ordering::Relaxed)) {
            let nanos = len as u128 * 1_000_000_000 / u128::from(rate.get());
            sleep(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))).await;
        }
    }
}

fn unavailable(why: String) -> Error {
    Error::new(ErrorKind::Unavailable, OP).because(why)
}
