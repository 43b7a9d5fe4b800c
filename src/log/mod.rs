//! A log of records over a [`Media`]: framed, checksummed, replayed after a crash.
//!
//! What everything durable here is built on: journals, pins, heads and the blocks of
//! [`Segments`](crate::block::Segments) are logs. A record is a head and a body of bytes; it is appended to a buffer,
//! written in the background together with its neighbours, and durable after [`Log::sync`], which all callers that
//! wait share. Every open begins a new segment, since nothing is ever truncated; [`Log::checkpoint`] replaces the
//! whole log by a shorter one, [`Log::rotate`] and [`Log::drop_before`] let its beginning go.
//!
//! A torn tail is cut silently, anything else that is bad is `Corrupt` and says where: `replay` tells the two apart.
//! Spec: spec/log.md.

mod cut;
mod frame;
mod replay;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::VecDeque,
    fmt::{self, Debug},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::task::TaskTracker;

pub(crate) use self::{
    frame::{FRAME_HEADER_LEN, Salt, padded},
    replay::{Each, HeadScan, Replay, Replayed, Visitor},
};
use self::{
    frame::{Frame, FrameHeader, FrameKind, Prepared, SEGMENT_HEADER_LEN},
    replay::Kind,
    write::{Inner, State, Writer},
};
use crate::{
    Env, Error, ErrorKind, Result,
    media::{Media, SegmentId},
};

/// The longest head of a record: what replay must read even where it skips bodies stays small.
pub const RECORD_HEAD_LEN_MAX: usize = 4096;
/// The longest body of a record: a block and to spare. It bounds what a replay holds in memory.
pub const RECORD_BODY_LEN_MAX: usize = 16 << 20;

/// Segments are no longer than this, so that an offset fits in 32 bits with room for one more record.
const SEGMENT_LEN_MAX: u32 = 1 << 31;
/// Appenders wait for the disk when more than this has not been written.
const PENDING_LEN_MAX: usize = 16 << 20;
/// A write begins in the background when this much has gathered; smaller ones wait for company.
const WRITE_LEN: usize = 512 * 1024;
/// One write is about as long as this at most: readers see its records move from memory to the media in steps.
const WRITE_LEN_MAX: usize = 4 << 20;
/// Parts shorter than this are copied together before a write: cheaper than one more piece in a vectored write.
const COPY_LEN_MAX: usize = 16 * 1024;

/// The place of a record in a log; ascending in the order of appending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogPos {
    /// The segment it is in.
    pub segment: SegmentId,
    /// Where its frame begins in the segment, in bytes.
    pub offset: u32,
}

impl LogPos {
    /// The place behind a record here whose head and body are so long, in bytes.
    #[must_use]
    pub fn behind(self, head_len: usize, body_len: usize) -> Self {
        // A record is far shorter than 2^32.
        let len = u32::try_from(FRAME_HEADER_LEN + head_len + body_len).unwrap_or(SEGMENT_LEN_MAX);
        Self { segment: self.segment, offset: self.offset.saturating_add(padded(len)) }
    }
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} offset {}", self.segment, self.offset)
    }
}

/// What is appended: opaque bytes in two pieces, so that a large body need not be copied behind a small head.
///
/// Where one piece is enough it is the body: `Record::from(bytes)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// At most [`RECORD_HEAD_LEN_MAX`] bytes.
    pub head: Bytes,
    /// At most [`RECORD_BODY_LEN_MAX`] bytes.
    pub body: Bytes,
}

impl<B: Into<Bytes>> From<B> for Record {
    fn from(body: B) -> Self {
        Self { head: Bytes::new(), body: body.into() }
    }
}

/// What a log is for and how it is cut.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// What the log holds, 1 to 8 bytes of ASCII ("pins"): opening it as anything else is refused.
    pub kind: &'static str,
    /// The version of the records that its owner writes: one that holds newer ones is refused.
    pub record_version: u8,
    /// A segment is closed before it would grow longer, in bytes; at most 2 GiB.
    pub segment_len_max: u32,
    /// Lends the randomness that a new log draws its salt from.
    pub env: Env,
}

impl LogOptions {
    /// Records of version 1 in segments of 256 MiB.
    ///
    /// ```
    /// use muxfs::log::LogOptions;
    /// let options = LogOptions::new("pins", &muxfs::testing::env());
    /// assert_eq!((options.segment_len_max, options.record_version), (256 << 20, 1));
    /// ```
    pub fn new(kind: &'static str, env: &Env) -> Self {
        Self { kind, record_version: 1, segment_len_max: 256 << 20, env: env.clone() }
    }

    fn kind(&self) -> Result<Kind> {
        let mut bytes = [0; 8];
        let kind = self.kind.as_bytes();
        match bytes.get_mut(..kind.len()) {
            Some(slot) if !kind.is_empty() && kind.is_ascii() => slot.copy_from_slice(kind),
            _ => {
                return Err(Error::new(ErrorKind::InvalidArgument, "log.open")
                    .because("the kind of a log is 1 to 8 bytes of ASCII"));
            }
        }
        Ok(Kind { name: bytes, record_version: self.record_version })
    }
}

/// A log of records. Clones share it.
///
/// One `Log` at a time over a media: the caller sees to it.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

/// What the newest header of a log says about all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStart {
    /// The segment that the log begins with; what is in lower ones is no part of it.
    pub first: SegmentId,
    /// What tells this log from every other.
    pub identity: [u8; 12],
}

/// A record without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    /// Where it is.
    pub pos: LogPos,
    /// Its head.
    pub head: Bytes,
    /// How long its body is, in bytes.
    pub body_len: u32,
}

impl LogHead {
    /// The place behind the record.
    pub fn end(&self) -> LogPos {
        self.pos.behind(self.head.len(), self.body_len as usize)
    }
}

/// Where a record was put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) pos: LogPos,
    /// The length of its frame without padding.
    pub(crate) len: u32,
    /// The checksum of its frame's header.
    pub(crate) crc: u32,
}

impl Log {
    /// Opens the log in `media` and calls `each` with every record in order; an error of `each` ends it.
    ///
    /// It holds one record in memory at a time; the bytes of a record share a buffer with its neighbours, so whoever
    /// keeps a few of them copies them. A torn tail, of a write that no sync covered, is cut. When it returns, all that
    /// `each` was called with is durable, whoever appended it.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{log::{Log, LogOptions}, media::MemMedia};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (media, options) = (Arc::new(MemMedia::default()), LogOptions::new("demo", &muxfs::testing::env()));
    /// let log = Log::open(media.clone(), options.clone(), |_, _| Ok(())).await?;
    /// log.append("one").await?;
    /// log.append("two").await?;
    /// log.sync().await?;
    ///
    /// let mut seen = Vec::new();
    /// Log::open(media, options, |_, record| Ok(seen.push(record.body))).await?;
    /// assert_eq!(seen, ["one", "two"]);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Corrupt`, naming segment and offset, where bytes that were durable are missing or bad; `Unsupported` for a
    /// newer format; `InvalidArgument` for a log of another kind; and the media's own.
    pub async fn open(
        media: Arc<dyn Media>,
        options: LogOptions,
        mut each: impl FnMut(LogPos, Record) -> Result<()> + Send,
    ) -> Result<Self> {
        let mut visitor =
            Each(|replayed: Replayed| each(replayed.pos, Record { head: replayed.head, body: replayed.body }));
        Self::open_with(media, options, Replay::default(), &mut visitor).await
    }

    /// Opens the log as `open`, and calls `each` only with the records from a place on: for an owner that keeps elsewhere
    /// what is before it.
    ///
    /// `from` is the place of a record or behind one. What is before it is not looked at.
    ///
    /// # Errors
    /// As `open`; `Corrupt` too if the log has no such place.
    pub async fn open_from(
        media: Arc<dyn Media>,
        options: LogOptions,
        from: LogPos,
        mut each: impl FnMut(LogPos, Record) -> Result<()> + Send,
    ) -> Result<Self> {
        let mut visitor =
            Each(|replayed: Replayed| each(replayed.pos, Record { head: replayed.head, body: replayed.body }));
        Self::open_with(media, options, Replay { from: Some(from), ..Replay::default() }, &mut visitor).await
    }

    /// What the newest header of the log in `media` says; `None` where there is no log yet. Reads that header, and changes
    /// nothing.
    ///
    /// # Errors
    /// As `open`.
    pub async fn start(media: &Arc<dyn Media>, options: &LogOptions) -> Result<Option<LogStart>> {
        replay::start(media, options.kind()?).await
    }

    /// The salt of the log in `media`, if a header there tells it.
    pub(crate) async fn find_salt(media: &Arc<dyn Media>, options: &LogOptions) -> Result<Option<Salt>> {
        replay::find_salt(media, options.kind()?).await
    }

    pub(crate) async fn open_with(
        media: Arc<dyn Media>,
        options: LogOptions,
        replay: Replay,
        visitor: &mut dyn Visitor,
    ) -> Result<Self> {
        let kind = options.kind()?;
        let (chain, last) = replay::replay(&media, kind, replay, visitor).await?;
        let synced = match last {
            // What was read may be in the cache alone, left there by a process that died, and whatever is done because of it
            // would outlive it. Segments before were synced before this one was made.
            Some((segment, offset)) => media.sync(segment).await.map(|()| LogPos { segment, offset })?,
            None => LogPos { segment: SegmentId(0), offset: 0 },
        };
        for segment in chain.garbage {
            media.remove(segment).await?;
        }
        let next = LogPos { segment: chain.next, offset: SEGMENT_HEADER_LEN };
        let end = last.map_or(next, |(segment, offset)| LogPos { segment, offset });
        let state = State {
            next,
            end,
            written: end,
            synced,
            pending: VecDeque::new(),
            pending_len: 0,
            writing: false,
            poisoned: None,
            closed: false,
            first: chain.first,
        };
        let inner = Inner {
            media,
            kind,
            salt: chain.salt.unwrap_or_else(|| Salt::draw(&options.env)),
            segment_len_max: options.segment_len_max.min(SEGMENT_LEN_MAX),
            state: Mutex::new(state),
            writer: AsyncMutex::new(Writer { last, open: false }),
            syncer: Arc::default(),
            tasks: TaskTracker::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Appends a record and returns its place: visible to `read` when it returns, durable after `sync`.
    ///
    /// Waits only where too much is waiting for the disk already. Records are on the media in the order of their
    /// places: after a crash a record is there only if all before it are.
    ///
    /// # Errors
    /// `TooLarge`; `NoSpace` and the media's others, when the record was not appended and may be tried again; `Io`
    /// after a failed sync, until the log is opened again.
    pub async fn append(&self, record: impl Into<Record> + Send) -> Result<LogPos> {
        let prepared = Self::prepare(record.into())?;
        self.ready().await?;
        Ok(self.push(prepared)?.pos)
    }

    /// Appends as `append`, and calls `placed` with the place before any later record gets one: what it changes changes in
    /// the order of the log.
    ///
    /// `placed` runs under a lock that every append takes, and calls nothing of this log. It is not called where the record
    /// was not appended.
    ///
    /// # Errors
    /// As `append`.
    pub async fn append_then(
        &self,
        record: impl Into<Record> + Send,
        placed: impl FnOnce(LogPos) + Send,
    ) -> Result<LogPos> {
        let prepared = Self::prepare(record.into())?;
        self.ready().await?;
        Ok(self.push_then(prepared, placed)?.pos)
    }

    /// Makes every record that was appended before this call durable; callers at the same time share the work.
    ///
    /// # Errors
    /// `NoSpace` and the like when a write failed, which may be tried again; when the sync itself failed, `Io`, now
    /// and for every later call that would change the log: what it covered counts as lost until the log is reopened.
    pub async fn sync(&self) -> Result<()> {
        let target = self.end();
        if self.synced() >= target {
            return Ok(());
        }
        // Who waits for the sync of another needs no task for that.
        let turn = Arc::clone(&self.inner.syncer).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        self.detached("log.sync", async move { inner.sync_to(target, &turn).await }).await
    }

    /// Replaces everything in the log by `records`, durably and all or nothing, and removes what was there.
    ///
    /// `records` must say all that the records so far said: the caller appends nothing from the moment it makes
    /// them until this returns.
    ///
    /// # Errors
    /// As `append` and `sync`. After an error the log is as before.
    pub async fn checkpoint(&self, records: impl IntoIterator<Item = Record, IntoIter: Send + 'static>) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let records = records.into_iter();
        self.detached("log.checkpoint", async move { inner.checkpoint(records).await }).await
    }

    /// Closes the current segment and returns the boundary: records appended before are below it, later ones are not.
    ///
    /// Costs nothing by itself: the next segment is made when something is appended. Repeatable: between two appends
    /// the boundary is the same.
    ///
    /// # Errors
    /// `Io` after a failed sync.
    pub fn rotate(&self) -> Result<LogPos> {
        let mut state = self.inner.lock();
        state.usable("log.rotate")?;
        Ok(state.rotate())
    }

    /// Removes, durably, every whole segment before the one that `pos` is in: the log begins with that segment.
    ///
    /// All or nothing: after a crash replay begins there, or where it began before. What must outlive the dropped
    /// records, such as a checkpoint of them elsewhere, has to be durable before. Drops whole segments only: `rotate`
    /// gives a place that divides them. Repeatable; appends go on meanwhile.
    ///
    /// # Errors
    /// `InvalidArgument` if the log ends before `pos`; else as `append` and `sync`, when nothing was dropped. Segments
    /// that cannot be removed are removed by the next opening.
    pub async fn drop_before(&self, pos: LogPos) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        self.detached("log.drop_before", async move { inner.drop_before(pos).await }).await
    }

    /// Makes everything durable, ends the log so that the next opening knows where it ended, and waits for what goes on in
    /// the background: when it returns the media is used no more by this log.
    ///
    /// For a clean shutdown; without it what was synced is there all the same, but bytes of the last record that rot pass
    /// for a torn tail. Repeatable. Reads go on; whatever would change the log is `Unavailable` from here on.
    ///
    /// # Errors
    /// As `sync`; also then nothing goes on in the background.
    pub async fn close(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let closed = self.detached("log.close", async move { inner.close().await }).await;
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        closed
    }

    /// Runs work of this log that must not stop half way when its caller is dropped.
    async fn detached<T: Send + 'static>(
        &self,
        op: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        detached(op, self.inner.tasks.track_future(work)).await
    }

    /// Reads a record at a place that `append` or replay gave.
    ///
    /// # Errors
    /// `Corrupt` if what stands there is not what was appended; `NotFound` if it was dropped or a checkpoint removed it.
    pub async fn read(&self, pos: LogPos) -> Result<Record> {
        if let Some(frame) = self.pending(pos) {
            return Ok(Record { head: frame.head(), body: frame.body });
        }
        let (header, front) = read_front(&*self.inner.media, self.inner.salt, pos).await?;
        let body = self.inner.media.read_at(pos.segment, u64::from(pos.offset) + front.len() as u64, body_len(&header));
        let body = body.await?;
        if !header.check_body(&body) {
            return Err(corrupt(pos));
        }
        Ok(Record { head: front.slice(FRAME_HEADER_LEN..), body })
    }

    /// Reads a record as `read`, in one read of the media where it is no longer than `len_max` bytes, everything included.
    ///
    /// # Errors
    /// As `read`.
    pub async fn read_within(&self, pos: LogPos, len_max: u32) -> Result<Record> {
        if let Some(frame) = self.pending(pos) {
            return Ok(Record { head: frame.head(), body: frame.body });
        }
        let media = &*self.inner.media;
        let (header, front_len, mut bytes) = read_start(media, self.inner.salt, pos, len_max).await?;
        let head = bytes.slice(FRAME_HEADER_LEN..front_len);
        if bytes.len() < header.len() {
            let len = u32::try_from(header.len()).unwrap_or(u32::MAX);
            bytes = media.read_at(pos.segment, pos.offset.into(), len).await?;
        }
        if !bytes.get(front_len..header.len()).is_some_and(|body| header.check_body(body)) {
            return Err(corrupt(pos));
        }
        Ok(Record { head, body: bytes.slice(front_len..header.len()) })
    }

    /// Reads a record without its body, which is not checked.
    ///
    /// # Errors
    /// As `read`.
    pub async fn head(&self, pos: LogPos) -> Result<LogHead> {
        if let Some(frame) = self.pending(pos) {
            let body_len = u32::try_from(frame.body.len()).unwrap_or(u32::MAX);
            return Ok(LogHead { pos, head: frame.head(), body_len });
        }
        let (header, front) = read_front(&*self.inner.media, self.inner.salt, pos).await?;
        Ok(LogHead { pos, head: front.slice(FRAME_HEADER_LEN..), body_len: body_len(&header) })
    }

    /// Goes through the heads of the records of one segment that begin at `from` or later and before `end`. `from` is 0, or
    /// the place of a record or behind one; `end` is behind one. What is not on the media is not seen: see `write`.
    pub async fn heads_between(&self, segment: SegmentId, from: u32, end: u32) -> Result<LogHeads> {
        let media = Arc::clone(&self.inner.media);
        Ok(LogHeads { scanner: replay::scanner_of(media, self.inner.salt, segment, from).await?, end })
    }

    /// How long the log is on the media, in bytes.
    ///
    /// # Errors
    /// The media's.
    pub async fn media_len(&self) -> Result<u64> {
        Ok(self.inner.media.segments().await?.iter().map(|segment| segment.len).sum())
    }

    /// The place behind the last record.
    pub fn end(&self) -> LogPos {
        self.inner.lock().end
    }

    /// The place up to which the log is known to be durable: a record is if its place is below. All that an opening found is.
    pub fn synced(&self) -> LogPos {
        self.inner.lock().synced
    }

    /// Why the log takes nothing more until it is opened again; `None` for as long as it does.
    pub fn poisoned(&self) -> Option<Error> {
        self.inner.lock().poisoned("log.poisoned")
    }

    /// Hands every record that was appended before this call to the media: there it outlives this process, though not yet
    /// the power.
    ///
    /// # Errors
    /// As `append`.
    pub async fn write(&self) -> Result<()> {
        let target = self.end();
        if self.inner.lock().written >= target {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        self.detached("log.write", async move { inner.write_out().await.map(drop) }).await
    }

    pub(crate) fn prepare(record: Record) -> Result<Prepared> {
        Prepared::new(FrameKind::Record, record).ok_or_else(|| {
            Error::new(ErrorKind::TooLarge, "log.append").because(format!(
                "a record has at most {RECORD_HEAD_LEN_MAX} bytes of head and {RECORD_BODY_LEN_MAX} of body"
            ))
        })
    }

    /// Waits until there is room for one more record.
    pub(crate) async fn ready(&self) -> Result<()> {
        loop {
            {
                let state = self.inner.lock();
                state.usable("log.append")?;
                if state.pending_len < PENDING_LEN_MAX {
                    return Ok(());
                }
            }
            let inner = Arc::clone(&self.inner);
            self.detached("log.append", async move { inner.write_out().await }).await?;
        }
    }

    /// Appends at once, to the buffer.
    pub(crate) fn push(&self, prepared: Prepared) -> Result<Placed> {
        self.push_then(prepared, |_| ())
    }

    fn push_then(&self, prepared: Prepared, then: impl FnOnce(LogPos)) -> Result<Placed> {
        let mut state = self.inner.lock();
        state.usable("log.append")?;
        let placed = state.push(prepared, self.inner.salt, self.inner.segment_len_max);
        state.end = state.next;
        then(placed.pos);
        let write = state.pending_len >= WRITE_LEN && !state.writing;
        state.writing |= write;
        drop(state);
        if write {
            self.inner.write_in_background();
        }
        Ok(placed)
    }

    /// Replays the log from its start while nothing is appended, after a sync.
    pub(crate) async fn replay(&self, lenient: bool, visitor: &mut dyn Visitor) -> Result<()> {
        let replay = Replay { from: None, lenient, salt: Some(self.inner.salt) };
        replay::replay(&self.inner.media, self.inner.kind, replay, visitor).await.map(|_| ())
    }

    /// What tells this log from every other, as [`LogStart::identity`].
    pub fn identity(&self) -> [u8; 12] {
        *self.inner.salt.as_bytes()
    }

    pub(crate) fn salt(&self) -> Salt {
        self.inner.salt
    }

    /// Goes through the heads of all records on the media, or of those from the place of one of them on.
    pub(crate) async fn heads(&self, from: Option<LogPos>) -> Result<HeadScan> {
        let media = Arc::clone(&self.inner.media);
        match from {
            Some(from) => HeadScan::since(media, self.inner.salt, from).await,
            None => HeadScan::new(media, self.inner.salt).await,
        }
    }

    /// Goes through the heads of the records of one segment on the media.
    pub(crate) async fn heads_of(&self, segment: SegmentId) -> Result<HeadScan> {
        HeadScan::of(Arc::clone(&self.inner.media), self.inner.salt, segment).await
    }

    /// The segment that the log begins with: what was before it is dropped.
    pub fn first(&self) -> SegmentId {
        self.inner.lock().first
    }

    /// The heads of the records that are not on the media yet.
    pub(crate) fn pending_heads(&self) -> Vec<(LogPos, Bytes)> {
        let state = self.inner.lock();
        let records = state.pending.iter().filter(|frame| frame.is_record());
        records.map(|frame| (frame.pos, frame.head())).collect()
    }

    /// Reads the head of a record.
    pub(crate) async fn read_head(&self, pos: LogPos) -> Result<Bytes> {
        match self.pending(pos) {
            Some(frame) => Ok(frame.head()),
            None => read_head(&*self.inner.media, self.inner.salt, pos).await,
        }
    }

    /// Reads a record whose frame is `len` bytes long, in one read; the body only if `wanted` says so of the head.
    pub(crate) async fn read_frame(
        &self,
        pos: LogPos,
        len: u32,
        wanted: impl FnOnce(&[u8]) -> bool + Send,
    ) -> Result<Option<Bytes>> {
        if let Some(frame) = self.pending(pos) {
            return Ok(wanted(&frame.head()).then_some(frame.body));
        }
        let bytes = self.inner.media.read_at(pos.segment, pos.offset.into(), len).await?;
        let salt = self.inner.salt;
        let header = FrameHeader::decode(salt, &bytes).ok_or_else(|| corrupt(pos))?;
        let front_len = FRAME_HEADER_LEN + header.head_len();
        if header.len() != bytes.len() || !header.check(salt, pos, &bytes[..front_len]) {
            return Err(corrupt(pos));
        }
        if !wanted(&bytes[FRAME_HEADER_LEN..front_len]) {
            return Ok(None);
        }
        let body = bytes.slice(front_len..);
        if header.check_body(&body) { Ok(Some(body)) } else { Err(corrupt(pos)) }
    }

    fn pending(&self, pos: LogPos) -> Option<Frame> {
        let state = self.inner.lock();
        let index = state.pending.binary_search_by_key(&pos, |frame| frame.pos).ok()?;
        state.pending.get(index).cloned()
    }
}

/// The heads of records, as [`Log::heads_between`] goes through them.
#[derive(Debug)]
pub struct LogHeads {
    scanner: replay::Scanner,
    end: u32,
}

impl LogHeads {
    /// The next one, or `None` at the end.
    ///
    /// # Errors
    /// `Corrupt`, naming the place, where there is no record and the end is not reached; `NotFound` if the segment was
    /// dropped; and the media's.
    pub async fn next(&mut self) -> Result<Option<LogHead>> {
        while self.scanner.offset < self.end {
            let pos = self.scanner.pos();
            match self.scanner.next().await? {
                replay::Step::Frame(frame) if frame.kind == FrameKind::Record => {
                    let body_len = frame.record.len as usize - FRAME_HEADER_LEN - frame.record.head.len();
                    let body_len = u32::try_from(body_len).unwrap_or(u32::MAX);
                    return Ok(Some(LogHead { pos, head: frame.record.head, body_len }));
                }
                replay::Step::Frame(_) => {}
                replay::Step::Bad | replay::Step::End => return Err(corrupt(pos)),
            }
        }
        Ok(None)
    }
}

impl Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.lock();
        f.debug_struct("Log")
            .field("media", &self.inner.media)
            .field("end", &state.end)
            .field("synced", &state.synced)
            .field("poisoned", &state.poisoned)
            .finish_non_exhaustive()
    }
}

async fn read_front(media: &dyn Media, salt: Salt, pos: LogPos) -> Result<(FrameHeader, Bytes)> {
    const GUESS_LEN: u32 = 512;
    let (header, front_len, mut bytes) = read_start(media, salt, pos, GUESS_LEN).await?;
    bytes.truncate(front_len);
    Ok((header, bytes))
}

/// Reads so many bytes of a record that is on the media, or more where its front is longer: its header, the length of its
/// front, which is checked, and the bytes.
async fn read_start(media: &dyn Media, salt: Salt, pos: LogPos, len: u32) -> Result<(FrameHeader, usize, Bytes)> {
    let mut bytes = media.read_at(pos.segment, pos.offset.into(), len).await?;
    let header = FrameHeader::decode(salt, &bytes).ok_or_else(|| corrupt(pos))?;
    let front_len = FRAME_HEADER_LEN + header.head_len();
    if bytes.len() < front_len {
        let len = u32::try_from(front_len).unwrap_or(u32::MAX);
        bytes = media.read_at(pos.segment, pos.offset.into(), len).await?;
    }
    let is_sound = bytes.get(..front_len).is_some_and(|front| header.check(salt, pos, front));
    if is_sound { Ok((header, front_len, bytes)) } else { Err(corrupt(pos)) }
}

/// Reads the head of a record that is on the media.
pub(crate) async fn read_head(media: &dyn Media, salt: Salt, pos: LogPos) -> Result<Bytes> {
    Ok(read_front(media, salt, pos).await?.1.slice(FRAME_HEADER_LEN..))
}

/// The checksum of the header of the frame at `pos`, which tells whether it is the frame that was there once.
pub(crate) async fn read_crc(media: &dyn Media, salt: Salt, pos: LogPos) -> Result<u32> {
    Ok(read_front(media, salt, pos).await?.0.crc())
}

fn body_len(header: &FrameHeader) -> u32 {
    u32::try_from(header.body_len()).unwrap_or(u32::MAX)
}

fn corrupt(pos: LogPos) -> Error {
    Error::new(ErrorKind::Corrupt, "log.read").at(pos).because("what stands there is not what was appended")
}

/// Runs work that must not stop half way when its caller is dropped.
///
/// It begins at once and here; a task is made only for what has to wait, when the disk is busy with it already.
pub(crate) async fn detached<T: Send + 'static>(
    op: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut work = work.boxed();
    let began = AssertUnwindSafe(async { (&mut work).now_or_never() }).catch_unwind().await;
    match began {
        Ok(Some(result)) => return result,
        // The task asks again, whatever was called meanwhile.
        Ok(None) => {}
        Err(_panic) => return Err(Error::new(ErrorKind::Internal, op).because("it panicked")),
    }
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(Error::new(ErrorKind::Internal, op).because(error)),
        Err(error) => Err(Error::new(ErrorKind::Unavailable, op).because(error)),
    }
}
