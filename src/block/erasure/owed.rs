//! The owed log: what nodes that were away are to be given, for the time after a restart.
//!
//! Shards that a put stored without a node, and deletions that a node missed, each by the name of the node. A shard that is
//! owed and forgotten leaves a block that outlives fewer losses, until a scrub finds it. A deletion that is forgotten would
//! bring back what is gone; so it is in the log before it is acknowledged, and a put of the same block ends it there before
//! it goes on. Spec: spec/erasure.md, "The owed log".

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};

use crate::{
    BlockKey, Env, Error, ErrorKind, Result,
    log::{Log, LogOptions, Record},
    media::Media,
};

/// The log is written anew when it has so many records more than twice those that count.
const OUTDATED_COUNT_MAX: usize = 1024;

/// What a record says of a block and a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Debt {
    /// The node is to be given its shard.
    Shard = 1,
    /// The node is to delete what it has.
    Deletion = 2,
    /// It need not any more.
    NoDeletion = 3,
}

impl Debt {
    fn parse(byte: u8) -> Option<Self> {
        [Self::Shard, Self::Deletion, Self::NoDeletion].into_iter().find(|debt| *debt as u8 == byte)
    }

    pub(super) fn record(self, node: &str, key: &BlockKey) -> Record {
        let mut record = BytesMut::with_capacity(2 + key.as_bytes().len() + node.len());
        record.put_u8(self as u8);
        // A key is not longer.
        record.put_u8(u8::try_from(key.as_bytes().len()).unwrap_or(u8::MAX));
        record.put_slice(key.as_bytes());
        record.put_slice(node.as_bytes());
        record.freeze().into()
    }
}

/// A log of [`Debt`]s.
#[derive(Debug)]
pub(super) struct OwedLog {
    log: Log,
    /// How many records it has.
    count: usize,
}

impl OwedLog {
    /// Opens it, and tells `each` what it says.
    pub(super) async fn open(
        media: Arc<dyn Media>,
        env: &Env,
        mut each: impl FnMut(Debt, &str, BlockKey) + Send,
    ) -> Result<Self> {
        let mut count = 0;
        let log = Log::open(media, LogOptions::new("owed", env), |pos, record| {
            count += 1;
            let Some((debt, node, key)) = decode(&record.body) else {
                return Err(Error::new(ErrorKind::Corrupt, "erasure.open").at(pos).because("the record is no debt"));
            };
            each(debt, node, key);
            Ok(())
        })
        .await?;
        Ok(Self { log, count })
    }

    /// What makes it durable; the log need not be held for it.
    pub(super) fn log(&self) -> Log {
        self.log.clone()
    }

    pub(super) async fn append(&mut self, record: Record) -> Result<()> {
        self.log.append(record).await?;
        self.count += 1;
        Ok(())
    }

    /// Whether so much of it is outdated that it is to be written anew, with so many records.
    pub(super) fn is_outdated(&self, live_count: usize) -> bool {
        self.count > 2 * live_count + OUTDATED_COUNT_MAX || (live_count == 0 && self.count > 0)
    }

    /// Replaces all that it says by this.
    pub(super) async fn rewrite(&mut self, records: Vec<Record>) -> Result<()> {
        let count = records.len();
        self.log.checkpoint(records).await?;
        self.count = count;
        Ok(())
    }
}

fn decode(mut bytes: &[u8]) -> Option<(Debt, &str, BlockKey)> {
    let debt = Debt::parse(bytes.try_get_u8().ok()?)?;
    let key_len = bytes.try_get_u8().ok()?;
    let (key, node) = bytes.split_at_checked(key_len.into())?;
    Some((debt, std::str::from_utf8(node).ok()?, BlockKey::new(key).ok()?))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{media::MemMedia, testing::env};

    #[tokio::test]
    async fn what_is_no_debt_is_refused() {
        for bad in [&b""[..], b"\x01", b"\x04\x01kn", b"\x00\x01kn", b"\x01\x00n", b"\x01\x05kn", b"\x01\x01k\xff"] {
            let media = Arc::new(MemMedia::default());
            let log = Log::open(media.clone(), LogOptions::new("owed", &env()), |_, _| Ok(())).await.expect("open");
            log.append(Bytes::from(bad)).await.expect("append");
            log.close().await.expect("close");
            let error = OwedLog::open(media, &env(), |_, _, _| panic!("{bad:?}")).await.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }
}
