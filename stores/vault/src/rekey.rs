//! Another master key: drawn at once, and everything that is under the one before is put again bit by bit, while others read and
//! write.
//!
//! First the head is swapped, to a slot with the new key and a superblock that has the older one: so there is nothing under the new
//! key before the head has it, and a crash leaves nothing that nobody knows. New packs are under the new one from then on. Those of
//! before are emptied, as compaction does it; when none is left the older key is forgotten. Spec: spec/vault.md #rekeying.

use std::{collections::HashSet, sync::Arc};

use muxfs::{Error, ErrorKind, Result};

use crate::{
    flush::{After, Current, Head},
    head::Slot,
    keys::Keys,
    password::Password,
    secret::Secret,
    superblock::{Older, PAST_COUNT_MAX},
    vault::{Inner, Vault, blocking},
};

const OP: &str = "vault.rekey";

/// How far the replacing of a master key is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Packs that this call put under the new key, and deleted.
    pub packs: u64,
    /// Packs of data that are still under the older one.
    pub packs_left: u64,
    /// Whether everything is under the new key, and the older one is forgotten.
    pub is_done: bool,
}

impl Vault {
    /// Begins to replace the master key: what is put from now on is under a new one, which the same password opens. Everything
    /// else is put again by [`rekey_some`](Self::rekey_some), as often as it is called, today or after a crash. Whether it began;
    /// `false` where another one is under way.
    ///
    /// Whoever has the older key, and a copy of the store of before, has what was in it. Of what is there when all is done he
    /// can read nothing. But a head of then still opens with the password of then, so who has the key and keeps the store
    /// could pass off a vault of his own for this one, to somebody who remembers nothing: where the key is known by the
    /// password, [change that](Self::change_password) first.
    ///
    /// Durable when it returns. After an error that is not `BadKey` it may have begun: [`rekey_left`](Self::rekey_left) tells after
    /// the next flush.
    ///
    /// # Errors
    /// `BadKey` where it is another password; `Corrupt` where packs cannot be read; as [`flush`](muxfs::BlockStore::flush).
    pub async fn rekey(&self, password: &Password) -> Result<bool> {
        let (inner, password) = (Arc::clone(&self.inner), password.clone());
        detached(async move { inner.rekey(password).await }).await
    }

    /// How many packs of data are under a master key that is being replaced; `None` if none is.
    pub fn rekey_left(&self) -> Option<u64> {
        let (_, through) = self.inner.ring().older?;
        Some(self.inner.state().numbers_to(through).len() as u64)
    }

    /// Goes on with the replacing of the master key: puts about `len_max` bytes under the new one, a pack at least, and when
    /// nothing else is left forgets the older one. Durable when it returns; others read and write meanwhile.
    ///
    /// A pack that is damaged stays under the older key until the blocks are put again, or deleted, that are damaged in it.
    ///
    /// # Errors
    /// `Corrupt` where only packs are left that are damaged, or packs cannot be read at all; as
    /// [`flush`](muxfs::BlockStore::flush).
    pub async fn rekey_some(&self, len_max: u64) -> Result<Rekeyed> {
        let inner = Arc::clone(&self.inner);
        detached(async move { inner.rekey_some(len_max).await }).await
    }

    /// Has [`key`](Self::key) give others from now on: for what was sealed under those that somebody else may know. The ones of before
    /// are [`older_key`](Self::older_key) until they are forgotten. Whether it did; `false` where those of before are not
    /// forgotten yet. Durable when it returns.
    ///
    /// # Errors
    /// As [`change_password`](Self::change_password).
    pub async fn renew_key(&self) -> Result<bool> {
        let inner = Arc::clone(&self.inner);
        let renew = |next: &mut Current, drawn: Secret| {
            let superblock = &mut next.superblock;
            let is_settled = superblock.older_beside.is_none();
            if is_settled {
                superblock.older_beside = Some(std::mem::replace(&mut superblock.beside, drawn));
            }
            is_settled
        };
        detached(async move { inner.change_beside(renew).await }).await
    }

    /// Forgets what [`older_key`](Self::older_key) gives, when nothing is sealed under it any more. Whether there was one. Durable when
    /// it returns.
    ///
    /// # Errors
    /// As [`change_password`](Self::change_password).
    pub async fn forget_older_key(&self) -> Result<bool> {
        let inner = Arc::clone(&self.inner);
        let forget = |next: &mut Current, _: Secret| next.superblock.older_beside.take().is_some();
        detached(async move { inner.change_beside(forget).await }).await
    }
}

/// Goes on when its caller is dropped.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
}

impl Inner {
    async fn rekey(self: Arc<Self>, password: Password) -> Result<bool> {
        self.check_rekey()?;
        self.flush_detached().await?;
        let before = self.head.lock().await.current.slot.clone();
        let keys = Arc::new(Keys::new(self.cipher, Secret::draw(&self.place.env)));
        let (made_of, tried, env) = (Arc::clone(&keys), before.clone(), self.place.env.clone());
        let slot =
            blocking(move || tried.is_opened_by(&password).then(|| Slot::new(&made_of, &password, tried.cost(), &env)));
        let Some(slot) = slot.await? else {
            return Err(Error::new(ErrorKind::BadKey, OP).because("that is not the password of the vault"));
        };
        let mut head = self.head.lock().await;
        self.settle(&mut head).await?;
        if head.current.superblock.older.is_some() {
            return Ok(false);
        }
        if head.current.slot != before {
            return Err(Error::new(ErrorKind::Unavailable, OP).because("the password was changed meanwhile: try again"));
        }
        self.check_rekey()?;
        // Packs behind that wait: a crash is to leave none under a key that no head has.
        let through = self.state().hold(&self.place.env);
        let mut next = head.current.clone();
        let master = std::mem::replace(&mut next.ring.newest, keys);
        next.slot = slot;
        let superblock = &mut next.superblock;
        superblock.epoch += 1;
        superblock.past.push(master.id());
        let forgotten = superblock.past.len().saturating_sub(PAST_COUNT_MAX);
        superblock.past.drain(..forgotten);
        superblock.older = Some(Older { master: master.master().clone(), through, with_index: true });
        next.ring.older = Some((master, through));
        self.swap_held(&mut head, next).await?;
        drop(head);
        // Index and covers.
        self.flush_detached().await?;
        Ok(true)
    }

    /// Swaps while packs wait for what becomes of it.
    async fn swap_held(self: &Arc<Self>, head: &mut Head, next: Current) -> Result<()> {
        let swapped = self.swap(head, next, After::default()).await;
        if let Err(error) = &swapped {
            match self.settle(head).await {
                Ok(true) => {}
                // Also where it was not even tried.
                Ok(false) => {
                    self.state().release();
                    self.go_on();
                }
                Err(_) => {
                    self.state().fail_hold(error.into());
                    self.changed.send_modify(|count| *count += 1);
                }
            }
        }
        swapped
    }

    /// # Errors
    /// As [`check_writer`](Self::check_writer); `Corrupt` where nobody knows what some packs say, so that none is emptied.
    fn check_rekey(&self) -> Result<()> {
        self.check_writer()?;
        let unreadable = self.state().unreadable.len();
        if unreadable > 0 {
            let why = format!("{unreadable} packs cannot be read, so what they say cannot be put under another key");
            return Err(Error::new(ErrorKind::Corrupt, OP).because(why));
        }
        Ok(())
    }

    async fn rekey_some(self: Arc<Self>, len_max: u64) -> Result<Rekeyed> {
        self.check_writer()?;
        let through = {
            let mut head = self.head.lock().await;
            self.settle(&mut head).await?;
            match &head.current.superblock.older {
                None => return Ok(Rekeyed { is_done: true, ..Rekeyed::default() }),
                Some(older) => {
                    if older.with_index {
                        self.state().touch();
                    }
                    older.through
                }
            }
        };
        self.check_rekey()?;
        // So that what was put before it began is below.
        self.flush_detached().await?;
        let (mut done, mut damaged, mut first) = (Rekeyed::default(), 0, None);
        let count_max = (len_max / u64::from(self.pack_len)).max(1);
        let numbers = self.state().numbers_to(through);
        for number in numbers {
            if done.packs >= count_max {
                break;
            }
            match self.empty(number).await {
                Ok(true) => done.packs += 1,
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    damaged += 1;
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        self.flush_detached().await?;
        done.packs_left = self.state().numbers_to(through).len() as u64;
        match first {
            Some(first) if done.packs == 0 && done.packs_left == damaged => {
                let why = format!("{damaged} packs are damaged, and stay under the older key, the first: {first:#}");
                Err(Error::new(ErrorKind::Corrupt, OP).because(why))
            }
            _ => {
                if done.packs_left == 0 {
                    done.is_done = self.forget_older(through).await?;
                }
                Ok(done)
            }
        }
    }

    /// Deletes what is left in the store below under the older key, though nobody names it, and forgets that key; whether it did.
    async fn forget_older(self: &Arc<Self>, through: u64) -> Result<bool> {
        let mut head = self.head.lock().await;
        self.settle(&mut head).await?;
        let current = &head.current;
        let Some(older) = &current.superblock.older else { return Ok(true) };
        let names = current.names();
        if older.with_index || names.range(..=through).next().is_some() {
            return Ok(false);
        }
        self.check_version(&head).await?;
        let runs = head.current.runs.runs.iter().flat_map(|run| &run.objects);
        let known: HashSet<_> = names.values().chain(&head.current.superblock.covers).chain(runs).copied().collect();
        let strangers = self.strangers(&known).await?;
        for name in strangers.into_iter().filter(|(_, stranger)| stranger.is_older).map(|(name, _)| name) {
            self.place.blocks.delete(&Self::pack_key(&name)).await?;
        }
        self.place.blocks.flush().await?;
        let mut next = head.current.clone();
        next.superblock.epoch += 1;
        (next.superblock.older, next.ring.older) = (None, None);
        self.swap(&mut head, next, After::default()).await?;
        Ok(true)
    }

    /// Changes what keys are made of for what is beside the vault; what it tells is whether there is a change.
    async fn change_beside(self: Arc<Self>, change: impl FnOnce(&mut Current, Secret) -> bool + Send) -> Result<bool> {
        self.check_writer()?;
        let mut head = self.head.lock().await;
        self.settle(&mut head).await?;
        let mut next = head.current.clone();
        if !change(&mut next, Secret::draw(&self.place.env)) {
            return Ok(false);
        }
        let superblock = &mut next.superblock;
        superblock.epoch += 1;
        (next.ring.beside, next.ring.older_beside) = (superblock.beside.clone(), superblock.older_beside.clone());
        self.swap(&mut head, next, After::default()).await?;
        Ok(true)
    }
}
