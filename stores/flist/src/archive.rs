//! The container of an `.flist`: gzip of tar, of which one file is the database.
//!
//! Only that file is looked for, by its name; everything else is passed over, so nothing of an archive ever chooses where
//! it is written. Spec: spec/flist.md #container.

use std::io::{self, BufReader, Read, Write};

use flate2::read::MultiGzDecoder;
use muxfs::{Error, ErrorKind, Result};

/// What a gzip file begins with.
pub(crate) const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The database in an archive.
const DATABASE_NAME: &[u8] = b"flistdb.sqlite3";
/// The bytes of a header, and of a unit in which files are padded.
pub(crate) const BLOCK_LEN: usize = 512;
/// So many headers are looked at.
const MEMBER_COUNT_MAX: usize = 1024;
/// What an archive may be unpacked to: so many times its length, and so many bytes more. Those of flists come to five times.
const UNPACKED_FACTOR: u64 = 100;
const UNPACKED_LEN_MIN: u64 = 64 << 20;
/// The longest name that is written in front of a header, in bytes.
const NAME_LEN_MAX: u64 = 4096;

const OP: &str = "flist.archive";

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, OP).because(why.into())
}

/// Copies the database of an archive of `packed_len` bytes to `out`, and says how long it is, in bytes. One that is too long is
/// refused before it is copied.
///
/// # Errors
/// `Corrupt` where it is damaged or has no database; `TooLarge` where it is unpacked to more than `len_max` bytes, or much
/// more than it has itself; `NoSpace`, `Io`.
pub(crate) fn unpack(packed: impl Read, packed_len: u64, out: &mut impl Write, len_max: u64) -> Result<u64> {
    let len_max = packed_len.saturating_mul(UNPACKED_FACTOR).saturating_add(UNPACKED_LEN_MIN).min(len_max);
    // One byte more tells what is longer from what is as long.
    let mut unpacked = MultiGzDecoder::new(BufReader::new(packed)).take(len_max.saturating_add(1));
    let found = find(&mut unpacked, out, len_max);
    if unpacked.limit() == 0 { Err(too_long(len_max)) } else { found }
}

fn too_long(len_max: u64) -> Error {
    Error::new(ErrorKind::TooLarge, OP).because(format!("unpacked it has more than {len_max} bytes"))
}

fn find(tar: &mut impl Read, out: &mut impl Write, len_max: u64) -> Result<u64> {
    let mut long_name: Option<Vec<u8>> = None;
    for _ in 0..MEMBER_COUNT_MAX {
        let mut header = [0; BLOCK_LEN];
        tar.read_exact(&mut header).map_err(|error| damaged(&error, "a header of its tar"))?;
        if header == [0; BLOCK_LEN] {
            return Err(corrupt("its tar has no file flistdb.sqlite3"));
        }
        let member = Member::parse(&header)?;
        let padded = member.len.checked_next_multiple_of(BLOCK_LEN as u64);
        let padding = padded.ok_or_else(|| corrupt("a file of its tar is longer than any"))? - member.len;
        if member.len > len_max {
            return Err(too_long(len_max));
        }
        let name = long_name.take().unwrap_or(member.name);
        match member.kind {
            // The name of the next one, of GNU tar.
            b'L' if member.len <= NAME_LEN_MAX => {
                let mut name = vec![0; usize::try_from(member.len).unwrap_or(0)];
                tar.read_exact(&mut name).map_err(|error| damaged(&error, "a name in its tar"))?;
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                long_name = Some(name);
                skip(tar, padding)?;
            }
            0 | b'0' if name.strip_prefix(b"./").unwrap_or(&name) == DATABASE_NAME => {
                return copy(tar, out, member.len).map(|()| member.len);
            }
            _ => skip(tar, member.len + padding)?,
        }
    }
    Err(corrupt(format!("its tar has no file flistdb.sqlite3 among the first {MEMBER_COUNT_MAX}")))
}

/// What a header says.
struct Member {
    name: Vec<u8>,
    kind: u8,
    len: u64,
}

impl Member {
    fn parse(header: &[u8; BLOCK_LEN]) -> Result<Self> {
        let field = |from: usize, len: usize| header.get(from..from + len).unwrap_or_default();
        if !has_checksum(header) {
            return Err(corrupt("a header of its tar does not have its checksum"));
        }
        let name = field(0, 100);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let len = octal(field(124, 12)).ok_or_else(|| corrupt("a file of its tar has no length"))?;
        Ok(Self { name, kind: header[156], len })
    }
}

/// Whether a header has the checksum that it says.
pub(crate) fn has_checksum(header: &[u8; BLOCK_LEN]) -> bool {
    // It counts as if it were blanks.
    let bytes = header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    header.get(148..156).and_then(octal) == Some(bytes.map(u64::from).sum())
}

/// A number in octal digits, or in base 256 where the first bit is set.
pub(crate) fn octal(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        let first = u64::from(first & 0x7f);
        return rest.iter().try_fold(first, |number, byte| number.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let digits = field.iter().filter(|byte| !matches!(byte, b' ' | 0));
    digits.into_iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        number.checked_mul(8)?.checked_add(u64::from(digit))
    })
}

fn skip(tar: &mut impl Read, len: u64) -> Result<()> {
    copy(tar, &mut io::sink(), len)
}

/// Copies exactly so many bytes.
fn copy(tar: &mut impl Read, out: &mut impl Write, len: u64) -> Result<()> {
    let mut piece = vec![0; 64 << 10];
    let mut left = len;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        let Some(room) = piece.get_mut(..want) else { break };
        let read = tar.read(room).map_err(|error| damaged(&error, "a file of its tar"))?;
        let read = room.get(..read).filter(|read| !read.is_empty());
        let read = read.ok_or_else(|| corrupt(format!("its tar ends {left} bytes before the end of a file")))?;
        out.write_all(read).map_err(|error| {
            let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            Error::new(if is_full { ErrorKind::NoSpace } else { ErrorKind::Io }, OP).because(error)
        })?;
        left -= read.len() as u64;
    }
    Ok(())
}

/// What a failed reading means: bytes that are no gzip, or a disk that fails.
fn damaged(error: &io::Error, what: &str) -> Error {
    let is_damage =
        matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
    let kind = if is_damage { ErrorKind::Corrupt } else { ErrorKind::Io };
    Error::new(kind, OP).because(format!("{what} cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// A tar member, padded.
    fn member(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
        let mut header = [0; BLOCK_LEN];
        header[..name.len()].copy_from_slice(name);
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = kind;
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = [&header[..], data].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn unpacked(tar: &[Vec<u8>], len_max: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        unpack(&gzip(&tar.concat())[..], 0, &mut out, len_max).map(|len| {
            assert_eq!(len, out.len() as u64);
            out
        })
    }

    #[test]
    fn the_database_is_found_among_others() {
        let end = vec![0; 1024];
        let (before, data) = (member(b"./", b'5', b""), b"a database".as_slice());
        let other = member(b"router.yaml", b'0', &[b'x'; 700]);
        for found in [
            member(b"./flistdb.sqlite3", b'0', data),
            member(b"flistdb.sqlite3", 0, data),
            [member(b"././@LongLink", b'L', b"./flistdb.sqlite3\0"), member(b"cut", b'0', data)].concat(),
        ] {
            let tar = [before.clone(), other.clone(), found, end.clone()];
            assert_eq!(unpacked(&tar, 1 << 20).expect("found"), data);
        }
        for absent in [
            member(b"../flistdb.sqlite3", b'0', data),
            member(b"flistdb.sqlite3", b'2', b""),
            member(b"/flistdb.sqlite3", b'0', data),
        ] {
            let error = unpacked(&[before.clone(), absent, end.clone()], 1 << 20).expect_err("another");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn truncated_and_damaged_archives_are_refused() {
        let packed = gzip(&[member(b"flistdb.sqlite3", b'0', &[7; 5000]), vec![0; 1024]].concat());
        for len in 0..packed.len() - 20 {
            let error = unpack(&packed[..len], 0, &mut io::sink(), 1 << 20).expect_err("cut");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len}");
        }
        let mut header = member(b"flistdb.sqlite3", b'0', b"x");
        header[0] ^= 1;
        unpacked(&[header], 1 << 20).expect_err("not its checksum");
    }

    /// A thousand times shorter packed than unpacked.
    #[test]
    fn a_bomb_is_refused_after_so_many_bytes() {
        for name in [&b"flistdb.sqlite3"[..], b"another"] {
            let tar = [member(name, b'0', &vec![0; 4 << 20]), vec![0; 1024]];
            let error = unpacked(&tar, 1 << 20).expect_err("too much");
            assert_eq!(error.kind(), ErrorKind::TooLarge);
        }
        let endless: Vec<_> = (0..=MEMBER_COUNT_MAX).map(|_| member(b"x", b'0', b"")).collect();
        unpacked(&endless, 1 << 30).expect_err("so many files");
    }

    /// A few kilobytes of gzip that fill a disk: nothing of it is written.
    #[test]
    fn what_is_much_longer_than_its_archive_is_refused_before_it_is_copied() {
        let mut bomb = member(b"flistdb.sqlite3", b'0', b"");
        bomb[124..136].copy_from_slice(b"01000000000\0");
        bomb[148..156].fill(b' ');
        let sum: u64 = bomb[..BLOCK_LEN].iter().map(|byte| u64::from(*byte)).sum();
        bomb[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bomb.resize(1 << 20, 0);
        let packed = gzip(&bomb);
        let mut out = Vec::new();
        let error = unpack(&packed[..], packed.len() as u64, &mut out, 4 << 30).expect_err("64 MiB and more");
        assert_eq!((error.kind(), out.len()), (ErrorKind::TooLarge, 0));
    }
}
