//! WebDAV (RFC 4918, classes 1, 2 and 3): the namespace written, and listed for programs.
//!
//! ```text
//!   answer --> dav --> headers        how deep, where to, under which conditions
//!               |----> locks          who keeps whom from writing
//!               |----> put, change    PUT; MKCOL, DELETE, COPY, MOVE  --> tree --> muxfs::vfs::Vfs
//!               '----> properties     PROPFIND, PROPPATCH, LOCK       --> xml
//! ```
//!
//! The methods stand beside `GET` at the same addresses, so that a client reads at the address that it was told. All is
//! done over the inodes of the whole namespace: what is written here is seen, and told to mounts, as from any frontend.
//! The protocol is our own and not the crate `dav-server`'s: see spec/adr/0025-webdav.md. Spec: spec/webdav.md.

mod change;
mod headers;
mod locking;
mod locks;
mod properties;
mod put;
mod tree;
mod xml;

use std::sync::Arc;

use axum::{
    body::{Body, BodyDataStream},
    http::{
        HeaderMap, HeaderValue, Method, Response, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG},
        request::Parts,
    },
};
use muxfs::{Cid, Error, ErrorKind, FileKind, Name, Prefix, Result, vfs::Attr};

use self::{
    headers::{If, Of, State},
    locks::Touch,
    tree::{Node, Tree},
};
pub(crate) use self::{locks::Locks, tree::is_hidden};
use crate::{
    access::{self, Who},
    body,
    entity::{http_date, set},
    failure::Failure,
    place,
    server::Shared,
    target::{Target, path_of},
};

/// The classes that are kept to (RFC 4918 18).
pub(crate) const CLASSES: &str = "1, 2, 3";
/// What may be done with what has a name.
pub(crate) const METHODS: &str =
    "OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK";
/// The longest body but a file's, in bytes.
const BODY_LEN_MAX: usize = 64 << 10;
pub(crate) const XML_TYPE: &str = "application/xml; charset=utf-8";

/// Whether a method is one of those that are answered here, and whether it writes.
pub(crate) fn writes(method: &Method) -> Option<bool> {
    match method.as_str() {
        "PROPFIND" => Some(false),
        "PUT" | "DELETE" | "MKCOL" | "COPY" | "MOVE" | "PROPPATCH" | "LOCK" | "UNLOCK" => Some(true),
        _ => None,
    }
}

/// A request, and what it is about.
pub(crate) struct Dav {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tree: Tree,
    who: Who,
    pub(crate) request: Parts,
    pub(crate) target: Target,
}

type Answer = Result<Response<Body>, Failure>;

impl Dav {
    pub(crate) fn new(shared: Arc<Shared>, request: Parts, target: Target, who: Who) -> Option<Self> {
        let writing = shared.options.writing.as_ref()?;
        let tree = Tree {
            vfs: writing.vfs_of(&who),
            sync_names_except: writing.sync_names_except.clone(),
            env: shared.options.env.clone(),
        };
        Some(Self { shared, tree, who, request, target })
    }

    pub(crate) async fn answer(&self, body: &mut BodyDataStream) -> Answer {
        if self.target.parts.iter().any(is_hidden) {
            return Err(Failure::new(StatusCode::FORBIDDEN, "This name is kept for what is not whole yet.", ""));
        }
        let is_theirs = match self.request.method.as_str() {
            // Whoever looks for their home on the way there finds that alone.
            "PROPFIND" => self.who.may_see(self.path()),
            "PUT" | "DELETE" | "MKCOL" | "MOVE" => self.who.may_name(self.path()),
            _ => self.who.may_reach(self.path()),
        };
        if !is_theirs {
            return Err(access::out_of_home());
        }
        match self.request.method.as_str() {
            "PUT" => return self.put(body).await,
            "PROPFIND" => return self.propfind(&self.body(body).await?).await,
            "PROPPATCH" => return self.proppatch(&self.body(body).await?).await,
            "LOCK" => return self.lock(&self.body(body).await?).await,
            _ => {}
        }
        if !self.body(body).await?.is_empty() {
            let why = "The request has a body, and this method takes none.";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why, ""));
        }
        match self.request.method.as_str() {
            "MKCOL" => self.make_dir().await,
            "DELETE" => self.delete().await,
            "COPY" => self.copy().await,
            "MOVE" => self.rename().await,
            "UNLOCK" => self.unlock(),
            _ => Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "There is no such method here.", "")),
        }
    }

    /// A body that is read before anything is done.
    async fn body(&self, body: &mut BodyDataStream) -> Result<Vec<u8>, Failure> {
        body::whole(body, BODY_LEN_MAX, self.shared.options.stall_timeout).await
    }

    /// The next bytes of a body; `None` at its end.
    async fn piece(&self, body: &mut BodyDataStream) -> Result<Option<bytes::Bytes>, Failure> {
        body::piece(body, self.shared.options.stall_timeout).await
    }

    fn path(&self) -> &[Name] {
        &self.target.parts
    }

    /// What the request is about, where there is something.
    async fn there(&self) -> Result<Option<Node>, Failure> {
        self.find(self.path()).await
    }

    async fn find(&self, path: &[Name]) -> Result<Option<Node>, Failure> {
        match self.tree.find(path).await {
            Err(none) if matches!(none.kind(), ErrorKind::NotFound | ErrorKind::NotDir) => Ok(None),
            found => found.map(Some).map_err(failed),
        }
    }

    /// The directory that a path is in, and its name there.
    ///
    /// # Errors
    /// 409 where there is none; 403 for what is no path in a mount.
    async fn place<'a>(&self, path: &'a [Name]) -> Result<(Node, &'a Name), Failure> {
        let Some((name, above)) = path.split_last().filter(|(_, above)| !above.is_empty()) else {
            let why = "The mounts are what the configuration of the server says.";
            return Err(Failure::new(StatusCode::FORBIDDEN, why, "Name something in one of them."));
        };
        match self.find(above).await? {
            Some(dir) if dir.is_dir() => Ok((dir, name)),
            _ => {
                let why = "There is no directory that this could be in.";
                Err(Failure::new(StatusCode::CONFLICT, why, "Make the directories above it first."))
            }
        }
    }

    /// Checks what the request says of the state of things, and who has locked what it touches.
    async fn check(&self, there: Option<&Node>, touched: &[Touch<'_>]) -> Result<(), Failure> {
        let etag = there.map(|node| etag(self.path(), &node.attr));
        let modified = there.and_then(|node| http_date(node.attr.mtime));
        let meant = headers::is_meant(&self.request.headers, etag.as_deref(), modified.as_deref());
        let is_stale = || {
            let why = "What is there is not what the request was made for.";
            Failure::new(StatusCode::PRECONDITION_FAILED, why, "Look at what is there, and ask again.")
        };
        if !meant {
            return Err(is_stale());
        }
        let conditions = If::of(&self.request, &self.shared.options.hosts)?;
        let tokens = conditions.as_ref().map(If::tokens).unwrap_or_default();
        if let Some(conditions) = conditions
            && !self.holds(&conditions).await?
        {
            return Err(is_stale());
        }
        self.shared.locks.check(touched, &tokens).map_err(|path| locked(&path, "lock-token-submitted"))
    }

    /// Checks once more who has locked what a change touches that took long.
    fn check_locks(&self, touched: &[Touch<'_>]) -> Result<(), Failure> {
        let conditions = If::of(&self.request, &self.shared.options.hosts)?;
        let tokens = conditions.as_ref().map(If::tokens).unwrap_or_default();
        self.shared.locks.check(touched, &tokens).map_err(|path| locked(&path, "lock-token-submitted"))
    }

    /// Whether one of the lists of an `If` holds.
    async fn holds(&self, conditions: &If) -> Result<bool, Failure> {
        for list in &conditions.0 {
            let path = match &list.of {
                None => Some(self.path()),
                Some(Of::Here(path)) => Some(&path[..]).filter(|path| self.who.may_reach(path)),
                Some(Of::Elsewhere) => None,
            };
            let (mut tokens, mut tag) = (Vec::new(), None);
            if let Some(path) = path {
                tokens = self.shared.locks.covering(path);
                let is_wanted = list.conditions.iter().any(|(_, state)| matches!(state, State::Etag(_)));
                if is_wanted {
                    tag = self.find(path).await?.map(|node| etag(path, &node.attr));
                }
            }
            let mut each = list.conditions.iter().map(|(wanted, state)| {
                let is = match state {
                    State::Token(token) => tokens.iter().any(|lock| lock.token == *token),
                    State::Etag(expected) => tag.as_ref() == Some(expected),
                };
                is == *wanted
            });
            if each.all(|holds| holds) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The entity tag of what is at a path, as `GET` tells it.
fn etag(path: &[Name], attr: &Attr) -> String {
    let is_content = path.get(1).and_then(Name::as_str).is_some_and(|name| Cid::parse_in_path(name).is_ok());
    match attr.cid.filter(|_| is_content && attr.kind == FileKind::File) {
        Some(cid) => format!("\"{cid}\""),
        None => place::etag(attr),
    }
}

/// The address of a path: with a slash at its end for a directory.
fn href(path: &[Name], is_dir: bool) -> String {
    let path = path_of(path);
    if is_dir { path + "/" } else { path }
}

/// What a change that failed is told as.
fn failed(error: Error) -> Failure {
    let status = match error.kind() {
        ErrorKind::ReadOnly => Some(StatusCode::FORBIDDEN),
        ErrorKind::NotFound | ErrorKind::NotDir | ErrorKind::Stale => Some(StatusCode::CONFLICT),
        ErrorKind::TooLarge => Some(StatusCode::PAYLOAD_TOO_LARGE),
        _ => None,
    };
    let failure = Failure::from(error);
    Failure { status: status.unwrap_or(failure.status), ..failure }
}

/// Something is locked; `condition` is what RFC 4918 16 calls it.
fn locked(path: &[Name], condition: &str) -> Failure {
    let href = xml::escape(&path_of(path));
    let failure = Failure::new(StatusCode::LOCKED, "Another program has locked this.", "Wait until it is done.");
    failure.with_condition(format!("<D:{condition}><D:href>{href}</D:href></D:{condition}>"))
}

/// An answer that is told by its status alone.
fn done(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

/// An answer in XML.
fn told(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    set(response.headers_mut(), CONTENT_LENGTH, &text.len().to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(XML_TYPE));
    *response.body_mut() = Body::from(text);
    response
}

fn tell_etag(headers: &mut HeaderMap, path: &[Name], attr: &Attr) {
    set(headers, ETAG, &etag(path, attr));
}

/// The mount that a path is in.
fn mount_of(path: &[Name]) -> Option<Prefix> {
    Prefix::new(path.first()?.as_str()?).ok()
}
