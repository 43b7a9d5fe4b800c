//! One user's view of the file system: paths below a home, symlinks that never lead out, changes that are durable when
//! they are answered.
//!
//! A symlink is resolved here, not in the store: at most [`HOPS_MAX`] of them, an absolute target counted from the root
//! of the mount that the link is in, and neither that nor `..` leads above the mount or above the user's home.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use muxfs::{
    Cid, Error, ErrorKind, FileKind, Name, Result,
    path::PATH_LEN_MAX,
    vfs::{
        Attr, Cookie, DirEntry, Fsid, Ino, Lease, Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, SetTime,
        Vfs,
        posix::{Access, Caller, posix},
    },
};

use crate::{options::Options, path::PARTIAL_PREFIX};

/// The most symlinks one path may cross: what Linux allows.
pub(crate) const HOPS_MAX: usize = 40;
/// Entries asked for at once while listing.
const PAGE_COUNT: usize = 512;

/// A node, kept while it is used.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) lease: Lease,
    pub(crate) attr: Attr,
}

impl Node {
    pub(crate) fn ino(&self) -> Ino {
        self.lease.ino()
    }
}

/// Whether a symlink in the last place is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Follow,
    Keep,
}

/// Where a path leads: a name in a directory, and what is there. `name` is `None` for a root.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) dir: Node,
    pub(crate) name: Option<Name>,
    pub(crate) node: Option<Node>,
}

/// One user's view.
#[derive(Debug)]
pub(crate) struct Tree {
    vfs: Arc<dyn Vfs>,
    home: Lease,
    caller: Caller,
    read_only: bool,
    umask: u32,
    /// The file systems whose names are durable when they are.
    sync_names_except: Vec<Fsid>,
}

enum Step {
    Down(Name),
    Up,
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "ftp.path")
}

impl Tree {
    /// The view of `caller` below `home`, a path of the whole.
    pub(crate) async fn open(
        vfs: Arc<dyn Vfs>,
        caller: Caller,
        home: &[Name],
        read_only: bool,
        options: &Options,
    ) -> Result<Self> {
        let vfs = posix(vfs, caller.clone());
        let root = vfs.root();
        vfs.retain(root);
        let home_lease = Lease::adopt(Arc::clone(&vfs), root);
        let (umask, sync_names_except) = (options.umask, options.sync_names_except.clone());
        let mut tree = Self { vfs, home: home_lease, caller, read_only, umask, sync_names_except };
        tree.home = tree.dir(home).await?.lease;
        Ok(tree)
    }

    fn adopt(&self, attr: Attr) -> Node {
        Node { lease: Lease::adopt(Arc::clone(&self.vfs), attr.ino), attr }
    }

    /// Walks a path; every directory on it but the last name has to be there.
    pub(crate) async fn find(&self, path: &[Name], last: Last) -> Result<Found> {
        let home = Node { lease: self.home.clone(), attr: self.vfs.getattr(self.home.ino()).await? };
        let mut stack = vec![home];
        let mut steps: VecDeque<Step> = path.iter().cloned().map(Step::Down).collect();
        let mut hops = 0;
        let mut here = None;
        while let Some(step) = steps.pop_front() {
            here = None;
            let name = match step {
                Step::Up => {
                    if stack.len() - 1 > mount_root(&stack) {
                        stack.pop();
                    }
                    continue;
                }
                Step::Down(name) => name,
            };
            let dir = stack.last().expect("home stays");
            if dir.attr.kind != FileKind::Dir {
                return Err(error(ErrorKind::NotDir));
            }
            self.vfs.expect(dir.ino(), &way(&name, &steps));
            let found = match self.vfs.lookup(dir.ino(), &name).await {
                Ok(attr) => self.adopt(attr),
                Err(absent) if absent.kind() == ErrorKind::NotFound && steps.is_empty() => {
                    let dir = stack.pop().expect("home stays");
                    return Ok(Found { dir, name: Some(name), node: None });
                }
                Err(other) => return Err(other),
            };
            if found.attr.kind == FileKind::Symlink && (last == Last::Follow || !steps.is_empty()) {
                hops += 1;
                if hops > HOPS_MAX {
                    return Err(error(ErrorKind::Loop));
                }
                let target = self.vfs.readlink(found.ino()).await?;
                if target.first() == Some(&b'/') {
                    stack.truncate(mount_root(&stack) + 1);
                }
                for step in steps_of(&target)?.into_iter().rev() {
                    steps.push_front(step);
                }
                continue;
            }
            stack.push(found);
            here = Some(name);
        }
        let node = stack.pop().expect("home stays");
        let dir = stack.pop().unwrap_or_else(|| node.clone());
        Ok(Found { dir, name: here, node: Some(node) })
    }

    /// What is at a path.
    pub(crate) async fn node(&self, path: &[Name], last: Last) -> Result<Node> {
        self.find(path, last).await?.node.ok_or_else(|| error(ErrorKind::NotFound))
    }

    /// The directory at a path.
    pub(crate) async fn dir(&self, path: &[Name]) -> Result<Node> {
        let node = self.node(path, Last::Follow).await?;
        if node.attr.kind == FileKind::Dir { Ok(node) } else { Err(error(ErrorKind::NotDir)) }
    }

    /// The plain file at a path.
    pub(crate) async fn file(&self, path: &[Name]) -> Result<Node> {
        let node = self.node(path, Last::Follow).await?;
        plain_file(&node.attr)?;
        Ok(node)
    }

    /// The node of a name in a directory, symlinks as they are; `None` if there is none.
    pub(crate) async fn child(&self, dir: &Node, name: &Name) -> Result<Option<Node>> {
        match self.vfs.lookup(dir.ino(), name).await {
            Ok(attr) => Ok(Some(self.adopt(attr))),
            Err(absent) if absent.kind() == ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Some entries of a directory after a place, each with its node, and the place to go on from; `None` at the end.
    pub(crate) async fn page(&self, dir: &Node, after: Cookie) -> Result<(Vec<(Name, Node)>, Option<Cookie>)> {
        let page = self.vfs.readdir(dir.ino(), after, PAGE_COUNT, Listing::Attrs).await?;
        let next = page.entries.last().map(|entry| entry.cookie).filter(|_| !page.eof);
        // Each entry with attributes came leased: adopt them all before anything can fail.
        let entries: Vec<(DirEntry, Option<Lease>)> = page
            .entries
            .into_iter()
            .map(|entry| {
                let lease = entry.attr.as_ref().map(|attr| Lease::adopt(Arc::clone(&self.vfs), attr.ino));
                (entry, lease)
            })
            .collect();
        let mut nodes = Vec::with_capacity(entries.len());
        for (entry, lease) in entries {
            match (entry.attr, lease) {
                (Some(attr), Some(lease)) => nodes.push((entry.name, Node { lease, attr })),
                _ => {
                    if let Some(node) = self.child(dir, &entry.name).await? {
                        nodes.push((entry.name, node));
                    }
                }
            }
        }
        Ok((nodes, next))
    }

    pub(crate) async fn readlink(&self, node: &Node) -> Result<Bytes> {
        self.vfs.readlink(node.ino()).await
    }

    pub(crate) async fn read(&self, node: &Node, offset: u64, len: u32) -> Result<Bytes> {
        self.vfs.read(node.ino(), offset, len).await
    }

    // ---- what is allowed

    /// Refuses changes to who may only read.
    pub(crate) fn writable(&self) -> Result<()> {
        if self.read_only { Err(error(ErrorKind::ReadOnly)) } else { Ok(()) }
    }

    /// Whether the permission bits give this user `want`. The file system decides for itself when it is asked; this is
    /// for what is told beforehand.
    pub(crate) fn may(&self, attr: &Attr, want: Access) -> bool {
        !(want.write && self.read_only) && self.caller.access(attr).covers(want)
    }

    // ---- changes, durable when they return

    pub(crate) async fn sync(&self, node: &Node) -> Result<()> {
        self.vfs.sync_inode(node.ino()).await
    }

    /// Makes names and attributes durable, if that is promised of their file system.
    pub(crate) async fn sync_names(&self, node: &Node) -> Result<()> {
        if self.sync_names_except.contains(&node.attr.fsid) { Ok(()) } else { self.sync(node).await }
    }

    pub(crate) async fn make_dir(&self, path: &[Name]) -> Result<()> {
        self.writable()?;
        let (dir, name) = self.place(path, Last::Keep).await?;
        let set = SetAttr { mode: Some(0o777 & !self.umask), ..SetAttr::default() };
        let made = self.vfs.create(dir.ino(), &name, NewNode::Dir, set).await?;
        drop(self.adopt(made.node));
        self.sync_names(&dir).await
    }

    pub(crate) async fn remove(&self, dir: &Node, name: &Name, kind: RemoveKind) -> Result<()> {
        self.writable()?;
        self.vfs.remove(Place { dir: dir.ino(), name, expect: None }, kind).await?;
        self.sync_names(dir).await
    }

    pub(crate) async fn rename(&self, from: &[Name], to: &[Name]) -> Result<()> {
        self.writable()?;
        let (from_dir, from_name) = self.place(from, Last::Keep).await?;
        let (to_dir, to_name) = self.place(to, Last::Keep).await?;
        let from = Place { dir: from_dir.ino(), name: &from_name, expect: None };
        let to = Place { dir: to_dir.ino(), name: &to_name, expect: None };
        self.vfs.rename(from, to, RenameMode::Replace).await?;
        self.sync_names(&to_dir).await?;
        if from_dir.ino() == to_dir.ino() { Ok(()) } else { self.sync_names(&from_dir).await }
    }

    pub(crate) async fn set_mode(&self, path: &[Name], mode: u32) -> Result<()> {
        self.set(path, SetAttr { mode: Some(mode), ..SetAttr::default() }).await
    }

    pub(crate) async fn set_mtime(&self, path: &[Name], time: std::time::SystemTime) -> Result<()> {
        self.set(path, SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() }).await
    }

    async fn set(&self, path: &[Name], set: SetAttr) -> Result<()> {
        self.writable()?;
        let node = self.node(path, Last::Follow).await?;
        self.vfs.setattr(node.ino(), set).await?;
        self.sync_names(&node).await
    }

    /// The CID of a path, where the file system knows it.
    pub(crate) async fn cid(&self, path: &[Name]) -> Result<Option<Cid>> {
        Ok(self.node(path, Last::Follow).await?.attr.cid)
    }

    // ---- what an upload is made of

    /// The directory and the name that a path means.
    pub(crate) async fn place(&self, path: &[Name], last: Last) -> Result<(Node, Name)> {
        let found = self.find(path, last).await?;
        let name =
            found.name.ok_or_else(|| error(ErrorKind::InvalidArgument).because("a root has no name to change"))?;
        Ok((found.dir, name))
    }

    pub(crate) async fn create_file(&self, dir: &Node, name: &Name) -> Result<Node> {
        let set = SetAttr { mode: Some(0o666 & !self.umask), ..SetAttr::default() };
        let made = self.vfs.create(dir.ino(), name, NewNode::File, set).await?;
        Ok(self.adopt(made.node))
    }

    pub(crate) async fn write(&self, node: &Node, offset: u64, data: Bytes) -> Result<()> {
        self.vfs.write(node.ino(), offset, data, false).await.map(drop)
    }

    pub(crate) async fn truncate(&self, node: &Node, size: u64) -> Result<()> {
        self.vfs.setattr(node.ino(), SetAttr { size: Some(size), ..SetAttr::default() }).await.map(drop)
    }

    pub(crate) async fn attr(&self, node: &Node) -> Result<Attr> {
        self.vfs.getattr(node.ino()).await
    }

    /// Gives a file the mode and, as far as this user may, the owner of the one it takes the place of.
    pub(crate) async fn take_after(&self, node: &Node, old: &Attr) -> Result<()> {
        if (old.uid, old.gid) != (node.attr.uid, node.attr.gid) {
            let owner = SetAttr { uid: Some(old.uid), gid: Some(old.gid), ..SetAttr::default() };
            match self.vfs.setattr(node.ino(), owner).await {
                Ok(_) => {}
                Err(refused) if matches!(refused.kind(), ErrorKind::NotPermitted | ErrorKind::Denied) => {}
                Err(other) => return Err(other),
            }
        }
        // The set-id bits are not inherited: they vouched for other bytes.
        let mode = SetAttr { mode: Some(old.mode & 0o1777), ..SetAttr::default() };
        self.vfs.setattr(node.ino(), mode).await.map(drop)
    }

    /// Moves a partial to its name, at one stroke, over what is there.
    pub(crate) async fn appear(&self, dir: &Node, partial: &Name, file: &Node, name: &Name) -> Result<()> {
        let from = Place { dir: dir.ino(), name: partial, expect: Some(file.ino()) };
        let to = Place { dir: dir.ino(), name, expect: None };
        self.vfs.rename(from, to, RenameMode::Replace).await?;
        self.sync_names(dir).await
    }
}

/// The lowest place of `stack` that is in the file system of its top: no link leads above it.
fn mount_root(stack: &[Node]) -> usize {
    let mut root = 0;
    for (index, pair) in stack.windows(2).enumerate() {
        if let [above, below] = pair
            && above.attr.fsid != below.attr.fsid
        {
            root = index + 1;
        }
    }
    root
}

/// The names that a walk goes down by from here, as far as it is known.
fn way(name: &Name, steps: &VecDeque<Step>) -> Vec<Name> {
    let further = steps.iter().map_while(|step| if let Step::Down(name) = step { Some(name.clone()) } else { None });
    std::iter::once(name.clone()).chain(further).collect()
}

fn steps_of(target: &[u8]) -> Result<Vec<Step>> {
    if target.len() > PATH_LEN_MAX {
        return Err(error(ErrorKind::NameTooLong));
    }
    let mut steps = Vec::new();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => steps.push(Step::Up),
            // A link is no way around the refusal of these names.
            part if part.starts_with(PARTIAL_PREFIX) => return Err(error(ErrorKind::NotFound)),
            part => steps.push(Step::Down(Name::new(part)?)),
        }
    }
    Ok(steps)
}

/// Refuses what has no bytes to transfer.
pub(crate) fn plain_file(attr: &Attr) -> Result<()> {
    match attr.kind {
        FileKind::File => Ok(()),
        FileKind::Dir => Err(error(ErrorKind::IsDir)),
        FileKind::Symlink | FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Err(error(ErrorKind::InvalidArgument).because("not a plain file"))
        }
    }
}
