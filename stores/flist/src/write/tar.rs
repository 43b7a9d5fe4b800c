//! Tar archives as they come, plain or packed with gzip, zstd or xz: one file after another, nothing of it in memory.
//!
//! An archive is somebody else's. Its names are parts of a path in a tree and nothing else: `..` and a slash in front are refused,
//! and no symlink is ever followed. What it unpacks to is bounded by what it has itself. Spec: spec/flist.md #archives.

use std::{
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::bufread::MultiGzDecoder;
use muxfs::{Error, ErrorKind, Name, Result, vfs::Rdev};

use super::About;
use crate::archive::{BLOCK_LEN, has_checksum, octal};

/// What an archive may unpack to: so many times its length, and so many bytes more.
const UNPACKED_FACTOR: u64 = 200;
const UNPACKED_LEN_MIN: u64 = 1 << 30;
/// The longest of the texts in front of a header, in bytes.
const TEXT_LEN_MAX: u64 = 1 << 20;
/// What xz and zstd may take of memory, in bytes: their strongest presets take half of it.
const WINDOW_LEN_LOG: u32 = 27;
const OP: &str = "flist.tar";

pub(super) fn corrupt(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, OP).because(why.into())
}

/// What a failed reading of an archive means: bytes that are not what they should be, or a disk that fails.
pub(super) fn damaged(error: &io::Error) -> Error {
    if let Some(too_large) = error.get_ref().and_then(|inner| inner.downcast_ref::<TooLong>()) {
        return Error::new(ErrorKind::TooLarge, OP).because(too_large.to_string());
    }
    let is_disk = error.raw_os_error().is_some();
    let kind = if is_disk { ErrorKind::Io } else { ErrorKind::Corrupt };
    Error::new(kind, OP).because(format!("it cannot be read: {error}"))
}

/// Where archives are unpacked, and how much.
#[derive(Debug, Clone)]
pub(super) struct Unpacking {
    /// A directory for what has to be unpacked as a whole.
    pub(super) scratch: PathBuf,
    /// How many bytes may come of all that is read yet.
    left: Arc<AtomicU64>,
}

impl Unpacking {
    /// Into files of a directory, `len_max` bytes together of all that is unpacked, and of each layer as often as it is read.
    pub(super) fn new(scratch: PathBuf, len_max: u64) -> Self {
        Self { scratch, left: Arc::new(AtomicU64::new(len_max)) }
    }
}

#[derive(Debug)]
enum TooLong {
    /// For what it is packed in.
    Packed(u64),
    /// For who makes an flist of it.
    Whole,
}

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Packed(len) => write!(f, "unpacked it has more than {len} bytes, much more than it has itself"),
            Self::Whole => f.write_str("unpacked, with all its layers, it has more bytes than are taken here"),
        }
    }
}

impl std::error::Error for TooLong {}

/// So many bytes, and then an error.
struct Bounded<R> {
    bytes: R,
    left: u64,
    len_max: u64,
    whole: Arc<AtomicU64>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let len = self.bytes.read(room)?;
        let refuse = |why: TooLong| io::Error::other(why);
        self.left = self.left.checked_sub(len as u64).ok_or_else(|| refuse(TooLong::Packed(self.len_max)))?;
        let spent = self.whole.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(len as u64));
        spent.map(|_| len).map_err(|_| refuse(TooLong::Whole))
    }
}

/// What is in a file of `packed_len` bytes that may be packed: gzip, zstd and xz are told by what they begin with.
///
/// # Errors
/// `InvalidArgument` for a packing that is not read; `Io`.
pub(super) fn unpacked<'a>(
    bytes: impl Read + Send + 'a,
    packed_len: u64,
    unpacking: &Unpacking,
) -> Result<Box<dyn Read + Send + 'a>> {
    let mut bytes = BufReader::with_capacity(128 << 10, bytes);
    let head = bytes.fill_buf().map_err(|error| damaged(&error))?;
    let mut len_max = packed_len.saturating_mul(UNPACKED_FACTOR).saturating_add(UNPACKED_LEN_MIN);
    let bytes: Box<dyn Read + Send + 'a> = match head {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(bytes)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(bytes).map_err(|error| damaged(&error))?;
            decoder.window_log_max(WINDOW_LEN_LOG).map_err(|error| damaged(&error))?;
            Box::new(decoder)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(bytes, true, 1 << (WINDOW_LEN_LOG - 10)))
        }
        [b'B', b'Z', b'h', ..] => {
            let why = "it is packed with bzip2: gzip, zstd and xz are unpacked";
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
        }
        _ => {
            len_max = u64::MAX;
            Box::new(bytes)
        }
    };
    Ok(Box::new(Bounded { bytes, left: len_max, len_max, whole: unpacking.left.clone() }))
}

/// A file of an archive, or whatever it is.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    /// The type of its header; a file is `0`.
    pub(super) kind: u8,
    /// Of a link: where to.
    pub(super) target: Vec<u8>,
    pub(super) about: About,
    pub(super) rdev: Rdev,
    /// Of its data, in bytes.
    pub(super) len: u64,
    /// Where its data begins in the archive, in bytes.
    pub(super) at: u64,
}

impl Member {
    /// Its path as the names of a tree.
    ///
    /// # Errors
    /// `Corrupt` for one that leads out of it.
    pub(super) fn names(&self) -> Result<Vec<Name>> {
        names(&self.path)
    }
}

/// A path of an archive as the names of a tree.
///
/// # Errors
/// `Corrupt` for one that leads out of it.
pub(super) fn names(path: &[u8]) -> Result<Vec<Name>> {
    let refuse = |why: String| {
        corrupt(format!("its name {:?} {why}", path.get(..200).unwrap_or(path).escape_ascii().to_string()))
    };
    if path.starts_with(b"/") {
        return Err(refuse("has a slash in front".into()));
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let name = |part: &[u8]| {
        Name::new(part).map_err(|_| refuse(format!("has a part {:?}, which is none", part.escape_ascii().to_string())))
    };
    parts.map(name).collect()
}

/// What stands in front of a header and counts instead of it.
#[derive(Debug, Clone, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    len: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<u64>,
    is_sparse: bool,
}

/// Reads an archive from its beginning to its end.
pub(super) struct Tar<R> {
    bytes: R,
    at: u64,
    /// Of the data of the member that was told last, and its padding.
    left: u64,
    padding: u64,
    global: Extended,
    /// Whether the block was met that ends an archive.
    is_ended: bool,
}

impl<R: Read> Tar<R> {
    pub(super) fn new(bytes: R) -> Self {
        Self { bytes, at: 0, left: 0, padding: 0, global: Extended::default(), is_ended: false }
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        let skipped = io::copy(&mut (&mut self.bytes).take(len), &mut io::sink()).map_err(|error| damaged(&error))?;
        self.at += skipped;
        if skipped < len { Err(corrupt("it ends within a file")) } else { Ok(()) }
    }

    /// Reads what is behind the last file; whether the block was there that ends an archive. One that was cut between two files
    /// does not have it.
    ///
    /// # Errors
    /// `Corrupt` where it is not what its packing says.
    pub(super) fn end(mut self) -> Result<bool> {
        io::copy(&mut self.bytes, &mut io::sink()).map_err(|error| damaged(&error))?;
        Ok(self.is_ended)
    }

    /// The next file; `None` at the end. What was not read of the one before is skipped.
    ///
    /// # Errors
    /// `Corrupt`, `TooLarge`, `Io`; `InvalidArgument` for a file with holes, which is not read.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        let mut extended = self.global.clone();
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let mut header = [0; BLOCK_LEN];
            let mut have = 0;
            while let Some(room) = header.get_mut(have..).filter(|room| !room.is_empty()) {
                match self.bytes.read(room).map_err(|error| damaged(&error))? {
                    0 if have == 0 => return Ok(None),
                    0 => return Err(corrupt("it ends within a header")),
                    len => have += len,
                }
            }
            self.at += BLOCK_LEN as u64;
            if header == [0; BLOCK_LEN] {
                self.is_ended = true;
                return Ok(None);
            }
            let mut member = parse(&header)?;
            member.at = self.at;
            match member.kind {
                kind @ (b'x' | b'g') => {
                    let text = self.text(member.len)?;
                    extended.read(&text)?;
                    // From the next file on, this one with it.
                    if kind == b'g' {
                        self.global.read(&text)?;
                    }
                }
                b'L' => extended.path = Some(until_nul(self.text(member.len)?)),
                b'K' => extended.target = Some(until_nul(self.text(member.len)?)),
                b'S' => return Err(sparse(&member)),
                // What GNU tar calls the archive.
                b'V' => self.skip(padded(member.len)?)?,
                _ => return self.begin(member, extended).map(Some),
            }
        }
    }

    fn begin(&mut self, mut member: Member, extended: Extended) -> Result<Member> {
        member.len = extended.len.unwrap_or(member.len);
        member.path = extended.path.unwrap_or(member.path);
        member.target = extended.target.unwrap_or(member.target);
        member.about.uid = extended.uid.unwrap_or(member.about.uid);
        member.about.gid = extended.gid.unwrap_or(member.about.gid);
        member.about.mtime = extended.mtime.unwrap_or(member.about.mtime);
        if extended.is_sparse {
            return Err(sparse(&member));
        }
        let is_dir = member.path.ends_with(b"/");
        member.kind = match member.kind {
            0 | b'0' | b'7' if is_dir => b'5',
            0 | b'0' | b'7' => b'0',
            kind @ b'1'..=b'6' => kind,
            kind => return Err(corrupt(format!("it has a file of type {:?}, which is none", char::from(kind)))),
        };
        // Of links some writers tell a length, which is that of what they lead to.
        if member.kind != b'0' {
            member.len = 0;
        }
        self.left = member.len;
        self.padding = padded(member.len)? - member.len;
        Ok(member)
    }

    /// The data of a member that is a text.
    fn text(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > TEXT_LEN_MAX {
            return Err(corrupt(format!("a name or a record has {len} bytes, and {TEXT_LEN_MAX} at most are read")));
        }
        let mut text = Vec::new();
        (&mut self.bytes).take(len).read_to_end(&mut text).map_err(|error| damaged(&error))?;
        if (text.len() as u64) < len {
            return Err(corrupt("it ends within a name"));
        }
        self.at += len;
        self.skip(len.next_multiple_of(BLOCK_LEN as u64) - len)?;
        Ok(text)
    }
}

/// The data of the member that was told last; an archive that ends within it is an error.
impl<R: Read> Read for Tar<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(room.len());
        let Some(room) = room.get_mut(..want).filter(|room| !room.is_empty()) else { return Ok(0) };
        let len = self.bytes.read(room)?;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends within a file"));
        }
        self.left -= len as u64;
        self.at += len as u64;
        Ok(len)
    }
}

/// The length that something has in an archive.
fn padded(len: u64) -> Result<u64> {
    len.checked_next_multiple_of(BLOCK_LEN as u64).ok_or_else(|| corrupt("a file of it is longer than any"))
}

fn sparse(member: &Member) -> Error {
    let why = format!("{} has holes as GNU tar writes them, which are not read", member.path.escape_ascii());
    Error::new(ErrorKind::InvalidArgument, OP).because(why)
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
    text
}

impl Extended {
    /// Reads records `LEN KEY=VALUE\n`.
    fn read(&mut self, mut text: &[u8]) -> Result<()> {
        let bad = || corrupt("it has a record that is none");
        while !text.is_empty() {
            let digits = text.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let len: usize = number(text.get(..digits).unwrap_or_default()).ok_or_else(bad)?;
            let (record, rest) = text.split_at_checked(len).ok_or_else(bad)?;
            text = rest;
            let record = record.get(digits + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
            let at = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (key, value) = record.split_at(at);
            let value = value.get(1..).unwrap_or_default();
            // One that is empty takes back what was said before: the header counts.
            if value.is_empty() {
                self.forget(key);
                continue;
            }
            match key {
                b"path" => self.path = Some(until_nul(value.to_vec())),
                b"linkpath" => self.target = Some(until_nul(value.to_vec())),
                b"size" => self.len = Some(number(value).ok_or_else(bad)?),
                b"uid" => self.uid = Some(number(value).ok_or_else(bad)?),
                b"gid" => self.gid = Some(number(value).ok_or_else(bad)?),
                // Seconds, perhaps with a fraction; before 1970 there is no time in an flist.
                b"mtime" if value.starts_with(b"-") => self.mtime = Some(0),
                b"mtime" => {
                    let seconds = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                    self.mtime = Some(number(seconds).ok_or_else(bad)?);
                }
                key if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Extended {
    fn forget(&mut self, key: &[u8]) {
        match key {
            b"path" => self.path = None,
            b"linkpath" => self.target = None,
            b"size" => self.len = None,
            b"uid" => self.uid = None,
            b"gid" => self.gid = None,
            b"mtime" => self.mtime = None,
            _ => {}
        }
    }
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn parse(header: &[u8; BLOCK_LEN]) -> Result<Member> {
    if !has_checksum(header) {
        return Err(corrupt("a header does not have its checksum: it is no tar, or damaged"));
    }
    let field = |from: usize, len: usize| header.get(from..from + len).unwrap_or_default();
    let told = |from: usize, len: usize, what: &str| {
        octal(field(from, len)).ok_or_else(|| corrupt(format!("a {what} in a header is no number")))
    };
    let id =
        |from: usize, what: &str| u32::try_from(told(from, 8, what)?).map_err(|_| corrupt(format!("a {what} is none")));
    let mut path = until_nul(field(0, 100).to_vec());
    let prefix = until_nul(field(345, 155).to_vec());
    // GNU tar has other things there.
    if field(257, 6) == b"ustar\0" && !prefix.is_empty() {
        path = [&prefix[..], b"/", &path].concat();
    }
    // A number in base 256 with a sign is before 1970.
    let mtime = if header.get(136) == Some(&0xff) { 0 } else { told(136, 12, "time")? };
    let mode = u32::try_from(told(100, 8, "mode")? & 0o7777).unwrap_or(0);
    Ok(Member {
        path,
        kind: header.get(156).copied().unwrap_or(0),
        target: until_nul(field(157, 100).to_vec()),
        about: About { mode, uid: id(108, "user")?, gid: id(116, "group")?, mtime },
        rdev: Rdev { major: id(329, "number of a device")?, minor: id(337, "number of a device")? },
        len: told(124, 12, "length")?,
        at: 0,
    })
}
