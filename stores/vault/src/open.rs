//! Making a vault, and opening one.
//!
//! An opening reads the index and the directories of packs that came after it, and swaps in a superblock of its own, so that
//! whoever wrote before can do so no more; only then what counts for nothing is deleted. Spec: spec/vault.md #opening.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, RwLock},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use muxfs::{Error, ErrorKind, Result, heads::Version};
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::{
    cut::{Cutter, PieceLens},
    directory::Directory,
    flush::{After, Current, Head, padded_count},
    head::{Slot, Standing, reopen, standing, unlock},
    index::Index,
    keep::Runs,
    keys::{Keys, PACK_NAME_LEN, PackName, Ring},
    memory::{self, Seen},
    pack::{Kind, Opened, PACK_LEN_MAX, PACK_LEN_MIN, TAG, TRAILER_LEN, Trailer, open_item},
    password::Password,
    read::{CELL_LEN, Recent},
    runs::{Entry, Parts, Run},
    secret::Secret,
    shrink::Shrinker,
    state::State,
    superblock::{Superblock, digest},
    vault::{Inner, Vault, VaultOptions, VaultPlace, blocking},
    wire::corrupt,
};

/// So many packs are looked at at once.
pub(crate) const AHEAD_COUNT: usize = 16;
/// Of those who open a vault at the same time one wins each time; so often it is tried.
const OPEN_COUNT_MAX: usize = 10;
/// Where crashes left several editions of packs, and the index is lost, so many ways to choose among them are tried.
const CHOICE_COUNT_MAX: usize = 4096;

impl Vault {
    /// Makes a vault that is empty, and opens it. Durable when it returns.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, Name, block::Mem, heads::MemHeads};
    /// use muxfs_vault::{Cost, Password, Vault, VaultOptions, VaultPlace};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// # let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
    /// let (blocks, heads, env) = (Arc::new(Mem::default()), Arc::new(MemHeads::default()), muxfs::testing::env());
    /// let place = VaultPlace::new(blocks, heads, Name::new(b"vault")?, env);
    /// let password = Password::new("correct horse")?;
    /// # let options = VaultOptions { cost, ..VaultOptions::default() };
    /// let vault = Vault::create(place.clone(), &password, &options).await?;
    /// vault.put(&BlockKey::new(b"k")?, "block".into()).await?;
    /// vault.flush().await?;
    ///
    /// let again = Vault::open(place.clone(), &password).await?;
    /// assert_eq!(again.get(&BlockKey::new(b"k")?).await?, Some("block".into()));
    /// assert!(Vault::open(place, &Password::new("wrong")?).await.is_err());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Exists` where a head is in the place, or one is remembered, but of a vault that was destroyed; `InvalidArgument` for options out of range; what the stores below say.
    pub async fn create(place: VaultPlace, password: &Password, options: &VaultOptions) -> Result<Self> {
        const OP: &str = "vault.create";
        let VaultOptions { cipher, compression, pack_len, cost } = *options;
        if !cost.is_valid() || !pack_len.is_power_of_two() || !(PACK_LEN_MIN..=PACK_LEN_MAX).contains(&pack_len) {
            let why = "packs are 64 KiB to 4 MiB, a power of two; a cost is at most 1 GiB, 64 passes and 4 lanes";
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
        }
        let exists = || Error::new(ErrorKind::Exists, OP).because("there is a vault, or something else, in that place");
        let version = match place.heads.load(&place.name).await? {
            None => None,
            Some((bytes, version)) => match standing(&bytes) {
                Standing::Gone => Some(version),
                Standing::Going(_) => {
                    let why = "a vault in that place is being destroyed: that is to be ended first";
                    return Err(Error::new(ErrorKind::Exists, OP).because(why));
                }
                Standing::Vault | Standing::Other => return Err(exists()),
            },
        };
        if let Some(memory) = &place.memory
            && !memory::is_free(&**memory, &place.name).await?
        {
            let why = "another vault is remembered under that name: it is to be forgotten first";
            return Err(Error::new(ErrorKind::Exists, OP).because(why));
        }
        let mut id = [0; 16];
        (place.env.fill)(&mut id);
        let keys = Keys::new(cipher, Secret::draw(&place.env));
        let (password, env) = (password.clone(), place.env.clone());
        let (slot, keys) = blocking(move || (Slot::new(&keys, &password, cost, &env), keys)).await?;
        let superblock = Superblock {
            id,
            pack_len,
            compression,
            seed: Secret::draw(&place.env),
            beside: Secret::draw(&place.env),
            older_beside: None,
            past: Vec::new(),
            older: None,
            epoch: 1,
            through: 0,
            digest: digest(&BTreeMap::new()),
            runs: Vec::new(),
            packs: BTreeMap::new(),
            retired: BTreeSet::new(),
            covers: Vec::new(),
            heads: BTreeMap::new(),
        };
        let current = Current::new(slot, superblock, Arc::new(keys));
        let state = State::new(pack_len, 0, 0);
        let inner = Self::assemble(place, current, state, version);
        let mut head = inner.head.lock().await;
        let mut next = head.current.clone();
        for _ in 0..padded_count(0) {
            next.superblock.covers.push(inner.put_cover(1).await?);
        }
        inner.place.blocks.flush().await?;
        let after = After { kept: next.superblock.covers.clone(), ..After::default() };
        match inner.swap(&mut head, next, after).await {
            Err(error) if error.kind() == ErrorKind::Denied => return Err(exists()),
            swapped => swapped?,
        }
        drop(head);
        Ok(Self { inner })
    }

    /// Opens a vault to read and write; whoever had it open writes no more from here on.
    ///
    /// What its directories say is held in memory: some 100 bytes for a block, 80 for a piece.
    ///
    /// # Errors
    /// `BadKey` where the password is wrong, or the head was changed: nobody can tell these apart; `NotFound` where there is none;
    /// `Unsupported` of a newer version; `Corrupt` where an older state is given than one that is known of.
    pub async fn open(place: VaultPlace, password: &Password) -> Result<Self> {
        let (mut bytes, mut version) = load_head(&place).await?;
        let (tried, password) = (bytes.clone(), password.clone());
        let (slot, keys, mut superblock) = blocking(move || unlock(&tried, &password)).await??;
        let keys = Arc::new(keys);
        for _ in 0..OPEN_COUNT_MAX {
            if let Some(memory) = &place.memory {
                let seen = Seen { superblock: &superblock, head: &bytes, keys: &keys };
                memory::check(&**memory, &place.name, seen).await?;
            }
            let current = Current::new(slot.clone(), superblock, Arc::clone(&keys));
            let state = State::of(&current.superblock);
            let inner = Self::assemble(place.clone(), current, state, Some(version));
            match inner.begin().await {
                Ok(()) => return Ok(Self { inner }),
                Err(error) if error.kind() != ErrorKind::Denied && error.kind() != ErrorKind::Corrupt => {
                    return Err(error);
                }
                Err(error) => {
                    let (again, now) = load_head(&place).await?;
                    if again == bytes {
                        return Err(error);
                    }
                    // Another flushed, or opened it, between.
                    (bytes, version) = (again, now);
                    superblock = reopen(&bytes, &slot, &keys)?;
                }
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "vault.open").because("others open it at the same time"))
    }

    pub(crate) fn assemble(place: VaultPlace, current: Current, state: State, version: Option<Version>) -> Arc<Inner> {
        let Superblock { id, pack_len, compression, ref seed, .. } = current.superblock;
        let recent = Recent::new(place.cache_len, pack_len);
        Arc::new(Inner {
            cutter: Cutter::new(seed.gear(), PieceLens::of_packs(pack_len)),
            names_of_pieces: seed.names_of_pieces(),
            cipher: current.ring.newest.cipher(),
            ring: RwLock::new(current.ring.clone()),
            shrinker: Shrinker::new(compression),
            id,
            pack_len,
            place,
            state: Mutex::new(state),
            head: AsyncMutex::new(Head::new(version, current)),
            recent: Mutex::new(recent),
            putting: Inner::permits(),
            changed: watch::Sender::new(0),
        })
    }
}

async fn load_head(place: &VaultPlace) -> Result<(Bytes, Version)> {
    let not_found = |why: &'static str| Error::new(ErrorKind::NotFound, "vault.open").because(why);
    let loaded = place.heads.load(&place.name).await?;
    let (bytes, version) = loaded.ok_or_else(|| not_found("there is no vault in that place"))?;
    match standing(&bytes) {
        Standing::Gone => Err(not_found("the vault in that place was destroyed")),
        Standing::Going(_) => {
            Err(not_found("the vault in that place is being destroyed, which came to no end: destroy it again"))
        }
        Standing::Vault | Standing::Other => Ok((bytes, version)),
    }
}

impl Current {
    /// What counts before anything of the index is known.
    pub(crate) fn new(slot: Slot, superblock: Superblock, keys: Arc<Keys>) -> Self {
        let ring = Ring::new(keys, &superblock);
        Self { slot, superblock, runs: Runs::default(), ring }
    }

    /// The keys that index and covers are under.
    pub(crate) fn index_keys(&self) -> Arc<Keys> {
        match (&self.superblock.older, &self.ring.older) {
            (Some(said), Some((older, _))) if said.with_index => Arc::clone(older),
            _ => Arc::clone(&self.ring.newest),
        }
    }

    /// The packs of data that count, as far as the index that could be read names them.
    pub(crate) fn names(&self) -> BTreeMap<u64, PackName> {
        let runs = self.runs.runs.iter().flat_map(|run| &run.names).map(|(number, name)| (*number, *name));
        let mut names: BTreeMap<_, _> = runs.filter(|(number, _)| !self.superblock.retired.contains(number)).collect();
        names.extend(&self.superblock.packs);
        names
    }
}

/// A pack of this vault that nobody names.
pub(crate) struct Stranger {
    trailer: Trailer,
    /// Whether it is under a key that is being replaced.
    pub(crate) is_older: bool,
}

/// What an opening found.
struct Found {
    /// Packs of this vault that nobody names.
    strangers: HashMap<PackName, Stranger>,
    /// What of the index could not be read.
    is_lost: bool,
}

impl Inner {
    /// Finds out what there is, becomes the writer, and deletes what counts for nothing.
    ///
    /// # Errors
    /// `Denied` where another was faster; `Corrupt` where the head is older than packs that are there.
    async fn begin(self: &Arc<Self>) -> Result<()> {
        let mut head = self.head.lock().await;
        let Found { strangers, is_lost } = self.look(&mut head.current).await?;
        if self.state().read_only.is_some() {
            // Nothing is written, and nothing deleted: what is missing may come back. But where another has flushed meanwhile it
            // only counts no more.
            return self.check_version(&head).await;
        }
        let mut next = head.current.clone();
        next.superblock.epoch += 1;
        let after = After { doomed: strangers.into_keys().collect(), ..After::default() };
        self.swap(&mut head, next, after).await?;
        if is_lost {
            // So that the next opening has one again.
            self.state().touch();
        }
        Ok(())
    }

    /// Reads what there is.
    async fn look(self: &Arc<Self>, current: &mut Current) -> Result<Found> {
        let (superblock, index_keys) = (current.superblock.clone(), current.index_keys());
        let (mut runs, mut entries, mut is_lost) = (Vec::new(), BTreeMap::new(), false);
        for last in &superblock.runs {
            match self.load_run(&index_keys, last, superblock.through).await {
                Ok((objects, read)) => {
                    let names = read.iter().map(|entry| (entry.number, entry.name)).collect();
                    runs.push(Arc::new(Run { objects, names }));
                    entries.extend(read.into_iter().map(|entry| (entry.number, entry)));
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "a part of the vault's index is lost: it is made anew"
                    );
                    self.state().doomed.insert(*last);
                    is_lost = true;
                }
                Err(error) => return Err(error),
            }
        }
        entries.retain(|number, _| !superblock.retired.contains(number) && !superblock.packs.contains_key(number));
        current.runs = Runs::new(runs);
        let mut names = current.names();
        let known: HashSet<PackName> = {
            let runs = current.runs.runs.iter().flat_map(|run| &run.objects);
            names.values().chain(&superblock.covers).chain(runs).chain(&superblock.runs).copied().collect()
        };
        let mut strangers = self.strangers(&known).await?;
        let newest = strangers.values().map(|stranger| stranger.trailer.epoch).max().unwrap_or(0);
        let epoch = superblock.epoch;
        if newest > epoch + 1 {
            let why =
                format!("the vault is of epoch {epoch}, and there are packs of epoch {newest}: it was rolled back");
            return Err(Error::new(ErrorKind::Corrupt, "vault.open").because(why));
        }
        if digest(&names) != superblock.digest {
            if !is_lost {
                return Err(corrupt("the index of the vault has other packs than the head says"));
            }
            names = self.found_again(&superblock, names, &strangers).await?;
            strangers.retain(|name, stranger| names.get(&stranger.trailer.number) != Some(name));
        }
        self.follow_all(names, entries).await?;
        Ok(Found { strangers, is_lost })
    }

    /// Follows what packs say, in the order of their numbers: those in the index from there, others from where they are.
    async fn follow_all(self: &Arc<Self>, names: BTreeMap<u64, PackName>, entries: BTreeMap<u64, Entry>) -> Result<()> {
        let others: Vec<_> = names.iter().filter(|(number, _)| !entries.contains_key(number)).collect();
        let others: Vec<(u64, PackName)> = others.into_iter().map(|(number, name)| (*number, *name)).collect();
        // Boxed, since the compiler proves no stream of borrowing futures to be sendable.
        let read = |(number, name): (u64, PackName)| {
            async move {
                let directory = match self.load_directory(number, &name).await {
                    // Or it only came so: whether it can be read matters for as long as the vault is open.
                    Err(error) if error.kind() == ErrorKind::Corrupt => self.load_directory(number, &name).await,
                    directory => directory,
                };
                (number, directory)
            }
            .boxed()
        };
        let mut directories = stream::iter(others).map(read).buffer_unordered(AHEAD_COUNT).boxed();
        let mut loaded = BTreeMap::new();
        while let Some((number, directory)) = directories.next().await {
            let directory = match directory {
                Ok((trailer, _)) if trailer.number != number => Err(corrupt("it is another pack")),
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                directory => directory.map(|(trailer, directory)| (trailer.items_end, directory)),
            };
            loaded.insert(number, directory);
        }
        drop(directories);
        let (index, unreadable, names) = blocking(move || {
            let (mut index, mut unreadable) = (Index::default(), BTreeMap::new());
            for (number, name) in &names {
                let directory = match entries.get(number) {
                    Some(entry) => Directory::decode(&entry.directory).map(|directory| (entry.items_end, directory)),
                    None => loaded.remove(number).unwrap_or_else(|| Err(corrupt("a pack is gone"))),
                };
                let followed =
                    directory.and_then(|(items_end, directory)| index.follow(*number, &directory, items_end));
                if let Err(error) = followed {
                    tracing::error!(pack = %name, error = format!("{error:#}"), "a pack of the vault is damaged");
                    unreadable.insert(*number, format!("{error:#}"));
                }
                // Deletions of blocks whose packs cannot be read are the last that is known of them.
                index.add_pack(*number);
            }
            (index, unreadable, names)
        })
        .await?;
        let mut state = self.state();
        state.index = index;
        state.names = names;
        state.add_unreadable(unreadable);
        Ok(())
    }

    /// All packs that count, where some of them are named by a part of the index that is lost: the set that has the digest of the
    /// superblock. Where there is none the vault cannot be written, and what is absent is `Corrupt`.
    async fn found_again(
        &self,
        superblock: &Superblock,
        known: BTreeMap<u64, PackName>,
        strangers: &HashMap<PackName, Stranger>,
    ) -> Result<BTreeMap<u64, PackName>> {
        let live = match superblock.packs.get(&superblock.through) {
            Some(name) => match self.load_directory(superblock.through, name).await {
                Ok((_, directory)) => directory.live,
                Err(error) if error.kind() == ErrorKind::Corrupt => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let mut found: BTreeMap<u64, Vec<(PackName, Trailer)>> = BTreeMap::new();
        let older_through = superblock.older.as_ref().map(|older| older.through);
        for (name, Stranger { trailer, is_older }) in strangers {
            let Trailer { kind, number, epoch, .. } = *trailer;
            let counted = live.as_ref().map_or(!superblock.retired.contains(&number), |live| live.contains(&number));
            let is_old = number <= superblock.through && epoch <= superblock.epoch;
            let is_under_its_key = *is_older == (Some(number) <= older_through);
            if kind == Kind::Data && is_under_its_key && counted && is_old && !known.contains_key(&number) {
                found.entry(number).or_default().push((*name, *trailer));
            }
        }
        // Of two of one number the later most likely counts.
        for editions in found.values_mut() {
            let order = |trailer: &Trailer| (trailer.epoch, trailer.items_end, trailer.directory_len);
            editions.sort_unstable_by_key(|(_, trailer)| std::cmp::Reverse(order(trailer)));
        }
        let missing: Vec<u64> = live
            .into_iter()
            .flatten()
            .filter(|number| !found.contains_key(number) && !known.contains_key(number))
            .collect();
        let mut names = known;
        names.extend(found.iter().filter_map(|(number, editions)| Some((*number, editions.first()?.0))));
        let mut choices = Choices::new(&found);
        for _ in 0..CHOICE_COUNT_MAX {
            if !missing.is_empty() || digest(&names) == superblock.digest {
                break;
            }
            let Some(choice) = choices.next() else { break };
            names.extend(choice);
        }
        if digest(&names) != superblock.digest {
            names.extend(found.iter().filter_map(|(number, editions)| Some((*number, editions.first()?.0))));
            let why =
                "a part of the vault's index is lost, and packs that count are not there: what is left can be read";
            tracing::error!(missing = missing.len(), why);
            let mut state = self.state();
            state.read_only = Some(why.into());
            state.unreadable.extend(missing.into_iter().map(|number| (number, "it is gone".to_owned())));
            state.unreadable.entry(0).or_insert_with(|| why.into());
        }
        Ok(names)
    }

    /// The packs of this vault in the store below that are none of those.
    pub(crate) async fn strangers(&self, known: &HashSet<PackName>) -> Result<HashMap<PackName, Stranger>> {
        let ring = self.ring();
        let named = self.place.blocks.keys().filter_map(|key| {
            let named = key.map(|key| {
                let name: Option<[u8; PACK_NAME_LEN]> = key.as_bytes().try_into().ok();
                name.map(PackName).filter(|name| !known.contains(name))
            });
            std::future::ready(named.transpose())
        });
        let load = |name: Result<PackName>| {
            let ring = &ring;
            async move {
                let name = name?;
                Ok::<_, Error>((name, self.load_stranger(ring, &name).await))
            }
            .boxed()
        };
        let mut trailers = named.map(load).buffer_unordered(AHEAD_COUNT).boxed();
        let mut strangers = HashMap::new();
        while let Some(loaded) = trailers.next().await {
            let (name, stranger) = loaded?;
            match stranger {
                Ok(stranger) => drop(strangers.insert(name, stranger)),
                // Somebody else's, or so damaged that nobody can tell.
                Err(error) if error.kind() == ErrorKind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        drop(trailers);
        Ok(strangers)
    }

    /// The trailer of a pack, and no more of it: it may be somebody else's.
    async fn load_stranger(&self, ring: &Ring, name: &PackName) -> Result<Stranger> {
        let end = self.load_end(name, TRAILER_LEN).await?;
        match (Trailer::open(&ring.newest.pack(name), &end, self.pack_len), &ring.older) {
            (Err(error), Some((older, _))) if error.kind() == ErrorKind::Corrupt => {
                let trailer = Trailer::open(&older.pack(name), &end, self.pack_len)?;
                Ok(Stranger { trailer, is_older: true })
            }
            (trailer, _) => Ok(Stranger { trailer: trailer?, is_older: false }),
        }
    }

    async fn load_end(&self, name: &PackName, len: u32) -> Result<Bytes> {
        let len = len.min(self.pack_len);
        let end = self.bounded(name, self.pack_len - len).await?.ok_or_else(|| corrupt("a pack is gone"))?;
        if end.len() == len as usize { Ok(end) } else { Err(corrupt("a pack is not as long as those of this vault")) }
    }

    /// What the directory of the pack of data of a number says.
    ///
    /// # Errors
    /// `Corrupt` where it is damaged or gone.
    pub(crate) async fn load_directory(&self, number: u64, name: &PackName) -> Result<(Trailer, Directory)> {
        let mut end = self.load_end(name, CELL_LEN).await?;
        let key = self.keys_of(number).pack(name);
        let trailer = Trailer::open(&key, &end, self.pack_len)?;
        let len = self.pack_len - trailer.directory_at(self.pack_len);
        if len as usize > end.len() {
            end = self.load_end(name, len.next_multiple_of(CELL_LEN)).await?;
        }
        if trailer.kind != Kind::Data {
            return Err(corrupt("a pack is not what it is said to be"));
        }
        let directory = Opened::directory(&key, &trailer, &end, self.pack_len)?;
        Ok((trailer, Directory::decode(&directory)?))
    }

    /// What a pack of the index holds, and which packs come before it.
    pub(crate) async fn load_parts(&self, keys: &Keys, name: &PackName) -> Result<(Vec<PackName>, Vec<u8>)> {
        let pack = self.load_object(name).await?;
        let key = keys.pack(name);
        let opened = Opened::whole(&key, &pack, self.pack_len)?;
        if opened.trailer.kind != Kind::Index {
            return Err(corrupt("a pack is not what it is said to be"));
        }
        let Parts { parts, before } = Parts::decode(&opened.directory)?;
        let (mut bytes, mut at) = (Vec::new(), 0_u32);
        for (how, kept_len, len) in parts {
            let end = at.saturating_add(kept_len).saturating_add(TAG);
            let sealed = pack.get(at as usize..end as usize).ok_or_else(|| corrupt("a pack is cut off"))?;
            bytes.extend(self.shrinker.piece(how, open_item(&key, at, &mut sealed.to_vec())?, len)?);
            at = end;
        }
        if at != opened.trailer.items_end {
            return Err(corrupt("a pack has more in it than its directory says"));
        }
        Ok((before, bytes))
    }
}

/// All ways to choose one edition of each pack of which there are several, but for the first way.
struct Choices<'a> {
    several: Vec<(u64, &'a [(PackName, Trailer)])>,
    at: Vec<usize>,
}

impl<'a> Choices<'a> {
    fn new(found: &'a BTreeMap<u64, Vec<(PackName, Trailer)>>) -> Self {
        let several = found.iter().filter(|(_, editions)| editions.len() > 1);
        let several: Vec<_> = several.map(|(number, editions)| (*number, editions.as_slice())).collect();
        Self { at: vec![0; several.len()], several }
    }

    fn next(&mut self) -> Option<Vec<(u64, PackName)>> {
        let counter = self.at.iter_mut().zip(&self.several).find_map(|(at, (_, editions))| {
            *at = (*at + 1) % editions.len();
            (*at > 0).then_some(())
        });
        counter?;
        let chosen = self.at.iter().zip(&self.several);
        Some(chosen.filter_map(|(at, (number, editions))| Some((*number, editions.get(*at)?.0))).collect())
    }
}
