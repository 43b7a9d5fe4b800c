//! How things come from below: the entries of a directory when somebody first looks into it, the bytes of a file when somebody
//! first changes them.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use lru::LruCache;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{Below, Overlay, RESERVED, now::Now};
use crate::{
    Error, ErrorKind, FileKind, Name, Result,
    tree::Graft,
    vfs::{Attr, Changed, Cookie, DirEntry, Handle, Ino, Lease, Listing, NewNode, SetAttr, Vfs, XattrName},
};

/// How many entries are asked for at once below, and put at once here; few in tests, so that small directories have several.
const PAGE_COUNT: usize = if cfg!(test) { 2 } else { 1024 };
/// How many bytes of a file are in memory at once: some chunks, so that these go past the journal.
const PIECE_LEN: u32 = if cfg!(test) { 2048 } else { 4 << 20 };
/// So many nodes below are remembered, beside those that somebody works with.
const HELD_COUNT_MAX: usize = 1024;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who fetches a node: one at a time, for as long as it takes.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Ino, Weak<AsyncMutex<()>>>>);

impl Turns {
    async fn take(&self, ino: Ino) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.0);
            turns.get(&ino).and_then(Weak::upgrade).unwrap_or_else(|| {
                turns.retain(|_, turn| turn.strong_count() > 0);
                let turn = Arc::default();
                turns.insert(ino, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

/// The nodes below that were used last.
#[derive(Debug)]
pub(super) struct Held(Mutex<LruCache<Handle, Lease>>);

impl Default for Held {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(HELD_COUNT_MAX).unwrap_or(NonZeroUsize::MIN))))
    }
}

/// What is wrong below, as those above are to know it: a node that is gone there is not gone here.
fn below(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Corrupt | ErrorKind::Unavailable | ErrorKind::TooLarge => error,
        ErrorKind::Stale | ErrorKind::NotFound | ErrorKind::InvalidArgument => {
            let why = format!("what it lies over is gone, or was replaced by another: {error:#}");
            Error::new(ErrorKind::Io, "overlay.below").because(why)
        }
        _ => Error::new(ErrorKind::Io, "overlay.below").because(error),
    }
}

impl Overlay {
    /// The node that this is below.
    async fn node(&self, there: &Below) -> Result<Lease> {
        if let Some(lease) = lock(&self.held.0).get(&there.handle) {
            return Ok(lease.clone());
        }
        let attr = self.lower.resolve(&there.handle).await.map_err(below)?;
        let lease = Lease::adopt(self.lower.clone(), attr.ino);
        lock(&self.held.0).put(there.handle.clone(), lease.clone());
        Ok(lease)
    }

    /// The bytes of a file as they are below.
    pub(super) async fn read_below(&self, there: &Below, offset: u64, len: u32) -> Result<Bytes> {
        let node = self.node(there).await?;
        self.lower.read(node.ino(), offset, len).await.map_err(below)
    }

    /// An entry as it is below.
    async fn entry(&self, name: Name, attr: &Attr, has_xattrs: &mut bool) -> Result<Graft> {
        let node = match attr.kind {
            FileKind::File => NewNode::File,
            FileKind::Dir => NewNode::Dir,
            FileKind::Symlink => NewNode::Symlink(self.lower.readlink(attr.ino).await.map_err(below)?),
            FileKind::Fifo => NewNode::Fifo,
            FileKind::Socket => NewNode::Socket,
            FileKind::CharDevice => NewNode::CharDevice(attr.rdev),
            FileKind::BlockDevice => NewNode::BlockDevice(attr.rdev),
        };
        let mut xattrs = self.xattrs_below(attr.ino, has_xattrs).await.map_err(below)?;
        if matches!(attr.kind, FileKind::File | FileKind::Dir) {
            xattrs.push((self.names.below.clone(), self.mark(attr)?.encode()));
        }
        let Attr { mode, uid, gid, atime, mtime, ctime, .. } = *attr;
        Ok(Graft { name, node, mode, uid, gid, atime, mtime, ctime, xattrs })
    }

    /// Where a leased node of the file system below is.
    pub(super) fn mark(&self, attr: &Attr) -> Result<Below> {
        let is_file = attr.kind == FileKind::File;
        let handle = self.lower.handle(attr.ino).map_err(below)?;
        Ok(Below { is_file, size: if is_file { attr.size } else { 0 }, handle })
    }

    async fn xattrs_below(&self, ino: Ino, has_xattrs: &mut bool) -> Result<Vec<(XattrName, Bytes)>> {
        let mut xattrs = Vec::new();
        if !*has_xattrs {
            return Ok(xattrs);
        }
        let names = match self.lower.listxattr(ino).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                *has_xattrs = false;
                return Ok(xattrs);
            }
            names => names?,
        };
        for name in names.into_iter().filter(|name| !name.as_bytes().starts_with(RESERVED)) {
            let value = self.lower.getxattr(ino, &name).await?;
            xattrs.push((name, value));
        }
        Ok(xattrs)
    }
}

impl Now<'_> {
    /// Has the entries of a directory come, if they did not yet; of anything else it does nothing.
    pub(super) async fn fill(&self, dir: Ino) -> Result<()> {
        self.begun(dir).await?;
        if self.dir_below(dir).await?.is_none() {
            return Ok(());
        }
        let _turn = self.overlay.turns.take(dir).await;
        let Some(there) = self.dir_below(dir).await? else { return Ok(()) };
        let node = self.overlay.node(&there).await?;
        let (mut after, mut has_xattrs) = (Cookie::START, true);
        loop {
            let page =
                self.overlay.lower.readdir(node.ino(), after, PAGE_COUNT, Listing::Attrs).await.map_err(below)?;
            after = page.entries.last().map_or(after, |entry| entry.cookie);
            let is_last = page.eof || page.entries.is_empty();
            // Leases first, so that an error on the way gives back those of the rest too.
            let lease =
                |entry: &DirEntry| entry.attr.is_some().then(|| Lease::adopt(self.overlay.lower.clone(), entry.ino));
            let leased: Vec<_> = page.entries.into_iter().map(|entry| (lease(&entry), entry)).collect();
            let mut grafts = Vec::with_capacity(leased.len());
            for (lease, DirEntry { name, attr, .. }) in leased {
                let (_lease, attr) = if let (Some(lease), Some(attr)) = (lease, attr) {
                    (lease, attr)
                } else {
                    let attr = self.overlay.lower.lookup(node.ino(), &name).await.map_err(below)?;
                    (Lease::adopt(self.overlay.lower.clone(), attr.ino), attr)
                };
                grafts.push(self.overlay.entry(name, &attr, &mut has_xattrs).await?);
            }
            self.tree.graft(dir, &grafts).await?;
            if is_last {
                break;
            }
        }
        self.tree.take_over(dir, &self.overlay.names.below, &SetAttr::default()).await.map(drop)
    }

    /// Has the bytes of a file come, if they did not yet; of anything else it does nothing.
    pub(super) async fn own(&self, ino: Ino) -> Result<()> {
        self.own_and_set(ino, SetAttr::default()).await.map(drop)
    }

    /// Has the bytes of a file come, as far as they are needed where it gets another size, and sets `set` at the same stroke;
    /// `None` where they came before, and nothing is set.
    ///
    /// They come in order, and count once all of them are there: until then the file is as below, also after a crash, and who
    /// tries again goes on where the last one stopped.
    pub(super) async fn own_and_set(&self, ino: Ino, set: SetAttr) -> Result<Option<Changed>> {
        if self.file_below(ino).await?.is_none() {
            return Ok(None);
        }
        let _turn = self.overlay.turns.take(ino).await;
        let Some(there) = self.file_below(ino).await? else { return Ok(None) };
        let needed = set.size.map_or(there.size, |size| size.min(there.size));
        let mut at = self.tree.getattr(ino).await?.size;
        while at < needed {
            let len = u32::try_from(there.size - at).unwrap_or(u32::MAX).min(PIECE_LEN);
            let piece = self.overlay.read_below(&there, at, len).await?;
            if piece.is_empty() {
                let why = format!("it has {at} bytes, and was said to have {}", there.size);
                return Err(Error::new(ErrorKind::Corrupt, "overlay.copy_up").because(why));
            }
            let end = at + piece.len() as u64;
            self.tree.bring(ino, at, piece).await?;
            at = end;
        }
        let _alone = self.overlay.gate(ino).write().await;
        let changed = self.tree.take_over(ino, &self.overlay.names.below, &set).await?;
        Ok(Some(Changed { before: there.before(changed.before), after: changed.after }))
    }
}
