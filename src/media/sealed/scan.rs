//! Finding the records of a sealed segment, and where a crash cut it.
//!
//! Plain offsets say nothing about places on the inner media, so opening walks the headers once. Some places on the way
//! are kept, one for every [`SPACING`] bytes at most: from the nearest a read walks on. Bodies are opened here only past
//! where the segment surely was durable: what is bad there is the torn tail of a crash. A bad record before that place is
//! damage; and behind a bad header every later record is looked for, since any may say that the segment was durable here.

use bytes::Bytes;

use super::record::{ALIGN, Opener, RECORD_HEADER_LEN, RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::{
    Error, ErrorKind, Result, SecretKey,
    media::{Media, SegmentId},
};

/// How far apart the places are that are kept, in bytes of the inner media: they take 1/2048 of what it holds.
const SPACING: u64 = 32 * 1024;
/// Read at once, at first: a record that is skipped costs no more.
const WINDOW_LEN_MIN: u32 = 4096;
/// Read at once where records follow one another closely.
const WINDOW_LEN_MAX: u32 = 256 * 1024;

/// The same place in the plain segment and on the inner media, where a record begins or the segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) plain: u64,
    pub(super) inner: u64,
}

/// Where the records of a segment are.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Ascending; the first record's is the first.
    places: Vec<Place>,
    end: Place,
}

impl Table {
    pub(super) fn end(&self) -> Place {
        self.end
    }

    /// Adds the record at the end.
    pub(super) fn push(&mut self, len: u32, record_len: usize) {
        if self.places.last().is_none_or(|last| self.end.inner - last.inner >= SPACING) {
            self.places.push(self.end);
        }
        self.end.plain += u64::from(len);
        self.end.inner += record_len as u64;
    }

    /// Begins behind the header of the segment.
    pub(super) fn begin(&mut self) {
        self.end.inner = SEGMENT_HEADER_LEN as u64;
    }

    fn cut(&mut self, end: Place) {
        self.places.retain(|place| place.inner < end.inner);
        self.end = end;
    }

    /// The nearest known places around `from..to` of the plain segment.
    pub(super) fn around(&self, from: u64, to: u64) -> (Place, Place) {
        let behind = self.places.partition_point(|place| place.plain <= from);
        let first = behind.checked_sub(1).and_then(|index| self.places.get(index)).copied().unwrap_or(self.end);
        let last = self.places.partition_point(|place| place.plain < to);
        (first, self.places.get(last).copied().unwrap_or(self.end))
    }
}

/// Reads an inner segment forward, in pieces.
pub(super) struct Window<'a> {
    media: &'a dyn Media,
    segment: SegmentId,
    bytes: Bytes,
    start: u64,
    len: u32,
}

impl<'a> Window<'a> {
    pub(super) fn new(media: &'a dyn Media, segment: SegmentId) -> Self {
        Self { media, segment, bytes: Bytes::new(), start: 0, len: WINDOW_LEN_MIN }
    }

    /// For a reader that goes on for `len` bytes.
    pub(super) fn sized(mut self, len: u64) -> Self {
        self.len = u32::try_from(len).unwrap_or(u32::MAX).clamp(WINDOW_LEN_MIN, WINDOW_LEN_MAX);
        self
    }

    /// `len` bytes at `at`; fewer only at the end.
    pub(super) async fn at(&mut self, at: u64, len: usize) -> Result<Bytes> {
        let end = self.start + self.bytes.len() as u64;
        if at < self.start || at.saturating_add(len as u64) > end {
            if !self.bytes.is_empty() {
                self.len = if at <= end { (self.len * 2).min(WINDOW_LEN_MAX) } else { WINDOW_LEN_MIN };
            }
            let want = self.len.max(u32::try_from(len).unwrap_or(u32::MAX));
            self.bytes = self.media.read_at(self.segment, at, want).await?;
            self.start = at;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(self.bytes.slice(from..from.saturating_add(len).min(self.bytes.len())))
    }
}

/// What opening a segment finds.
pub(super) struct Scanned {
    pub(super) table: Table,
    /// How far it was durable, as far as its records tell.
    pub(super) synced: u64,
    /// Whether bytes follow that are no part of it.
    pub(super) is_cut: bool,
}

/// Walks a segment whose inner one, at `place`, is `len` bytes long.
///
/// # Errors
/// `Corrupt`, `BadKey`, `Unsupported`, naming the segment; the media's own.
pub(super) async fn scan(
    media: &dyn Media,
    key: &SecretKey,
    segment: SegmentId,
    place: SegmentId,
    len: u64,
) -> Result<Scanned> {
    let mut window = Window::new(media, place);
    let mut opener = Opener::new(key, segment);
    let (mut table, mut synced) = (Table::default(), 0);
    if len == 0 {
        return Ok(Scanned { table, synced, is_cut: false });
    }
    let header = SegmentHeader::decode(key, segment, &window.at(0, SEGMENT_HEADER_LEN).await?);
    let mut is_cut = header.map_err(|error| error.at(segment))? == SegmentHeader::Absent;
    if !is_cut {
        table.begin();
    }
    while !is_cut && table.end.inner < len {
        let at = table.end.inner;
        match opener.open_header(at, &window.at(at, RECORD_HEADER_LEN).await?) {
            Some(header) if header.offset == table.end.plain && at + header.record_len() as u64 <= len => {
                synced = header.synced.max(synced);
                table.push(header.len, header.record_len());
            }
            _ => is_cut = true,
        }
    }
    if is_cut {
        search(&mut window, &mut opener, segment, table.end, len).await?;
    }
    is_cut |= cut_torn(&mut table, &mut Window::new(media, place), &mut opener, segment, synced).await?;
    Ok(Scanned { table, synced, is_cut })
}

/// Looks behind `bad` for a record that says that the segment was durable past it.
async fn search(
    window: &mut Window<'_>,
    opener: &mut Opener<'_>,
    segment: SegmentId,
    bad: Place,
    len: u64,
) -> Result<()> {
    let mut at = bad.inner.max(SEGMENT_HEADER_LEN as u64);
    while at < len {
        let bytes = window.at(at, RECORD_HEADER_LEN).await?;
        // Sectors that never arrived are mostly blank: a salt is not.
        let is_blank = bytes.iter().all(|byte| *byte == bytes[0]);
        let header = if is_blank { None } else { opener.find_header(&bytes) };
        if header.is_some_and(|header| header.synced > bad.plain) {
            return Err(corrupt(segment, bad));
        }
        at += ALIGN;
    }
    Ok(())
}

/// Cuts the segment at the first record past `synced` whose body is bad; whether there is one.
async fn cut_torn(
    table: &mut Table,
    window: &mut Window<'_>,
    opener: &mut Opener<'_>,
    segment: SegmentId,
    synced: u64,
) -> Result<bool> {
    let mut at = table.around(synced, synced).0;
    while at.inner < table.end.inner {
        let bytes = window.at(at.inner, RECORD_HEADER_LEN).await?;
        let header = opener.open_header(at.inner, &bytes).ok_or_else(|| corrupt(segment, at))?;
        if header.offset >= synced && open(window, opener, at, header).await?.is_none() {
            table.cut(at);
            return Ok(true);
        }
        at = Place { plain: header.end(), inner: at.inner + header.record_len() as u64 };
    }
    Ok(false)
}

/// The bytes of the record at `at`; `None` if they fail verification.
pub(super) async fn open(
    window: &mut Window<'_>,
    opener: &mut Opener<'_>,
    at: Place,
    header: RecordHeader,
) -> Result<Option<Vec<u8>>> {
    let record = window.at(at.inner, header.record_len()).await?;
    let Some((front, body)) = record.split_at_checked(RECORD_HEADER_LEN) else { return Ok(None) };
    let mut body = body.to_vec();
    let Some(sealer) = opener.sealer(front) else { return Ok(None) };
    let len = sealer.open_body(header, &mut body).map(<[u8]>::len);
    Ok(len.map(|len| {
        body.truncate(len);
        body
    }))
}

pub(super) fn corrupt(segment: SegmentId, at: Place) -> Error {
    let place = format!("{segment} offset {} (sealed: offset {})", at.plain, at.inner);
    Error::new(ErrorKind::Corrupt, "sealed_media").at(place).because("a record fails verification")
}
