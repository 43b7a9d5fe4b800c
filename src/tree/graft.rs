//! What a tree takes over from elsewhere when it is first asked for, as if it had always been there.
//!
//! Entries keep their own times, and no time and no counter of their directory or of a file moves by what comes. An extended
//! attribute marks what has not come yet, and goes with the last of it. For [`Overlay`](crate::overlay::Overlay).

use std::{collections::BTreeSet, num::NonZeroU64, time::SystemTime};

use bytes::Bytes;

use super::{
    Tree,
    attrs::{INO_END, time_in_range},
    inode::Meta,
    ops::new_meta,
    record::Effect,
    sight::{Halt, Try, refuse},
    state::{Attempt, Edit},
};
use crate::{
    ErrorKind, FileKind, Name, Result,
    rank::Rank,
    vfs::{Changed, Ino, NewNode, SetAttr, XattrName},
};

/// What one record takes of names, targets and attributes, in bytes: a part of what it may be long.
const BATCH_LEN_MAX: usize = 1 << 20;
/// What a node takes of a record beside its name, target and attributes.
const NODE_LEN: usize = 128;

/// An entry that a directory always had.
#[derive(Debug, Clone)]
pub(crate) struct Graft {
    pub(crate) name: Name,
    pub(crate) node: NewNode,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) atime: SystemTime,
    pub(crate) mtime: SystemTime,
    pub(crate) ctime: SystemTime,
    pub(crate) xattrs: Vec<(XattrName, Bytes)>,
}

impl Graft {
    fn len(&self) -> usize {
        let target = if let NewNode::Symlink(target) = &self.node { target.len() } else { 0 };
        let xattrs: usize = self.xattrs.iter().map(|(name, value)| name.as_bytes().len() + value.len()).sum();
        NODE_LEN + self.name.as_bytes().len() + target + xattrs
    }

    fn meta(&self) -> Meta {
        let new = new_meta(&self.node, time_in_range(self.mtime));
        let [atime, ctime] = [self.atime, self.ctime].map(time_in_range);
        let mode = if new.kind == FileKind::Symlink { new.mode } else { self.mode & 0o7777 };
        Meta { mode, uid: self.uid, gid: self.gid, atime, ctime, change: 1, ..new }
    }
}

impl Tree {
    /// Puts entries into a directory; a name that is there stays as it is, so that what a crash left can be put again.
    ///
    /// # Errors
    /// `InvalidArgument` where two names have one hash; `NoSpace`; those of a change.
    pub(crate) async fn graft(&self, dir: Ino, grafts: &[Graft]) -> Result<()> {
        let mut rest = grafts;
        while !rest.is_empty() {
            let done = self.shared.grow(&self.standing, |attempt| attempt.graft(dir, rest)).await?;
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes bytes to a file that were always there. In the journal they are before whatever is done later.
    ///
    /// # Errors
    /// Those of a write.
    pub(crate) async fn bring(&self, ino: Ino, offset: u64, data: Bytes) -> Result<()> {
        self.shared.bring(&self.standing, ino, offset, data).await
    }

    /// Takes the attribute `mark` of a node away, which is no change of it, and sets `set`, at one stroke.
    ///
    /// # Errors
    /// Those of [`Vfs::setattr`](crate::vfs::Vfs::setattr).
    pub(crate) async fn take_over(&self, ino: Ino, mark: &XattrName, set: &SetAttr) -> Result<Changed> {
        self.shared.change(&self.standing, |attempt| attempt.take_over(ino, mark, set)).await
    }
}

impl Attempt<'_> {
    /// Puts the first of `grafts` into a directory, as many as one record takes, and tells how many that were.
    fn graft(&mut self, dir: Ino, grafts: &[Graft]) -> Try<usize> {
        let op = "tree.graft";
        let mut after = self.living_dir(dir, op)?;
        let free = self.state.reserved.saturating_sub(self.state.give);
        let (mut edit, mut made, mut done, mut len) = (Edit::default(), 0, 0, 0);
        // The place of a name depends on those before it with the same hash: the next record sees them.
        let mut hashes = BTreeSet::new();
        for graft in grafts {
            if self.sight(|sight| sight.entry(dir, &graft.name))?.is_some() {
                done += 1;
                continue;
            }
            if made == free && done == 0 {
                return Err(Halt::NoNumber);
            }
            if made == free || len > BATCH_LEN_MAX || !hashes.insert(Rank::of(graft.name.as_bytes()).hash_min()) {
                break;
            }
            let number = NonZeroU64::new(self.state.give + made).filter(|number| number.get() < INO_END);
            let Some(ino) = number.map(Ino) else { return refuse(ErrorKind::NoSpace, op) };
            let rank = self.sight(|sight| sight.free_rank(dir, &graft.name))?;
            let meta = graft.meta();
            edit.effects.push(Effect::Inode(ino, meta));
            if let NewNode::Symlink(target) = &graft.node {
                edit.effects.push(Effect::Target(ino, target.clone()));
            }
            edit.effects.push(Effect::Name { dir, rank, name: graft.name.clone(), ino, there: true });
            let xattr = |(name, value): &(XattrName, Bytes)| Effect::Xattr(ino, name.clone(), Some(value.clone()));
            edit.effects.extend(graft.xattrs.iter().map(xattr));
            after.entry_count = after.entry_count.saturating_add(1);
            after.nlink = after.nlink.saturating_add(u32::from(meta.kind == FileKind::Dir));
            (made, done, len) = (made + 1, done + 1, len + graft.len());
        }
        if made == 0 {
            return Ok(done);
        }
        edit.effects.insert(0, Effect::Inode(dir, after));
        edit.usage.inodes = made.cast_signed();
        self.check_usage(edit.usage, op)?;
        self.record(edit)?;
        self.state.give += made;
        Ok(done)
    }
}
