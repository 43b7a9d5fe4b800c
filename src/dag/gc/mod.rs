//! Garbage collection: removes the blocks that no root reaches, while others read and write.
//!
//! Sits in [`Dag`], beside its puts: it marks what the roots reach, then goes through the keys of the store and removes
//! what is neither marked nor was put lately. Readers of what may lose its last root hold a [`DagLease`], writers hold a
//! [`WriteSession`] from their first put until what they put is a root. Nobody else is held up: a put waits for at most
//! the removal of a key beside its own.
//!
//! Mark and sweep, and no counting of references: a count that is wrong once, after a crash or a bug, is wrong for
//! ever, and it would have to be written with every put. Spec: spec/gc.md.

mod epoch;
mod filter;
mod mark;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream, stream::BoxStream};

pub(super) use self::epoch::Epochs;
pub use self::epoch::{DagLease, WriteSession};
use self::{
    epoch::{Epoch, Permit, Removal},
    mark::{Absent, Marks},
};
use super::Dag;
use crate::{BlockKey, Cid, Env, Error, ErrorKind, Result};

/// So many keys are looked at together, and then so many of them removed at a time as [`REMOVE_COUNT`] says.
const BATCH_COUNT: usize = 1024;
/// So many blocks are removed at the same time: enough to hide the way to a distant store.
const REMOVE_COUNT: usize = 16;

/// What is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GcRoot {
    /// The block and everything that can be reached from it.
    Dag(Cid),
    /// The block alone: what it links to is kept by another root, or need not be.
    Block(Cid),
}

impl From<Cid> for GcRoot {
    fn from(cid: Cid) -> Self {
        Self::Dag(cid)
    }
}

/// How far a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcProgress {
    /// It looks for what the roots reach.
    Marking {
        /// How many of the blocks that may have links were met so far.
        nodes: u64,
    },
    /// It goes through what the store holds.
    Sweeping {
        /// How many blocks stay so far.
        blocks_kept: u64,
        /// How many are gone, or would be, so far.
        blocks_removed: u64,
    },
}

/// Who is told how far a collection is, and waited for: a run is as slow as this makes it, and nobody waits for a run.
pub type OnGcProgress = Arc<dyn Fn(GcProgress) -> BoxFuture<'static, ()> + Send + Sync>;

/// How a collection goes about it.
#[derive(Clone)]
pub struct GcOptions {
    /// Only counts what would be removed, and what would be kept.
    pub dry_run: bool,
    /// A secret that is another for each run: garbage that one run mistakes for marked is met by the next, and nobody
    /// can make blocks that it mistakes for one another.
    pub secret: [u8; 32],
    /// Is called every thousand blocks or so.
    pub on_progress: Option<OnGcProgress>,
}

impl fmt::Debug for GcOptions {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcOptions").field("dry_run", &self.dry_run).finish_non_exhaustive()
    }
}

impl GcOptions {
    /// A run that removes, with a secret from `env`.
    ///
    /// ```
    /// # use std::{sync::Arc, time::SystemTime};
    /// # use muxfs::{Env, dag::GcOptions};
    /// let env = Env { now: Arc::new(SystemTime::now), fill: Arc::new(|bytes| bytes.fill(7)) };
    /// let dry = GcOptions { dry_run: true, ..GcOptions::new(&env) };
    /// assert_eq!(dry.secret, [7; 32]);
    /// ```
    pub fn new(env: &Env) -> Self {
        let mut secret = [0; 32];
        (env.fill)(&mut secret);
        Self { dry_run: false, secret, on_progress: None }
    }
}

/// What a garbage collection did; a dry run tells what it would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcReport {
    /// How many blocks stay; those that were put meanwhile may be counted or not.
    pub blocks_kept: u64,
    /// How many of them stay only because they were put since the oldest write session began: the next run may find
    /// them to be garbage.
    pub blocks_fresh: u64,
    /// How long the blocks that stay are together, in bytes; only told by a dry run, which has the time to ask.
    pub bytes_kept: Option<u64>,
    /// How many blocks are gone.
    pub blocks_removed: u64,
    /// How long those were together, in bytes.
    pub bytes_removed: u64,
}

impl Dag {
    /// Keeps everything below `cid` until the lease is dropped, in this process: for who reads what may lose its last
    /// root meanwhile, and for who makes a root of what he did not put himself.
    ///
    /// Take it while something else keeps `cid`, and look again whether it does when there is doubt: what is garbage at
    /// this moment may be half gone. [`DagLease::settled`] is for those who lease such.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Codec, block::Mem, dag::{Dag, DagOptions, GcOptions}};
    /// # use futures_util::{StreamExt, stream};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    /// let cid = dag.put_block(Codec::Raw, "kept for as long as it is read".into()).await?;
    /// let lease = dag.lease(&cid);
    /// let options = GcOptions::new(&muxfs::testing::env());
    /// assert_eq!(dag.collect_garbage(|| stream::empty().boxed(), &options).await?.blocks_removed, 0);
    /// drop(lease);
    /// assert_eq!(dag.collect_garbage(|| stream::empty().boxed(), &options).await?.blocks_removed, 1);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn lease(&self, cid: &Cid) -> DagLease {
        self.epochs.lease(cid)
    }

    /// Begins a session: what is put from now on, by anybody, is not collected before it is dropped.
    ///
    /// Begin it before the first put and drop it when what was put is reached from a root that a collection is told of:
    /// pinned, committed, or named by a journal. Blocks that are linked and not put in the session need a lease, unless
    /// another root keeps them meanwhile. Costs two bytes of memory for a block that is put.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Codec, block::Mem, dag::{Dag, DagOptions, GcOptions}};
    /// # use futures_util::{StreamExt, stream};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    /// let session = dag.begin_write();
    /// let cid = dag.put_block(Codec::Raw, "not yet linked".into()).await?;
    /// let options = GcOptions::new(&muxfs::testing::env());
    /// assert_eq!(dag.collect_garbage(|| stream::empty().boxed(), &options).await?.blocks_fresh, 1);
    /// drop(session);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn begin_write(&self) -> WriteSession {
        self.epochs.begin_session()
    }

    /// Removes every block that is reached neither from a root nor from a lease, and was not put since the oldest write
    /// session began. Others read, write and lease meanwhile; a second collection waits for the first.
    ///
    /// `roots` is called when the epoch is taken, so that what it gives is not older: each source of roots gives what it
    /// holds at one moment after the call, and makes durable what it has let go of before its part of the stream ends,
    /// or a crash would bring back roots whose blocks are gone.
    ///
    /// All clones of one `Dag` take part. A second `Dag` over the same store does not: what it puts may be removed.
    ///
    /// Memory: two to four bytes for a block that is kept, and 15 to 30 for each of those that have links. Dropped half
    /// way it has removed some of the garbage.
    ///
    /// # Errors
    /// An error among the roots, and `NotFound`, `Corrupt` or another for a block with links that cannot be read, naming
    /// it: nothing was removed then. An error of the store while it lists or removes: some garbage was removed.
    pub async fn collect_garbage<'a>(
        &self,
        roots: impl FnOnce() -> BoxStream<'a, Result<GcRoot>> + Send,
        options: &GcOptions,
    ) -> Result<GcReport> {
        let epoch = self.epochs.begin_collection().await;
        let mut marks = Marks::new(options.secret, options.on_progress.clone());
        marks.mark(self, roots(), Absent::Refused).await?;
        let mut report = GcReport { bytes_kept: options.dry_run.then_some(0), ..GcReport::default() };
        let mut keys = self.blocks.keys();
        let (mut batch, mut met) = (Vec::new(), 0);
        loop {
            let key = keys.try_next().await?;
            let is_last = key.is_none();
            match key {
                Some(key) if marks.may_hold(&key) => self.keep(&key, &mut report).await?,
                Some(key) => batch.push(key),
                None => {}
            }
            if is_last || batch.len() >= BATCH_COUNT {
                let sweep = Sweep { dag: self, epoch: &epoch, dry_run: options.dry_run };
                sweep.run(&mut marks, std::mem::take(&mut batch), &mut report).await?;
            }
            met += 1;
            if met % BATCH_COUNT == 0 || is_last {
                let GcReport { blocks_kept, blocks_removed, .. } = report;
                marks.tell(GcProgress::Sweeping { blocks_kept, blocks_removed }).await;
            }
            if is_last {
                break;
            }
        }
        // The room comes back only when it is durable that they are gone.
        self.flush().await?;
        Ok(report)
    }

    async fn keep(&self, key: &BlockKey, report: &mut GcReport) -> Result<()> {
        report.blocks_kept += 1;
        if let Some(bytes) = &mut report.bytes_kept {
            *bytes += self.len_of(key).await?.unwrap_or(0);
        }
        Ok(())
    }

    /// How long a block is; one that the store found to be bad counts as empty.
    async fn len_of(&self, key: &BlockKey) -> Result<Option<u64>> {
        match self.blocks.block_len(key).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(0)),
            len => len,
        }
    }
}

/// The end of a collection, batch by batch.
struct Sweep<'a> {
    dag: &'a Dag,
    epoch: &'a Epoch<'a>,
    dry_run: bool,
}

/// What became of a key.
enum Swept {
    /// It is gone; how long it was.
    Removed(u64),
    /// It was gone before.
    Absent,
    Fresh(BlockKey),
    Unsure(BlockKey),
}

impl Sweep<'_> {
    /// Removes what is not marked of `keys`, after what was leased meanwhile is marked too.
    async fn run(&self, marks: &mut Marks, mut keys: Vec<BlockKey>, report: &mut GcReport) -> Result<()> {
        loop {
            let leased = self.epoch.take_leased();
            if !leased.is_empty() {
                let leased = stream::iter(leased).map(|cid| Ok(GcRoot::Dag(cid)));
                marks.mark(self.dag, leased.boxed(), Absent::Passed).await?;
                continue;
            }
            if keys.is_empty() {
                return Ok(());
            }
            let mut unsure = Vec::new();
            keys.sort_unstable();
            keys.dedup();
            for key in keys.extract_if(.., |key| marks.may_hold(key)) {
                self.dag.keep(&key, report).await?;
            }
            let mut swept = stream::iter(keys).map(|key| self.sweep(key)).buffer_unordered(REMOVE_COUNT);
            while let Some(swept) = swept.try_next().await? {
                match swept {
                    Swept::Removed(len) => {
                        report.blocks_removed += 1;
                        report.bytes_removed += len;
                    }
                    Swept::Absent => {}
                    Swept::Fresh(key) => {
                        report.blocks_fresh += 1;
                        self.dag.keep(&key, report).await?;
                    }
                    Swept::Unsure(key) => unsure.push(key),
                }
            }
            keys = unsure;
        }
    }

    async fn sweep(&self, key: BlockKey) -> Result<Swept> {
        if self.epoch.is_fresh(&key) {
            return Ok(Swept::Fresh(key));
        }
        let Some(len) = self.dag.len_of(&key).await? else { return Ok(Swept::Absent) };
        if self.dry_run {
            return Ok(Swept::Removed(len));
        }
        match self.epoch.removal(&key).await {
            Removal::Granted(permit) => {
                remove(self.dag.clone(), key, permit).await?;
                Ok(Swept::Removed(len))
            }
            Removal::Fresh => Ok(Swept::Fresh(key)),
            Removal::Unsure => Ok(Swept::Unsure(key)),
        }
    }
}

/// Removes a block; to its end also when the collection is dropped, since a put may come to the key as soon as the
/// permit is gone.
async fn remove(dag: Dag, key: BlockKey, permit: Permit) -> Result<()> {
    let removal = async move {
        let _permit = permit;
        let removed = dag.blocks.delete(&key).await;
        dag.verified.forget(&key);
        removed
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            let done = runtime.spawn(removal).await;
            done.map_err(|error| Error::new(ErrorKind::Internal, "dag.collect_garbage").because(error))?
        }
        Err(_) => removal.await,
    }
}
