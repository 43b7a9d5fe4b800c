//! Paths: prefixes, names, and the only parser of QFS paths there is.
//!
//! A path is absolute, `/prefix[/part…]`; its parts are bytes, not text. There are no relative paths, no `.` or `..`,
//! no empty part. Spec: spec/paths.md.

use std::{fmt, str::FromStr};

use crate::{Cid, Error, ErrorKind, Result};

/// The longest prefix, in bytes: the seed's grammar says 1 to 5.
pub const PREFIX_LEN_MAX: usize = 5;
/// The longest name, in bytes: what every POSIX file system and NFS client can hold.
pub const NAME_LEN_MAX: usize = 255;
/// The longest path, in bytes: `PATH_MAX` of Linux.
pub const PATH_LEN_MAX: usize = 4096;
/// The most parts a path may have after its prefix: bounds the work that one path can cause.
pub const PATH_PART_COUNT_MAX: usize = 256;

/// How much of a refused path an error repeats, in bytes: enough to recognise it, too little to flood a log.
const SHOWN_LEN_MAX: usize = 64;
const PREFIX_RULE: &str = "a prefix is 1 to 5 of a-z and 0-9 and begins with a letter";

/// Where a mount stands: 1 to 5 of `[a-z0-9]`, the first a letter.
///
/// It is configured, so that two clusters of one kind of store can stand side by side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix([u8; PREFIX_LEN_MAX]);

impl Prefix {
    /// Checks a prefix.
    ///
    /// ```
    /// use muxfs::Prefix;
    /// assert_eq!(Prefix::new("s3")?.as_str(), "s3");
    /// assert!(Prefix::new("3s").is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn new(text: &str) -> Result<Self> {
        let bytes = text.as_bytes();
        let fits = matches!(bytes.first(), Some(b'a'..=b'z'))
            && bytes.len() <= PREFIX_LEN_MAX
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !fits {
            let shown = bytes.get(..SHOWN_LEN_MAX).unwrap_or(bytes);
            return Err(Error::new(ErrorKind::InvalidArgument, "path.prefix")
                .at(shown.escape_ascii())
                .because(PREFIX_RULE));
        }
        let mut padded = [0; PREFIX_LEN_MAX];
        padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok(Self(padded))
    }

    /// The prefix as text, without a slash.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(PREFIX_LEN_MAX);
        self.0.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// The prefix as a number in base 37 (0 = no letter): never 0, below 2^27, the same on every machine.
    pub fn number(self) -> u32 {
        self.0.iter().fold(0, |number, byte| {
            number * 37
                + match byte {
                    b'a'..=b'z' => u32::from(byte - b'a') + 1,
                    b'0'..=b'9' => u32::from(byte - b'0') + 27,
                    _ => 0,
                }
        })
    }

    /// The prefix that has this number; `None` if none has.
    pub fn from_number(number: u32) -> Option<Self> {
        let mut rest = number;
        let mut bytes = [0; PREFIX_LEN_MAX];
        for byte in bytes.iter_mut().rev() {
            let digit = u8::try_from(rest % 37).ok()?;
            rest /= 37;
            *byte = match digit {
                0 => 0,
                1..=26 => b'a' + digit - 1,
                _ => b'0' + digit - 27,
            };
        }
        let len = bytes.iter().position(|b| *b == 0).unwrap_or(PREFIX_LEN_MAX);
        let prefix = Self::new(std::str::from_utf8(bytes.get(..len)?).ok()?).ok()?;
        (prefix.number() == number).then_some(prefix)
    }
}

const _: () = assert!(37u64.pow(5) <= 1 << 27);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{self}")
    }
}

impl FromStr for Prefix {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

/// A name in a directory: 1 to [`NAME_LEN_MAX`] bytes without NUL and `/`, not `.` nor `..`. Bytes, not text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks a name.
    ///
    /// ```
    /// use muxfs::Name;
    /// assert_eq!(Name::new(b"a.txt")?.as_bytes(), b"a.txt");
    /// assert!(Name::new(b"..").is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NameTooLong`, or `InvalidArgument`.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let refuse = |kind, why: &str| {
            let shown = bytes.get(..SHOWN_LEN_MAX).unwrap_or(bytes);
            Err(Error::new(kind, "path.name").at(shown.escape_ascii()).because(why))
        };
        match bytes {
            b"" => refuse(ErrorKind::InvalidArgument, "a name is not empty"),
            b"." | b".." => refuse(ErrorKind::InvalidArgument, "paths have no . and no .."),
            _ if bytes.len() > NAME_LEN_MAX => refuse(ErrorKind::NameTooLong, "a name has at most 255 bytes"),
            _ if bytes.contains(&0) => refuse(ErrorKind::InvalidArgument, "a name holds no NUL"),
            _ if bytes.contains(&b'/') => refuse(ErrorKind::InvalidArgument, "a name holds no slash"),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// Shows bytes that are not UTF-8 as the replacement character: for people, not to be parsed again.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// An absolute QFS path, `/prefix[/part…]`. Spec: spec/paths.md.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct QfsPath {
    /// Which mount.
    pub prefix: Prefix,
    /// What is asked of it.
    pub parts: Vec<Name>,
}

impl QfsPath {
    /// Parses a path: the only parser of paths there is.
    ///
    /// ```
    /// use muxfs::QfsPath;
    /// let path = QfsPath::parse(b"/local/photos/a.jpg")?;
    /// assert_eq!((path.prefix.as_str(), path.parts.len()), ("local", 2));
    /// assert!(QfsPath::parse(b"local/a").is_err() && QfsPath::parse(b"/local/../etc").is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument`, or `NameTooLong`.
    pub fn parse(path: &[u8]) -> Result<Self> {
        let refuse = |kind, why: String| {
            let (shown, cut) = path.get(..SHOWN_LEN_MAX).map_or((path, ""), |start| (start, "…"));
            Error::new(kind, "path.parse").at(format_args!("{}{cut}", shown.escape_ascii())).because(why)
        };
        if path.len() > PATH_LEN_MAX {
            return Err(refuse(ErrorKind::NameTooLong, format!("a path has at most {PATH_LEN_MAX} bytes")));
        }
        let rest = path
            .strip_prefix(b"/")
            .ok_or_else(|| refuse(ErrorKind::InvalidArgument, "a path begins with a slash: /prefix/…".into()))?;
        let mut parts = rest.split(|byte| *byte == b'/');
        let prefix = parts.next().and_then(|prefix| std::str::from_utf8(prefix).ok()).unwrap_or_default();
        let prefix =
            Prefix::new(prefix).map_err(|error| refuse(error.kind(), format!("{PREFIX_RULE}: /prefix[/part…]")))?;
        let parts = parts
            .map(|part| match part {
                b"" => Err(refuse(ErrorKind::InvalidArgument, "no part is empty: a slash too many".into())),
                _ => Name::new(part).map_err(|error| {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    refuse(error.kind(), why.unwrap_or_default())
                }),
            })
            .collect::<Result<Vec<Name>>>()?;
        if parts.len() > PATH_PART_COUNT_MAX {
            return Err(refuse(ErrorKind::NameTooLong, format!("a path has at most {PATH_PART_COUNT_MAX} parts")));
        }
        Ok(Self { prefix, parts })
    }

    /// The path of the mount itself: `/prefix`.
    ///
    /// ```
    /// use muxfs::{Prefix, QfsPath};
    /// assert_eq!(QfsPath::mount(Prefix::new("mem")?).to_string(), "/mem");
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn mount(prefix: Prefix) -> Self {
        Self { prefix, parts: Vec::new() }
    }

    /// The path of a CID in a content-addressed store: `/prefix/<cid>`, in the CID's canonical text.
    ///
    /// ```
    /// use muxfs::{Codec, Prefix, QfsPath, cid_of};
    /// let cid = cid_of(Codec::Raw, b"hello");
    /// assert_eq!(QfsPath::content(Prefix::new("mem")?, &cid).cid(), Some(cid));
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    pub fn content(prefix: Prefix, cid: &Cid) -> Self {
        let name = Name(cid.to_string().into_bytes().into());
        debug_assert!(name.0.len() <= NAME_LEN_MAX, "the longest CID, 149 bytes, is 240 letters of base32");
        Self { prefix, parts: vec![name] }
    }

    /// This path with one more part.
    #[must_use]
    pub fn join(&self, name: &Name) -> Self {
        let mut parts = self.parts.clone();
        parts.push(name.clone());
        Self { prefix: self.prefix, parts }
    }

    /// The CID this path begins with, if its first part is one, strictly: what makes it a cid-path.
    pub fn cid(&self) -> Option<Cid> {
        Cid::parse_in_path(self.parts.first()?.as_str()?).ok()
    }

    /// The path as the bytes that [`QfsPath::parse`] takes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::from(b"/");
        bytes.extend_from_slice(self.prefix.as_str().as_bytes());
        for part in &self.parts {
            bytes.push(b'/');
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// Shows bytes that are not UTF-8 as the replacement character; [`QfsPath::to_bytes`] loses nothing.
impl fmt::Display for QfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.prefix)?;
        self.parts.iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

impl fmt::Debug for QfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_bytes().escape_ascii())
    }
}

impl FromStr for QfsPath {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text.as_bytes())
    }
}

impl TryFrom<&str> for QfsPath {
    type Error = Error;
    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for QfsPath {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<&String> for QfsPath {
    type Error = Error;
    fn try_from(text: &String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<&[u8]> for QfsPath {
    type Error = Error;
    fn try_from(bytes: &[u8]) -> Result<Self> {
        Self::parse(bytes)
    }
}

impl From<&Self> for QfsPath {
    fn from(path: &Self) -> Self {
        path.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes() {
        for good in ["a", "mem", "s3", "zstor", "z9999"] {
            let prefix = Prefix::new(good).expect(good);
            assert_eq!(prefix.as_str(), good);
            assert_eq!(Prefix::from_number(prefix.number()), Some(prefix), "{good}");
        }
        for bad in ["", "3s", "Mem", "toolong", "a-b", "é", "a b", "/mem", "a\0"] {
            assert_eq!(Prefix::new(bad).expect_err(bad).kind(), ErrorKind::InvalidArgument, "{bad}");
        }
        assert_eq!(Prefix::from_number(0), None);
        assert_eq!(Prefix::from_number(u32::MAX), None);
    }

    #[test]
    fn paths_that_are_refused() {
        let long = [b"/local/".as_slice(), &[b'x'; 256]].concat();
        let deep = [b"/local".to_vec(), b"/a".repeat(PATH_PART_COUNT_MAX + 1)].concat();
        let cases: [(&[u8], ErrorKind); 15] = [
            (b"", ErrorKind::InvalidArgument),
            (b"/", ErrorKind::InvalidArgument),
            (b"//", ErrorKind::InvalidArgument),
            (b"local/a", ErrorKind::InvalidArgument),
            (b"/local/", ErrorKind::InvalidArgument),
            (b"/local//a", ErrorKind::InvalidArgument),
            (b"/local/./a", ErrorKind::InvalidArgument),
            (b"/local/../a", ErrorKind::InvalidArgument),
            (b"/local/a\0b", ErrorKind::InvalidArgument),
            (b"/LOCAL/a", ErrorKind::InvalidArgument),
            (b"/toolong/a", ErrorKind::InvalidArgument),
            (b"/\xff/a", ErrorKind::InvalidArgument),
            (b"../local", ErrorKind::InvalidArgument),
            (&long, ErrorKind::NameTooLong),
            (&deep, ErrorKind::NameTooLong),
        ];
        for (path, kind) in cases {
            assert_eq!(QfsPath::parse(path).expect_err("refused").kind(), kind, "{}", path.escape_ascii());
        }
    }

    /// An error shows where the path went wrong and what to do, and never floods a log.
    #[test]
    fn refusals_explain_themselves() {
        let cases = [
            ("a/b", "path.parse: invalid argument (a/b): a path begins with a slash: /prefix/…"),
            ("/mem/a/", "path.parse: invalid argument (/mem/a/): no part is empty: a slash too many"),
            ("/mem/..", "path.parse: invalid argument (/mem/..): paths have no . and no .."),
            (
                "/Etc/passwd",
                "path.parse: invalid argument (/Etc/passwd): a prefix is 1 to 5 of a-z and 0-9 and begins with a \
                 letter: /prefix[/part…]",
            ),
        ];
        for (path, message) in cases {
            let error = path.parse::<QfsPath>().expect_err(path);
            assert_eq!(format!("{error:#}"), message);
        }
        let flood = format!("/{}", "A".repeat(4000));
        assert!(format!("{:#}", flood.parse::<QfsPath>().expect_err("refused")).len() < 256);
        assert!(format!("{:#}", Prefix::new(&flood).expect_err("refused")).len() < 256);
    }

    /// The limits themselves are good; one more is not.
    #[test]
    fn limits_are_inclusive() {
        let name = vec![b'x'; NAME_LEN_MAX];
        assert!(Name::new(&name).is_ok());
        let deepest = [b"/local".to_vec(), b"/a".repeat(PATH_PART_COUNT_MAX)].concat();
        assert!(QfsPath::parse(&deepest).is_ok());
        let long_part = [b"/".as_slice(), &name].concat();
        let mut longest = [b"/local".to_vec(), long_part.repeat(15)].concat();
        longest.push(b'/');
        longest.resize(PATH_LEN_MAX, b'y');
        assert!(QfsPath::parse(&longest).is_ok());
        longest.push(b'y');
        assert_eq!(QfsPath::parse(&longest).expect_err("too long").kind(), ErrorKind::NameTooLong);
    }

    /// What makes a cid-path: a first part that is a CID, strictly, whatever follows.
    #[test]
    fn cid_paths() {
        let cid = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
        let path: QfsPath = format!("/ipfs/{cid}/a/b").parse().expect("a path");
        assert_eq!(path.cid().map(|cid| cid.to_string()).as_deref(), Some(cid));
        for other in ["/ipfs".to_owned(), format!("/ipfs/a/{cid}"), format!("/ipfs/{cid}x"), "/ipfs/Qmabc".to_owned()] {
            assert_eq!(other.parse::<QfsPath>().expect("a path").cid(), None, "{other}");
        }
    }

    proptest! {
        /// Any bytes are either refused or printed back as they were.
        #[test]
        fn parsing_is_exact(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = QfsPath::parse(&bytes) {
                prop_assert_eq!(path.to_bytes(), bytes);
            }
        }

        #[test]
        fn printing_parses(parts in proptest::collection::vec("[^/\0]{1,40}", 1..8)) {
            prop_assume!(parts.iter().all(|part| part != "." && part != ".."));
            let text = format!("/mem/{}", parts.join("/"));
            let path: QfsPath = text.parse().expect("a good path");
            prop_assert_eq!(path.to_string(), text);
        }
    }
}
