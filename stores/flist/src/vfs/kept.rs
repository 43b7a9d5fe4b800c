//! Flists that something lies over: kept beside it, so that it reads them whatever becomes of the files that they were in.
//!
//! ```text
//!    overlay ---> KeptFlists ---> FlistVfs        as it is shown
//!                     '---------> DIR/ID.flist    where what a handle names is not shown any more
//! ```
//!
//! Who lies over something looks at it by its number before it keeps a handle of it; that is when the file is copied. A copy is as
//! long as the flist, some megabytes, and has no chunks. Spec: spec/flist.md #kept.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use muxfs::{
    Error, ErrorKind, Name, Result, forward_vfs,
    vfs::{Attr, Handle, Ino, Vfs},
};
use tempfile::NamedTempFile;
use tokio::time::Instant;

use super::{
    FlistVfs, Open, blocking,
    handle::{self, Named, NodeName},
    lock,
    nodes::ROOT,
};
use crate::{
    FlistId, Signers,
    chunk::hex,
    flist::{Format, id_of},
    signature_path,
    write::arriving,
};

/// One that could not be copied is tried again after so long.
const TRIED_EACH: Duration = Duration::from_mins(1);

/// The copy of an flist in a directory of [`KeptFlists`], if it is there.
pub fn kept_file(dir: &Path, id: FlistId) -> Option<PathBuf> {
    [Format::Flist, Format::Fl].map(|format| path(dir, id, format)).into_iter().find(|path| path.is_file())
}

fn path(dir: &Path, id: FlistId, format: Format) -> PathBuf {
    dir.join(format!("{}.{format}", hex(&id.0)))
}

/// The flists of an [`FlistVfs`], of which those are kept in a directory that somebody looks at.
#[derive(Debug)]
pub struct KeptFlists {
    flists: Arc<FlistVfs>,
    dir: PathBuf,
    /// Those that are kept; until when those are left alone that could not be.
    met: Mutex<HashMap<FlistId, Option<Instant>>>,
    /// Whoever holds it copies one.
    turn: tokio::sync::Mutex<()>,
}

impl KeptFlists {
    /// Keeps flists in `dir`, which is made when there is one.
    pub fn new(flists: Arc<FlistVfs>, dir: PathBuf) -> Self {
        Self { flists, dir, met: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Copies the flist of a node, unless that was done; who comes meanwhile waits for it. Where it cannot be, that is told, and done
    /// again later.
    async fn keep(&self, ino: Ino) {
        let Ok(known) = self.flists.known(ino) else { return };
        let open = known.open;
        let id = open.flist.id();
        let is_met = || match lock(&self.met).get(&id) {
            Some(None) => true,
            Some(Some(until)) => Instant::now() < *until,
            None => false,
        };
        if ino == ROOT || is_met() {
            return;
        }
        let _turn = self.turn.lock().await;
        if is_met() {
            return;
        }
        let (dir, from, signers) = (self.dir.clone(), open.place.path.clone(), self.flists.signers.clone());
        let failed = |error| Error::new(ErrorKind::Io, "flist.keep").because(error);
        let kept = blocking(move || keep(&open, &dir, signers.as_deref()).map_err(failed)).await;
        if let Err(error) = &kept {
            let why = "an flist that something lies over is not kept: what was not changed is lost when it is replaced";
            tracing::warn!(path = %from.display(), "{why}: {error:#}");
        }
        let until = kept.is_err().then(|| Instant::now() + TRIED_EACH);
        lock(&self.met).insert(id, until);
    }

    /// The flist of a handle, where it is kept.
    async fn open_kept(&self, NodeName { repository, place, id, .. }: NodeName) -> Result<Option<Arc<Open>>> {
        let (dir, places) = (self.dir.clone(), self.flists.places.clone());
        let find = move || kept_file(&dir, id).map(|path| places.hidden(path, (repository, place))).transpose();
        let Some(place) = blocking(find).await? else { return Ok(None) };
        // No name that is shown has it.
        let name = Name::new(format!(".{}", hex(&id.0)).as_bytes())?;
        let open = self.flists.open_at((Vec::new(), name), place).await?;
        Ok((open.flist.id() == id).then_some(open))
    }
}

/// Copies an open flist and its signatures, durably.
fn keep(open: &Open, dir: &Path, signers: Option<&Signers>) -> io::Result<()> {
    let (id, from) = (open.flist.id(), &open.place.path);
    if kept_file(dir, id).is_some() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    arriving::sweep(dir, arriving::FLIST);
    let begin = || arriving::begin(dir, arriving::FLIST, &fs::Permissions::from_mode(0o600));
    let to = path(dir, id, open.flist.format());
    let (copy, id_there) = copy_to(from, begin()?)?;
    if id_there != id {
        return Err(io::Error::other("it was replaced by another just now"));
    }
    // In their place first, so that an flist that is there is one with its signatures.
    match begin().and_then(|copy| copy_to(&signature_path(from), copy)) {
        Ok((signatures, _)) => {
            let checked = signers.map(|signers| signers.verify_beside(copy.path(), signatures.path()));
            checked.transpose().map_err(io::Error::other)?;
            signatures.persist(signature_path(&to))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && signers.is_none() => {
            // What is left of another time would be wrong.
            match fs::remove_file(signature_path(&to)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Err(error) => return Err(error),
    }
    copy.persist(&to)?;
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn copy_to(from: &Path, mut to: NamedTempFile) -> io::Result<(NamedTempFile, FlistId)> {
    io::copy(&mut File::open(from)?, to.as_file_mut())?;
    to.as_file().sync_all()?;
    let id = id_of(&mut to.reopen()?)?;
    Ok((to, id))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for KeptFlists {
    forward_vfs!(flists: root, lookup, expect, parent, readdir, read, host_file, readlink, statfs, handle);
    forward_vfs!(flists: retain, release, setattr, write, create, remove, rename, link, allocate, punch_hole);
    forward_vfs!(flists: copy_range, seek, getxattr, listxattr, setxattr, removexattr, sync, sync_inode);

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.keep(ino).await;
        self.flists.getattr(ino).await
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let shown = self.flists.resolve(handle).await;
        if let Ok(attr) = &shown {
            self.keep(attr.ino).await;
            return shown;
        }
        let Ok(Named::Node(name)) = handle::decode(handle) else { return shown };
        let Some(open) = self.open_kept(name).await? else { return shown };
        self.flists.adopt_node(&open, name.node).await
    }
}
