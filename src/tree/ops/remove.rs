//! Names that go.

use super::super::{
    inode::{Meta, NameEntry},
    record::{Effect, Usage},
    sight::Try,
    state::{Attempt, Edit},
};
use crate::{
    Error, ErrorKind, FileKind,
    vfs::{DirChanged, Ino, Place, RemoveKind},
};

impl Attempt<'_> {
    /// The entry at a place, checked against what the caller believes.
    pub(super) fn at(&mut self, place: &Place<'_>, op: &'static str) -> Try<Option<NameEntry>> {
        let entry = self.sight(|sight| sight.entry(place.dir, place.name))?;
        match (entry, place.expect) {
            (Some(entry), Some(expect)) if entry.ino != expect => {
                Err(Error::new(ErrorKind::Stale, op).at(place.name).into())
            }
            (entry, _) => Ok(entry),
        }
    }

    pub(in super::super) fn remove(&mut self, place: &Place<'_>, kind: RemoveKind) -> Try<DirChanged> {
        let op = "tree.remove";
        let before = self.dir(place.dir, op)?;
        let entry = self.at(place, op)?.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(place.name))?;
        let ino = entry.ino;
        let mut meta = self.named(ino, op)?;
        let refuse = |kind| Err(Error::new(kind, op).at(place.name).into());
        match (kind, meta.kind) {
            (RemoveKind::NonDir, FileKind::Dir) => return refuse(ErrorKind::IsDir),
            (RemoveKind::Dir, FileKind::Dir) if meta.entry_count > 0 => return refuse(ErrorKind::NotEmpty),
            (RemoveKind::Dir, other) if other != FileKind::Dir => return refuse(ErrorKind::NotDir),
            _ => {}
        }
        let mut edit = Edit::default();
        edit.effects.push(gone(place.dir, &entry));
        edit.usage = unlink(&mut meta);
        let mut after = before;
        after.entry_count = after.entry_count.saturating_sub(1);
        after.nlink = after.nlink.saturating_sub(u32::from(kind == RemoveKind::Dir));
        after.mtime = self.now;
        edit.touch(place.dir, &mut after, self.now);
        edit.touch(ino, &mut meta, self.now);
        self.record(edit)?;
        let changed = DirChanged { dir: self.changed(place.dir, &before, &after)?, node: self.attr(ino, &meta)? };
        if meta.nlink == 0 {
            self.lost_its_name(ino, &meta);
        }
        Ok(changed)
    }

    /// The metadata of a node that a name leads to.
    pub(super) fn named(&mut self, ino: Ino, op: &'static str) -> Try<Meta> {
        let meta = self.sight(|sight| sight.meta(ino))?;
        Ok(meta.ok_or_else(|| Error::new(ErrorKind::Corrupt, op).at(ino.0).because("a name of no node"))?)
    }
}

/// That a name went.
pub(super) fn gone(dir: Ino, entry: &NameEntry) -> Effect {
    Effect::Name { dir, rank: entry.rank, name: entry.name.clone(), ino: entry.ino, there: false }
}

/// One name less; a directory has but one. What a node without a name takes counts no longer.
pub(super) fn unlink(meta: &mut Meta) -> Usage {
    meta.nlink = if meta.kind == FileKind::Dir { 0 } else { meta.nlink.saturating_sub(1) };
    if meta.nlink > 0 {
        return Usage::default();
    }
    Usage { inodes: -1, bytes: 0_i64.saturating_sub_unsigned(meta.used) }
}
