//! Reading: from the page cache at once, from the disk on a thread that may wait.

use std::{fs::File, io::IoSliceMut, sync::Arc};

use bytes::Bytes;
use muxfs::{
    Result,
    vfs::{Ino, READ_LEN_MAX, Seek},
};
use rustix::{
    fd::OwnedFd,
    fs::{OFlags, SeekFrom, StatxAttributes},
    io::{Errno, ReadWriteFlags},
};

use super::{Local, errno::fail, host::stat_fd};
use crate::buffers::{Buffers, CHUNK_LEN, Class};

/// Longer reads take a buffer that was used before: fresh memory costs as much as the copy.
const POOLED: Class = Class { len_min: 64 * 1024, len: CHUNK_LEN, count_max: 16 };

/// The buffers of a host directory.
pub(super) fn buffers() -> Buffers {
    Buffers::new(&[POOLED])
}

/// A read that is under way.
#[derive(Debug)]
pub(super) struct Reading {
    fd: Arc<OwnedFd>,
    offset: u64,
    buffer: Vec<u8>,
    len: usize,
    done: usize,
    pool: Buffers,
}

impl Reading {
    fn finish(self) -> Bytes {
        self.pool.give(self.buffer, self.done)
    }

    /// Reads on; `None` from the host is the end of the file.
    fn run(&mut self, read: impl Fn(&OwnedFd, &mut [u8], u64) -> Result<usize, Errno>) -> Result<(), Errno> {
        while self.done < self.len {
            let Some(rest) = self.buffer.get_mut(self.done..self.len) else { break };
            match read(&self.fd, rest, self.offset + self.done as u64) {
                Ok(0) => {
                    self.len = self.done;
                }
                Ok(count) => self.done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Reads the rest, waiting for the disk.
    pub(super) fn wait(mut self) -> Result<Bytes> {
        self.run(|fd, rest, offset| rustix::io::pread(fd, rest, offset)).map_err(fail("local.read"))?;
        Ok(self.finish())
    }
}

/// A read that is done, or has to wait.
pub(super) enum Read {
    Done(Bytes),
    Waits(Reading),
}

impl Local {
    /// Reads what the page cache has.
    pub(super) fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Read> {
        const OP: &str = "local.read";
        let data = self.file(ino, false, OP)?;
        let mut len = usize::try_from(len.min(READ_LEN_MAX)).unwrap_or(usize::MAX);
        if offset > i64::MAX.unsigned_abs() - u64::from(u32::MAX) {
            return Ok(Read::Done(Bytes::new()));
        }
        if len >= POOLED.len_min {
            // No memory for what is only claimed.
            let size = stat_fd(&data.fd).map_err(fail(OP))?.stx_size;
            len = len.min(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX));
        }
        let pool = self.buffers.clone();
        let mut reading = Reading { fd: data.fd, offset, buffer: pool.take(len), len, done: 0, pool };
        let at_once = |fd: &OwnedFd, rest: &mut [u8], offset| {
            rustix::io::preadv2(fd, &mut [IoSliceMut::new(rest)], offset, ReadWriteFlags::NOWAIT)
        };
        match reading.run(at_once) {
            Ok(()) => Ok(Read::Done(reading.finish())),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Read::Waits(reading)),
            Err(errno) => Err(fail(OP)(errno)),
        }
    }

    /// Opens the host's file anew: what is done with the descriptor is no business of those that are kept here. `None` for
    /// one that may only grow or not change at all (`chattr +a`, `+i`): the host sees to that where a file is opened for
    /// writing, and who writes by this descriptor never does.
    pub(super) fn host_file(&self, ino: Ino) -> Result<Option<File>> {
        const OP: &str = "local.host_file";
        self.must_be_file(ino, OP)?;
        let anchor = self.anchor(ino, OP)?;
        let bound = StatxAttributes::APPEND | StatxAttributes::IMMUTABLE;
        if stat_fd(&anchor.fd).map_err(fail(OP))?.stx_attributes.intersects(bound) {
            return Ok(None);
        }
        let fd = self.with_room(|| self.host.reopen(&anchor.fd, OFlags::RDONLY)).map_err(fail(OP))?;
        Ok(Some(File::from(fd)))
    }

    /// Asks the host, which tells holes by its own blocks. Nobody reads or writes at the place that this moves.
    pub(super) fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        const OP: &str = "local.seek";
        let data = self.file(ino, false, OP)?;
        if i64::try_from(offset).is_err() {
            return Ok(None);
        }
        let from = match what {
            Seek::Data => SeekFrom::Data(offset),
            Seek::Hole => SeekFrom::Hole(offset),
        };
        match rustix::fs::seek(&data.fd, from) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(fail(OP)(errno)),
        }
    }
}
