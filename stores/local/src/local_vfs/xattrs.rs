//! Extended attributes: those of `user.`, for the others speak of the host.
//!
//! `security.capability` would make a program of an upload privileged, `trusted.` is root's, and an ACL
//! (`system.posix_acl_access`) would grant what no check of ours knows of. They are not listed, and cannot be read or
//! set from here.

use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Result,
    vfs::{Changed, Ino, XATTR_LEN_MAX, XattrMode, XattrName},
};
use rustix::{fd::AsFd, fs::XattrFlags, io::Errno};

use super::{
    Local,
    errno::fail,
    host::{Host, attr, pre_attr, stat_fd},
    nodes::Anchor,
};

/// The names that are given out.
const NAMESPACE: &[u8] = b"user.";
/// The longest list of names the host gives.
const LIST_LEN_MAX: usize = 64 * 1024;

fn refused(name: &XattrName, op: &'static str) -> Result<()> {
    if name.as_bytes().starts_with(NAMESPACE) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, op).because("only attributes of user. are served"))
}

impl Local {
    pub(super) fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        const OP: &str = "local.getxattr";
        refused(name, OP)?;
        let anchor = self.anchor(ino, OP)?;
        let path = Host::magic_path(anchor.fd.as_fd());
        let mut value = Vec::with_capacity(XATTR_LEN_MAX);
        rustix::fs::getxattr(path, name.as_bytes(), rustix::buffer::spare_capacity(&mut value)).map_err(fail(OP))?;
        Ok(Bytes::copy_from_slice(&value))
    }

    pub(super) fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        const OP: &str = "local.listxattr";
        let anchor = self.anchor(ino, OP)?;
        let path = Host::magic_path(anchor.fd.as_fd());
        let mut list = Vec::with_capacity(LIST_LEN_MAX);
        match rustix::fs::listxattr(path, rustix::buffer::spare_capacity(&mut list)) {
            Ok(_) => {}
            Err(Errno::OPNOTSUPP) => return Ok(vec![]),
            Err(errno) => return Err(fail(OP)(errno)),
        }
        let names = list.split(|byte| *byte == 0).filter(|name| name.starts_with(NAMESPACE));
        Ok(names.filter_map(|name| XattrName::new(name).ok()).collect())
    }

    pub(super) fn setxattr(&self, ino: Ino, name: &XattrName, value: &[u8], mode: XattrMode) -> Result<Changed> {
        const OP: &str = "local.setxattr";
        refused(name, OP)?;
        if value.len() > XATTR_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, OP));
        }
        let flags = match mode {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        self.change_xattr(ino, OP, |anchor| {
            rustix::fs::setxattr(Host::magic_path(anchor.fd.as_fd()), name.as_bytes(), value, flags)
        })
    }

    pub(super) fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        const OP: &str = "local.removexattr";
        refused(name, OP)?;
        self.change_xattr(ino, OP, |anchor| {
            rustix::fs::removexattr(Host::magic_path(anchor.fd.as_fd()), name.as_bytes())
        })
    }

    fn change_xattr(
        &self,
        ino: Ino,
        op: &'static str,
        change: impl FnOnce(&Anchor) -> Result<(), Errno>,
    ) -> Result<Changed> {
        self.writable(op)?;
        let anchor = self.anchor(ino, op)?;
        let before = stat_fd(&anchor.fd).map_err(fail(op))?;
        change(&anchor).map_err(fail(op))?;
        let after = stat_fd(&anchor.fd).map_err(fail(op))?;
        Ok(Changed { before: pre_attr(&before), after: attr(ino, &after) })
    }
}
