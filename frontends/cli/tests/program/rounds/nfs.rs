//! A client that writes pieces of files over NFS, some durable and some not yet, and keeps the handles of what it made.

use std::{
    io::{Error, ErrorKind, Result as IoResult},
    net::SocketAddr,
    sync::Arc,
};

use muxfs::testing::fault::Dice;
use nfs3_client::{
    Nfs3Connection, Nfs3ConnectionBuilder,
    io::{AsyncRead, AsyncWrite},
    net::Connector,
    nfs3_types::{
        nfs3::{
            COMMIT3args, CREATE3args, GETATTR3args, LOOKUP3args, MKDIR3args, Nfs3Option, Nfs3Result, READ3args,
            READDIR3args, REMOVE3args, RENAME3args, SETATTR3args, WRITE3args, cookieverf3, createhow3, nfs_fh3,
            nfsstat3, sattr3, sattrguard3, set_size3, stable_how,
        },
        rpc::{auth_unix, opaque_auth},
        xdr_codec::Opaque,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Expected, Lost, Round, State};
use crate::trees::at;

/// The longest write: what the server takes at once.
const WRITE_LEN_MAX: usize = 1 << 20;

type Called<T> = Result<T, Lost>;
type Nfs = Nfs3Connection<Stream>;

/// A connection whose end is an error: the client's own stream asks an ended one for ever.
struct Stream(TcpStream);

impl AsyncRead for Stream {
    async fn async_read(&mut self, buf: &mut [u8]) -> IoResult<usize> {
        match self.0.read(buf).await? {
            0 => Err(Error::from(ErrorKind::UnexpectedEof)),
            len => Ok(len),
        }
    }
}

impl AsyncWrite for Stream {
    async fn async_write(&mut self, buf: &[u8]) -> IoResult<usize> {
        self.0.write(buf).await
    }
}

struct Streams;

impl Connector for Streams {
    type Connection = Stream;

    async fn connect(&self, addr: SocketAddr) -> IoResult<Stream> {
        TcpStream::connect(addr).await.map(Stream)
    }

    async fn connect_with_port(&self, addr: SocketAddr, _local_port: u16) -> IoResult<Stream> {
        self.connect(addr).await
    }
}

/// Mounts `/` as root: whoever that is to a server of another user.
async fn mount(addr: SocketAddr) -> Called<Nfs> {
    let builder = Nfs3ConnectionBuilder::new(Streams, addr.ip().to_string(), "/")
        .connect_from_privileged_port(false)
        .credential(opaque_auth::auth_unix(&auth_unix::default()))
        .nfs3_port(addr.port())
        .mount_port(addr.port());
    builder.mount().await.map_err(|_| Lost)
}

/// A file: what it holds, and its handle once the server told it.
#[derive(Debug, Clone)]
struct Node {
    handle: Option<nfs_fh3>,
    bytes: Arc<Vec<u8>>,
}

pub(super) struct NfsClient {
    prefix: &'static str,
    dir: String,
    dice: Dice,
    expected: Expected<Node>,
}

/// What a call said; a status that no working server gives fails the test.
fn called<T, E, L>(what: &str, result: Result<Nfs3Result<T, E>, L>) -> Called<T> {
    match result {
        Ok(Nfs3Result::Ok(value)) => Ok(value),
        Ok(Nfs3Result::Err((status, _))) => panic!("{what}: {status:?}"),
        Err(_) => Err(Lost),
    }
}

impl NfsClient {
    pub(super) fn new(prefix: &'static str, dir: String, seed: u64) -> Self {
        Self { prefix, dir, dice: Dice::new(seed), expected: Expected::new() }
    }

    /// Looks at what is there, and works until the server is gone.
    pub(super) async fn run(&mut self, addr: SocketAddr, round: &Round) {
        let Ok(mut nfs) = mount(addr).await else { return };
        let Ok(dir) = self.look(&mut nfs).await else { return };
        while self.step(&mut nfs, &dir).await.is_ok() {
            round.answered();
        }
    }

    async fn look(&mut self, nfs: &mut Nfs) -> Called<nfs_fh3> {
        // First by the handles of before, while the server knows nothing yet of what they name.
        for (name, node) in &self.expected.states[0] {
            let Some(handle) = &node.handle else { continue };
            let goes =
                self.expected.states.iter().any(|state| {
                    !state.values().any(|other| other.handle.as_ref().is_some_and(|other| other == handle))
                });
            if !goes {
                let what = format!("{}/{name} by its handle of before", self.dir);
                called(&what, nfs.getattr(&GETATTR3args { object: handle.clone() }).await)?;
            }
        }
        let root = nfs.root_nfs_fh3();
        let mounted = called("lookup", nfs.lookup(&LOOKUP3args { what: at(&root, self.prefix) }).await)?.object;
        let args = MKDIR3args { where_: at(&mounted, &self.dir), attributes: sattr3::default() };
        match nfs.mkdir(&args).await {
            Ok(Nfs3Result::Err((nfsstat3::NFS3ERR_EXIST, _))) => {}
            made => called("mkdir", made).map(drop)?,
        }
        let what = at(&mounted, &self.dir);
        let dir = called("lookup", nfs.lookup(&LOOKUP3args { what }).await)?.object;
        let mut found = State::new();
        for name in list(nfs, &dir).await? {
            let handle = called("lookup", nfs.lookup(&LOOKUP3args { what: at(&dir, &name) }).await)?.object;
            let bytes = Arc::new(read(nfs, &handle).await?);
            found.insert(name, Node { handle: Some(handle), bytes });
        }
        let is_same = |(name, node): (&String, &Node), (found_name, found): (&String, &Node)| {
            name == found_name && node.bytes == found.bytes && (node.handle.is_none() || node.handle == found.handle)
        };
        let is_found = |state: &State<Node>| {
            state.len() == found.len() && state.iter().zip(&found).all(|(node, found)| is_same(node, found))
        };
        let lens = |state: &State<Node>| {
            state.iter().map(|(name, node)| format!("{name} {}", node.bytes.len())).collect::<Vec<_>>().join(", ")
        };
        self.expected.found(&self.dir, is_found, |states| {
            format!("{}; may be:\n{}", lens(&found), states.iter().map(lens).collect::<Vec<_>>().join("\n"))
        });
        self.expected.states = vec![found];
        Ok(dir)
    }

    async fn step(&mut self, nfs: &mut Nfs, dir: &nfs_fh3) -> Called<()> {
        let name = format!("f{}", self.dice.roll(8));
        let Some(Node { handle: Some(handle), bytes }) = self.expected.now().get(&name).cloned() else {
            return self.create(nfs, dir, &name).await;
        };
        match self.dice.roll(12) {
            0 => {
                self.expected.begin(|state| {
                    state.remove(&name);
                });
                called("remove", nfs.remove(&REMOVE3args { object: at(dir, &name) }).await)?;
                self.expected.settle();
            }
            1 => {
                let to = format!("f{}", self.dice.roll(8));
                self.expected.begin(|state| {
                    let node = state.remove(&name).expect("it is there");
                    state.insert(to.clone(), node);
                });
                called("rename", nfs.rename(&RENAME3args { from: at(dir, &name), to: at(dir, &to) }).await)?;
                if to != name {
                    self.expected.settle();
                }
            }
            2 => {
                let len = self.dice.roll(30_000);
                self.change(&name, |bytes| bytes.resize(len, 0));
                let new_attributes = sattr3 { size: set_size3::Some(len as u64), ..sattr3::default() };
                let args = SETATTR3args { object: handle, new_attributes, guard: sattrguard3::None };
                called("setattr", nfs.setattr(&args).await)?;
                self.expected.settle();
            }
            3 | 4 => {
                called("commit", nfs.commit(&COMMIT3args { file: handle, offset: 0, count: 0 }).await)?;
                self.expected.settle();
            }
            5 | 6 => assert!(read(nfs, &handle).await? == *bytes, "{}/{name} differs", self.dir),
            _ => self.write(nfs, &name, &handle).await?,
        }
        Ok(())
    }

    async fn create(&mut self, nfs: &mut Nfs, dir: &nfs_fh3, name: &str) -> Called<()> {
        let empty = Node { handle: None, bytes: Arc::default() };
        self.expected.begin(|state| {
            state.insert(name.into(), empty);
        });
        let how = createhow3::GUARDED(sattr3::default());
        let made = called("create", nfs.create(&CREATE3args { where_: at(dir, name), how }).await)?;
        self.expected.settle();
        let Nfs3Option::Some(handle) = made.obj else { panic!("a created file has a handle") };
        let state = self.expected.states.last_mut().expect("there is always one");
        state.get_mut(name).expect("it is there").handle = Some(handle);
        Ok(())
    }

    async fn write(&mut self, nfs: &mut Nfs, name: &str, handle: &nfs_fh3) -> Called<()> {
        let (offset, len) = match self.dice.roll(10) {
            // Whole chunks, which do not go through the journal.
            0 => (WRITE_LEN_MAX * self.dice.roll(2), WRITE_LEN_MAX),
            _ => (self.dice.roll(30_000), 1 + self.dice.roll(9_000)),
        };
        let data = self.dice.bytes(len);
        self.change(name, |bytes| {
            let end = offset + len;
            bytes.resize(bytes.len().max(end), 0);
            bytes[offset..end].copy_from_slice(&data);
        });
        let stable = if self.dice.roll(2) == 0 { stable_how::FILE_SYNC } else { stable_how::UNSTABLE };
        let count = u32::try_from(len).expect("short");
        let data = Opaque::borrowed(&data);
        let args = WRITE3args { file: handle.clone(), offset: offset as u64, count, stable, data };
        let written = called("write", nfs.write(&args).await)?;
        assert_eq!(written.count, count);
        if written.committed == stable_how::FILE_SYNC {
            self.expected.settle();
        }
        Ok(())
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        self.expected.begin(|state| {
            let node = state.get_mut(name).expect("it is there");
            let mut bytes = node.bytes.to_vec();
            change(&mut bytes);
            node.bytes = Arc::new(bytes);
        });
    }
}

async fn list(nfs: &mut Nfs, dir: &nfs_fh3) -> Called<Vec<String>> {
    let (mut names, mut cookie, mut cookieverf) = (Vec::new(), 0, cookieverf3::default());
    loop {
        let args = READDIR3args { dir: dir.clone(), cookie, cookieverf, count: 64 << 10 };
        let page = called("readdir", nfs.readdir(&args).await)?;
        cookieverf = page.cookieverf;
        for entry in page.reply.entries.0 {
            cookie = entry.cookie;
            let name = String::from_utf8(entry.name.0.to_vec()).expect("its own names");
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        if page.reply.eof {
            return Ok(names);
        }
    }
}

async fn read(nfs: &mut Nfs, file: &nfs_fh3) -> Called<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let args = READ3args { file: file.clone(), offset: bytes.len() as u64, count: 1 << 20 };
        let piece = called("read", nfs.read(&args).await)?;
        bytes.extend_from_slice(&piece.data);
        if piece.eof {
            return Ok(bytes);
        }
    }
}
