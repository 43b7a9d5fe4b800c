//! From one [`Dag`] into another: the blocks below a root that the other one lacks, and no others.
//!
//! Sits beside [`Dag::walk`], over two stores at once. That a store has a node says nothing of what is below it: what
//! nothing keeps may have lost parts (spec/gc.md), and a copy that was interrupted leaves nodes without their children. So
//! every node is read where it is, and every leaf is asked for; what is moved is only what is not there. Nodes are a
//! thousandth of the bytes, and to read them here costs less than to believe them.
//!
//! From far away what is below a node comes in one go where little of it is here ([`subtree`]); the walk then finds it here.
//!
//! Memory: at most [`COPY_COUNT`] blocks, for each of what comes in one go as many, and what a walk takes. Spec: spec/cli.md #cp.

mod subtree;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};

use self::subtree::Subtrees;
use super::{
    Dag, WriteSession, for_each_link_of,
    walk::{Frontier, Met, WalkMemory},
};
use crate::{Cid, Codec, ErrorKind, Result};

/// How many blocks are on their way at the same time: enough to hide the way to a distant source.
pub const COPY_COUNT: usize = 16;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyProgress {
    /// How many blocks were put, because they were not there.
    pub block_count: u64,
    /// How long those are together, in bytes.
    pub len: u64,
    /// How many blocks were there.
    pub there_count: u64,
}

/// Who is told how far a copy is, after each block; what it does is waited for.
pub type OnCopyProgress = Arc<dyn Fn(CopyProgress) + Send + Sync>;

/// What a copy did.
#[derive(Debug)]
pub struct CopyReport {
    /// What was put, and what was there.
    pub moved: CopyProgress,
    /// Keeps all of it from collection until it is pinned: drop it after that.
    pub session: WriteSession,
}

/// A copy under way.
struct Copy<'a> {
    here: &'a Dag,
    source: &'a Dag,
    moved: Mutex<CopyProgress>,
    on_progress: Option<&'a OnCopyProgress>,
    subtrees: Subtrees,
}

impl Dag {
    /// Puts every block that can be reached from `root` and is not here, from `source`; durable when it returns, and then
    /// everything below `root` is here.
    ///
    /// Each block that is moved is verified. One that is here and wrong is put anew where that shows: nodes are read, of
    /// leaves it is only asked whether they are there. Nothing is pinned: pin `root` before the report is dropped. What is
    /// dropped half way, or fails, has put some of it, which the next collection takes; repeated it goes on with the rest.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{block::Mem, dag::{Dag, DagOptions, UnixfsMeta}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (here, there) = (Arc::new(Mem::default()), Arc::new(Mem::default()));
    /// let (here, there) = (Dag::new(here, DagOptions::default()), Dag::new(there, DagOptions::default()));
    /// let file = there.import(&b"hello"[..], UnixfsMeta::default()).await?;
    /// assert_eq!(here.copy_from(&there, &file.cid, None).await?.moved.block_count, 1);
    /// assert_eq!(here.read_at(&file.cid, 0, 9).await?, "hello");
    /// assert_eq!(here.copy_from(&there, &file.cid, None).await?.moved.block_count, 0);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `NotFound` for a block that neither has, `Corrupt` for one that is wrong there or not what its codec says, naming it;
    /// `Unavailable`; those of [`BlockStore::put`](crate::BlockStore::put).
    pub async fn copy_from(
        &self,
        source: &Self,
        root: &Cid,
        on_progress: Option<&OnCopyProgress>,
    ) -> Result<CopyReport> {
        let session = self.begin_write();
        let lease = source.lease(root);
        lease.settled().await;
        let mut frontier = Frontier::<WalkMemory>::default();
        frontier.meet([Met::new(root)]);
        let subtrees = Subtrees::default();
        let copy = Copy { here: self, source, moved: Mutex::default(), on_progress, subtrees };
        let mut copying = FuturesUnordered::new();
        loop {
            while copying.len() < COPY_COUNT {
                let Some(cid) = frontier.next() else { break };
                copying.push(copy.block(cid));
            }
            let Some(links) = copying.next().await else { break };
            frontier.meet(links?);
        }
        drop(copying);
        // Also what others put meanwhile and was met as being there.
        self.flush().await?;
        Ok(CopyReport { moved: copy.moved.into_inner().unwrap_or_else(PoisonError::into_inner), session })
    }
}

impl Copy<'_> {
    /// Has one block here, and what it links to.
    async fn block(&self, cid: Cid) -> Result<Vec<Met>> {
        let is_leaf = matches!(cid.codec(), Some(Codec::Raw) | None);
        let is_here = self.here.keep_block(&cid).await?;
        if is_here && is_leaf {
            self.met(&cid);
            return Ok(Vec::new());
        }
        let here = if is_here { self.node_here(&cid).await? } else { None };
        let is_new = here.is_none();
        let block = if let Some(block) = here {
            self.met(&cid);
            block
        } else {
            let block = self.source.get_block_once(&cid).await?;
            self.put(&cid, block.clone()).await?;
            block
        };
        let mut links = Vec::new();
        let read = for_each_link_of(&cid, &block, &mut |link| links.push(*link));
        read.map_err(|error| error.at(cid))?;
        if is_new {
            self.bring_subtree(&cid, &links).await?;
        }
        Ok(links.iter().map(Met::new).collect())
    }

    async fn put(&self, cid: &Cid, block: Bytes) -> Result<()> {
        let len = block.len() as u64;
        self.here.put_hashed(cid, block).await?;
        self.count(|moved| {
            moved.block_count += 1;
            moved.len += len;
        });
        Ok(())
    }

    /// Counts a block that is here, unless it is so since this copy put it.
    fn met(&self, cid: &Cid) {
        if !self.subtrees.brought(cid) {
            self.count(|moved| moved.there_count += 1);
        }
    }

    fn count(&self, change: impl FnOnce(&mut CopyProgress)) {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut moved);
        let now = *moved;
        drop(moved);
        if let Some(tell) = self.on_progress {
            tell(now);
        }
    }

    /// A node as it is here; none where that is not the node.
    async fn node_here(&self, cid: &Cid) -> Result<Option<Bytes>> {
        match self.here.read_afresh(cid).await {
            Ok(block) => Ok(Some(block)),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
