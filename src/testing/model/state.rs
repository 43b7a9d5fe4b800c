//! What the model knows: every node and its leases, how each is read, and what every change is made of.

mod changes;

use std::{collections::BTreeMap, num::NonZeroU64, time::SystemTime};

use bytes::Bytes;

use super::{
    ModelOptions,
    content::{Content, PAGE_LEN},
};
use crate::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{
        Attr, Changed, Cookie, DirEntry, DirPage, FILE_LEN_MAX, Fsid, Ino, Listing, PreAttr, READ_LEN_MAX, Rdev, Seek,
        XATTR_LEN_MAX, XattrMode, XattrName,
    },
};

/// What a directory claims as its size.
const DIR_LEN: u64 = 4096;

#[derive(Debug, Clone)]
enum Body {
    File(Content),
    Dir(Dir),
    Symlink(Bytes),
    Other(FileKind, Rdev),
}

/// A directory: names in the order they came, so that an entry that stays is met exactly once.
#[derive(Debug, Clone)]
struct Dir {
    /// Itself, for the root.
    parent: Ino,
    names: BTreeMap<Name, (Cookie, Ino)>,
    order: BTreeMap<Cookie, Name>,
    cookie_next: u64,
}

impl Dir {
    fn new(parent: Ino) -> Self {
        Self { parent, names: BTreeMap::new(), order: BTreeMap::new(), cookie_next: Cookie::DOT_DOT.0 + 1 }
    }

    /// A name that is there keeps its cookie.
    fn insert(&mut self, name: &Name, ino: Ino) {
        if let Some((_, old)) = self.names.get_mut(name) {
            *old = ino;
            return;
        }
        let cookie = Cookie(self.cookie_next);
        self.cookie_next += 1;
        self.names.insert(name.clone(), (cookie, ino));
        self.order.insert(cookie, name.clone());
    }

    fn remove(&mut self, name: &Name) {
        if let Some((cookie, _)) = self.names.remove(name) {
            self.order.remove(&cookie);
        }
    }

    fn get(&self, name: &Name) -> Option<Ino> {
        self.names.get(name).map(|(_, ino)| *ino)
    }
}

#[derive(Debug, Clone)]
struct Node {
    body: Body,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    atime: SystemTime,
    mtime: SystemTime,
    ctime: SystemTime,
    change: u64,
    xattrs: BTreeMap<XattrName, Bytes>,
    leases: u64,
}

impl Node {
    fn kind(&self) -> FileKind {
        match &self.body {
            Body::File(_) => FileKind::File,
            Body::Dir(_) => FileKind::Dir,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Other(kind, _) => *kind,
        }
    }

    fn size(&self) -> u64 {
        match &self.body {
            Body::File(content) => content.len(),
            Body::Dir(_) => DIR_LEN,
            Body::Symlink(target) => target.len() as u64,
            Body::Other(..) => 0,
        }
    }

    fn pages(&self) -> u64 {
        if let Body::File(content) = &self.body { content.page_count() } else { 0 }
    }

    fn pre(&self) -> PreAttr {
        PreAttr { size: self.size(), mtime: self.mtime, ctime: self.ctime, change: self.change }
    }
}

#[derive(Debug)]
pub(super) struct State {
    nodes: BTreeMap<Ino, Node>,
    options: ModelOptions,
    ino_next: u64,
    /// Grows with every change of anything: a node's `change` is what it was at its last one.
    change: u64,
    pages: u64,
}

pub(super) const ROOT: Ino = Ino(NonZeroU64::MIN);

fn refuse<T>(kind: ErrorKind, op: &'static str) -> Result<T> {
    Err(Error::new(kind, op))
}

/// The end of `len` bytes from `offset`, if a file may be that long.
fn end_of(offset: u64, len: u64, op: &'static str) -> Result<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= FILE_LEN_MAX => Ok(end),
        _ => refuse(ErrorKind::TooLarge, op),
    }
}

// ---- reading

impl State {
    pub(super) fn new(options: ModelOptions, now: SystemTime) -> Self {
        let mut state = Self { nodes: BTreeMap::new(), options, ino_next: ROOT.0.get(), change: 0, pages: 0 };
        let root = state.add_node(Body::Dir(Dir::new(ROOT)), now);
        debug_assert_eq!(root, ROOT);
        state
    }

    pub(super) fn lease_count(&self) -> u64 {
        self.nodes.values().map(|node| node.leases).sum()
    }

    pub(super) fn node_count(&self) -> u64 {
        self.nodes.len() as u64
    }

    pub(super) fn pages_free(&self) -> u64 {
        (self.options.bytes_max / PAGE_LEN as u64).saturating_sub(self.pages)
    }

    /// The number that no node has had yet.
    pub(super) fn ino_next(&self) -> u64 {
        self.ino_next
    }

    /// A node that somebody leased; all others the model forgets at once.
    fn node(&self, ino: Ino, op: &'static str) -> Result<&Node> {
        match self.nodes.get(&ino) {
            Some(node) if node.leases > 0 || ino == ROOT => Ok(node),
            _ => Err(Error::new(ErrorKind::Stale, op).at(ino.0)),
        }
    }

    fn node_mut(&mut self, ino: Ino, op: &'static str) -> Result<&mut Node> {
        self.node(ino, op)?;
        self.nodes.get_mut(&ino).ok_or_else(|| Error::new(ErrorKind::Stale, op))
    }

    fn dir(&self, ino: Ino, op: &'static str) -> Result<&Dir> {
        match &self.node(ino, op)?.body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(Error::new(ErrorKind::NotDir, op).at(ino.0)),
        }
    }

    fn file(&self, ino: Ino, op: &'static str) -> Result<&Content> {
        match &self.node(ino, op)?.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(Error::new(ErrorKind::IsDir, op).at(ino.0)),
            _ => Err(Error::new(ErrorKind::InvalidArgument, op).at(ino.0).because("only a file has bytes")),
        }
    }

    /// The attributes of a node that is there, leased or not.
    fn attr_of(&self, ino: Ino) -> Attr {
        let node = self.nodes.get(&ino).expect("a name always leads to a node");
        Attr {
            ino,
            fsid: Fsid(0),
            kind: node.kind(),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            nlink: node.nlink,
            rdev: if let Body::Other(_, rdev) = &node.body { *rdev } else { Rdev::default() },
            size: node.size(),
            used: node.pages() * PAGE_LEN as u64,
            atime: node.atime,
            mtime: node.mtime,
            ctime: node.ctime,
            change: node.change,
            cid: None,
        }
    }

    /// Counts a lease; the root's is endless and not counted.
    fn leased(&mut self, ino: Ino) -> Attr {
        if let Some(node) = self.nodes.get_mut(&ino).filter(|_| ino != ROOT) {
            node.leases += 1;
        }
        self.attr_of(ino)
    }

    pub(super) fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.node(ino, "model.getattr").map(|_| self.attr_of(ino))
    }

    pub(super) fn lookup(&mut self, dir: Ino, name: &Name) -> Result<Attr> {
        let found = self.dir(dir, "model.lookup")?.get(name);
        let ino = found.ok_or_else(|| Error::new(ErrorKind::NotFound, "model.lookup").at(name))?;
        Ok(self.leased(ino))
    }

    pub(super) fn parent(&mut self, ino: Ino) -> Result<Attr> {
        let node = self.node(ino, "model.parent")?;
        let above = match &node.body {
            _ if node.nlink == 0 => None,
            Body::Dir(dir) => Some(dir.parent),
            _ => self.nodes.iter().find_map(|(above, node)| match &node.body {
                Body::Dir(dir) if dir.names.values().any(|(_, named)| *named == ino) => Some(*above),
                _ => None,
            }),
        };
        let above = above.ok_or_else(|| Error::new(ErrorKind::NotFound, "model.parent"))?;
        Ok(self.leased(above))
    }

    pub(super) fn resolve(&mut self, ino: Ino) -> Result<Attr> {
        // An orphan is found by its handle for as long as somebody has it open.
        match self.nodes.get(&ino) {
            Some(_) => Ok(self.leased(ino)),
            None => refuse(ErrorKind::Stale, "model.resolve"),
        }
    }

    pub(super) fn readdir(&mut self, ino: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let dir = self.dir(ino, "model.readdir")?;
        let given = after == Cookie::START || (after > Cookie::DOT_DOT && after.0 < dir.cookie_next);
        if !given {
            return refuse(ErrorKind::BadCookie, "model.readdir");
        }
        let count = count.max(1);
        let mut rest = dir.order.range(Cookie(after.0 + 1)..);
        let found: Vec<(Cookie, Name)> =
            rest.by_ref().take(count).map(|(cookie, name)| (*cookie, name.clone())).collect();
        let eof = rest.next().is_none();
        let mut entries = Vec::with_capacity(found.len());
        for (cookie, name) in found {
            let Some(entry) = self.dir(ino, "model.readdir")?.get(&name) else { continue };
            let attr = (listing == Listing::Attrs).then(|| self.leased(entry));
            entries.push(DirEntry { name, ino: entry, cookie, attr });
        }
        Ok(DirPage { entries, eof })
    }

    pub(super) fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        Ok(self.file(ino, "model.read")?.read(offset, len.min(READ_LEN_MAX)))
    }

    pub(super) fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        Ok(self.file(ino, "model.seek")?.seek(offset, what))
    }

    pub(super) fn readlink(&self, ino: Ino) -> Result<Bytes> {
        match &self.node(ino, "model.readlink")?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => refuse(ErrorKind::InvalidArgument, "model.readlink"),
        }
    }

    pub(super) fn retain(&mut self, ino: Ino) {
        if ino != ROOT {
            self.nodes.get_mut(&ino).filter(|node| node.leases > 0).expect("only a leased inode is retained").leases +=
                1;
        }
    }

    /// Whether the leases were there to be given back.
    #[must_use]
    pub(super) fn release(&mut self, ino: Ino, count: u64) -> bool {
        if ino == ROOT {
            return true;
        }
        let Some(node) = self.nodes.get_mut(&ino) else { return count == 0 };
        let Some(left) = node.leases.checked_sub(count) else { return false };
        node.leases = left;
        self.free_if_gone(ino);
        true
    }
}

// ---- what every change is made of

impl State {
    fn add_node(&mut self, body: Body, now: SystemTime) -> Ino {
        let ino = Ino(NonZeroU64::new(self.ino_next).expect("numbers begin at 1 and only grow"));
        self.ino_next += 1;
        self.change += 1;
        let (mode, nlink) = match &body {
            Body::Dir(_) => (0o755, 2),
            Body::Symlink(_) => (0o777, 1),
            _ => (0o644, 1),
        };
        self.nodes.insert(
            ino,
            Node {
                body,
                mode,
                uid: 0,
                gid: 0,
                nlink,
                atime: now,
                mtime: now,
                ctime: now,
                change: self.change,
                xattrs: BTreeMap::new(),
                leases: 0,
            },
        );
        ino
    }

    /// Changes one node: the only place where times and the change counter move.
    fn change(&mut self, ino: Ino, now: SystemTime, change: impl FnOnce(&mut Node)) -> Changed {
        self.change += 1;
        let counter = self.change;
        let node = self.nodes.get_mut(&ino).expect("whoever changes a node looked it up");
        let before = node.pre();
        let pages = node.pages();
        change(node);
        node.ctime = now;
        node.change = counter;
        self.pages = self.pages + node.pages() - pages;
        Changed { before, after: self.attr_of(ino) }
    }

    /// The result of a call that found nothing to do.
    fn unchanged(&self, ino: Ino) -> Changed {
        let node = self.nodes.get(&ino).expect("whoever asks looked it up");
        Changed { before: node.pre(), after: self.attr_of(ino) }
    }

    fn change_dir(&mut self, ino: Ino, now: SystemTime, change: impl FnOnce(&mut Dir, &mut u32)) -> Changed {
        self.change(ino, now, |node| {
            node.mtime = now;
            if let Body::Dir(dir) = &mut node.body {
                change(dir, &mut node.nlink);
            }
        })
    }

    fn change_content(&mut self, ino: Ino, now: SystemTime, change: impl FnOnce(&mut Content)) -> Changed {
        self.change(ino, now, |node| {
            node.mtime = now;
            if let Body::File(content) = &mut node.body {
                change(content);
            }
        })
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.kind() == FileKind::Dir)
    }

    fn is_empty_dir(&self, ino: Ino) -> bool {
        matches!(self.nodes.get(&ino).map(|node| &node.body), Some(Body::Dir(dir)) if dir.names.is_empty())
    }

    /// One name of `ino` less; a directory has but one.
    fn unlink(&mut self, ino: Ino, now: SystemTime) {
        self.change(ino, now, |node| node.nlink = if node.kind() == FileKind::Dir { 0 } else { node.nlink - 1 });
    }

    fn free_if_gone(&mut self, ino: Ino) {
        if self.nodes.get(&ino).is_some_and(|node| node.nlink == 0 && node.leases == 0)
            && let Some(node) = self.nodes.remove(&ino)
        {
            self.pages -= node.pages();
        }
    }

    /// A directory that is still there: nothing can be put into one that was removed.
    fn living_dir(&self, ino: Ino, op: &'static str) -> Result<&Dir> {
        let dir = self.dir(ino, op)?;
        if self.node(ino, op)?.nlink == 0 {
            return Err(Error::new(ErrorKind::NotFound, op).because("the directory was removed"));
        }
        Ok(dir)
    }

    fn need_pages(&self, count: u64, op: &'static str) -> Result<()> {
        if count > self.pages_free() { refuse(ErrorKind::NoSpace, op) } else { Ok(()) }
    }

    /// Whether `ino` is `below` or above it.
    fn is_ancestor(&self, ino: Ino, below: Ino) -> bool {
        let mut at = below;
        loop {
            if at == ino {
                return true;
            }
            match self.nodes.get(&at).map(|node| &node.body) {
                Some(Body::Dir(dir)) if dir.parent != at => at = dir.parent,
                _ => return false,
            }
        }
    }
}

// ---- extended attributes

impl State {
    pub(super) fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        let found = self.node(ino, "model.getxattr")?.xattrs.get(name).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NoAttr, "model.getxattr"))
    }

    pub(super) fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        Ok(self.node(ino, "model.listxattr")?.xattrs.keys().cloned().collect())
    }

    pub(super) fn setxattr(
        &mut self,
        ino: Ino,
        name: &XattrName,
        value: Bytes,
        mode: XattrMode,
        now: SystemTime,
    ) -> Result<Changed> {
        let op = "model.setxattr";
        let there = self.node(ino, op)?.xattrs.contains_key(name);
        match (mode, there) {
            _ if value.len() > XATTR_LEN_MAX => refuse(ErrorKind::TooLarge, op),
            (XattrMode::Create, true) => refuse(ErrorKind::Exists, op),
            (XattrMode::Replace, false) => refuse(ErrorKind::NoAttr, op),
            _ => Ok(self.change(ino, now, |node| drop(node.xattrs.insert(name.clone(), value)))),
        }
    }

    pub(super) fn removexattr(&mut self, ino: Ino, name: &XattrName, now: SystemTime) -> Result<Changed> {
        let node = self.node_mut(ino, "model.removexattr")?;
        if !node.xattrs.contains_key(name) {
            return refuse(ErrorKind::NoAttr, "model.removexattr");
        }
        Ok(self.change(ino, now, |node| drop(node.xattrs.remove(name))))
    }
}
