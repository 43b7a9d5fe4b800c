//! What a vault holds, in memory: of what pieces each block is made, where each piece is, and what of each pack still counts.
//!
//! It says nothing that packs do not say, so it is lost without loss. Some 100 bytes for a block, 80 for a piece.

use std::collections::{BTreeMap, HashMap};

use muxfs::{BlockKey, Result};

use crate::{
    directory::{Directory, Op},
    keys::PieceId,
    pack::TAG,
    shrink::Compression,
    wire::corrupt,
};

/// Where a piece is, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the pack.
    pub(crate) number: u64,
    /// From its beginning, in bytes.
    pub(crate) offset: u32,
    /// In bytes, without the tag.
    pub(crate) kept_len: u32,
    pub(crate) how: Compression,
    /// How long the piece is, in bytes.
    pub(crate) len: u32,
}

impl Place {
    /// What it takes in its pack, in bytes.
    fn room(self) -> u64 {
        u64::from(self.kept_len) + u64::from(TAG)
    }
}

/// A piece, and how often blocks are made of it.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    /// `None` as long as only blocks are known that are made of it: a pack that comes later may have it, or none.
    place: Option<Place>,
    count: u32,
}

/// Of what a block is made.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// The pack that says so.
    pub(crate) number: u64,
    pub(crate) len: u32,
    pub(crate) pieces: Box<[PieceId]>,
}

/// What a pack holds that counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Pieces that blocks are made of, in bytes with their tags.
    pub(crate) live_len: u64,
    /// Blocks of which it says what they are.
    pub(crate) block_count: u64,
}

/// What a vault holds.
#[derive(Debug, Default)]
pub(crate) struct Index {
    blocks: BTreeMap<BlockKey, Block>,
    pieces: HashMap<PieceId, Piece>,
    packs: BTreeMap<u64, Usage>,
    /// What the deletions of a pack take that mean packs that are there, in bytes.
    deletion_lens: HashMap<u64, u64>,
    /// The same of each pack that is meant: how much which packs say of it.
    deletions: HashMap<u64, BTreeMap<u64, u64>>,
}

impl Index {
    pub(crate) fn block(&self, key: &BlockKey) -> Option<&Block> {
        self.blocks.get(key)
    }

    pub(crate) fn blocks(&self) -> &BTreeMap<BlockKey, Block> {
        &self.blocks
    }

    pub(crate) fn place(&self, id: &PieceId) -> Option<Place> {
        self.pieces.get(id).and_then(|piece| piece.place)
    }

    /// Where a piece is that some block is made of.
    pub(crate) fn live_place(&self, id: &PieceId) -> Option<Place> {
        self.pieces.get(id).filter(|piece| piece.count > 0).and_then(|piece| piece.place)
    }

    /// The packs, ascending.
    pub(crate) fn packs(&self) -> &BTreeMap<u64, Usage> {
        &self.packs
    }

    pub(crate) fn usage(&self, number: u64) -> Usage {
        self.packs.get(&number).copied().unwrap_or_default()
    }

    pub(crate) fn add_pack(&mut self, number: u64) {
        self.packs.entry(number).or_default();
    }

    /// What the deletions in a pack take that still mean something, in bytes.
    pub(crate) fn deletion_len(&self, number: u64) -> u64 {
        self.deletion_lens.get(&number).copied().unwrap_or(0)
    }

    /// Notes that a pack has a deletion of so many bytes that means another one.
    pub(crate) fn add_deletion(&mut self, number: u64, of: u64, len: usize) {
        if of != number && self.packs.contains_key(&of) {
            *self.deletion_lens.entry(number).or_default() += len as u64;
            *self.deletions.entry(of).or_default().entry(number).or_default() += len as u64;
        }
    }

    /// Forgets a pack that held these pieces, and those of them that are still there: no block is made of them.
    pub(crate) fn remove_pack(&mut self, number: u64, held: impl Iterator<Item = PieceId>) {
        self.packs.remove(&number);
        self.deletion_lens.remove(&number);
        for (by, len) in self.deletions.remove(&number).unwrap_or_default() {
            if let Some(all) = self.deletion_lens.get_mut(&by) {
                *all = all.saturating_sub(len);
            }
        }
        for id in held {
            if self.place(&id).is_some_and(|place| place.number == number) {
                self.pieces.remove(&id);
            }
        }
    }

    /// Notes where a piece is from now on.
    pub(crate) fn set_place(&mut self, id: PieceId, place: Place) {
        let piece = self.pieces.entry(id).or_default();
        let (before, count) = (piece.place.replace(place), piece.count);
        if count > 0 {
            self.give(before);
            self.take(Some(place));
        }
    }

    fn take(&mut self, place: Option<Place>) {
        if let Some(place) = place {
            self.packs.entry(place.number).or_default().live_len += place.room();
        }
    }

    fn give(&mut self, place: Option<Place>) {
        if let Some(place) = place
            && let Some(usage) = self.packs.get_mut(&place.number)
        {
            usage.live_len = usage.live_len.saturating_sub(place.room());
        }
    }

    /// Notes of what a block is made, whatever it was made of before.
    pub(crate) fn put(&mut self, key: BlockKey, block: Block) {
        // What both are made of is not given up between.
        for id in &block.pieces {
            let piece = self.pieces.entry(*id).or_default();
            piece.count += 1;
            if piece.count == 1 {
                let place = piece.place;
                self.take(place);
            }
        }
        self.packs.entry(block.number).or_default().block_count += 1;
        if let Some(before) = self.blocks.insert(key, block) {
            self.let_go(&before);
        }
    }

    pub(crate) fn delete(&mut self, key: &BlockKey) -> Option<Block> {
        let block = self.blocks.remove(key)?;
        self.let_go(&block);
        Some(block)
    }

    fn let_go(&mut self, block: &Block) {
        for id in &block.pieces {
            let Some(piece) = self.pieces.get_mut(id) else { continue };
            piece.count = piece.count.saturating_sub(1);
            if piece.count == 0 {
                let place = piece.place;
                if place.is_none() {
                    self.pieces.remove(id);
                }
                self.give(place);
            }
        }
        if let Some(usage) = self.packs.get_mut(&block.number) {
            usage.block_count = usage.block_count.saturating_sub(1);
        }
    }

    /// Follows what a pack says, whose items end there; those of lower numbers that count come before it.
    ///
    /// # Errors
    /// `Corrupt` where it contradicts itself; nothing of it is followed then.
    pub(crate) fn follow(&mut self, number: u64, directory: &Directory, items_end: u32) -> Result<()> {
        let places = directory.places(items_end)?;
        let mut made = Vec::with_capacity(directory.ops.len());
        for op in &directory.ops {
            made.push(match op {
                Op::Put { key, len, pieces } => (key, Ok((*len, directory.ids(pieces)?))),
                Op::Delete { number: of, .. } if *of > number => {
                    return Err(corrupt("a pack deletes what a later one says"));
                }
                Op::Delete { key, number } => (key, Err((*number, op.encoded_len()))),
            });
        }
        self.add_pack(number);
        for (piece, offset) in &places {
            let (kept_len, how, len) = (piece.kept_len, piece.how, piece.len);
            self.set_place(piece.id, Place { number, offset: *offset, kept_len, how, len });
        }
        for (key, op) in made {
            match op {
                Ok((len, pieces)) => self.put(key.clone(), Block { number, len, pieces: pieces.into() }),
                // What another pack says by now is not meant.
                Err((of, len)) => {
                    self.add_deletion(number, of, len);
                    if self.block(key).is_some_and(|block| block.number == of) {
                        self.delete(key);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64) -> Place {
        Place { number, offset: 0, kept_len: 84, how: Compression::None, len: 84 }
    }

    fn block(number: u64, pieces: &[u8]) -> Block {
        Block { number, len: 1, pieces: pieces.iter().map(|n| PieceId([*n; 16])).collect() }
    }

    /// A deletion takes room for as long as the pack that it means is there.
    #[test]
    fn deletions_of_packs_that_are_gone_take_no_room() {
        let mut index = Index::default();
        (1..=3).for_each(|number| index.add_pack(number));
        for (number, of) in [(2, 1), (3, 1), (3, 2), (3, 3), (3, 7)] {
            index.add_deletion(number, of, 40);
        }
        assert_eq!([1, 2, 3].map(|number| index.deletion_len(number)), [0, 40, 80]);
        index.remove_pack(1, std::iter::empty());
        assert_eq!([1, 2, 3].map(|number| index.deletion_len(number)), [0, 0, 40]);
        index.remove_pack(2, std::iter::empty());
        assert_eq!(index.deletion_len(3), 0);
    }

    /// What is counted of each pack is what a count from scratch gives, whatever came before.
    #[test]
    fn usage_is_what_blocks_are_made_of() {
        let key = |n: u8| BlockKey::new(&[n]).expect("a key");
        let mut index = Index::default();
        let mut dice = muxfs::testing::fault::Dice::new(5);
        for step in 0..3000 {
            let pick = |dice: &mut muxfs::testing::fault::Dice| u8::try_from(dice.roll(12)).expect("below 12");
            match dice.roll(4) {
                0 => index.set_place(PieceId([pick(&mut dice); 16]), place(dice.roll(5) as u64)),
                1 => drop(index.delete(&key(pick(&mut dice)))),
                _ => {
                    // Also of pieces that no pack has yet: one that was moved is in a later pack than what is made of it.
                    let pieces: Vec<u8> = (0..dice.roll(4)).map(|_| pick(&mut dice)).collect();
                    index.put(key(pick(&mut dice)), block(dice.roll(5) as u64, &pieces));
                }
            }
            for number in 0..5 {
                let used: std::collections::BTreeSet<_> =
                    index.blocks().values().flat_map(|b| b.pieces.iter()).collect();
                let live =
                    used.iter().filter(|id| index.place(id).is_some_and(|place| place.number == number)).count() as u64;
                let blocks = index.blocks().values().filter(|block| block.number == number).count() as u64;
                assert_eq!(index.usage(number), Usage { live_len: live * 100, block_count: blocks }, "step {step}");
            }
        }
    }

    #[test]
    fn a_pack_deletes_nothing_that_a_later_one_says() {
        let key = BlockKey::new(b"k").expect("a key");
        for (of, is_good) in [(6, true), (7, true), (8, false)] {
            let ops = vec![Op::Delete { key: key.clone(), number: of }];
            let directory = Directory { live: None, pieces: Vec::new(), ops };
            assert_eq!(Index::default().follow(7, &directory, 0).is_ok(), is_good, "{of}");
        }
    }
}
