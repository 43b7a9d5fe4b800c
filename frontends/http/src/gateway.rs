//! What has a CID: `/PREFIX/CID[/path]`, as blocks, as files, as directories, as linked data.
//!
//! Everything comes out of a [`Dag`], which verifies each block before anybody sees it. Bounded: a path by its parts, a
//! list by [`LIST_COUNT_MAX`], a stream by what is fetched ahead. Spec: spec/http.md.

use std::ops::Range;

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
        header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS},
        request::Parts,
    },
};
use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use muxfs::{
    Cid, Codec, Error, ErrorKind, FileKind, Name, Result, car,
    dag::{Dag, Entry, Ipld, Node, Resolved, json, linked, murmur3_x64_64, pb::PbNode, unixfs::UnixfsData},
};

use crate::{
    car::Selection,
    entity::{Entity, IMMUTABLE, Read, disposition, is_unchanged, read_bytes, set},
    failure::Failure,
    format::{Format, Wanted},
    guard, media_type,
    page::{self, INDEX, LIST_COUNT_MAX, List, Row},
    site::{PARTS_OF_HOST, Site},
    tar,
    target::{Target, path_of},
};

/// How much of linked data a page shows, in bytes, and how many of its links.
const PREVIEW_LEN_MAX: usize = 256 << 10;
const PREVIEW_LINK_COUNT_MAX: usize = 1000;
/// Blocks that hold one value, of codecs that have no links.
const JSON_CODE: u64 = 0x0200;
const CBOR_CODE: u64 = 0x51;

const X_IPFS_PATH: HeaderName = HeaderName::from_static("x-ipfs-path");
const X_IPFS_ROOTS: HeaderName = HeaderName::from_static("x-ipfs-roots");

/// A request for something with a CID.
pub(crate) struct Gateway<'a> {
    pub(crate) dag: &'a Dag,
    pub(crate) target: &'a Target,
    pub(crate) request: &'a Parts,
    pub(crate) boundary: &'a (dyn Fn() -> String + Sync),
    pub(crate) wanted: Wanted,
    /// Whose origin it is on, where that is not the one that all content shares.
    pub(crate) site: Option<&'a Site>,
}

/// Where a path led.
struct Place {
    end: Resolved,
    /// The CID of the root, and of each part of the path that led to a block of its own.
    roots: Vec<Cid>,
}

impl Gateway<'_> {
    /// Answers it: `cid` is what the path begins with, `below` what follows.
    pub(crate) async fn answer(&self, cid: Cid, below: &[Name]) -> Result<Response<Body>, Failure> {
        self.check()?;
        let found = match self.resolve(cid, below).await {
            // The only form in which a value inside a block has an answer: the block, which has it.
            Ok(place) if self.wanted.format == Some(Format::Car) => self.car(&place, &cid, below).await,
            Ok(place) => self.answer_at(&place).await,
            Err(error) => Err(error.into()),
        };
        found.map_err(|failure| {
            if failure.status == StatusCode::NOT_FOUND && guard::only_if_cached(&self.request.headers) {
                return Failure::new(StatusCode::PRECONDITION_FAILED, failure.why, "Ask without only-if-cached.");
            }
            failure
        })
    }

    fn check(&self) -> Result<(), Failure> {
        let is_worker = self.request.headers.get("service-worker").is_some_and(|value| value == "script");
        if is_worker && self.site.is_none() && self.target.parts.len() <= 2 {
            let why = "A service worker of a whole CID would see what other pages of this origin do.";
            return Err(Failure::bad(why, "Put it into a directory of the site."));
        }
        if self.wanted.format == Some(Format::IpnsRecord) {
            return Err(Failure::bad("An IPNS record is of a name, and this is a CID.", ""));
        }
        Ok(())
    }

    async fn resolve(&self, root: Cid, below: &[Name]) -> Result<Place> {
        let (end, roots) = self.dag.resolve_roots(&root, below).await?;
        Ok(Place { end, roots })
    }

    async fn answer_at(&self, place: &Place) -> Result<Response<Body>, Failure> {
        if !place.end.within.is_empty() {
            let why = "The path ends at a value inside a block, which has no answer of its own.";
            let advice = "Ask for the block, with a shorter path.";
            return Err(Failure::new(StatusCode::NOT_IMPLEMENTED, why, advice));
        }
        let cid = place.end.cid;
        match (self.wanted.format, cid.codec(), cid.codec_code()) {
            (Some(Format::Raw), ..) => self.raw(place).await,
            (Some(Format::Tar), Some(Codec::Raw | Codec::DagPb), _) => self.tar(place).await,
            (_, Some(Codec::Raw | Codec::DagPb), _) => self.unixfs(place).await,
            (_, Some(Codec::DagJson), _) => self.value(place, Format::DagJson, Format::Json).await,
            (_, Some(Codec::DagCbor), _) => self.value(place, Format::DagCbor, Format::Cbor).await,
            (_, None, JSON_CODE) => self.value(place, Format::Json, Format::Json).await,
            (_, None, CBOR_CODE) => self.value(place, Format::Cbor, Format::Cbor).await,
            (_, None, code) => {
                // A block that is absent is that first of all.
                self.dag.get_block(&cid).await?;
                Err(Failure::not_acceptable(format!(
                    "The block has the codec {code:#x}, which has no form of its own."
                )))
            }
        }
    }

    /// The headers of everything that a path leads to.
    fn headers(&self, place: &Place) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(IMMUTABLE));
        set(&mut headers, X_IPFS_PATH, &self.target.path());
        let roots: Vec<String> = place.roots.iter().map(Cid::to_string).collect();
        set(&mut headers, X_IPFS_ROOTS, &roots.join(","));
        headers
    }

    fn is_download(&self) -> bool {
        self.target.query.get("download") == Some("true")
    }

    fn filename(&self) -> Option<&str> {
        self.target.query.get("filename").filter(|name| !name.is_empty())
    }

    async fn send(&self, entity: Entity) -> Result<Response<Body>, Failure> {
        entity.answer(self.request, self.boundary).await
    }

    /// A block as it is.
    async fn raw(&self, place: &Place) -> Result<Response<Body>, Failure> {
        let cid = place.end.cid;
        let block = self.dag.get_block(&cid).await?;
        let mut headers = self.headers(place);
        let bin = format!("{cid}.bin");
        set(&mut headers, CONTENT_DISPOSITION, &disposition(true, self.filename().unwrap_or(&bin)));
        self.send(Entity {
            len: block.len() as u64,
            content_type: Format::Raw.media_type().to_owned(),
            etag: format!("\"{cid}.raw\""),
            modified: None,
            headers,
            read: read_bytes(block),
        })
        .await
    }

    /// A block of linked data in its own codec, `native`, which a plain one may stand for.
    async fn value(&self, place: &Place, native: Format, plain: Format) -> Result<Response<Body>, Failure> {
        let cid = place.end.cid;
        let block = self.dag.get_block(&cid).await?;
        let format = match self.wanted.format {
            None if self.wanted.html && native != plain => return self.preview(place, &block),
            None => native,
            Some(format) if format == native || format == plain => format,
            Some(_) if !self.wanted.is_in_query && self.wanted.or_other => native,
            Some(format) => {
                let (wanted, native) = (format.name(), native.name());
                return Err(Failure::not_acceptable(format!(
                    "The block is {native}, and is not converted to {wanted}."
                )));
            }
        };
        let mut headers = self.headers(place);
        let is_json = plain == Format::Json;
        let name = format!("{cid}.{}", plain.name());
        let disposition = disposition(!is_json || self.is_download(), self.filename().unwrap_or(&name));
        set(&mut headers, CONTENT_DISPOSITION, &disposition);
        self.send(Entity {
            len: block.len() as u64,
            content_type: format.media_type().to_owned(),
            etag: format!("\"{cid}.{}\"", format.name()),
            modified: None,
            headers,
            read: read_bytes(block),
        })
        .await
    }

    /// Linked data on a page.
    fn preview(&self, place: &Place, block: &Bytes) -> Result<Response<Body>, Failure> {
        let cid = place.end.cid;
        let etag = page::etag("DagIndex", &cid, "");
        if page::is_known(self.request, &etag) {
            return Ok(self.with_place(page::answer(Some(&etag), None), place));
        }
        let codec = cid.codec().unwrap_or(Codec::Raw);
        let value = linked::decode(codec, block).map_err(|error| error.at(cid))?;
        let text = json::encode(&value).map_err(|error| error.at(cid))?;
        let shown = String::from_utf8_lossy(text.get(..PREVIEW_LEN_MAX).unwrap_or(&text));
        let mut links = Vec::new();
        collect_links(&value, &mut links);
        let page = page::preview(
            &format!("{}/{}", self.others(), self.prefix()),
            &cid,
            &shown,
            text.len() > PREVIEW_LEN_MAX,
            &links,
        );
        Ok(self.with_place(page::answer(Some(&etag), Some(page)), place))
    }

    /// Where other content is: on the origin that all of it shares.
    fn others(&self) -> &str {
        self.site.map_or("", |site| &site.others)
    }

    /// How many parts of the path the name of the host says.
    fn of_host(&self) -> usize {
        if self.site.is_some() { PARTS_OF_HOST } else { 0 }
    }

    fn prefix(&self) -> &str {
        self.target.parts.first().and_then(Name::as_str).unwrap_or_default()
    }

    fn with_place(&self, mut page: Response<Body>, place: &Place) -> Response<Body> {
        for (name, value) in self.headers(place) {
            if let Some(name) = name.filter(|name| *name != CACHE_CONTROL) {
                page.headers_mut().insert(name, value);
            }
        }
        page
    }

    /// A file, a directory or a symlink.
    async fn unixfs(&self, place: &Place) -> Result<Response<Body>, Failure> {
        let cid = place.end.cid;
        let block = self.dag.get_block(&cid).await?;
        if cid.codec() == Some(Codec::DagPb) && !is_unixfs(&block)? {
            return Err(Failure::not_acceptable("The block is dag-pb, and neither a file nor a directory."));
        }
        let node = self.dag.stat(&cid).await?;
        let is_ruled_out = match self.wanted.format {
            Some(Format::DagJson | Format::DagCbor) => true,
            Some(Format::Json | Format::Cbor) => node.kind == FileKind::Dir,
            _ => false,
        };
        if is_ruled_out && (self.wanted.is_in_query || !self.wanted.or_other) {
            let wanted = self.wanted.format.map(Format::name).unwrap_or_default();
            return Err(Failure::not_acceptable(format!("Files and directories are not converted to {wanted}.")));
        }
        match node.kind {
            FileKind::Dir => self.dir(place).await,
            FileKind::Symlink => self.symlink(place, node).await,
            _ => self.file(place, cid, node, format!("\"{cid}\""), None).await,
        }
    }

    /// A file or a directory as an archive.
    async fn tar(&self, place: &Place) -> Result<Response<Body>, Failure> {
        let cid = place.end.cid;
        if cid.codec() == Some(Codec::DagPb) && !is_unixfs(&self.dag.get_block(&cid).await?)? {
            return Err(Failure::not_acceptable("The block is dag-pb, and neither a file nor a directory."));
        }
        let begin = async { Ok((format!("{cid}.tar"), tar::stream(self.dag, &cid).await?)) };
        self.archive(place, &format!("W/\"{cid}.x-tar\""), Format::Tar.media_type(), begin).await
    }

    /// The blocks that prove the path `below` from `root`, and those that are wanted where it ends.
    async fn car(&self, place: &Place, root: &Cid, below: &[Name]) -> Result<Response<Body>, Failure> {
        let selection = Selection::of(&self.target.query, &self.wanted)?;
        let begin = async {
            let export = self.dag.export(root, below, &selection.options()).await?;
            Ok((format!("{}.car", export.end().cid), car::stream(export)))
        };
        self.archive(place, &selection.etag(root, self.target), selection.content_type(), begin).await
    }

    /// An archive, whose length nobody knows: `begin` gives its name and its bytes, and is not asked where they are known.
    async fn archive(
        &self,
        place: &Place,
        etag: &str,
        content_type: &'static str,
        begin: impl Future<Output = Result<(String, BoxStream<'static, Result<Bytes>>)>>,
    ) -> Result<Response<Body>, Failure> {
        let mut response = Response::new(Body::empty());
        let mut headers = self.headers(place);
        set(&mut headers, ETAG, etag);
        if is_unchanged(&self.request.headers, etag, None) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.headers_mut() = headers;
            return Ok(response);
        }
        let (name, archive) = begin.await?;
        set(&mut headers, CONTENT_DISPOSITION, &disposition(true, self.filename().unwrap_or(&name)));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        *response.headers_mut() = headers;
        if self.request.method != Method::HEAD {
            *response.body_mut() = streamed(archive).await?;
        }
        Ok(response)
    }

    async fn symlink(&self, place: &Place, node: Node) -> Result<Response<Body>, Failure> {
        let cid = place.end.cid;
        let target = self.dag.read_symlink(&cid).await?;
        self.send(Entity {
            len: target.len() as u64,
            content_type: "inode/symlink".to_owned(),
            etag: format!("\"{cid}\""),
            modified: node.mtime,
            headers: self.headers(place),
            read: read_bytes(target),
        })
        .await
    }

    /// A file; `name` where it is another than that of the path.
    async fn file(
        &self,
        place: &Place,
        cid: Cid,
        node: Node,
        etag: String,
        name: Option<&str>,
    ) -> Result<Response<Body>, Failure> {
        let mut headers = self.headers(place);
        let of_path = self.target.parts.get(2..).and_then(<[Name]>::last).map(Name::to_string);
        let name = self.filename().or(name).or(of_path.as_deref());
        if self.filename().is_some() || self.is_download() {
            let cid = cid.to_string();
            set(&mut headers, CONTENT_DISPOSITION, &disposition(self.is_download(), name.unwrap_or(&cid)));
        }
        let content_type = match self.wanted.format {
            Some(format) if self.wanted.is_in_query => format.media_type(),
            _ => match name.and_then(media_type::of_name) {
                Some(known) => known,
                None => self.sniff(&cid, node.size).await?,
            },
        };
        self.send(Entity {
            len: node.size,
            content_type: content_type.to_owned(),
            etag,
            modified: node.mtime,
            headers,
            read: read_file(self.dag.clone(), cid),
        })
        .await
    }

    /// What a file is, by how it begins.
    async fn sniff(&self, cid: &Cid, len: u64) -> Result<&'static str> {
        match self.dag.read_at(cid, 0, media_type::SNIFFED_LEN).await {
            Ok(beginning) => Ok(media_type::of_content(&beginning, beginning.len() as u64 == len)),
            // A part that is here is served without what is not.
            Err(error) if error.kind() == ErrorKind::NotFound && self.request.headers.contains_key("range") => {
                Ok("application/octet-stream")
            }
            Err(error) => Err(error),
        }
    }

    /// A directory: its index, or a list.
    async fn dir(&self, place: &Place) -> Result<Response<Body>, Failure> {
        let cid = place.end.cid;
        if !self.target.is_dir {
            let parts = self.target.parts.get(self.of_host()..).unwrap_or_default();
            return Ok(page::to_dir(parts, &self.target.query));
        }
        let index = Name::new(INDEX.as_bytes())?;
        if let Some(entry) = self.dag.lookup(&cid, &index).await? {
            let node = self.dag.stat(&entry.link.cid).await?;
            if node.kind == FileKind::File {
                return self.file(place, entry.link.cid, node, format!("\"{cid}\""), Some(INDEX)).await;
            }
        }
        let from = page::from(self.target)?;
        let etag = page::etag("DirIndex", &cid, &format!("{}{from:x}", path_of(&self.target.parts)));
        if page::is_known(self.request, &etag) {
            return Ok(self.with_place(page::answer(Some(&etag), None), place));
        }
        let mut entries: Vec<_> = self.dag.list(&cid, from).take(LIST_COUNT_MAX + 1).try_collect().await?;
        let next = entries.get(LIST_COUNT_MAX).map(|entry| murmur3_x64_64(entry.name.as_bytes()));
        entries.truncate(LIST_COUNT_MAX);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let row = |entry: Entry| Row {
            name: entry.name,
            cid: Some(entry.link.cid),
            size: Some(entry.link.tsize),
            is_dir: false,
        };
        let rows = entries.into_iter().map(row);
        let list = List {
            parts: &self.target.parts,
            rows: rows.collect(),
            next,
            is_first: from == 0,
            top: 2,
            others: self.others(),
            of_host: self.of_host(),
        };
        Ok(self.with_place(page::answer(Some(&etag), Some(list.html())), place))
    }
}

/// Whether a dag-pb block is `UnixFS`.
fn is_unixfs(block: &Bytes) -> Result<bool> {
    Ok(PbNode::decode(block)?.data.is_some_and(|data| UnixfsData::decode(&data).is_ok()))
}

fn collect_links(value: &Ipld, links: &mut Vec<Cid>) {
    match value {
        Ipld::Link(cid) if links.len() < PREVIEW_LINK_COUNT_MAX => links.push(**cid),
        Ipld::List(values) => values.iter().for_each(|value| collect_links(value, links)),
        Ipld::Map(values) => values.values().for_each(|value| collect_links(value, links)),
        _ => {}
    }
}

/// A body of bytes as they come, once the first of them are there. What fails later breaks the answer off.
pub(crate) async fn streamed(mut bytes: BoxStream<'static, Result<Bytes>>) -> Result<Body, Failure> {
    let first = bytes.next().await.transpose()?;
    let rest = bytes.inspect(|piece| {
        if let Err(error) = piece {
            tracing::warn!(error = format!("{error:#}"), "HTTP: a stream breaks off");
        }
    });
    Ok(Body::from_stream(stream::iter(first.map(Ok::<_, Error>)).chain(rest)))
}

/// Reads parts of a file, which stays whole meanwhile whatever is collected.
fn read_file(dag: Dag, cid: Cid) -> Read {
    Box::new(move |range: Range<u64>| {
        let lease = dag.lease(&cid);
        let bytes = dag.range_reader(&cid, range);
        bytes
            .map(move |piece: Result<Bytes, Error>| {
                // Held for as long as anything is read.
                let _ = &lease;
                piece.inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "HTTP: a stream breaks off"))
            })
            .boxed()
    })
}
