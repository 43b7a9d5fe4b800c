//! `/zstor`: blocks that nobody reads without the key, in shards on many nodes of which some may be lost.
//!
//! Puts together what the library has: [`Compress`](muxfs::block::Compress), [`Encrypt`](muxfs::block::Encrypt) and
//! [`Erasure`](muxfs::block::Erasure) over one store for each node. What is added here is what the outside asks for: the
//! root key and its file ([`RootKey`]), directories and 0-db servers as nodes ([`Node`]), and an opening that tells a wrong key from
//! damage, and a lost node from a first start ([`Zstor`]).
//!
//! A mount in a configuration:
//!
//! ```toml
//! [[mount]]
//! kind = "zstor"
//! prefix = "zstor"
//! data = 2
//! parity = 1
//! nodes = [{ dir = "/disk1/muxfs" }, { dir = "/disk2/muxfs" }, { dir = "/disk3/muxfs" }]
//! ```
//!
//! This crate knows `muxfs`, files through `muxfs-local`, and no frontend. Spec: spec/zstor.md.

mod bucket;
mod calls;
mod dir;
mod distinct;
mod files;
mod heads;
mod key;
mod mark;
mod members;
mod node;
pub mod resp;
mod ring;
mod rotate;
mod scrub;
mod settler;
mod space;
mod status;
mod store;
pub mod v2;
mod zdb;

pub use crate::{
    bucket::BucketPlace,
    heads::NodeHeads,
    key::RootKey,
    node::{Node, OpenNode, Place, SegmentsOptionsOf},
    ring::KeyRing,
    rotate::Rotation,
    scrub::{NamedBlock, ScrubPass, ScrubState, ScrubTotals, Scrubber},
    settler::Settling,
    status::{NodeStatus, ZstorPlan, ZstorStatus},
    store::{Access, Zstor, ZstorOptions, holds_data},
    zdb::{Password, ZdbAddress, ZdbPlace, ZdbValues},
};
