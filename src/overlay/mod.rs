//! A tree that can be written, over a file system that cannot: what nobody changed is as it is below, and stays there.
//!
//! ```text
//!    Overlay : Vfs ----> Tree       names, attributes, and the bytes that were changed
//!       '--------------> lower      bytes that were not, and directories that nobody looked into
//! ```
//!
//! Every name that anybody has seen is a name of the tree. The entries of a directory come into the tree, all at once, when
//! somebody first looks into it, and the bytes of a file when somebody first changes them; an extended attribute of the
//! node ([`Below`]) marks what did not come yet, and where it lies below. So there is nothing to merge: renames, links, removals,
//! numbers, handles and cookies are those of the tree, at one stroke and durable as they are there, and a name that was
//! removed is one that the tree has not. What comes is as if it had always been there: no time moves.
//!
//! The file system below does not change: its handles lead to the same bytes for as long as this lies over it. Where one does
//! not any more, what did not come is `Io`. Each name below is a node of its own here.
//! Spec: spec/overlay.md; why: spec/adr/0032-overlays.md.

mod begin;
mod coming;
mod mark;
mod now;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, RwLock};

use self::coming::{Held, Turns};
use self::now::plain;
pub use self::{begin::BELOW_SNAPSHOT, mark::Below};
use crate::{
    Error, ErrorKind, FileKind, Name, Result, forward_vfs,
    tree::Tree,
    vfs::{
        Attr, Changed, Cookie, DirChanged, DirPage, FILE_LEN_MAX, Handle, Ino, Lease, Listing, NewNode, Place,
        RemoveKind, RenameMode, Renamed, Seek, SetAttr, Vfs, XattrMode, XattrName,
    },
};

/// The extended attribute that says where a node lies below ([`Below`]): of a directory whose entries did not come yet, and of a
/// file whose bytes did not. It is read, but neither listed nor set.
pub const BELOW_XATTR: &str = "muxfs.overlay.below";
/// The extended attribute of the root that says what all of it lies over; likewise.
pub const BASE_XATTR: &str = "muxfs.overlay.base";
/// What attributes begin with that nobody else sets.
const RESERVED: &[u8] = b"muxfs.overlay.";
/// Files share so many gates.
const GATE_COUNT: usize = 64;
/// How many bytes are copied at once from a file that is as below.
const COPY_LEN: u64 = 4 << 20;

#[derive(Debug)]
struct Names {
    below: XattrName,
    base: XattrName,
}

/// A writable [`Vfs`]: a [`Tree`] over a file system that does not change.
#[derive(Debug)]
pub struct Overlay {
    tree: Tree,
    /// The same, as leases have it.
    upper: Arc<dyn Vfs>,
    lower: Arc<dyn Vfs>,
    names: Names,
    held: Held,
    turns: Turns,
    /// Whoever makes a file no longer as below has its gate alone; who tells how long it is before and after shares it.
    gates: [RwLock<()>; GATE_COUNT],
    /// Whoever holds it moves or removes directories: one that seems empty may only not have been filled.
    moving: AsyncMutex<()>,
    /// What it is to lie over, by its path below.
    over: Option<Vec<Name>>,
    /// Said once it is known to lie over something, or over nothing.
    begun: OnceCell<()>,
}

impl Overlay {
    /// Joins a tree and the file system it lies over, or is to lie over (see [`Overlay::begin`] and [`Overlay::over`]).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{block, dag::{Dag, DagOptions}, heads::MemHeads, media::MemMedia, testing::{self, model::ModelFs}};
    /// use muxfs::{Name, overlay::Overlay, tree::{Tree, TreeOptions}, vfs::{NewNode, SetAttr, Vfs}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let lower = ModelFs::new(testing::env());
    /// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// # let (journal, heads) = (Arc::new(MemMedia::default()), Arc::new(MemHeads::default()));
    /// let name = Name::new(b"hello.txt")?;
    /// let below = lower.create(lower.root(), &name, NewNode::File, SetAttr::default()).await?.node.ino;
    /// lower.write(below, 0, "hello".into(), false).await?;
    ///
    /// # let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// let tree = Tree::open(dag, journal, heads, options).await?;
    /// let overlay = Overlay::new(tree, lower.clone());
    /// overlay.begin(lower.root()).await?;
    /// let file = overlay.lookup(overlay.root(), &name).await?.ino;
    /// overlay.write(file, 5, " there".into(), false).await?;
    /// assert_eq!(overlay.read(file, 0, 100).await?, "hello there");
    /// assert_eq!(lower.read(below, 0, 100).await?, "hello");
    /// # overlay.release(file, 1);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(tree: Tree, lower: Arc<dyn Vfs>) -> Self {
        let [below, base] =
            [BELOW_XATTR, BASE_XATTR].map(|text| XattrName::new(text.as_bytes()).expect("it is short and has no NUL"));
        Self {
            upper: Arc::new(tree.clone()),
            tree,
            lower,
            names: Names { below, base },
            held: Held::default(),
            turns: Turns::default(),
            gates: std::array::from_fn(|_| RwLock::default()),
            moving: AsyncMutex::default(),
            over: None,
            begun: OnceCell::new(),
        }
    }

    /// The tree that has what was changed.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    fn gate(&self, ino: Ino) -> &RwLock<()> {
        let at = usize::try_from(ino.0.get() % GATE_COUNT as u64).unwrap_or(0);
        self.gates.get(at).unwrap_or(&self.gates[0])
    }

    fn refuse_reserved(name: &XattrName, op: &'static str) -> Result<()> {
        if name.as_bytes().starts_with(RESERVED) {
            let why = "it says where files lie that are as below";
            return Err(Error::new(ErrorKind::NotPermitted, op).because(why));
        }
        Ok(())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Overlay {
    forward_vfs!(tree: root, expect, host_file, readlink, statfs, handle, retain, release, getxattr, sync, sync_inode);

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        self.now(|now| async move {
            now.fill(dir).await?;
            now.leased(now.tree.lookup(dir, name).await?).await
        })
        .await
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        self.now(|now| async move { now.leased(now.tree.parent(dir).await?).await }).await
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.now(|now| async move { now.seen(now.tree.getattr(ino).await?).await }).await
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        self.now(|now| async move {
            now.fill(dir).await?;
            let mut page = now.tree.readdir(dir, after, count, listing).await?;
            // Leases that are given back where one of them cannot be told.
            let with_attrs = page.entries.iter().filter(|entry| entry.attr.is_some());
            let leases: Vec<Lease> = with_attrs.map(|entry| Lease::adopt(self.upper.clone(), entry.ino)).collect();
            for entry in &mut page.entries {
                if let Some(attr) = entry.attr.take() {
                    entry.attr = Some(now.seen(attr).await?);
                }
            }
            for lease in &leases {
                // The caller's own.
                now.tree.retain(lease.ino());
            }
            Ok(page)
        })
        .await
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        self.now(|now| async move {
            match now.file_below(ino).await? {
                Some(below) => self.read_below(&below, offset, len).await,
                None => now.tree.read(ino, offset, len).await,
            }
        })
        .await
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        self.now(|now| async move { now.leased(now.tree.resolve(handle).await?).await }).await
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        self.now(|now| {
            let set = set.clone();
            async move {
                now.begun(ino).await?;
                if set.size.is_some_and(|size| size <= FILE_LEN_MAX)
                    && let Some(changed) = now.own_and_set(ino, set.clone()).await?
                {
                    return Ok(plain(changed));
                }
                now.about(ino, now.tree.setattr(ino, set)).await
            }
        })
        .await
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        self.now(|now| {
            let data = data.clone();
            async move {
                if data.is_empty() {
                    return now.about(ino, now.tree.write(ino, offset, data, clear_suid)).await;
                }
                // What is refused anyway is no reason to fetch it.
                if offset.checked_add(data.len() as u64).is_some_and(|end| end <= FILE_LEN_MAX) {
                    now.own(ino).await?;
                }
                now.tree.write(ino, offset, data, clear_suid).await.map(plain)
            }
        })
        .await
    }

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        self.now(|now| {
            let (node, set) = (node.clone(), set.clone());
            async move {
                now.fill(dir).await?;
                let DirChanged { dir, node } = now.tree.create(dir, name, node, set).await?;
                Ok(DirChanged { dir: plain(dir), node: Attr { cid: None, ..node } })
            }
        })
        .await
    }

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        self.now(|now| async move {
            now.fill(place.dir).await?;
            let _moving = if kind == RemoveKind::Dir { Some(self.moving.lock().await) } else { None };
            // Held, so that it can be told what it was.
            let there = now.there(&place).await;
            if let (Some((lease, FileKind::Dir)), RemoveKind::Dir) = (&there, kind) {
                now.fill(lease.ino()).await?;
            }
            let DirChanged { dir, node } = now.tree.remove(place, kind).await?;
            Ok(DirChanged { dir: plain(dir), node: now.done(node).await? })
        })
        .await
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        self.now(|now| async move {
            now.fill(from.dir).await?;
            now.fill(to.dir).await?;
            let _moving = self.moving.lock().await;
            if let (Some((lease, FileKind::Dir)), RenameMode::Replace) = (now.there(&to).await, mode) {
                now.fill(lease.ino()).await?;
            }
            let _moved = now.there(&from).await;
            let Renamed { from, to, node } = now.tree.rename(from, to, mode).await?;
            Ok(Renamed { from: plain(from), to: plain(to), node: now.done(node).await? })
        })
        .await
    }

    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        self.now(|now| async move {
            now.fill(dir).await?;
            let DirChanged { dir, node } = now.tree.link(ino, dir, name).await?;
            let lease = Lease::adopt(self.upper.clone(), node.ino);
            let node = now.done(node).await?;
            // The caller's own.
            now.tree.retain(lease.ino());
            Ok(DirChanged { dir: plain(dir), node })
        })
        .await
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        self.now(|now| {
            let range = range.clone();
            async move {
                if !range.is_empty() {
                    now.own(ino).await?;
                }
                now.tree.allocate(ino, range, keep_size).await.map(plain)
            }
        })
        .await
    }

    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        self.now(|now| {
            let range = range.clone();
            async move {
                if !range.is_empty() {
                    now.own(ino).await?;
                }
                now.tree.punch_hole(ino, range).await.map(plain)
            }
        })
        .await
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        self.now(|now| async move {
            now.own(to.0).await?;
            let (mut done, mut before) = (0, None);
            // Of a source that is as below only what is copied comes.
            while done < len
                && let Some(below) = now.file_below(from.0).await?
            {
                let step = u32::try_from((len - done).min(COPY_LEN)).unwrap_or(u32::MAX);
                let piece = self.read_below(&below, from.1.saturating_add(done), step).await?;
                if piece.is_empty() {
                    break;
                }
                let step = piece.len() as u64;
                let changed = now.tree.write(to.0, to.1.saturating_add(done), piece, false).await?;
                before.get_or_insert(changed.before);
                done += step;
            }
            // What is left where it was changed meanwhile; of one that is as below nothing is.
            let left = if now.file_below(from.0).await?.is_some() { 0 } else { len - done };
            let (from, to) = ((from.0, from.1.saturating_add(done)), (to.0, to.1.saturating_add(done)));
            let (more, changed) = now.tree.copy_range(from, to, left).await?;
            Ok((done + more, plain(Changed { before: before.unwrap_or(changed.before), after: changed.after })))
        })
        .await
    }

    async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        self.now(|now| async move {
            match now.file_below(ino).await? {
                Some(below) => Ok((offset < below.size).then_some(match what {
                    Seek::Data => offset,
                    Seek::Hole => below.size,
                })),
                None => now.tree.seek(ino, offset, what).await,
            }
        })
        .await
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        let names = self.tree.listxattr(ino).await?;
        Ok(names.into_iter().filter(|name| !name.as_bytes().starts_with(RESERVED)).collect())
    }

    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        Self::refuse_reserved(name, "overlay.setxattr")?;
        self.now(|now| {
            let value = value.clone();
            async move {
                now.begun(ino).await?;
                now.about(ino, now.tree.setxattr(ino, name, value, mode)).await
            }
        })
        .await
    }

    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        Self::refuse_reserved(name, "overlay.removexattr")?;
        self.now(|now| async move {
            now.begun(ino).await?;
            now.about(ino, now.tree.removexattr(ino, name)).await
        })
        .await
    }
}
