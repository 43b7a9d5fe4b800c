//! What an error of the library is over S3.

use muxfs::{Error, ErrorKind};
use s3s::{S3Error, S3ErrorCode};

/// What comes of a request.
pub(crate) type S3Result<T> = Result<T, S3Error>;

/// The status of a disk that is full: no code of S3 says so.
const FULL: u16 = 507;

/// The error of S3 that a kind is, where nothing more is known. Spec: spec/errors.md.
///
/// ```
/// use muxfs::ErrorKind;
/// assert_eq!(muxfs_s3_serve::code_of(ErrorKind::NotFound).as_str(), "NoSuchKey");
/// ```
pub fn code_of(kind: ErrorKind) -> S3ErrorCode {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoAttr | ErrorKind::NotDir => S3ErrorCode::NoSuchKey,
        ErrorKind::Exists | ErrorKind::NotEmpty | ErrorKind::Stale | ErrorKind::IsDir => S3ErrorCode::OperationAborted,
        ErrorKind::InvalidArgument
        | ErrorKind::Loop
        | ErrorKind::TooManyLinks
        | ErrorKind::CrossDevice
        | ErrorKind::BadCookie => S3ErrorCode::InvalidArgument,
        ErrorKind::NameTooLong => S3ErrorCode::KeyTooLongError,
        ErrorKind::ReadOnly | ErrorKind::Denied | ErrorKind::NotPermitted => S3ErrorCode::AccessDenied,
        ErrorKind::TooLarge => S3ErrorCode::EntityTooLarge,
        ErrorKind::Unsupported => S3ErrorCode::NotImplemented,
        ErrorKind::Unavailable => S3ErrorCode::ServiceUnavailable,
        ErrorKind::NoSpace
        | ErrorKind::Quota
        | ErrorKind::BadKey
        | ErrorKind::Corrupt
        | ErrorKind::Io
        | ErrorKind::Internal => S3ErrorCode::InternalError,
    }
}

/// The answer to a request that the file system refused.
#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(crate) fn failed(error: Error) -> S3Error {
    let kind = error.kind();
    let code = code_of(kind);
    // What the environment says may name files of the host: that is for the log.
    if code == S3ErrorCode::InternalError {
        tracing::warn!(error = format!("{error:#}"), "S3: a request failed");
    }
    let mut failure = S3Error::with_message(code, kind.as_str().to_owned());
    if matches!(kind, ErrorKind::NoSpace | ErrorKind::Quota) {
        failure.set_status_code(hyper::StatusCode::from_u16(FULL).expect("three digits"));
    }
    failure
}

/// An answer with a code and a word of why.
pub(crate) fn refuse<T>(code: S3ErrorCode, why: impl Into<std::borrow::Cow<'static, str>>) -> S3Result<T> {
    Err(S3Error::with_message(code, why))
}
