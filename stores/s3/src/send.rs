//! How packs get into the bucket: each under its number, which no other has, several at once, and each counts when all before it are
//! there.
//!
//! What an attempt did whose answer was lost is told by the random bytes in what has the number. Spec: spec/s3-store.md #packs.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use muxfs::{Error, ErrorKind, Result};
use object_store::PutPayload;

use crate::{
    bucket::{Put, When},
    fence::Fence,
    log::{Failure, Sending},
    pack::{PackId, TRAILER_LEN, Trailer, object_name},
    store::Inner,
};

/// So many packs are on their way at once; whoever puts more waits.
const SENDING_COUNT_MAX: usize = 4;
/// A number that is taken by what counts for nothing is taken over; so often it is tried.
const PLACE_COUNT_MAX: usize = 8;

impl Inner {
    /// Seals what is open, if there is something; the number of the last pack there is.
    ///
    /// # Errors
    /// As `check_open`, where there is something.
    pub(crate) fn seal(self: &Arc<Self>) -> Result<u64> {
        let nonce = self.nonce();
        let (sealed, last) = {
            let mut log = self.log();
            if !log.open.is_empty() {
                self.check_open(&log)?;
            }
            let sealed = log.seal(nonce, false);
            (sealed, log.next() - 1)
        };
        if let Some(number) = sealed {
            self.send(number);
        }
        Ok(last)
    }

    pub(crate) fn seal_if_full(self: &Arc<Self>) -> Result<()> {
        if self.log().open.len() >= self.options.pack_len { self.seal().map(drop) } else { Ok(()) }
    }

    /// Waits until one more pack may be sent.
    pub(crate) async fn room(self: &Arc<Self>) -> Result<()> {
        self.check_writer()?;
        let oldest = {
            let log = self.log();
            if log.sealed.len() < SENDING_COUNT_MAX {
                return Ok(());
            }
            log.sealed.first_key_value().map_or(0, |(number, _)| *number)
        };
        self.sent(oldest).await
    }

    /// Waits until a pack counts; what could not be put before is tried again.
    ///
    /// # Errors
    /// Those of the bucket; `Denied` when another has taken over.
    pub(crate) async fn sent(self: &Arc<Self>, number: u64) -> Result<()> {
        let mut changed = self.changed.subscribe();
        let failed: Vec<u64> = {
            let mut log = self.log();
            let is_closed = log.closed;
            let failed =
                log.sealed.range_mut(..=number).filter(|(_, sealed)| matches!(sealed.sending, Sending::Failed(_)));
            failed
                .filter(|_| !is_closed)
                .map(|(number, sealed)| {
                    sealed.sending = Sending::Going;
                    *number
                })
                .collect()
        };
        for number in failed {
            self.send(number);
        }
        loop {
            changed.borrow_and_update();
            {
                let log = self.log();
                if log.tail >= number {
                    return Ok(());
                }
                if let Some(why) = &log.fenced {
                    return Err(self.fenced(why));
                }
                let mut sending = log.sealed.range(..=number).map(|(_, sealed)| &sealed.sending);
                if let Some(Sending::Failed(failure)) = sending.find(|sending| matches!(sending, Sending::Failed(_))) {
                    return Err(failure.clone().into());
                }
            }
            if changed.changed().await.is_err() {
                return Err(Error::new(ErrorKind::Internal, "s3.sync"));
            }
        }
    }

    /// Puts a sealed pack, whoever waits for it.
    pub(crate) fn send(self: &Arc<Self>, number: u64) {
        let sealed = self.log().sealed.get(&number).map(|sealed| (sealed.index.id, sealed.payload.clone()));
        let Some((id, payload)) = sealed else { return };
        let inner = Arc::clone(self);
        drop(self.tasks.spawn(async move {
            // Who waits is told whatever happens.
            let placed = AssertUnwindSafe(inner.place(id, &payload)).catch_unwind().await.unwrap_or_else(|_| {
                let why = "the client of the bucket panicked";
                Err(inner.bucket.error(ErrorKind::Internal, "s3.put", &object_name(number)).because(why))
            });
            let counting = {
                let mut log = inner.log();
                if let Err(error) = &placed
                    && error.kind() == ErrorKind::Denied
                    && error.op() == "s3.write"
                {
                    log.fenced = std::error::Error::source(error).map(ToString::to_string);
                }
                log.sent(number, placed.map_err(|error| Failure::from(&error)))
            };
            inner.changed.send_modify(|count| *count += 1);
            if !counting.is_empty() {
                if let Some(kept) = &inner.kept {
                    kept.put(counting).await;
                }
                inner.look_after_itself();
            }
        }));
    }

    /// Puts a pack under its number, which no other has.
    async fn place(&self, id: PackId, payload: &PutPayload) -> Result<()> {
        let (name, mut when) = (object_name(id.number), When::Absent);
        for _ in 0..PLACE_COUNT_MAX {
            if let Put::Done(_) = self.bucket.put_if(&name, payload, when.clone()).await? {
                return Ok(());
            }
            when = match self.whose(id.number).await? {
                None => When::Absent,
                Some((there, _)) if there == id => return Ok(()),
                // Its writer was passed over before it was there.
                Some((there, tag)) if there.epoch < id.epoch => When::Is(tag),
                Some(_) => return Err(self.passed_over().await),
            };
        }
        Err(self.bucket.error(ErrorKind::Unavailable, "s3.put", &name).because("others write there at the same time"))
    }

    /// Which pack has a number, and its tag.
    pub(crate) async fn whose(&self, number: u64) -> Result<Option<(PackId, Option<String>)>> {
        let name = object_name(number);
        let Some(end) = self.bucket.get_end(&name, TRAILER_LEN as u64).await? else { return Ok(None) };
        let trailer =
            Trailer::decode(&end.bytes).map_err(|error| error.at(format!("{}/{name}", self.bucket.place())))?;
        Ok(Some((trailer.id, end.tag)))
    }

    /// The error of a writer that is one no more.
    pub(crate) async fn passed_over(&self) -> Error {
        let holder = match Fence::load(&self.bucket).await {
            Ok(Some((fence, _))) => fence.holder(self.bucket.env()),
            Ok(None) | Err(_) => "another machine".into(),
        };
        self.fenced(&passed_over_by(&holder))
    }

    /// Finds out whether another has taken over while nothing was written here.
    pub(crate) async fn look_at_fence(&self) -> Result<()> {
        let mine = self.fence.lock().await.as_ref().map(|(fence, _)| fence.epoch);
        let there = Fence::load(&self.bucket).await?.map(|(fence, _)| fence);
        if let (Some(mine), Some(there)) = (mine, there)
            && there.epoch > mine
        {
            let why = passed_over_by(&there.holder(self.bucket.env()));
            let mut log = self.log();
            if !log.closed {
                log.fenced.get_or_insert(why);
                drop(log);
                self.changed.send_modify(|count| *count += 1);
            }
        }
        Ok(())
    }
}

fn passed_over_by(holder: &str) -> String {
    format!("{holder} has taken over the writing: nothing can be written from here until it is opened again")
}
