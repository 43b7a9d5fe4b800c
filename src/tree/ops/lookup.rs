//! Finding and listing: what changes nothing.

use bytes::Bytes;

use super::super::{
    inode::NameEntry,
    sight::{Halt, Try, refuse},
    state::{Attempt, ROOT},
};
use crate::{
    Error, ErrorKind, FileKind, Name,
    rank::Rank,
    vfs::{Attr, Cookie, DirEntry, DirPage, FsStat, Ino, Listing},
};

/// The most entries of one page, whatever was asked for: bounds what a page takes in memory.
const PAGE_COUNT_MAX: usize = 4096;

impl Attempt<'_> {
    pub(in super::super) fn getattr(&mut self, ino: Ino) -> Try<Attr> {
        let meta = self.meta(ino, "tree.getattr")?;
        self.attr(ino, &meta)
    }

    pub(in super::super) fn lookup(&mut self, dir: Ino, name: &Name) -> Try<Attr> {
        let op = "tree.lookup";
        if self.passed(dir, op)?.kind != FileKind::Dir {
            return Err(Error::new(ErrorKind::NotDir, op).at(dir.0).into());
        }
        let entry = self.sight(|sight| sight.entry(dir, name))?;
        let entry = entry.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(name))?;
        let meta = self.passed(entry.ino, op)?;
        if self.group.is_some() && meta.kind != FileKind::Dir {
            self.meta(entry.ino, op)?;
        }
        let attr = self.attr(entry.ino, &meta)?;
        self.lease(entry.ino);
        Ok(attr)
    }

    pub(in super::super) fn parent(&mut self, ino: Ino) -> Try<Attr> {
        let op = "tree.parent";
        let meta = self.meta(ino, op)?;
        if ino == ROOT {
            return self.leased(ROOT, op);
        }
        let parents = if meta.nlink == 0 { None } else { Some(self.sight(|sight| sight.parents(ino))?) };
        let above = parents.and_then(|parents| parents.into_iter().next());
        let (above, _) = above.ok_or_else(|| Error::new(ErrorKind::NotFound, op).because("it has no name any more"))?;
        self.leased(above, op)
    }

    /// The node of a handle. What never became durable has a number that is given out again only after a restart, so
    /// one that is too great is of a node that a crash undid.
    pub(in super::super) fn resolve(&mut self, ino: Ino) -> Try<Attr> {
        self.leased(ino, "tree.resolve")
    }

    /// The attributes of a node, leased.
    pub(in super::super) fn leased(&mut self, ino: Ino, op: &'static str) -> Try<Attr> {
        let meta = self.meta(ino, op)?;
        let attr = self.attr(ino, &meta)?;
        self.lease(ino);
        Ok(attr)
    }

    pub(in super::super) fn readdir(
        &mut self,
        dir: Ino,
        after: Cookie,
        count: usize,
        listing: Listing,
    ) -> Try<DirPage> {
        let op = "tree.readdir";
        self.dir(dir, op)?;
        let from = match Rank::from_cookie(after) {
            _ if after == Cookie::START => Rank::from_bits(0),
            Some(rank) => Rank::from_bits(rank.bits() + 1),
            None => return refuse(ErrorKind::BadCookie, op),
        };
        let count = count.clamp(1, PAGE_COUNT_MAX);
        let mut found = match from {
            Some(from) => self.sight(|sight| sight.entries(dir, from, count + 1))?,
            None => Vec::new(),
        };
        let eof = found.len() <= count;
        found.truncate(count);
        let attrs = if listing == Listing::Attrs { self.attrs_of(&found)? } else { vec![None; found.len()] };
        for attr in attrs.iter().flatten() {
            self.lease(attr.ino);
        }
        let entry = |(entry, attr): (NameEntry, Option<Attr>)| DirEntry {
            name: entry.name,
            ino: entry.ino,
            cookie: entry.rank.cookie(),
            attr,
        };
        Ok(DirPage { entries: found.into_iter().zip(attrs).map(entry).collect(), eof })
    }

    /// The attributes of all these; what is missing for any of them is told at once, to be loaded at once.
    fn attrs_of(&mut self, entries: &[NameEntry]) -> Try<Vec<Option<Attr>>> {
        let mut attrs = Vec::with_capacity(entries.len());
        let mut missing = Vec::new();
        for entry in entries {
            match self.getattr(entry.ino) {
                Ok(attr) => attrs.push(Some(attr)),
                Err(Halt::Missing(ids)) => missing.extend(ids),
                Err(halt) => return Err(halt),
            }
        }
        if missing.is_empty() {
            return Ok(attrs);
        }
        missing.sort_unstable();
        missing.dedup();
        Err(Halt::Missing(missing))
    }

    pub(in super::super) fn readlink(&mut self, ino: Ino) -> Try<Bytes> {
        let op = "tree.readlink";
        if self.meta(ino, op)?.kind != FileKind::Symlink {
            return Err(Error::new(ErrorKind::InvalidArgument, op).because("only a symlink has a target").into());
        }
        let target = self.sight(|sight| sight.target(ino))?;
        Ok(target.ok_or_else(|| Error::new(ErrorKind::Corrupt, op).at(ino.0).because("a symlink without a target"))?)
    }

    /// The space there is, by the quota; `room` is what the store below has.
    pub(in super::super) fn statfs(&mut self, ino: Ino, room: FsStat) -> Try<FsStat> {
        self.meta(ino, "tree.statfs")?;
        let (inodes, used) = self.taken();
        let quota = self.quota;
        let left = quota.bytes_max.map_or(u64::MAX, |max| max.saturating_sub(used));
        let inodes_left = quota.inodes_max.map_or(u64::MAX, |max| max.saturating_sub(inodes));
        Ok(FsStat {
            bytes_total: quota.bytes_max.unwrap_or(room.bytes_total),
            bytes_free: room.bytes_free.min(left),
            inodes_total: quota.inodes_max.unwrap_or(room.inodes_total),
            inodes_free: room.inodes_free.min(inodes_left),
        })
    }
}
