//! Extended attributes: which are kept, and how the kernel asks for them.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use fuser::{Errno, ReplyXattr};
use muxfs::{Error, ErrorKind, Result, vfs::XattrName};

/// Seen by root alone.
pub(super) const TRUSTED_PREFIX: &[u8] = b"trusted.";
/// The namespaces of Linux that are kept. Of `system.` only access lists have a meaning, and saying that they are not
/// kept lets programs go by the mode.
const XATTR_PREFIXES: [&[u8]; 3] = [b"security.", TRUSTED_PREFIX, b"user."];

/// Whether an extended attribute is in a namespace that is kept.
pub(super) fn is_kept(name: &[u8]) -> bool {
    XATTR_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The name of an extended attribute that may be kept.
pub(super) fn xattr_name(text: &OsStr) -> Result<XattrName> {
    if !is_kept(text.as_bytes()) {
        return Err(Error::new(ErrorKind::Unsupported, "fuse.xattr").because("no such namespace is kept"));
    }
    XattrName::new(text.as_bytes())
}

/// Gives an attribute's value, or its length where none is asked for.
pub(super) fn sized(data: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(data.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(data),
        _ => reply.error(Errno::ERANGE),
    }
}
