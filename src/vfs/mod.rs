//! The inode seam: what NFS, FTP and FUSE serve, and what a location-addressed store is.

use std::{fmt::Debug, num::NonZeroU64, ops::Range, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

pub mod ext;

pub use ext::Lease;

use crate::{Cid, Error, ErrorKind, FileKind, Name, Result};

fn read_only<T>(op: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::ReadOnly, op))
}

fn unsupported<T>(op: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, op))
}

/// A number of an inode: never 0, never given to another node again. A `Vfs` that can be mounted keeps its numbers
/// below 2^[`INO_BITS`]; the union above picks the mount by the bits on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub NonZeroU64);
pub const INO_BITS: u32 = 56;

/// The file system a node is in, the same after a restart. Within a mount: 0, or 1 for `.history`; the union puts the
/// prefix's number above it. Where it changes a client sees a mount point: df, EXDEV and inode numbers follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fsid(pub u64);

/// Names an inode across restarts. Opaque; on the wire at most [`HANDLE_LEN_MAX`] bytes, so a leaf keeps to 48 and
/// leaves the rest to the union and the frontend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Handle(pub Bytes);
pub const HANDLE_LEN_MAX: usize = 64;

/// A place in a directory: opaque, below 2^63, good for as long as the directory lives, whatever comes and goes in it.
/// 0 is the start; 1 and 2 are for the "." and ".." that frontends add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);
impl Cookie {
    pub const START: Self = Self(0);
    pub const DOT: Self = Self(1);
    pub const DOT_DOT: Self = Self(2);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rdev {
    pub major: u32,
    pub minor: u32,
}

#[derive(Debug, Clone)]
pub struct Attr {
    pub ino: Ino,
    pub fsid: Fsid,
    pub kind: FileKind,
    /// The twelve permission bits; the kind is beside them.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// 0 for a file that is open but has no name any more.
    pub nlink: u32,
    /// Of a device; else 0, 0.
    pub rdev: Rdev,
    pub size: u64,
    /// Bytes taken: holes take none.
    pub used: u64,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    /// Grows with every change of data or attributes, also within one tick of the clock.
    pub change: u64,
    /// Where the content is committed and not changed since.
    pub cid: Option<Cid>,
}

/// What a client compares to know that nobody else changed a node: NFS's pre-operation attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreAttr {
    pub size: u64,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    pub change: u64,
}

/// One node just before and just after a change, with no other change between: NFS's wcc_data.
#[derive(Debug, Clone)]
pub struct Changed {
    pub before: PreAttr,
    pub after: Attr,
}

/// A name came or went: its directory, and the node as it is now (after its last name went: nlink 0).
#[derive(Debug, Clone)]
pub struct DirChanged {
    pub dir: Changed,
    pub node: Attr,
}

/// A name moved: both directories (alike, where they are one), and the node as it is now.
#[derive(Debug, Clone)]
pub struct Renamed {
    pub from: Changed,
    pub to: Changed,
    pub node: Attr,
}

/// `Now` needs only the right to write; `At` is for the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(SystemTime),
}

/// What to set; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct SetAttr {
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

#[derive(Debug, Clone)]
pub enum NewNode {
    File,
    Dir,
    Symlink(Bytes),
    Fifo,
    Socket,
    CharDevice(Rdev),
    BlockDevice(Rdev),
}

/// A name in a directory, and the inode the caller believes it has. Found to be another, the call changes nothing and
/// says `Stale`: the check of a sticky bit cannot be raced. `None` takes whatever is there.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub dir: Ino,
    pub name: &'a Name,
    pub expect: Option<Ino>,
}

/// What `remove` removes: unlink, or rmdir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveKind {
    NonDir,
    Dir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    Replace,
    /// `Exists` where the new name is taken.
    NoReplace,
    /// Both names must exist; `NotFound` otherwise.
    Exchange,
}

/// What `readdir` tells of an entry: what a directory itself knows, or also the attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    Names,
    Attrs,
}

#[derive(Debug, Clone)]
pub struct DirEntry {
    pub name: Name,
    pub ino: Ino,
    pub cookie: Cookie,
    pub attr: Option<Attr>,
}

/// Some entries in order; `eof` when there are no more. Never empty without `eof`.
#[derive(Debug, Clone)]
pub struct DirPage {
    pub entries: Vec<DirEntry>,
    pub eof: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct FsStat {
    pub bytes_total: u64,
    pub bytes_free: u64,
    pub inodes_total: u64,
    pub inodes_free: u64,
}

pub const XATTR_LEN_MAX: usize = 64 * 1024;

/// The name of an extended attribute: 1 to 255 bytes without NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct XattrName(Box<[u8]>);
impl XattrName {
    /// # Errors
    /// `NameTooLong`, or `InvalidArgument`.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let refuse = |kind, why: &str| Err(Error::new(kind, "vfs.xattr_name").at(bytes.escape_ascii()).because(why));
        match bytes {
            b"" => refuse(ErrorKind::InvalidArgument, "a name is not empty"),
            _ if bytes.len() > 255 => refuse(ErrorKind::NameTooLong, "a name has at most 255 bytes"),
            _ if bytes.contains(&0) => refuse(ErrorKind::InvalidArgument, "a name holds no NUL"),
            _ => Ok(Self(bytes.into())),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    Set,
    /// `Exists` where it is there.
    Create,
    /// `NoAttr` where it is not.
    Replace,
}

/// A file system by inode. A reader implements ten methods, and the two leases where it may forget an inode.
///
/// **Leases.** `lookup`, `parent`, `resolve`, `create`, `link` and `readdir` with attributes lease each inode they
/// return, once; one that fails or is dropped leases nothing. Every other call wants its inodes leased. While an inode
/// has a lease it answers, even after its last name went; one without is `Stale` as soon as it is forgotten.
///
/// **Durability.** A change is visible when its call returns, atomic, and durable after `sync`.
///
/// **Callers.** No credentials: `vfs/posix.rs` wraps any `Vfs` for one caller and checks; `Subtree` and `ReadOnly`
/// narrow one.
///
/// **Errors** of every call: `Stale`; `NotDir` where a directory is wanted; `Io`, `Corrupt`, `Unavailable`. A change
/// also: `NoSpace`, `Quota`, `ReadOnly`.
#[allow(unused_variables, reason = "the defaults ignore what they are given")]
#[async_trait]
pub trait Vfs: Debug + Send + Sync + 'static {
    // ---- what a reader implements

    /// The root directory; leased for ever.
    fn root(&self) -> Ino;
    /// The node of that name, leased. `NotFound` if there is none. A symlink is not followed.
    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr>;
    /// The directory above, leased: "..". The root is its own.
    async fn parent(&self, dir: Ino) -> Result<Attr>;
    async fn getattr(&self, ino: Ino) -> Result<Attr>;
    /// At most `count` entries after `after`, without "." and "..". Entries that stay are met exactly once from
    /// [`Cookie::START`] to `eof`, whatever comes and goes meanwhile. `BadCookie` for one that was never given.
    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage>;
    /// The bytes from `offset`; short only at the end of the file, empty past it. Holes read as zeros.
    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes>;
    /// The target of a symlink; `InvalidArgument` for another kind.
    async fn readlink(&self, ino: Ino) -> Result<Bytes>;
    /// The space of the file system that `ino` is in: a union answers per mount.
    async fn statfs(&self, ino: Ino) -> Result<FsStat>;
    /// The handle of a leased inode: the same each time, and after a restart.
    fn handle(&self, ino: Ino) -> Result<Handle>;
    /// The inode of a handle, leased. `Stale` if the node is gone; `InvalidArgument` for bytes no handle ever was.
    async fn resolve(&self, handle: &Handle) -> Result<Attr>;

    // ---- leases: the defaults suit a file system that never forgets an inode

    /// Adds a lease to a leased inode.
    fn retain(&self, ino: Ino) {}
    /// Gives `count` leases back. With the last lease and the last name gone the content is freed.
    fn release(&self, ino: Ino, count: u64) {}

    // ---- changes: the defaults are those of a read-only file system

    /// Sets all of `set` or nothing. Growing makes a hole. `IsDir` for the size of a directory; `TooLarge`.
    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        read_only("vfs.setattr")
    }
    /// Writes all of `data` or nothing; past the end the gap is a hole. `clear_suid` also drops the setuid and setgid
    /// bits, in the same change. `TooLarge`; `IsDir`.
    async fn write(&self, ino: Ino, offset: u64, data: Bytes, _clear_suid: bool) -> Result<Changed> {
        read_only("vfs.write")
    }
    /// Makes a node, leased, with `set` applied before anybody can see it. `Exists` if the name is taken.
    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        read_only("vfs.create")
    }
    /// Removes a name. `IsDir` / `NotDir` where the kind is the other one; `NotEmpty`.
    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        read_only("vfs.remove")
    }
    /// Moves a name, replacing as `mode` says, at one stroke. Two names of one inode: nothing happens.
    /// `InvalidArgument` into itself; `NotEmpty`, `IsDir`, `NotDir` for what is replaced; `CrossDevice`.
    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        read_only("vfs.rename")
    }

    // ---- more than every writable file system has: the default is `Unsupported`

    /// Gives a node, leased, one more name. `Exists`; `TooManyLinks`; `CrossDevice`; `NotPermitted` for a directory.
    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        unsupported("vfs.link")
    }
    /// Sees to it that writes in `range` will not meet `NoSpace`; grows the file to its end unless `keep_size`.
    async fn allocate(&self, ino: Ino, range: Range<u64>, _keep_size: bool) -> Result<Changed> {
        unsupported("vfs.allocate")
    }
    /// Makes `range` a hole: it reads as zeros and takes no space. The size stays.
    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        unsupported("vfs.punch_hole")
    }
    /// Copies up to `len` bytes, sharing blocks where it can, and says how many: short at the end of the source.
    /// `CrossDevice` between mounts; `InvalidArgument` for ranges of one file that overlap.
    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        unsupported("vfs.copy_range")
    }
    /// `NoAttr` if there is none of that name.
    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        unsupported("vfs.getxattr")
    }
    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        unsupported("vfs.listxattr")
    }
    /// `TooLarge` past [`XATTR_LEN_MAX`].
    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        unsupported("vfs.setxattr")
    }
    /// `NoAttr` if there is none of that name.
    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        unsupported("vfs.removexattr")
    }

    // ---- durability

    /// Makes every change that returned before this call durable: of `ino`, its data, attributes and (a directory)
    /// names; of the root, everything. On an error nothing is known to be durable, and trying again proves nothing.
    async fn sync(&self, ino: Ino) -> Result<()> {
        Ok(())
    }
}
