//! Index files: what the records of a closed data file say, without their keys and values.
//!
//! One for each data file, of the same number. They are derived: one that is missing or damaged is built again from its
//! data file. The entries are sorted by what they do to the table, so that applying them goes through memory in order.
//! Spec: spec/zdb.md, "Index files".
//!
//! ```text
//!  0  magic        "muxfszdi"
//!  8  version      u16, 1
//! 10  mode         u8, 0 user, 1 sequential
//! 11  zeros        1 byte
//! 12  identity     12 bytes, of the log
//! 24  file         u32, its data file
//! 28  before       u32, the data file before it; 2^32 - 1 if there is none
//! 32  end          u32, behind the last record
//! 36  count        u32, of entries
//! 40  next id      u64, the highest in any record
//! 48  entries      32 bytes each
//!     crc          u32, CRC-32C of all before it
//!
//!  0  name         u64, the hash of the key or its number
//!  8  offset       u32, of the record
//! 12  value length u32
//! 16  before       u32 file and u32 offset of the record that it takes the place of; 0 if there is none
//! 24  length       u32, of the value there
//! 28  kind         u8, as in records
//! 29  key length   u8
//! 30  zeros        2 bytes
//! ```

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use muxfs::{
    ErrorKind, Result,
    media::{Media, SegmentId},
};

use crate::{
    record::{Kind, Place},
    settings::Mode,
    state::Change,
};

const MAGIC: [u8; 8] = *b"muxfszdi";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 48;
const ENTRY_LEN: usize = 32;
const NO_FILE: u32 = u32::MAX;
/// Written at once.
const WRITE_LEN: usize = 4 << 20;

/// What an index file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexFile {
    pub(crate) mode: Mode,
    pub(crate) identity: [u8; 12],
    pub(crate) file: u32,
    /// The data file before it.
    pub(crate) before: Option<u32>,
    /// Behind the last record.
    pub(crate) end: u32,
    pub(crate) next_id: u64,
    /// In the order of their names; those of one name in the order of the file.
    pub(crate) entries: Vec<Change>,
}

impl IndexFile {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_LEN + self.entries.len() * ENTRY_LEN + 4);
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_slice(&[mode_code(self.mode), 0]);
        bytes.put_slice(&self.identity);
        bytes.put_u32_le(self.file);
        bytes.put_u32_le(self.before.unwrap_or(NO_FILE));
        bytes.put_u32_le(self.end);
        // A file of 4 GiB has fewer records.
        bytes.put_u32_le(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        bytes.put_u64_le(self.next_id);
        for entry in &self.entries {
            bytes.put_u64_le(entry.name);
            bytes.put_u32_le(entry.place.offset);
            bytes.put_u32_le(entry.value_len);
            let (place, len) = entry.before.unwrap_or((Place { file: 0, offset: 0 }, 0));
            bytes.put_slice(&place.to_bytes());
            bytes.put_u32_le(len);
            bytes.put_slice(&[entry.kind.code(), entry.key_len, 0, 0]);
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.put_u32_le(crc);
        bytes.freeze()
    }

    /// `None` for anything but what `encode` gave.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, crc) = bytes.split_last_chunk::<4>()?;
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        if header[..8] != MAGIC || u32::from_le_bytes(*crc) != crc32c::crc32c(bytes) {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if u16::from_le_bytes([header[8], header[9]]) != VERSION || header[11] != 0 {
            return None;
        }
        let (file, before, next_id) = (u32_at(24), u32_at(28), u64::from(u32_at(40)) | u64::from(u32_at(44)) << 32);
        let (entries, []) = rest.as_chunks::<ENTRY_LEN>() else { return None };
        if entries.len() != u32_at(36) as usize {
            return None;
        }
        let entries: Option<Vec<Change>> = entries.iter().map(|entry| decode_entry(entry, file, next_id)).collect();
        Some(Self {
            mode: if header[10] == mode_code(Mode::User) { Mode::User } else { Mode::Sequential },
            identity: *header[12..].first_chunk()?,
            file,
            before: (before != NO_FILE).then_some(before),
            end: u32_at(32),
            next_id,
            entries: entries?,
        })
    }

    /// Reads the index file of a data file; `None` if it is damaged.
    pub(crate) async fn read(media: &Arc<dyn Media>, file: u32, len: u64) -> Result<Option<Self>> {
        let Ok(len) = u32::try_from(len) else { return Ok(None) };
        let bytes = match media.read_at(SegmentId(file.into()), 0, len).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        Ok(Self::decode(&bytes).filter(|index| index.file == file))
    }

    /// Writes it, durably, in the place of one that was there.
    pub(crate) async fn write(&self, media: &Arc<dyn Media>) -> Result<()> {
        let segment = SegmentId(self.file.into());
        media.remove(segment).await?;
        let mut bytes = self.encode();
        while !bytes.is_empty() {
            media.append(segment, bytes.split_to(bytes.len().min(WRITE_LEN))).await?;
        }
        media.sync(segment).await
    }
}

fn mode_code(mode: Mode) -> u8 {
    match mode {
        Mode::User => 0,
        Mode::Sequential => 1,
    }
}

fn decode_entry(bytes: &[u8; ENTRY_LEN], file: u32, next_id: u64) -> Option<Change> {
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let before = Place { file: u32_at(16), offset: u32_at(20) };
    Some(Change {
        kind: Kind::of(bytes[28])?,
        name: u64::from(u32_at(0)) | u64::from(u32_at(4)) << 32,
        place: Place { file, offset: u32_at(8) },
        key_len: bytes[29],
        value_len: u32_at(12),
        before: (before.offset != 0).then_some((before, u32_at(24))),
        next_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> IndexFile {
        let entry = |name: u64, kind| Change {
            kind,
            name,
            place: Place { file: 9, offset: 64 + 8 * u32::try_from(name).expect("small") },
            key_len: 3,
            value_len: 77,
            before: name.is_multiple_of(2).then_some((Place { file: 1, offset: 72 }, 5)),
            next_id: 12,
        };
        IndexFile {
            mode: Mode::Sequential,
            identity: [7; 12],
            file: 9,
            before: Some(8),
            end: 4096,
            next_id: 12,
            entries: vec![entry(1, Kind::Set), entry(2, Kind::Delete), entry(3, Kind::Move)],
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        assert_eq!(IndexFile::decode(&index().encode()), Some(index()));
    }

    #[test]
    fn any_damage_is_found() {
        let bytes = index().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(IndexFile::decode(&bad), None);
        }
        for len in 0..bytes.len() {
            assert_eq!(IndexFile::decode(&bytes[..len]), None);
        }
    }
}
