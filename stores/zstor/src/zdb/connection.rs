//! A connection to a 0-db server: one request at a time, each answered or given up.
//!
//! Requests go one at a time, since a server gathers small replies (it never sets `TCP_NODELAY`) and holds back those of
//! requests that come in a row. Spec: spec/zstor.md #0-db.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use bytes::{Buf, Bytes};
use muxfs::{Error, ErrorKind, Result};
use sha1::{Digest as _, Sha1};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use zeroize::Zeroizing;

use crate::resp::{Replies, Reply, request};

/// What is read at a time, at least.
const READ_LEN: usize = 64 << 10;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZdbAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket of this machine.
    Unix(PathBuf),
}

impl FromStr for ZdbAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let address = text.parse().map(Self::Tcp);
        address.map_err(|_| format!("{text:?} is not an address and port as 127.0.0.1:9900, nor the path of a socket"))
    }
}

impl fmt::Display for ZdbAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The password of a namespace. Zeroed when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub(crate) Zeroizing<String>);

impl Password {
    /// Takes its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Its text, for who has to say it to somebody.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) fn unavailable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable, "zstor.zdb").because(why)
}

/// What a refusal of a server means. It has nothing but its text.
pub(crate) fn refused(text: &str) -> Error {
    let has = |part: &str| text.contains(part);
    let kind = if has("No space left") {
        ErrorKind::NoSpace
    } else if has("read-only") || has("worm mode") {
        ErrorKind::ReadOnly
    } else if has("Access denied") || has("protected") || has("Permission denied") {
        ErrorKind::Denied
    } else if has("frozen") || has("not available anymore") {
        ErrorKind::Unavailable
    } else if has("too big") || has("too large") {
        ErrorKind::TooLarge
    } else {
        ErrorKind::Io
    };
    Error::new(kind, "zstor.zdb").because(format!("the server refuses: {text}"))
}

pub(crate) fn nonsense(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "zstor.zdb").because(format!("the reply is none to {what}"))
}

/// A connection with no request under way.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    replies: Replies,
}

impl Connection {
    pub(crate) async fn to(address: &ZdbAddress) -> Result<Self> {
        let stream: Box<dyn Stream> = match address {
            ZdbAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(unavailable)?;
                stream.set_nodelay(true).map_err(unavailable)?;
                Box::new(stream)
            }
            ZdbAddress::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(unavailable)?),
        };
        Ok(Self { stream, replies: Replies::default() })
    }

    /// Sends a request and reads its reply. After an error, and after a call that was given up, nothing else is asked on it.
    pub(crate) async fn ask(&mut self, parts: &[&[u8]]) -> Result<Reply> {
        if !self.replies.buffer.is_empty() {
            return Err(nonsense("anything: it was not asked for"));
        }
        let (before, long, after) = request(parts);
        let mut request = Buf::chain(Buf::chain(&before[..], long), &after[..]);
        self.stream.write_all_buf(&mut request).await.map_err(unavailable)?;
        loop {
            if let Some(reply) = self.replies.next()? {
                return Ok(reply);
            }
            self.replies.buffer.reserve(READ_LEN);
            if self.stream.read_buf(&mut self.replies.buffer).await.map_err(unavailable)? == 0 {
                return Err(unavailable("it closed the connection"));
            }
        }
    }

    /// The same of a request that is not to be refused.
    pub(crate) async fn ask_well(&mut self, parts: &[&[u8]]) -> Result<Reply> {
        match self.ask(parts).await? {
            Reply::Error(text) => Err(refused(&text)),
            reply => Ok(reply),
        }
    }

    /// Chooses the namespace. The password itself is not sent.
    pub(crate) async fn select(&mut self, namespace: &str, password: Option<&Password>) -> Result<()> {
        let namespace = namespace.as_bytes();
        let Some(Password(password)) = password else {
            return self.ask_well(&[b"SELECT", namespace]).await.map(drop);
        };
        let Reply::Simple(challenge) = self.ask_well(&[b"AUTH", b"SECURE", b"CHALLENGE"]).await? else {
            return Err(nonsense("a challenge"));
        };
        let digest = Sha1::digest(format!("{challenge}:{}", password.as_str()).as_bytes());
        let hex = digest.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        self.ask_well(&[b"SELECT", namespace, b"SECURE", hex.as_bytes()]).await.map(drop)
    }

    pub(crate) async fn info(&mut self, namespace: &str) -> Result<Info> {
        match self.ask_well(&[b"NSINFO", namespace.as_bytes()]).await? {
            Reply::Bulk(text) => Ok(Info::parse(&String::from_utf8_lossy(&text))),
            _ => Err(nonsense("NSINFO")),
        }
    }
}

/// A part of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Where the listing goes on.
    pub(crate) cursor: Bytes,
    pub(crate) keys: Vec<Bytes>,
}

impl Page {
    /// The request for the page at a cursor; for the first without one.
    pub(crate) fn request(cursor: Option<&Bytes>) -> Vec<&[u8]> {
        let mut parts: Vec<&[u8]> = vec![b"SCAN"];
        parts.extend(cursor.map(|cursor| &cursor[..]));
        parts
    }

    /// Reads what a server replied to that; `None` where there is no more.
    pub(crate) fn of(replied: Result<Reply>) -> Result<Option<Self>> {
        let parts = match replied {
            Ok(Reply::Array(parts)) => parts,
            Ok(_) => return Err(nonsense("SCAN")),
            Err(error) if format!("{error:#}").contains("No more data") => return Ok(None),
            Err(error) => return Err(error),
        };
        let [Reply::Bulk(cursor), Reply::Array(entries)] = &parts[..] else { return Err(nonsense("SCAN")) };
        let key_of = |entry: &Reply| match entry {
            Reply::Array(fields) => match fields.first() {
                Some(Reply::Bulk(key)) => Ok(key.clone()),
                _ => Err(nonsense("SCAN")),
            },
            _ => Err(nonsense("SCAN")),
        };
        let keys = entries.iter().map(key_of).collect::<Result<_>>()?;
        Ok(Some(Self { cursor: cursor.clone(), keys }))
    }
}

/// What a server tells of a namespace; 0 for what it does not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) entries: u64,
    pub(crate) data_len: u64,
    pub(crate) index_len: u64,
    /// 0 where there is none.
    pub(crate) limit: u64,
    pub(crate) disk_free: u64,
    pub(crate) is_sequential: bool,
}

impl Info {
    pub(crate) fn parse(text: &str) -> Self {
        let mut info = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            let number = || value.parse().unwrap_or(0);
            match name {
                "entries" => info.entries = number(),
                "data_size_bytes" => info.data_len = number(),
                "index_size_bytes" => info.index_len = number(),
                "data_limits_bytes" => info.limit = number(),
                "data_disk_freespace_bytes" => info.disk_free = number(),
                "mode" => info.is_sequential = value == "sequential",
                _ => {}
            }
        }
        info
    }
}
