//! What each kind of error is to a program: one exhaustive `match`, so that a new kind does not compile until it has an
//! answer here. Spec: spec/fuse.md #errors, spec/errors.md.

use fuser::Errno;
use muxfs::{Error, ErrorKind};

/// The errno of a kind.
///
/// `Unavailable` is EIO here; the mount has waited for `unavailable_after` by then.
pub fn errno_of(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::Exists => Errno::EEXIST,
        ErrorKind::NotEmpty => Errno::ENOTEMPTY,
        ErrorKind::NotDir => Errno::ENOTDIR,
        ErrorKind::IsDir => Errno::EISDIR,
        ErrorKind::ReadOnly => Errno::EROFS,
        ErrorKind::Denied | ErrorKind::BadKey => Errno::EACCES,
        ErrorKind::NotPermitted => Errno::EPERM,
        ErrorKind::InvalidArgument | ErrorKind::BadCookie => Errno::EINVAL,
        ErrorKind::NameTooLong => Errno::ENAMETOOLONG,
        ErrorKind::TooLarge => Errno::EFBIG,
        ErrorKind::Loop => Errno::ELOOP,
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::Quota => Errno::EDQUOT,
        ErrorKind::TooManyLinks => Errno::EMLINK,
        ErrorKind::CrossDevice => Errno::EXDEV,
        ErrorKind::NoAttr => Errno::ENODATA,
        ErrorKind::Stale => Errno::ESTALE,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::Corrupt | ErrorKind::Unavailable | ErrorKind::Io | ErrorKind::Internal => Errno::EIO,
    }
}

/// The errno of an error; what an administrator should hear of is logged.
pub(crate) fn errno(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Internal => tracing::error!("{error:#}"),
        ErrorKind::Unavailable | ErrorKind::BadKey | ErrorKind::NoSpace => tracing::warn!("{error:#}"),
        _ => tracing::debug!("{error:#}"),
    }
    errno_of(error.kind())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// What a program sees of each kind is what `std` calls by the same name, where it has one.
    #[test]
    fn kinds_are_what_programs_call_so() {
        let kind_of = |kind| io::Error::from_raw_os_error(errno_of(kind).code()).kind();
        for (kind, expected) in [
            (ErrorKind::NotFound, io::ErrorKind::NotFound),
            (ErrorKind::Exists, io::ErrorKind::AlreadyExists),
            (ErrorKind::NotEmpty, io::ErrorKind::DirectoryNotEmpty),
            (ErrorKind::NotDir, io::ErrorKind::NotADirectory),
            (ErrorKind::IsDir, io::ErrorKind::IsADirectory),
            (ErrorKind::ReadOnly, io::ErrorKind::ReadOnlyFilesystem),
            (ErrorKind::Denied, io::ErrorKind::PermissionDenied),
            (ErrorKind::InvalidArgument, io::ErrorKind::InvalidInput),
            (ErrorKind::NameTooLong, io::ErrorKind::InvalidFilename),
            (ErrorKind::TooLarge, io::ErrorKind::FileTooLarge),
            (ErrorKind::NoSpace, io::ErrorKind::StorageFull),
            (ErrorKind::Quota, io::ErrorKind::QuotaExceeded),
            (ErrorKind::TooManyLinks, io::ErrorKind::TooManyLinks),
            (ErrorKind::CrossDevice, io::ErrorKind::CrossesDevices),
            (ErrorKind::Stale, io::ErrorKind::StaleNetworkFileHandle),
            (ErrorKind::Unsupported, io::ErrorKind::Unsupported),
        ] {
            assert_eq!(kind_of(kind), expected, "{kind:?}");
        }
    }
}
