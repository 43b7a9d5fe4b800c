//! A node of the attribute tree: one block, told by its tag, checked once, as it is loaded.
//!
//! Every node is a list that begins with its tag. A node is read by the strict reader of dag-cbor, item by item, so it
//! has one form only; what more a kind of node has to obey is in its own file. Whether a node is in the right *place*
//! (a block may be linked from anywhere) can only be told by who came to it, and is checked on every look-up.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{
    list::{List, ListIndex},
    names::{NameIndex, NameLeaf},
    radix::{InodeIndex, InodeLeaf, Root},
};
use crate::{
    Cid, Codec, Error, ErrorKind, Result,
    dag::{
        Dag,
        cbor::{Reader, write_content, write_head, write_link},
    },
};

/// How every link between nodes begins: `CIDv1`, dag-cbor, sha2-256 of 32 bytes.
const CID_HEAD: [u8; 4] = [0x01, 0x71, 0x12, 0x20];

/// What a node takes in memory beside its bytes and its tables: the handle, the map and the list of the cache.
const NODE_LEN: usize = 256;

/// A link to a node: the digest of its CID, the only part in which they differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(super) [u8; 32]);

impl NodeId {
    /// The link of a CID; `None` where no node has such a CID.
    pub(crate) fn of(cid: &Cid) -> Option<Self> {
        let digest = cid.digest().try_into().ok()?;
        (*cid == Cid::v1_sha256(Codec::DagCbor, digest)).then_some(Self(digest))
    }

    /// The CID of the node.
    pub(crate) fn cid(self) -> Cid {
        Cid::v1_sha256(Codec::DagCbor, self.0)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, &'static str> {
        let digest = reader.link()?.strip_prefix(&CID_HEAD).and_then(|digest| digest.try_into().ok());
        digest.map(Self).ok_or("a link to a node is a CID of version 1, dag-cbor, sha2-256")
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        let mut cid = [0; 36];
        let (head, digest) = cid.split_at_mut(CID_HEAD.len());
        head.copy_from_slice(&CID_HEAD);
        digest.copy_from_slice(&self.0);
        write_link(&cid, out);
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cid(), f)
    }
}

/// A node, decoded as far as look-ups need it.
#[derive(Debug)]
pub(crate) enum AttrNode {
    /// The root.
    Root(Root),
    /// Leads from numbers to leaves.
    InodeIndex(InodeIndex),
    /// Inodes.
    Inodes(InodeLeaf),
    /// Leads from ranks to names.
    NameIndex(NameIndex),
    /// Names of a directory.
    Names(NameLeaf),
    /// Leads to parts of a list.
    ListIndex(ListIndex),
    /// A part of a list: parents, data ranges or extended attributes.
    List(List),
}

impl AttrNode {
    /// Decodes a block.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` where a newer program wrote it; the caller names the CID.
    pub(super) fn decode(block: &Bytes) -> Result<Self> {
        let fail = |why| Error::new(ErrorKind::Corrupt, "attrs.decode").because(why);
        let mut reader = Reader::new(block);
        let (count, tag) = reader.list().and_then(|count| Ok((count, reader.str()?))).map_err(fail)?;
        let node = match tag {
            Root::TAG => Root::read(&mut reader, count)?.map(Self::Root),
            InodeIndex::TAG => InodeIndex::read(&mut reader, count).map(Self::InodeIndex),
            InodeLeaf::TAG => InodeLeaf::read(&mut reader, count, block).map(Self::Inodes),
            NameIndex::TAG => NameIndex::read(&mut reader, count).map(Self::NameIndex),
            NameLeaf::TAG => NameLeaf::read(&mut reader, count, block).map(Self::Names),
            ListIndex::TAG => ListIndex::read(&mut reader, count).map(Self::ListIndex),
            _ => List::read(tag, &mut reader, count, block).map(Self::List),
        };
        node.and_then(|node| reader.end().map(|()| node)).map_err(fail)
    }

    /// About how many bytes of memory it takes.
    pub(super) fn len(&self) -> usize {
        NODE_LEN
            + match self {
                Self::Root(_) => 0,
                Self::InodeIndex(index) => index.len(),
                Self::Inodes(leaf) => leaf.len(),
                Self::NameIndex(index) => index.len(),
                Self::Names(leaf) => leaf.len(),
                Self::ListIndex(index) => index.len(),
                Self::List(list) => list.len(),
            }
    }
}

/// Loads a node: reads its block, verifies it and decodes it.
///
/// # Errors
/// `NotFound` if the block is absent; `Corrupt`; `Unsupported` if a newer program wrote it; each naming the CID.
pub(crate) async fn load(dag: &Dag, id: NodeId) -> Result<Arc<AttrNode>> {
    let cid = id.cid();
    let block = dag.get_block(&cid).await?;
    AttrNode::decode(&block).map(Arc::new).map_err(|error| error.at(cid))
}

/// Puts the block of a node.
pub(super) async fn put(dag: &Dag, block: Vec<u8>) -> Result<NodeId> {
    let cid = dag.put_block(Codec::DagCbor, block.into()).await?;
    NodeId::of(&cid).ok_or_else(|| super::internal("dag-cbor is put as version 1, sha2-256"))
}

/// Writes the head of a node: of a list of `count` items, the first being the tag.
pub(super) fn write_tag(tag: &str, count: u64, out: &mut Vec<u8>) {
    write_head(4, count, out);
    write_content(3, tag.as_bytes(), out);
}

/// Checks how many items a node has, its tag counted.
pub(super) fn expect_count(count: u64, expected: u64) -> Result<(), &'static str> {
    if count == expected { Ok(()) } else { Err("not as many items as such a list has") }
}

/// The error of a block that is not what it has to be.
pub(super) fn corrupt(cid: &Cid, why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "attrs.lookup").at(cid).because(why)
}
