//! Reading a block: where its pieces are, in what is on its way or in the store below, and each of them verified.
//!
//! Of a pack that is met for the first time only what is needed is read, in cells, so that what is asked for does not say how
//! long pieces are; where more of the same pack is wanted soon, all of it is, and is kept. Spec: spec/vault.md #reading.

use std::{
    num::NonZeroUsize,
    ops::Range,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use lru::LruCache;
use muxfs::{BlockKey, Error, ErrorKind, Result};
use tokio::sync::OnceCell;

use crate::{
    index::Place,
    keys::{Keys, PackName, PieceId},
    pack::{TAG, open_item},
    state::{Source, State},
    vault::{Inner, blocking},
    wire::corrupt,
};

/// What is asked for of a pack begins and ends at multiples of this, in bytes.
pub(crate) const CELL_LEN: u32 = 64 << 10;
/// So many packs are kept however little room there is.
const PACK_COUNT_MIN: NonZeroUsize = NonZeroUsize::new(2).expect("two is not zero");
/// A block that is moved as often while it is looked for is not found.
const LOOKUP_COUNT_MAX: usize = 100;
/// What is not longer is put together where it was asked for, in bytes: another thread would take longer to begin.
const INLINE_LEN_MAX: usize = 64 << 10;

/// Packs that were read not long ago, as they are in the store below.
pub(crate) struct Recent {
    /// Whoever is first reads one, for all.
    whole: LruCache<PackName, Arc<OnceCell<Bytes>>>,
    met: LruCache<PackName, ()>,
}

impl Recent {
    pub(crate) fn new(cache_len: usize, pack_len: u32) -> Self {
        let count = NonZeroUsize::new(cache_len / pack_len as usize).unwrap_or(NonZeroUsize::MIN).max(PACK_COUNT_MIN);
        Self { whole: LruCache::new(count), met: LruCache::new(count) }
    }
}

struct Found {
    id: PieceId,
    place: Place,
    source: Source,
    /// Of its pack, while that counted.
    keys: Arc<Keys>,
    /// What of the piece is wanted.
    wanted: Range<usize>,
}

/// Pieces of one pack, and what was read of it.
struct Gathered {
    found: Vec<Found>,
    /// `None` where it is the one piece, as it is kept.
    name: Option<PackName>,
    cells: Bytes,
    /// Where in the pack that begins.
    begin: u32,
}

impl Inner {
    /// What is absent is `None` if all is known that there is.
    pub(crate) fn absent<T>(state: &State) -> Result<Option<T>> {
        match state.unreadable.first_key_value() {
            None => Ok(None),
            Some((_, why)) => {
                let error = Error::new(ErrorKind::Corrupt, "vault.get");
                Err(error.because(format!("nobody knows whether it was in a pack that cannot be read: {why}")))
            }
        }
    }

    pub(crate) fn damaged() -> Error {
        Error::new(ErrorKind::Corrupt, "vault.get").because("a piece of the block is damaged or lost")
    }

    /// The bytes of a block, or a part of them.
    pub(crate) async fn read(self: &Arc<Self>, key: &BlockKey, part: Option<Range<usize>>) -> Result<Option<Bytes>> {
        let mut before: Option<Vec<Place>> = None;
        let mut is_checked = false;
        for _ in 0..LOOKUP_COUNT_MAX {
            let Some(found) = self.find(key, part.clone())? else { return Ok(None) };
            let places: Vec<_> = found.iter().map(|found| found.place).collect();
            match self.gather_pieces(found).await? {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(missing) => {
                    // Packs that were put together meanwhile are gone; what was not moved was lost.
                    if before.as_ref() == Some(&places) {
                        if is_checked {
                            return Err(self.note_bad(&missing, "its pack is gone"));
                        }
                        // Or the vault is another's by now.
                        self.check_head().await?;
                        is_checked = true;
                    }
                    before = Some(places);
                }
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "vault.get").because("the block is moved again and again"))
    }

    fn find(&self, key: &BlockKey, part: Option<Range<usize>>) -> Result<Option<Vec<Found>>> {
        let mut state = self.state();
        Self::check_fence(&state)?;
        let Some(block) = state.index.block(key) else { return Self::absent(&state) };
        let len = block.len as usize;
        let part = part.map_or(0..len, |part| part.start.min(len)..part.end.min(len));
        let (mut found, mut at, mut lost) = (Vec::with_capacity(block.pieces.len()), 0, None);
        for id in &block.pieces {
            let place = state.index.place(id).ok_or_else(Self::damaged)?;
            let piece = at..at + place.len as usize;
            at = piece.end;
            let wanted = part.start.max(piece.start)..part.end.min(piece.end);
            if wanted.is_empty() {
                continue;
            }
            if state.bad.contains(id) {
                return Err(Self::damaged());
            }
            let Some(source) = state.source(place) else {
                lost = Some(*id);
                break;
            };
            let wanted = wanted.start - piece.start..wanted.end - piece.start;
            let keys = self.keys_of(place.number);
            found.push(Found { id: *id, place, source, keys, wanted });
        }
        if let Some(lost) = lost {
            // Whoever puts the block again replaces it.
            state.bad.insert(lost);
            return Err(Self::damaged());
        }
        if at != len {
            return Err(Self::damaged());
        }
        Ok(Some(found))
    }

    /// The bytes that are wanted; the pieces whose pack is not there.
    async fn gather_pieces(self: &Arc<Self>, mut rest: Vec<Found>) -> Result<Result<Bytes, Vec<PieceId>>> {
        let len = rest.iter().map(|found| found.wanted.len()).sum();
        let mut gathered = Vec::new();
        while let Some(first) = rest.first() {
            let count = rest.iter().take_while(|next| is_behind(first, next)).count().max(1);
            let behind = rest.split_off(count);
            let found = std::mem::replace(&mut rest, behind);
            let (name, cells, begin) = match &found[0].source {
                Source::Plain(kept) => (None, kept.clone(), 0),
                Source::Encrypted(name, pack) => (Some(*name), pack.clone(), 0),
                Source::Below(name) => {
                    let end = found.iter().map(|next| next.place.offset + next.place.kept_len + TAG).max().unwrap_or(0);
                    let begin = found.iter().map(|next| next.place.offset).min().unwrap_or(0);
                    match self.cells(name, begin..end).await? {
                        Some((cells, begin)) => (Some(*name), cells, begin),
                        None => return Ok(Err(found.iter().map(|found| found.id).collect())),
                    }
                }
            };
            gathered.push(Gathered { found, name, cells, begin });
        }
        if len <= INLINE_LEN_MAX {
            return self.join(&gathered, len).map(Ok);
        }
        let inner = Arc::clone(self);
        blocking(move || inner.join(&gathered, len)).await?.map(Ok)
    }

    /// What is wanted of pieces, decrypted and expanded.
    fn join(&self, gathered: &[Gathered], len: usize) -> Result<Bytes> {
        let (mut out, mut scratch) = (Vec::with_capacity(len), Vec::new());
        for Gathered { found, name, cells, begin } in gathered {
            let key = name.zip(found.first()).map(|(name, first)| first.keys.pack(&name));
            for piece in found {
                let opened = match &key {
                    None => self.take(piece, cells, &mut out),
                    Some(key) => {
                        let at = (piece.place.offset - begin) as usize;
                        let sealed = cells.get(at..at + (piece.place.kept_len + TAG) as usize);
                        scratch.clear();
                        scratch.extend_from_slice(sealed.unwrap_or_default());
                        let opened = open_item(key, piece.place.offset, &mut scratch);
                        opened.and_then(|kept| self.take(piece, kept, &mut out))
                    }
                };
                if let Err(error) = opened {
                    if let Some(name) = name {
                        self.forget(name);
                    }
                    return Err(self.note_bad(&[piece.id], &format!("{error:#}")));
                }
            }
        }
        Ok(out.into())
    }

    /// Appends what is wanted of a piece.
    fn take(&self, found: &Found, kept: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let Place { how, len, .. } = found.place;
        if found.wanted == (0..len as usize) {
            return self.shrinker.expand(how, kept, len as usize, out);
        }
        let whole = self.shrinker.piece(how, kept, len)?;
        let wanted = whole.get(found.wanted.clone()).ok_or_else(|| corrupt("a piece is shorter than it was"))?;
        out.extend_from_slice(wanted);
        Ok(())
    }

    /// Reads a pack anew the next time.
    fn forget(&self, name: &PackName) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).whole.pop(name);
    }

    /// Notes that pieces are damaged, so that whoever puts them again replaces them; what to tell whoever asks for them.
    pub(crate) fn note_bad(&self, ids: &[PieceId], why: &str) -> Error {
        self.state().bad.extend(ids);
        Error::new(ErrorKind::Corrupt, "vault.get").because(why.to_owned())
    }

    /// The cells of a pack that a range is in, and where they begin; `None` if there is no such pack.
    async fn cells(&self, name: &PackName, range: Range<u32>) -> Result<Option<(Bytes, u32)>> {
        let whole = {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.met.put(*name, ()).is_some() {
                recent.whole.get_or_insert(*name, Arc::default);
            }
            recent.whole.get(name).cloned()
        };
        if let Some(whole) = whole {
            let load = || async {
                let pack = self.bounded(name, 0).await?.ok_or_else(gone)?;
                Ok::<_, Error>(if pack.len() == self.pack_len as usize { pack } else { Bytes::new() })
            };
            return match whole.get_or_try_init(load).await {
                // What has another length is no pack, and fits no tag.
                Ok(pack) => Ok(Some((pack.clone(), 0))),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            };
        }
        let begin = range.start / CELL_LEN * CELL_LEN;
        let end = range.end.next_multiple_of(CELL_LEN).min(self.pack_len);
        let cells = self.place.blocks.get_range(&Self::pack_key(name), begin as usize..end as usize).await?;
        Ok(cells.map(|cells| (cells, begin)))
    }

    /// An object from some place on, and a byte more where it is longer than those of this vault: whatever is there, no more is read.
    pub(crate) async fn bounded(&self, name: &PackName, from: u32) -> Result<Option<Bytes>> {
        let range = from as usize..self.pack_len as usize + 1;
        self.place.blocks.get_range(&Self::pack_key(name), range).await
    }

    /// An object of this vault, whole.
    ///
    /// # Errors
    /// `Corrupt` where it is gone, or has another length.
    pub(crate) async fn load_object(&self, name: &PackName) -> Result<Bytes> {
        let object = self.bounded(name, 0).await?.ok_or_else(|| corrupt("a pack is gone"))?;
        if object.len() == self.pack_len as usize {
            Ok(object)
        } else {
            Err(corrupt("a pack is not as long as those of this vault"))
        }
    }
}

/// Whether a piece is in the same pack.
fn is_behind(first: &Found, next: &Found) -> bool {
    let name = |found: &Found| match &found.source {
        Source::Plain(_) => None,
        Source::Encrypted(name, _) | Source::Below(name) => Some(*name),
    };
    name(first).is_some() && name(first) == name(next)
}

fn gone() -> Error {
    Error::new(ErrorKind::NotFound, "vault.get")
}
