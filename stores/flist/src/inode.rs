//! What an flist says of a file, a directory or what else there is, alike for both formats.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{FILE_LEN_MAX, Rdev, SYMLINK_LEN_MAX},
};

/// The key of a directory of an `.flist`: BLAKE2b-128 of its path.
pub(crate) type DirKey = [u8; 16];

/// Which node of an flist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeId {
    /// The directory that all others are below.
    Root,
    /// Of an `.flist`: an entry of a directory.
    Entry {
        /// The key of the directory.
        dir: DirKey,
        /// Which of its entries, from 0.
        index: u32,
    },
    /// Of an `.fl`: a row of the table `inode`.
    Row(u64),
}

/// A node of an flist.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Which one.
    pub id: NodeId,
    /// What it is.
    pub kind: FileKind,
    /// The twelve permission bits; of a symlink 0777.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Of a device; else 0, 0.
    pub rdev: Rdev,
    /// Length in bytes: of a symlink, of its target; of a directory, as its maker had it.
    pub size: u64,
    /// When its content changed.
    pub mtime: SystemTime,
    /// When it was made, or changed.
    pub ctime: SystemTime,
    /// Of a symlink: where it leads. Of others empty.
    pub target: Bytes,
    /// Of a directory of an `.flist`.
    pub(crate) dir_key: Option<DirKey>,
}

/// A name in a directory, and what has it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// The node.
    pub inode: Inode,
}

/// The error of an flist that is not what it should be: `at` says where in it.
pub(crate) fn corrupt(at: impl std::fmt::Display, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "flist.read").because(format!("{at}: {why}"))
}

/// A time in seconds since 1970.
pub(crate) fn time(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// A name, if it can be one: 1 to 255 bytes, no slash, not `..`.
pub(crate) fn name(bytes: &[u8], at: impl std::fmt::Display) -> Result<Name> {
    Name::new(bytes).map_err(|error| {
        let shown = bytes.get(..64).unwrap_or(bytes).escape_ascii().to_string();
        corrupt(at, format!("{shown:?} is no name: {}", cause(&error)))
    })
}

/// The sentence that an error ends with.
fn cause(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The target of a symlink, if it can be one.
pub(crate) fn target(bytes: &[u8], at: impl std::fmt::Display) -> Result<Bytes> {
    let why = match bytes {
        b"" => "the symlink leads nowhere",
        _ if bytes.len() > SYMLINK_LEN_MAX => "the target of the symlink is longer than 4095 bytes",
        _ if bytes.contains(&0) => "the target of the symlink holds a NUL",
        _ => return Ok(Bytes::copy_from_slice(bytes)),
    };
    Err(corrupt(at, why))
}

/// The length of a file, if it can be one.
pub(crate) fn size(size: u64, at: impl std::fmt::Display) -> Result<u64> {
    if size > FILE_LEN_MAX {
        return Err(corrupt(at, format!("a file cannot have {size} bytes")));
    }
    Ok(size)
}
