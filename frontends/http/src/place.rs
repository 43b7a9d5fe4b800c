//! What has a name: `/PREFIX[/path]` of every mount, and `/`, which lists them.
//!
//! The same pages and ranges as for content, over the inodes ([`Vfs`]) of a mount. What is here can change and is nobody
//! else's: nothing is kept by caches, and no page of another origin gets any of it ([`guard::check_origin`]). Symlinks are
//! shown and not followed, so no path leads out of its mount. Spec: spec/http.md #names.

use std::{ops::Range, sync::Arc};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE},
        request::Parts,
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use muxfs::{
    Error, ErrorKind, FileKind, Mount, Name, Result,
    calendar::unix_secs,
    vfs::{Attr, Cookie, INO_BITS, Lease, Listing, Vfs, ext},
};
use serde_json::{Value, json};

use crate::{
    access::Who,
    dav::is_hidden,
    entity::{Entity, Read, disposition, read_bytes, set},
    failure::Failure,
    folder,
    format::Format,
    gateway::streamed,
    media_type, ours,
    page::{self, INDEX, LIST_COUNT_MAX, List, NO_STORE, Row},
    server::Shared,
    target::{Target, percent_encode},
};

/// How much is read at once, in bytes, and how many such reads are under way ahead of who takes it.
const READ_LEN: u32 = 1 << 20;
const READ_COUNT: usize = 4;
/// What can change is asked for again each time.
const ASK_AGAIN: &str = "private, no-cache";
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A request for something with a name.
pub(crate) struct Place<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) who: &'a Who,
    pub(crate) target: &'a Target,
    pub(crate) request: &'a Parts,
    pub(crate) boundary: &'a (dyn Fn() -> String + Sync),
}

/// The list of mounts.
pub(crate) fn mounts(shared: &Shared, request: &Parts) -> Result<Response<Body>, Failure> {
    let row = |mount: &Mount| {
        let name = Name::new(mount.prefix().as_str().as_bytes())?;
        Ok(Row { name, cid: None, size: None, is_dir: true })
    };
    if wants_json(request) {
        let told =
            |mount: &Mount| json!({ "name": mount.prefix().as_str(), "href": mount.prefix().as_str(), "kind": "dir" });
        let entries: Vec<Value> = shared.mux.mounts().iter().map(told).collect();
        return Ok(private(ours::told(&json!({ "writable": false, "entries": entries, "next": null }))));
    }
    let rows = shared.mux.mounts().iter().map(row).collect::<Result<_>>()?;
    let list = List { parts: &[], rows, next: None, is_first: true, top: 0, others: "", of_host: 0 };
    Ok(private(files(shared, &list)))
}

fn files(shared: &Shared, list: &List<'_>) -> Response<Body> {
    ours::files(shared, &list.path_html(), &list.rows_html(), &list.parts_html())
}

/// Whether a program asks that reads no pages.
fn wants_json(request: &Parts) -> bool {
    let mut accepts = request.headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepts.any(|value| value.contains("application/json") && !value.contains("text/html"))
}

/// A kind of node, as JSON has it.
fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "dir",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char_device",
        FileKind::BlockDevice => "block_device",
    }
}

/// An entry of a directory, as JSON has it: `href` is what it is called in an address, and `name` for people.
fn told(name: &Name, attr: Option<&Attr>) -> Value {
    let mut value = json!({ "name": name.to_string(), "href": percent_encode(name.as_bytes()) });
    if let Some(attr) = attr {
        value["kind"] = kind(attr.kind).into();
        value["mtime"] = unix_secs(attr.mtime).into();
        if attr.kind == FileKind::File {
            value["size"] = attr.size.into();
        }
        if let Some(cid) = attr.cid {
            value["cid"] = cid.to_string().into();
        }
    }
    value
}

impl Place<'_> {
    /// Answers with what `names` lead to in a mount, to whom may have it.
    pub(crate) async fn answer(&self, mount: &Mount, names: &[Name]) -> Result<Response<Body>, Failure> {
        let is_archive = self.target.query.get("format") == Some(Format::Tar.name());
        if let Some(format) = self.target.query.get("format").filter(|_| !is_archive) {
            return Err(Failure::not_acceptable(format!("What has a name has no other form, so no {format:?}.")));
        }
        if names.iter().any(is_hidden) {
            return Err(Failure::new(StatusCode::NOT_FOUND, "What this name is kept for is not whole yet.", ""));
        }
        let (vfs, of_mount) = (&self.who.view(mount.vfs()), Name::new(mount.prefix().as_str().as_bytes())?);
        let (lease, attr) = ext::walk(vfs, vfs.root(), names).await?;
        let answer = match attr.kind {
            FileKind::Dir if is_archive => self.archive(vfs, (lease, attr), names.last().unwrap_or(&of_mount)).await?,
            _ if is_archive => return Err(Failure::not_acceptable("Only a directory has the form of a TAR here.")),
            FileKind::Dir => self.dir(mount, &lease, &attr, names).await?,
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

    /// A directory with all that is below it.
    async fn archive(&self, vfs: &Arc<dyn Vfs>, dir: (Lease, Attr), name: &Name) -> Result<Response<Body>, Failure> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        let saved_as = format!("{name}.tar");
        set(headers, CONTENT_DISPOSITION, &disposition(true, self.target.query.get("filename").unwrap_or(&saved_as)));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(Format::Tar.media_type()));
        if self.request.method != Method::HEAD {
            *response.body_mut() = streamed(folder::stream(vfs.clone(), dir, name.as_bytes())).await?;
        }
        Ok(response)
    }

    async fn dir(&self, mount: &Mount, lease: &Lease, own: &Attr, names: &[Name]) -> Result<Response<Body>, Failure> {
        if !self.target.is_dir {
            return Ok(page::to_dir(&self.target.parts, &self.target.query));
        }
        let vfs = &self.who.view(mount.vfs());
        if wants_json(self.request) {
            return self.json(mount, lease, own).await;
        }
        let index = Name::new(INDEX.as_bytes())?;
        match vfs.lookup(lease.ino(), &index).await {
            // Who manages files wants to see them all the same.
            Ok(attr) if self.target.query.get("list").is_some() => vfs.release(attr.ino, 1),
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
        Ok(files(self.shared, &List { parts, rows, next, is_first: from == 0, top: 0, others: "", of_host: 0 }))
    }

    /// A part of a directory for programs, in the order of the mount.
    async fn json(&self, mount: &Mount, lease: &Lease, own: &Attr) -> Result<Response<Body>, Failure> {
        let vfs = &self.who.view(mount.vfs());
        let page = vfs.readdir(lease.ino(), Cookie(page::from(self.target)?), LIST_COUNT_MAX, Listing::Attrs).await?;
        let next = page.entries.last().map(|entry| format!("{:x}", entry.cookie.0)).filter(|_| !page.eof);
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            // What was told came with a lease.
            let attr = entry.attr.inspect(|attr| drop(Lease::adopt(vfs.clone(), attr.ino)));
            if !is_hidden(&entry.name) {
                entries.push(told(&entry.name, attr.as_ref()));
            }
        }
        Ok(ours::told(&json!({
            "writable": self.shared.options.writing.is_some() && (*self.who == Who::Anybody || self.who.may_write()),
            "history": mount.as_tree().is_some(),
            "pins": mount.as_cas().is_some(),
            "cid": own.cid.map(|cid| cid.to_string()),
            "entries": entries,
            "next": next,
        })))
    }
}

/// What nobody else is to see or keep.
fn private(mut response: Response<Body>) -> Response<Body> {
    // What is kept nowhere stays so.
    if response.headers().get(CACHE_CONTROL).is_none_or(|kept| kept != NO_STORE) {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(ASK_AGAIN));
    }
    response.headers_mut().insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Another one with every change; the same whether the mount is asked or what it is a part of.
pub(crate) fn etag(attr: &Attr) -> String {
    let ino = attr.ino.0.get() & ((1 << INO_BITS) - 1);
    format!("\"{:x}-{:x}-{:x}-{:x}\"", ino, attr.change, attr.size, unix_secs(attr.mtime))
}

/// Reads parts of a file. One that grew shorter meanwhile ends with an error: the length was told already.
pub(crate) fn read_node(vfs: Arc<dyn Vfs>, lease: Lease) -> Read {
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
