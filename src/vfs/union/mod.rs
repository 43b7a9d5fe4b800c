//! Many mounts as one [`Vfs`]: a root that lists them, and below each name the mount itself.
//!
//! It keeps nothing but the list. An inode number is the mount's slot above the mount's own number, a handle is the
//! number of the mount's prefix before the mount's own handle, a cookie is the mount's own; so nothing is translated by
//! a table, and all of it is the same after a restart that reorders the mounts. Each mount is a file system of its own:
//! another `fsid`, its own space, and `CrossDevice` for what would have to cross from one to another.
//!
//! Spec: spec/vfs.md #union.

mod slots;

use std::{fs::File, num::NonZeroU64, ops::Range, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

pub use self::slots::{SLOT_MAX, Slots};
use super::{
    Attr, Changed, Cookie, DirChanged, DirEntry, DirPage, FsStat, Fsid, Handle, INO_BITS, Ino, LEAF_HANDLE_LEN_MAX,
    Listing, NewNode, Place, Rdev, RemoveKind, RenameMode, Renamed, Seek, SetAttr, Vfs, XattrMode, XattrName,
    part::Part, read_only,
};
use crate::{Env, Error, ErrorKind, FileKind, Name, Prefix, Result};

/// The union's own root: slot 0.
const ROOT: Ino = Ino(NonZeroU64::MIN);
/// How many bits of a number belong to the mount.
const LEAF_MASK: u64 = (1 << INO_BITS) - 1;
/// How many bits of an [`Fsid`] belong to the mount.
const LEAF_FSID_BITS: u32 = 8;
/// How many bytes a handle has before the mount's own.
const PREFIX_LEN: usize = 4;

/// Mounts under one root directory, which lists them in the order they were given and cannot be changed.
#[derive(Debug)]
pub struct UnionVfs {
    mounts: Vec<Mount>,
    /// When the root was made: the only times it has.
    since: SystemTime,
}

#[derive(Debug)]
struct Mount {
    prefix: Prefix,
    slot: u8,
    vfs: Arc<dyn Vfs>,
}

impl UnionVfs {
    /// Joins mounts: the prefix each is reached by, its slot (see [`Slots`]), and what is mounted.
    ///
    /// ```
    /// use muxfs::{Prefix, testing, testing::model::ModelFs, vfs::union::UnionVfs};
    /// let env = testing::env();
    /// let union = UnionVfs::new(vec![(Prefix::new("model")?, 1, ModelFs::new(env.clone()))], &env)?;
    /// # drop(union);
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` where two mounts have one prefix or one slot, or one has slot 0, which is the root's.
    pub fn new(mounts: Vec<(Prefix, u8, Arc<dyn Vfs>)>, env: &Env) -> Result<Self> {
        let mut checked: Vec<Mount> = Vec::new();
        for (prefix, slot, vfs) in mounts {
            if slot == 0 || checked.iter().any(|other| other.prefix == prefix || other.slot == slot) {
                return Err(Error::new(ErrorKind::InvalidArgument, "union.new")
                    .at(format!("/{prefix}"))
                    .because("each mount has a prefix and a slot of its own, and none has slot 0"));
            }
            checked.push(Mount { prefix, slot, vfs });
        }
        Ok(Self { mounts: checked, since: (env.now)() })
    }

    /// The mount an inode is in, and its number there; `None` for the root.
    fn find(&self, ino: Ino, op: &'static str) -> Result<Option<(&Mount, Ino)>> {
        if ino == ROOT {
            return Ok(None);
        }
        let found = self.mounts.iter().find_map(|mount| Some((mount, mount.down(ino)?)));
        found.map(Some).ok_or_else(|| Error::new(ErrorKind::Stale, op))
    }

    /// The mount that both are in. `CrossDevice` where they are in two, `ReadOnly` where both are the root.
    fn find_both(&self, one: Ino, other: Ino, op: &'static str) -> Result<(&Mount, Ino, Ino)> {
        match (self.find(one, op)?, self.find(other, op)?) {
            (Some((mount, one)), Some((same, other))) if mount.slot == same.slot => Ok((mount, one, other)),
            (None, None) => read_only(op),
            _ => Err(Error::new(ErrorKind::CrossDevice, op).because("each mount is a file system of its own")),
        }
    }

    fn root_attr(&self) -> Attr {
        Attr {
            ino: ROOT,
            fsid: Fsid(0),
            kind: FileKind::Dir,
            mode: 0o555,
            uid: 0,
            gid: 0,
            nlink: u32::try_from(self.mounts.len()).unwrap_or(u32::MAX).saturating_add(2),
            rdev: Rdev::default(),
            size: 0,
            used: 0,
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            change: 1,
            cid: None,
        }
    }

    async fn read_root(&self, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let start = if after == Cookie::START {
            0
        } else {
            let place = self.mounts.iter().position(|mount| mount.cookie() == after);
            place.ok_or_else(|| Error::new(ErrorKind::BadCookie, "union.readdir"))? + 1
        };
        let rest = self.mounts.get(start..).unwrap_or_default();
        let mut entries = Vec::new();
        for mount in rest.iter().take(count.max(1)) {
            // A mount that cannot answer is listed all the same: the others can.
            let attr = match listing {
                Listing::Names => None,
                Listing::Attrs => mount.root().await.ok(),
            };
            let ino = mount.up(mount.vfs.root())?;
            entries.push(DirEntry { name: mount.name()?, ino, cookie: mount.cookie(), attr });
        }
        Ok(DirPage { eof: entries.len() == rest.len(), entries })
    }
}

impl Mount {
    fn name(&self) -> Result<Name> {
        Name::new(self.prefix.as_str().as_bytes())
    }

    /// The place after this mount in the root: the slot, after the two that are reserved.
    fn cookie(&self) -> Cookie {
        Cookie(Cookie::DOT_DOT.0 + u64::from(self.slot))
    }

    /// The root of the mount, leased.
    async fn root(&self) -> Result<Attr> {
        let root = self.vfs.root();
        let attr = self.attr_up(self.vfs.getattr(root).await?)?;
        self.vfs.retain(root);
        Ok(attr)
    }
}

impl Part for Mount {
    fn vfs(&self) -> &dyn Vfs {
        &*self.vfs
    }

    fn up(&self, leaf: Ino) -> Result<Ino> {
        if leaf.0.get() > LEAF_MASK {
            return Err(self.broken("an inode number above 2^56"));
        }
        Ok(Ino(leaf.0 | u64::from(self.slot) << INO_BITS))
    }

    fn down(&self, ino: Ino) -> Option<Ino> {
        let is_here = ino.0.get() >> INO_BITS == u64::from(self.slot);
        NonZeroU64::new(ino.0.get() & LEAF_MASK).filter(|_| is_here).map(Ino)
    }

    fn fsid_up(&self, leaf: Fsid) -> Result<Fsid> {
        if leaf.0 >> LEAF_FSID_BITS != 0 {
            return Err(self.broken("an fsid above 255"));
        }
        Ok(Fsid(u64::from(self.prefix.number()) << LEAF_FSID_BITS | leaf.0))
    }

    fn broken(&self, what: &'static str) -> Error {
        Error::new(ErrorKind::Internal, "union.mount")
            .at(format!("/{}", self.prefix))
            .because(format!("it gave {what}"))
    }
}

fn root_is_dir<T>(op: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::IsDir, op))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for UnionVfs {
    fn root(&self) -> Ino {
        ROOT
    }

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        match self.find(dir, "union.lookup")? {
            Some((mount, leaf)) => mount.leased_up(mount.vfs.lookup(leaf, name).await?),
            None => match self.mounts.iter().find(|mount| mount.prefix.as_str().as_bytes() == name.as_bytes()) {
                Some(mount) => mount.root().await,
                None => {
                    Err(Error::new(ErrorKind::NotFound, "union.lookup").at(name).because("nothing is mounted there"))
                }
            },
        }
    }

    fn expect(&self, dir: Ino, names: &[Name]) {
        match (self.find(dir, "union.expect"), names.split_first()) {
            (Ok(Some((mount, leaf))), _) => mount.vfs.expect(leaf, names),
            (Ok(None), Some((first, below))) => {
                let there = self.mounts.iter().find(|mount| mount.prefix.as_str().as_bytes() == first.as_bytes());
                if let Some(mount) = there {
                    mount.vfs.expect(mount.vfs.root(), below);
                }
            }
            _ => {}
        }
    }

    async fn parent(&self, dir: Ino) -> Result<Attr> {
        match self.find(dir, "union.parent")? {
            Some((mount, leaf)) if leaf != mount.vfs.root() => mount.leased_up(mount.vfs.parent(leaf).await?),
            _ => Ok(self.root_attr()),
        }
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr> {
        match self.find(ino, "union.getattr")? {
            Some((mount, leaf)) => mount.attr_up(mount.vfs.getattr(leaf).await?),
            None => Ok(self.root_attr()),
        }
    }

    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let Some((mount, leaf)) = self.find(dir, "union.readdir")? else {
            return self.read_root(after, count, listing).await;
        };
        mount.page_up(mount.vfs.readdir(leaf, after, count, listing).await?)
    }

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        match self.find(ino, "union.read")? {
            Some((mount, leaf)) => mount.vfs.read(leaf, offset, len).await,
            None => root_is_dir("union.read"),
        }
    }

    async fn host_file(&self, ino: Ino) -> Result<Option<File>> {
        match self.find(ino, "union.host_file")? {
            Some((mount, leaf)) => mount.vfs.host_file(leaf).await,
            None => root_is_dir("union.host_file"),
        }
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        match self.find(ino, "union.readlink")? {
            Some((mount, leaf)) => mount.vfs.readlink(leaf).await,
            None => Err(Error::new(ErrorKind::InvalidArgument, "union.readlink")),
        }
    }

    // The root holds nothing and has room for nothing.
    async fn statfs(&self, ino: Ino) -> Result<FsStat> {
        match self.find(ino, "union.statfs")? {
            Some((mount, leaf)) => mount.vfs.statfs(leaf).await,
            None => {
                Ok(FsStat { bytes_total: 0, bytes_free: 0, inodes_total: self.mounts.len() as u64 + 1, inodes_free: 0 })
            }
        }
    }

    fn handle(&self, ino: Ino) -> Result<Handle> {
        let Some((mount, leaf)) = self.find(ino, "union.handle")? else {
            return Ok(Handle(Bytes::from_static(&[0; PREFIX_LEN])));
        };
        mount.handle_up(&mount.prefix.number().to_be_bytes(), leaf, LEAF_HANDLE_LEN_MAX)
    }

    async fn resolve(&self, handle: &Handle) -> Result<Attr> {
        let op = "union.resolve";
        let foreign = || Error::new(ErrorKind::InvalidArgument, op).because("not a handle of this file system");
        let (number, rest) = handle.0.split_first_chunk::<PREFIX_LEN>().ok_or_else(foreign)?;
        let number = u32::from_be_bytes(*number);
        if number == 0 {
            return if rest.is_empty() { Ok(self.root_attr()) } else { Err(foreign()) };
        }
        let prefix = Prefix::from_number(number).ok_or_else(foreign)?;
        let mount = self.mounts.iter().find(|mount| mount.prefix == prefix).ok_or_else(|| {
            Error::new(ErrorKind::Stale, op).at(format!("/{prefix}")).because("nothing is mounted there any more")
        })?;
        mount.leased_up(mount.vfs.resolve(&Handle(handle.0.slice(PREFIX_LEN..))).await?)
    }

    fn retain(&self, ino: Ino) {
        if let Ok(Some((mount, leaf))) = self.find(ino, "union.retain") {
            mount.vfs.retain(leaf);
        }
    }

    fn release(&self, ino: Ino, count: u64) {
        if let Ok(Some((mount, leaf))) = self.find(ino, "union.release") {
            mount.vfs.release(leaf, count);
        }
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        match self.find(ino, "union.setattr")? {
            Some((mount, leaf)) => mount.changed_up(mount.vfs.setattr(leaf, set).await?),
            None => read_only("union.setattr"),
        }
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        match self.find(ino, "union.write")? {
            Some((mount, leaf)) => mount.changed_up(mount.vfs.write(leaf, offset, data, clear_suid).await?),
            None => root_is_dir("union.write"),
        }
    }

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        let op = "union.create";
        let Some((mount, leaf)) = self.find(dir, op)? else {
            let taken = self.mounts.iter().any(|mount| mount.prefix.as_str().as_bytes() == name.as_bytes());
            // As mkdir of a mount point answers on a file system that cannot be changed.
            return if taken { Err(Error::new(ErrorKind::Exists, op).at(name)) } else { read_only(op) };
        };
        mount.made_up(mount.vfs.create(leaf, name, node, set).await?)
    }

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        let op = "union.remove";
        let Some((mount, leaf)) = self.find(place.dir, op)? else { return read_only(op) };
        mount.removed_up(mount.vfs.remove(mount.place_down(place, leaf, op)?, kind).await?)
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        let op = "union.rename";
        let (mount, from_leaf, to_leaf) = self.find_both(from.dir, to.dir, op)?;
        let (from, to) = (mount.place_down(from, from_leaf, op)?, mount.place_down(to, to_leaf, op)?);
        mount.renamed_up(mount.vfs.rename(from, to, mode).await?)
    }

    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        let (mount, leaf, dir) = self.find_both(ino, dir, "union.link")?;
        mount.made_up(mount.vfs.link(leaf, dir, name).await?)
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        match self.find(ino, "union.allocate")? {
            Some((mount, leaf)) => mount.changed_up(mount.vfs.allocate(leaf, range, keep_size).await?),
            None => root_is_dir("union.allocate"),
        }
    }

    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        match self.find(ino, "union.punch_hole")? {
            Some((mount, leaf)) => mount.changed_up(mount.vfs.punch_hole(leaf, range).await?),
            None => root_is_dir("union.punch_hole"),
        }
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        let (mount, source, target) = self.find_both(from.0, to.0, "union.copy_range")?;
        let (copied, changed) = mount.vfs.copy_range((source, from.1), (target, to.1), len).await?;
        Ok((copied, mount.changed_up(changed)?))
    }

    async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        match self.find(ino, "union.seek")? {
            Some((mount, leaf)) => mount.vfs.seek(leaf, offset, what).await,
            None => root_is_dir("union.seek"),
        }
    }

    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        match self.find(ino, "union.getxattr")? {
            Some((mount, leaf)) => mount.vfs.getxattr(leaf, name).await,
            None => Err(Error::new(ErrorKind::NoAttr, "union.getxattr")),
        }
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        match self.find(ino, "union.listxattr")? {
            Some((mount, leaf)) => mount.vfs.listxattr(leaf).await,
            None => Ok(Vec::new()),
        }
    }

    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        match self.find(ino, "union.setxattr")? {
            Some((mount, leaf)) => mount.changed_up(mount.vfs.setxattr(leaf, name, value, mode).await?),
            None => read_only("union.setxattr"),
        }
    }

    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        match self.find(ino, "union.removexattr")? {
            Some((mount, leaf)) => mount.changed_up(mount.vfs.removexattr(leaf, name).await?),
            None => read_only("union.removexattr"),
        }
    }

    // Every mount is synced, also after one of them failed.
    async fn sync(&self, ino: Ino) -> Result<()> {
        if let Some((mount, leaf)) = self.find(ino, "union.sync")? {
            return mount.vfs.sync(leaf).await;
        }
        let mut result = Ok(());
        for mount in &self.mounts {
            let synced = mount.vfs.sync(mount.vfs.root()).await;
            result = result.and(synced.map_err(|error| error.at(format!("/{}", mount.prefix))));
        }
        result
    }

    // The names of the union's own root are its mounts: nothing on disk.
    async fn sync_inode(&self, ino: Ino) -> Result<()> {
        match self.find(ino, "union.sync_inode")? {
            Some((mount, leaf)) => mount.vfs.sync_inode(leaf).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
