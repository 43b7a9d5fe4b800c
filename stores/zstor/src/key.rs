//! The root key: its file, and the keys that are made of it.
//!
//! A line of text that a person can copy from paper, with a version and a checksum, so that a key that was mistyped is told
//! from one that is wrong. Each use has a key of its own, none of which tells anything of another. Spec: spec/zstor.md
//! #key.

use std::{
    fmt::{self, Write as _},
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use muxfs::{Env, Error, ErrorKind, Result, SecretKey};
use zeroize::Zeroizing;

use crate::{
    mark::{StoreId, sync_dir},
    ring::KeyRing,
};

pub(crate) const WORD: &str = "muxfs-key";
pub(crate) const VERSION: &str = "1";
/// How long a key is, in bytes.
pub(crate) const KEY_LEN: usize = 32;
/// A key is written in groups of so many bytes, in hex, and one more that is their checksum.
const GROUP_LEN: usize = 4;
/// No file of keys is longer, in bytes: of some 350 that were replaced.
pub(crate) const FILE_LEN_MAX: u64 = 64 << 10;
const MISTYPED: &str = "its checksum, the ninth group, does not fit: it was mistyped or damaged";
pub(crate) const COMMENT: &str = "# A key of MuxFS. Whoever has it can read all that was written with it, and without it nobody can: keep a copy elsewhere.";

const PURPOSE_CONTEXT: &[u8] = b"muxfs zstor 1: key of the ";
const ID_CONTEXT: &[u8] = b"muxfs zstor 1: id of the store";

/// The key of a store: all others come of it. Zeroed when dropped, never printed.
#[derive(Clone)]
pub struct RootKey(SecretKey);

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(..)")
    }
}

impl RootKey {
    /// Takes the key's bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(SecretKey::new(bytes))
    }

    /// Draws a new one.
    pub(crate) fn draw(env: &Env) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        (env.fill)(&mut *bytes);
        Self::new(*bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        self.0.as_bytes()
    }

    /// Reads a key from its text: lines that begin with `#` are no part of it. For a text of several see
    /// [`KeyRing::parse`](crate::KeyRing::parse).
    ///
    /// ```
    /// use muxfs_zstor::RootKey;
    /// let text = "muxfs-key 1 07070707 07070707 07070707 07070707 07070707 07070707 07070707 07070707 d6655631";
    /// assert_eq!(format!("{:?}", RootKey::parse(text)?), "RootKey(..)");
    /// assert!(RootKey::parse(&text.replace("d6655631", "d6655630")).is_err());
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `BadKey` if it is none, or was mistyped; `Unsupported` if a newer version wrote it. Neither says what the text is.
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = Words::of(text);
        let key = Self::new(*words.record(WORD, VERSION)?);
        words.end()?;
        Ok(key)
    }

    /// Draws a new key and writes it to a file that is not there yet, which only its owner can read; durable when it
    /// returns, and all or nothing.
    ///
    /// # Errors
    /// `Exists`, `Denied`, `NoSpace`, `Io`.
    pub fn make(file: &Path, env: &Env) -> Result<Self> {
        const OP: &str = "zstor.make_key";
        let key = Self::draw(env);
        let part = beside(file);
        let write = || {
            // What a crash left on the way: a key that never had its name.
            match fs::remove_file(&part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            written.write_all(KeyRing::from(&key).to_text().as_bytes())?;
            written.sync_all()?;
            // Unlike a rename it replaces nothing.
            let named = fs::hard_link(&part, file);
            fs::remove_file(&part)?;
            named?;
            sync_dir(file.parent().unwrap_or(Path::new(".")))?;
            // Directories on the way may be new too, and are not always ours.
            for above in file.ancestors().skip(2).take(2) {
                sync_dir(above).ok();
            }
            Ok(())
        };
        write().map_err(|error| failed(OP, file, error))?;
        Ok(key)
    }

    /// The key that files are [sealed](muxfs::seal) with by who has this one.
    pub fn for_files(&self) -> SecretKey {
        self.of("sealed files")
    }

    /// The key for one use.
    pub(crate) fn of(&self, purpose: &str) -> SecretKey {
        let mut key = Zeroizing::new([0; 32]);
        self.0.derive(&[PURPOSE_CONTEXT, purpose.as_bytes()], &mut *key);
        SecretKey::new(*key)
    }

    /// What tells stores of different keys apart, and nothing of the key.
    pub(crate) fn store_id(&self) -> StoreId {
        let mut id = StoreId::default();
        self.0.derive(&[ID_CONTEXT], &mut id.0);
        id
    }
}

/// The words of the text of keys.
pub(crate) struct Words<'a> {
    words: Vec<&'a str>,
    at: usize,
}

impl<'a> Words<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        Self { words: lines.flat_map(str::split_whitespace).collect(), at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    /// The version of what comes next.
    pub(crate) fn version(&self) -> Option<&'a str> {
        self.words.get(self.at + 1).copied()
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.peek();
        self.at += 1;
        word
    }

    /// Takes bytes with their name and version before them, and their checksum behind.
    pub(crate) fn record<const N: usize>(&mut self, name: &str, version: &str) -> Result<Zeroizing<[u8; N]>> {
        let is_first = self.at == 0;
        if self.next() != Some(name) {
            return refuse(ErrorKind::BadKey, "it is no key: one begins with the word muxfs-key");
        }
        match self.next() {
            Some(found) if found == version => {}
            Some(found) if is_first && !found.is_empty() && found.bytes().all(|byte| byte.is_ascii_digit()) => {
                return refuse(ErrorKind::Unsupported, "a newer version wrote this key: use the newer program");
            }
            _ => return refuse(ErrorKind::BadKey, "it is no key: its version is missing"),
        }
        let mut bytes = Zeroizing::new([0; N]);
        for group in bytes.chunks_mut(GROUP_LEN) {
            let Some(read) = self.next().and_then(group_of) else {
                return refuse(
                    ErrorKind::BadKey,
                    "it is not whole: a key has eight groups of eight hex digits, and one more",
                );
            };
            group.copy_from_slice(&read.to_be_bytes());
        }
        if self.next().and_then(group_of) != Some(crc32c::crc32c(&*bytes)) {
            return refuse(ErrorKind::BadKey, MISTYPED);
        }
        Ok(bytes)
    }

    /// Checks that there is nothing more.
    pub(crate) fn end(&mut self) -> Result<()> {
        if self.next().is_some() { refuse(ErrorKind::BadKey, MISTYPED) } else { Ok(()) }
    }
}

fn refuse<T>(kind: ErrorKind, why: &str) -> Result<T> {
    Err(Error::new(kind, "zstor.key").because(why))
}

/// Writes what [`Words::record`] reads.
pub(crate) fn push_groups(text: &mut String, name: &str, version: &str, bytes: &[u8]) {
    write!(text, "{name} {version}").expect("a string takes all");
    for group in bytes.chunks(GROUP_LEN) {
        text.push(' ');
        for byte in group {
            write!(text, "{byte:02x}").expect("a string takes all");
        }
    }
    writeln!(text, " {:08x}", crc32c::crc32c(bytes)).expect("a string takes all");
}

fn group_of(text: &str) -> Option<u32> {
    let is_group = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|_| is_group)
}

pub(crate) fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".muxfs-new");
    file.with_file_name(name)
}

pub(crate) fn failed(op: &'static str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::AlreadyExists => ErrorKind::Exists,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::NotADirectory => ErrorKind::NotDir,
        _ => ErrorKind::Io,
    };
    Error::new(kind, op).at(path.display()).because(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn bytes_of(ring: &KeyRing) -> [u8; 32] {
        *ring.for_files()[0].as_bytes()
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_reads_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        assert!(KeyRing::load(&file).expect("absent").is_none());
        // What a crash left.
        fs::write(dir.path().join("key.muxfs-new"), "muxfs-").expect("written");
        let made = RootKey::make(&file, &muxfs::testing::env()).expect("made");
        let read = KeyRing::load(&file).expect("readable").expect("there");
        assert_eq!(bytes_of(&read), *made.for_files().as_bytes());
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        let text = fs::read_to_string(&file).expect("read");
        assert_eq!(RootKey::make(&file, &muxfs::testing::env()).expect_err("there").kind(), ErrorKind::Exists);
        assert_eq!(fs::read_to_string(&file).expect("read"), text);
    }

    #[test]
    fn the_second_name_that_a_crash_left_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, part) = (dir.path().join("key"), dir.path().join("key.muxfs-new"));
        RootKey::make(&file, &muxfs::testing::env()).expect("made");
        fs::hard_link(&file, &part).expect("linked");
        KeyRing::load(&file).expect("readable").expect("there");
        assert!(!part.exists() && file.exists());
        fs::write(&part, "of somebody else").expect("written");
        KeyRing::load(&file).expect("readable").expect("there");
        assert!(part.exists());
    }

    /// A start waited for ever for somebody to write to it.
    #[test]
    fn a_named_pipe_is_no_key_and_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        assert_eq!(KeyRing::load(&file).expect_err("no file").kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        RootKey::make(&file, &muxfs::testing::env()).expect("made");
        for mode in [0o644, 0o640, 0o620, 0o601] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            let error = KeyRing::load(&file).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert!(format!("{error:#}").contains(&format!("chmod 600 {}", file.display())), "{error:#}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("set");
        KeyRing::load(&file).expect("its owner alone reads it");
    }

    /// Each hex digit that is another, each that is missing, and each word less is noticed; no message tells the text.
    #[test]
    fn what_was_mistyped_is_found_and_not_told() {
        let key = RootKey::new(std::array::from_fn(|at| u8::try_from(at).expect("small")));
        let text = KeyRing::from(&key).to_text();
        let line = text.lines().last().expect("a line");
        assert_eq!(RootKey::parse(line).expect("good").0.as_bytes(), key.0.as_bytes());
        assert_eq!(
            RootKey::parse(&line.to_uppercase().replace("MUXFS-KEY", WORD)).expect("good").0.as_bytes(),
            key.0.as_bytes()
        );
        let mut bad: Vec<String> = (WORD.len() + 3..line.len())
            .flat_map(|at| {
                [
                    format!("{}f{}", &line[..at], &line[at + 1..]),
                    line[..at].to_owned(),
                    format!("{}{}", &line[..at], &line[at + 1..]),
                ]
            })
            .filter(|text| text != line)
            .collect();
        bad.extend([
            String::new(),
            "x".into(),
            format!("{line} 00000000"),
            format!("{line}\n{line}"),
            line.replace("key 1", "key x"),
        ]);
        for text in bad {
            let error = RootKey::parse(&text).expect_err(&text);
            assert_eq!(error.kind(), ErrorKind::BadKey, "{text}");
            assert!(!format!("{error:#}").contains("04050607"), "{error:#}");
        }
        assert_eq!(RootKey::parse(&line.replace("key 1", "key 2")).expect_err("newer").kind(), ErrorKind::Unsupported);
    }

    /// Keys are formats: what they open must open for ever.
    #[test]
    fn keys_of_each_use_are_what_they_were() {
        let key = RootKey::new([7; 32]);
        let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let expected = |context: &str| hex(&blake3::keyed_hash(&[7; 32], context.as_bytes()).as_bytes()[..]);
        assert_eq!(hex(key.of("blocks").as_bytes()), expected("muxfs zstor 1: key of the blocks"));
        assert_eq!(hex(key.of("journal").as_bytes()), expected("muxfs zstor 1: key of the journal"));
        assert_eq!(hex(key.for_files().as_bytes()), expected("muxfs zstor 1: key of the sealed files"));
        assert_eq!(hex(&key.store_id().0), expected("muxfs zstor 1: id of the store")[..32]);
    }
}
