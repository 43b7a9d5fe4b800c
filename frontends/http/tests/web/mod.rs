//! A server over blocks in memory, and a client that says exactly what it is told to say.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use muxfs::{
    BlockKey, BlockStore, Cid, Mount, MuxFs, Prefix,
    block::Mem,
    dag::{Dag, DagOptions},
    media::MemMedia,
    pins::Pins,
    vfs::{Vfs, posix::Caller},
};
use muxfs_http::{Options, Server, Token, Writing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What lets its bearer write, and how it is shown.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const OWNER: &str = "Bearer 0123456789abcdef0123456789abcdef";

/// All of a file system is written by who shows the token, as root.
pub(crate) fn writing(vfs: Arc<dyn Vfs>) -> Writing {
    Writing {
        vfs,
        token: Token::new(TOKEN).expect("a token"),
        caller: Caller { uid: 0, gid: 0, groups: Vec::new() },
        sync_names_except: Vec::new(),
    }
}

/// What a client sends for a user.
pub(crate) fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", multibase::Base::Base64Pad.encode(format!("{name}:{password}")))
}

/// A server of `/ipfs`, and of the same blocks as `/zstor`.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) blocks: Arc<Mem>,
    pub(crate) dag: Dag,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let blocks = Arc::new(Mem::default());
        Self::over(blocks.clone(), blocks, options).await
    }

    /// Serves `below`, which holds what `blocks` does.
    pub(crate) async fn over(below: Arc<dyn BlockStore>, blocks: Arc<Mem>, options: Options) -> Self {
        let dag = Dag::new(below, DagOptions { verified_len_max: 0, ..DagOptions::default() });
        let pins = Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await.expect("opens");
        let mut mux = MuxFs::new();
        let pins = Arc::new(pins);
        for prefix in ["ipfs", "zstor"] {
            let prefix = Prefix::new(prefix).expect("a prefix");
            mux.mount(Mount::cas(prefix, dag.clone(), pins.clone())).expect("mounts");
        }
        let options = Options { addr: ([127, 0, 0, 1], 0).into(), ..options };
        Self { server: muxfs_http::serve(mux, options).expect("listens"), blocks, dag }
    }

    /// Puts every block of a CAR, whatever its hash function and codec are.
    pub(crate) async fn load(&self, car: &[u8]) {
        let mut rest = car;
        let header = section(&mut rest);
        assert!(header.ends_with(b"gversion\x01"), "a CAR of version 1");
        while !rest.is_empty() {
            let section = section(&mut rest);
            let len = cid_len(section);
            let (cid, block) = section.split_at(len);
            let cid = Cid::from_bytes(cid).expect("a CID");
            cid.verify(block).expect("the block of the CID");
            self.blocks.put(&BlockKey::from(&cid), Bytes::copy_from_slice(block)).await.expect("put");
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[]).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        ask(self.addr(), method, path, headers).await
    }
}

fn varint(rest: &mut &[u8]) -> usize {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (byte, tail) = rest.split_first().expect("a varint");
        *rest = tail;
        value |= usize::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            return value;
        }
    }
}

fn section<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let len = varint(rest);
    let (section, tail) = rest.split_at(len);
    *rest = tail;
    section
}

fn cid_len(section: &[u8]) -> usize {
    if section.starts_with(&[0x12, 0x20]) {
        return 34;
    }
    let mut rest = section;
    for _ in 0..3 {
        varint(&mut rest);
    }
    let digest = varint(&mut rest);
    section.len() - rest.len() + digest
}

/// The CIDs of a CAR: its roots, then those of its blocks in their order. Every block is verified.
pub(crate) fn read_car(car: &[u8]) -> (Vec<Cid>, Vec<Cid>) {
    let mut rest = car;
    let header = muxfs::dag::cbor::decode(section(&mut rest)).expect("dag-cbor");
    let muxfs::dag::Ipld::Map(header) = header else { panic!("a header is a map") };
    assert_eq!(header["version"], muxfs::dag::Ipld::Integer(1));
    let muxfs::dag::Ipld::List(roots) = &header["roots"] else { panic!("roots are a list") };
    let root = |root: &muxfs::dag::Ipld| match root {
        muxfs::dag::Ipld::Link(cid) => **cid,
        other => panic!("a root is a link, not {other:?}"),
    };
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let section = section(&mut rest);
        let (cid, block) = section.split_at(cid_len(section));
        let cid = Cid::from_bytes(cid).expect("a CID");
        cid.verify(block).expect("the block of the CID");
        blocks.push(cid);
    }
    (roots.iter().map(root).collect(), blocks)
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether all of the body came that was announced.
    pub(crate) is_whole: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_lowercase();
        self.headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks on a connection of its own.
pub(crate) async fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut lines = vec![format!("{method} {path} HTTP/1.1")];
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        lines.push(format!("Host: {addr}"));
    }
    lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
    let request = lines.join("\r\n") + "\r\nConnection: close\r\n\r\n";
    say(addr, request.as_bytes(), method == "HEAD").await
}

/// Sends a body along, on a connection of its own.
pub(crate) async fn send(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {}\r\n", body.len());
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
    let request = [head.as_bytes(), lines.as_bytes(), b"Connection: close\r\n\r\n", body].concat();
    say(addr, &request, false).await
}

/// Says these bytes, and reads what comes back until the other end closes.
pub(crate) async fn say(addr: SocketAddr, request: &[u8], is_head: bool) -> Reply {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    // Who is refused early may find the connection closed before all was said.
    stream.write_all(request).await.ok();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.ok();
    reply(&all, is_head)
}

pub(crate) fn reply(all: &[u8], is_head: bool) -> Reply {
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("no head in {:?}", all.escape_ascii().to_string().chars().take(200).collect::<String>())
    });
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let rest = &all[end + 4..];
    let mut lines = head.split("\r\n");
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok()).expect("a status");
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let value = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let (body, is_whole) = if is_head || status == 304 || status == 204 {
        (rest.to_vec(), true)
    } else if value("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        unchunk(rest)
    } else {
        let len: usize = value("content-length").expect("a length").parse().expect("a number");
        (rest.to_vec(), rest.len() == len)
    };
    Reply { status, headers, body, is_whole }
}

/// The content of chunks, and whether they ended as they should.
fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.expect("the size of a chunk");
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, rest == b"\r\n");
        }
        let Some(chunk) = rest.get(..size) else { return ([&body, rest].concat(), false) };
        body.extend_from_slice(chunk);
        let Some(tail) = rest.get(size + 2..) else { return (body, false) };
        rest = tail;
    }
}
