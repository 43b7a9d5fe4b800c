//! Where a server is, and how a store there is opened.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use muxfs::{Error, ErrorKind, Result};
use muxfs_zstor::Password;

/// A call that takes longer has failed.
const CALL_TIME: Duration = Duration::from_secs(10);
/// The longest prefix of keys, in bytes.
const PREFIX_LEN_MAX: usize = 128;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// A name or an address, and a port.
    Tcp(String, u16),
    /// A socket of this machine.
    Unix(PathBuf),
}

impl FromStr for RedisAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() => {
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                Ok(Self::Tcp(host.into(), port))
            }
            _ => Err(format!("{text:?} is not a host and port as 127.0.0.1:6379, nor the path of a socket")),
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What an opening does with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisAccess {
    /// Writes, alone: whoever wrote before has ended, or was this one.
    Write,
    /// The same, though another has not said that it ended: somebody knows that it has.
    TakeOver,
    /// Only reads.
    Look,
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Where the server is.
    pub address: RedisAddress,
    /// Which of its databases.
    pub database: u32,
    /// As whom; `None`: as the default user.
    pub user: Option<String>,
    /// What it takes to be let in.
    pub password: Option<Password>,
    /// What all keys of this store begin with, and no others: 1 to 128 bytes.
    pub prefix: String,
    /// What it does.
    pub access: RedisAccess,
    /// Who it is when it writes: the same after a restart, and nobody else's.
    pub writer: String,
    /// What others are told of it: the name of the machine.
    pub host: String,
    /// Whether a server is taken that may throw away what it has when its memory is full.
    pub allow_eviction: bool,
    /// A call that takes longer has failed; a second more for each 64 KiB that it moves.
    pub call_time_max: Duration,
}

impl RedisOptions {
    /// To write as `writer` in the first database, below `muxfs:`, without a password, 10 s a call.
    pub fn new(address: RedisAddress, writer: impl Into<String>) -> Self {
        Self {
            address,
            database: 0,
            user: None,
            password: None,
            prefix: "muxfs:".into(),
            access: RedisAccess::Write,
            writer: writer.into(),
            host: "this machine".into(),
            allow_eviction: false,
            call_time_max: CALL_TIME,
        }
    }

    /// Where the store is, for people.
    pub(crate) fn place(&self) -> String {
        format!("redis {}/{} {}", self.address, self.database, self.prefix)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.prefix.is_empty() || self.prefix.len() > PREFIX_LEN_MAX {
            let why = format!("a prefix is 1 to {PREFIX_LEN_MAX} bytes: what is below it is this store's alone");
            return Err(Error::new(ErrorKind::InvalidArgument, "redis.open").at(self.place()).because(why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["127.0.0.1:6379", "[::1]:7000", "redis.example.org:6379", "/run/redis.sock"] {
            assert_eq!(text.parse::<RedisAddress>().expect("an address").to_string(), text);
        }
        for text in ["", "redis", "host:", ":6379", "host:70000"] {
            assert!(text.parse::<RedisAddress>().is_err(), "{text:?}");
        }
    }
}
