//! The inode seam: what NFS, FTP and FUSE serve, and what a location-addressed store is.
//!
//! A [`Vfs`] names nodes by number ([`Ino`]), tells what changed before and after ([`Changed`]), and knows no callers:
//! [`posix`] wraps one for one caller, [`narrow`] shows a part of one or one that cannot be changed, [`union`] joins
//! many under one root; [`forward_vfs!`](crate::forward_vfs) writes what a wrapper passes on. It is by inode, not by path, because that is what survives a rename: an NFS handle, an open
//! file, a hard link. Spec: spec/vfs.md.

use std::{fmt::Debug, fs::File, num::NonZeroU64, ops::Range, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

mod ahead;
pub mod as_store;
pub mod ext;
mod forward;
pub mod narrow;
pub(crate) mod part;
pub mod posix;
pub mod union;
pub mod watch;

pub use ahead::ReadAhead;
pub use ext::Lease;

use crate::{Cid, Error, ErrorKind, FileKind, Name, Result};

fn read_only<T>(op: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::ReadOnly, op))
}

fn unsupported<T>(op: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, op))
}

/// A number of an inode: never 0, never given to another node while anybody leases the one it is of.
///
/// Nor ever after, but where the numbers are those of a host that uses them again (`/local`): there a lease holds a
/// number, and a [`Handle`] tells the old node from the new one.
///
/// A [`Vfs`] that can be mounted keeps its numbers below 2^[`INO_BITS`]; the union above picks the mount by the bits on
/// top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub NonZeroU64);

/// How many bits of an [`Ino`] belong to a mount: 2^56 nodes are enough for each of 256 mounts.
pub const INO_BITS: u32 = 56;

/// The file system a node is in, the same after a restart.
///
/// Within a mount: 0, or 1 for `.history`; the union puts the prefix's number above it. Where it changes a client sees a
/// mount point: `df`, `EXDEV` and inode numbers follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fsid(pub u64);

/// Names an inode across restarts. Opaque; on the wire at most [`HANDLE_LEN_MAX`] bytes, so a leaf keeps to
/// [`LEAF_HANDLE_LEN_MAX`] and leaves the rest to the union and the frontend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Handle(pub Bytes);

/// The longest handle on the wire: `NFS3_FHSIZE` of RFC 1813 2.4.
pub const HANDLE_LEN_MAX: usize = 64;

/// The longest handle of a [`Vfs`] that can be mounted: leaves 4 bytes to the union and 12 to a frontend.
pub const LEAF_HANDLE_LEN_MAX: usize = 48;

/// The longest file, in bytes: what a signed 64-bit offset of POSIX and of RFC 1813's clients can reach.
pub const FILE_LEN_MAX: u64 = i64::MAX as u64;

/// The most bytes of one [`Vfs::read`]: a hole is as long as somebody says, and its zeros take memory. Sixteen times what
/// NFS and FUSE ask for at once.
pub const READ_LEN_MAX: u32 = 16 << 20;

/// The longest target of a symlink, in bytes: `PATH_MAX` of Linux less its NUL.
pub const SYMLINK_LEN_MAX: usize = 4095;

/// A place in a directory: opaque, below 2^63, good for as long as the directory lives, whatever comes and goes in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

impl Cookie {
    /// Before the first entry.
    pub const START: Self = Self(0);
    /// After the "." that a frontend adds; no [`Vfs`] gives or takes it.
    pub const DOT: Self = Self(1);
    /// After the ".." that a frontend adds; no [`Vfs`] gives or takes it.
    pub const DOT_DOT: Self = Self(2);
}

/// The numbers of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rdev {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// What is known of a node.
#[derive(Debug, Clone)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// The file system it is in.
    pub fsid: Fsid,
    /// What it is.
    pub kind: FileKind,
    /// The twelve permission bits; the kind is beside them. Of a symlink, 0777.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// How many names it has; 0 for a node that is leased but has no name any more. Of a directory, whatever the file
    /// system counts, but 0 after it was removed.
    pub nlink: u32,
    /// Of a device; else 0, 0.
    pub rdev: Rdev,
    /// Length in bytes: of a symlink, of its target; of a directory, whatever the file system says.
    pub size: u64,
    /// Bytes taken: holes take none.
    pub used: u64,
    /// When it was read; reading need not move it.
    pub atime: SystemTime,
    /// When the content, or the names of a directory, last changed.
    pub mtime: SystemTime,
    /// When anything of it last changed; nobody can set it.
    pub ctime: SystemTime,
    /// Grows with every change of data or attributes, also within one tick of the clock.
    pub change: u64,
    /// Where the content is committed and not changed since.
    pub cid: Option<Cid>,
}

/// What a client compares to know that nobody else changed a node: NFS's pre-operation attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreAttr {
    /// Length in bytes.
    pub size: u64,
    /// When the content last changed.
    pub mtime: SystemTime,
    /// When anything last changed.
    pub ctime: SystemTime,
    /// The change counter.
    pub change: u64,
}

impl From<&Attr> for PreAttr {
    fn from(attr: &Attr) -> Self {
        Self { size: attr.size, mtime: attr.mtime, ctime: attr.ctime, change: attr.change }
    }
}

/// One node just before and just after a change, with no other change between: NFS's `wcc_data`.
#[derive(Debug, Clone)]
pub struct Changed {
    /// What it was.
    pub before: PreAttr,
    /// What it is.
    pub after: Attr,
}

/// A name came or went: its directory, and the node as it is now (after its last name went: nlink 0).
#[derive(Debug, Clone)]
pub struct DirChanged {
    /// The directory, before and after.
    pub dir: Changed,
    /// The node.
    pub node: Attr,
}

/// A name moved: both directories (alike, where they are one), and the node as it is now.
#[derive(Debug, Clone)]
pub struct Renamed {
    /// The directory it left, before and after.
    pub from: Changed,
    /// The directory it came to, before and after.
    pub to: Changed,
    /// The node; not leased by the call.
    pub node: Attr,
}

/// A time to set. `Now` needs only the right to write; `At` is for the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The file system's own time.
    Now,
    /// This time, rounded down to what the file system can keep.
    At(SystemTime),
}

/// What to set; `None` leaves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// The length of a file: cuts it off, or grows it with a hole. Moves `mtime` too.
    pub size: Option<u64>,
    /// The twelve permission bits; higher ones are ignored. A symlink's stay 0777.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// When it was read.
    pub atime: Option<SetTime>,
    /// When the content last changed; wins over what `size` does to it.
    pub mtime: Option<SetTime>,
}

/// What to create.
#[derive(Debug, Clone)]
pub enum NewNode {
    /// An empty file.
    File,
    /// An empty directory.
    Dir,
    /// A symlink to this target: 1 to [`SYMLINK_LEN_MAX`] bytes without NUL, never looked at.
    Symlink(Bytes),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice(Rdev),
    /// A block device.
    BlockDevice(Rdev),
}

impl NewNode {
    /// The kind of node it makes.
    pub fn kind(&self) -> FileKind {
        match self {
            Self::File => FileKind::File,
            Self::Dir => FileKind::Dir,
            Self::Symlink(_) => FileKind::Symlink,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
            Self::CharDevice(_) => FileKind::CharDevice,
            Self::BlockDevice(_) => FileKind::BlockDevice,
        }
    }
}

/// A name in a directory, and the inode the caller believes it has.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The directory.
    pub dir: Ino,
    /// The name in it.
    pub name: &'a Name,
    /// The inode the name is believed to have. Where it has another one the call changes nothing and says `Stale`: the
    /// check of a sticky bit cannot be raced. `None` takes whatever is there; a name that is not there is no other one.
    pub expect: Option<Ino>,
}

/// What `remove` removes: unlink, or rmdir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveKind {
    /// Anything but a directory.
    NonDir,
    /// An empty directory.
    Dir,
}

/// What `rename` does where the new name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it: a directory only an empty directory, anything else only what is no directory.
    Replace,
    /// Refuses: `Exists` where the new name is taken.
    NoReplace,
    /// Swaps the two. Both names must exist; `NotFound` otherwise.
    Exchange,
}

/// What `readdir` tells of an entry: what a directory itself knows, or also the attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Names, numbers and cookies; leases nothing.
    Names,
    /// The attributes too; leases each inode.
    Attrs,
}

/// One entry of a directory.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// The name.
    pub name: Name,
    /// The inode it has.
    pub ino: Ino,
    /// The place after this entry: `readdir` goes on from it.
    pub cookie: Cookie,
    /// The attributes, with [`Listing::Attrs`] and where the caller may see them; the inode is then leased.
    pub attr: Option<Attr>,
}

/// Some entries in order. Never empty without `eof`.
#[derive(Debug, Clone)]
pub struct DirPage {
    /// The entries.
    pub entries: Vec<DirEntry>,
    /// Whether there are no more.
    pub eof: bool,
}

/// The space of a file system.
#[derive(Debug, Clone, Copy)]
pub struct FsStat {
    /// Bytes it can hold.
    pub bytes_total: u64,
    /// Bytes that can still be written.
    pub bytes_free: u64,
    /// Nodes it can hold.
    pub inodes_total: u64,
    /// Nodes that can still be made.
    pub inodes_free: u64,
}

/// The longest value of an extended attribute, in bytes: Linux's limit.
pub const XATTR_LEN_MAX: usize = 64 * 1024;

/// The name of an extended attribute: 1 to 255 bytes without NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct XattrName(Box<[u8]>);

impl XattrName {
    /// Checks a name.
    ///
    /// ```
    /// use muxfs::vfs::XattrName;
    /// assert_eq!(XattrName::new(b"user.note")?.as_bytes(), b"user.note");
    /// assert!(XattrName::new(b"").is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NameTooLong`, or `InvalidArgument`.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let refuse = |kind, why: &str| {
            let shown = bytes.get(..64).unwrap_or(bytes);
            Err(Error::new(kind, "vfs.xattr_name").at(shown.escape_ascii()).because(why))
        };
        match bytes {
            b"" => refuse(ErrorKind::InvalidArgument, "a name is not empty"),
            _ if bytes.len() > 255 => refuse(ErrorKind::NameTooLong, "a name has at most 255 bytes"),
            _ if bytes.contains(&0) => refuse(ErrorKind::InvalidArgument, "a name holds no NUL"),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What [`Vfs::seek`] looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// Bytes that take space.
    Data,
    /// Zeros that take none. Every file has one at its end.
    Hole,
}

/// What `setxattr` does where the attribute is there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Sets it either way.
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
/// has a lease it answers, even after its last name went; one without is `Stale` as soon as it is forgotten. A directory
/// that was removed but is still leased is empty: nothing can be put into it (`NotFound`).
///
/// **Durability.** A change is visible when its call returns, atomic, and durable after `sync`.
///
/// **Times.** A change of content or of a directory's names moves `mtime`; any change moves `ctime` and `change`. A call
/// that found nothing to do (no byte to write, two names of one inode) moves nothing.
///
/// **Callers.** No credentials: [`posix`](posix::posix) wraps any `Vfs` for one caller and checks;
/// [`subtree`](narrow::subtree) and [`read_only_view`](narrow::read_only_view) narrow one.
///
/// **Errors** of every call: `Stale`; `NotDir` where a directory is wanted; `Io`, `Corrupt`, `Unavailable`. A change
/// also: `NoSpace`, `Quota`, `ReadOnly`. Of the calls on content: `IsDir` for a directory, `InvalidArgument` for what
/// else is no file.
#[allow(unused_variables, reason = "the defaults ignore what they are given")]
#[async_trait]
pub trait Vfs: Debug + Send + Sync + 'static {
    // ---- what a reader implements

    /// The root directory; leased for ever.
    fn root(&self) -> Ino;

    /// The node of that name, leased. A symlink is not followed.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr>;

    /// Tells that `names` are about to be looked up, from `dir` on each in what the one before leads to: what is far away may
    /// then come in one go. Returns at once, and changes nothing of what any other method gives.
    fn expect(&self, dir: Ino, names: &[Name]) {}

    /// The directory above, leased: "..". The root is its own. Of another node: a directory that has a name of it.
    ///
    /// # Errors
    /// `NotFound` for a node whose last name went; `NotDir` for another node than a directory, where the file system
    /// does not know.
    async fn parent(&self, dir: Ino) -> Result<Attr>;

    /// The attributes of a node.
    async fn getattr(&self, ino: Ino) -> Result<Attr>;

    /// At most `count` entries after `after`, and one at least where there is one, without "." and "..". Entries that
    /// stay are met exactly once from [`Cookie::START`] to `eof`, whatever comes and goes meanwhile.
    ///
    /// # Errors
    /// `BadCookie` for one that was never given.
    async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage>;

    /// The bytes from `offset`; short only at the end of the file, empty past it. Holes read as zeros. Of more than
    /// [`READ_LEN_MAX`] bytes the first so many.
    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes>;

    /// The host's own file behind a file of a leased inode, open for reading, where there is one: for a frontend whose
    /// kernel can read and write it past this file system. `None` where the bytes lie nowhere but here.
    ///
    /// It shows what `read` shows, and goes on doing so when names go and come, as an open file does. What is written
    /// past this file system nobody is told of; a frontend lets its kernel write only where a `setattr` of nothing is not
    /// refused, and takes setuid and setgid away itself.
    ///
    /// # Errors
    /// Those of `read`.
    async fn host_file(&self, ino: Ino) -> Result<Option<File>> {
        Ok(None)
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// `InvalidArgument` for another kind.
    async fn readlink(&self, ino: Ino) -> Result<Bytes>;

    /// The space of the file system that `ino` is in: a union answers per mount.
    async fn statfs(&self, ino: Ino) -> Result<FsStat>;

    /// The handle of a leased inode: the same each time, and after a restart.
    fn handle(&self, ino: Ino) -> Result<Handle>;

    /// The inode of a handle, leased.
    ///
    /// # Errors
    /// `Stale` if the node is gone; `InvalidArgument` for bytes no handle ever was.
    async fn resolve(&self, handle: &Handle) -> Result<Attr>;

    // ---- leases: the defaults suit a file system that never forgets an inode

    /// Adds a lease to a leased inode.
    fn retain(&self, ino: Ino) {}

    /// Gives `count` leases back. With the last lease and the last name gone the content is freed.
    fn release(&self, ino: Ino, count: u64) {}

    // ---- changes: the defaults are those of a read-only file system

    /// Sets all of `set` or nothing. Growing makes a hole.
    ///
    /// # Errors
    /// `IsDir` or `InvalidArgument` for the size of what is no file; `TooLarge` past [`FILE_LEN_MAX`].
    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        read_only("vfs.setattr")
    }

    /// Writes all of `data` or nothing; past the end the gap is a hole. `clear_suid` also drops the setuid and setgid
    /// bits, in the same change.
    ///
    /// # Errors
    /// `TooLarge` where the end passes [`FILE_LEN_MAX`], or less where the file system cannot hold as much.
    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        read_only("vfs.write")
    }

    /// Makes a node, leased, with `set` applied before anybody can see it.
    ///
    /// # Errors
    /// `Exists` if the name is taken; `InvalidArgument`, `NameTooLong` for the target of a symlink; those of `setattr`.
    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        read_only("vfs.create")
    }

    /// Removes a name.
    ///
    /// # Errors
    /// `NotFound`; `IsDir`, `NotDir` where the kind is the other one; `NotEmpty`; `Stale` where `place` expects another.
    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        read_only("vfs.remove")
    }

    /// Moves a name, replacing as `mode` says, at one stroke. Two names of one inode: nothing happens.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` into itself; `NotEmpty`, `IsDir`, `NotDir` for what is replaced; `Exists` of
    /// `NoReplace`; `CrossDevice`; `Stale` where a place expects another.
    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        read_only("vfs.rename")
    }

    // ---- more than every writable file system has: the default is `Unsupported`

    /// Gives a node, leased, one more name.
    ///
    /// # Errors
    /// `NotPermitted` for a directory; `NotFound` for a node whose last name went; `Exists`; `TooManyLinks`;
    /// `CrossDevice`.
    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        unsupported("vfs.link")
    }

    /// Sees to it that writes in `range` will not meet `NoSpace`; grows the file to its end unless `keep_size`.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty range; `TooLarge`.
    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        unsupported("vfs.allocate")
    }

    /// Makes `range` a hole: it reads as zeros and takes no space. The size stays.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty range.
    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        unsupported("vfs.punch_hole")
    }

    /// Copies up to `len` bytes, sharing blocks where it can, and says how many: short at the end of the source.
    ///
    /// # Errors
    /// `CrossDevice` between mounts; `InvalidArgument` for ranges of one file that overlap; `TooLarge`.
    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        unsupported("vfs.copy_range")
    }

    /// Where the next data or the next hole begins, at `offset` or after it; `None` where there is none: from the end of
    /// the file on, and where only a hole follows for who looks for data. A file system may take a hole for data.
    async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        // A file in one piece, which is right for any; what is no file is refused as in reading.
        self.read(ino, offset, 0).await?;
        let size = self.getattr(ino).await?.size;
        Ok((offset < size).then_some(match what {
            Seek::Data => offset,
            Seek::Hole => size,
        }))
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttr` if there is none of that name.
    async fn getxattr(&self, ino: Ino, name: &XattrName) -> Result<Bytes> {
        unsupported("vfs.getxattr")
    }

    /// The names of the extended attributes, in any order.
    async fn listxattr(&self, ino: Ino) -> Result<Vec<XattrName>> {
        unsupported("vfs.listxattr")
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `TooLarge` past [`XATTR_LEN_MAX`]; `Exists`, `NoAttr` as `mode` says.
    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        unsupported("vfs.setxattr")
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
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

    /// As `sync`, but of the root no more than of any other directory: what a name that came or went there asks for.
    async fn sync_inode(&self, ino: Ino) -> Result<()> {
        self.sync(ino).await
    }
}
