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

/// How many lists and maps may enclose a value: decoding and encoding use the stack.
pub const IPLD_DEPTH_MAX: usize = 256;

/// What the values of one block may take in memory, in bytes: 1.4 million numbers, or some 70,000 maps of one entry. Of
/// a block of 2 MiB hostile bytes could otherwise make hundreds of times as much.
pub const IPLD_LEN_MAX: usize = 64 << 20;

/// What of [`IPLD_LEN_MAX`] is left while a block is decoded; an estimate from above, but for the growth of lists.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Budget {
    const ENTRY_LEN: usize = size_of::<String>() + size_of::<Ipld>();
    /// A map of one entry takes a whole node of its tree, which has room for eleven.
    const NODE_ENTRY_COUNT: usize = 11;
    const NODE_LEN: usize = (Self::NODE_ENTRY_COUNT + 1) * Self::ENTRY_LEN;
    /// What an allocation takes beside its content.
    const ALLOCATION_LEN: usize = 32;

    pub(super) fn new() -> Self {
        Self(IPLD_LEN_MAX)
    }

    fn take(&mut self, len: usize) -> Result<(), &'static str> {
        self.0 = self.0.checked_sub(len).ok_or("its values would take too much memory")?;
        Ok(())
    }

    /// A list that is not empty, beside its values: room is made for four at least.
    pub(super) fn list(&mut self) -> Result<(), &'static str> {
        self.take(4 * size_of::<Ipld>() + Self::ALLOCATION_LEN)
    }

    /// A value in a list or a map, or the outermost.
    pub(super) fn value(&mut self) -> Result<(), &'static str> {
        self.take(size_of::<Ipld>())
    }

    /// Text, bytes or a link, beside its value.
    pub(super) fn content(&mut self, len: usize) -> Result<(), &'static str> {
        self.take(Self::ALLOCATION_LEN + len)
    }

    /// The entry of a map, beside its value, after `index` others; nodes are at least half full.
    pub(super) fn entry(&mut self, index: usize, key_len: usize) -> Result<(), &'static str> {
        let node_len = match index {
            0 => Self::NODE_LEN,
            1..Self::NODE_ENTRY_COUNT => 0,
            _ => 2 * Self::ENTRY_LEN,
        };
        self.take(node_len + Self::ALLOCATION_LEN + key_len)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cid::tests::any_cid;

    /// Any value that both codecs can write.
    pub(crate) fn any_ipld() -> impl Strategy<Value = Ipld> {
        let whole = -(1_i128 << 64)..(1 << 64);
        let leaf = prop_oneof![
            Just(Ipld::Null),
            any::<bool>().prop_map(Ipld::Bool),
            whole.prop_map(Ipld::Integer),
            (-1000..1000_i128).prop_map(Ipld::Integer),
            any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Ipld::Float),
            (-1000..1000_i32).prop_map(|float| Ipld::Float(f64::from(float))),
            ".{0,12}".prop_map(Ipld::String),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Ipld::Bytes(bytes.into())),
            any_cid().prop_map(Ipld::from),
        ];
        leaf.prop_recursive(5, 60, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Ipld::List),
                proptest::collection::btree_map("[a-z!0]{0,6}|.{0,4}", inner, 0..8).prop_map(Ipld::Map),
            ]
        })
    }

    #[test]
    fn a_budget_ends() {
        let mut budget = Budget::new();
        let count = (0..IPLD_LEN_MAX).take_while(|_| budget.value().is_ok()).count();
        assert_eq!(count, IPLD_LEN_MAX / size_of::<Ipld>());
        assert!(Budget::new().content(IPLD_LEN_MAX).is_err());
    }
}
