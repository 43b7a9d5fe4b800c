//! Making it durable: what is on its way is put, then the superblock that names it is swapped in, then what it names no more
//! is deleted.
//!
//! The swap is the one moment at which something changes for whoever opens the vault. It also keeps two writers apart: whoever
//! finds another superblock than his own in the place has been passed over. Spec: spec/vault.md #flush.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use muxfs::{
    Error, ErrorKind, Result,
    heads::{Swap, Version},
};

use crate::{
    head::{self, Slot},
    keep::{Indexed, Runs},
    keys::{PackName, Ring},
    memory::{self, Seen},
    pack::{self, Kind},
    password::{Cost, Password},
    state::{Failure, Work},
    superblock::{Superblock, digest},
    vault::{Inner, Vault, blocking},
};

/// The number of objects is a multiple of this.
const COUNT_STEP: usize = 4;
/// So many objects are deleted at once.
const DELETE_COUNT: usize = 16;

/// So many objects there are where so many are needed.
pub(crate) fn padded_count(count: usize) -> usize {
    count.max(1).next_multiple_of(COUNT_STEP)
}

/// What counts, and what is known of it besides.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) slot: Slot,
    pub(crate) superblock: Superblock,
    /// What is in the index.
    pub(crate) runs: Runs,
    pub(crate) ring: Ring,
}

/// The place where a vault changes.
pub(crate) struct Head {
    pub(crate) version: Option<Version>,
    pub(crate) current: Current,
    /// A swap of which nobody knows whether it happened.
    tried: Option<Tried>,
}

struct Tried {
    bytes: Bytes,
    next: Current,
    after: After,
}

/// What follows from a swap.
#[derive(Default)]
pub(crate) struct After {
    /// Objects that count with it.
    pub(crate) kept: Vec<PackName>,
    /// The edition that counts with it: until the pack is full.
    pub(crate) tail: Option<(u64, PackName)>,
    /// Objects that count no more, and are deleted.
    pub(crate) doomed: HashSet<PackName>,
    /// How many of the changes it has.
    pub(crate) changed: u64,
}

impl Head {
    pub(crate) fn new(version: Option<Version>, current: Current) -> Self {
        Self { version, current, tried: None }
    }
}

impl Inner {
    /// A flush that goes on when its caller is dropped.
    pub(crate) async fn flush_detached(self: &Arc<Self>) -> Result<()> {
        let inner = Arc::clone(self);
        let flushed = tokio::spawn(async move { inner.flush().await }).await;
        flushed.map_err(|error| Error::new(ErrorKind::Internal, "vault.flush").because(error))?
    }

    async fn flush(self: &Arc<Self>) -> Result<()> {
        self.check_current()?;
        if !self.state().is_changed() {
            return Ok(());
        }
        self.check_writer()?;
        let mut head = self.head.lock().await;
        self.settle(&mut head).await?;
        self.merge().await?;
        let work = self.state().work(&self.place.env);
        let Some(work) = work else { return Ok(()) };
        self.write(&mut head, work).await
    }

    async fn write(self: &Arc<Self>, head: &mut Head, work: Work) -> Result<()> {
        let Work { changed, through, tail: (name, epoch, tail), names, doomed, unreadable } = work;
        let mut after = After { kept: Vec::new(), tail: Some((through, name)), doomed, changed };
        self.sent(through - 1).await?;
        let inner = Arc::clone(self);
        let tail = blocking(move || tail.seal(&inner.keys_of(through), &name, epoch, inner.pack_len)).await??;
        self.put_object(&name, tail).await?;
        let mut next = head.current.clone();
        let indexed = Indexed { keys: head.current.index_keys(), names: &names, through, but: &unreadable, epoch };
        self.keep_index(&mut next.runs, indexed, &mut after).await?;
        let superblock = &mut next.superblock;
        if let Some(older) = superblock.older.as_mut().filter(|older| older.with_index) {
            // The runs are others by now.
            older.with_index = false;
            after.doomed.extend(std::mem::take(&mut superblock.covers));
        }
        let needed = names.len() + next.runs.object_count();
        let cover_count = padded_count(needed) - needed;
        let mut covers = std::mem::take(&mut superblock.covers);
        after.doomed.extend(covers.split_off(cover_count.min(covers.len())));
        while covers.len() < cover_count {
            let cover = self.put_cover(epoch).await?;
            after.kept.push(cover);
            covers.push(cover);
        }
        superblock.covers = covers;
        (superblock.through, superblock.epoch, superblock.digest) = (through, epoch, digest(&names));
        superblock.runs = next.runs.last_objects();
        superblock.retired = next.runs.numbers().filter(|number| !names.contains_key(number)).collect();
        let is_named = |number: &u64| *number == through || !next.runs.has(*number);
        superblock.packs = names.into_iter().filter(|(number, _)| is_named(number)).collect();
        self.place.blocks.flush().await?;
        self.swap(head, next, after).await
    }

    /// Puts a pack that holds nothing.
    pub(crate) async fn put_cover(self: &Arc<Self>, epoch: u64) -> Result<PackName> {
        let name = self.state().draw(&self.place.env);
        let inner = Arc::clone(self);
        let sealed = blocking(move || {
            let key = inner.ring().newest.pack(&name);
            pack::seal(&key, inner.pack_len, (Kind::Cover, 0, epoch), std::iter::empty(), &[])
        });
        self.put_object(&name, sealed.await??).await?;
        Ok(name)
    }

    /// Makes `next` what counts, and deletes what it names no more.
    ///
    /// # Errors
    /// `Unavailable` where the swap did not happen, though nobody else wrote the head; `Denied` where somebody did.
    pub(crate) async fn swap(self: &Arc<Self>, head: &mut Head, next: Current, after: After) -> Result<()> {
        let bytes = head::encode(&next.slot, &next.superblock, &next.ring.newest, &self.place.env)?;
        head.tried = Some(Tried { bytes: bytes.clone(), next, after });
        match self.place.heads.swap(&self.place.name, head.version.as_ref(), bytes).await? {
            Swap::Done(version) => self.done(head, version).await,
            // An attempt of the place itself may have been told twice.
            Swap::Lost => {
                if self.settle(head).await? {
                    return Ok(());
                }
                let why = "the place of the head says that another was faster, and has the head that was there before";
                Err(Error::new(ErrorKind::Unavailable, "vault.flush").because(why))
            }
        }
    }

    async fn done(self: &Arc<Self>, head: &mut Head, version: Version) -> Result<()> {
        let Some(Tried { bytes, next, after }) = head.tried.take() else { return Ok(()) };
        let After { kept, tail, doomed, changed } = after;
        (head.version, head.current) = (Some(version), next);
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = head.current.ring.clone();
        {
            let mut state = self.state();
            state.epoch = head.current.superblock.epoch;
            state.release();
            state.flushed(changed);
            state.doomed.retain(|name| !doomed.contains(name));
            // One that was full before it counted is to go with the next one.
            let tail = tail.filter(|(number, name)| state.names.get(number) == Some(name)).map(|(_, name)| name);
            for name in kept.iter().chain(&tail) {
                state.doomed.remove(name);
            }
        }
        self.go_on();
        let Current { superblock, ring, .. } = &head.current;
        let seen = Seen { superblock, head: &bytes, keys: &ring.newest };
        let remembered = match &self.place.memory {
            Some(memory) => memory::remember(&**memory, &self.place.name, seen).await,
            None => Ok(()),
        };
        let delete = |name| async move { (name, self.place.blocks.delete(&Self::pack_key(&name)).await) }.boxed();
        let mut deleted = stream::iter(doomed).map(delete).buffer_unordered(DELETE_COUNT);
        while let Some((name, deleted)) = deleted.next().await {
            if let Err(error) = deleted {
                // It is durable; the next flush deletes it, or the next opening.
                tracing::warn!(error = format!("{error:#}"), "a pack that counts no more could not be deleted");
                self.state().doomed.insert(name);
            }
        }
        remembered
    }

    /// Finds out what became of a swap that failed; whether it happened.
    ///
    /// # Errors
    /// `Denied` where another has written the vault since.
    pub(crate) async fn settle(self: &Arc<Self>, head: &mut Head) -> Result<bool> {
        let Some(tried) = &head.tried else { return Ok(false) };
        match self.place.heads.load(&self.place.name).await? {
            Some((bytes, version)) if bytes == tried.bytes => self.done(head, version).await.map(|()| true),
            loaded if loaded.as_ref().map(|(_, version)| version) == head.version.as_ref() => {
                head.tried = None;
                self.state().release();
                self.go_on();
                Ok(false)
            }
            _ => {
                self.fence();
                self.check_current().map(|()| false)
            }
        }
    }

    /// Puts what waited until it was known what counts.
    pub(crate) fn go_on(self: &Arc<Self>) {
        self.send_waiting();
        self.changed.send_modify(|count| *count += 1);
    }

    fn fence(&self) {
        let why = "another program has opened this vault to write: it is to be opened again before anything is read or written from here";
        let mut state = self.state();
        state.fenced = Some(why.into());
        state.fail_hold(Failure::passed_over());
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Asks whether the vault is another's, where packs are not there that should be.
    ///
    /// # Errors
    /// `Denied` where it is; what the place of the head says.
    pub(crate) async fn check_head(self: &Arc<Self>) -> Result<()> {
        let mut head = self.head.lock().await;
        self.settle(&mut head).await?;
        self.check_version(&head).await
    }

    /// Asks whether the head is the one that was read.
    ///
    /// # Errors
    /// As [`check_head`](Self::check_head).
    pub(crate) async fn check_version(&self, head: &Head) -> Result<()> {
        let loaded = self.place.heads.load(&self.place.name).await?;
        if loaded.map(|(_, version)| version) != head.version {
            self.fence();
        }
        self.check_current()
    }
}

impl Vault {
    /// Lets another password open the vault from now on, and this one no more. Nothing but the head is written; durable when it
    /// returns. Whoever has kept an older head can open that with the older password, for as long as the packs of then
    /// are there, and reads what is there with its master key: [`rekey`](Self::rekey) takes that back.
    ///
    /// # Errors
    /// `InvalidArgument` for a cost out of range; `Denied`, and what the place of the head says.
    pub async fn change_password(&self, password: &Password, cost: Cost) -> Result<()> {
        if !cost.is_valid() {
            return Err(Error::new(ErrorKind::InvalidArgument, "vault.passwd").because("nobody can pay that cost"));
        }
        self.inner.check_writer()?;
        self.inner.flush_detached().await?;
        let (inner, password) = (Arc::clone(&self.inner), password.clone());
        let changed = tokio::spawn(async move {
            let keys = inner.ring().newest;
            let (made_of, env) = (Arc::clone(&keys), inner.place.env.clone());
            let slot = blocking(move || Slot::new(&made_of, &password, cost, &env)).await?;
            let mut head = inner.head.lock().await;
            inner.settle(&mut head).await?;
            if !Arc::ptr_eq(&keys, &head.current.ring.newest) {
                let error = Error::new(ErrorKind::Unavailable, "vault.passwd");
                return Err(error.because("the master key was replaced at the same time: try again"));
            }
            let mut next = head.current.clone();
            next.slot = slot;
            next.superblock.epoch += 1;
            inner.swap(&mut head, next, After::default()).await
        });
        changed.await.map_err(|error| Error::new(ErrorKind::Internal, "vault.passwd").because(error))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_few_numbers_of_objects() {
        for (count, padded) in [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8), (1001, 1004)] {
            assert_eq!(padded_count(count), padded);
        }
    }
}
