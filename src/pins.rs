//! Pins: the roots that users asked to keep, a durable set of CIDs on a [`Log`].
//!
//! [`Cas`](crate::cas::Cas) pins what it puts, [`CasView`](crate::cas_view::CasView) lists it, and garbage collection
//! starts from it. The set is small beside what it keeps, so it is held in memory whole, some 120 bytes a pin, and the
//! log only says what changed; when most of that is history, a checkpoint replaces it by the set itself.
//!
//! Pins stand in the order of their text's hash, as the entries of every directory do, each at a place that it keeps for
//! as long as it is pinned: also over a restart, so the place is in the record. Spec: spec/qfs.md, "Pins".

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use crate::{
    Cid, Env, Error, ErrorKind, Result,
    dag::GcRoot,
    log::{Log, LogOptions, Record, detached},
    media::Media,
    rank::Rank,
};

/// The most pins there may be: at some 120 bytes each they take 120 MiB. Who has more roots puts them into a directory
/// and pins that.
pub const PIN_COUNT_MAX: usize = 1 << 20;

/// The version of the records.
const VERSION: u8 = 1;
/// A log is not worth a checkpoint before it holds this many records that no longer matter.
const DEAD_COUNT_MIN: u64 = 1024;
/// How many pins are copied out at a time while they are listed.
const PAGE_COUNT: usize = 256;

/// A durable set of CIDs. Two CIDs of the same content (of another version or codec) are two pins.
pub struct Pins {
    log: Log,
    set: Arc<Mutex<Set>>,
    /// Whoever holds it appends: the log and the set change in the same order.
    writer: Arc<tokio::sync::Mutex<()>>,
    env: Env,
}

#[derive(Default)]
struct Set {
    /// Binary CIDs by their place.
    cids: BTreeMap<Rank, Box<[u8]>>,
    /// Grows with every change, also over a restart and a checkpoint.
    generation: u64,
    /// How many records the log holds.
    record_count: u64,
}

/// One change, as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Add(Rank, Cid),
    Remove(Cid),
    /// Nothing but the generation: how a checkpoint begins.
    Mark,
}

impl Change {
    fn encode(&self, generation: u64) -> Bytes {
        let mut record = BytesMut::with_capacity(64);
        record.put_u8(VERSION);
        let (op, rank, cid) = match self {
            Self::Add(rank, cid) => (1, rank.bits(), cid.to_bytes()),
            Self::Remove(cid) => (2, 0, cid.to_bytes()),
            Self::Mark => (3, 0, Vec::new()),
        };
        record.put_u8(op);
        record.put_u64(generation);
        record.put_u64(rank);
        record.put_slice(&cid);
        record.freeze()
    }

    fn decode(record: &[u8]) -> Result<(u64, Self)> {
        let corrupt = |why: &'static str| Error::new(ErrorKind::Corrupt, "pins.open").because(why);
        let (version, rest) = record.split_first().ok_or_else(|| corrupt("an empty record"))?;
        if *version != VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "pins.open").because(format!(
                "the pins were written by a newer MuxFS (version {version} of their records, this one reads {VERSION})"
            )));
        }
        let (op, rest) = rest.split_first().ok_or_else(|| corrupt("a record that is cut off"))?;
        let (generation, rest) = rest.split_first_chunk().ok_or_else(|| corrupt("a record that is cut off"))?;
        let (rank, cid) = rest.split_first_chunk().ok_or_else(|| corrupt("a record that is cut off"))?;
        let rank = u64::from_be_bytes(*rank);
        let cid_of_record = || Cid::from_bytes(cid).map_err(|error| corrupt("a record without a CID").because(error));
        let change = match op {
            1 => Self::Add(Rank::from_bits(rank).ok_or_else(|| corrupt("a place out of range"))?, cid_of_record()?),
            2 if rank == 0 => Self::Remove(cid_of_record()?),
            3 if rank == 0 && cid.is_empty() => Self::Mark,
            _ => return Err(corrupt("a record of no known kind")),
        };
        Ok((u64::from_be_bytes(*generation), change))
    }
}

impl Set {
    /// Where a CID is pinned: there, or the first free place it could have.
    fn find(&self, cid: &Cid) -> Result<Rank, Option<Rank>> {
        let (bytes, first) = (cid.to_bytes(), Rank::of(cid.to_string().as_bytes()));
        let mut free = Some(first);
        for (rank, there) in self.cids.range(first..).take_while(|(rank, _)| rank.hash_min() == first.hash_min()) {
            if **there == *bytes {
                return Ok(*rank);
            }
            if free == Some(*rank) {
                free = rank.next();
            }
        }
        Err(free)
    }

    fn apply(&mut self, generation: u64, change: &Change) {
        self.record_count += 1;
        self.generation = self.generation.max(generation);
        match change {
            Change::Add(rank, cid) => {
                self.cids.insert(*rank, cid.to_bytes().into());
            }
            Change::Remove(cid) => {
                if let Ok(rank) = self.find(cid) {
                    self.cids.remove(&rank);
                }
            }
            Change::Mark => {}
        }
    }
}

impl Pins {
    /// Opens the pins that `media` holds; a new media holds none. One opener at a time: the caller sees to it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Codec, cid_of, media::MemMedia, pins::Pins};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let media = Arc::new(MemMedia::default());
    /// let cid = cid_of(Codec::Raw, b"hello");
    /// let env = muxfs::testing::env();
    /// assert!(Pins::open(media.clone(), &env).await?.add(&cid).await?);
    /// assert!(Pins::open(media, &env).await?.contains(&cid), "it is still there");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for records of a newer version; `Io`.
    pub async fn open(media: Arc<dyn Media>, env: &Env) -> Result<Self> {
        let mut set = Set::default();
        let log = Log::open(media, LogOptions::new("pins", env), |_, record| {
            let (generation, change) = Change::decode(&record.body)?;
            set.apply(generation, &change);
            Ok(())
        });
        let log = log.await?;
        Ok(Self { log, set: Arc::new(Mutex::new(set)), writer: Arc::default(), env: env.clone() })
    }

    /// The clock and the randomness that it was opened with.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Makes everything durable and waits for what goes on in the background: for a clean shutdown. Repeatable; changes
    /// are `Unavailable` from here on.
    ///
    /// # Errors
    /// As [`Log::close`].
    pub async fn close(&self) -> Result<()> {
        let _writer = self.writer.lock().await;
        self.log.close().await
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        lock(&self.set)
    }

    /// Pins a CID: durable when it returns. Idempotent; whether it was new.
    ///
    /// # Errors
    /// `Quota` past [`PIN_COUNT_MAX`]; `NoSpace`, `Io`: it may have happened or not, and can be tried again.
    pub async fn add(&self, cid: &Cid) -> Result<bool> {
        self.change(|set| match set.find(cid) {
            Ok(_) => Ok(None),
            Err(Some(rank)) if set.cids.len() < PIN_COUNT_MAX => Ok(Some(Change::Add(rank, *cid))),
            Err(_) => Err(Error::new(ErrorKind::Quota, "pins.add")
                .because(format!("there are {} pins: put roots into a directory and pin that", set.cids.len()))),
        })
        .await
    }

    /// Unpins a CID: durable when it returns. Idempotent; whether it was pinned.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: it may have happened or not, and can be tried again.
    pub async fn remove(&self, cid: &Cid) -> Result<bool> {
        self.change(|set| Ok(set.find(cid).ok().map(|_| Change::Remove(*cid)))).await
    }

    /// Makes the change that `choose` finds necessary, durably; whether there was one.
    async fn change(&self, choose: impl FnOnce(&Set) -> Result<Option<Change>> + Send) -> Result<bool> {
        let changed = {
            let _writer = self.writer.lock().await;
            let (change, generation) = {
                let set = self.set();
                (choose(&set)?, set.generation + 1)
            };
            match change {
                None => false,
                Some(change) => {
                    // Nothing is awaited between the append and the change of the set: dropped here, neither happened.
                    self.log.append(change.encode(generation)).await?;
                    self.set().apply(generation, &change);
                    true
                }
            }
        };
        // Also where nothing changed: who made it so may still be waiting for the disk.
        self.log.sync().await?;
        if changed {
            self.checkpoint_if_worth_it().await;
        }
        Ok(changed)
    }

    /// Replaces a log that is mostly history by the set itself.
    async fn checkpoint_if_worth_it(&self) {
        let writer = Arc::clone(&self.writer).lock_owned().await;
        let (cids, generation) = {
            let set = self.set();
            let live = set.cids.len() as u64;
            if set.record_count - live.min(set.record_count) < DEAD_COUNT_MIN.max(live) {
                return;
            }
            (set.cids.clone(), set.generation)
        };
        let (log, set) = (self.log.clone(), Arc::clone(&self.set));
        let checkpoint = async move {
            // Held to the end also when the caller is dropped: what was appended meanwhile would not be in it.
            let _writer = writer;
            let record_count = cids.len() as u64 + 1;
            let adds = cids.into_iter().filter_map(|(rank, cid)| Some(Change::Add(rank, Cid::from_bytes(&cid).ok()?)));
            let changes = std::iter::once(Change::Mark).chain(adds);
            log.checkpoint(changes.map(move |change| Record::from(change.encode(generation)))).await?;
            lock(&set).record_count = record_count;
            Ok(())
        };
        if let Err(error) = detached("pins.checkpoint", checkpoint).await {
            // The log is as before: nothing is lost but room.
            tracing::warn!(%error, "the pins could not be checkpointed");
        }
    }

    /// Whether a CID is pinned.
    pub fn contains(&self, cid: &Cid) -> bool {
        self.set().find(cid).is_ok()
    }

    /// How many pins there are.
    pub fn count(&self) -> usize {
        self.set().cids.len()
    }

    /// A number that grows with every change, also over a restart: who remembers it knows whether the list is still good.
    pub fn generation(&self) -> u64 {
        self.set().generation
    }

    /// All pins, in an order that each keeps its place in. One that stays from the first item to the last is met exactly
    /// once; one that comes or goes meanwhile may be met or not.
    pub fn list(&self) -> BoxStream<'_, Result<Cid>> {
        let pages = stream::unfold(None, move |after| async move {
            let page = self.page(after, PAGE_COUNT);
            let last = page.last()?.0;
            Some((stream::iter(page.into_iter().map(|(_, cid)| Ok(cid))), Some(last)))
        });
        pages.flatten().boxed()
    }

    /// All pins as the roots of a garbage collection; what was unpinned before the end is durably so.
    pub fn roots(&self) -> BoxStream<'_, Result<GcRoot>> {
        let synced = stream::once(self.log.sync()).filter_map(async |synced| synced.err().map(Err));
        self.list().map_ok(GcRoot::Dag).chain(synced).boxed()
    }

    /// At most `count` pins behind a place, with theirs.
    pub(crate) fn page(&self, after: Option<Rank>, count: usize) -> Vec<(Rank, Cid)> {
        let set = self.set();
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let behind = set.cids.range((start, std::ops::Bound::Unbounded)).take(count);
        behind.filter_map(|(rank, cid)| Some((*rank, Cid::from_bytes(cid).ok()?))).collect()
    }
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").field("count", &self.count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Codec, cid_of, media::MemMedia, testing::env};

    fn cid(i: u32) -> Cid {
        cid_of(Codec::Raw, &i.to_be_bytes())
    }

    async fn open(media: &Arc<MemMedia>) -> Pins {
        Pins::open(media.clone(), &env()).await.expect("opens")
    }

    async fn list(pins: &Pins) -> Vec<Cid> {
        pins.list().try_collect().await.expect("lists")
    }

    #[tokio::test]
    async fn adding_and_removing_are_idempotent_and_durable() {
        let media = Arc::new(MemMedia::default());
        let pins = open(&media).await;
        assert!(pins.add(&cid(1)).await.expect("add"));
        assert!(!pins.add(&cid(1)).await.expect("add"));
        assert!(pins.add(&cid(2)).await.expect("add"));
        assert!(pins.remove(&cid(1)).await.expect("remove"));
        assert!(!pins.remove(&cid(1)).await.expect("remove"));
        let generation = pins.generation();
        let pins = open(&media).await;
        assert_eq!((list(&pins).await, pins.generation()), (vec![cid(2)], generation));
        assert!(pins.contains(&cid(2)) && !pins.contains(&cid(1)));
    }

    /// Versions and codecs are part of a CID: the same bytes under two of them are two pins.
    #[tokio::test]
    async fn a_pin_is_of_a_cid_not_of_bytes() {
        let pins = open(&Arc::default()).await;
        for codec in [Codec::Raw, Codec::DagPb, Codec::DagCbor] {
            assert!(pins.add(&cid_of(codec, b"x")).await.expect("add"));
        }
        let digest = cid_of(Codec::Raw, b"x").digest().try_into().expect("32 bytes");
        assert!(pins.add(&Cid::v0_sha256(digest)).await.expect("add"));
        assert_eq!(pins.count(), 4);
    }

    /// The log of a set that changes much and grows little stays short, and nothing is lost when it is cut.
    #[tokio::test]
    async fn history_is_forgotten() {
        let media = Arc::new(MemMedia::default());
        let pins = open(&media).await;
        pins.add(&cid(0)).await.expect("add");
        for i in 1..3000 {
            pins.add(&cid(i)).await.expect("add");
            pins.remove(&cid(i)).await.expect("remove");
        }
        let len = media.segments().await.expect("segments").iter().map(|segment| segment.len).sum::<u64>();
        assert!(len < 2 * DEAD_COUNT_MIN * 128, "{len} bytes for one pin");
        let generation = pins.generation();
        assert_eq!(generation, 1 + 2 * 2999);
        let again = open(&media).await;
        assert_eq!((list(&again).await, again.generation()), (vec![cid(0)], generation));
    }

    /// A caller who left while the log was being replaced let the next one append to the old log, which then went: the
    /// pin was acknowledged and lost. Left here after every number of steps that a change may take.
    #[tokio::test]
    async fn who_leaves_during_a_checkpoint_costs_nobody_a_pin() {
        const STEPS_MAX: usize = 100;
        let old = Arc::new(MemMedia::default());
        let pins = open(&old).await;
        for i in 0..2 * DEAD_COUNT_MIN {
            let change = Change::Add(Rank::of(b"x"), cid(0)).encode(i);
            pins.log.append(change).await.expect("append");
        }
        pins.log.sync().await.expect("sync");
        for steps in 0..STEPS_MAX {
            let media = Arc::new(MemMedia::default());
            for segment in old.segments().await.expect("segments") {
                let len = u32::try_from(segment.len).expect("short");
                let bytes = old.read_at(segment.id, 0, len).await.expect("read");
                media.append(segment.id, bytes).await.expect("append");
            }
            let pins = open(&media).await;
            let left = cid(1);
            let mut leaver = Box::pin(pins.add(&left));
            let mut done = false;
            for _ in 0..steps {
                tokio::task::yield_now().await;
                done = done || futures_util::poll!(&mut leaver).is_ready();
            }
            drop(leaver);
            assert!(pins.add(&cid(2)).await.expect("add"));
            // Whatever was left to be done in the background comes before this.
            pins.add(&cid(3)).await.expect("add");
            assert!(open(&media).await.contains(&cid(2)), "lost, after {steps} steps");
            if done {
                return;
            }
        }
        panic!("an add takes more than {STEPS_MAX} steps");
    }

    #[tokio::test]
    async fn bad_and_newer_records_are_refused() {
        let good = Change::Add(Rank::of(b"x"), cid(1)).encode(7);
        assert_eq!(Change::decode(&good).expect("good"), (7, Change::Add(Rank::of(b"x"), cid(1))));
        let mut newer = good.to_vec();
        newer[0] = VERSION + 1;
        let mut other = good.to_vec();
        other[1] = 9;
        for (record, kind) in [
            (newer, ErrorKind::Unsupported),
            (other, ErrorKind::Corrupt),
            (good[..17].to_vec(), ErrorKind::Corrupt),
            (good[..20].to_vec(), ErrorKind::Corrupt),
            (Vec::new(), ErrorKind::Corrupt),
        ] {
            let media: Arc<MemMedia> = Arc::default();
            let log = Log::open(media.clone(), LogOptions::new("pins", &env()), |_, _| Ok(())).await.expect("opens");
            log.append(record).await.expect("append");
            log.sync().await.expect("sync");
            assert_eq!(Pins::open(media, &env()).await.expect_err("refused").kind(), kind);
        }
    }

    /// Pins whose text has the same hash bits: one that stays keeps its place while others come and go, and restarts.
    #[test]
    fn places_are_kept_where_hashes_collide() {
        let mut set = Set::default();
        let first = Rank::of(cid(1).to_string().as_bytes());
        set.apply(1, &Change::Add(first, cid(100)));
        let second = set.find(&cid(1)).expect_err("not there").expect("a place");
        assert_eq!(Some(second), first.next());
        set.apply(2, &Change::Add(second, cid(1)));
        set.cids.remove(&first);
        assert_eq!(set.find(&cid(1)), Ok(second), "found behind the gap");
    }

    proptest! {
        /// Pins are a set, whatever is added and removed, and after every reopening.
        #[test]
        fn pins_are_a_set(changes in proptest::collection::vec((0..20_u32, any::<bool>(), 0..10_u8), 0..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let media = Arc::new(MemMedia::default());
                let mut pins = open(&media).await;
                let mut model = std::collections::BTreeSet::new();
                for (i, add, reopen) in changes {
                    let (did, expected) = if add {
                        (pins.add(&cid(i)).await, model.insert(cid(i)))
                    } else {
                        (pins.remove(&cid(i)).await, model.remove(&cid(i)))
                    };
                    prop_assert_eq!(did.expect("changes"), expected);
                    if reopen == 0 {
                        pins = open(&media).await;
                    }
                    let mut listed = list(&pins).await;
                    listed.sort();
                    prop_assert!(listed.iter().eq(&model));
                }
                Ok(())
            })?;
        }
    }
}
