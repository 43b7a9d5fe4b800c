//! One process writes: who does has the lock of a file beside the database.
//!
//! Beside it, and not on it: whoever closes any handle of a database gives up all locks that SQLite has on it in this
//! process. The file stays when it is unlocked, as one that is removed could be locked twice.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use muxfs::{Error, ErrorKind, Result};

use crate::file::beside;

/// A store of this process that was dropped has so much time to end.
const WAIT_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);
/// No more is read of what the holder says of itself, in bytes.
const HOLDER_LEN_MAX: u64 = 200;
const OP: &str = "sqlite.lock";

/// The lock, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _held: File,
}

impl Lock {
    /// Takes the lock of a database. Blocks for as long as a store of this process needs to end.
    ///
    /// # Errors
    /// `Unavailable` where another has it, saying who; `Io`.
    pub(crate) fn take(database: &Path) -> Result<Self> {
        let path = beside(database, "-lock");
        let io = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
                std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Io,
            };
            Error::new(kind, OP).at(path.display()).because(error)
        };
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
        let until = Instant::now() + WAIT_MAX;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(io(error)),
                Err(TryLockError::WouldBlock) => {
                    let holder = holder(&mut file);
                    if holder != me() || Instant::now() > until {
                        let who = if holder.is_empty() { "somebody".into() } else { holder };
                        let why =
                            format!("{who} writes here, and one at a time does: end it, or open it to read alone");
                        return Err(Error::new(ErrorKind::Unavailable, OP).at(database.display()).because(why));
                    }
                    thread::sleep(POLL);
                }
            }
        }
        let said = (|| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(me().as_bytes())
        })();
        match said {
            Ok(()) => Ok(Self { _held: file }),
            Err(error) => Err(io(error)),
        }
    }
}

fn me() -> String {
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(Path::file_name).map(|name| format!(" ({})", name.to_string_lossy()));
    format!("process {}{}", std::process::id(), program.unwrap_or_default())
}

/// What the holder says of itself; nothing where it has not done so yet.
fn holder(file: &mut File) -> String {
    let mut text = Vec::new();
    // It is only shown.
    file.rewind().and_then(|()| file.take(HOLDER_LEN_MAX).read_to_end(&mut text)).ok();
    String::from_utf8_lossy(&text).chars().filter(|char| !char.is_control()).collect()
}
