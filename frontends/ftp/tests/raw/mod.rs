//! A client that sends what it is told, byte for byte: for what a well-behaved one never does.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use muxfs::{
    Name,
    testing::{self, model::ModelFs},
    vfs::{Lease, NewNode, SetAttr, Vfs},
};
use muxfs_ftp::{Options, Server};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Options of a test: a free port of loopback, the clock of the tests, no waiting.
pub(crate) fn options() -> Options {
    Options {
        addr: ([127, 0, 0, 1], 0).into(),
        login_delay: std::time::Duration::ZERO,
        env: testing::env(),
        ..Options::default()
    }
}

/// A model whose root anybody may write to.
pub(crate) async fn model() -> Arc<ModelFs> {
    model_on(testing::env()).await
}

pub(crate) async fn model_on(env: muxfs::Env) -> Arc<ModelFs> {
    let fs = ModelFs::new(env);
    let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    fs.setattr(fs.root(), open).await.expect("the root is opened");
    fs
}

/// Serves a file system.
pub(crate) async fn start(vfs: Arc<dyn Vfs>, options: Options) -> Server {
    muxfs_ftp::serve(vfs, options).await.expect("the server starts")
}

/// Makes a node below the root, without FTP; directories on the way are made too.
pub(crate) async fn make(fs: &Arc<ModelFs>, path: &str, node: NewNode, content: &[u8]) {
    let vfs: Arc<dyn Vfs> = fs.clone();
    vfs.retain(vfs.root());
    let mut dir = Lease::adopt(vfs.clone(), vfs.root());
    let mut names: Vec<Name> = path.split('/').map(|part| Name::new(part.as_bytes()).expect("a name")).collect();
    let last = names.pop().expect("a path has a name");
    for name in names {
        let found = if let Ok(found) = vfs.lookup(dir.ino(), &name).await {
            found
        } else {
            let set = SetAttr { mode: Some(0o777), ..SetAttr::default() };
            vfs.create(dir.ino(), &name, NewNode::Dir, set).await.expect("a directory is made").node
        };
        dir = Lease::adopt(vfs.clone(), found.ino);
    }
    let mode = if matches!(node, NewNode::Dir) { 0o777 } else { 0o666 };
    let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
    let node = vfs.create(dir.ino(), &last, node, set).await.expect("a node is made").node;
    let lease = Lease::adopt(vfs.clone(), node.ino);
    if !content.is_empty() {
        vfs.write(lease.ino(), 0, Bytes::copy_from_slice(content), false).await.expect("a file is written");
    }
}

pub(crate) async fn make_file(fs: &Arc<ModelFs>, path: &str, content: &[u8]) {
    make(fs, path, NewNode::File, content).await;
}

pub(crate) async fn make_link(fs: &Arc<ModelFs>, path: &str, target: &str) {
    make(fs, path, NewNode::Symlink(Bytes::copy_from_slice(target.as_bytes())), b"").await;
}

/// What is in the root, whoever hides it: the names.
pub(crate) async fn names(fs: &Arc<ModelFs>) -> Vec<String> {
    let page = fs.readdir(fs.root(), muxfs::vfs::Cookie::START, 1000, muxfs::vfs::Listing::Names).await;
    let page = page.expect("the root is listed");
    page.entries.iter().map(|entry| String::from_utf8_lossy(entry.name.as_bytes()).into_owned()).collect()
}

/// Waits until every lease is back.
pub(crate) async fn at_rest(fs: &Arc<ModelFs>) {
    let wait = async {
        while fs.lease_count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(30), wait).await;
    assert!(waited.is_ok(), "{} leases were never given back", fs.lease_count());
}

#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) control: BufReader<TcpStream>,
    pub(crate) server: SocketAddr,
}

impl Raw {
    /// Connects and takes the greeting.
    pub(crate) async fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).await.expect("connects");
        let mut raw = Self { control: BufReader::new(stream), server };
        assert_eq!(raw.reply().await.0, 220);
        raw
    }

    /// Connects and logs in as anybody.
    pub(crate) async fn enter(server: SocketAddr) -> Self {
        Self::enter_as(server, "ann", "x").await
    }

    pub(crate) async fn enter_as(server: SocketAddr, user: &str, password: &str) -> Self {
        let mut raw = Self::connect(server).await;
        raw.want(&format!("USER {user}"), 331).await;
        raw.want(&format!("PASS {password}"), 230).await;
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.control.get_mut().write_all(bytes).await.expect("sends");
    }

    /// The next reply: its code and all its lines.
    pub(crate) async fn reply(&mut self) -> (u16, String) {
        self.try_reply().await.expect("the server replies")
    }

    /// The next reply, `None` at the end of the connection.
    pub(crate) async fn try_reply(&mut self) -> Option<(u16, String)> {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            let read = self.control.read_until(b'\n', &mut line).await;
            if !matches!(read, Ok(count) if count > 0) {
                return None;
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            text.push_str(&line);
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
            if let (Some(code), Some(' ')) = (code, line.chars().nth(3)) {
                return Some((code, text));
            }
        }
    }

    /// Sends a command and returns the reply.
    pub(crate) async fn ask(&mut self, command: &str) -> (u16, String) {
        self.send(format!("{command}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// Sends a command that is answered with this code.
    pub(crate) async fn want(&mut self, command: &str, code: u16) -> String {
        let (got, text) = self.ask(command).await;
        assert_eq!(got, code, "{command}: {text}");
        text
    }

    /// Opens a passive data connection.
    pub(crate) async fn passive(&mut self) -> TcpStream {
        let text = self.want("EPSV", 229).await;
        let port = text.split('|').nth(3).and_then(|port| port.parse::<u16>().ok()).expect("a port");
        TcpStream::connect((self.server.ip(), port)).await.expect("connects to the data port")
    }

    /// Opens an active data connection: the listener.
    pub(crate) async fn active(&mut self) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let [high, low] = listener.local_addr().expect("bound").port().to_be_bytes();
        self.want(&format!("PORT 127,0,0,1,{high},{low}"), 200).await;
        listener
    }

    /// Begins a transfer: the data connection, after 150.
    pub(crate) async fn begin(&mut self, command: &str) -> TcpStream {
        let data = self.passive().await;
        self.want(command, 150).await;
        data
    }

    /// Uploads and returns the code of the end.
    pub(crate) async fn put(&mut self, command: &str, content: &[u8]) -> u16 {
        let mut data = self.begin(command).await;
        data.write_all(content).await.expect("sends data");
        drop(data);
        self.reply().await.0
    }

    /// Downloads, or gets a listing.
    pub(crate) async fn get(&mut self, command: &str) -> Vec<u8> {
        let mut data = self.begin(command).await;
        let mut content = Vec::new();
        data.read_to_end(&mut content).await.expect("reads data");
        assert_eq!(self.reply().await.0, 226, "{command}");
        content
    }

    /// The lines of a listing.
    pub(crate) async fn lines(&mut self, command: &str) -> Vec<String> {
        let text = self.get(command).await;
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}
