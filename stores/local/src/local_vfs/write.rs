//! Writing, room ahead of it, holes, and copies within the host.

use std::ops::Range;

use muxfs::{
    Error, ErrorKind, Result,
    vfs::{Changed, FILE_LEN_MAX, Ino},
};
use rustix::{fd::OwnedFd, fs::FallocateFlags, io::Errno};

use super::{
    Local,
    errno::fail,
    host::{attr, mode, pre_attr, stat_fd},
};

/// What one call of the host copies: a bound on how long it holds the file.
const COPY_LEN_MAX: usize = 64 * 1024 * 1024;
/// What is copied through our memory at a time where the host cannot copy.
const COPY_BUFFER_LEN: usize = 256 * 1024;

fn write_all(fd: &OwnedFd, data: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(fd, rest, offset + done as u64) {
            // The host writes nothing and names no reason only where there is no room.
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn end_of(offset: u64, len: u64, op: &'static str) -> Result<u64> {
    offset.checked_add(len).filter(|end| *end <= FILE_LEN_MAX).ok_or_else(|| Error::new(ErrorKind::TooLarge, op))
}

impl Local {
    /// Changes the bytes of a file, and tells its attributes before and after.
    fn change_bytes<T>(
        &self,
        ino: Ino,
        op: &'static str,
        change: impl Fn(&OwnedFd, u64) -> Result<T, Errno>,
    ) -> Result<(T, Changed)> {
        self.writable(op)?;
        let data = self.file(ino, true, op)?;
        let before = stat_fd(&data.fd).map_err(fail(op))?;
        data.writes();
        let done = self.with_space(|| change(&data.fd, before.stx_size)).map_err(fail(op))?;
        let after = stat_fd(&data.fd).map_err(fail(op))?;
        Ok((done, Changed { before: pre_attr(&before), after: attr(ino, &after) }))
    }

    /// Writes all, or takes back how far the file grew.
    pub(super) fn write(&self, ino: Ino, offset: u64, bytes: &[u8], clear_suid: bool) -> Result<Changed> {
        const OP: &str = "local.write";
        self.must_be_file(ino, OP)?;
        end_of(offset, bytes.len() as u64, OP)?;
        let ((), changed) = self.change_bytes(ino, OP, |fd, size| {
            if clear_suid && !bytes.is_empty() {
                let bits = mode(&stat_fd(fd)?);
                if bits & 0o6000 != 0 {
                    self.set_mode(fd, bits & !0o6000)?;
                }
            }
            write_all(fd, bytes, offset).inspect_err(|_| {
                if stat_fd(fd).is_ok_and(|now| now.stx_size > size) {
                    let _taken_back = rustix::fs::ftruncate(fd, size);
                }
            })
        })?;
        Ok(changed)
    }

    pub(super) fn allocate(&self, ino: Ino, range: &Range<u64>, keep_size: bool) -> Result<Changed> {
        let flags = if keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
        self.fallocate(ino, range, flags, "local.allocate")
    }

    pub(super) fn punch_hole(&self, ino: Ino, range: &Range<u64>) -> Result<Changed> {
        self.fallocate(ino, range, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, "local.punch_hole")
    }

    fn fallocate(&self, ino: Ino, range: &Range<u64>, flags: FallocateFlags, op: &'static str) -> Result<Changed> {
        self.must_be_file(ino, op)?;
        let len = range
            .end
            .checked_sub(range.start)
            .filter(|len| *len > 0)
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, op).because("the range holds no bytes"))?;
        end_of(range.end, 0, op)?;
        Ok(self.change_bytes(ino, op, |fd, _| rustix::fs::fallocate(fd, flags, range.start, len))?.1)
    }

    pub(super) fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        const OP: &str = "local.copy_range";
        let source = self.file(from.0, false, OP)?;
        self.must_be_file(to.0, OP)?;
        let size = stat_fd(&source.fd).map_err(fail(OP))?.stx_size;
        let len = len.min(size.saturating_sub(from.1));
        end_of(to.1, len, OP)?;
        if from.0 == to.0 && from.1.abs_diff(to.1) < len {
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because("the ranges overlap"));
        }
        self.change_bytes(to.0, OP, |fd, _| copy(&source.fd, from.1, fd, to.1, len))
    }
}

fn copy(source: &OwnedFd, from: u64, target: &OwnedFd, to: u64, len: u64) -> Result<u64, Errno> {
    let mut done = 0;
    while done < len {
        let count = usize::try_from(len - done).unwrap_or(usize::MAX).min(COPY_LEN_MAX);
        let (mut at, mut put) = (from + done, to + done);
        match rustix::fs::copy_file_range(source, Some(&mut at), target, Some(&mut put), count) {
            Ok(0) => break,
            Ok(count) => done += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV | Errno::INVAL) => {
                return copy_through(source, from + done, target, to + done, len - done).map(|rest| done + rest);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Copies through our memory, where the host cannot.
fn copy_through(source: &OwnedFd, from: u64, target: &OwnedFd, to: u64, len: u64) -> Result<u64, Errno> {
    let mut buffer = vec![0; COPY_BUFFER_LEN];
    let mut done = 0;
    while done < len {
        let count = usize::try_from(len - done).unwrap_or(usize::MAX).min(COPY_BUFFER_LEN);
        let Some(part) = buffer.get_mut(..count) else { break };
        match rustix::io::pread(source, &mut *part, from + done) {
            Ok(0) => break,
            Ok(read) => {
                write_all(target, part.get(..read).unwrap_or_default(), to + done)?;
                done += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}
