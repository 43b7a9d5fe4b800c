//! The server's side: each call of [`Namespace`] as one route.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, Query, Request, State, connect_info::Connected},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
    serve::{IncomingStream, Listener},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use muxfs::{Cid, Error, ErrorKind, Prefix, QfsPath, dag::Entry};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Mutex,
    task::JoinHandle,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{Failure, Hello, PROTOCOL, PROTOCOL_HEADER, frame, last_frame};
use crate::{
    commands::{car, key, verify_all::VerifyAll, zstor},
    instance::Instance,
    mounts::MountPoint,
    namespace::{Durable, EntryText, Input, Kept, LinkText, Logged, Namespace as _, Place},
    reload::Reloaded,
};

/// The longest directory that a client may put in one request, in bytes of JSON: some ten million entries.
const DIR_LEN_MAX: usize = 2 << 30;

/// What a copy keeps of its source, at most, in bytes of JSON: a MiB of extended attributes in hex, and some holes.
const KEPT_LEN_MAX: usize = 16 << 20;

/// How much of the body of a refused request is let pass, in bytes, and for how long.
const DRAIN_LEN_MAX: usize = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Takes commands on a socket.
#[derive(Debug)]
pub(crate) struct Control {
    task: JoinHandle<()>,
    connections: TaskTracker,
    stop: CancellationToken,
}

/// Takes commands on `socket`.
///
/// # Errors
/// `Io` if the socket cannot be made.
pub(crate) fn serve(instance: Arc<Instance>, socket: &Path) -> Result<Control, Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let fail = |error: std::io::Error| Error::new(ErrorKind::Io, "control.listen").at(socket.display()).because(error);
    // A socket that a killed server left: the lock says that nobody listens there.
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let (connections, stop) = (TaskTracker::new(), CancellationToken::new());
    let listener = Counted { listener: UnixListener::bind(socket).map_err(fail)?, connections: connections.clone() };
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    let app = router(instance).into_make_service_with_connect_info::<Peer>();
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "the control socket failed");
        }
    });
    Ok(Control { task, connections, stop })
}

impl Control {
    /// Takes no more commands once those under way have ended, or `wait_max` is over, which cuts them off. A command
    /// asks more than once: it finds the server there until it lets go of its connections.
    pub(crate) async fn close(self, wait_max: Duration) {
        self.connections.close();
        let ended = tokio::time::timeout(wait_max, self.connections.wait()).await;
        self.stop.cancel();
        if ended.is_err() {
            tracing::warn!("a command did not end in time: it is cut off");
            self.task.abort();
        }
        self.task.await.ok();
    }
}

/// A listener that knows which connections are open.
struct Counted {
    listener: UnixListener,
    connections: TaskTracker,
}

impl Listener for Counted {
    type Io = UnixStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (UnixStream, Peer) {
        let (stream, _) = Listener::accept(&mut self.listener).await;
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        (stream, Peer { uid, _open: self.connections.token() })
    }

    fn local_addr(&self) -> std::io::Result<Peer> {
        Ok(Peer { uid: Some(rustix::process::geteuid().as_raw()), _open: self.connections.token() })
    }
}

/// Who asks, for as long as the connection is open.
#[derive(Debug, Clone)]
struct Peer {
    uid: Option<u32>,
    _open: TaskTrackerToken,
}

impl Connected<IncomingStream<'_, Counted>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Counted>) -> Self {
        stream.remote_addr().clone()
    }
}

fn router(instance: Arc<Instance>) -> Router {
    Router::new()
        .route("/v1/hello", get(hello))
        .route("/v1/config", get(config))
        .route("/v1/config-file", get(config_file))
        .route("/v1/reload", post(reload))
        .route("/v1/default", get(default_write))
        .route("/v1/stat", get(stat))
        .route("/v1/list", get(list))
        .route("/v1/read", get(read))
        .route("/v1/has", get(has))
        .route("/v1/file", post(put).delete(remove))
        .route("/v1/cp", post(cp))
        .route("/v1/dir", post(put_dir))
        .route("/v1/symlink", post(put_symlink))
        .route("/v1/import/file", post(import))
        .route("/v1/import/symlink", post(import_symlink))
        .route("/v1/import/dir", post(import_dir))
        .route("/v1/hold", get(hold))
        .route("/v1/gc", post(gc))
        .route("/v1/pin", post(pin))
        .route("/v1/pin", delete(unpin))
        .route("/v1/pins", get(pins))
        .route("/v1/verify", get(verify))
        .route("/v1/verify-all", get(verify_all))
        .route("/v1/car/export", post(car_export))
        .route("/v1/car/import", post(car_import))
        .route("/v1/doctor", get(doctor))
        .route("/v1/zstor/status", get(zstor_status))
        .route("/v1/zstor/plan", post(zstor_plan))
        .route("/v1/zstor/scrub", post(zstor_scrub))
        .route("/v1/key/rotate", post(key_rotate))
        .route("/v1/link", post(put_link))
        .route("/v1/node", post(put_node))
        .route("/v1/keep", post(keep).layer(DefaultBodyLimit::max(KEPT_LEN_MAX)))
        .route("/v1/commit", post(commit))
        .route("/v1/log", get(log))
        .route("/v1/diff", get(diff))
        .route("/v1/snapshot", post(snapshot).delete(remove_snapshot))
        .route("/v1/checkout", post(checkout))
        .route("/v1/restore", post(restore))
        .route("/v1/mount", post(mount).delete(umount))
        .layer(middleware::from_fn(admit))
        .layer(middleware::from_fn(hear_out))
        .with_state(instance)
}

/// Lets in the same user, or root, speaking this protocol.
async fn admit(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Result<Response, Refusal> {
    let own = rustix::process::geteuid().as_raw();
    if peer.uid != Some(own) && peer.uid != Some(0) {
        let why = format!("the server runs as uid {own}: run the command as the same user");
        return Err(Error::new(ErrorKind::Denied, "control.admit").because(why).into());
    }
    let spoken = request.headers().get(PROTOCOL_HEADER).and_then(|value| value.to_str().ok()).unwrap_or("none");
    if spoken != PROTOCOL {
        let version = env!("CARGO_PKG_VERSION");
        let why = format!(
            "the server is muxfs {version} and speaks protocol {PROTOCOL}, the command {spoken}: use the same program"
        );
        return Err(Error::new(ErrorKind::Unsupported, "control.admit").because(why).into());
    }
    Ok(next.run(request).await)
}

/// Lets pass what is left of the body of a request that was refused: a command that is still sending would find the
/// connection gone, and not hear why.
async fn hear_out(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = Arc::new(Mutex::new(body.into_data_stream()));
    let taken = stream::unfold(body.clone(), |body| async move {
        let piece = body.lock().await.next().await;
        piece.map(|piece| (piece, body))
    });
    let response = next.run(Request::from_parts(parts, Body::from_stream(taken))).await;
    if !response.status().is_success() {
        let drained = tokio::time::timeout(DRAIN_TIME_MAX, async {
            let (mut body, mut left) = (body.lock().await, DRAIN_LEN_MAX);
            while let Some(Ok(piece)) = body.next().await
                && let Some(rest) = left.checked_sub(piece.len())
            {
                left = rest;
            }
        });
        // Whoever sends more than that may hear nothing.
        drained.await.ok();
    }
    response
}

struct Refusal(Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = muxfs_http::status_of(self.0.kind());
        (status, Json(Failure::from(&self.0))).into_response()
    }
}

type Answer<T> = Result<Json<T>, Refusal>;
type Owner = State<Arc<Instance>>;

#[derive(Deserialize)]
struct PathArg {
    path: String,
}

impl PathArg {
    fn place(&self) -> Result<Place, Error> {
        Place::parse(&super::client::path_bytes(&self.path)?)
    }

    fn path(&self) -> Result<QfsPath, Error> {
        QfsPath::parse(&super::client::path_bytes(&self.path)?)
    }
}

/// Where something is put, and whether it is durable with a later call.
#[derive(Deserialize)]
struct PutArg {
    path: String,
    #[serde(default)]
    later: bool,
}

impl PutArg {
    fn taken(self) -> Result<(QfsPath, Durable), Error> {
        Ok((PathArg { path: self.path }.path()?, durable(self.later)))
    }
}

fn durable(later: bool) -> Durable {
    if later { Durable::Later } else { Durable::Now }
}

#[derive(Deserialize)]
struct PutLinkArg {
    path: String,
    target: String,
    #[serde(default)]
    later: bool,
}

#[derive(Deserialize)]
struct LinkArg {
    path: String,
    target: String,
}

#[derive(Deserialize)]
struct MountArg {
    mount: String,
}

#[derive(Deserialize)]
struct PinArg {
    mount: String,
    cid: String,
}

#[derive(Deserialize)]
struct MountsArg {
    mount: Option<String>,
}

#[derive(Deserialize)]
struct HoldArg {
    mount: String,
    cid: Option<String>,
}

#[derive(Deserialize)]
struct GcArg {
    mount: Option<String>,
    dry_run: bool,
}

#[derive(Deserialize)]
struct CarImportArg {
    mount: String,
    all: bool,
    whole: bool,
    /// CIDs between commas; empty for those that the CAR names.
    roots: String,
}

/// What a command on a working tree is about: a note, the name of a snapshot, or a commit.
#[derive(Deserialize)]
struct CommitArg {
    mount: String,
    text: String,
}

#[derive(Deserialize)]
struct DiffArg {
    path: String,
    before: String,
    after: String,
}

#[derive(Deserialize)]
struct RestoreArg {
    commit: String,
    path: String,
    target: String,
}

#[derive(Deserialize)]
struct UmountArg {
    dir: String,
    lazy: bool,
}

async fn hello() -> Json<Hello> {
    Json(Hello {
        program: env!("CARGO_PKG_NAME").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: PROTOCOL.into(),
        pid: std::process::id(),
    })
}

async fn config(State(owner): Owner) -> Answer<String> {
    Ok(Json(owner.config().await?))
}

async fn config_file(State(owner): Owner) -> Answer<Option<PathBuf>> {
    Ok(Json(owner.config.source.file.clone()))
}

async fn reload(State(owner): Owner) -> Answer<Reloaded> {
    Ok(Json(crate::reload::reload(&owner).await?))
}

async fn mount(State(owner): Owner, body: Bytes) -> Answer<()> {
    let point: MountPoint = serde_json::from_slice(&body)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "control.mount").because(error))?;
    Ok(Json(owner.mounts.mount(&point).await?))
}

/// Whether there was a mount of this process.
async fn umount(State(owner): Owner, Query(arg): Query<UmountArg>) -> Answer<bool> {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};
    let dir = PathBuf::from(OsString::from_vec(super::client::path_bytes(&arg.dir)?));
    match owner.mounts.unmount(&dir, arg.lazy).await {
        Some(taken) => Ok(Json(taken.map(|()| true)?)),
        None => Ok(Json(false)),
    }
}

async fn default_write(State(owner): Owner) -> Answer<String> {
    Ok(Json(owner.default_write().await?.to_string()))
}

async fn stat(State(owner): Owner, Query(arg): Query<PathArg>) -> Result<Response, Refusal> {
    Ok(Json(owner.stat(&arg.place()?).await?).into_response())
}

async fn list(State(owner): Owner, Query(arg): Query<PathArg>) -> Result<Response, Refusal> {
    let place = arg.place()?;
    Ok(framed(lines(owner_stream(owner, move |owner, out| async move {
        send_all(owner.list(&place), &out).await;
    }))))
}

async fn read(State(owner): Owner, Query(arg): Query<PathArg>) -> Result<Response, Refusal> {
    let path = arg.path()?;
    Ok(framed(owner_stream(owner, move |owner, out| async move {
        send_all(owner.read(&path), &out).await;
    })))
}

async fn verify(State(owner): Owner, Query(arg): Query<PathArg>) -> Result<Response, Refusal> {
    let path = arg.path()?;
    Ok(framed(lines(owner_stream(owner, move |owner, out| async move {
        send_all(owner.verify(&path), &out).await;
    }))))
}

async fn verify_all(State(owner): Owner, Query(options): Query<VerifyAll>) -> Result<Response, Refusal> {
    Ok(framed(lines(owner_stream(owner, move |owner, out| async move {
        send_all(owner.verify_all(&options), &out).await;
    }))))
}

async fn zstor_status(State(owner): Owner, Query(arg): Query<MountsArg>) -> Answer<Vec<zstor::Status>> {
    let mount = arg.mount.as_deref().map(Prefix::new).transpose()?;
    Ok(Json(owner.zstor_status(mount).await?))
}

async fn zstor_plan(State(owner): Owner, Query(arg): Query<MountsArg>, body: Bytes) -> Answer<zstor::Plan> {
    let mount = arg.mount.as_deref().map(Prefix::new).transpose()?;
    let lose: Vec<String> = serde_json::from_slice(&body)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "control.plan").because(error))?;
    Ok(Json(owner.zstor_plan(mount, &lose).await?))
}

async fn zstor_scrub(State(owner): Owner, Query(options): Query<zstor::Scrub>) -> Result<Response, Refusal> {
    Ok(framed(lines(owner_stream(owner, move |owner, out| async move {
        send_all(owner.zstor_scrub(&options), &out).await;
    }))))
}

async fn key_rotate(State(owner): Owner, Query(options): Query<key::Rotate>) -> Result<Response, Refusal> {
    Ok(framed(lines(owner_stream(owner, move |owner, out| async move {
        send_all(owner.key_rotate(&options), &out).await;
    }))))
}

async fn car_export(State(owner): Owner, Query(arg): Query<PinArg>, body: Bytes) -> Result<Response, Refusal> {
    let (mount, root) = (Prefix::new(&arg.mount)?, arg.cid.parse::<Cid>()?);
    let options: car::Export = serde_json::from_slice(&body)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "control.car").because(error))?;
    let pieces = owner_stream(owner, move |owner, out| async move {
        send_all(owner.car_export(mount, &root, &options), &out).await;
    });
    Ok(framed(pieces.map_ok(|piece| piece.encode())))
}

async fn car_import(State(owner): Owner, Query(arg): Query<CarImportArg>, body: Body) -> Answer<car::Imported> {
    let roots = arg.roots.split(',').filter(|root| !root.is_empty()).map(str::to_owned).collect();
    let options = car::Import { roots, all: arg.all, whole: arg.whole };
    Ok(Json(owner.car_import(Prefix::new(&arg.mount)?, input(body), &options).await?))
}

async fn doctor(State(owner): Owner) -> Response {
    framed(lines(owner_stream(owner, move |owner, out| async move {
        send_all(owner.doctor(), &out).await;
    })))
}

async fn has(State(owner): Owner, Query(arg): Query<PathArg>) -> Answer<bool> {
    Ok(Json(owner.has(&arg.path()?).await?))
}

async fn put(State(owner): Owner, Query(arg): Query<PutArg>, body: Body) -> Answer<String> {
    let (path, durable) = arg.taken()?;
    let path = owner.put(&path, input(body), durable).await?;
    Ok(Json(super::client::path_text(&path.to_bytes())))
}

async fn remove(State(owner): Owner, Query(arg): Query<PathArg>) -> Answer<bool> {
    Ok(Json(owner.delete(&arg.path()?).await?))
}

async fn cp(State(owner): Owner, Query(arg): Query<LinkArg>) -> Result<Response, Refusal> {
    let (source, target) = (PathArg { path: arg.path }.path()?, PathArg { path: arg.target }.path()?);
    Ok(framed(lines(owner_stream(owner, move |owner, out| async move {
        send_all(owner.cp(&source, &target), &out).await;
    }))))
}

async fn put_dir(State(owner): Owner, Query(arg): Query<PutArg>) -> Answer<()> {
    let (path, durable) = arg.taken()?;
    Ok(Json(owner.put_dir(&path, durable).await?))
}

async fn put_symlink(State(owner): Owner, Query(arg): Query<PutArg>, body: Bytes) -> Answer<()> {
    let (path, durable) = arg.taken()?;
    Ok(Json(owner.put_symlink(&path, body, durable).await?))
}

async fn import(State(owner): Owner, Query(arg): Query<MountArg>, body: Body) -> Answer<LinkText> {
    let link = owner.import(Prefix::new(&arg.mount)?, input(body)).await?;
    Ok(Json(link.into()))
}

async fn import_symlink(State(owner): Owner, Query(arg): Query<MountArg>, body: Bytes) -> Answer<LinkText> {
    Ok(Json(owner.import_symlink(Prefix::new(&arg.mount)?, body).await?.into()))
}

async fn import_dir(State(owner): Owner, Query(arg): Query<MountArg>, body: Body) -> Answer<LinkText> {
    let body = axum::body::to_bytes(body, DIR_LEN_MAX)
        .await
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "control.dir").because(error))?;
    let entries: Vec<EntryText> = serde_json::from_slice(&body)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "control.dir").because(error))?;
    let entries = entries.into_iter().map(Entry::try_from).collect::<Result<_, _>>()?;
    Ok(Json(owner.import_dir(Prefix::new(&arg.mount)?, entries).await?.into()))
}

/// Holds for as long as the answer, which has no end, is read: with its connection the client lets go, however it ends.
async fn hold(State(owner): Owner, Query(arg): Query<HoldArg>) -> Result<Response, Refusal> {
    let cid: Option<Cid> = arg.cid.map(|cid| cid.parse()).transpose()?;
    let held = owner.hold(Prefix::new(&arg.mount)?, cid.as_ref()).await?;
    let begun = stream::once(std::future::ready(Ok(Bytes::from_static(b"held"))));
    let endless = stream::once(async move {
        let _held = held;
        std::future::pending().await
    });
    Ok(framed(begun.chain(endless)))
}

async fn gc(State(owner): Owner, Query(arg): Query<GcArg>) -> Result<Response, Refusal> {
    let mount = arg.mount.as_deref().map(Prefix::new).transpose()?;
    Ok(framed(lines(owner_stream(owner, move |owner, out| async move {
        send_all(owner.gc(mount, arg.dry_run), &out).await;
    }))))
}

async fn pin(State(owner): Owner, Query(arg): Query<PinArg>) -> Answer<bool> {
    let cid: Cid = arg.cid.parse()?;
    Ok(Json(owner.pin(Prefix::new(&arg.mount)?, &cid).await?))
}

async fn unpin(State(owner): Owner, Query(arg): Query<PinArg>) -> Answer<bool> {
    let cid: Cid = arg.cid.parse()?;
    Ok(Json(owner.unpin(Prefix::new(&arg.mount)?, &cid).await?))
}

async fn pins(State(owner): Owner, Query(arg): Query<MountsArg>) -> Answer<Vec<(String, String)>> {
    let mount = arg.mount.as_deref().map(Prefix::new).transpose()?;
    let pins = owner.pins(mount).await?;
    Ok(Json(pins.into_iter().map(|(mount, cid)| (mount.to_string(), cid.to_string())).collect()))
}

async fn keep(State(owner): Owner, Query(arg): Query<PutArg>, body: Bytes) -> Answer<()> {
    let (path, durable) = arg.taken()?;
    let kept: Kept = serde_json::from_slice(&body)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "control.keep").because(error))?;
    Ok(Json(owner.keep(&path, &kept, durable).await?))
}

async fn put_link(State(owner): Owner, Query(arg): Query<PutLinkArg>) -> Answer<()> {
    let (path, target) = (PathArg { path: arg.path }.path()?, PathArg { path: arg.target }.path()?);
    Ok(Json(owner.put_link(&path, &target, durable(arg.later)).await?))
}

async fn put_node(State(owner): Owner, Query(arg): Query<PutArg>, body: Bytes) -> Answer<()> {
    let (path, durable) = arg.taken()?;
    let (kind, rdev) = serde_json::from_slice(&body)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, "control.node").because(error))?;
    Ok(Json(owner.put_node(&path, kind, rdev, durable).await?))
}

async fn commit(State(owner): Owner, Query(arg): Query<CommitArg>) -> Answer<String> {
    Ok(Json(owner.commit(Prefix::new(&arg.mount)?, &arg.text).await?.to_string()))
}

async fn log(State(owner): Owner, Query(arg): Query<PathArg>) -> Answer<Vec<Logged>> {
    Ok(Json(owner.log(&arg.path()?).await?))
}

async fn diff(State(owner): Owner, Query(arg): Query<DiffArg>) -> Result<Response, Refusal> {
    let path = PathArg { path: arg.path }.path()?;
    Ok(framed(lines(owner_stream(owner, move |owner, out| async move {
        send_all(owner.diff(&path, &arg.before, &arg.after), &out).await;
    }))))
}

async fn snapshot(State(owner): Owner, Query(arg): Query<CommitArg>) -> Answer<String> {
    Ok(Json(owner.snapshot(Prefix::new(&arg.mount)?, &arg.text).await?.to_string()))
}

async fn remove_snapshot(State(owner): Owner, Query(arg): Query<CommitArg>) -> Answer<()> {
    Ok(Json(owner.remove_snapshot(Prefix::new(&arg.mount)?, &arg.text).await?))
}

async fn checkout(State(owner): Owner, Query(arg): Query<CommitArg>) -> Answer<String> {
    Ok(Json(owner.checkout(Prefix::new(&arg.mount)?, &arg.text).await?.to_string()))
}

async fn restore(State(owner): Owner, Query(arg): Query<RestoreArg>) -> Answer<u64> {
    let (path, target) = (PathArg { path: arg.path }.path()?, PathArg { path: arg.target }.path()?);
    Ok(Json(owner.restore(&arg.commit, &path, &target).await?))
}

/// The body of a request, as it comes.
fn input(body: Body) -> Input {
    Input::Stream(body.into_data_stream().map_err(std::io::Error::other).boxed())
}

/// What a task sends, as a stream: the task borrows the owner for as long as it sends. It ends, wherever it is, when nobody
/// takes what it sends any more.
fn owner_stream<T, F>(
    owner: Arc<Instance>,
    run: impl FnOnce(Arc<Instance>, tokio::sync::mpsc::Sender<Result<T, Error>>) -> F,
) -> impl Stream<Item = Result<T, Error>> + Send + 'static
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (out, items) = tokio::sync::mpsc::channel(4);
    let taken = out.clone();
    let sending = run(owner, out);
    tokio::spawn(async move {
        tokio::select! {
            () = sending => {}
            () = taken.closed() => {}
        }
    });
    stream::unfold(items, |mut items| async move { items.recv().await.map(|item| (item, items)) })
}

/// Sends every item, for as long as somebody takes them.
async fn send_all<T>(mut items: impl Stream<Item = T> + Unpin, out: &tokio::sync::mpsc::Sender<T>) {
    while let Some(item) = items.next().await {
        if out.send(item).await.is_err() {
            break;
        }
    }
}

fn lines<T: Serialize>(
    items: impl Stream<Item = Result<T, Error>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    items.map(|item| {
        let line = serde_json::to_vec(&item?);
        line.map(Bytes::from).map_err(|error| Error::new(ErrorKind::Internal, "control.line").because(error))
    })
}

fn framed(pieces: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Response {
    let mut over = false;
    let frames = pieces
        .map(|piece| match piece {
            Ok(piece) => (frame(&piece), false),
            Err(error) => (last_frame(Err(&error)), true),
        })
        .chain(stream::once(async { (last_frame(Ok(())), true) }))
        .take_while(move |(_, last)| {
            let before = over;
            over |= last;
            std::future::ready(!before)
        })
        .map(|(bytes, _)| Ok::<_, std::convert::Infallible>(bytes));
    Body::from_stream(frames).into_response()
}
