//! Extended attributes.

use bytes::Bytes;

use super::super::{
    record::Effect,
    sight::{Try, refuse},
    state::{Attempt, Edit},
};
use crate::{
    Error, ErrorKind,
    vfs::{Changed, Ino, XATTR_LEN_MAX, XattrMode, XattrName},
};

/// What all extended attributes of one node may take together, names included, in bytes: they are one block.
const XATTRS_LEN_MAX: usize = 1 << 20;

impl Attempt<'_> {
    pub(in super::super) fn getxattr(&mut self, ino: Ino, name: &XattrName) -> Try<Bytes> {
        let op = "tree.getxattr";
        self.meta(ino, op)?;
        let found = self.sight(|sight| sight.xattrs(ino))?.remove(name);
        Ok(found.ok_or_else(|| Error::new(ErrorKind::NoAttr, op))?)
    }

    pub(in super::super) fn listxattr(&mut self, ino: Ino) -> Try<Vec<XattrName>> {
        self.meta(ino, "tree.listxattr")?;
        Ok(self.sight(|sight| sight.xattrs(ino))?.into_keys().collect())
    }

    pub(in super::super) fn setxattr(
        &mut self,
        ino: Ino,
        name: &XattrName,
        value: &Bytes,
        mode: XattrMode,
    ) -> Try<Changed> {
        let op = "tree.setxattr";
        self.meta(ino, op)?;
        let xattrs = self.sight(|sight| sight.xattrs(ino))?;
        match (mode, xattrs.contains_key(name)) {
            _ if value.len() > XATTR_LEN_MAX => return refuse(ErrorKind::TooLarge, op),
            (XattrMode::Create, true) => return refuse(ErrorKind::Exists, op),
            (XattrMode::Replace, false) => return refuse(ErrorKind::NoAttr, op),
            _ => {}
        }
        let others = xattrs.iter().filter(|(other, _)| *other != name);
        let len: usize = others.map(|(name, value)| name.as_bytes().len() + value.len()).sum();
        if len + name.as_bytes().len() + value.len() > XATTRS_LEN_MAX {
            let why = "all extended attributes of a node have at most 1 MiB together";
            return Err(Error::new(ErrorKind::NoSpace, op).because(why).into());
        }
        // Copied: it stays for as long as the layer, and what it was read from is longer.
        self.change_xattr(ino, name, Some(Bytes::copy_from_slice(value)), op)
    }

    pub(in super::super) fn removexattr(&mut self, ino: Ino, name: &XattrName) -> Try<Changed> {
        let op = "tree.removexattr";
        self.meta(ino, op)?;
        if !self.sight(|sight| sight.xattrs(ino))?.contains_key(name) {
            return refuse(ErrorKind::NoAttr, op);
        }
        self.change_xattr(ino, name, None, op)
    }

    fn change_xattr(&mut self, ino: Ino, name: &XattrName, value: Option<Bytes>, op: &'static str) -> Try<Changed> {
        let before = self.meta(ino, op)?;
        let mut after = before;
        let mut edit = Edit::default();
        edit.effects.push(Effect::Xattr(ino, name.clone(), value));
        edit.touch(ino, &mut after, self.now);
        self.record(edit)?;
        self.changed(ino, &before, &after)
    }
}
