//! What calls to a namespace come to: values, for whoever serves them to put into words.

use std::time::Duration;

use bytes::Bytes;

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The namespace can neither be read nor written for now.
    Frozen,
    /// The namespace can only be read for now.
    Locked,
    /// The key is longer than [`KEY_LEN_MAX`](crate::KEY_LEN_MAX).
    KeyTooLong,
    /// The value is longer than [`VALUE_LEN_MAX`](crate::VALUE_LEN_MAX).
    ValueTooLong,
    /// A key is needed in user mode.
    KeyNeeded,
    /// In sequential mode a key is the number of a value that is there.
    UnknownId,
    /// The key is there, and the namespace is write-once.
    Worm,
    /// The values would pass the namespace's limit.
    Quota,
}

/// What a set came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Set {
    /// It is written.
    Stored {
        /// The key: the one that was given, or in sequential mode the number, 8 bytes little-endian.
        key: Bytes,
    },
    /// The key has this value already.
    Same,
    /// Nothing is written.
    Refused(Refused),
}

/// What a deletion came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delete {
    /// The key is gone.
    Deleted,
    /// It was not there.
    Absent,
    /// Nothing is written.
    Refused(Refused),
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// When it was set, in seconds since 1970.
    pub timestamp: u32,
}

/// What is known of a key that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// How long its value is, in bytes.
    pub len: u32,
    /// When it was set, in seconds since 1970.
    pub timestamp: u32,
    /// Its place in a scan.
    pub cursor: Cursor,
}

/// A place in a scan: opaque to who holds it, and good for as long as the namespace is there, also after a restart.
pub type Cursor = [u8; 17];

/// Which way a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the oldest to the newest.
    Forward,
    /// From the newest to the oldest.
    Backward,
}

/// When a page of a scan is full: as soon as either is reached, but never before its first key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimit {
    /// So many keys.
    pub count: usize,
    /// So much time.
    pub time: Duration,
}

impl Default for ScanLimit {
    /// 2 milliseconds, as in 0-db, and 10,000 keys.
    fn default() -> Self {
        Self { count: 10_000, time: Duration::from_millis(2) }
    }
}

/// A key in a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: Bytes,
    /// How long its value is, in bytes.
    pub len: u32,
    /// When it was set, in seconds since 1970.
    pub timestamp: u32,
}

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// At least one key.
    Keys {
        /// Where the next page begins: behind the last key of this one.
        next: Cursor,
        /// The keys, in order.
        keys: Vec<Listed>,
    },
    /// There are no more.
    End,
    /// The cursor was never given.
    BadCursor,
}

/// A value that a key has or had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// What to ask for the value before this one with; `None` if there is none.
    pub previous: Option<[u8; 8]>,
    /// When it was set, in seconds since 1970.
    pub timestamp: u32,
    /// The value.
    pub value: Bytes,
}

/// A record as it stands in a data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The key.
    pub key: Bytes,
    /// Where the record before it of the same key is in its file, in bytes; 0 if there is none.
    pub previous: u32,
    /// 0-db's checksum of the value.
    pub crc: u32,
    /// 1 for a deletion mark.
    pub flags: u8,
    /// When it was written, in seconds since 1970.
    pub timestamp: u32,
    /// The value; empty for a deletion mark.
    pub value: Bytes,
}

/// Figures of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many keys there are.
    pub entries: u64,
    /// How long their values are together, in bytes.
    pub data_len: u64,
    /// How much memory the table of keys takes, in bytes.
    pub index_len: u64,
    /// How long the data files are together, in bytes: what the namespace takes on the disk but for its index files.
    pub file_len: u64,
    /// What overwritten and deleted values take of it, in bytes.
    pub dead_len: u64,
    /// The number that the next value gets in sequential mode; in user mode how many keys were ever made.
    pub next_id: u64,
    /// The data file that is written to.
    pub current_file: u32,
    /// Where the next record goes in it, in bytes.
    pub current_offset: u32,
    /// How often reading or writing a data file failed.
    pub data_io_errors: u64,
    /// When it failed last, in seconds since 1970; 0 if it never did.
    pub data_io_error_last: u32,
    /// How often a record failed its check.
    pub data_faults: u64,
    /// The same for index files.
    pub index_io_errors: u64,
    /// The same for index files.
    pub index_io_error_last: u32,
    /// How often an index file failed its check and was built again.
    pub index_faults: u64,
    /// How many bytes were read from the media since the engine was opened.
    pub read_len: u64,
    /// How many bytes were appended since the engine was opened.
    pub written_len: u64,
    /// The path of the data files; empty in memory.
    pub data_path: String,
    /// The path of the data file that is written to.
    pub data_active: String,
    /// The path of the index files; empty in memory.
    pub index_path: String,
    /// The path of the index file that belongs to it; written when the data file is closed.
    pub index_active: String,
}
