//! The server's own pages and what they ask for, below `/.muxfs`, where no mount can be.
//!
//! Files of this program, sent as they are: nobody builds anything. A page runs the one script that bears its nonce and
//! loads nothing from elsewhere, so that what is shown in it, names above all, cannot become part of it.
//! Spec: spec/http.md #pages.

use std::{fmt::Debug, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{
        HeaderValue, Response, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, SET_COOKIE,
            X_CONTENT_TYPE_OPTIONS,
        },
        request::Parts,
    },
};
use futures_util::{
    StreamExt,
    future::{join, join_all},
};
use muxfs::{Mount, Name, Prefix, calendar::unix_secs, dag::murmur3_x64_64};
use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{
    access::{self, REFUSAL_TIME, Who},
    entity::{is_unchanged, set},
    failure::Failure,
    page::NO_STORE,
    server::Shared,
    target::Query,
};

/// Something that only grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// What people call it.
    pub name: String,
    /// How many there were since the process began.
    pub value: u64,
    /// Whether it counts bytes.
    pub is_bytes: bool,
}

/// What a process knows of itself.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What is plotted, as so many in a second.
    pub counters: Vec<Counter>,
    /// What else is told, by a heading each.
    pub stores: serde_json::Map<String, Value>,
}

/// Whoever knows how a process does: asked at most once a second, however many look.
#[async_trait]
pub trait Reporter: Debug + Send + Sync {
    /// How it does now. Soon: after two seconds it is let go, and not asked for a while.
    async fn report(&self) -> Report;
}

/// The part of a path that all of it is below.
const OWN: &[u8] = b".muxfs";
const CSS: &str = include_str!("web/app.css");
const FILES_PAGE: &str = include_str!("web/files.html");
const FILES_SCRIPT: &str = include_str!("web/files.js");
const STATUS_PAGE: &str = include_str!("web/status.html");
const STATUS_SCRIPT: &str = include_str!("web/status.js");
/// The most pins that are told.
const PIN_COUNT_MAX: usize = 1000;
/// How long a mount may take to tell its space, and a reporter what it knows.
const TELL_TIME_MAX: Duration = Duration::from_secs(2);
/// What was told is told again for so long; where somebody did not answer, for longer: to ask may cost a thread that waits.
const TOLD_AGE_MAX: Duration = Duration::from_secs(1);
const TOLD_LATE_AGE_MAX: Duration = Duration::from_secs(10);
/// What is told of who does not answer.
const SILENT: &str = "it does not answer";
/// The longest form of a login, in bytes.
pub(crate) const FORM_LEN_MAX: usize = 4096;

/// Whether a path is of the server's own.
pub(crate) fn is_own(parts: &[Name]) -> bool {
    parts.first().is_some_and(|first| first.as_bytes() == OWN)
}

/// Whether it tells of all mounts, and so to nobody whose home is in one.
pub(crate) fn tells_of_all(parts: &[Name]) -> bool {
    parts.get(1).and_then(Name::as_str).is_some_and(|second| matches!(second, "status.json" | "pins"))
}

/// Answers what is asked below `/.muxfs` without a body.
pub(crate) async fn answer(shared: &Arc<Shared>, request: &Parts, parts: &[Name]) -> Result<Response<Body>, Failure> {
    let below: Vec<&str> = parts.iter().skip(1).map(|part| part.as_str().unwrap_or_default()).collect();
    match &below[..] {
        ["app.css"] => Ok(asset(request, CSS, "text/css; charset=utf-8")),
        ["files.js"] => Ok(asset(request, FILES_SCRIPT, "text/javascript; charset=utf-8")),
        ["status.js"] => Ok(asset(request, STATUS_SCRIPT, "text/javascript; charset=utf-8")),
        ["status"] => Ok(page(shared, STATUS_PAGE, &[])),
        ["status.json"] => Ok(told(&*status(shared).await?)),
        ["pins", prefix, ..] => pins(shared, prefix).await,
        _ => Err(Failure::new(StatusCode::NOT_FOUND, "There is no such page.", "/.muxfs/status is one.")),
    }
}

fn asset(request: &Parts, text: &'static str, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let etag = format!("\"{:x}\"", murmur3_x64_64(text.as_bytes()));
    set(response.headers_mut(), ETAG, &etag);
    if is_unchanged(&request.headers, &etag, None) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        set(response.headers_mut(), CONTENT_LENGTH, &text.len().to_string());
        *response.body_mut() = Body::from(text);
    }
    headed(response, content_type, "no-cache")
}

/// The page of a directory, with these rows in it for who runs no scripts.
pub(crate) fn files(shared: &Shared, path: &str, rows: &str, parts: &str) -> Response<Body> {
    page(shared, FILES_PAGE, &[("<!--path-->", path), ("<!--rows-->", rows), ("<!--parts-->", parts)])
}

/// A page of ours. What is put into it was escaped.
fn page(shared: &Shared, template: &str, put: &[(&str, &str)]) -> Response<Body> {
    let nonce = shared.options.env.random_id();
    // One after the other from the beginning: nothing that was put in is looked at again.
    let (mut text, mut rest) = (String::new(), template);
    for (mark, value) in [("<!--nonce-->", nonce.as_str())].iter().chain(put) {
        if let Some((before, after)) = rest.split_once(mark) {
            text += before;
            text += value;
            rest = after;
        }
    }
    text += rest;
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    let mut response = Response::new(Body::empty());
    set(response.headers_mut(), CONTENT_SECURITY_POLICY, &policy);
    set(response.headers_mut(), CONTENT_LENGTH, &text.len().to_string());
    *response.body_mut() = Body::from(text);
    headed(response, "text/html; charset=utf-8", NO_STORE)
}

/// JSON for our pages, and for programs.
pub(crate) fn told(value: &Value) -> Response<Body> {
    let text = value.to_string();
    let mut response = Response::new(Body::empty());
    set(response.headers_mut(), CONTENT_LENGTH, &text.len().to_string());
    *response.body_mut() = Body::from(text);
    headed(response, "application/json", NO_STORE)
}

fn headed(mut response: Response<Body>, content_type: &'static str, cache: &'static str) -> Response<Body> {
    for (name, value) in [(CONTENT_TYPE, content_type), (CACHE_CONTROL, cache), (X_CONTENT_TYPE_OPTIONS, "nosniff")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn pins(shared: &Shared, prefix: &str) -> Result<Response<Body>, Failure> {
    let mount = Prefix::new(prefix).and_then(|prefix| shared.mux.mount_at(prefix))?;
    if let Some(away) = mount.absence() {
        return Err(away.into());
    }
    let Some(cas) = mount.as_cas() else {
        return Err(Failure::new(StatusCode::NOT_FOUND, "Nothing is pinned where content has no CID.", ""));
    };
    let (mut list, mut pins) = (cas.pins().list(), Vec::new());
    while pins.len() < PIN_COUNT_MAX
        && let Some(cid) = list.next().await
    {
        pins.push(cid?.to_string());
    }
    let more = cas.pins().count() > pins.len();
    Ok(told(&json!({ "pins": pins, "more": more })))
}

/// What was told last, and until when it is told again; who asks meanwhile waits for it.
#[derive(Debug, Default)]
pub(crate) struct LastTold(Arc<Mutex<Option<Told>>>);

/// What was told, and until when.
type Told = (Instant, Arc<Value>);

/// How the server does: as of now, or of a little before.
async fn status(shared: &Arc<Shared>) -> Result<Arc<Value>, Failure> {
    let mut last = shared.told.0.clone().lock_owned().await;
    if let Some((_, value)) = last.as_ref().filter(|(until, _)| Instant::now() < *until) {
        return Ok(value.clone());
    }
    // Whoever hangs up has asked for all others too: they would ask again, and cost a thread that waits each time.
    let asking = shared.clone();
    let asked = shared.tasks.spawn(async move {
        let (value, is_late) = ask_all(&asking).await;
        let age = if is_late { TOLD_LATE_AGE_MAX } else { TOLD_AGE_MAX };
        let value = Arc::new(value);
        *last = Some((Instant::now() + age, value.clone()));
        value
    });
    asked.await.map_err(|error| {
        tracing::error!(%error, "HTTP: how the server does cannot be told");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "It cannot be told how the server does.", "The log says why.")
    })
}

/// Asks everybody at once; whether somebody did not answer.
async fn ask_all(shared: &Shared) -> (Value, bool) {
    let report = async {
        match &shared.options.reporter {
            Some(reporter) => timeout(TELL_TIME_MAX, reporter.report()).await.ok(),
            None => Some(Report::default()),
        }
    };
    let (mounts, report) = join(join_all(shared.mux.mounts().iter().map(mount)), report).await;
    let is_late = report.is_none() || mounts.iter().any(|(_, is_late)| *is_late);
    let mounts: Vec<Value> = mounts.into_iter().map(|(mount, _)| mount).collect();
    let report = report.unwrap_or_else(|| Report {
        stores: [("Stores".to_owned(), SILENT.into())].into_iter().collect(),
        ..Report::default()
    });
    let counters: serde_json::Map<String, Value> = report
        .counters
        .into_iter()
        .map(|counter| (counter.name, json!({ "value": counter.value, "bytes": counter.is_bytes })))
        .collect();
    let time = unix_millis(shared);
    let value = json!({ "time": time, "mounts": mounts, "counters": counters, "stores": report.stores });
    (value, is_late)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 need 41 bits")]
fn unix_millis(shared: &Shared) -> f64 {
    let now = (shared.options.env.now)().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as f64 / 1000.0
}

/// How a mount does, and whether it did not answer.
async fn mount(mount: &Mount) -> (Value, bool) {
    let vfs = mount.vfs();
    let space = timeout(TELL_TIME_MAX, vfs.statfs(vfs.root())).await;
    let is_late = space.is_err();
    let mut value = json!({ "prefix": mount.prefix().as_str() });
    match space {
        Ok(Ok(space)) => {
            value["bytes_total"] = space.bytes_total.into();
            value["bytes_free"] = space.bytes_free.into();
        }
        Ok(Err(error)) => value["error"] = Failure::from(error).why.into(),
        Err(_) => value["error"] = SILENT.into(),
    }
    if let Some(tree) = mount.as_tree() {
        let (_, commit) = tree.head();
        let time = unix_secs(commit.time);
        value["commit"] = json!({ "root": commit.root.to_string(), "time": time, "note": commit.note });
        value["uncommitted"] = tree.uncommitted_len().into();
    }
    (value, is_late)
}

/// Takes the token that a form tells, or the name and the password of a user, and gives a cookie for it; or takes that away.
pub(crate) async fn log_in(
    shared: &Shared,
    parts: &[Name],
    form: &[u8],
    peer: IpAddr,
) -> Result<Response<Body>, Failure> {
    let writing = shared.options.writing.as_ref();
    let token = writing.map(|writing| &writing.token).ok_or_else(|| access::refusal(&Who::Refused))?;
    let cookie = match parts.get(1).and_then(Name::as_str) {
        Some("login") => {
            let form = Query::parse(std::str::from_utf8(form).unwrap_or_default())?;
            let shown = form.get("token").unwrap_or_default();
            let session = if token.is(shown.trim()) {
                Some(token.session())
            } else {
                session_of_user(shared, form.get("user").unwrap_or_default(), shown, peer).await?
            };
            let Some(session) = session else {
                tokio::time::sleep(REFUSAL_TIME).await;
                return Err(access::refusal(&Who::Refused));
            };
            access::cookie(&session)
        }
        Some("logout") => access::no_cookie(),
        _ => return Err(Failure::new(StatusCode::NOT_FOUND, "There is no such page.", "")),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    set(response.headers_mut(), SET_COOKIE, &cookie);
    Ok(response)
}

async fn session_of_user(
    shared: &Shared,
    name: &str,
    password: &str,
    peer: IpAddr,
) -> Result<Option<blake3::Hash>, Failure> {
    let Some(logins) = shared.logins.as_ref().filter(|_| !name.is_empty()) else { return Ok(None) };
    let login = logins.check(name, password, peer, (shared.options.env.now)()).await?;
    Ok(login.and_then(|login| logins.session_of(&login)))
}
