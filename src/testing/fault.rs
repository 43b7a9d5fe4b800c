//! Faults on purpose: a disk that stops at any call, a disk that fails and rots, a store that lies.
//!
//! [`CrashMedia`] proves what survives a crash, [`FaultyMedia`] what a failing or rotting disk does, and [`Faulty`]
//! is the adversary below a layer or a DAG. All are scripted or seeded: the same script gives the same faults.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream, stream::BoxStream};
use tokio::time::sleep;

use crate::{
    BlockKey, BlockStore, Error, ErrorKind, Result,
    media::{Media, Segment, SegmentId},
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random numbers from a seed (splitmix64): good enough to choose faults with, the same on every machine.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Makes the dice of a seed.
    ///
    /// ```
    /// use muxfs::testing::fault::Dice;
    /// assert_eq!(Dice::new(7).roll(1000), Dice::new(7).roll(1000));
    /// ```
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn roll(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.bits() % bound).unwrap_or(0)
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.bits().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// When the machine stops: shared by all the media in it.
#[derive(Debug)]
pub struct Crash {
    calls: AtomicU64,
    at: u64,
}

impl Crash {
    /// Stops at the `call`-th media call, counted from 0: that one perhaps happens in part, later ones not at all.
    ///
    /// ```
    /// use muxfs::testing::fault::Crash;
    /// assert!(!Crash::at(3).happened());
    /// ```
    pub fn at(call: u64) -> Arc<Self> {
        Arc::new(Self { calls: AtomicU64::new(0), at: call })
    }

    /// Never stops.
    pub fn never() -> Arc<Self> {
        Self::at(u64::MAX)
    }

    /// How many media calls there were.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Whether the machine stopped.
    pub fn happened(&self) -> bool {
        self.calls() > self.at
    }

    fn call(&self) -> Moment {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        match call.cmp(&self.at) {
            std::cmp::Ordering::Less => Moment::Before,
            std::cmp::Ordering::Equal => Moment::Now,
            std::cmp::Ordering::Greater => Moment::After,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Moment {
    Before,
    Now,
    After,
}

impl Moment {
    fn reply<T>(self, value: T) -> Result<T> {
        match self {
            Self::Before => Ok(value),
            Self::Now | Self::After => {
                Err(Error::new(ErrorKind::Unavailable, "crash_media").because("the machine stopped"))
            }
        }
    }
}

/// A [`Media`] in a machine that stops at a [`Crash`]; [`CrashMedia::restart`] gives what a disk would hold then.
///
/// What was synced is whole. Of what was not, each segment keeps a random part: nothing, a prefix, or all of it with
/// sectors that never arrived; and behind that, if some of it was synced, there may be room that was made ready: zeros, and
/// old bytes of something else. A removed segment may be back, if no other of its number was synced. Worse than most disks, as bad as some.
#[derive(Debug)]
pub struct CrashMedia {
    crash: Arc<Crash>,
    disk: Mutex<Disk>,
    /// How many syncs come before the one that fails.
    syncs_left: Mutex<Option<u64>>,
}

#[derive(Debug, Default, Clone)]
struct Disk {
    segments: BTreeMap<SegmentId, Written>,
    removed: BTreeMap<SegmentId, Written>,
}

#[derive(Debug, Default, Clone)]
struct Written {
    bytes: Vec<u8>,
    /// How much of it is durable; `None` if not even its name is.
    synced: Option<usize>,
    /// Whether this process synced some of it: room behind it may be made ready from then on.
    is_ready: bool,
    /// What a failed sync could not write and the system calls clean since: there until the machine stops.
    lost: Vec<Range<usize>>,
}

impl CrashMedia {
    /// Makes an empty media in the machine of `crash`.
    ///
    /// ```
    /// use muxfs::{media::{Media, SegmentId}, testing::fault::{Crash, CrashMedia}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let media = CrashMedia::new(Crash::at(2));
    /// media.append(SegmentId(0), "kept".into()).await?;
    /// media.sync(SegmentId(0)).await?;
    /// assert!(media.append(SegmentId(0), "perhaps".into()).await.is_err());
    /// let media = media.restart(7, Crash::never());
    /// assert!(media.read_at(SegmentId(0), 0, 100).await?.starts_with(b"kept"));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(crash: Arc<Crash>) -> Self {
        Self::with(crash, Disk::default())
    }

    fn with(crash: Arc<Crash>, disk: Disk) -> Self {
        Self { crash, disk: Mutex::new(disk), syncs_left: Mutex::new(None) }
    }

    /// Lets one sync fail, after `count` more that do not. What it was to make durable stays to be read, and the next
    /// sync calls it durable, but no disk ever gets it: as systems do that cannot write a page.
    ///
    /// ```
    /// use muxfs::{media::{Media, SegmentId}, testing::fault::{Crash, CrashMedia}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (media, id) = (CrashMedia::new(Crash::never()), SegmentId(0));
    /// media.fail_sync(0);
    /// media.append(id, "lost".into()).await?;
    /// assert!(media.sync(id).await.is_err());
    /// media.sync(id).await?;
    /// assert_eq!(media.read_at(id, 0, 9).await?, "lost");
    /// assert_eq!(media.restart(1, Crash::never()).read_at(id, 0, 9).await?, "\0\0\0\0");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn fail_sync(&self, count: u64) {
        *lock(&self.syncs_left) = Some(count);
    }

    /// Whether it is this sync that fails.
    fn sync_fails(&self) -> bool {
        let mut left = lock(&self.syncs_left);
        match left.take() {
            Some(0) => true,
            Some(count) => {
                *left = Some(count - 1);
                false
            }
            None => false,
        }
    }

    /// The same disk after the machine started again, with one of the states that it may have, chosen by `seed`.
    ///
    /// ```
    /// use muxfs::{media::{Media, SegmentId}, testing::fault::{Crash, CrashMedia}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (media, id) = (CrashMedia::new(Crash::never()), SegmentId(0));
    /// media.append(id, "old".into()).await?;
    /// media.remove(id).await?;
    /// media.append(id, "new".into()).await?;
    /// media.sync(id).await?;
    /// for seed in 0..20 {
    ///     assert_eq!(media.restart(seed, Crash::never()).read_at(id, 0, 3).await?, "new");
    /// }
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn restart(&self, seed: u64, crash: Arc<Crash>) -> Self {
        let mut dice = Dice::new(seed);
        let Disk { segments, removed } = lock(&self.disk).clone();
        let is_replaced = |id: &SegmentId| segments.get(id).is_some_and(|there| there.synced.is_some());
        let removed = removed.into_iter().filter(|(id, _)| !is_replaced(id));
        let back = removed.filter(|_| dice.roll(2) == 0).collect::<Vec<_>>();
        let mut dice = Dice::new(seed ^ 0xc0ff_ee00);
        let segments = segments.into_iter().chain(back).filter_map(|(id, written)| {
            let survived = survive(written, &mut dice)?;
            Some((id, Written { synced: Some(survived.len()), bytes: survived, ..Written::default() }))
        });
        Self::with(crash, Disk { segments: segments.collect(), removed: BTreeMap::new() })
    }

    /// The same disk for the next process where only this one died: what was not synced is there, and still not durable.
    /// What a failed sync could not write is gone, since a media of files lets the system forget what it calls clean.
    ///
    /// ```
    /// use muxfs::{media::{Media, SegmentId}, testing::fault::{Crash, CrashMedia}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let media = CrashMedia::new(Crash::at(1));
    /// media.append(SegmentId(0), "there".into()).await?;
    /// assert!(media.sync(SegmentId(0)).await.is_err());
    /// assert_eq!(media.reopen(Crash::never()).read_at(SegmentId(0), 0, 9).await?, "there");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn reopen(&self, crash: Arc<Crash>) -> Self {
        let mut disk = lock(&self.disk).clone();
        for written in disk.segments.values_mut() {
            for range in written.lost.drain(..) {
                written.bytes[range].fill(0);
            }
        }
        Self::with(crash, disk)
    }
}

fn survive(written: Written, dice: &mut Dice) -> Option<Vec<u8>> {
    const SECTOR_LEN: usize = 512;
    let Written { mut bytes, synced, is_ready, lost } = written;
    for range in lost {
        bytes[range].fill(0);
    }
    if synced.is_none() && dice.roll(3) == 0 {
        return None;
    }
    let synced = synced.unwrap_or(0);
    match dice.roll(5) {
        0 => bytes.truncate(synced),
        1 => {}
        2 => {
            let kept = dice.roll(bytes.len() - synced + 1);
            bytes.truncate(synced + kept);
        }
        choice => {
            let kept = dice.roll(bytes.len() - synced + 1);
            if choice == 3 {
                bytes.truncate(synced + kept);
            }
            // The length arrived, some sectors did not, whatever their order was.
            let mut start = synced;
            while start < bytes.len() {
                let end = bytes.len().min((start / SECTOR_LEN + 1) * SECTOR_LEN);
                if dice.roll(2) == 0 {
                    let fill = if dice.roll(4) == 0 { 0xa5 } else { 0 };
                    bytes[start..end].fill(fill);
                }
                start = end;
            }
        }
    }
    // Nothing is made ready behind a segment of which nothing is durable yet.
    if is_ready && dice.roll(2) == 0 {
        for _ in 0..dice.roll(4) {
            let fill = if dice.roll(4) == 0 { 0xa5 } else { 0 };
            bytes.resize(bytes.len() + dice.roll(2 * SECTOR_LEN), fill);
        }
    }
    Some(bytes)
}

#[async_trait]
impl Media for CrashMedia {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        let moment = self.crash.call();
        let mut disk = lock(&self.disk);
        let mut offset = 0;
        if moment != Moment::After {
            let written = disk.segments.entry(segment).or_default();
            offset = written.bytes.len() as u64;
            written.bytes.extend_from_slice(&bytes);
        }
        moment.reply(offset)
    }

    async fn sync(&self, segment: SegmentId) -> Result<()> {
        let moment = self.crash.call();
        let mut disk = lock(&self.disk);
        let written = disk.segments.get_mut(&segment).ok_or_else(|| missing(segment))?;
        if moment == Moment::Before && self.sync_fails() {
            written.lost.push(written.synced.unwrap_or(0)..written.bytes.len());
            return Err(Error::new(ErrorKind::Io, "crash_media").at(segment).because("the disk took it not"));
        }
        // One that the crash met: `restart` may keep all of it anyway.
        if moment == Moment::Before {
            written.synced = Some(written.bytes.len());
            written.is_ready = !written.bytes.is_empty();
        }
        moment.reply(())
    }

    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        let moment = self.crash.call();
        let disk = lock(&self.disk);
        let bytes = &disk.segments.get(&segment).ok_or_else(|| missing(segment))?.bytes;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(len as usize).min(bytes.len());
        moment.reply(Bytes::copy_from_slice(&bytes[start..end]))
    }

    async fn segments(&self) -> Result<Vec<Segment>> {
        let moment = self.crash.call();
        let disk = lock(&self.disk);
        moment.reply(disk.segments.iter().map(|(id, w)| Segment { id: *id, len: w.bytes.len() as u64 }).collect())
    }

    async fn remove(&self, segment: SegmentId) -> Result<()> {
        let moment = self.crash.call();
        let mut disk = lock(&self.disk);
        if moment != Moment::After
            && let Some(written) = disk.segments.remove(&segment)
        {
            disk.removed.insert(segment, written);
        }
        moment.reply(())
    }
}

fn missing(segment: SegmentId) -> Error {
    Error::new(ErrorKind::NotFound, "crash_media").at(segment)
}

/// A call of [`Media`] that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaCall {
    /// `append` and `append_vectored`.
    Append,
    /// `sync`.
    Sync,
    /// `read_at`.
    Read,
    /// `remove`.
    Remove,
}

/// A [`Media`] over another that fails when told to and gives bits flipped when told to.
#[derive(Debug)]
pub struct FaultyMedia {
    inner: Arc<dyn Media>,
    script: Mutex<MediaScript>,
}

#[derive(Debug, Default)]
struct MediaScript {
    failures: HashMap<MediaCall, VecDeque<ErrorKind>>,
    calls: HashMap<MediaCall, u64>,
    flips: BTreeMap<SegmentId, Vec<(u64, u8)>>,
}

impl FaultyMedia {
    /// Puts a media without faults over `inner`.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{ErrorKind, media::{Media, MemMedia, SegmentId}, testing::fault::{FaultyMedia, MediaCall}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let media = FaultyMedia::new(Arc::new(MemMedia::default()));
    /// media.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    /// assert!(media.append(SegmentId(0), "x".into()).await.is_err());
    /// assert!(media.append(SegmentId(0), "x".into()).await.is_ok());
    /// # });
    /// ```
    pub fn new(inner: Arc<dyn Media>) -> Self {
        Self { inner, script: Mutex::default() }
    }

    /// Makes the next such call that has no failure yet fail, before it does anything.
    pub fn fail_next(&self, call: MediaCall, kind: ErrorKind) {
        lock(&self.script).failures.entry(call).or_default().push_back(kind);
    }

    /// Forgets the failures that did not come yet.
    pub fn heal(&self) {
        lock(&self.script).failures.clear();
    }

    /// Flips the bits of `mask` in one byte of a segment for every reader, again if it was flipped already.
    pub fn flip(&self, segment: SegmentId, offset: u64, mask: u8) {
        lock(&self.script).flips.entry(segment).or_default().push((offset, mask));
    }

    /// Undoes all flips.
    pub fn unflip(&self) {
        lock(&self.script).flips.clear();
    }

    /// How many such calls there were.
    pub fn calls(&self, call: MediaCall) -> u64 {
        lock(&self.script).calls.get(&call).copied().unwrap_or(0)
    }

    fn enter(&self, call: MediaCall) -> Result<()> {
        let mut script = lock(&self.script);
        *script.calls.entry(call).or_default() += 1;
        match script.failures.get_mut(&call).and_then(VecDeque::pop_front) {
            Some(kind) => Err(Error::new(kind, "faulty_media").because("as the test asked")),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Media for FaultyMedia {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        self.enter(MediaCall::Append)?;
        self.inner.append(segment, bytes).await
    }
    async fn append_vectored(&self, segment: SegmentId, parts: Vec<Bytes>) -> Result<u64> {
        self.enter(MediaCall::Append)?;
        self.inner.append_vectored(segment, parts).await
    }
    async fn sync(&self, segment: SegmentId) -> Result<()> {
        self.enter(MediaCall::Sync)?;
        self.inner.sync(segment).await
    }
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        self.enter(MediaCall::Read)?;
        let bytes = self.inner.read_at(segment, offset, len).await?;
        let script = lock(&self.script);
        let Some(flips) = script.flips.get(&segment) else { return Ok(bytes) };
        let mut bytes = bytes.to_vec();
        for (at, mask) in flips {
            let byte = at.checked_sub(offset).and_then(|at| bytes.get_mut(usize::try_from(at).ok()?));
            if let Some(byte) = byte {
                *byte ^= mask;
            }
        }
        Ok(bytes.into())
    }
    async fn segments(&self) -> Result<Vec<Segment>> {
        self.inner.segments().await
    }
    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.enter(MediaCall::Remove)?;
        self.inner.remove(segment).await
    }
}

/// What a [`Faulty`] store does with one `get` instead of answering it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Says that the block is absent.
    Lose,
    /// Flips this bit of the block, counted from the first byte's lowest, modulo its length.
    FlipBit(usize),
    /// Gives these bytes instead.
    Lie(Bytes),
    /// Fails with this kind.
    Fail(ErrorKind),
    /// Answers right, but only when [`Faulty::release`] lets it.
    Delay,
}

/// A call of [`BlockStore`] that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockCall {
    /// `get`, `get_range` and `has`.
    Read,
    /// `put`.
    Put,
    /// `delete`.
    Delete,
    /// `flush`.
    Flush,
    /// `keys`: an `Err` item, then the end.
    Keys,
}

/// The adversary: a [`BlockStore`] over another that loses, rots, lies, fails and tarries as it is told.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    script: Mutex<BlockScript>,
    released: tokio::sync::Semaphore,
}

#[derive(Debug, Default)]
struct BlockScript {
    faults: BTreeMap<BlockKey, Fault>,
    every: Option<Fault>,
    failures: HashMap<BlockCall, VecDeque<ErrorKind>>,
    calls: HashMap<BlockCall, u64>,
    offline: bool,
    answer_time: Duration,
}

impl<B: BlockStore> Faulty<B> {
    /// Puts a store without faults over `inner`.
    ///
    /// ```
    /// use muxfs::{BlockKey, BlockStore, block::Mem, testing::fault::{Fault, Faulty}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let store = Faulty::new(Mem::default());
    /// let key = BlockKey::new(b"k")?;
    /// store.put(&key, "block".into()).await?;
    /// store.fault(&key, Fault::Lie("other".into()));
    /// assert_eq!(store.get(&key).await?, Some("other".into()));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(inner: B) -> Self {
        Self { inner, script: Mutex::default(), released: tokio::sync::Semaphore::new(0) }
    }

    /// The store below.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// Answers every `get` of `key` with `fault` from now on.
    pub fn fault(&self, key: &BlockKey, fault: Fault) {
        lock(&self.script).faults.insert(key.clone(), fault);
    }

    /// Answers every `get` that has no fault of its own with `fault` from now on.
    pub fn fault_all(&self, fault: Fault) {
        lock(&self.script).every = Some(fault);
    }

    /// Makes the next such call that has no failure yet fail, before it does anything.
    pub fn fail_next(&self, call: BlockCall, kind: ErrorKind) {
        lock(&self.script).failures.entry(call).or_default().push_back(kind);
    }

    /// Answers every call with `Unavailable` until told otherwise.
    pub fn set_offline(&self, offline: bool) {
        lock(&self.script).offline = offline;
    }

    /// Does nothing before `time` has passed, whatever the call, by the clock of the tokio runtime; `Duration::MAX` is
    /// never. A call that is under way goes on as it began.
    pub fn set_answer_time(&self, time: Duration) {
        lock(&self.script).answer_time = time;
    }

    /// Behaves from now on.
    pub fn heal(&self) {
        let mut script = lock(&self.script);
        let calls = std::mem::take(&mut script.calls);
        *script = BlockScript { calls, ..BlockScript::default() };
    }

    /// Lets `count` delayed calls go on.
    pub fn release(&self, count: usize) {
        self.released.add_permits(count);
    }

    /// How many such calls there were.
    pub fn calls(&self, call: BlockCall) -> u64 {
        lock(&self.script).calls.get(&call).copied().unwrap_or(0)
    }

    async fn enter(&self, call: BlockCall) -> Result<()> {
        let answer_time = {
            let mut script = lock(&self.script);
            *script.calls.entry(call).or_default() += 1;
            script.answer_time
        };
        match answer_time {
            Duration::ZERO => {}
            Duration::MAX => std::future::pending().await,
            time => sleep(time).await,
        }
        let mut script = lock(&self.script);
        let scripted = script.failures.get_mut(&call).and_then(VecDeque::pop_front);
        match scripted.or_else(|| script.offline.then_some(ErrorKind::Unavailable)) {
            Some(kind) => Err(failure(kind)),
            None => Ok(()),
        }
    }

    async fn read(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.enter(BlockCall::Read).await?;
        let fault = {
            let script = lock(&self.script);
            script.faults.get(key).or(script.every.as_ref()).cloned()
        };
        match fault {
            None => self.inner.get(key).await,
            Some(Fault::Lose) => Ok(None),
            Some(Fault::Lie(block)) => Ok(Some(block)),
            Some(Fault::Fail(kind)) => Err(failure(kind)),
            Some(Fault::FlipBit(bit)) => Ok(self.inner.get(key).await?.map(|block| flip_bit(&block, bit))),
            Some(Fault::Delay) => {
                let permit = self.released.acquire().await;
                permit.map_err(|closed| failure(ErrorKind::Internal).because(closed))?.forget();
                self.inner.get(key).await
            }
        }
    }
}

fn failure(kind: ErrorKind) -> Error {
    Error::new(kind, "faulty").because("as the test asked")
}

fn flip_bit(block: &[u8], bit: usize) -> Bytes {
    let mut block = block.to_vec();
    if !block.is_empty() {
        let bit = bit % (block.len() * 8);
        block[bit / 8] ^= 1 << (bit % 8);
    }
    block.into()
}

#[async_trait]
impl<B: BlockStore> BlockStore for Faulty<B> {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.read(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        Ok(self.read(key).await?.map(|block| {
            let end = range.end.min(block.len());
            block.slice(range.start.min(end)..end)
        }))
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.enter(BlockCall::Put).await?;
        self.inner.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.enter(BlockCall::Delete).await?;
        self.inner.delete(key).await
    }
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        Ok(self.read(key).await?.is_some())
    }
    async fn flush(&self) -> Result<()> {
        self.enter(BlockCall::Flush).await?;
        self.inner.flush().await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let keys = async {
            match self.enter(BlockCall::Keys).await {
                Ok(()) => self.inner.keys(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        keys.flatten_stream().boxed()
    }
}
