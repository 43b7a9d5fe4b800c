//! `mount` and `umount`: the namespace as a directory of this machine.
//!
//! A server that owns the data directory serves the mount, which ends with it. Without one a process of its own does: in
//! the foreground it is this one, else one that outlives the command, which returns when the mount answers. Either way
//! the process is a server: other commands are carried out by it.

use std::{
    ffi::{OsStr, OsString},
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use muxfs::{Error, ErrorKind, Result};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::{
    args,
    config::{Config, Source},
    control::Client,
    data_dir::{Access, DataDir},
    mounts::MountPoint,
    output::Output,
};

/// How long a server that ends may take until another process can mount, and how often it is tried.
const ENDING_WAIT_MAX: Duration = Duration::from_secs(30);
const ENDING_POLL: Duration = Duration::from_millis(50);

/// What the process that serves a mount tells the command that started it.
const READY: &[u8] = b"ready\n";

fn fail(kind: ErrorKind, why: impl Into<muxfs::BoxError>) -> Error {
    Error::new(kind, "mount").because(why)
}

/// What the command line says of a mount.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn mount_point(args: &args::Mount) -> Result<MountPoint> {
    let (prefix, dir) = match args.places.as_slice() {
        [dir] => (None, dir),
        [prefix, dir] => (Some(text(prefix)?), dir),
        _ => return Err(fail(ErrorKind::InvalidArgument, "give [PREFIX] DIR")),
    };
    let dir = std::path::absolute(Path::new(dir)).map_err(|error| fail(ErrorKind::InvalidArgument, error))?;
    let point = MountPoint { dir, prefix, options: args.options.join(",") };
    point.fuse_options()?;
    Ok(point)
}

/// Takes the words out of the options that stand for flags which `/etc/fstab` has no place for.
pub(crate) fn take_flags(args: &mut args::Mount, global: &mut args::Global) {
    for options in &mut args.options {
        let words = options.split(',').filter(|word| match word.split_once('=') {
            Some(("data", dir)) => {
                global.data = Some(dir.into());
                false
            }
            Some(("config", file)) => {
                global.config = Some(file.into());
                false
            }
            _ => true,
        });
        *options = words.collect::<Vec<_>>().join(",");
    }
}

fn text(text: &OsStr) -> Result<String> {
    let refused = || fail(ErrorKind::InvalidArgument, format!("{} is no prefix", text.display()));
    text.to_str().map(Into::into).ok_or_else(refused)
}

/// Mounts, and returns when the mount answers; in the foreground, when it has ended.
pub(crate) async fn mount(
    config: Config,
    args: &args::Mount,
    server: Option<Client>,
    output: Output,
) -> Result<ExitCode> {
    let point = mount_point(args)?;
    if let Some(server) = server {
        if args.foreground && !args.detached {
            let why = "a server owns the data directory and serves the mount: leave --foreground out";
            return Err(fail(ErrorKind::Unavailable, why));
        }
        match server.mount(&point).await {
            // It ends, and a process of its own is to follow.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            asked => return asked.map(|()| ExitCode::SUCCESS),
        }
    }
    if !args.foreground {
        return in_background();
    }
    if args.detached {
        // From here on the terminal of the command is nothing to this process.
        rustix::process::setsid().map_err(|error| fail(ErrorKind::Internal, error))?;
    }
    let begun = Instant::now();
    loop {
        let holder = match DataDir::own_or_ask(&config.data).await? {
            Access::Owner(data) => {
                Box::pin(serve(config, data, point, args.detached, output)).await?;
                return Ok(ExitCode::SUCCESS);
            }
            Access::Server(holder) => holder,
        };
        let asked = async {
            let socket = holder.socket.ok_or_else(|| fail(ErrorKind::Internal, "a server without a socket"))?;
            Client::connect(socket).await?.mount(&point).await
        };
        match asked.await {
            Ok(()) if args.detached => return tell_ready().map(|()| ExitCode::SUCCESS),
            Ok(()) => return Ok(ExitCode::SUCCESS),
            // It ends, and leaves the directory to us or to another.
            Err(error) if error.kind() == ErrorKind::Unavailable && begun.elapsed() < ENDING_WAIT_MAX => {
                tokio::time::sleep(ENDING_POLL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Owns the data directory and serves the mount until it is taken away.
async fn serve(config: Config, data: DataDir, point: MountPoint, detached: bool, output: Output) -> Result<()> {
    let config = Config::effective(Source { mounts: vec![point], is_mount_alone: true, ..config.source })?;
    let ready = || if detached { tell_ready() } else { Ok(()) };
    Box::pin(super::serve::serve_mounts(config, data, ready, output)).await
}

/// Lets the command go that waits for this process, and with it its terminal and its directory.
fn tell_ready() -> Result<()> {
    let told = || {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        rustix::io::write(rustix::stdio::stdout(), READY)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        std::env::set_current_dir("/")
    };
    told().map_err(|error: std::io::Error| fail(ErrorKind::Io, error))
}

/// Starts this program again, to stay, and waits until it is ready; what it tells of errors goes where ours do.
fn in_background() -> Result<ExitCode> {
    let fail = |error: std::io::Error| fail(ErrorKind::Io, error);
    let program = std::env::current_exe().map_err(fail)?;
    let mut command = Command::new(program);
    let arguments = as_typed(std::env::args_os().collect()).unwrap_or_default();
    command.args(arguments.into_iter().skip(1)).args(["--foreground", "--detached"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(fail)?;
    let mut told = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(READY.len() as u64).read_to_end(&mut told).map_err(fail)?;
    }
    if told == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().map_err(fail)?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Takes a mount away, when everything that was written through it is durable.
pub(crate) async fn umount(args: &args::Umount, server: Option<Client>) -> Result<()> {
    let dir = full_path(&args.dir);
    if let Some(server) = server
        && server.umount(&dir, args.lazy).await?
    {
        return Ok(());
    }
    // Of another data directory, or left by a process that crashed.
    let lazy = args.lazy;
    let taken = tokio::task::spawn_blocking(move || muxfs_fuse::unmount(&dir, lazy));
    taken.await.map_err(|error| fail(ErrorKind::Internal, error))?
}

/// The path under which the kernel knows a directory, also where a dead mount cannot be asked.
fn full_path(dir: &Path) -> PathBuf {
    let canonical = std::fs::canonicalize(dir).or_else(|error| {
        let absolute = std::path::absolute(dir)?;
        match (absolute.parent(), absolute.file_name()) {
            (Some(above), Some(name)) => Ok(std::fs::canonicalize(above)?.join(name)),
            _ => Err(error),
        }
    });
    canonical.unwrap_or_else(|_| dir.into())
}

/// The command line as clap takes it. `mount(8)` and `mount.fuse(8)` call a file system's program in ways of their own:
/// `mount.muxfs SOURCE DIR -o OPTIONS` and `muxfs SOURCE DIR -o OPTIONS`. `None` where nothing is to be done.
pub(crate) fn as_typed(mut args: Vec<OsString>) -> Option<Vec<OsString>> {
    let called = args.first().map(PathBuf::from).unwrap_or_default();
    let is_helper = called.file_name().is_some_and(|name| name.as_bytes().starts_with(b"mount."));
    if is_helper {
        // Fake: all but the mounting itself.
        if args.iter().any(|arg| arg == "-f") {
            return None;
        }
        args.retain(|arg| !matches!(arg.as_bytes(), b"-n" | b"-s" | b"-v"));
    }
    let is_source = |arg: &OsString| arg.is_empty() || arg.as_bytes().starts_with(b"/");
    if is_helper || args.len() > 2 && args.get(1).is_some_and(is_source) {
        args.insert(1, "mount".into());
    }
    Some(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Option<String> {
        let args = line.split(' ').map(OsString::from).collect();
        Some(as_typed(args)?.join(OsStr::new(" ")).into_string().expect("UTF-8"))
    }

    #[test]
    fn the_ways_of_mount_are_understood() {
        for (called, typed_as) in [
            ("/sbin/mount.muxfs /ipfs /mnt/x -n -o rw,dev", "/sbin/mount.muxfs mount /ipfs /mnt/x -o rw,dev"),
            ("muxfs /ipfs /mnt/x -o rw", "muxfs mount /ipfs /mnt/x -o rw"),
            ("muxfs  /mnt/x -o rw", "muxfs mount  /mnt/x -o rw"),
            ("muxfs mount -f /mnt/x", "muxfs mount -f /mnt/x"),
            ("muxfs --data /d mount /mnt/x", "muxfs --data /d mount /mnt/x"),
            ("muxfs ls", "muxfs ls"),
        ] {
            assert_eq!(typed(called).as_deref(), Some(typed_as), "{called}");
        }
        assert_eq!(typed("mount.muxfs /ipfs /mnt/x -f -o rw"), None);
    }
}
