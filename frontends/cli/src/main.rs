//! `muxfs`: the program. It names every store and frontend; the work is in the library.
//!
//! `serve` owns the data directory and serves it. Every other command asks the server that does, over the control
//! socket, or owns the data directory itself for as long as it takes. Spec: spec/cli.md.

mod args;
mod arriving;
mod bucket;
mod collector;
mod commands;
mod config;
mod control;
mod data_dir;
mod database;
mod flist;
mod follower;
mod host_file;
mod http_token;
mod hub;
mod instance;
mod metrics;
mod mounts;
mod names;
mod namespace;
mod output;
mod overlay;
mod owner;
mod place_node;
mod reload;
mod reporter;
mod restore;
mod s3;
mod scrubber;
mod sealing;
mod signals;
mod sources;
mod take_over;
mod vault;
mod writer;
mod zstor;

use std::{
    ffi::OsStr,
    io,
    process::ExitCode,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{CommandFactory as _, Parser as _};
use muxfs::{Error, ErrorKind, Prefix, Result, dag::Profile, path::QfsPath, vfs::Vfs};
use tracing_subscriber::EnvFilter;

use crate::{
    args::{
        Car, CarImport, Cli, Command, Cp, Flist, FlistImport, Global, Http, Ipfs, IpfsPublish, Key, Name, Pin, Put,
        Zdb, Zstor, ZstorExport, ZstorImport,
    },
    commands::verify_all::VerifyAll,
    config::{Config, Listen, Mount, Source, ZstorNode},
    control::Client,
    data_dir::{Access, DataDir},
    instance::Instance,
    names::Names,
    namespace::{Namespace, Place},
    output::Output,
    signals::Signals,
};

/// Cheap file operations run on the threads that poll; one that waits for a disk must not hold up all others.
const WORKER_COUNT_MIN: usize = 4;

/// How long a piece of memory is at least that is given back as soon as it is freed, in bytes: blocks and their shards are
/// shorter, and are made and freed thousands of times a second.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GIVEN_BACK_LEN: libc::c_int = 8 << 20;
/// How much freed memory an arena keeps at its end, in bytes, and all of them together.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_LEN_MAX: libc::c_int = 16 << 20;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_LEN_OF_ALL: libc::c_int = 64 << 20;

/// Has the allocator share its arenas among threads: glibc makes eight for each processor, and each keeps what was freed to
/// it, so that a server which reads and writes for hours comes to hold several times what it uses. And has them keep what
/// blocks need: else a fifth of the time that an erasure-coded write takes goes into pages that are given back and zeroed
/// again. `MALLOC_ARENA_MAX`, `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_` say otherwise, or `GLIBC_TUNABLES` of all.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn tune_allocator() {
    if std::env::var_os("GLIBC_TUNABLES").is_some() {
        return;
    }
    let arena_count = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let arena_count = libc::c_int::try_from(arena_count).unwrap_or(libc::c_int::MAX);
    for (name, parameter, value) in [
        ("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, arena_count),
        ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, GIVEN_BACK_LEN),
        ("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, (KEPT_LEN_OF_ALL / arena_count).min(KEPT_LEN_MAX)),
    ] {
        if std::env::var_os(name).is_some() {
            continue;
        }
        #[expect(unsafe_code, reason = "the one way to say it from within")]
        // SAFETY: it takes two numbers and sets one of the allocator's; no other thread runs yet.
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn tune_allocator() {}

/// What is logged where nothing is said. The library of S3 calls what a client did wrong an error of its own.
const LOGGED: &str = "warn,s3s=off";

fn main() -> ExitCode {
    tune_allocator();
    let Some(arguments) = commands::mount::as_typed(std::env::args_os().collect()) else { return ExitCode::SUCCESS };
    let cli = Cli::parse_from(arguments);
    let filter = EnvFilter::try_from_env("MUXFS_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    // A log line that cannot be written is lost: its complaint would panic on the same broken pipe.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false).init();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).max(WORKER_COUNT_MIN);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(until_signal(cli));
            // Standard input may still be waited for.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Error::new(ErrorKind::Io, "runtime").because(error)),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            output::told(&format!("muxfs: {error:#}"));
            ExitCode::from(exit_code(error.kind()))
        }
    }
}

/// The exit code of an error: `--help` and spec/cli.md list them.
fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::NameTooLong | ErrorKind::BadCookie => 2,
        ErrorKind::NotFound | ErrorKind::NoAttr | ErrorKind::Stale => 3,
        ErrorKind::Corrupt => 4,
        ErrorKind::Unavailable => 5,
        ErrorKind::Denied | ErrorKind::NotPermitted | ErrorKind::ReadOnly | ErrorKind::BadKey => 6,
        ErrorKind::Exists
        | ErrorKind::NotEmpty
        | ErrorKind::NotDir
        | ErrorKind::IsDir
        | ErrorKind::TooLarge
        | ErrorKind::Loop
        | ErrorKind::NoSpace
        | ErrorKind::Quota
        | ErrorKind::TooManyLinks
        | ErrorKind::CrossDevice
        | ErrorKind::Unsupported
        | ErrorKind::Io
        | ErrorKind::Internal => 1,
    }
}

/// How long a command that was interrupted may take to remove what it has not finished.
const CLEAN_UP_WAIT_MAX: Duration = Duration::from_secs(10);
const CLEAN_UP_POLL: Duration = Duration::from_millis(5);

/// The file system that a command has opened.
type VfsInUse = Arc<OnceLock<Weak<dyn Vfs>>>;

/// What a command has opened.
struct InUse {
    vfs: VfsInUse,
    own: OnceLock<Arc<Own>>,
}

/// Runs the command; one that SIGINT or SIGTERM interrupts is dropped where it waits, and with it what it has not
/// finished. A server ends in its own way.
async fn until_signal(cli: Cli) -> Result<ExitCode> {
    if matches!(
        &cli.command,
        Command::Serve(_)
            | Command::Zdb(Zdb::Serve(_))
            | Command::Mount(args::Mount { foreground: true, .. })
            | Command::Vault(args::Vault::Open(_))
    ) {
        return Box::pin(run(cli, VfsInUse::default())).await;
    }
    let mut signals = Signals::new()?;
    let in_use = VfsInUse::default();
    let mut task = tokio::spawn(run(cli, in_use.clone()));
    let signal = tokio::select! {
        done = &mut task => {
            return done.map_err(|error| Error::new(ErrorKind::Internal, "main.run").because(error))?;
        }
        signal = signals.next() => signal,
    };
    task.abort();
    // One that blocks its thread, as on a pipe that nobody writes to, is not waited for.
    let cleaned_up = async {
        task.await.ok();
        // What was dropped leaves tasks that remove what it had not finished, and use the file system for that.
        while in_use.get().is_some_and(|vfs| vfs.strong_count() > 0) {
            tokio::time::sleep(CLEAN_UP_POLL).await;
        }
    };
    tokio::time::timeout(CLEAN_UP_WAIT_MAX, cleaned_up).await.ok();
    output::told(&format!("muxfs: {}", signal.name()));
    Ok(ExitCode::from(signal.exit_code()))
}

async fn run(cli: Cli, vfs: VfsInUse) -> Result<ExitCode> {
    let in_use = InUse { vfs, own: OnceLock::new() };
    let done = Box::pin(run_in(cli, &in_use)).await;
    // Also one that failed lets others go on with what they share.
    if let (Err(_), Some(own)) = (&done, in_use.own.get())
        && let Err(error) = own.close().await
    {
        tracing::debug!("what was opened did not end well: {error:#}");
    }
    done
}

async fn run_in(mut cli: Cli, in_use: &InUse) -> Result<ExitCode> {
    if let Command::Mount(args) = &mut cli.command {
        commands::mount::take_flags(args, &mut cli.global);
    }
    let output = Output { json: cli.global.json, quiet: cli.global.quiet };
    // A node has no configuration, and its data directory is no other's.
    if let Command::Zdb(command) = cli.command {
        return Box::pin(commands::zdb::zdb(cli.global.data.as_deref(), command, output)).await;
    }
    let Global { config: file, data, local, password_fd, .. } = &cli.global;
    let (file, data, local, password_fd) = (file.clone(), data.clone(), local.clone(), *password_fd);
    let source = Source { file, data, local, password_fd, ..Source::default() };
    let config = effective(source);
    if let Command::Doctor = cli.command {
        return commands::doctor::doctor(config, output).await;
    }
    let config = config?;
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "muxfs", &mut script);
            output::raw(&script)?;
        }
        Command::Key(Key::New { file }) => commands::key::new(&file, output)?,
        Command::FtpUser { name, home, read_only, users } => {
            commands::ftp_user::ftp_user(&name, &home, read_only, users.as_deref()).await?;
        }
        Command::Http(Http::Token) => {
            let token = http_token::read(&config.data)?;
            output
                .result(format!("{}\n", token.as_str()).as_bytes(), &serde_json::json!({ "token": token.as_str() }))?;
        }
        Command::S3(command) => s3::command(&config, &command, output).await?,
        Command::Hub(hub) => commands::hub::hub(&hub, &config, output).await?,
        Command::Vault(command) => return Box::pin(commands::vault::vault(command, config, output)).await,
        Command::Serve(args) => Box::pin(commands::serve::serve(config, &args, output)).await?,
        Command::Mount(args) => {
            let server = server(&config).await?;
            return Box::pin(commands::mount::mount(config, &args, server, output)).await;
        }
        Command::Umount(args) => commands::mount::umount(&args, server(&config).await?).await?,
        Command::Put(put) => Box::pin(self::put(config, in_use, &put, output)).await?,
        Command::Cp(args) => Box::pin(cp(config, in_use, &args, output)).await?,
        Command::Zstor(Zstor::Status { mount }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            commands::zstor::status(&commands::zstor::look(config).await?, mount, output).await?;
        }
        Command::Zstor(Zstor::Plan { lose, mount }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            return commands::zstor::plan(&commands::zstor::look(config).await?, mount, &lose, output).await;
        }
        Command::Zstor(Zstor::Node(node)) => {
            let server = server(&config).await?;
            commands::zstor::change_nodes(config, server, node, output).await?;
        }
        Command::Zstor(Zstor::Import(args)) => {
            Box::pin(zstor_import(config, in_use, &args, output)).await?;
        }
        Command::Zstor(Zstor::Export(args)) => {
            Box::pin(zstor_export(config, in_use, &args, output)).await?;
        }
        Command::Flist(Flist::Import(args)) => Box::pin(flist_import(config, in_use, &args, output)).await?,
        Command::Flist(
            flist @ (Flist::Create { .. } | Flist::Export { .. } | Flist::Commit { .. } | Flist::Add { .. }),
        ) => {
            return Box::pin(flist_make(config, in_use, &flist, output)).await;
        }
        Command::Flist(Flist::Sign { flist, key }) => {
            commands::flist::sign(&flist, &Names::of(&config.data).key(&key)?, output)?;
        }
        Command::Flist(flist) => return commands::flist::flist(&flist, output).await,
        Command::Car(Car::Ls { file }) => commands::car::ls(&file, output).await?,
        Command::Car(Car::Verify { file, whole }) => commands::car::verify(&file, whole, output).await?,
        Command::Car(Car::Import(args)) => Box::pin(car_import(config, in_use, &args, output)).await?,
        Command::Ipfs(Ipfs::Publish(args)) => Box::pin(ipfs_publish(config, in_use, &args, output)).await?,
        Command::Name(name) => Box::pin(self::name(config, in_use, name, output)).await?,
        Command::Reload => {
            let Some(client) = server(&config).await? else {
                let why = "no server runs with this data directory: the next start reads the configuration";
                return Err(Error::new(ErrorKind::Unavailable, "reload").at(config.data.display()).because(why));
            };
            commands::reload(&client, output).await?;
        }
        Command::Config => {
            let text = match server(&config).await? {
                Some(client) => client.config().await?,
                None => config.to_text()?,
            };
            output::raw(text.as_bytes())?;
        }
        other => {
            let namespace = open(config, in_use).await?;
            let done = command(other, &*namespace, output).await?;
            namespace.close().await?;
            return Ok(done);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn command(command: Command, namespace: &dyn Namespace, output: Output) -> Result<ExitCode> {
    match command {
        Command::Get(args) => {
            let keys = commands::key::of_files(args.key_file.as_deref())?;
            let job = commands::get::Job { dest: &args.dest, force: args.force, keys: &keys, output };
            commands::get::get(namespace, &commands::path(&args.path)?, &job).await?;
        }
        Command::Cat { paths, key_file } => {
            let keys = commands::key::of_files(key_file.as_deref())?;
            commands::read::cat(namespace, &all(&paths)?, &keys).await?;
        }
        Command::Ls { path, long } => {
            commands::list::ls(namespace, &commands::place(&path)?, long, output).await?;
        }
        Command::Stat { path } => commands::list::stat(namespace, &commands::place(&path)?, output).await?,
        Command::Has { path } => {
            let has = commands::read::has(namespace, &commands::path(&path)?, output).await?;
            return Ok(if has { ExitCode::SUCCESS } else { ExitCode::from(exit_code(ErrorKind::NotFound)) });
        }
        Command::Rm { paths } => commands::remove::rm(namespace, &all(&paths)?, output).await?,
        Command::Pin(Pin::Ls { mount }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            commands::pin::ls(namespace, mount, output).await?;
        }
        Command::Pin(Pin::Add { path }) => {
            commands::pin::add(namespace, &commands::path(&path)?, output).await?;
        }
        Command::Pin(Pin::Rm { path }) => commands::pin::rm(namespace, &commands::path(&path)?, output).await?,
        Command::Commit { mount, note } => {
            let mount = mount_or_default(namespace, mount.as_deref()).await?;
            commands::history::commit(namespace, mount, &note, output).await?;
        }
        Command::Log { path } => {
            let path = path_or_default(namespace, path.as_deref()).await?;
            commands::history::log(namespace, &path, output).await?;
        }
        Command::Diff { before, after, path } => {
            let path = path_or_default(namespace, path.as_deref()).await?;
            commands::history::diff(namespace, &path, (&before, &after), output).await?;
        }
        Command::Snapshot { name, mount, remove } => {
            let mount = mount_or_default(namespace, mount.as_deref()).await?;
            if remove {
                commands::history::remove_snapshot(namespace, mount, &name, output).await?;
            } else {
                commands::history::snapshot(namespace, mount, &name, output).await?;
            }
        }
        Command::Checkout { commit, mount } => {
            let mount = mount_or_default(namespace, mount.as_deref()).await?;
            commands::history::checkout(namespace, mount, &commit, output).await?;
        }
        Command::Restore { commit, path, dest } => {
            let path = commands::path(&path)?;
            let target = dest.as_deref().map_or_else(|| Ok(path.clone()), commands::path)?;
            commands::history::restore(namespace, &commit, &path, &target, output).await?;
        }
        Command::Car(Car::Export(args)) => commands::car::export(namespace, &args, output).await?,
        Command::Gc { mount, dry_run } => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            commands::gc::gc(namespace, mount, dry_run, output).await?;
        }
        Command::Verify { path, all: true, restart, max_rate } => {
            let mount = path.as_deref().map(mount_of).transpose()?.map(|mount| mount.to_string());
            let options = VerifyAll { mount, restart, rate_max: max_rate.map(|rate| rate.0) };
            commands::verify_all::verify_all(namespace, &options, output).await?;
        }
        Command::Verify { path, .. } => {
            let path = path.ok_or_else(|| Error::new(ErrorKind::Internal, "main.verify"))?;
            commands::verify::verify(namespace, &commands::path(&path)?, output).await?;
        }
        Command::Zstor(Zstor::Scrub { mount, restart, max_rate }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?.map(|mount| mount.to_string());
            let options = commands::zstor::Scrub { mount, restart, rate_max: max_rate.map(|rate| rate.0) };
            commands::zstor::scrub(namespace, &options, output).await?;
        }
        Command::Zstor(Zstor::Repair { mount }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?;
            commands::zstor::repair(namespace, mount, output).await?;
        }
        Command::Key(Key::Rotate { mount, no_wait }) => {
            let mount = mount.as_deref().map(mount_of).transpose()?.map(|mount| mount.to_string());
            commands::key::rotate(namespace, &commands::key::Rotate { mount, wait: !no_wait }, output).await?;
        }
        Command::Serve(_)
        | Command::Zdb(_)
        | Command::Name(_)
        | Command::Reload
        | Command::Zstor(
            Zstor::Status { .. } | Zstor::Plan { .. } | Zstor::Node(_) | Zstor::Import(_) | Zstor::Export(_),
        )
        | Command::Mount(_)
        | Command::Umount(_)
        | Command::Put(_)
        | Command::Cp(_)
        | Command::Car(Car::Import(_) | Car::Ls { .. } | Car::Verify { .. })
        | Command::Ipfs(_)
        | Command::Flist(_)
        | Command::Doctor
        | Command::Config
        | Command::Key(Key::New { .. })
        | Command::FtpUser { .. }
        | Command::Http(_)
        | Command::S3(_)
        | Command::Hub(_)
        | Command::Vault(_)
        | Command::Completions { .. } => {
            return Err(Error::new(ErrorKind::Internal, "main.command").because("this command needs no namespace"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn put(config: Config, in_use: &InUse, args: &Put, output: Output) -> Result<()> {
    let keys = commands::key::of_files(args.key_file.as_deref())?;
    let job = commands::put::Job { source: &args.source, recursive: args.recursive, key: keys.first(), output };
    let target = args.target.as_deref().map(commands::path).transpose()?;
    if args.only_hash {
        let profile = Profile::from(args.profile.unwrap_or(config.profile));
        let prefix = target.map_or_else(|| Prefix::new("ipfs"), |target| Ok(target.prefix))?;
        return commands::put::only_hash(&job, profile, prefix).await;
    }
    let served = open(config, in_use).await?;
    // A server does the work with its own configuration, whatever this command was given.
    let config = Config::parse(&served.config().await?)?;
    if args.profile.is_some_and(|profile| profile != config.profile) {
        return Err(Error::new(ErrorKind::InvalidArgument, "put.profile").because(
            "the profile belongs to the whole data directory, so that the same content has the same CID everywhere: set it in the configuration, or use --profile with --only-hash",
        ));
    }
    let target = match target {
        Some(target) => target,
        None => QfsPath { prefix: served.default_write().await?, parts: Vec::new() },
    };
    let mount = mount_to_write("put", &served, &config, &target)?;
    let way = match mount {
        Some(Mount::Local { .. }) => commands::put::Way::Place { keep: false },
        _ if owner::names_a_place(&target) => commands::put::Way::Place { keep: true },
        _ => commands::put::Way::Content,
    };
    commands::put::put(&*served, &job, &target, way).await?;
    served.close().await
}

async fn cp(config: Config, in_use: &InUse, args: &Cp, output: Output) -> Result<()> {
    let (source, target) = (commands::path(&args.source)?, commands::path(&args.dest)?);
    let served = open(config, in_use).await?;
    mount_to_write("cp", &served, &Config::parse(&served.config().await?)?, &target)?;
    // What was copied before it failed stays.
    let done = commands::cp::cp(&*served, &source, &target, output).await;
    served.close().await?;
    done
}

/// The mount that a command puts into, if there is one.
///
/// # Errors
/// `Unavailable` where that would be the RAM of this process.
fn mount_to_write<'a>(
    op: &'static str,
    served: &Opened,
    config: &'a Config,
    target: &QfsPath,
) -> Result<Option<&'a Mount>> {
    let mount = config.mount.iter().find(|mount| mount.prefix() == target.prefix);
    if matches!((served, mount), (Opened::Own(_), Some(Mount::Mem { .. }))) {
        return Err(Error::new(ErrorKind::Unavailable, op).at(target).because(
            "this mount is the RAM of a server, and none is running: start one with muxfs serve, or choose another mount",
        ));
    }
    Ok(mount)
}

async fn car_import(config: Config, in_use: &InUse, args: &CarImport, output: Output) -> Result<()> {
    let served = open(config, in_use).await?;
    let mount = mount_or_default(&*served, args.into.as_deref()).await?;
    let target = QfsPath { prefix: mount, parts: Vec::new() };
    mount_to_write("car.import", &served, &Config::parse(&served.config().await?)?, &target)?;
    // What was imported before one failed stays.
    let done = commands::car::import(&*served, mount, args, output).await;
    served.close().await?;
    done
}

async fn flist_import(config: Config, in_use: &InUse, args: &FlistImport, output: Output) -> Result<()> {
    let target = args.target.as_deref().map(commands::path).transpose()?;
    let served = open(config, in_use).await?;
    let target = match target {
        Some(target) => target,
        None => QfsPath { prefix: served.default_write().await?, parts: Vec::new() },
    };
    let config = Config::parse(&served.config().await?)?;
    let mount = mount_to_write("flist.import", &served, &config, &target)?;
    let by_name = owner::names_a_place(&target);
    let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "flist.import").at(&target).because(why));
    match mount {
        Some(Mount::Local { .. } | Mount::Flist(_)) => {
            return refuse(
                "an flist is imported into a content-addressed mount; read it below /flist to copy it elsewhere",
            );
        }
        _ if !by_name && !target.parts.is_empty() => return refuse("content goes to the mount, by no name of its own"),
        _ => {}
    }
    // What was imported before one failed stays.
    let done = commands::flist::import(&*served, &args.flist, &args.sources, (&target, by_name), output).await;
    served.close().await?;
    done
}

async fn flist_make(config: Config, in_use: &InUse, flist: &Flist, output: Output) -> Result<ExitCode> {
    if !commands::flist::needs_namespace(flist) {
        return commands::flist::create::<Opened>(flist, None, output).await;
    }
    let served = Arc::new(open(config, in_use).await?);
    let done = match flist {
        Flist::Export { making, path, output: target } => {
            commands::flist::export(&served, &commands::path(path)?, (making, target), output).await
        }
        Flist::Commit { making, path, output: target } => {
            let config = Config::parse(&served.config().await?)?;
            commands::flist::commit(&served, &config, &commands::path(path)?, (making, target), output).await
        }
        flist => commands::flist::create(flist, Some(&served), output).await,
    };
    served.close().await?;
    done
}

async fn ipfs_publish(config: Config, in_use: &InUse, args: &IpfsPublish, output: Output) -> Result<()> {
    let node = sources::publish_node(&config.ipfs, args.to.as_ref())?;
    let served = open(config, in_use).await?;
    let done = commands::ipfs::publish(&*served, &node, args, output).await;
    served.close().await?;
    done
}

async fn name(config: Config, in_use: &InUse, name: Name, output: Output) -> Result<()> {
    let names = Names::of(&config.data);
    match name {
        Name::Publish(args) => {
            let ipfs = config.ipfs.clone();
            let namespace = open(config, in_use).await?;
            let done = commands::name::publish(&names, &*namespace, &args, &ipfs, output).await;
            namespace.close().await?;
            done
        }
        Name::Resolve { name } => {
            let ipfs = match server(&config).await? {
                Some(client) => Config::parse(&client.config().await?)?.ipfs,
                None => config.ipfs,
            };
            commands::name::tell(&names, &ipfs, &name, output).await
        }
        Name::Ls => commands::name::ls(&names, output).await,
        Name::New { label } => commands::name::new(&names, &label, output).await,
        Name::Export { label, file } => commands::name::export(&names, &label, &file, output),
        Name::Import { label, file } => commands::name::import(&names, &label, &file, output).await,
        Name::Accept { name, file } => commands::name::accept(&names, &name, &file, output).await,
    }
}

async fn zstor_import(config: Config, in_use: &InUse, args: &ZstorImport, output: Output) -> Result<()> {
    let job = commands::zstor::Import {
        cluster: commands::zstor::cluster(&args.zstor_config)?,
        paths: &args.paths,
        all: args.all,
        paths_from: args.paths_from.as_deref(),
        force: args.force,
        memory: args.memory,
        output,
    };
    let target = args.to.as_deref().map(commands::path).transpose()?;
    let served = open(config, in_use).await?;
    let target = match target {
        Some(target) => target,
        None => QfsPath { prefix: served.default_write().await?, parts: Vec::new() },
    };
    mount_to_write("zstor.import", &served, &Config::parse(&served.config().await?)?, &target)?;
    if target.cid().is_some() {
        return Err(Error::new(ErrorKind::InvalidArgument, "zstor.import")
            .at(&target)
            .because("files are imported under names: give a directory by its name, as /ipfs/old"));
    }
    // What was imported before one failed stays.
    let done = commands::zstor::import(&*served, &target, &job).await;
    served.close().await?;
    done
}

async fn zstor_export(config: Config, in_use: &InUse, args: &ZstorExport, output: Output) -> Result<()> {
    let sources = all(&args.sources)?;
    let job = commands::zstor::Export {
        cluster: commands::zstor::cluster(&args.zstor_config)?,
        sources: &sources,
        recursive: args.recursive,
        path: args.path.as_deref(),
        force: args.force,
        memory: args.memory,
        output,
    };
    let served = open(config, in_use).await?;
    let done = commands::zstor::export(&*served, &job).await;
    served.close().await?;
    done
}

/// The configuration of a file, with the flags that win over it.
pub(crate) fn effective(mut source: Source) -> Result<Config> {
    let mut config = Config::load(source.file.as_deref())?;
    if let Some(data) = &source.data {
        config.data.clone_from(data);
    }
    config.nfs.listen = source.nfs.unwrap_or(config.nfs.listen);
    config.ftp.listen = source.ftp.unwrap_or(config.ftp.listen);
    config.http.listen = source.http.unwrap_or(config.http.listen);
    config.s3.listen = source.s3.unwrap_or(config.s3.listen);
    config.metrics.listen = source.metrics.unwrap_or(config.metrics.listen);
    if source.is_mount_alone {
        for listen in [
            &mut config.nfs.listen,
            &mut config.ftp.listen,
            &mut config.http.listen,
            &mut config.s3.listen,
            &mut config.metrics.listen,
        ] {
            *listen = Listen(None);
        }
        config.fuse.mounts.clear();
    }
    config.fuse.mounts.extend(source.mounts.iter().cloned());
    if let Some(local) = &source.local {
        let mut locals = config.mount.iter_mut().filter_map(|mount| match mount {
            Mount::Local { dir, .. } => Some(dir),
            _ => None,
        });
        let dir = locals.next().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "args.local").because("the configuration has no mount of kind local")
        })?;
        *dir = Some(local.clone());
    }
    config.check()?;
    // The working directory may be another where the path is used.
    let of_mounts = config.mount.iter_mut().flat_map(|mount| match mount {
        Mount::Local { dir, .. } => dir.iter_mut().collect(),
        Mount::Zstor(zstor) => {
            let files = zstor.nodes.iter_mut().flatten().flat_map(ZstorNode::files_mut);
            files.chain(&mut zstor.key).collect::<Vec<_>>()
        }
        Mount::S3(bucket) => bucket.files_mut().collect(),
        Mount::Sqlite(mount) => mount.files_mut().collect(),
        Mount::Redis(mount) => mount.files_mut().collect(),
        Mount::Vault(mount) => mount.files_mut().collect(),
        Mount::Flist(flist) => flist.dir.iter_mut().collect(),
        Mount::Mem { .. } | Mount::Ipfs { .. } | Mount::Overlay(_) => Vec::new(),
    });
    let ftp = [&mut config.ftp.users, &mut config.ftp.tls_cert, &mut config.ftp.tls_key, &mut config.http.users];
    let hub = config.http.hub.iter_mut().flat_map(|hub| hub.dir.iter_mut().chain(&mut hub.users));
    for path in of_mounts.chain(ftp.into_iter().flatten()).chain(hub).chain([&mut config.data]).chain(&mut source.file)
    {
        *path = std::path::absolute(&*path)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, "args.path").at(path.display()).because(error))?;
    }
    Ok(Config { source, ..config })
}

/// How long a server may take to answer on the socket that it told.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
const CONNECT_POLL: Duration = Duration::from_millis(50);

/// Who does the work.
enum Opened {
    Own(Arc<Own>),
    Server(Client),
}

/// The stores, by a process that owns them.
struct Own {
    instance: Instance,
    is_closed: AtomicBool,
    _data: DataDir,
}

impl Own {
    /// Ends the work with them; does nothing the second time.
    async fn close(&self) -> Result<()> {
        if self.is_closed.swap(true, Ordering::Relaxed) { Ok(()) } else { self.instance.close().await }
    }
}

impl Opened {
    async fn close(&self) -> Result<()> {
        match self {
            Self::Own(own) => own.close().await,
            Self::Server(_) => Ok(()),
        }
    }
}

impl std::ops::Deref for Opened {
    type Target = dyn Namespace;
    fn deref(&self) -> &Self::Target {
        match self {
            Self::Own(own) => &own.instance,
            Self::Server(client) => client,
        }
    }
}

async fn open(config: Config, in_use: &InUse) -> Result<Opened> {
    let mut refused = None;
    loop {
        match DataDir::own_or_ask(&config.data).await? {
            // A command leaves it to a server, or to `commit`, when to commit what it wrote: the journal keeps it.
            Access::Owner(data) => {
                let instance = Box::pin(Instance::open(config, &data, None)).await?;
                in_use.vfs.set(Arc::downgrade(&instance.vfs)).ok();
                let own = Arc::new(Own { instance, is_closed: AtomicBool::new(false), _data: data });
                in_use.own.set(own.clone()).ok();
                return Ok(Opened::Own(own));
            }
            Access::Server(holder) => {
                let socket = holder.socket.ok_or_else(|| Error::new(ErrorKind::Internal, "main.open"))?;
                match Client::connect(socket).await {
                    // What a killed server left, read before its successor wrote its own.
                    Err(error)
                        if error.kind() == ErrorKind::Unavailable
                            && refused.get_or_insert_with(Instant::now).elapsed() < CONNECT_WAIT_MAX =>
                    {
                        tokio::time::sleep(CONNECT_POLL).await;
                    }
                    connected => return connected.map(Opened::Server),
                }
            }
        }
    }
}

/// The server that owns the data directory, if one does. Opens no store and makes no directory.
async fn server(config: &Config) -> Result<Option<Client>> {
    let Some(socket) = DataDir::socket_told(&config.data) else { return Ok(None) };
    match Client::connect(socket).await {
        // What a killed server left.
        Err(error) if error.kind() == ErrorKind::Unavailable => Ok(None),
        connected => connected.map(Some),
    }
}

fn all(paths: &[std::ffi::OsString]) -> Result<Vec<QfsPath>> {
    paths.iter().map(|path| commands::path(path)).collect()
}

/// The mount that is named, else the default one.
async fn mount_or_default(namespace: &dyn Namespace, named: Option<&OsStr>) -> Result<Prefix> {
    match named {
        Some(mount) => mount_of(mount),
        None => namespace.default_write().await,
    }
}

/// The path that is named, else the default mount.
async fn path_or_default(namespace: &dyn Namespace, named: Option<&OsStr>) -> Result<QfsPath> {
    match named {
        Some(path) => commands::path(path),
        None => Ok(QfsPath { prefix: namespace.default_write().await?, parts: Vec::new() }),
    }
}

/// A mount, named as `ipfs` or `/ipfs`.
fn mount_of(text: &OsStr) -> Result<Prefix> {
    match text.to_str() {
        Some(text) if !text.starts_with('/') => Prefix::new(text),
        _ => match commands::place(text)? {
            Place::Path(path) if path.parts.is_empty() => Ok(path.prefix),
            _ => Err(Error::new(ErrorKind::InvalidArgument, "args.mount").because("name a mount, as /ipfs")),
        },
    }
}
