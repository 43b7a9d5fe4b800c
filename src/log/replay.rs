//! Reading a log back: which segments belong to it, and what stands in them.
//!
//! The hard part is to tell a torn tail from damage. A write that was under way at a crash leaves any mixture of old
//! and new bytes behind the last synced one; such a tail is cut. Bytes that were durable once and are bad now are
//! damage, and cutting there would lose what came after. So every frame says how far its segment was durable when it
//! was made, and the header of a segment says where the one before it ended, made durable first. A bad frame at `p` is
//! damage if anything after it says that the log was durable past `p`, and a torn tail otherwise.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    LogPos, LogStart,
    frame::{
        Decoded, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, FrameKind, SEGMENT_HEADER_LEN, Salt, SegmentHeader,
        VERSION, find_magic, padded,
    },
};
use crate::{
    Error, ErrorKind, Result,
    media::{Media, Segment, SegmentId},
};

/// Read at once where frames are small.
const CHUNK_LEN: u32 = 256 * 1024;
/// Read at once where bodies are skipped: enough for a header and a usual head.
const SKIP_CHUNK_LEN: u32 = 512;
/// A body longer than this makes it worth skipping.
const SKIP_BODY_LEN: usize = 64 * 1024;
/// Read at once when looking for a good frame behind damage.
const SEARCH_LEN: u32 = 1 << 20;

/// What is read of a log, and what damage does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Replay {
    /// Where to begin; from the start if `None`.
    pub(crate) from: Option<LogPos>,
    /// For an owner whose bodies are checked when they are read and for whom one lost record is not the end: bodies
    /// are read only where the tail may be torn, and damage is passed over with a warning.
    pub(crate) lenient: bool,
    /// The salt of the log, for where no header tells it.
    pub(crate) salt: Option<Salt>,
}

/// What a log is opened as: its kind and the newest version of the records that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: [u8; 8],
    pub(crate) record_version: u8,
}

/// A record as replay finds it.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) pos: LogPos,
    pub(crate) head: Bytes,
    /// Empty where bodies are not read.
    pub(crate) body: Bytes,
    /// The length of the frame without padding.
    pub(crate) len: u32,
    /// The checksum of the frame's header.
    pub(crate) crc: u32,
}

/// What is done with the records of a replay.
#[async_trait]
pub(crate) trait Visitor: Send {
    /// Takes a record; whether to `pause` before the next.
    fn record(&mut self, record: Replayed) -> Result<bool>;
    /// Does what takes time, such as writing down what was gathered.
    async fn pause(&mut self) -> Result<()>;
}

/// A visitor that keeps up.
pub(crate) struct Each<F>(pub(crate) F);

#[async_trait]
impl<F: FnMut(Replayed) -> Result<()> + Send> Visitor for Each<F> {
    fn record(&mut self, record: Replayed) -> Result<bool> {
        (self.0)(record).map(|()| false)
    }
    async fn pause(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Shows `visitor` every record of a log and returns the segments with the place where the last one ends.
pub(crate) async fn replay(
    media: &Arc<dyn Media>,
    kind: Kind,
    replay: Replay,
    visitor: &mut dyn Visitor,
) -> Result<(Chain, Option<(SegmentId, u32)>)> {
    let chain = Chain::find(media, kind, replay).await?;
    let mut last = None;
    if let Some(salt) = chain.salt {
        for part in &chain.parts {
            last = Some((part.id, replay_part(media, salt, *part, replay, visitor).await?));
        }
    }
    Ok((chain, last))
}

/// The segments that make up a log.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) first: SegmentId,
    /// Ascending; from the one asked for on. All but the last end where their successor says.
    pub(crate) parts: Vec<Part>,
    /// What is no part of it: torn at birth, given up, or removed and back.
    pub(crate) garbage: Vec<SegmentId>,
    /// Above every number seen.
    pub(crate) next: SegmentId,
    /// `None` where there is no log yet.
    pub(crate) salt: Option<Salt>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) id: SegmentId,
    /// Where it ends, if that is known.
    pub(crate) end: Option<u32>,
    media_len: u64,
}

impl Chain {
    async fn find(media: &Arc<dyn Media>, kind: Kind, replay: Replay) -> Result<Self> {
        let segments = media.segments().await?;
        let next = SegmentId(segments.last().map_or(0, |last| last.id.0.saturating_add(1)));
        let finder = Finder { media, kind, replay, segments };
        let mut chain = Self { first: next, parts: Vec::new(), garbage: Vec::new(), next, salt: replay.salt };
        let Some((last, header)) = finder.last(&mut chain.garbage).await? else {
            return match replay.from {
                Some(from) => Err(damage(from, "the log ends before this place")),
                None => Ok(chain),
            };
        };
        chain.first = header.first;
        chain.salt = Some(header.salt);
        chain.parts = finder.walk(last, header).await?;
        let holds = |from: LogPos| {
            let part = chain.parts.iter().find(|part| part.id == from.segment);
            part.is_some_and(|part| part.end.map_or(part.media_len, u64::from) >= from.offset.into())
        };
        if let Some(from) = replay.from
            && !holds(from)
        {
            return Err(damage(from, "the log has no such place"));
        }
        let is_garbage = |s: &&Segment| {
            s.id < chain.first
                || s.len <= u64::from(SEGMENT_HEADER_LEN) && !chain.parts.iter().any(|part| part.id == s.id)
        };
        let from = replay.from.map_or(SegmentId(0), |from| from.segment);
        chain.garbage.extend(
            finder.segments.iter().filter(is_garbage).filter(|s| s.id > from || s.id < chain.first).map(|s| s.id),
        );
        Ok(chain)
    }
}

/// The salt of the log in a media: that of its newest good header; `None` where there is none.
pub(crate) async fn find_salt(media: &Arc<dyn Media>, kind: Kind) -> Result<Option<Salt>> {
    let segments = media.segments().await?;
    Finder { media, kind, replay: Replay::default(), segments }.salt().await
}

/// What the newest good header in a media says of its log; `None` where there is none.
pub(crate) async fn start(media: &Arc<dyn Media>, kind: Kind) -> Result<Option<LogStart>> {
    let segments = media.segments().await?;
    let finder = Finder { media, kind, replay: Replay::default(), segments };
    let last = finder.last(&mut Vec::new()).await?;
    Ok(last.map(|(_, header)| LogStart { first: header.first, identity: *header.salt.as_bytes() }))
}

/// Reads the frames of a segment from a place on, without their bodies.
pub(crate) async fn scanner_of(media: Arc<dyn Media>, salt: Salt, segment: SegmentId, from: u32) -> Result<Scanner> {
    let listed = media.segments().await?;
    let Some(found) = listed.iter().find(|there| there.id == segment) else {
        return Err(Error::new(ErrorKind::NotFound, "log.heads").at(segment));
    };
    let part = Part { id: segment, end: None, media_len: found.len };
    Ok(Scanner::new(media, salt, part, from, false))
}

struct Finder<'a> {
    media: &'a Arc<dyn Media>,
    kind: Kind,
    replay: Replay,
    segments: Vec<Segment>,
}

impl Finder<'_> {
    /// The last segment that counts, and its header.
    async fn last(&self, garbage: &mut Vec<SegmentId>) -> Result<Option<(Segment, SegmentHeader)>> {
        let mut unfinished = None;
        for &segment in self.segments.iter().rev() {
            match self.header(segment).await? {
                Some(header) if header.checkpoint && !self.finished(segment, header.salt).await? => {
                    unfinished.get_or_insert(segment.id);
                    garbage.push(segment.id);
                }
                Some(header) => return Ok(Some((segment, header))),
                // Its header is made durable before anything follows it.
                None if segment.len <= u64::from(SEGMENT_HEADER_LEN) => garbage.push(segment.id),
                None if self.replay.lenient => {
                    warn_damage(LogPos { segment: segment.id, offset: 0 });
                    let lost = "the header of every segment is damaged, and the salt lost that stands in them";
                    let salt = self.salt().await?.or(self.replay.salt);
                    let header = SegmentHeader {
                        id: segment.id,
                        first: self.segments.first().map_or(segment.id, |first| first.id),
                        prev: None,
                        checkpoint: false,
                        kind: self.kind.name,
                        record_version: self.kind.record_version,
                        salt: salt.ok_or_else(|| damage(LogPos { segment: segment.id, offset: 0 }, lost))?,
                    };
                    return Ok(Some((segment, header)));
                }
                None => return Err(damage(LogPos { segment: segment.id, offset: 0 }, "its header is damaged")),
            }
        }
        match unfinished {
            // What it was to replace is removed only when it is whole.
            Some(id) => {
                Err(damage(LogPos { segment: id, offset: 0 }, "the checkpoint is damaged and nothing older is left"))
            }
            None => Ok(None),
        }
    }

    /// The salt that the newest good header tells.
    async fn salt(&self) -> Result<Option<Salt>> {
        for segment in self.segments.iter().rev() {
            if let Some(header) = self.header(*segment).await? {
                return Ok(Some(header.salt));
            }
        }
        Ok(None)
    }

    /// From the last segment back to the one asked for.
    async fn walk(&self, last: Segment, header: SegmentHeader) -> Result<Vec<Part>> {
        let from = self.replay.from.map_or(header.first, |from| from.segment.max(header.first));
        let mut parts = vec![Part { id: last.id, end: None, media_len: last.len }];
        let (mut prev, salt) = (header.prev, header.salt);
        let mut current = last.id;
        // The log may begin with a number that was given out in vain: where all before is below it, this is the start.
        while current > from && prev.is_none_or(|(id, _)| id >= from) {
            let below = self.segments.iter().rev().find(|segment| segment.id < current);
            let named = prev.and_then(|(id, end)| Some((self.segments.iter().find(|s| s.id == id)?, end)));
            let (segment, end) = match (named, below) {
                (Some((segment, end)), _) => (*segment, Some(end)),
                (None, Some(below)) if self.replay.lenient => {
                    if let Some((id, _)) = prev {
                        warn_damage(LogPos { segment: id, offset: 0 });
                    }
                    (*below, Some(u32::try_from(below.len).unwrap_or(u32::MAX)))
                }
                (None, None) if self.replay.lenient => break,
                _ => {
                    let id = prev.map_or(SegmentId(current.0.saturating_sub(1)), |(id, _)| id);
                    return Err(damage(LogPos { segment: id, offset: 0 }, "the segment is missing"));
                }
            };
            parts.push(Part { id: segment.id, end, media_len: segment.len });
            current = segment.id;
            if current > from {
                prev = match self.header(segment).await? {
                    Some(header) if header.salt == salt => header.prev,
                    Some(_) if !self.replay.lenient => {
                        return Err(damage(LogPos { segment: current, offset: 0 }, "the segment is of another log"));
                    }
                    None | Some(_) if self.replay.lenient => None,
                    _ => return Err(damage(LogPos { segment: current, offset: 0 }, "its header is damaged")),
                };
            }
        }
        parts.reverse();
        Ok(parts)
    }

    /// The header, or `None` if it is bad.
    async fn header(&self, segment: Segment) -> Result<Option<SegmentHeader>> {
        const OP: &str = "log.open";
        let bytes = self.media.read_at(segment.id, 0, SEGMENT_HEADER_LEN).await?;
        match SegmentHeader::decode(segment.id, &bytes) {
            Decoded::Good(header) if header.kind != self.kind.name => Err(Error::new(ErrorKind::InvalidArgument, OP)
                .at(segment.id)
                .because(format!("this is a log of kind {:?}, not {:?}", name(header.kind), name(self.kind.name)))),
            Decoded::Good(header) if header.record_version > self.kind.record_version => {
                Err(Error::new(ErrorKind::Unsupported, OP).at(segment.id).because(format!(
                    "the records of this log ({}) have version {}, this program knows {}: use the newer program that \
                     wrote them",
                    name(header.kind),
                    header.record_version,
                    self.kind.record_version
                )))
            }
            Decoded::Good(header) => Ok(Some(header)),
            Decoded::Newer(version) => Err(Error::new(ErrorKind::Unsupported, OP).at(segment.id).because(format!(
                "the log has format {version}, this program knows {VERSION}: use the newer program that wrote it"
            ))),
            Decoded::Bad => Ok(None),
        }
    }

    /// Whether a checkpoint is whole.
    async fn finished(&self, segment: Segment, salt: Salt) -> Result<bool> {
        let part = Part { id: segment.id, end: None, media_len: segment.len };
        let mut scanner = Scanner::new(Arc::clone(self.media), salt, part, SEGMENT_HEADER_LEN, true);
        loop {
            match scanner.next().await? {
                Step::Frame(frame) if frame.kind == FrameKind::CheckpointEnd => return Ok(true),
                Step::Frame(_) => {}
                Step::Bad | Step::End => return Ok(false),
            }
        }
    }
}

/// A frame as the scanner finds it.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) kind: FrameKind,
    pub(crate) record: Replayed,
}

#[derive(Debug)]
pub(crate) enum Step {
    Frame(Scanned),
    /// What stands at the scanner's place is no frame that was written there.
    Bad,
    End,
}

/// Reads the frames of one segment in order.
#[derive(Debug)]
pub(crate) struct Scanner {
    media: Arc<dyn Media>,
    salt: Salt,
    segment: SegmentId,
    /// Where it ends: what was said, or all there is.
    end: u64,
    media_len: u64,
    pub(crate) offset: u32,
    bodies: bool,
    chunk: Bytes,
    chunk_offset: u64,
    chunk_len: u32,
}

impl Scanner {
    pub(crate) fn new(media: Arc<dyn Media>, salt: Salt, part: Part, offset: u32, bodies: bool) -> Self {
        let offset = offset.max(SEGMENT_HEADER_LEN);
        Self {
            media,
            salt,
            segment: part.id,
            end: part.end.map_or(part.media_len, u64::from),
            media_len: part.media_len,
            offset,
            bodies,
            chunk: Bytes::new(),
            chunk_offset: 0,
            chunk_len: CHUNK_LEN,
        }
    }

    pub(crate) fn pos(&self) -> LogPos {
        LogPos { segment: self.segment, offset: self.offset }
    }

    /// The frame at the scanner's place, which moves behind it.
    pub(crate) async fn next(&mut self) -> Result<Step> {
        let at = u64::from(self.offset);
        if at == self.end && self.end <= self.media_len {
            return Ok(Step::End);
        }
        let pos = LogPos { segment: self.segment, offset: self.offset };
        let Some(header) = FrameHeader::decode(self.salt, &self.bytes(at, FRAME_HEADER_LEN).await?) else {
            return Ok(Step::Bad);
        };
        let front = self.bytes(at, FRAME_HEADER_LEN + header.head_len()).await?;
        let len = u32::try_from(header.len()).unwrap_or(u32::MAX);
        let end = self.offset.checked_add(padded(len));
        if !header.check(self.salt, pos, &front) || end.is_none_or(|end| u64::from(end) > self.end.min(self.media_len))
        {
            return Ok(Step::Bad);
        }
        let mut body = Bytes::new();
        if self.bodies {
            body = self.bytes(at + front.len() as u64, header.body_len()).await?;
            if !header.check_body(&body) {
                return Ok(Step::Bad);
            }
        }
        self.chunk_len = if !self.bodies && header.body_len() > SKIP_BODY_LEN { SKIP_CHUNK_LEN } else { CHUNK_LEN };
        self.offset = end.unwrap_or(u32::MAX);
        let head = front.slice(FRAME_HEADER_LEN..);
        Ok(Step::Frame(Scanned { kind: header.kind, record: Replayed { pos, head, body, len, crc: header.crc() } }))
    }

    /// `len` bytes at `offset`; fewer at the end. Claimed lengths cost no more than there is.
    async fn bytes(&mut self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset + len as u64;
        if offset < self.chunk_offset || end > self.chunk_offset + self.chunk.len() as u64 {
            let want = u32::try_from(len).unwrap_or(u32::MAX).max(self.chunk_len);
            self.chunk = self.media.read_at(self.segment, offset, want).await?;
            self.chunk_offset = offset;
        }
        let start = usize::try_from(offset - self.chunk_offset).unwrap_or(usize::MAX).min(self.chunk.len());
        Ok(self.chunk.slice(start..self.chunk.len().min(start + len)))
    }

    /// Moves to the first good frame header behind the scanner's place and returns how far it says the segment was
    /// durable; `None` where there is none.
    async fn search(&mut self) -> Result<Option<u32>> {
        let mut at = u64::from(self.offset) + FRAME_ALIGN as u64;
        while at < self.media_len {
            let chunk = self.media.read_at(self.segment, at, SEARCH_LEN).await?;
            let mut from = 0;
            while let Some(found) = find_magic(self.salt, &chunk, from) {
                if let Some(synced) = self.header_at(at + found as u64).await? {
                    return Ok(Some(synced));
                }
                from = found + FRAME_ALIGN;
            }
            if chunk.is_empty() {
                break;
            }
            at += (chunk.len() as u64).next_multiple_of(FRAME_ALIGN as u64);
        }
        Ok(None)
    }

    async fn header_at(&mut self, at: u64) -> Result<Option<u32>> {
        let Ok(offset) = u32::try_from(at) else { return Ok(None) };
        let bytes = self.media.read_at(self.segment, at, SKIP_CHUNK_LEN).await?;
        let Some(header) = FrameHeader::decode(self.salt, &bytes) else { return Ok(None) };
        let front_len = FRAME_HEADER_LEN + header.head_len();
        let front = if front_len <= bytes.len() {
            bytes.slice(..front_len)
        } else {
            self.media.read_at(self.segment, at, u32::try_from(front_len).unwrap_or(u32::MAX)).await?
        };
        if !header.check(self.salt, LogPos { segment: self.segment, offset }, &front) {
            return Ok(None);
        }
        self.offset = offset;
        Ok(Some(header.synced))
    }
}

async fn visit(visitor: &mut dyn Visitor, record: Replayed) -> Result<()> {
    if visitor.record(record)? { visitor.pause().await } else { Ok(()) }
}

/// Replays one segment and returns where it ends.
async fn replay_part(
    media: &Arc<dyn Media>,
    salt: Salt,
    part: Part,
    replay: Replay,
    visitor: &mut dyn Visitor,
) -> Result<u32> {
    let start = replay.from.filter(|from| from.segment == part.id).map_or(SEGMENT_HEADER_LEN, |from| from.offset);
    // Where the end is known, all of it was durable.
    let bodies = !replay.lenient || part.end.is_none();
    let mut scanner = Scanner::new(Arc::clone(media), salt, part, start, bodies);
    let mut durable = part.end;
    loop {
        let bad = match scanner.next().await? {
            Step::Frame(frame) => {
                if frame.kind == FrameKind::Record {
                    visit(visitor, frame.record).await?;
                }
                continue;
            }
            Step::End => return Ok(scanner.offset),
            Step::Bad => LogPos { segment: part.id, offset: scanner.offset },
        };
        let durable = match durable {
            Some(durable) => durable,
            None => *durable.insert(durable_past(media, salt, part, bad.offset).await?),
        };
        if durable <= bad.offset {
            return Ok(bad.offset);
        }
        if !replay.lenient {
            return Err(damage(bad, "it was durable and fails its checksum"));
        }
        // A record whose body alone is bad keeps its place: whoever reads it finds out.
        let mut heads = Scanner::new(Arc::clone(media), salt, part, bad.offset, false);
        if let Step::Frame(frame) = heads.next().await? {
            scanner.offset = heads.offset;
            if frame.kind == FrameKind::Record {
                visit(visitor, frame.record).await?;
            }
            continue;
        }
        warn_damage(bad);
        if scanner.search().await?.is_none() {
            return Ok(part.end.unwrap_or(bad.offset));
        }
    }
}

/// Reads the heads of all records there are in a media, torn tails included: whoever asks knows which of them count.
#[derive(Debug)]
pub(crate) struct HeadScan {
    media: Arc<dyn Media>,
    salt: Salt,
    segments: std::vec::IntoIter<Segment>,
    scanner: Option<Scanner>,
}

impl HeadScan {
    pub(crate) async fn new(media: Arc<dyn Media>, salt: Salt) -> Result<Self> {
        let segments = media.segments().await?.into_iter();
        Ok(Self { media, salt, segments, scanner: None })
    }

    /// Reads those from a place on that one of them stands at.
    pub(crate) async fn since(media: Arc<dyn Media>, salt: Salt, from: LogPos) -> Result<Self> {
        let mut segments = media.segments().await?;
        segments.retain(|there| there.id >= from.segment);
        let first = segments.iter().position(|there| there.id == from.segment).map(|at| segments.remove(at));
        let scanner = first.map(|segment| {
            let part = Part { id: segment.id, end: None, media_len: segment.len };
            Scanner::new(Arc::clone(&media), salt, part, from.offset, false)
        });
        Ok(Self { media, salt, segments: segments.into_iter(), scanner })
    }

    /// Reads those of one segment only.
    pub(crate) async fn of(media: Arc<dyn Media>, salt: Salt, segment: SegmentId) -> Result<Self> {
        let mut segments = media.segments().await?;
        segments.retain(|there| there.id == segment);
        Ok(Self { media, salt, segments: segments.into_iter(), scanner: None })
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Replayed>> {
        loop {
            let Some(scanner) = &mut self.scanner else {
                let Some(segment) = self.segments.next() else { return Ok(None) };
                let part = Part { id: segment.id, end: None, media_len: segment.len };
                self.scanner = Some(Scanner::new(Arc::clone(&self.media), self.salt, part, SEGMENT_HEADER_LEN, false));
                continue;
            };
            let more = match scanner.next().await? {
                Step::Frame(frame) if frame.kind == FrameKind::Record => return Ok(Some(frame.record)),
                Step::Frame(_) => true,
                Step::Bad => scanner.search().await?.is_some(),
                Step::End => false,
            };
            if !more {
                self.scanner = None;
            }
        }
    }
}

/// How far the segment was durable, as the good frames after `offset` say.
async fn durable_past(media: &Arc<dyn Media>, salt: Salt, part: Part, offset: u32) -> Result<u32> {
    let mut scanner = Scanner::new(Arc::clone(media), salt, part, offset, false);
    let mut durable = 0;
    while let Some(synced) = scanner.search().await? {
        durable = durable.max(synced);
    }
    Ok(durable)
}

/// The name of a kind, without the zeros behind it.
fn name(kind: [u8; 8]) -> String {
    kind.split(|byte| *byte == 0).next().unwrap_or_default().escape_ascii().to_string()
}

fn damage(pos: LogPos, why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "log.replay").at(pos).because(why)
}

fn warn_damage(pos: LogPos) {
    tracing::warn!(segment = pos.segment.0, offset = pos.offset, "a part of the log is damaged and passed over");
}
