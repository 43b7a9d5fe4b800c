//! Moving bytes: each direction works on one piece while the other end works on the next.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use muxfs::{Error, vfs::Cookie};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    listing::{self, Entry, Form},
    reply::Reply,
    tree::{Node, Tree},
    upload::{Upload, Uploader},
    wire::Wire,
};

/// Bytes per read and write: large enough that the calls cost nothing beside the bytes; two of them per transfer.
pub(crate) const CHUNK_LEN: u32 = 1024 * 1024;

/// Why a transfer did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The data connection broke, or ended without the close that TLS wants.
    Data(io::Error),
    /// Nothing moved for too long.
    Stalled,
    /// Broken off: ABOR, the control connection gone, the same upload begun anew, or the server shutting down.
    Aborted,
    /// The file system refused.
    Store(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Data(error) => {
                Self::new(426, format!("Data connection broken ({}); transfer aborted.", error.kind()))
            }
            Failure::Stalled => Self::new(426, "Nothing moved for too long; transfer aborted."),
            Failure::Aborted => Self::new(426, "Transfer aborted."),
            Failure::Store(error) => Self::from(error),
        }
    }
}

/// A data connection, with what ends a transfer over it early.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) wire: Wire,
    pub(crate) stop: CancellationToken,
    /// Of an upload: the same user began it anew.
    pub(crate) superseded: CancellationToken,
    pub(crate) stall: Duration,
}

enum End {
    More,
    Eof,
    Failed(Failure),
}

async fn stopped(stop: &CancellationToken, superseded: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = superseded.cancelled() => {}
    }
}

impl Data {
    /// Whether the transfer is to end early.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled() || self.superseded.is_cancelled()
    }

    async fn send(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let wrote = tokio::select! {
                biased;
                () = stopped(&self.stop, &self.superseded) => return Err(Failure::Aborted),
                wrote = timeout(self.stall, self.wire.write(bytes)) => wrote,
            };
            match wrote {
                Err(_) => return Err(Failure::Stalled),
                Ok(Ok(0)) => return Err(Failure::Data(io::ErrorKind::WriteZero.into())),
                Ok(Ok(count)) => bytes = bytes.get(count..).unwrap_or_default(),
                Ok(Err(error)) => return Err(Failure::Data(error)),
            }
        }
        Ok(())
    }

    /// The next piece, short only before an end.
    async fn receive(&mut self) -> (Bytes, End) {
        let mut piece = BytesMut::with_capacity(CHUNK_LEN as usize);
        let end = loop {
            if piece.len() >= CHUNK_LEN as usize {
                break End::More;
            }
            let read = tokio::select! {
                biased;
                () = stopped(&self.stop, &self.superseded) => break End::Failed(Failure::Aborted),
                read = timeout(self.stall, self.wire.read_buf(&mut piece)) => read,
            };
            match read {
                Err(_) => break End::Failed(Failure::Stalled),
                Ok(Ok(0)) => break End::Eof,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => break End::Failed(Failure::Data(error)),
            }
        };
        (piece.freeze(), end)
    }

    /// Says that all was sent: under TLS with `close_notify`. A transfer that failed is not closed like this.
    async fn close(&mut self) -> Result<(), Failure> {
        let closed = timeout(self.stall, async {
            self.wire.flush().await?;
            self.wire.shutdown().await
        });
        match closed.await {
            Err(_) => Err(Failure::Stalled),
            // The client has all of it and was the first to close.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            Ok(closed) => closed.map_err(Failure::Data),
        }
    }
}

/// Sends a file from `offset` on and returns how many bytes that were.
pub(crate) async fn send_file(tree: &Tree, file: &Node, offset: u64, data: &mut Data) -> Result<u64, Failure> {
    let mut at = offset;
    let mut piece = tree.read(file, at, CHUNK_LEN).await?;
    while !piece.is_empty() {
        at += piece.len() as u64;
        let ahead = async {
            if piece.len() < CHUNK_LEN as usize { Ok(Bytes::new()) } else { tree.read(file, at, CHUNK_LEN).await }
        };
        let (sent, next) = tokio::join!(data.send(&piece), ahead);
        sent?;
        piece = next?;
    }
    data.close().await?;
    Ok(at - offset)
}

/// Receives into an upload until the client closes the connection, and returns how many bytes that were. What arrived
/// before a failure is written too.
pub(crate) async fn receive_file(upload: &mut Upload, data: &mut Data) -> Result<u64, Failure> {
    let mut count = 0;
    let mut held = Bytes::new();
    loop {
        let flush = async { if held.is_empty() { Ok(()) } else { upload.write(std::mem::take(&mut held)).await } };
        let ((piece, end), flushed) = tokio::join!(data.receive(), flush);
        flushed?;
        count += piece.len() as u64;
        held = piece;
        let result = match end {
            End::More => continue,
            End::Eof => {
                // Some clients wait for our close_notify after theirs; others are gone by now.
                if let Err(failure) = data.close().await {
                    tracing::debug!(?failure, "the client did not wait for the end of its upload");
                }
                Ok(count)
            }
            End::Failed(failure) => Err(failure),
        };
        if !held.is_empty() {
            upload.write(held).await?;
        }
        return result;
    }
}

/// What is listed.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) node: Node,
    /// What a single file is called in its line.
    pub(crate) name: Vec<u8>,
    pub(crate) form: Form,
    pub(crate) hide_dot_files: bool,
}

/// Sends a listing page by page and removes the partials in it that have expired.
pub(crate) async fn send_listing(who: &Uploader<'_>, what: &Listed, data: &mut Data) -> Result<u64, Failure> {
    let (tree, form) = (who.tree, what.form);
    let mut count = 0;
    let mut lines = Vec::new();
    if what.node.attr.kind != muxfs::FileKind::Dir {
        let entry = Entry { name: &what.name, attr: &what.node.attr, target: None };
        listing::line(&mut lines, form, &entry, tree, &what.node.attr, who.now);
        data.send(&lines).await?;
        data.close().await?;
        return Ok(lines.len() as u64);
    }
    let mut expired = Vec::new();
    let mut next = Some(Cookie::START);
    while let Some(after) = next {
        let (entries, then) = tree.page(&what.node, after).await?;
        next = then;
        lines.clear();
        for (name, node) in entries {
            if who.is_leftover(&name, &node.attr, false) {
                expired.push(name);
                continue;
            }
            if !listing::is_listed(&name, form, what.hide_dot_files) {
                continue;
            }
            let target = match node.attr.kind {
                // One that went meanwhile is told without its target.
                muxfs::FileKind::Symlink if form != Form::Names => tree.readlink(&node).await.ok(),
                _ => None,
            };
            let entry = Entry { name: name.as_bytes(), attr: &node.attr, target: target.as_deref() };
            listing::line(&mut lines, form, &entry, tree, &what.node.attr, who.now);
        }
        data.send(&lines).await?;
        count += lines.len() as u64;
    }
    data.close().await?;
    for name in expired {
        if let Err(error) = tree.remove(&what.node, &name, muxfs::vfs::RemoveKind::NonDir).await {
            tracing::debug!(error = format!("{error:#}"), "an expired partial stays");
        }
    }
    Ok(count)
}
