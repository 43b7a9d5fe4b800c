//! What SQLite's errors mean to a caller.

use muxfs::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// Where it wrote and does not know what became of it: fsync, write, truncate, fsync of the directory, and what it needs
/// to know what is in the log. Of such a file nothing that follows is sure.
const LOST_WRITES: [i32; 5] = [
    rusqlite::ffi::SQLITE_IOERR_FSYNC,
    rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC,
    rusqlite::ffi::SQLITE_IOERR_WRITE,
    rusqlite::ffi::SQLITE_IOERR_TRUNCATE,
    rusqlite::ffi::SQLITE_IOERR_SHMMAP,
];

/// An error of SQLite as ours.
pub(crate) fn failed(op: &'static str, error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::NoSpace,
        // Or a column is not there, or of another type.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => ErrorKind::Corrupt,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OutOfMemory) => ErrorKind::Unavailable,
        Some(ErrorCode::ReadOnly) => ErrorKind::ReadOnly,
        Some(ErrorCode::PermissionDenied) => ErrorKind::Denied,
        Some(ErrorCode::TooBig) => ErrorKind::TooLarge,
        Some(ErrorCode::SystemIoFailure) if extended(&error) == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => {
            ErrorKind::NoSpace
        }
        Some(ErrorCode::InternalMalfunction | ErrorCode::ApiMisuse) => ErrorKind::Internal,
        Some(_) => ErrorKind::Io,
    };
    Error::new(kind, op).because(error)
}

fn extended(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

/// Whether something that was written may be lost, whatever is told of it later.
pub(crate) fn is_lost_write(error: &rusqlite::Error) -> bool {
    extended(error).is_some_and(|code| LOST_WRITES.contains(&code))
}

pub(crate) fn corrupt(op: &'static str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, op).because(why.into())
}
