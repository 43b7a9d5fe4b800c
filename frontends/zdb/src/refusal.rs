//! Why a command was not carried out, and the words for it: 0-db's where it has any.

use muxfs::{Error, ErrorKind};
use muxfs_zdb::Refused;

use crate::client::Cause;

/// The connection's namespace was removed: it ends.
pub(crate) const GONE: &str = "Your active namespace is not available anymore (probably removed).";

/// Why a command was not carried out.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// For this reason.
    Text(&'static str),
    /// It takes administrator's rights.
    Denied,
    /// The engine could not.
    Failed(Error),
    /// The connection is lost: nobody is there to be told.
    Lost(Cause),
}

/// What comes of a command that replies by itself where it goes well.
pub(crate) type Done = Result<(), Refusal>;

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A refusal with a text.
pub(crate) fn refuse<T>(text: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Text(text))
}

/// The words for a write that the engine refused.
pub(crate) fn refused(why: Refused) -> &'static str {
    match why {
        Refused::Frozen => "Namespace is temporarily frozen (read-write disabled)",
        Refused::Locked => "Namespace is temporarily locked (read-only)",
        Refused::KeyTooLong => "Key too large",
        Refused::ValueTooLong => "Payload too big",
        Refused::KeyNeeded => "Invalid argument, key needed",
        Refused::UnknownId => "Invalid key, only update authorized",
        Refused::Worm => "Namespace is protected by worm mode",
        Refused::Quota => "No space left on this namespace",
    }
}

/// The words for what the engine could not do.
pub(crate) fn failed(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Stale | ErrorKind::NotFound => GONE,
        ErrorKind::NoSpace | ErrorKind::Quota => "No space left on the disk of this server",
        ErrorKind::ReadOnly => "Namespace is in read-only mode",
        ErrorKind::TooLarge | ErrorKind::NameTooLong => "Payload too big",
        ErrorKind::Denied | ErrorKind::NotPermitted => "Cannot write data right now (permission denied on the server)",
        ErrorKind::Unavailable => "Cannot write data right now (unavailable, try again)",
        ErrorKind::Io => "Cannot write data right now (input/output error: after it is mended, RELOAD the namespace)",
        ErrorKind::Corrupt => "Internal Error (corrupt: the bytes fail verification)",
        ErrorKind::Unsupported => "Internal Error (not supported here)",
        ErrorKind::InvalidArgument => "Invalid Request",
        ErrorKind::Exists
        | ErrorKind::NotEmpty
        | ErrorKind::NotDir
        | ErrorKind::IsDir
        | ErrorKind::Loop
        | ErrorKind::TooManyLinks
        | ErrorKind::CrossDevice
        | ErrorKind::NoAttr
        | ErrorKind::BadCookie
        | ErrorKind::BadKey
        | ErrorKind::Internal => "Internal Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clients that there are tell a full server and a read-only one by these words.
    #[test]
    fn what_clients_look_for_is_said() {
        assert!(
            failed(ErrorKind::NoSpace).contains("No space left") && refused(Refused::Quota).contains("No space left")
        );
        assert!(refused(Refused::Worm).contains("worm mode") && refused(Refused::Locked).contains("read-only"));
        for kind in ErrorKind::ALL {
            assert!(!failed(kind).contains(['\r', '\n']), "{kind:?}");
        }
    }
}
