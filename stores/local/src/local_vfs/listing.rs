//! Directories: the host's entries in the host's order.
//!
//! A cookie is the host's own offset, shifted past the three reserved values. ext4, XFS, btrfs and tmpfs keep it good
//! while entries come and go; that is where the promise of [`readdir`](muxfs::vfs::Vfs::readdir) comes from. Each call
//! seeks to its cookie, so nothing read ahead can show an entry that went meanwhile, and two clients share one
//! descriptor.

use std::sync::PoisonError;

use muxfs::{
    Error, ErrorKind, Name, Result,
    vfs::{Cookie, DirEntry, DirPage, Ino, Listing},
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{RawDir, SeekFrom},
    io::Errno,
};

use super::{
    Local,
    errno::fail,
    find::stale,
    host::{attr, identity, stat_fd, stat_name},
    nodes::Hint,
};

/// Offsets are shifted by this: 0 to 2 are taken.
const COOKIE_SHIFT: u64 = 3;
/// Stands for the end, whose offset on ext4 is the largest there is and cannot be shifted.
const COOKIE_END: u64 = (1 << 63) - 1;
/// What one entry takes in the host's buffer, for a name of usual length.
const ENTRY_LEN_GUESS: usize = 48;
const BUFFER_LEN_MIN: usize = 4 * 1024;
const BUFFER_LEN_MAX: usize = 256 * 1024;
/// The most entries of one page, whatever is asked for: bounds the memory of an answer.
const PAGE_COUNT_MAX: usize = 16 * 1024;

/// An entry as the host gives it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawEntry {
    pub(super) number: u64,
    /// Of the entry after it.
    offset: u64,
}

/// The entries of an open directory from a position on; "." and ".." and names that are none are left out.
pub(super) struct Entries<'a> {
    fd: BorrowedFd<'a>,
    buffer: Vec<u8>,
    batch: std::vec::IntoIter<(RawEntry, Name)>,
    is_done: bool,
}

impl<'a> Entries<'a> {
    pub(super) fn start(fd: &'a OwnedFd, offset: u64, count: usize) -> Result<Self, Errno> {
        rustix::fs::seek(fd, SeekFrom::Start(offset))?;
        let len = count.saturating_add(2).saturating_mul(ENTRY_LEN_GUESS).clamp(BUFFER_LEN_MIN, BUFFER_LEN_MAX);
        Ok(Self { fd: fd.as_fd(), buffer: Vec::with_capacity(len), batch: vec![].into_iter(), is_done: false })
    }

    pub(super) fn next(&mut self) -> Result<Option<(RawEntry, Name)>, Errno> {
        loop {
            if let Some(entry) = self.batch.next() {
                return Ok(Some(entry));
            }
            if self.is_done {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    /// Takes one buffer full from the host.
    fn fill(&mut self) -> Result<(), Errno> {
        let mut batch = vec![];
        let mut raw = RawDir::new(self.fd, self.buffer.spare_capacity_mut());
        self.is_done = true;
        while let Some(entry) = raw.next() {
            let entry = entry?;
            self.is_done = false;
            // A name too long or otherwise none cannot be asked for either.
            if let Ok(name) = Name::new(entry.file_name().to_bytes())
                && entry.ino() != 0
            {
                batch.push((RawEntry { number: entry.ino(), offset: entry.next_entry_cookie() }, name));
            }
            if raw.is_buffer_empty() {
                break;
            }
        }
        self.batch = batch.into_iter();
        Ok(())
    }
}

fn offset_of(cookie: Cookie) -> Result<Option<u64>> {
    match cookie.0 {
        0 => Ok(Some(0)),
        COOKIE_END => Ok(None),
        COOKIE_SHIFT..COOKIE_END => Ok(Some(cookie.0 - COOKIE_SHIFT)),
        _ => Err(Error::new(ErrorKind::BadCookie, "local.readdir")),
    }
}

fn cookie_of(offset: u64) -> Result<Cookie> {
    if offset > i64::MAX.unsigned_abs() {
        return Err(Error::new(ErrorKind::Unsupported, "local.readdir")
            .because("the directory offsets of this file system do not fit in 63 bits"));
    }
    Ok(Cookie(offset.saturating_add(COOKIE_SHIFT).min(COOKIE_END)))
}

impl Local {
    /// One page of a directory; with attributes, each entry that has them is leased.
    pub(super) fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
        let mut after = after;
        loop {
            let mut page = self.names_of(dir, after, count)?;
            let Some(last) = page.entries.last().map(|entry| entry.cookie) else { return Ok(page) };
            if listing == Listing::Attrs {
                self.add_attrs(dir, &mut page.entries)?;
            }
            if page.eof || !page.entries.is_empty() {
                return Ok(page);
            }
            // All of them went since: an empty page would end the listing, so it goes on behind them.
            after = last;
        }
    }

    fn names_of(&self, dir: Ino, after: Cookie, count: usize) -> Result<DirPage> {
        const OP: &str = "local.readdir";
        let anchor = self.dir(dir, OP)?;
        let count = count.clamp(1, PAGE_COUNT_MAX);
        let mut page = DirPage { entries: vec![], eof: true };
        let Some(offset) = offset_of(after)? else { return Ok(page) };
        let data = self.data(&anchor, false, OP)?;
        if stat_fd(&data.fd).map_err(fail(OP))?.stx_nlink == 0 {
            // Removed while it was leased: empty, where the host would say that there is no such directory.
            return Ok(page);
        }
        let _reading = anchor.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Entries::start(&data.fd, offset, count).map_err(|errno| match errno {
            Errno::INVAL => Error::new(ErrorKind::BadCookie, OP),
            errno => fail(OP)(errno),
        })?;
        while let Some((raw, name)) = entries.next().map_err(fail(OP))? {
            if page.entries.len() == count {
                page.eof = false;
                break;
            }
            let ino = self.nodes().ino_of(raw.number).ok_or_else(|| stale(OP))?;
            page.entries.push(DirEntry { name, ino, cookie: cookie_of(raw.offset)?, attr: None });
        }
        Ok(page)
    }

    /// Leases the entries and adds their attributes. One that went since is left out; of a mount point there is the
    /// name and no more.
    fn add_attrs(&self, dir: Ino, entries: &mut Vec<DirEntry>) -> Result<()> {
        let anchor = self.dir(dir, "local.readdir")?;
        entries.retain_mut(|entry| {
            let Ok(stat) = stat_name(&anchor.fd, entry.name.as_bytes()) else { return false };
            if self.host.is_here(&stat)
                && let Ok(id) = identity(&stat)
            {
                let hint = Hint { dir, name: entry.name.clone() };
                entry.ino = self.with_nodes(|nodes, closing| nodes.meet(id, Some(hint), None, 1, closing));
                entry.attr = Some(attr(entry.ino, &stat));
            }
            true
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_stay_off_the_reserved_and_below_2_to_63() {
        for offset in [0, 1, 2, 1 << 32, i64::MAX.unsigned_abs() - 3, i64::MAX.unsigned_abs()] {
            let cookie = cookie_of(offset).expect("fits");
            assert!(cookie > Cookie::DOT_DOT && cookie.0 < 1 << 63, "{offset}");
            let back = offset_of(cookie).expect("ours");
            assert!(back == Some(offset) || (back.is_none() && offset >= i64::MAX.unsigned_abs() - 3), "{offset}");
        }
        assert_eq!(cookie_of(1 << 63).expect_err("too large").kind(), ErrorKind::Unsupported);
        for reserved in [Cookie::DOT, Cookie::DOT_DOT] {
            assert_eq!(offset_of(reserved).expect_err("never given").kind(), ErrorKind::BadCookie);
        }
        assert_eq!(offset_of(Cookie(1 << 63)).expect_err("never given").kind(), ErrorKind::BadCookie);
    }
}
