//! What is about to be read, for stores that are far away.

use std::ops::Range;

use bytes::Bytes;

use crate::{Cid, Name};

/// What is about to be read: a store that is far away may fetch that in one go, once it is asked for the first of it.
#[derive(Debug, Clone)]
pub enum Expected<'a> {
    /// A path is walked, from a block by names: of its blocks, and the one where it ends, each is asked for when the one
    /// before it is there.
    Path {
        /// The block where it begins.
        root: &'a Cid,
        /// The names, one at least.
        parts: &'a [Name],
    },
    /// These bytes of a file are read, in order.
    File {
        /// The file.
        file: &'a Cid,
        /// From where to where, in bytes; perhaps past its end.
        range: Range<u64>,
    },
    /// A node of a file that is read is there: what it links to comes next.
    Node {
        /// The file.
        file: &'a Cid,
        /// The node.
        node: &'a Cid,
        /// Its block.
        block: &'a Bytes,
        /// Where in the file its content begins, in bytes.
        offset: u64,
    },
}
