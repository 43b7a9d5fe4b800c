//! Linked data of a [`Dag`]: blocks as values of the IPLD data model, whatever their codec, and back.
//!
//! Sits above the codecs ([`cbor`], [`json`], [`pb`](super::pb)) and gives each of them the same two functions. A node of
//! dag-pb is seen as the data model sees it, `{Data, Links: [{Hash, Name, Tsize}]}`. Spec: spec/linked-data.md.

use std::{collections::BTreeMap, str};

use bytes::Bytes;
use multibase::Base;

use super::{
    Dag, cbor,
    ipld::{Budget, Ipld},
    json,
    pb::{PbLink, PbNode},
};
use crate::{Cid, Codec, Error, ErrorKind, Result};

/// Decodes a block as its codec says; a raw block is bytes.
///
/// ```
/// use muxfs::{Codec, dag::{Ipld, linked}};
/// assert_eq!(linked::decode(Codec::DagJson, &"[1]".into())?, Ipld::List(vec![Ipld::Integer(1)]));
/// # Ok::<(), muxfs::Error>(())
/// ```
///
/// # Errors
/// `Corrupt` if it is no block of that codec, in the only form the codec allows.
pub fn decode(codec: Codec, block: &Bytes) -> Result<Ipld> {
    match codec {
        Codec::Raw => Ok(Ipld::Bytes(block.clone())),
        Codec::DagPb => {
            view(&PbNode::decode(block)?).map_err(|why| Error::new(ErrorKind::Corrupt, "pb.decode").because(why))
        }
        Codec::DagCbor => cbor::decode(block),
        Codec::DagJson => json::decode(block),
    }
}

/// Encodes a value in a codec.
///
/// ```
/// use muxfs::{Codec, dag::{Ipld, linked}};
/// assert_eq!(linked::encode(Codec::DagCbor, &Ipld::Null)?, &b"\xf6"[..]);
/// assert!(linked::encode(Codec::DagPb, &Ipld::Null).is_err());
/// # Ok::<(), muxfs::Error>(())
/// ```
///
/// # Errors
/// `InvalidArgument` where the codec has no form for the value.
pub fn encode(codec: Codec, value: &Ipld) -> Result<Bytes> {
    match (codec, value) {
        (Codec::Raw, Ipld::Bytes(bytes)) => Ok(bytes.clone()),
        (Codec::Raw, _) => {
            Err(Error::new(ErrorKind::InvalidArgument, "raw.encode").because("a raw block holds bytes only"))
        }
        (Codec::DagPb, _) => {
            let node = unview(value).map_err(|why| Error::new(ErrorKind::InvalidArgument, "pb.encode").because(why))?;
            Ok(node.encode())
        }
        (Codec::DagCbor, _) => cbor::encode(value).map(Bytes::from),
        (Codec::DagJson, _) => json::encode(value).map(Bytes::from),
    }
}

impl Dag {
    /// The value of a block; `None` where there are but bytes: a raw block, or one of a codec that `MuxFS` does not read.
    ///
    /// # Errors
    /// `NotFound` if the block is absent; `Corrupt` if it fails verification or is not what its codec says.
    pub async fn get_linked(&self, cid: &Cid) -> Result<Option<Ipld>> {
        match cid.codec() {
            Some(codec @ (Codec::DagPb | Codec::DagCbor | Codec::DagJson)) => {
                decode(codec, &self.get_block(cid).await?).map(Some).map_err(|error| error.at(cid))
            }
            Some(Codec::Raw) | None => Ok(None),
        }
    }

    /// Puts a value as a dag-cbor block. What it links to is not looked at.
    ///
    /// # Errors
    /// `InvalidArgument` where dag-cbor has no form for it; `TooLarge` past
    /// [`DAG_BLOCK_LEN_MAX`](super::DAG_BLOCK_LEN_MAX): split it and link the parts.
    pub async fn put_linked(&self, data: &Ipld) -> Result<Cid> {
        self.put_block(Codec::DagCbor, encode(Codec::DagCbor, data)?).await
    }
}

/// Calls `found` with every CID that a value links to.
pub(super) fn for_each_link(value: &Ipld, found: &mut impl FnMut(&Cid)) {
    match value {
        Ipld::Link(cid) => found(cid),
        Ipld::List(values) => values.iter().for_each(|value| for_each_link(value, found)),
        Ipld::Map(values) => values.values().for_each(|value| for_each_link(value, found)),
        Ipld::Null | Ipld::Bool(_) | Ipld::Integer(_) | Ipld::Float(_) | Ipld::String(_) | Ipld::Bytes(_) => {}
    }
}

/// A node of dag-pb as the data model sees it.
fn view(node: &PbNode) -> Result<Ipld, &'static str> {
    let mut budget = Budget::new();
    let mut links = Vec::new();
    for link in &node.links {
        budget.value()?;
        budget.content(size_of::<Cid>())?;
        let mut entries = BTreeMap::from([("Hash".to_owned(), Ipld::from(link.cid))]);
        if let Some(name) = &link.name {
            let name = name_to_text(name);
            budget.content(name.len())?;
            entries.insert("Name".to_owned(), Ipld::String(name));
        }
        if let Some(tsize) = link.tsize {
            entries.insert("Tsize".to_owned(), Ipld::from(tsize));
        }
        entries.keys().enumerate().try_for_each(|(index, key)| budget.entry(index, key.len()))?;
        links.push(Ipld::Map(entries));
    }
    let mut entries = BTreeMap::from([("Links".to_owned(), Ipld::List(links))]);
    if let Some(data) = &node.data {
        entries.insert("Data".to_owned(), Ipld::Bytes(data.clone()));
    }
    Ok(Ipld::Map(entries))
}

/// The node of dag-pb that a value describes: nothing missing, nothing beside, links sorted by name.
fn unview(value: &Ipld) -> Result<PbNode, &'static str> {
    let Ipld::Map(entries) = value else { return Err("a dag-pb node is a map of Data and Links") };
    if entries.keys().any(|key| key != "Data" && key != "Links") {
        return Err("a dag-pb node has Data and Links and nothing else");
    }
    let data = match entries.get("Data") {
        None => None,
        Some(Ipld::Bytes(data)) => Some(data.clone()),
        Some(_) => return Err("Data are bytes, or are not there"),
    };
    let Some(Ipld::List(links)) = entries.get("Links") else { return Err("Links is a list, and always there") };
    let links: Vec<_> = links.iter().map(unview_link).collect::<Result<_, _>>()?;
    let name = |link: &PbLink| link.name.clone().unwrap_or_default();
    if !links.is_sorted_by_key(name) {
        return Err("links are sorted by the bytes of their names");
    }
    Ok(PbNode { links, data })
}

fn unview_link(value: &Ipld) -> Result<PbLink, &'static str> {
    let Ipld::Map(entries) = value else { return Err("a link is a map of Hash, Name and Tsize") };
    if entries.keys().any(|key| key != "Hash" && key != "Name" && key != "Tsize") {
        return Err("a link has Hash, Name and Tsize and nothing else");
    }
    let Some(Ipld::Link(cid)) = entries.get("Hash") else { return Err("a link's Hash is a CID, and always there") };
    let name = match entries.get("Name") {
        None => None,
        Some(Ipld::String(text)) => Some(text_to_name(text)?),
        Some(_) => return Err("a link's Name is text, or is not there"),
    };
    let tsize = match entries.get("Tsize") {
        None => None,
        Some(Ipld::Integer(number)) => Some(u64::try_from(*number).map_err(|_| "a link's Tsize is from 0 to 2^64-1")?),
        Some(_) => return Err("a link's Tsize is a whole number, or is not there"),
    };
    Ok(PbLink { cid: **cid, name, tsize })
}

/// A name as text: itself where it can be, else a NUL, which begins no real name, and its bytes in base16.
fn name_to_text(name: &[u8]) -> String {
    match str::from_utf8(name) {
        Ok(text) if !text.starts_with('\0') => text.to_owned(),
        _ => ["\0", &Base::Base16Lower.encode(name)].concat(),
    }
}

fn text_to_name(text: &str) -> Result<Bytes, &'static str> {
    let Some(digits) = text.strip_prefix('\0') else { return Ok(Bytes::copy_from_slice(text.as_bytes())) };
    let name = Base::Base16Lower.decode(digits).unwrap_or_default();
    if name_to_text(&name) == text {
        Ok(name.into())
    } else {
        Err("after a NUL a link's Name is base16 of a name that is not text")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        block::Mem,
        cid::tests::any_cid,
        cid_of,
        dag::{DAG_BLOCK_LEN_MAX, DagOptions},
    };

    fn map<const N: usize>(entries: [(&str, Ipld); N]) -> Ipld {
        Ipld::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
    }

    #[tokio::test]
    async fn what_is_put_is_got() {
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let leaf = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
        let value = map([("leaf", leaf.into()), ("size", 4.into()), ("name", "a".into())]);
        let cid = dag.put_linked(&value).await.expect("put");
        assert_eq!((cid.codec(), cid.version()), (Some(Codec::DagCbor), 1));
        assert_eq!(dag.get_linked(&cid).await.expect("got"), Some(value));
        assert_eq!(dag.get_linked(&leaf).await.expect("bytes"), None);
        let unknown = Cid::from_bytes(&[1, 0x78, 0, 1, 0]).expect("git-raw");
        assert_eq!(dag.get_linked(&unknown).await.expect("bytes"), None);
    }

    #[tokio::test]
    async fn what_has_no_form_is_refused() {
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let error = dag.put_linked(&Ipld::Float(f64::NAN)).await.expect_err("no form");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let error = dag.put_linked(&Ipld::Bytes(vec![0; DAG_BLOCK_LEN_MAX].into())).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let cid = dag.put_block(Codec::DagCbor, b"\x18\x01"[..].into()).await.expect("bytes are bytes");
        let error = dag.get_linked(&cid).await.expect_err("not strict");
        assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(cid.to_string().as_str())));
    }

    #[test]
    fn a_directory_is_seen_as_a_map() {
        let block = Bytes::from_static(b"\x12\x0f\x0a\x06\x01\x55\x00\x02hi\x12\x03\xffab\x18\x02\x0a\x02\x08\x01");
        let hash = Cid::from_bytes(b"\x01\x55\x00\x02hi").expect("a CID");
        let link = map([("Hash", hash.into()), ("Name", "\0ff6162".into()), ("Tsize", 2.into())]);
        let view = map([("Links", Ipld::List(vec![link])), ("Data", Bytes::from_static(b"\x08\x01").into())]);
        assert_eq!(decode(Codec::DagPb, &block).expect("a node"), view);
        assert_eq!(encode(Codec::DagPb, &view).expect("its view"), block);
    }

    #[test]
    fn names_that_are_no_text() {
        for name in ["a", "", "é", "\u{fffd}", "a\0b"] {
            assert_eq!(name_to_text(name.as_bytes()), name);
        }
        for text in ["\0", "\0zz", "\x0061", "\0FF", "\0f"] {
            assert!(text_to_name(text).is_err(), "{text:?}");
        }
    }

    /// 2 MiB of the smallest links would be a quarter of a gigabyte of maps.
    #[test]
    fn the_view_of_a_hostile_node_is_bounded() {
        let block: Bytes = b"\x12\x06\x0a\x04\x01\x55\x00\x00".repeat(250_000).into();
        assert_eq!(decode(Codec::DagPb, &block).expect_err("too much").kind(), ErrorKind::Corrupt);
        let link = PbLink { cid: cid_of(Codec::Raw, b""), name: Some(Bytes::from_static(b"name")), tsize: Some(1) };
        let node = PbNode { links: vec![link; 40_000], data: None };
        decode(Codec::DagPb, &node.encode()).expect("as large as directories get");
    }

    proptest! {
        /// Seen and encoded again, a sorted node is the same block.
        #[test]
        fn views_lose_nothing(
            links in proptest::collection::vec((any_cid(), proptest::option::of("\0?.{0,3}"), any::<Option<Vec<u8>>>(), any::<Option<u64>>()), 0..6),
            data in any::<Option<Vec<u8>>>(),
        ) {
            let links = links.into_iter().map(|(cid, text, bytes, tsize)| {
                PbLink { cid, name: text.map(Bytes::from).or(bytes.map(Bytes::from)), tsize }
            });
            let mut node = PbNode { links: links.collect(), data: data.map(Bytes::from) };
            node.sort_links();
            let block = node.encode();
            let seen = decode(Codec::DagPb, &block).expect("a node");
            prop_assert_eq!(encode(Codec::DagPb, &seen).expect("its view"), &block[..]);
            let cbor = encode(Codec::DagCbor, &seen).expect("linked data");
            prop_assert_eq!(decode(Codec::DagCbor, &cbor).expect("linked data"), seen);
        }
    }
}
