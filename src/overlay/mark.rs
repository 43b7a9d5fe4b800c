//! Where a node lies below that is as it is there.
//!
//! ```text
//! 0    1    version: 1
//! 1    1    0 a directory whose entries did not come yet, 1 a file whose bytes did not
//! 2    8    of a file its length in bytes; 0
//! 10        the handle that the file system below has for it
//! ```
//!
//! Numbers are big-endian. It is the value of an extended attribute of the tree, so commits and the journal keep it, and it
//! goes along with the node wherever that is renamed to.

use bytes::Bytes;

use crate::{
    Error, ErrorKind, Result,
    vfs::{Attr, Changed, Handle, LEAF_HANDLE_LEN_MAX, PreAttr},
};

const VERSION: u8 = 1;
const HEAD_LEN: usize = 10;

/// Where a node lies below, as far as it is as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// A file, whose bytes are there; else a directory, whose entries are.
    pub is_file: bool,
    /// The length of a file, in bytes; of a directory 0.
    pub size: u64,
    /// What the file system below calls it.
    pub handle: Handle,
}

impl Below {
    /// The bytes that [`Below::decode`] reads.
    pub(super) fn encode(&self) -> Bytes {
        [&[VERSION, u8::from(self.is_file)][..], &self.size.to_be_bytes(), &self.handle.0].concat().into()
    }

    /// Reads the value of [`BELOW_XATTR`](super::BELOW_XATTR) or [`BASE_XATTR`](super::BASE_XATTR).
    ///
    /// ```
    /// use muxfs::overlay::Below;
    /// let below = Below::decode(&b"\x01\x01\0\0\0\0\0\0\0\x05handle"[..].into())?;
    /// assert_eq!((below.is_file, below.size, &below.handle.0[..]), (true, 5, &b"handle"[..]));
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unsupported` for one that a newer program wrote; `Corrupt`.
    pub fn decode(bytes: &Bytes) -> Result<Self> {
        let op = "overlay.below";
        let corrupt = || Error::new(ErrorKind::Corrupt, op).because("it does not say where a node lies below");
        let (head, handle) = bytes.split_first_chunk::<HEAD_LEN>().ok_or_else(corrupt)?;
        let [version, kind, size @ ..] = *head;
        if version != VERSION {
            let why = format!("version {version}, and this program knows {VERSION}: a newer muxfs wrote it");
            return Err(Error::new(ErrorKind::Unsupported, op).because(why));
        }
        let (is_file, size) = (kind == 1, u64::from_be_bytes(size));
        if kind > 1 || handle.is_empty() || handle.len() > LEAF_HANDLE_LEN_MAX || !is_file && size > 0 {
            return Err(corrupt());
        }
        Ok(Self { is_file, size, handle: Handle(bytes.slice(HEAD_LEN..)) })
    }

    /// What is known of a file, with what it takes below.
    pub(super) fn seen(&self, attr: &Attr) -> Attr {
        Attr { size: self.size, used: self.size, ..attr.clone() }
    }

    /// The same of a change that left the bytes as they are.
    pub(super) fn changed(&self, changed: &Changed) -> Changed {
        Changed { before: self.before(changed.before), after: self.seen(&changed.after) }
    }

    /// The same of a file before its bytes came.
    pub(super) fn before(&self, before: PreAttr) -> PreAttr {
        PreAttr { size: self.size, ..before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are in journals and commits.
    #[test]
    fn the_bytes_are_these_and_no_others_are_read() {
        let below = Below { is_file: true, size: 258, handle: Handle("h".into()) };
        let bytes = below.encode();
        assert_eq!(&bytes[..], b"\x01\x01\0\0\0\0\0\0\x01\x02h");
        assert_eq!(Below::decode(&bytes).expect("its own"), below);
        for bad in [&bytes[..10], b"\x01\x02\0\0\0\0\0\0\0\0h", b"\x01\0\0\0\0\0\0\0\0\x01h", b""] {
            let error = Below::decode(&Bytes::copy_from_slice(bad)).expect_err("bad");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let long = [&bytes[..10], &[7; LEAF_HANDLE_LEN_MAX + 1]].concat();
        Below::decode(&long.into()).expect_err("no handle is so long");
        let newer = Below::decode(&Bytes::from_static(b"\x02\x01\0\0\0\0\0\0\x01\x02h")).expect_err("newer");
        assert_eq!(newer.kind(), ErrorKind::Unsupported);
    }
}
