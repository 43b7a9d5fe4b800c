//! Packs of which little counts are emptied into the one that is being filled, and deleted.
//!
//! Pieces move as they are, verified; what blocks are made of does not change by that. A flush empties a few small ones, so
//! that many small commits do not leave many packs; after a garbage collection somebody asks for more. Spec: spec/vault.md
//! #compaction.

use std::sync::Arc;

use bytes::Bytes;
use muxfs::{ErrorKind, Result};

use crate::{
    cipher::ObjectKey,
    directory::{Directory, Op, PieceEntry},
    index::Usage,
    keys::PackName,
    pack::{Kind, Opened, TAG, open_item},
    state::{Kept, State},
    vault::{Inner, Vault},
    wire::corrupt,
};

/// A flush empties so many packs that are less than half full, when there are as many.
const MERGE_COUNT: usize = 4;
/// So much of a pack is taken for each block, besides its pieces, in bytes.
const BLOCK_LEN: u64 = 48;
/// A pack in which blocks come back as often while it is emptied stays until the vault is opened again.
const EMPTY_COUNT_MAX: usize = 8;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Packs that were emptied, and are gone.
    pub packs: u64,
    /// Packs that could not be, because something in them is damaged; where directories cannot be read, packs of which that is so:
    /// then none is emptied.
    pub damaged: u64,
}

/// Packs of which less than some part counts, the emptiest first.
///
/// None where a directory cannot be read: the blocks that it tells of may be made of any piece, and what it deleted would be said
/// anew behind it.
fn candidates(state: &State, less_than: u64) -> Vec<u64> {
    if !state.unreadable.is_empty() {
        return Vec::new();
    }
    let weight =
        |number: u64, usage: &Usage| usage.live_len + BLOCK_LEN * usage.block_count + state.index.deletion_len(number);
    let mut found: Vec<_> = state
        .index
        .packs()
        .iter()
        .filter(|(number, _)| state.names.contains_key(number) && !state.is_in_memory(**number))
        .filter(|(number, _)| !state.unmovable.contains(number))
        .map(|(number, usage)| (weight(*number, usage), *number))
        .filter(|(weight, _)| *weight < less_than)
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, number)| number).collect()
}

impl Vault {
    /// Gives back the room of what was deleted: whatever pack is less than three quarters full is emptied. Durable when it
    /// returns; others read and write meanwhile. As long as the directory of any pack cannot be read nothing is emptied.
    ///
    /// # Errors
    /// As [`flush`](muxfs::BlockStore::flush).
    pub async fn compact(&self) -> Result<Compacted> {
        let inner = &self.inner;
        inner.check_writer()?;
        inner.flush_detached().await?;
        let mut done = Compacted::default();
        let (numbers, unreadable) = {
            let state = inner.state();
            (candidates(&state, u64::from(inner.pack_len) / 4 * 3), state.unreadable.len())
        };
        if unreadable > 0 {
            tracing::error!(unreadable, "no pack is emptied, since nobody knows what those say that cannot be read");
            return Ok(Compacted { packs: 0, damaged: unreadable as u64 });
        }
        let is_empty = |number: &u64| {
            let state = inner.state();
            state.index.usage(*number) == Usage::default() && state.index.deletion_len(*number) == 0
        };
        // One that is short only because nothing more came is as good as another like it.
        if numbers.len() > 1 || numbers.first().is_some_and(is_empty) {
            for number in numbers {
                match inner.empty(number).await {
                    Ok(true) => done.packs += 1,
                    Ok(false) => {}
                    Err(error) if error.kind() == ErrorKind::Corrupt => done.damaged += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        inner.flush_detached().await?;
        Ok(done)
    }
}

/// A pack that was read.
pub(crate) struct Loaded {
    /// What it says that its number is.
    pub(crate) number: u64,
    pub(crate) key: ObjectKey,
    pub(crate) directory: Directory,
    pub(crate) places: Vec<(PieceEntry, u32)>,
    pub(crate) pack: Bytes,
}

impl Inner {
    /// Empties some small packs, if there are many.
    pub(crate) async fn merge(self: &Arc<Self>) -> Result<()> {
        let numbers = {
            let state = self.state();
            if !state.is_changed() {
                return Ok(());
            }
            candidates(&state, u64::from(self.pack_len) / 2)
        };
        if numbers.len() < MERGE_COUNT {
            return Ok(());
        }
        for number in numbers.into_iter().take(MERGE_COUNT) {
            match self.empty(number).await {
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Moves what counts of a pack into the one that is being filled; whether nothing counts in it any more.
    ///
    /// # Errors
    /// `Corrupt` where something of it is damaged: then it stays, and what was moved counts where it is now.
    pub(crate) async fn empty(self: &Arc<Self>, number: u64) -> Result<bool> {
        let emptied = self.try_empty(number).await;
        match &emptied {
            // Another emptied it meanwhile, and it is gone.
            Err(error) if error.kind() == ErrorKind::Corrupt && !self.state().names.contains_key(&number) => {
                return Ok(false);
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::error!(number, error = format!("{error:#}"), "a damaged pack stays as it is");
                self.state().unmovable.insert(number);
            }
            Ok(false) => drop(self.state().unmovable.insert(number)),
            _ => {}
        }
        emptied
    }

    async fn try_empty(self: &Arc<Self>, number: u64) -> Result<bool> {
        let Some(name) = self.state().names.get(&number).copied() else { return Ok(false) };
        let loaded = self.load_whole(number, &name).await?;
        for _ in 0..EMPTY_COUNT_MAX {
            for at in 0..loaded.places.len() {
                self.move_piece(number, &loaded, at)?;
                self.room().await?;
            }
            // What is left of it moves at once, or not at all.
            let mut state = self.state();
            if !state.names.contains_key(&number) {
                return Ok(false);
            }
            if state.index.usage(number).live_len == 0 {
                let is_empty = self.move_ops(&mut state, number, &loaded.directory)?;
                drop(state);
                self.send_waiting();
                return Ok(is_empty);
            }
        }
        Ok(false)
    }

    /// Moves a piece, if it counts.
    fn move_piece(&self, number: u64, loaded: &Loaded, at: usize) -> Result<()> {
        let Some((piece, offset)) = loaded.places.get(at).copied() else { return Ok(()) };
        let is_live = |state: &State| {
            let place = state.index.live_place(&piece.id);
            place.is_some_and(|place| place.number == number && place.offset == offset)
        };
        if !is_live(&self.state()) {
            return Ok(());
        }
        let begin = offset as usize;
        let sealed = loaded.pack.get(begin..begin + (piece.kept_len + TAG) as usize).unwrap_or_default();
        let bytes = Bytes::copy_from_slice(open_item(&loaded.key, offset, &mut sealed.to_vec())?);
        // Whoever knows an older master key can have put others there, with a tag that fits.
        let may_be_forged = self.ring().older.is_some_and(|(_, through)| number <= through);
        if may_be_forged && self.piece_id(&self.shrinker.piece(piece.how, &bytes, piece.len)?) != piece.id {
            return Err(corrupt("a piece is not what it is called"));
        }
        let mut state = self.state();
        if is_live(&state) {
            state.add_piece(&Kept { id: piece.id, how: piece.how, len: piece.len, bytes }, &self.place.env);
        }
        Ok(())
    }

    /// Moves what a pack says of blocks, and forgets it; whether nothing counts in it any more.
    fn move_ops(&self, state: &mut State, number: u64, directory: &Directory) -> Result<bool> {
        let mut moved = Vec::new();
        for op in &directory.ops {
            match op {
                Op::Put { key, len, pieces } => {
                    let ids = directory.ids(pieces)?;
                    // The last one of its key in this pack says what the block is.
                    if state.index.block(key).is_some_and(|block| block.number == number && *block.pieces == *ids) {
                        state.move_block(key, *len, ids, &self.place.env);
                        moved.push(key);
                    }
                }
                Op::Delete { key, number: of } => {
                    // One that means a later pack is not what was put here.
                    if *of < number && state.index.packs().contains_key(of) {
                        state.add_deletion(key, *of, &self.place.env);
                    }
                }
            }
        }
        if state.index.usage(number) == Usage::default() {
            state.retire(number, directory.pieces.iter().map(|piece| piece.id));
            return Ok(true);
        }
        // It stays, against all that its directory says: at least it says no more what others say now.
        for key in moved {
            state.add_deletion(key, number, &self.place.env);
        }
        Ok(false)
    }

    /// The pack of data of a number, all of it, with what its directory says.
    pub(crate) async fn load_whole(&self, number: u64, name: &PackName) -> Result<Loaded> {
        let key = self.keys_of(number).pack(name);
        let pack = self.load_object(name).await?;
        let opened = Opened::whole(&key, &pack, self.pack_len)?;
        if opened.trailer.kind != Kind::Data {
            return Err(corrupt("a pack is not what it is said to be"));
        }
        let directory = Directory::decode(&opened.directory)?;
        let places = directory.places(opened.trailer.items_end)?;
        Ok(Loaded { number: opened.trailer.number, key, directory, places, pack })
    }
}
