//! Blocks and heads in an S3 bucket: `/s3`.
//!
//! Blocks are packed into objects of several MiB, each of which describes itself; the packs are a log, numbered without gaps,
//! each put only where nothing has its number. That orders them, keeps two writers apart, and makes a commit one put.
//! [`S3Store`] is the store, [`Bucket`] a place for it. Spec: spec/s3-store.md.

mod ahead;
mod bucket;
mod compact;
mod connect;
mod fence;
mod heads;
mod http;
mod index;
mod kept;
mod log;
mod open;
mod pack;
mod ranges;
mod read;
mod send;
mod store;

pub use self::{
    bucket::{Bucket, S3Limits, S3Stats},
    compact::S3Compacted,
    connect::{S3Credentials, S3Place},
    store::{PACK_LEN, S3Access, S3Options, S3Store, S3Usage},
};
