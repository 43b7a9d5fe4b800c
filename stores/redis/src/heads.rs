//! Heads: a value each, that begins with its version and is swapped by a script.
//!
//! A version is a number, ascending with each swap of a name, and random bytes; so none comes twice, also where a server that
//! lost its last swaps has another one made in their place. A swap whose reply is lost is sent again until there is one: it
//! finds that it was done, or that it can never be.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use muxfs::{
    Error, ErrorKind, Name, Result,
    heads::{HEAD_LEN_MAX, Heads, Swap, Version},
};
use muxfs_zstor::resp::Reply;

use crate::{
    address::RedisAccess,
    connection::nonsense,
    script,
    store::{Inner, RedisStore},
};

/// How long a version is, in bytes: the number, and as much that is random.
const VERSION_LEN: usize = 16;
/// Behind it is a checksum.
const FRONT_LEN: usize = VERSION_LEN + 4;

/// A swap of which nobody was told.
#[derive(Debug)]
pub(crate) struct Unsettled {
    key: Bytes,
    expected: Bytes,
    version: Bytes,
    value: Bytes,
}

fn crc(name: &Name, version: &[u8], head: &[u8]) -> u32 {
    let front = crc32c::crc32c_append(crc32c::crc32c(name.as_bytes()), version);
    crc32c::crc32c_append(front, head)
}

impl Inner {
    fn head_key(&self, name: &Name) -> Bytes {
        [self.options.prefix.as_bytes(), b"h:", name.as_bytes()].concat().into()
    }

    /// Finds out what became of a swap that failed; `None` where there is none, else whether it was done.
    async fn settle(&self, unsettled: &mut Option<Unsettled>) -> Result<bool> {
        let Some(Unsettled { key, expected, version, value }) = &*unsettled else { return Ok(false) };
        let swap = script::swap(&self.keys.writer, self.epoch, key, expected.clone(), version.clone(), value.clone());
        let mut commands = vec![swap];
        commands.extend(self.sync_commands());
        let mut replied = self.link.ask(commands).await?;
        let done = match replied.next("EVAL") {
            Ok(Reply::Number(1)) => true,
            Ok(Reply::Number(0)) => false,
            Ok(Reply::Number(_)) => {
                // It is another's to know by now.
                *unsettled = None;
                return Err(self.fenced());
            }
            Ok(_) => return Err(nonsense("EVAL").at(self.options.place())),
            // The server did not do it, and may never.
            Err(error) => {
                if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::ReadOnly | ErrorKind::Denied) {
                    *unsettled = None;
                }
                return Err(error.at(self.options.place()));
            }
        };
        if done {
            self.check_synced(&mut replied)?;
        }
        *unsettled = None;
        Ok(done)
    }

    async fn swap(self: Arc<Self>, name: Name, expected: Option<Version>, head: Bytes) -> Result<Swap> {
        let mut unsettled = Arc::clone(&self.swapping).lock_owned().await;
        self.settle(&mut unsettled).await?;
        let mut number = [0; 8];
        if let Some(Version(expected)) = &expected {
            match expected.get(..8).filter(|_| expected.len() == VERSION_LEN) {
                Some(before) => number.copy_from_slice(before),
                // Nothing ever had it.
                None => return Ok(Swap::Lost),
            }
        }
        let Some(number) = u64::from_be_bytes(number).checked_add(1) else { return Ok(Swap::Lost) };
        let mut random = [0; 8];
        (self.env.fill)(&mut random);
        let version = Bytes::from([number.to_be_bytes(), random].concat());
        let mut value = BytesMut::with_capacity(FRONT_LEN + head.len());
        value.put(&version[..]);
        value.put_u32_le(crc(&name, &version, &head));
        value.put(head);
        let expected = expected.map(|version| version.0).unwrap_or_default();
        let value = value.freeze();
        *unsettled = Some(Unsettled { key: self.head_key(&name), expected, version: version.clone(), value });
        Ok(if self.settle(&mut unsettled).await? { Swap::Done(Version(version)) } else { Swap::Lost })
    }
}

#[async_trait]
impl Heads for RedisStore {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        let inner = &self.inner;
        let mut unsettled = inner.swapping.lock().await;
        inner.settle(&mut unsettled).await?;
        let mut commands = vec![vec!["GET".into(), inner.head_key(name)]];
        let writes = inner.options.access != RedisAccess::Look;
        if writes {
            commands.extend(inner.sync_commands());
        }
        let mut replied = inner.link.ask(commands).await?;
        let value = replied.next("GET").map_err(|error| error.at(inner.options.place()))?;
        if writes {
            inner.check_synced(&mut replied)?;
        }
        let mut value = match value {
            Reply::Bulk(value) => value,
            Reply::Nil => return Ok(None),
            _ => return Err(nonsense("GET").at(inner.options.place())),
        };
        if value.len() >= FRONT_LEN && value.len() <= FRONT_LEN + HEAD_LEN_MAX {
            let version = value.split_to(VERSION_LEN);
            if value.get_u32_le() == crc(name, &version, &value) {
                return Ok(Some((value, Version(version))));
            }
        }
        let why = "the head is not what was swapped";
        Err(Error::new(ErrorKind::Corrupt, "heads.load").at(inner.options.place()).because(why))
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        const OP: &str = "heads.swap";
        if head.len() > HEAD_LEN_MAX {
            let why = format!("a head has at most {HEAD_LEN_MAX} bytes");
            return Err(Error::new(ErrorKind::TooLarge, OP).because(why));
        }
        self.inner.check_writer(OP)?;
        // Not to stop half way when the caller is dropped.
        let work = Arc::clone(&self.inner).swap(name.clone(), expected.cloned(), head);
        tokio::spawn(work).await.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
    }
}
