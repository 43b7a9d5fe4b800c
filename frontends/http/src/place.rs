//! What has a name: `/PREFIX[/path]` of every mount, and `/`, which lists them.
//!
//! The same pages and ranges as for content, over the inodes ([`Vfs`]) of a mount. What is here can change and is nobody
//! else's: nothing is kept by caches, and no page of another origin gets any of it ([`guard::check_origin`]). Symlinks are
//! shown and not followed, so no path leads out of its mount. Spec: spec/http.md #names.

use std::{ops::Range, sync::Arc};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
        header::{CACHE_CONTROL, CONTENT_DISPOSITION},
        request::Parts,
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use muxfs::{
    Error, ErrorKind, FileKind, Mount, MuxFs, Name, Result,
    calendar::unix_secs,
    vfs::{Attr, Cookie, INO_BITS, Lease, Listing, Vfs, ext},
};

use crate::{
    dav::is_hidden,
    entity::{Entity, Read, disposition, read_bytes, set},
    failure::Failure,
    media_type,
    page::{self, INDEX, LIST_COUNT_MAX, List, Row},
    target::Target,
};

/// How much is read at once, in bytes, and how many such reads are under way ahead of who takes it.
const READ_LEN: u32 = 1 << 20;
const READ_COUNT: usize = 4;
/// What can change is asked for again each time.
const ASK_AGAIN: &str = "private, no-cache";
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A request for something with a name.
pub(crate) struct Place<'a> {
    pub(crate) target: &'a Target,
    pub(crate) request: &'a Parts,
    pub(crate) boundary: &'a (dyn Fn() -> String + Sync),
}

/// The list of mounts.
pub(crate) fn mounts(mux: &MuxFs) -> Result<Response<Body>, Failure> {
    let row = |mount: &Mount| {
        let name = Name::new(mount.prefix().as_str().as_bytes())?;
        Ok(Row { name, cid: None, size: None, is_dir: true })
    };
    let rows = mux.mounts().iter().map(row).collect::<Result<_>>()?;
    let list = List { parts: &[], rows, next: None, is_first: true, top: 0 };
    Ok(private(page::answer(None, Some(list.html()))))
}

impl Place<'_> {
    /// Answers with what `names` lead to in a mount, to whom may have it.
    pub(crate) async fn answer(&self, mount: &Mount, names: &[Name]) -> Result<Response<Body>, Failure> {
        if let Some(format) = self.target.query.get("format") {
            return Err(Failure::not_acceptable(format!("What has a name has no other form, so no {format:?}.")));
        }
        if names.iter().any(is_hidden) {
            return Err(Failure::new(StatusCode::NOT_FOUND, "What this name is kept for is not whole yet.", ""));
        }
        let vfs = mount.vfs();
        let (lease, attr) = ext::walk(vfs, vfs.root(), names).await?;
        let answer = match attr.kind {
            FileKind::Dir => self.dir(vfs, &lease, names).await?,
            FileKind::File => self.file(vfs, lease, &attr, names.last()).await?,
            FileKind::Symlink => {
                let target = vfs.readlink(attr.ino).await?;
                let entity = Entity {
                    len: target.len() as u64,
                    content_type: "inode/symlink".to_owned(),
                    etag: etag(&attr),
                    modified: Some(attr.mtime),
                    headers: HeaderMap::new(),
                    read: read_bytes(target),
                };
                entity.answer(self.request, self.boundary).await?
            }
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                let why = "What is there is neither a file nor a directory.";
                return Err(Failure::new(StatusCode::FORBIDDEN, why, ""));
            }
        };
        Ok(private(answer))
    }

    async fn file(
        &self,
        vfs: &Arc<dyn Vfs>,
        lease: Lease,
        attr: &Attr,
        name: Option<&Name>,
    ) -> Result<Response<Body>, Failure> {
        let mut headers = HeaderMap::new();
        let query = &self.target.query;
        let (wanted, is_download) = (query.get("filename"), query.get("download") == Some("true"));
        let name = wanted.map(str::to_owned).or_else(|| name.map(Name::to_string)).unwrap_or_default();
        if wanted.is_some() || is_download {
            set(&mut headers, CONTENT_DISPOSITION, &disposition(is_download, &name));
        }
        let content_type = if let Some(known) = media_type::of_name(&name) {
            known
        } else {
            let beginning = vfs.read(attr.ino, 0, media_type::SNIFFED_LEN).await?;
            media_type::of_content(&beginning, beginning.len() as u64 == attr.size)
        };
        let entity = Entity {
            len: attr.size,
            content_type: content_type.to_owned(),
            etag: etag(attr),
            modified: Some(attr.mtime),
            headers,
            read: read_node(vfs.clone(), lease),
        };
        entity.answer(self.request, self.boundary).await
    }

    async fn dir(&self, vfs: &Arc<dyn Vfs>, lease: &Lease, names: &[Name]) -> Result<Response<Body>, Failure> {
        if !self.target.is_dir {
            return Ok(page::to_dir(self.target));
        }
        let index = Name::new(INDEX.as_bytes())?;
        match vfs.lookup(lease.ino(), &index).await {
            Ok(attr) => {
                let lease = Lease::adopt(vfs.clone(), attr.ino);
                if attr.kind == FileKind::File {
                    return self.file(vfs, lease, &attr, Some(&index)).await;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let from = page::from(self.target)?;
        let page = vfs.readdir(lease.ino(), Cookie(from), LIST_COUNT_MAX, Listing::Attrs).await?;
        let next = page.entries.last().filter(|_| !page.eof).map(|entry| entry.cookie.0);
        let mut rows = Vec::new();
        for entry in page.entries {
            // What was told came with a lease.
            let attr = entry.attr.inspect(|attr| drop(Lease::adopt(vfs.clone(), attr.ino)));
            if is_hidden(&entry.name) {
                continue;
            }
            let is_dir = attr.as_ref().is_some_and(|attr| attr.kind == FileKind::Dir);
            let size = attr.as_ref().filter(|attr| attr.kind == FileKind::File).map(|attr| attr.size);
            rows.push(Row { name: entry.name, cid: attr.and_then(|attr| attr.cid), size, is_dir });
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let parts = self.target.parts.get(..=names.len()).unwrap_or(&self.target.parts);
        let list = List { parts, rows, next, is_first: from == 0, top: 0 };
        Ok(page::answer(None, Some(list.html())))
    }
}

/// What nobody else is to see or keep.
fn private(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(ASK_AGAIN));
    response.headers_mut().insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Another one with every change; the same whether the mount is asked or what it is a part of.
pub(crate) fn etag(attr: &Attr) -> String {
    let ino = attr.ino.0.get() & ((1 << INO_BITS) - 1);
    format!("\"{:x}-{:x}-{:x}-{:x}\"", ino, attr.change, attr.size, unix_secs(attr.mtime))
}

/// Reads parts of a file. One that grew shorter meanwhile ends with an error: the length was told already.
fn read_node(vfs: Arc<dyn Vfs>, lease: Lease) -> Read {
    Box::new(move |range: Range<u64>| {
        let (vfs, lease) = (vfs.clone(), lease.clone());
        let ino = lease.ino();
        let pieces = range.clone().step_by(READ_LEN as usize).map(move |offset| {
            let len = u32::try_from(range.end - offset).map_or(READ_LEN, |len| len.min(READ_LEN));
            let vfs = vfs.clone();
            async move { read_exactly(&*vfs, ino, offset, len).await }
        });
        stream::iter(pieces)
            .buffered(READ_COUNT)
            .map(move |piece| {
                // Held for as long as anything is read.
                let _ = &lease;
                piece
            })
            .boxed()
    })
}

async fn read_exactly(vfs: &dyn Vfs, ino: muxfs::vfs::Ino, offset: u64, len: u32) -> Result<Bytes> {
    let mut all = vfs.read(ino, offset, len).await?;
    while all.len() < len as usize {
        let rest = vfs.read(ino, offset + all.len() as u64, len - u32::try_from(all.len()).unwrap_or(len)).await?;
        if rest.is_empty() {
            return Err(Error::new(ErrorKind::Stale, "http.read").because("the file became shorter while it was read"));
        }
        all = [all, rest].concat().into();
    }
    Ok(all)
}
