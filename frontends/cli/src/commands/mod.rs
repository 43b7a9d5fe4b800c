//! One file per command. Each works on a [`Namespace`]: the server's, where one runs, else this process's own.

pub(crate) mod car;
mod copy_in;
pub(crate) mod cp;
mod dispatch;
pub(crate) mod doctor;
pub(crate) mod flist;
pub(crate) mod ftp_user;
pub(crate) mod gc;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod hub;
pub(crate) mod ipfs;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod mount;
pub(crate) mod name;
pub(crate) mod pin;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod remove;
pub(crate) mod serve;
pub(crate) mod vault;
pub(crate) mod verify;
pub(crate) mod verify_all;
pub(crate) mod zdb;
pub(crate) mod zstor;

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
};

use muxfs::{Cid, Error, ErrorKind, Prefix, QfsPath, Result};

pub(crate) use self::dispatch::run;
use crate::{
    control::Client,
    namespace::{Namespace, Place},
    output::Output,
};

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

/// Has a server read its configuration again, and tells what came of it.
pub(crate) async fn reload(server: &Client, output: Output) -> Result<()> {
    let mut reloaded = server.reload().await?;
    let what = |keys: &[String]| if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
    let text = format!("changed: {}\ntakes a restart: {}", what(&reloaded.changed), what(&reloaded.restart));
    output.result(text.as_bytes(), &reloaded)?;
    reloaded.take_refused(None).map_or(Ok(()), Err)
}

/// The CID that a path leads to: the one it names, where that is all it names.
pub(crate) async fn root_of(namespace: &dyn Namespace, path: &QfsPath, op: &'static str) -> Result<Cid> {
    if let (Some(cid), 1) = (path.cid(), path.parts.len()) {
        return Ok(cid);
    }
    let stat = namespace.stat(&Place::Path(path.clone())).await?;
    stat.cid.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, op)
            .at(path)
            .because("it has no CID: only content has one, as /ipfs/<cid>")
    })
}

/// Reads paths from the command line that are not the root.
fn paths(texts: &[OsString]) -> Result<Vec<QfsPath>> {
    texts.iter().map(|text| path(text)).collect()
}

/// The mount that is named, else the default one.
async fn mount_or_default(namespace: &dyn Namespace, named: Option<&OsStr>) -> Result<Prefix> {
    match named {
        Some(mount) => mount_of(mount),
        None => namespace.default_write().await,
    }
}

/// The path that is named, else the default mount.
async fn path_or_default(namespace: &dyn Namespace, named: Option<&OsStr>) -> Result<QfsPath> {
    match named {
        Some(path) => self::path(path),
        None => Ok(QfsPath { prefix: namespace.default_write().await?, parts: Vec::new() }),
    }
}

/// A mount, named as `ipfs` or `/ipfs`.
fn mount_of(text: &OsStr) -> Result<Prefix> {
    match text.to_str() {
        Some(text) if !text.starts_with('/') => Prefix::new(text),
        _ => match place(text)? {
            Place::Path(path) if path.parts.is_empty() => Ok(path.prefix),
            _ => Err(Error::new(ErrorKind::InvalidArgument, "args.mount").because("name a mount, as /ipfs")),
        },
    }
}
