//! The IPLD data model. Spec: <https://ipld.io/docs/data-model/>.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::Cid;

/// A value of linked data: what dag-cbor and dag-json carry.
///
/// An own type, because `ipld-core`'s cannot hold the identity CIDs of 65 to 128 bytes that IPFS allows.
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
    List(Vec<Ipld>),
    /// Values by name; each codec has its own order of names.
    Map(BTreeMap<String, Ipld>),
    /// A CID.
    Link(Cid),
}
