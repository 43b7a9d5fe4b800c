//! Which prefix has which slot of the union's inode numbers: durable, and never given to another prefix.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::{
    Env, Error, ErrorKind, Prefix, Result,
    log::{Log, LogOptions},
    media::Media,
};

/// The version of the records.
const VERSION: u8 = 1;

/// The highest slot; 0 is the union's own.
pub const SLOT_MAX: u8 = u8::MAX;

/// A durable map from prefix to slot.
///
/// A slot is a mount's part of the union's inode numbers, so a client that keeps numbers (a backup, an indexer) meets the
/// same ones after mounts were added, removed or reordered. A prefix that was ever mounted keeps its slot.
pub struct Slots {
    log: Log,
    known: Mutex<BTreeMap<Prefix, u8>>,
    /// Whoever holds it appends.
    writer: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").field("known", &*self.known()).finish_non_exhaustive()
    }
}

impl Slots {
    /// Opens the slots that `media` holds; a new media holds none. One opener at a time: the caller sees to it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Prefix, media::MemMedia, vfs::union::Slots};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let media = Arc::new(MemMedia::default());
    /// let env = muxfs::testing::env();
    /// let slot = Slots::open(media.clone(), &env).await?.slot(Prefix::new("mem")?).await?;
    /// assert_eq!(Slots::open(media, &env).await?.slot(Prefix::new("mem")?).await?, slot);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for records of a newer version; `Io`.
    pub async fn open(media: Arc<dyn Media>, env: &Env) -> Result<Self> {
        let mut known = BTreeMap::new();
        let log = Log::open(media, LogOptions::new("slots", env), |_, record| {
            let (slot, prefix) = decode(&record.body)?;
            match known.insert(prefix, slot) {
                // Appended again by somebody who could not know that the first had reached the disk.
                Some(old) if old == slot => Ok(()),
                None if known.values().filter(|other| **other == slot).count() == 1 => Ok(()),
                _ => Err(corrupt("two prefixes in one slot, or one in two")),
            }
        })
        .await?;
        Ok(Self { log, known: Mutex::new(known), writer: tokio::sync::Mutex::default() })
    }

    /// The slot of a prefix, 1 to [`SLOT_MAX`]; a new one for a new prefix, durable when it returns.
    ///
    /// # Errors
    /// `Quota` when every slot was given away; `NoSpace`, `Io`.
    pub async fn slot(&self, prefix: Prefix) -> Result<u8> {
        let _writer = self.writer.lock().await;
        let (slot, new) = {
            let known = self.known();
            match known.get(&prefix) {
                Some(slot) => (*slot, false),
                None => (next_slot(&known)?, true),
            }
        };
        if new {
            // Known from the append on: a sync that failed may have written it.
            self.log.append(encode(slot, prefix)).await?;
            self.known().insert(prefix, slot);
        }
        self.log.sync().await?;
        Ok(slot)
    }

    /// Makes everything durable and waits for what goes on in the background: for a clean shutdown. Repeatable; a slot for
    /// a new prefix is `Unavailable` from here on.
    ///
    /// # Errors
    /// As [`Log::close`].
    pub async fn close(&self) -> Result<()> {
        let _writer = self.writer.lock().await;
        self.log.close().await
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Prefix, u8>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next_slot(known: &BTreeMap<Prefix, u8>) -> Result<u8> {
    let highest = known.values().copied().max().unwrap_or(0);
    highest.checked_add(1).ok_or_else(|| {
        Error::new(ErrorKind::Quota, "slots.slot")
            .because("255 prefixes were mounted over time: mount under one of those again")
    })
}

fn encode(slot: u8, prefix: Prefix) -> Bytes {
    [&[VERSION, slot], prefix.as_str().as_bytes()].concat().into()
}

fn decode(record: &[u8]) -> Result<(u8, Prefix)> {
    match record {
        [VERSION, slot, prefix @ ..] if *slot != 0 => {
            let text =
                std::str::from_utf8(prefix).map_err(|error| corrupt("a record without a prefix").because(error))?;
            let prefix = Prefix::new(text).map_err(|error| corrupt("a record without a prefix").because(error))?;
            Ok((*slot, prefix))
        }
        [version, ..] if *version > VERSION => Err(Error::new(ErrorKind::Unsupported, "slots.open").because(format!(
            "the slots were written by a newer MuxFS (version {version} of their records, this one reads {VERSION})"
        ))),
        _ => Err(corrupt("a record of no known kind")),
    }
}

fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "slots.open").because(why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{media::MemMedia, testing::env};

    fn prefix(text: &str) -> Prefix {
        Prefix::new(text).expect("a good prefix")
    }

    #[tokio::test]
    async fn a_slot_is_kept_and_never_reused() {
        let media = Arc::new(MemMedia::default());
        let slots = Slots::open(media.clone(), &env()).await.expect("open");
        assert_eq!(slots.slot(prefix("mem")).await.expect("slot"), 1);
        assert_eq!(slots.slot(prefix("ipfs")).await.expect("slot"), 2);
        assert_eq!(slots.slot(prefix("mem")).await.expect("slot"), 1);
        drop(slots);
        let slots = Slots::open(media, &env()).await.expect("open again");
        assert_eq!(slots.slot(prefix("local")).await.expect("slot"), 3);
        assert_eq!(slots.slot(prefix("ipfs")).await.expect("slot"), 2);
    }

    /// A clean shutdown leaves a log of which not even the last record can be lost unseen, and takes no more.
    #[tokio::test]
    async fn closed_slots_give_out_no_new_ones() {
        let media = Arc::new(MemMedia::default());
        let slots = Slots::open(media.clone(), &env()).await.expect("open");
        assert_eq!(slots.slot(prefix("mem")).await.expect("slot"), 1);
        for _ in 0..2 {
            slots.close().await.expect("close");
        }
        let error = slots.slot(prefix("ipfs")).await.expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let slots = Slots::open(media, &env()).await.expect("open again");
        assert_eq!(slots.slot(prefix("mem")).await.expect("slot"), 1);
    }

    #[tokio::test]
    async fn slots_run_out() {
        let slots = Slots::open(Arc::new(MemMedia::default()), &env()).await.expect("open");
        for number in 1..=255 {
            assert_eq!(slots.slot(prefix(&format!("p{number}"))).await.expect("slot"), number);
        }
        assert_eq!(slots.slot(prefix("more")).await.expect_err("none is left").kind(), ErrorKind::Quota);
        assert_eq!(slots.slot(prefix("p7")).await.expect("an old one"), 7);
    }

    #[tokio::test]
    async fn records_that_are_bad_or_newer_are_refused() {
        let cases: [(&[&[u8]], ErrorKind); 7] = [
            (&[b""], ErrorKind::Corrupt),
            (&[b"\x01"], ErrorKind::Corrupt),
            (&[b"\x01\x00mem"], ErrorKind::Corrupt),
            (&[b"\x01\x01MEM"], ErrorKind::Corrupt),
            (&[b"\x02\x01mem"], ErrorKind::Unsupported),
            (&[b"\x01\x01mem", b"\x01\x01ipfs"], ErrorKind::Corrupt),
            (&[b"\x01\x01mem", b"\x01\x02mem"], ErrorKind::Corrupt),
        ];
        for (records, kind) in cases {
            let media = Arc::new(MemMedia::default());
            let log = Log::open(media.clone(), LogOptions::new("slots", &env()), |_, _| Ok(())).await.expect("open");
            for record in records {
                log.append(Bytes::from_static(record)).await.expect("append");
            }
            log.sync().await.expect("sync");
            assert_eq!(Slots::open(media, &env()).await.expect_err("refused").kind(), kind, "{records:?}");
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back(slot in 1u8.., text in "[a-z][a-z0-9]{0,4}") {
            prop_assert_eq!(decode(&encode(slot, prefix(&text))).expect("its own"), (slot, prefix(&text)));
        }

        /// Bytes of any kind are refused or are a record; none panics.
        #[test]
        fn any_bytes_are_refused_or_printed_back(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok((slot, prefix)) = decode(&bytes) {
                prop_assert_eq!(&encode(slot, prefix)[..], &bytes[..]);
            }
        }
    }
}
