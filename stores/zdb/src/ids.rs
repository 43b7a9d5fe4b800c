//! Where the current record of every number is, in sequential mode: a dense array of places.

use crate::{record::Place, table::Spot};

/// Numbers in one piece: 512 KiB.
const CHUNK_COUNT: usize = 1 << 16;

/// Where the current record of every number is.
///
/// Numbers are given one after the other, so nearly all are there; 8 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// 0 where there is none.
    chunks: Vec<Option<Box<[u64]>>>,
    len: u64,
}

impl Ids {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// How much memory it takes, in bytes.
    pub(crate) fn memory_len(&self) -> u64 {
        let chunks = self.chunks.iter().flatten().count() * CHUNK_COUNT * size_of::<u64>();
        (chunks + self.chunks.capacity() * size_of::<Option<Box<[u64]>>>()) as u64
    }

    pub(crate) fn get(&self, id: u64) -> Option<Spot> {
        let (chunk, at) = split(id)?;
        let bits = *self.chunks.get(chunk)?.as_ref()?.get(at)?;
        (bits != 0).then(|| Spot::from_bits(bits))
    }

    /// Puts a number; where it was before.
    pub(crate) fn put(&mut self, id: u64, spot: Spot) -> Option<Spot> {
        let (chunk, at) = split(id)?;
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks.get_mut(chunk)?.get_or_insert_with(|| vec![0; CHUNK_COUNT].into());
        let place = chunk.get_mut(at)?;
        let before = std::mem::replace(place, spot.to_bits());
        self.len += u64::from(before == 0);
        (before != 0).then(|| Spot::from_bits(before))
    }

    /// Removes a number; where it was.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Spot> {
        let (chunk, at) = split(id)?;
        let place = self.chunks.get_mut(chunk)?.as_mut()?.get_mut(at)?;
        let before = std::mem::take(place);
        self.len -= u64::from(before != 0);
        (before != 0).then(|| Spot::from_bits(before))
    }

    pub(crate) fn has(&self, id: u64, place: Place) -> bool {
        self.get(id).is_some_and(|spot| spot.place() == place)
    }
}

fn split(id: u64) -> Option<(usize, usize)> {
    let id = usize::try_from(id).ok()?;
    Some((id / CHUNK_COUNT, id % CHUNK_COUNT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_and_go() {
        let mut ids = Ids::default();
        let spot = |n: u32| Spot::new(Place { file: n, offset: 64 }, 100);
        assert_eq!(ids.get(0), None);
        for id in [0, 1, 65_535, 65_536, 200_000] {
            assert_eq!(ids.put(id, spot(1)), None);
            assert_eq!(ids.put(id, spot(2)), Some(spot(1)));
            assert!(ids.has(id, spot(2).place()));
        }
        assert_eq!(ids.len(), 5);
        assert_eq!(ids.remove(1), Some(spot(2)));
        assert_eq!((ids.remove(1), ids.remove(u64::MAX), ids.get(2)), (None, None, None));
        assert_eq!(ids.len(), 4);
    }
}
