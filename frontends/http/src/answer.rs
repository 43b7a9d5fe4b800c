//! From a request to its answer: who asks, what for, and what it is that answers.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderValue, Method, Response, StatusCode,
        header::{ACCEPT, ALLOW, RETRY_AFTER},
        request::Parts,
    },
};
use muxfs::{Cid, Mount, Name, Prefix, cas::Cas};
use tokio::time::timeout;

use crate::{failure::Failure, format::Wanted, gateway::Gateway, guard, page, server::Shared, target::Target};

const CID_ADVICE: &str = "A CID begins with Qm and has 46 characters, or with b, k, z or f.";
const RETRY_SECS: &str = "5";
/// The mount of content that is no secret to who knows its CID; elsewhere not even whether it is there is told to pages
/// of other origins.
const PUBLIC_PREFIX: &[u8] = b"ipfs";

/// Answers a request.
pub(crate) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    // Whatever a request brings along is not read: nothing here takes anything.
    let (request, _) = request.into_parts();
    let found = timeout(shared.options.answer_timeout, find(&shared, &request)).await;
    let mut response = found.unwrap_or_else(|_| {
        let why = "It took too long to find this.";
        fail(&Failure::new(StatusCode::GATEWAY_TIMEOUT, why, "Try again in a while."), &request)
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
    let Some((cas, first, below)) = content(shared, &target.parts) else {
        let mounts: Vec<String> = shared
            .mux
            .mounts()
            .iter()
            .filter(|mount| mount.as_cas().is_some())
            .map(|mount| format!("/{}/CID", mount.prefix()))
            .collect();
        let why = format!("Nothing is at this path; there is {}.", mounts.join(", "));
        return fail(&Failure::new(StatusCode::NOT_FOUND, why, "A path begins with a mount and a CID."), request);
    };
    let mut response = if request.method == Method::OPTIONS {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(guard::METHODS));
        response
    } else {
        let answered = by_cid(shared, cas, &target, request, first, below).await;
        answered.unwrap_or_else(|failure| fail(&failure, request))
    };
    if target.parts.first().is_some_and(|prefix| prefix.as_bytes() == PUBLIC_PREFIX) {
        guard::allow_every_origin(response.headers_mut());
    }
    response
}

/// The mount of content that a path leads into, and what follows its prefix.
fn content<'a>(shared: &'a Shared, parts: &'a [Name]) -> Option<(&'a Cas, &'a Name, &'a [Name])> {
    let (prefix, rest) = parts.split_first()?;
    let (first, below) = rest.split_first()?;
    let prefix = Prefix::new(prefix.as_str()?).ok()?;
    let mount: &Mount = shared.mux.mount_at(prefix).ok()?;
    Some((mount.as_cas()?, first, below))
}

async fn by_cid(
    shared: &Shared,
    cas: &Cas,
    target: &Target,
    request: &Parts,
    first: &Name,
    below: &[Name],
) -> Result<Response<Body>, Failure> {
    let cid = first.as_str().ok_or_else(|| Failure::bad("What follows the mount is no CID.", CID_ADVICE))?;
    let cid = Cid::parse_in_path(cid).map_err(|error| {
        let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        Failure::bad(format!("What follows the mount is no CID: {why}."), CID_ADVICE)
    })?;
    let wanted = Wanted::of(&target.query, &request.headers)?;
    let gateway = Gateway { dag: cas.dag(), target, request, env: &shared.options.env, wanted };
    gateway.answer(cid, below).await
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
