//! The index as it is kept: copies of the directories of many packs in one place, so that an opening need not ask each of them.
//!
//! It is kept in runs, each with the directories of some packs and none with those of another. A flush adds a run of the packs that
//! came since, together with the shorter ones before it, so that there are few runs and nothing is written often. A run is bytes
//! in parts, in packs of its own, of which the last names those before it. Lost without loss. Spec: spec/vault.md #index.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use muxfs::Result;

use crate::{
    keys::{PACK_NAME_LEN, PackName},
    pack::{OVERHEAD_LEN, TAG},
    shrink::{Compression, Shrinker},
    wire::{Reader, corrupt, put_number},
};

/// Parts are at most so long before they are compressed, in bytes.
const PART_LEN_MAX: usize = 256 << 10;
/// What no entry of a part in a directory is longer than, with the tag of its item.
const PART_ENTRY_LEN_MAX: u32 = 1 + 3 + 3 + TAG;
/// What the counts in a directory are not longer than.
const COUNTS_LEN_MAX: u32 = 2 * 5;

/// A run that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The packs that it is in; the last one names the others.
    pub(crate) objects: Vec<PackName>,
    /// The packs whose directories are in it.
    pub(crate) names: BTreeMap<u64, PackName>,
}

/// What a run has of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) name: PackName,
    pub(crate) items_end: u32,
    /// Its directory, without what it says of packs that count.
    pub(crate) directory: Bytes,
}

/// The bytes of a run, its entries in the order of their numbers.
pub(crate) fn encode(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut out = Vec::new();
    for Entry { number, name, items_end, directory } in entries {
        put_number(&mut out, number);
        out.extend_from_slice(&name.0);
        put_number(&mut out, items_end.into());
        put_number(&mut out, directory.len() as u64);
        out.extend_from_slice(&directory);
    }
    out
}

/// Reads what [`encode`] made, of packs up to some number and of some length.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn decode(bytes: &Bytes, through: u64, pack_len: u32) -> Result<Vec<Entry>> {
    let mut reader = Reader(bytes);
    let mut entries: Vec<Entry> = Vec::new();
    while !reader.0.is_empty() {
        let number = reader.number_to(through)?;
        if entries.last().is_some_and(|last| last.number >= number) {
            return Err(corrupt("the packs of an index are in no order"));
        }
        let name = PackName(reader.array()?);
        let items_end = reader.len_to(pack_len)?;
        let len = reader.count()?;
        let directory = bytes.slice_ref(reader.take(len)?);
        entries.push(Entry { number, name, items_end, directory });
    }
    Ok(entries)
}

/// A part in a pack of the index: how it is kept, how long there, and how long before.
type Part = (Compression, u32, u32);

/// What the directory of a pack of the index says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) parts: Vec<Part>,
    /// The packs whose parts come before those of this one. Only the first of them may name more in turn.
    pub(crate) before: Vec<PackName>,
}

impl Parts {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, self.parts.len() as u64);
        for (how, kept_len, len) in &self.parts {
            out.push(how.number());
            put_number(&mut out, (*kept_len).into());
            put_number(&mut out, (*len).into());
        }
        put_number(&mut out, self.before.len() as u64);
        out.extend(self.before.iter().flat_map(|name| name.0));
        out
    }

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        let mut parts = Vec::new();
        for _ in 0..reader.count()? {
            let how = Compression::of_number(reader.byte()?)?;
            let len_max = u32::try_from(PART_LEN_MAX).unwrap_or(u32::MAX);
            parts.push((how, reader.len_to(len_max)?, reader.len_to(len_max)?));
        }
        let mut before = Vec::new();
        for _ in 0..reader.count()? {
            before.push(PackName(reader.array()?));
        }
        reader.end()?;
        Ok(Self { parts, before })
    }
}

/// Parts for one pack.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    pub(crate) parts: Vec<Part>,
    pub(crate) items: Vec<Vec<u8>>,
    /// How many of the packs before it, that no other names, it names.
    pub(crate) before_count: usize,
    len: u32,
}

/// Divides a run among packs. Each fits, whatever the run and the packs are like: one that has to name others has room for that.
pub(crate) struct Divider {
    pack_len: u32,
    /// Parts that are not compressed yet.
    rest: Bytes,
    /// Parts that are.
    ready: VecDeque<(Part, Vec<u8>)>,
    /// How many packs nobody names yet.
    unnamed_count: usize,
    is_done: bool,
}

impl Divider {
    pub(crate) fn new(bytes: Bytes, pack_len: u32) -> Self {
        Self { pack_len, rest: bytes, ready: VecDeque::new(), unnamed_count: 0, is_done: false }
    }

    /// So many packs are named by one.
    fn before_count_max(&self) -> usize {
        self.pack_len as usize / 8 / PACK_NAME_LEN
    }

    fn room(&self, before_count: usize) -> u32 {
        let names_len = u32::try_from(before_count * PACK_NAME_LEN).unwrap_or(u32::MAX);
        self.pack_len.saturating_sub(OVERHEAD_LEN + COUNTS_LEN_MAX).saturating_sub(names_len)
    }

    fn part(&mut self, shrinker: &Shrinker) -> Option<(Part, Vec<u8>)> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        let len = PART_LEN_MAX.min(self.pack_len as usize / 8).min(self.rest.len());
        let plain = self.rest.split_to(len);
        let (how, kept) = shrinker.shrink(&plain);
        let [kept_len, len] = [kept.len(), len].map(|len| u32::try_from(len).unwrap_or(u32::MAX));
        (len > 0).then(|| ((how, kept_len, len), kept.into_owned()))
    }

    /// What the next pack holds. Takes its time: not for a thread that serves others.
    pub(crate) fn next(&mut self, shrinker: &Shrinker) -> Option<Filled> {
        if self.is_done {
            return None;
        }
        let is_full = self.unnamed_count >= self.before_count_max();
        let mut filled = Filled { before_count: if is_full { self.unnamed_count } else { 0 }, ..Filled::default() };
        let room = self.room(filled.before_count);
        while let Some((part, kept)) = self.part(shrinker) {
            let needed = part.1 + PART_ENTRY_LEN_MAX;
            if filled.len + needed > room {
                self.ready.push_front((part, kept));
                break;
            }
            filled.len += needed;
            filled.parts.push(part);
            filled.items.push(kept);
        }
        if self.rest.is_empty() && self.ready.is_empty() && filled.len <= self.room(self.unnamed_count) {
            filled.before_count = self.unnamed_count;
            self.is_done = true;
        }
        self.unnamed_count = self.unnamed_count - filled.before_count + 1;
        Some(filled)
    }
}

#[cfg(test)]
pub(crate) fn sample() -> Vec<Entry> {
    let directory = crate::directory::Directory { live: None, ..crate::directory::sample() }.encode();
    let entry = |n: u8| Entry {
        number: n.into(),
        name: PackName([n; PACK_NAME_LEN]),
        items_end: 5 * 116,
        directory: directory.clone().into(),
    };
    [3, 4, 9].map(entry).into()
}

#[cfg(test)]
mod tests {
    use muxfs::testing::fault::Dice;

    use super::*;
    use crate::pack::{PACK_LEN_MAX, PACK_LEN_MIN};

    #[test]
    fn what_is_encoded_is_decoded() {
        let entries = sample();
        let bytes = Bytes::from(encode(entries.clone()));
        let ends: Vec<_> = (0..=3).map(|count| encode(entries[..count].to_vec()).len()).collect();
        assert_eq!(decode(&bytes, 9, PACK_LEN_MIN).expect("good"), entries);
        for len in (0..bytes.len()).filter(|len| !ends.contains(len)) {
            assert!(decode(&bytes.slice(..len), 9, PACK_LEN_MIN).is_err(), "cut at {len}");
        }
        assert!(decode(&bytes, 8, PACK_LEN_MIN).is_err(), "a pack is behind the last");
        assert!(decode(&[&bytes[..], &bytes].concat().into(), 9, PACK_LEN_MIN).is_err(), "a pack comes twice");
        let parts = Parts { parts: vec![(Compression::Zstd, 7, 9); 3], before: vec![PackName([1; 24])] };
        assert_eq!(Parts::decode(&parts.encode()).expect("good"), parts);
    }

    /// The packs of a run, and for each the numbers of those that it names.
    fn divided(bytes: &Bytes, pack_len: u32) -> Vec<(Filled, Vec<usize>)> {
        let shrinker = Shrinker::new(Compression::None);
        let mut divider = Divider::new(bytes.clone(), pack_len);
        let (mut packs, mut unnamed) = (Vec::new(), Vec::new());
        while let Some(filled) = divider.next(&shrinker) {
            assert!(filled.before_count == 0 || filled.before_count == unnamed.len(), "all of them");
            let before: Vec<usize> = unnamed.drain(..filled.before_count).collect();
            unnamed.push(packs.len());
            let names = vec![PackName([0; 24]); before.len()];
            let directory = Parts { parts: filled.parts.clone(), before: names }.encode();
            let items: usize = filled.items.iter().map(|item| item.len() + TAG as usize).sum();
            assert!(items + directory.len() + OVERHEAD_LEN as usize <= pack_len as usize, "pack {}", packs.len());
            packs.push((filled, before));
        }
        assert_eq!(unnamed.len(), 1, "the last one names the rest");
        packs
    }

    /// Whatever it is long: also where the names of its packs fill packs, of which the first then names some in turn.
    #[test]
    fn a_run_is_divided_among_packs_that_hold_it() {
        for (len, pack_len) in [
            (0, PACK_LEN_MIN),
            (1, PACK_LEN_MAX),
            (8192, PACK_LEN_MIN),
            (1_000_000, PACK_LEN_MIN),
            (9_000_000, PACK_LEN_MAX),
            (60_000_000, PACK_LEN_MIN),
        ] {
            for more in [0, 8000] {
                let bytes = Bytes::from(Dice::new(1).bytes(len + more));
                let packs = divided(&bytes, pack_len);
                // As an opening reads it: from the last pack on.
                let (mut at, mut parts) = (packs.len() - 1, Vec::new());
                loop {
                    let (filled, before) = &packs[at];
                    parts.push(filled.items.concat());
                    for n in before.iter().skip(1).rev() {
                        assert!(packs[*n].1.is_empty(), "only the first names more");
                        parts.push(packs[*n].0.items.concat());
                    }
                    let Some(first) = before.first() else { break };
                    at = *first;
                }
                parts.reverse();
                assert!(parts.concat() == bytes, "{len} bytes in packs of {pack_len}");
                assert!(len < 60_000_000 || packs.iter().filter(|(_, before)| !before.is_empty()).count() > 2);
            }
        }
    }
}
