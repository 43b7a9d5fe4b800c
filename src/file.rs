//! Files as QFS sees them: bytes, linked data, or both. Opened through a [`Store`](crate::Store), read at any offset.

use std::{fmt, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncRead;

use crate::{Cid, Name, Result, dag::Ipld};

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
