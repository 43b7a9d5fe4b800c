//! A node in this process, in memory, and a client that says what it likes.

use std::{net::SocketAddr, path::Path, sync::Arc};

use muxfs_zdb::{Engine, EngineOptions, Home, MemHome};
use muxfs_zdb_serve::{Options, Server, serve};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

/// A server and its engine.
#[allow(dead_code, reason = "each test that has this module uses some")]
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) server: Server,
}

#[allow(dead_code, reason = "each test that has this module uses some")]
impl Node {
    pub(crate) async fn start() -> Self {
        Self::with(options()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        Self::over(Arc::new(MemHome::default()), EngineOptions::new(&muxfs::testing::env()), options).await
    }

    pub(crate) async fn over(home: Arc<dyn Home>, engine: EngineOptions, options: Options) -> Self {
        let engine = Engine::open(home, engine).await.expect("opened");
        let server = serve(engine.clone(), options).expect("it listens");
        Self { engine, server }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.local_addr().expect("it listens over TCP")
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.addr()).await
    }

    pub(crate) async fn stop(self) {
        self.server.shutdown().await;
        self.engine.close().await.expect("closed");
    }
}

/// On a free port of loopback.
#[allow(dead_code, reason = "each test that has this module uses some")]
pub(crate) fn options() -> Options {
    Options { addr: Some(([127, 0, 0, 1], 0).into()), ..Options::default() }
}

/// What a server replied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Number(u64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Self>),
}

#[allow(dead_code, reason = "each test that has this module uses some")]
impl Reply {
    pub(crate) fn ok() -> Self {
        Self::Simple("OK".into())
    }

    pub(crate) fn error(text: &str) -> Self {
        Self::Error(text.into())
    }

    pub(crate) fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().into())
    }

    pub(crate) fn items(self) -> Vec<Self> {
        match self {
            Self::Array(items) => items,
            other => panic!("no array: {other:?}"),
        }
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        match self {
            Self::Bulk(bytes) => bytes,
            other => panic!("no bulk string: {other:?}"),
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::Simple(text) | Self::Error(text) => text,
            other => String::from_utf8(other.bytes()).expect("UTF-8"),
        }
    }
}

/// A request as a client sends it.
pub(crate) fn request<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend(format!("${}\r\n", argument.as_ref().len()).into_bytes());
        bytes.extend(argument.as_ref());
        bytes.extend(b"\r\n");
    }
    bytes
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection.
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

#[allow(dead_code, reason = "each test that has this module uses some")]
impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        Self::over(stream)
    }

    pub(crate) async fn connect_unix(path: &Path) -> Self {
        Self::over(UnixStream::connect(path).await.expect("connected"))
    }

    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// The same where the server may have closed.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }

    /// Sends, reads nothing; whether the server still has the connection.
    pub(crate) async fn probe(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(std::time::Duration::from_millis(10), self.stream.write_all(bytes)).await;
        !matches!(sent, Ok(Err(_)))
    }

    pub(crate) async fn ask<A: AsRef<[u8]> + Sync>(&mut self, arguments: &[A]) -> Reply {
        self.send(&request(arguments)).await;
        self.reply().await
    }

    /// Asks in words.
    pub(crate) async fn say(&mut self, words: &str) -> Reply {
        let words: Vec<&str> = words.split(' ').collect();
        self.ask(&words).await
    }

    /// Asks what must go well.
    pub(crate) async fn ok(&mut self, words: &str) {
        assert_eq!(self.say(words).await, Reply::ok(), "{words}");
    }

    /// Asks what must be refused; why it is.
    pub(crate) async fn refused(&mut self, words: &str) -> String {
        match self.say(words).await {
            Reply::Error(text) => text,
            other => panic!("{words}: {other:?}"),
        }
    }

    /// Whether the server has closed the connection, when all it sent is read.
    pub(crate) async fn has_ended(&mut self) -> bool {
        self.buffer.is_empty() && matches!(self.stream.read(&mut [0]).await, Ok(0) | Err(_))
    }

    /// The next reply; `None` where the server closed the connection before it.
    pub(crate) async fn try_reply(&mut self) -> Option<Reply> {
        if self.buffer.is_empty() && !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
            return None;
        }
        Some(self.reply().await)
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        let line = self.line().await;
        let (kind, rest) = line.split_at(1);
        let count = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Reply::Simple(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Number(rest.parse().expect("a number")),
            "$" => match usize::try_from(count()) {
                Err(_) => Reply::Nil,
                Ok(len) => {
                    let mut bytes = self.bytes(len + 2).await;
                    assert_eq!(bytes.split_off(len), b"\r\n");
                    Reply::Bulk(bytes)
                }
            },
            "*" => {
                let mut items = Vec::new();
                for _ in 0..count() {
                    items.push(Box::pin(self.reply()).await);
                }
                Reply::Array(items)
            }
            _ => panic!("no reply: {line:?}"),
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(len) = self.buffer.windows(2).position(|end| end == b"\r\n") {
                let mut line: Vec<u8> = self.buffer.drain(..len + 2).collect();
                line.truncate(len);
                return String::from_utf8(line).expect("UTF-8");
            }
            self.more().await;
        }
    }

    async fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            self.more().await;
        }
        self.buffer.drain(..len).collect()
    }

    async fn more(&mut self) {
        let len = self.stream.read_buf(&mut self.buffer).await.expect("read");
        assert!(len > 0, "the server closed the connection");
    }
}

/// What proves a password.
#[allow(dead_code, reason = "each test that has this module uses some")]
pub(crate) fn proof(challenge: &str, password: &str) -> String {
    use sha1::{Digest as _, Sha1};
    let digest = Sha1::digest(format!("{challenge}:{password}").as_bytes());
    digest.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}
