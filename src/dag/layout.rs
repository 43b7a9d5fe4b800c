//! Layouts: how leaves, coming in order, hang together as one file.
//!
//! Both layouts are built from the left with one open node per level in memory, so a file of any length takes
//! O(width * depth). A node goes into the store when it is full, after what is below it. Spec: spec/dag.md #layouts.

use bytes::Bytes;

use super::{
    Dag, Layout, Link, Params, UnixfsMeta,
    pb::{PbLink, PbNode},
    unixfs::{UnixfsData, UnixfsType},
};
use crate::{Cid, Codec, Error, ErrorKind, Result};

/// A link to a part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileLink {
    pub(super) cid: Cid,
    /// The length of all blocks below.
    pub(super) tsize: u64,
    /// The length of the content below.
    pub(super) size: u64,
}

impl From<FileLink> for Link {
    fn from(link: FileLink) -> Self {
        Self { cid: link.cid, tsize: link.tsize }
    }
}

impl Dag {
    /// Puts a node of a file over its parts.
    pub(super) async fn put_file_node(&self, parts: Vec<FileLink>, meta: UnixfsMeta) -> Result<FileLink> {
        let too_large = || Error::new(ErrorKind::TooLarge, "dag.import").because("a file is below 2^64 bytes");
        let mut message = UnixfsData::new(UnixfsType::File).with_meta(meta)?;
        message.blocksizes = parts.iter().map(|part| part.size).collect();
        let size = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.size)).ok_or_else(too_large)?;
        message.filesize = Some(size);
        let tsizes = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.tsize)).ok_or_else(too_large)?;
        // The empty name is no mistake: every CID of a file that anyone published depends on it.
        let link = |part: FileLink| PbLink { cid: part.cid, name: Some(Bytes::new()), tsize: Some(part.tsize) };
        let links = parts.into_iter().map(link).collect();
        let block = PbNode { links, data: Some(message.encode().into()) }.encode();
        let tsize = tsizes.checked_add(block.len() as u64).ok_or_else(too_large)?;
        let cid = self.put_block(Codec::DagPb, block).await?;
        Ok(FileLink { cid, tsize, size })
    }
}

impl Dag {
    /// The parts of a node of a file that has no data of its own.
    async fn file_parts(&self, cid: &Cid) -> Result<Vec<FileLink>> {
        let node = PbNode::decode(&self.get_block(cid).await?).map_err(|error| error.at(cid))?;
        let message = UnixfsData::decode(&node.data.unwrap_or_default()).map_err(|error| error.at(cid))?;
        let parts = node.links.into_iter().zip(message.blocksizes);
        Ok(parts.map(|(link, size)| FileLink { cid: link.cid, tsize: link.tsize.unwrap_or(0), size }).collect())
    }
}

/// A file under construction.
#[derive(Debug)]
pub(super) enum FileBuilder {
    Balanced(Balanced),
    Trickle(Trickle),
}

impl FileBuilder {
    pub(super) fn new(params: &Params) -> Self {
        let width = params.width as usize;
        match params.layout {
            Layout::Balanced => Self::Balanced(Balanced { width, levels: Vec::new() }),
            Layout::Trickle => Self::Trickle(Trickle { width, open: vec![Subtree::new(None)], alike: Vec::new() }),
        }
    }

    /// Appends a leaf.
    pub(super) async fn push(&mut self, dag: &Dag, leaf: FileLink) -> Result<()> {
        match self {
            Self::Balanced(balanced) => balanced.push(dag, 0, leaf).await,
            Self::Trickle(trickle) => trickle.push(dag, leaf).await,
        }
    }

    /// Appends the same leaf `count` times, whole subtrees of a trickle at once: in a time that grows with the depth. It
    /// is the same leaf at every call. A balanced file takes subtrees instead.
    pub(super) async fn push_alike(&mut self, dag: &Dag, leaf: FileLink, count: u64) -> Result<()> {
        match self {
            Self::Balanced(balanced) => {
                for _ in 0..count {
                    balanced.push(dag, 0, leaf).await?;
                }
                Ok(())
            }
            Self::Trickle(trickle) => trickle.push_alike(dag, leaf, count).await,
        }
    }

    /// Appends a subtree of height `level`. What was appended before must end where such a subtree begins, and it must
    /// be full or the last of the file. A trickle takes leaves only.
    pub(super) async fn push_tree(&mut self, dag: &Dag, level: usize, tree: FileLink) -> Result<()> {
        match self {
            Self::Balanced(balanced) => balanced.push(dag, level, tree).await,
            Self::Trickle(trickle) => trickle.push(dag, tree).await,
        }
    }

    /// Puts what is open and returns the root. A lone leaf of a balanced file is its root: `meta` is in it already.
    pub(super) async fn finish(self, dag: &Dag, meta: UnixfsMeta) -> Result<FileLink> {
        match self {
            Self::Balanced(balanced) => balanced.finish(dag, meta).await,
            Self::Trickle(trickle) => trickle.finish(dag, meta).await,
        }
    }
}

/// Level 0 holds leaves, the one above it nodes over them, and so on; a level is wrapped when one more link comes.
#[derive(Debug)]
pub(super) struct Balanced {
    width: usize,
    levels: Vec<Vec<FileLink>>,
}

impl Balanced {
    async fn push(&mut self, dag: &Dag, level: usize, link: FileLink) -> Result<()> {
        for below in 0..level {
            self.wrap(dag, below).await?;
        }
        self.append(dag, level, link).await
    }

    async fn append(&mut self, dag: &Dag, level: usize, link: FileLink) -> Result<()> {
        // A full level moves up, and perhaps the full one above it before it: find where the chain ends.
        let full = |levels: &[Vec<FileLink>], at: usize| levels.get(at).is_some_and(|links| links.len() >= self.width);
        let mut top = level;
        while full(&self.levels, top) {
            top += 1;
        }
        for at in (level..top).rev() {
            let links = self.levels.get_mut(at).map(std::mem::take).unwrap_or_default();
            let node = dag.put_file_node(links, UnixfsMeta::default()).await?;
            self.level(at + 1).push(node);
        }
        self.level(level).push(link);
        Ok(())
    }

    async fn wrap(&mut self, dag: &Dag, level: usize) -> Result<()> {
        let links = self.levels.get_mut(level).map(std::mem::take).unwrap_or_default();
        if links.is_empty() {
            return Ok(());
        }
        let node = dag.put_file_node(links, UnixfsMeta::default()).await?;
        self.append(dag, level + 1, node).await
    }

    fn level(&mut self, level: usize) -> &mut Vec<FileLink> {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        &mut self.levels[level]
    }

    async fn finish(mut self, dag: &Dag, meta: UnixfsMeta) -> Result<FileLink> {
        let mut level = 0;
        while level + 1 < self.levels.len() {
            self.wrap(dag, level).await?;
            level += 1;
        }
        let links = self.levels.pop().unwrap_or_default();
        match *links.as_slice() {
            [root] if level == 0 || meta == UnixfsMeta::default() => Ok(root),
            [root] => dag.put_file_node(dag.file_parts(&root.cid).await?, meta).await,
            _ => dag.put_file_node(links, meta).await,
        }
    }
}

/// How many subtrees of each depth a node of a trickle has.
const TRICKLE_REPEAT: u32 = 4;

/// The nodes from the root down to where the next leaf goes.
#[derive(Debug)]
pub(super) struct Trickle {
    width: usize,
    open: Vec<Subtree>,
    /// Full subtrees of every depth from 1 on over one leaf, as far as they were needed.
    alike: Vec<FileLink>,
}

#[derive(Debug)]
struct Subtree {
    links: Vec<FileLink>,
    leaf_count: usize,
    /// Subtrees below it are less deep than this; `None` for the root, which has no end.
    depth_max: Option<u32>,
    /// The depth of the next subtree, and how many of that depth there are already.
    depth: u32,
    repeat: u32,
}

impl Subtree {
    fn new(depth_max: Option<u32>) -> Self {
        Self { links: Vec::new(), leaf_count: 0, depth_max, depth: 1, repeat: 0 }
    }

    /// Adds a subtree of the depth that is next.
    fn add(&mut self, tree: FileLink) {
        self.links.push(tree);
        self.repeat += 1;
        if self.repeat == TRICKLE_REPEAT {
            (self.depth, self.repeat) = (self.depth + 1, 0);
        }
    }
}

impl Trickle {
    async fn push(&mut self, dag: &Dag, leaf: FileLink) -> Result<()> {
        while let Some(last) = self.open.last_mut() {
            if last.leaf_count < self.width {
                last.leaf_count += 1;
                last.links.push(leaf);
                break;
            }
            if last.depth_max.is_some_and(|max| last.depth >= max) {
                self.close(dag).await?;
            } else {
                let depth = last.depth;
                self.open.push(Subtree::new(Some(depth)));
            }
        }
        Ok(())
    }

    async fn push_alike(&mut self, dag: &Dag, leaf: FileLink, mut count: u64) -> Result<()> {
        while count > 0 {
            let Some(last) = self.open.last_mut() else { break };
            let depth = last.depth;
            if last.leaf_count < self.width {
                last.leaf_count += 1;
                last.links.push(leaf);
                count -= 1;
            } else if last.depth_max.is_some_and(|max| depth >= max) {
                self.close(dag).await?;
            } else if self.leaf_count(depth) <= count {
                count -= self.leaf_count(depth);
                let tree = self.alike(dag, leaf, depth).await?;
                if let Some(last) = self.open.last_mut() {
                    last.add(tree);
                }
            } else {
                self.open.push(Subtree::new(Some(depth)));
            }
        }
        Ok(())
    }

    /// How many leaves a full subtree of this depth has.
    fn leaf_count(&self, depth: u32) -> u64 {
        // Those of depth 1 have leaves alone; each next depth has those of the one before and four times that one.
        let more = u64::from(TRICKLE_REPEAT) + 1;
        (1..depth).fold(self.width as u64, |count, _| count.saturating_mul(more))
    }

    /// A full subtree of this depth, each of its leaves the same.
    async fn alike(&mut self, dag: &Dag, leaf: FileLink, depth: u32) -> Result<FileLink> {
        let depth = depth as usize;
        while self.alike.len() < depth {
            let mut links = vec![leaf; self.width];
            for below in &self.alike {
                links.extend([*below; TRICKLE_REPEAT as usize]);
            }
            self.alike.push(dag.put_file_node(links, UnixfsMeta::default()).await?);
        }
        depth.checked_sub(1).and_then(|index| self.alike.get(index)).copied().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "dag.import").because("a subtree of a trickle has a depth of 1 at least")
        })
    }

    /// Puts the lowest open node, which is not the root.
    async fn close(&mut self, dag: &Dag) -> Result<()> {
        let Some(done) = self.open.pop() else { return Ok(()) };
        let node = dag.put_file_node(done.links, UnixfsMeta::default()).await?;
        if let Some(above) = self.open.last_mut() {
            above.add(node);
        }
        Ok(())
    }

    async fn finish(mut self, dag: &Dag, meta: UnixfsMeta) -> Result<FileLink> {
        while self.open.len() > 1 {
            self.close(dag).await?;
        }
        let links = self.open.pop().map(|root| root.links).unwrap_or_default();
        dag.put_file_node(links, meta).await
    }
}
