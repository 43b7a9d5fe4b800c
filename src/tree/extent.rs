//! Which bytes of a file are new, and where they are: a map of ranges.
//!
//! A layer of a tree keeps one for each file that was written. It holds places, never bytes, so that what a tree takes
//! in memory does not follow what is written to it. Ranges do not overlap; what no range covers is as in the layer
//! below.

use std::{collections::BTreeMap, ops::Range};

use crate::{Cid, log::LogPos};

/// Where the bytes of a range are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// In the body of a journal record, from this offset on.
    Journal(LogPos, u32),
    /// In a file of the DAG (a single leaf is one), from this offset on.
    Slice(Cid, u64),
    /// Nowhere: zeros that take no space.
    Hole,
    /// Nowhere yet: zeros whose space is taken.
    Reserved,
}

impl Piece {
    /// The same bytes without the first `count`.
    pub(crate) fn after(self, count: u64) -> Self {
        match self {
            // A record's body is far below 4 GiB, so what is cut off one is too.
            Self::Journal(pos, at) => Self::Journal(pos, at.saturating_add(u32::try_from(count).unwrap_or(u32::MAX))),
            Self::Slice(cid, from) => Self::Slice(cid, from.saturating_add(count)),
            Self::Hole | Self::Reserved => self,
        }
    }

    /// Whether the bytes take space.
    pub(crate) fn is_data(self) -> bool {
        self != Self::Hole
    }
}

/// Ranges of a file and where their bytes are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extents {
    /// By their first offset: where they end, and where their bytes are.
    map: BTreeMap<u64, (u64, Piece)>,
}

impl Extents {
    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing is new.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Sets where the bytes of `range` are, whatever was there.
    pub(crate) fn insert(&mut self, range: Range<u64>, piece: Piece) {
        if range.is_empty() {
            return;
        }
        self.clear(&range);
        let mut range = range;
        // Neighbours that are nothing are one range: a file that is punched page by page stays small.
        if matches!(piece, Piece::Hole | Piece::Reserved) {
            if let Some((&start, &(end, before))) = self.map.range(..range.start).next_back()
                && end == range.start
                && before == piece
            {
                self.map.remove(&start);
                range.start = start;
            }
            if let Some(&(end, after)) = self.map.get(&range.end)
                && after == piece
            {
                self.map.remove(&range.end);
                range.end = end;
            }
        }
        self.map.insert(range.start, (range.end, piece));
    }

    /// Makes `range` as in the layer below.
    fn clear(&mut self, range: &Range<u64>) {
        if let Some((&start, &(end, piece))) = self.map.range(..range.start).next_back()
            && end > range.start
        {
            self.map.insert(start, (range.start, piece));
            if end > range.end {
                self.map.insert(range.end, (end, piece.after(range.end - start)));
            }
        }
        while let Some((&start, &(end, piece))) = self.map.range(range.clone()).next() {
            self.map.remove(&start);
            if end > range.end {
                self.map.insert(range.end, (end, piece.after(range.end - start)));
            }
        }
    }

    /// The parts of `range`, ascending and without a gap: where their bytes are, `None` where as in the layer below.
    pub(crate) fn parts(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<Piece>)> {
        let mut parts = Vec::new();
        if range.is_empty() {
            return parts;
        }
        let mut at = range.start;
        let before = self.map.range(..range.start).next_back().filter(|(_, (end, _))| *end > range.start);
        for (&start, &(end, piece)) in before.into_iter().chain(self.map.range(range.clone())) {
            if at < start {
                parts.push((at..start, None));
            }
            let from = start.max(range.start);
            let to = end.min(range.end);
            parts.push((from..to, Some(piece.after(from - start))));
            at = to;
        }
        if at < range.end {
            parts.push((at..range.end, None));
        }
        parts
    }

    /// The ranges with their pieces, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Range<u64>, Piece)> + '_ {
        self.map.iter().map(|(start, (end, piece))| (*start..*end, *piece))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::SegmentId;

    const LEN: usize = 64;

    fn index(at: u64) -> usize {
        usize::try_from(at).expect("a small number")
    }

    /// Which byte of which piece a plain array says.
    fn plain(extents: &Extents) -> Vec<Option<Piece>> {
        let mut bytes = vec![None; LEN];
        for (range, piece) in extents.parts(0..LEN as u64) {
            for at in range.clone() {
                bytes[index(at)] = piece.map(|piece| piece.after(at - range.start));
            }
        }
        bytes
    }

    fn pieces() -> impl Strategy<Value = Piece> {
        let pos = (0..3_u64).prop_map(|id| LogPos { segment: SegmentId(id), offset: 64 });
        prop_oneof![
            (pos, 0..9_u32).prop_map(|(pos, at)| Piece::Journal(pos, at)),
            Just(Piece::Hole),
            Just(Piece::Reserved),
        ]
    }

    proptest! {
        /// A map of ranges says the same as an array with one place for each byte.
        #[test]
        fn equals_an_array(steps in proptest::collection::vec((0..LEN as u64, 0..20_u64, pieces()), 0..30),
                           from in 0..LEN as u64, len in 0..30_u64) {
            let mut extents = Extents::default();
            let mut array: Vec<Option<Piece>> = vec![None; LEN];
            for (start, len, piece) in steps {
                let end = (start + len).min(LEN as u64);
                extents.insert(start..end, piece);
                for at in start..end {
                    array[index(at)] = Some(piece.after(at - start));
                }
            }
            prop_assert_eq!(plain(&extents), array);
            let end = (from + len).min(LEN as u64);
            let parts = extents.parts(from..end);
            let mut at = from;
            for (range, _) in &parts {
                prop_assert_eq!(range.start, at);
                prop_assert!(!range.is_empty());
                at = range.end;
            }
            prop_assert_eq!(at, end);
            let ranges: Vec<_> = extents.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start));
            prop_assert_eq!(ranges.len(), extents.len());
        }
    }

    #[test]
    fn neighbouring_holes_are_one() {
        let mut extents = Extents::default();
        for page in [0, 2, 1, 3_u64] {
            extents.insert(page * 10..page * 10 + 10, Piece::Hole);
        }
        assert_eq!(extents.iter().collect::<Vec<_>>(), [(0..40, Piece::Hole)]);
    }
}
