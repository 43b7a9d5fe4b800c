//! The data directory and its lock: one process owns it.
//!
//! `DATA/lock` is locked with `flock` for as long as its owner lives, so a killed owner leaves nothing to clean up. It
//! holds one line of JSON: the owner's pid and, where it serves, the socket on which it takes commands.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use muxfs::{Error, ErrorKind, Prefix, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// How long a command waits for another command to give the directory back, or for a server to take commands.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(30);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What the lock file says of the owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// Absent while a server is starting, and for a command.
    pub(crate) socket: Option<PathBuf>,
}

/// A data directory that this process owns until it is dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    lock: File,
}

/// Who may use the directory now.
#[derive(Debug)]
pub(crate) enum Access {
    /// This process.
    Owner(DataDir),
    /// A server: ask it.
    Server(Holder),
}

/// What is known of a directory without touching it.
#[derive(Debug)]
pub(crate) enum Peek {
    /// There is none, or nobody ever owned it.
    Absent,
    /// Nobody owns it, nor can anybody for as long as this is held.
    Free(File),
    Server(Holder),
    /// A command owns it, or a server that is starting or ending.
    Busy(Option<u32>),
}

impl DataDir {
    /// Looks who owns a directory; makes and changes nothing.
    ///
    /// # Errors
    /// `Denied`, `NotDir`, `Io`.
    pub(crate) fn peek(path: &Path) -> Result<Peek> {
        let lock = match File::open(path.join("lock")) {
            Ok(lock) => lock,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Peek::Absent),
            Err(error) => return Err(io(path, error)),
        };
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Peek::Free(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(match read_holder(&lock) {
                Some(holder) if holder.socket.is_some() => Peek::Server(holder),
                holder => Peek::Busy(holder.map(|holder| holder.pid)),
            }),
            Err(error) => Err(io(path, error.into())),
        }
    }

    /// Makes the directory if it is absent and takes the lock, at once or not at all.
    ///
    /// # Errors
    /// `Unavailable` naming the owner.
    pub(crate) fn own(path: &Path) -> Result<Self> {
        let lock = open_lock(path)?;
        if try_lock(path, &lock)? {
            return Self { path: path.into(), lock }.announced(None);
        }
        let owner = read_holder(&lock).map_or_else(String::new, |holder| format!(" (pid {})", holder.pid));
        Err(Error::new(ErrorKind::Unavailable, "data.lock")
            .at(path.display())
            .because(format!("another muxfs{owner} owns this data directory: stop it, or give --data DIR")))
    }

    /// Takes the lock, or finds the server that has it; waits for a command that has it to end.
    ///
    /// # Errors
    /// `Unavailable` if neither happens in time.
    pub(crate) async fn own_or_ask(path: &Path) -> Result<Access> {
        let lock = open_lock(path)?;
        let begun = Instant::now();
        loop {
            if try_lock(path, &lock)? {
                return Ok(Access::Owner(Self { path: path.into(), lock }.announced(None)?));
            }
            match read_holder(&lock) {
                Some(holder) if holder.socket.is_some() => return Ok(Access::Server(holder)),
                holder if begun.elapsed() > LOCK_WAIT_MAX => {
                    let owner = holder.map_or_else(String::new, |holder| format!(" (pid {})", holder.pid));
                    return Err(Error::new(ErrorKind::Unavailable, "data.lock").at(path.display()).because(format!(
                        "another muxfs{owner} has used this data directory for 30 s: try again later"
                    )));
                }
                _ => tokio::time::sleep(LOCK_POLL).await,
            }
        }
    }

    /// The socket of the server that last owned a directory, where the lock file names one. Takes no lock and makes no
    /// directory; the server may be gone.
    pub(crate) fn socket_told(path: &Path) -> Option<PathBuf> {
        read_holder(&File::open(path.join("lock")).ok()?)?.socket
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells other processes where this one takes commands.
    pub(crate) fn announce(&self, socket: &Path) -> Result<()> {
        self.write_holder(Some(socket))
    }

    /// Tells other processes that this one takes commands no more.
    pub(crate) fn withdraw(&self) -> Result<()> {
        self.write_holder(None)
    }

    fn announced(self, socket: Option<&Path>) -> Result<Self> {
        self.write_holder(socket)?;
        Ok(self)
    }

    fn write_holder(&self, socket: Option<&Path>) -> Result<()> {
        let holder = Holder { pid: std::process::id(), socket: socket.map(Into::into) };
        let text =
            serde_json::to_string(&holder).map_err(|e| Error::new(ErrorKind::Internal, "data.lock").because(e))?;
        let write = || {
            let mut file = &self.lock;
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")
        };
        write().map_err(|error| io(&self.path, error))
    }
}

fn open_lock(path: &Path) -> Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        if !path.exists() || path.is_dir() {
            return io(path, error);
        }
        Error::new(ErrorKind::NotDir, "data.open")
            .at(path.display())
            .because("a file is there: the data directory is one that muxfs fills itself; name another with --data DIR")
    })?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path.join("lock")).map_err(|error| io(path, error))
}

fn try_lock(path: &Path, lock: &File) -> Result<bool> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(io(path, error.into())),
    }
}

/// What the lock file says; `None` while its owner is writing it.
fn read_holder(mut lock: &File) -> Option<Holder> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(64 << 10).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn io(path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        std::io::ErrorKind::NotADirectory => ErrorKind::NotDir,
        _ => ErrorKind::Io,
    };
    Error::new(kind, "data.open").at(path.display()).because(error)
}

/// The directory of what a mount has on this disk: all of it, or what it keeps beside its blocks.
pub(crate) fn content_dir(data: &Path, prefix: Prefix) -> PathBuf {
    data.join("mounts").join(prefix.as_str())
}

/// Makes a directory below the data directory that only its owner can read.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| io(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let owner = DataDir::own(dir.path()).expect("free");
        let error = DataDir::own(dir.path()).expect_err("taken");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(format!("{error:#}").contains(&std::process::id().to_string()), "{error:#}");
        drop(owner);
        DataDir::own(dir.path()).expect("free again");
    }

    #[test]
    fn who_only_looks_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        assert!(matches!(DataDir::peek(&path), Ok(Peek::Absent)));
        assert!(!path.exists());
        let owner = DataDir::own(&path).expect("free");
        assert!(matches!(DataDir::peek(&path), Ok(Peek::Busy(Some(pid))) if pid == std::process::id()));
        owner.announce(Path::new("/x/control")).expect("writes");
        assert!(matches!(DataDir::peek(&path), Ok(Peek::Server(_))));
        drop(owner);
        let before = fs::read(path.join("lock")).expect("there");
        let looking = DataDir::peek(&path).expect("looked");
        assert!(matches!(looking, Peek::Free(_)));
        assert_eq!(DataDir::own(&path).expect_err("somebody looks").kind(), ErrorKind::Unavailable);
        drop(looking);
        assert_eq!(fs::read(path.join("lock")).expect("there"), before);
        DataDir::own(&path).expect("free again");
    }

    #[tokio::test]
    async fn a_server_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let owner = DataDir::own(dir.path()).expect("free");
        assert_eq!(DataDir::socket_told(dir.path()), None);
        owner.announce(Path::new("/x/control")).expect("writes");
        assert_eq!(DataDir::socket_told(dir.path()).as_deref(), Some(Path::new("/x/control")));
        match DataDir::own_or_ask(dir.path()).await.expect("found") {
            Access::Server(holder) => assert_eq!(holder.socket.as_deref(), Some(Path::new("/x/control"))),
            Access::Owner(_) => panic!("the lock is taken"),
        }
    }
}
