//! The keys and values of one namespace: a log of records, and a table of where the current ones are.
//!
//! A write finds the record of its key, appends one that takes its place, and changes the table under the lock that gives
//! the record its place: so the table changes in the order of the log, live as in a replay. Writes of one key go one
//! after the other; those of others, and all reads, do not wait for them.

mod open;
mod upkeep;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use muxfs::{
    Env, Error, ErrorKind, Result,
    log::{Log, LogHead, Record},
    media::Media,
};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::task::TaskTracker;

pub(crate) use self::open::StoreMedia;
use crate::{
    KEY_LEN_MAX, VALUE_LEN_MAX,
    outcome::{Delete, Entry, Raw, Refused, Set, Version},
    record::{Head, Kind, Place},
    scan::Offsets,
    settings::{Mode, Settings},
    state::{Change, Hasher, State},
    table::Spot,
};

/// So many keys can be written at the same time; two of one key go one after the other.
const STRIPE_COUNT: usize = 64;
/// A record that may be longer is read in two steps, its head first: how long it may be is told within a factor of two, and to
/// read what it is not takes longer than to ask twice.
const AT_ONCE_LEN_MAX: u32 = 32 << 10;
/// A read whose record is being moved looks again; more often than this nobody moves it.
const READ_TRIES: usize = 100;

/// How the records of a namespace are kept.
#[derive(Debug, Clone)]
pub(crate) struct StoreOptions {
    pub(crate) mode: Mode,
    pub(crate) file_len_max: u32,
    pub(crate) compact_len_min: u64,
    pub(crate) env: Env,
}

/// How often something went wrong, and when last.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) io_errors: AtomicU64,
    pub(crate) io_error_last: AtomicU32,
    /// How often a check failed.
    pub(crate) failed_checks: AtomicU64,
}

/// The keys and values of one namespace.
pub(crate) struct Store {
    pub(crate) log: Log,
    data: Arc<dyn Media>,
    index: Arc<dyn Media>,
    hasher: Hasher,
    pub(crate) options: StoreOptions,
    state: Mutex<State>,
    stripes: Vec<AsyncMutex<()>>,
    /// Whoever holds it writes or removes index files.
    upkeep: AsyncMutex<()>,
    /// Whoever holds it compacts.
    compacting: AsyncMutex<()>,
    /// Whether what was overwritten and deleted stays.
    pub(crate) keeps_history: AtomicBool,
    /// What goes on in the background ends as soon as it can.
    closing: AtomicBool,
    tasks: TaskTracker,
    /// Of the file that a scan goes through backward.
    pub(crate) offsets: Mutex<Option<Offsets>>,
    pub(crate) data_faults: Faults,
    pub(crate) index_faults: Faults,
    pub(crate) read_len: AtomicU64,
    pub(crate) written_len: AtomicU64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("log", &self.log).finish_non_exhaustive()
    }
}

/// The current record of a key.
pub(crate) struct Found {
    pub(crate) name: u64,
    pub(crate) spot: Spot,
    pub(crate) head: Head,
    pub(crate) value_len: u32,
    /// Where it was asked for.
    pub(crate) value: Bytes,
}

impl Found {
    fn before(&self) -> (Place, u32) {
        (self.spot.place(), self.value_len)
    }
}

/// What is read of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Head,
    Value,
}

impl Store {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // State changes in steps that cannot panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mode(&self) -> Mode {
        self.options.mode
    }

    /// What stands for a key; `None` for one that cannot be there.
    pub(crate) fn name(&self, key: &[u8]) -> Option<u64> {
        self.hasher.name(self.options.mode, key)
    }

    /// What a record says, and its key; `None` for one that nobody of this format wrote.
    pub(crate) fn change(&self, record: &LogHead) -> Option<(Change, Bytes)> {
        Change::of(&self.hasher, self.options.mode, record)
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u32 {
        let since = (self.options.env.now)().duration_since(UNIX_EPOCH).unwrap_or_default();
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
    }

    /// Counts what went wrong with the data files.
    pub(crate) fn fault(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Corrupt {
            self.data_faults.failed_checks.fetch_add(1, Ordering::Relaxed);
        } else {
            self.data_faults.io_errors.fetch_add(1, Ordering::Relaxed);
            self.data_faults.io_error_last.store(self.now(), Ordering::Relaxed);
        }
        error
    }

    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        let found = self.find(key, Want::Value).await?;
        Ok(found.map(|found| Entry { value: found.value, timestamp: found.head.timestamp }))
    }

    pub(crate) async fn check(&self, key: &[u8]) -> Result<Option<bool>> {
        match self.find(key, Want::Value).await {
            Ok(found) => Ok(found.map(|_| true)),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }

    /// The current record of a key, checked.
    pub(crate) async fn find(&self, key: &[u8], want: Want) -> Result<Option<Found>> {
        let Some(name) = self.name(key) else { return Ok(None) };
        let mut tries = 0;
        'again: loop {
            let spots = self.lock().find(name);
            for spot in spots {
                match self.read(spot, want).await {
                    Ok((head, _, _)) if head.key != key => {}
                    Ok((head, value_len, value)) => return Ok(Some(Found { name, spot, head, value_len, value })),
                    // It was moved or overwritten, and its file removed, since it was looked up.
                    Err(_) if tries < READ_TRIES && !self.lock().has(name, spot.place()) => {
                        tries += 1;
                        continue 'again;
                    }
                    Err(error) => return Err(self.fault(error)),
                }
            }
            return Ok(None);
        }
    }

    async fn read(&self, spot: Spot, want: Want) -> Result<(Head, u32, Bytes)> {
        let pos = spot.place().pos();
        let (head, value_len, value) = match want {
            Want::Head => {
                let LogHead { head, body_len, .. } = self.log.head(pos).await?;
                (head, body_len, Bytes::new())
            }
            Want::Value => {
                let Record { head, body } = match spot.len_max() {
                    len_max @ ..=AT_ONCE_LEN_MAX => self.log.read_within(pos, len_max).await?,
                    _ => self.log.read(pos).await?,
                };
                self.read_len.fetch_add(body.len() as u64, Ordering::Relaxed);
                (head, u32::try_from(body.len()).unwrap_or(u32::MAX), body)
            }
        };
        let head = Head::decode(&head).ok_or_else(|| unknown_record(spot.place()))?;
        Ok((head, value_len, value))
    }

    pub(crate) async fn set(
        self: &Arc<Self>,
        settings: &Settings,
        key: &[u8],
        value: Bytes,
        timestamp: Option<u32>,
    ) -> Result<Set> {
        if let Some(refused) = refused(settings, key, &value) {
            return Ok(Set::Refused(refused));
        }
        let is_new_id = self.options.mode == Mode::Sequential && key.is_empty();
        let name = self.name(key).unwrap_or_default();
        let _turn = if is_new_id { None } else { Some(self.stripe(name).lock().await) };
        let found = if is_new_id { None } else { self.find(key, Want::Head).await? };
        if found.is_some() && settings.worm {
            return Ok(Set::Refused(Refused::Worm));
        }
        let value_len = value.len() as u64;
        let Some(_reserved) = self.reserve(settings.maxsize, value_len, found.as_ref()) else {
            return Ok(Set::Refused(Refused::Quota));
        };
        match self.options.mode {
            Mode::User if key.is_empty() => return Ok(Set::Refused(Refused::KeyNeeded)),
            Mode::Sequential if !is_new_id && found.is_none() => return Ok(Set::Refused(Refused::UnknownId)),
            _ => {}
        }
        if let Some(found) = &found
            && self.is_same(found, &value).await?
        {
            return Ok(Set::Same);
        }
        let (key, next_id) = self.take_id(key, found.is_none(), is_new_id);
        let before = found.as_ref().map(Found::before);
        let timestamp = timestamp.unwrap_or_else(|| self.now());
        let head = Head { kind: Kind::Set, timestamp, before, next_id, key: key.clone() };
        self.append(head, value).await?;
        Ok(Set::Stored { key })
    }

    pub(crate) async fn delete(
        self: &Arc<Self>,
        settings: &Settings,
        key: &[u8],
        timestamp: Option<u32>,
    ) -> Result<Delete> {
        if let Some(refused) = refused(settings, key, &[]) {
            return Ok(Delete::Refused(refused));
        }
        let Some(name) = self.name(key) else { return Ok(Delete::Absent) };
        let _turn = self.stripe(name).lock().await;
        let Some(found) = self.find(key, Want::Head).await? else { return Ok(Delete::Absent) };
        if settings.worm {
            return Ok(Delete::Refused(Refused::Worm));
        }
        let timestamp = timestamp.unwrap_or_else(|| self.now());
        let next_id = self.lock().next_id;
        let before = Some(found.before());
        let key = Bytes::copy_from_slice(key);
        self.append(Head { kind: Kind::Delete, timestamp, before, next_id, key }, Bytes::new()).await?;
        Ok(Delete::Deleted)
    }

    /// Appends a record of 0-db's as it is: its key, or a deletion mark. Quota and switches are not looked at.
    pub(crate) async fn import(self: &Arc<Self>, key: Bytes, value: Option<Bytes>, timestamp: u32) -> Result<()> {
        let Some(name) = self.name(&key) else {
            return Err(Error::new(ErrorKind::InvalidArgument, "zdb.import").because("a number is 8 bytes long"));
        };
        let _turn = self.stripe(name).lock().await;
        let found = self.find(&key, Want::Head).await?;
        let before = found.as_ref().map(Found::before);
        let (kind, next_id) = {
            let state = self.lock();
            match (&value, self.options.mode) {
                (None, _) => (Kind::Delete, state.next_id),
                (Some(_), Mode::User) => (Kind::Set, state.next_id + u64::from(found.is_none())),
                // An update takes a number as well.
                (Some(_), Mode::Sequential) => (Kind::Set, (state.next_id + 1).max(name + 1)),
            }
        };
        if kind == Kind::Delete && found.is_none() {
            return Ok(());
        }
        self.append(Head { kind, timestamp, before, next_id, key }, value.unwrap_or_default()).await.map(drop)
    }

    /// Lets the next value get this number at least.
    pub(crate) async fn note(self: &Arc<Self>, next_id: u64) -> Result<()> {
        let next_id = self.lock().next_id.max(next_id);
        let head = Head { kind: Kind::Note, timestamp: self.now(), before: None, next_id, key: Bytes::new() };
        self.append(head, Bytes::new()).await.map(drop)
    }

    fn stripe(&self, name: u64) -> &AsyncMutex<()> {
        // Not the bits that choose a shard: numbers have none there.
        &self.stripes[usize::try_from(name % STRIPE_COUNT as u64).unwrap_or_default()]
    }

    /// Whether a record has this value already. One that cannot be read has not: setting it mends it.
    async fn is_same(&self, found: &Found, value: &Bytes) -> Result<bool> {
        if u64::from(found.value_len) != value.len() as u64 {
            return Ok(false);
        }
        match self.read(found.spot, Want::Value).await {
            Ok((_, _, there)) => Ok(there == value),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let error = self.fault(error);
                tracing::warn!(%error, "a damaged value is set anew");
                Ok(false)
            }
            Err(error) => Err(self.fault(error)),
        }
    }

    /// The key of a set, and the number that the next value gets.
    fn take_id(&self, key: &[u8], is_new: bool, is_new_id: bool) -> (Bytes, u64) {
        let mut state = self.lock();
        let id = state.next_id;
        match self.options.mode {
            Mode::User => state.next_id += u64::from(is_new),
            // An update takes a number as well.
            Mode::Sequential => state.next_id += 1,
        }
        let key = if is_new_id { Bytes::copy_from_slice(&id.to_le_bytes()) } else { Bytes::copy_from_slice(key) };
        (key, state.next_id)
    }

    /// Takes what a value needs of the namespace's limit, or `None` if there is too little.
    fn reserve(&self, maxsize: u64, len: u64, found: Option<&Found>) -> Option<Reserved<'_>> {
        let mut state = self.lock();
        let old_len = found.map_or(0, |found| u64::from(found.value_len));
        if maxsize > 0 && state.data_len + state.reserved_len + len > maxsize + old_len {
            return None;
        }
        let more = len.saturating_sub(old_len);
        state.reserved_len += more;
        Some(Reserved { store: self, len: more })
    }

    /// Appends a record and takes note of it, in the order of the log.
    pub(crate) async fn append(self: &Arc<Self>, head: Head, body: Bytes) -> Result<Place> {
        let name = if head.kind == Kind::Note { 0 } else { self.name(&head.key).unwrap_or_default() };
        let value_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let key_len = u8::try_from(head.key.len()).unwrap_or(u8::MAX);
        let record = Record { head: head.encode(), body };
        let record_len = (record.head.len() + record.body.len()) as u64;
        let mut placed = None;
        let (before, next_id, kind) = (head.before, head.next_id, head.kind);
        let note = |pos| {
            let Some(place) = Place::of(pos) else { return };
            let change = Change { kind, name, place, key_len, value_len, before, next_id };
            let mut state = self.lock();
            let is_first = !state.ends.contains_key(&place.file);
            state.is_upkeep_due |= is_first && !state.ends.is_empty();
            state.apply(&change);
            state.dirty.insert(place.file);
            placed = Some(place);
        };
        self.log.append_then(record, note).await.map_err(|error| self.fault(error))?;
        self.written_len.fetch_add(record_len, Ordering::Relaxed);
        self.follow_up();
        placed.ok_or_else(|| {
            Error::new(ErrorKind::TooLarge, "zdb.append").because("a namespace has at most 2^32 data files")
        })
    }

    /// A value that a key has or had.
    pub(crate) async fn history(&self, key: &[u8], at: Option<[u8; 8]>) -> Result<Option<Version>> {
        let (head, value) = match at {
            None => match self.find(key, Want::Value).await? {
                Some(found) => (found.head, found.value),
                None => return Ok(None),
            },
            Some(at) => match self.record_at(Place::from_bytes(at)).await? {
                Some((head, value)) if head.key == key && matches!(head.kind, Kind::Set | Kind::Move) => (head, value),
                _ => return Ok(None),
            },
        };
        // A record that was moved stood elsewhere with the same value; what was before that is not kept.
        let before = head.before.filter(|_| head.kind == Kind::Set).map(|(place, _)| place);
        let first = self.log.first().0;
        let previous = before.filter(|place| u64::from(place.file) >= first).map(Place::to_bytes);
        Ok(Some(Version { previous, timestamp: head.timestamp, value }))
    }

    pub(crate) async fn raw(&self, file: u32, offset: u32) -> Result<Option<Raw>> {
        let place = Place::from_bytes(Place { file, offset }.to_bytes());
        let Some((head, value)) = self.record_at(place).await? else { return Ok(None) };
        Ok(Some(Raw {
            key: head.key,
            previous: head.before.map_or(0, |(place, _)| place.offset),
            crc: crate::import::crc(&value),
            flags: u8::from(head.kind == Kind::Delete),
            timestamp: head.timestamp,
            value,
        }))
    }

    /// The record at a place that a client named.
    ///
    /// What is no record there cannot be told from one that is damaged: that is `InvalidArgument`, and no fault is counted.
    async fn record_at(&self, place: Option<Place>) -> Result<Option<(Head, Bytes)>> {
        let Some(place) = place else { return Ok(None) };
        let is_within = self.lock().ends.get(&place.file).is_some_and(|end| place.offset < *end);
        if !is_within || u64::from(place.file) < self.log.first().0 {
            return Ok(None);
        }
        match self.log.read_within(place.pos(), 4096).await {
            Ok(Record { head, body }) => Ok(Head::decode(&head).map(|head| (head, body))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => Err(Error::new(ErrorKind::InvalidArgument, "zdb.read")
                .at(place.pos())
                .because("no record begins at this place, or it is damaged")),
            Err(error) => Err(self.fault(error)),
        }
    }

    pub(crate) async fn sync(&self) -> Result<()> {
        self.log.sync().await.map_err(|error| self.fault(error))
    }

    /// Ends the current data file: the next record goes to a new one.
    pub(crate) fn jump(&self) -> Result<()> {
        self.log.rotate().map(drop)
    }
}

/// A part of a namespace's limit that a set takes while it is under way.
struct Reserved<'a> {
    store: &'a Store,
    len: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.store.lock().reserved_len -= self.len;
    }
}

/// What no look at the key is needed for, in the order in which 0-db looks.
fn refused(settings: &Settings, key: &[u8], value: &[u8]) -> Option<Refused> {
    let checks = [
        (key.len() > KEY_LEN_MAX, Refused::KeyTooLong),
        (value.len() > VALUE_LEN_MAX, Refused::ValueTooLong),
        (settings.frozen, Refused::Frozen),
        (settings.locked, Refused::Locked),
    ];
    checks.into_iter().find(|(is_so, _)| *is_so).map(|(_, refused)| refused)
}

pub(crate) fn unknown_record(place: Place) -> Error {
    Error::new(ErrorKind::Corrupt, "zdb.read").at(place.pos()).because("the record is none of a namespace")
}
