//! What the directory of a pack says: its pieces, and what became of blocks, in the order in which it did.
//!
//! All directories together, in the order of the numbers of their packs, say everything about a vault but the packs that
//! count; and the last pack of each flush says those. So an index that is lost is made anew. Spec: spec/vault.md #directory.

use std::collections::BTreeSet;

use muxfs::{BlockKey, Result, block::BLOCK_LEN_MAX};

use crate::{
    keys::PieceId,
    pack::PACK_LEN_MAX,
    shrink::Compression,
    wire::{Reader, corrupt, number_len, put_key, put_number, put_set},
};

/// A piece in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceEntry {
    pub(crate) id: PieceId,
    pub(crate) how: Compression,
    /// How long it is in the pack, in bytes, without its tag.
    pub(crate) kept_len: u32,
    /// How long it is, in bytes.
    pub(crate) len: u32,
}

impl PieceEntry {
    pub(crate) fn encoded_len(&self) -> usize {
        17 + number_len(self.kept_len.into()) + number_len(self.len.into())
    }
}

/// A piece that a block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceRef {
    /// One of the same pack.
    Here(u32),
    /// One of any pack.
    Named(PieceId),
}

/// What became of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// It is made of these pieces.
    Put { key: BlockKey, len: u32, pieces: Vec<PieceRef> },
    /// It is gone; the pack of this number said what it was.
    Delete { key: BlockKey, number: u64 },
}

impl Op {
    pub(crate) fn key(&self) -> &BlockKey {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    pub(crate) fn encoded_len(&self) -> usize {
        let rest = match self {
            Self::Put { len, pieces, .. } => {
                let refs = pieces.iter().map(|piece| match piece {
                    PieceRef::Here(n) => number_len(u64::from(*n) + 1),
                    PieceRef::Named(_) => 17,
                });
                number_len((*len).into()) + number_len(pieces.len() as u64) + refs.sum::<usize>()
            }
            Self::Delete { number, .. } => number_len(*number),
        };
        2 + self.key().as_bytes().len() + rest
    }
}

/// What the directory of a pack of data says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Directory {
    /// The packs of data that count, where it is the last one of a flush; itself among them.
    pub(crate) live: Option<BTreeSet<u64>>,
    pub(crate) pieces: Vec<PieceEntry>,
    pub(crate) ops: Vec<Op>,
}

impl Directory {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.live {
            None => out.push(0),
            Some(live) => {
                out.push(1);
                put_set(&mut out, &live.iter().copied());
            }
        }
        put_number(&mut out, self.pieces.len() as u64);
        for PieceEntry { id, how, kept_len, len } in &self.pieces {
            out.extend_from_slice(&id.0);
            out.push(how.number());
            put_number(&mut out, (*kept_len).into());
            put_number(&mut out, (*len).into());
        }
        put_number(&mut out, self.ops.len() as u64);
        for op in &self.ops {
            out.push(match op {
                Op::Put { .. } => 1,
                Op::Delete { .. } => 2,
            });
            put_key(&mut out, op.key());
            match op {
                Op::Put { len, pieces, .. } => {
                    put_number(&mut out, (*len).into());
                    put_number(&mut out, pieces.len() as u64);
                    for piece in pieces {
                        match piece {
                            PieceRef::Here(n) => put_number(&mut out, u64::from(*n) + 1),
                            PieceRef::Named(id) => {
                                out.push(0);
                                out.extend_from_slice(&id.0);
                            }
                        }
                    }
                }
                Op::Delete { number, .. } => put_number(&mut out, *number),
            }
        }
        out
    }

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        let live = match reader.byte()? {
            0 => None,
            1 => Some(reader.set_to(u64::MAX)?),
            _ => return Err(corrupt("a directory says what none does")),
        };
        let mut pieces = Vec::new();
        for _ in 0..reader.count()? {
            let id = PieceId(reader.array()?);
            let how = Compression::of_number(reader.byte()?)?;
            pieces.push(PieceEntry {
                id,
                how,
                kept_len: reader.len_to(PACK_LEN_MAX)?,
                len: reader.len_to(PACK_LEN_MAX)?,
            });
        }
        let mut ops = Vec::new();
        for _ in 0..reader.count()? {
            let tag = reader.byte()?;
            let key = reader.key()?;
            ops.push(match tag {
                1 => {
                    let len = reader.len_to(u32::try_from(BLOCK_LEN_MAX).unwrap_or(u32::MAX))?;
                    let mut refs = Vec::new();
                    for _ in 0..reader.count()? {
                        refs.push(match reader.number_to(pieces.len() as u64)? {
                            0 => PieceRef::Named(PieceId(reader.array()?)),
                            n => PieceRef::Here(u32::try_from(n - 1).map_err(|_| corrupt("a number is too high"))?),
                        });
                    }
                    Op::Put { key, len, pieces: refs }
                }
                2 => Op::Delete { key, number: reader.number()? },
                _ => return Err(corrupt("a directory says what none does")),
            });
        }
        reader.end()?;
        Ok(Self { live, pieces, ops })
    }

    /// The names of pieces that a block is made of.
    ///
    /// # Errors
    /// `Corrupt` where one is of this pack and not in it.
    pub(crate) fn ids(&self, pieces: &[PieceRef]) -> Result<Vec<PieceId>> {
        let ids = pieces.iter().map(|piece| match piece {
            PieceRef::Named(id) => Ok(*id),
            PieceRef::Here(n) => {
                let piece = self.pieces.get(*n as usize);
                piece.map(|piece| piece.id).ok_or_else(|| corrupt("a block is made of no piece"))
            }
        });
        ids.collect()
    }

    /// The pieces, each with the place of its item, as far as items go.
    ///
    /// # Errors
    /// `Corrupt` where items end elsewhere.
    pub(crate) fn places(&self, items_end: u32) -> Result<Vec<(PieceEntry, u32)>> {
        let mut at = 0_u32;
        let mut places = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            places.push((*piece, at));
            let end = at.checked_add(piece.kept_len).and_then(|at| at.checked_add(crate::pack::TAG));
            at = end.filter(|end| *end <= items_end).ok_or_else(|| corrupt("a pack has fewer pieces than it says"))?;
        }
        if at == items_end { Ok(places) } else { Err(corrupt("a pack has more in it than its directory says")) }
    }
}

#[cfg(test)]
pub(crate) fn sample() -> Directory {
    let key = |n: u8| BlockKey::new(&[n; 34]).expect("a key");
    let id = |n: u8| PieceId([n; 16]);
    let piece = |n: u8| PieceEntry { id: id(n), how: Compression::Zstd, kept_len: 100, len: 300 };
    let pieces = vec![PieceRef::Here(1), PieceRef::Named(id(200)), PieceRef::Here(0)];
    let ops = vec![
        Op::Put { key: key(1), len: 900, pieces },
        Op::Delete { key: key(2), number: 700 },
        Op::Put { key: key(3), len: 0, pieces: Vec::new() },
    ];
    Directory { live: Some(BTreeSet::from([1, 2, 3, 9])), pieces: (0..5).map(piece).collect(), ops }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_as_long_as_was_reckoned() {
        for directory in [sample(), Directory::default(), Directory { live: None, ..sample() }] {
            let encoded = directory.encode();
            assert_eq!(Directory::decode(&encoded).expect("good"), directory);
            let pieces: usize = directory.pieces.iter().map(PieceEntry::encoded_len).sum();
            let ops: usize = directory.ops.iter().map(Op::encoded_len).sum();
            let live = directory.live.as_ref().map_or(1, |live| {
                let mut out = vec![1];
                put_set(&mut out, &live.iter().copied());
                out.len()
            });
            assert_eq!(encoded.len(), live + pieces + ops + 2, "each count takes a byte");
            assert!((0..encoded.len()).all(|len| Directory::decode(&encoded[..len]).is_err()));
        }
    }

    #[test]
    fn items_are_where_the_directory_says() {
        let places = sample().places(5 * 116).expect("good");
        assert_eq!(places.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [0, 116, 232, 348, 464]);
        assert!(sample().places(5 * 116 + 1).is_err() && sample().places(5 * 116 - 1).is_err());
    }
}
