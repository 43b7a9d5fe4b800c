//! A vault: blocks in packs of one length in any store, which tell that store nothing.
//!
//! Blocks are cut into pieces, pieces that are there already are not kept again, the others are compressed and packed. A pack
//! is put when it is full; a flush puts what is left, and then swaps the head, which alone says which packs count. So a crash
//! leaves the state of some flush, whole. Spec: spec/vault.md.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{BlockKey, BlockStore, Env, Error, ErrorKind, Name, Result, SecretKey, block::BLOCK_LEN_MAX, heads::Heads};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore, watch},
    task::spawn_blocking,
};

use crate::{
    cipher::Cipher,
    cut::Cutter,
    flush::Head,
    keys::{Keys, PackName, PieceId, Ring, piece_id},
    pack::PACK_LEN_MAX,
    password::Cost,
    read::Recent,
    shrink::{Compression, Shrinker},
    state::State,
};

/// How many keys a listing takes while it holds the lock.
const KEYS_BATCH_COUNT: usize = 1024;
/// So many full packs may be on their way to the store below before whoever puts more waits.
const SEALED_COUNT_MAX: usize = 4;
/// So many blocks are taken apart at once.
const PUTTING_COUNT_MAX: usize = 8;

/// What a vault is made like; it stays so, but for the password.
#[derive(Debug, Clone)]
pub struct VaultOptions {
    /// How everything is encrypted.
    pub cipher: Cipher,
    /// How pieces are compressed.
    pub compression: Compression,
    /// How long every object is, in bytes: a power of two, [`PACK_LEN_MIN`](crate::PACK_LEN_MIN) to [`PACK_LEN_MAX`]. A vault has
    /// four of them at least, and each commit writes one at least; one that is to hold many gigabytes wants long ones.
    pub pack_len: u32,
    /// What it costs to try a password.
    pub cost: Cost,
}

impl Default for VaultOptions {
    fn default() -> Self {
        let (cipher, compression) = (Cipher::default(), Compression::default());
        Self { cipher, compression, pack_len: PACK_LEN_MAX, cost: Cost::default() }
    }
}

/// Where a vault is, and what opens it may use.
#[derive(Debug, Clone)]
pub struct VaultPlace {
    /// Where its packs are. Others may keep blocks there, too.
    pub blocks: Arc<dyn BlockStore>,
    /// Where its head is.
    pub heads: Arc<dyn Heads>,
    /// What its head is called there.
    pub name: Name,
    /// Where the newest state that was seen is remembered, on a disk that whoever keeps the vault cannot write to: with it
    /// an older state that is given for the current one is found out. `None`: it is not.
    pub memory: Option<Arc<dyn Heads>>,
    /// How much of packs to keep in memory that were read, in bytes; two packs at least.
    pub cache_len: usize,
    /// Time is not asked for; what is random is.
    pub env: Env,
}

impl VaultPlace {
    /// A place without a memory, and with 64 MiB for packs that were read.
    pub fn new(blocks: Arc<dyn BlockStore>, heads: Arc<dyn Heads>, name: Name, env: Env) -> Self {
        Self { blocks, heads, name, memory: None, cache_len: 64 << 20, env }
    }
}

/// A [`BlockStore`] in a vault. One at a time has it open: of two the one that came first is `Denied` everything from the moment
/// on at which it finds out, by its next flush at the latest.
///
/// Beyond the laws of `BlockStore`: whatever the store below does to its objects is `Corrupt`, or the state of a flush, but where a
/// pack was damaged or gone when the vault was opened. Then what other packs say is read, of which that one may say something
/// newer, so a block may be there that was deleted; what is absent is `Corrupt`; what is put or deleted is so whatever that pack says when it
/// is back; and no room is given back. Where nobody knows any more what counts, or more than 16 packs cannot be read, all that is
/// found is read in the same way, and to write is `ReadOnly`.
pub struct Vault {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.state();
        let (blocks, packs) = (state.index.blocks().len(), state.index.packs().len());
        write!(f, "Vault({blocks} blocks in {packs} packs over {:?})", self.inner.place.blocks)
    }
}

pub(crate) struct Inner {
    pub(crate) place: VaultPlace,
    pub(crate) ring: RwLock<Ring>,
    pub(crate) cipher: Cipher,
    pub(crate) names_of_pieces: SecretKey,
    pub(crate) id: [u8; 16],
    pub(crate) pack_len: u32,
    pub(crate) cutter: Cutter,
    pub(crate) shrinker: Shrinker,
    pub(crate) state: Mutex<State>,
    /// Whoever holds it changes what counts.
    pub(crate) head: AsyncMutex<Head>,
    pub(crate) recent: Mutex<Recent>,
    /// Whoever puts a block has a permit.
    pub(crate) putting: Arc<Semaphore>,
    /// Changes whenever a pack is put, or cannot be.
    pub(crate) changed: watch::Sender<u64>,
}

impl Inner {
    /// So many puts go on at once.
    pub(crate) fn permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(PUTTING_COUNT_MAX))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Each step is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of now.
    pub(crate) fn ring(&self) -> Ring {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys of a pack of data. As long as the pack counts, or is to, they are there.
    pub(crate) fn keys_of(&self, number: u64) -> Arc<Keys> {
        Arc::clone(self.ring.read().unwrap_or_else(PoisonError::into_inner).of(number))
    }

    /// What a piece of these bytes is called.
    pub(crate) fn piece_id(&self, bytes: &[u8]) -> PieceId {
        piece_id(&self.names_of_pieces, bytes)
    }

    /// # Errors
    /// `Denied` where another has the vault by now.
    pub(crate) fn check_current(&self) -> Result<()> {
        Self::check_fence(&self.state())
    }

    pub(crate) fn check_fence(state: &State) -> Result<()> {
        match &state.fenced {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorKind::Denied, "vault.use").because(why.clone())),
        }
    }

    /// # Errors
    /// `Denied` where another has the vault by now; `ReadOnly` where nobody knows what counts in it.
    pub(crate) fn check_writer(&self) -> Result<()> {
        let state = self.state();
        Self::check_fence(&state)?;
        match &state.read_only {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorKind::ReadOnly, "vault.write").because(why.clone())),
        }
    }

    /// Waits until more may be put.
    ///
    /// # Errors
    /// Why packs cannot be put into the store below.
    pub(crate) async fn room(self: &Arc<Self>) -> Result<()> {
        self.check_writer()?;
        let oldest = {
            let state = self.state();
            if state.sealed.len() < SEALED_COUNT_MAX {
                return Ok(());
            }
            state.sealed.first_key_value().map_or(0, |(number, _)| *number)
        };
        self.sent(oldest).await
    }

    pub(crate) fn pack_key(name: &PackName) -> BlockKey {
        BlockKey::new(&name.0).expect("a name has 24 bytes")
    }
}

/// Runs what takes long where nobody else waits for the thread.
///
/// # Errors
/// `Internal` where it panics.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|error| Error::new(ErrorKind::Internal, "vault.work").because(error))
}

impl Vault {
    /// The longest block of a vault with such packs, in bytes.
    ///
    /// ```
    /// assert_eq!(muxfs_vault::Vault::block_len_max(64 << 10), 2 << 20, "what a DAG needs");
    /// assert_eq!(muxfs_vault::Vault::block_len_max(4 << 20), muxfs::block::BLOCK_LEN_MAX);
    /// ```
    pub fn block_len_max(pack_len: u32) -> usize {
        // So that the names of all pieces of a block fit in one pack, however badly it is cut.
        (pack_len as usize * 32).min(BLOCK_LEN_MAX)
    }

    /// What it is.
    pub fn about(&self) -> VaultAbout {
        let Inner { id, cipher, shrinker, pack_len, .. } = &*self.inner;
        let (cipher, compression) = (*cipher, shrinker.compression());
        VaultAbout { id: *id, cipher, compression, pack_len: *pack_len, epoch: self.inner.state().epoch }
    }

    /// What is in it.
    pub fn usage(&self) -> VaultUsage {
        let state = self.inner.state();
        let pack_count = state.index.packs().len() as u64;
        VaultUsage {
            block_count: state.index.blocks().len() as u64,
            pack_count,
            live_len: state.index.packs().values().map(|usage| usage.live_len).sum(),
            len: pack_count * u64::from(self.inner.pack_len),
        }
    }

    /// A key for what is kept beside a vault and belongs to it, as the journal of a tree: another one for each purpose, the same
    /// whatever the password is, and the master key; another one after [`renew_key`](Self::renew_key) alone.
    pub fn key(&self, purpose: &str) -> SecretKey {
        self.inner.ring().beside.above(purpose)
    }

    /// What [`key`](Self::key) was before it was renewed, for what is not sealed anew yet; `None` where there is none, or it is
    /// forgotten.
    pub fn older_key(&self, purpose: &str) -> Option<SecretKey> {
        self.inner.ring().older_beside.map(|beside| beside.above(purpose))
    }
}

/// What a vault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VaultAbout {
    /// Random, tells vaults apart.
    pub id: [u8; 16],
    /// How everything is encrypted.
    pub cipher: Cipher,
    /// How new pieces are compressed.
    pub compression: Compression,
    /// How long every object is, in bytes.
    pub pack_len: u32,
    /// The number of its current state: higher with each flush that had something to do, each opening and each password.
    pub epoch: u64,
}

/// What is in a vault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VaultUsage {
    /// Blocks.
    pub block_count: u64,
    /// Packs of data, that which is being filled among them.
    pub pack_count: u64,
    /// Pieces that blocks are made of, as they are kept, in bytes.
    pub live_len: u64,
    /// Packs of data, in bytes: those, what is dead, and what is not filled.
    pub len: u64,
}

#[async_trait]
impl BlockStore for Vault {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.read(key, None).await
    }

    /// What it gives is verified; only the pieces that it is in are read, and are asked to be whole.
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.inner.read(key, Some(range)).await
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if block.len() > Self::block_len_max(self.inner.pack_len) {
            return Err(Error::new(ErrorKind::TooLarge, "vault.put"));
        }
        self.inner.put(key, block).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.room().await?;
        self.inner.state().delete(key, &self.inner.place.env);
        self.inner.send_waiting();
        Ok(())
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        Ok(self.block_len(key).await?.is_some())
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        let state = self.inner.state();
        Inner::check_fence(&state)?;
        match state.index.block(key) {
            None => Inner::absent(&state),
            Some(block) if state.has_block(key) => Ok(Some(block.len.into())),
            Some(_) => Err(Inner::damaged()),
        }
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush_detached().await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let batches = stream::unfold(Some(None), move |last: Option<Option<BlockKey>>| async move {
            let last = last?;
            let (batch, end) = self.inner.keys_after(last.as_ref());
            let next = batch.last().cloned();
            let items = batch.into_iter().map(Ok).chain(end.map(Err)).collect::<Vec<_>>();
            (!items.is_empty()).then(|| (stream::iter(items), next.map(Some)))
        });
        batches.flatten().boxed()
    }
}

impl Inner {
    /// Some keys, and at the end why it is not known whether there are more.
    fn keys_after(&self, last: Option<&BlockKey>) -> (Vec<BlockKey>, Option<Error>) {
        let state = self.state();
        if let Err(error) = Self::check_fence(&state) {
            return (Vec::new(), Some(error));
        }
        let from = last.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let blocks = state.index.blocks().range((from, std::ops::Bound::Unbounded));
        let batch: Vec<_> = blocks.take(KEYS_BATCH_COUNT).map(|(key, _)| key.clone()).collect();
        let end = if batch.is_empty() { Self::absent::<()>(&state).err() } else { None };
        (batch, end)
    }
}
