//! All of an attribute tree, and what differs between two: for checks, collectors, listings of changes.
//!
//! What is bad is reported and passed by, so that one lost block does not hide the others; who removes anything after a
//! walk must not do so after one that met an error.

use std::sync::Arc;

use futures_util::{
    FutureExt, Stream, StreamExt,
    future::{join, ready},
    stream::{self, BoxStream},
};

use super::{
    Attrs,
    inode::Inode,
    node::{AttrNode, NodeId, corrupt, load},
    radix::{INDEX_BITS, InodeIndex, InodeLeaf, LEAF_BITS, ino_at},
    update::PUT_COUNT,
};
use crate::{Result, dag::Dag, vfs::Ino};

/// How many errors a walk goes past. Index nodes that lead to one leaf from many places, which are few blocks and look
/// like very many, end here.
const ERROR_COUNT_MAX: usize = 1000;

/// All inodes, in the order of their numbers. Ends after 1000 errors.
pub(crate) fn inodes(dag: &Dag, attrs: &Attrs) -> BoxStream<'static, Result<(Ino, Arc<Inode>)>> {
    let Some((id, height)) = attrs.top() else { return stream::empty().boxed() };
    let leaves = leaves(dag.clone(), id, height, 0);
    let inodes = leaves.flat_map(|(id, number, node)| {
        let inodes: Vec<_> = match node.as_deref() {
            Ok(AttrNode::Inodes(leaf)) if leaf.number() == number => decode(id, leaf).collect(),
            Ok(_) => vec![Err(corrupt(&id.cid(), "inodes of these numbers are wanted here"))],
            Err(_) => node.err().map(Err).into_iter().collect(),
        };
        stream::iter(inodes)
    });
    bounded(inodes)
}

fn bounded<T: Send + 'static>(found: impl Stream<Item = Result<T>> + Send + 'static) -> BoxStream<'static, Result<T>> {
    let count = |count: &mut usize, found: Result<T>| {
        let within = *count < ERROR_COUNT_MAX;
        *count += usize::from(found.is_err());
        ready(within.then_some(found))
    };
    found.scan(0, count).boxed()
}

fn decode(id: NodeId, leaf: &InodeLeaf) -> impl Iterator<Item = Result<(Ino, Arc<Inode>)>> {
    leaf.records().map(move |(place, record)| {
        let inode = Inode::decode(record).map_err(|why| corrupt(&id.cid(), why))?;
        let ino = ino_at(leaf.number(), place).ok_or_else(|| corrupt(&id.cid(), "no inode has the number 0"))?;
        Ok((ino, Arc::new(inode)))
    })
}

type Leaf = (NodeId, u64, Result<Arc<AttrNode>>);

/// The leaves below a node, with the numbers they have to have; in their place, nodes that could not be had.
fn leaves(dag: Dag, id: NodeId, level: u32, number: u64) -> BoxStream<'static, Leaf> {
    let node = {
        let dag = dag.clone();
        async move { load(&dag, id).await }
    };
    if level == 0 {
        return stream::once(node.map(move |node| (id, number, node))).boxed();
    }
    let below = stream::once(node).flat_map(move |node| {
        let children: Vec<_> = match node.as_deref() {
            Ok(AttrNode::InodeIndex(index)) => index.children().collect(),
            Ok(_) => {
                return stream::iter([(id, number, Err(corrupt(&id.cid(), "an index of inodes is wanted here")))])
                    .boxed();
            }
            Err(_) => return stream::iter(node.err().map(|error| (id, number, Err(error)))).boxed(),
        };
        let dag = dag.clone();
        let children = stream::iter(children).map(move |(at, child)| (number << INDEX_BITS | at, child));
        if level > 1 {
            return children.flat_map(move |(number, child)| leaves(dag.clone(), child, level - 1, number)).boxed();
        }
        let leaf = move |(number, child)| {
            let dag = dag.clone();
            async move { (child, number, load(&dag, child).await) }
        };
        children.map(leaf).buffered(PUT_COUNT).boxed()
    });
    below.boxed()
}

/// An inode that is not the same in two trees.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    /// Its number.
    pub(crate) ino: Ino,
    /// As it is in the first; `None` if it is not there.
    pub(crate) before: Option<Arc<Inode>>,
    /// As it is in the second; `None` if it is not there.
    pub(crate) after: Option<Arc<Inode>>,
}

/// The inodes in which two trees differ, in the order of their numbers. What is equal is not read. Ends after 1000
/// errors.
pub(crate) fn diff(dag: &Dag, before: &Attrs, after: &Attrs) -> BoxStream<'static, Result<Difference>> {
    let tops = [before.top(), after.top()];
    let level = tops.iter().flatten().map(|(_, height)| *height).max().unwrap_or_default();
    let sides = tops.map(|top| top.map_or(Side::Empty, |(id, height)| Side::Node(id, height)));
    let walk = Diff { dag: dag.clone(), left: vec![(level, 0, sides)], found: Vec::new() };
    bounded(stream::unfold(walk, |mut walk| async { walk.next().await.map(|found| (found, walk)) }))
}

/// What one of two trees has in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Empty,
    /// A node of this level; where the place is of a higher one, the node is what is first there.
    Node(NodeId, u32),
}

#[derive(Debug)]
struct Diff {
    dag: Dag,
    /// Level, number and both sides; the next to look at is the last.
    left: Vec<(u32, u64, [Side; 2])>,
    /// What was found and not yet given; the next is the last.
    found: Vec<Result<Difference>>,
}

impl Diff {
    async fn next(&mut self) -> Option<Result<Difference>> {
        loop {
            if let Some(found) = self.found.pop() {
                return Some(found);
            }
            let (level, number, [before, after]) = self.left.pop()?;
            if before == after {
                continue;
            }
            if level == 0 {
                let (before, after) = join(self.leaf(number, before), self.leaf(number, after)).await;
                self.compare(number, before, after);
                continue;
            }
            let (before, after) = join(self.index(level, before), self.index(level, after)).await;
            match (before, after) {
                (Ok(before), Ok(after)) => {
                    for at in (0..1 << INDEX_BITS).rev() {
                        let sides = [before.child(level, at), after.child(level, at)];
                        if sides != [Side::Empty; 2] {
                            self.left.push((level - 1, number << INDEX_BITS | at, sides));
                        }
                    }
                }
                (Err(error), _) | (_, Err(error)) => return Some(Err(error)),
            }
        }
    }

    async fn index(&self, level: u32, side: Side) -> Result<Children> {
        match side {
            Side::Node(id, height) if height == level => match &*load(&self.dag, id).await? {
                AttrNode::InodeIndex(index) => Ok(Children::Index(index.clone())),
                _ => Err(corrupt(&id.cid(), "an index of inodes is wanted here")),
            },
            side => Ok(Children::First(side)),
        }
    }

    async fn leaf(&self, number: u64, side: Side) -> Result<Option<(NodeId, Arc<AttrNode>)>> {
        let Side::Node(id, _) = side else { return Ok(None) };
        let node = load(&self.dag, id).await?;
        match &*node {
            AttrNode::Inodes(leaf) if leaf.number() == number => Ok(Some((id, node))),
            _ => Err(corrupt(&id.cid(), "inodes of these numbers are wanted here")),
        }
    }

    fn compare(&mut self, number: u64, before: FoundLeaf, after: FoundLeaf) {
        let (before, after) = match (before, after) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(error), _) | (_, Err(error)) => return self.found.push(Err(error)),
        };
        let decode = |found: &Option<(NodeId, Arc<AttrNode>)>, place| {
            let Some((id, AttrNode::Inodes(leaf))) = found.as_ref().map(|(id, node)| (id, &**node)) else {
                return Ok((None, None));
            };
            let Some(record) = leaf.record(place) else { return Ok((None, None)) };
            let inode = Inode::decode(record).map_err(|why| corrupt(&id.cid(), why))?;
            Ok((Some(record.clone()), Some(Arc::new(inode))))
        };
        for place in (0..1 << LEAF_BITS).rev() {
            let Some(ino) = ino_at(number, place) else { continue };
            match (decode(&before, place), decode(&after, place)) {
                (Ok((old, before)), Ok((new, after))) if old != new => {
                    self.found.push(Ok(Difference { ino, before, after }));
                }
                (Ok(_), Ok(_)) => {}
                (Err(error), _) | (_, Err(error)) => self.found.push(Err(error)),
            }
        }
    }
}

type FoundLeaf = Result<Option<(NodeId, Arc<AttrNode>)>>;

/// What one of two trees has below a place.
enum Children {
    Index(InodeIndex),
    /// Nothing but this, in the first slot.
    First(Side),
}

impl Children {
    fn child(&self, level: u32, at: u64) -> Side {
        match self {
            Self::Index(index) => index.child(at).map_or(Side::Empty, |id| Side::Node(id, level - 1)),
            Self::First(side) if at == 0 => *side,
            Self::First(_) => Side::Empty,
        }
    }
}
