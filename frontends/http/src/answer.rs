//! From a request to its answer: who asks, what for, and what it is that answers.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, to_bytes},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
        header::{ACCEPT, ALLOW, EXPECT, RETRY_AFTER, VARY},
        request::Parts,
    },
};
use futures_util::StreamExt;
use hyper::body::Incoming;
use muxfs::{
    Cid, ErrorKind, Mount, Name, Prefix,
    cas::Cas,
    dag::Dag,
    ipns::{IpnsName, Records, resolve},
    vfs::Lease,
};
use tokio::time::{sleep, timeout};

use crate::{
    access::{self, REFUSAL_TIME, Who},
    dav::{self, Dav},
    failure::{Failure, cause_of},
    format::{Format, Wanted},
    gateway::Gateway,
    guard,
    hub::{self, Asked},
    ipns, ours, page,
    place::{self, Place},
    server::{Peer, Shared},
    site::{Root, Site},
    target::Target,
    turn,
};

/// Where IPNS names are.
const IPNS_PREFIX: &[u8] = b"ipns";
const NAME_ADVICE: &str = "A name is the CID of a key, as k51..., or 12D3Koo...";
const CID_ADVICE: &str = "A CID begins with Qm and has 46 characters, or with b, k, z or f.";
const RETRY_SECS: &str = "5";
/// The mount of content that is no secret to who knows its CID; elsewhere not even whether it is there is told to pages
/// of other origins.
const PUBLIC_PREFIX: &str = "ipfs";

const DAV: HeaderName = HeaderName::from_static("dav");
/// Tells programs of Microsoft that files here are edited over WebDAV.
const AUTHOR_VIA: HeaderName = HeaderName::from_static("ms-author-via");

/// How much of a body is let pass that nobody wants, in bytes, and for how long.
const DRAIN_LEN_MAX: usize = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Answers a request.
pub(crate) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (request, body) = request.into_parts();
    let request = &request;
    let site = Site::of(request);
    let of_hub = if site.is_none() { hub::asked(shared, request) } else { None };
    let mut response = if let Some(asked) = of_hub.as_ref().filter(|asked| asked.is_of_user()) {
        let answer = change_hub(shared, asked.clone(), request, body).await;
        answer.unwrap_or_else(|failure| asked.fail(shared, &failure, request))
    } else if site.is_none() && of_hub.is_none() && request.method == Method::POST {
        log_in(shared, request, body).await.unwrap_or_else(|failure| fail(&failure, request))
    } else if site.is_none() && of_hub.is_none() && dav::writes(&request.method) == Some(true) {
        change(shared, request, body).await.unwrap_or_else(|failure| fail(&failure, request))
    } else {
        let failed = |failure| {
            of_hub.as_ref().map_or_else(|| fail(&failure, request), |asked| asked.fail(shared, &failure, request))
        };
        read(shared, (site.as_ref(), of_hub.as_ref()), request, body).await.unwrap_or_else(failed)
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED && site.is_none() {
        allow(shared, response.headers_mut());
    }
    if request.method == Method::HEAD {
        // Its length was told already.
        *response.body_mut() = Body::empty();
    }
    let (method, class) = (method(&request.method), class(response.status()));
    metrics::counter!("muxfs_http_requests_total", "method" => method, "status" => class).increment(1);
    response
}

/// Answers what only reads. Who asks is found out before there is a turn: a password may take as long as those of others.
async fn read(
    shared: &Arc<Shared>,
    (site, of_hub): (Option<&Site>, Option<&Asked>),
    request: &Parts,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    match (site, of_hub) {
        (Some(site), _) => {
            let who = identify(shared, request).await;
            in_turn(shared, Box::pin(async { Ok(find_on(shared, site, request, who).await) })).await
        }
        (None, Some(asked)) => {
            asked.admit_reader(shared, request).await?;
            in_turn(shared, Box::pin(asked.read(shared, request))).await
        }
        (None, None) => {
            let who = admit(shared, request).await?;
            in_turn(shared, Box::pin(async { Ok(find(shared, who, request, body).await) })).await
        }
    }
}

/// Answers what only reads, when its turn comes.
async fn in_turn(
    shared: &Shared,
    found: impl Future<Output = Result<Response<Body>, Failure>>,
) -> Result<Response<Body>, Failure> {
    let patience = shared.options.answer_timeout;
    let Some(turn) = shared.turns.take(patience).await else {
        let why = "Too much else is being sent, to clients that take it slowly.";
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, why, "Try again in a while."));
    };
    let Ok(answer) = timeout(patience, found).await else {
        let why = "It took too long to find this.";
        return Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, why, "Try again in a while."));
    };
    answer.map(|answer| turn::keep(answer, turn))
}

/// Who asks, if they may ask at all.
async fn admit(shared: &Shared, request: &Parts) -> Result<Who, Failure> {
    guard::check_host(request, &shared.options.hosts)?;
    identify(shared, request).await
}

/// Who asks, if they may read.
pub(crate) async fn identify(shared: &Shared, request: &Parts) -> Result<Who, Failure> {
    access::check_shown(&request.headers)?;
    let mut who = access::who(&request.headers, shared.options.writing.as_ref().map(|writing| &writing.token));
    if let Some(logins) = &shared.logins {
        let login = match who {
            Who::Anybody => logins.of_cookie(&request.headers),
            Who::Refused => logins.of_password(&request.headers, peer(request), (shared.options.env.now)()).await?,
            Who::Owner | Who::User(_) => None,
        };
        who = login.map_or(who, Who::User);
    }
    if who == Who::Refused {
        sleep(REFUSAL_TIME).await;
    }
    if who == Who::Refused || (who == Who::Anybody && !shared.options.is_open()) {
        return Err(access::refusal(&who));
    }
    Ok(who)
}

/// Where a request comes from.
fn peer(request: &Parts) -> IpAddr {
    request.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0)
}

/// Takes the form of a login, which is all that is posted here.
async fn log_in(shared: &Shared, request: &Parts, body: Incoming) -> Result<Response<Body>, Failure> {
    guard::check_host(request, &shared.options.hosts)?;
    guard::check_writer(request, &shared.options.hosts)?;
    let target = Target::parse(&request.uri)?;
    if !ours::is_own(&target.parts) {
        return Err(no_such_method(shared));
    }
    let form = timeout(shared.options.head_timeout, to_bytes(Body::new(body), ours::FORM_LEN_MAX)).await;
    let form =
        form.ok().and_then(Result::ok).ok_or_else(|| Failure::bad("The form did not come, or is too long.", ""))?;
    ours::log_in(shared, &target.parts, &form, peer(request)).await
}

/// Makes a change. It ends as it ends, though its client may be gone.
async fn change(shared: &Arc<Shared>, request: &Parts, body: Incoming) -> Result<Response<Body>, Failure> {
    let mut body = Body::new(body).into_data_stream();
    let dav = match changer(shared, request).await {
        Ok(dav) => dav,
        Err(failure) => {
            drain(request, &mut body).await;
            return Err(failure);
        }
    };
    let request = request.clone();
    to_its_end(shared, async move {
        let made = dav.answer(&mut body).await;
        if has_rest(&made) {
            drain(&request, &mut body).await;
        }
        made
    })
    .await
}

/// Carries out what a user of the hub asks for, in the same way.
async fn change_hub(
    shared: &Arc<Shared>,
    asked: Asked,
    request: &Parts,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    let mut body = Body::new(body).into_data_stream();
    let change = match asked.admitted(shared, request).await {
        Ok(change) => change,
        Err(failure) => {
            drain(request, &mut body).await;
            return Err(failure);
        }
    };
    let request = request.clone();
    to_its_end(shared, async move {
        let made = change.answer(&mut body).await;
        if has_rest(&made) {
            drain(&request, &mut body).await;
        }
        made
    })
    .await
}

/// Does work that ends though who asked for it may be gone, but with the server.
async fn to_its_end(
    shared: &Shared,
    work: impl Future<Output = Result<Response<Body>, Failure>> + Send + 'static,
) -> Result<Response<Body>, Failure> {
    let killed = shared.killed.clone();
    let task = async move { killed.run_until_cancelled(work).await };
    let ended = shared.tasks.spawn(task).await.inspect_err(|error| tracing::error!(%error, "HTTP: a change failed"));
    ended.ok().flatten().unwrap_or_else(|| {
        let why = "The server ended before this was done.";
        Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, why, "Look at what is there, and ask again."))
    })
}

/// Whether a change was refused whose body may still come: but of a client that stands still.
fn has_rest(made: &Result<Response<Body>, Failure>) -> bool {
    made.as_ref().is_err_and(|failure| failure.status != StatusCode::REQUEST_TIMEOUT)
}

/// A change that whoever asks for it may make.
async fn changer(shared: &Arc<Shared>, request: &Parts) -> Result<Dav, Failure> {
    let who = admit(shared, request).await?;
    guard::check_writer(request, &shared.options.hosts)?;
    if shared.options.writing.is_none() {
        return Err(not_here());
    }
    if !who.may_write() {
        return Err(access::refusal(&who));
    }
    Dav::new(shared.clone(), request.clone(), Target::parse(&request.uri)?, who).ok_or_else(not_here)
}

/// Lets a body pass that nobody wants: a client that is still sending would find the connection gone, and not hear why.
/// Who waits to be told to send is told the answer instead.
async fn drain(request: &Parts, body: &mut BodyDataStream) {
    if request.headers.contains_key(EXPECT) {
        return;
    }
    let mut len = 0;
    let drained = timeout(DRAIN_TIME_MAX, async {
        while len < DRAIN_LEN_MAX
            && let Some(Ok(piece)) = body.next().await
        {
            len += piece.len();
        }
    });
    if drained.await.is_err() {
        tracing::debug!("HTTP: a client is refused while it sends");
    }
}

fn no_such_method(shared: &Shared) -> Failure {
    let unknown = || Failure::new(StatusCode::METHOD_NOT_ALLOWED, "There is no such method here.", "");
    if shared.options.writing.is_some() { unknown() } else { not_here() }
}

fn not_here() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "HTTP reads here and writes nothing.", "")
}

/// What may be done here.
fn allow(shared: &Shared, headers: &mut HeaderMap) {
    let methods = if shared.options.writing.is_some() { dav::METHODS } else { guard::METHODS };
    headers.insert(ALLOW, HeaderValue::from_static(methods));
}

async fn find(shared: &Arc<Shared>, who: Who, request: &Parts, body: Incoming) -> Response<Body> {
    let lists = dav::writes(&request.method).is_some();
    if !lists && ![Method::GET, Method::HEAD, Method::OPTIONS].contains(&request.method) {
        return fail(&no_such_method(shared), request);
    }
    let target = match Target::parse(&request.uri) {
        Ok(target) => target,
        Err(failure) => return fail(&failure, request),
    };
    if lists {
        let listed = async {
            guard::check_origin(request, &shared.options.hosts)?;
            let dav = Dav::new(shared.clone(), request.clone(), target, who).ok_or_else(not_here)?;
            dav.answer(&mut Body::new(body).into_data_stream()).await
        };
        return listed.await.unwrap_or_else(|failure| fail(&failure, request));
    }
    if request.method != Method::OPTIONS
        && let Some(elsewhere) = kept_out(shared, &who, &target)
    {
        return elsewhere.unwrap_or_else(|failure| fail(&failure, request));
    }
    let cid = content(shared, &target.parts);
    let is_of_name = cid.is_none() && is_of_ipns(shared, &target);
    let mut response = if request.method == Method::OPTIONS {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        allow(shared, response.headers_mut());
        if shared.options.writing.is_some() {
            response.headers_mut().insert(DAV, HeaderValue::from_static(dav::CLASSES));
            response.headers_mut().insert(AUTHOR_VIA, HeaderValue::from_static("DAV"));
        }
        response
    } else {
        let boundary = || shared.options.env.random_id();
        let answered = match cid {
            Some((cas, cid, below)) => by_cid(cas, &target, request, (cid, below), &boundary).await,
            None if is_of_name => by_ipns_name(shared, &target, request, &boundary).await,
            None => by_name(shared, &who, &target, request, &boundary).await,
        };
        let mut answered = answered.unwrap_or_else(|failure| fail(&failure, request));
        // Blocks, pages and lists have one address.
        answered.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
        answered
    };
    let is_public =
        cid.is_some() && target.parts.first().is_some_and(|prefix| prefix.as_bytes() == PUBLIC_PREFIX.as_bytes());
    if is_public || is_of_name {
        guard::allow_every_origin(response.headers_mut());
    }
    response
}

/// What a user is told in place of what is not theirs: where their home is, on the way to it.
fn kept_out(shared: &Shared, who: &Who, target: &Target) -> Option<Result<Response<Body>, Failure>> {
    let parts = &target.parts;
    if ours::is_own(parts) && !ours::tells_of_all(parts) {
        return None;
    }
    // What a name of IPNS leads to is in the mount of public content.
    let is_public = is_of_ipns(shared, target);
    let is_reached = if is_public { may_reach_public(who) } else { who.may_reach(parts) };
    if is_reached {
        return None;
    }
    Some(
        who.led_from(parts)
            .filter(|_| !is_public)
            .map_or_else(|| Err(access::out_of_home()), |home| Ok(page::to_home(home))),
    )
}

fn may_reach_public(who: &Who) -> bool {
    Name::new(PUBLIC_PREFIX.as_bytes()).is_ok_and(|prefix| who.may_reach(&[prefix]))
}

/// Answers a request for a site: content alone is there.
async fn find_on(shared: &Shared, site: &Site, request: &Parts, who: Result<Who, Failure>) -> Response<Body> {
    let answered = async {
        if !may_reach_public(&who?) {
            return Err(access::out_of_home());
        }
        match request.method {
            Method::GET | Method::HEAD => by_site(shared, site, request).await,
            Method::OPTIONS => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            _ => Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "A site is read, and not written.", "")),
        }
    };
    let mut response = answered.await.unwrap_or_else(|failure| fail(&failure, request));
    if matches!(response.status(), StatusCode::METHOD_NOT_ALLOWED | StatusCode::NO_CONTENT) {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(guard::METHODS));
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    guard::allow_every_origin(response.headers_mut());
    response
}

async fn by_site(shared: &Shared, site: &Site, request: &Parts) -> Result<Response<Body>, Failure> {
    let target = Target::parse(&request.uri)?;
    let wanted = Wanted::of(&target.query, &request.headers)?;
    let below = target.parts.clone();
    let target = &site.content(target)?;
    let random = || shared.options.env.random_id();
    let gateway = |cas| Gateway {
        dag: dag_for(cas, request),
        target,
        request,
        boundary: &random,
        wanted: wanted.clone(),
        site: Some(site),
    };
    let name = match &site.root {
        Root::Cid(cid) => return gateway(public(shared)?).answer_on(site, *cid, (&[], &below)).await,
        Root::Name(name) => name,
    };
    let Some(names) = names_for(shared, request) else {
        return Err(Failure::new(StatusCode::NOT_FOUND, "Names of IPNS are not resolved here.", ""));
    };
    if wanted.format == Some(Format::IpnsRecord) {
        return ipns::record(names, name, request, &below).await;
    }
    let resolved = resolve(names, name, (shared.options.env.now)()).await?;
    let answered = gateway(public(shared)?).answer_on(site, resolved.root, (&resolved.path, &below)).await;
    answered.map(|mut response| {
        ipns::keep_no_longer(response.headers_mut(), resolved.ttl);
        response
    })
}

/// The mount of public content.
fn public(shared: &Shared) -> Result<&Cas, Failure> {
    let mount = Prefix::new(PUBLIC_PREFIX).and_then(|prefix| shared.mux.mount_at(prefix));
    mount.ok().and_then(Mount::as_cas).map(AsRef::as_ref).ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, "What has a CID is in /ipfs, which is not mounted here.", "")
    })
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
    Gateway { dag: dag_for(cas, request), target, request, boundary, wanted, site: None }.answer(cid, below).await
}

/// Where a request by CID reads. Who asks for another MuxFS, or wants no more, is answered from what is here: two that ask
/// each other would never end.
fn dag_for<'a>(cas: &'a Cas, request: &Parts) -> &'a Dag {
    if is_held_only(request) { cas.dag() } else { cas.reading_dag() }
}

/// Where a request looks names up: in the same way.
fn names_for<'a>(shared: &'a Shared, request: &Parts) -> Option<&'a dyn Records> {
    let own = shared.options.names.as_deref();
    if is_held_only(request) { own } else { shared.options.names_elsewhere.as_deref().or(own) }
}

fn is_held_only(request: &Parts) -> bool {
    guard::only_if_cached(&request.headers) || guard::is_via_muxfs(&request.headers)
}

/// Whether a path begins with `/ipns`, and names are what is there.
fn is_of_ipns(shared: &Shared, target: &Target) -> bool {
    let first = target.parts.first().is_some_and(|first| first.as_bytes() == IPNS_PREFIX);
    first && shared.options.names.is_some() && mount(shared, &target.parts).is_none()
}

/// What an IPNS name leads to, in the mount of public content; or its record.
async fn by_ipns_name(
    shared: &Shared,
    target: &Target,
    request: &Parts,
    boundary: Boundary<'_>,
) -> Result<Response<Body>, Failure> {
    let wanted = Wanted::of(&target.query, &request.headers)?;
    let (Some(names), Some((name, below))) =
        (names_for(shared, request), target.parts.get(1..).and_then(<[Name]>::split_first))
    else {
        return Err(Failure::bad("A name has to follow /ipns.", NAME_ADVICE));
    };
    let name: IpnsName = name
        .as_str()
        .unwrap_or("\u{fffd}")
        .parse()
        .map_err(|error| Failure::bad(format!("This is no name of IPNS: {}.", cause_of(&error)), NAME_ADVICE))?;
    if wanted.format == Some(Format::IpnsRecord) {
        return ipns::record(names, &name, request, below).await;
    }
    let resolved = resolve(names, &name, (shared.options.env.now)()).await?;
    let cas = public(shared)?;
    let path = [&resolved.path, below].concat();
    let gateway = Gateway { dag: dag_for(cas, request), target, request, boundary, wanted, site: None };
    let answered = gateway.answer(resolved.root, &path).await;
    answered.map(|mut response| {
        ipns::keep_no_longer(response.headers_mut(), resolved.ttl);
        response
    })
}

async fn by_name(
    shared: &Arc<Shared>,
    who: &Who,
    target: &Target,
    request: &Parts,
    boundary: Boundary<'_>,
) -> Result<Response<Body>, Failure> {
    guard::check_origin(request, &shared.options.hosts)?;
    if target.parts.is_empty() {
        return place::mounts(shared, request);
    }
    if ours::is_own(&target.parts) {
        return ours::answer(shared, request, &target.parts).await;
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
            let why = why.as_ref().map(cause_of).unwrap_or_default();
            // Of /ipfs gateways say that the request is bad; elsewhere names come first.
            let is_gateway = is_for_content || mount.prefix().as_str() == PUBLIC_PREFIX;
            let status = if is_gateway { StatusCode::BAD_REQUEST } else { StatusCode::NOT_FOUND };
            return Err(Failure::new(status, format!("Nothing has this name, and it is no CID: {why}."), CID_ADVICE));
        }
    }
    Place { shared, who, target, request, boundary }.answer(mount, names).await
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
    if failure.status == StatusCode::UNAUTHORIZED {
        access::ask(&request.headers, response.headers_mut());
    }
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
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => match method.as_str() {
            "PROPFIND" => "PROPFIND",
            "PROPPATCH" => "PROPPATCH",
            "MKCOL" => "MKCOL",
            "COPY" => "COPY",
            "MOVE" => "MOVE",
            "LOCK" => "LOCK",
            "UNLOCK" => "UNLOCK",
            _ => "other",
        },
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
