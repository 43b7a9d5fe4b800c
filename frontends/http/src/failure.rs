//! What goes wrong, as HTTP says it: a status, why, and what to do about it.

use std::error::Error as _;

use axum::http::StatusCode;
use muxfs::{Error, ErrorKind};

/// An answer that is no content.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) why: String,
    /// What whoever asked can do.
    pub(crate) advice: &'static str,
    /// What WebDAV calls it (RFC 4918 16): an element in the namespace `D`.
    pub(crate) condition: Option<String>,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, why: impl Into<String>, advice: &'static str) -> Self {
        Self { status, why: why.into(), advice, condition: None }
    }

    pub(crate) fn with_condition(self, element: String) -> Self {
        Self { condition: Some(element), ..self }
    }

    /// The request cannot be meant.
    pub(crate) fn bad(why: impl Into<String>, advice: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why, advice)
    }

    /// What is there has no form that was asked for.
    pub(crate) fn not_acceptable(why: impl Into<String>) -> Self {
        let advice = "Ask without a format, or with ?format=raw for the block as it is.";
        Self::new(StatusCode::NOT_ACCEPTABLE, why, advice)
    }
}

/// Why a request could not be read, as its error says; nothing where it does not.
pub(crate) fn cause_of(error: &Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// What an error of the library is over HTTP, here and wherever else HTTP is spoken. Spec: spec/errors.md.
///
/// ```
/// use muxfs::ErrorKind;
/// assert_eq!(muxfs_http::status_of(ErrorKind::NoSpace).as_u16(), 507);
/// ```
pub fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoAttr => StatusCode::NOT_FOUND,
        ErrorKind::Exists | ErrorKind::NotEmpty => StatusCode::CONFLICT,
        ErrorKind::NotDir
        | ErrorKind::IsDir
        | ErrorKind::InvalidArgument
        | ErrorKind::NameTooLong
        | ErrorKind::Loop
        | ErrorKind::TooManyLinks
        | ErrorKind::CrossDevice
        | ErrorKind::BadCookie => StatusCode::BAD_REQUEST,
        ErrorKind::ReadOnly => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::Denied | ErrorKind::NotPermitted | ErrorKind::BadKey => StatusCode::FORBIDDEN,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::NoSpace | ErrorKind::Quota => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Stale => StatusCode::GONE,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Corrupt => StatusCode::BAD_GATEWAY,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Io | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn advice_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound | ErrorKind::NotDir => "Check the path; content that was never put here is not found here.",
        ErrorKind::Corrupt => {
            "The stored bytes are not those of the CID, and were not sent. `muxfs verify` tells more."
        }
        ErrorKind::Unavailable => "Try again in a while.",
        ErrorKind::Io | ErrorKind::Internal => "The server's log says more.",
        _ => "",
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        // What the environment says may name files of the host: that is for the log.
        let why = if matches!(kind, ErrorKind::Io | ErrorKind::Internal) {
            tracing::warn!(error = format!("{error:#}"), "HTTP: a request failed");
            kind.as_str().to_owned()
        } else {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let place = error.path().map(|path| format!(" ({path})")).unwrap_or_default();
            format!("{}{place}{cause}", kind.as_str())
        };
        let status = match kind {
            // A path that leads below a file leads nowhere.
            ErrorKind::NotDir => StatusCode::NOT_FOUND,
            // A block that is too long is no fault of the request.
            ErrorKind::TooLarge => StatusCode::INTERNAL_SERVER_ERROR,
            kind => status_of(kind),
        };
        Self::new(status, why, advice_of(kind))
    }
}
