//! One file per command. Each works on a [`Namespace`]: the server's, where one runs, else this process's own.

pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod pin;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod remove;
pub(crate) mod serve;
pub(crate) mod verify;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use muxfs::{Error, ErrorKind, QfsPath, Result};

use crate::namespace::Place;

/// Reads a place from the command line.
pub(crate) fn place(text: &OsStr) -> Result<Place> {
    Place::parse(text.as_bytes())
}

/// Reads a path from the command line that is not the root.
pub(crate) fn path(text: &OsStr) -> Result<QfsPath> {
    match place(text)? {
        Place::Path(path) => Ok(path),
        Place::Root => Err(Error::new(ErrorKind::InvalidArgument, "args.path")
            .at("/")
            .because("name something below the root, as /ipfs/<cid> or /local/a.txt")),
    }
}
