//! What each kind of error is in NFS version 3: one exhaustive `match`, so that a new kind does not compile until it
//! has an answer here. Spec: spec/nfs.md #status, spec/errors.md.

use muxfs::{Error, ErrorKind};
use nfs3_types::{mount::mountstat3, nfs3::nfsstat3};

/// The status of a kind.
///
/// `Unavailable` is JUKEBOX here; the server makes IO of it when the same call has met it for `unavailable_after`.
pub fn status_of(kind: ErrorKind) -> nfsstat3 {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoAttr => nfsstat3::NFS3ERR_NOENT,
        ErrorKind::Exists => nfsstat3::NFS3ERR_EXIST,
        ErrorKind::NotEmpty => nfsstat3::NFS3ERR_NOTEMPTY,
        ErrorKind::NotDir => nfsstat3::NFS3ERR_NOTDIR,
        ErrorKind::IsDir => nfsstat3::NFS3ERR_ISDIR,
        ErrorKind::ReadOnly => nfsstat3::NFS3ERR_ROFS,
        ErrorKind::Denied | ErrorKind::BadKey => nfsstat3::NFS3ERR_ACCES,
        ErrorKind::NotPermitted => nfsstat3::NFS3ERR_PERM,
        ErrorKind::InvalidArgument | ErrorKind::Loop => nfsstat3::NFS3ERR_INVAL,
        ErrorKind::NameTooLong => nfsstat3::NFS3ERR_NAMETOOLONG,
        ErrorKind::TooLarge => nfsstat3::NFS3ERR_FBIG,
        ErrorKind::NoSpace => nfsstat3::NFS3ERR_NOSPC,
        ErrorKind::Quota => nfsstat3::NFS3ERR_DQUOT,
        ErrorKind::TooManyLinks => nfsstat3::NFS3ERR_MLINK,
        ErrorKind::CrossDevice => nfsstat3::NFS3ERR_XDEV,
        ErrorKind::BadCookie => nfsstat3::NFS3ERR_BAD_COOKIE,
        ErrorKind::Stale => nfsstat3::NFS3ERR_STALE,
        ErrorKind::Unsupported => nfsstat3::NFS3ERR_NOTSUPP,
        ErrorKind::Corrupt | ErrorKind::Io => nfsstat3::NFS3ERR_IO,
        ErrorKind::Unavailable => nfsstat3::NFS3ERR_JUKEBOX,
        ErrorKind::Internal => nfsstat3::NFS3ERR_SERVERFAULT,
    }
}

/// The status of an error; what an administrator should hear of is logged.
pub(crate) fn status(error: &Error) -> nfsstat3 {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Internal => tracing::error!("{error:#}"),
        ErrorKind::Unavailable | ErrorKind::BadKey | ErrorKind::NoSpace => tracing::warn!("{error:#}"),
        _ => tracing::debug!("{error:#}"),
    }
    status_of(error.kind())
}

/// The same for MNT, which knows fewer.
pub(crate) fn mount_status(error: &Error) -> mountstat3 {
    match status(error) {
        nfsstat3::NFS3ERR_NOENT | nfsstat3::NFS3ERR_STALE => mountstat3::MNT3ERR_NOENT,
        nfsstat3::NFS3ERR_NOTDIR => mountstat3::MNT3ERR_NOTDIR,
        nfsstat3::NFS3ERR_ACCES => mountstat3::MNT3ERR_ACCES,
        nfsstat3::NFS3ERR_PERM => mountstat3::MNT3ERR_PERM,
        nfsstat3::NFS3ERR_INVAL => mountstat3::MNT3ERR_INVAL,
        nfsstat3::NFS3ERR_NAMETOOLONG => mountstat3::MNT3ERR_NAMETOOLONG,
        nfsstat3::NFS3ERR_NOTSUPP => mountstat3::MNT3ERR_NOTSUPP,
        nfsstat3::NFS3ERR_SERVERFAULT => mountstat3::MNT3ERR_SERVERFAULT,
        _ => mountstat3::MNT3ERR_IO,
    }
}
