//! What is below a node, brought in one go from where it is far away: as one answer what else would be a request for each block.
//!
//! Only what the walk would ask for anyway: below a node that was not here, and of whose children few are. Whoever sends it is
//! believed nothing: each block is the one of its CID, and one that nothing before it links to ends it. The walk that comes after
//! asks for what was left out, and checks all of it.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::Semaphore;

use super::{COPY_COUNT, Copy};
use crate::{
    Cid, Error, ErrorKind, Result,
    block::Checked,
    dag::{for_each_link_of, walk::print},
};

/// So much comes at once of different nodes.
const STREAM_COUNT_MAX: usize = 4;
/// Of the children of a node at most one in so many may be here; so many of them are looked for.
const HERE_PART_MAX: usize = 8;
const LOOK_COUNT_MAX: usize = 64;
/// What comes though it is here is let come up to what is new, and so much more, in bytes.
const WASTE_LEN_MAX: u64 = 8 << 20;
/// After so many that broke off, or sent something else, nothing comes in this way any more.
const FAILURE_COUNT_MAX: u32 = 3;

/// What came in one go, and how that went.
#[derive(Debug)]
pub(super) struct Subtrees {
    turns: Semaphore,
    failure_count: AtomicU32,
    /// What was put, and not met since: see [`print`].
    brought: Mutex<HashSet<[u8; 16]>>,
}

impl Default for Subtrees {
    fn default() -> Self {
        let turns = Semaphore::new(STREAM_COUNT_MAX);
        Self { turns, failure_count: AtomicU32::new(0), brought: Mutex::default() }
    }
}

impl Subtrees {
    fn all_brought(&self) -> MutexGuard<'_, HashSet<[u8; 16]>> {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a block came in this way and was not met before.
    pub(super) fn brought(&self, cid: &Cid) -> bool {
        let mut brought = self.all_brought();
        !brought.is_empty() && brought.remove(&print(cid))
    }
}

/// What may come: what a block that came links to.
struct Linked {
    met: HashSet<[u8; 16]>,
    missing: HashSet<[u8; 16]>,
}

impl Linked {
    fn new(root: &Cid) -> Self {
        let root = HashSet::from([print(root)]);
        Self { met: root.clone(), missing: root }
    }

    /// Whether it is the first time that the block comes.
    ///
    /// # Errors
    /// `Corrupt` for one that nothing links to, or that is not what its codec says.
    fn take(&mut self, cid: &Cid, block: &Checked) -> Result<bool> {
        let print = print(cid);
        if !self.missing.remove(&print) {
            let why = "nothing that came before it links to it";
            let is_known = self.met.contains(&print);
            return if is_known {
                Ok(false)
            } else {
                Err(Error::new(ErrorKind::Corrupt, "dag.copy").at(cid).because(why))
            };
        }
        for_each_link_of(cid, block.block(), &mut |link| {
            let print = self::print(link);
            // What its CID holds nobody has to send.
            if link.identity().is_none() && self.met.insert(print) {
                self.missing.insert(print);
            }
        })?;
        Ok(true)
    }
}

impl Copy<'_> {
    /// Puts what is below a node that was not here, as far as it comes in one go; the node links to `links`.
    ///
    /// # Errors
    /// Those of the store here. Those of the source are met again by who asks for what did not come.
    pub(super) async fn bring_subtree(&self, node: &Cid, links: &[Cid]) -> Result<()> {
        let may_come = || self.subtrees.failure_count.load(Ordering::Relaxed) < FAILURE_COUNT_MAX;
        if !may_come() || links.is_empty() || !self.source.looks_elsewhere() {
            return Ok(());
        }
        let _turn = self.subtrees.turns.acquire().await;
        if !may_come() || self.source.has_block(node).await? || !self.lacks_most(links).await? {
            return Ok(());
        }
        let Some(mut blocks) = self.source.subtree_elsewhere(node) else { return Ok(()) };
        let (mut linked, mut putting) = (Linked::new(node), FuturesUnordered::new());
        let (mut new_len, mut here_len, mut is_over) = (0, 0, false);
        let failed = loop {
            tokio::select! {
                biased;
                Some(put) = putting.next(), if !putting.is_empty() => {
                    let (len, is_new): (u64, bool) = put?;
                    *(if is_new { &mut new_len } else { &mut here_len }) += len;
                    if here_len > new_len + WASTE_LEN_MAX {
                        return Ok(());
                    }
                }
                block = blocks.next(), if !is_over && putting.len() < COPY_COUNT => match block {
                    None => is_over = true,
                    Some(Err(error)) => break Some(error),
                    Some(Ok((cid, block))) => match linked.take(&cid, &block) {
                        Ok(true) => putting.push(self.put_below(cid, block)),
                        Ok(false) => {}
                        Err(error) => break Some(error),
                    },
                },
                else => break None,
            }
        };
        while let Some(put) = putting.next().await {
            put?;
        }
        if failed.is_some() || !linked.missing.is_empty() {
            self.subtrees.failure_count.fetch_add(1, Ordering::Relaxed);
            let why = failed.map_or_else(|| "it ended before all had come".to_owned(), |error| format!("{error:#}"));
            tracing::debug!(%node, why, "what is below a node does not come in one go: its blocks are asked for");
        }
        Ok(())
    }

    /// Whether little is here of what a node links to, as far as can be told soon.
    async fn lacks_most(&self, links: &[Cid]) -> Result<bool> {
        let (mut count, mut here_count) = (0, 0);
        for link in links.iter().step_by(links.len().div_ceil(LOOK_COUNT_MAX)) {
            count += 1;
            here_count += usize::from(self.here.has_block(link).await?);
        }
        Ok(here_count * HERE_PART_MAX <= count)
    }

    /// Puts a block that came, unless it is here; how long it is, and whether it was not.
    async fn put_below(&self, cid: Cid, block: Checked) -> Result<(u64, bool)> {
        let len = block.block().len() as u64;
        if self.here.keep_block(&cid).await? {
            return Ok((len, false));
        }
        self.put(&cid, block.block().clone()).await?;
        self.subtrees.all_brought().insert(print(&cid));
        Ok((len, true))
    }
}
