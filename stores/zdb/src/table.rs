//! Where the current record of every key is: a hash table of fingerprints and places, 12 bytes a slot.
//!
//! No keys are in memory. A key has a 64-bit keyed hash: 8 bits of it choose a shard, 32 are the fingerprint in the slot;
//! what a slot says is checked against the record. So two keys may share a fingerprint, and a lookup gives every
//! place that it may be. Open addressing with linear probing; each shard grows by itself and by little, so that no growth
//! takes long and a slot in six is free, not half of them.
//!
//! A place takes 60 bits, since records begin at multiples of 8; the other four say how long the record is at most, for
//! it to be read in one go.

use crate::record::Place;

const SHARD_BITS: u32 = 8;
/// A shard grows when it is fuller than this, in percent.
const FULL_PERCENT: usize = 85;
/// And then so much, in percent.
const GROW_PERCENT: usize = 20;
const SLOTS_MIN: usize = 8;
/// The shortest length class, in bytes; each next one is twice as long.
const CLASS_LEN_MIN: u64 = 256;
const CLASS_MAX: u32 = 15;
/// What stands around a value comes on top: lengths of values are powers of two more often than not, and each would be
/// read with as much again behind it.
const AROUND_LEN_MAX: u64 = 320;

/// The place of a record and how long it is at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot(u64);

impl Spot {
    pub(crate) fn new(place: Place, frame_len: u64) -> Self {
        let value_len = frame_len.saturating_sub(AROUND_LEN_MAX);
        let classes = value_len.div_ceil(CLASS_LEN_MIN).next_power_of_two().trailing_zeros();
        let class = u64::from(classes.min(CLASS_MAX));
        Self(u64::from(place.file) << 32 | u64::from(place.offset / 8) << 4 | class)
    }

    pub(crate) fn place(self) -> Place {
        let (file, low) = ((self.0 >> 32) as u32, (self.0 & 0xffff_ffff) as u32);
        Place { file, offset: (low >> 4) * 8 }
    }

    /// So many bytes hold the record.
    pub(crate) fn len_max(self) -> u32 {
        let value_len = CLASS_LEN_MIN << (self.0 & u64::from(CLASS_MAX));
        u32::try_from(value_len + AROUND_LEN_MAX).unwrap_or(u32::MAX)
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// 12 bytes, with no gaps; a spot of 0 is a free slot.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    fingerprint: u32,
    low: u32,
    high: u32,
}

impl Slot {
    fn new(fingerprint: u32, spot: Spot) -> Self {
        let bits = spot.to_bits();
        Self { fingerprint, low: (bits & 0xffff_ffff) as u32, high: (bits >> 32) as u32 }
    }

    fn is_free(self) -> bool {
        self.low == 0 && self.high == 0
    }

    fn spot(self) -> Spot {
        Spot::from_bits(u64::from(self.high) << 32 | u64::from(self.low))
    }
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Slot>,
    used: usize,
}

/// Where the current record of every key is.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Vec<Shard>,
    len: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self { shards: (0..1 << SHARD_BITS).map(|_| Shard::default()).collect(), len: 0 }
    }
}

impl Table {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// How much memory it takes, in bytes.
    pub(crate) fn memory_len(&self) -> u64 {
        let slots: usize = self.shards.iter().map(|shard| shard.slots.capacity()).sum();
        (slots * size_of::<Slot>() + self.shards.capacity() * size_of::<Shard>()) as u64
    }

    /// Makes room for so many more keys, where they are known to come.
    pub(crate) fn reserve(&mut self, count: u64) {
        let more = usize::try_from(count).unwrap_or(usize::MAX) / self.shards.len();
        for shard in &mut self.shards {
            let wanted = shard.used.saturating_add(more);
            if wanted * 100 > shard.slots.len() * FULL_PERCENT {
                shard.resize(wanted * 100 / FULL_PERCENT + SLOTS_MIN);
            }
        }
    }

    /// Where the record of a key may be that has this hash.
    pub(crate) fn find(&self, hash: u64) -> impl Iterator<Item = Spot> {
        let (shard, fingerprint) = (&self.shards[shard_of(hash)], fingerprint_of(hash));
        let chain = shard.chain(fingerprint).map(|at| shard.slots[at]);
        chain.filter(move |slot| slot.fingerprint == fingerprint).map(Slot::spot)
    }

    /// Whether the record at a place is the current one of a key with this hash.
    pub(crate) fn has(&self, hash: u64, place: Place) -> bool {
        self.find(hash).any(|spot| spot.place() == place)
    }

    /// Adds a key that is not there.
    pub(crate) fn insert(&mut self, hash: u64, spot: Spot) {
        self.shards[shard_of(hash)].insert(fingerprint_of(hash), spot);
        self.len += 1;
    }

    /// Puts the record of a key somewhere else; whether it was at `from`.
    pub(crate) fn replace(&mut self, hash: u64, from: Place, to: Spot) -> bool {
        let shard = &mut self.shards[shard_of(hash)];
        let Some(at) = shard.position(fingerprint_of(hash), from) else { return false };
        shard.slots[at] = Slot::new(fingerprint_of(hash), to);
        true
    }

    /// Removes the key whose record is at `from`; whether there was one.
    pub(crate) fn remove(&mut self, hash: u64, from: Place) -> bool {
        let shard = &mut self.shards[shard_of(hash)];
        let Some(at) = shard.position(fingerprint_of(hash), from) else { return false };
        shard.remove(at);
        self.len -= 1;
        true
    }
}

fn shard_of(hash: u64) -> usize {
    (hash >> (64 - SHARD_BITS)) as usize
}

fn fingerprint_of(hash: u64) -> u32 {
    (hash >> 24 & 0xffff_ffff) as u32
}

impl Shard {
    /// Where a fingerprint belongs: the higher it is, the later, so that keys that come in the order of their hashes are
    /// put one behind the other.
    fn home(&self, fingerprint: u32) -> usize {
        ((u64::from(fingerprint) * self.slots.len() as u64) >> 32) as usize
    }

    /// The slots from where a fingerprint belongs up to the next free one.
    fn chain(&self, fingerprint: u32) -> impl Iterator<Item = usize> {
        let (home, len) = (self.home(fingerprint), self.slots.len());
        (home..len).chain(0..home).take_while(|at| !self.slots[*at].is_free())
    }

    fn position(&self, fingerprint: u32, place: Place) -> Option<usize> {
        self.chain(fingerprint).find(|at| {
            let slot = self.slots[*at];
            slot.fingerprint == fingerprint && slot.spot().place() == place
        })
    }

    fn insert(&mut self, fingerprint: u32, spot: Spot) {
        if (self.used + 1) * 100 > self.slots.len() * FULL_PERCENT {
            self.resize((self.slots.len() * (100 + GROW_PERCENT) / 100).max(self.slots.len() + SLOTS_MIN));
        }
        self.put(Slot::new(fingerprint, spot));
        self.used += 1;
    }

    /// Puts a slot where there is one free at least.
    fn put(&mut self, slot: Slot) {
        let (home, len) = (self.home(slot.fingerprint), self.slots.len());
        if let Some(at) = (home..len).chain(0..home).find(|at| self.slots[*at].is_free()) {
            self.slots[at] = slot;
        }
    }

    fn resize(&mut self, len: usize) {
        let mut slots = Vec::with_capacity(len);
        slots.resize(len, Slot::default());
        let old = std::mem::replace(&mut self.slots, slots);
        for slot in old.into_iter().filter(|slot| !slot.is_free()) {
            self.put(slot);
        }
    }

    /// Frees a slot, and moves those behind it up that would not be found across the gap.
    fn remove(&mut self, at: usize) {
        let len = self.slots.len();
        let (mut gap, mut next) = (at, (at + 1) % len);
        while !self.slots[next].is_free() {
            let home = self.home(self.slots[next].fingerprint);
            // How far each is behind where the slot belongs, around the end.
            let (to_gap, to_next) = ((gap + len - home) % len, (next + len - home) % len);
            if to_gap < to_next {
                self.slots[gap] = self.slots[next];
                gap = next;
            }
            next = (next + 1) % len;
        }
        self.slots[gap] = Slot::default();
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use muxfs::testing::fault::Dice;

    use super::*;

    fn place(n: u32) -> Place {
        Place { file: n / 1000, offset: 64 + n % 1000 * 8 }
    }

    #[test]
    fn a_spot_holds_place_and_length() {
        for file in [0, 1, u32::MAX] {
            for offset in [64, 72, (1 << 31) - 8] {
                for (len, len_max) in [
                    (52, 576),
                    (576, 576),
                    (577, 832),
                    ((1 << 20) + 320, (1 << 20) + 320),
                    ((1 << 20) + 321, (2 << 20) + 320),
                ] {
                    let spot = Spot::new(Place { file, offset }, len);
                    assert_eq!(spot.place(), Place { file, offset });
                    assert_eq!(spot.len_max(), len_max);
                }
            }
        }
        let longest = crate::record::frame_len(crate::KEY_LEN_MAX, u32::try_from(crate::VALUE_LEN_MAX).expect("short"));
        assert!(longest <= Spot::new(place(0), longest).len_max().into());
    }

    /// Random insertions, moves and removals, with few fingerprints so that chains are long and go around the end,
    /// against a map.
    #[test]
    fn it_is_a_map() {
        let mut dice = Dice::new(1);
        let (mut table, mut model) = (Table::default(), HashMap::new());
        for n in 0..60_000 {
            // Few shards and few fingerprints; distinct low bits stand for distinct keys.
            let (shard, fingerprint) = (dice.bits() % 3, dice.bits() % 400 * 0x00a0_0000);
            let key = (shard << 56) | (fingerprint << 24) | (dice.bits() % 3);
            match (model.get(&key).copied(), dice.roll(3)) {
                (None, _) => {
                    table.insert(key, Spot::new(place(n), 100));
                    model.insert(key, place(n));
                }
                (Some(there), 0) => {
                    assert!(table.remove(key, there));
                    assert!(!table.remove(key, there));
                    model.remove(&key);
                }
                (Some(there), _) => {
                    assert!(table.replace(key, there, Spot::new(place(n), 300)));
                    assert!(!table.replace(key, there, Spot::new(place(n), 300)) || there == place(n));
                    model.insert(key, place(n));
                }
            }
            if n % 5000 == 0 {
                assert!(model.iter().all(|(key, there)| table.has(*key, *there)));
            }
        }
        assert_eq!(table.len(), model.len() as u64);
        assert!(model.iter().all(|(key, there)| table.has(*key, *there)));
    }

    /// Memory for a key, everything included: what spec/zdb.md says.
    #[test]
    fn a_key_takes_seventeen_bytes_at_most() {
        let (mut table, mut dice) = (Table::default(), Dice::new(2));
        for n in 0..400_000_u32 {
            table.insert(dice.bits(), Spot::new(place(n), 100));
            if n > 100_000 && n % 1000 == 0 {
                let len = table.memory_len() / table.len();
                assert!(len <= 17, "{len} bytes a key with {n}");
            }
        }
    }
}
