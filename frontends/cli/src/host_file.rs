//! Regular files of the host: one that is put, read at any offset or from its beginning, with its reader told of progress;
//! a small one that is replaced at one stroke, and one that has a password.
//!
//! What is put has to keep the length it had when it was opened: a file that changes while it is read is an error, either
//! way.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use muxfs::{Error, ErrorKind, Result, dag::ReadAt};
use muxfs_zstor::Password;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use crate::{commands::put::host, output::Progress};

/// How much of a file is sent at once.
const SEND_LEN: usize = 256 << 10;
/// Nobody waits longer to edit a file.
const EDITING_WAIT_MAX: Duration = Duration::from_mins(1);
/// Who waits to edit a file looks so often whether it may.
const EDITING_POLL: Duration = Duration::from_millis(20);

/// Opens what a directory was seen to hold. It may be something else by now: a symlink is not followed, a pipe not
/// waited for.
pub(crate) fn open_entry(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Who may use a file that is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Those whom the file in its place let, which has to be there; its owner stays too.
    Kept,
    /// These bits of the mode, as far as the process's mask lets them.
    Given(u32),
}

/// Puts bytes in the place of a file, durably: whoever reads it, and whatever stops in between, finds the one or the other
/// whole. It is written beside its place, so two processes that replace one file leave that of the last.
///
/// # Errors
/// The disk's, with the file as it was; of the last step, the sync of its directory, with the new one in its place.
pub(crate) fn replace(file: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let part = file.with_extension(format!("part-{}", std::process::id()));
    let write = || {
        let before = if let Mode::Kept = mode { Some(fs::metadata(file)?) } else { None };
        // What a killed process of the same number left.
        fs::remove_file(&part)
            .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        // It may have passwords in it: nobody else reads it before it has its mode.
        let first = if let Mode::Given(mode) = mode { mode } else { 0o600 };
        let mut written = OpenOptions::new().write(true).create_new(true).mode(first).open(&part)?;
        if let Some(before) = before {
            fchown(&written, Some(before.uid()), Some(before.gid()))?;
            written.set_permissions(before.permissions())?;
        }
        written.write_all(bytes)?;
        written.sync_all()?;
        fs::rename(&part, file)
    };
    if let Err(error) = write() {
        fs::remove_file(&part).ok();
        return Err(error);
    }
    File::open(dir_of(file))?.sync_all()
}

/// Removes a file, durably; one that is not there is as good.
///
/// # Errors
/// The disk's; of the last step, the sync of its directory, with the file gone.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    File::open(dir_of(file))?.sync_all()
}

/// Reads a file that has a password, which nobody but its owner may use.
///
/// # Errors
/// `Denied` where others may, with what to do; what `failed` makes of the disk's.
pub(crate) fn read_password_file(
    file: &Path,
    op: &'static str,
    failed: impl Fn(io::Error) -> Error,
) -> Result<Zeroizing<Vec<u8>>> {
    let mode = fs::metadata(file).map_err(&failed)?.mode();
    if mode & 0o077 != 0 {
        let why = format!("others than its owner may use this password: chmod 600 {}", file.display());
        return Err(Error::new(ErrorKind::Denied, op).at(file.display()).because(why));
    }
    fs::read(file).map(Zeroizing::new).map_err(failed)
}

/// What a file of a password has in its first line.
///
/// # Errors
/// As [`read_password_file`]; `Io` where it is no text.
pub(crate) fn read_password(file: &Path, op: &'static str) -> Result<Password> {
    let bytes = read_password_file(file, op, |error| host(file, error))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| host(file, io::Error::other(error)))?;
    Ok(Password::new(text.lines().next().unwrap_or_default()))
}

/// Holds the lock of the directory that a file is in, for who reads, edits and replaces that file: each version of it is
/// another file, and one beside it would be left there.
#[derive(Debug)]
pub(crate) struct Editing(#[expect(dead_code, reason = "its lock goes when it is closed")] File);

impl Editing {
    /// Waits until nobody else has it, for a minute at most: a server may ask nodes that do not answer.
    ///
    /// # Errors
    /// `Unavailable` where somebody has it for longer; the disk's.
    pub(crate) async fn begin(file: &Path) -> Result<Self> {
        let editing = Self::within(file, EDITING_WAIT_MAX).await.map_err(|error| host(file, error))?;
        editing.ok_or_else(|| {
            let why = "another command changes a file there, and does not end: wait for it, and try again";
            Error::new(ErrorKind::Unavailable, "host.edit").at(file.display()).because(why)
        })
    }

    /// Waits so long at most; `None` then.
    async fn within(file: &Path, patience: Duration) -> io::Result<Option<Self>> {
        let dir = File::open(dir_of(file))?;
        let deadline = Instant::now() + patience;
        loop {
            match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self(dir))),
                Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => return Ok(None),
                Err(Errno::WOULDBLOCK | Errno::INTR) => tokio::time::sleep(EDITING_POLL).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn dir_of(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An open file and the length that it is to keep.
#[derive(Debug)]
pub(crate) struct HostFile {
    pub(crate) file: File,
    /// In bytes.
    pub(crate) len: u64,
    /// Told of every byte that is read.
    pub(crate) progress: Progress,
}

impl ReadAt for HostFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buf, offset)?;
        // Looking for what is past the end is no progress.
        if offset < self.len {
            self.progress.add_bytes(len as u64);
        }
        Ok(len)
    }
}

impl HostFile {
    /// Its bytes in order; an error at the end where they are fewer or more than its length.
    pub(crate) fn stream(self) -> BoxStream<'static, io::Result<Bytes>> {
        let Self { file, len, progress } = self;
        let begin = (tokio::fs::File::from_std(file), len, Arc::new(progress));
        let pieces = stream::try_unfold(begin, |(mut file, left, progress)| async move {
            // One byte more than is left, to see whether there is more.
            let room = usize::try_from(left).unwrap_or(SEND_LEN).min(SEND_LEN) + usize::from(left < SEND_LEN as u64);
            let mut piece = vec![0; room];
            let got = file.read(&mut piece).await?;
            piece.truncate(got);
            match left.checked_sub(got as u64) {
                None => Err(io::Error::other("the file grew while it was read: put it again")),
                Some(0) if got == 0 => Ok(None),
                Some(_) if got == 0 => Err(io::Error::other("the file shrank while it was read: put it again")),
                Some(left) => {
                    progress.add_bytes(got as u64);
                    Ok(Some((Bytes::from(piece), (file, left, progress))))
                }
            }
        });
        pieces.boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;
    use crate::output::Output;

    async fn streamed(path: &Path, len: u64) -> io::Result<usize> {
        let progress = Output { json: false, quiet: true }.progress(None);
        let file = HostFile { file: File::open(path).expect("there"), len, progress };
        let pieces: Vec<Bytes> = file.stream().try_collect().await?;
        Ok(pieces.iter().map(Bytes::len).sum())
    }

    #[tokio::test]
    async fn a_file_keeps_its_length_or_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        for len in [0, 1, SEND_LEN - 1, SEND_LEN, SEND_LEN + 1, 3 * SEND_LEN] {
            std::fs::write(&path, vec![7; len]).expect("written");
            assert_eq!(streamed(&path, len as u64).await.expect("whole"), len);
            streamed(&path, len as u64 + 1).await.expect_err("it shrank");
            if len > 0 {
                streamed(&path, len as u64 - 1).await.expect_err("it grew");
            }
        }
    }

    #[tokio::test]
    async fn one_edits_a_file_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let editing = Editing::begin(&path).await.expect("free");
        assert!(Editing::within(&path, Duration::ZERO).await.expect("asked").is_none());
        let (next, ()) = tokio::join!(Editing::begin(&path), async {
            tokio::task::yield_now().await;
            drop(editing);
        });
        next.expect("it was waited for");
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_or_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file.toml");
        assert_eq!(replace(&path, b"x", Mode::Kept).expect_err("it is not there").kind(), io::ErrorKind::NotFound);
        let read = || (fs::read(&path).expect("read"), fs::metadata(&path).expect("there").mode() & 0o777);
        replace(&path, b"new", Mode::Given(0o600)).expect("made");
        assert_eq!(read(), (b"new".to_vec(), 0o600));
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("set");
        // What a killed process left is no obstacle.
        fs::write(path.with_extension(format!("part-{}", std::process::id())), "left").expect("written");
        replace(&path, b"kept", Mode::Kept).expect("replaced");
        assert_eq!(read(), (b"kept".to_vec(), 0o640));
        replace(&path, b"given", Mode::Given(0o600)).expect("replaced");
        assert_eq!(read(), (b"given".to_vec(), 0o600));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn entries_are_not_followed_and_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link")).expect("linked");
        open_entry(&dir.path().join("link")).expect_err("not followed");
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        open_entry(&pipe).expect("opened without a writer");
    }
}
