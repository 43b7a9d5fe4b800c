//! The laws of every wire, through the client `nfs3_client`.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use muxfs::{
    ErrorKind, FileKind,
    testing::wire::{Ability, Answer, Client, Refusal, Stat},
    vfs::Vfs,
};
use muxfs_local::{LocalOptions, LocalVfs};
use muxfs_nfs::{Server, serve, status_of};
use nfs3_client::{
    MountClient, Nfs3Client,
    nfs3_types::{
        mount::dirpath,
        nfs3::{
            COMMIT3args, CREATE3args, GETATTR3args, LOOKUP3args, MKDIR3args, Nfs3Option, Nfs3Result, READ3args,
            READDIR3args, READDIRPLUS3args, REMOVE3args, RENAME3args, RMDIR3args, WRITE3args, cookieverf3, createhow3,
            diropargs3, fattr3, filename3, ftype3, nfs_fh3, nfsstat3, sattr3, stable_how,
        },
        rpc::{auth_unix, opaque_auth},
        xdr_codec::Opaque,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};

use crate::raw::options;

/// How much one WRITE or READ carries.
const CHUNK_LEN: usize = 256 * 1024;

/// A socket in the terms of `nfs3_client`.
#[derive(Debug)]
pub(crate) struct Socket(TcpStream);

impl nfs3_client::io::AsyncRead for Socket {
    async fn async_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf).await {
            Ok(0) if !buf.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        }
    }
}

impl nfs3_client::io::AsyncWrite for Socket {
    async fn async_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf).await
    }
}

/// A client, and the server that lives as long as its clients.
#[derive(Debug)]
struct Wire {
    server: Arc<Server>,
    root: nfs_fh3,
    client: Mutex<Nfs3Client<Socket>>,
}

pub(crate) async fn connect(vfs: Arc<dyn Vfs>) -> Arc<dyn Client> {
    mount(Arc::new(serve(vfs, options()).expect("a free port"))).await
}

async fn mount(server: Arc<Server>) -> Arc<dyn Client> {
    let addr = server.local_addr();
    let root = MountClient::new_with_auth(dial(addr).await, root_user(), opaque_auth::default())
        .mnt(dirpath(Opaque::borrowed(b"/")))
        .await
        .expect("/ is exported");
    let client = Nfs3Client::new_with_auth(dial(addr).await, root_user(), opaque_auth::default());
    Arc::new(Wire { server, root: nfs_fh3 { data: root.fhandle.0 }, client: Mutex::new(client) })
}

pub(crate) async fn dial(addr: SocketAddr) -> Socket {
    Socket(TcpStream::connect(addr).await.expect("the server listens"))
}

pub(crate) fn root_user() -> opaque_auth<'static> {
    opaque_auth::auth_unix(&auth_unix::default())
}

pub(crate) fn answer<T, E>(result: Nfs3Result<T, E>) -> Answer<T> {
    match result {
        Nfs3Result::Ok(value) => Ok(value),
        Nfs3Result::Err((status, _)) => {
            let kind = ErrorKind::ALL.into_iter().find(|kind| status_of(*kind) == status);
            Err(kind.map_or_else(|| Refusal::Unnamed(format!("{status:?}")), Refusal::Kind))
        }
    }
}

pub(crate) fn at<'a>(dir: &nfs_fh3, name: &'a [u8]) -> diropargs3<'a> {
    diropargs3 { dir: dir.clone(), name: filename3::from(name) }
}

pub(crate) fn option<T: nfs3_client::nfs3_types::xdr_codec::Pack + nfs3_client::nfs3_types::xdr_codec::Unpack>(
    from: Nfs3Option<T>,
) -> T {
    match from {
        Nfs3Option::Some(value) => value,
        Nfs3Option::None => panic!("this server always tells"),
    }
}

impl Wire {
    async fn walk<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> Answer<nfs_fh3> {
        let mut node = self.root.clone();
        for part in parts {
            let args = LOOKUP3args { what: at(&node, part) };
            node = answer(self.client.lock().await.lookup(&args).await.expect("a reply"))?.object;
        }
        Ok(node)
    }

    async fn node(&self, path: &[u8]) -> Answer<nfs_fh3> {
        self.walk(parts(path)).await
    }

    async fn place<'a>(&self, path: &'a [u8]) -> Answer<(nfs_fh3, &'a [u8])> {
        let mut all: Vec<_> = parts(path).collect();
        let last = all.pop().expect("a name");
        Ok((self.walk(all.into_iter()).await?, last))
    }

    async fn attr(&self, node: nfs_fh3) -> Answer<fattr3> {
        let reply = self.client.lock().await.getattr(&GETATTR3args { object: node }).await;
        Ok(answer(reply.expect("a reply"))?.obj_attributes)
    }

    async fn write(&self, file: &nfs_fh3, mut offset: u64, data: &[u8]) -> Answer<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(CHUNK_LEN)];
            let count = u32::try_from(piece.len()).expect("is short");
            let args = WRITE3args {
                file: file.clone(),
                offset,
                count,
                stable: stable_how::UNSTABLE,
                data: Opaque::borrowed(piece),
            };
            let count = answer(self.client.lock().await.write(&args).await.expect("a reply"))?.count;
            offset += u64::from(count);
            rest = &rest[count as usize..];
        }
        let args = COMMIT3args { file: file.clone(), offset: 0, count: 0 };
        answer(self.client.lock().await.commit(&args).await.expect("a reply")).map(drop)
    }

    async fn names(&self, dir: &nfs_fh3) -> Answer<Vec<Vec<u8>>> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let args = READDIR3args { dir: dir.clone(), cookie, cookieverf: cookieverf3::default(), count: 1024 };
            let page = answer(self.client.lock().await.readdir(&args).await.expect("a reply"))?;
            for entry in page.reply.entries.0 {
                cookie = entry.cookie;
                names.push(entry.name.0.into_owned());
            }
            if page.reply.eof {
                return Ok(names);
            }
        }
    }

    async fn names_plus(&self, dir: &nfs_fh3) -> Answer<Vec<Vec<u8>>> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let cookieverf = cookieverf3::default();
            let args = READDIRPLUS3args { dir: dir.clone(), cookie, cookieverf, dircount: 2048, maxcount: 8192 };
            let page = answer(self.client.lock().await.readdirplus(&args).await.expect("a reply"))?;
            for entry in page.reply.entries.0 {
                cookie = entry.cookie;
                assert_eq!(option(entry.name_attributes).fileid, entry.fileid);
                assert!(entry.name_handle.is_some());
                names.push(entry.name.0.into_owned());
            }
            if page.reply.eof {
                return Ok(names);
            }
        }
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

#[async_trait]
impl Client for Wire {
    fn cannot(&self, _ability: Ability) -> Option<&'static str> {
        None
    }

    async fn another(&self) -> Arc<dyn Client> {
        mount(self.server.clone()).await
    }

    async fn mkdir(&self, path: &[u8]) -> Answer<()> {
        let (dir, name) = self.place(path).await?;
        let args = MKDIR3args { where_: at(&dir, name), attributes: sattr3::default() };
        answer(self.client.lock().await.mkdir(&args).await.expect("a reply")).map(drop)
    }

    async fn put(&self, path: &[u8], data: &[u8]) -> Answer<()> {
        let (dir, name) = self.place(path).await?;
        let set = sattr3 { size: Nfs3Option::Some(0), ..sattr3::default() };
        let args = CREATE3args { where_: at(&dir, name), how: createhow3::UNCHECKED(set) };
        let made = answer(self.client.lock().await.create(&args).await.expect("a reply"))?;
        self.write(&option(made.obj), 0, data).await
    }

    async fn write_at(&self, path: &[u8], offset: u64, data: &[u8]) -> Answer<()> {
        self.write(&self.node(path).await?, offset, data).await
    }

    async fn get(&self, path: &[u8]) -> Answer<Vec<u8>> {
        self.get_range(path, 0, usize::MAX).await
    }

    async fn get_range(&self, path: &[u8], offset: u64, len: usize) -> Answer<Vec<u8>> {
        let file = self.node(path).await?;
        let mut data = Vec::new();
        loop {
            let count = u32::try_from((len - data.len()).min(CHUNK_LEN)).expect("is short");
            let args = READ3args { file: file.clone(), offset: offset + data.len() as u64, count };
            let read = answer(self.client.lock().await.read(&args).await.expect("a reply"))?;
            data.extend_from_slice(&read.data);
            if read.eof || data.len() == len {
                return Ok(data);
            }
        }
    }

    async fn list(&self, path: &[u8]) -> Answer<Vec<Vec<u8>>> {
        let dir = self.node(path).await?;
        let (mut names, plus) = (self.names(&dir).await?, self.names_plus(&dir).await?);
        assert_eq!(names, plus, "both kinds of listing say the same");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "none twice");
        let dots: Vec<_> = names.drain(..2).collect();
        assert_eq!(dots, [b".".to_vec(), b"..".to_vec()]);
        Ok(names)
    }

    async fn stat(&self, path: &[u8]) -> Answer<Stat> {
        let attr = self.attr(self.node(path).await?).await?;
        let kind = match attr.type_ {
            ftype3::NF3REG => FileKind::File,
            ftype3::NF3DIR => FileKind::Dir,
            ftype3::NF3LNK => FileKind::Symlink,
            ftype3::NF3FIFO => FileKind::Fifo,
            ftype3::NF3SOCK => FileKind::Socket,
            ftype3::NF3CHR => FileKind::CharDevice,
            ftype3::NF3BLK => FileKind::BlockDevice,
        };
        Ok(Stat { kind, size: attr.size, mtime: SystemTime::from(attr.mtime) })
    }

    async fn rename(&self, from: &[u8], to: &[u8]) -> Answer<()> {
        let ((from_dir, from), (to_dir, to)) = (self.place(from).await?, self.place(to).await?);
        let args = RENAME3args { from: at(&from_dir, from), to: at(&to_dir, to) };
        answer(self.client.lock().await.rename(&args).await.expect("a reply")).map(drop)
    }

    async fn remove(&self, path: &[u8]) -> Answer<()> {
        let (dir, name) = self.place(path).await?;
        let args = REMOVE3args { object: at(&dir, name) };
        answer(self.client.lock().await.remove(&args).await.expect("a reply")).map(drop)
    }

    async fn rmdir(&self, path: &[u8]) -> Answer<()> {
        let (dir, name) = self.place(path).await?;
        let args = RMDIR3args { object: at(&dir, name) };
        answer(self.client.lock().await.rmdir(&args).await.expect("a reply")).map(drop)
    }
}

/// A kind that shares its status with another comes back as the first of the two: the laws only use the others.
#[test]
fn statuses_name_kinds() {
    assert_eq!(status_of(ErrorKind::NotFound), nfsstat3::NFS3ERR_NOENT);
    let shared = ErrorKind::ALL
        .into_iter()
        .filter(|kind| ErrorKind::ALL.into_iter().any(|other| other != *kind && status_of(other) == status_of(*kind)));
    let shared: Vec<_> = shared.collect();
    assert_eq!(shared.len(), 8, "NotFound and NoAttr, Denied and BadKey, InvalidArgument and Loop, Corrupt and Io");
}

muxfs::wire_laws!(nfs, connect);

/// An empty host directory, and what must outlive it.
#[expect(clippy::unused_async, reason = "another file system may take time to open")]
async fn local() -> (Arc<dyn Vfs>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let files = dir.path().join("files");
    std::fs::create_dir(&files).expect("is new");
    let handles = dir.path().join("handles");
    (LocalVfs::open(&files, &handles, LocalOptions::default()).expect("a host directory"), dir)
}

muxfs::wire_laws!(nfs_on_local, connect, on: local());
muxfs::wire_laws!(nfs_on_a_working_tree, connect, on: muxfs::testing::wire::working_tree());
