//! The one error of MuxFS: what a caller can do about it, where it arose, on what, and why.
//!
//! Every layer returns it and every frontend turns its [`ErrorKind`] into a reply of its protocol with one exhaustive
//! `match`, so that a new kind does not compile until each protocol has an answer. Spec: spec/errors.md.

use std::fmt;

/// The result of every fallible call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a caller can do, where it arose, on what path, and why. One word wide.
pub struct Error(Box<Detail>);

struct Detail {
    kind: ErrorKind,
    op: &'static str,
    path: Option<String>,
    source: Option<BoxError>,
}

/// What a caller can do. A kind earns its place by a different reaction or errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such name or CID here. (An absent *block* is `None`, not an error.)
    NotFound,
    /// The name is taken.
    Exists,
    /// The directory has entries.
    NotEmpty,
    /// A directory is wanted.
    NotDir,
    /// Anything but a directory is wanted.
    IsDir,
    /// Nothing can be changed here.
    ReadOnly,
    /// The caller has no permission.
    Denied,
    /// Only the owner, or a privileged caller, may.
    NotPermitted,
    /// The request makes no sense: fix it.
    InvalidArgument,
    /// A name is longer than [`NAME_LEN_MAX`](crate::path::NAME_LEN_MAX).
    NameTooLong,
    /// A file, block or value would pass its limit.
    TooLarge,
    /// Too many symlinks.
    Loop,
    /// The disk is full.
    NoSpace,
    /// A quota is used up.
    Quota,
    /// A node has as many names as it may.
    TooManyLinks,
    /// Two mounts cannot share this.
    CrossDevice,
    /// No extended attribute of that name.
    NoAttr,
    /// A directory cookie that was never given.
    BadCookie,
    /// The node is gone.
    Stale,
    /// This store never can.
    Unsupported,
    /// Cannot decrypt: the key is wrong. The bytes may be fine.
    BadKey,
    /// The bytes fail verification. Never returned together with bytes.
    Corrupt,
    /// Not now: try again.
    Unavailable,
    /// The environment failed.
    Io,
    /// A bug of ours.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 25] = [
        Self::NotFound,
        Self::Exists,
        Self::NotEmpty,
        Self::NotDir,
        Self::IsDir,
        Self::ReadOnly,
        Self::Denied,
        Self::NotPermitted,
        Self::InvalidArgument,
        Self::NameTooLong,
        Self::TooLarge,
        Self::Loop,
        Self::NoSpace,
        Self::Quota,
        Self::TooManyLinks,
        Self::CrossDevice,
        Self::NoAttr,
        Self::BadCookie,
        Self::Stale,
        Self::Unsupported,
        Self::BadKey,
        Self::Corrupt,
        Self::Unavailable,
        Self::Io,
        Self::Internal,
    ];

    /// Returns the kind in words for people, lower case, without a full stop.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::Exists => "already exists",
            Self::NotEmpty => "directory not empty",
            Self::NotDir => "not a directory",
            Self::IsDir => "is a directory",
            Self::ReadOnly => "read-only",
            Self::Denied => "permission denied",
            Self::NotPermitted => "operation not permitted",
            Self::InvalidArgument => "invalid argument",
            Self::NameTooLong => "name too long",
            Self::TooLarge => "too large",
            Self::Loop => "too many symbolic links",
            Self::NoSpace => "no space left",
            Self::Quota => "quota exceeded",
            Self::TooManyLinks => "too many links",
            Self::CrossDevice => "crosses from one mount to another",
            Self::NoAttr => "no such attribute",
            Self::BadCookie => "bad directory cookie",
            Self::Stale => "stale: the node is gone",
            Self::Unsupported => "not supported here",
            Self::BadKey => "wrong key",
            Self::Corrupt => "corrupt: the bytes fail verification",
            Self::Unavailable => "unavailable now, try again",
            Self::Io => "input/output error",
            Self::Internal => "internal error",
        }
    }
}

impl Error {
    /// Makes an error of `op`, a constant of the form `"module.verb"`.
    ///
    /// ```
    /// use muxfs::{Error, ErrorKind};
    /// let error = Error::new(ErrorKind::NotFound, "mux.route").at("/nope");
    /// assert_eq!(error.to_string(), "mux.route: not found (/nope)");
    /// ```
    pub fn new(kind: ErrorKind, op: &'static str) -> Self {
        Self(Box::new(Detail { kind, op, path: None, source: None }))
    }

    /// What a caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where it arose, as `"module.verb"`.
    pub fn op(&self) -> &'static str {
        self.0.op
    }

    /// What it is about, if a boundary named it.
    pub fn path(&self) -> Option<&str> {
        self.0.path.as_deref()
    }

    /// Names the path: once, at the boundary that knows it; a second call changes nothing.
    #[must_use]
    pub fn at(mut self, path: impl fmt::Display) -> Self {
        self.0.path.get_or_insert_with(|| path.to_string());
        self
    }

    /// Adds the cause: another error, or a sentence.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }
}

/// `{}` gives one line without the cause, `{:#}` adds the chain of causes after colons.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.op, self.0.kind.as_str())?;
        if let Some(path) = &self.0.path {
            write!(f, " ({path})")?;
        }
        if f.alternate() {
            let mut cause = std::error::Error::source(self);
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#} [{:?}]", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|error| error as _)
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

const _: () = assert!(size_of::<Error>() == size_of::<usize>());
