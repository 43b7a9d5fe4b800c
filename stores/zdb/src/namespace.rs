//! A namespace: what is set about it, and the store that has its keys.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};
use tokio::sync::{RwLock as AsyncRwLock, RwLockReadGuard};

use crate::{
    engine::{EngineOptions, SyncRule},
    home::{Home, Part},
    outcome::{Delete, Direction, Entry, Figures, Key, Page, Raw, ScanLimit, Set, Version},
    settings::Settings,
    store::{Store, Want},
};

/// A namespace: keys, values, and what they were before.
///
/// All calls may be made at the same time. A write is queued when its call returns, and then seen by everybody; it is
/// durable after [`durable`](Self::durable), which all who wait share. So a client's pipelined commands are run one after
/// the other, `durable` is awaited once, and then they are answered. `Stale` from every call once it was removed.
///
/// Reads do not look at [`Settings::frozen`]: whoever serves clients does.
pub struct Namespace {
    name: String,
    number: AtomicU64,
    home: Arc<dyn Home>,
    options: EngineOptions,
    settings: RwLock<Arc<Settings>>,
    /// Held for reading by every call, for writing while there is another store.
    slot: AsyncRwLock<Slot>,
    is_removed: AtomicBool,
    /// As they were when there was no store to ask.
    figures: Mutex<Figures>,
}

/// What a namespace has.
#[derive(Debug)]
pub(crate) enum Slot {
    Open(Arc<Store>),
    /// Why it could not be opened.
    Failed(String),
    Removed,
    Closed,
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace")
            .field("name", &self.name)
            .field("settings", &self.settings())
            .finish_non_exhaustive()
    }
}

impl Namespace {
    pub(crate) fn new(
        name: String,
        number: u64,
        settings: Settings,
        store: Arc<Store>,
        home: Arc<dyn Home>,
        options: EngineOptions,
    ) -> Arc<Self> {
        store.keeps_history.store(settings.history, Ordering::Relaxed);
        Arc::new(Self {
            name,
            number: AtomicU64::new(number),
            home,
            options,
            settings: RwLock::new(Arc::new(settings)),
            slot: AsyncRwLock::new(Slot::Open(store)),
            is_removed: AtomicBool::new(false),
            figures: Mutex::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is set about it now.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn put_settings(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Whether it was removed.
    pub fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    pub(crate) fn note_removed(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    pub(crate) fn put_number(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    pub(crate) fn slot(&self) -> &AsyncRwLock<Slot> {
        &self.slot
    }

    async fn store(&self) -> Result<RwLockReadGuard<'_, Arc<Store>>> {
        let slot = self.slot.read().await;
        RwLockReadGuard::try_map(slot, |slot| match slot {
            Slot::Open(store) => Some(store),
            _ => None,
        })
        .map_err(|slot| self.no_store(&slot))
    }

    pub(crate) fn no_store(&self, slot: &Slot) -> Error {
        const OP: &str = "zdb.namespace";
        let error = match slot {
            Slot::Removed => Error::new(ErrorKind::Stale, OP).because("the namespace was removed"),
            Slot::Failed(why) => Error::new(ErrorKind::Unavailable, OP)
                .because(format!("it could not be opened again, and is until it is reloaded: {why}")),
            Slot::Open(_) | Slot::Closed => Error::new(ErrorKind::Unavailable, OP).because("the engine was closed"),
        };
        error.at(&self.name)
    }

    /// Sets the value of a key, or in sequential mode with an empty key adds a value. Queued when it returns.
    ///
    /// `timestamp` is in seconds since 1970; now if `None`.
    ///
    /// # Errors
    /// `NoSpace` if the disk is full, `Io` after a failed sync until it is reloaded, `Corrupt` if it cannot be told whether
    /// the key is there, and the media's: nothing was written.
    pub async fn set(&self, key: &[u8], value: Bytes, timestamp: Option<u32>) -> Result<Set> {
        let store = self.store().await?;
        // What is left is for deletions and compaction, which take a little before they give more.
        if let Some(free) = self.home.free_len()
            && free < self.options.reserve_len + value.len() as u64
        {
            return Err(Error::new(ErrorKind::NoSpace, "zdb.set").at(&self.name).because(format!(
                "{free} bytes are free on the disk, and {} of them are kept for deletions",
                self.options.reserve_len
            )));
        }
        store.set(&self.settings(), key, value, timestamp).await
    }

    /// Deletes a key. Queued when it returns.
    ///
    /// # Errors
    /// As `set`, but for `NoSpace` while there is any.
    pub async fn delete(&self, key: &[u8], timestamp: Option<u32>) -> Result<Delete> {
        self.store().await?.delete(&self.settings(), key, timestamp).await
    }

    /// Waits until everything that was queued before this call is durable, as the engine's [`SyncRule`] says. Costs
    /// nothing where nothing is waiting.
    ///
    /// # Errors
    /// `NoSpace` and the like: what was queued stays so and may become durable later; `Io`: it is lost, and the namespace
    /// takes no more until it is reloaded.
    pub async fn durable(&self) -> Result<()> {
        match self.options.sync {
            SyncRule::Group => self.sync().await,
            SyncRule::Every(_) => self.store().await.map(drop),
        }
    }

    /// Waits until everything that was queued before this call is durable, whatever the engine's rule is.
    ///
    /// # Errors
    /// As `durable`.
    pub async fn sync(&self) -> Result<()> {
        self.store().await?.sync().await
    }

    /// The value of a key, checked; `None` if it is not there, also for a key that could never be.
    ///
    /// # Errors
    /// `Corrupt` if it fails its check; and the media's.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        self.store().await?.get(key).await
    }

    /// What is known of a key without reading its value; `None` if it is not there. For EXISTS, LENGTH, KEYTIME and
    /// KEYCUR.
    ///
    /// # Errors
    /// As `get`.
    pub async fn key(&self, key: &[u8]) -> Result<Option<Key>> {
        let store = self.store().await?;
        let found = store.find(key, Want::Head).await?;
        Ok(found.map(|found| Key {
            len: found.value_len,
            timestamp: found.head.timestamp,
            cursor: store.cursor(&found),
        }))
    }

    /// Whether the value of a key passes its check; `None` if it is not there.
    ///
    /// # Errors
    /// The media's.
    pub async fn check(&self, key: &[u8]) -> Result<Option<bool>> {
        self.store().await?.check(key).await
    }

    /// The next page of a scan: the first if `cursor` is `None`.
    ///
    /// In user mode keys come in the order in which their values were set, in sequential mode in the order of their
    /// numbers. Every key that is there throughout is given at least once, whatever is written meanwhile; one that is
    /// set meanwhile may be given twice, and by a scan backward out of order, at its end. A compaction puts what it moves
    /// behind everything else.
    ///
    /// # Errors
    /// `Corrupt` if a record fails its check; and the media's.
    pub async fn scan(&self, direction: Direction, cursor: Option<&[u8]>, limit: ScanLimit) -> Result<Page> {
        self.store().await?.scan(direction, cursor, limit).await
    }

    /// The value of a key, or with `at` an earlier one; `None` if the key is not there, or `at` is no place of a value of
    /// it.
    ///
    /// # Errors
    /// As `get`; `InvalidArgument` if no record begins at `at`, or a damaged one.
    pub async fn history(&self, key: &[u8], at: Option<[u8; 8]>) -> Result<Option<Version>> {
        self.store().await?.history(key, at).await
    }

    /// How many keys there are.
    pub fn len(&self) -> u64 {
        self.figures().entries
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its figures; those of a moment ago while it is emptied or reloaded.
    pub fn figures(&self) -> Figures {
        let mut kept = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(slot) = self.slot.try_read()
            && let Slot::Open(store) = &*slot
        {
            *kept = self.figures_of(store);
        }
        kept.clone()
    }

    fn figures_of(&self, store: &Store) -> Figures {
        let end = store.log.end();
        let number = self.number();
        let (data_path, index_path) = (self.home.path(number, Part::Data), self.home.path(number, Part::Index));
        let active =
            |path: &str| if path.is_empty() { String::new() } else { format!("{path}/{:016x}.seg", end.segment.0) };
        let (data, index) = (&store.data_faults, &store.index_faults);
        let state = store.lock();
        Figures {
            entries: state.len(),
            data_len: state.data_len,
            index_len: state.memory_len(),
            file_len: state.file_len,
            dead_len: state.dead_len(),
            next_id: state.next_id,
            current_file: u32::try_from(end.segment.0).unwrap_or(u32::MAX),
            current_offset: end.offset,
            data_io_errors: data.io_errors.load(Ordering::Relaxed),
            data_io_error_last: data.io_error_last.load(Ordering::Relaxed),
            data_faults: data.failed_checks.load(Ordering::Relaxed),
            index_io_errors: index.io_errors.load(Ordering::Relaxed),
            index_io_error_last: index.io_error_last.load(Ordering::Relaxed),
            index_faults: index.failed_checks.load(Ordering::Relaxed),
            read_len: store.read_len.load(Ordering::Relaxed),
            written_len: store.written_len.load(Ordering::Relaxed),
            data_active: active(&data_path),
            index_active: active(&index_path),
            data_path,
            index_path,
        }
    }

    /// Closes the current data file: the next record goes to a new one.
    ///
    /// # Errors
    /// `Io` after a failed sync.
    pub async fn jump(&self) -> Result<()> {
        self.store().await?.jump()
    }

    /// The record at a place, whatever it is; `None` if there is none.
    ///
    /// # Errors
    /// `InvalidArgument` if no record begins there, or a damaged one; and the media's.
    pub async fn raw(&self, file: u32, offset: u32) -> Result<Option<Raw>> {
        self.store().await?.raw(file, offset).await
    }

    /// Whether there is a data file of this number.
    ///
    /// # Errors
    /// `Stale` and `Unavailable` alone.
    pub async fn has_file(&self, file: u32) -> Result<bool> {
        Ok(self.store().await?.lock().ends.contains_key(&file))
    }

    /// The data files that were written to since the engine was opened or `reset_dirty` was called, ascending; none while
    /// the namespace is emptied or reloaded.
    pub fn dirty(&self) -> Vec<u32> {
        match self.slot.try_read().as_deref() {
            Ok(Slot::Open(store)) => store.lock().dirty.iter().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Forgets which data files were written to.
    pub fn reset_dirty(&self) {
        if let Ok(Slot::Open(store)) = self.slot.try_read().as_deref() {
            store.lock().dirty.clear();
        }
    }

    /// Gives the room of overwritten and deleted values back to the disk, if the namespace keeps no history; how many
    /// bytes. Goes on by itself when they take a quarter, and to its end also when this call is dropped.
    ///
    /// # Errors
    /// The media's: nothing is lost, and it can be tried again.
    pub async fn compact(&self) -> Result<u64> {
        if self.settings().history {
            return Ok(0);
        }
        let compacted = {
            let store = self.store().await?;
            store.compact_in_background()
        };
        compacted.await.map_err(|stopped| Error::new(ErrorKind::Unavailable, "zdb.compact").because(stopped))?
    }
}
