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
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use muxfs::{
    Error, ErrorKind, Name, Result, forward_vfs,
    vfs::{Attr, Handle, Ino, Vfs},
};
use tempfile::NamedTempFile;

use super::{
    FlistVfs, Open, blocking,
    handle::{self, Named, NodeName},
    lock,
    nodes::ROOT,
    places::split,
};
use crate::{
    FlistId,
    chunk::hex,
    flist::{Format, id_of},
    signature_path,
    write::arriving,
};

/// The copy of an flist in a directory of [`KeptFlists`], if it is there.
pub fn kept_file(dir: &Path, id: FlistId) -> Option<PathBuf> {
    [Format::Flist, Format::Fl].map(|format| path(dir, id, format)).into_iter().find(|path| path.is_file())
}

/// Whether a directory of [`KeptFlists`] has a copy of any: an overlay lies over one flist for good.
pub fn has_kept(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    let is_copy = |name: &OsStr| !name.as_bytes().starts_with(b".") && split(name.as_bytes()).is_some();
    entries.filter_map(io::Result::ok).any(|entry| is_copy(&entry.file_name()))
}

fn path(dir: &Path, id: FlistId, format: Format) -> PathBuf {
    dir.join(format!("{}.{format}", hex(&id.0)))
}

/// The flists of an [`FlistVfs`], of which those are kept in a directory that somebody looks at.
#[derive(Debug)]
pub struct KeptFlists {
    flists: Arc<FlistVfs>,
    dir: PathBuf,
    /// Those that were copied, or could not be.
    met: Mutex<HashSet<FlistId>>,
}

impl KeptFlists {
    /// Keeps flists in `dir`, which is made when there is one.
    pub fn new(flists: Arc<FlistVfs>, dir: PathBuf) -> Self {
        Self { flists, dir, met: Mutex::default() }
    }

    /// Copies the flist of a node, unless that was done. Where it cannot be, that is told.
    async fn keep(&self, ino: Ino) {
        let Ok(known) = self.flists.known(ino) else { return };
        let open = known.open;
        let id = open.flist.id();
        if ino == ROOT || !lock(&self.met).insert(id) {
            return;
        }
        let (dir, from) = (self.dir.clone(), open.place.path.clone());
        let failed = |error| Error::new(ErrorKind::Io, "flist.keep").because(error);
        if let Err(error) = blocking(move || keep(&open, &dir).map_err(failed)).await {
            let why = "an flist that something lies over is not kept: what was not changed is lost when it is replaced";
            tracing::warn!(path = %from.display(), "{why}: {error:#}");
        }
    }

    /// The flist of a handle, where it is kept.
    async fn open_kept(&self, NodeName { repository, place, id, .. }: NodeName) -> Result<Option<Arc<Open>>> {
        let (dir, places) = (self.dir.clone(), self.flists.places.clone());
        let find = move || kept_file(&dir, id).map(|path| places.hidden(path, (repository, place))).transpose();
        let Some(place) = blocking(find).await? else { return Ok(None) };
        // No name that is shown has it.
        let name = Name::new(format!(".{}", hex(&id.0)).as_bytes())?;
        let open = self.flists.open_at((None, name), place).await?;
        Ok((open.flist.id() == id).then_some(open))
    }
}

/// Copies an open flist and its signatures, durably.
fn keep(open: &Open, dir: &Path) -> io::Result<()> {
    let (id, from) = (open.flist.id(), &open.place.path);
    if kept_file(dir, id).is_some() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    arriving::sweep(dir, arriving::FLIST);
    let begin = || arriving::begin(dir, arriving::FLIST, &fs::Permissions::from_mode(0o600));
    let to = path(dir, id, open.flist.format());
    // First, so that an flist that is there is one with its signatures.
    match begin().and_then(|copy| copy_to(&signature_path(from), copy)) {
        Ok((copy, _)) => drop(copy.persist(signature_path(&to))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (copy, id_there) = copy_to(from, begin()?)?;
    if id_there != id {
        return Err(io::Error::other("it was replaced by another just now"));
    }
    copy.persist(&to)?;
    File::open(dir)?.sync_all()
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
