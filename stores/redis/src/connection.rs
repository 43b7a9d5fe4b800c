//! One connection: what is sent, what comes back, and what a refusal means.

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};
use muxfs_zstor::resp::{Replies, Reply, request};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufWriter},
    net::{TcpStream, UnixStream},
};

use crate::address::{RedisAddress, RedisOptions};

/// What is read at a time, at least, and what is gathered before it is sent, in bytes.
const BUFFER_LEN: usize = 64 << 10;

/// A request: its parts.
pub(crate) type Command = Vec<Bytes>;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) fn unavailable(why: impl Into<muxfs::BoxError>) -> Error {
    Error::new(ErrorKind::Unavailable, "redis.call").because(why)
}

pub(crate) fn nonsense(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "redis.call").because(format!("the reply is none to {what}"))
}

/// What a refusal of a server means: it begins with a code.
pub(crate) fn refused(text: &str) -> Error {
    let kind = match text.split(' ').next().unwrap_or_default() {
        "OOM" => ErrorKind::NoSpace,
        // It cannot keep what it is told, and says why: mostly a full disk.
        "MISCONF" if text.contains("No space left") => ErrorKind::NoSpace,
        "MISCONF" | "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS" => {
            ErrorKind::Unavailable
        }
        "READONLY" => ErrorKind::ReadOnly,
        "NOAUTH" | "WRONGPASS" | "NOPERM" => ErrorKind::Denied,
        "WRONGTYPE" => ErrorKind::Corrupt,
        "MOVED" | "ASK" | "CROSSSLOT" => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    };
    Error::new(kind, "redis.call").because(format!("the server refuses: {text}"))
}

/// A connection with no request under way.
pub(crate) struct Connection {
    stream: BufWriter<Box<dyn Stream>>,
    replies: Replies,
}

impl Connection {
    /// Connects, says who it is, and chooses the database.
    pub(crate) async fn open(options: &RedisOptions) -> Result<Self> {
        let stream: Box<dyn Stream> = match &options.address {
            RedisAddress::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unavailable)?;
                stream.set_nodelay(true).map_err(unavailable)?;
                Box::new(stream)
            }
            RedisAddress::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(unavailable)?),
        };
        let mut this = Self { stream: BufWriter::with_capacity(BUFFER_LEN, stream), replies: Replies::default() };
        if let Some(password) = &options.password {
            let user = options.user.as_ref().map(|user| Bytes::copy_from_slice(user.as_bytes()));
            let parts = [Some("AUTH".into()), user, Some(Bytes::copy_from_slice(password.text().as_bytes()))];
            this.ask(&parts.into_iter().flatten().collect()).await?;
        }
        if options.database != 0 {
            this.ask(&vec!["SELECT".into(), options.database.to_string().into()]).await?;
        }
        Ok(this)
    }

    /// Sends a request; [`sent`](Self::sent) is called behind the last.
    pub(crate) async fn send(&mut self, command: &Command) -> Result<()> {
        let parts: Vec<&[u8]> = command.iter().map(|part| &part[..]).collect();
        let (before, long, after) = request(&parts);
        for part in [&before[..], long, &after[..]] {
            self.stream.write_all(part).await.map_err(unavailable)?;
        }
        Ok(())
    }

    pub(crate) async fn sent(&mut self) -> Result<()> {
        self.stream.flush().await.map_err(unavailable)
    }

    /// Reads the reply to the first request that has none yet.
    pub(crate) async fn reply(&mut self) -> Result<Reply> {
        loop {
            if let Some(reply) = self.replies.next()? {
                return Ok(reply);
            }
            self.replies.buffer.reserve(BUFFER_LEN);
            if self.stream.get_mut().read_buf(&mut self.replies.buffer).await.map_err(unavailable)? == 0 {
                return Err(unavailable("it closed the connection"));
            }
        }
    }

    /// Whether something came that nobody asked for.
    pub(crate) fn has_more(&self) -> bool {
        !self.replies.buffer.is_empty()
    }

    /// One request that is not to be refused.
    pub(crate) async fn ask(&mut self, command: &Command) -> Result<Reply> {
        self.send(command).await?;
        self.sent().await?;
        match self.reply().await? {
            Reply::Error(text) => Err(refused(&text)),
            reply => Ok(reply),
        }
    }
}
