//! The directory that is mounted on: before, and at the end.
//!
//! Errors say what to do: whoever meets one here is setting the machine up.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use muxfs::{Error, ErrorKind, Result};
use rustix::{
    fs::statfs,
    io::Errno,
    mount::{UnmountFlags, unmount as kernel_unmount},
};

pub(crate) const DEVICE: &str = "/dev/fuse";
const MOUNTS: &str = "/proc/self/mountinfo";
/// What mounts and unmounts for those who are not root.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

fn fail(kind: ErrorKind, dir: &Path, why: impl Into<muxfs::BoxError>) -> Error {
    Error::new(kind, "fuse.mount").at(dir.display()).because(why)
}

/// Whether each event loop can have the device to itself.
pub(crate) fn can_open_device() -> bool {
    OpenOptions::new().read(true).write(true).open(DEVICE).is_ok()
}

/// Checks that something can be mounted, takes away what a crash left, and gives the directory's full path.
pub(crate) fn prepare(dir: &Path) -> Result<PathBuf> {
    if is_dead(dir) {
        tracing::info!(dir = %dir.display(), "a process that ended left this mount: it is replaced");
        unmount(dir, true)?;
    }
    match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(fail(ErrorKind::NotFound, dir, "the directory to mount on is not there: make it first"));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(fail(ErrorKind::Denied, dir, error));
        }
        Err(error) => return Err(fail(ErrorKind::Io, dir, error)),
        Ok(there) if !there.is_dir() => {
            return Err(fail(ErrorKind::NotDir, dir, "only a directory can be mounted on"));
        }
        Ok(_) => {}
    }
    let dir = fs::canonicalize(dir).map_err(|error| fail(ErrorKind::Io, dir, error))?;
    if is_mounted(&dir) {
        return Err(fail(ErrorKind::Exists, &dir, "a MuxFS is mounted there: muxfs umount takes it away"));
    }
    check_device(&dir)?;
    Ok(dir)
}

fn check_device(dir: &Path) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_root => {
            let why = "this container may not use /dev/fuse: start it with --device /dev/fuse --cap-add SYS_ADMIN";
            return Err(fail(ErrorKind::Denied, dir, why));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let why = "/dev/fuse is not open to this user: as root, chmod 666 /dev/fuse, which is what it is elsewhere";
            return Err(fail(ErrorKind::Denied, dir, why));
        }
        Err(_) => {
            let why = "there is no /dev/fuse: load the module (modprobe fuse), or give it to the container (--device /dev/fuse)";
            return Err(fail(ErrorKind::Unsupported, dir, why));
        }
    }
    if !is_root && helper().is_none() {
        let why = "fusermount3 mounts for those who are not root, and is not installed: install the package fuse3";
        return Err(fail(ErrorKind::Unsupported, dir, why));
    }
    Ok(())
}

pub(crate) fn helper() -> Option<&'static str> {
    let runs = |name: &&str| Command::new(name).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    HELPERS.into_iter().find(runs)
}

/// Says what to do about a mount that the system refused.
pub(crate) fn refused(dir: &Path, error: io::Error) -> Error {
    let text = error.to_string();
    if text.contains("user_allow_other") {
        let why =
            "allow_other is refused: as root, write a line user_allow_other to /etc/fuse.conf, or mount without it";
        return fail(ErrorKind::Denied, dir, why);
    }
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ if text.contains("EPERM") || text.contains("ermission denied") || text.contains("not permitted") => {
            ErrorKind::Denied
        }
        _ => ErrorKind::Io,
    };
    fail(kind, dir, error)
}

/// Whether a MuxFS is mounted at a full path.
pub(crate) fn is_mounted(dir: &Path) -> bool {
    let Ok(mounts) = fs::read(MOUNTS) else { return false };
    mounts.split(|byte| *byte == b'\n').any(|line| is_line_of(line, dir))
}

/// Has the kernel read ahead as far as it is told in files of what is mounted at a full path. Only root may, and it costs
/// nothing but time where it cannot be.
pub(crate) fn read_ahead(dir: &Path, len: u32) {
    let Ok(mounts) = fs::read(MOUNTS) else { return };
    // The last one is on top.
    let line = mounts.split(|byte| *byte == b'\n').rfind(|line| is_line_of(line, dir));
    let device = line.and_then(device_of).and_then(|device| std::str::from_utf8(device).ok());
    let Some(device) = device else { return };
    let told = fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), (len / 1024).to_string());
    told.unwrap_or_else(|error| tracing::debug!(%error, "the kernel reads ahead less than it could"));
}

/// The device of a line of mountinfo, as MAJOR:MINOR.
fn device_of(line: &[u8]) -> Option<&[u8]> {
    line.split(|byte| *byte == b' ').nth(2)
}

/// A line of mountinfo: ID PARENT DEV ROOT DIR OPTIONS [FIELDS] - TYPE SOURCE OPTIONS.
fn is_line_of(line: &[u8], dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let mut fields = line.split(|byte| *byte == b' ');
    let is_dir = fields.nth(4).is_some_and(|field| unescaped(field) == dir.as_os_str().as_bytes());
    is_dir && fields.skip_while(|field| *field != b"-").nth(1) == Some(b"fuse.muxfs")
}

/// A field of mountinfo without its octal escapes.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    bytes
}

/// Takes what is mounted at `dir` away; with `lazy` also while it is used, by those who use it until they are done.
///
/// # Errors
/// `Unavailable` while it is used; `InvalidArgument` where nothing is mounted; `Denied`.
pub fn unmount(dir: &Path, lazy: bool) -> Result<()> {
    let fail = |kind, why: muxfs::BoxError| Err(Error::new(kind, "fuse.unmount").at(dir.display()).because(why));
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    match kernel_unmount(dir, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => fail(ErrorKind::Unavailable, BUSY.into()),
        Err(Errno::INVAL) => fail(ErrorKind::InvalidArgument, "nothing is mounted there".into()),
        Err(Errno::PERM) => by_helper(dir, lazy),
        Err(error @ (Errno::NOENT | Errno::NOTDIR)) => fail(ErrorKind::NotFound, error.into()),
        Err(error @ Errno::ACCESS) => fail(ErrorKind::Denied, error.into()),
        Err(error) => fail(ErrorKind::Io, error.into()),
    }
}

/// Whether nobody serves what is mounted at `dir`. Only this call is never answered by the kernel itself: it remembers the
/// attributes of the directory, and goes on showing them when the process that gave them is gone.
fn is_dead(dir: &Path) -> bool {
    statfs(dir).is_err_and(|error| error == Errno::NOTCONN)
}

/// Takes away the mount at a full path if nobody serves it any more, as one whose session failed is left; one that
/// answers is somebody else's, put there since.
pub(crate) fn clear(dir: &Path) {
    if is_mounted(dir)
        && is_dead(dir)
        && let Err(error) = unmount(dir, true)
    {
        tracing::warn!("{error:#}");
    }
}

const BUSY: &str = "programs use it: end them (fuser -vm DIR lists them), or unmount lazily (-l)";

fn by_helper(dir: &Path, lazy: bool) -> Result<()> {
    let fail = |kind, why: muxfs::BoxError| Err(Error::new(kind, "fuse.unmount").at(dir.display()).because(why));
    let Some(helper) = helper() else {
        return fail(ErrorKind::Denied, "only root unmounts without fusermount3: install the package fuse3".into());
    };
    let options: &[&str] = if lazy { &["-u", "-z", "--"] } else { &["-u", "--"] };
    match Command::new(helper).args(options).arg(dir).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if told.contains("busy") {
                return fail(ErrorKind::Unavailable, BUSY.into());
            }
            let kind = if told.contains("not found in") { ErrorKind::InvalidArgument } else { ErrorKind::Denied };
            fail(kind, told.into())
        }
        Err(error) => fail(ErrorKind::Io, error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_place_and_type() {
        let line = b"36 25 0:31 / /mnt/a\\040b rw,nosuid - fuse.muxfs muxfs rw,user_id=0";
        assert!(is_line_of(line, Path::new("/mnt/a b")));
        assert_eq!(device_of(line), Some(&b"0:31"[..]));
        assert!(!is_line_of(line, Path::new("/mnt/a")));
        let tagged = b"36 25 0:31 / /mnt/a rw shared:5 master:1 - fuse.muxfs muxfs rw";
        assert!(is_line_of(tagged, Path::new("/mnt/a")));
        let other = b"36 25 0:31 / /mnt/a rw - fuse.sshfs host: rw";
        assert!(!is_line_of(other, Path::new("/mnt/a")));
        for broken in [&b""[..], b"1 2 3", b"36 25 0:31 / /mnt/a rw -", b"- - - - /mnt/a"] {
            assert!(!is_line_of(broken, Path::new("/mnt/a")));
        }
    }

    #[test]
    fn escapes_are_undone_and_nothing_else() {
        for (field, bytes) in [("a\\040b", "a b"), ("\\134", "\\"), ("\\9", "\\9"), ("a\\", "a\\"), ("\\777", "\\777")]
        {
            assert_eq!(unescaped(field.as_bytes()), bytes.as_bytes());
        }
    }
}
