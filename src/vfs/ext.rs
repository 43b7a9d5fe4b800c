//! Comforts over [`Vfs`]: leases that give themselves back, and what several callers would otherwise write again.

use std::sync::Arc;

use bytes::Bytes;

use super::{Attr, Cookie, DirEntry, Ino, Listing, Vfs};
use crate::{Error, ErrorKind, Name, Result};

/// How many entries [`list`] asks for at a time.
const LIST_PAGE_COUNT: usize = 1024;

/// How many bytes [`read_to_end`] asks for at a time.
const READ_LEN: u32 = 1 << 20;

/// One lease that gives itself back: made from what a leasing call returned.
#[derive(Debug)]
pub struct Lease {
    vfs: Arc<dyn Vfs>,
    ino: Ino,
}

impl Lease {
    /// Takes over one lease of `ino` that a call on `vfs` gave.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use muxfs::{testing, testing::model::ModelFs, vfs::{Lease, Vfs}};
    /// let vfs: Arc<dyn Vfs> = ModelFs::new(testing::env());
    /// let root = Lease::adopt(vfs.clone(), vfs.root());
    /// assert_eq!(root.ino(), vfs.root());
    /// ```
    pub fn adopt(vfs: Arc<dyn Vfs>, ino: Ino) -> Self {
        Self { vfs, ino }
    }

    /// The inode that answers for as long as this lives.
    pub fn ino(&self) -> Ino {
        self.ino
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        self.vfs.retain(self.ino);
        Self { vfs: self.vfs.clone(), ino: self.ino }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.vfs.release(self.ino, 1);
    }
}

/// The node that `names` lead to from `from`, which stays leased by the caller. No symlink is followed.
///
/// No names: `from` itself, with a lease more.
///
/// # Errors
/// `NotFound`, `NotDir`; without a path, which the caller knows better.
pub async fn walk(vfs: &Arc<dyn Vfs>, from: Ino, names: &[Name]) -> Result<(Lease, Attr)> {
    let mut attr = vfs.getattr(from).await?;
    vfs.retain(from);
    let mut at = Lease::adopt(vfs.clone(), from);
    for (index, name) in names.iter().enumerate() {
        // Anew at each step: what is here of the way tells nobody far away where the rest leads.
        vfs.expect(at.ino(), names.get(index..).unwrap_or_default());
        attr = vfs.lookup(at.ino(), name).await?;
        at = Lease::adopt(vfs.clone(), attr.ino);
    }
    Ok((at, attr))
}

/// All bytes of a file, if there are at most `len_max`.
///
/// # Errors
/// `TooLarge` where there are more; `IsDir`.
pub async fn read_to_end(vfs: &dyn Vfs, ino: Ino, len_max: u64) -> Result<Bytes> {
    let mut bytes = Vec::new();
    loop {
        let piece = vfs.read(ino, bytes.len() as u64, READ_LEN).await?;
        if piece.is_empty() {
            return Ok(bytes.into());
        }
        if bytes.len() as u64 + piece.len() as u64 > len_max {
            return Err(
                Error::new(ErrorKind::TooLarge, "vfs.read_to_end").because(format!("more than {len_max} bytes"))
            );
        }
        bytes.extend_from_slice(&piece);
    }
}

/// All entries of a directory, if there are at most `count_max`; without attributes, so nothing is leased.
///
/// # Errors
/// `TooLarge` where there are more; `NotDir`.
pub async fn list(vfs: &dyn Vfs, dir: Ino, count_max: usize) -> Result<Vec<DirEntry>> {
    let mut entries: Vec<DirEntry> = Vec::new();
    let mut after = Cookie::START;
    loop {
        let page = vfs.readdir(dir, after, LIST_PAGE_COUNT, Listing::Names).await?;
        after = page.entries.last().map_or(after, |entry| entry.cookie);
        let done = page.eof || page.entries.is_empty();
        entries.extend(page.entries);
        if entries.len() > count_max {
            return Err(Error::new(ErrorKind::TooLarge, "vfs.list").because(format!("more than {count_max} entries")));
        }
        if done {
            return Ok(entries);
        }
    }
}
