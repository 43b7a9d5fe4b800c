//! What the kernel asks: one call of the file system for each request, with as little between as there can be.
//!
//! An event loop of fuser's copies what a request carries, takes room for it and begins with the answer. Most are ready
//! at once, from memory, and no other thread has to wake up for them; one that has to wait goes on as a task. So the loops
//! never wait for a store's blocks, and a slow file holds up nobody else; they do wait for a host that answers slowly to
//! names and attributes below `/local`. Spec: spec/fuse.md #requests.

mod answers;
mod changing;
mod xattrs;

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::ffi::OsStrExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use muxfs::{
    ErrorKind, FileKind, Name, Result,
    vfs::{Ino, NewNode, Place, RemoveKind, RenameMode, Seek, SetAttr, XattrMode, XattrName},
};

use self::{
    answers::{GENERATION, done},
    changing::Asker,
    xattrs::{TRUSTED_PREFIX, is_kept, sized, xattr_name},
};
use crate::{
    attr::{MODE_MASK, bare_attr, device_of_number, file_type, kind_of_mode, set_time},
    errno::errno,
    listing::{self, Entry, What},
    nodes::Trust,
    passthrough::{NO_HANDLE, Passthrough},
    server::Shared,
};

/// The longest write that the kernel sends at once, and the longest read: a chunk of the DAG.
pub const WRITE_LEN_MAX: u32 = 1 << 20;
/// How far the kernel reads ahead: it allows file systems an eighth of that, unless root says otherwise.
pub const READ_AHEAD_LEN: u32 = 1 << 20;

/// How many requests that nobody waits for (reading ahead, writing back) the kernel has under way, and from how many on
/// it holds back: its default of 12 leaves slow stores idle.
const BACKGROUND_COUNT: u16 = 128;
const CONGESTION_COUNT: u16 = 96;

/// How many file systems stand on each other where the kernel reads host files by itself: this one on the host's, which
/// leaves room for an overlay on top.
const BACKING_DEPTH: u32 = 1;

/// The longest range that one call copies: the reply counts in 32 bits, and a signal is heard in between.
const COPY_LEN_MAX: u64 = 1 << 30;

// Of lseek(2).
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
// Of setxattr(2).
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

/// The file system as fuser calls it.
#[derive(Debug)]
pub(crate) struct Kernel {
    shared: Arc<Shared>,
}

impl Kernel {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Does the work of a request that carries, or asks for, `len` bytes.
    fn go<F: Future<Output = ()> + Send + 'static>(&self, len: u32, work: impl FnOnce(Arc<Shared>) -> F) {
        let permit = self.shared.room(len);
        let work = work(self.shared.clone());
        self.begin(async move {
            work.await;
            drop(permit);
        });
    }

    /// Does what can be done at once here and now, and starts a task for what has to wait.
    fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        if self.shared.abandoned.is_cancelled() {
            // A reply that is dropped is EIO.
            return;
        }
        self.shared.is_asked();
        let mut work = Box::pin(work);
        // What it starts belongs to the runtime; and a bug in one answer must not end the loop, and with it the mount.
        let _runtime = self.shared.runtime.enter();
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        match polled {
            Ok(Poll::Ready(())) => {}
            // It asks to be woken anew when the task begins.
            Ok(Poll::Pending) => drop(self.shared.runtime.spawn(work)),
            Err(_) => tracing::error!("a bug ended an answer: the kernel is told EIO"),
        }
    }

    fn ino(&self, id: INodeNo) -> Option<Ino> {
        self.shared.nodes.ino(id.0)
    }
}

fn name(text: &OsStr) -> Result<Name> {
    Name::new(text.as_bytes())
}

/// Answers a request that names no node, or what cannot be a name.
macro_rules! or_refuse {
    ($value:expr, $reply:ident) => {
        match $value {
            Some(value) => value,
            None => return $reply.error(Errno::ESTALE),
        }
    };
    (name $value:expr, $reply:ident) => {
        match $value {
            Ok(value) => value,
            Err(error) => return $reply.error(errno(&error)),
        }
    };
}

impl Filesystem for Kernel {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let options = &self.shared.options;
        // Each takes the nearest that the kernel can.
        config.set_max_write(WRITE_LEN_MAX).or_else(|near| config.set_max_write(near)).ok();
        config.set_max_readahead(READ_AHEAD_LEN).or_else(|near| config.set_max_readahead(near)).ok();
        config.set_max_background(BACKGROUND_COUNT).ok();
        config.set_congestion_threshold(CONGESTION_COUNT).ok();
        // Without FUSE_ASYNC_DIO: after direct writes that end by themselves the kernel keeps the pages that it has.
        let mut wanted = vec![
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        // Where all changes are told pages go by word alone; else the kernel also looks at the time of the last change.
        wanted.push(if options.outside.is_empty() {
            InitFlags::FUSE_EXPLICIT_INVAL_DATA
        } else {
            InitFlags::FUSE_AUTO_INVAL_DATA
        });
        if options.write_back {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        // Only root may, only host files can, and it excludes the write-back cache.
        let may_pass = options.passthrough && !options.write_back && !options.outside.is_empty();
        if may_pass
            && rustix::process::geteuid().is_root()
            && config.set_max_stack_depth(BACKING_DEPTH).is_ok()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        {
            self.shared.passthrough.turn_on();
        }
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "this kernel cannot");
            }
        }
        Ok(())
    }

    // ---- names

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let dir = or_refuse!(self.ino(parent), reply);
        let name = or_refuse!(name self::name(name), reply);
        self.go(0, |shared| async move {
            let begun = shared.changes.begin();
            match shared.ask(|| shared.vfs.lookup(dir, &name)).await {
                Ok(attr) => shared.entry(begun, dir, &attr, reply),
                Err(error) if error.kind() == ErrorKind::NotFound && shared.absence_is_told(dir, &name) => {
                    let none = bare_attr(0, FileType::RegularFile);
                    shared.changes.settle(begun, |fresh| {
                        let believed = shared.believed(Trust::Watched, fresh);
                        reply.entry(&believed, &none, GENERATION);
                    });
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn forget(&self, _request: &Request, id: INodeNo, count: u64) {
        let Some(ino) = self.ino(id) else { return };
        let given_back = self.shared.nodes.forget(ino, count);
        if given_back > 0 {
            self.shared.vfs.release(ino, given_back);
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let rdev = device_of_number(rdev);
        let node = match kind_of_mode(mode) {
            Some(FileKind::File) => NewNode::File,
            Some(FileKind::Fifo) => NewNode::Fifo,
            Some(FileKind::Socket) => NewNode::Socket,
            Some(FileKind::CharDevice) => NewNode::CharDevice(rdev),
            Some(FileKind::BlockDevice) => NewNode::BlockDevice(rdev),
            Some(FileKind::Dir | FileKind::Symlink) | None => return reply.error(Errno::EINVAL),
        };
        self.new_node(request, parent, name, node, Some(mode), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        self.new_node(request, parent, name, NewNode::Dir, Some(mode), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        self.new_node(request, parent, name, NewNode::Symlink(target), None, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let dir = or_refuse!(self.ino(parent), reply);
        let name = or_refuse!(name self::name(name), reply);
        let asker = Asker::from(request);
        let opener = asker.opens(OpenFlags(flags));
        self.go(0, |shared| async move {
            let begun = shared.changes.begin();
            match shared.make(dir, &name, NewNode::File, Some(mode), asker).await {
                Ok(attr) => {
                    let trust = shared.trust_of(&attr);
                    shared.nodes.add(attr.ino, trust);
                    let shown = shared.attr(&attr);
                    let file = shared.file_behind(attr.ino).await;
                    let register = |file: &File| reply.open_backing(file);
                    let (handle, flags, way) =
                        shared.opened(attr.ino, opener, Some(attr.mode), file.as_ref(), register);
                    shared.changes.settle(begun, |fresh| {
                        let believed = shared.believed_of(&attr, trust, fresh);
                        match way {
                            Some(way) => {
                                reply.created_passthrough(&believed, &shown, GENERATION, handle, flags, &way);
                            }
                            None => reply.created(&believed, &shown, GENERATION, handle, flags),
                        }
                    });
                }
                // Another frontend was first. The kernel looks again, and opens what is there if the caller may.
                Err(error) if error.kind() == ErrorKind::Exists => reply.error(Errno::ESTALE),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn link(&self, _request: &Request, id: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (ino, dir) = (or_refuse!(self.ino(id), reply), or_refuse!(self.ino(parent), reply));
        let name = or_refuse!(name self::name(name), reply);
        self.go(0, |shared| async move {
            let begun = shared.changes.begin();
            match shared.ask(|| shared.vfs.link(ino, dir, &name)).await {
                Ok(made) => shared.entry(begun, dir, &made.node, reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, RemoveKind::NonDir, reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, RemoveKind::Dir, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        let (from, to) = (or_refuse!(self.ino(parent), reply), or_refuse!(self.ino(new_parent), reply));
        let name = or_refuse!(name self::name(name), reply);
        let new_name = or_refuse!(name self::name(new_name), reply);
        self.go(0, |shared| async move {
            let from = Place { dir: from, name: &name, expect: None };
            let to = Place { dir: to, name: &new_name, expect: None };
            // Where others have changed a name that the kernel is not told of yet it is `Stale`, and the kernel looks again.
            let renamed = shared.ask(|| shared.vfs.rename(from, to, mode)).await;
            done(renamed.map(drop), reply);
        });
    }

    // ---- attributes

    fn getattr(&self, _request: &Request, id: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let ino = or_refuse!(self.ino(id), reply);
        self.go(0, |shared| async move {
            let begun = shared.changes.begin();
            match shared.ask(|| shared.vfs.getattr(ino)).await {
                Ok(attr) => shared.attributes(begun, &attr, reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn setattr(
        &self,
        request: &Request,
        id: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let ino = or_refuse!(self.ino(id), reply);
        let mode = mode.map(|mode| mode & MODE_MASK);
        let set = SetAttr { size, mode, uid, gid, atime: atime.map(set_time), mtime: mtime.map(set_time) };
        let asker = Asker::from(request);
        self.go(0, |shared| async move {
            match shared.set(ino, set, asker).await {
                // Not to be believed: the kernel takes this reply also where it has been told of a later change by now.
                Ok(attr) => reply.attr(&Duration::ZERO, &shared.attr(&attr)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readlink(&self, _request: &Request, id: INodeNo, reply: ReplyData) {
        let ino = or_refuse!(self.ino(id), reply);
        self.go(0, |shared| async move {
            match shared.ask(|| shared.vfs.readlink(ino)).await {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn statfs(&self, _request: &Request, id: INodeNo, reply: ReplyStatfs) {
        const BLOCK_LEN: u32 = 4096;
        const NAME_LEN_MAX: u32 = 255;
        let ino = or_refuse!(self.ino(id), reply);
        self.go(0, |shared| async move {
            match shared.ask(|| shared.vfs.statfs(ino)).await {
                Ok(stat) => {
                    let [total, free] = [stat.bytes_total, stat.bytes_free].map(|bytes| bytes / u64::from(BLOCK_LEN));
                    reply.statfs(
                        total,
                        free,
                        free,
                        stat.inodes_total,
                        stat.inodes_free,
                        BLOCK_LEN,
                        NAME_LEN_MAX,
                        BLOCK_LEN,
                    );
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    // ---- the bytes of files

    fn open(&self, request: &Request, id: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let ino = or_refuse!(self.ino(id), reply);
        let opener = Asker::from(request).opens(flags);
        let passes = self.shared.passthrough.is_on() && self.shared.nodes.trust(ino) == Trust::Outside;
        if !opener.writes && !passes {
            return reply.opened(NO_HANDLE, self.shared.file_flags(ino));
        }
        self.go(0, |shared| async move {
            let mut mode = None;
            if opener.writes {
                match shared.check_writable(ino).await {
                    Ok(attr) => mode = Some(attr.mode),
                    Err(error) => return reply.error(errno(&error)),
                }
            }
            let file = if passes { shared.file_behind(ino).await } else { None };
            let register = |file: &File| reply.open_backing(file);
            let (handle, flags, way) = shared.opened(ino, opener, mode, file.as_ref(), register);
            match way {
                Some(way) => reply.opened_passthrough(handle, flags, &way),
                None => reply.opened(handle, flags),
            }
        });
    }

    fn release(
        &self,
        _request: &Request,
        id: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let ino = or_refuse!(self.ino(id), reply);
        self.shared.passthrough.release(ino, handle);
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let ino = or_refuse!(self.ino(id), reply);
        self.go(size, |shared| async move {
            match shared.ask(|| shared.vfs.read(ino, offset, size)).await {
                Ok(data) => reply.data(&data),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let ino = or_refuse!(self.ino(id), reply);
        let asker = Asker::from(request);
        let Ok(len) = u32::try_from(data.len()) else { return reply.error(Errno::EINVAL) };
        // Room first: what waits has no copy yet.
        let permit = self.shared.room(len);
        let data = Bytes::copy_from_slice(data);
        let shared = self.shared.clone();
        self.begin(async move {
            match shared.write(ino, offset, data, (write_flags, flags), asker).await {
                Ok(()) => reply.written(len),
                Err(error) => reply.error(errno(&error)),
            }
            drop(shared);
            drop(permit);
        });
    }

    /// Tells other mounts of what was written past us. Nothing else is to be done when a file is closed: kernels that ask
    /// all the same need not again.
    fn flush(&self, _request: &Request, id: INodeNo, handle: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        let ino = or_refuse!(self.ino(id), reply);
        if Passthrough::writes(handle) {
            self.go(0, |shared| async move { done(shared.check_writable(ino).await.map(drop), reply) });
        } else if self.shared.passthrough.is_on() {
            reply.ok();
        } else {
            reply.error(Errno::ENOSYS);
        }
    }

    fn fsync(&self, _request: &Request, id: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.sync(id, reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let ino = or_refuse!(self.ino(id), reply);
        let Some(end) = offset.checked_add(len) else { return reply.error(Errno::EFBIG) };
        let asker = Asker::from(request);
        self.go(0, |shared| async move { done(shared.allocate(ino, offset..end, mode, asker).await, reply) });
    }

    fn lseek(&self, _request: &Request, id: INodeNo, _handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let ino = or_refuse!(self.ino(id), reply);
        let what = match whence {
            SEEK_DATA => Seek::Data,
            SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.go(0, |shared| async move {
            match shared.ask(|| shared.vfs.seek(ino, offset, what)).await {
                Ok(found) => match found.and_then(|found| i64::try_from(found).ok()) {
                    Some(found) => reply.offset(found),
                    None => reply.error(Errno::ENXIO),
                },
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_handle: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = (or_refuse!(self.ino(from), reply), or_refuse!(self.ino(to), reply));
        let asker = Asker::from(request);
        let len = len.min(COPY_LEN_MAX);
        self.go(0, |shared| async move {
            let copied = async {
                shared.drop_suid(to, asker).await?;
                let (len, _) = shared.ask(|| shared.vfs.copy_range((from, from_offset), (to, to_offset), len)).await?;
                Ok(len)
            };
            match copied.await {
                Ok(len) => reply.written(u32::try_from(len).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    // ---- directories

    fn opendir(&self, _request: &Request, id: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let dir = or_refuse!(self.ino(id), reply);
        let flags = match self.shared.nodes.trust(dir) {
            Trust::Watched | Trust::Frozen => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
            Trust::Outside | Trust::Unwatched => FopenFlags::empty(),
        };
        reply.opened(NO_HANDLE, flags);
    }

    fn readdir(&self, _request: &Request, id: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let dir = or_refuse!(self.ino(id), reply);
        self.go(0, |shared| async move {
            match listing::page(&shared, dir, offset, listing::PAGE_LEN).await {
                Ok(entries) => {
                    for Entry { name, offset, what } in entries {
                        let (ino, kind) = match &what {
                            What::Dot(ino) => (*ino, FileType::Directory),
                            What::Unknown(ino, kind) => (*ino, *kind),
                            What::Node(attr, _) => (attr.ino, file_type(attr.kind)),
                        };
                        let id = INodeNo(shared.nodes.id(ino));
                        if reply.add(id, offset, kind, OsStr::from_bytes(&name)) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let dir = or_refuse!(self.ino(id), reply);
        self.go(listing::PAGE_LEN, |shared| async move {
            let begun = shared.changes.begin();
            match listing::page(&shared, dir, offset, listing::PAGE_LEN).await {
                Ok(entries) => shared.list(begun, dir, entries, reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn fsyncdir(&self, _request: &Request, id: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.sync(id, reply);
    }

    // ---- extended attributes

    fn setxattr(
        &self,
        _request: &Request,
        id: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let ino = or_refuse!(self.ino(id), reply);
        let name = or_refuse!(name xattr_name(name), reply);
        let mode = match flags {
            0 => XattrMode::Set,
            XATTR_CREATE => XattrMode::Create,
            XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let value = Bytes::copy_from_slice(value);
        self.go(0, |shared| async move {
            done(shared.ask(|| shared.vfs.setxattr(ino, &name, value.clone(), mode)).await.map(drop), reply);
        });
    }

    fn getxattr(&self, _request: &Request, id: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let ino = or_refuse!(self.ino(id), reply);
        let name = or_refuse!(name xattr_name(name), reply);
        self.go(0, |shared| async move {
            match shared.ask(|| shared.vfs.getxattr(ino, &name)).await {
                Ok(value) => sized(&value, size, reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn listxattr(&self, request: &Request, id: INodeNo, size: u32, reply: ReplyXattr) {
        let ino = or_refuse!(self.ino(id), reply);
        let asker = Asker::from(request);
        self.go(0, |shared| async move {
            match shared.ask(|| shared.vfs.listxattr(ino)).await {
                Ok(names) => {
                    let shown = |name: &&XattrName| {
                        let name = name.as_bytes();
                        is_kept(name) && (asker.is_root() || !name.starts_with(TRUSTED_PREFIX))
                    };
                    let list: Vec<u8> =
                        names.iter().filter(shown).flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
                    sized(&list, size, reply);
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn removexattr(&self, _request: &Request, id: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let ino = or_refuse!(self.ino(id), reply);
        let name = or_refuse!(name xattr_name(name), reply);
        self.go(0, |shared| async move {
            done(shared.ask(|| shared.vfs.removexattr(ino, &name)).await.map(drop), reply);
        });
    }
}

impl Kernel {
    fn new_node(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        node: NewNode,
        mode: Option<u32>,
        reply: ReplyEntry,
    ) {
        let dir = or_refuse!(self.ino(parent), reply);
        let name = or_refuse!(name self::name(name), reply);
        let asker = Asker::from(request);
        self.go(0, |shared| async move {
            let begun = shared.changes.begin();
            match shared.make(dir, &name, node, mode, asker).await {
                Ok(attr) => shared.entry(begun, dir, &attr, reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, kind: RemoveKind, reply: ReplyEmpty) {
        let dir = or_refuse!(self.ino(parent), reply);
        let name = or_refuse!(name self::name(name), reply);
        self.go(0, |shared| async move {
            let place = Place { dir, name: &name, expect: None };
            done(shared.ask(|| shared.vfs.remove(place, kind)).await.map(drop), reply);
        });
    }

    fn sync(&self, id: INodeNo, reply: ReplyEmpty) {
        let ino = or_refuse!(self.ino(id), reply);
        self.go(0, |shared| async move { done(shared.ask(|| shared.vfs.sync_inode(ino)).await, reply) });
    }
}
