//! The files of 0-db 2, as far as an import reads them: little-endian, without padding.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::{VALUE_LEN_MAX, settings::Mode};

const READ_LEN: usize = 1 << 20;

/// What stands in a file, or what is wrong with it.
type Found<T> = Result<T, String>;

/// The files of a directory that are named by a letter and a number, by number.
pub(super) fn numbered(dir: &Path, letter: char) -> io::Result<BTreeMap<u32, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(letter)).and_then(|digits| digits.parse().ok());
        if let Some(number) = number {
            files.insert(number, entry.path());
        }
    }
    Ok(files)
}

/// What is set about a namespace: the file `zdb-namespace`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) name: Vec<u8>,
    pub(super) password: Option<Bytes>,
    pub(super) maxsize: u64,
    pub(super) public: bool,
    pub(super) worm: bool,
}

impl Descriptor {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<15>()?;
        let [v0, v1, v2, v3, name_len, password_len, maxsize @ .., flags] = *header;
        if u32::from_le_bytes([v0, v1, v2, v3]) != 1 {
            return None;
        }
        let (name, rest) = rest.split_at_checked(name_len.into())?;
        let password = rest.get(..password_len.into())?;
        Some(Self {
            name: name.into(),
            password: (password_len > 0).then(|| Bytes::copy_from_slice(password)),
            maxsize: u64::from_le_bytes(maxsize),
            public: flags & 1 != 0,
            worm: flags & 2 != 0,
        })
    }
}

/// Reads a file from its beginning on and counts.
#[derive(Debug)]
struct Counted {
    file: BufReader<File>,
    offset: u64,
    len: u64,
}

impl Counted {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file: BufReader::with_capacity(READ_LEN, file), offset: 0, len })
    }

    /// So many bytes; `None` if there are fewer.
    fn take(&mut self, len: usize) -> io::Result<Option<Vec<u8>>> {
        // A length that a file claims takes no memory that the file has not.
        if len as u64 > self.len.saturating_sub(self.offset) {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        self.file.read_exact(&mut bytes)?;
        self.offset += len as u64;
        Ok(Some(bytes))
    }

    fn is_at_end(&self) -> bool {
        self.offset >= self.len
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// An entry of a data file.
#[derive(Debug)]
pub(super) struct DataEntry {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) crc: u32,
    pub(super) timestamp: u32,
    pub(super) is_deleted: bool,
}

/// A data file, `d0` and on.
#[derive(Debug)]
pub(super) struct DataFile(Counted);

impl DataFile {
    const HEADER_LEN: usize = 28;
    const VERSION: u32 = 3;
    const ENTRY_LEN: usize = 18;

    pub(super) fn open(path: &Path) -> io::Result<Found<Self>> {
        let mut file = Counted::open(path)?;
        Ok(match file.take(Self::HEADER_LEN)? {
            Some(header) if header.starts_with(b"DAT0") && u32_at(&header, 4) == Self::VERSION => Ok(Self(file)),
            _ => Err("it is no data file of version 3".into()),
        })
    }

    pub(super) fn offset(&self) -> u64 {
        self.0.offset
    }

    pub(super) fn next(&mut self) -> io::Result<Found<Option<DataEntry>>> {
        const CUT: &str = "the last entry is cut short";
        if self.0.is_at_end() {
            return Ok(Ok(None));
        }
        let Some(header) = self.0.take(Self::ENTRY_LEN)? else { return Ok(Err(CUT.into())) };
        let (key_len, flags) = (usize::from(header[0]), header[13]);
        let value_len = u32_at(&header, 1) as usize;
        if value_len > VALUE_LEN_MAX {
            return Ok(Err(format!("it has a value of {value_len} bytes, more than there can be")));
        }
        let Some(key) = self.0.take(key_len)? else { return Ok(Err(CUT.into())) };
        let Some(value) = self.0.take(value_len)? else { return Ok(Err(CUT.into())) };
        Ok(Ok(Some(DataEntry {
            key: key.into(),
            value: value.into(),
            crc: u32_at(&header, 9),
            timestamp: u32_at(&header, 14),
            is_deleted: flags & 1 != 0,
        })))
    }
}

/// An item of an index file.
#[derive(Debug)]
pub(super) struct IndexItem {
    pub(super) key: Vec<u8>,
    pub(super) len: u32,
    pub(super) timestamp: u32,
    pub(super) is_deleted: bool,
}

/// An index file, `i0` and on.
#[derive(Debug)]
pub(super) struct IndexFile {
    file: Counted,
    pub(super) mode: Mode,
}

impl IndexFile {
    const HEADER_LEN: usize = 29;
    const VERSION: u32 = 4;
    const ITEM_LEN: usize = 34;

    pub(super) fn open(path: &Path) -> io::Result<Found<Self>> {
        let mut file = Counted::open(path)?;
        let header = file.take(Self::HEADER_LEN)?.unwrap_or_default();
        if !header.starts_with(b"IDX0") || u32_at(&header, 4) != Self::VERSION {
            return Ok(Err("it is no index file of version 4".into()));
        }
        Ok(match header.last() {
            Some(0) => Ok(Self { file, mode: Mode::User }),
            Some(1) => Ok(Self { file, mode: Mode::Sequential }),
            _ => Err("it is of a mode that is not known".into()),
        })
    }

    pub(super) fn offset(&self) -> u64 {
        self.file.offset
    }

    pub(super) fn next(&mut self) -> io::Result<Found<Option<IndexItem>>> {
        const CUT: &str = "the last item is cut short";
        if self.file.is_at_end() {
            return Ok(Ok(None));
        }
        let Some(header) = self.file.take(Self::ITEM_LEN)? else { return Ok(Err(CUT.into())) };
        let Some(key) = self.file.take(header[0].into())? else { return Ok(Err(CUT.into())) };
        let (len, timestamp, is_deleted) = (u32_at(&header, 5), u32_at(&header, 18), header[13] & 1 != 0);
        Ok(Ok(Some(IndexItem { key, len, timestamp, is_deleted })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_read() {
        let bytes = b"\x01\0\0\0\x05\x06\x80\x96\x98\0\0\0\0\0\x05user1secret";
        let descriptor = Descriptor {
            name: b"user1".into(),
            password: Some("secret".into()),
            maxsize: 10_000_000,
            public: true,
            worm: false,
        };
        assert_eq!(Descriptor::decode(bytes), Some(descriptor));
        for len in 0..bytes.len() {
            assert_eq!(Descriptor::decode(&bytes[..len]), None);
        }
        assert_eq!(Descriptor::decode(b"\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), None);
    }

    /// The values are those in data files that 0-db 2.0.7 wrote.
    #[test]
    fn the_checksum_is_that_of_0_db() {
        for (value, crc) in [("world", 0x74d8_f77b), ("world2", 0x39bd_1e87), ("v", 0x5739_b3e5), ("", 0)] {
            assert_eq!(super::super::crc(value.as_bytes()), crc, "{value}");
        }
    }
}
