//! Random changes of a file system, by paths: what a tree, a model and a simulation are driven with.
//!
//! A [`Step`] says what happens and to which paths, never to which inodes: two file systems that take the same steps end
//! alike, whatever numbers they give. What a step answers is told in words that all must use, and [`describe`] tells all
//! that is seen, in the same way.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::fault::Dice;
use crate::{
    FileKind, Name, Result,
    vfs::{
        Attr, Ino, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs, XattrMode, XattrName,
        ext::{list, read_to_end},
    },
};

/// The names from the root down; empty for the root itself.
pub type Path = Vec<Name>;

/// A change.
#[derive(Debug, Clone)]
pub enum Step {
    /// A new node there.
    Create(Path, NewNode),
    /// The name goes.
    Remove(Path, RemoveKind),
    /// From there to there.
    Rename(Path, Path, RenameMode),
    /// The node of the first path gets the second one too.
    Link(Path, Path),
    /// At an offset, so many bytes; which ones follows from both.
    Write(Path, u64, usize),
    /// A new length.
    Size(Path, u64),
    /// New permissions, and an owner of the same number.
    Mode(Path, u32),
    /// From an offset, so many bytes become a hole.
    Punch(Path, u64, u64),
    /// From an offset of the first, so many bytes to the beginning of the second.
    Copy(Path, Path, u64, u64),
    /// An attribute is set, or removed.
    Xattr(Path, Option<Bytes>),
}

/// What drawing and taking steps leaves out, for the sake of what is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// No copies; what is told includes the room that files take.
    Measured,
    /// Copies too, which may or may not bring the zeros of a hole along: the room that files take is not told.
    All,
}

impl Step {
    /// Draws a step for a file system that has these paths; never none, since the root is one.
    ///
    /// ```
    /// use muxfs::testing::{fault::Dice, workload::{Kinds, Step}};
    /// let mut dice = Dice::new(1);
    /// println!("{:?}", Step::draw(&mut dice, &[vec![]], Kinds::All));
    /// ```
    pub fn draw(dice: &mut Dice, paths: &[Path], kinds: Kinds) -> Self {
        draw(dice, paths, kinds == Kinds::All)
    }

    /// Takes the step, and tells how it went, without numbers that are the file system's own.
    ///
    /// # Errors
    /// Those of the call it makes, and `NotFound`, `NotDir` of the look-ups before it.
    pub async fn take(&self, vfs: &dyn Vfs, kinds: Kinds) -> Result<String> {
        let mut leases = Vec::new();
        let told = try_take(vfs, self, kinds == Kinds::All, &mut leases).await;
        for ino in leases {
            vfs.release(ino, 1);
        }
        told
    }
}

async fn find(vfs: &dyn Vfs, path: &[Name]) -> Result<Ino> {
    let mut at = vfs.root();
    for name in path {
        let attr = vfs.lookup(at, name).await;
        vfs.release(at, 1);
        at = attr?.ino;
    }
    if path.is_empty() {
        vfs.retain(at);
    }
    Ok(at)
}

fn split(path: &[Name]) -> (&[Name], Name) {
    path.split_last().map_or((path, name(b"root")), |(last, above)| (above, last.clone()))
}

fn name(text: &[u8]) -> Name {
    // The names of this file are good ones.
    Name::new(text).unwrap_or_else(|error| panic!("{error:#}"))
}

async fn try_take(vfs: &dyn Vfs, step: &Step, copies: bool, leases: &mut Vec<Ino>) -> Result<String> {
    let mut lease = async |path: &[Name]| -> Result<Ino> {
        let ino = find(vfs, path).await?;
        leases.push(ino);
        Ok(ino)
    };
    // A copy of a part of a page may or may not bring the zeros of the rest of it along.
    let used = |attr: &Attr| if copies { String::new() } else { format!(" used {}", attr.used) };
    let size = |attr: &Attr| if attr.kind == FileKind::Dir { 0 } else { attr.size };
    Ok(match step {
        Step::Create(path, node) => {
            let (above, name) = split(path);
            let made = vfs.create(lease(above).await?, &name, node.clone(), SetAttr::default()).await?;
            leases.push(made.node.ino);
            format!("{:o} {}", made.node.mode, made.dir.after.nlink)
        }
        Step::Remove(path, kind) => {
            let (above, name) = split(path);
            let dir = lease(above).await?;
            let removed = vfs.remove(Place { dir, name: &name, expect: None }, *kind).await?;
            format!("{} {}", removed.node.nlink, removed.dir.after.nlink)
        }
        Step::Rename(from, to, mode) => {
            let ((from_dir, from), (to_dir, to)) = (split(from), split(to));
            let (from_dir, to_dir) = (lease(from_dir).await?, lease(to_dir).await?);
            let place = |dir, name| Place { dir, name, expect: None };
            let renamed = vfs.rename(place(from_dir, &from), place(to_dir, &to), *mode).await?;
            format!("{} {} {}", renamed.from.after.nlink, renamed.to.after.nlink, renamed.node.nlink)
        }
        Step::Link(node, path) => {
            let (above, name) = split(path);
            let (ino, dir) = (lease(node).await?, lease(above).await?);
            let linked = vfs.link(ino, dir, &name).await?;
            leases.push(linked.node.ino);
            linked.node.nlink.to_string()
        }
        Step::Write(path, offset, len) => {
            let data = Dice::new(*offset + *len as u64).bytes(*len);
            let changed = vfs.write(lease(path).await?, *offset, data.into(), true).await?;
            format!("{} {}{}", changed.before.size, changed.after.size, used(&changed.after))
        }
        Step::Size(path, len) => {
            let set = SetAttr { size: Some(*len), ..SetAttr::default() };
            let changed = vfs.setattr(lease(path).await?, set).await?;
            format!("{}{}", changed.after.size, used(&changed.after))
        }
        Step::Mode(path, mode) => {
            let set = SetAttr { mode: Some(*mode), uid: Some(*mode), ..SetAttr::default() };
            let changed = vfs.setattr(lease(path).await?, set).await?;
            format!("{:o} {}", changed.after.mode, changed.after.uid)
        }
        Step::Punch(path, start, len) => {
            let changed = vfs.punch_hole(lease(path).await?, *start..start + len).await?;
            size(&changed.after).to_string()
        }
        Step::Copy(from, to, offset, len) => {
            let (from, to) = (lease(from).await?, lease(to).await?);
            let (len, changed) = vfs.copy_range((from, *offset), (to, 0), *len).await?;
            format!("{len} {}", changed.after.size)
        }
        Step::Xattr(path, value) => {
            let (ino, name) = (lease(path).await?, XattrName::new(b"user.x")?);
            let _ = match value {
                Some(value) => vfs.setxattr(ino, &name, value.clone(), XattrMode::Set).await?,
                None => vfs.removexattr(ino, &name).await?,
            };
            format!("{:?}", vfs.listxattr(ino).await?)
        }
    })
}

/// All that is seen of a file system, in the order of the names, and the paths of it.
///
/// # Errors
/// Those of the calls that read.
pub async fn describe(vfs: &dyn Vfs) -> Result<(String, Vec<Path>)> {
    let root = vfs.getattr(vfs.root()).await?;
    let mut lines = BTreeMap::from([(Vec::new(), line(vfs, &[], &root).await?)]);
    let mut todo: Vec<(Path, Ino)> = vec![(Vec::new(), vfs.root())];
    while let Some((path, dir)) = todo.pop() {
        for entry in list(vfs, dir, usize::MAX).await? {
            let attr = vfs.lookup(dir, &entry.name).await?;
            let path = [path.clone(), vec![entry.name]].concat();
            lines.insert(path.clone(), line(vfs, &path, &attr).await?);
            if attr.kind == FileKind::Dir {
                todo.push((path, attr.ino));
            } else {
                vfs.release(attr.ino, 1);
            }
        }
        if dir != vfs.root() {
            vfs.release(dir, 1);
        }
    }
    let (paths, lines): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
    Ok((lines.join("\n"), paths))
}

/// What is seen of one node.
async fn line(vfs: &dyn Vfs, path: &[Name], attr: &Attr) -> Result<String> {
    let content = match attr.kind {
        FileKind::File => read_to_end(vfs, attr.ino, 1 << 24).await?,
        FileKind::Symlink => vfs.readlink(attr.ino).await?,
        _ => Bytes::new(),
    };
    let content = crate::cid_of(crate::Codec::Raw, &content);
    let xattrs = vfs.listxattr(attr.ino).await?.len();
    let Attr { kind, mode, uid, nlink, size, .. } = attr;
    Ok(format!("{path:?} {kind:?} {mode:o} {uid} {nlink} {size} {content} {xattrs}"))
}

fn draw(dice: &mut Dice, paths: &[Path], copies: bool) -> Step {
    let names = [b"a", b"b", b"c", b"d", b"e"].map(|text| name(text));
    let some = |dice: &mut Dice| paths[dice.roll(paths.len())].clone();
    let below = |dice: &mut Dice| {
        let mut path = some(dice);
        path.truncate(3);
        path.push(names[dice.roll(names.len())].clone());
        path
    };
    let offset = |dice: &mut Dice| [0, 5, 1023, 1024, 4096, 10_000][dice.roll(6)];
    match dice.roll(20) {
        0..4 => {
            let nodes = [NewNode::File, NewNode::File, NewNode::Dir, NewNode::Symlink("x".into()), NewNode::Fifo];
            Step::Create(below(dice), nodes[dice.roll(5)].clone())
        }
        4..7 => {
            let kind = if dice.roll(2) == 0 { RemoveKind::Dir } else { RemoveKind::NonDir };
            Step::Remove(some(dice), kind)
        }
        7..10 => {
            let mode = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
            let (from, to) = (some(dice), below(dice));
            Step::Rename(from, to, mode[dice.roll(4)])
        }
        10 => Step::Link(some(dice), below(dice)),
        11..15 => {
            let len = [1, 100, 1024, 3000, 9000][dice.roll(5)];
            Step::Write(some(dice), offset(dice), len)
        }
        15 => Step::Size(some(dice), offset(dice)),
        16 => Step::Mode(some(dice), u32::try_from(dice.roll(0o7777)).unwrap_or(0)),
        17 => Step::Punch(some(dice), offset(dice), 4000),
        18 if copies => Step::Copy(some(dice), some(dice), offset(dice), 6000),
        _ => Step::Xattr(some(dice), (dice.roll(3) > 0).then(|| Bytes::from_static(b"value"))),
    }
}
