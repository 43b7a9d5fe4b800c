//! Making durable: chunks that went past the journal are in the block store for good, or their bytes are in the journal.
//!
//! `sync` flushes the block store first, so that no durable record names a chunk that is not. A store whose nodes are away
//! may have taken a chunk and be unable to prove it: then the chunk is read once more and its bytes are appended to the
//! journal, which is durable on this disk alone. From there it is read, and the next commit puts it again. Spec:
//! spec/journal.md #durability.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Shared, extent::Piece, record::Record, state::State};
use crate::{Cid, Codec, Error, ErrorKind, Result, log::Log};

/// So many chunks are read at a time: enough to hide a disk's latency.
const CHUNK_COUNT: usize = 4;
/// About what a chunk takes in memory that is not known to be durable.
const UNPROVED_LEN: usize = 200;

impl State {
    /// Notes that a chunk was put past the journal: whoever names it from now on names what may not be durable.
    pub(super) fn put_past(&mut self, cid: Cid) {
        if self.unproved.insert(cid, self.naming_count + 1).is_none() {
            self.active.memory_len += UNPROVED_LEN;
        }
    }

    /// Notes that a record names a block.
    pub(super) fn name(&mut self, cid: Cid) {
        if self.unproved.contains_key(&cid) || self.kept.contains_key(&cid) {
            self.unproved.insert(cid, self.naming_count);
        }
    }

    /// The chunks that something uncommitted is made of, and that are durable neither in the store nor in the journal.
    fn to_keep(&self) -> BTreeSet<Cid> {
        let layers = [Some(&self.active), self.frozen.as_deref()];
        let nodes = layers.into_iter().flatten().flat_map(|layer| layer.nodes.values());
        let pieces = nodes.flat_map(|node| node.extents.iter()).map(|(_, piece)| piece);
        let cids = pieces.filter_map(|piece| if let Piece::Slice(cid, _) = piece { Some(cid) } else { None });
        cids.filter(|cid| self.unproved.contains_key(cid)).collect()
    }
}

impl Shared {
    pub(super) async fn sync(&self) -> Result<()> {
        self.refuse_what_is_lost()?;
        self.flush_chunks().await?;
        self.log.sync().await?;
        // It may have been said meanwhile.
        self.refuse_what_is_lost()
    }

    /// Makes every block durable that a record names, and says so in the journal: a record that names one which is not
    /// there was not durable, and replay knows it.
    ///
    /// So no record that was synced may be left unsaid, whoever put its block: later ones may have overwritten what it
    /// says, and the collector have taken the block.
    async fn flush_chunks(&self) -> Result<()> {
        let wanted = self.lock().naming_count;
        let mut flushed = self.flushed.lock().await;
        if *flushed >= wanted {
            return Ok(());
        }
        let (covered, through) = {
            let state = self.lock();
            (state.naming_count, self.log.end())
        };
        if let Err(error) = self.flush_blocks().await {
            if error.kind() != ErrorKind::Unavailable {
                return Err(error);
            }
            self.keep_chunks().await.map_err(|kept| {
                let why = format!("{error:#}; and the journal cannot take what is not durable there: {kept:#}");
                Error::new(ErrorKind::Unavailable, "tree.sync").because(why)
            })?;
        }
        self.log.append(Record::Flush { through }.encode()).await?;
        *flushed = covered;
        Ok(())
    }

    /// Makes every block durable that a record named so far.
    async fn flush_blocks(&self) -> Result<()> {
        let covered = self.lock().naming_count;
        let inherited = self.put_inherited().await?;
        self.dag.flush().await?;
        let mut state = self.lock();
        let State { unproved, inherited: left, .. } = &mut *state;
        left.retain(|cid| !inherited.contains(cid));
        unproved.retain(|cid, named| *named > covered || left.contains(cid));
        Ok(())
    }

    /// Puts once more the chunks that an earlier process put: which nodes have to make them durable that one knew.
    async fn put_inherited(&self) -> Result<BTreeSet<Cid>> {
        let chunks: BTreeSet<_> = {
            let state = self.lock();
            if state.inherited.is_empty() {
                return Ok(BTreeSet::new());
            }
            state.to_keep().intersection(&state.inherited).copied().collect()
        };
        for cid in &chunks {
            self.dag.put_block(Codec::Raw, self.dag.get_block(cid).await?).await?;
        }
        Ok(chunks)
    }

    /// Appends to the journal the chunks that a record names and the store cannot prove durable. What is overwritten meanwhile
    /// is there until this ends: a collection syncs, and so waits for it, before it removes anything.
    async fn keep_chunks(&self) -> Result<()> {
        let chunks = self.lock().to_keep();
        let read = |cid| async move { Ok::<_, Error>((cid, self.chunk(&cid).await?)) };
        let mut chunks = stream::iter(chunks).map(read).buffered(CHUNK_COUNT);
        while let Some((cid, bytes)) = chunks.try_next().await? {
            self.log.ready().await?;
            self.refuse_when_short()?;
            let prepared = Log::prepare(Record::Chunk { cid, bytes }.encode())?;
            let mut state = self.lock();
            let placed = self.log.push(prepared)?;
            state.kept.insert(cid, placed.pos);
            // Whatever names it by now is before this record.
            state.unproved.remove(&cid);
            state.active.journal_len += u64::from(placed.len);
        }
        Ok(())
    }

    /// The bytes of a chunk: from the journal where it is there already, at a place that a commit may let go before this one.
    async fn chunk(&self, cid: &Cid) -> Result<Bytes> {
        loop {
            let Some(pos) = self.kept_at(cid) else { return self.dag.get_block(cid).await };
            match self.log.read(pos).await {
                // A commit that ended meanwhile put it into the store.
                Err(error) if error.kind() == ErrorKind::NotFound && self.kept_at(cid) != Some(pos) => {}
                read => return Ok(read?.body),
            }
        }
    }

    /// Makes durable what a commit is made of. What only the journal holds for sure is put again first: a node that lost it
    /// does not flush before, and after a restart none need know that it did. Later changes may name it, and the commit
    /// lets the journal go.
    pub(super) async fn flush_commit(&self) -> Result<()> {
        let kept: Vec<_> = self.lock().kept.values().copied().collect();
        for pos in kept {
            self.dag.put_block(Codec::Raw, self.log.read(pos).await?.body).await?;
        }
        self.flush_blocks().await
    }
}
