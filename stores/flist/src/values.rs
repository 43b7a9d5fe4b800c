//! The directories of `.flist`s that were read last, as they stand in their databases.
//!
//! Who looks at the entries of a directory one by one, as to open its files, asks for the directory each time: it is read once.
//! All flists of a mount share what is remembered, so it is bounded however many are open. Long directories are beside the
//! others: neither drives the other out.

use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::{FlistId, database::VALUE_LEN_MAX, inode::DirKey};

/// What is remembered of short directories, in bytes.
const SHORT_LEN_MAX: usize = 8 << 20;
/// What is remembered of long ones, in bytes: one of any length, or some.
const LONG_LEN_MAX: usize = VALUE_LEN_MAX + EXTRA_LEN;
/// From so many bytes on a directory is long: some thousand entries.
const LONG_LEN: usize = 512 << 10;
/// What one takes beside its bytes.
const EXTRA_LEN: usize = 192;

/// Which directory of which flist.
type Key = (FlistId, DirKey);

#[derive(Debug)]
struct Kept {
    read: LruCache<Key, Arc<[u8]>>,
    len: usize,
    len_max: usize,
}

impl Kept {
    fn new(len_max: usize) -> Self {
        Self { read: LruCache::unbounded(), len: 0, len_max }
    }

    fn keep(&mut self, key: Key, value: Arc<[u8]>) {
        self.len += value.len() + EXTRA_LEN;
        if let Some(old) = self.read.put(key, value) {
            self.len -= old.len() + EXTRA_LEN;
        }
        while self.len > self.len_max {
            let Some((_, old)) = self.read.pop_lru() else { break };
            self.len -= old.len() + EXTRA_LEN;
        }
    }
}

#[derive(Debug)]
struct Table {
    short: Kept,
    long: Kept,
}

/// Directories that were read: 72 MiB at most. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct AllValues(Arc<Mutex<Table>>);

impl Default for AllValues {
    fn default() -> Self {
        let table = Table { short: Kept::new(SHORT_LEN_MAX), long: Kept::new(LONG_LEN_MAX) };
        Self(Arc::new(Mutex::new(table)))
    }
}

impl AllValues {
    /// Those of an flist.
    pub(crate) fn of(&self, flist: FlistId) -> Values {
        Values { all: self.clone(), flist }
    }
}

/// Directories of an flist that were read.
#[derive(Debug)]
pub(crate) struct Values {
    all: AllValues,
    flist: FlistId,
}

impl Values {
    pub(crate) fn get(&self, key: &DirKey) -> Option<Arc<[u8]>> {
        let key = (self.flist, *key);
        let mut table = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { short, long } = &mut *table;
        short.read.get(&key).or_else(|| long.read.get(&key)).cloned()
    }

    pub(crate) fn keep(&self, key: DirKey, value: Arc<[u8]>) {
        let mut table = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = if value.len() < LONG_LEN { &mut table.short } else { &mut table.long };
        kept.keep((self.flist, key), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> DirKey {
        let mut key = DirKey::default();
        key[..4].copy_from_slice(&number.to_be_bytes());
        key
    }

    /// The longest directory stays while its files are opened, whatever else is looked into; and all of it is bounded, over
    /// all flists.
    #[test]
    fn long_ones_stay_beside_short_ones_and_all_is_bounded() {
        let all = AllValues::default();
        let (first, second) = (all.of(FlistId([1; 16])), all.of(FlistId([2; 16])));
        first.keep(key(0), vec![7; VALUE_LEN_MAX].into());
        for number in 1..20_000 {
            second.keep(key(number), vec![0; 1000].into());
            assert!(second.get(&key(number)).is_some() && second.get(&key(0)).is_none(), "each flist has its own");
        }
        assert!(first.get(&key(0)).is_some_and(|value| value.len() == VALUE_LEN_MAX));
        for number in 0..200 {
            second.keep(key(number), vec![0; 1 << 20].into());
        }
        assert!(first.get(&key(0)).is_none(), "others were looked into since");
        let table = all.0.lock().expect("no panic");
        for kept in [&table.short, &table.long] {
            let len: usize = kept.read.iter().map(|(_, value)| value.len() + EXTRA_LEN).sum();
            assert!(len == kept.len && len <= kept.len_max && len > kept.len_max / 2, "{len}");
        }
    }
}
