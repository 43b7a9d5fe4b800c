//! The heads of the records in a log of blocks. Spec: spec/segments.md #records.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{BlockKey, log::LogPos, media::SegmentId};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const MOVE: u8 = 3;
const LOSE: u8 = 4;

/// What a record says happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// The body is the block of this key, which was not there.
    Put { key: BlockKey },
    /// The block of this key is gone.
    Delete {
        key: BlockKey,
        /// The place and the frame's length of the record that is dead now, for the counts.
        removed: Option<(LogPos, u32)>,
    },
    /// The body is the block of this key, which was in another record.
    Move {
        key: BlockKey,
        /// The place and the frame's length of that record, for the counts.
        from: (LogPos, u32),
    },
    /// The block of this key was in another record, which was found to be bad: it is there, and cannot be had.
    Lose {
        key: BlockKey,
        /// As of a move.
        from: (LogPos, u32),
    },
}

impl Change {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Put { key } => {
                out.put_u8(PUT);
                out.extend_from_slice(key.as_bytes());
            }
            Self::Delete { key, removed } => {
                let nowhere = (LogPos { segment: SegmentId(0), offset: 0 }, 0);
                put_other(&mut out, DELETE, removed.unwrap_or(nowhere), key);
            }
            Self::Move { key, from } => put_other(&mut out, MOVE, *from, key),
            Self::Lose { key, from } => put_other(&mut out, LOSE, *from, key),
        }
        out.freeze()
    }

    /// Whether the head is of a kind that only a newer program can have written.
    pub(super) fn is_newer(head: &[u8]) -> bool {
        head.first().is_some_and(|kind| ![PUT, DELETE, MOVE, LOSE].contains(kind))
    }

    /// `None` if the head is of no kind that is known.
    pub(super) fn decode(mut head: &[u8]) -> Option<Self> {
        match head.try_get_u8().ok()? {
            PUT => Some(Self::Put { key: BlockKey::new(head).ok()? }),
            kind @ (DELETE | MOVE | LOSE) => {
                let segment = SegmentId(head.try_get_u64_le().ok()?);
                let offset = head.try_get_u32_le().ok()?;
                let len = head.try_get_u32_le().ok()?;
                let (other, key) = ((LogPos { segment, offset }, len), BlockKey::new(head).ok()?);
                Some(match kind {
                    DELETE => Self::Delete { key, removed: (len > 0).then_some(other) },
                    MOVE => Self::Move { key, from: other },
                    _ => Self::Lose { key, from: other },
                })
            }
            _ => None,
        }
    }

    pub(super) fn key(&self) -> &BlockKey {
        match self {
            Self::Put { key } | Self::Delete { key, .. } | Self::Move { key, .. } | Self::Lose { key, .. } => key,
        }
    }
}

/// Puts a head that names another record.
fn put_other(out: &mut BytesMut, kind: u8, (pos, len): (LogPos, u32), key: &BlockKey) {
    out.put_u8(kind);
    out.put_u64_le(pos.segment.0);
    out.put_u32_le(pos.offset);
    out.put_u32_le(len);
    out.extend_from_slice(key.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_and_others_are_refused() {
        let pos = LogPos { segment: SegmentId(7), offset: 72 };
        for key in [&b"k"[..], &[0xff; 255]] {
            let key = BlockKey::new(key).expect("a key");
            for change in [
                Change::Put { key: key.clone() },
                Change::Delete { key: key.clone(), removed: None },
                Change::Delete { key: key.clone(), removed: Some((pos, 99)) },
                Change::Move { key: key.clone(), from: (pos, 99) },
                Change::Lose { key: key.clone(), from: (pos, 99) },
            ] {
                assert_eq!(Change::decode(&change.encode()), Some(change.clone()));
                assert_eq!(change.key(), &key);
            }
        }
        for bad in [&b""[..], b"\x01", b"\x02too short", b"\x03too short", b"\x05key", &[1; 257]] {
            assert_eq!(Change::decode(bad), None);
            assert_eq!(Change::is_newer(bad), bad.first() == Some(&5), "{bad:?}");
        }
    }
}
