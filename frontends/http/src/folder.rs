//! A directory of a mount as a TAR, as it is while it is sent.
//!
//! One walk: a name of the namespace is no way and leads nowhere else, so that nothing has to be looked at before. Symlinks
//! go in as they are; pipes, sockets and devices are left out. What changes meanwhile may be in it as it was, as it is, or
//! not; a file that grows shorter breaks the archive off. Spec: spec/http.md #tar.

use std::{sync::Arc, vec};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use muxfs::{
    Error, FileKind, Name, Result,
    vfs::{Attr, Cookie, Ino, Lease, Listing, Vfs},
};

use crate::{
    dav::is_hidden,
    place::read_node,
    ustar::{END, Header, padding},
};

/// Entries asked for at once.
const PAGE_COUNT: usize = 512;

struct Level {
    path: Vec<u8>,
    lease: Lease,
    entries: vec::IntoIter<(Name, Lease, Attr)>,
    after: Option<Cookie>,
}

struct Walk {
    vfs: Arc<dyn Vfs>,
    levels: Vec<Level>,
}

impl Walk {
    fn enter(&mut self, path: Vec<u8>, lease: Lease) {
        let entries = Vec::new().into_iter();
        self.levels.push(Level { path, lease, entries, after: Some(Cookie::START) });
    }

    /// The next node, with its path.
    async fn next(&mut self) -> Result<Option<(Vec<u8>, Lease, Attr)>> {
        while let Some(level) = self.levels.last_mut() {
            if let Some((name, lease, attr)) = level.entries.next() {
                let path = [&level.path, &b"/"[..], name.as_bytes()].concat();
                if attr.kind == FileKind::Dir {
                    self.enter(path.clone(), lease.clone());
                }
                return Ok(Some((path, lease, attr)));
            }
            let Some(after) = level.after else {
                self.levels.pop();
                continue;
            };
            (level.entries, level.after) = page(&self.vfs, level.lease.ino(), after).await?;
        }
        Ok(None)
    }
}

type Page = (vec::IntoIter<(Name, Lease, Attr)>, Option<Cookie>);

async fn page(vfs: &Arc<dyn Vfs>, dir: Ino, after: Cookie) -> Result<Page> {
    let page = vfs.readdir(dir, after, PAGE_COUNT, Listing::Attrs).await?;
    let next = page.entries.last().map(|entry| entry.cookie).filter(|_| !page.eof);
    let mut entries = Vec::with_capacity(page.entries.len());
    for entry in page.entries {
        // What was told came with a lease.
        let Some(attr) = entry.attr else { continue };
        let lease = Lease::adopt(vfs.clone(), attr.ino);
        let is_member = matches!(attr.kind, FileKind::File | FileKind::Dir | FileKind::Symlink);
        if is_member && !is_hidden(&entry.name) {
            entries.push((entry.name, lease, attr));
        }
    }
    Ok((entries.into_iter(), next))
}

/// The archive of a directory, its members below `name`.
pub(crate) fn stream(
    vfs: Arc<dyn Vfs>,
    (lease, attr): (Lease, Attr),
    name: &[u8],
) -> BoxStream<'static, Result<Bytes>> {
    let mut walk = Walk { vfs: vfs.clone(), levels: Vec::new() };
    walk.enter(name.to_vec(), lease.clone());
    let root = stream::iter([Ok((name.to_vec(), lease, attr))]);
    let below = stream::try_unfold(walk, |mut walk| async move {
        let next = walk.next().await?;
        Ok::<_, Error>(next.map(|node| (node, walk)))
    });
    let members = root.chain(below).and_then(move |(path, lease, attr)| member(vfs.clone(), path, lease, attr));
    members.try_flatten().chain(stream::iter([Ok(END)])).boxed()
}

async fn member(
    vfs: Arc<dyn Vfs>,
    path: Vec<u8>,
    lease: Lease,
    attr: Attr,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let target = match attr.kind {
        FileKind::Symlink => vfs.readlink(lease.ino()).await?,
        _ => Bytes::new(),
    };
    let (mode, mtime) = (Some(attr.mode), Some(attr.mtime));
    let header = Header { path, kind: attr.kind, size: attr.size, mode, mtime, target };
    let header = stream::iter([Ok(header.bytes().into())]);
    if attr.kind != FileKind::File || attr.size == 0 {
        return Ok(header.boxed());
    }
    let content = read_node(vfs, lease)(0..attr.size);
    Ok(header.chain(content).chain(stream::iter(padding(attr.size).map(Ok))).boxed())
}
