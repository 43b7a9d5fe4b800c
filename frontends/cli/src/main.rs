//! `muxfs`: the program. It names every store and frontend; the work is in the library.
//!
//! `serve` owns the data directory and serves it. Every other command asks the server that does, over the control
//! socket, or owns the data directory itself for as long as it takes. Spec: spec/cli.md.

mod allocator;
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
mod opened;
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

use std::{io, process::ExitCode, time::Duration};

use clap::Parser as _;
use muxfs::{Error, ErrorKind, Result};
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Cli, Command, Zdb},
    opened::VfsInUse,
    signals::Signals,
};

/// Cheap file operations run on the threads that poll; one that waits for a disk must not hold up all others.
const WORKER_COUNT_MIN: usize = 4;

/// What is logged where nothing is said. The library of S3 calls what a client did wrong an error of its own.
const LOGGED: &str = "warn,s3s=off";

fn main() -> ExitCode {
    allocator::tune();
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
        return Box::pin(commands::run(cli, VfsInUse::default())).await;
    }
    let mut signals = Signals::new()?;
    let in_use = VfsInUse::default();
    let mut task = tokio::spawn(commands::run(cli, in_use.clone()));
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
