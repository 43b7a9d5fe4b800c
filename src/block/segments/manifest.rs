//! The manifest: which runs make up the index, how much of the log they cover, and what is counted.
//!
//! One segment of the index media, written whole and made durable before the one before it is removed; the highest
//! good one counts. Spec: spec/segments.md #manifest.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    Error, ErrorKind, Result,
    log::{LogPos, Salt, padded},
    media::SegmentId,
};

const MAGIC: [u8; 8] = *b"muxfsidx";
const VERSION: u16 = 1;
/// A manifest is read whole: 64 MiB hold the counts of 2.5 million segments.
pub(super) const MANIFEST_LEN_MAX: u64 = 64 << 20;

/// The bytes of a segment of blocks by what became of them; frames with their padding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Of blocks that are there.
    pub(super) live: u64,
    /// Of blocks that were deleted, and of the records that say so.
    pub(super) dead: u64,
}

/// What is counted while records are put and deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) block_count: u64,
    pub(super) usage: BTreeMap<SegmentId, Usage>,
    /// The newest record and the checksum of its frame's header: an index of another log has another.
    pub(super) last: Option<(LogPos, u32)>,
}

impl Counts {
    /// Counts the record at a place, with a frame of this length, as dead; whether it was counted before. It was not if
    /// its segment was dropped: no segment of the log is without a record that is counted.
    pub(super) fn outdate(&mut self, (pos, len): (LogPos, u32)) -> bool {
        let Some(usage) = self.usage.get_mut(&pos.segment) else { return false };
        let len = u64::from(padded(len));
        usage.live = usage.live.saturating_sub(len);
        usage.dead += len;
        true
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The index knows every record before this place.
    pub(super) covered: LogPos,
    pub(super) counts: Counts,
    /// The oldest first.
    pub(super) runs: Vec<SegmentId>,
    /// The log's: without it nothing could be read of a log whose headers are damaged.
    pub(super) salt: Salt,
}

impl Manifest {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.extend_from_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u32_le(self.covered.offset);
        out.put_u64_le(self.covered.segment.0);
        let (last, crc) = self.counts.last.unwrap_or((LogPos { segment: SegmentId(u64::MAX), offset: 0 }, 0));
        out.put_u64_le(last.segment.0);
        out.put_u32_le(last.offset);
        out.put_u32_le(crc);
        out.put_u64_le(self.counts.block_count);
        out.put_u64_le(self.runs.len() as u64);
        out.put_u64_le(self.counts.usage.len() as u64);
        out.extend_from_slice(self.salt.as_bytes());
        out.put_u32_le(0);
        for run in &self.runs {
            out.put_u64_le(run.0);
        }
        for (segment, usage) in &self.counts.usage {
            out.put_u64_le(segment.0);
            out.put_u64_le(usage.live);
            out.put_u64_le(usage.dead);
        }
        out.put_u32_le(crc32c::crc32c(&out));
        out.freeze()
    }

    /// Whether a file that begins so is meant to be a manifest.
    pub(super) fn begins(bytes: &[u8]) -> bool {
        bytes == MAGIC
    }

    /// `None` if the bytes are no whole manifest.
    ///
    /// # Errors
    /// `Unsupported` for a newer version.
    pub(super) fn decode(bytes: &Bytes) -> Result<Option<Self>> {
        let Some((content, crc)) = bytes.split_last_chunk::<4>() else { return Ok(None) };
        if !content.starts_with(&MAGIC) || u32::from_le_bytes(*crc) != crc32c::crc32c(content) {
            return Ok(None);
        }
        let mut rest = &content[MAGIC.len()..];
        let version = rest.try_get_u16_le().unwrap_or(0);
        if version != VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "segments.open").because(format!(
                "the index has format {version}, this program knows {VERSION}: use the newer program that wrote it"
            )));
        }
        Ok(Self::decode_content(rest).ok())
    }

    fn decode_content(mut rest: &[u8]) -> Result<Self, bytes::TryGetError> {
        rest.try_get_u16_le()?;
        let offset = rest.try_get_u32_le()?;
        let covered = LogPos { segment: SegmentId(rest.try_get_u64_le()?), offset };
        let last = LogPos { segment: SegmentId(rest.try_get_u64_le()?), offset: rest.try_get_u32_le()? };
        let crc = rest.try_get_u32_le()?;
        let block_count = rest.try_get_u64_le()?;
        let (run_count, usage_count) = (rest.try_get_u64_le()?, rest.try_get_u64_le()?);
        let mut salt = [0; Salt::LEN];
        rest.try_copy_to_slice(&mut salt)?;
        rest.try_get_u32_le()?;
        let mut runs = Vec::new();
        for _ in 0..run_count {
            runs.push(SegmentId(rest.try_get_u64_le()?));
        }
        let mut usage = BTreeMap::new();
        for _ in 0..usage_count {
            let segment = SegmentId(rest.try_get_u64_le()?);
            usage.insert(segment, Usage { live: rest.try_get_u64_le()?, dead: rest.try_get_u64_le()? });
        }
        let last = (last.segment.0 != u64::MAX).then_some((last, crc));
        Ok(Self { covered, counts: Counts { block_count, usage, last }, runs, salt: Salt::new(salt) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_and_any_flip_is_seen() {
        let pos = |segment, offset| LogPos { segment: SegmentId(segment), offset };
        let usage = [(SegmentId(1), Usage { live: 5, dead: 7 }), (SegmentId(4), Usage::default())];
        let counts = Counts { block_count: 3, usage: usage.into(), last: Some((pos(4, 96), 17)) };
        let manifest =
            Manifest { covered: pos(4, 120), counts, runs: vec![SegmentId(2), SegmentId(8)], salt: Salt::new([7; 12]) };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).expect("known version"), Some(manifest));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Manifest::decode(&bad.into()).expect("not even a version"), None);
        }
        for len in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes.slice(..len)).expect("not even a version"), None);
        }
    }
}
