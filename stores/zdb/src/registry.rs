//! The list of namespaces: names, settings, and where each one is. Spec: spec/zdb.md, "The list of namespaces".
//!
//! A log of its own, small enough to be read whole. A namespace has a number, which is never given twice, and is where its
//! media are; a namespace that is emptied gets another one, so that emptying is one record. A number is taken, durably, before anything
//! is made under it: what stands under one that was taken and belongs to no namespace is left over from a crash.
//!
//! ```text
//! take      1, number u64
//! make      2, number u64, settings, name
//! set       3, number u64, settings
//! replace   4, number u64, the new number u64, settings
//! remove    5, number u64
//!
//! settings  flags u8 (1 public, 2 worm, 4 sequential, 8 locked, 16 frozen, 32 history, 64 password), maxsize u64,
//!           length of the password u16, password
//! ```

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use muxfs::{
    Env, Error, ErrorKind, Result,
    log::{Log, LogOptions, Record},
    media::Media,
};

use crate::{
    NAME_LEN_MAX,
    settings::{Mode, Settings},
};

const KIND: &str = "zdbnames";
/// The log is written anew, shorter, when it is opened and longer than this, in bytes.
const CHECKPOINT_LEN: u64 = 1 << 20;

/// A namespace in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) settings: Settings,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Take(u64),
    Make(Named),
    Set(u64, Settings),
    Replace(u64, u64, Settings),
    Remove(u64),
}

/// What the records amount to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    /// In the order in which they were made.
    named: Vec<Named>,
    /// Above every number that was taken.
    next: u64,
}

/// The list of namespaces.
#[derive(Debug)]
pub(crate) struct Registry {
    log: Log,
    names: Names,
}

impl Registry {
    pub(crate) async fn open(media: Arc<dyn Media>, env: &Env) -> Result<Self> {
        let mut names = Names::default();
        let log = Log::open(media, LogOptions::new(KIND, env), |pos, record| {
            let change = Change::decode(record.body).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "zdb.open").at(pos).because("the record is none of a list of namespaces")
            })?;
            names.apply(change);
            Ok(())
        });
        let log = log.await?;
        let registry = Self { log, names };
        if registry.log.media_len().await? > CHECKPOINT_LEN {
            registry.log.checkpoint(registry.names.records()).await?;
        }
        Ok(registry)
    }

    /// In the order in which they were made.
    pub(crate) fn named(&self) -> &[Named] {
        &self.names.named
    }

    /// Above every number that was taken.
    pub(crate) fn next(&self) -> u64 {
        self.names.next
    }

    /// Takes a number that nothing has; `others` are what is there, whoever put it there.
    pub(crate) async fn take(&mut self, others: &[u64]) -> Result<u64> {
        let number = others.last().map_or(self.names.next, |last| self.names.next.max(last.saturating_add(1)));
        self.write(Change::Take(number)).await?;
        Ok(number)
    }

    /// Makes a change, durably; after an error it is not made.
    pub(crate) async fn write(&mut self, change: Change) -> Result<()> {
        self.log.append(change.encode()).await?;
        self.log.sync().await?;
        self.names.apply(change);
        Ok(())
    }

    pub(crate) async fn close(&self) -> Result<()> {
        self.log.close().await
    }
}

impl Names {
    fn apply(&mut self, change: Change) {
        let (Change::Take(number)
        | Change::Make(Named { number, .. })
        | Change::Set(number, _)
        | Change::Replace(_, number, _)
        | Change::Remove(number)) = change;
        self.next = self.next.max(number.saturating_add(1));
        match change {
            Change::Take(_) => {}
            Change::Make(named) => self.named.push(named),
            Change::Set(number, settings) => {
                self.named.iter_mut().filter(|named| named.number == number).for_each(|named| {
                    named.settings = settings.clone();
                });
            }
            Change::Replace(old, number, settings) => {
                self.named.iter_mut().filter(|named| named.number == old).for_each(|named| {
                    *named = Named { number, name: std::mem::take(&mut named.name), settings: settings.clone() };
                });
            }
            Change::Remove(number) => self.named.retain(|named| named.number != number),
        }
    }

    /// Records that say all this.
    fn records(&self) -> Vec<Record> {
        let last = self.next.checked_sub(1).map(Change::Take);
        let made = self.named.iter().cloned().map(Change::Make);
        last.into_iter().chain(made).map(|change| change.encode().into()).collect()
    }
}

impl Change {
    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        match self {
            Self::Take(number) => put(&mut bytes, 1, *number),
            Self::Make(named) => {
                put(&mut bytes, 2, named.number);
                put_settings(&mut bytes, &named.settings);
                bytes.put_slice(named.name.as_bytes());
            }
            Self::Set(number, settings) => {
                put(&mut bytes, 3, *number);
                put_settings(&mut bytes, settings);
            }
            Self::Replace(old, number, settings) => {
                put(&mut bytes, 4, *old);
                bytes.put_u64_le(*number);
                put_settings(&mut bytes, settings);
            }
            Self::Remove(number) => put(&mut bytes, 5, *number),
        }
        bytes.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        let kind = bytes.try_get_u8().ok()?;
        let number = bytes.try_get_u64_le().ok()?;
        let change = match kind {
            1 => Self::Take(number),
            2 => {
                let settings = get_settings(&mut bytes)?;
                let name = String::from_utf8(bytes.split_to(bytes.len()).to_vec()).ok()?;
                if name.is_empty() || name.len() > NAME_LEN_MAX {
                    return None;
                }
                Self::Make(Named { number, name, settings })
            }
            3 => Self::Set(number, get_settings(&mut bytes)?),
            4 => {
                let new = bytes.try_get_u64_le().ok()?;
                Self::Replace(number, new, get_settings(&mut bytes)?)
            }
            5 => Self::Remove(number),
            _ => return None,
        };
        bytes.is_empty().then_some(change)
    }
}

fn put(bytes: &mut BytesMut, kind: u8, number: u64) {
    bytes.put_u8(kind);
    bytes.put_u64_le(number);
}

fn put_settings(bytes: &mut BytesMut, settings: &Settings) {
    let flags = [
        settings.public,
        settings.worm,
        settings.mode == Mode::Sequential,
        settings.locked,
        settings.frozen,
        settings.history,
        settings.password.is_some(),
    ];
    bytes.put_u8(flags.into_iter().enumerate().map(|(bit, on)| u8::from(on) << bit).sum());
    bytes.put_u64_le(settings.maxsize);
    let password = settings.password.as_deref().unwrap_or_default();
    let len = password.len().min(u16::MAX.into());
    bytes.put_u16_le(u16::try_from(len).unwrap_or(u16::MAX));
    bytes.put_slice(password.get(..len).unwrap_or_default());
}

fn get_settings(bytes: &mut Bytes) -> Option<Settings> {
    let flags = bytes.try_get_u8().ok()?;
    let maxsize = bytes.try_get_u64_le().ok()?;
    let len = usize::from(bytes.try_get_u16_le().ok()?);
    let password = (len <= bytes.len()).then(|| bytes.split_to(len))?;
    let has = |bit: u8| flags & 1 << bit != 0;
    Some(Settings {
        password: has(6).then_some(password),
        public: has(0),
        maxsize,
        worm: has(1),
        mode: if has(2) { Mode::Sequential } else { Mode::User },
        locked: has(3),
        frozen: has(4),
        history: has(5),
    })
}

#[cfg(test)]
mod tests {
    use muxfs::media::MemMedia;

    use super::*;

    fn named(number: u64, name: &str) -> Named {
        let settings =
            Settings { password: Some("secret".into()), maxsize: 9, worm: true, ..Settings::new(Mode::User) };
        Named { number, name: name.into(), settings }
    }

    #[test]
    fn a_change_is_read_as_it_was_written() {
        let settings = named(1, "x").settings;
        let open = Settings { frozen: true, locked: true, history: false, ..Settings::new(Mode::Sequential) };
        for change in [
            Change::Take(7),
            Change::Make(named(7, "name")),
            Change::Set(7, open),
            Change::Replace(7, 8, settings),
            Change::Remove(8),
        ] {
            let bytes = change.encode();
            assert_eq!(Change::decode(bytes.clone()), Some(change.clone()));
            for len in 0..bytes.len().min(20) {
                // A name may be any part of itself.
                assert_ne!(Change::decode(bytes.slice(..len)), Some(change.clone()));
            }
        }
    }

    #[tokio::test]
    async fn the_list_is_there_when_it_is_opened_again() -> Result<()> {
        let (media, env) = (Arc::new(MemMedia::default()), muxfs::testing::env());
        let mut registry = Registry::open(media.clone(), &env).await?;
        for name in ["default", "a", "b"] {
            let number = registry.take(&[]).await?;
            registry.write(Change::Make(named(number, name))).await?;
        }
        registry.write(Change::Remove(1)).await?;
        let number = registry.take(&[40]).await?;
        assert_eq!(number, 41);
        registry.write(Change::Replace(2, number, Settings::new(Mode::Sequential))).await?;
        let names: Vec<_> = registry.named().iter().map(|named| (named.number, named.name.clone())).collect();
        assert_eq!(names, [(0, "default".into()), (41, "b".into())]);
        let before = registry.names;
        let registry = Registry::open(media.clone(), &env).await?;
        assert_eq!(registry.names, before);
        registry.log.checkpoint(registry.names.records()).await?;
        assert_eq!(Registry::open(media, &env).await?.names, before);
        Ok(())
    }
}
