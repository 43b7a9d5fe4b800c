//! Any [`Vfs`] for those who embed the crate `nfsserve` (feature `nfsserve`). [`serve`](crate::serve) is the better
//! server; this one is for programs that have the other already.
//!
//! What `nfsserve` 0.11 cannot do, no adapter can mend: it answers no COMMIT, LINK or MKNOD; it gives no credentials (wrap
//! the `Vfs` in [`posix`](muxfs::vfs::posix::posix) for one caller); it drops the mode of MKDIR and the verifier of an
//! exclusive CREATE; its READDIR begins at the start each time, so directories past one page need READDIRPLUS; its handles
//! end with the server. It calls every WRITE durable, so each is synced here before it is answered.
//!
//! Its ids are inode numbers, which a `Vfs` keeps only while they are leased. The last [`LEASE_COUNT_MAX`] are; an id that
//! has fallen out is STALE where the `Vfs` has forgotten it.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use muxfs::{
    Error, ErrorKind, Name,
    vfs::{Attr, Cookie, Ino, Lease, Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, SetTime, Vfs},
};
use nfs3_types::nfs3::{ftype3 as Kind, nfsstat3 as Status, nfstime3 as Time};
use nfsserve::{
    nfs::{
        fattr3, fileid3, filename3, ftype3, nfspath3, nfsstat3, nfsstring, nfstime3, sattr3, set_atime, set_gid3,
        set_mode3, set_mtime, set_size3, set_uid3, specdata3,
    },
    vfs::{DirEntry, NFSFileSystem, ReadDirResult, VFSCapabilities},
};

use crate::{attr, record::TRANSFER_LEN_MAX, status::status};

/// How many inodes stay leased: what a client with a large cache uses, at some hundred bytes each.
pub const LEASE_COUNT_MAX: usize = 65_536;
/// How many places in directories are remembered, to continue a listing without reading it from its start.
const PLACE_COUNT_MAX: usize = 4096;
/// How many entries are listed at once, whatever is asked for.
const ENTRY_COUNT_MAX: usize = 1024;

/// A [`Vfs`] as `nfsserve` wants it.
#[derive(Debug)]
pub struct NfsserveAdapter {
    vfs: Arc<dyn Vfs>,
    leases: Mutex<LruCache<Ino, Lease>>,
    places: Mutex<LruCache<(Ino, fileid3), Cookie>>,
}

impl NfsserveAdapter {
    /// Makes an adapter of a `Vfs`.
    ///
    /// ```
    /// use muxfs::testing::{env, model::ModelFs};
    /// use muxfs_nfs::nfsserve_adapter::NfsserveAdapter;
    /// let adapter = NfsserveAdapter::new(ModelFs::new(env()));
    /// # drop(adapter);
    /// ```
    pub fn new(vfs: Arc<dyn Vfs>) -> Self {
        let bound = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        Self {
            vfs,
            leases: Mutex::new(LruCache::new(bound(LEASE_COUNT_MAX))),
            places: Mutex::new(LruCache::new(bound(PLACE_COUNT_MAX))),
        }
    }

    fn leases(&self) -> MutexGuard<'_, LruCache<Ino, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, LruCache<(Ino, fileid3), Cookie>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the lease of what a leasing call returned, and gives back the one used longest ago.
    fn adopt(&self, ino: Ino) -> fileid3 {
        let lease = Lease::adopt(self.vfs.clone(), ino);
        // Dropped behind the lock: a release may take its time.
        let _old = self.leases().push(ino, lease);
        ino.0.get()
    }

    /// The inode of an id, kept for a call by a lease of its own.
    fn lease(&self, id: fileid3) -> Result<Lease, nfsstat3> {
        let ino = Ino(NonZeroU64::new(id).ok_or(nfsstat3::NFS3ERR_BADHANDLE)?);
        if ino == self.vfs.root() {
            self.vfs.retain(ino);
            return Ok(Lease::adopt(self.vfs.clone(), ino));
        }
        self.leases().get(&ino).cloned().ok_or(nfsstat3::NFS3ERR_STALE)
    }

    /// Makes a node with its name durable, as `nfsserve` tells its client it is.
    async fn make(&self, dir: fileid3, name: &[u8], node: NewNode, set: SetAttr) -> Result<Attr, Error> {
        let dir = self.lease(dir).map_err(|_| Error::new(ErrorKind::Stale, "nfsserve.make"))?;
        let made = self.vfs.create(dir.ino(), &Name::new(name)?, node, set).await?;
        self.adopt(made.node.ino);
        self.vfs.sync(made.node.ino).await?;
        self.vfs.sync(dir.ino()).await?;
        Ok(made.node)
    }

    /// Where the entry of that id stands in a directory.
    async fn place(&self, dir: Ino, id: fileid3) -> Result<Cookie, Error> {
        if id == 0 {
            return Ok(Cookie::START);
        }
        if let Some(cookie) = self.places().get(&(dir, id)) {
            return Ok(*cookie);
        }
        let mut after = Cookie::START;
        loop {
            let page = self.vfs.readdir(dir, after, ENTRY_COUNT_MAX, Listing::Names).await?;
            if let Some(entry) = page.entries.iter().find(|entry| entry.ino.0.get() == id) {
                return Ok(entry.cookie);
            }
            match page.entries.last() {
                Some(entry) if !page.eof => after = entry.cookie,
                _ => return Err(Error::new(ErrorKind::BadCookie, "nfsserve.readdir")),
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn refuse(error: Error) -> nfsstat3 {
    wire_status(status(&error))
}

/// The same status in the other crate's type.
fn wire_status(status: Status) -> nfsstat3 {
    match status {
        Status::NFS3_OK => nfsstat3::NFS3_OK,
        Status::NFS3ERR_PERM => nfsstat3::NFS3ERR_PERM,
        Status::NFS3ERR_NOENT => nfsstat3::NFS3ERR_NOENT,
        Status::NFS3ERR_IO => nfsstat3::NFS3ERR_IO,
        Status::NFS3ERR_NXIO => nfsstat3::NFS3ERR_NXIO,
        Status::NFS3ERR_ACCES => nfsstat3::NFS3ERR_ACCES,
        Status::NFS3ERR_EXIST => nfsstat3::NFS3ERR_EXIST,
        Status::NFS3ERR_XDEV => nfsstat3::NFS3ERR_XDEV,
        Status::NFS3ERR_NODEV => nfsstat3::NFS3ERR_NODEV,
        Status::NFS3ERR_NOTDIR => nfsstat3::NFS3ERR_NOTDIR,
        Status::NFS3ERR_ISDIR => nfsstat3::NFS3ERR_ISDIR,
        Status::NFS3ERR_INVAL => nfsstat3::NFS3ERR_INVAL,
        Status::NFS3ERR_FBIG => nfsstat3::NFS3ERR_FBIG,
        Status::NFS3ERR_NOSPC => nfsstat3::NFS3ERR_NOSPC,
        Status::NFS3ERR_ROFS => nfsstat3::NFS3ERR_ROFS,
        Status::NFS3ERR_MLINK => nfsstat3::NFS3ERR_MLINK,
        Status::NFS3ERR_NAMETOOLONG => nfsstat3::NFS3ERR_NAMETOOLONG,
        Status::NFS3ERR_NOTEMPTY => nfsstat3::NFS3ERR_NOTEMPTY,
        Status::NFS3ERR_DQUOT => nfsstat3::NFS3ERR_DQUOT,
        Status::NFS3ERR_STALE => nfsstat3::NFS3ERR_STALE,
        Status::NFS3ERR_REMOTE => nfsstat3::NFS3ERR_REMOTE,
        Status::NFS3ERR_BADHANDLE => nfsstat3::NFS3ERR_BADHANDLE,
        Status::NFS3ERR_NOT_SYNC => nfsstat3::NFS3ERR_NOT_SYNC,
        Status::NFS3ERR_BAD_COOKIE => nfsstat3::NFS3ERR_BAD_COOKIE,
        Status::NFS3ERR_NOTSUPP => nfsstat3::NFS3ERR_NOTSUPP,
        Status::NFS3ERR_TOOSMALL => nfsstat3::NFS3ERR_TOOSMALL,
        Status::NFS3ERR_SERVERFAULT => nfsstat3::NFS3ERR_SERVERFAULT,
        Status::NFS3ERR_BADTYPE => nfsstat3::NFS3ERR_BADTYPE,
        Status::NFS3ERR_JUKEBOX => nfsstat3::NFS3ERR_JUKEBOX,
    }
}

fn wire_attr(attr: &Attr) -> fattr3 {
    let from = attr::fattr(attr);
    let time = |time: Time| nfstime3 { seconds: time.seconds, nseconds: time.nseconds };
    fattr3 {
        ftype: match from.type_ {
            Kind::NF3REG => ftype3::NF3REG,
            Kind::NF3DIR => ftype3::NF3DIR,
            Kind::NF3BLK => ftype3::NF3BLK,
            Kind::NF3CHR => ftype3::NF3CHR,
            Kind::NF3LNK => ftype3::NF3LNK,
            Kind::NF3SOCK => ftype3::NF3SOCK,
            Kind::NF3FIFO => ftype3::NF3FIFO,
        },
        mode: from.mode,
        nlink: from.nlink,
        uid: from.uid,
        gid: from.gid,
        size: from.size,
        used: from.used,
        rdev: specdata3 { specdata1: from.rdev.specdata1, specdata2: from.rdev.specdata2 },
        fsid: from.fsid,
        // The id that nfsserve makes handles of, not the mount's own number.
        fileid: attr.ino.0.get(),
        atime: time(from.atime),
        mtime: time(from.mtime),
        ctime: time(from.ctime),
    }
}

fn set_attr(from: &sattr3) -> SetAttr {
    let at = |time: nfstime3| SetTime::At(attr::system_time(Time { seconds: time.seconds, nseconds: time.nseconds }));
    SetAttr {
        size: if let set_size3::size(size) = from.size { Some(size) } else { None },
        mode: if let set_mode3::mode(mode) = from.mode { Some(mode & 0o7777) } else { None },
        uid: if let set_uid3::uid(uid) = from.uid { Some(uid) } else { None },
        gid: if let set_gid3::gid(gid) = from.gid { Some(gid) } else { None },
        atime: match from.atime {
            set_atime::DONT_CHANGE => None,
            set_atime::SET_TO_SERVER_TIME => Some(SetTime::Now),
            set_atime::SET_TO_CLIENT_TIME(time) => Some(at(time)),
        },
        mtime: match from.mtime {
            set_mtime::DONT_CHANGE => None,
            set_mtime::SET_TO_SERVER_TIME => Some(SetTime::Now),
            set_mtime::SET_TO_CLIENT_TIME(time) => Some(at(time)),
        },
    }
}

#[async_trait]
impl NFSFileSystem for NfsserveAdapter {
    fn capabilities(&self) -> VFSCapabilities {
        VFSCapabilities::ReadWrite
    }

    fn root_dir(&self) -> fileid3 {
        self.vfs.root().0.get()
    }

    async fn lookup(&self, dirid: fileid3, filename: &filename3) -> Result<fileid3, nfsstat3> {
        let dir = self.lease(dirid)?;
        let found = match filename.as_ref() {
            b"." => return Ok(dirid),
            b".." => self.vfs.parent(dir.ino()).await,
            name => self.vfs.lookup(dir.ino(), &Name::new(name).map_err(refuse)?).await,
        };
        Ok(self.adopt(found.map_err(refuse)?.ino))
    }

    async fn getattr(&self, id: fileid3) -> Result<fattr3, nfsstat3> {
        let node = self.lease(id)?;
        self.vfs.getattr(node.ino()).await.map(|attr| wire_attr(&attr)).map_err(refuse)
    }

    async fn setattr(&self, id: fileid3, setattr: sattr3) -> Result<fattr3, nfsstat3> {
        let node = self.lease(id)?;
        let changed = self.vfs.setattr(node.ino(), set_attr(&setattr)).await.map_err(refuse)?;
        self.vfs.sync(node.ino()).await.map_err(refuse)?;
        Ok(wire_attr(&changed.after))
    }

    async fn read(&self, id: fileid3, offset: u64, count: u32) -> Result<(Vec<u8>, bool), nfsstat3> {
        let node = self.lease(id)?;
        let count = count.min(TRANSFER_LEN_MAX);
        let data = self.vfs.read(node.ino(), offset, count).await.map_err(refuse)?;
        let size = self.vfs.getattr(node.ino()).await.map_err(refuse)?.size;
        let eof = data.len() < count as usize || offset.saturating_add(data.len() as u64) >= size;
        Ok((data.into(), eof))
    }

    async fn write(&self, id: fileid3, offset: u64, data: &[u8]) -> Result<fattr3, nfsstat3> {
        let node = self.lease(id)?;
        let data = Bytes::copy_from_slice(data);
        let changed = self.vfs.write(node.ino(), offset, data, false).await.map_err(refuse)?;
        self.vfs.sync(node.ino()).await.map_err(refuse)?;
        Ok(wire_attr(&changed.after))
    }

    async fn create(&self, dirid: fileid3, filename: &filename3, attr: sattr3) -> Result<(fileid3, fattr3), nfsstat3> {
        let set = set_attr(&attr);
        let size = set.size;
        match self.make(dirid, filename, NewNode::File, set).await {
            Ok(node) => Ok((node.ino.0.get(), wire_attr(&node))),
            Err(error) if error.kind() == ErrorKind::Exists => {
                let id = self.lookup(dirid, filename).await?;
                let node = self.lease(id)?;
                if size.is_some() {
                    let set = SetAttr { size, ..SetAttr::default() };
                    self.vfs.setattr(node.ino(), set).await.map_err(refuse)?;
                }
                Ok((id, self.getattr(id).await?))
            }
            Err(error) => Err(refuse(error)),
        }
    }

    async fn create_exclusive(&self, dirid: fileid3, filename: &filename3) -> Result<fileid3, nfsstat3> {
        let node = self.make(dirid, filename, NewNode::File, SetAttr::default()).await.map_err(refuse)?;
        Ok(node.ino.0.get())
    }

    async fn mkdir(&self, dirid: fileid3, dirname: &filename3) -> Result<(fileid3, fattr3), nfsstat3> {
        let node = self.make(dirid, dirname, NewNode::Dir, SetAttr::default()).await.map_err(refuse)?;
        Ok((node.ino.0.get(), wire_attr(&node)))
    }

    /// Both REMOVE and RMDIR come here: whatever has the name goes.
    async fn remove(&self, dirid: fileid3, filename: &filename3) -> Result<(), nfsstat3> {
        let dir = self.lease(dirid)?;
        let name = Name::new(filename).map_err(refuse)?;
        let place = Place { dir: dir.ino(), name: &name, expect: None };
        let removed = match self.vfs.remove(place, RemoveKind::NonDir).await {
            Err(error) if error.kind() == ErrorKind::IsDir => self.vfs.remove(place, RemoveKind::Dir).await,
            other => other,
        };
        removed.map_err(refuse)?;
        self.vfs.sync(dir.ino()).await.map_err(refuse)
    }

    async fn rename(
        &self,
        from_dirid: fileid3,
        from_filename: &filename3,
        to_dirid: fileid3,
        to_filename: &filename3,
    ) -> Result<(), nfsstat3> {
        let (from, to) = (self.lease(from_dirid)?, self.lease(to_dirid)?);
        let from_name = Name::new(from_filename).map_err(refuse)?;
        let to_name = Name::new(to_filename).map_err(refuse)?;
        let from_place = Place { dir: from.ino(), name: &from_name, expect: None };
        let to_place = Place { dir: to.ino(), name: &to_name, expect: None };
        self.vfs.rename(from_place, to_place, RenameMode::Replace).await.map_err(refuse)?;
        self.vfs.sync(from.ino()).await.map_err(refuse)?;
        self.vfs.sync(to.ino()).await.map_err(refuse)
    }

    async fn readdir(
        &self,
        dirid: fileid3,
        start_after: fileid3,
        max_entries: usize,
    ) -> Result<ReadDirResult, nfsstat3> {
        let dir = self.lease(dirid)?;
        let after = self.place(dir.ino(), start_after).await.map_err(refuse)?;
        let count = max_entries.clamp(1, ENTRY_COUNT_MAX);
        let page = self.vfs.readdir(dir.ino(), after, count, Listing::Attrs).await.map_err(refuse)?;
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            // Without attributes there is no lease either, and no id that could be used.
            let Some(attr) = entry.attr else { continue };
            let fileid = self.adopt(entry.ino);
            self.places().push((dir.ino(), fileid), entry.cookie);
            let name = nfsstring(entry.name.as_bytes().to_vec());
            entries.push(DirEntry { fileid, name, attr: wire_attr(&attr) });
        }
        Ok(ReadDirResult { entries, end: page.eof })
    }

    async fn symlink(
        &self,
        dirid: fileid3,
        linkname: &filename3,
        symlink: &nfspath3,
        attr: &sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        let target = NewNode::Symlink(Bytes::copy_from_slice(symlink));
        let set = SetAttr { size: None, ..set_attr(attr) };
        let node = self.make(dirid, linkname, target, set).await.map_err(refuse)?;
        Ok((node.ino.0.get(), wire_attr(&node)))
    }

    async fn readlink(&self, id: fileid3) -> Result<nfspath3, nfsstat3> {
        let node = self.lease(id)?;
        let target = self.vfs.readlink(node.ino()).await.map_err(refuse)?;
        Ok(nfsstring(target.into()))
    }
}
