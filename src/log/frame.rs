//! The bytes of a log: the header of a segment and the frame around a record. Spec: spec/log.md.

use bytes::{Bytes, BytesMut};

use super::{LogPos, RECORD_BODY_LEN_MAX, RECORD_HEAD_LEN_MAX, Record};
use crate::{Env, media::SegmentId};

/// Where the first frame of a segment begins.
pub(crate) const SEGMENT_HEADER_LEN: u32 = 64;
pub(crate) const FRAME_HEADER_LEN: usize = 24;
/// Frames begin at multiples of this, so that looking for the next good one after damage is quick.
pub(crate) const FRAME_ALIGN: usize = 8;

const _: () = assert!(FRAME_HEADER_LEN == 24 && FRAME_ALIGN == 8);

const SEGMENT_MAGIC: [u8; 8] = *b"muxfslog";
pub(crate) const VERSION: u16 = 1;
const FLAG_CHECKPOINT: u8 = 1;
const NO_SEGMENT: u64 = u64::MAX;
const SALT_LEN: usize = 12;

/// What nobody knows who does not read the log: a body that is made to look like frames is taken for none.
///
/// Every segment of a log has the same one, so that it is not lost with the header of one segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt([u8; SALT_LEN]);

impl Salt {
    pub(crate) const LEN: usize = SALT_LEN;

    /// Draws the salt of a new log.
    pub(crate) fn draw(env: &Env) -> Self {
        let mut salt = [0; SALT_LEN];
        (env.fill)(&mut salt);
        Self(salt)
    }

    pub(crate) fn new(bytes: [u8; SALT_LEN]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; SALT_LEN] {
        &self.0
    }

    /// How every frame begins.
    pub(crate) fn magic(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }

    /// Binds the header to its log and its place: a frame elsewhere, in a block that holds a copy of a log for one, is
    /// none.
    fn header_crc(&self, pos: LogPos, header: &[u8], head: &[u8]) -> u32 {
        let place = crc32c::crc32c_append(crc32c::crc32c(&self.0), &pos.segment.0.to_le_bytes());
        let place = crc32c::crc32c_append(place, &pos.offset.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(place, header), head)
    }
}

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// What stands at the start of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: SegmentId,
    /// The log begins with this segment: lower ones are no part of it any more.
    pub(crate) first: SegmentId,
    /// The segment before this one and where it ends: it was durable up to there when this one was made, and what
    /// follows in it was torn.
    pub(crate) prev: Option<(SegmentId, u32)>,
    pub(crate) checkpoint: bool,
    pub(crate) kind: [u8; 8],
    /// The version of the owner's records.
    pub(crate) record_version: u8,
    pub(crate) salt: Salt,
}

/// What reading a segment header finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Good(SegmentHeader),
    /// Whole, but of a version this program does not know.
    Newer(u16),
    Bad,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Bytes {
        let (prev, prev_end) = self.prev.map_or((NO_SEGMENT, 0), |(id, end)| (id.0, end));
        let mut bytes = BytesMut::with_capacity(SEGMENT_HEADER_LEN as usize);
        bytes.extend_from_slice(&SEGMENT_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[if self.checkpoint { FLAG_CHECKPOINT } else { 0 }, self.record_version]);
        bytes.extend_from_slice(&prev_end.to_le_bytes());
        bytes.extend_from_slice(&self.id.0.to_le_bytes());
        bytes.extend_from_slice(&self.first.0.to_le_bytes());
        bytes.extend_from_slice(&prev.to_le_bytes());
        bytes.extend_from_slice(&self.kind);
        bytes.extend_from_slice(self.salt.as_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.freeze()
    }

    pub(crate) fn decode(id: SegmentId, bytes: &[u8]) -> Decoded {
        let Some((bytes, _)) = bytes.split_first_chunk::<{ SEGMENT_HEADER_LEN as usize }>() else {
            return Decoded::Bad;
        };
        if bytes[..8] != SEGMENT_MAGIC || u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Decoded::Bad;
        }
        let version = u16_at(bytes, 8);
        if version != VERSION {
            return Decoded::Newer(version);
        }
        let prev = u64_at(bytes, 32);
        let header = Self {
            id: SegmentId(u64_at(bytes, 16)),
            first: SegmentId(u64_at(bytes, 24)),
            prev: (prev != NO_SEGMENT).then(|| (SegmentId(prev), u32_at(bytes, 12))),
            checkpoint: bytes[10] & FLAG_CHECKPOINT != 0,
            kind: u64_at(bytes, 40).to_le_bytes(),
            record_version: bytes[11],
            salt: Salt::new(array_at(bytes, 48)),
        };
        // A segment under another's name, or one that follows itself, is not what was written.
        let sound = header.id == id && header.first <= id && header.prev.is_none_or(|(prev, _)| prev < id);
        if sound { Decoded::Good(header) } else { Decoded::Bad }
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Record,
    /// Nothing: it only says how far the segment was durable when it was written.
    Mark,
    /// Nothing: the checkpoint before it is whole.
    CheckpointEnd,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Record => 1,
            Self::Mark => 2,
            Self::CheckpointEnd => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Record, Self::Mark, Self::CheckpointEnd].into_iter().find(|kind| kind.code() == code)
    }
}

/// The first bytes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    head_len: u16,
    body_len: u32,
    /// How far this segment was durable when the frame was made.
    pub(crate) synced: u32,
    body_crc: u32,
    header_crc: u32,
}

impl FrameHeader {
    /// Takes a header apart. Nothing is known to be true before `check`, but the lengths are within their limits.
    pub(crate) fn decode(salt: Salt, bytes: &[u8]) -> Option<Self> {
        let (bytes, _) = bytes.split_first_chunk::<FRAME_HEADER_LEN>()?;
        let header = Self {
            kind: FrameKind::of(bytes[6])?,
            head_len: u16_at(bytes, 4),
            body_len: u32_at(bytes, 8),
            synced: u32_at(bytes, 12),
            body_crc: u32_at(bytes, 16),
            header_crc: u32_at(bytes, 20),
        };
        let sound = bytes[..4] == salt.magic()
            && bytes[7] == 0
            && usize::from(header.head_len) <= RECORD_HEAD_LEN_MAX
            && header.body_len as usize <= RECORD_BODY_LEN_MAX;
        sound.then_some(header)
    }

    /// Whether `bytes`, the frame up to the end of its head, are what was written at `pos`.
    pub(crate) fn check(&self, salt: Salt, pos: LogPos, bytes: &[u8]) -> bool {
        let Some((header, head)) = bytes.split_at_checked(FRAME_HEADER_LEN) else { return false };
        head.len() == self.head_len()
            && self.synced <= pos.offset
            && self.header_crc == salt.header_crc(pos, &header[..20], head)
    }

    pub(crate) fn check_body(&self, body: &[u8]) -> bool {
        body.len() == self.body_len() && self.body_crc == crc32c::crc32c(body)
    }

    pub(crate) fn head_len(&self) -> usize {
        self.head_len.into()
    }

    pub(crate) fn body_len(&self) -> usize {
        self.body_len as usize
    }

    /// The length of the frame without its padding.
    pub(crate) fn len(&self) -> usize {
        FRAME_HEADER_LEN + self.head_len() + self.body_len()
    }

    /// The bytes of the header that no two frames are likely to share.
    pub(crate) fn crc(&self) -> u32 {
        self.header_crc
    }
}

/// A record on its way into the log: the checksum of its body is known, its place not yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    kind: FrameKind,
    record: Record,
    head_len: u16,
    body_len: u32,
    body_crc: u32,
}

/// A frame with its place.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) pos: LogPos,
    kind: FrameKind,
    crc: u32,
    /// Header and head.
    pub(crate) front: Bytes,
    pub(crate) body: Bytes,
}

impl Prepared {
    /// `None` if a part is too long.
    pub(crate) fn new(kind: FrameKind, record: Record) -> Option<Self> {
        if record.head.len() > RECORD_HEAD_LEN_MAX || record.body.len() > RECORD_BODY_LEN_MAX {
            return None;
        }
        let head_len = u16::try_from(record.head.len()).ok()?;
        let body_len = u32::try_from(record.body.len()).ok()?;
        let body_crc = crc32c::crc32c(&record.body);
        Some(Self { kind, record, head_len, body_len, body_crc })
    }

    /// The length of the frame with its padding.
    pub(crate) fn padded_len(&self) -> u32 {
        padded(24 + u32::from(self.head_len) + self.body_len)
    }

    pub(crate) fn place(self, salt: Salt, pos: LogPos, synced: u32) -> Frame {
        let mut front = BytesMut::with_capacity(FRAME_HEADER_LEN + self.record.head.len());
        front.extend_from_slice(&salt.magic());
        front.extend_from_slice(&self.head_len.to_le_bytes());
        front.extend_from_slice(&[self.kind.code(), 0]);
        front.extend_from_slice(&self.body_len.to_le_bytes());
        front.extend_from_slice(&synced.to_le_bytes());
        front.extend_from_slice(&self.body_crc.to_le_bytes());
        let crc = salt.header_crc(pos, &front, &self.record.head);
        front.extend_from_slice(&crc.to_le_bytes());
        front.extend_from_slice(&self.record.head);
        Frame { pos, kind: self.kind, crc, front: front.freeze(), body: self.record.body }
    }
}

impl Frame {
    /// The length without padding.
    pub(crate) fn len(&self) -> usize {
        self.front.len() + self.body.len()
    }

    /// The zeros that follow.
    pub(crate) fn padding(&self) -> Bytes {
        const ZEROS: &[u8] = &[0; FRAME_ALIGN];
        Bytes::from_static(&ZEROS[..self.len().next_multiple_of(FRAME_ALIGN) - self.len()])
    }

    pub(crate) fn head(&self) -> Bytes {
        self.front.slice(FRAME_HEADER_LEN..)
    }

    pub(crate) fn is_record(&self) -> bool {
        self.kind == FrameKind::Record
    }

    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    /// The position behind it.
    pub(crate) fn end(&self) -> LogPos {
        // A frame is far shorter than 2^32.
        let len = u32::try_from(self.len()).unwrap_or(u32::MAX);
        LogPos { segment: self.pos.segment, offset: self.pos.offset.saturating_add(padded(len)) }
    }
}

/// The length with the zeros that follow it.
pub(crate) const fn padded(len: u32) -> u32 {
    len.next_multiple_of(8)
}

fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn array_at<const N: usize, const M: usize>(bytes: &[u8; N], at: usize) -> [u8; M] {
    std::array::from_fn(|index| bytes[at + index])
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The first offset at or after `from` where a frame may begin, by its magic; `bytes` begin at an aligned offset.
pub(crate) fn find_magic(salt: Salt, bytes: &[u8], from: usize) -> Option<usize> {
    let magic = salt.magic();
    let from = from.next_multiple_of(FRAME_ALIGN);
    (from..bytes.len().saturating_sub(magic.len() - 1))
        .step_by(FRAME_ALIGN)
        .find(|&at| bytes[at..at + magic.len()] == magic)
}
