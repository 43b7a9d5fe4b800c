//! Pages of a directory, as the kernel asks for them.
//!
//! The offsets that it goes on from are the file system's own cookies, with 1 and 2 for `.` and `..`: good for as long as
//! the directory lives, whatever comes and goes in it.

use std::sync::Arc;

use fuser::FileType;
use muxfs::{
    ErrorKind, Name, Result,
    vfs::{Attr, Cookie, Ino, Lease, Listing},
};

use crate::server::Shared;

/// The least bytes that an entry with attributes takes in a reply: more are not asked for than fit.
const ENTRY_LEN_MIN: u32 = 160;
/// What the kernel takes of a directory at once.
pub(crate) const PAGE_LEN: u32 = 4096;

/// An entry to give.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    /// Where to go on after it.
    pub(crate) offset: u64,
    pub(crate) what: What,
}

/// What is known of an entry.
#[derive(Debug)]
pub(crate) enum What {
    /// `.` or `..`, which the kernel takes no lease of.
    Dot(Ino),
    /// A node, leased.
    Node(Box<Attr>, Lease),
    /// One whose attributes cannot be told now: not leased.
    Unknown(Ino, FileType),
}

/// The entries of `dir` after `offset`, as many as `len` bytes of reply may hold; none only at the end.
///
/// # Errors
/// Those of [`readdir`](muxfs::vfs::Vfs::readdir).
pub(crate) async fn page(shared: &Arc<Shared>, dir: Ino, offset: u64, len: u32) -> Result<Vec<Entry>> {
    let vfs = &shared.vfs;
    let mut entries = Vec::new();
    if offset < Cookie::DOT.0 {
        entries.push(Entry { name: b".".to_vec(), offset: Cookie::DOT.0, what: What::Dot(dir) });
    }
    if offset < Cookie::DOT_DOT.0 {
        // Only its number is shown.
        let above = match vfs.parent(dir).await {
            Ok(above) => Lease::adopt(vfs.clone(), above.ino).ino(),
            Err(_) => dir,
        };
        entries.push(Entry { name: b"..".to_vec(), offset: Cookie::DOT_DOT.0, what: What::Dot(above) });
    }
    let mut after = if offset <= Cookie::DOT_DOT.0 { Cookie::START } else { Cookie(offset) };
    let count = usize::try_from(len / ENTRY_LEN_MIN).unwrap_or(usize::MAX).max(1);
    loop {
        let page = shared.ask(|| vfs.readdir(dir, after, count, Listing::Attrs)).await?;
        // Leases first, so that an error on the way gives back those of the rest too.
        let leased: Vec<_> = page
            .entries
            .into_iter()
            .map(|entry| (entry.attr.is_some().then(|| Lease::adopt(vfs.clone(), entry.ino)), entry))
            .collect();
        for (lease, entry) in leased {
            after = entry.cookie;
            let what = match (entry.attr, lease) {
                (Some(attr), Some(lease)) => Some(What::Node(Box::new(attr), lease)),
                _ => look(shared, dir, &entry.name, entry.ino).await?,
            };
            if let Some(what) = what {
                entries.push(Entry { name: entry.name.as_bytes().to_vec(), offset: after.0, what });
            }
        }
        if page.eof || !entries.is_empty() {
            return Ok(entries);
        }
    }
}

/// What is known of an entry that was listed without attributes; `None` where it is gone by now.
async fn look(shared: &Arc<Shared>, dir: Ino, name: &Name, ino: Ino) -> Result<Option<What>> {
    match shared.vfs.lookup(dir, name).await {
        Ok(attr) => {
            let lease = Lease::adopt(shared.vfs.clone(), attr.ino);
            Ok(Some(What::Node(Box::new(attr), lease)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // A mount that is out of reach is a directory of the root; the others can be used.
        Err(_) if dir == shared.vfs.root() => Ok(Some(What::Unknown(ino, FileType::Directory))),
        Err(_) => Ok(Some(What::Unknown(ino, FileType::RegularFile))),
    }
}
