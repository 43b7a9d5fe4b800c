//! Putting a block: cut, what is there already left out, the rest compressed, and all of it noted at once.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use muxfs::{BlockKey, Error, ErrorKind, Result};

use crate::{
    keys::{PackName, PieceId},
    state::{Content, Failure, Kept, Sending},
    vault::{Inner, blocking},
};

/// Blocks up to this are taken apart where they are put, in bytes: another thread would take longer to begin.
const INLINE_LEN_MAX: usize = 16 << 10;

impl Inner {
    /// Visible when it returns, whole or not at all.
    ///
    /// # Errors
    /// Why packs cannot be put into the store below.
    pub(crate) async fn put(self: &Arc<Self>, key: &BlockKey, block: Bytes) -> Result<()> {
        let permit = Arc::clone(&self.putting).acquire_owned().await;
        let permit = permit.map_err(|error| Error::new(ErrorKind::Internal, "vault.put").because(error))?;
        self.room().await?;
        if self.state().is_sure_of(key) {
            return Ok(());
        }
        // As long as whoever asked waits: what a thread adds after that could undo what is asked for later.
        let caller = Arc::new(());
        if block.len() <= INLINE_LEN_MAX {
            self.add(key, &block, &Arc::downgrade(&caller));
        } else {
            let (inner, key, caller) = (Arc::clone(self), key.clone(), Arc::downgrade(&caller));
            blocking(move || {
                inner.add(&key, &block, &caller);
                drop(permit);
            })
            .await?;
        }
        self.send_waiting();
        Ok(())
    }

    /// Adds a block, unless its caller is gone by then.
    fn add(&self, key: &BlockKey, block: &Bytes, caller: &Weak<()>) {
        let pieces: Vec<(PieceId, &[u8])> = self
            .cutter
            .cut(block)
            .filter_map(|range| block.get(range))
            .map(|bytes| (self.piece_id(bytes), bytes))
            .collect();
        let mut kept: HashMap<PieceId, Kept> = HashMap::new();
        loop {
            let missing: Vec<_> = {
                let mut state = self.state();
                if caller.strong_count() == 0 {
                    return;
                }
                // A piece that was there at first may be gone by now, with the pack that had it.
                let missing = pieces.iter().filter(|(id, _)| !state.has_piece(id) && !kept.contains_key(id));
                let missing: Vec<_> = missing.copied().collect();
                if missing.is_empty() {
                    if !state.is_sure_of(key) {
                        let mut added = HashSet::new();
                        for (id, _) in &pieces {
                            if let Some(kept) = kept.get(id).filter(|_| !state.has_piece(id) && added.insert(*id)) {
                                state.add_piece(kept, &self.place.env);
                            }
                        }
                        let ids = pieces.iter().map(|(id, _)| *id).collect();
                        let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
                        state.add_block(key, len, ids, &self.place.env);
                    }
                    return;
                }
                missing
            };
            for (id, bytes) in missing {
                let (how, shrunk) = self.shrinker.shrink(bytes);
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let bytes = match shrunk {
                    Cow::Borrowed(bytes) => block.slice_ref(bytes),
                    Cow::Owned(bytes) => bytes.into(),
                };
                kept.insert(id, Kept { id, how, len, bytes });
            }
        }
    }

    /// Puts full packs that nobody puts yet, whoever waits for them.
    pub(crate) fn send_waiting(self: &Arc<Self>) {
        let waiting: Vec<_> = {
            let mut state = self.state();
            let held: Vec<u64> = state.sealed.keys().copied().filter(|number| state.is_held(*number)).collect();
            let waiting = state.sealed.iter_mut().filter(|(_, sealed)| matches!(sealed.sending, Sending::Waiting));
            waiting
                .filter(|(number, _)| !held.contains(number))
                .map(|(number, sealed)| {
                    sealed.sending = Sending::Going;
                    (*number, sealed.name, sealed.epoch, sealed.content.clone())
                })
                .collect()
        };
        for (number, name, epoch, content) in waiting {
            let sender = Sender { inner: Arc::clone(self), number, is_done: false };
            drop(tokio::spawn(sender.send(name, epoch, content)));
        }
    }

    /// Waits until all full packs up to a number are in the store below; what could not be put before is tried again.
    ///
    /// # Errors
    /// Those of the store below.
    pub(crate) async fn sent(self: &Arc<Self>, through: u64) -> Result<()> {
        let mut changed = self.changed.subscribe();
        for (_, sealed) in self.state().sealed.range_mut(..=through) {
            if matches!(sealed.sending, Sending::Failed(_)) {
                sealed.sending = Sending::Waiting;
            }
        }
        self.send_waiting();
        loop {
            changed.borrow_and_update();
            {
                let state = self.state();
                let mut going = state.sealed.range(..=through).map(|(_, sealed)| &sealed.sending).peekable();
                if going.peek().is_none() {
                    return Ok(());
                }
                if let Some(Sending::Failed(failure)) = going.find(|sending| matches!(sending, Sending::Failed(_))) {
                    return Err(failure.clone().into());
                }
                if let Some(failure) = state.held_up(through) {
                    return Err(failure.into());
                }
            }
            // Its sender is in here, so it never ends.
            changed.changed().await.ok();
        }
    }

    pub(crate) async fn put_object(&self, name: &PackName, pack: Bytes) -> Result<()> {
        self.place.blocks.put(&Self::pack_key(name), pack).await
    }
}

/// Whoever puts a full pack. Where it is dropped before its end, with its runtime or by a panic, others learn of it and try again.
struct Sender {
    inner: Arc<Inner>,
    number: u64,
    is_done: bool,
}

impl Sender {
    async fn send(mut self, name: PackName, epoch: u64, content: Content) {
        let sent = self.try_send(&name, epoch, content).await;
        self.end(sent.map_err(|error| Failure::from(&error)));
    }

    async fn try_send(&self, name: &PackName, epoch: u64, content: Content) -> Result<()> {
        let inner = &self.inner;
        let pack = match content {
            Content::Encrypted(pack) => pack,
            Content::Filled(pack) => {
                let (sealing, name) = (Arc::clone(inner), *name);
                let sealed = blocking(move || pack.seal(&sealing.keys_of(pack.number), &name, epoch, sealing.pack_len))
                    .await??;
                if let Some(pack) = inner.state().sealed.get_mut(&self.number) {
                    pack.content = Content::Encrypted(sealed.clone());
                }
                sealed
            }
        };
        inner.put_object(name, pack).await
    }

    fn end(&mut self, sent: std::result::Result<(), Failure>) {
        self.is_done = true;
        {
            let mut state = self.inner.state();
            match sent {
                Ok(()) => state.sent(self.number),
                Err(failure) => {
                    if let Some(sealed) = state.sealed.get_mut(&self.number) {
                        sealed.sending = Sending::Failed(failure);
                    }
                }
            }
        }
        self.inner.changed.send_modify(|count| *count += 1);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.is_done {
            self.end(Err(Failure::cut_off()));
        }
    }
}
