//! `LOCK` and `UNLOCK`, and what properties tell of locks.

use axum::{
    body::Body,
    http::{HeaderName, Response, StatusCode},
};
use muxfs::{ErrorKind, vfs::NewNode, vfs::SetAttr};
use tokio::time::Instant;

use super::{
    Answer, Dav, Touch, done, failed,
    headers::{self, Depth, If},
    href, locked,
    locks::{Lock, Refused},
    put::FILE_MODE,
    told, xml,
};
use crate::{entity::set, failure::Failure};

const LOCK_TOKEN: HeaderName = HeaderName::from_static("lock-token");
/// The longest that an owner of a lock says of themselves, in bytes.
const OWNER_LEN_MAX: usize = 4096;

impl Dav {
    pub(super) async fn lock(&self, body: &[u8]) -> Answer {
        let time = headers::timeout(&self.request.headers)?;
        if body.is_empty() {
            return self.refresh(time).await;
        }
        let is_deep = match headers::depth(&self.request.headers)? {
            Depth::Zero => false,
            Depth::Infinity => true,
            Depth::One => return Err(Failure::bad("A lock goes to Depth 0 or infinity.", "")),
        };
        let bad = |why: &str| Failure::bad(format!("The body asks for no lock: {why}."), "See RFC 4918 9.10.");
        let wanted = xml::parse(body).map_err(bad)?;
        if wanted.name.as_dav() != Some("lockinfo") {
            return Err(bad("it is no lockinfo"));
        }
        let scope = wanted.dav("lockscope").ok_or_else(|| bad("it has no lockscope"))?;
        let is_shared = match (scope.dav("exclusive"), scope.dav("shared")) {
            (Some(_), None) => false,
            (None, Some(_)) => true,
            _ => return Err(bad("a lock is exclusive or shared")),
        };
        if wanted.dav("locktype").and_then(|kind| kind.dav("write")).is_none() {
            return Err(bad("a lock is for writing"));
        }
        let mut owner = String::new();
        if let Some(element) = wanted.dav("owner") {
            element.write("", &mut owner);
        }
        if owner.len() > OWNER_LEN_MAX {
            return Err(bad("its owner says too much"));
        }
        let (path, there) = (self.path(), self.there().await?);
        // A lock on what is not there makes it, so that nobody else does (RFC 4918 7.3).
        let new = if there.is_none() { Some(self.place(path).await?) } else { None };
        let touched = new.as_ref().map(|_| Touch::Tree(path));
        self.check(there.as_ref(), touched.as_slice()).await?;
        let lock = Lock {
            token: self.new_token(),
            path: path.to_vec(),
            is_deep: is_deep && there.as_ref().is_some_and(super::Node::is_dir),
            is_shared,
            owner,
            until: Instant::now() + time,
        };
        let lock = self.shared.locks.take(lock).map_err(|refused| match refused {
            Refused::Locked(path) => locked(&path, "no-conflicting-lock"),
            Refused::TooMany => {
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, "There are too many locks.", "Try again in a while.")
            }
        })?;
        let mut status = StatusCode::OK;
        if let Some((dir, name)) = new {
            let set = SetAttr { mode: Some(FILE_MODE), ..SetAttr::default() };
            let made = self.tree.vfs.create(dir.ino(), name, NewNode::File, set).await;
            let made = match made {
                Err(there) if there.kind() == ErrorKind::Exists => Ok(()),
                Ok(made) => {
                    self.tree.vfs.release(made.node.ino, 1);
                    self.tree.sync_names(&dir).await
                }
                Err(other) => Err(other),
            };
            if let Err(error) = made {
                self.shared.locks.give_back(path, &lock.token);
                return Err(failed(error));
            }
            status = StatusCode::CREATED;
        }
        let mut response = tell(status, &lock);
        set(response.headers_mut(), LOCK_TOKEN, &format!("<{}>", lock.token));
        Ok(response)
    }

    async fn refresh(&self, time: std::time::Duration) -> Answer {
        self.check(self.there().await?.as_ref(), &[]).await?;
        let tokens = If::of(&self.request, &self.shared.options.hosts)?.as_ref().map(If::tokens).unwrap_or_default();
        if tokens.is_empty() {
            return Err(Failure::bad("The request asks for no lock, and names none.", "Name it in the header If."));
        }
        let lock = self.shared.locks.refresh(self.path(), &tokens, time).ok_or_else(|| {
            let why = "The lock is not there, or not any more.";
            Failure::new(StatusCode::PRECONDITION_FAILED, why, "Ask for another one.")
                .with_condition("<D:lock-token-matches-request-uri/>".to_owned())
        })?;
        Ok(tell(StatusCode::OK, &lock))
    }

    pub(super) fn unlock(&self) -> Answer {
        if self.shared.locks.give_back(self.path(), headers::lock_token(&self.request.headers)?) {
            return Ok(done(StatusCode::NO_CONTENT));
        }
        let why = "No lock with this token is on what is here.";
        let failure = Failure::new(StatusCode::CONFLICT, why, "It may have ended with its time.");
        Err(failure.with_condition("<D:lock-token-matches-request-uri/>".to_owned()))
    }

    /// A version 4 UUID (RFC 9562), which nobody guesses.
    fn new_token(&self) -> String {
        let mut random = [0; 16];
        (self.shared.options.env.fill)(&mut random);
        let bits = u128::from_be_bytes(random) & !(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let hex = format!("{bits:032x}");
        let part = |range| hex.get(range).unwrap_or_default();
        format!("urn:uuid:{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
    }
}

fn tell(status: StatusCode, lock: &Lock) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:prop xmlns:D=\"DAV:\"><D:lockdiscovery>{}</D:lockdiscovery></D:prop>\n",
        active(lock)
    );
    told(status, text)
}

/// A lock as the property `lockdiscovery` has it (RFC 4918 15.8).
pub(super) fn active(lock: &Lock) -> String {
    let scope = if lock.is_shared { "shared" } else { "exclusive" };
    let depth = if lock.is_deep { "infinity" } else { "0" };
    let (token, owner) = (xml::escape(&lock.token), &lock.owner);
    let root = xml::escape(&href(&lock.path, lock.is_deep));
    format!(
        "<D:activelock><D:lockscope><D:{scope}/></D:lockscope><D:locktype><D:write/></D:locktype>\
         <D:depth>{depth}</D:depth>{owner}<D:timeout>Second-{}</D:timeout>\
         <D:locktoken><D:href>{token}</D:href></D:locktoken>\
         <D:lockroot><D:href>{root}</D:href></D:lockroot></D:activelock>",
        // What is left is rounded up: a client refreshes before it.
        lock.left().as_millis().div_ceil(1000)
    )
}

/// The property `supportedlock` (RFC 4918 15.10).
pub(super) const SUPPORTED: &str = "<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype>\
     </D:lockentry><D:lockentry><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>";
