//! The head of a record: what happened to a key, and to which record of it before. Spec: spec/zdb.md, "Records".
//!
//! ```text
//!  0  kind        1 set, 2 delete, 3 move, 4 note
//!  1  zeros       3 bytes
//!  4  timestamp   u32, seconds since 1970
//!  8  file        u32, of the record of the same key that this one takes the place of; 0 with offset 0 if there is none
//! 12  offset      u32, of that record
//! 16  length      u32, of its value
//! 20  next id     u64, the number that the next value gets
//! 28  key
//! ```
//!
//! Numbers are little-endian. The value is the body of the record.

use bytes::{BufMut, Bytes, BytesMut};
use muxfs::{log::LogPos, media::SegmentId};

/// How long a head is without its key.
pub(crate) const HEAD_LEN: usize = 28;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key has this value.
    Set,
    /// The key is gone.
    Delete,
    /// The value that the key has stands here now.
    Move,
    /// Nothing: it holds the next number, and a log that is not empty.
    Note,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Delete => 2,
            Self::Move => 3,
            Self::Note => 4,
        }
    }

    pub(crate) fn of(code: u8) -> Option<Self> {
        [Self::Set, Self::Delete, Self::Move, Self::Note].into_iter().find(|kind| kind.code() == code)
    }
}

/// The place of a record: file and offset, 32 bits each, so that a client can be given it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) file: u32,
    pub(crate) offset: u32,
}

impl Place {
    /// `None` past what 32 bits can name.
    pub(crate) fn of(pos: LogPos) -> Option<Self> {
        Some(Self { file: u32::try_from(pos.segment.0).ok()?, offset: pos.offset })
    }

    pub(crate) fn pos(self) -> LogPos {
        LogPos { segment: SegmentId(self.file.into()), offset: self.offset }
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.file.to_le_bytes());
        bytes[4..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// `None` for a place where no record can be.
    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        let both = u64::from_le_bytes(bytes);
        let place = Self { file: (both & 0xffff_ffff) as u32, offset: (both >> 32) as u32 };
        (place.offset >= 64 && place.offset.is_multiple_of(8)).then_some(place)
    }
}

/// The head of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) timestamp: u32,
    /// The record of the same key that this one takes the place of, and how long its value is.
    pub(crate) before: Option<(Place, u32)>,
    pub(crate) next_id: u64,
    pub(crate) key: Bytes,
}

impl Head {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEAD_LEN + self.key.len());
        bytes.put_slice(&[self.kind.code(), 0, 0, 0]);
        bytes.put_u32_le(self.timestamp);
        let (place, len) = self.before.unwrap_or((Place { file: 0, offset: 0 }, 0));
        bytes.put_slice(&place.to_bytes());
        bytes.put_u32_le(len);
        bytes.put_u64_le(self.next_id);
        bytes.put_slice(&self.key);
        bytes.freeze()
    }

    /// `None` for what no version of this format is.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let fixed: &[u8; HEAD_LEN] = bytes.first_chunk()?;
        let u32_at = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let place = Place { file: u32_at(8), offset: u32_at(12) };
        if fixed[1..4] != [0; 3] {
            return None;
        }
        Some(Self {
            kind: Kind::of(fixed[0])?,
            timestamp: u32_at(4),
            before: (place.offset != 0).then_some((place, u32_at(16))),
            next_id: u64::from(u32_at(20)) | u64::from(u32_at(24)) << 32,
            key: bytes.slice(HEAD_LEN..),
        })
    }
}

/// How much of a file the record of a value takes, in bytes.
pub(crate) fn frame_len(key_len: usize, value_len: u32) -> u64 {
    let start = LogPos { segment: SegmentId(0), offset: 0 };
    start.behind(HEAD_LEN + key_len, value_len as usize).offset.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for kind in [Kind::Set, Kind::Delete, Kind::Move, Kind::Note] {
            for before in [None, Some((Place { file: 7, offset: 64 }, 9))] {
                let head = Head { kind, timestamp: 5, before, next_id: 1 << 40, key: "key".into() };
                let bytes = head.encode();
                assert_eq!(bytes.len(), HEAD_LEN + 3);
                assert_eq!(Head::decode(&bytes), Some(head));
            }
        }
        assert_eq!(Head::decode(&Bytes::from_static(&[0; 40])), None);
        assert_eq!(Head::decode(&Bytes::from_static(&[1; 40])), None);
        assert_eq!(Head::decode(&Bytes::from_static(&[1, 0])), None);
    }

    #[test]
    fn a_place_is_where_a_record_can_be() {
        let place = Place { file: 3, offset: 72 };
        assert_eq!(Place::from_bytes(place.to_bytes()), Some(place));
        assert_eq!(Place::from_bytes([0; 8]), None);
        assert_eq!(Place::from_bytes([255; 8]), None);
    }
}
