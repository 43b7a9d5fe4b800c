//! The IPLD data model: what the codecs of linked data carry.
//!
//! An own type, because `ipld-core`'s cannot hold the identity CIDs of 65 to 128 bytes that IPFS allows. A link is boxed:
//! a value then takes 48 bytes instead of 176, so that a block of many tiny items costs less memory.
//! Spec: spec/linked-data.md, <https://ipld.io/docs/data-model/>.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::Cid;

/// A value of linked data.
#[derive(Debug, Clone, PartialEq)]
pub enum Ipld {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// From -2^64 to 2^64-1.
    Integer(i128),
    /// Finite: neither NaN nor an infinity can be encoded.
    Float(f64),
    /// Text.
    String(String),
    /// Bytes.
    Bytes(Bytes),
    /// Values in order.
    List(Vec<Self>),
    /// Values by name; each codec has its own order of names.
    Map(BTreeMap<String, Self>),
    /// A CID; [`From`] makes one.
    Link(Box<Cid>),
}

const _: () = assert!(size_of::<Ipld>() <= 48);

impl From<Cid> for Ipld {
    fn from(cid: Cid) -> Self {
        Self::Link(Box::new(cid))
    }
}

impl From<&str> for Ipld {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<u64> for Ipld {
    fn from(number: u64) -> Self {
        Self::Integer(number.into())
    }
}

impl From<Bytes> for Ipld {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}
