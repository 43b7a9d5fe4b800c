//! Runs: sorted files of index entries that never change.
//!
//! A run is one segment of the index media: pages of entries, a Bloom filter, the first fingerprint of every page, and
//! a footer. Filter and fingerprints are held in memory, about two bytes for an entry, so that a lookup reads one page
//! where there is something to find and seldom one where there is not. Spec: spec/segments.md #run.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::entry::{ENTRY_LEN, Entry};
use crate::{
    Error, ErrorKind, Result,
    bloom::Bloom,
    media::{Media, SegmentId},
};

pub(super) const PAGE_LEN: usize = 4096;
const PAGE_ENTRY_COUNT: usize = 204;
/// Where the checksum of a page stands; before it the number of entries.
const PAGE_CRC_AT: usize = PAGE_LEN - 4;
const FOOTER_LEN: usize = 64;
const MAGIC: [u8; 8] = *b"muxfsrun";
const VERSION: u16 = 1;

/// Written at once.
const WRITE_LEN: usize = 1 << 20;
/// Read at once where all of a run is read.
const SCAN_PAGE_COUNT: u32 = 64;
/// Read at once of filter and fences.
const LOAD_LEN: u32 = 4 << 20;

/// Bits of filter for an entry: with 7 probes in one cache line about one lookup in 200 for what is not there reads a
/// page in vain.
const FILTER_BITS_PER_ENTRY: u64 = 12;

/// A run that can be looked into.
#[derive(Debug)]
pub(super) struct Run {
    media: Arc<dyn Media>,
    pub(super) id: SegmentId,
    pub(super) entry_count: u64,
    filter: Bloom,
    fences: Vec<u64>,
}

impl Run {
    /// Reads what is held in memory of a run.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`, and the media's.
    pub(super) async fn open(media: Arc<dyn Media>, id: SegmentId, len: u64) -> Result<Self> {
        let footer_at = len.checked_sub(FOOTER_LEN as u64).ok_or_else(|| damaged(id))?;
        let mut footer = media.read_at(id, footer_at, 64).await?;
        if footer.len() != FOOTER_LEN || footer[..8] != MAGIC {
            return Err(damaged(id));
        }
        let crc = (&footer[60..]).get_u32_le();
        if crc != crc32c::crc32c(&footer[..60]) {
            return Err(damaged(id));
        }
        footer.advance(8);
        let version = footer.get_u16_le();
        if version != VERSION {
            return Err(Error::new(ErrorKind::Unsupported, super::INDEX_OP).at(id).because(format!(
                "the index has format {version}, this program knows {VERSION}: use the newer program that wrote it"
            )));
        }
        footer.advance(6);
        let (entry_count, page_count) = (footer.get_u64_le(), footer.get_u64_le());
        let (filter_len, tail_crc) = (footer.get_u64_le(), footer.get_u32_le());
        let pages_len = page_count.checked_mul(PAGE_LEN as u64);
        let tail_len = page_count.checked_mul(8).and_then(|fences| fences.checked_add(filter_len));
        let sound = pages_len.zip(tail_len).and_then(|(pages, tail)| pages.checked_add(tail)) == Some(footer_at);
        let Some(pages_len) = pages_len.filter(|_| sound) else {
            return Err(damaged(id));
        };
        let mut tail = Vec::new();
        while (tail.len() as u64) < footer_at - pages_len {
            let at = pages_len + tail.len() as u64;
            let want = u32::try_from(footer_at - at).unwrap_or(u32::MAX).min(LOAD_LEN);
            let part = media.read_at(id, at, want).await?;
            if part.is_empty() {
                return Err(damaged(id));
            }
            tail.extend_from_slice(&part);
        }
        if tail_crc != crc32c::crc32c(&tail) {
            return Err(damaged(id));
        }
        let fences = tail.split_off(usize::try_from(filter_len).map_err(|_| damaged(id))?);
        let fences = fences.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        tail.shrink_to_fit();
        let filter = Bloom::from_bytes(tail).ok_or_else(|| damaged(id))?;
        Ok(Self { media, id, entry_count, filter, fences })
    }

    /// The entries of a fingerprint, newest first.
    ///
    /// # Errors
    /// `Corrupt` if a page is damaged; the media's.
    pub(super) async fn find(&self, fingerprint: u64) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        if !self.filter.may_hold(fingerprint) {
            return Ok(found);
        }
        // Entries of one fingerprint may begin at the end of the page before the first that begins with it.
        let mut page = self.fences.partition_point(|first| *first < fingerprint).saturating_sub(1);
        while self.fences.get(page).is_some_and(|first| *first <= fingerprint) {
            let entries = self.read_pages(page, 1).await?;
            let start = entries.partition_point(|entry| entry.fingerprint < fingerprint);
            found.extend(entries[start..].iter().take_while(|entry| entry.fingerprint == fingerprint));
            page += 1;
        }
        Ok(found)
    }

    async fn read_pages(&self, page: usize, count: u32) -> Result<Vec<Entry>> {
        let at = page as u64 * PAGE_LEN as u64;
        let bytes = self.media.read_at(self.id, at, count * 4096).await?;
        let mut entries = Vec::with_capacity(bytes.len() / ENTRY_LEN);
        let (pages, rest) = bytes.as_chunks::<PAGE_LEN>();
        if pages.is_empty() || !rest.is_empty() {
            return Err(damaged(self.id));
        }
        for (index, bytes) in pages.iter().enumerate() {
            decode_page(self.id, (page + index) as u64, bytes, &mut entries).ok_or_else(|| damaged(self.id))?;
        }
        Ok(entries)
    }

    /// Reads all entries in order.
    pub(super) fn scan(self: &Arc<Self>) -> RunScan {
        RunScan { run: Arc::clone(self), page: 0, entries: Vec::new().into_iter() }
    }
}

/// All entries of a run, in order, a few pages at a time.
#[derive(Debug)]
pub(super) struct RunScan {
    run: Arc<Run>,
    page: usize,
    entries: std::vec::IntoIter<Entry>,
}

impl RunScan {
    pub(super) async fn next(&mut self) -> Result<Option<Entry>> {
        if let Some(entry) = self.entries.next() {
            return Ok(Some(entry));
        }
        let left = self.run.fences.len() - self.page;
        if left == 0 {
            return Ok(None);
        }
        let count = u32::try_from(left).unwrap_or(u32::MAX).min(SCAN_PAGE_COUNT);
        self.entries = self.run.read_pages(self.page, count).await?.into_iter();
        self.page += count as usize;
        Ok(self.entries.next())
    }
}

/// Writes a run: entries come in order.
#[derive(Debug)]
pub(super) struct RunWriter {
    media: Arc<dyn Media>,
    id: SegmentId,
    filter: Bloom,
    fences: Vec<u64>,
    entry_count: u64,
    page: BytesMut,
    buffer: BytesMut,
}

impl RunWriter {
    /// Begins a run of about `entry_count` entries, which sizes the filter.
    pub(super) fn new(media: Arc<dyn Media>, id: SegmentId, entry_count: u64) -> Self {
        Self {
            media,
            id,
            filter: Bloom::for_count(entry_count, FILTER_BITS_PER_ENTRY),
            fences: Vec::new(),
            entry_count: 0,
            page: BytesMut::with_capacity(PAGE_LEN),
            buffer: BytesMut::with_capacity(WRITE_LEN),
        }
    }

    pub(super) async fn push(&mut self, entry: Entry) -> Result<()> {
        if self.page.is_empty() {
            self.fences.push(entry.fingerprint);
        }
        self.filter.insert(entry.fingerprint);
        entry.encode(&mut self.page);
        self.entry_count += 1;
        if self.page.len() == PAGE_ENTRY_COUNT * ENTRY_LEN {
            self.end_page();
            if self.buffer.len() >= WRITE_LEN {
                self.media.append(self.id, self.buffer.split().freeze()).await?;
            }
        }
        Ok(())
    }

    /// Ends the run, durably.
    pub(super) async fn finish(mut self) -> Result<Run> {
        if !self.page.is_empty() {
            self.end_page();
        }
        let mut tail = BytesMut::with_capacity(self.filter.as_bytes().len() + 8 * self.fences.len() + FOOTER_LEN);
        tail.extend_from_slice(self.filter.as_bytes());
        for fence in &self.fences {
            tail.put_u64_le(*fence);
        }
        let crc = crc32c::crc32c(&tail);
        let mut footer = BytesMut::with_capacity(FOOTER_LEN);
        footer.extend_from_slice(&MAGIC);
        footer.put_u16_le(VERSION);
        footer.put_bytes(0, 6);
        footer.put_u64_le(self.entry_count);
        footer.put_u64_le(self.fences.len() as u64);
        footer.put_u64_le(self.filter.as_bytes().len() as u64);
        footer.put_u32_le(crc);
        footer.put_bytes(0, 16);
        footer.put_u32_le(crc32c::crc32c(&footer));
        let parts: Vec<Bytes> = vec![self.buffer.freeze(), tail.freeze(), footer.freeze()];
        self.media.append_vectored(self.id, parts).await?;
        self.media.sync(self.id).await?;
        let Self { media, id, entry_count, filter, fences, .. } = self;
        Ok(Run { media, id, entry_count, filter, fences })
    }

    fn end_page(&mut self) {
        let count = self.page.len() / ENTRY_LEN;
        self.page.resize(PAGE_LEN - 8, 0);
        // At most 204.
        self.page.put_u32_le(u32::try_from(count).unwrap_or(0));
        let crc = page_crc(self.id, self.fences.len() as u64 - 1, &self.page);
        self.page.put_u32_le(crc);
        self.buffer.unsplit(self.page.split());
        self.page.reserve(PAGE_LEN);
    }
}

/// Binds a page to its place.
fn page_crc(id: SegmentId, page: u64, bytes: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&id.0.to_le_bytes()), &page.to_le_bytes());
    crc32c::crc32c_append(place, bytes)
}

fn decode_page(id: SegmentId, page: u64, bytes: &[u8; PAGE_LEN], entries: &mut Vec<Entry>) -> Option<()> {
    let (content, mut crc) = bytes.split_at(PAGE_CRC_AT);
    if crc.get_u32_le() != page_crc(id, page, content) {
        return None;
    }
    let count = usize::try_from((&content[PAGE_CRC_AT - 4..]).get_u32_le()).ok()?;
    let encoded = content.get(..count.checked_mul(ENTRY_LEN)?)?;
    entries.extend(encoded.chunks_exact(ENTRY_LEN).filter_map(Entry::decode));
    Some(())
}

fn damaged(id: SegmentId) -> Error {
    Error::new(ErrorKind::Corrupt, super::INDEX_OP).at(id).because("a run of the index is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{log::LogPos, media::MemMedia};

    fn entry(fingerprint: u64, offset: u32) -> Entry {
        Entry {
            fingerprint,
            pos: LogPos { segment: SegmentId(3), offset },
            len: offset / 2,
            deleted: offset.is_multiple_of(3),
        }
    }

    async fn run(entries: &[Entry]) -> (Arc<dyn Media>, Run) {
        let media: Arc<dyn Media> = Arc::new(MemMedia::default());
        let mut writer = RunWriter::new(Arc::clone(&media), SegmentId(9), entries.len() as u64);
        for entry in entries {
            writer.push(*entry).await.expect("push");
        }
        let run = writer.finish().await.expect("finish");
        (media, run)
    }

    #[tokio::test]
    async fn entries_are_found_after_opening_even_where_many_share_a_fingerprint() {
        let spread = |n: u64| n.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let mut entries: Vec<_> = (1..5000).map(|n| entry(spread(n), 8)).collect();
        entries.extend((0..1000).map(|n| entry(spread(7), n)));
        entries.sort_by_key(Entry::order);
        let (media, written) = run(&entries).await;
        let len = media.segments().await.expect("segments")[0].len;
        let opened = Arc::new(Run::open(Arc::clone(&media), SegmentId(9), len).await.expect("open"));
        for run in [&written, &*opened] {
            assert_eq!(run.find(spread(7)).await.expect("find").len(), 1001);
            assert_eq!(run.find(spread(8)).await.expect("find"), [entry(spread(8), 8)]);
            assert_eq!(run.find(spread(5001)).await.expect("find"), []);
        }
        let mut scan = opened.scan();
        let mut scanned = Vec::new();
        while let Some(entry) = scan.next().await.expect("scan") {
            scanned.push(entry);
        }
        assert_eq!(scanned, entries);
    }

    #[tokio::test]
    async fn the_filter_keeps_most_strangers_from_the_disk() {
        let spread = |n: u64| n.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(17);
        let mut entries: Vec<_> = (0..20_000).map(|n| entry(spread(n), 8)).collect();
        entries.sort_by_key(Entry::order);
        let (_, run) = run(&entries).await;
        let passed = (20_000..60_000).filter(|n| run.filter.may_hold(spread(*n))).count();
        assert!(passed < 800, "{passed} of 40000 strangers pass");
    }
}
