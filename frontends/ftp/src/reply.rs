//! Replies: a code, lines of bytes, and the one place where an [`ErrorKind`] becomes a code.

use muxfs::{Error, ErrorKind};

/// The `op` of an error about an offset that cannot be started at: a code of its own (RFC 3659 5.4).
pub(crate) const RESTART_OP: &str = "ftp.restart";

/// A reply: one line, or several of which the client knows the end by the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    lines: Vec<Vec<u8>>,
}

impl Reply {
    pub(crate) fn new(code: u16, text: impl Into<Vec<u8>>) -> Self {
        Self { code, lines: vec![text.into()] }
    }

    /// A reply of a first line, indented ones, and a last line.
    pub(crate) fn many(code: u16, first: &str, middle: impl IntoIterator<Item = Vec<u8>>, last: &str) -> Self {
        let mut lines = vec![first.as_bytes().to_vec()];
        lines.extend(middle.into_iter().map(|line| [b" ", line.as_slice()].concat()));
        lines.push(last.as_bytes().to_vec());
        Self { code, lines }
    }

    /// A 257 with a path in quotes, quotes within doubled (RFC 959 appendix II).
    pub(crate) fn path(path: &[u8], text: &str) -> Self {
        let mut line = vec![b'"'];
        for byte in path {
            if *byte == b'"' {
                line.push(b'"');
            }
            line.push(*byte);
        }
        line.extend_from_slice(b"\" ");
        line.extend_from_slice(text.as_bytes());
        Self::new(257, line)
    }

    /// The bytes on the wire: no line can end early, and a byte 255 is doubled as telnet wants.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut wire = Vec::new();
        let last = self.lines.len().saturating_sub(1);
        for (index, line) in self.lines.iter().enumerate() {
            match (index, last) {
                (index, last) if index == last => wire.extend_from_slice(format!("{} ", self.code).as_bytes()),
                (0, _) => wire.extend_from_slice(format!("{}-", self.code).as_bytes()),
                _ => {}
            }
            for byte in line {
                match byte {
                    b'\r' | b'\n' | 0 => wire.push(b'?'),
                    0xff => wire.extend_from_slice(&[0xff, 0xff]),
                    byte => wire.push(*byte),
                }
            }
            wire.extend_from_slice(b"\r\n");
        }
        wire
    }
}

impl From<&Error> for Reply {
    fn from(error: &Error) -> Self {
        let kind = error.kind();
        let why = match kind {
            ErrorKind::InvalidArgument | ErrorKind::Unsupported | ErrorKind::Unavailable => {
                std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default()
            }
            _ => String::new(),
        };
        let code = if error.op() == RESTART_OP { 554 } else { code(kind) };
        Self::new(code, format!("{}{why}.", sentence(kind.as_str())))
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Self {
        tracing::debug!(error = format!("{error:#}"), "refused");
        Self::from(&error)
    }
}

fn sentence(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The code of a failed command. Spec: spec/errors.md.
pub(crate) fn code(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::NotFound
        | ErrorKind::Exists
        | ErrorKind::NotEmpty
        | ErrorKind::NotDir
        | ErrorKind::IsDir
        | ErrorKind::ReadOnly
        | ErrorKind::Denied
        | ErrorKind::NotPermitted
        | ErrorKind::Loop
        | ErrorKind::TooManyLinks
        | ErrorKind::CrossDevice
        | ErrorKind::NoAttr
        | ErrorKind::BadCookie
        | ErrorKind::Stale
        | ErrorKind::BadKey => 550,
        ErrorKind::InvalidArgument | ErrorKind::NameTooLong => 553,
        ErrorKind::TooLarge | ErrorKind::Quota => 552,
        ErrorKind::NoSpace => 452,
        ErrorKind::Unsupported => 502,
        ErrorKind::Unavailable => 450,
        ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Internal => 451,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_a_refusal() {
        for kind in ErrorKind::ALL {
            let reply = Reply::from(&Error::new(kind, "test.op"));
            assert!((400..600).contains(&reply.code), "{kind:?}: {}", reply.code);
        }
    }

    #[test]
    fn nothing_in_a_reply_ends_it_early() {
        let wire = Reply::new(550, b"a\r\n226 done\0\xff".to_vec()).encode();
        assert_eq!(wire, b"550 a??226 done?\xff\xff\r\n");
        let wire = Reply::many(211, "Features", [b"SIZE".to_vec(), b"226 x".to_vec()], "End").encode();
        assert_eq!(wire, b"211-Features\r\n SIZE\r\n 226 x\r\n211 End\r\n");
    }

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(Reply::path(b"/a \"q\"", "created.").encode(), b"257 \"/a \"\"q\"\"\" created.\r\n");
    }
}
