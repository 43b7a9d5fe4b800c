//! One entry of the index: where a record is, under a fingerprint of its key.

use bytes::{Buf, BufMut, BytesMut};

use crate::{BlockKey, log::LogPos, media::SegmentId};

/// The bytes of an entry in a run.
pub(super) const ENTRY_LEN: usize = 20;
const DELETED: u32 = 1 << 31;

/// Where a record is. Ordered by fingerprint and then from the newest to the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) fingerprint: u64,
    pub(super) pos: LogPos,
    /// The length of the frame without padding.
    pub(super) len: u32,
    /// Whether the record says that the block is gone.
    pub(super) deleted: bool,
}

impl Entry {
    /// What entries are sorted by.
    pub(super) fn order(&self) -> (u64, u64) {
        (self.fingerprint, !pack(self.pos))
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.fingerprint);
        out.put_u64_le(pack(self.pos));
        out.put_u32_le(self.len | if self.deleted { DELETED } else { 0 });
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let fingerprint = bytes.try_get_u64_le().ok()?;
        let pos = unpack(bytes.try_get_u64_le().ok()?);
        let bits = bytes.try_get_u32_le().ok()?;
        Some(Self { fingerprint, pos, len: bits & !DELETED, deleted: bits & DELETED != 0 })
    }

    /// The entry with this order and the bits of length and deletion.
    pub(super) fn of(order: (u64, u64), bits: u32) -> Self {
        Self { fingerprint: order.0, pos: unpack(!order.1), len: bits & !DELETED, deleted: bits & DELETED != 0 }
    }

    pub(super) fn bits(&self) -> u32 {
        self.len | if self.deleted { DELETED } else { 0 }
    }
}

/// A fingerprint of a key: keys may be chosen by others, so it is cut from a strong hash. Two keys may still share one;
/// the key itself stands in the record.
pub(super) fn fingerprint(key: &BlockKey) -> u64 {
    let hash = blake3::hash(key.as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// Positions as numbers: segments of blocks are numbered below 2^32, which `Segments::put` sees to.
pub(super) fn pack(pos: LogPos) -> u64 {
    pos.segment.0 << 32 | u64::from(pos.offset)
}

fn unpack(pos: u64) -> LogPos {
    // The low half.
    let offset = u32::try_from(pos & u64::from(u32::MAX)).unwrap_or(0);
    LogPos { segment: SegmentId(pos >> 32), offset }
}
