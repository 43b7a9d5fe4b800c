//! An open file: read and written at any offset, or as a stream with a place of its own.

use std::{
    fmt,
    future::poll_fn,
    io::{self, SeekFrom},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

use crate::{
    Error, ErrorKind, Result,
    dag::{Dag, DagLease},
    vfs::{Attr, Lease, SetAttr, Vfs},
};

/// So much is read ahead, in bytes.
const READ_LEN: u32 = 256 << 10;

/// A file of a [`Repo`](super::Repo), or a version of one, which can only be read.
///
/// [`OpenFile::read_at`] and [`OpenFile::write_at`] do at once what they say. As a stream it has a place, which begins at 0,
/// reads ahead, and gathers what is written, up to 1 MiB: `flush` it before it is dropped, or the last of that is lost. What
/// could not be written stays gathered: the next call that writes or flushes tries it again, or fails. A file that is
/// opened in a transaction is of that, and ends with it.
///
/// ```
/// use std::{io::SeekFrom, sync::Arc};
/// use muxfs::{Name, block::Mem, heads::MemHeads, media::MemMedia, repo::Repo, testing, tree::TreeOptions};
/// use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let options = TreeOptions::new(Name::new(b"main")?, testing::env());
/// # let stores = (Arc::new(Mem::default()), Arc::new(MemMedia::default()), Arc::new(MemHeads::default()));
/// # let repo = Repo::create(stores.0, stores.1, stores.2, options).await?;
/// let mut file = repo.create_file("letter").await?;
/// file.write_all(b"dear reader").await?;
/// file.seek(SeekFrom::Start(5)).await?;
/// let mut text = String::new();
/// file.read_to_string(&mut text).await?;
/// assert_eq!(text, "reader");
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub struct OpenFile {
    source: Source,
    /// The place of the stream.
    pos: u64,
    /// What was read from there on.
    ahead: Bytes,
    /// What was written up to there and is not in the file yet.
    behind: BytesMut,
    /// Never locked: it is what lets the file be shared.
    work: Mutex<Option<Work>>,
    seek: Option<SeekFrom>,
}

#[derive(Clone)]
enum Source {
    Node { vfs: Arc<dyn Vfs>, lease: Arc<Lease>, step: usize },
    Version { dag: Dag, lease: Arc<DagLease>, len: u64 },
}

/// What the stream waits for.
enum Work {
    Read(BoxFuture<'static, Result<Bytes>>),
    /// With what it writes, and has to write again where it fails.
    Write(BoxFuture<'static, Result<()>>, Bytes),
    Len(BoxFuture<'static, Result<u64>>),
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, what) = match &self.source {
            Source::Node { lease, .. } => ("inode", lease.ino().0.to_string()),
            Source::Version { lease, .. } => ("version", lease.cid().to_string()),
        };
        f.debug_struct("OpenFile").field(kind, &what).field("pos", &self.pos).finish_non_exhaustive()
    }
}

impl Source {
    async fn read_at(&self, offset: u64, len: u32) -> Result<Bytes> {
        match self {
            Self::Node { vfs, lease, .. } => vfs.read(lease.ino(), offset, len).await,
            Self::Version { dag, lease, .. } => dag.read_at(lease.cid(), offset, len).await,
        }
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        let (vfs, lease, step) = self.node("repo.write_at")?;
        let mut at = 0;
        while at < data.len() {
            // Up to where a chunk ends, so that all others are whole.
            let begun = offset.saturating_add(at as u64) % step as u64;
            let len = (step - usize::try_from(begun).unwrap_or(0)).min(data.len() - at);
            vfs.write(lease.ino(), offset.saturating_add(at as u64), data.slice(at..at + len), false).await?;
            at += len;
        }
        Ok(())
    }

    async fn len(&self) -> Result<u64> {
        match self {
            Self::Node { vfs, lease, .. } => Ok(vfs.getattr(lease.ino()).await?.size),
            Self::Version { len, .. } => Ok(*len),
        }
    }

    fn node(&self, op: &'static str) -> Result<(&Arc<dyn Vfs>, &Lease, usize)> {
        match self {
            Self::Node { vfs, lease, step } => Ok((vfs, lease, *step)),
            Self::Version { .. } => {
                Err(Error::new(ErrorKind::ReadOnly, op).because("a version of a file is what it was: restore it"))
            }
        }
    }
}

impl OpenFile {
    pub(super) fn of_node(vfs: Arc<dyn Vfs>, lease: Lease, step: usize) -> Self {
        Self::new(Source::Node { vfs, lease: Arc::new(lease), step })
    }

    pub(super) fn of_version(dag: Dag, lease: DagLease, len: u64) -> Self {
        Self::new(Source::Version { dag, lease: Arc::new(lease), len })
    }

    fn new(source: Source) -> Self {
        Self { source, pos: 0, ahead: Bytes::new(), behind: BytesMut::new(), work: Mutex::default(), seek: None }
    }

    /// Returns the bytes from `offset`, at most `len`; short only at the end of the file, empty past it.
    ///
    /// What the stream has gathered and not flushed is not among them.
    ///
    /// # Errors
    /// Those of the stores below.
    pub async fn read_at(&self, offset: u64, len: u32) -> Result<Bytes> {
        self.source.read_at(offset, len).await
    }

    /// Writes `data` at `offset`, which may be past the end: what is between is a hole. What the stream has gathered is written
    /// before.
    ///
    /// # Errors
    /// `ReadOnly` for a version; those of a change.
    pub async fn write_at(&mut self, offset: u64, data: impl Into<Bytes> + Send) -> Result<()> {
        self.settle().await?;
        self.source.write_at(offset, data.into()).await
    }

    /// Cuts a file off, or makes it longer by a hole. What the stream has gathered is written before.
    ///
    /// # Errors
    /// As `write_at`; `TooLarge`.
    pub async fn set_len(&mut self, len: u64) -> Result<()> {
        self.settle().await?;
        let (vfs, lease, _) = self.source.node("repo.set_len")?;
        vfs.setattr(lease.ino(), SetAttr { size: Some(len), ..SetAttr::default() }).await.map(drop)
    }

    /// How long the file is, in bytes, without what the stream has gathered.
    ///
    /// # Errors
    /// Those of the tree.
    pub async fn len(&self) -> Result<u64> {
        self.source.len().await
    }

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// As `len`.
    pub async fn is_empty(&self) -> Result<bool> {
        Ok(self.len().await? == 0)
    }

    /// The file's metadata.
    ///
    /// # Errors
    /// `ReadOnly` for a version, which has none of its own; those of the tree.
    pub async fn metadata(&self) -> Result<Attr> {
        let (vfs, lease, _) = self.source.node("repo.metadata")?;
        vfs.getattr(lease.ino()).await
    }

    /// Makes durable what was written, also what the stream has gathered; of a version, and in a transaction, nothing.
    ///
    /// # Errors
    /// Those of the stores below.
    pub async fn sync(&mut self) -> Result<()> {
        self.settle().await?;
        match &self.source {
            Source::Node { vfs, lease, .. } => vfs.sync(lease.ino()).await,
            Source::Version { .. } => Ok(()),
        }
    }

    fn work(&mut self) -> &mut Option<Work> {
        self.work.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was gathered before what comes now, and forgets what was read ahead.
    async fn settle(&mut self) -> Result<()> {
        self.ahead.clear();
        poll_fn(|cx| self.poll_behind(cx)).await
    }

    /// How much is gathered before it is written: up to where a chunk ends.
    fn room(&self) -> usize {
        let Source::Node { step, .. } = self.source else { return 0 };
        let begun = (self.pos - self.behind.len() as u64) % step as u64;
        (step - usize::try_from(begun).unwrap_or(0)).saturating_sub(self.behind.len())
    }

    /// Writes what was gathered, and waits for it.
    fn poll_behind(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            match self.work.get_mut().unwrap_or_else(PoisonError::into_inner) {
                Some(Work::Write(write, data)) => {
                    let written = ready!(write.as_mut().poll(cx));
                    let data = std::mem::take(data);
                    *self.work() = None;
                    if let Err(error) = written {
                        // Nothing was gathered meanwhile; a part that is in the file already is written there once more.
                        self.behind = BytesMut::from(data);
                        return Poll::Ready(Err(error));
                    }
                }
                // What was not waited for to its end is not wanted any more.
                Some(Work::Read(_) | Work::Len(_)) => *self.work() = None,
                None if self.behind.is_empty() => return Poll::Ready(Ok(())),
                None => {
                    let (source, offset) = (self.source.clone(), self.pos - self.behind.len() as u64);
                    let data = self.behind.split().freeze();
                    let kept = data.clone();
                    let write = Box::pin(async move { source.write_at(offset, data).await });
                    *self.work() = Some(Work::Write(write, kept));
                }
            }
        }
    }
}

impl AsyncRead for OpenFile {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.ahead.is_empty() {
            if !matches!(this.work(), Some(Work::Read(_))) {
                ready!(this.poll_behind(cx)).map_err(io_error)?;
                let (source, pos) = (this.source.clone(), this.pos);
                *this.work() = Some(Work::Read(Box::pin(async move { source.read_at(pos, READ_LEN).await })));
            }
            if let Some(Work::Read(read)) = this.work() {
                let read = ready!(read.as_mut().poll(cx));
                *this.work() = None;
                this.ahead = read.map_err(io_error)?;
            }
        }
        let len = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead[..len]);
        this.ahead.advance(len);
        this.pos += len as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for OpenFile {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.source.node("repo.write").map_err(io_error)?;
        if this.pos.checked_add(buf.len() as u64).is_none() {
            return Poll::Ready(Err(io_error(Error::new(ErrorKind::TooLarge, "repo.write"))));
        }
        this.ahead.clear();
        if this.work().is_some() || this.room() == 0 {
            ready!(this.poll_behind(cx)).map_err(io_error)?;
        }
        let len = buf.len().min(this.room());
        this.behind.extend_from_slice(&buf[..len]);
        this.pos += len as u64;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_behind(cx).map_err(io_error)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_behind(cx).map_err(io_error)
    }
}

impl AsyncSeek for OpenFile {
    fn start_seek(self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        self.get_mut().seek = Some(position);
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let this = self.get_mut();
        let Some(seek) = this.seek else { return Poll::Ready(Ok(this.pos)) };
        if !matches!(this.work(), Some(Work::Len(_)))
            && let Err(error) = ready!(this.poll_behind(cx))
        {
            this.seek = None;
            return Poll::Ready(Err(io_error(error)));
        }
        let (base, by) = match seek {
            SeekFrom::Start(to) => (to, 0),
            SeekFrom::Current(by) => (this.pos, by),
            SeekFrom::End(by) => {
                if this.work().is_none() {
                    let source = this.source.clone();
                    *this.work() = Some(Work::Len(Box::pin(async move { source.len().await })));
                }
                let Some(Work::Len(len)) = this.work() else { return Poll::Ready(Ok(this.pos)) };
                let len = ready!(len.as_mut().poll(cx));
                *this.work() = None;
                this.seek = None;
                (len.map_err(io_error)?, by)
            }
        };
        this.seek = None;
        this.pos = base.checked_add_signed(by).ok_or_else(|| {
            io_error(Error::new(ErrorKind::InvalidArgument, "repo.seek").because("no file begins before its beginning"))
        })?;
        this.ahead.clear();
        Poll::Ready(Ok(this.pos))
    }
}

/// What streams tell of an error, with the error itself inside.
fn io_error(error: Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::Exists => io::ErrorKind::AlreadyExists,
        ErrorKind::NotEmpty => io::ErrorKind::DirectoryNotEmpty,
        ErrorKind::NotDir => io::ErrorKind::NotADirectory,
        ErrorKind::IsDir => io::ErrorKind::IsADirectory,
        ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
        ErrorKind::Denied | ErrorKind::NotPermitted => io::ErrorKind::PermissionDenied,
        ErrorKind::InvalidArgument | ErrorKind::BadCookie => io::ErrorKind::InvalidInput,
        ErrorKind::NameTooLong => io::ErrorKind::InvalidFilename,
        ErrorKind::TooLarge => io::ErrorKind::FileTooLarge,
        ErrorKind::NoSpace => io::ErrorKind::StorageFull,
        ErrorKind::Quota => io::ErrorKind::QuotaExceeded,
        ErrorKind::TooManyLinks => io::ErrorKind::TooManyLinks,
        ErrorKind::CrossDevice => io::ErrorKind::CrossesDevices,
        ErrorKind::Stale => io::ErrorKind::StaleNetworkFileHandle,
        ErrorKind::Unsupported => io::ErrorKind::Unsupported,
        ErrorKind::BadKey | ErrorKind::Corrupt => io::ErrorKind::InvalidData,
        ErrorKind::Unavailable => io::ErrorKind::ResourceBusy,
        ErrorKind::Loop | ErrorKind::NoAttr | ErrorKind::Io | ErrorKind::Internal => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
