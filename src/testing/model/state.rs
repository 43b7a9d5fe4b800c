//! What the model knows: every node, its leases, and the one place where each kind of change is made.

use std::{collections::BTreeMap, num::NonZeroU64, ops::Range, time::SystemTime};

use bytes::Bytes;

use super::{
    ModelOptions,
    content::{Content, PAGE_LEN},
};
use crate::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{
        Attr, Changed, Cookie, DirChanged, DirEntry, DirPage, FILE_LEN_MAX, Fsid, Ino, Listing, NewNode, Place,
        PreAttr, Rdev, RemoveKind, RenameMode, Renamed, SYMLINK_LEN_MAX, SetAttr, SetTime, XATTR_LEN_MAX, XattrMode,
        XattrName,
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
        Ok(self.file(ino, "model.read")?.read(offset, len))
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

/// The inode of a place, checked against what the caller believes.
fn expected(found: Option<Ino>, place: &Place<'_>, op: &'static str) -> Result<Option<Ino>> {
    match (found, place.expect) {
        (Some(found), Some(expect)) if found != expect => Err(Error::new(ErrorKind::Stale, op).at(place.name)),
        _ => Ok(found),
    }
}

// ---- changes

impl State {
    /// Checks `set` against the kind of node it is for.
    fn check_set(set: &SetAttr, kind: FileKind, op: &'static str) -> Result<()> {
        match (set.size, kind) {
            (None, _) => Ok(()),
            (Some(size), FileKind::File) => end_of(size, 0, op).map(drop),
            (Some(_), FileKind::Dir) => refuse(ErrorKind::IsDir, op),
            (Some(_), _) => refuse(ErrorKind::InvalidArgument, op),
        }
    }

    fn apply_set(node: &mut Node, set: &SetAttr, now: SystemTime) {
        if let (Some(size), Body::File(content)) = (set.size, &mut node.body) {
            content.set_len(size);
            node.mtime = now;
        }
        if let Some(mode) = set.mode
            && node.kind() != FileKind::Symlink
        {
            node.mode = mode & 0o7777;
        }
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        node.atime = set.atime.map_or(node.atime, time);
        node.mtime = set.mtime.map_or(node.mtime, time);
    }

    pub(super) fn setattr(&mut self, ino: Ino, set: &SetAttr, now: SystemTime) -> Result<Changed> {
        let kind = self.node(ino, "model.setattr")?.kind();
        Self::check_set(set, kind, "model.setattr")?;
        if *set == SetAttr::default() {
            return Ok(self.unchanged(ino));
        }
        Ok(self.change(ino, now, |node| Self::apply_set(node, set, now)))
    }

    pub(super) fn write(
        &mut self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        clear_suid: bool,
        now: SystemTime,
    ) -> Result<Changed> {
        let content = self.file(ino, "model.write")?;
        let end = end_of(offset, data.len() as u64, "model.write")?;
        self.need_pages(content.pages_missing(&(offset..end)), "model.write")?;
        if data.is_empty() {
            return Ok(self.unchanged(ino));
        }
        Ok(self.change(ino, now, |node| {
            node.mtime = now;
            if clear_suid {
                node.mode &= !0o6000;
            }
            if let Body::File(content) = &mut node.body {
                content.write(offset, data);
            }
        }))
    }

    pub(super) fn create(
        &mut self,
        dir: Ino,
        name: &Name,
        node: NewNode,
        set: &SetAttr,
        now: SystemTime,
    ) -> Result<DirChanged> {
        let op = "model.create";
        if self.living_dir(dir, op)?.get(name).is_some() {
            return Err(Error::new(ErrorKind::Exists, op).at(name));
        }
        let body = match node {
            NewNode::File => Body::File(Content::default()),
            NewNode::Dir => Body::Dir(Dir::new(dir)),
            NewNode::Symlink(target) if target.is_empty() || target.contains(&0) => {
                return refuse(ErrorKind::InvalidArgument, op);
            }
            NewNode::Symlink(target) if target.len() > SYMLINK_LEN_MAX => return refuse(ErrorKind::NameTooLong, op),
            NewNode::Symlink(target) => Body::Symlink(target),
            NewNode::Fifo => Body::Other(FileKind::Fifo, Rdev::default()),
            NewNode::Socket => Body::Other(FileKind::Socket, Rdev::default()),
            NewNode::CharDevice(rdev) => Body::Other(FileKind::CharDevice, rdev),
            NewNode::BlockDevice(rdev) => Body::Other(FileKind::BlockDevice, rdev),
        };
        let is_dir = matches!(body, Body::Dir(_));
        let kind = match &body {
            Body::File(_) => FileKind::File,
            Body::Dir(_) => FileKind::Dir,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Other(kind, _) => *kind,
        };
        Self::check_set(set, kind, op)?;
        if self.node_count() >= self.options.inodes_max {
            return refuse(ErrorKind::NoSpace, op);
        }
        let ino = self.add_node(body, now);
        if let Some(node) = self.nodes.get_mut(&ino) {
            Self::apply_set(node, set, now);
        }
        let dir = self.change_dir(dir, now, |dir, nlink| {
            dir.insert(name, ino);
            *nlink += u32::from(is_dir);
        });
        Ok(DirChanged { dir, node: self.leased(ino) })
    }

    pub(super) fn link(&mut self, ino: Ino, dir: Ino, name: &Name, now: SystemTime) -> Result<DirChanged> {
        let op = "model.link";
        let node = self.node(ino, op)?;
        match node.kind() {
            FileKind::Dir => return refuse(ErrorKind::NotPermitted, op),
            _ if node.nlink == 0 => return refuse(ErrorKind::NotFound, op),
            _ => {}
        }
        let full = node.nlink >= self.options.links_max;
        if self.living_dir(dir, op)?.get(name).is_some() {
            return Err(Error::new(ErrorKind::Exists, op).at(name));
        }
        if full {
            return refuse(ErrorKind::TooManyLinks, op);
        }
        self.change(ino, now, |node| node.nlink += 1);
        let dir = self.change_dir(dir, now, |dir, _| dir.insert(name, ino));
        Ok(DirChanged { dir, node: self.leased(ino) })
    }

    pub(super) fn remove(&mut self, place: &Place<'_>, kind: RemoveKind, now: SystemTime) -> Result<DirChanged> {
        let op = "model.remove";
        let found = expected(self.dir(place.dir, op)?.get(place.name), place, op)?;
        let ino = found.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(place.name))?;
        match (kind, self.is_dir(ino)) {
            (RemoveKind::NonDir, true) => return Err(Error::new(ErrorKind::IsDir, op).at(place.name)),
            (RemoveKind::Dir, false) => return Err(Error::new(ErrorKind::NotDir, op).at(place.name)),
            (RemoveKind::Dir, true) if !self.is_empty_dir(ino) => {
                return Err(Error::new(ErrorKind::NotEmpty, op).at(place.name));
            }
            _ => {}
        }
        self.unlink(ino, now);
        let dir = self.change_dir(place.dir, now, |dir, nlink| {
            dir.remove(place.name);
            *nlink -= u32::from(kind == RemoveKind::Dir);
        });
        let node = self.attr_of(ino);
        self.free_if_gone(ino);
        Ok(DirChanged { dir, node })
    }

    pub(super) fn rename(
        &mut self,
        from: &Place<'_>,
        to: &Place<'_>,
        mode: RenameMode,
        now: SystemTime,
    ) -> Result<Renamed> {
        let op = "model.rename";
        let moved = expected(self.dir(from.dir, op)?.get(from.name), from, op)?;
        let replaced = expected(self.living_dir(to.dir, op)?.get(to.name), to, op)?;
        let moved = moved.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(from.name))?;
        match (mode, replaced) {
            (RenameMode::NoReplace, Some(_)) => return Err(Error::new(ErrorKind::Exists, op).at(to.name)),
            (RenameMode::Exchange, None) => return Err(Error::new(ErrorKind::NotFound, op).at(to.name)),
            _ => {}
        }
        if self.is_ancestor(moved, to.dir) {
            return Err(Error::new(ErrorKind::InvalidArgument, op).because("a directory does not move into itself"));
        }
        if let Some(replaced) = replaced {
            if self.is_ancestor(replaced, from.dir) {
                let kind = if mode == RenameMode::Exchange { ErrorKind::InvalidArgument } else { ErrorKind::NotEmpty };
                return Err(Error::new(kind, op).at(to.name));
            }
            if replaced == moved {
                let (from, to) = (self.unchanged(from.dir), self.unchanged(to.dir));
                return Ok(Renamed { from, to, node: self.attr_of(moved) });
            }
            if mode == RenameMode::Replace {
                match (self.is_dir(moved), self.is_dir(replaced)) {
                    (true, false) => return Err(Error::new(ErrorKind::NotDir, op).at(to.name)),
                    (false, true) => return Err(Error::new(ErrorKind::IsDir, op).at(to.name)),
                    (true, true) if !self.is_empty_dir(replaced) => {
                        return Err(Error::new(ErrorKind::NotEmpty, op).at(to.name));
                    }
                    _ => {}
                }
            }
        }

        let back = replaced.filter(|_| mode == RenameMode::Exchange);
        if let Some(replaced) = replaced.filter(|_| mode != RenameMode::Exchange) {
            self.unlink(replaced, now);
        }
        self.change(moved, now, |node| node.adopt(to.dir));
        if let Some(back) = back {
            self.change(back, now, |node| node.adopt(from.dir));
        }
        // Subdirectories that come and go in each directory.
        let (moved_dir, replaced_dir) =
            (u32::from(self.is_dir(moved)), u32::from(replaced.is_some_and(|ino| self.is_dir(ino))));
        let back_dir = if back.is_some() { replaced_dir } else { 0 };
        let before = self.unchanged(from.dir).before;
        let mut from_changed = self.change_dir(from.dir, now, |dir, nlink| {
            match back {
                Some(back) => dir.insert(from.name, back),
                None => dir.remove(from.name),
            }
            *nlink = *nlink + back_dir - moved_dir;
        });
        let mut to_changed = self.change_dir(to.dir, now, |dir, nlink| {
            dir.insert(to.name, moved);
            *nlink = *nlink + moved_dir - replaced_dir;
        });
        if from.dir == to.dir {
            to_changed.before = before;
            from_changed = to_changed.clone();
        }
        if let Some(replaced) = replaced {
            self.free_if_gone(replaced);
        }
        Ok(Renamed { from: from_changed, to: to_changed, node: self.attr_of(moved) })
    }

    pub(super) fn allocate(
        &mut self,
        ino: Ino,
        range: &Range<u64>,
        keep_size: bool,
        now: SystemTime,
    ) -> Result<Changed> {
        let op = "model.allocate";
        let content = self.file(ino, op)?;
        if range.is_empty() {
            return refuse(ErrorKind::InvalidArgument, op);
        }
        end_of(range.end, 0, op)?;
        self.need_pages(content.pages_missing(range), op)?;
        Ok(self.change_content(ino, now, |content| {
            content.reserve(range);
            if !keep_size && content.len() < range.end {
                content.set_len(range.end);
            }
        }))
    }

    pub(super) fn punch_hole(&mut self, ino: Ino, range: Range<u64>, now: SystemTime) -> Result<Changed> {
        self.file(ino, "model.punch_hole")?;
        if range.is_empty() {
            return refuse(ErrorKind::InvalidArgument, "model.punch_hole");
        }
        Ok(self.change_content(ino, now, |content| content.punch(range)))
    }

    pub(super) fn copy_range(
        &mut self,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
        now: SystemTime,
    ) -> Result<(u64, Changed)> {
        let op = "model.copy_range";
        let source = self.file(from.0, op)?;
        let target = self.file(to.0, op)?;
        let len = len.min(source.len().saturating_sub(from.1));
        let end = end_of(to.1, len, op)?;
        if from.0 == to.0 && from.1.abs_diff(to.1) < len {
            return Err(Error::new(ErrorKind::InvalidArgument, op).because("the ranges overlap"));
        }
        if len == 0 {
            return Ok((0, self.unchanged(to.0)));
        }
        let pieces = source.pieces(from.1..from.1 + len);
        let needed = pieces
            .iter()
            .map(|(at, bytes)| {
                let at = at - from.1 + to.1;
                target.pages_missing(&(at..at + bytes.len() as u64))
            })
            .sum();
        self.need_pages(needed, op)?;
        let changed = self.change_content(to.0, now, |content| {
            content.punch(to.1..end);
            content.set_len(content.len().max(end));
            for (at, bytes) in &pieces {
                content.write(at - from.1 + to.1, bytes);
            }
        });
        Ok((len, changed))
    }
}

impl Node {
    fn adopt(&mut self, parent: Ino) {
        if let Body::Dir(dir) = &mut self.body {
            dir.parent = parent;
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
