//! A client that sees bytes: what a library would hide or refuse to send.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use muxfs::{testing, testing::model::ModelFs, vfs::Vfs};
use muxfs_nfs::{Options, Server, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(crate) const NFS: (u32, u32) = (100_003, 3);
pub(crate) const MOUNT: (u32, u32) = (100_005, 3);
pub(crate) const PORTMAP: (u32, u32) = (100_000, 2);

/// Long enough for any machine; only a hang meets it.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const OK: u32 = 0;
pub(crate) const PERM: u32 = 1;
pub(crate) const NOENT: u32 = 2;
pub(crate) const IO: u32 = 5;
pub(crate) const ACCES: u32 = 13;
pub(crate) const EXIST: u32 = 17;
pub(crate) const NOTDIR: u32 = 20;
pub(crate) const ISDIR: u32 = 21;
pub(crate) const INVAL: u32 = 22;
pub(crate) const FBIG: u32 = 27;
pub(crate) const ROFS: u32 = 30;
pub(crate) const NAMETOOLONG: u32 = 63;
pub(crate) const NOTEMPTY: u32 = 66;
pub(crate) const STALE: u32 = 70;
pub(crate) const BADHANDLE: u32 = 10001;
pub(crate) const NOT_SYNC: u32 = 10002;
pub(crate) const BAD_COOKIE: u32 = 10003;
pub(crate) const TOOSMALL: u32 = 10005;
pub(crate) const BADTYPE: u32 = 10007;
pub(crate) const JUKEBOX: u32 = 10008;

/// Options for a server on a free port of loopback.
pub(crate) fn options() -> Options {
    Options { addr: ([127, 0, 0, 1], 0).into(), ..Options::default() }
}

pub(crate) fn model() -> (Arc<ModelFs>, Server) {
    model_with(options())
}

pub(crate) fn model_with(options: Options) -> (Arc<ModelFs>, Server) {
    let fs = ModelFs::new(testing::env());
    let server = serve(fs.clone() as Arc<dyn Vfs>, options).expect("a free port");
    (fs, server)
}

/// XDR being built.
#[derive(Debug, Clone, Default)]
pub(crate) struct Args(pub(crate) Vec<u8>);

impl Args {
    pub(crate) fn new() -> Self {
        Self::default()
    }
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub(crate) fn opaque(mut self, bytes: &[u8]) -> Self {
        self = self.u32(bytes.len().try_into().expect("is short"));
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
    /// A sattr3: mode, uid, gid, size, no times.
    pub(crate) fn sattr(self, mode: Option<u32>, size: Option<u64>) -> Self {
        let set = match mode {
            Some(mode) => self.u32(1).u32(mode),
            None => self.u32(0),
        };
        let set = set.u32(0).u32(0);
        let set = match size {
            Some(size) => set.u32(1).u64(size),
            None => set.u32(0),
        };
        set.u32(0).u32(0)
    }
}

/// XDR being read; panics where a reply is shorter than it must be.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    at: usize,
}

impl Reply {
    pub(crate) fn u32(&mut self) -> u32 {
        let bytes = self.bytes[self.at..self.at + 4].try_into().expect("four");
        self.at += 4;
        u32::from_be_bytes(bytes)
    }
    pub(crate) fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }
    pub(crate) fn opaque(&mut self) -> Vec<u8> {
        let len = self.u32() as usize;
        let bytes = self.bytes[self.at..self.at + len].to_vec();
        self.at += len.next_multiple_of(4);
        bytes
    }
    /// Skips a `post_op_attr` and says what it was.
    pub(crate) fn post_op(&mut self) -> Option<Fattr> {
        (self.u32() == 1).then(|| self.fattr())
    }
    pub(crate) fn fattr(&mut self) -> Fattr {
        let mut next = || self.u32();
        let (kind, mode, nlink, uid, gid) = (next(), next(), next(), next(), next());
        let (size, _used, _rdev, fsid, fileid) = (self.u64(), self.u64(), self.u64(), self.u64(), self.u64());
        let (atime, mtime, ctime) = (self.u64(), self.u64(), self.u64());
        Fattr { kind, mode, nlink, uid, gid, size, fsid, fileid, atime, mtime, ctime }
    }
    /// Skips `wcc_data` and says whether each half was there.
    pub(crate) fn wcc(&mut self) -> (bool, bool) {
        let before = self.u32() == 1;
        if before {
            self.at += 24;
        }
        (before, self.post_op().is_some())
    }
    pub(crate) fn at_end(&self) -> bool {
        self.at == self.bytes.len()
    }
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fattr {
    pub(crate) kind: u32,
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) fsid: u64,
    pub(crate) fileid: u64,
    pub(crate) atime: u64,
    pub(crate) mtime: u64,
    pub(crate) ctime: u64,
}

/// `AUTH_UNIX` credentials, or `AUTH_NONE`.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) flavor: u32,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn nobody() -> Credentials {
    Credentials { flavor: 0, body: vec![] }
}

pub(crate) fn unix(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
    let mut args = Args::new().u32(0).opaque(b"test").u32(uid).u32(gid).u32(groups.len().try_into().expect("few"));
    for group in groups {
        args = args.u32(*group);
    }
    Credentials { flavor: 1, body: args.0 }
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) credentials: Credentials,
    pub(crate) xid: u32,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("the server listens");
        Self { stream, credentials: unix(0, 0, &[]), xid: 1 }
    }

    pub(crate) fn with(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// A call as a record without its mark.
    pub(crate) fn encode(&self, xid: u32, program: (u32, u32), procedure: u32, args: &[u8]) -> Vec<u8> {
        let head = Args::new().u32(xid).u32(0).u32(2).u32(program.0).u32(program.1).u32(procedure);
        let head = head.u32(self.credentials.flavor).opaque(&self.credentials.body).u32(0).u32(0);
        [&head.0, args].concat()
    }

    pub(crate) async fn send_record(&mut self, record: &[u8]) {
        let mark = u32::try_from(record.len()).expect("is short") | 1 << 31;
        self.send(&[&mark.to_be_bytes(), record].concat()).await;
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    pub(crate) async fn send_call(&mut self, xid: u32, program: (u32, u32), procedure: u32, args: Args) {
        let record = self.encode(xid, program, procedure, &args.0);
        self.send_record(&record).await;
    }

    /// One whole record; `None` when the server has closed.
    pub(crate) async fn receive(&mut self) -> Option<Vec<u8>> {
        let read = async {
            let mark = self.stream.read_u32().await.ok()?;
            assert_eq!(mark >> 31, 1, "replies are one fragment");
            let mut record = vec![0; (mark & 0x7fff_ffff) as usize];
            self.stream.read_exact(&mut record).await.ok()?;
            Some(record)
        };
        timeout(PATIENCE, read).await.expect("no reply")
    }

    /// The results of a reply that was accepted with success.
    pub(crate) async fn results(&mut self, xid: u32) -> Reply {
        let record = self.receive().await.expect("the server closed");
        let mut reply = Reply { bytes: record, at: 0 };
        let head: Vec<u32> = (0..6).map(|_| reply.u32()).collect();
        assert_eq!(head, [xid, 1, 0, 0, 0, 0], "an accepted, successful reply");
        reply
    }

    pub(crate) async fn call(&mut self, program: (u32, u32), procedure: u32, args: Args) -> Reply {
        self.xid += 1;
        let xid = self.xid;
        self.send_call(xid, program, procedure, args).await;
        self.results(xid).await
    }

    /// A call of NFS: its status, and the results behind it.
    pub(crate) async fn nfs(&mut self, procedure: u32, args: Args) -> (u32, Reply) {
        let mut reply = self.call(NFS, procedure, args).await;
        (reply.u32(), reply)
    }

    pub(crate) async fn root(&mut self) -> Vec<u8> {
        self.mount(b"/").await.expect("/ is exported")
    }

    pub(crate) async fn mount(&mut self, path: &[u8]) -> Result<Vec<u8>, u32> {
        let mut reply = self.call(MOUNT, 1, Args::new().opaque(path)).await;
        match reply.u32() {
            0 => Ok(reply.opaque()),
            status => Err(status),
        }
    }

    /// LOOKUP, to the handle.
    pub(crate) async fn lookup(&mut self, dir: &[u8], name: &[u8]) -> Result<Vec<u8>, u32> {
        let (status, mut reply) = self.nfs(3, Args::new().opaque(dir).opaque(name)).await;
        if status == OK { Ok(reply.opaque()) } else { Err(status) }
    }

    /// CREATE GUARDED, to the handle.
    pub(crate) async fn create(&mut self, dir: &[u8], name: &[u8], mode: u32) -> Vec<u8> {
        let (status, mut reply) =
            self.nfs(8, Args::new().opaque(dir).opaque(name).u32(1).sattr(Some(mode), None)).await;
        assert_eq!(status, OK, "CREATE {}", name.escape_ascii());
        assert_eq!(reply.u32(), 1);
        reply.opaque()
    }

    pub(crate) async fn mkdir(&mut self, dir: &[u8], name: &[u8], mode: u32) -> Vec<u8> {
        let (status, mut reply) = self.nfs(9, Args::new().opaque(dir).opaque(name).sattr(Some(mode), None)).await;
        assert_eq!(status, OK, "MKDIR {}", name.escape_ascii());
        assert_eq!(reply.u32(), 1);
        reply.opaque()
    }

    /// WRITE, to its status and results.
    pub(crate) async fn write(&mut self, file: &[u8], offset: u64, stable: u32, data: &[u8]) -> (u32, Reply) {
        let count = data.len().try_into().expect("is short");
        self.nfs(7, Args::new().opaque(file).u64(offset).u32(count).u32(stable).opaque(data)).await
    }

    /// READ, to data and eof.
    pub(crate) async fn read(&mut self, file: &[u8], offset: u64, count: u32) -> Result<(Vec<u8>, bool), u32> {
        let (status, mut reply) = self.nfs(6, Args::new().opaque(file).u64(offset).u32(count)).await;
        if status != OK {
            return Err(status);
        }
        assert!(reply.post_op().is_some());
        let (count, eof) = (reply.u32(), reply.u32() == 1);
        let data = reply.opaque();
        assert_eq!(count as usize, data.len());
        assert!(reply.at_end());
        Ok((data, eof))
    }

    pub(crate) async fn getattr(&mut self, file: &[u8]) -> Result<Fattr, u32> {
        let (status, mut reply) = self.nfs(1, Args::new().opaque(file)).await;
        if status == OK { Ok(reply.fattr()) } else { Err(status) }
    }
}

/// Waits for a condition that another task brings about.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool + Send + Sync) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
