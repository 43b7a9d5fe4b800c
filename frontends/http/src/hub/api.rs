//! What programs read of a hub, in the shapes that clients of 0-hub take. Spec: spec/hub.md #reading.

use std::{fmt::Write as _, io, path::Path, time::Duration};

use axum::{
    body::Body,
    http::{
        HeaderMap, Response, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
        request::Parts,
    },
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use muxfs::{Error, ErrorKind, FileKind};
use serde_json::{Map, Value, json};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    Flists, Hub, blocking,
    names::{Form, TAG, address},
    receive::refused,
    shelf::{Kind, Result, Shelved, Spot, absent, failed, stamp},
    turn,
};
use crate::{
    entity::{Entity, Read, set},
    failure::Failure,
    ours::told,
    page::NO_STORE,
};

/// So much text of a list is sent at a time, in bytes.
const SENT_LEN: usize = 64 << 10;
/// How long the whole of one may take, to its last byte.
const CONTENT_TIME_MAX: Duration = Duration::from_mins(5);
/// The most flists that are listed, and found, at once.
const LIST_COUNT_MAX: usize = 100_000;
/// The longest file of signatures that is read, in bytes.
const SIGNATURES_LEN_MAX: u64 = 16 << 10;

/// How much of what there is, as zflist tells it.
#[derive(Debug, Clone, Copy, Default)]
struct Stats {
    regular: u64,
    symlink: u64,
    directory: u64,
    special: u64,
    fullsize: u64,
}

impl Stats {
    fn add(&mut self, kind: FileKind, size: u64) {
        match kind {
            FileKind::File => {
                self.regular += 1;
                self.fullsize = self.fullsize.saturating_add(size);
            }
            FileKind::Dir => self.directory += 1,
            FileKind::Symlink => self.symlink += 1,
            _ => self.special += 1,
        }
    }

    fn value(self) -> Value {
        let Self { regular, symlink, directory, special, fullsize } = self;
        json!({
            "regular": regular, "symlink": symlink, "directory": directory, "special": special, "failure": 0,
            "fullsize": fullsize,
        })
    }
}

/// Counts what is in an flist.
pub(super) fn stats(flists: &dyn Flists, file: &Path) -> muxfs::Result<Value> {
    let mut stats = Stats::default();
    flists.walk(file, &mut |_, node| {
        stats.add(node.kind, node.size);
        true
    })?;
    Ok(stats.value())
}

impl Hub {
    pub(super) fn repositories(&self) -> Result<Value> {
        let all = self.0.shelf.repositories()?;
        let official = &self.0.options.official;
        let value = |(name, updated)| json!({ "official": official.contains(&name), "name": name, "updated": updated });
        Ok(all.into_iter().map(value).collect())
    }

    /// All flists as `REPOSITORY/NAME` that have some text in them, in any case.
    pub(super) fn named(&self, text: &str, count_max: usize) -> Result<Vec<String>> {
        let (text, mut names) = (text.to_lowercase(), Vec::new());
        for (repository, _) in self.0.shelf.repositories()? {
            let Some(list) = self.listed(&repository) else { continue };
            for there in list {
                let name = format!("{repository}/{}", there.name);
                if matches!(there.kind, Kind::Regular | Kind::Symlink(..)) && name.to_lowercase().contains(&text) {
                    names.push(name);
                }
                if names.len() == count_max {
                    return Ok(names);
                }
            }
        }
        Ok(names)
    }

    /// What is in a repository, for who asks about all: one that cannot be listed hides no other.
    fn listed(&self, repository: &str) -> Option<Vec<Shelved>> {
        let listed = self.0.shelf.list(repository);
        listed.map_err(|failure| tracing::warn!(repository, why = %failure.why, "a repository is passed over")).ok()
    }

    pub(super) fn all(&self, text: &str) -> Result<Value> {
        self.named(text, LIST_COUNT_MAX).map(Value::from)
    }

    /// What is in all repositories.
    pub(super) fn lists(&self) -> Result<Value> {
        let (mut lists, mut count) = (Map::new(), 0);
        for (repository, _) in self.0.shelf.repositories()? {
            let Some(list) = self.listed(&repository) else { continue };
            count += list.len();
            if count > LIST_COUNT_MAX {
                let why = "There are too many flists for one answer: ask for each repository.";
                return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, why, ""));
            }
            lists.insert(repository, list.iter().map(value).collect());
        }
        Ok(Value::Object(lists))
    }

    pub(super) fn list(&self, repository: &str) -> Result<Value> {
        Ok(self.0.shelf.list(repository)?.iter().map(value).collect())
    }

    pub(super) fn tagged(&self, repository: &str, tag: &str) -> Result<Value> {
        Ok(self.0.shelf.tagged(repository, tag)?.iter().map(value).collect())
    }

    /// What is known of an flist without reading what is in it.
    pub(super) fn light(&self, spot: &Spot) -> Result<Value> {
        let there = self.0.shelf.about(spot)?;
        let mut value = json!({ "name": there.name, "size": there.len, "updated": there.mtime, "type": "regular" });
        // A link that leads nowhere has none.
        value["md5"] = match self.0.shelf.file(spot) {
            Ok(file) => self.0.shelf.md5(&file)?.into(),
            Err(_) => Value::Null,
        };
        if let Kind::Symlink(target, linked) = there.kind {
            value["type"] = "symlink".into();
            value["linktime"] = linked.into();
            value["target"] = target.into();
        }
        Ok(value)
    }

    pub(super) fn tag_link(&self, repository: &str, link: &str) -> Result<Value> {
        self.0.shelf.tag_link(repository, link).map(|target| json!({ "target": cleaned(&target) }))
    }

    pub(super) fn metadata(&self, spot: &Spot) -> Result<Value> {
        let found = self.0.flists.look(&self.0.shelf.file(spot)?)?;
        // What is JSON is told as such.
        let value = |text: String| match serde_json::from_str(&text) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
            _ => text.into(),
        };
        Ok(Value::Object(found.metadata.into_iter().map(|(key, text)| (key, value(text))).collect()))
    }

    /// Everything that is in an flist, told while it is read.
    pub(super) async fn content(&self, spot: Spot) -> Result<Response<Body>> {
        let turn = turn(&self.0.contents).await?;
        // A piece, and whether it is the last.
        let (send, mut receive) = mpsc::channel::<Result<(Bytes, bool), Error>>(2);
        let path = self.read(move |hub| hub.0.shelf.file(&spot)).await?;
        let (flists, runtime, end) = (self.0.flists.clone(), Handle::current(), Instant::now() + CONTENT_TIME_MAX);
        // Whether there is somebody who takes it, and in time: the turn is one of few.
        let tell = move |piece| runtime.block_on(timeout_at(end, send.send(piece))).is_ok_and(|sent| sent.is_ok());
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let (mut text, mut stats, mut separator) = (String::from("{\"content\": ["), Stats::default(), "");
            let mut is_taken = true;
            let walked = flists.walk(&path, &mut |path, node| {
                stats.add(node.kind, node.size);
                let path = Value::from(String::from_utf8_lossy(path));
                _ = write!(text, "{separator}{{\"size\": {}, \"path\": {path}}}", node.size);
                separator = ", ";
                is_taken = text.len() < SENT_LEN || tell(Ok((std::mem::take(&mut text).into(), false)));
                is_taken
            });
            if is_taken {
                let rest = stats.value().to_string();
                tell(walked.map(|()| (format!("{text}], {}\n", rest.trim_start_matches('{')).into(), true)));
            }
        });
        // What cannot be read from its beginning on is a status, and not an answer that breaks off.
        let cut = || Error::new(ErrorKind::Unavailable, "http.hub").because("it was not told to its end");
        let first = receive.recv().await.unwrap_or_else(|| Err(cut())).map_err(refused)?;
        let rest = stream::try_unfold((receive, first.1), move |(mut receive, is_last)| async move {
            if is_last {
                return Ok(None);
            }
            let (piece, is_last) = receive.recv().await.unwrap_or_else(|| Err(cut()))?;
            Ok(Some((piece, (receive, is_last))))
        });
        let pieces =
            stream::iter([Ok(first.0)]).chain(rest).map(|piece: Result<_, Error>| piece.map_err(io::Error::other));
        Ok(headed(Body::from_stream(pieces), "application/json"))
    }

    /// What is at `/REPOSITORY/FLIST…`, but for pages.
    pub(super) async fn by_address(
        &self,
        spot: Spot,
        form: Form,
        request: &Parts,
        random: &str,
    ) -> Result<Response<Body>> {
        let asked = spot.clone();
        let path = self.read(move |hub| hub.0.shelf.file(&asked)).await?;
        let text = |text: String| headed(Body::from(text), "text/plain; charset=utf-8");
        if form == Form::File {
            return file(path, request, random).await;
        }
        if form == Form::Signatures {
            let mut beside = path.into_os_string();
            beside.push(".sig");
            let read = move || {
                let about = std::fs::metadata(&beside).map_err(|_| absent("signature"))?;
                if about.len() > SIGNATURES_LEN_MAX {
                    return Err(absent("signature"));
                }
                std::fs::read_to_string(&beside).map_err(failed)
            };
            return self.read(move |_| read()).await.map(text);
        }
        let md5 = self.read(move |hub| hub.0.shelf.md5(&path)).await?;
        let Spot { repository, flist, .. } = &spot;
        let storage = self.0.options.storage.as_deref();
        let source = format!("/{repository}/{flist}");
        Ok(match form {
            Form::Json => told(&json!({
                "flist": flist, "uploader": repository, "source": source, "storage": storage, "checksum": md5,
            })),
            Form::Text => text(format!(
                "File:     {flist}\nUploader: {repository}\nSource:   {source}\nStorage:  {}\nChecksum: {md5}\n",
                storage.unwrap_or("-")
            )),
            _ => text(md5 + "\n"),
        })
    }
}

fn headed(body: Body, content_type: &str) -> Response<Body> {
    let mut response = Response::new(body);
    for (name, value) in [(CONTENT_TYPE, content_type), (CACHE_CONTROL, NO_STORE), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
    {
        set(response.headers_mut(), name, value);
    }
    response
}

/// The file of an flist, with ranges and conditions.
async fn file(path: std::path::PathBuf, request: &Parts, random: &str) -> Result<Response<Body>> {
    let open = move || {
        let file = std::fs::File::open(path)?;
        let about = file.metadata()?;
        Ok((file, about))
    };
    let (file, about) = blocking(move || open().map_err(failed)).await?;
    let (dev, ino, len, secs, nanos) = stamp(&about);
    let file = std::sync::Arc::new(file);
    let read: Read = Box::new(move |range| {
        let state = (file.clone(), range);
        let pieces = stream::try_unfold(state, |(file, range)| async move {
            let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX).min(4 * SENT_LEN);
            if len == 0 {
                return Ok(None);
            }
            let (from, reader) = (range.start, file.clone());
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; len];
                std::os::unix::fs::FileExt::read_exact_at(&*reader, &mut piece, from).map(|()| piece)
            });
            let failed = |error: io::Error| Error::new(ErrorKind::Io, "http.hub").because(error);
            let piece = read.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
            Ok(Some((Bytes::from(piece), (file, from + len as u64..range.end))))
        });
        pieces.boxed()
    });
    let mut headers = HeaderMap::new();
    set(&mut headers, CACHE_CONTROL, "no-cache");
    let entity = Entity {
        len,
        content_type: "application/octet-stream".into(),
        etag: format!("\"{dev:x}-{ino:x}-{len:x}-{secs:x}-{nanos:x}\""),
        modified: about.modified().ok(),
        headers,
        read,
    };
    entity.answer(request, || random.to_owned()).await
}

/// What is in a repository, as it is told.
fn value(there: &Shelved) -> Value {
    let Shelved { name, mtime, .. } = there;
    let hundredths = u128::from(there.len) * 100 / 1024;
    let size = format!("{}.{:02} KB", hundredths / 100, hundredths % 100);
    match &there.kind {
        Kind::Regular => json!({ "name": name, "size": size, "updated": mtime, "type": "regular" }),
        Kind::Tag => json!({ "name": name, "size": "0 KB", "updated": mtime, "type": "tag" }),
        Kind::Symlink(target, linked) | Kind::TagLink(target, linked) => json!({
            "name": name, "size": size, "updated": mtime, "linktime": linked, "target": cleaned(target),
            "type": if matches!(there.kind, Kind::TagLink(..)) { "taglink" } else { "symlink" },
        }),
    }
}

/// Where a symlink leads, as an address.
pub(super) fn cleaned(target: &str) -> String {
    target.replace("../", "").replace(TAG, "tags/")
}

/// What an address that is no page asks for.
pub(super) fn addressed(repository: &str, tag: Option<&str>, part: &str) -> Result<(Spot, Form)> {
    let (flist, form) = address(part).ok_or_else(|| absent("source"))?;
    let spot = Spot::new(repository, &flist)?;
    Ok((tag.map_or(Ok(spot.clone()), |tag| spot.tagged(tag))?, form))
}
