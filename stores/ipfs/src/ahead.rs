//! Leaves of a file that come before they are asked for: one CAR of what is left of it, instead of a request for each.
//!
//! ```text
//! get(leaf 3), get(leaf 4) --> GET /ipfs/NODE?format=car&dag-scope=entity&entity-bytes=OFFSET:*
//! get(leaf 5) --------------.         |
//!                           '--- leaves 4, 5, 6, ... each verified, at most a window of them in memory
//! ```
//!
//! Sits in [`Sources`](crate::Sources), before the requests for single blocks, which are what is left wherever this does not
//! work: a gateway that refuses, breaks off, stands still, or sends something else. Whoever reads tells which nodes of files
//! it reads ([`BlockStore::expect`](muxfs::BlockStore::expect)). Spec: spec/sources.md #read-ahead.

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use muxfs::{
    BlockKey, Cid, Codec, Error, ErrorKind, Result,
    car::Reader,
    dag::{
        DAG_BLOCK_LEN_MAX,
        pb::PbNode,
        unixfs::{UnixfsData, UnixfsType},
    },
};
use tokio::{sync::Notify, time::timeout};
use tokio_util::{io::StreamReader, task::AbortOnDropHandle};

use crate::gateway::Gateway;

/// So much of what came waits to be asked for, in bytes: about what a reader has asked for ahead.
const WINDOW_LEN: usize = 8 << 20;
/// So many CARs come at once. The one that was used longest ago goes for another.
const CAR_COUNT_MAX: usize = 4;
/// A file of which fewer leaves are left is not worth one.
const LEAF_COUNT_MIN: usize = 4;
/// Who reads in order has asked for a leaf so few before it, also where it asks for several at once.
const ORDER_SLACK: usize = 2;
/// A leaf so many behind what came last is waited for; one further on is asked for by itself.
const REACH: usize = 32;
/// Nodes of which it is known what is below, and all leaves of them together.
const NODE_COUNT_MAX: usize = 64;
const LEAF_COUNT_MAX: usize = 1 << 17;
/// A node whose CARs failed so often has no more.
const FAILURE_COUNT_MAX: u32 = 3;
/// How long the next block is waited for.
const STALL_MAX: Duration = Duration::from_secs(2);
/// How long a CAR stands still that nobody asks for anything of.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// A node of a file whose children are leaves.
#[derive(Debug)]
struct FileNode {
    cid: Cid,
    /// Each, and where it begins within the node.
    leaves: Vec<(BlockKey, u64)>,
    failure_count: AtomicU32,
    /// Which leaves were asked for last.
    asked: Mutex<VecDeque<usize>>,
}

impl FileNode {
    /// `None` where it is none.
    fn of(cid: &Cid, block: &Bytes) -> Option<Self> {
        if cid.codec() != Some(Codec::DagPb) {
            return None;
        }
        let node = PbNode::decode(block).ok()?;
        let message = UnixfsData::decode(&node.data?).ok()?;
        let is_file = matches!(message.kind, UnixfsType::File | UnixfsType::Raw);
        if !is_file || node.links.len() != message.blocksizes.len() || node.links.len() < LEAF_COUNT_MIN {
            return None;
        }
        let mut offset = message.data.len() as u64;
        let mut leaves = Vec::with_capacity(node.links.len());
        for (link, len) in node.links.iter().zip(message.blocksizes) {
            // Longer than a block: there is another node.
            if len > DAG_BLOCK_LEN_MAX as u64 {
                return None;
            }
            leaves.push((BlockKey::from(&link.cid), offset));
            offset = offset.checked_add(len)?;
        }
        let cid = *cid;
        Some(Self { cid, leaves, failure_count: AtomicU32::new(0), asked: Mutex::default() })
    }

    /// Notes that a leaf is asked for; whether it is the next one of somebody who reads in order, with enough behind it.
    fn ask(&self, index: usize) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_next = asked.iter().any(|before| (1..=ORDER_SLACK).contains(&index.wrapping_sub(*before)));
        if asked.len() >= REACH {
            asked.pop_front();
        }
        asked.push_back(index);
        is_next && self.leaves.len() - index >= LEAF_COUNT_MIN
    }
}

/// What is known of files that are read, and the CARs that come.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The one that was read last is the last.
    nodes: VecDeque<Arc<FileNode>>,
    leaf_count: usize,
    /// Of which node a leaf is, and where in it.
    places: HashMap<BlockKey, (Arc<FileNode>, usize)>,
    /// The one that was used last is the last.
    coming: Vec<Arc<Coming>>,
}

impl Ahead {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a node that is read.
    pub(crate) fn expect(&self, cid: &Cid, block: &Bytes) {
        let mut known = self.known();
        if known.nodes.back().is_some_and(|node| node.cid == *cid) {
            return;
        }
        if let Some(at) = known.nodes.iter().position(|node| node.cid == *cid) {
            if let Some(node) = known.nodes.remove(at) {
                known.nodes.push_back(node);
            }
            return;
        }
        let Some(node) = FileNode::of(cid, block).map(Arc::new) else { return };
        if node.leaves.len() > LEAF_COUNT_MAX {
            return;
        }
        known.leaf_count += node.leaves.len();
        for (index, (key, _)) in node.leaves.iter().enumerate().rev() {
            known.places.insert(key.clone(), (node.clone(), index));
        }
        known.nodes.push_back(node);
        while known.nodes.len() > NODE_COUNT_MAX || known.leaf_count > LEAF_COUNT_MAX {
            let Some(oldest) = known.nodes.pop_front() else { break };
            known.leaf_count -= oldest.leaves.len();
            // Another node may have the same leaf.
            known.places.retain(|_, (node, _)| !Arc::ptr_eq(node, &oldest));
        }
    }

    /// A block that comes in a CAR, verified; `None` where it is to be asked for by itself. `gateway` is who is asked for one now.
    pub(crate) async fn take(&self, key: &BlockKey, gateway: impl FnOnce() -> Option<Arc<Gateway>>) -> Option<Bytes> {
        let (coming, index) = {
            let mut known = self.known();
            let (node, index) = known.places.get(key)?.clone();
            let is_next = node.ask(index);
            known.coming.retain(|coming| !coming.is_done());
            let at =
                known.coming.iter().position(|coming| Arc::ptr_eq(&coming.node, &node) && coming.reaches(key, index));
            let coming = match at {
                Some(at) => known.coming.remove(at),
                None if is_next && node.failure_count.load(Ordering::Relaxed) < FAILURE_COUNT_MAX => {
                    Coming::begin(&node, index, gateway()?)
                }
                None => return None,
            };
            if known.coming.len() >= CAR_COUNT_MAX {
                known.coming.remove(0);
            }
            known.coming.push(coming.clone());
            (coming, index)
        };
        coming.take(key, index).await
    }
}

/// A CAR that comes.
#[derive(Debug)]
struct Coming {
    node: Arc<FileNode>,
    state: Arc<State>,
    task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    came: Mutex<Came>,
    /// Something came, or nothing will any more.
    moved: Notify,
    /// There is room, or somebody waits for what has not come.
    room: Notify,
}

#[derive(Debug, Default)]
struct Came {
    blocks: HashMap<BlockKey, Bytes>,
    order: VecDeque<BlockKey>,
    len: usize,
    /// Leaves before this one came, or will not.
    passed: usize,
    waiting_count: usize,
    is_over: bool,
}

impl State {
    fn came(&self) -> MutexGuard<'_, Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it had ended before.
    fn end(&self) -> bool {
        let was_over = mem::replace(&mut self.came().is_over, true);
        self.moved.notify_waiters();
        was_over
    }

    /// Keeps what came, when there is room for it.
    async fn keep(&self, key: BlockKey, block: Bytes, passed: usize) -> Result<()> {
        loop {
            {
                let mut came = self.came();
                // Whoever waits has taken what is there: the rest was asked for by itself, or is not wanted.
                while came.waiting_count > 0 && came.len + block.len() > WINDOW_LEN {
                    let Some(oldest) = came.order.pop_front() else { break };
                    came.len -= came.blocks.remove(&oldest).map_or(0, |block| block.len());
                }
                if came.len + block.len() <= WINDOW_LEN || came.order.is_empty() {
                    came.len += block.len();
                    came.len -= came.blocks.insert(key.clone(), block).map_or(0, |block| block.len());
                    came.order.push_back(key);
                    came.passed = passed;
                    break;
                }
            }
            let waited = timeout(IDLE_MAX, self.room.notified()).await;
            waited.map_err(|_| Error::new(ErrorKind::Unavailable, "ahead.keep").because("nobody reads on"))?;
        }
        self.moved.notify_waiters();
        Ok(())
    }
}

/// Somebody who waits for what has not come.
struct Waiting<'a>(&'a State);

impl<'a> Waiting<'a> {
    fn new(state: &'a State, came: &mut Came) -> Self {
        came.waiting_count += 1;
        state.room.notify_one();
        Self(state)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.came().waiting_count -= 1;
    }
}

impl Coming {
    /// Asks for what is left of a node from a leaf on.
    fn begin(node: &Arc<FileNode>, from: usize, gateway: Arc<Gateway>) -> Arc<Self> {
        let state = Arc::new(State::default());
        state.came().passed = from;
        let (read_node, read_state) = (node.clone(), state.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = read(&read_node, from, &gateway, &read_state).await {
                tracing::debug!(error = format!("{error:#}"), "a CAR of a file broke off: its blocks are asked for");
                read_node.failure_count.fetch_add(1, Ordering::Relaxed);
            }
            read_state.end();
        });
        Arc::new(Self { node: node.clone(), state, task: AbortOnDropHandle::new(task) })
    }

    fn is_done(&self) -> bool {
        let came = self.state.came();
        came.is_over && came.blocks.is_empty()
    }

    /// Whether a leaf is there, or comes soon.
    fn reaches(&self, key: &BlockKey, index: usize) -> bool {
        let came = self.state.came();
        came.blocks.contains_key(key) || !came.is_over && (came.passed..came.passed + REACH).contains(&index)
    }

    async fn take(&self, key: &BlockKey, index: usize) -> Option<Bytes> {
        loop {
            let mut moved = pin!(self.state.moved.notified());
            moved.as_mut().enable();
            let _waiting = {
                let mut came = self.state.came();
                if let Some(block) = came.blocks.remove(key) {
                    came.len -= block.len();
                    came.order.retain(|kept| kept != key);
                    self.state.room.notify_one();
                    return Some(block);
                }
                if came.is_over || came.passed > index {
                    return None;
                }
                Waiting::new(&self.state, &mut came)
            };
            if timeout(STALL_MAX, moved).await.is_err() {
                // Nobody else waits for it as long, and nothing more of it is wanted.
                if !self.state.end() {
                    self.node.failure_count.fetch_add(1, Ordering::Relaxed);
                }
                self.task.abort();
                return None;
            }
        }
    }
}

/// Reads a CAR of a node to its end.
async fn read(node: &FileNode, from: usize, gateway: &Gateway, state: &State) -> Result<()> {
    let offset = node.leaves.get(from).map_or(0, |(_, offset)| *offset);
    let answer = gateway.car_of_rest(&node.cid, offset).await?;
    let pieces = stream::try_unfold(answer, |mut answer| async move {
        let piece = answer.next_in_time().await.map_err(io::Error::other)?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, answer)))
    });
    let mut reader = Reader::open(StreamReader::new(Box::pin(pieces))).await?;
    let (own, mut passed, mut is_begun) = (BlockKey::from(&node.cid), from, false);
    while let Some(section) = reader.next().await? {
        let key = BlockKey::from(&section.cid);
        if key == own && !is_begun {
            is_begun = true;
            continue;
        }
        // One that has come before is left out where it comes again.
        let rest = node.leaves.get(passed..).unwrap_or_default();
        let Some(next) = rest.iter().position(|(leaf, _)| *leaf == key) else {
            gateway.leave_cars();
            let why = format!("{} sent {}, which is none of what is left of the file", gateway.url(), section.cid);
            return Err(Error::new(ErrorKind::Corrupt, "ahead.read").at(node.cid).because(why));
        };
        passed += next + 1;
        state.keep(key, section.block, passed).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use muxfs::cid_of;
    use tokio::time::Instant;

    use super::*;

    fn block(n: usize) -> (BlockKey, Bytes) {
        let block = Bytes::from([&n.to_le_bytes()[..], &vec![0; 1 << 20]].concat());
        (BlockKey::from(&cid_of(Codec::Raw, &block)), block)
    }

    fn coming(leaf_count: usize) -> (Coming, Vec<(BlockKey, Bytes)>) {
        let blocks: Vec<_> = (0..leaf_count).map(block).collect();
        let leaves = blocks.iter().enumerate().map(|(at, (key, _))| (key.clone(), (at as u64) << 20)).collect();
        let (cid, failure_count, asked) = (cid_of(Codec::DagPb, b""), AtomicU32::new(0), Mutex::default());
        let node = Arc::new(FileNode { cid, leaves, failure_count, asked });
        let task = AbortOnDropHandle::new(tokio::spawn(async {}));
        (Coming { node, state: Arc::default(), task }, blocks)
    }

    /// No more than a window waits for a reader; one that waits for what is behind it lets what it did not want go.
    #[tokio::test(start_paused = true)]
    async fn so_much_is_kept_of_what_nobody_asked_for_yet() {
        let (coming, blocks) = coming(20);
        let fits = WINDOW_LEN / blocks[0].1.len();
        let keep = |n: usize| coming.state.keep(blocks[n].0.clone(), blocks[n].1.clone(), n + 1);
        for n in 0..fits {
            keep(n).await.expect("there is room");
        }
        let mut next = Box::pin(keep(fits));
        assert!(poll!(&mut next).is_pending(), "the window is full");
        let first = coming.take(&blocks[0].0, 0).await.expect("it came");
        assert!(first == blocks[0].1);
        next.await.expect("there is room again");
        // The reader jumped to what comes next.
        let mut taking = Box::pin(coming.take(&blocks[fits + 1].0, fits + 1));
        assert!(poll!(&mut taking).is_pending());
        keep(fits + 1).await.expect("room is made");
        assert!(taking.await.expect("it came") == blocks[fits + 1].1);
        assert!(coming.state.came().len <= WINDOW_LEN);
        assert!(coming.take(&blocks[1].0, 1).await.is_none(), "it was let go, and is asked for by itself");
        // Nobody reads on.
        for n in fits + 2..20 {
            if keep(n).await.is_err() {
                return;
            }
        }
        panic!("what nobody takes is not kept for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_does_so_for_a_while() {
        let (coming, blocks) = coming(4);
        let begun = Instant::now();
        assert!(coming.take(&blocks[1].0, 1).await.is_none());
        assert_eq!(begun.elapsed(), STALL_MAX);
        assert!(coming.take(&blocks[2].0, 2).await.is_none());
        assert_eq!(begun.elapsed(), STALL_MAX, "the next one does not wait at all");
    }

    #[test]
    fn what_is_known_of_files_is_bounded() {
        use muxfs::dag::pb::PbLink;
        let node = |seed: usize| {
            let mut message = UnixfsData::new(UnixfsType::File);
            message.blocksizes = vec![1000; 10];
            message.filesize = Some(10_000);
            let link = |n: usize| PbLink {
                cid: cid_of(Codec::Raw, &(seed * 10 + n).to_le_bytes()),
                name: Some(Bytes::new()),
                tsize: Some(1000),
            };
            let node = PbNode { links: (0..10).map(link).collect(), data: Some(message.encode().into()) };
            let block = node.encode();
            (cid_of(Codec::DagPb, &block), block)
        };
        let ahead = Ahead::default();
        for seed in 0..200 {
            let (cid, block) = node(seed);
            ahead.expect(&cid, &block);
            ahead.expect(&cid, &block);
        }
        let known = ahead.known();
        assert_eq!((known.nodes.len(), known.leaf_count), (NODE_COUNT_MAX, NODE_COUNT_MAX * 10));
        assert_eq!(known.places.len(), known.leaf_count);
    }
}
