//! Keys and names: where in a bucket an object lies.
//!
//! A key whose parts are all names is a path below its bucket: what NFS, FTP and mounts see of it. A key that ends with a
//! slash, and is otherwise a path, is a directory with a mark. Any other key (with an empty part, `.`, `..`, a part of
//! more than 255 bytes, a NUL, a name that is reserved), and one whose place is taken by what cannot be there beside it
//! (`a`, where there is `a/b`), lies among the odd keys, by its hash. Spec: spec/s3.md #keys.

use muxfs::Name;

/// The longest key, in bytes.
pub(crate) const KEY_LEN_MAX: usize = 1024;
/// What names begin with that no object has: those of this and of other frontends.
const RESERVED: &[u8] = b".muxfs-";
/// The past of a directory.
const HISTORY: &[u8] = b".history";

/// Where what is written lies until it is whole.
pub(crate) const WORK: &str = ".muxfs-s3.work";
/// Where odd keys lie.
pub(crate) const ODD: &str = ".muxfs-s3.keys";
/// Where uploads in parts lie.
pub(crate) const UPLOADS: &str = ".muxfs-s3.uploads";
/// Where older versions lie.
pub(crate) const VERSIONS: &str = ".muxfs-s3.versions";
/// What a bucket is called that goes: its name and a random part follow.
pub(crate) const LEAVING: &str = ".muxfs-s3.leaving.";

/// Where a key belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// A file in these directories, each in the one before.
    File(Vec<Name>, Name),
    /// The last of these directories.
    Folder(Vec<Name>),
    /// Neither can be.
    Odd,
}

impl Key {
    pub(crate) fn parse(key: &str) -> Self {
        let (path, is_folder) = key.strip_suffix('/').map_or((key, false), |path| (path, true));
        let names: Option<Vec<_>> = path.split('/').map(plain).collect();
        match names {
            Some(names) if is_folder => Self::Folder(names),
            Some(mut names) => names.pop().map_or(Self::Odd, |last| Self::File(names, last)),
            None => Self::Odd,
        }
    }
}

/// A part of a key as a name, where it can be one.
fn plain(part: &str) -> Option<Name> {
    Name::new(part.as_bytes()).ok().filter(|name| !is_reserved(name))
}

/// Whether a name is of no object.
pub(crate) fn is_reserved(name: &Name) -> bool {
    name.as_bytes().starts_with(RESERVED) || name.as_bytes() == HISTORY
}

/// The name of an odd key, or of the versions of a key.
pub(crate) fn hashed(key: &str) -> Name {
    Name::new(blake3::hash(key.as_bytes()).to_hex().as_bytes()).expect("64 digits")
}

/// A name of ours.
pub(crate) fn own(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("letters, digits, dots and hyphens")
}

/// Whether a directory of this name can be a bucket: 3 to 63 letters, digits, dots and hyphens.
pub(crate) fn is_bucket(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    let is_outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| is_inner(*byte))
        && is_outer(bytes.first())
        && is_outer(bytes.last())
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_path_where_it_can_be_one() {
        for (key, dirs, last) in [("a", 0, "a"), ("a/b c/d", 2, "d"), ("\u{e4}/...", 1, "..."), ("a\nb", 0, "a\nb")] {
            let Key::File(found, name) = Key::parse(key) else { panic!("{key:?}") };
            assert_eq!((found.len(), name.as_bytes()), (dirs, last.as_bytes()), "{key:?}");
        }
        for (key, dirs) in [("a/", 1), ("a/b/", 2)] {
            assert!(matches!(Key::parse(key), Key::Folder(names) if names.len() == dirs), "{key:?}");
        }
        let long = "x".repeat(256);
        for key in ["", "/", "//", "/a", "a//b", "a//", ".", "..", "a/../b", "a/./b", "a\0b", ".muxfs-s3.work/x", &long]
        {
            assert_eq!(Key::parse(key), Key::Odd, "{key:?}");
        }
        assert_eq!(Key::parse("a/.history"), Key::Odd);
        assert_ne!(hashed("a/"), hashed("a"));
    }

    #[test]
    fn buckets_have_names_that_hosts_can_have() {
        for name in ["abc", "a.b-c", "0a0", &"x".repeat(63)] {
            assert!(is_bucket(name), "{name:?}");
        }
        for name in ["", "ab", "Abc", "a_b", "-ab", "ab-", ".ab", "a..b", "10.0.0.1", "a/b", &"x".repeat(64)] {
            assert!(!is_bucket(name), "{name:?}");
        }
    }
}
