//! What the host's errors mean to a caller: the one place where an errno becomes an [`ErrorKind`].

use muxfs::{Error, ErrorKind};
use rustix::io::Errno;

/// The kind of an errno; what is not listed is `Io`.
pub(super) fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::EXIST => ErrorKind::Exists,
        Errno::NOTEMPTY => ErrorKind::NotEmpty,
        Errno::NOTDIR => ErrorKind::NotDir,
        Errno::ISDIR => ErrorKind::IsDir,
        Errno::ROFS => ErrorKind::ReadOnly,
        // A program that runs cannot be written: not this caller's to change.
        Errno::ACCESS | Errno::TXTBSY => ErrorKind::Denied,
        Errno::PERM => ErrorKind::NotPermitted,
        Errno::INVAL | Errno::DOM => ErrorKind::InvalidArgument,
        Errno::NAMETOOLONG => ErrorKind::NameTooLong,
        Errno::FBIG | Errno::OVERFLOW | Errno::TOOBIG | Errno::RANGE => ErrorKind::TooLarge,
        Errno::LOOP => ErrorKind::Loop,
        Errno::NOSPC => ErrorKind::NoSpace,
        Errno::DQUOT => ErrorKind::Quota,
        Errno::MLINK => ErrorKind::TooManyLinks,
        Errno::XDEV => ErrorKind::CrossDevice,
        Errno::NODATA => ErrorKind::NoAttr,
        Errno::STALE => ErrorKind::Stale,
        Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY => ErrorKind::Unsupported,
        // What ext4, XFS and btrfs say when their own checksums fail.
        Errno::UCLEAN | Errno::BADMSG => ErrorKind::Corrupt,
        Errno::BUSY
        | Errno::AGAIN
        | Errno::INTR
        | Errno::NOMEM
        | Errno::MFILE
        | Errno::NFILE
        | Errno::TIMEDOUT
        | Errno::DEADLK => ErrorKind::Unavailable,
        Errno::BADF | Errno::FAULT => ErrorKind::Internal,
        _ => ErrorKind::Io,
    }
}

/// Turns an errno of `op` into an error that carries it.
pub(super) fn fail(op: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::new(kind_of(errno), op).because(std::io::Error::from(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_that_must_not_be_confused() {
        for (errno, kind) in [
            (Errno::PERM, ErrorKind::NotPermitted),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::NODATA, ErrorKind::NoAttr),
            (Errno::NOENT, ErrorKind::NotFound),
            (Errno::MFILE, ErrorKind::Unavailable),
            (Errno::UCLEAN, ErrorKind::Corrupt),
            (Errno::IO, ErrorKind::Io),
            (Errno::DQUOT, ErrorKind::Quota),
        ] {
            assert_eq!(kind_of(errno), kind, "{errno}");
            assert!(std::error::Error::source(&fail("local.test")(errno)).is_some(), "the errno stays as the cause");
        }
    }
}
