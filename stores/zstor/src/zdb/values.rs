//! A namespace of a 0-db server of which values are read and set, by whoever knows their keys.
//!
//! It is nobody's node: it has no mark, and its mode does not matter. Each call is answered or given up in time; who could
//! not be reached is a matter of who calls. Spec: spec/zstor.md #0-db.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};
use tokio::{net::lookup_host, sync::Semaphore, time::timeout};

use super::{
    Password, ZdbAddress,
    connection::{Connection, nonsense, refused, unavailable},
};
use crate::resp::Reply;

/// So many requests are under way at a time, each on a connection of its own.
const CONNECTION_COUNT_MAX: usize = 8;
/// A server that does not take a connection by then is not there.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// Of a name with more addresses, so many are tried.
const ADDR_COUNT_MAX: usize = 4;

/// Reads and sets values of a namespace of a 0-db server.
pub struct ZdbValues {
    host: String,
    port: u16,
    namespace: Option<String>,
    password: Option<Password>,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl fmt::Debug for ZdbValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZdbValues({self})")
    }
}

/// The namespace and the server; no password.
impl fmt::Display for ZdbValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}:{}", self.namespace.as_deref().unwrap_or("default"), self.host, self.port)
    }
}

impl ZdbValues {
    /// Of `namespace`, or the one called `default`, of the server at a port of `host`, a name or an address. Nobody
    /// is asked yet.
    ///
    /// ```
    /// let values = muxfs_zstor::ZdbValues::new("127.0.0.1", 9900, Some("flist".into()), None);
    /// assert_eq!(values.to_string(), "flist on 127.0.0.1:9900");
    /// ```
    pub fn new(host: &str, port: u16, namespace: Option<String>, password: Option<Password>) -> Self {
        let (permits, idle) = (Semaphore::new(CONNECTION_COUNT_MAX), Mutex::default());
        Self { host: host.into(), port, namespace, password, permits, idle }
    }

    /// The value under a key; `None` where there is none. It waits for as long as whoever calls lets it.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`, `Corrupt` for what is no reply; they name the namespace.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.ask(&[b"GET", key]).await.map_err(|error| error.at(self))? {
            Reply::Bulk(value) => Ok(Some(value)),
            Reply::Nil => Ok(None),
            Reply::Error(text) => Err(refused(&text).at(self)),
            _ => Err(nonsense("GET").at(self)),
        }
    }

    /// Whether there is a value under a key.
    ///
    /// # Errors
    /// Those of [`ZdbValues::get`].
    pub async fn has(&self, key: &[u8]) -> Result<bool> {
        match self.ask(&[b"EXISTS", key]).await.map_err(|error| error.at(self))? {
            Reply::Number(count) => Ok(count == 1),
            Reply::Error(text) => Err(refused(&text).at(self)),
            _ => Err(nonsense("EXISTS").at(self)),
        }
    }

    /// Sets the value under a key, in a namespace in user mode. How durable it is then is a matter of the server.
    ///
    /// # Errors
    /// Those of [`ZdbValues::get`]; `NoSpace`, `ReadOnly`, `TooLarge` as the server says; `Io` where it takes the key for another.
    pub async fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        match self.ask(&[b"SET", key, value]).await.map_err(|error| error.at(self))? {
            // Of a value that it has already it says nothing.
            Reply::Nil => Ok(()),
            Reply::Bulk(set) if set == key => Ok(()),
            Reply::Error(text) => Err(refused(&text).at(self)),
            _ => {
                let why = "it did not set the key: the namespace is not in user mode";
                Err(Error::new(ErrorKind::Io, "zstor.zdb").at(self).because(why))
            }
        }
    }

    async fn ask(&self, parts: &[&[u8]]) -> Result<Reply> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|closed| Error::new(ErrorKind::Internal, "zstor.zdb").because(closed))?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut connection) = idle {
            match connection.ask(parts).await {
                Ok(reply) => return Ok(self.answered(connection, reply)),
                // The server may have ended the connection long ago.
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                Err(error) => return Err(error),
            }
        }
        let mut connection = self.connect().await?;
        let reply = connection.ask(parts).await?;
        Ok(self.answered(connection, reply))
    }

    fn answered(&self, connection: Connection, reply: Reply) -> Reply {
        if !matches!(&reply, Reply::Error(text) if text.contains("not available anymore")) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        reply
    }

    async fn connect(&self) -> Result<Connection> {
        let late = |_elapsed| unavailable(format!("no connection within {CONNECT_TIME_MAX:?}"));
        let found = timeout(CONNECT_TIME_MAX, lookup_host((self.host.as_str(), self.port))).await.map_err(late)?;
        let addrs: Vec<SocketAddr> = found.map_err(unavailable)?.take(ADDR_COUNT_MAX).collect();
        let mut last = unavailable("its name has no address");
        for addr in addrs {
            let connected = async {
                let mut connection = Connection::to(&ZdbAddress::Tcp(addr)).await?;
                if let Some(namespace) = &self.namespace {
                    connection.select(namespace, self.password.as_ref()).await?;
                }
                Ok(connection)
            };
            match timeout(CONNECT_TIME_MAX, connected).await.map_err(late).flatten() {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
