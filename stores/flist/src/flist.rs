//! An opened flist, of either format: its nodes, their chunks, and what it says beside them.
//!
//! Calls wait for the disk: who serves others makes them where that is allowed. The file is one that somebody else made:
//! all that is wrong with it is an error that says what and where, and takes bounded memory to find out.

use std::{
    fmt,
    fs::{File, Metadata},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use muxfs::{Error, ErrorKind, FileKind, Name, Result};
use tempfile::NamedTempFile;

use crate::{
    archive::{GZIP_MAGIC, unpack},
    chunk::{CHUNK_LEN_MAX, Chunk, hex},
    database::Database,
    inode::{Entry, Inode, NodeId, corrupt},
    metadata::Route,
    rfs::Rfs,
    sign::Signers,
    values::AllValues,
    zflist::Zflist,
};

/// The longest database of an flist, packed in an archive or not, in bytes: that of some ten million files.
pub const FLIST_LEN_MAX: u64 = 4 << 30;
/// How deep directories may be below each other for who walks through all of them: a path of one letter each is then half
/// as long as any may be.
pub const DEPTH_MAX: usize = 1024;
/// What an SQLite database begins with.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
const OP: &str = "flist.open";

/// Which format an flist has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.flist`, of `zflist`.
    Flist,
    /// `.fl`, of `rfs`.
    Fl,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flist => "flist",
            Self::Fl => "fl",
        })
    }
}

/// Tells one flist from another: the first half of the BLAKE3 of its file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlistId(pub [u8; 16]);

impl fmt::Debug for FlistId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlistId({})", hex(&self.0))
    }
}

#[derive(Debug)]
enum Tables {
    Flist(Zflist),
    Fl(Rfs),
}

/// An opened flist.
#[derive(Debug)]
pub struct Flist {
    id: FlistId,
    tables: Tables,
}

/// A directory, read whole.
#[derive(Debug)]
pub struct Dir {
    /// In the order of the flist.
    pub entries: Vec<Entry>,
    /// The entries sorted by name.
    by_name: Vec<u32>,
}

impl Dir {
    fn new(entries: Vec<Entry>, at: impl fmt::Display) -> Result<Self> {
        let mut by_name: Vec<u32> = (0..u32::try_from(entries.len()).unwrap_or(u32::MAX)).collect();
        let name = |at: &u32| entries.get(usize::try_from(*at).unwrap_or(usize::MAX)).map(|entry| &entry.name);
        by_name.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
        if let Some([a, _]) = by_name.array_windows().find(|[a, b]| name(a) == name(b)) {
            let name = name(a).map_or_else(String::new, ToString::to_string);
            return Err(corrupt(at, format!("the name {name:?} is there twice")));
        }
        Ok(Self { entries, by_name })
    }

    /// The entry of a name, and its place.
    pub fn find(&self, name: &Name) -> Option<(usize, &Entry)> {
        let entry = |at: &u32| {
            let at = usize::try_from(*at).ok()?;
            Some((at, self.entries.get(at)?))
        };
        let found =
            self.by_name.binary_search_by(|at| entry(at).map(|(_, entry)| &entry.name).cmp(&Some(name))).ok()?;
        self.by_name.get(found).and_then(entry)
    }

    /// About how many bytes it takes in memory.
    pub fn weight(&self) -> usize {
        let entry = |entry: &Entry| size_of::<Entry>() + 4 + entry.name.as_bytes().len() + entry.inode.target.len();
        self.entries.iter().map(entry).sum::<usize>() + size_of::<Self>()
    }
}

impl Flist {
    /// Opens the flist at `path`, of the format that it has. One that is packed is unpacked into a file of `scratch`,
    /// which has no name any more when this returns.
    ///
    /// # Errors
    /// `Corrupt` where it is no flist; `TooLarge` where it is longer than [`FLIST_LEN_MAX`], also when it is unpacked, or
    /// then 100 times as long as it is and 64 MiB more; `NoSpace`,
    /// `NotFound`, `Io`. They name `path`.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self> {
        Self::open_within(path, scratch, FLIST_LEN_MAX)
    }

    /// Opens the flist at `path` where its file and its database have `len_max` bytes at most, as whoever does not trust its maker with
    /// the disk.
    ///
    /// # Errors
    /// Those of [`Flist::open`]; `TooLarge`.
    pub fn open_within(path: &Path, scratch: &Path, len_max: u64) -> Result<Self> {
        Self::open_as(path, scratch, len_max, (None, false), &AllValues::default())
    }

    /// Opens the flist at `path` where one of the keys of `signers` signed it, and nothing of any other. What is read is a
    /// copy in `scratch`, which has no name any more when this returns: who changes the file in its place changes nothing.
    ///
    /// # Errors
    /// Those of [`Flist::open`]; `Corrupt` where it is not signed by any of them, or was changed since.
    pub fn open_signed(path: &Path, scratch: &Path, signers: &Signers) -> Result<Self> {
        Self::open_among(path, scratch, Some(signers), &AllValues::default())
    }

    /// The same of one that remembers its directories with others, signed where there are `signers`; a copy is read in any case.
    ///
    /// # Errors
    /// Those of [`Flist::open_signed`]; `Unavailable` where it was written to meanwhile.
    pub(crate) fn open_among(
        path: &Path,
        scratch: &Path,
        signers: Option<&Signers>,
        values: &AllValues,
    ) -> Result<Self> {
        Self::open_as(path, scratch, FLIST_LEN_MAX, (signers, true), values)
    }

    fn open_as(
        path: &Path,
        scratch: &Path,
        len_max: u64,
        (signers, is_copied): (Option<&Signers>, bool),
        values: &AllValues,
    ) -> Result<Self> {
        let named = |error: Error| error.at(path.display());
        let failed = |error: io::Error| {
            let kind = if error.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
            named(Error::new(kind, OP).because(error))
        };
        let refuse = |kind, why: String| Err(named(Error::new(kind, OP).because(why)));
        // A pipe would not open before somebody writes to it.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return refuse(ErrorKind::InvalidArgument, "it is no file".into());
        }
        let found = File::open(path).map_err(failed)?;
        let about = found.metadata().map_err(failed)?;
        if about.len() > len_max {
            return refuse(
                ErrorKind::TooLarge,
                format!("it has {} bytes, and {len_max} at most are read", about.len()),
            );
        }
        let mut magic = Vec::new();
        (&found).take(SQLITE_MAGIC.len() as u64).read_to_end(&mut magic).map_err(failed)?;
        (&found).rewind().map_err(failed)?;
        let copy = match signers {
            Some(signers) => Some(signers.copy(&found, path, scratch, len_max)?),
            // What is packed is unpacked.
            None if is_copied && magic == SQLITE_MAGIC => Some(copied(&found, scratch, len_max).map_err(named)?),
            None => None,
        };
        let mut file = match &copy {
            Some(copy) => copy.reopen(),
            None => found.try_clone(),
        }
        .map_err(failed)?;
        let id = id_of(&mut file).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let name = path.display().to_string();
        let database = if magic == SQLITE_MAGIC {
            Database::open(copy.as_ref().map_or(path, NamedTempFile::path), name)?
        } else if magic.starts_with(&GZIP_MAGIC) {
            let unpacked = unpacked(file, about.len(), scratch, len_max).map_err(named)?;
            Database::open(unpacked.path(), name)?
        } else {
            return refuse(ErrorKind::Corrupt, "it is no flist: neither gzip (.flist) nor SQLite (.fl)".into());
        };
        let tables = match &database.tables(&["entries", "inode", "block", "extra"])?[..] {
            ["inode", "block", "extra"] => Tables::Fl(Rfs { database }),
            ["entries", ..] => Tables::Flist(Zflist::new(database, values.of(id))),
            _ => {
                let why = "it is no flist: it has neither a table entries (.flist) nor inode, block and extra (.fl)";
                return refuse(ErrorKind::Corrupt, why.into());
            }
        };
        // What was read in the meantime may be of two flists.
        if is_copied && stamp(&found.metadata().map_err(failed)?) != stamp(&about) {
            return refuse(ErrorKind::Unavailable, "it was written to while it was read".into());
        }
        Ok(Self { id, tables })
    }

    /// Which one it is.
    pub fn id(&self) -> FlistId {
        self.id
    }

    /// Which format it has.
    pub fn format(&self) -> Format {
        match &self.tables {
            Tables::Flist(_) => Format::Flist,
            Tables::Fl(_) => Format::Fl,
        }
    }

    fn database(&self) -> &Database {
        match &self.tables {
            Tables::Flist(flist) => &flist.database,
            Tables::Fl(fl) => &fl.database,
        }
    }

    /// Names the file in an error.
    fn named<T>(&self, done: Result<T>) -> Result<T> {
        done.map_err(|error| error.at(self.database().name()))
    }

    /// The root directory.
    ///
    /// # Errors
    /// `Corrupt`, as of every call: it names the file and the place in it. `Io`.
    pub fn root(&self) -> Result<Inode> {
        self.named(match &self.tables {
            Tables::Flist(flist) => flist.root(),
            Tables::Fl(fl) => fl.root(),
        })
    }

    /// A node; `None` where there is none of that id.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn inode(&self, id: NodeId) -> Result<Option<Inode>> {
        self.named(match (&self.tables, id) {
            (_, NodeId::Root) => self.root().map(Some),
            (Tables::Flist(flist), NodeId::Entry { dir, index }) => flist.inode(&dir, index),
            (Tables::Fl(fl), NodeId::Row(ino)) => fl.inode(ino),
            (Tables::Flist(_), NodeId::Row(_)) | (Tables::Fl(_), NodeId::Entry { .. }) => Ok(None),
        })
    }

    /// The directory that a node is in; that of the root is the root.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn parent(&self, id: NodeId) -> Result<NodeId> {
        self.named(match (&self.tables, id) {
            (Tables::Flist(flist), NodeId::Entry { dir, .. }) => flist.node_of_dir(&dir),
            (Tables::Fl(fl), NodeId::Row(ino)) => fl.parent(ino),
            _ => Ok(NodeId::Root),
        })
    }

    /// What is in a directory.
    ///
    /// # Errors
    /// `NotDir`; `Corrupt` where one of its entries is bad, or two have a name: then nothing of it is shown. `Io`.
    pub fn dir(&self, inode: &Inode) -> Result<Dir> {
        if inode.kind != FileKind::Dir {
            return Err(Error::new(ErrorKind::NotDir, "flist.dir"));
        }
        let children = match (&self.tables, inode.id, inode.dir_key) {
            (Tables::Flist(flist), _, Some(key)) => flist.children(&key),
            (Tables::Fl(fl), NodeId::Root, _) => fl.children(1),
            (Tables::Fl(fl), NodeId::Row(ino), _) => fl.children(ino),
            _ => Err(Error::new(ErrorKind::Stale, "flist.dir").because("this node is of another flist")),
        };
        let at = match inode.id {
            NodeId::Root => "the root".into(),
            NodeId::Entry { .. } => format!("directory {}", hex(&inode.dir_key.unwrap_or_default())),
            NodeId::Row(ino) => format!("inode {ino}"),
        };
        self.named(children.and_then(|children| Dir::new(children, at)))
    }

    /// The chunks of a file from the `first` on, `count` at most, and how long each of the file's is but the last, in bytes:
    /// 1 to [`CHUNK_LEN_MAX`].
    ///
    /// # Errors
    /// `Corrupt`, `Io`; `TooLarge` where its chunks are longer than any that is read.
    pub fn chunks(&self, id: NodeId, first: u64, count: usize) -> Result<(u64, Vec<Chunk>)> {
        let (len, chunks) = self.named(match (&self.tables, id) {
            (Tables::Flist(flist), NodeId::Entry { dir, index }) => flist.chunks(&dir, index, first, count),
            (Tables::Fl(fl), NodeId::Row(ino)) => fl.chunks(ino, first, count),
            _ => Err(Error::new(ErrorKind::InvalidArgument, "flist.chunks").because("it is no file")),
        })?;
        if len > CHUNK_LEN_MAX as u64 {
            let why = format!("its chunks have {len} bytes, and {CHUNK_LEN_MAX} at most are read");
            return self.named(Err(Error::new(ErrorKind::TooLarge, "flist.chunks").because(why)));
        }
        Ok((len, chunks))
    }

    /// What it says of itself, in its order: `entrypoint`, `readme`, `author`, …
    ///
    /// # Errors
    /// `Corrupt`, `Io`; `TooLarge` where it is more than anybody reads.
    pub fn metadata(&self) -> Result<Vec<(String, String)>> {
        match &self.tables {
            Tables::Flist(flist) => flist.metadata(),
            Tables::Fl(fl) => fl.metadata(),
        }
    }

    /// Where it says that its chunks are, in the order in which they are to be asked for.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn routes(&self) -> Result<Vec<Route>> {
        match &self.tables {
            Tables::Flist(flist) => {
                let backend = flist.backend()?;
                Ok(backend.into_iter().map(|url| Route { first: 0, last: 255, url }).collect())
            }
            Tables::Fl(fl) => self.named(fl.routes()),
        }
    }
}

pub(crate) fn id_of(file: &mut File) -> io::Result<FlistId> {
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; 64 << 10]);
    loop {
        let len = file.read(&mut piece)?;
        let Some(read) = piece.get(..len).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
    }
    Ok(FlistId(*hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; 16])))
}

/// What tells a file from what it was, and from the one that replaced it: device, inode, length, and when it changed.
pub(crate) type Stamp = (u64, u64, u64, i64, i64);

pub(crate) fn stamp(about: &Metadata) -> Stamp {
    (about.dev(), about.ino(), about.len(), about.ctime(), about.ctime_nsec())
}

/// Copies into a file of a scratch directory, which takes no room where the file system can share it.
fn copied(mut from: &File, scratch: &Path, len_max: u64) -> Result<NamedTempFile> {
    let failed = |error: io::Error| scratch_failed(scratch, &error);
    let mut file = tempfile::Builder::new().prefix("flist-").tempfile_in(scratch).map_err(failed)?;
    io::copy(&mut from.take(len_max), file.as_file_mut()).map_err(failed)?;
    from.rewind().map_err(failed)?;
    Ok(file)
}

/// Unpacks into a file of a scratch directory that others may write to: it has a name that nobody foresees, is its owner's
/// alone, and goes when this does; who has opened it keeps what is in it.
fn unpacked(packed: File, packed_len: u64, scratch: &Path, len_max: u64) -> Result<NamedTempFile> {
    let failed = |error: io::Error| scratch_failed(scratch, &error);
    let mut file = tempfile::Builder::new().prefix("flist-").tempfile_in(scratch).map_err(failed)?;
    unpack(packed, packed_len, &mut file, len_max).map_err(|error| match error.kind() {
        ErrorKind::NoSpace => no_room(scratch),
        _ => error,
    })?;
    file.flush().map_err(failed)?;
    Ok(file)
}

/// An error of writing to a directory for what is unpacked or copied.
pub(crate) fn scratch_failed(scratch: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_room(scratch),
        _ => Error::new(ErrorKind::Io, OP).because(format!("{}: {error}", scratch.display())),
    }
}

fn no_room(scratch: &Path) -> Error {
    let hint = if scratch == std::env::temp_dir() { ": TMPDIR names another directory" } else { "" };
    let why = format!("no room is left in {}, where it is unpacked{hint}", scratch.display());
    Error::new(ErrorKind::NoSpace, OP).because(why)
}
