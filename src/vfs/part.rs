//! A file system among several that are shown as one: how its numbers look from above, and how those from above look
//! to it.
//!
//! Whoever joins file systems says for each how numbers and fsids go up and down; all that a call carries goes along by
//! that. A leased node that cannot go up is given back, so a join leaks no lease of its parts.

use super::{Attr, Changed, DirChanged, DirEntry, DirPage, Fsid, Handle, Ino, Place, Renamed, Vfs};
use crate::{Error, ErrorKind, Result};

/// One file system of a join.
pub(crate) trait Part {
    /// The file system itself.
    fn vfs(&self) -> &dyn Vfs;

    /// Its number of a node, as one of the join.
    ///
    /// # Errors
    /// `Internal` for a number that it must not give.
    fn up(&self, leaf: Ino) -> Result<Ino>;

    /// A number of the join, as its own; `None` for one that is another part's.
    fn down(&self, ino: Ino) -> Option<Ino>;

    /// Its fsid, as one of the join.
    ///
    /// # Errors
    /// `Internal` for one that it must not give.
    fn fsid_up(&self, leaf: Fsid) -> Result<Fsid>;

    /// The error of a part that does not keep to what a join needs.
    fn broken(&self, what: &'static str) -> Error;

    fn attr_up(&self, mut attr: Attr) -> Result<Attr> {
        attr.fsid = self.fsid_up(attr.fsid)?;
        attr.ino = self.up(attr.ino)?;
        Ok(attr)
    }

    /// As `attr_up`, for a leased node, which is given back where the caller cannot have it.
    fn leased_up(&self, attr: Attr) -> Result<Attr> {
        let leaf = attr.ino;
        self.attr_up(attr).inspect_err(|_| self.vfs().release(leaf, 1))
    }

    fn changed_up(&self, changed: Changed) -> Result<Changed> {
        Ok(Changed { before: changed.before, after: self.attr_up(changed.after)? })
    }

    /// What `create` or `link` made: its node is leased, and given back whichever of the two the caller cannot have.
    fn made_up(&self, DirChanged { dir, node }: DirChanged) -> Result<DirChanged> {
        let dir = self.changed_up(dir).inspect_err(|_| self.vfs().release(node.ino, 1))?;
        Ok(DirChanged { dir, node: self.leased_up(node)? })
    }

    fn removed_up(&self, removed: DirChanged) -> Result<DirChanged> {
        Ok(DirChanged { dir: self.changed_up(removed.dir)?, node: self.attr_up(removed.node)? })
    }

    fn renamed_up(&self, renamed: Renamed) -> Result<Renamed> {
        let Renamed { from, to, node } = renamed;
        Ok(Renamed { from: self.changed_up(from)?, to: self.changed_up(to)?, node: self.attr_up(node)? })
    }

    /// A page of a directory: all of it, or no lease of it.
    fn page_up(&self, page: DirPage) -> Result<DirPage> {
        let DirPage { entries, eof } = page;
        let leased: Vec<Ino> = entries.iter().filter(|entry| entry.attr.is_some()).map(|entry| entry.ino).collect();
        let up = |entry: DirEntry| {
            let attr = entry.attr.map(|attr| self.attr_up(attr)).transpose()?;
            Ok(DirEntry { ino: self.up(entry.ino)?, attr, ..entry })
        };
        let entries: Result<Vec<DirEntry>> = entries.into_iter().map(up).collect();
        let entries = entries.inspect_err(|_| leased.into_iter().for_each(|leaf| self.vfs().release(leaf, 1)))?;
        Ok(DirPage { entries, eof })
    }

    /// A place whose directory is `leaf` here.
    fn place_down<'a>(&self, place: Place<'a>, leaf: Ino, op: &'static str) -> Result<Place<'a>> {
        let elsewhere = || Error::new(ErrorKind::Stale, op).at(place.name).because("what is expected is elsewhere");
        let expect = place.expect.map(|ino| self.down(ino).ok_or_else(elsewhere)).transpose()?;
        Ok(Place { dir: leaf, name: place.name, expect })
    }

    /// The handle of a node, if it is no longer than one of a part may be that is shown behind `head`.
    fn handle_up(&self, head: &[u8], leaf: Ino, len_max: usize) -> Result<Handle> {
        let Handle(bytes) = self.vfs().handle(leaf)?;
        if bytes.len() > len_max {
            return Err(self.broken("a handle that is too long"));
        }
        Ok(Handle([head, &bytes[..]].concat().into()))
    }
}
