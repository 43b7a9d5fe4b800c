//! The handle table of a [`LocalVfs`](crate::LocalVfs): which inode a handle was given for, on disk.
//!
//! A handle must mean the same file after a restart, and never another one: host inode numbers are used again as soon
//! as a file is gone. The host's own handles (`open_by_handle_at`) need a privilege, so we keep one row for each inode
//! that ever got a handle: a *stamp* that is never given twice, the time of birth, and the directory it was last seen
//! in. The name is not kept: it is found again by its number in that directory.
//!
//! The row of inode `n` stands at a place computed from `n` in a sparse file: no index in RAM, no rehashing, one
//! `pread` to find a row and one `pwrite` of 32 bytes to make one, into the page cache before the handle is handed
//! out, so that it survives the death of the process. A row that is torn or lost makes its handle stale, nothing
//! worse: the stamp in the handle must equal the one in the row, and the row carries a checksum over its number and
//! the table's identity. Spec: spec/local.md, which holds the bytes.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, FileKind, Result, vfs::Handle};
use rustix::fs::FlockOperation;

const MAGIC: [u8; 8] = *b"muxfslht";
const VERSION: u32 = 1;
const HEADER_LEN: u64 = 4096;
const HEADER_USED: usize = 36;
const ROW_LEN: usize = 32;
const HANDLE_VERSION: u8 = 1;
/// The bytes of a handle: version, table, number, stamp.
pub(crate) const HANDLE_LEN: usize = 25;
/// Numbers below this have a row of their own; larger ones (few file systems have them) share as many rows by hash,
/// and the newer handle wins. Keeps the file below 8 TiB of address space, which every 64-bit file system allows.
const DIRECT_COUNT: u64 = 1 << 37;
/// How many stamps one write of the header reserves: a crash wastes at most these.
const STAMP_RESERVE: u64 = 1 << 20;
const PARENT_MASK: u64 = (1 << 56) - 1;

/// What is known of an inode that has a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// Never given twice by one table; never 0.
    pub(crate) stamp: u64,
    /// Nanoseconds since 1970, or 0 where the host does not tell.
    pub(crate) birth: i64,
    pub(crate) kind: FileKind,
    /// The host's number of the directory it was last seen in.
    pub(crate) parent: u64,
}

impl Row {
    /// Whether it is of this inode and not of one that had the number before.
    pub(crate) fn is_of(&self, birth: i64, kind: FileKind) -> bool {
        (self.birth, self.kind) == (birth, kind)
    }
}

/// What a handle says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandleParts {
    pub(crate) table: u64,
    pub(crate) number: u64,
    pub(crate) stamp: u64,
}

/// The open table; one process at a time holds it.
#[derive(Debug)]
pub(crate) struct Handles {
    file: File,
    table: u64,
    stamps: Mutex<Stamps>,
}

#[derive(Debug)]
struct Stamps {
    next: u64,
    limit: u64,
}

fn broken(op: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::new(ErrorKind::Io, op).because(error)
}

/// Eight bytes of `bytes` from `at`, little end first; `None` past its end.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

impl Handles {
    /// Opens the table at `path`, or makes one there.
    ///
    /// # Errors
    /// `Unavailable` while another process has it; `Unsupported` for a newer version; `InvalidArgument` for a file
    /// that is something else; `Io`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        const OP: &str = "local.handles.open";
        let at = |error: Error| error.at(path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| at(broken(OP)(error)))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            at(Error::new(ErrorKind::Unavailable, OP).because(format!("another process uses this table ({errno})")))
        })?;
        let mut header = Vec::with_capacity(HEADER_USED);
        (&mut file).take(HEADER_USED as u64).read_to_end(&mut header).map_err(|error| at(broken(OP)(error)))?;
        let (table, next) = if let Some(found) = Self::read_header(&header).map_err(at)? {
            found
        } else {
            if !header.is_empty() {
                tracing::warn!(path = %path.display(), "the handle table is damaged: handles given before are stale");
            }
            file.set_len(0).map_err(|error| at(broken(OP)(error)))?;
            (fresh_table_id().map_err(|error| at(broken(OP)(error)))?, 1)
        };
        let handles = Self { file, table, stamps: Mutex::new(Stamps { next, limit: next }) };
        {
            let mut stamps = handles.stamps.lock().unwrap_or_else(PoisonError::into_inner);
            handles.reserve(&mut stamps).map_err(at)?;
        }
        Ok(handles)
    }

    /// The table's identity and the first free stamp; `None` where there is no whole header.
    fn read_header(header: &[u8]) -> Result<Option<(u64, u64)>> {
        const OP: &str = "local.handles.open";
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !header.starts_with(&MAGIC) {
            // A header torn within its magic cannot be told from another file, and we do not erase what is not ours.
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because("this file is no handle table of MuxFS"));
        }
        let version = header.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        if let Some(version @ VERSION..) = version
            && version > VERSION
        {
            return Err(Error::new(ErrorKind::Unsupported, OP).because(format!(
                "the handle table has version {version}, this program knows {VERSION}: use the newer muxfs that wrote it"
            )));
        }
        let (Some(used), Some(sum)) = (header.get(..32), header.get(32..36)) else { return Ok(None) };
        if crc32c::crc32c(used).to_le_bytes() != *sum {
            return Ok(None);
        }
        Ok(u64_at(used, 16).zip(u64_at(used, 24)))
    }

    /// Reserves more stamps, durably: a stamp given after a power cut must not repeat one given before it.
    fn reserve(&self, stamps: &mut Stamps) -> Result<()> {
        let limit = stamps.next + STAMP_RESERVE;
        let mut header = Vec::with_capacity(HEADER_USED);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&32u32.to_le_bytes());
        header.extend_from_slice(&self.table.to_le_bytes());
        header.extend_from_slice(&limit.to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        self.file.write_all_at(&header, 0).map_err(broken("local.handles.reserve"))?;
        self.file.sync_data().map_err(broken("local.handles.reserve"))?;
        stamps.limit = limit;
        Ok(())
    }

    /// This table's identity: part of every handle, so that those of a table that was lost are stale.
    pub(crate) fn table(&self) -> u64 {
        self.table
    }

    fn offset(number: u64) -> u64 {
        let slot = if number < DIRECT_COUNT {
            number
        } else {
            DIRECT_COUNT + (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 27) % DIRECT_COUNT
        };
        HEADER_LEN + slot * ROW_LEN as u64
    }

    fn row_sum(&self, number: u64, row: &[u8]) -> [u8; 4] {
        let sum = crc32c::crc32c(&number.to_le_bytes());
        let sum = crc32c::crc32c_append(sum, &self.table.to_le_bytes());
        crc32c::crc32c_append(sum, row).to_le_bytes()
    }

    /// The row of an inode; `None` where there is none, or it is torn.
    pub(crate) fn row(&self, number: u64) -> Result<Option<Row>> {
        let mut bytes = [0; ROW_LEN];
        match self.file.read_exact_at(&mut bytes, Self::offset(number)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(broken("local.handles.row")(error)),
        }
        let (head, sum) = bytes.split_at(ROW_LEN - 4);
        if self.row_sum(number, head) != *sum {
            return Ok(None);
        }
        let (Some(stamp), Some(birth), Some(place)) = (u64_at(head, 0), u64_at(head, 8), u64_at(head, 16)) else {
            return Ok(None);
        };
        let Some(kind) = u8::try_from(place >> 56).ok().and_then(kind_of) else { return Ok(None) };
        Ok((stamp != 0).then_some(Row { stamp, birth: birth.cast_signed(), kind, parent: place & PARENT_MASK }))
    }

    fn write_row(&self, number: u64, row: Row) -> Result<()> {
        let mut bytes = Vec::with_capacity(ROW_LEN);
        bytes.extend_from_slice(&row.stamp.to_le_bytes());
        bytes.extend_from_slice(&row.birth.to_le_bytes());
        bytes.extend_from_slice(&(row.parent & PARENT_MASK | u64::from(code_of(row.kind)) << 56).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.row_sum(number, &bytes));
        self.file.write_all_at(&bytes, Self::offset(number)).map_err(broken("local.handles.write"))
    }

    /// The stamp of an inode: the one it has, or a new one where the row is of an inode that had the number before.
    /// From now on it is looked for in `parent`.
    pub(crate) fn stamp(&self, number: u64, birth: i64, kind: FileKind, parent: u64) -> Result<u64> {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = self.row(number)?.filter(|row| row.is_of(birth, kind)) {
            if row.parent != parent {
                self.write_row(number, Row { parent, ..row })?;
            }
            return Ok(row.stamp);
        }
        if stamps.next >= stamps.limit {
            self.reserve(&mut stamps)?;
        }
        let stamp = stamps.next;
        self.write_row(number, Row { stamp, birth, kind, parent })?;
        stamps.next += 1;
        Ok(stamp)
    }

    /// Drops the row of an inode that is gone. Repeatable.
    pub(crate) fn forget(&self, number: u64) -> Result<()> {
        let _stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if self.row(number)?.is_some() {
            self.file.write_all_at(&[0; ROW_LEN], Self::offset(number)).map_err(broken("local.handles.forget"))?;
        }
        Ok(())
    }

    /// Makes all rows durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(broken("local.handles.sync"))
    }
}

fn fresh_table_id() -> std::io::Result<u64> {
    let mut id = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(u64::from_le_bytes(id))
}

fn code_of(kind: FileKind) -> u8 {
    match kind {
        FileKind::File => 1,
        FileKind::Dir => 2,
        FileKind::Symlink => 3,
        FileKind::Fifo => 4,
        FileKind::Socket => 5,
        FileKind::CharDevice => 6,
        FileKind::BlockDevice => 7,
    }
}

fn kind_of(code: u8) -> Option<FileKind> {
    Some(match code {
        1 => FileKind::File,
        2 => FileKind::Dir,
        3 => FileKind::Symlink,
        4 => FileKind::Fifo,
        5 => FileKind::Socket,
        6 => FileKind::CharDevice,
        7 => FileKind::BlockDevice,
        _ => return None,
    })
}

impl HandleParts {
    pub(crate) fn encode(self) -> Handle {
        let mut bytes = Vec::with_capacity(HANDLE_LEN);
        bytes.push(HANDLE_VERSION);
        for part in [self.table, self.number, self.stamp] {
            bytes.write_all(&part.to_le_bytes()).expect("a Vec takes every write");
        }
        Handle(Bytes::from(bytes))
    }

    /// # Errors
    /// `InvalidArgument` for bytes that no handle ever was.
    pub(crate) fn decode(handle: &Handle) -> Result<Self> {
        let bytes = &handle.0;
        let parts = (bytes.len() == HANDLE_LEN && bytes.first() == Some(&HANDLE_VERSION))
            .then(|| Some(Self { table: u64_at(bytes, 1)?, number: u64_at(bytes, 9)?, stamp: u64_at(bytes, 17)? }))
            .flatten();
        parts
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "local.resolve").because("this is no handle of ours"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(dir: &tempfile::TempDir) -> Handles {
        Handles::open(&dir.path().join("handles")).expect("the table opens")
    }

    #[test]
    fn a_row_survives_without_any_shutdown_and_its_stamp_is_never_given_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(&dir);
        let stamp = first.stamp(12, 7, FileKind::File, 2).expect("a stamp");
        assert_eq!(first.stamp(12, 7, FileKind::File, 2).expect("a stamp"), stamp, "the same each time");
        // The lock goes with the process; here the file is closed without any of our own code running at its end.
        drop(first);
        let second = open(&dir);
        let row = Row { stamp, birth: 7, kind: FileKind::File, parent: 2 };
        assert_eq!(second.row(12).expect("a read"), Some(row));
        let other = second.stamp(12, 8, FileKind::File, 2).expect("a stamp");
        assert!(other > stamp, "another birth is another inode");
        second.forget(12).expect("a write");
        assert_eq!(second.row(12).expect("a read"), None);
        assert!(
            second.stamp(12, 8, FileKind::File, 2).expect("a stamp") > other,
            "a dropped row leaves no stamp behind"
        );
    }

    #[test]
    fn one_process_holds_a_table() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = open(&dir);
        let second = Handles::open(&dir.path().join("handles")).expect_err("it is held");
        assert_eq!(second.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_row_makes_it_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let handles = open(&dir);
        handles.stamp(5, 1, FileKind::Dir, 2).expect("a stamp");
        let at = Handles::offset(5);
        let mut row = [0; ROW_LEN];
        handles.file.read_exact_at(&mut row, at).expect("a read");
        for bit in 0..ROW_LEN * 8 {
            let mut torn = row;
            torn[bit / 8] ^= 1 << (bit % 8);
            handles.file.write_all_at(&torn, at).expect("a write");
            assert_eq!(handles.row(5).expect("a read"), None, "bit {bit}");
        }
    }

    #[test]
    fn a_row_copied_to_another_number_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let handles = open(&dir);
        handles.stamp(5, 1, FileKind::Dir, 2).expect("a stamp");
        let mut row = [0; ROW_LEN];
        handles.file.read_exact_at(&mut row, Handles::offset(5)).expect("a read");
        handles.file.write_all_at(&row, Handles::offset(6)).expect("a write");
        assert_eq!(handles.row(6).expect("a read"), None);
    }

    #[test]
    fn what_a_header_may_be() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("handles");
        let stamp = open(&dir).stamp(9, 1, FileKind::File, 2).expect("a stamp");
        let good = std::fs::read(&path).expect("the table");

        // Torn: a new table, in which nothing of the old one is found.
        let mut torn = good.clone();
        torn[30] ^= 1;
        std::fs::write(&path, &torn).expect("a write");
        let fresh = open(&dir);
        assert_ne!(u64_at(&good, 16), Some(fresh.table()));
        assert_eq!(fresh.row(9).expect("a read"), None);
        drop(fresh);

        // Newer: refused, and left alone.
        let mut newer = good.clone();
        newer[8] = 2;
        std::fs::write(&path, &newer).expect("a write");
        assert_eq!(Handles::open(&path).expect_err("newer").kind(), ErrorKind::Unsupported);
        assert_eq!(std::fs::read(&path).expect("the table"), newer);

        // Something else: refused, and left alone.
        std::fs::write(&path, b"my notes").expect("a write");
        assert_eq!(Handles::open(&path).expect_err("not ours").kind(), ErrorKind::InvalidArgument);
        assert_eq!(std::fs::read(&path).expect("the notes"), b"my notes");

        std::fs::write(&path, &good).expect("a write");
        assert_eq!(open(&dir).row(9).expect("a read").map(|row| row.stamp), Some(stamp));
    }

    proptest! {
        #[test]
        fn handles_round_trip(table: u64, number: u64, stamp: u64) {
            let parts = HandleParts { table, number, stamp };
            let handle = parts.encode();
            prop_assert!(handle.0.len() <= 48);
            prop_assert_eq!(HandleParts::decode(&handle).expect("ours"), parts);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Err(error) = HandleParts::decode(&Handle(bytes.into())) {
                prop_assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            }
        }

        #[test]
        fn rows_round_trip(number in 1u64..1 << 56, birth: i64, parent in 1u64..1 << 56, code in 1u8..=7) {
            let dir = tempfile::tempdir().expect("a directory");
            let handles = open(&dir);
            let kind = kind_of(code).expect("a kind");
            let stamp = handles.stamp(number, birth, kind, parent).expect("a stamp");
            prop_assert_eq!(handles.row(number).expect("a read"), Some(Row { stamp, birth, kind, parent }));
        }
    }
}
