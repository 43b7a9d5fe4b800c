//! Scans: all keys, a page at a time, while others write.
//!
//! In user mode a scan goes along the log, and a record counts if it is the current one of its key; so the order is
//! that in which values were set, and a cursor is the place of a record. Forward nothing can be missed: a value that is set
//! meanwhile comes behind. Backward a key that is set, or moved by a compaction, after the scan passed its place or before
//! it got there has its record where the scan began or behind; so a cursor holds that place too, and from there the
//! scan goes on forward when it has come to the beginning. In sequential mode a scan goes along the numbers.
//!
//! ```text
//!  0  kind     u8, 1 a place, 2 a place of a scan backward that has come to the beginning, 3 a number
//!  1  place    u32 file and u32 offset of the last record; or u64, the last number
//!  9  began    u32 file and u32 offset where the log ended when the scan began; 0 with a number
//! ```

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use muxfs::{ErrorKind, Result, log::LogHead, media::SegmentId};

use crate::{
    outcome::{Cursor, Direction, Listed, Page, ScanLimit},
    record::{Head, Kind, Place},
    settings::Mode,
    store::{Found, Store, Want, unknown_record},
};

const PLACE: u8 = 1;
const WRAPPED: u8 = 2;
const NUMBER: u8 = 3;

/// Where a scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At this record, in a scan that began when the log ended at `began`.
    Record { place: Place, began: Place, is_wrapped: bool },
    /// At this number.
    Number(u64),
}

impl At {
    fn encode(self) -> Cursor {
        let mut cursor = [0; 17];
        match self {
            Self::Record { place, began, is_wrapped } => {
                cursor[0] = if is_wrapped { WRAPPED } else { PLACE };
                cursor[1..9].copy_from_slice(&place.to_bytes());
                cursor[9..].copy_from_slice(&began.to_bytes());
            }
            Self::Number(id) => {
                cursor[0] = NUMBER;
                cursor[1..9].copy_from_slice(&id.to_le_bytes());
            }
        }
        cursor
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let cursor: &Cursor = bytes.try_into().ok()?;
        let (first, second) = (cursor[1..9].try_into().ok()?, cursor[9..].try_into().ok()?);
        match cursor[0] {
            kind @ (PLACE | WRAPPED) => Some(Self::Record {
                place: Place::from_bytes(first)?,
                began: Place::from_bytes(second)?,
                is_wrapped: kind == WRAPPED,
            }),
            NUMBER if second == [0; 8] => Some(Self::Number(u64::from_le_bytes(first))),
            _ => None,
        }
    }
}

/// The page that is being filled.
struct Filling {
    keys: Vec<Listed>,
    limit: ScanLimit,
    began: Instant,
}

impl Filling {
    fn is_full(&self) -> bool {
        let count = self.keys.len();
        count > 0 && (count >= self.limit.count || self.began.elapsed() >= self.limit.time)
    }

    fn add(&mut self, head: Head, len: u32) {
        self.keys.push(Listed { key: head.key, len, timestamp: head.timestamp });
    }

    fn page(self, last: Option<At>) -> Page {
        match last {
            Some(at) if !self.keys.is_empty() => Page::Keys { next: at.encode(), keys: self.keys },
            _ => Page::End,
        }
    }
}

impl Store {
    /// The cursor of a key.
    pub(crate) fn cursor(&self, found: &Found) -> Cursor {
        match self.mode() {
            Mode::User => {
                let place = found.spot.place();
                At::Record { place, began: self.end(), is_wrapped: false }.encode()
            }
            Mode::Sequential => At::Number(found.name).encode(),
        }
    }

    /// Behind the last record.
    fn end(&self) -> Place {
        let state = self.lock();
        let (file, end) = state.ends.last_key_value().map_or((0, 64), |(file, end)| (*file, *end));
        Place { file, offset: end }
    }

    pub(crate) async fn scan(&self, direction: Direction, cursor: Option<&[u8]>, limit: ScanLimit) -> Result<Page> {
        let at = match cursor.map(At::decode) {
            None => None,
            Some(Some(at)) => Some(at),
            Some(None) => return Ok(Page::BadCursor),
        };
        let filling = Filling { keys: Vec::new(), limit, began: Instant::now() };
        let end = self.end();
        if self.mode() == Mode::Sequential {
            return match at {
                None => self.numbers(direction, None, filling).await,
                Some(At::Number(id)) => self.numbers(direction, Some(id), filling).await,
                Some(At::Record { .. }) => Ok(Page::BadCursor),
            };
        }
        // Records that only memory has are seen by nobody who goes along the files.
        self.log.write().await.map_err(|error| self.fault(error))?;
        match (direction, at) {
            (_, Some(At::Number(_))) => Ok(Page::BadCursor),
            (_, Some(At::Record { place, began, .. })) if place >= end || began > end => Ok(Page::BadCursor),
            (Direction::Forward, None) => {
                self.forward(Start::At(Place { file: 0, offset: 0 }), end, false, filling).await
            }
            (Direction::Forward, Some(At::Record { place, is_wrapped, .. })) => {
                self.forward(Start::Behind(place), end, is_wrapped, filling).await
            }
            (Direction::Backward, Some(At::Record { place, is_wrapped: true, .. })) => {
                self.forward(Start::Behind(place), end, true, filling).await
            }
            (Direction::Backward, None) => self.backward(end, end, end, filling).await,
            (Direction::Backward, Some(At::Record { place, began, .. })) => {
                self.backward(place, began, end, filling).await
            }
        }
    }

    async fn numbers(&self, direction: Direction, at: Option<u64>, mut filling: Filling) -> Result<Page> {
        let next_id = self.lock().next_id;
        if at.is_some_and(|at| at >= next_id) {
            return Ok(Page::BadCursor);
        }
        let mut last = None;
        let mut next = match direction {
            Direction::Forward => Some(at.map_or(0, |at| at + 1)),
            Direction::Backward => at.unwrap_or(next_id).checked_sub(1),
        };
        while let Some(id) = next.filter(|id| *id < next_id) {
            if let Some((head, len)) = self.number(id).await? {
                filling.add(head, len);
                last = Some(At::Number(id));
            }
            if filling.is_full() {
                break;
            }
            next = match direction {
                Direction::Forward => Some(id + 1),
                Direction::Backward => id.checked_sub(1),
            };
        }
        Ok(filling.page(last))
    }

    /// The head of the record of a number, and how long its value is.
    async fn number(&self, id: u64) -> Result<Option<(Head, u32)>> {
        if self.lock().find(id).is_empty() {
            return Ok(None);
        }
        let found = self.find(&id.to_le_bytes(), Want::Head).await?;
        Ok(found.map(|found| (found.head, found.value_len)))
    }

    /// From a place on, up to `end`.
    async fn forward(&self, start: Start, end: Place, is_wrapped: bool, mut filling: Filling) -> Result<Page> {
        let (Start::At(from) | Start::Behind(from)) = start;
        let files: Vec<(u32, u32)> =
            self.lock().ends.range(from.file..=end.file).map(|(file, end)| (*file, *end)).collect();
        let mut last = None;
        for (file, file_end) in files {
            let offset = if file == from.file { from.offset } else { 0 };
            let file_end = if file == end.file { file_end.min(end.offset) } else { file_end };
            let heads = self.log.heads_between(SegmentId(file.into()), offset, file_end).await;
            let mut heads = match heads {
                // What was current there has its record behind now.
                Err(_) if self.is_dropped(file) => continue,
                heads => heads.map_err(|error| self.fault(error))?,
            };
            let mut is_last_page = matches!(start, Start::Behind(_)) && file == from.file;
            loop {
                let head = match heads.next().await {
                    Ok(Some(head)) => head,
                    Ok(None) => break,
                    Err(_) if self.is_dropped(file) => break,
                    Err(error) if is_last_page && error.kind() == ErrorKind::Corrupt => return Ok(Page::BadCursor),
                    Err(error) => return Err(self.fault(error)),
                };
                if std::mem::take(&mut is_last_page) {
                    continue;
                }
                if let Some((place, head, len)) = self.current(&head)? {
                    filling.add(head, len);
                    last = Some(At::Record { place, began: end, is_wrapped });
                }
                if filling.is_full() {
                    return Ok(filling.page(last));
                }
            }
        }
        Ok(filling.page(last))
    }

    /// Before a record, down to the beginning; and then what came since the log ended at `began`.
    async fn backward(&self, from: Place, began: Place, end: Place, mut filling: Filling) -> Result<Page> {
        let files: Vec<(u32, u32)> = self.lock().ends.range(..=from.file).map(|(file, end)| (*file, *end)).collect();
        let mut last = None;
        for (file, file_end) in files.into_iter().rev() {
            let offsets = match self.offsets(file, file_end).await {
                Err(_) if self.is_dropped(file) => continue,
                offsets => offsets.map_err(|error| self.fault(error))?,
            };
            let mut before = offsets.len();
            if file == from.file {
                before = offsets.partition_point(|offset| *offset < from.offset);
                if from != end && offsets.get(before) != Some(&from.offset) {
                    return Ok(Page::BadCursor);
                }
            }
            for offset in offsets.iter().take(before).rev() {
                let head = match self.log.head(Place { file, offset: *offset }.pos()).await {
                    Err(_) if self.is_dropped(file) => break,
                    head => head.map_err(|error| self.fault(error))?,
                };
                if let Some((place, head, len)) = self.current(&head)? {
                    filling.add(head, len);
                    last = Some(At::Record { place, began, is_wrapped: false });
                }
                if filling.is_full() {
                    return Ok(filling.page(last));
                }
            }
        }
        if last.is_some() {
            return Ok(filling.page(last));
        }
        self.forward(Start::At(began), end, true, filling).await
    }

    /// The head of a record if it is the current one of its key, and how long its value is.
    fn current(&self, record: &LogHead) -> Result<Option<(Place, Head, u32)>> {
        let place = Place { file: u32::try_from(record.pos.segment.0).unwrap_or(u32::MAX), offset: record.pos.offset };
        let (change, _) = self.change(record).ok_or_else(|| self.fault(unknown_record(place)))?;
        let is_value = matches!(change.kind, Kind::Set | Kind::Move);
        if !is_value || !self.lock().has(change.name, place) {
            return Ok(None);
        }
        let head = Head::decode(&record.head).ok_or_else(|| unknown_record(place))?;
        Ok(Some((place, head, record.body_len)))
    }

    /// Where the records of a file begin; kept for the next page.
    async fn offsets(&self, file: u32, end: u32) -> Result<Arc<Vec<u32>>> {
        let kept = self.offsets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut offsets, from) = match kept {
            Some(kept) if kept.file == file && kept.end == end => return Ok(kept.list),
            Some(kept) if kept.file == file && kept.end < end => (kept.list, kept.end),
            _ => (Arc::default(), 0),
        };
        let list = Arc::make_mut(&mut offsets);
        let mut heads = self.log.heads_between(SegmentId(file.into()), from, end).await?;
        while let Some(head) = heads.next().await? {
            list.push(head.pos.offset);
        }
        let kept = Offsets { file, end, list: Arc::clone(&offsets) };
        *self.offsets.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(offsets)
    }

    fn is_dropped(&self, file: u32) -> bool {
        u64::from(file) < self.log.first().0
    }
}

/// Where a scan forward begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// With the record here.
    At(Place),
    /// Behind the record here, which was the last of the page before.
    Behind(Place),
}

/// Where the records of a file begin.
#[derive(Debug, Clone)]
pub(crate) struct Offsets {
    file: u32,
    /// Up to here.
    end: u32,
    list: Arc<Vec<u32>>,
}
