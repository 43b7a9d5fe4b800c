//! Blocks: a value each, with a checksum before it.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use muxfs::{BlockKey, BlockStore, Env, Error, ErrorKind, Result, block::BLOCK_LEN_MAX};
use muxfs_zstor::resp::Reply;
use tokio::sync::Mutex as AsyncMutex;

use crate::{
    address::{RedisAccess, RedisOptions},
    connection::{Command, nonsense, unavailable},
    heads::Unsettled,
    info::RedisDurability,
    link::{Link, Replied},
    opening::{Keys, ask_info, open},
    pending::Pending,
    script,
};

/// Before a block is its checksum, in bytes.
const FRONT_LEN: usize = 4;
/// So many keys are looked for at a time.
const SCAN_COUNT: &str = "1000";
/// A listing of more pages has no end.
const PAGE_COUNT_MAX: u32 = 1 << 20;
/// After a restart of the server so many keys are asked for at a time.
const EXISTS_COUNT: usize = 256;
/// So many keys are remembered under which something bad was found: of more, each is found again when it is read again.
const BAD_COUNT_MAX: usize = 1 << 16;

/// A [`BlockStore`], and [`Heads`](muxfs::heads::Heads), on a Redis server.
///
/// Cheap to clone; all clones are one. When the last is dropped its connections end.
#[derive(Clone)]
pub struct RedisStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) link: Link,
    pub(crate) options: RedisOptions,
    pub(crate) keys: Keys,
    pub(crate) durability: RedisDurability,
    pub(crate) epoch: i64,
    pub(crate) env: Env,
    pending: Pending,
    /// Keys under which something bad was found: a put replaces it.
    bad: Mutex<HashSet<BlockKey>>,
    /// A swap of which it is not known whether it happened. Whoever holds it swaps.
    pub(crate) swapping: Arc<AsyncMutex<Option<Unsettled>>>,
}

/// What the server takes, for all that is in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RedisUsage {
    /// Of memory, in bytes.
    pub used_len: u64,
    /// How much it may take, in bytes; `None` where it has no limit.
    pub len_max: Option<u64>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisStore({}, {:?})", self.inner.options.place(), self.inner.options.access)
    }
}

impl RedisStore {
    /// Opens the store below the prefix, and makes it where nothing is there, unless it is only looked at.
    ///
    /// ```no_run
    /// use muxfs_redis::{RedisOptions, RedisStore};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let env = muxfs::testing::env();
    /// let options = RedisOptions::new("127.0.0.1:6379".parse().expect("an address"), "machine 1");
    /// let store = RedisStore::open(options, &env).await?;
    /// println!("what is acknowledged is {}", store.durability());
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Unavailable` where the server is away; `Denied` where the password is wrong, or another writes there, saying who;
    /// `Unsupported` where the server may throw blocks away, is a cluster, or a newer version made the store;
    /// `InvalidArgument` where something else is below the prefix; `ReadOnly` where the server is a replica; `NotFound`
    /// where it is only looked at and absent; `Corrupt` where what answers is no Redis.
    pub async fn open(options: RedisOptions, env: &Env) -> Result<Self> {
        options.check()?;
        let keys = Keys::new(&options.prefix);
        let link = Link::new(&options, keys.mark.clone());
        let opened = open(&link, &keys, &options, env).await?;
        let inner = Inner {
            link,
            options,
            keys,
            durability: opened.durability,
            epoch: opened.epoch,
            env: env.clone(),
            pending: Pending::default(),
            bad: Mutex::default(),
            swapping: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it is worth that a `flush` or a `swap` returned.
    pub fn durability(&self) -> RedisDurability {
        self.inner.durability
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.inner.options.place()
    }

    /// What the server takes, this store and all else.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn usage(&self) -> Result<RedisUsage> {
        let info = ask_info(&self.inner.link).await?;
        Ok(RedisUsage { used_len: info.used_len, len_max: Some(info.len_max).filter(|len| *len > 0) })
    }

    /// Makes all that was put durable, and says that this writer has ended, so that another may begin.
    ///
    /// # Errors
    /// As `flush`; also then another has to take over.
    pub async fn close(&self) -> Result<()> {
        let inner = &self.inner;
        if inner.options.access == RedisAccess::Look {
            return Ok(());
        }
        self.flush().await?;
        let end = script::close(&inner.keys.writer, inner.epoch);
        inner.link.ask(vec![end]).await?.next("EVAL").map(drop)
    }
}

impl Inner {
    fn bad(&self) -> MutexGuard<'_, HashSet<BlockKey>> {
        // A set is whole whatever panics around it.
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block_key(&self, key: &BlockKey) -> Bytes {
        [self.options.prefix.as_bytes(), b"b:", key.as_bytes()].concat().into()
    }

    pub(crate) fn check_writer(&self, op: &'static str) -> Result<()> {
        if self.options.access == RedisAccess::Look {
            let why = "it was opened to be looked at";
            return Err(Error::new(ErrorKind::ReadOnly, op).at(self.options.place()).because(why));
        }
        Ok(())
    }

    /// What a script says to who does not write any more.
    pub(crate) fn fenced(&self) -> Error {
        let why = "another has begun to write there: this one is through";
        Error::new(ErrorKind::Denied, "redis.write").at(self.options.place()).because(why)
    }

    fn check_good(&self, key: &BlockKey) -> Result<()> {
        if self.bad().contains(key) { Err(self.bad_block("it was read and is bad")) } else { Ok(()) }
    }

    fn bad_block(&self, why: &str) -> Error {
        Error::new(ErrorKind::Corrupt, "redis.get").at(self.options.place()).because(why)
    }

    /// Requests after which all that the server did before is as durable as it makes things.
    pub(crate) fn sync_commands(&self) -> Vec<Command> {
        match self.durability {
            RedisDurability::Waited => {
                // It waits for what this connection wrote, and so for all before.
                let millis = self.options.call_time_max.as_millis().to_string();
                let wait = vec!["WAITAOF".into(), "1".into(), "0".into(), millis.into()];
                vec![vec!["SET".into(), self.keys.synced.clone(), "1".into()], wait]
            }
            // The log is written before the reply, whatever it is to: this asks whether that went well.
            _ => vec![vec!["INFO".into(), "persistence".into()]],
        }
    }

    /// Reads the replies to those.
    pub(crate) fn check_synced(&self, replied: &mut Replied) -> Result<()> {
        let at = |error: Error| error.at(self.options.place());
        if self.durability == RedisDurability::Waited {
            replied.next("SET").map_err(at)?;
            return match replied.next("WAITAOF").map_err(at)? {
                Reply::Array(counts) if matches!(counts.first(), Some(Reply::Number(1..))) => Ok(()),
                Reply::Array(_) => Err(at(unavailable("the server has not synced its log in time"))),
                _ => Err(at(nonsense("WAITAOF"))),
            };
        }
        match replied.next("INFO") {
            Ok(Reply::Bulk(text)) => {
                let info = crate::info::Info::parse(&String::from_utf8_lossy(&text));
                if info.log_is_well { Ok(()) } else { Err(at(unavailable("the server cannot write its log"))) }
            }
            Ok(_) => Err(at(nonsense("INFO"))),
            // Not everybody may ask.
            Err(error) if error.kind() == ErrorKind::Denied => Ok(()),
            Err(error) => Err(at(error)),
        }
    }

    async fn flush(&self) -> Result<()> {
        let all = self.pending.all();
        if !all.is_empty() {
            // A connection to the server as it is now: one to it as it was would not tell that it began anew.
            let mut replied = self.link.ask(self.sync_commands()).await?;
            self.check_synced(&mut replied)?;
            let now = replied.generation.max(self.link.generation());
            let unsure: Vec<_> = all.iter().filter(|(_, change)| change.generation != now).collect();
            for some in unsure.chunks(EXISTS_COUNT) {
                let commands = some.iter().map(|(key, _)| vec!["EXISTS".into(), self.block_key(key)]).collect();
                let mut replied = self.link.ask(commands).await?;
                for (_, change) in some {
                    let is_there = match replied.next("EXISTS")? {
                        Reply::Number(count) => count > 0,
                        _ => return Err(nonsense("EXISTS")),
                    };
                    if is_there != change.is_there {
                        let why = "the server began anew, and has lost what it acknowledged: put it again";
                        return Err(Error::new(ErrorKind::Io, "redis.flush").at(self.options.place()).because(why));
                    }
                }
            }
            if !unsure.is_empty() {
                let mut replied = self.link.ask(self.sync_commands()).await?;
                self.check_synced(&mut replied)?;
            }
            self.pending.forget(&all);
        }
        Ok(())
    }

    async fn page(&self, cursor: &Bytes) -> Result<(Bytes, BTreeSet<BlockKey>)> {
        let front = [self.options.prefix.as_bytes(), b"b:"].concat();
        let mut pattern = Vec::with_capacity(front.len() * 2 + 1);
        for byte in &front {
            if b"*?[]^-\\".contains(byte) {
                pattern.push(b'\\');
            }
            pattern.push(*byte);
        }
        pattern.push(b'*');
        let command =
            vec!["SCAN".into(), cursor.clone(), "MATCH".into(), pattern.into(), "COUNT".into(), SCAN_COUNT.into()];
        let reply = self.link.ask_block(vec![command]).await?.next("SCAN")?;
        let Reply::Array(parts) = reply else { return Err(nonsense("SCAN")) };
        let [Reply::Bulk(cursor), Reply::Array(found)] = &parts[..] else { return Err(nonsense("SCAN")) };
        let mut keys = BTreeSet::new();
        for found in found {
            let Reply::Bulk(found) = found else { return Err(nonsense("SCAN")) };
            let key = found.strip_prefix(&front[..]).ok_or_else(|| nonsense("SCAN"))?;
            // One that is no key of ours was put there by somebody else.
            keys.extend(BlockKey::new(key).ok());
        }
        Ok((cursor.clone(), keys))
    }
}

fn crc(key: &BlockKey, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), block)
}

#[async_trait]
impl BlockStore for RedisStore {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let inner = &self.inner;
        let mut replied = inner.link.ask_block(vec![vec!["GET".into(), inner.block_key(key)]]).await?;
        let mut value = match replied.next("GET") {
            Ok(Reply::Bulk(value)) => value,
            Ok(Reply::Nil) => return Ok(None),
            Ok(_) => return Err(nonsense("GET")),
            Err(error) => return Err(error.at(inner.options.place())),
        };
        if value.len() >= FRONT_LEN && value.len() <= FRONT_LEN + BLOCK_LEN_MAX {
            let front = value.split_to(FRONT_LEN);
            if front[..] == crc(key, &value).to_le_bytes() {
                return Ok(Some(value));
            }
        }
        let mut bad = inner.bad();
        if bad.len() < BAD_COUNT_MAX {
            bad.insert(key.clone());
        }
        Err(inner.bad_block("the block is not what was put"))
    }

    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        let inner = &self.inner;
        inner.check_good(key)?;
        let end = range.end.min(BLOCK_LEN_MAX);
        let start = range.start.min(end);
        let name = inner.block_key(key);
        // The last byte counts, too. Of nothing one byte is asked for.
        let last = FRONT_LEN + end.max(start + 1) - 1;
        let part =
            vec!["GETRANGE".into(), name.clone(), (FRONT_LEN + start).to_string().into(), last.to_string().into()];
        let mut replied = inner.link.ask_block(vec![vec!["STRLEN".into(), name], part]).await?;
        let (len, part) = match (replied.next("STRLEN")?, replied.next("GETRANGE")?) {
            (Reply::Number(0), _) => return Ok(None),
            (Reply::Number(len), Reply::Bulk(part)) => (usize::try_from(len).unwrap_or(0), part),
            _ => return Err(nonsense("GETRANGE")),
        };
        let Some(len) = len.checked_sub(FRONT_LEN) else { return Err(inner.bad_block("the block has no front")) };
        let end = end.min(len);
        let wanted = end.saturating_sub(start);
        if wanted == 0 || part.len() == wanted {
            return Ok(Some(part.slice(..wanted.min(part.len()))));
        }
        // It went, or came, between the two.
        Ok(self.get(key).await?.map(|block| block.slice(start.min(block.len())..range.end.min(block.len()))))
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        const OP: &str = "redis.put";
        let inner = &self.inner;
        inner.check_writer(OP)?;
        if block.len() > BLOCK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, OP));
        }
        if inner.pending.is_full() {
            inner.flush().await?;
        }
        let mut value = BytesMut::with_capacity(FRONT_LEN + block.len());
        value.put_u32_le(crc(key, &block));
        value.put(block);
        let replaces = inner.bad().contains(key);
        let mut command = vec!["SET".into(), inner.block_key(key), value.freeze()];
        if !replaces {
            command.push("NX".into());
        }
        let mut replied = inner.link.ask(vec![command]).await?;
        match replied.next("SET").map_err(|error| error.at(inner.options.place()))? {
            Reply::Simple(_) | Reply::Nil => {}
            _ => return Err(nonsense("SET")),
        }
        inner.pending.note(key, true, replied.generation);
        if replaces {
            inner.bad().remove(key);
        }
        Ok(())
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let inner = &self.inner;
        inner.check_writer("redis.delete")?;
        if inner.pending.is_full() {
            inner.flush().await?;
        }
        let command = script::delete(&inner.keys.writer, inner.epoch, &inner.block_key(key));
        let mut replied = inner.link.ask(vec![command]).await?;
        match replied.next("EVAL").map_err(|error| error.at(inner.options.place()))? {
            Reply::Number(0..) => {}
            Reply::Number(_) => return Err(inner.fenced()),
            _ => return Err(nonsense("EVAL")),
        }
        inner.pending.note(key, false, replied.generation);
        inner.bad().remove(key);
        Ok(())
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.inner.check_good(key)?;
        let mut replied = self.inner.link.ask(vec![vec!["EXISTS".into(), self.inner.block_key(key)]]).await?;
        match replied.next("EXISTS")? {
            Reply::Number(count) => Ok(count > 0),
            _ => Err(nonsense("EXISTS")),
        }
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.inner.check_good(key)?;
        let mut replied = self.inner.link.ask(vec![vec!["STRLEN".into(), self.inner.block_key(key)]]).await?;
        match replied.next("STRLEN")? {
            Reply::Number(0) => Ok(None),
            Reply::Number(len) => match u64::try_from(len).ok().and_then(|len| len.checked_sub(FRONT_LEN as u64)) {
                Some(len) => Ok(Some(len)),
                None => Err(self.inner.bad_block("the block has no front")),
            },
            _ => Err(nonsense("STRLEN")),
        }
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        struct Listing {
            keys: VecDeque<BlockKey>,
            cursor: Option<Bytes>,
            page_count: u32,
        }
        let first = Listing { keys: VecDeque::new(), cursor: Some("0".into()), page_count: 0 };
        stream::try_unfold(first, move |mut listing| async move {
            loop {
                if let Some(key) = listing.keys.pop_front() {
                    return Ok(Some((key, listing)));
                }
                let Some(cursor) = listing.cursor.take() else { return Ok(None) };
                listing.page_count += 1;
                if listing.page_count > PAGE_COUNT_MAX {
                    return Err(nonsense("SCAN: it has no end"));
                }
                let (next, keys) = self.inner.page(&cursor).await?;
                listing.cursor = Some(next).filter(|next| next != "0");
                listing.keys = keys.into_iter().collect();
            }
        })
        .boxed()
    }
}
