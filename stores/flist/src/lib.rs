//! `/flist`: images whose files are fetched, chunk by chunk, as they are read.
//!
//! An flist describes a tree of files in a few megabytes and names the chunks that they are made of; the chunks are
//! elsewhere. Two formats are read: that of zflist, `.flist`, and that of rfs, `.fl`.
//!
//! ```text
//!   Flist ---> archive     gzip of tar: where the database of an .flist is
//!     |------> zflist      directories of .flist   ---> capnp
//!     '------> rfs         tables of .fl
//!                 '------> database                SQLite, and what somebody else's may cost
//!   Chunk                  what is stored, and back: snappy in XXTEA or AES-GCM
//! ```
//!
//! An flist is nobody to trust: what it says is checked where it is read, and every byte of a file hashes to what the flist
//! says. Stands beside the other stores and knows no frontend. Spec: spec/flist.md.

mod archive;
mod capnp;
mod chunk;
mod database;
mod flist;
mod inode;
mod metadata;
mod rfs;
#[cfg(test)]
mod tests;
mod zflist;

pub use crate::{
    chunk::{CHUNK_LEN_MAX, Chunk, STORED_LEN_MAX},
    flist::{Dir, FLIST_LEN_MAX, Flist, FlistId, Format},
    inode::{Entry, Inode, NodeId},
    metadata::Route,
};
