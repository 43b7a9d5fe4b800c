//! The journal records that were read last: a part of a record cannot be read by itself.
//!
//! A record's checksum is over all of it, so that reading 4 KiB of one of 1 MiB reads and checks the whole. Whoever
//! reads a file page by page, or one that was overwritten here and there, asks for the same records again and again: a
//! few of them are kept. A place in the journal never holds another record, so nothing kept is ever outdated.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::log::LogPos;

/// The most that is kept, in bytes: several of the long records that writes make.
const RECENT_LEN_MAX: usize = 8 << 20;
/// The most records that are kept: looked through one by one.
const RECENT_COUNT_MAX: usize = 32;

/// The data of the records that were read last.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// The one asked for last is the last.
    records: Mutex<Vec<(LogPos, Bytes)>>,
}

impl Recent {
    /// The body of the record at `pos`, if it is kept.
    pub(super) fn get(&self, pos: LogPos) -> Option<Bytes> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let at = records.iter().rposition(|(kept, _)| *kept == pos)?;
        let record = records.remove(at);
        let body = record.1.clone();
        records.push(record);
        Some(body)
    }

    /// Keeps a record's body, and forgets those that were not asked for the longest.
    pub(super) fn keep(&self, pos: LogPos, body: &Bytes) {
        if body.len() > RECENT_LEN_MAX {
            return;
        }
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.iter().any(|(kept, _)| *kept == pos) {
            return;
        }
        records.push((pos, body.clone()));
        let mut len: usize = records.iter().map(|(_, body)| body.len()).sum();
        let mut count = records.len();
        records.retain(|(_, body)| {
            let stays = count <= RECENT_COUNT_MAX && len <= RECENT_LEN_MAX;
            if !stays {
                count -= 1;
                len -= body.len();
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::SegmentId;

    #[test]
    fn the_latest_are_kept_and_no_more_than_there_is_room_for() {
        let recent = Recent::default();
        let pos = |offset| LogPos { segment: SegmentId(1), offset };
        for offset in 0..100 {
            recent.keep(pos(offset), &Bytes::from_static(b"body"));
            assert!(recent.get(pos(0)).is_some(), "asked for again and again, it stays");
        }
        assert_eq!(recent.records.lock().expect("no panic").len(), RECENT_COUNT_MAX);
        assert!(recent.get(pos(99)).is_some() && recent.get(pos(50)).is_none());
        recent.keep(pos(200), &vec![0; RECENT_LEN_MAX + 1].into());
        assert!(recent.get(pos(200)).is_none() && recent.get(pos(0)).is_some(), "too long to keep");
        recent.keep(pos(201), &vec![0; RECENT_LEN_MAX].into());
        assert_eq!(recent.records.lock().expect("no panic").len(), 1, "it takes the room of all others");
    }
}
