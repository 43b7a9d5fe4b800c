//! What a request asks for: the parts of its path, as bytes, and its query.
//!
//! The only place where percent-encoding is undone, once. A part that could lead elsewhere (`.`, `..`, one with a slash or
//! a NUL in it, however encoded) is refused here, before anything is looked up. Spec: spec/http.md #paths.

use axum::http::{StatusCode, Uri};
use muxfs::{
    ErrorKind, Name,
    path::{PATH_LEN_MAX, PATH_PART_COUNT_MAX},
};

use crate::failure::{Failure, cause_of};

const PATH_ADVICE: &str = "A path is /ipfs/CID, and names below it after slashes.";

/// A path and its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The parts between slashes, decoded; empty ones are left out.
    pub(crate) parts: Vec<Name>,
    /// Whether the path ends with a slash.
    pub(crate) is_dir: bool,
    pub(crate) query: Query,
}

impl Target {
    pub(crate) fn parse(uri: &Uri) -> Result<Self, Failure> {
        let path = uri.path();
        if path.len() > 3 * PATH_LEN_MAX {
            return Err(too_long("The path is too long."));
        }
        let mut parts = Vec::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let decoded = percent_decode(part.as_bytes())
                .ok_or_else(|| Failure::bad("A % in the path is not followed by two hex digits.", PATH_ADVICE))?;
            let name = Name::new(&decoded).map_err(|error| {
                let why = format!("A part of the path is no name: {}.", cause_of(&error));
                if error.kind() == ErrorKind::NameTooLong { too_long(why) } else { Failure::bad(why, PATH_ADVICE) }
            })?;
            parts.push(name);
        }
        let len: usize = parts.iter().map(|part| part.as_bytes().len() + 1).sum();
        if parts.len() > PATH_PART_COUNT_MAX || len > PATH_LEN_MAX {
            return Err(too_long("The path is too long."));
        }
        Ok(Self { is_dir: path.ends_with('/'), parts, query: Query::parse(uri.query().unwrap_or_default())? })
    }

    /// The path as it stands in a URL, with one slash between its parts.
    pub(crate) fn path(&self) -> String {
        let mut path = path_of(&self.parts);
        if self.is_dir || path.is_empty() {
            path.push('/');
        }
        path
    }
}

/// A path, or a part of it, that is longer than any can be.
fn too_long(why: impl Into<String>) -> Failure {
    Failure::new(StatusCode::URI_TOO_LONG, why, PATH_ADVICE)
}

/// Parts as they stand in a URL; nothing for no parts.
pub(crate) fn path_of(parts: &[Name]) -> String {
    parts.iter().fold(String::new(), |path, part| path + "/" + &percent_encode(part.as_bytes()))
}

/// The parameters that follow `?`; of one that is there twice, the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// As it was asked, to be kept in a redirect.
    pub(crate) text: String,
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let decode = |text: &str| {
            let bytes = percent_decode(text.replace('+', " ").as_bytes());
            bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
                Failure::bad("The query is not percent-encoded UTF-8.", "Check what follows the ? of the address.")
            })
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        });
        Ok(Self { text: text.to_owned(), pairs: pairs.collect::<Result<_, Failure>>()? })
    }

    /// The value of a parameter.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }
}

/// Undoes percent-encoding; `None` where a `%` begins no octet.
pub(crate) fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            byte => *byte,
        });
    }
    Some(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| digit.try_into().ok())
}

/// A name as one part of a path of a URL.
pub(crate) fn percent_encode(bytes: &[u8]) -> String {
    percent_encode_all_but(b"-_.~$&+=:@", bytes)
}

/// Text as the value of a parameter of a query, or in a header as RFC 8187 has it.
pub(crate) fn percent_encode_value(text: impl AsRef<[u8]>) -> String {
    percent_encode_all_but(b"-_.~", text.as_ref())
}

fn percent_encode_all_but(plain: &[u8], bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || plain.contains(byte) {
            text.push(char::from(*byte));
            return text;
        }
        text + &format!("%{byte:02X}")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(path: &str) -> Result<Vec<Vec<u8>>, StatusCode> {
        let uri: Uri = path.parse().expect("a URI");
        let target = Target::parse(&uri).map_err(|failure| failure.status)?;
        Ok(target.parts.iter().map(|part| part.as_bytes().to_vec()).collect())
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for path in [
            "/ipfs/../etc/passwd",
            "/ipfs/./a",
            "/ipfs/%2e%2e/a",
            "/ipfs/%2E./a",
            "/ipfs/.%2e",
            "/ipfs/a%2fb",
            "/ipfs/a%2F..%2fb",
            "/ipfs/a%00b",
            "/ipfs/%",
            "/ipfs/%4",
            "/ipfs/%zz",
            "/ipfs/%+1",
            "/ipfs/a?format=%ff",
            "/ipfs/a?%",
        ] {
            assert_eq!(parts(path), Err(StatusCode::BAD_REQUEST), "{path}");
        }
    }

    #[test]
    fn what_is_too_long_is_told_apart() {
        for path in [
            &format!("/ipfs/{}", "a".repeat(256)),
            &format!("/ipfs/{}", "%61".repeat(256)),
            &"/a".repeat(257),
            &format!("/{}", "a".repeat(60_000)),
            &format!("/{}", "a".repeat(255)).repeat(17),
        ] {
            assert_eq!(parts(path), Err(StatusCode::URI_TOO_LONG), "{}", path.chars().take(40).collect::<String>());
        }
    }

    #[test]
    fn octets_are_decoded_once_and_otherwise_kept() {
        assert_eq!(parts("//ipfs//a%2520b+c").expect("a path"), [&b"ipfs"[..], b"a%20b+c"]);
        assert_eq!(parts("/%ff%c0%ae/%5c..%5c").expect("bytes"), [&b"\xff\xc0\xae"[..], b"\\..\\"]);
        assert_eq!(parts("/").expect("the root"), [b""; 0]);
        let uri: Uri = "/ipfs//a%20b/?x=1".parse().expect("a URI");
        assert_eq!(Target::parse(&uri).expect("a path").path(), "/ipfs/a%20b/");
    }

    #[test]
    fn the_first_of_equal_parameters_counts() {
        let query = Query::parse("format=raw&format=car&filename=a+b%26c&download").expect("a query");
        let found = ["format", "filename", "download", "other"].map(|key| query.get(key));
        assert_eq!(found, [Some("raw"), Some("a b&c"), Some(""), None]);
    }

    proptest! {
        /// Whatever a directory may hold has a URL that leads to it.
        #[test]
        fn every_name_comes_back(bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            if let Ok(name) = Name::new(&bytes) {
                let uri: Uri = format!("/x{}", path_of(std::slice::from_ref(&name))).parse().expect("a URI");
                prop_assert_eq!(&Target::parse(&uri).expect("a path").parts[1], &name);
            }
        }

        #[test]
        fn every_value_comes_back(value in ".{0,40}") {
            let query = Query::parse(&format!("a=1&filename={}", percent_encode_value(&value))).expect("a query");
            prop_assert_eq!(query.get("filename"), Some(value.as_str()));
        }
    }
}
