//! `/flist`: images whose files are fetched, chunk by chunk, as they are read.
//!
//! An flist describes a tree of files in a few megabytes and names the chunks that they are made of; the chunks are
//! elsewhere. Two formats are read: that of zflist, `.flist`, and that of rfs, `.fl`.
//!
//! ```text
//!   FlistVfs ----> Flist, and Chunks: in memory, on disk, or from each source in turn
//!                                '---> source     a directory, 0-db (muxfs-zstor), S3 (muxfs-s3), HTTP (muxfs-ipfs)
//!                                         '---> address
//!   Flist ---> archive     gzip of tar: where the database of an .flist is
//!     |------> profile     what a start touches
//!     |------> sign        who made it
//!     |------> zflist      directories of .flist   ---> capnp
//!     '------> rfs         tables of .fl
//!                 '------> database                SQLite, and what somebody else's may cost
//!   write                  makes them, of a directory, an archive, an image
//!   Chunk                  what is stored, and back: snappy in XXTEA or AES-GCM
//! ```
//!
//! An flist is nobody to trust: what it says is checked where it is read, and every byte of a file hashes to what the flist
//! says. Stands beside the other stores and knows no frontend.
//!
//! A mount in a configuration:
//!
//! ```toml
//! [[mount]]
//! kind = "flist"
//! prefix = "flist"
//! dir = "/srv/flists"
//! sources = ["dir:///srv/chunks", "zdb://10.0.0.1:9900/flist"]
//! ```
//!
//! Spec: spec/flist.md.

mod address;
mod archive;
mod capnp;
mod chunk;
mod chunks;
mod database;
mod flist;
mod inode;
mod memory;
mod metadata;
mod profile;
mod rfs;
mod sign;
mod source;
#[cfg(test)]
mod tests;
mod values;
mod vfs;
pub mod write;
mod zflist;

pub use crate::{
    address::SourceUrl,
    chunk::{CHUNK_LEN_MAX, Chunk, STORED_LEN_MAX},
    chunks::{Chunks, ChunksOptions, Sources},
    flist::{DEPTH_MAX, Dir, FLIST_LEN_MAX, Flist, FlistId, Format},
    inode::{Entry, Inode, NodeId},
    metadata::Route,
    sign::{Signers, sign, signature_path},
    vfs::{FlistVfs, KeptFlists, Profiles, flist_file, kept_file, node_of_handle},
};
