//! What changes a node: who may, and what that takes from its mode. Spec: spec/fuse.md #callers.

use std::ops::Range;

use bytes::Bytes;
use fuser::{OpenAccMode, OpenFlags, Request, WriteFlags};
use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Attr, Ino, NewNode, SetAttr, watch::Change},
};

use crate::{
    attr::{MODE_MASK, SETGID, has_suid, without_suid, without_suid_of_others},
    passthrough::Opener,
    server::Shared,
};

// Of open(2) on Linux, on all architectures that it shares them between: fuser passes them as they came.
const O_APPEND: i32 = 0o2000;
// Of fallocate(2).
const KEEP_SIZE: i32 = 0x01;
const PUNCH_HOLE: i32 = 0x02;
const ZERO_RANGE: i32 = 0x10;
/// Who asks, as far as a request tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    uid: u32,
    gid: u32,
}

impl From<&Request> for Asker {
    fn from(request: &Request) -> Self {
        Self { uid: request.uid(), gid: request.gid() }
    }
}

impl Asker {
    /// Whoever may keep setuid bits when they write.
    pub(super) fn is_root(self) -> bool {
        self.uid == 0
    }

    /// What is left of a file's mode when this one, who is not root, changes what is in it. A request names one group of
    /// its caller: setgid, which only means something where the group may execute, goes for one of the others too.
    pub(super) fn leaves(self, mode: u32, gid: u32) -> u32 {
        without_suid_of_others(mode, self.gid == gid)
    }

    pub(super) fn opens(self, flags: OpenFlags) -> Opener {
        Opener { is_root: self.is_root(), writes: flags.acc_mode() != OpenAccMode::O_RDONLY }
    }
}

impl Shared {
    pub(super) async fn make(
        &self,
        dir: Ino,
        name: &Name,
        node: NewNode,
        mode: Option<u32>,
        asker: Asker,
    ) -> Result<Attr> {
        let above = self.ask(|| self.vfs.getattr(dir)).await?;
        let inherits = above.mode & SETGID != 0;
        let mode = match (node.kind(), mode) {
            (FileKind::Dir, Some(mode)) if inherits => Some(mode | SETGID),
            (_, mode) => mode,
        };
        let set = SetAttr {
            mode: mode.map(|mode| mode & MODE_MASK),
            uid: Some(self.options.uid.unwrap_or(asker.uid)),
            gid: Some(if inherits { above.gid } else { self.options.gid.unwrap_or(asker.gid) }),
            ..SetAttr::default()
        };
        Ok(self.ask(|| self.vfs.create(dir, name, node.clone(), set.clone())).await?.node)
    }

    /// What is set of a node, and what that takes from its mode.
    pub(super) async fn set(&self, ino: Ino, mut set: SetAttr, asker: Asker) -> Result<Attr> {
        if let Some(uid) = self.options.uid {
            refuse_other_owner(set.uid, uid)?;
            set.uid = None;
        }
        if let Some(gid) = self.options.gid {
            refuse_other_owner(set.gid, gid)?;
            set.gid = None;
        }
        if set.mode.is_some() && self.passthrough.others_write(ino) {
            // As their next write would.
            set.mode = set.mode.map(without_suid);
        }
        let changes_hands = set.uid.is_some() || set.gid.is_some();
        let is_cut = set.size.is_some() && !asker.is_root();
        if changes_hands || is_cut {
            let attr = self.ask(|| self.vfs.getattr(ino)).await?;
            let mode = set.mode.unwrap_or(attr.mode);
            let left = if is_cut { asker.leaves(mode, attr.gid) } else { without_suid(mode) };
            if attr.kind != FileKind::Dir && left != mode {
                set.mode = Some(left);
            }
        }
        Ok(self.ask(|| self.vfs.setattr(ino, set.clone())).await?.after)
    }

    /// Drops setuid and setgid where one who is not root changes what is in a file.
    pub(super) async fn drop_suid(&self, ino: Ino, asker: Asker) -> Result<()> {
        if asker.is_root() {
            return Ok(());
        }
        let attr = self.ask(|| self.vfs.getattr(ino)).await?;
        let left = asker.leaves(attr.mode, attr.gid);
        if left != attr.mode {
            let set = SetAttr { mode: Some(left), ..SetAttr::default() };
            self.ask(|| self.vfs.setattr(ino, set.clone())).await?;
        }
        Ok(())
    }

    pub(super) async fn write(
        &self,
        ino: Ino,
        offset: u64,
        data: Bytes,
        (flags, open_flags): (WriteFlags, OpenFlags),
        asker: Asker,
    ) -> Result<()> {
        let mut clear_suid = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let appends = open_flags.0 & O_APPEND != 0 && !flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let mut at = offset;
        if appends || clear_suid {
            let attr = self.ask(|| self.vfs.getattr(ino)).await?;
            if appends {
                // The kernel appends where it believes that the file ends; another frontend may have written since.
                at = attr.size;
            }
            if clear_suid && !asker.is_root() && has_suid(asker.leaves(attr.mode, attr.gid)) {
                // The write itself would take setgid, too, that stays.
                self.drop_suid(ino, asker).await?;
                clear_suid = false;
            }
        }
        self.ask(|| self.vfs.write(ino, at, data.clone(), clear_suid)).await?;
        if at != offset {
            self.own.send(Change::Node { ino, content: true }).ok();
        }
        Ok(())
    }

    pub(super) async fn allocate(&self, ino: Ino, range: Range<u64>, mode: i32, asker: Asker) -> Result<()> {
        let keep_size = mode & KEEP_SIZE != 0;
        self.drop_suid(ino, asker).await?;
        match mode & !KEEP_SIZE {
            0 => self.ask(|| self.vfs.allocate(ino, range.clone(), keep_size)).await.map(drop),
            PUNCH_HOLE if keep_size => self.ask(|| self.vfs.punch_hole(ino, range.clone())).await.map(drop),
            ZERO_RANGE => {
                self.ask(|| self.vfs.punch_hole(ino, range.clone())).await?;
                self.ask(|| self.vfs.allocate(ino, range.clone(), keep_size)).await.map(drop)
            }
            _ => Err(Error::new(ErrorKind::Unsupported, "fuse.fallocate")),
        }
    }

    /// Whether a file can be written at all: a file system that only reads says so when a file is opened.
    pub(super) async fn check_writable(&self, ino: Ino) -> Result<Attr> {
        Ok(self.ask(|| self.vfs.setattr(ino, SetAttr::default())).await?.after)
    }
}

/// With owners that are shown alike, giving a file to whom it is shown as is nothing, and to another one impossible.
fn refuse_other_owner(set: Option<u32>, shown: u32) -> Result<()> {
    match set {
        Some(id) if id != shown => Err(Error::new(ErrorKind::NotPermitted, "fuse.setattr")
            .because("the mount shows one owner for all (-o uid=, gid=)")),
        _ => Ok(()),
    }
}
