//! What a vault that is open has in memory: its index, the pack that is being filled, and packs on their way.
//!
//! Everything here happens at once, under one lock; what waits is done by whoever holds it not. The pack that is being filled
//! keeps its number until it is full: each flush before puts an edition of it, under a name of its own, which the next one
//! replaces. Spec: spec/vault.md #writing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use muxfs::{BlockKey, Env, Error, ErrorKind, Result};

use crate::{
    directory::{Directory, Op, PieceEntry, PieceRef},
    index::{Block, Index, Place},
    keys::{Keys, PackName, PieceId},
    pack::{self, Kind, OVERHEAD_LEN, TAG},
    shrink::Compression,
    superblock::Superblock,
    wire::put_set,
};

/// What the counts of a directory take, and the byte that says that there is no set in it.
const COUNTS_LEN: usize = 11;
/// Where more packs cannot be read nothing is written: of each block that is put or deleted something is noted for each of them.
const UNREADABLE_COUNT_MAX: usize = 16;

/// A piece as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) id: PieceId,
    pub(crate) how: Compression,
    pub(crate) len: u32,
    pub(crate) bytes: Bytes,
}

/// A pack that is being filled, or is full.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filling {
    pub(crate) number: u64,
    /// Items as they will lie, each with room for its tag.
    body: Vec<u8>,
    directory: Directory,
    directory_len: usize,
    by_id: HashMap<PieceId, u32>,
}

impl Filling {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    fn is_empty(&self) -> bool {
        self.directory.pieces.is_empty() && self.directory.ops.is_empty()
    }

    fn fits(&self, pack_len: u32, items_len: usize, directory_len: usize) -> bool {
        let len = self.body.len() + items_len + self.directory_len + directory_len + COUNTS_LEN + OVERHEAD_LEN as usize;
        len <= pack_len as usize
    }

    /// The bytes of a piece as they are kept.
    pub(crate) fn kept(&self, place: Place) -> &[u8] {
        let begin = place.offset as usize;
        self.body.get(begin..begin + place.kept_len as usize).unwrap_or_default()
    }

    /// The pack, as it goes into the store below: the same for the same name and epoch. Takes its time.
    ///
    /// # Errors
    /// `Internal` where it does not fit, which whoever fills it sees to.
    pub(crate) fn seal(&self, keys: &Keys, name: &PackName, epoch: u64, pack_len: u32) -> Result<Bytes> {
        let mut at = 0;
        let items = self.directory.pieces.iter().map(|piece| {
            let begin = at;
            at += piece.kept_len as usize + TAG as usize;
            self.body.get(begin..begin + piece.kept_len as usize).unwrap_or_default()
        });
        let directory = self.directory.encode();
        pack::seal(&keys.pack(name), pack_len, (Kind::Data, self.number, epoch), items, &directory)
    }
}

/// A full pack that is not known to be in the store below.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) name: PackName,
    pub(crate) epoch: u64,
    pub(crate) content: Content,
    pub(crate) sending: Sending,
}

/// What is in a full pack: once it is encrypted it is in memory in no other way.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Filled(Arc<Filling>),
    Encrypted(Bytes),
}

/// How far a pack is.
#[derive(Debug, Clone)]
pub(crate) enum Sending {
    /// Nobody puts it yet.
    Waiting,
    Going,
    Failed(Failure),
}

/// An error that more than one are told.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    kind: ErrorKind,
    why: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), why: format!("{error:#}") }
    }
}

impl Failure {
    /// Whoever put a pack did not come to an end with it.
    pub(crate) fn cut_off() -> Self {
        Self { kind: ErrorKind::Internal, why: "what put a pack was cut off".into() }
    }

    pub(crate) fn passed_over() -> Self {
        Self { kind: ErrorKind::Denied, why: "another program has opened this vault to write".into() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, "vault.put_pack").because(failure.why)
    }
}

/// Where the bytes of a piece are.
#[derive(Debug)]
pub(crate) enum Source {
    /// Here, as they are kept.
    Plain(Bytes),
    /// In a pack that is here.
    Encrypted(PackName, Bytes),
    /// In a pack that is in the store below.
    Below(PackName),
}

/// What is to be put, and to count, with the next superblock.
pub(crate) struct Work {
    /// What [`State::changed`] was.
    pub(crate) changed: u64,
    /// The highest number of a pack in it.
    pub(crate) through: u64,
    /// The edition of the pack that is being filled.
    pub(crate) tail: (PackName, u64, Filling),
    /// All packs of data that count.
    pub(crate) names: BTreeMap<u64, PackName>,
    /// What counts no more then.
    pub(crate) doomed: HashSet<PackName>,
    /// Packs of which nobody knows what they say, so that no index has them.
    pub(crate) unreadable: BTreeSet<u64>,
}

/// Packs behind a number wait until it is known whether another master key is the vault's.
#[derive(Debug)]
struct Hold {
    through: u64,
    /// Why it is not known for now.
    failure: Option<Failure>,
}

/// What a vault has in memory.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) pack_len: u32,
    pub(crate) index: Index,
    pub(crate) open: Filling,
    pub(crate) sealed: BTreeMap<u64, Sealed>,
    /// The packs of data in the store below, the newest edition of each.
    pub(crate) names: BTreeMap<u64, PackName>,
    /// Objects that may be in the store below and do not count, or count no more with the next superblock.
    pub(crate) doomed: HashSet<PackName>,
    /// Pieces that were found to be damaged: whoever puts one again replaces it.
    pub(crate) bad: HashSet<PieceId>,
    /// Packs that cannot be read, and of which nobody knows what they say.
    pub(crate) unreadable: BTreeMap<u64, String>,
    /// Packs that cannot be emptied, since something in them is damaged.
    pub(crate) unmovable: BTreeSet<u64>,
    /// Of the superblock that counts.
    pub(crate) epoch: u64,
    /// Why this is not the vault any more: another writes it.
    pub(crate) fenced: Option<String>,
    /// Why nothing can be written.
    pub(crate) read_only: Option<String>,
    /// Packs that are not put yet, since nobody knows under which key they are to be.
    hold: Option<Hold>,
    /// Counts the changes, and how many of them the superblock has.
    changed: u64,
    flushed: u64,
}

impl State {
    pub(crate) fn new(pack_len: u32, epoch: u64, through: u64) -> Self {
        Self {
            pack_len,
            index: Index::default(),
            open: Filling::new(through + 1),
            sealed: BTreeMap::new(),
            names: BTreeMap::new(),
            doomed: HashSet::new(),
            bad: HashSet::new(),
            unreadable: BTreeMap::new(),
            unmovable: BTreeSet::new(),
            epoch,
            fenced: None,
            read_only: None,
            hold: None,
            changed: 0,
            flushed: 0,
        }
    }

    /// What there is before anything was read. Numbers go on behind all that were under an older key.
    pub(crate) fn of(superblock: &Superblock) -> Self {
        let older = superblock.older.as_ref().map_or(0, |older| older.through);
        Self::new(superblock.pack_len, superblock.epoch, superblock.through.max(older))
    }

    /// Has what is put from now on wait, in packs of higher numbers than it tells.
    pub(crate) fn hold(&mut self, env: &Env) -> u64 {
        if !self.open.is_empty() || self.names.contains_key(&self.open.number) {
            self.seal_open(env);
        }
        let through = self.open.number - 1;
        self.hold = Some(Hold { through, failure: None });
        self.touch();
        through
    }

    /// Tells those who wait why they are not to.
    pub(crate) fn fail_hold(&mut self, failure: Failure) {
        if let Some(hold) = &mut self.hold {
            hold.failure = Some(failure);
        }
    }

    pub(crate) fn release(&mut self) {
        self.hold = None;
    }

    /// Whether a pack waits.
    pub(crate) fn is_held(&self, number: u64) -> bool {
        self.hold.as_ref().is_some_and(|hold| number > hold.through)
    }

    /// Why some pack up to a number is not put, as far as is known.
    pub(crate) fn held_up(&self, through: u64) -> Option<Failure> {
        self.hold.as_ref().filter(|hold| through > hold.through).and_then(|hold| hold.failure.clone())
    }

    /// The packs of data up to a number.
    pub(crate) fn numbers_to(&self, through: u64) -> Vec<u64> {
        let below = self.names.range(..=through).map(|(number, _)| *number);
        below.chain(self.sealed.range(..=through).map(|(number, _)| *number)).collect()
    }

    /// Whether anything is to be flushed.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed > self.flushed
    }

    /// Notes that there is something to flush.
    pub(crate) fn touch(&mut self) {
        self.changed += 1;
    }

    /// Notes that the superblock has so many of the changes.
    pub(crate) fn flushed(&mut self, changed: u64) {
        self.flushed = self.flushed.max(changed);
    }

    /// Draws the name of an object that counts with the next superblock, or is to go.
    pub(crate) fn draw(&mut self, env: &Env) -> PackName {
        let name = PackName::draw(env);
        self.doomed.insert(name);
        name
    }

    /// Whether a piece is there, for all that is known, so that it need not be put.
    pub(crate) fn has_piece(&self, id: &PieceId) -> bool {
        self.index.place(id).is_some_and(|place| self.has_pack(place.number)) && !self.bad.contains(id)
    }

    /// Whether a block is there, for all that is known.
    pub(crate) fn has_block(&self, key: &BlockKey) -> bool {
        self.index.block(key).is_some_and(|block| block.pieces.iter().all(|id| self.has_piece(id)))
    }

    /// Notes that packs cannot be read, and why.
    pub(crate) fn add_unreadable(&mut self, packs: BTreeMap<u64, String>) {
        self.unreadable.extend(packs);
        if self.unreadable.len() > UNREADABLE_COUNT_MAX {
            self.read_only.get_or_insert_with(|| "too many packs cannot be read: what is left can be".into());
        }
    }

    /// Whether a block is there whatever is in the packs that cannot be read: those that come before what says so change nothing.
    pub(crate) fn is_sure_of(&self, key: &BlockKey) -> bool {
        let last = self.unreadable.last_key_value().map(|(number, _)| *number);
        self.has_block(key) && self.index.block(key).map(|block| block.number) > last
    }

    /// The packs of which a block is to be deleted that one of them says, and those that cannot be read may.
    fn said_by(&self, known: Option<u64>) -> Vec<u64> {
        let unreadable = self.unreadable.keys().copied().filter(|number| Some(*number) != known);
        known.into_iter().chain(unreadable).collect()
    }

    /// Puts a piece into the pack that is being filled.
    pub(crate) fn add_piece(&mut self, kept: &Kept, env: &Env) {
        let kept_len = u32::try_from(kept.bytes.len()).unwrap_or(u32::MAX);
        let Kept { id, how, len, .. } = *kept;
        let entry = PieceEntry { id, how, kept_len, len };
        if !self.open.fits(self.pack_len, kept.bytes.len() + TAG as usize, entry.encoded_len()) {
            self.seal_open(env);
        }
        let open = &mut self.open;
        let offset = u32::try_from(open.body.len()).unwrap_or(u32::MAX);
        open.body.extend_from_slice(&kept.bytes);
        open.body.resize(open.body.len() + TAG as usize, 0);
        open.by_id.insert(id, u32::try_from(open.directory.pieces.len()).unwrap_or(u32::MAX));
        open.directory_len += entry.encoded_len();
        open.directory.pieces.push(entry);
        self.index.set_place(id, Place { number: open.number, offset, kept_len, how, len });
        self.bad.remove(&id);
        self.touch();
    }

    /// Notes of what pieces a block is made; all of them are there.
    ///
    /// A pack that said so before is told to say so no more: else, were it deleted one day, that one would say it again. So is
    /// each of which nobody knows what it says.
    pub(crate) fn add_block(&mut self, key: &BlockKey, len: u32, pieces: Vec<PieceId>, env: &Env) {
        let before = self.index.block(key).map(|block| block.number);
        let deletion = |number| (number, Op::Delete { key: key.clone(), number });
        let deletions: Vec<_> = self.said_by(before).into_iter().map(deletion).collect();
        let deletions_len: usize = deletions.iter().map(|(_, deletion)| deletion.encoded_len()).sum();
        // Before it is asked which pack that is: this may seal it.
        self.make_room(put_len_max(key, len, &pieces) + deletions_len, env);
        for (number, deletion) in deletions {
            if number != self.open.number {
                self.push(deletion);
            }
        }
        self.move_block(key, len, pieces, env);
    }

    /// As [`add_block`](Self::add_block), where the pack that said so before is about to go.
    pub(crate) fn move_block(&mut self, key: &BlockKey, len: u32, pieces: Vec<PieceId>, env: &Env) {
        self.make_room(put_len_max(key, len, &pieces), env);
        let refs = pieces.iter().map(|id| self.open.by_id.get(id).map_or(PieceRef::Named(*id), |n| PieceRef::Here(*n)));
        let op = Op::Put { key: key.clone(), len, pieces: refs.collect() };
        self.push(op);
        let number = self.open.number;
        self.index.put(key.clone(), Block { number, len, pieces: pieces.into() });
    }

    /// Sees to it that the pack that is being filled has room in its directory.
    fn make_room(&mut self, directory_len: usize, env: &Env) {
        if !self.open.fits(self.pack_len, 0, directory_len) {
            self.seal_open(env);
        }
    }

    /// Notes that a block is gone of which the pack of that number says what it was.
    pub(crate) fn add_deletion(&mut self, key: &BlockKey, number: u64, env: &Env) {
        let op = Op::Delete { key: key.clone(), number };
        self.make_room(op.encoded_len(), env);
        self.push(op);
    }

    fn push(&mut self, op: Op) {
        let len = op.encoded_len();
        self.open.directory_len += len;
        self.index.add_pack(self.open.number);
        if let Op::Delete { number, .. } = &op {
            self.index.add_deletion(self.open.number, *number, len);
        }
        self.open.directory.ops.push(op);
        self.touch();
    }

    /// Notes that a block is gone, whichever pack says what it was; also where none is known to, and one that cannot be read may.
    pub(crate) fn delete(&mut self, key: &BlockKey, env: &Env) {
        let known = self.index.delete(key).map(|block| block.number);
        for number in self.said_by(known) {
            self.add_deletion(key, number, env);
        }
    }

    /// Sets aside the pack that was being filled, to be put, and begins the next one.
    pub(crate) fn seal_open(&mut self, env: &Env) {
        let next = Filling::new(self.open.number + 1);
        let pack = std::mem::replace(&mut self.open, next);
        let number = pack.number;
        let content = Content::Filled(Arc::new(pack));
        let sealed = Sealed { name: PackName::draw(env), epoch: self.epoch + 1, content, sending: Sending::Waiting };
        self.doomed.extend(self.names.remove(&number));
        self.sealed.insert(number, sealed);
    }

    /// Whether a pack is in memory: being filled, or not known to be in the store below.
    pub(crate) fn is_in_memory(&self, number: u64) -> bool {
        self.open.number == number || self.sealed.contains_key(&number)
    }

    fn has_pack(&self, number: u64) -> bool {
        self.is_in_memory(number) || self.names.contains_key(&number)
    }

    /// Where the bytes of a piece are; `None` where there is no such pack.
    pub(crate) fn source(&self, place: Place) -> Option<Source> {
        if self.open.number == place.number {
            return Some(Source::Plain(Bytes::copy_from_slice(self.open.kept(place))));
        }
        match self.sealed.get(&place.number) {
            None => self.names.get(&place.number).copied().map(Source::Below),
            Some(sealed) => Some(match &sealed.content {
                Content::Filled(pack) => Source::Plain(Bytes::copy_from_slice(pack.kept(place))),
                Content::Encrypted(pack) => Source::Encrypted(sealed.name, pack.clone()),
            }),
        }
    }

    /// Notes that a full pack is in the store below.
    pub(crate) fn sent(&mut self, number: u64) {
        if let Some(sealed) = self.sealed.remove(&number) {
            self.set_name(number, sealed.name);
        }
    }

    fn set_name(&mut self, number: u64, name: PackName) {
        self.doomed.extend(self.names.insert(number, name));
    }

    /// Forgets a pack in which nothing counts any more.
    pub(crate) fn retire(&mut self, number: u64, held: impl Iterator<Item = PieceId>) {
        self.index.remove_pack(number, held);
        self.doomed.extend(self.names.remove(&number));
        self.touch();
    }

    /// What there is to flush; `None` if nothing is.
    pub(crate) fn work(&mut self, env: &Env) -> Option<Work> {
        if !self.is_changed() {
            return None;
        }
        let live_of = |state: &Self| -> BTreeSet<u64> {
            state.names.keys().chain(state.sealed.keys()).copied().chain([state.open.number]).collect()
        };
        let len_of = |live: &BTreeSet<u64>| {
            let mut encoded = Vec::new();
            put_set(&mut encoded, &live.iter().copied());
            encoded.len()
        };
        let mut live = live_of(self);
        // The next number may be a range more.
        if !self.open.is_empty() && !self.open.fits(self.pack_len, 0, len_of(&live) + 20) {
            self.seal_open(env);
            live = live_of(self);
        }
        let mut tail = self.open.clone();
        if tail.fits(self.pack_len, 0, len_of(&live)) {
            tail.directory.live = Some(live);
        }
        let through = tail.number;
        let name = PackName::draw(env);
        self.set_name(through, name);
        self.index.add_pack(through);
        let mut names = self.names.clone();
        names.extend(self.sealed.iter().map(|(number, sealed)| (*number, sealed.name)));
        let doomed = self.doomed.clone();
        // Until it counts.
        self.doomed.insert(name);
        let unreadable = self.unreadable.keys().copied().collect();
        let changed = self.changed;
        Some(Work { changed, through, tail: (name, self.epoch + 1, tail), names, doomed, unreadable })
    }
}

/// How long what a directory says of a block may be, in bytes.
fn put_len_max(key: &BlockKey, len: u32, pieces: &[PieceId]) -> usize {
    let named = pieces.iter().map(|id| PieceRef::Named(*id)).collect();
    Op::Put { key: key.clone(), len, pieces: named }.encoded_len()
}
