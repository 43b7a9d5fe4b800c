//! The keys of a store: the newest, those that it takes the place of, and what is left of those before.
//!
//! A key that is to go is needed until everything is under the newest. What is never made anew outlives it: the id of the
//! store, by which nodes are known, is of its first key; files that somebody sealed with it are nobody's to find. So of
//! each key that went its file keeps what tells and reads these, and nothing else. Spec: spec/zstor.md #key.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::Path,
    sync::Arc,
};

use muxfs::{
    Env, Error, ErrorKind, Result, SecretKey,
    block::Encrypt,
    media::{Media, SealedMedia},
};
use zeroize::Zeroizing;

use crate::{
    key::{COMMENT, FILE_LEN_MAX, KEY_LEN, RootKey, VERSION, WORD, Words, beside, failed, push_groups},
    mark::{StoreId, identity, open_to_read, sync_dir},
};

/// The version of a file of more than one key that never was another's.
const RING_VERSION: &str = "2";
const FORMER_WORD: &str = "muxfs-former";
const FORMER_LEN: usize = 64;
const RING_COMMENT: &str =
    "# The first key is the newest. The other lines are needed too: without them the store does not open.";

/// What is left of a key that was replaced.
#[derive(Debug, Clone)]
struct Former {
    store: StoreId,
    /// By which blocks under it are known.
    blocks: [u8; 16],
    /// What files were sealed with.
    files: SecretKey,
}

impl Former {
    fn of(key: &RootKey) -> Self {
        Self { store: key.store_id(), blocks: Encrypt::key_id(key.of("blocks")), files: key.for_files() }
    }

    fn to_bytes(&self) -> Zeroizing<[u8; FORMER_LEN]> {
        let mut bytes = Zeroizing::new([0; FORMER_LEN]);
        bytes[..16].copy_from_slice(&self.store.0);
        bytes[16..32].copy_from_slice(&self.blocks);
        bytes[32..].copy_from_slice(self.files.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; FORMER_LEN]) -> Self {
        let (mut store, mut blocks, mut files) = (StoreId::default(), [0; 16], Zeroizing::new([0; KEY_LEN]));
        store.0.copy_from_slice(&bytes[..16]);
        blocks.copy_from_slice(&bytes[16..32]);
        files.copy_from_slice(&bytes[32..]);
        Self { store, blocks, files: SecretKey::new(*files) }
    }
}

/// The keys of a store, as its file has them. Zeroed when dropped, never printed.
#[derive(Debug, Clone)]
pub struct KeyRing {
    newest: RootKey,
    /// From newer to older.
    older: Vec<RootKey>,
    /// Likewise.
    former: Vec<Former>,
}

impl From<RootKey> for KeyRing {
    fn from(newest: RootKey) -> Self {
        Self { newest, older: Vec::new(), former: Vec::new() }
    }
}

impl From<&RootKey> for KeyRing {
    fn from(newest: &RootKey) -> Self {
        newest.clone().into()
    }
}

impl From<&Self> for KeyRing {
    fn from(ring: &Self) -> Self {
        ring.clone()
    }
}

impl KeyRing {
    /// Reads keys from their text: one, as [`RootKey::parse`] does, or what is in a file after keys were replaced.
    ///
    /// # Errors
    /// As [`RootKey::parse`].
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = Words::of(text);
        let is_ring = words.version() == Some(RING_VERSION);
        if !is_ring {
            return RootKey::parse(text).map(Self::from);
        }
        let mut ring = Self::from(RootKey::new(*words.record::<KEY_LEN>(WORD, RING_VERSION)?));
        while words.peek() == Some(WORD) {
            ring.older.push(RootKey::new(*words.record::<KEY_LEN>(WORD, RING_VERSION)?));
        }
        while words.peek() == Some(FORMER_WORD) {
            ring.former.push(Former::from_bytes(&*words.record(FORMER_WORD, RING_VERSION)?));
        }
        words.end()?;
        if ring.older.is_empty() && ring.former.is_empty() {
            let why = "it is not whole: the other lines of its file are needed too, the store is known by them";
            return Err(Error::new(ErrorKind::BadKey, "zstor.key").because(why));
        }
        Ok(ring)
    }

    /// The text that [`KeyRing::parse`] reads.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let is_ring = !self.older.is_empty() || !self.former.is_empty();
        // Long enough for all of it: what grows leaves copies behind.
        let len = 512 + 128 * self.older.len() + 256 * self.former.len();
        let mut text = Zeroizing::new(String::with_capacity(len));
        text.push_str(COMMENT);
        text.push('\n');
        if is_ring {
            text.push_str(RING_COMMENT);
            text.push('\n');
        }
        let version = if is_ring { RING_VERSION } else { VERSION };
        for key in self.all() {
            push_groups(&mut text, WORD, version, key.as_bytes());
        }
        for former in &self.former {
            push_groups(&mut text, FORMER_WORD, version, &*former.to_bytes());
        }
        text
    }

    /// Reads the keys of a file; `None` if there is no such file.
    ///
    /// # Errors
    /// `Denied` if others than its owner may read or write it, with what to do; else those of [`KeyRing::parse`], `Io`.
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
        let ring = Self::parse(&text).map_err(|error| error.at(file.display()))?;
        // What a crash left that came before the other name of the same file was removed.
        let part = beside(file);
        if matches!((identity(&part), identity(file)), (Ok(part), Ok(file)) if (part.dev, part.ino) == (file.dev, file.ino))
        {
            fs::remove_file(&part).ok();
        }
        Ok(Some(ring))
    }

    /// Writes the keys over those of a file, durably: it has these or those, whatever happens. Owner and mode stay.
    ///
    /// # Errors
    /// `NotFound` where there is no file; `Denied`, `NoSpace`, `Io`: it has those of before then, or these.
    pub(crate) fn replace(&self, file: &Path) -> Result<()> {
        const OP: &str = "zstor.replace_key";
        let text = self.to_text();
        if text.len() as u64 > FILE_LEN_MAX {
            let why = "so many keys were replaced that its file would be too long to be read";
            return Err(Error::new(ErrorKind::TooLarge, OP).at(file.display()).because(why));
        }
        // Not the link that leads to it.
        let file = fs::canonicalize(file).map_err(|error| failed(OP, file, error))?;
        let part = beside(&file);
        let write = || {
            let before = fs::metadata(&file)?;
            match fs::remove_file(&part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            let made = written.metadata()?;
            if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
                fchown(&written, Some(before.uid()), Some(before.gid()))?;
            }
            written.set_permissions(Permissions::from_mode(before.mode() & 0o7777))?;
            written.write_all(text.as_bytes())?;
            written.sync_all()?;
            fs::rename(&part, &file)
        };
        let written = write().and_then(|()| sync_dir(file.parent().unwrap_or(Path::new("."))));
        written.map_err(|error| {
            // Keys are left nowhere else; where it has its name by now there is none.
            fs::remove_file(&part).ok();
            failed(OP, &file, error)
        })
    }

    /// These keys and a new one, which takes their place.
    pub(crate) fn with_new(&self, env: &Env) -> Self {
        let older = std::iter::once(&self.newest).chain(&self.older).cloned().collect();
        Self { newest: RootKey::draw(env), older, former: self.former.clone() }
    }

    /// The newest key, and what is left of the others.
    pub(crate) fn with_newest_alone(&self) -> Self {
        let former = self.older.iter().map(Former::of).chain(self.former.iter().cloned()).collect();
        Self { newest: self.newest.clone(), older: Vec::new(), former }
    }

    /// Whether something may be under another key than the newest.
    pub fn has_older(&self) -> bool {
        !self.older.is_empty()
    }

    /// From newer to older.
    fn all(&self) -> impl Iterator<Item = &RootKey> {
        std::iter::once(&self.newest).chain(&self.older)
    }

    /// The keys that files may have been [sealed](muxfs::seal) with by who has these, the one that they are sealed with first.
    pub fn for_files(&self) -> Vec<SecretKey> {
        let former = self.former.iter().map(|former| former.files.clone());
        self.all().map(RootKey::for_files).chain(former).collect()
    }

    /// The key for a part of what a mount of kind `s3` keeps.
    pub fn for_bucket(&self, part: &str) -> SecretKey {
        self.newest.of(&format!("bucket {part}"))
    }

    /// The keys for one use, the newest, and from newer to older.
    pub(crate) fn of(&self, purpose: &str) -> (SecretKey, Vec<SecretKey>) {
        (self.newest.of(purpose), self.older.iter().map(|key| key.of(purpose)).collect())
    }

    /// The ids of the keys of blocks that went.
    pub(crate) fn former_blocks(&self) -> impl Iterator<Item = [u8; 16]> {
        self.former.iter().map(|former| former.blocks)
    }

    /// What tells stores of different keys apart, and nothing of a key: that of the first key.
    pub(crate) fn store_id(&self) -> StoreId {
        let first = self.older.last().unwrap_or(&self.newest);
        self.former.last().map_or_else(|| first.store_id(), |former| former.store)
    }

    /// A media that seals what it is given, for what a mount keeps beside its blocks. `purpose` says what that is: each
    /// has keys of its own, so that one cannot be put in the place of another.
    pub(crate) fn sealed(&self, purpose: &str, media: Arc<dyn Media>, env: &Env) -> SealedMedia {
        let (newest, older) = self.of(purpose);
        let sealed = SealedMedia::new(media, newest.clone(), env.clone());
        sealed.set_keys(newest, older);
        sealed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(newest: u8, older: &[u8]) -> KeyRing {
        let older = older.iter().map(|byte| RootKey::new([*byte; 32])).collect();
        KeyRing { older, ..RootKey::new([newest; 32]).into() }
    }

    fn bytes(keys: &[SecretKey]) -> Vec<[u8; 32]> {
        keys.iter().map(|key| *key.as_bytes()).collect()
    }

    #[test]
    fn one_key_is_the_file_that_it_always_was() {
        let text = ring(7, &[]).to_text();
        let line = "muxfs-key 1 07070707 07070707 07070707 07070707 07070707 07070707 07070707 07070707 d6655631";
        assert_eq!(text.lines().last(), Some(line));
        assert!(!KeyRing::parse(&text).expect("good").has_older());
    }

    /// The store is known by its first key: who kept the newest line alone could never open it again.
    #[test]
    fn the_newest_line_alone_is_refused() {
        let text = ring(2, &[1]).with_newest_alone().to_text();
        let line = text.lines().find(|line| line.starts_with(WORD)).expect("the newest");
        let error = KeyRing::parse(line).expect_err("one line of two");
        assert!(error.kind() == ErrorKind::BadKey && format!("{error:#}").contains("other lines"), "{error:#}");
    }

    /// Keys that were replaced twice: what is known of each reads back, and the store is the one that it was.
    #[test]
    fn keys_read_back() {
        let first = ring(1, &[]);
        let second = KeyRing { newest: RootKey::new([2; 32]), ..ring(0, &[1]) };
        let settled = KeyRing::parse(&second.with_newest_alone().to_text()).expect("good");
        let third = KeyRing { newest: RootKey::new([3; 32]), older: vec![settled.newest.clone()], ..settled.clone() };
        for ring in [&first, &second, &settled, &third, &third.with_newest_alone()] {
            let read = KeyRing::parse(&ring.to_text()).expect("good");
            assert_eq!(*read.to_text(), *ring.to_text());
            assert_eq!(read.store_id(), RootKey::new([1; 32]).store_id());
        }
        assert_eq!(bytes(&third.for_files()), bytes(&[3, 2, 1].map(|n| RootKey::new([n; 32]).for_files())));
        assert_eq!(bytes(&third.with_newest_alone().for_files()), bytes(&third.for_files()));
        assert_eq!(third.former_blocks().collect::<Vec<_>>(), [Encrypt::key_id(RootKey::new([1; 32]).of("blocks"))]);
        let text = third.with_newest_alone().to_text();
        for gone in ["01010101", "02020202"] {
            assert!(!text.contains(gone), "nothing is left that reads blocks");
        }
    }

    /// The text of spec/zstor.md.
    #[test]
    fn the_text_is_that_of_the_specification() {
        let settled = ring(7, &[5]).with_newest_alone();
        let key = RootKey::new([5; 32]);
        let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let expected = [&key.store_id().0[..], &Encrypt::key_id(key.of("blocks")), key.for_files().as_bytes()].concat();
        let text = settled.to_text();
        let former: Vec<&str> = text.lines().last().expect("a line").split(' ').collect();
        assert_eq!(former[..2], ["muxfs-former", "2"]);
        assert_eq!(former[2..18].concat(), hex(&expected));
        assert_eq!(former[18], format!("{:08x}", crc32c::crc32c(&expected)));
        assert!(text.contains("\nmuxfs-key 2 07070707 "));
    }

    #[test]
    fn what_was_mistyped_is_found() {
        let text = KeyRing { former: vec![Former::of(&RootKey::new([1; 32]))], ..ring(3, &[2]) }.to_text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let [newest, older, former] = lines[..] else { panic!("three lines") };
        for bad in [
            format!("{newest}\n{older}\n{former} 00000000"),
            format!("{newest}\n{former}\n{older}"),
            format!("{former}\n{newest}\n{older}"),
            format!("{newest}\n{}", older.replace("02020202", "02020203")),
            format!("{newest}\n{}", former.replace("former 2", "former 1")),
            format!("{newest}\n{}", older.replace("key 2", "key 1")),
            format!("{newest}\n{}", &former[..former.len() - 10]),
        ] {
            assert_eq!(KeyRing::parse(&bad).expect_err(&bad).kind(), ErrorKind::BadKey, "{bad}");
        }
        assert_eq!(RootKey::parse(&text).expect_err("several").kind(), ErrorKind::Unsupported, "as old programs say");
        let newer = newest.replace("key 2", "key 3");
        assert_eq!(KeyRing::parse(&newer).expect_err("newer").kind(), ErrorKind::Unsupported);
    }

    /// The file is another one, whole, of the same owner and mode, and is still found by the link that leads to it.
    #[test]
    fn a_file_is_replaced_and_stays_its_owners_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("key"), dir.path().join("link"));
        let env = muxfs::testing::env();
        RootKey::make(&file, &env).expect("made");
        fs::set_permissions(&file, Permissions::from_mode(0o400)).expect("set");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        // What a crash left.
        fs::write(beside(&file), "muxfs-").expect("written");
        let before = KeyRing::load(&link).expect("readable").expect("there");
        let both = KeyRing { newest: RootKey::new([9; 32]), older: vec![before.newest], former: Vec::new() };
        both.replace(&link).expect("replaced");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::metadata(&file).expect("there").mode() & 0o7777, 0o400);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2);
        let read = KeyRing::load(&file).expect("readable").expect("there");
        assert_eq!(*read.to_text(), *both.to_text());
        let absent = both.replace(&dir.path().join("absent")).expect_err("it replaces, and makes none");
        assert_eq!(absent.kind(), ErrorKind::NotFound);
    }
}
