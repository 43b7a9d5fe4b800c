//! The root key: its file, and the keys that are made of it.
//!
//! A line of text that a person can copy from paper, with a version and a checksum, so that a key that was mistyped is told
//! from one that is wrong. Each use has a key of its own, none of which tells anything of another. Spec: spec/zstor.md
//! #key.

use std::{
    fmt::{self, Write as _},
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{
    Env, Error, ErrorKind, Result, SecretKey,
    media::{Media, SealedMedia},
};
use zeroize::Zeroizing;

use crate::mark::{StoreId, identity, open_to_read, sync_dir};

const WORD: &str = "muxfs-key";
const VERSION: &str = "1";
/// A key is written in groups of so many bytes, in hex, and one more that is their checksum.
const GROUP_LEN: usize = 4;
/// No file of a key is longer, in bytes.
const FILE_LEN_MAX: u64 = 4096;
const COMMENT: &str = "# A key of MuxFS. Whoever has it can read all that was written with it, and without it nobody can: keep a copy elsewhere.";

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

    /// Reads a key from its text: lines that begin with `#` are no part of it.
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
        let refuse = |kind, why: &str| Err(Error::new(kind, "zstor.key").because(why));
        let mut words = text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
        if words.next() != Some(WORD) {
            return refuse(ErrorKind::BadKey, "it is no key: one begins with the word muxfs-key");
        }
        match words.next() {
            Some(VERSION) => {}
            Some(version) if !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) => {
                return refuse(ErrorKind::Unsupported, "a newer version wrote this key: use the newer program");
            }
            _ => return refuse(ErrorKind::BadKey, "it is no key: its version is missing"),
        }
        let mut bytes = Zeroizing::new([0; 32]);
        for group in bytes.chunks_mut(GROUP_LEN) {
            let Some(read) = words.next().and_then(group_of) else {
                return refuse(
                    ErrorKind::BadKey,
                    "it is not whole: a key has eight groups of eight hex digits, and one more",
                );
            };
            group.copy_from_slice(&read.to_be_bytes());
        }
        if words.next().and_then(group_of) != Some(crc32c::crc32c(&*bytes)) || words.next().is_some() {
            return refuse(
                ErrorKind::BadKey,
                "its checksum, the ninth group, does not fit: it was mistyped or damaged",
            );
        }
        Ok(Self::new(*bytes))
    }

    /// The text that [`RootKey::parse`] reads.
    fn to_text(&self) -> Zeroizing<String> {
        // Long enough for all of it: what grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(COMMENT.len() + 128));
        let groups = self.0.as_bytes().chunks(GROUP_LEN);
        write!(text, "{COMMENT}\n{WORD} {VERSION}").expect("a string takes all");
        for group in groups {
            text.push(' ');
            for byte in group {
                write!(text, "{byte:02x}").expect("a string takes all");
            }
        }
        writeln!(text, " {:08x}", crc32c::crc32c(self.0.as_bytes())).expect("a string takes all");
        text
    }

    /// Reads the key of a file; `None` if there is no such file.
    ///
    /// # Errors
    /// `Denied` if others than its owner may read or write it, with what to do; else those of [`RootKey::parse`], `Io`.
    pub fn load(file: &Path) -> Result<Option<Self>> {
        const OP: &str = "zstor.key";
        let opened = match open_to_read(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(OP, file, error)),
        };
        let metadata = opened.metadata().map_err(|error| failed(OP, file, error))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::InvalidArgument, OP).at(file.display()).because("a key is in a file"));
        }
        if mode & 0o077 != 0 {
            let why = format!("others than its owner may use this key (mode {mode:04o}): chmod 600 {}", file.display());
            return Err(Error::new(ErrorKind::Denied, OP).at(file.display()).because(why));
        }
        let mut text = Zeroizing::new(String::with_capacity(usize::try_from(FILE_LEN_MAX).unwrap_or_default()));
        opened.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(|error| failed(OP, file, error))?;
        let key = Self::parse(&text).map_err(|error| error.at(file.display()))?;
        // What a crash left that came before the other name of the same file was removed.
        let part = beside(file);
        if matches!((identity(&part), identity(file)), (Ok(part), Ok(file)) if (part.dev, part.ino) == (file.dev, file.ino))
        {
            fs::remove_file(&part).ok();
        }
        Ok(Some(key))
    }

    /// Draws a new key and writes it to a file that is not there yet, which only its owner can read; durable when it
    /// returns, and all or nothing.
    ///
    /// # Errors
    /// `Exists`, `Denied`, `NoSpace`, `Io`.
    pub fn make(file: &Path, env: &Env) -> Result<Self> {
        const OP: &str = "zstor.make_key";
        let mut bytes = Zeroizing::new([0; 32]);
        (env.fill)(&mut *bytes);
        let key = Self::new(*bytes);
        let part = beside(file);
        let write = || {
            // What a crash left on the way: a key that never had its name.
            match fs::remove_file(&part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            written.write_all(key.to_text().as_bytes())?;
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

    /// A media that seals what it is given, for what a mount keeps beside its blocks. `purpose` says what that is: each
    /// has a key of its own, so that one cannot be put in the place of another.
    pub fn sealed(&self, purpose: &str, media: Arc<dyn Media>, env: &Env) -> Arc<dyn Media> {
        Arc::new(SealedMedia::new(media, self.of(purpose), env.clone()))
    }
}

fn group_of(text: &str) -> Option<u32> {
    let is_group = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|_| is_group)
}

fn beside(file: &Path) -> PathBuf {
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
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_reads_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        assert!(RootKey::load(&file).expect("absent").is_none());
        // What a crash left.
        fs::write(dir.path().join("key.muxfs-new"), "muxfs-").expect("written");
        let made = RootKey::make(&file, &muxfs::testing::env()).expect("made");
        let read = RootKey::load(&file).expect("readable").expect("there");
        assert_eq!(read.0.as_bytes(), made.0.as_bytes());
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
        RootKey::load(&file).expect("readable").expect("there");
        assert!(!part.exists() && file.exists());
        fs::write(&part, "of somebody else").expect("written");
        RootKey::load(&file).expect("readable").expect("there");
        assert!(part.exists());
    }

    /// A start waited for ever for somebody to write to it.
    #[test]
    fn a_named_pipe_is_no_key_and_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        assert_eq!(RootKey::load(&file).expect_err("no file").kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        RootKey::make(&file, &muxfs::testing::env()).expect("made");
        for mode in [0o644, 0o640, 0o620, 0o601] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            let error = RootKey::load(&file).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert!(format!("{error:#}").contains(&format!("chmod 600 {}", file.display())), "{error:#}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("set");
        RootKey::load(&file).expect("its owner alone reads it");
    }

    /// Each hex digit that is another, each that is missing, and each word less is noticed; no message tells the text.
    #[test]
    fn what_was_mistyped_is_found_and_not_told() {
        let key = RootKey::new(std::array::from_fn(|at| u8::try_from(at).expect("small")));
        let text = key.to_text();
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
