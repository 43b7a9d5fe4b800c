//! What the records of a namespace amount to: where each key is, and the sums. Changed in one place, by live records, by
//! replayed ones and by those that an index file tells of.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use muxfs::log::LogHead;

use crate::{
    ids::Ids,
    record::{Head, Kind, Place, frame_len},
    settings::Mode,
    table::{Spot, Table},
};

/// Numbers in sequential mode are below this: a table for more would not fit in memory.
pub(crate) const ID_MAX: u64 = 1 << 36;

/// The key of the hash of keys: only who knows the log can make keys that share a fingerprint.
#[derive(Clone)]
pub(crate) struct Hasher([u8; 32]);

impl Hasher {
    pub(crate) fn new(identity: &[u8]) -> Self {
        Self(blake3::derive_key("muxfs zdb 1 fingerprints of keys", identity))
    }

    /// What stands for a key in tables and index files: its hash, or its number.
    pub(crate) fn name(&self, mode: Mode, key: &[u8]) -> Option<u64> {
        match mode {
            Mode::User => {
                blake3::keyed_hash(&self.0, key).as_bytes().first_chunk().map(|first| u64::from_le_bytes(*first))
            }
            Mode::Sequential => Some(u64::from_le_bytes(key.try_into().ok()?)).filter(|id| *id < ID_MAX),
        }
    }
}

/// What a record says, without its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    /// The key's hash, or its number; 0 for a note.
    pub(crate) name: u64,
    pub(crate) place: Place,
    pub(crate) key_len: u8,
    pub(crate) value_len: u32,
    pub(crate) before: Option<(Place, u32)>,
    pub(crate) next_id: u64,
}

impl Change {
    /// `None` for a record that nobody of this format wrote.
    pub(crate) fn of(hasher: &Hasher, mode: Mode, record: &LogHead) -> Option<(Self, Bytes)> {
        let head = Head::decode(&record.head)?;
        let name = if head.kind == Kind::Note { 0 } else { hasher.name(mode, &head.key)? };
        let change = Self {
            kind: head.kind,
            name,
            place: Place::of(record.pos)?,
            key_len: u8::try_from(head.key.len()).ok()?,
            value_len: record.body_len,
            before: head.before,
            next_id: head.next_id,
        };
        Some((change, head.key))
    }

    fn frame_len(&self) -> u64 {
        frame_len(self.key_len.into(), self.value_len)
    }

    /// Behind the record.
    pub(crate) fn end(&self) -> u32 {
        u32::try_from(u64::from(self.place.offset) + self.frame_len()).unwrap_or(u32::MAX)
    }
}

#[derive(Debug)]
pub(crate) enum Places {
    Keys(Table),
    Ids(Ids),
}

/// What the records of a namespace amount to.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) places: Places,
    /// How long the current values are together.
    pub(crate) data_len: u64,
    /// How long the records of the current values are together.
    pub(crate) live_len: u64,
    pub(crate) next_id: u64,
    /// The data files, and where the last record in each ends.
    pub(crate) ends: BTreeMap<u32, u32>,
    /// How long they are together.
    pub(crate) file_len: u64,
    /// Those that have an index file.
    pub(crate) indexed: BTreeSet<u32>,
    /// Those that were written to since somebody asked.
    pub(crate) dirty: BTreeSet<u32>,
    /// How much of the namespace's limit is taken by sets that are under way.
    pub(crate) reserved_len: u64,
    pub(crate) is_upkeep_due: bool,
    pub(crate) is_compacting: bool,
    /// A compaction begins by itself when so much is dead at least: one that could not help is not tried again at once.
    pub(crate) compact_from: u64,
}

impl State {
    pub(crate) fn new(mode: Mode) -> Self {
        let places = match mode {
            Mode::User => Places::Keys(Table::default()),
            Mode::Sequential => Places::Ids(Ids::default()),
        };
        Self {
            places,
            data_len: 0,
            live_len: 0,
            next_id: 0,
            ends: BTreeMap::new(),
            file_len: 0,
            indexed: BTreeSet::new(),
            dirty: BTreeSet::new(),
            reserved_len: 0,
            is_upkeep_due: false,
            is_compacting: false,
            compact_from: 0,
        }
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> u64 {
        match &self.places {
            Places::Keys(table) => table.len(),
            Places::Ids(ids) => ids.len(),
        }
    }

    /// How much memory the places of keys take, in bytes.
    pub(crate) fn memory_len(&self) -> u64 {
        match &self.places {
            Places::Keys(table) => table.memory_len(),
            Places::Ids(ids) => ids.memory_len(),
        }
    }

    /// Where the record of a key may be.
    pub(crate) fn find(&self, name: u64) -> Vec<Spot> {
        match &self.places {
            Places::Keys(table) => table.find(name).collect(),
            Places::Ids(ids) => ids.get(name).into_iter().collect(),
        }
    }

    /// Whether the record at a place is the current one of a key.
    pub(crate) fn has(&self, name: u64, place: Place) -> bool {
        match &self.places {
            Places::Keys(table) => table.has(name, place),
            Places::Ids(ids) => ids.has(name, place),
        }
    }

    /// What of the data files is of no current value.
    pub(crate) fn dead_len(&self) -> u64 {
        self.file_len.saturating_sub(self.live_len)
    }

    /// Takes note of where a data file ends.
    pub(crate) fn set_end(&mut self, file: u32, end: u32) {
        let before = self.ends.insert(file, end).unwrap_or_default();
        self.file_len = self.file_len + u64::from(end) - u64::from(before);
    }

    /// Takes note of a record. What it takes the place of may be gone, with the files before the first.
    pub(crate) fn apply(&mut self, change: &Change) {
        self.set_end(change.place.file, change.end());
        self.next_id = self.next_id.max(change.next_id);
        match change.kind {
            Kind::Set | Kind::Move => self.put(change),
            Kind::Delete => self.remove(change),
            Kind::Note => {}
        }
    }

    fn put(&mut self, change: &Change) {
        let spot = Spot::new(change.place, change.frame_len());
        let before = match &mut self.places {
            Places::Keys(table) => {
                let before = change.before.filter(|(place, _)| table.replace(change.name, *place, spot));
                if before.is_none() {
                    table.insert(change.name, spot);
                }
                before
            }
            Places::Ids(ids) => ids.put(change.name, spot).and(change.before),
        };
        if let Some((_, len)) = before {
            self.forget(change.key_len, len);
        }
        self.data_len += u64::from(change.value_len);
        self.live_len += change.frame_len();
    }

    fn remove(&mut self, change: &Change) {
        let Some((place, len)) = change.before else { return };
        let is_removed = match &mut self.places {
            Places::Keys(table) => table.remove(change.name, place),
            Places::Ids(ids) => ids.remove(change.name).is_some(),
        };
        if is_removed {
            self.forget(change.key_len, len);
        }
    }

    fn forget(&mut self, key_len: u8, value_len: u32) {
        self.data_len = self.data_len.saturating_sub(value_len.into());
        self.live_len = self.live_len.saturating_sub(frame_len(key_len.into(), value_len));
    }
}
