//! What is there of a CAR that comes, and who waits for more of it.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    time::Duration,
};

use muxfs::{BlockKey, block::Checked};
use tokio::time::Instant;

/// A CAR that others were faster than in so many pauses is given up,
const OUTRUN_COUNT_MAX: u32 = 3;
/// and one of which nothing comes for so long while it is waited for.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Came {
    blocks: HashMap<BlockKey, Checked>,
    order: VecDeque<BlockKey>,
    len: usize,
    /// The block that is asked for first: that where a path begins, or the root of a file, if that is awaited.
    pub(super) root: Option<BlockKey>,
    /// Of a file: from where to where the parts lie that are to come. What begins before that came, or will not.
    pub(super) rest: Range<u64>,
    /// Of a file: from where on it is asked for, in bytes; the first part may begin before that.
    pub(super) from: u64,
    /// Whether it was asked for.
    pub(super) is_asked: bool,
    pub(super) waiting_count: usize,
    /// In how many pauses others were faster, and since when they are in this one.
    outrun_count: u32,
    outrun_since: Option<Instant>,
    /// When somebody last asked for something of it, and when something last came.
    pub(super) used: Instant,
    pub(super) progressed: Instant,
    pub(super) is_over: bool,
}

impl Came {
    pub(super) fn new(rest: Range<u64>, from: u64, root: Option<BlockKey>) -> Self {
        let now = Instant::now();
        Self {
            blocks: HashMap::new(),
            order: VecDeque::new(),
            len: 0,
            root,
            rest,
            from,
            is_asked: false,
            waiting_count: 0,
            outrun_count: 0,
            outrun_since: None,
            used: now,
            progressed: now,
            is_over: false,
        }
    }

    /// How long the blocks are together that are there, in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn has(&self, key: &BlockKey) -> bool {
        self.blocks.contains_key(key)
    }

    /// Keeps a block; what comes next of a file begins at `next`.
    pub(super) fn keep(&mut self, block: Checked, next: u64) {
        let key = block.key().clone();
        self.len += block.block().len();
        self.rest.start = self.rest.start.max(next);
        (self.progressed, self.outrun_since) = (Instant::now(), None);
        match self.blocks.insert(key.clone(), block) {
            Some(before) => self.len -= before.block().len(),
            None => self.order.push_back(key),
        }
    }

    /// Takes a block out; of a path it stays, since others may walk there too.
    pub(super) fn take(&mut self, key: &BlockKey, is_once: bool) -> Option<Checked> {
        if !is_once {
            return self.blocks.get(key).cloned();
        }
        let block = self.blocks.remove(key)?;
        self.root.take_if(|root| root == key);
        self.len -= block.block().len();
        self.order.retain(|kept| kept != key);
        Some(block)
    }

    /// Lets the blocks go that came first, until there are no more bytes than so many.
    pub(super) fn let_go(&mut self, len_max: usize) {
        while self.len > len_max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.len -= self.blocks.remove(&oldest).map_or(0, |block| block.block().len());
        }
    }

    pub(super) fn clear(&mut self) {
        (self.blocks, self.order, self.len) = (HashMap::new(), VecDeque::new(), 0);
    }

    /// Whether a block is where the path begins, or one that came holds its key: in dag-pb and dag-cbor a link does.
    pub(super) fn leads_to(&self, key: &BlockKey) -> bool {
        let holds = |block: &Checked| block.block().windows(key.as_bytes().len()).any(|part| part == key.as_bytes());
        self.root.as_ref() == Some(key) || self.blocks.values().any(holds)
    }

    /// Notes that others gave first what somebody waited for since then, and whether that is enough. However many wait in one
    /// pause, it is one.
    pub(super) fn outrun(&mut self, waits_since: Instant) -> bool {
        if self.outrun_since.is_none() {
            self.outrun_count += 1;
        }
        let since = *self.outrun_since.get_or_insert(waits_since);
        self.outrun_count >= OUTRUN_COUNT_MAX || since.elapsed() >= STALL_MAX
    }
}
