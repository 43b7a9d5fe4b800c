//! Blocks, and records of names, from elsewhere for `/ipfs`: trustless HTTP gateways, other MuxFS servers and Kubo nodes.
//!
//! ```text
//!   muxfs::dag::Dag --> muxfs::block::Cache --> Sources --> Gateway   GET /ipfs/CID?format=raw
//!                                                  |
//!                                                  '------> Kubo      POST /api/v0/block/get?arg=CID
//!                                                               '----> http: connections, TLS, limits
//! ```
//!
//! A source is nobody to trust: what does not hash to its key is never handed on, whoever sent it, and whatever a server
//! does costs a bounded amount of memory and time. Stands beside the other stores and knows only [`muxfs`]. Nothing here
//! is asked but by who reads by CID. Spec: spec/sources.md.

mod ahead;
mod cars;
mod files;
mod gateway;
mod health;
mod http;
mod kubo;
mod names;
mod publish;
mod routing;
mod sources;
mod url;

use std::fmt;

use bytes::Bytes;
use muxfs::{
    BlockKey, Cid, Error, ErrorKind, Result,
    block::{Checked, Checks},
};

pub use crate::{
    files::HttpFiles,
    gateway::Gateway,
    http::HttpOptions,
    kubo::{Kubo, KuboAuth, KuboOptions},
    names::{NameSources, NamesOptions},
    publish::KuboImport,
    sources::{Sources, SourcesOptions},
    url::{SourceUrl, Url},
};

/// Before a multihash: a CID of version 1, of plain bytes. By it a block is asked for, whatever its codec is.
const RAW_CID_PREFIX: [u8; 2] = [0x01, 0x55];

/// The CID by which the block of a key is asked for; `None` for a key that is no multihash, or of a hash that nobody here
/// verifies: no source has a block of it.
fn cid_of_key(key: &BlockKey) -> Option<Cid> {
    let cid = Cid::from_bytes(&[&RAW_CID_PREFIX, key.as_bytes()].concat()).ok()?;
    cid.identity().is_none().then_some(cid)
}

/// Why a source that is in order did not say in time whether it has a block: as the cause of an `Unavailable`, it tells of
/// this block alone, and nothing of the next one.
#[derive(Debug)]
struct Undecided(String);

impl Undecided {
    fn is_cause_of(error: &Error) -> bool {
        std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<Self>)
    }
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Undecided {}

/// Refuses what a source cannot do.
fn read_only(op: &'static str) -> Error {
    Error::new(ErrorKind::ReadOnly, op).because("blocks of others are read, not changed")
}

/// The block, if it is the one that was asked for.
async fn checked(checks: &Checks, cid: &Cid, block: Bytes, op: &'static str, url: &Url) -> Result<Checked> {
    let len = block.len();
    checks.check(cid, block).await.map_err(|_| {
        let why = format!("it gave {len} bytes that are not those of {cid}");
        Error::new(ErrorKind::Corrupt, op).at(url).because(why)
    })
}
