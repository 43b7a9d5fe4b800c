//! `serve`: owns the data directory, opens every mount and serves them until it is told to stop.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use muxfs::{
    Error, ErrorKind, Prefix, Result,
    ipns::Records,
    tree::{AutoCommit, Tree},
    vfs::{Fsid, posix::Caller},
};
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::put::host;
use crate::{
    args, arriving,
    bucket::BucketMount,
    collector,
    config::{self, Config, Mount, OverlayMount, Source, Span, Squash, ZstorMount},
    control,
    data_dir::{DataDir, content_dir, private_dir},
    database::{RedisMount, SqliteMount},
    follower,
    host_file::{Mode, replace},
    http_token, hub,
    instance::{self, Instance, flist_dir, fsids, local_dir},
    metrics,
    mounts::MountPoint,
    names::Names,
    output::{self, Output},
    reload,
    reporter::Reporter,
    s3, scrubber,
    signals::{Signals, hangup},
    sources::names_among,
    vault::VaultMount,
    zstor,
};

/// The longest path a Unix socket can have on every system, less the NUL at its end.
const SOCKET_PATH_LEN_MAX: usize = 103;

/// How long to wait after a commit that failed.
const COMMIT_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// How long commands under way on the control socket may take to end once the server was told to: one may wait for
/// input that never comes, as `put -` on a terminal does.
const COMMANDS_WAIT_MAX: Duration = Duration::from_secs(5);

/// Where each frontend accepts: what `--ready-file` tells.
#[derive(Debug, Default, Serialize)]
struct Ready {
    #[serde(skip_serializing_if = "Option::is_none")]
    nfs: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ftp: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    s3: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<PathBuf>,
    control: PathBuf,
    data: PathBuf,
    pid: u32,
}

/// Serves until SIGINT or SIGTERM; a second one ends it at once.
pub(crate) async fn serve(config: Config, args: &args::Serve, output: Output) -> Result<()> {
    let mut source =
        Source { nfs: args.nfs, ftp: args.ftp, http: args.http, s3: args.s3, metrics: args.metrics, ..config.source };
    for dir in &args.mount {
        let dir = std::path::absolute(dir).map_err(|error| host(dir, error))?;
        source.mounts.push(MountPoint { dir, prefix: None, options: String::new() });
    }
    let config = Config::effective(source)?;
    let signals = Signals::new()?;
    let data = DataDir::own(&config.data)?;
    let ready_file = args.ready_file.as_deref();
    if let Some(file) = ready_file {
        // What a killed server left would tell that this one is ready.
        remove_ready(file)?;
    }
    let ready = |config: &Config, ready: &Ready| {
        if output.json {
            output.result(b"", ready)?;
        } else if !output.quiet {
            output::raw(greeting(config, ready).as_bytes())?;
        }
        ready_file.map_or(Ok(()), |file| write_ready(file, ready))
    };
    let done = Box::pin(run(config, data, signals, Until::Signal, ready, output)).await;
    if let Some(file) = ready_file {
        fs::remove_file(file).ok();
    }
    done
}

/// Serves the mounts on this machine that `config` names until they are taken away, or a signal comes.
pub(crate) async fn serve_mounts(
    config: Config,
    data: DataDir,
    ready: impl FnOnce() -> Result<()>,
    output: Output,
) -> Result<()> {
    Box::pin(run(config, data, Signals::new()?, Until::Unmounted { idle: None }, |_, _| ready(), output)).await
}

/// The same, until nothing has used them for `idle`, if that is said.
pub(crate) async fn serve_until_idle(
    config: Config,
    data: DataDir,
    idle: Option<Duration>,
    ready: impl FnOnce() -> Result<()>,
    output: Output,
) -> Result<()> {
    Box::pin(run(config, data, Signals::new()?, Until::Unmounted { idle }, |_, _| ready(), output)).await
}

/// What ends a server, besides a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Signal,
    /// Nothing of it is mounted on this machine any more, or nothing has used it for so long.
    Unmounted {
        idle: Option<Duration>,
    },
}

async fn run(
    config: Config,
    data: DataDir,
    // Heard from here on: one that comes while the stores open is not lost.
    mut signals: Signals,
    until: Until,
    on_ready: impl FnOnce(&Config, &Ready) -> Result<()>,
    output: Output,
) -> Result<()> {
    // As early: until somebody hears it, it ends the process.
    let hangup = if until == Until::Signal { Some(hangup()?) } else { None };
    raise_open_files();
    let recorder = metrics::install()?;
    let instance = Arc::new(Instance::open(config.clone(), &data, Some(&AutoCommit::default())).await?);

    // Names in host directories are as durable as the host makes them.
    let unsynced =
        fsids(&*instance.vfs, &config, |mount| matches!(mount, Mount::Local { .. }) || is_async(mount)).await?;
    let nfs = start_nfs(&instance, &config.nfs, unsynced).map_err(|error| taken(error, "--nfs"))?;
    let unsynced = fsids(&*instance.vfs, &config, is_async).await?;
    let ftp =
        start_ftp(&instance, &config.ftp, &data, unsynced.clone()).await.map_err(|error| taken(error, "--ftp"))?;
    let http = start_http(&instance, &config, &data, unsynced.clone(), recorder.clone()).await?;
    let ordered = fsids(&*instance.vfs, &config, Mount::is_content).await?;
    let s3 = s3::start(&instance, &config, (unsynced, ordered)).await.map_err(|error| taken(error, "--s3"))?;
    for point in &config.fuse.mounts {
        if let Some(awaited) = instance.awaited().find(|awaited| point.is_inside(awaited.prefix())) {
            tracing::warn!(dir = %point.dir.display(), "it is mounted when /{} comes", awaited.prefix());
        } else {
            instance.mounts.mount(point).await?;
        }
    }
    let stop = CancellationToken::new();
    let mut upkeep: Vec<JoinHandle<()>> = instance
        .trees()
        .map(|(prefix, tree)| tokio::spawn(commit_in_time(prefix, tree.clone(), stop.clone())))
        .collect();
    upkeep.push(tokio::spawn(collector::collect_in_time(instance.clone(), stop.clone())));
    upkeep.push(tokio::spawn(scrubber::look_after(instance.clone(), stop.clone())));
    upkeep.push(tokio::spawn(arriving::look_for(instance.clone(), stop.clone())));
    upkeep.push(tokio::spawn(follower::follow(instance.clone(), Names::of(data.path()), stop.clone())));
    if let Some(hangup) = hangup {
        upkeep.push(tokio::spawn(reload::on_hangup(instance.clone(), hangup, stop.clone())));
    }
    let metrics = metrics::serve(recorder, config.metrics.listen.0, stop.clone())
        .await
        .map_err(|error| taken(error, "--metrics"))?;
    let socket = socket_path(data.path())?;
    let control = control::serve(instance.clone(), &socket)?;
    data.announce(&socket)?;

    let ready = Ready {
        nfs: nfs.as_ref().map(muxfs_nfs::Server::local_addr),
        ftp: ftp.as_ref().map(muxfs_ftp::Server::local_addr),
        http: http.as_ref().map(muxfs_http::Server::local_addr),
        s3: s3.as_ref().map(s3::Serving::local_addr),
        metrics: metrics.as_ref().map(|(addr, _)| *addr),
        mounts: config.fuse.mounts.iter().map(|point| point.dir.clone()).collect(),
        control: socket.clone(),
        data: data.path().into(),
        pid: std::process::id(),
    };
    on_ready(&config, &ready)?;

    let by = tokio::select! {
        by = signals.next() => Some(by),
        () = instance.mounts.all_ended(), if matches!(until, Until::Unmounted { .. }) => None,
        idle = idle_for(&instance, until) => {
            output.notice(&format!("muxfs: nothing used it for {}: it is locked", Span(idle)));
            None
        }
    };
    if let Some(by) = by {
        output.notice(&format!("muxfs: {}: finishing what is under way; once more ends at once", by.name()));
    }
    tokio::spawn(async move {
        signals.next().await;
        std::process::exit(1);
    });
    if let Some(nfs) = nfs {
        nfs.shutdown().await;
    }
    if let Some(ftp) = ftp {
        ftp.shutdown().await;
    }
    if let Some(http) = http {
        http.shutdown().await;
    }
    if let Some(s3) = s3 {
        s3.shutdown().await;
    }
    // Commands that come from here on wait for the directory instead of asking.
    data.withdraw()?;
    control.close(COMMANDS_WAIT_MAX).await;
    stop.cancel();
    for task in metrics.map(|(_, task)| task).into_iter().chain(upkeep) {
        finished(task).await;
    }
    fs::remove_file(&socket).ok();
    // Last: no command can mount any more.
    instance.mounts.close().await;
    instance.close().await
}

/// Waits until nothing has used the mounts for as long as is said, and tells how long that is; for ever where nothing is.
async fn idle_for(instance: &Instance, until: Until) -> Duration {
    let Until::Unmounted { idle: Some(idle) } = until else { return std::future::pending().await };
    instance.mounts.idle_for(idle).await;
    idle
}

/// Takes as many open files as the system grants without asking: connections and cached files need one each.
pub(super) fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

pub(super) async fn finished(mut task: JoinHandle<()>) {
    match tokio::time::timeout(COMMANDS_WAIT_MAX, &mut task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "a task failed"),
        Err(_) => {
            tracing::warn!("a reader of metrics did not end in time: it is cut off");
            task.abort();
        }
    }
}

fn is_taken(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::AddrInUse)
}

/// Says what to do where an address is taken.
pub(super) fn taken(error: Error, flag: &str) -> Error {
    if !is_taken(&error) {
        return error;
    }
    let why = format!("another program listens there: give {flag} another port (0 takes a free one), or {flag} off");
    let addr = error.path().unwrap_or_default().to_owned();
    Error::new(error.kind(), error.op()).at(addr).because(why)
}

fn start_nfs(instance: &Instance, config: &config::Nfs, unsynced: Vec<Fsid>) -> Result<Option<muxfs_nfs::Server>> {
    let Some(addr) = config.listen.0 else { return Ok(None) };
    if !addr.ip().is_loopback() && config.allow.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "serve.nfs")
            .at(addr)
            .because("to listen elsewhere than on loopback say who may connect: nfs.allow = [\"192.168.1.0/24\"]"));
    }
    let mut options = muxfs_nfs::Options {
        addr,
        anon_uid: config.anon_uid,
        anon_gid: config.anon_gid,
        read_only: config.read_only,
        squash: match config.squash {
            Squash::Auto => None,
            Squash::None => Some(muxfs_nfs::Squash::None),
            Squash::Root => Some(muxfs_nfs::Squash::Root),
            Squash::All => Some(muxfs_nfs::Squash::All),
        },
        sync_names: true,
        sync_names_except: unsynced,
        env: instance::env(),
        ..muxfs_nfs::Options::default()
    };
    if !config.allow.is_empty() {
        options.allow = config.allow.iter().map(|network| network.parse()).collect::<Result<_>>()?;
    }
    // A server that is not root can only act as itself, whoever asks.
    let own = rustix::process::geteuid();
    if !own.is_root() {
        options.squash = Some(muxfs_nfs::Squash::All);
        options.anon_uid = own.as_raw();
        options.anon_gid = rustix::process::getegid().as_raw();
    }
    muxfs_nfs::serve(instance.vfs.clone(), options).map(Some)
}

fn is_async(mount: &Mount) -> bool {
    matches!(
        mount,
        Mount::Ipfs { is_async: true, .. }
            | Mount::Zstor(ZstorMount { is_async: true, .. })
            | Mount::S3(BucketMount { is_async: true, .. })
            | Mount::Sqlite(SqliteMount { is_async: true, .. })
            | Mount::Redis(RedisMount { is_async: true, .. })
            | Mount::Vault(VaultMount { is_async: true, .. })
            | Mount::Overlay(OverlayMount { is_async: true, .. })
    )
}

/// Commits a working tree whenever it is time, until `stop`; closing commits the rest.
/// Commits what is due in a working tree until `stop`.
pub(crate) async fn commit_in_time(prefix: Prefix, tree: Tree, stop: CancellationToken) {
    loop {
        let wait = tree.tick().await.unwrap_or_else(|error| {
            // Nothing is lost: the journal has it.
            tracing::error!(%prefix, error = format!("{error:#}"), "a commit failed, and is tried again");
            COMMIT_AGAIN_AFTER
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn start_ftp(
    instance: &Instance,
    config: &config::Ftp,
    data: &DataDir,
    unsynced: Vec<Fsid>,
) -> Result<Option<muxfs_ftp::Server>> {
    let Some(addr) = config.listen.0 else { return Ok(None) };
    let tls = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Some(muxfs_ftp::Tls::Files { cert: cert.clone(), key: key.clone() }),
        _ if config.tls_self_signed => {
            let dir = data.path().join("ftp");
            private_dir(&dir)?;
            Some(muxfs_ftp::Tls::SelfSigned { dir })
        }
        _ => None,
    };
    let options = muxfs_ftp::Options {
        addr,
        users: config.users.clone(),
        tls,
        tls_required: config.tls_required,
        passive_ports: config.passive_ports[0]..=config.passive_ports[1],
        passive_host: config.passive_host,
        sync_names_except: unsynced,
        env: instance::env(),
        ..muxfs_ftp::Options::default()
    };
    muxfs_ftp::serve(instance.vfs.clone(), options).await.map(Some)
}

/// At an address that nobody asked for, another program is left in peace: a second server is served by the others.
async fn start_http(
    instance: &Arc<Instance>,
    config: &Config,
    data: &DataDir,
    unsynced: Vec<Fsid>,
    recorder: PrometheusHandle,
) -> Result<Option<muxfs_http::Server>> {
    let Some(addr) = config.http.listen.0 else { return Ok(None) };
    let groups = rustix::process::getgroups().unwrap_or_default();
    let writing = muxfs_http::Writing {
        vfs: instance.vfs.clone(),
        token: http_token::read_or_make(data.path(), &instance::env())?,
        // A server can only act as itself.
        caller: Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
        },
        sync_names_except: unsynced,
    };
    let names: Arc<dyn Records> = Arc::new(Names::of(data.path()));
    let names_elsewhere = names_among(names.clone(), instance.name_sources(), &instance::env());
    let hub = match &config.http.hub {
        Some(hub) => Some(hub::open(hub, config, data.path()).await?),
        None => None,
    };
    let options = muxfs_http::Options {
        addr,
        hosts: config.http.hosts.clone(),
        writing: Some(writing),
        private: config.http.private,
        users: config.http.users.clone(),
        reporter: Some(Arc::new(Reporter { instance: Arc::downgrade(instance), recorder })),
        names: Some(names),
        names_elsewhere: Some(Arc::new(names_elsewhere)),
        hub,
        env: instance::env(),
        ..muxfs_http::Options::default()
    };
    let is_asked_for = config.source.http.is_some() || config.http.listen != config::Listen::at(config::HTTP_ADDR);
    match muxfs_http::serve(instance.mux.clone(), options) {
        Err(error) if is_taken(&error) && !is_asked_for => {
            tracing::warn!("another program listens on {addr}: HTTP is off; --http names another address");
            Ok(None)
        }
        served => served.map(Some).map_err(|error| taken(error, "--http")),
    }
}

/// In the data directory where its path is short enough for a socket, else in a directory of its own.
fn socket_path(data: &Path) -> Result<PathBuf> {
    let socket = data.join("control");
    if socket.as_os_str().as_bytes().len() <= SOCKET_PATH_LEN_MAX {
        return Ok(socket);
    }
    let dir = std::env::temp_dir().join(format!("muxfs-{}", std::process::id()));
    // Made anew, so that it is nobody else's.
    fs::remove_dir_all(&dir).ok();
    private_dir(&dir)?;
    Ok(dir.join("control"))
}

/// Whoever waits for it reads all of it.
pub(super) fn write_ready(file: &Path, ready: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_vec(ready).map_err(|error| Error::new(ErrorKind::Internal, "serve.ready").because(error))?;
    replace(file, &text, Mode::Given(0o666)).map_err(|error| host(file, error))
}

/// Removes what an earlier server left where this one tells that it is ready.
pub(super) fn remove_ready(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(host(file, error)),
        _ => Ok(()),
    }
}

/// What the server tells when it is ready.
fn greeting(config: &Config, ready: &Ready) -> String {
    let mut lines = vec![format!("muxfs {}", env!("CARGO_PKG_VERSION"))];
    for mount in &config.mount {
        let what = match mount {
            Mount::Mem { .. } => "read and written in RAM, gone when the server stops".into(),
            Mount::Local { dir, read_only, .. } => {
                let dir = local_dir(&config.data, dir.as_deref());
                format!("{}, read{}", dir.display(), if *read_only { " only" } else { " and written in place" })
            }
            Mount::Ipfs { prefix, .. } => {
                let dir = content_dir(&config.data, prefix.0);
                let others = match config.ipfs.sources.as_slice() {
                    [] => String::new(),
                    [source] => format!("; what is not there from {}", source.url),
                    [source, more @ ..] => format!("; what is not there from {} and {} more", source.url, more.len()),
                };
                format!("read and written, and content by CID, in {}{others}", dir.display())
            }
            Mount::Flist(flist) => {
                format!("the flists in {}, read only", flist_dir(&config.data, flist.dir.as_deref()).display())
            }
            Mount::Overlay(overlay) => {
                let dir = content_dir(&config.data, overlay.prefix.0);
                format!("read and written over {}, what is changed in {}", overlay.over.0, dir.display())
            }
            Mount::S3(bucket) => bucket.described(),
            Mount::Sqlite(mount) => mount.described(&config.data),
            Mount::Redis(mount) => mount.described(),
            Mount::Vault(mount) => mount.described(&config.data),
            Mount::Zstor(zstor) => {
                let (nodes, key) = (zstor::nodes(&config.data, zstor), zstor::key_file(&config.data, zstor));
                format!(
                    "read and written, encrypted with {}, on {} nodes of which {} may be lost",
                    key.display(),
                    nodes.len(),
                    zstor.parity
                )
            }
        };
        lines.push(format!("  {:7}{what}", format!("/{}", mount.prefix())));
    }
    if let Some(addr) = ready.nfs {
        let (host, port) = (connect_host(addr.ip()), addr.port());
        lines.push(format!("NFSv3 on {addr}"));
        lines.push(format!(
            "  Linux  sudo mount -t nfs -o vers=3,nolock,proto=tcp,mountproto=tcp,port={port},mountport={port} {host}:/ /mnt"
        ));
        lines.push(format!(
            "  macOS  sudo mount -t nfs -o vers=3,nolocks,tcp,port={port},mountport={port} {host}:/ /private/tmp/mnt"
        ));
    }
    if let Some(addr) = ready.ftp {
        let (host, port) = (connect_host(addr.ip()), addr.port());
        let who = if config.ftp.users.is_some() { "-u USER " } else { "" };
        lines.push(format!("FTP on {addr}"));
        lines.push(format!("  lftp   lftp {who}ftp://{host}:{port}/local"));
        lines.push(format!("  curl   curl {who}-T FILE ftp://{host}:{port}/local/"));
    }
    if let Some(addr) = ready.http {
        let of_content = config.mount.iter().find(|mount| mount.is_content());
        let prefix = of_content.map_or("ipfs".to_owned(), |mount| mount.prefix().to_string());
        let (host, port) = (connect_host(addr.ip()), addr.port());
        lines.push(format!("HTTP on {addr}"));
        lines.push(format!("  browse http://{host}:{port}/"));
        lines.push(format!("  curl   curl http://{host}:{port}/{prefix}/CID"));
        lines
            .push("  write  a browser, curl or WebDAV, with what `muxfs http token` prints as the password".to_owned());
    }
    if let Some(addr) = ready.s3 {
        lines.extend(s3::greeting(config, addr));
    }
    for point in &config.fuse.mounts {
        let what = point.prefix.as_deref().unwrap_or("/");
        lines.push(format!("{what} mounted on {}", point.dir.display()));
    }
    if let Some(addr) = ready.metrics {
        lines.push(format!("Metrics on http://{}:{}/metrics", connect_host(addr.ip()), addr.port()));
    }
    lines.push(format!("Data in {}", ready.data.display()));
    lines.push("Put content with: muxfs put -r DIR".into());
    lines.push("ready\n".into());
    lines.join("\n")
}

/// Where a client on this machine finds an address.
pub(crate) fn connect_host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("[{}]", Ipv6Addr::LOCALHOST),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
