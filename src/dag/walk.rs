//! Every block below a root, each once, read from the store and verified: what `verify` lists and a collector marks.
//!
//! Sits above the codecs and beside [`Dag::get_block`], whose kept blocks it passes by: a walk tells what the store holds
//! now. A bad block does not end it. Nothing here recurses, so depth costs nothing.
//!
//! Memory: at most [`WALK_READ_COUNT`] blocks; 16 bytes of hash and some table for every block met, about 40 MB per
//! million (a million of leaves is a terabyte); and the links met but not yet followed, which is no more than the blocks
//! that hold them.

use std::{borrow::BorrowMut, collections::HashSet, fmt};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};

use super::{Dag, Node, cbor, linked, pb::PbScan};
use crate::{Cid, Codec, Error, ErrorKind, FileKind, Result};

/// How many blocks a walk reads at the same time: enough to keep a disk and a few cores busy.
pub const WALK_READ_COUNT: usize = 8;

/// What a walk found at one CID.
#[derive(Debug)]
pub struct Visit {
    /// The block, as the first link that was followed names it.
    pub cid: Cid,
    /// Its length in bytes; `None` where it could not be had or does not hash to its CID. With both a length and an
    /// error the bytes are those of the CID, but not what its codec says.
    pub len: Option<u64>,
    /// What it is, or is a part of; `None` where it could not be told, and for dag-pb nodes that are not `UnixFS`.
    pub kind: Option<FileKind>,
    /// What is wrong with it: absent, not what its CID or its codec says, or out of reach.
    pub error: Option<Error>,
}

impl Dag {
    /// Visits every block that can be reached from `root`, itself included: parents before their children, otherwise in
    /// no order. Ends by itself; to drop it ends it too.
    ///
    /// What it reports may hide what lies below: a collector must not remove anything after a walk that met an error.
    ///
    /// A block that two codecs lead to is visited once for each, since what it links to depends on the codec. Links are
    /// followed through dag-pb, dag-cbor and dag-json; of a block that turns out bad, those that were readable are.
    pub fn walk(&self, root: &Cid) -> BoxStream<'_, Visit> {
        self.walk_with(root, WalkMemory::default(), true)
    }

    /// Visits what [`walk`](Self::walk) does, but for what an earlier walk with this memory visited, and of leaves only asks
    /// whether they are there: they have no length then. For who looks from many roots at what they share, and has read
    /// every block anyway.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use futures_util::StreamExt;
    /// # use muxfs::{block::Mem, dag::{Dag, DagOptions, UnixfsMeta, WalkMemory}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    /// let file = dag.import(&b"hello"[..], UnixfsMeta::default()).await?;
    /// let mut memory = WalkMemory::default();
    /// assert!(dag.walk_on(&file.cid, &mut memory).all(async |visit| visit.error.is_none()).await);
    /// assert_eq!(dag.walk_on(&file.cid, &mut memory).count().await, 0);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn walk_on<'a>(&'a self, root: &Cid, memory: &'a mut WalkMemory) -> BoxStream<'a, Visit> {
        self.walk_with(root, memory, false)
    }

    fn walk_with<'a, M: BorrowMut<WalkMemory> + Send + 'a>(
        &'a self,
        root: &Cid,
        memory: M,
        leaves: bool,
    ) -> BoxStream<'a, Visit> {
        let mut frontier = Frontier { memory, waiting: Vec::new() };
        frontier.meet([Met::new(root)]);
        let walk = Walk { dag: self, leaves, frontier, reading: FuturesUnordered::new() };
        stream::unfold(walk, |mut walk| async { walk.next().await.map(|visit| (visit, walk)) }).boxed()
    }

    /// Looks whether every block below `root` is there: those that have links are read and verified, leaves are only
    /// looked for.
    ///
    /// # Errors
    /// That of the first block which is absent or bad, naming it.
    pub(crate) async fn check_whole(&self, root: &Cid) -> Result<()> {
        let mut visits = self.walk_with(root, WalkMemory::default(), false);
        while let Some(visit) = visits.next().await {
            if let Some(error) = visit.error {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Asks whether a leaf is there.
    async fn visit_leaf(&self, cid: Cid) -> Visit {
        let error = match self.has_block(&cid).await {
            Ok(true) => None,
            Ok(false) => {
                Some(Error::new(ErrorKind::NotFound, "dag.walk").because("the store does not hold this block"))
            }
            Err(error) => Some(error),
        };
        Visit { cid, len: None, kind: Some(FileKind::File), error: error.map(|error| error.at(cid)) }
    }

    async fn visit(&self, cid: Cid, leaves: bool) -> (Visit, Vec<Met>) {
        if !leaves && cid.codec() == Some(Codec::Raw) {
            return (self.visit_leaf(cid).await, Vec::new());
        }
        let mut visit = Visit { cid, len: None, kind: None, error: None };
        let mut links = Vec::new();
        match self.read_afresh(&cid).await {
            Ok(block) => {
                visit.len = Some(block.len() as u64);
                let read = for_each_link_of(&cid, &block, &mut |link| links.push(Met::new(link)));
                let read = read.and_then(|()| kind_of(&cid, &block));
                visit.kind = read.as_ref().ok().copied().flatten();
                visit.error = read.err().map(|error| error.at(cid));
            }
            Err(error) => visit.error = Some(error.at(cid)),
        }
        (visit, links)
    }
}

/// Calls `found` with every CID that a block links to, in the order in which they stand there; of one that turns out bad,
/// with those that were readable.
pub(crate) fn for_each_link_of(cid: &Cid, block: &Bytes, found: &mut impl FnMut(&Cid)) -> Result<()> {
    match cid.codec() {
        Some(Codec::DagPb) => {
            for link in PbScan::new(block)? {
                found(&link?.cid()?);
            }
        }
        Some(Codec::DagCbor) => cbor::for_each_link(block, found)?,
        Some(Codec::DagJson) => linked::for_each_link(&linked::decode(Codec::DagJson, block)?, found),
        Some(Codec::Raw) | None => {}
    }
    Ok(())
}

fn kind_of(cid: &Cid, block: &Bytes) -> Result<Option<FileKind>> {
    let without_data = cid.codec() == Some(Codec::DagPb) && PbScan::new(block)?.data.is_none();
    if without_data || cid.codec().is_none() {
        return Ok(None);
    }
    if cid.codec() == Some(Codec::DagCbor) {
        // Its links were found already, and more forms have links than are dag-cbor.
        cbor::decode(block)?;
    }
    Node::of_block(cid, block).map(|node| Some(node.kind))
}

/// What a node is remembered by: 128 bits of a hash of codec and multihash. Two links share them when they lead to the same,
/// by either version of a CID, or when somebody has spent what forging a short digest costs, to have a block of his own
/// passed over.
pub(crate) fn print(cid: &Cid) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&cid.codec_code().to_be_bytes()).update(&cid.multihash_bytes());
    let mut print = [0; 16];
    hasher.finalize_xof().fill(&mut print);
    print
}

/// A link that was met, in less memory than a [`Cid`] takes.
#[derive(Debug)]
pub(super) struct Met {
    print: [u8; 16],
    cid: Box<[u8]>,
}

impl Met {
    pub(super) fn new(cid: &Cid) -> Self {
        Self { print: print(cid), cid: cid.to_bytes().into() }
    }
}

/// What walks have met: 16 bytes and some table for each block.
#[derive(Debug, Default)]
pub struct WalkMemory {
    met: HashSet<[u8; 16]>,
}

/// What is still to be visited of a DAG: each link once, the last that was met first, so that few wait.
#[derive(Debug, Default)]
pub(super) struct Frontier<M> {
    memory: M,
    waiting: Vec<Box<[u8]>>,
}

impl<M: BorrowMut<WalkMemory>> Frontier<M> {
    pub(super) fn meet(&mut self, links: impl IntoIterator<Item = Met>) {
        for link in links {
            if self.memory.borrow_mut().met.insert(link.print) {
                self.waiting.push(link.cid);
            }
        }
    }

    pub(super) fn next(&mut self) -> Option<Cid> {
        // It was one when it was met.
        self.waiting.pop().and_then(|cid| Cid::from_bytes(&cid).ok())
    }
}

struct Walk<'a, M> {
    dag: &'a Dag,
    /// Whether leaves are read.
    leaves: bool,
    frontier: Frontier<M>,
    reading: FuturesUnordered<BoxFuture<'a, (Visit, Vec<Met>)>>,
}

impl<M: BorrowMut<WalkMemory>> Walk<'_, M> {
    async fn next(&mut self) -> Option<Visit> {
        while self.reading.len() < WALK_READ_COUNT {
            let Some(cid) = self.frontier.next() else { break };
            let (dag, leaves) = (self.dag, self.leaves);
            self.reading.push(async move { dag.visit(cid, leaves).await }.boxed());
        }
        let (visit, links) = self.reading.next().await?;
        self.frontier.meet(links);
        Some(visit)
    }
}

impl<M: BorrowMut<WalkMemory>> fmt::Debug for Walk<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Frontier { memory, waiting } = &self.frontier;
        write!(f, "Walk({} met, {} to read)", memory.borrow().met.len(), waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        BlockKey, BlockStore,
        block::Mem,
        cid_of,
        dag::{
            DagOptions, Ipld,
            pb::{PbLink, PbNode},
        },
    };

    fn dag() -> (Arc<Mem>, Dag) {
        let blocks = Arc::new(Mem::default());
        (Arc::clone(&blocks), Dag::new(blocks, DagOptions::default()))
    }

    async fn node(dag: &Dag, data: Option<&'static [u8]>, children: &[Cid]) -> Cid {
        let link = |cid: &Cid| PbLink { cid: *cid, name: Some(Bytes::new()), tsize: None };
        let node = PbNode { links: children.iter().map(link).collect(), data: data.map(Bytes::from_static) };
        dag.put_block(Codec::DagPb, node.encode()).await.expect("put")
    }

    async fn walk(dag: &Dag, root: &Cid) -> BTreeMap<Cid, (Option<u64>, Option<FileKind>, Option<ErrorKind>)> {
        let mut found = BTreeMap::new();
        let mut visits = dag.walk(root);
        while let Some(visit) = visits.next().await {
            let kind = visit.error.map(|error| error.kind());
            assert!(found.insert(visit.cid, (visit.len, visit.kind, kind)).is_none(), "{} came twice", visit.cid);
        }
        found
    }

    /// 2^200 paths and 201 blocks: a walk that did not remember would never end, one that recursed would overflow.
    #[tokio::test]
    async fn each_block_is_visited_once() {
        let (_, dag) = dag();
        let mut root = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
        for _ in 0..200 {
            root = node(&dag, None, &[root, root]).await;
        }
        let found = walk(&dag, &root).await;
        assert_eq!(found.len(), 201);
        assert!(found.values().all(|(len, _, error)| len.is_some() && error.is_none()));
    }

    #[tokio::test]
    async fn links_of_every_codec_are_followed() {
        let (_, dag) = dag();
        let file = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
        let inline: Cid = "bafkqabiaaebagba".parse().expect("an identity CID");
        let dir = node(&dag, Some(b"\x08\x01"), &[file]).await;
        let json = dag.put_block(Codec::DagJson, format!(r#"[{{"/":"{dir}"}}]"#).into()).await.expect("put");
        let root = Ipld::Map([("a".to_owned(), json.into()), ("b".to_owned(), Ipld::List(vec![inline.into()]))].into());
        let root = dag.put_linked(&root).await.expect("put");
        let found = walk(&dag, &root).await;
        let kinds: Vec<_> = [root, json, dir, file, inline].iter().map(|cid| found[cid].1).collect();
        assert_eq!(kinds, [FileKind::File, FileKind::File, FileKind::Dir, FileKind::File, FileKind::File].map(Some));
        assert_eq!((found.len(), found[&inline].0), (5, Some(5)));
    }

    #[tokio::test]
    async fn bad_blocks_are_listed_and_passed() {
        let (blocks, dag) = dag();
        let absent = cid_of(Codec::Raw, b"absent");
        let rotten = dag.put_block(Codec::Raw, "rotten".into()).await.expect("put");
        let whole = dag.put_block(Codec::Raw, "whole".into()).await.expect("put");
        let lying = node(&dag, Some(b"\x08\x02\x18\x05"), &[whole]).await;
        let no_node = dag.put_block(Codec::DagPb, "no node".into()).await.expect("put");
        let half = [&b"\x12\x08\x0a\x06\x01\x55\x00\x02hi"[..], b"\x12\x00"].concat();
        let half = dag.put_block(Codec::DagPb, half.into()).await.expect("put");
        let root = node(&dag, Some(b"\x08\x01"), &[absent, rotten, lying, no_node, half]).await;
        dag.get_block(&rotten).await.expect("kept while it was whole");
        blocks.delete(&BlockKey::from(&rotten)).await.expect("deleted");
        blocks.put(&BlockKey::from(&rotten), "rotted".into()).await.expect("put");

        let found = walk(&dag, &root).await;
        let errors: Vec<_> =
            [absent, rotten, lying, no_node, half, whole, root].iter().map(|cid| found[cid].2).collect();
        assert_eq!(errors, {
            let (absent, bad) = (Some(ErrorKind::NotFound), Some(ErrorKind::Corrupt));
            [absent, bad, bad, bad, bad, None, None]
        });
        assert_eq!((found[&rotten].0, found[&lying].0), (None, Some(48)));
        assert_eq!(found.len(), 8, "and what the readable half links to");
    }

    /// What Filecoin wrote is not dag-cbor, and yet nothing below it must be lost: a collection goes by these links.
    #[tokio::test]
    async fn links_of_bad_dag_cbor_are_followed() {
        let (_, dag) = dag();
        let leaf = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
        let link = [b"\xd8\x2a\x58\x25\0".as_slice(), &leaf.to_bytes()].concat();
        let root = dag.put_block(Codec::DagCbor, [b"\x82\x61\xff", &link[..]].concat().into()).await.expect("put");
        let found = walk(&dag, &root).await;
        assert_eq!((found[&root].2, found[&leaf].2), (Some(ErrorKind::Corrupt), None));
    }

    /// Leaves are looked for and not read; one that is absent, however deep, is named.
    #[tokio::test]
    async fn a_dag_without_one_leaf_is_not_whole() {
        let (blocks, dag) = dag();
        let leaves = [dag.put_block(Codec::Raw, "a".into()).await, dag.put_block(Codec::Raw, "b".into()).await];
        let [a, b] = leaves.map(|leaf| leaf.expect("put"));
        let dir = node(&dag, Some(b"\x08\x01"), &[a, b]).await;
        let root = node(&dag, Some(b"\x08\x01"), &[dir]).await;
        dag.check_whole(&root).await.expect("all is there");
        blocks.delete(&BlockKey::from(&b)).await.expect("deleted");
        let error = dag.check_whole(&root).await.expect_err("a leaf is gone");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.path(), Some(b.to_string().as_str()));
    }

    /// The same bytes, first as a leaf and then as a node: what the node links to must not be missed.
    #[tokio::test]
    async fn a_codec_is_part_of_the_link() {
        let (_, dag) = dag();
        let leaf = dag.put_block(Codec::Raw, "leaf".into()).await.expect("put");
        let inner = node(&dag, None, &[leaf]).await;
        let as_raw = Cid::v1_sha256(Codec::Raw, inner.digest().try_into().expect("32 bytes"));
        for children in [[as_raw, inner], [inner, as_raw]] {
            let root = node(&dag, None, &children).await;
            assert_eq!(walk(&dag, &root).await.len(), 4);
        }
    }
}
