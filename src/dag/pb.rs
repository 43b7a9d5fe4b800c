//! dag-pb: the codec of `UnixFS` nodes, strictly. Spec: spec/dag.md #dag-pb, <https://ipld.io/specs/codecs/dag-pb/spec/>.
//!
//! ```text
//! PBNode = *( 12 len PBLink ) [ 0a len Data ]                   links first, though their field number is 2
//! PBLink = 0a len CID [ 12 len Name ] [ 18 varint(Tsize) ]      in this order
//! ```
//!
//! An own codec, because names here are bytes (a name that is not UTF-8 must come back as it was), because `Data` that is
//! absent and `Data` that is empty differ, and because large directories are searched without parsing every CID.

use std::ops::Range;

use bytes::Bytes;

use super::{
    DAG_BLOCK_LEN_MAX,
    wire::{Why, bytes_len, put_bytes, put_len, put_number, take_bytes, take_varint, varint_len},
};
use crate::{Cid, Error, ErrorKind, Result};

/// A link of a dag-pb node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PbLink {
    /// What it points to.
    pub cid: Cid,
    /// Its name: bytes, not text. `UnixFS` files have an empty name here, not an absent one.
    pub name: Option<Bytes>,
    /// The length of all blocks below, as whoever wrote the link says: a hint, not a fact.
    pub tsize: Option<u64>,
}

/// A dag-pb node: links in their order, and bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PbNode {
    /// The links; sorted by name where we write them, in any order where others do.
    pub links: Vec<PbLink>,
    /// The bytes beside the links; an absent field and an empty one differ.
    pub data: Option<Bytes>,
}

impl PbNode {
    /// Decodes a block; the parts share its memory.
    ///
    /// ```
    /// use muxfs::dag::pb::PbNode;
    /// let node = PbNode::decode(&b"\x0a\x02\x08\x01"[..].into())?;
    /// assert_eq!((node.links.len(), node.data.as_deref()), (0, Some(&b"\x08\x01"[..])));
    /// assert!(PbNode::decode(&b"\x12\x00"[..].into()).is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Corrupt` if the block is not one dag-pb node, is ambiguous, or is longer than
    /// [`DAG_BLOCK_LEN_MAX`].
    pub fn decode(block: &Bytes) -> Result<Self> {
        let scan = PbScan::new(block)?;
        let data = scan.data.map(|data| block.slice_ref(data));
        let mut links = Vec::new();
        for link in scan {
            let link = link?;
            links.push(PbLink {
                cid: link.cid()?,
                name: link.name.map(|name| block.slice_ref(name)),
                tsize: link.tsize,
            });
        }
        Ok(Self { links, data })
    }

    /// Encodes the node, its links in the order they have.
    ///
    /// ```
    /// use muxfs::dag::pb::PbNode;
    /// let node = PbNode { links: Vec::new(), data: Some(b"\x08\x01"[..].into()) };
    /// assert_eq!(node.encode(), &b"\x0a\x02\x08\x01"[..]);
    /// ```
    pub fn encode(&self) -> Bytes {
        let mut block = Vec::with_capacity(self.encoded_len());
        for link in &self.links {
            let cid = link.cid.to_bytes();
            put_len(&mut block, 2, link.body_len(cid.len()));
            put_bytes(&mut block, 1, &cid);
            if let Some(name) = &link.name {
                put_bytes(&mut block, 2, name);
            }
            if let Some(tsize) = link.tsize {
                put_number(&mut block, 3, tsize);
            }
        }
        if let Some(data) = &self.data {
            put_bytes(&mut block, 1, data);
        }
        block.into()
    }

    /// The length of what [`PbNode::encode`] gives.
    pub fn encoded_len(&self) -> usize {
        let links: usize = self.links.iter().map(PbLink::encoded_len).sum();
        links + self.data.as_ref().map_or(0, |data| bytes_len(data.len()))
    }

    /// Sorts the links by the bytes of their names, equal ones staying in their order: what a new node needs before it
    /// is encoded. A node that was decoded keeps its order, or its CID would change.
    pub fn sort_links(&mut self) {
        self.links.sort_by(|a, b| a.name.as_deref().unwrap_or_default().cmp(b.name.as_deref().unwrap_or_default()));
    }
}

impl PbLink {
    /// The length of the link in its node's block, in bytes.
    pub fn encoded_len(&self) -> usize {
        bytes_len(self.body_len(self.cid.to_bytes().len()))
    }

    fn body_len(&self, cid_len: usize) -> usize {
        bytes_len(cid_len)
            + self.name.as_ref().map_or(0, |name| bytes_len(name.len()))
            + self.tsize.map_or(0, |tsize| 1 + varint_len(tsize))
    }
}

/// Appends a link that has a name, in two parts, and a size.
pub(crate) fn put_link(to: &mut Vec<u8>, cid: &[u8], name: [&[u8]; 2], tsize: u64) {
    let name_len = name[0].len() + name[1].len();
    put_len(to, 2, bytes_len(cid.len()) + bytes_len(name_len) + 1 + varint_len(tsize));
    put_bytes(to, 1, cid);
    put_len(to, 2, name_len);
    to.extend_from_slice(name[0]);
    to.extend_from_slice(name[1]);
    put_number(to, 3, tsize);
}

/// The length of what [`put_link`] appends.
pub(crate) fn link_len(cid_len: usize, name_len: usize, tsize: u64) -> usize {
    bytes_len(bytes_len(cid_len) + bytes_len(name_len) + 1 + varint_len(tsize))
}

/// A link as it stands in a block, its CID not parsed yet: what a search through a large directory needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PbRawLink<'a> {
    /// The bytes of its CID.
    pub(crate) hash: &'a [u8],
    pub(crate) name: Option<&'a [u8]>,
    pub(crate) tsize: Option<u64>,
}

impl PbRawLink<'_> {
    pub(crate) fn cid(&self) -> Result<Cid> {
        Cid::from_bytes(self.hash).map_err(|error| corrupt("a link's Hash is no CID").because(error))
    }
}

/// The links of a block one by one, borrowed; the frame around them is checked when it is made.
#[derive(Debug, Clone)]
pub(crate) struct PbScan<'a> {
    /// What is not read yet.
    pub(crate) links: &'a [u8],
    pub(crate) data: Option<&'a [u8]>,
}

impl<'a> PbScan<'a> {
    /// Checks the order of links and data and finds both.
    pub(crate) fn new(block: &'a [u8]) -> Result<Self> {
        if block.len() > DAG_BLOCK_LEN_MAX {
            return Err(corrupt("a block has at most 2 MiB"));
        }
        Self::frame(block).map_err(corrupt)
    }

    fn frame(block: &'a [u8]) -> Result<Self, Why> {
        let (mut rest, mut data, mut links) = (block, None, None::<Range<usize>>);
        while let Some((key, tail)) = rest.split_first() {
            let start = block.len() - rest.len();
            rest = tail;
            let field = take_bytes(&mut rest, true)?;
            let end = block.len() - rest.len();
            links = match (key, links) {
                (0x0a, links) if data.is_none() => {
                    data = Some(field);
                    links
                }
                (0x0a, _) => return Err("Data is there twice"),
                (0x12, None) => Some(start..end),
                (0x12, Some(links)) if links.end == start => Some(links.start..end),
                (0x12, _) => return Err("Data stands between Links"),
                _ => return Err("a field is neither Data nor Links"),
            };
        }
        Ok(Self { links: links.and_then(|range| block.get(range)).unwrap_or_default(), data })
    }

    fn link(body: &'a [u8]) -> Result<PbRawLink<'a>, Why> {
        let mut rest = body;
        let mut take = |key: u8| match rest.split_first() {
            Some((first, tail)) if *first == key => {
                rest = tail;
                if key == 0x18 {
                    take_varint(&mut rest, true).map(|value| Some((value, Default::default())))
                } else {
                    take_bytes(&mut rest, true).map(|bytes| Some((0, bytes)))
                }
            }
            _ => Ok(None),
        };
        let hash = take(0x0a)?.ok_or("a link has no Hash")?.1;
        let name = take(0x12)?.map(|(_, name)| name);
        let tsize = take(0x18)?.map(|(tsize, _)| tsize);
        if rest.is_empty() {
            Ok(PbRawLink { hash, name, tsize })
        } else {
            Err("a link's fields are not Hash, Name, Tsize")
        }
    }
}

impl<'a> Iterator for PbScan<'a> {
    type Item = Result<PbRawLink<'a>>;
    fn next(&mut self) -> Option<Self::Item> {
        let (_, mut rest) = self.links.split_first()?;
        let link = take_bytes(&mut rest, true).and_then(Self::link);
        // After a bad link nothing can be said of what follows.
        self.links = if link.is_ok() { rest } else { Default::default() };
        Some(link.map_err(corrupt))
    }
}

fn corrupt(why: Why) -> Error {
    Error::new(ErrorKind::Corrupt, "pb.decode").because(why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Codec, cid_of};

    const CID: &[u8] = b"\x0a\x06\x01\x55\x00\x02hi";

    fn decode(bytes: &[u8]) -> Result<PbNode> {
        PbNode::decode(&Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn blocks_that_are_refused() {
        let link = |body: &[&[u8]]| {
            let body = body.concat();
            [&[0x12, u8::try_from(body.len()).expect("short")], body.as_slice()].concat()
        };
        let good = link(&[CID]);
        let cases: &[(&str, Vec<u8>)] = &[
            ("a link without anything", link(&[])),
            ("an empty Hash", link(&[b"\x0a\x00"])),
            ("a Hash that is no CID", link(&[b"\x0a\x02hi"])),
            ("bytes after the CID", link(&[b"\x0a\x07\x01\x55\x00\x02hi!"])),
            ("only a name", link(&[b"\x12\x01a"])),
            ("only a size", link(&[b"\x18\x01"])),
            ("Hash twice", link(&[CID, CID])),
            ("Name twice", link(&[CID, b"\x12\x01a\x12\x01b"])),
            ("Tsize twice", link(&[CID, b"\x18\x01\x18\x01"])),
            ("Name before Hash", link(&[b"\x12\x01a", CID])),
            ("Tsize before Name", link(&[CID, b"\x18\x01\x12\x01a"])),
            ("an unknown field in a link", link(&[CID, b"\x20\x01"])),
            ("a Tsize that is longer than it needs to be", link(&[CID, b"\x18\x81\x00"])),
            ("a Tsize past 64 bits", link(&[CID, b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"])),
            ("a Tsize of the wrong wire type", link(&[CID, b"\x1a\x01"])),
            ("Data between links", [good.as_slice(), b"\x0a\x00", &good].concat()),
            ("Data twice", b"\x0a\x00\x0a\x00".to_vec()),
            ("Data before and after", [b"\x0a\x00", good.as_slice(), b"\x0a\x00"].concat()),
            ("an unknown field", b"\x1a\x00".to_vec()),
            ("Data as a number", b"\x08\x01".to_vec()),
            ("a length past the end", b"\x0a\x02a".to_vec()),
            ("a length past all memory", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fa".to_vec()),
            ("a length that is longer than it needs to be", b"\x0a\x81\x00a".to_vec()),
            ("a lone key", b"\x0a".to_vec()),
            ("more than 2 MiB", {
                let mut block = vec![0x0a];
                crate::dag::wire::put_varint(&mut block, 2 << 20);
                block.resize(block.len() + (2 << 20), 0);
                block
            }),
        ];
        for (what, bytes) in cases {
            assert_eq!(decode(bytes).expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
        }
        assert!(decode(&good).is_ok(), "the link the cases are made of is good");
    }

    #[test]
    fn what_is_absent_and_what_is_empty_differ() {
        let absent = PbNode::default();
        let empty = PbNode { data: Some(Bytes::new()), ..PbNode::default() };
        assert_eq!((absent.encode().len(), &empty.encode()[..]), (0, &b"\x0a\x00"[..]));
        assert_eq!((decode(b"").expect("no fields"), decode(b"\x0a\x00").expect("empty Data")), (absent, empty));
    }

    #[test]
    fn data_may_come_first_and_links_in_any_order() {
        let node =
            decode(&[b"\x0a\x01d\x12\x0b", CID, b"\x12\x01b\x12\x0b", CID, b"\x12\x01a"].concat()).expect("legal");
        let names: Vec<_> = node.links.iter().map(|link| link.name.clone().expect("named")).collect();
        assert_eq!((names, node.data), (vec![Bytes::from("b"), Bytes::from("a")], Some(Bytes::from("d"))));
    }

    fn any_bytes(len_max: usize) -> impl Strategy<Value = Option<Bytes>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..len_max).prop_map(Bytes::from))
    }

    fn any_node() -> impl Strategy<Value = PbNode> {
        let link = (any::<[u8; 4]>(), any_bytes(20), any::<Option<u64>>()).prop_map(|(seed, name, tsize)| PbLink {
            cid: cid_of(Codec::Raw, &seed),
            name,
            tsize,
        });
        (proptest::collection::vec(link, 0..8), any_bytes(40)).prop_map(|(links, data)| PbNode { links, data })
    }

    proptest! {
        #[test]
        fn nodes_round_trip(node in any_node()) {
            let block = node.encode();
            prop_assert_eq!(block.len(), node.encoded_len());
            prop_assert_eq!(PbNode::decode(&block).expect("what we encode"), node);
        }

        #[test]
        fn sorting_is_by_bytes_and_stable(mut node in any_node()) {
            let mut expected: Vec<_> = node.links.iter().cloned().enumerate().collect();
            expected.sort_by_key(|(index, link)| (link.name.clone().unwrap_or_default(), *index));
            node.sort_links();
            prop_assert_eq!(node.links, expected.into_iter().map(|(_, link)| link).collect::<Vec<_>>());
        }

        /// A changed byte is refused, or gives a node that encodes to the same block, or had its data first.
        #[test]
        fn mutated_blocks_have_one_meaning(node in any_node(), at: proptest::sample::Index, byte: u8, cut in any::<bool>()) {
            let mut block = node.encode().to_vec();
            if block.is_empty() { return Ok(()); }
            let at = at.index(block.len());
            if cut { block.truncate(at) } else { block[at] = byte }
            if let Ok(node) = decode(&block) && block.first() != Some(&0x0a) {
                prop_assert_eq!(&node.encode()[..], &block[..]);
            }
        }

        #[test]
        fn any_bytes_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(node) = decode(&bytes) && bytes.first() != Some(&0x0a) {
                prop_assert_eq!(&node.encode()[..], &bytes[..]);
            }
        }
    }
}
