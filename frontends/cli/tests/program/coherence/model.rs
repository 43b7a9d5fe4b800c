//! What a directory with a few names is, to one client at a time.

use std::collections::BTreeMap;

use muxfs::testing::linear::Model;

/// The names that all clients work on.
pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

/// One of [`NAMES`].
pub(super) type Name = usize;
/// A file, whatever names it has; whoever makes one draws it.
pub(super) type Node = u64;
/// A file as one client found it: an open file, a handle, or what a call keeps while it is under way.
pub(super) type Found = u64;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    /// The permission bits; `None` where the call that made it promises none.
    pub(super) mode: Option<u32>,
    pub(super) xattr: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Dir {
    pub(super) names: [Option<Node>; NAMES.len()],
    /// Those that a name or a client leads to.
    files: BTreeMap<Node, File>,
    /// With for how many calls.
    found: BTreeMap<Found, (Node, usize)>,
}

/// What a client asked and was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    /// There is a file of that name; the client has it for so many more calls.
    Find(Name, Found, usize),
    /// There is no file of that name.
    Absent(Name),
    /// There is one.
    Present(Name),
    /// There was none, and now there is an empty one.
    Create(Name, Node, u32),
    /// Whatever was there, now it is a new file with these bytes.
    Put(Name, Node, Vec<u8>),
    /// There was one, and the name is gone.
    Remove(Name),
    /// There was one, and it has the second name now, whatever that had before.
    Rename(Name, Name),
    /// The same, told by a kernel: it does nothing where it believes that both are names of one file, and that may be
    /// one name from before another rename and one from after it.
    RenameSeen(Name, Name),
    /// The file has this name too, which was free.
    Link(Found, Name),
    /// The bytes are these.
    Bytes(Found, Vec<u8>),
    /// From an offset on the bytes are these, or would be with zeros behind them.
    BytesFrom(Found, usize, Vec<u8>),
    /// So many bytes.
    Len(Found, usize),
    /// The same, told by a read of a kernel.
    ReadLen(Found, usize),
    /// These permissions.
    Mode(Found, u32),
    /// So many names.
    Links(Found, usize),
    /// The extended attribute is this.
    Xattr(Found, Option<Vec<u8>>),
    /// Bytes at an offset are now these.
    Write(Found, usize, Vec<u8>),
    /// It is so long now.
    Cut(Found, usize),
    SetMode(Found, u32),
    SetXattr(Found, Option<Vec<u8>>),
}

impl Op {
    /// The file it is about, where that was found before.
    pub(super) fn found(&self) -> Option<Found> {
        match *self {
            Self::Link(found, _)
            | Self::Bytes(found, _)
            | Self::BytesFrom(found, ..)
            | Self::Len(found, _)
            | Self::ReadLen(found, _)
            | Self::Mode(found, _)
            | Self::Links(found, _)
            | Self::Xattr(found, _)
            | Self::Write(found, ..)
            | Self::Cut(found, _)
            | Self::SetMode(found, _)
            | Self::SetXattr(found, _) => Some(found),
            Self::Find(..)
            | Self::Absent(_)
            | Self::Present(_)
            | Self::Create(..)
            | Self::Put(..)
            | Self::Remove(_)
            | Self::Rename(..)
            | Self::RenameSeen(..) => None,
        }
    }

    /// Whether it changes what that name leads to.
    fn renames(&self, name: Name) -> bool {
        match *self {
            Self::Link(_, to) => to == name,
            Self::Create(made, ..) | Self::Put(made, ..) => made == name,
            Self::Remove(gone) => gone == name,
            Self::Rename(from, to) | Self::RenameSeen(from, to) => from == name || to == name,
            _ => false,
        }
    }
}

impl Dir {
    fn node(&self, found: Found) -> Option<Node> {
        self.found.get(&found).map(|(node, _)| *node)
    }

    fn file(&self, found: Found) -> Option<&File> {
        self.files.get(&self.node(found)?)
    }

    fn file_mut(&mut self, found: Found) -> Option<&mut File> {
        self.files.get_mut(&self.node(found)?)
    }

    fn link_count(&self, node: Node) -> usize {
        self.names.iter().filter(|name| **name == Some(node)).count()
    }

    /// Forgets a file that nothing leads to.
    fn forget(&mut self, node: Option<Node>) {
        let Some(node) = node else { return };
        if self.link_count(node) == 0 && !self.found.values().any(|(other, _)| *other == node) {
            self.files.remove(&node);
        }
    }

    fn name(&mut self, name: Name, node: Option<Node>) {
        let before = std::mem::replace(&mut self.names[name], node);
        self.forget(before);
    }

    /// Does what `op` says, if it was told what is so.
    fn take(&mut self, op: &Op) -> Option<()> {
        let told = |is_so: bool| is_so.then_some(());
        match *op {
            Op::Find(name, found, count) => {
                self.found.insert(found, (self.names[name]?, count));
            }
            Op::Absent(name) => told(self.names[name].is_none())?,
            Op::Present(name) => told(self.names[name].is_some())?,
            Op::Create(name, node, mode) => {
                told(self.names[name].is_none())?;
                self.files.insert(node, File { mode: Some(mode), ..File::default() });
                self.name(name, Some(node));
            }
            Op::Put(name, node, ref bytes) => {
                self.files.insert(node, File { bytes: bytes.clone(), ..File::default() });
                self.name(name, Some(node));
            }
            Op::Remove(name) => {
                told(self.names[name].is_some())?;
                self.name(name, None);
            }
            Op::RenameSeen(from, to) if self.names[from].is_none() => told(self.names[to].is_some())?,
            Op::Rename(from, to) | Op::RenameSeen(from, to) => {
                let node = self.names[from]?;
                // Two names of one file stay.
                if self.names[to] != Some(node) {
                    self.name(to, Some(node));
                    self.name(from, None);
                }
            }
            Op::Link(found, to) => {
                told(self.names[to].is_none())?;
                let node = self.node(found)?;
                self.name(to, Some(node));
            }
            Op::Bytes(found, ref bytes) => told(self.file(found)?.bytes == *bytes)?,
            Op::BytesFrom(found, offset, ref bytes) => {
                let mut is = self.file(found)?.bytes.clone();
                is.resize(offset + bytes.len(), 0);
                told(is[offset..] == *bytes)?;
            }
            Op::Len(found, len) | Op::ReadLen(found, len) => told(self.file(found)?.bytes.len() == len)?,
            Op::Mode(found, mode) => told(self.file(found)?.mode.is_none_or(|is| is == mode))?,
            Op::Links(found, count) => {
                let node = self.node(found)?;
                told(self.link_count(node) == count)?;
            }
            Op::Xattr(found, ref value) => told(self.file(found)?.xattr == *value)?,
            Op::Write(found, offset, ref bytes) => {
                let file = &mut self.file_mut(found)?.bytes;
                let end = offset + bytes.len();
                file.resize(file.len().max(end), 0);
                file[offset..end].copy_from_slice(bytes);
            }
            Op::Cut(found, len) => self.file_mut(found)?.bytes.resize(len, 0),
            Op::SetMode(found, mode) => self.file_mut(found)?.mode = Some(mode),
            Op::SetXattr(found, ref value) => self.file_mut(found)?.xattr.clone_from(value),
        }
        if let Some(found) = op.found() {
            self.used(found);
        }
        Some(())
    }

    fn used(&mut self, found: Found) {
        let Some((node, count)) = self.found.get_mut(&found) else { return };
        let node = *node;
        *count -= 1;
        if *count == 0 {
            self.found.remove(&found);
            self.forget(Some(node));
        }
    }
}

/// A directory in which each call happens at once.
pub(super) struct OneAtATime;

impl Model for OneAtATime {
    type State = Dir;
    type Op = Op;

    fn step(&self, state: &Dir, op: &Op) -> Option<Dir> {
        let mut next = state.clone();
        next.take(op)?;
        Some(next)
    }

    fn looks(&self, op: &Op) -> bool {
        use Op::{Absent, Bytes, BytesFrom, Len, Links, Mode, Present, ReadLen, Xattr};
        let length = matches!(op, Len(..) | ReadLen(..));
        length || matches!(op, Absent(..) | Present(..) | Bytes(..) | BytesFrom(..) | Mode(..) | Links(..) | Xattr(..))
    }

    fn disturbs(&self, change: &Op, op: &Op) -> bool {
        match *op {
            Op::Find(name, ..) => change.renames(name),
            _ => true,
        }
    }

    /// A mount has copies of what each name leads to, and of each file: its bytes, its mode, how many names it has.
    fn concerns(&self, state: &Dir, change: &Op, copy: &Op) -> bool {
        let changes_it = |it: Found| {
            let it = state.node(it);
            change.found().is_some_and(|changed| {
                let changed = state.node(changed);
                changed.is_none() || changed == it
            })
        };
        match *copy {
            // Perhaps it did nothing, for what another one did that has not returned: until then the name is seen.
            Op::Find(name, ..) | Op::Present(name) if matches!(*change, Op::RenameSeen(from, _) if from == name) => {
                false
            }
            Op::Find(name, ..) | Op::Absent(name) | Op::Present(name) => change.renames(name),
            Op::BytesFrom(it, from, ref bytes) => {
                let changes_these = match *change {
                    Op::Write(_, offset, ref written) => offset < from + bytes.len() && from < offset + written.len(),
                    Op::Cut(_, len) => len < from + bytes.len(),
                    _ => false,
                };
                changes_these && changes_it(it)
            }
            Op::Len(it, _) | Op::ReadLen(it, _) => matches!(change, Op::Write(..) | Op::Cut(..)) && changes_it(it),
            Op::Mode(it, _) => matches!(change, Op::SetMode(..)) && changes_it(it),
            Op::Links(it, _) => {
                let node = state.node(it);
                let names = state.names.iter().enumerate();
                let mut own = names.filter(|(_, other)| node.is_some() && **other == node);
                matches!(change, Op::Link(..)) && changes_it(it) || own.any(|(name, _)| change.renames(name))
            }
            _ => true,
        }
    }
}
