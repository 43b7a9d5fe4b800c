//! Marking: which blocks can be reached from the roots.
//!
//! Two sets, because two mistakes have different prices. To take a block for marked that is not keeps garbage until the
//! next run, so the marks are a Bloom filter. To take a node for visited that was not loses everything below it, so the
//! visited nodes are 96 bits of a hash each, keyed by the run's secret: nobody can make two that collide, and of a
//! billion nodes two do by chance once in 10^11 runs. Leaves without links, nearly all blocks, are in the filter alone
//! and are not read.
//!
//! Nothing recurses. What waits to be visited are links to nodes that have links themselves, at most those of one path.

use std::collections::HashSet;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream, stream::FuturesUnordered};

use super::{GcProgress, GcRoot, OnGcProgress, filter::KeyFilter};
use crate::{
    BlockKey, Cid, Codec, ErrorKind, Result,
    dag::{
        Dag,
        walk::{WALK_READ_COUNT, for_each_link_of},
    },
};

/// Progress is told when so many more nodes were met.
const TELL_COUNT: usize = 1024;

/// The marks of one collection.
pub(super) struct Marks {
    secret: [u8; 32],
    marked: KeyFilter,
    visited: HashSet<[u8; 12]>,
    on_progress: Option<OnGcProgress>,
}

/// What it means that a node is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// Something is wrong: nothing may be removed.
    Refused,
    /// Nobody can read through it: what is leased need not be there.
    Passed,
}

/// Something to mark, in less memory than a [`Cid`] takes.
struct Met {
    key: Option<BlockKey>,
    /// For one that may have links: its print, and its bytes.
    node: Option<([u8; 12], Box<[u8]>)>,
}

impl Marks {
    pub(super) fn new(secret: [u8; 32], on_progress: Option<OnGcProgress>) -> Self {
        let seed = secret.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
        Self { secret, marked: KeyFilter::new(seed), visited: HashSet::new(), on_progress }
    }

    /// Tells how far it is, and waits for who is told.
    pub(super) async fn tell(&self, progress: GcProgress) {
        if let Some(on_progress) = &self.on_progress {
            on_progress(progress).await;
        }
    }

    /// How many bytes of memory the visited nodes take: a byte beside each in a table that is seven eighths full at most.
    #[cfg(test)]
    pub(super) fn visited_memory_len(&self) -> usize {
        self.visited.capacity() * 8 / 7 * 13
    }

    /// Whether a block is to be kept; of those that are not, some seem to be.
    pub(super) fn may_hold(&self, key: &BlockKey) -> bool {
        self.marked.may_hold(key)
    }

    /// Marks everything that can be reached from `roots`; where absent nodes are refused, before they are passed.
    ///
    /// # Errors
    /// The first of the stream, and that of the first block that cannot be read, naming it.
    pub(super) async fn mark(
        &mut self,
        dag: &Dag,
        mut roots: BoxStream<'_, Result<GcRoot>>,
        absent: Absent,
    ) -> Result<()> {
        let (mut to_visit, mut visiting) = (Vec::new(), FuturesUnordered::<BoxFuture<'_, Result<Vec<Met>>>>::new());
        let (mut more_roots, mut told) = (true, self.visited.len());
        loop {
            if self.visited.len() >= told + TELL_COUNT {
                told = self.visited.len();
                self.tell(GcProgress::Marking { nodes: told as u64 }).await;
            }
            while visiting.len() < WALK_READ_COUNT {
                if let Some(node) = to_visit.pop() {
                    visiting.push(visit(dag, self.secret, node).boxed());
                } else if !more_roots {
                    break;
                } else if let Some(root) = roots.next().await {
                    self.meet(self.root(root?), &mut to_visit);
                } else {
                    more_roots = false;
                }
            }
            let Some(found) = visiting.next().await else { return Ok(()) };
            match found {
                Ok(found) => found.into_iter().for_each(|met| self.meet(met, &mut to_visit)),
                Err(error) if absent == Absent::Passed && error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn root(&self, root: GcRoot) -> Met {
        match root {
            GcRoot::Dag(cid) => Met::new(&self.secret, &cid),
            GcRoot::Block(cid) => Met { node: None, ..Met::new(&self.secret, &cid) },
        }
    }

    fn meet(&mut self, met: Met, to_visit: &mut Vec<Box<[u8]>>) {
        if let Some(key) = met.key {
            self.marked.insert(&key);
        }
        if let Some((print, cid)) = met.node
            && self.visited.insert(print)
        {
            to_visit.push(cid);
        }
    }
}

impl Met {
    fn new(secret: &[u8; 32], cid: &Cid) -> Self {
        let has_links = match cid.codec() {
            Some(Codec::DagPb | Codec::DagCbor | Codec::DagJson) => true,
            // What a codec that MuxFS does not read may link to is nobody's promise.
            Some(Codec::Raw) | None => false,
        };
        let node = has_links.then(|| {
            // With the codec: the same bytes may be a leaf to one and a node to another.
            let mut hasher = blake3::Hasher::new_keyed(secret);
            hasher.update(&cid.codec_code().to_be_bytes()).update(&cid.multihash_bytes());
            let mut print = [0; 12];
            hasher.finalize_xof().fill(&mut print);
            (print, cid.to_bytes().into())
        });
        // The block of an identity CID is in the CID: there is nothing to keep, but it may have links.
        Self { key: cid.identity().is_none().then(|| BlockKey::from(cid)), node }
    }
}

async fn visit(dag: &Dag, secret: [u8; 32], node: Box<[u8]>) -> Result<Vec<Met>> {
    let cid = Cid::from_bytes(&node)?;
    let mut found = Vec::new();
    let links = match dag.get_block_once(&cid).await {
        Ok(block) => for_each_link_of(&cid, &block, &mut |link| found.push(Met::new(&secret, link))),
        Err(error) => Err(error),
    };
    links.map(|()| found).map_err(|error| error.at(cid))
}
