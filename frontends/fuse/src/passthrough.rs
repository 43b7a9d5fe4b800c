//! Files that the kernel reads and writes by itself: those of host directories, where it can and root serves them.
//!
//! The kernel takes one way for a file at a time. While any opening of it goes past us (FUSE passthrough, Linux 6.9) all
//! do, to the same host file; while one goes through the page cache of the mount, all do. It refuses an opening that is
//! answered otherwise with EIO. So the openings are counted here, from the answer to the release, which the kernel sends
//! when it has ended the way itself. Spec: spec/fuse.md #passthrough

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use fuser::{BackingId, FileHandle};
use muxfs::vfs::Ino;

/// An opening that is not counted: the kernel holds the node, and there is nothing else to know.
pub(crate) const NO_HANDLE: FileHandle = FileHandle(0);
/// The bit of a handle that says that its opening is counted.
const COUNTED: u64 = 1;
/// The bit that says that it writes past us.
const WRITES: u64 = 2;
/// The bit that says that it does so for another than root.
const WRITES_FOR_OTHERS: u64 = 4;

/// Who opens a file, and what for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opener {
    pub(crate) is_root: bool,
    pub(crate) writes: bool,
}

/// The openings of one file that there are now.
#[derive(Debug)]
struct Openings {
    count: u64,
    others_write_count: u64,
    /// The host file; `None` where the page cache is the way.
    way: Option<Arc<BackingId>>,
}

/// The files of one mount that are open.
#[derive(Debug)]
pub(crate) struct Passthrough {
    is_on: AtomicBool,
    open: Mutex<HashMap<Ino, Openings>>,
}

impl Passthrough {
    /// Off until the kernel says that it can.
    pub(crate) fn new() -> Self {
        Self { is_on: AtomicBool::new(false), open: Mutex::default() }
    }

    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Whether any file may be open in either way.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Ino, Openings>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next opening needs the host file: none is open yet.
    pub(crate) fn wants_file(&self, ino: Ino) -> bool {
        !self.open().contains_key(&ino)
    }

    /// Counts an opening, and tells its way: the host file, or `None` for the page cache.
    ///
    /// `file` is what [`host_file`](muxfs::vfs::Vfs::host_file) gave, and `register` makes it known to the kernel.
    pub(crate) fn count(
        &self,
        ino: Ino,
        opener: Opener,
        file: Option<&File>,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> (FileHandle, Option<Arc<BackingId>>) {
        let mut open = self.open();
        let openings = open.entry(ino).or_insert_with(|| {
            let way = file.and_then(|file| match register(file) {
                Ok(id) => Some(Arc::new(id)),
                Err(error) => {
                    tracing::debug!(%error, "the kernel does not read and write this file by itself");
                    None
                }
            });
            Openings { count: 0, others_write_count: 0, way }
        });
        openings.count += 1;
        let mut handle = COUNTED;
        if opener.writes && openings.way.is_some() {
            handle |= WRITES;
            if !opener.is_root {
                handle |= WRITES_FOR_OTHERS;
                openings.others_write_count += 1;
            }
        }
        (FileHandle(handle), openings.way.clone())
    }

    /// Takes an opening off that the kernel has ended.
    pub(crate) fn release(&self, ino: Ino, handle: FileHandle) {
        if handle == NO_HANDLE {
            return;
        }
        let mut open = self.open();
        let Some(openings) = open.get_mut(&ino) else { return };
        openings.count = openings.count.saturating_sub(1);
        if handle.0 & WRITES_FOR_OTHERS != 0 {
            openings.others_write_count = openings.others_write_count.saturating_sub(1);
        }
        if openings.count == 0 {
            open.remove(&ino);
        }
    }

    /// Whether somebody who is not root may write into a file past us: what they write takes no setuid away.
    pub(crate) fn others_write(&self, ino: Ino) -> bool {
        self.open().get(&ino).is_some_and(|openings| openings.others_write_count > 0)
    }

    /// Whether an opening may have written past us.
    pub(crate) fn writes(handle: FileHandle) -> bool {
        handle.0 & WRITES != 0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    const READER: Opener = Opener { is_root: true, writes: false };
    const WRITER: Opener = Opener { is_root: false, writes: true };

    /// While one opening goes through the page cache the next does too, though the kernel could be given the file by now.
    #[test]
    fn a_file_has_one_way_until_its_last_opening_ends() {
        let passthrough = Passthrough::new();
        let ino = Ino(NonZeroU64::MIN);
        let refuse = |_: &File| Err(io::ErrorKind::OutOfMemory.into());
        assert!(passthrough.wants_file(ino));
        let (first, way) = passthrough.count(ino, READER, None, refuse);
        assert!(way.is_none() && first != NO_HANDLE);
        assert!(!passthrough.wants_file(ino));
        let (second, way) = passthrough.count(ino, WRITER, None, |_| panic!("not while it is open"));
        assert!(way.is_none() && !Passthrough::writes(second), "it writes through us");
        assert!(!passthrough.others_write(ino));
        passthrough.release(ino, first);
        passthrough.release(ino, NO_HANDLE);
        assert!(!passthrough.wants_file(ino));
        passthrough.release(ino, second);
        assert!(passthrough.wants_file(ino));
    }
}
