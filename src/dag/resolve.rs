//! Paths below a CID: through directories, sharded ones, named links and values of linked data, to where they end.
//!
//! Sits above the directories ([`Dag::lookup`]) and the codecs. The codec of each link says how its block is walked, so a
//! path may pass from dag-cbor into `UnixFS` and a raw block has nothing below it. Bounded by the parts of the path and
//! by [`RESOLVE_BLOCK_COUNT_MAX`]; symlinks are not followed. Spec: spec/linked-data.md #paths.

use bytes::Bytes;

use super::{
    Dag, Ipld, Resolved,
    pb::PbScan,
    unixfs::{UnixfsData, UnixfsType},
};
use crate::{Cid, Codec, Error, ErrorKind, Name, Result, block::Expected, path::PATH_PART_COUNT_MAX};

/// The most blocks a path may lead through, shards not counted: a block that is nothing but a link takes no part of the
/// path, and a chain of them could be as long as the store is large.
pub const RESOLVE_BLOCK_COUNT_MAX: usize = 1024;

/// What a path leads through.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// The blocks, shards among them, in their order and without the one where it ends: what proves to others that it leads
    /// there.
    pub(crate) passed: Vec<Cid>,
    /// Those that a part of the path leads to, the end among them.
    pub(crate) roots: Vec<Cid>,
}

impl Dag {
    /// Walks a path: from `root` by one part after the other to the block where it ends, which is not read, or to a
    /// value inside a block of dag-cbor or dag-json, which [`Dag::get_value`] gives.
    ///
    /// # Errors
    /// `NotFound` for a name, key or index that is not there, and for an absent block; `NotDir` for a part below a file,
    /// a symlink, a raw block or a value that has no parts; `Corrupt` for a block that is not what its CID or codec says;
    /// `InvalidArgument` for more than [`PATH_PART_COUNT_MAX`] parts; `TooLarge` past [`RESOLVE_BLOCK_COUNT_MAX`].
    pub async fn resolve(&self, root: &Cid, parts: &[Name]) -> Result<Resolved> {
        self.resolve_noting(root, parts, &mut Way::default()).await
    }

    /// [`Dag::resolve`], with the CID of the root, and those of the parts of the path that lead to a block of their own. Costs
    /// what that does: who walks part by part tells nobody far away where to, and waits for each part.
    ///
    /// # Errors
    /// As [`Dag::resolve`].
    pub async fn resolve_roots(&self, root: &Cid, parts: &[Name]) -> Result<(Resolved, Vec<Cid>)> {
        let mut way = Way { roots: vec![*root], ..Way::default() };
        let end = self.resolve_noting(root, parts, &mut way).await?;
        Ok((end, way.roots))
    }

    /// Tells where blocks may be far away that a path is about to be walked, by whoever does it in steps.
    pub(crate) fn expect_path(&self, root: &Cid, parts: &[Name]) {
        self.expect_elsewhere(&Expected::Path { root, parts });
    }

    /// [`Dag::resolve`], which notes the way.
    pub(crate) async fn resolve_noting(&self, root: &Cid, parts: &[Name], way: &mut Way) -> Result<Resolved> {
        if parts.len() > PATH_PART_COUNT_MAX {
            return Err(refuse(ErrorKind::InvalidArgument, "a path has at most 256 parts").at(root));
        }
        let (mut cid, mut rest) = (*root, parts);
        for _ in 0..RESOLVE_BLOCK_COUNT_MAX {
            let Some((name, below)) = rest.split_first() else {
                return Ok(Resolved { cid, within: Vec::new() });
            };
            self.expect_path(&cid, rest);
            let Some(value) = self.get_linked_only(&cid).await? else {
                way.passed.push(cid);
                let child = self.child(&cid, name, &mut way.passed).await?;
                let child = child.ok_or_else(|| refuse(ErrorKind::NotFound, "nothing has this name"));
                (cid, rest) = (child.map_err(|error| error.at(Place(&cid, rest)))?, below);
                way.roots.push(cid);
                continue;
            };
            match descend(&value, rest).map_err(|error| error.at(Place(&cid, rest)))? {
                (Ipld::Link(link), below) => {
                    way.passed.push(cid);
                    // A block that is nothing but a link takes no part.
                    if below.len() < rest.len() {
                        way.roots.push(**link);
                    }
                    (cid, rest) = (**link, below);
                }
                _ => return Ok(Resolved { cid, within: rest.to_vec() }),
            }
        }
        Err(refuse(ErrorKind::TooLarge, "the path leads through too many blocks").at(root))
    }

    /// The value where a path ends: that of the whole block, or of the part within it. `None` where there are but bytes.
    ///
    /// # Errors
    /// As [`Dag::resolve`] and [`Dag::get_linked`].
    pub async fn get_value(&self, at: &Resolved) -> Result<Option<Ipld>> {
        let Some(value) = self.get_linked(&at.cid).await? else {
            return match at.within.as_slice() {
                [] => Ok(None),
                within => Err(refuse(ErrorKind::NotDir, "bytes have no parts").at(Place(&at.cid, within))),
            };
        };
        match descend(&value, &at.within).map_err(|error| error.at(Place(&at.cid, &at.within)))? {
            (value, []) => Ok(Some(value.clone())),
            (_, _) => Err(refuse(ErrorKind::InvalidArgument, "a link is on the way: resolve the path first")
                .at(Place(&at.cid, &at.within))),
        }
    }

    /// The value of a block of dag-cbor or dag-json.
    async fn get_linked_only(&self, cid: &Cid) -> Result<Option<Ipld>> {
        match cid.codec() {
            Some(Codec::DagCbor | Codec::DagJson) => self.get_linked(cid).await,
            _ => Ok(None),
        }
    }

    /// What a name means in a block that is no value: an entry of a directory, or a named link.
    async fn child(&self, cid: &Cid, name: &Name, passed: &mut Vec<Cid>) -> Result<Option<Cid>> {
        let not_dir = |why| refuse(ErrorKind::NotDir, why).at(Place(cid, std::slice::from_ref(name)));
        match cid.codec() {
            Some(Codec::DagPb) => {}
            Some(Codec::Raw) => return Err(not_dir("a raw block has nothing below it")),
            _ => return Err(not_dir("the codec of this block is not one that is walked")),
        }
        let block = self.get_block(cid).await?;
        match unixfs_type(&block).map_err(|error| error.at(cid))? {
            Some(UnixfsType::Directory | UnixfsType::HamtShard) => {
                Ok(self.lookup_noting(cid, name, passed).await?.map(|entry| entry.link.cid))
            }
            Some(UnixfsType::Symlink) => Err(not_dir("a symlink is not followed")),
            Some(_) => Err(not_dir("a file has nothing below it")),
            None => named_link(&block, name).map_err(|error| error.at(cid)),
        }
    }
}

/// What the `UnixFS` message of a dag-pb block says it is; `None` if it holds none.
fn unixfs_type(block: &Bytes) -> Result<Option<UnixfsType>> {
    let data = PbScan::new(block)?.data;
    Ok(data.and_then(|data| UnixfsData::decode(&block.slice_ref(data)).ok()).map(|message| message.kind))
}

fn named_link(block: &Bytes, name: &Name) -> Result<Option<Cid>> {
    for link in PbScan::new(block)? {
        let link = link?;
        if link.name == Some(name.as_bytes()) {
            return link.cid().map(Some);
        }
    }
    Ok(None)
}

/// Goes down a value by one part after the other, until a link is met or no part is left.
fn descend<'v, 'p>(mut value: &'v Ipld, mut parts: &'p [Name]) -> Result<(&'v Ipld, &'p [Name])> {
    while let (false, Some((name, rest))) = (matches!(value, Ipld::Link(_)), parts.split_first()) {
        let found = match value {
            Ipld::Map(values) => name.as_str().and_then(|name| values.get(name)),
            Ipld::List(values) => index(name).and_then(|index| values.get(index)),
            _ => return Err(refuse(ErrorKind::NotDir, "a value that is no list and no map has no parts")),
        };
        value = found.ok_or_else(|| refuse(ErrorKind::NotFound, "the linked data has no such part"))?;
        parts = rest;
    }
    Ok((value, parts))
}

/// The index a name means: decimal, without a leading zero, so that each item has one path.
fn index(name: &Name) -> Option<usize> {
    let text = name.as_str()?;
    let is_index = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_index)
}

fn refuse(kind: ErrorKind, why: &'static str) -> Error {
    Error::new(kind, "dag.resolve").because(why)
}

/// A block and the first of the parts below it, for messages.
struct Place<'a>(&'a Cid, &'a [Name]);

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        self.1.first().map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::{StreamExt, stream};

    use super::*;
    use crate::{
        block::Mem,
        dag::{
            DagOptions, Entry, Link, Params, Profile, UnixfsMeta, linked,
            pb::{PbLink, PbNode},
        },
    };

    fn dag(hamt_threshold: u32) -> Dag {
        let params = Params { hamt_threshold, ..Profile::default().params() };
        Dag::new(Arc::new(Mem::default()), DagOptions { params, ..DagOptions::default() })
    }

    fn parts(path: &str) -> Vec<Name> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .map(|part| Name::new(part.as_bytes()).expect("a name"))
            .collect()
    }

    fn map<const N: usize>(entries: [(&str, Ipld); N]) -> Ipld {
        Ipld::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
    }

    async fn dir(dag: &Dag, entries: &[(&str, Cid)]) -> Cid {
        let entry = |(name, cid): &(&str, Cid)| {
            Ok(Entry { name: Name::new(name.as_bytes()).expect("a name"), link: Link { cid: *cid, tsize: 0 } })
        };
        let entries: Vec<_> = entries.iter().map(entry).collect();
        dag.put_dir(stream::iter(entries).boxed()).await.expect("put").cid
    }

    async fn ends(dag: &Dag, root: &Cid, path: &str, cid: Cid, within: &str) {
        let end = dag.resolve(root, &parts(path)).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
        assert_eq!(end, Resolved { cid, within: parts(within) }, "{path}");
        // The roots are those that are met part by part.
        let (mut at, mut met) = (Resolved { cid: *root, within: Vec::new() }, vec![*root]);
        for name in parts(path) {
            at.within.push(name);
            at = dag.resolve(&at.cid, &at.within).await.expect("a part of it");
            if at.within.is_empty() {
                met.push(at.cid);
            }
        }
        assert_eq!(dag.resolve_roots(root, &parts(path)).await.expect(path), (end, met), "{path}");
    }

    async fn fails(dag: &Dag, root: &Cid, path: &str, kind: ErrorKind) {
        assert_eq!(dag.resolve(root, &parts(path)).await.expect_err(path).kind(), kind, "{path}");
    }

    /// One path from dag-json through dag-cbor, a sharded directory and a basic one to a file.
    #[tokio::test]
    async fn a_path_goes_through_every_codec() {
        for threshold in [0, 1 << 20] {
            let dag = dag(threshold);
            let file = dag.put_block(Codec::Raw, "file".into()).await.expect("put");
            let symlink = dag.put_symlink(b"a", UnixfsMeta::default()).await.expect("put").cid;
            let names: Vec<String> = (0..500).map(|number| format!("file {number}")).collect();
            let entries: Vec<_> = names.iter().map(|name| (name.as_str(), file)).collect();
            let many = dir(&dag, &entries).await;
            let root = dir(&dag, &[("many", many), ("file", file), ("link", symlink)]).await;
            let list = Ipld::List(vec![Ipld::Integer(7), root.into(), map([("x", Ipld::Null)])]);
            let cbor =
                dag.put_linked(&map([("list", list), ("text", "t".into()), ("0", 1.into())])).await.expect("put");
            let json = linked::encode(Codec::DagJson, &map([("cbor", cbor.into())])).expect("a form");
            let json = dag.put_block(Codec::DagJson, json).await.expect("put");

            ends(&dag, &json, "", json, "").await;
            ends(&dag, &json, "cbor", cbor, "").await;
            ends(&dag, &json, "cbor/list", cbor, "list").await;
            ends(&dag, &json, "cbor/list/2/x", cbor, "list/2/x").await;
            ends(&dag, &json, "cbor/0", cbor, "0").await;
            ends(&dag, &json, "cbor/list/1", root, "").await;
            ends(&dag, &json, "cbor/list/1/file", file, "").await;
            ends(&dag, &json, "cbor/list/1/link", symlink, "").await;
            for name in &names {
                ends(&dag, &json, &format!("cbor/list/1/many/{name}"), file, "").await;
            }
            for path in ["x", "cbor/x", "cbor/list/3", "cbor/list/01", "cbor/list/+1", "cbor/list/x", "cbor/list/-1"] {
                fails(&dag, &json, path, ErrorKind::NotFound).await;
            }
            for path in ["cbor/list/1/x", "cbor/list/1/many/file 500", "cbor/list/99999999999999999999999"] {
                fails(&dag, &json, path, ErrorKind::NotFound).await;
            }
            for path in ["cbor/text/x", "cbor/list/2/x/y", "cbor/list/1/file/x", "cbor/list/1/link/x"] {
                fails(&dag, &json, path, ErrorKind::NotDir).await;
            }
            let error = dag.resolve(&cbor, &parts("list/1/nope/a")).await.expect_err("absent");
            assert_eq!(error.path(), Some(format!("{root}/nope").as_str()), "it says which part is missing");
        }
    }

    #[tokio::test]
    async fn values_are_given() {
        let dag = dag(0);
        let leaf = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
        let value = map([("a", Ipld::List(vec![1.into(), leaf.into()]))]);
        let cid = dag.put_linked(&value).await.expect("put");
        let at = |cid, within| Resolved { cid, within: parts(within) };
        assert_eq!(dag.get_value(&at(cid, "")).await.expect("whole"), Some(value));
        assert_eq!(dag.get_value(&at(cid, "a/0")).await.expect("a part"), Some(1.into()));
        assert_eq!(dag.get_value(&at(cid, "a/1")).await.expect("a link"), Some(leaf.into()));
        assert_eq!(dag.get_value(&at(leaf, "")).await.expect("bytes"), None);
        for (at, kind) in [
            (at(cid, "a/2"), ErrorKind::NotFound),
            (at(cid, "a/0/x"), ErrorKind::NotDir),
            (at(cid, "a/1/x"), ErrorKind::InvalidArgument),
            (at(leaf, "x"), ErrorKind::NotDir),
        ] {
            assert_eq!(dag.get_value(&at).await.expect_err("refused").kind(), kind, "{at:?}");
        }
    }

    /// Nodes older than `UnixFS`, and such that were never meant to be it.
    #[tokio::test]
    async fn named_links_of_other_nodes_are_followed() {
        let dag = dag(0);
        let [first, second] =
            [dag.put_block(Codec::Raw, "1".into()).await, dag.put_block(Codec::Raw, "2".into()).await];
        let (first, second) = (first.expect("put"), second.expect("put"));
        let link = |name: &'static [u8], cid| PbLink { cid, name: Some(name.into()), tsize: None };
        for data in [None, Some(Bytes::new()), Some(Bytes::from_static(b"no message"))] {
            let links = vec![link(b"a", first), link(b"a", second), link(b"b", second)];
            let node = dag.put_block(Codec::DagPb, PbNode { links, data }.encode()).await.expect("put");
            ends(&dag, &node, "a", first, "").await;
            ends(&dag, &node, "b", second, "").await;
            fails(&dag, &node, "c", ErrorKind::NotFound).await;
            fails(&dag, &node, "Links/0/Hash", ErrorKind::NotFound).await;
        }
    }

    #[tokio::test]
    async fn bad_nodes_are_corrupt_and_absent_ones_not_found() {
        let dag = dag(0);
        for (codec, block) in [
            (Codec::DagPb, &b"\x12\x00"[..]),
            (Codec::DagPb, b"no node"),
            (Codec::DagCbor, b"\x18\x01"),
            (Codec::DagJson, b"{ }"),
        ] {
            let cid = dag.put_block(codec, Bytes::from_static(block)).await.expect("bytes are bytes");
            fails(&dag, &cid, "a", ErrorKind::Corrupt).await;
            let inside = dag.put_linked(&map([("in", cid.into())])).await.expect("put");
            fails(&dag, &inside, "in/a", ErrorKind::Corrupt).await;
            ends(&dag, &inside, "in", cid, "").await;
        }
        for codec in [Codec::DagPb, Codec::DagCbor, Codec::DagJson] {
            fails(&dag, &crate::cid_of(codec, b"absent"), "a", ErrorKind::NotFound).await;
        }
        let git = Cid::from_bytes(&[1, 0x78, 0, 1, 0]).expect("git-raw");
        fails(&dag, &git, "a", ErrorKind::NotDir).await;
    }

    #[tokio::test]
    async fn the_walk_is_bounded() {
        let dag = dag(0);
        let mut cid = dag.put_linked(&map([("a", Ipld::Null)])).await.expect("put");
        let target = cid;
        for _ in 1..RESOLVE_BLOCK_COUNT_MAX {
            cid = dag.put_linked(&cid.into()).await.expect("put");
        }
        ends(&dag, &cid, "a", target, "a").await;
        let cid = dag.put_linked(&cid.into()).await.expect("put");
        fails(&dag, &cid, "a", ErrorKind::TooLarge).await;
        fails(&dag, &cid, &"a/".repeat(PATH_PART_COUNT_MAX + 1), ErrorKind::InvalidArgument).await;
    }
}
