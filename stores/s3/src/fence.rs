//! The fence: the one object that is written over, and who wrote it last is the writer of the store.
//!
//! It says who that is, in which epoch, and a pack from which on no object was deleted: from there the newest is found by asking
//! for one number after the other, so nothing depends on what a listing shows. Spec: spec/s3-store.md #fence.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use muxfs::{Env, Error, ErrorKind, Result};
use object_store::PutPayload;
use serde::{Deserialize, Serialize};

use crate::{
    bucket::{Bucket, Put, When},
    pack::NUMBER_MAX,
};

/// The name of its object.
pub(crate) const NAME: &str = "fence";
/// Where an opening tries the server.
pub(crate) const PROBES: &str = "probes";
/// What is longer is no fence, in bytes.
const LEN_MAX: u64 = 4096;
const VERSION: u32 = 1;
/// So many characters of the name of a machine are told.
const HOST_LEN_MAX: usize = 60;

/// What the fence says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fence {
    pub(crate) v: u32,
    /// Tells stores apart, in hexadecimal digits.
    pub(crate) store: String,
    /// Ascends with each writer.
    pub(crate) epoch: u64,
    /// The first of the epochs that were all of this writer: what it kept before that elsewhere is of a state that went on without it.
    pub(crate) since: u64,
    /// Who the writer is: the same after a restart.
    pub(crate) writer: String,
    /// The machine it is on, and the seconds since 1970 when it wrote this: for messages.
    pub(crate) host: String,
    pub(crate) time: u64,
    /// Whether it has ended.
    pub(crate) ended: bool,
    /// A pack that counts; it and all packs after it are there. 0 while there is none.
    pub(crate) tail: u64,
    /// Different each time, so that no two have the same tag.
    pub(crate) nonce: String,
}

impl Fence {
    /// The first one of a store.
    pub(crate) fn new(writer: &str, host: &str, env: &Env) -> Self {
        let (store, nonce, time) = (env.random_id(), env.random_id(), now(env));
        let (writer, host) = (writer.to_owned(), host.to_owned());
        Self { v: VERSION, store, epoch: 1, since: 1, writer, host, time, ended: false, tail: 0, nonce }
    }

    /// The first one of the next epoch.
    pub(crate) fn claimed(&self, writer: &str, host: &str, env: &Env) -> Self {
        let epoch = self.epoch + 1;
        let since = if self.writer == writer { self.since } else { epoch };
        Self { epoch, since, ..self.next(writer, host, env) }
    }

    /// The next one of the same writer.
    pub(crate) fn next(&self, writer: &str, host: &str, env: &Env) -> Self {
        let (writer, host, nonce, time) = (writer.to_owned(), host.to_owned(), env.random_id(), now(env));
        Self { writer, host, time, nonce, ended: false, ..self.clone() }
    }

    /// The fence of a bucket and its tag; `None` if there is none.
    ///
    /// # Errors
    /// Those of the bucket; `Corrupt` where something else is in its place, `Unsupported` of a newer version.
    pub(crate) async fn load(bucket: &Bucket) -> Result<Option<(Self, Option<String>)>> {
        let Some(found) = bucket.get_short(NAME, LEN_MAX).await? else { return Ok(None) };
        let bad = |why: String| bucket.error(ErrorKind::Corrupt, "s3.fence", NAME).because(why);
        if found.len > LEN_MAX {
            return Err(bad("something else is in its place".into()));
        }
        let fence: Self = serde_json::from_slice(&found.bytes).map_err(|error| bad(error.to_string()))?;
        if fence.v != VERSION {
            let why = format!("a fence of version {}, and this program knows {VERSION}", fence.v);
            return Err(bucket.error(ErrorKind::Unsupported, "s3.fence", NAME).because(why));
        }
        // It is in the names of files on this machine, and each of them is counted on.
        if fence.store.len() != 32 || !fence.store.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad("it names no store".into()));
        }
        if fence.tail > NUMBER_MAX || fence.epoch > NUMBER_MAX || fence.since > fence.epoch {
            return Err(bad("its numbers mean nothing".into()));
        }
        Ok(Some((fence, found.tag)))
    }

    /// Puts it where `when` holds; the tag, or `None` where it does not, as after an attempt whose answer was lost.
    pub(crate) async fn put(&self, bucket: &Bucket, when: When) -> Result<Put> {
        let text =
            serde_json::to_vec(self).map_err(|error| Error::new(ErrorKind::Internal, "s3.fence").because(error))?;
        bucket.put_if(NAME, &PutPayload::from_bytes(Bytes::from(text)), when).await
    }

    /// Whether it is of one opening of one writer.
    pub(crate) fn is_of(&self, writer: &str, epoch: u64) -> bool {
        self.writer == writer && self.epoch == epoch
    }

    /// Who holds it, and since when, for people.
    pub(crate) fn holder(&self, env: &Env) -> String {
        let since = Duration::from_secs(now(env).saturating_sub(self.time));
        // Others wrote it.
        let host: String = self.host.chars().filter(|c| !c.is_control()).take(HOST_LEN_MAX).collect();
        format!("{host} (last heard of {} s ago, epoch {})", since.as_secs(), self.epoch)
    }
}

fn now(env: &Env) -> u64 {
    let now: SystemTime = (env.now)();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Finds out whether the server refuses puts whose condition does not hold: without that no two writers can be kept apart.
///
/// # Errors
/// `Unsupported` where it does not; those of the bucket.
pub(crate) async fn check_conditions(bucket: &Bucket) -> Result<()> {
    let name = format!("{PROBES}/{}", bucket.env().random_id());
    let (one, other) = (PutPayload::from_static(b"one"), PutPayload::from_static(b"other"));
    let checked = async {
        let refused = |what: &str| {
            let why = format!(
                "this server overwrites an object though it is asked not to ({what}), so two writers would destroy each other's \
                 work: use one that knows conditional writes, as AWS, R2, MinIO and muxfs do"
            );
            bucket.error(ErrorKind::Unsupported, "s3.check", "").because(why)
        };
        // What is refused after a lost answer is its own, and has a tag all the same.
        bucket.put_if(&name, &one, When::Absent).await?;
        if bucket.put_if(&name, &other, When::Absent).await? != Put::Refused {
            return Err(refused("If-None-Match"));
        }
        let tag = bucket.get_short(&name, LEN_MAX).await?.and_then(|object| object.tag);
        let Some(tag) = tag else { return Err(refused("it tells no ETag")) };
        let wrong = When::Is(Some("\"00000000000000000000000000000000\"".into()));
        if bucket.put_if(&name, &other, wrong).await? != Put::Refused {
            return Err(refused("If-Match"));
        }
        match bucket.put_if(&name, &other, When::Is(Some(tag))).await? {
            Put::Done(Some(_)) => Ok(()),
            Put::Done(None) => Err(refused("it tells no ETag")),
            // After a lost answer; else it never does what it is asked.
            Put::Refused => match bucket.get_short(&name, LEN_MAX).await? {
                Some(object) if object.bytes.as_ref() == b"other" => Ok(()),
                _ => Err(refused("If-Match with the right ETag is refused")),
            },
        }
    };
    let checked = checked.await;
    let deleted = bucket.delete(&name).await;
    checked.and(deleted)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use muxfs::testing;
    use object_store::memory::InMemory;

    use super::*;
    use crate::S3Limits;

    /// What is counted on from there, and is part of names on this machine, is refused where it cannot be.
    #[tokio::test]
    async fn a_fence_of_anything_is_refused() {
        let env = testing::env();
        let bucket = Bucket::new(Arc::new(InMemory::new()), "", "s3://bucket", S3Limits::default(), &env);
        let good = || Fence::new("me", "here", &env);
        let bad = [
            Fence { epoch: u64::MAX, ..good() },
            Fence { tail: u64::MAX, ..good() },
            Fence { since: 2, ..good() },
            Fence { store: "../..".into(), ..good() },
            Fence { store: String::new(), ..good() },
        ];
        for fence in bad {
            fence.put(&bucket, When::Always).await.expect("put");
            assert_eq!(Fence::load(&bucket).await.expect_err("refused").kind(), ErrorKind::Corrupt, "{fence:?}");
        }
        let strange = Fence { host: format!("\u{1b}[2J\n{}", "x".repeat(2000)), ..good() }.holder(&env);
        assert!(strange.len() < 200 && !strange.contains(char::is_control), "{strange:?}");
        good().put(&bucket, When::Always).await.expect("put");
        assert!(Fence::load(&bucket).await.expect("good").is_some());
    }
}
