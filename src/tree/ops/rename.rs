//! Names that move.

use super::{
    super::{
        inode::{Meta, NameEntry},
        record::Effect,
        sight::Try,
        state::{Attempt, Edit},
    },
    remove::{gone, unlink},
};
use crate::{
    Error, ErrorKind, FileKind,
    vfs::{Ino, Place, RenameMode, Renamed},
};

/// How deep directories may lie in each other: no path that a client can name is deeper, but renames can make one.
const DEPTH_MAX: usize = 1 << 16;

impl Attempt<'_> {
    pub(in super::super) fn rename(&mut self, from: &Place<'_>, to: &Place<'_>, mode: RenameMode) -> Try<Renamed> {
        let op = "tree.rename";
        let from_before = self.dir(from.dir, op)?;
        let moved = self.at(from, op)?;
        let to_before = self.living_dir(to.dir, op)?;
        let replaced = self.at(to, op)?;
        let moved = moved.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(from.name))?;
        match (mode, &replaced) {
            (RenameMode::NoReplace, Some(_)) => return Err(Error::new(ErrorKind::Exists, op).at(to.name).into()),
            (RenameMode::Exchange, None) => return Err(Error::new(ErrorKind::NotFound, op).at(to.name).into()),
            _ => {}
        }
        let mut meta = self.named(moved.ino, op)?;
        let is_dir = meta.kind == FileKind::Dir;
        if is_dir && self.is_ancestor(moved.ino, to.dir)? {
            let why = "a directory does not move into itself";
            return Err(Error::new(ErrorKind::InvalidArgument, op).because(why).into());
        }
        if let Some(replaced) = &replaced {
            if replaced.ino == moved.ino {
                return Ok(Renamed {
                    from: self.unchanged(from.dir, &from_before)?,
                    to: self.unchanged(to.dir, &to_before)?,
                    node: self.attr(moved.ino, &meta)?,
                });
            }
            self.check_replaced(&meta, replaced, from, to, mode)?;
        }

        let mut edit = Edit::default();
        // How the two directories change; where they are one, both.
        let (mut from_moves, mut to_moves) = (Moves::default(), Moves::default());
        edit.effects.push(gone(from.dir, &moved));
        from_moves.lose(is_dir);
        let mut lost = None;
        let rank = if let Some(replaced) = &replaced {
            edit.effects.push(gone(to.dir, replaced));
            let mut other = self.named(replaced.ino, op)?;
            let other_is_dir = other.kind == FileKind::Dir;
            to_moves.lose(other_is_dir);
            if mode == RenameMode::Exchange {
                from_moves.gain(other_is_dir);
                let (name, ino) = (from.name.clone(), replaced.ino);
                edit.effects.push(Effect::Name { dir: from.dir, rank: moved.rank, name, ino, there: true });
            } else {
                edit.usage = unlink(&mut other);
                lost = (other.nlink == 0).then_some((replaced.ino, other));
            }
            edit.touch(replaced.ino, &mut other, self.now);
            replaced.rank
        } else {
            self.sight(|sight| sight.free_rank(to.dir, to.name))?
        };
        edit.effects.push(Effect::Name { dir: to.dir, rank, name: to.name.clone(), ino: moved.ino, there: true });
        to_moves.gain(is_dir);

        edit.touch(moved.ino, &mut meta, self.now);
        let mut to_after = to_before;
        to_moves.apply(&mut to_after);
        let mut from_after = from_before;
        if from.dir == to.dir {
            from_moves.apply(&mut to_after);
        }
        to_after.mtime = self.now;
        edit.touch(to.dir, &mut to_after, self.now);
        if from.dir == to.dir {
            from_after = to_after;
        } else {
            from_moves.apply(&mut from_after);
            from_after.mtime = self.now;
            edit.touch(from.dir, &mut from_after, self.now);
        }
        self.record(edit)?;
        let renamed = Renamed {
            from: self.changed(from.dir, &from_before, &from_after)?,
            to: self.changed(to.dir, &to_before, &to_after)?,
            node: self.attr(moved.ino, &meta)?,
        };
        if let Some((ino, other)) = lost {
            self.lost_its_name(ino, &other);
        }
        Ok(renamed)
    }

    /// Refuses where what is in the way cannot be replaced, or exchanged.
    fn check_replaced(
        &mut self,
        moved: &Meta,
        replaced: &NameEntry,
        from: &Place<'_>,
        to: &Place<'_>,
        mode: RenameMode,
    ) -> Try<()> {
        let op = "tree.rename";
        let refuse = |kind| Err(Error::new(kind, op).at(to.name).into());
        let other = self.named(replaced.ino, op)?;
        let other_is_dir = other.kind == FileKind::Dir;
        if other_is_dir && self.is_ancestor(replaced.ino, from.dir)? {
            let exchange = mode == RenameMode::Exchange;
            return refuse(if exchange { ErrorKind::InvalidArgument } else { ErrorKind::NotEmpty });
        }
        match (moved.kind == FileKind::Dir, other_is_dir) {
            _ if mode != RenameMode::Replace => Ok(()),
            (true, false) => refuse(ErrorKind::NotDir),
            (false, true) => refuse(ErrorKind::IsDir),
            (true, true) if other.entry_count > 0 => refuse(ErrorKind::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Whether `ino` is `below` or above it.
    fn is_ancestor(&mut self, ino: Ino, below: Ino) -> Try<bool> {
        let mut at = below;
        for _ in 0..DEPTH_MAX {
            if at == ino {
                return Ok(true);
            }
            let parents = self.sight(|sight| sight.parents(at))?;
            match parents.into_iter().next() {
                Some((above, _)) => at = above,
                None => return Ok(false),
            }
        }
        let why = "directories that lie too deep, or in a circle";
        Err(Error::new(ErrorKind::InvalidArgument, "tree.rename").because(why).into())
    }
}

/// How many names, and how many of them of directories, come to a directory and go.
#[derive(Debug, Default)]
struct Moves {
    gained: (u32, u32),
    lost: (u32, u32),
}

impl Moves {
    fn gain(&mut self, is_dir: bool) {
        self.gained = (self.gained.0 + 1, self.gained.1 + u32::from(is_dir));
    }

    fn lose(&mut self, is_dir: bool) {
        self.lost = (self.lost.0 + 1, self.lost.1 + u32::from(is_dir));
    }

    fn apply(&self, dir: &mut Meta) {
        dir.entry_count = dir.entry_count.saturating_add(self.gained.0.into()).saturating_sub(self.lost.0.into());
        dir.nlink = (dir.nlink.saturating_add(self.gained.1)).saturating_sub(self.lost.1);
    }
}
