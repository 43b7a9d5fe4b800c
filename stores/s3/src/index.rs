//! Where each block is, in memory: a place in a pack for each key, and how much of each pack still counts.
//!
//! It holds what the packs say themselves, so it is lost without loss; about 120 bytes for each block.

use std::collections::{BTreeMap, HashMap};

use muxfs::BlockKey;

use crate::pack::{FRONT_LEN, PackIndex, Placed};

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) number: u64,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

impl Location {
    pub(crate) fn of(number: u64, placed: &Placed) -> Self {
        let Placed { offset, len, crc, .. } = *placed;
        Self { number, offset, len, crc }
    }
}

/// What a pack holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// All of it, in bytes, without its end.
    pub(crate) len: u64,
    /// Blocks that are still there, and their bytes.
    pub(crate) live_count: u64,
    pub(crate) live_len: u64,
    /// How many blocks of packs before it takes back.
    pub(crate) deleted_count: u64,
}

/// Where each block is.
#[derive(Debug, Default)]
pub(crate) struct Index {
    blocks: HashMap<BlockKey, Location>,
    packs: BTreeMap<u64, Usage>,
}

impl Index {
    pub(crate) fn get(&self, key: &BlockKey) -> Option<Location> {
        self.blocks.get(key).copied()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &BlockKey> {
        self.blocks.keys()
    }

    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The packs from a number on, ascending, and where the blocks of each end, in bytes.
    pub(crate) fn ends_from(&self, number: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.packs.range(number..).map(|(number, usage)| (*number, usage.len))
    }

    /// The packs, ascending.
    pub(crate) fn packs(&self) -> impl Iterator<Item = (u64, Usage)> + '_ {
        self.packs.iter().map(|(number, usage)| (*number, *usage))
    }

    /// Adds a pack. Those of before it are here already, but for those that count no more, or could not be read until now: what is
    /// in a later one stays.
    pub(crate) fn add(&mut self, pack: &PackIndex) {
        let number = pack.id.number;
        let ends = pack.blocks.iter().map(|placed| u64::from(placed.offset) + u64::from(placed.len));
        let len = ends.max().unwrap_or(FRONT_LEN.into());
        let deleted_count = pack.deleted.len() as u64;
        self.packs.insert(number, Usage { len, deleted_count, ..Usage::default() });
        for (key, from) in &pack.deleted {
            if self.get(key).is_some_and(|location| location.number == *from) {
                self.remove(key);
            }
        }
        for placed in &pack.blocks {
            if self.get(&placed.key).is_some_and(|location| location.number > number) {
                continue;
            }
            self.insert(placed.key.clone(), Location::of(number, placed));
        }
    }

    fn insert(&mut self, key: BlockKey, location: Location) {
        if let Some(usage) = self.packs.get_mut(&location.number) {
            usage.live_count += 1;
            usage.live_len += u64::from(location.len);
        }
        if let Some(before) = self.blocks.insert(key, location) {
            self.let_go(before);
        }
    }

    pub(crate) fn remove(&mut self, key: &BlockKey) -> Option<Location> {
        let location = self.blocks.remove(key)?;
        self.let_go(location);
        Some(location)
    }

    fn let_go(&mut self, location: Location) {
        if let Some(usage) = self.packs.get_mut(&location.number) {
            usage.live_count = usage.live_count.saturating_sub(1);
            usage.live_len = usage.live_len.saturating_sub(location.len.into());
        }
    }

    /// Forgets packs that count no more, and what nobody moved out of them.
    pub(crate) fn retain(&mut self, is_live: impl Fn(u64) -> bool) {
        let mut left = false;
        self.packs.retain(|number, usage| {
            let stays = is_live(*number);
            left |= !stays && usage.live_count > 0;
            stays
        });
        if left {
            self.blocks.retain(|_, location| is_live(location.number));
        }
    }
}
