//! A storage backend for libunftp: for programs that have it already and want to serve a [`Vfs`] with it.
//!
//! Everything below the protocol is what [`serve`](crate::serve) uses: paths, symlinks, listings, partial uploads. What
//! libunftp keeps to itself cannot be mended here, and spec/adr/0010-ftp-control.md lists it. Three things are refused rather
//! than answered wrongly: a relative path, which only comes from an MLST that was told nothing of the working directory;
//! a name with U+FFFD, which stands for bytes that were lost on the way; and REST at another place than the end of what
//! is there, since an offset may be left over from a transfer that failed. Nothing tells a backend that the control
//! connection is gone: an upload appears at the end of its data.

use std::{
    fmt::Debug,
    io::{self, Cursor},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use muxfs::{
    Env, FileKind, Name,
    vfs::{Attr, Cookie, RemoveKind, Vfs, posix::Caller},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use unftp_core::{
    auth::UserDetail,
    storage::{Error, ErrorKind, FEATURE_RESTART, Fileinfo, Metadata, Permissions, Result, StorageBackend},
};

use crate::{
    listing::{self, Entry, Form},
    path, reply,
    transfer::CHUNK_LEN,
    tree::{Last, Node, Tree, plain_file},
    upload::{Slots, Start, Upload, Uploader},
};

/// One user's view of a file system as libunftp wants it. Clones share it.
#[derive(Debug, Clone)]
pub struct Backend {
    tree: Arc<Tree>,
    slots: Arc<Slots>,
    env: Env,
    partial_lifetime: Duration,
}

impl Backend {
    /// Makes the view of `caller` below `home`, to which no path leads out.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> muxfs::Result<()> {
    /// use muxfs::{testing::{self, model::ModelFs}, vfs::posix::Caller};
    /// let caller = Caller { uid: 0, gid: 0, groups: vec![] };
    /// let backend = muxfs_ftp::Backend::open(ModelFs::new(testing::env()), caller, "/", testing::env()).await?;
    /// # drop(backend);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotFound` or `NotDir` where `home` is no directory; `Denied`.
    pub async fn open(vfs: Arc<dyn Vfs>, caller: Caller, home: &str, env: Env) -> muxfs::Result<Self> {
        let home = path::parse(&[], home.as_bytes())?;
        let defaults = crate::Options::default();
        let tree = Tree::open(vfs, caller, &home, false, &defaults).await?;
        Ok(Self { tree: Arc::new(tree), slots: Arc::default(), env, partial_lifetime: defaults.partial_lifetime })
    }

    fn now(&self) -> SystemTime {
        (self.env.now)()
    }

    fn uploader<'a>(&'a self, user: &'a str) -> Uploader<'a> {
        Uploader { tree: &self.tree, user, now: self.now(), lifetime: self.partial_lifetime }
    }

    async fn listing(&self, path: &Path, form: Form) -> Result<Cursor<Vec<u8>>> {
        let node = self.tree.node(&names(path)?, Last::Follow).await.map_err(refused)?;
        let mut lines = Vec::new();
        for (name, node, target) in self.entries(path, node.clone()).await? {
            let entry = Entry { name: &name, attr: &node.attr, target: target.as_deref() };
            listing::line(&mut lines, form, &entry, &self.tree, &node.attr, self.now());
        }
        Ok(Cursor::new(lines))
    }

    async fn entries(&self, path: &Path, node: Node) -> Result<Vec<(Vec<u8>, Node, Option<Bytes>)>> {
        if node.attr.kind != FileKind::Dir {
            let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
            return Ok(vec![(name, node, None)]);
        }
        let mut all = Vec::new();
        let mut next = Some(Cookie::START);
        while let Some(after) = next {
            let (entries, then) = self.tree.page(&node, after).await.map_err(refused)?;
            next = then;
            for (name, node) in entries {
                if !listing::is_listed(&name, Form::Long { all: true }, false) {
                    continue;
                }
                let target = match node.attr.kind {
                    FileKind::Symlink => self.tree.readlink(&node).await.ok(),
                    _ => None,
                };
                all.push((name.as_bytes().to_vec(), node, target));
            }
        }
        Ok(all)
    }
}

/// The names of a path that libunftp joined to the working directory as it came.
fn names(path: &Path) -> Result<Vec<Name>> {
    let bytes = path.as_os_str().as_bytes();
    if !path.is_absolute() {
        return Err(Error::new(ErrorKind::PermanentFileNotAvailable, "the working directory is not known here"));
    }
    if bytes.windows(3).any(|bytes| bytes == "\u{fffd}".as_bytes()) {
        return Err(Error::new(ErrorKind::FileNameNotAllowedError, "a name that may have lost bytes"));
    }
    path::parse(&[], bytes).map_err(refused)
}

/// The kind whose code is that of the reply of our own server; 550 has several.
fn refused(error: muxfs::Error) -> Error {
    let kind = match (reply::code(error.kind()), error.kind()) {
        (_, muxfs::ErrorKind::NotEmpty) => ErrorKind::PermanentDirectoryNotEmpty,
        (_, muxfs::ErrorKind::NotDir) => ErrorKind::PermanentDirectoryNotAvailable,
        (550, muxfs::ErrorKind::NotFound | muxfs::ErrorKind::Stale | muxfs::ErrorKind::IsDir) => {
            ErrorKind::PermanentFileNotAvailable
        }
        (550, _) => ErrorKind::PermissionDenied,
        (553, _) => ErrorKind::FileNameNotAllowedError,
        (552, _) => ErrorKind::ExceededStorageAllocationError,
        (452, _) => ErrorKind::InsufficientStorageSpaceError,
        (502, _) => ErrorKind::CommandNotImplemented,
        (450, _) => ErrorKind::TransientFileNotAvailable,
        _ => ErrorKind::LocalError,
    };
    Error::new(kind, error)
}

/// What libunftp is told of a node.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    attr: Attr,
    target: Option<PathBuf>,
}

impl Metadata for NodeInfo {
    fn len(&self) -> u64 {
        self.attr.size
    }
    fn is_dir(&self) -> bool {
        self.attr.kind == FileKind::Dir
    }
    fn is_file(&self) -> bool {
        self.attr.kind == FileKind::File
    }
    fn is_symlink(&self) -> bool {
        self.attr.kind == FileKind::Symlink
    }
    fn modified(&self) -> Result<SystemTime> {
        Ok(self.attr.mtime)
    }
    fn gid(&self) -> u32 {
        self.attr.gid
    }
    fn uid(&self) -> u32 {
        self.attr.uid
    }
    fn links(&self) -> u64 {
        self.attr.nlink.into()
    }
    fn permissions(&self) -> Permissions {
        Permissions(self.attr.mode)
    }
    fn readlink(&self) -> Option<&Path> {
        self.target.as_deref()
    }
}

#[async_trait]
impl<User: UserDetail> StorageBackend<User> for Backend {
    type Metadata = NodeInfo;

    fn name(&self) -> &'static str {
        "muxfs"
    }

    fn supported_features(&self) -> u32 {
        FEATURE_RESTART
    }

    async fn metadata<P: AsRef<Path> + Send + Debug>(&self, user: &User, path: P) -> Result<NodeInfo> {
        let names = names(path.as_ref())?;
        let found = self.tree.find(&names, Last::Follow).await.map_err(refused)?;
        let user = user.to_string();
        let partial = self.uploader(&user).partial(&found).await.map_err(refused)?;
        match found.node.or(partial) {
            Some(node) => Ok(NodeInfo { attr: node.attr.clone(), target: None }),
            None => Err(ErrorKind::PermanentFileNotAvailable.into()),
        }
    }

    async fn list<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &User,
        path: P,
    ) -> Result<Vec<Fileinfo<PathBuf, NodeInfo>>> {
        let path = path.as_ref();
        let node = self.tree.node(&names(path)?, Last::Follow).await.map_err(refused)?;
        let entries = self.entries(path, node).await?.into_iter();
        Ok(entries
            .map(|(name, node, target)| Fileinfo {
                path: PathBuf::from(std::ffi::OsString::from_vec(name)),
                metadata: NodeInfo {
                    attr: node.attr.clone(),
                    target: target.map(|target| std::ffi::OsString::from_vec(target.to_vec()).into()),
                },
            })
            .collect())
    }

    async fn list_fmt<P: AsRef<Path> + Send + Debug>(&self, _user: &User, path: P) -> Result<Cursor<Vec<u8>>> {
        self.listing(path.as_ref(), Form::Long { all: true }).await
    }

    async fn nlst<P: AsRef<Path> + Send + Debug>(&self, _user: &User, path: P) -> io::Result<Cursor<Vec<u8>>> {
        self.listing(path.as_ref(), Form::Names).await.map_err(io::Error::other)
    }

    async fn get_into<'a, P, W: ?Sized>(&self, _user: &User, path: P, start: u64, output: &'a mut W) -> Result<u64>
    where
        W: AsyncWrite + Unpin + Sync + Send,
        P: AsRef<Path> + Send + Debug,
    {
        let file = self.tree.file(&names(path.as_ref())?).await.map_err(refused)?;
        let mut at = start;
        let mut piece = self.tree.read(&file, at, CHUNK_LEN).await.map_err(refused)?;
        while !piece.is_empty() {
            at += piece.len() as u64;
            let (sent, next) = tokio::join!(output.write_all(&piece), self.tree.read(&file, at, CHUNK_LEN));
            sent?;
            piece = next.map_err(refused)?;
        }
        output.flush().await?;
        Ok(at - start)
    }

    async fn get<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &User,
        path: P,
        start: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
        let file = self.tree.file(&names(path.as_ref())?).await.map_err(refused)?;
        let tree = Arc::clone(&self.tree);
        let pieces = futures_util::stream::try_unfold((tree, file, start), |(tree, file, at)| async move {
            let piece = tree.read(&file, at, CHUNK_LEN).await.map_err(io::Error::other)?;
            let next = at + piece.len() as u64;
            Ok::<_, io::Error>((!piece.is_empty()).then_some((piece, (tree, file, next))))
        });
        Ok(Box::new(Shared(Mutex::new(Box::pin(tokio_util::io::StreamReader::new(pieces))))))
    }

    async fn put<P: AsRef<Path> + Send + Debug, R: AsyncRead + Send + Sync + Unpin + 'static>(
        &self,
        user: &User,
        mut input: R,
        path: P,
        start: u64,
    ) -> Result<u64> {
        let user = user.to_string();
        let names = names(path.as_ref())?;
        let who = self.uploader(&user);
        let start = if start == 0 { Start::At(0) } else { end_at(&who, &names, start).await? };
        let mut upload = who.begin(&self.slots, &names, start).await.map_err(refused)?;
        let ended = async {
            let count = receive(&mut upload, &mut input).await?;
            upload.settle().await.map_err(refused)?;
            upload.appear().await.map_err(refused)?;
            Ok(count)
        };
        let ended = ended.await;
        if ended.is_err() {
            upload.abandon().await;
        }
        ended
    }

    async fn del<P: AsRef<Path> + Send + Debug>(&self, _user: &User, path: P) -> Result<()> {
        let (dir, name) = self.tree.place(&names(path.as_ref())?, Last::Keep).await.map_err(refused)?;
        self.tree.remove(&dir, &name, RemoveKind::NonDir).await.map_err(refused)
    }

    async fn mkd<P: AsRef<Path> + Send + Debug>(&self, _user: &User, path: P) -> Result<()> {
        self.tree.make_dir(&names(path.as_ref())?).await.map_err(refused)
    }

    async fn rename<P: AsRef<Path> + Send + Debug>(&self, _user: &User, from: P, to: P) -> Result<()> {
        self.tree.rename(&names(from.as_ref())?, &names(to.as_ref())?).await.map_err(refused)
    }

    async fn rmd<P: AsRef<Path> + Send + Debug>(&self, _user: &User, path: P) -> Result<()> {
        let (dir, name) = self.tree.place(&names(path.as_ref())?, Last::Keep).await.map_err(refused)?;
        self.tree.remove(&dir, &name, RemoveKind::Dir).await.map_err(refused)
    }

    async fn cwd<P: AsRef<Path> + Send + Debug>(&self, _user: &User, path: P) -> Result<()> {
        let path = path.as_ref();
        // libunftp keeps ".." in its working directory, and CDUP then leads down.
        if path.components().any(|part| part == std::path::Component::ParentDir) {
            return Err(Error::new(ErrorKind::PermanentDirectoryNotAvailable, "say CDUP, or the whole path"));
        }
        self.tree.dir(&names(path)?).await.map_err(refused).map(drop)
    }
}

/// Takes an offset only where it is the end of what is there.
async fn end_at(who: &Uploader<'_>, names: &[Name], offset: u64) -> Result<Start> {
    let found = who.tree.find(names, Last::Follow).await.map_err(refused)?;
    let partial = who.partial(&found).await.map_err(refused)?;
    match found.node.or(partial) {
        Some(node) if node.attr.size == offset && plain_file(&node.attr).is_ok() => Ok(Start::End),
        _ => Err(Error::new(ErrorKind::PermanentFileNotAvailable, "an upload goes on only at the end")),
    }
}

async fn receive<R: AsyncRead + Send + Unpin>(upload: &mut Upload, input: &mut R) -> Result<u64> {
    let mut count = 0;
    let mut held = Bytes::new();
    loop {
        let fill = async {
            let mut piece = BytesMut::with_capacity(CHUNK_LEN as usize);
            while piece.len() < CHUNK_LEN as usize && input.read_buf(&mut piece).await? > 0 {}
            io::Result::Ok(piece.freeze())
        };
        let flush = async { if held.is_empty() { Ok(()) } else { upload.write(held.clone()).await } };
        let (piece, flushed) = tokio::join!(fill, flush);
        flushed.map_err(refused)?;
        held = piece?;
        count += held.len() as u64;
        if held.len() < CHUNK_LEN as usize {
            if !held.is_empty() {
                upload.write(held).await.map_err(refused)?;
            }
            return Ok(count);
        }
    }
}

/// A reader that threads may share because none of them reads through a shared reference.
struct Shared<R>(Mutex<Pin<Box<R>>>);

impl<R: AsyncRead> AsyncRead for Shared<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll_read(cx, buf)
    }
}
