//! Attributes that are set, and sizes.

use std::ops::Range;

use super::super::{
    attrs::time_in_range,
    inode::Meta,
    record::Effect,
    sight::{PAGE_LEN, Try, pages_of, refuse},
    state::{Attempt, Edit},
};
use crate::{
    ErrorKind, FileKind,
    vfs::{Changed, FILE_LEN_MAX, Ino, SetAttr, SetTime, XattrName},
};

impl Attempt<'_> {
    /// Checks `set` against the kind of node it is for.
    pub(super) fn check_set(set: &SetAttr, kind: FileKind, op: &'static str) -> Try<()> {
        match (set.size, kind) {
            (Some(size), FileKind::File) if size > FILE_LEN_MAX => refuse(ErrorKind::TooLarge, op),
            (None, _) | (Some(_), FileKind::File) => Ok(()),
            (Some(_), FileKind::Dir) => refuse(ErrorKind::IsDir, op),
            (Some(_), _) => refuse(ErrorKind::InvalidArgument, op),
        }
    }

    /// Sets everything but what a new size does to the bytes.
    pub(super) fn apply_set(&self, meta: &mut Meta, set: &SetAttr) {
        if let (Some(size), FileKind::File) = (set.size, meta.kind) {
            meta.size = size;
            meta.mtime = self.now;
        }
        if let Some(mode) = set.mode
            && meta.kind != FileKind::Symlink
        {
            meta.mode = mode & 0o7777;
        }
        meta.uid = set.uid.unwrap_or(meta.uid);
        meta.gid = set.gid.unwrap_or(meta.gid);
        let time = |set: SetTime| match set {
            SetTime::Now => self.now,
            // As other file systems do: a time that cannot be kept is kept as the nearest that can.
            SetTime::At(time) => time_in_range(time),
        };
        meta.atime = set.atime.map_or(meta.atime, time);
        meta.mtime = set.mtime.map_or(meta.mtime, time);
    }

    pub(in super::super) fn setattr(&mut self, ino: Ino, set: &SetAttr) -> Try<Changed> {
        let op = "tree.setattr";
        let before = self.meta(ino, op)?;
        if *set == SetAttr::default() {
            return self.unchanged(ino, &before);
        }
        self.set(ino, set, Edit::default(), op)
    }

    /// Takes an extended attribute away and sets `set`, at one stroke; to take it away is no change of the node.
    pub(in super::super) fn take_over(&mut self, ino: Ino, mark: &XattrName, set: &SetAttr) -> Try<Changed> {
        let op = "tree.take_over";
        let before = self.meta(ino, op)?;
        let mut edit = Edit::default();
        edit.effects.push(Effect::Xattr(ino, mark.clone(), None));
        if *set != SetAttr::default() {
            return self.set(ino, set, edit, op);
        }
        edit.effects.insert(0, Effect::Inode(ino, before));
        self.record(edit)?;
        self.unchanged(ino, &before)
    }

    fn set(&mut self, ino: Ino, set: &SetAttr, mut edit: Edit, op: &'static str) -> Try<Changed> {
        let before = self.meta(ino, op)?;
        Self::check_set(set, before.kind, op)?;
        let mut after = before;
        if let Some(size) = set.size
            && size < before.size
        {
            // What is cut off is gone, also what was reserved behind the end: growing again shows zeros.
            self.empty(ino, size..FILE_LEN_MAX, &mut after, &mut edit)?;
        }
        self.apply_set(&mut after, set);
        self.change_file(ino, &before, &mut after, edit, op)
    }

    /// Makes `range` zeros in an edit: whole pages of it a hole, and counts those that come free. A page of which a part
    /// stays takes space still, if it did.
    pub(super) fn empty(&mut self, ino: Ino, range: Range<u64>, meta: &mut Meta, edit: &mut Edit) -> Try<()> {
        let whole = range.start.next_multiple_of(PAGE_LEN)..range.end / PAGE_LEN * PAGE_LEN;
        let borders = if whole.start < whole.end {
            let freed = self.sight(|sight| sight.used(ino, whole.clone()))?;
            meta.used = meta.used.saturating_sub(freed);
            edit.effects.push(Effect::Hole(ino, whole.clone()));
            [range.start..whole.start, whole.end..range.end]
        } else {
            // All within one page, or a part of each of two.
            let border = whole.start.min(range.end);
            [range.start..border, border..range.end]
        };
        for part in borders.into_iter().filter(|part| !part.is_empty()) {
            let takes_space = self.sight(|sight| sight.used(ino, pages_of(&part)))? > 0;
            edit.effects.push(if takes_space { Effect::Reserve(ino, part) } else { Effect::Hole(ino, part) });
        }
        Ok(())
    }

    /// Records a change of one node, whose `used` may have moved.
    pub(super) fn change_file(
        &mut self,
        ino: Ino,
        before: &Meta,
        after: &mut Meta,
        mut edit: Edit,
        op: &'static str,
    ) -> Try<Changed> {
        let more = self.count_used(before, after, &mut edit, op)?;
        edit.touch(ino, after, self.now);
        self.record(edit)?;
        self.grow_orphan(after, more);
        self.changed(ino, before, after)
    }

    /// Counts what a file takes more than before, or refuses it; of one without a name nothing outlives a restart.
    pub(super) fn count_used(&self, before: &Meta, after: &Meta, edit: &mut Edit, op: &'static str) -> Try<i64> {
        let more = i64::try_from(i128::from(after.used) - i128::from(before.used));
        let Ok(more) = more else { return refuse(ErrorKind::NoSpace, op) };
        edit.usage.bytes = more;
        self.check_usage(edit.usage, op)?;
        if after.nlink == 0 {
            edit.usage.bytes = 0;
        }
        Ok(more)
    }

    /// Counts what a file without a name takes more, once that is recorded.
    pub(super) fn grow_orphan(&mut self, after: &Meta, more: i64) {
        if after.nlink == 0 && self.group.is_none() {
            self.state.orphan_used = self.state.orphan_used.saturating_add_signed(more);
        }
    }
}
