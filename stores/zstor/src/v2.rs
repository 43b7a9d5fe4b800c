//! What zstor v2 stored: read from the 0-dbs that have it, and written so that zstor v2 retrieves it.
//!
//! A file there is compressed, encrypted, padded and cut into shards, each a few values in a namespace in sequential mode
//! ([`Object`]); where they are, their checksums and the key are told by metadata in four namespaces in user mode
//! ([`Metadata`]), under a hash of the file's path ([`MetaKey`]). Everything that has a checksum is held
//! against it, the file itself too, before a byte of it is given away. Nothing here is a [`BlockStore`](muxfs::BlockStore):
//! it is for those who move. Spec: spec/zstor-v2.md.

mod backend;
mod checksum;
mod cluster;
mod config;
mod directory;
mod key;
mod metadata;
mod object;
mod placement;
mod shards;

#[cfg(test)]
mod tests;

pub use self::{
    backend::ZdbInfo,
    checksum::{Checksum, Checksummer},
    cluster::{Cluster, Fault, Listing, MEMORY_MAX_DEFAULT},
    config::{Config, MetaKey},
    key::DataKey,
    metadata::{Metadata, ShardInfo, ShardKey},
    object::{Object, Packed, Packer},
    placement::Rules,
};
