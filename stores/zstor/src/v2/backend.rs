//! A namespace of a 0-db server, as zstor v2 names it, asked over a few connections.
//!
//! Who could not be reached is not waited for again for a while: a dead server costs one short wait, however many files
//! there are.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::metadata::{CHUNK_LEN, ShardKey};
use crate::{
    Password, ZdbAddress,
    calls::CALL_TIME_MAX,
    resp::Reply,
    zdb::connection::{Connection, Info, Page, nonsense, refused, unavailable},
};

/// So many requests are under way at a time, each on a connection of its own.
const CONNECTION_COUNT_MAX: usize = 4;
/// A server that does not take a connection by then is not there.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// One that was not there is asked again after so long.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// A namespace of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZdbInfo {
    /// Where the server is.
    pub address: SocketAddr,
    /// Which of its namespaces; the one called `default` where absent.
    pub namespace: Option<String>,
    /// What it takes to use it.
    pub password: Option<Password>,
}

impl fmt::Display for ZdbInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.name(), self.address)
    }
}

impl ZdbInfo {
    fn name(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// How long its texts are, in bytes.
    pub(super) fn text_len(&self) -> usize {
        let password = self.password.as_ref().map_or(0, |password| password.0.len());
        self.namespace.as_ref().map_or(0, String::len) + password
    }
}

/// What its keys are: those that it is given, or numbers that it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    User,
    Sequential,
}

/// A namespace that is asked.
pub(super) struct Backend {
    pub(super) info: ZdbInfo,
    mode: Mode,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
    /// Why it could not be reached the last time, and when it is tried again.
    failed: Mutex<Option<(ErrorKind, String, Instant)>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({})", self.info)
    }
}

impl Backend {
    pub(super) fn new(info: ZdbInfo, mode: Mode) -> Self {
        let (idle, failed) = Default::default();
        Self { info, mode, permits: Semaphore::new(CONNECTION_COUNT_MAX), idle, failed }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, Option<(ErrorKind, String, Instant)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it could not be reached a moment ago.
    pub(super) fn has_failed(&self) -> bool {
        self.failed().as_ref().is_some_and(|(_, _, again_at)| Instant::now() < *again_at)
    }

    /// The value at a key.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`, `InvalidArgument` where it is in the other mode: they name the namespace.
    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.ask(&[b"GET", key]).await? {
            Reply::Bulk(value) => Ok(Some(value)),
            Reply::Nil => Ok(None),
            _ => Err(nonsense("GET").at(&self.info)),
        }
    }

    /// Puts a value under a key; in user mode.
    pub(super) async fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        match self.ask(&[b"SET", key, value]).await? {
            Reply::Bulk(stored) if stored == key => Ok(()),
            // It has the same already.
            Reply::Nil => Ok(()),
            _ => Err(nonsense("SET").at(&self.info)),
        }
    }

    /// Removes what is under a key; in user mode.
    pub(super) async fn delete(&self, key: &[u8]) -> Result<()> {
        match self.ask(&[b"DEL", key]).await {
            Err(error) if format!("{error:#}").contains("Key not found") => Ok(()),
            asked => asked.map(drop),
        }
    }

    /// Puts a shard as values of [`CHUNK_LEN`] bytes, and gives their keys in order; in sequential mode.
    ///
    /// It is not tried again: what was put of one that failed stays, under keys that nobody knows.
    pub(super) async fn append(&self, shard: &Bytes) -> Result<Vec<ShardKey>> {
        let appended = async {
            let mut connection = self.connect().await?;
            let mut keys = Vec::with_capacity(shard.len().div_ceil(CHUNK_LEN));
            for chunk in shard.chunks(CHUNK_LEN) {
                let reply = within(CALL_TIME_MAX, connection.ask_well(&[b"SET", b"", chunk])).await?;
                let Reply::Bulk(key) = reply else { return Err(nonsense("SET")) };
                keys.push(ShardKey::parse(&key).ok_or_else(|| nonsense("SET in sequential mode"))?);
            }
            self.idle().push(connection);
            Ok(keys)
        };
        appended.await.map_err(|error: Error| error.at(&self.info))
    }

    /// What it tells of itself.
    pub(super) async fn info(&self) -> Result<Info> {
        match self.ask(&[b"NSINFO", self.info.name().as_bytes()]).await? {
            Reply::Bulk(text) => Ok(Info::parse(&String::from_utf8_lossy(&text))),
            _ => Err(nonsense("NSINFO").at(&self.info)),
        }
    }

    /// Gives all its keys.
    ///
    /// # Errors
    /// Those of [`get`](Self::get), and `Unavailable` where it told fewer than it has.
    pub(super) async fn keys(&self, mut each: impl FnMut(&Bytes) + Send) -> Result<()> {
        let before = self.count().await?;
        let (mut cursor, mut listed) = (None, 0u64);
        loop {
            let page = Page::of(self.ask(&Page::request(cursor.as_ref())).await)?;
            let Some(page) = page.filter(|page| !page.keys.is_empty()) else { break };
            listed += page.keys.len() as u64;
            page.keys.iter().for_each(&mut each);
            cursor = Some(page.cursor);
        }
        let count = self.count().await?.min(before);
        if listed < count {
            // It looks for keys for 2 ms at a time, and says that there are no more when it found none.
            return Err(unavailable(format!("it listed {listed} keys of at least {count}")).at(&self.info));
        }
        Ok(())
    }

    async fn count(&self) -> Result<u64> {
        match self.ask(&[b"DBSIZE"]).await? {
            Reply::Number(count) => Ok(u64::try_from(count).unwrap_or(0)),
            _ => Err(nonsense("DBSIZE").at(&self.info)),
        }
    }

    /// Carries out a request that may be made twice.
    async fn ask(&self, parts: &[&[u8]]) -> Result<Reply> {
        let asked = async {
            let permit = self.permits.acquire().await;
            let _permit = permit.map_err(|closed| Error::new(ErrorKind::Internal, "zstor.v2").because(closed))?;
            let idle = self.idle().pop();
            if let Some(mut connection) = idle {
                match within(CALL_TIME_MAX, connection.ask(parts)).await {
                    Ok(reply) => return Ok(self.answered(connection, reply)),
                    // The server may have ended the connection long ago.
                    Err(error) if error.kind() == ErrorKind::Unavailable => self.idle().clear(),
                    Err(error) => return Err(error),
                }
            }
            let mut connection = self.connect().await?;
            let reply = within(CALL_TIME_MAX, connection.ask(parts)).await.inspect_err(|error| self.fail(error))?;
            Ok(self.answered(connection, reply))
        };
        match asked.await {
            Ok(Reply::Error(text)) => Err(refused(&text).at(&self.info)),
            asked => asked.map_err(|error: Error| error.at(&self.info)),
        }
    }

    fn answered(&self, connection: Connection, reply: Reply) -> Reply {
        if !matches!(&reply, Reply::Error(text) if text.contains("not available anymore")) {
            self.idle().push(connection);
        }
        reply
    }

    /// A new connection to the namespace, in the mode that is asked for.
    async fn connect(&self) -> Result<Connection> {
        if let Some((kind, why, again_at)) = &*self.failed()
            && Instant::now() < *again_at
        {
            return Err(Error::new(*kind, "zstor.v2").because(why.clone()));
        }
        let connected = async {
            let mut connection = Connection::to(&ZdbAddress::Tcp(self.info.address)).await?;
            if let Some(namespace) = &self.info.namespace {
                connection.select(namespace, self.info.password.as_ref()).await?;
            }
            let is_sequential = connection.info(self.info.name()).await?.is_sequential;
            if is_sequential != (self.mode == Mode::Sequential) {
                let (is, wanted) = if is_sequential { ("sequential", "user") } else { ("user", "sequential") };
                let why = format!("the namespace is in {is} mode, and zstor v2 uses it in {wanted} mode");
                return Err(Error::new(ErrorKind::InvalidArgument, "zstor.v2").because(why));
            }
            Ok(connection)
        };
        let connected = within(CONNECT_TIME_MAX, connected).await;
        match &connected {
            Ok(_) => *self.failed() = None,
            Err(error) => self.fail(error),
        }
        connected
    }

    /// It is not asked again for a while.
    pub(super) fn give_up(&self, error: &Error) {
        self.idle().clear();
        self.fail(error);
    }

    fn fail(&self, error: &Error) {
        *self.failed() = Some((error.kind(), format!("{error:#}"), Instant::now() + RETRY_AFTER));
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_elapsed| Err(unavailable(format!("no answer within {limit:?}"))))
}
