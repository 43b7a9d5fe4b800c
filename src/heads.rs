//! The place of mutable pointers: small bytes under a name, swapped atomically.
//!
//! Content never changes and needs no place; what changes is which content is current. A head says so, for a tree or
//! for whatever else has a newest state, and [`Heads::swap`] lets several writers agree on it. [`MemHeads`] is the
//! reference, [`LogHeads`] keeps heads on a local disk. The laws are in `testing::heads`. Spec: spec/heads.md.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::Mutex as AsyncMutex;

use crate::{
    Env, Error, ErrorKind, Name, Result,
    log::{Log, LogOptions, Record, detached},
    media::Media,
};

/// The longest head, in bytes: it holds a pointer, not content, and every one is held in memory.
pub const HEAD_LEN_MAX: usize = 64 * 1024;

/// The log is written anew when this much more than what counts is in it, in bytes.
const OUTDATED_LEN_MAX: usize = 1 << 20;
/// The log is written anew when so many segments were found: each opening that swaps makes one.
const SEGMENT_COUNT_MAX: usize = 8;

/// One value a head had: opaque (a sequence number, an `ETag`), comparable for equality only, never had twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub Bytes);

/// What became of a [`Heads::swap`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a lost swap changed nothing"]
pub enum Swap {
    /// The head is set; this is its version.
    Done(Version),
    /// The head had another version; nothing changed.
    Lost,
}

/// The place of mutable pointers: small bytes under a name, swapped atomically. It lets a new machine find a tree.
#[async_trait]
pub trait Heads: Debug + Send + Sync + 'static {
    /// The head and its version; `None` if it never was set. No older than the last `swap` that returned `Done`, and durable
    /// also where the swap of it did not return: nobody who acts on it is ahead of it after a crash.
    ///
    /// # Errors
    /// `Unavailable`, `Io`: whether a swap that failed happened is not known yet.
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>>;

    /// Sets the head if its version is `expected` (`None`: if it never was set); of several swappers one wins.
    ///
    /// `Done` is durable. After an error it may have happened or not: `load` tells.
    ///
    /// # Errors
    /// `TooLarge` past [`HEAD_LEN_MAX`]; `NoSpace`, `Unavailable`, `Io`.
    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap>;
}

/// Heads by name, each with the number of its swap; numbers ascend over all heads, so none comes twice.
#[derive(Debug, Default)]
struct Table {
    heads: BTreeMap<Name, (Bytes, u64)>,
    last: u64,
}

impl Table {
    fn load(&self, name: &Name) -> Option<(Bytes, Version)> {
        self.heads.get(name).map(|(head, number)| (head.clone(), version(*number)))
    }

    fn is(&self, name: &Name, expected: Option<&Version>) -> bool {
        self.load(name).map(|(_, version)| version).as_ref() == expected
    }

    fn set(&mut self, name: Name, head: Bytes, number: u64) {
        self.last = self.last.max(number);
        self.heads.insert(name, (head, number));
    }
}

fn version(number: u64) -> Version {
    Version(Bytes::copy_from_slice(&number.to_be_bytes()))
}

fn check_len(head: &Bytes) -> Result<()> {
    if head.len() > HEAD_LEN_MAX {
        return Err(
            Error::new(ErrorKind::TooLarge, "heads.swap").because(format!("a head has at most {HEAD_LEN_MAX} bytes"))
        );
    }
    Ok(())
}

/// [`Heads`] in memory; gone when dropped.
///
/// ```
/// use muxfs::{Name, heads::{Heads, MemHeads, Swap}};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (heads, name) = (MemHeads::default(), Name::new(b"main")?);
/// let Swap::Done(version) = heads.swap(&name, None, "a".into()).await? else { panic!("it never was set") };
/// assert_eq!(heads.load(&name).await?, Some(("a".into(), version)));
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Default)]
pub struct MemHeads {
    table: Mutex<Table>,
}

impl MemHeads {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // A swap is one step, so a panic elsewhere spoils nothing.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Heads for MemHeads {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        Ok(self.lock().load(name))
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        check_len(&head)?;
        let mut table = self.lock();
        if !table.is(name, expected) {
            return Ok(Swap::Lost);
        }
        let number = table.last + 1;
        table.set(name.clone(), Bytes::copy_from_slice(&head), number);
        Ok(Swap::Done(version(number)))
    }
}

/// [`Heads`] in a [`Log`]: one record and one sync for each swap.
pub struct LogHeads {
    state: Arc<AsyncMutex<State>>,
}

struct State {
    log: Log,
    table: Table,
    /// A swap whose record is in the log and whose sync failed: it happened when a sync succeeds.
    unsettled: Option<(Name, Bytes, u64)>,
    /// What is in the log and counts no more, in bytes.
    outdated_len: usize,
    segment_count: usize,
}

impl LogHeads {
    /// Opens the heads in `media`.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{Name, heads::{Heads, LogHeads, Swap}, media::MemMedia};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (media, name) = (Arc::new(MemMedia::default()), Name::new(b"main")?);
    /// let env = muxfs::testing::env();
    /// let heads = LogHeads::open(media.clone(), &env).await?;
    /// let Swap::Done(version) = heads.swap(&name, None, "a".into()).await? else { panic!("it never was set") };
    /// drop(heads);
    /// assert_eq!(LogHeads::open(media, &env).await?.load(&name).await?, Some(("a".into(), version)));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Log::open`].
    pub async fn open(media: Arc<dyn Media>, env: &Env) -> Result<Self> {
        let mut table = Table::default();
        let mut outdated_len = 0;
        let log = Log::open(Arc::clone(&media), LogOptions::new("heads", env), |pos, record| {
            let Some((name, head, number)) = decode(record) else {
                return Err(Error::new(ErrorKind::Corrupt, "heads.open").at(pos).because("the record is no head"));
            };
            outdated_len += table.heads.get(&name).map_or(0, |(head, _)| head.len());
            table.set(name, head, number);
            Ok(())
        })
        .await?;
        let segment_count = media.segments().await?.len();
        let state = State { log, table, unsettled: None, outdated_len, segment_count };
        Ok(Self { state: Arc::new(AsyncMutex::new(state)) })
    }

    /// Waits for what goes on in the background: for a clean shutdown. Repeatable; swaps are `Unavailable` from here on.
    ///
    /// # Errors
    /// As [`Log::close`].
    pub async fn close(&self) -> Result<()> {
        let state = self.state.lock().await;
        state.log.close().await
    }
}

impl Debug for LogHeads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state.try_lock() {
            Ok(state) => write!(f, "LogHeads({} heads, {:?})", state.table.heads.len(), state.log),
            Err(_) => f.write_str("LogHeads(swapping)"),
        }
    }
}

impl State {
    /// Finds out what became of a swap that failed.
    async fn settle(&mut self) -> Result<()> {
        if self.unsettled.is_some() {
            self.log.sync().await?;
            if let Some((name, head, number)) = self.unsettled.take() {
                self.table.set(name, head, number);
            }
        }
        Ok(())
    }

    async fn swap(&mut self, name: Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        self.settle().await?;
        if !self.table.is(&name, expected) {
            return Ok(Swap::Lost);
        }
        let number = self.table.last + 1;
        self.log.append(encode(&name, &head, number)).await?;
        self.outdated_len += self.table.heads.get(&name).map_or(0, |(head, _)| head.len());
        self.unsettled = Some((name, head, number));
        self.settle().await?;
        if self.outdated_len > OUTDATED_LEN_MAX || self.segment_count > SEGMENT_COUNT_MAX {
            self.compact().await;
        }
        Ok(Swap::Done(version(number)))
    }

    async fn compact(&mut self) {
        let heads = self.table.heads.iter();
        let records: Vec<_> = heads.map(|(name, (head, number))| encode(name, head, *number)).collect();
        self.outdated_len = 0;
        self.segment_count = 0;
        if let Err(error) = self.log.checkpoint(records).await {
            // The swap is durable; the log is only longer than it need be.
            tracing::warn!(%error, cause = format!("{error:#}"), "the log of heads could not be written anew");
        }
    }
}

#[async_trait]
impl Heads for LogHeads {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        let mut state = self.state.lock().await;
        state.settle().await?;
        Ok(state.table.load(name))
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        check_len(&head)?;
        let (name, expected, head) = (name.clone(), expected.cloned(), Bytes::copy_from_slice(&head));
        let mut state = Arc::clone(&self.state).lock_owned().await;
        // Not to stop half way when the caller is dropped.
        detached("heads.swap", async move { state.swap(name, expected.as_ref(), head).await }).await
    }
}

fn encode(name: &Name, head: &Bytes, number: u64) -> Record {
    let mut front = BytesMut::with_capacity(8 + name.as_bytes().len());
    front.extend_from_slice(&number.to_le_bytes());
    front.extend_from_slice(name.as_bytes());
    Record { head: front.freeze(), body: head.clone() }
}

fn decode(mut record: Record) -> Option<(Name, Bytes, u64)> {
    // There is one behind it.
    let number = record.head.try_get_u64_le().ok().filter(|number| *number < u64::MAX)?;
    Some((Name::new(&record.head).ok()?, Bytes::copy_from_slice(&record.body), number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        media::{MemMedia, SegmentId},
        testing::{
            env,
            fault::{Crash, CrashMedia, FaultyMedia, MediaCall},
        },
    };

    fn name() -> Name {
        Name::new(b"main").expect("a name")
    }

    async fn current(heads: &LogHeads) -> Option<Version> {
        heads.load(&name()).await.expect("load").map(|(_, version)| version)
    }

    /// Swaps until something fails and returns what was done last, and what was tried after it.
    async fn swap_on(media: Arc<dyn Media>, done: &mut u64, tried: &mut u64) -> Result<()> {
        let heads = LogHeads::open(media, &env()).await?;
        let mut version = match heads.load(&name()).await? {
            None => None,
            Some((head, version)) => {
                let number = head.clone().get_u64_le();
                assert!((*done..=*tried).contains(&number), "{number} is one of {done} to {tried}");
                *done = number;
                Some(version)
            }
        };
        for _ in 0..6 {
            *tried = *done + 1;
            let swap = heads.swap(&name(), version.as_ref(), tried.to_le_bytes().to_vec().into()).await?;
            let Swap::Done(swapped) = swap else { panic!("nobody else swaps") };
            *done = *tried;
            version = Some(swapped);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_crash_at_any_call_keeps_what_was_done() {
        for call in 0..60 {
            for seed in 0..8 {
                let (mut done, mut tried) = (0, 0);
                let mut media = Arc::new(CrashMedia::new(Crash::at(call)));
                for round in 0..12 {
                    let opened = swap_on(media.clone(), &mut done, &mut tried).await;
                    if let Err(error) = opened {
                        assert_ne!(error.kind(), ErrorKind::Corrupt, "a crash is no damage: {error:#}");
                    }
                    let next = if round < 10 { Crash::at(call + round) } else { Crash::never() };
                    media = Arc::new(media.restart(seed + round, next));
                }
                swap_on(media, &mut done, &mut tried).await.expect("nothing stops it now");
            }
        }
    }

    /// A swap whose sync failed for want of space is in the log: a `load` that said otherwise would change its mind
    /// later.
    #[tokio::test]
    async fn load_tells_what_became_of_a_swap_that_failed() {
        let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
        let heads = LogHeads::open(media.clone(), &env()).await.expect("open");
        media.fail_next(MediaCall::Append, ErrorKind::NoSpace);
        media.fail_next(MediaCall::Append, ErrorKind::NoSpace);
        assert_eq!(heads.swap(&name(), None, "a".into()).await.expect_err("full").kind(), ErrorKind::NoSpace);
        assert_eq!(heads.load(&name()).await.expect_err("still full").kind(), ErrorKind::NoSpace);
        assert!(current(&heads).await.is_some(), "there is room, so it happened");
        assert_eq!(current(&LogHeads::open(media, &env()).await.expect("open")).await, current(&heads).await);
    }

    #[tokio::test]
    async fn the_log_does_not_grow_with_the_number_of_swaps() {
        let media = Arc::new(MemMedia::default());
        let heads = LogHeads::open(media.clone(), &env()).await.expect("open");
        let mut version = None;
        for _ in 0..200 {
            let swap = heads.swap(&name(), version.as_ref(), vec![1; HEAD_LEN_MAX].into()).await.expect("swap");
            let Swap::Done(swapped) = swap else { panic!("nobody else swaps") };
            version = Some(swapped);
        }
        let len: u64 = media.segments().await.expect("segments").iter().map(|segment| segment.len).sum();
        assert!(len < 3 * OUTDATED_LEN_MAX as u64, "{len} bytes for one head");
        for _ in 0..3 * SEGMENT_COUNT_MAX {
            let heads = LogHeads::open(media.clone(), &env()).await.expect("open");
            let version = current(&heads).await;
            assert!(matches!(heads.swap(&name(), version.as_ref(), "x".into()).await, Ok(Swap::Done(_))));
        }
        assert!(media.segments().await.expect("segments").len() <= SEGMENT_COUNT_MAX + 2);
    }

    async fn two_heads() -> (Arc<MemMedia>, [(Name, Vec<Bytes>); 2]) {
        let media = Arc::new(MemMedia::default());
        let heads = LogHeads::open(media.clone(), &env()).await.expect("open");
        let mut all = [(name(), Vec::new()), (Name::new(b"other").expect("a name"), Vec::new())];
        for number in 0..3_u8 {
            for (name, values) in &mut all {
                let version = heads.load(name).await.expect("load").map(|(_, version)| version);
                let value = Bytes::from(vec![number; 5 + usize::from(number)]);
                assert!(matches!(heads.swap(name, version.as_ref(), value.clone()).await, Ok(Swap::Done(_))));
                values.push(value);
            }
        }
        (media, all)
    }

    /// Opens what somebody damaged: it is refused, or each head is one that it once was.
    async fn check_damaged(segments: &[(SegmentId, Vec<u8>)], all: &[(Name, Vec<Bytes>)], what: &str) {
        let media = Arc::new(MemMedia::default());
        for (id, bytes) in segments {
            media.append(*id, bytes.clone().into()).await.expect("append");
        }
        let Ok(heads) = LogHeads::open(media, &env()).await else { return };
        for (name, values) in all {
            match heads.load(name).await.expect("load") {
                Some((head, version)) => {
                    assert!(values.contains(&head), "{what}: {head:?} never was {name}");
                    assert!(
                        matches!(heads.swap(name, Some(&version), "next".into()).await, Ok(Swap::Done(_))),
                        "{what}"
                    );
                }
                None => assert!(matches!(heads.swap(name, None, "next".into()).await, Ok(Swap::Done(_))), "{what}"),
            }
            assert_eq!(heads.load(name).await.expect("load").expect("set").0, "next", "{what}");
        }
    }

    /// Every bit of every byte flipped, every length cut off, every end doubled: detected, or an older head; no panic.
    #[tokio::test]
    async fn what_is_damaged_is_refused_or_an_older_head() {
        let (media, all) = two_heads().await;
        let mut segments = Vec::new();
        for segment in media.segments().await.expect("segments") {
            let len = u32::try_from(segment.len).expect("short");
            segments.push((segment.id, media.read_at(segment.id, 0, len).await.expect("read").to_vec()));
        }
        for at in 0..segments.len() {
            for byte in 0..=segments[at].1.len() {
                let mut damaged = segments.clone();
                damaged[at].1.truncate(byte);
                check_damaged(&damaged, &all, &format!("{at} cut at {byte}")).await;
                let mut doubled = segments.clone();
                doubled[at].1.extend_from_slice(&segments[at].1[byte..]);
                check_damaged(&doubled, &all, &format!("{at} doubled from {byte}")).await;
            }
            for byte in 0..segments[at].1.len() {
                for bit in 0..8 {
                    let mut damaged = segments.clone();
                    damaged[at].1[byte] ^= 1 << bit;
                    check_damaged(&damaged, &all, &format!("{at} with bit {bit} of {byte}")).await;
                }
            }
        }
        check_damaged(&segments, &all, "whole").await;
    }

    /// A record that is whole and says that its swap was the last that can be counted: the next one was counted past it.
    #[tokio::test]
    async fn a_number_that_no_swap_has_is_refused() {
        let media = Arc::new(MemMedia::default());
        let log = Log::open(media.clone(), LogOptions::new("heads", &env()), |_, _| Ok(())).await.expect("open");
        log.append(encode(&name(), &"a".into(), u64::MAX)).await.expect("append");
        log.close().await.expect("close");
        drop(log);
        assert_eq!(LogHeads::open(media, &env()).await.expect_err("refused").kind(), ErrorKind::Corrupt);
    }
}
