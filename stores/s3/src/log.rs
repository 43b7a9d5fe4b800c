//! What is known of a store: its packs in their order, and what is on the way to the bucket.
//!
//! A pack is open until it is full or synced, then sealed: it has its number, and is being put. Several may be; a pack counts
//! when it and all before it are there, so what counts is always a beginning of what was sealed. Changed in single steps
//! under one lock.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use muxfs::{BlockKey, Error, ErrorKind, Result};
use object_store::PutPayload;

use crate::{
    index::{Index, Location},
    pack::{FRONT_LEN, PackId, PackIndex, Placed, State, payload},
};

/// What an entry of an index takes besides its key, in bytes.
const ENTRY_LEN: usize = 13;

/// What is known of a store.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) index: Index,
    /// After the last pack that was sealed.
    pub(crate) state: State,
    pub(crate) open: Open,
    pub(crate) sealed: BTreeMap<u64, Sealed>,
    /// The last pack that counts, and the epoch of the last that was written.
    pub(crate) tail: u64,
    pub(crate) epoch: u64,
    /// Blocks that were found to be bad.
    pub(crate) rotten: HashSet<BlockKey>,
    /// Packs that count, and whose index cannot be read: nobody knows what they hold.
    pub(crate) unreadable: BTreeMap<u64, String>,
    /// Packs that hold a block which is damaged: they stay as they are.
    pub(crate) unmovable: HashSet<u64>,
    /// Why nothing can be written any more.
    pub(crate) fenced: Option<String>,
    /// Whether this writer has ended, or is about to say so: nothing is sealed any more.
    pub(crate) closed: bool,
    /// The tail that the fence says.
    pub(crate) fence_tail: u64,
    /// The pack that set a head last.
    pub(crate) last_swap: u64,
}

/// A pack that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Open {
    blocks: HashMap<BlockKey, Bytes>,
    /// In the order in which they came, also those that were deleted again: they are not among `blocks`.
    order: Vec<BlockKey>,
    deleted: Vec<(BlockKey, u64)>,
    len: usize,
}

impl Open {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.deleted.is_empty()
    }
}

/// A pack on its way.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) index: Arc<PackIndex>,
    pub(crate) payload: PutPayload,
    blocks: HashMap<BlockKey, Bytes>,
    pub(crate) sending: Sending,
}

/// How far it is.
#[derive(Debug)]
pub(crate) enum Sending {
    /// Being put.
    Going,
    /// There; one before it is not.
    Done,
    /// Perhaps there.
    Failed(Failure),
}

/// An error that can be told more than once.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    kind: ErrorKind,
    op: &'static str,
    place: String,
    why: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let source = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
        let place = error.path().unwrap_or_default().to_owned();
        Self { kind: error.kind(), op: error.op(), place, why: source }
    }
}

impl From<Failure> for Error {
    fn from(Failure { kind, op, place, why }: Failure) -> Self {
        Self::new(kind, op).at(place).because(why)
    }
}

/// Blocks that are moved from packs that are mostly dead, and what else is in those.
#[derive(Debug, Default)]
pub(crate) struct Moving {
    pub(crate) from: Vec<u64>,
    pub(crate) blocks: Vec<(BlockKey, Location, Bytes)>,
    pub(crate) deleted: Vec<(BlockKey, u64)>,
}

/// Where a block is now.
pub(crate) enum Found {
    Absent,
    /// Not in the bucket yet.
    Here(Bytes),
    At(Location),
}

impl Log {
    /// The number of the pack that is open.
    pub(crate) fn next(&self) -> u64 {
        self.sealed.last_key_value().map_or(self.tail, |(number, _)| *number) + 1
    }

    pub(crate) fn find(&self, key: &BlockKey) -> Found {
        if let Some(block) = self.open.blocks.get(key) {
            return Found::Here(block.clone());
        }
        let Some(location) = self.index.get(key) else { return Found::Absent };
        let sealed = self.sealed.get(&location.number).and_then(|sealed| sealed.blocks.get(key));
        sealed.map_or(Found::At(location), |block| Found::Here(block.clone()))
    }

    pub(crate) fn len_of(&self, key: &BlockKey) -> Option<u64> {
        let open = self.open.blocks.get(key).map(|block| block.len() as u64);
        open.or_else(|| self.index.get(key).map(|location| location.len.into()))
    }

    /// Every key that is there.
    pub(crate) fn keys(&self) -> Vec<BlockKey> {
        self.open.blocks.keys().chain(self.index.keys()).cloned().collect()
    }

    pub(crate) fn block_count(&self) -> usize {
        self.open.blocks.len() + self.index.block_count()
    }

    /// Whether nothing need be put: the block is there, and not known to be bad.
    pub(crate) fn has_good(&self, key: &BlockKey) -> bool {
        self.len_of(key).is_some() && !self.rotten.contains(key)
    }

    /// Puts a block into the pack that is open.
    pub(crate) fn put(&mut self, key: &BlockKey, block: Bytes) {
        self.delete(key);
        self.open.len += block.len() + key.as_bytes().len() + ENTRY_LEN;
        self.open.order.push(key.clone());
        self.open.blocks.insert(key.clone(), block);
    }

    pub(crate) fn delete(&mut self, key: &BlockKey) {
        self.rotten.remove(key);
        if let Some(block) = self.open.blocks.remove(key) {
            self.open.len = self.open.len.saturating_sub(block.len());
        }
        if let Some(location) = self.index.remove(key) {
            self.open.len += key.as_bytes().len() + ENTRY_LEN;
            self.open.deleted.push((key.clone(), location.number));
        }
    }

    /// Seals the pack that is open; `None` if there is nothing in it and it is not wanted all the same.
    pub(crate) fn seal(&mut self, nonce: [u8; 16], is_wanted: bool) -> Option<u64> {
        if self.open.is_empty() && !is_wanted {
            return None;
        }
        let Open { mut blocks, order, deleted, .. } = std::mem::take(&mut self.open);
        let bodies = order.into_iter().filter_map(|key| blocks.remove_entry(&key)).collect();
        Some(self.seal_pack(nonce, bodies, deleted))
    }

    /// Seals a pack of blocks that moved, those that are still where they were: the packs they were in count no more after it.
    pub(crate) fn seal_moved(&mut self, nonce: [u8; 16], moving: Moving) -> u64 {
        let Moving { from, blocks, deleted } = moving;
        for number in from {
            self.state.live.remove(number);
        }
        let stayed = blocks.into_iter().filter(|(key, location, _)| self.index.get(key) == Some(*location));
        let bodies = stayed.map(|(key, _, block)| (key, block)).collect();
        self.seal_pack(nonce, bodies, deleted)
    }

    fn seal_pack(&mut self, nonce: [u8; 16], bodies: Vec<(BlockKey, Bytes)>, deleted: Vec<(BlockKey, u64)>) -> u64 {
        let number = self.next();
        self.state.live.insert(number, number);
        let mut offset = FRONT_LEN;
        let place = |(key, block): &(BlockKey, Bytes)| {
            let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
            let placed = Placed { key: key.clone(), offset, len, crc: crc32c::crc32c(block) };
            offset = offset.saturating_add(len);
            placed
        };
        let blocks = bodies.iter().map(place).collect();
        // What is in a pack that counts no more need not be taken back.
        let deleted = deleted.into_iter().filter(|(_, from)| self.state.live.contains(*from)).collect();
        let id = PackId { number, epoch: self.epoch, nonce };
        let index = PackIndex { id, blocks, deleted, state: self.state.clone() };
        self.index.add(&index);
        let live = &self.state.live;
        self.index.retain(|number| live.contains(number));
        let payload = payload(bodies.iter().map(|(_, block)| block.clone()), index.encode());
        let blocks = bodies.into_iter().collect();
        let sealed = Sealed { index: Arc::new(index), payload, blocks, sending: Sending::Going };
        self.sealed.insert(number, sealed);
        number
    }

    /// What became of putting a pack; the packs that count from now on.
    pub(crate) fn sent(&mut self, number: u64, result: Result<(), Failure>) -> Vec<Arc<PackIndex>> {
        if let Some(sealed) = self.sealed.get_mut(&number) {
            sealed.sending = result.map_or_else(Sending::Failed, |()| Sending::Done);
        }
        let mut counting = Vec::new();
        while let Some(first) = self.sealed.first_entry().filter(|first| matches!(first.get().sending, Sending::Done)) {
            self.tail = *first.key();
            counting.push(first.remove().index);
        }
        counting
    }

    /// Applies a pack that somebody wrote and that counts: the next one.
    pub(crate) fn follow(&mut self, pack: &PackIndex) {
        self.index.add(pack);
        self.advance(pack);
    }

    /// Takes over the state after a pack whose predecessors are in the index.
    pub(crate) fn advance(&mut self, pack: &PackIndex) {
        self.state = pack.state.clone();
        let live = &self.state.live;
        self.index.retain(|number| live.contains(number));
        self.unreadable.retain(|number, _| live.contains(*number));
        (self.tail, self.epoch) = (pack.id.number, pack.id.epoch);
    }
}
