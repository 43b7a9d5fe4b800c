//! From a request to its answer: who asks, what for, and what it is that answers.

use axum::{
    body::Body,
    http::{
        HeaderValue, Method, Response, StatusCode,
        header::{ACCEPT, ALLOW, RETRY_AFTER},
        request::Parts,
    },
};
use muxfs::{Cid, ErrorKind, Mount, Name, Prefix, cas::Cas, vfs::Lease};
use tokio::time::timeout;

use crate::{
    failure::Failure,
    format::{Format, Wanted},
    gateway::Gateway,
    guard, page,
    place::{self, Place},
    server::Shared,
    target::Target,
};

const CID_ADVICE: &str = "A CID begins with Qm and has 46 characters, or with b, k, z or f.";
const RETRY_SECS: &str = "5";
/// The mount of content that is no secret to who knows its CID; elsewhere not even whether it is there is told to pages
/// of other origins.
const PUBLIC_PREFIX: &[u8] = b"ipfs";

/// Answers a request.
pub(crate) async fn answer(shared: &Shared, request: &Parts) -> Response<Body> {
    let found = timeout(shared.options.answer_timeout, find(shared, request)).await;
    let mut response = found.unwrap_or_else(|_| {
        let why = "It took too long to find this.";
        fail(&Failure::new(StatusCode::GATEWAY_TIMEOUT, why, "Try again in a while."), request)
    });
    if request.method == Method::HEAD {
        // Its length was told already.
        *response.body_mut() = Body::empty();
    }
    let (method, class) = (method(&request.method), class(response.status()));
    metrics::counter!("muxfs_http_requests_total", "method" => method, "status" => class).increment(1);
    response
}

async fn find(shared: &Shared, request: &Parts) -> Response<Body> {
    if let Err(failure) = guard::check_host(request, &shared.options.hosts) {
        return fail(&failure, request);
    }
    if ![Method::GET, Method::HEAD, Method::OPTIONS].contains(&request.method) {
        let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "HTTP reads here and writes nothing.", "");
        let mut response = fail(&failure, request);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(guard::METHODS));
        return response;
    }
    let target = match Target::parse(&request.uri) {
        Ok(target) => target,
        Err(failure) => return fail(&failure, request),
    };
    let cid = content(shared, &target.parts);
    let mut response = if request.method == Method::OPTIONS {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(guard::METHODS));
        response
    } else {
        let boundary = || {
            let mut random = [0; 16];
            (shared.options.env.fill)(&mut random);
            format!("{:032x}", u128::from_le_bytes(random))
        };
        let answered = match cid {
            Some((cas, cid, below)) => by_cid(cas, &target, request, (cid, below), &boundary).await,
            None => by_name(shared, &target, request, &boundary).await,
        };
        answered.unwrap_or_else(|failure| fail(&failure, request))
    };
    if cid.is_some() && target.parts.first().is_some_and(|prefix| prefix.as_bytes() == PUBLIC_PREFIX) {
        guard::allow_every_origin(response.headers_mut());
    }
    response
}

/// The mount at the beginning of a path, and what follows it.
fn mount<'a>(shared: &'a Shared, parts: &'a [Name]) -> Option<(&'a Mount, &'a [Name])> {
    let (prefix, rest) = parts.split_first()?;
    let prefix = Prefix::new(prefix.as_str()?).ok()?;
    Some((shared.mux.mount_at(prefix).ok()?, rest))
}

/// The content that a path leads to, where it does: the mount's, the CID, and what is asked below it.
fn content<'a>(shared: &'a Shared, parts: &'a [Name]) -> Option<(&'a Cas, Cid, &'a [Name])> {
    let (mount, rest) = mount(shared, parts)?;
    let (first, below) = rest.split_first()?;
    Some((mount.as_cas()?, Cid::parse_in_path(first.as_str()?).ok()?, below))
}

type Boundary<'a> = &'a (dyn Fn() -> String + Sync);

async fn by_cid(
    cas: &Cas,
    target: &Target,
    request: &Parts,
    (cid, below): (Cid, &[Name]),
    boundary: Boundary<'_>,
) -> Result<Response<Body>, Failure> {
    let wanted = Wanted::of(&target.query, &request.headers)?;
    Gateway { dag: cas.dag(), target, request, boundary, wanted }.answer(cid, below).await
}

async fn by_name(
    shared: &Shared,
    target: &Target,
    request: &Parts,
    boundary: Boundary<'_>,
) -> Result<Response<Body>, Failure> {
    guard::check_origin(request)?;
    if target.parts.is_empty() {
        return place::mounts(&shared.mux);
    }
    let Some((mount, names)) = mount(shared, &target.parts) else {
        let there: Vec<String> = shared.mux.mounts().iter().map(|mount| format!("/{}", mount.prefix())).collect();
        let why = format!("Nothing is mounted at this path; there is {}.", there.join(", "));
        return Err(Failure::new(StatusCode::NOT_FOUND, why, "A path begins with one of these."));
    };
    if let (Some(_), Some(first)) = (mount.as_cas(), names.first()) {
        // Where content is, what is not there by name was meant as a CID, and so was what is wanted as blocks.
        let wanted = Wanted::of(&target.query, &request.headers)?;
        let is_for_content = matches!(wanted.format, Some(Format::Raw | Format::Car));
        if is_for_content || !is_there(mount, first).await? {
            let why = first.as_str().map(Cid::parse_in_path).and_then(Result::err);
            let why = why.as_ref().and_then(std::error::Error::source).map(ToString::to_string).unwrap_or_default();
            return Err(Failure::bad(format!("Nothing has this name, and it is no CID: {why}."), CID_ADVICE));
        }
    }
    Place { target, request, boundary }.answer(mount, names).await
}

/// Whether something has this name at the root of a mount.
async fn is_there(mount: &Mount, name: &Name) -> Result<bool, Failure> {
    match mount.vfs().lookup(mount.vfs().root(), name).await {
        Ok(attr) => {
            drop(Lease::adopt(mount.vfs().clone(), attr.ino));
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn fail(failure: &Failure, request: &Parts) -> Response<Body> {
    let mut accepts = request.headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let mut response = page::failed(failure, accepts.any(|value| value.contains("text/html")));
    if failure.status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECS));
    }
    response
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}
