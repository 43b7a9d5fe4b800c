//! Files as QFS sees them: bytes, linked data, or both. Opened through a [`Store`](crate::Store), read at any offset.

use std::{fmt, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncRead;

use crate::{Cid, Error, ErrorKind, Name, Result, dag::Ipld};

/// What a node is, in every tongue.
///
/// Linked data is no kind of its own: it is what [`File::linked_data`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// What is known of a file without reading it.
#[derive(Debug, Clone)]
pub struct FileInfo {
    /// The last part of the path it was opened by: the CID's text where that is all, the prefix for the mount itself.
    pub name: Name,
    /// What it is.
    pub kind: FileKind,
    /// Length of the content in bytes; 0 for a directory of a content-addressed store.
    pub size: u64,
    /// The twelve permission bits; the kind is beside them.
    pub mode: u32,
    /// When the content last changed, where that is known.
    pub mtime: Option<SystemTime>,
    /// The CID, where content has one.
    pub cid: Option<Cid>,
}

/// An open file: immutable where it is content-addressed.
#[async_trait]
pub trait File: fmt::Debug + Send + Sync + 'static {
    /// What was known of it when it was opened.
    fn info(&self) -> &FileInfo;
    /// The bytes from `offset`, at most `len`; short only at the end of the file, empty past it. `IsDir` for a
    /// directory; of a symlink, its target.
    async fn read_at(&self, offset: u64, len: u32) -> Result<Bytes>;
    /// The linked data of a directory (its links) or of a dag-cbor or dag-json node; `None` where there are but bytes.
    async fn linked_data(&self) -> Result<Option<Ipld>>;
}

/// The most links that [`File::linked_data`] gives at once: a directory of more is read page by page, through
/// [`Vfs::readdir`](crate::vfs::Vfs::readdir). At some 250 bytes each they are 64 MiB.
pub const LINK_COUNT_MAX: usize = 1 << 18;

/// The key of a directory's entry in its linked data: the name, or U+0000 and its bytes in lower-case hex where it is
/// not UTF-8. No name holds a NUL, so no two names have one key.
///
/// ```
/// use muxfs::{Name, file::{link_key, link_name}};
/// assert_eq!(link_key(&Name::new(b"a.txt")?), "a.txt");
/// let odd = Name::new(b"\xff")?;
/// assert_eq!((link_key(&odd).as_str(), link_name("\0ff")?), ("\0ff", odd));
/// # Ok::<(), muxfs::Error>(())
/// ```
pub fn link_key(name: &Name) -> String {
    name.as_str().map_or_else(
        || name.as_bytes().iter().fold("\0".to_owned(), |key, byte| key + &format!("{byte:02x}")),
        str::to_owned,
    )
}

/// The name of which `key` is the [`link_key`].
///
/// # Errors
/// `InvalidArgument` or `NameTooLong` for a key that is of no name.
pub fn link_name(key: &str) -> Result<Name> {
    let refuse = || Error::new(ErrorKind::InvalidArgument, "file.link_name").at(key.escape_debug());
    let Some(hex) = key.strip_prefix('\0') else { return Name::new(key.as_bytes()) };
    if hex.len() % 2 != 0 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(refuse().because("not pairs of lower-case hex digits"));
    }
    let digits = hex.bytes().map(|byte| if byte < b'a' { byte - b'0' } else { byte - b'a' + 10 }).collect::<Vec<_>>();
    let name =
        Name::new(&digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | d)).collect::<Vec<_>>())?;
    if name.as_str().is_some() {
        return Err(refuse().because("a name that is UTF-8 is its own key"));
    }
    Ok(name)
}

/// What `put` puts.
pub enum Source {
    /// A file, in memory.
    Bytes(Bytes),
    /// A file, as it comes; read to its end.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
    /// A dag-cbor node.
    LinkedData(Ipld),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Source::Bytes({} bytes)", bytes.len()),
            Self::Reader(_) => f.write_str("Source::Reader(..)"),
            Self::LinkedData(data) => f.debug_tuple("Source::LinkedData").field(data).finish(),
        }
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&'static [u8]> for Source {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Bytes(Bytes::from_static(bytes))
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_that_are_of_no_name() {
        for bad in ["", ".", "a/b", "\0", "\0f", "\0FF", "\0zz", "\x0061", "\0ff\0"] {
            assert!(link_name(bad).is_err(), "{}", bad.escape_debug());
        }
    }

    proptest! {
        /// Every name has one key, and every key one name.
        #[test]
        fn keys_and_names_are_one_to_one(bytes in proptest::collection::vec(any::<u8>(), 1..40), key in "\\PC{0,20}") {
            if let Ok(name) = Name::new(&bytes) {
                prop_assert_eq!(link_name(&link_key(&name)).expect("a key"), name);
            }
            if let Ok(name) = link_name(&key) {
                prop_assert_eq!(link_key(&name), key);
            }
        }
    }
}
