//! `zdb`: a storage node that speaks the protocol of 0-db, and what a 0-db left behind brought over to one.
//!
//! A node is on its own: it has a data directory of its own and takes part in no namespace. Spec: spec/zdb.md, spec/cli.md #zdb.

use std::{fs, net::SocketAddr, path::Path, path::PathBuf, process::ExitCode, sync::Arc};

use muxfs::{Error, ErrorKind, Result};
use muxfs_zdb::{Create, DirHome, Engine, EngineOptions, Mode, ModeRule, Setting, SyncRule, Update, import};
use muxfs_zdb_serve::{Options, Password};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    put::host,
    serve::{connect_host, finished, raise_open_files, remove_ready, taken, write_ready},
};
use crate::{
    args::{NodeMode, NodeSync, Zdb, ZdbImport, ZdbServe},
    host_file::read_password_file,
    instance::env,
    metrics,
    output::{self, Output, count},
    signals::Signals,
};

/// Where the node accepts: what `--ready-file` tells.
#[derive(Debug, Serialize)]
struct Ready {
    #[serde(skip_serializing_if = "Option::is_none")]
    zdb: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<SocketAddr>,
    data: PathBuf,
    pid: u32,
}

/// Runs a command on the node whose directory `--data` names.
pub(crate) async fn zdb(data: Option<&Path>, command: Zdb, output: Output) -> Result<ExitCode> {
    let data = data.ok_or_else(|| {
        let why = "name the directory of the node, which is its own: --data DIR";
        Error::new(ErrorKind::InvalidArgument, "zdb.data").because(why)
    })?;
    let data = std::path::absolute(data).map_err(|error| host(data, error))?;
    match command {
        Zdb::Serve(args) => serve(&data, &args, output).await.map(|()| ExitCode::SUCCESS),
        Zdb::Import(args) => import(&data, &args, output).await,
    }
}

/// Serves until SIGINT, SIGTERM or a `STOP` that is allowed; a second signal ends it at once.
async fn serve(data: &Path, args: &ZdbServe, output: Output) -> Result<()> {
    let ready_file = args.ready_file.as_deref();
    if let Some(file) = ready_file {
        // What a killed server left would tell that this one is ready.
        remove_ready(file)?;
    }
    let options = options(args)?;
    // Heard from here on: one that comes while the engine opens is not lost.
    let signals = Signals::new()?;
    raise_open_files();
    let recorder = metrics::install()?;
    let engine = open(data, args.mode.rule(), args).await?;
    let served = async {
        if let Some(name) = &args.namespace {
            make_namespace(&engine, name, args.password_file.as_deref()).await?;
        }
        run(&engine, options, Node { data, args, recorder, signals }, output).await
    };
    let done = served.await;
    if let Some(file) = ready_file {
        fs::remove_file(file).ok();
    }
    let closed = engine.close().await;
    done.and(closed)
}

/// What a node runs with, besides its engine.
struct Node<'a> {
    data: &'a Path,
    args: &'a ZdbServe,
    recorder: metrics_exporter_prometheus::PrometheusHandle,
    signals: Signals,
}

async fn run(engine: &Engine, options: Options, node: Node<'_>, output: Output) -> Result<()> {
    let Node { data, args, recorder, mut signals } = node;
    let server = muxfs_zdb_serve::serve(engine.clone(), options).map_err(|error| taken(error, "--listen"))?;
    let stop = CancellationToken::new();
    let metrics = metrics::serve(recorder, args.metrics.and_then(|listen| listen.0), stop.clone())
        .await
        .map_err(|error| taken(error, "--metrics"))?;
    let ready = Ready {
        zdb: server.local_addr(),
        socket: server.socket().map(Path::to_owned),
        metrics: metrics.as_ref().map(|(addr, _)| *addr),
        data: data.to_owned(),
        pid: std::process::id(),
    };
    if output.json {
        output.result(b"", &ready)?;
    } else if !output.quiet {
        output::raw(greeting(&ready).as_bytes())?;
    }
    if let Some(file) = &args.ready_file {
        write_ready(file, &ready)?;
    }
    let by = tokio::select! {
        by = signals.next() => by.name(),
        () = server.asked_to_stop() => "stopped",
    };
    output.notice(&format!("muxfs: {by}: finishing what is under way; a signal ends at once"));
    tokio::spawn(async move {
        signals.next().await;
        std::process::exit(1);
    });
    server.shutdown().await;
    stop.cancel();
    if let Some((_, task)) = metrics {
        finished(task).await;
    }
    Ok(())
}

/// What the node tells when it is ready.
fn greeting(ready: &Ready) -> String {
    let mut lines = vec![format!("muxfs {}: a storage node", env!("CARGO_PKG_VERSION"))];
    if let Some(addr) = ready.zdb {
        lines.push(format!("0-db protocol on {addr}"));
        lines.push(format!("  redis-cli   redis-cli -h {} -p {}", connect_host(addr.ip()), addr.port()));
        lines.push(format!("  MuxFS       muxfs zstor node add zdb://{addr}/NAMESPACE"));
    }
    if let Some(socket) = &ready.socket {
        lines.push(format!("0-db protocol on {}", socket.display()));
    }
    if let Some(addr) = ready.metrics {
        lines.push(format!("Metrics on http://{}:{}/metrics", connect_host(addr.ip()), addr.port()));
    }
    lines.push(format!("Data in {}", ready.data.display()));
    lines.push("ready\n".into());
    lines.join("\n")
}

fn options(args: &ZdbServe) -> Result<Options> {
    let default = Options::default();
    let admin = args.admin_password_file.as_deref().map(password).transpose()?;
    let options = Options {
        addr: args.listen.map_or(default.addr, |listen| listen.0),
        socket: args
            .socket
            .as_deref()
            .map(|path| std::path::absolute(path).map_err(|error| host(path, error)))
            .transpose()?,
        admin: admin.map(Password::new).transpose()?,
        stop_allowed: args.allow_stop,
        connections_max: args.connections_max.unwrap_or(default.connections_max),
        env: env(),
        ..default
    };
    options.check().map_err(|error| {
        if options.addr.is_some_and(|addr| !addr.ip().is_loopback()) {
            let why = "to listen elsewhere than on loopback give --admin-password-file FILE: without such a password everybody who connects is administrator";
            return Error::new(error.kind(), error.op()).because(why);
        }
        error
    })?;
    Ok(options)
}

/// What a file has in its first line, which nobody but its owner may read.
fn password(file: &Path) -> Result<Vec<u8>> {
    let bytes = read_password_file(file, "zdb.password", |error| host(file, error))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        let why = "its first line is to be the password";
        return Err(Error::new(ErrorKind::InvalidArgument, "zdb.password").at(file.display()).because(why));
    }
    Ok(line.to_vec())
}

async fn open(data: &Path, mode: ModeRule, args: &ZdbServe) -> Result<Engine> {
    let mut options = EngineOptions { mode, ..EngineOptions::new(&env()) };
    if let Some(len) = args.data_size {
        options.file_len_max =
            u32::try_from(len.0).ok().filter(|len| (1 << 16..=1 << 31).contains(len)).ok_or_else(|| {
                let why = "a data file has 64 KiB to 2 GiB: --data-size 256MiB";
                Error::new(ErrorKind::InvalidArgument, "zdb.data_size").because(why)
            })?;
    }
    options.sync = match args.sync {
        NodeSync::Group => SyncRule::Group,
        NodeSync::Every(every) => SyncRule::Every(every),
    };
    Engine::open(Arc::new(DirHome::open(data)?), options).await
}

/// Makes a namespace where there is none, as a node of `/zstor` wants it: in user mode, without history, private where it
/// has a password. One that is there stays as it is.
async fn make_namespace(engine: &Engine, name: &str, password_file: Option<&Path>) -> Result<()> {
    if engine.namespace(name.as_bytes()).is_some() {
        return Ok(());
    }
    let given = password_file.map(password).transpose()?;
    let made = match engine.create(name.as_bytes()).await? {
        Create::Created(made) => made,
        Create::Taken => return Ok(()),
        Create::BadName => {
            let why = "a namespace has 1 to 128 bytes of UTF-8, without / and control characters, and no dot in front";
            return Err(Error::new(ErrorKind::InvalidArgument, "zdb.namespace").at(name).because(why));
        }
    };
    let mut settings = vec![Setting::Mode(Mode::User), Setting::History(false)];
    if let Some(given) = given {
        settings.extend([Setting::Password(Some(given.into())), Setting::Public(false)]);
    }
    for setting in settings {
        let is_mode = matches!(setting, Setting::Mode(_));
        match engine.update(&made, setting).await? {
            // Of a node whose namespaces are all in one mode.
            Update::FixedMode if is_mode && made.settings().mode == Mode::User => {}
            Update::Done => {}
            Update::FixedMode | Update::InUse => {
                let why = "a node of /zstor is in user mode: leave --mode out";
                return Err(Error::new(ErrorKind::InvalidArgument, "zdb.namespace").at(name).because(why));
            }
        }
    }
    Ok(())
}

/// Imports what a 0-db left, and tells of each namespace what became of it.
async fn import(data: &Path, args: &ZdbImport, output: Output) -> Result<ExitCode> {
    let options = EngineOptions { mode: ModeRule::Mixed, ..EngineOptions::new(&env()) };
    let engine = Engine::open(Arc::new(DirHome::open(data)?), options).await?;
    let source = import::Source { data: args.from_data.clone(), index: args.from_index.clone() };
    let progress = output.progress(None);
    let imported = import::import(&engine, &source, |now| {
        progress.set_bytes(now.done_len);
        progress.say(format!("of {}: {}, {} entries", output::bytes(now.len), now.namespace, count(now.entry_count)));
    });
    let imported = imported.await;
    drop(progress);
    let closed = engine.close().await;
    let report = imported?;
    closed?;
    for done in &report.imported {
        let text = format!("{}: {} keys, {} records", done.namespace, count(done.key_count), count(done.record_count));
        let value = json!({ "namespace": done.namespace, "keys": done.key_count, "records": done.record_count });
        output.result(text.as_bytes(), &value)?;
    }
    for name in &report.taken {
        output::told(&format!(
            "muxfs: {name}: not imported: the node has a namespace of that name, with something in it"
        ));
    }
    for found in &report.mismatches {
        let import::Mismatch { namespace, file, offset, what } = found;
        let text = format!("{namespace}: {file} at {offset}: {what}");
        let value = json!({ "namespace": namespace, "file": file, "offset": offset, "mismatch": what });
        output.result(text.as_bytes(), &value)?;
    }
    if !report.mismatches.is_empty() {
        output::told("muxfs: namespaces with mismatches were not imported");
        return Ok(ExitCode::from(crate::exit_code(ErrorKind::Corrupt)));
    }
    let code =
        if report.taken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(crate::exit_code(ErrorKind::Exists)) };
    Ok(code)
}

impl NodeMode {
    fn rule(self) -> ModeRule {
        match self {
            Self::User => ModeRule::Only(Mode::User),
            Self::Seq => ModeRule::Only(Mode::Sequential),
            Self::Mixed => ModeRule::Mixed,
        }
    }
}
